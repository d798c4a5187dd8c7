"""A throw-away index and the machines that use it; where pip, Poetry and uv are not installed, what was recorded of them.

A lab is a script: machines are made, commands run on them, files are read. Where the tools are, it happens, and is noted; where they are not,
the notes of the lab of the same name are played back, and a step that they do not hold is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from mllandscape import BadInput, record
from mllandscape.environments import tools
from mllandscape.environments.environment import Environment, Run
from mllandscape.environments.index import Wheel, serve

noted: dict[str, dict[str, Any]] = {"labs": {}, "values": {}}
"""What this process has run live, and ``keep`` writes: the steps of every lab, and every value of ``once``, by name."""


class Lab:
    """Use it in a ``with`` block: an index of ``wheels``, served while the block lasts, or the recording ``kept`` played back."""

    def __init__(self, name: str, wheels: Iterable[Wheel], kept: str):
        self.name = name
        self.live = tools.find() is not None
        self._wheels, self._kept = tuple(wheels), kept
        self._stack = ExitStack()
        self._machines = 0

    def __enter__(self) -> "Lab":
        if self.live:
            self._index = self._stack.enter_context(serve(self._wheels))
            self._steps = noted["labs"][self.name] = []
        else:
            self._steps = list(_kept(self._kept, "labs", self.name))
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def machine(self, *requirements: str, files: Mapping[str, str] | None = None) -> "Machine":
        """A new machine with caches of its own, and a project that asks for ``requirements`` and holds ``files``."""
        self._machines += 1
        if not self.live:
            return Machine(self, self._machines, None)
        environment = self._stack.enter_context(Environment(self._index, dict(files or {})))
        environment.project(*requirements)
        return Machine(self, self._machines, environment)

    def replace(self, wheel: Wheel) -> None:
        """Put other bytes in the place of a published wheel, its hash on the index included."""
        if self.live:
            self._index.replace(wheel)

    def add(self, *wheels: Wheel) -> None:
        """Publish these, from now on."""
        if self.live:
            self._index.add(*wheels)

    def let_cache(self, **seconds: int) -> None:
        """Allow clients to keep answers of a kind without asking again: see ``Index.fresh``."""
        if self.live:
            self._index.fresh.update(seconds)

    def requests(self) -> int:
        """How many requests the index has answered."""
        return self.step({"asked": "requests"}, lambda: sum(self._index.requests.values()))

    def step(self, asked: dict[str, Any], do: Callable[[], Any]) -> Any:
        """Do it and note the answer, or find the answer in the notes."""
        if self.live:
            answer = record.plain(do())
            self._steps.append(asked | {"answer": answer})
            return answer
        following = self._steps.pop(0) if self._steps else {}
        if {key: value for key, value in following.items() if key != "answer"} != asked:
            what = asked.get("command") or asked.get("file") or asked["asked"]
            raise BadInput(f"{what!r} is not what was recorded here; run `{tools.INSTALL}` once, with the network, and it runs live.")
        return following["answer"]


class Machine:
    """One machine of a lab."""

    def __init__(self, lab: Lab, number: int, environment: Environment | None):
        self._lab, self._number, self._environment = lab, number, environment

    @property
    def environment(self) -> Environment | None:
        """The real one, or None where a recording is played back."""
        return self._environment

    def run(self, command: str, seconds: float = 60) -> Run:
        """See Environment.run."""
        asked = {"asked": "run", "machine": self._number, "command": command}
        return record.restore(Run, self._lab.step(asked, lambda: self._environment.run(command, seconds)))

    def run_all(self, *commands: str) -> tuple[Run, ...]:
        """One after the other, whatever they answer."""
        return tuple(self.run(command) for command in commands)

    def read(self, file: str) -> str:
        """The text of a file of the project."""
        return self._lab.step({"asked": "read", "machine": self._number, "file": file}, lambda: self._environment.read(file))

    def write(self, file: str, text: str) -> None:
        """A file of the project."""
        if self._lab.live:
            self._environment.write(file, text)

    def project(self, *requirements: str) -> None:
        """Let the project ask for these instead."""
        if self._lab.live:
            self._environment.project(*requirements)

    def clear(self) -> None:
        """An empty virtual environment again; files and caches stay."""
        if self._lab.live:
            self._environment.clear()

    def files(self) -> list[str]:
        """The names of the files that lie in the project folder."""
        asked = {"asked": "files", "machine": self._number}
        return self._lab.step(asked, lambda: sorted(path.name for path in self._environment.folder.iterdir() if path.is_file()))


def once(kept: str, name: str, do: Callable[[], Any]) -> Any:
    """What ``do`` gives, as plain JSON, where the tools are; else what it gave when it was recorded."""
    if tools.find() is None:
        return _kept(kept, "values", name)
    noted["values"][name] = record.plain(do())
    return noted["values"][name]


def line(kept: str) -> str:
    """Where the runs come from, in one line: from here, or from the recording ``kept`` and how to have them here."""
    found = tools.find()
    if found:
        return f"Run here, with {_named(found.versions)}."
    recording = _recording(kept)
    versions = next(step["answer"]["versions"] for steps in recording.data["labs"].values() for step in steps if step["asked"] == "run")
    return f"pip, Poetry and uv are not installed here (`{tools.INSTALL}` does it, once): {recording}, with {_named(versions)}."


def keep(name: str, command: str) -> None:
    """Write what this process has run live as the recording ``name``; ``command`` is what does it again. Raises BadInput where nothing ran live."""
    if tools.find() is None:
        raise BadInput(f"nothing to record: pip, Poetry and uv are not installed here; run `{tools.INSTALL}` once, with the network.")
    provenance = replace(record.here(command), torch="")
    record.save(name, noted, provenance)


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _recording(kept: str) -> record.Recording:
    recording = record.load(kept)
    if recording is None:
        raise BadInput(f"pip, Poetry and uv are not installed here and there is no recording {kept}: run `{tools.INSTALL}` once, with the network.")
    return recording


def _kept(kept: str, kind: str, name: str) -> Any:
    found = _recording(kept).data[kind]
    if name not in found:
        raise BadInput(f"{name!r} is not in the recording {kept}; run `{tools.INSTALL}` once, with the network, and it runs live.")
    return found[name]
