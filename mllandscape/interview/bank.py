"""The interview's questions and their rubric, read from ``bank.toml``, and an interview drawn from them by topic, level and minutes."""

import random
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mllandscape import BadInput
from mllandscape.interview import numbers
from mllandscape.interview.calibration import TOPICS

KINDS = ("what", "why", "number")
LEVELS = (1, 2, 3)
MOST_MINUTES = 120


@dataclass(frozen=True)
class Question:
    """``points`` are (kind, words) pairs of the rubric; ``quote`` is the key of the number to quote."""

    id: str
    level: int
    minutes: int
    ask: str
    points: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    follow_ups: tuple[str, ...]
    quote: str

    @property
    def topic(self) -> str:
        return self.id[:2]


def parse(text: str) -> dict[str, Question]:
    """The questions of a TOML text by id. Raises BadInput that names the first one that breaks a rule of the bank."""
    found: dict[str, Question] = {}
    try:
        rows = tomllib.loads(text)["question"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise BadInput(f"the bank of questions cannot be read ({error!r}); it is TOML with one [[question]] table each.") from None
    for row in rows:
        try:
            points = tuple((str(kind), str(words)) for kind, words in row["points"])
            one = Question(**row | {"points": points, "flags": tuple(row["flags"]), "follow_ups": tuple(row["follow_ups"])})
            good = one.topic in TOPICS and one.id[2:3] == "." and one.id not in found and one.level in LEVELS and 1 <= one.minutes <= 10
            good = good and len(points) >= 3 and {"why", "number"} <= {kind for kind, _ in points} <= set(KINDS)
            good = good and bool(one.flags) and len(one.follow_ups) == 2 and one.quote in numbers.KNOWN
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise BadInput(f"question {row.get('id', 'without id')}: a field is missing, unknown or breaks a rule; bank.toml says what each holds.")
        found[one.id] = one
    return found


@cache
def questions() -> dict[str, Question]:
    """Every question by its id."""
    return parse(resources.files("mllandscape.interview").joinpath("bank.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Interview:
    """The questions of one interview, in the order in which they are asked. ``repr`` has no rubric in it."""

    seed: int
    questions: tuple[Question, ...]

    @property
    def minutes(self) -> int:
        return sum(one.minutes for one in self.questions)

    def __repr__(self) -> str:
        lines = [f"Interview {self.seed}: {len(self.questions)} questions, {self.minutes} minutes."]
        for number, one in enumerate(self.questions, 1):
            lines.append(f"{number}. ({TOPICS[one.topic]}, level {one.level}, {one.minutes} min) {one.ask}")
            lines += [f"   then: {follow_up}" for follow_up in one.follow_ups]
        return "\n".join(lines)


def draw(seed: int, minutes: int = 20, levels: Collection[int] = LEVELS, topics: Sequence[str] = tuple(TOPICS)) -> Interview:
    """An interview that fits into ``minutes``, drawn from these levels and topics (``"03"``): as many topics as possible before any comes twice.

    The same arguments give the same interview. Raises BadInput where nothing fits.
    """
    for name, given, possible in (("level", levels, LEVELS), ("topic", topics, tuple(TOPICS))):
        if unknown := [one for one in given if one not in possible]:
            raise BadInput(f"{name} {unknown[0]!r}: {', '.join(map(str, possible))} are possible.")
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MOST_MINUTES:
        raise BadInput(f"minutes={minutes!r}: a whole number from 1 to {MOST_MINUTES} is possible.")
    possible = [one for one in questions().values() if one.level in levels and one.topic in topics]
    random.Random(f"interview {seed}").shuffle(possible)
    taken: list[Question] = []
    while possible:
        seen = [one.topic for one in taken]
        possible = [one for one in possible if one.minutes <= minutes - sum(done.minutes for done in taken)]
        if possible:
            taken.append(min(possible, key=lambda one: seen.count(one.topic)))
            possible.remove(taken[-1])
    if not taken:
        raise BadInput(f"no question of levels {sorted(levels)} and topics {', '.join(topics)} fits into {minutes} minutes; give more of one of them.")
    return Interview(seed, tuple(taken))


@dataclass(frozen=True)
class Score:
    """What was said of one rubric: (said, of) for each kind of point, red flags, and the seconds taken, None where no time was kept."""

    question: Question
    said: dict[str, tuple[int, int]]
    flags: tuple[str, ...]
    seconds: float | None = None

    def __repr__(self) -> str:
        parts = ", ".join(f"{kind} {said} of {of}" for kind, (said, of) in self.said.items() if of)
        flags = f"red flags: {'; '.join(self.flags)}" if self.flags else "no red flag"
        lasted = "" if self.seconds is None else f" {self.seconds:.0f} s of {60 * self.question.minutes}."
        return f"{self.question.id}: {parts}; {flags}.{lasted} The number to quote: {numbers.quote(self.question.quote)}."


def score(question: Question | str, said: Collection[int] = (), flags: Collection[int] = (), seconds: float | None = None) -> Score:
    """Count the ticks: ``said`` and ``flags`` are places, from 0, in the question's rubric. Nobody but the one who was asked judges what was said."""
    if not isinstance(question, Question):
        if question not in questions():
            raise BadInput(f"no question {question!r}: {', '.join(questions())} are possible.")
        question = questions()[question]
    for name, given, of in (("said", said, question.points), ("flags", flags, question.flags)):
        if wrong := [place for place in given if place not in range(len(of))]:
            raise BadInput(f"{name} {wrong[0]!r}: {question.id} has 0 to {len(of) - 1}.")
    by_kind = {kind: [place for place, (of, _) in enumerate(question.points) if of == kind] for kind in KINDS}
    counted = {kind: (len(set(places) & set(said)), len(places)) for kind, places in by_kind.items()}
    return Score(question, counted, tuple(question.flags[place] for place in sorted(set(flags))), seconds)


def totals(scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
    """(said, of) for each kind over several answers."""
    return {kind: tuple(map(sum, zip(*(one.said[kind] for one in scores), strict=True))) if scores else (0, 0) for kind in KINDS}
