"""The record of a training run, and what can be concluded from two of them."""

import importlib.metadata
import json
from dataclasses import dataclass, replace

from mllandscape import BadInput, record
from mllandscape.versioning.store import Store

CAUSES = {
    "data": "the data",
    "commit": "the commit",
    "edits": "the uncommitted edits",
    "params": "the hyperparameters",
    "seed": "the seed",
    "threads": "the thread count",
    "environment": "the packages",
    "cpu": "the instruction set",
}
"""What decides a run's weights, and how it is called. A run is as reproducible as its record of these is complete."""


@dataclass(frozen=True)
class Run:
    """What was recorded of one run. None stands for what was not.

    ``data``, ``edits``, ``history`` (every commit), ``environment`` (the list of packages) and ``model`` are digests of objects in a store;
    ``commit`` is git's, ``cpu`` the instruction set that torch used, ``weights`` the fingerprint of the trained weights, ``accuracy`` a share
    of right answers, 0 to 1.
    """

    name: str
    params: dict[str, float] | None = None
    seed: int | None = None
    threads: int | None = None
    data: str | None = None
    commit: str | None = None
    edits: str | None = None
    history: str | None = None
    environment: str | None = None
    cpu: str | None = None
    model: str | None = None
    weights: str | None = None
    accuracy: float | None = None

    def without(self, *fields: str) -> "Run":
        """The same run by a poorer record."""
        return replace(self, **dict.fromkeys(fields))

    def save(self, store: Store) -> str:
        """Keep the record itself in the store: its digest then stands for everything it names."""
        return store.put(json.dumps(record.plain(self), sort_keys=True).encode())

    @classmethod
    def load(cls, store: Store, digest: str) -> "Run":
        """Read a record. Raises BadInput for an object that is none."""
        try:
            return record.restore(cls, json.loads(store.get(digest)))
        except ValueError:  # neither text nor JSON
            raise BadInput(f"object {digest[:12]} is not the record of a run.") from None


def packages() -> str:
    """Every installed package with its version, one a line, as ``pip freeze`` names them."""
    found = {one.name: one.version for one in importlib.metadata.distributions() if one.name}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


@dataclass(frozen=True)
class Explanation:
    """What two records say about why the weights differ.

    ``same``: bit for bit; None where the fingerprint was not recorded. ``culprit`` is one of CAUSES, or ``checkpoint``, and only named when nothing else can be
    it. ``differ`` was recorded and differs, ``unknown`` was not recorded.
    """

    same: bool | None
    culprit: str | None
    differ: tuple[str, ...]
    unknown: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def explain(recorded: Run, now: Run, loaded: bool = False) -> Explanation:
    """Name what made the weights differ, from the records alone.

    ``now`` is a run of today, known in full; with ``loaded`` it was not trained: its weights are those of the file that lies where the run
    wrote its model. What is not recorded may have changed as well, so one recorded difference is a culprit only if nothing is unrecorded.
    """
    same = None if recorded.weights is None else recorded.weights == now.weights
    differ = tuple(cause for cause in CAUSES if (then := getattr(recorded, cause)) is not None and then != getattr(now, cause))
    unknown = tuple(cause for cause in CAUSES if getattr(recorded, cause) is None)
    culprit = None
    if same:
        text = "the same weights, bit for bit"
    elif loaded and same is False:
        culprit, text = "checkpoint", "the checkpoint: the file holds other weights than the run made"
    elif loaded:
        text = "not distinguishable: the weights were not recorded, so nobody knows whose the file is"
    elif len(differ) == 1 and not unknown:
        culprit, text = differ[0], f"{CAUSES[differ[0]]}: recorded, different, and all else is recorded and equal"
    elif len(differ) > 1:
        text = f"not distinguishable: {_names(differ)} differ; put back one at a time"
    elif differ:
        text = f"not distinguishable: of what was recorded only {_names(differ)} changed; unrecorded: {_names(unknown)}"
    elif unknown:
        text = f"not distinguishable: nothing recorded changed; unrecorded: {_names(unknown)}"
    elif same is None:
        text = "nothing recorded differs; whether the weights do, nobody can tell: their fingerprint was not recorded"
    else:
        text = "not distinguishable: everything is recorded and equal; run it twice, for then the program itself is not deterministic"
    return Explanation(same, culprit, differ, unknown, text)


def _names(causes: tuple[str, ...]) -> str:
    names = [CAUSES[cause] for cause in causes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
