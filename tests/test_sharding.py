"""Sharded plans: predicted bytes are those of torch's own fully_shard, collectives are those that it calls, and what never may happen."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.memory import ModelShape, TrainingPlan, predict, sharding, trace
from mllandscape.memory.plan import PARALLEL_CHOICES, SHARDED
from mllandscape.memory.predict import Features, program
from tests.test_predict import GPT, LLAMA, LLAMA_13B, outcome, shapes, total

# Every value of every field that only a sharded plan has, most of them with others that they interact with.
GRID = (
    {"ranks": 4, "precision": "fp32"},
    {"ranks": 4, "reduce_dtype": "fp32", "checkpointing": "full", "prefetch": 2},
    {"ranks": 3, "prefetch": 0, "attention": "math", "checkpointing": "selective", "optimizer": "sgd-momentum"},
    {"ranks": 8, "precision": "bf16-master", "reshard_after_forward": True, "loss": "chunked"},
    {"ranks": 4, "precision": "bf16-master", "in_backward": True},
    {"ranks": 4, "precision": "fp32", "wrap": "root", "accumulation": 2},
    {"ranks": 100, "precision": "bf16", "optimizer_impl": "fused", "reduce_dtype": "fp32", "in_backward": True},
    {"ranks": 2, "trainable": "lora", "lora_rank": 4, "wrap": "root"},
    {"ranks": 5, "trainable": "lora", "accumulation": 2, "reshard_after_forward": False},
    {"ranks": 8, "strategy": "zero2", "precision": "bf16", "reduce_dtype": "bf16"},
    {"ranks": 8, "strategy": "hsdp", "shard_group": 4},
    {"ranks": 8, "strategy": "hsdp", "shard_group": 2, "precision": "fp32", "accumulation": 2},
    {"ranks": 32, "strategy": "hsdp", "precision": "bf16", "in_backward": True, "prefetch": 1},
)


def plan_of(changes) -> TrainingPlan:
    return TrainingPlan(**{"batch": 2, "sequence": 32, "strategy": "fsdp"} | changes)


@st.composite
def sharded_plans(draw) -> TrainingPlan:
    choices = {
        "strategy": draw(st.sampled_from(SHARDED)),
        "ranks": draw(st.sampled_from((2, 4, 6, 16))),
        "wrap": draw(st.sampled_from(("block", "block", "root"))),
        "prefetch": draw(st.sampled_from((None, None, 0, 1, 3))),
        "reduce_dtype": draw(st.sampled_from((None, "fp32", "bf16"))),
        "precision": draw(st.sampled_from(("fp32", "amp-bf16", "bf16", "bf16-master"))),
        "optimizer": draw(st.sampled_from(("adamw", "sgd", "sgd-momentum"))),
        "checkpointing": draw(st.sampled_from(("none", "full", "selective"))),
        "attention": draw(st.sampled_from(("flash", "math"))),
        "loss": draw(st.sampled_from(("full", "chunked"))),
        "trainable": draw(st.sampled_from(("all", "all", "lora"))),
        "batch": draw(st.integers(1, 2)),
        "sequence": draw(st.integers(2, 40)),
        "accumulation": draw(st.integers(1, 2)),
    }
    if choices["strategy"] == "hsdp":
        choices |= {"ranks": 2 * choices["ranks"], "shard_group": choices["ranks"]}
    if choices["strategy"] != "zero2":
        choices["reshard_after_forward"] = draw(st.sampled_from((None, True, False)))
    if choices["precision"] == "bf16-master":
        choices["trainable"] = "all"
    if choices["accumulation"] == 1:
        choices["in_backward"] = draw(st.booleans())
    return TrainingPlan(**choices)


# -- against the trace of torch's own fully_shard --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", GRID, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()))
@pytest.mark.parametrize("shape", [replace(LLAMA, layers=6), GPT], ids=["llama", "gpt"])
def test_every_category_of_every_phase_is_predicted_to_the_byte(shape, changes):
    predicted, traced = predict(shape, plan_of(changes)), trace(shape, plan_of(changes))
    assert predicted.phases == traced.phases
    assert (predicted.allocated, predicted.peak_phase, predicted.terms) == (traced.allocated, traced.peak_phase, traced.terms)


def test_random_shapes_and_plans_are_predicted_within_the_promised_bounds():
    errors = []

    @settings(max_examples=12, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(shapes(layers=7), sharded_plans())
    def compare(shape, plan):
        traced = trace(shape, plan).allocated
        errors.append(abs(predict(shape, plan).allocated - traced) / traced)
        assert errors[-1] <= 0.02

    compare()
    assert len(errors) >= 10 and sum(errors) / len(errors) <= 0.005


def test_the_grid_has_every_sharded_strategy_and_choice():
    plans = [plan_of(changes) for changes in GRID]
    assert {plan.strategy for plan in plans} == set(SHARDED)
    for name in ("wrap", "reduce_dtype"):
        assert {getattr(plan, name) for plan in plans} - {None} == set(PARALLEL_CHOICES[name])
    assert {plan.reshard_after_forward for plan in plans} == {None, True, False}


def test_a_trace_leaves_torch_as_it_was():
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups

    before = torch.UntypedStorage.resize_, groups.foreach_reduce, groups.FSDPParamGroup.unshard
    trace(GPT, plan_of(GRID[0]))
    assert before == (torch.UntypedStorage.resize_, groups.foreach_reduce, groups.FSDPParamGroup.unshard) and not dist.is_initialized()


@pytest.mark.parametrize("strategy", ["ddp", "zero1"])
def test_what_torch_cannot_trace_is_refused_by_name(strategy):
    assert strategy in outcome(trace, GPT, TrainingPlan(strategy=strategy, ranks=2, sequence=8))
    assert "16,384" in outcome(trace, GPT, TrainingPlan(strategy="fsdp", ranks=2048, sequence=8))
    assert predict(GPT, TrainingPlan(strategy=strategy, ranks=16_384, sequence=8)).allocated > 0


# -- collectives against torch's own count ----------------------------------------------------------------------------------


def counted(shape, plan) -> dict[str, int]:
    """Calls by kind in one step of the real fully_shard, counted by torch's CommDebugMode."""
    from torch.distributed.tensor.debug import CommDebugMode

    from mllandscape.memory import parallel, reference
    from mllandscape.memory.tracker import Tracker
    from mllandscape.torch_private import FakeTensorMode, fake_ranks

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with fake_ranks(plan.ranks):
        mesh = parallel.mesh_of(plan, "cpu")
        with mode:
            model, inputs = reference.make_model(shape, plan), reference.make_inputs(shape, plan)
            parallel.shard(model, plan, mesh)
        ids, targets, rotary = inputs
        tracker, found = Tracker(), {}
        with mode, tracker, tracker.following_shards():
            for micro_batch in range(plan.accumulation):
                with CommDebugMode() as debug:  # it takes one forward pass
                    model(ids[micro_batch], targets[micro_batch], rotary).backward()
                for kind, count in parallel.by_kind(debug.get_comm_counts()).items():
                    found[kind] = found.get(kind, 0) + count
        return found


@pytest.mark.parametrize("changes", GRID, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()))
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_collectives_are_those_that_torch_calls(changes):
    shape = replace(LLAMA, layers=4)
    assert sharding.counts(shape, plan_of(changes)) == counted(shape, plan_of(changes))


@given(st.integers(1, 90), st.sampled_from((2, 8, 64, 1024)))
def test_l_wrapped_modules_gather_2l_times_and_reduce_l_times_whatever_the_ranks(layers, ranks):
    shape = replace(LLAMA, layers=layers)
    wrapped = layers + 1
    everywhere = sharding.counts(shape, plan_of({"ranks": ranks, "reshard_after_forward": True}))
    assert everywhere == {"all-gather": 2 * wrapped, "reduce-scatter": wrapped}
    assert sharding.counts(shape, plan_of({"ranks": ranks})) == {"all-gather": 2 * wrapped - 1, "reduce-scatter": wrapped}
    assert sharding.counts(shape, plan_of({"ranks": ranks, "reshard_after_forward": False})) == {"all-gather": wrapped, "reduce-scatter": wrapped}


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_fsdp_moves_one_and_a_half_times_what_ddp_moves(ranks):
    def wire(**changes):
        return sum(call.wire for call in sharding.collectives(LLAMA_13B, TrainingPlan(precision="bf16", ranks=ranks, **changes)))

    assert wire(strategy="fsdp", reshard_after_forward=True) == pytest.approx(1.5 * wire(strategy="ddp"), rel=1e-3)
    assert wire(strategy="zero2") == pytest.approx(wire(strategy="ddp"), rel=1e-3)
    assert wire(strategy="ddp") == pytest.approx(2 * (ranks - 1) / ranks * 2 * LLAMA_13B.parameters, rel=1e-6)


def test_buckets_hold_every_gradient_once_and_close_at_their_limit():
    plan = TrainingPlan(strategy="ddp", ranks=2, precision="fp32", bucket_mb=25)
    found = sharding.buckets(ModelShape.preset("gpt2"), plan)
    assert sum(found) == ModelShape.preset("gpt2").parameters
    assert all(4 * count >= 25 * 2**20 for count in found[1:-1]) and 4 * found[0] >= 2**20


# -- what holds for every sharded prediction ---------------------------------------------------------------------------------


@given(shapes(), sharded_plans())
def test_terms_add_up_and_the_peak_is_the_largest_phase(shape, plan):
    profile = predict(shape, plan)
    assert total(profile.terms) == profile.allocated == max(total(terms) for terms in profile.phases.values())
    assert all(isinstance(count, int) and count > 0 and count % 512 == 0 for terms in profile.phases.values() for count in terms.values())


@given(shapes(layers=5), sharded_plans())
def test_the_timeline_rises_to_the_peak_and_ends_where_it_began(shape, plan):
    profile = predict(shape, plan, timeline=True)
    assert max(moment.total for moment in profile.timeline) == profile.allocated
    left = [moment for moment in profile.timeline if moment.phase == "backward"][-1].live
    assert {"gathered layers", "reduce-scatter buffers", "unsharded gradients", "temporaries"}.isdisjoint(left)


def test_model_states_are_one_nth_and_the_rest_is_not():
    whole = predict(LLAMA_13B, TrainingPlan(precision="bf16")).phases["optimizer step"]
    for ranks in (2, 8, 64):
        part = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="fsdp", ranks=ranks)).phases["optimizer step"]
        for mine, all_ in (("sharded parameters", "parameters"), ("gradient shards", "gradients"), ("optimizer states", "optimizer states")):
            assert part[mine] == pytest.approx(whole[all_] / ranks, rel=1e-3)
    many = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="fsdp", ranks=1024)).phases["forward"]
    assert many["activations"] > 10 * many["sharded parameters"] and many["gathered layers"] > 10 * many["sharded parameters"]


def test_wrapping_only_the_root_gathers_the_whole_model():
    root = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="fsdp", ranks=8, wrap="root"))
    assert root.phases["forward"]["gathered layers"] >= 2 * LLAMA_13B.parameters
    assert root.allocated > 2 * predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="fsdp", ranks=8)).allocated


def test_ddp_adds_its_buckets_and_shards_nothing():
    alone = predict(LLAMA_13B, TrainingPlan(precision="bf16"))
    ddp = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="ddp", ranks=8))
    view = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="ddp", ranks=8, gradient_as_bucket_view=True))
    assert ddp.terms.pop("all-reduce buckets") >= 2 * LLAMA_13B.parameters
    assert ddp.terms == alone.terms
    assert "gradients" not in view.terms and ddp.allocated - view.allocated == pytest.approx(2 * LLAMA_13B.parameters, rel=1e-3)
    zero1 = predict(LLAMA_13B, TrainingPlan(precision="bf16", strategy="zero1", ranks=8))
    assert zero1.terms["optimizer states"] == pytest.approx(alone.terms["optimizer states"] / 8, rel=0.05)


def test_padding_costs_where_rows_are_fewer_than_ranks():
    assert sharding.padded((4096, 4096), 8) == 4096 * 4096 and sharding.padded((4096, 4096), 16_384) == 4 * 4096 * 4096
    assert sharding.shard((10, 3), 4) == 9 and sharding.padded((10, 3), 4) == 36


def test_a_prediction_costs_the_same_for_any_number_of_layers_and_ranks():
    for changes in GRID:
        few = program(Features.of(replace(LLAMA, layers=9), plan_of(changes)))
        assert few is program(Features.of(replace(LLAMA, layers=300), plan_of(changes)))


# -- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "single"}, "ranks=4"),
        ({"ranks": 1}, "ranks=1"),
        ({"ranks": 16_385}, "16,384"),
        ({"strategy": "hsdp", "ranks": 12}, "shard_group=8"),
        ({"shard_group": 2}, "belongs to hsdp"),
        ({"bucket_mb": 5}, "belongs to ddp, zero1"),
        ({"strategy": "ddp", "wrap": "root"}, "belongs to zero2, fsdp, hsdp"),
        ({"strategy": "ddp", "in_backward": True}, "not all-reduced yet"),
        ({"strategy": "zero2", "reshard_after_forward": True}, "that is 'fsdp'"),
        ({"optimizer": "adafactor"}, "whole rows and columns"),
        ({"optimizer": "adamw8bit"}, "no DTensor"),
        ({"optimizer": "sgd", "optimizer_impl": "fused"}, "no DTensor"),
        ({"strategy": "zero1", "precision": "bf16-master"}, "no master weights"),
        ({"prefetch": 9}, "prefetch=9"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(changes, words):
    with pytest.raises(BadInput, match=words) as refused:
        plan_of({"ranks": 4} | changes)
    assert str(refused.value).isprintable()


def test_what_is_refused_fails_in_torch_too():
    """Each refusal of an optimizer names a real limit: the day torch or bitsandbytes lifts it, this test says so."""
    import torch
    from torch.distributed.fsdp import fully_shard

    from mllandscape.memory import parallel, reference
    from mllandscape.torch_private import fake_ranks

    plan = plan_of({"ranks": 2, "precision": "fp32", "sequence": 8})
    for changes in ({"optimizer": "adafactor"}, {"optimizer": "adamw8bit"}, {"optimizer": "sgd", "optimizer_impl": "fused"}):
        with fake_ranks(2):
            layer = torch.nn.Linear(128, 64)
            fully_shard(layer, mesh=parallel.mesh_of(plan, "cpu"))
            layer(torch.ones(4, 128)).sum().backward()
            optimizer = reference.make_optimizer(list(layer.parameters()), TrainingPlan(**changes))
            with pytest.raises((RuntimeError, NotImplementedError)):
                optimizer.step()


def test_a_changed_strategy_takes_its_own_defaults():
    plan = TrainingPlan(strategy="hsdp", ranks=16)
    assert plan.shard_group == 8 and plan.but(strategy="fsdp").shard_group is None and plan.but(strategy="single").ranks == 1


def test_sharding_imports_no_torch():
    code = (
        "import sys; from mllandscape.memory import ModelShape, TrainingPlan, predict; from mllandscape.memory.sharding import collectives;"
        "plan = TrainingPlan(strategy='fsdp', ranks=8); shape = ModelShape.preset('llama-2-13b');"
        "predict(shape, plan), collectives(shape, plan); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
