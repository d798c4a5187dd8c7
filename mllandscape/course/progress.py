"""What the learner did, kept on their own machine: one small JSON file an entry, in a folder of the user's data.

An entry is never changed or removed, and two notebooks never write the same file, so neither a crash nor a second writer can lose one
and no lock is needed. No name is stored. The folder is ``$MLLANDSCAPE_DATA`` or the user's data folder; deleting it starts afresh.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mllandscape import BadInput

SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """``kind`` is guess, answer, seen (an answer shown before a guess), quiz or exercise; ``key`` is lesson.name; ``day`` is its local date as 2026-11-23."""

    kind: str
    key: str
    value: Any
    day: str


def folder() -> Path:
    """Where the entries lie. It need not exist yet."""
    if given := os.environ.get("MLLANDSCAPE_DATA"):
        return Path(given) / "progress"
    from platformdirs import user_data_dir

    return Path(user_data_dir("mllandscape", appauthor=False)) / "progress"


def add(kind: str, key: str, value: Any) -> Entry:
    """Store an entry at once and whole. Raises BadInput where the folder cannot be written."""
    entry = Entry(kind, key, value, date.today().isoformat())
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    try:
        folder().mkdir(parents=True, exist_ok=True)
        part = folder() / f"{name}.part"
        part.write_text(json.dumps({"schema": SCHEMA, **vars(entry)}), encoding="utf-8")
        os.replace(part, folder() / f"{name}.json")
    except OSError as error:
        raise BadInput(f"Not saved, {folder()} cannot be written ({error.strerror}); set MLLANDSCAPE_DATA to a folder that can.") from None
    return entry


def read(kind: str, key: str) -> tuple[list[Entry], str]:
    """Every entry of one kind and key, oldest first, and one line about files that could not be read, or ""."""
    found, note = entries()
    return [entry for entry in found if (entry.kind, entry.key) == (kind, key)], note


def entries() -> tuple[list[Entry], str]:
    """Every entry, oldest first, and one line about files that could not be read, or "".

    An unreadable file is set aside under a name with today's date and kept. An entry of a newer version is left alone and said.
    """
    found, aside, newer = [], 0, 0
    for path in sorted(folder().glob("*.json")):
        try:
            entry = parse(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue  # another notebook has just set it aside
        except Newer:
            newer += 1
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(f".unreadable-{date.today().isoformat()}"))
            aside += 1
        else:
            found.append(entry)
    notes = [f"{aside} unreadable progress file(s) set aside in {folder()}; nothing else is lost."] if aside else []
    notes += [f"{newer} progress file(s) in {folder()} are of a newer mllandscape and left alone; update to see them."] if newer else []
    return found, " ".join(notes)


def seen_first(entries: Iterable[Entry]) -> set[str]:
    """The keys whose answer was shown before the first guess: what is guessed there afterwards is not blind, and no measure of how well one guesses.

    ``entries`` are the oldest first, as everywhere. An older version leaves the kind ``seen`` alone.
    """
    first: dict[str, str] = {}
    for entry in entries:
        if entry.kind in ("guess", "seen"):
            first.setdefault(entry.key, entry.kind)
    return {key for key, kind in first.items() if kind == "seen"}


class Newer(BadInput):
    """What was written by a later version than this one can read."""


def parse(fields: Any) -> Entry:
    """An entry from its JSON, of this version or an earlier one. Raises Newer for a later one, and KeyError or TypeError for what is none.

    Version 1 has the four fields of Entry. A version 2 would be told apart here, and version 1 still read.
    """
    version(fields)
    return Entry(*(fields[name] for name in ("kind", "key", "value", "day")))


def version(fields: Any) -> int:
    """The schema of a progress file's JSON. Raises Newer for one above ``SCHEMA``, and KeyError or TypeError where there is none."""
    schema = fields["schema"]
    if type(schema) is not int or schema < 1:
        raise TypeError("a schema is a whole number from 1 on")
    if schema > SCHEMA:
        raise Newer(f"its layout has version {schema}, this mllandscape reads {SCHEMA}: update mllandscape.")
    return schema
