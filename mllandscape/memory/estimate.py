"""Does this training step fit on that card, what takes the room, and the cheapest changes that make it fit."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from textwrap import fill

from mllandscape import BadInput, told, units
from mllandscape.memory.cards import capacity, label
from mllandscape.memory.plan import DEFAULTS, PARALLEL, TrainingPlan
from mllandscape.memory.predict import predict
from mllandscape.memory.profile import PHASES, Band, MemoryProfile, Verdict
from mllandscape.memory.shape import ModelShape

WIDTH = 100

COSTS = ("nothing", "time", "freedom", "numerics", "another optimizer", "what is trained")
"""What a change is paid with, cheapest first: nothing that training would notice; compute done again; gradients that are gone
before they can be clipped or accumulated; digits; an optimizer to tune anew; fewer weights trained."""

TOGETHER = 3
"""How many changes that cost something are tried together."""


@dataclass(frozen=True)
class Change:
    """One change of the plan, or up to three together, that make it fit: the new plan, its predicted bytes, and what it costs."""

    label: str
    plan: TrainingPlan
    allocated: int
    cost_words: str

    def __str__(self) -> str:
        return f"{self.label}: {units.gib(self.allocated)} allocated; price: {self.cost_words}"


_SPLIT = "smaller batch"


@dataclass(frozen=True, eq=False)
class _Move:
    label: str
    cost: int  # an index of COSTS
    words: str
    fields: dict[str, object]


def _moves(plan: TrainingPlan) -> Iterator[_Move]:
    """Every single change that can save memory on this plan, in order of cost. The fields of a move are the plan's that it sets."""
    if plan.attention == "math":
        yield _Move("flash attention", 0, "nothing", {"attention": "flash"})
    if plan.optimizer_impl == "foreach":
        yield _Move(f"fused {plan.optimizer}", 0, "nothing", {"optimizer_impl": "fused"})
    if plan.loss == "full":
        yield _Move("chunked loss", 1, "the logits computed twice", {"loss": "chunked"})
    if plan.batch > 1:
        yield _Move(_SPLIT, 1, "more, smaller kernels", {"batch": 1, "accumulation": plan.accumulation * plan.batch})
    if plan.checkpointing == "none" and plan.attention == "math":
        yield _Move("selective checkpointing", 1, "attention computed twice", {"checkpointing": "selective"})
    if plan.checkpointing != "full":
        yield _Move("full checkpointing", 1, "every block's forward pass computed twice", {"checkpointing": "full"})
    if not plan.in_backward:
        fields = {"in_backward": True, "accumulation": 1}
        words = "no clipping by the total norm and no accumulation"
        yield _Move("optimizer in backward", 2, words if plan.accumulation == 1 else f"{words}: a batch {plan.accumulation} times smaller", fields)
    if plan.optimizer == "adamw":
        yield _Move("8-bit AdamW (bitsandbytes)", 3, "optimizer states of 8 bits", {"optimizer": "adamw8bit"})
    if plan.precision == "fp32":
        yield _Move("amp-bf16", 3, "matmuls in bf16", {"precision": "amp-bf16"})
    if plan.precision != "bf16":
        yield _Move("pure bf16", 3, "no fp32 weights, so small updates round away", {"precision": "bf16"})
    if plan.optimizer in ("adamw", "sgd-momentum", "adamw8bit"):
        yield _Move("Adafactor", 4, "a learning rate to find anew", {"optimizer": "adafactor"})
    if plan.trainable == "all":
        fields = {"trainable": "lora"} | ({"precision": "bf16"} if plan.precision == "bf16-master" else {})
        yield _Move(f"LoRA of rank {plan.lora_rank}", 5, "only the adapters are trained", fields)


def _in_order_of_cost(moves: list[_Move]) -> list[tuple[_Move, ...]]:
    """None, one and more moves that set different fields: as dear as the dearest of them, then the fewer the better."""
    combos = [combo for size in range(TOGETHER + 1) for combo in combinations(moves, size)]
    apart = [combo for combo in combos if sum(len(move.fields) for move in combo) == len({field for move in combo for field in move.fields})]
    return sorted(apart, key=lambda combo: (combo[-1].cost if combo else 0, len(combo), sum(move.cost for move in combo)))


def _with(plan: TrainingPlan, moves: Iterable[_Move]) -> TrainingPlan:
    return plan.but(**_fields(moves))


def _fields(moves: Iterable[_Move]) -> dict[str, object]:
    return {field: value for move in moves for field, value in move.fields.items()}


def _gentlest_split(shape: ModelShape, plan: TrainingPlan, batch: int, limit: int) -> TrainingPlan:
    """A plan that fits with micro-batch 1, at the largest micro-batch that divides ``batch`` and still fits."""

    def split(micro: int) -> TrainingPlan:
        return plan.but(batch=micro, accumulation=plan.accumulation // micro)

    sizes = [size for size in range(1, batch // 2 + 1) if batch % size == 0]
    return split(sizes[bisect_left(sizes, True, lo=1, key=lambda micro: not predict(shape, split(micro)).fits(limit)) - 1])


def cheapest_changes(shape: ModelShape, plan: TrainingPlan, card: str | int, n: int = 3) -> list[Change]:
    """At most ``n`` sets of changes to the plan that fit on the card, cheapest first (``COSTS``); none if the plan fits already.

    A set has at most ``TOGETHER`` changes that cost something, and none that it could do without. A smaller batch keeps the
    effective batch by accumulation, in the largest micro-batches that fit. Judged by the device band's high end, so a
    listed plan does not hang on fragmentation.
    """
    limit = capacity(card)

    def fits(candidate: TrainingPlan) -> bool:
        return bool(predict(shape, candidate).fits(limit))

    if fits(plan):
        return []
    moves = list(_moves(plan))
    found: dict[tuple[_Move, ...], Change] = {}
    for combo in _in_order_of_cost([move for move in moves if move.cost]):
        if len(found) == n:
            break
        if any(_fields(smaller).items() <= _fields(combo).items() for smaller in found):
            continue
        changes_optimizer = any("optimizer" in move.fields for move in combo)
        free = [move for move in moves if not move.cost and not (changes_optimizer and "optimizer_impl" in move.fields)]
        try:
            if not fits(_with(plan, [*free, *combo])):
                continue
        except BadInput:  # a combination that makes no sense, such as LoRA with master weights
            continue
        for move in list(free):
            if fits(_with(plan, [*(other for other in free if other is not move), *combo])):
                free.remove(move)
        chosen = [*free, *combo]
        changed = _with(plan, chosen)
        words = [move.label for move in chosen]
        if _SPLIT in words:
            changed = _gentlest_split(shape, changed, plan.batch, limit)
            words[words.index(_SPLIT)] = f"micro-batches of {changed.batch} with accumulation {changed.accumulation}"
        paid = "; ".join(move.words for move in combo) or "nothing"
        found[combo] = Change(" + ".join(words), changed, predict(shape, changed).allocated, paid)
    return list(found.values())


@dataclass(frozen=True)
class Report:
    """The answer of ``mllandscape estimate``: a predicted profile, the verdict on one card, and the changes that would help.

    ``str`` is a table of at most 100 columns in GB (10^9 bytes), with the totals in GiB (2^30) too; ``to_json`` has bytes.
    """

    profile: MemoryProfile
    card: str | int
    verdict: Verdict
    changes: tuple[Change, ...]

    def to_json(self) -> dict:
        profile = self.profile
        return {
            "unit": "bytes",
            "shape": profile.shape.to_json() | {"parameters": profile.shape.parameters},
            "plan": profile.plan.to_json(),
            "card": {"given": self.card, "capacity": self.verdict.capacity, "words": label(self.card)},
            "allocated": profile.allocated,
            "peak_phase": profile.peak_phase,
            "terms": profile.terms,
            "phases": profile.phases,
            "cuda_only": profile.cuda_only,
            "reserved": profile.reserved and asdict(profile.reserved),
            "device": profile.device and asdict(profile.device),
            "verdict": {"fits": self.verdict.fits, "margin": self.verdict.margin, "words": self.verdict.words},
            "changes": [asdict(change) for change in self.changes],
        }

    def __str__(self) -> str:
        profile = self.profile
        lines = [_wrapped("model", str(profile.shape)), _wrapped("plan", _plan_words(profile.plan)), _wrapped("card", label(self.card)), ""]
        lines += _table(profile)
        lines += [f"peak: {profile.peak_phase}, {units.gb(profile.allocated)} = {units.gib(profile.allocated)} allocated"]
        if profile.cuda_only:
            lines += [_wrapped("on a GPU also", ", ".join(f"{term} {units.size(size)}" for term, size in profile.cuda_only.items()))]
        lines += [_wrapped(name, _band_words(band)) for name, band in (("reserved", profile.reserved), ("on the device", profile.device)) if band]
        lines += ["", _wrapped("verdict", str(self.verdict))]
        if self.changes:
            lines += ["the cheapest changes that make it fit:"]
            lines += [fill(f"{number}. {change}", WIDTH, subsequent_indent="   ") for number, change in enumerate(self.changes, 1)]
        elif not self.verdict:
            lines += [f"no {TOGETHER} changes of the plan together make it fit on one such card"]
        return "\n".join(lines)


def _wrapped(name: str, words: str) -> str:
    return fill(f"{name}: {words}", WIDTH, subsequent_indent="  ")


def _band_words(band: Band) -> str:
    return f"{units.gb(band.low)} to {units.gb(band.high)} = {units.gib(band.low)} to {units.gib(band.high)}, {band.assumes}"


def _plan_words(plan: TrainingPlan) -> str:
    accumulation = f" × {plan.accumulation} accumulated" if plan.accumulation > 1 else ""
    optimizer = f"{plan.optimizer_impl} {plan.optimizer}" if plan.optimizer_impl else plan.optimizer
    words = [f"batch {plan.batch} × {plan.sequence:,} tokens{accumulation}", plan.precision, optimizer + (" in backward" if plan.in_backward else "")]
    words += [f"{plan.checkpointing} checkpointing".replace("none", "no"), f"{plan.attention} attention", f"{plan.loss} loss"]
    words += [f"LoRA of rank {plan.lora_rank}"] if plan.trainable == "lora" else []
    if plan.strategy != "single":
        group = f" in groups of {plan.shard_group}" if plan.shard_group else ""
        words += [f"{plan.strategy} on {plan.ranks:,} ranks{group}"]
        words += [f"{name}={told(getattr(plan, name))}" for name in PARALLEL[3:] if getattr(plan, name) != DEFAULTS[name]]
    return ", ".join(words)


def _table(profile: MemoryProfile) -> list[str]:
    """Terms down, phases across, in GB; the phase of the peak has a star."""
    phases = {phase: profile.phases[phase] for phase in PHASES if phase in profile.phases}
    terms = dict.fromkeys(term for phase in phases.values() for term in phase)
    totals = [sum(phase.values()) for phase in phases.values()]
    rows = [["GB at the peak of each phase", *(phase + " *" * (phase == profile.peak_phase) for phase in phases)]]
    rows += [[term, *(f"{phase.get(term, 0) / units.GB:.2f}" for phase in phases.values())] for term in terms]
    rows += [["allocated, GB", *(f"{total / units.GB:.2f}" for total in totals)], ["allocated, GiB", *(f"{total / units.GIB:.2f}" for total in totals)]]
    lines = [f"{row[0]:<29}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in rows]
    return [lines[0], *lines[1:-2], "-" * len(lines[0]), *lines[-2:], ""]


def report(shape: ModelShape, plan: TrainingPlan, card: str | int) -> Report:
    """Predict the step, judge it on the card and look for the three cheapest changes. Raises BadInput for an unknown card."""
    profile = predict(shape, plan)
    return Report(profile, card, profile.fits(card), tuple(cheapest_changes(shape, plan, card)))
