"""Where a notebook runs under nbval, and what is printed when it fails: notebooks made here, run as ``run.py test`` runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
FIGURE = """class Figure:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "Peak 3 GB.", "text/html": '<figure><img alt="Peak 3 GB." src="data:image/png;base64,QUJD"></figure>'}
Figure()"""


def ended_in(folder: Path, cells: list[Any], arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as run.py does, in a small repository with a notebook of these cells and one unit test."""
    for name in ("notebooks", "tests"):
        (folder / name).mkdir()
    for name in ("conftest.py", "tests/__init__.py", "tests/failed_cell.py", "tests/nbval.cfg"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "tests" / "test_nothing.py").write_text("def test_nothing(): pass\n")
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "03_x.ipynb")
    nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval.cfg"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *nbval, *arguments]
    short = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}  # pytest repeats whole messages at the end of a CI log
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=short | variables)


@pytest.mark.parametrize("arguments", [["tests", "notebooks"], ["notebooks/03_x.ipynb"]], ids=" ".join)
def test_a_notebooks_kernel_has_no_gpu_an_empty_progress_folder_and_settings_of_its_own(arguments, tmp_path):
    names = ["CUDA_VISIBLE_DEVICES", "MLLANDSCAPE_DATA", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"]
    source = f"import os\nprint(*('mllandscape-test-' in os.environ[name] or os.environ[name] for name in {names}))"
    cell = new_code_cell(source, execution_count=1, outputs=[new_output("stream", text=" True True True\n")])
    ended = ended_in(tmp_path, [cell], arguments, **dict.fromkeys(names, "the user's own"))
    assert ended.returncode == 0, ended.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal are sent another way on Windows")
def test_children_can_be_interrupted_where_the_tests_run_in_the_background_of_a_script():
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    code = f"import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); import conftest; subprocess.run([sys.executable, '-c', {child!r}])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize(("arguments", "counts"), [(["tests", "notebooks"], "4 failed, 2 passed"), (["notebooks/03_x.ipynb"], "4 failed, 1 passed")])
def test_a_failed_notebook_names_its_cell_and_shows_a_unified_diff(arguments, counts, tmp_path):
    table = [f"line {number} of a long table" for number in range(40)]
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("1 + 1", id="fine", outputs=[new_output("execute_result", data={"text/plain": "2"})]),
        new_code_cell(
            'for n in range(40):\n    print("line", n, "of a long table")',
            id="differs",
            outputs=[new_output("stream", text="\n".join(table).replace("31", "13") + "\n")],
        ),
        new_code_cell(
            FIGURE,
            id="figure",
            outputs=[
                new_output(
                    "execute_result", data={"text/plain": "Peak 4 GB.", "text/html": '<figure><img alt="Peak 4 GB." src="data:image/png;base64,Q"></figure>'}
                )
            ],
        ),
        new_code_cell("def halve(x):\n    return x / 0\n\nhalve(3)", id="raises"),
        new_code_cell("print(2)", id="surplus"),
    ]
    for cell in cells[1:]:
        cell.execution_count = 1
    ended = ended_in(tmp_path, cells, arguments)
    out = ended.stdout
    assert ended.returncode == 1 and counts in out and "\x1b" not in out and "base64" not in out.partition("code cell 3")[2].partition("+++")[2]

    differs, figure, raises, surplus = out.split("03_x.ipynb, code cell ")[1:5]
    assert differs.startswith("2 of 5 (cell 3 of the notebook, id differs): Cell outputs differ\n\n    for n in range(40):\n")
    assert "--- stored stdout\n+++ got stdout\n" in differs and "\n-line 13 of a long table\n+line 31 of a long table\n" in differs
    assert "line 2 of" not in differs and "failed before it" not in differs
    assert (
        "Code cell 2 failed before it; read that one first." in figure
        and "-Peak 4 GB.\n+Peak 3 GB.\n" in figure
        and "text/html" not in figure.partition("--- stored")[2]
    )
    assert "ZeroDivisionError: division by zero" in raises and "return x / 0" in raises
    assert "--- stored stdout (only got)\n" in surplus and "\n+2\n" in surplus
