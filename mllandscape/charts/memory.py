"""Bytes: stacks of categories against a capacity, methods side by side, a timeline, a ladder of remedies, and the bars of a panel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput, units
from mllandscape.charts.figure import (
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    YELLOW,
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERMS = {
    "parameters": (BLUE, ""),
    "sharded parameters": (BLUE, "----"),
    "gathered layers": (SKY, "xxxx"),
    "master weights": (SKY, ""),
    "gradients": (ORANGE, ""),
    "gradient shards": (ORANGE, "----"),
    "unsharded gradients": (ORANGE, "xxxx"),
    "reduce-scatter buffers": (YELLOW, "...."),
    "all-reduce buckets": (YELLOW, "xxxx"),
    "optimizer states": (GREEN, ""),
    "autocast weight copies": (SKY, "////"),
    "activations": (VERMILLION, ""),
    "attention maps": (VERMILLION, "////"),
    "logits and loss": (PURPLE, ""),
    "checkpoints": (YELLOW, ""),
    "temporaries": (GREY, ""),
    "optimizer step transient": (GREEN, "////"),
    "inputs": (GREY, "...."),
}
"""Colour and hatch of each memory category, in stacking order. The hatched ones are relatives of the plain one of their colour."""

METHODS = {"predicted": (SKY, ""), "traced": (ORANGE, "////"), "measured": (GREEN, "....")}
_SPARE = ((BLUE, "...."), (YELLOW, "////"), (PURPLE, "////"), (ORANGE, "////"), (GREY, "xxxx"), (BLUE, "////"))
_UNITS = {"MB": units.MB, "GB": units.GB, "MiB": units.MIB, "GiB": units.GIB}


def _number(count: float, unit: str) -> str:
    """Bytes in this unit without its name: one decimal, two digits below 1, and never 0 for what is not 0."""
    if unit not in _UNITS:
        raise BadInput(f"unit={unit!r}: {', '.join(_UNITS)} are possible.")
    value = count / _UNITS[unit]
    if 0 < value < 0.0005:
        return "<0.001"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def _amount(count: float, unit: str) -> str:
    return f"{_number(count, unit)} {unit}"


def _ordered(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each term's colour and hatch: the known ones in stacking order, then the others as they come."""
    others = [name for name in names if name not in TERMS]
    if len(others) > len(_SPARE):
        raise BadInput(f"{len(others)} terms that charts.TERMS does not know ({', '.join(others)}): at most {len(_SPARE)} are possible; add them to it.")
    return {name: style for name, style in TERMS.items() if name in names} | dict(zip(others, _SPARE, strict=False))


def _ink(colour: str) -> str:
    return "white" if colour == BLUE else "black"


def _bytes_axis(axes: "Axes", limit: float, unit: str, label: str = "") -> None:
    """A horizontal axis from 0 to ``limit`` bytes, ticks at round numbers of the unit."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, limit)
    ticks = MaxNLocator(7, steps=(1, 2, 2.5, 5, 10)).tick_values(0, limit / _UNITS[unit])
    axes.set_xticks([tick * _UNITS[unit] for tick in ticks if 0 <= tick * _UNITS[unit] <= limit])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / _UNITS[unit]:g}"))
    axes.set_xlabel(label or unit)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)


def _visible(styles: Mapping[str, tuple[str, str]], stacks: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """The terms that can be seen in a figure of these stacks: at least 0.2 % of the highest. The others are in its sentence only."""
    highest = max(sum(stack.values()) for stack in stacks)
    return {name: style for name, style in styles.items() if any(stack.get(name, 0) >= 0.002 * highest for stack in stacks)}


def _segment_label(name: str, number: str, start: float, end: float, line: float, scale: float) -> tuple[float, str]:
    """Where and what to write inside a bar segment: name and number, the number, or nothing, whichever fits.

    A segment that the capacity line crosses is labelled on its wider side. ``scale`` is CSS pixels a byte.
    """
    if start < line < end:
        start, end = (start, line) if line - start > end - line else (line, end)
    return (start + end) / 2, next((text for text in (f"{name}\n{number}", number) if text_width(text, 10) + 8 <= (end - start) * scale), "")


def _parts(terms: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{name} {_number(terms[name], unit)}" for name in _ordered(list(terms)) if terms[name])


def _capacity_line(axes: "Axes", capacity: float, text: str) -> None:
    axes.axvline(capacity, color="black", linewidth=2, linestyle=(0, (4, 2)), zorder=4)
    axes.annotate(text, (capacity, 1), (0, 5), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="bottom", weight="bold")


def bytes_by_term(profiles: Mapping[str, Any], capacity: float | None = None, title: str = "", unit: str = "GB", capacity_label: str = "capacity") -> Described:
    """One stacked bar a plan or phase: ``{label: {term: bytes}}``, or MemoryProfiles for their terms at the peak.

    Totals stand at the ends of the bars, ``capacity`` in bytes is a dashed line. ``unit`` is GB (10^9), GiB (2^30), MB or MiB.
    """
    bars = {label: dict(profile) if isinstance(profile, Mapping) else dict(profile.terms) for label, profile in profiles.items()}
    totals = {label: sum(terms.values()) for label, terms in bars.items()}
    styles = _ordered(list(dict.fromkeys(name for terms in bars.values() for name, count in terms.items() if count)))
    labels, left = row_labels(list(bars))
    heading, top = title_lines(title)
    named = _visible(styles, list(bars.values()))
    columns, legend = legend_size(named)
    right = max(text_width(_amount(total, unit), weight="bold") for total in totals.values()) + 20
    top += 24 if capacity else 4
    with paper():
        figure = new_figure(top + 56 * len(bars) + 48 + legend)
        write_title(figure, heading)
        axes = add_axes(figure, left, right, top, 48 + legend)
        limit = max([*totals.values(), 1.04 * (capacity or 0), 1])
        _bytes_axis(axes, limit, unit)
        scale = (WIDTH - left - right) / limit
        for row, (label, terms) in enumerate(bars.items()):
            start = 0
            for name, (colour, hatch) in styles.items():
                count = terms.get(name, 0)
                if not count:
                    continue
                axes.barh(row, count, 0.7, start, color=colour, hatch=hatch, edgecolor="black", linewidth=0.8, zorder=2)
                middle, text = _segment_label(name, _number(count, unit), start, start + count, capacity or 0, scale)
                if text:
                    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if hatch else None
                    axes.text(middle, row, text, size=10, color=_ink(colour), ha="center", va="center", bbox=box, zorder=3, linespacing=1.1)
                start += count
            axes.annotate(
                _amount(totals[label], unit), (start, row), (6, 0), textcoords="offset points", va="center_baseline", weight="bold", zorder=5,
                annotation_clip=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.set_yticks(range(len(bars)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        if capacity:
            _capacity_line(axes, capacity, f"{capacity_label} {_amount(capacity, unit)}")
        add_legend(figure, named, columns)
    said = [f"{label}: {_amount(totals[label], unit)} = {_parts(terms, unit)}." for label, terms in bars.items()]
    return Described(figure, sentence(title, said, capacity and f"{capacity_label}: {_amount(capacity, unit)}."))


def side_by_side(rows: Sequence[tuple[str, Mapping[str, float]]], title: str = "", unit: str = "GB") -> Described:
    """The same quantity by several methods: ``(label, {"predicted": bytes, "traced": bytes, "measured": bytes})``.

    Each bar but the row's last is compared with the last one, and its error printed in per cent of it.
    """
    if any(not counts or list(counts.values())[-1] <= 0 for _, counts in rows):
        raise BadInput("a row without bytes to compare with: each row needs one method or more, the last of them above 0.")
    names = list(dict.fromkeys(name for _, counts in rows for name in counts))
    styles = {name: METHODS[name] for name in names if name in METHODS} | dict(zip([name for name in names if name not in METHODS], _SPARE, strict=False))
    labels, left = row_labels([label for label, _ in rows])
    heading, top = title_lines(title)
    ends = [[f"{name} {_amount(count, unit)}{_error(name, counts)}" for name, count in counts.items()] for _, counts in rows]
    right = max(text_width(end) for row in ends for end in row) + 20
    slots = [len(counts) for _, counts in rows]
    with paper():
        figure = new_figure(top + 24 * sum(slots) + 18 * len(rows) + 52)
        write_title(figure, heading)
        axes = add_axes(figure, left, right, top, 48)
        _bytes_axis(axes, max(count for _, counts in rows for count in counts.values()), unit)
        position, middles = 0.0, []
        for (_, counts), texts in zip(rows, ends, strict=True):
            middles.append(position + (len(counts) - 1) / 2)
            for (name, count), text in zip(counts.items(), texts, strict=True):
                colour, hatch = styles[name]
                axes.barh(position, count, 0.86, color=colour, hatch=hatch, edgecolor="black", linewidth=0.8, zorder=2)
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axes.annotate(text, (count, position), (6, 0), textcoords="offset points", va="center_baseline", annotation_clip=False, bbox=box)
                position += 1
            position += 0.75
        axes.set_yticks(middles, labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(position - 0.75 - 0.25, -0.75)
    said = [f"{label}: {', '.join(texts)}." for (label, _), texts in zip(rows, ends, strict=True)]
    return Described(figure, sentence(title, said))


def _error(name: str, counts: Mapping[str, float]) -> str:
    *others, reference = counts
    return f" ({counts[name] / counts[reference] - 1:+.1%})".replace("%", " %").replace("-", "−") if name in others else ""


def timeline(
    moments: Sequence[Any], capacity: float | None = None, failed_at: int | None = None, title: str = "", unit: str = "GiB",
    capacity_label: str = "capacity", against: tuple[str, Sequence[Any]] | None = None,
) -> Described:  # fmt: skip
    """Live bytes by category through one training step, from Moments (``phase``, ``label``, ``live``: {category: bytes}).

    The x axis counts allocations and frees, it is not time. ``failed_at`` is the index of the first moment that could not
    be allocated; what would have come after it is veiled. ``against`` is the name and the moments of another step, whose total is
    a line over this one, phase over phase.
    """
    if not any(any(moment.live.values()) for moment in moments):
        raise BadInput("a timeline without live bytes: give the moments of one step, for example trace(shape, plan).timeline.")
    if failed_at is not None and not 0 <= failed_at < len(moments):
        raise BadInput(f"failed_at={failed_at}: an index from 0 to {len(moments) - 1} is possible.")
    totals = [sum(moment.live.values()) for moment in moments]
    styles = _ordered(list(dict.fromkeys(name for moment in moments for name, count in moment.live.items() if count)))
    edges = [index for index in range(len(moments)) if not index or moments[index].phase != moments[index - 1].phase] + [len(moments)]
    places = _places(edges)
    marked = totals.index(max(totals)) if failed_at is None else failed_at
    heading, top = title_lines(title)
    named = _visible(styles, [moment.live for moment in moments])
    columns, legend = legend_size(named)
    beside = f"{capacity_label}\n{_amount(capacity, unit)}" if capacity else ""
    others = [sum(moment.live.values()) for moment in against[1]] if against else []
    ceiling = 1.28 * max(*totals, *others, capacity or 0, 1)
    with paper():
        figure = new_figure(top + 330 + legend)
        write_title(figure, heading)
        axes = add_axes(figure, 74, 24 + text_width(beside, weight="bold"), top + 22, 34 + legend)
        axes.set(xlim=(0, 1), ylim=(0, ceiling), xlabel="allocations and frees of one training step, in order (each phase on its own scale)", xticks=[])
        _bytes_ticks(axes, ceiling, unit)
        # The last moment once more, so that it has a width.
        bands = [[moment.live.get(name, 0) for moment in (*moments, moments[-1])] for name in styles]
        colours, hatches = zip(*styles.values(), strict=True)
        axes.stackplot(places, bands, step="post", colors=colours, hatch=hatches, edgecolor="#222222", linewidth=0.35)
        _name_bands(axes, places, bands, styles)
        if against:
            spans = {moments[start].phase: (places[start], places[end]) for start, end in zip(edges, edges[1:], strict=False)}
            _other_total(axes, *against, others, spans)
        for start, end in zip(edges, edges[1:], strict=False):
            if start:
                axes.axvline(places[start], color="black", linewidth=1, linestyle=":")
            if text_width(moments[start].phase) <= (places[end] - places[start]) * axes.bbox.width * 96 / DPI:
                middle = ((places[start] + places[end]) / 2, 1)
                axes.annotate(moments[start].phase, middle, (0, 4), xycoords="axes fraction", textcoords="offset points", ha="center")
        peak = ((places[marked] + places[marked + 1]) / 2, totals[marked])
        late = peak[0] > 0.5
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        if capacity:
            axes.axhline(capacity, color="black", linewidth=2, linestyle=(0, (4, 2)), zorder=6)
            axes.annotate(beside, (1, capacity), (7, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", weight="bold")
        if failed_at is None:
            note = f"peak {_amount(totals[marked], unit)}: {moments[marked].label}"
            axes.plot(*peak, "o", color="white", markeredgecolor="black", markersize=7, zorder=6, clip_on=False)
        else:
            note = f"✗ out of memory at {moments[marked].label}: {_amount(totals[marked], unit)} needed"
            axes.axvspan(places[marked + 1], 1, facecolor="white", alpha=0.72, zorder=5, linewidth=0)
            axes.plot(*peak, "X", color=VERMILLION, markeredgecolor="black", markersize=12, zorder=8, clip_on=False)
        axes.annotate(
            note, peak, (0.98 if late else 0.02, 0.97), textcoords="axes fraction", ha="right" if late else "left", va="top", weight="bold", bbox=box,
            zorder=7, arrowprops={"arrowstyle": "-", "linewidth": 1, "shrinkB": 4},
        )  # fmt: skip
        add_legend(figure, named, columns)
    phases = {moments[start].phase: 0 for start in edges[:-1]}
    for moment, total in zip(moments, totals, strict=True):
        phases[moment.phase] = max(phases[moment.phase], total)
    top_moment = moments[totals.index(max(totals))]
    said = [
        f"Peak {_amount(max(totals), unit)} in {top_moment.phase}, at {top_moment.label} = {_parts(top_moment.live, unit)}.",
        f"Peak of each phase: {', '.join(f'{phase} {_amount(total, unit)}' for phase, total in phases.items())}.",
    ]
    if against:
        said += [f"{against[0]}: peak {_amount(max(others), unit)} in {against[1][others.index(max(others))].phase}."]
    failed = failed_at is not None and f"Out of memory in {moments[failed_at].phase}, at {moments[failed_at].label}: {_amount(totals[failed_at], unit)} needed."
    return Described(figure, sentence(title, said, capacity and f"{capacity_label}: {_amount(capacity, unit)}.", failed))


def _other_total(axes: "Axes", name: str, moments: Sequence[Any], totals: Sequence[float], spans: Mapping[str, tuple[float, float]]) -> None:
    """A second step's total as a line, each of its phases stretched over the same phase of the first."""
    xs, ys = [], []
    for phase, (start, end) in spans.items():
        heights = [total for moment, total in zip(moments, totals, strict=True) if moment.phase == phase]
        xs += [start + (end - start) * step / max(len(heights), 1) for step in range(len(heights))]
        ys += heights
    axes.plot(xs, ys, color="white", linewidth=4, drawstyle="steps-post", zorder=5)
    axes.plot(xs, ys, color="black", linewidth=2, drawstyle="steps-post", zorder=5)
    axes.annotate(name, (0.015, ys[0]), (0, 5), xycoords=("axes fraction", "data"), textcoords="offset points", weight="bold", zorder=6)


def _places(edges: Sequence[int]) -> list[float]:
    """From 0 to 1, where each moment begins, and the end. Every phase gets room to be seen: an optimizer step has few, large allocations."""
    lengths = [end - start for start, end in zip(edges, edges[1:], strict=False)]
    shares = [max(length / edges[-1], 0.8 / len(lengths)) for length in lengths]
    places = [0.0]
    for length, share in zip(lengths, shares, strict=True):
        begin = places[-1]
        places += [begin + share / sum(shares) * (step + 1) / length for step in range(length)]
    return places


def _name_bands(axes: "Axes", places: Sequence[float], bands: Sequence[Sequence[float]], styles: Mapping[str, tuple[str, str]]) -> None:
    """Each category's name in its band, where the band is thickest over the name's width, if it is thick enough."""
    import numpy

    columns = numpy.arange(0.0025, 1, 0.005)
    at = numpy.searchsorted(places, columns, side="right") - 1
    uppers = numpy.cumsum(numpy.asarray(bands, dtype=float)[:, at], axis=0)
    lowers = numpy.vstack([numpy.zeros_like(columns), uppers[:-1]])
    pixels = axes.bbox.height * 96 / DPI / axes.get_ylim()[1]
    for (name, (colour, hatch)), lower, upper in zip(styles.items(), lowers, uppers, strict=True):
        span = round((text_width(name, 10) + 12) / (axes.bbox.width * 96 / DPI) * len(columns))
        floor = numpy.lib.stride_tricks.sliding_window_view(lower, span).max(axis=1)
        roof = numpy.lib.stride_tricks.sliding_window_view(upper, span).min(axis=1)
        best = int(numpy.argmax(roof - floor))
        if (roof - floor)[best] * pixels >= 20:
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if hatch else None
            axes.text(columns[best] + span * 0.0025, (roof + floor)[best] / 2, name, size=10, color=_ink(colour), ha="center", va="center", bbox=box)


def _bytes_ticks(axes: "Axes", ceiling: float, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    values = [value for value in MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)).tick_values(0, ceiling / _UNITS[unit]) if 0 <= value * _UNITS[unit] <= ceiling]
    axes.set_yticks([value * _UNITS[unit] for value in values], [f"{value:g}" for value in values])
    axes.set_ylabel(unit)


@dataclass(frozen=True)
class Rung:
    """One row of the ladder: peak bytes predicted and measured (None: not known), and whether the step ran."""

    label: str
    predicted: int | None
    measured: int | None
    fits: bool


def ladder(rungs: Sequence[Rung], budget: float, title: str = "", unit: str = "GiB", measured_label: str = "measured") -> Described:
    """Each mitigation a row: predicted peak (ring), measured peak (diamond), the budget in bytes (line), and fits or OOM in words.

    A rung that ran out of memory has no measured peak, unless it was measured without the budget.
    """
    labels, left = row_labels([rung.label for rung in rungs])
    heading, top = title_lines(title)
    peaks = [count for rung in rungs for count in (rung.predicted, rung.measured) if count is not None]
    columns = (("predicted", 96), (measured_label, 96), ("", 74))
    right = sum(width for _, width in columns) + 8
    with paper():
        tallest = max(label.count("\n") for label in labels)
        figure = new_figure(top + 26 + (36 + 14 * tallest) * len(rungs) + 50)
        write_title(figure, heading)
        axes = add_axes(figure, left, right, top + 26, 50)
        _bytes_axis(axes, 1.06 * max([*peaks, budget]), unit, f"peak of one training step, {unit}   (○ predicted   ◆ {measured_label})")
        _capacity_line(axes, budget, f"budget {_amount(budget, unit)}")
        for row, rung in enumerate(rungs):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, facecolor="#F3F3F3", zorder=0)
            known = [count for count in (rung.predicted, rung.measured) if count is not None]
            axes.plot([0, *known], [row] * (len(known) + 1), color="#888888", linewidth=1.2, zorder=2)
            if rung.measured is not None:
                axes.plot([rung.measured], [row], "D", color=GREEN if rung.fits else VERMILLION, markeredgecolor="black", markersize=8, zorder=5, clip_on=False)
            if rung.predicted is not None:
                axes.plot([rung.predicted], [row], "o", color="white", markeredgecolor=BLUE, markeredgewidth=2.2, markersize=12, zorder=4.5, clip_on=False)
            end = 0
            cells = (_known(rung.predicted, unit), _known(rung.measured, unit), "✓ fits" if rung.fits else "✗ OOM")
            for (_, width), text in zip(columns, cells, strict=True):
                end += width
                axes.annotate(
                    text, (1, row), (end * 0.75, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="center_baseline",
                    weight="bold" if text[0] in "✓✗" else "normal", annotation_clip=False,
                )  # fmt: skip
        end = 0
        for name, width in columns:
            end += width
            axes.annotate(name, (1, 1), (end * 0.75, 5), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom", color="#444444")
        axes.set_yticks(range(len(rungs)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rungs) - 0.5, -0.5)
    said = [
        f"{rung.label}: predicted {_known(rung.predicted, unit)}, {measured_label} {_known(rung.measured, unit)}, {'fits' if rung.fits else 'OOM'}."
        for rung in rungs
    ]
    return Described(figure, sentence(title, said, f"Budget: {_amount(budget, unit)}."))


def _known(count: float | None, unit: str) -> str:
    return "–" if count is None else _amount(count, unit)


@dataclass(frozen=True)
class CapacityRecord:
    """What CapacityBars draws: bytes of each phase by term, the capacity in bytes, and the answer in words."""

    bars: Mapping[str, Mapping[str, int]]
    capacity: int
    verdict: str
    advice: str = ""


class CapacityBars:
    """The live chart of a panel: a stacked bar a phase against the capacity of a card.

    The axis is fixed by the capacity (to 1.25 of it), so a bar moves and the line does not. A bar that overflows is cut at
    the axis end; its number stands there all the same. Made once, then moved: see Panel for the four methods.
    """

    def __init__(self, phases: Sequence[str] = ("forward", "backward", "optimizer step"), terms: Sequence[str] = tuple(TERMS), unit: str = "GiB"):
        self.phases = tuple(phases)
        self.unit = unit
        self._styles = _ordered(terms)
        self._columns, self._legend = legend_size(self._styles)
        self._left = max(text_width(phase) for phase in phases) + 22
        self._right = 172
        self.height = 30 + 58 * len(self.phases) + 50 + self._legend

    def setup(self, figure: "Figure") -> None:
        """Everything that a move only shifts: axes and legend, and the animated bars, labels and capacity line."""
        self._axes = axes = add_axes(figure, self._left, self._right, 30, 50 + self._legend)
        axes.set_yticks(range(len(self.phases)), self.phases)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(self.phases) - 0.5, -0.5)
        self._room = WIDTH - self._left - self._right
        self._heading = axes.text(0.8, 1.03, "", transform=axes.transAxes, ha="center", va="bottom", weight="bold")
        add_legend(figure, self._styles, self._columns)
        self._bars, self._names, self._totals, self._cuts = {}, {}, {}, {}
        for row, phase in enumerate(self.phases):
            for name, (colour, hatch) in self._styles.items():
                (bar,) = axes.barh(row, 0, 0.72, color=colour, hatch=hatch, edgecolor="black", linewidth=0.8, animated=True)
                self._bars[phase, name] = bar
                self._names[phase, name] = lettering(axes, _ink(colour), colour if hatch else "none")
            self._totals[phase] = lettering(axes, "black")
            # The torn edge of a bar that goes on: white teeth over its end.
            teeth = [(1 - (13 if tooth % 2 else 3) / self._room, row - 0.4 + tooth / 10) for tooth in range(9)]
            edge = zip(*teeth, (1.02, row + 0.4), (1.02, row - 0.4), strict=True)
            (self._cuts[phase],) = axes.fill(*edge, color="white", transform=axes.get_yaxis_transform(), clip_on=False, animated=True)
        self._line = axes.axvline(0, color="black", linewidth=2, linestyle=(0, (4, 2)), animated=True)

    def limit(self, record: CapacityRecord) -> float:
        """The end of the axis, in bytes. The background is drawn again when it changes."""
        return 1.25 * record.capacity

    def rescale(self, limit: float) -> None:
        _bytes_axis(self._axes, limit, self.unit)
        self._line.set_xdata([limit / 1.25] * 2)
        self._heading.set_text(f"capacity {_amount(limit / 1.25, self.unit)}")

    def draw(self, record: CapacityRecord) -> list["Artist"]:
        """The artists that change, moved to this record, in the order in which they are painted."""
        limit = self.limit(record)
        known = {*self.phases, *self._styles}
        if unknown := [name for phase, terms in record.bars.items() for name in (phase, *terms) if name not in known]:
            raise BadInput(f"no place in the chart for {', '.join(unknown)}: make it with those phases or terms; it has {', '.join(sorted(known))}.")
        place = self._axes.transData.transform
        bars, names, totals, cuts = [], [], [], []
        largest = max(self._sums(record).values(), default=0)
        for row, phase in enumerate(self.phases):
            start = 0
            for name in self._styles:
                count = record.bars.get(phase, {}).get(name, 0)
                end = min(start + count, limit)
                if end > start:
                    bar, text = self._bars[phase, name], self._names[phase, name]
                    bar.set(x=start, width=end - start)
                    bars.append(bar)
                    middle, label = _segment_label(name, _number(count, self.unit), start, end, record.capacity, self._room / limit)
                    if label:
                        set_text(text, text_outline(label, 10), place((middle, row)))
                        names.append(text)
                start += count
            if phase not in record.bars:
                continue
            over = start - record.capacity
            state = f"✗ {_amount(over, self.unit)} over" if over > 0 else f"✓ {_amount(-over, self.unit)} free"
            peak = start == largest
            total = f"{_amount(start, self.unit)}{'  peak' if peak else ''}\n{state}"
            set_text(self._totals[phase], text_outline(total, 10.5, "bold" if peak else "normal", 0), place((limit * (1 + 14 / self._room), row)))
            totals.append(self._totals[phase])
            if start > limit:
                cuts.append(self._cuts[phase])
        return [*bars, *cuts, self._line, *names, *totals]

    def words(self, record: CapacityRecord) -> tuple[str, ...]:
        """The verdict, the advice, and the numbers of every bar."""
        sums = self._sums(record).items()
        numbers = (f"{phase}: {_amount(total, self.unit)} = {_parts(record.bars[phase], self.unit)}." for phase, total in sums)
        return (record.verdict, *([record.advice] if record.advice else []), *numbers, f"capacity: {_amount(record.capacity, self.unit)}.")

    def _sums(self, record: CapacityRecord) -> dict[str, int]:
        return {phase: sum(record.bars[phase].values()) for phase in self.phases if phase in record.bars}
