"""How far off a group's guesses were, and how many got each check right."""

import statistics
from collections.abc import Mapping, Sequence

from mllandscape import BadInput
from mllandscape.charts import figure as base
from mllandscape.charts.figure import Described

ROW, TALL_ROW = 30, 38  # with labels of one line, and of two
FARTHEST = 5
"""In powers of two: a guess that is off by more than 32 times is drawn at the edge."""


def log_errors(rows: Mapping[str, Sequence[float]], *, title: str) -> Described:
    """One row a question, one dot a guess: the base-2 logarithm of guess over answer, so that -1 is half of it. The median is a bar.

    Guesses that are farther off than the axis goes stand at its edge, and the sentence has their number.
    """
    labels, left = base.row_labels(list(rows))
    if not all(rows.values()):
        raise BadInput("a question without a guess: leave it out, or give one error or more.")
    lines, above = base.title_lines(title)
    height = above + _row(labels) * len(rows) + 58
    with base.paper():
        drawn = base.new_figure(height)
        axes = base.add_axes(drawn, left, 30, above + 6, 52)
        base.write_title(drawn, lines)
        axes.axvspan(-1, 1, color="#E8F2EE", zorder=0)
        axes.axvline(0, color="black", linewidth=1.2, zorder=1)
        for place, errors in enumerate(rows.values()):
            shown = [max(-FARTHEST, min(FARTHEST, error)) for error in errors]
            axes.plot(
                shown,
                _apart(shown, place),
                "o",
                color=base.BLUE,
                markeredgecolor="black",
                markeredgewidth=0.7,
                markersize=7,
                alpha=0.85,
                zorder=3,
                clip_on=False,
            )
            middle = max(-FARTHEST, min(FARTHEST, statistics.median(errors)))
            axes.plot([middle, middle], [place - 0.4, place + 0.4], color=base.VERMILLION, linewidth=3, solid_capstyle="butt", zorder=2)
        ticks = range(-FARTHEST, FARTHEST + 1)
        axes.set_xticks(list(ticks), ["right" if tick == 0 else f"{'1/' if tick < 0 else ''}{2 ** abs(tick)}{'' if tick < 0 else '×'}" for tick in ticks])
        axes.set(
            xlim=(-FARTHEST - 0.2, FARTHEST + 0.2),
            ylim=(len(rows) - 0.4, -0.6),
            xlabel="guess over answer; shaded: off by less than two times; bar: the median",
        )
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(left=False)
    return Described(drawn, base.sentence(title, [_words(name, errors) for name, errors in rows.items()]))


def _row(labels: Sequence[str]) -> int:
    return TALL_ROW if any("\n" in label for label in labels) else ROW


def _apart(values: Sequence[float], place: int) -> list[float]:
    """Heights at which equal guesses do not hide each other: alternately below and above the row's middle."""
    seen: dict[float, int] = {}
    heights = []
    for value in values:
        before = seen.setdefault(round(value * 4) / 4, 0)
        seen[round(value * 4) / 4] += 1
        heights.append(place + (-1) ** before * 0.13 * ((before + 1) // 2 % 4))
    return heights


def _words(name: str, errors: Sequence[float]) -> str:
    close = sum(abs(error) < 1 for error in errors)
    far = sum(abs(error) > FARTHEST for error in errors)
    low = sum(error <= -1 for error in errors)
    edge = f", {far} off by more than {2**FARTHEST} times" if far else ""
    counts = f"{close} off by less than two times, {low} lower, {len(errors) - close - low} higher{edge}"
    return f"{name}: {len(errors)} guesses, {counts}; median log2 error {statistics.median(errors):+.2f}."


def right_shares(rows: Mapping[str, tuple[int, int]], *, title: str) -> Described:
    """One bar a check: how many got it right, of how many. A row whose second number is 0 raises BadInput."""
    labels, left = base.row_labels(list(rows))
    if not all(0 <= right <= asked and asked for right, asked in rows.values()):
        raise BadInput("each row needs how many were right and of how many, from 0 to that number, and one or more asked.")
    lines, above = base.title_lines(title)
    most = max(asked for _, asked in rows.values())
    with base.paper():
        drawn = base.new_figure(above + _row(labels) * len(rows) + 50)
        axes = base.add_axes(drawn, left, 92, above + 4, 44)
        base.write_title(drawn, lines)
        for place, (right, asked) in enumerate(rows.values()):
            axes.barh(place, asked, height=0.62, facecolor="white", edgecolor="black", linewidth=0.8, hatch="....", zorder=1)
            axes.barh(place, right, height=0.62, facecolor=base.GREEN, edgecolor="black", linewidth=0.8, zorder=2)
            axes.text(asked + most * 0.012, place, f"{right} of {asked}", va="center", ha="left")
        axes.set(xlim=(0, most), ylim=(len(rows) - 0.4, -0.6), xlabel="learners; filled: those who were right")
        axes.set_yticks(range(len(rows)), labels)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(left=False)
    return Described(drawn, base.sentence(title, [f"{name}: {right} of {asked} right." for name, (right, asked) in rows.items()]))
