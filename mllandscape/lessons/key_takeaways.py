"""Lesson 10: the five takeaways as a mock interview: what was believed, what each choice costs, an incident solved from evidence, its panel and exercises.

Questions, fresh numeric questions, calibration and the drill are ``mllandscape.interview``.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

from mllandscape import BadInput, charts, claims, units
from mllandscape.course import exercise
from mllandscape.interview import bank, calibration, drill, fresh
from mllandscape.interview.calibration import Record
from mllandscape.memory import MemoryProfile, ModelShape, TrainingPlan, predict
from mllandscape.memory.cards import capacity
from mllandscape.memory.timeline import CLUSTERS, timeline
from mllandscape.panel import Panel

# -- what was believed -------------------------------------------------------------------------------------------------------


def calibration_figure(record: Record) -> charts.Described:
    """The log2 errors of a record's numeric guesses by topic; the title says whose they are."""
    return charts.log_errors(calibration.errors(record), title=f"Guess against answer by topic. {record.label}")


def again_table(record: Record) -> charts.Table:
    """What to do again, the weakest topic first."""
    rows = calibration.again(record) or [("nothing", "all right", "–", "–")]
    return charts.Table(f"{record.label}: what to do again", ("topic", "right", "the others", "notebook"), rows)


# -- the interview ---------------------------------------------------------------------------------------------------------------

WORKED_SEED = 10


def worked_scores(seed: int = WORKED_SEED, minutes: int = 20) -> list[bank.Score]:
    """The made-up learner's ticks in the interview of this seed: every "what", the first "why" of every second question, no number."""
    scores = []
    for number, question in enumerate(bank.draw(seed, minutes).questions):
        whys = [place for place, (kind, _) in enumerate(question.points) if kind == "why"][: number % 2]
        said = [place for place, (kind, _) in enumerate(question.points) if kind == "what"] + whys
        scores.append(bank.score(question, said, [0] if number == 0 else []))
    return scores


def scores_table(scores: Sequence[bank.Score], title: str) -> charts.Table:
    """What was said of each rubric, by kind of point, and in all."""

    def cells(said: dict[str, tuple[int, int]]) -> list[str]:
        return [f"{said[kind][0]} of {said[kind][1]}" for kind in bank.KINDS]

    rows = [(one.question.id, *cells(one.said), str(len(one.flags))) for one in scores]
    together = ("together", *cells(bank.totals(scores)), str(sum(len(one.flags) for one in scores)))
    return charts.Table(title, ("question", *bank.KINDS, "red flags"), [*rows, together])


SEEDS = range(100)


@cache
def by_heart() -> dict[str, tuple[str, float]]:
    """For each kind of fresh question that has a rule of thumb: the one answer that is right most often over SEEDS, and how often."""
    return {kind: fresh.commonest(kind, SEEDS) for kind in fresh.RULES}


@cache
def by_rule() -> dict[str, float]:
    """How often the rule of thumb is right on the same questions."""
    return {kind: fresh.by_rule(kind, SEEDS) for kind in fresh.RULES}


def by_heart_figure() -> charts.Described:
    """For each kind, how far one gets with one answer, and with one rule."""
    heart, rule = by_heart(), by_rule()
    rows = {f"{kind}: {way}": share for kind in heart for way, share in (("one answer", heart[kind][1]), ("one rule", rule[kind]))}
    note = {f"{kind}: one answer": f"“{answer}”" for kind, (answer, _) in heart.items()}
    title = f"One answer by heart, or one rule of thumb, over {len(SEEDS)} fresh questions of each kind"
    return charts.shares(rows, note=note, title=title, x_label="share of the questions that it gets right")


# -- the incident ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Methods:
    """Over several incidents: mean runs by halving what changed, and by changing at random; how many things the latter leaves different; how many causes
    halving named; causes by layer."""

    incidents: int
    isolated: float
    at_random: float
    left_different: float
    named: int
    by_layer: dict[str, int]


@cache
def methods(incidents: int = 60) -> Methods:
    """Solve incidents both ways, with real runs of the drill's engines."""
    drawn = [drill.incident(seed) for seed in range(incidents)]
    found = [drill.isolate(one) for one in drawn]
    random = [drill.try_at_random(one, one.seed) for one in drawn]
    layers = [drill.layer(one.cause) for one in drawn]
    return Methods(
        incidents,
        statistics.mean(runs for _, runs in found),
        statistics.mean(runs for runs, _ in random),
        statistics.mean(left for _, left in random),
        sum(cause == one.cause for (cause, _), one in zip(found, drawn, strict=True)),
        {name: layers.count(name) for name in drill.LAYERS},
    )


# -- what each choice costs --------------------------------------------------------------------------------------------------------

DEFAULT = {"precision": "amp-bf16", "checkpointing": "none", "optimizer": "adamw", "strategy": "ddp"}
CHOICES = {
    "precision": ("amp-bf16", "bf16"),
    "checkpointing": ("none", "selective", "full"),
    "optimizer": ("adamw", "fused adamw", "adamw8bit"),
    "strategy": ("ddp", "zero1", "fsdp"),
}
"""What the lessons let one choose for a job; the first of each is the default from which changed settings are counted."""

SIZES, TOKENS, RANKS = (1.5, 3, 7, 13, 34, 70), (1024, 2048, 4096, 8192), (4, 8, 16, 32, 64)
CARDS = ("A100-40GB", "A100-80GB", "H200")
CLUSTER = CLUSTERS["8xA100-200G"]


@dataclass(frozen=True)
class Costed:
    """One way to run the job: its settings, the memory of a rank, seconds of a step, and how many settings differ from the default."""

    settings: dict[str, str]
    profile: MemoryProfile
    seconds: float

    @property
    def changed(self) -> int:
        return sum(value != DEFAULT[name] for name, value in self.settings.items())

    @property
    def name(self) -> str:
        return ", ".join(value for name, value in self.settings.items() if value != DEFAULT[name]) or "default"

    def beats(self, other: "Costed") -> bool:
        """No worse in memory, time (both within a thousandth) and settings, and better in one."""
        ours, theirs = (self.profile.allocated, self.seconds, self.changed), (other.profile.allocated, other.seconds, other.changed)
        slack = (1.001, 1.001, 1)
        return all(one <= two * more for one, two, more in zip(ours, theirs, slack, strict=True)) and any(
            one * more < two for one, two, more in zip(ours, theirs, slack, strict=True)
        )


def plan_of(settings: dict[str, str], tokens: int, ranks: int) -> TrainingPlan | None:
    """The plan of these settings, one sequence of ``tokens`` a rank; None where they do not go together."""
    optimizer = settings["optimizer"].removeprefix("fused ")
    implementation = {"fused adamw": "fused", "adamw": "foreach"}.get(settings["optimizer"])
    try:
        return TrainingPlan(
            sequence=tokens, ranks=ranks, optimizer=optimizer, optimizer_impl=implementation,
            **{name: settings[name] for name in ("precision", "checkpointing", "strategy")},
        )  # fmt: skip
    except BadInput:
        return None


@lru_cache(1024)
def _seconds(size: float, tokens: int, ranks: int, precision: str, checkpointing: str, strategy: str) -> float:
    """A step in time. The optimizer's own work takes none in the timeline, so it is not an argument."""
    plan = TrainingPlan(sequence=tokens, ranks=ranks, precision=precision, checkpointing=checkpointing, strategy=strategy)
    return timeline(ModelShape.of_size(size * 1e9), plan, CLUSTER).seconds


def costed(size: float, tokens: int, ranks: int, settings: dict[str, str]) -> Costed | None:
    """One way to train a Llama of ``size`` billion parameters on nodes of 8 A100s (``8xA100-200G``); None where the settings do not go together."""
    if (plan := plan_of(settings, tokens, ranks)) is None:
        return None
    seconds = _seconds(size, tokens, ranks, *(settings[name] for name in ("precision", "checkpointing", "strategy")))
    return Costed(settings, predict(ModelShape.of_size(size * 1e9), plan), seconds)


@lru_cache(64)
def ways(size: float, tokens: int, ranks: int) -> tuple[Costed, ...]:
    """Every combination of CHOICES that goes together."""
    every = (costed(size, tokens, ranks, dict(zip(CHOICES, values, strict=True))) for values in product(*CHOICES.values()))
    return tuple(one for one in every if one)


@lru_cache(64)
def best(size: float, tokens: int, ranks: int) -> tuple[Costed, ...]:
    """The Pareto set: the ways that no other beats."""
    every = ways(size, tokens, ranks)
    return tuple(one for one in every if not any(other.beats(one) for other in every))


def costs(size: float, tokens: int, ranks: int) -> dict[str, tuple[float, float, int]]:
    """Each setting changed alone: (memory, seconds, settings changed), the first two as ratios to the default's."""
    every = ways(size, tokens, ranks)
    default = next(one for one in every if not one.changed)
    return {one.name: (one.profile.allocated / default.profile.allocated, one.seconds / default.seconds, one.changed) for one in every if one.changed == 1}


def costs_table(size: float, tokens: int, ranks: int) -> charts.Table:
    rows = [
        (name, f"{memory - 1:+.1%}", "not modelled" if name in CHOICES["optimizer"] else f"{seconds - 1:+.1%}", str(changed))
        for name, (memory, seconds, changed) in costs(size, tokens, ranks).items()
    ]
    return charts.Table(f"One setting changed: {size:g}B, {tokens:,} tokens a rank, {ranks} ranks", ("changed", "memory", "step", "settings"), rows)


def trade_off(size: float, tokens: int, ranks: int, card: str, precision: str, checkpointing: str, optimizer: str, strategy: str) -> charts.TradeOffsRecord:
    """Every way to run one job, and the one that the settings choose."""
    every, kept = ways(size, tokens, ranks), best(size, tokens, ranks)
    wanted = {"precision": precision, "checkpointing": checkpointing, "optimizer": optimizer, "strategy": strategy}
    place = next((place for place, one in enumerate(every) if one.settings == wanted), None)
    if place is None:
        raise BadInput(f"{optimizer} with {strategy} does not go together (lesson 5); choose another of the two.")
    chosen = every[place]
    fitting = sum(bool(one.profile.fits(card)) for one in every)
    better = next((one for one in kept if one.beats(chosen)), None)
    rank = "nothing beats it" if chosen in kept else f"beaten by {better.name if better else 'another'}"
    lines = [f"{fitting} of {len(every)} ways fit. Complexity is a count: settings that differ from {', '.join(DEFAULT.values())}."]
    if again := costed(size, tokens, 2 * ranks, wanted):
        lines.append(f"On twice the ranks: {units.gib(again.profile.allocated)}, {units.seconds(again.seconds)}.")
    edges = [one.profile.allocated / units.GIB for one in every] + [capacity(card) / units.GIB], [one.seconds for one in every]
    limits = (min(edges[0]) * 0.8, max(edges[0]) * 1.25, min(edges[1]) * 0.85, max(edges[1]) * 1.2)
    marks = [charts.Way(one.name, one.profile.allocated, one.seconds, one.changed, one in kept) for one in every]
    where = f"{chosen.name}: {units.gib(chosen.profile.allocated)} a rank, {units.seconds(chosen.seconds)} a step, {chosen.changed} settings changed"
    word = {"yes": "It fits", "tight": "It is tight", "no": "It does not fit"}[chosen.profile.fits(card).fits]
    return charts.TradeOffsRecord(marks, place, capacity(card), limits, f"{word} on {card}: {where}; {rank}.", lines)


def panel() -> Panel:
    """The job (size, tokens, ranks, card) and the way to run it (precision, checkpointing, optimizer, strategy), against every other way."""
    from ipywidgets import Dropdown, SelectionSlider

    def choose(name: str, tooltip: str) -> Dropdown:
        return Dropdown(options=CHOICES[name], value=DEFAULT[name], description=name.capitalize(), tooltip=tooltip)

    controls = {
        "size": SelectionSlider(options=SIZES, value=7, description="Size, B", tooltip="billions of parameters"),
        "tokens": SelectionSlider(options=TOKENS, value=2048, description="Tokens a rank", tooltip="one sequence of so many tokens a rank and step"),
        "ranks": SelectionSlider(options=RANKS, value=8, description="Ranks", tooltip="GPUs, 8 a node"),
        "card": Dropdown(options=CARDS, value="A100-80GB", description="GPU", tooltip="usable bytes of the card"),
        "precision": choose("precision", "types of weights, gradients and states"),
        "checkpointing": choose("checkpointing", "what is recomputed in the backward pass"),
        "optimizer": choose("optimizer", "what keeps states for each parameter"),
        "strategy": choose("strategy", "what the ranks divide"),
    }
    return Panel("What does each choice cost?", controls, trade_off, charts.TradeOffs())


# -- the five takeaways, on a record --------------------------------------------------------------------------------------------------

TOOLS = ("Poetry", "FSDP", "MLflow")
"""The three tools that the source names."""


def as_written() -> dict[str, tuple[int, int]]:
    """For each tool: how many of the source's checkable statements whose words name it hold as they are written, of how many, by the ledger."""
    found = {}
    for tool in TOOLS:
        said = [one for one in claims.ledger().values() if tool.lower() in one.quote.lower() and one.id < "10"]
        found[tool] = sum(one.verdict == "true" for one in said), len(said)
    return found


def takeaways(record: Record, scores: Sequence[bank.Score], asked: Sequence[str]) -> charts.Table:
    """The five takeaways, each as a number of this record: guesses, rubric ticks and the evidence asked for in the drill."""
    low, high = (sum(sign * one.error >= 1 for one in record.numeric) for sign in (-1, 1))
    names = [one for one in record.outcomes if isinstance(one.answer, str)]
    amounts = [one for one in record.outcomes if not isinstance(one.answer, str)]
    said = bank.totals(scores)

    def right(some: Sequence[calibration.Outcome]) -> str:
        return f"{sum(one.right for one in some)} of {len(some)}"

    production = [one for one in record.outcomes if one.topic in ("01", "06", "07", "08", "09")]
    rows = [
        ("trade-offs", "guesses of an amount at least two times too low, too high", f"{low}, {high} of {len(record.numeric)}"),
        ("debugging method", "pieces of evidence asked for in the drill above", str(len(asked)) if asked else "not tried yet"),
        ("production", "guesses right on locks, environments, drivers, drift, versions", right(production)),
        ("communication", 'points said in the interview, "what" and "why"', f"{said['what'][0]} of {said['what'][1]}, {said['why'][0]} of {said['why'][1]}"),
        ("experience", "guesses right: of a name, of an amount", f"{right(names)}, {right(amounts)}"),
    ]
    return charts.Table(f"The five takeaways. {record.label}", ("takeaway", "measured by", "here"), rows)


# -- exercises -------------------------------------------------------------------------------------------------------------------------

CASE = 28
"""The seed of the exercise's incident."""

QUESTIONS = (("strategy", 3410), ("model states", 7), ("platforms", 5), ("driver", 10), ("hiding", 4))
"""Kinds and seeds of the fresh questions of the second exercise."""


def asked() -> tuple[fresh.Fresh, ...]:
    return tuple(fresh.question(kind, seed) for kind, seed in QUESTIONS)


def _solves_the_case(answer: dict) -> str | None:
    if not isinstance(answer, dict) or answer.keys() != {"cause", "remedy"}:
        return "The answer is {'cause': …, 'remedy': {…}}."
    return drill.judge(drill.incident(CASE), answer["cause"], answer["remedy"])


def _answers_all(answer: Sequence) -> str | None:
    given = list(answer)
    if len(given) != len(QUESTIONS):
        return f"{len(given)} answers; {len(QUESTIONS)} questions are asked, in this order."
    for number, (question, one) in enumerate(zip(asked(), given, strict=True), 1):
        if hint := question.check(one):
            return f"Question {number}: {hint}"
    return None


def _dominates(one: tuple, other: tuple) -> bool:
    return one != other and all(ours <= theirs for ours, theirs in zip(one, other, strict=True))


def _finds_the_front(answer: Callable) -> str | None:
    for size, ranks in ((7, 8), (13, 16), (34, 64)):
        every = ways(size, 2048, ranks)
        points = [(one.profile.allocated, one.seconds, one.changed) for one in every]
        expected = [place for place, one in enumerate(points) if not any(_dominates(other, one) for other in points)]
        found = sorted(answer(list(points)))
        if found != expected:
            odd = sorted(set(found) ^ set(expected))[0]
            return f"{size}B on {ranks} ranks: place {odd} {'is beaten by another' if odd in found else 'is beaten by none'}: {points[odd]}."
    return None


exercise("10.ex1", _solves_the_case)
exercise("10.ex2", _answers_all)
exercise("10.ex3", _finds_the_front)
