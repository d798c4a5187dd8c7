"""A Python function on several ranks: real processes that exchange tensors through torch.distributed, every ending a value.

Torch's own elastic launcher (what ``torchrun`` runs) starts the ranks from a sandbox's child, so nothing outlives a call. Launcher and ranks
meet through files in the sandbox's temporary folder, so neither the rendezvous nor the ranks' store opens a port. What listens is gloo: one
socket a rank from ``init_process_group`` to the rank's end, on 127.0.0.1 and a port of the kernel's choice. (The launcher also binds one such
port for a moment to name a MASTER_PORT, which nobody uses.) A TCPStore, as ``torchrun --standalone`` opens, listens on every interface.

``torchrun --nproc-per-node 8 --nnodes 2 ... -m mllandscape.ranks package.module:function '{"steps": 3}'`` runs the same function on a
cluster, with torch's own time-outs and addresses. Rank 0 prints all values as one line of JSON. CUDA and macOS are untested.
"""

import contextlib
import faulthandler
import json
import os
import re
import signal
import sys
import threading
import time
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from mllandscape import BadInput, sandbox, told

MOST = 8
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
"""For ``env``: the ranks compute on the CPU and talk over gloo, where there are GPUs too."""

GRACE = 2.0  # seconds that ranks get to end by themselves when one has failed, when they are told to stop, and when all have returned
LINGER = 1.0  # seconds that a rank which lost its peers stays, so that those who lost theirs can say so, too

# A rank that fails with one of these waited for another: "[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:...".
_PEER = re.compile(
    r"/gloo/transport/.*(?:Timed out|by peer|Broken pipe)|connectFullMesh failed|Wait timeout|failed to pass monitoredBarrier|ncclRemoteError|WorkNCCL.*"
)
_LATE = re.compile(r"[Tt]imed out|timeout|failed to pass")


@dataclass(frozen=True)
class Ranks:
    """How a run on several ranks ended and what the ranks left.

    ``ending`` is ``ok``, ``failed`` (a rank raised or died), ``hung`` (ranks waited in a collective for longer than their patience) or
    ``timeout``. ``values`` are the functions' results by rank, None for a rank that left none. ``failed_rank`` is the first rank that failed
    by itself, or that the others waited for; None where none can be told from the others. ``error_type`` is its exception or its signal,
    ``message`` one line that names the rank and what happened, ``traceback`` its own, or where it stood. ``seconds`` is wall clock.
    """

    ending: str
    values: list[Any]
    failed_rank: int | None = None
    error_type: str = ""
    message: str = ""
    traceback: str = field(default="", repr=False)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.ending == "ok"


def run_ranks(
    target: str,
    ranks: int,
    /,
    *,
    seconds: float = 60,
    patience: float = 5,
    env: dict[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    **kwargs: Any,
) -> Ranks:
    """Run ``"package.module:function"`` with ``kwargs`` on each of 1 to 8 ranks at once and return how they ended.

    Each rank has torch.distributed's default process group: gloo, or NCCL and a current device where there is one for every rank. Arguments
    and results travel as JSON. After ``seconds``, imports included, the ranks are stopped. ``patience`` is the process group's time-out in
    seconds: how long a rank waits in a collective for the others, once all have started. A rank that raises or dies is named in about a second,
    one that hangs, some two after the others lost their patience. ``env`` adds environment variables; a rank runs one OpenMP thread unless it
    says otherwise. ``progress`` receives each line that a rank gives to ``sandbox.say``. A KeyboardInterrupt ends all ranks and is raised
    again. Raises BadInput before a process starts.
    """
    sandbox._check_target(target)
    if isinstance(ranks, bool) or not isinstance(ranks, int) or not 1 <= ranks <= MOST:
        raise BadInput(f"ranks={told(ranks)} is not a number of ranks: pass a whole number from 1 to {MOST}.")
    for name, value in {"seconds": seconds, "patience": patience}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_000:
            raise BadInput(f"{name}={told(value)} is not a time limit: pass a positive number of seconds, at most 86000.")
    sandbox._check_kwargs(target, kwargs)
    loopback = "lo" if sys.platform == "linux" else "lo0"
    child_env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    child_env |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCH_NCCL_BLOCKING_WAIT": "1"} | sandbox._check_env(env)
    request = {"target": target, "kwargs": kwargs, "ranks": ranks, "limit": seconds, "patience": patience}
    outcome = sandbox.call("mllandscape.ranks:_launch", seconds=seconds + 5 * GRACE, env=child_env, progress=progress, request=request)
    if outcome.ok:
        ended = Ranks(**outcome.value, seconds=outcome.seconds)
        said = re.search(r"what\(\): +(?:\[.*?\] )?(.+)", outcome.stderr) if ended.error_type == "SIGABRT" else None  # the last words of C++
        return replace(ended, message=f"{ended.message}: {said[1]}") if said else ended
    if outcome.seconds >= seconds:
        return Ranks("timeout", [None] * ranks, message=f"stopped at the time limit of {seconds:g} s: no rank had started", seconds=outcome.seconds)
    message = f"the launcher of the ranks failed: {outcome.error_type} {' '.join(outcome.message.split())}"
    return Ranks("failed", [None] * ranks, None, outcome.error_type, message, outcome.traceback, outcome.seconds)


# The launcher's side


def _launch(request: dict) -> dict:
    folder, ranks = Path(sys.argv[-1]) / "ranks", request["ranks"]  # in the sandbox's own folder, which goes even if the caller dies
    folder.mkdir()
    sandbox._write(folder / "request.json", request)
    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    seen = {"gone": {}, "killed": set(), "stopped": None}
    threading.Thread(target=_watch, args=(folder, ranks, time.monotonic() + request["limit"], seen), daemon=True).start()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    options = f"--nnodes=1 --nproc-per-node={ranks} --max-restarts=0 --local-addr=127.0.0.1 --rdzv-id=ranks --rdzv-backend=c10d"
    files = [f"--rdzv-endpoint={folder / 'rendezvous'}", "--rdzv-conf=store_type=file", f"--log-dir={folder / 'logs'}"]
    codes = {}
    try:
        main([*options.split(), *files, "-m", "mllandscape.ranks", "rank", str(folder)])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    left = []
    for rank in range(ranks):
        ended = {"at": seen["gone"].get(rank, time.monotonic()), "code": -signal.SIGTERM if rank in seen["killed"] else codes.get(rank, 0)}
        record = ended | {"stack": _stack(folder / f"rank{rank}.stack")} | (sandbox._read(folder / f"rank{rank}.json") or {"kind": "silent"})
        if record["kind"] == "silent" or (record["kind"] == "ok" and ended["code"] not in (0, -signal.SIGTERM)):
            record["kind"] = "stopped" if ended["code"] == -signal.SIGTERM else "died"
        left.append(record)
    values = [record.get("value") for record in left]
    every = all("value" in record for record in left)  # what was complete stands, however its rank left
    return {"values": values} | ({"ending": "ok"} if every else _verdict(left, request["patience"], request["limit"], seen["stopped"]))


def _watch(folder: Path, ranks: int, deadline: float, seen: dict) -> None:
    """In a thread: which rank goes when, SIGTERM to all at the time limit, SIGKILL to those for which the launcher would wait 30 s."""
    pids, kinds, over = {}, {}, None
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        for rank in set(range(ranks)) - set(seen["gone"]):
            pids[rank] = pids.get(rank) or sandbox._read(folder / f"rank{rank}.pid")
            kinds[rank] = kinds.get(rank) or (sandbox._read(folder / f"rank{rank}.json") or {}).get("kind")
            if pids[rank] and not _send(pids[rank], 0):
                seen["gone"][rank], kinds[rank] = now, kinds[rank] or "gone"
                del pids[rank]
        if now > deadline and None in kinds.values() and not seen["stopped"]:
            seen["stopped"] = now
            if not any(pids.values()):
                os._exit(1)
            [_send(pid, signal.SIGTERM) for pid in pids.values() if pid]
        if not over and (seen["stopped"] or None not in kinds.values() or set(kinds.values()) - {None, "ok"}):
            over = now
        if over and now > over + GRACE:
            seen["killed"] |= {rank for rank, pid in pids.items() if pid and _send(pid, signal.SIGKILL)}


def _send(pid: int, number: int) -> bool:
    """Send a signal to the group that a rank leads; whether it was there."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _stack(path: Path) -> tracebacks.StackSummary:
    """Where the target stood, outermost first. Faulthandler writes the innermost first, and the main thread last."""
    blocks = path.read_text(errors="replace").split("\n\n") if path.exists() else []
    stacks = [found for block in blocks if (found := re.findall(r'^  File "(.*)", line (\d+) in (.*)$', block, re.MULTILINE))]
    frames = [(file, int(line), name, None) for file, line, name in reversed(stacks[-1])] if stacks else []
    own = [place for place, (file, _, name, _) in enumerate(frames) if name == "_rank" and Path(file).name == "ranks.py"]
    return tracebacks.StackSummary.from_list(frames[own[-1] + 1 :] if own else frames)


def _where(frames: list[tracebacks.FrameSummary]) -> str:
    """The innermost frame of the target's own file, after a verb: `` in f (file.py, line 3)``."""
    own = [frame for frame in frames if frame.filename == frames[0].filename and not frame.filename.startswith("<")]
    return f" in {own[-1].name} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _stood(rank: int, stack: tracebacks.StackSummary) -> str:
    return f"Rank {rank} stood here (most recent call last):\n{''.join(stack.format())}" if stack else ""


def _verdict(left: list[dict], patience: float, limit: float, stopped: float | None) -> dict:
    """What came first. A rank that ``lost`` its peers is not to blame, nor one that was ``stopped``, unless there is no other."""

    def among(*kinds: str) -> list[int]:
        return sorted((rank for rank, record in enumerate(left) if record["kind"] in kinds), key=lambda rank: left[rank]["at"])

    last = sorted(among("raised", "died", "stopped"))
    events = [rank for rank in among("raised", "died", "late") if stopped is None or left[rank]["at"] <= stopped]
    if events and left[events[0]]["kind"] != "late":
        return _failed(events[0], left[events[0]])
    if events:
        if not last:
            who = f"rank {events[0]} waited {patience:g} s{left[events[0]]['where']} for the others"
            failed = _failed(events[0], left[events[0]], f"{who}: some came too late, or the collectives of the ranks do not match")
            return failed | {"ending": "hung", "failed_rank": None}
        rank, record = last[0], left[last[0]]
        too = "".join(f", rank {other} too" for other in last[1:])
        message = f"rank {rank} hangs{record.get('where') or _where(record['stack'])}{too}: the others waited {patience:g} s for it"
        return {"ending": "hung", "failed_rank": rank, "message": message, "traceback": record.get("traceback") or _stood(rank, record["stack"])}
    if stopped is not None and last:
        places = "; ".join(f"rank {rank} was{_where(left[rank]['stack']) or ' starting'}" for rank in last)
        stood = "\n".join(_stood(rank, left[rank]["stack"]) for rank in last)
        report = {"message": f"stopped at the time limit of {limit:g} s: {places}", "traceback": stood}
        return {"ending": "timeout", "failed_rank": last[0] if len(last) == 1 < len(left) else None} | report
    if among("lost") and among("ok"):
        rank, done = among("lost")[0], ", ".join(map(str, sorted(among("ok"))))
        return _failed(rank, left[rank], f"rank {rank} waited{left[rank]['where']}, but rank {done} had returned: the collectives of the ranks do not match")
    rank = (among("raised", "died", "stopped") + among("lost", "late"))[0]
    return _failed(rank, left[rank])


def _failed(rank: int, record: dict, message: str = "") -> dict:
    """A rank that failed by itself: what it wrote stands, otherwise its exit code speaks."""
    code, kind, traceback = record["code"], record.get("error_type", ""), record.get("traceback") or _stood(rank, record["stack"])
    if kind:
        message = message or f"rank {rank} raised {kind}{record['message'] and ': '}{record['message']}"
    elif code < 0:
        kind = {-known: known.name for known in signal.Signals}.get(code, f"signal {-code}")
        message = f"rank {rank} was killed by {kind}"
    else:
        message = f"rank {rank} ended with exit code {code} before it returned a result"
    return {"ending": "failed", "failed_rank": rank, "error_type": kind, "message": " ".join(message.split()), "traceback": traceback}


# A rank's side


def _rank(folder: Path) -> None:
    """One rank of ``run_ranks``. Its value or its failure goes to ``rank<number>.json``, whole or not at all."""
    rank, size, parent = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.getppid()
    del os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]  # meant for this process, not for the other Pythons that a target may start
    stack = open(folder / f"rank{rank}.stack", "w")  # noqa: SIM115  faulthandler keeps it
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGTERM, stack, chain=True)
    sandbox._write(folder / f"rank{rank}.pid", os.getpid())
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    request = sandbox._read(folder / "request.json")
    try:
        import torch.distributed as dist

        function = sandbox._load(request["target"])
        store = dist.FileStore(str(folder / "store"), size)
        store.set(f"here {rank}", "")  # imports take their time: patience begins when all are here
        limit, patience = timedelta(seconds=request["limit"]), timedelta(seconds=request["patience"])
        store.wait([f"here {each}" for each in range(size)], limit)
        c10d = dist.distributed_c10d
        c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = patience  # of the groups that the target makes
        dist.init_process_group(**_device(), store=store, rank=rank, world_size=size, timeout=patience)
        value = function(**request["kwargs"])
        try:
            sandbox._write(folder / f"rank{rank}.json", {"kind": "ok", "value": value})
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"{request['target']} returned {told(value)}, which is not JSON ({error})") from None
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        _leave()
    except BaseException as error:
        record = sandbox.failure(error) | {"at": time.monotonic(), "where": _where(tracebacks.extract_tb(error.__traceback__)[1:])}
    lost = _PEER.search(record["traceback"])
    sandbox._write(folder / f"rank{rank}.json", record | {"kind": "raised" if not lost else "late" if _LATE.search(lost[0]) else "lost"})
    with contextlib.suppress(Exception):
        if lost:
            dist.destroy_process_group()  # which tells the peers
        while lost and time.monotonic() < record["at"] + LINGER and not all((folder / f"rank{each}.json").exists() for each in range(size)):
            time.sleep(0.01)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1)  # at once: what is left of the process group may wait for the others


def _leave() -> None:
    """End well and at once: a thread of gloo's that is still about when Python takes itself down aborts the process, now and then."""
    with contextlib.suppress(Exception):  # nobody reads any more: the value is written all the same
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _leave_with(parent: int) -> None:
    """On Linux the guard finds every rank; elsewhere a rank that lost its launcher ends itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _device() -> dict:
    """What ``init_process_group`` must know of this rank's device, which becomes the current one. A cluster's rank comes here, too."""
    import torch

    local, ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if not torch.cuda.is_available() or torch.cuda.device_count() < ranks:
        return {"backend": "gloo"}
    torch.cuda.set_device(local)
    return {"backend": "nccl", "device_id": torch.device("cuda", local)}


def _member(target: str = "", kwargs: str = "{}") -> None:
    """One rank of a cluster that torchrun or accelerate started. Raises BadInput, or what the function raises."""
    sandbox._check_target(target)
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ):
        raise BadInput(f"RANK and WORLD_SIZE are not set: start this by torchrun --nproc-per-node 2 -m mllandscape.ranks {target} '{{}}'.")
    given = None
    with contextlib.suppress(ValueError):
        given = json.loads(kwargs)
    if not isinstance(given, dict):
        raise BadInput(f"{told(kwargs)} is not a JSON object: pass the arguments of {target} by name, such as '{{\"steps\": 3}}'.")
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import record

    @record  # torchrun's summary then has the traceback of the rank that failed first
    def run() -> None:
        dist.init_process_group(**_device())
        values: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(values, json.dumps(sandbox._load(target)(**given)))
        if dist.get_rank() == 0:
            print(f"[{', '.join(values)}]", flush=True)
        dist.destroy_process_group()
        _leave()

    run()


if __name__ == "__main__":
    from mllandscape import ranks  # the package's own module, which a target that imports it finds, too

    try:
        ranks._rank(Path(sys.argv[2])) if sys.argv[1:2] == ["rank"] else ranks._member(*sys.argv[1:3])
    except BadInput as error:
        raise SystemExit(f"mllandscape: {error}") from None
