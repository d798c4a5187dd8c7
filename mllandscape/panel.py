"""Controls → pure update of one live figure, with a static twin.

A panel is plain ipywidgets over one off-screen figure. A move asks ``update`` for a record, paints the few artists that
changed over the cached background, and sends one picture with its caption. The figure is never made anew.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from mllandscape import BadInput, charts

if TYPE_CHECKING:
    from ipywidgets import DOMWidget
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


class Chart(Protocol):
    """What a panel draws with, such as ``charts.CapacityBars``. All four see one figure of ``height`` CSS pixels."""

    height: float

    def setup(self, figure: "Figure") -> None:
        """Make the axes and every artist; those that a move changes are ``animated``."""

    def limit(self, record: Any) -> Any:
        """What the background depends on. While it stays equal, the background is kept."""

    def rescale(self, limit: Any) -> None:
        """Set axis limits, ticks and other parts of the background."""

    def draw(self, record: Any) -> Sequence["Artist"]:
        """The animated artists, moved to this record, in painting order."""

    def words(self, record: Any) -> Sequence[str]:
        """The record in lines: the verdict first, then the numbers. They are the caption and the ``alt``."""


class Panel:
    """Sliders and menus over ``update``, a pure function of their values to a record that ``chart`` draws.

    ``controls`` maps the argument names of ``update`` to ipywidgets controls; each needs a ``description`` and a
    ``tooltip`` (without one it has no accessible name), else BadInput. A BadInput raised by ``update`` is answered in the
    panel, in one line, over the dimmed last good figure; any other exception is a bug and is raised. ``record`` is the
    last good one, ``text`` what stands under the figure now, ``sentence`` the same with the title and the controls' values.
    """

    def __init__(self, title: str, controls: Mapping[str, "DOMWidget"], update: Callable[..., Any], chart: Chart):
        from ipywidgets import HTML, GridBox, Layout, VBox

        if not controls:
            raise BadInput("a panel without controls: give {name: ipywidgets control}, one or more.")
        for name, control in controls.items():
            if not control.has_trait("value"):
                raise BadInput(f"control {name!r} has no value: give a slider, a menu or a box, not a {type(control).__name__}.")
            if not getattr(control, "tooltip", None) or not getattr(control, "description", None):
                raise BadInput(f"control {name!r} lacks a description or a tooltip: give both, they are its visible and its accessible name.")
        self.title = title
        self.controls = dict(controls)
        self._update = update
        self._chart = chart
        self._limit: Any = None
        self._paused = False
        with charts.paper():
            self.figure = charts.new_figure(chart.height)
            chart.setup(self.figure)
        self._view = HTML(layout=Layout(max_width=f"{charts.WIDTH}px"))
        self.record = self._ask()
        self._show()
        for control in self.controls.values():
            control.style.description_width = "9.5em"
            control.layout.width = "auto"
            control.observe(self._moved, names="value")
        grid = GridBox(list(self.controls.values()), layout=Layout(grid_template_columns="repeat(auto-fit, minmax(340px, 1fr))", max_width=f"{charts.WIDTH}px"))
        self.widget = VBox([HTML(f'<strong style="font-size:1.2em">{html.escape(title)}</strong>'), grid, self._view])

    def set(self, **values: Any) -> str:
        """Move controls as a learner would, several at once, and draw once. Returns the text now under the figure.

        Raises BadInput for a control that does not exist or a value that it does not have.
        """
        from traitlets import TraitError

        unknown = values.keys() - self.controls.keys()
        if unknown:
            raise BadInput(f"no control {', '.join(sorted(unknown))}: {', '.join(self.controls)} are possible.")
        before = self._values()
        self._paused = True
        try:
            for name, value in values.items():
                with suppress(TraitError):
                    self.controls[name].value = value
                if self.controls[name].value != value:
                    raise BadInput(f"{name}={value!r}: {_possible(self.controls[name])} is possible.")
        except BadInput:
            for name in values:
                self.controls[name].value = before[name]
            raise
        finally:
            self._paused = False
        self._moved()
        return self.text

    def sweep(self) -> int:
        """Set each control in turn to its lowest, its present and its highest value (or to every option), draw each, and put it back.

        Returns how many figures were drawn. An exception of ``update`` is raised; a BadInput is answered and not counted.
        """
        drawn = 0
        for name, control in self.controls.items():
            present = control.value
            for value in _stops(control):
                self.set(**{name: value})
                drawn += self._complaint is None
            self.set(**{name: present})
        return drawn

    def _values(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def _ask(self) -> Any:
        return self._update(**self._values())

    def _moved(self, change: Any = None) -> None:
        if self._paused:
            return
        try:
            self.record = self._ask()
        except BadInput as error:
            self._complain(str(error))
        except Exception as error:
            # A learner who drags sees no traceback, so the panel says it too.
            self._complain(f"{type(error).__name__}: {error}")
            raise
        else:
            self._show()

    def _show(self) -> None:
        """Paint ``record`` and send the picture."""
        self._paint()
        self._png = charts.encode(self.figure, self._colours, level=1)
        lines = self._chart.words(self.record)
        self._complaint = None
        self.text = "\n".join(lines)
        head, *rest = (html.escape(line) for line in lines)
        self._send(1, "status", head, rest)

    def _complain(self, line: str) -> None:
        """Keep the last good figure, dimmed, under the one line that says what to change."""
        self._complaint = self.text = line
        self._send(0.35, "alert", f"✗ {html.escape(line)}", ["The figure shows the last values that were possible."])

    def _send(self, opacity: float, role: str, head: str, rest: Sequence[str]) -> None:
        image = charts.image_html(self._png, "\n".join(self._chart.words(self.record)), self.figure, opacity)
        caption = f'<strong style="font-size:1.2em">{head}</strong><br>{"<br>".join(rest)}'
        self._view.value = f'<figure style="margin:0">{image}<figcaption role="{role}" style="line-height:1.5">{caption}</figcaption></figure>'

    def _paint(self) -> None:
        """Blit the artists of ``record`` over the background, which is drawn again only when the chart's limit changes."""
        canvas = self.figure.canvas
        limit = self._chart.limit(self.record)
        fresh = limit != self._limit
        with charts.paper():
            if fresh:
                self._chart.rescale(limit)
                canvas.draw()
                self._background = canvas.copy_from_bbox(self.figure.bbox)
                self._limit = limit
            canvas.restore_region(self._background)
            for artist in self._chart.draw(self.record):
                self.figure.draw_artist(artist)
        if fresh:
            self._colours = charts.palette(self.figure)

    @property
    def sentence(self) -> str:
        """The title, the controls' values and the text under the figure: what strict nbval compares."""
        settings = ", ".join(f"{control.description} {_shown(control)}" for control in self.controls.values())
        return f"{self.title}\n{settings}.\n{self.text}"

    def __repr__(self) -> str:
        return self.sentence

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        """The live widget, and for readers without a kernel the same figure, described."""
        png = charts.encode(self.figure, charts.palette(self.figure), level=9)
        bundle = self.widget._repr_mimebundle_()
        return bundle | {"text/plain": self.sentence, "text/html": charts.described_html(png, self.sentence, self.figure)}


def _options(control: "DOMWidget") -> list[Any]:
    """The values of a menu, whose options are values, (label, value) pairs or a mapping."""
    options = control.options.items() if isinstance(control.options, Mapping) else control.options
    return [option[1] if isinstance(option, tuple) and len(option) == 2 else option for option in options]


def _stops(control: "DOMWidget") -> list[Any]:
    """The values that a sweep visits."""
    if hasattr(control, "options"):
        return _options(control)
    if isinstance(control.value, bool):
        return [False, True]
    if hasattr(control, "base"):  # the ends of a logarithmic slider are exponents
        return [control.base**control.min, control.value, control.base**control.max]
    if hasattr(control, "min"):
        return [control.min, control.value, control.max]
    return [control.value]


def _possible(control: "DOMWidget") -> str:
    stops = _stops(control)
    return "one of " + ", ".join(map(repr, stops)) if hasattr(control, "options") else f"{stops[0]!r} to {stops[-1]!r}"


def _shown(control: "DOMWidget") -> str:
    """A control's value as its readout or its menu shows it."""
    if hasattr(control, "label"):
        return str(control.label)
    return format(control.value, control.readout_format) if hasattr(control, "readout_format") else str(control.value)
