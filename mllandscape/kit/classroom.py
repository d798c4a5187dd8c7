"""``mllandscape class FOLDER``: the guesses and checks of everyone whose progress file lies in a folder, as text, figures and one page."""

import html
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mllandscape import BadInput, charts
from mllandscape.charts import Described, Table
from mllandscape.course.exported import Export, read_class
from mllandscape.course.questions import amount


@dataclass(frozen=True)
class Guessed:
    """The first guesses of a class on one question; ``answers`` are beside them, each learner's own or the class's usual one, None where nobody has one."""

    key: str
    values: tuple[float | str, ...]
    answers: tuple[float | str | None, ...]
    unit: str

    @property
    def errors(self) -> list[float]:
        """log2 of guess over answer, for each guess that is a positive number beside a positive answer."""
        pairs = zip(self.values, self.answers, strict=True)
        return [
            math.log2(value / answer) for value, answer in pairs if not isinstance(value, str) and isinstance(answer, float | int) and value > 0 and answer > 0
        ]

    @property
    def right(self) -> tuple[int, int] | None:
        """How many chose the right option, of how many; None for a question with numbers or without an answer."""
        pairs = [(value, answer) for value, answer in zip(self.values, self.answers, strict=True) if isinstance(value, str) and answer is not None]
        return (sum(value == answer for value, answer in pairs), len(pairs)) if pairs else None


def guessed(exports: Sequence[Export], among: Sequence[Export] = ()) -> list[Guessed]:
    """Every question that somebody of ``exports`` guessed, by key; ``among`` is the whole class where that is more.

    The first guess counts, and of several answers the last, since the notebook was run again. Who has guessed and never looked gets the class's answer.
    """
    found = [{key: values[-1] for key, values in export.of("answer").items()} for export in among or exports]
    usual = {key: _usual([answers[key] for answers in found if key in answers]) for key in {key for answers in found for key in answers}}
    pairs: dict[str, list[tuple[float | str, float | str | None]]] = {}
    for export in exports:
        own = export.of("answer")
        for key, values in export.of("guess").items():
            pairs.setdefault(key, []).append((values[0], own[key][-1]["answer"] if key in own else usual.get(key, (None, ""))[0]))
    return [Guessed(key, *(tuple(part) for part in zip(*pairs[key], strict=True)), usual.get(key, (None, ""))[1]) for key in sorted(pairs)]


def _usual(answers: Sequence[dict]) -> tuple[float | str, str]:
    """The median of numbers, or the commonest option, and the unit."""
    values = [one["answer"] for one in answers]
    numbers = [value for value in values if not isinstance(value, str)]
    return statistics.median(numbers) if numbers else Counter(values).most_common(1)[0][0], answers[0]["unit"]


def checks(exports: Sequence[Export]) -> dict[str, tuple[int, int]]:
    """For each choice, quiz and exercise: how many were right, of how many. A quiz counts by its first try, an exercise of those in the class."""
    rows = {f"{one.key}, guess": one.right for one in guessed(exports) if one.right}
    tries = [export.of("quiz") for export in exports]
    for key in sorted({key for quizzes in tries for key in quizzes}):
        firsts = [quizzes[key][0]["right"] for quizzes in tries if key in quizzes]
        rows[f"{key}, first try"] = (sum(firsts), len(firsts))
    solved = Counter(key for export in exports for key in export.of("exercise"))
    return dict(sorted((rows | {f"{key}, solved": (number, len(exports)) for key, number in solved.items()}).items()))


def tables(exports: Sequence[Export]) -> list[Table]:
    """The questions, then the learners."""
    questions = guessed(exports)
    asked = []
    for one in questions:
        spread = f"{statistics.median(one.errors):+.2f}" if one.errors else ""
        close = f"{sum(abs(error) < 1 for error in one.errors)} of {len(one.errors)}" if one.errors else ("{} of {}".format(*one.right) if one.right else "")
        asked.append(
            [
                one.key,
                str(len(one.values)),
                _middle(one.values, one.unit),
                _middle([value for value in one.answers if value is not None], one.unit),
                close,
                spread,
            ]
        )
    heads = ["question", "guesses", "the middle one", "answer", "close or right", "median log2 error"]
    people = []
    for export in exports:
        mine = guessed([export], exports)
        errors = [abs(error) for one in mine for error in one.errors]
        options = [one.right[0] for one in mine if one.right]
        quizzes = [tries[0]["right"] for tries in export.of("quiz").values()]
        off = f"{2 ** statistics.median(errors):.1f}×" if errors else ""
        people.append([export.learner, str(len(mine)), off, _of(options), _of(quizzes), str(len(export.of("exercise")))])
    who = ["learner", "guesses", "usually off by", "options right", "quizzes right at once", "exercises solved"]
    return [Table(f"What {len(exports)} learners guessed", heads, asked), Table("Who", who, people)]


def _middle(values: Sequence[float | str], unit: str) -> str:
    return amount(*_usual([{"answer": value, "unit": unit} for value in values])) if values else ""


def _of(right: Sequence[bool | int]) -> str:
    return f"{sum(right)} of {len(right)}" if right else ""


def figures(exports: Sequence[Export]) -> dict[str, Described]:
    """The figures for which there is something to show, by the names of their files."""
    off = {one.key: one.errors for one in guessed(exports) if one.errors}
    right = checks(exports)
    shown = {"guesses": charts.log_errors(off, title=f"How far off {len(exports)} learners guessed")} if off else {}
    return shown | ({"checks": charts.right_shares(right, title=f"Who got what right, of {len(exports)} learners")} if right else {})


def report(folder: Path, to: Path) -> Iterator[str]:
    """Write class.html and its figures as PNG into ``to``; yield what the terminal shows."""
    from mllandscape.kit.html import document, wide

    exports, notes = read_class(folder)
    shown, drawn = tables(exports), figures(exports)
    body = "".join(f'<div class="output">{figure._repr_mimebundle_()["text/html"]}</div>' for figure in drawn.values())
    body += "".join(wide(table._repr_html_(), table.title) for table in shown)
    body += "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    page = document("mllandscape: the class", f'<div class="page"><main><h1>The class</h1>{body}</main></div>')
    try:
        to.mkdir(parents=True, exist_ok=True)
        (to / "class.html").write_text(page, encoding="utf-8", newline="\n")
        for name, figure in drawn.items():
            (to / f"{name}.png").write_bytes(figure.png())
    except OSError as error:
        raise BadInput(f"{to} cannot be written ({error.strerror}); give another folder by --to.") from None
    yield from ("\n\n".join([*map(repr, shown), *(f"{name}.png: {figure.sentence}" for name, figure in drawn.items()), *notes]), "")
    yield f"Written to {to}: {', '.join(['class.html', *(f'{name}.png' for name in drawn)])}"
