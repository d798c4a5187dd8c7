"""The one thing that every call of the course returns: a text, an HTML form of it and perhaps a live widget."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shown:
    """A cell's output. ``text`` is what nbval compares; ``html`` is what an export shows; ``widget`` is what a learner uses.

    ``controls`` are the widget's parts by name, so that a cell or a test can drive them.
    """

    text: str
    html: str
    widget: Any = None
    controls: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        view = self.widget._repr_mimebundle_() if self.widget is not None else {}
        return {**view, "text/plain": self.text, "text/html": self.html}
