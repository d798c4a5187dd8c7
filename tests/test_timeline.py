"""A step in time: FLOPs as torch counts them, collectives in the order in which torch issues them, limiting cases in closed form, and what always holds."""

import math
import subprocess
import sys
import time
from itertools import pairwise
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.memory.plan import SHARDED, TrainingPlan
from mllandscape.memory.predict import by_task, predict
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.sharding import collectives
from mllandscape.memory.timeline import (
    BAND,
    CLUSTERS,
    PUBLISHED,
    Cluster,
    band,
    block_work,
    calibration,
    crossover_tokens,
    head_work,
    hiding_tokens,
    links,
    memory_over_time,
    timeline,
)

LLAMA = ModelShape(layers=3, hidden=64, heads=4, kv_heads=2, ffn=96, vocab=200, context=64)
GPT = ModelShape(style="gpt", layers=3, hidden=64, heads=4, vocab=200, context=64)
DEEP = ModelShape(layers=32, hidden=1024, heads=8, vocab=32_000)
SMALL, LARGE = ModelShape.preset("llama-2-7b"), ModelShape.preset("llama-2-70b")
A100 = CLUSTERS["8xA100-200G"]
WIRE = Cluster("1 byte a second", 10**6, 1.0, 1.0, 0.0, 1.0, "made up")


def plan_of(**changes) -> TrainingPlan:
    return TrainingPlan(**{"batch": 2, "sequence": 32, "strategy": "fsdp", "ranks": 8} | changes)


def names(timed, stream="communication") -> list[str]:
    return [f"{task.kind} {task.of}" for task in timed.tasks if task.stream == stream]


def seconds(timed, name: str) -> float:
    return next(task.end - task.start for task in timed.tasks if f"{task.kind} {task.of}" == name)


@st.composite
def steps(draw):
    """Any shape, plan and cluster, up to sizes that take a millisecond."""
    heads = draw(st.sampled_from((1, 2, 4)))
    style = draw(st.sampled_from(("gpt", "llama")))
    shape = ModelShape(style=style, layers=draw(st.integers(1, 7)), hidden=heads * 8 * draw(st.integers(1, 8)), heads=heads, vocab=draw(st.integers(1, 5_000)))
    strategy = draw(st.sampled_from(("single", "ddp", "zero1", *SHARDED)))
    changes = {"strategy": strategy, "ranks": draw(st.sampled_from((4, 6, 16))) if strategy != "single" else 1}
    if strategy in SHARDED:
        changes |= {"prefetch": draw(st.sampled_from((None, 0, 1, 2, 5))), "wrap": draw(st.sampled_from(("block", "block", "root")))}
        changes["reshard_after_forward"] = draw(st.sampled_from((None, False) if strategy == "zero2" else (None, True, False)))
    if strategy == "hsdp":
        changes["shard_group"] = 2
    plan = TrainingPlan(
        batch=draw(st.integers(1, 4)), sequence=draw(st.integers(1, 64)), accumulation=draw(st.integers(1, 3)), **changes,
        checkpointing=draw(st.sampled_from(("none", "full", "selective"))), trainable=draw(st.sampled_from(("all", "all", "lora"))),
    )  # fmt: skip
    speeds = st.floats(-2, 4).map(lambda power: 10**power)
    cluster = Cluster("any", draw(st.sampled_from((1, 2, 4, 8, 64))), draw(speeds) * 1e6, draw(speeds) * 1e6, draw(st.sampled_from((0, 1e-5, 1e-2))), 1e9, "")
    return shape, plan, cluster


# -- against torch ---------------------------------------------------------------------------------------------------------

WORK = ({}, {"checkpointing": "full"}, {"checkpointing": "selective"}, {"loss": "chunked"}, {"trainable": "lora", "lora_rank": 4, "checkpointing": "full"})


@pytest.mark.parametrize("attention", ["math", "flash"])
@pytest.mark.parametrize("changes", WORK, ids=lambda changes: " ".join(map(str, changes.values())) or "plain")
@pytest.mark.parametrize("shape", [LLAMA, GPT], ids=["llama", "gpt"])
def test_flops_are_those_that_torch_counts(shape, changes, attention):
    """Exactly, under the two conventions that block_work names: torch counts flash as not causal, and 5 of its matmuls backward instead of 4."""
    from torch.utils.flop_counter import FlopCounterMode

    from mllandscape.memory import reference
    from mllandscape.torch_private import FakeTensorMode

    plan = TrainingPlan(batch=2, sequence=32, precision="bf16", attention=attention, **changes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, (ids, targets, rotary) = reference.make_model(shape, plan), reference.make_inputs(shape, plan)
        with FlopCounterMode(display=False) as counter:
            model(ids[0], targets[0], rotary).backward()
    predicted = shape.layers * sum(block_work(shape, plan)) + sum(head_work(shape, plan))
    if attention == "flash":
        half = 2 * plan.tokens * plan.sequence * shape.q_dim  # the masked half of one forward pass
        runs = 1 + 2.5 + (plan.checkpointing != "none")
        predicted += shape.layers * (runs * 2 * half - (runs - 0.5) * half)
    if plan.trainable == "lora":  # the first block's input needs no gradient
        first = [size for name, size in shape.block if name in ("q.weight", "k.weight", "v.weight", "qkv.weight")]
        predicted -= 2 * plan.tokens * sum(prod(size) + plan.lora_rank * size[1] for size in first)
    assert counter.get_total_flops() == predicted


ORDERS = (
    {}, {"prefetch": 0}, {"prefetch": 1}, {"prefetch": 2}, {"reshard_after_forward": True}, {"reshard_after_forward": True, "prefetch": 0},
    {"strategy": "zero2"}, {"strategy": "hsdp", "shard_group": 4}, {"wrap": "root"}, {"wrap": "root", "reshard_after_forward": True},
    {"checkpointing": "full", "accumulation": 2}, {"trainable": "lora", "lora_rank": 4},
)  # fmt: skip


@pytest.mark.parametrize("changes", ORDERS, ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()) or "default")
def test_collectives_come_in_the_order_in_which_fully_shard_issues_them(changes):
    import torch

    from mllandscape.memory import parallel, reference
    from mllandscape.torch_private import FakeTensorMode, TorchDispatchMode, fake_ranks

    kinds = {"_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter", "allreduce_": "all-reduce"}
    shape, plan = ModelShape(layers=5, hidden=64, heads=4, vocab=5_000), plan_of(precision="bf16", **changes)
    issued = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kind = kinds.get(func.overloadpacket.__name__) if func.namespace == "c10d" else None
            if kind:
                buffer = args[0][0] if kind == "all-reduce" else args[1] if kind == "reduce-scatter" else args[0]
                size = buffer.numel() * (plan.shard_ranks if kind == "all-reduce" else 1)
                issued.append((kind, "root" if size > 2 * shape.block_parameters else "block"))
            return func(*args, **(kwargs or {}))

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        model, (ids, targets, rotary) = reference.make_model(shape, plan), reference.make_inputs(shape, plan)
    with fake_ranks(plan.ranks):
        mesh = parallel.mesh_of(plan, "cpu")
        with fake, Watch():
            parallel.shard(model, plan, mesh)
            for number in range(plan.accumulation):
                model(ids[number], targets[number], rotary).backward()
    assert torch.distributed.is_initialized() is False
    tasks = [task for task in timeline(shape, plan, WIRE).tasks if task.stream == "communication"]
    assert [(task.kind, task.of.split()[0]) for task in tasks] == issued


# -- limiting cases --------------------------------------------------------------------------------------------------------


def test_without_communication_time_a_step_is_three_forward_passes():
    free = A100.but(intra=math.inf, inter=math.inf, latency=0)
    for strategy in ("ddp", "zero1", "fsdp", "zero2"):
        plan = plan_of(strategy=strategy, accumulation=2)
        timed = timeline(DEEP, plan, free)
        forward = 32 * block_work(DEEP, plan).forward + head_work(DEEP, plan).forward
        assert timed.seconds == pytest.approx(2 * 3 * forward / free.flops)
        assert timed.exposed == pytest.approx(0, abs=1e-9 * timed.seconds)


def test_without_prefetch_everything_is_in_series():
    for changes in ({}, {"reshard_after_forward": True}, {"checkpointing": "full", "accumulation": 3}):
        timed = timeline(DEEP, plan_of(prefetch=0, **changes), A100)
        assert timed.seconds == pytest.approx(timed.compute + timed.communication)


def test_bound_by_compute_only_the_ends_of_a_step_are_exposed():
    timed = timeline(DEEP, plan_of(), A100.but(flops=1e9))
    ends = ("all-gather root", "all-gather block 0", "reduce-scatter block 0", "reduce-scatter root")
    assert timed.exposed == pytest.approx(sum(seconds(timed, name) for name in ends))
    timed = timeline(DEEP, plan_of(strategy="zero2"), A100.but(flops=1e9))
    assert timed.exposed == pytest.approx(sum(seconds(timed, name) for name in ends))
    ddp = timeline(DEEP, plan_of(strategy="ddp"), A100.but(flops=1e9))
    tail = [task.end - task.start for task in ddp.tasks if task.kind == "all-reduce" and task.start >= ddp.compute * (1 - 1e-9)]
    assert 1 <= len(tail) < 10 and ddp.exposed == pytest.approx(sum(tail))


def test_bound_by_communication_a_step_is_its_communication():
    slow = A100.but(intra=1e6, inter=1e6)
    for changes in ({}, {"prefetch": 3}, {"reshard_after_forward": True}, {"strategy": "zero2"}, {"accumulation": 2}):
        timed = timeline(DEEP, plan_of(**changes), slow)
        assert timed.seconds == pytest.approx(timed.communication)
    ddp = timeline(DEEP, plan_of(strategy="ddp"), slow)
    work, head = block_work(DEEP, plan_of()), head_work(DEEP, plan_of())
    assert ddp.seconds == pytest.approx((32 * work.forward + head.forward + head.backward) / slow.flops + ddp.communication)


def test_one_rank_only_computes():
    timed = timeline(LLAMA, TrainingPlan(batch=2, sequence=32, checkpointing="full"), A100)
    assert timed.exposed == timed.communication == 0 and names(timed) == []
    assert [name.split()[0] for name in names(timed, "compute")] == ["forward"] * 4 + ["backward"] + ["recompute", "backward"] * 3 + ["optimizer"]


# -- what always holds -----------------------------------------------------------------------------------------------------


@given(steps())
@settings(max_examples=150, deadline=None)
def test_a_step_lies_between_its_busiest_stream_and_the_sum_and_no_stream_does_two_things_at_once(step):
    timed = timeline(*step)
    assert max(timed.busy.values()) <= timed.seconds * (1 + 1e-9)
    assert timed.seconds <= sum(timed.busy.values()) * (1 + 1e-9)
    assert timed.exposed_share == pytest.approx(1 - timed.compute / timed.seconds, abs=1e-9)
    assert timed.tokens_per_second == pytest.approx(step[1].tokens * step[1].accumulation / timed.seconds)
    for stream in timed.busy:
        lane = [task for task in timed.tasks if task.stream == stream]
        assert all(before.end <= after.start * (1 + 1e-9) and after.start <= after.end for before, after in pairwise(lane))


@given(steps())
@settings(max_examples=150, deadline=None)
def test_nothing_starts_before_what_it_needs(step):
    shape, plan, cluster = step
    plan = plan.but(accumulation=1)
    timed = timeline(shape, plan, cluster)
    when: dict[tuple[str, str], list] = {}
    for task in timed.tasks:
        when.setdefault((task.kind, task.of), []).append(task)
    blocks = [f"block {number}" for number in range(shape.layers)]
    for before, after in pairwise([*(("forward", block) for block in blocks), ("forward", "head"), ("backward", "head")]):
        assert when[before][0].end <= when[after][0].start
    if plan.strategy in SHARDED:
        gathered = {block: when.get(("all-gather", block if plan.wrap == "block" else "root")) for block in blocks}
        for block in blocks:
            assert gathered[block][0].end <= when["forward", block][0].start and gathered[block][-1].end <= when["backward", block][0].start
        for number, block in enumerate(blocks[2:]):
            if ("reduce-scatter", block) in when:  # one reduce-scatter's buffer at a time
                assert when["reduce-scatter", block][0].end <= when["backward", blocks[number]][0].start
        for (kind, of), (task, *_) in when.items():
            if kind == "reduce-scatter":
                assert when["backward", blocks[0] if of == "root" else of][0].end <= task.start
            if kind == "all-reduce":
                assert when["reduce-scatter", of][0].end <= task.start
    elif plan.strategy != "single" and plan.trainable == "all":
        filled = sum(task.end - task.start - cluster.latency for task in timed.tasks if task.kind == "all-reduce")
        assert filled > 0 and when["all-reduce", "bucket 0"][0].start >= when["backward", "head"][0].end
    assert when["optimizer", "step"][0].start == max(task.end for task in timed.tasks if task.kind != "broadcast")


@given(steps().filter(lambda step: step[1].strategy in SHARDED and step[1].wrap == "block"))
@settings(max_examples=100, deadline=None)
def test_no_more_layers_are_gathered_at_once_than_fsdp2_allows(step):
    """The one that computes and, with torch's default, two more in the forward pass and one more in the backward pass."""
    shape, plan, cluster = step
    plan = plan.but(accumulation=1)
    gathers, uses = {}, {}
    for task in timeline(shape, plan, cluster).tasks:
        if task.kind == "all-gather" and task.of != "root":
            gathers.setdefault(task.of, []).append(task.start)
        if task.kind in ("forward", "backward") and task.of != "head":
            uses.setdefault(task.of, []).append(task.end)
    ahead = 1 if plan.prefetch is None else plan.prefetch
    forward = [(starts[0], uses[of][0]) for of, starts in gathers.items()]
    backward = [(starts[1], uses[of][1]) for of, starts in gathers.items() if len(starts) > 1]
    for held, most in ((forward, ahead + 2 if ahead else 1), (backward, ahead + 1)):
        assert all(sum(start <= moment < end for start, end in held) <= most for moment, _ in held)


def test_torchs_default_gathers_two_layers_ahead_and_explicit_prefetching_more():
    for prefetch, ahead in ((None, 2), (1, 2), (2, 3), (5, 6)):
        tasks = [task for task in timeline(DEEP, plan_of(prefetch=prefetch), A100.but(flops=1e9)).tasks if task.of != "root"]
        gather = next(task for task in tasks if f"{task.kind} {task.of}" == "all-gather block 20")
        running = next(task.of for task in tasks if task.stream == "compute" and task.start <= gather.start < task.end)
        assert running == f"block {20 - ahead}"


@given(steps(), st.floats(1, 100))
@settings(max_examples=100, deadline=None)
def test_a_faster_network_never_makes_a_step_longer(step, factor):
    shape, plan, cluster = step
    slow, fast = timeline(shape, plan, cluster), timeline(shape, plan, cluster.but(intra=cluster.intra * factor, inter=cluster.inter * factor))
    assert fast.seconds <= slow.seconds * (1 + 1e-9)
    assert fast.compute == pytest.approx(slow.compute)


@given(steps())
@settings(max_examples=150, deadline=None)
def test_collectives_are_those_of_sharding_in_number_and_in_bytes(step):
    shape, plan, _ = step
    timed, calls = timeline(shape, plan, WIRE), collectives(shape, plan)
    sent: dict[tuple[str, str], list] = {}
    for task in timed.tasks:
        if task.stream != "compute":
            sent.setdefault((task.kind, task.of.split()[0]), []).append(task.end - task.start)
    expected: dict[tuple[str, str], list] = {}
    for call in calls:
        total = expected.setdefault((call.kind, call.of), [0, 0])
        total[0] += call.count
        total[1] += call.wire
    assert {key: len(lengths) for key, lengths in sent.items()} == {key: count for key, (count, _) in expected.items()}
    for key, (count, wire) in expected.items():
        assert sum(sent[key]) == pytest.approx(wire, rel=1e-9, abs=count)  # each call rounds down to whole bytes


# -- what the lessons rest on ----------------------------------------------------------------------------------------------


def test_which_link_a_collective_uses():
    assert links(plan_of(ranks=8), A100) == (A100.intra, A100.intra, False)
    assert links(plan_of(ranks=16), A100)[0] == A100.inter == links(plan_of(strategy="ddp", ranks=16), A100)[0]
    assert links(plan_of(strategy="hsdp", ranks=32, shard_group=8), A100) == (A100.intra, A100.inter / 8, True)
    assert links(plan_of(strategy="hsdp", ranks=32, shard_group=4), A100) == (A100.intra, A100.inter / 4, True)
    assert links(plan_of(strategy="hsdp", ranks=32, shard_group=16), A100) == (A100.inter, A100.inter / 8, False)
    assert links(plan_of(strategy="hsdp", ranks=24, shard_group=6), A100)[0] == A100.inter  # groups of 6 do not lie inside nodes of 8
    streams = {task.stream for task in timeline(LLAMA, plan_of(strategy="hsdp", ranks=8, shard_group=4), A100).tasks}
    assert streams == {"compute", "communication"}  # one link, one stream


def test_hsdp_inside_nodes_beats_fsdp_across_slow_nodes():
    """Not by the factor of eight that stays inside: a ring over all 16 ranks crosses between two nodes with 3 · 15/16 of the parameters, the all-reduces of
    their shards together with 2 · 1/2 of them."""
    fsdp, hsdp = (timeline(SMALL, TrainingPlan(strategy=strategy, ranks=16), CLUSTERS["8xA100-25GbE"]) for strategy in ("fsdp", "hsdp"))
    assert hsdp.seconds < 0.5 * fsdp.seconds
    assert fsdp.communication / hsdp.busy["replication"] == pytest.approx(3 * 15 / 16, rel=0.02)


@pytest.mark.parametrize("name", CLUSTERS)
def test_size_cancels_and_tokens_decide(name):
    """Llama-2-7B and 70B wait the same share within four points: embedding and head, whose gather and reduction nothing hides, are 4 % of the one."""
    cluster = CLUSTERS[name]
    shares = {}
    for times in (0.1, 0.5, 1, 2, 10):
        tokens = round(times * hiding_tokens(cluster.flops, cluster.inter))
        plan = TrainingPlan(strategy="fsdp", ranks=16, sequence=min(tokens, 512), batch=max(1, tokens // 512))
        small, large = (timeline(shape, plan, cluster).exposed_share for shape in (SMALL, LARGE))
        assert abs(small - large) < 0.04
        shares[times] = large
    assert shares[0.1] > 0.8 and shares[0.5] > 0.3 and shares[2] < 0.05 and shares[10] < 0.01


def test_the_rule_of_tokens_gives_the_numbers_of_the_claim():
    assert hiding_tokens(156e12, 300e9) == 520 and hiding_tokens(156e12, 25e9) == 6_240 and hiding_tokens(156e12, 1.25e9) == 124_800
    assert hiding_tokens(156e12, 300e9, bytes_per_element=4) == 1_040


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_crossover_is_near_the_rule_where_the_ends_are_short(name):
    plan = TrainingPlan(strategy="fsdp", ranks=16, sequence=2048)
    cluster = CLUSTERS[name]
    tokens = crossover_tokens(LARGE, plan, cluster)
    assert tokens == pytest.approx(hiding_tokens(cluster.flops, links(plan, cluster)[0]), rel=0.2)


@pytest.mark.parametrize(("name", "share"), [("8xH100-400G", 0.05), ("8xA100-25GbE", 0.05), ("8xA100-25GbE", 0.5), ("8xA100-200G", 0.001)])
def test_the_crossover_is_the_first_micro_batch_below_the_share(name, share):
    plan, cluster = TrainingPlan(strategy="fsdp", ranks=16, sequence=2048, accumulation=4), CLUSTERS[name]
    tokens = crossover_tokens(SMALL, plan, cluster, share)
    step = 1 if tokens <= 2048 else 2048
    size = {"batch": 1, "sequence": tokens} if step == 1 else {"batch": tokens // 2048}
    less = {"batch": 1, "sequence": tokens - 1} if step == 1 else {"batch": tokens // 2048 - 1}
    assert timeline(SMALL, plan.but(**size), cluster).exposed_share < share <= timeline(SMALL, plan.but(**less), cluster).exposed_share


def test_a_network_that_is_never_fast_enough_has_no_crossover():
    assert crossover_tokens(LLAMA, plan_of(), A100.but(intra=1.0, inter=1.0)) is None
    assert crossover_tokens(LLAMA, TrainingPlan(sequence=32), A100) == 1


def test_calibration_reproduces_its_row_and_shows_consistency_only():
    """A fitted number proves nothing: what is checked is that it lies where torchtitan's own count puts it, and that the published ratio
    of 128 GPUs to 8 lies between the ratios of a slow and of a fast network."""
    rows = calibration()
    assert rows.keys() == PUBLISHED.keys()
    for row in rows.values():
        plan = TrainingPlan(batch=2, sequence=8192, strategy="fsdp", ranks=8, reduce_dtype="fp32")
        fitted = timeline(ModelShape.preset("llama-3-8b"), plan, CLUSTERS["8xH100-400G"].but(flops=989e12 * row["efficiency"]))
        assert fitted.tokens_per_second == pytest.approx(row["published"][0], rel=1e-5)
        assert 0.33 <= row["mfu"] <= 0.395 and 0.85 < row["efficiency"] / row["mfu"] < 0.95
        slow, middle, fast = row["ratios"].values()
        assert slow < middle < fast < 1 and slow < row["published_ratio"] < fast
    assert rows["eager"]["efficiency"] == pytest.approx(0.302, abs=0.001) and rows["compiled"]["efficiency"] == pytest.approx(0.350, abs=0.001)


def test_the_band_holds_the_answer():
    for cluster in CLUSTERS.values():
        plan = TrainingPlan(strategy="fsdp", ranks=16)
        low, high = band(SMALL, plan, cluster)
        assert low < timeline(SMALL, plan, cluster).tokens_per_second < high <= low * BAND[1] / BAND[0]


def test_every_preset_says_where_each_number_comes_from():
    for name, cluster in CLUSTERS.items():
        assert cluster.name == name
        assert all(word in cluster.source for word in ("intra: ", "inter: ", "latency: ", "FLOP/s: "))


# -- refusals, cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: A100.but(intra=0), lambda: A100.but(inter=-1), lambda: A100.but(latency=-1e-9), lambda: A100.but(flops=math.inf),
        lambda: A100.but(flops="fast"), lambda: A100.but(inter=math.nan), lambda: A100.but(ranks_per_node=0), lambda: A100.but(bandwidth=1),
        lambda: A100.but(ranks_per_node=True), lambda: A100.but(latency=None),
        lambda: crossover_tokens(LLAMA, plan_of(), A100, share=0), lambda: crossover_tokens(LLAMA, plan_of(), A100, share="5 %"),
        lambda: timeline(GPT, plan_of(sequence=65), A100), lambda: timeline(LLAMA, plan_of(accumulation=65_536), A100),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(call):
    with pytest.raises(BadInput) as refused:
        call()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "fsdp", "hsdp"])
def test_eighty_layers_take_less_than_ten_milliseconds(strategy):
    spent = []
    for _ in range(5):
        begin = time.process_time()
        timeline(LARGE, TrainingPlan(strategy=strategy, ranks=64), A100)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.01


def test_a_timeline_needs_neither_torch_nor_numpy():
    code = (
        "import sys; from mllandscape.memory.timeline import CLUSTERS, timeline; from mllandscape.memory import ModelShape, TrainingPlan; "
        "timeline(ModelShape.preset('gpt2'), TrainingPlan(strategy='fsdp', ranks=8, sequence=64), CLUSTERS['8xA100-200G']); "
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "fsdp", "ranks": 16, "checkpointing": "full", "prefetch": 2},
        {"strategy": "hsdp", "ranks": 16, "checkpointing": "full", "accumulation": 2},
        {"strategy": "ddp", "ranks": 8, "accumulation": 2},
        {"strategy": "fsdp", "ranks": 8, "trainable": "lora", "checkpointing": "selective"},
        {"in_backward": True},
    ],
    ids=str,
)
def test_memory_lies_on_the_same_time_axis_and_peaks_where_predict_says(changes):
    shape, plan = ModelShape.preset("llama-2-7b"), TrainingPlan(**changes)
    seconds, counts = memory_over_time(shape, plan, CLUSTERS["8xA100-200G"])
    assert seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] <= timeline(shape, plan, CLUSTERS["8xA100-200G"]).seconds
    assert max(counts) == predict(shape, plan).allocated
    blocks = [f"block {number}" for number in range(shape.layers)]
    assert [of for _, of, _ in by_task(shape, plan) if of in blocks] == blocks + blocks[::-1]
