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

    A revealed answer that is computed stays: it holds nothing until it runs. Of an explanation with computed values these stay, without a word
    between them. Anything else that is computed raises BadInput, since its words could not be left out.
    """
    cuts = set()
    for call in withheld.calls(source):
        verb = call.func.id if isinstance(call.func, ast.Name) else ""
        arguments = withheld.named(call, FUNCTIONS[verb])
        for name in withheld.HIDDEN[verb]:
            node = arguments.get(name)
            if (verb, name) == ("reveal", "explain") and node is not None:
                node = withheld.meant(node, source)
            if node is None or (verb, name) == ("reveal", "answer") and withheld.written(node) is None:
                continue
            if withheld.written(node) is not None:
                left = "..."
            elif verb == "reveal" and isinstance(node, ast.JoinedStr):
                left = f"(..., {', '.join(withheld.values(node))})"
            else:
                raise BadInput(f"{place}: {name} of {verb} is computed; write it out, so that a student's copy can leave it out.")
            cuts.add((node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, left.encode()))
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in UTF-8
    for first, start, last, end, left in sorted(cuts, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + left + lines[last - 1][end:]]
    return b"".join(lines).decode()
