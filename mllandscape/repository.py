"""A git repository that knows nothing of the user's own git: commits that are the same on every machine, and the edits that no commit holds."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mllandscape import BadInput

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
    "GIT_AUTHOR_NAME": "A. Learner", "GIT_AUTHOR_EMAIL": "learner@example.org", "GIT_AUTHOR_DATE": "1767258000 +0000",
    "GIT_COMMITTER_NAME": "A. Learner", "GIT_COMMITTER_EMAIL": "learner@example.org", "GIT_COMMITTER_DATE": "1767258000 +0000",
}  # fmt: skip
"""The environment in which git is the same for everyone. Dates are in the one form that git and those who write its files alone can read."""


class Repository:
    """The git repository in a folder. Raises BadInput, with git's own first line, when git refuses or is not there."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def commit(self, files: Mapping[str, str], message: str) -> str:
        """Write these files, by path, and commit all that is there; the first commit makes the repository. Returns the commit's hash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / ".git").exists():
            self.git("init", "--quiet", "--initial-branch=main")
            self.git("config", "core.autocrlf", "false")
        for path, text in files.items():
            self.write(path, text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head

    def write(self, path: str, text: str) -> None:
        """Change a file of the work tree, and commit nothing."""
        (self.folder / path).write_text(text, encoding="utf-8", newline="\n")

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").decode().strip()

    def edits(self) -> bytes:
        """The difference between the last commit and the files as they lie there, new ones included and ignored ones not; empty if there is none.

        ``git diff`` alone leaves out a file that was never added, although a run imports it. So everything is added to an index of its own.
        """
        with tempfile.TemporaryDirectory() as folder:
            own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.git("read-tree", "HEAD", env=own)
            self.git("add", "--all", env=own)
            return self.git("diff", "--cached", "--binary", "--full-index", "HEAD", env=own)

    def bundle(self) -> bytes:
        """Every commit, in one file that git can clone from."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.bundle"
            self.git("-c", "pack.threads=1", "bundle", "create", "--quiet", str(path), "HEAD", "main")
            return path.read_bytes()

    @classmethod
    def restore(cls, folder: str | os.PathLike, bundle: bytes, commit: str, edits: bytes = b"") -> "Repository":
        """A new work tree at this commit, with these edits on it."""
        made = cls(folder)
        with tempfile.TemporaryDirectory() as temporary:
            for name, content in (("history.bundle", bundle), ("edits.diff", edits)):
                (Path(temporary) / name).write_bytes(content)
            made.folder.mkdir(parents=True)
            made.git("clone", "--quiet", "--no-checkout", "--config", "core.autocrlf=false", str(Path(temporary) / "history.bundle"), ".")
            made.git("checkout", "--quiet", "--detach", commit)
            if edits:
                made.git("apply", "--whitespace=nowarn", str(Path(temporary) / "edits.diff"))
        return made

    def git(self, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """What one git command prints. The user's own configuration, ignored names and GIT_ variables have no part in it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        own = {**inherited, **IDENTITY, "XDG_CONFIG_HOME": os.devnull, **(env or {})}  # git/ignore and git/attributes lie there, or in HOME without it
        try:
            done = subprocess.run(["git", *words], cwd=self.folder, input=stdin, env=own, capture_output=True, check=False)
        except OSError:
            raise BadInput("git is not a program on this machine: install it.") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise BadInput(f"git {words[0]} in {self.folder.name} failed: {said or f'exit code {done.returncode}'}.")
        return done.stdout
