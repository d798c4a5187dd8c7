"""Several ranks run one function, exchange tensors, and end as a value that names the rank which failed; nothing of them is left behind."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, ranks, sandbox
from tests.test_sandbox import wait_until_gone

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and process groups are POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TARGETS = "tests.ranks_targets"


class Run:
    """One run, what its ranks said, and how many seconds after the failure it was named."""

    def __init__(self, function, number, **kwargs):
        self.said = []
        self.ended = ranks.run_ranks(f"{TARGETS}:{function}", number, progress=self.said.append, **kwargs)
        now = time.monotonic()
        self.named_after = [now - float(at) for at in self.told("at")]

    def told(self, word):
        return [value for line in self.said if line.split()[0] == word for value in line.split()[1:]]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """Every test here has a temporary folder and a mark of its own, and afterwards neither a file nor a process has either."""
    mark = f"/{tmp_path.name}-{os.urandom(4).hex()}"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(sandbox.MARK, mark)
    yield
    end = time.monotonic() + 5
    while (list(tmp_path.iterdir()) or sandbox._groups_with(mark.encode()) - {os.getpgrp()}) and time.monotonic() < end:
        time.sleep(0.01)
    assert not list(tmp_path.iterdir())
    assert not sandbox._groups_with(mark.encode()) - {os.getpgrp()}, "a process of a rank is still alive"


def gone(run):
    """Whether no process that the ranks named is alive and no port of theirs listens."""
    listening = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    open_ports = {fields[1].rpartition(":")[2] for fields in listening if fields[3] == "0A"}
    return not wait_until_gone(map(int, run.told("pids"))) and not open_ports & set(run.told("ports"))


class TestRuns:
    def test_two_ranks_exchange_tensors_and_return_their_values_in_order(self):
        run = Run("ordinary", 2, env={"GIVEN": "yes"}, text="µ\n", endless=float("inf"))
        ended = run.ended
        assert ended.ok and (ended.ending, ended.failed_rank, ended.error_type, ended.message, ended.traceback) == ("ok", None, "", "", "")
        assert [value["rank"] for value in ended.values] == [0, 1] and [value["sum"] for value in ended.values] == [11, 11]
        assert sorted(run.said) == ["rank 0 of 2", "rank 1 of 2"]
        for value in ended.values:
            assert value["given"] == {"text": "µ\n", "endless": float("inf")}
            seen = value["env"]
            assert (seen["OMP_NUM_THREADS"], seen["GIVEN"], seen["WORLD_SIZE"]) == ("1", "yes", "2")
            assert not {"PYTHONPATH", "PYTHONSAFEPATH"} & set(seen), "another Python that the target starts is an ordinary one"
            if sys.platform == "linux":
                assert len(value["listening"]) == 2, "one socket of gloo's a rank; the launcher, the rendezvous and the store have none"
                assert {address.partition(":")[0] for address in value["listening"]} == {"0100007F"}, "127.0.0.1, in the kernel's spelling"

    def test_a_rank_alone_returns_what_is_not_json(self):
        ended = Run("not_json", 1).ended
        assert (ended.ending, ended.failed_rank, ended.error_type) == ("failed", 0, "TypeError") and "not JSON" in ended.message


class TestFailures:
    """Each is named within ten seconds, by the rank that failed first and not by those who lost it."""

    @linux_only
    @pytest.mark.parametrize("how", ["raise", "kill", "once", "shape"])
    def test_a_rank_that_fails_is_named(self, how):
        run = Run("fail", 2, how=how)
        ended = run.ended
        assert ended.ending == "failed" and max(run.named_after) < 10 and "\n" not in ended.message
        if how == "raise":
            assert (ended.failed_rank, ended.error_type, ended.message) == (1, "LookupError", "rank 1 raised LookupError: two lines")
            assert ended.traceback.endswith("LookupError: two\nlines\n") and "in fail" in ended.traceback and "ranks.py" not in ended.traceback
        if how == "kill":
            assert (ended.failed_rank, ended.error_type, ended.message) == (1, "SIGKILL", "rank 1 was killed by SIGKILL")
        if how == "once":
            assert (ended.failed_rank, ended.values) == (0, [None, "once"]) and "rank 1 had returned" in ended.message and "do not match" in ended.message
            assert "in summed" in ended.traceback
        if how == "shape":
            assert (ended.failed_rank, ended.error_type) == (0, "SIGABRT") and "collective mismatch" in ended.message
        assert gone(run)

    @linux_only
    def test_a_rank_that_hangs_is_named_with_the_line_where_it_stands(self):
        run = Run("fail", 3, how="spin", patience=3)
        ended = run.ended
        assert (ended.ending, ended.failed_rank, ended.values) == ("hung", 1, [None] * 3) and max(run.named_after) < 10
        assert ended.message.startswith("rank 1 hangs in fail (ranks_targets.py, line ") and ended.message.endswith("the others waited 3 s for it")
        last = ended.traceback.strip().splitlines()
        assert last[0] == "Rank 1 stood here (most recent call last):" and last[-1].strip() in ('while how == "spin":', "pass")
        assert gone(run)

    @linux_only
    def test_the_time_limit_ends_all_ranks_even_one_that_ignores_the_request(self):
        started = time.monotonic()
        run = Run("endless", 2, seconds=5)
        assert time.monotonic() - started < 5 + 10
        assert (run.ended.ending, run.ended.values) == ("timeout", [None, None])
        assert run.ended.message.startswith("stopped at the time limit of 5 s: ") and run.ended.failed_rank is None
        if len(run.said) == 2:  # on a machine that is not too busy to start them before
            assert "rank 0 was in endless (ranks_targets.py, line " in run.ended.message and "rank 1 was" in run.ended.message
        assert gone(run)

    @linux_only
    def test_ranks_end_when_their_caller_is_killed(self):
        script = "from tests import ranks_targets; ranks_targets.caller()"
        caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        said = [caller.stdout.readline().split() for _ in range(5)]
        caller.kill()
        caller.communicate(timeout=20)
        assert not wait_until_gone([int(pid) for word, *pids in said if word == "pids" for pid in pids])


class TestVerdict:
    """What the ranks left, however little, becomes one line. The oracle is the order in which things happened."""

    ENDS = {
        "ok": {"value": 1},
        "raised": {"error_type": "LookupError", "message": "x", "traceback": "", "where": " in f (t.py, line 1)"},
        "late": {"error_type": "RuntimeError", "message": "timed out", "traceback": "", "where": ""},
        "lost": {"error_type": "RuntimeError", "message": "by peer", "traceback": "", "where": ""},
        "stopped": {},
        "died": {},
    }

    def verdict(self, *kinds, at=None, code=-9, stopped=None):
        codes = {"ok": 0, "stopped": -15, "died": code}
        left = [self.ENDS[kind] | {"kind": kind, "at": rank, "code": codes.get(kind, 1), "stack": []} for rank, kind in enumerate(kinds)]
        for record, moment in zip(left, at or [], strict=False):
            record["at"] = moment
        return ranks._verdict(left, 5, 60, stopped)

    @pytest.mark.parametrize(
        "kinds, at, ending, failed",
        [
            (["lost", "raised", "stopped"], [1, 0, 2], "failed", 1),
            (["lost", "raised"], [0, 1], "failed", 1),  # a clock that is read too late
            (["raised", "raised"], [2, 1], "failed", 1),
            (["raised", "died"], [2, 1], "failed", 1),
            (["raised", "died"], [1, 2], "failed", 0),
            (["late", "stopped", "lost"], [1, 2, 2], "hung", 1),
            (["late", "raised", "lost"], [1, 2, 2], "hung", 1),  # too late to be what the others failed of
            (["late", "lost", "late"], [1, 1, 1], "hung", None),
            (["ok", "lost", "stopped"], [1, 2, 3], "failed", 1),
            (["stopped", "stopped"], [2, 1], "failed", 1),
        ],
    )
    def test_the_first_to_fail_is_named_and_not_its_peers(self, kinds, at, ending, failed):
        verdict = self.verdict(*kinds, at=at)
        assert (verdict["ending"], verdict["failed_rank"]) == (ending, failed)

    def test_the_lines(self):
        assert self.verdict("lost", "died", code=3)["message"] == "rank 1 ended with exit code 3 before it returned a result"
        assert self.verdict("late", "raised")["message"] == "rank 1 hangs in f (t.py, line 1): the others waited 5 s for it"
        assert self.verdict("late", "stopped", "stopped")["message"] == "rank 1 hangs, rank 2 too: the others waited 5 s for it"
        assert self.verdict("ok", "stopped", at=[0, 9], stopped=8)["message"] == "stopped at the time limit of 60 s: rank 1 was starting"
        assert self.verdict("ok", "stopped", at=[0, 9], stopped=8)["failed_rank"] == 1

    @given(st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=8).filter(lambda kinds: set(kinds) != {"ok"}), st.data())
    def test_whatever_was_left_is_a_verdict_of_one_line(self, kinds, data):
        at = data.draw(st.lists(st.integers(0, 9), min_size=len(kinds), max_size=len(kinds)))
        verdict = self.verdict(*kinds, at=at, code=data.draw(st.sampled_from([-9, -6, 0, 3, -99])), stopped=data.draw(st.sampled_from([None, 0, 5])))
        ranks.Ranks(**verdict, values=[])
        assert verdict["ending"] in ("failed", "hung", "timeout") and verdict["message"] and "\n" not in verdict["message"]


class TestCluster:
    """The module as a program, as torchrun and accelerate start it."""

    def program(self, *arguments, launcher=(), **env):
        argv = [sys.executable, *launcher, "-m", "mllandscape.ranks", *arguments]
        return sandbox.command(argv, cwd=Path(__file__).parents[1], env={"OMP_NUM_THREADS": "1"} | env)

    def test_torchrun_prints_the_values_of_all_ranks_as_one_line(self, tmp_path):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--log-dir={os.devnull}"]
        outcome = self.program(f"{TARGETS}:ordinary", '{"steps": 3}', launcher=launcher)
        lines = [line for line in outcome.stdout.splitlines() if line != "not a record"]
        assert outcome.ok, outcome.stderr
        assert [(value["rank"], value["sum"], value["given"]) for value in json.loads(lines[-1])] == [(0, 11, {"steps": 3}), (1, 11, {"steps": 3})]

    @pytest.mark.parametrize("arguments, said", [([f"{TARGETS}:ordinary"], "torchrun"), ([f"{TARGETS}:none"], "no function"), ([], "package.module:function")])
    def test_a_program_that_cannot_run_says_so_in_one_line(self, arguments, said):
        outcome = self.program(*arguments)
        assert outcome.exit_code == 1 and said in outcome.stderr and outcome.stderr.count("\n") == 1


class TestBadInput:
    """Every one is refused before a process is started, in one line."""

    @pytest.fixture(autouse=True)
    def no_process(self, monkeypatch):
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))

    @pytest.mark.parametrize("number", [0, 9, -1, True, None, 2.0, "2", [2]])
    def test_a_number_of_ranks_that_cannot_be(self, number):
        assert "1 to 8" in self.refused(f"{TARGETS}:ordinary", number)

    @pytest.mark.parametrize("target", ["", "no_such_module:f", f"{TARGETS}:no_such", "__main__:f", None])
    def test_a_target_that_cannot_be_called(self, target):
        self.refused(target, 2)

    @pytest.mark.parametrize(
        "options",
        [{"seconds": 0}, {"seconds": "60"}, {"seconds": 10**6}, {"patience": -1}, {"patience": float("nan")}, {"patience": None}]
        + [{"env": "A=1"}, {"env": {"A": 1}}, {"progress": 5}, {"value": {1, 2}}, {"value": object()}],
    )
    def test_an_option_or_an_argument_that_cannot_be(self, options):
        assert next(iter(options)) in self.refused(f"{TARGETS}:ordinary", 2, **options)

    def refused(self, *args, **kwargs):
        with pytest.raises(BadInput) as caught:
            ranks.run_ranks(*args, **kwargs)
        assert "\n" not in str(caught.value) and 20 < len(str(caught.value)) < 400
        return str(caught.value)


def test_the_caller_does_not_import_torch():
    script = "import sys; from mllandscape import ranks; sys.exit('torch' in sys.modules)"
    assert sandbox.command([sys.executable, "-c", script], cwd=Path(__file__).parents[1]).ok
