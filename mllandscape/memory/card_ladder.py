"""One model that does not fit a card, and what is tried on it, for real: a 13B model in 80 GB, or a smaller one on a smaller card."""

from collections.abc import Callable
from dataclasses import replace

from mllandscape import BadInput, sandbox, units
from mllandscape.memory.accuracy import drifted, expected
from mllandscape.memory.cards import capacity
from mllandscape.memory.measure import Card, Measured, Wanted, measure_each, thinned
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.shape import ModelShape

LARGE, SMALL = "A100-80GB", "8GB"

RUNGS = {
    "as it is": {},
    "512 tokens": {"sequence": 512},
    "checkpointing": {"checkpointing": "full"},
    "fused AdamW": {"optimizer_impl": "fused"},
    "pure bf16": {"precision": "bf16"},
    "bf16, fused": {"precision": "bf16", "optimizer_impl": "fused"},
    "bf16, SGD": {"precision": "bf16", "optimizer": "sgd"},
    "bf16, SGD, checkpointing": {"precision": "bf16", "optimizer": "sgd", "checkpointing": "full"},
    "bf16, 8-bit AdamW": {"precision": "bf16", "optimizer": "adamw8bit"},
    "bf16, 8-bit AdamW, checkpointing": {"precision": "bf16", "optimizer": "adamw8bit", "checkpointing": "full"},
    "bf16, 8-bit, checkpointing, in backward": {"precision": "bf16", "optimizer": "adamw8bit", "checkpointing": "full", "in_backward": True},
    "bf16, AdamW, checkpointing, in backward": {"precision": "bf16", "checkpointing": "full", "in_backward": True},
    "bf16, Adafactor, checkpointing, in backward": {"precision": "bf16", "optimizer": "adafactor", "checkpointing": "full", "in_backward": True},
    "bf16, LoRA of rank 16, checkpointing": {"precision": "bf16", "trainable": "lora", "checkpointing": "full"},
    "autocast, LoRA of rank 16, checkpointing": {"trainable": "lora", "checkpointing": "full"},
}
"""Changes, alone and stacked, to autocast with torch's default AdamW and one sequence of 2,048 tokens."""

REMEMBERED = "bf16, SGD, checkpointing"
"""The rung whose memory history is kept: it needs torch alone, and fits."""

SEARCH = {"parameters": 1.25e8, "batch": 64, "sequence": 1024}
"""The batch from which accelerate's ``find_executable_batch_size`` comes down, and the model."""


def plan(card: Card, like: str) -> dict | None:
    """What to run on this card as if it had no more bytes than the card it is to be ``like``; None where the smaller one would be this card itself.

    ``limit`` is the device-level budget, and the allocator may reserve ``budget``, what the CUDA context leaves of it. Where the limit is below an 80 GB
    card's, the model shrinks with it. ``skipped`` are the rungs whose package is missing.
    """
    there = card.free + card.outside
    limit = min(capacity(like), there)
    if like == SMALL and limit > 0.8 * min(capacity(LARGE), there):
        return None
    share = limit / capacity(LARGE)
    large = ModelShape.preset("llama-2-13b")
    shape = large if share > 0.97 else ModelShape.of_size(share * large.parameters)
    skipped = {name: "needs bitsandbytes" for name, changes in RUNGS.items() if changes.get("optimizer") == "adamw8bit" and "bitsandbytes" not in card.packages}
    budget = limit - card.outside
    search = SEARCH | {"budget": min(budget // 2, 8 * units.GIB)}
    if "accelerate" not in card.packages:
        search, skipped["find_executable_batch_size"] = None, "needs accelerate"
    rungs = [{"rung": name, "plan": changes} for name, changes in RUNGS.items() if name not in skipped]
    return {"like": like, "limit": limit, "budget": budget, "shape": shape.to_json(), "rungs": rungs, "search": search, "skipped": skipped}


def run(planned: dict, say: Callable[[str], None], seconds: float) -> dict:
    """Run what ``plan`` says, which is in the answer too. A rung has what was measured, and ``expected``, what was then predicted of it (bytes)."""
    shape = ModelShape(**planned["shape"])
    wanted = [Wanted(shape, TrainingPlan().but(**rung["plan"]), planned["budget"], rung["rung"] == REMEMBERED) for rung in planned["rungs"]]
    measured = measure_each(wanted, seconds=seconds, progress=say)
    rungs = []
    for rung, one in zip(planned["rungs"], measured, strict=True):
        short = replace(one, history=tuple(thinned(one.history, 120, lambda instant: instant.requested)))
        rungs.append({"rung": rung["rung"], "measured": short.to_json(), "expected": expected(one)})
    tried = []
    if planned["search"]:
        outcome = sandbox.call("mllandscape.memory.card_ladder:search_here", seconds=seconds, progress=say, search=planned["search"])
        if not outcome.ok:
            raise BadInput(f"the search for a batch size ended with {outcome.ending}: {outcome.message.partition(chr(10))[0]}")
        tried = outcome.value
    return planned | {"rungs": rungs, "batch_sizes": tried}


def search_here(search: dict) -> list[int]:
    """The child's part: every batch size that accelerate tries under the budget, on the GPU."""
    import torch

    from mllandscape.memory import cuda_step

    gpu, shape = cuda_step.Gpu(), ModelShape.of_size(search["parameters"])

    def attempt(batch: int) -> None:
        measured = cuda_step.run(gpu, Wanted(shape, TrainingPlan(batch=batch, sequence=search["sequence"]), search["budget"]))
        sandbox.say(f"accelerate tries batch {batch}: {measured.ending}")
        if measured.ending == "out of memory":
            raise torch.OutOfMemoryError(measured.message)
        if not measured.ok:
            raise BadInput(measured.message)

    return search_batch_size(search["batch"], attempt)


def search_batch_size(start: int, attempt: Callable[[int], object]) -> list[int]:
    """The batch sizes that accelerate's ``find_executable_batch_size`` tries: a tenth less after each out-of-memory, until one runs."""
    from accelerate.utils import find_executable_batch_size

    tried = []

    @find_executable_batch_size(starting_batch_size=start)
    def step(batch_size: int) -> None:
        tried.append(batch_size)
        attempt(batch_size)

    step()
    return tried


def check(data: dict) -> list[str]:
    """What of a recorded ladder does not hold today: a prediction that has moved away, a verdict against it, a failure that says nothing."""
    told = []
    for rung in data["rungs"]:
        measured, name = Measured.from_json(rung["measured"]), rung["rung"]
        need, words = expected(measured), f"{units.gib(expected(measured))} are predicted and {units.gib(data['budget'])} allowed"
        if measured.ok:
            told += filter(None, [drifted(name, measured, rung["expected"])])
            told += [f"{name}: ran, although {words}"] if need > 1.03 * data["budget"] else []
        elif measured.ending == "out of memory":
            told += [f"{name}: ran out of memory, although {words}"] if need < 0.75 * data["budget"] else []
            told += [f"{name}: its message says no size"] if not measured.parts else []
        else:
            told.append(f"{name}: {measured.ending}, {measured.message}")
        told += [] if measured.restored else [f"{name}: left {units.size(measured.left)} behind"]
    tried = data["batch_sizes"]
    if tried and (tried[0] != data["search"]["batch"] or tried != sorted(tried, reverse=True)):
        told.append(f"accelerate tried the batch sizes {tried}")
    return told
