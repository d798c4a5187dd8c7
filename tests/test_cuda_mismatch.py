"""Lesson 8: the tables and their sources, the decision against torch's own, what was provoked, the doctor's line, the panel and the exercises."""

import tomllib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from mllandscape import BadInput, charts, record, sandbox
from mllandscape import torch_private as private
from mllandscape.cuda import compatibility, fatbin, here, listings, native
from mllandscape.cuda.compatibility import Build, Gpu, Image, runs_on, will_it_run
from mllandscape.cuda.kernels import kernels
from mllandscape.lessons import cuda_mismatch as lesson
from mllandscape.machine import Gpu as GpuHere
from mllandscape.machine import look

TABLES = compatibility.tables()
CAPABILITIES = [row["number"] for row in TABLES["capability"]]


# -- the tables ------------------------------------------------------------------------------------------------------------


def test_every_row_names_a_source_and_every_source_has_its_rows():
    rows = [row for name, table in TABLES.items() if name != "sources" for row in table]
    assert len(rows) > 90 and {row["source"] for row in rows} == set(TABLES["sources"])
    assert all(text.endswith(("; read 2026-11", "; recorded 2026-11", "; measured 2026-11", "; run in lesson 8")) for text in TABLES["sources"].values())


@pytest.mark.parametrize(("table", "key"), [("driver", "version"), ("driver", "cuda"), ("ptx", "cuda"), ("runtime", "driver"), ("capability", "number")])
def test_a_table_is_in_order(table, key):
    values = [Version(str(row[key])) for row in TABLES[table]]
    assert values == sorted(values) and len(set(values)) == len(values)


def test_newer_cuda_never_reads_an_older_isa():
    isas = [Version(row["isa"]) for row in TABLES["ptx"]]
    assert isas == sorted(isas)


def test_the_table_of_torchs_wheels_is_torchs_own():
    for cuda, listed in private.release_capabilities().items():
        build = compatibility.builds().get(f"torch 2.13.0+cu{cuda.replace('.', '')}")
        if build:
            assert build.cuda == cuda and {compatibility.target(code)[1] for code in build.code} == listed
    assert {"torch 2.13.0+cu126", "torch 2.13.0+cu130", "torch 2.13.0+cu132"} <= set(compatibility.builds())


def test_isas_are_those_that_the_compilers_really_write():
    measured = {library.cuda: library.isa for library in lesson.shipped().libraries.values()}
    measured |= {kernel.toolkit: fatbin.read(kernel.path)[0].version for kernel in kernels() if kernel.target == "compute_80"}
    assert len(measured) >= 9 and {cuda: compatibility.isa_of(cuda) for cuda in measured} == measured


def test_the_errors_words_are_libcudarts_own():
    kept = listings.kept(lesson.FAILURES).data["cudart"]
    assert [runtime["soname"] for runtime in kept] == [row["soname"] for row in TABLES["runtime"]]
    for runtime in kept:
        for name, code in lesson.CODES.items():
            error = compatibility.errors()[name]
            assert (error.code, [error.symbol, error.text]) == (code, runtime["texts"][str(code)])
            assert error.text in error.seen or name in ("driver too old", "no device")


def test_every_error_has_a_remedy():
    assert compatibility.REMEDIES.keys() == compatibility.errors().keys()


# -- one piece of code on one GPU --------------------------------------------------------------------------------------------


def test_every_pair_is_decided_as_torch_decides_it():
    pairs, different = lesson.agreement_with_torch()
    assert pairs >= 400 and different == []


@given(st.sampled_from(private.code_capabilities()), st.integers(20, 200))
def test_any_gpu_is_decided_as_torch_decides_it(code, gpu):
    assert runs_on(f"sm_{code}", gpu) == private.code_runs_on(code, gpu)


@given(st.sampled_from(CAPABILITIES), st.sampled_from(CAPABILITIES))
def test_suffixes_only_ever_narrow(code, gpu):
    for kind in ("sm", "compute"):
        plain, family, specific = (runs_on(f"{kind}_{code}{suffix}", gpu) for suffix in ("", "f", "a"))
        assert family <= plain and specific == (code == gpu)
        if kind == "compute":
            assert plain == (code <= gpu) and family == (plain and code // 10 == gpu // 10)


@pytest.mark.parametrize(
    ("code", "gpu", "expected"),
    [
        ("sm_80", 86, True), ("sm_86", 80, False), ("sm_80", 90, False), ("sm_86", 87, False), ("sm_87", 89, False), ("sm_90a", 90, True),
        ("sm_100f", 103, True), ("sm_100a", 103, False), ("sm_103", 100, False), ("sm_120f", 121, True), ("compute_80", 87, True), ("compute_100f", 120, False),
    ],
)  # fmt: skip
def test_known_pairs(code, gpu, expected):
    assert runs_on(code, gpu) is expected


# -- the decision --------------------------------------------------------------------------------------------------------------

DECIDED = [
    ("torch 2.1.0+cu121", "A100", "520.61.05", "", "35", "driver for the runtime"),
    ("torch 2.1.0+cu121", "A100", "525.60.13", "", "runs", "cubin for the GPU"),
    ("torch 2.1.0+cu118", "A100", "520.61.05", "", "runs", "cubin for the GPU"),
    ("torch 2.13.0+cu130", "Tesla V100", "580.65.06", "", "209", "PTX for the GPU"),
    ("torch 2.13.0+cu130", "Tesla V100", "590.44.01", "", "100", "driver for the GPU"),
    ("torch 2.13.0+cu126", "RTX 5090", "580", "", "209", "PTX for the GPU"),
    ("torch 2.13.0+cu130", "Jetson Orin", "580", "", "209", "PTX for the GPU"),
    ("torch 2.13.0+cu130", "B300", "580.65.06", "", "runs", "cubin for the GPU"),
    ("torch 2.13.0+cu130", "RTX 4090", "579.99", "", "35", "driver for the runtime"),
    ("torch 2.13.0+cpu", "A100", "580", "", "no CUDA in the build", "CUDA in the build"),
    ("torch 2.13.0+cu130", "H100", "", "", "35", "driver for the runtime"),
    ("torch 2.10.0+cu128", "B200", "560.28.03", "", "100", "driver for the GPU"),
    ("torch 2.1.0+cu121", "A100", "520.61.05", "nvidia/cuda:12.1.0-base", "container refused", "container starts"),
    ("torch 2.1.0+cu121", "A100", "515.43.04", "nvidia/cuda:12.1.0-base", "runs", "cubin for the GPU"),
    ("torch 2.1.0+cu121", "RTX 3090", "525.60.13", "", "runs", "cubin for the GPU"),
    ("torch 2.1.0+cu121", "RTX 3090", "525.60.13", "nvidia/cuda:12.1.0-base", "804", "driver for the GPU"),
    ("torch 2.13.0+cu130", "RTX 4090", "570.26", "nvidia/cuda:13.0.2-base", "container refused", "container starts"),
    ("torch 2.13.0+cu130", "H100", "570.26", "nvidia/cuda:13.0.2-base", "runs", "cubin for the GPU"),
    ("torch 2.1.0+cu118", "A100", "450.80.02", "", "runs", "cubin for the GPU"),
    ("torch 2.1.0+cu118", "A100", "450.80.01", "", "35", "driver for the runtime"),
    ("torch 2.1.0+cu121", "A100", "525.60.12", "", "35", "driver for the runtime"),
]


@pytest.mark.parametrize(("build", "gpu", "driver", "image", "short", "last"), DECIDED)
def test_known_cases_end_at_their_rule(build, gpu, driver, image, short, last):
    found = will_it_run(build, gpu, driver, image)
    assert (found.short, found.rules[-1].name) == (short, last) and bool(found) == (short == "runs")
    names = [rule.name for rule in found.rules]
    assert names == [name for name in compatibility.NAMES if name in names], "rules are in their order"
    assert bool(found.message) == bool(found.remedy) == (not found) and "{" not in found.message + found.remedy and "\n" not in found.message


def test_the_images_compat_libraries_bring_their_compiler():
    """Driver 515 reads PTX of ISA 7.7; under cuda-compat of 12.1 the driver's part in user space is that of 12.1."""
    ptx = Build("PTX of 12.1", "12.1", ("compute_80",))
    assert will_it_run(ptx, "A100", "515.43.04", "nvidia/cuda:12.1.0-base").short == "JITs"
    assert will_it_run(Build("PTX of 12.2", "12.2", ("compute_80",)), "A100", "515.43.04", "nvidia/cuda:12.1.0-base").short == "222"


def test_the_messages_are_the_real_ones():
    assert will_it_run(*DECIDED[0][:3]).message == "RuntimeError: The NVIDIA driver on your system is too old (found version 11080)."
    assert will_it_run("torch 2.13.0+cu130", "A100", "570").message.endswith("(found version 12080).")
    assert will_it_run(*DECIDED[3][:3]).message == "RuntimeError: CUDA error: no kernel image is available for execution on the device"


PTX = Build("PTX alone", "12.9", ("compute_80",))


@pytest.mark.parametrize(("driver", "short"), [("570.26", "222"), ("575.51.03", "JITs"), ("610.43.02", "JITs"), ("520.61.05", "35")])
def test_ptx_needs_a_driver_that_reads_its_isa(driver, short):
    assert will_it_run(PTX, "A100", driver).short == short
    assert will_it_run(replace(PTX, isa="7.8"), "A100", "570.26").verdict == "JITs"
    assert will_it_run(PTX, "T4", "575.51.03").short == "209", "PTX is for later architectures, not for earlier ones"


def test_a_library_without_its_runtime_needs_the_images():
    library = lesson.shipped().libraries["12.1"].build()
    assert will_it_run(library, "A100", "570.26").message.startswith("OSError: libcudart.so.12: cannot open shared object file")
    assert will_it_run(library, "A100", "570.26", "nvidia/cuda:12.8.1-cudnn-devel").verdict == "runs"
    assert will_it_run(library, "A100", "580.65.06", "nvidia/cuda:13.0.2-base").short == "library not found"
    assert will_it_run(lesson.shipped().libraries["12.1"].build(own_runtime=True), "B200", "570.26").verdict == "JITs"


BUILDS = st.sampled_from([build for build in lesson.lineup().values()])
GPUS = st.sampled_from([gpu for gpu in compatibility.gpus().values() if gpu.kind != "jetson"])
IMAGES = st.sampled_from(["", *compatibility.images()])


@given(BUILDS, GPUS, st.sampled_from(compatibility.drivers()), IMAGES)
def test_a_toolkit_alone_never_decides(build, gpu, driver, image):
    """An image whose CUDA is not newer than the driver's changes nothing for a build that brings its runtime; none ever mends error 209."""
    bare, inside = will_it_run(build, gpu, driver), will_it_run(build, gpu, driver, image)
    if image and Version(compatibility.images()[image].cuda) <= Version(compatibility.driver_cuda(driver)):
        assert inside.short == bare.short
    if bare.short == "209":
        assert inside.short != "runs"


@given(BUILDS, GPUS)
def test_a_newer_driver_only_ever_helps_until_it_leaves_the_gpu_behind(build, gpu):
    works = [bool(will_it_run(build, gpu, driver)) for driver in compatibility.drivers() if not (gpu.capability < 75 and driver.startswith(("59", "6")))]
    assert works == sorted(works)


@given(GPUS, st.sampled_from(compatibility.drivers()), st.lists(st.sampled_from([f"sm_{number}" for number in CAPABILITIES]), max_size=4))
def test_more_code_never_hurts(gpu, driver, code):
    less, more = (will_it_run(Build("b", "12.8", tuple(some)), gpu, driver) for some in (code, [*code, "sm_80", "compute_75"]))
    assert bool(less) <= bool(more)


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        (("torch 9", "A100", "580"), "no build 'torch 9'"),
        (("torch 2.13.0+cu130", "A1000", "580"), "no GPU 'A1000'"),
        (("torch 2.13.0+cu130", "A100", "new"), "driver 'new'"),
        (("torch 2.13.0+cu130", "A100", "580; rm"), "driver"),
        (("torch 2.13.0+cu130", "A100", 580), "driver 580"),
        (("torch 2.13.0+cu130", "A100", "580", "ubuntu"), "no image 'ubuntu'"),
        (("torch 2.13.0+cu130", "Jetson Orin", "580", "nvidia/cuda:12.1.0-base"), "x86-64 image"),
        ((Build("b", "9.0", ("sm_70",)), "A100", "580"), "major versions 11, 12, 13"),
        ((Build("b", "twelve", ("sm_70",)), "A100", "580"), "CUDA version 'twelve'"),
        ((Build("b", "12.1", ("ampere",)), "A100", "580"), "GPU code 'ampere'"),
        (("torch 2.13.0+cu130", Gpu("x", 8, "data centre"), "580"), "capability 8"),
        (("torch 2.13.0+cu130", Gpu("x", 80, "toaster"), "580"), "kind 'toaster'"),
        ((None, "A100", "580"), "no build None"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_possible(given_, why):
    with pytest.raises(BadInput) as told:
        will_it_run(*given_)
    assert why in str(told.value) and "\n" not in str(told.value)


def test_a_driver_older_or_newer_than_the_tables_is_decided():
    assert will_it_run("torch 2.1.0+cu118", "A100", "390.157").short == "35"
    assert will_it_run("torch 2.13.0+cu130", "A100", "999").verdict == "runs"


# -- experiments ---------------------------------------------------------------------------------------------------------------


def test_the_shipped_libraries_hold_what_is_known():
    found = lesson.shipped().libraries
    assert list(found) == ["11.8", "12.1", "12.4", "12.6", "12.8", "13.0", "13.2"]
    assert found["12.6"].linked == ("sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90") and found["12.6"].relocatable[-1] == "compute_90"
    assert found["13.0"].linked[0] == "sm_75" and found["13.0"].linked[-1] == "sm_120" and found["13.0"].isa == "9.0"


def test_without_the_libraries_the_recorded_listing_says_the_same(monkeypatch):
    read = lesson.shipped().libraries
    monkeypatch.setattr(listings, "library_paths", dict)
    listed = lesson.shipped.__wrapped__()
    assert listed.libraries == read and listed.line.startswith("recorded on CPU")


@pytest.fixture(scope="module")
def met():
    return lesson.meet()


def test_every_failure_was_provoked_here_or_is_recorded(met):
    assert met.lines.keys() == {"cudart", "loader", "nvrtc", "ptxas", "torch"}
    assert all(line.startswith(("computed here", "recorded on CPU")) for line in met.lines.values())
    assert [runtime["device_count"] for runtime in met.cudart] == [35, 35, 35]
    assert "libcudart.so.11.0: cannot open shared object file" in met.parts["loader"]["said"]
    assert any("9.5" in said for row in met.parts["ptxas"] for said in row["said"].values())
    assert any("invalid value for --gpu-architecture" in row["said"] for row in met.parts["nvrtc"] if row["version"].startswith("13"))
    assert "cu126" in met.parts["torch"]["warning"].splitlines()[-1] and "//" not in met.parts["torch"]["warning"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch says something else")
def test_a_cpu_build_of_torch_says_so(met):
    assert met.lines["torch"].startswith("computed here")
    assert met.parts["torch"]["asked for CUDA"] == compatibility.errors()["no CUDA in the build"].seen


def test_the_table_of_failures_says_where_each_was_met(met):
    shown = repr(lesson.failure_table(met))
    assert all(f"{code}: " in shown for code in (35, 209, 222)) and shown.count("computed here") + shown.count("recorded on") == 5


def test_what_did_not_fail_here_is_taken_from_the_recording(monkeypatch):
    kept = listings.kept(lesson.FAILURES).data
    on_a_gpu = {name: value for name, value in kept.items()} | {
        "cudart": [row | {"device_count": 0} for row in kept["cudart"]],
        "loader": {"library": "x", "said": ""},
    }
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("ok", value=on_a_gpu))
    met = lesson.meet()
    assert met.parts == kept and met.lines["cudart"].startswith("recorded on") and met.lines["ptxas"].startswith("computed here")
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("ok", value=dict.fromkeys(kept)))
    assert all(line.startswith("recorded on") for line in lesson.meet().lines.values())
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("killed", message="SIGSEGV"))
    with pytest.raises(BadInput, match="ended with killed"):
        lesson.start().result(timeout=10)


def test_without_a_gpu_one_line_says_so_and_a_recording_is_shown_as_one(monkeypatch):
    with pytest.raises(BadInput, match="no NVIDIA driver here|GPU that this process may use"):
        lesson.load_kernels()
    monkeypatch.setattr(record, "load", lambda name: None)
    assert "no recorded run yet" in lesson.gpu_lines(lesson.on_gpu())
    loads = [{"file": kernel.file, "code": 0, "error": "", "text": "", "ran": True, "seconds": 1e-3} for kernel in kernels()]
    provenance = record.Provenance(kind="recorded", device="NVIDIA H200", date="2026-11-30")
    kept = record.Recording(lesson.ON_GPU, {"gpu": "NVIDIA H200", "capability": 90, "cuda": "13.0", "loads": loads}, provenance)
    monkeypatch.setattr(record, "load", lambda name: kept)
    shown = lesson.gpu_lines(lesson.on_gpu())
    assert "recorded on NVIDIA H200" in shown and len(shown.splitlines()) == 1 + len(kernels())


def test_what_is_expected_of_a_gpu():
    on_h200 = {kernel.file: lesson.expected(kernel.file, 90, "13.0") for kernel in kernels()}
    assert on_h200["axpy.cuda12.9.sm_90.cubin"] == on_h200["axpy.cuda13.5.sm_90a.cubin"] == on_h200["axpy.cuda13.5.fatbin"] == "runs"
    assert on_h200["axpy.cuda12.9.sm_80.cubin"] == on_h200["axpy.cuda12.9.sm_100.cubin"] == "209"
    assert on_h200["axpy.cuda12.9.compute_80.ptx"] == "JITs" and on_h200["axpy.cuda13.5.compute_80.ptx"] == lesson.expected(native.NEWER, 90, "13.0") == "222"


def test_a_recorded_gpu_said_what_was_expected():
    kept = record.load(lesson.ON_GPU)
    if kept is None:
        pytest.skip("no GPU has been recorded yet")
    data = kept.data
    for row in data["loads"]:
        expected = lesson.expected(row["file"], data["capability"], data["cuda"])
        assert (row["code"] == 0) == (expected in ("runs", "JITs")), row
        assert row["ran"] == (row["code"] == 0), row
    assert {209, 222} <= {row["code"] for row in data["loads"]}


def test_a_remedy_mends_its_own_failure_and_the_usual_image_breaks_what_ran():
    found = {name: lesson.changes(*case) for name, case in lesson.CASES.items()}
    assert [one["as it is"].short for one in found.values()] == ["209", "35", "222", "library not found", "runs"]
    image, driver = ([one[change].short for one in found.values()] for change in ("the usual Dockerfile's image", "a newer driver"))
    assert image == ["209", "container refused", "222", "runs", "804"] and driver == ["209", "runs", "JITs", "library not found", "runs"]
    assert all(one["another build of torch"] for one in found.values()) and found["no kernel image"]["PTX of an old ISA in the build"].verdict == "JITs"
    assert "804" in repr(lesson.remedy_table())


def test_no_image_mends_a_missing_kernel():
    effect = lesson.image_effect()
    assert effect.mended == 0 < effect.no_kernel_image < effect.combinations and effect.rescued > 0 and effect.broken > effect.refused > 0


def test_a_plain_pin_takes_any_variant():
    assert lesson.pins("torch==2.1.0") == ["2.1.0", "2.1.0+cu118", "2.1.0+cu121", "2.1.0+cpu"] and lesson.pins("torch==2.1.0+cu121") == ["2.1.0+cu121"]


def test_int8_is_smaller_and_as_accurate_and_tells_that_it_is_deprecated():
    found = lesson.quantise(widths=(64,), batches=(1,))
    assert found.sizes["fp32"] > 3 * found.sizes["int8"] and found.right["fp32"] > 0.9 * found.samples
    assert abs(found.right["fp32"] - found.right["int8"]) <= 0.01 * found.samples
    assert found.seconds[64, 1].keys() == {"fp32", "int8"} and all(seconds > 0 for seconds in found.seconds[64, 1].values())
    assert "deprecated" in found.deprecation


def test_without_int8_kernels_one_line_says_so(monkeypatch):
    monkeypatch.setattr(type(torch.backends.quantized), "engine", "none")
    with pytest.raises(BadInput, match="no int8 kernels"):
        lesson.quantise()


# -- this machine --------------------------------------------------------------------------------------------------------------

HERE = replace(look(), torch="2.13.0")


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (None, "no NVIDIA GPU is visible"),
        (GpuHere("NVIDIA H200", 1, "9.0", "580.65.06", "13.0"), "(sm_90), driver 580.65.06: runs; cubin for the GPU, sm_90 runs on sm_90"),
        (GpuHere("Tesla V100", 1, "7.0", "580.65.06", "13.0"), "fails; RuntimeError: CUDA error: no kernel image is available"),
        (GpuHere("NVIDIA GeForce RTX 4090", 1, "8.9", "550.54.14", "13.0"), "driver on your system is too old (found version 12040)"),
        (GpuHere("NVIDIA H200", 1, "9.0", "580.65", None), "Torch not compiled with CUDA enabled"),
        (GpuHere("NVIDIA H200", 1, None, "580.65", "13.0"), "not decided: its compute capability None"),
        (GpuHere("NVIDIA H200", 1, "9.0", None, "13.0"), "Found no NVIDIA driver"),
        (GpuHere("NVIDIA H200", 1, "9.0", "580.65", "9.1"), "not decided: no GPU code could be read"),
    ],
)
def test_the_doctor_says_its_own_verdict_in_one_line(gpu, words, monkeypatch):
    monkeypatch.setattr(here, "LIBRARIES", ())
    line = here.verdict_here(replace(HERE, gpu=gpu))
    assert words in line and line.startswith("CUDA: ") and "\n" not in line
    assert "not installed" in here.verdict_here(replace(HERE, torch=None))


def test_the_doctor_reads_the_code_out_of_the_installed_torch(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    fat = next(kernel for kernel in kernels() if kernel.target == "fatbin")
    (tmp_path / "lib" / "libtorch_cuda.so").write_bytes(fat.path.read_bytes())
    monkeypatch.setattr(here, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    build = here.torch_build("2.99.0", "13.5")
    assert build.code == ("sm_80", "sm_90a", "sm_100f", "compute_80") and build.isa == "9.5"


@pytest.mark.parametrize(("name", "kind"), [("NVIDIA GeForce RTX 3090", "geforce"), ("NVIDIA A100-SXM4-80GB", "data centre"), ("Orin (nvgpu)", "jetson")])
def test_a_gpus_kind_is_in_its_name(name, kind):
    assert here.kind(name) == kind


# -- figures and panel ---------------------------------------------------------------------------------------------------------


def test_grids_say_their_cells():
    code, verdicts = lesson.code_grid(lesson.shipped().libraries), lesson.verdict_grid("580.65.06")
    assert "CUDA 13.0: cubin sm_75, sm_80" in code.sentence and "PTX compute_120 (ISA 9.0)" in code.sentence
    assert "torch 2.13.0+cu130: fails Tesla V100 (209), Jetson Orin (209); runs T4" in verdicts.sentence
    assert code.png()[:4] == verdicts.png()[:4] == b"\x89PNG"
    assert "Jetson" not in lesson.verdict_grid("580.65.06", "nvidia/cuda:12.1.0-base").sentence
    with pytest.raises(BadInput, match="no place in the grid"):
        charts.grid(["a"], ["b"], {("a", "c"): ("runs", "")})
    with pytest.raises(BadInput, match="nothing to draw"):
        charts.grid([], [], {})


@pytest.fixture(scope="module")
def panel():
    return lesson.panel()


START = {"build": "torch 2.1.0+cu121", "gpu": "A100", "driver": "520.61.05", "image": lesson.NO_IMAGE}


def test_the_panel_shows_the_decision_and_its_rules(panel):
    panel.set(**START)
    found = will_it_run(START["build"], START["gpu"], START["driver"])
    assert found.message in panel.text and found.remedy in panel.text
    assert [passed for passed in panel.record.rules.values() if passed is not None] == [rule.passed for rule in found.rules]
    assert panel.record.cells["torch 2.1.0+cu121", "520"] == ("fails", "35") and panel.record.cells["torch 2.1.0+cu121", "525"] == ("runs", "runs")


def test_every_cell_of_the_panel_is_a_decision(panel):
    panel.set(**START | {"gpu": "RTX 3090", "image": "nvidia/cuda:12.1.0-base"})
    assert len(panel.record.cells) == len(lesson.lineup()) * len(lesson.DRIVERS)
    for (build, branch), (kind, text) in panel.record.cells.items():
        driver = next(driver for driver in lesson.DRIVERS if driver.startswith(branch))
        found = will_it_run(lesson.lineup()[build], "RTX 3090", driver, "nvidia/cuda:12.1.0-base")
        assert (found.verdict, found.short.replace("container refused", "start")) == (kind, text)


def test_the_line_is_drawn_where_the_answer_flips():
    chart = charts.RulePath(["r"], ["a"], ["1", "2", "3"], "x")
    chart.setup(charts.new_figure(chart.height))
    cells = {("a", "1"): ("fails", "35"), ("a", "2"): ("JITs", "JITs"), ("a", "3"): ("runs", "runs")}
    chart.draw(charts.PathRecord({"r": True}, cells, ("a", "1"), "v"))
    xs, ys = chart._flips.get_data()
    assert list(xs[:2]) == [0.5, 0.5] and sorted(ys[:2]) == [-0.5, 0.5] and len(xs) == 3, "one edge, between the first and the second"


def test_every_control_is_drawn_at_its_limits(panel):
    panel.set(**START)
    assert panel.sweep() >= 30
    for gpu in lesson.GPUS:
        panel.set(**START | {"gpu": gpu})
        assert gpu in panel.text


def test_a_jetson_in_an_x86_image_is_answered_in_the_panel(panel):
    assert "choose no image" in panel.set(**START | {"gpu": "Jetson Orin", "image": "nvidia/cuda:12.1.0-base"})
    panel.set(**START)


def test_a_rule_that_the_chart_does_not_have_is_refused():
    chart = charts.RulePath(["r"], ["a"], ["1"], "x")
    chart.setup(charts.new_figure(chart.height))
    with pytest.raises(BadInput, match="no rule other"):
        chart.draw(charts.PathRecord({"other": True}, {("a", "1"): ("runs", "runs")}, ("a", "1"), "v"))


# -- exercises -----------------------------------------------------------------------------------------------------------------


def test_the_reports_have_different_causes_and_each_can_be_mended():
    reports = lesson.reports()
    causes = [report.case.error.name for report in reports]
    assert len(reports) == len(set(causes)) == 5 and "no kernel image" in causes
    assert all(lesson.solutions(report.case, report.may_change) and report.case.message in report.text for report in reports)
    assert lesson.reports(8) == reports and lesson.reports(9) != reports and lesson.show_reports().count("Report ") == 5


@pytest.mark.parametrize("seed", range(3))
def test_reports_of_other_seeds_are_as_good(seed):
    reports = lesson.reports(seed)
    assert len({report.case.error.name for report in reports}) == 5 and all(lesson.solutions(report.case, report.may_change) for report in reports)


def right() -> list[tuple[str, str]]:
    return [(report.case.error.name, lesson.solutions(report.case, report.may_change)[0]) for report in lesson.reports()]


def torchs_rule(code: str, gpu: int) -> bool:
    """Torch's own function, which drops the suffix; it does not know Kepler."""
    number = int(code.partition("_")[2].rstrip("af"))
    return runs_on(code, gpu) if number == 37 else private.code_runs_on(number, gpu)


@pytest.mark.parametrize(
    ("verify", "good", "bad"),
    [
        (lesson._diagnosed, right(), [("driver too old", value) for _, value in right()]),
        (lesson._diagnosed, None, [(cause, "") for cause, _ in right()]),
        (lesson._diagnosed, None, right()[:4]),
        (lesson._diagnosed, None, [1, 2, 3, 4, 5]),
        (lesson._covers, runs_on, lambda code, gpu: True),
        (lesson._covers, runs_on, lambda code, gpu: runs_on(code, gpu) and (code, gpu) != ("sm_101", 110)),
        (lesson._covers, None, torchs_rule),
        (lesson._covers, None, lambda code, gpu: code.partition("_")[2].rstrip("af")[:-1] == str(gpu)[:-1]),
        (lesson._few_targets, ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120"], ["compute_75"]),
        (lesson._few_targets, None, ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"]),
        (lesson._few_targets, None, ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]),
        (lesson._few_targets, None, ["sm_75", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, good, bad):
    assert good is None or verify(good) is None
    assert isinstance(verify(bad), str)


def test_an_image_without_cuda_can_be_written_by_name():
    report = next(report for report in lesson.reports() if report.may_change == "image")
    assert "" in lesson.solutions(report.case, "image")
    answer = [(cause, lesson.SLIM if value == "" else value) for cause, value in right()]
    assert lesson._diagnosed(answer) is None


def test_the_data_file_is_plain_toml_of_short_lines():
    text = (compatibility.resources.files("mllandscape.cuda") / "compatibility.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text) == TABLES and max(map(len, text.splitlines())) <= 160 and "://" not in text


def test_an_own_image_is_taken_as_it_is():
    old = Image("an image with CUDA 11.8", "11.8", {})
    assert will_it_run("torch 2.1.0+cu121", "A100", "535.54.03", old).verdict == "runs"
    assert will_it_run("torch 2.1.0+cu121", "A100", "515.43.04", old).short == "container refused"


def test_a_report_is_answered_as_its_user_would_write_it():
    """The base image by its name, by the panel's label, or as none; a build as pip freeze has it."""
    container = next(report for report in lesson.reports() if report.may_change == "image")
    for without in (lesson.SLIM, lesson.NO_IMAGE, "none", ""):
        assert lesson._with(container.case, "image", without)["image"] == ""
    assert lesson._with(container.case, "build", "torch==2.10.0+cu128")["build"] == "torch 2.10.0+cu128"
    with pytest.raises(BadInput, match="no image 'ubuntu:22.04' is known here: .*, or an Image of your own"):
        will_it_run("torch 2.13.0+cu130", "A100", "580", "ubuntu:22.04")


@pytest.mark.parametrize("missing", ["cuobjdump", "libraries", "a file that none can read"])
def test_listings_are_kept_only_where_every_binary_was_listed(missing, monkeypatch):
    monkeypatch.setattr(record, "save", lambda *_: pytest.fail("the recording was overwritten"))
    library = next(kernel.path for kernel in kernels() if kernel.path.suffix != ".ptx")
    monkeypatch.setattr(listings, "library_paths", lambda: {} if missing == "libraries" else {"13.0": library})
    monkeypatch.setattr(native, "tools", lambda name: [] if missing == "cuobjdump" else [library])
    monkeypatch.setattr(native, "version", lambda tool: "13.0")
    monkeypatch.setattr(listings, "_listed", lambda tools, path: {"file": path.name, "all": []})
    with pytest.raises(BadInput, match="nothing to record.*pip install .*cuda"):
        listings.record_listings()
