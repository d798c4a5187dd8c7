"""What this machine has, and what it can therefore run live. Whatever cannot be found out is None, and nothing raises."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mllandscape import units

PACKAGES = ("accelerate", "bitsandbytes", "dvc", "ipywidgets", "jupyterlab", "matplotlib", "mlflow-skinny", "numpy", "scikit-learn", "wandb")
COMPILERS = ("c++", "g++", "clang++", "cl")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU that this process may use. ``capacity`` is its whole memory in bytes, ``cuda`` the version that torch is built for."""

    name: str
    capacity: int | None
    capability: str | None
    driver: str | None
    cuda: str | None


@dataclass(frozen=True)
class Machine:
    """``memory`` is in bytes; ``rlimit_data`` says whether the operating system itself enforces a byte budget on a process."""

    os: str
    python: str
    cores: int
    memory: int | None
    torch: str | None
    gpu: Gpu | None
    cxx: str | None
    packages: dict[str, str | None]
    rlimit_data: bool
    chromium: str | None
    git: str | None = None

    def has(self, need: str) -> bool:
        """Whether a need of an experiment is met: a package, ``torch``, ``cuda`` (a GPU that this torch can use), ``cxx``, ``git`` or ``rlimit_data``."""
        if need == "cuda":
            return bool(self.torch and self.gpu and self.gpu.cuda)
        if need in ("torch", "cxx", "git", "rlimit_data"):
            return bool(getattr(self, need))
        return self.packages[need] is not None

    def __str__(self) -> str:
        memory = units.gib(self.memory) if self.memory else "memory unknown"
        return f"{self.os}, Python {self.python}, {self.cores} cores, {memory}, torch {self.torch or 'missing'}, {self.gpu.name if self.gpu else 'no GPU'}"


def pip_install(*packages: str) -> str:
    """The command that installs packages into the environment that this runs in, whatever ``pip`` is on the PATH."""
    return f"{sys.executable} -m pip install {' '.join(packages)}"


def install_extra(name: str) -> str:
    """The command that installs an extra of mllandscape: from the checkout that this runs in, or, where it was installed from a wheel, package by package."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return pip_install(f'"{checkout}[{name}]"')
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        lines = importlib.metadata.requires("mllandscape") or []
        return pip_install(*(f'"{line.partition(";")[0].strip()}"' for line in lines if re.search(rf"extra == ['\"]{name}['\"]", line)))
    return pip_install(f'"mllandscape[{name}]"')


def look(torch: bool = False) -> Machine:
    """Look at the machine without importing anything heavy. With ``torch``, import it and ask it for the GPU, which a partitioned GPU needs."""
    return Machine(
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        torch=torch_version(),
        gpu=_gpu_by_torch() if torch and torch_version() else _gpu_by_driver(),
        cxx=_first(os.environ.get("CXX", ""), *COMPILERS),
        packages={name: _version(name) for name in PACKAGES},
        rlimit_data=sys.platform == "linux",
        chromium=_first(*BROWSERS),
        git=_first("git"),
    )


def _first(*programs: str) -> str | None:
    return next((found for program in programs if program and (found := shutil.which(program))), None)


def torch_version() -> str | None:
    """torch's version with its build, such as 2.13.0+cu130, which the metadata of a wheel may leave out; None without torch. Does not import it."""
    spec = importlib.util.find_spec("torch")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        if told := re.search(r"^__version__ = ['\"]([^'\"]+)", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE):
            return told[1]
    return _version("torch")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    """Bytes of memory, or of what the container may use of it."""
    total = None
    with contextlib.suppress(AttributeError, OSError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total is None:
        with contextlib.suppress(ImportError):
            import psutil

            total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        total = min(total or sys.maxsize, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _gpu_by_torch() -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return _gpu_by_driver()
    found = torch.cuda.get_device_properties(0)
    seen = _gpu_by_driver()
    return Gpu(found.name, found.total_memory, f"{found.major}.{found.minor}", seen.driver if seen else None, torch.version.cuda)


def _gpu_by_driver() -> Gpu | None:
    """The first GPU that the driver's own tool lists and CUDA_VISIBLE_DEVICES does not hide."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return None
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits"]
    if visible and visible.split(",")[0].strip().isdigit():
        command.append(f"--id={visible.split(',')[0].strip()}")
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    fields = [field.strip() for field in listed.partition("\n")[0].split(",")]
    if len(fields) != 4:
        return None
    name, mebibytes, capability, driver = (None if field.startswith("[") or not field else field for field in fields)
    capacity = int(mebibytes) * units.MIB if mebibytes and mebibytes.isdigit() else None
    return Gpu(name or "NVIDIA GPU", capacity, capability, driver, _torch_cuda())


def _torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for, read from its version file without importing it; None for a CPU build."""
    with contextlib.suppress(ImportError, OSError, AttributeError, ValueError):
        text = Path(importlib.util.find_spec("torch").origin).with_name("version.py").read_text(encoding="utf-8")
        if found := re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE):
            return found[1]
    return None
