"""``mllandscape record``: every experiment that needs a GPU, run in named parts and kept in ``recordings/``.

Needs torch alone. A part whose recording is whole and was made by the same plan is not run again, so an interrupted run goes on where it was stopped.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllandscape import BadInput, record, units
from mllandscape.lessons import cuda_mismatch, ddp_vs_fsdp, out_of_memory, torch_compile
from mllandscape.memory import accuracy, card_ladder
from mllandscape.memory.measure import Card, Measured, Wanted, card, measure_each

PATIENCE = 8
"""A part may take so many times its seconds, and ``LEAST`` in any case, before it is stopped: other GPUs are slower than the one they were planned for."""

LEAST = 300.0


@dataclass(frozen=True)
class Part:
    """Some experiments that are recorded together.

    ``seconds`` is what they are planned to take on an H200. ``plan(card)`` says as JSON what is run on a card, None if that is nothing;
    ``run(plan, say, limit)`` runs it and returns JSON, ``limit`` being the seconds for each child process; ``check(data)`` lists what of a recording does
    not hold today.
    """

    name: str
    recording: str
    what: str
    seconds: int
    plan: Callable[[Card], dict | None]
    run: Callable[[dict, Callable[[str], None], float], dict]
    check: Callable[[dict], list[str]]

    @property
    def command(self) -> str:
        return f"mllandscape record --only {self.name}"


def plan_grid(there: Card, size: str) -> dict | None:
    cells = accuracy.cells(size, there.free, there.packages)
    return {"cells": {name: record.plain(one) for name, one in cells.items()}} if cells else None


def run_grid(plan: dict, say: Callable[[str], None], limit: float) -> dict:
    wanted = {name: record.restore(Wanted, one) for name, one in plan["cells"].items()}
    measured = measure_each(list(wanted.values()), seconds=limit, progress=say)
    return {"cells": [{"cell": name, "measured": one.to_json(), "expected": accuracy.expected(one)} for name, one in zip(wanted, measured, strict=True)]}


def grid_of(data: dict) -> dict[str, Measured]:
    """The measured steps of a recorded grid by the name of their cell."""
    return {cell["cell"]: Measured.from_json(cell["measured"]) for cell in data["cells"]}


def check_grid(data: dict) -> list[str]:
    """Cells that did not run or left something behind, and those whose prediction has moved away from what was measured."""
    told = []
    for cell in data["cells"]:
        measured, name = Measured.from_json(cell["measured"]), cell["cell"]
        told += [] if measured.ok else [f"{name}: {measured.ending}, {measured.message.partition(chr(10))[0]}"]
        told += [] if measured.restored else [f"{name}: left {units.size(measured.left)} behind"]
        told += filter(None, [accuracy.drifted(name, measured, cell["expected"])] if measured.ok else [])
    return told


def recorded_grid(folder: Path = record.FOLDER) -> accuracy.Accuracy | None:
    """The judgement of everything of the grid that is recorded; None where nothing is."""
    kept = [record.load(part.recording, folder) for part in PARTS if part.name.startswith("03.grid")]
    measured = {name: one for recording in kept if recording for name, one in grid_of(recording.data).items()}
    return accuracy.judge(measured) if measured else None


def check_kernels(data: dict) -> list[str]:
    said = {row["file"]: "runs" if row["ran"] else row["error"] for row in data["loads"]}
    return [] if any(word == "runs" for word in said.values()) else [f"no kernel ran: {said}"]


def _grid(size: str, seconds: int) -> Part:
    what = f"predictions against the allocator: {' and '.join(shape.name for shape in accuracy.SHAPES[size])}, every kind of plan"
    return Part(f"03.grid-{size}", f"memory_grid_{size}", what, seconds, partial(plan_grid, size=size), run_grid, check_grid)


PARTS = (
    Part(
        "03.ladder", out_of_memory.RECORDING, "Llama-2-13B in an 80 GB card's bytes, every rung (a smaller model on a smaller card)", 80,
        partial(card_ladder.plan, like=card_ladder.LARGE), card_ladder.run, card_ladder.check,
    ),
    Part(
        "03.ladder-8gb", f"{out_of_memory.RECORDING}_8gb", "the same ladder in an 8 GB card's bytes", 50,
        partial(card_ladder.plan, like=card_ladder.SMALL), card_ladder.run, card_ladder.check,
    ),
    Part(
        "04.ranks", ddp_vs_fsdp.GPU_RECORDING, "one rank of DDP, ZeRO-2, FSDP and HSDP on one GPU", 90,
        ddp_vs_fsdp.plan_gpu, ddp_vs_fsdp.run_gpu, ddp_vs_fsdp.check_gpu,
    ),
    Part(
        "08.kernels", cuda_mismatch.ON_GPU, "cubins and PTX of every kind, loaded and run by the driver", 10,
        lambda there: {"capability": there.capability}, lambda plan, say, limit: cuda_mismatch.load_kernels(), check_kernels,
    ),
    _grid("125m", 45),
    _grid("350m", 50),
    _grid("1b", 60),
    _grid("7b", 80),
    _grid("13b", 60),
    Part(
        "02.modes", torch_compile.GPU_RECORDING, "eager, compiled and CUDA graphs, with an empty and a filled cache", 120,
        partial(torch_compile.plan_gpu, torch_compile.ON_GPU), torch_compile.run_gpu, torch_compile.check_gpu,
    ),
    Part(
        "02.autotune", torch_compile.TUNED_RECORDING, "max-autotune", 150,
        partial(torch_compile.plan_gpu, torch_compile.AUTOTUNED), torch_compile.run_gpu, torch_compile.check_gpu,
    ),
)  # fmt: skip
"""In the order in which they are run: what most depends on it first."""


def chosen(only: Sequence[str]) -> list[Part]:
    """The part of that name, else those whose name begins with it; all for none. Raises BadInput for a name that fits no part."""
    wanted: set[str] = set()
    for name in only:
        found = {part.name for part in PARTS if part.name == name} or {part.name for part in PARTS if part.name.startswith(name)}
        if not found:
            raise BadInput(f"--only {name}: there is no such part; possible: {', '.join(part.name for part in PARTS)}, or how some of them begin.")
        wanted |= found
    return [part for part in PARTS if not only or part.name in wanted]


def listed(parts: Sequence[Part], folder: Path) -> list[str]:
    """A line a part: name, planned seconds, what it is, and whether it is recorded."""
    lines = [f"{part.name:14} {part.seconds:4} s  {part.what}; {_status(part, folder)}" for part in parts]
    return [*lines, f"{'all':14} {sum(part.seconds for part in parts):4} s  planned on an H200"]


def _status(part: Part, folder: Path) -> str:
    try:
        kept = record.load(part.recording, folder)
    except BadInput as damaged:
        return str(damaged)
    return str(kept) if kept else "not recorded"


def version(plan: dict) -> str:
    """A plan's fingerprint: another model, card size, package or rung makes another."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode("ascii")).hexdigest()[:12]


def run(parts: Sequence[Part], folder: Path, again: bool = False, say: Callable[[str], None] = print) -> list[str]:
    """Run the parts in turn and keep each as soon as it is done; returns what failed, a line each.

    One that fails is told and the next is run. A KeyboardInterrupt leaves what was finished. Raises BadInput without a GPU.
    """
    there = card()
    say(f"{there.name}, {units.gib(there.capacity)}, {units.gib(there.free)} free, torch {there.torch}; recordings go to {folder}")
    say(f"{len(parts)} parts, planned for {units.seconds(sum(part.seconds for part in parts))} on an H200")
    failed, begun = [], time.monotonic()
    for number, part in enumerate(parts, 1):
        head = f"{part.name} ({number} of {len(parts)})"
        plan = part.plan(there)
        if plan is None:
            say(f"{head}: nothing of it is for this card, or numpy is missing")
            continue
        if not again and (kept := _kept(part, version(plan), folder, say)):
            say(f"{head}: kept, {kept}")
            continue
        say(f"{head}: {part.what}, about {part.seconds} s")
        for name, why in plan.get("skipped", {}).items():
            say(f"  skipped: {name} ({why})")
        try:
            _run_part(part, plan, there, folder, say)
        except (BadInput, OSError) as error:
            failed.append(f"{part.name}: {error}")
            say(f"{head} failed: {error}")
        say(f"  {units.seconds(time.monotonic() - begun)} so far")
    if any(part.name.startswith("03.grid") for part in parts) and (judged := recorded_grid(folder)):
        say(f"the grid: {judged}")
    return failed


def _kept(part: Part, wanted: str, folder: Path, say: Callable[[str], None]) -> record.Recording | None:
    """The part's recording if it is whole and of this plan."""
    try:
        kept = record.load(part.recording, folder)
    except BadInput as damaged:
        say(f"  {damaged}; it is made again")
        return None
    return kept if kept and isinstance(kept.data, dict) and kept.data.get("version") == wanted else None


def _run_part(part: Part, plan: dict, there: Card, folder: Path, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    data: dict[str, Any] = part.run(plan, lambda line: say(f"  {time.monotonic() - begun:4.0f} s  {line}"), max(LEAST, PATIENCE * part.seconds))
    path = record.save(part.recording, data | {"version": version(plan)}, there.provenance(part.command), folder)
    say(f"  {path.name}, {units.size(path.stat().st_size)}, in {units.seconds(time.monotonic() - begun)}")
    for problem in part.check(data):
        say(f"  look at this: {problem}")
