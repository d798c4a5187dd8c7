"""Lesson 6: accuracy fell from 85 % to 82 % and no code changed: its experiments, its panel and its exercises.

The pipeline, the search for the layer and the commit, checkpoints and arithmetic are ``mllandscape.serving``, the statistics ``mllandscape.drift``.
"""

import importlib.metadata
import inspect
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from mllandscape import BadInput, charts, drift, fingerprint, record, sandbox
from mllandscape.course import exercise
from mllandscape.panel import Panel
from mllandscape.serving import checkpoint, pipeline, triage
from mllandscape.serving.pipeline import KINDS, SUSPECTS, Fault, Incident, Served, State, serve

# -- is it a drop at all? -------------------------------------------------------------------------------------------------


def p_by_items(accuracy: float, accuracy_now: float, counts: list[int]) -> list[float]:
    """The p-value of two accuracies on different items, for so many items in each window."""
    return [drift.two_proportions(round(accuracy * n), n, round(accuracy_now * n), n)[1] for n in counts]


def p_by_changes(net: int, changes: list[int], n: int) -> list[float]:
    """McNemar's exact p-value of ``net`` answers lost on balance, when so many answers changed in all (each of the parity of ``net``)."""
    return [drift.mcnemar((changed + net) // 2, (changed - net) // 2, n).p for changed in changes]


def severity_for(kind: str, accuracy: float, seed: int = 0) -> Fault:
    """The fault of this kind whose accuracy comes closest to the wished one, in steps of 0.005."""
    release = pipeline.release()
    faults = [Fault(kind, step / 200, seed) for step in range(201)]
    return min(faults, key=lambda fault: abs(release.accuracy(fault(release.state)) - accuracy))


def swap_rows(found: triage.Finding) -> list[tuple[str, dict[str, float]]]:
    """A finding as rows of ``charts.points``: what each changed layer breaks alone, heals when it is restored, and its Shapley share."""
    return [
        (suspect, {"alone it breaks": found.breaks[suspect].drop, "restored it heals": found.heals[suspect].drop, "its share": share})
        for suspect, share in found.shares.items()
    ]


# -- a second environment -------------------------------------------------------------------------------------------------

RELEASES = {"1.4.0": 0.0, "2.0.0": 0.8}
"""pixelprep, a preprocessing package of one function: its releases, and what ``prepare(smoothing=…)`` defaults to in each."""


@dataclass(frozen=True)
class Environment:
    """What a process with one release of pixelprep on its path saw and answered: versions of all installed packages, the default, the outcome."""

    packages: dict[str, str]
    default: float
    accuracy: float
    inputs: str
    weights: str


def install(version: str, folder: Path) -> None:
    """Write a release of pixelprep as a package with its metadata, as an installer would leave it."""
    source = inspect.getsource(pipeline.prepare).replace("smoothing: float = 0.0", f"smoothing: float = {RELEASES[version]}")
    files = {
        "pixelprep/__init__.py": f'import numpy as np\n\n__version__ = "{version}"\n\n\n{source}',
        f"pixelprep-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: pixelprep\nVersion: {version}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def two_environments() -> dict[str, Environment]:
    """Serve the golden items in two processes that differ in one installed package: the same code, weights and data in both."""
    seen = {}
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as name:
        golden = Path(name) / "golden.npz"
        pipeline.save_golden(golden)
        for version in RELEASES:
            folder = Path(name) / version
            install(version, folder)
            path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
            outcome = sandbox.command([sys.executable, "-P", "-m", __name__, str(golden)], env={"PYTHONPATH": path})
            if not outcome.ok:
                last = outcome.stderr.strip().rpartition("\n")[2] or outcome.message
                raise BadInput(f"the process with pixelprep {version} ended with {outcome.ending}: {last}.")
            seen[version] = record.restore(Environment, json.loads(outcome.stdout))
    return seen


def serve_here(golden: str) -> Environment:
    """The child's part: whatever pixelprep this process finds, called as the pipeline calls it, without an argument."""
    import pixelprep

    state, labels = pipeline.load_golden(golden)
    inputs = pipeline.normalise(pixelprep.prepare(state.data), state.processing)
    answers = pipeline.forward(inputs, state.weights, state.hardware).argmax(1)
    packages = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
    default = inspect.signature(pixelprep.prepare).parameters["smoothing"].default
    return Environment(packages, default, float((answers == labels).mean()), fingerprint.array(inputs), fingerprint.weights(state.weights))


def admitted(requirement: str) -> list[str]:
    """The releases of pixelprep that satisfy a requirement such as ``>=1.4``."""
    from packaging.specifiers import SpecifierSet

    return list(SpecifierSet(requirement).filter(RELEASES))


def environment_diff(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The packages that differ, each in one line."""
    return [f"{name} {then.get(name, 'absent')} → {now.get(name, 'absent')}" for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]


# -- which alarm would have rung? -----------------------------------------------------------------------------------------

DETECTORS = ("describe", "KS", "PSI", "classifier", "predictions")


@cache
def on_record() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and class probabilities of the window that was logged before the incident: 400 other items, with nothing wrong."""
    release = pipeline.release()
    then = serve(replace(release.state, data=release.window))
    return then.inputs, then.probabilities


def alarms(now: Served, detectors: tuple[str, ...] = DETECTORS) -> tuple[drift.Alarm, ...]:
    """What each detector says of served items against the window on record. None of them sees a label."""
    inputs, probabilities = on_record()
    functions = {"describe": drift.describe, "KS": drift.kolmogorov_smirnov, "PSI": drift.population_stability, "classifier": drift.classifier}
    return tuple(drift.predictions(probabilities, now.probabilities) if name == "predictions" else functions[name](inputs, now.inputs) for name in detectors)


@dataclass(frozen=True)
class Compared:
    """One incident before all detectors: what it cost, on the same items, and what each said."""

    label: str
    cost: drift.Paired
    alarms: tuple[drift.Alarm, ...]

    def rings(self, detector: str) -> bool:
        return next(alarm.rings for alarm in self.alarms if alarm.detector == detector)


def compare(incidents: Mapping[str, Incident]) -> dict[str, Compared]:
    """Every detector on every incident, by label."""
    release = pipeline.release()
    before = release.right(release.state)
    states = {label: incident.happen(release.state) for label, incident in incidents.items()}
    return {label: Compared(label, drift.paired(before, release.right(state)), alarms(serve(state))) for label, state in states.items()}


def rings(fault: Fault | None, n: int, draws: int = 20) -> dict[str, int]:
    """How often each detector rings: ``draws`` times the fault with another seed (None: nothing wrong), seen on ``n`` items drawn at random.

    "any difference" is ``describe() - describe()`` without a noise scale.
    """
    release = pipeline.release()
    inputs, _ = on_record()
    counts = dict.fromkeys(("any difference", *DETECTORS), 0)
    for seed in range(draws):
        state = replace(fault, seed=seed)(release.state) if fault else release.state
        rows = np.random.default_rng(seed).permutation(pipeline.ITEMS)[:n]
        drawn = serve(replace(state, data=state.data[rows]))
        counts["any difference"] += int(drift.largest_difference(inputs, drawn.inputs) > 0)
        for alarm in alarms(drawn):
            counts[alarm.detector] += int(alarm.rings)
    return counts


def printed(inputs: np.ndarray) -> dict[str, str]:
    """What the source's four print statements would show of a batch, and beside it what identifies it: a fingerprint."""
    return {
        "shape": str(inputs.shape),
        "dtype": str(inputs.dtype),
        "mean": f"{inputs.mean():.4f}",
        "std": f"{inputs.std():.4f}",
        "sample": ", ".join(f"{value:.2f}" for value in inputs[0, :10]),
        "fingerprint": fingerprint.array(inputs),
    }


# -- tokenization ---------------------------------------------------------------------------------------------------------

TOPICS = ("specialnames", "compound", "formatstrings", "string-methods", "debugger", "typesmapping")
PASSAGE = 16  # words


@dataclass(frozen=True)
class Tokens:
    """A change of the tokenizer on the text pipeline: accuracy on the passages, what it costs, and the share of tokens outside the vocabulary."""

    accuracy: float
    cost: drift.Paired
    unknown: float


def tokenize(text: str, lower: bool = True, punctuation: bool = True) -> list[str]:
    text = text.lower() if lower else text
    return re.findall(r"[^\W\d]+|\d+|[^\w\s]", text) if punctuation else text.split()


def tokenization(share: float = 1.0) -> dict[str, Tokens]:
    """A bag of words learns from which topic of Python's own help a passage of 16 words comes; then the tokenizer changes and the weights do not.

    ``share`` is the part of the passages that reach the changed tokenizer. The text is that of the running Python, so numbers vary with it.
    """
    if not 0 <= share <= 1:
        raise BadInput(f"share={share}: 0 (nobody gets the changed tokenizer) to 1 is possible.")
    right, unknown = _tokenizers()
    trained = right["as trained"]
    reached = np.arange(len(trained)) < share * len(trained)
    now = {name: np.where(reached, answers, trained) for name, answers in right.items()}
    return {name: Tokens(float(answers.mean()), drift.paired(trained, answers), unknown[name]) for name, answers in now.items()}


@cache
def _tokenizers() -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """For each change of the tokenizer: which passages are answered rightly, and the share of unknown tokens."""
    passages, labels = _passages()
    half = len(passages) // 2
    test, counts = passages[:half], Counter(token for passage in passages[half:] for token in tokenize(passage))
    vocabulary = ["<unknown>", *sorted(token for token, count in counts.items() if count > 1)]
    by_count = ["<unknown>", *sorted(vocabulary[1:], key=lambda token: (-counts[token], token))]
    weights = _train_bag(_bag(passages[half:], vocabulary), labels[half:])
    trained = _bag(test, vocabulary)
    bags = {
        "as trained": trained,
        "lower() dropped": _bag(test, vocabulary, lower=False),
        "punctuation not split": _bag(test, vocabulary, punctuation=False),
        "ids moved by one special token": np.roll(trained, 1, axis=1),
        "vocabulary in another order": _bag(test, by_count),
    }
    right = {name: (bag @ weights).argmax(1) == labels[:half] for name, bag in bags.items()}
    return right, {name: float(bag[:, 0].mean()) for name, bag in bags.items()}


def _passages() -> tuple[list[str], np.ndarray]:
    """Passages in random order, and the number of the topic of each."""
    from pydoc_data.topics import topics

    found = []
    for number, topic in enumerate(TOPICS):
        words = topics[topic].split()
        found += [(" ".join(words[start : start + PASSAGE]), number) for start in range(0, len(words) - PASSAGE + 1, PASSAGE)]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[place][0] for place in order], np.array([found[place][1] for place in order])


def _bag(passages: list[str], vocabulary: list[str], **how: bool) -> np.ndarray:
    """How often each id occurs, a row a passage, each row adding up to 1. Id 0 is every unknown token."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    bag = np.zeros((len(passages), len(vocabulary)))
    for row, passage in enumerate(passages):
        for token in tokenize(passage, **how):
            bag[row, ids.get(token, 0)] += 1
    return bag / np.maximum(1, bag.sum(1, keepdims=True))


@pipeline.one_thread()
def _train_bag(bag: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Softmax regression, 40 steps of Adam on everything at once."""
    import torch

    x, y = torch.from_numpy(bag), torch.from_numpy(labels)
    weights = torch.zeros(bag.shape[1], len(TOPICS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(x @ weights, y) + 1e-5 * weights.square().sum()).backward()
        optimizer.step()
    return weights.detach().numpy()


# -- are these the weights, and is this the arithmetic? --------------------------------------------------------------------


def bit_flips(bits: tuple[int, ...] = (0, 11, 22, 23, 26, 30, 31)) -> dict[int, drift.Paired]:
    """One bit of one weight flipped, the largest of the last layer, by the bit's place: 0 to 22 are its mantissa, 23 to 30 its exponent, 31 its sign."""
    release = pipeline.release()
    weights, before = release.state.weights, release.right(release.state)
    place = int(np.abs(weights["out.weight"]).argmax())
    flipped = {bit: replace(release.state, weights=checkpoint.flip(weights, "out.weight", place, bit)) for bit in bits}
    return {bit: drift.paired(before, release.right(state)) for bit, state in flipped.items()}


@dataclass(frozen=True)
class Precision:
    """Weights loaded, or products computed, in a lower precision: whether the fingerprint changed, answers that changed, points lost."""

    fingerprint_same: bool
    answers: int
    cost: drift.Paired


def low_precision_loads() -> dict[str, Precision]:
    """The released weights through a smaller type of torch's and back to fp32."""
    import torch

    state = pipeline.release().state
    types = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8 e4m3": torch.float8_e4m3fn, "fp8 e5m2": torch.float8_e5m2}
    loaded = {name: {key: torch.tensor(one).to(kind).float().numpy() for key, one in state.weights.items()} for name, kind in types.items()}
    return {name: _precision(replace(state, weights=weights)) for name, weights in loaded.items()}


def low_precision_products() -> dict[str, Precision]:
    """Operands of every product rounded to a format's mantissa, as tensor cores do with fp32 inputs. Exponents keep fp32's range."""
    formats = {"TF32 and fp16, 10 bits": 10, "bf16, 7 bits": 7, "fp8 e4m3, 3 bits": 3, "fp8 e5m2, 2 bits": 2, "no mantissa, 0 bits": 0}
    state = pipeline.release().state
    return {name: _precision(replace(state, hardware=pipeline.Numerics(mantissa=bits))) for name, bits in formats.items()}


def _precision(state: State) -> Precision:
    release = pipeline.release()
    same = fingerprint.weights(state.weights) == fingerprint.weights(release.state.weights)
    changed = int((serve(state).answers != serve(release.state).answers).sum())
    return Precision(same, changed, drift.paired(release.right(release.state), release.right(state)))


def product_error(bits: int) -> float:
    """Relative error (Frobenius norm) of a product of two random 256 x 256 matrices whose operands are rounded to ``bits`` mantissa bits."""
    random = np.random.default_rng(0)
    one, other = (random.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
    exact = one.astype(float) @ other.astype(float)
    rounded = pipeline.round_mantissa(one, bits).astype(float) @ pipeline.round_mantissa(other, bits).astype(float)
    return float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))


# -- the panel ------------------------------------------------------------------------------------------------------------

SAMPLES = (100, 300, pipeline.ITEMS)
GRID = tuple(step / 10 for step in range(11))
SEED = 9  # of the panel's faults
NOTHING = ("one-pixel shift", 0.0)


def classifier_grid() -> dict[tuple[str, float, int], drift.Alarm]:
    """The classifier's answer for every fault that changes inputs, at severities in tenths and each sample size: what the panel looks up."""
    release = pipeline.release()
    grid = {}
    for kind in (kind for kind, one in KINDS.items() if one.suspect in ("data", "library", "processing")):
        for n in SAMPLES:
            for severity in GRID:
                # Nothing has changed at severity 0, whatever the kind.
                known = grid.get((*NOTHING, n)) if severity == 0 else None
                grid[kind, severity, n] = known or alarms(serve(Fault(kind, severity, SEED)(release.state), n), ("classifier",))[0]
    return grid


@cache
def _answers(kind: str) -> tuple[np.ndarray, ...]:
    """Which items are answered rightly at each severity of the grid."""
    release = pipeline.release()
    return tuple(release.right(Fault(kind, severity, SEED)(release.state)) for severity in GRID)


def drop(kind: str, severity: float, n: int, grid: Mapping[tuple[str, float, int], drift.Alarm]) -> charts.DropRecord:
    """One fault at one severity, judged on ``n`` labelled items and by every detector. All but the classifier is computed here and now."""
    release = pipeline.release()
    now = serve(Fault(kind, severity, SEED)(release.state), n)
    curve = _answers(kind)
    right = now.answers == release.labels[:n]
    test = drift.paired(curve[0][:n], right)
    low, high = drift.wilson(int(right.sum()), n)
    told = [drift.paired(curve[0][:n], answers[:n]) for answers in curve]
    at = next((GRID[place] for place in range(len(GRID)) if all(one.p < drift.LEVEL and one.drop > 0 for one in told[place:])), None)
    nearest = min(GRID, key=lambda tenth: abs(tenth - severity))
    looked_up = grid[(kind, nearest, n) if (kind, nearest, n) in grid else (*NOTHING, n)]  # a fault that leaves the inputs alone
    live = {alarm.detector: alarm for alarm in alarms(now, tuple(name for name in DETECTORS if name != "classifier"))}
    said = tuple((live | {"classifier": looked_up})[name] for name in DETECTORS)
    verdict = "A drop" if test.p < drift.LEVEL and test.drop > 0 else "Not distinguishable from no drop"
    counts = f"{test.lost} answers lost, {test.gained} gained, {drift.p_words(test.p)}"
    return charts.DropRecord(
        severities=GRID,
        accuracies=tuple(float(answers.mean()) for answers in curve),
        severity=severity,
        accuracy=float(right.mean()),
        interval=(low, high),
        flips_at=at,
        alarms=tuple((alarm.detector, alarm.rings, alarm.words) for alarm in said),
        verdict=f"{verdict} on {n} items: {counts}.",
        change=str(Fault(kind, severity)) if severity else "nothing changed",
    )


def panel(grid: Mapping[tuple[str, float, int], drift.Alarm]) -> Panel:
    """Fault, severity and number of items, against accuracy with its interval and the five detectors."""
    from ipywidgets import Dropdown, FloatSlider, SelectionSlider

    controls = {
        "kind": Dropdown(options=list(KINDS), value="one-pixel shift", description="Fault", tooltip="what changed in production"),
        "severity": FloatSlider(
            value=0.25, min=0, max=1, step=0.05, description="Severity", readout_format=".2f", tooltip="0 is no change, 1 the fault's worst"
        ),
        "n": SelectionSlider(options=SAMPLES, value=pipeline.ITEMS, description="Items", tooltip="labelled items, which are also what the detectors see"),
    }
    return Panel("Is it a drop, and who says so?", controls, lambda kind, severity, n: drop(kind, round(severity, 2), n, grid), charts.Drop(DETECTORS))


# -- exercises ------------------------------------------------------------------------------------------------------------

EXERCISE_SEED = 2


def _names_the_culprit(answer: dict) -> str | None:
    if not isinstance(answer, dict) or answer.keys() != {"suspect", "healed", "p"}:
        return "The answer is {'suspect': …, 'healed': …, 'p': …}."
    release = pipeline.release()
    case = triage.sealed(EXERCISE_SEED, release)
    if answer["suspect"] not in SUSPECTS:
        return f"The suspects are {', '.join(SUSPECTS)}."
    found = triage.find_culprit(release, case.production)
    if answer["suspect"] not in found.heals:
        return f"Production's {answer['suspect']} has the release's fingerprint; it cannot have cost anything."
    test = found.heals[answer["suspect"]]
    if not math.isclose(answer["healed"], test.drop, abs_tol=0.05) or not math.isclose(answer["p"], test.p, rel_tol=0.05):
        return f"Compare production with production in which {answer['suspect']} alone is the release's, on the same items: your numbers are others."
    return None if found.culprits == (answer["suspect"],) else f"Restoring {answer['suspect']} alone heals {test.drop:.1f} points; another layer heals more."


def _sees_the_join(answer: Callable) -> str | None:
    release = pipeline.release()
    reference, _ = on_record()
    rung = {"clean": 0, "joined": 0}
    for seed in range(20):
        rows = np.random.default_rng(1000 + seed).permutation(pipeline.ITEMS)[:300]
        joined = Fault("join bug", 0.7, seed)(release.state)
        for name, data in (("clean", release.state.data), ("joined", joined.data)):
            said = answer(reference.copy(), pipeline.normalise(data[rows], release.state.processing))
            if not isinstance(said, bool | np.bool_):
                return f"An alarm answers True or False, not {type(said).__name__}."
            rung[name] += bool(said)
    if rung["clean"] > 1:
        return f"It rings on {rung['clean']} of 20 windows with nothing wrong; one at most is wanted."
    return None if rung["joined"] >= 18 else f"It rings on {rung['joined']} of 20 windows with the join bug; 18 are wanted."


def regression_cases() -> dict[str, tuple[State, bool]]:
    """States for a regression test, and whether it should pass: other arithmetic must, a fault that costs a point or more must not."""
    release = pipeline.release()
    before = release.accuracy(release.state)
    harmless = (Fault("order of summation", 0.125), Fault("order of summation", 1.0), Fault("low-precision products", 13 / 23))
    faults = [Fault(kind, severity, seed=1) for kind in KINDS for severity in (0.3, 0.7, 1.0)]
    costly = [fault for fault in faults if before - release.accuracy(fault(release.state)) >= 0.01]
    return {str(fault): (fault(release.state), fault in harmless) for fault in (*harmless, *costly)}


def _is_a_regression_test(answer: Callable) -> str | None:
    release = pipeline.release()
    frozen = serve(release.state).logits
    for label, (state, good) in regression_cases().items():
        if bool(answer(frozen.copy(), serve(state).logits)) != good:
            return f"It {'refuses' if good else 'passes'} this: {label}."
    return None


exercise("06.ex1", _names_the_culprit)
exercise("06.ex2", _sees_the_join)
exercise("06.ex3", _is_a_regression_test)


if __name__ == "__main__":  # python -m mllandscape.lessons.accuracy_drop GOLDEN: the child of two_environments
    print(json.dumps(record.plain(serve_here(sys.argv[1]))))
