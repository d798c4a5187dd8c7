"""Ten ML-engineering interview questions, answered by experiment."""

__version__ = "0.1.0"


class BadInput(ValueError):
    """What was given, what is possible, and what to do next, in one line.

    The only exception this package raises on purpose for wrong input. Jupyter shows the line without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
