"""The same weights, data and code, and other bits: threads, instruction sets, batch sizes, and what torch's determinism switch covers."""

import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from mllandscape import BadInput, fingerprint, record, sandbox
from mllandscape.serving.checkpoint import tensors
from mllandscape.serving.pipeline import load_golden, normalise, save_golden

HERE = "mllandscape.serving.arithmetic:{}"
REPEATS, TRAININGS = 30, 3


@dataclass(frozen=True)
class Arithmetic:
    """What child processes computed. ``settings`` holds for each setting the fingerprints of sums, logits and trained weights, and the accuracy.

    ``repeats`` counts the distinct results of one call repeated in one process. ``switch`` says what holds with deterministic algorithms on. ``alone`` is the
    largest difference of a logit between a row computed alone and in its batch. ``defaults`` are torch's flags for TF32, ``snippet`` how each of
    the source's three hardware lines ends on a machine without a GPU.
    """

    settings: dict[str, dict[str, str]]
    repeats: dict[str, int]
    switch: dict[str, bool]
    alone: float
    defaults: dict[str, bool]
    snippet: dict[str, str]


def start() -> Future:
    """Run everything in two processes, of which the second uses torch's oldest instruction set, on another core: ``result()`` waits for an Arithmetic."""

    def child(name: str, folder: str, **env: str) -> dict:
        outcome = sandbox.call(HERE.format(name), seconds=180, env=env | {"CUDA_VISIBLE_DEVICES": ""}, golden=folder + "/golden.npz")
        if not outcome.ok:
            raise BadInput(f"the process for {name} ended with {outcome.ending}: {outcome.message}.")
        return outcome.value

    def work() -> Arithmetic:
        with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
            save_golden(Path(folder) / "golden.npz")
            found = child("everything_here", folder)
            oldest = child("bits_here", folder, ATEN_CPU_CAPABILITY="default")
        found["settings"]["1 thread, oldest instruction set"] = oldest
        return record.restore(Arithmetic, found)

    return sandbox.in_background(work)


def _work(golden: str) -> SimpleNamespace:
    """What is computed again and again, as functions: sums, the pipeline's logits in fp32, rows added into a table, a training with such a table."""
    import torch

    state, labels = load_golden(golden)
    inputs = torch.from_numpy(normalise(state.data, state.processing)).float()
    weights = tensors(state.weights)
    random = torch.Generator().manual_seed(0)
    numbers = torch.randn(20, 200_000, generator=random)
    rows, values = torch.randint(64, (40_000,), generator=random), torch.randn(40_000, 16, generator=random)

    def sums() -> str:
        return fingerprint.array(torch.stack([part.sum() for part in numbers]))

    def logits(batch: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(batch @ weights["hidden.weight"].T + weights["hidden.bias"])
        return hidden @ weights["out.weight"].T + weights["out.bias"]

    def scattered() -> str:
        """40,000 rows added into 64: several threads add to one row, in the order in which they come."""
        return fingerprint.array(torch.zeros(64, 16).index_put_((rows,), values, accumulate=True))

    def trained() -> str:
        """5 seeded steps on a table that is looked up by index: the backward pass of ``table[rows]`` is such an index_put_."""
        torch.manual_seed(0)
        table, layer, targets = torch.nn.Parameter(torch.randn(64, 16)), torch.nn.Linear(16, 4), torch.randint(4, (len(rows),))
        optimizer = torch.optim.SGD([table, *layer.parameters()], lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(table[rows]), targets).backward()
            optimizer.step()
        return fingerprint.array(table)

    def bits(threads: int) -> dict[str, str]:
        torch.set_num_threads(threads)
        answers = logits(inputs)
        accuracy = float((answers.argmax(1).numpy() == labels).mean())
        return {"20 sums": sums(), "logits": fingerprint.array(answers), "trained weights": trained(), "accuracy": f"{accuracy:.4f}"}

    def alone() -> float:
        return float((torch.cat([logits(row[None]) for row in inputs]) - logits(inputs)).abs().max())

    return SimpleNamespace(sums=sums, scattered=scattered, trained=trained, bits=bits, alone=alone)


def bits_here(golden: str) -> dict[str, str]:
    """A child's part: the bits on one thread, under the instruction set that its environment asks for."""
    return _work(golden).bits(1)


def everything_here(golden: str) -> dict:
    """A child's part: all but the other instruction set."""
    import torch

    work = _work(golden)
    settings = {name: work.bits(threads) for name, threads in (("1 thread", 1), ("1 thread, once more", 1), ("2 threads", 2))}
    repeats = {}
    for name, threads, deterministic in (("1 thread", 1, False), ("2 threads", 2, False), ("2 threads, switch on", 2, True)):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        repeats[f"index_put_, {name}"] = len({work.scattered() for _ in range(REPEATS)})
        repeats[f"seeded training, {name}"] = len({work.trained() for _ in range(TRAININGS)})
    alone, sums = work.alone(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sums.append(work.sums())
    switch = {
        "one result of index_put_ on 2 threads": repeats["index_put_, 2 threads, switch on"] == 1,
        "one model of a seeded training on 2 threads": repeats["seeded training, 2 threads, switch on"] == 1,
        "operations without a deterministic form refused": _refuses_put(),
        "uninitialised memory filled": bool(torch.empty(1000).isnan().all()),
        "random numbers repeated without a seed": torch.equal(torch.randn(8), torch.randn(8)),
        "the same sums on 1 and 2 threads": sums[0] == sums[1],
        "a row alone as in a batch": alone == 0,
    }
    defaults = {"matrix products": torch.backends.cuda.matmul.allow_tf32, "cuDNN convolutions": torch.backends.cudnn.allow_tf32}
    return {"settings": settings, "repeats": repeats, "switch": switch, "alone": alone, "defaults": defaults, "snippet": _snippet()}


def _refuses_put() -> bool:
    import torch

    try:
        torch.zeros(4).put_(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    except RuntimeError:
        return True
    return False


def _snippet() -> dict[str, str]:
    """The source's three lines: "prints", or the name of the error."""
    import torch

    lines: dict[str, Callable] = {
        "torch.version.cuda": lambda: torch.version.cuda,
        "torch.backends.cudnn.version()": torch.backends.cudnn.version,
        "torch.cuda.get_device_name()": torch.cuda.get_device_name,
    }
    ends = {}
    for name, line in lines.items():
        try:
            line()
            ends[name] = "prints"
        except (AssertionError, RuntimeError) as error:
            ends[name] = type(error).__name__
    return ends
