"""Lesson 10: calibration, the interview, fresh questions, the incident drill and the trade-off explorer."""

import json
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllandscape import BadInput, charts, claims
from mllandscape.course import progress
from mllandscape.course.progress import Entry
from mllandscape.course.questions import amount
from mllandscape.interview import bank, calibration, drill, fresh, numbers, session
from mllandscape.lessons import key_takeaways as lesson

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
DAY = "2026-11-23"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))


# -- the numbers to quote --------------------------------------------------------------------------------------------------


def stored_answers() -> dict[str, str]:
    """What the notebooks of the lessons show as their answers, where every machine shows the same."""
    found = {}
    for path in NOTEBOOKS.glob("0*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "nbval-ignore-output" not in cell["metadata"].get("tags", []):
                for output in cell.get("outputs", []):
                    text = "".join(output.get("data", {}).get("text/plain", ""))
                    if match := re.match(r"Answer (\d\d\.\w+): (.*?)\.(?: [A-Z0-9A-Z\[]|$)", text):
                        found[match[1]] = match[2]
    return found


def test_the_numbers_to_quote_are_those_that_the_lessons_show():
    shown = stored_answers()
    both = sorted(shown.keys() & numbers.KNOWN.keys())
    assert len(both) >= 10
    for key in both:
        assert amount(numbers.value(key), numbers.KNOWN[key].unit) == shown[key], key


@pytest.mark.parametrize("key", numbers.KNOWN)
def test_a_quote_has_its_unit(key):
    known = numbers.KNOWN[key]
    assert isinstance(numbers.value(key), str) != bool(known.unit)
    assert numbers.quote(key).endswith(known.words)


def test_a_pinned_line_gives_more_than_one_set():
    assert numbers.value("07.floats") == 2, "numpy 1.26.2 on the day of the pin's release, 2.0.0 since June 2024"


def test_an_unknown_number_is_said():
    with pytest.raises(BadInput, match="no number '11.x'"):
        numbers.value("11.x")


# -- calibration -------------------------------------------------------------------------------------------------------------


def entries(*rows: tuple) -> list[Entry]:
    return [Entry(kind, key, value, DAY) for kind, key, value in rows]


def test_the_first_guess_and_the_latest_answer_count():
    record = calibration.read_entries(
        entries(
            ("guess", "03.adamw_13b", 104.0),
            ("guess", "03.adamw_13b", 208.0),
            ("answer", "03.adamw_13b", {"answer": 1.0, "unit": "GB"}),
            ("answer", "03.adamw_13b", {"answer": 208.0, "unit": "GB"}),
            ("guess", "08.major", "209"),
            ("answer", "08.major", {"answer": "209", "unit": ""}),
            ("guess", "05.slowdown", 2.0),
            ("guess", "10.right", 50.0),
            ("quiz", "03.quiz", {"choice": "x", "right": False}),
        )
    )
    assert [(one.key, one.error, one.right) for one in record.outcomes] == [("03.adamw_13b", -1.0, False), ("08.major", None, True)]
    assert record.hidden == ("05.slowdown",) and not record.enough and not record.made_up
    assert "05.slowdown" in str(record) and record.right_share == 0.5 and record.bias == -1.0
    assert record.said == "Of my own guesses 50% were right or within a factor of two; 1 were further below, 0 further above"
    assert calibration.worked().said.startswith("Of a made-up learner's guesses, ")


def test_a_guess_after_its_answer_was_shown_is_no_guess():
    shown_first = [("seen", "03.adamw_13b", True), ("guess", "03.adamw_13b", 208.0), ("answer", "03.adamw_13b", {"answer": 208.0, "unit": "GB"})]
    assert calibration.read_entries(entries(*shown_first)).outcomes == ()
    assert len(calibration.read_entries(entries(*shown_first[1:])).outcomes) == 1


ODD = [None, True, math.nan, math.inf, [], {}, {"answer": None}, {"answer": math.nan, "unit": ""}, [1]]


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("kind", ["guess", "answer"])
def test_values_that_make_no_sense_are_left_out_and_said(kind, value):
    record = calibration.read_entries(entries((kind, "03.a", value)))
    assert not record.outcomes and "make no sense" in record.note


def test_a_guess_and_an_answer_of_different_kinds_are_left_out():
    record = calibration.read_entries(entries(("guess", "03.a", "none"), ("answer", "03.a", {"answer": 4.0, "unit": ""})))
    assert not record.outcomes and "1 stored value(s)" in str(record)


def test_a_damaged_file_and_a_newer_one_are_said_and_nothing_is_lost():
    progress.add("guess", "03.a", 2.0)
    progress.add("answer", "03.a", {"answer": 4.0, "unit": "GB"})
    (progress.folder() / "0-damaged.json").write_text("{", encoding="utf-8")
    (progress.folder() / "0-newer.json").write_text(json.dumps({"schema": 99}), encoding="utf-8")
    record = calibration.own()
    assert [one.error for one in record.outcomes] == [-1.0]
    assert "unreadable" in record.note and "newer" in record.note


def test_without_a_record_the_made_up_learner_stands_in_and_says_so():
    assert "no revealed guess" in str(calibration.own())
    shown = calibration.shown()
    assert shown.made_up and str(shown).startswith("A worked example with a made-up learner") and shown.topics == list(calibration.TOPICS)
    assert "made-up" in lesson.calibration_figure(shown).sentence and "made-up" in repr(lesson.again_table(shown))
    with pytest.raises(BadInput, match="no guess of a number"):
        calibration.errors(calibration.own())


def test_with_enough_outcomes_the_record_is_ones_own():
    for number in range(calibration.LEAST):
        progress.add("guess", f"0{number + 1}.a", 8.0)
        progress.add("answer", f"0{number + 1}.a", {"answer": 2.0 ** (number + 1), "unit": "GB"})
    shown = calibration.shown()
    assert shown.label == "Your own record" and [one.error for one in shown.outcomes] == [2, 1, 0, -1, -2]
    weakest = calibration.again(shown)
    assert [row[0] for row in weakest] == [calibration.TOPICS[topic] for topic in ("01", "05", "02", "04")]
    assert weakest[0][2:] == ("too high", "01_pip_vs_poetry")


def test_an_answer_of_zero_has_a_direction_and_names_alone_give_no_figure():
    zero = calibration.Outcome("06.tf32", 5.0, 0.0)
    assert zero.error is None and not zero.right and zero.direction == "too high"
    assert calibration.Outcome("06.tf32", 0.0, 0.0).right
    names = tuple(calibration.Outcome(f"08.{letter}", "209", "runs") for letter in "abcdef")
    assert not calibration.Record(names).enough and names[0].direction == "another option"


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
def test_too_low_and_too_high_are_treated_alike(one, other):
    low, high = calibration.Outcome("03.a", one, other), calibration.Outcome("03.a", other, one)
    assert math.isclose(low.error, -high.error, abs_tol=1e-9) and low.right == high.right


def test_every_topic_has_its_notebook():
    for topic, name in calibration.NOTEBOOKS.items():
        assert topic in calibration.TOPICS and (NOTEBOOKS / f"{name}.ipynb").exists(), name


# -- the bank ----------------------------------------------------------------------------------------------------------------


def test_every_topic_has_questions_of_more_than_one_level():
    for topic in calibration.TOPICS:
        assert len({one.level for one in bank.questions().values() if one.topic == topic}) >= 2, topic


@settings(max_examples=60)
@given(
    st.integers(-5, 10**9),
    st.integers(3, 90),
    st.sets(st.sampled_from(bank.LEVELS), min_size=1),
    st.sets(st.sampled_from(list(calibration.TOPICS)), min_size=1),
)
def test_an_interview_keeps_to_its_minutes_levels_and_topics(seed, minutes, levels, topics):
    possible = [one for one in bank.questions().values() if one.level in levels and one.topic in topics and one.minutes <= minutes]
    if not possible:
        with pytest.raises(BadInput, match="fits into"):
            bank.draw(seed, minutes, levels, sorted(topics))
        return
    drawn = bank.draw(seed, minutes, levels, sorted(topics))
    assert drawn == bank.draw(seed, minutes, levels, sorted(topics))
    assert 0 < drawn.minutes <= minutes and all(one.level in levels and one.topic in topics for one in drawn.questions)
    assert len(set(drawn.questions)) == len(drawn.questions)
    left = set(possible) - set(drawn.questions)
    assert not any(one.minutes <= minutes - drawn.minutes for one in left)


def test_other_seeds_give_other_interviews_and_the_rubric_is_not_shown():
    drawn = [bank.draw(seed) for seed in range(8)]
    assert len({one.questions for one in drawn}) > 4
    words = [words for one in drawn[0].questions for _, words in one.points]
    assert not any(point in repr(drawn[0]) for point in words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": 0}, "minutes=0"),
        ({"minutes": True}, "minutes=True"),
        ({"minutes": 1}, "fits into 1 minutes"),
        ({"levels": (4,)}, "level 4"),
        ({"topics": ("10",)}, "topic '10'"),
    ],
)
def test_an_impossible_interview_is_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        bank.draw(1, **arguments)


ROW = '[[question]]\nid = "03.x"\nlevel = 1\nminutes = 3\nask = "?"\npoints = [["what", "a"], ["why", "b"], ["number", "c"]]\nflags = ["f"]\nfollow_ups = ["g", "h"]\nquote = "03.batch"\n'  # noqa: E501


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("level = 1", "level = 4"),
        ('"03.x"', '"11.x"'),
        ('["why", "b"]', '["how", "b"]'),
        ('"03.batch"', '"03.none"'),
        ('["g", "h"]', '["g"]'),
        ("minutes = 3", "hours = 1"),
    ],
)
def test_a_broken_bank_is_said(old, new):
    assert list(bank.parse(ROW)) == ["03.x"]
    with pytest.raises(BadInput, match="question"):
        bank.parse(ROW.replace(old, new))


def test_ticks_are_counted_by_kind():
    question = bank.questions()["03.oom"]
    everything = bank.score(question, range(len(question.points)), [0], 200)
    assert {kind: said for kind, (said, of) in everything.said.items()} == {kind: of for kind, (said, of) in everything.said.items()}
    assert everything.flags == question.flags[:1] and "208.3 GB" in repr(everything) and "200 s of 240" in repr(everything)
    nothing = bank.score("03.oom")
    assert bank.totals([everything, nothing])["why"][0] == everything.said["why"][0] and "no red flag" in repr(nothing)
    for wrong in ({"said": [9]}, {"said": [-1]}, {"flags": [3]}):
        with pytest.raises(BadInput, match="03.oom has 0 to"):
            bank.score("03.oom", **wrong)
    with pytest.raises(BadInput, match="no question"):
        bank.score("03.none")


# -- sitting it --------------------------------------------------------------------------------------------------------------


def test_an_interview_is_sat_from_start_to_count():
    now = [100.0]
    interview = bank.draw(10)
    shown = session.sit(interview, clock=lambda: now[0])
    control = shown.controls
    first = interview.questions[0]
    assert repr(shown).startswith(repr(interview)) and first.ask in control["asked"].value and not control["rubric"].children
    assert control["stop"].disabled and control["count"].disabled
    control["typed"].value = "a secret"
    control["start"].click()
    now[0] += 60 * first.minutes + 5
    control["stop"].click()
    assert "5 s over" in control["status"].value
    ticks = [child for child in control["rubric"].children if hasattr(child, "indent")]
    assert len(ticks) == len(first.points) + len(first.flags) and all(child.tooltip for child in ticks)
    ticks[0].value = ticks[len(first.points)].value = True
    control["count"].click()
    assert first.flags[0] in control["status"].value and control["count"].disabled
    (score,) = session.kept()
    assert (score.question, score.flags, score.seconds) == (first, first.flags[:1], 60 * first.minutes + 5)
    assert not any("a secret" in path.read_text(encoding="utf-8") for path in progress.folder().glob("*"))
    control["choice"].value = 1
    assert interview.questions[1].ask in control["asked"].value and not control["rubric"].children and control["typed"].value == ""


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path / "file"))
    assert session.store(bank.score("03.oom"), [], []).startswith("Not saved")


def test_ticks_of_another_bank_are_left_out():
    for key, value in (("03.gone", {"said": [0], "flags": []}), ("03.oom", {"said": [99], "flags": []}), ("03.oom", "x"), ("03.oom", {"said": 3})):
        progress.add(session.KIND, key, value)
    assert session.kept() == []


def test_the_plain_timer():
    now = iter((3.0, 10.0))
    assert session.Timer(lambda: next(now)).stop() == 7


# -- fresh questions ------------------------------------------------------------------------------------------------------------


def test_fresh_questions_are_of_all_nine_topics():
    assert {topic for topic, _ in fresh.KINDS.values()} == set(calibration.TOPICS)


@pytest.mark.parametrize("kind", fresh.KINDS)
def test_a_question_takes_its_own_answer_and_refuses_others(kind):
    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 10**6))
    def holds(seed):
        question = fresh.question(kind, seed)
        assert repr(question) == repr(fresh.question(kind, seed)) and question.topic == fresh.KINDS[kind][0]
        assert question.check(question.answer) is None and question.show_solution()
        if question.options:
            assert question.answer in question.options and not question.unit
            assert all(question.check(option) for option in question.options if option != question.answer)
        else:
            assert question.unit and f"{question.answer:g}" not in repr(question).split()
            for wrong in (question.answer + abs(question.answer) + 1, question.answer - abs(question.answer) - 1):
                assert question.check(wrong)
        for nonsense in (None, "nonsense", math.nan, True, [], object()):
            assert question.check(nonsense)

    holds()


@pytest.mark.parametrize("seed", range(12))
def test_the_answers_against_oracles_from_outside(seed):
    from scipy.stats import binomtest, ttest_ind

    lost, gained = map(int, re.search(r"(\d+) answers lost, (\d+) gained", fresh.question("McNemar", seed).ask).groups())
    assert (fresh.question("McNemar", seed).answer == "a drop") == (binomtest(lost, lost + gained).pvalue < 0.05)
    seeds = fresh.question("seeds", seed)
    before, after = (json.loads(text) for text in re.findall(r"\[.*?\]", seeds.ask))
    assert seeds.answer == pytest.approx(ttest_ind(after, before, equal_var=False).statistic)
    logits = fresh.question("logits", seed)
    vocabulary, batch, tokens = (int(text.replace(",", "")) for text in re.search(r"vocabulary ([\d,]+), (\d+) × ([\d,]+)", logits.ask).groups())
    assert logits.answer == pytest.approx(8 * batch * tokens * vocabulary / 1e9, rel=1e-4)
    gathers = fresh.question("all-gathers", seed)
    layers, kept, steps = re.search(r"(\d+) blocks .* reshard_after_forward (\w+), (\d+) micro", gathers.ask).groups()
    assert gathers.answer == int(steps) * ((1 if kept == "False" else 2) * int(layers) + 1)


def test_34b_on_8_cards_of_80_gb_is_too_tight_to_promise():
    question = fresh.question("strategy", 308)
    assert question.ask.startswith("34B parameters, 8 × A100-80GB") and question.answer == fresh.NONE and "tight" in question.show_solution()


@pytest.mark.parametrize(("kind", "seed"), [("poetry", 1), ("logits", 1.0), ("logits", True)])
def test_an_impossible_question_is_refused(kind, seed):
    with pytest.raises(BadInput, match="no kind of question|a whole number"):
        fresh.question(kind, seed)


def test_a_rule_of_thumb_is_right_more_often_than_an_answer_by_heart():
    heart, rule = lesson.by_heart(), lesson.by_rule()
    assert all(rule[kind] > 1.2 * share for kind, (_, share) in heart.items()) and rule["strategy"] >= 0.95
    assert all(answer in lesson.by_heart_figure().sentence for answer, _ in heart.values())


def test_where_the_rule_for_drivers_ends():
    asked = [fresh.question("driver", seed) for seed in range(200)]
    missed = {one.answer for one in asked if fresh.RULES["driver"](**one.given) != one.answer}
    assert missed <= {"no device", "PTX too new"}


# -- the drill ----------------------------------------------------------------------------------------------------------------


def test_yesterday_worked_and_each_symptom_has_causes_in_two_things_or_more():
    assert drill.run(drill.World()).well
    assert set(drill.causes()) == {drill.STARTS, drill.FITS, drill.ACCURATE}
    assert all(len({item for item, _ in pairs}) >= 2 for pairs in drill.causes().values())
    assert {drill.layer(item) for pairs in drill.causes().values() for item, _ in pairs} == set(drill.LAYERS)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("symptom", [drill.STARTS, drill.FITS, drill.ACCURATE])
def test_an_incident_has_one_cause_and_halving_finds_it(seed, symptom):
    case = drill.incident(seed, symptom)
    assert case.now == drill.incident(seed, symptom).now and drill.run(case.now).fails == symptom
    changed = drill.changed(case.then, case.now)
    healing = [back for size in (1, 2) for back in combinations(changed, size) if case.swap(*back).well]
    assert len(changed) >= 5 and all(case.cause in back for back in healing) and (case.cause,) in healing
    found, runs = drill.isolate(case)
    assert found == case.cause and runs <= math.ceil(math.log2(len(changed)))
    right = {case.cause: getattr(case.then, case.cause)}
    assert drill.judge(case, case.cause, right) is None
    for item in drill.ITEMS:
        if item != case.cause:
            assert drill.judge(case, item, right)


def test_evidence_is_computed_counted_and_gives_no_cause_away():
    case = drill.incident(lesson.CASE)
    assert case.cause not in repr(case) and "out of memory" in repr(case)
    assert "trainkit 0.9.2 → 1.0.0" in case.lock() and "activations" in case.bytes() and "runs" in case.verdict()
    assert "inputs" in case.data() and "driver" in case.machine() and "data" in case.layers()
    assert case.asked == ["lock", "bytes", "verdict", "data", "machine", "layers"]
    with pytest.raises(BadInput, match="no 'network' here"):
        case.swap("network")


@pytest.mark.parametrize(
    ("cause", "remedy", "said"),
    [
        ("network", {}, "The cause is one of"),
        ("card", {"card": "A100-80GB"}, "card is what it was yesterday"),
        ("logkit", {"logkit": "3.1.0"}, "With logkit as it was yesterday: CUDA out of memory"),
        ("trainkit", {}, "The remedy is a dict"),
        ("trainkit", {"trainkit": "9"}, "The remedy is a dict"),
        ("trainkit", "0.9.2", "The remedy is a dict"),
        ("trainkit", {"logkit": "3.1.0"}, "With that change: CUDA out of memory"),
        ("trainkit", {"trainkit": "0.9.2", "logkit": "3.1.0"}, "2 changes at once"),
    ],
)
def test_a_wrong_diagnosis_is_told_why(cause, remedy, said):
    assert drill.judge(drill.incident(lesson.CASE), cause, remedy).startswith(said)


@pytest.mark.parametrize(("seed", "symptom"), [(1.5, None), (True, None), (1, "it is slow")])
def test_an_impossible_incident_is_refused(seed, symptom):
    with pytest.raises(BadInput, match="possible|a whole number"):
        drill.incident(seed, symptom)


def test_an_outcome_says_how_far_the_job_came():
    world = drill.World()
    assert "does not start" in repr(drill.run(replace(world, driver="470.42.01")))
    assert "out of memory" in repr(drill.run(replace(world, longest=32_768)))
    assert "accuracy fell" in repr(drill.run(replace(world, pixelprep="2.0.0")))
    assert "answers as before (0 answers lost" in repr(drill.run(world))


def test_halving_needs_fewer_runs_than_changing_at_random():
    found = lesson.methods(12)
    assert found.isolated < found.at_random / 3 and found.named == 12 and sum(found.by_layer.values()) == 12


# -- the trade-off explorer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [(1.5, 1024, 4), (13, 2048, 8), (70, 8192, 64)])
def test_the_pareto_set_is_what_nothing_beats(job):
    every, kept = lesson.ways(*job), lesson.best(*job)
    assert len(every) == 48 and kept and any(not one.changed for one in kept)
    numbers_of = {one.name: (one.profile.allocated, one.seconds, one.changed) for one in every}
    assert len(numbers_of) == 48  # a name says all
    for one in kept:
        a = numbers_of[one.name]
        assert not any(
            all(x <= y for x, y in zip(b, a, strict=True)) and (b[0] < 0.998 * a[0] or b[1] < 0.998 * a[1] or b[2] < a[2]) for b in numbers_of.values()
        )
    for one in [one for one in every if one not in kept]:
        assert any(other.beats(one) for other in every)


def test_the_panel_answers_at_every_stop_of_every_control():
    panel = lesson.panel()
    assert "nothing beats it" in panel.text and panel.sweep() >= 26
    assert "Ranks 8" in panel.sentence
    told = panel.set(strategy="fsdp", optimizer="adamw8bit")
    assert "does not go together" in told
    told = panel.set(optimizer="adamw", size=34, card="H200", checkpointing="full")
    chosen = panel.record.ways[panel.record.chosen]
    assert chosen.name == "full, fsdp" and chosen.settings == 2 and "On twice the ranks" in told
    assert all(way.memory > 0 and way.seconds > 0 for way in panel.record.ways)


def test_a_chart_without_ways_is_refused():
    record = charts.TradeOffsRecord((), 0, 1, (1, 2, 1, 2), "")
    with pytest.raises(BadInput, match="one way or more"):
        charts.TradeOffs().limit(record)
    with pytest.raises(BadInput, match="from 0 to 1"):
        charts.shares({"a": 1.2}, title="", x_label="")


def test_checkpointing_alone_costs_time_and_bf16_alone_costs_neither():
    costs = lesson.costs(7, 2048, 8)
    assert costs["full"][1] > 1.2 and max(costs["bf16"][:2]) <= 1 and {changed for *_, changed in costs.values()} == {1}


# -- takeaways and exercises --------------------------------------------------------------------------------------------------------


def test_the_takeaways_are_numbers_of_a_record():
    table = lesson.takeaways(calibration.worked(), lesson.worked_scores(), ["lock"])
    assert len(table.rows) == 5 and "made-up" in table.title and table.rows[1][2] == "1"
    empty = lesson.takeaways(calibration.own(), [], [])
    assert empty.rows[1][2] == "not tried yet" and empty.rows[0][2] == "0, 0 of 0"


def test_what_the_source_says_by_name_is_counted_in_the_ledger():
    written = lesson.as_written()
    assert set(written) == {"Poetry", "FSDP", "MLflow"} and all(0 <= held < said for held, said in written.values())
    assert sum(held for held, _ in written.values()) > 0


def test_lesson_10_has_its_five_rows():
    rows = claims.lesson("10")
    assert [one.id for one in rows] == [f"10.0{number}" for number in range(1, 6)] and not any(one.cited for one in rows)


@pytest.mark.parametrize(
    ("verify", "wrong"),
    [
        (lesson._solves_the_case, {"cause": "trainkit"}),
        (lesson._solves_the_case, 3),
        (lesson._answers_all, [1]),
        (lesson._answers_all, ["ddp", 1, 1, "runs", 1]),
        (lesson._finds_the_front, lambda points: []),
        (lesson._finds_the_front, lambda points: list(range(len(points)))),
    ],
)
def test_a_wrong_answer_gets_a_hint(verify, wrong):
    assert verify(wrong)


def test_a_name_counts_however_it_is_written():
    one = fresh.question("strategy", 3410)
    assert one.check(f" {str(one.answer).upper()} ") is None
    assert "is none of" in one.check("pipeline") and "is none of" in one.check(3)
    assert all("GB" not in line for line in one.solution[1:] if "rank" in line), "GiB, as the verdict beside it has them"
