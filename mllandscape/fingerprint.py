"""SHA-256 fingerprints of weights, arrays and files: equal where the values are, whatever stored them."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from mllandscape import BadInput


def weights(state_dict: Mapping[str, Any]) -> str:
    """The fingerprint of named tensors or NumPy arrays, 64 hexadecimal digits: name, dtype, shape and bytes of each, sorted by name.

    It depends neither on the order or type of the mapping, nor on strides, shared storage, device, ``Parameter`` or ``requires_grad``, nor on a
    file. A changed bit, dtype, shape or name changes it; so do 0.0 and -0.0, which compare equal. Bytes are in the machine's order, which is
    little-endian wherever torch has wheels. Raises BadInput for an entry that has no bytes of its own: sparse, quantized, meta, or no tensor.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise BadInput(f"{type(state_dict).__name__} is no state dict: pass names and tensors, such as model.state_dict().")
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        dtype, shape, content = _dense(name, state_dict[name])
        digest.update(f"{name!r} {dtype} {shape}\n".encode())  # says how many bytes follow, so that no two dicts run together alike
        digest.update(content)
    return digest.hexdigest()


def array(values: Any) -> str:
    """The fingerprint of one tensor or NumPy array: dtype, shape and bytes. Rows in another order give another one."""
    return weights({"": values})


def file(path: str | os.PathLike) -> str:
    """The fingerprint of a file's bytes. Raises BadInput where it cannot be read."""
    try:
        with open(path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{os.fspath(path)!r} cannot be read ({error.strerror}): pass a file that exists.") from None


def _dense(name: str, values: Any) -> tuple[str, tuple[int, ...], bytes]:
    """dtype, shape and the bytes in row-major order."""
    import numpy as np

    if hasattr(values, "detach"):
        import torch

        tensor = values.detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise BadInput(f"{name!r} is a {'quantized' if tensor.is_quantized else tensor.layout} tensor on {tensor.device}: make it dense, or load it first.")
        # A copy, for contiguous() leaves the stride of a single element as it is; flat, for a scalar is no bytes; bytes, for NumPy has no bfloat16.
        content = tensor.cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), content.numpy().tobytes()
    if not isinstance(values, np.ndarray | np.generic) or values.dtype.hasobject:
        raise BadInput(f"{name!r} is a {type(values).__name__}, no tensor or NumPy array of plain values: a fingerprint needs bytes.")
    values = np.asarray(values).astype(values.dtype.newbyteorder("="), copy=False)
    return values.dtype.name, values.shape, values.tobytes()
