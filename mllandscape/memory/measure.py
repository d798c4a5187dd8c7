"""The same training step on a real CUDA GPU, in a child process: what torch's allocator counted, what the device had left, or how it ran out.

Importing this imports no torch: what was measured can be read, compared and drawn where there is none. The child's side is ``cuda_step``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from statistics import median
from typing import Any

from mllandscape import BadInput, record, sandbox, units
from mllandscape.memory.plan import DEFAULTS, TrainingPlan
from mllandscape.memory.predict import predict
from mllandscape.memory.profile import MemoryProfile
from mllandscape.memory.shape import PRESETS, ModelShape

INSTANTS = 400
"""A history has about this many instants at most; each is the highest one of its stretch of the step."""

BASELINE = units.MIB
"""Bytes that may still be allocated after a step was let go of; more, and the next one is measured in a new process."""

ENDINGS = ("ok", "out of memory", "not here", "error")


@dataclass(frozen=True)
class Instant:
    """One point of a step's history: bytes asked for and not freed, and bytes that the allocator has reserved."""

    phase: str
    requested: int
    reserved: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One training step on one GPU. All sizes are bytes of this process, except ``device``.

    ``ending`` is ``ok``, ``out of memory``, ``not here`` (a package or a kernel that the plan needs is missing; ``message`` says which) or ``error``.
    ``budget`` is what torch's allocator was allowed to reserve, None for the whole card. Peaks are over the measured steps, or up to the failure:

    - ``allocated``: blocks in use, by the allocator's own counter; ``requested``: the same as asked for, before rounding; ``reserved``: what the
      allocator had taken from the device; ``phases``: ``allocated`` again, for each phase.
    - ``device``: total less free memory as the driver reports it at the end of each phase, whoever uses it; ``outside``: what of it is not
      ``reserved`` at that moment, which is the CUDA context, loaded kernels and other processes. Between two phases ``reserved`` only grows, unless the
      allocator retries, so a sample there misses nothing else.
    - ``tracked``: live tensors by category at the highest moment of one more step, by the tracker that also traces. It sees no byte that a kernel allocates
      for itself.
    - ``workspaces``: what cuBLAS had kept, by the allocator's counter before and after they were let go of. ``left``: what was allocated after
      everything was let go of, less what was before.

    ``retries`` and ``ooms`` are the allocator's counts up to then; ``failed`` says in which step (0 is the warm-up) and phase it ran out, ``parts`` holds
    the message's numbers. ``seconds`` are the measured steps' by CUDA events, ``losses`` all steps'. ``history`` is one more step's, by torch's memory history.
    """

    shape: ModelShape
    plan: TrainingPlan
    budget: int | None = None
    ending: str = "ok"
    message: str = ""
    parts: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    allocated: int = 0
    requested: int = 0
    reserved: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    device: int = 0
    outside: int = 0
    workspaces: int = 0
    left: int = 0
    retries: int = 0
    ooms: int = 0
    tracked: dict[str, int] = field(default_factory=dict)
    losses: tuple[float | None, ...] = ()
    seconds: tuple[float, ...] = ()
    history: tuple[Instant, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        return self.ending == "ok"

    @property
    def restored(self) -> bool:
        """Whether the process was as before when everything was let go of."""
        return self.left <= BASELINE

    @property
    def step_seconds(self) -> float:
        return median(self.seconds)

    @property
    def predicted(self) -> MemoryProfile:
        """What ``predict`` says today of this shape and plan."""
        return predict(self.shape, self.plan)

    def to_json(self) -> dict:
        """What differs from the defaults; a preset by its name, a history as columns. ``from_json`` is the way back."""
        told = {one.name: record.plain(getattr(self, one.name)) for one in fields(self) if getattr(self, one.name) != one.default}
        told = {name: value for name, value in told.items() if value not in ({}, [])}
        told["shape"] = self.shape.name if PRESETS.get(self.shape.name) == self.shape else self.shape.to_json()
        told["plan"] = {name: value for name, value in self.plan.to_json().items() if value not in (DEFAULTS[name], "foreach")}
        if self.history:
            columns = {"phase": [one.phase for one in self.history]}
            told["history"] = columns | {name: [getattr(one, name) for one in self.history] for name in ("requested", "reserved")}
        return told

    @classmethod
    def from_json(cls, told: dict) -> "Measured":
        """Raises BadInput for what ``to_json`` does not write."""
        try:
            given = {one.name: record.plain(one.default_factory() if callable(one.default_factory) else one.default) for one in fields(cls)[2:]} | told
            given["shape"] = given["shape"] if isinstance(given["shape"], dict) else ModelShape.preset(given["shape"]).to_json()
            given["plan"] = TrainingPlan(**given["plan"]).to_json()
            if columns := given["history"]:
                zipped = zip(columns["phase"], columns["requested"], columns["reserved"], strict=True)
                given["history"] = [{"phase": phase, "requested": requested, "reserved": reserved} for phase, requested, reserved in zipped]
            return record.restore(cls, given)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is not a measured step ({type(error).__name__} {error}): record it again.") from None


def measure(
    shape: ModelShape, plan: TrainingPlan, budget: str | int | None = None, *, history: bool = True, seconds: float = 180,
    progress: Callable[[str], None] | None = None,
) -> Measured:  # fmt: skip
    """Run the training step for real on GPU 0, in a child process whose allocator may reserve ``budget`` (bytes, or ``"8GiB"``; None: all that is free).

    A warm-up step, which makes the optimizer's states, two measured ones, and one more each for the memory history (if asked for) and the tracker.
    Out of memory is a value. Raises BadInput without a GPU that this torch can use, for a plan of several ranks, and when the child is stopped.
    """
    wanted = Wanted(shape, plan, None if budget is None else units.parse_bytes(budget), history)
    return measure_each([wanted], seconds=seconds, progress=progress)[0]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured, as ``measure`` takes it."""

    shape: ModelShape
    plan: TrainingPlan
    budget: int | None = None
    history: bool = False


def measure_each(wanted: Sequence[Wanted], *, seconds: float = 600, progress: Callable[[str], None] | None = None) -> list[Measured]:
    """``measure`` of one after another, in one child as long as each leaves it as it was, else in a new one for the rest. ``seconds`` is for each child."""
    for one in wanted:
        if one.plan.strategy not in ("single", "fsdp", "zero2", "hsdp", "ddp"):
            raise BadInput(f"strategy={one.plan.strategy!r} cannot be measured on one GPU: single, ddp, fsdp, zero2 and hsdp can, or run it on real ranks.")
        one.plan.check(one.shape)
    done: list[Measured] = []
    while len(done) < len(wanted):
        rest = [record.plain(one) for one in wanted[len(done) :]]
        outcome = sandbox.call("mllandscape.memory.cuda_step:run_each", wanted=rest, seconds=seconds, progress=progress)
        if not outcome.ok or not outcome.value:
            raise BadInput(_first_line(outcome) if outcome.error_type == "BadInput" else f"the measurement ended with {outcome.ending}: {_first_line(outcome)}")
        done += [Measured.from_json(one) for one in outcome.value]
    return done


def card(seconds: float = 120) -> "Card":
    """The GPU that ``measure`` would use, found out in a child process. Raises BadInput without one."""
    outcome = sandbox.call("mllandscape.memory.cuda_step:look", seconds=seconds)
    if not outcome.ok:
        raise BadInput(_first_line(outcome))
    return Card(**outcome.value)


@dataclass(frozen=True)
class Card:
    """GPU 0 as torch reports it. ``capacity`` is its whole memory, ``free`` what torch gets of it in a new process, ``outside`` what is taken besides, by the
    CUDA context after a first matrix product and by other processes (bytes, the last two in steps of 64 MiB); ``packages`` are the optional ones it has.
    """

    name: str
    capacity: int
    free: int
    outside: int
    capability: str
    driver: str
    cuda: str
    torch: str
    python: str
    packages: list[str]

    def provenance(self, command: str) -> record.Provenance:
        """What is said of a run on it today."""
        where = {"device": self.name, "driver": self.driver, "cuda": self.cuda, "torch": self.torch, "python": self.python}
        return record.Provenance(kind="computed", **where, date=date.today().isoformat(), command=command)


def _first_line(outcome: sandbox.Outcome) -> str:
    return outcome.message.partition("\n")[0] or outcome.error_type or outcome.ending


def thinned(points: Sequence[Any], most: int, height: Callable[[Any], float]) -> list:
    """Every stretch's highest point, so that about ``most`` are left and no peak is lost."""
    stretch = -(-len(points) // most) if points else 1
    return [max(points[start : start + stretch], key=height) for start in range(0, len(points), stretch)]


_AMOUNT = r"([\d.]+) ?(bytes|[KMGT]iB)"
_PARTS = {
    "asked for": (rf"allocate {_AMOUNT}",),
    "capacity": (rf"capaci?ty of {_AMOUNT}", rf"{_AMOUNT} total capacity"),  # torch 2.0 wrote capacty
    "free": (rf"of which {_AMOUNT} is free", rf"{_AMOUNT} free"),
    "in use by this process": (rf"this process has {_AMOUNT} memory in use", rf"Process \d+ has {_AMOUNT} memory in use"),
    "allowed": (rf"{_AMOUNT} allowed",),
    "allocated": (rf"{_AMOUNT} is allocated by PyTorch", rf"{_AMOUNT} already allocated"),
    "reserved, unallocated": (rf"{_AMOUNT} is reserved by PyTorch but unallocated",),
}


def take_apart(message: str) -> dict[str, int]:
    """The numbers of an out-of-memory message in bytes (GiB and MiB are rounded by torch): what was asked for and, on CUDA, who has the rest.

    ``allowed`` is there when the process has a budget. ``context and others`` is what the process uses beyond torch's allocator. Of several processes
    the one that torch calls "this process" is meant, else the first. Raises BadInput for a message with no number in it.
    """
    numbers = {}
    for name, patterns in _PARTS.items():
        if match := next(filter(None, (re.search(pattern, message) for pattern in patterns)), None):
            numbers[name] = units.parse_bytes(f"{match[1]} {match[2].replace('bytes', 'B')}") if float(match[1]) else 0
    if "asked for" not in numbers:
        raise BadInput(f"{message[:80]!r} is not an out-of-memory message of torch: it says how much it tried to allocate.")
    if numbers.get("in use by this process", 0) > numbers.get("capacity", 0):  # on Windows the driver does not know, which torch prints as 2^64 bytes
        del numbers["in use by this process"]
    if {"reserved, unallocated", "in use by this process", "allocated"} <= numbers.keys():
        numbers["context and others"] = numbers["in use by this process"] - numbers["allocated"] - numbers["reserved, unallocated"]
    return numbers
