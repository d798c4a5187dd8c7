"""Lesson 4: its tables, the recording, the panel at its limits, the exercises. The ranks themselves are held by test_parallel.py."""

import pytest

from mllandscape import BadInput, record
from mllandscape.lessons import ddp_vs_fsdp as lesson
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.cards import capacity


@pytest.fixture(scope="module")
def trained():
    return {2: lesson.train_on_ranks(2)}


def test_the_table_of_shares_is_what_the_ranks_held(trained):
    rows = {name: cells for name, *cells in lesson.shares(trained).rows}
    assert rows["2 ranks, FSDP"] == ["0.500", "0.500", "0.500", "9 all-gather, 5 reduce-scatter"]
    assert rows["2 ranks, DDP"][:3] == ["1.000", "1.000", "1.000"]
    assert rows["2 ranks, FSDP, root only"][3] == "1 all-gather, 1 reduce-scatter"
    assert rows["2 ranks, FSDP, all resharded"][3] == "10 all-gather, 5 reduce-scatter"
    for cells in rows.values():
        assert all(cell in repr(lesson.shares(trained)) and cell in lesson.shares(trained)._repr_html_() for cell in cells)


def test_the_usual_table_is_corrected_by_the_ranks(trained):
    table = lesson.comparison(ModelShape.preset("llama-2-7b"), 2, trained)
    cells = {name: row for name, *row in table.rows}
    assert "2N" in cells["communication"][2] and cells["communication"][3] == "9 all-gather, 5 reduce-scatter"
    assert cells["gradient memory"][3].startswith("0.500")
    assert "1.48 times" in cells["sent by a rank, llama-2-7b on 8, all bf16"][3]


def test_ranks_that_fail_are_one_line(monkeypatch):
    from mllandscape import ranks

    monkeypatch.setattr(ranks, "run_ranks", lambda *_, **__: ranks.Ranks("failed", [None, None], 1, message="rank 1 was killed by SIGKILL"))
    with pytest.raises(BadInput, match="rank 1 was killed by SIGKILL; free") as told:
        lesson.start_training(2).result(timeout=10)
    assert "\n" not in str(told.value)


def test_the_source_as_written_does_not_run():
    assert lesson.source_as_written() == "NameError: name 'FSDP' is not defined"


def test_recorded_traces_agree_with_todays_predictions():
    recorded = record.load("ddp_vs_fsdp_ranks")
    assert recorded.provenance.kind == "recorded" and TrainingPlan(**recorded.data["plan"]) == lesson.RECIPE
    assert {(entry["model"], entry["ranks"]) for entry in recorded.data["traced"]} == {(name, ranks) for name in lesson.MODELS for ranks in lesson.RANKS}
    for entry in recorded.data["traced"]:
        predicted = predict(ModelShape.preset(entry["model"]), lesson.RECIPE.but(ranks=entry["ranks"]))
        assert (predicted.allocated, predicted.peak_phase, predicted.terms) == (entry["allocated"], entry["peak_phase"], entry["terms"])


def test_a_live_trace_takes_the_place_of_the_recorded_one():
    live = predict(ModelShape.preset("llama-2-7b"), lesson.RECIPE)
    rows = lesson.one_rank_of_many({8: live})
    assert [label for label, _ in rows if "traced now" in label] == ["llama-2-7b, 1 of 8, traced now"]
    assert len(rows) == 9 and rows[0][1]["traced"] == live.allocated


def test_the_floor_does_not_fall_with_the_states():
    curves = lesson.floor_of(ModelShape.preset("llama-2-13b"), lesson.RECIPE)
    (ranks, peak), (_, states) = curves["all at the peak"], curves["parameters, gradients, optimizer states"]
    at = {count: (peak[place], states[place]) for place, count in enumerate(ranks)}
    assert at[64][1] == pytest.approx(at[8][1] / 8, rel=0.01)
    assert at[1024][0] > 0.6 * at[64][0] > 20 * at[1024][1], "from 64 to 1,024 ranks the peak hardly falls"
    assert at[16_384][0] > at[1024][0], "padded layers"


@pytest.fixture(scope="module")
def panel():
    return lesson.panel()


def test_the_panel_shows_what_predict_says(panel):
    panel.set(size=7.0, batch=2, sequence=1024, ranks=64, strategy="zero2", precision="amp-bf16", optimizer="sgd", checkpointing="none", card="A100-40GB")
    shape = ModelShape.of_size(panel.controls["size"].value * 1e9)
    plan = TrainingPlan(batch=2, sequence=1024, precision="amp-bf16", optimizer="sgd")
    assert panel.record.bars == {
        "one GPU": predict(shape, plan).terms,
        **{name: predict(shape, plan.but(strategy=name, ranks=64)).terms for name in ("ddp", "zero1", "zero2", "fsdp", "hsdp")},
    }
    assert panel.record.capacity == capacity("A100-40GB")
    assert str(predict(shape, plan.but(strategy="zero2", ranks=64)).fits("A100-40GB")) in panel.text


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_fewest_gpus_fit_and_half_of_them_do_not(strategy):
    shape, plan = ModelShape.of_size(30e9), TrainingPlan(precision="bf16", checkpointing="full")
    found = lesson.fewest(shape, plan, strategy, "A100-80GB")
    if strategy == "ddp":
        assert found is None
    else:
        assert predict(shape, plan.but(strategy=strategy, ranks=found)).fits("A100-80GB")
        assert not predict(shape, plan.but(strategy=strategy, ranks=found // 2)).fits("A100-80GB")


def test_every_control_is_drawn_at_its_limits_and_hsdp_needs_sixteen(panel):
    panel.set(size=13.0, batch=1, sequence=2048, ranks=8, strategy="fsdp", precision="bf16", optimizer="adamw", checkpointing="full", card="A100-80GB")
    assert panel.sweep() >= 2 * len(panel.controls)
    assert "shard_group=8 with ranks=8" in panel.set(strategy="hsdp")
    assert "hsdp on 16 GPUs" in panel.set(ranks=16)
    assert "one GPU" in panel.set(ranks=1).splitlines()[0]
    assert "no master weights" in panel.set(ranks=8, strategy="zero1", precision="bf16-master")


@pytest.mark.parametrize(
    ("verify", "right", "wrong"),
    [
        (lesson._fewest_for_70b, TrainingPlan(ranks=16, **lesson.BEST), TrainingPlan(ranks=20, **lesson.BEST)),
        (lesson._fewest_for_70b, None, TrainingPlan(ranks=8, **lesson.BEST)),
        (lesson._fewest_for_70b, None, TrainingPlan(ranks=16, **lesson.BEST | {"precision": "bf16"})),
        (
            lesson._counts_gathers,
            lambda blocks, ranks, reshard, times: (times * (blocks + 1 + {True: blocks + 1, None: blocks, False: 0}[reshard]), times * (blocks + 1)),
            lambda blocks, ranks, reshard, times: (2 * ranks, ranks),
        ),
        (lesson._lowers_the_floor, None, ({"activations": 1, "optimizer states": 2}, lesson.RECIPE)),
        (lesson._lowers_the_floor, None, [1, 2]),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong):
    assert right is None or verify(right) is None
    assert isinstance(verify(wrong), str)


def test_the_third_exercise_takes_the_two_largest_terms_and_a_lower_peak():
    before = lesson.RECIPE.but(ranks=1024)
    terms = predict(ModelShape.preset("llama-2-13b"), before).terms
    named = {name: terms[name] for name in sorted(terms, key=terms.get)[-2:]}
    assert lesson._lowers_the_floor((named, before.but(prefetch=0, reduce_dtype=None))) is None
    assert "is not that" in lesson._lowers_the_floor(({name: 2 * count for name, count in named.items()}, before))
    assert "lower it by a tenth" in lesson._lowers_the_floor((named, before))
    assert "batch is changed" in lesson._lowers_the_floor((named, before.but(batch=2)))


def test_ranks_of_the_lessons_compute_on_the_cpu(monkeypatch):
    """They are CPU code: where there are GPUs, NCCL would have no backend for them."""
    from mllandscape import ranks
    from mllandscape.lessons import fsdp_downsides

    seen = []
    monkeypatch.setattr(ranks, "run_ranks", lambda *_, env, **__: seen.append(env) or ranks.Ranks("failed", [], message="no"))
    monkeypatch.setattr(fsdp_downsides, "run_ranks", ranks.run_ranks)
    with pytest.raises(BadInput):
        lesson.train_on_ranks(2)
    fsdp_downsides.launch("rank 1 raises")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == ["", ""]


def test_a_second_start_waits_for_the_first(monkeypatch):
    import threading

    go = threading.Event()
    monkeypatch.setattr(lesson, "train_on_ranks", lambda ranks: go.wait(10) and ranks)
    first = lesson.start_training(3)
    assert lesson.start_training(3) is first
    go.set()
    assert first.result(timeout=10) == {3: 3}
    assert lesson.start_training(3) is not first
