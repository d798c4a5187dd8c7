"""A lesson as one HTML page for readers without a kernel: every output as it is stored, each panel as its static figure, no script."""

import html
import re
from collections.abc import Sequence
from typing import Any

from mllandscape.kit.html import document, markdown, python, wide
from mllandscape.kit.lesson import Lesson, aligned, answer, bundles

PANEL = "The figure is the panel as it opens. In JupyterLab its controls move it."


def page(lesson: Lesson) -> str:
    """The lesson's page."""
    sections = {section.cells[0].id: section for section in lesson.sections}
    links = "".join(f'<li><a href="#{anchor(section.name)}">{html.escape(section.name)}</a></li>' for section in lesson.sections)
    body = [f'<a class="skip" href="#lesson">Skip to the lesson</a><div class="page"><nav aria-label="Sections"><ol>{links}</ol></nav><main id="lesson">']
    number = 0
    for cell in lesson.book.cells:
        if cell.cell_type == "markdown":
            shown = markdown(cell.source)
            if section := sections.get(cell.id):
                shown = re.sub(r"<h2[^>]*>", f'<h2 id="{anchor(section.name)}">', shown, count=1)
                shown += f'<p class="note">{PANEL}</p>' if section.name == "Panel" else ""
            body.append(shown)
        elif cell.cell_type == "code":
            number += 1
            body.append(f'<pre class="code" tabindex="0" aria-label="Code {number}">{python(cell.source)}</pre>')
            body += [f'<div class="output">{shown}</div>' for bundle in bundles(cell) if (shown := output(bundle, number))]
    return document(f"Lesson {int(lesson.number)}: {lesson.opening.title}", "\n".join([*body, "</main></div>"]))


def anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def output(bundle: dict[str, Any], number: int) -> str:
    """A stored output as HTML: its own HTML, else its text. Of a revealed answer without what it says to a learner."""
    if shown := bundle.get("text/html"):
        shown = shown.partition("</p>")[0] + "</p>" if answer(bundle) else shown
        return re.sub(r"<table\b.*?</table>", lambda match: wide(match[0]), shown, flags=re.DOTALL)
    text = bundle.get("text/plain", "")
    kind = ' class="table"' if aligned(text) else ""
    return f'<pre{kind} tabindex="0" aria-label="Output of code {number}">{html.escape(text)}</pre>' if text.strip() else ""


def index(title: str, lessons: Sequence[Lesson], suffix: str = ".html") -> str:
    """A page that links to each lesson's file beside it."""
    rows = "".join(
        f'<tr><th scope="row"><a href="{lesson.name}{suffix}">Lesson {int(lesson.number)}: {html.escape(lesson.opening.title)}</a></th>'
        f"<td>{html.escape(lesson.opening.question)}</td><td>{lesson.opening.minutes}</td></tr>"
        for lesson in lessons
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("lesson", "the question", "minutes"))
    table = wide(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>", "Lessons")
    return document(title, f'<div class="page"><main><h1>{html.escape(title)}</h1>{table}</main></div>')
