"""One training step in time: what computes when, what is on the wire meanwhile, and how long the GPU waits for it. Arithmetic, no torch.

A step is tasks on in-order streams, in the order in which torch issues them; a task starts when its stream is free and what it depends on has
ended. Compute takes FLOPs / achieved FLOP/s, a collective wire bytes / bus bandwidth + latency. Everything else (norms, copies, the optimizer's own
work, the CPU) is inside the achieved FLOP/s or left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from typing import NamedTuple

from mllandscape import BadInput, told
from mllandscape.memory.plan import LIMITS, SHARDED, TrainingPlan
from mllandscape.memory.predict import by_task
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.sharding import block_tensors, buckets, compute_bytes, groups, owned, reduce_bytes, ring, trained, weight_bytes

BAND = (0.5, 2.0)
"""Bus bandwidths published for one kind of machine spread by about these factors: between nodes of 8 H100 an all-gather shows 101 GB/s (NVIDIA/nccl#2409,
256 MiB) or 200 (nccl#1218, 2 GB), an all-reduce 340. So a bandwidth is an input with this band, not a claim."""

MOST_TASKS = 500_000
"""In one step: a second of arithmetic."""


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of GPUs. Bandwidths are what nccl-tests calls bus bandwidth, in bytes/s.

    ``intra`` is that of a collective inside a node, ``inter`` that of one collective over all GPUs of several nodes. Its rings enter and leave a node by
    every network card, so the node's cards carry it together and it is not one GPU's share of them. ``latency`` is seconds for each collective, whatever
    its ranks; ``flops`` the FLOP/s that one GPU achieves, its peak times an assumed efficiency. ``source`` says where each number comes from.
    Raises BadInput for numbers that no machine has; infinite bandwidths are possible.
    """

    name: str
    ranks_per_node: int
    intra: float
    inter: float
    latency: float
    flops: float
    source: str

    def __post_init__(self):
        if isinstance(self.ranks_per_node, bool) or not isinstance(self.ranks_per_node, int) or self.ranks_per_node < 1:
            raise BadInput(f"ranks_per_node={told(self.ranks_per_node)}: a whole number from 1 on is possible.")
        for name in ("intra", "inter", "latency", "flops"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
            if not number or value < 0 or (value == 0 and name != "latency") or (math.isinf(value) and name in ("latency", "flops")):
                raise BadInput(f"{name}={told(value)}: a number {'from 0 on' if name == 'latency' else 'above 0'} is possible.")

    def but(self, **changes) -> "Cluster":
        """The same cluster with some values changed."""
        if unknown := changes.keys() - {field.name for field in fields(self)}:
            raise BadInput(f"{', '.join(sorted(unknown))}: a cluster has {', '.join(field.name for field in fields(self))}.")
        return replace(self, **changes)


_H100 = "intra: 18 NVLinks of 20.6 GB/s as NCCL counts them (src/graph/topo.h); all-reduces summed inside the switch show 460 to 480"
_A100 = "intra: 12 NVLinks of 20 GB/s as NCCL counts them (src/graph/topo.h); nccl-tests show 200 (nccl-tests#149) to 250"
_PORT = "inter: the port's line rate, an upper bound"
_HALF = "FLOP/s: 312e12 dense bf16 (A100 datasheet) x 0.5, assumed"
_PRESETS = (
    ("8xH100-400G", 8, 370e9, 200e9, 30e-6, 989e12 * 0.35, f"{_H100}. inter: 8 cards of 400 Gb/s a node, all-gather of 32 nodes in NVIDIA/nccl#1218. latency: "
     "assumed. FLOP/s: 989e12 dense bf16 (H100 SXM datasheet) x 0.35, see calibration()."),
    ("8xA100-200G", 8, 240e9, 150e9, 30e-6, 312e12 * 0.5, f"{_A100}. inter: 8 cards of 200 Gb/s a node at 75 %, assumed: what 8 of 100 Gb/s reach in "
     f"NVIDIA/nccl#495. latency: assumed. {_HALF}."),
    ("8xA100-25GbE", 8, 240e9, 3.125e9, 60e-6, 312e12 * 0.5, f"one 25 Gb/s port a node. {_A100}. {_PORT}. latency: assumed. {_HALF}."),
    ("1xA100-10GbE", 1, 1.25e9, 1.25e9, 60e-6, 312e12 * 0.5, f"one 10 Gb/s port a machine. intra: no second GPU. {_PORT}. latency: assumed. {_HALF}."),
    ("2x4090-10GbE", 2, 10e9, 1.25e9, 60e-6, 165.2e12 * 0.5, "one 10 Gb/s port a workstation. intra: PCIe through host memory as torch counts it "
     f"(_inductor/comm_analysis.py). {_PORT}. latency: assumed. FLOP/s: 165.2e12 dense bf16 (NVIDIA Ada whitepaper) x 0.5, assumed."),
)  # fmt: skip
CLUSTERS = {preset[0]: Cluster(*preset) for preset in _PRESETS}


class Task(NamedTuple):
    """One thing on one stream, from ``start`` to ``end`` in seconds.

    ``stream`` is compute, communication, or replication (HSDP's all-reduces where they have links of their own). ``kind`` is forward, recompute, backward,
    optimizer, all-gather, reduce-scatter, all-reduce or broadcast; ``of`` is root, block 3, head, bucket 2, parameter 5 or step, counted from 0.
    """

    stream: str
    kind: str
    of: str
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """One training step of one rank: its tasks, on each stream in issue order, and the tokens that the rank gets through."""

    tasks: tuple[Task, ...]
    tokens: int

    @cached_property
    def seconds(self) -> float:
        """The step: from 0 to its last end."""
        return max(task.end for task in self.tasks)

    @cached_property
    def busy(self) -> dict[str, float]:
        """Seconds that each stream works. A step is never shorter than its busiest stream, nor longer than their sum."""
        seconds = dict.fromkeys(("compute", "communication", "replication"), 0.0)
        for task in self.tasks:
            seconds[task.stream] += task.end - task.start
        return seconds

    @property
    def compute(self) -> float:
        """Seconds of computation."""
        return self.busy["compute"]

    @property
    def communication(self) -> float:
        """Seconds of all collectives together; those of the replication stream run beside the others."""
        return self.busy["communication"] + self.busy["replication"]

    @property
    def exposed(self) -> float:
        """Seconds during which compute waits for communication."""
        return max(0.0, self.seconds - self.compute)

    @property
    def exposed_share(self) -> float:
        return self.exposed / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Of one GPU."""
        return self.tokens / self.seconds


class Work(NamedTuple):
    """FLOPs of one module for one micro-batch; a multiplication and its addition are two."""

    forward: float
    recompute: float
    backward: float


def block_work(shape: ModelShape, plan: TrainingPlan) -> Work:
    """A block: 2 a matmul parameter and token forward, 4 backward (2 for a frozen one, which has no gradient of its own).

    Attention is two matmuls, 4·tokens·sequence·q_dim, and twice that backward. The flash kernel skips the masked half, so it counts half; ``math`` computes
    all of it. Not counted, as in published MFUs: the scores that flash computes again backward. FlopCounterMode counts flash as not causal, with those
    scores (2.5 times forward). Full checkpointing runs a block again up to the input of its last matmul, where torch's checkpoint stops; selective
    runs attention again (``math``: its first matmul). What is no matmul is left out.
    """
    matmuls = [(name, prod(size)) for name, size in block_tensors(shape, plan) if len(size) == 2]
    every, learning = (sum(elements for name, elements in matmuls if every or trained(name, plan)) for every in (True, False))
    attention = 4 * plan.tokens * plan.sequence * shape.q_dim / (2 if plan.attention == "flash" else 1)
    forward = 2 * plan.tokens * every + attention
    again = {"none": 0, "full": forward - 2 * plan.tokens * matmuls[-1][1], "selective": attention / (1 if plan.attention == "flash" else 2)}
    return Work(forward, again[plan.checkpointing], 2 * plan.tokens * (every + learning) + 2 * attention)


def head_work(shape: ModelShape, plan: TrainingPlan) -> Work:
    """The logits: 2·tokens·hidden·vocab, twice that backward (once if frozen); the chunked loss computes them again. The embedding is a lookup."""
    forward = 2 * plan.tokens * shape.hidden * shape.vocab
    return Work(forward, forward if plan.loss == "chunked" else 0, forward * (1 if plan.trainable == "lora" else 2))


def links(plan: TrainingPlan, cluster: Cluster) -> tuple[float, float, bool]:
    """Bus bandwidths, bytes/s, inside a shard group (of all ranks, where nothing is sharded) and of HSDP's all-reduce across groups; whether the links differ.

    A group that is inside a node has ``intra``, any other ``inter``. The all-reduces across groups, one for each shard, leave a node at the same time
    and divide its ``inter``: HSDP in nodes of 8 reduces an eighth of the bytes at an eighth of the bandwidth.
    """
    node, group = cluster.ranks_per_node, plan.shard_ranks if plan.strategy in SHARDED else plan.ranks
    if plan.ranks <= node:
        return cluster.intra, cluster.intra, False
    inside = node % group == 0
    within = cluster.intra if inside else min(cluster.intra, cluster.inter)
    return within, min(cluster.intra, cluster.inter / min(group, node)), inside


class _Streams:
    """``run`` puts a task on a stream, not before ``after``, and answers when it ends."""

    def __init__(self, flops: float):
        self.flops = flops
        self.tasks: list[Task] = []
        self.free: dict[str, float] = {}

    def run(self, stream: str, kind: str, of: str, seconds: float, after: float = 0.0) -> float:
        start = max(self.free.get(stream, 0.0), after)
        self.free[stream] = end = start + seconds
        self.tasks.append(Task(stream, kind, of, start, end))
        return end

    def forward(self, of: str, work: Work, after: float = 0.0) -> float:
        return self.run("compute", "forward", of, work.forward / self.flops, after)

    def backward(self, of: str, work: Work, after: float = 0.0) -> float:
        if work.recompute:
            self.run("compute", "recompute", of, work.recompute / self.flops, after)
        return self.run("compute", "backward", of, work.backward / self.flops, after)


def timeline(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> Timeline:
    """One optimizer step of ``plan.accumulation`` micro-batches, one after the other: a backward pass ends by waiting for its reductions (``finalize_backward``
    in FSDP2 and in DDP's reducer). The optimizer comes last and takes no time here; ZeRO-1 then broadcasts each parameter. Raises BadInput for a
    sequence that the shape does not have, and for more than 500,000 tasks.
    """
    plan.check(shape)
    streams = _Streams(cluster.flops)
    (_sharded if plan.strategy in SHARDED else _replicated)(streams, shape, plan, cluster)
    once, length = tuple(streams.tasks), max(streams.free.values())
    if plan.accumulation * len(once) > MOST_TASKS:
        raise BadInput(f"accumulation={plan.accumulation:,}: the step would have more than {MOST_TASKS:,} tasks; choose fewer micro-batches, larger ones.")
    for number in range(1, plan.accumulation):
        streams.tasks += [Task(*task[:3], task.start + number * length, task.end + number * length) for task in once]
    stepped = streams.run("compute", "optimizer", "step", 0.0, plan.accumulation * length)
    if plan.strategy == "zero1":
        for number, size in enumerate(size for sizes in owned(shape, plan) for size in sizes):
            seconds = ring("broadcast", prod(size) * weight_bytes(plan), plan.ranks) / links(plan, cluster)[0] + cluster.latency
            streams.run("communication", "broadcast", f"parameter {number}", seconds, stepped)
    return Timeline(tuple(streams.tasks), plan.accumulation * plan.tokens)


def _replicated(streams: _Streams, shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> None:
    """single, and DDP: a bucket is all-reduced when every module with a parameter in it is through its backward pass, one bucket after the other."""
    block, head = block_work(shape, plan), head_work(shape, plan)
    for number in range(shape.layers):
        streams.forward(f"block {number}", block)
    streams.forward("head", head)
    # (elements whose gradients exist, when): after the head, after each block; the embedding's come with the last block's, in no time.
    filled = sum(prod(size) for name, size in shape.final if trained(name, plan))
    ready = [(filled, streams.backward("head", head))]
    elements = sum(prod(size) for name, size in block_tensors(shape, plan) if trained(name, plan))
    for number in reversed(range(shape.layers)):
        filled += elements
        ready.append((filled, streams.backward(f"block {number}", block)))
    filled = stage = 0
    for number, size in enumerate(buckets(shape, plan) if plan.strategy != "single" else ()):
        filled += size
        while stage < len(ready) - 1 and ready[stage][0] < filled:
            stage += 1
        seconds = ring("all-reduce", size * reduce_bytes(plan), plan.ranks) / links(plan, cluster)[0] + cluster.latency
        streams.run("communication", "all-reduce", f"bucket {number}", seconds, ready[stage][1])


def _sharded(streams: _Streams, shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> None:
    """FSDP2's order, read in torch 2.13's ``_fully_shard`` (``_fsdp_param_group.py``, ``_fsdp_state.py``). Gathers and reduce-scatters share a
    communicator, so a stream.

    Forward: the root is gathered first. Gathers are issued ``ahead`` blocks early (torch's default is like 1), but their stream waits for the copy-out of the
    buffer that the last one still holds (``wait_for_unshard``): block i's gather waits for the forward pass of block i - 2 - ahead, so by default two
    layers at most are gathered beyond the one that computes.

    Backward: the root's hook issues the last block's gather, while the last forward pass still runs if the root was kept. Block i's hook issues block
    i - ahead's, which waits for block i's copy-out, so for the backward pass of block i + 1; then block i's reduce-scatter is issued. A block's
    post-backward waits for the reduce-scatter before it (``reduce_scatter_max_input_buffers`` = 1), so block i's backward pass waits for that of block
    i + 2. The root's comes last. HSDP all-reduces each reduced shard, beside the rest where it has links of its own, else on the same stream.

    ``prefetch=0`` lets no gather overlap with computation. (torch without prefetching is like that backward, where a gather queues behind a reduce-scatter;
    its forward gathers always run ahead on a GPU.)
    """
    block, head = block_work(shape, plan), head_work(shape, plan)
    within, across, apart = links(plan, cluster)
    ranks, replicas, last, wrapped = plan.shard_ranks, plan.ranks // plan.shard_ranks, shape.layers - 1, plan.wrap == "block"
    ahead = 1 if plan.prefetch is None else plan.prefetch
    block_kept, root_kept = plan.keeps_gathered
    seconds: dict[tuple[str, str], float] = {}  # of each collective of the root and of a block; none where nothing is sent
    for group in groups(shape, plan):
        buffer = group.reduced(plan) * reduce_bytes(plan)
        seconds["all-gather", group.name] = ring("all-gather", group.gathered(ranks) * compute_bytes(plan), ranks) / within + cluster.latency
        if buffer:
            seconds["reduce-scatter", group.name] = ring("reduce-scatter", buffer, ranks) / within + cluster.latency
        if buffer and replicas > 1:
            seconds["all-reduce", group.name] = ring("all-reduce", buffer // ranks, replicas) / across + cluster.latency

    def send(kind: str, of: str, after: float = 0.0, stream: str = "communication") -> float:
        key = kind, of.split()[0]
        return streams.run(stream, kind, of, seconds[key], after) if key in seconds else after

    root = send("all-gather", "root")
    done: list[float] = []
    for number in range(shape.layers):
        free = number - 2 - ahead if ahead else number - 1
        here = send("all-gather", f"block {number}", done[free] if free >= 0 else 0.0) if wrapped else root
        done.append(streams.forward(f"block {number}", block, here))
    ends = streams.forward("head", head, root)

    copied = ends if not ahead else done[last - 1] if last and wrapped else 0.0
    if not root_kept:
        copied = root = max(ends, send("all-gather", "root", copied))
    gathered: dict[int, float] = {}
    scattered: dict[int, float] = {}

    def gather(numbers: range, after: float) -> None:
        for number in numbers if wrapped and not block_kept else ():
            if number >= 0 and number not in gathered:
                gathered[number] = send("all-gather", f"block {number}", after)

    def reduce(of: str, after: float) -> float:
        end = send("reduce-scatter", of, after)
        send("all-reduce", of, end, "replication" if apart else "communication")
        return end

    gather(range(last, last - ahead, -1), copied)
    ends = streams.backward("head", head, root)
    for number in reversed(range(shape.layers)):
        gather(range(number, number - 1 - ahead, -1), ends)
        ends = streams.backward(f"block {number}", block, max(gathered.get(number, root), scattered.get(number + 2, 0.0)))
        if wrapped:
            scattered[number] = reduce(f"block {number}", ends)
    reduce("root", ends)


def band(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> tuple[float, float]:
    """Tokens a second of one GPU with the lowest and with the highest bandwidths of BAND."""
    low, high = (timeline(shape, plan, cluster.but(intra=factor * cluster.intra, inter=factor * cluster.inter)) for factor in BAND)
    return low.tokens_per_second, high.tokens_per_second


def hiding_tokens(flops: float, bandwidth: float, bytes_per_element: float = 2.0) -> float:
    """Tokens of a micro-batch on each GPU from which communication can hide behind computation: bytes_per_element / 2 · FLOP/s / (bytes/s).

    p parameters and T tokens take 6pT FLOPs (forward 2, backward 4), and FSDP sends 3p elements (gather, gather, reduce-scatter; (N-1)/N of them, taken as
    all): 6pT / flops > 3p·bytes / bandwidth, where p cancels. It holds for each pass: 2pT hides one gather, 4pT two collectives. DDP sends 2p elements
    that only the backward pass can hide, 4pT: the same rule. Left out: attention, latency, and the ends (see ``crossover_tokens``).
    """
    return bytes_per_element / 2 * flops / bandwidth


def crossover_tokens(shape: ModelShape, plan: TrainingPlan, cluster: Cluster, share: float = 0.05) -> int | None:
    """The smallest micro-batch on each GPU, in tokens, whose exposed share is below ``share``; None if even 65,536 sequences are not.

    Whole sequences of the plan's length; where one is more than enough, the shortest sequence. It differs from ``hiding_tokens`` by the ends of the step:
    nothing hides the root's gather and reduction, and embedding and head are a large part of a small model. Raises BadInput for a share not between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise BadInput(f"share={told(share)}: a number between 0 and 1 is possible.")

    def hides(**size: int) -> bool:
        return timeline(shape, plan.but(accumulation=1, **size), cluster).exposed_share < share

    if hides(batch=1):
        return _first(plan.sequence, lambda sequence: hides(batch=1, sequence=sequence))
    batch = _first(LIMITS["batch"], lambda batch: hides(batch=batch))
    return batch and batch * plan.sequence


def _first(highest: int, holds: Callable[[int], bool]) -> int | None:
    """The first whole number from 1 on for which this holds, if it holds from there on; None if not even for the highest."""
    low, high = 0, 1
    while not holds(high):
        if high == highest:
            return None
        low, high = high, min(2 * high, highest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


PUBLISHED = {"eager": (5_762, 5_605), "compiled": (6_667, 6_514)}
"""Tokens a second and GPU of Llama-3.1-8B in bf16 under FSDP on 8 and on 128 H100, two sequences each: benchmarks/llama3_h100_202412_torchtitan.md of
pytorch/torchtitan, tables 1 and 3. 8,192 tokens a sequence as in its llama3_8b.toml (the tables do not say); gradients reduced in fp32."""

H100_PEAK = 989e12
"""Dense bf16 FLOP/s that torchtitan divides by; its H100s, held to 500 W, had a lower peak that it does not know."""


def calibration(bandwidths: tuple[float, ...] = (45e9, 100e9, 200e9)) -> dict[str, dict]:
    """The model held to torchtitan's published throughput. A weak check: one number, the efficiency, is fitted to one number, the 8-GPU row, which identifies
    nothing but this efficiency. It swallows whatever the model leaves out, such as what torchtitan's selective checkpointing computes again.

    For ``eager`` and ``compiled``: ``published`` tokens/s on 8 and 128 GPUs; the ``efficiency`` that gives the first, a share of 989e12 FLOP/s with causal
    attention counted half; ``mfu``, the same throughput in torchtitan's count (6 a parameter outside the embedding, attention whole), which lies in its
    reported 33 to 39 % because it is the same division; ``published_ratio`` of 128 GPUs to 8, and ``ratios``, what the model says with that efficiency
    for each bandwidth between nodes in bytes/s. Theirs is not published: agreement shows consistency and identifies neither bandwidth nor overlap.
    """
    shape, cluster = ModelShape.preset("llama-3-8b"), CLUSTERS["8xH100-400G"]
    plan = TrainingPlan(batch=2, sequence=8192, strategy="fsdp", ranks=8, reduce_dtype="fp32")
    counted = 6 * (shape.parameters - prod(shape.embedding[0][1])) + 12 * shape.layers * shape.q_dim * plan.sequence

    def speed(ranks: int, efficiency: float, inter: float = cluster.inter) -> float:
        return timeline(shape, plan.but(ranks=ranks), cluster.but(flops=H100_PEAK * efficiency, inter=inter)).tokens_per_second

    rows = {}
    for name, (few, many) in PUBLISHED.items():
        efficiency = _first(1_000_000, lambda millionths, few=few: speed(8, millionths / 1e6) >= few) / 1e6
        ratios = {inter: speed(128, efficiency, inter) / few for inter in bandwidths}
        rows[name] = {"published": (few, many), "efficiency": efficiency, "mfu": few * counted / H100_PEAK, "published_ratio": many / few, "ratios": ratios}
    return rows


def memory_over_time(shape: ModelShape, plan: TrainingPlan, cluster: Cluster) -> tuple[list[float], list[int]]:
    """(seconds, bytes): when each module of the step begins to compute, and a rank's highest moment until the next one does.

    Over the same time axis as ``timeline``; of several micro-batches the last. The embedding takes no time of its own, the optimizer's step comes last.
    """
    computed = [task for task in timeline(shape, plan, cluster).tasks if task.stream == "compute"]
    last = max(place for place, task in enumerate(computed) if task[1:3] == ("forward", "block 0"))
    begins: dict[tuple[str, str], float] = {("forward", "embedding"): 0.0 if last == 0 else computed[last].start}
    for task in computed[last:]:
        phase = {"forward": "forward", "optimizer": "optimizer step"}.get(task.kind, "backward")
        begins.setdefault((phase, task.of), task.start)  # a recomputation begins its block's backward pass
    begins["backward", "embedding"] = max(task.end for task in computed if task.kind == "backward")
    told = by_task(shape, plan)
    return [begins[phase, of] for phase, of, _ in told], [count for _, _, count in told]
