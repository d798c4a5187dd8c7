"""Two hundred real out-of-memory errors on a GPU, in one child process: each a value, memory back to where it was, the GPU usable, nothing left behind."""

import os

import pytest

from mllandscape import BadInput, sandbox, units
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.measure import Wanted, card, measure_each

ROUNDS = 200
SHAPE = ModelShape(style="gpt", layers=4, hidden=512, heads=8, vocab=16_384, context=256, name="21M GPT")
PLANS = [TrainingPlan(batch=8, sequence=256, **changes) for changes in ({}, {"precision": "bf16"}, {"checkpointing": "full"}, {"optimizer": "sgd"})]


@pytest.fixture
def gpu(monkeypatch):
    """The tests' own environment hides every GPU; this one shows them again."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    try:
        return card()
    except BadInput as none:
        pytest.skip(str(none))


def test_two_hundred_out_of_memory_errors_leave_the_gpu_as_it_was(gpu, monkeypatch, capsys):
    mark = f"/stress-{os.urandom(8).hex()}"
    monkeypatch.setenv(sandbox.MARK, mark)
    need = [predict(SHAPE, plan).allocated for plan in PLANS]
    wanted = [
        Wanted(SHAPE, PLANS[number % 4], round(need[number % 4] * (0.02 + 0.9 * number / ROUNDS)))  # from the first weight to the last bytes of the peak
        for number in range(ROUNDS)
    ]
    started = []
    measured = measure_each([*wanted, Wanted(SHAPE, PLANS[0])], seconds=1800, progress=started.append)
    *failed, last = measured
    assert [one.ending for one in failed] == ["out of memory"] * ROUNDS
    assert all(one.parts["asked for"] > 0 and one.ooms for one in failed)
    assert max(abs(one.left) for one in measured) <= units.MIB
    assert all(f"of {ROUNDS + 1}:" in line for line in started), "a child was replaced"
    assert last.ok and last.allocated == pytest.approx(predict(SHAPE, PLANS[0]).allocated, rel=0.35) and last.outside <= gpu.outside + 256 * units.MIB
    with capsys.disabled():
        print(f"{gpu.name}: failed in {sorted({one.failed for one in failed})}")
    if hasattr(os, "waitid"):
        with pytest.raises(ChildProcessError):  # neither a child nor a zombie
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert not sandbox._groups_with(mark.encode()) - {os.getpgrp()}, "a process of a sandbox is still alive"
