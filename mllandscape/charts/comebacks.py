"""What comes back of a run, by what was recorded of it: a row for each way to lose it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllandscape.charts.figure import (
    BLACK,
    BLUE,
    DPI,
    ORANGE,
    VERMILLION,
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
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Loss:
    """One way to lose a run. Accuracies are in percent: ``today`` and of what ``back`` comes, None where nothing does; ``same``: bit for bit."""

    way: str
    today: float
    back: float | None
    same: bool
    named: str
    told: str


@dataclass(frozen=True)
class ComebacksRecord:
    """Every loss, the place of the one that is chosen, the accuracy then and the range of other seeds (percent), and the answer in words."""

    losses: Sequence[Loss]
    chosen: int
    then: float
    seeds: tuple[float, float]
    verdict: str
    lines: Sequence[str] = ()


ROW, NAMED, TOLD = 34, 166, 232
"""CSS pixels: the height of a row, and the width of the columns of who is named and what comes back."""


class Comebacks:
    """The live chart of a panel: a row for each loss over one axis of accuracy. Made once, then moved: see Panel for the four methods."""

    def __init__(self, ways: Sequence[str], top: float = 10):
        self.ways = tuple(ways)
        self.height = top + 28 + ROW * len(ways) + 92
        self._top = top
        self._left = max(text_width(way) for way in ways) + 24

    def setup(self, figure: "Figure") -> None:
        """Axes, and for each row two marks and two texts."""
        from matplotlib.patches import Rectangle

        self._axes = axes = add_axes(figure, self._left, NAMED + TOLD + 14, self._top + 28, 92)
        axes.set_ylim(len(self.ways) - 0.5, -0.5)
        axes.set_yticks(range(len(self.ways)), self.ways)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        width = 1 + (NAMED + TOLD) / (figure.get_size_inches()[0] * 96 - self._left - NAMED - TOLD - 14)
        self._chosen = Rectangle((0, -0.5), width, 1, transform=axes.get_yaxis_transform(), fill=False, edgecolor=ORANGE, linewidth=2.4, clip_on=False)
        self._chosen.set_animated(True)
        axes.add_patch(self._chosen)
        self._band = axes.axvspan(0, 1, facecolor="#DDDDDD", zorder=0)
        (self._then,) = axes.plot([], [], color=BLACK, linewidth=1.8, linestyle=(0, (4, 2)), animated=True)
        style = {"linestyle": "none", "markeredgecolor": BLACK, "animated": True, "clip_on": False}
        (self._today,) = axes.plot([], [], marker="s", markersize=11, markerfacecolor="white", markeredgewidth=1.8, **style)
        (self._same,) = axes.plot([], [], marker="o", markersize=8, color=BLUE, **style)
        (self._other,) = axes.plot([], [], marker="X", markersize=9, color=VERMILLION, **style)
        self._texts = [(lettering(axes, BLACK), lettering(axes, BLACK)) for _ in self.ways]
        for text, shift in (("who is named", 14), ("what comes back", 14 + NAMED)):
            axes.annotate(text, (1, 1), (shift * 0.75, 8), xycoords="axes fraction", textcoords="offset points", weight="bold", annotation_clip=False)
        figure.legend(
            [self._today, self._same, self._other, self._then, self._band], ["today", "back, bit for bit", "another model", "then", "ten other seeds"],
            loc="lower left", ncols=5, frameon=False, bbox_to_anchor=(0.005, 0), columnspacing=1.6,
        )  # fmt: skip

    def limit(self, record: ComebacksRecord) -> tuple[float, float, float, float]:
        """The ends of the axis and of the seeds' band."""
        known = [record.then, *record.seeds, *(loss.today for loss in record.losses), *(loss.back for loss in record.losses if loss.back is not None)]
        return int(min(known)) - 1, int(max(known)) + 1, *record.seeds

    def rescale(self, limit: tuple[float, float, float, float]) -> None:
        low, high, *seeds = limit
        self._axes.set_xlim(low, high)
        self._band.set_x(seeds[0])
        self._band.set_width(seeds[1] - seeds[0])

    def draw(self, record: ComebacksRecord) -> list["Artist"]:
        """The line of then, the frame of the chosen row, the marks, the texts."""
        self._chosen.set_y(record.chosen - 0.5)
        self._then.set_data([record.then] * 2, [-0.5, len(self.ways) - 0.5])
        self._today.set_data([loss.today for loss in record.losses], range(len(record.losses)))
        for artist, same in ((self._same, True), (self._other, False)):
            places = [place for place, loss in enumerate(record.losses) if loss.back is not None and loss.same is same]
            artist.set_data([record.losses[place].back for place in places], places)
        edge = self._axes.bbox.x1
        for place, (loss, texts) in enumerate(zip(record.losses, self._texts, strict=True)):
            level = self._axes.transData.transform((0, place))[1]
            for patch, text, shift in zip(texts, (loss.named, loss.told), (14, 14 + NAMED), strict=True):
                set_text(patch, text_outline(text, 10, align=0), (edge + shift * DPI / 96, level))
        return [self._then, self._chosen, self._today, self._same, self._other, *(patch for texts in self._texts for patch in texts)]

    def words(self, record: ComebacksRecord) -> tuple[str, ...]:
        """The verdict, what stands beside it, and each row."""
        rows = [f"{loss.way}: {loss.today:.1f} % today; named: {loss.named}; comes back: {loss.told}." for loss in record.losses]
        return record.verdict, *record.lines, *rows


def comebacks(record: ComebacksRecord, title: str = "") -> Described:
    """The same chart as a figure."""
    heading, top = title_lines(title)
    chart = Comebacks([loss.way for loss in record.losses], top + 4)
    with paper():
        figure = new_figure(chart.height)
        write_title(figure, heading)
        chart.setup(figure)
        chart.rescale(chart.limit(record))
        for artist in chart.draw(record):
            artist.set_animated(False)
    return Described(figure, sentence(title, chart.words(record)))
