"""A virtual environment in a throw-away folder, in which the real pip, Poetry and uv are run as one would type them."""

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
import tempfile
import venv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mllandscape import BadInput, sandbox
from mllandscape.environments import tools
from mllandscape.environments.index import Index

_TIMES = re.compile(r" in \d+(\.\d+)?m?s\b| ?\(\d+(\.\d+)?s\)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SITE = re.compile(r"\./\.venv/lib/python3\.\d+/site-packages")
_CHECKED: dict[tuple, tuple[str, ...]] = {}
_ADDRESS = re.compile(r"(127\.0\.0\.1|localhost)(:|%3A)\d+")


@dataclass(frozen=True)
class Run:
    """What one command did.

    ``exit_code`` is None when it was stopped at its time limit. ``installed`` maps each package of the environment to its version
    afterwards. ``words`` is what the tool said, stdout and then stderr, without colours, durations, ports and the folder's path.
    ``problems`` are the lines of ``pip check`` afterwards, none when it finds nothing. ``versions`` are those of the tools,
    ``seconds`` (wall clock) belongs to the command alone.
    """

    command: str
    exit_code: int | None
    installed: dict[str, str]
    words: str
    problems: tuple[str, ...]
    versions: dict[str, str] = field(repr=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def consistent(self) -> bool:
        """``pip check``'s verdict."""
        return not self.problems


class Environment:
    """A project folder with an empty virtual environment ``.venv`` in it, caches and a home of its own. Use it in a ``with`` block.

    pip, Poetry and uv see ``index`` and nothing else: no setting, cache, key or package of the user's, and no network. Two environments
    share nothing, like two machines. ``files`` are put into the project folder: name → text.
    Raises BadInput where the tools are not installed; ask ``tools.find()`` first.
    """

    def __init__(self, index: Index, files: dict[str, str] | None = None):
        self.index = index
        self._tools = tools.find()
        if self._tools is None:
            raise BadInput(f"pip, Poetry and uv are not installed beside mllandscape: run `{tools.INSTALL}`, which needs the network once.")
        self._lab = tempfile.TemporaryDirectory(prefix="mllandscape-env-", ignore_cleanup_errors=True)
        self.folder = Path(self._lab.name).resolve() / "project"
        for name in ("project", "home", "cache", "tmp"):
            self.folder.with_name(name).mkdir()
        self.clear()
        for name, text in (files or {}).items():
            self.write(name, text)

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Delete everything."""
        self._lab.cleanup()

    def clear(self) -> None:
        """An empty virtual environment again. The project's files and the caches stay."""
        shutil.rmtree(self.folder / ".venv", ignore_errors=True)
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(self.folder / ".venv")

    @property
    def python(self) -> Path:
        return tools.interpreter(self.folder / ".venv")

    def write(self, name: str, text: str) -> None:
        """A file of the project, by its path inside the folder."""
        self._inside(name).parent.mkdir(parents=True, exist_ok=True)
        self._inside(name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        path = self._inside(name)
        if not path.is_file():
            there = sorted(item.name for item in self.folder.iterdir() if item.is_file())
            raise BadInput(f"there is no {name} in the project: {', '.join(there) or 'it has no file yet'}.")
        return path.read_text(encoding="utf-8")

    def _inside(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder) or path == self.folder:
            raise BadInput(f"{name!r} is not a file inside the project folder.")
        return path

    def project(self, *requirements: str, python: str = ">=3.10") -> None:
        """Write a pyproject.toml with these direct dependencies, which Poetry and uv both read. ``python`` is its requires-python."""
        for text in requirements:
            try:
                Requirement(text)
            except InvalidRequirement:
                raise BadInput(f"{text!r} is not a requirement such as 'mathlib>=1.0,<2'.") from None
        listed = ", ".join(f'"{text.replace(chr(34), chr(39))}"' for text in requirements)
        self.write(
            "pyproject.toml",
            f'[project]\nname = "project"\nversion = "1.0"\nrequires-python = "{python}"\ndependencies = [{listed}]\n\n'
            f'[tool.poetry]\npackage-mode = false\n\n[[tool.poetry.source]]\nname = "index"\nurl = "{self.index.url}"\npriority = "primary"\n',
        )

    def installed(self) -> dict[str, str]:
        """Package → version, by name."""
        found = {canonicalize_name(item.name): item.version for item in self._distributions()}
        return dict(sorted(found.items()))

    @property
    def site(self) -> Path:
        """The folder ``site-packages``, where everything installed lies."""
        return tools.site_packages(self.folder / ".venv")

    def _distributions(self) -> Iterable[importlib.metadata.Distribution]:
        return importlib.metadata.distributions(path=[str(self.site)])

    def run(self, command: str, seconds: float = 60) -> Run:
        """Run a command line that begins with pip, poetry, uv or python, in the project folder.

        A failure of the tool is a Run with its exit code, and a command that takes longer than ``seconds`` one without.
        """
        try:
            program, *arguments = shlex.split(command)
        except ValueError as error:  # a quotation mark without its other one, or nothing at all
            raise BadInput(f"{command!r} is not a command line ({error}).") from None
        outcome = sandbox.command([*self._start(program, command), *arguments], seconds=seconds, cwd=self.folder, env=self._variables())
        code = None if outcome.ending == "timeout" else outcome.exit_code
        words = "\n".join(part.strip() for part in (outcome.stdout, outcome.stderr, outcome.message if code is None else "") if part.strip())
        return Run(command, code, self.installed(), self._plain(words), self._check(), self._tools.versions, outcome.seconds)

    def _start(self, program: str, command: str) -> list[str]:
        if program == "pip":  # how `pip --python` itself starts pip inside another environment, without starting it twice
            return [str(self.python), str(self._tools.site / "pip" / "__pip-runner__.py")]
        if program in ("poetry", "uv"):
            return [str(self._tools.program(program))]
        if program == "python":
            return [str(self.python)]
        raise BadInput(f"{command!r} starts with {program!r}: pip, poetry, uv and python are possible.")

    def _check(self) -> tuple[str, ...]:
        """``pip check``, run once for each set of installed metadata: its verdict depends on nothing else."""
        known = tuple(sorted((item.name, item.version, tuple(item.requires or ()), item.read_text("WHEEL") or "") for item in self._distributions()))
        if known and known not in _CHECKED:
            found = sandbox.command([*self._start("pip", "pip check"), "check"], cwd=self.folder, env=self._variables())
            if found.exit_code not in (0, 1):  # stopped or crashed on its way: no verdict, and none to remember
                return (f"pip check gave no verdict: {found.message}",)
            _CHECKED[known] = () if found.exit_code == 0 else tuple(self._plain(found.stdout).splitlines())
        return _CHECKED.get(known, ())

    def _plain(self, text: str) -> str:
        text = _ADDRESS.sub(r"\1", _TIMES.sub("", _COLOURS.sub("", text)))
        for path, name in ((self.folder, "."), (self.folder.parent, ".."), (self._tools.python.parents[1], "tools"), (Path(sys.prefix), "here")):
            text = text.replace(str(path), name)
        text = _SITE.sub("site-packages", text)
        return "\n".join(line.rstrip() for line in text.replace("\r", "\n").splitlines())

    def _variables(self) -> dict[str, str]:
        """Everything that could lead a tool out of the folder, or make its words depend on the machine."""
        lab = self.folder.parent
        home, cache, tmp = (str(lab / name) for name in ("home", "cache", "tmp"))
        places = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), home) | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), tmp)
        places |= {f"XDG_{kind}_HOME": str(lab / "home" / kind.lower()) for kind in ("CONFIG", "DATA", "STATE")} | {"XDG_CACHE_HOME": cache}
        return {
            **places,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "COLUMNS": "160",
            "VIRTUAL_ENV": str(self.folder / ".venv"),
            "CONDA_PREFIX": "",
            "NO_PROXY": "127.0.0.1",  # proxy variables are not passed on, but macOS and Windows have settings beside them
            "PYTHONNOUSERSITE": "1",
            "PYTHONHASHSEED": "0",  # Poetry's solver goes through sets: without a seed, the same conflict is proved in other words every time
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.url,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_NO_COLOR": "1",
            "PIP_PROGRESS_BAR": "off",
            "PIP_NO_COMPILE": "1",
            "PIP_RETRIES": "0",
            "PIP_CACHE_DIR": f"{cache}/pip",
            "UV_NO_CONFIG": "1",
            "UV_DEFAULT_INDEX": self.index.url,
            "UV_CACHE_DIR": f"{cache}/uv",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_PYTHON": str(self.python),
            "UV_NO_PROGRESS": "1",
            "UV_LINK_MODE": "copy",
            "POETRY_CACHE_DIR": f"{cache}/poetry",
            "POETRY_CONFIG_DIR": f"{home}/poetry",
            "POETRY_DATA_DIR": f"{home}/poetry-data",
            "POETRY_NO_INTERACTION": "1",
            "POETRY_VIRTUALENVS_IN_PROJECT": "true",
            "POETRY_VIRTUALENVS_OPTIONS_NO_PIP": "true",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }
