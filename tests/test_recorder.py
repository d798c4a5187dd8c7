"""The recorder: its parts and their time plan, what is skipped and resumed, what a failure or Ctrl-C leaves, and every recording held to today's predictions.

No GPU is here: runs are made up from what the tracer or the arithmetic says. Such recordings are called synthetic, and go to a temporary folder only.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mllandscape import BadInput, cli, record, recorder, sandbox, units
from mllandscape.lessons import EXPERIMENTS, ddp_vs_fsdp, out_of_memory, torch_compile
from mllandscape.memory import ModelShape, TrainingPlan, accuracy, card_ladder, predict
from mllandscape.memory.cards import capacity
from mllandscape.memory.measure import Card, Instant, Measured, take_apart

SYNTHETIC = "synthetic, no GPU"
H200 = Card(
    name=SYNTHETIC, capacity=150_120_693_760, free=149 * units.GB, outside=600 * units.MIB, capability="9.0", driver="580.0", cuda="13.0", torch="2.11.0",
    python="3.12.3", packages=["accelerate", "bitsandbytes", "numpy"],
)  # fmt: skip
LAPTOP = replace(H200, capacity=8 * units.GIB, free=7 * units.GIB, outside=400 * units.MIB, packages=["numpy"])
MESSAGE = (
    "CUDA out of memory. Tried to allocate 40.00 MiB. GPU 0 has a total capacity of 139.81 GiB of which 60.00 GiB is free. Including non-PyTorch memory, "
    "this process has 79.15 GiB memory in use. 78.56 GiB allowed; Of the allocated memory 78.00 GiB is allocated by PyTorch, and 500.00 MiB is reserved by "
    "PyTorch but unallocated."
)


def pretended(wanted, *, seconds=600, progress=None):
    """What a GPU would measure if it allocated what is predicted, two workspaces and a little for rounding; beyond the budget it is out of memory."""
    done = []
    for number, one in enumerate(wanted, 1):
        if progress:
            progress(f"{number} of {len(wanted)}")
        terms = predict(one.shape, one.plan).terms
        requested = sum(terms.values()) + 64 * units.MIB
        measured = Measured(shape=one.shape, plan=one.plan, budget=one.budget, requested=requested, allocated=round(1.002 * requested))
        if one.budget and measured.allocated > one.budget:
            done.append(replace(measured, ending="out of memory", message=MESSAGE, parts=take_apart(MESSAGE), failed="step 0, backward"))
            continue
        history = tuple(Instant(phase, requested // 2, requested) for phase in ("forward", "backward")) if one.history else ()
        ran = {"reserved": round(1.1 * measured.allocated), "workspaces": 64 * units.MIB, "tracked": terms, "seconds": (0.5, 0.4), "history": history}
        done.append(replace(measured, **ran))
    return done


def pretended_child(target, /, *, seconds=60, progress=None, env=None, **kwargs):
    """What the children of the parts would answer that do not go through ``measure_each``."""
    if target.endswith(":search_here"):
        return sandbox.Outcome("ok", [64, 57, 51])
    if target.endswith(":load_on_gpu"):
        loads = [{"file": name, "code": 0, "error": "CUDA_SUCCESS", "text": "no error", "ran": True, "seconds": 0.001} for name in kwargs["files"]]
        return sandbox.Outcome("ok", {"gpu": SYNTHETIC, "capability": 90, "cuda": "13.0", "loads": loads})
    assert target.endswith(":gpu_child"), target
    timings = [record.restore(torch_compile.Timing, given) for given in kwargs["timings"]]
    timed = [timing(one, mode, kwargs["again"]) for one in timings for mode in one.modes]
    if kwargs["again"]:
        return sandbox.Outcome("ok", {"start": 0.5, "timed": timed})
    work = {one.name: {"flops": 10**9, "bytes by operation": 10**9, "bytes once": 10**8} for one in timings}
    return sandbox.Outcome("ok", {"start": 5.0, "timed": timed, "rates": {"bytes a second": 4e12, "FLOP/s": 5e13}, "work": work, "kernel": "def triton_"})


def timing(one, mode, again):
    shapes = [list(shape) for shape in one.shapes] * (1 if again else torch_compile.GPU_ROUNDS)
    compiled = [0.5 if place < len(one.shapes) else 2e-4 for place in range(len(shapes))]
    cache = {"fxgraph hit": int(again), "fxgraph miss": int(not again), "autograd hit": int(again), "autograd miss": int(not again)}
    graphs = [min(place + 1, len(one.shapes)) for place in range(len(shapes))]
    took = {"eager": [5e-4] * len(shapes), "compiled": compiled, "graphs": graphs}
    return {"workload": one.name, "mode": mode, "shapes": shapes, "error": 0.0, "cache": cache} | took


@pytest.fixture
def pretend(monkeypatch):
    """Everything below the recorder answers without a GPU; the list grows with each measurement that is asked for."""
    asked = []

    def measure_each(wanted, **options):
        asked.append(len(wanted))
        return pretended(wanted, **options)

    for module in (recorder, card_ladder, ddp_vs_fsdp):
        monkeypatch.setattr(module, "measure_each", measure_each)
    monkeypatch.setattr(sandbox, "call", pretended_child)
    monkeypatch.setattr(recorder, "card", lambda: H200)
    return asked


def part(name):
    return next(one for one in recorder.PARTS if one.name == name)


def record_all(folder, card=H200, names=()):
    """Synthetic recordings of every part, as ``mllandscape record`` would write them."""
    said = []
    failed = recorder.run(recorder.chosen(names), folder, say=said.append)
    assert not failed, failed
    return said


# -- the parts ---------------------------------------------------------------------------------------------------------------


def test_every_part_has_a_lesson_a_recording_of_its_own_and_less_than_nine_minutes():
    names, files = [one.name for one in recorder.PARTS], [one.recording for one in recorder.PARTS]
    assert len(set(names)) == len(names) and len(set(files)) == len(files)
    assert {name[:2] for name in names} == {"02", "03", "04", "08"}
    assert all(5 <= one.seconds <= 9 * 60 for one in recorder.PARTS) and sum(one.seconds for one in recorder.PARTS) <= 20 * 60


def test_what_the_doctor_promises_of_a_gpu_some_part_records():
    promised = {experiment.recording for experiment in EXPERIMENTS if "cuda" in experiment.needs and experiment.recording}
    assert promised <= {one.recording for one in recorder.PARTS}


@pytest.mark.parametrize("card", [H200, LAPTOP], ids=["H200", "8 GB"])
def test_a_plan_is_json_scales_to_the_card_and_has_a_fingerprint(card):
    for one in recorder.PARTS:
        plan = one.plan(card)
        if plan is not None:
            assert recorder.version(json.loads(json.dumps(plan))) == recorder.version(one.plan(card))
    assert part("03.grid-13b").plan(LAPTOP) is None and part("03.ladder-8gb").plan(LAPTOP) is None


def test_the_ladder_is_13b_in_an_a100s_bytes_on_a_large_card_and_smaller_on_a_smaller_one():
    large, small, laptop = (part(name).plan(card) for name, card in (("03.ladder", H200), ("03.ladder-8gb", H200), ("03.ladder", LAPTOP)))
    assert large["shape"] == ModelShape.preset("llama-2-13b").to_json() and large["limit"] == capacity("A100-80GB") and large["skipped"] == {}
    assert large["budget"] == large["limit"] - H200.outside
    assert 1e9 < ModelShape(**small["shape"]).parameters < 1.5e9 and small["limit"] < 8 * units.GIB
    assert laptop["limit"] == LAPTOP.free + LAPTOP.outside and ModelShape(**laptop["shape"]).parameters < 1.5e9
    assert laptop["skipped"].keys() == {rung for rung in card_ladder.RUNGS if "8-bit" in rung} | {"find_executable_batch_size"} and not laptop["search"]


def test_some_rungs_cannot_fit_and_some_must_on_every_card():
    for card, name in ((H200, "03.ladder"), (H200, "03.ladder-8gb"), (LAPTOP, "03.ladder")):
        plan = part(name).plan(card)
        need = {rung["rung"]: predict(ModelShape(**plan["shape"]), TrainingPlan().but(**rung["plan"])).reserved for rung in plan["rungs"]}
        assert need["as it is"].low > 1.5 * plan["budget"]
        assert sum(band.high < plan["budget"] for band in need.values()) >= 3
        assert need[card_ladder.REMEMBERED].high < plan["budget"]


# -- running them --------------------------------------------------------------------------------------------------------------


def test_all_parts_are_recorded_told_and_read_back(pretend, tmp_path):
    said = record_all(tmp_path)
    for one in recorder.PARTS:
        kept = record.load(one.recording, tmp_path)
        assert kept.data["version"] == recorder.version(one.plan(H200)), one.name
        assert kept.provenance.device == SYNTHETIC and kept.provenance.command == one.command and kept.provenance.kind == "recorded"
        assert any(line.startswith(f"{one.name} (") and f"about {one.seconds} s" in line for line in said)
        assert (tmp_path / f"{one.recording}.json").stat().st_size < 200_000
    assert not any("look at this" in line for line in said), said
    assert said[-1].startswith("the grid: ")


def test_a_second_run_skips_what_is_there_and_again_redoes_it(pretend, tmp_path):
    record_all(tmp_path, names=["03.ladder"])
    before = (tmp_path / "out_of_memory_gpu.json").read_bytes()
    said = record_all(tmp_path, names=["03.ladder"])
    assert len(pretend) == 1 and any("kept, recorded on" in line for line in said)
    recorder.run(recorder.chosen(["03.ladder"]), tmp_path, again=True, say=said.append)
    assert len(pretend) == 2 and (tmp_path / "out_of_memory_gpu.json").read_bytes() == before


@pytest.mark.parametrize("how", ["another card", "another package", "damaged", "another layout"])
def test_a_recording_that_is_not_this_plans_is_made_again(pretend, tmp_path, monkeypatch, how):
    record_all(tmp_path, names=["03.ladder"])
    path = tmp_path / "out_of_memory_gpu.json"
    if how == "another card":
        monkeypatch.setattr(recorder, "card", lambda: LAPTOP)
    elif how == "another package":
        monkeypatch.setattr(recorder, "card", lambda: replace(H200, packages=["numpy"]))
    elif how == "damaged":
        path.write_text(path.read_text().replace("llama", "Llama", 1))
    else:
        record.save("out_of_memory_gpu", ["an old one"], H200.provenance("x"), tmp_path)
    record_all(tmp_path, names=["03.ladder"])
    assert len(pretend) == 2 and record.load("out_of_memory_gpu", tmp_path).data["version"]


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(pretend, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ddp_vs_fsdp, "measure_each", interrupted)
        assert cli.main(["record", "--only", "03.ladder", "--only", "04", "--folder", str(tmp_path)]) == 130
    assert "goes on with the next" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out_of_memory_gpu.json"] and record.load("out_of_memory_gpu", tmp_path)
    assert cli.main(["record", "--only", "03.ladder", "--only", "04", "--folder", str(tmp_path)]) == 0
    assert len(pretend) == 2 and record.load("ddp_vs_fsdp_gpu", tmp_path)


def test_a_part_that_fails_is_told_and_the_next_is_run(pretend, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise BadInput("the measurement ended with timeout: stopped at its time limit of 1 s")

    monkeypatch.setattr(card_ladder, "measure_each", fails)
    assert cli.main(["record", "--only", "03.ladder", "--only", "08", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "03.ladder (1 of 2) failed: the measurement ended with timeout" in said and record.load("cuda_mismatch_gpu", tmp_path)
    assert not (tmp_path / "out_of_memory_gpu.json").exists()


def test_rungs_without_their_package_are_named_as_skipped(pretend, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "card", lambda: replace(H200, packages=["numpy"]))
    said = record_all(tmp_path, names=["03.ladder"])
    assert sum("skipped: " in line and "needs bitsandbytes" in line for line in said) == 3 and any("needs accelerate" in line for line in said)
    assert record.load("out_of_memory_gpu", tmp_path).data["batch_sizes"] == []


def test_a_name_is_a_part_or_how_some_begin():
    assert [one.name for one in recorder.chosen(["03.ladder"])] == ["03.ladder"]
    assert [one.name for one in recorder.chosen(["03.grid"])] == [f"03.grid-{size}" for size in accuracy.SHAPES]
    assert {one.name for one in recorder.chosen(["02", "04.ranks"])} == {"02.modes", "02.autotune", "04.ranks"}
    assert recorder.chosen([]) == list(recorder.PARTS)


def test_the_command_lists_its_parts_and_refuses_others_in_one_line(tmp_path, capsys):
    assert cli.main(["record", "--list", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(one.name in out for one in recorder.PARTS) and out.count("not recorded") == len(recorder.PARTS)
    assert cli.main(["record", "--only", "09"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path, capsys):
    assert cli.main(["record", "--folder", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no CUDA GPU that torch can use here" in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_recorder_itself_imports_nothing_heavy():
    script = "import sys, mllandscape.recorder; print([name for name in ('torch', 'numpy', 'matplotlib', 'ipywidgets', 'nbformat') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stdout.strip() == "[]"


# -- every recording, held to today's predictions ----------------------------------------------------------------------------------


def problems(folder):
    """What of the recordings in a folder does not hold today: each part's own check, and the bar over the whole grid."""
    told = []
    for one in recorder.PARTS:
        if kept := record.load(one.recording, folder):
            told += [f"{one.name}: {problem}" for problem in one.check(kept.data)]
    grid = recorder.recorded_grid(folder)
    return told + (grid.problems() if grid else [])


def test_the_recordings_of_the_package_hold_today():
    """Nothing is recorded on a GPU yet: then this looks at nothing. A formula that moves away from what was measured turns it red."""
    assert problems(record.FOLDER) == []


def test_synthetic_recordings_hold(pretend, tmp_path):
    record_all(tmp_path)
    assert problems(tmp_path) == [] and len(recorder.recorded_grid(tmp_path).cells) >= 60


def test_a_formula_that_moves_away_is_found_in_the_recordings(pretend, tmp_path, monkeypatch):
    record_all(tmp_path, names=["03.ladder", "03.grid-1b", "04"])
    real = predict

    def moved(shape, plan):
        profile = real(shape, plan)
        return replace(profile, allocated=round(1.05 * profile.allocated))

    monkeypatch.setattr(sys.modules["mllandscape.memory.measure"], "predict", moved)
    told = problems(tmp_path)
    for name in ("03.ladder", "03.grid-1b", "04.ranks"):
        assert any(line.startswith(f"{name}: ") and "when it was recorded" in line for line in told), name


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("03.ladder", lambda data: data["rungs"][0].update(measured=data["rungs"][0]["measured"] | {"ending": "ok", "seconds": [1.0]}), "ran, although"),
        ("03.ladder", lambda data: data["rungs"][-1]["measured"].update(ending="out of memory", parts={"asked for": 1}), "ran out of memory, although"),
        ("03.ladder", lambda data: data["rungs"][0]["measured"].update(parts={}), "says no size"),
        ("03.ladder", lambda data: data["rungs"][-1]["measured"].update(left=2 * units.MIB), "behind"),
        ("03.ladder", lambda data: data.update(batch_sizes=[8, 16]), "batch sizes"),
        ("03.grid-1b", lambda data: data["cells"][0]["measured"].update(ending="error", message="CUDA error"), "CUDA error"),
        ("04.ranks", lambda data: data["ranks"][0]["measured"].update(ending="not here", message="no kernel"), "no kernel"),
        ("08.kernels", lambda data: [row.update(ran=False) for row in data["loads"]], "no kernel ran"),
        ("02.modes", lambda data: data["cold"]["timed"][0].update(eager=[1e-9] * 24), "less than its floor"),
        ("02.modes", lambda data: data["cold"]["timed"][0].update(error=1.0), "differs"),
        ("02.modes", lambda data: [entry["cache"].update({"fxgraph hit": 0}) for entry in data["warm"]["timed"]], "nothing in the cache"),
    ],
)
def test_each_check_sees_what_it_is_there_for(pretend, tmp_path, name, change, words):
    record_all(tmp_path, names=[name])
    data = record.load(part(name).recording, tmp_path).data
    assert part(name).check(data) == []
    change(data)
    assert any(words in problem for problem in part(name).check(data))


# -- and what the notebooks show of them ----------------------------------------------------------------------------------------------


@pytest.fixture
def shown(pretend, tmp_path, monkeypatch):
    """The lessons' functions, with synthetic recordings in place of the package's."""
    record_all(tmp_path)
    load = record.load
    monkeypatch.setattr(record, "load", lambda name, folder=tmp_path: load(name, folder))
    for lesson in (out_of_memory, ddp_vs_fsdp, torch_compile):
        lesson.gpu_run.cache_clear()
    yield
    for lesson in (out_of_memory, ddp_vs_fsdp, torch_compile):
        lesson.gpu_run.cache_clear()


FIGURES = (out_of_memory.gpu_ladder, out_of_memory.gpu_history, ddp_vs_fsdp.gpu_ranks, torch_compile.gpu_speeds)


def test_a_recording_is_shown_with_its_device_and_its_day(shown):
    for figure in FIGURES:
        drawn = figure()
        assert SYNTHETIC in drawn.sentence and "recorded on" in drawn.sentence and "computed here" not in drawn.sentence, figure.__name__
        assert drawn.png().startswith(b"\x89PNG")
    assert SYNTHETIC in repr(torch_compile.gpu_compiling()) and "empty cache" in repr(torch_compile.gpu_compiling())
    assert SYNTHETIC in out_of_memory.gpu_line() and SYNTHETIC in torch_compile.gpu_line()


def test_without_a_recording_nothing_is_shown_and_one_line_says_why(monkeypatch):
    monkeypatch.setattr(record, "load", lambda name, folder=None: None)
    for lesson in (out_of_memory, ddp_vs_fsdp, torch_compile):
        lesson.gpu_run.cache_clear()
    assert [figure() for figure in (*FIGURES, torch_compile.gpu_compiling)] == [None] * (len(FIGURES) + 1)
    assert "none here and no recorded run yet" in out_of_memory.gpu_line() and "no recorded run exists yet" in torch_compile.gpu_line()
    for lesson in (out_of_memory, ddp_vs_fsdp, torch_compile):
        lesson.gpu_run.cache_clear()
