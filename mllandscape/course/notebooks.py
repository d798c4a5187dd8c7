"""The notebooks as files: the learner's own copies, and the committed references that are re-executed and normalised.

``python -m mllandscape.course.notebooks references [--only 03] [--renew]`` runs every notebook in a fresh kernel without a GPU and stores its outputs;
``table`` writes minutes and needs of each lesson, as its first cell says them, into the README's table, and into its first lines how many of
the statements that the lessons quote hold.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllandscape import BadInput, claims

_PACKAGE = Path(__file__).parents[1]
FOLDER = (_PACKAGE if (_PACKAGE / "notebooks").is_dir() else _PACKAGE.parent) / "notebooks"  # inside an installed package, beside it in the repository
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
IGNORED = "nbval-ignore-output"
OUTPUT_OF = "output_of"  # in the metadata of such a cell: a digest of the source that gave its stored output


def sources(only: str = "") -> list[Path]:
    """The committed notebooks, in order; with ``only``, those whose name starts with it, such as ``"03"``."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in found if path.name.startswith(only)]
    if not chosen:
        raise BadInput(f"No notebook {f'starts with {only!r}' if only else 'is there'} in {FOLDER}; it holds {', '.join(p.stem for p in found) or 'none'}.")
    return chosen


@dataclass(frozen=True)
class Opening:
    """What the first cell of a notebook says; ``title`` is without "Lesson 3:", ``needs`` is the whole paragraph."""

    title: str
    question: str
    objectives: tuple[str, ...]
    minutes: int
    needs: str


def opening(source: str) -> Opening:
    """Read the source of a notebook's first cell. Raises BadInput that names what it does not say."""
    wanted = {"title": r"# (?:Lesson \d+: )?(.+)", "question": r"> (.+)", "minutes": r"\*\*Minutes:\*\* (\d+)", "needs": r"\*\*Needs:\*\* (.+)"}
    found = {name: re.search(rf"^{pattern}", source, re.MULTILINE) for name, pattern in wanted.items()}
    if missing := [name for name, match in found.items() if not match]:
        raise BadInput(f"A notebook's first cell says no {' and no '.join(missing)}; lesson 3's is the pattern.")
    texts = {name: match[1].strip() for name, match in found.items() if match}
    return Opening(texts["title"], texts["question"], tuple(re.findall(r"^- (.+)", source, re.MULTILINE)), int(texts["minutes"]), texts["needs"])


def with_table(readme: str) -> str:
    """The text of the README with the table of lessons as the notebooks are now.

    A lesson that has a notebook gets its minutes, the first sentence of its needs, and "ready"; its question stays as the README words it, and
    is the notebook's title where it is new. A row without a notebook is "being built". Raises BadInput where the README has no such table.
    """
    rows = {match[1]: match[2].split(" | ") for match in re.finditer(r"^\| `(\d\d_\w+)` \| (.+) \|$", readme, re.MULTILINE)}
    if not rows or any(len(cells) != 4 for cells in rows.values()):
        raise BadInput("The README has no table of lessons with five columns: notebook, question, minutes, needs, state.")
    table = re.compile(r"^(?:\| `\d\d_\w+` \| .+ \|\n)+", re.MULTILINE)
    for name, cells in rows.items():
        rows[name] = [*cells[:3], "being built"]
    for path in sources():
        first = opening("".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]))
        said = (rows[path.stem][0] if path.stem in rows else first.title, first.needs.split(". ")[0].rstrip("."))
        question, needs = (re.sub(r"(?<!\\)\|", r"\\|", text) for text in said)
        rows[path.stem] = [question, str(first.minutes), needs, "ready"]
    lines = [f"| `{name}` | {' | '.join(cells)} |\n" for name, cells in sorted(rows.items())]
    return table.sub(lambda match: "".join(lines), readme, count=1)


def with_count(readme: str) -> str:
    """The text of the README with the count of statements as ``claims.toml`` is now. Raises BadInput where the README has no such sentence.

    Counted are quotes from the usual answer to the ten questions, which are in lessons 1 to 9. Omissions are not in that answer, lesson 10
    quotes advice on how to answer, and a lesson added later has another answer.
    """
    quoted = [claim for claim in claims.ledger().values() if claim.quote and "01" <= claim.id[:2] <= "09"]
    hold = sum(claim.verdict == "true" for claim in quoted)
    sentence = re.compile(r"Of the \d+ statements\s+that lessons 1 to 9\s+quote from it, \d+ hold as written\.")
    counted, places = sentence.subn(f"Of the {len(quoted)} statements that lessons 1 to 9 quote from it, {hold} hold as written.", readme)
    if places != 1:
        raise BadInput(f"The README says in {places} places, not in one: Of the N statements that lessons 1 to 9 quote from it, N hold as written.")
    return counted


def learner_copies(folder: Path) -> list[Path]:
    """Put the learner's own copy of every notebook into ``folder``, without outputs and counts, and return the paths.

    A file that is there already is the learner's work and is never touched. Raises BadInput where the folder cannot be written.
    """
    copies = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources():
            copies.append(folder / source.name)
            write_new(copies[-1], fresh_copy(source))
    except OSError as error:
        raise BadInput(f"Your copies cannot be written to {folder} ({error.strerror}); choose another folder.") from None
    return copies


def fresh_copy(source: Path) -> str:
    """A notebook's text as a learner begins with it: without outputs and counts."""
    import nbformat

    book = nbformat.read(source, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(normalised(book)) + "\n"


def write_new(path: Path, text: str) -> bool:
    """Write a file that is not there yet, whole or not at all. False, and nothing done, where it exists."""
    try:
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            try:
                file.write(text)
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def normalised(book: Any) -> Any:
    """Drop from a notebook what differs between two runs or two machines and what no reader needs: widget state, times, versions."""
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    }
    for cell in book.cells:
        cell.metadata = {name: cell.metadata[name] for name in ("slideshow", "tags") if name in cell.metadata}
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data.pop(WIDGET_VIEW, None)
            if "metadata" in output:
                output.metadata = {}
    return book


def references(only: str = "", renew: bool = False) -> list[Path]:
    """Execute the notebooks afresh, without a GPU and with a temporary progress folder, and store the normalised outputs.

    A cell tagged nbval-ignore-output (its text varies by nature) keeps its stored output for as long as its source stays the same, so that
    a second run changes no byte; with ``renew`` it is stored anew like every other. Raises BadInput that names the first cell that fails;
    that notebook is then left as it was.
    """
    import nbformat

    chosen = sources(only)
    for number, path in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {path.name} ...", end=" ", flush=True)
        text = path.read_text(encoding="utf-8")
        stored = {cell["id"]: cell for cell in nbformat.reads(text, as_version=4).cells if cell.get("outputs")}
        book = nbformat.reads(text, as_version=4)
        run(book, path)
        kept = 0  # outputs that came out otherwise than stored
        for cell in normalised(book).cells:
            if IGNORED in cell.metadata.get("tags", []):
                cell.metadata[OUTPUT_OF] = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
                before = stored.get(cell["id"])
                if not renew and before and before.metadata.get(OUTPUT_OF) == cell.metadata[OUTPUT_OF]:
                    kept += without_counts(cell.outputs) != without_counts(before.outputs)
                    cell.outputs = before.outputs
        renewed = nbformat.writes(book) + "\n"
        if renewed != text:
            part = path.with_suffix(".part")
            part.write_text(renewed, encoding="utf-8", newline="\n")
            os.replace(part, path)
        said = f"; {kept} tagged {IGNORED} came out differently and kept what was stored, --renew stores them too" if kept else ""
        print(("unchanged" if renewed == text else "renewed") + said, flush=True)
    return chosen


def without_counts(outputs: list[Any]) -> list[dict[str, Any]]:
    """Outputs without their execution counts, which a cell put in above changes."""
    return [{name: value for name, value in output.items() if name != "execution_count"} for output in outputs]


def run(book: Any, path: Path) -> None:
    """Execute a notebook in place, in a fresh kernel of this very Python, whatever kernels the user has installed."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        book, km=kernel, timeout=600, record_timing=False, coalesce_streams=True, extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    reached: list[int] = []
    client.on_cell_start = lambda cell, cell_index: reached.append(cell_index)
    with tempfile.TemporaryDirectory() as data:
        try:
            client.execute(cleanup_kc=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "MLLANDSCAPE_DATA": data})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            first = book.cells[reached[-1]].source.strip().split("\n")[0] if reached else ""
            why = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error).split("\n")[0]
            raise BadInput(
                f"{path.name}, cell {reached[-1] + 1 if reached else 0} ({first}) failed: {why.rstrip('.')}. Mend it, then run references again."
            ) from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mllandscape.course.notebooks", description="Re-execute and normalise the committed notebooks.")
    parser.add_argument("verb", choices=["references", "table"])
    parser.add_argument("--only", default="", metavar="03", help="references: the start of a notebook's name")
    parser.add_argument("--renew", action="store_true", help=f"references: store the outputs of cells tagged {IGNORED} anew, too")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "table":
            readme = FOLDER.parent / "README.md"
            readme.write_text(with_count(with_table(readme.read_text(encoding="utf-8"))), encoding="utf-8", newline="\n")
        else:
            references(chosen.only, chosen.renew)
    except (BadInput, FileNotFoundError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
