"""Progress as a file for an instructor, and a class's files together."""

import json
import os
import platform
import re
import socket
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, charts
from mllandscape.charts import Described
from mllandscape.cli import main
from mllandscape.course import exported, guess, progress, quiz, reveal
from mllandscape.interview import bank
from mllandscape.kit import classroom

VERSION_1 = """{"format": "mllandscape progress", "schema": 1, "learner": "teal-otter-3f9a", "entries": [
 {"kind": "guess", "key": "03.adamw_13b", "value": 104.125, "day": "2026-11-20"},
 {"kind": "guess", "key": "03.adamw_13b", "value": 208, "day": "2026-11-21"},
 {"kind": "guess", "key": "03.batch", "value": "none", "day": "2026-11-20"},
 {"kind": "answer", "key": "03.adamw_13b", "value": {"answer": 208.25, "unit": "GB"}, "day": "2026-11-20"},
 {"kind": "answer", "key": "03.batch", "value": {"answer": "none", "unit": ""}, "day": "2026-11-20"},
 {"kind": "quiz", "key": "03.quiz", "value": {"choice": "x", "right": false}, "day": "2026-11-20"},
 {"kind": "quiz", "key": "03.quiz", "value": {"choice": "y", "right": true}, "day": "2026-11-20"},
 {"kind": "exercise", "key": "03.ex1", "value": "right", "day": "2026-11-20"}
]}"""
"""As version 1 wrote it. A later version still opens this very text."""

ENTRY_1 = '{"schema": 1, "kind": "guess", "key": "03.a", "value": 156.0, "day": "2026-11-20"}'


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "progress"


def worked() -> None:
    """A learner guesses, looks, answers a quiz and solves an exercise."""
    ask = guess("03.a", "How many?", unit="GB", low=1, high=5000)
    ask.controls["entry"].value = "156"
    ask.controls["commit"].click()
    reveal("03.a", 208.25, "GB")
    asked = quiz("03.q", "Which?", ["x", "y"], "y", "So.")
    asked.controls["entry"].value = "x"
    asked.controls["answer"].click()
    progress.add("exercise", "03.ex1", "right")
    progress.add("interview", "10.q1", "what was typed in the mock interview")
    progress.add("interview", "03.oom", {"said": [0, 2], "flags": [1], "seconds": 81.5, "typed": "and more that was typed"})


# ---- the learner's file ----


def test_an_export_holds_the_work_under_a_made_up_name_and_no_other(tmp_path, monkeypatch, capsys):
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "canary-of-the-user")
    for module, name in ((socket, "gethostname"), (platform, "node"), (os, "getlogin")):
        monkeypatch.setattr(module, name, lambda: "canary-of-the-host")
    worked()
    assert main(["progress", "export", str(tmp_path / "mine.json")]) == 0
    text = (tmp_path / "mine.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9a-f]{4}", content["learner"]) and content["learner"] in capsys.readouterr().out
    assert content["schema"] == progress.SCHEMA and set(content) == {"format", "schema", "learner", "id", "entries", "interview"}
    score = bank.score("03.oom", [0, 2], [1])
    assert content["interview"] == [{"question": "03.oom", **{kind: list(pair) for kind, pair in score.said.items()}, "flags": 1}]
    assert [entry["kind"] for entry in content["entries"]] == ["guess", "answer", "quiz", "exercise"]
    assert not any(word in text for word in ("canary", "typed", str(tmp_path), socket.getfqdn() or "-"))


def test_the_made_up_name_stays_and_a_name_of_ones_own_is_possible(tmp_path):
    worked()
    (_, first), (_, second) = (exported.write(tmp_path / name) for name in ("a.json", "b.json"))
    assert first.learner == second.learner == first.id == exported.learner()
    exported.write(tmp_path / "a.json", "Ada")
    named = exported.read(tmp_path / "a.json")
    assert (named.learner, named.id) == ("Ada", first.learner) and exported.learner() == first.learner


def test_a_folder_gets_a_file_of_the_made_up_name_so_a_class_fits_on_one_stick(tmp_path, monkeypatch, capsys):
    (tmp_path / "stick").mkdir()
    for place in ("one", "two"):
        monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path / place))
        worked()
        assert main(["progress", "export", str(tmp_path / "stick"), "--name", "Ada"]) == 0
        assert str(tmp_path / "stick" / f"{exported.learner()}.json") in capsys.readouterr().out
    exports, notes = exported.read_class(tmp_path / "stick")
    assert sorted(export.learner for export in exports) == sorted(f"Ada ({path.stem})" for path in (tmp_path / "stick").iterdir()) and notes == []


def test_a_file_that_the_class_would_not_read_is_not_written(tmp_path, capsys):
    worked()
    assert main(["progress", "export", str(tmp_path / "mystick")]) == 2
    assert "no folder, and no file that ends in .json" in capsys.readouterr().err and not (tmp_path / "mystick").exists()


def test_who_did_only_the_interview_has_something_to_export_and_it_is_shown(tmp_path, capsys):
    progress.add("interview", "03.oom", {"said": [0], "flags": [], "seconds": None})
    assert main(["progress", "export", str(tmp_path)]) == 0 and "0 entries and 1 answers of the interview" in capsys.readouterr().out
    assert main(["class", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    of = bank.score("03.oom", [0]).said
    assert "The mock interview" in out and re.search(rf"together +1 +{of['what'][0]} of {of['what'][1]} +{of['why'][0]} of {of['why'][1]} ", out)


def test_nothing_that_is_no_export_is_overwritten(tmp_path, capsys):
    worked()
    (tmp_path / "thesis.json").write_text("[]")
    assert main(["progress", "export", str(tmp_path / "thesis.json")]) == 2
    assert "is no progress file" in capsys.readouterr().err and (tmp_path / "thesis.json").read_text() == "[]"


def test_an_export_of_nothing_or_to_nowhere_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="nothing to export"):
        exported.write(tmp_path / "x.json")
    worked()
    with pytest.raises(BadInput, match="cannot be written"):
        exported.write(tmp_path / "nowhere" / "x.json")
    with pytest.raises(BadInput, match="--name"):
        exported.write(tmp_path / "x.json", "x" * 201)
    assert not list(tmp_path.glob("*.part"))


def test_the_answer_is_stored_once_and_only_beside_a_guess():
    reveal("03.a", 208.25, "GB")
    assert progress.read("answer", "03.a") == ([], "")
    worked()
    reveal("03.a", 208.25, "GB")
    assert [entry.value for entry in progress.read("answer", "03.a")[0]] == [{"answer": 208.25, "unit": "GB"}]
    reveal("03.a", 2, "GB")
    assert len(progress.read("answer", "03.a")[0]) == 2


# ---- versions ----


def test_files_of_version_1_still_open(tmp_path, own_progress):
    (tmp_path / "old.json").write_text(VERSION_1)
    export = exported.read(tmp_path / "old.json")
    assert export.learner == "teal-otter-3f9a" and len(export.entries) == 8
    assert export.of("guess") == {"03.adamw_13b": [104.125, 208], "03.batch": ["none"]}
    own_progress.mkdir(parents=True)
    (own_progress / "0.json").write_text(ENTRY_1)
    assert progress.read("guess", "03.a") == ([progress.Entry("guess", "03.a", 156.0, "2026-11-20")], "")


def test_version_1_opens_in_a_later_version_too(tmp_path, own_progress, monkeypatch):
    monkeypatch.setattr(progress, "SCHEMA", progress.SCHEMA + 1)
    test_files_of_version_1_still_open(tmp_path, own_progress)


def test_newer_files_are_one_clear_line(tmp_path, own_progress):
    newer = progress.SCHEMA + 1
    (tmp_path / "newer.json").write_text(VERSION_1.replace('"schema": 1', f'"schema": {newer}'))
    with pytest.raises(BadInput, match=rf"^newer.json: its layout has version {newer}, this mllandscape reads {progress.SCHEMA}: update mllandscape.$"):
        exported.read(tmp_path / "newer.json")
    worked()
    (own_progress / "9.json").write_text(ENTRY_1.replace('"schema": 1', f'"schema": {newer}'))
    entries, note = progress.read("guess", "03.a")
    assert len(entries) == 1 and "1 progress file(s)" in note and "newer mllandscape" in note and (own_progress / "9.json").exists()


# ---- the class ----


@pytest.fixture
def folder(tmp_path):
    """Three learners, one of whom has looked at nothing, and what else comes by mail."""
    place = tmp_path / "class"
    place.mkdir()
    (place / "a.json").write_text(VERSION_1)
    other = json.loads(VERSION_1) | {"learner": "Ada <b>"}
    other["entries"][0]["value"], other["entries"][2]["value"] = 833, "4"
    (place / "b.json").write_text(json.dumps(other))
    unread = {"format": exported.FORMAT, "schema": 1, "learner": "ruby-lynx-0001", "entries": [json.loads(VERSION_1)["entries"][0]]}
    (place / "c.json").write_text(json.dumps(unread))
    (place / "damaged.json").write_text(VERSION_1[:300])
    (place / "newer.json").write_text(VERSION_1.replace('"schema": 1', '"schema": 7'))
    (place / "other.json").write_text('{"a": 1}')
    (place / "twice.json").write_text(json.dumps(unread | {"learner": "teal-otter-3f9a"}))
    (place / "notes.txt").write_text("not looked at")
    return place


def test_a_class_is_shown_as_text_page_and_figures_and_every_other_file_is_named(folder, tmp_path, capsys):
    assert main(["class", str(folder), "--to", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "What 3 learners guessed" in out and re.search(r"Mixed-precision training .* … \(03.adamw_13b\) +3 +104.1 GB +208.2 GB", out)
    assert sum("not looked at: notes.txt." in line for line in out.splitlines()) == 1
    for name, why in {"damaged.json": "damaged", "newer.json": "update mllandscape", "other.json": "no progress file", "twice.json": "same learner"}.items():
        assert sum(name in line and why in line for line in out.splitlines()) == 1, name
    page = (tmp_path / "out" / "class.html").read_text(encoding="utf-8")
    assert "Ada &lt;b&gt;" in page and "<b>" not in page.replace("<body>", "") and page.count("<img alt=") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"class.html", "guesses.png", "checks.png"}
    assert (tmp_path / "out" / "checks.png").read_bytes().startswith(b"\x89PNG")


def test_first_guesses_count_against_ones_own_answer_or_the_classs(folder):
    exports, _ = exported.read_class(folder)
    one = {question.key: question for question in classroom.guessed(exports)}
    assert sorted(one["03.adamw_13b"].errors) == [-1, -1, 2] and one["03.adamw_13b"].unit == "GB"
    assert one["03.batch"].right == (1, 2) and one["03.batch"].errors == []
    rows = {re.search(r"\((.*)$", name)[1]: pair for name, pair in classroom.checks(exports).items()}
    assert rows == {"03.batch), guess": (1, 2), "03.ex1), solved": (2, 3), "03.quiz), first try": (0, 2)}
    assert len(classroom.asked()) >= 70
    for key in classroom.asked():
        assert all(len(textwrap.wrap(classroom.label(key, what), 32)) <= 2 for what in ("", ", first try")), "a label has room beside its row"
    questions, people = classroom.tables(exports)
    assert ["ruby-lynx-0001", "1", "2.0×", "0 of 1", "", "", "0"] in people.rows
    assert ["teal-otter-3f9a", "2", "2.0×", "0 of 1", "1 of 1", "0 of 1", "1"] in people.rows
    assert questions.rows[0][1:] == ["3", "104.1 GB", "208.2 GB", "0 of 3", "-1.00"]


def learner(name: str, *entries: tuple) -> exported.Export:
    return exported.Export(name, tuple(progress.Entry(kind, key, value, "2026-11-20") for kind, key, value in entries))


def test_an_answer_of_zero_counts_exact_hits_and_says_the_difference():
    answer = ("answer", "06.tf32", {"answer": 0.0, "unit": "answers"})
    exports = [learner(str(value), ("guess", "06.tf32", value), answer) for value in (0, 12, 40)]
    questions, people = classroom.tables(exports)
    assert questions.rows[0][1:] == ["3", "12 answers", "0 answers", "1 of 3", "+12 answers (a difference)"]
    assert [row[3] for row in people.rows] == ["1 of 1", "0 of 1", "0 of 1"]


def test_a_guess_that_nobody_revealed_has_its_unit():
    assert classroom.tables([learner("a", ("guess", "10.heart", 40.0))])[0].rows[0][1:] == ["1", "40 %", "not revealed", "", ""]


def test_what_was_edited_by_hand_neither_fills_a_cell_nor_turns_options_into_numbers(tmp_path, capsys):
    forged = [("guess", "03.batch", 5), ("answer", "03.batch", {"answer": 5.0, "unit": ""}), ("guess", "03.adamw_13b", 1e300), ("guess", "x.y", 3)]
    exports = [learner("a", *forged), learner("b", ("guess", "03.batch", "none"), ("guess", "x.y", "yes")), learner("c", ("guess", "x.y", "no"))]
    assert not [cell for table in classroom.tables(exports) for row in table.rows for cell in row if len(cell) > 62]
    one = {question.key: question for question in classroom.guessed(exports)}
    assert one["03.batch"].values == ("none",) and one["x.y"].values == ("yes", "no")
    assert classroom.of_another_kind(exports) == {"03.batch": 1, "x.y": 1}
    content = {"format": exported.FORMAT, "schema": 1, "learner": "a", "entries": [vars(entry) for entry in exports[0].entries]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(["class", str(tmp_path)]) == 0 and "03.batch: 1 guess(es) left out" in capsys.readouterr().out


def test_every_json_file_is_read_and_what_is_not_looked_at_is_named(tmp_path):
    (tmp_path / "CAPS.JSON").write_text("\ufeff" + VERSION_1, encoding="utf-8")
    (tmp_path / "mail.json.txt").write_text(VERSION_1)
    (tmp_path / "day 1").mkdir()
    (tmp_path / "class.html").write_text("")
    exports, notes = exported.read_class(tmp_path)
    assert len(exports) == 1 and notes == ["not looked at: day 1/, mail.json.txt. Only files that end in .json count, and none in folders inside this one."]
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("")
    assert "and 22 more" in exported.read_class(tmp_path)[1][0]


def test_a_file_of_another_layout_or_encoding_is_called_what_it_is(tmp_path):
    (tmp_path / "a.json").write_text(edited('"schema": 1', '"schema": 0'))
    with pytest.raises(BadInput, match="a.json: its layout has version 0, older"):
        exported.read(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(VERSION_1, encoding="utf-16")
    with pytest.raises(BadInput, match="b.json: it is not in UTF-8"):
        exported.read(tmp_path / "b.json")


def test_two_of_one_name_are_two_by_their_ids_and_one_without(tmp_path):
    for name, made_up in (("a", "x-1"), ("b", "y-2"), ("c", ""), ("d", "")):
        content = json.loads(VERSION_1) | {"learner": "Ada"} | ({"id": made_up} if made_up else {})
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    exports, notes = exported.read_class(tmp_path)
    assert [export.learner for export in exports] == ["Ada (no id)", "Ada (x-1)", "Ada (y-2)"]
    assert len(notes) == 1 and "left out d.json" in notes[0]


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_folder_without_files_is_one_line(what, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["class", str(tmp_path / what)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def edited(before: str, after: str) -> str:
    assert before in VERSION_1
    return VERSION_1.replace(before, after)


BROKEN = ["", "[]", "null", "[" * 100_000, '"text"', " " * 5_000_001]
BROKEN += [edited("104.125", value) for value in ("NaN", "1e999", "[1]", f'"{"x" * 300}"')]
BROKEN += [edited('"teal-otter-3f9a"', name) for name in ("7", '" "', f'"{"t" * 300}"')]
BROKEN += [edited('"schema": 1', f'"schema": {value}') for value in ("true", "0", '"1"')]
BROKEN += [edited('"kind": "quiz"', '"kind": 5'), edited('"day"', '"today"'), edited('"right": false', '"right": "yes"')]
BROKEN += [edited('{"answer": 208.25, "unit": "GB"}', "208.25"), edited('"entries": [', '"entries": [5, ')]
BROKEN += [edited('"entries"', f'"id": {value}, "entries"') for value in ("7", f'"{"t" * 300}"')]
SPOKEN = {"question": "03.oom", "what": [1, 2], "why": [0, 1], "number": [0, 1], "flags": 0}
ODD = [{"what": [2, 1]}, {"what": [1]}, {"why": [0.5, 1]}, {"flags": -1}, {"flags": True}, {"question": 5}, {"number": [10**9, 10**9]}]
BROKEN += [edited('"entries"', f'"interview": {value}, "entries"') for value in ("5", "[5]", *(json.dumps([SPOKEN | odd]) for odd in ODD))]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_whatever_a_file_holds_it_is_read_or_left_out_with_one_line(content, tmp_path):
    (tmp_path / "a.json").write_text(VERSION_1)
    (tmp_path / "b.json").write_text(content)
    exports, notes = exported.read_class(tmp_path)
    assert [export.learner for export in exports] == ["teal-otter-3f9a"]
    assert len(notes) == 1 and "b.json" in notes[0] and "\n" not in notes[0]


# ---- figures ----


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=30))
def test_a_figures_sentence_counts_every_guess(errors):
    words = charts.classroom._words("q", errors)
    counts = [int(number) for number in re.findall(r"(\d+) (?:guesses|off by less|lower|higher)", words)]
    assert counts[0] == len(errors) == sum(counts[1:])


def test_the_figures_say_their_numbers_and_draw_every_learner():
    figure = charts.log_errors({"a": [-1.5, 0, 0, 9], "b": [0.5]}, title="T")
    assert (
        isinstance(figure, Described)
        and "a: 4 guesses, 2 off by less than two times, 1 lower, 1 higher, 1 off by more than 32 times; median log2 error +0.00." in figure.sentence
    )
    dots = [line for line in figure.figure.axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [4, 1] and max(dots[0].get_xdata()) == 5
    assert len({tuple(point) for point in zip(*dots[0].get_data(), strict=True)}) == 4, "equal guesses do not hide each other"
    shares = charts.right_shares({"a": (1, 3), "b": (0, 2)}, title="T")
    assert shares.sentence == "T.\na: 1 of 3 right.\nb: 0 of 2 right."
    assert [bar.get_width() for bar in shares.figure.axes[0].patches] == [3, 1, 2, 0]


@pytest.mark.parametrize(("chart", "rows"), [("log_errors", {}), ("log_errors", {"a": []}), ("right_shares", {"a": (2, 1)}), ("right_shares", {"a": (0, 0)})])
def test_a_figure_of_nothing_is_refused(chart, rows):
    with pytest.raises(BadInput):
        getattr(charts, chart)(rows, title="T")
