#!/usr/bin/env python3
"""Installs mllandscape into .venv and runs it. Python's standard library alone; every verb installs first when it has to.

python3 run.py lab [options]                open the lessons in JupyterLab, as your own copies in my_notebooks; lab --help tells the options
python3 run.py test [--only 03] [options]   run every test, or those of one lesson; options go to pytest
python3 run.py install [--wheelhouse DIR]   build .venv and stop; with a wheelhouse, without any network
python3 run.py wheelhouse DIR               download what install needs, for machines with this system and this Python
python3 run.py bench                        print the measured numbers: accuracy of the predictions, slider to repaint
python3 run.py stress                       the long tests: 200 out-of-memory failures, 50 broken runs of ranks, whole lessons in a browser
python3 run.py references [--only 03]       execute the notebooks again and store their outputs; with --renew those that vary from run to run, too
python3 run.py lock                         renew requirements.lock and environment.yml
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    this = f"this is Python {sys.version_info[0]}.{sys.version_info[1]}"
    sys.exit(f"mllandscape needs Python 3.11 to 3.14, for which torch 2.13.0 is built; {this}.")

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed-by-run.py"
LOCK = ROOT / "requirements.lock"
LABEL = "made-by-run.py"  # in a wheelhouse: what it was made for, or that it is unfinished
NO_TESTS = 5  # pytest's exit status
LESSON_TOO = {  # tests of everything that a lesson can fail; a lesson's own are known by its name
    "gates.py": ["test_each_notebook_has_a_lesson_module_and_a_test_file_of_its_name"],
    "test_notebooks.py": ["test_the_readmes_table_and_count_are_what_notebooks_and_ledger_say"],
    "test_kit.py": [
        "test_every_lesson_says_what_goes_wrong_and_every_row_is_one",
        "test_every_page_and_every_deck_loads_nothing_describes_its_pictures_and_has_its_headings_in_order",
    ],
    "test_run.py": ["test_ruff_finds_nothing"],
}
PYTHON = getattr(sys, "_base_executable", sys.executable)  # not the .venv's own, which may be about to be replaced

# The wheels that the lock names, added up for each platform on 2026-11-24, with pip, Poetry and uv; 65 MB of them are for the tests. 1 GB is 10^9 bytes.
DOWNLOAD = {
    "linux": "0.5 GB with a CPU build of torch, 3.1 GB with the CUDA build, which pip takes on Linux unless its configuration offers a CPU build",
    "darwin": "0.4 GB",
    "win32": "0.4 GB",
}


def python_in(folder):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment():
    """The user's environment without what would leak other packages into .venv. pip's own settings stay as they are."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH")}
    return kept | {"PYTHONUTF8": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "JUPYTER_PREFER_ENV_PATH": "1"}


def child(*command):
    """Run a command to its end and return its exit status. However this process ends, the command ends with it."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment())
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal sent Ctrl-C to the command too, which may need a moment to stop its own children
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def stop(*_):
    sys.exit(143)


def fingerprint():
    """Changes with the Python, the place of this folder (an environment cannot be moved) and what is to be installed."""
    project = (ROOT / "pyproject.toml").read_text("utf-8").partition("\n[tool.")[0]  # below are settings of ruff and pytest
    parts = [sys.version, sys.base_prefix, str(ROOT), project, LOCK.read_text("utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def make_venv(folder):
    if child(PYTHON, "-m", "venv", folder):
        sys.exit("Python's venv module failed, see above; on Debian and Ubuntu: apt install python3-venv")


def install():
    """Make .venv what requirements.lock says. Takes no time when it is; an interrupted or outdated one is made afresh."""
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text("utf-8") == wanted:
        return
    if (VENV / "pyvenv.cfg").exists() and not STAMP.exists():
        sys.exit(f"{VENV} was not made by run.py; move it away, or delete it, and run this again.")
    print(f"Installing into {VENV}.", f"Download: about {DOWNLOAD.get(sys.platform, 'unknown')}.", "To undo, delete that folder.", sep="\n", flush=True)
    (VENV / "pyvenv.cfg").unlink(missing_ok=True)  # first, so that what an interruption leaves is not taken for somebody else's
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    STAMP.write_text("unfinished", "utf-8")
    make_venv(VENV)
    if child(python_in(VENV), "-m", "pip", "install", "--constraint", LOCK, "--editable", ".[test]"):
        sys.exit("pip could not install, see above; run this again when the cause is gone.")
    if child(python_in(VENV), "-m", "mllandscape", "tools", "--constraint", LOCK):
        sys.exit("pip could not install Poetry and uv, see above; run this again when the cause is gone.")
    STAMP.write_text(wanted, "utf-8")


def wheelhouse(folder):
    """Download into a folder every wheel that an install here takes: what requirements.lock names for this Python and system, and what builds the package."""
    import tomllib

    label, made_for = folder / LABEL, f"{kind()}, {lock_digest()}"
    if folder.exists() and any(folder.iterdir()) and not label.exists():
        sys.exit(f"{folder} is not empty and was not made by run.py; give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    label.write_text("unfinished", "utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = [line for extra in ("test", "tools") for line in project["project"]["optional-dependencies"][extra]]
    wanted = [*project["project"]["dependencies"], *extras, *project["build-system"]["requires"], "editables"]  # the last is hatchling's for --editable
    print(f"Download: about {DOWNLOAD.get(sys.platform, 'unknown')}.", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        make_venv(temporary)
        command = [python_in(Path(temporary)), "-m", "pip", "download", "--only-binary", ":all:", "--dest", folder, "--constraint", LOCK]
        if child(*command, *wanted):
            sys.exit("pip could not download, see above; run this again when the cause is gone. What is there already is kept.")
    label.write_text(made_for, "utf-8")
    wheels = [path.stat().st_size for path in folder.glob("*.whl")]
    print(f"{len(wheels)} wheels, {sum(wheels) / 1e9:.1f} GB, for {kind()}. There, beside this repository: python3 run.py install --wheelhouse DIR")
    return 0


def kind():
    """What a wheelhouse is made for: wheels of one Python and one system do not fit another."""
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} on {sysconfig.get_platform()}"


def lock_digest():
    return "lock " + hashlib.sha256("\n".join(LOCK.read_text("utf-8").split()).encode()).hexdigest()[:12]


def offline(folder):
    """The environment variables with which pip, here and in every child, takes wheels from a folder and nothing from a network."""
    label = folder / LABEL
    made_for = label.read_text("utf-8") if label.is_file() else "no wheelhouse"
    if made_for != f"{kind()}, {lock_digest()}":
        what = "is not finished; make it again" if made_for == "unfinished" else f"is {made_for}; needed is one for {kind()}, {lock_digest()}"
        sys.exit(f"{folder} {what}: python3 run.py wheelhouse DIR")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder.resolve().as_uri()}  # an address, since pip divides a path at its spaces


def lesson(number):
    """The name of the lesson with this number: "03" is "03_out_of_memory"."""
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for name in names:
        if number.isdecimal() and int(number) == int(name[:2]):
            return name
    refuse(f"--only {number}: there is no such lesson; there are {', '.join(names) or 'none yet'}.")


def refuse(why):
    print(f"run.py: {why}", file=sys.stderr)
    sys.exit(2)


def test_arguments(only, words, options):
    """pytest's arguments. One process of two workers runs unit tests, gates and, with strict nbval, the notebooks."""
    paths = [(option, ROOT / option.split("::")[0]) for option in options if not option.startswith("-")]
    for option, path in paths:
        if path.suffix in (".py", ".ipynb") and not path.exists():  # pytest's workers would end without a word
            refuse(f"test {option}: there is no such file.")
        if path.suffix in (".py", ".ipynb") and not path.resolve().is_relative_to(ROOT.resolve()):  # conftest.py would not be read for it
            refuse(f"test {option}: it is outside {ROOT}, where it would run on your own progress and settings; copy it to my_notebooks.")
    named = [option for option, path in paths if path.exists()]
    where, chosen = ([] if named else ["tests", "notebooks"]), words
    if only is not None:
        name = lesson(only)
        if named:
            refuse(f"test: --only {only} chooses the files itself; give it or {' '.join(named)}, not both.")
        unit = ROOT / "tests" / f"test_{name[3:]}.py"
        where = [f"notebooks/{name}.ipynb", *([f"tests/{unit.name}"] if unit.exists() else []), *(f"tests/{file}" for file in LESSON_TOO)]
        chosen = " or ".join([name, f"[{name[:2]}.ex", unit.stem, *(test for tests in LESSON_TOO.values() for test in tests)])
        chosen = f"({chosen}) and ({words})" if words else chosen
    nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval.cfg"]
    return ["-n", "2", "--dist", "loadscope", *nbval, *(["-k", chosen] if chosen else []), *where, *options]


def renew_lock():
    """Resolve pyproject.toml anew for every Python and platform, and copy the direct pins into environment.yml."""
    with tempfile.TemporaryDirectory() as folder:
        make_venv(folder)
        python = python_in(Path(folder))
        uv = [python, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--all-extras", "--upgrade", "--no-annotate"]
        renewed = [*uv, "--custom-compile-command", "python3 run.py lock", "--output-file", LOCK.name, "pyproject.toml"]
        if child(python, "-m", "pip", "install", "--quiet", "uv") or child(*renewed):
            sys.exit("uv could not resolve pyproject.toml, see above; requirements.lock is unchanged.")
    (ROOT / "environment.yml").write_text(conda_environment((ROOT / "pyproject.toml").read_text("utf-8"), LOCK.read_text("utf-8")), "utf-8")
    return 0


def conda_environment(pyproject, lock):
    """environment.yml: conda brings Python, pip the direct dependencies at the versions of the lock, and the lock holds the rest."""
    import tomllib

    project = tomllib.loads(pyproject)["project"]
    direct = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["test"]}
    pins = [line for line in lock.splitlines() if line.split("==")[0] in direct]
    head = ["# Written by `python3 run.py lock`. Use: conda env create --file environment.yml", "name: mllandscape", "channels: [conda-forge]", "dependencies:"]
    pip = ["--constraint requirements.lock", "--editable .", *pins]
    return "\n".join([*head, '  - "python>=3.11,<3.15"', "  - pip", "  - pip:", *(f'      - "{line}"' for line in pip), ""])


def main(arguments):
    if arguments[:1] == ["lab"] and {"-h", "--help"} & set(arguments):
        return child(PYTHON, "-m", "mllandscape", "lab", "--help")  # which needs nothing installed
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"run.py: {message}\n")
    parser.add_argument("verb", choices=["lab", "test", "install", "wheelhouse", "bench", "stress", "references", "lock"])
    parser.add_argument("--only", metavar="NN", action="append", help="test, references: one lesson, by its number")
    parser.add_argument("-k", metavar="WORDS", help="test: pytest's choice by name, within the lesson where --only names one")
    parser.add_argument("--renew", action="store_true", help="references: store the outputs of cells tagged nbval-ignore-output anew, too")
    parser.add_argument("--wheelhouse", metavar="DIR", type=Path, help="install: take every wheel from this folder, and nothing from a network")
    known, options = parser.parse_known_args(arguments)
    if known.only is not None and len(known.only) > 1:
        parser.error(f"--only takes one lesson; given are {' and '.join(known.only)}")
    known.only = known.only[0] if known.only else None
    if known.k is not None and known.verb != "test":
        parser.error(f"-k belongs to test, not to {known.verb}")
    if known.only is not None and known.verb not in ("test", "references"):
        parser.error(f"--only belongs to test and references, not to {known.verb}")
    if known.renew and known.verb != "references":
        parser.error(f"--renew belongs to references, not to {known.verb}")
    if known.wheelhouse is not None and known.verb != "install":
        parser.error(f"--wheelhouse belongs to install, not to {known.verb}")
    if known.verb == "wheelhouse":
        if len(options) != 1 or options[0].startswith("-"):
            parser.error("wheelhouse needs one folder, and nothing else")
        return wheelhouse(Path(options[0]).resolve())
    if options and known.verb not in ("lab", "test"):
        parser.error(f"{known.verb} does not know {' '.join(options)}")
    if known.verb == "lock":
        return renew_lock()
    if known.wheelhouse is not None:
        os.environ.update(offline(known.wheelhouse))
    pytest = test_arguments(known.only, known.k, options) if known.verb == "test" else []
    only = ["--only", lesson(known.only)[:2]] if known.only is not None else []
    install()
    python = python_in(VENV)
    if known.verb == "lab":
        return child(python, "-m", "mllandscape", "lab", *options)
    if known.verb == "test":
        status = child(python, "-m", "pytest", *pytest)
        if status == NO_TESTS:
            print(f"run.py: no test is chosen by {' '.join(arguments[1:])}; run.py test --collect-only -q lists all.", file=sys.stderr)
        return status
    if known.verb == "stress":
        return child(python, "-m", "pytest", "-s", "tests/stress")
    if known.verb == "references":
        return child(python, "-m", "mllandscape.course.notebooks", "references", *only, *(["--renew"] if known.renew else []))
    if known.verb == "bench":
        return int(any([child(python, "-m", f"tests.bench.{script.stem}") for script in sorted((ROOT / "tests" / "bench").glob("bench_*.py"))]))
    print(f"Ready: {python}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"run.py: {error}")
