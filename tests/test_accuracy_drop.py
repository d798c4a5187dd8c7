"""Lesson 6: two environments, detectors on the same incidents, tokenization, precision, the panel at its limits, the charts and the exercises."""

import numpy as np
import pytest
from packaging.requirements import Requirement

from mllandscape import BadInput, charts, drift, sandbox
from mllandscape.lessons import accuracy_drop as lesson
from mllandscape.serving import pipeline, triage
from mllandscape.serving.pipeline import KINDS, SUSPECTS, Fault, Incident, serve


@pytest.fixture(scope="module")
def release():
    return pipeline.release()


@pytest.fixture(scope="module")
def grid():
    return lesson.classifier_grid()


@pytest.fixture(scope="module")
def panel(grid):
    return lesson.panel(grid)


# -- is it a drop at all? -------------------------------------------------------------------------------------------------


def test_the_incident_of_the_question_is_a_drop_on_the_same_items_and_chance_on_others(release):
    fault = lesson.severity_for("one-pixel shift", 0.82)
    before, now = release.right(release.state), release.right(fault(release.state))
    assert now.mean() == pytest.approx(0.82, abs=0.002)
    assert drift.paired(before, now).p < 0.001 < drift.LEVEL < drift.two_proportions(before.sum(), 997, now.sum(), 997)[1]


def test_p_values_fall_with_items_and_rise_with_changed_answers():
    by_items, by_changes = lesson.p_by_items(0.85, 0.82, [100, 1000, 5000]), lesson.p_by_changes(30, [30, 100, 300], 997)
    assert by_items == sorted(by_items, reverse=True) and by_changes == sorted(by_changes)


# -- a second environment -------------------------------------------------------------------------------------------------


def test_a_changed_default_in_a_real_second_environment_is_the_fault_of_that_severity(release):
    found = lesson.two_environments()
    assert lesson.environment_diff(*(one.packages for one in found.values())) == ["pixelprep 1.4.0 → 2.0.0"]
    for version, default in lesson.RELEASES.items():
        state = Fault("changed default", default)(release.state)
        assert found[version].default == default and found[version].accuracy == release.accuracy(state)
        assert found[version].inputs == lesson.printed(serve(state).inputs)["fingerprint"]
        assert found[version].weights == release.state.fingerprints()["weights"]


def test_an_environment_diff_names_what_came_and_what_went():
    assert lesson.environment_diff({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a 1 → absent", "b 1 → 2", "d absent → 1"]


@pytest.mark.parametrize("requirement", [">=1.4", "==1.4.0", ">2", "~=1.4"])
def test_a_requirement_admits_what_packaging_says(requirement):
    asked = Requirement(f"pixelprep{requirement}").specifier
    assert lesson.admitted(requirement) == [version for version in lesson.RELEASES if version in asked]


def test_an_environment_whose_process_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "command", lambda *_, **__: sandbox.Outcome("error", message="ended with exit code 1"))
    with pytest.raises(BadInput, match="pixelprep 1.4.0 ended with error") as caught:
        lesson.two_environments()
    assert "\n" not in str(caught.value)


# -- which alarm would have rung? -----------------------------------------------------------------------------------------


def test_the_silent_incident_costs_most_and_the_loudest_nothing(release):
    join = lesson.severity_for("join bug", release.accuracy(release.state) - 0.14, seed=1)
    incidents = {"nothing": (), "join": (join,), "contrast": (Fault("more contrast", 1.0),), "weights": (Fault("low-precision load", 1.0),)}
    found = lesson.compare({name: Incident(faults) for name, faults in incidents.items()})
    assert not any(alarm.rings for alarm in found["nothing"].alarms)
    assert found["join"].cost.drop == pytest.approx(14, abs=1) and found["join"].alarms[:3] == pytest.approx(found["nothing"].alarms[:3])
    assert found["join"].rings("classifier") and found["join"].rings("predictions")
    assert all(alarm.rings for alarm in found["contrast"].alarms) and found["contrast"].cost.p >= 0.5
    assert [found["weights"].rings(name) for name in lesson.DETECTORS] == [False, False, False, False, True]


def test_false_alarms_are_as_agreed_where_there_is_a_noise_scale():
    few, many = lesson.rings(None, 100), lesson.rings(None, 300, draws=10)
    assert few["any difference"] == 20 and few["PSI"] >= 5 and many["PSI"] == 0
    assert all(few[name] <= 4 for name in ("describe", "KS", "classifier", "predictions"))


def test_a_join_is_rung_by_what_looks_at_columns_together_and_by_predictions():
    found = lesson.rings(Fault("join bug", 0.66), pipeline.ITEMS, draws=5)
    assert found["classifier"] == found["predictions"] == 5 and found["describe"] == found["KS"] == found["PSI"] == 0


def test_the_prints_show_another_scale_and_not_a_join(release):
    clean, scaled, joined = (
        lesson.printed(serve(fault(release.state)).inputs) for fault in (Fault("other scale", 0), Fault("other scale", 0.2), Fault("join bug", 0.5))
    )
    assert clean["std"] != scaled["std"] and (clean["mean"], clean["std"]) == (joined["mean"], joined["std"])
    assert len({one["fingerprint"] for one in (clean, scaled, joined)}) == 3


# -- tokenization ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_changes_under_fixed_weights_costs_more_the_less_it_is_seen():
    found = lesson.tokenization()
    assert found["as trained"].accuracy > 0.65 and found["as trained"].cost.lost == 0
    assert found["vocabulary in another order"].cost.drop > found["punctuation not split"].cost.drop > found["lower() dropped"].cost.drop
    assert found["vocabulary in another order"].unknown == found["as trained"].unknown
    half, none = lesson.tokenization(share=0.5), lesson.tokenization(share=0)
    for name, outcome in found.items():
        assert none[name].accuracy == found["as trained"].accuracy and half[name].cost.lost <= outcome.cost.lost
    with pytest.raises(BadInput, match="to 1 is possible"):
        lesson.tokenization(share=2)


def test_the_tokenizer_loses_nothing_but_spaces_and_capitals():
    text = "Don't use x_1 = 42."
    assert "".join(lesson.tokenize(text)) == text.lower().replace(" ", "") and lesson.tokenize(text, lower=False, punctuation=False) == text.split()


# -- precision ------------------------------------------------------------------------------------------------------------


def test_precision_changes_fingerprints_and_hardly_an_answer():
    loads, products = lesson.low_precision_loads(), lesson.low_precision_products()
    assert not any(one.fingerprint_same for one in loads.values()) and all(one.fingerprint_same for one in products.values())
    assert loads["fp16"].answers <= 1 and products["TF32 and fp16, 10 bits"].answers <= 1
    assert all(abs(one.cost.drop) < 2 for one in (loads | products).values())


def test_the_place_of_a_flipped_bit_decides_what_it_costs():
    costs = {bit: cost.drop for bit, cost in lesson.bit_flips().items()}
    assert costs[30] > 3 and all(abs(cost) < 0.5 for bit, cost in costs.items() if bit != 30)


def test_the_error_of_a_product_halves_with_each_bit():
    errors = [lesson.product_error(bits) for bits in (7, 8, 9, 10)]
    assert [one / other for one, other in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2, 2], rel=0.05)
    assert lesson.product_error(23) == 0 and lesson.product_error(10) == pytest.approx(2.9e-4, rel=0.05)


# -- the panel and the charts ---------------------------------------------------------------------------------------------


def test_the_panel_shows_what_the_pipeline_says(panel, release):
    panel.set(kind="join bug", severity=0.65, n=300)
    state = Fault("join bug", 0.65, lesson.SEED)(release.state)
    right = release.right(state)[:300]
    assert panel.record.accuracy == right.mean() and panel.record.interval == drift.wilson(int(right.sum()), 300)
    assert panel.record.alarms[1][2] == lesson.alarms(serve(state, 300), ("KS",))[0].words
    assert f"{right.mean():.1%}" in panel.text and "looked up" in panel.text


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_is_drawn_at_every_limit(panel, kind):
    panel.set(kind=kind)
    for n in lesson.SAMPLES:
        for severity in (0.0, 0.05, 1.0):
            panel.set(severity=severity, n=n)
            assert panel.record.severity == severity and len(panel.record.alarms) == len(lesson.DETECTORS)


def test_every_control_is_drawn_at_its_limits(panel):
    assert panel.sweep() == len(KINDS) + 3 + len(lesson.SAMPLES)


def test_the_boundary_is_where_the_test_flips(panel, release):
    for n in lesson.SAMPLES:
        panel.set(kind="one-pixel shift", severity=0.0, n=n)
        at = panel.record.flips_at
        before = release.right(release.state)[:n]
        tests = {tenth: drift.paired(before, release.right(Fault("one-pixel shift", tenth, lesson.SEED)(release.state))[:n]).p for tenth in lesson.GRID}
        assert all((p < drift.LEVEL) for tenth, p in tests.items() if tenth >= at) and tests[max(t for t in lesson.GRID if t < at)] >= drift.LEVEL
    panel.set(kind="order of summation", severity=1.0)
    assert panel.record.flips_at is None and "nowhere on this slider" in panel.text


def test_more_items_move_the_boundary_down(panel):
    found = []
    for n in lesson.SAMPLES:
        panel.set(kind="one-pixel shift", severity=0.25, n=n)
        found.append(panel.record.flips_at)
    assert found == sorted(found, reverse=True) and found[0] > found[-1]


def test_the_looked_up_answer_is_the_classifiers(grid, release):
    for key in (("one-pixel shift", 0.0, 100), ("changed default", 0.3, 100)):
        state = Fault(*key[:2], lesson.SEED)(release.state)
        assert grid[key] == lesson.alarms(serve(state, key[2]), ("classifier",))[0]
    assert lesson.drop("flipped bits", 1.0, 100, grid).alarms[3][2] == grid["one-pixel shift", 0.0, 100].words


def test_the_charts_say_their_numbers(release):
    found = triage.find_culprit(release, Incident((Fault("changed default", 0.7), Fault("other mean", 0.4))).happen(release.state))
    bars = charts.points(lesson.swap_rows(found), found.drop.drop, title="Two")
    assert repr(bars).startswith("Two.\nlibrary: alone it breaks 1.9, restored it heals 6.4") and bars.png()
    negative = charts.points([("data", {"alone it breaks": -0.04, "restored it heals": -3.2, "its share": 1.0})], 1.0)
    assert "alone it breaks 0.0, restored it heals −3.2" in repr(negative) and negative.png()
    alarms = charts.alarms(list(lesson.compare({"nothing": Incident(())}).values()), title="None")
    assert "nothing: 0.0 points, no drop; describe silent" in repr(alarms) and alarms.png()
    with pytest.raises(BadInput, match="no bar"):
        charts.points([("data", {"blame": 1.0})], 1.0)
    with pytest.raises(BadInput, match="same detectors"):
        charts.alarms([])


# -- the exercises --------------------------------------------------------------------------------------------------------


def test_the_culprit_needs_the_right_name_and_its_evidence(release):
    found = triage.find_culprit(release, triage.sealed(lesson.EXERCISE_SEED, release).production)
    (suspect,) = found.culprits
    right = {"suspect": suspect, "healed": found.heals[suspect].drop, "p": found.heals[suspect].p}
    assert lesson._names_the_culprit(right) is None
    other = next(name for name in found.heals if name != suspect)
    innocent = next(name for name in SUSPECTS if name not in found.heals)
    for wrong in (
        right | {"healed": 1.0},
        right | {"p": 0.5},
        {"suspect": other, "healed": found.heals[other].drop, "p": found.heals[other].p},
        right | {"suspect": innocent},
        right | {"suspect": "gremlins"},
        {"suspect": suspect},
        suspect,
    ):
        assert isinstance(lesson._names_the_culprit(wrong), str)


def test_an_alarm_has_to_see_the_join_and_stay_quiet():
    def correlations(reference, current):
        before, now = (np.arctanh(np.corrcoef(window.T)[np.triu_indices(64, 1)]) for window in (reference, current))
        return bool(np.abs(now - before).max() > 5 * np.sqrt(1 / (len(reference) - 3) + 1 / (len(current) - 3)))

    assert lesson._sees_the_join(correlations) is None
    assert "of 20 windows with nothing wrong" in lesson._sees_the_join(lambda reference, current: True)
    assert "with the join bug" in lesson._sees_the_join(lambda reference, current: drift.kolmogorov_smirnov(reference, current).rings)
    assert "True or False" in lesson._sees_the_join(lambda reference, current: 0.3)


def test_a_regression_test_needs_a_tolerance():
    cases = lesson.regression_cases()
    assert sum(good for _, good in cases.values()) == 3 and len(cases) >= 15
    assert lesson._is_a_regression_test(lambda frozen, logits: np.abs(logits - frozen).max() < 0.1) is None
    assert "refuses" in lesson._is_a_regression_test(lambda frozen, logits: (logits == frozen).all())
    assert "passes" in lesson._is_a_regression_test(lambda frozen, logits: True)
