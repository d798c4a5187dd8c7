"""Which layer costs the accuracy? Layers isolated against frozen outputs, swapped one at a time and in every combination, and a verdict with its evidence."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from mllandscape import BadInput, drift
from mllandscape.serving.pipeline import KINDS, SUSPECTS, Fault, Incident, Release, State, serve

LEAST_SHARE = 0.1
"""A layer that carries less of the drop is no culprit, however significant: where most answers are already wrong, any change turns some of them."""


def changed(release: State, production: State) -> tuple[str, ...]:
    """The layers whose fingerprints differ: only these can have cost anything."""
    then, now = release.fingerprints(), production.fingerprints()
    return tuple(suspect for suspect in SUSPECTS if then[suspect] != now[suspect])


def mixed(release: State, production: State, of_production: Iterable[str]) -> State:
    """The release with these layers of production's."""
    return replace(release, **{suspect: getattr(production, suspect) for suspect in of_production})


@dataclass(frozen=True)
class Layer:
    """One layer of production's, fed with what the layer before it gave at the release, against its own frozen output.

    ``difference`` is the largest one, in standard deviations of the frozen output; ``answers`` counts the items that are answered differently.
    """

    suspect: str
    difference: float
    answers: int

    @property
    def same(self) -> bool:
        return self.difference == 0

    def __str__(self) -> str:
        amount = "less than 0.001" if self.difference < 0.001 else f"{self.difference:.3f}"
        moved = "the frozen output, bit for bit" if self.same else f"up to {amount} standard deviations off"
        return f"{self.suspect:11} {moved:38} alone it changes {self.answers:3} answers"


def isolate(release: State, production: State) -> list[Layer]:
    """Each layer alone on the golden inputs. Upstream is the release's, so a difference is this layer's and no other's."""
    frozen, layers = serve(release), []
    for suspect in SUSPECTS:
        state = mixed(release, production, [suspect])
        now = serve(state)
        before, after = {
            "data": (release.data, state.data),
            "library": (frozen.prepared, now.prepared),
            "processing": (frozen.inputs, now.inputs),
        }.get(suspect, (frozen.logits, now.logits))
        layers.append(Layer(suspect, float(np.abs(after - before).max() / before.std()), int((now.answers != frozen.answers).sum())))
    return layers


def shapley(losses: dict[frozenset, float], players: tuple[str, ...]) -> dict[str, float]:
    """Each player's share of the loss of all (Shapley 1953): what it adds, averaged over the orders in which they can come. ``losses`` has every subset."""
    shares = dict.fromkeys(players, 0.0)
    for player in players:
        others = [other for other in players if other != player]
        for size in range(len(players)):
            weight = math.factorial(size) * math.factorial(len(players) - size - 1) / math.factorial(len(players))
            for group in map(frozenset, combinations(others, size)):
                shares[player] += weight * (losses[group | {player}] - losses[group])
    return shares


@dataclass(frozen=True)
class Finding:
    """What the swaps found. ``drop`` compares release and production on the same items.

    ``breaks`` holds, for each changed layer, the release with production's layer alone; ``heals`` production with the release's layer alone, as the
    drop that it takes away. ``shares`` are Shapley's, in points, and add up to the drop. ``culprits`` are the layers that break or heal by more
    than chance; none where that cannot be told.
    """

    drop: drift.Paired
    breaks: dict[str, drift.Paired]
    heals: dict[str, drift.Paired]
    shares: dict[str, float]
    culprits: tuple[str, ...]
    accuracy: dict[frozenset, float] = field(repr=False)

    @property
    def verdict(self) -> str:
        if self.culprits:
            return " and ".join(self.culprits)
        if self.drop.p >= drift.LEVEL or self.drop.drop < 0:
            return f"not distinguishable from no drop ({self.drop.lost} answers lost, {self.drop.gained} gained, {drift.p_words(self.drop.p)})"
        return f"not distinguishable between {', '.join(self.breaks)}"

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict}."]
        for suspect, share in self.shares.items():
            breaks, heals = self.breaks[suspect], self.heals[suspect]
            lines.append(
                f"{suspect:10}  alone it breaks {breaks.drop:5.1f} points ({drift.p_words(breaks.p)}), "
                f"restored it heals {heals.drop:5.1f} ({drift.p_words(heals.p)}), its share {share:5.1f}"
            )
        return "\n".join([*lines, f"{'together':10}  {self.drop.drop:.1f} points ({drift.p_words(self.drop.p)})"])


def find_culprit(release: Release, production: State) -> Finding:
    """Serve the same items from every mixture of the release's and production's layers, and judge each layer twice.

    A layer is a culprit if it breaks the release, or heals production, by McNemar's exact test at the level of 0.05 divided by the number of these
    tests, and carries a tenth of the drop or more. Both are asked: of two causes of which either suffices none heals alone, and of two that
    need each other none breaks alone. First the drop itself must be one at 0.05.
    """
    layers = changed(release.state, production)
    right = {
        frozenset(group): release.right(mixed(release.state, production, group)) for size in range(len(layers) + 1) for group in combinations(layers, size)
    }
    everything, nothing = frozenset(layers), frozenset()
    drop = drift.paired(right[nothing], right[everything])
    breaks = {suspect: drift.paired(right[nothing], right[frozenset([suspect])]) for suspect in layers}
    heals = {suspect: drift.paired(right[everything - {suspect}], right[everything]) for suspect in layers}
    accuracy = {group: float(answers.mean()) for group, answers in right.items()}
    losses = {group: 100 * (accuracy[nothing] - value) for group, value in accuracy.items()}
    shares = shapley(losses, layers)
    level = drift.LEVEL / (2 * len(layers) if len(layers) > 1 else 1)  # of a single layer both tests are one
    guilty = [
        suspect
        for suspect in layers
        if shares[suspect] >= LEAST_SHARE * drop.drop and any(test.p < level and test.drop > 0 for test in (breaks[suspect], heals[suspect]))
    ]
    is_drop = drop.p < drift.LEVEL and drop.drop > 0
    return Finding(drop, breaks, heals, shares, tuple(guilty) if is_drop else (), accuracy)


# -- sealed incidents -----------------------------------------------------------------------------------------------------

HARMLESS = {
    "data": Fault("more contrast", 0.3),
    "library": Fault("changed default", 0.05),
    "processing": Fault("other mean", 0.05),
    "weights": Fault("low-precision load", 0.1),
    "hardware": Fault("order of summation", 0.5),
}
"""For each layer a change that shows in its fingerprint and costs next to nothing: what else is new in production on the day of an incident."""


@dataclass(frozen=True)
class Sealed:
    """An incident that nobody has looked at: production's state is there, its plan only after ``unseal``."""

    seed: int
    production: State = field(repr=False)
    _plan: Incident = field(repr=False)

    def unseal(self) -> Incident:
        return self._plan


def sealed(seed: int, release: Release, causes: int = 1, least: float = 2.5) -> Sealed:
    """Draw an incident: ``causes`` faults in as many layers, each at a severity that alone costs at least ``least`` points, and in every
    other layer, with probability one half, a harmless change. ``causes`` 0 has harmless changes alone."""
    random = np.random.default_rng(seed)
    before = release.accuracy(release.state)
    faults = []
    for suspect in random.permutation(SUSPECTS):
        if len(faults) < causes:
            faults.append(_costly(suspect, random, release, before - least / 100))
    others = [HARMLESS[suspect] for suspect in SUSPECTS if suspect not in {fault.suspect for fault in faults} and random.random() < 0.5]
    plan = Incident(tuple(faults + others))
    return Sealed(seed, plan.happen(release.state), plan)


def _costly(suspect: str, random: np.random.Generator, release: Release, below: float) -> Fault:
    """A fault of this suspect at a drawn severity; drawn again until accuracy falls below this."""
    kinds = [kind for kind, one in KINDS.items() if one.suspect == suspect]
    for _ in range(500):
        fault = Fault(str(random.choice(kinds)), round(float(random.random()), 3), int(random.integers(2**31)))
        if release.accuracy(fault(release.state)) <= below:
            return fault
    raise BadInput(f"no fault of the {suspect} brings the accuracy down to {below:.1%}; ask for an incident that costs less.")


def tally(release: Release, seeds: Iterable[int], causes: int = 1, least: float = 2.5) -> dict[str, int]:
    """How ``find_culprit`` does on sealed incidents: it names exactly the layers at fault, names none, or names others."""
    counts = {"right": 0, "not distinguishable": 0, "wrong": 0}
    for seed in seeds:
        case = sealed(seed, release, causes, least)
        named = set(find_culprit(release, case.production).culprits)
        guilty = {fault.suspect for fault in case.unseal().faults[:causes]}
        counts["not distinguishable" if not named else "right" if named == guilty else "wrong"] += 1
    return counts
