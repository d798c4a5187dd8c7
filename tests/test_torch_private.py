"""The private torch APIs do what the tracker needs of them; a failure here names the torch that broke one."""

import importlib
import inspect
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mllandscape import BadInput
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


def test_a_fake_group_answers_every_collective_and_leaves_nothing():
    import torch.distributed as dist

    with private.fake_ranks(1000):
        dist.all_reduce(torch.ones(3))
        assert dist.get_world_size() == 1000 and dist.get_rank() == 0, BROKEN
        with pytest.raises(BadInput, match="process group already"), private.fake_ranks(2):
            pass
    assert not dist.is_initialized(), BROKEN


def test_fully_shard_gathers_reduces_and_frees_where_it_is_watched():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    seen, unsharded, resized = [], [], []

    @contextmanager
    def region(category):
        seen.append(category)
        yield

    with private.fake_ranks(2):
        layer = fully_shard(torch.nn.Linear(4, 4), mesh=init_device_mesh("cpu", (2,)))
        assert private.local(layer.weight).shape == (2, 4) and private.local(torch.ones(1)).shape == (1,), BROKEN
        with private.sharding_watched(region, unsharded.append, lambda key, count: resized.append(count)) as propagating:
            layer(torch.ones(2, 4)).sum().backward()
            assert not propagating(), BROKEN
    assert set(seen) == {"gathered layers", "reduce-scatter buffers"}, BROKEN
    assert [tuple(parameter.shape) for parameter in unsharded] == [(4, 4), (4,)], BROKEN
    assert 0 in resized, BROKEN


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


def test_compilations_are_counted_with_their_reasons_and_forgotten():
    private.forget_compilations()
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    for length in (3, 4, 5):
        compiled(torch.ones(length))
    assert private.graph_count() == 3, BROKEN
    first, *others = private.compilations()
    assert first == "" and len(others) == 2 and all("size mismatch" in reason for reason in others), BROKEN
    private.forget_compilations()
    assert private.graph_count() == 0 and private.compilations() == [], BROKEN
    assert private.cache_counts() == {"fxgraph hit": 0, "fxgraph miss": 0, "autograd hit": 0, "autograd miss": 0}, BROKEN


def test_sizes_are_marked_and_the_recompile_limit_is_set():
    marked = {"dynamic": (private.mark_dynamic, (3, 4)), "unbacked": (private.mark_unbacked, (1, 4))}
    for name, (mark, lengths) in marked.items():
        private.forget_compilations()
        compiled = torch.compile(lambda x: x + 1, backend="eager")
        for length in lengths:
            x = torch.ones(length)
            mark(x, 0)
            compiled(x)
        assert private.graph_count() == 1, f"{BROKEN}: {name}"
    private.forget_compilations()
    compiled = torch.compile(lambda x: x * 2, backend="eager", dynamic=False)
    with private.recompile_limit(2):
        for length in (3, 4, 5):
            compiled(torch.ones(length))
    assert private.graph_count() == 2, BROKEN
    private.forget_compilations()


def test_graph_breaks_say_their_line_and_reason():
    def breaks(x):
        y = x * 2
        print(y)
        return y + 1

    graphs, found = private.graph_breaks(breaks, torch.ones(2))
    ((line, source, reason),) = found
    assert graphs == 2 and line == breaks.__code__.co_firstlineno + 2 and "print(y)" in source and reason, BROKEN
    private.forget_compilations()


def test_torch_says_which_gpu_code_runs_where_in_a_cpu_build_too():
    assert {50, 75, 80, 86, 87, 90, 100, 120} <= set(private.code_capabilities()), BROKEN
    assert private.code_runs_on(80, 86) and not private.code_runs_on(86, 80) and not private.code_runs_on(80, 90) and not private.code_runs_on(86, 87), BROKEN
    releases = private.release_capabilities()
    assert set(releases) >= {"12.6", "13.0"} and 70 in releases["12.6"] and 70 not in releases["13.0"], BROKEN


def test_torchs_own_check_warns_of_a_gpu_that_a_build_has_no_code_for():
    told = private.capability_warning("13.0", ["sm_75", "sm_80", "sm_90"], "Tesla V100", 70)
    assert "Tesla V100 which is of compute capability (CC) 7.0" in told and "does not include kernels for this GPU" in told and "cu126" in told, BROKEN
    assert private.capability_warning("13.0", ["sm_75", "sm_80", "sm_90"], "A100", 80) == "", BROKEN


def test_the_allocators_history_is_recorded_listed_and_stopped(monkeypatch):
    """Without a GPU: torch's functions are there and take these arguments; what they give is as it was read off torch 2.11 and 2.13."""
    recording, snapshot = torch.cuda.memory._record_memory_history, torch.cuda.memory._snapshot
    inspect.signature(recording).bind(enabled="all", context=None, stacks="python", max_entries=10)
    inspect.signature(snapshot).bind()
    entry = {"action": "alloc", "addr": 4096, "size": 2800, "stream": 0, "time_us": 1_795_532_474_926_168, "compile_context": "N/A", "user_metadata": ""}
    told = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **given: told.append(given["enabled"]))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": [], "device_traces": [[entry]]})
    with private.memory_history() as so_far:
        assert so_far() == [("alloc", 2800, entry["time_us"])] and told == ["all"]
    assert told == ["all", None]
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": []})
    with private.memory_history() as so_far, pytest.raises(BadInput, match="private API"):
        so_far()
    with pytest.raises(ZeroDivisionError), private.memory_history():
        raise ZeroDivisionError
    assert told == ["all", None] * 3


def test_workspaces_are_let_go_of(monkeypatch):
    cleared = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: cleared.append(1), raising=False)
    private.forget_workspaces()
    assert cleared == [1]
    monkeypatch.delattr(torch._C, "_cuda_clearCublasWorkspaces")
    with pytest.raises(BadInput, match="private API"):
        private.forget_workspaces()
