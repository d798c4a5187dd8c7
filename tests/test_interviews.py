"""The sheets for the interviewer in lesson 10, and what the room is told of them."""

import html
import re

from mllandscape.cli import main
from mllandscape.interview import bank, numbers
from mllandscape.kit import instructor, interviews
from mllandscape.lessons import key_takeaways


def test_a_sheet_has_what_its_seed_asks_with_every_point_flag_and_number():
    for seed in (3, 7):
        shown = html.unescape(interviews.page([seed]))
        drawn = bank.draw(seed, 20)
        assert f"Interview {seed}: {len(drawn.questions)} questions, {drawn.minutes} minutes" in shown and shown.count("<h3 ") == len(drawn.questions)
        for one in drawn.questions:
            assert one.ask in shown and numbers.quote(one.quote) in shown and all(line in shown for line in one.follow_ups)
            assert all(f"☐ {kind}: {words}" in shown for kind, words in one.points) and all(f"☐ red flag: {flag}" in shown for flag in one.flags)


def test_each_seat_has_a_sheet_and_no_two_ask_the_same():
    asked = {tuple(one.id for one in bank.draw(seed, 20).questions) for seed in interviews.SEEDS}
    assert len(asked) == len(interviews.SEEDS) >= 20 and key_takeaways.WORKED_SEED in interviews.SEEDS


def test_the_instructors_edition_has_the_sheets_with_lesson_10_alone(tmp_path):
    for number, there in (("10", True), ("08", False)):
        assert main(["build", "instructor", str(tmp_path / number), "--only", number]) == 0
        assert (tmp_path / number / "interviews.html").exists() == there
    text = (tmp_path / "10" / "interviews.html").read_text(encoding="utf-8")
    assert text.count("<section") == len(interviews.SEEDS) and "default-src 'none'" in text and "<script" not in text


def test_the_room_is_told_of_a_seed_that_gives_the_sheet_it_says():
    told = [trouble for trouble in instructor.troubles() if trouble.lesson == "10"]
    calls = [match for trouble in told for match in re.finditer(r"bank\.draw\(seed=(\d+), minutes=(\d+)\)` on seat (\d+)", trouble.do)]
    assert calls and all(int(call[1]) == int(call[3]) in interviews.SEEDS and int(call[2]) == 20 for call in calls)
    assert any("interviews.html" in trouble.do for trouble in told) and not any("rubric in hand" in trouble.do for trouble in told)
