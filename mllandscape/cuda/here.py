"""This machine's own verdict, for ``mllandscape doctor``: the torch that is installed, on the GPU and under the driver that are there. Imports no torch."""

from importlib.util import find_spec
from pathlib import Path

from mllandscape import BadInput
from mllandscape.cuda import fatbin, native
from mllandscape.cuda.compatibility import Build, Gpu, builds, tables, will_it_run
from mllandscape.machine import Machine

LIBRARIES = ("libtorch_cuda.so", "libtorch_cuda_linalg.so")


def has_runtimes() -> bool:
    """Whether a CUDA runtime of every major version in the table is installed. Loads none."""
    return {row["soname"] for row in tables()["runtime"]} <= {path.name for path in native.libraries("libcudart.so.*")}


def has_nvrtc() -> bool:
    return bool(native.libraries("libnvrtc.so.*"))


def has_ptxas() -> bool:
    return bool(native.tools("ptxas"))


def verdict_here(machine: Machine) -> str:
    """One line: whether the installed torch runs on this machine's GPU, why, and what mends it if it does not."""
    if not machine.torch:
        return "CUDA: torch is not installed"
    if not machine.gpu:
        return f"CUDA: no NVIDIA GPU is visible, so torch {machine.torch} runs on the CPU"
    gpu = machine.gpu
    try:
        build = torch_build(machine.torch, gpu.cuda or "")
        found = will_it_run(build, Gpu(gpu.name, _capability(gpu.capability), kind(gpu.name)), gpu.driver or "")
    except BadInput as unknown:
        return f"CUDA: torch {machine.torch} on {gpu.name}, not decided: {unknown}"
    why = found.rules[-1]
    ending = f"{why.name}, {why.why}" if found else f"{found.message.rstrip('.')} ({why.why}). To mend it, {found.remedy}"
    return f"CUDA: torch {machine.torch} on {gpu.name} (sm_{found.gpu.capability}), driver {gpu.driver or 'missing'}: {found.verdict}; {ending}"


def torch_build(version: str, cuda: str) -> Build:
    """The installed torch as a build: its GPU code read out of its own library, or out of the table where the library cannot be found.

    Raises BadInput for a CUDA build that is neither there nor in the table.
    """
    if not cuda:
        return Build(f"torch {version}", "", ())
    spec = find_spec("torch")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    codes = [code for name in LIBRARIES if (folder / name).is_file() for code in fatbin.read(folder / name)]
    if codes:
        isa = max((code.version for code in codes if code.kind == "ptx"), key=lambda text: tuple(map(int, text.split("."))), default="")
        return Build(f"torch {version}", cuda, tuple(dict.fromkeys(code.arch for code in codes)), isa)
    for name, build in builds().items():
        if name.split()[1].partition("+")[0] == version.partition("+")[0] and build.cuda == cuda:
            return build
    raise BadInput(f"no GPU code could be read out of torch {version} for CUDA {cuda}, and no table lists it; ask torch.cuda.get_arch_list().")


def kind(name: str) -> str:
    """What forward compatibility depends on, from a GPU's name."""
    if "GeForce" in name or "TITAN" in name:
        return "geforce"
    return "jetson" if any(word in name for word in ("Orin", "Thor", "Xavier", "Tegra")) else "data centre"


def _capability(text: str | None) -> int:
    major, _, minor = (text or "").partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise BadInput(f"its compute capability {text!r} is not known; a newer driver tells it.")
    return 10 * int(major) + int(minor)
