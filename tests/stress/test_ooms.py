"""Two hundred allocation failures in a row from one process: it lives, does not grow and keeps nothing."""

import gc
import os
import sys
import tempfile
import threading

import pytest

from mllandscape import sandbox, units

ROUNDS, WARM_UP = 200, 10


def resident():
    """Bytes of this process in memory that are its own (anonymous pages)."""
    gc.collect()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:")) * units.KIB


def fail_to_allocate(mib):
    return sandbox.call("tests.targets:torch_zeros", mib=mib, budget=96 * units.MIB, warm_up="tests.targets:import_torch")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds malloc on Linux only")
def test_two_hundred_out_of_memory_errors_leave_the_caller_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(WARM_UP):
        fail_to_allocate(200)
    descriptors, threads, start = len(os.listdir("/proc/self/fd")), threading.active_count(), resident()
    for number in range(ROUNDS):
        mib = 100 + number
        outcome = fail_to_allocate(mib)
        assert (outcome.ending, outcome.requested) == ("out of memory", mib * units.MIB), f"round {number}: {outcome}"
        assert resident() - start <= units.MIB, f"round {number}: the caller grew"
    assert len(os.listdir("/proc/self/fd")) == descriptors and threading.active_count() == threads
    assert not list(tmp_path.iterdir())
    with pytest.raises(ChildProcessError):  # neither a child nor a zombie
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    marks = sandbox.MARK.encode() + b"=" + os.environ.get(sandbox.MARK, "").encode() + b"/"
    assert not sandbox._groups_with(marks), "a process of a sandbox is still alive"
