"""A checkpoint known by its fingerprint: saved, loaded with every doubt refused by name, and damaged on purpose."""

import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllandscape import BadInput, fingerprint
from mllandscape.serving.pipeline import Weights, release

if TYPE_CHECKING:
    import torch


def tensors(weights: Weights) -> dict[str, "torch.Tensor"]:
    """Weights as a state dict of tensors of their own."""
    import torch

    return {name: torch.tensor(values) for name, values in weights.items()}


def save(path: str | os.PathLike, weights: Weights) -> str:
    """Save weights as torch does; returns their fingerprint, which has to be kept elsewhere."""
    import torch

    torch.save(tensors(weights), path)
    return fingerprint.weights(weights)


def load(path: str | os.PathLike, expected: str) -> Weights:
    """The weights whose fingerprint is ``expected``, and no others. No code in the file is ever run.

    Raises BadInput, with the file's name and what is wrong, for a file that is missing, truncated, no checkpoint, unsafe, or of other weights.
    """
    import torch

    name, again = Path(path).name, "fetch it again from where it was made."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = fingerprint.weights(state)
    except FileNotFoundError:
        raise BadInput(f"{name} is not there: give the path of a checkpoint.") from None
    except pickle.UnpicklingError as error:
        why = "holds code, which was not run" if "GLOBAL" in str(error) else "is no checkpoint of torch"
        raise BadInput(f"{name} {why}: {again}") from None
    except BadInput as error:
        raise BadInput(f"{name} holds no weights: {error}") from None
    except Exception as error:  # a damaged file ends in any of a dozen exceptions of torch, zipfile and pickle
        raise BadInput(f"{name} is truncated or no checkpoint of torch ({type(error).__name__}): {again}") from None
    if found != expected:
        damaged = zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip()
        why = f"part {damaged.partition('/')[2]} was damaged after it was saved" if damaged else "they were saved so, as another checkpoint"
        raise BadInput(f"{name} holds other weights, {found[:12]} instead of {expected[:12]}: {why}.")
    return {key: values.numpy() for key, values in state.items()}


def source_hash() -> str:
    """The source's two lines, with the import that they lack: the hash that comes out, or the name of the error."""
    import hashlib
    from io import BytesIO

    import torch

    state_dict = tensors(release().state.weights)
    try:
        weights_bytes = torch.save(state_dict, BytesIO())
        return hashlib.sha256(weights_bytes).hexdigest()
    except TypeError as error:
        return type(error).__name__


def saved_files() -> dict[str, dict[str, bool]]:
    """The released weights, saved in eight ways: is the file's hash that of the first, the fingerprint of what loads, and each tensor by torch.equal?"""
    import torch

    weights = tensors(release().state.weights)
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:

        def saved(state: dict, name: str = "a.pt") -> Path:
            torch.save(state, Path(folder) / name)
            return Path(folder) / name

        first = fingerprint.file(saved(weights))
        loaded = torch.load(Path(folder) / "a.pt")
        part_of_larger = torch.cat([torch.zeros(5000), weights["out.bias"]])[5000:]
        ways = {
            "saved again": weights,
            "loaded and saved again": loaded,
            "under another file name": weights,
            "keys in another order": dict(reversed(weights.items())),
            "as an OrderedDict": OrderedDict(weights),
            "as Parameters": {name: torch.nn.Parameter(values) for name, values in weights.items()},
            "with other strides": weights | {"hidden.weight": weights["hidden.weight"].T.contiguous().T},
            "one a view of a larger tensor": weights | {"out.bias": part_of_larger},
        }
        rows = {}
        for way, state in ways.items():
            path = saved(state, "b.pt" if way == "under another file name" else "a.pt")
            back = torch.load(path)
            rows[way] = {
                "file hash": fingerprint.file(path) == first,
                "fingerprint": fingerprint.weights(back) == fingerprint.weights(weights),
                "torch.equal": all(torch.equal(back[name], weights[name]) for name in weights),
            }
    return rows


class _Payload:
    """What an attacker's pickle holds: a call that is made when it is loaded. This one makes a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@dataclass(frozen=True)
class Damage:
    """A file that is not the checkpoint that was saved: whether torch.load takes it without a word, and what ``load`` says of it."""

    silent: bool
    refusal: str


def damaged_files() -> dict[str, Damage]:
    """Five files under the checkpoint's name: a flipped bit, half of it, no checkpoint at all, another epoch's, and a pickle with code."""
    import torch

    weights = release().state.weights
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        path, owned = Path(folder) / "model.pt", Path(folder) / "owned"
        expected = save(path, weights)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[whole.index(weights["hidden.weight"].tobytes()) + 3] ^= 0x40  # the first weight's highest exponent bit
        save(path, release().checkpoints[0])
        other = path.read_bytes()
        torch.save({"hidden.weight": _Payload(owned)}, path)
        files = {
            "one bit flipped": bytes(flipped),
            "the second half missing": whole[: len(whole) // 2],
            "a text instead": b"404 not found\n" * 40,
            "another epoch's weights": other,
            "a pickle with code": path.read_bytes(),
        }
        found = {}
        for damage, content in files.items():
            path.write_bytes(content)
            found[damage] = Damage(_is_silent(path), _refusal(path, expected))
        if owned.exists():
            raise BadInput("a checkpoint's code was run: this torch loads pickles; use 2.6 or later.")
    return found


def _is_silent(path: Path) -> bool:
    import torch

    try:
        torch.load(path)
    except Exception:
        return False
    return True


def _refusal(path: Path, expected: str) -> str:
    try:
        load(path, expected)
    except BadInput as error:
        return str(error)
    return ""


def flip(weights: Weights, name: str, place: int, bit: int) -> Weights:
    """The weights with one bit of one value flipped: 0 is the lowest of the mantissa, 23 to 30 the exponent, 31 the sign."""
    flipped = {key: values.copy() for key, values in weights.items()}
    flipped[name].reshape(-1).view(np.uint32)[place] ^= np.uint32(1) << np.uint32(bit)
    return flipped
