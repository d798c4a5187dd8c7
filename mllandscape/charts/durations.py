"""Parts of a time, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from mllandscape import BadInput, units
from mllandscape.charts.figure import LINE_STYLES, Described, add_axes, new_figure, paper, row_labels, sentence, title_lines, write_title


def durations(rows: Sequence[tuple[str, Mapping[str, float]]], title: str = "") -> Described:
    """Seconds of the same thing in several ways, a row each on one logarithmic axis: ``(label, {"eager": seconds, "compiled": seconds, …})``.

    The first two ways of a row are dots, joined by a line; what follows are floors, upright strokes.
    """
    from matplotlib.ticker import LogLocator

    names = list(dict.fromkeys(name for _, times in rows for name in times))
    seconds = [value for _, times in rows for value in times.values()]
    if not seconds or min(seconds) <= 0 or len(names) > len(LINE_STYLES):
        raise BadInput(f"{len(names)} ways: 1 to {len(LINE_STYLES)} are possible, each of more than 0 seconds.")
    labels, left = row_labels([label for label, _ in rows])
    heading, top = title_lines(title)
    texts = [[f"{name} {units.seconds(value)}" for name, value in times.items()] for _, times in rows]
    with paper():
        figure = new_figure(top + 40 * len(rows) + 52 + 26)
        write_title(figure, heading)
        axes = add_axes(figure, left, 24, top, 52 + 26)
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
                colour, _, marker = LINE_STYLES[names.index(name)]
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
    return Described(figure, sentence(title, [f"{label}: {', '.join(line)}." for (label, _), line in zip(rows, texts, strict=True)]))
