"""A plan's strategy applied to the reference transformer: torch's fully_shard, DistributedDataParallel and ZeroRedundancyOptimizer."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.reference import Transformer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}


def mesh_of(plan: TrainingPlan, device: str) -> DeviceMesh:
    """The default process group's ranks as (shard,), or (replicate, shard) for hsdp."""
    if plan.strategy == "hsdp":
        return init_device_mesh(device, (plan.ranks // plan.shard_ranks, plan.shard_ranks), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device, (plan.ranks,), mesh_dim_names=("shard",))


def shard(model: Transformer, plan: TrainingPlan, mesh: DeviceMesh) -> None:
    """``fully_shard`` the blocks and the root (or the root alone), in place."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if plan.precision == "amp-bf16" else None, reduce_dtype=DTYPES[plan.reduce_dtype])
    reshard = False if plan.strategy == "zero2" else plan.reshard_after_forward
    how = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": reshard}
    if plan.wrap == "block":
        for block in model.blocks:
            fully_shard(block, **how)
    fully_shard(model, **how)
    if plan.wrap == "block" and plan.prefetch is not None:
        prefetch(model, list(model.blocks), plan.prefetch)


def prefetch(root: nn.Module, blocks: list[nn.Module], depth: int) -> None:
    """Ask for the next ``depth`` blocks in both passes. A module that prefetches itself, gathered already, is how torch is told to prefetch none."""
    for number, block in enumerate(blocks):
        block.set_modules_to_forward_prefetch(blocks[number + 1 : number + 1 + depth])
        block.set_modules_to_backward_prefetch(blocks[max(number - depth, 0) : number][::-1] or [block])
    root.set_modules_to_forward_prefetch(blocks[:depth])
    root.set_modules_to_backward_prefetch(blocks[::-1][:depth] or [root])


KINDS = {"allgather": "all-gather", "reducescatter": "reduce-scatter", "allreduce": "all-reduce", "broadcast": "broadcast"}


def by_kind(counts: dict) -> dict[str, int]:
    """What CommDebugMode counted, by the field's names; whichever of torch's several calls for one kind was used."""
    found: dict[str, int] = {}
    for operation, count in counts.items():
        name = str(operation).replace("_", "")
        kind = next((kind for word, kind in KINDS.items() if word in name), str(operation))
        found[kind] = found.get(kind, 0) + count
    return found
