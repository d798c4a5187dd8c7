"""Lock files as the real tools write them: what is read from them, and what they yield on nine platforms by the tools' own judgement."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.markers import Marker, default_environment
from packaging.pylock import Pylock
from packaging.requirements import Requirement
from packaging.version import Version

from mllandscape import BadInput, record
from mllandscape.environments import Environment, Wheel, serve, tools
from mllandscape.environments.locks import KINDS, PLATFORMS, Lock, environment, read_lock

needs_tools = pytest.mark.skipif(tools.find() is None, reason=f"pip, Poetry and uv are not installed: {tools.INSTALL}")
FOLDER = Path(__file__).parent / "data" / "locks"
FILES = ("poetry.lock", "uv.lock", "pylock.toml", "pylock.uv.toml", "requirements.txt")
UNIVERSAL = tuple(name for name in FILES if name != "pylock.toml")  # pip locks for the machine that it runs on

WHEELS = [
    Wheel(
        "app",
        "1.0",
        (
            "core>=1",
            "colors; sys_platform == 'win32'",
            "tomlike>=1; python_version < '3.11'",
            "fsevents; sys_platform == 'darwin'",
            "arrays>=2; python_version >= '3.12'",
            "arrays<2; python_version < '3.12'",
            "plotlib; extra == 'plot'",
        ),
    ),
    Wheel("arrays", "1.26", python=">=3.9"),
    Wheel("arrays", "2.1", python=">=3.11"),
    Wheel("colors", "0.4", ("winapi",)),
    Wheel("core", "1.4"),
    Wheel("core", "1.5", ("typing-ext; python_version < '3.13'",)),
    Wheel("fsevents", "0.2", ("core<2",)),
    Wheel("guikit", "1.0", ("app",)),
    Wheel("plotlib", "3.0", ("arrays; sys_platform != 'darwin'",)),
    Wheel("testkit", "8.0", ("colors", "core")),
    Wheel("tomlike", "1.2"),
    Wheel("typing-ext", "4.1"),
    Wheel("winapi", "3.0", ("colors>=0.4",)),
]
PROJECT = """[project]
name = "story"
version = "0"
requires-python = ">=3.10"
dependencies = ["app[plot]", "core"]

[project.optional-dependencies]
gui = ["guikit"]

[dependency-groups]
dev = ["testkit"]

[tool.poetry]
package-mode = false

[[tool.poetry.source]]
name = "index"
url = "{url}"
priority = "primary"

[tool.uv]
package = false
"""
GROUPS = {"main": ("app[plot]", "core"), "dev": ("testkit",), "gui": ("guikit",)}
COMMANDS = (
    "poetry lock",
    "uv lock",
    "uv export --quiet --no-dev --format pylock.toml --output-file pylock.uv.toml",
    "uv pip compile --quiet --universal --generate-hashes --python-version 3.10 requirements.in --output-file requirements.txt",
    "pip lock --requirement requirements.in",
)


def make(machine: Environment) -> dict[str, str]:
    """The five files, without the port of the index."""
    machine.write("pyproject.toml", PROJECT.format(url=machine.index.url))
    machine.write("requirements.in", "\n".join((*GROUPS["main"], "")))
    for command in COMMANDS:
        done = machine.run(command)
        assert done.ok, done.words
    return {name: re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", machine.read(name)) for name in FILES}


def stored(name: str) -> Lock:
    return read_lock((FOLDER / name).read_text(encoding="utf-8"), name)


def needed(python: str, platform: str, groups=("main",)) -> dict[str, str]:
    """What the wheels themselves require there: newest versions, every requirement in force."""
    variables = environment(python, platform)
    asked, todo, seen = {}, [Requirement(text) for group in groups for text in GROUPS[group]], set()
    while todo:
        requirement = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        asked.setdefault(requirement.name, []).append(requirement.specifier)
        for wheel in WHEELS:
            if wheel.name == requirement.name:
                every = [Requirement(text) for text in wheel.requires]
                todo += [one for one in every if not one.marker or any(one.marker.evaluate(variables | {"extra": name}) for name in ("", *requirement.extras))]
    taken = {}
    for name, ranges in asked.items():
        versions = [Version(wheel.version) for wheel in WHEELS if wheel.name == name]
        taken[name] = str(max(version for version in versions if all(version in one for one in ranges)))
    return dict(sorted(taken.items()))


# -- what is read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_the_hash_of_its_wheel_and_comes_back_from_json(name):
    lock = stored(name)
    assert lock.kind in KINDS and list(lock.rows) == sorted(lock.rows, key=lambda row: (row.name, Version(row.version)))
    hashes = {(wheel.name, wheel.version): wheel.sha256 for wheel in WHEELS}
    for row in lock.rows:
        assert row.hashes == (hashes[row.name, row.version],)
    assert record.restore(Lock, json.loads(json.dumps(record.plain(lock)))) == lock


def test_the_kind_is_told_by_the_text_or_by_the_name():
    for name in FILES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert read_lock(text) == read_lock(text, name)
    assert read_lock("numpy==2.1.0", "dev-requirements.txt") == read_lock("numpy==2.1.0", "requirements-dev.txt") == read_lock("numpy==2.1.0")


def test_direct_is_told_where_the_file_tells_it():
    asked = {name: {row.name for row in stored(name).rows if row.direct} for name in FILES}
    assert asked["uv.lock"] == {"app", "core", "testkit", "guikit"} and asked["requirements.txt"] == {"app", "core"}
    for name in ("poetry.lock", "pylock.toml", "pylock.uv.toml"):
        assert {row.direct for row in stored(name).rows} == {None}


def test_groups_markers_and_pythons_are_those_of_the_project():
    assert {name: set(stored(name).groups) for name in ("poetry.lock", "uv.lock")} == dict.fromkeys(("poetry.lock", "uv.lock"), {"main", "dev", "gui"})
    poetry = {(row.name, row.version): row for row in stored("poetry.lock").rows}
    assert poetry["arrays", "2.1"].requires_python == ">=3.11" and poetry["arrays", "2.1"].marker == 'python_version >= "3.12"'
    assert poetry["colors", "0.4"].markers == {"main": 'sys_platform == "win32"', "dev": ""}
    assert poetry["testkit", "8.0"].marker is None and poetry["guikit", "1.0"].marker == 'extra == "gui"'
    uv = {row.name: row for row in stored("uv.lock").rows}
    assert uv["winapi"].markers == {"main": 'sys_platform == "win32"', "dev": "", "gui": 'sys_platform == "win32"'}
    assert uv["app"].marker == "" and uv["testkit"].marker is None
    assert {stored(name).requires_python for name in ("poetry.lock", "uv.lock", "pylock.uv.toml")} == {">=3.10"}


def test_pip_freeze_is_read_without_hashes():
    lock = read_lock("# by pip freeze\napp==1.0\n\nTyping_Ext==4.1  # why\n--index-url=local\n")
    assert [(row.name, row.version, row.hashes, row.marker, row.direct) for row in lock.rows] == [
        ("app", "1.0", (), "", None),
        ("typing-ext", "4.1", (), "", None),
    ]


# -- what it yields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNIVERSAL)
def test_on_nine_platforms_it_yields_what_the_wheels_require_there(name):
    lock = stored(name)
    for pair in PLATFORMS:
        assert lock.on(*pair) == needed(*pair)
        if lock.groups != ("main",):
            for groups in (("main", "dev"), ("main", "gui"), ("main", "dev", "gui")):
                assert lock.on(*pair, groups=groups) == needed(*pair, groups)


def test_what_pip_locked_is_the_same_everywhere_and_right_on_its_own_machine_alone():
    lock = stored("pylock.toml")
    assert len({tuple(lock.on(*pair).items()) for pair in PLATFORMS}) == 1
    assert [pair for pair in PLATFORMS if lock.on(*pair) == needed(*pair)] == []  # made with Python 3.11
    assert lock.on("3.11", "linux") == needed("3.11", "linux")


@pytest.mark.parametrize("name", ["pylock.toml", "pylock.uv.toml"])
def test_the_reference_implementation_of_pep_751_selects_the_same(name):
    reference = Pylock.from_dict(tomllib.loads((FOLDER / name).read_text(encoding="utf-8")))
    for pair, variables in PLATFORMS.items():
        chosen = {package.name: str(package.version) for package, _ in reference.select(environment=variables)}
        assert stored(name).on(*pair) == chosen


PEP_751 = """
lock-version = "1.0"
created-by = "test"
environments = ["sys_platform == 'linux'", "sys_platform == 'darwin'"]
extras = ["plot"]
dependency-groups = ["dev", "docs"]
default-groups = ["dev"]
packages = [
    {name = "a", version = "1", archive = FILE},
    {name = "b", version = "1", archive = FILE, marker = "'plot' in extras"},
    {name = "c", version = "1", archive = FILE, marker = "'dev' in dependency_groups or 'docs' in dependency_groups"},
]
""".replace("FILE", '{url = "x/x.zip", hashes = {sha256 = "%s"}}' % ("0" * 64))


def test_extras_and_groups_of_pep_751_decide_in_its_markers():
    lock = read_lock(PEP_751)
    assert lock.groups == ("main", "plot", "dev", "docs") and lock.plain == ("main", "dev")
    taken = {groups: set(lock.on(groups=groups)) for groups in (None, ("main",), ("main", "plot"), ("main", "docs", "plot"))}
    assert taken == {None: {"a", "c"}, ("main",): {"a"}, ("main", "plot"): {"a", "b"}, ("main", "docs", "plot"): {"a", "b", "c"}}
    assert lock.rows[0].hashes == ("0" * 64,)
    with pytest.raises(BadInput, match="Python 3.12 on windows is refused"):
        lock.on(platform="windows")
    with pytest.raises(BadInput, match=r"a 1 in this pylock.toml is for Python >=3.13: 3.12 is refused"):
        read_lock(PEP_751.replace('name = "a",', 'name = "a", requires-python = ">=3.13",')).on()


def test_a_circle_in_uvs_graph_ends_and_an_extra_reaches_what_it_asks_for():
    def package(name, *lines):
        return "\n".join(["[[package]]", f'name = "{name}"', 'version = "1"', 'source = { registry = "x" }', *lines])

    edges = """[{ name = "a", extra = ["x"], marker = "os_name == 'nt'" }, { name = "b" }]"""
    root = f'[[package]]\nname = "r"\nversion = "0"\nsource = {{ virtual = "." }}\ndependencies = {edges}'
    circle = [
        package("a", 'dependencies = [{ name = "b" }]', "[package.optional-dependencies]", 'x = [{ name = "c", marker = "python_version < \'3.11\'" }]'),
        package("b", 'dependencies = [{ name = "d", marker = "sys_platform == \'linux\'" }]'),
        package("c", 'dependencies = [{ name = "a", extra = ["x"] }]'),
        package("d", 'dependencies = [{ name = "b" }, { name = "a" }]'),
    ]
    lock = read_lock("\n\n".join(["version = 1", root, *circle]))
    markers = {row.name: row.marker for row in lock.rows}
    assert markers["b"] == "" and markers["d"] == 'sys_platform == "linux"'
    assert Marker(markers["a"]) == Marker('os_name == "nt" or sys_platform == "linux"')
    assert set(lock.on("3.12", "linux")) == {"a", "b", "d"} and set(lock.on("3.12", "macos")) == {"b"} and set(lock.on("3.12", "windows")) == {"a", "b"}
    assert set(lock.on("3.10", "windows")) == {"a", "b", "c"}


def test_the_environments_are_complete_and_differ():
    assert len({tuple(variables.items()) for variables in PLATFORMS.values()}) == len(PLATFORMS) == 9
    assert all(variables.keys() == default_environment().keys() for variables in PLATFORMS.values())
    assert environment("3.12.4", "macos") | {"python_full_version": "3.12.0", "implementation_version": "3.12.0"} == PLATFORMS["3.12", "macos"]
    assert stored("uv.lock").on("3.12.4") == stored("uv.lock").on("3.12")


# -- the tools' own judgement ----------------------------------------------------------------------------------------------

POETRY = """
import json, sys
from pathlib import Path
from poetry.factory import Factory
from poetry.puzzle.transaction import Transaction
project = Factory().create_poetry(Path(sys.argv[1]))
locker, found = project.locker, []
assert locker.is_fresh()
for variables, groups, extras in json.load(sys.stdin):
    solved = Transaction(locker.locked_repository().packages, locker.locked_packages(), [], project.package, variables, set(groups))
    steps = solved.calculate_operations(with_uninstalls=False, extras=set(extras))
    found.append({step.package.name: step.package.version.text for step in steps if not step.skipped})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def machine():
    with serve(WHEELS) as index, Environment(index) as machine:
        machine.locks = make(machine)
        yield machine


@needs_tools
def test_the_stored_files_are_what_the_tools_write_today(machine):
    for name in UNIVERSAL:
        assert read_lock(machine.locks[name], name) == stored(name), tools.find().versions
    if sys.platform == "linux" and sys.version_info[:2] == (3, 11):
        assert read_lock(machine.locks["pylock.toml"]) == stored("pylock.toml"), tools.find().versions


@needs_tools
def test_poetry_itself_would_install_the_same(machine):
    asked = [(pair, groups) for pair in PLATFORMS for groups in (("main",), ("main", "dev"), ("main", "gui"))]
    extras = [[PLATFORMS[pair], [group for group in groups if group != "gui"], [group for group in groups if group == "gui"]] for pair, groups in asked]
    said = subprocess.run(
        [tools.find().python, "-c", POETRY, machine.folder],
        env=machine._variables(),
        input=json.dumps(extras),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for (pair, groups), installed in zip(asked, json.loads(said.stdout), strict=True):
        assert read_lock(machine.locks["poetry.lock"]).on(*pair, groups=groups) == dict(sorted(installed.items()))


def would_install(machine: Environment, name: str, python: str, platform: str) -> dict[str, str]:
    done = machine.run(f"uv pip install --dry-run --target elsewhere --python-version {python} --python-platform {platform} --requirement {name}")
    assert done.ok, done.words
    return dict(re.findall(r"^ *\+ (\S+)==(\S+)", done.words, re.MULTILINE))


@needs_tools
@pytest.mark.parametrize("name", ["requirements.txt", "pylock.uv.toml"])
def test_an_install_for_another_platform_would_take_the_same(machine, name):
    for pair in PLATFORMS:
        assert read_lock(machine.locks[name]).on(*pair) == would_install(machine, name, *pair)


@needs_tools
@pytest.mark.parametrize(("groups", "options"), [(("main", "dev"), "--group dev"), (("main", "gui"), "--no-dev --extra gui")])
def test_uv_itself_would_install_the_same_groups(machine, groups, options):
    assert machine.run(f"uv export --quiet --frozen {options} --output-file exported.txt").ok
    for pair in [("3.10", "linux"), ("3.10", "windows"), ("3.12", "windows"), ("3.13", "macos")]:
        assert read_lock(machine.locks["uv.lock"]).on(*pair, groups=groups) == would_install(machine, "exported.txt", *pair)


@needs_tools
def test_pip_would_install_from_its_own_lock_what_the_lock_yields_here(machine):
    done = machine.run("pip install --dry-run --requirement pylock.toml")
    platform = {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    would = dict(one.rsplit("-", 1) for one in re.search(r"Would install (.*)", done.words)[1].split())
    assert read_lock(machine.locks["pylock.toml"]).on(f"3.{sys.version_info.minor}", platform) == would


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        (7, None, "7 is not the text of a lock file"),
        ("", None, "nothing was found: poetry.lock, uv.lock, pylock.toml, requirements.txt are possible"),
        ("a = 1", None, "tables a was found"),
        ("numpy==1", "Pipfile.lock", "kind='Pipfile.lock': poetry.lock"),
        ("[[package]\n", None, "looks like TOML but is not whole .*poetry.lock"),
        ("numpy>=1", None, "no whole requirements.txt: line 1, 'numpy>=1', pins no version"),
        ("numpy==1.*", None, "pins no version"),
        ("a==1\n\nnumpy @ x", None, "line 3"),
        ("-r other.txt", None, "line 1, '-r other.txt', is no requirement"),
        ("a==1 --hash=sha256:12", None, "'12' is not a SHA-256"),
        ("a==1 --install-option=x", None, "only --hash is read"),
        ("a==1 \\", None, "line 1 goes on after the end"),
        ("# nothing\n", "requirements.txt", "no pinned requirement"),
        ('[metadata]\nlock-version = "2.0"', None, "no whole poetry.lock: lock-version '2.0' is not 2.1"),
        ('package = 3\n[metadata]\nlock-version = "2.1"\npython-versions = "*"', None, "package = 3 is not a list"),
        ('[[package]]\nname = "a"\nversion = "x"\n[metadata]\nlock-version = "2.1"\npython-versions = "*"', None, "'x' is not a version"),
        ("version = 2", None, "no whole uv.lock: version 2 is not 1"),
        ("version = 1", None, "0 packages have the project's own folder"),
        (
            'version = 1\n[[package]]\nname = "r"\nsource = {virtual = "."}\ndependencies = [{name = "a"}]',
            None,
            "a in some version is required, and there are 0 of it",
        ),
        ('lock-version = "1.0"', None, "no whole pylock.toml"),
        ('lock-version = "9.0"\ncreated-by = "x"\npackages = []', None, "no whole pylock.toml"),
    ],
)
def test_what_is_no_lock_is_refused_in_one_line(text, kind, line):
    with pytest.raises(BadInput, match=line) as refused:
        read_lock(text, kind)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda lock: lock.on("3.9"), "uv.lock is for Python >=3.10: 3.9 is refused"),
        (lambda lock: lock.on("2.7"), "python='2.7' is not a version"),
        (lambda lock: lock.on(3.12), "python=3.12 is not a version"),
        (lambda lock: lock.on(platform="beos"), "platform='beos': linux, macos, windows"),
        (lambda lock: lock.on(groups=("main", "docs")), "no group docs in this uv.lock: main, dev, gui"),
    ],
)
def test_what_a_lock_does_not_hold_is_refused_in_one_line(call, line):
    with pytest.raises(BadInput, match=line) as refused:
        call(stored("uv.lock"))
    assert "\n" not in str(refused.value)


def test_two_versions_at_once_are_refused():
    with pytest.raises(BadInput, match=r"a 1 and 2 for Python 3.12 on linux"):
        read_lock("a==1\na==2").on()


TEXTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in FILES}
NOISE = st.sampled_from(["", "\n", '"', "]", "[", "=", "{}", "0", "é", "\\", "name = 3", "[[package]]", "marker", " or ", "#", "\0", ","])


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, data):
    text = TEXTS[name]
    begin, length = data.draw(st.integers(0, len(text))), data.draw(st.sampled_from([0, 1, 5, 40, len(text)]))
    damaged = text[:begin] + data.draw(NOISE) + text[begin + length :]
    for kind in (name, None):
        try:
            lock = read_lock(damaged, kind)
            for pair in PLATFORMS:
                lock.on(*pair)
        except BadInput as refused:
            assert "\n" not in str(refused)


@given(st.text(max_size=60), st.sampled_from([None, *KINDS]))
def test_any_text_is_read_or_refused_in_one_line(text, kind):
    try:
        read_lock(text, kind)
    except BadInput as refused:
        assert "\n" not in str(refused)
