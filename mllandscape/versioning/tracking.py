"""MLflow on a SQLite file, without a server: runs are logged with the digest of their record, and read back only if both agree.

The functions that touch MLflow are for a child process: it logs, warns and keeps global state.
"""

import sqlite3
from pathlib import Path

from mllandscape import BadInput
from mllandscape.versioning.run import Run
from mllandscape.versioning.store import Store

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore",
}  # fmt: skip
"""The environment of a child that uses MLflow: nothing is sent anywhere."""


def check(database: Path) -> None:
    """Refuse, by name, a file that is not a whole SQLite database. It has no checksum: a changed value inside a page is not seen here, but by ``read``."""
    try:
        with open(database, "rb") as file:
            header = file.read(100)
    except OSError as error:
        raise BadInput(f"{database.name} cannot be read ({error.strerror}).") from None
    size, page, pages = database.stat().st_size, int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    page = 65_536 if page == 1 else page
    if not header.startswith(b"SQLite format 3\0") or size != page * pages:
        whole = f"; its header speaks of {page * pages:,}" if header.startswith(b"SQLite format 3\0") else ", and no SQLite header"
        raise BadInput(f"{database.name} is not a whole SQLite database: it has {size:,} bytes{whole}. Restore it from a copy.")
    try:
        with sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro&immutable=1", uri=True) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        found = str(error)
    if found != "ok":
        raise BadInput(f"{database.name} is damaged: SQLite says {found.splitlines()[-1]!r}. Restore it from a copy.")


def use(database: Path, experiment: str) -> str:
    """In a child: make this file MLflow's store, and this experiment the one that runs go to. Returns the experiment's id."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{database.as_posix()}")
    known = mlflow.get_experiment_by_name(experiment)
    number = known.experiment_id if known else mlflow.create_experiment(experiment, artifact_location=(database.parent / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=number)
    return number


def log(run: Run, digest: str) -> None:
    """In a child: one MLflow run with this record's name, its numbers to search by, and the digest of the record, which has everything."""
    import mlflow

    with mlflow.start_run(run_name=run.name):
        mlflow.log_params({**run.params, "seed": run.seed, "threads": run.threads})
        mlflow.log_metric("accuracy", run.accuracy)
        mlflow.set_tag("record", digest)


def read(database: Path, experiment: str, digests: list[str], store: Store) -> list[Run]:
    """In a child: the runs with these records, in this order, as the database lists them and the store holds them.

    Raises BadInput, by name, for a database that is damaged, that lacks one of the runs or has another number for one than its record.
    """
    import mlflow

    check(database)
    try:
        number = use(database, experiment)
        rows = {row.data.tags.get("record"): row for row in mlflow.search_runs([number], output_format="list")}
    except Exception as error:  # SQLAlchemy, MLflow and SQLite each have their own
        raise BadInput(f"{database.name} cannot be read by MLflow ({type(error).__name__}): restore it from a copy.") from None
    runs = []
    for digest in digests:
        run = Run.load(store, digest)
        if (row := rows.get(digest)) is None:
            raise BadInput(f"{database.name} has no run with the record {digest[:12]} ({run.name}): restore it from a copy.")
        logged = {name: str(value) for name, value in {**run.params, "seed": run.seed, "threads": run.threads}.items()}
        if (row.info.run_name, row.data.params, row.data.metrics) != (run.name, logged, {"accuracy": run.accuracy}):
            raise BadInput(f"{database.name} and the record of {run.name} disagree: the record {digest[:12]} stands, the database was changed.")
        runs.append(run)
    return runs
