"""pip, Poetry and uv in an environment of their own, so that none of them meets the learner's packages.

``mllandscape tools`` makes it, `run.py` calls that. It lies inside the environment that mllandscape runs in and goes with it,
or, where that cannot be written to, in the user's data folder, which MLLANDSCAPE_DATA moves; MLLANDSCAPE_TOOLS names another place.
"""

import importlib.metadata
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from mllandscape import BadInput
from mllandscape.course import progress

NAMES = ("pip", "poetry", "uv")
INSTALL = "mllandscape tools"
"""The command that installs what ``find`` did not find."""


@dataclass(frozen=True)
class Tools:
    """``python`` is the interpreter of the tools' environment, ``site`` the folder of its packages, ``versions`` those of pip, Poetry and uv."""

    python: Path
    site: Path
    versions: dict[str, str]

    def program(self, name: str) -> Path:
        """The executable of Poetry or uv."""
        return self.python.with_name(f"{name}.exe" if os.name == "nt" else name)


def interpreter(folder: Path) -> Path:
    """The Python of the virtual environment in this folder."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(folder: Path) -> Path:
    """Where that environment's packages lie, whichever Python it is of."""
    return next(iter(folder.glob("lib/python3.*/site-packages")), folder / "Lib" / "site-packages")


def find() -> Tools | None:
    """The tools, when all three are installed."""
    return next((found for folder in _folders() if (found := _look(folder))), None)


def install(constraint: Path | None = None) -> Tools:
    """Install the three, at the versions that the extra ``tools`` of this package allows, or that ``constraint`` (a file of pins) names.

    Uses the network through pip as the user has configured it. Raises BadInput when pip does not succeed; its words are on the screen.
    """
    folder = next(folder for folder in _folders() if os.access(next(parent for parent in folder.parents if parent.exists()), os.W_OK))
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    wanted = [str(_plain(line)) for line in importlib.metadata.requires("mllandscape") if 'extra == "tools"' in line.replace("'", '"')]
    limits = ["--constraint", str(constraint)] if constraint else []
    if subprocess.run([interpreter(folder), "-m", "pip", "install", "--disable-pip-version-check", *limits, *wanted]).returncode:
        raise BadInput("pip could not install the tools, see above; run this again when the cause is gone.")
    _FOUND.pop(folder, None)
    return _look(folder)


def _plain(line: str) -> Requirement:
    requirement = Requirement(line)
    requirement.marker = None
    return requirement


def _folders() -> list[Path]:
    if named := os.environ.get("MLLANDSCAPE_TOOLS"):
        return [Path(named)]
    return [Path(sys.prefix) / "tools", progress.folder().with_name("tools")]


_FOUND: dict[Path, Tools] = {}
"""What is missing is looked for again, so that tools installed while a notebook is open are found by its next cell."""


def _look(folder: Path) -> Tools | None:
    if folder in _FOUND:
        return _FOUND[folder]
    site = site_packages(folder)
    found = {item.name: item.version for item in importlib.metadata.distributions(path=[str(site)]) if item.name in NAMES}
    if len(found) == len(NAMES) and interpreter(folder).exists():
        _FOUND[folder] = Tools(interpreter(folder), site, {name: found[name] for name in NAMES})
    return _FOUND.get(folder)
