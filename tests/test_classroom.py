"""Progress as a file for an instructor, and a class's files together."""

import json
import os
import platform
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, charts
from mllandscape.charts import Described
from mllandscape.cli import main
from mllandscape.course import exported, guess, progress, quiz, reveal
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
    assert content["schema"] == progress.SCHEMA and set(content) == {"format", "schema", "learner", "entries"}
    assert [entry["kind"] for entry in content["entries"]] == ["guess", "answer", "quiz", "exercise"]
    assert not any(word in text for word in ("canary", "typed", str(tmp_path), socket.getfqdn() or "-"))


def test_the_made_up_name_stays_and_a_name_of_ones_own_is_possible(tmp_path):
    worked()
    first, second = (exported.write(tmp_path / name).learner for name in ("a.json", "b.json"))
    assert first == second == exported.learner()
    assert exported.write(tmp_path / "a.json", "Ada").learner == "Ada" == exported.read(tmp_path / "a.json").learner
    assert exported.learner() == first


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
    (tmp_path / "newer.json").write_text(VERSION_1.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(BadInput, match=r"^newer.json: its layout has version 2, this mllandscape reads 1: update mllandscape.$"):
        exported.read(tmp_path / "newer.json")
    worked()
    (own_progress / "9.json").write_text(ENTRY_1.replace('"schema": 1', '"schema": 2'))
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
    assert "What 3 learners guessed" in out and "03.adamw_13b  3        104.1 GB        208.2 GB" in out
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
    assert classroom.checks(exports) == {"03.batch, guess": (1, 2), "03.ex1, solved": (2, 3), "03.quiz, first try": (0, 2)}
    questions, people = classroom.tables(exports)
    assert ["ruby-lynx-0001", "1", "2.0×", "", "", "0"] in people.rows and ["teal-otter-3f9a", "2", "2.0×", "1 of 1", "0 of 1", "1"] in people.rows
    assert questions.rows[0] == ["03.adamw_13b", "3", "104.1 GB", "208.2 GB", "0 of 3", "-1.00"]


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
