"""Lesson 7: what was published, the toy packages, the model of pip held to pip and uv, the experiments live and recorded, the panel and the exercises."""

import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mllandscape import BadInput, charts, record
from mllandscape.environments import Environment, Run, Wheel, serve, tools
from mllandscape.environments.published import Name, published, read_wheel, rows
from mllandscape.environments.toys import BUILT, LATER, TODAY, failure, offered, on_offer, releases, resolve, specifiers
from mllandscape.lessons import dependency_hell as lesson

ROOT = Path(__file__).parents[1]
live = pytest.mark.skipif(tools.find() is None, reason="pip, Poetry and uv are not installed: run `mllandscape tools`")
EXPERIMENTS = (lesson.story, lesson.shadows, lesson.bisect, lesson.suspects, lesson.pythons, lesson.remedies, lesson.ci, lesson.build_once, lesson.coexist)


@pytest.fixture
def without_tools(monkeypatch):
    monkeypatch.setattr(tools, "find", lambda: None)


@pytest.fixture(scope="module")
def recorded():
    """Every experiment, played back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "find", lambda: None)
        return {experiment.__name__: experiment() for experiment in EXPERIMENTS}


@pytest.fixture
def unchecked(monkeypatch):
    """``pip check`` left out, where only versions are looked at: it takes most of the time."""
    monkeypatch.setattr(Environment, "_check", lambda self: ())


# -- reading wheels -----------------------------------------------------------------------------------------------------

NAMES = st.lists(st.from_regex(r"[A-Z][a-z]{1,8}", fullmatch=True), min_size=4, max_size=12, unique=True)


@given(NAMES, st.randoms())
def test_every_public_name_of_a_package_is_read_however_it_is_bound(tmp_path_factory, names, draw):
    ways = ("class {}: pass", "def {}(): hidden = 1", "{} = 1", "from .part import {}", "from .part import x as {}", "if True:\n    from .part import {}")
    lines = [draw.choice(ways).format(name) for name in names]
    text = "\n".join(["import os", "from typing import Any", "_private = 1", *lines, "try:\n    from . import Late\nexcept ImportError:\n    Late = None"])
    path = tmp_path_factory.mktemp("wheels") / "toy-1.0-py3-none-any.whl"
    path.write_bytes(Wheel("toy", "1.0", ("toynumpy>=1.17", "extra-thing; extra == 'x'"), {"toy/__init__.py": text}, python=">=3.8").content)
    contents = read_wheel(path, "toy")
    assert contents.names == {*names, "Late"}
    assert (contents.version, contents.python, contents.requires, contents.date) == ("1.0", ">=3.8", {"toynumpy": ">=1.17"}, "1980-01-01")


@pytest.mark.parametrize("broken", ["no such file", "no zip", "another package", "no Python"])
def test_what_is_no_such_wheel_is_one_line(tmp_path, broken):
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    if broken == "no zip":
        path.write_bytes(b"PK")
    elif broken != "no such file":
        path.write_bytes(Wheel("toy", "1.0", modules={"other/__init__.py": ""} if broken == "another package" else {"toy/__init__.py": "def ("}).content)
    with pytest.raises(BadInput, match="toy-1.0.* is no wheel with a package 'toy'") as told:
        read_wheel(path, "toy")
    assert "\n" not in str(told.value)


def test_the_rows_of_the_facts_are_written_as_they_are_kept(tmp_path):
    """On three small wheels: a name that comes, and one that goes."""
    wheels = []
    for version, names in (("4.20.1", "cached_path"), ("4.25.1", "cached_path, GenerationConfig"), ("4.35.2", "GenerationConfig")):
        every = [name.name for name in published().names if name.name not in ("cached_path", "GenerationConfig")]
        text = f"from .all import {names}, {', '.join(every)}"
        path = tmp_path / f"transformers-{version}-py3-none-any.whl"
        path.write_bytes(Wheel("transformers", version, ("numpy>=1.17", "tokenizers<0.13"), {"transformers/__init__.py": text}, python=">=3.7").content)
        wheels.append(read_wheel(path, "transformers"))
    data = tomllib.loads(rows(wheels))
    kept = {row["name"]: row for row in data["names"]}
    assert kept["GenerationConfig"] == {"name": "GenerationConfig", "since": "4.25.1", "before": "4.20.1"}
    assert kept["cached_path"] == {"name": "cached_path", "since": "4.20.1", "until": "4.35.2"}
    first = {"version": "4.20.1", "date": "1980-01-01", "python": ">=3.7", "numpy": ">=1.17", "tokenizers": "<0.13"}
    assert data["wheels"][0] == first | {"names": len(every) + 1}
    assert data["from_4_20_1_to_4_35_2"] == {"new": 1, "gone": 1}


def test_the_published_facts_agree_with_each_other():
    facts = published()
    versions = [release.version for release in facts.releases]
    assert versions == sorted(versions, key=Version) and facts.read == max([facts.read, *(release.date for release in facts.releases)])
    for name in facts.names:
        assert name.since in versions and (not name.before or versions.index(name.before) == versions.index(name.since) - 1), name
        assert not name.until or name.until in versions
    old, new = (facts.release(version) for version in ("4.20.1", "4.35.2"))
    assert new.names - old.names == facts.new - facts.gone
    assert facts.yanked.keys() <= set(versions) and all(version in versions for version in facts.python.values())
    for python, version in facts.python.items():  # the newest on each Python accepts it, and every later one that was read refuses it
        later = [release for release in facts.releases if Version(release.version) >= Version(version)]
        assert [f"{python}.9" in SpecifierSet(release.python) for release in later] == [True] + [False] * (len(later) - 1)
    common = SpecifierSet(old.tokenizers) & SpecifierSet(new.tokenizers)
    assert not list(common.filter(f"0.{minor}.{patch}" for minor in range(25) for patch in range(5)))
    for bad in (facts.name, facts.release):
        with pytest.raises(BadInput) as told:
            bad("9.9")
        assert "\n" not in str(told.value)


def test_a_name_is_in_a_version_from_since_until_until():
    name = Name("cached_path", "2.11.0", until="4.22.0")
    assert [name.is_in(version) for version in ("2.9", "2.11.0", "4.21.3", "4.22.0", "5.0")] == [False, True, True, False, False]


# -- the toys -----------------------------------------------------------------------------------------------------------


def test_the_toys_mirror_what_was_published():
    wheels = {wheel.version: wheel for wheel in on_offer(LATER) if wheel.name == "toytransformers"}
    assert set(wheels) == {release.version for release in releases()} and wheels["4.25.0"].yanked == "Version was not properly set"
    for version, wheel in wheels.items():
        release = published().release(version)
        assert wheel.python == release.python and wheel.requires == (f"toynumpy{release.numpy}",)
        text = wheel.modules["toytransformers/__init__.py"]
        assert [f"class {name.name}:" in text for name in published().names] == [name.is_in(version) for name in published().names]


def test_the_index_is_the_same_every_time_and_grows_with_the_days():
    def digests(day):
        return {wheel.filename: wheel.sha256 for wheel in on_offer(day)}

    assert digests(LATER) == digests(LATER) and digests(BUILT).items() < digests(TODAY).items() < digests(LATER).items()


# -- the model of pip, held to pip and uv -----------------------------------------------------------------------------------

REQUIREMENTS = tuple(lesson.REQUIREMENTS.values())
COMMANDS = {
    "no": "uv pip install -r requirements.txt",
    "named": "pip install -U -r requirements.txt",
    "all": "uv pip install -U -r requirements.txt",
    "new": "uv pip install -r requirements.txt",
}
GRID = [(age, requirement, deploy, early) for age in range(18) for requirement in REQUIREMENTS for deploy in COMMANDS for early in (False, True)]
SAMPLE = random.Random(11).sample([place for place in GRID if place[2] != "named"], 12) + [
    (17, lesson.LOOSE, "no", False),
    (17, lesson.LOOSE, "named", False),
    (9, "toytransformers~=4.30.0", "named", True),
    (12, REQUIREMENTS[4], "no", True),
]


@live
@pytest.mark.parametrize("place", SAMPLE, ids=str)
def test_the_panels_machines_hold_what_pip_and_uv_install(place, unchecked):
    age, requirement, deploy, early = place
    early_wheels = [wheel for wheel in on_offer(LATER) if (wheel.name, wheel.version) == ("toynumpy", "2.0.0")] if early else []
    with serve(on_offer(lesson.day_before(age))) as index, Environment(index, lesson.FILES) as production:
        assert production.run("uv pip install -r requirements.txt").ok
        index.add(*on_offer(TODAY), *early_wheels)
        production.write("requirements.txt", requirement)
        if deploy == "new":
            production.clear()
        run = production.run(COMMANDS[deploy])
        shown = lesson.three_machines(*place)
        assert run.installed == shown.installed["production"], run.words
        assert production.run("python app.py").ok == ("production" not in shown.failures)


@given(st.sampled_from(GRID))
def test_every_setting_of_the_panel_obeys_the_rules(place):
    age, requirement, deploy, early = place
    shown = lesson.three_machines(*place)
    laptop, production, pipeline = (shown.installed[name] for name in lesson.PANEL_MACHINES)
    for name, versions in shown.allowed.items():
        assert laptop[name] == versions[-1], "an empty environment takes the newest that is allowed"
        assert production[name] in versions, "what is installed satisfies the file"
    assert deploy != "new" or production == laptop
    assert pipeline == laptop if requirement != lesson.LOOSE else pipeline == lesson.versions_held(age, lesson.LOOSE, "no", early)["production"]
    assert {name for name, held in shown.installed.items() if failure(held)} == shown.failures.keys()
    assert shown.verdict.startswith("Fails on") == bool(shown.failures)
    if requirement == REQUIREMENTS[-1]:
        assert laptop == production == pipeline and not shown.failures


@given(st.sampled_from(REQUIREMENTS), st.integers(0, 17), st.integers(0, 17))
def test_upgrades_only_go_up_and_a_second_deployment_changes_nothing(requirement, old, new):
    before, today = resolve(lesson.LOOSE, offered(lesson.day_before(old))), offered(TODAY)
    named, eager = (resolve(requirement, today, before, upgrade) for upgrade in ("named", "all"))
    for package in before:
        assert Version(eager[package]) >= Version(named[package])
    for upgrade in ("no", "named", "all"):
        once = resolve(requirement, today, before, upgrade)
        assert resolve(requirement, today, once, upgrade) == once


@pytest.mark.parametrize("bad", ["toynumpy==1.26.2", "toytransformers=>4", "toytransformers==9.9", "toytransformers==4.25.0"])
def test_a_requirement_that_cannot_be_met_is_one_line(bad):
    with pytest.raises(BadInput) as told:
        resolve(bad, offered(TODAY))
    assert "\n" not in str(told.value)


def test_hashes_and_comments_of_a_requirements_file_are_left_out():
    text = "# made by uv\ntoynumpy==1.26.2 \\\n    --hash=sha256:00\ntoytransformers==4.35.2  # the app\n"
    assert {name: str(specifier) for name, specifier in specifiers(text).items()} == {"toynumpy": "==1.26.2", "toytransformers": "==4.35.2"}


@pytest.mark.parametrize(("months", "day"), [(0, TODAY), (1, "2023-11-01"), (11, "2023-01-01"), (12, "2022-12-01"), (17, BUILT)])
def test_months_before_a_day(months, day):
    assert lesson.day_before(months) == day


# -- the experiments, recorded and live -------------------------------------------------------------------------------------


def test_without_the_tools_every_experiment_is_played_back_and_says_so(recorded, without_tools):
    assert all(acted.scenes for acted in recorded.values())
    said = lesson.line()
    assert "mllandscape tools" in said and "recorded on CPU" in said and "pip 26" in said and "\n" not in said
    for shown in (recorded["story"].show("t"), lesson.suspects_table(recorded["suspects"]), lesson.bisection_figure(recorded["bisect"])):
        assert said in shown._repr_html_() and said not in repr(shown)


def test_what_was_not_recorded_is_one_line(without_tools):
    for missing in (lambda: lesson.bisect("AwqConfig"), lambda: lesson.broken(99).__enter__()):
        with pytest.raises(BadInput, match="mllandscape tools") as told:
            missing()
        assert "\n" not in str(told.value)
    with lesson.broken(lesson.DIAGNOSED[0]) as machines, pytest.raises(BadInput, match="was not recorded, only .*python app.py, .*mllandscape tools"):
        machines[0].run("pip list")


@live
def test_the_recording_holds_what_a_run_gives(recorded):
    for experiment in (lesson.story, lesson.pythons):  # the notebook holds the others to it: its outputs are the same live and recorded
        now, kept = experiment(), recorded[experiment.__name__]
        assert now.found == kept.found and now.scenes.keys() == kept.scenes.keys()
        for scene, runs in now.scenes.items():
            for run, was in zip(runs, kept[scene], strict=True):
                assert (run.command, run.exit_code, run.installed, run.problems) == (was.command, was.exit_code, was.installed, was.problems)


def test_two_machines_differ_by_one_requirement(recorded):
    story = recorded["story"]
    assert [run.exit_code for runs in story.scenes.values() for run in runs] == [0, 0, 0, 0, 0, 1, 0]
    assert "Requirement already satisfied: toytransformers>=4.20.0" in story["production, December 2023, new code"][0].words
    failed = story.last("production, December 2023, new code")
    assert lesson.blame(failed.words) == ("GenerationConfig", "toytransformers", "site-packages/toytransformers/__init__.py")


def test_the_places_of_one_message(recorded):
    places = {case: lesson.blame(runs[-1].words)[2] for case, runs in recorded["shadows"].scenes.items()}
    assert list(places.values()) == ["", "site-packages/transformers/__init__.py", "./transformers.py", "./transformers/__init__.py", "", "unknown location"]


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("ImportError: cannot import name 'A' from 'b' (./b.py)", "./b.py"),
        ("ImportError: cannot import name 'A' from 'b' (consider renaming './b.py' if it has the same name as a library you intended to import)", "./b.py"),
        ("ImportError: cannot import name 'A' from 'b' (unknown location)", "unknown location"),
        ("ModuleNotFoundError: No module named 'b'", ""),
        ("", ""),
    ],
)
def test_the_place_is_read_from_every_pythons_message(said, place):
    assert lesson.blame(f"Traceback (most recent call last):\n  File\n{said}")[2] == place


def test_the_bisection_needs_few_installs_and_passes_over_what_was_withdrawn(recorded):
    found = recorded["bisect"].found
    right = [published().name("GenerationConfig").is_in(version) for version in found["versions"]]
    assert found["versions"] == [version for version in offered(TODAY)["toytransformers"] if version != "4.20.0"]
    assert found["first"] == found["versions"][right.index(True)] == "4.25.1"
    assert len(found["tried"]) <= 2 + (len(right) - 2).bit_length() and all(right[found["versions"].index(version)] == ok for version, ok in found["tried"])
    withdrawn = recorded["bisect"]["the withdrawn 4.25.0"]
    assert [run.installed["toytransformers"] for run in withdrawn] == ["4.24.0", "4.25.0", "4.25.0"] and "yanked" in withdrawn[1].words


@live
def test_a_bisection_whose_ends_do_not_differ_is_refused(unchecked):
    with pytest.raises(BadInput, match="4.20.1 has it") as told:
        lesson.bisect("AutoModelForCausalLM")
    assert "\n" not in str(told.value)


def test_what_keeps_an_old_version(recorded):
    suspects = recorded["suspects"]
    kept = [row[2] for row in lesson.suspects_table(suspects).shown.rows]
    assert kept == ["yes", "yes", "yes", "no"] and "Using cached toytransformers-4.20.1" in suspects.last("empty, page cached").words
    numpys = [suspects.last(scene).installed["toynumpy"] for scene in ("installed, asked again", "installed, -U", "installed, -U, eager")]
    assert numpys == ["1.23.0", "1.23.0", "1.26.2"]
    assert len(suspects["image, same text"]) == 1 and len(suspects["image, one comment more"]) == 2, "the cached layer installs nothing"


def test_the_toy_answers_on_each_python_as_was_published(recorded):
    assert recorded["pythons"].found == published().python


@live
@pytest.mark.parametrize("python", ["3.7", "3.12"])
def test_pip_resolves_for_another_python_as_uv_does(python, unchecked):
    wheels = [lesson.toytransformers(published().release(version)) for version in published().python.values()]
    with serve([*wheels, lesson.toynumpy("1.26.2")]) as index, Environment(index, lesson.FILES) as machine:
        run = machine.run(f"pip install --dry-run --python-version {python} --only-binary=:all: --target t -r requirements.txt")
        assert f"toytransformers-{published().python[python]}" in run.words.splitlines()[-1]


def test_a_pin_leaves_three_environments_and_a_lock_one(recorded):
    remedies = recorded["remedies"]
    different = {remedy: len({json.dumps(held) for held in lesson.sets(remedies, remedy).values()}) for remedy in lesson.REMEDIES}
    assert different == {"left loose": 3, "one pin": 3, "Poetry's lock": 1, "uv's lock": 1}
    pinned = lesson.sets(remedies, "one pin")
    assert {held["toytransformers"] for held in pinned.values()} == {"4.35.2"} and len({held["toynumpy"] for held in pinned.values()}) == 3
    assert "float_" in remedies.last("one pin, next machine").words
    install, sync, _ = remedies["Poetry's lock, production"]
    assert "toynotebook" in install.installed and "toynotebook" not in sync.installed
    for remedy, locked in remedies.found.items():
        assert all(held == locked for held in lesson.sets(remedies, remedy).values())


def test_ci_sees_what_it_installs(recorded):
    codes = {scene: runs[-1].exit_code for scene, runs in recorded["ci"].scenes.items()}
    assert list(codes.values()) == [0, 1, 1, 0, 0, 1]
    assert "needs to be updated" in recorded["ci"].last("pyproject.toml edited, lock forgotten: CI").words


def test_a_build_is_copied_to_the_byte_and_fits_one_platform(recorded):
    built = recorded["build_once"]
    assert built.found["same"] is True and built.found["requests"] == 0
    assert [built.last(name).ok for name in lesson.PLATFORMS] == [True, False, False, False, False]
    table = lesson.remedies_seconds(recorded["remedies"], recorded["ci"], built).shown
    assert [row[0] for row in table.rows] == [*lesson.REMEDIES, "CI on the locked set", "build once"] and all(row[2] != "-" for row in table.rows)
    assert [row[3].split()[0] for row in table.rows] == ["uv", "uv", "poetry", "uv", "uv", "every"]


def test_each_way_out_has_its_price(recorded):
    verdicts = lesson.verdicts(recorded["coexist"])
    assert [way for way, verdict in verdicts.items() if not verdict.resolves] == ["as it is"]
    assert [way for way, verdict in verdicts.items() if not verdict.consistent] == ["an override"]
    assert [way for way, verdict in verdicts.items() if verdict.resolves and not verdict.right] == ["a fork, pin relaxed", "an override"]
    assert [way for way, verdict in verdicts.items() if verdict.resolves and not verdict.feature] == ["an older server"]
    mean, values = 2.5, [1, 2, 3, 4]  # the answer of toytensor 1.26, by hand
    assert verdicts["two environments"].answer == f"spread {sum((value - mean) ** 2 for value in values) / 3:.2f}"
    assert recorded["coexist"].last("vendored").words == "one type: False"


@live
def test_nothing_is_left_behind_and_nothing_listens(tmp_path):
    """With an empty home, in a folder of its own: neither changes, the temporary folder is empty again, and the index does not answer any more."""
    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    code = textwrap.dedent("""
        from mllandscape.environments import lab
        from mllandscape.lessons import dependency_hell as lesson
        served = []
        enter = lab.Lab.__enter__
        lab.Lab.__enter__ = lambda self: served.append(enter(self)) or self
        lesson.ci()
        print(served[0]._index.url)
    """)
    keep = {name: os.environ[name] for name in ("PATH", "MLLANDSCAPE_TOOLS", "SYSTEMROOT") if name in os.environ}
    variables = keep | {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(temporary), "TEMP": str(temporary), "PYTHONPATH": str(ROOT)}
    watched = (ROOT / "mllandscape", tools.find().python.parents[1])
    before = [_tree(folder) for folder in watched]
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=work, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [list(folder.iterdir()) for folder in (home, work, temporary)] == [[], [], []]
    assert [_tree(folder) for folder in watched] == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", urlsplit(done.stdout.strip()).port)) != 0


def _tree(folder: Path) -> dict[str, int]:
    files = (Path(root) / name for root, _, names in os.walk(folder) if not root.endswith("__pycache__") for name in names)
    return {str(path): path.stat().st_mtime_ns for path in files}


# -- the three broken machines ----------------------------------------------------------------------------------------------


def test_the_two_seeds_have_every_cause():
    assert {cause for seed in lesson.DIAGNOSED for cause in lesson.causes(seed)} == lesson.CAUSES.keys()
    assert lesson.causes(1) == lesson.causes(1)


@live
@pytest.mark.parametrize("seed", lesson.DIAGNOSED)
def test_broken_machines_are_broken_as_they_say(seed, unchecked, monkeypatch):
    """Judged by what lies on the disk, not by what the app says; and the same as when they were recorded."""
    with monkeypatch.context() as patch:
        patch.setattr(tools, "find", lambda: None)
        with lesson.broken(seed) as machines:
            kept = [machine.run("python app.py") for machine in machines]
    with lesson.broken(seed) as machines:
        for machine, was, cause in zip(machines, kept, lesson.causes(seed), strict=True):
            failed, held = machine.run("python app.py"), machine.installed()
            assert failed.exit_code == was.exit_code == 1 and held == was.installed and lesson.blame(failed.words) == lesson.blame(was.words)
            (specifier,) = specifiers(machine.read("requirements.txt")).values()
            assert {
                "shadowed": (machine.folder / "toytransformers.py").exists(),
                "half removed": not (machine.site / "toytransformers" / "__init__.py").exists(),
                "dependency moved": held["toynumpy"] == "2.0.0",
                "held back": "toyplugin" in held and held["toytransformers"] not in specifier,
                "old version": specifier == SpecifierSet(">=4.20.0") and held["toytransformers"] in specifier and "toyplugin" not in held,
            } == {name: name == cause for name in lesson.CAUSES}


def test_the_recorded_machines_fail_too_and_can_be_diagnosed(without_tools):
    for seed in lesson.DIAGNOSED:
        with lesson.broken(seed) as machines:
            for machine in machines:
                assert [machine.run(command).command for command in lesson.COMMANDS] == list(lesson.COMMANDS)
                assert machine.run("python app.py").exit_code == 1 and "toytransformers" in machine.read("requirements.txt")
    assert lesson._diagnoses(diagnosis) is None


def diagnosis(machine) -> str:
    _, module, place = lesson.blame(machine.run("python app.py").words)
    if place == "unknown location" or place.startswith("./"):
        return "half removed" if place == "unknown location" else "shadowed"
    if module == "toynumpy":
        return "dependency moved"
    return "held back" if "Would install" in machine.run("pip install --dry-run -r requirements.txt").words else "old version"


def bisection(versions, works):
    if not works(versions[-1]):
        return None
    fails, good = -1, len(versions) - 1
    while good - fails > 1:
        middle = (fails + good) // 2
        fails, good = (fails, middle) if works(versions[middle]) else (middle, good)
    return versions[good]


@pytest.mark.parametrize(
    ("verify", "right", "wrong"),
    [
        (lesson._finds_the_first, bisection, lambda versions, works: next((version for version in versions if works(version)), None)),
        (lesson._finds_the_first, None, lambda versions, works: versions[-1]),
        (lesson._diagnoses, diagnosis, lambda machine: "old version"),
        (lesson._pins_everything, "toytransformers==4.35.2\ntoynumpy==1.26.2\n", "toytransformers==4.35.2"),
        (lesson._pins_everything, "toynumpy==1.23.0\ntoytransformers==4.25.1", "toytransformers>=4.25.1\ntoynumpy<2"),
        (lesson._pins_everything, None, "toytransformers==4.20.1\ntoynumpy==1.26.2"),
        (lesson._pins_everything, None, 7),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong, without_tools):
    assert right is None or verify(right) is None
    assert isinstance(verify(wrong), str)


# -- figures and the panel ----------------------------------------------------------------------------------------------------


def test_a_transcript_says_its_runs_and_keeps_what_differs_between_machines_out_of_its_text():
    def run(command, code, installed, words="", problems=()):
        return Run(command, code, installed, words, problems, {"pip": "26.3"}, 1.0)

    told = "Looking in indexes: http://127.0.0.1/simple/\nTraceback (most recent call last):\n  File x\nImportError: <no>"
    one, other = {"x": "1"}, {"y": "2"}
    scenes = {
        "a": [run("pip install x", 0, one), run("pip install x", 0, one), run("uv lock", 1, one), run("pip install y", 0, other, "", ("p",))],
        "b": [run("python app.py", 1, {}, told), run("python -c 1", 0, {}), run("pip install z", None, {})],
    }
    shown = charts.Transcript("What was run", scenes, "Run here, with pip 26.3.")
    outcomes = [row[3] for row in shown.rows]
    assert outcomes[:4] == ["x 1", "nothing changed", "refused", "y 2; pip check: 1 problem"]
    assert outcomes[4:] == ["ImportError: <no>", "(prints nothing)", "refused"]
    assert "time-out" in repr(shown) and "26.3" not in repr(shown) and repr(shown).startswith("What was run\na:\n  $ pip install x")
    page = shown._repr_html_()
    assert "Run here, with pip 26.3." in page and "ImportError: &lt;no&gt;" in page and "://" not in page and "Traceback" not in page
    noted = charts.Noted(charts.Table("t", ("a",), (("1",),)), "a <line>")
    assert repr(noted) == "t\na\n1" and '<div class="here"><p><small>a &lt;line&gt;</small></p></div>' in noted._repr_html_()


def test_the_bisection_figure_says_every_install(recorded):
    shown = lesson.bisection_figure(recorded["bisect"])
    assert "Install 1: 4.35.2 works." in repr(shown) and repr(shown).endswith("The first of 39 versions that works: 4.25.1.")
    assert "<figure" in shown._repr_html_()
    with pytest.raises(BadInput, match="9.9"):
        charts.bisection(["1.0"], [("9.9", True)])
    assert "No version works" in repr(charts.bisection(["1.0", "2.0"], [("2.0", False)]))


@pytest.fixture(scope="module")
def panel():
    return lesson.panel()


def test_every_control_is_drawn_at_its_limits(panel):
    assert panel.sweep() == 3 + len(lesson.REQUIREMENTS) + len(lesson.DEPLOYS) + 2


def test_the_verdict_flips_with_the_age_and_says_where(panel):
    panel.set(age=13, requirement=lesson.LOOSE, deploy="no", early=False)
    assert panel.record.verdict.startswith("Fails on production") and "at an age of 0 to 12 months" in panel.text
    panel.set(age=12)
    assert panel.record.verdict.startswith("All three run")
    panel.set(age=17, deploy="named")
    assert set(panel.record.failures) == {"CI, cached layer"}, "what the deployment upgrades, the layer does not"


def test_the_panel_shows_marks_for_every_machine_and_package(panel):
    panel.set(age=17, requirement=lesson.LOOSE, deploy="no", early=False)
    drawn = panel._chart.draw(panel.record)
    marks = [artist for artist in drawn if getattr(artist, "get_marker", lambda: "None")() in ("o", "X")]
    assert len(marks) == 6 and sum(mark.get_marker() == "X" for mark in marks) == 2


def test_the_recording_is_small_and_says_where_it_is_from():
    kept = record.load(lesson.KEPT)
    assert kept.provenance.kind == "recorded" and kept.provenance.command.endswith("dependency_hell record")
    assert (record.FOLDER / f"{lesson.KEPT}.json").stat().st_size < 120_000
