"""What a student's copy of a notebook leaves out. It writes ``...`` for an answer that the package's own notebook writes out.

``quiz("03.quiz", question, options, ..., ...)`` finds answer and explanation where the committed notebook says them, so they stand in
one place, in the package and in no cell of the copy.
"""

import ast
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

from mllandscape import BadInput

Function = Callable[..., Any]

HIDDEN: dict[str, tuple[str, ...]] = {
    "quiz": ("answer", "why"),
    "reveal": ("explain",),
    "spoken": ("template", "listens_for", "red_flags", "follow_ups"),
}
"""For each function of the course, the arguments that give something away."""


def calls(source: str, verbs: tuple[str, ...] = tuple(HIDDEN)) -> Iterator[ast.Call]:
    """The calls of these functions by their own name in a cell's source, in the order of its lines; none where it is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return
    found = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in verbs]
    yield from sorted(found, key=lambda node: (node.lineno, node.col_offset))


def named(call: ast.Call, function: Function) -> dict[str, ast.expr]:
    """The arguments of a call by the names of the function's parameters."""
    try:
        return dict(inspect.signature(function).bind(*call.args, **{keyword.arg or "": keyword.value for keyword in call.keywords}).arguments)
    except TypeError:
        return {}


def written(node: ast.expr) -> Any:
    """The value that an argument writes out, or None where it is computed."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def filled(function: Function, key: str, **given: Any) -> tuple[Any, ...]:
    """The arguments as given, each ``...`` among them replaced by what the package's notebook writes in the same call.

    Raises BadInput where it writes nothing.
    """
    if not any(value is ... for value in given.values()):
        return tuple(given.values())
    from mllandscape.course import notebooks  # which is also run as a command, and must not be there before it is

    verb = function.__name__
    try:
        books = [json.loads(path.read_text(encoding="utf-8")) for path in notebooks.sources(key[:2])]
    except BadInput:
        books = []
    for source in ("".join(cell["source"]) for book in books for cell in book["cells"] if cell["cell_type"] == "code"):
        for call in calls(source, (verb,)):
            arguments = {name: written(node) for name, node in named(call, function).items()}
            if arguments.get("key") == key:
                given = {name: arguments.get(name) if value is ... else value for name, value in given.items()}
                if not any(value is None or value is ... for value in given.values()):
                    return tuple(given.values())
    raise BadInput(f"{verb}({key!r}): what is left out as ... is in none of the notebooks in {notebooks.FOLDER}; install mllandscape with its notebooks.")
