"""A Python function or a command in a child process: a time limit, a memory budget, a clean environment, and every ending as a value.

Three processes take part. The *caller* (a notebook's kernel) starts a *guard*, this module in a session of its own, and the
guard starts the *worker*, which runs the function or the command. The guard holds one end of a pipe of the caller's: when the
caller dies, however it dies, the pipe closes and the guard kills everything below it. The caller does the same after every
ending, so nothing outlives a call: neither a process the worker left behind nor the temporary folder with its JSON files.

On Linux this includes processes that left the group, found by a mark in their environment. On macOS only the group is
killed. The Windows branches are written from the documentation and untested.
"""

import contextlib
import faulthandler
import gc
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput, told, units

if TYPE_CHECKING:
    from concurrent.futures import Future

try:
    import resource
except ImportError:  # Windows
    resource = None

RLIMIT_DATA = sys.platform == "linux"
"""Whether the kernel itself enforces a budget. Elsewhere the limit exists but does not count what malloc maps."""

PASSED_ON = frozenset("""
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_ALL LC_CTYPE TZ TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX CC CXX
    CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_PATH
    SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT TEMP TMP USERPROFILE APPDATA LOCALAPPDATA PROGRAMDATA PROGRAMFILES
""".split())
"""The caller's environment variables that a child sees, besides MLLANDSCAPE_*. Everything else is left out."""

MARK = "MLLANDSCAPE_SANDBOX"
TAIL = 64 * units.KIB
SAID = b"\x1e"  # ASCII record separator: stands before a line that the child streams to the caller's progress

# CPU: "DefaultCPUAllocator: can't allocate memory: you tried to allocate 134217728 bytes" ("not enough memory" on Windows).
_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_REQUESTED = re.compile(r"allocate ([1-9]\d*(?:\.\d+)?) ?(bytes|[KMGT]iB)")

_soft_budget: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a child ended and what it left.

    ``ending`` is ``ok``, ``error``, ``out of memory``, ``timeout``, ``killed`` (by a signal that is not ours, named in
    ``error_type``) or ``interrupted`` (the child alone received SIGINT). ``value`` is the function's result. ``requested`` is
    the size in bytes of the allocation that failed, where the message says it (CUDA's rounds to two decimals). ``exit_code`` is
    the worker's, negative for a signal, None when it could not be started. ``stdout`` and ``stderr`` keep the last 64 KiB.
    ``seconds`` (wall clock) is the worker's, ``cpu_seconds`` and ``peak_rss`` (bytes) include the processes it waited for; both are
    0 on Windows; a peak below the guard's own 20 MB cannot be seen.
    """

    ending: str
    value: Any = None
    error_type: str = ""
    message: str = ""
    requested: int | None = None
    traceback: str = field(default="", repr=False)
    exit_code: int | None = None
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0

    @property
    def ok(self) -> bool:
        return self.ending == "ok"


def call(
    target: str,
    /,
    *,
    seconds: float = 60,
    budget: int | None = None,
    warm_up: str | None = None,
    env: dict[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    **kwargs: Any,
) -> Outcome:
    """Run ``"package.module:function"`` with ``kwargs`` in a child process and return how it ended.

    Arguments and result travel as JSON: tuples arrive as lists, keys as text; NaN and infinity are kept. ``seconds`` limits
    everything, imports included. ``budget`` is in bytes, on top of what the child holds once ``target``'s module is imported
    and ``warm_up`` (a function without arguments) has run; import heavy libraries in one of the two, or they eat the budget.
    ``env`` adds environment variables to a short list that is passed on; a child with a budget runs one OpenMP thread unless
    ``env`` says otherwise, because the stack of each thread counts. Modules are found as in the caller. ``progress`` receives
    each line of ``say``, in the calling thread; one that is too slow for the child gets the last 1,000. A KeyboardInterrupt
    ends the child and is raised again. Raises BadInput before a process starts.
    """
    for name in (target,) if warm_up is None else (target, warm_up):
        _check_target(name)
    _check_kwargs(target, kwargs)
    budget = None if budget is None else units.parse_bytes(budget)
    child_env = {} if budget is None else {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    child_env |= {"PYTHONIOENCODING": "utf-8:backslashreplace"} | _check_env(env)
    child_env["PYTHONPATH"] = os.pathsep.join([os.path.abspath(folder) for folder in sys.path] + [_root()])
    argv = [sys.executable, "-P", "-m", "mllandscape.sandbox", "work"]
    request = {"argv": argv, "cwd": None, "target": target, "warm_up": warm_up, "budget": budget, "enforced": RLIMIT_DATA, "kwargs": kwargs}
    return _run(request, seconds, child_env, progress)


def command(
    argv: list[str],
    *,
    seconds: float = 60,
    cwd: str | os.PathLike | None = None,
    env: dict[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a program and return how it ended: ``ok`` for exit code 0, ``error`` for any other. Its standard input is empty.

    ``progress`` receives each line of its output. The rest is as in ``call``. Raises BadInput before a process starts.
    """
    if not isinstance(argv, list | tuple) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise BadInput(f"{told(argv)} is not a command: pass a list of words such as ['pip', '--version'].")
    if cwd is not None and not os.path.isdir(cwd):
        raise BadInput(f"cwd={str(cwd)!r} is not a folder: create it first, or leave cwd out.")
    child_env = _check_env(env)
    search = child_env.get("PATH", os.environ.get("PATH"))
    program = shutil.which(os.path.join(cwd or "", argv[0]) if os.path.dirname(argv[0]) else argv[0], path=search)
    if program is None:
        raise BadInput(f"{argv[0]!r} is not a program on this machine: install it, or give its full path.")
    return _run({"argv": [os.path.abspath(program), *argv[1:]], "cwd": cwd and os.path.abspath(cwd)}, seconds, child_env, progress)


def in_background(work: Callable[[], Any]) -> "Future":
    """``work`` in a thread that ends with this process; ``result()`` of the answer waits for what it returns, or raises what it raised."""
    from concurrent.futures import Future  # not above: guard and worker start with this module

    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def budget() -> int | None:
    """In a child: the bytes that its own memory tracker must enforce. None without a budget, and where the kernel enforces it."""
    return _soft_budget


def say(text: str) -> None:
    """Stream one line to the ``progress`` of the call that runs this; outside of a sandbox, print it."""
    line = " ".join(str(text).splitlines())
    if MARK in os.environ:
        sys.__stdout__.write(f"{SAID.decode()}{line}\n")
        sys.__stdout__.flush()
    else:
        print(line, flush=True)


# The caller's side


def _root() -> str:
    return str(Path(__file__).resolve().parents[1])


def _check_target(target: str) -> None:
    """Find the function without importing its module, which may need torch."""
    module, colon, name = target.partition(":") if isinstance(target, str) else ("", "", "")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise BadInput(f"{told(target)} is not a target: write 'package.module:function'.")
    if module == "__main__":
        raise BadInput(f"{target!r} lives in the notebook or script itself, which a child cannot import: move it to a module.")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent is missing, or is not a package
        spec = None
    if spec is None:
        raise BadInput(f"there is no module {module!r} for {target!r}: check its spelling and sys.path.")
    if module in sys.modules:
        found = callable(getattr(sys.modules[module], name, None))
    else:
        code = spec.loader.get_code(module) if hasattr(spec.loader, "get_code") else None
        found = code is None or name in code.co_names  # None: an extension module, which only its import can judge
    if not found:
        raise BadInput(f"module {module!r} has no function {name!r}: check its spelling.")


def _check_kwargs(target: str, kwargs: dict[str, Any]) -> None:
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{told(kwargs)} for {target} is not JSON ({error}): pass numbers, text, lists, dicts, bools or None.") from None


def _check_env(env: dict[str, str] | None) -> dict[str, str]:
    if env is not None and not isinstance(env, dict):
        raise BadInput(f"env={told(env)} is not a dict: pass names and values, such as {{'OMP_NUM_THREADS': '2'}}.")
    for name, value in (env or {}).items():
        if not (isinstance(name, str) and isinstance(value, str)) or not name or "=" in name or "\0" in name + value:
            raise BadInput(f"env={{{told(name)}: {told(value)}}}: names and values are text, without '=' in a name and without NUL.")
    return dict(env or {})


class _Drain(threading.Thread):
    """Reads a pipe to its end, so that the child never blocks, and keeps the last bytes."""

    def __init__(self, pipe, said: deque | None, every_line: bool):
        super().__init__(daemon=True)
        self.pipe, self.said, self.every_line = pipe, said, every_line
        self.kept, self.read = bytearray(), 0
        self.start()

    def run(self) -> None:
        with self.pipe:
            for line in iter(lambda: self.pipe.readline(TAIL), b""):
                own, mark, said = line.partition(SAID)
                if self.said is not None and (mark or self.every_line):
                    self.said.append((said or own).decode(errors="replace").rstrip("\r\n"))
                self.kept += own
                self.read += len(own)
                if len(self.kept) > 2 * TAIL:
                    del self.kept[:-TAIL]

    def tail(self) -> str:
        self.join(timeout=2)  # longer only when a process that escaped holds the pipe, which then stays with this thread
        return ("[...] " if self.read > TAIL else "") + self.kept[-TAIL:].decode(errors="replace")


def _run(request: dict, seconds: float, env: dict[str, str], progress: Callable[[str], None] | None) -> Outcome:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 86_400:
        raise BadInput(f"seconds={told(seconds)} is not a time limit: pass a positive number, at most a day (86400).")
    if progress is not None and not callable(progress):
        raise BadInput(f"progress={told(progress)} cannot be called: pass a function of one line, such as print.")
    mark = f"{os.environ.get(MARK, '')}/{os.urandom(8).hex()}"  # a sandbox inside a sandbox carries both marks
    passed = {name: value for name, value in os.environ.items() if name.upper() in PASSED_ON or name.startswith("MLLANDSCAPE_")}
    request["env"] = passed | env | {MARK: mark}
    said = deque(maxlen=1000)
    with tempfile.TemporaryDirectory(prefix="mllandscape-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _write(folder / "request.json", request)
        guard = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "mllandscape.sandbox", "guard", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=request["env"] | {"PYTHONPATH": _root()},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            out, err = (_Drain(pipe, said if progress else None, "target" not in request) for pipe in (guard.stdout, guard.stderr))
            deadline = time.monotonic() + seconds
            while not (ended := _ended(guard)) and time.monotonic() < deadline:
                progress(said.popleft()) if said else time.sleep(0.01)
            if not ended:
                _stop(guard)
        finally:
            _kill(guard.pid, mark)
            guard.wait()
            with contextlib.suppress(OSError):
                guard.stdin.close()
        tails = {"stdout": out.tail(), "stderr": err.tail()}
        while said:
            progress(said.popleft())
        report = _read(folder / "report.json") or {"exit_code": guard.returncode or -9}  # a guard without a report was killed, or never started
        return Outcome(**_ending(request, report["exit_code"], _read(folder / "result.json"), None if ended else seconds), **report, **tails)


def _ending(request: dict, code: int, result: dict | None, limit: float | None) -> dict:
    """What the worker wrote stands, even if it was stopped or crashed on its way out; otherwise its exit code speaks."""
    if result is not None:
        return result
    if "target" not in request and code == 0:
        return {"ending": "ok"}
    if limit is not None:
        return {"ending": "timeout", "message": f"stopped at its time limit of {limit:g} s"}
    if code == -signal.SIGINT:
        return {"ending": "interrupted", "error_type": "SIGINT", "message": "interrupted by SIGINT"}
    if code < 0:
        name = {-known: known.name for known in signal.Signals}.get(code, f"signal {-code}")
        why = "; the kernel sends it when the machine's memory runs out" if name == "SIGKILL" else ""
        return {"ending": "killed", "error_type": name, "message": f"killed by {name}{why}"}
    before = " before it returned a result" if "target" in request else ""
    return {"ending": "error", "message": f"ended with exit code {code}{before}"}


def _ended(process: subprocess.Popen) -> bool:
    """Whether the process has ended; where possible it stays a zombie, so that its group's number cannot be taken by another."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # someone else in this process collected it
        return True


def _stop(guard: subprocess.Popen) -> None:
    """Ask the guard to end the worker and report what it used; two seconds, then it is killed like the rest."""
    with contextlib.suppress(OSError):
        guard.stdin.write(b".")
        guard.stdin.flush()
    patience = time.monotonic() + 2
    while not _ended(guard) and time.monotonic() < patience:
        time.sleep(0.01)


def _kill(group: int, mark: str) -> None:
    """Kill every process of the group; on Linux also every group with a marked process. A guard that names its own group dies here, last."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(group)], capture_output=True, check=False)
        return
    for _ in range(200):  # until a look finds none: the dying may have forked
        if not (groups := _groups_with(mark.encode()) - {os.getpgrp()}):
            break
        for marked in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(marked, signal.SIGKILL)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _groups_with(mark: bytes) -> set[int]:
    """The process groups that have a member with this mark in its environment; empty where there is no /proc."""
    groups = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if mark in environ.read_bytes():
                groups.add(os.getpgid(int(environ.parent.name)))
    return groups


def _write(path: Path, data: dict) -> None:
    """Whole or not at all: a process killed while it writes leaves no half file under this name."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data), encoding="ascii")
    os.replace(part, path)


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="ascii")) if path.exists() else None


# The guard's side


def _guard(folder: Path) -> None:
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler, not SIG_IGN, which the worker would inherit
    request = _read(folder / "request.json")
    started = time.monotonic()
    extra = [str(folder)] if "target" in request else []
    try:
        worker = subprocess.Popen(request["argv"] + extra, stdin=subprocess.DEVNULL, cwd=request["cwd"], env=request["env"])
    except OSError as error:  # not a program after all, or no process left to give
        _write(folder / "result.json", failure(error))
        _write(folder / "report.json", {"exit_code": None})
        return
    threading.Thread(target=_watch, args=(worker, folder), daemon=True).start()
    report = {"exit_code": worker.wait(), "seconds": time.monotonic() - started}
    if resource:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report["cpu_seconds"] = used.ru_utime + used.ru_stime
        report["peak_rss"] = used.ru_maxrss * (1 if sys.platform == "darwin" else units.KIB)
    with contextlib.suppress(OSError):  # the caller is gone, and the folder with it
        _write(folder / "report.json", report)
    _kill(os.getpid(), os.environ[MARK])


def _watch(worker: subprocess.Popen, folder: Path) -> None:
    if os.read(0, 1):  # the caller says that time is up
        worker.kill()
    else:  # the pipe closed: the caller is gone
        shutil.rmtree(folder, ignore_errors=True)
        _kill(os.getpid(), os.environ[MARK])


# The worker's side


def _work(folder: Path) -> None:
    os.environ.pop("PYTHONPATH")  # it was meant for this process, not for the other Pythons that a target may start
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    request = _read(folder / "request.json")
    limits = resource and resource.getrlimit(resource.RLIMIT_DATA)
    try:
        try:
            function = _load(request["target"])
            if request["warm_up"]:
                _load(request["warm_up"])()
            if request["budget"]:
                limit(request["budget"], request["enforced"])
            value = function(**request["kwargs"])
        finally:
            if limits:  # memory to report in, when all of it is taken
                resource.setrlimit(resource.RLIMIT_DATA, limits)
        result = {"ending": "ok", "value": value}
    except BaseException as error:
        result = failure(error)
    try:
        _write(folder / "result.json", result)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{request['target']} returned {told(result['value'])}, which is not JSON ({error}): return numbers, text, lists, dicts, bools or None"
        _write(folder / "result.json", {"ending": "error", "error_type": type(error).__name__, "message": message})


def _load(target: str) -> Callable:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def limit(size: int, enforced: bool = RLIMIT_DATA) -> None:
    """In a child: let the data segment (heap and private mappings) grow by ``size`` bytes from here.

    Where the operating system cannot enforce it, it becomes ``budget()``. A later call takes its place.
    """
    global _soft_budget
    gc.collect()
    held = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text()) if enforced else None
    if held is None:
        _soft_budget = size
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(held[1]) * units.KIB + size
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def failure(error: BaseException) -> dict:
    """How an exception is told: the fields of Outcome from ``ending`` to ``traceback``. For a child that goes on after one."""
    try:
        message = str(error)
    except Exception:  # an exception whose __str__ fails is still reported
        message = ""
    torch_says = type(error).__name__ == "OutOfMemoryError" and type(error).__module__.partition(".")[0] == "torch"
    kernel_says = isinstance(error, OSError) and error.errno == 12  # ENOMEM
    if isinstance(error, MemoryError) or torch_says or kernel_says or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(message)):
        ending = "out of memory"
    else:
        ending = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
    asked = _REQUESTED.search(message) if ending == "out of memory" else None
    below = error.__traceback__ and error.__traceback__.tb_next  # not even a traceback fits into a memory that is full to the last byte
    return {
        "ending": ending,
        "error_type": type(error).__name__,
        "message": message,
        "requested": asked and units.parse_bytes(f"{asked[1]} {asked[2].replace('bytes', 'B')}"),
        "traceback": "".join(tracebacks.format_exception(type(error), error, below)),
    }


if __name__ == "__main__":
    # Through the package's own module: a target that imports it must find the same one, with the same budget.
    from mllandscape import sandbox

    {"guard": sandbox._guard, "work": sandbox._work}[sys.argv[1]](Path(sys.argv[2]))
