"""The private torch APIs do what the tracker needs of them; a failure here names the torch that broke one."""

import importlib
import re
import sys
from pathlib import Path

import torch

from mllandscape import torch_private as private

BROKEN = f"torch {torch.__version__} changed what mllandscape/torch_private.py relies on"


def test_the_engine_tells_when_it_runs():
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: seen.append(private.in_backward()))
    assert not private.in_backward(), BROKEN
    y.sum().backward()
    assert seen == [True] and not private.in_backward(), BROKEN


def test_fake_tensors_are_recognised_and_own_no_memory():
    assert not private.under_fake_tensors(), BROKEN
    with private.FakeTensorMode():
        assert private.under_fake_tensors(), BROKEN
        huge = torch.empty(2**40)
    assert isinstance(huge, private.FakeTensor) and huge.untyped_storage().nbytes() == 2**42, BROKEN


def test_views_share_a_storage_and_copies_do_not():
    x = torch.ones(4, 4)
    assert private.storage_key(x) == private.storage_key(x[1:].t()) != private.storage_key(x.clone()), BROKEN


def test_the_operations_are_dispatched_under_these_names():
    class Names(private.TorchDispatchMode):
        seen: list = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    with Names() as names:
        torch.ones(1).to(torch.bfloat16).item()
    assert private.CAST in names.seen and private.VALUE_OF in names.seen, BROKEN


def test_flash_attention_keeps_what_the_cuda_kernel_keeps():
    with private.FakeTensorMode():
        q = torch.empty(2, 4, 16, 8, dtype=torch.bfloat16)
        out, logsumexp, *_ = private.FLASH_ATTENTION(q, q, q, 0.0, True)
    assert out.shape == q.shape and logsumexp.shape == (2, 4, 16) and logsumexp.dtype == torch.float32, BROKEN


def test_a_moved_api_is_one_line_with_the_version(monkeypatch):
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    monkeypatch.delitem(sys.modules, "mllandscape.torch_private")
    try:
        importlib.import_module("mllandscape.torch_private")
    except ValueError as told:
        assert torch.__version__ in str(told) and "_current_graph_task_id" in str(told) and "\n" not in str(told)
    else:
        raise AssertionError("a missing private API was not noticed")


def test_no_other_module_touches_private_torch():
    private_name = re.compile(r"torch\._[A-Za-z]|torch\.utils\._|\._cdata|ops\.prim")
    package = Path(private.__file__).parent
    found = [str(path) for path in package.rglob("*.py") if path.name != "torch_private.py" and private_name.search(path.read_text(encoding="utf-8"))]
    assert not found
