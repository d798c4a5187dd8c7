"""Every private torch API that this package uses. When a new torch moves one, this module says which, and nothing else changes."""

import torch

from mllandscape import BadInput

WRITTEN_FOR = "2.13"

try:
    from torch._C import _current_graph_task_id, _get_dispatch_mode, _TorchDispatchModeKey
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    DEVICE_OF = torch.ops.prim.device.default
    VALUE_OF = torch.ops.aten._local_scalar_dense.default
    FUSED_SGD = torch.ops.aten._fused_sgd_.default
    CAST = torch.ops.aten._to_copy.default
    FLASH_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention.default
except (ImportError, AttributeError) as moved:
    raise BadInput(f"torch {torch.__version__} has moved a private API ({moved}); this version of mllandscape is written for torch {WRITTEN_FOR}.") from None

__all__ = [
    "CAST", "DEVICE_OF", "FLASH_ATTENTION", "FUSED_SGD", "VALUE_OF", "FakeTensor", "FakeTensorMode", "TorchDispatchMode",
    "in_backward", "storage_key", "tree_leaves", "under_fake_tensors",
]  # fmt: skip


def in_backward() -> bool:
    """Whether autograd's engine is running in this thread."""
    return _current_graph_task_id() != -1


def under_fake_tensors() -> bool:
    """Whether operations make fake tensors here."""
    return _get_dispatch_mode(_TorchDispatchModeKey.FAKE) is not None


def storage_key(tensor: torch.Tensor) -> int:
    """A number that views of one storage share, and that no other live storage has."""
    return tensor.untyped_storage()._cdata
