"""Records → figures that can say their numbers.

Every chart is a pure function of what it is given: it computes no physics and runs nothing. Its answer is a ``Described``
figure, whose text is a sentence with the figure's numbers. Figures are white and opaque in every theme, at most 860 px
wide at twice that resolution, with text of 10 points or more. No pyplot, no global state, nothing of the user's matplotlibrc.
"""

from mllandscape.charts.accuracy import Drop, DropRecord, alarms, points
from mllandscape.charts.classroom import log_errors, right_shares
from mllandscape.charts.comebacks import Comebacks, ComebacksRecord, Loss, comebacks
from mllandscape.charts.compatibility import GPU_CODE, OUTCOMES, PathRecord, RulePath, grid
from mllandscape.charts.curves import Curves, CurvesRecord, curves, lines
from mllandscape.charts.durations import durations
from mllandscape.charts.effort import Effort, EffortRecord
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
from mllandscape.charts.installs import Machines, MachinesRecord, Noted, Transcript, bisection, last_line
from mllandscape.charts.memory import METHODS, TERMS, CapacityBars, CapacityRecord, Rung, bytes_by_term, ladder, side_by_side, timeline
from mllandscape.charts.parallel_coordinates import Axis, parallel_coordinates
from mllandscape.charts.resolution import ResolutionRecord, ResolutionSteps, resolution
from mllandscape.charts.schedule import KINDS, LANES, Gantt, GanttRecord, gantt
from mllandscape.charts.table import Table
from mllandscape.charts.trade_offs import TradeOffs, TradeOffsRecord, Way, shares

__all__ = [
    "Axis",
    "BLACK",
    "BLUE",
    "CapacityBars",
    "CapacityRecord",
    "Comebacks",
    "ComebacksRecord",
    "Curves",
    "CurvesRecord",
    "DPI",
    "Described",
    "Drop",
    "DropRecord",
    "Effort",
    "EffortRecord",
    "GREEN",
    "GPU_CODE",
    "GREY",
    "Gantt",
    "GanttRecord",
    "KINDS",
    "LANES",
    "Loss",
    "METHODS",
    "Machines",
    "MachinesRecord",
    "Noted",
    "ORANGE",
    "OUTCOMES",
    "PURPLE",
    "PathRecord",
    "RulePath",
    "ResolutionRecord",
    "ResolutionSteps",
    "Rung",
    "SKY",
    "TERMS",
    "Table",
    "TradeOffs",
    "TradeOffsRecord",
    "Transcript",
    "VERMILLION",
    "WIDTH",
    "Way",
    "YELLOW",
    "bisection",
    "alarms",
    "bytes_by_term",
    "comebacks",
    "curves",
    "described_html",
    "durations",
    "encode",
    "gantt",
    "grid",
    "image_html",
    "ladder",
    "last_line",
    "lines",
    "log_errors",
    "new_figure",
    "palette",
    "paper",
    "parallel_coordinates",
    "points",
    "resolution",
    "right_shares",
    "shares",
    "side_by_side",
    "timeline",
]
