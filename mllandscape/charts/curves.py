"""Curves over a number, drawn once or in a panel."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllandscape import BadInput
from mllandscape.charts.figure import (
    DPI,
    LINE_STYLES,
    Described,
    add_axes,
    lettering,
    new_figure,
    paper,
    sentence,
    set_text,
    text_outline,
    text_width,
    title_lines,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str = "", x_label: str = "", y_label: str = "", x_log: bool = False,
    y_log: bool = False, limit: tuple[str, float] | None = None, number: Callable[[float], str] = "{:.4g}".format,
) -> Described:  # fmt: skip
    """Curves ``{label: (xs, ys)}``, each named at its right end; ``limit`` is a named horizontal line.

    ``number`` writes a y value in the sentence and must be deterministic. Non-finite values and values that a log axis
    cannot show are refused with BadInput.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    for label, (xs, ys) in series.items():
        if len(xs) != len(ys) or not len(xs) or not all(math.isfinite(value) for value in (*xs, *ys)):
            raise BadInput(f"series {label!r}: as many finite x as y values are needed, one or more; {len(xs)} x and {len(ys)} y values were given.")
        if (x_log and min(xs) <= 0) or (y_log and min(ys) <= 0):
            raise BadInput(f"series {label!r}: a log axis shows values above 0 only; leave x_log or y_log out.")
    if not 1 <= len(series) <= len(LINE_STYLES):
        raise BadInput(f"{len(series)} series: 1 to {len(LINE_STYLES)} are possible in one figure.")
    heading, top = title_lines(title)
    right = max(text_width(label) for label in series) + 26
    with paper():
        figure = new_figure(top + 380)
        write_title(figure, heading)
        axes = add_axes(figure, 84, right, top + 8, 54)
        axes.set(xlabel=x_label, ylabel=y_label, xscale="log" if x_log else "linear", yscale="log" if y_log else "linear")
        axes.grid(color="#DDDDDD", linewidth=0.8)
        for index, (xs, ys) in enumerate(series.values()):
            colour, dash, marker = LINE_STYLES[index]
            # Later curves are thinner and their markers shifted, so that curves that coincide are all seen.
            every = (index * (len(xs) // 12) // len(series), max(1, len(xs) // 12))
            axes.plot(xs, ys, dash, color=colour, linewidth=max(1.6, 4 - 1.1 * index), marker=marker, markersize=7, markevery=every, markeredgecolor="black")
        if limit:
            axes.axhline(limit[1], color="black", linewidth=1.6, linestyle=(0, (4, 2)))
            axes.annotate(limit[0], (0, limit[1]), (6, 3), xycoords=("axes fraction", "data"), textcoords="offset points", va="bottom", weight="bold")
        if y_log:
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.minorticks_off()
        if not x_log and all(isinstance(x, int) for xs, _ in series.values() for x in xs):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if x_log:
            ticks = sorted({float(x) for xs, _ in series.values() for x in xs})
            axes.set_xticks(ticks if len(ticks) <= 10 else axes.get_xticks())
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.minorticks_off()
            low, high = ticks[0], ticks[-1]
            axes.set_xlim(low / (high / low) ** 0.03, high * (high / low) ** 0.03) if high > low else None
        if not y_log and min(min(ys) for _, ys in series.values()) >= 0:
            axes.set_ylim(bottom=0)
        _name_ends(axes, series)
    said = [f"{label}: {_curve(xs, ys, number)}." for label, (xs, ys) in series.items()]
    return Described(figure, sentence(title, [f"{y_label or 'y'} by {x_label or 'x'}.", *said], limit and f"{limit[0]}: {number(limit[1])}."))


def _curve(xs: Sequence[float], ys: Sequence[float], number: Callable[[float], str]) -> str:
    """Every point of a short curve; of a long one its two ends, its lowest and its highest."""
    points = list(zip(xs, ys, strict=True))
    if len(points) <= 12:
        return ", ".join(f"{number(y)} at {x:g}" for x, y in points)
    (low_x, low), (high_x, high) = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    (first_x, first), (last_x, last) = points[0], points[-1]
    return f"{number(first)} at {first_x:g}, {number(last)} at {last_x:g}; lowest {number(low)} at {low_x:g}, highest {number(high)} at {high_x:g}"


def _name_ends(axes: "Axes", series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """The curves' names right of their last points, moved apart where they would touch."""
    axes.autoscale_view()  # matplotlib would do it when it draws, and the places below need it now
    width, height, gap = axes.bbox.width * 96 / DPI, axes.bbox.height * 96 / DPI, 18
    ends = {label: (xs[-1], ys[-1]) for label, (xs, ys) in series.items()}
    level = {label: (axes.transData.transform(end)[1] - axes.bbox.y0) * 96 / DPI for label, end in ends.items()}
    place = -math.inf
    for index, label in enumerate(sorted(level, key=level.get)):
        # Above the name before, and with room left for those still to come.
        place = min(max(level[label], place + gap), height - gap * (len(level) - 1 - index))
        axes.annotate(
            label, ends[label], (1 + 12 / width, place / height), textcoords="axes fraction", va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 1, "color": "#666666", "shrinkA": 1, "shrinkB": 5, "relpos": (0, 0.5)},
        )  # fmt: skip


@dataclass(frozen=True)
class CurvesRecord:
    """What Curves draws: {label: (xs, ys)}, the x at which a curve is marked (None: nowhere), the answer in words."""

    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    marks: Mapping[str, float | None]
    verdict: str
    lines: Sequence[str] = ()


class Curves:
    """The live chart of a panel: curves on two logarithmic axes, each named at its end, with a marked point on some.

    The axes end at powers of ten, so that they stay while curves move. Made once, then moved: see Panel for the four methods.
    """

    def __init__(self, x_label: str, y_label: str, labels: Sequence[str] = ("eager", "static", "dynamic"), top: float = 16):
        self.labels = tuple(labels)
        self.height = 384 + top
        self._top = top
        self._words = x_label, y_label
        self._right = max(text_width(label, weight="bold") for label in labels) + 62

    def setup(self, figure: "Figure") -> None:
        """Axes, and for each curve its line, its mark with an upright, and its name behind a piece of the line."""
        from matplotlib.transforms import IdentityTransform

        self._axes = axes = add_axes(figure, 84, self._right, self._top, 54)
        axes.set(xlabel=self._words[0], ylabel=self._words[1], xscale="log", yscale="log")
        self._lines, self._dots, self._uprights, self._names, self._pieces = {}, {}, {}, {}, {}
        for place, label in enumerate(self.labels):
            colour, dash, marker = LINE_STYLES[place]
            (self._lines[label],) = axes.plot([], [], dash, color=colour, linewidth=2.4, animated=True)
            (self._uprights[label],) = axes.plot([], [], ":", color=colour, linewidth=1.4, animated=True)
            (self._dots[label],) = axes.plot([], [], marker, color=colour, markersize=11, markeredgecolor="black", animated=True)
            self._names[label] = lettering(axes, "black")
            (self._pieces[label],) = axes.plot([], [], dash, color=colour, linewidth=2.4, animated=True, clip_on=False, transform=IdentityTransform())

    def limit(self, record: CurvesRecord) -> tuple[float, float, float, float]:
        """The ends of both axes. The background is drawn again when one changes."""
        xs, ys = ([value for curve in record.curves.values() for value in curve[axis]] for axis in (0, 1))
        if not xs or min(*xs, *ys) <= 0:
            raise BadInput("curves on logarithmic axes need values above 0.")
        return min(xs), max(xs), 10.0 ** math.floor(math.log10(min(ys))), 10.0 ** math.ceil(math.log10(max(ys)))

    def rescale(self, limit: tuple[float, float, float, float]) -> None:
        left, right, low, high = limit
        self._axes.set(xlim=(left, right), ylim=(low, high))
        for axis in (self._axes.xaxis, self._axes.yaxis):
            axis.set_major_formatter("{x:,g}")
        self._axes.grid(color="#DDDDDD", linewidth=0.8)

    def draw(self, record: CurvesRecord) -> list["Artist"]:
        """The curves in order, then their marks and names."""
        if unknown := [label for label in record.curves if label not in self.labels]:
            raise BadInput(f"no curve {', '.join(unknown)}: {', '.join(self.labels)} are possible.")
        lines, marks, names, floor = [], [], [], self._axes.get_ylim()[0]
        place = {label: self._axes.transData.transform((xs[-1], ys[-1])) for label, (xs, ys) in record.curves.items()}
        order, levels = sorted(place, key=lambda label: place[label][1]), []
        for label in order:
            levels.append(max(place[label][1], levels[-1] + 20 * DPI / 96 if levels else -math.inf))
        down = (levels[-1] - place[order[-1]][1]) / 2  # names that had to move apart move both ways
        for label, level in zip(order, levels, strict=True):
            left = place[label][0] + 12 * DPI / 96
            self._pieces[label].set_data([left, left + 26 * DPI / 96], [level - down] * 2)
            set_text(self._names[label], text_outline(label, 10.5, "bold", 0), (left + 32 * DPI / 96, level - down))
            names += [self._pieces[label], self._names[label]]
        for label, (xs, ys) in record.curves.items():
            self._lines[label].set_data(xs, ys)
            lines.append(self._lines[label])
            if (at := record.marks.get(label)) is not None:
                height = next(y for x, y in zip(xs, ys, strict=True) if x >= at)
                self._dots[label].set_data([at], [height])
                self._uprights[label].set_data([at, at], [floor, height])
                marks += [self._uprights[label], self._dots[label]]
        return [*lines, *marks, *names]

    def words(self, record: CurvesRecord) -> tuple[str, ...]:
        """The verdict, what stands beside it, and where each curve ends."""
        x, y = self._words
        ends = ", ".join(f"{label} {ys[-1]:.3g}" for label, (_, ys) in record.curves.items())
        return (record.verdict, *record.lines, f"{y} at {next(iter(record.curves.values()))[0][-1]:,g} {x}: {ends}.")


def curves(record: CurvesRecord, title: str = "", x_label: str = "calls", y_label: str = "seconds so far") -> Described:
    """The same chart as a figure: curves with their marked points."""
    heading, top = title_lines(title)
    chart = Curves(x_label, y_label, tuple(record.curves), top + 8)
    with paper():
        figure = new_figure(chart.height)
        write_title(figure, heading)
        chart.setup(figure)
        chart.rescale(chart.limit(record))
        for artist in chart.draw(record):
            artist.set_animated(False)
    return Described(figure, sentence(title, chart.words(record)))
