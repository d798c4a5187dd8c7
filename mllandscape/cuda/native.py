"""What NVIDIA's own libraries and tools say on this machine: libcudart, NVRTC, ptxas, cuobjdump, and on a GPU libcuda. All through ctypes and child processes.

None of them is needed: each is looked for among the installed packages (the extra ``cuda``, the wheels that a CUDA build of torch brings, Triton) and on
the PATH, and what is not there is an empty answer. What loads a library for good or may crash belongs into a child process; the lesson calls it there.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mllandscape import BadInput

SECONDS = 60


def _installed(*patterns: str) -> Iterator[Path]:
    """Files of installed packages, by patterns below a site-packages folder."""
    for folder in dict.fromkeys(sys.path):
        for pattern in patterns:
            if folder and os.path.isdir(folder):
                yield from sorted(Path(folder).glob(pattern))


def libraries(name: str) -> list[Path]:
    """Shared libraries such as ``libcudart.so.*`` in NVIDIA's wheels."""
    return [path for path in _installed(f"nvidia/*/lib/{name}") if ".alt." not in path.name]


def tools(name: str) -> list[Path]:
    """Programs such as ``ptxas``: in NVIDIA's wheels, in Triton's, on the PATH."""
    found = [*_installed(f"nvidia/*/bin/{name}", f"triton/backends/nvidia/bin/{name}"), *map(Path, filter(None, [shutil.which(name)]))]
    return [path for path in found if os.access(path, os.X_OK)]


def run(*command: str | Path) -> subprocess.CompletedProcess:
    """A tool, with its output as text; one that hangs is ended after a minute."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL)


def version(tool: Path) -> str:
    """``13.5`` from what a CUDA tool says of itself, "" if it says nothing of the kind."""
    match = re.search(r"release (\d+\.\d+)", run(tool, "--version").stdout)
    return match[1] if match else ""


# -- libcudart ---------------------------------------------------------------------------------------------------------------


def ask_cudart(codes: list[int]) -> list[dict]:
    """Every libcudart that is installed, side by side in this process: its version, what cudaGetDeviceCount returns, and its words for some codes."""
    answers = []
    for path in libraries("libcudart.so.*"):
        runtime, number = ctypes.CDLL(str(path)), ctypes.c_int()
        for name in ("cudaGetErrorString", "cudaGetErrorName"):
            getattr(runtime, name).restype = ctypes.c_char_p
        runtime.cudaRuntimeGetVersion(ctypes.byref(number))  # stays 0 where CUDA 11 finds no driver
        major = int(path.name.removeprefix("libcudart.so.").partition(".")[0])
        answers.append(
            {
                "soname": path.name,
                "version": f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else f"{major}.x",
                "device_count": runtime.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())),
                "texts": {str(code): [runtime.cudaGetErrorName(code).decode(), runtime.cudaGetErrorString(code).decode()] for code in codes},
            }
        )
    return sorted(answers, key=lambda answer: int(answer["version"].partition(".")[0]))


def load_library(path: str) -> str:
    """The loader's words when this library is opened, "" if it could be."""
    try:
        ctypes.CDLL(path)
    except OSError as error:
        return str(error)
    return ""


# -- compilers ---------------------------------------------------------------------------------------------------------------


def compilers() -> dict[str, ctypes.CDLL]:
    """{CUDA version: NVRTC} of every one that is installed, oldest first."""
    found = {}
    for path in libraries("libnvrtc.so.*"):
        library, major, minor = ctypes.CDLL(str(path)), ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        found[major.value, minor.value] = library
    return {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)}


def compile_source(library: ctypes.CDLL, source: str, name: str, target: str) -> bytes:
    """The cubin for ``sm_80`` or the PTX for ``compute_80``. Raises BadInput with the first line of the compiler's log."""
    program = ctypes.c_void_p()
    kind = "CUBIN" if target.startswith("sm_") else "PTX"
    option = (ctypes.c_char_p * 1)(f"--gpu-architecture={target}".encode())
    if library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None):
        raise BadInput(f"NVRTC did not take {name}.")
    try:
        if library.nvrtcCompileProgram(program, 1, option):
            raise BadInput(_of_program(library, program, "ProgramLog").decode(errors="replace").strip("\0\n").partition("\n")[0])
        made = _of_program(library, program, kind)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return made if kind == "CUBIN" else made.rstrip(b"\0")  # PTX is handed over as a C string


def _of_program(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def compile_ptx(tool: Path, ptx: Path, target: str) -> str:
    """ptxas, the compiler that is also in the driver: "" if it makes a cubin of this PTX, else the first line that it complains in."""
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        done = run(tool, f"--gpu-name={target}", f"--output-file={Path(folder) / 'out.cubin'}", ptx)
    said = next((line for line in (done.stderr + done.stdout).splitlines() if line.strip()), f"exit status {done.returncode}")
    return re.sub(r"^.*?(?=(?:error|fatal)\b)", "", said).strip() if done.returncode else ""  # without ptxas' name and the file's path


# -- cuobjdump ---------------------------------------------------------------------------------------------------------------


def listing(tool: Path, path: Path) -> dict[str, list[list]]:
    """cuobjdump's own listing of a file: [kind, arch, version, count] of what is linked, and with ``all`` of what is relocatable too.

    Raises BadInput with the tool's complaint.
    """
    return {name: _counted(_dump(tool, *options, path)) for name, options in (("linked", ()), ("all", ("-all",)))}


def list_cubin(tool: Path, path: Path) -> str:
    """The architecture that cuobjdump names a bare cubin by."""
    match = re.search(r"\.(sm_\w+)\.cubin", _dump(tool, "-lelf", path))
    if not match:
        raise BadInput(f"cuobjdump finds no cubin in {path.name}.")
    return match[1]


def _dump(tool: Path, *words: str | Path) -> str:
    done = run(tool, *words)
    complaint = re.search(r"cuobjdump fatal\s*: (.*?)(?: in '.*)?$", done.stderr + done.stdout, re.MULTILINE)
    if complaint or done.returncode:
        raise BadInput(complaint[1] if complaint else f"cuobjdump ended with {done.returncode}")
    return done.stdout


def _counted(text: str) -> list[list]:
    found = re.findall(r"^Fatbin (elf|ptx) code:\n=+\narch = (\w+)\ncode version = \[(\d+),(\d+)\]", text, re.MULTILINE)
    counted = Counter(
        ("ptx", arch.replace("sm_", "compute_"), f"{major}.{minor}") if kind == "ptx" else ("cubin", arch, minor) for kind, arch, major, minor in found
    )
    return sorted([*key, count] for key, count in counted.items())


# -- a GPU -------------------------------------------------------------------------------------------------------------------

NEWER = "axpy.newer.ptx"
"""The name under which a PTX of an ISA that no driver knows is tried: the newest of the kernels, its .version set to 99.9."""


def load_on_gpu(files: dict[str, str]) -> dict:
    """Load each file ({name: path}) with the driver of the first GPU, run its kernel where that works, and say what the driver said.

    {"gpu", "capability", "cuda", "loads": [{"file", "code", "error", "text", "ran", "seconds"}]}; ``code`` 0 is success, ``ran`` whether axpy gave the right
    numbers, ``seconds`` what loading took, compiling included (the driver's cache is off). Raises BadInput where there is no driver or no GPU.
    """
    import time

    os.environ["CUDA_CACHE_DISABLE"] = "1"
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BadInput(f"no NVIDIA driver here ({error}); on a machine with one this loads every kernel for real.") from None
    device, context, number = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    _driver(cuda, cuda.cuInit(0), "cuInit")
    _driver(cuda, cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    _driver(cuda, cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    _driver(cuda, cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    _driver(cuda, cuda.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    name = ctypes.create_string_buffer(100)
    _driver(cuda, cuda.cuDeviceGetName(name, 100, device), "cuDeviceGetName")
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        part = ctypes.c_int()
        _driver(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device), "cuDeviceGetAttribute")
        capability.append(part.value)
    loads = []
    for file, path in files.items():
        image = Path(path).read_bytes() + b"\0"  # PTX is read as a C string; a cubin says its own length
        module = ctypes.c_void_p()
        begun = time.perf_counter()
        code = cuda.cuModuleLoadData(ctypes.byref(module), image)
        taken = time.perf_counter() - begun
        loads.append({"file": file, "code": code, "error": _word(cuda, "Name", code), "text": _word(cuda, "String", code), "seconds": taken})
        loads[-1]["ran"] = code == 0 and _run_axpy(cuda, module)
    cuda.cuDevicePrimaryCtxRelease_v2(device)
    return {
        "gpu": name.value.decode(),
        "capability": 10 * capability[0] + capability[1],
        "cuda": f"{number.value // 1000}.{number.value % 1000 // 10}",
        "loads": loads,
    }


def _word(cuda: ctypes.CDLL, which: str, code: int) -> str:
    """cuGetErrorName or cuGetErrorString."""
    text = ctypes.c_char_p()
    getattr(cuda, f"cuGetError{which}")(code, ctypes.byref(text))
    return (text.value or b"").decode()


def _driver(cuda: ctypes.CDLL, code: int, call: str) -> None:
    if code:
        raise BadInput(f"{call} failed with {code}, {_word(cuda, 'String', code)}: a GPU that this process may use is needed.")


def _run_axpy(cuda: ctypes.CDLL, module: ctypes.c_void_p) -> bool:
    """y = 2x + y for 256 floats, checked on the CPU."""
    count = 256
    x, y = (ctypes.c_float * count)(*range(count)), (ctypes.c_float * count)(*[1.0] * count)
    function, size = ctypes.c_void_p(), ctypes.c_size_t(ctypes.sizeof(x))
    on_gpu = [ctypes.c_uint64(), ctypes.c_uint64()]
    _driver(cuda, cuda.cuModuleGetFunction(ctypes.byref(function), module, b"axpy"), "cuModuleGetFunction")
    for pointer, values in zip(on_gpu, (x, y), strict=True):
        _driver(cuda, cuda.cuMemAlloc_v2(ctypes.byref(pointer), size), "cuMemAlloc")
        _driver(cuda, cuda.cuMemcpyHtoD_v2(pointer, values, size), "cuMemcpyHtoD")
    arguments = ctypes.c_float(2.0), *on_gpu, ctypes.c_int(count)
    pointers = (ctypes.c_void_p * 4)(*[ctypes.cast(ctypes.byref(one), ctypes.c_void_p) for one in arguments])
    _driver(cuda, cuda.cuLaunchKernel(function, 1, 1, 1, count, 1, 1, 0, None, pointers, None), "cuLaunchKernel")
    _driver(cuda, cuda.cuCtxSynchronize(), "cuCtxSynchronize")
    _driver(cuda, cuda.cuMemcpyDtoH_v2(y, on_gpu[1], size), "cuMemcpyDtoH")
    for pointer in on_gpu:
        cuda.cuMemFree_v2(pointer)
    cuda.cuModuleUnload(module)
    return list(y) == [2.0 * i + 1.0 for i in range(count)]
