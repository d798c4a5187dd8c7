"""How ranks share a model, in whole numbers: what is wrapped together, padded shards, DDP's buckets, ZeRO-1's owners, and the collectives of a step.

No torch. Sizes are elements unless they say bytes. N is the number of ranks that share one copy of the parameters, L the number of wrapped modules.
"""

from dataclasses import dataclass
from functools import cache
from heapq import heapreplace
from math import prod

from mllandscape.memory.plan import DEFAULTS, SHARDED, TrainingPlan
from mllandscape.memory.shape import ModelShape, Tensors
from mllandscape.units import MIB

FIRST_BUCKET = MIB
"""Bytes. DDP's first bucket is small by default, so that communication starts early (torch/nn/parallel/distributed.py)."""


def block_tensors(shape: ModelShape, plan: TrainingPlan) -> Tensors:
    """(name, shape) of one block's parameters in the order of ``named_parameters()``, LoRA's a and b behind each matrix."""
    if plan.trainable == "all":
        return shape.block
    tensors: list = []
    for name, size in shape.block:
        tensors.append((name, size))
        if name.endswith(".weight") and len(size) == 2:
            stem = name.removesuffix(".weight")
            bias = [(f"{stem}.bias", size[:1])] if (f"{stem}.bias", size[:1]) in shape.block else []
            tensors += bias + [(f"{stem}.a", (plan.lora_rank, size[1])), (f"{stem}.b", (size[0], plan.lora_rank))]
    return tuple(dict(tensors).items())


def trained(name: str, plan: TrainingPlan) -> bool:
    return plan.trainable == "all" or name.endswith((".a", ".b"))


def weight_bytes(plan: TrainingPlan) -> int:
    """Bytes of one stored parameter."""
    return 2 if plan.precision in ("bf16", "bf16-master") else 4


def compute_bytes(plan: TrainingPlan) -> int:
    """Bytes of one parameter as a sharded model gathers and uses it, and of its unreduced gradient."""
    return 4 if plan.precision == "fp32" else 2


def reduce_bytes(plan: TrainingPlan) -> int:
    """Bytes of one gradient element on the wire."""
    if plan.strategy in SHARDED:
        return {"fp32": 4, "bf16": 2, None: compute_bytes(plan)}[plan.reduce_dtype]
    return weight_bytes(plan)


def padded(size: tuple[int, ...], ranks: int) -> int:
    """Elements of a tensor whose first dimension is padded to a multiple of the ranks, as ``fully_shard`` gathers and reduces it."""
    return -(-size[0] // ranks) * ranks * prod(size[1:])


def shard(size: tuple[int, ...], ranks: int) -> int:
    """Elements of rank 0's shard, the largest, and of the padded shard that every rank stores."""
    return padded(size, ranks) // ranks


@dataclass(frozen=True)
class Group:
    """Parameters that ``fully_shard`` gathers and reduces together. ``times`` is how many such groups the model has."""

    name: str
    tensors: Tensors
    times: int = 1

    def gathered(self, ranks: int) -> int:
        """Elements of the group's all-gather output, padding included."""
        return sum(padded(size, ranks) for _, size in self.tensors)

    def reduced(self, plan: TrainingPlan) -> int:
        """Elements of the group's reduce-scatter input, padding included: 0 if nothing in it is trained."""
        return sum(padded(size, plan.shard_ranks) for name, size in self.tensors if trained(name, plan))


def groups(shape: ModelShape, plan: TrainingPlan) -> tuple[Group, ...]:
    """The root, which owns what is outside the blocks, and the blocks; one group of everything when only the root is wrapped."""
    outside = (*shape.embedding, *shape.final)
    block = block_tensors(shape, plan)
    if plan.wrap == "root":
        inside = tuple((f"{number} {name}", size) for number in range(shape.layers) for name, size in block)
        return (Group("root", (*shape.embedding, *inside, *shape.final)),)
    return (Group("root", outside), Group("block", block, shape.layers))


def trained_tensors(shape: ModelShape, plan: TrainingPlan) -> list[tuple[int, ...]]:
    """Shapes of every trained parameter in the order of the model's ``parameters()``."""
    block = block_tensors(shape, plan)
    every = (*shape.embedding, *block * shape.layers, *shape.final)
    return [size for name, size in every if trained(name, plan)]


def buckets(shape: ModelShape, plan: TrainingPlan) -> list[int]:
    """Elements of each of DDP's gradient buckets, in the order in which they fill.

    From the second step on; the very first has one bucket of everything. Parameters are taken in reverse here and in order of arrival by
    DDP, which can move a few between neighbours; a bucket is closed when it has reached its limit (torch/csrc/distributed/c10d/reducer.cpp,
    ``compute_bucket_assignment_by_size``).
    """
    limit = plan.bucket_mb * MIB
    first = FIRST_BUCKET if plan.bucket_mb == DEFAULTS["bucket_mb"] else limit
    sizes, filled = [], 0
    for size in reversed(trained_tensors(shape, plan)):
        filled += prod(size)
        if filled * weight_bytes(plan) >= (limit if sizes else first):
            sizes.append(filled)
            filled = 0
    return sizes + ([filled] if filled else [])


@cache
def owned(shape: ModelShape, plan: TrainingPlan) -> list[list[tuple[int, ...]]]:
    """The parameters that each rank updates under ZeRO-1: the largest first, each to the rank that has the least so far.

    torch/distributed/optim/zero_redundancy_optimizer.py, ``_partition_parameters``. Ranks that own nothing are left out.
    """
    sizes = sorted(trained_tensors(shape, plan), key=prod, reverse=True)
    ranks: list[list[tuple[int, ...]]] = [[] for _ in range(min(plan.ranks, len(sizes)))]
    held = [(0, rank) for rank in range(len(ranks))]
    for size in sizes:
        elements, rank = held[0]
        ranks[rank].append(size)
        heapreplace(held, (elements + prod(size), rank))
    return ranks


@dataclass(frozen=True)
class Collective:
    """Calls of one kind in one optimizer step, seen from one rank.

    ``of`` is what they carry (root, block, bucket, parameter), ``phase`` when they run, ``count`` how many there are, ``buffer``
    the bytes of all their full buffers together, ``wire`` the bytes that this rank sends for them.
    """

    kind: str
    of: str
    phase: str
    count: int
    buffer: int
    wire: int


def ring(kind: str, buffer: int, ranks: int) -> int:
    """Bytes that each rank sends in a ring over a buffer of this size: (N-1)/N of it, twice that for an all-reduce.

    Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009; nccl-tests counts the same.
    """
    return (2 if kind == "all-reduce" else 1) * buffer * (ranks - 1) // ranks


def collectives(shape: ModelShape, plan: TrainingPlan) -> tuple[Collective, ...]:
    """Every collective of one optimizer step, in the order of the phases. Each micro-batch is gathered and reduced anew, as torch does by default.

    With L wrapped modules ``fsdp`` gathers 2L times and reduces L times, whatever the ranks; the root that stays gathered saves one.
    """
    calls: list[Collective] = []

    def add(kind: str, of: str, phase: str, count: int, buffer: int, ranks: int) -> None:
        if count and buffer and ranks > 1:
            calls.append(Collective(kind, of, phase, count * plan.accumulation, buffer * plan.accumulation, plan.accumulation * ring(kind, buffer, ranks)))

    if plan.strategy in SHARDED:
        ranks, wrapped = plan.shard_ranks, groups(shape, plan)
        block_kept, root_kept = plan.keeps_gathered
        for group in wrapped:
            add("all-gather", group.name, "forward", group.times, group.times * group.gathered(ranks) * compute_bytes(plan), ranks)
        for group in wrapped:
            times = 0 if (root_kept if group.name == "root" else block_kept) else group.times
            add("all-gather", group.name, "backward", times, times * group.gathered(ranks) * compute_bytes(plan), ranks)
        for group in wrapped:
            buffer = group.times * group.reduced(plan) * reduce_bytes(plan)
            add("reduce-scatter", group.name, "backward", group.times, buffer, ranks)
            add("all-reduce", group.name, "backward", group.times, buffer // ranks, plan.ranks // ranks)
    elif plan.strategy != "single":
        filled = buckets(shape, plan)
        add("all-reduce", "bucket", "backward", len(filled), sum(filled) * reduce_bytes(plan), plan.ranks)
    if plan.strategy == "zero1":
        sizes = trained_tensors(shape, plan)
        buffer = sum(map(prod, sizes)) * weight_bytes(plan)
        calls.append(Collective("broadcast", "parameter", "optimizer step", len(sizes), buffer, ring("broadcast", buffer, plan.ranks)))
    return tuple(calls)


def counts(shape: ModelShape, plan: TrainingPlan) -> dict[str, int]:
    """Calls of one optimizer step by kind."""
    found: dict[str, int] = {}
    for call in collectives(shape, plan):
        found[call.kind] = found.get(call.kind, 0) + call.count
    return found
