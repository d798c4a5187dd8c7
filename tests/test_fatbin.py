"""The reader of GPU code: against cuobjdump's listings, and on files that are malformed, truncated or hostile."""

import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.cuda import fatbin, listings, native
from mllandscape.cuda.kernels import FATBIN, FOLDER, TARGETS, kernels

KERNELS = {kernel.file: kernel for kernel in kernels()}
LIBRARIES = listings.library_paths()
FATBIN_FILE = KERNELS["axpy.cuda13.5.fatbin"].path.read_bytes()
CUBIN_FILE = KERNELS["axpy.cuda13.5.sm_90a.cubin"].path.read_bytes()
RECORDED = listings.kept(listings.RECORDING).data


def header(kind: int = 2, arch: int = 80, flags: int = 0, size: int = 8, length: int = 64, minor: int = 8, major: int = 1) -> bytes:
    """The header of one piece of GPU code, its fields where the format has them."""
    return struct.pack("<HHIQIIHHIIIQQQ", kind, 0x101, length, size, 0, 0, minor, major, arch, 0, 0, flags, 0, 0) + b"\0" * (length - 64)


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return fatbin.MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body


def library(sections: dict[bytes, bytes], machine: int = 62) -> bytes:
    """A 64-bit ELF file with these sections and the table of their names, as small as it can be."""
    names = b"\0" + b"".join(name + b"\0" for name in (*sections, b".shstrtab"))
    body, headers, at = b"", [b"\0" * 64], 64
    for name, content in (*sections.items(), (b".shstrtab", names)):
        headers.append(struct.pack("<IIQQQQIIQQ", names.index(b"\0" + name + b"\0") + 1, 1, 0, 0, at, len(content), 0, 0, 1, 0))
        body += content
        at += len(content)
    start = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, at, 0, 64, 0, 0, 64, len(headers), len(headers) - 1)
    return start + body + b"".join(headers)


def complaint(data: bytes) -> str:
    with pytest.raises(BadInput) as told:
        fatbin.parse(data)
    assert "\n" not in str(told.value) and len(str(told.value)) < 400
    return str(told.value)


# -- what is read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", KERNELS)
def test_a_kernel_holds_what_it_was_compiled_for(file):
    kernel, codes = KERNELS[file], fatbin.read(KERNELS[file].path)
    expected = list(FATBIN) if kernel.target == "fatbin" else [kernel.target]
    assert [code.arch for code in codes] == expected
    assert all(code.kind == ("ptx" if code.arch.startswith("compute") else "cubin") and not code.relocatable for code in codes)


def test_ptx_says_the_isa_of_its_compiler():
    isas = {kernel.toolkit: fatbin.read(kernel.path)[0].version for kernel in KERNELS.values() if kernel.target == "compute_80"}
    assert isas == {"11.8": "7.8", "12.9": "8.8", "13.5": "9.5"}


@pytest.mark.parametrize("row", RECORDED["kernels"], ids=lambda row: row["file"])
def test_every_kernel_is_read_as_cuobjdump_lists_it(row):
    assert listings._sha256(FOLDER / row["file"]) == row["sha256"], "the listing is of another file: record it again"
    assert listings.disagreement(FOLDER / row["file"], row) == ""


@pytest.mark.skipif(not LIBRARIES, reason="the bitsandbytes installed here has no CUDA libraries")
@pytest.mark.parametrize("row", RECORDED["libraries"], ids=lambda row: row["file"])
def test_every_shipped_library_is_read_as_cuobjdump_lists_it(row):
    path = LIBRARIES[row["cuda"]]
    codes = fatbin.read(path)
    linked = [code for code in codes if not code.relocatable]
    assert linked and {code.kind for code in codes} == {"cubin", "ptx"} and len({code.version for code in codes if code.kind == "ptx"}) == 1
    if listings._sha256(path) != row["sha256"]:
        pytest.skip(f"bitsandbytes is not {RECORDED['bitsandbytes']}, whose listing was recorded; the library alone is consistent")
    assert listings.disagreement(path, row) == ""


@pytest.mark.skipif(not native.tools("cuobjdump"), reason="no cuobjdump is installed; the recorded listings stand in")
def test_cuobjdump_itself_agrees():
    agree, compared, _ = listings.agreement()
    assert agree == compared >= len([kernel for kernel in KERNELS.values() if kernel.path.suffix != ".ptx"])


def test_a_difference_from_the_listing_is_told():
    row = next(row for row in RECORDED["kernels"] if row["file"].endswith("fatbin"))
    assert "is [" in listings.disagreement(FOLDER / row["file"], row | {"all": row["all"][1:]})


def test_every_target_has_its_file_and_a_changed_one_is_named(monkeypatch, tmp_path):
    from mllandscape.cuda import kernels as room

    assert [(kernel.toolkit, kernel.target) for kernel in KERNELS.values()] == [
        (toolkit, target) for toolkit, targets in TARGETS.items() for target in (*targets, *(["fatbin"] if toolkit == "13.5" else []))
    ]
    for file in KERNELS:
        (tmp_path / file).write_bytes((FOLDER / file).read_bytes() + (b"x" if file.endswith("sm_87.cubin") else b""))
    monkeypatch.setattr(room, "FOLDER", tmp_path)
    room.kernels.cache_clear()
    with pytest.raises(BadInput, match="sm_87.cubin is missing or was changed"):
        room.kernels()
    (tmp_path / "axpy.cu").write_text("// another kernel", encoding="utf-8")
    monkeypatch.setattr(room, "SOURCE", tmp_path / "axpy.cu")
    with pytest.raises(BadInput, match="axpy.cu is missing or was changed"):
        room.kernels()
    room.kernels.cache_clear()


def test_the_kernels_can_be_made_again_where_the_compilers_are(capsys):
    from mllandscape.cuda.kernels import NEEDS, main

    status = main([])
    out, error = capsys.readouterr()
    if set(TARGETS) <= set(native.compilers()) and status != 2:
        assert status == 0 and "different" not in out
    else:
        assert status == 2 and NEEDS.partition("==")[0] in error and error.count("\n") == 1


def test_a_library_is_read_by_its_two_sections():
    linked, pieces = (
        container(header(arch=80), b"x" * 8, header(arch=90, flags=fatbin.ARCH_SPECIFIC), b"x" * 8),
        container(header(1, 90, 0x2000, minor=4, major=8), b"x" * 8),
    )
    codes = fatbin.parse(library({b".text": b"code", b".nv_fatbin": linked + b"\0" * 24 + linked, b"__nv_relfatbin": pieces}))
    assert [(code.arch, code.version, code.relocatable, code.compressed) for code in codes] == [
        *[("sm_80", "8", False, False), ("sm_90a", "8", False, False)] * 2,
        ("compute_90", "8.4", True, True),
    ]
    assert fatbin.parse(library({b".text": b"code"})) == ()


def test_a_kind_that_nobody_knows_is_listed_and_a_family_is_marked():
    kind, family = fatbin.parse(container(header(64, 100), b"x" * 8, header(arch=100, flags=fatbin.FAMILY_SPECIFIC), b"x" * 8))
    assert kind.kind == "kind 64" and family.arch == "sm_100f"


# -- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither ELF"),
        (b"hello", "neither ELF"),
        (b"\x7fELF", "not 64-bit"),
        (b"\x7fELF\x01\x01" + b"\0" * 60, "not 64-bit"),
        (b"\x7fELF\x02\x01\x01", "ELF header"),
        (library({})[:70], "does not fit"),
        (library({b".nv_fatbin": container(header(), b"x" * 8)[:-1]}), "claims"),
        (library({b".nv_fatbin": b"not a fat binary"}), "no fat binary"),
        (library({b".nv_fatbin": b"\0" * 6000}), "no fat binary"),
        (library({b".nv_fatbin": container(header(arch=5), b"x" * 8)}), "architecture 5"),
        (container(header(size=2**60), b"x" * 8), "claims"),
        (container(header(length=64)[:20]), "does not fit"),
        (fatbin.MAGIC + struct.pack("<HHQ", 1, 0, 0), "claims"),
        (fatbin.MAGIC + struct.pack("<HHQ", 1, 16, 2**63), "claims"),
        (CUBIN_FILE[:7] + b"\x41\x09" + CUBIN_FILE[9:], "ABI version 9"),
        (CUBIN_FILE[:60] + b"\xff\xff" + CUBIN_FILE[62:], "section headers"),
        (b".version 8.5\nno target", "neither ELF"),
        (b".version 8.5\n.target sm_999999", "neither ELF"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(data, why):
    assert why in complaint(data)


def test_two_sections_on_the_same_bytes_are_refused():
    once = container(header(), b"x" * 8)
    data = bytearray(library({b".nv_fatbin": once, b"__nv_relfatbin": once}))
    (table,) = struct.unpack_from("<Q", data, 0x28)
    data[table + 2 * 64 + 24 : table + 2 * 64 + 32] = data[table + 64 + 24 : table + 64 + 32]  # the second section begins where the first does
    assert "overlap" in complaint(bytes(data))


def test_a_file_that_is_not_there_or_empty_is_one_line(tmp_path):
    (tmp_path / "empty").touch()
    for path in (tmp_path / "missing", tmp_path / "empty", tmp_path):
        with pytest.raises(BadInput) as told:
            fatbin.read(path)
        assert "\n" not in str(told.value)


def read_or_refused(data: bytes) -> None:
    """The one thing that must hold of any bytes: codes of sound fields, or one line."""
    try:
        codes = fatbin.parse(data)
    except BadInput as told:
        assert "\n" not in str(told)
    else:
        assert all(code.size <= len(data) and code.arch.partition("_")[0] in ("sm", "compute") for code in codes)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data):
    read_or_refused(data)


@given(
    st.sampled_from([FATBIN_FILE, CUBIN_FILE, library({b".nv_fatbin": FATBIN_FILE[:2000]}), library({b".nv_fatbin": container(header(), b"x" * 8)})]), st.data()
)
@settings(max_examples=150)
def test_real_files_that_are_cut_or_changed_are_read_or_refused(file, data):
    changed = bytearray(file[: data.draw(st.integers(0, len(file)))] if data.draw(st.booleans()) else file)
    for _ in range(data.draw(st.integers(0, 6))):
        if changed:
            at = data.draw(st.integers(0, min(len(changed) - 1, 300)) | st.integers(0, len(changed) - 1))
            changed[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]))
    read_or_refused(bytes(changed))


@given(
    st.lists(
        st.tuples(st.integers(0, 70), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=5
    )
)
def test_any_entry_headers_are_read_or_refused(entries):
    packed = b"".join(
        struct.pack("<HHIQIIHHIIIQQQ", kind, 1, length, size % 2**64, 0, 0, 1, 1, arch, 0, 0, flags, 0, 0) for kind, arch, flags, size, length in entries
    )
    read_or_refused(container(packed))


def test_hostile_files_cost_neither_memory_nor_time(monkeypatch):
    """More entries than any library has, headers without end, long lines: each is refused or read, within bounds that grow with the file alone."""
    begun = time.process_time()
    for data in (b" " * 3_000_000, b".version " * 300_000, b"\n" * 3_000_000, b".target\t" * 300_000):
        read_or_refused(data)
    monkeypatch.setattr(fatbin, "MOST_ENTRIES", 2000)
    tracemalloc.start()
    for data in (container(header(size=0) * 20_000), container() * 20_000, library({b".nv_fatbin": container() * 20_000})):
        assert "pieces of GPU code" in complaint(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20 and time.process_time() - begun < 60
