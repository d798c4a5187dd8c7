"""Lesson 5: the downsides of FSDP: what communication costs, what breaks on real ranks, its panel and its exercises.

The functions from ``toy`` to ``load_and_go_on`` are what ranks run; ``start`` runs them in the background. Arithmetic needs no torch.
"""

import contextlib
import hashlib
import math
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mllandscape import BadInput, charts, sandbox, units
from mllandscape.course import exercise
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.plan import SHARDED
from mllandscape.memory.sharding import collectives, groups
from mllandscape.memory.timeline import CLUSTERS, Cluster, band, crossover_tokens, timeline
from mllandscape.ranks import ON_CPU, Ranks, run_ranks

# -- arithmetic: what communication costs ------------------------------------------------------------------------------


def slowdown(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> float:
    """How many times as long a step takes as the same step with communication that costs nothing."""
    free = cluster.but(intra=math.inf, inter=math.inf, latency=0.0)
    return timeline(shape, plan, cluster).seconds / timeline(shape, plan, free).seconds


def leaving_a_node(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> int:
    """Bytes that leave one node in a training step. A ring over all GPUs leaves each node once, HSDP's all-reduces once for each shard."""
    node = cluster.ranks_per_node
    if plan.ranks <= node:
        return 0
    inside = plan.strategy in SHARDED and node % plan.shard_ranks == 0
    across = [call for call in collectives(shape, plan) if not inside or call.kind == "all-reduce"]
    rings = min(plan.shard_ranks, node) if plan.strategy == "hsdp" else 1
    return sum(call.wire * (rings if call.kind == "all-reduce" else 1) for call in across)


def what_decides(tokens: int = 512, times: int = 8) -> dict[str, tuple[float, float]]:
    """The exposed share of a step of Llama-2-7B on 16 A100s (200 Gb/s a GPU), and the same with one thing alone ``times`` as large."""
    shape, cluster = ModelShape.preset("llama-2-7b"), CLUSTERS["8xA100-200G"]
    plan = TrainingPlan(sequence=tokens, precision="bf16", strategy="fsdp", ranks=16)
    changed = {
        "model size": (ModelShape.of_size(times * shape.parameters), plan),
        "number of layers": (replace(shape, layers=times * shape.layers), plan),
        "number of GPUs": (shape, plan.but(ranks=times * plan.ranks)),
        "tokens per GPU": (shape, plan.but(batch=times)),
    }
    before = timeline(shape, plan, cluster).exposed_share
    return {name: (before, timeline(*what, cluster).exposed_share) for name, what in changed.items()}


# -- what ranks run: a toy model, sharded for real over gloo ---------------------------------------------------------------

TOY = ModelShape(style="gpt", layers=4, hidden=64, heads=2, vocab=512, context=32, tied=False, name="0.3M GPT")


def toy(strategy: str = "fsdp", wrap: str = "block", prefetch: int | None = None) -> tuple:
    """(model, optimizers, inputs, plan) of this rank: the same weights and the same global batch of four sequences whatever the ranks."""
    import torch.distributed as dist

    from mllandscape.memory import parallel, reference

    ranks = dist.get_world_size()
    how = {"wrap": wrap, "prefetch": prefetch} if strategy == "fsdp" else {}
    plan = TrainingPlan(strategy=strategy, ranks=ranks, batch=4 // ranks, sequence=32, precision="fp32", attention="math", **how)
    model = reference.make_model(TOY, plan)
    reference.initialise(model)
    model = parallel.parallelise(model, plan, parallel.mesh_of(plan, "cpu"))
    return model, reference.make_optimizers(model, plan), parallel.my_inputs(TOY, plan, "cpu"), plan


def train_and_break(how: str) -> None:
    """FSDP training in which rank 1 ``raises``, ``is killed`` or ``hangs`` before its second step."""
    import torch.distributed as dist

    from mllandscape.memory.reference import train_step

    model, optimizers, inputs, plan = toy()
    train_step(model, optimizers, inputs, plan)
    if dist.get_rank() == 1:
        sandbox.say("rank 1 breaks")
        if how == "raises":
            raise ValueError("the loss is nan")
        if how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    train_step(model, optimizers, inputs, plan)


def wrap_differently() -> None:
    """Rank 0 wraps every block and the root, the others the root alone; then they train."""
    import torch.distributed as dist

    from mllandscape.memory.reference import train_step

    model, optimizers, inputs, plan = toy(wrap="root" if dist.get_rank() else "block")
    sandbox.say("the first collective")
    train_step(model, optimizers, inputs, plan)


def log_on_rank_0(strategy: str) -> float | None:
    """Rank 0 alone logs the norm of a whole weight, as a logger does; then all wait for each other."""
    import torch.distributed as dist

    from mllandscape.memory.reference import train_step

    model, optimizers, inputs, plan = toy(strategy)
    train_step(model, optimizers, inputs, plan)
    norm = None
    if dist.get_rank() == 0:
        sandbox.say("rank 0 logs")
        norm = whole(a_weight(model)).norm().item()
    dist.barrier()
    return norm


def a_weight(model: Any) -> Any:
    return getattr(model, "module", model).blocks[0].qkv.weight


def whole(parameter: Any) -> Any:
    """All of a parameter; where it is sharded that is an all-gather, so every rank must call this."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def read_a_weight(strategy: str) -> dict:
    """What one rank sees of one weight: its type, its rows here, all its rows, the norm that it reads, and the norm of the whole."""
    weight = a_weight(toy(strategy)[0])
    rows = (weight.to_local() if hasattr(weight, "to_local") else weight).shape[0]
    return {"type": type(weight).__name__, "rows": rows, "of": weight.shape[0], "norm": weight.norm().item(), "whole": whole(weight).norm().item()}


def issued(prefetch: int | None) -> list[str]:
    """The collectives of one training step in the order in which torch's fully_shard issues them, blocks counted in the order of their turn."""
    from mllandscape.torch_private import TorchDispatchMode

    kinds = {"_allgather_base_": "gather", "_reduce_scatter_base_": "reduce"}
    model, _, (ids, targets, rotary), plan = toy(prefetch=prefetch)
    names = {group.gathered(plan.ranks): group.name for group in groups(TOY, plan)}
    seen: list[tuple[str, str]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "c10d" and (kind := kinds.get(func.overloadpacket.__name__)):
                seen.append((kind, names[args[kind == "reduce"].numel()]))
            return func(*args, **(kwargs or {}))

    with Watch():
        model(ids[0], targets[0], rotary).backward()
    turns = {"gather": [*range(TOY.layers), *reversed(range(TOY.layers))], "reduce": [*reversed(range(TOY.layers))]}
    return [f"{kind} {turns[kind].pop(0) if name == 'block' else name}" for kind, name in seen]


def try_operations() -> dict[str, str]:
    """What works on the parameters of a sharded layer: "" where the result is that of a layer on one rank, else how it fails, in a line."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    from mllandscape.memory import reference

    def layer(sharded: bool) -> nn.Module:
        torch.manual_seed(0)
        made = nn.Linear(128, 64, bias=False)
        if sharded:
            fully_shard(made)
        made(torch.ones(4, 128)).square().sum().backward()
        return made

    def optimizer(**changes: str) -> Callable[[nn.Module], None]:
        return lambda layer: reference.make_optimizer([layer.weight], TrainingPlan(**changes)).step()

    def adafactor_on_the_whole(layer: nn.Module) -> None:
        copy = nn.Parameter(whole(layer.weight.detach()))
        copy.grad = whole(layer.weight.grad)
        torch.optim.Adafactor([copy], lr=1e-3).step()
        new = copy.detach()
        if hasattr(layer.weight, "placements"):
            new = distribute_tensor(new, layer.weight.device_mesh, layer.weight.placements)
        layer.weight.data.copy_(new)

    def unshard_then_multiply(layer: nn.Module) -> torch.Tensor:
        if hasattr(layer, "unshard"):
            layer.unshard()
        return torch.ones(4, 128) @ layer.weight.T

    def clip(layer: nn.Module) -> None:
        nn.utils.clip_grad_norm_([layer.weight], 1.0)
        optimizer(optimizer="sgd")(layer)

    operations = {
        "torch's Adafactor": optimizer(optimizer="adafactor"),
        "fused SGD": optimizer(optimizer="sgd", optimizer_impl="fused"),
        "a matmul outside of forward": lambda layer: torch.ones(4, 128) @ layer.weight.T,
        "the same after unshard()": unshard_then_multiply,
        "SGD": optimizer(optimizer="sgd"),
        "AdamW": optimizer(),
        "fused AdamW": optimizer(optimizer_impl="fused"),
        "torch's Muon": lambda layer: torch.optim.Muon([layer.weight], lr=0.1).step(),
        "clip_grad_norm_, then SGD": clip,
        "Adafactor on gathered copies": adafactor_on_the_whole,
    }
    told = {}
    eightbit = layer(sharded=True)
    if dist.get_rank() == 0:  # alone: the import takes seconds
        try:
            optimizer(optimizer="adamw8bit")(eightbit)
        except (RuntimeError, BadInput) as error:
            told["bitsandbytes' AdamW8bit"] = f"{type(error).__name__}: {error}"
    for name, operate in operations.items():
        sharded, alone = layer(sharded=True), layer(sharded=False)
        try:
            found, expected = operate(sharded), operate(alone)
        except (RuntimeError, NotImplementedError, BadInput) as error:
            told[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            if expected is None:
                found, expected = sharded.weight, alone.weight
            close = torch.allclose(whole(found), expected, rtol=0, atol=1e-6)
            told[name] = "" if close else "another result than on one rank"
    return told


def digests(model: Any, optimizers: Sequence[Any]) -> dict[str, str]:
    """SHA-256 of all weights and of all optimizer states in order, gathered: the same bits have the same digests, whatever the ranks."""
    from mllandscape.memory.parallel import digest

    states = hashlib.sha256()
    for optimizer in optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            for name, state in sorted(optimizer.state[parameter].items()):
                states.update(name.encode() + whole(state).numpy().tobytes())
    return {"weights": digest(model), "optimizer states": states.hexdigest()[:16]}


def next_loss(model: Any, optimizers: Sequence[Any], inputs: tuple, plan: TrainingPlan) -> float:
    """The loss of one more training step, the mean over all ranks."""
    import torch
    import torch.distributed as dist

    from mllandscape.memory.reference import train_step

    loss = torch.tensor(train_step(model, optimizers, inputs, plan), dtype=torch.float64)
    dist.all_reduce(loss)
    return loss.item() / plan.ranks


def time_outs() -> dict[str, float]:
    """Minutes that a rank waits in a collective by default. A build for CPUs knows NCCL's from torch's docstring alone."""
    import torch.distributed as dist
    from torch.distributed.constants import default_pg_timeout

    nccl = re.search(r"Default value is (\d+) minutes for NCCL", dist.init_process_group.__doc__)
    return {"NCCL": float(nccl[1]), "gloo": default_pg_timeout.total_seconds() / 60}


def look_and_save(folder: str) -> dict:
    """A healthy run: what a rank sees, what works, in which order torch communicates, and a checkpoint of two steps, sharded and full, in ``folder``."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    from mllandscape.memory.parallel import stored
    from mllandscape.memory.reference import train_step
    from mllandscape.torch_private import tree_leaves

    seen = {"reads": {strategy: read_a_weight(strategy) for strategy in ("ddp", "fsdp")}, "logged under DDP": log_on_rank_0("ddp")}
    seen |= {"operations": try_operations(), "issued": {"default": issued(None), "off": issued(0)}, "time-outs": time_outs()}
    model, optimizers, inputs, plan = toy()
    for _ in range(2):
        train_step(model, optimizers, inputs, plan)
    rank = dist.get_rank()
    held = {}
    for kind, full in (("sharded", False), ("full", True)):
        weights, states = get_state_dict(model, optimizers, options=StateDictOptions(full_state_dict=full, cpu_offload=full))
        held[kind] = stored(tree_leaves({"weights": weights, "states": states}))
        if not full:
            dcp.save({"weights": weights, "states": states}, checkpoint_id=Path(folder, kind))
        elif rank == 0:
            torch.save({"weights": weights, "states": states}, Path(folder, kind))
    dist.barrier()
    written = [path.stat().st_size for path in Path(folder, "sharded").glob(f"__{rank}_*")]
    written = {"sharded": sum(written), "full": 0 if rank else Path(folder, "full").stat().st_size}
    return seen | {"held": held, "written": written, "digests": digests(model, optimizers), "next loss": next_loss(model, optimizers, inputs, plan)}


def load_and_go_on(folder: str) -> dict:
    """Load the checkpoints of ``look_and_save`` on these ranks, however many wrote them: digests before and after, and the next loss."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    told: dict[str, Any] = {}
    for kind in ("sharded", "full"):
        model, optimizers, inputs, plan = toy()
        weights, states = get_state_dict(model, optimizers)
        told[kind] = {"before": digests(model, optimizers)}
        if kind == "sharded":  # into these shards, each rank reads what it needs
            dcp.load({"weights": weights, "states": states}, checkpoint_id=Path(folder, kind))
        else:  # every rank reads everything and keeps its part
            weights, states = torch.load(Path(folder, kind), weights_only=True).values()
        options = StateDictOptions(full_state_dict=kind == "full")
        set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=states, options=options)
        told[kind] |= {"digests": digests(model, optimizers), "next loss": next_loss(model, optimizers, inputs, plan)}
    return told


# -- launching them in the background --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """A function of this module, on how many ranks, how long a rank waits for the others (seconds), and after which other launch."""

    function: str
    ranks: int
    arguments: dict[str, Any] = field(default_factory=dict)
    patience: float = 30
    env: dict[str, str] = field(default_factory=dict)
    after: str = ""


LAUNCHES = {
    "healthy, 4 ranks": Launch("look_and_save", 4),
    "rank 1 hangs": Launch("train_and_break", 4, {"how": "hangs"}, patience=4),
    "resumed, 2 ranks": Launch("load_and_go_on", 2, after="healthy, 4 ranks"),
    "rank 0 logs a whole weight": Launch("log_on_rank_0", 2, {"strategy": "fsdp"}, patience=4),
    "rank 1 raises": Launch("train_and_break", 2, {"how": "raises"}),
    "rank 1 is killed": Launch("train_and_break", 2, {"how": "is killed"}),
    "rank 0 wraps differently": Launch("wrap_differently", 2, env={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}),
}
"""In the order in which they are started, two at a time."""


@dataclass(frozen=True)
class Seen:
    """How a launch ended, and the seconds between a rank's word that it now goes wrong and the end of all ranks (None: nobody said so)."""

    run: Ranks
    noticed: float | None

    @property
    def line(self) -> str:
        """What is known of the failure, without places in files, which change; of ranks that are all in collectives, who waits for whom is a race."""
        if self.run.ending == "hung" and self.run.failed_rank is None:
            return "every rank waited for the others: the collectives of the ranks do not match"
        if sides := self.sides:
            return "; ".join(f"rank {rank} enters {kind} of {count:,} elements" for rank, (kind, count) in sides.items())
        return re.sub(r" in \w+ \([^()]*, line \d+\)", "", self.run.message) or self.run.ending

    @property
    def sides(self) -> dict[int, tuple[str, int]]:
        """What two ranks were about to do, from the message of TORCH_DISTRIBUTED_DEBUG=DETAIL: {rank: (collective, elements of its input)}."""
        found = re.findall(r"Rank (\d+) is running collective: \w+\(.*?OpType=(\w+), TensorShape=\[(\d+)\]", self.run.message)
        return {int(rank): ("all-gather" if "ALLGATHER" in kind else kind.lower(), int(count)) for rank, kind, count in sorted(found)}


def launch(name: str, **arguments: Any) -> Seen:
    """Run one of LAUNCHES here and now."""
    what, went_wrong = LAUNCHES[name], []
    target = f"mllandscape.lessons.fsdp_downsides:{what.function}"
    heard = {"progress": lambda _: went_wrong.append(time.monotonic())}
    run = run_ranks(target, what.ranks, patience=what.patience, env=ON_CPU | what.env, **heard, **what.arguments, **arguments)
    return Seen(run, time.monotonic() - went_wrong[0] if went_wrong and not run.ok else None)


def start(names: Sequence[str] = tuple(LAUNCHES)) -> dict[str, "Future[Seen]"]:
    """Run launches in the background, two at a time; ``result()`` waits for one. All ends with this process."""
    seen: dict[str, Future[Seen]] = {name: Future() for name in names}
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in names:
        waiting.put(name)
    folder = tempfile.TemporaryDirectory(prefix="mllandscape-", ignore_cleanup_errors=True)  # of the checkpoints
    users = [name for name in names if LAUNCHES[name].function in ("look_and_save", "load_and_go_on")]

    def outcome(name: str) -> Seen:
        if (first := LAUNCHES[name].after) and not (before := seen[first].result().run).ok:
            raise BadInput(f"{name} needs what {first} leaves, and that ended with {before.ending}: {before.message}")
        return launch(name, **{"folder": folder.name} if name in users else {})

    def work() -> None:
        with contextlib.suppress(Empty):
            while True:
                name = waiting.get_nowait()
                try:
                    told, finish = outcome(name), seen[name].set_result
                except Exception as error:
                    told, finish = error, seen[name].set_exception
                if name in users[-1:]:
                    folder.cleanup()
                finish(told)

    if not users:
        folder.cleanup()
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    return seen


# -- the panel ---------------------------------------------------------------------------------------------------------------

HIDDEN = 0.05
"""Communication counts as hidden below this share of a step in which compute waits."""

GPU = CLUSTERS["8xA100-200G"]


def step_on(tokens: int, size: float, strategy: str, prefetch: int, per_node: int, nodes: int, intra: float, inter: float) -> charts.GanttRecord:
    """One training step of a Llama of ``size`` billion parameters on A100s; bandwidths in GB/s (10^9 bytes/s)."""
    if strategy == "hsdp" and (nodes < 2 or per_node < 2):
        raise BadInput(f"hsdp on {nodes} x {per_node} GPUs: it shards inside a node and replicates over nodes; choose 2 nodes and 2 GPUs a node or more.")
    shape = ModelShape.of_size(size * 1e9)
    group = {"shard_group": per_node} if strategy == "hsdp" else {}
    sequence = min(tokens, 2048)
    ranks = per_node * nodes
    plan = TrainingPlan(batch=tokens // sequence, sequence=sequence, precision="bf16", strategy=strategy, ranks=ranks, prefetch=prefetch, **group)
    cluster = GPU.but(ranks_per_node=per_node, intra=intra * units.GB, inter=inter * units.GB)
    timed = timeline(shape, plan, cluster)
    bound, says = ("compute", "but communication does not hide") if timed.compute >= max(timed.busy.values()) else ("communication", "and compute waits for it")
    if timed.exposed_share < HIDDEN:
        says = "and communication hides behind it"
    flip = flips_at(shape, plan.but(batch=1, sequence=2048), cluster)
    whence = f"from {flip:,} tokens a GPU on" if flip else "at no number of tokens"
    verdict = f"Bound by {bound}, {says}: {100 * timed.exposed_share:.1f} % of the step is exposed."
    advice = f"For {units.count(shape.parameters)} parameters it hides here {whence}; this step needs {units.gib(predict(shape, plan).allocated)} a GPU."
    return charts.GanttRecord(timed.tasks, timed.tokens_per_second, band(shape, plan, cluster), verdict, advice)


@lru_cache(256)
def flips_at(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> int | None:
    """Tokens of a micro-batch from which on communication hides; the same however many the plan has."""
    return crossover_tokens(shape, plan, cluster, HIDDEN)


def panel() -> Any:
    """Tokens, size, strategy, prefetch and cluster, against one training step in time."""
    from ipywidgets import Dropdown, FloatLogSlider, IntSlider, SelectionSlider

    from mllandscape.panel import Panel

    def bandwidth(value: float, low: float, high: float, description: str, tooltip: str) -> FloatLogSlider:
        return FloatLogSlider(value=value, min=low, max=high, step=0.02, description=description, readout_format=".3g", tooltip=tooltip)

    controls = {
        "tokens": SelectionSlider(options=[256 * 2**power for power in range(11)], value=2048, description="Tokens per GPU", tooltip="of one micro-batch"),
        "size": FloatLogSlider(value=7.0, min=-0.9049, max=1.8451, step=0.01, description="Size, B", readout_format=".3g", tooltip="billions of parameters"),
        "strategy": Dropdown(options=("fsdp", "hsdp"), value="fsdp", description="Strategy", tooltip="hsdp shards inside a node and replicates over nodes"),
        "prefetch": IntSlider(value=1, min=0, max=2, description="Prefetch", tooltip="blocks gathered ahead; torch's default is like 1"),
        "per_node": SelectionSlider(options=[1, 2, 4, 8], value=8, description="GPUs per node", tooltip="ranks in one node"),
        "nodes": SelectionSlider(options=[1, 2, 4, 8, 16, 64], value=2, description="Nodes", tooltip="equal nodes"),
        "intra": bandwidth(240.0, 0, 2.954, "Inside, GB/s", "bus bandwidth of a collective inside a node"),
        "inter": bandwidth(150.0, -1.00515, 2.59485, "Between, GB/s", "bus bandwidth of one collective over all nodes"),
    }
    lanes = charts.Gantt(("compute", "communication", "replication"), ("forward", "backward", "all-gather", "reduce-scatter", "all-reduce"))
    return Panel("Does communication hide?", controls, step_on, lanes)


# -- exercises ---------------------------------------------------------------------------------------------------------------

GOAL = 2600
"""Tokens a second of one GPU, for the first exercise."""


def _keeps_busy(answer: TrainingPlan) -> str | None:
    if not isinstance(answer, TrainingPlan):
        return "The answer is a TrainingPlan."
    if answer.trainable != "all" or answer.ranks != 16 or answer.sequence != 2048 or answer.accumulation != 1 or answer.tokens > 24_576:
        return "Train all weights on 16 ranks, with sequences of 2,048 tokens, at most 24,576 tokens a GPU, without accumulation."
    shape = ModelShape.preset("llama-2-7b")
    if not (verdict := predict(shape, answer).fits("A100-80GB")):
        return f"It {verdict}."
    timed = timeline(shape, answer, CLUSTERS["8xA100-25GbE"])
    if timed.tokens_per_second >= GOAL:
        return None
    return f"It trains {timed.tokens_per_second:,.0f} tokens/s a GPU, and compute waits {timed.exposed_share:.0%} of the step; {GOAL:,} are wanted."


def flight_log(seed: int) -> tuple[list[list[tuple[str, int]]], int, str]:
    """What a flight recorder holds when a job hangs: (log, rank, cause), of which a learner sees the log alone.

    ``log[rank]`` are the collectives that a rank has entered, (kind, elements of its buffer), oldest first. One rank either ``stopped`` before
    the collective that the others are in, or is in another one (``mismatch``). The same seed gives the same log.
    """
    chance = random.Random(seed)
    ranks, shape = chance.choice((4, 8)), replace(TOY, layers=chance.randint(2, 5))
    plan = TrainingPlan(strategy="fsdp", ranks=ranks, sequence=32, precision="fp32")
    elements = {group.name: group.gathered(ranks) for group in groups(shape, plan)}
    tasks = timeline(shape, plan, GPU).tasks
    step = [(task.kind, elements[task.of.split()[0]]) for task in tasks if task.stream == "communication"]
    last, rank, cause = chance.randrange(2, 2 * len(step)), chance.randrange(ranks), chance.choice(("stopped", "mismatch"))
    calls = (step * 2)[:last]
    log = [list(calls) for _ in range(ranks)]
    log[rank][-1:] = [] if cause == "stopped" else [("all-gather", 3 * shape.hidden**2)]  # the whole qkv weight, for a log line
    return log, rank, cause


def _diagnoses(answer: Callable) -> str | None:
    for seed in range(24):
        log, rank, cause = flight_log(seed)
        if (found := tuple(answer(log))) != (rank, cause):
            return f"For flight_log({seed}) it gave {found}; rank {rank} was it: {cause}."
    return None


def _counts_the_wire(answer: Callable) -> str | None:
    for layers, ranks, accumulation, precision in ((4, 2, 1, "fp32"), (6, 8, 1, "bf16"), (4, 16, 4, "bf16")):
        shape = ModelShape(layers=layers, hidden=256, heads=4, vocab=1024)
        plan = TrainingPlan(strategy="fsdp", ranks=ranks, sequence=128, precision=precision, accumulation=accumulation, reshard_after_forward=True)
        sent, each = sum(call.wire for call in collectives(shape, plan)), 4 if precision == "fp32" else 2
        given = {"parameters": shape.parameters, "ranks": ranks, "bytes_each": each, "accumulation": accumulation}
        found = float(answer(**given))
        if abs(found - sent) > 1e-3 * sent:
            return f"For {', '.join(f'{name}={value:,}' for name, value in given.items())} a rank sends {sent:,} bytes, not {found:,.0f}."
    return None


exercise("05.ex1", _keeps_busy)
exercise("05.ex2", _diagnoses)
exercise("05.ex3", _counts_the_wire)
