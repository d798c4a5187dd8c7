"""Fingerprints: what changes them and what does not, against torch's own equality and hashlib."""

import hashlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mllandscape import BadInput, fingerprint

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"layer.weight": torch.randn(3, 4, generator=generator), "layer.bias": torch.randn(3, generator=generator), "steps": torch.tensor(7)}


def test_it_is_the_sha256_of_name_dtype_shape_and_bytes():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    by_hand = hashlib.sha256(b"'b' int64 ()\n" + np.int64(5).tobytes() + b"'w' float32 (2, 3)\n" + weight.tobytes()).hexdigest()
    assert fingerprint.weights({"w": torch.from_numpy(weight), "b": torch.tensor(5)}) == by_hand
    assert fingerprint.weights({"w": weight, "b": np.int64(5)}) == by_hand


def same_values() -> dict[str, dict]:
    weights = state()
    return {
        "a copy": {name: value.clone() for name, value in weights.items()},
        "another order": dict(reversed(weights.items())),
        "an OrderedDict": OrderedDict(weights),
        "parameters": {name: torch.nn.Parameter(value, requires_grad=value.is_floating_point()) for name, value in weights.items()},
        "other strides": weights | {"layer.weight": weights["layer.weight"].T.contiguous().T},
        "a view of a larger storage": weights | {"layer.bias": torch.cat([torch.zeros(5), weights["layer.bias"]])[5:]},
        "a lazily negated view": weights | {"layer.bias": torch.complex(torch.zeros(3), -weights["layer.bias"]).conj().imag},
        "NumPy arrays": {name: value.numpy() for name, value in weights.items()},
        "big-endian NumPy arrays": {name: value.numpy().astype(value.numpy().dtype.newbyteorder(">")) for name, value in weights.items()},
    }


@pytest.mark.parametrize("change", same_values())
def test_how_values_are_kept_does_not_count(change):
    assert fingerprint.weights(same_values()[change]) == fingerprint.weights(state())


def test_a_stride_of_zero_is_no_obstacle():
    for shape in ((1,), (2, 3)):
        assert fingerprint.array(torch.zeros(()).expand(shape)) == fingerprint.array(torch.zeros(shape))


def other_values() -> dict[str, dict]:
    weights = state()
    flipped = weights["layer.weight"].clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    return {
        "one flipped bit": weights | {"layer.weight": flipped},
        "another dtype": weights | {"steps": weights["steps"].int()},
        "another shape": weights | {"layer.weight": weights["layer.weight"].reshape(4, 3)},
        "a scalar in a list": weights | {"steps": weights["steps"][None]},
        "another name": {name.replace("bias", "b"): value for name, value in weights.items()},
        "one more, empty": weights | {"extra": torch.zeros(0)},
        "two exchanged": weights | {"layer.bias": weights["layer.bias"].flip(0)},
        "less precision": {name: value.half() if value.is_floating_point() else value for name, value in weights.items()},
    }


def test_every_change_of_a_value_counts():
    found = {name: fingerprint.weights(changed) for name, changed in other_values().items()}
    assert len({*found.values(), fingerprint.weights(state())}) == len(found) + 1


def test_equal_zeros_of_different_sign_differ():
    positive, negative = torch.tensor([0.0]), torch.tensor([-0.0])
    assert torch.equal(positive, negative)
    assert fingerprint.array(positive) != fingerprint.array(negative)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_hashed_with_and_without_dimensions(dtype):
    values = torch.ones(2, 2).to(dtype)
    assert len({fingerprint.array(values), fingerprint.array(values[0]), fingerprint.array(values[0, 0]), fingerprint.array(values[:0])}) == 4


@given(arrays.arrays(st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_numpy_and_torch_agree(values):
    values = np.asarray(values)
    assert fingerprint.array(values) == fingerprint.array(torch.from_numpy(values.copy()))
    assert fingerprint.array(values.T.copy().T) == fingerprint.array(values)


@given(st.dictionaries(st.text(max_size=5), st.integers(-3, 3), max_size=4), st.dictionaries(st.text(max_size=5), st.integers(-3, 3), max_size=4))
def test_different_dicts_never_run_together_alike(one, other):
    first, second = (fingerprint.weights({name: np.int64(value) for name, value in given.items()}) for given in (one, other))
    assert (first == second) == (one == other)


def test_a_file_is_hashed_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint.file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(BadInput, match="cannot be read"):
        fingerprint.file(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([torch.zeros(1)], "no state dict"),
        ({1: torch.zeros(1)}, "no state dict"),
        ({"note": "text"}, "'note' is a str"),
        ({"things": np.array([object()])}, "'things' is a ndarray"),
        ({"w": torch.zeros(2, device="meta")}, "'w' is a torch.strided tensor on meta"),
        ({"w": torch.eye(2).to_sparse()}, "'w' is a torch.sparse_coo"),
    ],
)
def test_what_has_no_bytes_is_refused_by_name(given, line):
    with pytest.raises(BadInput, match=line) as caught:
        fingerprint.weights(given)
    assert "\n" not in str(caught.value)
