"""Lesson 2: torch.compile: graphs counted, calls timed against eager and against this machine's floor, its panel and its exercises.

Counting needs no compiler and runs in this process. What Inductor compiles runs in child processes with a cache folder of their own, which is
removed; where no C++ compiler works, a recording stands in for them.
"""

import contextlib
import inspect
import io
import logging
import math
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from mllandscape import BadInput, charts, machine, record, sandbox, units
from mllandscape.course import exercise
from mllandscape.memory.measure import card
from mllandscape.panel import Panel

try:
    import resource
except ImportError:  # Windows
    resource = None

Shape = tuple[int, int]
"""A batch: (sequences, length)."""

SOURCE: tuple[Shape, ...] = ((2, 50), (8, 120), (4, 75))
"""The three shapes of the usual answer."""

SWEEP: tuple[Shape, ...] = tuple((2, length) for length in range(64, 256, 16))
"""Twelve lengths. The first equals the width of the block that is counted."""

ONES: tuple[Shape, ...] = (*SOURCE, (1, 50), (1, 60), (1, 1), (4, 1))
"""The three shapes, then a batch of one and a length of one."""

# -- workloads: what is compiled ------------------------------------------------------------------------------------------


def _chain(width: int, device: str, literal: float) -> Callable:
    def chain(x):
        for _ in range(10):
            x = (x * 1.1 + literal).clamp(-3, 3)
        return x

    return chain


def _softmax(width: int, device: str, literal: float) -> Callable:
    def softmax(x):
        e = (x - x.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    return softmax


def _gelu(width: int, device: str, literal: float) -> Callable:
    def gelu(x):
        return 0.5 * x * (1 + (0.7978845608 * (x + 0.044715 * x * x * x)).tanh())

    return gelu


def _rms_swiglu(width: int, device: str, literal: float) -> Callable:
    import torch
    from torch.nn.functional import silu

    gain = torch.nn.Parameter(torch.ones(width, device=device))

    def rms_swiglu(x, y):
        return silu(x * (x.square().mean(-1, keepdim=True) + literal).rsqrt() * gain) * y

    return rms_swiglu


def _mlp(width: int, device: str, literal: float) -> Callable:
    from torch import nn

    return nn.Sequential(nn.Linear(width, 4 * width), nn.LeakyReLU(literal), nn.Linear(4 * width, width)).to(device)


def _block(width: int, device: str, literal: float) -> Callable:
    from torch import nn
    from torch.nn.functional import gelu, scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = self.qkv(self.before(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
            x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, width))
            return x + self.down(gelu(self.up(self.between(x))))

    return Block().to(device)


@dataclass(frozen=True)
class Workload:
    """``build(width, device, literal)`` makes a function of ``arguments`` tensors (batch, length, width). ``literal`` is a constant of its code:
    another literal is another kernel, which no cache knows."""

    build: Callable[[int, str, float], Callable]
    width: int
    arguments: int = 1
    training: bool = False


WORKLOADS = {
    "pointwise chain": Workload(_chain, 1024),
    "softmax by hand": Workload(_softmax, 1024),
    "GELU by hand": Workload(_gelu, 1024),
    "RMSNorm + SwiGLU": Workload(_rms_swiglu, 1024, arguments=2),
    "MLP": Workload(_mlp, 256),
    "block": Workload(_block, 256),
    "block, training": Workload(_block, 256, training=True),
}
"""Pointwise work first, matrix products last. A training call is forward and backward, without an optimizer step."""


def _workload(name: str) -> Workload:
    if name not in WORKLOADS:
        raise BadInput(f"no workload {name!r}: {', '.join(WORKLOADS)} are possible.")
    return WORKLOADS[name]


def _inputs(workload: Workload, shape: Shape, width: int, device: str) -> list:
    import torch

    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(*shape, width, generator=generator, device=device) for _ in range(workload.arguments)]


def _caller(workload: Workload, function: Callable) -> Callable[[Callable, list], Any]:
    """How the eager and the compiled function are called: forward alone without gradients, or forward and backward."""
    import torch

    parameters = list(function.parameters()) if workload.training else []

    def forward(f, inputs):
        with torch.no_grad():
            return f(*inputs)

    def train(f, inputs):
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(f(*inputs).square().mean(), parameters)])

    return train if workload.training else forward


# -- experiment 1: how many graphs ------------------------------------------------------------------------------------------

BUCKETS = (128, 256)


def to_bucket(shape: Shape) -> Shape:
    """The shape with its length padded to the next of the BUCKETS."""
    return shape[0], next((bucket for bucket in BUCKETS if shape[1] <= bucket), shape[1])


def to_bucket_and_batch(shape: Shape) -> Shape:
    """Length padded as above and the batch to 8."""
    return max(8, shape[0]), to_bucket(shape)[1]


@dataclass(frozen=True)
class Mode:
    """Arguments of torch.compile, what is said of the sizes before a call, and how inputs are padded."""

    options: dict = field(default_factory=dict)
    mark: str = ""
    pad: Callable[[Shape], Shape] = lambda shape: shape


MODES = {
    "default": Mode(),
    "dynamic=True": Mode({"dynamic": True}),
    "dynamic=False": Mode({"dynamic": False}),
    "mark_dynamic": Mode(mark="dynamic"),
    "mark_unbacked": Mode(mark="unbacked"),
    "padded": Mode(pad=to_bucket),
    "padded, dynamic=False": Mode({"dynamic": False}, pad=to_bucket),
    "reduce-overhead": Mode({"mode": "reduce-overhead"}),
    "max-autotune": Mode({"mode": "max-autotune"}),
}
"""The last two are for a GPU: CUDA graphs, and kernels chosen by trying them."""


def _mode(name: str) -> Mode:
    if name not in MODES:
        raise BadInput(f"no mode {name!r}: {', '.join(MODES)} are possible.")
    return MODES[name]


def _mark(mode: Mode, tensors: Sequence) -> None:
    """Tell torch that batch and length vary. A size of 1 cannot be marked as dynamic, only as unbacked."""
    from mllandscape import torch_private as private

    for tensor in tensors:
        for dimension in (0, 1):
            if mode.mark == "unbacked":
                private.mark_unbacked(tensor, dimension)
            elif mode.mark == "dynamic" and tensor.shape[dimension] > 1:
                private.mark_dynamic(tensor, dimension)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Call:
    """One call: its shape, the graphs compiled so far, the guard whose failure began a compilation in it, and whether it ran without any graph."""

    shape: Shape
    graphs: int
    reason: str = ""
    eager: bool = False


@dataclass(frozen=True)
class Counted:
    """Every call of a stream of shapes under one mode. ``padding`` is the share of the computed tokens that was padding."""

    mode: str
    calls: tuple[Call, ...]
    padding: float = 0.0

    @property
    def graphs(self) -> list[int]:
        return [call.graphs for call in self.calls]

    @property
    def eager_calls(self) -> int:
        return sum(call.eager for call in self.calls)

    @property
    def reasons(self) -> list[str]:
        return [call.reason for call in self.calls if call.reason]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{call.shape[0]}×{call.shape[1]}" for call in self.calls)
        after = ", ".join(f"{call.graphs}{' (eager)' if call.eager else ''}" for call in self.calls)
        more = f" {self.padding:.0%} of the tokens are padding." if self.padding else ""
        because = [f"  because {reason}" for reason in self.reasons]
        return "\n".join([f"{self.mode}: {_plural(self.graphs[-1], 'graph')}. After each of {shapes}: {after}.{more}", *because])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs, warns of and prints about a recompile limit, a graph break or a failed trace: here these are results. On one thread."""
    import torch

    before, threads = logging.root.manager.disable, torch.get_num_threads()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)  # small tensors gain nothing from more, and wait for each other where the machine is busy
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        torch.set_num_threads(threads)


def _reason(told: str) -> str:
    """A guard's failure in one line, without the number of the graph and the place in torch's sources."""
    line = re.sub(r"^\d+/\d+: ", "", re.sub(r"\s+#.*", "", told.split("\n")[0])).strip()
    return f"{line} (sizes 0 and 1 are specialised)" if "0/1 specialization" in told else line


def _compiled(function: Callable, **options: Any) -> tuple[Callable, list[int]]:
    """The function compiled by dynamo alone, which needs no C++ compiler, and a list that holds how often one of its graphs ran."""
    import torch

    ran = [0]

    def backend(graph, _):
        def run(*arguments):
            ran[0] += 1
            return graph(*arguments)

        return run

    return torch.compile(function, backend=backend, **options), ran


def count_graphs(
    workload: str = "block", shapes: Sequence[Shape] = SOURCE, mode: str = "default", *, pad: Callable[[Shape], Shape] | None = None, width: int = 64,
    limit: int = 8,
) -> Counted:  # fmt: skip
    """Call a freshly compiled workload with each (batch, length) in turn, and read torch's own counter and metrics after every call.

    Dynamo traces, guards and hands graphs over as always, to a backend that runs them as they are: the counts are the same with Inductor, and no
    compiler is needed. ``limit`` is torch's recompile_limit. Drops every other compiled graph of this process.
    """
    from mllandscape import torch_private as private

    chosen, how = _workload(workload), _mode(mode)
    pad = pad or how.pad
    if not shapes or any(min(shape) < 1 for shape in shapes):
        raise BadInput(f"shapes={shapes!r}: pairs of a batch and a length, each 1 or more, are needed.")
    function = chosen.build(width, "cpu", 0.1)
    call, calls = _caller(chosen, function), []
    private.forget_compilations()
    compiled, ran = _compiled(function, **how.options)
    with _quiet(), private.recompile_limit(limit):
        for shape in shapes:
            begun, before = len(private.compilations()), ran[0]
            inputs = _inputs(chosen, pad(tuple(shape)), width, "cpu")
            _mark(how, inputs)
            call(compiled, inputs)
            reasons = [_reason(told) for told in private.compilations()[begun:]]
            calls.append(Call(pad(tuple(shape)), private.graph_count(), "; ".join(filter(None, reasons)), ran[0] == before))
    tokens, computed = sum(math.prod(shape) for shape in shapes), sum(math.prod(call.shape) for call in calls)
    private.forget_compilations()
    return Counted(mode, tuple(calls), 1 - tokens / computed)


def sweep(shapes: Sequence[Shape] = SWEEP, modes: Sequence[str] = ("default", "dynamic=True", "dynamic=False", "mark_dynamic", "padded")) -> dict[str, Counted]:
    """``count_graphs`` of the block under several modes."""
    return {mode: count_graphs("block", shapes, mode) for mode in modes}


# -- experiment 3: where a graph ends, and what it depends on -------------------------------------------------------------------

factor = 2
"""A Python global that a compiled function reads."""


@dataclass(frozen=True)
class Step:
    """What was done with a compiled function, the graphs that torch had then, why it compiled again, and whether the answer was eager's."""

    what: str
    graphs: int
    reason: str = ""
    right: bool = True


def guards() -> list[Step]:
    """A global that changes, once and often, then train, eval and no_grad: what torch does at each, by its own counter."""
    import torch

    from mllandscape import torch_private as private

    def scaled(x):
        return x * factor

    model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)), torch.ones(2, 4)
    steps: list[Step] = []

    def step(what: str, act: Callable[[], bool]) -> None:
        begun = len(private.compilations())
        right = act()
        reasons = list(filter(None, map(_reason, private.compilations()[begun:])))
        steps.append(Step(what, private.graph_count(), reasons[0] + (", …" if len(reasons) > 1 else "") if reasons else "", right))

    def with_factor(value: int) -> Callable[[], bool]:
        def act() -> bool:
            globals()["factor"] = value
            return bool(torch.equal(compiled(x), x * value))

        return act

    def in_state(train: bool, gradients: bool) -> Callable[[], bool]:
        def act() -> bool:
            model.train(train)
            with torch.set_grad_enabled(gradients):
                return compiled(x).requires_grad == gradients

        return act

    before = factor
    try:
        with _quiet():
            private.forget_compilations()
            compiled, _ = _compiled(scaled)
            step("torch.compile(f)", lambda: True)
            for value in (2, 3, 2):
                step(f"call, the global is {value}", with_factor(value))
            for what, values in (("six integers in the global", (1, 2, 3, 4, 5, 6)), ("six floats in the global", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))):
                private.forget_compilations()
                compiled, _ = _compiled(scaled)
                step(what, lambda values=values: all([with_factor(value)() for value in values]))
            private.forget_compilations()
            compiled, _ = _compiled(lambda x: model(x))
            for what, train, gradients in (("call in train()", True, True), ("call in eval()", False, True), ("call in eval(), no_grad", False, False)):
                step(what, in_state(train, gradients))
            step("call in train() again", in_state(True, True))
    finally:
        globals()["factor"] = before
        private.forget_compilations()
    return steps


@dataclass(frozen=True)
class Breaks:
    """``graphs`` of one call; ``breaks`` are (line of the function, source, torch's reason); ``fullgraph`` is what fullgraph=True says, "" if it compiles."""

    graphs: int
    breaks: tuple[tuple[int, str, str], ...]
    fullgraph: str

    def __repr__(self) -> str:
        where = [f"  line {line}: {source}\n    {reason}" for line, source, reason in self.breaks]
        return "\n".join(
            [f"{_plural(self.graphs, 'graph')}, {_plural(len(self.breaks), 'break')}", *where, f"  fullgraph=True: {self.fullgraph or 'compiles as one graph'}"]
        )


def graph_breaks(function: Callable, *arguments: Any) -> Breaks:
    """Where a function of tensors falls apart and why. Runs it, with a vector of three ones where no arguments are given."""
    import torch

    from mllandscape import torch_private as private

    arguments = arguments or (torch.ones(3),)
    first = inspect.unwrap(function).__code__.co_firstlineno
    with _quiet():
        private.forget_compilations()
        graphs, found = private.graph_breaks(function, *arguments)
        private.forget_compilations()
        said = ""
        try:
            torch.compile(function, backend="eager", fullgraph=True)(*arguments)
        except RuntimeError as refused:
            said = str(refused).split("\n")[0]
        private.forget_compilations()
    named = {"generic_jump TensorVariable()": "Data-dependent branching"}
    return Breaks(graphs, tuple((line - first + 1, source, named.get(why, why)) for line, source, why in found), said)


@cache
def samples() -> dict[str, tuple[Callable, Callable | None]]:
    """Functions of one vector that do what torch.compile is said to dislike, each with a mended form where it needs one."""
    import numpy
    import torch

    opaque = torch.compiler.disable(lambda x: torch.flip(x, (0,)))

    @torch.library.custom_op("mllandscape::turned", mutates_args=())
    def turned(x: torch.Tensor) -> torch.Tensor:
        return torch.flip(x, (0,))

    turned.register_fake(torch.empty_like)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(context, gradient):
            return 2 * gradient * context.saved_tensors[0]

    def prints(x):
        y = x * 2
        print("sum", y.sum())
        return y + 1

    def branches(x):
        if x.sum() > 0:
            return x * 2
        return x - 1

    def branches_mended(x):
        return torch.where(x.sum() > 0, x * 2, x - 1)

    def reads_item(x):
        total = x.sum().item()
        return x * total

    def reads_item_mended(x):
        total = x.sum()
        return x * total

    def calls_opaque(x):
        y = opaque(x * 2)
        return y + 1

    def calls_opaque_mended(x):
        y = turned(x * 2)
        return y + 1

    def masks(x):
        return x[x > 0] * 2

    def masks_mended(x):
        return torch.where(x > 0, x * 2, 0)

    def uses_numpy(x):
        return torch.from_numpy(numpy.sin(x.numpy())) * 2

    def own_gradient(x):
        return Square.apply(x) + 1

    return {
        "print": (prints, lambda x: x * 2 + 1),
        "if on a tensor": (branches, branches_mended),
        ".item()": (reads_item, reads_item_mended),
        "an opaque call": (calls_opaque, calls_opaque_mended),
        "a mask": (masks, masks_mended),
        "numpy": (uses_numpy, None),
        "autograd.Function": (own_gradient, None),
    }


def broken(x):
    """Three graph breaks, and the right answer."""
    largest = x.abs().max().item()
    y = x / (largest + 1.0)
    print("mean", y.mean())
    if y.mean() > 0:
        return y * 2
    return y - 1


# -- experiment 2: time, in a child ------------------------------------------------------------------------------------------

TIMED: tuple[tuple[str, tuple[Shape, ...], tuple[str, ...]], ...] = (
    ("pointwise chain", ((8, 128), (8, 256)), ("default", "dynamic=False")),
    ("RMSNorm + SwiGLU", ((8, 128), (8, 192), (8, 256)), ("default", "dynamic=False")),
    ("MLP", ((8, 128), (8, 256)), ("default",)),
    ("softmax by hand", ((8, 256),), ("default",)),
    ("GELU by hand", ((8, 256),), ("default",)),
    ("block", ((4, 128),), ("default",)),
    ("block, training", ((4, 128),), ("default",)),
)
"""What the child times: workload, shapes, modes. The first three change their length, and drive the panel."""

IN_PANEL = tuple(name for name, shapes, _ in TIMED if len(shapes) > 1)

ROUNDS = 9
"""How often each shape comes."""

SET = {
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_VEC_ISA_OK": "1",
    "MALLOC_MMAP_THRESHOLD_": str(units.GIB),
    "MALLOC_TRIM_THRESHOLD_": str(2 * units.GIB),
    "MALLOC_TOP_PAD_": str(256 * units.MIB),
}
"""The children's environment: one thread; no test programs for vector instructions; glibc keeps freed memory, as a GPU's caching allocator does."""


class Clock:
    """Seconds of work of this process. On a CPU its processor time, and that of the compilers it waited for.

    On a GPU the time between two events: the first is passed at once, since nothing else is in the stream, the second after the last kernel. What the host
    does in between, a compilation say, is in it; what the GPU waits for the host to launch, too.
    """

    def __init__(self, device: str = "cpu"):
        self.cuda = device != "cpu"

    def of(self, work: Callable[[], Any]) -> float:
        if self.cuda:
            from mllandscape.memory.cuda_step import stream_seconds

            return stream_seconds(work)
        begun, children = time.process_time(), _children()
        work()
        return time.process_time() - begun + _children() - children


def _children() -> float:
    if not resource:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interleave(first: Callable[[], Any], second: Callable[[], Any], calls: int, device: str = "cpu") -> tuple[list[float], list[float]]:
    """Seconds of each call of two functions, called in turn, each first every other time: what disturbs the machine disturbs both."""
    clock, times = Clock(device), ([], [])
    for number in range(calls):
        for place in ((0, 1), (1, 0))[number % 2]:
            times[place].append(clock.of((first, second)[place]))
    return times


def time_modes(
    workload: str, shapes: Sequence[Shape], modes: Sequence[str] = ("default",), device: str = "cpu", literal: float = 0.1, width: int | None = None
) -> list[dict]:
    """Every call of a stream of shapes in seconds, eager and compiled in turn, under each mode. No mode finds another's kernels in a cache.

    Each mode gives {"workload", "mode", "shapes", "eager": [...], "compiled": [...], "graphs": [after each call], "cache": hits and misses,
    "error": the largest difference}. A compiled call that compiles includes it. Every mode's code has a literal of its own. ``width`` is the
    workload's own unless it is given.
    """
    import torch

    from mllandscape import torch_private as private

    chosen, timed, clock = _workload(workload), [], Clock(device)
    width = width or chosen.width
    for number, name in enumerate(modes):
        torch.manual_seed(0)
        function = chosen.build(width, device, literal + number / 1000)
        call, how = _caller(chosen, function), _mode(name)
        private.forget_compilations()
        compiled = torch.compile(function, **how.options)
        ready = {shape: _inputs(chosen, how.pad(tuple(shape)), width, device) for shape in dict.fromkeys(map(tuple, shapes))}
        took = {"eager": [], "compiled": [], "graphs": []}
        error = 0.0
        for place, shape in enumerate(map(tuple, shapes)):
            inputs = ready[shape]
            _mark(how, inputs)
            pair = (("eager", function), ("compiled", compiled))
            for which, f in pair if place % 2 else reversed(pair):
                took[which].append(clock.of(partial(call, f, inputs)))
            took["graphs"].append(private.graph_count())
        cached = private.cache_counts()
        for inputs in ready.values():
            error = max(error, float((call(function, inputs) - call(compiled, inputs)).abs().max()))
        timed.append({"workload": workload, "mode": name, "shapes": [list(shape) for shape in shapes], "error": error, "cache": cached, **took})
    return timed


def work_of(workload: str, shape: Shape, device: str = "cpu", width: int | None = None) -> dict[str, float]:
    """What a call must do: FLOPs by torch's counter; bytes if each operation reads and writes memory, and if inputs, weights and results move once."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mllandscape import torch_private as private

    chosen = _workload(workload)
    width = width or chosen.width
    function = chosen.build(width, device, 0.1)
    call, inputs, moved = _caller(chosen, function), _inputs(chosen, shape, width, device), [0]

    class Bytes(private.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            read, written = ([t for t in private.tree_leaves(tree) if isinstance(t, torch.Tensor)] for tree in ((args, kwargs), result))
            if not {private.storage_key(t) for t in read} & {private.storage_key(t) for t in written}:  # a view moves nothing
                moved[0] += sum(t.numel() * t.element_size() for t in (*read, *written))
            return result

    with FlopCounterMode(display=False) as flops, Bytes():
        result = call(function, inputs)
    cells = inspect.getclosurevars(function).nonlocals.values() if inspect.isfunction(function) else function.parameters()
    weights = [cell for cell in cells if isinstance(cell, torch.nn.Parameter)]
    once = sum(t.numel() * t.element_size() for t in (*inputs, *weights, result))
    return {"flops": flops.get_total_flops(), "bytes by operation": moved[0], "bytes once": once}


def rates(device: str = "cpu", size: int = 8 * units.MIB, side: int = 768) -> dict[str, float]:
    """Bytes a second of a copy between two tensors of ``size`` bytes, which is what the pointwise workloads move, and FLOP/s of an fp32 matrix product."""
    import torch

    source, square = torch.randn(size // 4, device=device), torch.randn(side, side, device=device)
    target, product = torch.empty_like(source), torch.empty_like(square)
    copies, products = interleave(lambda: target.copy_(source), lambda: torch.mm(square, square, out=product), 15, device)
    return {"bytes a second": 2 * size / min(copies), "FLOP/s": 2 * side**3 / min(products)}


def start_up(device: str = "cpu") -> dict[str, float]:
    """Seconds until a trivial function is compiled: Inductor is imported, its C++ header precompiled (or found in the cache), one kernel built."""
    import torch

    compiled = torch.compile(lambda x: x.relu() + 1)
    with torch.no_grad():
        x = torch.ones(64, device=device)
        return {"seconds": Clock(device).of(lambda: compiled(x))}


def kernel() -> str:
    """The C++ that Inductor generates for a short chain with a constant built in it; for one lane, so that it can be read and is alike on every CPU."""
    import torch

    from mllandscape import torch_private as private

    def scaled(x):
        gain = torch.full((), 3.0) * 2 + 1
        return (x * gain + 0.1).clamp(-3, 3)

    with torch.no_grad():
        code = private.generated_code(torch.compile(scaled, options={"cpp.simdlen": 1}), torch.randn(4096))
    found = re.search(r"^(cpp_fused\w+) = .*?(\s*for\(.*?\n)\s*inductor_cpu_integer_div_error_flag", code, re.DOTALL | re.MULTILINE)
    body = re.sub(r"static_cast<(?:int64_t|float)>\(([-\w.]+?)L?\)", r"\1", found[2])
    loop, *lines = [line.strip() for line in body.split("\n") if line.strip() not in ("", "{", "}")]
    return "\n".join([found[1], loop, *(f"    {line}" for line in lines)])


def folding() -> dict[str, dict[str, bool]]:
    """Whether a weight's own arithmetic (weight × 2) is a kernel in the code that runs at every call, without and with freezing."""
    import torch

    from mllandscape import torch_private as private

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(64, 64)

        def forward(self, x):
            return torch.nn.functional.linear(x, self.linear.weight * 2, self.linear.bias)

    model, found = Scaled().eval(), {}
    for name, setting in (("default", contextlib.nullcontext), ("freezing", private.frozen)):
        private.forget_compilations()
        with torch.no_grad(), setting():
            code = private.generated_code(torch.compile(model), torch.randn(8, 64))
        found[name] = {"multiplies at every call": "cpp_fused_mul" in code, "holds weights as constants": "_frozen_param" in code}
    return found


def debugging() -> dict[str, dict]:
    """The same bug, an index out of range, eager and compiled; and how many lines of a function a debugger (sys.settrace) sees run."""
    import torch

    table = torch.randn(10, 4)

    def lookup(ids):
        doubled = ids * 2
        rows = torch.nn.functional.embedding(doubled, table)
        return (rows + 1).sum()

    def steps(x):
        y = x + 1
        z = y * 2
        return z.sum()

    def lines(call: Callable) -> int:
        seen = []

        def trace(frame, event, _):
            if frame.f_code is not steps.__code__:
                return None
            seen.extend([frame.f_lineno] if event == "line" else [])
            return trace

        sys.settrace(trace)
        try:
            call(torch.ones(3))
        finally:
            sys.settrace(None)
        return len(seen)

    def bug(call: Callable) -> dict:
        call(torch.tensor([1, 2]))
        try:
            call(torch.tensor([1, 7]))
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "lookup"]
            message = re.sub(r"\S*[/\\]\S+?\.cpp:\d+", "a generated .cpp", str(error).split("\n")[0])
            return {"type": type(error).__name__, "message": message, "line": frames[-1].lineno - lookup.__code__.co_firstlineno}
        return {}

    compiled = torch.compile(steps)
    compiled(torch.ones(3))
    seen = {"eager": lines(steps), "compiled": lines(compiled)}
    with torch.compiler.set_stance("force_eager"):
        seen["compiled, force_eager"] = lines(compiled)
    return {"lines": seen, "eager": bug(lookup), "compiled": bug(torch.compile(lookup, options={"cpp.simdlen": 1}))}


HALFWAY = "the panel's workloads are compiled"


def measure_here(again: bool = False) -> dict:
    """The child's part. ``again``: only start and compile what the panel shows, with whatever the cache folder holds."""
    import torch

    torch.set_num_threads(1)
    measured: dict[str, Any] = {"start": start_up()["seconds"], "timed": []}
    for name, shapes, modes in TIMED:
        if again and name not in IN_PANEL:
            continue
        measured["timed"] += time_modes(name, shapes * (1 if again else ROUNDS), modes)
        if name == IN_PANEL[-1] and not again:
            sandbox.say(HALFWAY)
    measured["compilers"] = _children()
    if again:
        return measured
    measured["rates"] = rates()
    measured["work"] = {name: work_of(name, shapes[-1]) for name, shapes, _ in TIMED}
    return measured | {"kernel": kernel(), "folding": folding(), "debugging": debugging()}


FOLDERS = "mllandscape-inductor-"
RECORDING = "torch_compile_timings"
INSTALL = "a C++ compiler (Debian and Ubuntu: apt install g++; macOS: xcode-select --install; Windows: the Visual Studio Build Tools)"


@dataclass(frozen=True)
class Measured:
    """What the children found: ``cold`` with an empty cache folder, ``warm`` in a second process with the folder that the first had filled.

    ``live`` is False where a recording stands in, and ``line`` says which, why, and what to install.
    """

    cold: dict
    warm: dict
    live: bool
    line: str

    def calls(self, workload: str, mode: str = "default", warm: bool = False) -> "Timed":
        """The calls of a workload under a mode."""
        timed = (self.warm if warm else self.cold)["timed"]
        return Timed(next(entry for entry in timed if (entry["workload"], entry["mode"]) == (workload, mode)))

    def has(self, workload: str, mode: str) -> bool:
        return any((entry["workload"], entry["mode"]) == (workload, mode) for entry in self.cold["timed"])


def measure(env: Mapping[str, str] | None = None) -> Measured:
    """Run the experiments that compile in a child with an empty cache folder, and, once the panel's workloads are in it, in a second child."""
    warmed: list[Future] = []
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):  # of a kernel that was killed: the children of none live as long as an hour
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=FOLDERS, ignore_cleanup_errors=True) as folder:
        settings = SET | {"TORCHINDUCTOR_CACHE_DIR": folder} | dict(env or {})

        def child(**arguments: Any) -> sandbox.Outcome:
            return sandbox.call("mllandscape.lessons.torch_compile:measure_here", seconds=300, env=settings, **arguments)

        def heard(line: str) -> None:
            if line == HALFWAY:
                warmed.append(sandbox.in_background(lambda: child(again=True)))

        outcome = child(progress=heard)
        outcomes = [outcome, *(future.result() for future in warmed)]
    failed = next((one for one in outcomes if not one.ok), None)
    if failed is None and len(outcomes) == 2:
        return Measured(outcomes[0].value, outcomes[1].value, True, f"{record.here()}, one thread")
    return recorded(failed.message.partition("\n")[0] or f"{failed.ending} {failed.error_type}" if failed else "the second process was not started")


def recorded(why: str) -> Measured:
    """The recording instead of a run, with one line on why. Raises BadInput where there is none."""
    kept = record.load(RECORDING)
    why = f"not run here, which needs {INSTALL}" if "InvalidCxxCompiler" in why else f"not run here ({why})"
    if kept is None:
        raise BadInput(f"torch.compile's timings are {why}, and there is no recording of them.")
    return Measured(kept.data["cold"], kept.data["warm"], False, f"{kept}; {why}")


def start() -> Future:
    """``measure`` on another core: ``result()`` waits for it. The children end with this process, or when they are done."""
    return sandbox.in_background(measure)


def record_timings() -> None:
    """Keep one run for machines without a C++ compiler: ``python -m mllandscape.lessons.torch_compile timings``."""
    measured = measure()
    if not measured.live:
        raise BadInput(f"nothing to record: {measured.line}.")
    record.save(RECORDING, {"cold": measured.cold, "warm": measured.warm}, record.here("python -m mllandscape.lessons.torch_compile timings"))


# The same on a GPU


@dataclass(frozen=True)
class Timing:
    """What is timed on a GPU: a workload at a width, a stream of shapes (the last one is the one that is compared), and modes."""

    workload: str
    width: int
    shapes: tuple[Shape, ...]
    modes: tuple[str, ...]
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.workload


GPU_RECORDING, TUNED_RECORDING = "torch_compile_gpu", "torch_compile_gpu_autotune"
GPU_ROUNDS = 12

ON_GPU = (
    Timing("pointwise chain", 1024, ((64, 512), (64, 1024)), ("default", "dynamic=False", "reduce-overhead")),
    Timing("RMSNorm + SwiGLU", 1024, ((64, 512), (64, 768), (64, 1024)), ("default", "dynamic=False", "reduce-overhead")),
    Timing("MLP", 2048, ((8, 512), (8, 1024)), ("default", "reduce-overhead")),
    Timing("softmax by hand", 1024, ((64, 1024),), ("default", "reduce-overhead")),
    Timing("GELU by hand", 1024, ((64, 1024),), ("default", "reduce-overhead")),
    Timing("block", 512, ((16, 1024),), ("default", "reduce-overhead")),
    Timing("block, training", 512, ((16, 1024),), ("default", "reduce-overhead")),
    Timing("block", 256, ((1, 16),), ("default", "reduce-overhead"), label="block of 16 tokens"),
)
"""Tensors of 256 MiB where bytes count, so that no cache of a GPU holds them; 16 tokens where launching the kernels takes longer than the kernels."""

AUTOTUNED = tuple(replace(one, shapes=one.shapes[-1:], modes=("max-autotune",)) for one in ON_GPU if one.name in ("pointwise chain", "softmax by hand", "MLP"))

WARM_CALLS = 4
"""Calls of a graph before its time counts: CUDA graphs are run to warm up, then recorded, for a static and for a dynamic graph."""


def gpu_child(timings: list[dict], again: bool) -> dict:
    """The child's part on a GPU, with whatever its cache folder holds. ``again``: only start and compile."""
    import torch

    from mllandscape.memory.cuda_step import Gpu

    Gpu()
    measured: dict[str, Any] = {"start": start_up("cuda")["seconds"], "timed": []}
    for number, given in enumerate(timings, 1):
        one = record.restore(Timing, given)
        sandbox.say(f"{number} of {len(timings)}: {one.name}, {', '.join(one.modes)}{', with a filled cache' if again else ''}")
        shapes = [shape for shape in one.shapes for _ in range(WARM_CALLS)] if again else [*one.shapes] * GPU_ROUNDS
        measured["timed"] += [entry | {"workload": one.name} for entry in time_modes(one.workload, shapes, one.modes, "cuda", width=one.width)]
        torch.cuda.empty_cache()
    if again:
        return measured
    measured["rates"] = rates("cuda", 512 * units.MIB, 4096)
    measured["work"] = {one.name: work_of(one.workload, one.shapes[-1], "cuda", one.width) for one in (record.restore(Timing, given) for given in timings)}
    return measured | {"kernel": triton_kernel()}


def triton_kernel() -> str:
    """The Triton that Inductor generates on a GPU for the function whose C++ ``kernel`` shows."""
    import torch

    from mllandscape import torch_private as private

    def scaled(x):
        gain = torch.full((), 3.0, device="cuda") * 2 + 1
        return (x * gain + 0.1).clamp(-3, 3)

    with torch.no_grad():
        code = private.generated_code(torch.compile(scaled), torch.randn(4096, device="cuda"))
    found = re.search(r"^def (triton_\w+)\(.*?(?=^\'\'\')", code, re.DOTALL | re.MULTILINE)
    return found[0].rstrip() if found else ""


def plan_gpu(timings: Sequence[Timing], _: Any = None) -> dict:
    """What is timed; the same on every card, since it needs 3 GiB."""
    return {"timings": [record.plain(one) for one in timings]}


def run_gpu(plan: dict, say: Callable[[str], None], seconds: float) -> dict:
    """Time it in a child with an empty cache folder, and compile it once more in a second one, which finds what the first left."""
    ran = []
    with tempfile.TemporaryDirectory(prefix=FOLDERS, ignore_cleanup_errors=True) as folder:
        settings = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": str(Path(folder) / "triton")}
        for again in (False, True):
            target = "mllandscape.lessons.torch_compile:gpu_child"
            outcome = sandbox.call(target, seconds=seconds, env=settings, progress=say, timings=plan["timings"], again=again)
            if not outcome.ok:
                raise BadInput(outcome.message.partition("\n")[0] or f"the timings ended with {outcome.ending} {outcome.error_type}")
            ran.append(outcome.value)
    return _short_numbers({"cold": ran[0], "warm": ran[1]})


def _short_numbers(value: Any) -> Any:
    """The same with four digits of every fraction: no clock here shows more, and a recording is to be read."""
    if isinstance(value, dict):
        return {name: _short_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_short_numbers(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def check_gpu(data: dict) -> list[str]:
    """What no machine can show: a call faster than its floor, a result that is wrong, a cache that was not used."""
    measured, told = Measured(data["cold"], data["warm"], False, ""), []
    for entry in data["cold"]["timed"]:
        one, name = Timed(entry), f"{entry['workload']}, {entry['mode']}"
        least = floors(measured, entry["workload"])
        floor = 0.8 * max(least["FLOPs"], least["bytes, once"])  # another shape may reach a little more than the rates were measured with
        told += [f"{name}: {which} in less than its floor" for which in ("eager", "compiled") if min(one.steady(which)) < floor]
        told += [f"{name}: compiled differs by {entry['error']:.1e}"] if entry["error"] > 1e-2 else []
        told += [] if one.compiling else [f"{name}: nothing was compiled"]
    found = sum(entry["cache"]["fxgraph hit"] for entry in data["warm"]["timed"])
    return told if found else [*told, "the second process found nothing in the cache"]


def record_gpu() -> None:
    """Time it on this machine's GPU and keep it: ``python -m mllandscape.lessons.torch_compile gpu``, which is ``mllandscape record --only 02``."""
    from mllandscape.cli import main

    raise SystemExit(main(["record", "--only", "02"]))


def gpu_line() -> str:
    """One line that says whether these experiments were run on a GPU."""
    if kept := record.load(GPU_RECORDING):
        return f"On a GPU: {kept}."
    there = "this machine has one; record it with" if machine.look().gpu else "with one, record it with"
    return f"On a GPU (Triton, CUDA graphs, max-autotune): no recorded run exists yet; {there} python -m mllandscape.lessons.torch_compile gpu."


@cache
def gpu_run() -> record.Recording | None:
    """The timings on a GPU: run now where torch can use one, which takes minutes, else as recorded; None where neither is to be had."""
    if machine.look().gpu:
        with contextlib.suppress(BadInput):
            there = card()
            return record.Recording(GPU_RECORDING, run_gpu(plan_gpu(ON_GPU), lambda _: None, 900), there.provenance("mllandscape record --only 02.modes"))
    return record.load(GPU_RECORDING)


def gpu_speeds() -> charts.Described | None:
    """One call, eager and compiled, beside its floor on the same GPU, a row a workload and mode; the card and the day in the title. None without a run."""
    if not (ran := gpu_run()):
        return None
    tuned = record.load(TUNED_RECORDING)
    alike = tuned and (tuned.provenance.device, tuned.provenance.torch) == (ran.provenance.device, ran.provenance.torch)
    measured, rows = Measured(ran.data["cold"], ran.data["warm"], False, str(ran)), []
    for entry in [*ran.data["cold"]["timed"], *(tuned.data["cold"]["timed"] if alike else [])]:
        if entry["mode"] == "dynamic=False":
            continue
        one, least = Timed(entry), floors(measured, entry["workload"])
        took = {which: statistics.median(one.steady(which)) for which in ("eager", "compiled")}
        floor = {"floor": max(least["FLOPs"], least["bytes, once"])}
        mode = {"default": "", "reduce-overhead": ", CUDA graphs", "max-autotune": ", autotuned"}[entry["mode"]]
        rows.append((f"{entry['workload']}{mode}, {took['eager'] / took['compiled']:.2f}×", took | floor))
    return charts.durations(rows, title=f"One call on a GPU and its floor; {ran}")


def gpu_compiling() -> charts.Table | None:
    """What compiling cost on the GPU, with an empty and a filled cache folder, and the rates behind the floors; None where there is no run."""
    if not (ran := gpu_run()):
        return None
    cold, warm = ran.data["cold"], ran.data["warm"]
    again = {(entry["workload"], entry["mode"]): Timed(entry) for entry in warm["timed"]}
    rows = [("until the first kernel", units.seconds(cold["start"]), units.seconds(warm["start"]))]
    for entry in cold["timed"]:
        name = entry["workload"], entry["mode"]
        rows.append((", ".join(name), *(units.seconds(sum(one.compile_seconds())) for one in (Timed(entry), again[name]))))
    speed = cold["rates"]
    measured = f"Copy {speed['bytes a second'] / 1e12:.2f} TB/s, fp32 matrix product {speed['FLOP/s'] / 1e12:.1f} TFLOP/s"
    return charts.Table(f"To compile on a GPU; {ran}. {measured}.", ("", "empty cache", "filled cache"), rows)


# What the calls say


@dataclass(frozen=True)
class Timed:
    """The calls of one workload under one mode, as ``time_modes`` gives them."""

    entry: dict

    @property
    def compiling(self) -> list[int]:
        """The calls in which a graph was compiled."""
        graphs = [0, *self.entry["graphs"]]
        return [place for place in range(len(graphs) - 1) if graphs[place + 1] > graphs[place]]

    @property
    def warming(self) -> set[int]:
        """Calls that are not like the later ones: those that compile, and under CUDA graphs the first of each shape, run to warm up and to be recorded."""
        unlike = set(self.compiling)
        if self.entry["mode"] in ("reduce-overhead", "max-autotune"):
            shapes = self.entry["shapes"]
            for shape in {tuple(shape) for shape in shapes}:
                unlike |= set([place for place, other in enumerate(shapes) if tuple(other) == shape][:WARM_CALLS])
        return unlike

    def steady(self, which: str, shape: Shape | None = None) -> list[float]:
        """Seconds of the calls that compiled nothing, of one shape (the last of the stream)."""
        shape = list(shape or self.entry["shapes"][-1])
        return [seconds for place, seconds in enumerate(self.entry[which]) if place not in self.warming and self.entry["shapes"][place] == shape]

    def compile_seconds(self) -> list[float]:
        """What each compilation cost: its call, less a steady call of the same shape."""
        usual = [self.steady("compiled", self.entry["shapes"][place]) for place in self.compiling]
        return [self.entry["compiled"][place] - min(calls, default=0) for place, calls in zip(self.compiling, usual, strict=True)]

    def speed_up(self, of: Callable = statistics.median, shape: Shape | None = None) -> float:
        """Eager seconds over compiled seconds, of the medians or (``of=min``) of the minima."""
        return of(self.steady("eager", shape)) / of(self.steady("compiled", shape))

    def spread(self, which: str) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        low, middle, high = statistics.quantiles(self.steady(which), n=4)
        return (high - low) / 2 / middle


def break_even(first: float, eager: float, compiled: float) -> int | None:
    """The call after which compiling has cost no more than it saved: ``first`` seconds once, then ``compiled`` seconds a call. None: never."""
    return math.ceil(first / (eager - compiled)) if eager > compiled else None


def floors(measured: Measured, workload: str) -> dict[str, float]:
    """Least seconds of one call on this machine: for its FLOPs, for its bytes moved once, and for its bytes if every operation moves them."""
    work, speed = measured.cold["work"][workload], measured.cold["rates"]
    return {
        "FLOPs": work["flops"] / speed["FLOP/s"],
        "bytes, once": work["bytes once"] / speed["bytes a second"],
        "bytes, operation by operation": work["bytes by operation"] / speed["bytes a second"],
    }


def speed_rows(measured: Measured) -> list[tuple[str, dict[str, float]]]:
    """Rows for ``charts.durations``: median seconds of a call, eager and compiled, and their ratio in the label."""
    timed = {name: measured.calls(name) for name in WORKLOADS}
    took = {name: {which: statistics.median(one.steady(which)) for which in ("eager", "compiled")} for name, one in timed.items()}
    return [(f"{name}, {times['eager'] / times['compiled']:.2f}×", times) for name, times in took.items()]


def speed_lines(measured: Measured) -> str:
    """One line a workload: ratio of medians and of minima, spread, largest difference, what compiling cost, and the call that breaks even."""
    lines = [f"{'':18} {'speed-up':>9} {'of minima':>10} {'spread':>7} {'difference':>11} {'to compile':>11}  breaks even"]
    for name in WORKLOADS:
        one = measured.calls(name)
        first, eager, compiled = sum(one.compile_seconds()), *(statistics.median(one.steady(which)) for which in ("eager", "compiled"))
        even = break_even(first, eager, compiled)
        # Less than 3 % is not told from noise here.
        call = f"at call {even:,}" if even and eager > 1.03 * compiled else "never"
        spread = max(one.spread("eager"), one.spread("compiled"))
        ratios = f"{one.speed_up():9.2f} {one.speed_up(min):10.2f} {spread:7.0%}"
        lines.append(f"{name:18} {ratios} {one.entry['error']:11.1e} {units.seconds(first):>11}  {call}")
    return "\n".join(lines)


def floor_lines(measured: Measured) -> str:
    """The rates, and one line a workload: its higher floor, which resource sets it, and how many times as long the calls took."""
    speed = measured.cold["rates"]
    lines = [f"Copy {speed['bytes a second'] / 1e9:.0f} GB/s, matrix product {speed['FLOP/s'] / 1e9:.0f} GFLOP/s, one thread."]
    for name in WORKLOADS:
        one, least = measured.calls(name), floors(measured, name)
        what = max(("FLOPs", "bytes, once"), key=least.get)
        times = ", ".join(f"{which} {min(one.steady(which)) / least[what]:.1f} times that" for which in ("eager", "compiled"))
        lines.append(f"{name:18} floor {units.seconds(least[what]):>8} by {what:12} {times}")
    return "\n".join(lines)


def work_lines(measured: Measured) -> str:
    """One line a workload: the FLOPs of its matrix products, its bytes, and how much of them fusion could spare."""
    lines = []
    for name in WORKLOADS:
        work = measured.cold["work"][name]
        apart, once = work["bytes by operation"], work["bytes once"]
        moved = f"{apart / units.MIB:6.1f} MiB operation by operation, {once / units.MIB:5.1f} MiB once, {apart / once:4.1f} times"
        lines.append(f"{name:18} {work['flops'] / 1e9:5.2f} GFLOP, {moved}")
    return "\n".join(lines)


def floor_rows(measured: Measured, names: Sequence[str] = tuple(WORKLOADS)) -> list[tuple[str, dict[str, float]]]:
    """Rows for ``charts.durations``: the floors of a call that are above a microsecond, beside the least seconds it took eager and compiled."""
    rows = []
    for name in names:
        one = measured.calls(name)
        took = {which: min(one.steady(which)) for which in ("eager", "compiled")}
        rows.append((name, took | {what: least for what, least in floors(measured, name).items() if least > 1e-6}))
    return rows


CALLS = 20_000
_PLACES = sorted({min(CALLS, round(10 ** (step / 24))) for step in range(int(24 * math.log10(CALLS)) + 2)})
"""Calls that are evenly spaced on a logarithmic axis."""

STREAMS = {"static": "dynamic=False", "dynamic": "default"}
"""How the two compiled curves of a stream are compiled."""


def latencies(measured: Measured, workload: str) -> dict[str, tuple[list[int], list[float]]]:
    """{label: (call, milliseconds)} of a stream of changing lengths, as it was run."""
    taken = {"eager": measured.calls(workload).entry["eager"]}
    taken |= {f"{label} ({mode})": measured.calls(workload, mode).entry["compiled"] for label, mode in STREAMS.items()}
    return {label: (list(range(1, len(calls) + 1)), [1e3 * seconds for seconds in calls]) for label, calls in taken.items()}


def stream_so_far(measured: Measured, workload: str) -> charts.CurvesRecord:
    """Seconds so far of the same stream, as it was run and then drawn on at its own rate, with the call from which a compiled one stays ahead."""
    curves, marks = {"eager": _sums(measured.calls(workload).entry["eager"], [])}, {}
    for label, mode in STREAMS.items():
        one = measured.calls(workload, mode)
        curves[label] = _sums(one.entry["compiled"], one.compiling)
        marks[label] = next((place for place, a, b in zip(_PLACES, curves["eager"], curves[label], strict=True) if b <= a), None)
    told = [f"{label} ({STREAMS[label]}): {f'breaks even by call {at:,}' if at else 'never breaks even'}." for label, at in marks.items()]
    return charts.CurvesRecord({label: (_PLACES, values) for label, values in curves.items()}, marks, f"{workload}, a stream of changing lengths.", told)


def _sums(calls: Sequence[float], compiling: Sequence[int]) -> list[float]:
    """Seconds after each of _PLACES calls; beyond what was run, the mean of the calls that compiled nothing."""
    mean = statistics.fmean([seconds for place, seconds in enumerate(calls) if place not in compiling])
    return [sum(calls[:place]) + mean * max(0, place - len(calls)) for place in _PLACES]


def cache_lines(measured: Measured) -> str:
    """What the first process paid and what the second did, which found the first one's cache folder; seconds, and the caches' own counters."""
    lines = [f"{'':22} {'empty cache':>12} {'filled cache':>13}"]
    lines.append(f"{'until the first kernel':22} {units.seconds(measured.cold['start']):>12} {units.seconds(measured.warm['start']):>13}")
    for name in IN_PANEL:
        cold, warm = (sum(measured.calls(name, warm=again).compile_seconds()) for again in (False, True))
        lines.append(f"{name:22} {units.seconds(cold):>12} {units.seconds(warm):>13}")
    return "\n".join(lines)


def cache_totals(measured: Measured, warm: bool) -> dict[str, int]:
    """Hits and misses of the caches over everything that both processes compile."""
    totals: dict[str, int] = {}
    for entry in (measured.warm if warm else measured.cold)["timed"]:
        if entry["workload"] in IN_PANEL:
            totals = {what: totals.get(what, 0) + count for what, count in entry["cache"].items()}
    return totals


# -- the panel --------------------------------------------------------------------------------------------------------------

PADDING = {"none": lambda shape: shape, "length": to_bucket, "length and batch": to_bucket_and_batch}
DYNAMIC = ("default", "dynamic=True", "mark_dynamic")
COUNTS = "torch_compile_graphs"
"""Graphs for every stream that the panel can show, counted by ``record_counts``."""


@dataclass(frozen=True, eq=False)
class Stream:
    """CALLS calls: ``shapes`` in the order in which they first come, the place of that first call, each call's shape by number, and its tokens."""

    shapes: tuple[Shape, ...]
    first: Any
    number: Any
    tokens: Any


@lru_cache(256)
def stream(lengths: int, batches: str, tail: str, padding: str = "none") -> Stream:
    """Shapes drawn by a fixed seed: ``lengths`` lengths from 72 to 248, batches of 8 or of 2, 4 and 8, every fiftieth a batch of one; then padded."""
    import numpy

    draw = numpy.random.RandomState(2)
    length = numpy.array([72 + round(176 * place / max(lengths - 1, 1)) for place in range(lengths)])[draw.randint(lengths, size=CALLS)]
    batch = numpy.array((8,) if batches == "always 8" else (2, 4, 8))
    batch = batch[draw.randint(len(batch), size=CALLS)]
    if tail != "none":
        batch[49::50] = 1
    coded, inverse = numpy.unique(batch * 1000 + length, return_inverse=True)
    padded = [PADDING[padding]((int(code) // 1000, int(code) % 1000)) for code in coded]
    _, first, number = numpy.unique(numpy.array([batch * 1000 + length for batch, length in padded])[inverse], return_index=True, return_inverse=True)
    order = numpy.argsort(first)
    rank = numpy.argsort(order)
    shapes = tuple(padded[inverse[place]] for place in first[order])
    tokens = numpy.array([math.prod(shape) for shape in shapes], dtype=float)
    return Stream(shapes, first[order], rank[number], tokens[rank[number]])


def count_stream(lengths: int, batches: str, tail: str, padding: str, mode: str) -> str:
    """Graphs after each new shape of a stream, in the order in which the shapes come: "1 2 2", with an e where the call ran eager."""
    counted = count_graphs("softmax by hand", stream(lengths, batches, tail, padding).shapes, mode, width=32)
    return " ".join(f"{call.graphs}{'e' if call.eager else ''}" for call in counted.calls)


def _key(lengths: int, batches: str, tail: str, padding: str, mode: str) -> str:
    return f"{lengths} lengths, batch {batches}, tail {tail}, padding {padding}, {mode}"


def record_counts() -> None:
    """Count every stream of the panel: ``python -m mllandscape.lessons.torch_compile counts``, two minutes."""
    choices = [
        (lengths, batches, tail, padding, mode)
        for lengths in range(1, 13)
        for batches in ("always 8", "2, 4 or 8")
        for tail in ("none", "1 of 50")
        for padding in PADDING
        for mode in ("dynamic=False", *DYNAMIC)
    ]
    provenance = record.here("python -m mllandscape.lessons.torch_compile counts")
    record.save(COUNTS, {"torch": provenance.torch.partition("+")[0], "graphs": {_key(*choice): count_stream(*choice) for choice in choices}}, provenance)


@cache
def _kept_counts() -> dict[str, str]:
    """The recorded counts, if they were made by the torch that runs here."""
    kept = record.load(COUNTS)
    return kept.data["graphs"] if kept and kept.data["torch"] == record.here().torch.partition("+")[0] else {}


@lru_cache(1024)
def graphs_of(lengths: int, batches: str, tail: str, padding: str, mode: str) -> str:
    """``count_stream``, looked up where it was counted with this torch, else counted now."""
    choice = (lengths, batches, tail, padding, mode)
    return _kept_counts().get(_key(*choice)) or count_stream(*choice)


@dataclass(frozen=True)
class Costs:
    """Seconds: until the first kernel, for each graph, and of a call as a constant and a rate per token, eager and compiled."""

    start: float
    graph: dict[str, float]
    call: dict[str, tuple[float, float]]


@lru_cache(64)
def _line(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """The constant and the slope through the least and the most tokens; neither below 0."""
    (few, low), (many, high) = points[0], points[-1]
    slope = max((high - low) / (many - few), 0.0)
    return max(low - slope * few, 0.0), slope


def costs(measured: Measured, workload: str, filled: bool) -> Costs:
    """What a process pays for a workload, by what was measured: with an empty or a filled cache folder."""
    usual, shapes = measured.calls(workload), next(shapes for name, shapes, _ in TIMED if name == workload)
    fixed = measured.calls(workload, "dynamic=False") if measured.has(workload, "dynamic=False") else usual
    call = {}
    for label, one, which in (("eager", usual, "eager"), ("static", fixed, "compiled"), ("dynamic", usual, "compiled")):
        call[label] = _line(tuple((math.prod(shape), statistics.median(one.steady(which, shape))) for shape in (shapes[0], shapes[-1])))
    static, dynamic = measured.calls(workload, warm=filled).compile_seconds()[:2]  # by default the first graph is static, the second dynamic
    return Costs((measured.warm if filled else measured.cold)["start"], {"static": static, "dynamic": dynamic}, call)


def _simulate(calls: Stream, after: str, kind: str, known: Costs) -> tuple[Any, int, int]:
    """Seconds so far at each call of a stream, the graphs at its end, and how many calls ran eager."""
    import numpy

    graphs = numpy.array([int(text.rstrip("e")) for text in after.split()])
    eager = numpy.array([text.endswith("e") for text in after.split()])[calls.number]
    (fixed, rate), (eager_fixed, eager_rate) = known.call[kind], known.call["eager"]
    seconds = numpy.where(eager, eager_fixed + eager_rate * calls.tokens, fixed + rate * calls.tokens)
    seconds[0] += known.start
    seconds[calls.first] += numpy.diff(graphs, prepend=0) * known.graph[kind]
    return numpy.cumsum(seconds), int(graphs[-1]), int(eager.sum())


def cumulative(measured: Measured, lengths: int, batches: str, tail: str, padding: str, mode: str, workload: str, cache_folder: str) -> charts.CurvesRecord:
    """A stream of calls: seconds so far, eager and compiled static and dynamic, with the call from which each compiled one stays ahead."""
    import numpy

    known, plain, padded = costs(measured, workload, cache_folder == "filled"), stream(lengths, batches, tail), stream(lengths, batches, tail, padding)
    fixed, rate = known.call["eager"]
    eager = numpy.cumsum(fixed + rate * plain.tokens)
    curves, marks, told = {"eager": eager}, {}, []
    for label, how in (("static", "dynamic=False"), ("dynamic", mode)):
        curves[label], graphs, slow = _simulate(padded, graphs_of(lengths, batches, tail, padding, how), label, known)
        behind = numpy.flatnonzero(curves[label] > eager)
        even = int(behind[-1]) + 2 if len(behind) else 1
        marks[label] = even if even <= CALLS else None
        limit = f", then the recompile limit: {slow:,} of {CALLS:,} calls run eager" if slow else ""
        when = f"ahead of eager from call {even:,} on" if marks[label] else f"behind eager for all {CALLS:,} calls"
        share = f"{curves[label][-1] / eager[-1]:.2f} times eager's time in the end"
        told.append(f"{label} ({how}): {_plural(graphs, 'graph')}{limit}; {when}; {share}.")
    best = min(curves, key=lambda label: curves[label][-1])
    if padding != "none":
        told.append(f"Padding adds {padded.tokens.sum() / plain.tokens.sum() - 1:.0%} tokens.")
    verdict = f"{_plural(lengths, 'length')}, {workload}: after {CALLS:,} calls {best} has cost least, {units.seconds(float(curves[best][-1]))}."
    return charts.CurvesRecord(_thin(curves), marks, verdict, told)


def _thin(curves: Mapping[str, Any]) -> dict[str, tuple[list[int], list[float]]]:
    return {label: (_PLACES, [float(values[place - 1]) for place in _PLACES]) for label, values in curves.items()}


def panel(measured: Measured) -> Panel:
    """Lengths, batches, a tail of one, padding, the kind of dynamic shapes, workload and cache: a stream's cost, eager, static and dynamic."""
    from ipywidgets import Dropdown, IntSlider

    def choose(description: str, options: Sequence, tooltip: str) -> Dropdown:
        return Dropdown(options=list(options), value=list(options)[0], description=description, tooltip=tooltip)

    controls = {
        "lengths": IntSlider(value=6, min=1, max=12, description="Lengths", tooltip="distinct lengths in the stream"),
        "batches": choose("Batch", ("always 8", "2, 4 or 8"), "sequences in a batch"),
        "tail": choose("Batch of 1", ("none", "1 of 50"), "a last, partial batch, as an epoch can have"),
        "padding": choose("Padding", PADDING, "length to 128 or 256, batch to 8"),
        "mode": choose("Dynamic", DYNAMIC, "how the dynamic curve is compiled; the static one is dynamic=False"),
        "workload": choose("Workload", ("RMSNorm + SwiGLU", "pointwise chain", "MLP"), "whose measured costs are used"),
        "cache_folder": choose("Cache folder", ("empty", "filled"), "what a restarted process finds on disk"),
    }
    return Panel("What does a stream of shapes cost?", controls, lambda **values: cumulative(measured, **values), charts.Curves("calls", "seconds so far"))


# -- exercises --------------------------------------------------------------------------------------------------------------


def _cured(answer: Callable) -> str | None:
    import torch

    samples = [torch.linspace(-1, 3, 7), torch.linspace(-4, 1, 7), torch.linspace(-2, 2, 7) * 3]
    for x in samples:
        with _quiet():
            expected, found = broken(x), answer(x)
        if not torch.allclose(expected, found):
            return "It gives another answer than lesson.broken."
    breaks = graph_breaks(answer, samples[0])
    if breaks.breaks:
        line, source, why = breaks.breaks[0]
        return f"It still breaks {len(breaks.breaks)} times, first in its line {line} ({source}): {why}."
    return f"fullgraph=True says: {breaks.fullgraph}." if breaks.fullgraph else None


PROMPTS = tuple(sorted(random.Random(4).sample(range(20, 257), 40)))
"""Lengths of forty requests to a language model."""


def _few_graphs_little_padding(answer: Sequence[int]) -> str | None:
    buckets = sorted(int(bucket) for bucket in answer)
    if not buckets or buckets[-1] < PROMPTS[-1]:
        return f"A request of {PROMPTS[-1]} tokens has no bucket."
    padded = [next(bucket for bucket in buckets if length <= bucket) for length in PROMPTS]
    pad = dict(zip(PROMPTS, padded, strict=True))
    counted = count_graphs("softmax by hand", [(4, length) for length in PROMPTS], "dynamic=False", pad=lambda shape: (shape[0], pad[shape[1]]), width=16)
    if counted.graphs[-1] > 4 or counted.eager_calls:
        return f"That compiles {counted.graphs[-1]} graphs, and {counted.eager_calls} calls run eager."
    return None if counted.padding <= 0.25 else f"{counted.padding:.0%} of the tokens would be padding."


def _when_it_pays(answer: Callable) -> str | None:
    for first, eager, compiled in ((4.0, 0.010, 0.005), (1.0, 0.004, 0.003), (7.5, 0.010, 0.010), (2.0, 0.010, 0.012), (0.1, 0.5, 0.1)):
        expected, found = break_even(first, eager, compiled), answer(first, eager, compiled)
        if found is not expected and (expected is None or found is None or abs(found - expected) > 1):
            return f"For {first} s to compile, {eager} s eager and {compiled} s compiled it gave {found}."
    return None


exercise("02.ex1", _cured)
exercise("02.ex2", _few_graphs_little_padding)
exercise("02.ex3", _when_it_pays)

if __name__ == "__main__":
    sys.exit(record.main({"timings": record_timings, "counts": record_counts, "gpu": record_gpu}))
