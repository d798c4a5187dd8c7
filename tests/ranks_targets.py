"""Functions that the tests of ranks run on every rank, inside a process group."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from mllandscape import sandbox
from tests.targets import SLEEPER


def summed(value):
    """One collective: the sum over the ranks of what each puts in."""
    tensor = torch.tensor([float(value)])
    dist.all_reduce(tensor)
    return tensor.item()


def listening():
    """The addresses, as the kernel writes them (IPv4 or IPv6 in hexadecimal, port), on which a process of this sandbox listens."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1]
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # another user's, or closed since
            if os.environ[sandbox.MARK].encode() in (descriptor.parents[1] / "environ").read_bytes():
                found |= {sockets[link] for link in [os.readlink(descriptor)] if link in sockets}
    return sorted(found)


def ordinary(**kwargs):
    """A run that goes well: what a rank sees, computes and returns."""
    rank = dist.get_rank()
    total = summed(10**rank)
    addresses = listening() if sys.platform == "linux" else []
    dist.barrier()
    sandbox.say(f"rank {rank} of {dist.get_world_size()}")
    print("not a record", flush=True)
    return {"rank": rank, "sum": total, "given": kwargs, "listening": addresses, "env": dict(os.environ)}


def fail(how, who=1):
    """Rank ``who`` fails as it is told while the others wait for it. Every rank leaves a process in a session of its own behind."""
    sleeper = subprocess.Popen(SLEEPER, start_new_session=True)
    summed(1)
    if sys.platform == "linux":
        sandbox.say(f"ports {' '.join(address.rpartition(':')[2] for address in listening())}")
    sandbox.say(f"pids {os.getpid()} {sleeper.pid}")
    dist.barrier()
    if dist.get_rank() == who:
        sandbox.say(f"at {time.monotonic()}")
        if how == "raise":
            raise LookupError("two\nlines")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(3)
        if how == "once":
            return "once"
        if how == "shape":
            summed_as_two()
        while how == "spin":
            pass
        if how == "sleep":
            time.sleep(300)
    return summed(1)


def summed_as_two():
    dist.all_reduce(torch.ones(200_000))


def endless():
    """No rank ends: one sleeps, and one does not even listen to SIGTERM."""
    if dist.get_rank() == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sandbox.say(f"pids {os.getpid()}")
    time.sleep(300)


def not_json():
    return {1, 2}


def caller():
    """A program for a test to kill: it prints what its ranks say."""
    from mllandscape import ranks

    ranks.run_ranks("tests.ranks_targets:fail", 2, how="sleep", progress=lambda line: print(line, flush=True))
