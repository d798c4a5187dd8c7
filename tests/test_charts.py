"""Every figure says its numbers: the texts, the pictures behind them, and what is refused."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from mllandscape import BadInput, charts, units
from mllandscape.memory.profile import MemoryProfile, Moment

P = 13_015_864_320
PLANS = {
    "amp-bf16": {"parameters": 4 * P, "gradients": 4 * P, "optimizer states": 8 * P},
    "bf16": {"parameters": 2 * P, "gradients": 2 * P, "optimizer states": 4 * P, "optimizer step transient": 2 * P},
}
STEP = (
    *(Moment("forward", f"block {n}", {"parameters": 4 * units.GIB, "activations": n * units.GIB}) for n in range(4)),
    *(Moment("backward", f"block {3 - n}", {"parameters": 4 * units.GIB, "activations": (3 - n) * units.GIB, "gradients": n * units.GIB}) for n in range(4)),
    Moment("optimizer step", "_foreach_sqrt", {"parameters": 4 * units.GIB, "gradients": 3 * units.GIB, "optimizer step transient": 4 * units.GIB}),
)
RUNGS = [charts.Rung("as it is", 800 * units.MIB, None, False), charts.Rung("full checkpointing", 210 * units.MIB, 214 * units.MIB, True)]
FIGURES = {
    "bytes_by_term": lambda: charts.bytes_by_term(PLANS, capacity=85_000_000_000, title="Where the bytes go"),
    "side_by_side": lambda: charts.side_by_side([("bf16", {"predicted": 8 * P, "traced": 7.9 * P, "measured": 8.2 * P})], title="Three ways"),
    "timeline": lambda: charts.timeline(STEP, capacity=10 * units.GIB, failed_at=8, title="One step"),
    "ladder": lambda: charts.ladder(RUNGS, budget=512 * units.MIB, title="The ladder", unit="MiB"),
    "lines": lambda: charts.lines(
        {"AdamW": ([1, 10, 100], [3, 2, 1]), "SGD": ([1, 10, 100], [3, 2.5, 2])}, x_log=True, y_log=True, x_label="step", y_label="loss"
    ),
}


class Tags(HTMLParser):
    """The attributes of the one img, and the text of the caption."""

    def __init__(self, text: str):
        super().__init__()
        self.image, self.caption, self._inside = {}, "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.image = dict(attrs)
        self._inside = self._inside or tag == "figcaption"
        self.caption += " " if tag == "br" else ""

    def handle_data(self, data):
        self.caption += data if self._inside else ""


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_described_by_its_own_sentence_in_text_alt_and_caption(name):
    figure = FIGURES[name]()
    bundle = figure._repr_mimebundle_()
    tags = Tags(bundle["text/html"])
    assert bundle.keys() == {"text/plain", "text/html"}
    assert bundle["text/plain"] == figure.sentence == repr(figure)
    assert tags.image["alt"] == tags.caption == " ".join(figure.sentence.split())
    assert numbers(tags.image["alt"])
    assert "script" not in bundle["text/html"] and "http" not in bundle["text/html"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_opaque_sharp_at_most_860_wide_and_below_120_kb(name):
    image = Tags(FIGURES[name]()._repr_mimebundle_()["text/html"]).image
    data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    picture = Image.open(io.BytesIO(data))
    assert int(image["width"]) <= 860 and picture.size == (2 * int(image["width"]), 2 * int(image["height"]))
    assert len(data) < 120_000
    assert "transparency" not in picture.info and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_records_give_the_same_text_and_the_same_picture_whatever_the_users_matplotlibrc_says(name):
    import matplotlib

    first = FIGURES[name]()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9, "axes.grid": True, "text.color": "red"}):
        settings_before = dict(matplotlib.rcParams)
        second = FIGURES[name]()
        assert second.png() == first.png()
        assert dict(matplotlib.rcParams) == settings_before
    assert second.sentence == first.sentence


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_figure_is_smaller_than_ten_points_or_cut_off_at_the_edge(name):
    figure = FIGURES[name]().figure
    with charts.paper():
        figure.canvas.draw()
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        # Ticks beyond the ends of an axis exist and are not drawn.
        undrawn = set()
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            low, high = sorted(axis.get_view_interval())
            undrawn |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        assert len(texts) > 5
        for text in texts:
            box = text.get_window_extent()
            assert text.get_size() >= 10, text
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert inside or text in undrawn, f"{text} is cut off: {box}"


def test_no_chart_imports_pyplot_and_importing_charts_and_panel_imports_no_matplotlib():
    code = (
        "import sys; from mllandscape import charts, panel; assert not {'matplotlib', 'ipywidgets', 'torch', 'numpy'} & sys.modules.keys(); "
        "charts.bytes_by_term({'a': {'parameters': 1e9}}).png(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@given(st.dictionaries(st.sampled_from(list(charts.TERMS)), st.integers(1_000_000, 10**13), min_size=1))
@settings(max_examples=60, deadline=None)
def test_the_printed_terms_add_up_to_the_printed_total(terms):
    sentence = charts.figure.sentence("", [f"{charts.memory._amount(sum(terms.values()), 'GB')} = {charts.memory._parts(terms, 'GB')}"])
    total, *parts = numbers(sentence)
    assert len(parts) == len(terms)
    assert total == pytest.approx(sum(terms.values()) / 1e9, abs=0.0501, rel=0.06)
    assert total == pytest.approx(sum(parts), abs=0.0501 * (1 + len(parts)))


def test_bytes_by_term_prints_each_total_and_takes_a_profile_for_its_terms():
    profile = MemoryProfile("traced", 8 * P, "optimizer step", {"parameters": 2 * P, "gradients": 6 * P}, {})
    sentence = charts.bytes_by_term({"bf16": PLANS["bf16"], "traced": profile}, unit="GiB").sentence
    assert f"bf16: {sum(PLANS['bf16'].values()) / 2**30:.1f} GiB = parameters {2 * P / 2**30:.1f}," in sentence
    assert f"traced: {profile.allocated / 2**30:.1f} GiB = parameters" in sentence


def test_the_bars_drawn_are_the_bytes_given():
    axes = charts.bytes_by_term(PLANS).figure.axes[0]
    drawn = [0.0] * len(PLANS)
    for bar in axes.patches:
        drawn[round(bar.get_y() + bar.get_height() / 2)] += bar.get_width()
    assert drawn == [sum(terms.values()) for terms in PLANS.values()]


def test_terms_stack_in_the_order_of_the_table_and_unknown_ones_after_them():
    sentence = charts.bytes_by_term({"a": {"CUDA context": 1e9, "gradients": 2e9, "parameters": 3e9}}).sentence
    assert sentence == "a: 6.0 GB = parameters 3.0, gradients 2.0, CUDA context 1.0."


def test_no_two_terms_look_alike():
    assert len(set(charts.TERMS.values()) | set(charts.memory._SPARE)) == len(charts.TERMS) + len(charts.memory._SPARE)


def test_the_flat_colours_of_a_picture_are_exact():
    picture = Image.open(io.BytesIO(charts.bytes_by_term(PLANS).png())).convert("RGB")
    colours = {f"#{red:02X}{green:02X}{blue:02X}" for _, (red, green, blue) in picture.getcolors(1 << 24)}
    assert {charts.BLUE, charts.ORANGE, charts.GREEN, "#FFFFFF", "#000000"} <= colours


def test_each_method_is_compared_with_the_last_of_its_row():
    sentence = charts.side_by_side([("a", {"predicted": 110e9, "traced": 95e9, "measured": 100e9})]).sentence
    assert sentence == "a: predicted 110.0 GB (+10.0 %), traced 95.0 GB (−5.0 %), measured 100.0 GB."


def test_a_timeline_names_its_peak_and_the_peak_of_each_phase():
    sentence = charts.timeline(STEP).sentence
    assert "Peak 11.0 GiB in optimizer step, at _foreach_sqrt = parameters 4.0, gradients 3.0, optimizer step transient 4.0." in sentence
    assert "forward 7.0 GiB, backward 7.0 GiB, optimizer step 11.0 GiB" in sentence
    assert "Out of memory" not in sentence


def test_a_timeline_marks_the_allocation_that_failed():
    figure = charts.timeline(STEP, capacity=6.5 * units.GIB, failed_at=3)
    assert "Out of memory in forward, at block 3: 7.0 GiB needed." in figure.sentence
    assert [line for line in figure.figure.axes[0].lines if line.get_marker() == "X" and list(line.get_ydata()) == [7 * units.GIB]]


def test_every_phase_of_a_timeline_has_room_to_be_seen_and_moments_keep_their_order():
    places = charts.memory._places([0, 1000, 3000, 3004])
    assert places[0] == 0 and places[-1] == pytest.approx(1) and places == sorted(places)
    assert places[-1] - places[3000] > 0.1


def test_the_ladder_says_fits_or_oom_in_words_and_shows_what_was_not_measured():
    figure = FIGURES["ladder"]()
    assert "as it is: predicted 800.0 MiB, measured –, OOM." in figure.sentence
    assert "full checkpointing: predicted 210.0 MiB, measured 214.0 MiB, fits." in figure.sentence
    shown = [text.get_text() for text in figure.figure.axes[0].texts]
    assert "✗ OOM" in shown and "✓ fits" in shown and "budget 512.0 MiB" in shown


def test_a_long_curve_is_said_by_its_ends_and_extremes():
    sentence = charts.lines({"loss": (list(range(60)), [5 - step / 10 if step < 40 else 3 for step in range(60)])}, x_label="step", y_label="loss").sentence
    assert "loss: 5 at 0, 3 at 59; lowest 1.1 at 39, highest 5 at 0." in sentence


def test_the_names_of_curves_that_end_together_do_not_touch():
    figure = charts.lines({name: ([0, 1], [1, 1 + shift]) for name, shift in (("one", 0), ("two", 0.001), ("three", 0.002))}).figure
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:], strict=False))


def test_small_numbers_do_not_read_as_zero():
    assert charts.memory._amount(4_000_000, "GB") == "0.004 GB"
    assert charts.memory._amount(512, "GB") == "<0.001 GB"
    assert charts.memory._amount(0, "GB") == "0.0 GB"


def test_a_term_too_small_to_be_seen_is_in_the_sentence_and_not_in_the_legend():
    figure = charts.bytes_by_term({"a": {"parameters": 1e9, "gradients": 1e5}})
    assert "gradients <0.001" in figure.sentence
    assert [text.get_text() for text in figure.figure.legends[0].get_texts()] == ["parameters"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: charts.bytes_by_term({}),
        lambda: charts.bytes_by_term({"a": {"parameters": 1e9}}, unit="Gb"),
        lambda: charts.bytes_by_term({"a": {f"term {n}": 1e9 for n in range(20)}}),
        lambda: charts.side_by_side([("a", {"predicted": 1e9, "traced": 0})]),
        lambda: charts.side_by_side([]),
        lambda: charts.timeline(()),
        lambda: charts.timeline([Moment("forward", "mm", {"activations": 0})]),
        lambda: charts.timeline(STEP, failed_at=99),
        lambda: charts.ladder([], budget=1),
        lambda: charts.lines({}),
        lambda: charts.lines({"a": ([1, 2], [1, float("nan")])}),
        lambda: charts.lines({"a": ([1, 2], [1])}),
        lambda: charts.lines({"a": ([0, 1], [1, 2])}, x_log=True),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(call):
    with pytest.raises(BadInput) as refused:
        call()
    assert "\n" not in str(refused.value)


AMOUNTS = st.integers(0, 200 * units.GIB)
MOMENTS = st.builds(
    Moment,
    phase=st.sampled_from(["forward", "backward", "optimizer step"]),
    label=st.sampled_from(["aten.mm", "a $label$ with_marks^2 that goes on and on"]),
    live=st.dictionaries(st.sampled_from([*charts.TERMS, "inputs"]), AMOUNTS, max_size=4),
)


@given(st.lists(MOMENTS, min_size=1, max_size=30).filter(lambda moments: any(moment.total for moment in moments)), st.none() | AMOUNTS.filter(bool), st.data())
@settings(max_examples=15, deadline=None)
def test_any_timeline_can_be_drawn_and_names_its_largest_total(moments, capacity, data):
    failed = data.draw(st.none() | st.integers(0, len(moments) - 1))
    figure = charts.timeline(moments, capacity=capacity, failed_at=failed, title="Any step " * 12)
    assert len(figure.png()) < 120_000
    peak = max(moment.total for moment in moments)
    assert f"Peak {charts.memory._amount(peak, 'GiB')} in " in figure.sentence


def test_one_point_one_value_and_one_moment_are_enough():
    charts.lines({"a": ([1], [0])}, x_log=True, limit=("limit", 2)).png()
    charts.bytes_by_term({"a": {}}).png()
    charts.timeline([Moment("forward", "mm", {"activations": 1})]).png()
    charts.ladder([charts.Rung("a", None, None, False)], budget=1).png()


def test_another_step_is_a_line_over_a_timeline_and_its_peak_is_said():
    step = [Moment("forward", "a", {"parameters": units.GIB}), Moment("backward", "b", {"parameters": 2 * units.GIB})]
    other = [
        Moment("forward", "x", {"parameters": 3 * units.GIB}),
        Moment("forward", "y", {"parameters": 5 * units.GIB}),
        Moment("backward", "z", {"parameters": 4 * units.GIB}),
    ]
    figure = charts.timeline(step, against=("DDP", other), title="Two steps")
    assert "DDP: peak 5.0 GiB in forward." in figure.sentence and "Peak 2.0 GiB in backward" in figure.sentence
    highest = max(max(line.get_ydata()) for line in figure.figure.axes[0].lines if len(line.get_ydata()) == 3)
    assert highest == 5 * units.GIB and figure.figure.axes[0].get_ylim()[1] > highest


def test_a_table_shows_every_cell_in_its_text_and_in_its_html():
    table = charts.Table("Shares", ["", "here"], [["two ranks", "0.500"], ["four <ranks>", "0.250"]])
    assert repr(table).splitlines() == ["Shares", "              here", "two ranks     0.500", "four <ranks>  0.250"]
    assert "four &lt;ranks&gt;" in table._repr_html_() and '<th scope="row"' in table._repr_html_() and "<caption>Shares" in table._repr_html_()
