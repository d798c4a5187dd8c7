"""Lesson 8: "no kernel image is available for execution on the device": binaries opened, failures told apart, its panel and its exercises.

What loads NVIDIA's libraries, or is meant to fail, runs in one child process. Where a library, a tool or a GPU is not there, a recording stands in for its
part, and every line says which of the two it is.
"""

import io
import random
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mllandscape import BadInput, charts, record, sandbox, units
from mllandscape.course import exercise
from mllandscape.cuda import compatibility, fatbin, listings, native
from mllandscape.cuda.compatibility import FAILS, Build, Gpu, Verdict, will_it_run
from mllandscape.cuda.kernels import kernels
from mllandscape.machine import install_extra
from mllandscape.panel import Panel

FAILURES, ON_GPU = "cuda_mismatch_failures", "cuda_mismatch_gpu"
"""Recordings: what NVIDIA's libraries and tools say without a GPU, and what a GPU's driver says."""

# -- experiment 1: what is in a binary -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """What a library holds: ``linked`` code is what is loaded; ``relocatable`` code can be compiled and linked again by the driver. ``isa`` of its PTX."""

    cuda: str
    linked: tuple[str, ...]
    relocatable: tuple[str, ...]
    isa: str

    def build(self, own_runtime: bool = False) -> Build:
        """As a build for ``will_it_run``: bitsandbytes does not bring libcudart."""
        ptx = tuple(name for name in self.relocatable if name.startswith("compute_"))
        return Build(f"bitsandbytes, CUDA {self.cuda}", self.cuda, self.linked + ptx, self.isa, own_runtime)


def contents(cuda: str, codes: Iterable[fatbin.Code]) -> Contents:
    codes = tuple(codes)
    names = [tuple(dict.fromkeys(code.arch for code in codes if code.relocatable == relocatable)) for relocatable in (False, True)]
    return Contents(cuda, *map(_in_order, names), isa=max((code.version for code in codes if code.kind == "ptx"), default=""))


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (name.startswith("compute"), *compatibility.target(name)[1:])))


@dataclass(frozen=True)
class Shipped:
    """The CUDA libraries of bitsandbytes, by CUDA version, and where that was read."""

    libraries: dict[str, Contents]
    line: str


@cache
def shipped() -> Shipped:
    """Read out of the installed bitsandbytes; where it has no such libraries, out of the recorded listing."""
    if paths := listings.library_paths():
        return Shipped({cuda: contents(cuda, fatbin.read(path)) for cuda, path in paths.items()}, "read here, out of the installed bitsandbytes")
    kept = listings.kept(listings.RECORDING)
    listed = {row["cuda"]: contents(row["cuda"], listings.codes(row)) for row in kept.data["libraries"]}
    return Shipped(listed, f"{kept}: cuobjdump's listing of bitsandbytes {kept.data['bitsandbytes']}; the one installed here has no CUDA libraries")


def code_grid(libraries: Mapping[str, Contents]) -> charts.Described:
    """Architecture against CUDA version: cubins, and PTX with its ISA."""
    columns = _in_order({name for one in libraries.values() for name in one.linked + one.relocatable})
    cells = {}
    for cuda, one in libraries.items():
        for name in dict.fromkeys(one.linked + one.relocatable):
            ptx = name.startswith("compute")
            cells[f"CUDA {cuda}", name] = ("PTX", f"ISA {one.isa}") if ptx else ("cubin", "")
    rows = [f"CUDA {cuda}" for cuda in libraries]
    return charts.grid(rows, columns, cells, "GPU code in bitsandbytes' libraries", "architecture", charts.GPU_CODE)


# -- experiment 2: four failures, told apart -----------------------------------------------------------------------------------

CODES = {"driver too old": 35, "no device": 100, "no kernel image": 209, "PTX too new": 222, "compat libraries refused": 804}
"""Errors of the CUDA runtime that the lesson names."""

V100 = Gpu("Tesla V100", 70)


def look_here(library: str | None, ptx: Mapping[str, str]) -> dict[str, Any]:
    """The child's part: provoke each failure as far as this machine goes; None for what is not installed.

    ``library`` is the path of one that needs libcudart 11, ``ptx`` {ISA: path} of the same kernel from several CUDA versions. The loader comes first,
    while no other library has brought what it looks for.
    """
    found: dict[str, Any] = {"loader": None if library is None else {"library": Path(library).name, "said": native.load_library(library)}}
    found["cudart"] = native.ask_cudart(list(CODES.values())) or None
    found["nvrtc"] = _compilers()
    found["ptxas"] = _ptxas(ptx)
    found["torch"] = _torch_says()
    return found


def _compilers() -> list[dict] | None:
    """For each NVRTC that is installed: its version, and what it says when asked for code for a V100."""
    rows = []
    for version, library in native.compilers().items():
        try:
            native.compile_source(library, 'extern "C" __global__ void nothing() {}', "nothing.cu", f"sm_{V100.capability}")
            said = ""
        except BadInput as error:
            said = str(error)
        rows.append({"version": version, "said": said})
    return rows or None


def _ptxas(ptx: Mapping[str, str]) -> list[dict] | None:
    """For each ptxas that is installed: what it says to each PTX, compiling for an A100."""
    rows = []
    for tool in native.tools("ptxas"):
        version = native.version(tool)
        if version and not any(row["version"] == version for row in rows):
            rows.append({"version": version, "said": {isa: native.compile_ptx(tool, Path(path), "sm_80") for isa, path in ptx.items()}})
    return sorted(rows, key=lambda row: row["version"]) or None


def _torch_says() -> dict[str, str]:
    """What a CPU build raises when it is asked for CUDA, and torch's own warning when a CUDA 13 build meets a V100."""
    import torch

    from mllandscape import torch_private as private

    try:
        torch.zeros(1, device="cuda")
        asked = ""
    except (AssertionError, RuntimeError) as error:
        asked = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    build = compatibility.builds()["torch 2.13.0+cu130"]
    told = private.capability_warning(build.cuda, list(build.code), V100.name, V100.capability)
    return {"asked for CUDA": re.sub(r"\s*(?:Please check|https?://).*", "", asked), "warning": re.sub(r"https?://\S*/", "…/", told)}


@dataclass(frozen=True)
class Met:
    """What was met: of each part, what it said, and the line that says where."""

    parts: dict[str, Any]
    lines: dict[str, str]

    @property
    def cudart(self) -> list[dict]:
        return self.parts["cudart"]

    def text(self, name: str) -> str:
        """The CUDA runtime's own words for an error of CODES."""
        return self.cudart[-1]["texts"][str(CODES[name])][1]


def start() -> Future:
    """``meet`` on another core; ``result()`` waits for it."""
    return sandbox.in_background(meet)


def meet() -> Met:
    """Provoke the failures in a child process; a recording stands in for what is not installed here, or does not fail because there is a GPU."""
    here = _provoke()
    kept = listings.kept(FAILURES)
    parts, lines = {}, {}
    for name, recorded in kept.data.items():
        live = here.get(name)
        if live and _fails(name, live):
            parts[name], lines[name] = live, str(record.here())
        else:
            parts[name], lines[name] = recorded, str(kept)
    return Met(parts, lines)


def _fails(name: str, live: Any) -> bool:
    """Whether what was meant to fail has failed here: a GPU answers cudaGetDeviceCount, a CUDA 11 on the machine satisfies the loader.

    Runtimes count when there is one of each major version.
    """
    if name == "cudart":
        return len(live) == len(compatibility.tables()["runtime"]) and all(row["device_count"] == CODES["driver too old"] for row in live)
    if name == "loader":
        return "cannot open shared object file" in live["said"]
    if name == "ptxas":
        return any(any(row["said"].values()) for row in live)
    if name == "torch":
        return bool(live["asked for CUDA"] and live["warning"])
    return any(row["said"] for row in live)


def _provoke() -> dict[str, Any]:
    library = listings.library_paths().get("11.8")
    ptx = {fatbin.read(kernel.path)[0].version: str(kernel.path) for kernel in kernels() if kernel.target == "compute_80"}
    outcome = sandbox.call("mllandscape.lessons.cuda_mismatch:look_here", library=library and str(library), ptx=ptx, seconds=120)
    if not outcome.ok:
        raise BadInput(f"looking at the CUDA libraries ended with {outcome.ending}: {outcome.message.partition(chr(10))[0]}; run the cell again.")
    return outcome.value


def record_failures() -> None:
    """Keep what this machine says: ``python -m mllandscape.lessons.cuda_mismatch failures``, on one without a GPU, with the extra ``cuda`` and both NVRTCs."""
    here = _provoke()
    if missing := [name for name, said in here.items() if not said or not _fails(name, said)]:
        raise BadInput(f"{', '.join(missing)} could not be provoked here, which takes Linux without a GPU, both NVRTCs and the extra: {install_extra('cuda')}")
    record.save(FAILURES, here, record.here("python -m mllandscape.lessons.cuda_mismatch failures"))


def failure_table(met: Met) -> charts.Table:
    """The failures side by side: the runtime's number and words, what was done here, what it said, what mends it."""
    torch, ptxas, errors = met.parts["torch"], met.parts["ptxas"], compatibility.errors()
    newest = max((isa for row in ptxas for isa, said in row["said"].items() if said), key=lambda isa: tuple(map(int, isa.split("."))))
    refusing = next(row for row in ptxas if row["said"][newest])
    done = {
        "no kernel image": ("torch's own check, a CUDA 13 build meets a V100", torch["warning"].partition("\n")[0], "torch"),
        "PTX too new": (f"ptxas {refusing['version']} compiles PTX of ISA {newest}", refusing["said"][newest], "ptxas"),
        "driver too old": ("cudaGetDeviceCount, no driver", f"returns {met.cudart[-1]['device_count']} from {len(met.cudart)} runtimes", "cudart"),
        "library not found": (f"open {met.parts['loader']['library']}", met.parts["loader"]["said"], "loader"),
    }
    asked = torch["asked for CUDA"]
    done["no CUDA in the build" if asked.startswith("Assertion") else "no driver"] = ('torch.zeros(1, device="cuda")', asked, "torch")
    rows = []
    for name, (what, said, part) in done.items():
        number = f"{errors[name].code}: {errors[name].text}" if errors[name].code else "none, CUDA was not reached"
        rows.append((name, number, what, said, met.lines[part]))
    return charts.Table("Failures, provoked", ("failure", "the CUDA runtime's number and words", "provoked by", "it said", "where"), rows)


def load_kernels() -> dict[str, Any]:
    """The GPU's part, in a child process: every kernel of the package, and PTX of an ISA that no driver knows, loaded by the driver and run.

    Data as of ``native.load_on_gpu``. Raises BadInput, in one line, where there is no GPU.
    """
    newest = max((kernel for kernel in kernels() if kernel.target == "compute_80"), key=lambda kernel: tuple(map(int, kernel.toolkit.split("."))))
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        newer = Path(folder) / native.NEWER
        newer.write_text(re.sub(r"\.version [\d.]+", ".version 99.9", newest.path.read_text(encoding="ascii")), encoding="ascii")
        files = {kernel.file: str(kernel.path) for kernel in kernels()} | {newer.name: str(newer)}
        outcome = sandbox.call("mllandscape.cuda.native:load_on_gpu", files=files, seconds=120)
    if not outcome.ok:
        raise BadInput(outcome.message.partition("\n")[0] or f"loading kernels ended with {outcome.ending}.")
    return outcome.value


def on_gpu() -> record.Recording | None:
    """What the GPU here says to every kernel; without one the recording, None where there is none either."""
    try:
        return record.Recording(ON_GPU, load_kernels(), record.here(device="cuda"))
    except BadInput:
        return record.load(ON_GPU)


def record_gpu() -> None:
    """Keep what this GPU's driver says: ``python -m mllandscape.lessons.cuda_mismatch gpu``. Needs torch and a driver, nothing else."""
    record.save(ON_GPU, load_kernels(), record.here("python -m mllandscape.lessons.cuda_mismatch gpu", device="cuda"))


def expected(file: str, capability: int, cuda: str) -> str:
    """What ``will_it_run`` says of one of the kernels: ``runs``, ``JITs`` or the error's number."""
    driver = next((row["version"] for row in reversed(compatibility.tables()["driver"]) if _number(row["cuda"]) <= _number(cuda)), "450.80.02")
    gpu = Gpu("this GPU", capability)
    if file == native.NEWER:
        return will_it_run(Build(file, cuda, ("compute_80",), isa="99.9"), gpu, driver).short
    codes = fatbin.read(next(kernel.path for kernel in kernels() if kernel.file == file))
    isa = max((code.version for code in codes if code.kind == "ptx"), default="")
    return will_it_run(Build(file, cuda, tuple(code.arch for code in codes), isa), gpu, driver).short


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def gpu_lines(loaded: record.Recording | None) -> str:
    """Every kernel on the GPU: what was expected, what the driver said; one line where no GPU has run it yet."""
    if loaded is None:
        return "On a GPU: there is none here and no recorded run yet; with one, python -m mllandscape.lessons.cuda_mismatch gpu records it."
    data = loaded.data
    lines = [f"{data['gpu']}, sm_{data['capability']}, driver of CUDA {data['cuda']}; {loaded.provenance}"]
    for row in data["loads"]:
        said = f"{row['code']}, {row['text']}" if row["code"] else f"loaded in {units.seconds(row['seconds'])}, {'right' if row['ran'] else 'wrong'} result"
        lines.append(f"{row['file']:32} expected {expected(row['file'], data['capability'], data['cuda']):5} {said}")
    return "\n".join(lines)


# -- experiment 3: the decision ------------------------------------------------------------------------------------------------

GPUS = ("Tesla V100", "T4", "A100", "RTX 3090", "Jetson Orin", "RTX 4090", "H100", "B200", "B300", "RTX 5090")
BUILDS = ("torch 2.1.0+cu118", "torch 2.1.0+cu121", "torch 2.10.0+cu128", "torch 2.13.0+cu126", "torch 2.13.0+cu130")
DRIVERS = (
    "450.80.02", "470.42.01", "510.39.01", "515.43.04", "520.61.05", "525.60.13", "535.54.03", "550.54.14", "560.28.03", "570.26", "575.51.03", "580.65.06",
    "590.44.01", "610.43.02",
)  # fmt: skip


@cache
def lineup() -> dict[str, Build]:
    """Torch's wheels, bitsandbytes' library for CUDA 12.6 beside a torch that brings the runtime, and axpy as PTX alone."""
    more = shipped().libraries["12.6"].build(own_runtime=True), Build("axpy, PTX of CUDA 12.9 alone", "12.9", ("compute_80",))
    return {name: compatibility.builds()[name] for name in BUILDS} | {build.name: build for build in more}


def verdict_grid(driver: str, image: str = "") -> charts.Described:
    """Builds against GPUs under one driver."""
    found = compatibility.verdicts(lineup().values(), [name for name in GPUS if not (image and compatibility.gpus()[name].kind == "jetson")], [driver], image)
    cells = {(one.build.name, one.gpu.name): (one.verdict, one.short) for one in found}
    columns = list(dict.fromkeys(one.gpu.name for one in found))
    return charts.grid(list(lineup()), columns, cells, f"Builds on GPUs, driver {driver}{f', in {image}' if image else ''}", "GPU; the number is the error's")


def agreement_with_torch() -> tuple[int, list[tuple[int, int]]]:
    """(pairs compared, pairs on which torch's own function says otherwise) over every code and every GPU that either knows, and GPUs that nobody does."""
    from mllandscape import torch_private as private

    known = {row["number"] for row in compatibility.tables()["capability"]}
    codes = private.code_capabilities()
    pairs = [(code, gpu) for code in codes for gpu in sorted(known | set(codes) | {88, 107, 122, 130})]
    return len(pairs), [(code, gpu) for code, gpu in pairs if private.code_runs_on(code, gpu) != compatibility.runs_on(f"sm_{code}", gpu)]


# -- experiment 4: what mends what ---------------------------------------------------------------------------------------------

SOURCE_IMAGE = "nvidia/cuda:12.1.0-base"
"""The usual answer's base image; its cudnn8-runtime variant adds libraries to this one."""

CASES = {
    "no kernel image": ("torch 2.13.0+cu130", "Tesla V100", "580.65.06", ""),
    "driver too old": ("torch 2.1.0+cu121", "A100", "520.61.05", ""),
    "PTX too new": (Build("a kernel shipped as PTX by CUDA 12.9", "12.9", ("compute_80",)), "A100", "570.26", ""),
    "library not found": (Build("bitsandbytes without torch's CUDA wheels", "12.1", ("sm_80",), own_runtime=False), "A100", "570.26", ""),
    "it runs: driver 525, GeForce": ("torch 2.1.0+cu121", "RTX 3090", "525.60.13", ""),
}
"""One example of each failure, and one that works."""


def changes(build: Build | str, gpu: str, driver: str, image: str) -> dict[str, Verdict]:
    """What becomes of a case when one thing is changed."""
    made = compatibility.builds()[build] if isinstance(build, str) else build
    other = next((one for one in reversed(compatibility.builds().values()) if one.cuda and will_it_run(one, gpu, driver, image)), made)
    newest = next(version for version in reversed(compatibility.drivers()) if will_it_run(other, gpu, version, image))
    with_ptx = Build(f"{made.name} with PTX", made.cuda, (*made.code, "compute_50"), made.isa or "7.0", made.own_runtime)
    return {
        "as it is": will_it_run(made, gpu, driver, image),
        "the usual Dockerfile's image": will_it_run(made, gpu, driver, SOURCE_IMAGE),
        "a newer driver": will_it_run(made, gpu, newest, image),
        "another build of torch": will_it_run(other, gpu, driver, image),
        "PTX of an old ISA in the build": will_it_run(with_ptx, gpu, driver, image),
    }


def remedy_table() -> charts.Table:
    """Failures against changes."""
    found = {name: changes(*case) for name, case in CASES.items()}
    heads = list(next(iter(found.values())))
    rows = [(name, *(one.short if one.short != one.verdict or not one else one.verdict for one in by_change.values())) for name, by_change in found.items()]
    return charts.Table("What mends what", ("case", *heads), rows)


@dataclass(frozen=True)
class ImageEffect:
    """Of all combinations of builds, GPUs and drivers: how many failed with error 209 bare, and of how many another base image changed the outcome."""

    combinations: int
    no_kernel_image: int
    mended: int
    rescued: int
    broken: int
    refused: int


def image_effect() -> ImageEffect:
    """Every torch build, every GPU but the Jetson, every driver branch, without an image and in each CUDA image.

    ``mended``: error 209 without it, running with it. ``rescued``: another error without, running with it. ``broken``: running without, failing with it;
    ``refused`` of these did not even start.
    """
    cards = [gpu for gpu in compatibility.gpus().values() if gpu.kind != "jetson"]
    builds = [compatibility.builds()[name] for name in BUILDS]
    bare = compatibility.verdicts(builds, cards, compatibility.drivers())
    lacking = sum(one.short == "209" for one in bare)
    mended = rescued = broken = refused = 0
    for image in compatibility.images().values():
        for before, after in zip(bare, compatibility.verdicts(builds, cards, compatibility.drivers(), image), strict=True):
            mended += before.short == "209" and bool(after)
            rescued += not before and before.short != "209" and bool(after)
            broken += bool(before) and not after
            refused += bool(before) and after.short == "container refused"
    return ImageEffect(len(bare), lacking, mended, rescued, broken, refused)


def pins(requirement: str, versions: Iterable[str] = ("2.1.0", "2.1.0+cu118", "2.1.0+cu121", "2.1.0+cpu", "2.1.1+cu121")) -> list[str]:
    """Which versions a requirement such as ``torch==2.1.0`` accepts, by pip's own rules (the packaging library)."""
    from packaging.requirements import Requirement

    return [version for version in versions if Requirement(requirement).specifier.contains(version)]


@dataclass(frozen=True)
class Fallback:
    """A small classifier in fp32 and with int8 weights: bytes as saved, right answers of ``samples``, and by (width, batch) the seconds of a call."""

    engine: str
    samples: int
    sizes: dict[str, int]
    right: dict[str, int]
    seconds: dict[tuple[int, int], dict[str, float]]
    deprecation: str


def quantise(widths: tuple[int, ...] = (64, 256, 2048), batches: tuple[int, ...] = (1, 64)) -> Fallback:
    """Train on scikit-learn's digits, quantise the linear layers dynamically to int8, compare: the usual CPU fallback. One thread, processor time.

    Raises BadInput on a machine for which torch has no quantised kernels.
    """
    import torch
    from sklearn.datasets import load_digits

    if torch.backends.quantized.engine == "none":
        raise BadInput("this build of torch has no int8 kernels for this processor: run the cell on x86-64 or Arm.")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            digits = load_digits()
            order = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))
            x, y = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
            trained = _trained(_classifier(256), x[:1200], y[:1200])
            models = {"fp32": trained, "int8": _int8(trained)}
            with torch.no_grad():
                right = {name: int((model(x[1200:]).argmax(1) == y[1200:]).sum()) for name, model in models.items()}
            seconds = {}
            for width in widths:
                pair = {"fp32": _classifier(width).eval()}
                pair["int8"] = _int8(pair["fp32"])
                seconds |= {(width, batch): _alternate(pair, torch.randn(batch, 64)) for batch in batches}
        deprecation = next((str(one.message).partition("\n")[0] for one in told if one.category is DeprecationWarning), "")
        return Fallback(torch.backends.quantized.engine, len(x) - 1200, {name: _saved(model) for name, model in models.items()}, right, seconds, deprecation)
    finally:
        torch.set_num_threads(before)


def _classifier(width: int):
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def _trained(model, x, y):
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def _int8(model):
    import torch

    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def _saved(model) -> int:
    import torch

    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.tell()


def _alternate(models: Mapping[str, Any], x: Any, rounds: int = 9) -> dict[str, float]:
    """Median seconds of a call; the models take turns, so that what disturbs the machine disturbs both."""
    import torch

    calls = 1 + int(2e-3 / max(_time(models["fp32"], x, 3), 1e-6))
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(rounds):
            for name, model in models.items():
                taken[name].append(_time(model, x, calls))
    return {name: statistics.median(values) for name, values in taken.items()}


def _time(model: Callable, x: Any, calls: int) -> float:
    begun = time.process_time()
    for _ in range(calls):
        model(x)
    return (time.process_time() - begun) / calls


def fallback_rows(found: Fallback) -> list[tuple[str, dict[str, float]]]:
    return [(f"width {width}, batch {batch}, {pair['fp32'] / pair['int8']:.1f}×", pair) for (width, batch), pair in found.seconds.items()]


# -- the panel -----------------------------------------------------------------------------------------------------------------

SLIM = "python:3.11-slim"
"""What stands for an image without CUDA."""

NO_IMAGE = f"none ({SLIM})"


@cache
def _neighbours(gpu: str, image: str) -> dict[tuple[str, str], tuple[str, str]]:
    found = compatibility.verdicts(lineup().values(), [gpu], DRIVERS, image)
    return {(one.build.name, _branch(one.driver)): (one.verdict, "start" if one.short == "container refused" else one.short) for one in found}


def _branch(driver: str) -> str:
    return driver.partition(".")[0]


def decide(build: str, gpu: str, driver: str, image: str) -> charts.PathRecord:
    """One combination with its way through the rules, among every build and driver on the same GPU."""
    base = "" if image == NO_IMAGE else image
    found = will_it_run(lineup()[build], gpu, driver, base)
    reached = {rule.name: rule.passed for rule in found.rules}
    rules = {name: reached.get(name) for name in compatibility.NAMES}
    lines = [f"{rule.name}: {rule.why}." for rule in found.rules[-2:]]
    if found.error:
        lines += [found.message, f"Mend: {found.remedy}."]
    elif found.verdict == "JITs":
        lines.append("The first use of each kernel compiles it: a slow start, kept in the driver's cache.")
    words = f"{build} on {gpu}, driver {driver}{f', in {base}' if base else ''}: {found.verdict}."
    return charts.PathRecord(rules, _neighbours(gpu, base), (build, _branch(driver)), words, lines)


def panel() -> Panel:
    """Build, GPU, driver and base image: the verdict, the rules on the way to it, and where it flips."""
    from ipywidgets import Dropdown, SelectionSlider

    controls = {
        "build": Dropdown(options=tuple(lineup()), value="torch 2.1.0+cu121", description="Build", tooltip="a binary, its CUDA runtime and its GPU code"),
        "gpu": Dropdown(options=GPUS, value="A100", description="GPU", tooltip="its compute capability decides which code runs"),
        "driver": SelectionSlider(options=DRIVERS, value="520.61.05", description="Driver", tooltip="the driver of the host"),
        "image": Dropdown(options=(NO_IMAGE, *compatibility.images()), value=NO_IMAGE, description="Base image", tooltip="what FROM names in the Dockerfile"),
    }
    below = "driver branch; a number is the error's, start: the container is refused"
    chart = charts.RulePath(compatibility.NAMES, list(lineup()), [_branch(driver) for driver in DRIVERS], below)
    return Panel("Will it run?", controls, decide, chart)


# -- exercises -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a user pasted, and the one thing that the user may change: ``build``, ``driver`` or ``image``."""

    text: str
    case: Verdict
    may_change: str


@cache
def reports(seed: int = 8, count: int = 5) -> tuple[Report, ...]:
    """Reports with different causes, drawn from every combination that fails, each with a change that mends it."""
    draw = random.Random(seed)
    cards = [name for name, gpu in compatibility.gpus().items() if gpu.kind != "jetson"]
    names = [name for name in compatibility.builds() if name.startswith("torch")]
    by_cause: dict[str, list[Verdict]] = {}
    for image in ("", *compatibility.images()):
        for one in compatibility.verdicts(names, cards, DRIVERS, image):
            if one.error and (one.error.name == "no device" or not compatibility.stranger(one.driver, one.gpu.capability)):  # nvidia-smi lists the GPU
                by_cause.setdefault(one.error.name, []).append(one)
    chosen = []
    others = draw.sample(sorted(by_cause.keys() - {"no kernel image"}), k=len(by_cause) - 1)
    for cause in ("no kernel image", *others):
        possible = [(one, field) for one in draw.sample(by_cause[cause], k=min(40, len(by_cause[cause]))) for field in FIELDS if solutions(one, field)]
        if possible and len(chosen) < count:
            one, field = draw.choice(possible)
            chosen.append(Report(_pasted(one, field), one, field))
    return tuple(draw.sample(chosen, k=len(chosen)))


FIELDS = ("build", "driver", "image")


def solutions(case: Verdict, field: str) -> list[str]:
    """The values of one field that make a case run, everything else as it is."""
    values = {"build": list(compatibility.builds()), "driver": compatibility.drivers(), "image": ["", *compatibility.images()]}[field]
    return [value for value in values if value != _value(case, field) and will_it_run(**_with(case, field, value))]


def _value(case: Verdict, field: str) -> str:
    return {"build": case.build.name, "driver": case.driver, "image": case.image}[field]


def _with(case: Verdict, field: str, value: str) -> dict[str, str]:
    if field == "image" and value in (SLIM, NO_IMAGE, "none"):
        value = ""
    if field == "build" and isinstance(value, str):
        value = value.replace("==", " ")  # as pip freeze has it
    return {"build": case.build.name, "gpu": case.gpu.name, "driver": case.driver, "image": case.image} | {field: value}


def _pasted(case: Verdict, field: str) -> str:
    """The report as a user would write it: facts, the last line of the traceback, and what cannot be changed."""
    wish = {"build": "install another build", "driver": "install another driver", "image": "change FROM"}[field]
    lines = [
        f"GPU: {case.gpu.name}, compute capability {case.gpu.capability // 10}.{case.gpu.capability % 10}",
        f"nvidia-smi: Driver Version {case.driver}, CUDA Version {compatibility.driver_cuda(case.driver)}",
        f"pip freeze: {case.build.name.replace(' ', '==')}",
        f"Dockerfile: FROM {case.image or SLIM}",
        f"> {case.message}",
        f"We may {wish}, nothing else.",
    ]
    return "\n".join(lines)


def show_reports() -> str:
    return "\n\n".join(f"Report {number}\n{report.text}" for number, report in enumerate(reports(), 1))


def _diagnosed(answer: Any) -> str | None:
    given = list(answer)
    if len(given) != len(reports()) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in given):
        return f"Give {len(reports())} pairs: a cause of {', '.join(compatibility.REMEDIES)}, and the new value of what may be changed."
    for number, (report, (cause, value)) in enumerate(zip(reports(), given, strict=True), 1):
        if cause != report.case.error.name:
            return f"Report {number}: the cause is not {cause!r}; follow the rules in their order."
        after = will_it_run(**_with(report.case, report.may_change, value))
        if not after:
            return f"Report {number}: with {report.may_change} {value!r} it fails with {after.error.name}: {after.rules[-1].why}."
    return None


def _covers(answer: Callable[[str, int], bool]) -> str | None:
    known = sorted(row["number"] for row in compatibility.tables()["capability"])
    codes = [f"sm_{number}" for number in known]
    codes += ["sm_90a", "sm_100a", "sm_100f", "sm_120f", "compute_70", "compute_90", "compute_90a", "compute_100f"]
    for code in codes:
        for gpu in known:
            expected_, found = compatibility.runs_on(code, gpu), answer(code, gpu)
            if bool(found) != expected_:
                return f"{code} on a GPU of {gpu // 10}.{gpu % 10}: it {'runs' if expected_ else 'does not run'}, your function says {found!r}."
    return None


def _few_targets(answer: Iterable[str]) -> str | None:
    targets = tuple(answer)
    wheel = Build("your wheel", "13.0", targets)
    for name in ("T4", "A100", "RTX 3090", "L4", "H100", "B200", "RTX 5090"):
        found = will_it_run(wheel, name, "580.65.06")
        if found.verdict != "runs":
            return f"{name} (sm_{found.gpu.capability}): {found.message or 'it would be compiled at first use, which was not allowed'}."
    if will_it_run(wheel, Gpu("a GPU to come", 130), "610.43.02").verdict == FAILS:
        return "A GPU to come, sm_130, finds nothing that its driver can compile."
    return None if len(targets) <= 6 else f"{len(targets)} targets; six are enough."


exercise("08.ex1", _diagnosed)
exercise("08.ex2", _covers)
exercise("08.ex3", _few_targets)

if __name__ == "__main__":
    sys.exit(record.main({"listings": listings.record_listings, "failures": record_failures, "gpu": record_gpu}))
