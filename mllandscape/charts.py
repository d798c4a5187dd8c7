"""Records → figures that can say their numbers.

Every chart is a pure function of what it is given: it computes no physics and runs nothing. Its answer is a ``Described``
figure, whose text is a sentence with the figure's numbers. Figures are white and opaque in every theme, at most 860 px
wide at twice that resolution, with text of 10 points or more. No pyplot, no global state, nothing of the user's matplotlibrc.
"""

import html
import io
import math
import textwrap
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput, units

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from PIL.Image import Image

WIDTH = 860
DPI = 192
"""Dots an inch of the stored picture. A CSS pixel is 1/96 inch, so this is two dots a pixel and a point is a point."""

BLACK, ORANGE, SKY, GREEN, YELLOW = "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB"
"""Okabe and Ito's palette, told apart with every common colour vision, and one grey."""

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
_LINES = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, "-.", "^"), (BLACK, ":", "D"), (PURPLE, "-", "v"), (ORANGE, "--", "P"), (SKY, "-.", "X"))
_UNITS = {"MB": units.MB, "GB": units.GB, "MiB": units.MIB, "GiB": units.GIB}


class Described:
    """A figure and the sentence that says what it shows: the sentence is its text, its ``alt`` and its caption."""

    def __init__(self, figure: "Figure", sentence: str):
        self.figure = figure
        self.sentence = sentence

    def png(self) -> bytes:
        with paper():
            self.figure.canvas.draw()
        return encode(self.figure, palette(self.figure), level=9)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": self.sentence, "text/html": described_html(self.png(), self.sentence, self.figure)}

    def __repr__(self) -> str:
        return self.sentence


def described_html(png: bytes, sentence: str, figure: "Figure") -> str:
    """The picture with the sentence as its ``alt`` and, in lines, as its caption; needs no script and no network."""
    caption = "<br>".join(html.escape(line) for line in sentence.splitlines())
    return f'<figure style="margin:0">{image_html(png, sentence, figure)}<figcaption style="line-height:1.45">{caption}</figcaption></figure>'


def image_html(png: bytes, sentence: str, figure: "Figure", opacity: float = 1) -> str:
    """The picture at half its stored resolution, so that it is sharp on a projector and on a retina screen."""
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    alt = html.escape(" ".join(sentence.split()))
    style = f"max-width:100%;height:auto;opacity:{opacity:g}"
    return f'<img alt="{alt}" width="{width}" height="{height}" style="{style}" decoding="sync" src="data:image/png;base64,{b64encode(png).decode()}">'


def _picture(figure: "Figure") -> "Image":
    import numpy
    from PIL.Image import fromarray

    return fromarray(numpy.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def palette(figure: "Figure") -> dict[tuple[int, ...], tuple[int, ...]]:
    """The 256 commonest colours of the canvas: flat graphics have hardly more, so the large areas keep theirs exactly.

    PIL looks colours up by the lower corner of their 4 x 4 x 4 box, so that corner is the key and boxes are not shared.
    """
    picture = _picture(figure)
    colours: dict[tuple[int, ...], tuple[int, ...]] = {}
    for _, colour in sorted(picture.getcolors(picture.width * picture.height), reverse=True):
        colours.setdefault(tuple(channel & 252 for channel in colour), colour)
    return dict(list(colours.items())[:256])


def encode(figure: "Figure", colours: dict[tuple[int, ...], tuple[int, ...]], level: int) -> bytes:
    """The canvas as a PNG of these colours: a third of the time and half the bytes of true colour."""
    from PIL import Image

    corners = Image.new("P", (1, 1))
    corners.putpalette(list(chain.from_iterable(colours)))
    indexed = _picture(figure).quantize(palette=corners, dither=Image.Dither.NONE)
    indexed.putpalette(list(chain.from_iterable(colours.values())))
    stream = io.BytesIO()
    indexed.save(stream, "png", compress_level=level)
    return stream.getvalue()


@cache
def _rc() -> dict[str, Any]:
    import matplotlib

    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(("backend", "interactive"))}
    return defaults | {
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "hatch.linewidth": 0.6,
        "figure.facecolor": "white",
    }


@contextmanager
def paper() -> Iterator[None]:
    """Matplotlib's own defaults and ours while a figure is made or drawn; the user's settings before and after."""
    import matplotlib

    with matplotlib.rc_context(_rc()):
        yield


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure of this many CSS pixels, with a canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 96, height / 96), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: "Figure", left: float, right: float, top: float, bottom: float) -> "Axes":
    """Axes with these margins, in CSS pixels."""
    width, height = figure.get_size_inches() * 96
    return figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def _title(figure: "Figure", lines: list[str]) -> None:
    width, height = figure.get_size_inches() * 96
    figure.text(10 / width, 1 - 8 / height, "\n".join(lines), size=12.5, weight="bold", va="top", ha="left", linespacing=1.25)


def _title_lines(title: str) -> tuple[list[str], int]:
    """The title in lines that fit, and the CSS pixels that they take."""
    lines = textwrap.wrap(title, 84)
    return lines, 24 * len(lines) + 8


@cache
def _glyph(character: str, weight: str) -> tuple[Any, Any, float]:
    """A character's outline at size 1 (vertices, codes), and how far it moves the next one."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family=["DejaVu Sans"], weight=weight)
    # Set between two bars: a space alone has no path, and what moves the second bar is the character's advance.
    two, three = (TextPath((0, 0), text, size=1, prop=font) for text in ("||", f"|{character}|"))
    bar = len(two) // 2
    width = two.vertices[bar, 0] - two.vertices[0, 0]
    return three.vertices[bar:-bar] - (width, 0), three.codes[bar:-bar], three.vertices[-bar, 0] - three.vertices[0, 0] - width


@lru_cache(4096)
def _outline(text: str, size: float = 10.5, weight: str = "normal", align: float = 0.5) -> "Path":
    """A text as one shape, in points, around (0, 0): vertically centred, its lines set left (``align`` 0) or centred (0.5).

    Matplotlib takes milliseconds to lay out a text each time it is drawn; an outline of known glyphs is drawn in a tenth of one.
    """
    from matplotlib.path import Path
    from numpy import concatenate

    rows, vertices, codes = text.split("\n"), [], []
    for index, row in enumerate(rows):
        glyphs = [_glyph(character, weight) for character in row]
        x = -align * sum(advance for _, _, advance in glyphs) * size
        baseline = ((len(rows) - 1) / 2 - index) * 1.25 * size - 0.36 * size
        for shape, kinds, advance in glyphs:
            vertices.append(shape * size + (x, baseline))
            codes.append(kinds)
            x += advance * size
    return Path(concatenate(vertices), concatenate(codes)) if vertices else Path([(0, 0)])


def _width(text: str, size: float = 10.5, weight: str = "normal") -> float:
    """How wide a text is drawn, in CSS pixels: its widest line."""
    return max(sum(_glyph(character, weight)[2] for character in row) for row in text.split("\n")) * size * 96 / 72


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


def _rows(labels: Sequence[str]) -> tuple[list[str], float]:
    """Row labels broken into lines, and the left margin that they need in CSS pixels."""
    if not labels:
        raise BadInput("nothing to draw: give one row or more.")
    wrapped = ["\n".join(textwrap.wrap(label, 32, break_long_words=False)) for label in labels]
    return wrapped, max(_width(label) for label in wrapped) + 22


def _bytes_axis(axes: "Axes", limit: float, unit: str, label: str = "") -> None:
    """A horizontal axis from 0 to ``limit`` bytes, ticks at round numbers of the unit."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, limit)
    ticks = MaxNLocator(7, steps=(1, 2, 2.5, 5, 10)).tick_values(0, limit / _UNITS[unit])
    axes.set_xticks([tick * _UNITS[unit] for tick in ticks if 0 <= tick * _UNITS[unit] <= limit])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / _UNITS[unit]:g}"))
    axes.set_xlabel(label or unit)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)


def _legend(figure: "Figure", styles: Mapping[str, tuple[str, str]], columns: int) -> None:
    """The terms' colours and hatches in stacking order, along the bottom, read row by row."""
    from matplotlib.patches import Patch

    names = list(styles)
    by_column = [name for column in range(columns) for name in names[column::columns]]
    figure.legend(
        [Patch(facecolor=styles[name][0], hatch=styles[name][1], edgecolor="black", linewidth=0.8) for name in by_column], by_column,
        loc="lower left", ncols=columns, frameon=False, bbox_to_anchor=(0.005, 0), borderaxespad=0.2,
        handlelength=1.6, handleheight=1.0, columnspacing=1.6, labelspacing=0.45,
    )  # fmt: skip


def _legend_size(styles: Mapping[str, tuple[str, str]]) -> tuple[int, int]:
    """Columns, and CSS pixels of height."""
    columns = max(1, min(len(styles), 4))
    return columns, 21 * math.ceil(len(styles) / columns) + 8


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
    return (start + end) / 2, next((text for text in (f"{name}\n{number}", number) if _width(text, 10) + 8 <= (end - start) * scale), "")


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
    labels, left = _rows(list(bars))
    heading, top = _title_lines(title)
    named = _visible(styles, list(bars.values()))
    columns, legend = _legend_size(named)
    right = max(_width(_amount(total, unit), weight="bold") for total in totals.values()) + 20
    top += 24 if capacity else 4
    with paper():
        figure = new_figure(top + 56 * len(bars) + 48 + legend)
        _title(figure, heading)
        axes = _axes(figure, left, right, top, 48 + legend)
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
        _legend(figure, named, columns)
    said = [f"{label}: {_amount(totals[label], unit)} = {_parts(terms, unit)}." for label, terms in bars.items()]
    return Described(figure, _say(title, said, capacity and f"{capacity_label}: {_amount(capacity, unit)}."))


def _say(title: str, lines: Sequence[str], *more: Any) -> str:
    return "\n".join(line for line in (title and title.rstrip(".") + ".", *lines, *more) if line)


def side_by_side(rows: Sequence[tuple[str, Mapping[str, float]]], title: str = "", unit: str = "GB") -> Described:
    """The same quantity by several methods: ``(label, {"predicted": bytes, "traced": bytes, "measured": bytes})``.

    Each bar but the row's last is compared with the last one, and its error printed in per cent of it.
    """
    if any(not counts or list(counts.values())[-1] <= 0 for _, counts in rows):
        raise BadInput("a row without bytes to compare with: each row needs one method or more, the last of them above 0.")
    names = list(dict.fromkeys(name for _, counts in rows for name in counts))
    styles = {name: METHODS[name] for name in names if name in METHODS} | dict(zip([name for name in names if name not in METHODS], _SPARE, strict=False))
    labels, left = _rows([label for label, _ in rows])
    heading, top = _title_lines(title)
    ends = [[f"{name} {_amount(count, unit)}{_error(name, counts)}" for name, count in counts.items()] for _, counts in rows]
    right = max(_width(end) for row in ends for end in row) + 20
    slots = [len(counts) for _, counts in rows]
    with paper():
        figure = new_figure(top + 24 * sum(slots) + 18 * len(rows) + 52)
        _title(figure, heading)
        axes = _axes(figure, left, right, top, 48)
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
    return Described(figure, _say(title, said))


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
    heading, top = _title_lines(title)
    named = _visible(styles, [moment.live for moment in moments])
    columns, legend = _legend_size(named)
    beside = f"{capacity_label}\n{_amount(capacity, unit)}" if capacity else ""
    others = [sum(moment.live.values()) for moment in against[1]] if against else []
    ceiling = 1.28 * max(*totals, *others, capacity or 0, 1)
    with paper():
        figure = new_figure(top + 330 + legend)
        _title(figure, heading)
        axes = _axes(figure, 74, 24 + _width(beside, weight="bold"), top + 22, 34 + legend)
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
            if _width(moments[start].phase) <= (places[end] - places[start]) * axes.bbox.width * 96 / DPI:
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
        _legend(figure, named, columns)
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
    return Described(figure, _say(title, said, capacity and f"{capacity_label}: {_amount(capacity, unit)}.", failed))


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
        span = round((_width(name, 10) + 12) / (axes.bbox.width * 96 / DPI) * len(columns))
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
    labels, left = _rows([rung.label for rung in rungs])
    heading, top = _title_lines(title)
    peaks = [count for rung in rungs for count in (rung.predicted, rung.measured) if count is not None]
    columns = (("predicted", 96), (measured_label, 96), ("", 74))
    right = sum(width for _, width in columns) + 8
    with paper():
        tallest = max(label.count("\n") for label in labels)
        figure = new_figure(top + 26 + (36 + 14 * tallest) * len(rungs) + 50)
        _title(figure, heading)
        axes = _axes(figure, left, right, top + 26, 50)
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
    return Described(figure, _say(title, said, f"Budget: {_amount(budget, unit)}."))


def _known(count: float | None, unit: str) -> str:
    return "–" if count is None else _amount(count, unit)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str = "", x_label: str = "", y_label: str = "", x_log: bool = False,
    y_log: bool = False, limit: tuple[str, float] | None = None, number: Callable[[float], str] = "{:.4g}".format,
) -> Described:  # fmt: skip
    """Curves ``{label: (xs, ys)}``, each named at its right end; ``limit`` is a named horizontal line.

    ``number`` writes a y value in the sentence and must be deterministic. Non-finite values and values that a log axis
    cannot show are refused with BadInput.
    """
    from matplotlib.ticker import LogLocator

    for label, (xs, ys) in series.items():
        if len(xs) != len(ys) or not len(xs) or not all(math.isfinite(value) for value in (*xs, *ys)):
            raise BadInput(f"series {label!r}: as many finite x as y values are needed, one or more; {len(xs)} x and {len(ys)} y values were given.")
        if (x_log and min(xs) <= 0) or (y_log and min(ys) <= 0):
            raise BadInput(f"series {label!r}: a log axis shows values above 0 only; leave x_log or y_log out.")
    if not 1 <= len(series) <= len(_LINES):
        raise BadInput(f"{len(series)} series: 1 to {len(_LINES)} are possible in one figure.")
    heading, top = _title_lines(title)
    right = max(_width(label) for label in series) + 26
    with paper():
        figure = new_figure(top + 380)
        _title(figure, heading)
        axes = _axes(figure, 84, right, top + 8, 54)
        axes.set(xlabel=x_label, ylabel=y_label, xscale="log" if x_log else "linear", yscale="log" if y_log else "linear")
        axes.grid(color="#DDDDDD", linewidth=0.8)
        for index, (xs, ys) in enumerate(series.values()):
            colour, dash, marker = _LINES[index]
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
    return Described(figure, _say(title, [f"{y_label or 'y'} by {x_label or 'x'}.", *said], limit and f"{limit[0]}: {number(limit[1])}."))


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
class Table:
    """Rows of text under a title; what it shows is its text. The first cell of a row names it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __repr__(self) -> str:
        widths = [max(len(row[place]) for row in (self.heads, *self.rows)) for place in range(len(self.heads))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (self.heads, *self.rows)]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{html.escape(name)}</th>' for name in self.heads)
        body = "".join(
            f'<tr><th scope="row" style="text-align:left">{html.escape(first)}</th>'
            + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells)
            + "</tr>"
            for first, *cells in self.rows
        )
        return f"<table><caption>{html.escape(self.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
        self._columns, self._legend = _legend_size(self._styles)
        self._left = max(_width(phase) for phase in phases) + 22
        self._right = 172
        self.height = 30 + 58 * len(self.phases) + 50 + self._legend

    def setup(self, figure: "Figure") -> None:
        """Everything that a move only shifts: axes and legend, and the animated bars, labels and capacity line."""
        self._axes = axes = _axes(figure, self._left, self._right, 30, 50 + self._legend)
        axes.set_yticks(range(len(self.phases)), self.phases)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(self.phases) - 0.5, -0.5)
        self._room = WIDTH - self._left - self._right
        self._heading = axes.text(0.8, 1.03, "", transform=axes.transAxes, ha="center", va="bottom", weight="bold")
        _legend(figure, self._styles, self._columns)
        self._bars, self._names, self._totals, self._cuts = {}, {}, {}, {}
        for row, phase in enumerate(self.phases):
            for name, (colour, hatch) in self._styles.items():
                (bar,) = axes.barh(row, 0, 0.72, color=colour, hatch=hatch, edgecolor="black", linewidth=0.8, animated=True)
                self._bars[phase, name] = bar
                self._names[phase, name] = _lettering(axes, _ink(colour), colour if hatch else "none")
            self._totals[phase] = _lettering(axes, "black")
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
                        _write(text, _outline(label, 10), place((middle, row)))
                        names.append(text)
                start += count
            if phase not in record.bars:
                continue
            over = start - record.capacity
            state = f"✗ {_amount(over, self.unit)} over" if over > 0 else f"✓ {_amount(-over, self.unit)} free"
            peak = start == largest
            total = f"{_amount(start, self.unit)}{'  peak' if peak else ''}\n{state}"
            _write(self._totals[phase], _outline(total, 10.5, "bold" if peak else "normal", 0), place((limit * (1 + 14 / self._room), row)))
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


def _lettering(axes: "Axes", colour: str, halo: str = "none") -> "PathPatch":
    """An artist for a text that changes while it is drawn often; a halo keeps it readable over a hatch."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke

    patch = PathPatch(Path([(0, 0)]), facecolor=colour, linewidth=0, clip_on=False, animated=True, snap=False)
    if halo != "none":
        patch.set_path_effects([withStroke(linewidth=4, foreground=halo)])
    axes.add_artist(patch)
    return patch


def _write(patch: "PathPatch", outline: "Path", place: tuple[float, float]) -> None:
    """Put an outline at this place, in dots of the canvas."""
    from matplotlib.transforms import Affine2D

    patch.set_path(outline)
    patch.set_transform(Affine2D().scale(DPI / 72).translate(*place))


KINDS = {
    "forward": (SKY, ""),
    "recompute": (SKY, "////"),
    "backward": (BLUE, ""),
    "optimizer": (YELLOW, ""),
    "all-gather": (ORANGE, ""),
    "reduce-scatter": (VERMILLION, "////"),
    "all-reduce": (GREEN, "...."),
    "broadcast": (PURPLE, "xxxx"),
    "compute waits": (GREY, ""),
}
"""Colour and hatch of each kind of task in a step. The last is not a task: it is where the compute lane has none."""

LANES = {"compute": "compute", "communication": "communication", "replication": "between groups"}
"""How the streams of a timeline are called in a figure."""

_NARROW, _TOGETHER = 3, 8
"""CSS pixels: tasks narrower than the first are drawn together, this much of a lane at a time."""


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _step(tasks: Sequence[Any]) -> tuple[float, dict[str, float], float]:
    """What the tasks of a step add up to: its end, the seconds that each stream works, and the share of the step in which compute waits."""
    end = max((task.end for task in tasks), default=0)
    if not 0 < end < math.inf:
        raise BadInput("a step without a task that takes time, or without an end: give its tasks, for example timeline(shape, plan, cluster).tasks.")
    busy = {"compute": 0.0, "communication": 0.0}
    for task in tasks:
        if task.end > task.start:
            busy[task.stream] = busy.get(task.stream, 0.0) + task.end - task.start
    return end, busy, max(0.0, 1 - busy["compute"] / end)


def _lanes(tasks: Sequence[Any], end: float) -> dict[str, list[tuple[str, float, float]]]:
    """(kind, start, end) of what takes time on each stream, in order; in the compute lane also where there is nothing, up to the end of the step."""
    lanes: dict[str, list[tuple[str, float, float]]] = {}
    for task in tasks:
        if task.end <= task.start:
            continue
        lane = lanes.setdefault(task.stream, [])
        if task.stream == "compute" and task.start > (idle := lane[-1][2] if lane else 0):
            lane.append(("compute waits", idle, task.start))
        lane.append((task.kind, task.start, task.end))
    if "compute" in lanes and (idle := lanes["compute"][-1][2]) < end:
        lanes["compute"].append(("compute waits", idle, end))
    return {stream: lanes[stream] for stream in sorted(lanes, key=list(LANES).index)}


def _spans(lane: Sequence[tuple[str, float, float]], scale: float) -> list[tuple[str, float, float]]:
    """(kind, start, seconds) of the boxes of one lane at this many CSS pixels a second.

    Neighbours too narrow to be seen are drawn as one box a kind for each 8 pixels of them, so that every kind keeps its area.
    """
    boxes: list[tuple[str, float, float]] = []
    together: dict[str, float] = {}
    begin = 0.0

    def flush() -> None:
        place = begin
        for kind, width in together.items():
            boxes.append((kind, place, width))
            place += width
        together.clear()

    for kind, start, end in lane:
        wide = (end - start) * scale >= _NARROW
        if together and (wide or (end - begin) * scale > _TOGETHER):
            flush()
        if wide:
            boxes.append((kind, start, end - start))
        else:
            begin = begin if together else start
            together[kind] = together.get(kind, 0) + end - start
    flush()
    return boxes


def _boxes(places: Sequence[tuple[float, float, float, float]]) -> "Path":
    """Rectangles (left, width, middle, height) as one shape, which is drawn in one go."""
    from matplotlib.path import Path
    from numpy import array, stack, tile

    left, width, middle, height = array(places, dtype=float).T
    right, low, high = left + width, middle - height / 2, middle + height / 2
    corners = stack([left, low, right, low, right, high, left, high, left, low], axis=1).reshape(-1, 2)
    return Path(corners, tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(left)).astype(Path.code_type))


def _task_patches(axes: "Axes", styles: Mapping[str, tuple[str, str]], animated: bool = False) -> dict[str, "PathPatch"]:
    """An artist for all boxes of a kind."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    made = {}
    for kind, (colour, hatch) in styles.items():
        made[kind] = PathPatch(Path([(0, 0)]), facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.4, animated=animated, zorder=2)
        axes.add_artist(made[kind])
    return made


_DRAWN_TOGETHER = "; tasks too narrow to see are drawn together"


def _time_axis(axes: "Axes", limit: float, note: str = _DRAWN_TOGETHER) -> None:
    """A horizontal axis from 0 to ``limit`` seconds, in µs, ms or s."""
    from matplotlib.ticker import MaxNLocator

    scale, unit = next((scale, unit) for scale, unit, most in ((1e6, "µs", 1e-3), (1e3, "ms", 1), (1, "s", math.inf)) if limit <= most)
    axes.set_xlim(0, limit)
    ticks = [tick for tick in MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)).tick_values(0, limit * scale) if 0 <= tick <= limit * scale * (1 + 1e-9)]
    axes.set_xticks([tick / scale for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(f"{unit} from the start of the training step{note}")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)


def _check_tasks(tasks: Sequence[Any], streams: Sequence[str], kinds: Sequence[str]) -> None:
    known = {*streams, *kinds}
    if unknown := sorted({name for task in tasks if task.end > task.start for name in (task.stream, task.kind)} - known):
        raise BadInput(f"no place in the chart for {', '.join(unknown)}; it has {', '.join(sorted(known))}.")


def gantt(timelines: Mapping[str, Any], title: str = "") -> Described:
    """Training steps in time, one under the other on one time axis, from Timelines or GanttRecords (``tasks``: stream, kind, start, end in seconds).

    Each has a lane for what computes and one for what is on the wire; step time and the share in which compute waits stand at the right.
    """
    steps = {}
    for label, record in timelines.items():
        _check_tasks(record.tasks, list(LANES), list(KINDS))
        steps[label] = _step(record.tasks)
    lanes = {label: _lanes(record.tasks, steps[label][0]) for label, record in timelines.items()}
    _, left = _rows([LANES[stream] for named in lanes.values() for stream in named])
    ends = {label: f"step {units.seconds(end)}\ncompute waits {_percent(share)}" for label, (end, _, share) in steps.items()}
    right = max(_width(text, weight="bold") for text in ends.values()) + 16
    limit = max(end for end, _, _ in steps.values())
    scale = (WIDTH - left - right) / limit
    # Heights in CSS pixels: a heading, its lanes and a gap for each step.
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    ticks, headings, level, given, drawn = [], {}, 0.0, 0, 0
    for label, named in lanes.items():
        headings[label] = level + 11
        level += 24
        for stream, lane in named.items():
            ticks.append((level + 13, LANES[stream]))
            spans = _spans(lane, scale)
            given, drawn, level = given + len(lane), drawn + len(spans), level + 27
            for kind, start, width in spans:
                boxes.setdefault(kind, []).append((start, width, ticks[-1][0], 23))
        level += 12
    styles = {kind: style for kind, style in KINDS.items() if kind in boxes}
    heading, top = _title_lines(title)
    columns, legend = _legend_size(styles)
    with paper():
        figure = new_figure(top + level + 50 + legend)
        _title(figure, heading)
        axes = _axes(figure, left, right, top, 50 + legend)
        axes.set_ylim(level, 0)
        _time_axis(axes, limit, _DRAWN_TOGETHER if drawn < given else "")
        for kind, patch in _task_patches(axes, styles).items():
            patch.set_path(_boxes(boxes[kind]))
        for label, at in headings.items():
            name, middle = textwrap.shorten(label, 80, placeholder=" …"), at + 13 + 27 * len(lanes[label]) / 2
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "annotation_clip": False}
            axes.annotate(name, (0, at), (0, 0), weight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **place)
            axes.annotate(ends[label], (1, middle), (8, 0), linespacing=1.3, **place)
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _legend(figure, styles, columns)
    said = [f"{label}: {_step_words(steps[label])}." for label in timelines]
    return Described(figure, _say(title, said))


def _step_words(step: tuple[float, dict[str, float], float]) -> str:
    end, busy, share = step
    work = ", ".join(f"{LANES[stream]} {units.seconds(duration)}" for stream, duration in busy.items())
    return f"step {units.seconds(end)}, {work}, compute waits {_percent(share)} of the step"


@dataclass(frozen=True)
class GanttRecord:
    """What Gantt draws: the tasks of a step (stream, kind, start, end in seconds), tokens a second of one GPU with a low and a high, the answer in words."""

    tasks: Sequence[Any]
    speed: float
    band: tuple[float, float]
    verdict: str
    advice: str = ""


class Gantt:
    """The live chart of a panel: a training step in time, a lane a stream.

    The axis ends at the next of 1, 2, 5, 10, … seconds, so that it stays while the step moves. What takes no time is not drawn, so ``kinds`` need
    not name it. Made once, then moved: see Panel for the four methods.
    """

    def __init__(self, streams: Sequence[str] = ("compute", "communication"), kinds: Sequence[str] = tuple(kind for kind in KINDS if kind != "optimizer")):
        if unknown := [name for name in (*streams, *kinds) if name not in (*LANES, *KINDS)]:
            raise BadInput(f"no lane or kind {', '.join(unknown)}: {', '.join((*LANES, *KINDS))} are possible.")
        self.streams = tuple(streams)
        self._styles = {kind: style for kind, style in KINDS.items() if kind in (*kinds, "compute waits")}
        self._columns, self._legend = _legend_size(self._styles)
        _, self._left = _rows([LANES[stream] for stream in streams])
        self._right = 24
        self.height = 38 + 46 * len(self.streams) + 52 + self._legend

    def setup(self, figure: "Figure") -> None:
        """Axes and legend, and the animated artists: one for the boxes of each kind, the line at the end of the step, the line of numbers."""
        self._axes = axes = _axes(figure, self._left, self._right, 38, 52 + self._legend)
        axes.set_yticks(range(len(self.streams)), [LANES[stream] for stream in self.streams])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(self.streams) - 0.5, -0.5)
        self._room = WIDTH - self._left - self._right
        _legend(figure, self._styles, self._columns)
        self._tasks = _task_patches(axes, self._styles, animated=True)
        self._line = axes.axvline(0, color="black", linewidth=2, linestyle=(0, (4, 2)), animated=True)
        self._numbers = _lettering(axes, "black")

    def limit(self, record: GanttRecord) -> float:
        """The end of the axis, in seconds. The background is drawn again when it changes."""
        step = _step(record.tasks)[0]
        power = 10.0 ** math.floor(math.log10(step))
        return next(limit for limit in (power, 2 * power, 5 * power, 10 * power, 20 * power) if step <= limit)

    def rescale(self, limit: float) -> None:
        _time_axis(self._axes, limit)

    def draw(self, record: GanttRecord) -> list["Artist"]:
        """The artists that change, moved to this record, in the order in which they are painted."""
        _check_tasks(record.tasks, self.streams, list(self._styles))
        step = _step(record.tasks)[0]
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        for stream, lane in _lanes(record.tasks, step).items():
            for kind, start, width in _spans(lane, self._room / self.limit(record)):
                boxes.setdefault(kind, []).append((start, width, self.streams.index(stream), 0.78))
        for kind, places in boxes.items():
            self._tasks[kind].set_path(_boxes(places))
        self._line.set_xdata([step] * 2)
        _write(self._numbers, _outline(self._headline(record), 11.5, "bold", 0), (10 * DPI / 96, (self.height - 20) * DPI / 96))
        return [*(self._tasks[kind] for kind in self._styles if kind in boxes), self._line, self._numbers]

    def words(self, record: GanttRecord) -> tuple[str, ...]:
        """The verdict, the advice, and the numbers of the step."""
        numbers = f"{_step_words(_step(record.tasks))}.", f"{_speed(record)}."
        return (record.verdict, *([record.advice] if record.advice else []), *numbers)

    def _headline(self, record: GanttRecord) -> str:
        end, _, share = _step(record.tasks)
        return f"step {units.seconds(end)}   compute waits {_percent(share)}   {_speed(record)}"


def _speed(record: GanttRecord) -> str:
    low, high = record.band
    return f"{_rate(record.speed)} tokens/s a GPU ({_rate(low)} to {_rate(high)})"


def durations(rows: Sequence[tuple[str, Mapping[str, float]]], title: str = "") -> Described:
    """Seconds of the same thing in several ways, a row each on one logarithmic axis: ``(label, {"eager": seconds, "compiled": seconds, …})``.

    The first two ways of a row are dots, joined by a line; what follows are floors, upright strokes.
    """
    from matplotlib.ticker import LogLocator

    names = list(dict.fromkeys(name for _, times in rows for name in times))
    seconds = [value for _, times in rows for value in times.values()]
    if not seconds or min(seconds) <= 0 or len(names) > len(_LINES):
        raise BadInput(f"{len(names)} ways: 1 to {len(_LINES)} are possible, each of more than 0 seconds.")
    labels, left = _rows([label for label, _ in rows])
    heading, top = _title_lines(title)
    texts = [[f"{name} {units.seconds(value)}" for name, value in times.items()] for _, times in rows]
    with paper():
        figure = new_figure(top + 40 * len(rows) + 52 + 26)
        _title(figure, heading)
        axes = _axes(figure, left, 24, top, 52 + 26)
        axes.set_xscale("log")
        low, high = min(seconds), max(seconds)
        axes.set_xlim(low / (high / low) ** 0.04 / 1.05, high * (high / low) ** 0.04 * 1.05)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        drawn: dict[str, Any] = {}
        for row, (_, times) in enumerate(rows):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, facecolor="#F3F3F3", zorder=0)
            dots = list(times.values())[:2]
            axes.plot(dots, [row] * len(dots), color="#888888", linewidth=1.2, zorder=2)
            for name, value in times.items():
                colour, _, marker = _LINES[names.index(name)]
                floor = names.index(name) > 1
                style = {"marker": "|", "markersize": 22, "markeredgewidth": 3, "color": colour, "zorder": 3} if floor else {
                    "marker": marker, "markersize": 8 if names.index(name) else 13, "color": colour, "markeredgecolor": "black", "zorder": 4
                }  # fmt: skip
                (drawn[name],) = axes.plot([value], [row], linestyle="none", **style)
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: units.seconds(value))
        axes.xaxis.minorticks_off()
        axes.set_xlabel("one call")
        figure.legend(drawn.values(), drawn, loc="lower left", ncols=len(drawn), frameon=False, bbox_to_anchor=(0.005, 0), columnspacing=1.6, markerscale=0.8)
    return Described(figure, _say(title, [f"{label}: {', '.join(line)}." for (label, _), line in zip(rows, texts, strict=True)]))


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
        self._right = max(_width(label, weight="bold") for label in labels) + 62

    def setup(self, figure: "Figure") -> None:
        """Axes, and for each curve its line, its mark with an upright, and its name behind a piece of the line."""
        from matplotlib.transforms import IdentityTransform

        self._axes = axes = _axes(figure, 84, self._right, self._top, 54)
        axes.set(xlabel=self._words[0], ylabel=self._words[1], xscale="log", yscale="log")
        self._lines, self._dots, self._uprights, self._names, self._pieces = {}, {}, {}, {}, {}
        for place, label in enumerate(self.labels):
            colour, dash, marker = _LINES[place]
            (self._lines[label],) = axes.plot([], [], dash, color=colour, linewidth=2.4, animated=True)
            (self._uprights[label],) = axes.plot([], [], ":", color=colour, linewidth=1.4, animated=True)
            (self._dots[label],) = axes.plot([], [], marker, color=colour, markersize=11, markeredgecolor="black", animated=True)
            self._names[label] = _lettering(axes, "black")
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
            _write(self._names[label], _outline(label, 10.5, "bold", 0), (left + 32 * DPI / 96, level - down))
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
    heading, top = _title_lines(title)
    chart = Curves(x_label, y_label, tuple(record.curves), top + 8)
    with paper():
        figure = new_figure(chart.height)
        _title(figure, heading)
        chart.setup(figure)
        chart.rescale(chart.limit(record))
        for artist in chart.draw(record):
            artist.set_animated(False)
    return Described(figure, _say(title, chart.words(record)))
