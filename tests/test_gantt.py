"""Steps in time as figures: what is drawn and said adds up to the tasks, still and live."""

import io
import re
import subprocess
import sys
import time
from itertools import pairwise

import ipywidgets
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from mllandscape import BadInput, charts, units
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.shape import ModelShape
from mllandscape.memory.timeline import CLUSTERS, Task, band, timeline
from mllandscape.panel import Panel
from tests.test_charts import Tags, numbers

SHAPES = {name: ModelShape.preset(name) for name in ("llama-2-7b", "llama-2-70b")}
STREAMS = ("compute", "communication", "replication")


def step(strategy="fsdp", model="llama-2-7b", tokens=1024, cluster="8xA100-200G", **changes):
    return timeline(SHAPES[model], TrainingPlan(strategy=strategy, ranks=16, sequence=tokens, **changes), CLUSTERS[cluster])


def figure():
    steps = {"FSDP": step(), "no prefetch": step(prefetch=0), "HSDP": step("hsdp"), "ZeRO-1, 70B": step("zero1", "llama-2-70b", checkpointing="full")}
    return charts.gantt(steps, title="Who waits for whom")


def lengths(tasks) -> dict[str, float]:
    """Seconds of each kind of task, and those in which compute has none."""
    sums = {"compute waits": max(task.end for task in tasks)}
    for task in tasks:
        sums[task.kind] = sums.get(task.kind, 0) + task.end - task.start
        sums["compute waits"] -= task.end - task.start if task.stream == "compute" else 0
    return {kind: length for kind, length in sums.items() if length > 1e-9}


def boxes(patch) -> numpy.ndarray:
    """(left, right, low, high) of each box that an artist draws."""
    corners = patch.get_path().vertices.reshape(-1, 5, 2)
    return numpy.hstack([corners[:, 0, :1], corners[:, 2, :1], corners[:, 0, 1:], corners[:, 2, 1:]])


# -- the still figure ------------------------------------------------------------------------------------------------------


def test_it_is_described_by_its_own_sentence_opaque_and_small():
    made = figure()
    html = made._repr_mimebundle_()["text/html"]
    tags = Tags(html)
    assert tags.image["alt"] == tags.caption == " ".join(made.sentence.split()) and numbers(made.sentence)
    picture = Image.open(io.BytesIO(made.png()))
    assert picture.width == 2 * charts.WIDTH and len(made.png()) < 120_000
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert figure().png() == made.png() and figure().sentence == made.sentence


def test_no_text_is_smaller_than_ten_points_cut_off_or_over_another():
    made = charts.gantt({"a label that goes on and on " * 5: step(), "short": step("hsdp")}, title="A title that goes on " * 8).figure
    with charts.paper():
        made.canvas.draw()
        axis = made.axes[0].xaxis
        undrawn = {tick.label1 for tick in axis.get_major_ticks() if not axis.get_view_interval()[0] <= tick.get_loc() <= axis.get_view_interval()[1]}
        texts = [text for text in made.findobj(Text) if text.get_text() and text.get_visible() and text not in undrawn]
        places = [text.get_window_extent() for text in texts]
        for text, box in zip(texts, places, strict=True):
            assert text.get_size() >= 10
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= made.bbox.x1 and box.y1 <= made.bbox.y1, text
            assert sum(box.overlaps(other) for other in places) == 1, text


def test_its_sentence_says_what_the_tasks_add_up_to():
    for timed in (step(), step("ddp"), step(cluster="8xA100-25GbE")):
        sentence = charts.gantt({"a": timed}).sentence
        said = re.fullmatch(r"a: step (.*), compute (.*), communication (.*), compute waits (.*) % of the step\.", sentence).groups()
        assert said[:3] == tuple(units.seconds(duration) for duration in (timed.seconds, timed.compute, timed.communication))
        assert float(said[3]) == pytest.approx(100 * timed.exposed_share, abs=0.0501)
    timed = step("hsdp")
    words = charts.schedule._step_words(charts.schedule._step(timed.tasks))
    assert f"communication {units.seconds(timed.busy['communication'])}, between groups {units.seconds(timed.busy['replication'])}," in words


@pytest.mark.parametrize("timed", [step(), step(prefetch=0), step("hsdp", "llama-2-70b"), step("zero1", "llama-2-70b", checkpointing="full")])
def test_every_kind_is_drawn_as_long_as_its_tasks_take_and_eighty_layers_stay_readable(timed):
    axes = charts.gantt({"a": timed}).figure.axes[0]
    colours = {charts.KINDS[kind]: kind for kind in charts.KINDS}
    from matplotlib.colors import to_hex

    drawn = {}
    for patch in axes.patches:
        kind = colours[to_hex(patch.get_facecolor()).upper(), patch.get_hatch() or ""]
        drawn[kind] = boxes(patch)
    expected = lengths(timed.tasks)
    assert drawn.keys() == expected.keys()
    for kind, places in drawn.items():
        assert (places[:, 1] - places[:, 0]).sum() == pytest.approx(expected[kind])
    assert sum(map(len, drawn.values())) < 500 and max(places[:, 1].max() for places in drawn.values()) <= timed.seconds * (1 + 1e-9)


LENGTH = st.floats(0, 6).map(lambda power: 10 ** (power - 6))


@given(st.lists(st.tuples(st.sampled_from(("forward", "backward", "recompute")), LENGTH, LENGTH), min_size=1, max_size=200), st.floats(1, 1e4))
@settings(max_examples=60, deadline=None)
def test_narrow_tasks_are_drawn_together_without_overlap_and_without_loss(parts, scale):
    lane, place = [], 0.0
    for kind, pause, length in parts:
        lane.append((kind, place + pause, place + pause + length))
        place += pause + length
    drawn = charts.schedule._spans(lane, scale)
    for kind in {kind for kind, _, _ in lane}:
        assert sum(width for name, _, width in drawn if name == kind) == pytest.approx(sum(end - start for name, start, end in lane if name == kind))
    assert all(start + width <= after * (1 + 1e-9) for (_, start, width), (_, after, _) in pairwise(drawn))
    assert drawn[0][1] >= lane[0][1] and sum(drawn[-1][1:]) <= lane[-1][2] * (1 + 1e-9)
    assert len(drawn) <= len(lane) and len(drawn) <= 3 * (2 + place * scale / charts.schedule._NARROW)


def test_a_step_of_one_task_is_enough_and_what_takes_no_time_is_not_drawn():
    one = [Task("communication", "all-reduce", "bucket 0", 1e-4, 2e-4), Task("compute", "optimizer", "step", 2e-4, 2e-4)]
    made = charts.gantt({"a": charts.GanttRecord(one, 1, (1, 1), "x")})
    made.png()
    assert made.sentence == "a: step 200 µs, compute 0 µs, communication 100 µs, compute waits 100.0 % of the step."
    assert len(made.figure.axes[0].patches) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: charts.gantt({}),
        lambda: charts.gantt({"a": charts.GanttRecord([], 1, (1, 1), "x")}),
        lambda: charts.gantt({"a": charts.GanttRecord([Task("compute", "optimizer", "step", 0, 0)], 1, (1, 1), "x")}),
        lambda: charts.gantt({"a": charts.GanttRecord([Task("compute", "dreaming", "step", 0, 1)], 1, (1, 1), "x")}),
        lambda: charts.gantt({"a": charts.GanttRecord([Task("disk", "forward", "step", 0, 1)], 1, (1, 1), "x")}),
        lambda: charts.Gantt(("compute", "disk")),
        lambda: charts.Gantt(kinds=("forward", "dreaming")),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(call):
    with pytest.raises(BadInput) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_no_two_kinds_look_alike_and_charts_stay_light():
    assert len(set(charts.KINDS.values())) == len(charts.KINDS)
    code = (
        "import sys; from mllandscape import charts; from mllandscape.memory.timeline import Task; assert 'matplotlib' not in sys.modules; "
        "charts.gantt({'a': charts.GanttRecord([Task('compute', 'forward', 'head', 0, 1)], 1, (1, 1), 'x')}).png(); "
        "assert not {'matplotlib.pyplot', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- the live one ----------------------------------------------------------------------------------------------------------


def update(model, tokens, strategy, gigabytes):
    """A small pure function in the shape of a lesson's."""
    if strategy == "single":
        raise BadInput("strategy='single': nothing is communicated; choose ddp, fsdp or hsdp.")
    plan, cluster = TrainingPlan(strategy=strategy, ranks=16, sequence=tokens), CLUSTERS["8xA100-200G"].but(inter=gigabytes * units.GB)
    timed = timeline(SHAPES[model], plan, cluster)
    hidden = timed.exposed_share < 0.05
    verdict = "communication hides" if hidden else f"compute waits {timed.exposed_share:.0%}"
    return charts.GanttRecord(timed.tasks, timed.tokens_per_second, band(SHAPES[model], plan, cluster), verdict, "" if hidden else "Take more tokens.")


def controls():
    return {
        "model": ipywidgets.Dropdown(options=list(SHAPES), description="Model", tooltip="its shape"),
        "tokens": ipywidgets.IntSlider(value=1024, min=16, max=65_536, description="Tokens", tooltip="tokens of a micro-batch"),
        "strategy": ipywidgets.Dropdown(options=["fsdp", "hsdp", "ddp", "zero1", "single"], description="Strategy", tooltip="who has what"),
        "gigabytes": ipywidgets.FloatLogSlider(value=100, min=-1, max=3, description="GB/s", tooltip="between nodes", readout_format=".3g"),
    }


@pytest.fixture
def panel():
    return Panel("Who waits?", controls(), update, charts.Gantt(STREAMS))


def painted(panel) -> dict[str, float]:
    """Seconds of each kind that the last drawing shows."""
    artists = panel._chart.draw(panel.record)
    return {kind: float((places := boxes(patch))[:, 1].sum() - places[:, 0].sum()) for kind, patch in panel._chart._tasks.items() if patch in artists}


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "llama-2-70b"), ("tokens", 16), ("tokens", 65_536), ("strategy", "hsdp"), ("strategy", "zero1"), ("gigabytes", 0.1), ("gigabytes", 1000)],
)
def test_each_control_at_its_ends_moves_text_boxes_and_picture_together(panel, name, value):
    before = numpy.asarray(panel.figure.canvas.buffer_rgba()).copy()
    said = panel.set(**{name: value})
    record = update(**{name: control.value for name, control in panel.controls.items()})
    assert panel.record == record and said.startswith(record.verdict) and record.advice in said
    assert f"step {units.seconds(max(task.end for task in record.tasks))}, compute" in said
    assert f"{record.speed:,.0f}" in said or f"{record.speed:.3g}" in said
    assert painted(panel) == pytest.approx(lengths(record.tasks))
    assert not (numpy.asarray(panel.figure.canvas.buffer_rgba()) == before).all()


def test_a_move_reuses_every_artist_and_the_background_until_the_axis_ends_elsewhere(panel):
    chart, made, background = panel._chart, set(panel.figure.findobj()), panel._background
    assert chart.limit(panel.record) == 0.5
    panel.set(tokens=1100)
    assert panel._background is background and chart.limit(panel.record) == 0.5
    panel.set(tokens=16_384, model="llama-2-70b", strategy="hsdp")
    assert panel._background is not background and chart.limit(panel.record) == 100
    drawn = [artist for artist in panel.figure.findobj() if hasattr(artist, "get_animated") and artist.get_animated()]
    assert set(drawn) <= made and len(drawn) == len(chart._tasks) + 2


@given(st.floats(-5, 5).map(lambda power: 10**power))
@settings(max_examples=100, deadline=None)
def test_the_axis_ends_at_the_next_of_one_two_five_ten(end):
    record = charts.GanttRecord([Task("compute", "forward", "head", 0, end)], 1, (1, 1), "x")
    limit = charts.Gantt().limit(record)
    assert end <= limit <= 2.5 * end * (1 + 1e-9) and f"{limit:.0e}"[0] in "125"


@pytest.mark.parametrize("values", [{"tokens": 900}, {"model": "llama-2-70b"}, {"strategy": "hsdp", "gigabytes": 3}])
def test_blitting_gives_the_same_pixels_as_drawing_everything_again(panel, values):
    panel.set(strategy="zero1", tokens=5000)
    panel.set(**values)
    blitted = numpy.asarray(panel.figure.canvas.buffer_rgba()).copy()
    fresh = Panel("Who waits?", controls(), update, charts.Gantt(STREAMS))
    chart = fresh._chart
    with charts.paper():
        chart.rescale(chart.limit(panel.record))
        for order, artist in enumerate(chart.draw(panel.record)):
            artist.set(animated=False, zorder=10 + order)
        fresh.figure.canvas.draw()
    assert (numpy.asarray(fresh.figure.canvas.buffer_rgba()) == blitted).all()


def test_a_sweep_draws_every_end_and_an_impossible_value_is_answered(panel):
    assert panel.sweep() == 2 + 3 + 4 + 3
    assert panel.set(strategy="single") == "strategy='single': nothing is communicated; choose ddp, fsdp or hsdp."
    assert 'role="alert"' in panel.widget.children[-1].value


def test_a_record_that_the_chart_has_no_lane_for_is_refused():
    with pytest.raises(BadInput, match="replication"):
        charts.Gantt().draw(update("llama-2-7b", 1024, "hsdp", 10))


def test_the_line_of_numbers_stays_inside_the_figure(panel):
    long = [Task("compute", "forward", "head", 0, 1), Task("communication", "all-gather", "root", 1, 88_888.8)]
    panel._update = lambda **values: charts.GanttRecord(long, 8_888_888, (8_888_888, 8_888_888), "x")
    panel.set(tokens=20)
    assert panel._chart._numbers.get_window_extent().x1 < panel.figure.bbox.x1


def test_a_move_costs_less_than_25_milliseconds_of_cpu(panel):
    panel.set(model="llama-2-70b", strategy="hsdp")
    spent = []
    for tokens in range(1000, 1010):
        begin = time.process_time()
        panel.set(tokens=tokens)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.025
