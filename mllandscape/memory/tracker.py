"""Counts the bytes of every live tensor storage while it is active: fake tensors or real ones, any model, any step."""

import weakref
from collections import Counter
from contextlib import contextmanager

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mllandscape.torch_private import (
    CAST,
    DEVICE_OF,
    FUSED_SGD,
    VALUE_OF,
    FakeTensor,
    TorchDispatchMode,
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


@contextmanager
def region(category: str):
    """Storages that the forward pass makes inside belong to this category."""
    _region.append(category)
    try:
        yield
    finally:
        _region.pop()


class Tracker(TorchDispatchMode):
    """Live bytes by category, from every operation that torch dispatches in the ``with`` block.

    Exact for requested tensor bytes in blocks of 512 B. Blind to what kernels allocate inside themselves, to the
    caching allocator's reserve and to the CUDA context. With ``budget`` (bytes) the operation that would exceed it raises
    torch.OutOfMemoryError, which is how an out-of-memory is shown where the operating system cannot enforce a limit.
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
        result = func(*args, **(kwargs or {}))
        if self._propagating():
            return result  # tensors of the global shape, made to work out a layout
        self._operation = func.__name__
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not self.category_of(tensor):
                self.add(tensor, self._category(func, args))
        return result

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
        storage = tensor.untyped_storage()
        key = storage_key(tensor)
        if key in self._storages:
            reference, size, old = self._storages[key]
            if old != category:
                self._storages[key] = (reference, size, category)
                self._change(old, -size)
                self._change(category, size)
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if self.budget is not None and self.total + size > self.budget:
            raise torch.OutOfMemoryError(
                f"{self._operation} tried to allocate {size} bytes with {self.total} bytes live: over the budget of {self.budget} bytes."
            )
        self._storages[key] = (weakref.ref(storage, lambda _, key=key: self._free(key)), size, category)
        self._change(category, size)

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
            size = -(-count // BLOCK) * BLOCK
            self._storages[key] = (reference, size, category)
            self._change(category, size - before)

    def _free(self, key: int) -> None:
        _, size, category = self._storages.pop(key)
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
