"""Resolvers step by step: their verdicts against every combination, their order against pip's own log, and the figures of it."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import ipywidgets
import numpy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from mllandscape import BadInput, charts, record
from mllandscape.environments import Wheel, steps, tools
from mllandscape.environments.steps import Problem, Resolution, resolve_many, resolve_steps
from mllandscape.panel import Panel
from tests.test_charts import Tags, numbers

needs_tools = pytest.mark.skipif(tools.find() is None, reason=f"pip, Poetry and uv are not installed: {tools.INSTALL}")
RESOLVERS = [pytest.param("resolvelib"), pytest.param("pubgrub", marks=needs_tools)]


# -- the oracle: every combination -----------------------------------------------------------------------------------------


def allowed(text: str, problem: Problem) -> tuple[str, set[str]]:
    requirement = Requirement(text)
    return requirement.name, {version for version in problem.packages.get(requirement.name, ()) if requirement.specifier.contains(Version(version))}


def satisfies(problem: Problem, chosen: dict[str, str]) -> bool:
    asked = [*problem.requirements, *(text for name, version in chosen.items() for text in problem.packages[name][version])]
    return all(chosen.get(name) in versions for name, versions in (allowed(text, problem) for text in asked))


def solvable(problem: Problem) -> bool:
    """Each package at each version or not at all."""
    names = list(problem.packages)
    every = itertools.product(*([None, *problem.packages[name]] for name in names))
    return any(satisfies(problem, {name: version for name, version in zip(names, chosen, strict=True) if version}) for chosen in every)


RANGES = ["", ">=2", "<2", "==1", "==3", "!=2", ">=1,<3", "<=2,!=1", "~=2.0", ">4", "==2.*"]


@st.composite
def indexes(draw, circles=False):
    """Up to four packages of up to three versions; without ``circles`` a package requires only those after it. ``none`` is not on the index."""
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    packages = {}
    for place, name in enumerate(names):
        others = [other for other in names if other != name] if circles else names[place + 1 :]
        one = st.builds("{}{}".format, st.sampled_from([*others * 4, "none"]), st.sampled_from(RANGES))
        several = st.lists(one, max_size=3, unique_by=lambda text: Requirement(text).name)
        packages[name] = {str(version): draw(several) for version in range(1, draw(st.integers(1, 3)) + 1)}
    root = st.builds("{}{}".format, st.sampled_from(names), st.sampled_from(RANGES[:-2]))
    return Problem(packages, draw(st.lists(root, min_size=1, max_size=3, unique_by=lambda text: Requirement(text).name)))


def agree(problem: Problem, found: Resolution) -> None:
    assert found.ended == ("solved" if solvable(problem) else "impossible")
    assert found.solution is None or (satisfies(problem, found.solution) and found.unmet == ())
    assert bool(found.explanation) == (found.ended == "impossible")


@given(indexes())
@settings(max_examples=150)
def test_pips_verdict_is_that_of_all_combinations_where_nothing_is_circular(problem):
    agree(problem, resolve_steps(*problem, "resolvelib"))


@needs_tools
@given(st.lists(st.one_of(indexes(), indexes(circles=True)), min_size=40, max_size=60))
@settings(max_examples=4, phases=[Phase.generate])  # a child process an example is too slow to shrink
def test_poetrys_verdict_is_that_of_all_combinations_circular_or_not(problems):
    for problem, found in zip(problems, resolve_many(problems, "pubgrub"), strict=True):
        agree(problem, found)


@given(indexes(circles=True))
@settings(max_examples=100)
def test_where_packages_require_each_other_what_pip_breaks_is_named(problem):
    found = resolve_steps(*problem, "resolvelib", most=500)
    assert found.ended in ("solved", "impossible", "too deep", "crashed")
    if found.solution is not None:
        assert satisfies(problem, found.solution) == (found.unmet == ())
        assert solvable(problem) or found.unmet


# -- the steps -------------------------------------------------------------------------------------------------------------


def examples() -> list[Problem]:
    return [
        steps.diamond(),
        steps.circle(),
        steps.chain(4, 4),
        steps.pigeonhole(2),
        steps.three_sat(5, 20, 1),
        *(steps.random_index(4, 4, tightness, seed) for tightness in (0.5, 0.7) for seed in range(3)),
    ]


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_steps_replay_to_the_solution_and_come_back_from_json(resolver):
    for found in resolve_many(examples(), resolver):
        before: dict[str, str] = {}
        for step in found.steps:
            assert step.kind in steps.KINDS and step.text and "\n" not in step.text and set(step.involved) <= set(found.packages)
            if step.kind == "pin":
                assert step.pins == before | {step.package: step.version} and list(step.pins)[-1] == step.package
            elif step.kind == "backtrack":
                assert step.pins != before and all(f"{name} {before[name]}" in step.text for name in before if name not in step.pins)
            elif step.kind == "done":
                assert step.pins.items() <= before.items()
            else:
                assert step.pins == before
            if step.kind == "reject":
                assert step.pins.get(step.package) != step.version and f"{step.package} {step.version} is rejected" in step.text
            before = step.pins
        assert found.steps[-1].kind == {"solved": "done", "impossible": "fail"}[found.ended]
        assert [step.kind for step in found.steps[:-1]].count("done") == 0 and sum(found.counts.values()) == len(found.steps)
        assert found.solution == (found.steps[-1].pins if found.ended == "solved" else None)
        assert record.restore(Resolution, json.loads(json.dumps(record.plain(found)))) == found


PIP = """
import contextlib, io, json, sys
from pip._internal.cli.main import main
for folder, requirements in json.load(open(sys.argv[1])):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", folder, *requirements])
    print(json.dumps([code, out.getvalue()]))
"""


def wheels(problem: Problem) -> list[Wheel]:
    return [Wheel(name, version, tuple(requires)) for name, versions in problem.packages.items() for version, requires in versions.items()]


@needs_tools
def test_rounds_pins_and_words_are_those_that_pip_itself_logs(tmp_path):
    absent = Problem({"a": {"1": ["b", "none>=2"]}, "b": {"1": [], "2": []}}, ["a"])
    problems = [*examples(), steps.random_index(5, 5, 0.8, 3), absent, Problem({"b": {"1": []}}, ["b>=2"])]
    for place, problem in enumerate(problems):
        (tmp_path / str(place)).mkdir()
        for wheel in wheels(problem):
            (tmp_path / str(place) / wheel.filename).write_bytes(wheel.content)
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([(str(tmp_path / str(place)), problem.requirements) for place, problem in enumerate(problems)]))
    private = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_RESOLVER_DEBUG": "1",
    }
    said = subprocess.run([tools.find().python, "-I", "-c", PIP, asked], env=private, capture_output=True, text=True, check=True, timeout=120).stdout
    version = tools.find().versions["pip"]
    for problem, line in zip(problems, said.splitlines(), strict=True):
        code, log = json.loads(line)
        found = resolve_steps(*problem, "resolvelib")
        pinned = [" ".join(match) for match in re.findall(r"^ *Reporter\.pinning\(LinkCandidate\('.*/(\w+)-([\d.]+)-py3-none-any\.whl'\)\)", log, re.MULTILINE)]
        assert [f"{step.package} {step.version}" for step in found.steps if step.kind == "pin"] == pinned, f"pip {version} pins in another order"
        assert len(re.findall(r"Reporter\.rejecting_candidate", log)) == found.counts["reject"], f"pip {version} rejects other versions"
        assert (code == 0) == (found.ended == "solved")
        if found.solution is not None:
            would = dict(one.rsplit("-", 1) for one in re.search(r"Would install (.*)", log)[1].split())
            assert would == found.solution
        else:
            assert all(part.strip() in log for part in found.explanation.splitlines()), found.explanation


@needs_tools
def test_pip_answers_a_circle_with_a_broken_set_and_poetry_does_not():
    pips, poetrys = (resolve_steps(*steps.circle(), resolver) for resolver in steps.RESOLVERS)
    assert pips.ended == "solved" and not satisfies(steps.circle(), pips.solution)
    assert pips.unmet == ("plugin 2 requires app==1, but app 2 is chosen",)
    assert poetrys.solution == {"app": "2", "plugin": "1"} and poetrys.unmet == ()


def test_what_ends_in_pips_recursion_error_is_a_value():
    circle = {"a": {"1": [], "2": ["b"]}, "b": {"1": ["a<2", "c"]}, "c": {"1": ["b"]}}
    found = resolve_steps(circle, ["a"], "resolvelib")
    assert (found.ended, found.solution) == ("crashed", None) and "RecursionError" in found.explanation


def test_conflicts_grow_faster_and_faster_with_pip_and_linearly_with_pubgrub():
    chains = [(3, 6), (4, 6), (5, 6)]
    backtracked = [resolve_steps(*steps.chain(*size), "resolvelib").counts["conflict"] for size in chains]
    assert backtracked == [20, 62, 132]
    if tools.find():
        learned = [found.counts["conflict"] for found in resolve_many([steps.chain(*size) for size in chains], "pubgrub")]
        assert learned == [packages * (versions - 1) for packages, versions in chains]


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_request_that_contradicts_itself_is_impossible(resolver):
    for text in ("a<2", "a==2"):
        found = resolve_steps({"a": {"1": [], "3": []}}, [text, "a>2"], resolver)
        assert found.ended == "impossible" and found.steps[-1].kind == "fail" and "a" in found.explanation


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_run_that_is_stopped_is_a_value(resolver):
    found = resolve_steps(*steps.chain(5, 5), resolver, most=30)
    assert found.ended == "too deep" and len(found.steps) == 30 and found.solution is None and "30 steps" in found.explanation


def test_wheels_are_an_index_as_well():
    problem = steps.diamond()
    assert resolve_steps(wheels(problem), problem.requirements, "resolvelib") == resolve_steps(*problem, "resolvelib")
    assert resolve_steps([Wheel("A.b", "1")], ["a_B"], "resolvelib").solution == {"a-b": "1"}


# -- the families ----------------------------------------------------------------------------------------------------------


def size(problem: Problem) -> int:
    return sum(map(len, problem.packages.values()))


def test_families_have_the_sizes_they_promise_and_the_same_seed_gives_the_same():
    assert [size(steps.chain(5, 6)), size(steps.chain(8, 8)), size(steps.pigeonhole(5)), size(steps.pigeonhole(6))] == [31, 65, 60, 84]
    assert size(steps.three_sat(16, 68)) == 236 and size(steps.random_index(6, 5, 0.5)) == 30
    assert steps.three_sat(9, 30, 4) == steps.three_sat(9, 30, 4) != steps.three_sat(9, 30, 5)
    assert steps.random_index(4, 4, 0.5, 1) == steps.random_index(4, 4, 0.5, 1) != steps.random_index(4, 4, 0.5, 2)


@given(st.integers(3, 5), st.integers(1, 25), st.integers(0, 99))
@settings(max_examples=25)
def test_an_index_of_a_formula_is_solvable_when_the_formula_is(variables, clauses, seed):
    problem = steps.three_sat(variables, clauses, seed)
    literals = [[requires[0][1:].split("==") for requires in problem.packages[name].values()] for name in problem.requirements]
    values = itertools.product("01", repeat=variables)
    satisfiable = any(all(any(value[int(variable) - 1] == wanted for variable, wanted in clause) for clause in literals) for value in values)
    assert (resolve_steps(*problem, "resolvelib", most=50_000).ended == "solved") == satisfiable


@given(st.integers(2, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 50))
@settings(max_examples=40)
def test_a_random_index_is_what_its_tightness_says(packages, versions, tightness, seed):
    problem = steps.random_index(packages, versions, tightness, seed)
    width = max(1, round((1 - tightness) * versions))
    for name, offered in problem.packages.items():
        for requires in offered.values():
            assert len(requires) == min(2, packages - int(name[1:]))
            assert all(allowed(text, problem)[0] > name and len(allowed(text, problem)[1]) == width for text in requires)
    found = resolve_steps(*problem, "resolvelib")
    agree(problem, found)
    assert width < versions or found.counts["conflict"] == 0


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: resolve_steps({}, [], "sat"), "'sat': resolvelib and pubgrub are possible"),
        (lambda: resolve_steps({"a": {"1": []}}, "a", "resolvelib"), "'a' is not a list of requirements"),
        (lambda: resolve_steps({"a": {"1": []}}, ["a ==== 1"], "resolvelib"), "is not a requirement such as"),
        (lambda: resolve_steps({"a": {"1": ["b; python_version > '3'"]}}, ["a"], "resolvelib"), "a 1: .* has extras, a marker"),
        (lambda: resolve_steps({"a": {"1": ["b[c]"]}}, ["a"], "resolvelib"), "has extras, a marker"),
        (lambda: resolve_steps({"a": {"1": ["a>1"]}}, ["a"], "resolvelib"), "a 1 requires itself"),
        (lambda: resolve_steps({"a": {"one": []}}, ["a"], "resolvelib"), "'one' is not a version"),
        (lambda: resolve_steps({"a": {"1": [], "1.0": []}}, ["a"], "resolvelib"), "a 1.0 is there twice"),
        (lambda: resolve_steps({"a-b": {}, "A_B": {}}, ["a"], "resolvelib"), "same name"),
        (lambda: resolve_steps({"a b": {"1": []}}, ["a"], "resolvelib"), "'a b' is not a package name"),
        (lambda: resolve_steps({"a": ["1"]}, ["a"], "resolvelib"), "is not {version: requirements}"),
        (lambda: resolve_steps(7, ["a"], "resolvelib"), "7 is no index"),
        (lambda: resolve_steps([Wheel("a", "1", python=">=3.10")], ["a"], "resolvelib"), "depends on the Python"),
        (lambda: resolve_steps([Wheel("a", "1"), Wheel("a", "1")], ["a"], "resolvelib"), "a 1 is there twice"),
        (lambda: resolve_steps({"a": {str(v): [] for v in range(1001)}}, ["a"], "resolvelib"), "1001 versions is too large: at most 1000"),
        (lambda: resolve_steps(*steps.diamond(), "resolvelib", most=0), "most=0"),
        (lambda: steps.chain(31, 2), "packages=31: a whole number from 1 to 30"),
        (lambda: steps.pigeonhole(True), "holes=True"),
        (lambda: steps.random_index(4, 4, 1.5), "tightness=1.5"),
        (lambda: steps.random_index(4, 4, float("nan")), "tightness=nan"),
    ],
)
def test_what_is_no_problem_is_refused_in_one_line(call, line):
    with pytest.raises(BadInput, match=line) as refused:
        call()
    assert "\n" not in str(refused.value)


class Found:
    def __init__(self, poetry: str, python: str = sys.executable):
        self.python, self.versions = Path(python), {"poetry": poetry}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, "Poetry is not installed: run `mllandscape tools`"),
        (Found("2.6.0"), "Poetry 2.5 is needed .* found 2.6.0"),
        (Found("2.5.9"), "found 2.5.9, which has moved a piece of it .*cleo"),  # an interpreter without Poetry stands for one with another Poetry
    ],
)
def test_without_the_poetry_it_watches_it_says_so_in_one_line(monkeypatch, found, line):
    monkeypatch.setattr(tools, "find", lambda: found)
    with pytest.raises(BadInput, match=line) as refused:
        resolve_steps(*steps.diamond(), "pubgrub")
    assert "\n" not in str(refused.value)


@needs_tools
def test_poetry_has_kept_the_pieces_that_are_watched():
    version = tools.find().versions["poetry"]
    found = resolve_steps(*steps.pigeonhole(2), "pubgrub")
    kinds = {kind for kind, count in found.counts.items() if count}
    assert kinds == {"pin", "reject", "conflict", "learn", "backtrack", "fail"}, f"Poetry {version} changed what pubgrub.py watches: {kinds}"
    assert found.explanation.endswith("version solving failed."), f"Poetry {version} words a failure in another way"
    assert found.version == version


@needs_tools
def test_poetry_finds_and_leaves_nothing_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert resolve_steps(*steps.diamond(), "pubgrub").ended == "solved"
    assert list(tmp_path.rglob("*")) == []


# -- figures ---------------------------------------------------------------------------------------------------------------


def run(problem: Problem, resolver: str = "resolvelib") -> Resolution:
    return resolve_steps(*problem, resolver)


HARD = steps.random_index(4, 4, 0.7, 0)


def columns(grid, kind: str) -> list[tuple[int, int]]:
    """(row, column) of each box that a grid draws of a kind."""
    corners = (grid.bars if kind == "bar" else grid.marks[kind]).get_path().vertices
    boxes = corners.reshape(-1, 5, 2) if len(corners) > 1 else []
    return [(round((box[0, 1] - grid.top) // 19), round((box[:, 0].mean() - grid.left - 104) // grid.column)) for box in boxes]


def test_a_figure_is_described_by_its_own_sentence_opaque_and_small():
    made = charts.resolution(run(HARD), title="What pip does")
    tags = Tags(made._repr_mimebundle_()["text/html"])
    assert tags.image["alt"] == tags.caption == " ".join(made.sentence.split()) and numbers(made.sentence)
    picture = Image.open(io.BytesIO(made.png()))
    assert picture.width == 2 * charts.WIDTH and len(made.png()) < 150_000
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert charts.resolution(run(HARD), title="What pip does").png() == made.png()


def test_its_sentence_counts_what_the_record_holds():
    found = run(HARD)
    counted = re.fullmatch(
        r"pip's resolver \(resolvelib\): no solution after (\d+) steps: (\d+) pins, (\d+) rejected versions, (\d+) conflicts, (\d+) backtracks\.",
        charts.resolution(found).sentence,
    )
    expected = [len(found.steps), *(found.counts[kind] for kind in ("pin", "reject", "conflict", "backtrack"))]
    assert list(map(int, counted.groups())) == expected
    assert charts.resolution(run(steps.diamond())).sentence.endswith("1 conflict, 1 backtrack. It chose core 1.5, left 1.0, right 1.0.")
    assert "ends with a broken set (plugin 2 requires app==1, but app 2 is chosen)" in charts.resolution(run(steps.circle())).sentence
    long = charts.resolution(run(steps.chain(5, 6))).sentence
    assert re.search(r"\n(\d+) steps between are not drawn", long)[1] == str(len(run(steps.chain(5, 6)).steps) - 59)
    assert "The first 3 of 8 steps are drawn." in charts.resolution(run(steps.diamond()), at=3).sentence


@pytest.mark.parametrize("problem", [HARD, steps.pigeonhole(2), steps.chain(4, 4)])
def test_every_pin_is_a_bar_and_every_mark_stands_where_its_step_is(problem):
    found = run(problem)
    chart = charts.ResolutionSteps(rows=len(found.steps))
    seen = charts.ResolutionRecord({"pip": found}, len(found.steps), "x")
    with charts.paper():
        figure = charts.new_figure(chart.height)
        chart.setup(figure)
        chart.rescale(chart.limit(seen))
        chart.draw(seen)
    grid = chart._grids[0]
    for kind in ("conflict", "backtrack"):
        expected = {(row, grid.names.index(name)) for row, step in enumerate(found.steps) if step.kind == kind for name in step.involved}
        assert set(columns(grid, kind)) == expected
    rejected = {(row, grid.names.index(step.package)) for row, step in enumerate(found.steps) if step.kind == "reject"}
    assert set(columns(grid, "reject")) == rejected and columns(grid, "learn") == []
    changes = [(before.get(name), after.get(name)) for before, after in itertools.pairwise([{}, *(step.pins for step in found.steps)]) for name in grid.names]
    assert len(columns(grid, "bar")) == sum(new is not None and new != old for old, new in changes)


def test_no_text_is_cut_off_or_over_another():
    for problem in (
        HARD,
        steps.pigeonhole(4),
        Problem({"a-rather-long-name-of-a-package": {"1.0.0.post1": []}, "b": {"1": []}}, ["a-rather-long-name-of-a-package", "b"]),
    ):
        made = charts.resolution(run(problem), title="A title that goes on " * 6).figure
        with charts.paper():
            made.canvas.draw()
            places = [text.get_window_extent() for text in made.findobj(Text) if text.get_text() and text.get_visible() and text.axes is not None]
            ink = max(made.axes[0].patches + made.axes[0].artists, key=lambda patch: len(patch.get_path().vertices)).get_window_extent()
        assert ink.x0 >= 0 and ink.y0 >= 0 and ink.x1 <= made.bbox.x1
        for box in places:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= made.bbox.x1 and box.y1 <= made.bbox.y1
            assert sum(box.overlaps(other) for other in places) == 1


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: charts.resolution(run(steps.diamond()), at=9), "at=9 is not a step of this run: 1 to 8"),
        (lambda: charts.resolution(run(steps.pigeonhole(7))), "packages are too wide to draw: at most 14"),
        (lambda: charts.resolution(Resolution("resolvelib", "1", (), (), "too deep")), "without steps"),
        (lambda: charts.ResolutionSteps().limit(charts.ResolutionRecord({}, 1, "x")), "0 resolutions: one or two"),
        (lambda: charts.ResolutionSteps().words(charts.ResolutionRecord({"a": run(steps.diamond())}, -1, "x")), "at=-1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(call, line):
    with pytest.raises(BadInput, match=line) as refused:
        call()
    assert "\n" not in str(refused.value)


def update(step, tightness):
    """A small pure function in the shape of a lesson's."""
    problem = steps.random_index(4, 4, tightness, 0)
    both = {"newest first": run(problem), "the same again": run(problem)}
    return charts.ResolutionRecord(both, step, "both have ended" if step >= len(both["newest first"].steps) else "still at work", "Move on.")


@pytest.fixture
def panel():
    controls = {
        "step": ipywidgets.IntSlider(value=5, min=0, max=120, description="Step", tooltip="how many steps are done"),
        "tightness": ipywidgets.FloatSlider(value=0.7, min=0, max=1, step=0.1, description="Tightness", tooltip="share of versions excluded"),
    }
    return Panel("Two resolvers", controls, update, charts.ResolutionSteps(rows=20))


def test_each_control_at_its_ends_moves_text_and_picture_together(panel):
    assert panel.sweep() == 6
    for values in ({"step": 0}, {"step": 9}, {"step": 120}, {"tightness": 0.0}, {"tightness": 1.0}):
        before = numpy.asarray(panel.figure.canvas.buffer_rgba()).copy()
        said = panel.set(**values)
        found = panel.record.resolutions["newest first"]
        done = min(panel.record.at, len(found.steps))
        now = found.steps[done - 1].text if done else "nothing is pinned yet"
        assert said.startswith(panel.record.verdict) and f"newest first, step {done} of {len(found.steps)}: {now}." in said
        assert not (numpy.asarray(panel.figure.canvas.buffer_rgba()) == before).all()


def test_blitting_gives_the_same_pixels_as_drawing_everything_again(panel):
    panel.set(step=40)
    panel.set(step=17, tightness=0.5)
    blitted = numpy.asarray(panel.figure.canvas.buffer_rgba()).copy()
    chart = charts.ResolutionSteps(rows=20)
    with charts.paper():
        figure = charts.new_figure(chart.height)
        chart.setup(figure)
        chart.rescale(chart.limit(panel.record))
        for order, artist in enumerate(chart.draw(panel.record)):
            artist.set(animated=False, zorder=10 + order)
        figure.canvas.draw()
    assert (numpy.asarray(figure.canvas.buffer_rgba()) == blitted).all()


def test_a_move_reuses_the_background_and_costs_less_than_40_milliseconds_of_cpu(panel):
    background, spent = panel._background, []
    for step in range(20, 30):
        begin = time.process_time()
        panel.set(step=step)
        spent.append(time.process_time() - begin)
    assert panel._background is background and min(spent) < 0.04


def test_the_room_and_its_figure_are_light_to_import():
    code = (
        "import sys; from mllandscape import charts; from mllandscape.environments import locks, steps; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
