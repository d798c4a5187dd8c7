"""What test_model_versioning runs in a child process: MLflow on a database with one bit flipped, many times."""

import os
import random
import signal
import warnings
from pathlib import Path

from mllandscape import BadInput, record
from mllandscape.lessons import model_versioning as lesson
from mllandscape.versioning import tracking
from mllandscape.versioning.run import Run
from mllandscape.versioning.store import Store

EXPERIMENT = "flips"


def read_with_flipped_bits(folder: str, flips: int, seed: int) -> list[str]:
    """Log three runs, then read them from copies of the database: "the same", "OTHER RUNS", or the refusal. The first copy is whole."""
    warnings.simplefilter("ignore")
    store, database = Store(Path(folder) / "store"), Path(folder) / "mlflow.db"
    runs = [Run(f"run-{place}", {"learning_rate": 0.01 * place, "hidden": 64}, seed=place, threads=1, accuracy=0.9 + place / 1000) for place in (1, 2, 3)]
    digests = [run.save(store) for run in runs]
    tracking.use(database, EXPERIMENT)
    for run, digest in zip(runs, digests, strict=True):
        tracking.log(run, digest)
    whole, generator, found = database.read_bytes(), random.Random(seed), []
    logged = [place for word in (b"run-1", b"learning_rate", b"0.02", digests[0].encode()) for place in places(whole, word)]
    for number in range(flips):
        content = bytearray(whole)
        if number:  # every other one where the runs themselves are written
            place = generator.choice(logged) + generator.randrange(5) if number % 2 else generator.randrange(len(content))
            content[place] ^= 1 << generator.randrange(8)
        copy = Path(folder) / f"copy-{number}" / "mlflow.db"
        copy.parent.mkdir()
        copy.write_bytes(bytes(content))
        try:
            read = tracking.read(copy, EXPERIMENT, digests, store)
            found.append("the same" if record.plain(read) == record.plain(runs) else "OTHER RUNS")
        except BadInput as error:
            found.append(str(error))
        copy.unlink()
    return found


def places(content: bytes, word: bytes) -> list[int]:
    found, at = [], content.find(word)
    while at >= 0:
        found.append(at)
        at = content.find(word, at + 1)
    return found


def open_a_desk_and_die() -> None:
    """A kernel that is killed: the desk's folder goes to stdout first."""
    print(lesson.open_desk().folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    open_a_desk_and_die()
