"""Lesson 9: 92 % then, 88 % now: what a run must record to come back, its experiments, its panel and its exercises.

Training, MLflow and untrusted files are for child processes. They meet at a ``Desk``, a temporary folder; what returns is plain data.
"""

import contextlib
import io
import itertools
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllandscape import BadInput, charts, fingerprint, record, sandbox
from mllandscape.course import exercise
from mllandscape.panel import Panel
from mllandscape.repository import Repository
from mllandscape.versioning import checkpoint, keeps, snippet, tracking
from mllandscape.versioning.desk import EXTRA_DRAW, Desk, Trainer, accuracy_of, digits, load_train, pack, unpack
from mllandscape.versioning.run import Explanation, Run, explain, packages
from mllandscape.versioning.snippet import Payload, attempt
from mllandscape.versioning.store import Store

HERE = "mllandscape.lessons.model_versioning"
EXPERIMENT = "afternoon"

SEARCH = [
    {"learning_rate": rate, "epochs": epochs, "hidden": hidden}
    for rate, epochs, hidden in itertools.product((0.001, 0.002, 0.005, 0.01, 0.02), (12, 6), (64, 24))
]
"""The hyperparameters of an afternoon: 20 runs, in this order, with the seeds 200 to 219. Each writes model.pt over the one before."""

DRAWN = 20_261_124
"""Stands for the seed that the operating system draws where none is set: it is another one each time, and a stored notebook must not be."""

SEEDS = tuple(range(300, 310))
"""Ten other seeds, for what a seed alone does to the accuracy."""

WAYS: dict[str, dict[str, Any]] = {
    "nothing changed": {},
    "checkpoint overwritten": {},
    "new data": {"data": "today"},
    "preprocessing edited": {"code": "today"},
    "seed not set": {"seed": DRAWN},
    "two threads": {"threads": 2},
    "all of these": {"code": "today", "data": "today", "seed": DRAWN, "threads": 2},
}
"""What three months do to a run: by name, which of its inputs are today's."""

GRID = {"code": ("then", "committed", "today"), "data": ("then", "today"), "seed": ("then", DRAWN), "threads": (1, 2)}
"""Every way to mix what was then with what is today; ``committed`` is the code without its uncommitted edit. Each mix is a real run."""


# -- the desk, and everything that is done at it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Day:
    """What came of a day's work: the usual snippet, 20 runs, what was lost of the best one, and what a seed does not give. Plain data.

    ``runs`` are the 20 as MLflow and the store both have them, ``records`` the digests of their records; ``grid`` has a run for every mix of GRID;
    ``file`` is model.pt as it lies there in the evening. ``seeds`` are accuracies at SEEDS, by mix of code and data.
    """

    script: dict[str, Any]
    lines: list[dict[str, Any]]
    probes: dict[str, Any]
    kept: dict[str, dict[str, str]]
    runs: list[Run]
    records: list[str]
    grid: dict[str, Run]
    file: Run
    seeds: dict[str, list[float]]
    seeding: dict[str, dict[str, Any]]
    damages: list[dict[str, str]]

    @property
    def best(self) -> int:
        """Which of the 20 has the highest accuracy: the 92 %."""
        return max(range(len(self.runs)), key=lambda place: self.runs[place].accuracy)

    @property
    def then(self) -> Run:
        return self.runs[self.best]

    def now(self, way: str) -> Run:
        """The run of today after one of WAYS; for the overwritten checkpoint the file that lies there."""
        return self.file if way == "checkpoint overwritten" else self.grid[mix(**WAYS[way])]

    def explain(self, way: str, recorded: Run | None = None) -> Explanation:
        """What the record of the best run (or a poorer one) and today's say about each other."""
        return explain(recorded or self.then, self.now(way), loaded=way == "checkpoint overwritten")


def mix(code: str = "then", data: str = "then", seed: str | int = "then", threads: int = 1) -> str:
    """The key of a mix in ``Day.grid``."""
    return f"{code} {data} {seed} {threads}"


KEEPER = """
import os, shutil, sys, time
sys.stdin.read()
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.2)
"""
"""Waits until its standard input ends, which it does when the process that opened the desk is gone, however it went, and removes the desk."""

_keepers: list[subprocess.Popen] = []


def open_desk() -> Desk:
    """A desk in a temporary folder, which lasts as long as this process, even one that is killed."""
    folder = tempfile.mkdtemp(prefix="mllandscape-desk-")
    keeper = [sys.executable, "-S", "-c", KEEPER, folder]
    _keepers.append(subprocess.Popen(keeper, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))
    return Desk(Path(folder)).furnish()


def start_day(desk: Desk) -> Future:
    """A day at the desk, in child processes on another core: ``result()`` waits for the ``Day``."""
    return sandbox.in_background(lambda: work(desk))


def places(folder: str) -> dict[str, str]:
    """The environment in which a child and its libraries write to this folder alone."""
    return dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "TORCHINDUCTOR_CACHE_DIR"), folder)


def in_a_child(function: str, env: Mapping[str, str] | None = None, **kwargs: Any) -> sandbox.Outcome:
    """A function of this module in a fresh process, with a temporary folder for all that it leaves."""
    with tempfile.TemporaryDirectory(prefix="mllandscape-", ignore_cleanup_errors=True) as folder:
        return sandbox.call(f"{HERE}:{function}", env=places(folder) | dict(env or {}), seconds=120, **kwargs)


def work(desk: Desk) -> Day:
    """The usual snippet as a script of its own, then the rest of the day in one process, with torch and MLflow."""
    folder = str(desk.folder)
    home = places(folder) | tracking.QUIET
    home |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # two threads that wait sleep, and do not spin
    (desk.folder / "as_written.py").write_text("\n".join(snippet.SNIPPET) + "\n", encoding="utf-8")
    written = sandbox.command([sys.executable, str(desk.folder / "as_written.py")], cwd=desk.repository.folder, env=home, seconds=300)
    told = sandbox.call(f"{HERE}:day_here", env=home, seconds=300, folder=folder)
    if not told.ok:
        raise BadInput(f"the day at the desk ended with {told.ending}: {told.message.partition(chr(10))[0] or told.error_type}.")
    script = {"exit code": written.exit_code, "error": written.stderr.strip().rpartition("\n")[2]}
    return record.restore(Day, told.value | {"script": script | told.value["script"]})


def day_here(folder: str) -> dict[str, Any]:
    """The child's part: JSON of a Day."""
    import warnings

    warnings.simplefilter("ignore")
    desk = Desk(Path(folder))
    os.chdir(desk.repository.folder)
    sets = digits()
    data = {name: desk.store.put(pack(arrays)) for name, arrays in sets.items()}
    trainer = Trainer(desk)
    script, lines, probes, kept = snippet.run_here(desk, trainer, sets["then"], data["then"])
    then = trainer.code("then")
    runs, file = afternoon_here(trainer, then, sets["then"], data["then"])
    records = [run.save(desk.store) for run in runs]
    tracking.use(desk.database, EXPERIMENT)
    for run, digest in zip(runs, records, strict=True):
        tracking.log(run, digest)
    best = max(runs, key=lambda run: run.accuracy)
    codes = {"then": then} | {name: trainer.code(name) for name in ("committed", "today")}
    grid = {}
    for code, which, seed, threads in itertools.product(*GRID.values()):
        number = best.seed if seed == "then" else seed
        name = mix(code, which, seed, threads)
        grid[name] = trainer.run(name, codes[code], sets[which], data[which], number, best.params, threads)
    seeds = {
        f"{code} {which}": [codes[code][0](sets[which], seed, **best.params)[1] for seed in SEEDS]
        for code, which in itertools.product(("then", "today"), repeat=2)
    }
    seeding = seeding_here(trainer, sets["then"], data["then"], best)
    damages = damages_here(desk, records, best)
    return record.plain(
        {
            "script": script, "lines": lines, "probes": probes, "kept": kept, "runs": tracking.read(desk.database, EXPERIMENT, records, desk.store),
            "records": records, "grid": grid, "file": file, "seeds": seeds, "seeding": seeding, "damages": damages,
        }
    )  # fmt: skip


def afternoon_here(trainer: Trainer, code: tuple, arrays: dict, data: str) -> tuple[list[Run], Run]:
    """The 20 runs, and model.pt as it lies there when all are done: loaded, and tried on the same test images."""
    path = trainer.desk.repository.folder / "model.pt"
    runs = []
    for place, params in enumerate(SEARCH):
        runs.append(trainer.run(f"run-{place + 1:02}", code, arrays, data, 200 + place, params))
        path.write_bytes(trainer.desk.store.get(runs[-1].model))
    best = max(runs, key=lambda run: run.accuracy)
    state = checkpoint.load(path.read_bytes(), path.name)
    content = trainer.desk.store.put(path.read_bytes())
    lies_there = {"name": path.name, "model": content, "weights": fingerprint.weights(state), "accuracy": accuracy_of(code[0], state, arrays)}
    return runs, Run(**(vars(best) | lies_there))


# -- what a seed does not give, and what damage does ----------------------------------------------------------------------


def seeding_here(trainer: Trainer, arrays: dict, data: str, best: Run) -> dict[str, dict[str, Any]]:
    """In the child: the best run again under the same seed, with one thing changed that nobody thinks of; then three things that a seed does not reach."""
    import random

    import numpy as np
    import torch

    backwards = arrays | {"x": arrays["x"][::-1].copy(), "y": arrays["y"][::-1].copy()}
    then, drawing = trainer.code("then"), trainer.code("then", EXTRA_DRAW)
    again = {
        "the same again": (then, arrays, 1),
        "on two threads": (then, arrays, 2),
        "one more random number first": (drawing, arrays, 1),
        "the same rows in another order": (then, backwards, 1),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, (code, rows, threads) in again.items():
        run = trainer.run(name, code, rows, data, best.seed, best.params, threads)
        found[name] = {"same": run.weights == best.weights, "accuracy": run.accuracy}
    torch.seed()  # as in a new process: the operating system draws
    unset = fingerprint.weights(then[0](arrays, None, 1, **best.params)[0].state_dict())
    drawn = torch.initial_seed()
    put_back = fingerprint.weights(then[0](arrays, drawn, 1, **best.params)[0].state_dict())
    found["no seed set"] = {"same": unset == best.weights, "same with torch.initial_seed()": put_back == unset}
    numbers = {"torch": [], "numpy": [], "random": []}
    for _ in range(2):
        torch.manual_seed(0)
        for name, draw in (("torch", torch.rand(1).item), ("numpy", np.random.default_rng().random), ("random", random.random)):
            numbers[name].append(draw())
    found["after torch.manual_seed(0)"] = {name: len(set(drawn)) == 1 for name, drawn in numbers.items()}
    orders = [list_of_a_set(seed) for seed in ("1", "2", "1")]
    found["order of a set of text"] = {"same": orders[0] == orders[1], "same under one PYTHONHASHSEED": orders[0] == orders[2]}
    found["sums into rows, 12 times"] = {f"{threads} threads": different_sums(threads) for threads in (1, 2)} | {"2, deterministic": different_sums(2, True)}
    return found


def list_of_a_set(hash_seed: str) -> str:
    """The order in which a new Python process lists a set of ten words."""
    words = [sys.executable, "-S", "-c", "print(list(set('zero one two three four five six seven eight nine'.split())))"]
    return subprocess.run(words, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True).stdout


def different_sums(threads: int, deterministic: bool = False, times: int = 12) -> int:
    """How many different gradients the same indexing gives in this many calls: what an embedding does in its backward pass."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows, places = torch.randn(64, 16, generator=generator), torch.randint(64, (20_000,), generator=generator)
    gradient = torch.randn(20_000, 16, generator=generator)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    found = set()
    for _ in range(times):
        weights = rows.clone().requires_grad_()
        weights[places].backward(gradient)
        found.add(fingerprint.array(weights.grad))
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)
    return len(found)


def flipped(content: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages_here(desk: Desk, records: Sequence[str], best: Run) -> list[dict[str, str]]:
    """In the child: what each damage does where files are read as usual, and how it is refused. An empty text: read without a word."""
    import struct

    import torch

    whole = desk.store.get(best.model)
    other = checkpoint.dump({name: tensor * 2 for name, tensor in checkpoint.load(whole, "model.pt").items()})
    ran = desk.folder / "code-ran"
    buffer = io.BytesIO()
    torch.save({"0.weight": torch.zeros(2), "note": Payload(str(ran))}, buffer)
    files = {
        "checkpoint cut short": whole[: len(whole) // 2],
        "one bit of a weight flipped": flipped(whole, 8 * (whole.index(b"data/0") + 4096)),
        "another model under its name": other,
        "a pickle that runs code": buffer.getvalue(),
    }
    told = []
    for what, content in files.items():
        usual = attempt(lambda content=content: torch.load(io.BytesIO(content), weights_only=False))
        told.append({"damage": what, "as usual": usual, "refused": attempt(lambda content=content: checkpoint.load(content, "model.pt", best.weights))})
        if ran.exists():
            told[-1]["as usual"] = "its code runs"
            ran.rmdir()
    broken = desk.folder / "broken" / "objects" / best.model[:2] / best.model[2:]
    broken.parent.mkdir(parents=True)
    broken.write_bytes(files["one bit of a weight flipped"])
    usual = attempt(lambda: torch.load(broken, weights_only=True))
    told.append({"damage": "one bit of an object in the store", "as usual": usual, "refused": attempt(lambda: Store(desk.folder / "broken").get(best.model))})
    database = desk.database.read_bytes()
    packed = struct.pack(">d", best.accuracy)
    for what, content in {
        "database cut short": database[: len(database) // 2],
        "one bit of a stored accuracy": database.replace(packed, flipped(packed, 8 * 1 + 3)),
    }.items():
        path = desk.folder / what.replace(" ", "-") / "mlflow.db"
        path.parent.mkdir()
        path.write_bytes(content)
        usual = attempt(lambda path=path: listed(path))
        told.append({"damage": what, "as usual": usual, "refused": attempt(lambda path=path: tracking.read(path, EXPERIMENT, list(records), desk.store))})
    tracking.use(desk.database, EXPERIMENT)
    return [row | {"refused": row["refused"].partition(": ")[2]} for row in told]


def listed(database: Path) -> int:
    """How many runs MLflow lists from this file."""
    import mlflow

    return len(mlflow.search_runs([tracking.use(database, EXPERIMENT)], output_format="list"))


# -- the run comes back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comeback:
    """What a fresh process made of a record: the run, or in one line why there is none; ``differences`` are packages that have another version now."""

    weights: str | None = None
    accuracy: float | None = None
    cpu: str = ""
    differences: tuple[str, ...] = ()
    refusal: str = ""


def reproduce(store: Store, digest: str, env: Mapping[str, str] | None = None) -> Comeback:
    """Train again, in a fresh process, from a store and the digest of a record alone: code, edits, data, seed and threads are the recorded ones."""
    told = in_a_child("reproduce_here", env, folder=str(store.folder.resolve()), digest=digest)
    if told.ok:
        return record.restore(Comeback, told.value)
    if told.error_type == "BadInput":
        return Comeback(refusal=told.message)
    raise BadInput(f"the fresh process ended with {told.ending}: {told.message.partition(chr(10))[0] or told.error_type}.")


def reproduce_here(folder: str, digest: str) -> dict[str, Any]:
    """The child's part. What is missing is found before torch is imported."""
    store = Store(folder)
    run = Run.load(store, digest)
    if missing := [name for name in ("params", "seed", "threads", "data", "commit", "edits", "history", "environment") if getattr(run, name) is None]:
        raise BadInput(f"the record of {run.name} cannot bring it back: {', '.join(missing)} not recorded.")
    try:
        arrays = unpack(store.get(run.data))
    except BadInput as error:
        raise BadInput(f"{run.name} cannot come back, its data are gone: {error}") from None
    now = set(packages().split())
    differences = tuple(line for line in store.get(run.environment).decode().split() if line not in now)
    import torch

    with tempfile.TemporaryDirectory(prefix="mllandscape-") as temporary:
        tree = Repository.restore(Path(temporary) / "work", store.get(run.history), run.commit, store.get(run.edits))
        model, accuracy = load_train(tree.folder)(arrays, run.seed, run.threads, **run.params)
    weights = fingerprint.weights(model.state_dict())
    return record.plain(Comeback(weights, accuracy, torch.backends.cpu.get_cpu_capability(), differences))


def without(store: Store, digest: str, folder: Path) -> Store:
    """A copy of a store that has lost one object."""
    shutil.copytree(store.folder, folder, ignore=lambda _, names: [name for name in names if name == digest[2:]])
    return Store(folder)


# -- tables of a day --------------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """An accuracy as it is written everywhere in this lesson: ``92.2 %``."""
    return f"{100 * share:.1f} %"


def snippet_table(day: Day) -> charts.Table:
    """Each line of the usual snippet with what came of it."""
    return charts.Table("The usual snippet, line by line", ("line", "what came of it"), [(row["line"], row["said"] or "ok") for row in day.lines])


def today_table(day: Day) -> charts.Table:
    """What MLflow says today where the snippet says nothing."""
    asked = {
        "no tracking URI is set: runs go to": "default",
        "the store of old, file:mlruns": "file store",
        "start_run after a run that was never ended": "a second start_run",
        "the same parameter with another value": "a parameter again",
        "a rate read back from a run, to Adam": "a rate as text",
        "log_model, input_example a NumPy array": "log_model with a NumPy example",
        "log_model, input_example a tensor": "log_model with a torch example",
        "load_model of a pickle, pickles disallowed": "pickle disallowed",
    }
    return charts.Table("What MLflow says today", ("asked", "answer"), [(what, day.probes[key] or "ok") for what, key in asked.items()])


def runs_table(day: Day, best: int = 6) -> charts.Table:
    """The best runs and the last one, by accuracy."""
    order = sorted(range(len(day.runs)), key=lambda place: -day.runs[place].accuracy)
    shown = [day.runs[place] for place in order[:best]] + [day.runs[-1]]
    heads = ("run", "learning rate", "epochs", "hidden", "seed", "accuracy")
    rows = [(run.name, *(f"{run.params[name]:g}" for name in ("learning_rate", "epochs", "hidden")), str(run.seed), percent(run.accuracy)) for run in shown]
    return charts.Table(f"The best {best} of {len(day.runs)} runs, and the last", heads, rows)


def runs_figure(day: Day) -> charts.Described:
    """All runs side by side; the best and the last are told apart."""
    names = {"learning rate": "learning_rate", "epochs": "epochs", "hidden units": "hidden"}
    axes = [charts.Axis(label, log=label == "learning rate") for label in names] + [charts.Axis("accuracy, %", "{:.1f}")]
    lines = [[run.params[name] for name in names.values()] + [100 * run.accuracy] for run in day.runs]
    named = {f"{day.then.name}, the best": day.best, f"{day.runs[-1].name}, the last": len(day.runs) - 1}
    return charts.parallel_coordinates(lines, axes, named, "The runs of one afternoon")


def ways_table(day: Day) -> charts.Table:
    """Each way to lose the best run: accuracy, bits, and what the full record says."""
    rows = [(way, percent(day.now(way).accuracy), "same" if day.explain(way).same else "other", str(day.explain(way))) for way in WAYS]
    return charts.Table(f"{day.then.name}, {percent(day.then.accuracy)} then", ("since then", "now", "bits", "the record says"), rows)


def seeds_table(day: Day) -> charts.Table:
    """Mean and standard deviation over SEEDS, by what is today's, and how far each mean is from then's in standard errors."""
    names = {"then then": "nothing", "then today": "the data", "today then": "the preprocessing", "today today": "both"}
    rows = []
    for key, name in names.items():
        found, (points, errors) = day.seeds[key], difference(day.seeds["then then"], day.seeds[key])
        ends = f"{percent(min(found))} to {percent(max(found))}"
        rows.append((name, percent(statistics.mean(found)), f"{100 * statistics.stdev(found):.1f}", ends, f"{points:+.1f}", f"{abs(errors):.1f}"))
    heads = ("today's is", "mean", "sd, points", "range", "change, points", "in standard errors")
    return charts.Table(f"The best run's settings at {len(SEEDS)} other seeds", heads, rows)


def difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """How far the mean of ``after`` is above that of ``before``, in points and in standard errors (Welch's t)."""
    change = statistics.mean(after) - statistics.mean(before)
    error = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(after) / len(after))
    return 100 * change, change / error if error else 0.0


def seeding_table(day: Day) -> charts.Table:
    """The best run again under its own seed, with one thing changed."""
    rows = [(name, "same" if row["same"] else "other", percent(row["accuracy"])) for name, row in day.seeding.items() if "accuracy" in row]
    return charts.Table(f"{day.then.name} again, seed {day.then.seed}", ("run again", "bits", "accuracy"), rows)


def damages_table(day: Day) -> charts.Table:
    """Each damage: what happens where the file is read as usual, and how it is refused."""
    rows = [(row["damage"], row["as usual"] or "read without a word", row["refused"]) for row in day.damages]
    return charts.Table("Damaged, and read", ("damage", "torch, SQLite and MLflow as usual", "refused"), rows)


def keeps_table(day: Day, tools: Mapping[str, keeps.Kept]) -> charts.Table:
    """What each tool keeps of one run that it was told the hyperparameters, the metric, the data and the model of."""
    columns = {"MLflow": day.kept["MLflow"]} | {name: kept.facts for name, kept in tools.items()} | {"a record in a store": day.kept["a record in a store"]}
    rows = [(fact, *(column[fact] for column in columns.values())) for fact in day.kept["MLflow"]]
    return charts.Table("What can be found again in a tool's files", ("of one run", *columns), rows)


# -- the panel: what was recorded, what changed -----------------------------------------------------------------------------

RECORDABLE = {
    "data_digest": ("Digest of data", "the SHA-256 of the data: it tells whether they changed, and finds nothing"),
    "data_copy": ("Copy of data", "the data themselves, in the store"),
    "commit": ("Commit", "git's commit: the code without what was not committed"),
    "edits": ("Uncommitted edits", "the difference between the commit and the files that ran"),
    "seed": ("Seed", "as torch.initial_seed() tells it, set or not"),
    "threads": ("Threads", "how many threads torch computed with"),
    "weights": ("Fingerprint", "the fingerprint of the trained weights: it proves that a run came back"),
    "model_copy": ("Copy of model", "the checkpoint itself, in the store"),
}
"""What can be recorded of a run: a check box's label, and what it is for. Hyperparameters, packages and processor always are."""

SOURCE = ("data_digest", "commit")
"""What the usual snippet records of them."""


def poorer(then: Run, kept: Sequence[str]) -> Run:
    """The record of a run of which only this was recorded."""
    proofs = {"data": ("data_digest", "data_copy"), "weights": ("weights", "model_copy")} | {name: (name,) for name in ("commit", "edits", "seed", "threads")}
    return then.without(*(field for field, any_of in proofs.items() if not set(any_of) & set(kept)))


def comes_back(day: Day, way: str, kept: Sequence[str]) -> Run:
    """The run that one gets who trains again: what was recorded is put back, what was not is as it lies there today. Looked up among the day's real runs."""
    today = WAYS[way]
    code = ("then" if "edits" in kept else "committed") if "commit" in kept else today.get("code", "then")
    data, seed, threads = (
        then if proof in kept else today.get(cause, then)
        for cause, proof, then in (("data", "data_copy", "then"), ("seed", "seed", "then"), ("threads", "threads", 1))
    )
    return day.grid[mix(code, data, seed, threads)]


def loss(day: Day, way: str, kept: Sequence[str]) -> charts.Loss:
    """One row of the panel: whom the record names, and what comes back by it."""
    then, told = day.then, day.explain(way, poorer(day.then, kept))
    if told.culprit:
        named = told.text.partition(":")[0]
    elif told.same:
        named = "nobody: the same"
    else:
        named = "not distinguishable" if told.differ or told.unknown or told.same is False else "nobody"
    again, provable = comes_back(day, way, kept), bool({"weights", "model_copy"} & set(kept))
    same = again.weights == then.weights
    if way == "checkpoint overwritten" and "model_copy" in kept:
        again, same, words = then, True, "bit for bit, its copy"
    elif "data" in WAYS[way] and "data_digest" in kept and "data_copy" not in kept:
        again, same, words = None, False, "nothing: the data are gone"
    elif same:
        words = "bit for bit" if provable else "the same, without proof"
    else:
        words = f"another model, {percent(again.accuracy)}{'' if provable else ', unseen'}"
    return charts.Loss(way, 100 * day.now(way).accuracy, None if again is None else 100 * again.accuracy, same, named, words)


def outlook(day: Day, way: str, **ticks: bool) -> charts.ComebacksRecord:
    """What a record with these parts is worth, for every way to lose the run; ``way`` is the one that is told in words."""
    kept = [name for name in RECORDABLE if ticks[name]]
    losses = [loss(day, one, kept) for one in WAYS]
    chosen = list(WAYS).index(way)
    real = [one for one in losses if one.way != "nothing changed"]
    named, back = sum(day.explain(one.way, poorer(day.then, kept)).culprit is not None for one in real), sum(one.same for one in real)
    verdict = f"{way}: {day.explain(way, poorer(day.then, kept)).text}. What comes back: {losses[chosen].told}."
    lines = [f"Of {len(real)} losses this record names the culprit of {named} and brings back {back}."]
    spread = day.seeds["then then"]
    return charts.ComebacksRecord(losses, chosen, 100 * day.then.accuracy, (100 * min(spread), 100 * max(spread)), verdict, lines)


def panel(day: Day) -> Panel:
    """A slider over what changed and check boxes for what was recorded, over the day's real runs. It begins with what the usual snippet records."""
    from ipywidgets import Checkbox, SelectionSlider

    controls: dict[str, Any] = {
        "way": SelectionSlider(options=list(WAYS), value="preprocessing edited", description="What changed", tooltip="what happened between then and today")
    }
    for name, (label, tooltip) in RECORDABLE.items():
        controls[name] = Checkbox(value=name in SOURCE, description=label, tooltip=tooltip, indent=True)
    return Panel("What was recorded, what comes back", controls, lambda **values: outlook(day, **values), charts.Comebacks(list(WAYS)))


# -- exercises ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stray:
    """A checkpoint without a name, and the records of the 20 runs, one of which made it."""

    content: bytes
    runs: list[Run]


_strays: dict[str, str] = {}  # "the last": which run made the checkpoint that stray() last returned


def stray(seed: int = 9) -> Stray:
    """Train the 20 runs again, in a child, and lose the name of one; which one, the seed decides."""
    import base64

    told = in_a_child("stray_here", seed=seed)
    if not told.ok:
        raise BadInput(f"the 20 runs ended with {told.ending}: {told.message.partition(chr(10))[0]}.")
    content = base64.b64decode(told.value["content"])
    _strays["the last"] = told.value["run"]
    return Stray(content, [record.restore(Run, run) for run in told.value["runs"]])


def stray_here(seed: int) -> dict[str, Any]:
    """The child's part. The file was saved while the model was wrapped for DDP, so every name in it begins with ``module.``"""
    import base64
    import random

    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        desk = Desk(Path(folder)).furnish()
        trainer, arrays = Trainer(desk), digits()["then"]
        runs, _ = afternoon_here(trainer, trainer.code("then"), arrays, desk.store.put(pack(arrays)))
        chosen = random.Random(seed).choice(runs)
        state = checkpoint.load(desk.store.get(chosen.model), chosen.name)
    content = checkpoint.dump({f"module.{name}": tensor for name, tensor in reversed(state.items())})
    return {"content": base64.b64encode(content).decode(), "run": chosen.name, "runs": record.plain(runs)}


def _is_the_run(answer: str) -> str | None:
    if not isinstance(answer, str) or not re.fullmatch(r"run-\d\d", answer):
        return "The answer is the name of a run, such as 'run-07'."
    if "the last" not in _strays:
        return "Call lesson.stray() first."
    return None if answer == _strays["the last"] else f"{answer} made other weights. Compare fingerprints of weights, not of files."


def _is_a_careful_loader(answer: Callable) -> str | None:
    import torch

    torch.manual_seed(0)
    state = torch.nn.Linear(8, 4).state_dict()
    good, expected = checkpoint.dump(state), fingerprint.weights(state)
    if not callable(answer):
        return "The answer is a function of bytes and a fingerprint."
    found = answer(good, expected)
    if not isinstance(found, Mapping) or fingerprint.weights(found) != expected:
        return "A whole checkpoint did not come back as its tensors."
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        buffer = io.BytesIO()
        torch.save(Payload(str(Path(folder) / "code-ran")), buffer)
        bad = {
            "one flipped bit": flipped(good, 8 * (good.index(b"data/0") + 100)), "half of the file": good[: len(good) // 2],
            "another model": checkpoint.dump({name: tensor + 1 for name, tensor in state.items()}), "a pickle that runs code": buffer.getvalue(),
        }  # fmt: skip
        for name, content in bad.items():
            with contextlib.suppress(Exception):
                answer(content, expected)
                return f"It returned something for {name}; it must raise."
        if any(Path(folder).iterdir()):
            return "It raised, but the pickle's code had run by then."
    return None


def _restores_types(answer: Callable) -> str | None:
    typed = {"learning_rate": 2e-05, "batch_size": 16, "nesterov": False, "layers": [64, 10], "optimizer": "adam", "clip": None, "name": "7b"}
    found = answer({name: str(value) for name, value in typed.items()})
    for name, value in typed.items():
        if not isinstance(found, Mapping) or name not in found:
            return "The answer maps every name to its value."
        if type(found[name]) is not type(value) or found[name] != value:
            return f"{str(value)!r} of {name} became {found[name]!r}, a {type(found[name]).__name__}; it was a {type(value).__name__}."
    return None


exercise("09.ex1", _is_the_run)
exercise("09.ex2", _is_a_careful_loader)
exercise("09.ex3", _restores_types)
