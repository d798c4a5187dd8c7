"""The steps of a resolver: what is pinned when, and what is taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput
from mllandscape.charts.figure import (
    DPI,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    Described,
    add_axes,
    new_figure,
    paper,
    sentence,
    text_outline,
    text_width,
    title_lines,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

RESOLVERS = {"resolvelib": "pip's resolver (resolvelib)", "pubgrub": "Poetry's resolver (PubGrub)"}
WORDS = {"pin": "pin", "reject": "reject", "conflict": "conflict", "learn": "learn", "backtrack": "go back", "done": "done", "fail": "failed"}
MARKS = {"reject": ("white", "✗"), "conflict": (VERMILLION, "✗"), "learn": (PURPLE, "◆"), "backtrack": (ORANGE, "↩")}
"""Colour and sign of what is marked in the columns of the packages that a step speaks of."""

SHOWN = 60
"""Steps in a still figure; of a longer run, the first 40 and the last 19."""
MOST_PACKAGES = 14
"""In a still figure; side by side it is 9."""

_ROW, _TOP, _LABEL, _NOTE = 19, 34, 104, 300
"""CSS pixels: a step's height, the line with the resolver above all, and the widths of a step's number and word and of its note."""


def _columns(resolution: Any, most: int = MOST_PACKAGES) -> list[str]:
    """The packages that some step touches, in the order of the index."""
    touched = {name for step in resolution.steps for name in (*step.pins, *step.involved)}
    if not touched:
        raise BadInput("a resolution without steps cannot be drawn: give one of resolve_steps(packages, requirements, resolver).")
    if len(touched) > most:
        raise BadInput(f"steps with {len(touched)} packages are too wide to draw: at most {most} are possible here.")
    return [name for name in resolution.packages if name in touched] + sorted(touched.difference(resolution.packages))


def _note(step: Any, unmet: Sequence[str]) -> str:
    """What a step says beyond its word and its marks."""
    if step.kind == "done" and unmet:
        return f"a broken set: {unmet[0]}"
    return step.text.partition(": ")[2] if step.kind in MARKS else "" if step.kind == "pin" else step.text


def _verdict(resolution: Any) -> str:
    if resolution.ended == "solved" and resolution.unmet:
        return f"ends with a broken set ({'; '.join(resolution.unmet)})"
    return {"solved": "solved", "impossible": "no solution", "too deep": "stopped undecided"}.get(resolution.ended, resolution.ended)


def _count(number: int, one: str) -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _counts(resolution: Any) -> str:
    counts = resolution.counts
    learned = f", {counts['learn']:,} learned" if resolution.resolver == "pubgrub" else ""
    names = [("pin", "pin"), ("reject", "rejected version"), ("conflict", "conflict"), ("backtrack", "backtrack")]
    return ", ".join(_count(counts[kind], name) for kind, name in names) + learned


def _said(resolution: Any) -> str:
    """One sentence on a whole run."""
    solution = ", ".join(f"{name} {version}" for name, version in sorted((resolution.solution or {}).items()))
    return f"{_verdict(resolution)} after {_count(len(resolution.steps), 'step')}: {_counts(resolution)}." + (f" It chose {solution}." if solution else "")


class _Grid:
    """The steps of one resolver: a row a step, a column a package, a bar for as long as a version is pinned."""

    def __init__(self, left: float, width: float, top: float, notes: bool):
        self.left, self.width, self.top, self.notes = left, width, top, notes

    def setup(self, axes: "Axes", animated: bool) -> "Axes":
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        self.axes = axes
        self.height = axes.figure.get_size_inches()[1] * 96
        nothing, edge = Path([(0, 0)]), {"edgecolor": "black", "linewidth": 0.8, "animated": animated}
        self.bars = axes.add_artist(PathPatch(nothing, facecolor=SKY, zorder=2, **edge))
        self.marks = {kind: axes.add_artist(PathPatch(nothing, facecolor=colour, zorder=3, **edge)) for kind, (colour, _) in MARKS.items()}
        self.marks["reject"].set_linestyle((0, (3, 2)))
        self.ink = axes.add_artist(PathPatch(nothing, facecolor="black", linewidth=0, snap=False, zorder=4, animated=animated))
        self.artists = [self.bars, *self.marks.values(), self.ink]
        return axes

    def place(self, columns: Sequence[str]) -> None:
        """Columns for these packages, as wide as their names where there is room."""
        self.names = list(columns)
        room = (self.width - _LABEL - (_NOTE if self.notes else 0)) / len(columns)
        self.column = min(max(46.0, max(text_width(name, 10, "bold") for name in columns) + 10), max(room, 30.0), 84.0)

    @property
    def upright(self) -> bool:
        """Whether a name is too wide for its column."""
        return any(text_width(name, 10, "bold") > self.column - 4 for name in self.names)

    def heads(self, most: float) -> list:
        """The packages' names above their columns, upright if need be and if ``most`` CSS pixels allow it, else cut."""
        upright = self.upright and most >= 40
        turn = {"rotation": 90 if upright else 0, "ha": "center", "va": "bottom", "size": 10, "weight": "bold"}
        at = [self.left + _LABEL + (place + 0.5) * self.column for place in range(len(self.names))]
        return [self.axes.text(x, self.top - 4, _cut(name, most - 6 if upright else self.column - 2), **turn) for x, name in zip(at, self.names, strict=True)]

    def draw(self, resolution: Any, rows: Sequence[int | None], count: str = "") -> None:
        """``rows`` are the places of the steps to show, None is a gap; ``count`` stands at the top right."""
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        ink: list[Path] = []

        def write(text: str, x: float, y: float, weight: str = "normal", align: float = 0.0) -> None:
            outline = text_outline(text, 10, weight, 0 if align == 1 else align)
            x -= text_width(text, 10, weight) if align == 1 else 0
            ink.append(type(outline)(outline.vertices + (x * 0.75, (self.height - y) * 0.75), outline.codes))

        if count:
            write(count, self.left + self.width, 18, align=1)
        for level, place in enumerate(rows):
            y = self.top + (level + 0.5) * _ROW
            if place is None:
                hidden = rows[level + 1] - rows[level - 1] - 1
                write(f"… {_count(hidden, 'step')} not shown", self.left, y)
                continue
            step = resolution.steps[place]
            write(f"{place + 1}", self.left + 30, y, align=1)
            write(WORDS[step.kind], self.left + 37, y, "normal" if step.kind in ("pin", "reject") else "bold")
            if self.notes and (note := _note(step, resolution.unmet)):
                x = self.left + _LABEL + len(self.names) * self.column + 10
                write(_cut(note, self.left + self.width - x, "normal"), x, y)
            where = () if step.kind not in MARKS else (step.package,) if step.kind == "reject" else step.involved
            colour, sign = MARKS.get(step.kind, ("", ""))
            for name in where:
                x = self.left + _LABEL + self.names.index(name) * self.column
                boxes.setdefault(step.kind, []).append((x + 3, self.column - 6, y, _ROW - 4))
                write(_cut(f"{step.version} {sign}" if step.kind == "reject" else sign, self.column), x + self.column / 2, y, "bold", 0.5)
        for place, name in enumerate(self.names):
            x, level = self.left + _LABEL + place * self.column, 0
            for version, run in groupby(rows, lambda row, name=name: None if row is None else resolution.steps[row].pins.get(name)):
                length = len(list(run))
                if version is not None:
                    boxes.setdefault("bar", []).append((x + 6, self.column - 12, self.top + (level + length / 2) * _ROW, length * _ROW - 2))
                    free = next((at for at in range(level, level + length) if not self._marked(resolution, rows[at], name)), None)
                    if free is not None:
                        write(_cut(version, self.column - 6), x + self.column / 2, self.top + (free + 0.5) * _ROW, align=0.5)
                level += length
        for kind, patch in {"bar": self.bars, **self.marks}.items():
            patch.set_path(_boxes(boxes.get(kind, [])))
        self._letter(ink)

    def _marked(self, resolution: Any, row: int, name: str) -> bool:
        step = resolution.steps[row]
        return step.kind in MARKS and name in ((step.package,) if step.kind == "reject" else step.involved)

    def _letter(self, ink: "list[Path]") -> None:
        from matplotlib.path import Path
        from matplotlib.transforms import Affine2D

        self.ink.set_path(Path.make_compound_path(*ink) if ink else Path([(0, 0)]))
        self.ink.set_transform(Affine2D().scale(DPI / 72))


def _cut(text: str, room: float, weight: str = "bold") -> str:
    """The beginning of a text that fits into this many CSS pixels."""
    if text_width(text, 10, weight) <= room:
        return text
    while text and text_width(f"{text}…", 10, weight) > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _boxes(places: Sequence[tuple[float, float, float, float]]) -> "Path":
    """Rectangles (left, width, middle, height) as one shape."""
    from matplotlib.path import Path

    if not places:
        return Path([(0, 0)])
    corners = []
    for left, width, middle, height in places:
        right, low, high = left + width, middle - height / 2, middle + height / 2
        corners += [(left, low), (right, low), (right, high), (left, high), (left, low)]
    return Path(corners, [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(places))


def _whole_page(figure: "Figure") -> "Axes":
    """Axes over the whole figure, in CSS pixels from the top left."""
    width, height = figure.get_size_inches() * 96
    axes = add_axes(figure, 0, 0, 0, 0)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return axes


def resolution(resolution: Any, at: int | None = None, title: str = "") -> Described:
    """The steps of one Resolution, from the top, up to number ``at``: a column for each package, a bar for as long as a version is pinned.

    Of more than ``SHOWN`` steps, the first 40 and the last 19 are drawn; the sentence counts all of them. Raises BadInput for more than
    ``MOST_PACKAGES`` packages.
    """
    columns, number = _columns(resolution), len(resolution.steps)
    if at is not None and (type(at) is not int or not 1 <= at <= number):
        raise BadInput(f"at={at!r} is not a step of this run: 1 to {number} are possible.")
    rows: list[int | None] = list(range(at or number))
    if len(rows) > SHOWN:
        rows = [*rows[:40], None, *rows[-(SHOWN - 41) :]]
    heading, top = title_lines(title)
    with paper():
        grid = _Grid(10, WIDTH - 20, top + _TOP, notes=True)
        grid.place(columns)
        names = min(90.0, max(text_width(name, 10, "bold") for name in columns) + 8) if grid.upright else 20
        grid.top += names
        figure = new_figure(grid.top + _ROW * len(rows) + 10)
        write_title(figure, heading)
        axes = grid.setup(_whole_page(figure), animated=False)
        axes.text(10, top + 14, name := RESOLVERS.get(resolution.resolver, resolution.resolver), size=10.5, weight="bold", va="center")
        grid.heads(names)
        grid.draw(resolution, rows)
    said = f"{name}: {_said(resolution)}"
    hidden = f"The first {at} of {_count(number, 'step')} are drawn." if at is not None and at < number else ""
    hidden = f"{_count(number - SHOWN + 1, 'step')} between are not drawn." if at is None and number > SHOWN else hidden
    return Described(figure, sentence(title, [said], hidden))


@dataclass(frozen=True)
class ResolutionRecord:
    """What ResolutionSteps draws: {label: Resolution}, one or two, how many of their steps are done by now, the answer in words."""

    resolutions: Mapping[str, Any]
    at: int
    verdict: str
    advice: str = ""


class ResolutionSteps:
    """The live chart of a panel: two resolvers side by side at the same step, the last ``rows`` steps of each.

    A resolver that has ended stays at its end. Made once, then moved: see Panel for the four methods.
    """

    def __init__(self, rows: int = 26, names: float = 20):
        """``names`` are the CSS pixels for the packages' names; from 40 on, long ones are set upright instead of cut."""
        self.rows, self._names = rows, names
        self.height = _TOP + names + rows * _ROW + 8

    def setup(self, figure: "Figure") -> None:
        """One page, and a grid for each side."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        self._axes = axes = _whole_page(figure)
        half = WIDTH / 2
        self._grids = [_Grid(left, half - 22, _TOP + self._names, notes=False) for left in (10, half + 12)]
        for grid in self._grids:
            grid.setup(axes, animated=True)
        axes.add_artist(PathPatch(Path([(half, 8), (half, self.height - 8)]), edgecolor=GREY, linewidth=1))
        self._heads: list = []

    def limit(self, record: ResolutionRecord) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The labels and columns of both sides. The background is drawn again when they change."""
        if not 1 <= len(record.resolutions) <= 2:
            raise BadInput(f"{len(record.resolutions)} resolutions: one or two are possible side by side.")
        return tuple((label, tuple(_columns(run, 9))) for label, run in record.resolutions.items())

    def rescale(self, limit: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
        for text in self._heads:
            text.remove()
        self._heads = []
        for grid, (label, columns) in zip(self._grids, limit, strict=False):
            grid.place(columns)
            self._heads += [self._axes.text(grid.left, 18, label, size=10.5, weight="bold", va="center"), *grid.heads(self._names)]

    def draw(self, record: ResolutionRecord) -> list["Artist"]:
        """The bars, marks and words of both sides."""
        drawn = []
        for grid, run in zip(self._grids, record.resolutions.values(), strict=False):
            done = self._done(record, run)
            conflicts = sum(step.kind == "conflict" for step in run.steps[:done])
            grid.draw(run, range(max(0, done - self.rows), done), f"step {done} of {len(run.steps)}, {_count(conflicts, 'conflict')}")
            drawn += grid.artists
        return drawn

    def _done(self, record: ResolutionRecord, run: Any) -> int:
        if type(record.at) is not int or record.at < 0:
            raise BadInput(f"at={record.at!r} is not a number of steps: 0 or more are possible.")
        return min(record.at, len(run.steps))

    def words(self, record: ResolutionRecord) -> tuple[str, ...]:
        """The verdict, the advice, and for each resolver what it does now and what it does in all."""
        lines = [record.verdict, *([record.advice] if record.advice else [])]
        for label, run in record.resolutions.items():
            done = self._done(record, run)
            now = run.steps[done - 1].text if done else "nothing is pinned yet"
            lines.append(f"{label}, step {done} of {len(run.steps)}: {now}. In all: {_said(run)}")
        return tuple(lines)
