"""A small pipeline that serves predictions, in five layers that can each be changed: the patient of lesson 6.

``State`` holds what each layer needs, ``serve`` runs it. A ``Fault`` changes one layer by an amount, an ``Incident`` is the plan of such
changes, and the swap of a layer is ``dataclasses.replace``. Everything is computed in float64 from weights that are rounded after
training, so the answers are the same on every machine; what real arithmetic adds to that is measured in the lesson.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from mllandscape import BadInput, fingerprint

ITEMS = 997
NOISE = 4.2
"""Standard deviation of the noise on the digits, whose intensities go from 0 to 16: it makes them hard enough for 85 %."""

Weights = Mapping[str, np.ndarray]


# -- the layers -----------------------------------------------------------------------------------------------------------


def prepare(images: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Blend each pixel of 8 x 8 images with the mean of its 3 x 3 neighbourhood. Shapes (n, 64)."""
    if not smoothing:
        return images
    grid = images.reshape(-1, 8, 8)
    padded = np.pad(grid, ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = sum(padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3)) / 9
    return ((1 - smoothing) * grid + smoothing * near).reshape(-1, 64)


@dataclass(frozen=True)
class Numerics:
    """How the products are computed.

    ``mantissa`` bits of their operands: fp32 has 23, TF32 and fp16 10, bf16 7. ``partial_sums`` of fp32, as threads and vector lanes make
    them; 0 is a single one in float64. ``defective`` is the share of the items that run on a core with a broken vector lane: it drops every
    eighth product.
    """

    mantissa: int = 23
    partial_sums: int = 0
    defective: float = 0.0


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values rounded to this many mantissa bits, ties to even, as tensor cores round their operands: 10 is TF32, 7 is bfloat16."""
    if not 0 <= bits <= 23:
        raise BadInput(f"{bits} mantissa bits: 0 to 23 are possible; TF32 and fp16 have 10, bf16 7.")
    words = np.ascontiguousarray(values, np.float32).view(np.int32)
    if bits == 23:
        return words.view(np.float32)
    dropped = 23 - bits
    to_even = (words >> dropped) & 1
    return ((words + (1 << (dropped - 1)) - 1 + to_even) & ~((1 << dropped) - 1)).view(np.float32)


def multiply(inputs: np.ndarray, weight: np.ndarray, numerics: Numerics) -> np.ndarray:
    """``inputs @ weight.T``. Products are accumulated in float64; with partial sums, in float32, one for each share of the columns, as threads do."""
    if numerics.defective:
        spread = np.arange(len(inputs)) * 0.6180339887 % 1  # evenly over the items, whichever prefix is served
        inputs = inputs.copy()
        inputs[np.ix_(spread < numerics.defective, np.arange(3, inputs.shape[1], 8))] = 0
    if numerics.mantissa < 23:
        inputs, weight = round_mantissa(inputs, numerics.mantissa), round_mantissa(weight, numerics.mantissa)
    kind, parts = (np.float32, numerics.partial_sums) if numerics.partial_sums else (np.float64, 1)
    columns, rows = np.array_split(inputs.astype(kind), parts, axis=1), np.array_split(weight.T.astype(kind), parts)
    return sum(_in_blocks(ours, theirs) for ours, theirs in zip(columns, rows, strict=True)).astype(np.float64)


def _in_blocks(inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A product in blocks of rows that BLAS does not share between threads: at this size sharing costs more than it saves."""
    return np.concatenate([block @ weight for block in np.array_split(inputs, len(inputs) // 64 + 1)])


def forward(inputs: np.ndarray, weights: Weights, numerics: Numerics) -> np.ndarray:
    """Logits (n, 10) of a perceptron with one hidden layer."""
    hidden = np.maximum(multiply(inputs, weights["hidden.weight"], numerics) + weights["hidden.bias"], 0)
    return multiply(hidden, weights["out.weight"], numerics) + weights["out.bias"]


@dataclass(frozen=True, eq=False)
class State:
    """All that a served answer depends on, a field a suspect, in the order in which an item passes them.

    ``data`` are intensities (n, 64), ``library`` is the default of ``prepare``'s smoothing in the installed release, ``processing`` the mean
    and the standard deviation that inputs are normalised with, ``weights`` float32 arrays by name, ``hardware`` how products are computed.
    """

    data: np.ndarray
    library: float
    processing: tuple[float, float]
    weights: Weights
    hardware: Numerics

    def fingerprints(self) -> dict[str, str]:
        """What identifies each layer, by suspect. Equal fingerprints acquit a layer; different ones do not yet convict it."""
        return {"data": fingerprint.array(self.data), "weights": fingerprint.weights(self.weights)} | {
            name: repr(getattr(self, name)) for name in ("library", "processing", "hardware")
        }


SUSPECTS = ("data", "library", "processing", "weights", "hardware")


@dataclass(frozen=True, eq=False)
class Served:
    """What was computed for each item: the prepared images, the model's inputs and its logits."""

    prepared: np.ndarray
    inputs: np.ndarray
    logits: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        return self.logits.argmax(1)

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits; where those are not finite, some finite distribution."""
        with np.errstate(invalid="ignore", over="ignore"):
            shifted = np.exp(np.nan_to_num(self.logits - self.logits.max(1, keepdims=True), nan=0.0))
        return shifted / shifted.sum(1, keepdims=True)


def normalise(prepared: np.ndarray, processing: tuple[float, float]) -> np.ndarray:
    mean, std = processing
    return (prepared - mean) / std


def serve(state: State, n: int | None = None) -> Served:
    """Answer the first ``n`` items, or all. Weights that a flipped bit made infinite give some answer, as in production."""
    with np.errstate(invalid="ignore", over="ignore"):
        prepared = prepare(state.data[:n], state.library)
        inputs = normalise(prepared, state.processing)
        return Served(prepared, inputs, forward(inputs, state.weights, state.hardware))


# -- the release: trained here, frozen with its outputs -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Release:
    """What was shipped: the state as of the release, the labels of its items, a window of other items as they were logged, and every epoch's weights."""

    state: State
    labels: np.ndarray
    window: np.ndarray
    window_labels: np.ndarray
    checkpoints: tuple[Weights, ...] = field(repr=False)

    def right(self, state: State, n: int | None = None) -> np.ndarray:
        """Which of the first ``n`` items a state answers rightly."""
        return serve(state, n).answers == self.labels[:n]

    def accuracy(self, state: State) -> float:
        return float(self.right(state).mean())


@cache
def release() -> Release:
    """scikit-learn's digits with noise, 400 to train on (twice, each time with other noise), 400 as the window of inputs on record, 997 to serve.

    Intensities are rounded to 1/16, each snapshot of the weights to 1/65536: what machines differ by is 1e-15.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(0)
    order = random.permutation(len(digits.target))
    images, labels = digits.data[order], digits.target[order]
    served, logged, learnt = slice(0, ITEMS), slice(ITEMS, ITEMS + 400), slice(ITEMS + 400, None)

    def noisy(part: slice) -> np.ndarray:
        return images[part] + np.round(random.normal(0, NOISE, images[part].shape) * 16) / 16

    data, window = noisy(served), noisy(logged)
    train_on = np.concatenate([noisy(learnt), noisy(learnt)])
    processing = (round(float(train_on.mean()), 3), round(float(train_on.std()), 3))
    checkpoints = train(normalise(train_on, processing), np.tile(labels[learnt], 2))
    state = State(data, 0.0, processing, checkpoints[-1], Numerics())
    return Release(state, labels[served], window, labels[logged], checkpoints)


def save_golden(path: Path) -> None:
    """The golden items with labels, normalisation and weights, for a process without scikit-learn and torch."""
    state = release().state
    np.savez(path, data=state.data, labels=release().labels, processing=state.processing, **{f"weights.{name}": one for name, one in state.weights.items()})


def load_golden(path: str) -> tuple[State, np.ndarray]:
    """The state and the labels that ``save_golden`` wrote."""
    with np.load(path) as kept:
        weights = {name.removeprefix("weights."): kept[name] for name in kept.files if name.startswith("weights.")}
        mean, std = (float(value) for value in kept["processing"])
        return State(kept["data"], 0.0, (mean, std), weights, Numerics()), kept["labels"]


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside, as before outside: sharing work as small as this costs more than it saves."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train(inputs: np.ndarray, labels: np.ndarray, epochs: int = 30, seed: int = 0) -> tuple[Weights, ...]:
    """64 hidden units, AdamW, batches of 100, in float64; the weights after each epoch, rounded."""
    import torch
    from torch.nn.functional import cross_entropy

    random = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential()
    model.add_module("hidden", torch.nn.Linear(inputs.shape[1], 64, dtype=torch.float64))
    model.add_module("relu", torch.nn.ReLU())
    model.add_module("out", torch.nn.Linear(64, int(labels.max()) + 1, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=random, dtype=torch.float64) / 4 - 0.125)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    snapshots = []
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=random).split(100):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        snapshots.append({name: (values.detach().numpy() * 65536).round() / 65536 for name, values in model.state_dict().items()})
    return tuple({name: values.astype(np.float32) for name, values in snapshot.items()} for snapshot in snapshots)


# -- faults ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One way in which a layer can change: its suspect, what severity 1 amounts to, the amount in words, and the change itself."""

    suspect: str
    worst: float
    words: str
    change: Callable[[object, float, np.random.Generator], object]

    def amount(self, severity: float) -> float:
        return severity * self.worst


def _shift(data: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    moved = random.permutation(len(data))[: round(share * len(data))]
    shifted = data.copy()
    shifted[moved] = np.roll(data[moved].reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    return shifted


def _join(data: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    columns, rows = random.permutation(data.shape[1]), random.permutation(len(data))
    columns = columns[: round(share * data.shape[1])]
    joined = data.copy()
    joined[:, columns] = data[np.ix_(rows, columns)]
    return joined


def _flip(weights: Weights, count: float, random: np.random.Generator) -> Weights:
    flipped = {name: values.copy() for name, values in weights.items()}
    places = [(name, place) for name, values in weights.items() for place in range(values.size)]
    for _ in range(round(count)):
        name, place = places[random.integers(len(places))]
        words = flipped[name].reshape(-1).view(np.uint32)
        words[place] ^= np.uint32(1) << np.uint32(random.integers(32))
    return flipped


def quantise(weights: Weights, bits: float) -> Weights:
    """Each array on a symmetric grid of 2^bits - 1 values, and back: what a load in low precision leaves. ``bits`` need not be whole."""
    steps = 2 ** (bits - 1) - 1
    scales = {name: float(np.abs(values).max()) / steps for name, values in weights.items()}
    return {name: (np.round(values / scales[name]) * scales[name]).astype(np.float32) for name, values in weights.items()}


KINDS = {
    "one-pixel shift": Kind("data", 0.25, "{:.1%} of the images moved by one pixel", _shift),
    "join bug": Kind("data", 0.25, "{:.1%} of the columns joined to other rows", _join),
    "more contrast": Kind("data", 1.0, "contrast up by {:.0%}", lambda data, more, _: data + more * (data - round(float(data.mean()), 3))),
    "changed default": Kind("library", 1.0, "smoothing defaults to {:.2f}", lambda default, more, _: default + more),
    "other mean": Kind(
        "processing", 2.0, "the mean in use is {:.0%} of a standard deviation too high", lambda given, more, _: (given[0] + more * given[1], given[1])
    ),
    "other scale": Kind(
        "processing", 8.0, "inputs are divided by a standard deviation {:.0%} too large", lambda given, more, _: (given[0], given[1] * (1 + more))
    ),
    "older checkpoint": Kind("weights", 29, "weights from {:.0f} epochs earlier", lambda weights, back, _: release().checkpoints[-1 - round(back)]),
    "flipped bits": Kind("weights", 60, "{:.0f} bits of the weights flipped", _flip),
    "low-precision load": Kind("weights", 6, "{:.1f} of 8 bits dropped from the weights", lambda weights, fewer, _: quantise(weights, 8 - fewer)),
    "low-precision products": Kind(
        "hardware", 23, "{:.0f} of fp32's 23 mantissa bits dropped from the operands", lambda h, fewer, _: replace(h, mantissa=23 - round(fewer))
    ),
    "order of summation": Kind("hardware", 16, "fp32 in {:.0f} partial sums", lambda h, parts, _: replace(h, partial_sums=round(parts))),
    "defective core": Kind("hardware", 1.0, "{:.0%} of the items on a core that drops products", lambda h, share, _: replace(h, defective=share)),
}


@dataclass(frozen=True)
class Fault:
    """One change of one layer: a kind, how severe (0 is none, 1 the kind's worst), and the seed of what is random in it."""

    kind: str
    severity: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"no fault {self.kind!r}: {', '.join(KINDS)} are possible.")
        if not 0 <= self.severity <= 1:
            raise BadInput(f"severity {self.severity} of {self.kind!r}: 0 (none) to 1 is possible.")

    @property
    def suspect(self) -> str:
        return KINDS[self.kind].suspect

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        return f"{self.kind}: {kind.words.format(kind.amount(self.severity))}"

    def __call__(self, state: State) -> State:
        """The state with this layer changed; severity 0 changes nothing."""
        if not self.severity:
            return state
        kind = KINDS[self.kind]
        changed = kind.change(getattr(state, kind.suspect), kind.amount(self.severity), np.random.default_rng(self.seed))
        return replace(state, **{kind.suspect: changed})


@dataclass(frozen=True)
class Incident:
    """The plan of what changed between the release and production: at most one fault a suspect."""

    faults: tuple[Fault, ...]

    def __post_init__(self) -> None:
        suspects = [fault.suspect for fault in self.faults]
        if len(set(suspects)) < len(suspects):
            raise BadInput(f"an incident with faults in {', '.join(suspects)}: one a suspect is possible.")

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults)) or "nothing changed"

    def happen(self, state: State) -> State:
        """Production's state after the incident."""
        for fault in self.faults:
            state = fault(state)
        return state
