"""A learner's progress as one file for the instructor, under a made-up name, and a class's files read back.

The file holds guesses with the answers that this machine found, quizzes and exercises, with their days, and how many points were ticked in
the mock interview. It holds nothing of the user, the machine or its folders, and nothing that was typed but numbers.
"""

import json
import math
import os
import secrets
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllandscape import BadInput
from mllandscape.course import progress

FORMAT = "mllandscape progress"
KINDS = ("guess", "answer", "quiz", "exercise")
LARGEST = 5_000_000  # bytes of a file that is read; a whole course is some tens of thousands
LONGEST = 200  # characters of a name or an option
SHOWN = 10  # names in one line
POINTS = ("what", "why", "number")  # the kinds of points in the interview's rubric

COLOURS = "amber azure coral crimson emerald golden indigo ivory jade lilac maroon olive pearl ruby silver teal".split()
ANIMALS = "badger beaver bison crane falcon gecko heron ibex lynx marten otter owl panda raven swift tapir".split()


@dataclass(frozen=True)
class Export:
    """The entries of one learner, oldest first, under the name that the file gives.

    ``id`` is the made-up name, also beside another; "" in files that are older than it. ``interview`` counts the points of each answer.
    """

    learner: str
    entries: tuple[progress.Entry, ...]
    id: str = ""
    interview: tuple["Spoken", ...] = ()

    def of(self, kind: str) -> dict[str, list[Any]]:
        """The values of a kind by their keys, each oldest first."""
        found: dict[str, list[Any]] = {}
        for entry in self.entries:
            if entry.kind == kind:
                found.setdefault(entry.key, []).append(entry.value)
        return found


@dataclass(frozen=True)
class Spoken:
    """One answer of the mock interview: points said of how many, by kind, and red flags. No text."""

    question: str
    what: tuple[int, int]
    why: tuple[int, int]
    number: tuple[int, int]
    flags: int


def learner() -> str:
    """The learner's made-up name, the same in every export from this progress folder; drawn when it is first asked for."""
    if known := progress.read("learner", "name")[0]:
        return known[0].value
    name = f"{secrets.choice(COLOURS)}-{secrets.choice(ANIMALS)}-{secrets.token_hex(2)}"
    return progress.add("learner", "name", name).value


def write(path: Path, name: str = "", interview: Sequence[Spoken] = ()) -> tuple[Path, Export]:
    """Write the export to a file, or into a folder as <made-up name>.json, under ``name`` where it is given. An earlier export is replaced.

    A guess that was made after its answer had been shown stays out, so that a class's figures are of blind guesses alone.
    Returns the file too. Raises BadInput for a file that is something else, or that cannot be written, and where there is nothing to export.
    """
    if len(name) > LONGEST:
        raise BadInput(f"--name: {len(name)} characters; at most {LONGEST} are possible.")
    entries = progress.entries()[0]
    late = progress.seen_first(entries)
    kept = tuple(entry for entry in entries if entry.kind in KINDS and not (entry.kind == "guess" and entry.key in late))
    if not kept and not interview:
        raise BadInput(f"There is nothing to export in {progress.folder()}: commit a guess in a lesson first, or point MLLANDSCAPE_DATA at your folder.")
    if path.is_dir():
        path = path / f"{learner()}.json"  # no two learners have it, so a class fits on one stick
    elif path.suffix.lower() != ".json":
        raise BadInput(f"{path} is no folder, and no file that ends in .json; give one of the two: mllandscape class reads no others.")
    if path.exists() and not _is_export(path):
        raise BadInput(f"{path} exists and is no progress file; give another name.")
    export = Export(name or learner(), kept, learner(), tuple(interview))
    # Two fields more than version 1 had. A program that knows only those reads the rest as before, so the version stays.
    content = {"format": FORMAT, "schema": progress.SCHEMA, "learner": export.learner, "id": export.id}
    content |= {"entries": [vars(entry) for entry in kept], "interview": [vars(one) for one in export.interview]}
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written ({error.strerror}); give a file in a folder that can.") from None
    return path, export


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
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors and mail programs put a mark before the text
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadInput("it is no progress file; they are written by: mllandscape progress export FILE")
        if type(content.get("schema")) is int and content["schema"] < 1:
            raise BadInput(f"its layout has version {content['schema']}, older than any that this mllandscape reads: export it again with this one.")
        schema = progress.version(content)
        name, made_up = content["learner"], content.get("id", "")
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST:
            raise BadInput("its learner has no name.")
        if not isinstance(made_up, str) or len(made_up) > LONGEST:
            raise BadInput("its learner has no id.")
        entries = tuple(_entry({"schema": schema, **fields}) for fields in content["entries"])
        return Export(name, entries, made_up, tuple(_spoken(fields) for fields in content.get("interview", [])))
    except BadInput as error:
        raise BadInput(f"{path.name}: {error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path.name}: it is not in UTF-8, so another program has written it; ask for it again.") from None
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


def _spoken(fields: dict[str, Any]) -> Spoken:
    question, flags = fields["question"], fields["flags"]
    counts = [(said, of) for said, of in (fields[kind] for kind in POINTS)]
    whole = all(type(number) is int and 0 <= number <= LONGEST for pair in (*counts, (flags,)) for number in pair)
    if not (isinstance(question, str) and len(question) <= LONGEST and whole and all(said <= of for said, of in counts)):
        raise ValueError("an answer of the interview is none")
    return Spoken(question, *counts, flags)


def _is_answer(value: Any) -> bool:
    return len(value) <= LONGEST if isinstance(value, str) else type(value) in (int, float) and math.isfinite(value)


OURS = ("class.html", "guesses.png", "checks.png")
"""What ``mllandscape class`` itself writes beside the files."""


def read_class(folder: Path) -> tuple[list[Export], list[str]]:
    """Every export in a folder, in the order of the names, and a line for each file that was left out, and one for what was not looked at.

    Of two files of one learner, by their id or, without one, by their name, the one with more in it counts. Two learners of one name get
    their id beside it. Raises BadInput for a folder that is none, or holds no file that can be read.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give the one with the progress files of the class.")
    best: dict[str, tuple[Export, Path]] = {}
    notes, other = [], []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix.lower() != ".json":
            other += [] if path.name in OURS else [f"{path.name}{'/' if path.is_dir() else ''}"]
            continue
        try:
            export = read(path)
        except BadInput as error:
            notes.append(f"left out {error}")
            continue
        who = export.id or export.learner
        if before := best.get(who):
            (export, path), (_, less) = sorted([before, (export, path)], key=lambda pair: -len(pair[0].entries + pair[0].interview))
            notes.append(f"left out {less.name}: {path.name} is of the same learner and has as much or more.")
        best[who] = export, path
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        notes.append(f"not looked at: {', '.join(other[:SHOWN])}{more}. Only files that end in .json count, and none in folders inside this one.")
    if not best:
        raise BadInput(" ".join([f"{folder} holds no progress file that can be read (*.json).", *notes]))
    names = Counter(export.learner for export, _ in best.values())
    apart = [replace(one, learner=f"{one.learner} ({one.id or 'no id'})") if names[one.learner] > 1 else one for one, _ in best.values()]
    return sorted(apart, key=lambda export: export.learner), notes
