"""Runs side by side: one upright axis for each thing recorded, one line for each run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mllandscape import BadInput
from mllandscape.charts.figure import (
    LINE_STYLES,
    Described,
    add_axes,
    new_figure,
    paper,
    sentence,
    text_width,
    title_lines,
    write_title,
)


@dataclass(frozen=True)
class Axis:
    """One axis: its label, how its numbers are written, and whether it is logarithmic."""

    label: str
    number: str = "{:g}"
    log: bool = False

    def scale(self, value: float) -> float:
        return math.log(value) if self.log else value


def parallel_coordinates(runs: Sequence[Sequence[float]], axes: Sequence[Axis], named: Mapping[str, int], title: str = "") -> Described:
    """A line for each of ``runs``, which has a number for each of ``axes``; ``named`` are those told apart, by their place. The last axis is the result.

    On an axis with few values the runs that share one are set a little apart, the better ones higher. Raises BadInput for fewer than two runs or axes,
    runs of another length, numbers that are not finite, a logarithm of what is not positive, or more than seven named runs.
    """
    if len(runs) < 2 or len(axes) < 2 or any(len(run) != len(axes) for run in runs) or len(named) > len(LINE_STYLES):
        raise BadInput(f"{len(runs)} runs over {len(axes)} axes: two or more of each are needed, a number an axis, and at most {len(LINE_STYLES)} named runs.")
    for place, axis in enumerate(axes):
        values = [run[place] for run in runs]
        if not all(math.isfinite(value) for value in values) or (axis.log and min(values) <= 0):
            raise BadInput(f"axis {axis.label!r}: finite numbers are needed{', above 0 on a logarithmic axis' if axis.log else ''}.")
    order = sorted(range(len(runs)), key=lambda run: runs[run][-1])
    heading, top = title_lines(title)
    right = max([text_width(name, weight="bold") for name in named] or [0]) + 34
    heights = [_heights([run[place] for run in runs], axis, order) for place, axis in enumerate(axes)]
    with paper():
        figure = new_figure(top + 360)
        write_title(figure, heading)
        drawn = add_axes(figure, 70, right + 46, top + 40, 26)
        drawn.set(xlim=(0, len(axes) - 1), ylim=(-0.08, 1.08))
        drawn.axis("off")
        for run in range(len(runs)):
            if run not in named.values():
                drawn.plot(range(len(axes)), [height[run] for height in heights], color="#A0A0A0", linewidth=1.2, zorder=2)
        for (name, run), (colour, dash, marker) in zip(named.items(), LINE_STYLES, strict=False):
            line = [height[run] for height in heights]
            drawn.plot(range(len(axes)), line, dash, color=colour, linewidth=3, marker=marker, markersize=8, markeredgecolor="black", zorder=4, clip_on=False)
            end = (len(axes) - 1, line[-1])
            drawn.annotate(name, end, (46, 0), textcoords="offset points", va="center", weight="bold", color=colour, annotation_clip=False)
        for place, axis in enumerate(axes):
            drawn.axvline(place, color="black", linewidth=1.4, zorder=3, clip_on=False)
            drawn.annotate(axis.label, (place, 1.08), (0, 8), textcoords="offset points", ha="center", weight="bold", annotation_clip=False)
            for value, height in _ticks([run[place] for run in runs], axis):
                drawn.annotate(
                    axis.number.format(value), (place, height), (6, 0), textcoords="offset points", va="center", zorder=5, annotation_clip=False,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
                )  # fmt: skip
    written = [[axis.number.format(value) for axis, value in zip(axes, run, strict=True)] for run in runs]
    ends = [(min(values), max(values)) for values in zip(*runs, strict=True)]
    ranges = [f"{axis.label} {axis.number.format(low)} to {axis.number.format(high)}" for axis, (low, high) in zip(axes, ends, strict=True)]
    told = [f"{name}: {', '.join(f'{axis.label} {text}' for axis, text in zip(axes, written[run], strict=True))}." for name, run in named.items()]
    return Described(figure, sentence(title, [f"{len(runs)} runs: {', '.join(ranges)}.", *told]))


def _heights(values: Sequence[float], axis: Axis, order: Sequence[int]) -> list[float]:
    """Where each run crosses the axis, 0 to 1; those that share one of a few values fan out by their result."""
    low, high = axis.scale(min(values)), axis.scale(max(values))
    heights = [(axis.scale(value) - low) / (high - low) if high > low else 0.5 for value in values]
    if len(set(values)) <= 6:
        for value in set(values):
            same = [run for run in order if values[run] == value]
            for rank, run in enumerate(same):
                heights[run] += (rank - (len(same) - 1) / 2) * min(0.02, 0.12 / len(same))
    return heights


def _ticks(values: Sequence[float], axis: Axis) -> list[tuple[float, float]]:
    """The numbers at an axis: every value if they are few, else five from the lowest to the highest."""
    low, high = min(values), max(values)
    shown = sorted(set(values)) if len(set(values)) <= 6 else [low + (high - low) * part / 4 for part in range(5)]
    return [(value, (axis.scale(value) - axis.scale(low)) / (axis.scale(high) - axis.scale(low)) if high > low else 0.5) for value in shown]
