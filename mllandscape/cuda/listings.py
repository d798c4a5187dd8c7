"""cuobjdump as the witness of our parser: what it lists of every binary here, run where it is installed and recorded where it is not."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mllandscape import BadInput, record
from mllandscape.cuda import fatbin, native
from mllandscape.cuda.kernels import kernels
from mllandscape.machine import install_extra

RECORDING = "cuda_mismatch_listings"


def library_paths() -> dict[str, Path]:
    """{CUDA version: path} of the libraries with CUDA code that the installed bitsandbytes has; none on macOS and Windows."""
    spec = find_spec("bitsandbytes")
    found = sorted(Path(spec.origin).parent.glob("libbitsandbytes_cuda*.so")) if spec and spec.origin else []
    versions = {path: re.search(r"cuda(\d\d)(\d+)", path.name) for path in found}
    return {f"{match[1]}.{match[2]}": path for path, match in versions.items() if match}


def kept(name: str) -> record.Recording:
    recording = record.load(name)
    if recording is None:
        raise BadInput(f"there is no recording {name}: restore mllandscape/recordings, or install the extra: {install_extra('cuda')}")
    return recording


def codes(row: Mapping[str, Any]) -> list[fatbin.Code]:
    """A recorded listing as code; sizes are not listed."""
    linked = {tuple(entry[:3]): entry[3] for entry in row["linked"]}
    codes = [fatbin.Code(*key, 0) for key in linked]
    return codes + [fatbin.Code(*entry[:3], 0, relocatable=True) for entry in row["all"] if entry[3] > linked.get(tuple(entry[:3]), 0)]


def agreement() -> tuple[int, int, str]:
    """(files on which the parser and cuobjdump agree, files compared, whose listing it was): the package's kernels and bitsandbytes' libraries.

    cuobjdump's own listing here where it is installed, else the recorded one, of the libraries whose SHA-256 digest is that of the recording.
    """
    tool = next(iter(native.tools("cuobjdump")), None)
    recording = kept(RECORDING)
    rows = {row["sha256"]: row for row in recording.data["libraries"] + recording.data["kernels"]}
    if tool is not None:
        rows |= {row["sha256"]: row for path in _binaries() if (row := _listed([tool], path))["all"]}
    compared = [(path, rows[digest]) for path in _binaries() if (digest := _sha256(path)) in rows]
    agree = sum(disagreement(path, row) == "" for path, row in compared)
    return agree, len(compared), f"cuobjdump {native.version(tool)}, run here" if tool is not None else f"cuobjdump, {recording}"


def _binaries() -> list[Path]:
    return [*library_paths().values(), *(kernel.path for kernel in kernels() if kernel.path.suffix != ".ptx")]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def disagreement(path: Path, row: Mapping[str, Any]) -> str:
    """What the parser reads otherwise than cuobjdump lists, "" for nothing. A bare cubin is listed by its architecture alone."""
    codes = fatbin.read(path)
    if path.suffix == ".cubin":
        return "" if [code.arch for code in codes] == [entry[1] for entry in row["all"]] else f"{path.name}: {codes[0].arch} is {row['all'][0][1]}"
    for name in ("linked", "all"):
        counted: dict[tuple[str, str, str], int] = {}
        for code in codes:
            if name == "all" or not code.relocatable:
                key = (code.kind, code.arch, code.version)
                counted[key] = counted.get(key, 0) + 1
        if (found := sorted([*key, count] for key, count in counted.items())) != row[name]:
            return f"{path.name}, {name}: {found} is {row[name]}"
    return ""


def _listed(tools: Iterable[Path], path: Path) -> dict[str, Any]:
    """What the first of the tools that can read the file lists, and what the others complained of."""
    row: dict[str, Any] = {"file": path.name, "sha256": _sha256(path), "tool": "", "refused": {}, "linked": [], "all": []}
    for tool in tools:
        version = native.version(tool)
        try:
            if path.suffix == ".cubin":
                entry = ["cubin", native.list_cubin(tool, path), "", 1]
                return row | {"tool": version, "linked": [entry], "all": [entry]}
            return row | {"tool": version} | native.listing(tool, path)
        except BadInput as error:
            row["refused"][version] = str(error)
    return row


def record_listings() -> None:
    """List every binary by cuobjdump: ``python -m mllandscape.lessons.cuda_mismatch listings``, with every cuobjdump that is installed, newest first.

    Raises BadInput where there is no cuobjdump, no CUDA library to list, or a file that none of the tools can read.
    """
    if not native.tools("cuobjdump") or not library_paths():
        raise BadInput(f"nothing to record: cuobjdump or bitsandbytes' CUDA libraries are missing; on Linux: {install_extra('cuda')}")
    tools = sorted(native.tools("cuobjdump"), key=lambda tool: tuple(map(int, native.version(tool).split("."))), reverse=True)
    libraries = [{"cuda": cuda} | _listed(tools, path) for cuda, path in library_paths().items()]
    listed = [_listed(tools, path) for path in _binaries() if path.suffix != ".so"]
    if unread := [row["file"] for row in libraries + listed if not row["all"]]:
        raise BadInput(f"nothing to record: no cuobjdump here can list {', '.join(unread)}; a newer one comes with {install_extra('cuda')}")
    data = {"bitsandbytes": metadata.version("bitsandbytes"), "libraries": libraries, "kernels": listed}
    record.save(RECORDING, data, record.here("python -m mllandscape.lessons.cuda_mismatch listings"))
