"""The instructor's edition: solutions open, minutes beside each section, what goes wrong in the room and what to say, and agendas."""

import html
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mllandscape import BadInput
from mllandscape.kit import folded, timing
from mllandscape.kit.html import document, markdown, wide
from mllandscape.kit.lesson import SOLUTION, Lesson, answer, bundles


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong in a room, in the lesson with this number or, with "", in any: what is seen, what to do, and what to say."""

    lesson: str
    happens: str
    do: str
    say: str = ""


@cache
def troubles() -> tuple[Trouble, ...]:
    """Every row of room.toml. Raises BadInput that names a row which is not one."""
    rows = tomllib.loads(resources.files("mllandscape.kit").joinpath("room.toml").read_text(encoding="utf-8"))["trouble"]
    for row in rows:
        if not set(row) <= {"lesson", "happens", "do", "say"} or not all(isinstance(value, str) for value in row.values()) or not row.get("do"):
            raise BadInput(f"room.toml: {row} is no row; it has lesson, happens, do and perhaps say, each a text.")
    return tuple(Trouble(**row) for row in rows)


def edition(lesson: Lesson) -> Any:
    """The notebook with its outputs, each fold open, each solution a cell that can be run, and the minutes of its sections."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    minutes, start, cells = timing.sections(lesson), 0, []
    names = {section.cells[0].id: section.name for section in lesson.sections}
    for number, cell in enumerate(lesson.book.cells, 1):
        if cell.cell_type != "markdown":
            cells.append(cell.copy())
            continue
        source = cell.source
        if length := minutes.get(names.get(cell.id, ""), 0):
            head, _, rest = source.partition("\n")
            remark = timing.REMARKS.get(names[cell.id])
            source = f"{head}\n\n*{length} minutes, {clock(start)} to {clock(start + length)}{f': {remark}' if remark else ''}.*\n{rest}"
            start += length
        for place, (kind, text) in enumerate(opened(source, f"{lesson.name}, cell {number}")):
            name = cell.id if place == 0 else f"{cell.id}-{place}"
            cells.append(new_markdown_cell(text, id=name) if kind == "markdown" else new_code_cell(text, id=name, metadata={"tags": ["solution"]}))
        if number == 1:
            cells.append(new_markdown_cell(notes(lesson), id="for-the-instructor"))
    return new_notebook(cells=cells, metadata=lesson.book.metadata)


def opened(source: str, place: str) -> list[tuple[str, str]]:
    """A markdown cell as cells, with nothing folded: prose as it is, and each solution as code."""
    shown = "\n\n".join(f"**{part.summary}**\n\n{part.text.strip()}" if part.folded else part.text.strip() for part in folded.parts(source, place))
    pieces = SOLUTION.split(shown)  # prose, solution, prose, ...
    return [("code" if index % 2 else "markdown", piece.strip()) for index, piece in enumerate(pieces) if piece.strip()]


def clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02}"


def notes(lesson: Lesson) -> str:
    """The cell below a notebook's first: what goes wrong here, and the minutes in all."""
    rows = [f"- *{trouble.happens}* {trouble.do}{f' Say: {trouble.say}' if trouble.say else ''}" for trouble in troubles() if trouble.lesson == lesson.number]
    total = f"**For the instructor.** {lesson.opening.minutes} minutes in all, {timing.short(lesson)} in the short form (commit, experiments, say it)."
    return "\n".join([total, "", "What goes wrong here:" if rows else "Nothing is known to go wrong here.", "", *rows]).strip()


def plan(lessons: Sequence[Lesson]) -> str:
    """Agendas, what to do before, and each lesson's minutes, answers and troubles, as one HTML page to print."""
    body = ["<h1>The instructor's plan</h1>", "<h2>Agendas</h2>"]
    body += [
        f'<p class="note">From the minutes of the notebooks, in their order; build with --only for other lessons or another order.</p>{agenda_tables(lessons)}'
    ]
    body += ["<h2>Before and in the room</h2>", trouble_table("")]
    for lesson in lessons:
        minutes, start, rows = timing.sections(lesson), 0, []
        for section in lesson.sections:
            if length := minutes[section.name]:
                title = section.title or timing.REMARKS.get(section.name)
                rows.append([clock(start), str(length), f"{section.name}: {title}" if title else section.name])
                start += length
        body += [f"<h2>Lesson {int(lesson.number)}: {html.escape(lesson.opening.title)}</h2>", f"<p>{inline(lesson.opening.question)}</p>"]
        body += [f"<p>Needs {inline(lesson.opening.needs)}</p>", table("Minutes", ["from", "minutes", "section"], rows)]
        answers = {found[0]: found[1:] for cell in lesson.book.cells for bundle in bundles(cell) if (found := answer(bundle))}
        asked = [[guess.question, *answers.get(guess.key, ("", ""))] for guess in lesson.guesses()]
        body += [table("The guesses, and what the stored run found", ["guess", "answer", "why"], asked), trouble_table(lesson.number)]
    return document("mllandscape: the instructor's plan", f'<div class="page"><main>{"".join(body)}</main></div>')


def agenda_tables(lessons: Sequence[Lesson]) -> str:
    agendas = timing.agendas(lessons)
    shown = "" if agendas else '<p class="note">The chosen lessons fill no two hours: choose more of them.</p>'
    for agenda in agendas:
        shown += f"<h3>{agenda.name}</h3>"
        for number, day in enumerate(agenda.days, 1):
            starts = [sum(slot.minutes for slot in day[:place]) for place in range(len(day))]
            rows = [[clock(start), str(slot.minutes), slot.what] for start, slot in zip(starts, day, strict=True)]
            shown += table(f"Day {number}" if len(agenda.days) > 1 else "", ["from", "minutes", "what"], rows)
        shown += f'<p class="note">No time for {", ".join(agenda.left_out)}.</p>' if agenda.left_out else ""
    return shown


def trouble_table(number: str) -> str:
    rows = [[trouble.happens, trouble.do, trouble.say] for trouble in troubles() if trouble.lesson == number]
    return table("What goes wrong, and what to say", ["it happens", "do", "say"], rows) if rows else ""


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of markdown text as an HTML table."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return wide(f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", caption or "Agenda")


def inline(text: str) -> str:
    return markdown(text).strip().removeprefix("<p>").removesuffix("</p>")
