"""The estimate's table adds up, its verdict is the capacity's, and its proposed changes fit, in order of cost, with nothing to spare."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.memory.cards import CARDS, SIZES, capacity, label
from mllandscape.memory.estimate import cheapest_changes, report
from mllandscape.memory.plan import CHOICES, TrainingPlan
from mllandscape.memory.predict import predict
from mllandscape.memory.shape import ModelShape

GIB = 2**30
LLAMA_13B = ModelShape.preset("llama-2-13b")


def test_80_gb_on_the_box_is_what_an_a100_shows():
    assert capacity("A100-80GB") == capacity("a100 80gb") == capacity("80GB") == round(79.15 * GIB)
    assert label("80GB") == "80GB, taken as A100-80GB (79.15 GiB = 84.99 GB usable)"
    assert label("a100-80gb") == "A100-80GB (79.15 GiB = 84.99 GB usable)"


def test_any_other_size_means_what_it_says():
    assert capacity("78GB") == 78 * 10**9
    assert capacity("80GiB") == 80 * GIB
    assert capacity("79.15GiB") == round(79.15 * GIB)
    assert capacity(10**9) == 10**9
    assert label("78GB") == "72.64 GiB = 78.00 GB"


def test_every_card_names_its_source_and_holds_less_than_its_box_says():
    assert all(re.search(r"\w+/[\w.-]+#\d+|deviceQuery", card.source) for card in CARDS.values())
    for size, name in SIZES.items():
        box = int(size.removesuffix("GB"))
        assert 0.89 * box * GIB < CARDS[name].capacity < box * GIB
    for name, card in CARDS.items():
        if box := re.search(r"-(\d+)GB", name):
            assert 0.89 * int(box[1]) * GIB < card.capacity < int(box[1]) * GIB


@pytest.mark.parametrize("card", ["", "A1000", "80 parsecs", "-3GB", "0GB", 0, -1, True, 80.0, None, "9" * 400 + "GB", 10**30, "a\nb"])
def test_an_unknown_card_is_one_clear_line_that_lists_the_cards(card):
    with pytest.raises(BadInput) as caught:
        capacity(card)
    assert str(caught.value).isprintable() and all(name in str(caught.value) for name in CARDS)


@given(st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.from_regex(r"\d{1,6}(\.\d+)? ?[kMGT]?i?B", fullmatch=True)))
def test_any_card_is_a_capacity_or_one_clear_line(card):
    try:
        assert capacity(card) > 0
        assert label(card).isprintable() or "\n" not in label(card)
    except BadInput as problem:
        assert str(problem).isprintable()


def test_a_name_that_is_not_whole_is_answered_with_those_that_begin_with_it():
    with pytest.raises(BadInput, match=r"did you mean A100-40GB or A100-80GB\?"):
        capacity("a100")
    for card in ("potato", "", "8589934"):
        with pytest.raises(BadInput) as caught:
            capacity(card)
        assert "did you mean" not in str(caught.value) and "8589934592B, up to 1,000 TB" in str(caught.value)
    assert capacity("8589934592B") == 8 * GIB and capacity("1000TB") == 10**15


def test_what_a_change_takes_is_called_its_price():
    changes = str(report(LLAMA_13B, TrainingPlan(batch=4), "80GB")).partition("cheapest changes")[2]
    assert "price: " in changes and "costs" not in changes


def test_the_table_that_is_printed_adds_up():
    text = str(report(LLAMA_13B, TrainingPlan(batch=4, precision="bf16", optimizer="adamw8bit"), "80GB"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.match(r".*\d+\.\d\d\s+\d+\.\d\d\s+\d+\.\d\d$", line)]
    terms, (gb, gib) = rows[:-2], rows[-2:]
    assert gb[0] == "allocated, GB" and gib[0] == "allocated, GiB" and len(terms) >= 4
    for phase in (1, 2, 3):
        assert sum(float(row[phase]) for row in terms) == pytest.approx(float(gb[phase]), abs=0.005 * (len(terms) + 1))
        assert float(gib[phase]) * GIB / 10**9 == pytest.approx(float(gb[phase]), abs=0.012)
    profile = predict(LLAMA_13B, TrainingPlan(batch=4, precision="bf16", optimizer="adamw8bit"))
    assert max(float(cell) for cell in gb[1:]) == round(profile.allocated / 10**9, 2)


def test_the_json_is_in_bytes_and_its_parts_add_up():
    answer = json.loads(json.dumps(report(LLAMA_13B, TrainingPlan(batch=4), "80GB").to_json()))
    assert answer["unit"] == "bytes"
    assert sum(answer["terms"].values()) == answer["allocated"] == sum(answer["phases"][answer["peak_phase"]].values())
    assert answer["card"]["capacity"] == round(79.15 * GIB)
    assert TrainingPlan(**answer["changes"][0]["plan"]) == cheapest_changes(LLAMA_13B, TrainingPlan(batch=4), "80GB")[0].plan


def test_a_step_that_fits_needs_no_change():
    answer = report(ModelShape.preset("gpt2"), TrainingPlan(batch=1, sequence=1024), "80GB")
    assert answer.verdict and answer.changes == ()
    assert "fits" in str(answer) and "change" not in str(answer)


def test_a_step_that_nothing_makes_fit_says_so():
    answer = report(ModelShape.preset("llama-3-405b"), TrainingPlan(), "8GB")
    assert answer.verdict.fits == "no" and answer.changes == ()
    assert str(answer).endswith("no 3 changes of the plan together make it fit on one such card")


def test_13b_in_pure_bf16_fits_by_other_states_and_by_gradients_that_go_at_once():
    """104 GB of weights, gradients and states; 78 without gradients, 52 without states (13,015,864,320 parameters × 8, 6, 4 bytes)."""
    plan = TrainingPlan(batch=1, precision="bf16", optimizer_impl="fused")
    labels = [change.label for change in cheapest_changes(LLAMA_13B, plan, "80GB", n=20)]
    assert "Adafactor" in labels and "LoRA of rank 16" in labels
    assert not {"full checkpointing", "chunked loss"} & set(labels), "no checkpointing takes 104 GB to 79.15 GiB"


def test_an_unknown_card_is_refused_before_anything_is_searched():
    with pytest.raises(BadInput, match="H200"):
        report(LLAMA_13B, TrainingPlan(), "abacus")


@st.composite
def plans(draw):
    values = {name: draw(st.sampled_from(options)) for name, options in CHOICES.items() if name != "optimizer_impl"}
    values |= {"batch": draw(st.integers(1, 64)), "sequence": draw(st.sampled_from([128, 1024])), "accumulation": draw(st.integers(1, 4))}
    try:
        return TrainingPlan(**values, in_backward=draw(st.booleans()))
    except BadInput:
        return TrainingPlan(batch=values["batch"], sequence=values["sequence"])


@settings(max_examples=15, deadline=None)
@example(TrainingPlan(sequence=128, precision="bf16-master"), "gpt2-xl", "24GB")  # LoRA brings pure bf16 along, which alone is enough
@given(plans(), st.sampled_from(["gpt2-xl", "llama-3.2-1b", "llama-2-13b"]), st.sampled_from(["8GB", "24GB", "80GB", 5 * 10**9]))
def test_the_changes_fit_keep_the_batch_and_have_no_needless_half(plan, name, card):
    shape = ModelShape.preset(name)
    changes = cheapest_changes(shape, plan, card, n=100)
    assert [change.plan for change in cheapest_changes(shape, plan, card)] == [change.plan for change in changes[:3]]
    if predict(shape, plan).fits(card):
        assert changes == []
    for change in changes:
        profile = predict(shape, change.plan)
        assert profile.fits(card) and profile.allocated == change.allocated
        if not change.plan.in_backward:
            assert change.plan.batch * change.plan.accumulation == plan.batch * plan.accumulation
        for field, value in change.plan.to_json().items():
            if value != getattr(plan, field) and field not in ("batch", "accumulation", "optimizer_impl"):
                assert not fits_without(shape, plan, change.plan, field, card), f"{change.label}: {field} was not needed"


def fits_without(shape, plan, changed, field, card) -> bool:
    undone = {field: getattr(plan, field)}
    if field == "in_backward":  # the same move gives up accumulation, which cannot go with it
        undone |= {"accumulation": plan.accumulation, "batch": plan.batch}
    try:
        return bool(predict(shape, changed.but(**undone)).fits(card))
    except BadInput:
        return False


@settings(max_examples=10, deadline=None)
@given(plans(), st.sampled_from(["gpt2-xl", "qwen3-8b", "llama-3-405b"]), st.sampled_from(["8GB", "RTX-4090", "80GB", "33GiB", 10**9]))
def test_every_report_is_at_most_a_hundred_columns_wide(plan, name, card):
    text = str(report(ModelShape.preset(name), plan, card))
    assert max(map(len, text.splitlines())) <= 100
