"""The throw-away index and environments: what is served, what the real tools do with it, and that nothing of it stays."""

import base64
import hashlib
import io
import itertools
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from mllandscape import BadInput, record, sandbox
from mllandscape.environments import Environment, Index, Run, Wheel, environment, serve, tools

SCALE, RESCALE = ("def scale(x):\n    return 2 * x\n", "def rescale(x):\n    return 2 * x\n")
BETA = Wheel("beta", "1.0", ("mathlib<1.0",), {"beta.py": "from mathlib import scale\n"})
STORY = [
    *(Wheel("mathlib", version, modules={"mathlib.py": SCALE}) for version in ("0.8", "0.9")),
    *(Wheel("mathlib", version, modules={"mathlib.py": RESCALE}) for version in ("1.0", "1.1")),
    Wheel("alpha", "1.0", ("mathlib>=1.0,<2",), {"alpha.py": "from mathlib import rescale\n"}),
    BETA,
]
needs_tools = pytest.mark.skipif(tools.find() is None, reason=f"pip, Poetry and uv are not installed: {tools.INSTALL}")


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


# ---- wheels and the index ----


def test_a_wheel_is_the_same_bytes_everywhere_and_each_line_of_its_record_holds():
    assert BETA.sha256 == "2ec3047eaf712c357684d42866669aae4c2c37150d40a9a26e5d1525e5e49eb9"
    with zipfile.ZipFile(io.BytesIO(BETA.content)) as archive:
        assert archive.testzip() is None and {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        *lines, own = archive.read("beta-1.0.dist-info/RECORD").decode().splitlines()
        assert own == "beta-1.0.dist-info/RECORD,," and len(lines) == len(archive.namelist()) - 1
        for path, digest, size in (line.split(",") for line in lines):
            data = archive.read(path)
            assert (digest, int(size)) == ("sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("="), len(data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "-alpha"},
        {"name": "al pha"},
        {"name": "../alpha"},
        {"version": "new"},
        {"version": ""},
        {"version": None},
        {"requires": "mathlib"},
        {"requires": ("mathlib >> 1",)},
        {"requires": (None,)},
        {"python": "3.10"},
        {"tag": "py3"},
        {"tag": "py3-none-any/../x"},
        {"modules": {"../alpha.py": ""}},
        {"modules": {"/alpha.py": ""}},
        {"modules": {"a\\b.py": ""}},
        {"modules": {"alpha.py\n": ""}},
    ],
    ids=str,
)
def test_a_wheel_that_no_index_would_take_is_one_line_that_names_it(wrong):
    with pytest.raises(BadInput) as error:
        Wheel(**{"name": "alpha", "version": "1.0"} | wrong)
    name = {"name": "alpha"} | wrong
    assert "\n" not in str(error.value) and str(error.value).startswith(f"wheel {name['name']!r} ")


def test_the_index_serves_what_the_standards_say_and_counts_what_it_was_asked_for():
    wheels = [*STORY, Wheel("Old.Name", "2.0", python=">=3.12", yanked="broken"), Wheel("native", "1.0", tag="cp312-cp312-win_amd64.win32")]
    with serve(wheels) as index:
        assert index.url.startswith("http://127.0.0.1:")
        root, page = fetch(index.url).decode(), fetch(f"{index.url}old-name/").decode()
        assert all(f'href="/simple/{name}/"' in root for name in ("alpha", "beta", "mathlib", "native", "old-name"))
        assert 'data-requires-python="&gt;=3.12"' in page and 'data-yanked="broken"' in page
        for wheel in wheels:
            address = f"{index.url.removesuffix('simple/')}files/{wheel.filename}"
            assert hashlib.sha256(fetch(address)).hexdigest() == wheel.sha256 and fetch(f"{address}.metadata") == wheel.metadata
        for path in ("simple/nothing/", "files/../index.py", "files/", "else", "simple/alpha/x/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(index.url.removesuffix("simple/") + path)
        assert index.requests == {"page": 2, "wheel": len(wheels), "metadata": len(wheels), "missing": 5}


def test_nothing_listens_after_the_block_however_it_ends():
    for ending in (ValueError, KeyboardInterrupt, None):
        try:
            with serve(STORY) as index:
                port = int(index.url.split(":")[2].split("/")[0])
                socket.create_connection(("127.0.0.1", port), 2).close()
                if ending:
                    raise ending
        except (ValueError, KeyboardInterrupt):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 2)


def test_an_index_refuses_other_bytes_under_a_name_it_has_unless_told_to_replace():
    index, other = Index(STORY), Wheel("beta", "1.0", (), {"beta.py": "import os\n"})
    before = index.sha256
    assert Index(reversed(STORY)).sha256 == before
    index.add(BETA)
    with pytest.raises(BadInput, match="beta-1.0-py3-none-any.whl is already on the index"):
        index.add(other)
    assert index.sha256 == before
    index.replace(other)
    assert index.sha256 != before
    with pytest.raises(BadInput, match="gamma.* is not on the index"):
        index.replace(Wheel("gamma", "1.0"))


# ---- environments ----


@pytest.fixture(scope="module")
def index():
    with serve(STORY) as index:
        yield index


@pytest.fixture
def env(index):
    with Environment(index) as env:
        yield env


@needs_tools
def test_a_run_is_the_tools_own_verdict_and_travels_as_json(env):
    run = env.run("pip install alpha beta")
    assert run.exit_code == 1 and "ResolutionImpossible" in run.words and run.installed == {} and not run.ok
    run = env.run("pip install --use-deprecated=legacy-resolver alpha beta")
    assert run.exit_code == 0 and run.installed == {"alpha": "1.0", "beta": "1.0", "mathlib": "1.1"}
    assert run.problems == ("beta 1.0 has requirement mathlib<1.0, but you have mathlib 1.1.",) and not run.consistent
    assert set(run.versions) == {"pip", "poetry", "uv"} and record.restore(Run, record.plain(run)) == run
    assert env.run("pip check").exit_code == env.run("uv pip check").exit_code == 1
    assert str(env.folder) not in run.words and env.index.url not in run.words


@needs_tools
@pytest.mark.parametrize("tool", ["pip", "uv pip"])
def test_separate_commands_break_an_environment_with_exit_code_0(env, tool):
    first, second = env.run(f"{tool} install alpha"), env.run(f"{tool} install beta")
    assert (first.exit_code, first.problems) == (0, ()) and (second.exit_code, len(second.problems)) == (0, 1)
    assert ("incompatible" in second.words) == (tool == "pip")
    assert "ImportError: cannot import name 'rescale' from 'mathlib'" in env.run('python -c "import alpha"').words
    env.clear()
    assert env.installed() == {}


@needs_tools
def test_poetry_and_uv_lock_install_and_refuse_in_a_project(env):
    env.project("alpha")
    assert [env.run(command).exit_code for command in ("poetry lock", "uv lock", "poetry install", "uv sync", "poetry check --lock")] == [0] * 5
    assert env.installed() == {"alpha": "1.0", "mathlib": "1.1"}
    assert all('name = "mathlib"' in env.read(lock) for lock in ("poetry.lock", "uv.lock"))
    env.project("alpha", "beta")
    poetry, uv = env.run("poetry lock"), env.run("uv lock")
    assert poetry.exit_code == uv.exit_code == 1 and "version solving failed" in poetry.words and "No solution found" in uv.words


@needs_tools
def test_a_command_that_takes_too_long_has_no_exit_code_and_ends(env):
    run = env.run('python -c "import time; time.sleep(60)"', seconds=0.5)
    assert run.exit_code is None and not run.ok and "time limit" in run.words and run.seconds < 30


@needs_tools
@pytest.mark.parametrize("command", ["conda install alpha", "", "   ", "pip 'install", "/bin/sh -c true"])
def test_a_command_of_no_tool_is_one_line(env, command):
    with pytest.raises(BadInput) as error:
        env.run(command)
    assert "\n" not in str(error.value)


@needs_tools
@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "", "."])
def test_files_are_inside_the_project(env, name):
    for use in (lambda: env.write(name, "text"), lambda: env.read(name)):
        with pytest.raises(BadInput, match="not a file inside"):
            use()
    with pytest.raises(BadInput, match="there is no poetry.lock in the project: it has no file yet"):
        env.read("poetry.lock")
    with pytest.raises(BadInput, match="is not a requirement"):
        env.project("alpha >> 1")


def test_without_the_tools_one_line_says_what_to_run(monkeypatch, tmp_path, index):
    monkeypatch.setenv("MLLANDSCAPE_TOOLS", str(tmp_path))
    with pytest.raises(BadInput, match=tools.INSTALL):
        Environment(index)


def test_tools_follow_the_users_data_where_the_environment_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.delenv("MLLANDSCAPE_TOOLS", raising=False)
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    assert tools._folders() == [Path(sys.prefix) / "tools", tmp_path / "tools"]


def test_tools_that_are_installed_meanwhile_are_found(monkeypatch, tmp_path):
    folder = tmp_path / "tools"
    monkeypatch.setenv("MLLANDSCAPE_TOOLS", str(folder))
    assert tools.find() is None
    (folder / "bin").mkdir(parents=True)
    (folder / "Scripts").mkdir()
    for name in ("bin/python", "Scripts/python.exe"):
        (folder / name).touch()
    for name in tools.NAMES:
        about = folder / "lib" / "python3.11" / "site-packages" / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    assert tools.find().versions == dict.fromkeys(tools.NAMES, "1.0")


@needs_tools
def test_a_pip_check_that_was_stopped_is_no_verdict_and_not_remembered(env, monkeypatch):
    env.run("pip install alpha")
    monkeypatch.setattr(environment, "_CHECKED", {})
    with monkeypatch.context() as patch:
        patch.setattr(environment.sandbox, "command", lambda *_, **__: sandbox.Outcome("timeout", message="stopped at its time limit of 60 s", exit_code=-9))
        assert env._check() == ("pip check gave no verdict: stopped at its time limit of 60 s",)
    assert env._check() == ()


TOUR = """
from mllandscape.environments import Environment, Wheel, serve
with serve([Wheel("alpha", "1.0", ("beta",)), Wheel("beta", "1.0")]) as index, Environment(index) as env:
    env.project("alpha")
    commands = "pip install alpha,pip lock alpha,poetry lock,poetry install,uv lock,uv sync,uv pip install beta,python -c 'import alpha'"
    for command in commands.split(","):
        run = env.run(command)
        assert run.ok, run
"""


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@needs_tools
@pytest.mark.parametrize("home", [True, False], ids=["empty HOME", "no HOME"])
def test_no_file_outside_the_temporary_folder_changes(tmp_path, home):
    places = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for folder in places.values():
        folder.mkdir()
    hostile = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_REQUIRE_VIRTUALENV": "1", "UV_INDEX_URL": "http://127.0.0.1:1/simple", "PYTHONPATH": ""}
    hostile |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:1")
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "MLLANDSCAPE_TOOLS")}
    settings = kept | hostile | {"TMPDIR": str(places["tmp"]), "PYTHONDONTWRITEBYTECODE": "1"} | ({"HOME": str(places["home"])} if home else {})
    site = tools.find().site
    watched = [site / "pip", site / "poetry", site / "virtualenv", *places.values()]
    before = [tree(folder) for folder in watched]
    ended = subprocess.run([sys.executable, "-c", TOUR], cwd=places["cwd"], env=settings, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert [tree(folder) for folder in watched] == before


# ---- the tools' verdicts against every combination ----


@st.composite
def small_indexes(draw):
    """Two to four packages of one to three versions, each of which needs a range of some after it: in a circle pip is wrong (see steps.circle)."""
    names = "abcd"[: draw(st.integers(2, 4))]
    wheels, limits = [], st.sampled_from(["", "<2", ">=2", "==1", "==3", "!=2", ">3"])
    for place, name in enumerate(names):
        later = names[place + 1 :]
        for version in range(1, draw(st.integers(1, 3)) + 1):
            others = draw(st.lists(st.sampled_from(later), unique=True, max_size=2)) if later else []
            wheels.append(Wheel(f"lib-{name}", str(version), tuple(f"lib-{other}{draw(limits)}" for other in others)))
    return wheels, [f"lib-{name}{draw(limits)}" for name in names[: draw(st.integers(1, 2))]]


def solutions(wheels: list[Wheel], roots: list[str]) -> list[dict[str, str]]:
    """Every way to choose at most one version of each package such that the roots and all that is chosen are content."""
    by_name: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        by_name.setdefault(wheel.name, []).append(wheel)
    found = []
    for choice in itertools.product(*([None, *versions] for versions in by_name.values())):
        chosen = {wheel.name: wheel for wheel in choice if wheel}
        needed = [Requirement(text) for text in itertools.chain(roots, *(wheel.requires for wheel in chosen.values()))]
        if all(need.name in chosen and need.specifier.contains(chosen[need.name].version) for need in needed):
            found.append({name: wheel.version for name, wheel in chosen.items()})
    return found


def agrees(tool: str, wheels: list[Wheel], roots: list[str]) -> None:
    """``tool`` installs the roots exactly when some combination meets every requirement, and then one of those."""
    with serve(wheels) as index, Environment(index) as env:
        run = env.run(f"{tool} install {' '.join(map(repr, roots))}")
    possible = solutions(wheels, roots)
    assert run.ok == bool(possible), (run, roots)
    if run.ok:  # nothing superfluous is installed: what is there is the smallest part of some solution
        assert any(run.installed.items() <= solution.items() for solution in possible) and run.consistent, (run, roots)


@needs_tools
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(small_indexes())
def test_uv_finds_a_solution_exactly_when_there_is_one(problem):
    agrees("uv pip", *problem)


@needs_tools
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(small_indexes())
def test_pip_finds_a_solution_exactly_when_there_is_one(problem):
    agrees("pip", *problem)


@needs_tools
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(small_indexes())
def test_poetry_finds_a_solution_exactly_when_there_is_one(problem):
    wheels, roots = problem
    with serve(wheels) as index, Environment(index) as env:
        env.project(*roots)
        assert env.run("poetry lock").ok == bool(solutions(wheels, roots)), (roots, wheels)
