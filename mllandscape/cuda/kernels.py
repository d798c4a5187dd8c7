"""One small kernel, axpy, compiled by several CUDA versions for many architectures, as files of this package; and the command that makes them again.

``python -m mllandscape.cuda.kernels`` compiles ``axpy/axpy.cu`` anew with each NVRTC that ``axpy/manifest.toml`` names and compares SHA-256 digests;
``--write`` stores what it made. It needs the packages of NEEDS.
"""

import argparse
import hashlib
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mllandscape import BadInput
from mllandscape.cuda import fatbin, native

FOLDER = Path(__file__).parent / "axpy"
SOURCE = FOLDER / "axpy.cu"
MANIFEST = FOLDER / "manifest.toml"

TARGETS = {
    "11.8": ("sm_70", "compute_80"),
    "12.9": ("sm_75", "sm_80", "sm_86", "sm_87", "sm_90", "sm_90a", "sm_100", "sm_100a", "sm_120", "compute_80"),
    "13.5": ("sm_80", "sm_90", "sm_90a", "compute_80", "compute_120"),
}
"""What is compiled with which CUDA version's NVRTC."""

NEEDS = "nvidia-cuda-nvrtc-cu11==11.8.89, nvidia-cuda-nvrtc-cu12==12.9.86, nvidia-cuda-nvrtc==13.5.37, nvidia-cuda-nvcc==13.5.37"

FATBIN = ("sm_80", "sm_90a", "sm_100f", "compute_80")
"""What ``axpy.cuda13.5.fatbin`` holds, put together by NVIDIA's ``fatbinary`` of CUDA 13.5."""


@dataclass(frozen=True)
class Kernel:
    """One file: the CUDA version that compiled it, its target (``fatbin`` for the fat binary), its SHA-256 digest."""

    file: str
    toolkit: str
    target: str
    sha256: str

    @property
    def path(self) -> Path:
        return FOLDER / self.file


def digest(content: bytes) -> str:
    """SHA-256; for PTX and the source, which are text, whatever line ends a checkout has given it."""
    return hashlib.sha256(content if content[:4] in (b"\x7fELF", fatbin.MAGIC) else content.replace(b"\r\n", b"\n")).hexdigest()


def name_of(toolkit: str, target: str) -> str:
    suffix = {"sm": "cubin", "co": "ptx", "fa": "fatbin"}[target[:2]]
    return f"axpy.cuda{toolkit}.{suffix}" if suffix == "fatbin" else f"axpy.cuda{toolkit}.{target}.{suffix}"


@cache
def kernels() -> tuple[Kernel, ...]:
    """The files of the manifest, in its order. Raises BadInput for one that is missing or was changed, or of which the source was changed."""
    manifest = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    found = tuple(Kernel(**row) for row in manifest["kernel"])
    if not SOURCE.exists() or digest(SOURCE.read_bytes()) != manifest["source"]:
        raise BadInput(f"{SOURCE.name} is missing or was changed: restore it, or make its kernels again with python -m mllandscape.cuda.kernels --write.")
    for kernel in found:
        if not kernel.path.exists() or digest(kernel.path.read_bytes()) != kernel.sha256:
            raise BadInput(f"{kernel.file} is missing or was changed: restore it, or make it again with python -m mllandscape.cuda.kernels --write.")
    return found


def make(toolkit: str) -> dict[str, bytes]:
    """{file name: content} of what this CUDA version compiles. Raises BadInput where its NVRTC is not installed."""
    library = native.compilers().get(toolkit)
    if library is None:
        raise BadInput(f"no NVRTC of CUDA {toolkit} is installed: needed are {NEEDS}.")
    source = SOURCE.read_text(encoding="utf-8")
    made = {name_of(toolkit, target): native.compile_source(library, source, SOURCE.name, target) for target in TARGETS[toolkit]}
    if toolkit == "13.5":
        images = {target: native.compile_source(library, source, SOURCE.name, target) for target in FATBIN}
        made[name_of(toolkit, "fatbin")] = _bundle(toolkit, images)
    return made


def _bundle(toolkit: str, images: dict[str, bytes]) -> bytes:
    tool = next((path for path in native.tools("fatbinary") if native.version(path) == toolkit), None)
    if tool is None:
        raise BadInput(f"no fatbinary of CUDA {toolkit} is installed: it is in nvidia-cuda-nvcc.")
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        words = []
        for target, image in images.items():
            kind, _, number = target.partition("_")
            (Path(folder) / target).write_bytes(image)
            words.append(f"--image3=kind={'elf' if kind == 'sm' else 'ptx'},sm={number},file={Path(folder) / target}")
        done = native.run(tool, "-64", f"--create={Path(folder) / 'out'}", *words)
        if done.returncode:
            raise BadInput(f"fatbinary failed: {done.stderr.strip().partition(chr(10))[0]}")
        return (Path(folder) / "out").read_bytes()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mllandscape.cuda.kernels", description="Compile axpy again and compare with the files of the package.")
    parser.add_argument("--write", action="store_true", help="store what was made, and its digests")
    chosen = parser.parse_args(arguments)
    rows, different = [], 0
    try:
        for toolkit in TARGETS:
            for file, content in make(toolkit).items():
                target = "fatbin" if file.endswith("fatbin") else file.removeprefix(f"axpy.cuda{toolkit}.").rpartition(".")[0]
                rows.append(Kernel(file, toolkit, target, digest(content)))
                kept = rows[-1].path.exists() and rows[-1].path.read_bytes() == content
                different += not kept
                print(f"{file}: {len(content):,} bytes, {'unchanged' if kept else 'different'}")
                if chosen.write:
                    rows[-1].path.write_bytes(content)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.write:
        head = f'# Written by `python -m mllandscape.cuda.kernels --write`, which says what it needs.\n\nsource = "{digest(SOURCE.read_bytes())}"\n'
        MANIFEST.write_text(head + "".join(f"\n[[kernel]]\n{_toml(row)}" for row in rows), encoding="utf-8", newline="\n")
    return 1 if different and not chosen.write else 0


def _toml(row: Kernel) -> str:
    return "".join(f'{key} = "{value}"\n' for key, value in vars(row).items())


if __name__ == "__main__":
    sys.exit(main())
