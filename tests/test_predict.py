"""Predicted bytes are the traced bytes, add up, move the right way, agree with the published bytes per parameter, and need no torch."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.memory.cards import CARDS
from mllandscape.memory.plan import CHOICES, LIMITS, PARALLEL, PARALLEL_CHOICES, PARALLEL_LIMITS, TrainingPlan
from mllandscape.memory.predict import Features, held, predict, program, rounded, unsplit
from mllandscape.memory.profile import PHASES
from mllandscape.memory.shape import ModelShape
from mllandscape.units import MIB

GPT = ModelShape(style="gpt", layers=2, hidden=96, heads=4, vocab=700, context=64)
LLAMA = ModelShape(style="llama", layers=4, hidden=96, heads=4, kv_heads=2, head_dim=40, ffn=136, vocab=700, tied=True, context=64, qkv_bias=True, qk_norm=True)
LLAMA_13B = ModelShape.preset("llama-2-13b")

# Every value of every field of a plan is in here, most of them with others that they interact with.
GRID = (
    {},
    {"precision": "fp32", "attention": "math", "batch": 1},
    {"precision": "bf16", "optimizer": "adamw8bit", "checkpointing": "full", "loss": "chunked", "batch": 5},
    {"precision": "bf16-master", "optimizer": "sgd", "optimizer_impl": "fused", "accumulation": 2},
    {"precision": "bf16-master", "optimizer": "adamw", "in_backward": True, "checkpointing": "full", "loss": "chunked"},
    {"precision": "bf16", "optimizer": "adafactor", "checkpointing": "selective", "sequence": 7},
    {"precision": "fp32", "optimizer": "adafactor", "in_backward": True},
    {"optimizer": "sgd-momentum", "optimizer_impl": "fused", "attention": "math", "checkpointing": "selective", "accumulation": 3},
    {"optimizer": "adamw8bit", "in_backward": True, "loss": "chunked", "sequence": 13},
    {"trainable": "lora", "lora_rank": 4, "attention": "math", "checkpointing": "full"},
    {"trainable": "lora", "precision": "bf16", "optimizer_impl": "fused", "loss": "chunked", "in_backward": True},
)


def outcome(make, *args, **kwargs):
    """What is made, or the one line of the refusal; anything else that is raised fails the test."""
    try:
        return make(*args, **kwargs)
    except BadInput as refusal:
        message = str(refusal)
        assert message and message.isprintable() and len(message) < 400, f"not one line: {message!r}"
        return message


def total(categories: dict[str, int]) -> int:
    return sum(categories.values())


def choices_of(optimizers: tuple[str, ...] = CHOICES["optimizer"]):
    """Fields of any plan of up to 3 × 40 tokens; some combinations are refused."""
    fields_ = {name: st.sampled_from(options) for name, options in CHOICES.items()}
    fields_ |= {"optimizer": st.sampled_from(optimizers), "optimizer_impl": st.sampled_from((None, "fused")), "in_backward": st.booleans()}
    sizes = {"batch": st.integers(1, 3), "sequence": st.integers(2, 40), "accumulation": st.integers(1, 2), "lora_rank": st.sampled_from((1, 4, 8))}
    return st.fixed_dictionaries(fields_ | sizes)


@st.composite
def plans(draw) -> TrainingPlan:
    choices = draw(choices_of())
    if choices["optimizer"] in ("adamw8bit", "adafactor"):
        choices["optimizer_impl"] = None
    if choices["in_backward"]:
        choices["accumulation"] = 1
    if choices["precision"] == "bf16-master":
        choices["trainable"] = "all"
    return TrainingPlan(**choices)


@st.composite
def shapes(draw, layers: int = 6) -> ModelShape:
    heads = draw(st.integers(2, 6))
    common = {
        "layers": draw(st.integers(1, layers)),
        "heads": heads,
        "ffn": draw(st.integers(1, 400)),
        "vocab": draw(st.integers(2, 2000)),
        "tied": draw(st.booleans()),
        "context": draw(st.integers(40, 90)),
    }
    if draw(st.booleans()):
        return ModelShape(style="gpt", hidden=heads * 8 * draw(st.integers(1, 4)), **common)
    return ModelShape(
        style="llama",
        hidden=draw(st.integers(8, 200)),
        head_dim=8 * draw(st.integers(1, 5)),
        kv_heads=draw(st.sampled_from([count for count in range(1, heads + 1) if heads % count == 0])),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        **common,
    )


# -- against the trace ---------------------------------------------------------------------------------------------------


def test_random_shapes_and_plans_are_predicted_within_the_promised_bounds():
    from mllandscape.memory.trace import trace

    errors = []

    @settings(max_examples=12, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(shapes(layers=4), plans())
    def compare(shape, plan):
        traced = trace(shape, plan).allocated
        errors.append(abs(predict(shape, plan).allocated - traced) / traced)
        assert errors[-1] <= 0.02

    compare()
    assert len(errors) >= 10
    assert sum(errors) / len(errors) <= 0.005


@pytest.mark.parametrize(
    ("shape", "changes"),
    [(LLAMA, changes) for changes in GRID] + [(GPT, changes) for changes in GRID[::2]] + [(GPT, GRID[1])],
    ids=lambda part: part.style if isinstance(part, ModelShape) else " ".join(f"{name}={value}" for name, value in part.items()) or "default",
)
def test_every_category_of_every_phase_is_predicted_to_the_byte(shape, changes):
    from mllandscape.memory.trace import trace

    plan = TrainingPlan(**{"batch": 2, "sequence": 32} | changes)
    predicted, traced = predict(shape, plan), trace(shape, plan)
    assert predicted.phases == traced.phases
    assert (predicted.allocated, predicted.peak_phase, predicted.terms) == (traced.allocated, traced.peak_phase, traced.terms)


def test_a_peak_in_one_of_the_last_blocks_of_many_is_found():
    """With full checkpointing and large adapters each block of the backward pass leaves more than it lets go."""
    from mllandscape.memory.trace import trace

    shape = ModelShape(style="gpt", layers=6, hidden=80, heads=2, ffn=69, vocab=168, context=64)
    plan = TrainingPlan(batch=1, sequence=31, attention="math", checkpointing="full", loss="chunked", trainable="lora", lora_rank=8, optimizer="sgd")
    assert predict(shape, plan).phases == trace(shape, plan).phases


def test_the_grid_has_every_value_of_every_choice():
    plans_ = [TrainingPlan(**changes) for changes in GRID]
    for name, options in CHOICES.items():
        assert {getattr(plan, name) for plan in plans_} - {None} == set(options)


def test_the_predicted_timeline_is_as_high_as_the_traced_one():
    from mllandscape.memory.trace import trace

    plan = TrainingPlan(batch=2, sequence=32, precision="bf16", checkpointing="full")
    predicted, traced = predict(LLAMA, plan, timeline=True), trace(LLAMA, plan)
    for phase in PHASES:
        highest = [max(moment.total for moment in profile.timeline if moment.phase == phase) for profile in (predicted, traced)]
        assert highest[0] == highest[1] == total(traced.phases[phase])


# -- what holds for every prediction ------------------------------------------------------------------------------------


@given(shapes(), plans())
def test_terms_add_up_and_the_peak_is_the_largest_phase(shape, plan):
    profile = predict(shape, plan)
    assert total(profile.terms) == profile.allocated
    assert profile.terms == profile.phases[profile.peak_phase]
    assert profile.allocated == max(total(terms) for terms in profile.phases.values())
    assert list(profile.phases) == [phase for phase in PHASES if phase != "optimizer step" or not plan.in_backward]
    assert all(isinstance(count, int) and count > 0 and count % 512 == 0 for terms in profile.phases.values() for count in terms.values())


@given(shapes(), plans())
def test_the_bands_lie_in_order_around_what_is_allocated(shape, plan):
    profile = predict(shape, plan)
    assert profile.allocated + total(profile.cuda_only) == profile.reserved.low <= profile.reserved.high
    assert profile.reserved.low < profile.device.low < profile.device.high
    assert profile.reserved.high < profile.device.high
    assert profile.reserved.high >= 1.25 * profile.reserved.low - 1


def test_without_reuse_between_activations_and_gradients_more_is_reserved_than_a_quarter():
    """Plain SGD holds nothing else that lasts. A run of torch's own allocator, on such a plan, reserved 36 % more than it allocated."""
    plan = TrainingPlan(sequence=2048, optimizer="sgd")
    of_sgd, of_adam = (predict(ModelShape.preset("llama-2-7b"), plan.but(optimizer=name)).reserved for name in ("sgd", "adamw"))
    assert of_sgd.high > 1.36 * of_sgd.low
    assert of_adam.high < 1.36 * of_adam.low


@given(st.integers(1, 200 * MIB))
def test_a_rest_of_a_segment_up_to_a_mebibyte_stays_with_its_block(count):
    """Blocks of one size that fill a segment, rest included, are the segment; a larger rest is split off and can be used."""
    got = rounded(count) + unsplit(count)
    segment = 20 * MIB if count < 10 * MIB else -(-count // (2 * MIB)) * 2 * MIB
    blocks = segment // rounded(count)
    assert 0 <= unsplit(count) <= MIB
    if count > MIB:
        assert segment - blocks < blocks * got <= segment or (unsplit(count) == 0 and segment - blocks * rounded(count) > MIB)
    else:
        assert unsplit(count) == 0  # the small pool splits off every block of 512 B


def test_a_matrix_of_gpt2_xl_in_a_segment_of_its_own():
    assert (unsplit(1600 * 6400 * 4), unsplit(1600 * 1600 * 4), unsplit(1600 * 4), unsplit(4096 * 4096 * 4)) == (983040, 245760, 0, 0)


@pytest.mark.parametrize(
    ("preset", "changes", "mebibytes"),
    [
        ("llama-2-7b", {}, 64),
        ("gpt2", {}, 65),
        ("gpt2", {"checkpointing": "full"}, 66),
        ("gpt2", {"checkpointing": "selective"}, 65),
        ("qwen2.5-0.5b", {}, 65),
    ],
)
def test_each_thread_has_a_cublas_handle_and_one_for_biases(preset, changes, mebibytes):
    assert predict(ModelShape.preset(preset), TrainingPlan(sequence=1024, **changes)).cuda_only["cuBLAS workspaces"] == mebibytes * MIB


@given(shapes(), plans(), st.sampled_from(["batch", "sequence", "layers"]))
def test_more_sequences_more_tokens_or_more_layers_never_need_less(shape, plan, what):
    bigger_shape = replace(shape, layers=shape.layers + 1, context=2 * shape.context) if what == "layers" else shape
    if what != "layers":  # torch cuts nine tokens into five chunks and eight into eight: with a chunked loss a token more can need a scalar less
        plan = plan.but(loss="full")
    bigger_plan = plan if what == "layers" else plan.but(**{what: getattr(plan, what) + 1})
    assume(bigger_plan.sequence <= shape.context)
    assert predict(bigger_shape, bigger_plan).allocated >= predict(shape, plan).allocated


@given(shapes(), plans())
def test_checkpointing_never_keeps_more(shape, plan):
    kept = {
        way: {name: count for name, count in predict(shape, plan.but(checkpointing=way), timeline=True).timeline[-1].live.items()}
        for way in CHOICES["checkpointing"]
    }
    assert kept["none"] == kept["full"] == kept["selective"], "after the step nothing is left of it"
    forward = {way: total(predict(shape, plan.but(checkpointing=way)).phases["forward"]) for way in CHOICES["checkpointing"]}
    assert forward["full"] <= forward["none"]
    if plan.attention == "math":
        assert forward["selective"] <= forward["none"]


@given(shapes(), plans())
def test_a_fused_optimizer_never_needs_more_than_foreach(shape, plan):
    assume(plan.optimizer_impl)
    assert predict(shape, plan.but(optimizer_impl="fused")).allocated <= predict(shape, plan.but(optimizer_impl="foreach")).allocated


@given(shapes(), plans())
def test_stepping_inside_the_backward_pass_never_has_all_gradients(shape, plan):
    assume(plan.accumulation == 1 and shape.layers > 1 and plan.precision != "bf16-master")
    ordinary, inside = predict(shape, plan.but(in_backward=False)), predict(shape, plan.but(in_backward=True))
    assert "optimizer step" not in inside.phases
    assert inside.phases["backward"].get("gradients", 0) < ordinary.phases["optimizer step"]["gradients"]


@given(shapes(layers=4), plans())
def test_the_timeline_rises_to_the_peak_and_returns_to_what_is_held(shape, plan):
    profile, before = predict(shape, plan, timeline=True), +held(shape, plan)
    assert max(moment.total for moment in profile.timeline) == profile.allocated
    for moment in profile.timeline:
        assert all(moment.live[name] >= before[name] for name in ("parameters", "optimizer states", "master weights", "inputs") if before[name])
    last = [moment for moment in profile.timeline if moment.phase == "backward"][-1]
    assert total(before) < profile.timeline[0].total <= total(before) + 4096 * 200, "the first thing made is the embedded tokens"
    left = dict(last.live)
    left.pop("gradients", None)
    before.pop("gradients", None)
    assert left == before | {"activations": 512}, "the loss, one block, outlives the backward pass"


def test_a_prediction_costs_the_same_for_any_number_of_layers():
    for changes in GRID:
        plan = TrainingPlan(**changes)
        few, many = (program(Features.of(replace(LLAMA, layers=layers), plan)) for layers in (3, 300))
        assert few is many
        assert sum(len(stretch.keys) for stretch in many.forward + many.backward) < 3000


def test_the_depth_of_a_model_adds_the_same_for_each_layer():
    plan = TrainingPlan(batch=2, sequence=32, precision="bf16", optimizer="sgd")
    sizes = [predict(replace(LLAMA, layers=layers), plan).allocated for layers in (10, 20, 30)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


# -- against what is published -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bytes_per_parameter", "changes"),
    [
        (16.0, {"precision": "fp32"}),
        (16.0, {"precision": "amp-bf16"}),  # autocast leaves weights, gradients and states in fp32
        (16.0, {"precision": "bf16-master"}),  # 2 + 2 + 4 + 8 (Rajbhandari et al., arXiv 1910.02054, section 3.1)
        (8.0, {"precision": "bf16"}),  # torch's AdamW keeps bf16 states for bf16 weights
        (6.031, {"precision": "bf16", "optimizer": "adamw8bit"}),  # an fp32 absmax for 256 elements
        (4.001, {"precision": "bf16", "optimizer": "adafactor"}),  # a row and a column of second moments for each matrix
        (6.0, {"precision": "bf16", "optimizer": "sgd-momentum"}),
        (4.0, {"precision": "bf16", "optimizer": "sgd"}),
    ],
    ids=str,
)
def test_a_13b_model_holds_the_known_bytes_per_parameter(bytes_per_parameter, changes):
    plan = TrainingPlan(accumulation=2, **changes)  # between two micro-batches all gradients are there
    live = held(LLAMA_13B, plan)
    static = total(live) - live["inputs"]
    assert round(static / 13_015_864_320, 3) == bytes_per_parameter
    assert predict(LLAMA_13B, plan).allocated > static


@pytest.mark.parametrize(("bytes_per_parameter", "optimizer"), [(4.031, "adamw8bit"), (2.001, "adafactor"), (2.0, "sgd")])
def test_a_13b_model_stepped_inside_the_backward_pass_holds_no_gradients(bytes_per_parameter, optimizer):
    live = held(LLAMA_13B, TrainingPlan(precision="bf16", optimizer=optimizer, in_backward=True))
    assert round((total(live) - live["inputs"]) / 13_015_864_320, 3) == bytes_per_parameter


def test_lora_states_belong_to_the_adapters_alone():
    plan = TrainingPlan(precision="bf16", trainable="lora", lora_rank=16)
    live = held(LLAMA_13B, plan)
    # q, k, v, out, gate, up and down of 40 layers, each with 16 rows of its inputs and 16 columns of its outputs
    adapters = 40 * 16 * (4 * (5120 + 5120) + 3 * (5120 + 13_824))
    assert live["parameters"] == 2 * (13_015_864_320 + adapters)
    assert live["optimizer states"] == 2 * 2 * adapters + 512 * 40 * 7 * 2  # two bf16 moments, and a step count in a block of its own


def test_flash_attention_keeps_a_log_sum_exp_and_eager_attention_its_maps():
    plan = TrainingPlan(batch=2, sequence=64, precision="fp32")
    maps = predict(LLAMA, plan.but(attention="math")).phases["backward"]["attention maps"]
    one = 2 * 4 * 64 * 64  # batch × heads × tokens × tokens
    assert maps >= (LLAMA.layers - 1) * (4 * one + 64 * 64)  # the fp32 softmax and the mask of every block but the last
    assert "attention maps" not in predict(LLAMA, plan).terms


def test_fits_turns_exactly_at_the_capacity():
    profile = predict(LLAMA, TrainingPlan(batch=2, sequence=32))
    low, high = profile.device.low, profile.device.high
    answers = [(capacity, profile.fits(capacity)) for capacity in (high + 1, high, high - 1, low, low - 1)]
    assert [verdict.fits for _, verdict in answers] == ["yes", "yes", "tight", "tight", "no"]
    assert [verdict.margin for _, verdict in answers] == [1, 0, -1, low - high, -1]
    assert [bool(verdict) for _, verdict in answers] == [True, True, False, False, False]
    assert all(verdict.capacity == capacity and str(verdict).isprintable() for capacity, verdict in answers)


def test_a_13b_model_does_not_fit_on_an_80_gb_card_with_torch_adamw_alone():
    plan = TrainingPlan(batch=1, sequence=2048, precision="bf16")
    for way in CHOICES["checkpointing"]:
        assert predict(LLAMA_13B, plan.but(checkpointing=way)).fits("A100-80GB").fits == "no"
    assert predict(LLAMA_13B, plan.but(optimizer="adafactor", in_backward=True, checkpointing="full")).fits("A100-80GB")
    assert CARDS["A100-80GB"].capacity == round(79.15 * 2**30)


def test_rounded_is_the_next_block():
    assert [rounded(count) for count in (0, 1, 511, 512, 513)] == [0, 512, 512, 512, 1024]


# -- bad input and imports ----------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([10**5000, -(10**5000), float("nan"), 1.0, "2", object(), "AdamW", "a\nb", "\u2028", [[]], {1}, frozenset()]),
)


@given(st.sampled_from([field.name for field in fields(TrainingPlan)]), ODD)
def test_any_wrong_value_of_a_plan_is_refused_in_one_line(name, value):
    made = outcome(TrainingPlan, **{name: value})
    limit, options = (LIMITS | PARALLEL_LIMITS).get(name), (CHOICES | PARALLEL_CHOICES).get(name)
    if name in PARALLEL:  # of one rank only the default makes sense
        assert isinstance(made, str) or getattr(made, name) == value == getattr(TrainingPlan(), name)
    allowed = type(value) is int and 1 <= value <= limit if limit and name not in PARALLEL else None
    if allowed is not None:
        assert isinstance(made, TrainingPlan) == allowed
    elif isinstance(made, TrainingPlan):
        assert getattr(made, name) is value or (name == "optimizer_impl" and value is None) or name in PARALLEL
        assert value is None or isinstance(value, bool) or name in PARALLEL or value in options
    if isinstance(made, str):
        assert name in made


@given(choices_of())
def test_combinations_are_accepted_or_refused_in_one_line(choices):
    made = outcome(TrainingPlan, **choices)
    refused = choices["in_backward"] and choices["accumulation"] > 1
    refused |= choices["optimizer"] in ("adamw8bit", "adafactor") and choices["optimizer_impl"] is not None
    refused |= choices["trainable"] == "lora" and choices["precision"] == "bf16-master"
    assert isinstance(made, str) == refused
    if not refused:
        assert predict(GPT, made).allocated > 0


def test_arrays_are_refused_like_any_other_wrong_value():
    import numpy

    for name in (field.name for field in fields(TrainingPlan)):
        assert name in outcome(TrainingPlan, **{name: numpy.zeros((3, 3))})


def test_changing_a_field_that_a_plan_has_not_is_refused():
    assert "learning_rate" in outcome(TrainingPlan().but, learning_rate=1)
    assert "optimizer_impl" in outcome(TrainingPlan().but, optimizer="adafactor", optimizer_impl="fused")
    assert TrainingPlan(optimizer_impl="fused").but(optimizer="adafactor").optimizer_impl is None


@given(st.integers(-3, 200))
def test_a_gpt_takes_no_more_tokens_than_it_has_positions(extra):
    plan = TrainingPlan(sequence=max(1, GPT.context + extra))
    made = outcome(predict, GPT, plan)
    assert isinstance(made, str) == (plan.sequence > GPT.context)
    assert not isinstance(outcome(predict, LLAMA, plan), str), "rotary positions have no table to outgrow"


def test_the_trace_refuses_too_many_tokens_with_the_same_line():
    from mllandscape.memory.trace import run, trace

    plan = TrainingPlan(sequence=GPT.context + 1)
    assert "learned positions" in outcome(predict, GPT, plan) == outcome(trace, GPT, plan) == outcome(run, GPT, plan)


@given(ODD)
def test_a_capacity_that_is_none_is_refused_in_one_line(value):
    made = outcome(predict(GPT, TrainingPlan(sequence=8)).fits, value)
    assert isinstance(made, str) or made.capacity > 0


def test_predicting_imports_no_torch():
    code = (
        "import sys; from mllandscape.memory import ModelShape, TrainingPlan, predict;"
        "predict(ModelShape.preset('llama-2-13b'), TrainingPlan(precision='bf16'), timeline=True).fits('A100-80GB');"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'ipywidgets', 'bitsandbytes'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
