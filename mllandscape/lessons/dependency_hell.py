"""Lesson 7: "it worked on my machine": its experiments with pip, Poetry and uv on a throw-away index, its panel and its exercises.

The toy packages mirror what was published: ``toytransformers`` has the versions, dates, requirements and some of the names of transformers, which
``environments/published.toml`` holds with their source. Without the tools every experiment is played back from its recording.
"""

import hashlib
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

from packaging.version import Version

from mllandscape import BadInput, charts, record, units
from mllandscape.course import exercise
from mllandscape.environments import Environment, Run, Wheel, tools
from mllandscape.environments import lab as labs
from mllandscape.environments.locks import read_lock
from mllandscape.environments.published import published
from mllandscape.environments.toys import (
    APART,
    BOTH,
    BUILT,
    FORKS,
    LACKS_FLOAT,
    LATER,
    RIVALS,
    TODAY,
    TOYNUMPY,
    app,
    failure,
    offered,
    on_offer,
    releases,
    resolve,
    specifiers,
    toynumpy,
    toytransformers,
)
from mllandscape.panel import Panel

KEPT = "dependency_hell"
LOOSE = "toytransformers>=4.20.0"


def line() -> str:
    """Where the runs of pip, Poetry and uv come from, in one line."""
    return labs.line(KEPT)


FILES = {"requirements.txt": f"{LOOSE}\n", "app.py": app("GenerationConfig")}
OLD = "toytransformers==4.20.1 toynumpy==1.23.0"
"""What production has: the newest of July 2022."""


# -- experiments ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Acted:
    """What was run, in order, by scene; and what was ``found`` in it beyond the runs."""

    scenes: dict[str, tuple[Run, ...]]
    found: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, scene: str) -> tuple[Run, ...]:
        return self.scenes[scene]

    def last(self, scene: str) -> Run:
        return self.scenes[scene][-1]

    def show(self, title: str, *scenes: str) -> charts.Transcript:
        """The transcript of these scenes, or of all."""
        return charts.Transcript(title, {name: self.scenes[name] for name in scenes or self.scenes}, line())


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> charts.Noted:
    """A table of what the tools did, with the line that says where they ran."""
    return charts.Noted(charts.Table(title, heads, rows), line())


def story() -> Acted:
    """Two machines, one requirements.txt, seventeen months apart; then the new code is deployed to the old machine."""
    with labs.Lab("story", on_offer(BUILT), KEPT) as lab:
        production, laptop = lab.machine(files=FILES), lab.machine(files=FILES)
        production.write("app.py", app("AutoModelForCausalLM"))
        deploy = ("pip install -r requirements.txt", "python app.py")
        scenes = {"production, July 2022": production.run_all(*deploy)}
        lab.add(*on_offer(TODAY))
        scenes["laptop, December 2023, new code"] = laptop.run_all(*deploy)
        production.write("app.py", app("GenerationConfig"))
        scenes["production, December 2023, new code"] = production.run_all(*deploy)
        scenes["production, the name in the report"] = production.run_all('python -c "from toytransformers import AutoModelForCausalLM"')
        return Acted(scenes)


def names_table() -> charts.Table:
    """When each name appeared, and whether production's and the laptop's version have it."""
    rows = []
    for one in published().names:
        has = ["yes" if one.is_in(version) else "no" for version in ("4.20.1", "4.35.2")]
        first = (one.before, one.since) if one.before else ("-", f"{one.since} or before")
        rows.append((one.name, *first, one.until or "-", *has))
    heads = ("name", "not yet in", "first in", "gone in", "in 4.20.1", "in 4.35.2")
    return charts.Table(f"Public names of transformers, read from its wheels on {published().read}", heads, rows)


def shadows() -> Acted:
    """Six machines on which the report's import is tried, with the report's exact message on four of them.

    Here the package ``toytransformers`` brings a module of the name ``transformers``, so that the message is the report's own.
    """
    good, old = "class AutoModelForCausalLM:\n    pass\n", "class AutoModel:\n    pass\n"
    wheels = [Wheel("toytransformers", version, modules={"transformers/__init__.py": text}) for version, text in (("2.11.0", old), ("4.35.2", good))]
    new, try_it = "uv pip install toytransformers==4.35.2", 'python -c "from transformers import AutoModelForCausalLM"'
    cases = {
        "a healthy 4.35.2": ((new,), {}),
        "a version before 3.0.0": (("uv pip install toytransformers==2.11.0",), {}),
        "4.35.2, and a file transformers.py": ((new,), {"transformers.py": "model = None\n"}),
        "4.35.2, and a package folder transformers": ((new,), {"transformers/__init__.py": ""}),
        "4.35.2, and a folder transformers of data": ((new,), {"transformers/notes.txt": ""}),
        "nothing, and a folder transformers of data": ((), {"transformers/notes.txt": ""}),
    }
    with labs.Lab("shadows", wheels, KEPT) as lab:
        return Acted({case: lab.machine(files=files).run_all(*commands, try_it) for case, (commands, files) in cases.items()})


def blame(words: str) -> tuple[str, str, str]:
    """(name, module, place) of an ImportError "cannot import name": where Python found the module that lacks the name. Empty texts where there is none."""
    found = re.search(r"cannot import name '(\w+)' from '([\w.]+)' \(([^)]+)\)", charts.last_line(words))
    return found.groups() if found else ("", "", "")


def shadows_table(acted: Acted) -> charts.Noted:
    """What the import said on each machine: the message is one, the place in its brackets is not."""
    rows = [(case, "works" if runs[-1].ok else "ImportError", blame(runs[-1].words)[2] or "-") for case, runs in acted.scenes.items()]
    return _table("from transformers import AutoModelForCausalLM", ("the machine has", "the import", "and the brackets say"), rows)


def bisect(name: str = "GenerationConfig") -> Acted:
    """The first version, from production's to the laptop's, that has a name: found by real installs, both ends first.

    ``found`` has ``versions`` (what pip lists, oldest first), ``tried`` (each install, and whether the import worked) and ``first``.
    Raises BadInput where the ends do not differ, for then there is nothing to find.
    """
    with labs.Lab(f"bisect {name}", on_offer(TODAY), KEPT) as lab:
        machine, tried, runs = lab.machine(), [], {}
        listed = machine.run("pip index versions toytransformers")
        versions = re.search(r"Available versions: (.*)", listed.words)[1].split(", ")[::-1]
        versions = versions[versions.index("4.20.1") :]

        def works(version: str) -> bool:
            runs[version] = machine.run_all(f"uv pip install toytransformers=={version}", f'python -c "from toytransformers import {name}"')
            tried.append([version, runs[version][1].ok])
            return runs[version][1].ok

        if not works(versions[-1]) or works(versions[0]):
            ends = " and ".join(f"{version} {'has' if ok else 'lacks'} it" for version, ok in tried)
            raise BadInput(f"{name}: {ends}; a bisection needs an old end that lacks it and a new end that has it.")
        low, high = 0, len(versions) - 1  # the one fails, the other works
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if works(versions[middle]) else (middle, high)
        yanked = ('uv pip install "toytransformers<4.25.1"', "uv pip install toytransformers==4.25.0", f'python -c "from toytransformers import {name}"')
        scenes = {"what pip lists": (listed,), **{f"install {place}": runs[version] for place, (version, _) in enumerate(tried, 1)}}
        scenes["the withdrawn 4.25.0"] = machine.run_all(*yanked)
        return Acted(scenes, {"versions": versions, "tried": tried, "first": versions[high]})


def bisection_figure(acted: Acted) -> charts.Noted:
    """The installs of a bisection over all versions."""
    return charts.Noted(charts.bisection(acted.found["versions"], acted.found["tried"], title="The first version that works, by real installs"), line())


class Layers:
    """An image builder's cache: a machine is built once for each text of requirements.txt, and kept. What the index offers is no part of the key."""

    def __init__(self, lab: labs.Lab):
        self._lab = lab
        self._kept: dict[str, labs.Machine] = {}

    def build(self, requirements: str, code: str) -> tuple[labs.Machine, tuple[Run, ...]]:
        """The machine with this code on it, and what was run to build its layer: nothing, where the text is known."""
        key, runs = hashlib.sha256(requirements.encode()).hexdigest(), ()
        if key not in self._kept:
            self._kept[key] = self._lab.machine(files={"requirements.txt": requirements})
            runs = self._kept[key].run_all("uv pip install -r requirements.txt")
        self._kept[key].write("app.py", code)
        return self._kept[key], runs


def suspects() -> Acted:
    """Four suspects for the version that stayed, each tried on its own: what is installed, an image layer, pip's cache of wheels and of pages."""
    with labs.Lab("suspects", on_offer(BUILT), KEPT) as lab:
        trusted = "pip install --trusted-host 127.0.0.1 -r requirements.txt"  # pip caches nothing of a plain http host that it does not trust
        installed, cached, layers = lab.machine(files=FILES), lab.machine(files=FILES), Layers(lab)
        lab.let_cache(wheel=365_000_000, page=600)  # seconds, as a public index allows
        scenes = {"installed": installed.run_all("pip install -r requirements.txt")}
        _, scenes["image, first build"] = layers.build(f"{LOOSE}\n", app("AutoModelForCausalLM"))
        scenes["pip's caches"] = cached.run_all(trusted)

        lab.add(*on_offer(TODAY))
        scenes["installed, asked again"] = installed.run_all("pip install -r requirements.txt")
        scenes["installed, -U"] = installed.run_all("pip install -U -r requirements.txt")
        scenes["installed, -U, eager"] = installed.run_all("pip install -U --upgrade-strategy eager -r requirements.txt")
        for scene, text in (("image, same text", f"{LOOSE}\n"), ("image, one comment more", f"# rebuild\n{LOOSE}\n")):
            machine, runs = layers.build(text, app("GenerationConfig"))
            scenes[scene] = (*runs, machine.run("python app.py"))
        for scene, command in (("empty, page cached", trusted), ("empty, page asked again", f"{trusted} --refresh-package :all:")):
            cached.clear()
            scenes[scene] = cached.run_all(command)
        return Acted(scenes)


def suspects_table(acted: Acted) -> charts.Noted:
    """Who kept the old version, and what makes it go."""
    old = acted.last("installed").installed["toytransformers"]

    def version(scene: str) -> str:
        return acted.last(scene).installed["toytransformers"]

    rows = [
        ("it is installed and satisfies >=", version("installed, asked again"), "-U", version("installed, -U")),
        ("an image layer, keyed by the file's text", version("image, same text"), "another text", version("image, one comment more")),
        ("pip's cache of index pages", version("empty, page cached"), "--refresh-package, or 10 minutes", version("empty, page asked again")),
        ("pip's cache of wheels, which held 4.20.1", version("empty, page asked again"), "-", "-"),
    ]
    kept = [(who, version, "yes" if version == old else "no", cure, after) for who, version, cure, after in rows]
    return _table("Why did the old version stay?", ("suspect", "version taken", "kept the old one", "what moves it", "then"), kept)


def pythons() -> Acted:
    """One requirement resolved for five Pythons, over releases with the published Requires-Python. ``found`` is {Python: version}."""
    wheels = [toytransformers(published().release(version)) for version in published().python.values()]
    with labs.Lab("pythons", [*wheels, toynumpy("1.26.2")], KEPT) as lab:
        machine = lab.machine(files=FILES)
        runs = {python: machine.run(f"uv pip install --dry-run --python-version {python} -r requirements.txt") for python in published().python}
        found = {python: re.search(r"\+ toytransformers==(\S+)", run.words)[1] for python, run in runs.items()}
        return Acted({f"Python {python}": (run,) for python, run in runs.items()}, found)


def python_table(acted: Acted) -> charts.Noted:
    """What one requirement was on each Python when it was last asked for real, and what the toy index answers."""
    rows = []
    for python, version in published().python.items():
        release = published().release(version)
        rows.append((f"Python {python}", version, release.python, release.date, acted.found[python]))
    heads = ("asked for", "transformers>=4.20.0", "which requires Python", "built on", "toytransformers>=4.20.0")
    return _table(f"One requirement on five Pythons: asked on {published().read}, and resolved on the toy index", heads, rows)


MACHINES = ("production", "laptop", "next machine")
"""The old environment, with a package that somebody once added by hand; a new one today; a new one when toynumpy 2.0.0 is out."""

REMEDIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "left loose": (LOOSE, "", ("uv pip install -r requirements.txt",)),
    "one pin": ("toytransformers==4.35.2", "", ("uv pip install -r requirements.txt",)),
    "Poetry's lock": (LOOSE, "poetry lock", ("poetry install", "poetry sync")),
    "uv's lock": (LOOSE, "uv lock", ("uv sync",)),
}
"""What is asked for; what is done once, on the laptop; what is done on every machine."""


def remedies() -> Acted:
    """Each remedy on three machines. The scenes are named "remedy, machine"; ``found`` holds what each lock says, read as a file."""
    scenes, found = {}, {}
    for remedy, (requirement, prepare, deploy) in REMEDIES.items():
        with labs.Lab(f"remedy {remedy}", on_offer(TODAY), KEPT) as lab:
            files = {"requirements.txt": f"{requirement}\n", "app.py": FILES["app.py"]}
            machines = {name: lab.machine(requirement, files=files) for name in MACHINES}
            machines["production"].run(f"uv pip install {OLD} toynotebook")
            prepared = machines["laptop"].run_all(prepare) if prepare else ()
            if prepare:
                lock = f"{prepare.split()[0]}.lock"
                text = machines["laptop"].read(lock)
                found[remedy] = read_lock(text, lock).on()
                for name in ("production", "next machine"):
                    machines[name].write(lock, text)
            for name in MACHINES:
                if name == "next machine":
                    lab.add(*on_offer(LATER))
                commands = deploy if name == "production" else deploy[-1:]
                runs = machines[name].run_all(*commands, "python app.py")
                scenes[f"{remedy}, {name}"] = (*prepared, *runs) if name == "laptop" else runs
    return Acted(scenes, found)


def sets(acted: Acted, remedy: str) -> dict[str, dict[str, str]]:
    """What each machine has under a remedy."""
    return {name: acted.last(f"{remedy}, {name}").installed for name in MACHINES}


def remedies_table(acted: Acted) -> charts.Noted:
    """Each remedy: what the three machines have, whether the app runs on each, and whether the stray package is gone."""
    rows = []
    for remedy in REMEDIES:
        held = sets(acted, remedy)
        different = len({json.dumps(one) for one in held.values()})
        fails = [name for name in MACHINES if not acted.last(f"{remedy}, {name}").ok]
        stray = "stays" if "toynotebook" in held["production"] else "removed"
        rows.append((remedy, *(_short(held[name]) for name in MACHINES), str(different), ", ".join(fails) or "nowhere", stray))
    heads = ("remedy", *MACHINES, "different sets", "app fails on", "the stray package")
    return _table("toytransformers / toynumpy on three machines", heads, rows)


def _short(installed: Mapping[str, str]) -> str:
    return " / ".join(installed.get(name, "-") for name in ("toytransformers", "toynumpy"))


def ci() -> Acted:
    """What a pipeline sees and what production then does: with a loose requirement, with the set locked in 2022, with today's, and with a stale lock."""
    with labs.Lab("ci", on_offer(BUILT), KEPT) as lab:
        pipeline, production, locked = (lab.machine(LOOSE, files=FILES) for _ in range(3))
        production.run(f"uv pip install {OLD}")
        locked.run("uv lock")
        lab.add(*on_offer(TODAY))
        test = ("uv sync --locked", "python app.py")
        scenes = {
            "loose: CI": pipeline.run_all("uv pip install -r requirements.txt", "python app.py"),
            "loose: production": production.run_all("uv pip install -r requirements.txt", "python app.py"),
            "lock of 2022: CI": locked.run_all(*test),
            "lock of today: CI": locked.run_all("uv lock --upgrade", *test),
        }
        production.write("uv.lock", locked.read("uv.lock"))
        scenes["lock of today: production"] = production.run_all(*test)
        locked.project("toytransformers>=4.30", "toynotebook")
        scenes["pyproject.toml edited, lock forgotten: CI"] = locked.run_all("uv sync --locked")
        return Acted(scenes)


PLATFORMS = {
    "the same platform": ("x86_64-unknown-linux-gnu", "3.11"),
    "Linux on ARM": ("aarch64-unknown-linux-gnu", "3.11"),
    "macOS on ARM": ("aarch64-apple-darwin", "3.11"),
    "Windows": ("x86_64-pc-windows-msvc", "3.11"),
    "Python 3.12": ("x86_64-unknown-linux-gnu", "3.12"),
}


def build_once() -> Acted:
    """An environment built once from a loose requirement, tested, and copied; then one with a compiled wheel, offered to other platforms.

    ``found`` has ``same`` (are the files on both machines those that were tested?), ``requests`` (what the index was asked while deploying) and
    ``seconds`` (the slower of the two copies).
    """
    kernel = Wheel("toykernel", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    with labs.Lab("build once", [*on_offer(TODAY), kernel], KEPT) as lab:
        image, runs = Layers(lab).build(f"{LOOSE}\n", FILES["app.py"])
        scenes = {"built and tested": (*runs, image.run("python app.py"))}
        lab.add(*on_offer(LATER))
        before, digests, seconds = lab.requests(), [_digest(lab, image)], []
        for name in ("production", "next machine"):
            machine = lab.machine(files=FILES)
            seconds.append(lab.step({"asked": "copy"}, lambda machine=machine: _copy(image, machine)))
            scenes[f"copied to {name}"] = machine.run_all("python app.py")
            digests.append(_digest(lab, machine))
        found = {"same": len(set(digests)) == 1, "requests": lab.requests() - before, "seconds": max(seconds)}
        tester = lab.machine()
        for name, (platform, python) in PLATFORMS.items():
            scenes[name] = tester.run_all(f"uv pip install --dry-run --python-platform {platform} --python-version {python} toykernel")
        return Acted(scenes, found)


def _copy(image: labs.Machine, machine: labs.Machine) -> float:
    """Everything installed, file by file: what an image does. Returns the seconds."""
    started = time.perf_counter()
    shutil.copytree(image.environment.site, machine.environment.site, dirs_exist_ok=True)
    return time.perf_counter() - started


def _digest(lab: labs.Lab, machine: labs.Machine) -> str:
    """SHA-256 over the paths and contents of everything installed."""

    def of_files() -> str:
        site = machine.environment.site
        files = sorted(path for path in site.rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.relative_to(site).as_posix().encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()

    return lab.step({"asked": "digest"}, of_files)


def remedies_seconds(tried: Acted, pipeline: Acted, built: Acted) -> charts.Noted:
    """Wall-clock seconds of each remedy: what is done once, and what fills an empty machine from it; for CI, on production. Without the app's runs."""
    rows = []
    for remedy, (_, prepare, _) in REMEDIES.items():
        once = sum(run.seconds for run in tried[f"{remedy}, laptop"] if run.command == prepare)
        deployed = tried[f"{remedy}, next machine"][-2]
        rows.append((remedy, once, deployed.seconds, deployed.command))
    deployed = pipeline["lock of today: production"][0]
    rows.append(("CI on the locked set", sum(run.seconds for run in pipeline["lock of today: CI"]), deployed.seconds, deployed.command))
    rows.append(("build once", built["built and tested"][0].seconds, built.found["seconds"], "every file copied"))
    shown = [(remedy, units.seconds(once) if once else "-", units.seconds(deploy), by) for remedy, once, deploy, by in rows]
    return _table("Seconds of one run each, on a local index with two packages", ("remedy", "once", "a deployment", "by"), shown)


# -- the second story: two libraries that cannot coexist ------------------------------------------------------------------

WAYS = {
    "as it is": "both pins, one environment",
    "an older server": "the resolver may choose: toyserver 0.9",
    "a fork, pin relaxed": "toytrainer 1.0+relaxed: the same code, any toytensor",
    "a fork, code mended": "toytrainer 1.0+mended: computes what 1.26 did",
    "vendored": "toytrainer 1.0+vendored: carries its own toytensor 1.26",
    "two environments": "toytrainer and toyserver in processes of their own",
    "an override": "uv is told that toytensor>=2 is fine",
}


def coexist() -> Acted:
    """toytrainer needs toytensor<2, toyserver 1.0 needs toytensor>=2: each way out, for real."""
    forks = {"a fork, pin relaxed": FORKS["relaxed"], "a fork, code mended": FORKS["mended"], "vendored": FORKS["vendored"]}
    run_both = ("python app.py", "python feature.py")
    with labs.Lab("coexist", RIVALS, KEPT) as lab:
        scenes = {"as it is": lab.machine().run_all("uv pip install toytrainer==1.0 toyserver==1.0")}
        scenes["an older server"] = lab.machine(files=BOTH).run_all("uv pip install toytrainer toyserver", *run_both)
        overriding = lab.machine(files=BOTH | {"overrides.txt": "toytensor>=2\n"})
        scenes["an override"] = overriding.run_all("uv pip install --override overrides.txt toytrainer==1.0 toyserver==1.0", *run_both)

        trainer, server = lab.machine(files=APART), lab.machine(files=BOTH)
        both = (*trainer.run_all("uv pip install toytrainer==1.0"), *server.run_all("uv pip install toyserver==1.0"))
        if server.environment:
            trainer.write("server.txt", str(server.environment.python))
        scenes["two environments"] = (*both, *trainer.run_all("python app.py"), *server.run_all("python feature.py"))

        lab.add(*forks.values())
        for way, fork in forks.items():
            more = ("python copies.py",) if way == "vendored" else ()
            scenes[way] = lab.machine(files=BOTH).run_all(f"uv pip install toytrainer=={fork.version} toyserver==1.0", *run_both, *more)
        return Acted({way: scenes[way] for way in WAYS})


@dataclass(frozen=True)
class Verdict:
    """One way out, judged: does it resolve, is ``pip check`` content, what does the app answer, is that right, does the newer feature work?"""

    way: str
    resolves: bool
    consistent: bool
    answer: str
    right: bool
    feature: bool


def verdicts(acted: Acted) -> dict[str, Verdict]:
    """Each way judged. What is right is the answer of the two environments, in which each library has the toytensor that it was written for."""
    judged = {}
    right = _app(acted["two environments"])
    for way in WAYS:
        installs = [run for run in acted[way] if run.command.startswith("uv")]
        answer = _app(acted[way])
        feature = any(run.ok for run in acted[way] if "feature" in run.command)
        judged[way] = Verdict(way, all(run.ok for run in installs), all(run.consistent for run in installs), answer, answer == right, feature)
    return judged


def _app(runs: Sequence[Run]) -> str:
    return next((charts.last_line(run.words) for run in runs if run.command == "python app.py"), "")


def verdicts_table(acted: Acted) -> charts.Noted:
    rows = []
    for way, verdict in verdicts(acted).items():
        if not verdict.resolves:
            rows.append((way, f"{WAYS[way]}: refused", *"----"))
            continue
        check = "clean" if verdict.consistent else "complains"
        rows.append((way, WAYS[way], check, verdict.answer, "right" if verdict.right else "WRONG", "works" if verdict.feature else "missing"))
    return _table("Ways out of a conflict", ("way", "how", "pip check", "the app prints", "which is", "toyserver.stream"), rows)


# -- the panel --------------------------------------------------------------------------------------------------------------

PANEL_MACHINES = ("laptop", "production", "CI, cached layer")
REQUIREMENTS = {
    "toytransformers": "toytransformers",
    ">=4.20.0 (unchanged)": LOOSE,
    ">=4.25.1": "toytransformers>=4.25.1",
    "~=4.30.0": "toytransformers~=4.30.0",
    "==4.35.2": "toytransformers==4.35.2",
    "locked: ==4.35.2, toynumpy==1.26.2": "toytransformers==4.35.2\ntoynumpy==1.26.2",
}
"""From loose to exact. production and CI were built with the second one."""

DEPLOYS = {"pip install -r": "no", "pip install -U -r": "named", "… --upgrade-strategy eager": "all", "a new environment": "new"}


def day_before(months: int, day: str = TODAY) -> str:
    """The same day of the month, this many months before."""
    year, month, rest = day.split("-")
    count = 12 * int(year) + int(month) - 1 - months
    return f"{count // 12}-{count % 12 + 1:02}-{rest}"


@lru_cache(4096)
def versions_held(age: int, requirement: str, deploy: str, early: bool) -> dict[str, dict[str, str]]:
    """What the three machines have today: production and CI were built ``age`` months ago with the loose requirement, the laptop today."""
    today, before = offered(TODAY, LACKS_FLOAT if early else ()), resolve(LOOSE, offered(day_before(age)))
    fresh = resolve(requirement, today)
    return {
        "laptop": fresh,
        "production": fresh if deploy == "new" else resolve(requirement, today, before, deploy),
        "CI, cached layer": before if requirement == LOOSE else fresh,
    }


def three_machines(age: int, requirement: str, deploy: str, early: bool) -> charts.MachinesRecord:
    """Which version each machine gets, and whether the app's import works there."""
    machines = versions_held(age, requirement, deploy, early)
    failures = {name: why for name in PANEL_MACHINES if (why := failure(machines[name]))}
    alike = len({json.dumps(one) for one in machines.values()})
    if failures:
        verdict = f"Fails on {' and on '.join(failures)}: {'; '.join(dict.fromkeys(failures.values()))}."
    else:
        verdict = "All three are alike: the app runs." if alike == 1 else f"All three run, for now: {alike} different sets of versions."
    ages = [age for age in range(18) if not failure(versions_held(age, requirement, deploy, early)["production"])]
    today = offered(TODAY, LACKS_FLOAT if early else ())
    named = specifiers(requirement)
    allowed = {name: list(named[name].filter(versions)) if name in named else list(versions) for name, versions in today.items()}
    built = {0: "today", 1: "1 month ago"}.get(age, f"{age} months ago")
    lines = [f"Production was built {built}; with these settings the app runs there {f'at an age of {_spans(ages)} months' if ages else 'at no age'}."]
    return charts.MachinesRecord(machines, failures, allowed, verdict, lines)


def _spans(numbers: Sequence[int]) -> str:
    """``0 to 11`` for a run of numbers."""
    spans = [[number for _, number in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def panel() -> Panel:
    """Age of the environment, requirement, deploy command, and whether toynumpy 2.0.0 is out, against what three machines get."""
    from ipywidgets import Dropdown, IntSlider

    controls = {
        "age": IntSlider(value=14, min=0, max=17, description="Age, months", tooltip="months since production's environment and CI's layer were built"),
        "requirement": Dropdown(options=REQUIREMENTS, value=LOOSE, description="Requirement", tooltip="the text of requirements.txt today"),
        "deploy": Dropdown(options=DEPLOYS, value="no", description="Deploy with", tooltip="what is run on production"),
        "early": Dropdown(
            options={"not out yet": False, "just released": True}, value=False, description="toynumpy 2.0.0", tooltip="a new major version of a dependency"
        ),
    }
    versions = offered(TODAY, LACKS_FLOAT)
    lacking = [version for version in versions["toytransformers"] if not published().name("GenerationConfig").is_in(version)]
    broken = {"toytransformers": (lacking, "no GenerationConfig"), "toynumpy": (LACKS_FLOAT, "no float_")}
    return Panel("Which version does each machine get?", controls, three_machines, charts.Machines(versions, PANEL_MACHINES, broken))


# -- exercises ----------------------------------------------------------------------------------------------------------------

CAUSES = {
    "old version": "what is installed satisfies requirements.txt, and lacks the name",
    "shadowed": "a file of the project has the package's name",
    "half removed": "the package's folder is there, its __init__.py is not",
    "dependency moved": "the package is as pinned, what it needs has changed",
    "held back": "another package wanted an older version, and got it",
}
DIAGNOSED = (1, 7)
"""The seeds that the verifier tries; between them they have every cause."""

COMMANDS = (
    "python app.py", "pip install --dry-run -r requirements.txt", "pip freeze", "pip check", "pip show toytransformers", "uv pip tree",
    'python -c "import toytransformers; print(toytransformers)"',
)  # fmt: skip
"""What is recorded of each broken machine, for those who have no pip, Poetry and uv."""


class Recorded:
    """A broken machine that answers from its recording."""

    def __init__(self, answers: Mapping[str, Any]):
        self._answers = answers

    def run(self, command: str, seconds: float = 60) -> Run:
        """See Environment.run. Raises BadInput for a command that was not recorded."""
        return record.restore(Run, self._answer("runs", command))

    def read(self, name: str) -> str:
        return self._answer("files", name)

    def _answer(self, kind: str, asked: str) -> Any:
        known = self._answers[kind]
        if asked not in known:
            raise BadInput(f"{asked!r} was not recorded, only {', '.join(known)}; `{tools.INSTALL}` once, with the network, makes everything possible.")
        return known[asked]


def causes(seed: int) -> list[str]:
    """What is wrong with the machines of ``broken(seed)``, in their order."""
    return random.Random(seed).sample(list(CAUSES), 3)


@contextmanager
def broken(seed: int) -> Iterator[list[Environment | Recorded]]:
    """Three machines on which ``python app.py`` fails, each for a reason of ``CAUSES``; gone when the block ends. The same seed gives the same three."""
    if tools.find() is None:
        yield [Recorded(answers) for answers in labs.once(KEPT, f"broken {seed}", dict)]
        return
    with labs.Lab(f"broken {seed}", (*on_offer(LATER), Wheel("toyplugin", "1.0", ("toytransformers<4.25",))), KEPT) as lab:
        draw = random.Random(f"{seed} details")
        yield [_break(lab, cause, draw) for cause in causes(seed)]


def _break(lab: labs.Lab, cause: str, draw: random.Random) -> Environment:
    """A machine that is broken in this way."""
    name = draw.choice([one for one in published().names if Version("4.20.1") < Version(one.since)])
    lacking = [one.version for one in releases() if not name.is_in(one.version) and one.version not in published().yanked]
    requirement = {"old version": LOOSE, "held back": f"toytransformers>={name.since}"}.get(cause, "toytransformers==4.35.2")
    version = draw.choice(lacking) if cause == "old version" else "4.35.2"
    numpy = "2.0.0" if cause == "dependency moved" else "1.26.2"
    machine = lab.machine(files={"requirements.txt": f"{requirement}\n", "app.py": app(name.name)}).environment
    machine.run(f"uv pip install toytransformers=={version} toynumpy=={numpy}")
    if cause == "shadowed":
        machine.write("toytransformers.py", "model = None\n")
    elif cause == "half removed":
        (machine.site / "toytransformers" / "__init__.py").unlink()
    elif cause == "held back":
        machine.run("uv pip install toyplugin")
    return machine


def _finds_the_first(answer: Callable) -> str | None:
    draw = random.Random(7)
    for count in (1, 2, 3, 8, 38, 39, 100):
        versions = [f"4.{minor}.{patch}" for minor in range(20, 45) for patch in range(4)][:count]
        for first in {0, count - 1, count, draw.randrange(count)}:
            asked: list[str] = []

            def works(version: str, first=first, asked=asked, versions=versions) -> bool:
                asked.append(version)
                return versions.index(version) >= first

            found, right = answer(list(versions), works), versions[first] if first < count else None
            if found != right:
                return f"Of {count} versions, the first that works is {right}; it gave {found!r}."
            if len(asked) > (most := (count - 1).bit_length() + 2):
                return f"It needed {len(asked)} installs for {count} versions; {most} are enough."
    return None


def _diagnoses(answer: Callable) -> str | None:
    for seed in DIAGNOSED:
        with broken(seed) as machines:
            for place, (machine, cause) in enumerate(zip(machines, causes(seed), strict=True)):
                if (found := answer(machine)) != cause:
                    return f"On machine {place} of broken({seed}) it gave {found!r}; it is {cause!r}: {CAUSES[cause]}."
    return None


def _pins_everything(answer: str) -> str | None:
    if not isinstance(answer, str):
        return "The answer is the text of a requirements.txt."
    old, today = resolve(LOOSE, offered(BUILT)), offered(TODAY)
    numpy = sorted((*TOYNUMPY, "1.23.9", "1.24.9", "1.25.9", "1.26.9"), key=Version)  # what may still come
    later = {"toytransformers": (*today["toytransformers"], "4.35.3", "4.36.0"), "toynumpy": tuple(numpy)}
    machines = {"production": resolve(answer, today, old), "the laptop": resolve(answer, today), "the next machine": resolve(answer, later)}
    for name, installed in machines.items():
        if why := failure(installed):
            return f"On {name}, with {', '.join(f'{package} {version}' for package, version in installed.items())}, the app fails: {why}."
    if len({json.dumps(one) for one in machines.values()}) > 1:
        return f"The machines differ: {'; '.join(f'{name} has {_short(installed)}' for name, installed in machines.items())}."
    return None


exercise("07.ex1", _finds_the_first)
exercise("07.ex2", _diagnoses)
exercise("07.ex3", _pins_everything)


def record_everything() -> None:
    """Run every experiment and keep it for machines without the tools: ``python -m mllandscape.lessons.dependency_hell record``."""
    for experiment in (story, shadows, bisect, suspects, pythons, remedies, ci, build_once, coexist):
        experiment()
    for seed in DIAGNOSED:
        with broken(seed) as machines:
            answers = [
                {"runs": {command: machine.run(command) for command in COMMANDS}, "files": {file: machine.read(file) for file in FILES}} for machine in machines
            ]
            labs.once(KEPT, f"broken {seed}", lambda answers=answers: answers)
    labs.keep(KEPT, "python -m mllandscape.lessons.dependency_hell record")


if __name__ == "__main__":
    sys.exit(record.main({"record": record_everything}))
