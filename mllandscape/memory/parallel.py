"""A plan's strategy applied to the reference transformer: torch's fully_shard, DistributedDataParallel and ZeroRedundancyOptimizer.

``train`` is one rank's part of a run, for ``ranks.run_ranks`` here and for torchrun on a cluster; the default process group exists already.
"""

import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

from mllandscape import BadInput
from mllandscape.memory import reference
from mllandscape.memory.plan import DEFAULTS, SHARDED, TrainingPlan
from mllandscape.memory.predict import predict
from mllandscape.memory.reference import Transformer
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.trace import register
from mllandscape.memory.tracker import Tracker
from mllandscape.torch_private import local, tree_leaves

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}


def mesh_of(plan: TrainingPlan, device: str) -> DeviceMesh:
    """The default process group's ranks as (shard,), or (replicate, shard) for hsdp."""
    if plan.strategy == "hsdp":
        return init_device_mesh(device, (plan.ranks // plan.shard_ranks, plan.shard_ranks), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device, (plan.ranks,), mesh_dim_names=("shard",))


def shard(model: Transformer, plan: TrainingPlan, mesh: DeviceMesh) -> None:
    """``fully_shard`` the blocks and the root (or the root alone), in place."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if plan.precision == "amp-bf16" else None, reduce_dtype=DTYPES[plan.reduce_dtype])
    how = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": plan.reshard}
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


def parallelise(model: Transformer, plan: TrainingPlan, mesh: DeviceMesh) -> nn.Module:
    """The model as its plan runs it on this rank."""
    if plan.strategy in SHARDED:
        shard(model, plan, mesh)
        return model
    if plan.strategy == "single":
        return model
    size = None if plan.bucket_mb == DEFAULTS["bucket_mb"] else plan.bucket_mb
    return DistributedDataParallel(model, bucket_cap_mb=size, gradient_as_bucket_view=plan.gradient_as_bucket_view)


def my_inputs(shape: ModelShape, plan: TrainingPlan, device: str) -> tuple:
    """This rank's part of one global batch, which is the same however many ranks share it."""
    ids, targets, rotary = reference.make_inputs(shape, plan.but(batch=plan.batch * plan.ranks), device, seed=1)
    mine = slice(dist.get_rank() * plan.batch, (dist.get_rank() + 1) * plan.batch)
    return *(part[:, mine].clone() for part in (ids, targets)), rotary


def materialise(shape: ModelShape, plan: TrainingPlan, device: str) -> nn.Module:
    """The model as its plan runs it, with random weights; where it is sharded, no rank ever holds the whole."""
    if plan.strategy not in SHARDED:
        model = reference.make_model(shape, plan, device)
        reference.initialise(model)
        return parallelise(model, plan, mesh_of(plan, device))
    model = reference.make_model(shape, plan, "meta")
    shard(model, plan, mesh_of(plan, device))
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local(parameter).fill_(1.0) if "norm" in name else local(parameter).normal_(0.0, 0.02)
    return model


def train(shape: dict, plan: dict, steps: int = 3) -> dict:
    """Train for some steps on this rank and tell what it held, in bytes; every rank's value is the same kind of dict.

    ``losses`` are means over all ranks. ``held`` are this rank's own ``parameters``, ``gradients`` and ``optimizer states``, unrounded, just before the
    last optimizer step (gradients None where they are gone by then: with bf16-master and in_backward). ``profile`` has the highest moments of
    the last step by category (512-byte blocks), ``collectives`` counts the calls of one more micro-batch and step by kind, ``weights`` is a
    digest of the whole parameters after that. Raises BadInput for a plan of another number of ranks.
    """
    shape, plan = ModelShape(**shape), TrainingPlan(**plan)
    if plan.ranks != dist.get_world_size():
        raise BadInput(f"ranks={plan.ranks} in the plan, but {dist.get_world_size()} run: give the plan that number.")
    mesh, tracker, losses, held = mesh_of(plan, "cpu"), Tracker(), [], {}
    model, inputs = reference.make_model(shape, plan), my_inputs(shape, plan, "cpu")
    reference.initialise(model)
    register(tracker, model, (), inputs)
    with tracker, tracker.following_shards():
        model = parallelise(model, plan, mesh)
    optimizers = reference.make_optimizers(model, plan)
    register(tracker, model, optimizers, inputs)
    held["gradients"] = None
    if plan.precision != "bf16-master" and not plan.in_backward:
        optimizers[0].register_step_pre_hook(lambda *_: held.update(gradients=stored(parameter.grad for parameter in model.parameters())))
    with tracker, tracker.following_shards(), tracker.following(model):
        for _ in range(steps):
            tracker.rename("activations", "all-reduce buckets")  # what DDP made and keeps for itself
            tracker.reset()
            losses.append(reference.train_step(model, optimizers, inputs, plan))
    peaks = {phase: terms for phase, (_, terms) in tracker.peaks.items()}
    states = [list(getattr(each, "optim", each).state.values()) for each in optimizers]
    held |= {"parameters": stored(model.parameters()), "optimizer states": stored(tree_leaves(states))}
    with CommDebugMode() as debug:  # it takes one forward pass
        reference.train_step(model, optimizers, inputs, plan.but(accumulation=1))
    total = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(total)
    return {
        "rank": dist.get_rank(),
        "losses": (total / dist.get_world_size()).tolist(),
        "held": held,
        "profile": peaks,
        "allocated": max(sum(terms.values()) for terms in peaks.values()),
        "collectives": by_kind(debug.get_comm_counts()),
        "weights": digest(model),
    }


def train_each(shape: dict, plans: list[dict], steps: int = 3) -> list[dict]:
    """``train`` under one plan after another, in the same processes."""
    return [train(shape, plan, steps) for plan in plans]


def stored(tensors) -> int:
    """Bytes of this rank's part of some tensors; those that are views of one storage count once each."""
    parts = [local(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor)]
    return sum(part.numel() * part.element_size() for part in parts)


def digest(model: nn.Module) -> str:
    """SHA-256 over the whole parameters in order, gathered where they are sharded: every rank must call it."""
    seen = hashlib.sha256()
    for parameter in model.parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        seen.update(whole.detach().float().cpu().numpy().tobytes())
    return seen.hexdigest()[:16]


def measure(shape: str | dict, steps: int = 3, **choices) -> dict:
    """Predicted beside measured on this rank of a cluster: peaks of allocated and reserved bytes of the last step, from CUDA's own allocator.

    ``shape`` is a preset's name or a shape's fields, ``choices`` are the plan's; the ranks are those that run. ``predicted`` includes kernels'
    workspaces, as the allocator does. On CPU ranks there is no allocator to ask: the tracker's peak stands for allocated bytes, without workspaces.
    Raises BadInput for what no plan has.
    """
    shape = ModelShape.preset(shape) if isinstance(shape, str) else ModelShape(**shape)
    if "ranks" in choices:
        raise BadInput(f"ranks={choices['ranks']!r}: the number of ranks is that of the launch, leave it out.")
    plan = TrainingPlan().but(**choices, ranks=dist.get_world_size())
    predicted = predict(shape, plan)
    told = {
        "rank": dist.get_rank(),
        "predicted": predicted.allocated + sum(predicted.cuda_only.values()),
        "predicted_reserved": [predicted.reserved.low, predicted.reserved.high],
    }
    if dist.get_backend() != "nccl":
        return told | {"predicted": predicted.allocated, "allocated": train(shape.to_json(), plan.to_json(), steps)["allocated"], "reserved": None}
    model, inputs = materialise(shape, plan, "cuda"), reference.make_inputs(shape, plan, "cuda", seed=1 + dist.get_rank())
    optimizers = reference.make_optimizers(model, plan)
    for _ in range(steps):
        torch.cuda.reset_peak_memory_stats()
        reference.train_step(model, optimizers, inputs, plan)
    return told | {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
