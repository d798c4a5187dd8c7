"""Panels as plain objects: set a control, read what stands under the figure and which artists moved. The browser test guards the wiring."""

import base64
import html
import io
import re

import ipywidgets
import numpy
import pytest
from PIL import Image

from mllandscape import BadInput, charts, units
from mllandscape.panel import Panel

CARDS = {"24 GiB": 24 * units.GIB, "80 GiB": 80 * units.GIB}


def update(billions, batch, optimizer, card, ckpt):
    """A small pure function in the shape of a lesson's: bytes of three phases, a verdict and an advice."""
    if optimizer == "none":
        raise BadInput("optimizer='none': nothing would be trained; choose adamw or sgd.")
    parameters = round(2e9 * billions)
    states = {"adamw": 2 * parameters, "sgd": 0}[optimizer]
    activations = batch * (10**8 if ckpt else 10**9)
    bars = {
        "forward": {"parameters": parameters, "optimizer states": states, "activations": activations},
        "backward": {"parameters": parameters, "gradients": parameters, "optimizer states": states, "activations": activations // 4},
        "optimizer step": {"parameters": parameters, "gradients": parameters, "optimizer states": states, "optimizer step transient": parameters},
    }
    peak = max(sum(terms.values()) for terms in bars.values())
    fits = peak <= card
    return charts.CapacityRecord(bars, card, f"{'fits' if fits else 'does not fit'}: {units.gib(peak)} against {units.gib(card)}", "" if fits else "Take sgd.")


def controls():
    return {
        "billions": ipywidgets.FloatLogSlider(value=1, min=-1, max=2, description="Model size", tooltip="parameters in billions", readout_format=".3g"),
        "batch": ipywidgets.IntSlider(value=1, min=1, max=64, description="Batch", tooltip="sequences in one micro-batch"),
        "optimizer": ipywidgets.Dropdown(options=[("AdamW", "adamw"), ("SGD", "sgd"), ("None", "none")], description="Optimizer", tooltip="the optimizer"),
        "card": ipywidgets.Dropdown(options=CARDS, value=80 * units.GIB, description="GPU", tooltip="its capacity"),
        "ckpt": ipywidgets.Checkbox(value=False, description="Checkpointing", tooltip="recompute activations in the backward pass"),
    }


@pytest.fixture
def panel():
    return Panel("Does it fit?", controls(), update, charts.CapacityBars())


def shown(panel) -> str:
    """The HTML that the page shows under the controls."""
    return panel.widget.children[-1].value


def alt(panel) -> str:
    return html.unescape(re.search(r'alt="([^"]*)"', shown(panel))[1])


def caption(panel) -> str:
    inside = re.search(r"<figcaption[^>]*>(.*)</figcaption>", shown(panel), re.DOTALL)[1]
    return html.unescape(re.sub(r"<[^>]*>", "\n", inside))


def pixels(panel) -> numpy.ndarray:
    data = re.search(r"base64,([^\"]*)", shown(panel))[1]
    return numpy.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def drawn_bytes(panel) -> dict[str, float]:
    """The length of each bar as painted, in bytes."""
    chart = panel._chart
    artists = chart.draw(panel.record)
    return {phase: sum(bar.get_width() for (place, _), bar in chart._bars.items() if place == phase and bar in artists) for phase in chart.phases}


EXTREMES = [("billions", 0.1), ("billions", 100), ("batch", 1), ("batch", 64), ("optimizer", "adamw"), ("optimizer", "sgd"), ("card", 24 * units.GIB),
            ("card", 80 * units.GIB), ("ckpt", False), ("ckpt", True), ("batch", 17)]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), EXTREMES)
def test_each_control_at_its_ends_moves_text_alt_bars_and_picture_together(panel, name, value):
    panel.set(batch=5, billions=3, card=24 * units.GIB if name != "card" else value)
    before = pixels(panel)
    said = panel.set(**{name: value})
    record = update(**{name: control.value for name, control in panel.controls.items()})
    assert panel.record == record
    assert said == panel.text and record.verdict in said and record.advice in said
    for phase, terms in record.bars.items():
        total = sum(terms.values())
        assert float(re.search(rf"{phase}: ([0-9.]+) GiB =", said)[1]) == pytest.approx(total / units.GIB, abs=0.051)
        assert drawn_bytes(panel)[phase] == pytest.approx(min(total, 1.25 * record.capacity))
    assert alt(panel) == " ".join(panel.text.split())
    assert caption(panel).split() == panel.text.split()
    unchanged = value in (False, "adamw") or (name == "card")
    assert unchanged == bool((pixels(panel) == before).all())


def test_a_bar_that_overflows_is_cut_at_the_axis_end_with_its_number_beside_it(panel):
    panel.set(billions=100, card=24 * units.GIB)
    chart = panel._chart
    artists = chart.draw(panel.record)
    assert all(cut in artists for cut in chart._cuts.values())
    assert max(bar.get_x() + bar.get_width() for bar in chart._bars.values() if bar in artists) == 1.25 * 24 * units.GIB
    panel.set(billions=1)
    assert not any(cut in chart.draw(panel.record) for cut in chart._cuts.values())


@pytest.mark.parametrize("values", [{"batch": 9}, {"billions": 100}, {"card": 24 * units.GIB, "batch": 3}, {"optimizer": "sgd", "ckpt": True}])
def test_blitting_gives_the_same_pixels_as_drawing_everything_again(panel, values):
    panel.set(billions=40, batch=60)
    panel.set(**values)
    blitted = numpy.asarray(panel.figure.canvas.buffer_rgba()).copy()
    fresh = Panel("Does it fit?", controls(), update, charts.CapacityBars())
    chart = fresh._chart
    with charts.paper():
        chart.rescale(chart.limit(panel.record))
        for order, artist in enumerate(chart.draw(panel.record)):
            artist.set(animated=False, zorder=10 + order)
        fresh.figure.canvas.draw()
    assert (numpy.asarray(fresh.figure.canvas.buffer_rgba()) == blitted).all()


def test_a_move_keeps_the_figure_and_its_background_and_new_limits_draw_the_background_again(panel):
    figure, background = panel.figure, panel._background
    panel.set(batch=20)
    assert panel.figure is figure and panel._background is background
    panel.set(card=24 * units.GIB)
    assert panel.figure is figure and panel._background is not background


def test_flat_colours_reach_the_page_exactly(panel):
    panel.set(batch=30)
    colours = {"#{:02X}{:02X}{:02X}".format(*colour) for _, colour in Image.fromarray(pixels(panel)).getcolors(1 << 24)}
    assert {charts.BLUE, charts.GREEN, charts.VERMILLION, "#FFFFFF", "#000000"} <= colours


def test_impossible_values_are_answered_in_one_line_over_the_dimmed_last_figure(panel):
    panel.set(batch=7)
    before, record = pixels(panel), panel.record
    said = panel.set(optimizer="none")
    assert said == "optimizer='none': nothing would be trained; choose adamw or sgd."
    assert 'role="alert"' in shown(panel) and html.escape(said) in shown(panel) and "opacity:0.35" in shown(panel)
    assert (pixels(panel) == before).all() and panel.record == record
    panel.set(optimizer="adamw")
    assert 'role="status"' in shown(panel) and "alert" not in shown(panel) and "opacity:1" in shown(panel)


def test_a_broken_update_raises_where_the_value_is_set_and_is_said_in_the_panel():
    def broken(batch):
        return update(1, batch, "adamw", 80 * units.GIB, False) if batch < 10 else 1 / 0

    panel = Panel("Broken", {"batch": controls()["batch"]}, broken, charts.CapacityBars())
    with pytest.raises(ZeroDivisionError):
        panel.controls["batch"].value = 11
    assert "ZeroDivisionError" in shown(panel) and 'role="alert"' in shown(panel)
    panel.controls["batch"].value = 2
    with pytest.raises(ZeroDivisionError):
        panel.sweep()
    with pytest.raises(ZeroDivisionError):
        panel.set(batch=12)


def test_a_sweep_drives_every_control_to_its_ends_and_back(panel):
    seen = []
    panel._update = lambda **values: seen.append(values) or update(**values)
    start = {name: control.value for name, control in panel.controls.items()}
    assert panel.sweep() == 3 + 3 + 2 + 2 + 2  # sliders three each, menus their options ("None" is answered), the box two
    assert {name: control.value for name, control in panel.controls.items()} == start
    assert {values["batch"] for values in seen} == {1, 64}
    assert {round(values["billions"], 6) for values in seen} == {0.1, 1, 100}
    assert {values["card"] for values in seen} == set(CARDS.values())
    assert {values["ckpt"] for values in seen} == {False, True}
    text = panel.text
    panel.sweep()
    assert panel.text == text


def test_several_controls_are_set_with_one_drawing(panel):
    seen = []
    panel._update = lambda **values: seen.append(values) or update(**values)
    panel.set(batch=3, billions=2, ckpt=True)
    assert len(seen) == 1 and seen[0]["batch"] == 3 and seen[0]["ckpt"] is True


@pytest.mark.parametrize(
    "values", [{"batch": 1000}, {"batch": "many"}, {"optimizer": "adagrad"}, {"learning_rate": 1}, {"billions": 3, "batch": 0}, {"ckpt": 7}]
)
def test_a_value_that_a_control_does_not_have_is_refused_and_nothing_moves(panel, values):
    before, state = shown(panel), {name: control.value for name, control in panel.controls.items()}
    with pytest.raises(BadInput) as refused:
        panel.set(**values)
    assert "\n" not in str(refused.value)
    assert shown(panel) == before and {name: control.value for name, control in panel.controls.items()} == state


@pytest.mark.parametrize(
    "control",
    [ipywidgets.IntSlider(description="B"), ipywidgets.IntSlider(tooltip="sequences"), ipywidgets.Button(description="Go", tooltip="go"), ipywidgets.VBox()],
)
def test_a_control_without_words_or_value_is_refused(control):
    with pytest.raises(BadInput, match="batch"):
        Panel("x", {"batch": control}, lambda batch: None, charts.CapacityBars())
    with pytest.raises(BadInput, match="without controls"):
        Panel("x", {}, lambda: None, charts.CapacityBars())


def test_the_first_values_must_be_possible():
    starting = controls()
    starting["optimizer"].value = "none"
    with pytest.raises(BadInput, match="nothing would be trained"):
        Panel("x", starting, update, charts.CapacityBars())


def test_the_static_twin_says_title_settings_and_numbers_and_shows_the_live_picture(panel):
    panel.set(batch=6)
    bundle = panel._repr_mimebundle_()
    assert bundle.keys() == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/plain"] == f"Does it fit?\nModel size 1, Batch 6, Optimizer AdamW, GPU 80 GiB, Checkpointing False.\n{panel.text}"
    assert html.escape(" ".join(bundle["text/plain"].split())) in bundle["text/html"]
    data = base64.b64decode(re.search(r"base64,([^\"]*)", bundle["text/html"])[1])
    # The two have palettes of their own, so the smoothed edges of letters may differ by a shade.
    assert (numpy.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == pixels(panel)).mean() > 0.99
    assert len(data) < 120_000


def test_every_control_in_the_panel_has_an_accessible_name_and_no_box_or_picture_has_a_tooltip(panel):
    """A tooltip on a box or an image crashes its view (ipywidgets issue 3860)."""
    controls = set(panel.controls.values())
    pending, seen = [panel.widget], []
    while pending:
        widget = pending.pop()
        seen.append(widget)
        assert bool(widget.tooltip) == (widget in controls)
        pending += getattr(widget, "children", ())
    assert controls <= set(seen)


def test_words_from_a_record_cannot_become_markup(panel):
    panel._update = lambda **values: charts.CapacityRecord({"forward": {"parameters": 1}}, 10**9, '<img src=x onerror="x">', "a & b")
    assert panel.set(batch=2).startswith("<img")
    assert "<img src=x" not in shown(panel) and "&lt;img src=x" in shown(panel)


def test_a_record_that_the_chart_has_no_place_for_is_refused(panel):
    panel._update = lambda **values: charts.CapacityRecord({"warm-up": {"parameters": 1}}, 10**9, "fits")
    with pytest.raises(BadInput, match="warm-up"):
        panel.set(batch=2)
