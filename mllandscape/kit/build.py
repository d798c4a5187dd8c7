"""``mllandscape build``: an edition of the notebooks into a folder of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllandscape import BadInput
from mllandscape.kit.lesson import Lesson, lessons

MARKER = ".mllandscape-edition"
"""The file in a built folder that names its edition, so that ``lab`` and ``reset`` put nothing with solutions into a student's folder."""


def edition_of(folder: Path) -> str:
    """The edition of notebooks that was built into a folder, "" for any other folder. Raises BadInput for an edition without notebooks."""
    try:
        edition = (folder / MARKER).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise BadInput(f"{folder / MARKER} cannot be read ({error.strerror}), and says which edition the folder holds.") from None
    if edition not in ("student", "instructor"):
        raise BadInput(f"{folder} holds the edition {edition!r}, which has no notebooks: give a folder of your own, or one built as student or instructor.")
    return edition


def build(edition: str, folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Write an edition (one of ``EDITIONS``) of every lesson, or of those with the numbers ``only``, and return the files.

    A marker beside them says which edition it is. The folder must be new or empty, so that nobody's work is overwritten; everything is made
    before the first file is written. Raises BadInput for a folder that holds something or cannot be written, for an unknown number, and for
    a notebook that cannot be made.
    """
    files = EDITIONS[edition](lessons(only))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty, and nothing in it will be overwritten: give a new folder, or empty this one.")
        for name, text in {MARKER: f"{edition}\n", **files}.items():
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

    made = {"plan.html": instructor.plan(chosen), **_notebooks(instructor.edition, chosen)}
    if any(lesson.number == "10" for lesson in chosen):
        from mllandscape.kit import interviews

        made["interviews.html"] = interviews.page()
    return made


def _slides(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import page, slides

    return {"index.html": page.index("mllandscape: slides", chosen), **{f"{lesson.name}.html": slides.deck(lesson) for lesson in chosen}}


def _html(chosen: Sequence[Lesson]) -> dict[str, str]:
    from mllandscape.kit import page

    return {"index.html": page.index("mllandscape: the lessons", chosen), **{f"{lesson.name}.html": page.page(lesson) for lesson in chosen}}


EDITIONS: dict[str, Callable[[Sequence[Lesson]], dict[str, str]]] = {"student": _student, "instructor": _instructor, "slides": _slides, "html": _html}
"""Each edition: the lessons' files by their names."""
