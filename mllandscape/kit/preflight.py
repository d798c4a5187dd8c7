"""``mllandscape preflight``: whether this laptop can run the course, on one page. Each line is something that was tried or looked at just now."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllandscape import BadInput, sandbox, units
from mllandscape.machine import Machine

PYTHONS = ((3, 11), (3, 14))
MEMORY, DISK = 4 * units.GB, 2 * units.GB
"""What the lessons ask for, free: the "4 GB" of their first cells, and room for compiled code, checkpoints and throw-away environments."""

SECONDS = 120  # for a child that imports torch or JupyterLab: a cold disk and a virus scanner take their time


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. ``ok`` is None for a thing that the course can do without; ``help`` says what to do where it is not as it should be."""

    what: str
    ok: bool | None
    found: str
    help: str = ""

    def __str__(self) -> str:
        state = {True: "ok", False: "MISSING", None: "without"}[self.ok]
        return f"{state:8} {self.what}: {self.found}{f'. To do: {self.help}' if self.help and not self.ok else ''}"


def preflight(machine: Machine, folder: Path) -> Iterator[Line]:
    """The lines, each when it is known. ``folder`` is where the learner's notebooks are, or will be."""
    yield _python()
    yield _lessons()
    yield Line("cores", True if machine.cores >= 2 else None, str(machine.cores), "expect to wait: the lessons use a second core while you read")
    yield _memory(machine)
    yield _disk(folder)
    yield _written(folder, "your notebooks", "choose another folder by --folder")
    from mllandscape.course import progress

    yield _written(progress.folder(), "your guesses and checks", "set MLLANDSCAPE_DATA to a folder that can be written")
    yield _child("torch trains in a child process", "try_torch", "python3 run.py install, or python -m pip install torch")
    yield _child("JupyterLab and a slider", "try_jupyter", "python3 run.py install, or python -m pip install jupyterlab ipywidgets ipykernel")
    yield _port()
    yield from _optional(machine)


def _python() -> Line:
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    return Line(
        "Python",
        fits,
        f"{sys.version_info[0]}.{sys.version_info[1]}, {sys.executable}",
        f"install a Python from {first} to {last}, then python3 run.py install",
    )


def _lessons() -> Line:
    from mllandscape.course import notebooks

    try:
        return Line("lessons", True, f"{len(notebooks.sources())} notebooks in {notebooks.FOLDER}")
    except BadInput as error:
        return Line("lessons", False, str(error), "run this from the repository's .venv, or install a package that holds the notebooks")


def _memory(machine: Machine) -> Line:
    free = None
    with suppress(ImportError, OSError):
        import psutil

        free = min(psutil.virtual_memory().available, machine.memory or sys.maxsize)
    if free is None:
        return Line("free memory", None, "unknown", f"have {units.gb(MEMORY)} free")
    found = f"{units.gb(free)}{f' of {units.gb(machine.memory)}' if machine.memory else ''}"
    return Line(
        "free memory", True if free >= MEMORY else None, found, f"close what you can; {units.gb(MEMORY)} free are wanted, and one notebook at a time needs less"
    )


def _disk(folder: Path) -> Line:
    places = {place: shutil.disk_usage(_existing(place)).free for place in (folder, Path(tempfile.gettempdir()))}
    free = min(places.values())
    found = ", ".join(f"{units.gb(count)} at {place}" for place, count in places.items())
    return Line("free disk", free >= DISK, found, f"free {units.gb(DISK)}, or point TMPDIR at a disk that has them")


def _existing(place: Path) -> Path:
    return next(parent for parent in (place.resolve(), *place.resolve().parents) if parent.exists())


def _written(folder: Path, what: str, todo: str) -> Line:
    """Whether a file can be made in a folder, or in the one in which the folder would be made."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Line(what, True, f"can be written to {folder}")
    except OSError as error:
        return Line(what, False, f"{folder} cannot be written ({error.strerror})", todo)


def _child(what: str, function: str, todo: str) -> Line:
    ended = sandbox.call(f"{__name__}:{function}", seconds=SECONDS)
    if ended.ok:
        return Line(what, True, f"{ended.value}, {ended.seconds:.0f} s from start to end")
    return Line(what, False, f"{ended.ending}{f', {ended.error_type}' if ended.error_type else ''}: {' '.join(ended.message.split())[:200]}".rstrip(": "), todo)


def try_torch() -> str:
    """Runs in a child: train a small layer and see the loss fall."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    data, losses = torch.randn(256, 64), []
    for _ in range(20):
        loss = (layer(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise ArithmeticError(f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g}")
    return f"torch {torch.__version__}, loss {losses[0]:.2f} to {losses[-1]:.2f} in 20 steps"


def try_jupyter() -> str:
    """Runs in a child: everything that a notebook with a panel imports, and a slider that is moved."""
    import ipykernel
    import ipywidgets
    import jupyterlab.labapp  # noqa: F401
    import nbformat  # noqa: F401

    moved: list[Any] = []
    slider = ipywidgets.IntSlider(value=1, tooltip="x")
    slider.observe(lambda change: moved.append(change["new"]), names="value")
    slider.value = 2
    if moved != [2]:
        raise RuntimeError("a slider that was moved told nobody")
    return f"jupyterlab {jupyterlab.__version__}, ipykernel {ipykernel.__version__}, ipywidgets {ipywidgets.__version__}"


def _port() -> Line:
    """A server and its client on a free port of this machine, as JupyterLab and its page are."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
            server.settimeout(5)
            with server.accept()[0] as accepted:
                client.sendall(b"x")
                said = accepted.recv(1)
        return Line("a port on 127.0.0.1", said == b"x", "opened and reached", "something between the two answers; switch off the VPN or its local filter")
    except OSError as error:
        return Line("a port on 127.0.0.1", False, f"not to be had ({error})", "allow Python to open ports for this machine alone")


def _optional(machine: Machine) -> Iterator[Line]:
    from mllandscape.environments import tools

    kit = tools.find()
    yield Line(
        "C++ compiler",
        True if machine.cxx else None,
        machine.cxx or "none; lesson 2 shows recorded timings",
        "Debian: apt install g++; macOS: xcode-select --install",
    )
    found = ", ".join(f"{name} {version}" for name, version in kit.versions.items()) if kit else "none; lessons 1 and 7 show what they can without"
    yield Line("pip, Poetry and uv", True if kit else None, found, "mllandscape tools")
    git = shutil.which("git")
    yield Line(
        "git",
        True if git else None,
        git or "none; lesson 9 needs it, lesson 6 shows a recorded bisection",
        "Debian: apt install git; macOS: xcode-select --install",
    )
    yield Line("GPU", True if machine.gpu else None, machine.gpu.name if machine.gpu else "none; those experiments show recorded runs", "")
    yield Line("Chromium", True if machine.chromium else None, machine.chromium or "none; only the tests of a maintainer use it", "")


def report(machine: Machine, folder: Path, say: Callable[[str], None]) -> bool:
    """Say the page line by line as it comes to be known, and whether the course can run."""
    lines = []
    for line in preflight(machine, folder):
        lines.append(line)
        say(str(line))
    missing = sum(line.ok is False for line in lines)
    say("")
    say("The course can run here." if not missing else f"The course cannot run here yet: {missing} MISSING above, each with what to do.")
    return not missing
