"""A data scientist's desk: a git repository with an edit that no commit holds, the data beside it, a store, and MLflow's database."""

import importlib.util
import io
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mllandscape.repository import Repository
from mllandscape.versioning import checkpoint
from mllandscape.versioning.run import Run, packages
from mllandscape.versioning.store import Store

Arrays = dict[str, Any]
"""x and test_x: images as rows of 64 grey levels, 0 to 16; y and test_y: their digits."""

COMMITTED = "    return pixels / 16\n"
EDITED = {
    "then": "    x = pixels / 16\n    return (x - x.mean()) / x.std()\n",
    "today": "    x = pixels / 16\n    return ((x - x.mean()) / x.std()).clamp(-0.5, 0.5)\n",
    "committed": COMMITTED,
}
"""The body of preprocess in train.py: as the 92 % was made and as it stands today, both never committed, and as the last commit has it."""

EXTRA_DRAW = ("torch.manual_seed(seed)\n", "torch.manual_seed(seed)\n        torch.rand(1)\n")
"""An edit that draws one random number more, as a line of logging might."""


def digits(noise: float = 3.0, seed: int = 0) -> dict[str, Arrays]:
    """scikit-learn's 1,797 digits with noise (standard deviation in grey levels), as they were ``then`` and are ``today``: 800 images to train on, 797 to test.

    Today has 200 more to train on, labelled by someone who reads 9 as 4 and 7 as 1. The file is read without its library, whose import takes a second.
    """
    import numpy as np

    path = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    random = np.random.default_rng(seed)
    x = np.clip(np.rint(table[:, :64] + random.normal(0, noise, (len(table), 64))), 0, 16).astype(np.uint8)
    order = random.permutation(len(table))
    x, y = x[order], table[order, 64].astype(np.int64)
    misread = y[800:1000].copy()
    misread[misread == 9], misread[misread == 7] = 4, 1
    then = {"x": x[:800], "y": y[:800], "test_x": x[1000:], "test_y": y[1000:]}
    return {"then": then, "today": then | {"x": x[:1000], "y": np.concatenate([y[:800], misread])}}


def pack(arrays: Arrays) -> bytes:
    """The bytes of a data set's file."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(content: bytes) -> Arrays:
    """The arrays of a data set's file; no pickle in it is read."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


@dataclass(frozen=True)
class Desk:
    """``folder`` has the project (a repository), the store and the database; any process that is told the folder sits at the same desk."""

    folder: Path

    @property
    def repository(self) -> Repository:
        return Repository(self.folder / "project")

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def database(self) -> Path:
        """Where MLflow puts its SQLite file when it is told nothing: into the folder it is started in."""
        return self.folder / "project" / "mlflow.db"

    def furnish(self) -> "Desk":
        """Commit the project, then edit it and lay the data beside it, as it all was when the 92 % were made."""
        sources = sorted((Path(__file__).parent / "project").glob("*.py"))
        ignored = "data.npz\nmodel.pt\nmetrics.json\nmlflow.db\nmlruns/\nartifacts/\n__pycache__/\n"
        self.repository.commit({path.name: path.read_text(encoding="utf-8") for path in sources} | {".gitignore": ignored}, "digits from noisy images")
        (self.repository.folder / "data.npz").write_bytes(pack(digits()["then"]))
        self.edit("then")
        return self

    def edit(self, code: str, *more: tuple[str, str]) -> None:
        """Put one of the edits, by its name in EDITED, into the work tree; ``more`` are further texts and what takes their place."""
        text = (Path(__file__).parent / "project" / "train.py").read_text(encoding="utf-8")
        for old, new in ((COMMITTED, EDITED[code]), *more):
            text = text.replace(old, new)
        self.repository.write("train.py", text)


@dataclass
class Trainer:
    """Trains with the code that lies on a desk, and records in its store all that a run depends on."""

    desk: Desk

    @cached_property
    def surroundings(self) -> dict[str, Any]:
        """What of a record is the same for every run of this process."""
        import torch

        store, repository = self.desk.store, self.desk.repository
        return {
            "commit": repository.head,
            "history": store.put(repository.bundle()),
            "environment": store.put(packages().encode()),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }

    def code(self, name: str, *more: tuple[str, str]) -> tuple[Callable, str]:
        """The function ``train`` of the work tree with this edit, run from its file, and the digest of the edit that no commit holds."""
        self.desk.edit(name, *more)
        return load_train(self.desk.repository.folder), self.desk.store.put(self.desk.repository.edits())

    def run(self, name: str, code: tuple[Callable, str], arrays: Arrays, data: str, seed: int, params: dict, threads: int = 1) -> Run:
        """One training, recorded. The seed and the thread count are asked of torch, not of the caller, who may not have set them."""
        import torch

        from mllandscape import fingerprint

        train, edits = code
        model, accuracy = train(arrays, seed, threads, **params)
        state = model.state_dict()
        return Run(
            name=name, params=params, seed=torch.initial_seed(), threads=torch.get_num_threads(), data=data, edits=edits,
            model=self.desk.store.put(checkpoint.dump(state)), weights=fingerprint.weights(state), accuracy=accuracy, **self.surroundings,
        )  # fmt: skip


def load_train(folder: Path) -> Callable:
    """The function ``train`` of the project in this folder."""
    return runpy.run_path(str(folder / "train.py"))["train"]


def accuracy_of(train: Callable, state: dict[str, Any], arrays: Arrays) -> float:
    """The share of right answers of a stored model, with the preprocessing that this ``train`` stands beside."""
    import torch
    from torch.nn.functional import linear

    seen = train.__globals__["preprocess"](torch.from_numpy(arrays["test_x"]).double())
    answers = linear(linear(seen, state["0.weight"], state["0.bias"]).relu(), state["2.weight"], state["2.bias"]).argmax(1)
    return (answers == torch.from_numpy(arrays["test_y"])).double().mean().item()
