"""run.py: its verbs, when it installs, and that pyproject.toml, requirements.lock and environment.yml agree."""

import importlib.metadata
import os
import re
import runpy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import run
from mllandscape.kit import preflight

ROOT = Path(run.__file__).parent
PYPROJECT, LOCK, CONDA = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "requirements.lock", "environment.yml"))
TORCH = next(line for line in tomllib.loads(PYPROJECT)["project"]["dependencies"] if Requirement(line).name == "torch")
"""torch's pin, such as torch==2.13.0."""

PLATFORMS = {
    "linux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    "win32": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
}


# ---- the three descriptions of the environment ----


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def direct(pyproject: str, *without: str) -> list[Requirement]:
    project = tomllib.loads(pyproject)["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in without]
    return requirements(project["dependencies"] + [line for lines in extras for line in lines])


def disagreements(pyproject: str, lock: str, conda: str) -> list[str]:
    """What a conda user, a run.py user and a pip user would not get alike."""
    wanted, locked = direct(pyproject), requirements(lock.splitlines())
    listed = next(item["pip"] for item in yaml.safe_load(conda)["dependencies"] if isinstance(item, dict))
    pins = requirements([line for line in listed if not line.startswith("--")])
    listable = direct(pyproject, "cuda", "tools")  # optional, and an environment of its own
    found = []
    for requirement in wanted:
        of_lock = {str(pin) for pin in locked if pin.name == requirement.name}
        if not of_lock:
            found.append(f"{requirement.name} is not locked")
        if requirement in listable and of_lock != {str(pin) for pin in pins if pin.name == requirement.name}:
            found.append(f"{requirement.name} differs in environment.yml")
        found += [f"{pin} is not {requirement}" for pin in locked if pin.name == requirement.name and not requirement.specifier.contains(pin_version(pin))]
    found += [f"{pin.name} is only in environment.yml" for pin in pins if pin.name not in {requirement.name for requirement in listable}]
    found += [f"{pin} is not exact" for pin in locked + pins if not re.fullmatch(r"==[^*,]+", str(pin.specifier))]
    return found + ([] if "--constraint requirements.lock" in listed else ["environment.yml leaves the indirect packages open"])


def pin_version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def test_pyproject_lock_and_conda_environment_agree():
    assert disagreements(PYPROJECT, LOCK, CONDA) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p, lock, c: (p.replace(f'"{TORCH}"', '"torch==2.0.0"'), lock, c),
        lambda p, lock, c: (p.replace('"pytest-xdist"', '"pytest-xdist", "flask"'), lock, c),
        lambda p, lock, c: (p.replace('"pytest-xdist", ', ""), lock, c),
        lambda p, lock, c: (p, re.sub(r"(?m)^jupyterlab==.*$", "jupyterlab==4.0.0", lock), c),
        lambda p, lock, c: (p, re.sub(r"(?m)^nbval==.*\n", "", lock), c),
        lambda p, lock, c: (p, re.sub(r"(?m)^numpy==.*$", "numpy>=2", lock), c),
        lambda p, lock, c: (p, lock, re.sub(r"ipywidgets==[\d.]+", "ipywidgets==8.0.0", c)),
        lambda p, lock, c: (p, lock, re.sub(r".*--constraint.*\n", "", c)),
    ],
)
def test_a_difference_between_any_two_of_the_three_is_found(change):
    changed = change(PYPROJECT, LOCK, CONDA)
    assert changed != (PYPROJECT, LOCK, CONDA)
    assert disagreements(*changed)


def test_the_lock_command_would_write_this_conda_environment():
    assert run.conda_environment(PYPROJECT, LOCK) == CONDA


def test_torch_is_pinned_in_the_project_itself():
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", TORCH)


def test_the_first_message_of_run_py_names_the_torch_that_is_installed():
    assert f"for which torch {TORCH.removeprefix('torch==')} is built" in Path(run.__file__).read_text(encoding="utf-8")


def test_the_project_run_py_and_preflight_accept_the_same_pythons():
    accepted = SpecifierSet(tomllib.loads(PYPROJECT)["project"]["requires-python"])
    (first, last), source = preflight.PYTHONS, Path(run.__file__).read_text(encoding="utf-8")
    assert [minor for minor in range(30) if f"3.{minor}.0" in accepted] == [*range(first[1], last[1] + 1)]
    assert f"if not {first} <= sys.version_info[:2] <= {last}:" in source


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("version", ["3.11.0", "3.11.9", "3.12.1", "3.13.2", "3.14.0"])
def test_the_lock_has_one_version_of_every_direct_dependency_on_every_platform(version, platform):
    here = PLATFORMS[platform] | {"python_full_version": version, "python_version": version.rpartition(".")[0]}
    locked = requirements(LOCK.splitlines())
    for requirement in direct(PYPROJECT):
        pins = [pin for pin in locked if pin.name == requirement.name and (pin.marker is None or Marker(str(pin.marker)).evaluate(here))]
        assert len(pins) == (requirement.marker is None or requirement.marker.evaluate(here)), (requirement, pins)


def test_no_index_address_and_no_hash_is_in_the_lock():
    assert not re.search(r"://|--index|--extra-index|--find-links|--hash", LOCK + CONDA)


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this Python is not the one that run.py installed")
def test_everything_installed_has_its_version_from_the_lock():
    locked = {(pin.name, pin_version(pin)) for pin in requirements(LOCK.splitlines())}
    installed = {(canonicalize_name(package.name), package.version.split("+")[0]) for package in importlib.metadata.distributions()}
    assert {package for package in installed if package[0] not in ("pip", "mllandscape")} <= locked


# ---- when run.py installs ----


@pytest.fixture
def house(tmp_path, monkeypatch):
    """run.py in an empty folder; the list gets every command that it would run, and none runs."""
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name, path in {"ROOT": ".", "VENV": ".venv", "STAMP": f".venv/{run.STAMP.name}", "LOCK": "requirements.lock"}.items():
        monkeypatch.setattr(run, name, tmp_path / path)
    commands = []

    def child(*command):
        commands.append([str(part) for part in command])
        if "venv" in command:
            (run.VENV / "pyvenv.cfg").write_text("home = elsewhere")
        return 0

    monkeypatch.setattr(run, "child", child)
    return commands


def test_the_first_install_tells_the_size_then_makes_the_environment_then_installs_from_the_lock(house, capsys):
    run.install()
    venv, pip, tools = house
    assert venv[1:3] == ["-m", "venv"]
    assert pip[1:4] == ["-m", "pip", "install"] and pip[pip.index("--constraint") + 1] == str(run.LOCK) and "--editable" in pip
    assert tools[1:] == ["-m", "mllandscape", "tools", "--constraint", str(run.LOCK)]
    assert re.search(r"Download: about \d\.\d GB", capsys.readouterr().out)


def test_a_second_install_does_nothing(house, capsys):
    run.install()
    capsys.readouterr()
    run.install()
    assert len(house) == 3 and capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "pin"), [("pyproject.toml", TORCH), ("requirements.lock", "numpy==")])
def test_a_changed_project_or_lock_is_installed_afresh(house, name, pin):
    run.install()
    (run.VENV / "old").write_text("left over")
    text = (run.ROOT / name).read_text(encoding="utf-8")
    (run.ROOT / name).write_text(text.replace(pin, f"{pin}9"), encoding="utf-8")
    run.install()
    assert len(house) == 6 and not (run.VENV / "old").exists()


def test_a_setting_of_ruff_or_pytest_needs_no_install(house):
    run.install()
    with open(run.ROOT / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write("[tool.other]\nlevel = 1\n")
    run.install()
    assert len(house) == 3


def test_another_python_gets_its_own_install(house, monkeypatch):
    run.install()
    monkeypatch.setattr(sys, "version", "3.14.9 (another)")
    run.install()
    assert len(house) == 6


@pytest.mark.parametrize("step", ["venv", "pip", "tools"])
def test_an_interrupted_install_is_done_again(house, monkeypatch, step):
    whole = run.child

    def interrupted(*command):
        whole(*command)
        if step in command:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(run, "child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.install()
    monkeypatch.setattr(run, "child", whole)
    house.clear()
    run.install()
    assert len(house) == 3


@pytest.mark.parametrize("step", ["pip", "tools"])
def test_a_failed_install_is_told_in_one_line_and_done_again(house, monkeypatch, step):
    monkeypatch.setattr(run, "child", lambda *command: int(step in command))
    for _ in range(2):
        with pytest.raises(SystemExit) as ending:
            run.install()
        assert "\n" not in ending.value.code and "pip could not install" in ending.value.code


def test_an_environment_that_run_py_did_not_make_is_left_alone(house):
    run.VENV.mkdir()
    (run.VENV / "pyvenv.cfg").write_text("somebody's own")
    with pytest.raises(SystemExit, match="was not made by run.py"):
        run.install()
    assert house == [] and (run.VENV / "pyvenv.cfg").read_text() == "somebody's own"


# ---- a room without a network ----


@pytest.fixture
def wheels(house, monkeypatch, tmp_path):
    """A pip that makes two empty wheels instead of downloading them; its commands are in ``house``."""
    counted = run.child

    def child(*command):
        if "venv" in command:
            house.append([str(part) for part in command])
            return 0
        if "download" in command:
            folder = Path(command[list(command).index("--dest") + 1])
            for name in ("torch-2.13.0-cp311-none-linux_x86_64.whl", "uv-0.13.9-py3-none-any.whl"):
                (folder / name).write_bytes(bytes(60_000_000))
        return counted(*command)

    monkeypatch.setattr(run, "child", child)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "wheel house"


def test_a_wheelhouse_is_downloaded_with_the_lock_as_constraints_and_the_tools_too(house, wheels, capsys):
    assert run.main(["wheelhouse", str(wheels)]) == 0
    venv, pip = house
    assert pip[1:4] == ["-m", "pip", "download"] and pip[pip.index("--constraint") + 1] == str(run.LOCK) and pip[pip.index("--only-binary") + 1] == ":all:"
    named = {Requirement(part).name for part in pip[pip.index("--constraint") + 2 :]}
    assert named == {requirement.name for requirement in direct(PYPROJECT, "cuda")} | {"hatchling", "editables"} and {"torch", "poetry", "pytest"} <= named
    assert "2 wheels, 0.1 GB" in capsys.readouterr().out and run.kind() in (wheels / run.LABEL).read_text()


def test_an_install_from_a_wheelhouse_tells_every_pip_to_use_it_alone(house, wheels):
    run.main(["wheelhouse", str(wheels)])
    house.clear()
    seen = []
    counted = run.child
    run.child = lambda *command: seen.append(run.environment()) or counted(*command)
    try:
        assert run.main(["install", "--wheelhouse", str(wheels)]) == 0
    finally:
        run.child = counted
        found = {name: os.environ.pop(name) for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    assert found == {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri()} and " " not in found["PIP_FIND_LINKS"], "pip divides a list at its spaces"
    assert len(seen) == 3 and all(environment.items() >= found.items() for environment in seen)


def test_a_wheelhouse_of_another_python_system_or_lock_an_unfinished_one_and_none_are_refused(house, wheels, monkeypatch):
    def refused() -> str:
        with pytest.raises(SystemExit) as ending:
            run.main(["install", "--wheelhouse", str(wheels)])
        assert "\n" not in ending.value.code and "PIP_NO_INDEX" not in os.environ
        return ending.value.code

    assert "no wheelhouse" in refused()
    run.main(["wheelhouse", str(wheels)])
    monkeypatch.setattr(run.sysconfig, "get_platform", lambda: "win-amd64")
    assert "needed is one for" in refused() and "win-amd64" in refused()
    monkeypatch.undo()


def test_a_changed_lock_needs_a_wheelhouse_of_its_own(house, wheels):
    run.main(["wheelhouse", str(wheels)])
    run.LOCK.write_text(run.LOCK.read_text("utf-8").replace("numpy==", "numpy==9."), "utf-8")
    with pytest.raises(SystemExit, match="needed is one for"):
        run.offline(wheels)


def test_a_broken_download_is_told_kept_and_done_again(house, wheels, monkeypatch):
    whole = run.child
    monkeypatch.setattr(run, "child", lambda *command: int("download" in command))
    with pytest.raises(SystemExit, match="pip could not download"):
        run.main(["wheelhouse", str(wheels)])
    with pytest.raises(SystemExit, match="is not finished"):
        run.offline(wheels)
    monkeypatch.setattr(run, "child", whole)
    assert run.main(["wheelhouse", str(wheels)]) == 0 and run.offline(wheels)


def test_a_folder_of_something_else_is_not_filled(house, wheels):
    wheels.mkdir()
    (wheels / "thesis.tex").write_text("mine")
    with pytest.raises(SystemExit, match="was not made by run.py"):
        run.main(["wheelhouse", str(wheels)])
    assert house == [] and len(list(wheels.iterdir())) == 1


# ---- verbs ----


def said(*arguments: str) -> tuple[int, str]:
    """Exit status and stderr of run.py. Every call here ends before anything is installed."""
    ended = subprocess.run([sys.executable, ROOT / "run.py", *arguments], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"], [], ["lab", "--only", "03"], ["install", "surplus"], ["stress", "--fast"], ["lock", "--only", "3"], ["test", "--only"],
        ["test", "--renew"], ["test", "--only", "03", "--only", "04"], ["test", "--only", "03", "tests/test_cli.py"], ["test", "tests/nosuch.py"],
        ["test", "nosuch.py::test_x"], ["references", "-k", "x"],
        ["wheelhouse"], ["wheelhouse", "a", "b"], ["wheelhouse", "--fast"], ["lab", "--wheelhouse", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_call_is_one_line_and_status_2(arguments):
    status, error = said(*arguments)
    assert status == 2 and len(error.splitlines()) == 1 and error.startswith("run.py: "), error


@pytest.mark.parametrize("verb", ["test", "references"])
@pytest.mark.parametrize("number", ["99", "x", "-1", "", "³"])
def test_an_unknown_lesson_is_one_line(verb, number):
    status, error = said(verb, f"--only={number}")
    assert status == 2 and len(error.splitlines()) == 1 and "no such lesson" in error, error


def test_references_passes_the_lesson_and_renew_on(lesson, house, monkeypatch):
    monkeypatch.setattr(run, "install", lambda: None)
    run.main(["references", "--only", "3", "--renew"])
    assert [command[2:] for command in house] == [["mllandscape.course.notebooks", "references", "--only", "03", "--renew"]]


def test_an_old_python_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 7, "final", 0))
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(ROOT / "run.py"))
    assert "needs Python 3.11" in ending.value.code and "3.9" in ending.value.code and "\n" not in ending.value.code


def test_run_py_needs_nothing_but_the_standard_library():
    code = "import sys, run; print(*{name.partition('.')[0] for name in sys.modules})"
    modules = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    others = set(modules) - set(sys.stdlib_module_names) - {"run", "__main__"}
    assert all(name.startswith("_sysconfigdata") for name in others), others


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "notebooks" / "03_out_of_memory.ipynb").touch()
    (tmp_path / "tests" / "test_out_of_memory.py").touch()


@pytest.mark.parametrize("number", ["03", "3"])
def test_one_lesson_is_its_notebook_its_unit_tests_and_its_gates(lesson, number):
    arguments = run.test_arguments(number, None, ["-x"])
    assert {"notebooks/03_out_of_memory.ipynb", "tests/test_out_of_memory.py", "tests/gates.py", "-x"} <= set(arguments)
    assert "tests" not in arguments and arguments[arguments.index("-k") + 1].startswith(
        "03_out_of_memory or [03.ex or test_out_of_memory or test_each_notebook"
    )
    chosen = run.test_arguments(number, "panel or gate", [])
    assert chosen[chosen.index("-k") + 1] == f"({arguments[arguments.index('-k') + 1]}) and (panel or gate)"


def test_one_lesson_is_judged_by_tests_of_all_lessons_too():
    """By their names, so that a renamed one is not left out without a word."""
    for file, names in run.LESSON_TOO.items():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert [name for name in names if f"def {name}(" not in text] == [], file
    arguments = run.test_arguments("3", None, [])
    options = arguments[arguments.index("-k") : arguments.index("-k") + 2]
    found = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q", *options, *(f"tests/{file}" for file in run.LESSON_TOO)],
                           cwd=ROOT, capture_output=True, text=True).stdout  # fmt: skip
    assert all(f"tests/{file}::{name}\n" in found for file, names in run.LESSON_TOO.items() for name in names), found
    assert "::test_gate[spine_is_present_and_in_order-03_out_of_memory]" in found and "[03.ex1]" in found and "04_ddp" not in found


def test_a_notebook_elsewhere_is_refused_since_it_would_not_be_isolated(lesson, tmp_path_factory, capsys):
    path = tmp_path_factory.mktemp("elsewhere") / "03_x.ipynb"
    path.touch()
    with pytest.raises(SystemExit, match="2"):
        run.test_arguments(None, None, [str(path)])
    assert "03_x.ipynb: it is outside" in capsys.readouterr().err


def test_words_of_ones_own_choose_among_all_tests(lesson):
    arguments = run.test_arguments(None, "panel", [])
    assert arguments[arguments.index("-k") + 1] == "panel" and {"tests", "notebooks"} <= set(arguments)


def test_a_choice_of_no_test_is_said(house, monkeypatch, capsys):
    monkeypatch.setattr(run, "install", lambda: None)
    monkeypatch.setattr(run, "child", lambda *command: 5)
    assert run.main(["test", "-k", "nosuch"]) == 5
    assert capsys.readouterr().err == "run.py: no test is chosen by -k nosuch; run.py test --collect-only -q lists all.\n"


def test_the_options_of_lab_can_be_seen():
    ended = subprocess.run([sys.executable, ROOT / "run.py", "lab", "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "--copies-only" in ended.stdout and ended.stderr == ""


def test_all_tests_are_unit_tests_gates_and_notebooks_under_strict_nbval(lesson):
    arguments = run.test_arguments(None, None, [])
    assert {"tests", "notebooks", "--nbval", "--nbval-current-env"} <= set(arguments) and "--nbval-lax" not in arguments
    assert tomllib.loads(PYPROJECT)["tool"]["pytest"]["ini_options"]["python_files"] == ["test_*.py", "gates.py"]


def test_a_path_given_to_test_is_run_alone(lesson):
    arguments = run.test_arguments(None, None, ["tests/test_out_of_memory.py::test_x"])
    assert arguments[-1] == "tests/test_out_of_memory.py::test_x" and "notebooks" not in arguments


def test_the_environment_of_children_keeps_pips_settings_and_drops_other_packages(monkeypatch):
    for name in ("PIP_FIND_LINKS", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "somewhere")
    found = run.environment()
    assert found["PIP_FIND_LINKS"] == "somewhere" and "PYTHONPATH" not in found and "PYTHONHOME" not in found


@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal are sent another way on Windows")
@pytest.mark.parametrize("ending", ["Ctrl-C", "terminated"])
def test_nothing_goes_on_after_run_py_was_stopped(ending):
    grandchild = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"import signal, sys, run; signal.signal(signal.SIGTERM, run.stop); run.child(sys.executable, '-c', {grandchild!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        pid = int(process.stdout.readline())
        if ending == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the signal goes to everything in the foreground
        else:
            process.terminate()
        assert process.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- what is committed ----


def committed() -> list[Path]:
    tops = [path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".pyc"]
    below = [path for name in ("mllandscape", "tests", "notebooks", ".ci") for path in (ROOT / name).rglob("*") if path.is_file()]
    return [path for path in tops + below if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts) and path.name != "gates.py"]  # it holds bad examples


def test_no_package_index_and_no_path_of_one_machine_is_written_anywhere():
    hosts = ["py" + "pi.org", "python" + "hosted", "download.py" + "torch", "conda.ana" + "conda"]
    places = [f"/{top}/" for top in ("ro" + "ot", "ho" + "me", "wo" + "rk", "o" + "pt", "Us" + "ers")]
    pattern = re.compile("|".join([*hosts, *(rf"(?<![\w.~/<>}}-]){place}\w" for place in places)]))
    for path in committed():
        try:
            found = pattern.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:  # a picture
            continue
        assert not found, f"{path.relative_to(ROOT)} has {found[0]}"


def test_ruff_finds_nothing():
    ended = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
