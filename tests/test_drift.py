"""Tests of a drop and alarms of drift, against SciPy, pandas and scikit-learn."""

import math
import warnings

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from mllandscape import BadInput, drift

COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


TIES, NUMBERS = st.integers(-3, 3).map(float), st.floats(-5, 5)


def windows(values, least=4):
    """Two windows of three columns."""
    one = st.integers(least, 25).flatmap(lambda n: arrays.arrays(np.float64, (n, 3), elements=values))
    return st.tuples(one, one)


# -- is it a drop at all? -------------------------------------------------------------------------------------------------


@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_interval_is_scipys_wilson_interval(counts, confidence):
    right, n = counts
    expected = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert drift.wilson(right, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(COUNTS, COUNTS)
def test_two_proportions_are_the_chi_squared_test_of_their_table(one, other):
    (right, n), (right_now, m) = one, other
    z, p = drift.two_proportions(right, n, right_now, m)
    table = np.array([[right, n - right], [right_now, m - right_now]])
    if (table.sum(0) == 0).any():
        assert (z, p) == (0, 1)
        return
    expected = stats.chi2_contingency(table, correction=False)
    assert z**2 == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9) and p == pytest.approx(expected.pvalue, rel=1e-7, abs=1e-300)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_a_fair_coin_and_its_approximation(lost, gained):
    test = drift.mcnemar(lost, gained, 1000)
    if lost + gained == 0:
        assert (test.p, test.chi2, test.p_chi2) == (1, 0, 1)
        return
    assert test.p == pytest.approx(stats.binomtest(lost, lost + gained).pvalue, rel=1e-9)
    approximate = stats.chisquare([lost, gained])
    assert (test.chi2, test.p_chi2) == pytest.approx((approximate.statistic, approximate.pvalue), rel=1e-9, abs=1e-12)
    assert test.drop == pytest.approx((lost - gained) / 10)


def test_paired_counts_what_was_lost_and_gained():
    before, now = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    assert (drift.paired(before, now).lost, drift.paired(before, now).gained, drift.paired(before, now).n) == (2, 1, 5)
    assert drift.paired(now, before).drop == -drift.paired(before, now).drop


@pytest.mark.parametrize(("accuracy", "accuracy_now"), [(0.85, 0.82), (0.9, 0.8), (0.6, 0.65)])
def test_the_items_needed_give_the_power_that_was_asked_for(accuracy, accuracy_now):
    n, random = drift.items_needed(accuracy, accuracy_now), np.random.default_rng(0)
    draws = zip(random.binomial(n, accuracy, 3000), random.binomial(n, accuracy_now, 3000), strict=True)
    seen = sum(drift.two_proportions(int(a), n, int(b), n)[1] < drift.LEVEL for a, b in draws)
    assert seen / 3000 == pytest.approx(0.8, abs=0.03)


def test_the_published_p_values_of_85_and_82():
    found = [drift.two_proportions(round(0.85 * n), n, round(0.82 * n), n)[1] for n in (200, 500, 1000, 2000)]
    assert found == pytest.approx([0.42, 0.20, 0.071, 0.011], rel=0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: drift.wilson(3, 2),
        lambda: drift.two_proportions(-1, 5, 1, 5),
        lambda: drift.mcnemar(3, 3, 5),
        lambda: drift.items_needed(0.8, 0.8),
        lambda: drift.paired(np.ones(3), np.ones(4)),
        lambda: drift.paired(np.ones(0), np.ones(0)),
    ],
)
def test_impossible_counts_are_refused_in_one_line(call):
    with pytest.raises(BadInput) as caught:
        call()
    assert "\n" not in str(caught.value)


# -- alarms ---------------------------------------------------------------------------------------------------------------


@given(windows(TIES))
def test_kolmogorov_smirnov_is_scipys(pair):
    one, other = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [stats.ks_2samp(one[:, column], other[:, column], method="asymp") for column in range(3)]
    assert drift.ks_statistics(one, other) == pytest.approx([test.statistic for test in expected], abs=1e-12)
    assert drift.ks_statistics(other, one) == pytest.approx(drift.ks_statistics(one, other), abs=1e-12)
    assert drift.kolmogorov_smirnov(one, other).value == pytest.approx(min(1, 3 * min(test.pvalue for test in expected)), rel=1e-9)


@given(windows(NUMBERS))
def test_the_stability_index_is_two_divergences(pair):
    one, other = pair
    found = drift.psi_by_column(one, other)
    for column in range(3):
        edges = [-math.inf, *np.quantile(one[:, column], np.arange(1, 10) / 10), math.inf]
        p, q = (
            np.array([((low < window[:, column]) & (window[:, column] <= high)).sum() + 0.5 for low, high in zip(edges, edges[1:], strict=False)])
            for window in (one, other)
        )
        p, q = p / p.sum(), q / q.sum()
        assert found[column] == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-6, abs=1e-12)


@given(windows(NUMBERS))
def test_the_largest_difference_is_that_of_describe(pair):
    one, other = (pandas.DataFrame(window).describe().drop("count") for window in pair)
    assert drift.largest_difference(*pair) == pytest.approx(float((one - other).abs().max().max()), abs=1e-9)


@given(windows(TIES, least=8), st.integers(0, 2**31))
def test_columns_on_other_rows_are_invisible_column_by_column(pair, seed):
    reference, current = pair
    random = np.random.default_rng(seed)
    joined = np.column_stack([random.permutation(column) for column in current.T])
    assert drift.kolmogorov_smirnov(reference, joined) == drift.kolmogorov_smirnov(reference, current)
    assert drift.population_stability(reference, joined) == drift.population_stability(reference, current)
    assert drift.describe(reference, joined).value == pytest.approx(drift.describe(reference, current).value, rel=1e-6)


def normal(rows, seed, columns=8):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_clean_windows_ring_no_more_often_than_was_agreed():
    rings = dict.fromkeys(("describe", "KS", "predictions"), 0)
    for seed in range(200):
        one, other = normal(200, 2 * seed), normal(300, 2 * seed + 1)
        probabilities = [np.exp(window) / np.exp(window).sum(1, keepdims=True) for window in (one, other)]
        for alarm in (drift.describe(one, other), drift.kolmogorov_smirnov(one, other), drift.predictions(*probabilities)):
            rings[alarm.detector] += alarm.rings
    assert all(count <= 22 for count in rings.values()), rings  # of 200 at 0.05; more than 22 has a probability of 0.0002


def test_each_alarm_rings_for_what_it_is_made_for():
    reference, current = normal(300, 0), normal(300, 1)
    assert drift.describe(reference, current + 0.5).rings and drift.describe(reference, 1.5 * current).rings
    assert drift.kolmogorov_smirnov(reference, np.sign(current) * np.abs(current) ** 0.3).rings
    assert drift.population_stability(reference, current + 1).rings
    hanging = current.copy()
    hanging[:, 1] = hanging[:, 0]
    assert drift.classifier(reference, hanging).rings and not drift.kolmogorov_smirnov(reference, hanging).rings
    assert not any(alarm(reference, current).rings for alarm in (drift.describe, drift.kolmogorov_smirnov, drift.population_stability, drift.classifier))


def test_the_classifier_answers_with_the_area_under_its_curve():
    assert drift.classifier(normal(100, 0), normal(100, 1) + 50).words.startswith("AUC 1.00, p < 0.001")
    middling = drift.classifier(normal(400, 0), normal(400, 1))
    assert 0.4 < float(middling.words.split()[1].rstrip(",")) < 0.6 and middling.value > drift.LEVEL


def test_prediction_drift_is_scipys_chi_squared_and_kolmogorov_smirnov():
    random = np.random.default_rng(0)
    one, other = random.dirichlet([1, 1, 2], 150), random.dirichlet([1, 2, 1], 90)
    counts = [np.bincount(window.argmax(1), minlength=3) for window in (one, other)]
    expected = min(stats.chi2_contingency(counts).pvalue, stats.ks_2samp(one.max(1), other.max(1), method="asymp").pvalue)
    assert drift.predictions(one, other).value == pytest.approx(min(1, 2 * expected), rel=1e-9)
    certain = np.tile([1.0, 0.0, 0.0], (20, 1))
    assert drift.predictions(certain, certain).value == 1


def test_a_constant_column_that_moves_rings_and_one_that_stays_does_not():
    constant = np.zeros((50, 2))
    assert not drift.describe(constant, constant).rings and drift.describe(constant, constant + 1).rings


@pytest.mark.parametrize("alarm", [drift.describe, drift.kolmogorov_smirnov, drift.population_stability, drift.classifier, drift.predictions])
@pytest.mark.parametrize("current", [np.ones((5, 2)), np.ones((3, 3)), np.ones(9), np.full((5, 3), np.nan)], ids=["columns", "rows", "shape", "NaN"])
def test_windows_that_do_not_fit_are_refused_in_one_line(alarm, current):
    with pytest.raises(BadInput, match="same columns") as caught:
        alarm(np.ones((5, 3)), current)
    assert "\n" not in str(caught.value)


def test_p_values_are_written_alike_everywhere():
    assert [drift.p_words(p) for p in (1.0, 0.425, 0.0994, 0.05, 0.0012, 0.00099, 0.0)] == [
        "p 1.00", "p 0.42", "p 0.099", "p 0.050", "p 0.001", "p < 0.001", "p < 0.001",
    ]  # fmt: skip
