"""A drop in accuracy: which layer carries it, which alarm rings, and the live chart of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput
from mllandscape.charts.figure import (
    BLUE,
    DPI,
    GREEN,
    ORANGE,
    SKY,
    VERMILLION,
    WIDTH,
    Described,
    add_axes,
    add_legend,
    legend_size,
    lettering,
    new_figure,
    paper,
    row_labels,
    sentence,
    set_text,
    text_outline,
    text_width,
    title_lines,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

SWAPS = {"alone it breaks": (SKY, ""), "restored it heals": (ORANGE, "////"), "its share": (GREEN, "....")}
"""Three numbers of one layer, in points of accuracy."""


def points(rows: Sequence[tuple[str, Mapping[str, float]]], total: float, title: str = "") -> Described:
    """Points of accuracy by layer: ``(label, {"alone it breaks": points, "restored it heals": points, "its share": points})``; ``total`` is the drop."""
    if unknown := {name for _, values in rows for name in values} - SWAPS.keys():
        raise BadInput(f"no bar {', '.join(sorted(unknown))}: {', '.join(SWAPS)} are possible.")
    labels, left = row_labels([label for label, _ in rows])
    heading, top = title_lines(title)
    columns, legend = legend_size(SWAPS)
    values = [value for _, bars in rows for value in bars.values()]
    low, high = min(0, *values, total), max(0, *values, total)
    with paper():
        figure = new_figure(top + 26 + 74 * len(rows) + 48 + legend)
        write_title(figure, heading)
        axes = add_axes(figure, left, 60, top + 26, 48 + legend)
        axes.set_xlim(low - 0.02 * (high - low) if low else 0, high + 0.02 * (high - low))
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        for row, (_, bars) in enumerate(rows):
            for place, (name, value) in enumerate(bars.items()):
                colour, hatch = SWAPS[name]
                height = row + (place - 1) * 0.27
                axes.barh(height, value, 0.25, color=colour, hatch=hatch, edgecolor="black", linewidth=0.8, zorder=2)
                axes.annotate(
                    _points(value), (max(value, 0), height), (6, 0), textcoords="offset points", va="center_baseline", annotation_clip=False, zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
        axes.axvline(total, color="black", linewidth=2, linestyle=(0, (4, 2)), zorder=4)
        axes.annotate(
            f"the drop: {_points(total)} points", (total, 1), (0, 5), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if total > 0.75 * high else "center", va="bottom", weight="bold",
        )  # fmt: skip
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("points of accuracy")
        add_legend(figure, SWAPS, columns)
    said = [f"{label}: {', '.join(f'{name} {_points(value)}' for name, value in bars.items())}." for label, bars in rows]
    return Described(figure, sentence(title, said, f"the drop: {_points(total)} points."))


def _points(value: float) -> str:
    return f"{value:.1f}".replace("-", "−").replace("−0.0", "0.0")


def alarms(rows: Sequence[Any], title: str = "") -> Described:
    """Incidents against detectors: rows with a ``label``, a ``cost`` (``drop`` in points, ``p``) and ``alarms`` (``detector``, ``rings``, ``words``).

    A cost beyond chance (p below 0.05) and an alarm that rings are filled and say so.
    """
    if not rows or len({tuple(alarm.detector for alarm in row.alarms) for row in rows}) != 1:
        raise BadInput("rows of the same detectors are needed, one or more.")
    heads = ["accuracy", *(alarm.detector for alarm in rows[0].alarms)]
    labels, left = row_labels([row.label for row in rows])
    heading, top = title_lines(title)
    with paper():
        figure = new_figure(top + 36 + 60 * len(rows))
        write_title(figure, heading)
        axes = add_axes(figure, left, 12, top + 26, 10)
        axes.set(xlim=(0, len(heads)), ylim=(len(rows), 0))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for number, row in enumerate(rows):
            real = row.cost.p < 0.05
            cells = [(real, f"{_points(-row.cost.drop)} points" if row.cost.drop else "no change", "a drop" if real else "no drop", BLUE)]
            cells += [(alarm.rings, alarm.words.replace(", ", "\n"), "rings" if alarm.rings else "silent", VERMILLION) for alarm in row.alarms]
            for place, (filled, numbers, word, colour) in enumerate(cells):
                face, ink = (colour, "white") if filled else ("white", "black")
                axes.fill_between([place + 0.03, place + 0.97], number + 0.05, number + 0.95, facecolor=face, edgecolor="black", linewidth=0.8)
                weight = "bold" if filled else "normal"
                axes.text(place + 0.5, number + 0.5, f"{word}\n{numbers}", size=10, color=ink, ha="center", va="center", linespacing=1.15, weight=weight)
        axes.set_xticks([place + 0.5 for place in range(len(heads))], heads, weight="bold")
        axes.xaxis.tick_top()
        axes.set_yticks([number + 0.5 for number in range(len(rows))], labels)
        axes.tick_params(length=0)
    said = [
        f"{row.label}: {_points(-row.cost.drop)} points, {'a drop' if row.cost.p < 0.05 else 'no drop'}; "
        + "; ".join(f"{alarm.detector} {'rings' if alarm.rings else 'silent'} ({alarm.words})" for alarm in row.alarms)
        + "."
        for row in rows
    ]
    return Described(figure, sentence(title, said))


@dataclass(frozen=True)
class DropRecord:
    """What Drop draws. Accuracies go from 0 to 1.

    ``accuracies`` at ``severities`` are the curve on all items; ``accuracy`` with its ``interval`` is at ``severity`` on the chosen number of them.
    ``flips_at`` is the severity from which a drop is told apart on that number, None where it never is. ``alarms`` are (detector, rings, words).
    """

    severities: Sequence[float]
    accuracies: Sequence[float]
    severity: float
    accuracy: float
    interval: tuple[float, float]
    flips_at: float | None
    alarms: Sequence[tuple[str, bool, str]]
    verdict: str
    change: str


class Drop:
    """The live chart of a panel: accuracy over the severity of a fault, where the drop begins to be told apart, and what each detector says.

    The y axis begins at one of a few round numbers, so it stays while only severity and the number of items move. See Panel for the four methods.
    """

    height = 396.0
    _floors = (0.0, 0.4, 0.6, 0.7)

    def __init__(self, detectors: Sequence[str]):
        self.detectors = tuple(detectors)

    def setup(self, figure: "Figure") -> None:
        """Axes with the curve and its marks on the left, one row a detector on the right."""
        self._axes = axes = add_axes(figure, 70, 262, 30, 54)
        axes.set(xlim=(-0.02, 1.02), xlabel="severity of the fault", ylabel="accuracy")
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        (self._reference,) = axes.plot([0, 1], [0, 0], ":", color="black", linewidth=1.6, animated=True)
        (self._curve,) = axes.plot([], [], "-o", color=BLUE, linewidth=2.2, markersize=6, markeredgecolor="black", animated=True)
        (self._flip,) = axes.plot([], [], color="black", linewidth=2, linestyle=(0, (4, 2)), animated=True)
        (self._interval,) = axes.plot([], [], "-_", color="black", linewidth=2.2, markersize=14, markeredgewidth=2.2, animated=True)
        (self._point,) = axes.plot([], [], "D", color=VERMILLION, markersize=11, markeredgecolor="black", animated=True)
        self._flip_name, self._reference_name = lettering(axes, "black", "white"), lettering(axes, "black", "white")
        self._strip = strip = add_axes(figure, WIDTH - 240, 10, 30, 54)
        strip.set(xlim=(0, 1), ylim=(len(self.detectors), 0), xticks=[], yticks=[])
        for spine in strip.spines.values():
            spine.set_visible(False)
        self._lamps, self._said = {}, {}
        for row, name in enumerate(self.detectors):
            strip.text(0.17, row + 0.3, name, weight="bold", va="center")
            (lamp,) = strip.plot([0.07], [row + 0.5], "s", markersize=17, markeredgecolor="black", markeredgewidth=1.6, animated=True, clip_on=False)
            self._lamps[name] = lamp
            self._said[name] = lettering(strip, "black")

    def limit(self, record: DropRecord) -> float:
        """Where the y axis begins."""
        return max(floor for floor in self._floors if floor <= min(*record.accuracies, record.interval[0]) or floor == 0)

    def rescale(self, limit: float) -> None:
        from matplotlib.ticker import MultipleLocator

        self._axes.set_ylim(limit, 1.0 if limit < 0.7 else 0.92)
        self._axes.yaxis.set_major_locator(MultipleLocator(0.05 if limit else 0.1))

    def draw(self, record: DropRecord) -> list["Artist"]:
        """The curve, the boundary, the point with its interval, then the detectors."""
        place, (floor, ceiling) = self._axes.transData.transform, self._axes.get_ylim()
        self._reference.set_data([0, 1], [record.accuracies[0]] * 2)
        self._curve.set_data(record.severities, record.accuracies)
        self._interval.set_data([record.severity] * 2, record.interval)
        self._point.set_data([record.severity], [record.accuracy])
        right, up = place((1, record.accuracies[0]))
        name = "at the release"
        set_text(self._reference_name, text_outline(name, 10, align=0), (right - text_width(name, 10) * DPI / 96, up + 11 * DPI / 96))
        drawn: list[Artist] = [self._reference, self._curve, self._reference_name]
        if record.flips_at is not None:
            self._flip.set_data([record.flips_at] * 2, [floor, ceiling])
            name, axis = "a drop from here on", self._axes.bbox
            width = text_width(name, 10, "bold") * DPI / 96
            left = min(max(place((record.flips_at, floor))[0] - width / 2, axis.x0), axis.x1 - width)
            set_text(self._flip_name, text_outline(name, 10, "bold", 0), (left, axis.y1 + 12 * DPI / 96))
            drawn += [self._flip, self._flip_name]
        drawn += [self._interval, self._point]
        for row, (name, rings, words) in enumerate(record.alarms):
            self._lamps[name].set_markerfacecolor(VERMILLION if rings else "white")
            text = text_outline(f"{'rings' if rings else 'silent'}: {words}", 10.5, "bold" if rings else "normal", 0)
            set_text(self._said[name], text, tuple(self._strip.transData.transform((0.17, row + 0.66))))
            drawn += [self._lamps[name], self._said[name]]
        return drawn

    def words(self, record: DropRecord) -> tuple[str, ...]:
        """The verdict, the change, the numbers, the boundary and the detectors."""
        low, high = record.interval
        boundary = "nowhere on this slider" if record.flips_at is None else f"from severity {record.flips_at:g}"
        said = ", ".join(f"{name} {'rings' if rings else 'silent'} ({words})" for name, rings, words in record.alarms)
        return (
            record.verdict,
            f"{record.change[0].upper()}{record.change[1:]}.",
            f"Accuracy {record.accuracy:.1%} ({low:.1%} to {high:.1%}), {record.accuracies[0]:.1%} at the release on all items; told apart {boundary}.",
            f"Without labels: {said}.",
            "The classifier's answer is looked up, at the nearest tenth of severity; everything else is computed for this move.",
        )
