"""Lesson 2: graphs against torch's own counters, breaks, guards, what the children compile, the cache, the recording, the panel and the exercises."""

import os
import statistics

import pytest
import torch

from mllandscape import BadInput, charts, record, sandbox
from mllandscape.lessons import torch_compile as lesson

SWEEP = lesson.SWEEP


@pytest.fixture(scope="module", autouse=True)
def started():
    """The children, at work on the other core while the counting tests run."""
    return lesson.start()


@pytest.fixture(scope="module")
def measured(started):
    return started.result(timeout=300)


# -- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "mode", "expected"),
    [
        (lesson.SOURCE, "default", [1, 2, 2]),
        (lesson.SOURCE, "dynamic=True", [1, 1, 1]),
        (lesson.SOURCE, "dynamic=False", [1, 2, 3]),
        (SWEEP, "default", [1] + [2] * 11),
        (SWEEP, "dynamic=True", [1] + [2] * 11),
        (SWEEP, "dynamic=False", [*range(1, 9), 8, 8, 8, 8]),
        (SWEEP, "mark_dynamic", [1] * 12),
        (SWEEP, "padded", [1] * 5 + [2] * 7),
        (SWEEP, "padded, dynamic=False", [1] * 5 + [2] * 7),
        (lesson.ONES, "default", [1, 2, 2, 3, 3, 4, 5]),
        (lesson.ONES, "dynamic=True", [1, 1, 1, 2, 2, 3, 4]),
    ],
)
def test_graphs_are_what_torch_counts(shapes, mode, expected):
    """Counted twice: by the lesson, and here by dynamo's own counting backend, on a block built here."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._dynamo.utils import counters

    counted = lesson.count_graphs("block", shapes, mode)
    assert counted.graphs == expected
    how = lesson.MODES[mode]
    torch.compiler.reset()
    counters.clear()
    backend, block = CompileCounterWithBackend("eager"), lesson.WORKLOADS["block"].build(64, "cpu", 0.1)
    compiled, after = torch.compile(block, backend=backend, **how.options), []
    with lesson._quiet(), torch.no_grad():
        for shape in shapes:
            x = torch.randn(*how.pad(shape), 64)
            lesson._mark(how, [x])
            compiled(x)
            after.append(backend.frame_count)
    assert after == counted.graphs and counters["stats"]["unique_graphs"] == counted.graphs[-1]
    torch.compiler.reset()


def test_the_reason_of_every_recompile_is_torchs():
    counted = lesson.count_graphs("block", lesson.SOURCE, "dynamic=False")
    assert counted.reasons == ["tensor 'x' size mismatch at index 0. expected 2, actual 8", "tensor 'x' size mismatch at index 0. expected 8, actual 4"]
    assert all(reason in repr(counted) for reason in counted.reasons) and "1, 2, 3" in repr(counted)
    ones = lesson.count_graphs("softmax by hand", lesson.ONES, "dynamic=True")
    assert [reason.startswith("2 <= x.size()") for reason in ones.reasons] == [True, True, False] and "sizes 0 and 1" in ones.reasons[0]


def test_beyond_the_limit_calls_run_eager_and_a_higher_limit_compiles_them():
    counted = lesson.count_graphs("block", SWEEP, "dynamic=False")
    assert [call.eager for call in counted.calls] == [False] * 8 + [True] * 4 and counted.eager_calls == 4
    assert "8 (eager)" in repr(counted)
    assert lesson.count_graphs("block", SWEEP, "dynamic=False", limit=16).graphs == list(range(1, 13))


def test_a_length_that_equals_the_width_is_specialised_under_dynamic_true_alone():
    assert lesson.count_graphs("block", SWEEP[1:], "dynamic=True").graphs == [1] * 11
    assert lesson.count_graphs("block", SWEEP[1:4], "dynamic=True", width=80).graphs == [1, 2, 2]
    assert lesson.count_graphs("block", SWEEP, "mark_dynamic").graphs[-1] == 1


def test_unbacked_sizes_need_no_graph_of_their_own_for_0_and_1():
    assert lesson.count_graphs("softmax by hand", lesson.ONES, "mark_unbacked").graphs == [1] * 7


def test_training_is_counted_forward_and_backward():
    assert lesson.count_graphs("block, training", SWEEP[:4]).graphs == [1, 2, 2, 2]


def test_padding_is_the_share_of_what_is_computed():
    counted = lesson.count_graphs("softmax by hand", [(2, 64), (2, 200)], "padded", width=8)
    assert [call.shape for call in counted.calls] == [(2, 128), (2, 256)] and counted.padding == pytest.approx(1 - 264 / 384)


@pytest.mark.parametrize("bad", [{"workload": "x"}, {"mode": "x"}, {"shapes": []}, {"shapes": [(0, 3)]}])
def test_an_impossible_request_is_one_line(bad):
    with pytest.raises(BadInput) as told:
        lesson.count_graphs(**bad)
    assert "\n" not in str(told.value)


# -- guards and breaks ------------------------------------------------------------------------------------------------


def test_guards_hold_a_global_train_and_grad_mode():
    steps = lesson.guards()
    assert [step.graphs for step in steps] == [0, 1, 2, 2, 6, 2, 1, 2, 3, 3]
    assert all(step.right for step in steps) and lesson.factor == 2
    assert "factor" in steps[2].reason and "training == True" in steps[7].reason and "grad_mode" in steps[8].reason
    assert not steps[3].reason, "the first graph is still there"


@pytest.mark.parametrize(
    ("name", "line", "source", "reason", "whole"),
    [
        ("print", 3, 'print("sum", y.sum())', "print|builtin", False),
        ("if on a tensor", 2, "if x.sum() > 0:", "Data-dependent", False),
        (".item()", 2, "total = x.sum().item()", "item", True),
        ("an opaque call", 2, "y = opaque(x * 2)", "disable", False),
        ("a mask", 2, "return x[x > 0] * 2", "Dynamic shape", True),
    ],
)
def test_a_break_is_found_by_its_line_and_mended(name, line, source, reason, whole):
    bad, good = lesson.samples()[name]
    found, mended = lesson.graph_breaks(bad), lesson.graph_breaks(good)
    assert found.graphs == 2 and [entry[:2] for entry in found.breaks] == [(line, source)]
    assert any(word in found.breaks[0][2] for word in reason.split("|"))
    assert (found.fullgraph == "") is whole
    assert (mended.graphs, mended.breaks, mended.fullgraph) == (1, (), "")
    assert f"line {line}: {source}" in repr(found) and "one graph" in repr(mended)
    if name != "a mask":  # whose mended form keeps the shape
        for x in (torch.tensor([1.0, -3.0, 0.5]), torch.tensor([2.0, 1.0, 4.0])):
            with lesson._quiet():
                assert torch.allclose(bad(x), good(x))


@pytest.mark.parametrize("name", ["numpy", "autograd.Function"])
def test_what_is_said_to_break_and_does_not(name):
    found = lesson.graph_breaks(lesson.samples()[name][0])
    assert (found.graphs, found.breaks, found.fullgraph) == (1, (), "")


def test_the_function_of_the_exercise_has_three_breaks():
    found = lesson.graph_breaks(lesson.broken)
    assert found.graphs == 4 and [entry[0] for entry in found.breaks] == [3, 5, 6]


# -- the clock --------------------------------------------------------------------------------------------------------


def test_the_harness_measures_a_known_ratio_of_two():
    x = torch.randn(96, 96)

    def product(times: int):
        for _ in range(times):
            x @ x

    for last in (False, True):  # once more on a busy machine
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        double, single = lesson.interleave(lambda: product(200), lambda: product(100), 21)
        torch.set_num_threads(before)
        ratio = statistics.median(double) / statistics.median(single)
        if 1.6 < ratio < 2.4 or last:
            break
    assert len(double) == len(single) == 21 and 1.6 < ratio < 2.4


def test_the_bytes_and_flops_of_a_call_are_counted():
    chain, size = lesson.work_of("pointwise chain", (2, 16)), 4 * 2 * 16 * 1024
    assert chain == {"flops": 0, "bytes by operation": 30 * 2 * size, "bytes once": 2 * size}
    width = lesson.WORKLOADS["MLP"].width
    assert lesson.work_of("MLP", (2, 16))["flops"] == 2 * 2 * 16 * width * 4 * width * 2
    forward, training = (lesson.work_of(name, (1, 16))["flops"] for name in ("block", "block, training"))
    assert 2.5 * forward < training < 3.2 * forward


@pytest.mark.parametrize(
    ("first", "eager", "compiled", "call"),
    [(4.0, 0.010, 0.005, 800), (1.0, 0.004, 0.003, 1000), (1.0, 0.01, 0.01, None), (1.0, 0.01, 0.02, None), (0, 2, 1, 0)],
)
def test_break_even_is_the_call_that_has_paid(first, eager, compiled, call):
    found = lesson.break_even(first, eager, compiled)
    assert found == call if call is None else found == pytest.approx(call, abs=1)


# -- what the children compiled -----------------------------------------------------------------------------------------


def test_the_children_ran_here(measured):
    assert measured.live, measured.line
    assert {entry["workload"] for entry in measured.cold["timed"]} == set(lesson.WORKLOADS)
    assert "one thread" in measured.line and "\n" not in measured.line


def test_a_stream_compiles_a_graph_a_length_or_two(measured):
    static, dynamic = (measured.calls("RMSNorm + SwiGLU", mode) for mode in ("dynamic=False", "default"))
    assert static.entry["graphs"][:4] == [1, 2, 3, 3] and static.compiling == [0, 1, 2]
    assert dynamic.entry["graphs"][:4] == [1, 2, 2, 2] and dynamic.compiling == [0, 1]
    assert len(static.entry["eager"]) == len(static.entry["compiled"]) == 3 * lesson.ROUNDS
    assert len(static.steady("compiled")) == lesson.ROUNDS - 1 and len(dynamic.steady("compiled", (8, 256))) == lesson.ROUNDS
    assert all(seconds > 0 for one in (static, dynamic) for seconds in one.compile_seconds())


def test_results_agree_with_eager(measured):
    errors = {entry["workload"]: entry["error"] for entry in measured.cold["timed"]}
    assert errors["pointwise chain"] == 0 and max(errors.values()) < 1e-4


def test_the_second_process_compiles_nothing_anew(measured):
    cold, warm = (lesson.cache_totals(measured, again) for again in (False, True))
    graphs = sum(entry["graphs"][-1] for entry in measured.warm["timed"])
    assert cold["fxgraph hit"] == cold["autograd hit"] == 0 and cold["fxgraph miss"] == graphs
    assert warm["fxgraph miss"] == warm["autograd miss"] == 0 and warm["fxgraph hit"] == warm["autograd hit"] == graphs
    assert measured.warm["compilers"] < 0.1 * measured.cold["compilers"], "seconds of g++, which the second process only asks for its version"


def test_operations_are_fused_and_constants_folded_in_the_generated_code(measured):
    kernel = measured.cold["kernel"]
    assert kernel.startswith("cpp_fused_add_clamp_mul_0") and kernel.count("for(") == 1
    assert kernel.count("in_ptr0[") == kernel.count("out_ptr0[") == 1 and "7.0" in kernel
    assert measured.cold["folding"] == {
        "default": {"multiplies at every call": True, "holds weights as constants": False},
        "freezing": {"multiplies at every call": False, "holds weights as constants": True},
    }


def test_the_same_bug_says_less_when_it_is_compiled(measured):
    found = measured.cold["debugging"]
    assert found["lines"] == {"eager": 3, "compiled": 0, "compiled, force_eager": 3}
    assert (found["eager"]["type"], found["eager"]["line"]) == ("IndexError", 2)
    assert found["compiled"]["type"] == "RuntimeError" and found["compiled"]["line"] == 0 and "index out of bounds" in found["compiled"]["message"]
    assert os.sep + "tmp" not in found["compiled"]["message"]


def test_every_view_of_the_timings_says_its_workloads(measured):
    assert all(name in text for text in (lesson.speed_lines(measured), lesson.floor_lines(measured), lesson.work_lines(measured)) for name in lesson.WORKLOADS)
    assert all(name in lesson.cache_lines(measured) for name in lesson.IN_PANEL)
    figures = [charts.durations(rows, title="t") for rows in (lesson.speed_rows(measured), lesson.floor_rows(measured))]
    figures.append(charts.curves(lesson.stream_so_far(measured, "RMSNorm + SwiGLU"), title="t"))
    assert all(figure.png()[:4] == b"\x89PNG" and figure.sentence.startswith("t") for figure in figures)


def test_no_cache_folder_stays_behind(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(lesson.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("timeout"))
    old, new = tmp_path / f"{lesson.FOLDERS}old", tmp_path / f"{lesson.FOLDERS}new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert "timeout" in lesson.measure().line
    assert list(tmp_path.glob(f"{lesson.FOLDERS}*")) == [new], "its own and a forgotten one are removed, another kernel's is not"


def test_without_a_compiler_the_recording_stands_in_and_one_line_says_what_to_install():
    measured = lesson.measure({"CXX": "/bin/false"})
    assert not measured.live and "\n" not in measured.line
    assert "apt install g++" in measured.line and measured.line.startswith("recorded on CPU, torch 2.13.0")
    assert measured.calls("block").entry["graphs"][-1] == 1 and lesson.panel(measured).record.verdict


def test_the_recording_holds_what_a_run_gives(measured):
    kept = record.load(lesson.RECORDING)
    assert kept.provenance.kind == "recorded" and kept.data.keys() == {"cold", "warm"}
    for name in ("cold", "warm"):
        now = getattr(measured, name)
        assert kept.data[name].keys() == now.keys()
        for was, entry in zip(kept.data[name]["timed"], now["timed"], strict=True):
            assert [was[key] for key in ("workload", "mode", "shapes", "graphs", "cache")] == [
                entry[key] for key in ("workload", "mode", "shapes", "graphs", "cache")
            ]
    for name in ("kernel", "folding", "debugging", "work"):
        assert kept.data["cold"][name] == measured.cold[name]


def test_no_compiler_and_no_recording_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("error", message="InductorError: InvalidCxxCompiler: none\nmore"))
    monkeypatch.setattr(record, "load", lambda *_: None)
    with pytest.raises(BadInput, match="no recording") as told:
        lesson.start().result(timeout=10)
    assert "\n" not in str(told.value)


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(record, "load", lambda *_: None)
    assert "no recorded run exists yet" in lesson.gpu_line() and "\n" not in lesson.gpu_line()


# -- the panel ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panel(measured):
    return lesson.panel(measured)


START = {"lengths": 6, "batches": "always 8", "tail": "none", "padding": "none", "mode": "default", "workload": "RMSNorm + SwiGLU", "cache_folder": "empty"}


@pytest.mark.parametrize(
    "choice",
    [
        (1, "always 8", "none", "none", "default"),
        (12, "2, 4 or 8", "1 of 50", "none", "dynamic=False"),
        (5, "2, 4 or 8", "1 of 50", "length", "dynamic=True"),
        (9, "always 8", "1 of 50", "length and batch", "mark_dynamic"),
    ],
)
def test_the_graphs_that_the_panel_looks_up_are_what_torch_counts_now(choice):
    assert lesson._kept_counts()[lesson._key(*choice)] == lesson.count_stream(*choice)


def test_the_recorded_counts_hold_every_setting_of_the_panel(panel):
    options = {name: panel.controls[name].options for name in ("batches", "tail", "padding", "mode")}
    per_length = len(options["batches"]) * len(options["tail"]) * len(options["padding"]) * (len(options["mode"]) + 1)
    assert len(record.load(lesson.COUNTS).data["graphs"]) == 12 * per_length


def test_the_panels_curves_are_what_its_costs_say(panel, measured):
    panel.set(**START | {"lengths": 3})
    known, calls = lesson.costs(measured, "RMSNorm + SwiGLU", False), lesson.stream(3, "always 8", "none")
    xs, ys = panel.record.curves["static"]
    by_hand, seen = known.start, set()
    fixed, rate = known.call["static"]
    for place in range(xs[40]):
        shape = calls.shapes[calls.number[place]]
        by_hand += fixed + rate * shape[0] * shape[1] + (0 if shape in seen else known.graph["static"])
        seen.add(shape)
    assert ys[40] == pytest.approx(by_hand, rel=1e-6)
    assert "3 graphs" in panel.text and "2 graphs" in panel.text


def test_a_mark_is_the_call_from_which_compiled_stays_ahead(panel):
    panel.set(**START | {"workload": "pointwise chain"})
    for label in ("static", "dynamic"):
        at = panel.record.marks[label]
        (xs, eager), (_, compiled) = panel.record.curves["eager"], panel.record.curves[label]
        ahead = [c <= e for c, e in zip(compiled, eager, strict=True)]
        assert at and all(ahead[place] for place, x in enumerate(xs) if x >= at) and not any(ahead[place] for place, x in enumerate(xs) if x < at - 1)
        assert f"from call {at:,} on" in panel.text


def test_a_stream_beyond_the_limit_runs_eager_and_a_filled_cache_costs_less(panel):
    panel.set(**START | {"lengths": 12, "batches": "2, 4 or 8", "tail": "1 of 50"})
    assert "8 graphs, then the recompile limit" in panel.text
    cold = panel.record.curves["static"][1][0]
    panel.set(cache_folder="filled")
    assert panel.record.curves["static"][1][0] < cold / 2
    panel.set(padding="length and batch")
    assert "recompile limit" not in panel.text and "Padding adds" in panel.text


def test_every_control_is_drawn_at_its_limits(panel):
    panel.set(**START)
    assert panel.sweep() >= 2 * len(panel.controls)


def test_curves_refuse_what_they_cannot_show():
    chart = charts.Curves("x", "y")
    with pytest.raises(BadInput, match="above 0"):
        chart.limit(charts.CurvesRecord({"eager": ([1, 2], [0, 1])}, {}, "v"))
    with pytest.raises(BadInput, match="ways"):
        charts.durations([("a", {"eager": 0.0})])
    with pytest.raises(BadInput, match="no curve slow"):
        charts.curves(charts.CurvesRecord({"slow": ([1, 2], [1, 2])}, {}, "v")) and chart.draw(charts.CurvesRecord({"slow": ([1], [1])}, {}, "v"))


# -- exercises ------------------------------------------------------------------------------------------------------------


def still_prints(x):
    y = x / (x.abs().max() + 1.0)
    print("mean", y.mean())
    return torch.where(y.mean() > 0, y * 2, y - 1)


@pytest.mark.parametrize(
    ("verify", "right", "wrong"),
    [
        (lesson._cured, lambda x: (lambda y: torch.where(y.mean() > 0, y * 2, y - 1))(x / (x.abs().max() + 1.0)), lesson.broken),
        (lesson._cured, None, still_prints),
        (lesson._cured, None, lambda x: x * 2),
        (lesson._few_graphs_little_padding, [64, 128, 192, 256], [128, 256]),
        (lesson._few_graphs_little_padding, None, [32, 64, 96, 128, 192, 256]),
        (lesson._few_graphs_little_padding, None, [64, 128]),
        (lesson._when_it_pays, lambda first, eager, compiled: first / (eager - compiled) if eager > compiled else None, lambda *_: 100),
        (lesson._when_it_pays, None, lambda first, eager, compiled: abs(first / (eager - compiled + 1e-9))),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong):
    assert right is None or verify(right) is None
    assert isinstance(verify(wrong), str)
