"""Predictions held to measurements: the grid of plans and shapes that a GPU runs, and the judgement of what it measured, term by term."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mllandscape import units
from mllandscape.memory.measure import Measured, Wanted
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.predict import predict
from mllandscape.memory.shape import ModelShape

MEAN, WORST, INSIDE = 0.01, 0.03, 0.9
"""The bar: mean and largest error of the predicted allocated bytes, and the share of plans whose reserved bytes are inside the predicted band."""

DRIFT = 0.002
"""By so much, of the bytes measured, a prediction may get worse after it was recorded."""

VARIANTS = {
    "autocast": {},
    "autocast, fused": {"optimizer_impl": "fused"},
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "bf16, fused": {"precision": "bf16", "optimizer_impl": "fused"},
    "bf16, master weights": {"precision": "bf16-master", "optimizer_impl": "fused"},
    "checkpointing": {"checkpointing": "full"},
    "selective checkpointing": {"checkpointing": "selective"},
    "math attention": {"attention": "math", "optimizer_impl": "fused"},
    "chunked loss": {"loss": "chunked", "checkpointing": "full", "optimizer_impl": "fused"},
    "two accumulated": {"accumulation": 2, "optimizer_impl": "fused"},
    "SGD": {"optimizer": "sgd"},
    "SGD, momentum": {"optimizer": "sgd-momentum", "precision": "bf16"},
    "Adafactor, bf16": {"optimizer": "adafactor", "precision": "bf16", "checkpointing": "full"},
    "8-bit AdamW, bf16": {"optimizer": "adamw8bit", "precision": "bf16", "checkpointing": "full"},
    "in backward, bf16": {"in_backward": True, "precision": "bf16", "checkpointing": "full"},
    "LoRA, bf16": {"trainable": "lora", "precision": "bf16", "checkpointing": "full"},
    "four sequences, bf16": {"batch": 4, "precision": "bf16", "checkpointing": "full", "optimizer_impl": "fused"},
}
"""Each value of each choice of a plan at least once."""

SHAPES = {
    "125m": (ModelShape.preset("gpt2"), ModelShape.of_size(1.25e8)),
    "350m": (ModelShape.preset("gpt2-medium"), ModelShape.preset("qwen2.5-0.5b")),
    "1b": (ModelShape.preset("llama-3.2-1b"), ModelShape.preset("gpt2-xl")),
    "7b": (ModelShape.preset("llama-2-7b"), ModelShape.preset("llama-3-8b")),
    "13b": (ModelShape.preset("llama-2-13b"),),
}
"""By the recording that they go to. With heads that share keys and values and without, with biases and without, tied heads and others."""

TOKENS = {"125m": (8, 1024), "350m": (4, 1024), "1b": (2, 1024), "7b": (1, 2048), "13b": (1, 2048)}
"""Batch and sequence."""


def cells(size: str, free: int, packages: Sequence[str] = ()) -> dict[str, Wanted]:
    """What of the grid a card with so many free bytes can run, and what it has the packages for: {"gpt2, autocast": …}."""
    found = {}
    batch, sequence = TOKENS[size]
    for shape in SHAPES[size]:
        for name, changes in VARIANTS.items():
            plan = TrainingPlan(**{"batch": batch, "sequence": sequence} | changes)
            if plan.optimizer == "adamw8bit" and "bitsandbytes" not in packages:
                continue
            if plan.precision == "fp32" and shape.kv_heads < shape.heads and plan.attention == "flash":
                continue  # no fused kernel of CUDA takes it
            if predict(shape, plan).reserved.high <= free:
                found[f"{shape.name}, {name}"] = Wanted(shape, plan)
    return found


@dataclass(frozen=True)
class Apart:
    """Where a measured peak's bytes are. ``predicted`` + ``tensors`` + ``kernels`` + ``workspaces`` + ``rounding`` = ``allocated``.

    ``predicted`` are live tensors alone and ``expected`` all that ``predict`` expects of the allocator. ``tensors`` is what the tracker saw beyond the
    predicted; ``kernels`` what was asked for beyond that, which kernels allocate for themselves; ``workspaces`` what cuBLAS kept; ``rounding`` what the
    allocator gave beyond what was asked for.
    """

    name: str
    allocated: int
    predicted: int
    expected: int
    tensors: int
    kernels: int
    workspaces: int
    rounding: int
    reserved: int
    band: tuple[int, int]

    @property
    def error(self) -> float:
        """Of the expected bytes, as a share of those measured."""
        return self.expected / self.allocated - 1

    @property
    def inside(self) -> bool:
        return self.band[0] <= self.reserved <= self.band[1]


def expected(measured: Measured) -> int:
    """What ``predict`` says today that the allocator's peak is, workspaces included, of the same shape and plan."""
    profile = measured.predicted
    return profile.allocated + sum(profile.cuda_only.values())


TERMS = ("tensors", "kernels", "workspaces", "rounding")


def apart(name: str, measured: Measured) -> Apart:
    """One measured step, taken apart by today's prediction. Without the tracker's count, ``kernels`` is in ``tensors``."""
    profile = measured.predicted
    workspaces = measured.workspaces
    tracked = sum(measured.tracked.values()) or measured.requested - workspaces
    return Apart(
        name=name,
        allocated=measured.allocated,
        predicted=profile.allocated,
        expected=expected(measured),
        tensors=tracked - profile.allocated,
        kernels=measured.requested - workspaces - tracked,
        workspaces=workspaces,
        rounding=measured.allocated - measured.requested,
        reserved=measured.reserved,
        band=(profile.reserved.low, profile.reserved.high),
    )


@dataclass(frozen=True)
class Accuracy:
    """The judgement of a grid. Its text is a line for all, one for each term, and one for each plan that is over the bar."""

    cells: tuple[Apart, ...]

    @property
    def mean(self) -> float:
        return fmean(abs(cell.error) for cell in self.cells)

    @property
    def worst(self) -> Apart:
        return max(self.cells, key=lambda cell: abs(cell.error))

    @property
    def inside(self) -> float:
        return fmean(cell.inside for cell in self.cells)

    def term(self, name: str) -> tuple[float, Apart]:
        """A term's mean share of the measured bytes, and the plan in which it is largest either way."""
        shares = {cell: getattr(cell, name) / cell.allocated for cell in self.cells}
        return fmean(shares.values()), max(shares, key=lambda cell: abs(shares[cell]))

    def problems(self) -> list[str]:
        """What misses the bar, a line each."""
        told = []
        if self.mean > MEAN:
            told.append(f"the mean error is {self.mean:.2%}, at most {MEAN:.0%} is wanted")
        told += [f"{cell.name}: off by {cell.error:+.2%}, at most {WORST:.0%} is wanted" for cell in self.cells if abs(cell.error) > WORST]
        if self.inside < INSIDE:
            outside = ", ".join(cell.name for cell in self.cells if not cell.inside)
            told.append(f"reserved bytes are inside the band in {self.inside:.0%}, {INSIDE:.0%} is wanted; outside: {outside}")
        return told

    def __str__(self) -> str:
        worst = self.worst
        lines = [
            f"{len(self.cells)} plans: allocated bytes off by {self.mean:.2%} on average, {worst.error:+.2%} at most ({worst.name}); "
            f"reserved inside the band in {self.inside:.0%}."
        ]
        for name in TERMS:
            share, where = self.term(name)
            largest = getattr(where, name)
            lines.append(
                f"{name}: {share:+.2%} of the measured bytes on average, {largest / where.allocated:+.2%} at most ({units.size(largest)}, {where.name})"
            )
        return "\n".join(lines + self.problems())


def judge(measured: Mapping[str, Measured]) -> Accuracy:
    """Hold today's predictions to what was measured; what ran out of memory or could not run has no peak to compare."""
    return Accuracy(tuple(apart(name, one) for name, one in measured.items() if one.ok))


def drifted(name: str, measured: Measured, expected_then: int) -> str:
    """A line if today's prediction is farther from what was measured than it was when that was recorded, else nothing."""
    now, then = apart(name, measured).error, expected_then / measured.allocated - 1
    if abs(now) <= max(abs(then), MEAN) + DRIFT:
        return ""
    return f"{name}: predicted {now:+.2%} off what was measured, {then:+.2%} when it was recorded"
