"""Checkpoints that are never trusted: no code of theirs runs, and what is damaged, cut short or another model's is refused by name."""

import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from mllandscape import BadInput, fingerprint


def dump(state_dict: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint of tensors, as ``torch.save`` writes them."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state_dict), buffer)
    return buffer.getvalue()


def load(content: bytes, name: str, expected: str | None = None) -> dict[str, Any]:
    """The tensors of a checkpoint by their names, on the CPU; ``name`` is what a refusal calls it.

    Nothing but tensors is read (``weights_only``). The archive's own checksums are checked, which ``torch.load`` does not do, and then the fingerprint
    of the weights against ``expected``. Raises BadInput in one line for anything else.
    """
    import pickle

    import torch

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            broken = archive.testzip()
    except Exception:  # zipfile raises nearly anything on a damaged archive
        what = f"{name} is no whole checkpoint ({len(content):,} bytes)"
        raise BadInput(f"{what}: it is damaged, cut short, or not written by torch.save; it was not read.") from None
    if broken:
        raise BadInput(f"{name} is damaged in {broken.partition('/')[2] or broken}: the bytes have another checksum than when they were written.")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(f"{name} holds more than tensors{_asked_for(str(error))}: it was not run; ask its author for a state dict.") from None
    except Exception as error:
        raise BadInput(f"{name} is no whole checkpoint ({type(error).__name__}): restore it from a copy.") from None
    if not isinstance(found, Mapping) or not all(isinstance(key, str) and torch.is_tensor(value) for key, value in found.items()):
        raise BadInput(f"{name} is not a state dict of named tensors, but {type(found).__name__}: save model.state_dict().")
    if expected is not None and (held := fingerprint.weights(found)) != expected:
        raise BadInput(f"{name} holds other weights ({held[:12]}) than those recorded ({expected[:12]}): it is another model, or was overwritten.")
    return dict(found)


def _asked_for(message: str) -> str:
    """The function that a refused pickle wanted to call, in torch's own words."""
    word = re.search(r"GLOBAL (\w[\w.]*)", message)
    return f" (it asks for {word[1]})" if word else ""
