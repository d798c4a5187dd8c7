#!/usr/bin/env python3
"""Installs mllandscape into .venv and runs it. Python's standard library alone; every verb installs first when it has to.

python3 run.py lab                          open the lessons in JupyterLab, as your own copies in my_notebooks
python3 run.py test [--only 03] [options]   run every test, or those of one lesson; options go to pytest
python3 run.py install                      build .venv and stop
python3 run.py bench                        print the measured numbers: accuracy of the predictions, slider to repaint
python3 run.py stress                       the long tests: 200 out-of-memory failures, 50 broken runs of ranks, whole lessons in a browser
python3 run.py references [--only 03]       execute the notebooks again and store their outputs
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
import tempfile
from pathlib import Path

if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    this = f"this is Python {sys.version_info[0]}.{sys.version_info[1]}"
    sys.exit(f"mllandscape needs Python 3.11 to 3.14, for which torch 2.13.0 is built; {this}.")

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed-by-run.py"
LOCK = ROOT / "requirements.lock"
PYTHON = getattr(sys, "_base_executable", sys.executable)  # not the .venv's own, which may be about to be replaced

# The wheels that the lock names, added up for each platform on 2026-11-23; 65 MB of them are for the tests. 1 GB is 10^9 bytes.
DOWNLOAD = {
    "linux": "0.4 GB with a CPU build of torch, 3.0 GB with the CUDA build, which pip takes on Linux unless its configuration offers a CPU build",
    "darwin": "0.3 GB",
    "win32": "0.3 GB",
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


def lesson(number):
    """The name of the lesson with this number: "03" is "03_out_of_memory"."""
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for name in names:
        if number.isdigit() and int(number) == int(name[:2]):
            return name
    print(f"run.py: --only {number}: there is no such lesson; there are {', '.join(names) or 'none yet'}.", file=sys.stderr)
    sys.exit(2)


def test_arguments(only, options):
    """pytest's arguments. One process of two workers runs unit tests, gates and, with strict nbval, the notebooks."""
    named = any((ROOT / option.split("::")[0]).exists() for option in options)
    where, chosen = ([] if named else ["tests", "notebooks"]), []
    if only is not None:
        name = lesson(only)
        unit = ROOT / "tests" / f"test_{name[3:]}.py"
        where = [f"notebooks/{name}.ipynb", "tests/gates.py", *([f"tests/{unit.name}"] if unit.exists() else [])]
        chosen = ["-k", f"{name} or {name[:2]}. or {unit.stem}"]
    nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval.cfg"]
    return ["-n", "2", "--dist", "loadscope", *nbval, *chosen, *where, *options]


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
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"run.py: {message}\n")
    parser.add_argument("verb", choices=["lab", "test", "install", "bench", "stress", "references", "lock"])
    parser.add_argument("--only", metavar="NN", help="test, references: one lesson, by its number")
    known, options = parser.parse_known_args(arguments)
    if known.only is not None and known.verb not in ("test", "references"):
        parser.error(f"--only belongs to test and references, not to {known.verb}")
    if options and known.verb not in ("lab", "test"):
        parser.error(f"{known.verb} does not know {' '.join(options)}")
    if known.verb == "lock":
        return renew_lock()
    pytest = test_arguments(known.only, options) if known.verb == "test" else []
    only = ["--only", lesson(known.only)[:2]] if known.only is not None else []
    install()
    python = python_in(VENV)
    if known.verb == "lab":
        return child(python, "-m", "mllandscape", "lab", *options)
    if known.verb == "test":
        return child(python, "-m", "pytest", *pytest)
    if known.verb == "stress":
        return child(python, "-m", "pytest", "-s", "tests/stress")
    if known.verb == "references":
        return child(python, "-m", "mllandscape.course.notebooks", "references", *only)
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
