"""What came out: the bytes of one training step, whichever of the three ways produced them."""

from dataclasses import dataclass, field

from mllandscape import units
from mllandscape.memory.cards import capacity
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.shape import ModelShape

PHASES = ("forward", "backward", "optimizer step")


@dataclass(frozen=True)
class Band:
    """A range of bytes and the assumptions that it holds under."""

    low: int
    high: int
    assumes: str


@dataclass(frozen=True)
class Moment:
    """The live bytes by category at one point of the step; ``label`` names the operation or layer."""

    phase: str
    label: str
    live: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.live.values())


@dataclass(frozen=True)
class Verdict:
    """Whether a step fits: ``yes``, ``tight`` (only with little fragmentation) or ``no``; ``margin`` in bytes is capacity minus need."""

    fits: str
    margin: int
    capacity: int
    words: str

    def __bool__(self) -> bool:
        return self.fits == "yes"

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class MemoryProfile:
    """Bytes of one training step on one rank.

    ``allocated`` is the peak of live tensor bytes, each storage rounded up to 512 B; ``terms`` are its parts at that
    moment and sum to it exactly; ``phases`` holds the same for the peak of each phase. ``cuda_only`` names what a GPU
    adds and no CPU tracer can see. ``reserved`` and ``device`` are bands, given by ``predict`` alone.
    """

    method: str
    allocated: int
    peak_phase: str
    terms: dict[str, int]
    phases: dict[str, dict[str, int]]
    timeline: tuple[Moment, ...] = field(default=(), repr=False)
    shape: ModelShape | None = None
    plan: TrainingPlan | None = None
    cuda_only: dict[str, int] = field(default_factory=dict)
    reserved: Band | None = None
    device: Band | None = None

    def fits(self, card: str | int) -> Verdict:
        """Judge against a card's name (``"A100-80GB"``), a size (``"80GB"``, ``"79.15GiB"``) or bytes.

        A predicted profile is judged by its ``device`` band, a traced one by ``allocated``. Raises BadInput for an unknown card.
        """
        limit = capacity(card)
        low, high = (self.device.low, self.device.high) if self.device else (self.allocated, self.allocated)
        included = ", reserve and CUDA context included" if self.device else ""
        if high <= limit:
            return Verdict("yes", limit - high, limit, f"fits: at most {units.gib(high)} of {units.gib(limit)}{included}")
        if low <= limit:
            words = f"tight: {units.gib(low)} to {units.gib(high)} against {units.gib(limit)}{included}; fragmentation decides"
            return Verdict("tight", limit - high, limit, words)
        return Verdict("no", limit - low, limit, f"does not fit: at least {units.gib(low)} against {units.gib(limit)}{included}")
