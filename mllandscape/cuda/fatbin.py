"""What GPU code a file carries, read from its headers: an ELF library, a fat binary, a cubin or PTX text.

A library compiled by nvcc keeps its GPU code in two ELF sections. ``.nv_fatbin`` holds what is loaded. ``__nv_relfatbin`` is there only where device
code was linked across files: the unlinked pieces, which the driver compiles and links again for a GPU that it finds no linked cubin for (nvcc
documentation, "JIT Linking Support"). Each section is a row of fat binaries, each of these a row of entries, an entry one cubin or one PTX text.
Architecture, version and size stand in an entry's header, so nothing is decompressed or copied, and a library of a gigabyte takes milliseconds.

NVIDIA publishes no description of the format. The fields below were found by comparing files, and are held to ``cuobjdump``'s own listing by tests.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mllandscape import BadInput

LINKED, RELOCATABLE = b".nv_fatbin", b"__nv_relfatbin"
MAGIC = struct.pack("<I", 0xBA55ED50)
CUDA = 190  # EM_CUDA, the machine of a cubin
KINDS = {1: "ptx", 2: "cubin"}
ARCH_SPECIFIC, FAMILY_SPECIFIC, COMPRESSED = 0x10_0000, 0x20_0000, 0x2000 | 0x8000  # flags of an entry; LZ4 or Zstandard
MOST_ENTRIES, MOST_SECTIONS = 200_000, 1_000_000
"""More than the largest library known has; a file with more is refused, so that a hostile one can fill neither memory nor time."""

_PTX_HEAD = 64 * 1024
_COMPAT = _PADDING = 4096
_WRONG = "the file is cut off, or a header is wrong."
_TOO_MANY = f"more than {MOST_ENTRIES:,} pieces of GPU code: no real library has so many, its headers are not to be trusted."


@dataclass(frozen=True)
class Code:
    """One piece of GPU code.

    ``kind`` is ``cubin`` (machine code, SASS, for one architecture), ``ptx`` (text that the driver compiles) or ``kind N`` for one that this reader does not
    know. ``arch`` is ``sm_90a`` for a cubin, ``compute_90a`` for PTX. ``version`` is the PTX ISA, such as ``8.5``, or the cubin's ABI, 7 or 8.
    ``size`` is in bytes, as stored. ``relocatable`` code was not linked yet.
    """

    kind: str
    arch: str
    version: str
    size: int
    compressed: bool = False
    relocatable: bool = False


def read(path: str | Path) -> tuple[Code, ...]:
    """The GPU code of a file, in its order; none for a library without any. Raises BadInput for a file that is not whole or not of these kinds."""
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise BadInput(f"{Path(path).name} is empty: give an ELF library, a fat binary, a cubin or PTX.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): give the path of a file.") from None


def parse(data: bytes | mmap.mmap) -> tuple[Code, ...]:
    """``read`` for bytes in memory."""
    if data[:4] == b"\x7fELF":
        if data[4:6] != b"\x02\x01":
            raise BadInput("this ELF file is not 64-bit little-endian: no library with CUDA code is otherwise.")
        (machine,) = _unpack("<H", data, 18, len(data), "the ELF header")
        found = [_cubin(data)] if machine == CUDA else _library(data)
    elif data[:4] == MAGIC:
        found = _containers(data, 0, len(data), False)
    else:
        found = [_ptx(data)]
    codes = []
    for code in found:
        codes.append(code)
        if len(codes) > MOST_ENTRIES:
            raise BadInput(_TOO_MANY)
    return tuple(codes)


def _unpack(form: str, data: bytes | mmap.mmap, offset: int, end: int, what: str) -> tuple:
    """The fields at ``offset``, all of them before ``end``."""
    if not 0 <= offset <= end - struct.calcsize(form) or end > len(data):
        raise BadInput(f"{what} at byte {offset:,} does not fit in the {min(end, len(data)):,} bytes that are there: {_WRONG}")
    return struct.unpack_from(form, data, offset)


# -- ELF -------------------------------------------------------------------------------------------------------------------


def _sections(data: bytes | mmap.mmap, wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, end) of the sections with these names."""
    (table,) = _unpack("<Q", data, 0x28, len(data), "the ELF header")
    size, count, names = _unpack("<HHH", data, 0x3A, len(data), "the ELF header")
    if not table:
        raise BadInput("this ELF file has no section headers: they were stripped, and with them the names that the GPU code is found by.")
    if size != 64:
        raise BadInput(f"section headers of {size} bytes: an ELF file of 64 bits has 64.")
    first = _unpack("<IIQQQQIIQQ", data, table, len(data), "the first section header")
    count = count or first[5]  # where 16 bits are too few, the first header has the numbers
    names = first[6] if names == 0xFFFF else names
    if count > min((len(data) - table) // 64, MOST_SECTIONS) or names >= count:
        raise BadInput(f"{count:,} section headers, the names in number {names:,}: they do not fit in {len(data):,} bytes.")
    texts = _unpack("<IIQQQQIIQQ", data, table + 64 * names, len(data), "a section header")[4]
    for place in range(count):
        name, kind, _, _, offset, length, *_ = struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * place)
        at = texts + name
        found = next((one for one in wanted if at < len(data) and data[at : at + len(one) + 1] == one + b"\0"), None)
        if found and kind != 8:  # 8 is a section that takes no room in the file
            if offset + length > len(data):
                raise BadInput(f"section {found.decode()} ends at byte {offset + length:,} of {len(data):,}: {_WRONG}")
            yield found, offset, offset + length


def _library(data: bytes | mmap.mmap) -> Iterator[Code]:
    known = sorted(_sections(data, (LINKED, RELOCATABLE)), key=lambda section: section[1])
    for (_, _, end), (_, start, _) in zip(known, known[1:], strict=False):
        if start < end:
            raise BadInput(f"two sections of GPU code overlap at byte {start:,}: no linker writes that.")
    for name, start, end in known:
        yield from _containers(data, start, end, name == RELOCATABLE)


def _cubin(data: bytes | mmap.mmap) -> Code:
    """A cubin says its architecture in the ELF flags, in two layouts; the newest compilers say in .nv.compat whether it is architecture-specific.

    A family-specific cubin (sm_100f) does not say so anywhere; only the entry of a fat binary does.
    """
    abi = data[8]
    (flags,) = _unpack("<I", data, 48, len(data), "the ELF header")
    if abi <= 7:
        number, specific = flags & 0xFF, bool(flags & 0x800)
    elif abi == 8:
        number, specific = flags >> 8 & 0xFF, bool(flags & 0x8) or _compat_is_specific(data)
    else:
        raise BadInput(f"a cubin of ABI version {abi}: this reader knows those up to 8.")
    return Code("cubin", f"{_arch('sm', number)}{'a' if specific else ''}", str(abi), len(data))


def _compat_is_specific(data: bytes | mmap.mmap) -> bool:
    """Attribute 9 of .nv.compat: 1 for code with architecture-specific features."""
    _, at, end = next(_sections(data, (b".nv.compat",)), ("", 0, 0))
    end = min(end, at + _COMPAT)
    while at + 4 <= end:
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        if (form, attribute) == (2, 9):
            return value & 0xFF == 1
        at += 4 + (value if form == 4 else 0)  # form 4 is followed by that many bytes
    return False


# -- fat binaries ------------------------------------------------------------------------------------------------------------


def _containers(data: bytes | mmap.mmap, start: int, end: int, relocatable: bool) -> Iterator[Code]:
    """Every entry of the fat binaries between two bytes, with at most a page of zeros between two of them."""
    at, zeros, count = start, 0, 0
    while at < end:
        magic, _, header, size = _unpack("<IHHQ", data, at, end, "a fat binary") if end - at >= 16 else (0, 0, 0, 0)
        if magic == 0xBA55ED50:
            if header < 16 or at + header + size > end:
                raise BadInput(f"the fat binary at byte {at:,} claims {header + size:,} bytes, {end - at:,} are there: {_WRONG}")
            yield from _entries(data, at + header, at + header + size, relocatable)
            at, zeros, count = at + header + size, 0, count + 1
        elif any(data[at : min(at + 8, end)]) or zeros > _PADDING:
            raise BadInput(f"no fat binary at byte {at:,}, where one should begin with {MAGIC.hex(' ')}.")
        else:
            at, zeros = at + 8, zeros + 8
        if count > MOST_ENTRIES:
            raise BadInput(_TOO_MANY)


def _entries(data: bytes | mmap.mmap, at: int, end: int, relocatable: bool) -> Iterator[Code]:
    while at < end:
        kind, _, header, size, _, _, minor, major, number, _, _, flags = _unpack("<HHIQIIHHIIIQ", data, at, end, "the header of a piece of GPU code")
        if header < 48 or at + header + size > end:
            raise BadInput(f"the GPU code at byte {at:,} claims {header + size:,} bytes, {end - at:,} are left: {_WRONG}")
        name = KINDS.get(kind, f"kind {kind}")
        suffix = "a" if flags & ARCH_SPECIFIC else "f" if flags & FAMILY_SPECIFIC else ""
        arch = f"{_arch('compute' if kind == 1 else 'sm', number)}{suffix}"
        yield Code(name, arch, str(minor) if kind == 2 else f"{major}.{minor}", size, bool(flags & COMPRESSED), relocatable)
        at += header + size


def _arch(prefix: str, number: int) -> str:
    if not 10 <= number <= 999:
        raise BadInput(f"architecture {number}: no GPU has it, so the header is wrong.")
    return f"{prefix}_{number}"


# -- PTX ---------------------------------------------------------------------------------------------------------------------


def _ptx(data: bytes | mmap.mmap) -> Code:
    """PTX is text; its first two directives say the ISA version and the virtual architecture."""
    head = data[:_PTX_HEAD].decode("ascii", errors="replace")
    version = re.search(r"^[ \t]*\.version[ \t]+(\d{1,3}\.\d{1,3})\b", head, re.MULTILINE)
    target = re.search(r"^[ \t]*\.target[ \t]+sm_(\d{2,3})([af]?)\b", head, re.MULTILINE)
    if not version or not target:
        raise BadInput(f"{len(data):,} bytes that begin with {bytes(data[:4]).hex(' ')}: neither ELF, nor a fat binary, nor PTX with its .version and .target.")
    return Code("ptx", f"{_arch('compute', int(target[1]))}{target[2]}", version[1], len(data))
