"""What happens to a built edition once it is handed out, and what its slides and pages show."""

import re
import signal

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from mllandscape import BadInput
from mllandscape.cli import main
from mllandscape.course import notebooks
from mllandscape.kit import page, slides
from mllandscape.kit.build import EDITIONS, MARKER, edition_of
from mllandscape.kit.lesson import Guess, Lesson, Section, lessons
from mllandscape.kit.verbs import EDITIONS as NAMES

# ---- a built folder ----


@pytest.fixture
def student(tmp_path, capsys):
    assert main(["build", "student", str(tmp_path / "student"), "--only", "3", "--only", "8"]) == 0
    capsys.readouterr()
    return tmp_path / "student"


def held(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_lab_adds_nothing_to_a_built_edition(student, monkeypatch, capsys):
    from jupyterlab.labapp import LabApp

    before, options = held(student), []
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: options.extend(argv))
    assert main(["lab", "--folder", str(student), "--no-browser"]) == 0 and f"--ServerApp.root_dir={student}" in options
    assert main(["lab", "--folder", str(student), "--copies-only"]) == 0
    assert held(student) == before and capsys.readouterr().out.count("The student edition is in") == 2


def test_reset_in_a_built_edition_keeps_its_form(student, tmp_path, capsys):
    path, other = student / "08_cuda_mismatch.ipynb", student / "04_ddp_vs_fsdp.ipynb"
    built = path.read_text(encoding="utf-8")
    assert "# solution 08" not in built and "# solution 08" in notebooks.fresh_copy(notebooks.sources("08")[0])
    path.write_text("work", encoding="utf-8")
    assert main(["reset", "8", "--folder", str(student)]) == 0 and "Your work is in" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == built and "work" in held(student).values()
    assert main(["reset", "04", "--folder", str(student)]) == 0
    assert not [name for name, text in held(student).items() if "# solution" in text] and other.exists()

    assert main(["build", "instructor", str(tmp_path / "instructor"), "--only", "3"]) == 0
    path = tmp_path / "instructor" / "03_out_of_memory.ipynb"
    built = path.read_text(encoding="utf-8")
    path.unlink()
    assert main(["reset", "3", "--folder", str(path.parent)]) == 0 and path.read_text(encoding="utf-8") == built


def test_a_folder_of_ones_own_is_no_edition_and_gets_every_lesson(tmp_path):
    assert edition_of(tmp_path) == edition_of(tmp_path / "nowhere") == ""
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--copies-only"]) == 0
    assert set(held(tmp_path / "mine")) == {path.name for path in notebooks.sources()}


def test_an_edition_without_notebooks_is_said_in_one_line_and_left_alone(tmp_path, capsys):
    assert tuple(EDITIONS) == NAMES
    for name in ("slides", "html", "nonsense"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text(name)
        for verb in (["lab", "--copies-only"], ["reset", "3"]):
            assert main([*verb, "--folder", str(tmp_path / name)]) == 2
            said = capsys.readouterr().err
            assert f"holds the edition '{name}'" in said and len(said.splitlines()) == 1
        assert list(held(tmp_path / name)) == [MARKER]
    (tmp_path / MARKER).mkdir()
    with pytest.raises(BadInput, match="cannot be read"):
        edition_of(tmp_path)


# ---- slides ----


@pytest.fixture(scope="module")
def every() -> list[Lesson]:
    return lessons()


def deck(lesson: Lesson) -> list[str]:
    return re.findall(r"<section.*?</section>", slides.deck(lesson), re.DOTALL)


def cell(*bundles: dict[str, str]):
    return new_code_cell("x", outputs=[new_output("display_data", data=bundle) for bundle in bundles])


def picture(height: int) -> dict[str, str]:
    return {"text/plain": "a figure", "text/html": f'<figure><img alt="x" width="860" height="{height}" src="data:,"></figure>'}


ANSWER = {"text/plain": "Answer 99.a: 7.", "text/html": "<p><b>7</b> Seven, it was.</p>"}
ASKED = {"99.a": Guess("99.a", "How many?", "a number", ())}
PROSE = new_markdown_cell("The figure says one thing that is worth the attention of everyone.")


def test_every_experiment_has_a_slide_that_is_no_answer(every):
    for lesson in every:
        for section in lesson.sections:
            if section.name.startswith("Experiment"):
                shown = slides.found(section, {})
                assert any(part in slide for slide in shown for part in ("<img", "<table", '<pre class="print"')), (lesson.number, section.name)


def test_of_an_experiment_without_a_figure_the_first_print_that_fits_is_shown():
    long, torn, fits = "\n".join("many lines of text" for _ in range(30)), "\n".join(f"{'a':40}  {'b':40}  {'c':40}" for _ in range(3)), "one\ntwo < three"
    section = Section("Experiment 1", "x", (new_markdown_cell("## x"), *(cell({"text/plain": text}) for text in ("one line", long, torn, fits, "a\nb")), PROSE))
    (shown,) = slides.found(section, {})
    assert "two &lt; three</pre>" in shown and slides.found(Section("Experiment 1", "x", section.cells[:3]), {}) == []


def test_a_figure_has_a_slide_of_its_own_and_a_tall_one_two():
    def kinds(height: int, name: str = "Experiment 1") -> list[str]:
        section = Section(name, "x", (new_markdown_cell("## x\n" + PROSE.source), cell(picture(height)), PROSE))
        return [re.sub(r'.*?class="(figure alone \w+|take|below)".*', r"\1", slide) for slide in slides.found(section, {})]

    assert kinds(280) == ["below"] and kinds(412) == ["figure alone whole", "take"]
    assert kinds(678) == ["figure alone upper", "figure alone lower", "take"]
    assert kinds(412, "Panel") == ["take", "figure alone whole"], "what to look for in a panel is said before it"


def test_a_question_is_asked_again_before_the_figure_that_shows_its_answer(every):
    first = Section("Experiment 1", "x", (new_markdown_cell("## x"), cell(picture(412)), cell(ANSWER), PROSE))
    shown = slides.found(first, ASKED)
    assert ["again" in slide for slide in shown] == [True, False, False, False] and 'class="number">7<' in shown[3]
    shown = slides.found(Section("Experiment 1", "x", (new_markdown_cell("## x"), cell(ANSWER), cell(picture(412)))), ASKED)
    assert len(shown) == 2 and "number" in shown[0], "nothing is shown before this answer, so it is asked once"
    for lesson in every:
        guesses = {guess.key: guess for guess in lesson.guesses()}
        for section in lesson.sections:
            shown = slides.found(section, guesses) if section.name.startswith(("Experiment", "Panel")) else []
            seen = False
            for slide in shown:
                if 'class="number"' in slide and seen:
                    question = re.search(r"<h2>(.*?)</h2>", slide)[1]
                    again = next(place for place, one in enumerate(shown) if f'<p class="ask">{question}</p>' in one)
                    assert not any("<img" in one or "<table" in one for one in shown[:again])
                seen = seen or "<img" in slide or "<table" in slide


def test_slides_show_no_raw_marks_no_codes_and_no_made_up_score(every):
    for lesson in every:
        for slide in deck(lesson):
            text = re.sub(r"<pre.*?</pre>|<[^>]+>", "", slide, flags=re.DOTALL)
            assert "`" not in text, text
            assert not re.search(r">\d\d\.[a-z_]+<", slide), text
            assert "made-up learner" not in text or 'class="number"' not in slide
    assert sum("Yours: run the cell" in slide for slide in deck(every[-1])) == 1
    table = "<table><tr><th>question</th></tr><tr><th>03.eightbit</th></tr><tr><th>10.5</th></tr></table>"
    assert "<th>lesson 3</th>" in slides.exhibit(table, "", "", False)[0] and "<th>10.5</th>" in slides.exhibit(table, "", "", False)[0]


# ---- the pages ----


def test_a_printed_line_wraps_and_a_printed_table_does_not():
    table = "name   seconds  bytes\na      1        10\nb      2        20"
    for text, wraps in {"one  long line": True, "name  One sentence.\nother  Another one.": True, table: False, "a\n  indented\n    deeper": True}.items():
        assert ('class="table"' not in page.output({"text/plain": text}, 1)) == wraps, text
