"""The notebooks as files: learner's copies and re-executed references, on small notebooks made here."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mllandscape import BadInput, claims
from mllandscape.course import notebooks


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of notebooks that stands in for the repository's."""
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def store(path: Path, *sources: str, tags: dict[int, list[str]] | None = None) -> Path:
    """Write a notebook with these code cells, each with a stored output and count, and with widget state."""
    cells = [new_markdown_cell("# Title", id="title")]
    for number, source in enumerate(sources):
        cell = new_code_cell(source, id=f"cell-{number}", execution_count=7, metadata={"tags": (tags or {}).get(number, []), "collapsed": True})
        cell.outputs = [new_output("stream", name="stdout", text="stored\n")]
        cells.append(cell)
    book = new_notebook(cells=cells, metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}})
    nbformat.write(book, path)
    return path


def test_a_learners_copy_has_no_outputs_no_counts_and_no_widget_state(folder, tmp_path):
    store(folder / "03_x.ipynb", "1 + 1")
    (copy,) = notebooks.learner_copies(tmp_path / "mine")
    book = nbformat.read(copy, as_version=4)
    assert book.cells[1].source == "1 + 1" and book.cells[1].id == "cell-0"
    assert book.cells[1].outputs == [] and book.cells[1].execution_count is None
    assert "widgets" not in book.metadata


def test_a_learners_work_is_never_overwritten_and_missing_copies_are_added(folder, tmp_path):
    store(folder / "03_x.ipynb", "1 + 1")
    (copy,) = notebooks.learner_copies(tmp_path / "mine")
    copy.write_text("my work", encoding="utf-8")
    store(folder / "04_y.ipynb", "2 + 2")
    copies = notebooks.learner_copies(tmp_path / "mine")
    assert [path.name for path in copies] == ["03_x.ipynb", "04_y.ipynb"]
    assert copy.read_text(encoding="utf-8") == "my work" and copies[1].exists()


def test_a_folder_that_cannot_be_written_is_answered_in_one_line(folder, tmp_path):
    store(folder / "03_x.ipynb", "1 + 1")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another folder"):
        notebooks.learner_copies(tmp_path / "file")


def test_a_copy_that_cannot_be_written_whole_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        notebooks.write_new(tmp_path / "x.ipynb", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_references_are_executed_normalised_and_the_same_byte_for_byte_on_a_second_run(folder, capsys):
    path = store(
        folder / "03_x.ipynb",
        "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'] == '', 'stored' in os.environ['MLLANDSCAPE_DATA'])",
        "import ipywidgets\nipywidgets.IntSlider(tooltip='x')",
        "import time\ntime.time_ns()",
        tags={2: ["nbval-ignore-output"]},
    )
    notebooks.references("03")
    first = path.read_bytes()
    book = nbformat.read(path, as_version=4)
    assert [cell.get("execution_count") for cell in book.cells] == [None, 1, 2, 3]
    assert [cell.id for cell in book.cells] == ["title", "cell-0", "cell-1", "cell-2"]
    assert book.cells[1].outputs[0].text == "True False\n"
    assert "widgets" not in book.metadata and notebooks.WIDGET_VIEW not in first.decode()
    assert book.cells[3].outputs[0].data["text/plain"].isdigit()
    assert all(set(cell.metadata) <= {"tags", "output_of"} for cell in book.cells)
    notebooks.references("03")
    assert path.read_bytes() == first
    assert "[1/1] 03_x.ipynb ... unchanged" in capsys.readouterr().out


def test_a_tagged_cell_that_comes_out_differently_is_said_and_renewed_when_asked(folder, capsys):
    path = store(folder / "03_x.ipynb", "import time\ntime.time_ns()", "1 + 1", tags={0: ["nbval-ignore-output"], 1: ["nbval-ignore-output"]})
    notebooks.references()
    first = nbformat.read(path, as_version=4).cells
    notebooks.references()
    assert nbformat.read(path, as_version=4).cells == first
    assert "unchanged; 1 tagged nbval-ignore-output came out differently and kept what was stored, --renew stores" in capsys.readouterr().out
    assert notebooks.main(["references", "--renew"]) == 0
    later = nbformat.read(path, as_version=4).cells
    assert int(later[1].outputs[0].data["text/plain"]) > int(first[1].outputs[0].data["text/plain"]) and later[2] == first[2]
    assert "... renewed\n" in capsys.readouterr().out


def test_a_tagged_cell_is_renewed_when_its_source_has_changed(folder):
    path = store(folder / "03_x.ipynb", "1 + 1", tags={0: ["nbval-ignore-output"]})
    notebooks.references()
    book = nbformat.read(path, as_version=4)
    assert book.cells[1].outputs[0].data["text/plain"] == "2"
    book.cells[1].source = "2 + 2"
    nbformat.write(book, path)
    notebooks.references()
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].data["text/plain"] == "4"


def test_a_failing_cell_is_named_and_its_notebook_left_as_it_was(folder, capsys):
    path = store(folder / "03_x.ipynb", "1 + 1", "missing_name\n2")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"03_x\.ipynb, cell 3 \(missing_name\) failed: NameError: name 'missing_name' is not defined"):
        notebooks.references()
    assert path.read_bytes() == before
    nbformat.write(new_notebook(cells=[new_code_cell('raise ValueError("It ended.")')]), path)
    with pytest.raises(BadInput, match=r"ValueError: It ended\. Mend it"):
        notebooks.references()
    path.write_bytes(before)
    assert notebooks.main(["references"]) == 1
    assert "03_x.ipynb, cell 3" in capsys.readouterr().err


def test_an_unknown_notebook_is_answered_in_one_line(folder):
    store(folder / "03_x.ipynb", "1 + 1")
    with pytest.raises(BadInput, match="starts with '09'.*holds 03_x"):
        notebooks.references("09")


def test_nbval_reads_every_rule_of_its_sanitizer():
    """nbval drops a rule that is not written exactly as it expects, without a word."""
    from nbval.plugin import get_sanitize_patterns

    text = (Path(__file__).parent / "nbval.cfg").read_text(encoding="utf-8")
    rules = get_sanitize_patterns(text)
    assert len(rules) == text.count("regex:") == 4
    picture = 'alt="26.0 GB" src="data:image/png;base64,iVBORw0KGgo/a+b=="'
    pairs = (("torch 2.13.0+cpu", "torch 2.13.0"), ("Python 3.12.4", "Python 3"), ("26.0 GB", "26.0 GB"), (picture, 'alt="26.0 GB" src="data:image/png"'))
    for before, after in pairs:
        for pattern, replacement in rules:
            before = re.sub(pattern, replacement, before)
        assert before == after


# ---- the README's table of lessons ----

README = """# x

| notebook | the question | minutes | needs | |
|---|---|---|---|---|
| `01_a` | an old one? | 60 | CPU | ready |
| `03_x` | as the README | words it? | 5 | something | being built |

More `03_x` | text.
"""
FIRST = "# Lesson 3: a | title\n\n> A question?\n\n- one\n- two\n\n**Minutes:** 45\n\n**Needs:** a CPU with 2.5 GB. On a GPU more."


def opened_by(path: Path, first: str) -> None:
    nbformat.write(new_notebook(cells=[new_markdown_cell(first)]), path)


def test_the_table_says_minutes_needs_and_state_as_the_notebooks_do(folder):
    readme = README.replace("README | words", "README words")
    opened_by(folder / "03_x.ipynb", FIRST)
    opened_by(folder / "11_new.ipynb", FIRST.replace("Lesson 3", "Lesson 11"))
    renewed = notebooks.with_table(readme)
    assert "| `01_a` | an old one? | 60 | CPU | being built |" in renewed, "it has no notebook"
    assert "| `03_x` | as the README words it? | 45 | a CPU with 2.5 GB | ready |" in renewed
    assert "ready |\n| `11_new` | a \\| title | 45 | a CPU with 2.5 GB | ready |\n\nMore `03_x` | text.\n" in renewed
    assert notebooks.with_table(renewed) == renewed


def test_a_readme_without_the_table_and_a_cell_that_says_too_little_are_one_line(folder, capsys):
    opened_by(folder / "03_x.ipynb", FIRST.replace("**Minutes:** 45", "").replace("> A", "A"))
    for readme in ("# x", README):
        with pytest.raises(BadInput, match="no table of lessons"):
            notebooks.with_table(readme)
    with pytest.raises(BadInput, match="no question and no minutes"):
        notebooks.with_table(README.replace("README | words", "README words"))
    assert notebooks.main(["table"]) == 1 and "README" in capsys.readouterr().err


def test_the_readmes_count_is_of_quotes_in_lessons_1_to_9(monkeypatch):
    rows = {"01.01": "true", "09.02": "wrong", "09.03": "omission", "10.01": "true", "11.01": "true"}
    found = {
        name: claims.Claim(name, "1", verdict, "c", "s", quote="" if verdict == "omission" else "q", omission="o" if verdict == "omission" else "")
        for name, verdict in rows.items()
    }
    monkeypatch.setattr(claims, "ledger", lambda: found)
    before = "x Of the 7 statements\nthat lessons 1 to 9 quote from it, 5 hold as written. y"
    assert notebooks.with_count(before) == "x Of the 2 statements that lessons 1 to 9 quote from it, 1 hold as written. y"
    for readme in ("# x", before * 2):
        with pytest.raises(BadInput, match=r"in [02] places, not in one"):
            notebooks.with_count(readme)


def test_the_readmes_table_and_count_are_what_notebooks_and_ledger_say():
    readme = notebooks.FOLDER.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert notebooks.with_count(notebooks.with_table(text)) == text, "run: python -m mllandscape.course.notebooks table"
