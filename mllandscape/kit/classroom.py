"""``mllandscape class FOLDER``: the guesses and checks of everyone whose progress file lies in a folder, as text, figures and one page."""

import html
import math
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mllandscape import BadInput, charts
from mllandscape.charts import Described, Table
from mllandscape.course.exported import POINTS, Export, read_class
from mllandscape.course.questions import amount

Value = float | str
LABEL = 52
"""Characters of a label: two lines beside a figure."""


@dataclass(frozen=True)
class Asked:
    """A guess, a quiz or an exercise as its notebook asks it. ``unit`` is None for one that has options, or that is no guess."""

    question: str
    unit: str | None = None


@cache
def asked() -> dict[str, Asked]:
    """What the committed notebooks ask, by key; nothing where they are not installed. Keys of other notebooks are shown as they are."""
    from mllandscape.kit.lesson import lessons, texts

    found = {}
    try:
        every = lessons()
    except BadInput:
        return {}
    for lesson in every:
        for guess in lesson.guesses():
            number = re.fullmatch(r"a number(?: in (.*))?", guess.form)
            found[guess.key] = Asked(guess.question, (number[1] or "") if number else None)
        for cell in lesson.book.cells:
            for text in texts(cell):
                if quiz := re.match(r"Quiz (\S+): (.*) \(a\. ", text):
                    found[quiz[1]] = Asked(quiz[2])
            if cell.cell_type == "markdown":
                found |= {f"{lesson.number}.ex{number}": Asked(title) for number, title in re.findall(r"^\*\*(\d)\. (.+?)\*\*", cell.source, re.MULTILINE)}
    return found


def label(key: str, what: str = "") -> str:
    """The beginning of a question and its key: ``Llama-2-7B under FSDP: how … (04.rank_of_8)``."""
    end = f"({key}){what}"
    if key not in asked():
        return end.replace("(", "").replace(")", "")
    return f"{textwrap.shorten(asked()[key].question, LABEL - len(end), placeholder=' …')} {end}"


def shown(value: Value, unit: str) -> str:
    """A value in a cell. Beyond what any lesson asks for, which a file can hold that was edited by hand, in powers of ten."""
    return amount(value, unit) if isinstance(value, str) or abs(value) < 1e12 else f"{value:.3g} {unit}".strip()


@dataclass(frozen=True)
class Guessed:
    """The first guesses of a class on one question; ``answers`` are beside them, each learner's own or the class's usual one, None where nobody has one.

    All are numbers, or all are options: those of the other kind, from a file edited by hand, are not among them.
    """

    key: str
    values: tuple[Value, ...]
    answers: tuple[Value | None, ...]
    unit: str

    @property
    def pairs(self) -> list[tuple[Value, Value]]:
        """Guess and answer, where there is one."""
        return [(value, answer) for value, answer in zip(self.values, self.answers, strict=True) if answer is not None]

    @property
    def errors(self) -> list[float]:
        """log2 of guess over answer, for each guess that is a positive number beside a positive answer."""
        return [_log2(value, answer) for value, answer in self.pairs if not isinstance(value, str) and value > 0 and answer > 0]

    @property
    def differences(self) -> list[float]:
        """Guess minus answer where the answer is 0, of which no guess is a multiple."""
        return [value - answer for value, answer in self.pairs if not isinstance(value, str) and answer == 0]

    @property
    def right(self) -> tuple[int, int] | None:
        """How many chose the right option, of how many; None for a question with numbers or without an answer."""
        pairs = [pair for pair in self.pairs if isinstance(pair[0], str)]
        return (sum(value == answer for value, answer in pairs), len(pairs)) if pairs else None

    @property
    def close(self) -> tuple[int, int] | None:
        """How many numbers are the answer or less than two times off, of how many; None for a question with options or without an answer."""
        pairs = [pair for pair in self.pairs if not isinstance(pair[0], str)]
        near = [value == answer or (value > 0 and answer > 0 and abs(_log2(value, answer)) < 1) for value, answer in pairs]
        return (sum(near), len(near)) if near else None


def _log2(value: float, answer: float) -> float:
    """log2 of value over answer. The quotient itself can be too large for a float, and half of a number is to be exactly -1."""
    return round(math.log2(value) - math.log2(answer), 9)


def guessed(exports: Sequence[Export], among: Sequence[Export] = ()) -> list[Guessed]:
    """Every question that somebody of ``exports`` guessed, by key; ``among`` is the whole class where that is more.

    The first guess counts, and of several answers the last, since the notebook was run again. Who has guessed and never looked gets the class's answer.
    """
    everyone = among or exports
    options = _options(everyone)
    found = {
        id(export): {key: values[-1] for key, values in export.of("answer").items() if isinstance(values[-1]["answer"], str) == options[key]}
        for export in everyone
    }
    answers: dict[str, list[dict]] = {}
    for own in found.values():
        for key, answer in own.items():
            answers.setdefault(key, []).append(answer)
    usual = {key: _usual([one["answer"] for one in some]) for key, some in answers.items()}
    pairs: dict[str, list[tuple[Value, Value | None]]] = {}
    for export in exports:
        own = found[id(export)]
        for key, values in export.of("guess").items():
            if isinstance(values[0], str) == options[key]:
                pairs.setdefault(key, []).append((values[0], own[key]["answer"] if key in own else usual.get(key)))
    units = {key: some[0]["unit"] for key, some in answers.items()}
    return [Guessed(key, *(tuple(part) for part in zip(*pairs[key], strict=True)), units[key] if key in units else _unit(key)) for key in sorted(pairs)]


def of_another_kind(exports: Sequence[Export]) -> dict[str, int]:
    """For each key the first guesses that are a number where the question has options, or the other way round, which nothing else counts."""
    options = _options(exports)
    found = Counter(key for export in exports for key, values in export.of("guess").items() if isinstance(values[0], str) != options[key])
    return dict(sorted(found.items()))


def _options(exports: Sequence[Export]) -> dict[str, bool]:
    """For each key whether it has options: as its notebook says, or else as most of the class's files do."""
    kinds: dict[str, Counter[bool]] = {}
    for export in exports:
        values = [(key, value) for key, values in export.of("guess").items() for value in values[:1]]
        values += [(key, value["answer"]) for key, values in export.of("answer").items() for value in values[-1:]]
        for key, value in values:
            kinds.setdefault(key, Counter())[isinstance(value, str)] += 1
    return {key: found.most_common(1)[0][0] if key not in asked() else asked()[key].unit is None for key, found in kinds.items()}


def _unit(key: str) -> str:
    return (asked()[key].unit or "") if key in asked() else ""


def _usual(values: Sequence[Value]) -> Value:
    """The median of numbers, or the commonest option."""
    return Counter(values).most_common(1)[0][0] if isinstance(values[0], str) else statistics.median(values)


def checks(exports: Sequence[Export]) -> dict[str, tuple[int, int]]:
    """For each choice, quiz and exercise: how many were right, of how many. A quiz counts by its first try, an exercise of those in the class."""
    rows = {(one.key, ", guess"): one.right for one in guessed(exports) if one.right}
    tries = [export.of("quiz") for export in exports]
    for key in {key for quizzes in tries for key in quizzes}:
        firsts = [quizzes[key][0]["right"] for quizzes in tries if key in quizzes]
        rows[key, ", first try"] = (sum(firsts), len(firsts))
    solved = Counter(key for export in exports for key in export.of("exercise"))
    rows |= {(key, ", solved"): (number, len(exports)) for key, number in solved.items()}
    return {label(*row): rows[row] for row in sorted(rows)}


def tables(exports: Sequence[Export]) -> list[Table]:
    """The questions, the learners and, where somebody sat it, the interview."""
    rows = []
    for one in guessed(exports):
        off = f"{statistics.median(one.errors):+.2f}" if one.errors else ""
        if one.differences:
            far = statistics.median(one.differences)
            off = f"{'+' if far > 0 else ''}{shown(far, one.unit)} (a difference)"
        answers = [value for value in one.answers if value is not None]
        answer = shown(_usual(answers), one.unit) if answers else "not revealed"
        rows.append([label(one.key), str(len(one.values)), shown(_usual(one.values), one.unit), answer, _of(one.close or one.right), off])
    heads = ["question", "guesses", "the middle one", "answer", "close or right", "median log2 error"]
    people = []
    for export in exports:
        mine = guessed([export], exports)
        errors = [abs(error) for one in mine for error in one.errors]
        off = f"{_times(statistics.median(errors))}×" if errors else ""
        close, options = ([pair for one in mine if (pair := getattr(one, name))] for name in ("close", "right"))
        quizzes = [(int(tries[0]["right"]), 1) for tries in export.of("quiz").values()]
        people.append([export.learner, str(len(mine)), off, *(_of(_sum(some)) for some in (close, options, quizzes)), str(len(export.of("exercise")))])
    who = ["learner", "guesses", "usually off by", "numbers close", "options right", "quizzes right at once", "exercises solved"]
    made = [Table(f"What {len(exports)} learners guessed", heads, rows)] if rows else []
    made.append(Table("Who", who, people))
    sat = [export for export in exports if export.interview]
    return [*made, interviews(sat)] if sat else made


def interviews(exports: Sequence[Export]) -> Table:
    """The points that each learner ticked in the mock interview, by kind, and in all."""
    spoken = [(export.learner, export.interview) for export in exports]
    spoken.append(("together", tuple(one for export in exports for one in export.interview)))
    rows = [
        [who, str(len(some)), *(_of(_sum([getattr(one, kind) for one in some])) for kind in POINTS), str(sum(one.flags for one in some))]
        for who, some in spoken
    ]
    return Table("The mock interview: points said, by their own ticks", ["learner", "answers", *POINTS, "red flags"], rows)


def _times(error: float) -> str:
    return f"{2**error:.1f}" if error < 14 else f"2^{error:.0f}"


def _sum(pairs: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    return (sum(right for right, _ in pairs), sum(of for _, of in pairs)) if pairs else None


def _of(right: tuple[int, int] | None) -> str:
    return "{} of {}".format(*right) if right else ""


def figures(exports: Sequence[Export]) -> dict[str, Described]:
    """The figures for which there is something to show, by the names of their files."""
    off = {label(one.key): one.errors for one in guessed(exports) if one.errors}
    right = checks(exports)
    drawn = {"guesses": charts.log_errors(off, title=f"How far off {len(exports)} learners guessed")} if off else {}
    return drawn | ({"checks": charts.right_shares(right, title=f"Who got what right, of {len(exports)} learners")} if right else {})


def report(folder: Path, to: Path) -> Iterator[str]:
    """Write class.html and its figures as PNG into ``to``; yield what the terminal shows."""
    from mllandscape.kit.html import document, wide

    exports, notes = read_class(folder)
    made, drawn = tables(exports), figures(exports)
    notes += [f"{key}: {number} guess(es) left out, a number for an option or the other way round." for key, number in of_another_kind(exports).items()]
    body = "".join(f'<div class="output">{figure._repr_mimebundle_()["text/html"]}</div>' for figure in drawn.values())
    body += "".join(wide(table._repr_html_(), table.title) for table in made)
    body += "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    page = document("mllandscape: the class", f'<div class="page"><main><h1>The class</h1>{body}</main></div>')
    try:
        to.mkdir(parents=True, exist_ok=True)
        (to / "class.html").write_text(page, encoding="utf-8", newline="\n")
        for name, figure in drawn.items():
            (to / f"{name}.png").write_bytes(figure.png())
    except OSError as error:
        raise BadInput(f"{to} cannot be written ({error.strerror}); give another folder by --to.") from None
    yield from ("\n\n".join([*map(repr, made), *(f"{name}.png: {figure.sentence}" for name, figure in drawn.items()), *notes]), "")
    yield f"Written to {to}: {', '.join(['class.html', *(f'{name}.png' for name in drawn)])}"
