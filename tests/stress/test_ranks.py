"""Fifty runs in turn whose ranks raise, are killed, leave or hang: each is named in time, and no process, port or file of any is left."""

import os
import sys
import tempfile
import time

import pytest

from mllandscape import ranks, sandbox

RUNS = 50
ENDS = {
    "raise": ("failed", "rank 1 raised LookupError: two lines"),
    "kill": ("failed", "rank 1 was killed by SIGKILL"),
    "exit": ("failed", "rank 1 ended with exit code 3 before it returned a result"),
    "spin": ("hung", "rank 1 hangs in fail (ranks_targets.py, line "),
    "sleep": ("hung", "rank 1 hangs in fail (ranks_targets.py, line "),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fifty_crashed_or_hung_runs_leave_nothing(tmp_path, monkeypatch, capsys):
    mark = f"/stress-{os.urandom(8).hex()}"
    monkeypatch.setenv(sandbox.MARK, mark)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slowest = dict.fromkeys(ENDS, 0.0)
    for number in range(RUNS):
        how, said = list(ENDS)[number % len(ENDS)], []
        ended = ranks.run_ranks("tests.ranks_targets:fail", 2, how=how, patience=5, progress=said.append)
        named_after = time.monotonic() - max(float(line.split()[1]) for line in said if line.startswith("at "))
        slowest[how] = max(slowest[how], named_after)
        with capsys.disabled():
            print(f"{number + 1}/{RUNS} {how}: {ended.message}, named after {named_after:.1f} s", flush=True)
        ending, message = ENDS[how]
        assert (ended.ending, ended.failed_rank) == (ending, 1) and ended.message.startswith(message), ended
        assert named_after < 10
        assert not sandbox._groups_with(mark.encode()) - {os.getpgrp()}, f"run {number}: a process is still alive"
        assert not list(tmp_path.iterdir())
    with capsys.disabled():
        print("slowest to be named, in seconds:", {how: round(seconds, 1) for how, seconds in slowest.items()})
