"""What every figure shares: its size, colours and lettering, and how it says its numbers."""

import html
import io
import math
import textwrap
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput

if TYPE_CHECKING:
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

LINE_STYLES = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, "-.", "^"), (BLACK, ":", "D"), (PURPLE, "-", "v"), (ORANGE, "--", "P"), (SKY, "-.", "X"))
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


def add_axes(figure: "Figure", left: float, right: float, top: float, bottom: float) -> "Axes":
    """Axes with these margins, in CSS pixels."""
    width, height = figure.get_size_inches() * 96
    return figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def write_title(figure: "Figure", lines: list[str]) -> None:
    width, height = figure.get_size_inches() * 96
    figure.text(10 / width, 1 - 8 / height, "\n".join(lines), size=12.5, weight="bold", va="top", ha="left", linespacing=1.25)


def title_lines(title: str) -> tuple[list[str], int]:
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
def text_outline(text: str, size: float = 10.5, weight: str = "normal", align: float = 0.5) -> "Path":
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


def text_width(text: str, size: float = 10.5, weight: str = "normal") -> float:
    """How wide a text is drawn, in CSS pixels: its widest line."""
    return max(sum(_glyph(character, weight)[2] for character in row) for row in text.split("\n")) * size * 96 / 72


def row_labels(labels: Sequence[str]) -> tuple[list[str], float]:
    """Row labels broken into lines, and the left margin that they need in CSS pixels."""
    if not labels:
        raise BadInput("nothing to draw: give one row or more.")
    wrapped = ["\n".join(textwrap.wrap(label, 32, break_long_words=False)) for label in labels]
    return wrapped, max(text_width(label) for label in wrapped) + 22


def add_legend(figure: "Figure", styles: Mapping[str, tuple[str, str]], columns: int) -> None:
    """The terms' colours and hatches in stacking order, along the bottom, read row by row."""
    from matplotlib.patches import Patch

    names = list(styles)
    by_column = [name for column in range(columns) for name in names[column::columns]]
    figure.legend(
        [Patch(facecolor=styles[name][0], hatch=styles[name][1], edgecolor="black", linewidth=0.8) for name in by_column], by_column,
        loc="lower left", ncols=columns, frameon=False, bbox_to_anchor=(0.005, 0), borderaxespad=0.2,
        handlelength=1.6, handleheight=1.0, columnspacing=1.6, labelspacing=0.45,
    )  # fmt: skip


def legend_size(styles: Mapping[str, tuple[str, str]]) -> tuple[int, int]:
    """Columns, and CSS pixels of height."""
    columns = max(1, min(len(styles), 4))
    return columns, 21 * math.ceil(len(styles) / columns) + 8


def sentence(title: str, lines: Sequence[str], *more: Any) -> str:
    return "\n".join(line for line in (title and title.rstrip(".") + ".", *lines, *more) if line)


def lettering(axes: "Axes", colour: str, halo: str = "none") -> "PathPatch":
    """An artist for a text that changes while it is drawn often; a halo keeps it readable over a hatch."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke

    patch = PathPatch(Path([(0, 0)]), facecolor=colour, linewidth=0, clip_on=False, animated=True, snap=False)
    if halo != "none":
        patch.set_path_effects([withStroke(linewidth=4, foreground=halo)])
    axes.add_artist(patch)
    return patch


def set_text(patch: "PathPatch", outline: "Path", place: tuple[float, float]) -> None:
    """Put an outline at this place, in dots of the canvas."""
    from matplotlib.transforms import Affine2D

    patch.set_path(outline)
    patch.set_transform(Affine2D().scale(DPI / 72).translate(*place))
