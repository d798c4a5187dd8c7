"""Exercises whose check lives in the package: the lesson registers a verifier, the notebook's cell passes the learner's answer to it.

A learner's cell is ``answer = ...`` and ``check("03.ex1", answer)``. Its folded solution is the same cell filled in, a Python block in a
markdown cell that begins with ``# solution 03.ex1``. The gates run each solution after the notebook's first code cell.
"""

import html
from collections.abc import Callable
from typing import Any

from mllandscape import BadInput
from mllandscape.course import progress
from mllandscape.course.shown import Shown

Verifier = Callable[[Any], str | None]

_verifiers: dict[str, Verifier] = {}


def exercise(key: str, verify: Verifier) -> None:
    """Register the verifier of one exercise: it returns None when the answer is right, or a hint in one sentence when it is not."""
    _verifiers[key] = verify


def check(key: str, answer: Any) -> Shown:
    """Judge the learner's answer. A right one is stored; a wrong one raises BadInput with the verifier's hint.

    ``...``, or a list, tuple or dict that still holds one, is not attempted. An answer that the verifier cannot even read is wrong, and the hint says why.
    """
    if key not in _verifiers:
        raise BadInput(f"There is no exercise {key!r} here; import its lesson first. Known are: {', '.join(sorted(_verifiers)) or 'none'}.")
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list | tuple) else (answer,)
    if any(part is ... for part in parts):
        return _shown(f"Exercise {key}: not attempted yet. Replace the ... above, then run the cell again.")
    try:
        hint = _verifiers[key](answer)
    except Exception as error:
        hint = f"The answer could not be judged ({type(error).__name__}: {' '.join(str(error).split())})."
    if hint is not None:
        raise BadInput(f"Exercise {key}: not yet. {hint}")
    note = ""
    try:
        progress.add("exercise", key, "right")
    except BadInput as error:
        note = str(error)
    return _shown(f"Exercise {key}: right.", note)


def _shown(text: str, note: str = "") -> Shown:
    return Shown(text, f'<p role="status">{html.escape(f"{text} {note}".strip())}</p>')
