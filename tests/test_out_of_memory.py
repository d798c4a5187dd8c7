"""Lesson 3: the ladder on real tensors, the small experiments, the panel at its limits, the exercises and the recorded traces."""

import math
from types import SimpleNamespace

import pytest

from mllandscape import BadInput, machine, record, sandbox
from mllandscape.lessons import out_of_memory as lesson
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.cards import capacity
from mllandscape.memory.measure import Measured


@pytest.fixture(scope="module")
def climbed():
    return lesson.climb(lesson.ACTIVATIONS, lesson.PARAMETERS)


def endings(climbed, ladder):
    return {rung["rung"]: rung["ending"] for rung in climbed[ladder.name]["rungs"]}


def test_activations_are_cured_by_batch_and_checkpointing_and_not_by_an_optimizer(climbed):
    ended = endings(climbed, lesson.ACTIVATIONS)
    assert {name for name, ending in ended.items() if ending == "out of memory"} == {"as it is", "bf16 autocast", "8-bit AdamW"}
    assert {ended[name] for name in ended.keys() - {"as it is", "bf16 autocast", "8-bit AdamW"}} == {"ok"}


def test_model_states_are_cured_by_optimizers_and_not_by_checkpointing(climbed):
    ended = endings(climbed, lesson.PARAMETERS)
    assert {name for name, ending in ended.items() if ending == "out of memory"} == {"as it is", "checkpointing", "bf16 autocast", "fused AdamW"}


@pytest.mark.parametrize("ladder", [lesson.ACTIVATIONS, lesson.PARAMETERS], ids=lambda ladder: ladder.name)
def test_every_rung_that_ran_measured_what_was_predicted(climbed, ladder):
    ran = [rung for rung in lesson.rungs(ladder, climbed) if rung.fits]
    assert len(ran) >= 5
    for rung in ran:
        assert rung.measured == pytest.approx(rung.predicted, rel=0.002), rung.label
    assert all(rung.predicted > ladder.budget for rung in lesson.rungs(ladder, climbed) if not rung.fits)


def test_an_out_of_memory_says_what_was_asked_for(climbed):
    failed = climbed[lesson.ACTIVATIONS.name]["rungs"][0]
    assert 0 < failed["requested"] < lesson.ACTIVATIONS.budget and str(failed["requested"]) in failed["message"]


def test_plans_for_the_same_sequences_have_the_same_losses(climbed):
    losses = {rung["rung"]: rung["losses"] for rung in climbed[lesson.ACTIVATIONS.name]["rungs"]}
    for same in ("checkpointing", "chunked loss", "checkpointing, chunked loss"):
        assert losses[same] == pytest.approx(losses["batch 8 × 2 accumulated"], rel=1e-5)


def test_accelerate_shrinks_the_batch_until_it_fits(climbed):
    tried = climbed[lesson.ACTIVATIONS.name]["batch_sizes"]
    assert tried[0] == lesson.ACTIVATIONS.plan.batch > tried[-1] and tried == sorted(tried, reverse=True)
    fits = [predict(lesson.ACTIVATIONS.shape, lesson.ACTIVATIONS.plan.but(batch=batch)).allocated <= lesson.ACTIVATIONS.budget for batch in tried]
    assert fits == [False] * (len(tried) - 1) + [True]


def test_a_child_that_fails_otherwise_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("killed", error_type="SIGKILL", message=""))
    with pytest.raises(BadInput, match="ended with killed: SIGKILL") as caught:
        lesson.climb(lesson.PARAMETERS)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput):
        lesson.start_climb(lesson.PARAMETERS).result(timeout=10)


def test_accumulation_is_exact_only_where_losses_add_up():
    errors = lesson.accumulation_errors()
    exact = {name for name, error in errors.items() if error < 1e-12}
    assert exact == {"one label a sequence", "sum over tokens / all tokens"}
    assert min(error for name, error in errors.items() if name not in exact) > 0.05


def test_the_usual_loop_drops_a_tail_that_accelerate_steps_on():
    assert lesson.optimizer_steps(10, 4) == {"the source's loop": 2, "Accelerator.accumulate": 3}
    assert lesson.optimizer_steps(8, 4) == {"the source's loop": 2, "Accelerator.accumulate": 2}


def test_saved_bytes_are_linear_in_the_batch_and_shrink_with_checkpointing():
    shape = ModelShape(style="gpt", layers=4, hidden=64, heads=1, vocab=64, context=32)
    one, two, four = (lesson.saved_bytes(shape, TrainingPlan(batch=batch, sequence=32, precision="fp32")) for batch in (1, 2, 4))
    assert four - two == 2 * (two - one) > 0
    assert lesson.saved_bytes(shape, TrainingPlan(batch=4, sequence=32, precision="fp32", checkpointing="full")) < four / 4


def test_autocast_stores_fp32_and_computes_bf16():
    assert lesson.autocast_types() == {"weight": "float32", "gradient": "float32", "first moment": "float32", "output": "bfloat16"}


@pytest.mark.parametrize(
    ("optimizer", "elements", "expected"), [("adamw", 65_536, 8), ("adamw8bit", 65_536, 2 + 2 * 4 / 256), ("adamw8bit", 4095, 8), ("sgd-momentum", 4096, 4)]
)
def test_optimizer_states_have_their_known_size(optimizer, elements, expected):
    assert lesson.state_bytes(optimizer, elements) == expected


def test_bf16_and_fp16_lose_what_fp32_keeps():
    paths = lesson.lost_updates(1000)
    assert paths["bfloat16"] == [1.0] * 1001
    assert paths["float32"][-1] == pytest.approx(0, abs=1e-4)
    assert [math.isfinite(value) for value in lesson.half_precision_adamw()] == [False] * 3


def test_stepping_inside_backward_changes_no_bit_and_frees_the_gradients():
    found = lesson.in_backward_is_identical()
    assert found["identical"] is True
    assert found["gradients, in backward"] < 0.1 < 0.99 < found["gradients, after backward"] <= 1.01


def test_8_bit_adamw_learns_like_32_bit():
    losses = lesson.train_losses(("adamw", "adamw8bit"), steps=30)
    assert losses["adamw"][-1] < losses["adamw"][0] - 1
    assert losses["adamw8bit"][-1] == pytest.approx(losses["adamw"][-1], rel=0.05)


def test_the_bare_checkpoint_call_loses_gradients():
    assert lesson.checkpoint_without_use_reentrant() == {"checkpoint(layer, x)": False, "use_reentrant=False": True}


def test_memory_summary_names_no_fragmentation():
    assert lesson.memory_summary_names() == {"allocated": True, "reserved": True, "fragmentation": False}


def test_recorded_traces_agree_with_todays_predictions():
    recorded = record.load("out_of_memory_ways")
    assert recorded.provenance.kind == "recorded" and recorded.data["ways"].keys() == lesson.WAYS.keys()
    shape = ModelShape(**recorded.data["shape"])
    for name, way in recorded.data["ways"].items():
        assert TrainingPlan(**way["plan"]) == lesson.WAYS[name]
        assert predict(shape, lesson.WAYS[name]).allocated == pytest.approx(way["allocated"], rel=0.005)


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(record, "load", lambda name: None)
    assert "none here" in lesson.gpu_line() and "\n" not in lesson.gpu_line()


def climbed_on_a_cpu(*_, **__):
    rung = {"rung": "as it is", "ending": "out of memory", "requested": 5, "message": "CPU", "losses": []}
    return sandbox.Outcome("ok", [{"rungs": [rung], "batch_sizes": []}])


def test_with_a_gpu_the_first_out_of_memory_is_met_there(monkeypatch):
    message = "CUDA out of memory. Tried to allocate 64.00 MiB. GPU 0 has a total capacity of 8.00 GiB of which 7.00 GiB is free. 230.00 MiB allowed; "
    gpu = machine.Gpu("Some GPU", 8 * 2**30, "8.6", "580", "13.0")
    met = Measured(shape=lesson.ACTIVATIONS.shape, plan=lesson.ACTIVATIONS.plan, ending="out of memory", message=message, parts=lesson.take_apart(message))
    monkeypatch.setattr(sandbox, "call", climbed_on_a_cpu)
    monkeypatch.setattr(machine, "look", lambda torch=False: SimpleNamespace(gpu=gpu))
    monkeypatch.setattr(lesson, "measure", lambda shape, plan, budget, history: met)
    rung = lesson.climb(lesson.ACTIVATIONS)[lesson.ACTIVATIONS.name]["rungs"][0]
    assert (rung["message"], rung["requested"]) == (message, 64 * 2**20) and "Some GPU" in lesson.gpu_line()


def test_with_a_gpu_that_torch_cannot_use_the_cpus_message_stays(monkeypatch):
    def refused(*_, **__):
        raise BadInput("no CUDA GPU that torch can use here")

    monkeypatch.setattr(sandbox, "call", climbed_on_a_cpu)
    monkeypatch.setattr(machine, "look", lambda torch=False: SimpleNamespace(gpu=machine.Gpu("Some GPU", None, None, None, None)))
    monkeypatch.setattr(lesson, "measure", refused)
    assert lesson.climb(lesson.ACTIVATIONS)[lesson.ACTIVATIONS.name]["rungs"][0]["message"] == "CPU"


@pytest.fixture(scope="module")
def panel():
    return lesson.panel()


def test_the_panel_shows_what_predict_says(panel):
    panel.set(size=7.0, batch=2, sequence=1024, precision="bf16", optimizer="sgd", checkpointing="full", card="A100-40GB")
    shape = ModelShape.of_size(panel.controls["size"].value * 1e9)
    expected = predict(shape, TrainingPlan(batch=2, sequence=1024, precision="bf16", optimizer="sgd", checkpointing="full"))
    assert panel.record.bars == expected.phases and panel.record.capacity == capacity("A100-40GB")
    assert str(expected.fits("A100-40GB")) in panel.text


def test_the_verdict_flips_with_the_size(panel):
    panel.set(size=1.0, batch=1, sequence=512, precision="bf16", optimizer="adamw8bit", checkpointing="full", card="A100-80GB")
    assert "fits" in panel.record.verdict and "does not" not in panel.record.verdict
    panel.set(size=65.0)
    assert "does not fit" in panel.record.verdict and panel.record.advice


def test_every_control_is_drawn_at_its_limits(panel):
    assert panel.sweep() >= 2 * len(panel.controls)


def test_advice_that_is_given_is_true(panel):
    panel.set(size=13.0, batch=1, sequence=2048, precision="bf16", optimizer="adamw8bit", checkpointing="full", card="A100-80GB")
    assert "optimizer in backward" in panel.record.advice
    better = TrainingPlan(precision="bf16", optimizer="adamw8bit", checkpointing="full", in_backward=True)
    assert predict(ModelShape.of_size(13e9), better).fits("A100-80GB")


@pytest.mark.parametrize(
    ("verify", "right", "wrong"),
    [
        (
            lesson._fits_13b,
            TrainingPlan(batch=2, sequence=8192, precision="bf16", optimizer="adamw8bit", in_backward=True, checkpointing="full", loss="chunked"),
            TrainingPlan(batch=2, sequence=8192, precision="bf16", optimizer="adamw8bit", checkpointing="full"),
        ),
        (lesson._fits_13b, None, TrainingPlan(batch=2, sequence=8192, precision="bf16", trainable="lora", checkpointing="full")),
        (lesson._fits_13b, None, TrainingPlan(precision="bf16", optimizer="adamw8bit", in_backward=True, checkpointing="full", batch=2, sequence=1024)),
        (lesson._adds_up, lambda sums, tokens: sum(sums) / sum(tokens), lambda sums, tokens: sum(s / t for s, t in zip(sums, tokens, strict=True)) / len(sums)),
        (lesson._profiles_mlp, None, predict(ModelShape.preset("gpt2"), TrainingPlan(sequence=512))),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong):
    assert right is None or verify(right) is None
    assert isinstance(verify(wrong), str)


def test_a_message_is_taken_apart_and_its_parts_add_up():
    message = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.25 GiB is free. "
        "Process 7 has 78.00 GiB memory in use. Of the allocated memory 70.50 GiB is allocated by PyTorch, and 7.00 GiB is reserved by PyTorch but unallocated."
    )
    parts = lesson.take_apart(message)
    assert parts["asked for"] == 2 * 2**30 and parts["context and others"] == 2**29
    assert parts["free"] + parts["in use by this process"] == parts["capacity"]
    assert lesson.take_apart("DefaultCPUAllocator: can't allocate memory: you tried to allocate 67108864 bytes.") == {"asked for": 67_108_864}
    with pytest.raises(BadInput, match="not an out-of-memory"):
        lesson.take_apart("CUDA error: device-side assert triggered")


def test_a_rung_whose_package_is_missing_is_left_out_and_not_called_out_of_memory():
    climbed = {lesson.PARAMETERS.name: {"rungs": [{"rung": "8-bit AdamW", "ending": "not here", "allocated": None}], "batch_sizes": []}}
    assert lesson.rungs(lesson.PARAMETERS, climbed) == []
