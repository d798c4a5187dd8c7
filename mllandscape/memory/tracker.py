"""Counts the bytes of every live tensor storage while it is active: fake tensors or real ones, any model, any step."""

import weakref
from collections import Counter
from contextlib import contextmanager

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mllandscape.torch_private import (
    ADD,
    CAST,
    DEVICE_OF,
    FUSED_SGD,
    VALUE_OF,
    FakeTensor,
    TorchDispatchMode,
    backward_node,
    in_backward,
    local,
    sharding_watched,
    storage_key,
    tree_leaves,
)

BLOCK = 512
"""Bytes. Every storage is rounded up to this, the quantum of torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator, kMinBlockSize)."""

PARAMETERS = ("parameters", "sharded parameters")

_region: list[str] = []
_ENGINE = -1


@contextmanager
def region(category: str):
    """Storages that the forward pass makes inside belong to this category."""
    _region.append(category)
    try:
        yield
    finally:
        _region.pop()


def _rounded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def _bytes(tensor: torch.Tensor) -> int:
    return _rounded(tensor.untyped_storage().nbytes())


class Tracker(TorchDispatchMode):
    """Live bytes by category, from every operation that torch dispatches in the ``with`` block.

    Exact for requested tensor bytes in blocks of 512 B, as they are without it: under a dispatch mode autograd adds a tensor's second gradient out of
    place, and this counts it in place where torch otherwise does that (torch/csrc/autograd/input_buffer.cpp, ``accumulate``). Blind to what kernels
    allocate inside themselves, to the caching allocator's reserve and to the CUDA context. With ``budget`` (bytes) the operation that would exceed it
    raises torch.OutOfMemoryError, which is how an out-of-memory is shown where the operating system cannot enforce a limit.
    ``events`` lists (phase, operation, category, change in bytes) since the last ``reset``.
    """

    def __init__(self, budget: int | None = None):
        super().__init__()
        self.budget = budget
        self._optimizers = 0
        self._distributed: type | None = None
        self._propagating = lambda: False
        self.live = Counter()
        self.total = 0
        self._storages: dict[int, tuple[weakref.ref, int, str]] = {}
        self._made_by: dict[int, int] = {}  # temporaries of the backward pass by the node that made them
        self._sum: tuple[int, int] | None = None  # the bytes of a sum of gradients that is not counted yet, and the key of the first of them
        self._operation = ""
        self.reset()

    def reset(self) -> None:
        """Forget the history, keep what is live: the next peak starts from here."""
        self.events: list[tuple[str, str, str, int]] = []
        self.start = Counter(self.live)
        self.peaks: dict[str, tuple[int, dict[str, int]]] = {}

    @property
    def phase(self) -> str:
        """Backward is whenever autograd's engine runs, also while an optimizer steps inside it."""
        if in_backward():
            return "backward"
        return "optimizer step" if self._optimizers else "forward"

    @contextmanager
    def following(self, model: torch.nn.Module):
        """Name gradients as they arrive in ``model`` and whatever any optimizer allocates or keeps."""

        def begin(optimizer, *_):
            self._optimizers += 1
            for tensor in tree_leaves([group["params"] for group in optimizer.param_groups]):
                arrived(tensor)
            self._note_peak(self.phase)  # an optimizer that works in place allocates nothing

        def end(optimizer, *_):
            self._optimizers -= 1
            for tensor in tree_leaves(list(optimizer.state.values())):
                if isinstance(tensor, torch.Tensor) and self.category_of(tensor) not in PARAMETERS:
                    self.add(tensor, "optimizer states")

        def arrived(parameter):
            if parameter.grad is not None and self.category_of(parameter.grad) != "all-reduce buckets":
                self.add(parameter.grad, "gradients" if local(parameter) is parameter else "gradient shards")

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hooks = [parameter.register_post_accumulate_grad_hook(arrived) for parameter in trained]
        hooks += [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def following_shards(self):
        """Understand ``fully_shard``: gathered layers and reduce-scatter buffers by name, and shards as what they are on this rank."""
        from torch.distributed.tensor import DTensor

        hooks = []

        def unsharded(parameter):
            if parameter.requires_grad:
                hooks.append(parameter.register_post_accumulate_grad_hook(lambda parameter: self.add(parameter.grad, "unsharded gradients")))

        self._distributed = DTensor
        try:
            with sharding_watched(region, unsharded, self._resized) as self._propagating:
                yield
        finally:
            self._distributed, self._propagating = None, lambda: False
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._distributed and any(issubclass(kind, self._distributed) for kind in types):
            return NotImplemented  # first it becomes an operation on this rank's shard, which comes here again
        if func is DEVICE_OF and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two thirds of all calls ask only this
        if func is VALUE_OF and isinstance(args[0], FakeTensor):
            return 1  # .item(), as in every optimizer's bias correction: a fake tensor has no value, and no byte depends on it
        if func is FUSED_SGD and isinstance(args[0][0], FakeTensor):
            return None  # it works in place; torch has no fake kernel for it and would run it on real zeros of the model's size
        self._settle()
        result = func(*args, **(kwargs or {}))
        if self._propagating():
            return result  # tensors of the global shape, made to work out a layout
        self._operation = func.__name__
        if func is ADD and self._adds_gradients(*args[:2]):
            self._follow(result, "temporaries")
            self._made_by[storage_key(result)] = _ENGINE
            self._sum = _bytes(result), storage_key(args[0])
            if not self._reusable(*args[:2]):
                self._settle()
            return result
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not self.category_of(tensor):
                self.add(tensor, self._category(func, args))
        return result

    def _adds_gradients(self, first: torch.Tensor, second: torch.Tensor) -> bool:
        """Whether this is the engine's addition to what it has already, and no node's own: not to what this node made (``x * x`` is overlooked)."""
        now = backward_node()
        return now not in (None, self._made_by.get(storage_key(first))) and not torch.is_grad_enabled() and isinstance(second, torch.Tensor)

    def _reusable(self, first: torch.Tensor, second: torch.Tensor) -> bool:
        """Whether torch would add into ``first``, if nothing else refers to it. To a view's base its view does."""
        whole = first.untyped_storage().nbytes() == first.numel() * first.itemsize and not first._is_view()
        alike = first.shape == second.shape and first.dtype == second.dtype and storage_key(first) != storage_key(second)
        return whole and alike and self.category_of(first) == "temporaries"

    def _settle(self) -> None:
        """Something else happens before the first of two added gradients is let go of: their sum has bytes of its own."""
        if self._sum:
            (size, _), self._sum = self._sum, None
            self._change("temporaries", size)

    def _category(self, func, args) -> str:
        if self._distributed and _region and _region[-1] in ("gathered layers", "reduce-scatter buffers"):
            return _region[-1]
        if self._optimizers:
            return "optimizer step transient"
        if self.phase == "backward" and not torch.is_grad_enabled():  # with gradients enabled it is a checkpoint's recomputation
            return "temporaries"
        if func is CAST and self.category_of(args[0]) in PARAMETERS:
            return "autocast weight copies"
        return _region[-1] if _region else "activations"

    def category_of(self, tensor: torch.Tensor) -> str | None:
        known = self._storages.get(storage_key(local(tensor)))
        return known and known[2]

    def add(self, tensor: torch.Tensor, category: str) -> None:
        """Count the tensor's storage from now until nothing refers to it; a known storage changes its category."""
        tensor = local(tensor)
        key = storage_key(tensor)
        if key in self._storages:
            reference, size, old = self._storages[key]
            if old != category:
                self._storages[key] = (reference, size, category)
                self._change(old, -size)
                self._change(category, size)
            return
        size = _bytes(tensor)
        if self.budget is not None and self.total + size > self.budget:
            raise torch.OutOfMemoryError(
                f"{self._operation} tried to allocate {size} bytes with {self.total} bytes live: over the budget of {self.budget} bytes."
            )
        self._follow(tensor, category)
        self._change(category, size)

    def _follow(self, tensor: torch.Tensor, category: str) -> None:
        """Know a new storage until nothing refers to it."""
        key = storage_key(tensor)
        self._storages[key] = (weakref.ref(tensor.untyped_storage(), lambda _, key=key: self._free(key)), _bytes(tensor), category)
        if category == "temporaries" and (node := backward_node()) is not None:
            self._made_by[key] = node

    def rename(self, old: str, new: str) -> None:
        """Move everything live from one category to another."""
        for key, (reference, size, category) in list(self._storages.items()):
            if category == old:
                self._storages[key] = (reference, size, new)
                self._change(old, -size)
                self._change(new, size)

    def _resized(self, key: int, count: int) -> None:
        if known := self._storages.get(key):
            reference, before, category = known
            size = _rounded(count)
            self._storages[key] = (reference, size, category)
            self._change(category, size - before)

    def _free(self, key: int) -> None:
        _, size, category = self._storages.pop(key)
        self._made_by.pop(key, None)
        if self._sum and self._sum[1] == key:
            self._sum = None  # the sum has taken these bytes over
            return
        self._settle()
        self._change(category, -size)

    def _change(self, category: str, size: int) -> None:
        if not size:
            return
        self.live[category] += size
        self.total += size
        phase = self.phase if size > 0 or not self.events else self.events[-1][0]  # what is let go between phases ends the one before
        self.events.append((phase, self._operation, category, size))
        if size > 0:
            self._note_peak(phase)

    def _note_peak(self, phase: str) -> None:
        if self.total > self.peaks.get(phase, (-1,))[0]:
            self.peaks[phase] = (self.total, {name: count for name, count in self.live.items() if count})
