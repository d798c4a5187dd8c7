"""The workshop kit: editions of the notebooks, agendas, preflight, reset, and an install that nobody may write to."""

import ast
import copy
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mllandscape import BadInput, course
from mllandscape.cli import main
from mllandscape.course import notebooks, withheld
from mllandscape.kit import folded, instructor, page, preflight, slides, student, timing
from mllandscape.kit.lesson import Lesson, lessons, texts
from mllandscape.kit.reset import reset, set_aside
from mllandscape.machine import look
from mllandscape.sandbox import Outcome

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def every() -> list[Lesson]:
    """The lessons that have been run; the gates complain of the others."""
    return [lesson for lesson in lessons() if any(cell.get("outputs") for cell in lesson.book.cells)]


def named(name: str) -> Lesson:
    return lessons([name])[0]


# ---- the student's edition ----

FIRST = "# Lesson 99: a title\n\n> A question?\n\n- one\n- two\n- three\n\n**Minutes:** 50\n\n**Needs:** a CPU. More."
FOLD = "<details>\n<summary>Hint</summary>\n\nThink.\n\n</details>"


def with_canaries(lesson: Lesson) -> tuple[Lesson, list[str]]:
    """A copy of a notebook with a canary wherever something can hide, and the canaries."""
    planted: list[str] = []

    def canary() -> str:
        planted.append(f"canary{len(planted):03}")
        return planted[-1]

    book = copy.deepcopy(lesson.book)
    book.metadata |= {"title": canary(), "widgets": {"state": {"deep": [canary()]}}}
    book.metadata.kernelspec["display_name"] = canary()
    for cell in book.cells:
        cell.metadata |= {
            "tags": [*cell.metadata.get("tags", []), canary()],
            "slideshow": {"notes": canary()},
            "output_of": canary(),
            "solution": {"x": canary()},
        }
        if cell.cell_type == "markdown":
            cell.attachments = {"a.png": {"image/png": canary()}}
            cell.source = re.sub(r"(# solution \S+\n)", lambda match: f"{match[1]}# {canary()}\n", cell.source)
            cell.source = re.sub(r"</summary>", lambda match: f"</summary>\n{canary()}\n", cell.source)
            cell.source += f"\n\n<!-- {canary()} -->"
        else:
            cell.outputs += [
                new_output("stream", name="stderr", text=canary()),
                new_output("display_data", data={"text/html": canary(), "image/png": canary(), "application/json": {"x": canary()}}, metadata={"x": canary()}),
                new_output("error", ename=canary(), evalue=canary(), traceback=[canary()]),
            ]
    hidden = [
        f"<DETAILS open class='x'><summary>Solution</summary>{canary()}<details>{canary()}</details>{canary()}</DETAILS>",
        f"- a list\n  <details><summary>{canary()}</summary>\n\n  {canary()}\n  </details>",
        f"In the open\n\n```python\n# solution 99.ex1\nanswer = '{canary()}'\n```\n\nand on.",
        f"~~~\n# Solution\n{canary()}",
        f"<!-- never closed {canary()}",
    ]
    book.cells += [new_markdown_cell(source) for source in hidden]
    book.cells += [
        new_code_cell(f"# solution 99.ex1\nanswer = '{canary()}'"),
        nbformat.v4.new_raw_cell(canary()),
        new_code_cell(f'quiz(\n    "99.q", "Wïch?",\n    ["a", "b"],\n    "b",\n    "Bécause {canary()}.",  # a comment\n)'),
        new_code_cell(f'quiz("99.r", "Which?", ["a", "b"], why="{canary()}", answer="a"), quiz("99.s", "Which?", ["a", "b"], "a", "{canary()}")'),
        new_code_cell(f'found = 2\nreveal("99.a", found, "GB", explain="{canary()}"\n  " and {canary()}")'),
        new_code_cell(f'reveal("99.b", "{canary()}", explain=f"{canary()}")'),
        new_code_cell(f'reveal("99.c", found, explain=f"{canary()} {{found:,}}" " and {canary()}\\n" f"{{len(str(found))}} {canary()}")'),
        new_code_cell(f'why = f"{canary()} {{found}}"\nreveal("99.d", found, explain=why)'),
        new_code_cell(
            f'spoken("99", """{canary()}\n{{x}}""", {{"x": "1 GB"}}, listens_for=["{canary()}"], red_flags=["{canary()}"], follow_ups=["{canary()}", "b"])'
        ),
    ]
    return Lesson(lesson.name, book), planted


@pytest.mark.parametrize("name", [path.stem[:2] for path in notebooks.sources()])
def test_no_canary_survives_in_a_students_copy_of_any_lesson(name):
    lesson, planted = with_canaries(named(name))
    before = nbformat.writes(lesson.book)
    assert len(planted) > 200 and all(canary in before for canary in planted), "a canary that was never there proves nothing"
    made = student.edition(lesson)
    nbformat.validate(made)
    assert re.findall(r"canary\d+", nbformat.writes(made)) == []
    assert all("outputs" not in cell or cell.outputs == [] and cell.execution_count is None for cell in made.cells)
    assert not any("attachments" in cell for cell in made.cells)


def test_what_is_cut_leaves_whole_python_and_every_check(every):
    for lesson in every:
        made = student.edition(lesson)
        code = [cell.source for cell in made.cells if cell.cell_type == "code"]
        assert [cell.id for cell in made.cells] == [cell.id for cell in lesson.book.cells if cell.id in {cell.id for cell in made.cells}]
        for source in code:
            compile(source, lesson.name, "exec")
        checks = re.findall(r'^check\("[\w.]+", answer\)', "\n".join(code), re.MULTILINE)
        assert checks == re.findall(
            r'^check\("[\w.]+", answer\)', "\n".join(cell.source for cell in lesson.book.cells if cell.cell_type == "code"), re.MULTILINE
        )
        assert len(checks) in (2, 3) and "answer = ..." in "\n".join(code)
        quizzes = [call for source in code for call in withheld.calls(source, ("quiz",))]
        assert all(withheld.written(withheld.named(call, course.quiz)[name]) is ... for call in quizzes for name in ("answer", "why"))
        tags = {tag for cell in made.cells for tag in cell.metadata.get("tags", [])}
        assert tags <= {"nbval-ignore-output", "raises-exception"}


def test_a_cut_argument_keeps_what_stands_around_it():
    before = 'x = "ü"; quiz(\n    "99.q", "Wïch?", ["a"],\n    "a",  # why\n    """so\nand so""",\n); y = 1'
    assert student.code(before, "here") == 'x = "ü"; quiz(\n    "99.q", "Wïch?", ["a"],\n    ...,  # why\n    ...,\n); y = 1'
    computed = 'why = f"ü {n:.1f} of them"  # ü\nreveal("99.a", n, "GB", explain=why)'
    assert student.code(computed, "here") == 'why = (..., f\'{n:.1f}\')  # ü\nreveal("99.a", n, "GB", explain=why)'
    assert student.code('reveal("99.a", "words", explain=f"words")', "here") == 'reveal("99.a", ..., explain=(..., ))'
    with pytest.raises(BadInput, match="here: answer of quiz is computed"):
        student.code('quiz("99.q", "?", ["a", "b"], answer, "so")', "here")
    for hidden in ("elsewhere", '"a" if n else "b"', '"%d of them" % n'):
        with pytest.raises(BadInput, match="here: explain of reveal is computed"):
            student.code(f'reveal("99.a", n, explain={hidden})', "here")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("<details><summary>x</summary>never closed", "without its partner"),
        ("closed only </details>", "without its partner"),
        ("![x](attachment:x.png)", "attachment"),
        ("<div hidden>x</div>", "without <details>"),
        ('<p style="color:red; display: none">x</p>', "without <details>"),
    ],
)
def test_a_cell_that_hides_in_another_way_is_named(source, why):
    lesson = Lesson("99_x", new_notebook(cells=[new_markdown_cell(source)]))
    with pytest.raises(BadInput, match=f"99_x, cell 1 .*{why}"):
        student.edition(lesson)


@given(st.lists(st.sampled_from(["open ", "<details>", "</details>", "hid ", "<summary>S</summary>"]), max_size=12))
def test_folds_are_found_or_refused_and_nothing_in_them_is_left_open(words):
    depth, shown = 0, ""
    for word in words:
        depth += {"<details>": 1, "</details>": -1}.get(word, 0)
        if depth < 0:
            break
        shown += word if depth == 0 and "details" not in word else ""
    try:
        found = folded.parts("".join(words), "x")
    except BadInput:
        assert depth
    else:
        assert depth == 0 and "".join(part.text for part in found if not part.folded).strip() == shown.strip()


def test_a_students_quiz_answer_and_spoken_answer_are_found_in_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    book = named("03").book
    space = {"quiz": course.quiz, "spoken": course.spoken, "reveal": course.reveal}
    quiz = next(cell.source for cell in book.cells if cell.source.startswith("quiz("))
    whole, cut = eval(quiz, space), eval(student.code(quiz, ""), space)
    assert repr(cut) == repr(whole)
    for shown in (whole, cut):
        shown.controls["entry"].value = "a longer sequence, or fragmentation"
        shown.controls["answer"].click()
    assert cut.controls["status"].value == whole.controls["status"].value and "Right. States and weights" in cut.controls["status"].value
    assert "16 bytes a parameter" in repr(course.reveal("03.adamw_13b", 208.25, "GB", explain=...))
    assert "a classifier two-sample test. 11 of 64 columns" in repr(course.reveal("06.detector", ..., explain=(..., "11")))
    assert "An eighth of 107.8 GB is 13.5 GB; the rest" in repr(course.reveal("04.rank_of_8", 16.2, "GB", explain=(..., "107.8 GB", "13.5 GB")))
    numbers = dict.fromkeys(("amp", "card", "card_gb", "saving", "eightbit", "inside", "lora"), "1 GB")
    assert "First I do the arithmetic" in repr(course.spoken("03", ..., numbers, listens_for=..., red_flags=..., follow_ups=...))


def test_a_students_explanation_is_that_of_the_lesson_word_for_word(every, monkeypatch, tmp_path):
    """Every reveal of every lesson, whole and cut, with the same texts for what the cells would have computed."""
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    cut_words = 0
    for lesson in every:
        for source in (cell.source for cell in lesson.book.cells if cell.cell_type == "code"):
            for call in withheld.calls(source, ("reveal",)):
                arguments = withheld.named(call, course.reveal)
                explain = withheld.meant(arguments["explain"], source)
                key = withheld.written(arguments["key"])
                if (words := withheld.written(explain)) is not None:
                    assert withheld.filled(course.reveal, key, explain=...) == (words,)
                    continue
                cut_words += 1
                computed = [f"<{place}>" for place, _ in enumerate(withheld.values(explain))]
                given = iter(computed)
                whole = "".join(part.value if isinstance(part, ast.Constant) else next(given) for part in explain.values)
                assert withheld.filled(course.reveal, key, explain=(..., *computed)) == (whole,)
                with pytest.raises(BadInput, match="left out"):
                    withheld.filled(course.reveal, key, explain=(..., *computed, "one too many"))
    assert cut_words > 8


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_without_the_packages_notebooks_a_cut_answer_is_one_clear_line(monkeypatch, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / folder)
    with pytest.raises(BadInput, match="install mllandscape with its notebooks") as caught:
        course.quiz("03.quiz", "?", ["a", "b"], ..., ...)
    assert "\n" not in str(caught.value)


# ---- the instructor's edition and the minutes ----


def test_an_instructors_notebook_has_nothing_folded_and_each_solution_as_a_cell(every):
    for lesson in every:
        made = instructor.edition(lesson)
        nbformat.validate(made)
        solutions = [cell for cell in made.cells if "solution" in cell.metadata.get("tags", [])]
        wanted = [solution for cell in lesson.book.cells if cell.cell_type == "markdown" for solution in re.findall(r"# solution (\S+)", cell.source)]
        assert [cell.source.split()[2] for cell in solutions] == wanted and all(cell.cell_type == "code" for cell in solutions)
        assert not any("<details" in cell.source for cell in made.cells)
        assert f"{lesson.opening.minutes} minutes in all" in made.cells[1].source
        outputs = [len(cell.outputs) for cell in made.cells if cell.cell_type == "code" and cell not in solutions]
        assert outputs == [len(cell.outputs) for cell in lesson.book.cells if cell.cell_type == "code"]


def test_every_lesson_says_what_goes_wrong_and_every_row_is_one(every):
    for lesson in every:
        assert sum(trouble.lesson == lesson.number for trouble in instructor.troubles()) >= 2, f"room.toml says too little of lesson {lesson.number}"
    assert all(trouble.lesson == "" or re.fullmatch(r"\d\d", trouble.lesson) for trouble in instructor.troubles())
    assert all(len(trouble.do.split()) > 5 for trouble in instructor.troubles())


def test_the_minutes_of_the_sections_are_those_of_the_lesson(every):
    for lesson in every:
        minutes = timing.sections(lesson)
        assert sum(minutes.values()) == lesson.opening.minutes and minutes["References"] == 0
        assert all(minutes[section.name] >= 2 for section in lesson.sections if section.name != "References")
        assert minutes["Exercises"] >= 10, "the exercises say ten minutes each"
        assert timing.short(lesson) < lesson.opening.minutes


def test_lesson_10_has_minutes_of_its_own_that_hold_its_interview():
    lesson = named("10")
    assert timing.sections(lesson) == timing.OWN["10"] | {"References": 0}, "they add up to what the notebook says"
    asked = next(text for cell in lesson.book.cells for text in texts(cell) if text.startswith("Interview 10"))
    assert int(re.search(r"(\d+) minutes", asked)[1]) <= 20 < timing.sections(lesson)["Experiment 2"]


def test_the_readme_says_the_minutes_of_an_hour():
    sentence = re.search(r"One lesson fills an hour: (.*?)\.", (ROOT / "README.md").read_text(encoding="utf-8"))[1]
    assert [int(number) for number in re.findall(r"\d+", sentence)] == list(timing.SHARES.values())


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda weights: any(weights.values())), st.integers(0, 300))
def test_divided_minutes_add_up_and_none_is_a_minute_off(weights, total):
    parts = timing.whole(weights, total)
    assert sum(parts.values()) == total
    assert all(abs(parts[name] - total * weight / sum(weights.values())) < 1 + 1e-6 for name, weight in weights.items())


def made_up(number: int, minutes: int) -> Lesson:
    book = new_notebook(
        cells=[new_markdown_cell(FIRST.replace("50", str(minutes))), new_markdown_cell("## Commit"), new_markdown_cell("## Experiment 1: x\nwords")]
    )
    book.cells += [new_markdown_cell("## Panel"), new_markdown_cell("## Exercises"), new_markdown_cell("## Say it"), new_markdown_cell("## References")]
    return Lesson(f"{number:02}_x", book)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([30, 45, 60, 90]), max_size=14), st.lists(st.integers(60, 480), min_size=1, max_size=3))
def test_an_agenda_fills_its_time_in_the_order_of_the_lessons(minutes, days):
    given_lessons = [made_up(number, length) for number, length in enumerate(minutes, 1)]
    agenda = timing.agenda("x", given_lessons, days)
    assert [sum(slot.minutes for slot in day) for day in agenda.days] == days
    shown = [slot.lesson for day in agenda.days for slot in day if slot.lesson]
    assert shown + [name[:2] for name in agenda.left_out] == [lesson.number for lesson in given_lessons]
    for day in agenda.days:
        sitting = 0
        for slot in day:
            sitting = 0 if slot.what in ("Break", "Lunch") else sitting + slot.minutes
            alone = slot.minutes + timing.OPENING
            assert slot.minutes > 0 and (not slot.lesson or sitting <= max(timing.SITTING, alone))


def test_in_the_agendas_nobody_sits_longer_than_90_minutes_and_lunch_is_at_noon(every):
    agendas = timing.agendas(every)
    assert [one.name for one in agendas] == ["Two hours", "Half a day", "Two days"]
    for day in (day for one in agendas for day in one.days):
        sitting, now, lunch = 0, 0, []
        for slot in day:
            sitting = 0 if slot.what in ("Break", "Lunch") else sitting + slot.minutes
            lunch += [now] if slot.what == "Lunch" else []
            now += slot.minutes
            assert sitting <= 90, (slot, day)
        assert day[-1].what.startswith("Closing") and day[-1].minutes >= 15
        assert len(lunch) == (now >= timing.LONG) and all(180 <= start <= 210 for start in lunch)


@pytest.mark.parametrize(("numbers", "names"), [(["03", "04", "10"], ["Two hours", "Half a day"]), (["05"], ["Two hours"]), (["03", "04"], ["Two hours"])])
def test_an_agenda_that_the_lessons_cannot_fill_is_left_out(numbers, names):
    assert [agenda.name for agenda in timing.agendas(lessons(numbers))] == names


def test_the_plan_shows_code_as_code_and_says_that_one_exercise_is_done_in_the_room(every):
    shown = instructor.plan(every)
    assert "`" not in re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL) and "<code>mllandscape tools</code>" in shown
    assert shown.count("Exercises: one exercise in the room, the others afterwards") == len(every)
    assert "fill no two hours" in instructor.plan([made_up(1, 20)])


def test_the_plan_has_three_agendas_and_each_lessons_answers(every):
    shown = instructor.plan(every)
    assert all(f"<h3>{name}</h3>" in shown for name in ("Two hours", "Half a day", "Two days"))
    assert "No time for" not in shown.partition("Two days")[2].partition("<h2>")[0], "ten lessons fit into two days"
    assert "208.3 GB" in shown and "Model states decide" in shown


# ---- pages and slides ----


class Page(HTMLParser):
    """What can be wrong with a page that is to be read by anyone, anywhere."""

    def __init__(self, text: str):
        super().__init__()
        self.faults: list[str] = []
        self.headings: list[int] = []
        self.images = self.svg = 0
        self.feed(text)
        self.close()
        for style in re.findall(r"<style>(.*?)</style>", text, re.DOTALL):
            self.faults += [f"a style loads {place}" for place in re.findall(r"(?:url\(|@import)[^;)]*", style)]
        jumps = [pair for pair in zip([0, *self.headings], self.headings, strict=False) if pair[1] > pair[0] + 1]
        self.faults += [f"heading {after} below heading {before}" for before, after in jumps]
        self.faults += [] if self.headings.count(1) == 1 else [f"{self.headings.count(1)} headings of the first level"]

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name in ("src", "srcset", "poster", "data", "background", "action", "formaction"):
            if values.get(name, "data:").split(":")[0] != "data":
                self.faults.append(f"<{tag} {name}={values[name][:60]}>")
        if tag in ("link", "base", "use", "image") and not values.get("href", "#").startswith(("data:", "#")):
            self.faults.append(f"<{tag} href={values['href']}>")
        if "url(" in values.get("style", "") or any(name.startswith("on") for name in values):
            self.faults.append(f"<{tag}> with a handler or a url() in its style")
        if tag in ("iframe", "object", "embed", "meta") and "http" in values.get("content", "") + values.get("src", ""):
            self.faults.append(f"<{tag}> of another place")
        if tag == "img":
            self.images += 1
            self.faults += [] if values.get("alt", "").strip() else ["an image without alt"]
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label", "").strip()):
            self.svg += 1
        if tag == "title":
            self.svg = max(0, self.svg - 1)
        if tag == "html" and values.get("lang") != "en":
            self.faults.append("no language")


def test_every_page_and_every_deck_loads_nothing_describes_its_pictures_and_has_its_headings_in_order(every):
    made = {"index": page.index("x", every), "plan": instructor.plan(every)}
    for lesson in every:
        made |= {f"{lesson.name}, page": page.page(lesson), f"{lesson.name}, slides": slides.deck(lesson)}
    for name, text in made.items():
        read = Page(text)
        assert not read.faults and not read.svg, (name, read.faults)
        assert "default-src 'none'" in text and "<script src" not in text and ("<script>" in text) == name.endswith("slides")
    for lesson in every:
        stored = sum(output.get("data", {}).get("text/html", "").count("<img") for cell in lesson.book.cells for output in cell.get("outputs", []))
        assert Page(made[f"{lesson.name}, page"]).images == stored > 0, "a stored figure is missing on the page"
        assert Page(made[f"{lesson.name}, slides"]).images > 0


@pytest.mark.parametrize(
    "bad",
    [
        '<img src="https://example.org/x.png" alt="x">', '<img src="data:x">', '<script src="x.js"></script>', '<link rel="stylesheet" href="https://example.org">',
        "<h3>x</h3>", "<h1>x</h1>", '<style>@import "x";</style>', "<style>a { background: url(x.png) }</style>", '<p onclick="x()">', '<iframe src="https://example.org"></iframe>',
    ],
)  # fmt: skip
def test_a_bad_page_is_caught(bad):
    good = '<html lang="en"><h1>x</h1><h2>y</h2><p>z</p></html>'
    assert not Page(good).faults
    assert Page(good.replace("<h2>y</h2><p>z</p>", bad)).faults


def test_a_page_shows_sources_outputs_and_panels_and_says_nothing_to_a_learner():
    shown = page.page(named("03"))
    assert "This is" not in shown and page.PANEL in shown and "You committed no guess" not in shown
    assert "<b>208.3 GB</b>" in shown and "Exercise 03.ex1: not attempted yet" in shown and shown.count("<details>") == 6
    assert 'href="#experiment-1"' in shown and 'id="experiment-1"' in shown
    cell = new_code_cell("1 < 2", outputs=[new_output("stream", name="stdout", text="<b>not bold</b>\n")])
    book = new_notebook(cells=[new_markdown_cell(FIRST), cell])
    assert "&lt;b&gt;not bold&lt;/b&gt;" in page.page(Lesson("99_x", book)) and "1</span>" in page.page(Lesson("99_x", book))


def test_slides_ask_before_they_answer_and_show_every_figure(every):
    for lesson in every:
        shown = re.findall(r"<section.*?</section>", slides.deck(lesson), re.DOTALL)
        asked = [
            next(place for place, slide in enumerate(shown) if "<h2>Commit</h2>" in slide and _escaped(guess.question) in slide) for guess in lesson.guesses()
        ]
        answered = [place for place, slide in enumerate(shown) if 'class="number"' in slide]
        assert asked and len(answered) == len(asked) and max(asked) < min(answered)
        figures = [section for section in lesson.sections if section.name.startswith(("Experiment", "Panel"))]
        stored = sum(
            output.get("data", {}).get("text/html", "").startswith("<figure")
            for section in figures
            for cell in section.cells
            for output in cell.get("outputs", [])
        )
        assert sum("<img" in slide and "alone lower" not in slide for slide in shown) == stored
        assert all(len(words.split()) <= slides.MOST_WORDS + 40 for words in re.findall(r'class="take">(.*?)</p>', "".join(shown)))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;").replace("'", "&#x27;")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Three.", "One. Two. Three."),
        ("It is 2.5 GB, e.g. here. Two.", "It is 2.5 GB, e.g. here. Two."),
        ("First it holds. The next ones are:", "First it holds."),
        ("It holds. (But see below. There is more.)", "It holds."),
        ("Word" + " word" * 30 + ". " + "Word" + " word" * 30 + ".", "Word" + " word" * 30 + "."),
    ],
)
def test_a_takeaway_is_whole_sentences(text, kept):
    assert slides.first_sentences(text) == kept


# ---- building ----


def test_each_edition_is_built_into_a_new_folder_and_overwrites_nothing(tmp_path, capsys):
    for edition, file in {"student": "03_out_of_memory.ipynb", "instructor": "plan.html", "slides": "03_out_of_memory.html", "html": "index.html"}.items():
        assert main(["build", edition, str(tmp_path / edition), "--only", "3"]) == 0
        assert file in capsys.readouterr().out and (tmp_path / edition / file).stat().st_size > 1000
    before = (tmp_path / "student" / "03_out_of_memory.ipynb").read_bytes()
    (tmp_path / "student" / "03_out_of_memory.ipynb").write_bytes(before + b" my work")
    assert main(["build", "student", str(tmp_path / "student"), "--only", "3"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "student" / "03_out_of_memory.ipynb").read_bytes() == before + b" my work"


def test_lessons_are_built_in_the_order_asked_for_and_twice_alike(tmp_path):
    assert [lesson.number for lesson in lessons(["05", "3", "5"])] == ["05", "03"]
    for name in ("a", "b"):
        main(["build", "student", str(tmp_path / name), "--only", "03"])
    assert (tmp_path / "a" / "03_out_of_memory.ipynb").read_bytes() == (tmp_path / "b" / "03_out_of_memory.ipynb").read_bytes()


@pytest.mark.parametrize("arguments", [["--only", "99"], ["--only", "x"], ["--only", ""]], ids=" ".join)
def test_an_unknown_lesson_is_one_line_and_leaves_no_folder(arguments, tmp_path, capsys):
    assert main(["build", "html", str(tmp_path / "new"), *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["build", "html", str(tmp_path / "file" / "new"), "--only", "3"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_eleventh_lesson_is_in_every_edition(tmp_path, monkeypatch):
    """Nothing in the kit knows how many lessons there are."""
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    for number in (3, 11):
        book = named_source() if number == 3 else made_up(11, 40).book
        nbformat.write(book, tmp_path / "notebooks" / f"{number:02}_x.ipynb")
    for edition in ("student", "instructor", "slides", "html"):
        assert main(["build", edition, str(tmp_path / edition)]) == 0
        assert {path.name[:4] for path in (tmp_path / edition).glob("[0-9]*")} == {"03_x", "11_x"}


def named_source():
    return nbformat.read(ROOT / "notebooks" / "03_out_of_memory.ipynb", as_version=4)


# ---- reset ----


@pytest.fixture
def mine(tmp_path) -> Path:
    notebooks.learner_copies(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_reset_notebook_is_fresh_and_the_old_one_is_kept_under_its_day(mine, capsys):
    path = next(mine.glob("03_*"))
    fresh = path.read_text(encoding="utf-8")
    for number, work in enumerate(("first", "second")):
        path.write_text(work, encoding="utf-8")
        assert main(["reset", "3", "--folder", str(mine)]) == 0
        kept = mine / f"{path.stem}.{date.today().isoformat()}{f'-{number + 1}' if number else ''}.ipynb"
        assert kept.read_text() == work and path.read_text(encoding="utf-8") == fresh and kept.name in capsys.readouterr().out
    assert len(list(mine.glob("03_*"))) == 3 and not [file for file in mine.iterdir() if file.suffix != ".ipynb"]


def test_a_fresh_or_a_missing_notebook_needs_nothing_kept(mine):
    path = next(mine.glob("03_*"))
    assert reset("03", mine) == (path, None)
    path.unlink()
    assert reset("03", mine) == (path, None) and path.exists() and len(list(mine.glob("03_*"))) == 1


def test_work_saved_again_in_the_meantime_is_not_overwritten(mine, monkeypatch):
    path = next(mine.glob("03_*"))
    path.write_text("work")
    monkeypatch.setattr("mllandscape.kit.reset.set_aside", lambda path: (set_aside(path), path.write_text("saved again"))[0])
    with pytest.raises(BadInput, match="was written again meanwhile"):
        reset("03", mine)
    assert sorted(file.read_text() for file in mine.glob("03_*")) == ["saved again", "work"]


@pytest.mark.parametrize(
    ("number", "why"), [("99", "starts with '99_'"), ("x", "give the number"), ("", "give the number"), ("-1", "give the number"), ("²", "starts with")]
)
def test_a_wrong_number_is_one_line(number, why, mine):
    with pytest.raises(BadInput, match=why) as caught:
        reset(number, mine)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="There is no folder"):
        reset("03", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


# ---- preflight ----


def test_preflight_tries_everything_on_this_machine(tmp_path, capsys):
    assert main(["preflight", "--folder", str(tmp_path / "mine")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "without ")) for line in lines[:-2]) and lines[-1] == "The course can run here."
    assert any("20 steps" in line for line in lines) and any("jupyterlab 4" in line for line in lines)
    assert not (tmp_path / "mine").exists(), "it leaves nothing behind"


@pytest.fixture
def children(monkeypatch):
    """What the two children answer."""
    answers = {"try_torch": Outcome("ok", "torch", seconds=1.0), "try_jupyter": Outcome("ok", "jupyterlab", seconds=1.0)}
    monkeypatch.setattr(preflight.sandbox, "call", lambda target, **limits: answers[target.partition(":")[2]])
    return answers


def failing(tmp_path, **changes) -> list[str]:
    said: list[str] = []
    fine = preflight.report(replace(look(), **changes), tmp_path, said.append)
    missing = [line for line in said if line.startswith("MISSING")]
    assert fine == (not missing) == (said[-1] == "The course can run here.") and all("To do: " in line for line in missing)
    return missing


def test_a_machine_without_torch_jupyterlab_or_a_port_fails_and_is_told_what_to_do(tmp_path, children, monkeypatch):
    assert failing(tmp_path) == []
    children["try_torch"] = Outcome("error", error_type="ModuleNotFoundError", message="No module named\n'torch'")
    assert "ModuleNotFoundError: No module named 'torch'. To do: python3 run.py install, or python -m pip install torch" in failing(tmp_path)[0]
    children["try_torch"] = Outcome("timeout")
    assert "child process: timeout. To do" in failing(tmp_path)[0]
    children["try_jupyter"] = Outcome("killed", error_type="SIGKILL")
    assert len(failing(tmp_path)) == 2
    children |= dict.fromkeys(children, Outcome("ok", "fine"))

    def refused(*place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(preflight.socket, "create_server", refused)
    assert "127.0.0.1: not to be had" in failing(tmp_path)[0]


def test_what_the_course_can_do_without_does_not_fail_it(tmp_path, children, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    assert failing(tmp_path, cxx=None, chromium=None, gpu=None, cores=1) == []


def test_no_room_no_place_to_write_no_lessons_and_an_old_python_fail_it(tmp_path, children, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    (tmp_path / "file").write_text("")
    assert "file" in failing(tmp_path / "file")[0] and "choose another folder" in failing(tmp_path / "file")[0]
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: usage._replace(free=10**9))
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr(preflight, "PYTHONS", ((3, 99), (3, 99)))
    assert [line.split(":")[0].split(None, 1)[1] for line in failing(tmp_path)] == ["Python", "lessons", "free disk"]


# ---- an install that nobody may write to ----


def test_a_shared_install_that_nobody_may_write_to_serves_a_user(tmp_path):
    """The notebooks lie inside the package, as in a wheel; beside it they lie in every other test."""
    shared, home = tmp_path / "shared", tmp_path / "home"
    shutil.copytree(ROOT / "mllandscape", shared / "mllandscape", ignore=shutil.ignore_patterns("__pycache__"))
    books = shared / "mllandscape" / "notebooks"
    books.mkdir()
    shutil.copy(ROOT / "notebooks" / "03_out_of_memory.ipynb", books)
    for path in [*shared.rglob("*"), shared]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    home.mkdir()

    def state() -> dict[str, tuple[int, int]]:
        """Root may write all the same, so what counts is whether anything did."""
        files = [path for path in shared.rglob("*") if "__pycache__" not in path.parts]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.is_file()} | {"": (len(files), 0)}

    before = state()
    script = """
import sys
from pathlib import Path
import mllandscape
assert mllandscape.__file__.startswith(sys.argv[1]), mllandscape.__file__
from mllandscape.cli import main
from mllandscape.course import guess, reveal
assert main(["lab", "--copies-only"]) == 0
ask = guess("03.adamw_13b", "How much?", unit="GB", low=1, high=5000)
ask.controls["entry"].value = "156"
ask.controls["commit"].click()
assert "16 bytes" in repr(reveal("03.adamw_13b", 208.25, "GB", explain=...))
Path("my_notebooks/03_out_of_memory.ipynb").write_text("work")
for line in ("progress export mine.json", "reset 03", "build student students"):
    assert main(line.split()) == 0, line
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("MLLANDSCAPE_DATA", "XDG_DATA_HOME")}
    environment |= {"PYTHONPATH": str(shared), "HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, "-c", script, str(shared)], cwd=home, env=environment, capture_output=True, text=True)
    for path in [shared, *shared.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert ended.returncode == 0, ended.stderr
    assert state() == before
    assert {"mine.json", "students", "my_notebooks"} <= {path.name for path in home.iterdir()}
    assert len(list((home / "my_notebooks").glob("*.ipynb"))) == 2
    assert json.loads((home / "mine.json").read_text())["entries"] and list(home.rglob("progress/*.json")), "progress lies in the user's own folder"
