"""How one training step is run: batch, precision, optimizer, what is kept for the backward pass, and how ranks share the work."""

from dataclasses import asdict, dataclass, fields, replace

from mllandscape import BadInput, told
from mllandscape.memory.shape import ModelShape

CHOICES = {
    "precision": ("fp32", "amp-bf16", "bf16", "bf16-master"),
    "optimizer": ("adamw", "sgd", "sgd-momentum", "adamw8bit", "adafactor"),
    "optimizer_impl": ("foreach", "fused"),
    "checkpointing": ("none", "full", "selective"),
    "attention": ("flash", "math"),
    "loss": ("full", "chunked"),
    "trainable": ("all", "lora"),
}
PARALLEL_CHOICES = {
    "strategy": ("single", "ddp", "zero1", "zero2", "fsdp", "hsdp"),
    "wrap": ("block", "root"),
    "reduce_dtype": ("fp32", "bf16"),
}
LIMITS = {"batch": 65_536, "sequence": 4_194_304, "accumulation": 65_536, "lora_rank": 1_024}
PARALLEL_LIMITS = {"ranks": 16_384, "bucket_mb": 10_000}
SHARDED = ("zero2", "fsdp", "hsdp")
"""Strategies that torch's ``fully_shard`` runs."""

MOST_PREFETCHED = 8

LOSS_CHUNKS = 8
"""The chunked loss cuts a micro-batch's tokens into this many parts and recomputes the logits of each one."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training step on one rank. Every combination that is accepted runs for real.

    ``batch`` is the micro-batch in sequences, ``sequence`` its length in tokens. ``precision``: ``fp32``; ``amp-bf16``
    (fp32 weights, gradients and states, matmuls under autocast); ``bf16`` (everything bf16, states too);
    ``bf16-master`` (bf16 weights and gradients, fp32 master weights and states). ``optimizer_impl`` is ``foreach``
    (torch's default on CUDA) or ``fused`` where torch has both. ``in_backward`` updates each parameter as soon as its
    gradient exists and frees it. ``accumulation`` is the number of micro-batches in one optimizer step. ``selective``
    checkpointing recomputes attention only, ``full`` whole blocks. Raises BadInput for values that make no sense.

    ``strategy`` is how ``ranks`` processes share the work, each on its own micro-batch. Sizes above are of one rank:

    - ``single``: one rank.
    - ``ddp``: torch's DistributedDataParallel. Every rank has everything; gradients are all-reduced in buckets of ``bucket_mb``
      MiB (2^20 bytes), and are views of them if ``gradient_as_bucket_view``. 25 is torch's default, which makes the first bucket
      1 MiB; another size holds for all.
    - ``zero1``: the same with torch's ZeroRedundancyOptimizer: each rank keeps the optimizer states of some parameters,
      updates them and broadcasts them. DeepSpeed's ZeRO-1 cuts through parameters instead.
    - ``fsdp``: torch's FSDP2 ``fully_shard``, DeepSpeed's ZeRO-3: parameters, gradients and optimizer states are sharded along
      their first dimension, each block is gathered when it is needed. ``reshard_after_forward`` None is torch's default, True for
      blocks and False for the root. ``wrap="root"`` wraps the whole model as one. ``prefetch`` None is torch's default (one block
      ahead in the backward pass), 0 is none, n is n blocks ahead both ways, asked for explicitly.
    - ``zero2``: ``fully_shard`` with ``reshard_after_forward=False``: gradients and optimizer states are sharded, parameters stay
      gathered from the forward to the backward pass. DeepSpeed's ZeRO-2 keeps the whole parameters at all times; while they are
      gathered, this one holds its shard of them besides.
    - ``hsdp``: ``fully_shard`` over ``shard_group`` neighbouring ranks, replicated over the groups.

    Under ``fully_shard`` ``amp-bf16`` is its MixedPrecisionPolicy: fp32 shards, parameters gathered and used in bf16.
    ``reduce_dtype`` is the type that gradients are reduced in, None the one in which they are computed.
    """

    batch: int = 1
    sequence: int = 2048
    precision: str = "amp-bf16"
    optimizer: str = "adamw"
    optimizer_impl: str | None = None
    in_backward: bool = False
    accumulation: int = 1
    checkpointing: str = "none"
    attention: str = "flash"
    loss: str = "full"
    trainable: str = "all"
    lora_rank: int = 16
    strategy: str = "single"
    ranks: int = 1
    shard_group: int | None = None
    reshard_after_forward: bool | None = None
    wrap: str = "block"
    prefetch: int | None = None
    bucket_mb: int = 25
    gradient_as_bucket_view: bool = False
    reduce_dtype: str | None = None

    def __post_init__(self):
        for name, limit in (LIMITS | PARALLEL_LIMITS).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise BadInput(f"{name}={told(value)}: a whole number from 1 to {limit:,} is possible.")
        for name, options in (CHOICES | PARALLEL_CHOICES).items():
            value = getattr(self, name)
            if name in ("optimizer_impl", "reduce_dtype") and value is None:
                continue
            if not isinstance(value, str) or value not in options:
                raise BadInput(f"{name}={told(value)}: {', '.join(options)} are possible.")
        for name in ("in_backward", "gradient_as_bucket_view"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"{name}={told(getattr(self, name))}: True and False are possible.")
        if self.optimizer_impl is None and self.optimizer not in ("adamw8bit", "adafactor"):
            object.__setattr__(self, "optimizer_impl", "foreach")
        elif self.optimizer_impl and self.optimizer in ("adamw8bit", "adafactor"):
            raise BadInput(f"optimizer_impl={self.optimizer_impl!r} with {self.optimizer}: only adamw, sgd and sgd-momentum have both; leave it out.")
        if self.in_backward and self.accumulation > 1:
            raise BadInput(f"in_backward=True with accumulation={self.accumulation}: gradients are freed as soon as they are used, none add up; choose one.")
        if self.trainable == "lora" and self.precision == "bf16-master":
            raise BadInput("trainable='lora' with precision='bf16-master': the frozen weights have no master copy; choose bf16 or amp-bf16.")
        self._check_strategy()

    def _check_strategy(self) -> None:
        strategy = self.strategy
        if strategy == "single" and self.ranks > 1:
            raise BadInput(f"ranks={self.ranks} with strategy='single': choose {', '.join(PARALLEL_CHOICES['strategy'][1:])}.")
        if strategy != "single" and self.ranks < 2:
            raise BadInput(f"ranks={self.ranks} with strategy={strategy!r}: from 2 ranks on; one rank is 'single'.")
        if strategy == "hsdp" and self.shard_group is None:
            object.__setattr__(self, "shard_group", 8)
        if strategy == "hsdp" and not (_whole(self.shard_group) and 2 <= self.shard_group < self.ranks and self.ranks % self.shard_group == 0):
            raise BadInput(f"shard_group={told(self.shard_group)} with ranks={self.ranks}: a divisor of the ranks from 2 on, smaller than them, is possible.")
        if self.reshard_after_forward is not None and not isinstance(self.reshard_after_forward, bool):
            raise BadInput(f"reshard_after_forward={told(self.reshard_after_forward)}: True, False and None (torch's default) are possible.")
        if self.prefetch is not None and not (_whole(self.prefetch) and 0 <= self.prefetch <= MOST_PREFETCHED):
            raise BadInput(f"prefetch={told(self.prefetch)}: a whole number from 0 to {MOST_PREFETCHED}, or None (torch's default), is possible.")
        if strategy == "zero2" and self.reshard_after_forward:
            raise BadInput("reshard_after_forward=True with strategy='zero2': that is 'fsdp'.")
        belongs = {"shard_group": ("hsdp",), "bucket_mb": ("ddp", "zero1"), "gradient_as_bucket_view": ("ddp", "zero1")}
        belongs |= dict.fromkeys(("reshard_after_forward", "wrap", "prefetch", "reduce_dtype"), SHARDED)
        for name, strategies in belongs.items():
            if strategy not in strategies and told(getattr(self, name)) != told(DEFAULTS[name]):  # by its text: an array has no truth
                raise BadInput(f"{name}={told(getattr(self, name))} with strategy={strategy!r}: it belongs to {', '.join(strategies)}.")
        if strategy in ("ddp", "zero1") and self.in_backward:
            raise BadInput(f"in_backward=True with strategy={strategy!r}: a gradient is not all-reduced yet when it arrives; choose fsdp, or step afterwards.")
        if strategy in SHARDED and self.optimizer in ("adafactor", "adamw8bit"):
            why = "torch's Adafactor needs means of whole rows and columns" if self.optimizer == "adafactor" else "bitsandbytes takes no DTensor"
            raise BadInput(f"optimizer={self.optimizer!r} with strategy={strategy!r}: {why}; choose adamw or sgd.")
        if strategy in SHARDED and self.optimizer != "adamw" and self.optimizer_impl == "fused":
            raise BadInput(f"optimizer_impl='fused' with {self.optimizer} and strategy={strategy!r}: torch's fused SGD takes no DTensor; choose foreach.")
        if strategy == "zero1" and self.precision == "bf16-master":
            raise BadInput("precision='bf16-master' with strategy='zero1': ZeroRedundancyOptimizer keeps no master weights; choose bf16 or amp-bf16.")

    @property
    def autocast(self) -> bool:
        """Whether the forward pass runs under autocast; a sharded model is gathered in bf16 instead."""
        return self.precision == "amp-bf16" and self.strategy not in SHARDED

    @property
    def shard_ranks(self) -> int:
        """How many ranks share one copy of the parameters: 1 where they are not sharded."""
        if self.strategy == "hsdp":
            return self.shard_group
        return self.ranks if self.strategy in SHARDED else 1

    @property
    def keeps_gathered(self) -> tuple[bool, bool]:
        """Whether a block and the root stay gathered between the forward and the backward pass."""
        return (self.reshard is False, not self.reshard)

    @property
    def reshard(self) -> bool | None:
        """``reshard_after_forward`` as ``fully_shard`` is told it."""
        return False if self.strategy == "zero2" else self.reshard_after_forward

    @property
    def tokens(self) -> int:
        """Tokens in one micro-batch."""
        return self.batch * self.sequence

    def check(self, shape: ModelShape) -> None:
        """Raise BadInput if the shape cannot run this plan: a gpt has no positions beyond its context."""
        if shape.style == "gpt" and self.sequence > shape.context:
            raise BadInput(f"sequence={self.sequence}: this gpt has {shape.context} learned positions; choose a shorter sequence or a larger context.")

    def but(self, **changes) -> "TrainingPlan":
        """The same plan with some values changed; a changed optimizer or strategy takes its own defaults for what belongs to it."""
        unknown = changes.keys() - {field.name for field in fields(self)}
        if unknown:
            raise BadInput(f"{', '.join(sorted(unknown))}: a plan has {', '.join(field.name for field in fields(self))}.")
        if "optimizer" in changes:
            changes.setdefault("optimizer_impl", None)
        if changes.get("strategy", self.strategy) != self.strategy:
            changes = {name: DEFAULTS[name] for name in ("shard_group", *(["ranks"] if changes["strategy"] == "single" else []))} | changes
        return replace(self, **changes)

    def to_json(self) -> dict:
        return asdict(self)


PARALLEL = ("strategy", "ranks", "shard_group", "reshard_after_forward", "wrap", "prefetch", "bucket_mb", "gradient_as_bucket_view", "reduce_dtype")
"""The fields that say how ranks share the work."""

DEFAULTS = {field.name: field.default for field in fields(TrainingPlan)}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
