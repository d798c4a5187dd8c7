"""What was guessed against what was so: every committed guess of lessons 1 to 9, how far off, in which direction, by topic, and what to do again."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mllandscape import BadInput
from mllandscape.course import progress
from mllandscape.interview import numbers

TOPICS = {
    "01": "resolvers and locks",
    "02": "compilation",
    "03": "memory of one GPU",
    "04": "sharding",
    "05": "communication",
    "06": "accuracy in production",
    "07": "environments",
    "08": "drivers and GPU code",
    "09": "versions of models",
}
NOTEBOOKS = {
    "01": "01_pip_vs_poetry",
    "02": "02_torch_compile",
    "03": "03_out_of_memory",
    "04": "04_ddp_vs_fsdp",
    "05": "05_fsdp_downsides",
    "06": "06_accuracy_drop",
    "07": "07_dependency_hell",
    "08": "08_cuda_mismatch",
    "09": "09_model_versioning",
}
LEAST = 5
"""Revealed guesses, one of a number among them, from which a record is worth a figure."""


@dataclass(frozen=True)
class Outcome:
    """One first guess and the answer that its lesson then found. Both are numbers, or both are names."""

    key: str
    guessed: float | str
    answer: float | str

    @property
    def topic(self) -> str:
        return self.key[:2]

    @property
    def error(self) -> float | None:
        """The base-2 logarithm of guess over answer: -1 is half of it. None where either is a name, or not above 0."""
        one, other = self.guessed, self.answer
        if isinstance(one, str) or isinstance(other, str) or one <= 0 or other <= 0:
            return None
        return math.log2(one / other)

    @property
    def right(self) -> bool:
        """The answer itself, or less than two times off."""
        return self.guessed == self.answer or (self.error is not None and abs(self.error) < 1)

    @property
    def direction(self) -> str:
        """``too low`` or ``too high`` for a number that is not right, ``another option`` for a name, "" for what is right."""
        if self.right:
            return ""
        if isinstance(self.answer, str) or isinstance(self.guessed, str):
            return "another option"
        return "too low" if self.guessed < self.answer else "too high"


@dataclass(frozen=True)
class Record:
    """A learner's outcomes; ``hidden`` are keys that were guessed and not revealed yet; ``note`` says what could not be read."""

    outcomes: tuple[Outcome, ...]
    hidden: tuple[str, ...] = ()
    note: str = ""
    made_up: bool = False

    @property
    def enough(self) -> bool:
        return len(self.outcomes) >= LEAST and bool(self.numeric)

    @property
    def numeric(self) -> list[Outcome]:
        """Those whose error has a logarithm."""
        return [one for one in self.outcomes if one.error is not None]

    @property
    def label(self) -> str:
        return "A worked example with a made-up learner" if self.made_up else "Your own record"

    @property
    def said(self) -> str:
        """Whose guesses these are and what became of them, as one would say it; of a number that is far off, on which side."""
        whose = "Of a made-up learner's guesses, who knows the usual answers," if self.made_up else "Of my own guesses"
        low, high = (sum(one.direction == side for one in self.numeric) for side in ("too low", "too high"))
        return f"{whose} {self.right_share:.0%} were right or within a factor of two; {low} were further below, {high} further above"

    def of(self, topic: str) -> list[Outcome]:
        return [one for one in self.outcomes if one.topic == topic]

    @property
    def topics(self) -> list[str]:
        return [topic for topic in TOPICS if self.of(topic)]

    @property
    def right_share(self) -> float:
        """The share of the outcomes that are right; 0 for none."""
        return sum(one.right for one in self.outcomes) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def bias(self) -> float:
        """The median log2 error: negative for one who guesses too low; 0 without numeric guesses."""
        return statistics.median(one.error for one in self.numeric) if self.numeric else 0.0

    def __str__(self) -> str:
        if not self.outcomes:
            line = "Your own record: no revealed guess of lessons 1 to 9 yet."
        else:
            low = sum(one.error <= -1 for one in self.numeric)
            high = sum(one.error >= 1 for one in self.numeric)
            line = f"{self.label}: {len(self.outcomes)} guesses, {sum(one.right for one in self.outcomes)} right or less than two times off; "
            line += f"of {len(self.numeric)} numbers {low} at least two times too low, {high} too high."
        if self.hidden:
            line += f" Guessed and not revealed yet: {', '.join(self.hidden)}."
        return f"{line} {self.note}".strip()


def _usable(value: Any) -> bool:
    return isinstance(value, str) or (type(value) in (int, float) and math.isfinite(value))


def read_entries(entries: Iterable[progress.Entry], note: str = "") -> Record:
    """The outcomes of lessons 1 to 9 among a learner's entries: of each key the first guess and the latest answer.

    A guess made after its answer was shown is no guess. An entry whose value makes no sense, as an older version or another hand may have written it, is
    left out and counted.
    """
    entries = list(entries)
    late = progress.seen_first(entries)
    guesses: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    odd = 0
    for entry in entries:
        if entry.kind not in ("guess", "answer") or not isinstance(entry.key, str) or entry.key[:2] not in TOPICS or entry.key in late:
            continue
        value = entry.value if entry.kind == "guess" else entry.value.get("answer") if isinstance(entry.value, dict) else None
        if not _usable(value):
            odd += 1
        elif entry.kind == "guess":
            guesses.setdefault(entry.key, value)
        else:
            answers[entry.key] = value
    outcomes, hidden = [], []
    for key, guessed in sorted(guesses.items()):
        if key not in answers:
            hidden.append(key)
        elif isinstance(guessed, str) != isinstance(answers[key], str):
            odd += 1
        else:
            outcomes.append(Outcome(key, guessed, answers[key]))
    said = f"{odd} stored value(s) make no sense and are left out." if odd else ""
    return Record(tuple(outcomes), tuple(hidden), f"{note} {said}".strip())


def own() -> Record:
    """The record on this machine. Damaged files are set aside and said, as everywhere."""
    return read_entries(*progress.entries())


MADE_UP: dict[str, float | str] = {
    "01.steps": 50.0,
    "02.graphs": 3.0,
    "03.adamw_13b": 156.0,
    "03.eightbit_13b": 65.0,
    "03.batch": "1",
    "04.rank_of_8": 13.5,
    "04.rank_of_1024": 0.105,
    "04.gathers": "33",
    "05.slowdown": 2.0,
    "05.decides": "model size",
    "06.items": 300.0,
    "07.added": "4.25.0",
    "08.driver": "driver too old",
    "08.major": "compiled by the driver first",
    "09.interval": 1.7,
}
"""Guesses of nobody: what someone would say who knows the usual answers and has measured nothing."""


def worked() -> Record:
    """The made-up learner, against the answers that the engines give now."""
    return Record(tuple(Outcome(key, guessed, numbers.value(key)) for key, guessed in MADE_UP.items()), made_up=True)


def shown() -> Record:
    """The learner's own record, or the worked example where it has fewer than ``LEAST`` outcomes."""
    mine = own()
    return mine if mine.enough else worked()


def errors(record: Record) -> dict[str, list[float]]:
    """The log2 errors of the numeric guesses by topic, for ``charts.log_errors``. Raises BadInput where there are none."""
    rows = {TOPICS[topic]: [one.error for one in record.of(topic) if one.error is not None] for topic in record.topics}
    if not (rows := {name: found for name, found in rows.items() if found}):
        raise BadInput("no guess of a number in this record yet: commit one in a lesson, run on to its answer, then come back.")
    return rows


def again(record: Record) -> list[tuple[str, str, str, str]]:
    """What to do again, the weakest topic first: (topic, right of guesses, direction, notebook). Topics in which every guess was right are left out."""
    rows = []
    for topic in record.topics:
        found = record.of(topic)
        right = sum(one.right for one in found)
        if right < len(found):
            ways = sorted({one.direction for one in found} - {""})
            worst = max([abs(one.error) for one in found if one.error is not None], default=0.0)
            rows.append((right / len(found), -worst, (TOPICS[topic], f"{right} of {len(found)}", " and ".join(ways), NOTEBOOKS[topic])))
    return [row for *_, row in sorted(rows, key=lambda row: row[:2])]
