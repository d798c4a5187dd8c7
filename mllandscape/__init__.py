"""Ten ML-engineering interview questions, answered by experiment."""

__version__ = "0.1.0"


class BadInput(ValueError):
    """What was given, what is possible, and what to do next, in one line.

    The only exception this package raises on purpose for wrong input. Jupyter shows the line without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def told(value: object, most: int = 80) -> str:
    """A wrong value as one line of at most so many characters, whatever it is: for a BadInput to quote."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to print a whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else text[: most - 3] + "..."
