"""The usual snippet of MLflow, run as it is written, and what MLflow does today where it says nothing. For a child process."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mllandscape.versioning import keeps
from mllandscape.versioning.desk import Desk, Trainer

SNIPPET = (
    "import mlflow",
    "mlflow.start_run()",
    'mlflow.log_param("model_name", "llama-2-7b")',
    'mlflow.log_param("learning_rate", 2e-5)',
    'mlflow.log_param("batch_size", 16)',
    'mlflow.log_param("dataset_hash", compute_dataset_hash())',
    'mlflow.log_param("code_commit", get_git_commit())',
    'mlflow.log_metric("accuracy", accuracy)',
    'mlflow.pytorch.log_model(model, "model")',
    "mlflow.end_run()",
    'run = mlflow.get_run(run_id="abc123")',
    "params = run.data.params",
)
"""The usual answer's code, line by line."""


def run_here(desk: Desk, trainer: Trainer, arrays: dict, data: str) -> tuple[dict, list[dict], dict, dict]:
    """In the child: what the script left behind, what came of each of its lines, what else happens today, and what MLflow kept."""
    import mlflow

    default = mlflow.get_tracking_uri()
    (crashed,) = mlflow.search_runs(["0"], output_format="list")
    script = {"status": crashed.info.status, "metrics": crashed.data.metrics, "params": crashed.data.params}
    edits = trainer.code("then")[1]
    kept = keeps.mlflow_here(desk, trainer, arrays, data)
    lines = lines_here(desk)
    probes = {"default": default.replace(str(desk.folder), "…")} | probes_here(desk, arrays)
    tags = " ".join(f"{tag} {value}" for run in mlflow.search_runs(["0"], output_format="list") for tag, value in run.data.tags.items())
    probes["commit in the tags"] = desk.repository.head in tags
    probes["edits in the tags"] = edits[:12] in tags or "x.std()" in tags
    return script, lines, probes, kept


def lines_here(desk: Desk) -> list[dict[str, Any]]:
    """Each line of the snippet in turn; where one fails, what stood for it so that the next could run."""
    import mlflow
    import torch

    names: dict[str, Any] = {"accuracy": 0.92, "model": torch.nn.Linear(64, 10)}
    stands_in = {5: "mlflow.log_param('dataset_hash', 'b5bb9d80')", 6: "mlflow.log_param('code_commit', '9c1185a5')"}
    lines = []
    for place, line in enumerate(SNIPPET):
        said = attempt(lambda line=line: exec(line, names), desk)
        if said and place in stands_in:
            exec(stands_in[place], names)
        if said and "get_run" in line:
            names["run"] = mlflow.last_active_run()
        lines.append({"line": line, "said": said})
    return lines


def attempt(action: Callable[[], Any], desk: Desk | None = None) -> str:
    """The first sentence of what a failing action says, without folders and run ids; empty when it works."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            action()
    except Exception as error:
        words = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        for folder in {str(desk.folder), os.path.realpath(desk.folder)} if desk else ():
            words = words.replace(folder, "…")
        return re.sub(r"\b[0-9a-f]{32}\b", "<id>", re.split(r"(?<=[a-z]{2}[.])\s", words)[0])
    return ""


def probes_here(desk: Desk, arrays: dict) -> dict[str, Any]:
    """What MLflow does today where the snippet says nothing."""
    import mlflow
    import torch

    found: dict[str, Any] = {}
    params = mlflow.get_run(mlflow.last_active_run().info.run_id).data.params
    found["parameters read back"] = {name: params[name] for name in ("model_name", "learning_rate", "batch_size")}
    found["a rate as text"] = attempt(lambda: torch.optim.Adam(torch.nn.Linear(2, 2).parameters(), lr="2e-05"))
    mlflow.start_run()
    found["a second start_run"] = attempt(lambda: mlflow.start_run(), desk)
    mlflow.log_param("batch_size", 16)
    found["a parameter again"] = attempt(lambda: mlflow.log_param("batch_size", 32), desk)
    mlflow.log_text("first", "notes.txt")
    mlflow.log_text("second", "notes.txt")
    found["an artifact again"] = mlflow.artifacts.load_text(f"{mlflow.active_run().info.artifact_uri}/notes.txt")
    mlflow.end_run()
    with contextlib.suppress(ZeroDivisionError), mlflow.start_run():
        1 / 0  # noqa: B018  (a run that dies inside its with block)
    found["status after with"] = mlflow.last_active_run().info.status
    layer = torch.nn.Linear(4, 2)
    example = torch.zeros(2, 4)
    with mlflow.start_run():
        for name, kind in (("NumPy", example.numpy()), ("torch", example)):
            said = attempt(lambda kind=kind: mlflow.pytorch.log_model(layer, name="model", input_example=kind, pip_requirements=["torch"]), desk)
            found[f"log_model with a {name} example"] = said
    x = arrays["x"]
    changed = x.copy()
    changed[len(x) // 2 :] = 0
    found["digests"] = [mlflow.data.from_numpy(values).digest for values in (x, changed)]
    found["values compared"] = [int((x != changed).sum()), int(x.size)]
    found |= pickle_here(desk)
    uri = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((desk.folder / "mlruns").as_uri())
    found["file store"] = attempt(lambda: mlflow.start_run(), desk)
    mlflow.set_tracking_uri(uri)
    return found


class Payload:
    """An object whose pickle, when it is loaded, makes a folder: harmless, and as good a proof as anything worse."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def pickle_here(desk: Desk) -> dict[str, Any]:
    """A model that MLflow stored as a pickle, its file replaced: what happens on load, by default and with pickles disallowed."""
    import mlflow
    import torch

    with mlflow.start_run():
        info = mlflow.pytorch.log_model(torch.nn.Linear(4, 2), name="pickled", serialization_format="pickle", pip_requirements=["torch"])
    (stored,) = Path(mlflow.artifacts.download_artifacts(info.model_uri)).glob("data/*.pth")
    ran = desk.folder / "code-ran"
    torch.save(Payload(str(ran)), stored)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    disallowed = attempt(lambda: mlflow.pytorch.load_model(str(stored.parents[1])), desk)
    before = ran.exists()
    del os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"]
    attempt(lambda: mlflow.pytorch.load_model(str(stored.parents[1])), desk)
    after = ran.exists()
    if after:
        ran.rmdir()
    return {"pickle disallowed": disallowed, "its code ran": {"disallowed": before, "by default": after}}
