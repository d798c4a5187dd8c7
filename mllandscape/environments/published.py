"""What was published of transformers, with its source, and how it was read: out of wheels, without installing or running them."""

import ast
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import Parser
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mllandscape import BadInput


@dataclass(frozen=True)
class Contents:
    """``names`` are the public names that ``from package import`` finds, ``requires`` the unconditional requirements by package.

    ``date`` is that of the newest file inside, the day of the build, as 2022-06-21; ``python`` is the metadata's Requires-Python.
    """

    version: str
    date: str
    python: str
    requires: dict[str, str]
    names: frozenset[str]


def read_wheel(path: str | Path, package: str) -> Contents:
    """Read a wheel file and the ``__init__.py`` of one package in it. Nothing of it is run.

    The names are those that the syntax tree of ``__init__.py`` defines, assigns or imports from its own package, under any condition: a name whose import
    depends on an optional package counts, as it does for a library that puts a placeholder in its place. Raises BadInput for a file that is no such wheel.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tree = ast.parse(archive.read(f"{package}/__init__.py"))
            metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            fields = Parser().parsestr(archive.read(metadata).decode(), headersonly=True)
            year, month, day = max(entry.date_time for entry in archive.infolist())[:3]
    except (OSError, zipfile.BadZipFile, KeyError, StopIteration, SyntaxError) as error:
        raise BadInput(f"{Path(path).name} is no wheel with a package {package!r} ({type(error).__name__}): pass the path of one.") from None
    requires = [Requirement(line) for line in fields.get_all("Requires-Dist", [])]
    return Contents(
        version=fields["Version"],
        date=f"{year}-{month:02}-{day:02}",
        python=fields.get("Requires-Python", ""),
        requires={canonicalize_name(one.name): str(one.specifier) for one in requires if one.marker is None},
        names=frozenset(name for name in _names(tree) if not name.startswith("_")),
    )


def _names(tree: ast.Module) -> Iterator[str]:
    """What the module binds outside of functions and classes."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.ImportFrom):
                yield from (alias.asname or alias.name for alias in node.names if node.level)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            else:
                waiting.append(node)


# -- the facts, kept in published.toml ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """A wheel of transformers as it was read: its date, its requirements, and how many ``names`` its ``__init__.py`` lists (0: not counted)."""

    version: str
    date: str
    python: str
    names: int
    numpy: str = ""
    tokenizers: str = ""


@dataclass(frozen=True)
class Name:
    """A public name: the version that first has it, the newest wheel before that which lacks it, and the version that first lacks it again."""

    name: str
    since: str
    before: str = ""
    until: str = ""

    def is_in(self, version: str) -> bool:
        return Version(self.since) <= Version(version) and not (self.until and Version(version) >= Version(self.until))


@dataclass(frozen=True)
class Published:
    """``read`` is the day; ``python`` is what ``transformers>=4.20.0`` was on each Python on that day; ``new`` and ``gone`` count the names between
    4.20.1 and 4.35.2; ``yanked`` maps a withdrawn version to the reason."""

    read: str
    releases: tuple[Release, ...]
    names: tuple[Name, ...]
    yanked: dict[str, str]
    python: dict[str, str]
    new: int
    gone: int

    def name(self, name: str) -> Name:
        """One of ``names``. Raises BadInput for another."""
        for one in self.names:
            if one.name == name:
                return one
        raise BadInput(f"{name!r} was not read from the wheels: {', '.join(one.name for one in self.names)} were.")

    def release(self, version: str) -> Release:
        """One of ``releases``. Raises BadInput for another."""
        for one in self.releases:
            if one.version == version:
                return one
        raise BadInput(f"{version!r} is not a version that was read: {self.releases[0].version} to {self.releases[-1].version} are, with gaps.")


@cache
def published() -> Published:
    """The facts about transformers, each with its source in ``published.toml``."""
    data = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
    releases, names = tuple(Release(**row) for row in data["wheels"]), tuple(Name(**row) for row in data["names"])
    return Published(data["read"], releases, names, data["yanked"], data["python"], **data["from_4_20_1_to_4_35_2"])


_GATHERED = Version("4.50")
"""From about here on ``__init__.py`` gathers its names when it runs, and a syntax tree does not hold them."""


def rows(wheels: list[Contents]) -> str:
    """The rows of ``published.toml`` that come from wheels."""
    wheels = sorted(wheels, key=lambda wheel: Version(wheel.version))
    readable = [wheel for wheel in wheels if Version(wheel.version) < _GATHERED]
    lines = ["wheels = ["]
    for wheel in wheels:
        row = {"version": wheel.version, "date": wheel.date, "python": wheel.python} | {name: wheel.requires[name] for name in ("numpy", "tokenizers")}
        lines.append(f"    {{ {_fields(row)}, names = {len(wheel.names) if wheel in readable else 0} }},")
    lines += ["]", "names = ["]
    for name in (one.name for one in published().names):
        has = [name in wheel.names for wheel in readable]
        since = has.index(True)
        row = {"name": name, "since": readable[since].version, "before": readable[since - 1].version if since else ""}
        row["until"] = readable[has.index(False, since)].version if False in has[since:] else ""
        lines.append(f"    {{ {_fields(row)} }},")
    old, new = (next(wheel.names for wheel in wheels if wheel.version == version) for version in ("4.20.1", "4.35.2"))
    return "\n".join([*lines, "]", "", "[from_4_20_1_to_4_35_2]", f"new = {len(new - old)}", f"gone = {len(old - new)}", ""])


def _fields(row: dict[str, str]) -> str:
    return ", ".join(f'{key} = "{value}"' for key, value in row.items() if value)


if __name__ == "__main__":
    print(rows([read_wheel(path, "transformers") for path in Path(sys.argv[1]).glob("*.whl")]))
