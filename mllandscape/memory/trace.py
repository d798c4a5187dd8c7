"""Exact live bytes of a real training step, run under fake tensors: a 13B step on a laptop, in seconds, without its memory."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from mllandscape import BadInput
from mllandscape.memory import reference
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.profile import PHASES, MemoryProfile, Moment
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.tracker import Tracker
from mllandscape.torch_private import FakeTensorMode, fake_ranks, local, tree_leaves

MOST_RANKS = 1024
"""A trace grows with the ranks: torch cuts every parameter into a list of so many chunks."""

MOMENTS = 400
"""A timeline has about this many points at most; each is the highest one of its stretch of the step."""


def trace(shape: ModelShape, plan: TrainingPlan) -> MemoryProfile:
    """The reference transformer's training step: exact live bytes of a step whose optimizer states exist already.

    Needs no memory for the model: a step of 13 billion parameters takes seconds. A sharded plan runs torch's own
    ``fully_shard`` on rank 0 of a fake process group, up to ``MOST_RANKS``. Raises BadInput if the plan needs a package that is
    missing, and for ``ddp`` and ``zero1``, whose C++ reducer reads values that fake tensors do not have.
    """
    if plan.strategy in ("ddp", "zero1"):
        raise BadInput(f"strategy={plan.strategy!r} cannot be traced: torch's reducer reads the values of fake tensors; predict it, or run it on real ranks.")
    if plan.ranks > MOST_RANKS:
        raise BadInput(f"ranks={plan.ranks}: a trace takes up to {MOST_RANKS:,}, predict up to 16,384.")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tracker = Tracker()
    with ExitStack() as around:
        with mode:
            model = reference.make_model(shape, plan)
            inputs = reference.make_inputs(shape, plan)
        if plan.strategy != "single":
            from mllandscape.memory import parallel

            around.enter_context(fake_ranks(plan.ranks))
            mesh = parallel.mesh_of(plan, "cpu")
            with mode:
                parallel.shard(model, plan, mesh)
        optimizers = reference.make_optimizers(model, plan)  # outside: AdamW8bit cannot be constructed under fake tensors
        if plan.optimizer == "adamw8bit":  # its quantisation tables are real tensors; converted once, not at every use
            for optimizer in optimizers:
                optimizer.name2qmap = {name: mode.from_tensor(table) for name, table in optimizer.name2qmap.items()}
        if plan.strategy != "single":
            around.enter_context(tracker.following_shards())
        register(tracker, model, optimizers, inputs)
        with mode, tracker, tracker.following(model):
            make_states(model, optimizers)
            tracker.reset()
            reference.train_step(model, optimizers, inputs, plan)
            return profile(tracker, "trace", shape, plan)


def run(shape: ModelShape, plan: TrainingPlan, steps: int = 2, budget: int | None = None) -> tuple[MemoryProfile, list[float]]:
    """The same step with real CPU tensors: the profile of the last of ``steps`` steps, and every step's loss.

    Weights and tokens are the same for every plan. With ``budget`` (bytes) the tracker raises torch.OutOfMemoryError.
    """
    model = reference.make_model(shape, plan)
    reference.initialise(model)
    inputs = reference.make_inputs(shape, plan, seed=1)
    optimizers = reference.make_optimizers(model, plan)
    tracker = Tracker(budget)
    register(tracker, model, optimizers, inputs)
    losses = []
    with tracker, tracker.following(model):
        for _ in range(steps):
            tracker.reset()
            losses.append(reference.train_step(model, optimizers, inputs, plan))
    return profile(tracker, "run", shape, plan), losses


def trace_step(build: Callable[[], Any], step: Callable[..., Any]) -> MemoryProfile:
    """The same answer for any model and any training step.

    ``build()`` returns a module, or a tuple of modules, optimizers and tensors; it runs under fake tensors, so weights cost
    nothing. A function in the tuple is called with the first module's parameters, outside of fake tensors, and replaced
    by what it returns: that is how ``lambda parameters: AdamW8bit(parameters)`` is brought along. ``step(*built)`` runs one
    training step and is called twice; the second call is the profile, with all states in place. Values are not
    computed: ``loss.item()`` is 1, whatever the loss.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        built = build()
    built = built if isinstance(built, tuple) else (built,)
    models = [part for part in built if isinstance(part, nn.Module)]
    if not models:
        raise BadInput(f"build() returned {', '.join(type(part).__name__ for part in built)}: a torch.nn.Module must be among them.")
    model = models[0] if len(models) == 1 else nn.ModuleList(models)
    built = tuple(part if isinstance(part, nn.Module) or not callable(part) else part(models[0].parameters()) for part in built)
    tracker = Tracker()
    register(tracker, model, (part for part in built if isinstance(part, torch.optim.Optimizer)), built)
    with mode, tracker, tracker.following(model):
        step(*built)
        tracker.reset()
        step(*built)
    return profile(tracker, "trace")


def register(tracker: Tracker, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], inputs: Any) -> None:
    """Tell the tracker what exists before the step: parameters, buffers, an optimizer's own master weights, inputs."""
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.add(tensor, "parameters" if local(tensor) is tensor else "sharded parameters")
    for optimizer in optimizers:
        for tensor in tree_leaves([group["params"] for group in optimizer.param_groups]):
            if not tracker.category_of(tensor):
                tracker.add(tensor, "master weights")
    for tensor in tree_leaves(inputs):
        if isinstance(tensor, torch.Tensor):
            tracker.add(tensor, "inputs")


def make_states(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """One optimizer step on empty gradients, so that every state tensor exists."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad()


def profile(tracker: Tracker, method: str, shape: ModelShape | None = None, plan: TrainingPlan | None = None) -> MemoryProfile:
    """What the tracker saw since its last reset."""
    peak_phase = max(tracker.peaks, key=lambda phase: tracker.peaks[phase][0])
    allocated, terms = tracker.peaks[peak_phase]
    return MemoryProfile(
        method=method,
        allocated=allocated,
        peak_phase=peak_phase,
        terms=terms,
        phases={phase: tracker.peaks[phase][1] for phase in PHASES if phase in tracker.peaks},
        timeline=timeline(tracker),
        shape=shape,
        plan=plan,
    )


def timeline(tracker: Tracker) -> tuple[Moment, ...]:
    """The live bytes by category after each event, thinned to the highest moment of every stretch."""
    live, total = Counter(tracker.start), sum(tracker.start.values())
    stretch = max(1, len(tracker.events) // MOMENTS)
    moments: list[Moment] = []
    highest = -1
    for index, (phase, operation, category, change) in enumerate(tracker.events):
        live[category] += change
        total += change
        new = index % stretch == 0 or phase != moments[-1].phase
        if new or total > highest:
            moments[len(moments) - (not new) :] = [Moment(phase, operation, {name: count for name, count in live.items() if count})]
            highest = total
    return tuple(moments)
