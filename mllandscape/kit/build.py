"""``mllandscape build``: an edition of the notebooks into a folder of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllandscape import BadInput
from mllandscape.kit.lesson import Lesson, lessons


def build(edition: str, folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Write an edition (one of ``EDITIONS``) of every lesson, or of those with the numbers ``only``, and return the files.

    The folder must be new or empty, so that nobody's work is overwritten; everything is made before the first file is written. Raises
    BadInput for a folder that holds something or cannot be written, for an unknown number, and for a notebook that cannot be made.
    """
    files = EDITIONS[edition](lessons(only))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty, and nothing in it will be overwritten: give a new folder, or empty this one.")
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error.strerror}): give a new folder.") from None
    return [folder / name for name in files]


def _notebooks(edition: Callable[[Lesson], Any], chosen: Sequence[Lesson]) -> dict[str, str]:
    import nbformat

    return {f"{lesson.name}.ipynb": nbformat.writes(edition(lesson)) + "\n" for lesson in chosen}


def _student(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import student

    return _notebooks(student.edition, chosen)


def _instructor(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import instructor

    return {"plan.html": instructor.plan(chosen), **_notebooks(instructor.edition, chosen)}


def _slides(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import page, slides

    return {"index.html": page.index("mllandscape: slides", chosen), **{f"{lesson.name}.html": slides.deck(lesson) for lesson in chosen}}


def _html(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import page

    return {"index.html": page.index("mllandscape: the lessons", chosen), **{f"{lesson.name}.html": page.page(lesson) for lesson in chosen}}


EDITIONS: dict[str, Callable[[Sequence[Lesson]], dict[str, str]]] = {"student": _student, "instructor": _instructor, "slides": _slides, "html": _html}
"""Each edition: the lessons' files by their names."""
