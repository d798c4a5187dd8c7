"""A symbolic autograd: operations that own no data, only a note of what torch allocates, keeps and frees for them.

Running a model on the tape writes its allocations and frees in torch's own order, as (sign, size, category) with sizes
left symbolic. ``predict`` replays the list with numbers. Each operation stands beside its backward rule; what an
operation keeps is what torch's ``derivatives.yaml`` (tools/autograd) says it keeps, and autograd's engine, its saved
tensors and ``torch.utils.checkpoint`` (non-reentrant, early stop) are followed in when they let go.

A size is a pair (dimension, bytes per element): ``("th", 2)`` is tokens × hidden in a 2-byte type. ``predict`` knows
the number behind each dimension's name.
"""

import heapq
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager

Size = tuple[str, int]


class Storage:
    """Bytes that are live for as long as Python refers to this object. A ``view`` is of a tensor that torch keeps, so nothing is added into it."""

    __slots__ = ("size", "category", "events", "view")

    def __init__(self, tape: "Tape", size: Size, category: str, view: bool = False):
        self.size, self.category, self.events, self.view = size, category, tape.events, view
        self.events.append((1, size, category))

    def become(self, category: str) -> None:
        self.events += ((-1, self.size, self.category), (1, self.size, category))
        self.category = category

    def __del__(self):
        self.events.append((-1, self.size, self.category))


class Parameter:
    """A leaf: its bytes are counted outside the tape, its gradient on it."""

    __slots__ = ("size", "trained", "gradient", "slots", "waiting")
    storage = None
    slot = 0

    def __init__(self, name: str, itemsize: int, trained: bool = True):
        self.size, self.trained, self.gradient = (name, itemsize), trained, None
        self.slots: list[Storage | None] = [None]
        self.waiting = 0

    @property
    def node(self):
        return self if self.trained else None


class Tensor:
    """A result on the tape: a storage, perhaps shared with others, and the node that made it."""

    __slots__ = ("storage", "size", "node", "slot")

    def __init__(self, storage: Storage, size: Size, node: "Node | None", slot: int = 0):
        self.storage, self.size, self.node, self.slot = storage, size, node, slot


class Node:
    """One step of the backward pass: where gradients arrive (slots), what was saved, and where results go (edges).

    ``before`` is a hook that runs first. ``rule`` takes the arrived gradients and returns one for each edge; one that is still to be
    summed is (gradient, size).
    """

    __slots__ = ("order", "rule", "edges", "saved", "slots", "waiting", "before")

    def __init__(self, order: int, rule: Callable, edges: list, slots: int):
        self.order, self.rule, self.edges = order, rule, edges
        self.saved: list = []
        self.slots: list[Storage | None] = [None] * slots
        self.waiting = 0
        self.before: Callable[[], None] | None = None


class StopRecomputation(Exception):
    """Everything that the backward pass needs from a checkpoint has been made again."""


class Checkpoint:
    """A function whose saved tensors are dropped, and made again when the backward pass first asks for one."""

    __slots__ = ("run", "kept", "recomputed", "done")

    def __init__(self, run: Callable):
        self.run = run
        self.kept = 0  # how many tensors the forward pass asked to save
        self.recomputed: list = []
        self.done = False


class Tape:
    """Writes ``events``: (+1 or -1, size, category).

    ``amp``: matmuls run under bf16 autocast. ``accumulating``: every parameter has a gradient already, to add to. ``step``:
    what happens at once to the gradient in a parameter's slot, such as an optimizer's step inside the backward pass. ``boundaries`` are node
    orders, ascending; ``marks`` are the lengths of ``events`` as the backward pass came to each of them.
    """

    def __init__(self, amp: bool, accumulating: bool = False):
        self.events: list[tuple[int, Size, str]] = []
        self.boundaries: list[int] = []
        self.marks: list[int] = []
        self.amp, self.accumulating = amp, accumulating
        self.step: Callable[[Parameter], None] | None = None
        self._casts: dict[Parameter, Tensor] = {}  # autocast's cache of weight copies
        self._region = "activations"
        self.order = 0
        self._saving: Checkpoint | None = None
        self._recomputing: Checkpoint | None = None

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    @contextmanager
    def region(self, category: str):
        before, self._region = self._region, category
        try:
            yield
        finally:
            self._region = before

    def new(self, size: Size, category: str | None = None) -> Storage:
        return Storage(self, size, category or self._region)

    def temporary(self, size: Size, view: bool = False) -> Storage:
        return Storage(self, size, "temporaries", view)

    def node(self, inputs: tuple, rule: Callable, slots: int = 1) -> Node | None:
        """The backward node of an operation, or None if nothing among its inputs is trained."""
        edges = [(x.node, x.slot) for x in inputs]
        if not any(target for target, _ in edges):
            return None
        self.order += 1
        return Node(self.order, rule, edges, slots)

    def save(self, node: Node | None, *values) -> None:
        """Keep storages until the node has run; inside a checkpoint only promise to make them again."""
        for value in values:
            if node is None:
                continue
            if self._saving:
                node.saved.append((self._saving, self._saving.kept))
                self._saving.kept += 1
            elif self._recomputing:
                checkpoint = self._recomputing
                checkpoint.recomputed.append(value.storage)
                node.saved.append(value.storage)
                if len(checkpoint.recomputed) == checkpoint.kept:
                    raise StopRecomputation
            else:
                node.saved.append(value.storage)

    def checkpoint(self, function: Callable, *inputs):
        """``torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)``."""
        region = self._region

        def run():
            with self.region(region):
                function(*inputs)

        self._saving = Checkpoint(run)
        try:
            return function(*inputs)
        finally:
            self._saving = None

    def _recompute(self, checkpoint: Checkpoint) -> None:
        casts, self._casts, self._recomputing = self._casts, {}, checkpoint
        try:
            checkpoint.run()
        except StopRecomputation:
            pass
        finally:
            self._casts, self._recomputing = casts, None
        checkpoint.done = True

    @property
    def recomputing(self) -> bool:
        return self._recomputing is not None

    def end_autocast(self, parameters: Iterable[Parameter]) -> None:
        """Leaving the autocast block drops its weight copies, unless a node saved them."""
        for parameter in parameters:
            self._casts.pop(parameter, None)

    def backward(self, root: Node) -> None:
        """Run the nodes as autograd's engine does: last made first among those whose gradients have all arrived."""
        _count_arrivals(root)
        ready = [(-root.order, root)]
        while ready:
            _, node = heapq.heappop(ready)
            while self.boundaries and node.order <= self.boundaries[-1]:
                self.boundaries.pop()
                self.marks.append(len(self.events))
            if node.before:
                node.before()
            held = [self._unpack(*saved) for saved in node.saved if isinstance(saved, tuple)]
            gradients = node.rule(*node.slots)
            gradients = list(gradients) if isinstance(gradients, tuple) else [gradients]
            held.clear()
            for place, gradient in enumerate(gradients):
                if isinstance(gradient, tuple):  # of an input that was broadcast: summed to its size when the rule is through
                    gradients[place] = gradient = self.temporary(gradient[1])
            node.slots = node.saved = node.rule = None
            for place, (target, slot) in enumerate(node.edges):
                gradient, gradients[place] = gradients[place], None
                if target is None:
                    continue
                target.slots[slot] = gradient if target.slots[slot] is None else self._summed(target.slots, slot, gradient)
                gradient = None
                target.waiting -= 1
                if not target.waiting and isinstance(target, Parameter):
                    self._accumulate(target)
                elif not target.waiting:
                    heapq.heappush(ready, (-target.order, target))

    def _unpack(self, checkpoint: Checkpoint, index: int) -> Storage:
        if not checkpoint.done:
            self._recompute(checkpoint)
        storage, checkpoint.recomputed[index] = checkpoint.recomputed[index], None
        return storage

    def _summed(self, slots: list[Storage | None], slot: int, gradient: Storage) -> Storage:
        """A tensor's second gradient is added into the first if nothing else refers to that (torch/csrc/autograd/input_buffer.cpp, ``accumulate``)."""
        first = slots[slot]
        if first.size == gradient.size and not first.view and sys.getrefcount(first) == 3:  # the slot, the name, the call
            return first
        del first
        return self.temporary(gradient.size)

    def _accumulate(self, parameter: Parameter) -> None:
        """The first gradient is kept as it is, later ones are added into it (torch/csrc/autograd/functions/accumulate_grad.h)."""
        if self.step:
            self.step(parameter)
        elif not self.accumulating:
            parameter.slots[0].become("gradients")
            parameter.gradient = parameter.slots[0]
        parameter.slots[0] = None

    # -- operations ------------------------------------------------------------------------------------------------

    def cast(self, x, itemsize: int) -> Tensor:
        """``x.to(dtype)``: nothing is kept; nothing happens if x has the type already."""
        before = x.size[1]
        if before == itemsize:
            return x
        size = (x.size[0], itemsize)
        node = self.node((x,), lambda g: self.temporary((size[0], before)))
        return Tensor(self.new(size), size, node)

    def weight(self, parameter: Parameter) -> Parameter | Tensor:
        """A matmul's weight: under autocast a bf16 copy, cached until the block ends if the weight is trained."""
        if not self.amp:
            return parameter
        if parameter in self._casts:
            return self._casts[parameter]
        with self.region("autocast weight copies"):
            copy = self.cast(parameter, 2)
        if parameter.trained:
            self._casts[parameter] = copy
        return copy

    def linear(self, x: Tensor, parameter: Parameter, out: str, bias: Parameter | None = None) -> Tensor:
        """``F.linear`` on (tokens, width): keeps x for the weight's gradient and the weight for x's."""
        bias = bias and self.weight(bias)
        w = self.weight(parameter)
        if self.amp:
            x = self.cast(x, 2)
        x_size, w_size = x.size, w.size
        b_size = bias and bias.size
        x_trained, w_trained = x.node is not None, w.node is not None
        b_trained = bias is not None and bias.node is not None

        def rule(g):
            if b_size:  # addmm
                gx = self.temporary(x_size) if x_trained else None
                gw = self.temporary(w_size, view=True) if w_trained else None  # the product, transposed
                return (g, b_size) if b_trained else None, gx, gw
            gw = self.temporary(w_size, view=True) if w_trained else None  # mm
            return self.temporary(x_size) if x_trained else None, gw

        node = self.node((bias, x, w) if bias else (x, w), rule)
        if w_trained:
            self.save(node, x)
        if x_trained:
            self.save(node, w)
        size = (out, x_size[1])
        return Tensor(self.new(size), size, node)

    def add(self, x, y) -> Tensor:
        """``x + y``: keeps nothing; both get the arriving gradient itself, cast where the types differ."""
        size = (x.size[0], max(x.size[1], y.size[1]))
        sizes = tuple(each.size if each.node else None for each in (x, y))

        def rule(g):
            return tuple(s and (g if s[1] == size[1] else self.temporary(s)) for s in sizes)

        node = self.node((x, y), rule)
        return Tensor(self.new(size), size, node)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y`` of one shape: keeps each for the other's gradient."""
        x_trained, y_trained = x.node is not None, y.node is not None
        size = x.size

        def rule(g):
            return self.temporary(size) if x_trained else None, self.temporary(size) if y_trained else None

        node = self.node((x, y), rule)
        if y_trained:
            self.save(node, x)
        if x_trained:
            self.save(node, y)
        return Tensor(self.new(size), size, node)

    def scale(self, x: Tensor) -> Tensor:
        """``x * constant``, a Python number or an untrained table: x is not kept."""
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size))
        return Tensor(self.new(size), size, node)

    def activate(self, x: Tensor) -> Tensor:
        """``silu`` or ``gelu``: keeps its input; one kernel each way."""
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size))
        self.save(node, x)
        return Tensor(self.new(size), size, node)

    def embedding(self, table: Parameter, out: str) -> Tensor:
        """``F.embedding``: keeps ids alone; the gradient is dense, as large as the table."""
        node = self.node((table,), lambda g: self.temporary(table.size))
        size = (out, table.size[1])
        return Tensor(self.new(size), size, node)

    def add_positions(self, x: Tensor, table: Parameter, rows: str, sums: bool) -> Tensor:
        """``x + table[:sequence]``: the gradient is summed over the batch and padded to the table's rows."""
        size, piece = x.size, (rows, table.size[1])

        def rule(g):
            summed = self.temporary(piece) if sums else g
            return g, summed and self.temporary(table.size)

        node = self.node((x, table), rule)
        return Tensor(self.new(size), size, node)

    def layer_norm(self, x: Tensor, weight: Parameter, bias: Parameter, rows: str) -> Tensor:
        """``F.layer_norm``: keeps x and a mean and a reciprocal deviation for each row, in x's type on CPU."""
        size, trained, x_trained = x.size, weight.trained, x.node is not None
        w_size, b_size = weight.size, bias.size

        def rule(g):
            gx = self.temporary(size) if x_trained else None
            return gx, self.temporary(w_size) if trained else None, self.temporary(b_size) if trained else None

        node = self.node((x, weight, bias), rule)
        self.save(node, x, weight, bias)
        y, mean, deviation = self.new(size), self.new((rows, size[1])), self.new((rows, size[1]))
        self.save(node, Tensor(mean, size, None), Tensor(deviation, size, None))
        return Tensor(y, size, node)

    def rms_norm(self, x: Tensor, weight: Parameter, rows: str) -> Tensor:
        """Llama's norm written out in fp32: cast, square, mean, reciprocal root, scale, cast, weight."""
        dim, itemsize = x.size
        y = self.cast(x, 4)
        y = self._times_row(y, self._reciprocal_root(self._mean(self._square(y), rows)))
        return self._times_weight(weight, self.cast(y, itemsize), dim)

    def _square(self, x: Tensor) -> Tensor:
        size = x.size

        def rule(g):
            return [self.temporary(size) for _ in range(3)][-1]  # x, 2x and the product with g: C++ keeps all until the statement ends

        node = self.node((x,), rule)
        self.save(node, x)
        return Tensor(self.new(size), size, node)

    def _mean(self, x: Tensor, rows: str) -> Tensor:
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size))
        return Tensor(self.new((rows, 4)), (rows, 4), node)

    def _reciprocal_root(self, x: Tensor) -> Tensor:
        size = x.size
        x = self.add_constant(x)

        def rule(g):
            return [self.temporary(size) for _ in range(3)][-1]  # the cube, -g/2 and their product

        node = self.node((x,), rule)
        result = Tensor(self.new(size), size, node)
        self.save(node, result)
        return result

    def add_constant(self, x: Tensor) -> Tensor:
        """``x + constant``: the gradient passes through."""
        node = self.node((x,), lambda g: g)
        return Tensor(self.new(x.size), x.size, node)

    def _times_row(self, x: Tensor, row: Tensor) -> Tensor:
        """x (rows, width) times one number a row: the row's gradient is a product that is summed."""
        size, row_size, trained = x.size, row.size, x.node is not None

        def rule(g):
            gx = self.temporary(size)
            return gx, (self.temporary(size), row_size)

        node = self.node((x, row), rule)
        if trained:
            self.save(node, x, row)
        return Tensor(self.new(size), size, node)

    def _times_weight(self, weight: Parameter, x: Tensor, dim: str) -> Tensor:
        """``weight * x``: both kept; the weight's gradient is a product that is summed over the rows."""
        size, x_trained, w_trained = (dim, max(x.size[1], weight.size[1])), x.node is not None, weight.trained
        w_size = weight.size

        def rule(g):
            product = self.temporary(size) if w_trained else None
            gx = self.temporary(size) if x_trained else None
            return product and (product, w_size), gx

        node = self.node((weight, x), rule)
        if w_trained:
            self.save(node, x)
        if x_trained:
            self.save(node, weight)
        return Tensor(self.new(size), size, node)

    def chunk(self, x: Tensor, part: list[Size]) -> list[Tensor]:
        """``x.chunk(n)``: views of x; the gradients of all parts are put together in a new tensor."""
        size = x.size
        node = self.node((x,), lambda *g: self.temporary(size), slots=len(part))
        if node:
            node.edges = [node.edges[0]]
        return [Tensor(x.storage, piece, node, slot) for slot, piece in enumerate(part)]

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions: ``x * cos + cat(-right, left) * sin`` with the tables untrained."""
        dim, itemsize = x.size
        half = ("½" + dim, itemsize)
        left, right = self.chunk(x, [half, half])
        straight = self.scale(x)
        minus = self.scale(right)
        node = self.node((minus, left), lambda g: (g, g))
        turned = Tensor(self.new(x.size), x.size, node)
        del minus
        turned = self.scale(turned)
        return self.add(straight, turned)

    def flash_attention(self, q: Tensor, k: Tensor, v: Tensor, rows: str) -> Tensor:
        """CUDA's flash kernel: keeps q, k, v, its output, an fp32 log-sum-exp a query row, and two seeds."""
        sizes = (q.size, k.size, v.size)
        node = self.node((q, k, v), lambda g: tuple(self.temporary(size) for size in sizes))
        self.save(node, q, k, v)
        out = Tensor(self.new(q.size), q.size, node)
        rest = [Tensor(self.new(size), size, None) for size in ((rows, 4), ("1", 8), ("1", 8))]
        self.save(node, out, *rest)
        return out

    def repeat_heads(self, x: Tensor, size: Size) -> Tensor:
        """``repeat_interleave`` over heads: a copy; its gradient is summed back."""
        before = x.size
        node = self.node((x,), lambda g: self.temporary(before))
        return Tensor(self.new(size), size, node)

    def arrange(self, x: Tensor) -> Tensor:
        """``x.contiguous()`` from (batch, tokens, heads, width) order to (batch, heads, tokens, width): a copy; the gradient passes as a view."""
        node = self.node((x,), lambda g: g)
        return Tensor(self.new(x.size), x.size, node)

    def rearrange(self, x: Tensor, many: bool) -> Tensor:
        """The way back: a copy, and another for the gradient unless there is only one sequence, whose heads are a view."""
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size) if many else g)
        return Tensor(self.new(size), size, node)

    def split_heads(self, x: Tensor, copies: bool = True) -> Tensor:
        """``x.view(batch, tokens, heads, width)``: a view; a gradient that is ordered by heads is copied on the way back."""
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size) if copies else g)
        return Tensor(x.storage, size, node)

    def mask(self, x: Tensor, positions: str) -> Tensor:
        """``x.masked_fill(ones.triu(1), -inf)``: keeps the mask, one byte for each pair of positions."""
        size = x.size
        whole = self.new((positions, 1))
        mask = Tensor(self.new((positions, 1)), (positions, 1), None)
        del whole
        node = self.node((x,), lambda g: self.temporary(size))
        self.save(node, mask)
        return Tensor(self.new(size), size, node)

    def bmm(self, x: Tensor, y: Tensor, out: str) -> Tensor:
        """Batched matmul: keeps both."""
        x_size, y_size = x.size, y.size

        def rule(g):
            gy = self.temporary(y_size)
            return self.temporary(x_size), gy

        node = self.node((x, y), rule)
        self.save(node, x, y)
        size = (out, x.size[1])
        return Tensor(self.new(size), size, node)

    def softmax(self, x: Tensor) -> Tensor:
        """Keeps its result."""
        size = x.size
        node = self.node((x,), lambda g: self.temporary(size))
        result = Tensor(self.new(size), size, node)
        self.save(node, result)
        return result

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """``F.cross_entropy``: keeps log-softmax, as large as the fp32 logits; the gradient needs as much twice more."""
        size = logits.size
        inner = self.softmax(logits)
        node = self.node((inner,), lambda g: self.temporary(size))
        self.save(node, inner)
        loss, weight = self.new(("1", 4)), self.new(("1", 4))
        self.save(node, Tensor(weight, ("1", 4), None))
        return Tensor(loss, ("1", 4), node)


def _count_arrivals(root: Node) -> None:
    """How many gradients each node and parameter has to wait for."""
    stack, seen = [root], {id(root)}
    while stack:
        for target, _ in stack.pop().edges:
            if target is None:
                continue
            target.waiting += 1
            if not isinstance(target, Parameter) and id(target) not in seen:
                seen.add(id(target))
                stack.append(target)
