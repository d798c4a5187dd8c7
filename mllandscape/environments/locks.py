"""Lock files of pip, Poetry and uv, and requirements with hashes: one table, and what each yields on another Python and operating system."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.pylock import Pylock, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mllandscape import BadInput, told

_told = partial(told, most=60)

KINDS = ("poetry.lock", "uv.lock", "pylock.toml", "requirements.txt")

_SYSTEMS = {
    "linux": {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "macos": {"os_name": "posix", "sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    "windows": {"os_name": "nt", "sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
}


def environment(python: str, platform: str) -> dict[str, str]:
    """The variables of markers (PEP 508) for CPython ``python``, such as ``3.12`` or ``3.12.4``, on ``linux``, ``macos`` or ``windows``."""
    if platform not in list(_SYSTEMS):
        raise BadInput(f"platform={_told(platform)}: {', '.join(_SYSTEMS)} are possible.")
    if not isinstance(python, str) or not (found := re.fullmatch(r"3\.(\d+)(\.\d+)?", python)):
        raise BadInput(f"python={_told(python)} is not a version such as '3.12' or '3.12.4'.")
    full = python if found[2] else f"{python}.0"
    return _SYSTEMS[platform] | {
        "implementation_name": "cpython",
        "implementation_version": full,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_version": "",
        "python_full_version": full,
        "python_version": f"3.{found[1]}",
    }


PLATFORMS = {(python, platform): environment(python, platform) for python in ("3.10", "3.12", "3.13") for platform in _SYSTEMS}
"""Nine pairs of Python and operating system, and the variables of markers on each."""


@dataclass(frozen=True)
class Locked:
    """One version of one package in a lock, with the SHA-256 of its files.

    ``markers`` says per group of requirements when it is installed ("" is always). ``main`` is the group of the project's own requirements; each
    dependency group and each extra of the project is another. ``direct`` is whether the project itself asks for it, None where the file does not say.
    """

    name: str
    version: str
    hashes: tuple[str, ...]
    markers: dict[str, str]
    direct: bool | None = None
    requires_python: str = ""

    @property
    def marker(self) -> str | None:
        """When the project's own requirements bring it: "" is always, None is never."""
        return self.markers.get("main")


@dataclass(frozen=True)
class Lock:
    """What a file locks. JSON both ways.

    ``groups`` can be installed, ``plain`` are those of a plain install of pylock.toml and requirements.txt; of Poetry's and uv's it is ``main``, what a
    production install takes. ``requires_python`` and ``environments`` (markers, one of which must hold) are where it can be installed at all.
    """

    kind: str
    rows: tuple[Locked, ...]
    groups: tuple[str, ...] = ("main",)
    plain: tuple[str, ...] = ("main",)
    requires_python: str = ""
    environments: tuple[str, ...] = ()

    def on(self, python: str = "3.12", platform: str = "linux", groups: Iterable[str] | None = None) -> dict[str, str]:
        """The version of each package that an install of these groups takes on this CPython and operating system, by name.

        Markers decide, for an x86-64 machine on Linux and Windows and an Arm one on macOS; whether a file was built for it is not looked at.
        Raises BadInput where the lock refuses to be installed, and for a group that it does not have.
        """
        variables = environment(python, platform)
        wanted = set(self.plain if groups is None else [groups] if isinstance(groups, str) else groups)
        if unknown := sorted(wanted.difference(self.groups)):
            raise BadInput(f"no group {', '.join(unknown)} in this {self.kind}: {', '.join(self.groups)} are possible.")
        if not _fits(self.requires_python, variables):
            raise BadInput(f"this {self.kind} is for Python {self.requires_python}: {python} is refused.")
        if self.environments and not any(_holds(marker, variables, wanted) for marker in self.environments):
            raise BadInput(f"this {self.kind} is for {' or '.join(self.environments)}: Python {python} on {platform} is refused.")
        taken: dict[str, str] = {}
        for row in self.rows:
            if not any(_holds(row.markers[group], variables, wanted) for group in wanted & row.markers.keys()):
                continue
            if not _fits(row.requires_python, variables):
                raise BadInput(f"{row.name} {row.version} in this {self.kind} is for Python {row.requires_python}: {python} is refused.")
            if taken.setdefault(row.name, row.version) != row.version:
                both = f"{row.name} {taken[row.name]} and {row.version}"
                raise BadInput(f"this {self.kind} has {both} for Python {python} on {platform}: it cannot be installed.")
        return dict(sorted(taken.items()))


def _fits(requires_python: str, variables: dict[str, str]) -> bool:
    return SpecifierSet(requires_python).contains(variables["python_full_version"], prereleases=True)


def _holds(marker: str, variables: dict[str, str], groups: set[str]) -> bool:
    """Whether a marker is true where these groups are installed. Poetry asks for one extra at a time, PEP 751 for sets of them."""
    if not marker:
        return True
    sets = {"extras": frozenset(groups), "dependency_groups": frozenset(groups)}
    return any(Marker(marker).evaluate(variables | sets | {"extra": extra}, context="lock_file") for extra in ("", *groups))


def read_lock(text: str, kind: str | None = None) -> Lock:
    """Read a lock from the text of its file. ``kind`` is one of ``KINDS`` or a file's name; without it, the text tells.

    Reads lock-version 2.1 of Poetry, version 1 of uv (a project's, not a script's), pylock.toml 1 (PEP 751), and pinned requirements with or without
    hashes. Raises BadInput, in one line, for anything else and for a damaged file.
    """
    if not isinstance(text, str):
        raise BadInput(f"{_told(text)} is not the text of a lock file: pass what is in it.")
    kind = _guess(text) if kind is None else _named(kind)
    try:
        if kind == "requirements.txt":
            return _requirements(text)
        return {"poetry.lock": _poetry, "uv.lock": _uv, "pylock.toml": _pylock}[kind](tomllib.loads(text))
    except (tomllib.TOMLDecodeError, _Damaged) as error:
        raise BadInput(f"this is no whole {kind}: {_line(error)}.") from None
    except RecursionError:
        raise BadInput(f"this is no whole {kind}: it is nested too deeply.") from None


class _Damaged(Exception):
    """What is wrong with a file."""


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else text[:197] + "..."


def _named(name: str) -> str:
    if name in KINDS:
        return name
    if isinstance(name, str):
        if re.fullmatch(r"pylock\.[^.]+\.toml", name):
            return "pylock.toml"
        if re.fullmatch(r"(.*[-_.])?requirements.*\.txt|constraints.*\.txt", name):
            return "requirements.txt"
    raise BadInput(f"kind={_told(name)}: {', '.join(KINDS)} are possible.")


def _guess(text: str) -> str:
    possible = f"{', '.join(KINDS)} are possible"
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise BadInput(f"this text is nested too deeply to be a lock file: {possible}.") from None
    except tomllib.TOMLDecodeError as error:
        if re.search(r"^\s*\[", text, re.MULTILINE):
            raise BadInput(f"this looks like TOML but is not whole ({_line(error)}): {possible}.") from None
        return "requirements.txt"
    if "lock-version" in data or "packages" in data:
        return "pylock.toml"
    if isinstance(data.get("metadata"), dict) and "lock-version" in data["metadata"]:
        return "poetry.lock"
    if "version" in data:
        return "uv.lock"
    found = f"tables {', '.join(data)}" if data else "nothing"
    raise BadInput(f"this is no whole lock file, {_line(Exception(found))} was found: {possible}.")


# What is in a file, checked


def _take(table: Any, key: str, kind: type, default: Any = None) -> Any:
    """``table[key]``, which must be of this kind; ``default``, where there is one, when it is missing."""
    if not isinstance(table, dict):
        raise _Damaged(f"{_told(table)} stands where a table should")
    if key not in table and default is not None:
        return default
    if key not in table:
        raise _Damaged(f"{key} is missing in {_told(table)}")
    if not isinstance(table[key], kind):
        raise _Damaged(f"{key} = {_told(table[key])} is not a {({str: 'text', list: 'list', dict: 'table'})[kind]}")
    return table[key]


def _texts(table: dict, key: str) -> list[str]:
    if any(not isinstance(one, str) for one in _take(table, key, list, [])):
        raise _Damaged(f"{key} = {_told(table[key])} is not a list of texts")
    return table.get(key, [])


def _marker(text: str) -> str:
    try:
        marker = Marker(text) if text else ""
        _holds(text, environment("3.12", "linux"), set())  # some comparisons fail only when they are made
    except (InvalidMarker, ValueError):
        raise _Damaged(f"{_told(text)} is not a marker") from None
    return str(marker)


def _python(text: str) -> str:
    try:
        return str(SpecifierSet("" if text == "*" else text))
    except InvalidSpecifier:
        raise _Damaged(f"{_told(text)} is not a range of Python versions") from None


def _name(text: str) -> str:
    return canonicalize_name(text)


def _version(text: str) -> str:
    try:
        return str(Version(text))
    except InvalidVersion:
        raise _Damaged(f"{_told(text)} is not a version") from None


def _hashes(files: Iterable[Any]) -> tuple[str, ...]:
    """Of ``[{hash = "sha256:..."}]``."""
    found = [_take(one, "hash", str, "").partition(":") for one in files]
    return tuple(sorted(_sha256(digest) for algorithm, _, digest in found if algorithm == "sha256"))


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise _Damaged(f"{_told(text)} is not a SHA-256 of 64 hexadecimal digits")
    return text


def _order(rows: Iterable[Locked]) -> tuple[Locked, ...]:
    return tuple(sorted(rows, key=lambda row: (row.name, Version(row.version))))


# Poetry


def _poetry(data: dict) -> Lock:
    """Poetry's own documentation says little of the format; its code does, ``poetry/packages/locker.py`` of Poetry 2.5."""
    about = _take(data, "metadata", dict)
    if (version := _take(about, "lock-version", str)) != "2.1":
        raise _Damaged(f"lock-version {_told(version)} is not 2.1, which Poetry 2 writes")
    rows, groups = [], {"main": None}
    for package in _take(data, "package", list, []):
        name, version = _name(_take(package, "name", str)), _version(_take(package, "version", str))
        named = dict.fromkeys(_name(group) for group in _texts(package, "groups"))
        groups |= named
        markers = package.get("markers", "") if isinstance(package, dict) else ""
        by_group = {_name(group): text for group, text in markers.items()} if isinstance(markers, dict) else dict.fromkeys(named, markers)
        if any(not isinstance(text, str) for text in by_group.values()):
            raise _Damaged(f"markers of {name} are not texts")
        rows.append(
            Locked(
                name,
                version,
                _hashes(_take(package, "files", list, [])),
                {group: _marker(by_group.get(group, "")) for group in named},
                None,
                _python(_take(package, "python-versions", str, "")),
            )
        )
    groups |= dict.fromkeys(_name(extra) for extra in _take(data, "extras", dict, {}))
    return Lock("poetry.lock", _order(rows), tuple(groups), requires_python=_python(_take(about, "python-versions", str)))


# uv


def _uv(data: dict) -> Lock:
    """uv.lock is a graph whose edges carry markers. A package is installed where the markers along some path from the project hold."""
    if data.get("version") != 1:
        raise _Damaged(f"version {_told(data.get('version'))} is not 1, which uv writes")
    if data.get("conflicts"):
        raise _Damaged("it declares conflicting extras or groups, whose markers are not read here")
    packages = _take(data, "package", list, [])
    nodes: dict[str, list[dict]] = defaultdict(list)
    for package in packages:
        nodes[_name(_take(package, "name", str))].append(package)
    roots = [package for package in packages if "." in _take(package, "source", dict, {}).values()]
    if len(roots) != 1:
        raise _Damaged(f"{len(roots)} packages have the project's own folder as their source, and one is needed")
    starts = {"main": _take(roots[0], "dependencies", list, [])}
    for key in ("dev-dependencies", "optional-dependencies"):
        starts |= {_name(group): edges for group, edges in _take(roots[0], key, dict, {}).items()}
    reached = {group: _paths(edges, nodes) for group, edges in starts.items()}
    direct = {_name(_take(edge, "name", str)) for edges in starts.values() for edge in edges}
    rows = []
    for name, versions in nodes.items():
        for package in versions:
            if package is not roots[0]:
                files = [*_take(package, "wheels", list, []), *([package["sdist"]] if "sdist" in package else [])]
                markers = {group: _any(paths[id(package)]) for group, paths in reached.items() if id(package) in paths}
                rows.append(Locked(name, _version(_take(package, "version", str)), _hashes(files), markers, name in direct))
    environments = tuple(_marker(text) for text in _texts(data, "supported-markers"))
    return Lock("uv.lock", _order(rows), tuple(starts), requires_python=_python(_take(data, "requires-python", str, "")), environments=environments)


_Path = frozenset[str]
"""The markers along one path, all of which must hold."""


def _paths(edges: list, nodes: dict[str, list[dict]]) -> dict[int, set[_Path]]:
    """For each package that these edges lead to, the shortest sets of markers under which they do; a set that another one implies is left out."""
    found: dict[tuple[int, str], set[_Path]] = defaultdict(set)
    todo = [(edge, frozenset()) for edge in edges]
    while todo:
        edge, before = todo.pop()
        package, path = _target(edge, nodes), before | _parts(_take(edge, "marker", str, ""))
        for extra in ("", *map(_name, _texts(edge, "extra"))):
            known = found[id(package), extra]
            if any(other <= path for other in known):
                continue
            known -= {other for other in known if path < other}
            known.add(path)
            todo += [(further, path) for further in _edges(package, extra)]
    reached: dict[int, set[_Path]] = defaultdict(set)
    for (package, _), paths in found.items():
        reached[package] |= paths
    return reached


def _parts(marker: str) -> _Path:
    """The comparisons of a marker that joins them with ``and``; any other is one part."""
    text = _marker(marker)
    return frozenset(filter(None, [text] if " or " in text or "(" in text else text.split(" and ")))


def _target(edge: Any, nodes: dict[str, list[dict]]) -> dict:
    name, version = _name(_take(edge, "name", str)), _take(edge, "version", str, "")
    found = [package for package in nodes.get(name, ()) if version in ("", package.get("version"))]
    if len(found) != 1:
        raise _Damaged(f"{name} {version or 'in some version'} is required, and there are {len(found)} of it")
    return found[0]


def _edges(package: dict, extra: str) -> list:
    if not extra:
        return _take(package, "dependencies", list, [])
    by_extra = {_name(name): edges for name, edges in _take(package, "optional-dependencies", dict, {}).items()}
    return _take(by_extra, extra, list, [])


def _any(paths: set[_Path]) -> str:
    """One marker for several paths."""
    if frozenset() in paths:
        return ""
    whole = [" and ".join(f"({text})" if " or " in text and len(path) > 1 else text for text in sorted(path)) for path in paths]
    return _marker(" or ".join(sorted(whole)))


# PEP 751


def _pylock(data: dict) -> Lock:
    try:
        found = Pylock.from_dict(data)
    except PylockValidationError as error:
        raise _Damaged(str(error)) from None
    rows = []
    for package in found.packages:
        if package.version is None:
            raise _Damaged(f"{package.name} has no version: it comes from a folder or a repository, which is not read here")
        files = [*(package.wheels or ()), *filter(None, (package.sdist, package.archive))]
        digests = tuple(sorted(_sha256(one.hashes["sha256"]) for one in files if "sha256" in one.hashes))
        marker = {"main": _marker(str(package.marker or ""))}
        rows.append(Locked(package.name, str(package.version), digests, marker, None, str(package.requires_python or "")))
    default = tuple(found.default_groups or ())
    return Lock(
        "pylock.toml",
        _order(rows),
        tuple(dict.fromkeys(("main", *(found.extras or ()), *(found.dependency_groups or ()), *default))),
        ("main", *default),
        str(found.requires_python or ""),
        tuple(_marker(str(marker)) for marker in found.environments or ()),
    )


# Requirements


_OPTION = re.compile(r"(-i|-f|--index-url|--extra-index-url|--find-links|--no-index|--only-binary|--no-binary|--prefer-binary|--require-hashes|--pre)\b")


def _requirements(text: str) -> Lock:
    """Lines ``name==version ; marker --hash=sha256:...``, and what pip-compile and uv note below each: ``# via`` who requires it."""
    rows: list[Locked] = []
    noted = False
    for number, line in _lines(text):
        if line.startswith("#"):
            note = line.lstrip("# ")
            noted = noted or bool(rows and re.match(r"via\b", note))
            if noted and re.search(r"-r \S|\(pyproject\.toml\)", note):
                rows[-1] = replace(rows[-1], direct=True)
        elif not _OPTION.match(line):
            rows.append(_pinned(line, number))
    if not rows:
        raise _Damaged("it has no pinned requirement such as 'numpy==2.1.0'")
    return Lock("requirements.txt", _order(replace(row, direct=bool(row.direct) if noted else None) for row in rows))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that says something; lines that end in a backslash go on."""
    begin, whole = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begin = begin if whole else number
        whole += line.strip()
        if whole.endswith("\\") and not whole.startswith("#"):
            whole = whole[:-1] + " "
            continue
        if whole:
            yield begin, whole
        whole = ""
    if whole:
        raise _Damaged(f"line {begin} goes on after the end of the file")


def _pinned(line: str, number: int) -> Locked:
    plain, *options = re.split(r"\s+(?=--)", re.sub(r"\s+#.*", "", line))
    try:
        requirement = Requirement(plain)
    except InvalidRequirement:
        raise _Damaged(f"line {number}, {_told(line)}, is no requirement such as 'numpy==2.1.0'") from None
    pins = [one.version for one in requirement.specifier if one.operator == "==" and not one.version.endswith(".*")]
    if len(pins) != 1 or len(requirement.specifier) != 1:
        raise _Damaged(f"line {number}, {_told(plain)}, pins no version: a lock has name==version")
    digests = []
    for option in options:
        algorithm, _, digest = option.removeprefix("--hash=").partition(":")
        if not option.startswith("--hash="):
            raise _Damaged(f"line {number} has {_told(option)}: only --hash is read here")
        digests += [_sha256(digest.strip())] if algorithm == "sha256" else []
    marker = _marker(str(requirement.marker or ""))
    return Locked(_name(requirement.name), _version(pins[0]), tuple(sorted(digests)), {"main": marker})
