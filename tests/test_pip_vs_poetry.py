"""Lesson 1: the story's index, what tools say and do, locks on nine machines, resolver effort, training, the recording, the panel and the exercises."""

import ast
import io
import itertools
import json
import zipfile
from concurrent.futures import Future
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

from mllandscape import BadInput, charts, record, sandbox
from mllandscape.environments import Environment, Index, Run, serve, tools
from mllandscape.environments.locks import PLATFORMS, read_lock
from mllandscape.environments.steps import circle, pigeonhole, resolve_steps
from mllandscape.lessons import pip_vs_poetry as lesson

needs_tools = pytest.mark.skipif(tools.find() is None, reason=f"pip, Poetry and uv are not installed: {tools.INSTALL}")
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_pip_vs_poetry.ipynb"


@pytest.fixture
def played(monkeypatch):
    """Without the tools, from the recording."""
    monkeypatch.setenv("MLLANDSCAPE_TOOLS", "/nonexistent")
    lesson._pubgrub.cache_clear()
    yield
    lesson._pubgrub.cache_clear()


def run(words: str = "", exit_code: int | None = 0, installed: dict | None = None, problems: tuple = ()) -> Run:
    return Run("pip install alpha", exit_code, installed or {}, words, problems, {})


# -- the index ----------------------------------------------------------------------------------------------------------------


def test_the_index_is_the_same_everywhere():
    assert Index(lesson.STORY).sha256 == Index(reversed(lesson.STORY)).sha256
    assert Index(lesson.STORY).sha256 == "8215a48258f95c62232f87f59f071859a1b9f6c551ca34c785d5fbf7d9ce3e1a"


def test_torchs_requirements_are_published_ones_and_close_over_themselves():
    kept = record.load(lesson.TORCH)
    assert kept.provenance.kind == "published" and "2.13.0" in kept.provenance.source
    wheels = lesson.torch_index()
    for variables in PLATFORMS.values():  # needed() fails on a name that the index lacks
        assert lesson.needed(["torch"], wheels, variables) <= {wheel.name for wheel in wheels}
    newest = next(wheel for wheel in wheels if (wheel.name, wheel.version) == ("torch", "2.13.0"))
    assert any(text.startswith("cuda-toolkit[") and "Linux" in text for text in newest.requires)


# -- what tools say -------------------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_what_is_shown_of_a_run_holds_no_address(before, after):
    assert "example" not in lesson.said(run(f"{before}https://example.org/ {after}")) or "example" in before + after


def test_progress_is_left_out_and_the_rest_kept():
    words = "Looking in indexes: http://127.0.0.1/simple/\nCollecting alpha\n  Downloading alpha-1.0.whl (9 bytes)\nERROR: no\n\n\n\nsee https://x.org/a#b now"
    assert lesson.said(run(words)) == "ERROR: no\n\nsee (address) now"
    assert lesson.last_line(run(words)) == "see (address) now" and lesson.last_line(run()) == ""
    assert lesson.last_line(run("ImportError: cannot import name 'rescale' from 'mathlib' (mathlib.py). Did you mean: 'scale'?")).endswith("(mathlib.py)")
    assert lesson.line_with(run(words), "no", "yes") == "ERROR: no" and lesson.line_with(run(words), "yes") == ""


def test_a_table_says_machine_command_code_and_what_followed():
    broken = run("", 0, {"alpha": "1.0"}, ("alpha lacks mathlib",))
    shown = lesson.commands("t", {"one": broken, "two": [run("", None), run("", 1)]})
    assert shown.rows[0] == ["one", "pip install alpha", "0", "alpha 1.0", "alpha lacks mathlib"]
    assert [row[0] for row in shown.rows] == ["one", "two", ""] and [row[2] for row in shown.rows] == ["0", "stopped", "1"]
    assert lesson.commands("t", {"one": broken}, watch="alpha").rows == [["one", "pip install alpha", "0", "1.0"]]


@needs_tools
def test_the_same_conflict_is_told_in_the_same_words():
    """Poetry's solver goes through sets; without a fixed hash seed its proof of this one is another one every time."""
    problem, told = pigeonhole(3), []
    with serve(lesson.wheels_of(problem)) as index:
        for _ in range(2):
            with Environment(index) as environment:
                environment.project(*problem.requirements)
                told.append(environment.run("poetry lock"))
    assert told[0] == told[1] and told[0].exit_code == 1 and "version solving failed" in told[0].words


# -- locks ------------------------------------------------------------------------------------------------------------------------


@needs_tools
def test_what_a_project_needs_here_is_what_uv_installs():
    with serve(lesson.STORY) as index, Environment(index) as environment:
        environment.project(*lesson.PROJECT)
        assert environment.run("uv lock").ok
        assert set(environment.run("uv sync").installed) == lesson.needed(lesson.PROJECT, lesson.STORY, default_environment())


def test_what_a_project_needs_follows_markers_and_requirements_of_requirements():
    linux, mac, windows = (PLATFORMS["3.12", system] for system in ("linux", "macos", "windows"))
    assert lesson.needed(["alpha"], lesson.STORY, linux) == {"alpha", "mathlib"}
    assert lesson.needed(["worker"], lesson.STORY, mac) == {"worker", "metalkit"}
    assert lesson.needed(["worker"], lesson.STORY, PLATFORMS["3.10", "windows"]) == {"worker", "wincolors", "oldtoml"}
    assert lesson.needed(["stray; sys_platform == 'darwin'"], lesson.STORY, windows) == set()


def test_each_lock_is_right_where_its_markers_are(played):
    files = lesson.trials().files
    for name in (lesson.HASHED, lesson.EXPORTED, "poetry.lock", "uv.lock"):
        assert lesson.right_on(lesson.read(files, name)) == list(PLATFORMS)
    system = {"linux": "fastloop", "macos": "metalkit", "windows": "wincolors"}
    for name in (lesson.FREEZE, lesson.PYLOCK):
        lock = lesson.read(files, name)
        (here,) = [at for at, package in system.items() if package in {row.name for row in lock.rows}]
        assert lesson.right_on(lock) == [("3.12", here), ("3.13", here)]
    shown = {row[0]: row[1:] for row in lesson.lock_table(files).rows}
    assert shown["uv.lock"] == ("uv lock", "told apart", "every file", "4", "9 of 9")
    assert shown[lesson.FREEZE] == ("pip freeze", "not told apart", "none", "0", "2 of 9")


def test_one_lock_is_six_sets_of_packages(played):
    lock = lesson.read(lesson.trials().files, "poetry.lock")
    found = {pair: lesson.needed(lesson.PROJECT, lesson.STORY, variables) for pair, variables in PLATFORMS.items()}
    assert lesson.package_sets(lock) == len(set(map(frozenset, found.values()))) == 6
    shown = lesson.platform_table("t", lock)
    assert [int(row[1]) for row in shown.rows] == [len(found[pair]) for pair in PLATFORMS]


def test_torch_brings_cuda_on_linux_alone(played):
    locks = lesson.torch_locks()
    assert {version: [len(lock.on("3.12", system)) for system in ("linux", "macos", "windows")] for version, lock in locks.items()} == {
        "2.1.0": [22, 9, 9],
        "2.13.0": [29, 10, 10],
    }
    assert [row[4] for row in lesson.torch_table(locks).rows] == ["13", "19"]
    assert not any(name.startswith("nvidia") for name in locks["2.13.0"].on("3.13", "macos"))


def test_a_wrong_metadata_and_an_unnamed_build_pass_every_resolver(played):
    found = lesson.undeclared()
    assert [one.exit_code for one in found["Poetry"]] == [0, 1] and "rescale" in lesson.last_line(found["Poetry"][1])
    assert {one.installed["toytorch"] for who in ("pip", "uv") for one in found[who]} == {"2.1.0+cu121"}
    assert max(map(Version, ("2.1.0+cpu", "2.1.0+cu118", "2.1.0+cu121"))) == Version("2.1.0+cu121")


# -- effort -----------------------------------------------------------------------------------------------------------------------


def possible(problem) -> bool:
    """Brute force over all combinations: every package takes one of its versions, or is left out where nothing asks for it."""
    names = list(problem.packages)
    for chosen in itertools.product(*([*problem.packages[name], None] for name in names)):
        pins = {name: version for name, version in zip(names, chosen, strict=True) if version}
        asked = [*problem.requirements, *(text for name, version in pins.items() for text in problem.packages[name][version])]
        if all((need := Requirement(text)).name in pins and need.specifier.contains(pins[need.name]) for text in asked):
            return True
    return False


def test_the_panels_answers_are_those_of_brute_force(played):
    known = lesson.grid()
    for packages, offered in ((4, 3), (4, 5)):
        shown = lesson.effort(known, packages, offered, 0.0)
        assert list(shown.solvable) == [possible(lesson.drawn(packages, offered, excluded)) for excluded in range(offered)]


def test_both_resolvers_decide_the_families(played):
    spent = lesson.efforts()
    assert {by[who].ended for by in spent["chain"].values() for who in by} == {"solved"}
    assert {by[who].ended for by in spent["pigeons"].values() for who in by} == {"impossible"}
    for number, formula in lesson.FAMILIES["3-SAT"].items():
        truth = "solved" if lesson.satisfiable(formula) else "impossible"
        assert spent["3-SAT"][number]["PubGrub"].ended == truth and spent["3-SAT"][number]["resolvelib"].ended in (truth, "too deep")
    slow, fast = ([by[who].steps for by in spent["chain"].values()] for who in lesson.RESOLVERS)
    assert slow[-1] > 10 * fast[-1] and slow[-1] > 1.5 * slow[-2] and {b - 2 * a + c for a, b, c in zip(fast[1:], fast, fast[2:], strict=False)} == {5}


@needs_tools
def test_the_recorded_steps_of_pubgrub_are_those_of_now():
    name = "3 pigeons, 2 holes"
    kept = record.restore(tuple[lesson.Resolution, ...], record.load(lesson.KEPT).data["values"]["pubgrub"]["steps"])
    assert kept[list(lesson.STEPPED).index(name)] == resolve_steps(*lesson.STEPPED[name], "pubgrub")


def test_pips_resolver_ends_a_circle_with_a_broken_set():
    assert lesson._spent(resolve_steps(*circle(), "resolvelib")).ended == "broken"


def test_the_index_table_says_who_was_stopped():
    shown = lesson.effort_table([lesson.OnIndex("p", "pip", run("", None), 3), lesson.OnIndex("p", "uv", run("", 1), 4)])
    assert [row[2] for row in shown.rows] == [f"stopped at {lesson.PATIENCE} s", "refused"] and [row[4] for row in shown.rows] == ["3", "4"]


# -- training -----------------------------------------------------------------------------------------------------------------------


def test_the_same_setting_twice_is_the_same_bits_and_no_seed_is_not():
    outcome = sandbox.call("mllandscape.lessons.pip_vs_poetry:train_here", seconds=120, runs=[[1, 0], [1, 0], [1, None], [1, None]])
    once, again, free, other = outcome.value
    assert once == again and len({once["weights"], free["weights"], other["weights"]}) == 3
    assert once["packages"] == other["packages"] and 0 < once["loss"] < 1


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_float32_is_added_from_left_to_right(numbers):
    assert lesson.added(numbers) == float(numpy.cumsum(numpy.array(numbers, dtype=numpy.float32), dtype=numpy.float32)[-1])


def test_a_training_that_ends_badly_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("killed", message="killed by SIGKILL\nmore"))
    with pytest.raises(BadInput, match="ended with killed") as told:
        lesson.trainings()
    assert "\n" not in str(told.value)


# -- the notebook without the tools ---------------------------------------------------------------------------------------------------

HASHES = {"as it is": "a", "once more": "a", "two threads": "b", "no random seed": "c", "no random seed, once more": "d", "instructions of an older CPU": "e"}
TRAINED = {name: lesson.Trained(weights, 0.1, "p") for name, weights in HASHES.items()}


def test_without_the_tools_the_notebook_runs_and_shows_the_same(played, monkeypatch, tmp_path, capsys):
    """Every code cell, top to bottom, on the recording; what untagged cells show is what they show live."""
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    ready: Future = Future()
    ready.set_result(TRAINED)
    monkeypatch.setattr(lesson, "start_training", lambda: ready)
    names = {"display": print}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        capsys.readouterr()
        exec(compile(ast.Module(body, []), cell["id"], "exec"), names)
        if last and (value := eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)) is not None:
            print(repr(value))
        shown = capsys.readouterr().out
        if "nbval-ignore-output" in cell["metadata"].get("tags", []):
            assert "training" in cell["source"][0] or tools.INSTALL in shown.splitlines()[0], "it says in its first line that it shows a recording"
        else:
            stored = ["".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in cell["outputs"]]
            assert shown.split() == " ".join(stored).split(), cell["id"]


def test_the_decision_is_read_from_the_runs(played):
    tried, refused, fine = lesson.trials(), run("", 1), run()
    one = {"pip": refused, "pip lock": refused, "Poetry": refused, "uv": fine}
    broken = run("", 0, {}, ("alpha lacks mathlib",))
    found = lesson.guarantees(one, {"pip": [fine, broken], "Poetry": [fine], "uv": [fine]}, tried, TRAINED)
    assert found["refuses an impossible set"]["uv"] is False and found["refuses an impossible set"]["Poetry"] is True
    assert [found["keeps what earlier commands installed whole"][tool] for tool in lesson.TOOLS[:4]] == [False, False, True, True]
    assert {found["fixes the bits of what is trained"][tool] for tool in lesson.TOOLS[:4]} == {False}
    assert found.keys() == lesson.CONDA.keys()
    rows = lesson.decision_table(found).rows
    assert all(row[5].endswith(", cited") or row[5] == "not judged" for row in rows), "conda was not run"


# -- panels ---------------------------------------------------------------------------------------------------------------------------


def test_every_control_of_the_panel_is_drawn_at_its_limits(played):
    panel = lesson.panel(lesson.grid())
    assert panel.sweep() == 10
    panel.set(packages=10, offered=8, tightness=0.75)
    assert "resolvelib stopped at 3,000 steps" in panel.text and "flips between 62% and 75%" in panel.text
    assert panel.record.at == 6 and panel.record.solvable[:6] == [True] * 6 and not any(panel.record.solvable[6:])
    for offered in lesson.VERSIONS:
        panel.set(offered=offered, tightness=1.0)
        assert panel.record.at == offered - 1, "the tightest range still holds one version"


def test_the_steps_of_both_resolvers_are_drawn_one_by_one(played):
    steps = lesson.step_panel(lesson.stepped())
    assert steps.sweep() == len(lesson.STEPPED) + 3
    for problem, by in lesson.stepped().items():
        for at in (0, 1, max(len(one.steps) for one in by.values())):
            assert f"{problem}: " in steps.set(problem=problem, at=at)
    assert "learned" in steps.text


def test_the_effort_chart_refuses_what_it_cannot_show():
    chart = charts.Effort(("a",), 10)
    with pytest.raises(BadInput, match="this chart shows a up to 10"):
        chart.limit(charts.EffortRecord([0.0], {"b": [1]}, [True], 0, 10, "v"))
    assert chart.words(charts.EffortRecord([0.0, 0.5], {"a": [1, 2]}, [False, False], 0, 10, "v"))[-1] == "Impossible at every tightness."


# -- exercises ------------------------------------------------------------------------------------------------------------------------


def broken_requirements(distributions, prereleases=True, extras=False):
    """A right answer to the second exercise; with other settings, a wrong one."""
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(one.name): one.version for one in distributions}
    found = []
    for one in distributions:
        for text in one.requires or ():
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": "plot" if extras else ""}):
                continue
            version = installed.get(canonicalize_name(need.name))
            if version is None or not need.specifier.contains(version, prereleases=prereleases):
                found.append((one.name, text))
    return found


@pytest.mark.parametrize(
    "answer",
    [
        ["service>=3", "trainer>=2", "tokenizer", "hub>=0.16"],
        ["service>=3", "trainer>=2", "tokenizer<0.19", "hub>=0.16"],
    ],
)
def test_one_changed_line_solves_the_puzzle(answer):
    assert possible(lesson.PUZZLE._replace(requirements=answer)) and not possible(lesson.PUZZLE)
    assert lesson._one_change(answer) is None


@pytest.mark.parametrize(
    ("verify", "answer", "hint"),
    [
        (lesson._one_change, ["service>=3", "trainer>=2", "tokenizer<0.14", "hub>=0.16"], "0 are changed"),
        (lesson._one_change, ["service>=2", "trainer>=1", "tokenizer<0.14", "hub>=0.16"], "2 are changed"),
        (lesson._one_change, ["service>=3", "trainer>=2", "tokenizer"], "Keep the four"),
        (lesson._one_change, ["service>=3", "trainer>=1", "tokenizer<0.14", "hub>=0.16"], "cannot be met either"),
        (lesson._one_change, ["service", "trainer>=2", "tokenizer<0.14", "hub>=0.16"], "service has to stay"),
        (lesson._finds_what_is_broken, lambda distributions: [], "a version that is not allowed"),
        (lesson._finds_what_is_broken, lambda found: broken_requirements(found, prereleases=False), "a release candidate"),
        (lesson._finds_what_is_broken, lambda found: broken_requirements(found, extras=True), "a requirement of an extra"),
        (lesson._finds_what_is_broken, lambda found: [(one.name, text) for one in found for text in one.requires or ()], "nothing wrong"),
        (lesson._carries, 'lock-version = "1.0"\ncreated-by = "x"\npackages = []\n', "alpha"),
    ],
)
def test_wrong_answers_are_told_why(verify, answer, hint):
    assert hint in verify(answer)


def test_the_second_exercise_takes_what_pip_check_would_say():
    assert lesson._finds_what_is_broken(broken_requirements) is None


@needs_tools
def test_what_the_second_exercise_calls_broken_is_what_pip_check_does():
    with serve() as index, Environment(index) as environment:
        for wheels, broken in lesson._SITES.values():
            environment.clear()
            for wheel in wheels:
                with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
                    archive.extractall(environment.site)
            said = environment.run('python -c ""').problems
            assert len(said) == len(broken) and all(any(package in line and name in line for line in said) for package, name in broken)


def test_only_a_lock_for_pip_and_for_all_three_machines_is_carried(played):
    files = lesson.lock_with("uv lock", "uv export --quiet --format pylock.toml -o pylock.toml")
    assert lesson._carries(files["pylock.toml"]) is None
    assert "pip does not install from a uv.lock" in lesson._carries(files["uv.lock"])
    bare = "\n".join(f"{row.name}=={row.version} ; {row.marker}" if row.marker else f"{row.name}=={row.version}" for row in read_lock(files["uv.lock"]).rows)
    assert "no hash" in lesson._carries(bare)
    assert "alpha: no hash" in lesson._carries(files["pylock.toml"].replace(next(wheel.sha256 for wheel in lesson.STORY if wheel.name == "alpha"), "0" * 64))
    assert "On macos" in lesson._carries(lesson.trials().files[lesson.PYLOCK]) or "On linux" in lesson._carries(lesson.trials().files[lesson.PYLOCK])
    with pytest.raises(BadInput, match="is not in the recording"):
        lesson.lock_with("pip lock -r requirements.in")


@needs_tools
def test_a_command_that_is_refused_is_one_line():
    with pytest.raises(BadInput, match="uv lock --nonsense: exit code 2") as told:
        lesson.lock_with("uv lock --nonsense")
    assert "\n" not in str(told.value)


def test_runs_are_kept_only_where_they_ran(monkeypatch):
    monkeypatch.setattr(record, "save", lambda *_: pytest.fail("the recording was overwritten"))
    monkeypatch.setattr(tools, "find", lambda: None)
    with pytest.raises(BadInput, match="nothing to record"):
        lesson.labs.keep(lesson.KEPT, "")


def test_requirements_are_those_of_everyone_and_of_the_extras_that_are_asked_for():
    toolkit = ["blas==1; extra == 'cublas'", "nvvm==1; (sys_platform == 'linux') and extra == 'nvvm'", "everywhere"]
    wheels = [
        {"name": "Torch_", "version": "2", "requires_dist": ["cuda-toolkit[cublas]==13; platform_system == 'Linux'", "opt-einsum; extra == 'opt-einsum'"]},
        {"name": "bindings", "version": "1", "requires_dist": ["cuda-toolkit[nvvm]; extra == 'all'"]},
        {"name": "cuda-toolkit", "version": "13", "requires_dist": toolkit},
    ]
    assert lesson.requirements(wheels) == {
        "torch-": {"2": ['cuda-toolkit[cublas]==13; platform_system == "Linux"']},
        "bindings": {"1": []},
        "cuda-toolkit": {"13": ['blas==1; extra == "cublas"', "everywhere"]},
    }


@pytest.mark.parametrize(("version", "why"), [("2.13.0+cpu", "not the build on PyPI"), ("2.13.0", "")])
def test_the_recording_of_torch_is_made_of_pips_report_and_of_pypis_build_alone(version, why, monkeypatch):
    saved = {}
    monkeypatch.setattr(record, "save", lambda name, data, provenance: saved.update({name: (data, provenance.command)}))
    monkeypatch.setattr(lesson, "_pip_report", lambda requirement, python: [{"metadata": {"name": "torch", "version": version}}])
    if why:
        with pytest.raises(BadInput, match=why):
            lesson.record_torch()
        assert saved == {}
    else:
        lesson.record_torch()
        assert saved == {lesson.TORCH: ({"torch": {version: []}}, record.load(lesson.TORCH).provenance.command)}
