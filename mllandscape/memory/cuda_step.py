"""One training step on CUDA: the child's side of ``measure``. What it asks of torch.cuda is in ``Gpu``, so that a test can put another in its place."""

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mllandscape import BadInput, machine, record, sandbox, units
from mllandscape.memory import reference
from mllandscape.memory.measure import INSTANTS, Instant, Measured, Wanted, take_apart, thinned
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.trace import register
from mllandscape.memory.tracker import Tracker
from mllandscape.torch_private import fake_ranks, forget_workspaces, in_backward, memory_history, tree_leaves

WARM_UP, STEPS = 1, 2

STEADY = 64 * units.MIB
"""What is free and what CUDA takes are told in steps of this, so that the same card gets the same plans on another day."""

NO_KERNEL = "No available kernel"
"""What torch says when none of the attention kernels that were asked for takes the inputs."""


def stream_seconds(work: Callable[[], Any]) -> float:
    """The CUDA stream's time from before the first kernel of ``work`` to after its last, by two events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


class Gpu:
    """GPU 0 and this process's allocator on it. Raises BadInput where torch has none."""

    device = "cuda"

    def __init__(self):
        if not torch.cuda.is_available():
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
            raise BadInput(f"no CUDA GPU that torch can use here (torch {torch.__version__} is {built}): run this where there is one, or look at a recording.")
        torch.cuda.init()

    def cap(self, budget: int | None) -> None:
        """Let the allocator reserve at most so many bytes."""
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(1.0 if budget is None else min(1.0, budget / total))

    def statistics(self) -> dict[str, int]:
        """The allocator's counters: ``allocated``, ``requested``, ``reserved`` now and at their highest since ``begin``; ``retries`` and ``ooms`` so far."""
        told = torch.cuda.memory_stats()
        found = {"retries": told.get("num_alloc_retries", 0), "ooms": told.get("num_ooms", 0)}
        for name in ("allocated", "requested", "reserved"):
            found |= {name: told.get(f"{name}_bytes.all.current", 0), f"{name} peak": told.get(f"{name}_bytes.all.peak", 0)}
        return found

    def begin(self) -> None:
        """Peaks start from here."""
        torch.cuda.reset_peak_memory_stats()

    def used(self) -> int:
        """Bytes of the device that are not free, whoever has them."""
        free, total = torch.cuda.mem_get_info()
        return total - free

    def let_go(self) -> int:
        """Give back what nothing refers to, cuBLAS's workspaces too; returns how many bytes those were."""
        gc.collect()
        before = torch.cuda.memory_allocated()
        forget_workspaces()
        workspaces = before - torch.cuda.memory_allocated()
        torch.cuda.empty_cache()
        return workspaces

    def seconds(self, work: Callable[[], Any]) -> float:
        """See ``stream_seconds``."""
        return stream_seconds(work)

    def history(self) -> Any:
        """A context that yields a function which lists what the allocator did so far: (action, bytes, unix time in µs)."""
        return memory_history()


def look() -> dict:
    """The fields of ``measure.Card``."""
    gpu = Gpu()
    torch.mm(*torch.ones(2, 256, 256, device=gpu.device))
    torch.cuda.synchronize()
    gpu.let_go()
    found, packages = torch.cuda.get_device_properties(0), []
    for name in ("accelerate", "bitsandbytes", "numpy"):
        with suppress(ImportError, BadInput):
            reference.eightbit_adamw() if name == "bitsandbytes" else __import__(name)
            packages.append(name)
    told = machine.look()
    free, total = torch.cuda.mem_get_info()
    return {
        "name": found.name,
        "capacity": total,
        "free": free // STEADY * STEADY,
        "outside": -(-(total - free - torch.cuda.memory_reserved()) // STEADY) * STEADY,
        "capability": f"{found.major}.{found.minor}",
        "driver": (told.gpu.driver or "") if told.gpu else "",
        "cuda": torch.version.cuda or "",
        "torch": torch.__version__,
        "python": told.python,
        "packages": packages,
    }


def run_each(wanted: list[dict]) -> list[dict]:
    """Each plan in turn, until one of them did not leave this process as it was: the rest is for a new one."""
    gpu, done = Gpu(), []
    gpu.let_go()
    gc.freeze()  # what is imported by now is no garbage, and need not be searched for some after each plan
    for number, one in enumerate(wanted, 1):
        step = record.restore(Wanted, one)
        sandbox.say(f"{number} of {len(wanted)}: {step.shape.name or 'a model'}, {words(step.plan)}")
        done.append(run(gpu, step))
        if done[-1].ending == "error" or not done[-1].restored:
            break
    return [one.to_json() for one in done]


def words(plan: TrainingPlan) -> str:
    """What is not the default in a plan, in short."""
    plain = TrainingPlan().to_json()
    return ", ".join(f"{name} {value}" for name, value in plan.to_json().items() if value not in (plain[name], None)) or "the default plan"


def run(gpu: Gpu, wanted: Wanted) -> Measured:
    """Build, train and let go. Whatever goes wrong is in what is returned; afterwards nothing of the step is left."""
    gpu.let_go()
    before = gpu.statistics()["allocated"]
    gpu.cap(wanted.budget)
    watch, found = Watch(gpu), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says why it did not take a kernel, and what of the fake group is fake
        try:
            found = train(gpu, wanted, watch)
        except Exception as error:
            found = failure(error) | {"failed": f"step {watch.step}, {watch.phase}"}
            if found["ending"] == "out of memory":
                watch.close()  # now, while everything is still held
    found |= watch.peaks
    if found.get("ending") != "error":  # after one, CUDA may answer nothing more; this process ends with it
        found["workspaces"] = gpu.let_go()
        gpu.cap(None)
        found["left"] = gpu.statistics()["allocated"] - before
    return Measured(shape=wanted.shape, plan=wanted.plan, budget=wanted.budget, **found)


def failure(error: Exception) -> dict:
    """``ending``, ``message`` and ``parts`` of a Measured."""
    told = sandbox.failure(error)
    if isinstance(error, BadInput | ImportError) or NO_KERNEL in told["message"]:
        return {"ending": "not here", "message": told["message"].partition("\n")[0]}
    if told["ending"] != "out of memory":
        return {"ending": "error", "message": f"{told['error_type']}: {told['message'].partition(chr(10))[0]}"}
    try:
        parts = take_apart(told["message"])
    except BadInput:  # cuBLAS says that it ran out, not of how much
        parts = {}
    return {"ending": "out of memory", "message": told["message"], "parts": parts}


class Watch:
    """Follows a step's phases: reads the allocator's peaks at the end of each, and lets the next begin. ``peaks`` are fields of Measured."""

    def __init__(self, gpu: Gpu):
        self.gpu, self.phase, self.step = gpu, "building the model", 0
        self.start = gpu.statistics()
        self.begin()

    def begin(self) -> None:
        """Forget what was seen so far; the counts of retries and failures stay."""
        self.peaks: dict[str, Any] = {"phases": {}}
        self.ends: list[tuple[int, str]] = []
        self.gpu.begin()

    def close(self, following: str | None = None) -> None:
        """The phase ends here, and another begins."""
        told, used, peaks = self.gpu.statistics(), self.gpu.used(), self.peaks
        peaks["phases"][self.phase] = max(peaks["phases"].get(self.phase, 0), told["allocated peak"])
        for name in ("allocated", "requested", "reserved"):
            peaks[name] = max(peaks.get(name, 0), told[f"{name} peak"])
        for name in ("retries", "ooms"):
            peaks[name] = told[name] - self.start[name]
        if used >= peaks.get("device", 0):
            peaks |= {"device": used, "outside": used - told["reserved"]}
        self.ends.append((time.time_ns() // 1000, self.phase))
        self.phase = following or self.phase
        self.gpu.begin()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Let the model's forward pass and every optimizer's step say where a phase ends; a step inside the backward pass is part of that."""

        def enter(*_) -> None:
            if self.phase != "forward":
                self.close("forward")

        def leave(*_) -> None:
            self.close("backward")

        def stepping(*_) -> None:
            if self.phase == "backward" and not in_backward():
                self.close("optimizer step")

        hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave), register_optimizer_step_pre_hook(stepping)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def train(gpu: Gpu, wanted: Wanted, watch: Watch) -> dict:
    """The steps themselves, and what only a whole run can show: fields of Measured."""
    shape, plan = wanted.shape, wanted.plan
    losses, seconds, found = [], [], {}
    with ExitStack() as around:
        model = build(gpu, shape, plan, around)
        inputs = reference.make_inputs(shape, plan, gpu.device, seed=1)
        optimizers = reference.make_optimizers(model, plan)
        around.enter_context(watch.following(model))

        def step() -> None:
            losses.append(reference.train_step(model, optimizers, inputs, plan))
            watch.close("forward")

        watch.close("forward")
        for number in range(WARM_UP + STEPS):
            watch.step = number
            if number == WARM_UP:
                watch.begin()
            seconds.append(gpu.seconds(step))
        kept = watch.peaks
        watch.begin()
        if wanted.history:
            found["history"] = remember(gpu, step, watch)
        if plan.strategy == "single":
            with suppress(torch.OutOfMemoryError):  # the tracker's presence costs bytes, which a tight budget may not have
                found["tracked"] = track(model, optimizers, inputs, step)
        watch.peaks = kept
    return {"losses": tuple(loss if math.isfinite(loss) else None for loss in losses), "seconds": tuple(seconds[WARM_UP:]), **found}


def build(gpu: Gpu, shape: ModelShape, plan: TrainingPlan, around: ExitStack) -> nn.Module:
    """The model as its plan runs it. Of several ranks rank 0's part, in a process group of which only rank 0 exists: its collectives move nothing.

    DDP's reducer wants an answer for each bucket; it gets the bucket as it is.
    """
    if plan.strategy == "single":
        model = reference.make_model(shape, plan, gpu.device)
        reference.initialise(model)
        return model
    from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook

    from mllandscape.memory import parallel

    around.enter_context(fake_ranks(plan.ranks))
    model = parallel.materialise(shape, plan, gpu.device)
    if plan.strategy == "ddp":
        model.register_comm_hook(None, noop_hook)
    return model


def remember(gpu: Gpu, step: Callable[[], None], watch: Watch) -> tuple[Instant, ...]:
    """One step's history: what was asked for and what was reserved after each of the allocator's actions, thinned to the highest of each stretch."""
    watch.ends = []
    held = gpu.statistics()
    requested, reserved, points = held["requested"], held["reserved"], []
    with gpu.history() as so_far:
        step()
        actions = so_far()
    ends = iter([*watch.ends, (math.inf, watch.ends[-1][1])])
    end, phase = next(ends)
    for action, size, at in actions:
        while at > end:
            end, phase = next(ends)
        requested += {"alloc": size, "free_completed": -size}.get(action, 0)
        reserved += {"segment_alloc": size, "segment_map": size, "segment_free": -size, "segment_unmap": -size}.get(action, 0)
        points.append(Instant(phase, requested, reserved))
    return tuple(thinned(points, INSTANTS, lambda point: point.requested))


def track(model: nn.Module, optimizers: list, inputs: tuple, step: Callable[[], None]) -> dict[str, int]:
    """One step's live tensors by category at the highest moment."""
    tracker = Tracker()
    register(tracker, model, optimizers, inputs)
    for tensor in tree_leaves([list(each.state.values()) for each in optimizers]):
        if isinstance(tensor, torch.Tensor) and tensor.device == model.tokens.weight.device and not tracker.category_of(tensor):
            tracker.add(tensor, "optimizer states")
    with tracker, tracker.following(model):
        tracker.reset()
        step()
    return max(tracker.peaks.values(), key=lambda peak: peak[0])[1]
