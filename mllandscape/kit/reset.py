"""``mllandscape reset 03``: the learner's copy of a lesson afresh, and the old one kept under its date. In a built edition it stays that edition."""

import contextlib
import os
from datetime import date
from itertools import count
from pathlib import Path

from mllandscape import BadInput
from mllandscape.course import notebooks
from mllandscape.kit.build import EDITIONS, edition_of
from mllandscape.kit.lesson import lessons


def reset(number: str, folder: Path) -> tuple[Path, Path | None]:
    """Write a fresh copy into ``folder`` and return its path with that of the old one, None where there was none.

    The old notebook is moved, not copied, so that whatever was on the disk at that moment is kept. Raises BadInput for an unknown lesson, for
    a folder that is not there, and when something (an open JupyterLab, say) has written the notebook again in the meantime.
    """
    if not number.isdigit():
        raise BadInput(f"reset {number!r}: give the number of a lesson, such as {notebooks.sources()[0].name[:2]}.")
    (source,) = notebooks.sources(f"{number:0>2}_")
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}; give the one with your notebooks by --folder, or make it with: mllandscape lab")
    path, kept = folder / source.name, None
    edition = edition_of(folder)
    try:
        fresh = EDITIONS[edition](lessons([number]))[source.name] if edition else notebooks.fresh_copy(source)
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != fresh:
            kept = set_aside(path)
        if not notebooks.write_new(path, fresh) and kept:
            raise BadInput(f"Your work is in {kept.name}, but {path.name} was written again meanwhile; close it in JupyterLab, then reset again.")
    except OSError as error:
        where = f"your work is in {kept.name}" if kept else "it is as it was"
        raise BadInput(f"{path} cannot be reset ({error.strerror}); {where}.") from None
    return path, kept


def set_aside(path: Path) -> Path:
    """Rename a file to one with today's date that does not exist yet, such as 03_out_of_memory.2026-11-24.ipynb or, a second time, ….2026-11-24-2.ipynb."""
    for number in count(1):
        aside = path.with_name(f"{path.stem}.{date.today().isoformat()}{f'-{number}' if number > 1 else ''}{path.suffix}")
        with contextlib.suppress(FileExistsError):
            aside.touch(exist_ok=False)  # the name is ours now
            try:
                os.replace(path, aside)
            except OSError:
                aside.unlink()
                raise
            return aside
    raise AssertionError
