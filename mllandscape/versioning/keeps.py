"""What a tracking tool keeps of a run: not what its documentation lists, but what can be found again in the files that it wrote.

Every tool is given the same run, and told its hyperparameters, its metric, its data and its model, as its documentation shows. Weights & Biases and DVC are
optional: ``python -m mllandscape.versioning.keeps`` records what they keep where both are installed.
"""

import base64
import contextlib
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import runpy
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllandscape import BadInput, record, sandbox
from mllandscape.machine import pip_install
from mllandscape.repository import IDENTITY
from mllandscape.versioning import checkpoint
from mllandscape.versioning.desk import Desk, Trainer, digits, pack
from mllandscape.versioning.run import Run, packages
from mllandscape.versioning.store import Store

SEED, PARAMS = 918_273, {"learning_rate": 0.0213, "hidden": 64, "epochs": 1}
"""Of the run that every tool is given: values that stand nowhere else."""

RECORDING = "model_versioning_tools"
OPTIONAL = {"Weights & Biases, offline": "wandb", "DVC": "dvc"}
"""Tools that this package does not install, by the name of their own package."""

OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "true"}


def facts(desk: Desk, trainer: Trainer, arrays: dict, data: str) -> tuple[Run, dict[str, list[bytes]]]:
    """The run, and for each thing that it comes back from the byte strings that prove that it was kept: each part of the packages, one of the others."""
    run = trainer.run("tracked", trainer.code("then"), arrays, data, SEED, PARAMS)
    content, weights = desk.store.get(data), checkpoint.load(desk.store.get(run.model), "model.pt")
    largest = max(weights.values(), key=lambda tensor: tensor.numel()).numpy().tobytes()
    digests = [hashlib.new(name, content) for name in ("md5", "sha256")]
    proofs = {
        "hyperparameters": [str(PARAMS["learning_rate"]).encode()],
        "accuracy": [repr(run.accuracy).encode(), struct.pack(">d", run.accuracy)],  # SQLite stores a number as eight bytes
        "commit": [run.commit.encode()],
        "uncommitted edits": [b"x.std()"],
        "digest of the data": [form for digest in digests for form in (digest.hexdigest().encode(), base64.b64encode(digest.digest()))],
        "the data": [content[len(content) // 2 :][:48]],
        "seed": [str(SEED).encode()],
        "thread count": [b"OMP_NUM_THREADS", b'"threads"'],
        "packages": [line.encode() for line in packages().split()],
        "processor": [processor().encode(), f'"cpu": "{run.cpu}"'.encode()],
        "the weights": [largest[:48]],
    }
    return run, proofs


def processor() -> str:
    """The processor's name; where the operating system does not tell, a text that is found nowhere."""
    with contextlib.suppress(OSError, TypeError):
        return re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    return "the processor has no name here"


def search(folders: Sequence[Path], wanted: Mapping[str, Sequence[bytes]]) -> dict[str, str]:
    """For each fact ``kept`` or ``not kept``: does one of its byte strings stand in a file under these folders, compressed or not? Or ``a few`` packages."""
    found: dict[str, set[bytes]] = {fact: set() for fact in wanted}
    for folder in folders:
        for path in folder.rglob("*") if folder.is_dir() else [folder]:
            if path.is_file():
                for content in _unpacked(path.read_bytes()):
                    for fact, strings in wanted.items():
                        found[fact] |= {string for string in strings if string in content}
    verdicts = {fact: "kept" if strings else "not kept" for fact, strings in found.items()}
    if "packages" in wanted and len(found["packages"]) < 0.9 * len(wanted["packages"]):
        verdicts["packages"] = "a few" if found["packages"] else "not kept"
    return verdicts


def _unpacked(content: bytes) -> Iterator[bytes]:
    """The bytes as they are, and what a zip archive, gzip or zlib (git's objects) made of them."""
    yield content
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            yield archive.read(name)
    for unpack in (gzip.decompress, zlib.decompress):
        with contextlib.suppress(Exception):
            yield unpack(content)


def mlflow_here(desk: Desk, trainer: Trainer, arrays: dict, data: str) -> dict[str, dict[str, str]]:
    """In a child: what MLflow keeps, and what a record in a store keeps. The project's own script with_mlflow.py runs as if it were called."""
    import mlflow

    run, wanted = facts(desk, trainer, arrays, data)
    script = desk.repository.folder / "with_mlflow.py"
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), "--seed", str(SEED)]  # where MLflow looks for the script, and for its commit
    with contextlib.redirect_stderr(io.StringIO()):
        runpy.run_path(str(script), run_name="__main__")
    wanted["digest of the data"] += [one.dataset.digest.encode() for one in mlflow.last_active_run().inputs.dataset_inputs]
    own = Store(desk.folder / "own")
    for digest in (run.save(desk.store), run.data, run.edits, run.environment, run.model):
        own.put(desk.store.get(digest))
    return {"MLflow": search([desk.database, desk.repository.folder / "mlruns"], wanted), "a record in a store": search([own.folder], wanted)}


@dataclass(frozen=True)
class Kept:
    """What a tool kept, by fact, and where that was seen: its version, and ``computed here`` or the line of a recording."""

    facts: dict[str, str]
    where: str


def optional() -> dict[str, Kept]:
    """What Weights & Biases and DVC keep: run here where they are installed, from the recording where they are not."""
    installed = [name for name, package in OPTIONAL.items() if importlib.util.find_spec(package)]
    recorded = record.load(RECORDING)
    kept = {}
    for names, data, where in (
        (installed, _in_a_child(installed) if installed else None, "computed here"),
        ([name for name in OPTIONAL if recorded and name not in installed], recorded and recorded.data, str(recorded)),
    ):
        kept |= {name: Kept(data["kept"][name], f"{data['versions'][name]}, {where}") for name in names}
    return kept


def record_optional() -> None:
    """Run both tools, and keep what they kept."""
    if missing := [package for package in OPTIONAL.values() if importlib.util.find_spec(package) is None]:
        raise BadInput(f"nothing to record: {' and '.join(missing)} missing; {pip_install(*missing)}")
    record.save(RECORDING, _in_a_child(list(OPTIONAL)), record.here("python -m mllandscape.versioning.keeps"))


def _in_a_child(names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mllandscape-", ignore_cleanup_errors=True) as folder:
        env = OFFLINE | {"TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        told = sandbox.call("mllandscape.versioning.keeps:optional_here", env=env, seconds=300, names=names)
    if not told.ok:
        raise BadInput(f"{' or '.join(names)} ended with {told.ending}: {told.message.partition(chr(10))[0]}.")
    return told.value


def optional_here(names: Sequence[str]) -> dict[str, Any]:
    """In a child: give each tool the run at a desk of its own, and search what it left."""
    kept = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mllandscape-", ignore_cleanup_errors=True) as folder:
            desk = Desk(Path(folder)).furnish()
            arrays = digits()["then"]
            _, wanted = facts(desk, Trainer(desk), arrays, desk.store.put(pack(arrays)))
            kept[name] = search({"wandb": _wandb, "dvc": _dvc}[OPTIONAL[name]](desk), wanted)
    return {"kept": kept, "versions": {name: importlib.metadata.version(OPTIONAL[name]) for name in names}}


def _wandb(desk: Desk) -> list[Path]:
    """The project's script with_wandb.py, and the folder that it was told to write to."""
    home = desk.folder / "home"
    _run([sys.executable, "with_wandb.py", "--seed", str(SEED)], desk, WANDB_DIR=str(home), WANDB_DATA_DIR=str(home), WANDB_CACHE_DIR=str(home))
    return [home]


def _dvc(desk: Desk) -> list[Path]:
    """The data added, the training as a stage, one experiment. DVC keeps files in its cache and the rest in git."""
    dvc, params = [sys.executable, "-m", "dvc"], " ".join(f"--{name.replace('_', '-')} {value}" for name, value in PARAMS.items())
    desk.edit("committed")
    stage = ["-n", "train", "-d", "train.py", "-d", "data.npz", "-o", "model.pt", "-M", "metrics.json", f"{sys.executable} train.py --seed {SEED} {params}"]
    for words in (["init", "-q"], ["add", "-q", "data.npz"], ["stage", "add", "-q", *stage]):
        _run([*dvc, *words], desk)
    desk.repository.commit({}, "pipeline")
    desk.edit("then")
    _run([*dvc, "exp", "run", "-q"], desk)
    return [desk.repository.folder / name for name in (".dvc", ".git", "dvc.lock", "data.npz.dvc")]


def _run(words: list[str], desk: Desk, **env: str) -> None:
    path = os.pathsep.join(filter(None, sys.path))  # a tool may live in another environment than torch
    done = sandbox.command(words, cwd=desk.repository.folder, seconds=120, env={"HOME": str(desk.folder), "PYTHONPATH": path} | OFFLINE | IDENTITY | env)
    if not done.ok:
        raise BadInput(f"{' '.join(words[1:4])} ended with {done.ending}: {(done.stderr or done.stdout).strip().rpartition(chr(10))[2]}.")


if __name__ == "__main__":
    from mllandscape.versioning import keeps

    sys.exit(record.main({"": keeps.record_optional}))
