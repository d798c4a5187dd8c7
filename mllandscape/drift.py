"""Is it different? Tests of a drop in accuracy, and alarms that compare two windows of inputs or of outputs.

Pure functions over arrays. A window is an array of rows (items) and columns (features). Every alarm answers with an ``Alarm``; five alarms
on one window are five tests, and each corrects only for its own columns.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mllandscape import BadInput

LEVEL = 0.05
"""Two-sided significance level of every test here, after the correction that its docstring names."""

PSI_LIMIT = 0.25
"""Where the usual rule of thumb says that a population has shifted. It is a convention and knows nothing of the number of rows."""


# -- is it a drop at all? -------------------------------------------------------------------------------------------------


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of an accuracy of ``right`` of ``n`` (Wilson 1927): unlike ±1.96 standard errors it stays within 0 and 1."""
    _check_counts(right, n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def two_proportions(right: int, n: int, right_now: int, n_now: int) -> tuple[float, float]:
    """(z, p) of two accuracies on *different* items, with the pooled standard error: what remains when only two percentages are known."""
    _check_counts(right, n)
    _check_counts(right_now, n_now)
    pooled = (right + right_now) / (n + n_now)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_now))
    z = (right / n - right_now / n_now) / error if error else 0.0
    return z, math.erfc(abs(z) / math.sqrt(2))


def items_needed(accuracy: float, accuracy_now: float, power: float = 0.8) -> int:
    """Labelled items in *each* of two windows, so that ``two_proportions`` tells the accuracies apart with this power (Fleiss 1981)."""
    if not (0 < accuracy < 1 and 0 < accuracy_now < 1 and accuracy != accuracy_now and 0 < power < 1):
        raise BadInput(f"accuracies {accuracy} and {accuracy_now}, power {power}: two different numbers between 0 and 1, and a power between 0 and 1.")
    mean = (accuracy + accuracy_now) / 2
    under_none = NormalDist().inv_cdf(1 - LEVEL / 2) * math.sqrt(2 * mean * (1 - mean))
    under_drop = NormalDist().inv_cdf(power) * math.sqrt(accuracy * (1 - accuracy) + accuracy_now * (1 - accuracy_now))
    return math.ceil(((under_none + under_drop) / (accuracy - accuracy_now)) ** 2)


@dataclass(frozen=True)
class Paired:
    """The same items before and after: how many answers were ``lost`` (right, then wrong) and ``gained``, and McNemar's test of it.

    ``p`` is exact (a fair coin for each changed answer), ``chi2`` and ``p_chi2`` are the approximation, without continuity correction.
    """

    lost: int
    gained: int
    n: int
    p: float
    chi2: float
    p_chi2: float

    @property
    def drop(self) -> float:
        """Points of accuracy lost, from 0 to 100; negative for a gain."""
        return 100 * (self.lost - self.gained) / self.n


def mcnemar(lost: int, gained: int, n: int) -> Paired:
    """McNemar's test (1947) from the counts: items that did not change say nothing, so only the changed ones are looked at.

    ``chi2`` has one degree of freedom: it is the square of a standard normal.
    """
    _check_counts(lost, n)
    _check_counts(lost + gained, n)
    changed = lost + gained
    tail = throws = 1  # of the 2 ** changed throws of a fair coin, those with as few heads or fewer
    for heads in range(min(lost, gained)):
        throws = throws * (changed - heads) // (heads + 1)
        tail += throws
    chi2 = (lost - gained) ** 2 / changed if changed else 0.0
    return Paired(lost, gained, n, min(1.0, 2 * tail / 2**changed), chi2, math.erfc(math.sqrt(chi2 / 2)))


def paired(right: np.ndarray, right_now: np.ndarray) -> Paired:
    """``mcnemar`` of two bool arrays over the same items."""
    right, right_now = np.asarray(right, bool), np.asarray(right_now, bool)
    if right.shape != right_now.shape or right.ndim != 1 or not len(right):
        raise BadInput(f"shapes {right.shape} and {right_now.shape}: two answers to each of the same items are needed, right or wrong.")
    return mcnemar(int((right & ~right_now).sum()), int((~right & right_now).sum()), len(right))


def _check_counts(right: int, n: int) -> None:
    if not (0 <= right <= n and n > 0):
        raise BadInput(f"{right} of {n}: from 0 to n items of one or more.")


# -- alarms ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alarm:
    """One detector's answer: whether it ``rings``, and its number in ``words``. ``value`` is a p-value, or the index where it has none."""

    detector: str
    value: float
    rings: bool
    words: str


def p_words(p: float) -> str:
    """A p-value as text: three decimals below 0.1, two above, none below 0.001."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}" if p < 0.0995 else f"p {p:.2f}"


def largest_difference(reference: np.ndarray, current: np.ndarray) -> float:
    """The largest absolute difference of mean, standard deviation, minimum, quartiles and maximum over all columns: ``describe() - describe()``."""
    reference, current = _windows(reference, current)
    return float(np.abs(_describe(reference) - _describe(current)).max())


def _describe(window: np.ndarray) -> np.ndarray:
    """Rows as in pandas' describe() below the count: mean, std (n - 1), min, three quartiles, max."""
    return np.vstack([window.mean(0), window.std(0, ddof=1), np.quantile(window, (0, 0.25, 0.5, 0.75, 1), axis=0)])


def describe(reference: np.ndarray, current: np.ndarray) -> Alarm:
    """Means and standard deviations of each column, with the noise scale that a bare difference lacks; Bonferroni over both and all columns.

    A difference of means counts in standard errors; one of standard deviations in its own, from the reference's fourth moment.
    """
    reference, current = _windows(reference, current)
    mean, std = reference.mean(0), reference.std(0)
    scale = np.maximum(std, 1e-12)  # a constant column has none
    share = 1 / len(reference) + 1 / len(current)
    squared = ((reference - mean) / scale) ** 2
    fourth = (squared * squared).mean(0)
    z_mean = (current.mean(0) - mean) / (scale * math.sqrt(share))
    z_std = (current.std(0) - std) / (scale * np.sqrt(np.maximum(fourth - 1, 1e-9) / 4 * share))
    largest = max(np.abs(z_mean).max(), np.abs(z_std).max())
    p = min(1.0, 2 * reference.shape[1] * math.erfc(largest / math.sqrt(2)))
    return Alarm("describe", p, p < LEVEL, p_words(p))


def ks_statistics(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The two-sample Kolmogorov-Smirnov statistic of each column: the largest distance between two cumulative distributions."""
    few, many = sorted((window.T.copy() for window in _windows(reference, current)), key=lambda window: window.shape[1])
    few.sort()
    many.sort()
    n, m = few.shape[1], many.shape[1]
    # The distance is largest at a jump of either curve: at a value of the smaller window, or just below one, all jumps of the larger are counted.
    upper, lower = (np.array([np.searchsorted(theirs, ours, side) for ours, theirs in zip(few, many, strict=True)]) / m for side in ("right", "left"))
    change, end = few[:, 1:] != few[:, :-1], np.ones((len(few), 1), bool)  # of equal values the last is the jump's upper end, the first its lower
    above = np.abs(upper - np.arange(1, n + 1) / n)
    below = np.abs(lower - np.arange(n) / n)
    return np.maximum(np.where(np.hstack([change, end]), above, 0).max(1), np.where(np.hstack([end, change]), below, 0).max(1))


def kolmogorov_smirnov(reference: np.ndarray, current: np.ndarray) -> Alarm:
    """Kolmogorov-Smirnov on each column, asymptotic as in SciPy; Bonferroni over the columns."""
    from scipy.stats import kstwo

    statistics = ks_statistics(reference, current)
    n, m = len(reference), len(current)
    p = min(1.0, len(statistics) * float(kstwo.sf(statistics.max(), round(n * m / (n + m)))))
    return Alarm("KS", p, p < LEVEL, p_words(p))


def psi_by_column(reference: np.ndarray, current: np.ndarray, bins: int = 10) -> np.ndarray:
    """The population stability index of each column over the reference's deciles: Σ (q - p) ln(q / p), a symmetric Kullback-Leibler divergence.

    Half a row is added to each bin, so that an empty one does not make it infinite.
    """
    reference, current = _windows(reference, current)
    edges = np.quantile(reference, np.arange(1, bins) / bins, axis=0)

    def shares(window: np.ndarray) -> np.ndarray:
        above = np.vstack([np.full(window.shape[1], len(window)), *(np.count_nonzero(window > edge, axis=0) for edge in edges), np.zeros(window.shape[1], int)])
        return (-np.diff(above, axis=0) + 0.5) / (len(window) + 0.5 * bins)

    p, q = shares(reference), shares(current)
    return ((q - p) * np.log(q / p)).sum(0)


def population_stability(reference: np.ndarray, current: np.ndarray) -> Alarm:
    """The largest index of any column against the usual limit of 0.25."""
    largest = float(psi_by_column(reference, current).max())
    return Alarm("PSI", largest, largest > PSI_LIMIT, f"PSI {largest:.2f}")


def classifier(reference: np.ndarray, current: np.ndarray, seed: int = 0) -> Alarm:
    """The classifier two-sample test (Lopez-Paz and Oquab 2017): can a classifier tell the windows apart on rows that it has not seen?

    A support vector machine with an RBF kernel learns on half of each window and ranks the other halves; the p-value is that of the ranks
    (Mann and Whitney). It sees how columns hang together, which no test of single columns can.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.svm import SVC

    reference, current = _windows(reference, current)
    random = np.random.default_rng(seed)
    learn, judge = [], []
    for window in (reference, current):
        order = random.permutation(len(window))
        learn.append(window[order[: len(window) // 2]])
        judge.append(window[order[len(window) // 2 :]])
    rows = np.concatenate(learn)
    mean, std = rows.mean(0), np.maximum(rows.std(0), 1e-12)
    machine = SVC(class_weight="balanced").fit((rows - mean) / std, np.repeat([0, 1], [len(learn[0]), len(learn[1])]))
    old, new = (machine.decision_function((window - mean) / std) for window in judge)
    ranks = mannwhitneyu(new, old, alternative="greater")
    area, p = float(ranks.statistic) / (len(old) * len(new)), float(ranks.pvalue)
    return Alarm("classifier", p, p < LEVEL, f"AUC {area:.2f}, {p_words(p)}")


def predictions(reference: np.ndarray, current: np.ndarray) -> Alarm:
    """Outputs instead of inputs: class probabilities, rows of items. How often each class is answered (chi-squared), and how surely
    (Kolmogorov-Smirnov of the largest probability); Bonferroni over the two. It needs no labels."""
    from scipy.special import chdtrc

    reference, current = _windows(reference, current)
    counts = np.array([np.bincount(window.argmax(1), minlength=window.shape[1]) for window in (reference, current)])
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    p_classes = float(chdtrc(counts.shape[1] - 1, ((counts - expected) ** 2 / expected).sum())) if counts.shape[1] > 1 else 1.0
    p_surely = kolmogorov_smirnov(reference.max(1, keepdims=True), current.max(1, keepdims=True)).value
    p = min(1.0, 2 * min(p_classes, p_surely))
    return Alarm("predictions", p, p < LEVEL, p_words(p))


def _windows(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, current = np.asarray(reference, float), np.asarray(current, float)
    for window in (reference, current):
        if window.ndim != 2 or len(window) < 4 or window.shape[1] != reference.shape[1] or not np.isfinite(window).all():
            raise BadInput(f"windows of shapes {reference.shape} and {current.shape}: rows of the same columns, four or more, all finite, are needed.")
    return reference, current
