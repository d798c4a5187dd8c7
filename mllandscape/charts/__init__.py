"""Records → figures that can say their numbers.

Every chart is a pure function of what it is given: it computes no physics and runs nothing. Its answer is a ``Described``
figure, whose text is a sentence with the figure's numbers. Figures are white and opaque in every theme, at most 860 px
wide at twice that resolution, with text of 10 points or more. No pyplot, no global state, nothing of the user's matplotlibrc.
"""

from mllandscape.charts.curves import Curves, CurvesRecord, curves, lines
from mllandscape.charts.durations import durations
from mllandscape.charts.figure import (
    BLACK,
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
    described_html,
    encode,
    image_html,
    new_figure,
    palette,
    paper,
)
from mllandscape.charts.memory import METHODS, TERMS, CapacityBars, CapacityRecord, Rung, bytes_by_term, ladder, side_by_side, timeline
from mllandscape.charts.schedule import KINDS, LANES, Gantt, GanttRecord, gantt
from mllandscape.charts.table import Table

__all__ = [
    "BLACK",
    "BLUE",
    "CapacityBars",
    "CapacityRecord",
    "Curves",
    "CurvesRecord",
    "DPI",
    "Described",
    "GREEN",
    "GREY",
    "Gantt",
    "GanttRecord",
    "KINDS",
    "LANES",
    "METHODS",
    "ORANGE",
    "PURPLE",
    "Rung",
    "SKY",
    "TERMS",
    "Table",
    "VERMILLION",
    "WIDTH",
    "YELLOW",
    "bytes_by_term",
    "curves",
    "described_html",
    "durations",
    "encode",
    "gantt",
    "image_html",
    "ladder",
    "lines",
    "new_figure",
    "palette",
    "paper",
    "side_by_side",
    "timeline",
]
