"""Poetry's own PubGrub solver, watched. ``steps.resolve_many`` runs this file with the interpreter of the tools' environment.

``python -s -P pubgrub.py PROBLEMS RESULTS`` reads JSON and writes JSON. It needs Poetry and the standard library, nothing of mllandscape. What it
watches is internal to Poetry, so a Poetry that has moved a piece is told in one line on stderr, with exit code 3.
"""

import json
import logging
import sys
from typing import NoReturn


def _tell(moved: Exception) -> NoReturn:
    print(moved, file=sys.stderr)
    sys.exit(3)


try:
    from cleo.io.null_io import NullIO
    from poetry.core.packages.dependency import Dependency
    from poetry.core.packages.package import Package
    from poetry.core.packages.project_package import ProjectPackage
    from poetry.mixology.failure import SolveFailureError
    from poetry.mixology.incompatibility import Incompatibility
    from poetry.mixology.partial_solution import PartialSolution
    from poetry.mixology.version_solver import VersionSolver
    from poetry.puzzle.provider import IncompatibleConstraintsError, Provider
    from poetry.repositories import Repository, RepositoryPool

    _ = VersionSolver._resolve_conflict, VersionSolver._choose_package_version, PartialSolution.satisfies, PartialSolution.decisions
except (ImportError, AttributeError) as moved:
    _tell(moved)


class Enough(Exception):
    """The limit of steps is reached."""


class Watched(Provider):
    """The provider of one problem, which remembers the package whose requirements the solver asked for last."""

    asked: Package | None = None
    facts: list[Incompatibility] = []

    def incompatibilities_for(self, dependency_package) -> list[Incompatibility]:
        self.asked, self.facts = dependency_package.package, super().incompatibilities_for(dependency_package)
        return self.facts


class Solver(VersionSolver):
    """The solver, which notes each decision, conflict and learned incompatibility."""

    def __init__(self, root: ProjectPackage, provider: Watched, most: int):
        super().__init__(root, provider)
        self.root, self.watched, self.most = root.name, provider, most
        self.steps: list[dict] = []

    def pins(self) -> dict[str, str]:
        return {package.name: package.version.text for package in self.solution.decisions if not package.is_root()}

    def note(self, kind: str, text: str, package: str = "", version: str = "", involved=(), pins: dict | None = None) -> None:
        if len(self.steps) >= self.most and kind not in ("done", "fail"):
            raise Enough
        names = [name for name in dict.fromkeys(involved) if name != self.root]
        pins = self.pins() if pins is None else pins
        self.steps.append({"kind": kind, "package": package, "version": version, "text": text, "involved": names, "pins": pins})

    def _choose_package_version(self) -> str | None:
        before, self.watched.asked = len(self.solution.decisions), None
        name, asked = super()._choose_package_version(), self.watched.asked
        if asked is None or asked.is_root():
            return name
        of = {"package": asked.name, "version": asked.version.text}
        if len(self.solution.decisions) > before:
            self.note("pin", f"{asked.name} {asked.version.text} is pinned", **of, involved=[asked.name])
        else:
            fact = next(fact for fact in self.watched.facts if all(term.dependency.name == name or self.solution.satisfies(term) for term in fact.terms))
            self.note("reject", f"{asked.name} {asked.version.text} is rejected: {fact}, which is ruled out", **of, involved=_names(fact))
        return name

    def _resolve_conflict(self, incompatibility: Incompatibility) -> Incompatibility:
        before = self.pins()
        self.note("conflict", f"conflict: {incompatibility}", _names(incompatibility)[-1], involved=_names(incompatibility))
        learned = super()._resolve_conflict(incompatibility)
        after = self.pins()
        if learned is not incompatibility:
            self.note("learn", f"learned: {learned}", _names(learned)[-1], involved=_names(learned), pins=before)
        if gone := [name for name in reversed(before) if name not in after]:
            self.note("backtrack", f"unpinned: {', '.join(f'{name} {before[name]}' for name in gone)}", gone[-1], before[gone[-1]], gone)
        return learned


def _names(incompatibility: Incompatibility) -> list[str]:
    return [term.dependency.name for term in incompatibility.terms]


def solve(packages: dict[str, dict[str, list[str]]], requirements: list[str], most: int) -> dict:
    """The steps, how it ended, and the solver's own last words."""
    name = "project"
    while name in packages:
        name = f"my-{name}"
    offered = []
    for package, versions in packages.items():
        for version, requires in versions.items():
            offered.append(Package(package, version))
            for text in requires:
                offered[-1].add_dependency(Dependency.create_from_pep_508(text))
    root = ProjectPackage(name, "0")
    for text in requirements:
        root.add_dependency(Dependency.create_from_pep_508(text))
    solver = Solver(root, Watched(root, RepositoryPool([Repository("memory", offered)]), NullIO()), most)
    try:
        found = {package.name: package.version.text for package in solver.solve().packages}
        if found != solver.pins():
            raise AttributeError("the decisions of PartialSolution are not the result of VersionSolver")
        solver.note("done", "nothing is left to pin")
        ended, words = "solved", ""
    except (SolveFailureError, IncompatibleConstraintsError) as failure:
        ended, words = "impossible", str(failure)
        solver.note("fail", "version solving failed")
    except Enough:
        ended, words = "too deep", f"stopped after {most} steps"
    return {"steps": solver.steps, "ended": ended, "explanation": words}


def main(problems: str, results: str) -> None:
    logging.disable()
    with open(problems, encoding="utf-8") as file:
        asked = json.load(file)
    try:
        solved = [solve(**problem) for problem in asked]
    except (AttributeError, TypeError) as moved:
        _tell(moved)
    with open(results, "w", encoding="utf-8") as file:
        json.dump(solved, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
