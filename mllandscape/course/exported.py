"""A learner's progress as one file for the instructor, under a made-up name, and a class's files read back.

The file holds guesses with the answers that this machine found, quizzes and exercises, with their days. It holds nothing of the user, the
machine or its folders, and nothing that was typed but numbers.
"""

import json
import math
import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllandscape import BadInput
from mllandscape.course import progress

FORMAT = "mllandscape progress"
KINDS = ("guess", "answer", "quiz", "exercise")
LARGEST = 5_000_000  # bytes of a file that is read; a whole course is some tens of thousands
LONGEST = 200  # characters of a name or an option

COLOURS = "amber azure coral crimson emerald golden indigo ivory jade lilac maroon olive pearl ruby silver teal".split()
ANIMALS = "badger beaver bison crane falcon gecko heron ibex lynx marten otter owl panda raven swift tapir".split()


@dataclass(frozen=True)
class Export:
    """The entries of one learner, oldest first, under the name that the file gives."""

    learner: str
    entries: tuple[progress.Entry, ...]

    def of(self, kind: str) -> dict[str, list[Any]]:
        """The values of a kind by their keys, each oldest first."""
        found: dict[str, list[Any]] = {}
        for entry in self.entries:
            if entry.kind == kind:
                found.setdefault(entry.key, []).append(entry.value)
        return found


def learner() -> str:
    """The learner's made-up name, the same in every export from this progress folder; drawn when it is first asked for."""
    if known := progress.read("learner", "name")[0]:
        return known[0].value
    name = f"{secrets.choice(COLOURS)}-{secrets.choice(ANIMALS)}-{secrets.token_hex(2)}"
    return progress.add("learner", "name", name).value


def write(path: Path, name: str = "") -> Export:
    """Write the export to a file, under ``name`` instead of the made-up one where it is given. An earlier export is replaced.

    Raises BadInput for a file that is something else, or that cannot be written, and where there is nothing to export.
    """
    if len(name) > LONGEST:
        raise BadInput(f"--name: {len(name)} characters; at most {LONGEST} are possible.")
    kept = tuple(entry for entry in progress.entries()[0] if entry.kind in KINDS)
    if not kept:
        raise BadInput(f"There is nothing to export in {progress.folder()}: commit a guess in a lesson first, or point MLLANDSCAPE_DATA at your folder.")
    if path.exists() and not _is_export(path):
        raise BadInput(f"{path} exists and is no progress file; give another name.")
    export = Export(name or learner(), kept)
    content = {"format": FORMAT, "schema": progress.SCHEMA, "learner": export.learner, "entries": [vars(entry) for entry in kept]}
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written ({error.strerror}); give a file in a folder that can.") from None
    return export


def _is_export(path: Path) -> bool:
    try:
        read(path)
    except BadInput:
        return False
    return True


def read(path: Path) -> Export:
    """An export from a file. Raises BadInput, in one line that names the file, for one that is damaged, too new, or none."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"it has more than {LARGEST:,} bytes, so it is no progress file.")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadInput("it is no progress file; they are written by: mllandscape progress export FILE")
        schema = progress.version(content)
        name = content["learner"]
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST:
            raise BadInput("its learner has no name.")
        return Export(name, tuple(_entry({"schema": schema, **fields}) for fields in content["entries"]))
    except BadInput as error:
        raise BadInput(f"{path.name}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path.name}: it is damaged ({type(error).__name__}); ask for it again.") from None


def _entry(fields: dict[str, Any]) -> progress.Entry:
    entry = progress.parse(fields)
    good = {
        "guess": lambda value: _is_answer(value),
        "answer": lambda value: _is_answer(value["answer"]) and isinstance(value["unit"], str),
        "quiz": lambda value: isinstance(value["right"], bool),
        "exercise": lambda value: value == "right",
    }
    if not (isinstance(entry.key, str) and len(entry.key) <= LONGEST and entry.kind in good and good[entry.kind](entry.value)):
        raise ValueError("an entry is none")
    return entry


def _is_answer(value: Any) -> bool:
    return len(value) <= LONGEST if isinstance(value, str) else type(value) in (int, float) and math.isfinite(value)


def read_class(folder: Path) -> tuple[list[Export], list[str]]:
    """Every export in a folder, in the order of the names, and a line for each file that was left out.

    Of two files under one name the one with more entries counts. Raises BadInput for a folder that is none, or holds no file that can be read.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give the one with the progress files of the class.")
    best: dict[str, tuple[Export, Path]] = {}
    notes = []
    for path in sorted(folder.glob("*.json")):
        try:
            export = read(path)
        except BadInput as error:
            notes.append(f"left out {error}")
            continue
        if before := best.get(export.learner):
            (export, path), (_, other) = sorted([before, (export, path)], key=lambda pair: -len(pair[0].entries))
            notes.append(f"left out {other.name}: {path.name} is of the same learner and has as much or more.")
        best[export.learner] = export, path
    if not best:
        raise BadInput(" ".join([f"{folder} holds no progress file that can be read (*.json).", *notes]))
    return [export for export, _ in sorted(best.values(), key=lambda pair: pair[0].learner)], notes
