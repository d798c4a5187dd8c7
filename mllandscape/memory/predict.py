"""The bytes of one training step by arithmetic alone: no torch, under a millisecond.

The reference transformer is written once more on the tape, block by block as in ``reference.py``. Its list of
allocations and frees depends only on which features are in use, so it is made once and kept; a prediction replays
it with this shape's numbers. All blocks are alike: three stand for any number (two more for each further block that is
prefetched), and the middle one is repeated.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import prod

from mllandscape import units
from mllandscape.memory import sharding
from mllandscape.memory.fully_shard import UNSHARDED, Communication, ShardedGroup, Sharding, finish
from mllandscape.memory.plan import LOSS_CHUNKS, SHARDED, TrainingPlan
from mllandscape.memory.profile import Band, MemoryProfile, Moment
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.tape import Parameter, Size, Tape, Tensor

BLOCK = 512
"""Bytes. CUDA's caching allocator rounds every request up to this (c10/cuda/CUDACachingAllocator, kMinBlockSize)."""

SPLIT = units.MIB
"""Bytes. So much or less of a large segment's rest is not split off (kSmallSize there)."""


@dataclass(frozen=True)
class Features:
    """What decides the order of allocations, and nothing that decides only their sizes."""

    style: str
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    grouped: bool
    blocks: int
    precision: str
    in_backward: bool
    optimizer: str
    optimizer_impl: str | None
    checkpointing: str
    attention: str
    loss_parts: tuple[str, ...]
    lora: bool
    accumulating: bool
    many_sequences: bool
    neighbours: int
    sharding: Sharding | None
    buckets_hold_gradients: bool

    @classmethod
    def of(cls, shape: ModelShape, plan: TrainingPlan) -> "Features":
        return cls(
            style=shape.style,
            tied=shape.tied,
            qkv_bias=shape.qkv_bias,
            qk_norm=shape.qk_norm,
            grouped=shape.kv_heads < shape.heads,
            blocks=min(shape.layers, 2 * neighbours(plan) + 1),
            precision="bf16" if plan.strategy in SHARDED and plan.precision == "amp-bf16" else plan.precision,
            in_backward=plan.in_backward,
            optimizer=plan.optimizer if plan.in_backward else "",
            optimizer_impl=plan.optimizer_impl if plan.in_backward else None,
            checkpointing=plan.checkpointing,
            attention=plan.attention,
            loss_parts=("",) if plan.loss == "full" else loss_parts(plan.tokens),
            lora=plan.trainable == "lora",
            accumulating=plan.accumulation > 1,
            many_sequences=plan.batch > 1,
            neighbours=neighbours(plan),
            sharding=how_sharded(plan),
            buckets_hold_gradients=plan.gradient_as_bucket_view,
        )

    @property
    def weight_bytes(self) -> int:
        return 2 if self.precision in ("bf16", "bf16-master") else 4


def neighbours(plan: TrainingPlan) -> int:
    """How many blocks on each side of a block take part in its allocations: it is gathered while a neighbour is at work."""
    return max(plan.prefetch or 1, 1)


def repeats(shape: ModelShape, plan: TrainingPlan) -> int:
    """How often the middle block of the tape stands in the model."""
    return max(shape.layers - 2 * neighbours(plan), 0)


def how_sharded(plan: TrainingPlan) -> Sharding | None:
    if plan.strategy not in SHARDED:
        return None
    return Sharding(
        wrap=plan.wrap,
        compute=sharding.compute_bytes(plan),
        reduce=sharding.reduce_bytes(plan),
        stored=sharding.weight_bytes(plan),
        kept=plan.keeps_gathered,
        prefetch=plan.prefetch,
        replicated=plan.strategy == "hsdp",
        accumulating=plan.accumulation > 1,
    )


def loss_parts(tokens: int) -> tuple[str, ...]:
    """Names of the dimension of each part that ``x.chunk(LOSS_CHUNKS)`` makes: all ``part`` but a smaller ``rest`` at the end."""
    size = -(-tokens // LOSS_CHUNKS)
    whole, rest = divmod(tokens, size)
    return ("part ",) * whole + ("rest ",) * bool(rest)


class Decoder:
    """The reference transformer on a tape; method for method and variable for variable what ``reference.py`` does."""

    def __init__(self, tape: Tape, features: Features, groups: dict[str, ShardedGroup]):
        self.tape, self.features, self.groups = tape, features, groups
        self.parameters: dict[str, Parameter] = {}

    def parameter(self, name: str) -> Parameter:
        if name not in self.parameters:
            trained = not self.features.lora or name.endswith((".a", ".b"))
            self.parameters[name] = Parameter(name.split()[-1], self.features.weight_bytes, trained)
            if self.groups:
                self.groups.get(name.rpartition(" ")[0], self.groups[""]).parameters.append(self.parameters[name])
        return self.parameters[name]

    def linear(self, block: str, name: str, x: Tensor, out: str, bias: bool) -> Tensor:
        tape, full = self.tape, block + name
        y = tape.linear(x, self.parameter(full + ".weight"), out, self.parameter(full + ".bias") if bias else None)
        if not self.features.lora:
            return y
        return tape.add(y, tape.linear(tape.linear(x, self.parameter(full + ".a"), "rank"), self.parameter(full + ".b"), out))

    def norm(self, block: str, name: str, x: Tensor, rows: str = "tokens") -> Tensor:
        weight = self.parameter(f"{block}{name}.weight")
        if self.features.style == "llama":
            return self.tape.rms_norm(x, weight, rows)
        return self.tape.layer_norm(x, weight, self.parameter(f"{block}{name}.bias"), rows)

    def block(self, block: str, x: Tensor) -> Tensor:
        group = self.groups.get(block.strip())
        if not group:
            return self.layers(block, x)
        return group.post_forward(self.layers(block, group.pre_forward(x)))

    def layers(self, block: str, x: Tensor) -> Tensor:
        tape = self.tape
        x = tape.add(x, self.linear(block, "out", self.attention(block, self.norm(block, "norm1", x)), "hidden", self.features.style == "gpt"))
        y = self.mlp(block, self.norm(block, "norm2", x))
        with tape.region("checkpoints" if self.features.checkpointing == "full" else "activations"):
            return tape.add(x, y)

    def attention(self, block: str, x: Tensor) -> Tensor:
        if self.features.style == "llama":
            bias = self.features.qkv_bias
            q, k, v = (self.linear(block, name, x, out, bias) for name, out in (("q", "queries"), ("k", "keys"), ("v", "keys")))
        else:
            q, k, v = self.qkv(block, x)
        if self.features.checkpointing == "selective":
            return self.tape.checkpoint(self.core, block, q, k, v)
        return self.core(block, q, k, v)

    def qkv(self, block: str, x: Tensor) -> list[Tensor]:
        fused = self.linear(block, "qkv", x, "3 hidden", True)
        return self.tape.chunk(fused, [("queries", fused.size[1])] * 3)

    def core(self, block: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tape = self.tape
        if self.features.attention == "math":
            # bmm leaves the keys' gradient with tokens innermost: one sequence of it is a view, unless rotary positions laid it out anew
            copies = self.features.style == "llama" or self.features.many_sequences
            q, k, v = tape.split_heads(q), tape.split_heads(k, copies), tape.split_heads(v)
        if self.features.qk_norm:
            q = tape.cast(self.norm(block, "q_norm", q, "query rows"), v.size[1])
            k = tape.cast(self.norm(block, "k_norm", k, "key rows"), v.size[1])
        if self.features.style == "llama":
            q, k = tape.rotate(q), tape.rotate(k)
        if self.features.attention == "flash":
            return tape.flash_attention(q, k, v, "query rows")
        return tape.rearrange(self.math_attention(q, k, v), self.features.many_sequences)

    def math_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tape = self.tape
        q = tape.arrange(q)
        if self.features.grouped:
            k, v = tape.repeat_heads(k, q.size), tape.repeat_heads(v, q.size)
        else:
            k, v = tape.arrange(k), tape.arrange(v)
        with tape.region("attention maps"):
            maps = tape.scale(tape.bmm(q, k, "maps"))
            maps = tape.mask(maps, "mask")
            maps = tape.cast(tape.softmax(tape.cast(maps, 4)), v.size[1])
        return tape.bmm(maps, v, "queries")

    def mlp(self, block: str, x: Tensor) -> Tensor:
        tape = self.tape
        if self.features.style == "llama":
            return self.linear(
                block,
                "down",
                tape.multiply(tape.activate(self.linear(block, "gate", x, "ffn", False)), self.linear(block, "up", x, "ffn", False)),
                "hidden",
                False,
            )
        return self.linear(block, "down", tape.activate(self.linear(block, "up", x, "ffn", True)), "hidden", True)

    def token_loss(self, x: Tensor) -> Tensor:
        tape = self.tape
        head = self.parameter("tokens.weight" if self.features.tied else "head.weight")
        with tape.region("logits and loss"):
            return tape.cross_entropy(tape.cast(tape.linear(x, head, x.size[0].replace("hidden", "vocab")), 4))

    def loss(self, x: Tensor) -> Tensor:
        parts = self.features.loss_parts
        if parts == ("",):
            return self.token_loss(x)
        pieces = self.tape.chunk(x, [(part + "hidden", x.size[1]) for part in parts])
        total = self.tape.add_constant(self.tape.checkpoint(self.token_loss, pieces[0]))
        for piece in pieces[1:]:
            total = self.tape.add(total, self.tape.checkpoint(self.token_loss, piece))
        return total

    def embed(self) -> Tensor:
        tape, features = self.tape, self.features
        with tape.region("checkpoints" if features.checkpointing == "full" else "activations"):
            x = tape.embedding(self.parameter("tokens.weight"), "hidden")
            if features.style == "gpt":
                x = tape.add_positions(x, self.parameter("positions.weight"), "positions", features.many_sequences)
        return x


@dataclass(frozen=True)
class Stretch:
    """A run of events. ``keys`` number them in the program's ``sizes``: 2i allocates size i, 2i+1 frees it. ``of`` is embedding, block or head."""

    of: str
    keys: tuple[int, ...]
    categories: tuple[str, ...]
    repeated: bool
    net: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Program:
    """The stretches of the forward and the backward pass; a repeated one is one middle block's."""

    sizes: tuple[Size, ...]
    forward: tuple[Stretch, ...]
    backward: tuple[Stretch, ...]


@cache
def program(features: Features) -> Program:
    """Run the transformer of a few blocks on the tape."""
    tape = Tape(features.precision == "amp-bf16", features.accumulating and not features.sharding)
    groups = wrapped(tape, features)
    if groups:
        tape.step = keep_unsharded
    elif features.in_backward:
        tape.step = optimizer_in_backward(tape, features)
    elif features.buckets_hold_gradients:
        tape.step = copied_into_bucket
    decoder = Decoder(tape, features, groups)
    previous = tape.new(("1", 4)) if features.accumulating else None  # the loss of the micro-batch before
    if groups:
        groups[""].pre_forward(None)
    x = decoder.embed()
    cuts, orders = [], []
    for block in range(features.blocks):
        cuts.append(len(tape.events))
        orders.append(tape.order)
        x = tape.checkpoint(decoder.block, f"{block} ", x) if features.checkpointing == "full" else decoder.block(f"{block} ", x)
    cuts.append(len(tape.events))
    orders.append(tape.order)
    x = decoder.norm("", "norm", x)
    loss = decoder.loss(x)
    del x
    if groups:
        groups[""].post_forward(loss)
        groups[""].shared.gathered = None
    root, scalars = loss.node, [tape.new(("1", 4))]  # the mean loss
    del loss, previous
    scalars += [tape.new(("1", 4)) for _ in range(2)]  # its share of the step, its gradient of one
    middle = features.neighbours if features.blocks == 2 * features.neighbours + 1 else None
    copied = {parameter for name, parameter in decoder.parameters.items() if name.startswith(f"{middle} ")}
    tape.end_autocast(set(decoder.parameters.values()) - copied)
    cuts.append(len(tape.events))
    tape.end_autocast(copied)
    forward = parts_of(tape.events, cuts)
    tape.events[:] = []
    tape.boundaries = list(orders)
    root.slots[0] = tape.temporary(("1", 4))  # that gradient, divided
    tape.backward(root)
    marks = tape.marks + [len(tape.events)] * (len(orders) - len(tape.marks))  # nothing before the blocks is trained with adapters alone
    if groups:
        finish(list(groups.values()))
    del scalars[1:]  # the step holds its loss until the next one
    backward = parts_of(tape.events, marks)
    sizes = tuple({size for part in forward + backward for _, size, _ in part})
    numbers = {size: number for number, size in enumerate(sizes)}

    def stretch(of: str, part: list, repeated: bool) -> Stretch:
        keys = tuple(2 * numbers[size] + (sign < 0) for sign, size, _ in part)
        net = Counter()
        for key, (sign, _, category) in zip(keys, part, strict=True):
            net[category, key - key % 2] += sign
        return Stretch(
            of,
            keys,
            tuple(category for _, _, category in part),
            repeated,
            tuple((category, key + (times < 0)) for (category, key), times in net.items() for _ in range(abs(times))),
        )

    blocks = [("block", number == middle) for number in range(features.blocks)]
    along = [("embedding", False), *blocks, ("head", False), ("head", True)]  # last the middle block's weight copies, as often as there are such blocks
    back = [("head", False), *blocks[::-1], ("embedding", False)]
    return Program(
        sizes,
        tuple(stretch(of, part, repeated) for (of, repeated), part in zip(along, forward, strict=True)),
        tuple(stretch(of, part, repeated) for (of, repeated), part in zip(back, backward, strict=True)),
    )


def parts_of(events: list, cuts: list[int]) -> tuple[list, ...]:
    """The events before, between and behind the cuts."""
    return tuple(events[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True))


def wrapped(tape: Tape, features: Features) -> dict[str, ShardedGroup]:
    """The sharded groups of a model on the tape by the prefix of their parameters' names, the root's is ""; none without sharding."""
    how = features.sharding
    if how is None:
        return {}
    step = optimizer_in_backward(tape, features) if features.in_backward else None
    shared, (block_kept, root_kept) = Communication(), how.kept
    root = ShardedGroup(tape, "root", how, shared, root_kept, step)
    if how.wrap == "root":
        return {"": root}
    blocks = [ShardedGroup(tape, "block", how, shared, block_kept, step) for _ in range(features.blocks)]
    if how.prefetch is not None:
        root.ahead = blocks[: how.prefetch], blocks[::-1][: how.prefetch]
        for place, block in enumerate(blocks):
            block.ahead = blocks[place + 1 :][: how.prefetch], blocks[:place][::-1][: how.prefetch]
    return {"": root} | {str(number): block for number, block in enumerate(blocks)}


def keep_unsharded(parameter: Parameter) -> None:
    parameter.slots[0].become(UNSHARDED)
    parameter.gradient = parameter.slots[0]


def copied_into_bucket(parameter: Parameter) -> None:
    """DDP with gradient_as_bucket_view: the gradient is copied into its place in the bucket and let go."""


def optimizer_in_backward(tape: Tape, features: Features):
    """What one parameter's update allocates, as its gradient arrives; of a sharded one, of rank 0's shard."""
    how = features.sharding
    itemsize = 4 if features.precision == "bf16-master" else how.stored if how else features.weight_bytes

    def step(parameter: Parameter) -> None:
        size = (f"{parameter.size[0]} shard" if how else parameter.size[0], itemsize)
        held = []
        if features.precision == "bf16-master":
            held.append(tape.new(size, "optimizer step transient"))  # the gradient in fp32
            parameter.slots[0] = None
        elif not how:
            parameter.slots[0].become("gradients")
        if features.optimizer == "adamw" and features.optimizer_impl == "foreach":
            held.append(tape.new(size, "optimizer step transient"))
        if features.optimizer == "adafactor":
            factors = ((f"{size[0]} rows", itemsize), (f"{size[0]} columns", itemsize), size, ("1", itemsize))
            held += [tape.new(factor, "optimizer step transient") for factor in factors]

    return step


def named_parameters(shape: ModelShape, plan: TrainingPlan) -> tuple[dict, dict, dict]:
    """{name: dimensions} of the parameters before the blocks, in one block and after them, LoRA's among them."""
    return dict(shape.embedding), dict(sharding.block_tensors(shape, plan)), dict(shape.final)


def dimensions(shape: ModelShape, plan: TrainingPlan) -> dict[str, int]:
    """The number of elements behind every dimension's name on the tape."""
    tokens, batch, sequence = plan.tokens, plan.batch, plan.sequence
    part = -(-tokens // LOSS_CHUNKS)
    counts = {
        "1": 1,
        "hidden": tokens * shape.hidden,
        "vocab": tokens * shape.vocab,
        "part hidden": part * shape.hidden,
        "part vocab": part * shape.vocab,
        "rest hidden": tokens % part * shape.hidden,
        "rest vocab": tokens % part * shape.vocab,
        "ffn": tokens * shape.ffn,
        "queries": tokens * shape.q_dim,
        "keys": tokens * shape.kv_dim,
        "½queries": tokens * shape.q_dim // 2,
        "½keys": tokens * shape.kv_dim // 2,
        "3 hidden": 3 * tokens * shape.hidden,
        "rank": tokens * plan.lora_rank,
        "tokens": tokens,
        "query rows": tokens * shape.heads,
        "key rows": tokens * shape.kv_heads,
        "maps": batch * shape.heads * sequence * sequence,
        "mask": sequence * sequence,
        "positions": sequence * shape.hidden,
    }
    for group in named_parameters(shape, plan):
        counts |= {name: prod(size) for name, size in group.items()}
        if plan.optimizer == "adafactor":
            counts |= {f"{name} rows": size[0] for name, size in group.items()}
            counts |= {f"{name} columns": prod(size[1:2]) * (len(size) == 2) for name, size in group.items()}
        if plan.in_backward:
            counts |= {f"{name} shard": sharding.shard(size, plan.shard_ranks) for name, size in group.items()}
    return counts | sharded_dimensions(shape, plan)


def sharded_dimensions(shape: ModelShape, plan: TrainingPlan) -> dict[str, int]:
    """The buffers of each sharded group; ``copies`` and what is unseen on the tape are bytes."""
    if plan.strategy not in SHARDED:
        return {}
    ranks, compute, counts = plan.shard_ranks, sharding.compute_bytes(plan), {}
    for group in sharding.groups(shape, plan):
        flat, reduce = group.gathered(ranks), group.reduced(plan)
        counts |= {f"{group.name} flat": flat, f"{group.name} shard": flat // ranks, f"{group.name} reduce": reduce, f"{group.name} reduced": reduce // ranks}
        counts[f"{group.name} copies"] = sum(rounded(compute * sharding.padded(size, ranks)) for _, size in group.tensors)
    unseen = max(repeats(shape, plan) - 1, 0)
    if plan.wrap == "root":
        block = sum(rounded(compute * prod(size)) for key, size in sharding.block_tensors(shape, plan) if sharding.trained(key, plan))
        counts["unseen gradients"] = unseen * block
    else:
        counts["unseen replicas"] = unseen * rounded(counts["block reduced"] * sharding.reduce_bytes(plan))
    return counts


def rounded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def replay(live: Counter, stretches: Iterable[Stretch], changes: list[int], repeated: int) -> dict[str, int]:
    """Run stretches over what is live, which is brought up to date; returns the categories at the highest moment.

    A stretch of one block is run for the first and the last of its repetitions: each repeats the same changes, so
    one of those two holds the peak.
    """
    highest, at = -1, None
    for stretch in stretches:
        times = repeated if stretch.repeated else 1
        heights = list(accumulate(map(changes.__getitem__, stretch.keys), initial=0))
        top = max(heights)
        for repetitions in (times - 1, min(times, 1)):
            if repetitions < 1:
                continue
            total = sum(live.values()) + top
            if total > highest:
                highest, at = total, (Counter(live), stretch, heights.index(top))
            for category, key in stretch.net:
                live[category] += changes[key] * repetitions
    peak, stretch, index = at
    for category, key in zip(stretch.categories[:index], stretch.keys[:index], strict=True):
        peak[category] += changes[key]
    return {category: count for category, count in peak.items() if count}


def held(shape: ModelShape, plan: TrainingPlan) -> Counter:
    """Bytes that are there before the step and after it: parameters, master weights, optimizer states, inputs; all of them this rank's own."""
    return summed(kept(shape, plan))


def summed(tensors: Iterable[tuple[str, int, int]]) -> Counter:
    """Bytes by category, each tensor in whole blocks, of (category, number of such tensors, bytes asked for each)."""
    live = Counter()
    for category, times, count in tensors:
        live[category] += times * rounded(count)
    return live


def kept(shape: ModelShape, plan: TrainingPlan) -> list[tuple[str, int, int]]:
    """(category, number of such tensors, bytes asked for each) of what is held; the same category comes many times."""
    weight, stepped = sharding.weight_bytes(plan), stepped_bytes(plan)
    sharded, ranks = plan.strategy in SHARDED, plan.shard_ranks
    found = []
    eightbit = 0
    for group, times in zip(named_parameters(shape, plan), (1, shape.layers, 1), strict=True):
        for name, size in group.items():
            count = sharding.shard(size, ranks)
            found.append(("sharded parameters" if sharded else "parameters", times, count * weight))
            if not sharding.trained(name, plan):
                continue
            eightbit += times * (count >= 4096)
            if plan.strategy != "zero1":
                found += [("optimizer states", times, state) for state in states(plan.optimizer, (count,) if sharded else size, stepped)]
            if plan.precision == "bf16-master":
                found.append(("master weights", times, count * 4))
    if plan.strategy == "zero1":
        mine = largest_owned(shape, plan)
        found += [("optimizer states", 1, state) for size in mine for state in states(plan.optimizer, size, stepped)]
        eightbit = sum(prod(size) >= 4096 for size in mine)
    if plan.optimizer == "adamw8bit":
        found.append(("optimizer states", 2 * (eightbit if plan.in_backward else min(eightbit, 1)), 256 * 4))
    if plan.strategy in ("ddp", "zero1"):
        found += [("all-reduce buckets", 1, count * weight) for count in sharding.buckets(shape, plan)]
    if plan.accumulation > 1 and not plan.gradient_as_bucket_view:
        found += gradients(shape, plan)
    found.append(("inputs", 2, 8 * plan.tokens * plan.accumulation))
    if shape.style == "llama":
        found.append(("inputs", 2, plan.sequence * shape.head_dim * sharding.compute_bytes(plan)))
    return found


def gradients(shape: ModelShape, plan: TrainingPlan) -> list[tuple[str, int, int]]:
    """The same of all gradients, as this rank keeps them until its optimizer's step: of a sharded group one buffer."""
    weight = sharding.weight_bytes(plan)
    if plan.strategy in SHARDED:
        return [("gradient shards", group.times, group.reduced(plan) // plan.shard_ranks * weight) for group in sharding.groups(shape, plan)]
    groups = zip(named_parameters(shape, plan), (1, shape.layers, 1), strict=True)
    return [("gradients", times, prod(size) * weight) for group, times in groups for name, size in group.items() if sharding.trained(name, plan)]


def stepped_bytes(plan: TrainingPlan) -> int:
    """Bytes of one element of what the optimizer steps on: the parameters, or their fp32 master copies."""
    return 4 if plan.precision == "bf16-master" else sharding.weight_bytes(plan)


@cache
def largest_owned(shape: ModelShape, plan: TrainingPlan) -> list[tuple[int, ...]]:
    """What the rank with the most bytes of optimizer states owns under ZeRO-1."""
    return max(sharding.owned(shape, plan), key=lambda sizes: sum(state_bytes(plan.optimizer, size, stepped_bytes(plan)) for size in sizes))


def state_bytes(optimizer: str, size: tuple[int, ...], itemsize: int) -> int:
    """Bytes of one parameter's optimizer states, each in whole blocks."""
    return sum(map(rounded, states(optimizer, size, itemsize)))


def states(optimizer: str, size: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes of each tensor of one parameter's optimizer states.

    AdamW: two moments in the parameter's type and a step count (torch/optim/adamw.py). SGD with momentum: one buffer.
    AdamW8bit: two moments of one byte and an fp32 absmax for 256 elements each; fp32 below 4,096 elements (bitsandbytes
    optim/optimizer.py). Adafactor: a row and a column of second moments for a matrix, a full one for a vector
    (torch/optim/_adafactor.py).
    """
    count = prod(size)
    if optimizer == "adamw":
        return (count * itemsize,) * 2 + (4,)
    if optimizer == "sgd-momentum":
        return (count * itemsize,)
    if optimizer == "adamw8bit":
        return (count, -(-count // 256) * 4) * 2 if count >= 4096 else (count * 4,) * 2
    if optimizer == "adafactor":
        return (4, size[0] * itemsize, size[1] * itemsize) if len(size) == 2 else (4, count * itemsize)
    return ()


def optimizer_step(live: Counter, shape: ModelShape, plan: TrainingPlan) -> dict[str, int]:
    """The categories at the highest moment of the optimizer step after the backward pass.

    foreach AdamW makes the roots of all second moments at once, one more copy of the parameters
    (torch/optim/adam.py, ``_multi_tensor_adam``); fused, SGD and AdamW8bit work in place. bf16-master first takes over
    one gradient after another in fp32.
    """
    master, sharded, stepped = plan.precision == "bf16-master", plan.strategy in SHARDED, stepped_bytes(plan)
    times = (1, shape.layers, 1)
    groups = [[size for name, size in group.items() if sharding.trained(name, plan)] for group in named_parameters(shape, plan)]
    if plan.strategy == "zero1":
        groups, times = [largest_owned(shape, plan)], (1,)

    def elements(size: tuple[int, ...]) -> int:
        return sharding.shard(size, plan.shard_ranks)

    def copies(itemsize: int) -> int:
        return sum(count * rounded(elements(size) * itemsize) for group, count in zip(groups, times, strict=True) for size in group)

    kept = "gradient shards" if sharded else "gradients"
    gradients, transient = (0, copies(4)) if master else (live[kept], 0)
    if plan.optimizer == "adamw" and plan.optimizer_impl == "foreach":
        transient += copies(stepped)
    if plan.optimizer == "adafactor":
        first, block, last = (groups + [[], []])[:3]
        transient += adafactor_transient([*first, *block, *block[: len(block) * (shape.layers > 1)], *last], stepped)
    if master and not plan.gradient_as_bucket_view:  # DDP's buckets stay, whoever takes the gradients over
        gradients, transient = max((gradients, transient), *(shard_handovers if sharded else handovers)(shape, plan, groups), key=sum)
    peak = Counter(live)
    peak[kept], peak["optimizer step transient"] = gradients, transient
    return {category: count for category, count in peak.items() if count}


def handovers(shape: ModelShape, plan: TrainingPlan, groups: list[list[tuple[int, ...]]]) -> Iterator[tuple[int, int]]:
    """(bf16 gradients left, fp32 gradients made) as the master weights take one gradient after another; of all blocks the last is the highest."""
    times = (1, shape.layers, 1)
    left = sum(count * rounded(2 * prod(size)) for group, count in zip(groups, times, strict=True) for size in group)
    taken = 0
    for group, count in zip(groups, times, strict=True):
        if count > 1:
            left -= sum(rounded(2 * prod(size)) for size in group) * (count - 1)
            taken += sum(rounded(4 * prod(size)) for size in group) * (count - 1)
        for size in group:
            taken += rounded(4 * prod(size))
            yield left, taken
            left -= rounded(2 * prod(size))


def shard_handovers(shape: ModelShape, plan: TrainingPlan, groups: list[list[tuple[int, ...]]]) -> Iterator[tuple[int, int]]:
    """The same of shards: a group's bf16 gradients are one buffer, let go with the last of them, and the root's with the head's."""
    first, block, last = ([rounded(4 * sharding.shard(size, plan.shard_ranks)) for size in group] for group in groups)
    held = {group.name: rounded(2 * (group.reduced(plan) // plan.shard_ranks)) for group in sharding.groups(shape, plan)}
    root, each = held["root"], held.get("block", 0)
    yield root + each, sum(first) + sum(block) * shape.layers
    yield root, sum(first) + sum(block) * shape.layers + sum(last)


def adafactor_transient(sizes: list[tuple[int, ...]], itemsize: int) -> int:
    """Bytes at the highest moment of one parameter's update after another (torch/optim/_adafactor.py, ``_single_tensor_adafactor``).

    A matrix needs means of its rows and columns and the estimate of its second moments, a vector its square and the
    estimate. Python lets go of each only when the next parameter's takes its name.
    """
    highest = rows = columns = square = estimate = 0
    for size in sizes:
        count = rounded(prod(size) * itemsize)
        kept = estimate
        if len(size) == 2:
            before, rows = rows, rounded(size[0] * itemsize)
            highest = max(highest, before + rows + columns + square + kept)
            before, columns = columns, rounded(size[1] * itemsize)
            highest = max(highest, rows + before + columns + square + kept)
        else:
            before, square = square, count
            highest = max(highest, rows + columns + before + square + kept)
        estimate = count
        highest = max(highest, rows + columns + square + kept + estimate + BLOCK * (len(size) == 2))
    return highest


def prepared(shape: ModelShape, plan: TrainingPlan) -> tuple[Program, list[tuple[str, int, int]], list[int]]:
    """What a replay needs: the program, what is ``kept`` before it, and the bytes of each allocation and free by its key."""
    plan.check(shape)
    steps, counts = program(Features.of(shape, plan)), dimensions(shape, plan)
    return steps, kept(shape, plan), [sign * rounded(counts[name] * itemsize) for name, itemsize in steps.sizes for sign in (1, -1)]


def predict(shape: ModelShape, plan: TrainingPlan, timeline: bool = False) -> MemoryProfile:
    """Peak bytes of one training step by phase and category, with the bands of what a GPU reserves around it.

    With ``timeline`` every block's allocations are listed, which takes milliseconds. Raises BadInput if the sequence is
    longer than a gpt's learned positions.
    """
    steps, lasting, changes = prepared(shape, plan)
    live = summed(lasting)
    moments = list(walk(Counter(live), steps, changes, repeats(shape, plan))) if timeline else []
    phases = {
        "forward": replay(live, steps.forward, changes, repeats(shape, plan)),
        "backward": replay(live, steps.backward, changes, repeats(shape, plan)),
    }
    if not plan.in_backward:
        phases["optimizer step"] = optimizer_step(live, shape, plan)
        if timeline:
            moments += (Moment("optimizer step", "begin", dict(live)), Moment("optimizer step", plan.optimizer, phases["optimizer step"]))
    peak_phase = max(phases, key=lambda phase: sum(phases[phase].values()))
    terms = phases[peak_phase]
    allocated = sum(terms.values())
    cuda_only = {"cuBLAS workspaces": workspaces(shape, plan), "segment rounding": segment_rounding(shape, plan, lasting, terms)}
    cuda_only = {term: count for term, count in cuda_only.items() if count}
    reserved, device = bands(allocated + sum(cuda_only.values()), phases.values())
    return MemoryProfile(
        method="predict",
        allocated=allocated,
        peak_phase=peak_phase,
        terms=terms,
        phases=phases,
        timeline=tuple(moments),
        shape=shape,
        plan=plan,
        cuda_only=cuda_only,
        reserved=reserved,
        device=device,
    )


def by_task(shape: ModelShape, plan: TrainingPlan) -> list[tuple[str, str, int]]:
    """(phase, module, bytes at its highest moment) in the order of the step; a module is embedding, block 3 or head, and "step" is the optimizer's.

    Over several micro-batches the last one. Raises BadInput if the sequence is longer than a gpt's learned positions.
    """
    steps, lasting, changes = prepared(shape, plan)
    live = summed(lasting)
    total, told = sum(live.values()), []
    for phase, stretches, numbers in (("forward", steps.forward, iter(range(shape.layers))), ("backward", steps.backward, iter(range(shape.layers)[::-1]))):
        for stretch in stretches:
            top = max(accumulate(map(changes.__getitem__, stretch.keys), initial=0))
            net = sum(changes[key] for _, key in stretch.net)
            for _ in range(repeats(shape, plan) if stretch.repeated else 1):
                if stretch.keys:
                    told.append((phase, f"block {next(numbers)}" if stretch.of == "block" else stretch.of, total + top))
                total += net
    if not plan.in_backward:
        replay(live, (*steps.forward, *steps.backward), changes, repeats(shape, plan))
        told.append(("optimizer step", "step", sum(optimizer_step(live, shape, plan).values())))
    return told


def walk(live: Counter, steps: Program, changes: list[int], repeated: int) -> Iterator[Moment]:
    """Every moment of the forward and the backward pass, block by block."""
    for phase, stretches in (("forward", steps.forward), ("backward", steps.backward)):
        for stretch in stretches:
            for _ in range(repeated if stretch.repeated else 1):
                for category, key in zip(stretch.categories, stretch.keys, strict=True):
                    live[category] += changes[key]
                    yield Moment(phase, category, {name: count for name, count in live.items() if count})


def workspaces(shape: ModelShape, plan: TrainingPlan) -> int:
    """Bytes that cuBLAS keeps, at most: 32 MiB a handle on Hopper and Blackwell, 8.125 MiB before (aten/src/ATen/cuda/CublasHandlePool.cpp).

    A thread has a handle of its own, and autograd's engine runs in another than the forward pass. A matmul with a bias goes through cuBLASLt, which keeps 1 MiB
    more for the thread (aten/src/ATen/cuda/CUDABlas.cpp); in the backward pass there is one only where a layer is recomputed.
    """
    biased = shape.style == "gpt" or shape.qkv_bias
    return 2 * 32 * units.MIB + biased * (1 + (plan.checkpointing == "full")) * units.MIB


def segment_rounding(shape: ModelShape, plan: TrainingPlan, lasting: list[tuple[str, int, int]], terms: dict[str, int]) -> int:
    """Bytes that the caching allocator gives to what is held (``lasting``), and to the gradients there are, beyond whole blocks of 512 B.

    Not those of activations: they lie in what others have left, in places that depend on the order.
    """
    extra = sum(times * unsplit(count) for _, times, count in lasting)
    if plan.in_backward or plan.accumulation > 1 or plan.gradient_as_bucket_view:
        return extra
    of_all = gradients(shape, plan)
    arrived = sum(terms.get(category, 0) / count for category, count in summed(of_all).items())
    return extra + round(min(arrived, 1) * sum(times * unsplit(count) for _, times, count in of_all))


def unsplit(count: int) -> int:
    """Bytes that a tensor of so many gets too much, as a block that is not split off.

    Above 1 MiB it comes from a segment of 20 MiB, or, from 10 MiB on, from one of its own of whole 2 MiB; a rest of at most 1 MiB is not split off
    (c10/cuda/CUDACachingAllocator.cpp, ``get_allocation_size`` and ``should_split``). Of several in a segment each is given its part of the rest.
    """
    if count <= SPLIT:
        return 0
    segment = 20 * units.MIB if count < 10 * units.MIB else -(-count // (2 * units.MIB)) * 2 * units.MIB
    pieces, rest = divmod(segment, rounded(count))
    return rest // pieces if rest <= SPLIT else 0


def bands(allocated: int, phases: Iterable[dict[str, int]]) -> tuple[Band, Band]:
    """Reserved and device-level bytes around ``allocated`` (workspaces included), ``phases`` the categories at each phase's peak.

    Reserved: from no fragmentation at all to a quarter more, or to what it takes if no category ever gets what another has freed. Device: plus a CUDA
    context with loaded kernels of 0.4 to 1.4 GiB; 1,343 MiB is the published figure of a V100 (Hugging Face, transformers documentation,
    perf_train_gpu_one).
    """
    phases = list(phases)
    apart = sum(max(terms.get(category, 0) for terms in phases) for category in set().union(*phases))
    tensors = max(sum(terms.values()) for terms in phases)
    reserved = Band(
        allocated,
        max(round(1.25 * allocated), allocated + apart - tensors),
        "from no fragmentation to 25 %, or to no reuse between activations, gradients and the step; "
        "torchtitan's published 8 × H100 run of Llama-3.1-8B reserves 23 % more than a trace of it allocates",
    )
    device = Band(
        reserved.low + round(0.4 * units.GIB),
        reserved.high + round(1.4 * units.GIB),
        "reserved plus a CUDA context of 0.4 to 1.4 GiB, and nothing else on the card",
    )
    return reserved, device
