"""Steps of two resolvers over how tight the requirements of an index are, with the region where nothing fits together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllandscape import BadInput
from mllandscape.charts.figure import DPI, LINE_STYLES, add_axes, lettering, set_text, text_outline, text_width

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EffortRecord:
    """``steps`` of each resolver at each of ``shares`` (0 to 1, rising), whether the index can be solved there, and which share is looked at.

    A resolver that was stopped has ``most`` steps.
    """

    shares: Sequence[float]
    steps: Mapping[str, Sequence[int]]
    solvable: Sequence[bool]
    at: int
    most: int
    verdict: str
    lines: Sequence[str] = ()


class Effort:
    """The live chart of a panel: a curve a resolver on a logarithmic axis, the impossible region hatched. See Panel for the four methods."""

    height = 400.0

    def __init__(self, labels: Sequence[str], most: int):
        self.labels, self.most = tuple(labels), most

    def setup(self, figure: "Figure") -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        self._axes = axes = add_axes(figure, 84, max(text_width(label, weight="bold") for label in self.labels) + 30, 34, 54)
        axes.set(xlabel="tightness: share of the versions that a requirement excludes", ylabel="steps", yscale="log", xlim=(0, 1), ylim=(1, 1.6 * self.most))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.minorticks_off()
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.axhline(self.most, color="black", linewidth=1.4, linestyle=(0, (4, 2)))
        axes.annotate(f"stopped at {self.most:,}", (0, self.most), (5, -4), textcoords="offset points", va="top")
        self._region = PathPatch(Path([(0, 0)]), facecolor="#F3E3DC80", edgecolor="#B98A76", hatch="//", linewidth=0, animated=True)
        axes.add_patch(self._region)
        (self._here,) = axes.plot([], [], "-", color="black", linewidth=1.4, animated=True)
        self._curves, self._names = {}, {}
        for label, (colour, dash, marker) in zip(self.labels, LINE_STYLES, strict=False):
            (self._curves[label],) = axes.plot([], [], dash, color=colour, linewidth=2.4, marker=marker, markersize=7, markeredgecolor="black", animated=True)
            self._names[label] = lettering(axes, "black")
        self._heads = {name: lettering(axes, "black") for name in ("solvable", "impossible")}

    def limit(self, record: EffortRecord) -> int:
        if set(record.steps) != set(self.labels) or record.most != self.most:
            raise BadInput(f"steps of {', '.join(record.steps)} up to {record.most}: this chart shows {', '.join(self.labels)} up to {self.most}.")
        return self.most

    def rescale(self, limit: int) -> None:
        """The axes are always the same."""

    def draw(self, record: EffortRecord) -> list["Artist"]:
        from matplotlib.path import Path

        edges = _edges(record.shares)
        corners, codes = [], []
        for left, right, solvable in zip(edges, edges[1:], record.solvable, strict=False):
            if not solvable:
                corners += [(left, 1), (right, 1), (right, 1.6 * self.most), (left, 1.6 * self.most), (left, 1)]
                codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
        self._region.set_path(Path(corners, codes) if corners else Path([(0, 0)]))
        self._here.set_data([record.shares[record.at]] * 2, [1, 1.6 * self.most])
        heads = []
        for name, patch in self._heads.items():
            middle = [(left + right) / 2 for left, right, solvable in zip(edges, edges[1:], record.solvable, strict=False) if solvable == (name == "solvable")]
            if middle:
                x = self._axes.transData.transform((sum(middle) / len(middle), 1))[0]
                set_text(patch, text_outline(name, 10.5, "bold"), (x, self._axes.bbox.y1 + 10 * DPI / 96))
                heads.append(patch)
        levels: list[float] = []
        for label in sorted(self.labels, key=lambda label: record.steps[label][-1]):
            self._curves[label].set_data(record.shares, record.steps[label])
            x, y = self._axes.transData.transform((1, record.steps[label][-1]))
            levels.append(max(y, levels[-1] + 20 * DPI / 96) if levels else y)
            set_text(self._names[label], text_outline(label, 10.5, "bold", 0), (x + 8 * DPI / 96, levels[-1]))
        return [self._region, self._here, *self._curves.values(), *heads, *self._names.values()]

    def words(self, record: EffortRecord) -> tuple[str, ...]:
        flips = [
            f"{a:.0%} and {b:.0%}"
            for a, b, one, other in zip(record.shares, record.shares[1:], record.solvable, record.solvable[1:], strict=False)
            if one != other
        ]
        line = f"The answer flips between {', '.join(flips)}." if flips else f"{'Solvable' if record.solvable[0] else 'Impossible'} at every tightness."
        return (record.verdict, *record.lines, line)


def _edges(shares: Sequence[float]) -> list[float]:
    """Where the cell of one share ends and that of the next begins."""
    return [0.0, *((a + b) / 2 for a, b in zip(shares, shares[1:], strict=False)), 1.0]
