"""Lesson 5: broken ranks are named, checkpoints move to other ranks, the panel at its limits, the exercises, and the arithmetic that the prose rests on."""

import json
import math
import time
from pathlib import Path

import pytest

from mllandscape import BadInput
from mllandscape.lessons import fsdp_downsides as lesson
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.sharding import collectives
from mllandscape.memory.timeline import CLUSTERS, band, crossover_tokens, hiding_tokens, timeline
from mllandscape.ranks import Ranks

LLAMA, FAST, SLOW = ModelShape.preset("llama-2-7b"), CLUSTERS["8xA100-200G"], CLUSTERS["8xA100-25GbE"]
PLAN = TrainingPlan(precision="bf16", strategy="fsdp", ranks=16)


@pytest.fixture(scope="module")
def started():
    return lesson.start()


@pytest.fixture(scope="module")
def healthy(started):
    run = started["healthy, 4 ranks"].result(timeout=120).run
    assert run.ok, f"{run.message}\n{run.traceback}"
    return run.values


@pytest.fixture(scope="module")
def resumed(started):
    run = started["resumed, 2 ranks"].result(timeout=120).run
    assert run.ok, f"{run.message}\n{run.traceback}"
    return run.values


# -- on real ranks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ending", "error", "words"),
    [
        ("rank 1 raises", "failed", "ValueError", "rank 1 raised ValueError: the loss is nan"),
        ("rank 1 is killed", "failed", "SIGKILL", "rank 1 was killed by SIGKILL"),
        ("rank 1 hangs", "hung", "", "rank 1 hangs: the others waited 4 s for it"),
    ],
)
def test_a_broken_rank_is_named_within_ten_seconds(started, name, ending, error, words):
    seen = started[name].result(timeout=120)
    assert (seen.run.ending, seen.run.failed_rank, seen.run.error_type, seen.line) == (ending, 1, error, words)
    assert 0 < seen.noticed < 10
    assert seen.run.values == [None] * lesson.LAUNCHES[name].ranks


def test_ranks_that_wrap_differently_are_told_apart_by_what_they_gather(started):
    seen = started["rank 0 wraps differently"].result(timeout=120)
    assert seen.run.ending == "failed" and seen.run.error_type == "RuntimeError"
    root = lesson.groups(lesson.TOY, TrainingPlan(strategy="fsdp", ranks=2))[0].gathered(2) // 2
    assert seen.sides == {0: ("all-gather", root), 1: ("all-gather", lesson.TOY.parameters // 2)}
    assert seen.line == f"rank 0 enters all-gather of {root:,} elements; rank 1 enters all-gather of {lesson.TOY.parameters // 2:,} elements"


def test_a_whole_read_on_one_rank_works_under_ddp_and_hangs_under_fsdp(started, healthy):
    logged = [value["logged under DDP"] for value in healthy]
    assert logged[0] > 0 and logged[1:] == [None] * 3
    seen = started["rank 0 logs a whole weight"].result(timeout=120)
    assert (seen.run.ending, seen.run.failed_rank) == ("hung", None)
    assert "every rank waited" in seen.line and 0 < seen.noticed < 10


def test_a_norm_read_from_a_sharded_weight_is_of_this_ranks_rows(healthy):
    for value in healthy:
        assert value["reads"]["ddp"]["norm"] == pytest.approx(value["reads"]["ddp"]["whole"])
        assert (value["reads"]["fsdp"]["type"], 4 * value["reads"]["fsdp"]["rows"]) == ("DTensor", value["reads"]["fsdp"]["of"])
    norms = [value["reads"]["fsdp"]["norm"] for value in healthy]
    assert len(set(norms)) == 4
    assert math.hypot(*norms) == pytest.approx(healthy[0]["reads"]["ddp"]["whole"], rel=1e-5)


def test_operations_that_need_whole_tensors_fail_and_the_remedies_work(healthy):
    told = healthy[0]["operations"]
    failing = {"bitsandbytes' AdamW8bit", "torch's Adafactor", "fused SGD", "a matmul outside of forward"}
    assert {name for name, text in told.items() if text} == failing
    assert all(text.startswith(("RuntimeError: ", "NotImplementedError: ")) and "\n" not in text for name, text in told.items() if name in failing)
    assert all(value["operations"].items() <= told.items() for value in healthy)


def test_without_bitsandbytes_one_line_says_so(monkeypatch):
    """On one fake rank: the missing package is told, and the other operations still are."""
    from mllandscape.memory import reference
    from mllandscape.torch_private import fake_ranks

    def missing():
        raise BadInput("adamw8bit needs bitsandbytes, which cannot be imported here")

    monkeypatch.setattr(reference, "eightbit_adamw", missing)
    with fake_ranks(1):
        told = lesson.try_operations()
    assert told["bitsandbytes' AdamW8bit"] == "BadInput: adamw8bit needs bitsandbytes, which cannot be imported here"
    assert len(told) == 11


def test_torch_prefetches_one_block_backward_unless_it_is_told_not_to(healthy):
    forward = ["gather root", "gather 0", "gather 1", "gather 2", "gather 3"]
    ahead = ["gather 3", "gather 2", "reduce 3", "gather 1", "reduce 2", "gather 0", "reduce 1", "reduce 0", "reduce root"]
    off = ["gather 3", "reduce 3", "gather 2", "reduce 2", "gather 1", "reduce 1", "gather 0", "reduce 0", "reduce root"]
    assert all(value["issued"] == {"default": forward + ahead, "off": forward + off} for value in healthy)
    for prefetch, order in ((None, forward + ahead), (0, forward + off)):
        plan = TrainingPlan(strategy="fsdp", ranks=4, sequence=32, precision="fp32", prefetch=prefetch)
        tasks = [task for task in timeline(lesson.TOY, plan, FAST).tasks if task.stream == "communication"]
        short = {"all-gather": "gather", "reduce-scatter": "reduce"}
        assert [f"{short[task.kind]} {task.of.removeprefix('block ')}" for task in tasks] == order


@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_a_checkpoint_of_four_ranks_loads_on_two_bit_for_bit(healthy, resumed, kind):
    written = healthy[0]["digests"]
    assert all(value["digests"] == written for value in healthy)
    for value in resumed:
        assert value[kind]["digests"] == written
        assert all(value[kind]["before"][name] != written[name] for name in written)
        assert value[kind]["next loss"] == pytest.approx(healthy[0]["next loss"], rel=1e-6)


def test_a_full_checkpoint_is_one_ranks_work_and_a_sharded_one_everybodys(healthy):
    states = 12 * lesson.TOY.parameters
    assert healthy[0]["held"]["full"] == pytest.approx(states, rel=1e-3) and healthy[0]["written"]["full"] > states
    assert [value["held"]["full"] for value in healthy[1:]] == [value["written"]["full"] for value in healthy[1:]] == [0] * 3
    for value in healthy:
        assert value["held"]["sharded"] == pytest.approx(states / 4, rel=1e-3)
        assert states / 4 < value["written"]["sharded"] < states / 2


def test_torch_waits_for_minutes_by_default(healthy):
    assert healthy[0]["time-outs"] == {"NCCL": 10.0, "gloo": 30.0}


# -- in the background -------------------------------------------------------------------------------------------------------


def ended(ending: str, **more) -> Ranks:
    return Ranks(ending, [], **more)


def test_launches_run_two_at_a_time_in_order_and_the_checkpoints_folder_goes(monkeypatch):
    running, most, folders = [], [], set()

    def run(target, ranks, progress, **arguments):
        running.append(target)
        most.append(len(running))
        if "folder" in arguments:
            folders.add(arguments["folder"])
            assert Path(arguments["folder"]).is_dir()
        progress("it goes wrong")
        time.sleep(0.05)
        running.remove(target)
        return ended("failed" if "break" in target else "ok")

    monkeypatch.setattr(lesson, "run_ranks", run)
    seen = {name: future.result(timeout=10) for name, future in lesson.start().items()}
    assert list(seen) == list(lesson.LAUNCHES) and max(most) == 2
    assert seen["rank 1 raises"].noticed >= 0.05 and seen["healthy, 4 ranks"].noticed is None
    assert len(folders) == 1 and not Path(folders.pop()).exists()


def test_what_needs_a_failed_launch_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(lesson, "run_ranks", lambda *_, **__: ended("failed", message="rank 2 was killed by SIGKILL"))
    with pytest.raises(BadInput, match="resumed, 2 ranks needs .* rank 2 was killed by SIGKILL") as told:
        lesson.start(("healthy, 4 ranks", "resumed, 2 ranks"))["resumed, 2 ranks"].result(timeout=10)
    assert "\n" not in str(told.value)


def test_what_is_printed_of_a_failure_names_no_line_of_a_file():
    message = "rank 1 hangs in train_and_break (fsdp_downsides.py, line 98): the others waited 3 s for it"
    assert lesson.Seen(ended("hung", failed_rank=1, message=message), 1.0).line == "rank 1 hangs: the others waited 3 s for it"
    assert lesson.Seen(ended("ok"), None).line == "ok"


# -- arithmetic ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [16, 64, 512])
@pytest.mark.parametrize("strategy", ["fsdp", "hsdp"])
def test_what_leaves_a_node_is_what_the_timeline_puts_on_the_slow_link(strategy, ranks):
    plan, cluster = PLAN.but(strategy=strategy, ranks=ranks), SLOW.but(latency=0.0)
    busy = timeline(LLAMA, plan, cluster).busy["replication" if strategy == "hsdp" else "communication"]
    assert lesson.leaving_a_node(LLAMA, plan, cluster) == pytest.approx(busy * cluster.inter, rel=1e-6)


def test_nothing_leaves_the_only_node():
    assert lesson.leaving_a_node(LLAMA, PLAN.but(ranks=8), SLOW) == 0


def test_hsdp_sends_a_third_on_two_nodes_and_two_thirds_on_many_and_keeps_an_eighth():
    share = {
        nodes: lesson.leaving_a_node(LLAMA, PLAN.but(strategy="hsdp", ranks=8 * nodes), SLOW) / lesson.leaving_a_node(LLAMA, PLAN.but(ranks=8 * nodes), SLOW)
        for nodes in (2, 64)
    }
    assert share[2] == pytest.approx(1 / 3, abs=0.04) and share[64] == pytest.approx(2 / 3, abs=0.04)
    peaks = {predict(LLAMA, PLAN.but(strategy="hsdp", ranks=8 * nodes)).allocated for nodes in (2, 8, 64)}
    assert len(peaks) == 1
    assert predict(LLAMA, PLAN.but(ranks=512)).allocated < predict(LLAMA, PLAN.but(ranks=16)).allocated < peaks.pop()


def test_a_slow_link_makes_a_step_many_times_as_long_and_free_communication_none():
    assert lesson.slowdown(LLAMA, PLAN, SLOW) == pytest.approx(22, abs=0.5)
    assert 1 < lesson.slowdown(LLAMA, PLAN, FAST) < 1.05
    assert lesson.slowdown(LLAMA, PLAN, FAST.but(intra=math.inf, inter=math.inf, latency=0.0)) == 1


def test_tokens_decide_and_size_layers_and_gpus_do_not():
    shares = lesson.what_decides()
    assert shares["tokens per GPU"][1] < 0.05 < 0.4 < shares["tokens per GPU"][0]
    assert all(abs(before - after) < 0.05 for name, (before, after) in shares.items() if name != "tokens per GPU")


def test_prefetch_saves_much_where_the_streams_are_alike_and_little_elsewhere():
    def saved(plan, cluster):
        return 1 - timeline(LLAMA, plan.but(prefetch=1), cluster).seconds / timeline(LLAMA, plan.but(prefetch=0), cluster).seconds

    assert saved(PLAN, FAST) > 0.25 > 0.1 > max(saved(PLAN, SLOW), saved(PLAN.but(batch=8), FAST))
    assert timeline(LLAMA, PLAN.but(prefetch=2), FAST).seconds == pytest.approx(timeline(LLAMA, PLAN.but(prefetch=1), FAST).seconds)
    block = 2 * LLAMA.block_parameters
    peaks = [predict(LLAMA, PLAN.but(prefetch=number)).allocated for number in (0, 1, 2)]
    assert peaks[0] < peaks[1] < peaks[0] + block and peaks[2] - peaks[1] == pytest.approx(block, rel=0.01)


def test_the_rule_holds_for_llama_2_and_is_too_kind_to_a_large_vocabulary():
    for speed in (3.125e9, 25e9, 150e9):
        cluster = FAST.but(inter=speed)
        rule = hiding_tokens(cluster.flops, cluster.inter)
        for name in ("llama-2-7b", "llama-2-70b"):
            assert crossover_tokens(ModelShape.preset(name), PLAN, cluster) == pytest.approx(rule, rel=0.12)
        assert 1.8 < crossover_tokens(ModelShape.preset("llama-3-8b"), PLAN, cluster) / rule < 2.2


def test_accumulation_hides_nothing_and_volume_is_three_for_two():
    shares = [timeline(LLAMA, PLAN.but(batch=4, accumulation=number), SLOW).exposed_share for number in (1, 4)]
    assert shares[0] == pytest.approx(shares[1], rel=0.01)
    sent = [sum(call.wire for call in collectives(LLAMA, plan)) for plan in (PLAN.but(reshard_after_forward=True), PLAN.but(strategy="ddp"))]
    assert sent[0] / sent[1] == pytest.approx(1.5, rel=1e-3)


# -- the panel ---------------------------------------------------------------------------------------------------------------

SETTING = {"size": 7.0, "tokens": 2048, "strategy": "fsdp", "prefetch": 1, "per_node": 8, "nodes": 2, "intra": 240.0, "inter": 150.0}


@pytest.fixture(scope="module")
def panel():
    return lesson.panel()


@pytest.mark.parametrize("changes", [{}, {"tokens": 256, "inter": 3.125}, {"strategy": "hsdp", "tokens": 16_384, "nodes": 8, "inter": 3.125}, {"prefetch": 0}])
def test_the_panel_shows_what_the_timeline_says(panel, changes):
    setting = SETTING | changes
    panel.set(**setting)
    shape, tokens = ModelShape.of_size(setting["size"] * 1e9), setting["tokens"]
    plan = PLAN.but(strategy=setting["strategy"], ranks=8 * setting["nodes"], prefetch=setting["prefetch"])
    plan = plan.but(sequence=min(tokens, 2048), batch=max(tokens // 2048, 1))
    cluster = FAST.but(intra=setting["intra"] * 1e9, inter=setting["inter"] * 1e9)
    timed = timeline(shape, plan, cluster)
    assert tuple(panel.record.tasks) == timed.tasks
    assert (panel.record.speed, panel.record.band) == (timed.tokens_per_second, band(shape, plan, cluster))
    assert f"{100 * timed.exposed_share:.1f} % of the step is exposed" in panel.text


def test_the_verdict_says_what_binds_and_flips_where_it_says(panel):
    panel.set(**SETTING | {"inter": 3.125})
    assert panel.record.verdict.startswith("Bound by communication, and compute waits")
    flip = int(panel.record.advice.split(" tokens a GPU on")[0].split()[-1].replace(",", ""))
    below, above = (max(option for option in choices(panel) if option < flip), min(option for option in choices(panel) if option >= flip))
    panel.set(tokens=above)
    assert panel.record.verdict.startswith("Bound by compute, and communication hides")
    panel.set(tokens=below)
    assert "hides behind it" not in panel.record.verdict
    panel.set(**SETTING | {"prefetch": 0})
    assert panel.record.verdict.startswith("Bound by compute, but communication does not hide")


def choices(panel) -> list[int]:
    return list(panel.controls["tokens"].options)


def test_size_does_not_move_the_flip(panel):
    panel.set(**SETTING | {"inter": 25.0})
    small = lesson.flips_at(ModelShape.of_size(7e9), PLAN, FAST.but(inter=25e9))
    large = lesson.flips_at(ModelShape.of_size(70e9), PLAN, FAST.but(inter=25e9))
    assert small == pytest.approx(large, rel=0.1) and f"{lesson.flips_at(ModelShape.of_size(7e9), PLAN.but(prefetch=1), FAST.but(inter=25e9)):,}" in panel.text


def test_every_control_is_drawn_at_its_limits(panel):
    panel.set(**SETTING)
    assert panel.sweep() >= 2 * len(panel.controls)
    panel.set(**SETTING | {"strategy": "hsdp", "nodes": 8})
    assert panel.sweep() >= 2 * len(panel.controls)


@pytest.mark.parametrize(("changes", "words"), [({"strategy": "hsdp", "nodes": 1}, "choose 2 nodes"), ({"per_node": 1, "nodes": 1}, "from 2 ranks on")])
def test_what_cannot_be_is_answered_in_one_line(panel, changes, words):
    panel.set(**SETTING)
    assert words in panel.set(**changes) and "\n" not in panel.text
    panel.set(**SETTING)


# -- the exercises -----------------------------------------------------------------------------------------------------------

BUSY = TrainingPlan(batch=12, precision="bf16", checkpointing="full", strategy="hsdp", ranks=16)


def by_length(log):
    lengths = [len(calls) for calls in log]
    if min(lengths) < max(lengths):
        return lengths.index(min(lengths)), "stopped"
    last = [calls[-1] for calls in log]
    return next(rank for rank, call in enumerate(last) if last.count(call) == 1), "mismatch"


@pytest.mark.parametrize(
    ("verify", "right", "wrong"),
    [
        (lesson._keeps_busy, BUSY, BUSY.but(strategy="fsdp")),
        (lesson._keeps_busy, BUSY.but(batch=11), BUSY.but(batch=6)),
        (lesson._keeps_busy, None, BUSY.but(checkpointing="none")),
        (lesson._keeps_busy, None, BUSY.but(batch=24)),
        (lesson._keeps_busy, None, BUSY.but(batch=6, accumulation=2)),
        (lesson._keeps_busy, None, BUSY.but(trainable="lora")),
        (lesson._keeps_busy, None, "hsdp"),
        (lesson._diagnoses, by_length, lambda log: (0, "stopped")),
        (lesson._diagnoses, None, lambda log: (by_length(log)[0], "mismatch")),
        (lesson._counts_the_wire, lambda parameters, ranks, bytes_each, accumulation: 3 * accumulation * parameters * bytes_each * (ranks - 1) / ranks, None),
        (lesson._counts_the_wire, None, lambda parameters, ranks, bytes_each, accumulation: 3 * parameters * bytes_each * (ranks - 1) / ranks),
        (lesson._counts_the_wire, None, lambda parameters, ranks, bytes_each, accumulation: 2 * accumulation * parameters * bytes_each * (ranks - 1) / ranks),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong):
    assert right is None or verify(right) is None
    assert wrong is None or isinstance(verify(wrong), str)


def test_the_notebook_asks_for_what_the_verifier_wants():
    book = json.loads((Path(__file__).parents[1] / "notebooks" / "05_fsdp_downsides.ipynb").read_text(encoding="utf-8"))
    asked = next(text for cell in book["cells"] if "**1. Keep it busy.**" in (text := "".join(cell["source"])))
    assert f"{lesson.GOAL:,} tokens a second" in asked and "at most 24,576 tokens" in asked


def test_flight_logs_have_one_culprit_and_are_the_same_for_a_seed():
    causes = set()
    for seed in range(40):
        log, rank, cause = lesson.flight_log(seed)
        assert (log, rank, cause) == lesson.flight_log(seed) and by_length(log) == (rank, cause)
        assert len({json.dumps(calls) for number, calls in enumerate(log) if number != rank}) == 1
        causes.add(cause)
    assert causes == {"stopped", "mismatch"}
