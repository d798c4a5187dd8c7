"""An incident that crosses lessons: a job that worked no longer does, several things have changed, one of them is the cause.

``World`` is all that the job depends on. ``run`` starts it, sees whether it fits and counts its right answers, each by the engine of its lesson.
A ``Drill`` draws a world of today from a seed; the learner asks it for evidence, and ``judge`` tries the answer out.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from typing import Any

from mllandscape import BadInput, drift
from mllandscape.cuda.compatibility import Verdict, will_it_run
from mllandscape.memory import MemoryProfile, ModelShape, TrainingPlan, predict
from mllandscape.serving import pipeline
from mllandscape.serving.pipeline import Fault

SHAPE, GPU = "llama-3-8b", "A100"
JOB = TrainingPlan(batch=2, strategy="fsdp", ranks=8)
"""Llama-3-8B under FSDP over 8 A100s; sequence and checkpointing are the world's."""

SMOOTHING = {"1.4.0": 0.0, "1.4.1": 0.0, "2.0.0": 0.8}
CHECKPOINTING = {"0.9.2": "full", "0.9.3": "full", "1.0.0": "none"}
"""What the releases of pixelprep and of trainkit, two toy packages, default to."""

INPUTS: dict[str, Fault | None] = {
    "as on record": None,
    "more contrast": Fault("more contrast", 0.3),
    "moved by a pixel": Fault("one-pixel shift", 1.0, 3),
}
MANTISSA = {"fp32": 23, "TF32": 10, "fp8 e5m2": 2}


@dataclass(frozen=True)
class World:
    """The lock (pixelprep, trainkit, torch, logkit), the data (longest sequence in tokens, inputs) and the machine (driver, card, arithmetic)."""

    pixelprep: str = "1.4.0"
    trainkit: str = "0.9.2"
    torch: str = "2.1.0+cu121"
    logkit: str = "3.1.0"
    longest: int = 8192
    inputs: str = "as on record"
    driver: str = "535.54.03"
    card: str = "A100-80GB"
    arithmetic: str = "fp32"


VALUES: dict[str, tuple[Any, ...]] = {
    "pixelprep": tuple(SMOOTHING),
    "trainkit": tuple(CHECKPOINTING),
    "torch": ("2.1.0+cu118", "2.1.0+cu121", "2.13.0+cu126", "2.13.0+cu130"),
    "logkit": ("3.1.0", "3.2.0", "4.0.1"),
    "longest": (4096, 8192, 32_768),
    "inputs": tuple(INPUTS),
    "driver": ("470.42.01", "535.54.03", "550.54.14", "580.65.06"),
    "card": ("A100-80GB", "A100-40GB"),
    "arithmetic": tuple(MANTISSA),
}
"""Every value that a thing can have."""

LAYERS = {
    "lock": ("pixelprep", "trainkit", "torch", "logkit"),
    "data": ("longest", "inputs"),
    "machine": ("driver", "card", "arithmetic"),
}
ITEMS = tuple(VALUES)
STARTS, FITS, ACCURATE = "it starts", "it fits", "it is as accurate as it was"


@dataclass(frozen=True, eq=False)
class Outcome:
    """How far a world's job comes: the driver's verdict, then the memory, then the answers, None where it does not get there."""

    start: Verdict
    memory: MemoryProfile | None
    card: str
    test: drift.Paired | None

    @property
    def fails(self) -> str:
        """The first of STARTS, FITS and ACCURATE that does not hold, or ""."""
        if self.memory is None:
            return STARTS
        if self.test is None:
            return FITS
        return ACCURATE if self.test.p < drift.LEVEL and self.test.drop > 0 else ""

    @property
    def well(self) -> bool:
        return not self.fails

    def __repr__(self) -> str:
        if self.memory is None:
            return f"it does not start: {self.start.message.rstrip('.')}"
        if self.test is None:
            return f"CUDA out of memory: the step {self.memory.fits(self.card)}"
        counts = f"{self.test.lost} answers lost, {self.test.gained} gained of {self.test.n}, {drift.p_words(self.test.p)}"
        return f"accuracy fell by {self.test.drop:.1f} points: {counts}" if self.fails else f"it runs, and answers as before ({counts})"


def memory(world: World) -> MemoryProfile:
    """Lesson 3 and 4: the step of a rank at the longest sequence, with the checkpointing that the installed trainkit defaults to."""
    return predict(ModelShape.preset(SHAPE), JOB.but(sequence=world.longest, checkpointing=CHECKPOINTING[world.trainkit]))


def start(world: World) -> Verdict:
    """Lesson 8: whether the installed build of torch runs on this GPU under this driver."""
    return will_it_run(f"torch {world.torch}", GPU, world.driver)


def state(world: World) -> pipeline.State:
    """Lesson 6: the serving pipeline with this world's library default, inputs and arithmetic."""
    released = pipeline.release().state
    data = fault(released).data if (fault := INPUTS[world.inputs]) else released.data
    return replace(released, data=data, library=SMOOTHING[world.pixelprep], hardware=pipeline.Numerics(mantissa=MANTISSA[world.arithmetic]))


@cache
def _answers(inputs: str, pixelprep: str, arithmetic: str) -> Any:
    return pipeline.release().right(state(World(inputs=inputs, pixelprep=pixelprep, arithmetic=arithmetic)))


@cache
def run(world: World) -> Outcome:
    """Start the job, then fit it, then compare its answers with those of the release on the same items."""
    first = start(world)
    if not first:
        return Outcome(first, None, world.card, None)
    step = memory(world)
    if not step.fits(world.card):
        return Outcome(first, step, world.card, None)
    before, now = (_answers(one.inputs, one.pixelprep, one.arithmetic) for one in (World(), world))
    return Outcome(first, step, world.card, drift.paired(before, now))


def changed(then: World, now: World) -> tuple[str, ...]:
    """The things that differ."""
    return tuple(item for item in ITEMS if getattr(then, item) != getattr(now, item))


def layer(item: str) -> str:
    """The layer, lock, data or machine, of a thing. Raises BadInput for an unknown one."""
    if item not in ITEMS:
        raise BadInput(f"no {item!r} here: {', '.join(ITEMS)} are possible.")
    return next(name for name, items in LAYERS.items() if item in items)


@cache
def causes() -> dict[str, tuple[tuple[str, Any], ...]]:
    """What breaks a world alone, by what then fails: (thing, value) pairs. Found by trying every value of every thing."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for item, values in VALUES.items():
        for value in values:
            fails = run(replace(World(), **{item: value})).fails
            if fails:
                found.setdefault(fails, []).append((item, value))
    return {fails: tuple(pairs) for fails, pairs in found.items()}


@dataclass
class Drill:
    """One incident. ``asked`` lists the evidence asked for so far; the cause is found by asking, not by looking inside."""

    seed: int
    then: World
    now: World
    cause: str = field(repr=False)
    asked: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        names = ", ".join(name for name in EVIDENCE)
        return f"Incident {self.seed}. Yesterday's job worked; today {run(self.now)}. Ask for evidence: {names}."

    def lock(self) -> str:
        """What differs between the lock of yesterday and what is installed today."""
        return self._told("lock", LAYERS["lock"])

    def data(self) -> str:
        """What differs in the data."""
        return self._told("data", LAYERS["data"])

    def machine(self) -> str:
        """What differs in the machine."""
        return self._told("machine", LAYERS["machine"])

    def verdict(self) -> str:
        """Driver, build and GPU, rule by rule."""
        self.asked.append("verdict")
        return str(start(self.now))

    def bytes(self) -> str:
        """The peak of a rank's step, yesterday and today, by term."""
        self.asked.append("bytes")
        lines = []
        for name, world in (("yesterday", self.then), ("today", self.now)):
            profile = memory(world)
            terms = ", ".join(f"{term} {count / 2**30:.1f}" for term, count in profile.terms.items() if count > 2**28)
            lines.append(f"{name}: {profile.allocated / 2**30:.1f} GiB in {profile.peak_phase} ({terms}); {profile.fits(world.card)}")
        return "\n".join(lines)

    def layers(self) -> str:
        """Which layers of the serving pipeline have another fingerprint than the release."""
        self.asked.append("layers")
        before, now = state(self.then).fingerprints(), state(self.now).fingerprints()
        differ = [name for name in before if before[name] != now[name]]
        return f"another fingerprint: {', '.join(differ) or 'none'}"

    def swap(self, *items: str) -> Outcome:
        """Today's job with these things as they were yesterday."""
        for item in items:
            layer(item)
        self.asked.append(f"swap {', '.join(items)}")
        return run(replace(self.now, **{item: getattr(self.then, item) for item in items}))

    def _told(self, name: str, items: Iterable[str]) -> str:
        self.asked.append(name)
        differ = [f"{item} {getattr(self.then, item)} → {getattr(self.now, item)}" for item in items if item in changed(self.then, self.now)]
        return "; ".join(differ) or "no difference"


EVIDENCE = {name: getattr(Drill, name).__doc__.partition("\n")[0] for name in ("lock", "data", "machine", "verdict", "bytes", "layers", "swap")}
"""What can be asked for, and what it answers."""


def incident(seed: int, symptom: str | None = None) -> Drill:
    """Draw an incident: a cause that breaks the job alone, and up to four harmless changes, in whose company it is still the only one.

    ``symptom`` is one of STARTS, FITS and ACCURATE, or None for any. Raises BadInput for another.
    """
    if symptom is not None and symptom not in causes():
        raise BadInput(f"symptom={symptom!r}: {', '.join(causes())} are possible.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadInput(f"seed={seed!r}: a whole number is needed.")
    draw = random.Random(f"incident {seed} {symptom}")
    then = World()
    cause, value = draw.choice(causes()[symptom or draw.choice(sorted(causes()))])
    while True:
        quiet = {item: draw.choice([one for one in VALUES[item] if one != getattr(then, item)]) for item in draw.sample(ITEMS, k=5) if item != cause}
        now = replace(then, **quiet, **{cause: value})
        if len(quiet) >= 4 and _one_cause(then, now, cause):
            return Drill(seed, then, now, cause)


def _one_cause(then: World, now: World, cause: str) -> bool:
    """Whether the job works exactly where the cause is as it was, whichever of the other things are put back with it."""
    others = [item for item in changed(then, now) if item != cause]
    for size in range(len(others) + 1):
        for back in combinations(others, size):
            world = replace(now, **{item: getattr(then, item) for item in back})
            if run(world).well or not run(replace(world, **{cause: getattr(then, cause)})).well:
                return False
    return True


def judge(drill: Drill, cause: str, remedy: Mapping[str, Any]) -> str | None:
    """None if the cause is right and the remedy, changes to today's world by thing, makes the job run as before; else what is wrong, in one sentence."""
    if cause not in ITEMS:
        return f"The cause is one of {', '.join(ITEMS)}, not {cause!r}."
    if not isinstance(remedy, Mapping) or not remedy or any(item not in ITEMS or value not in VALUES[item] for item, value in remedy.items()):
        return f"The remedy is a dict of a thing and its new value, such as {{'driver': '{VALUES['driver'][-1]}'}}; possible are {VALUES}."
    if cause not in changed(drill.then, drill.now):
        return f"{cause} is what it was yesterday."
    if not drill.swap(cause).well:
        return f"With {cause} as it was yesterday: {run(replace(drill.now, **{cause: getattr(drill.then, cause)}))}."
    if len(remedy) > 1:
        return f"{len(remedy)} changes at once; one is enough, and then you know which."
    after = run(replace(drill.now, **remedy))
    return None if after.well else f"With that change: {after}."


# -- systematic, or at random? ---------------------------------------------------------------------------------------------


def isolate(drill: Drill) -> tuple[str, int]:
    """The cause, and the runs until it is found by halving what changed: put one half back, run, keep the half that heals."""
    suspects, runs = list(changed(drill.then, drill.now)), 0
    while len(suspects) > 1:  # one cause, so one half heals and the other does not
        half = suspects[: len(suspects) // 2]
        healed = run(replace(drill.now, **{item: getattr(drill.then, item) for item in half})).well
        suspects, runs = half if healed else suspects[len(half) :], runs + 1
    return suspects[0], runs


def try_at_random(drill: Drill, seed: int, most: int = 200) -> tuple[int, int]:
    """Runs until the job works when anything is set to any value, one after the other and never back, and how many things differ from yesterday then."""
    draw, world = random.Random(f"random {seed}"), drill.now
    for runs in range(1, most + 1):
        item = draw.choice(ITEMS)
        world = replace(world, **{item: draw.choice(VALUES[item])})
        if run(world).well:
            return runs, len(changed(drill.then, world))
    return most, len(changed(drill.then, world))
