"""Tasks on the lanes of a GPU, in time."""

import math
import textwrap
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
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

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
    _, left = row_labels([LANES[stream] for named in lanes.values() for stream in named])
    ends = {label: f"step {units.seconds(end)}\ncompute waits {_percent(share)}" for label, (end, _, share) in steps.items()}
    right = max(text_width(text, weight="bold") for text in ends.values()) + 16
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
    heading, top = title_lines(title)
    columns, legend = legend_size(styles)
    with paper():
        figure = new_figure(top + level + 50 + legend)
        write_title(figure, heading)
        axes = add_axes(figure, left, right, top, 50 + legend)
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
        add_legend(figure, styles, columns)
    said = [f"{label}: {_step_words(steps[label])}." for label in timelines]
    return Described(figure, sentence(title, said))


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
        self._columns, self._legend = legend_size(self._styles)
        _, self._left = row_labels([LANES[stream] for stream in streams])
        self._right = 24
        self.height = 38 + 46 * len(self.streams) + 52 + self._legend

    def setup(self, figure: "Figure") -> None:
        """Axes and legend, and the animated artists: one for the boxes of each kind, the line at the end of the step, the line of numbers."""
        self._axes = axes = add_axes(figure, self._left, self._right, 38, 52 + self._legend)
        axes.set_yticks(range(len(self.streams)), [LANES[stream] for stream in self.streams])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(self.streams) - 0.5, -0.5)
        self._room = WIDTH - self._left - self._right
        add_legend(figure, self._styles, self._columns)
        self._tasks = _task_patches(axes, self._styles, animated=True)
        self._line = axes.axvline(0, color="black", linewidth=2, linestyle=(0, (4, 2)), animated=True)
        self._numbers = lettering(axes, "black")

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
        set_text(self._numbers, text_outline(self._headline(record), 11.5, "bold", 0), (10 * DPI / 96, (self.height - 20) * DPI / 96))
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
