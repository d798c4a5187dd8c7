"""A child process has a time limit, a memory budget and a clean environment, comes back as a value, and leaves nothing behind."""

import gc
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllandscape import BadInput, sandbox
from tests import targets

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and process groups are POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds malloc on Linux only")
MIB = 2**20


def call(function, **kwargs):
    return sandbox.call(f"tests.targets:{function.__name__}", **kwargs)


def allocate_by_torch(mib):
    return call(targets.torch_zeros, mib=mib, budget=96 * MIB, warm_up="tests.targets:import_torch")


def alive(pid):
    """Whether a process runs. A zombie does not: in a container nobody may collect it."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1] not in ("", "Z")


def wait_until_gone(pids, patience=10.0):
    """The pids that are still alive when patience ends."""
    end = time.monotonic() + patience
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def reachable(said):
    """The pids in a line of ``leave_sleepers``. Off Linux, a process in a session of its own is out of reach: see the module's first lines."""
    worker, inside, outside, bare = (int(pid) for pid in said[0].split())
    return [worker, inside, bare] + ([outside] if sys.platform == "linux" else [])


def own_resources():
    """What a leak would change in this process: open descriptors, threads, ended children not collected, files left."""
    gc.collect()
    try:
        zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        zombie = None
    descriptors = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    return len(descriptors), threading.active_count(), zombie, os.listdir(tempfile.gettempdir())


@pytest.fixture(scope="module")
def patience():
    """A time limit in seconds that a child surely starts within, on a machine as busy as this one is now."""
    started = time.monotonic()
    call(targets.nothing)
    return 1 + 4 * (time.monotonic() - started)


@pytest.fixture
def own_temp(tmp_path, monkeypatch):
    """A temporary folder of this test's own, so that it can be seen to be empty afterwards."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class TestValues:
    def test_a_result_comes_back_as_it_was_sent(self):
        sent = {"text": "µ → 💡\n\0\ud800", "whole": 2**80, "real": 0.1 + 0.2, "none": None, "list": [True, [], {"": {}}], "endless": math.inf}
        assert call(targets.echo, **sent).value == sent
        assert math.isnan(call(targets.echo, loss=math.nan).value["loss"])
        assert call(targets.echo, pair=(1, 2)).value == {"pair": [1, 2]}

    def test_a_result_of_none_is_a_result(self):
        outcome = call(targets.nothing)
        assert outcome.ok and outcome.ending == "ok" and outcome.value is None and outcome.exit_code == 0

    def test_an_argument_of_a_megabyte_passes(self):
        assert len(call(targets.echo, text="x" * MIB).value["text"]) == MIB

    def test_an_exception_comes_back_with_type_message_and_traceback(self):
        outcome = call(targets.fail, message="two\nlines")
        assert (outcome.ok, outcome.ending, outcome.error_type, outcome.message) == (False, "error", "LookupError", "two\nlines")
        assert "in fail" in outcome.traceback and outcome.traceback.endswith("LookupError: two\nlines\n") and "sandbox.py" not in outcome.traceback

    def test_an_exception_that_cannot_say_itself_is_still_reported(self):
        outcome = call(targets.fail_without_words)
        assert (outcome.ending, outcome.error_type, outcome.message) == ("error", "Mute", "")

    @pytest.mark.parametrize("function", [targets.returns_a_set, targets.returns_itself])
    def test_a_result_that_is_not_json_is_an_error_of_one_line(self, function):
        outcome = call(function)
        assert outcome.ending == "error" and outcome.value is None
        assert function.__name__ in outcome.message and "not JSON" in outcome.message and "\n" not in outcome.message

    def test_sys_exit_and_a_vanished_process_are_errors_not_results(self):
        assert call(targets.leave, code=0).error_type == "SystemExit"
        gone = call(targets.vanish, code=0)
        assert (gone.ending, gone.exit_code) == ("error", 0) and "before it returned" in gone.message
        assert call(targets.vanish, code=7).exit_code == 7

    def test_a_module_that_fails_to_import_is_an_error_of_the_child(self, tmp_path, monkeypatch):
        (tmp_path / "broken_target.py").write_text("import no_such_library_here\n\ndef run():\n    pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        outcome = sandbox.call("broken_target:run")
        assert outcome.error_type == "ModuleNotFoundError" and "no_such_library_here" in outcome.message
        assert "broken_target" not in sys.modules

    def test_two_calls_at_once_do_not_mix(self):
        with ThreadPoolExecutor(4) as pool:
            values = list(pool.map(lambda number: call(targets.echo, number=number).value, range(4)))
        assert values == [{"number": number} for number in range(4)]


class TestCommand:
    def test_a_command_ends_by_its_exit_code(self):
        good = sandbox.command([sys.executable, "-S", "-c", "print('out'); import sys; print('err', file=sys.stderr)"])
        assert good.ok and good.value is None and good.exit_code == 0 and good.stdout == "out\n" and good.stderr == "err\n"
        bad = sandbox.command([sys.executable, "-S", "-c", "raise SystemExit(3)"])
        assert (bad.ending, bad.exit_code, bad.message) == ("error", 3, "ended with exit code 3")

    def test_a_command_runs_in_its_folder_and_reads_nothing(self, tmp_path):
        outcome = sandbox.command([sys.executable, "-S", "-c", "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"], cwd=tmp_path)
        assert outcome.stdout == f"{tmp_path.resolve()} ''\n"
        assert call(targets.stdin_text).value == ""

    def test_each_line_of_a_command_is_progress(self):
        lines = []
        sandbox.command([sys.executable, "-S", "-c", "for i in range(3): print(i)"], progress=lines.append)
        assert lines == ["0", "1", "2"]

    def test_a_file_that_cannot_be_executed_is_an_error(self, tmp_path):
        script = tmp_path / "empty.sh"
        script.write_bytes(b"\x7fELF nonsense")
        script.chmod(0o755)
        outcome = sandbox.command([str(script)])
        assert (outcome.ending, outcome.error_type, outcome.exit_code) == ("error", "OSError", None) and "empty.sh" in outcome.message


class TestEnvironment:
    def test_a_child_sees_the_list_and_nothing_else(self, monkeypatch):
        for name in ("SECRET_TOKEN", "HTTP_PROXY", "PYTHONSTARTUP", "OMP_NUM_THREADS"):
            monkeypatch.setenv(name, "not for the child")
        monkeypatch.setenv("MLLANDSCAPE_DATA", "/somewhere")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        seen = call(targets.environment, env={"GIVEN": "yes"}).value
        assert seen["GIVEN"] == "yes" and seen["MLLANDSCAPE_DATA"] == "/somewhere" and seen["CUDA_VISIBLE_DEVICES"] == "" and seen["PATH"] == os.environ["PATH"]
        assert set(seen) <= sandbox.PASSED_ON | {"GIVEN", "PYTHONIOENCODING"} | {name for name in seen if name.startswith("MLLANDSCAPE_")}
        assert "MALLOC_MMAP_THRESHOLD_" not in seen and "PYTHONPATH" not in seen

    def test_a_child_with_a_budget_allocates_plainly_and_env_has_the_last_word(self):
        seen = call(targets.environment, budget=2**30).value
        assert seen["MALLOC_MMAP_THRESHOLD_"] == "65536" and seen["OMP_NUM_THREADS"] == "1"
        assert call(targets.environment, budget=2**30, env={"OMP_NUM_THREADS": "2"}).value["OMP_NUM_THREADS"] == "2"

    def test_a_child_does_not_import_from_the_folder_it_stands_in(self, tmp_path, monkeypatch):
        (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        assert call(targets.echo, a=1).ok


class TestProgress:
    def test_lines_arrive_in_order_while_the_child_runs_and_in_the_calling_thread(self):
        seen = []
        started = time.monotonic()
        call(targets.say_each, lines=["one", "two\nthree", "ü"], pause=0.3, progress=lambda line: seen.append((line, time.monotonic(), threading.get_ident())))
        ended = time.monotonic()
        assert [line for line, _, _ in seen] == ["one", "two three", "ü"]
        assert started < seen[0][1] < ended - 0.5, "the first line came when all was over"
        assert {thread for _, _, thread in seen} == {threading.get_ident()}

    def test_a_line_said_between_prints_is_not_part_of_the_output(self):
        seen = []
        outcome = call(targets.say_between_prints, progress=seen.append)
        assert seen == ["said"] and outcome.stdout == "before\nhalf a line, the other half\n" and outcome.stderr == "trouble\n"

    def test_outside_of_a_sandbox_a_line_is_printed(self, capsys, monkeypatch):
        monkeypatch.delenv(sandbox.MARK, raising=False)
        sandbox.say("here")
        assert capsys.readouterr().out == "here\n"

    @pytest.mark.parametrize("newline", [True, False])
    def test_a_chatty_child_neither_blocks_nor_fills_the_memory(self, newline):
        outcome = call(targets.chatter, megabytes=8, newline=newline)
        assert outcome.ok
        for text, name in ((outcome.stdout, "stdout"), (outcome.stderr, "stderr")):
            assert text.startswith("[...] ") and text.endswith(f"\nthe end of {name}") and len(text) == sandbox.TAIL + len("[...] ")

    def test_an_endless_talker_with_a_slow_listener_is_stopped_in_time(self):
        started = time.monotonic()
        outcome = sandbox.command([sys.executable, "-S", "-c", "while True: print('y')"], seconds=1, progress=lambda line: time.sleep(0.002))
        assert outcome.ending == "timeout" and time.monotonic() - started < 10


class TestEndings:
    def test_the_time_limit_ends_a_child_and_keeps_what_it_printed(self, patience):
        started = time.monotonic()
        outcome = sandbox.command([sys.executable, "-S", "-c", "import time; print('started', flush=True); time.sleep(300)"], seconds=patience)
        assert time.monotonic() - started < patience + 20
        assert (outcome.ending, outcome.stdout, outcome.value) == ("timeout", "started\n", None) and f"{patience:g} s" in outcome.message

    def test_a_result_that_was_complete_stands_when_the_process_does_not_end(self, patience):
        outcome = call(targets.linger, seconds=patience)
        assert outcome.ok and outcome.value == "returned" and outcome.exit_code == -signal.SIGKILL

    @pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM"])
    def test_a_child_ended_by_a_signal_says_which(self, name):
        outcome = call(targets.signal_itself, name=name)
        assert (outcome.ending, outcome.error_type, outcome.exit_code) == ("killed", name, -signal.Signals[name]) and name in outcome.message
        if name in ("SIGSEGV", "SIGABRT"):
            assert "in signal_itself" in outcome.stderr, "the Python stack of a crash is worth having"

    def test_a_child_whose_whole_group_is_killed_is_killed(self):
        outcome = call(targets.signal_group, name="SIGKILL")
        assert (outcome.ending, outcome.error_type, outcome.exit_code) == ("killed", "SIGKILL", -signal.SIGKILL)

    def test_a_child_that_alone_is_interrupted_says_so_and_the_caller_goes_on(self):
        assert call(targets.signal_itself, name="SIGINT").ending == "interrupted"
        assert call(targets.signal_group, name="SIGINT").ending == "interrupted"

    def test_seconds_cpu_and_memory_are_the_childs(self):
        busy, idle = call(targets.spin, duration=0.5), call(targets.sleep, duration=0.5)
        assert busy.cpu_seconds >= 0.5 > idle.cpu_seconds and idle.seconds >= 0.5
        grown = call(targets.python_memory, count=200).peak_rss - idle.peak_rss
        assert 200 * MIB <= grown <= 240 * MIB


class TestNothingIsLeft:
    def test_a_guard_that_cannot_start_is_an_error_with_its_own_words(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sandbox, "_root", lambda: str(tmp_path))
        outcome = call(targets.nothing)
        assert (outcome.ending, outcome.exit_code) == ("error", 1) and "mllandscape" in outcome.stderr

    @pytest.mark.parametrize("then, ending", [("return", "ok"), ("raise", "error"), ("crash", "killed"), ("sleep", "timeout"), ("lock", "timeout")])
    def test_no_process_and_no_file_outlives_a_call_however_it_ends(self, own_temp, patience, then, ending):
        said = []
        outcome = call(targets.leave_sleepers, then=then, seconds=patience if ending == "timeout" else 60, progress=said.append)
        assert outcome.ending == ending
        assert not wait_until_gone(reachable(said))
        assert not list(own_temp.iterdir())

    def test_nothing_outlives_a_listener_that_fails(self, own_temp):
        said = []

        def listener(line):
            said.append(line)
            raise LookupError("the listener's own")

        with pytest.raises(LookupError, match="the listener's own"):
            call(targets.leave_sleepers, then="sleep", progress=listener)
        assert not wait_until_gone(reachable(said))
        assert not list(own_temp.iterdir())

    def test_nothing_outlives_a_sandbox_inside_a_sandbox(self, patience):
        said = []
        assert call(targets.nested, limit=60, seconds=2 * patience, progress=said.append).ending == "timeout"
        assert not wait_until_gone(reachable(said))

    @pytest.mark.parametrize("then", ["sleep", "lock"])
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
    def test_nothing_outlives_the_caller(self, own_temp, name, then):
        script = f"from tests import targets; targets.caller({then!r})"
        caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        said = [caller.stdout.readline()]
        caller.send_signal(signal.Signals[name])
        _, errors = caller.communicate(timeout=20)
        assert ("KeyboardInterrupt" in errors) == (name == "SIGINT")
        assert not wait_until_gone(reachable(said))
        end = time.monotonic() + 5
        while list(own_temp.iterdir()) and time.monotonic() < end:
            time.sleep(0.01)
        assert not list(own_temp.iterdir())

    def test_a_killed_guard_takes_everything_with_it(self):
        said = []

        def listener(line):
            said.append(line)
            worker = Path(f"/proc/{line.split()[0]}/stat").read_text() if sys.platform == "linux" else ""
            os.kill(int(worker.rpartition(")")[2].split()[1]) if worker else pytest.skip("reads /proc"), signal.SIGKILL)

        outcome = call(targets.leave_sleepers, then="sleep", progress=listener)
        assert (outcome.ending, outcome.error_type) == ("killed", "SIGKILL")
        assert not wait_until_gone(reachable(said))

    def test_an_interrupted_caller_can_call_again(self):
        script = """if True:
            from mllandscape import sandbox
            from tests import targets
            try:
                targets.caller("sleep")
            except KeyboardInterrupt:
                print(sandbox.call("tests.targets:echo", again=True).value, flush=True)
        """
        caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        said = [caller.stdout.readline()]
        caller.send_signal(signal.SIGINT)
        output, _ = caller.communicate(timeout=20)
        assert output == "{'again': True}\n" and caller.returncode == 0
        assert not wait_until_gone(reachable(said))

    def test_no_descriptor_thread_or_zombie_stays_in_the_caller(self, own_temp):
        call(targets.nothing)
        before = own_resources()
        for _ in range(2):
            call(targets.nothing, progress=print)
            call(targets.fail, message="x")
            call(targets.signal_itself, name="SIGKILL")
        call(targets.sleep, duration=0.5)
        assert own_resources() == before


@linux_only
class TestMemory:
    def test_the_budget_is_what_the_child_may_add_to_its_start_and_warm_up(self):
        assert call(targets.python_memory, count=60, budget=96 * MIB, warm_up="tests.targets:hold_64_mib").value == 60
        assert call(targets.python_memory, count=120, budget=96 * MIB, warm_up="tests.targets:hold_64_mib").ending == "out of memory"
        assert call(targets.python_memory, count=120).value == 120

    def test_a_child_without_a_byte_left_still_reports(self):
        outcome = call(targets.grow_by_small_objects, budget=32 * MIB)
        assert (outcome.ending, outcome.error_type, outcome.exit_code) == ("out of memory", "MemoryError", 0)
        assert outcome.traceback.endswith("MemoryError\n")

    def test_a_budget_below_a_page_is_still_a_report(self):
        assert call(targets.python_memory, count=8, budget=1).ending == "out of memory"

    def test_elsewhere_the_budget_is_the_trackers_to_enforce(self, monkeypatch):
        assert call(targets.soft_budget, budget=64 * MIB).value is None
        assert call(targets.soft_budget).value is None
        monkeypatch.setattr(sandbox, "RLIMIT_DATA", False)
        assert call(targets.soft_budget, budget=64 * MIB).value == 64 * MIB
        assert call(targets.python_memory, count=120, budget=64 * MIB).value == 120
        assert sandbox.budget() is None

    @pytest.mark.parametrize(
        "kind, requested",
        [("MemoryError", None), ("mmap", None), ("numpy", 3 * 2**29), ("windows", 123456789012345678)],
    )
    def test_memory_errors_of_every_library_are_out_of_memory(self, kind, requested):
        outcome = call(targets.raise_out_of_memory, kind=kind)
        assert (outcome.ending, outcome.requested) == ("out of memory", requested)

    def test_torch_errors_of_the_gpu_are_out_of_memory(self):
        outcome = call(targets.raise_out_of_memory, kind="cuda")
        assert (outcome.ending, outcome.error_type, outcome.requested) == ("out of memory", "OutOfMemoryError", 2 * 2**30)
        assert outcome.message.endswith("of which 1.10 GiB is free.")

    def test_an_error_that_only_speaks_of_memory_is_not_one(self):
        assert call(targets.fail, message="DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes").ending == "error"

    def test_five_torch_allocation_failures_from_one_process(self, own_temp):
        call(targets.nothing)
        before = own_resources()
        with ThreadPoolExecutor(2) as pool:  # each spends its time on importing torch
            fits, *outcomes = pool.map(allocate_by_torch, (90, *range(200, 1200, 200)))
        for mib, outcome in zip(range(200, 1200, 200), outcomes, strict=True):
            assert (outcome.ending, outcome.error_type, outcome.requested) == ("out of memory", "RuntimeError", mib * MIB)
            assert f"you tried to allocate {mib * MIB} bytes" in outcome.message
        assert fits.value == 90 * MIB, "the same child within its budget"
        assert own_resources() == before


class TestBadInput:
    """Every one is refused before a process is started, in one line."""

    @pytest.fixture(autouse=True)
    def no_process(self, monkeypatch):
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))

    def refused(self, function, *args, **kwargs):
        with pytest.raises(BadInput) as caught:
            function(*args, **kwargs)
        assert "\n" not in str(caught.value) and 20 < len(str(caught.value)) < 400
        return str(caught.value)

    @pytest.mark.parametrize(
        "target",
        ["", ":", "os", "os:", ":getcwd", "os:getcwd()", "os:path.join", "os.getcwd", "no_such_module:f", "os.no:f", "tests.none:f", "tests.targets:no_such"]
        + ["os:environ", "__main__:f", ".targets:echo", "../tests/targets:echo", "colorsys:no_such", None, 5, targets.echo, "a\nb:c"],
    )
    def test_a_target_that_cannot_be_called(self, target):
        self.refused(sandbox.call, target)
        if target is not None:
            self.refused(sandbox.call, "tests.targets:nothing", warm_up=target)

    def test_a_target_is_found_without_importing_its_module(self, tmp_path, monkeypatch):
        (tmp_path / "heavy_target.py").write_text("raise SystemExit('imported')\ndef run():\n    pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert "nothing_here" in self.refused(sandbox.call, "heavy_target:nothing_here")
        with pytest.raises(pytest.fail.Exception):
            sandbox.call("heavy_target:run")

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, {(1, 2): 3}, math.sin, [[...]]])
    def test_an_argument_that_is_not_json(self, value):
        self.refused(sandbox.call, "tests.targets:echo", value=value)

    @given(st.one_of(st.floats(max_value=0), st.sampled_from([math.nan, math.inf, True, False, None, "60", [1], 0, 1e9, 10**400])))
    def test_a_time_limit_that_is_none(self, seconds):
        self.refused(sandbox.call, "tests.targets:nothing", seconds=seconds)
        self.refused(sandbox.command, ["ls"], seconds=seconds)

    @given(st.integers(max_value=0) | st.floats() | st.booleans() | st.lists(st.integers()) | st.text(st.characters(exclude_characters="0123456789")))
    def test_a_budget_that_is_none(self, budget):
        self.refused(sandbox.call, "tests.targets:nothing", budget=budget)

    @pytest.mark.parametrize("env", [{"A": 1}, {1: "a"}, {"": "a"}, {"A=B": "a"}, {"A": "a\0"}, {"A": None}, "A=1", ["A"]])
    def test_an_environment_that_cannot_be(self, env):
        self.refused(sandbox.call, "tests.targets:nothing", env=env)
        self.refused(sandbox.command, ["ls"], env=env)

    @pytest.mark.parametrize("argv", [[], "ls", None, ["ls", 1], ["ls\0"], ["no-such-program-here"], ["./no/such"], ["/"], [""]])
    def test_a_command_that_cannot_be_run(self, argv):
        self.refused(sandbox.command, argv)

    def test_a_folder_that_is_none_and_a_listener_that_cannot_be_called(self, tmp_path):
        self.refused(sandbox.command, ["ls"], cwd=tmp_path / "none")
        self.refused(sandbox.command, ["ls"], progress=5)

    @settings(max_examples=200)
    @given(st.text(max_size=300))
    def test_any_text_is_a_refused_target(self, text):
        self.refused(sandbox.call, text)


class TestInBackground:
    def test_it_returns_at_once_and_result_waits(self):
        go = threading.Event()
        future = sandbox.in_background(lambda: go.wait(10) and "done")
        assert not future.done()
        go.set()
        assert future.result(timeout=10) == "done"

    def test_what_is_raised_is_raised_by_result(self):
        with pytest.raises(LookupError, match="gone"):
            sandbox.in_background(lambda: targets.fail("gone")).result(timeout=10)
