"""Every private torch API that this package uses. When a new torch moves one, this module says which, and nothing else changes."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from unittest import mock

import torch

from mllandscape import BadInput

WRITTEN_FOR = "2.13"
_MOVED = "torch {} has moved a private API ({}); this version of mllandscape is written for torch " + f"{WRITTEN_FOR}."

try:
    from torch._C import _current_autograd_node, _current_graph_task_id, _get_dispatch_mode, _TorchDispatchModeKey
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    DEVICE_OF = torch.ops.prim.device.default
    VALUE_OF = torch.ops.aten._local_scalar_dense.default
    FUSED_SGD = torch.ops.aten._fused_sgd_.default
    ADD = torch.ops.aten.add.Tensor
    CAST = torch.ops.aten._to_copy.default
    FLASH_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention.default
except (ImportError, AttributeError) as moved:
    raise BadInput(_MOVED.format(torch.__version__, moved)) from None

__all__ = [
    "ADD", "CAST", "DEVICE_OF", "FLASH_ATTENTION", "FUSED_SGD", "VALUE_OF", "FakeTensor", "FakeTensorMode", "TorchDispatchMode", "backward_node",
    "cache_counts", "capability_warning", "code_capabilities", "code_runs_on", "compilations", "fake_ranks", "forget_compilations", "forget_workspaces",
    "frozen", "generated_code", "graph_breaks", "graph_count", "in_backward", "local", "mark_dynamic", "mark_unbacked", "memory_history",
    "recompile_limit", "release_capabilities", "sharding_watched", "storage_key", "tree_leaves", "under_fake_tensors",
]  # fmt: skip


def in_backward() -> bool:
    """Whether autograd's engine is running in this thread."""
    return _current_graph_task_id() != -1


def backward_node() -> int | None:
    """A number of the node that autograd's engine runs in this thread, or has run last while it adds up what that node returned; None outside of it."""
    node = _current_autograd_node()
    return None if node is None else node._sequence_nr()


def under_fake_tensors() -> bool:
    """Whether operations make fake tensors here."""
    return _get_dispatch_mode(_TorchDispatchModeKey.FAKE) is not None


def storage_key(tensor: torch.Tensor) -> int:
    """A number that views of one storage share, and that no other live storage has."""
    return tensor.untyped_storage()._cdata


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard that this rank stores of a distributed tensor; any other tensor is itself."""
    return getattr(tensor, "_local_tensor", tensor)


# What follows needs torch.distributed, which is imported when it is first used.


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """A process group of this many ranks of which only rank 0 exists: collectives return at once and compute nothing.

    Raises BadInput if this process has a process group already.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        raise BadInput("this process has a process group already: trace a sharded plan in another process, or call destroy_process_group() first.")
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as moved:
        raise _moved(moved) from None
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def sharding_watched(region: Callable[[str], AbstractContextManager], unsharded: Callable[[torch.nn.Parameter], None], resized: Callable) -> Iterator[Callable]:
    """Follow ``fully_shard`` while a tracker is active.

    What it allocates to gather is made inside ``region("gathered layers")``, to reduce inside ``region("reduce-scatter buffers")``.
    ``unsharded`` is told of each unsharded parameter once, ``resized(key, bytes)`` after a storage is resized, which is how
    gathered parameters are freed. Yields a function that says whether DTensor is only working out shapes now, with tensors of the global size.
    """
    try:
        from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups
        from torch.distributed.tensor._sharding_prop import ShardingPropagator

        group, propagate = groups.FSDPParamGroup, ShardingPropagator._propagate_tensor_meta_non_cached
        unshard, wait, reduce, resize = group.unshard, group.wait_for_unshard, groups.foreach_reduce, torch.UntypedStorage.resize_
    except (ImportError, AttributeError) as moved:
        raise _moved(moved) from None
    propagating, told = [False], set()

    def inside(category: str, function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            with region(category):
                return function(*args, **kwargs)

        return call

    def waited(self) -> None:
        with region("gathered layers"):
            wait(self)
        for parameter in self.fsdp_params:
            if id(parameter) not in told and hasattr(parameter, "_unsharded_param"):
                told.add(id(parameter))
                unsharded(parameter._unsharded_param)

    def shapes(self, *args):
        before, propagating[0] = propagating[0], True
        try:
            return propagate(self, *args)
        finally:
            propagating[0] = before

    def resized_to(self, size: int):
        result = resize(self, size)
        resized(self._cdata, self.nbytes())
        return result

    with ExitStack() as patches:
        for owner, name, replacement in (
            (group, "unshard", inside("gathered layers", unshard)),
            (group, "wait_for_unshard", waited),
            (groups, "foreach_reduce", inside("reduce-scatter buffers", reduce)),
            (ShardingPropagator, "_propagate_tensor_meta_non_cached", shapes),
            (torch.UntypedStorage, "resize_", resized_to),
        ):
            patches.enter_context(mock.patch.object(owner, name, replacement))
        yield lambda: propagating[0]


# What follows is of torch.compile. Its front end (dynamo) takes a second to import and its back end (inductor) another, so both wait for their first use.


@contextmanager
def _guarded() -> Iterator[None]:
    """Around an import or a look-up: a name that has moved is told in one line, with torch's version."""
    try:
        yield
    except (ImportError, AttributeError) as moved:
        raise _moved(moved) from None


def forget_compilations() -> None:
    """Drop every compiled graph of this process and set torch's counters and metrics back to nothing."""
    with _guarded():
        from torch._dynamo.utils import clear_compilation_metrics, counters
    torch.compiler.reset()
    clear_compilation_metrics()
    counters.clear()


def graph_count() -> int:
    """Graphs that dynamo has handed to a backend since ``forget_compilations``, by torch's own counter."""
    with _guarded():
        from torch._dynamo.utils import counters
    return counters["stats"]["unique_graphs"]


def compilations() -> list[str]:
    """Why each compilation since ``forget_compilations`` was begun, by torch's own metrics: "" for a first one, else the guard that failed."""
    with _guarded():
        from torch._dynamo.utils import get_compilation_metrics

        return [metrics.recompile_reason or "" for metrics in get_compilation_metrics()]


def cache_counts() -> dict[str, int]:
    """Hits and misses of the on-disk caches of graphs since ``forget_compilations``: inductor's (fxgraph) and autograd's."""
    with _guarded():
        from torch._dynamo.utils import counters
    names = {"fxgraph": counters["inductor"], "autograd": counters["aot_autograd"]}
    return {f"{name} {end}": names[name][f"{name}_cache_{end}"] for name in names for end in ("hit", "miss")}


def recompile_limit(limit: int) -> AbstractContextManager:
    """How many graphs a function may have here; torch's default is 8."""
    with _guarded():
        from torch._dynamo import config

        return config.patch(recompile_limit=limit)


def mark_dynamic(tensor: torch.Tensor, dimension: int) -> None:
    """Say before the first call that this size varies."""
    with _guarded():
        from torch._dynamo import mark_dynamic as mark
    mark(tensor, dimension)


def mark_unbacked(tensor: torch.Tensor, dimension: int) -> None:
    """Say that this size varies and may be 0 or 1."""
    with _guarded():
        from torch._dynamo.decorators import mark_unbacked as mark
    mark(tensor, dimension)


def graph_breaks(function: Callable, *arguments) -> tuple[int, list[tuple[int, str, str]]]:
    """The graphs of a call, and for each break its line in the file, the source there and torch's reason in one line. Runs the function."""
    with _guarded():
        from torch._dynamo import explain
    found = explain(function)(*arguments)
    with _guarded():
        told = [" ".join(str(reason.reason).split("\n")[0].split()) for reason in found.break_reasons]
        places = [reason.user_stack[-1] for reason in found.break_reasons]
        return found.graph_count, [(place.lineno, (place.line or "").strip(), why) for place, why in zip(places, told, strict=True)]


def generated_code(function: Callable, *arguments) -> str:
    """What inductor generates for a compiled function that is called here for the first time: Python that holds its kernels as text."""
    with _guarded():
        from torch._inductor.utils import run_and_get_code
    return "\n".join(run_and_get_code(function, *arguments)[1])


def frozen() -> AbstractContextManager:
    """Treat parameters as constants in what is compiled here, for inference; what TORCHINDUCTOR_FREEZING=1 does."""
    with _guarded():
        from torch._inductor import config

        return config.patch(freezing=True)


# What follows is of torch.cuda and works in a CPU build too: what torch itself knows of GPU code and GPUs.


def code_capabilities() -> list[int]:
    """The compute capabilities, ten times, that torch has a rule for: 80 for sm_80."""
    with _guarded():
        return sorted(torch.cuda.DEVICE_REQUIREMENT)


def code_runs_on(code: int, capability: int) -> bool:
    """Torch's own answer: whether a cubin for the one runs on a GPU of the other."""
    with _guarded():
        return torch.cuda._code_compatible_with_device(capability, code)


def release_capabilities() -> dict[str, set[int]]:
    """{CUDA version: what its Linux x86-64 wheel is built for} of this release of torch."""
    with _guarded():
        return {cuda: set(by_machine["x86_64"]) for cuda, by_machine in torch.cuda.PYTORCH_RELEASES_CODE_CC.items()}


def capability_warning(cuda: str, architectures: list[str], gpu: str, capability: int) -> str:
    """What torch warns of when a build of these architectures (``sm_75``) meets this GPU, "" for nothing. Build and GPU are made up, the check is torch's."""
    with _guarded():
        check = torch.cuda._check_capability
    made_up = {
        "get_arch_list": lambda: architectures,
        "device_count": lambda: 1,
        "get_device_capability": lambda *_: divmod(capability, 10),
        "get_device_name": lambda *_: gpu,
        "_host_arch_key": lambda: "x86_64",
    }
    with ExitStack() as patches, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patches.enter_context(mock.patch.object(torch.version, "cuda", cuda))
        for name, function in made_up.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, function))
        check()
    return "\n".join(str(warning.message) for warning in told)


@contextmanager
def memory_history(most: int = 1_000_000) -> Iterator[Callable[[], list[tuple[str, int, int]]]]:
    """What torch's allocator does on GPU 0 in the block: yields a function that lists (action, bytes asked for, unix time in µs) so far, the last ``most``."""
    with _guarded():
        recording, snapshot = torch.cuda.memory._record_memory_history, torch.cuda.memory._snapshot
    recording(enabled="all", context=None, stacks="python", max_entries=most)

    def so_far() -> list[tuple[str, int, int]]:
        try:
            return [(entry["action"], entry["size"], entry["time_us"]) for entry in snapshot()["device_traces"][0]]
        except LookupError as moved:
            raise _moved(moved) from None

    try:
        yield so_far
    finally:
        recording(enabled=None)


def forget_workspaces() -> None:
    """Let go of the workspaces that cuBLAS keeps for each thread and stream; the next matrix product makes new ones."""
    with _guarded():
        torch._C._cuda_clearCublasWorkspaces()


def _moved(error: Exception) -> BadInput:
    return BadInput(_MOVED.format(torch.__version__, error))
