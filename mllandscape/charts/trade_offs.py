"""Ways to run one job: memory against step time, the number of settings changed as marker, and those that no other way beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllandscape import BadInput, units
from mllandscape.charts import figure as base
from mllandscape.charts.figure import DPI, Described, add_axes, lettering, set_text, text_outline

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Way:
    """One way: its name, bytes of a rank at the peak, seconds of a step, settings that differ from the default, and whether nothing beats it."""

    name: str
    memory: int
    seconds: float
    settings: int
    pareto: bool


@dataclass(frozen=True)
class TradeOffsRecord:
    """``chosen`` is the place of the way that is looked at. ``limits`` are the axes: lowest and highest GiB, lowest and highest seconds."""

    ways: Sequence[Way]
    chosen: int
    capacity: int
    limits: tuple[float, float, float, float]
    verdict: str
    lines: Sequence[str] = ()


MARKS = (("o", base.BLUE), ("s", base.SKY), ("^", base.GREEN), ("D", base.ORANGE), ("P", base.VERMILLION))
"""For 0, 1, 2, … settings changed; the last one stands for more."""

DIGITS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
"""Ticks of a decade, from few to many: the fewest that give an axis three."""


class TradeOffs:
    """The live chart of a panel. Filled markers are the Pareto set, small grey ones are beaten; the ring is the way chosen. See Panel for the four methods."""

    height = 470.0

    def setup(self, figure: "Figure") -> None:
        self._axes = axes = add_axes(figure, 80, 212, 18, 54)
        axes.set(xlabel="memory of one rank at the peak, GiB", ylabel="step, seconds", xscale="log", yscale="log")
        axes.grid(color="#DDDDDD", linewidth=0.8, which="both")
        (self._beaten,) = axes.plot([], [], "o", color="#C8C8C8", markeredgecolor="#777777", markersize=5.5, animated=True)
        self._kept = [axes.plot([], [], mark, color=colour, markeredgecolor="black", markersize=10, animated=True)[0] for mark, colour in MARKS]
        (self._ring,) = axes.plot([], [], "o", markerfacecolor="none", markeredgecolor="black", markeredgewidth=2.2, markersize=19, animated=True)
        (self._card,) = axes.plot([], [], "--", color="black", linewidth=1.6, animated=True)
        self._name, self._end = lettering(axes, "black", "white"), lettering(axes, "black", "white")
        names = [*(f"{count}{' or more' if count == len(MARKS) - 1 else ''}" for count in range(len(MARKS))), "beaten by another", "the way chosen"]
        drawn = [axes.plot([], [], mark, color=colour, markeredgecolor="black", markersize=9)[0] for mark, colour in MARKS]
        drawn += [axes.plot([], [], "o", color="#C8C8C8", markeredgecolor="#777777", markersize=5.5)[0]]
        drawn += [axes.plot([], [], "o", markerfacecolor="none", markeredgecolor="black", markeredgewidth=2.2, markersize=13)[0]]
        axes.legend(drawn, names, title="settings changed", loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, alignment="left")

    def limit(self, record: TradeOffsRecord) -> tuple[float, float, float, float]:
        if not record.ways or record.chosen not in range(len(record.ways)):
            raise BadInput(f"{len(record.ways)} ways, number {record.chosen} chosen: one way or more is needed, and the place of one of them.")
        return record.limits

    def rescale(self, limit: tuple[float, float, float, float]) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        low, high, fast, slow = limit
        self._axes.set(xlim=(low, high), ylim=(fast, slow))
        for axis, (bottom, top) in ((self._axes.xaxis, (low, high)), (self._axes.yaxis, (fast, slow))):
            for digits in DIGITS:
                ticks = [digit * 10.0**power for power in range(-4, 6) for digit in digits if bottom <= digit * 10.0**power <= top]
                if len(ticks) >= 3:
                    break
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    def draw(self, record: TradeOffsRecord) -> list["Artist"]:
        low, high, fast, slow = record.limits
        beaten = [way for way in record.ways if not way.pareto]
        self._beaten.set_data([way.memory / units.GIB for way in beaten], [way.seconds for way in beaten])
        for count, points in enumerate(self._kept):
            here = [way for way in record.ways if way.pareto and min(way.settings, len(MARKS) - 1) == count]
            points.set_data([way.memory / units.GIB for way in here], [way.seconds for way in here])
        chosen = record.ways[record.chosen]
        self._ring.set_data([chosen.memory / units.GIB], [chosen.seconds])
        edge = record.capacity / units.GIB
        self._card.set_data([edge, edge], [fast, slow])
        x, y = self._axes.transData.transform((chosen.memory / units.GIB, chosen.seconds))
        left = x < self._axes.bbox.x0 + self._axes.bbox.width / 2
        outline = text_outline(chosen.name, 10.5, "bold", 0 if left else 1)
        above = y < self._axes.bbox.y0 + self._axes.bbox.height * 0.85
        set_text(self._name, outline, (x + (8 if left else -8) * DPI / 96, y + (24 if above else -24) * DPI / 96))
        artists = [self._beaten, *self._kept, self._ring, self._name]
        if low < edge < high:
            at = self._axes.transData.transform((edge, fast))
            set_text(self._end, text_outline("the card", 10.5, "bold", 1), (at[0] - 6 * DPI / 96, at[1] + 14 * DPI / 96))
            artists += [self._card, self._end]
        return artists

    def words(self, record: TradeOffsRecord) -> tuple[str, ...]:
        best = [way for way in record.ways if way.pareto]
        told = "; ".join(f"{way.name} {units.gib(way.memory)}, {units.seconds(way.seconds)}, {way.settings} changed" for way in best)
        return (record.verdict, *record.lines, f"Pareto set, {len(best)} of {len(record.ways)} ways: {told}.")


def shares(rows: Mapping[str, float], *, title: str, x_label: str, note: Mapping[str, str] | None = None) -> Described:
    """A bar a row, from 0 to 1, with its share and a note at its end. Raises BadInput for a share outside."""
    labels, left = base.row_labels(list(rows))
    if not all(0 <= share <= 1 for share in rows.values()):
        raise BadInput("each row needs a share from 0 to 1.")
    ends = [f"{share:.0%}{f', {note[name]}' if note and name in note else ''}" for name, share in rows.items()]
    lines, above = base.title_lines(title)
    with base.paper():
        drawn = base.new_figure(above + 34 * len(rows) + 58)
        axes = base.add_axes(drawn, left, 30 + max(base.text_width(end) for end in ends), above + 4, 50)
        base.write_title(drawn, lines)
        axes.barh(range(len(rows)), list(rows.values()), height=0.6, facecolor=base.BLUE, edgecolor="black", linewidth=0.8)
        for place, (share, end) in enumerate(zip(rows.values(), ends, strict=True)):
            axes.annotate(end, (share, place), (6, 0), textcoords="offset points", va="center", annotation_clip=False)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel=x_label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(left=False)
    return Described(drawn, base.sentence(title, [f"{name}: {end}." for name, end in zip(rows, ends, strict=True)]))
