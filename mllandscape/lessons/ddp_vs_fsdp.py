"""Lesson 4: DDP against FSDP: its experiments, its panel and its exercises."""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache

from mllandscape import BadInput, charts, machine, record, sandbox, units
from mllandscape.course import exercise
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.accuracy import drifted, expected
from mllandscape.memory.cards import capacity
from mllandscape.memory.measure import Card, Measured, Wanted, card, measure_each
from mllandscape.memory.sharding import collectives, counts
from mllandscape.panel import Panel

# -- real ranks: the same model, the same global batch, under one strategy after another ----------------------------------------

SMALL = ModelShape(style="gpt", layers=4, hidden=128, heads=4, vocab=2048, context=32, name="1M GPT")
"""What the real ranks train: small, because two cores carry four ranks."""

SEQUENCES = 8
"""The global batch; each rank takes its share of it."""

STRATEGIES = {
    2: {
        "DDP": {"strategy": "ddp"},
        "ZeRO-1": {"strategy": "zero1"},
        "ZeRO-2": {"strategy": "zero2"},
        "FSDP": {"strategy": "fsdp"},
        "FSDP, all resharded": {"strategy": "fsdp", "reshard_after_forward": True},
        "FSDP, root only": {"strategy": "fsdp", "wrap": "root"},
        "DDP, gradients as views": {"strategy": "ddp", "gradient_as_bucket_view": True},
    },
    4: {"DDP": {"strategy": "ddp"}, "FSDP": {"strategy": "fsdp"}, "HSDP, 2 × 2": {"strategy": "hsdp", "shard_group": 2}},
}
"""By number of ranks."""


def plan_of(ranks: int, changes: Mapping) -> TrainingPlan:
    return TrainingPlan(**{"precision": "fp32", "batch": SEQUENCES // ranks, "sequence": 32, "attention": "math", "ranks": ranks, **changes})


def train_on_ranks(ranks: int, progress: Callable[[str], None] | None = None) -> dict[str, list[dict]]:
    """{strategy: each rank's ``parallel.train`` value} of real gloo ranks, three steps of each of the STRATEGIES. Raises BadInput if a rank fails."""
    from mllandscape.ranks import ON_CPU, run_ranks

    plans = [plan_of(ranks, changes).to_json() for changes in STRATEGIES[ranks].values()]
    target = "mllandscape.memory.parallel:train_each"
    ran = run_ranks(target, ranks, shape=SMALL.to_json(), plans=plans, seconds=240, patience=60, env=ON_CPU, progress=progress)
    if not ran.ok:
        raise BadInput(f"{ran.message}; free some memory and run the cell again.")
    return {name: [value[number] for value in ran.values] for number, name in enumerate(STRATEGIES[ranks])}


_training: dict[tuple[int, ...], Future] = {}


def start_training(*counts: int) -> Future:
    """``train_on_ranks`` for one number of ranks after another, on another core: ``result()`` is {ranks: what it gave}.

    While such a run is under way a second call gives the same one. A run that failed can be started again.
    """
    if (under_way := _training.get(counts)) and not under_way.done():
        return under_way
    _training[counts] = sandbox.in_background(lambda: {ranks: train_on_ranks(ranks) for ranks in counts})
    return _training[counts]


def shares(trained: dict[int, dict[str, list[dict]]]) -> charts.Table:
    """What each rank held before the optimizer step, as a share of the whole model's, and the calls of one step."""
    rows, whole = [], 4 * SMALL.parameters
    for ranks, runs in trained.items():
        for name, values in runs.items():
            held = values[0]["held"]
            states = held["optimizer states"] / (2 * whole)
            called = ", ".join(f"{count} {kind}" for kind, count in sorted(values[0]["collectives"].items()))
            rows.append([f"{ranks} ranks, {name}", f"{held['parameters'] / whole:.3f}", f"{held['gradients'] / whole:.3f}", f"{states:.3f}", called])
    return charts.Table("Rank 0's share of the whole model, and its calls", ["", "parameters", "gradients", "optimizer states", "one step calls"], rows)


def source_as_written() -> str:
    """The last line of what Python says to the source's two lines of FSDP, run as they stand."""
    lines = "from torch.distributed.fsdp import FullyShardedDataParallel\nmodel = None\nmodel = FSDP(model, sharding_strategy=FULL_SHARD)\n"
    outcome = sandbox.command([sys.executable, "-c", lines], seconds=60)
    return outcome.stderr.strip().splitlines()[-1]


# -- one rank of many: traced here, recorded where it takes minutes -------------------------------------------------------------

RECIPE = TrainingPlan(strategy="fsdp", ranks=8, reduce_dtype="fp32", optimizer_impl="fused", checkpointing="full")
"""What the ranks of 8, 64 and 1,024 train: fp32 shards gathered in bf16, fp32 reduction, fused AdamW, one sequence of 2,048 tokens."""

MODELS, RANKS = ("llama-2-7b", "llama-2-13b", "llama-2-70b"), (8, 64, 1024)


def record_ranks() -> None:
    """Trace one rank of every number of ranks, full size, and keep the peaks (bytes): ``python -m mllandscape.lessons.ddp_vs_fsdp``, some minutes."""
    from mllandscape.memory import trace

    traced = []
    for name in MODELS:
        for ranks in RANKS:
            profile = trace(ModelShape.preset(name), RECIPE.but(ranks=ranks))
            traced.append({"model": name, "ranks": ranks, "allocated": profile.allocated, "peak_phase": profile.peak_phase, "terms": profile.terms})
            print(f"{name}, 1 of {ranks:,} ranks: {units.gb(profile.allocated)}", flush=True)
    record.save("ddp_vs_fsdp_ranks", {"plan": RECIPE.to_json(), "traced": traced}, record.here("python -m mllandscape.lessons.ddp_vs_fsdp"))


def one_rank_of_many(live: Mapping[int, object]) -> list[tuple[str, dict[str, float]]]:
    """Rows for ``charts.side_by_side``: predicted beside traced, live for 7B where ``live`` has {ranks: profile}, else from the recording."""
    rows = []
    for entry in record.load("ddp_vs_fsdp_ranks").data["traced"]:
        now = live.get(entry["ranks"]) if entry["model"] == MODELS[0] else None
        label = f"{entry['model']}, 1 of {entry['ranks']:,}{', traced now' if now else ''}"
        predicted = predict(ModelShape.preset(entry["model"]), RECIPE.but(ranks=entry["ranks"])).allocated
        rows.append((label, {"predicted": predicted, "traced": now.allocated if now else entry["allocated"]}))
    return rows


# -- one rank on one real GPU: what it allocates, without the other ranks --------------------------------------------------------------

GPU_RECORDING = "ddp_vs_fsdp_gpu"

SIDE_BY_SIDE = ModelShape.of_size(1.5e9)
"""What is trained under every strategy; in bf16, so that even DDP's step fits a card of 24 GB."""

ONE_RANK = {
    "DDP": {"strategy": "ddp", "ranks": 8},
    "DDP, gradients as views": {"strategy": "ddp", "ranks": 8, "gradient_as_bucket_view": True},
    "ZeRO-2": {"strategy": "zero2", "ranks": 8},
    "FSDP": {"strategy": "fsdp", "ranks": 8},
    "FSDP, all resharded": {"strategy": "fsdp", "ranks": 8, "reshard_after_forward": True},
    "FSDP, no prefetch": {"strategy": "fsdp", "ranks": 8, "prefetch": 0},
    "FSDP, root only": {"strategy": "fsdp", "ranks": 8, "wrap": "root"},
    "HSDP, 2 × 4": {"strategy": "hsdp", "ranks": 8, "shard_group": 4},
}


def plan_gpu(card: Card) -> dict | None:
    """The ranks that this card has the bytes for: one of 8 under every strategy, and 1 of 8 and of 64 of the MODELS. None if none fits, or without numpy."""
    if "numpy" not in card.packages:  # torch's fake process group imports it
        return None
    plain = TrainingPlan(precision="bf16", optimizer_impl="fused", checkpointing="full")
    wanted = {f"{SIDE_BY_SIDE.name}, one GPU": Wanted(SIDE_BY_SIDE, plain)}
    wanted |= {f"{SIDE_BY_SIDE.name}, {name}": Wanted(SIDE_BY_SIDE, plain.but(**changes)) for name, changes in ONE_RANK.items()}
    wanted |= {f"{name}, FSDP, 1 of {ranks}": Wanted(ModelShape.preset(name), RECIPE.but(ranks=ranks)) for name in MODELS for ranks in RANKS[:2]}
    fitting = {name: one for name, one in wanted.items() if predict(one.shape, one.plan).reserved.low <= 0.9 * card.free}
    return {"ranks": {name: record.plain(one) for name, one in fitting.items()}} if fitting else None


def run_gpu(plan: dict, say: Callable[[str], None], seconds: float) -> dict:
    """One rank's step for real, each in turn: what was measured, and what was then predicted of it (bytes).

    Each is rank 0 of a process group of which only rank 0 exists: nothing is sent, and NCCL's own buffers are missing.
    """
    wanted = {name: record.restore(Wanted, one) for name, one in plan["ranks"].items()}
    measured = measure_each(list(wanted.values()), seconds=seconds, progress=say)
    return {"ranks": [{"rank": name, "measured": one.to_json(), "expected": expected(one)} for name, one in zip(wanted, measured, strict=True)]}


def check_gpu(data: dict) -> list[str]:
    """Which predictions have moved away from what was measured since it was recorded."""
    measured = [(rank, Measured.from_json(rank["measured"])) for rank in data["ranks"]]
    told = [f"{rank['rank']}: {one.ending}, {one.message.partition(chr(10))[0]}" for rank, one in measured if not one.ok]
    return told + list(filter(None, (drifted(rank["rank"], one, rank["expected"]) for rank, one in measured if one.ok)))


@cache
def gpu_run() -> record.Recording | None:
    """One rank of many on a GPU: run now where torch can use one, which takes a minute or two, else as recorded; None where neither is to be had."""
    if machine.look().gpu:
        with suppress(BadInput):
            there = card()
            if plan := plan_gpu(there):
                return record.Recording(GPU_RECORDING, run_gpu(plan, lambda _: None, 900), there.provenance("mllandscape record --only 04.ranks"))
    return record.load(GPU_RECORDING)


def gpu_ranks() -> charts.Described | None:
    """Predicted beside measured for one rank on a GPU, with the card and the day in the title; None where no GPU has run it."""
    if not (ran := gpu_run()):
        return None
    measured = {rank["rank"]: Measured.from_json(rank["measured"]) for rank in ran.data["ranks"]}
    rows = [(name, {"predicted": expected(one), "measured": one.allocated}) for name, one in measured.items() if one.ok]
    return charts.side_by_side(rows, title=f"One rank's peak on a GPU, workspaces included; {ran}")


VISIBLE = ModelShape(style="llama", layers=8, hidden=2048, heads=16, vocab=8192, name="0.4B Llama")
"""Few, wide layers: each gather can be seen beside the whole."""


def floor_of(shape: ModelShape, plan: TrainingPlan, ranks: Sequence[int] = tuple(2**power for power in range(1, 15))) -> dict[str, tuple[list, list]]:
    """{what: (ranks, GB on one rank)}: the model states, which the ranks divide, and the whole peak, of which they divide a part."""
    profiles = [predict(shape, plan.but(ranks=count)) for count in ranks]
    divided = ("sharded parameters", "gradient shards", "optimizer states")
    states = [sum(profile.phases["optimizer step"].get(name, 0) for name in divided) for profile in profiles]
    return {
        "all at the peak": (list(ranks), [profile.allocated / units.GB for profile in profiles]),
        "parameters, gradients, optimizer states": (list(ranks), [count / units.GB for count in states]),
    }


def wire(shape: ModelShape, plan: TrainingPlan) -> int:
    """Bytes that one rank sends in one step."""
    return sum(call.wire for call in collectives(shape, plan))


def comparison(shape: ModelShape, ranks: int, trained: dict[int, dict[str, list[dict]]]) -> charts.Table:
    """The source's table once more, each cell beside what came out: shares and calls of the real ranks, bytes of the predicted ones."""
    ddp, fsdp = trained[ranks]["DDP"][0], trained[ranks]["FSDP"][0]
    whole = 4 * SMALL.parameters

    def share(value: dict, what: str, of: int) -> str:
        return f"{value['held'][what] / of:.3f} of it (1/{round(of / value['held'][what])})"

    def called(value: dict) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(value["collectives"].items()))

    plans = {name: TrainingPlan(precision="bf16", strategy=name, ranks=8) for name in ("ddp", "fsdp")}
    moved = {name: wire(shape, plan) for name, plan in plans.items()}
    rows = [
        ["model memory", "Full model/GPU", share(ddp, "parameters", whole), "Model/N GPUs", f"{share(fsdp, 'parameters', whole)} + gathered layers"],
        ["gradient memory", "(not in the table)", share(ddp, "gradients", whole), "(not in the table)", share(fsdp, "gradients", whole)],
        ["optimizer memory", "Full optimizer/GPU", share(ddp, "optimizer states", 2 * whole), "Optimizer/N GPUs", share(fsdp, "optimizer states", 2 * whole)],
        ["communication", "1× per iteration (all-reduce)", called(ddp), f"2N× per iteration, {2 * ranks} here", called(fsdp)],
        [
            f"sent by a rank, {shape.name} on 8, all bf16",
            "",
            units.gb(moved["ddp"]),
            "",
            f"{units.gb(moved['fsdp'])}, {moved['fsdp'] / moved['ddp']:.2f} times",
        ],
    ]
    return charts.Table(f"The usual table, said and here, on {ranks} real ranks", ["", "DDP, said", "DDP, here", "FSDP, said", "FSDP, here"], rows)


# -- the panel --------------------------------------------------------------------------------------------------------------------

CARDS = ("RTX-4090", "A100-40GB", "A100-80GB", "H200")
BARS = ("one GPU", "ddp", "zero1", "zero2", "fsdp", "hsdp")
"""Rows of the chart: one GPU without help, then a rank under each strategy that can run; hsdp shards over 8 and begins at 16."""

POWERS = tuple(2**power for power in range(15))


def with_strategy(plan: TrainingPlan, strategy: str, ranks: int) -> TrainingPlan | None:
    """The plan on so many ranks, or None where the strategy cannot run it; one rank is always the single GPU."""
    if ranks == 1:
        return plan
    with suppress(BadInput):
        return plan.but(strategy=strategy, ranks=ranks)
    return None


def fewest(shape: ModelShape, plan: TrainingPlan, strategy: str, card: str) -> int | None:
    """The smallest power of two of GPUs on which the plan fits under a strategy, up to 16,384; None if none does."""
    for ranks in POWERS:
        candidate = with_strategy(plan, strategy, ranks)
        if candidate and predict(shape, candidate).fits(card):
            return ranks
    return None


def compare(size: float, batch: int, sequence: int, ranks: int, strategy: str, precision: str, optimizer: str, checkpointing: str, card: str):
    """One training step of a Llama of ``size`` billion parameters, a rank's peak under every strategy, against a card."""
    shape = ModelShape.of_size(size * 1e9)
    plan = TrainingPlan(batch=batch, sequence=sequence, precision=precision, optimizer=optimizer, checkpointing=checkpointing)
    plans = {"one GPU": plan} | ({} if ranks == 1 else {name: with_strategy(plan, name, ranks) for name in BARS[1:]})
    profiles = {name: predict(shape, each) for name, each in plans.items() if each}
    chosen = "one GPU" if ranks == 1 else strategy
    if chosen not in profiles:
        plan.but(strategy=strategy, ranks=ranks)  # says why not
    verdict = profiles[chosen].fits(card)
    needed = fewest(shape, plan, strategy, card)
    each = f"{units.count(shape.parameters)} parameters, {chosen}{'' if ranks == 1 else f' on {ranks:,} GPUs'}"
    advice = (
        f"The fewest that fit under {strategy}, of 1, 2, 4, …: {needed:,} × {card}." if needed else f"No number of GPUs up to 16,384 fits under {strategy}."
    )
    bars = {name: profile.terms for name, profile in profiles.items()}
    return charts.CapacityRecord(bars=bars, capacity=capacity(card), verdict=f"{each}: {verdict}.", advice=advice)


def panel() -> Panel:
    """Size, batch, sequence, ranks, strategy, precision, optimizer, checkpointing and card, against the peak of a rank under every strategy."""
    from ipywidgets import Dropdown, FloatLogSlider, IntSlider, SelectionSlider

    def choose(description: str, options: tuple, value: object, tooltip: str) -> Dropdown:
        return Dropdown(options=options, value=value, description=description, tooltip=tooltip)

    controls = {
        "size": FloatLogSlider(
            value=13.0, base=10, min=-0.9031, max=2.6075, step=0.02, description="Size, B", readout_format=".3g", tooltip="billions of parameters"
        ),
        "batch": IntSlider(value=1, min=1, max=32, description="Batch", tooltip="sequences in one micro-batch of one rank"),
        "sequence": SelectionSlider(options=[512, 1024, 2048, 4096, 8192], value=2048, description="Sequence", tooltip="tokens in one sequence"),
        "ranks": SelectionSlider(options=list(POWERS), value=8, description="GPUs", tooltip="ranks that share the work"),
        "strategy": choose("Strategy", BARS[1:], "fsdp", "whose verdict stands below, and whose fewest GPUs are counted"),
        "precision": choose("Precision", ("fp32", "amp-bf16", "bf16", "bf16-master"), "amp-bf16", "types of weights, gradients and states"),
        "optimizer": choose("Optimizer", ("adamw", "sgd-momentum", "sgd"), "adamw", "what keeps states for each parameter"),
        "checkpointing": choose("Checkpoint", ("none", "selective", "full"), "full", "what is recomputed in the backward pass"),
        "card": choose("GPU", CARDS, "A100-80GB", "usable bytes of the card"),
    }
    return Panel("How many GPUs, and which strategy?", controls, compare, charts.CapacityBars(phases=BARS))


# -- exercises ----------------------------------------------------------------------------------------------------------------------


def _fewest_for_70b(answer: TrainingPlan) -> str | None:
    if not isinstance(answer, TrainingPlan):
        return "The answer is a TrainingPlan."
    shape = ModelShape.preset("llama-2-70b")
    if answer.trainable != "all" or answer.optimizer != "adamw" or answer.precision not in ("amp-bf16", "bf16-master") or answer.sequence < 4096:
        return "Train all weights with AdamW and fp32 or master weights, on sequences of 4,096 tokens or more."
    verdict = predict(shape, answer).fits("H100-80GB")
    if not verdict:
        return f"On {answer.ranks:,} GPUs it {verdict}."
    best = min(ranks for ranks in range(8, 33) if predict(shape, TrainingPlan(**BEST | {"ranks": ranks})).fits("H100-80GB"))
    return None if answer.ranks <= best else f"It fits on {answer.ranks:,}, and fewer will do."


BEST = {"strategy": "fsdp", "sequence": 4096, "checkpointing": "full", "loss": "chunked", "optimizer_impl": "fused", "in_backward": True}
"""Of the plans that the exercise allows, one that needs the fewest ranks."""


def _counts_gathers(answer: Callable) -> str | None:
    cases = ((4, 2, True, 1), (4, 4, True, 1), (32, 8, None, 1), (80, 64, None, 4), (12, 1024, False, 3))
    for layers, ranks, reshard, accumulation in cases:
        shape = ModelShape(style="gpt", layers=layers, hidden=64, heads=1, vocab=64, context=16)
        plan = TrainingPlan(strategy="fsdp", ranks=ranks, sequence=16, reshard_after_forward=reshard, accumulation=accumulation)
        expected = counts(shape, plan)
        found = tuple(answer(layers, ranks, reshard, accumulation))
        if found != (expected["all-gather"], expected["reduce-scatter"]):
            return f"For {layers} blocks and a root, {ranks} ranks, reshard_after_forward={reshard} and {accumulation} micro-batches it gave {found}."
    return None


def _lowers_the_floor(answer: tuple) -> str | None:
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], dict) and isinstance(answer[1], TrainingPlan)):
        return 'The answer is a dict of terms in bytes, such as {"activations": ...}, and a TrainingPlan.'
    named, plan = answer
    shape, before = ModelShape.preset("llama-2-13b"), RECIPE.but(ranks=1024)
    terms = predict(shape, before).terms
    if set(named) != set(sorted(terms, key=terms.get)[-2:]):
        return "Those are not the two largest terms of that rank's peak."
    if wrong := [name for name in named if abs(named[name] - terms[name]) > 0.01 * terms[name]]:
        return f"The size of {wrong[0]} is not that."
    kept = ("ranks", "strategy", "batch", "sequence", "precision", "optimizer", "trainable", "accumulation")
    if changed := [name for name in kept if getattr(plan, name) != getattr(before, name)]:
        return f"{changed[0]} is changed: keep {', '.join(kept)}."
    now, was = predict(shape, plan).allocated, predict(shape, before).allocated
    return None if now < 0.9 * was else f"The peak is {units.gb(now)} against {units.gb(was)}: lower it by a tenth."


exercise("04.ex1", _fewest_for_70b)
exercise("04.ex2", _counts_gathers)
exercise("04.ex3", _lowers_the_floor)

if __name__ == "__main__":
    sys.exit(record.main({"": record_ranks}))
