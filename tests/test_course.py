"""The notebook's furniture: widgets are driven as plain objects, progress lies in a temporary folder."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.course import check, exercise, exercises, exported, guess, progress, quiz, reveal, spoken
from mllandscape.course.questions import amount, log_error, parse_number


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    return tmp_path / "progress"


def commit(shown, value) -> str:
    """Enter a value, press the button, return what the panel answers."""
    shown.controls["entry"].value = value
    shown.controls["commit"].click()
    return shown.controls["status"].value


# guess and reveal


def test_a_guess_is_stored_at_once_and_a_later_one_is_kept_as_a_revision():
    ask = guess("03.a", "How many GB?", unit="GB", low=1, high=5000)
    assert "No guess is committed yet." in ask.controls["status"].value
    assert "156 GB." in commit(ask, "156")
    assert "156 GB, revised to 208 GB." in commit(ask, "208 GB")
    assert [entry.value for entry in progress.read("guess", "03.a")[0]] == [156, 208]
    assert "Your first guess is 1.3 times too low (log2 error -0.42)." in reveal("03.a", 208.25, "GB").html
    assert "156 GB, revised to 208 GB." in guess("03.a", "How many GB?", unit="GB").controls["status"].value


@pytest.mark.parametrize("text", ["", "  ", "many", "nan", "inf", "-inf", "1e999", "0", "5001", "-3", "12 GiB", "1 2", "GB"])
def test_an_impossible_guess_is_answered_in_the_panel_and_not_stored(text):
    answer = commit(guess("03.a", "How many GB?", unit="GB", low=1, high=5000), text)
    assert "write a number from 1 up to 5,000 in GB" in answer and "\n" not in answer
    assert progress.read("guess", "03.a") == ([], "")


@pytest.mark.parametrize(("text", "value"), [("1,300", 1300), ("1,300.5", 1300.5), ("-12,345,678", -12345678), ("1_000", 1000), (" 40 % ", 40), ("1e3", 1000)])
def test_a_comma_between_thousands_is_read(text, value):
    assert parse_number(text, "%") == value


@pytest.mark.parametrize(
    ("text", "instead"), [("0,4", "0.4"), ("40,5 %", "40.5"), ("1,30", "1.30"), ("1300,5", "1300.5"), (",5", "0.4"), ("1.300,5", "0.4"), ("1,2,3", "0.4")]
)
def test_any_other_comma_is_refused_with_what_was_typed_and_how_to_write_it(text, instead):
    """A comma that was dropped would make 0,4 a 4 without a word."""
    with pytest.raises(BadInput) as caught:
        parse_number(text, "%", 0, 100)
    said = str(caught.value)
    assert said.startswith(repr(text)) and f"such as {instead}." in said and "as in 1,300;" in said and "\n" not in said


def test_a_large_limit_is_written_out():
    with pytest.raises(BadInput, match="up to 1,000,000 in steps"):
        parse_number("many", "steps", 0, 1e6)


def test_a_button_pressed_twice_revises_nothing():
    ask = guess("03.a", "How many?", unit="%")
    commit(ask, "40")
    assert "40 %." in commit(ask, "40.0 %") and "revised" not in ask.controls["status"].value
    assert len(progress.read("guess", "03.a")[0]) == 1
    assert "the first one counts" in ask.controls["commit"].tooltip


def test_a_guess_after_the_answer_was_shown_is_kept_and_told_apart(own_progress):
    reveal("03.a", 3, "GB")
    reveal("03.a", 3, "GB")
    assert len(progress.read("seen", "03.a")[0]) == 1
    commit(guess("03.b", "How many GB?", unit="GB"), "1")
    for _ in range(2):
        reveal("03.b", 3, "GB")
    assert "after the answer was shown: 3 GB." in commit(guess("03.a", "How many GB?", unit="GB"), "3")
    assert "after the answer was shown" in reveal("03.a", 3, "GB").html and "after" not in reveal("03.b", 3, "GB").html
    assert progress.seen_first(progress.entries()[0]) == {"03.a"}
    exported.write(own_progress.parent / "export.json")
    assert list(exported.read(own_progress.parent / "export.json").of("guess")) == ["03.b"]


def test_an_older_version_reads_past_what_was_seen(own_progress):
    """The schema stays 1: every reader looks for the kinds that it knows."""
    reveal("03.a", 3, "GB")
    (path,) = own_progress.glob("*.json")
    assert json.loads(path.read_text()) | {"day": ""} == {"schema": 1, "kind": "seen", "key": "03.a", "value": True, "day": ""}


@given(st.text(max_size=20))
def test_whatever_is_typed_is_a_finite_number_in_range_or_one_clear_line(text):
    try:
        assert 1 <= parse_number(text, "GB", 1, 10) <= 10
    except BadInput as error:
        assert "\n" not in str(error)


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_a_typed_number_is_read_as_it_is_with_separators_and_unit(value):
    assert parse_number(f" {value!r} GB ", "GB") == value
    assert parse_number(f"{value:,.2f}") == pytest.approx(value, abs=0.01)


def test_an_option_is_committed_only_when_one_is_chosen():
    ask = guess("03.b", "Which first?", options=["batch", "optimizer"])
    ask.controls["commit"].click()
    assert "Nothing is chosen yet" in ask.controls["status"].value
    assert "optimizer." in commit(ask, "optimizer")
    assert "is right." in reveal("03.b", "optimizer").html
    assert "is not the answer." in reveal("03.b", "batch").html


def test_without_a_guess_the_answer_is_shown_all_the_same():
    shown = reveal("03.a", 208.25, "GB", explain="16 bytes per parameter.")
    assert repr(shown) == "Answer 03.a: 208.2 GB. 16 bytes per parameter."
    assert "You committed no guess" in shown.html


def test_no_plain_text_depends_on_the_learner():
    def texts() -> list[str]:
        shown = [guess("03.a", "How many GB?", unit="GB"), reveal("03.a", 2, "GB"), quiz("03.q", "Which?", ["x", "y"], "y", "So.")]
        return [each._repr_mimebundle_()["text/plain"] for each in shown]

    before = texts()
    commit(guess("03.a", "How many GB?", unit="GB"), "7")
    assert texts() == before
    assert "7 GB" in reveal("03.a", 2, "GB").html


def test_what_a_learner_types_cannot_become_html():
    assert "<script>" not in commit(guess("03.a", "How many?"), "<script>alert(1)</script>")


@given(st.floats(min_value=1e-9, max_value=1e9), st.floats(min_value=1e-9, max_value=1e9))
def test_the_log_error_is_the_base_2_logarithm_of_guess_over_answer(guessed, answer):
    assume(guessed != answer)
    said = float(log_error(guessed, answer).split("log2 error ")[1].rstrip(")"))
    assert said == pytest.approx(math.log2(guessed) - math.log2(answer), abs=0.006)


def test_log_errors_read_well_at_the_edges():
    assert log_error(100, 100) == "exactly right"
    assert log_error(103, 100) == "within 5 % (log2 error +0.04)"
    assert log_error(1000, 10) == "100 times too high (log2 error +6.64)"
    assert log_error(0, 3) == "off by 3" and log_error(3, 0) == "off by 3"
    assert log_error(5, 0, "%") == "off by 5 percentage points" and log_error(0, 2.5, "GB") == "off by 2.5 GB"


def test_amounts_have_four_digits_and_their_unit():
    assert [amount(208.25382912, "GB"), amount(13_015_864_320), amount(0.0625), amount("uv")] == ["208.3 GB", "13,015,864,320", "0.0625", "uv"]


@pytest.mark.parametrize(
    "arguments", [{"options": ["a"]}, {"options": ["a", "b"], "unit": "GB"}, {"options": ["a", "b"], "low": 1}, {"low": 3, "high": 3}, {"low": 4, "high": 3}]
)
def test_a_guess_that_cannot_be_asked_is_refused(arguments):
    with pytest.raises(BadInput, match="Guess 03.a"):
        guess("03.a", "?", **arguments)


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_refused(answer):
    with pytest.raises(BadInput, match="finite"):
        reveal("03.a", answer, "GB")


def test_every_control_has_an_accessible_name():
    for shown in (guess("03.a", "?"), guess("03.b", "?", options=["a", "b"]), quiz("03.q", "?", ["a", "b"], "a", "So.")):
        assert all(control.tooltip for name, control in shown.controls.items() if name != "status")
        assert 'role="status"' in shown.controls["status"].value


# quiz


def test_a_quiz_says_whether_the_choice_is_right_and_stores_every_try():
    ask = quiz("03.q", "Which?", ["x", "y"], "y", "Because y.")
    said = []
    for choice in ("x", "y"):
        ask.controls["entry"].value = choice
        ask.controls["answer"].click()
        said.append(ask.controls["status"].value)
    assert "Not this one" in said[0] and "Because" not in said[0] and "Right. Because y." in said[1]
    assert [entry.value["right"] for entry in progress.read("quiz", "03.q")[0]] == [False, True]
    assert "Because" not in repr(ask)


@pytest.mark.parametrize(("options", "answer"), [(["x", "y"], "z"), (["x"], "x"), (["x", "x"], "x")])
def test_a_quiz_that_cannot_be_answered_is_refused(options, answer):
    with pytest.raises(BadInput, match="Quiz 03.q"):
        quiz("03.q", "Which?", options, answer, "So.")


# exercise


@pytest.fixture
def doubled(monkeypatch):
    monkeypatch.setattr(exercises, "_verifiers", {})
    exercise("99.ex1", lambda answer: None if answer * 2 == 4 else "Halve 4.")


@pytest.mark.parametrize("answer", [..., [1, ...], {"a": ...}, (..., 2)])
def test_an_exercise_not_attempted_says_so(doubled, answer):
    assert "not attempted" in repr(check("99.ex1", answer))
    assert progress.read("exercise", "99.ex1") == ([], "")


def test_a_right_answer_is_said_and_stored(doubled):
    assert repr(check("99.ex1", 2)) == "Exercise 99.ex1: right."
    assert len(progress.read("exercise", "99.ex1")[0]) == 1


@pytest.mark.parametrize(("answer", "why"), [(3, "Halve 4"), (None, "could not be judged.*TypeError"), (object(), "could not be judged")])
def test_a_wrong_answer_raises_one_line_with_a_hint(doubled, answer, why):
    with pytest.raises(BadInput, match=why) as caught:
        check("99.ex1", answer)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"BadInput: {caught.value}"]


def test_an_unknown_exercise_names_those_there_are(doubled):
    with pytest.raises(BadInput, match="Known are: 99.ex1"):
        check("99.ex2", 2)


# spoken

ANSWER = "It needs {adamw} here. " + "word " * 196


def say(template=ANSWER, numbers=None, follow_ups=("Why?", "How?")):
    return spoken("03", template, {"adamw": "208.3 GB"} if numbers is None else numbers, listens_for=["bytes"], red_flags=["guesses"], follow_ups=follow_ups)


def test_the_spoken_answer_holds_this_runs_numbers_and_says_its_length():
    shown = say()
    assert "Say it in 90 seconds (201 words)" in repr(shown)
    assert "It needs 208.3 GB here." in repr(shown) and "It needs 208.3 GB here." in shown.html
    assert all(part in repr(shown) for part in ("- bytes", "- guesses", "- Why?", "- How?"))
    assert repr(say()) == repr(shown)


@pytest.mark.parametrize(
    ("template", "numbers", "why"),
    [
        (ANSWER, {}, "adamw are missing"),
        ("{} " + ANSWER, None, "missing"),
        ("{adamw.real} " + ANSWER, None, "missing"),
        ("{adamw", None, "cannot be read"),
        ("{adamw:d} " + ANSWER, None, "format of its own"),
        ("{adamw!r} " + ANSWER, None, "format of its own"),
        ("{adamw:{width}} " + ANSWER, None, "format of its own"),
        ("word " * 200, None, "names no number"),
        ("{adamw} " + "word " * 177, None, "179 words"),
        ("{adamw} " + "word " * 259, None, "261 words"),
    ],
)
def test_a_spoken_answer_with_a_hole_or_the_wrong_length_is_refused(template, numbers, why):
    with pytest.raises(BadInput, match=why):
        say(template, numbers)


@pytest.mark.parametrize("words", [178, 258])
def test_the_shortest_and_the_longest_spoken_answer_pass(words):
    assert f"({words + 2} words)" in repr(say("{adamw} " + "word " * words))


def test_two_follow_ups_are_wanted():
    with pytest.raises(BadInput, match="two follow-up"):
        say(follow_ups=("Why?",))


# progress


def test_entries_come_back_in_order_and_hold_no_name(own_progress):
    for value in range(5):
        progress.add("guess", "03.a", value)
    progress.add("guess", "03.b", 9)
    assert [entry.value for entry in progress.read("guess", "03.a")[0]] == [0, 1, 2, 3, 4]
    fields = json.loads(next(own_progress.glob("*.json")).read_text())
    assert set(fields) == {"schema", "kind", "key", "value", "day"}


def test_concurrent_writers_lose_nothing(own_progress):
    """Two processes and, in each, threads."""
    script = (
        "from concurrent.futures import ThreadPoolExecutor\nfrom mllandscape.course import progress\n"
        "with ThreadPoolExecutor(4) as pool: list(pool.map(lambda value: progress.add('guess', '03.a', value), range(50)))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda value: progress.add("guess", "03.a", value), range(50)))
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries, note = progress.read("guess", "03.a")
    assert sorted(entry.value for entry in entries) == sorted([*range(50)] * 3) and note == ""
    assert not list(own_progress.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"schema": 1}', b"\xff\xfe", b'"text"'])
def test_an_unreadable_file_is_set_aside_and_said_and_nothing_is_lost(own_progress, content):
    commit(guess("03.a", "How many?"), "3")
    (own_progress / "0.json").write_bytes(content)
    shown = reveal("03.a", 6)
    assert "1 unreadable progress file(s) set aside" in shown.html and "2.0 times too low" in shown.html
    (aside,) = own_progress.glob("0.unreadable-????-??-??")
    assert aside.read_bytes() == content
    assert progress.read("guess", "03.a")[1] == ""


def test_an_entry_of_a_newer_version_is_left_alone(own_progress):
    progress.add("guess", "03.a", 1)
    newer = own_progress / "9.json"
    newer.write_text(json.dumps({"schema": progress.SCHEMA + 1, "what": "ever"}))
    assert [entry.value for entry in progress.read("guess", "03.a")[0]] == [1]
    assert newer.exists()


def test_a_folder_that_cannot_be_written_is_said_in_the_panel(tmp_path, monkeypatch, doubled):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path / "file"))
    assert "Not saved" in commit(guess("03.a", "How many?"), "3")
    assert "right" in repr(check("99.ex1", 2)) and "Not saved" in check("99.ex1", 2).html


def test_without_the_variable_progress_lies_in_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("MLLANDSCAPE_DATA")
    assert progress.folder().parts[-2:] == ("mllandscape", "progress")


def test_importing_the_course_imports_no_widgets():
    script = "import sys, mllandscape.course, mllandscape.claims; print(sorted({'ipywidgets', 'torch', 'matplotlib', 'nbformat'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_guess_is_not_held_to_an_answer_that_is_nobodys(monkeypatch, tmp_path):
    """Of one's own record, before there is one: a made-up learner's number says nothing of a guess, and is not stored beside it."""
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    progress.add("guess", "10.right", 40.0)
    shown = reveal("10.right", 40.0, "%", judged=False)
    assert "Nothing of yours" in shown.html and "exactly right" not in shown.html
    assert progress.read("answer", "10.right")[0] == []
    assert "Your first guess is" in reveal("10.right", 40.0, "%").html
    assert [entry.value for entry in progress.read("answer", "10.right")[0]] == [{"answer": 40.0, "unit": "%"}]
