"""A repository of 64 commits, one of which broke the pipeline, and ``git bisect run`` on it with the golden items as the test.

``python -m mllandscape.serving.history check GOLDEN TRIED`` is what git runs in each checkout; ``… record`` keeps two searches for machines
without git.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllandscape import BadInput, drift, record, sandbox
from mllandscape.repository import Repository
from mllandscape.serving.pipeline import forward, load_golden, normalise, release, save_golden, serve

COMMITS = 64
SETTINGS = ("batch size", "log level", "replicas", "timeout", "owner")
ME = "mllandscape.serving.history"
RECORDING = "accuracy_drop_bisect"


@dataclass(frozen=True)
class Bisected:
    """What ``git bisect run`` did: the accuracy at each commit that it tried, in that order, and the commit that it named. Commits count from 1.

    ``where`` says whether git ran here or the search is a recorded one.
    """

    tried: dict[int, float]
    named: int
    subject: str
    where: str


def settings(seed: int) -> tuple[list[dict], int]:
    """The pipeline's settings in each of 64 commits, and the number of the commit that broke it: a decimal point of its normalisation slipped."""
    random = np.random.default_rng(seed)
    mean, std = release().state.processing
    culprit = int(random.integers(8, COMMITS - 1))
    now, commits = {"mean": mean, "std": std} | dict.fromkeys(SETTINGS, 0), []
    for number in range(1, COMMITS + 1):
        now = now | {str(random.choice(SETTINGS)): number} | ({"std": round(10 * std, 3)} if number == culprit else {})
        commits.append(now)
    return commits, culprit


def bisect(seed: int, bad: int = COMMITS, check_ends: bool = True) -> Bisected:
    """Let git find the commit between the first and ``bad`` that broke the pipeline.

    Raises BadInput where the first commit fails the check or ``bad`` passes it: git does not ask, and names a commit all the same, as
    ``check_ends=False`` shows. Without git the recorded search is returned, which there is for two ends of seed 0.
    """
    if not 2 <= bad <= COMMITS:
        raise BadInput(f"bad={bad}: a commit from 2 to {COMMITS} is possible.")
    if shutil.which("git") is None:
        return _recorded(seed, bad, check_ends)
    with tempfile.TemporaryDirectory(prefix="mllandscape-") as folder:
        save_golden(Path(folder) / "golden.npz")
        outcome = sandbox.call(f"{ME}:bisect_here", seconds=120, folder=folder, commits=settings(seed)[0], bad=bad, check_ends=check_ends)
    if not outcome.ok:
        raise BadInput(outcome.message if outcome.error_type == "BadInput" else f"the bisection ended with {outcome.ending}: {outcome.message}.")
    return _bisected(outcome.value, "git ran here")


def _bisected(found: dict, where: str) -> Bisected:
    return Bisected({number: accuracy for number, accuracy in found["tried"]}, found["named"], found["subject"], where)


def _recorded(seed: int, bad: int, check_ends: bool) -> Bisected:
    kept = record.load(RECORDING)
    if seed != 0 or str(bad) not in kept.data:
        raise BadInput(f"git is not installed here, and searches are recorded for seed 0 and bad {', '.join(kept.data)} alone: install git.")
    if check_ends and bad < settings(0)[1]:
        raise BadInput(_nothing_to_find(bad, "fail", bad))
    return _bisected(kept.data[str(bad)], f"git is not installed here; this search was {kept}")


def _nothing_to_find(number: int, wanted: str, bad: int) -> str:
    return f"commit {number} does not {wanted} the check, so there is nothing to find from 1 to {bad}; choose a first end that passes and a last that fails."


def bisect_here(folder: str, commits: list[dict], bad: int, check_ends: bool) -> dict:
    """The child's part: make the repository with git fast-import, check both ends, run the bisection."""
    repository, tried = Repository(Path(folder) / "repository"), Path(folder) / "tried.jsonl"
    repository.folder.mkdir()
    check = [sys.executable, "-P", "-m", ME, "check", str(Path(folder) / "golden.npz"), str(tried)]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}

    def git(*words: str, **more: Any) -> str:
        return repository.git(*words, **more).decode().strip()

    git("init", "--quiet", "--initial-branch=main")
    git("fast-import", "--quiet", stdin=fast_import(commits))
    shas = git("rev-list", "--reverse", "main").split()
    for number, wanted in ((1, "pass"), (bad, "fail")) if check_ends else ():
        git("checkout", "--quiet", shas[number - 1])
        code = subprocess.run(check, cwd=repository.folder, env=os.environ | path, capture_output=True, check=False).returncode
        if {0: "pass", 1: "fail"}.get(code) != wanted:
            raise BadInput(_nothing_to_find(number, wanted, bad))
    tried.write_text("", encoding="utf-8")  # without the ends
    git("bisect", "start", shas[bad - 1], shas[0])
    git("bisect", "run", *check, env=path)
    named = git("rev-parse", "refs/bisect/bad")
    lines = (json.loads(line) for line in tried.read_text(encoding="utf-8").splitlines())
    return {
        "tried": [[shas.index(commit) + 1, accuracy] for commit, accuracy in lines],
        "named": shas.index(named) + 1,
        "subject": git("log", "-1", "--format=%s", named),
    }


def fast_import(commits: list[dict]) -> bytes:
    """The commits as a stream for ``git fast-import``: one file, one line of history, fixed author and dates, so fixed names."""
    stream = b""
    for number, now in enumerate(commits, 1):
        before = commits[number - 2] if number > 1 else {}
        subject = f"set {', '.join(name for name in now if now[name] != before.get(name))}".encode()
        content = json.dumps(now, indent=1).encode()
        stream += b"commit refs/heads/main\ncommitter Team <team@example.com> %d +0000\n" % (1_700_000_000 + 3600 * number)
        stream += b"data %d\n%s\nM 100644 inline pipeline.json\ndata %d\n%s\n" % (len(subject), subject, len(content), content)
    return stream


def check_here(golden: str, tried: str) -> int:
    """The test in a checkout: 0 where the golden items are answered as well as at the release, 1 where they are not, beyond chance."""
    now = json.loads(Path("pipeline.json").read_text(encoding="utf-8"))
    state, labels = load_golden(golden)
    frozen = serve(state).answers == labels
    answers = forward(normalise(state.data, (now["mean"], now["std"])), state.weights, state.hardware).argmax(1)
    commit = Repository(".").head
    with open(tried, "a", encoding="utf-8") as log:
        log.write(json.dumps([commit, float((answers == labels).mean())]) + "\n")
    test = drift.paired(frozen, answers == labels)
    return int(test.drop > 0 and test.p < drift.LEVEL)


def record_searches() -> None:
    """Keep the search from 1 to 64, and one whose last end passes, unchecked."""
    if shutil.which("git") is None:  # the recorded searches would be kept as new ones
        raise BadInput("nothing to record: git is not installed here; install git.")
    searches = {str(bad): bisect(0, bad, check_ends=bad == COMMITS) for bad in (COMMITS, 5)}
    data = {bad: {"tried": [[*pair] for pair in found.tried.items()], "named": found.named, "subject": found.subject} for bad, found in searches.items()}
    record.save(RECORDING, data, record.here(f"python -m {ME} record"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"] and len(sys.argv) == 4:
        sys.exit(check_here(*sys.argv[2:]))
    sys.exit(record.main({"record": record_searches}))
