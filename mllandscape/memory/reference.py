"""The reference transformer, its optimizers and its training step, written so that CPU and CUDA keep the same tensors.

Casts around norm, softmax and loss are explicit, so autocast's different lists for CPU and CUDA decide nothing but
matmuls; there is no dropout, whose CPU mask has another size; tokens are one dimension, so a linear layer is one mm.
"""

import logging
import math
import weakref
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from mllandscape import BadInput
from mllandscape.memory.plan import LOSS_CHUNKS, TrainingPlan
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.tracker import region
from mllandscape.torch_private import FLASH_ATTENTION, under_fake_tensors


class Linear(nn.Module):
    """``x @ weight.T + bias``; with LoRA the weight is frozen and a rank-r update ``(x @ a.T) @ b.T`` is trained."""

    def __init__(self, inputs: int, outputs: int, bias: bool, rank: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=not rank)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=not rank) if bias else None
        self.a = nn.Parameter(torch.empty(rank, inputs)) if rank else None
        self.b = nn.Parameter(torch.empty(outputs, rank)) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.a is None else y + F.linear(F.linear(x, self.a), self.b)


class LayerNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Llama's norm, in fp32 whatever the input (transformers, modeling_llama.py, LlamaRMSNorm)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * y.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x of shape (batch, heads, tokens, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def rotary_table(plan: TrainingPlan, shape: ModelShape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """cos and sin, each (sequence, head_dim); a constant of the step, outside its memory account."""
    frequency = 1e4 ** (-torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
    angle = torch.outer(torch.arange(plan.sequence, device=device), frequency).repeat(1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention without the sequence × sequence maps; q (batch, heads, tokens, head_dim), k and v may have fewer heads.

    Fake tensors take the CUDA flash kernel's shapes: output and fp32 log-sum-exp are kept. On CUDA the kernels that keep just that are
    asked for by name, since torch may prefer cuDNN's, with workspaces of its own; neither takes fp32 with fewer key and value heads.
    """
    if under_fake_tensors():
        return FLASH_ATTENTION(q, k, v, 0.0, True)[0]
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] < q.shape[1])


def math_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, eagerly: scores, mask and fp32 softmax are all stored maps of batch × heads × tokens × tokens."""
    batch, heads, tokens, width = q.shape
    repeat = heads // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    q, k, v = (x.contiguous().view(batch * heads, tokens, width) for x in (q, k, v))
    with region("attention maps"):
        maps = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(width)
        maps = maps.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1), float("-inf"))
        maps = torch.softmax(maps.float(), dim=-1).to(v.dtype)
    return torch.bmm(maps, v).view(batch, heads, tokens, width)


class Block(nn.Module):
    """One decoder block, tokens in and out as (batch · sequence, hidden)."""

    def __init__(self, shape: ModelShape, plan: TrainingPlan):
        super().__init__()
        rank = plan.lora_rank if plan.trainable == "lora" else 0
        llama = shape.style == "llama"
        norm = RMSNorm if llama else LayerNorm
        self.shape, self.plan = shape, plan
        self.norm1 = norm(shape.hidden)
        if llama:
            self.q = Linear(shape.hidden, shape.q_dim, shape.qkv_bias, rank)
            self.k = Linear(shape.hidden, shape.kv_dim, shape.qkv_bias, rank)
            self.v = Linear(shape.hidden, shape.kv_dim, shape.qkv_bias, rank)
        else:
            self.qkv = Linear(shape.hidden, 3 * shape.hidden, True, rank)
        if shape.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(shape.head_dim), RMSNorm(shape.head_dim)
        self.out = Linear(shape.q_dim, shape.hidden, not llama, rank)
        self.norm2 = norm(shape.hidden)
        if llama:
            self.gate = Linear(shape.hidden, shape.ffn, False, rank)
        self.up = Linear(shape.hidden, shape.ffn, not llama, rank)
        self.down = Linear(shape.ffn, shape.hidden, not llama, rank)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.out(self.attention(self.norm1(x), rotary))
        y = self.mlp(self.norm2(x))
        with region("checkpoints" if self.plan.checkpointing == "full" else "activations"):
            return x + y

    def attention(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = (self.q(x), self.k(x), self.v(x)) if self.shape.style == "llama" else self.qkv(x).chunk(3, dim=-1)
        if self.plan.checkpointing == "selective":
            return checkpoint(self.core, q, k, v, rotary, use_reentrant=False)
        return self.core(q, k, v, rotary)

    def core(self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = (x.view(self.plan.batch, self.plan.sequence, -1, self.shape.head_dim) for x in (q, k, v))
        if self.shape.qk_norm:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if rotary:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        attention = flash_attention if self.plan.attention == "flash" else math_attention
        return attention(q, k, v).transpose(1, 2).reshape(self.plan.tokens, -1)

    def mlp(self, x: Tensor) -> Tensor:
        if self.shape.style == "llama":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def token_loss(x: Tensor, targets: Tensor, head: Tensor) -> Tensor:
    """Summed cross-entropy over fp32 logits of (tokens, vocabulary)."""
    with region("logits and loss"):
        return F.cross_entropy(F.linear(x, head).float(), targets, reduction="sum")


class Transformer(nn.Module):
    """A decoder and its loss; ``forward`` takes token ids and targets of (batch, sequence) and returns the mean loss in fp32."""

    def __init__(self, shape: ModelShape, plan: TrainingPlan):
        super().__init__()
        self.shape, self.plan = shape, plan
        self.tokens = Linear(shape.hidden, shape.vocab, bias=False)
        if shape.style == "gpt":
            self.positions = Linear(shape.hidden, shape.context, bias=False)
        self.blocks = nn.ModuleList(Block(shape, plan) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden) if shape.style == "llama" else LayerNorm(shape.hidden)
        self.head = self.tokens if shape.tied else Linear(shape.hidden, shape.vocab, bias=False)
        if plan.trainable == "lora":
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.endswith((".a", ".b")))

    def forward(self, ids: Tensor, targets: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        with region("checkpoints" if self.plan.checkpointing == "full" else "activations"):
            x = F.embedding(ids, self.tokens.weight)
            if self.shape.style == "gpt":
                x = x + self.positions.weight[: ids.shape[1]]
        x = x.view(self.plan.tokens, self.shape.hidden)
        for block in self.blocks:
            x = checkpoint(block, x, rotary, use_reentrant=False) if self.plan.checkpointing == "full" else block(x, rotary)
        x, targets = self.norm(x), targets.view(-1)
        if self.plan.loss == "full":
            return token_loss(x, targets, self.head.weight) / self.plan.tokens
        parts = zip(x.chunk(LOSS_CHUNKS), targets.chunk(LOSS_CHUNKS), strict=True)
        return sum(checkpoint(token_loss, *part, self.head.weight, use_reentrant=False) for part in parts) / self.plan.tokens


def weight_dtype(plan: TrainingPlan) -> torch.dtype:
    return torch.bfloat16 if plan.precision in ("bf16", "bf16-master") else torch.float32


def make_model(shape: ModelShape, plan: TrainingPlan, device: str = "cpu") -> Transformer:
    """The model with uninitialised weights in the plan's weight dtype; ``initialise`` gives them values."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(weight_dtype(plan))
    try:
        with torch.device(device):
            return Transformer(shape, plan)
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def initialise(model: Transformer, seed: int = 0) -> None:
    """Normal weights of standard deviation 0.02, norms 1, biases and LoRA's b 0: the loss starts near ln(vocabulary)."""
    generator = torch.Generator(model.tokens.weight.device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith((".b", ".bias")):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)


def make_inputs(shape: ModelShape, plan: TrainingPlan, device: str = "cpu", seed: int = 0) -> tuple:
    """Random token ids and targets, each (accumulation, batch, sequence) in int64, and the rotary table.

    Plans that cut the same number of sequences into micro-batches differently see the same tokens. Raises BadInput if a
    sequence is longer than a gpt's learned positions.
    """
    plan.check(shape)
    size = (plan.accumulation, plan.batch, plan.sequence)
    generator = torch.Generator(device).manual_seed(seed) if seed else None
    ids, targets = (torch.randint(shape.vocab, size, device=device, generator=generator) for _ in range(2))
    compute = torch.float32 if plan.precision == "fp32" else torch.bfloat16
    return ids, targets, rotary_table(plan, shape, compute, device) if shape.style == "llama" else None


def eightbit_adamw() -> type[torch.optim.Optimizer]:
    """bitsandbytes' AdamW8bit, imported without its notes about kernels it cannot download. Raises BadInput if it is missing."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BadInput(f"adamw8bit needs bitsandbytes, which cannot be imported here ({error}); install it with: pip install bitsandbytes") from None
    finally:
        logging.disable(before)
    return AdamW8bit


def optimizer_of(plan: TrainingPlan, lr: float = 1e-3) -> partial:
    """The plan's optimizer, yet without parameters; Adafactor is torch's, whose default is one tensor after another. AdamW8bit needs bitsandbytes."""
    if plan.optimizer == "adamw8bit":
        return partial(eightbit_adamw(), lr=lr)
    if plan.optimizer == "adafactor":
        return partial(torch.optim.Adafactor, lr=lr)
    kernel = {plan.optimizer_impl: True}
    if plan.optimizer == "adamw":
        return partial(torch.optim.AdamW, lr=lr, **kernel)
    return partial(torch.optim.SGD, lr=lr, momentum=0.9 if plan.optimizer == "sgd-momentum" else 0.0, **kernel)


def make_optimizer(parameters: list[nn.Parameter], plan: TrainingPlan, lr: float = 1e-3) -> torch.optim.Optimizer:
    """The plan's optimizer over these parameters; under zero1 this rank steps its own of them and the ranks exchange the results."""
    make = optimizer_of(plan, lr)
    if plan.strategy != "zero1":
        return make(parameters)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, make.func, **make.keywords)


def with_master_weights(parameters: list[nn.Parameter], plan: TrainingPlan, lr: float = 1e-3) -> torch.optim.Optimizer:
    """The optimizer over fp32 copies: each step takes the bf16 gradients over in fp32, updates, and rounds back to bf16."""
    masters = [nn.Parameter(parameter.detach().float()) for parameter in parameters]
    optimizer = make_optimizer(masters, plan, lr)

    def take_gradients(*_):
        for parameter, master in zip(parameters, masters, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None

    @torch.no_grad()
    def give_weights(*_):
        for parameter, master in zip(parameters, masters, strict=True):
            parameter.copy_(master)
            master.grad = None

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)
    return optimizer


def make_optimizers(model: nn.Module, plan: TrainingPlan, lr: float = 1e-3) -> list[torch.optim.Optimizer]:
    """One optimizer for all parameters, or, with ``in_backward``, one for each, stepped by a hook as its gradient arrives."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    make = with_master_weights if plan.precision == "bf16-master" else make_optimizer
    if not plan.in_backward:
        return [make(trained, plan, lr)]
    optimizers = [make([parameter], plan, lr) for parameter in trained]

    def step(optimizer, parameter):
        optimizer().step()
        parameter.grad = None

    for parameter, optimizer in zip(trained, optimizers, strict=True):
        # Weakly: Python's garbage collector does not see a cycle through this hook, and the model would live forever.
        parameter.register_post_accumulate_grad_hook(partial(step, weakref.ref(optimizer)))
    return optimizers


def train_step(model: Transformer, optimizers: list[torch.optim.Optimizer], inputs: tuple, plan: TrainingPlan) -> float:
    """One optimizer step over ``accumulation`` micro-batches; returns the mean of their losses."""
    ids, targets, rotary = inputs
    total = 0.0
    for micro_batch in range(plan.accumulation):
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=plan.autocast):
            loss = model(ids[micro_batch], targets[micro_batch], rotary)
        (loss / plan.accumulation).backward()
        total += loss.item()
    if not plan.in_backward:
        for optimizer in optimizers:
            optimizer.step()
    model.zero_grad()
    return total / plan.accumulation
