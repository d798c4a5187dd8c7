"""Will this build run on this GPU under this driver? The rules in their order, the error that one sees, and what mends it.

The facts are rows of ``compatibility.toml``, each with its source. The rules are NVIDIA's: a cubin runs on its architecture and on later minors of the
same major version; PTX is compiled by the driver for any later architecture, if the driver knows its ISA; a driver runs every runtime of its own CUDA
major version and of older ones. Pure functions, no torch, microseconds a call.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mllandscape import BadInput

RUNS, JITS, FAILS = "runs", "JITs", "fails"

OUTCOMES = {"runs": "runs", "JITs": "compiled by the driver first", "209": "error 209: no kernel image"}
"""What ``Verdict.short`` says of a kernel alone, in words for those who have not met them."""
KINDS = ("data centre", "geforce", "jetson")


@dataclass(frozen=True)
class Build:
    """A binary with GPU code. ``cuda`` is the version of its CUDA runtime, "" for a CPU build; ``code`` such as ``sm_80`` for a cubin, ``compute_90`` for PTX.

    ``isa`` is the ISA of its PTX, that of ``cuda`` if left out. A build with its ``own_runtime`` brings libcudart, as torch's wheels do; another one
    finds it on the machine or in the image.
    """

    name: str
    cuda: str
    code: tuple[str, ...]
    isa: str = ""
    own_runtime: bool = True
    source: str = ""


@dataclass(frozen=True)
class Gpu:
    """``capability`` is ten times the compute capability: 86 for 8.6. ``kind`` is ``data centre``, ``geforce`` or ``jetson``."""

    name: str
    capability: int
    kind: str = "data centre"
    source: str = ""


@dataclass(frozen=True)
class Image:
    """A base image: the CUDA version of its toolkit and its cuda-compat libraries, the older driver branches that its start check allows, by kind of GPU."""

    name: str
    cuda: str
    branches: dict[str, tuple[int, ...]]
    installs: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Error:
    """``code`` is the CUDA runtime's number, 0 where no CUDA call was reached; ``text`` the runtime's words, ``seen`` the line that a user sees."""

    name: str
    code: int
    symbol: str
    text: str
    seen: str
    source: str


@dataclass(frozen=True)
class Rule:
    """One step of the way: whether it was passed, and the numbers that decided."""

    name: str
    passed: bool
    why: str


@dataclass(frozen=True)
class Verdict:
    """``verdict`` is ``runs``, ``JITs`` (compiled at first use) or ``fails``. ``rules`` are those that were reached, in order."""

    build: Build
    gpu: Gpu
    driver: str
    image: str
    verdict: str
    rules: tuple[Rule, ...]
    error: Error | None = None
    message: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return self.verdict != FAILS

    @property
    def short(self) -> str:
        """``runs``, ``JITs``, or the error's number or, without one, its name."""
        return self.verdict if not self.error else str(self.error.code or self.error.name)

    def __str__(self) -> str:
        where = f"{self.build.name} on {self.gpu.name} (sm_{self.gpu.capability}), {f'driver {self.driver}' if self.driver else 'no driver'}"
        lines = [f"{where}{f', in {self.image}' if self.image else ''}: {self.verdict}."]
        lines += [f"  {'✓' if rule.passed else '✗'} {rule.name}: {rule.why}" for rule in self.rules]
        if self.error:
            lines += [f"  {self.message}", f"  mend: {self.remedy}"]
        return "\n".join(lines)


# -- tables ------------------------------------------------------------------------------------------------------------------


@cache
def tables() -> dict[str, list[dict]]:
    """compatibility.toml as it is."""
    return tomllib.loads(resources.files("mllandscape.cuda").joinpath("compatibility.toml").read_text(encoding="utf-8"))


@cache
def builds() -> dict[str, Build]:
    return {row["name"]: Build(**row | {"code": tuple(row["code"])}) for row in tables()["build"]}


@cache
def gpus() -> dict[str, Gpu]:
    return {row["name"]: Gpu(**row) for row in tables()["gpu"]}


@cache
def images() -> dict[str, Image]:
    return {
        row["name"]: Image(**row | {"branches": {kind: tuple(some) for kind, some in row["branches"].items()}, "installs": tuple(row["installs"])})
        for row in tables()["image"]
    }


@cache
def errors() -> dict[str, Error]:
    return {row["name"]: Error(**row) for row in tables()["error"]}


def drivers() -> list[str]:
    """The first driver of each branch, oldest first."""
    return [row["version"] for row in tables()["driver"]]


def _numbers(version: str, what: str) -> tuple[int, ...]:
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", version):
        raise BadInput(f"{what} {version!r}: a version such as 12.1 or 535.104.05 is needed.")
    return tuple(map(int, version.split(".")))


def _pick(kind: str, known: dict, given: object, type_: type) -> object:
    if isinstance(given, type_):
        return given
    if isinstance(given, str) and given in known:
        return known[given]
    raise BadInput(f"no {kind} {given!r} is known here: {', '.join(known)}, or a {type_.__name__} of your own.".replace(" a Image", " an Image"))


@cache
def driver_cuda(driver: str) -> str:
    """The CUDA version that a driver reports, by its branch: "" for one older than every branch of the table."""
    branch = _numbers(driver, "driver")[0]
    return next((row["cuda"] for row in reversed(tables()["driver"]) if int(row["version"].partition(".")[0]) <= branch), "")


@cache
def isa_of(cuda: str) -> str:
    """The newest PTX ISA that this CUDA version's compilers write and its drivers read; of the next older version in the table, if it is not there."""
    number = _numbers(cuda, "CUDA version")[:2]
    known = [row["isa"] for row in tables()["ptx"] if _numbers(row["cuda"], "") <= number]
    if not known:
        raise BadInput(f"CUDA version {cuda!r}: the table of PTX ISAs begins with {tables()['ptx'][0]['cuda']}.")
    return known[-1]


@cache
def _capability(number: int) -> dict:
    return next((row for row in tables()["capability"] if row["number"] == number), {})


# -- one piece of code on one GPU ----------------------------------------------------------------------------------------------


@cache
def target(code: str) -> tuple[str, int, str]:
    """``("sm", 90, "a")`` of ``sm_90a``."""
    match = re.fullmatch(r"(sm|compute)_(\d{2,3})([af]?)", code) if isinstance(code, str) else None
    if not match:
        raise BadInput(f"GPU code {code!r}: sm_80, sm_90a or sm_100f for a cubin, compute_80 for PTX.")
    return match[1], int(match[2]), match[3]


@cache
def runs_on(code: str, capability: int) -> bool:
    """Whether this code can run on a GPU of this compute capability: a cubin as it is, PTX by being compiled there.

    Same major version and no later minor for a cubin, no later architecture for PTX. Integrated chips (Tegra) run their own cubins only, and theirs run
    nowhere else; sm_101 was renamed sm_110. A suffix ``a`` ties code to one architecture, ``f`` to the major version, PTX too.
    """
    kind, number, suffix = target(code)
    same_major = number // 10 == capability // 10
    if suffix == "a":
        return number == capability
    if kind == "compute":
        return number <= capability and (not suffix or same_major)
    if number == 101:
        return capability in (101, 110)
    if _capability(number).get("integrated") or _capability(capability).get("integrated"):
        return number == capability
    return same_major and number <= capability


def stranger(driver: str, capability: int) -> str:
    """Why a driver does not know a GPU, "" if it does. It is the host's: what an image brings does not reach the kernel module."""
    known, branch = _capability(capability), _numbers(driver, "driver")[0]
    if known.get("last", branch) < branch:
        return f"branch {known['last']} was the last that supports sm_{capability}"
    if known and _older(driver_cuda(driver), known["first"]):
        return f"sm_{capability} came with CUDA {known['first']}, the host's driver is of {driver_cuda(driver)}"
    return ""


def cubins_for(build: Build, capability: int) -> list[str]:
    return [code for code in build.code if target(code)[0] == "sm" and runs_on(code, capability)]


def ptx_for(build: Build, capability: int) -> list[str]:
    return [code for code in build.code if target(code)[0] == "compute" and runs_on(code, capability)]


# -- the decision --------------------------------------------------------------------------------------------------------------


def will_it_run(build: Build | str, gpu: Gpu | str, driver: str, image: Image | str = "") -> Verdict:
    """Follow the rules until one fails, or to the end.

    ``build`` and ``gpu`` are of the tables by name, or your own. ``driver`` is a version such as ``535.104.05`` or a branch, "" where there is none.
    ``image`` is the container's base image, "" for a machine without a CUDA toolkit or an image without CUDA, such as python:3.11-slim. Raises BadInput.
    """
    made, card = _pick("build", builds(), build, Build), _pick("GPU", gpus(), gpu, Gpu)
    base = _pick("image", images(), image, Image) if image else None
    if card.kind not in KINDS or not 20 <= card.capability <= 999:
        raise BadInput(f"GPU {card.name!r} of kind {card.kind!r} and capability {card.capability!r}: {', '.join(KINDS)}; 86 for compute capability 8.6.")
    if base and card.kind == "jetson":
        raise BadInput(f"{base.name} is an x86-64 image, a Jetson is an Arm computer: choose no image.")
    rules: list[Rule] = []
    for rule, error in _follow(made, card, driver, base):
        rules.append(rule)
        if error:
            return _failed(made, card, driver, base, tuple(rules), errors()[error])
    jit = rules[-1].name == NAMES[-1]
    return Verdict(made, card, driver, base.name if base else "", JITS if jit else RUNS, tuple(rules))


def _failed(build: Build, gpu: Gpu, driver: str, image: Image | None, rules: tuple[Rule, ...], error: Error) -> Verdict:
    """The verdict with the line that a user sees and what mends it, their numbers filled in."""
    reports, row = driver_cuda(driver) if driver else "", _runtime(build) if build.cuda else {}
    major, minor = _numbers(reports, "")[:2] if reports else (0, 0)
    numbers = {
        "soname": row.get("soname"),
        "minimum": row.get("driver"),
        "image": image.cuda if image else "",
        "reports": reports,
        "found": f"{major * 1000 + minor * 10}" if reports else "unknown",
        "sm": f"sm_{gpu.capability}",
    }
    message, remedy = (text.format_map(numbers) for text in (error.seen, REMEDIES[error.name]))
    return Verdict(build, gpu, driver, image.name if image else "", FAILS, rules, error, message, remedy)


NAMES = (
    "container starts", "CUDA in the build", "runtime library", "driver for the runtime", "driver for the GPU", "cubin for the GPU", "PTX for the GPU",
    "PTX ISA",
)  # fmt: skip
"""The rules, in the order in which a program meets them."""


def _follow(build: Build, gpu: Gpu, driver: str, image: Image | None) -> Iterator[tuple[Rule, str]]:
    """Each rule that is reached, and the error that it ends in, "" where the way goes on. Only a missing cubin fails and goes on, to the PTX."""
    starts, has_cuda, library, runtime, device, cubin, ptx, isa = NAMES
    reports = driver_cuda(driver) if driver else ""
    branch = _numbers(driver, "driver")[0] if driver else 0
    compat = image if image and driver and _older(reports, image.cuda) else None  # whose newer libcuda.so takes the place of the host's
    if compat:
        allowed = branch in compat.branches.get(gpu.kind, ())
        why = f"driver {driver} is of CUDA {reports}, the image of {compat.cuda}; its check makes {'an' if allowed else 'no'} exception for branch {branch}"
        yield Rule(starts, allowed, why), "" if allowed else "container refused"
    elif image and driver:
        yield Rule(starts, True, f"driver {driver} is of CUDA {reports}, the image of {image.cuda}"), ""

    if not build.cuda:
        yield Rule(has_cuda, False, "the build has none"), "no CUDA in the build"
    yield Rule(has_cuda, True, f"CUDA {build.cuda}"), ""

    row = _runtime(build)
    if build.own_runtime:
        yield Rule(library, True, f"{row['soname']} comes with the build; the machine's and the image's are not looked at"), ""
    elif image and image.cuda.partition(".")[0] == str(row["major"]):
        yield Rule(library, True, f"{row['soname']} is in the image"), ""
    else:
        yield Rule(library, False, f"{row['soname']} is neither in the build nor in {image.name if image else 'the machine'}"), "library not found"

    needs = f"CUDA {row['major']}.x needs {row['driver']}"
    if not driver:
        yield Rule(runtime, False, f"{needs}, there is no driver"), "no driver"
    if compat and int(compat.cuda.partition(".")[0]) >= row["major"]:
        yield Rule(runtime, True, f"the image's cuda-compat {compat.cuda} takes its place"), ""
    else:
        enough = _numbers(driver, "driver") >= _numbers(row["driver"], "")[: driver.count(".") + 1]
        yield Rule(runtime, enough, f"{needs}, the driver is {driver}"), "" if enough else "driver too old"

    if unknown := stranger(driver, gpu.capability):
        yield Rule(device, False, unknown), "no device"
    if compat and gpu.kind == "geforce":
        yield Rule(device, False, f"the image's cuda-compat {compat.cuda} is for data-centre GPUs"), "compat libraries refused"
    yield Rule(device, True, f"it knows sm_{gpu.capability}"), ""

    if fitting := cubins_for(build, gpu.capability):
        yield Rule(cubin, True, f"{fitting[-1]} runs on sm_{gpu.capability}"), ""
        return
    yield Rule(cubin, False, f"none of {', '.join(code for code in build.code if code.startswith('sm_')) or 'no cubin'} runs on sm_{gpu.capability}"), ""
    if not (fitting := ptx_for(build, gpu.capability)):
        yield Rule(ptx, False, f"none for sm_{gpu.capability} or older"), "no kernel image"
    yield Rule(ptx, True, f"{fitting[-1]} can be compiled for sm_{gpu.capability}"), ""
    written, reads = build.isa or isa_of(build.cuda), isa_of(compat.cuda if compat else reports)
    yield Rule(isa, not _older(reads, written), f"written in ISA {written}, the driver reads up to {reads}"), "PTX too new" if _older(reads, written) else ""


def _runtime(build: Build) -> dict:
    major = _numbers(build.cuda, "CUDA version")[0]
    known = {row["major"]: row for row in tables()["runtime"]}
    if major not in known:
        raise BadInput(f"build {build.name!r} of CUDA {build.cuda}: the tables know the major versions {', '.join(map(str, known))}.")
    return known[major]


def _older(one: str, other: str) -> bool:
    return not one or _numbers(one, "version") < _numbers(other, "version")


REMEDIES = {
    "no CUDA in the build": "install a CUDA build of the same version; no driver and no image adds CUDA to this one",
    "container refused": "update the host's driver, or take an image that asks for less; torch's wheels need no CUDA image",
    "library not found": "install {soname} (its wheel is enough), or the build for the CUDA major version that is there",
    "no driver": "install the NVIDIA driver on the host; in a container, start it with the NVIDIA runtime",
    "driver too old": "update the host's driver to {minimum} or newer, or install a build of an older CUDA; on data-centre GPUs also cuda-compat",
    "compat libraries refused": "take the compat libraries away (an image without CUDA), or update the host's driver to the image's CUDA {image}",
    "no device": "install a driver branch that supports {sm}",
    "no kernel image": "install a build whose list has a cubin for {sm}, or PTX for it or older; driver, toolkit and image change nothing",
    "PTX too new": "ship a cubin for {sm}, or compile the PTX with the CUDA {reports} of the driver or older, or update the driver",
}
"""What mends each error."""


def verdicts(some_builds: Iterable[Build | str], some_gpus: Iterable[Gpu | str], some_drivers: Iterable[str], image: Image | str = "") -> list[Verdict]:
    """Every combination, in the order given."""
    some_gpus, some_drivers = list(some_gpus), list(some_drivers)
    return [will_it_run(build, gpu, driver, image) for build in some_builds for gpu in some_gpus for driver in some_drivers]
