"""The notebooks as files: the learner's own copies, and the committed references that are re-executed and normalised.

``python -m mllandscape.course.notebooks references [--only 03]`` runs every notebook in a fresh kernel without a GPU and stores its outputs.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from mllandscape import BadInput

FOLDER = Path(__file__).parents[2] / "notebooks"  # beside the package, in the repository
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


def learner_copies(folder: Path) -> list[Path]:
    """Put the learner's own copy of every notebook into ``folder``, without outputs and counts, and return the paths.

    A file that is there already is the learner's work and is never touched. Raises BadInput where the folder cannot be written.
    """
    import nbformat

    copies = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources():
            book = nbformat.read(source, as_version=4)
            for cell in book.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            copies.append(folder / source.name)
            write_new(copies[-1], nbformat.writes(normalised(book)) + "\n")
    except OSError as error:
        raise BadInput(f"Your copies cannot be written to {folder} ({error.strerror}); choose another folder.") from None
    return copies


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


def references(only: str = "") -> list[Path]:
    """Execute the notebooks afresh, without a GPU and with a temporary progress folder, and store the normalised outputs.

    A cell tagged nbval-ignore-output (its text varies by nature) keeps its stored output for as long as its source stays the same, so that
    a second run changes no byte; clear that output to have it renewed. Raises BadInput that names the first cell that fails; that
    notebook is then left as it was.
    """
    import nbformat

    chosen = sources(only)
    for number, path in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {path.name} ...", end=" ", flush=True)
        text = path.read_text(encoding="utf-8")
        stored = {cell["id"]: cell for cell in nbformat.reads(text, as_version=4).cells if cell.get("outputs")}
        book = nbformat.reads(text, as_version=4)
        run(book, path)
        for cell in normalised(book).cells:
            if IGNORED in cell.metadata.get("tags", []):
                cell.metadata[OUTPUT_OF] = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
                if (before := stored.get(cell["id"])) and before.metadata.get(OUTPUT_OF) == cell.metadata[OUTPUT_OF]:
                    cell.outputs = before.outputs
        renewed = nbformat.writes(book) + "\n"
        if renewed != text:
            part = path.with_suffix(".part")
            part.write_text(renewed, encoding="utf-8", newline="\n")
            os.replace(part, path)
        print("unchanged" if renewed == text else "renewed", flush=True)
    return chosen


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
            raise BadInput(f"{path.name}, cell {reached[-1] + 1 if reached else 0} ({first}) failed: {why}. Mend it, then run references again.") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mllandscape.course.notebooks", description="Re-execute and normalise the committed notebooks.")
    parser.add_argument("verb", choices=["references"])
    parser.add_argument("--only", default="", metavar="03", help="the start of a notebook's name")
    try:
        references(parser.parse_args(arguments).only)
    except BadInput as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
