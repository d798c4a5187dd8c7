"""Functions that the sandbox's tests run in a child process. Imports neither torch nor pytest by itself."""

import os
import signal
import subprocess
import sys
import threading
import time

from mllandscape import sandbox

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]


def echo(**kwargs):
    return kwargs


def nothing():
    return None


def fail(message):
    raise LookupError(message)


def fail_without_words():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    raise Mute


def leave(code):
    sys.exit(code)


def vanish(code):
    os._exit(code)


def returns_a_set():
    return {1, 2}


def returns_itself():
    endless = []
    endless.append(endless)
    return endless


def sleep(duration):
    time.sleep(duration)
    return "slept"


def spin(duration):
    """Keeps one core busy."""
    end = time.process_time() + duration
    while time.process_time() < end:
        pass


def holds_the_interpreter_lock():
    """One C call that never lets another thread of its process run."""
    return sum(range(10**12))


def signal_itself(name):
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(60)


def signal_group(name):
    os.killpg(0, signal.Signals[name])
    time.sleep(60)


def environment():
    return dict(os.environ)


def stdin_text():
    return sys.stdin.read()


def soft_budget():
    return sandbox.budget()


def say_each(lines, pause=0.0):
    for line in lines:
        sandbox.say(line)
        time.sleep(pause)


def say_between_prints():
    print("before")
    print("half a line", end="")
    sandbox.say("said")
    print(", the other half")
    print("trouble", file=sys.stderr)


def chatter(megabytes, newline):
    """Writes to both streams, more than a pipe holds."""
    block = (b"x" * 1023 + (b"\n" if newline else b"x")) * 1024
    for _ in range(megabytes):
        os.write(1, block)
        os.write(2, block)
    os.write(1, b"\nthe end of stdout")
    os.write(2, b"\nthe end of stderr")


def leave_sleepers(then):
    """Starts a process in its group, one in a session of its own and one with an empty environment, says all pids, then ends as asked."""
    inside = subprocess.Popen(SLEEPER)
    outside = subprocess.Popen(SLEEPER, start_new_session=True)
    bare = subprocess.Popen(SLEEPER, env={})
    pids = [os.getpid(), inside.pid, outside.pid, bare.pid]
    sandbox.say(" ".join(map(str, pids)))
    if then == "raise":
        raise LookupError
    if then == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "sleep":
        time.sleep(300)
    if then == "lock":
        holds_the_interpreter_lock()


def linger():
    """Returns, but a thread keeps its process from ending."""
    threading.Thread(target=time.sleep, args=(300,)).start()
    return "returned"


def nested(limit):
    """A sandbox inside a sandbox, its progress passed on."""
    return sandbox.call("tests.targets:leave_sleepers", then="sleep", seconds=limit, progress=sandbox.say).ending


def caller(then):
    """A program for a test to kill: it prints the pids of its child's processes and waits for that child."""
    sandbox.call("tests.targets:leave_sleepers", then=then, seconds=60, progress=lambda line: print(line, flush=True))


def python_memory(count):
    """Fills the heap by ``count`` blocks of 1 MiB."""
    return sum(len(block) for block in [b"x" * 2**20 for _ in range(count)]) // 2**20


_kept = []


def grow_by_small_objects():
    """Memory runs out in thousands of small pieces and stays full: nothing is left, not even for a traceback."""
    while True:
        _kept.append([None] * 64)


def hold_64_mib():
    _kept.append(bytearray(64 * 2**20))


def import_torch():
    import torch

    torch.ones(8, 8).requires_grad_().sum().backward()


def torch_zeros(mib):
    """A real allocation of torch's, of so many MiB; returns what the budget left."""
    import torch

    return torch.zeros(mib * 2**18).numel() * 4


def raise_out_of_memory(kind):
    """The error types of memory, as their libraries raise them."""
    if kind == "MemoryError":
        raise MemoryError
    if kind == "numpy":
        raise MemoryError("Unable to allocate 1.50 GiB for an array with shape (402653184,) and data type float32")
    if kind == "mmap":
        raise OSError(12, "Cannot allocate memory")
    if kind == "windows":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 123456789012345678 bytes.")
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.10 GiB is free.")
