"""What a resolver does, step by step: pip's (resolvelib) in this process, Poetry's (PubGrub) in the environment of the tools.

Both get the same plain description of a small index and answer with the same record. Only names and versions take part: no extras, markers,
URLs, Python versions or withdrawn releases, so that one index is one and the same problem for both.
"""

import json
import math
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import resolvelib
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from mllandscape import BadInput, record, sandbox, told
from mllandscape.environments import tools

_told = partial(told, most=60)

RESOLVERS = {"resolvelib": "pip's resolver", "pubgrub": "Poetry's resolver"}
KINDS = ("pin", "reject", "conflict", "learn", "backtrack", "done", "fail")
LARGEST = 1_000
"""Versions in one index, all packages together."""
POETRY = "2.5"
"""The Poetry whose solver ``pubgrub.py`` watches."""


class Problem(NamedTuple):
    """A small index, ``{name: {version: requirements}}``, and what is to be installed from it."""

    packages: Mapping[str, Mapping[str, Sequence[str]]]
    requirements: Sequence[str]


@dataclass(frozen=True)
class Step:
    """One step. ``pins`` are the versions chosen once it is done, in the order in which they were chosen.

    ``pin``: a version of ``package`` is chosen. ``reject``: it is looked at and passed over, because its own requirements contradict what holds
    already. ``conflict``: what holds cannot be completed. ``learn``: PubGrub keeps the reason as a new rule (an incompatibility). ``backtrack``:
    pins are taken back. ``done`` and ``fail`` end. ``involved`` are the packages that the step speaks of, ``text`` says it in words.
    """

    kind: str
    package: str
    version: str
    text: str
    involved: tuple[str, ...]
    pins: dict[str, str]


@dataclass(frozen=True)
class Resolution:
    """What ``resolver`` (of library version ``version``) did with an index of these ``packages``.

    ``ended`` is ``solved``, ``impossible``, ``too deep`` (stopped after as many steps as were allowed) or ``crashed``: resolvelib may end in a
    RecursionError where packages require each other in a circle. ``explanation`` is how the tool words a failure: pip's list of causes, Poetry's
    proof; Poetry also gives up on a version whose own requirements contradict each other, where pip looks for another. ``unmet`` are the requirements
    that a solution breaks; in circles resolvelib's may, see ``circle``.
    """

    resolver: str
    version: str
    packages: tuple[str, ...]
    steps: tuple[Step, ...]
    ended: str
    explanation: str = ""
    unmet: tuple[str, ...] = ()

    @property
    def solution(self) -> dict[str, str] | None:
        """The version of each package that would be installed; None without a solution."""
        return dict(self.steps[-1].pins) if self.ended == "solved" else None

    @property
    def counts(self) -> dict[str, int]:
        """How many steps of each kind."""
        counted = Counter(step.kind for step in self.steps)
        return {kind: counted[kind] for kind in KINDS}


def resolve_steps(packages: Any, requirements: Sequence[str], resolver: str, *, most: int = 5_000) -> Resolution:
    """How ``resolver`` (``resolvelib`` or ``pubgrub``) finds versions for ``requirements``, stopped after ``most`` steps.

    ``packages`` is ``{name: {version: requirements}}`` or a sequence of Wheels. Raises BadInput for what is none of that, for more than
    ``LARGEST`` versions, and for ``pubgrub`` without the tools (see tools.find).
    """
    return resolve_many([(packages, requirements)], resolver, most=most)[0]


def resolve_many(problems: Iterable[tuple[Any, Sequence[str]]], resolver: str, *, most: int = 5_000, seconds: float = 120) -> tuple[Resolution, ...]:
    """The same for many problems: PubGrub starts in half a second and solves in milliseconds, so one start serves all of them.

    ``seconds`` limits PubGrub's process.
    """
    if resolver not in list(RESOLVERS):
        raise BadInput(f"resolver {_told(resolver)}: {' and '.join(RESOLVERS)} are possible.")
    if type(most) is not int or not 1 <= most <= 100_000:
        raise BadInput(f"most={_told(most)} is not a number of steps: 1 to 100000 are possible.")
    checked = [_checked(packages, requirements) for packages, requirements in problems]
    return tuple(_with_resolvelib(problem, most) for problem in checked) if resolver == "resolvelib" else _with_pubgrub(checked, most, seconds)


# What is asked


def _line(text: str) -> str:
    return " ".join(text.split())


def _checked(packages: Any, requirements: Sequence[str]) -> Problem:
    """The problem with normalized names, or BadInput."""
    if not isinstance(packages, Mapping):
        packages = _of_wheels(packages)
    plain: dict[str, dict[str, list[str]]] = {}
    for name, versions in packages.items():
        plain[_name(name)] = offered = {}
        if not isinstance(versions, Mapping):
            raise BadInput(f"package {_told(name)}: {_told(versions)} is not {{version: requirements}}.")
        seen = set()
        for version, requires in versions.items():
            try:
                seen.add(number := Version(version))
            except (InvalidVersion, TypeError):
                raise BadInput(f"{name} {_told(version)} is not a version such as '1.0'.") from None
            if len(seen) == len(offered):
                raise BadInput(f"{name} {version} is there twice: a version is offered once.")
            offered[str(number)] = _requirements(requires, f"{name} {version}")
            if any(Requirement(text).name == _name(name) for text in offered[str(number)]):
                raise BadInput(f"{name} {version} requires itself: leave that requirement out.")
    if len(plain) < len(packages):
        raise BadInput(f"two of {', '.join(packages)} are the same name: case and '-', '_', '.' do not count.")
    if (size := sum(map(len, plain.values()))) > LARGEST:
        raise BadInput(f"an index of {size} versions is too large: at most {LARGEST} are possible here.")
    return Problem(plain, _requirements(requirements, "the request"))


def _of_wheels(wheels: Iterable[Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    packages: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    try:
        for wheel in wheels:
            if getattr(wheel, "python", "") or getattr(wheel, "yanked", None) is not None:
                raise BadInput(f"{wheel.name} {wheel.version} depends on the Python or was withdrawn: steps are shown of versions and requirements alone.")
            if wheel.version in packages[wheel.name]:
                raise BadInput(f"{wheel.name} {wheel.version} is there twice: a version is offered once.")
            packages[wheel.name][wheel.version] = wheel.requires
    except (TypeError, AttributeError):
        raise BadInput(f"{_told(wheels)} is no index: pass {{name: {{version: requirements}}}} or Wheels.") from None
    return packages


def _name(name: str) -> str:
    try:
        return canonicalize_name(name, validate=True)
    except (InvalidName, TypeError):
        raise BadInput(f"{_told(name)} is not a package name such as 'mathlib'.") from None


def _requirements(texts: Sequence[str], whose: str) -> list[str]:
    """Normalized: a name and its versions."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise BadInput(f"{whose}: {_told(texts)} is not a list of requirements such as ['mathlib>=1.0,<2'].")
    plain = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except (InvalidRequirement, TypeError):
            raise BadInput(f"{whose}: {_told(text)} is not a requirement such as 'mathlib>=1.0,<2'.") from None
        if requirement.extras or requirement.marker or requirement.url or "===" in str(requirement.specifier):
            raise BadInput(f"{whose}: {_told(text)} has extras, a marker, a URL or '===': steps are shown of names and versions alone.")
        plain.append(f"{canonicalize_name(requirement.name)}{requirement.specifier}")
    return plain


# resolvelib, as pip uses it


@dataclass(frozen=True, eq=False)
class _Asked:
    """A requirement. ``_asked`` makes one object for one text, so that they are compared by identity."""

    name: str
    specifier: SpecifierSet
    pinned: bool
    bounded: bool

    def __str__(self) -> str:
        """As pip writes it: ``mathlib<2 and >=1.0``."""
        *first, last = str(self.specifier).split(",")
        return f"{self.name}{', '.join(first)}{' and ' if first else ''}{last}"


@cache
def _asked(text: str) -> _Asked:
    requirement = Requirement(text)
    exact = [not one.version.endswith(".*") for one in requirement.specifier if one.operator == "=="]
    bounded = any(one.operator in ("<", "<=", "~=") for one in requirement.specifier)
    return _Asked(requirement.name, requirement.specifier, any(exact), bounded or not all(exact))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One version on the index; there is one object of each."""

    name: str
    version: Version
    requires: tuple[_Asked, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class _Enough(Exception):
    """The limit of steps is reached."""


class _Provider(resolvelib.AbstractProvider):
    """What pip 26 tells resolvelib: which package comes next, and which versions are left, newest first.

    The order follows ``narrow_requirement_selection`` and ``get_preference`` of pip 26.3, ``pip/_internal/resolution/resolvelib/provider.py``: what
    the last conflict was about, then what was in five conflicts while it had no pin; of these what is pinned with ``==``, what has an upper bound,
    the order of the request, what has any bound, the alphabet. pip's further criteria, URLs and Python versions, do not occur here.
    """

    PROMOTED_AFTER = 5

    def __init__(self, index: dict[str, list[_Candidate]], wanted: Sequence[_Asked]):
        self.index = index
        self.order = {asked.name: place for place, asked in reversed(list(enumerate(wanted)))}
        self.conflicts: Counter[str] = Counter()
        self.promoted: set[str] = set()
        self.allowed = cache(self._allowed)

    def identify(self, requirement_or_candidate: _Asked | _Candidate) -> str:
        return requirement_or_candidate.name

    def narrow_requirement_selection(self, identifiers, resolutions, candidates, information, backtrack_causes) -> list[str]:
        involved = set()
        for cause in backtrack_causes:
            for one in filter(None, cause):  # the requirement, and whose it is
                involved.add(one.name)
                if one.name not in resolutions:
                    self.conflicts[one.name] += 1
                    if self.conflicts[one.name] >= self.PROMOTED_AFTER:
                        self.promoted.add(one.name)
        names = list(identifiers)
        return [name for name in names if name in involved] or [name for name in names if name in self.promoted] or names

    def get_preference(self, identifier, resolutions, candidates, information, backtrack_causes) -> tuple:
        asked = [requirement for requirement, _ in information[identifier]]
        return (
            identifier not in self.promoted,
            not any(one.pinned for one in asked),
            not any(one.bounded for one in asked),
            self.order.get(identifier, math.inf),
            not any(len(one.specifier) for one in asked),
            identifier,
        )

    def find_matches(self, identifier, requirements, incompatibilities) -> list[_Candidate]:
        excluded = set(incompatibilities[identifier])
        return [candidate for candidate in self.allowed(identifier, frozenset(requirements[identifier])) if candidate not in excluded]

    def _allowed(self, name: str, asked: frozenset[_Asked]) -> list[_Candidate]:
        specifier = SpecifierSet()
        for one in asked:
            specifier &= one.specifier
        return list(specifier.filter(self.index.get(name, ()), key=lambda candidate: candidate.version))

    @staticmethod
    @cache
    def is_satisfied_by(requirement: _Asked, candidate: _Candidate) -> bool:
        return requirement.specifier.contains(candidate.version, prereleases=True)

    def get_dependencies(self, candidate: _Candidate) -> tuple[_Asked, ...]:
        return candidate.requires


class _Reporter(resolvelib.BaseReporter):
    """Turns resolvelib's events into steps. What is pinned is read from its state at the end of each round."""

    def __init__(self, most: int):
        self.most = most
        self.steps: list[Step] = []
        self.pins: dict[str, str] = {}
        self.pinned: _Candidate | None = None

    def add(self, kind: str, text: str, package: str = "", version: str = "", involved: Iterable[str] = ()) -> None:
        if len(self.steps) >= self.most and kind not in ("done", "fail"):
            raise _Enough
        self.steps.append(Step(kind, package, version, text, tuple(dict.fromkeys(involved)), dict(self.pins)))

    def rejecting_candidate(self, criterion, candidate: _Candidate) -> None:
        *others, own = criterion.information
        others = [one for one in others if len(one.requirement.specifier)]
        against = f"but {_said(others)}" if others else "which no version meets"
        text = f"{candidate} is rejected: it depends on {own.requirement}, {against}"
        self.add("reject", text, candidate.name, str(candidate.version), (candidate.name, *_named(criterion.information)))

    def resolving_conflicts(self, causes) -> None:
        package = self.steps[-1].package  # the one whose last candidate was rejected just now
        self.add("conflict", f"conflict: no version of {package} can be pinned", package, involved=(package, *_named(causes)))

    def pinning(self, candidate: _Candidate) -> None:
        self.pinned = candidate

    def ending_round(self, index: int, state) -> None:
        new, self.pinned = self.pinned, None
        after = {name: str(candidate.version) for name, candidate in state.mapping.items()}
        replaced = self.pins.pop(new.name, "") if new else ""
        kept = {name: version for name, version in after.items() if not (new and name == new.name)}
        if kept != self.pins:
            gone = [name for name, version in reversed(self.pins.items()) if kept.get(name) != version]
            back = [name for name, version in kept.items() if self.pins.get(name) != version]
            said = [f"unpinned: {_listed(gone, self.pins)}"] if gone else []
            said += [f"shortcut given up, pinned again: {_listed(back, kept)}"] if back else []
            package, version = (gone[-1], self.pins[gone[-1]]) if gone else ("", "")
            self.pins = kept
            self.add("backtrack", "; ".join(said), package, version, [*gone, *back])
        if new:
            self.pins = after
            instead = f" in place of {replaced}" if replaced else ""
            self.add("pin", f"{new} is pinned{instead}", new.name, str(new.version), (new.name,))


def _listed(names: Iterable[str], pins: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {pins[name]}" for name in names)


def _named(information) -> list[str]:
    return [one.name for cause in information for one in filter(None, cause)]


def _said(information, between: str = ", ") -> str:
    """Requirements and whose they are, in pip's words."""
    return between.join(f"{parent} depends on {requirement}" if parent else f"the request has {requirement}" for requirement, parent in information)


def _causes(causes, index: Mapping[str, Sequence[_Candidate]]) -> str:
    """A failure as pip words it (``pip/_internal/resolution/resolvelib/factory.py``)."""
    if len(causes) == 1:
        requirement, parent = causes[0]
        plain = f"{requirement.name}{requirement.specifier}"
        versions = ", ".join(str(candidate.version) for candidate in reversed(index.get(requirement.name, ()))) or "none"
        whose = f" (from {parent.name})" if parent else ""
        return f"Could not find a version that satisfies the requirement {plain}{whose} (from versions: {versions})\nNo matching distribution found for {plain}"
    said = [f"{parent} depends on {requirement}" if parent else f"The user requested {requirement}" for requirement, parent in causes]
    lines = ["The conflict is caused by:", *(f"    {line}" for line in said)]
    if missing := sorted({requirement.name for requirement, _ in causes if not index.get(requirement.name)}):
        lines += ["", "Additionally, some packages in these conflicts have no matching distributions available for your environment:"]
        lines += [f"    {name}" for name in missing]
    return "\n".join(lines)


def _with_resolvelib(problem: Problem, most: int) -> Resolution:
    index = {
        name: [_Candidate(name, version, tuple(map(_asked, versions[str(version)]))) for version in sorted(map(Version, versions), reverse=True)]
        for name, versions in problem.packages.items()
    }
    wanted = [_asked(text) for text in problem.requirements]
    reporter = _Reporter(most)
    ended, words = "solved", ""
    try:
        # pip's own limit of rounds, because resolvelib allows a shortcut a tenth of it.
        result = resolvelib.Resolver(_Provider(index, wanted), reporter).resolve(wanted, max_rounds=200_000)
        reporter.pins = {name: str(candidate.version) for name, candidate in result.mapping.items()}
        reporter.add("done", "nothing is left to pin")
    except resolvelib.ResolutionImpossible as error:
        ended, words = "impossible", _causes(error.causes, index)
        if not reporter.steps:  # two requirements of the request contradict each other
            reporter.add("conflict", f"conflict: {_said(error.causes)}", error.causes[0].requirement.name, involved=_named(error.causes))
        reporter.add("fail", "no set of versions meets every requirement")
    except (_Enough, resolvelib.ResolutionTooDeep):
        ended, words = "too deep", f"stopped after {most} steps"
    except RecursionError:
        ended, words = "crashed", "RecursionError: maximum recursion depth exceeded"
    return _resolution(problem, "resolvelib", resolvelib.__version__, tuple(reporter.steps), ended, words)


def _resolution(problem: Problem, resolver: str, version: str, steps: tuple[Step, ...], ended: str, explanation: str) -> Resolution:
    unmet = _unmet(problem, steps[-1].pins) if ended == "solved" else ()
    return Resolution(resolver, version, tuple(problem.packages), steps, ended, explanation, unmet)


def _unmet(problem: Problem, pins: Mapping[str, str]) -> tuple[str, ...]:
    """What ``pip check`` would find."""
    asked = [("the request", text) for text in problem.requirements]
    asked += [(f"{name} {version}", text) for name, version in pins.items() for text in problem.packages[name][version]]
    lines = []
    for whose, text in asked:
        one = _asked(text)
        if one.name not in pins or not one.specifier.contains(pins[one.name], prereleases=True):
            lines.append(f"{whose} requires {text}, but {f'{one.name} {pins[one.name]}' if one.name in pins else 'nothing of it'} is chosen")
    return tuple(lines)


# PubGrub, as Poetry uses it


def _with_pubgrub(problems: Sequence[Problem], most: int, seconds: float) -> tuple[Resolution, ...]:
    found = tools.find()
    if found is None:
        raise BadInput(f"pubgrub is Poetry's, and Poetry is not installed: run `{tools.INSTALL}`.")
    version = found.versions["poetry"]
    moved = f"Poetry {POETRY} is needed for the steps of its solver; found {version}"
    if not version.startswith(f"{POETRY}."):
        raise BadInput(f"{moved}: run `{tools.INSTALL}`.")
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as name:
        folder = Path(name)
        asked, answered = folder / "problems.json", folder / "results.json"
        asked.write_text(json.dumps([problem._asdict() | {"most": most} for problem in problems]), encoding="utf-8")
        private = {variable: name for variable in ("HOME", "USERPROFILE", "POETRY_CONFIG_DIR", "POETRY_CACHE_DIR", "POETRY_DATA_DIR")}
        script = str(Path(__file__).with_name("pubgrub.py"))
        private["PYTHONHASHSEED"] = "0"  # the solver goes through sets: without a seed, its steps are others every time; hence not -I, which drops it
        outcome = sandbox.command([str(found.python), "-s", "-P", script, str(asked), str(answered)], seconds=seconds, env=private)
        if outcome.exit_code == 3:
            raise BadInput(f"{moved}, which has moved a piece of it ({_line(outcome.stderr)}).")
        if outcome.ending == "timeout":
            raise BadInput(f"PubGrub was stopped at {seconds:g} s: allow fewer steps with most=, or give smaller problems.")
        if not outcome.ok:
            raise RuntimeError(f"pubgrub.py ended with {outcome.ending}: {outcome.stderr}")
        results = json.loads(answered.read_text(encoding="utf-8"))
    return tuple(
        _resolution(problem, "pubgrub", version, record.restore(tuple[Step, ...], result["steps"]), result["ended"], result["explanation"])
        for problem, result in zip(problems, results, strict=True)
    )


# Families of problems


def diamond() -> Problem:
    """left and right both need core. The newest left contradicts right, an older one does not: solvable only by going back on left."""
    packages = {
        "left": {"1.0": ["core>=1.0,<2"], "2.0": ["core>=2.0"]},
        "right": {"1.0": ["core<2"]},
        "core": {version: [] for version in ("1.0", "1.5", "2.0", "2.1")},
    }
    return Problem(packages, ["left", "right"])


def circle() -> Problem:
    """An application and its plugin require each other. app 2 with plugin 1 goes together, yet pip 26.3 installs app 2 with plugin 2, which needs
    app 1, and exits with 0.

    resolvelib drops what a replaced pin required; when the same version is pinned again, its requirements are not asked anew. Only packages that
    require each other lead there. Its backjumps have a like gap: https://github.com/sarugaku/resolvelib/issues/206.
    """
    app = {"1": ["extra==2", "plugin==1"], "2": ["plugin>=1"]}
    return Problem({"app": app, "extra": {"2": ["app==2"]}, "plugin": {"1": [], "2": ["app==1"]}}, ["app"])


def chain(packages: int, versions: int) -> Problem:
    """Each of ``packages`` needs the next at its own version or newer, and the last is needed in a version that exists only as 1.

    Every newest version is a mistake that shows at the far end: one solution, all at version 1.
    """
    _whole(packages=(packages, 1, 30), versions=(versions, 1, 99))
    index = {f"m{i}": {str(v): [f"m{i + 1}>={v}"] for v in range(1, versions + 1)} for i in range(packages)}
    return Problem(index | {f"m{packages}": {"1": []}}, ["m0"])


def pigeonhole(holes: int) -> Problem:
    """One pigeon more than ``holes``: a pigeon's version is the hole it takes, a hole's version the pigeon that is in it. Impossible.

    Proofs by resolution, which is what learning from conflicts builds, need exponentially many steps for it (Haken 1985).
    """
    _whole(holes=(holes, 1, 8))
    pigeons = range(1, holes + 2)
    index = {f"pigeon{i}": {str(h): [f"hole{h}=={i}"] for h in range(1, holes + 1)} for i in pigeons}
    index |= {f"hole{h}": {str(i): [] for i in pigeons} for h in range(1, holes + 1)}
    return Problem(index, [f"pigeon{i}" for i in pigeons])


def three_sat(variables: int, clauses: int, seed: int = 0) -> Problem:
    """A random 3-SAT formula as an index: choosing versions is as hard as satisfying formulas.

    A variable is a package of versions 0 and 1; a clause is one of three versions, each of which needs one literal to be true. Around 4.27 clauses
    a variable, half of all large formulas can be satisfied, and those are the hard ones.
    """
    _whole(variables=(variables, 3, 60), clauses=(clauses, 1, 280), seed=(seed, 0, 2**31))
    draw = random.Random(seed)
    index = {f"x{i}": {"0": [], "1": []} for i in range(1, variables + 1)}
    for place in range(1, clauses + 1):
        literals = [f"x{i}=={draw.randrange(2)}" for i in draw.sample(range(1, variables + 1), 3)]
        index[f"clause{place}"] = {str(version): [literal] for version, literal in enumerate(literals, 1)}
    return Problem(index, [name for name in index if name.startswith("clause")])


def random_index(packages: int, versions: int, tightness: float, seed: int = 0) -> Problem:
    """``packages`` of ``versions`` each, all requested. A version needs two of the packages after its own (fewer where fewer follow), each in a
    range of neighbouring versions, drawn at random. Nothing requires each other in a circle.

    ``tightness`` is the share of versions that a range excludes: at 0 everything goes together, at 1 a range is one single version.
    """
    _whole(packages=(packages, 2, 12), versions=(versions, 1, 20), seed=(seed, 0, 2**31))
    if isinstance(tightness, bool) or not isinstance(tightness, int | float) or not 0 <= tightness <= 1:
        raise BadInput(f"tightness={_told(tightness)} is not a share: 0 to 1 are possible.")
    draw = random.Random(f"{packages} {versions} {seed}")
    width = max(1, round((1 - tightness) * versions))
    index: dict[str, dict[str, list[str]]] = {}
    for i in range(1, packages + 1):
        later = range(i + 1, packages + 1)
        index[f"p{i}"] = offered = {}
        for version in range(1, versions + 1):
            lows = {j: 1 + math.floor(draw.random() * (versions - width + 1)) for j in sorted(draw.sample(later, min(2, len(later))))}
            offered[str(version)] = [f"p{j}>={low},<{low + width}" for j, low in lows.items()]
    return Problem(index, list(index))


def _whole(**given: tuple[int, int, int]) -> None:
    for name, (value, low, high) in given.items():
        if type(value) is not int or not low <= value <= high:
            raise BadInput(f"{name}={_told(value)}: a whole number from {low} to {high} is possible.")
