"""How one training step is run: batch, precision, optimizer and what is kept for the backward pass."""

from dataclasses import asdict, dataclass, fields, replace

from mllandscape import BadInput
from mllandscape.memory.shape import ModelShape, told

CHOICES = {
    "precision": ("fp32", "amp-bf16", "bf16", "bf16-master"),
    "optimizer": ("adamw", "sgd", "sgd-momentum", "adamw8bit", "adafactor"),
    "optimizer_impl": ("foreach", "fused"),
    "checkpointing": ("none", "full", "selective"),
    "attention": ("flash", "math"),
    "loss": ("full", "chunked"),
    "trainable": ("all", "lora"),
}
LIMITS = {"batch": 65_536, "sequence": 4_194_304, "accumulation": 65_536, "lora_rank": 1_024}

LOSS_CHUNKS = 8
"""The chunked loss cuts a micro-batch's tokens into this many parts and recomputes the logits of each one."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training step on one GPU. Every combination that is accepted runs for real in ``trace`` and ``measure``.

    ``batch`` is the micro-batch in sequences, ``sequence`` its length in tokens. ``precision``: ``fp32``; ``amp-bf16``
    (fp32 weights, gradients and states, matmuls under autocast); ``bf16`` (everything bf16, states too);
    ``bf16-master`` (bf16 weights and gradients, fp32 master weights and states). ``optimizer_impl`` is ``foreach``
    (torch's default on CUDA) or ``fused`` where torch has both. ``in_backward`` updates each parameter as soon as its
    gradient exists and frees it. ``accumulation`` is the number of micro-batches in one optimizer step. ``selective``
    checkpointing recomputes attention only, ``full`` whole blocks. Raises BadInput for values that make no sense.
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

    def __post_init__(self):
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise BadInput(f"{name}={told(value)}: a whole number from 1 to {limit:,} is possible.")
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if name == "optimizer_impl" and value is None:
                continue
            if not isinstance(value, str) or value not in options:
                raise BadInput(f"{name}={told(value)}: {', '.join(options)} are possible.")
        if not isinstance(self.in_backward, bool):
            raise BadInput(f"in_backward={told(self.in_backward)}: True and False are possible.")
        if self.optimizer_impl is None and self.optimizer not in ("adamw8bit", "adafactor"):
            object.__setattr__(self, "optimizer_impl", "foreach")
        elif self.optimizer_impl and self.optimizer in ("adamw8bit", "adafactor"):
            raise BadInput(f"optimizer_impl={self.optimizer_impl!r} with {self.optimizer}: only adamw, sgd and sgd-momentum have both; leave it out.")
        if self.in_backward and self.accumulation > 1:
            raise BadInput(f"in_backward=True with accumulation={self.accumulation}: gradients are freed as soon as they are used, none add up; choose one.")
        if self.trainable == "lora" and self.precision == "bf16-master":
            raise BadInput("trainable='lora' with precision='bf16-master': the frozen weights have no master copy; choose bf16 or amp-bf16.")

    @property
    def tokens(self) -> int:
        """Tokens in one micro-batch."""
        return self.batch * self.sequence

    def check(self, shape: ModelShape) -> None:
        """Raise BadInput if the shape cannot run this plan: a gpt has no positions beyond its context."""
        if shape.style == "gpt" and self.sequence > shape.context:
            raise BadInput(f"sequence={self.sequence}: this gpt has {shape.context} learned positions; choose a shorter sequence or a larger context.")

    def but(self, **changes) -> "TrainingPlan":
        """The same plan with some values changed; a changed optimizer takes its own default implementation."""
        unknown = changes.keys() - {field.name for field in fields(self)}
        if unknown:
            raise BadInput(f"{', '.join(sorted(unknown))}: a plan has {', '.join(field.name for field in fields(self))}.")
        if "optimizer" in changes:
            changes.setdefault("optimizer_impl", None)
        return replace(self, **changes)

    def to_json(self) -> dict:
        return asdict(self)
