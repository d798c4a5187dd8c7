"""What a student's copy of a notebook leaves out. It writes ``...`` for an answer that the package's own notebook writes out.

``quiz("03.quiz", question, options, ..., ...)`` finds answer and explanation where the committed notebook says them, so they stand in
one place, in the package and in no cell of the copy. Of an f-string the copy keeps the values, which it computes, and leaves out the words:
``explain=(..., f"{few}", f"{many}")``.
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
    "reveal": ("answer", "explain"),
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


def meant(node: ast.expr, source: str) -> ast.expr:
    """The expression, or where it is a name that the cell assigns once, what it assigns."""
    if not isinstance(node, ast.Name):
        return node
    assignments = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Assign)]
    found = [one.value for one in assignments if [ast.unparse(target) for target in one.targets] == [node.id]]
    return found[0] if len(found) == 1 else node


def values(text: ast.JoinedStr) -> list[str]:
    """The values of an f-string, each as an f-string of its own without a word, in source."""
    return [ast.unparse(ast.JoinedStr([part])) for part in text.values if isinstance(part, ast.FormattedValue)]


def _put_back(value: Any, node: ast.expr | None) -> Any:
    """The value, or where something is left out of it, what the node writes; None where it does not write that."""
    if value is ...:
        return None if node is None else written(node)
    if not _words_left_out(value):
        return value
    if not isinstance(node, ast.JoinedStr) or len(values(node)) != len(value) - 1:
        return None
    computed = iter(value[1:])
    return "".join(next(computed) if isinstance(part, ast.FormattedValue) else written(part) for part in node.values)


def _words_left_out(value: Any) -> bool:
    return isinstance(value, tuple) and value[:1] == (...,)


def filled(function: Function, key: str, **given: Any) -> tuple[Any, ...]:
    """The arguments as given, with what is left out of them as ``...`` put back from the same call in the package's notebook.

    Raises BadInput where it writes nothing that fits.
    """
    if not any(value is ... or _words_left_out(value) for value in given.values()):
        return tuple(given.values())
    from mllandscape.course import notebooks  # which is also run as a command, and must not be there before it is

    verb = function.__name__
    try:
        books = [json.loads(path.read_text(encoding="utf-8")) for path in notebooks.sources(key[:2])]
    except BadInput:
        books = []
    for source in ("".join(cell["source"]) for book in books for cell in book["cells"] if cell["cell_type"] == "code"):
        for call in calls(source, (verb,)):
            arguments = named(call, function)
            if "key" in arguments and written(arguments["key"]) == key:
                whole = [_put_back(value, meant(arguments[name], source) if name in arguments else None) for name, value in given.items()]
                if not any(value is None or value is ... for value in whole):
                    return tuple(whole)
    raise BadInput(f"{verb}({key!r}): what is left out as ... is in none of the notebooks in {notebooks.FOLDER}; install mllandscape with its notebooks.")
