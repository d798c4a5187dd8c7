"""The student's edition: a lesson without its answers. Every check stays, and what it compares with lies in the package.

Each cell is made anew from its source alone, so that nothing else of the notebook can come along: no output, count, attachment or
metadata but the two tags that steer the run.
"""

import ast
import re
from typing import Any

from mllandscape import BadInput
from mllandscape.course import questions, speech, withheld
from mllandscape.course.notebooks import IGNORED, normalised
from mllandscape.kit import folded
from mllandscape.kit.lesson import Lesson

KEPT_TAGS = (IGNORED, "raises-exception")
FUNCTIONS = {"quiz": questions.quiz, "reveal": questions.reveal, "spoken": speech.spoken}
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_FENCE = re.compile(r"^(```|~~~)[^\n]*\n\s*#\s*solution\b.*?(?:^\1[^\n]*$\n?|\Z)", re.DOTALL | re.MULTILINE | re.IGNORECASE)


def edition(lesson: Lesson) -> Any:
    """The notebook without solutions, hints, answers and outputs. Raises BadInput that names a cell which hides text in a way that is not known here."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    cells = []
    for number, cell in enumerate(lesson.book.cells, 1):
        place = f"{lesson.name}, cell {number}"
        tags = {"tags": kept} if (kept := [tag for tag in KEPT_TAGS if tag in cell.metadata.get("tags", [])]) else {}
        if cell.cell_type == "markdown" and (source := prose(cell.source, place)):
            cells.append(new_markdown_cell(source, id=cell.id, metadata=tags))
        if cell.cell_type == "code" and not re.match(r"\s*#\s*solution\b", cell.source, re.IGNORECASE):
            cells.append(new_code_cell(code(cell.source, place), id=cell.id, metadata=tags))
    return normalised(new_notebook(cells=cells))


def prose(source: str, place: str) -> str:
    """A markdown cell without its folds, solutions and comments, "" where nothing is left."""
    opened = "".join(part.text for part in folded.parts(_COMMENT.sub("", source), place) if not part.folded)
    if re.search(r"attachment:", opened):
        raise BadInput(f"{place} shows an attachment, which no edition keeps; make the picture with a cell.")
    if re.search(r"<[a-z][^>]*(\shidden\b|display\s*:\s*none|visibility\s*:\s*hidden)", opened, re.IGNORECASE):
        raise BadInput(f"{place} hides text without <details>; fold it, so that it can be left out.")
    return re.sub(r"\n{3,}", "\n\n", _FENCE.sub("", opened)).strip()


def code(source: str, place: str) -> str:
    """A code cell with ``...`` for each argument of a quiz, a revealed or a spoken answer that would give it away.

    An explanation that is computed stays: it holds no number until it runs. A quiz whose answer is not written out raises BadInput.
    """
    cuts = []
    for call in withheld.calls(source):
        verb = call.func.id if isinstance(call.func, ast.Name) else ""
        arguments = withheld.named(call, FUNCTIONS[verb])
        for name in withheld.HIDDEN[verb]:
            node = arguments.get(name)
            if node is None or (computed := withheld.written(node) is None) and verb == "reveal":
                continue
            if computed:
                raise BadInput(f"{place}: {name} of {verb} is computed; write it out, so that a student's copy can leave it out.")
            cuts.append((node.lineno, node.col_offset, node.end_lineno, node.end_col_offset))
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in UTF-8
    for first, start, last, end in sorted(cuts, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + b"..." + lines[last - 1][end:]]
    return b"".join(lines).decode()
