"""Which code runs where: a grid of marked cells, and the way through the rules above such a grid."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllandscape import BadInput
from mllandscape.charts.figure import (
    BLACK,
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
    from matplotlib.patches import PathPatch

OUTCOMES = {"runs": (GREEN, ""), "JITs": (SKY, "//"), "fails": (VERMILLION, "")}
GPU_CODE = {"cubin": (GREEN, ""), "PTX": (SKY, "//")}
"""Colour and hatch of each kind of cell. A cell that fails carries its error as text, so that colour alone says nothing."""

_ROW = 27


def _label_width(labels: Sequence[str]) -> float:
    return max(text_width(label) for label in labels) + 22


def _folded(columns: Sequence[str], room: float) -> tuple[list[str], float]:
    """Column names in two lines where one line is wider than ``room``, and the CSS pixels that this adds: broken at a space, or before an underscore."""
    folded = [name if text_width(name) <= room else re.sub(r" (?=\S+$)|(?=_)", "\n", name, count=1) for name in columns]
    return folded, 17 if any("\n" in name for name in folded) else 0


def _grid_axes(axes: "Axes", rows: Sequence[str], columns: Sequence[str], column_label: str) -> None:
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=column_label)
    axes.spines[["left", "bottom"]].set_visible(False)


def _patches(axes: "Axes", styles: Mapping[str, tuple[str, str]], animated: bool = False) -> dict[str, "PathPatch"]:
    """An artist for all cells of a kind."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    made = {}
    for name, (colour, hatch) in styles.items():
        made[name] = PathPatch(Path([(0, 0)]), facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.8, animated=animated)
        axes.add_artist(made[name])
    return made


def _boxes(places: Sequence[tuple[float, float]], width: float, height: float):
    """Boxes around these middles, as one shape."""
    from matplotlib.path import Path
    from numpy import array

    corners = array([(-width, -height), (width, -height), (width, height), (-width, height), (-width, -height)]) / 2
    return Path.make_compound_path_from_polys(array(places, dtype=float)[:, None, :] + corners)


def _check(rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[str, str]], styles: Mapping[str, tuple[str, str]]) -> None:
    if not rows or not columns:
        raise BadInput("nothing to draw: give one row and one column, or more.")
    for (row, column), (kind, _) in cells.items():
        if row not in rows or column not in columns or kind not in styles:
            raise BadInput(f"no place in the grid for {kind!r} at {row!r}, {column!r}: the kinds are {', '.join(styles)}.")


def grid(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[str, str]], title: str = "", column_label: str = "",
    styles: Mapping[str, tuple[str, str]] = OUTCOMES,
) -> Described:  # fmt: skip
    """Rows against columns; ``cells`` maps (row, column) to (kind, text), a kind being one of ``styles``: {kind: (colour, hatch)}. A pair left out stays empty.

    The sentence names the cells of every row by kind, with their texts where those are not the kind's own name.
    """
    _check(rows, columns, cells, styles)
    used = {kind: style for kind, style in styles.items() if any(kind == found for found, _ in cells.values())}
    heading, top = title_lines(title)
    count, legend = legend_size(used)
    left = _label_width(rows)
    names, more = _folded(columns, (WIDTH - left - 16) / len(columns) - 6)
    bottom = 50 + more + legend
    with paper():
        figure = new_figure(top + _ROW * len(rows) + bottom)
        write_title(figure, heading)
        axes = add_axes(figure, left, 16, top, bottom)
        _grid_axes(axes, rows, names, column_label)
        for kind, patch in _patches(axes, used).items():
            patch.set_path(_boxes([(columns.index(c), rows.index(r)) for (r, c), (found, _) in cells.items() if found == kind], 0.92, 0.86))
        for (row, column), (kind, text) in cells.items():
            axes.text(columns.index(column), rows.index(row), text, ha="center", va="center", size=9.5, bbox=_halo(used[kind][1]), clip_on=False)
        add_legend(figure, used, count)
    return Described(figure, sentence(title, [_row_words(row, columns, cells) for row in rows]))


def _halo(hatch: str) -> dict | None:
    """White behind a text that stands on a hatch."""
    return {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8} if hatch else None


def _row_words(row: str, columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    by_kind: dict[str, list[str]] = {}
    for column in columns:
        if (row, column) in cells:
            kind, text = cells[row, column]
            by_kind.setdefault(kind, []).append(column if text in ("", kind) else f"{column} ({text})")
    parts = [f"{kind} {', '.join(named)}" for kind, named in by_kind.items()]
    return f"{row}: {'; '.join(parts) or 'none'}."


@dataclass(frozen=True)
class PathRecord:
    """What RulePath draws: each rule with whether it was passed (None: not reached), the grid's cells, the one that is chosen, and the answer in words."""

    rules: Mapping[str, bool | None]
    cells: Mapping[tuple[str, str], tuple[str, str]]
    chosen: tuple[str, str]
    verdict: str
    lines: Sequence[str] = ()


class RulePath:
    """The live chart of a panel: the rules as a row of boxes, and a grid of the neighbours with the chosen one framed and lines where the answer flips.

    Made once, then moved: see Panel for the four methods.
    """

    def __init__(self, rules: Sequence[str], rows: Sequence[str], columns: Sequence[str], column_label: str):
        self.rules, self.rows, self.columns = tuple(rules), tuple(rows), tuple(columns)
        self._column_label = column_label
        self._count, self._legend = legend_size(OUTCOMES)
        self._left = _label_width(rows)
        self.height = 92 + _ROW * len(self.rows) + 50 + self._legend

    def setup(self, figure: "Figure") -> None:
        """The rules above, the grid below. What a move changes is animated: boxes and marks of the rules, cells, their texts, the frame, the lines."""
        from matplotlib.patches import Rectangle
        from matplotlib.patheffects import withStroke

        self._way = way = add_axes(figure, 10, 10, 8, self.height - 84)
        way.set(xlim=(-0.5, len(self.rules) - 0.5), ylim=(0, 1))
        way.axis("off")
        for place, name in enumerate(self.rules):
            way.text(place, 0.97, textwrap.fill(name, 13), ha="center", va="top", linespacing=1.15)
        styles = {"passed": (GREEN, ""), "goes on": (ORANGE, ""), "failed": (VERMILLION, ""), "not reached": ("#FFFFFF", "")}
        self._steps = _patches(way, styles, animated=True)
        self._marks = lettering(way, BLACK)
        self._grid = axes = add_axes(figure, self._left, 16, 92, 50 + self._legend)
        _grid_axes(axes, self.rows, self.columns, self._column_label)
        self._kinds = _patches(axes, OUTCOMES, animated=True)
        self._texts = lettering(axes, BLACK)
        (self._flips,) = axes.plot([], [], color="black", linewidth=3.2, solid_capstyle="butt", animated=True)
        self._frame = Rectangle((0, 0), 0.9, 0.84, facecolor="none", edgecolor="black", linewidth=3.4, animated=True, clip_on=False)
        self._frame.set_path_effects([withStroke(linewidth=7, foreground="white")])
        axes.add_artist(self._frame)
        add_legend(figure, OUTCOMES, self._count)

    def limit(self, record: PathRecord) -> str:
        """Nothing in the background changes."""
        return "fixed"

    def rescale(self, limit: str) -> None:
        """The axes are set once, in ``setup``."""

    def draw(self, record: PathRecord) -> list["Artist"]:
        """Rules, cells, the lines between different answers, the frame, the texts."""
        _check(self.rows, self.columns, record.cells, OUTCOMES)
        if unknown := [name for name in record.rules if name not in self.rules]:
            raise BadInput(f"no rule {', '.join(unknown)}: {', '.join(self.rules)} are possible.")
        return [*self._draw_rules(record), *self._draw_cells(record)]

    def _draw_rules(self, record: PathRecord) -> list["Artist"]:
        last = max((place for place, name in enumerate(self.rules) if record.rules.get(name) is not None), default=-1)
        kinds: dict[str, list[tuple[float, float]]] = {}
        marks = []
        for place, name in enumerate(self.rules):
            passed = record.rules.get(name)
            kind = "not reached" if passed is None else "passed" if passed else "failed" if place == last else "goes on"
            kinds.setdefault(kind, []).append((place, 0.22))
            marks.append(("–" if passed is None else "✓" if passed else "✗", self._way.transData.transform((place, 0.22))))
        for kind, places in kinds.items():
            self._steps[kind].set_path(_boxes(places, 0.86, 0.36))
        _set_texts(self._marks, marks, 13, "bold")
        return [*(self._steps[kind] for kind in kinds), self._marks]

    def _draw_cells(self, record: PathRecord) -> list["Artist"]:
        kinds: dict[str, list[tuple[float, float]]] = {}
        texts = []
        for (row, column), (kind, text) in record.cells.items():
            at = self.columns.index(column), self.rows.index(row)
            kinds.setdefault(kind, []).append(at)
            if text != kind:
                texts.append((text, self._grid.transData.transform(at)))
        for kind, places in kinds.items():
            self._kinds[kind].set_path(_boxes(places, 0.92, 0.86))
        self._flips.set_data(*self._boundary(record))
        row, column = record.chosen
        self._frame.set_xy((self.columns.index(column) - 0.45, self.rows.index(row) - 0.42))
        _set_texts(self._texts, texts, 9.5)
        return [*(self._kinds[kind] for kind in kinds), self._flips, self._texts, self._frame]

    def _boundary(self, record: PathRecord) -> tuple[list[float], list[float]]:
        """Edges between two cells of which one works and the other fails, as one broken line."""
        xs, ys = [], []
        works = {(self.columns.index(column), self.rows.index(row)): kind != "fails" for (row, column), (kind, _) in record.cells.items()}
        for (x, y), here in works.items():
            for dx, dy in ((1, 0), (0, 1)):
                if works.get((x + dx, y + dy), here) != here:
                    middle = x + dx / 2, y + dy / 2
                    xs += [middle[0] - dy / 2, middle[0] + dy / 2, float("nan")]
                    ys += [middle[1] - dx / 2, middle[1] + dx / 2, float("nan")]
        return xs, ys

    def words(self, record: PathRecord) -> tuple[str, ...]:
        """The verdict, what stands beside it, and how many of the neighbours work."""
        counted = {kind: sum(found == kind for found, _ in record.cells.values()) for kind in OUTCOMES}
        neighbours = ", ".join(f"{count} {_PLURAL[kind]}" for kind, count in counted.items())
        return (record.verdict, *record.lines, f"Of the {len(record.cells)} neighbours {neighbours}.")


_PLURAL = {"runs": "run", "JITs": "are compiled at first use", "fails": "fail"}


def _set_texts(patch: "PathPatch", texts: Sequence[tuple[str, tuple[float, float]]], size: float, weight: str = "normal") -> None:
    """Several short texts, each around its place in dots, as one artist."""
    from matplotlib.path import Path
    from numpy import concatenate

    shapes = [(text_outline(text, size, weight), place) for text, place in texts]
    if not shapes:
        set_text(patch, Path([(0, 0)]), (0, 0))
        return
    vertices = concatenate([shape.vertices + (place[0] * 72 / DPI, place[1] * 72 / DPI) for shape, place in shapes])
    set_text(patch, Path(vertices, concatenate([shape.codes for shape, _ in shapes])), (0, 0))
