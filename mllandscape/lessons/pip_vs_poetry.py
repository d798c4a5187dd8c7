"""Lesson 1: pip, Poetry and uv on one small index: what each refuses, what a lock holds, what resolving costs, and what no lock fixes.

Where pip, Poetry and uv are not installed, their runs are played back from a recording, which ``record_runs`` writes.
"""

import functools
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mllandscape import BadInput, charts, record, sandbox
from mllandscape.course import exercise
from mllandscape.course.notebooks import sources
from mllandscape.environments import Run, Wheel
from mllandscape.environments import lab as labs
from mllandscape.environments.locks import PLATFORMS, Lock, read_lock
from mllandscape.environments.steps import Problem, Resolution, chain, diamond, pigeonhole, random_index, resolve_many, resolve_steps, three_sat
from mllandscape.panel import Panel

# -- the index ------------------------------------------------------------------------------------------------------------

KEPT = "pip_vs_poetry"
"""The recording of every run of pip, Poetry and uv in this lesson."""

SCALE, RESCALE = "def scale(x):\n    return 2 * x\n", "def rescale(x):\n    return 2 * x\n"

STORY = (
    *(Wheel("mathlib", version, modules={"mathlib.py": SCALE}) for version in ("0.8", "0.9")),
    *(Wheel("mathlib", version, modules={"mathlib.py": RESCALE}) for version in ("1.0", "1.1", "1.2")),
    Wheel("alpha", "1.0", ("mathlib>=1.0,<2",), {"alpha.py": "from mathlib import rescale\n"}),
    Wheel("beta", "1.0", ("mathlib<1.0",), {"beta.py": "from mathlib import scale\n"}),
    Wheel("gamma", "1.0", ("mathlib>=0.8",), {"gamma.py": "from mathlib import rescale\n"}),  # imports what 0.8 and 0.9 do not have
    *(Wheel("core", version) for version in ("1.0", "1.5", "2.0", "2.1")),
    Wheel("left", "1.0", ("core>=1.0,<2",)),
    Wheel("left", "2.0", ("core>=2.0",)),
    Wheel("right", "1.0", ("core<2",)),
    Wheel(
        "worker",
        "1.0",
        (
            "fastloop>=1; sys_platform == 'linux'",
            "metalkit>=1; sys_platform == 'darwin'",
            "wincolors>=1; sys_platform == 'win32'",
            "oldtoml>=1; python_version < '3.11'",
        ),
    ),
    *(Wheel(name, "1.0") for name in ("fastloop", "metalkit", "wincolors", "oldtoml", "stray")),
    *(Wheel("toytorch", f"2.1.0+{build}") for build in ("cpu", "cu118", "cu121")),
)
"""mathlib 1.0 renamed a function: alpha needs the new name, beta the old one. left 2.0 cannot live with right, left 1.0 can. worker needs other packages
on other systems."""

TORCH = "pip_vs_poetry_torch"
"""The recording of what two versions of torch require, which ``record_torch`` writes."""
TORCHES = {"2.1.0": "3.11", "2.13.0": "3.13"}
"""The versions, and the Python for which pip is asked."""


def torch_index() -> tuple[Wheel, ...]:
    """Two versions of torch and everything that they require on Linux, with the requirements of the real wheels and nothing else in them."""
    packages = record.load(TORCH).data
    return tuple(Wheel(name, version, tuple(requires)) for name, versions in packages.items() for version, requires in versions.items())


def lab(name: str, wheels: Iterable[Wheel] = STORY) -> labs.Lab:
    """An index and the machines that use it, live or played back."""
    return labs.Lab(name, wheels, KEPT)


def line() -> str:
    """Where the runs of pip, Poetry and uv come from, in one line."""
    return labs.line(KEPT)


# -- what tools say -----------------------------------------------------------------------------------------------------------

_CHATTER = re.compile(r"\s*(Looking in indexes|Collecting|Downloading|Using cached|Updating dependencies|Resolving dependencies)\b.*")
_ADDRESS = re.compile(r"https?://\S+")


def said(run: Run) -> str:
    """The words of a run without its progress and without network addresses."""
    lines = [_ADDRESS.sub("(address)", line) for line in run.words.splitlines() if not _CHATTER.fullmatch(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def last_line(run: Run) -> str:
    """Without what Python 3.12 and later think was meant."""
    return said(run).splitlines()[-1].partition(". Did you mean")[0] if said(run) else ""


def versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or "nothing"


def commands(title: str, runs: Mapping[str, Run | Sequence[Run]], watch: str = "") -> charts.Table:
    """Machine by machine, what was typed and what came of it: everything installed then and what pip check says, or the one package to ``watch``."""
    rows = []
    for machine, one in runs.items():
        for place, run in enumerate([one] if isinstance(one, Run) else one):
            code = "stopped" if run.exit_code is None else str(run.exit_code)
            after = [run.installed.get(watch, "none")] if watch else [versions(run.installed), "; ".join(run.problems) or "no problem"]
            rows.append([machine if place == 0 else "", run.command, code, *after])
    heads = [f"{watch} afterwards"] if watch else ["installed afterwards", "pip check afterwards"]
    return charts.Table(title, ("machine", "command", "exit code", *heads), rows)


def line_with(run: Run, *words: str) -> str:
    """The first line of what a tool said that holds one of these words."""
    return next((line.strip(" |") for line in said(run).splitlines() if any(word in line for word in words)), "")


def wheels_of(problem: Problem) -> list[Wheel]:
    return [Wheel(name, version, tuple(requires)) for name, offered in problem.packages.items() for version, requires in offered.items()]


# -- locks: written, carried to other machines, doubted -------------------------------------------------------------------------

PROJECT = ("left", "right", "worker")
FREEZE, HASHED, PYLOCK, EXPORTED = "frozen.txt", "requirements.txt", "pylock.toml", "pylock.uv.toml"
WRITERS = {
    FREEZE: "pip freeze",
    HASHED: "uv export --format requirements.txt",
    PYLOCK: "pip lock",
    EXPORTED: "uv export --format pylock.toml",
    "poetry.lock": "poetry lock",
    "uv.lock": "uv lock",
}


@dataclass(frozen=True)
class Trials:
    """The files that lock one project, by name, and what each tool did with them on other machines."""

    files: dict[str, str] = field(repr=False)
    written: tuple[Run, ...]
    stray: dict[str, tuple[Run, ...]]
    tampered: dict[str, tuple[Run, ...]]
    stale: dict[str, tuple[Run, ...]]


def trials() -> Trials:
    """Lock PROJECT with every tool, then: install beside a stray package, after a wheel was exchanged on the index, and after the project has changed."""
    with lab("locks") as here:
        author = here.machine(*PROJECT, files={"requirements.in": "\n".join(PROJECT) + "\n"})
        written = author.run_all(
            "poetry lock",
            "uv lock",
            f"uv export --quiet --no-annotate --no-header --format requirements.txt -o {HASHED}",
            f"uv export --quiet --format pylock.toml -o {EXPORTED}",
            "pip lock -r requirements.in",
            "pip install -r pylock.toml",
            "pip freeze",
        )
        files = {FREEZE: written[-1].words + "\n"} | {name: author.read(name) for name in WRITERS if name != FREEZE}
        stray = {
            "pip": author.run_all("pip install stray", "pip install -r pylock.toml"),
            "Poetry": here.machine(*PROJECT, files=files).run_all("poetry install", "uv pip install stray", "poetry install", "poetry sync"),
            "uv": here.machine(*PROJECT, files=files).run_all("uv sync", "uv pip install stray", "uv sync --inexact", "uv sync"),
        }
        stale = {
            "pip": here.machine(*PROJECT, "stray", files=files).run_all("pip install -r pylock.toml"),
            "Poetry": here.machine(*PROJECT, "stray", files=files).run_all("poetry install"),
            "uv": here.machine(*PROJECT, "stray", files=files).run_all("uv sync --locked", "uv sync --frozen", "uv sync"),
        }
        here.replace(Wheel("core", "1.5", modules={"core.py": 'print("not what the author locked")\n'}))
        tampered = {
            "pip, no lock": here.machine().run_all("pip install core==1.5", 'python -c "import core"'),
            "pip, hashes": here.machine(files=files).run_all("pip install --require-hashes -r requirements.txt"),
            "pip, pylock": here.machine(files=files).run_all("pip install -r pylock.toml"),
            "Poetry": here.machine(*PROJECT, files=files).run_all("poetry install"),
            "uv": here.machine(*PROJECT, files=files).run_all("uv sync --locked"),
        }
    return Trials(files, written, stray, tampered, stale)


def needed(project: Sequence[str], wheels: Iterable[Wheel], variables: Mapping[str, str]) -> set[str]:
    """The names that ``project`` needs under these marker variables: its requirements, theirs, and so on, in any of the versions on offer."""
    requires: dict[str, set[str]] = {}
    for wheel in wheels:
        requires.setdefault(canonicalize_name(wheel.name), set()).update(wheel.requires)
    found: set[str] = set()
    waiting = [Requirement(text) for text in project]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate(dict(variables) | {"extra": ""})):
            found.add(name)
            waiting += map(Requirement, requires[name])
    return found


def right_on(lock: Lock, project: Sequence[str] = PROJECT, wheels: Iterable[Wheel] = STORY) -> list[tuple[str, str]]:
    """The (Python, system) pairs of PLATFORMS on which a lock yields exactly what the project needs there."""
    wheels = tuple(wheels)
    return [pair for pair, variables in PLATFORMS.items() if set(lock.on(*pair)) == needed(project, wheels, variables)]


def read(files: Mapping[str, str], name: str) -> Lock:
    """One of the files of ``trials``."""
    return read_lock(files[name], "requirements.txt" if name.endswith(".txt") else "pylock.toml" if name.startswith("pylock") else name)


def lock_table(files: Mapping[str, str]) -> charts.Table:
    """What each file holds. Counts of packages are left out: a file that is for one system holds other packages on another."""
    rows = []
    for name in files:
        lock = read(files, name)
        told = {row.direct for row in lock.rows}
        hashed = sum(bool(row.hashes) for row in lock.rows)
        rows.append((
            name, WRITERS[name],
            "told apart" if told == {True, False} else "not told apart",
            "every file" if hashed == len(lock.rows) else "none" if not hashed else f"{hashed} of {len(lock.rows)}",
            str(sum(bool(row.marker) for row in lock.rows)),
            f"{len(right_on(lock))} of {len(PLATFORMS)}",
        ))  # fmt: skip
    return charts.Table("What each file holds", ("file", "written by", "direct and transitive", "sha256", "packages with a marker", "right on"), rows)


def platform_table(title: str, lock: Lock) -> charts.Table:
    """The packages that one lock yields on nine machines."""
    always = set.intersection(*(set(lock.on(*pair)) for pair in PLATFORMS))
    rows = [
        (f"{system}, Python {python}", str(len(taken := lock.on(python, system))), ", ".join(sorted(set(taken) - always)) or "none")
        for python, system in PLATFORMS
    ]
    return charts.Table(title, ("machine", "packages", f"besides {', '.join(sorted(always))}"), rows)


def package_sets(lock: Lock) -> int:
    """How many different sets of packages one lock yields on nine machines."""
    return len({tuple(lock.on(*pair)) for pair in PLATFORMS})


# -- what metadata do not say ---------------------------------------------------------------------------------------------------


def undeclared() -> dict[str, tuple[Run, ...]]:
    """Poetry and gamma, whose metadata are wrong; and an exact pin that does not name the build."""
    with lab("undeclared") as here:
        return {
            "Poetry": here.machine().run_all("poetry add gamma beta", 'python -c "import gamma"'),
            "pip": here.machine().run_all("pip install toytorch==2.1.0"),
            "uv": here.machine().run_all("uv pip install toytorch==2.1.0"),
        }


def torch_locks() -> dict[str, Lock]:
    """torch 2.1.0 and 2.13.0, each locked by uv from one line."""
    with lab("torch", torch_index()) as here:
        found = {}
        for version in TORCHES:
            machine = here.machine(f"torch=={version}")
            machine.run("uv lock")
            found[version] = read_lock(machine.read("uv.lock"), "uv.lock")
        return found


def torch_table(locks: Mapping[str, Lock]) -> charts.Table:
    """How many packages one line with torch installs on each system, and how many of them are for CUDA."""
    rows = []
    for version, lock in locks.items():
        taken = [lock.on("3.12", system) for system in ("linux", "macos", "windows")]
        cuda = [name for name in taken[0] if name.startswith(("nvidia-", "cuda-", "triton"))]
        rows.append(
            (
                f"torch=={version}",
                *(str(len(one)) for one in taken),
                str(len(cuda)),
                ", ".join(sorted(name for name in cuda if name.startswith("nvidia-cu"))[:3]),
            )
        )
    return charts.Table("Packages that one line installs", ("the line", "on Linux", "on macOS", "on Windows", "for CUDA, on Linux", "the first three"), rows)


# -- what resolving costs ---------------------------------------------------------------------------------------------------------

RESOLVERS = ("resolvelib", "PubGrub")
"""pip's and Poetry's."""

MOST = 3_000
"""Steps after which a resolver is stopped here."""

FAMILIES = {
    "chain": {size: chain(size, 6) for size in range(1, 8)},
    "pigeons": {size: pigeonhole(size) for size in range(1, 5)},
    "3-SAT": {seed: three_sat(5, 24, seed) for seed in range(6)},
}
"""A chain of so many packages of six versions, with one solution; one pigeon more than so many holes, with none; six formulas of five variables."""


@dataclass(frozen=True)
class Spent:
    """How a resolver ended (solved, broken, impossible, too deep), its steps, and how often it took pins back. Broken is a solution that is none."""

    ended: str
    steps: int
    backtracks: int


def _spent(resolution: Resolution) -> Spent:
    return Spent("broken" if resolution.unmet else resolution.ended, len(resolution.steps), resolution.counts["backtrack"])


STEPPED = {"diamond": diamond(), "chain of 2, 4 versions": chain(2, 4), "3 pigeons, 2 holes": pigeonhole(2)}
"""Small enough to be looked at step by step."""

PACKAGES, VERSIONS = (4, 6, 8, 10), (3, 5, 8)
"""Of the panel's random indexes."""


@cache
def drawn(packages: int, offered: int, excluded: int) -> Problem:
    """A random index of the panel, whose requirements exclude so many of the versions on offer."""
    return random_index(packages, offered, excluded / offered, seed=1)


@cache
def _pubgrub() -> tuple[tuple[Resolution, ...], tuple[Spent, ...], tuple[Spent, ...]]:
    """Poetry's solver on STEPPED, on FAMILIES and on the panel's indexes, in one start of it, live or from the recording."""
    families = [problem for family in FAMILIES.values() for problem in family.values()]
    panels = [drawn(packages, offered, excluded) for packages, offered in product(PACKAGES, VERSIONS) for excluded in range(offered)]

    def solve() -> dict[str, list]:
        found = resolve_many([*STEPPED.values(), *families, *panels], "pubgrub", most=MOST)
        return {"steps": found[: len(STEPPED)], "spent": [_spent(one) for one in found[len(STEPPED) :]]}

    kept = labs.once(KEPT, "pubgrub", solve)
    spent = record.restore(tuple[Spent, ...], kept["spent"])
    return record.restore(tuple[Resolution, ...], kept["steps"]), spent[: len(families)], spent[len(families) :]


def efforts() -> dict[str, dict[int, dict[str, Spent]]]:
    """Both resolvers on every problem of FAMILIES: {family: {size or number: {resolver: Spent}}}."""
    problems = [problem for family in FAMILIES.values() for problem in family.values()]
    spent = {"resolvelib": [_spent(one) for one in resolve_many(problems, "resolvelib", most=MOST)], "PubGrub": _pubgrub()[1]}
    places = iter(range(len(problems)))
    return {name: {size: {who: spent[who][place] for who in spent} for size, place in zip(family, places, strict=False)} for name, family in FAMILIES.items()}


def satisfiable(formula: Problem) -> bool:
    """Whether a 3-SAT formula, given as an index, can be satisfied: every assignment is tried."""
    variables = [name for name in formula.packages if name.startswith("x")]
    clauses = [[literal for literals in offered.values() for literal in literals] for name, offered in formula.packages.items() if name not in variables]
    assignments = ({f"{name}=={value}" for name, value in zip(variables, values, strict=True)} for values in product("01", repeat=len(variables)))
    return any(all(chosen.intersection(clause) for clause in clauses) for chosen in assignments)


ON_INDEX = {"chain of 5, 6 versions": chain(5, 6), "chain of 8, 6 versions": chain(8, 6)}
PATIENCE = 20
"""Seconds that each tool gets."""


@dataclass(frozen=True)
class OnIndex:
    """What one tool did with a whole index over HTTP: its run, and how many requests it sent."""

    problem: str
    tool: str
    run: Run
    requests: int


def on_index() -> list[OnIndex]:
    """The real tools on whole indexes, each with PATIENCE seconds."""
    found = []
    for name, problem in ON_INDEX.items():
        with lab(name, wheels_of(problem)) as here:
            for tool, command in (("pip", f"pip install --dry-run {' '.join(problem.requirements)}"), ("Poetry", "poetry lock"), ("uv", "uv lock")):
                before = here.requests()
                run = here.machine(*problem.requirements).run(command, PATIENCE)
                found.append(OnIndex(name, tool, run, here.requests() - before))
    return found


def verdict(run: Run) -> str:
    return {0: "solved", None: f"stopped at {PATIENCE} s"}.get(run.exit_code, "refused")


def effort_table(found: Sequence[OnIndex]) -> charts.Table:
    rows = [(one.problem, one.tool, verdict(one.run), f"{one.run.seconds:.2f}", str(one.requests)) for one in found]
    return charts.Table("Whole indexes over HTTP", ("problem", "tool", "answer", "seconds", "requests"), rows)


def stepped() -> dict[str, dict[str, Resolution]]:
    """Every step of both resolvers on the problems of STEPPED."""
    return {name: {"resolvelib": resolve_steps(*STEPPED[name], "resolvelib"), "PubGrub": one} for name, one in zip(STEPPED, _pubgrub()[0], strict=True)}


def step_panel(known: Mapping[str, Mapping[str, Resolution]]) -> Panel:
    """A problem and a number of steps: what both resolvers have pinned by then, and what they took back."""
    from ipywidgets import Dropdown, IntSlider

    def steps(problem: str, at: int) -> charts.ResolutionRecord:
        ends = ", ".join(f"{who} {one.ended} after {len(one.steps)} steps" for who, one in known[problem].items())
        return charts.ResolutionRecord(known[problem], at, f"{problem}: {ends}.")

    longest = max(len(one.steps) for by in known.values() for one in by.values())
    controls = {
        "problem": Dropdown(options=list(known), value=list(known)[-1], description="Problem", tooltip="a small index and what is asked of it"),
        "at": IntSlider(value=longest, min=0, max=longest, description="Steps", tooltip="how many steps are done"),
    }
    return Panel("Two resolvers, step by step", controls, steps, charts.ResolutionSteps(rows=longest, names=80))


# -- what no lock fixes -------------------------------------------------------------------------------------------------------------

OLDER_CPU = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""Environment variables that make ATen, MKL and oneDNN do with the instructions of an older CPU."""


@dataclass(frozen=True)
class Trained:
    """One training: the SHA-256 of its weights, its last loss, and that of the installed packages and their versions."""

    weights: str
    loss: float
    packages: str


def start_training() -> Future:
    """``trainings`` on another core; ``result()`` waits for it."""
    return sandbox.in_background(trainings)


def trainings() -> dict[str, Trained]:
    """One small model, trained by the same code: twice alike, on two threads, twice without a random seed; and in a process that keeps to OLDER_CPU."""
    here = {"as it is": [1, 0], "once more": [1, 0], "two threads": [2, 0], "no random seed": [1, None], "no random seed, once more": [1, None]}
    found = {}
    for runs, variables in ((here, {}), ({"instructions of an older CPU": [1, 0]}, OLDER_CPU)):
        outcome = sandbox.call("mllandscape.lessons.pip_vs_poetry:train_here", seconds=120, env=variables, runs=list(runs.values()))
        if not outcome.ok:
            raise BadInput(f"the training ended with {outcome.ending}: {outcome.message.partition(chr(10))[0]}; run the cell again.")
        found |= {name: Trained(**one) for name, one in zip(runs, outcome.value, strict=True)}
    return found


def training_table(trained: Mapping[str, Trained]) -> charts.Table:
    first = next(iter(trained.values()))
    rows = [(name, one.weights[:16], f"{one.loss:.9f}", "yes" if one.weights == first.weights else "no") for name, one in trained.items()]
    return charts.Table("Same packages, same code, same machine", ("training", "SHA-256 of the weights", "last loss", "the first one's bits"), rows)


def train_here(runs: list[list]) -> list[dict]:
    """In the child: train once for each [threads, seed], deterministic algorithms only."""
    import torch

    from mllandscape import fingerprint

    installed = "\n".join(sorted({f"{canonicalize_name(item.name)} {item.version}" for item in importlib.metadata.distributions()}))
    packages = fingerprint.array(torch.tensor(list(installed.encode()), dtype=torch.uint8))
    torch.use_deterministic_algorithms(True)
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(512, 64, generator=draw), torch.randint(10, (512,), generator=draw)
    found = []
    for threads, seed in runs:
        torch.set_num_threads(threads)
        if seed is None:
            torch.seed()
        else:
            torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.LayerNorm(256), torch.nn.Linear(256, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(30):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        found.append({"weights": fingerprint.weights(model.state_dict()), "loss": loss.item(), "packages": packages})
    return found


def added(numbers: Sequence[float]) -> float:
    """Their sum in float32, from left to right, as IEEE 754 rounds it: the same on every machine."""
    import numpy

    return float(functools.reduce(lambda total, number: numpy.float32(total + number), map(numpy.float32, numbers)))


# -- what each tool guarantees ------------------------------------------------------------------------------------------------------

TOOLS = ("pip", "pip with a lock", "Poetry", "uv", "conda")
CONDA = {
    "refuses an impossible set": True,
    "keeps what earlier commands installed whole": True,
    "writes every version down with a hash": True,
    "one lock for every system": False,
    "refuses a file that was changed": None,
    "notices a lock that no longer fits the project": None,
    "can remove what is not in the lock": True,
    "its lock holds Python itself": True,
    "fixes the bits of what is trained": None,
}
"""Cited, not run here: conda's documentation, read 2026-11. "Solvers"; "Technical specification: solver state", by which what is installed and was asked
for takes part in every solve; "conda list" (--explicit --sha256, for one system); "conda env update" (--prune). None is what it does not say."""


def guarantees(one: Mapping[str, Run], two: Mapping[str, Sequence[Run]], tried: Trials, trained: Mapping[str, Trained]) -> dict[str, dict[str, bool | None]]:
    """What each of TOOLS guarantees, read from the runs of the lesson: {guarantee: {tool: bool}}. conda's are cited."""

    def refused(run: Run) -> bool:
        return run.exit_code not in (0, None)

    def whole(runs: Sequence[Run]) -> bool:
        return all(run.consistent for run in runs)

    def exact(tool: str) -> bool:
        return "stray" not in tried.stray[tool][-1].installed

    locks = [read(tried.files, name) for name in (FREEZE, PYLOCK, "poetry.lock", "uv.lock")]
    same = trained["no random seed"].weights == trained["no random seed, once more"].weights
    rows = {
        "refuses an impossible set": (refused(one["pip"]), refused(one["pip lock"]), refused(one["Poetry"]), refused(one["uv"])),
        "keeps what earlier commands installed whole": (whole(two["pip"]), whole(two["pip"]), whole(two["Poetry"]), whole(two["uv"])),
        "writes every version down with a hash": [all(row.hashes for row in lock.rows) for lock in locks],
        "one lock for every system": [len(right_on(lock)) == len(PLATFORMS) for lock in locks],
        "refuses a file that was changed": (refused(tried.tampered[who][0]) for who in ("pip, no lock", "pip, pylock", "Poetry", "uv")),
        "notices a lock that no longer fits the project": (False, *(refused(tried.stale[who][0]) for who in ("pip", "Poetry", "uv"))),
        "can remove what is not in the lock": (False, exact("pip"), exact("Poetry"), exact("uv")),
        "its lock holds Python itself": [any(row.name == "python" for row in lock.rows) for lock in locks],
        "fixes the bits of what is trained": [same] * 4,
    }
    return {name: dict(zip(TOOLS, (*found, CONDA[name]), strict=True)) for name, found in rows.items()}


def decision_table(found: Mapping[str, Mapping[str, bool | None]]) -> charts.Table:
    words = {True: "yes", False: "no", None: "not judged"}
    rows = [(name, *(words[by[tool]] + (", cited" if tool == "conda" and by[tool] is not None else "") for tool in TOOLS)) for name, by in found.items()]
    return charts.Table("Who guarantees what", ("guarantee", *TOOLS), rows)


# -- the panel ------------------------------------------------------------------------------------------------------------------------

Grid = dict[tuple[int, int], tuple[Spent, ...]]
"""What a resolver spent on the panel's indexes, by (packages, versions), where 0, 1, … versions are excluded."""


def grid() -> Grid:
    """PubGrub on every index of the panel."""
    spent = iter(_pubgrub()[2])
    return {key: tuple(next(spent) for _ in range(key[1])) for key in product(PACKAGES, VERSIONS)}


@cache
def _by_resolvelib(packages: int, offered: int) -> tuple[Spent, ...]:
    problems = [drawn(packages, offered, excluded) for excluded in range(offered)]
    return tuple(_spent(one) for one in resolve_many(problems, "resolvelib", most=MOST))


def effort(known: Grid, packages: int, offered: int, tightness: float) -> charts.EffortRecord:
    """Both resolvers on random indexes of every tightness, and on the one that is nearest to ``tightness``, a share from 0 to 1."""
    spent = {"resolvelib": _by_resolvelib(packages, offered), "PubGrub": known[packages, offered]}
    shares = [excluded / offered for excluded in range(offered)]
    at = min(range(offered), key=lambda place: abs(shares[place] - tightness))
    solvable = [any(by[place].ended == "solved" for by in spent.values()) for place in range(offered)]
    hardest = max(range(offered), key=lambda place: spent["resolvelib"][place].steps)
    verdict = f"{packages} packages of {offered} versions, each requirement excludes {at}: {'solvable' if solvable[at] else 'impossible'}."
    told = ["; ".join(f"{who} {_ended(by[at])}" for who, by in spent.items()) + "."]
    told.append(f"resolvelib takes most steps where {hardest} of {offered} are excluded: {_ended(spent['resolvelib'][hardest])}.")
    return charts.EffortRecord(shares, {who: [one.steps for one in by] for who, by in spent.items()}, solvable, at, MOST, verdict, told)


def _ended(spent: Spent) -> str:
    if spent.ended == "too deep":
        return f"stopped at {spent.steps:,} steps"
    return f"{spent.steps:,} steps, {spent.backtracks:,} of them back" + (", to a broken set" if spent.ended == "broken" else "")


def panel(known: Grid) -> Panel:
    """Packages, versions and tightness: the steps of both resolvers, and where the answer flips. ``known`` is ``grid()``."""
    from ipywidgets import FloatSlider, SelectionSlider

    controls = {
        "packages": SelectionSlider(options=PACKAGES, value=8, description="Packages", tooltip="packages on the index, all of them asked for"),
        "offered": SelectionSlider(options=VERSIONS, value=8, description="Versions", tooltip="versions of each package"),
        "tightness": FloatSlider(value=0.5, min=0, max=1, step=0.05, description="Tightness", tooltip="share of the versions that a requirement excludes"),
    }
    return Panel("When does resolving get hard?", controls, lambda **values: effort(known, **values), charts.Effort(RESOLVERS, MOST))


# -- exercises ------------------------------------------------------------------------------------------------------------------------

PUZZLE = Problem(
    {
        "service": {"2.0": ["modelkit>=4.20", "hub>=0.15"], "3.0": ["modelkit>=4.30", "hub>=0.16"], "3.1": ["modelkit>=4.35", "hub>=0.17"]},
        "trainer": {"1.0": ["modelkit>=4.20,<4.30"], "2.0": ["modelkit>=4.20,<4.40", "hub<0.18"], "2.1": ["modelkit>=4.35,<4.40", "hub<0.18"]},
        "modelkit": {
            "4.20": ["tokenizer<0.13"],
            "4.30": ["tokenizer>=0.14,<0.16"],
            "4.35": ["tokenizer>=0.14,<0.19", "hub>=0.16"],
            "4.40": ["tokenizer>=0.19"],
        },
        "tokenizer": {version: [] for version in ("0.12", "0.13", "0.14", "0.15", "0.18", "0.19")},
        "hub": {version: [] for version in ("0.15", "0.16", "0.17", "0.18")},
    },
    ["service>=3", "trainer>=2", "tokenizer<0.14", "hub>=0.16"],
)
"""An index and a request for it that cannot be met."""


def _one_change(answer: Sequence[str]) -> str | None:
    wanted = [Requirement(text) for text in answer]
    asked = [Requirement(text) for text in PUZZLE.requirements]
    changed = [new for old, new in zip(asked, wanted, strict=False) if str(old) != str(new)]
    if [one.name for one in wanted] != [one.name for one in asked] or len(changed) != 1:
        return f"Keep the four packages in their order and change one requirement: {len(changed)} are changed."
    resolution = resolve_steps(PUZZLE.packages, list(answer), "resolvelib")
    if not resolution.solution:
        return f"That cannot be met either. {' '.join(resolution.explanation.split())}"
    if int(resolution.solution["service"].split(".")[0]) < 3:
        return f"It can be met, with service {resolution.solution['service']}; service has to stay at 3 or newer."
    return None


_SITES = {
    "nothing wrong": ([Wheel("alpha", "1.0", ("mathlib>=1.0,<2",)), Wheel("mathlib", "1.2")], set()),
    "a version that is not allowed": ([Wheel("alpha", "1.0", ("mathlib>=1.0,<2",)), Wheel("mathlib", "0.9")], {("alpha", "mathlib")}),
    "a package that is missing": ([Wheel("alpha", "1.0", ("mathlib>=1.0,<2",))], {("alpha", "mathlib")}),
    "a requirement of another Python": ([Wheel("alpha", "1.0", ("oldtoml; python_version < '3'",))], set()),
    "a requirement of an extra": ([Wheel("alpha", "1.0", ("stray; extra == 'plot'",))], set()),
    "another spelling of a name": ([Wheel("alpha", "1.0", ("Math_Lib>=1",)), Wheel("math-lib", "1.0")], set()),
    "a release candidate": ([Wheel("alpha", "1.0", ("mathlib>=1.0",)), Wheel("mathlib", "1.1rc1")], set()),
}
"""Environments, and the (package, requirement) pairs that are broken in each: pip check's verdict."""


def _finds_what_is_broken(answer: Any) -> str | None:
    for what, (wheels, broken) in _SITES.items():
        with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
            for wheel in wheels:
                with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
                    archive.extractall(folder)
            found = answer(list(importlib.metadata.distributions(path=[folder])))
        if {(canonicalize_name(package), canonicalize_name(Requirement(text).name)) for package, text in found} != broken:
            return f"For an environment with {what} it found {list(found) or 'nothing'}."
    return None


THREE = (("3.10", "linux"), ("3.12", "macos"), ("3.13", "windows"))
"""The machines of the third exercise."""
CARRIED = ("worker", "alpha")


def _carries(answer: str) -> str | None:
    lock = read_lock(answer)
    if lock.kind not in ("pylock.toml", "requirements.txt"):
        return f"pip does not install from a {lock.kind}."
    for pair in THREE:
        missing = needed(CARRIED, STORY, PLATFORMS[pair]) ^ set(lock.on(*pair))
        if missing:
            return f"On {pair[1]} with Python {pair[0]} it is wrong about {', '.join(sorted(missing))}."
    published = {(canonicalize_name(wheel.name), wheel.version): wheel.sha256 for wheel in STORY}
    bare = [row.name for row in lock.rows if published.get((row.name, row.version)) not in row.hashes]
    return f"{', '.join(bare)}: no hash of the wheel on the index." if bare else None


def lock_with(*typed: str) -> dict[str, str]:
    """Type these commands on a new machine whose project asks for worker and alpha; the files of the project then, by name.

    Raises BadInput with the tool's last words where a command is refused.
    """
    with lab(" && ".join(typed)) as here:
        machine = here.machine(*CARRIED, files={"requirements.in": "\n".join(CARRIED) + "\n"})
        for run in machine.run_all(*typed):
            if not run.ok:
                raise BadInput(f"{run.command}: exit code {run.exit_code}. {last_line(run)}")
        return {name: machine.read(name) for name in machine.files()}


exercise("01.ex1", _one_change)
exercise("01.ex2", _finds_what_is_broken)
exercise("01.ex3", _carries)


# -- the recording --------------------------------------------------------------------------------------------------------------------


def record_runs() -> None:
    """Run every code cell of this lesson's notebook here, and keep what pip, Poetry and uv did.

    ``python -m mllandscape.lessons.pip_vs_poetry runs``, where the tools are installed; half a minute.
    """
    (notebook,) = sources("01")
    names: dict[str, Any] = {"display": lambda *_: None}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
    lock_with("uv lock", "uv export --quiet --format pylock.toml -o pylock.toml")  # what the solution of the third exercise types
    labs.keep(KEPT, "python -m mllandscape.lessons.pip_vs_poetry runs")


def record_torch() -> None:
    """Ask pip what two versions of torch require on Linux, and keep it: ``python -m mllandscape.lessons.pip_vs_poetry torch``, with the network.

    Metadata is read, and no wheel downloaded where the index has it apart. Raises BadInput where pip fails, or finds another build than PyPI's.
    """
    installed = [one["metadata"] for version, python in TORCHES.items() for one in _pip_report(f"torch=={version}", python)]
    if others := [one["version"] for one in installed if one["name"] == "torch" and one["version"] not in TORCHES]:
        raise BadInput(f"pip finds torch {', '.join(others)} here, not the build on PyPI; take the other index and find-links out of pip's settings first.")
    source = f"metadata of the wheels of torch {' and '.join(TORCHES)} and of what they require on Linux x86-64, without their extras and Python versions"
    day = date.today().isoformat()
    command = "python -m mllandscape.lessons.pip_vs_poetry torch"
    record.save(TORCH, requirements(installed), record.Provenance(kind="published", source=source, date=day, command=command))


def _pip_report(requirement: str, python: str) -> list[dict]:
    """What pip would install for a requirement on Linux x86-64 with this Python, whatever machine this is."""
    tags = [word for minor in range(5, 36) for word in ("--platform", f"manylinux_2_{minor}_x86_64")]
    tags += [word for old in ("manylinux1", "manylinux2010", "manylinux2014") for word in ("--platform", f"{old}_x86_64")]
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        report = Path(folder) / "report.json"
        words = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report), "--target", folder, "--only-binary=:all:", "--python-version", python]
        done = subprocess.run([sys.executable, "-m", "pip", "install", *words, *tags, requirement], capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise BadInput(f"pip found no {requirement} for Python {python} on Linux: {done.stderr.strip().rpartition(chr(10))[2]}")
        return json.loads(report.read_text(encoding="utf-8"))["install"]


def requirements(installed: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """{package: {version: requirements}} of wheels' metadata; of extras those alone that another of the wheels asks for."""
    found: dict[str, dict[str, list[Requirement]]] = {}
    for one in installed:
        found.setdefault(canonicalize_name(one["name"]), {})[one["version"]] = [Requirement(line) for line in one.get("requires_dist", [])]
    every = [requirement for by in found.values() for rows in by.values() for requirement in rows]
    asked = {(canonicalize_name(one.name), extra) for one in every if not _extra(one) for extra in one.extras}

    def wanted(package: str, one: Requirement) -> bool:
        return not _extra(one) or (package, _extra(one)) in asked

    return {name: {version: [str(one) for one in rows if wanted(name, one)] for version, rows in by.items()} for name, by in found.items()}


def _extra(requirement: Requirement) -> str:
    """The extra for which alone a package has this requirement, "" where it is for everyone."""
    found = re.search(r"""extra == ["']([^"']+)""", str(requirement.marker or ""))
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(record.main({"runs": record_runs, "torch": record_torch}))
