"""torch's FSDP2 on the tape: when ``fully_shard`` gathers, frees and reduces, method for method what its FSDPParamGroup does.

torch/distributed/fsdp/_fully_shard, ``_fsdp_param_group.py`` and ``_fsdp_collectives.py`` of torch 2.13. Who holds which buffer, and for how
long, is followed down to local variables: they decide how many gathered layers are in memory at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from mllandscape.memory.tape import Parameter, Size, Storage, Tape, Tensor

GATHERED, REDUCING, SHARDS, UNSHARDED = "gathered layers", "reduce-scatter buffers", "gradient shards", "unsharded gradients"


@dataclass
class Communication:
    """What all groups of a model share: the buffer of the last gather, the buffer of the last reduction, and the order of the groups."""

    gathered: Storage | None = None
    reduced: Storage | None = None
    order: list["ShardedGroup"] = field(default_factory=list)


@dataclass(frozen=True)
class Sharding:
    """What decides the order of a sharded step's allocations. ``compute``, ``reduce`` and ``stored`` are bytes an element."""

    wrap: str
    compute: int
    reduce: int
    stored: int
    kept: tuple[bool, bool]
    prefetch: int | None
    replicated: bool
    accumulating: bool


class ShardedGroup:
    """One wrapped module on the tape; its gathered parameters are one storage, because they come and go together."""

    def __init__(self, tape: Tape, name: str, how: Sharding, shared: Communication, kept: bool, step: Callable[[Parameter], None] | None):
        self.tape, self.name, self.how, self.shared, self.kept, self.step = tape, name, how, shared, kept, step
        self.parameters: list[Parameter] = []
        self.flat: Storage | None = None  # the all-gather's output, before it is copied out
        self.copies: Storage | None = None  # the parameters
        self.shards: Storage | None = None  # their gradients, after the reduction
        self.replica: Storage | None = None  # the all-reduce's buffer, when shards are replicated
        self.done = False
        self.ahead: tuple[list[ShardedGroup], list[ShardedGroup]] | None = None  # explicit prefetching, forward and backward

    def size(self, what: str, itemsize: int) -> Size:
        return f"{self.name} {what}", itemsize

    def unshard(self) -> None:
        if self.flat or self.copies:
            return
        cast = None
        if self.how.compute < self.how.stored:
            cast = self.tape.new(self.size("shard", self.how.compute), GATHERED)
        self.flat = self.tape.new(self.size("flat", self.how.compute), GATHERED)
        del cast

    def wait(self, forward: bool) -> None:
        """Copy the gathered buffer out. In the forward pass it is held until the next group's copy-out, else freed at once."""
        if not self.flat:
            return
        before = self.shared.gathered if forward else None
        self.copies = self.tape.new(self.size("copies", 1), GATHERED)
        if forward:
            self.shared.gathered = self.flat
        self.flat = None
        del before

    def pre_forward(self, x: Tensor | None) -> Tensor | None:
        """Gather, and leave a node at the group's input that reduces its gradients when the backward pass gets there."""
        if self.tape.recomputing:
            return x
        self.unshard()
        self.wait(forward=True)
        for group in self.ahead[0] if self.ahead else ():
            group.unshard()
        if x is None or x.node is None:
            return x
        return Tensor(x.storage, x.size, self.tape.node((x,), self._reduce_and_pass))

    def _reduce_and_pass(self, gradient: Storage) -> Storage:
        self.post_backward()
        return gradient

    def post_forward(self, y: Tensor) -> Tensor:
        if not self.tape.recomputing:
            if not self.kept:
                self.copies = None
            self.shared.order.append(self)
            if y.node:
                y.node.before = self.pre_backward
        return y

    def pre_backward(self) -> None:
        self.unshard()
        self.wait(forward=False)
        place = self.shared.order.index(self)
        for group in self.ahead[1] if self.ahead else self.shared.order[place - 1 : place] if place else ():
            group.unshard()

    def post_backward(self) -> None:
        """Free the parameters, then reduce: the copied-in buffer lives until the next group's turn, the result is the gradient shards."""
        tape, how = self.tape, self.how
        gradients = [parameter.gradient for parameter in self.parameters if parameter.gradient]
        for parameter in self.parameters:
            parameter.gradient = None
        self.done, self.copies, self.shared.reduced = True, None, None
        if not gradients:
            return
        buffer = tape.new(self.size("reduce", how.reduce), REDUCING)
        last = gradients[-1]  # a loop variable of foreach_reduce keeps it
        gradients.clear()
        if how.wrap == "root":
            tape.events.append((-1, ("unseen gradients", 1), UNSHARDED))
        result = tape.new(self.size("reduced", how.reduce), REDUCING)
        if how.replicated:
            self.replica = result
        if how.reduce != how.stored:
            result = tape.new(self.size("reduced", how.stored), REDUCING)
        if self.step:
            result.become(SHARDS)
            for parameter in self.parameters:
                if parameter.trained:
                    self.step(parameter)
        elif not how.accumulating:
            result.become(SHARDS)
            self.shards = result
        del last
        self.shared.reduced = buffer


def finish(groups: list[ShardedGroup]) -> None:
    """The root's final callback: groups whose input asked for no gradient are reduced now, then every buffer is let go.

    "Unseen" are those of the blocks for which the middle block on the tape stands.
    """
    for group in groups:
        if not group.done:
            group.post_backward()
    last = groups[-1]
    if last.replica and last.replica is not last.shards and last.how.wrap == "block":
        last.tape.events.append((-1, ("unseen replicas", 1), last.replica.category))
    for group in groups:
        group.replica = None
    groups[0].shared.reduced = None
