"""The command ``mllandscape``: open the lessons, look at the machine, estimate the memory of a training step, install pip, Poetry and uv.

What a workshop needs besides is in ``mllandscape.kit``.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path

from mllandscape import BadInput, __version__, told, units
from mllandscape.kit import verbs as kit
from mllandscape.lessons import EXPERIMENTS, Experiment
from mllandscape.machine import Gpu, Machine, install_extra, look, pip_install
from mllandscape.memory.plan import CHOICES, LIMITS, MOST_PREFETCHED, PARALLEL_CHOICES, PARALLEL_LIMITS, TrainingPlan
from mllandscape.memory.shape import PRESETS, ModelShape

INSTALL = {
    "cuda": "an NVIDIA GPU with its driver, and a CUDA build of torch",
    "cxx": "a C++ compiler (Debian: apt install g++; macOS: xcode-select --install)",
    "git": "git (Debian: apt install git)",
    "nvrtc": f"NVIDIA's compiler library, on Linux: {pip_install('nvidia-cuda-nvrtc-cu12', 'nvidia-cuda-nvrtc')}",
    "ptxas": f"NVIDIA's assembler, on Linux: {install_extra('cuda')}",
    "runtimes": f"CUDA runtimes 11, 12 and 13 side by side, on Linux: {install_extra('cuda')}",
    "tools": "pip, Poetry and uv in an environment of their own: mllandscape tools",
    "rlimit_data": "Linux, or on Windows its Linux subsystem (WSL 2)",
}
"""What meets a need that pip alone does not."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. A wrong input is one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a character shows a question mark instead of failing
    parser = _Parser(prog="mllandscape", description="Ten ML-engineering interview questions, answered by experiment.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mllandscape {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _lab_options(verbs.add_parser("lab", help="open your own copies of the notebooks in JupyterLab", allow_abbrev=False))
    verbs.add_parser("doctor", help="what this machine has, and which experiments it runs live", allow_abbrev=False)
    _estimate_options(verbs.add_parser("estimate", help="memory of one training step, whether it fits, and what would make it fit", allow_abbrev=False))
    _tools_options(verbs.add_parser("tools", help="install pip, Poetry and uv beside mllandscape, for lessons 1 and 7", allow_abbrev=False))
    _record_options(verbs.add_parser("record", help="run what needs a GPU, and keep it for machines without one", allow_abbrev=False))
    kit.register(verbs)
    chosen = parser.parse_args(arguments)
    try:
        status = ({"lab": lab, "doctor": doctor, "estimate": estimate, "tools": install_tools, "record": record_on_gpu} | kit.VERBS)[chosen.verb](chosen)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as head, has seen enough; Python flushes the rest at exit
        return 0
    except BadInput as error:
        print(f"mllandscape: {error}", file=sys.stderr)
        return 2


def _lab_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("my_notebooks"), help="where your copies are; your work is never overwritten (my_notebooks)")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    parser.add_argument("--copies-only", action="store_true", help="put the copies there and stop, for a JupyterLab or JupyterHub of your own")


def lab(chosen: argparse.Namespace) -> int:
    """Open JupyterLab on this machine only, with its token, on the learner's copies or on a built edition as it is. Ends when JupyterLab does."""
    from mllandscape.course.notebooks import learner_copies
    from mllandscape.kit.build import edition_of

    folder = chosen.folder.resolve()
    if edition := edition_of(folder):
        held = f"The {edition} edition is in {folder}; nothing is added to it."
    else:
        held = f"Your copies of the notebooks ({len(learner_copies(folder))}) are in {folder}."
    print(held if chosen.copies_only else f"{held} Stop with Ctrl-C.", flush=True)
    if chosen.copies_only:
        return 0
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, whatever other kernels the user has
    # Without a terminal JupyterLab lets an interrupt kill it, and its kernels go on; a termination stops both.
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    from jupyterlab.labapp import LabApp

    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.allow_root": True,  # the only user of many containers; nobody else can reach the server
        "ServerApp.root_dir": str(folder),
        "ServerApp.answer_yes": True,  # Ctrl-C stops at once instead of asking
        "ServerApp.open_browser": not chosen.no_browser,
        "LabApp.default_url": "/lab",
        "LabApp.workspaces_dir": str(folder / ".workspaces"),  # open tabs belong to this folder
        "ServerApp.log_level": "WARN",
        "LanguageServerManager.autodetect": False,  # it would start npm to look for language servers
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    LabApp.launch_instance([f"--{name}={value}" for name, value in options.items()])
    return 0


def doctor(chosen: argparse.Namespace) -> int:
    """Print what the machine has, what each experiment does here, and how to get what is missing."""
    print("\n".join(diagnosis(look())))
    return 0


def diagnosis(machine: Machine) -> list[str]:
    """The lines of ``doctor``."""
    from mllandscape.cuda.here import verdict_here

    gpu = machine.gpu
    lines = [str(machine)]
    build = f"torch is built for CUDA {gpu.cuda}" if gpu and gpu.cuda else "torch is a CPU build and cannot use it"
    lines += [f"GPU: {gpu.name}, {_capacity(gpu)}, compute capability {gpu.capability}, driver {gpu.driver}; {build}"] if gpu else []
    lines += ["packages: " + ", ".join(f"{name} {version or 'missing'}" for name, version in machine.packages.items())]
    lines += [verdict_here(machine)]
    lines += [f"C++ compiler: {machine.cxx or 'missing'}; git: {machine.git or 'missing'}; Chromium, for the browser test: {machine.chromium or 'missing'}"]
    missing: dict[str, None] = {}
    for number in dict.fromkeys(experiment.lesson for experiment in EXPERIMENTS):
        lines += ["", f"lesson {number}"]
        for experiment in EXPERIMENTS:
            if experiment.lesson == number:
                lines += [f"  {experiment.name}: {status(experiment, machine)}"]
                missing |= dict.fromkeys(_missing(experiment, machine))
    packages = [need for need in missing if need not in INSTALL]
    lines += ["", f"to install what is missing: {pip_install(*packages)}"] if packages else []
    return lines + [f"{need} needs {INSTALL[need]}" for need in missing if need in INSTALL]


def _capacity(gpu: Gpu) -> str:
    return units.gib(gpu.capacity) if gpu.capacity else "capacity unknown"


def _missing(experiment: Experiment, machine: Machine) -> list[str]:
    from mllandscape.cuda import here
    from mllandscape.environments import tools

    look_for = {"tools": tools.find, "runtimes": here.has_runtimes, "nvrtc": here.has_nvrtc, "ptxas": here.has_ptxas}
    return [need for need in experiment.needs if not (look_for[need]() if need in look_for else machine.has(need))]


def status(experiment: Experiment, machine: Machine) -> str:
    """``live``, ``recorded`` or ``not at all``, and why."""
    from mllandscape import record

    missing = _missing(experiment, machine)
    if not missing:
        return "live"
    if experiment.instead and missing == [experiment.instead[0]]:
        return f"live, {experiment.instead[1]}"
    recording = record.load(experiment.recording) if experiment.recording else None
    return (f"{recording.provenance}" if recording else "not at all") + f" ({', '.join(missing)} missing)"


def _estimate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", metavar="SHAPE", help="a model such as llama-2-13b, or a Hugging Face config.json")
    for name, limit in (LIMITS | PARALLEL_LIMITS).items():
        if name != "lora_rank":
            default = getattr(TrainingPlan(), name)
            usual = f"{default}, or the model's context where that is less" if name == "sequence" else default
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"1 to {limit:,} ({usual})")
    parser.add_argument("--shard-group", type=int, help="hsdp: neighbouring ranks that share one copy (8)")
    parser.add_argument("--prefetch", type=int, help=f"blocks gathered ahead, 0 to {MOST_PREFETCHED} (torch's default)")
    parser.add_argument("--gradient-as-bucket-view", action="store_true", default=None, help="ddp, zero1: gradients are views of the buckets")
    parser.add_argument(
        "--reshard-after-forward", action=argparse.BooleanOptionalAction, help="fsdp, hsdp: free gathered layers between the passes, or keep them"
    )
    for name, options in (CHOICES | PARALLEL_CHOICES).items():
        if name != "trainable":
            default = getattr(TrainingPlan(), name)
            parser.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=f"{', '.join(options)}{f' ({default})' if default else ''}")
    parser.add_argument("--in-backward", action="store_true", default=None, help="update each parameter as soon as its gradient exists")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank only")
    parser.add_argument("--gpu", default="A100-80GB", help="a card, 80GB as on its box, or usable memory such as 79.15GiB (A100-80GB)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, in bytes")


def estimate(chosen: argparse.Namespace) -> int:
    """Print the predicted memory of a training step, the verdict on a card, and the cheapest changes that make it fit."""
    from mllandscape.memory.estimate import report

    given = {name: value for field in fields(TrainingPlan) if (value := getattr(chosen, name := field.name, None)) is not None}
    if chosen.lora is not None:
        given |= {"trainable": "lora", "lora_rank": chosen.lora}
    shape = _shape(chosen.shape)
    plan = TrainingPlan(**{"sequence": min(TrainingPlan().sequence, shape.context)} | given)
    beyond = plan.sequence > shape.context
    if beyond and shape.style == "gpt":
        raise BadInput(f"--sequence {plan.sequence}: {shape.name or 'this gpt'} has {shape.context:,} learned positions; 1 to {shape.context:,} is possible.")
    answer = report(shape, plan, chosen.gpu)
    if beyond:
        warning = f"--sequence {plan.sequence}: {shape.name or 'this model'} was made for {shape.context:,} positions; the memory is predicted all the same."
        print(f"mllandscape: {warning}", file=sys.stderr)
    print(json.dumps(answer.to_json(), indent=2) if chosen.json else answer)
    return 0


def _shape(given: str) -> ModelShape:
    if given.endswith(".json") or (Path(given) / "config.json").is_file():
        return ModelShape.from_config(given)
    if given.strip().lower() not in PRESETS:  # what ModelShape.preset would say is meant for Python
        raise BadInput(f"no model {told(given)}; possible: {', '.join(PRESETS)}, or the path of a config.json.")
    return ModelShape.preset(given)


def _record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a part, or how names begin: 03.ladder, 02; as often as you like")
    parser.add_argument("--list", action="store_true", help="name the parts, with the seconds that each takes, and run nothing")
    parser.add_argument("--again", action="store_true", help="run a part again although its recording is there")
    parser.add_argument("--folder", type=Path, help="where the recordings go (the package's own recordings/)")


def record_on_gpu(chosen: argparse.Namespace) -> int:
    """Run the parts that are not recorded yet. Exit status 1 if one of them failed; Ctrl-C keeps those that are done."""
    from mllandscape import record, recorder

    parts, folder = recorder.chosen(chosen.only), chosen.folder or record.FOLDER
    if chosen.list:
        print("\n".join(recorder.listed(parts, folder)))
        return 0
    try:
        return 1 if recorder.run(parts, folder, chosen.again, lambda line: print(line, flush=True)) else 0
    except KeyboardInterrupt:
        print("mllandscape: stopped; the parts that are done are kept, and the same command goes on with the next.", file=sys.stderr)
        return 130


def _tools_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--constraint", type=Path, help="a file of pins that pip is to keep to")


def install_tools(chosen: argparse.Namespace) -> int:
    """Install pip, Poetry and uv into an environment of their own. Does nothing when they are there. The only verb that uses the network."""
    from mllandscape.environments import tools

    found = tools.find() or tools.install(chosen.constraint)
    print(f"{', '.join(f'{name} {version}' for name, version in found.versions.items())}: {found.python.parents[1]}")
    return 0
