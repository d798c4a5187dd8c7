"""Lesson 3: a 13B model, an 80 GB GPU, "CUDA out of memory": its experiments, its panel and its exercises."""

import contextlib
import gc
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache

from mllandscape import BadInput, charts, machine, record, sandbox, units
from mllandscape.course import exercise
from mllandscape.memory import MemoryProfile, ModelShape, TrainingPlan, card_ladder, measure, predict
from mllandscape.memory.accuracy import expected
from mllandscape.memory.card_ladder import search_batch_size
from mllandscape.memory.cards import capacity
from mllandscape.memory.estimate import cheapest_changes
from mllandscape.memory.measure import Measured, card
from mllandscape.memory.measure import take_apart as take_apart  # what the notebook reads messages with
from mllandscape.memory.profile import Moment
from mllandscape.panel import Panel

MODEL_STATES = ("parameters", "master weights", "gradients", "optimizer states")


def model_states(profile: MemoryProfile) -> int:
    """Bytes of parameters, gradients and optimizer states (and master weights) that coexist at the optimizer step."""
    terms = profile.phases["optimizer step"]
    return sum(terms.get(category, 0) for category in MODEL_STATES)


# -- the ladder: each mitigation alone and stacked, for real, in a child process under a byte budget ------------------


@dataclass(frozen=True)
class Ladder:
    """A small model that runs out of memory under ``budget`` (bytes), and the changes to try on its plan, by name.

    With ``search`` accelerate also looks for the largest batch that runs.
    """

    name: str
    shape: ModelShape
    plan: TrainingPlan
    budget: int
    changes: dict[str, dict]
    search: bool = False


ACTIVATIONS = Ladder(
    "activation-bound",
    ModelShape(style="gpt", layers=8, hidden=64, heads=1, vocab=8192, context=128, name="1M GPT"),
    TrainingPlan(batch=16, sequence=128, precision="fp32"),
    230 * units.MIB,
    {
        "as it is": {},
        "batch 8": {"batch": 8},
        "batch 8 × 2 accumulated": {"batch": 8, "accumulation": 2},
        "bf16 autocast": {"precision": "amp-bf16"},
        "8-bit AdamW": {"optimizer": "adamw8bit"},
        "checkpointing": {"checkpointing": "full"},
        "chunked loss": {"loss": "chunked"},
        "checkpointing, chunked loss": {"checkpointing": "full", "loss": "chunked"},
    },
    search=True,
)
"""Most of its bytes grow with the batch: logits over 8,192 words and what the backward pass needs."""

PARAMETERS = Ladder(
    "parameter-bound",
    ModelShape(style="gpt", layers=3, hidden=512, heads=8, vocab=4096, context=64, name="12M GPT"),
    TrainingPlan(batch=1, sequence=64, precision="fp32"),
    185 * units.MIB,
    {
        "as it is": {},
        "checkpointing": {"checkpointing": "full"},
        "bf16 autocast": {"precision": "amp-bf16"},
        "fused AdamW": {"optimizer_impl": "fused"},
        "fused, in backward": {"optimizer_impl": "fused", "in_backward": True},
        "8-bit AdamW": {"optimizer": "adamw8bit"},
        "Adafactor": {"optimizer": "adafactor"},
        "pure bf16": {"precision": "bf16"},
        "bf16, 8-bit, in backward": {"precision": "bf16", "optimizer": "adamw8bit", "in_backward": True},
        "LoRA, rank 16": {"trainable": "lora"},
    },
)
"""One short sequence: parameters, gradients and optimizer states are nearly everything."""


def climb(*ladders: Ladder, progress: Callable[[str], None] | None = None) -> dict[str, dict]:
    """Run every rung of each ladder for real: {ladder: {"rungs": [...], "batch_sizes": [...]}}.

    A rung has "rung", "ending", "allocated", "requested", "message" and "losses". In one child process, which takes the
    budgets one after another: the operating system's, or the tracker's own. ``allocated`` (bytes) is the peak of live tensors; None after an
    out-of-memory, whose failed allocation is ``requested``. ``batch_sizes`` are those that accelerate tried, the last one ran.
    Where there is a CUDA GPU, the first rung of the first ladder runs out of memory once more there, and its message is that one's.
    """
    outcome = sandbox.call(
        "mllandscape.lessons.out_of_memory:climb_here",
        warm_up="mllandscape.lessons.out_of_memory:warm_up",
        seconds=300,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        progress=progress,
        ladders=[
            {"shape": ladder.shape.to_json(), "plan": ladder.plan.to_json(), "budget": ladder.budget, "changes": ladder.changes, "search": ladder.search}
            for ladder in ladders
        ],
    )
    if not outcome.ok:
        why = outcome.message.partition("\n")[0] or outcome.error_type
        raise BadInput(f"the ladder ended with {outcome.ending}: {why}; free some memory and run the cell again.")
    climbed = {ladder.name: found for ladder, found in zip(ladders, outcome.value, strict=True)}
    if machine.look().gpu:
        with contextlib.suppress(BadInput):  # a GPU that this build of torch cannot use
            met = measure(ladders[0].shape, ladders[0].plan, ladders[0].budget, history=False)
            if met.parts:
                climbed[ladders[0].name]["rungs"][0] |= {"ending": met.ending, "message": met.message, "requested": met.parts["asked for"]}
    return climbed


def start_climb(*ladders: Ladder) -> Future:
    """``climb`` on another core: ``result()`` waits for it. The child ends with this process, or when it is done."""
    return sandbox.in_background(lambda: climb(*ladders))


def warm_up() -> None:
    """What a child loads before its budget counts: torch, the optimizers, and the buffers that matmul libraries keep for good."""
    from mllandscape.memory.trace import run

    shape = replace(PARAMETERS.shape, layers=1)
    for change in ({}, {"precision": "amp-bf16"}, {"optimizer": "adafactor"}, {"optimizer": "adamw8bit"}):
        with contextlib.suppress(BadInput):  # no bitsandbytes here: that rung will say so
            run(shape, PARAMETERS.plan.but(**change), steps=1)
    with contextlib.suppress(ImportError):
        import accelerate.utils  # noqa: F401  (loaded before the budget counts)
    gc.collect()


def climb_here(ladders: list[dict]) -> list[dict]:
    """The child's part: each plan for two steps, out of memory as a value, everything let go before the next one."""
    climbed = []
    for ladder in ladders:
        shape, plan, tried = ModelShape(**ladder["shape"]), TrainingPlan(**ladder["plan"]), []
        sandbox.limit(ladder["budget"])
        rungs = []
        for name, change in ladder["changes"].items():
            rungs.append({"rung": name} | train_here(shape, plan.but(**change)))
            gc.collect()  # a model and the hooks of its optimizers refer to each other
        if ladder["search"]:
            tried = search_batch_size(plan.batch, lambda batch, shape=shape, plan=plan: train(shape.to_json(), plan.but(batch=batch).to_json()))
        climbed.append({"rungs": rungs, "batch_sizes": tried})
    return climbed


def train_here(shape: ModelShape, plan: TrainingPlan) -> dict:
    """Two steps in this process under whatever budget it has; out of memory, or a missing package, comes back as the ending."""
    sandbox.say(f"{shape.name}: {plan.optimizer}, {plan.precision}, batch {plan.batch}")
    try:
        return {"ending": "ok", "requested": None, "message": ""} | train(shape.to_json(), plan.to_json())
    except BadInput as missing:
        told = {"ending": "not here", "requested": None, "message": str(missing)}
    except (RuntimeError, MemoryError) as error:
        told = sandbox.failure(error)
        if told["ending"] != "out of memory":
            raise
    return {key: told[key] for key in ("ending", "requested", "message")} | {"allocated": None, "losses": []}


def train(shape: dict, plan: dict) -> dict:
    """Two real steps: {"allocated": peak bytes of live tensors in the second, "losses": of both}. Out of memory is raised."""
    from mllandscape.memory.trace import run

    profile, losses = run(ModelShape(**shape), TrainingPlan(**plan), budget=sandbox.budget())
    return {"allocated": profile.allocated, "losses": losses}


def rungs(ladder: Ladder, climbed: dict[str, dict]) -> list[charts.Rung]:
    """Predicted beside measured for each rung of a ladder; one whose package is missing is left out."""
    return [
        charts.Rung(
            rung["rung"],
            predicted=predict(ladder.shape, ladder.plan.but(**ladder.changes[rung["rung"]])).allocated,
            measured=rung["allocated"],
            fits=rung["ending"] == "ok",
        )
        for rung in climbed[ladder.name]["rungs"]
        if rung["ending"] != "not here"
    ]


WAYS = {
    "the answer: bf16, 8-bit AdamW, checkpointing": TrainingPlan(precision="bf16", optimizer="adamw8bit", checkpointing="full"),
    "the same, step inside backward": TrainingPlan(precision="bf16", optimizer="adamw8bit", checkpointing="full", in_backward=True),
    "bf16, Adafactor inside backward": TrainingPlan(precision="bf16", optimizer="adafactor", checkpointing="full", in_backward=True),
    "bf16, LoRA of rank 16": TrainingPlan(precision="bf16", trainable="lora", checkpointing="full"),
    "autocast, AdamW, checkpointing": TrainingPlan(precision="amp-bf16", checkpointing="full"),
}
"""Plans for Llama-2-13B on one 80 GB card, those that fit and those that do not."""


def record_ways() -> None:
    """Trace every one of the WAYS at full size and keep the peaks (bytes): ``python -m mllandscape.lessons.out_of_memory``."""
    from mllandscape.memory import trace

    shape = ModelShape.preset("llama-2-13b")
    peaks = {name: {"plan": plan.to_json(), "allocated": trace(shape, plan).allocated} for name, plan in WAYS.items()}
    record.save("out_of_memory_ways", {"shape": shape.to_json(), "ways": peaks}, record.here("python -m mllandscape.lessons.out_of_memory"))


# -- on a GPU: a ladder at the card's own size ---------------------------------------------------------------------------

RECORDING = "out_of_memory_gpu"


def gpu_line() -> str:
    """One line that says where the out-of-memory on a GPU was run: here, on the recording's machine, or not yet."""
    gpu = machine.look().gpu
    if gpu:
        return f"On a GPU: the message above is from this machine's {gpu.name}."
    recorded = record.load(RECORDING)
    if recorded:
        return f"On a GPU: {recorded}."
    return "On a GPU: there is none here and no recorded run yet; with a CUDA GPU and a CUDA build of torch the cell above runs there."


@cache
def gpu_run() -> record.Recording | None:
    """The ladder on a GPU: run now where torch can use one, which takes minutes, else as it was recorded; None where neither is to be had."""
    if machine.look().gpu:
        with contextlib.suppress(BadInput):
            there = card()
            ran = card_ladder.run(card_ladder.plan(there, card_ladder.LARGE), lambda _: None, 900)
            return record.Recording(RECORDING, ran, there.provenance("mllandscape record --only 03.ladder"))
    return record.load(RECORDING)


def gpu_ladder() -> charts.Described | None:
    """Predicted beside measured for every rung on a GPU, with the card and the day in the title; None where no GPU has run it."""
    if not (ran := gpu_run()):
        return None
    told = {rung["rung"]: Measured.from_json(rung["measured"]) for rung in ran.data["rungs"]}
    rungs = [
        charts.Rung(name, predicted=expected(one), measured=one.allocated if one.ok else None, fits=one.ok)
        for name, one in told.items()
        if one.ending in ("ok", "out of memory")
    ]
    shape, limit = ModelShape(**ran.data["shape"]), units.gib(ran.data["limit"])
    return charts.ladder(rungs, ran.data["budget"], title=f"{shape.name} in {limit}, less the CUDA context; {ran}")


def gpu_history() -> charts.Described | None:
    """One rung's step as torch's allocator remembered it: what was in use, and what it had reserved beyond that. None as above."""
    ran = gpu_run()
    remembered = [Measured.from_json(rung["measured"]) for rung in ran.data["rungs"] if rung["rung"] == card_ladder.REMEMBERED] if ran else []
    if not remembered or not remembered[0].history:
        return None
    moments = [
        Moment(one.phase, "the allocator's highest", {"in use": one.requested, "reserved beyond": max(one.reserved - one.requested, 0)})
        for one in remembered[0].history
    ]
    title = f"{card_ladder.REMEMBERED}: one step by torch's memory history; {ran}"
    return charts.timeline(moments, capacity=ran.data["budget"], capacity_label="budget", title=title)


# -- small experiments, each a claim's evidence; torch is imported when they run ----------------------------------------


def accumulation_errors(micro_batches: int = 4) -> dict[str, float]:
    """Relative error in float64 of an accumulated gradient against the whole batch's, for losses that do and do not add up."""
    import torch
    from torch.nn.functional import batch_norm, cross_entropy

    torch.manual_seed(0)
    x, y = torch.randn(32, 6, 8, dtype=torch.float64), torch.randint(5, (32, 6))
    y[:, 1:][torch.arange(1, 6) >= torch.randint(1, 7, (32, 1))] = -100  # padding: sequences of 1 to 6 tokens
    tokens = (y >= 0).sum()
    weight = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    losses = {
        "one label a sequence": lambda x, y: cross_entropy(x[:, 0] @ weight, y[:, 0]),
        "mean over tokens, padded": lambda x, y: cross_entropy((x @ weight).flatten(0, 1), y.flatten()),
        "sum over tokens / all tokens": lambda x, y: cross_entropy((x @ weight).flatten(0, 1), y.flatten(), reduction="sum") / tokens,
        "BatchNorm": lambda x, y: cross_entropy(batch_norm(x[:, 0], None, None, training=True) @ weight, y[:, 0]),
        "contrastive in the batch": lambda x, y: cross_entropy(x[:, 0] @ weight @ (x[:, 1] @ weight).T, torch.arange(len(x))),
    }
    errors = {}
    for name, loss in losses.items():
        (whole,) = torch.autograd.grad(loss(x, y), weight)
        share = 1 if name.startswith("sum") else 1 / micro_batches
        added = sum(torch.autograd.grad(share * loss(*part), weight)[0] for part in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True))
        errors[name] = float((added - whole).norm() / whole.norm())
    return errors


def optimizer_steps(micro_batches: int = 10, accumulation: int = 4) -> dict[str, int]:
    """Optimizer steps over one pass through the data: the source's loop, and accelerate's ``accumulate``, which steps at the end too."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def loop(accumulate) -> int:
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps = []
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        accumulate(model, optimizer, torch.utils.data.DataLoader(torch.randn(micro_batches, 4), batch_size=1))
        return len(steps)

    def source(model, optimizer, data):
        for i, batch in enumerate(data):
            (model(batch).mean() / accumulation).backward()
            if (i + 1) % accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()

    def accelerated(model, optimizer, data):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
        model, optimizer, data = accelerator.prepare(model, optimizer, data)
        for batch in data:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).mean())
                optimizer.step()
                optimizer.zero_grad()
        AcceleratorState._reset_state(True)
        GradientState._reset_state()

    return {"the source's loop": loop(source), "Accelerator.accumulate": loop(accelerated)}


@contextlib.contextmanager
def one_thread():
    """Small tensors gain nothing from more threads, and wait for each other where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def saved_bytes(shape: ModelShape, plan: TrainingPlan) -> int:
    """Bytes that autograd keeps for the backward pass of a real forward pass, weights left out (``saved_tensors_hooks``)."""
    import torch

    from mllandscape.memory import reference

    model = reference.make_model(shape, plan)
    reference.initialise(model)
    ids, targets, rotary = reference.make_inputs(shape, plan, seed=1)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), ids, targets, *(rotary or ()))}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "amp-bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        loss = model(ids[0], targets[0], rotary)
    total = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in known)
    del loss
    return total


def autocast_types() -> dict[str, str]:
    """The dtypes of everything that is stored while a layer trains under bf16 autocast."""
    import torch

    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(layer.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(8, 64))
    output.float().sum().backward()
    optimizer.step()
    stored = {"weight": layer.weight, "gradient": layer.weight.grad, "first moment": optimizer.state[layer.weight]["exp_avg"], "output": output}
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in stored.items()}


def state_bytes(optimizer: str, elements: int) -> float:
    """Bytes per parameter of the optimizer states of one vector after one real fp32 step, without the step count and shared tables."""
    import torch

    from mllandscape.memory.reference import make_optimizer

    weight = torch.nn.Parameter(torch.ones(elements))
    weight.grad = torch.ones(elements)
    made = make_optimizer([weight], TrainingPlan(optimizer=optimizer))
    made.step()
    states = {name: value for name, value in made.state[weight].items() if torch.is_tensor(value) and name != "step" and not name.startswith("qmap")}
    return sum(state.numel() * state.element_size() for state in states.values()) / elements


@one_thread()
def train_losses(optimizers: tuple[str, ...] = ("adamw", "adamw8bit", "adafactor"), steps: int = 60) -> dict[str, list[float]]:
    """Losses of one small GPT, same weights and tokens, under different optimizers."""
    from mllandscape.memory import reference

    shape, losses = ModelShape(style="gpt", layers=2, hidden=64, heads=1, vocab=512, context=32), {}
    for optimizer in optimizers:
        plan = TrainingPlan(batch=8, sequence=32, precision="fp32", optimizer=optimizer)
        model = reference.make_model(shape, plan)
        reference.initialise(model)
        inputs, made = reference.make_inputs(shape, plan, seed=1), reference.make_optimizers(model, plan)
        losses[optimizer] = [reference.train_step(model, made, inputs, plan) for _ in range(steps)]
    return losses


def lost_updates(steps: int = 1000, size: float = 1e-3) -> dict[str, list[float]]:
    """A weight of 1.0 from which ``size`` is taken ``steps`` times, in bf16 and in fp32."""
    import torch

    paths = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = torch.ones((), dtype=dtype)
        paths[str(dtype).removeprefix("torch.")] = [float(weight)] + [float(weight.sub_(size)) for _ in range(steps)]
    return paths


def half_precision_adamw() -> list[float]:
    """Weights of 1.0 after one AdamW step in fp16 with gradients 0, 1e-5 and 1e-4: eps=1e-8 is 0 there."""
    import torch

    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    weight.grad = torch.tensor([0.0, 1e-5, 1e-4], dtype=torch.float16)
    torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0).step()
    return weight.tolist()


@one_thread()
def in_backward_is_identical() -> dict[str, float | bool]:
    """Ordinary AdamW against an AdamW step inside backward: bit-identical weights? and peak gradient bytes as a share of the weights'."""
    import torch

    from mllandscape.memory import reference
    from mllandscape.memory.trace import register
    from mllandscape.memory.tracker import Tracker

    shape = ModelShape(style="gpt", layers=16, hidden=64, heads=1, vocab=256, context=16)
    weights, peaks = [], []
    for in_backward in (False, True):
        plan = TrainingPlan(batch=2, sequence=16, precision="fp32", in_backward=in_backward)
        model = reference.make_model(shape, plan)
        reference.initialise(model)
        inputs, optimizers, tracker = reference.make_inputs(shape, plan, seed=1), reference.make_optimizers(model, plan), Tracker()
        register(tracker, model, optimizers, inputs)
        with tracker, tracker.following(model):
            for _ in range(3):
                reference.train_step(model, optimizers, inputs, plan)
        live = highest = 0
        for _, _, category, change in tracker.events:
            live += change if category == "gradients" else 0
            highest = max(highest, live)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        peaks.append(highest / tracker.live["parameters"])
    return {"identical": bool(torch.equal(*weights)), "gradients, after backward": peaks[0], "gradients, in backward": peaks[1]}


def checkpoint_without_use_reentrant() -> dict[str, bool]:
    """Does the result of ``checkpoint(layer, x)`` carry a gradient when x, as a batch does, asks for none?"""
    import torch
    from torch.utils.checkpoint import checkpoint

    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = checkpoint(layer, x)
    return {"checkpoint(layer, x)": bare.requires_grad, "use_reentrant=False": checkpoint(layer, x, use_reentrant=False).requires_grad}


def memory_summary_names() -> dict[str, bool]:
    """Which of the three words the rows of ``torch.cuda.memory_summary()`` hold; its table is made from empty statistics, so no GPU is needed."""
    from collections import defaultdict
    from unittest import mock

    import torch

    statistics = defaultdict(int, num_ooms=0, num_alloc_retries=0)
    with mock.patch("torch.cuda.memory.memory_stats", return_value=statistics), mock.patch("torch.cuda.memory._get_device_index", return_value=0):
        table = torch.cuda.memory_summary(abbreviated=True).lower()
    return {word: word[:8] in table for word in ("allocated", "reserved", "fragmentation")}


# -- the panel --------------------------------------------------------------------------------------------------------

CARDS = ("RTX-4090", "A100-40GB", "A100-80GB", "H200")


def fits(size: float, batch: int, sequence: int, precision: str, optimizer: str, checkpointing: str, card: str) -> charts.CapacityRecord:
    """One training step of a Llama of ``size`` billion parameters against a card."""
    shape = ModelShape.of_size(size * 1e9)
    plan = TrainingPlan(batch=batch, sequence=sequence, precision=precision, optimizer=optimizer, checkpointing=checkpointing)
    profile = predict(shape, plan)
    verdict = profile.fits(card)
    if verdict:
        advice = "Nothing needs to change."
    elif found := cheapest_changes(shape, plan, card, n=1):
        advice = f"The cheapest change that makes it fit: {found[0].label}."
    else:
        advice = "No few changes on one card make it fit: shard it (lesson 4)."
    words = f"{units.count(shape.parameters)} parameters on {card}: {verdict}."
    return charts.CapacityRecord(bars=profile.phases, capacity=capacity(card), verdict=words, advice=advice)


def panel() -> Panel:
    """Size, batch, sequence, precision, optimizer, checkpointing and card, against the three phases' peaks."""
    from ipywidgets import Dropdown, FloatLogSlider, IntSlider, SelectionSlider

    def choose(description: str, options: tuple, value: object, tooltip: str) -> Dropdown:
        return Dropdown(options=options, value=value, description=description, tooltip=tooltip)

    controls = {
        "size": FloatLogSlider(
            value=13.0, base=10, min=-0.9031, max=1.8451, step=0.02, description="Size, B", readout_format=".3g", tooltip="billions of parameters"
        ),
        "batch": IntSlider(value=1, min=1, max=32, description="Batch", tooltip="sequences in one micro-batch"),
        "sequence": SelectionSlider(options=[512, 1024, 2048, 4096, 8192], value=2048, description="Sequence", tooltip="tokens in one sequence"),
        "precision": choose("Precision", ("fp32", "amp-bf16", "bf16", "bf16-master"), "amp-bf16", "types of weights, gradients and states"),
        "optimizer": choose("Optimizer", ("adamw", "adamw8bit", "adafactor", "sgd"), "adamw", "what keeps states for each parameter"),
        "checkpointing": choose("Checkpoint", ("none", "selective", "full"), "none", "what is recomputed in the backward pass"),
        "card": choose("GPU", CARDS, "A100-80GB", "usable bytes of the card"),
    }
    return Panel("Does it fit?", controls, fits, charts.CapacityBars())


# -- exercises ----------------------------------------------------------------------------------------------------------


def _fits_13b(answer: TrainingPlan) -> str | None:
    if not isinstance(answer, TrainingPlan):
        return "The answer is a TrainingPlan."
    if answer.trainable != "all" or not answer.optimizer.startswith("adamw") or answer.batch < 2 or answer.sequence < 8192:
        return "Train all weights with an AdamW, on two sequences of 8,192 tokens or more."
    verdict = predict(ModelShape.preset("llama-2-13b"), answer).fits("A100-80GB")
    return None if verdict else f"It {verdict}."


def _profiles_mlp(answer: MemoryProfile) -> str | None:
    if not isinstance(answer, MemoryProfile) or answer.method != "trace":
        return "The answer is what trace_step returns."
    states = {name: answer.phases["optimizer step"].get(name, 0) for name in ("parameters", "gradients", "optimizer states")}
    expected = {name: 4 * (2 * 4096 * 16_384 + 16_384 + 4096) for name in states}
    wrong = [name for name in states if states[name] != expected[name]]
    return f"Expected {units.gib(expected[wrong[0]])} of {wrong[0]}, got {units.gib(states[wrong[0]])}." if wrong else None


def _adds_up(answer: Callable) -> str | None:
    sums, tokens = [12.0, 3.0, 40.0], [6, 1, 25]
    found = float(answer(sums, tokens))
    return None if abs(found - 55 / 32) < 1e-9 else f"For sums {sums} over {tokens} tokens it gave {found:.4g}; the whole batch's mean is {55 / 32:.4g}."


exercise("03.ex1", _fits_13b)
exercise("03.ex2", _profiles_mlp)
exercise("03.ex3", _adds_up)

if __name__ == "__main__":
    sys.exit(record.main({"": record_ways}))
