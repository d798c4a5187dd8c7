"""Where a number comes from, and the recorded runs that stand in for a GPU that is not there.

A recording is one readable JSON file in ``recordings/``: its data, its provenance, the version of the layout and a SHA-256
digest of all three. A recording is never shown as live: what is saved as computed is recorded from then on.
"""

import hashlib
import json
import os
import platform
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from mllandscape import BadInput, machine, told

_told = partial(told, most=60)

SCHEMA = 1
FOLDER = Path(__file__).parent / "recordings"
KINDS = ("computed", "recorded", "published")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """``computed`` here and now, ``recorded`` on another machine or day, or ``published`` by a ``source``. Its str is one line.

    ``device`` is ``CPU`` or the GPU's name; ``driver`` and ``cuda`` are empty without one. ``date`` is the day as 2026-11-01,
    ``command`` what to run to get the same. Raises BadInput for an unknown kind, a date that is none, or what a kind cannot lack.
    """

    kind: str
    device: str = ""
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    python: str = ""
    date: str = ""
    command: str = ""
    source: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise BadInput(f"provenance kind {_told(self.kind)}: {', '.join(KINDS)} are possible.")
        for one in fields(self):
            if not isinstance(getattr(self, one.name), str):
                raise BadInput(f"provenance {one.name}={_told(getattr(self, one.name))} is not text: leave out what is not known.")
        needed = "source" if self.kind == "published" else "device"
        if not getattr(self, needed):
            raise BadInput(f"provenance kind {self.kind!r} without a {needed}: give one.")
        if not _is_day(self.date) and (self.date or self.kind == "recorded"):
            raise BadInput(f"provenance date {_told(self.date)}: a day such as 2026-11-01 is needed.")

    def __str__(self) -> str:
        if self.kind == "published":
            return f"published: {', '.join(filter(None, (self.source, self.date)))}"
        where = "computed here:" if self.kind == "computed" else "recorded on"
        torch = f"torch {self.torch.partition('+')[0]}" if self.torch else ""
        day = self.date if self.kind == "recorded" else ""  # a live line reads the same every day, as the stored notebooks need
        return f"{where} {', '.join(filter(None, (self.device, torch, day)))}"


@dataclass(frozen=True)
class Recording:
    """One recorded run. ``data`` is plain JSON; ``str()`` says where it was recorded."""

    name: str
    data: Any
    provenance: Provenance

    def __str__(self) -> str:
        return str(self.provenance)


def here(command: str = "", *, device: str = "cpu") -> Provenance:
    """The provenance of what runs now on ``device``, ``"cpu"`` or ``"cuda"``. Does not import torch. Raises BadInput for a GPU that is not there."""
    if device not in ("cpu", "cuda"):
        raise BadInput(f"device={_told(device)}: 'cpu' and 'cuda' are possible.")
    gpu = machine.look(torch="torch" in sys.modules).gpu if device == "cuda" else None
    if device == "cuda" and gpu is None:
        raise BadInput("device='cuda' on a machine without a visible GPU: use 'cpu', or make the GPU visible.")
    return Provenance(
        kind="computed",
        device=gpu.name if gpu else "CPU",
        driver=(gpu.driver or "") if gpu else "",
        cuda=(gpu.cuda or "") if gpu else "",
        torch=machine.torch_version() or "",
        python=platform.python_version(),
        date=date.today().isoformat(),
        command=command,
    )


def save(name: str, data: Any, provenance: Provenance, folder: Path = FOLDER) -> Path:
    """Write a recording, of JSON or dataclasses of it, and return its path. Keys are sorted: what has an order goes into a list.

    Raises BadInput for anything that JSON cannot give back as it was.
    """
    path = _path(name, folder)
    if not isinstance(provenance, Provenance):
        raise BadInput(f"provenance {_told(provenance)} is none: use record.here() or record.Provenance(...).")
    if provenance.kind == "computed":
        provenance = replace(provenance, kind="recorded")
    try:
        content = {"schema": SCHEMA, "name": name, "provenance": asdict(provenance), "data": plain(data)}
        text = json.dumps(content | {"digest": _digest(content)}, indent=1, sort_keys=True) + "\n"
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, a list that contains itself
        raise BadInput(f"the data of {name!r} cannot be recorded ({type(error).__name__}): use smaller numbers and fewer levels.") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="ascii", newline="\n")
    os.replace(part, path)
    return path


def load(name: str, folder: Path = FOLDER) -> Recording | None:
    """Read a recording, or None where there is none. Raises BadInput, naming the file, when it is damaged, changed or too new."""
    path = _path(name, folder)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        _check(content, name)
        return Recording(name, content["data"], restore(Provenance, content["provenance"]))
    except BadInput as error:
        raise BadInput(f"{path} cannot be used: {error}") from None
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a whole recording ({type(error).__name__}): restore it, or record it again.") from None


def _check(content: dict, name: str) -> None:
    schema, digest = content["schema"], content.pop("digest")
    if type(schema) is int and schema > SCHEMA:
        raise BadInput(f"its layout has version {_told(schema)}, this mllandscape reads {SCHEMA}: update mllandscape.")
    if type(schema) is not int or schema < 1:  # every earlier layout stays readable; version 1 is the first
        raise BadInput(f"its layout has version {_told(schema)}, this mllandscape reads {SCHEMA}: record it again.")
    if digest != _digest(content):
        raise BadInput("it was changed after it was recorded (its digest differs): restore it, or record it again.")
    if content["name"] != name:
        raise BadInput(f"it is the recording {_told(content['name'])}: give the file that name back.")
    if content["provenance"]["kind"] == "computed":
        raise BadInput("it says that it was computed here, which a file cannot be: record it again.")


def main(commands: Mapping[str, Callable[[], object]]) -> int:
    """Run what ``python -m`` one of the modules that record was asked for, "" being no argument. A wrong input is one line on stderr and status 2."""
    given = " ".join(sys.argv[1:])
    try:
        if given not in commands:
            possible = ", ".join(name or "no argument" for name in commands)
            raise BadInput(f"{_told(given) if given else 'no argument'} given, possible: {possible}; CONTRIBUTING.md says what each recording needs.")
        commands[given]()
    except BadInput as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return 2
    return 0


def plain(value: Any) -> Any:
    """Dataclasses as dicts of their fields and tuples as lists, all the way down. Raises BadInput for what is not JSON: NaN, sets, keys that are not text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or type(value) in (bool, int, str) or (type(value) is float and abs(value) < float("inf")):
        return value
    raise BadInput(f"{_told(value)} cannot be recorded: use dataclasses, dicts with text keys, lists, text, finite numbers, bools and None.")


def restore(kind: Any, value: Any) -> Any:
    """The opposite of ``plain``: the value as the dataclass or type it was. Raises BadInput when it does not fit."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in parts:
            return None
        kinds = [part for part in parts if part is not type(None)]
        if len(kinds) == 1:
            return restore(kinds[0], value)
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if value.keys() == {one.name for one in fields(kind)}:
            return kind(**{name: restore(hints[name], one) for name, one in value.items()})
    elif origin is dict and isinstance(value, dict):
        return {key: restore(parts[1], one) for key, one in value.items()}
    elif origin is list and isinstance(value, list):
        return [restore(parts[0], one) for one in value]
    elif origin is tuple and isinstance(value, list) and (parts[-1] is ... or len(parts) == len(value)):
        each = [parts[0]] * len(value) if parts[-1] is ... else parts
        return tuple(restore(part, one) for part, one in zip(each, value, strict=True))
    elif type(value) is kind or (kind is float and type(value) is int):
        return value
    raise BadInput(f"{_told(value)} is not a {getattr(kind, '__name__', kind)}: the recording is of another version; record it again.")


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _path(name: str, folder: Path) -> Path:
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-z]+([._-][0-9a-z]+)*", name) or len(name) > 80:
        raise BadInput(f"{_told(name)} is not a recording's name: use small letters and digits with dots between, such as '03.ladder'.")
    return Path(folder) / f"{name}.json"


def _digest(content: dict) -> str:
    """Over the canonical form: keys sorted, no spaces, ASCII, so that layout and line ends do not count, but every value does."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode("ascii")).hexdigest()
