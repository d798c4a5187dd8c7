"""The command ``mllandscape``: its verbs, its errors, and what importing the package costs."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import __version__, cli, lessons
from mllandscape.cli import diagnosis, main
from mllandscape.cuda import compatibility, here, native
from mllandscape.environments import tools
from mllandscape.lessons import Experiment
from mllandscape.machine import PACKAGES, Gpu, Machine
from mllandscape.memory import ModelShape, TrainingPlan, predict

LAPTOP = Machine(
    os="Linux x86_64", python="3.12.1", cores=8, memory=16 * 2**30, torch="2.13.0", gpu=None, cxx="/usr/bin/c++",
    packages={name: "1.0" for name in PACKAGES}, rlimit_data=True, chromium=None, git="/usr/bin/git",
)  # fmt: skip
H200 = Gpu("NVIDIA H200", 150_000_000_000, "9.0", "580.65", "13.0")


# ---- doctor ----


@pytest.fixture(autouse=True)
def nvidias_own(monkeypatch):
    """NVIDIA's runtimes and compilers are installed."""
    for name in ("has_runtimes", "has_nvrtc", "has_ptxas"):
        monkeypatch.setattr(here, name, lambda: True)


def statuses(machine: Machine) -> dict[str, str]:
    return dict(line.strip().split(": ", 1) for line in diagnosis(machine) if line.startswith("  "))


def test_every_experiment_of_every_lesson_is_listed():
    assert list(statuses(LAPTOP)) == [experiment.name for experiment in lessons.EXPERIMENTS]


def test_a_laptop_runs_everything_live_but_the_gpu_experiments():
    on_gpu = [experiment.name for experiment in lessons.EXPERIMENTS if "cuda" in experiment.needs]
    assert [name for name, status in statuses(LAPTOP).items() if status != "live"] == on_gpu
    assert "cuda missing" in statuses(LAPTOP)["out of memory on a GPU"]


def test_without_a_compiler_timings_are_recorded_and_the_line_says_how_to_get_one():
    lines = diagnosis(replace(LAPTOP, cxx=None))
    assert any("recorded on" in line and "cxx missing" in line for line in lines) and any("apt install g++" in line for line in lines)
    assert not any("pip install" in line for line in lines)


def test_a_machine_with_a_gpu_runs_everything_live():
    with_gpu = replace(LAPTOP, gpu=H200)
    assert set(statuses(with_gpu).values()) == {"live"}
    assert "NVIDIA H200, 139.7 GiB, compute capability 9.0, driver 580.65; torch is built for CUDA 13.0" in "\n".join(diagnosis(with_gpu))


def test_a_gpu_under_a_cpu_build_of_torch_is_named_and_not_used():
    machine = replace(LAPTOP, gpu=replace(H200, cuda=None))
    assert "CPU build" in "\n".join(diagnosis(machine)) and statuses(machine)["out of memory on a GPU"] != "live"


def test_without_a_kernel_limit_the_tracker_enforces_the_budget():
    machine = replace(LAPTOP, os="Darwin arm64", rlimit_data=False)
    assert statuses(machine)["real out-of-memory under a byte budget"] == "live, under the tracker's own budget"


def test_missing_packages_are_named_with_one_line_that_installs_them():
    machine = replace(LAPTOP, packages=LAPTOP.packages | {"bitsandbytes": None, "accelerate": None})
    assert "bitsandbytes missing" in statuses(machine)["8-bit AdamW"]
    assert [line for line in diagnosis(machine) if "pip install" in line] == [
        f"to install what is missing: {sys.executable} -m pip install bitsandbytes accelerate"
    ]


def test_the_parts_of_lesson_8_that_are_recorded_are_said_to_be_and_how_to_have_them(monkeypatch):
    for name, experiment in (
        ("runtimes", "error 35 from real CUDA runtimes"), ("ptxas", "ptxas refusing a newer PTX"), ("nvrtc", "NVRTC refusing an older GPU")
    ):  # fmt: skip
        monkeypatch.setattr(here, f"has_{name}", lambda: False)
        assert statuses(LAPTOP)[experiment].startswith("recorded on") and f"{name} missing" in statuses(LAPTOP)[experiment]
        assert any(line.startswith(f"{name} needs") and f"{sys.executable} -m pip install" in line for line in diagnosis(LAPTOP))


def test_doctor_and_the_lesson_agree_on_the_runtimes_that_are_here(monkeypatch):
    monkeypatch.undo()
    sonames = [row["soname"] for row in compatibility.tables()["runtime"]]
    monkeypatch.setattr(native, "libraries", lambda name: [Path(one) for one in sonames])
    assert here.has_runtimes() and here.has_nvrtc()
    monkeypatch.setattr(native, "libraries", lambda name: [Path(one) for one in sonames[1:]])
    assert not here.has_runtimes()
    monkeypatch.setattr(native, "libraries", lambda name: [])
    monkeypatch.setattr(native, "tools", lambda name: [])
    assert not here.has_runtimes() and not here.has_nvrtc() and not here.has_ptxas()


def test_without_torch_only_what_does_not_need_it_runs():
    live = [name for name, status in statuses(replace(LAPTOP, torch=None)).items() if status.startswith("live")]
    others = {experiment.name for experiment in lessons.EXPERIMENTS if experiment.needs and "torch" not in experiment.needs}
    assert live and all("arithmetic" in name for name in set(live) - others)


def test_a_recorded_experiment_is_shown_as_recorded(monkeypatch):
    from mllandscape import record

    provenance = record.Provenance(kind="recorded", device="NVIDIA H200", driver="580", cuda="13.0", torch="2.11.0", python="3.12", date="2026-11-01")
    monkeypatch.setattr(record, "load", lambda name: record.Recording(name, {}, provenance))
    status = statuses(LAPTOP)["out of memory on a GPU"]
    assert status.startswith("recorded on NVIDIA H200") and "2026-11-01" in status and "live" not in status


def test_doctor_runs_on_this_machine(capsys):
    assert main(["doctor"]) == 0
    assert "lesson 03" in capsys.readouterr().out


# ---- estimate ----


def test_estimate_prints_the_prediction_the_verdict_and_changes_that_fit(capsys):
    assert main("estimate llama-2-13b --batch 4 --precision bf16 --gpu 80GB".split()) == 0
    out = capsys.readouterr().out
    profile = predict(ModelShape.preset("llama-2-13b"), TrainingPlan(batch=4, precision="bf16"))
    assert f"{profile.allocated / 1e9:.1f} GB" in out and "verdict" in out and "1. " in out


def test_estimate_as_json_has_the_terms_of_the_same_prediction_in_bytes(capsys):
    command = "estimate gpt2 --batch 2 --sequence 512 --precision fp32 --optimizer sgd --optimizer-impl fused --accumulation 3 "
    command += "--checkpointing full --attention math --loss chunked --gpu 24GB --json"
    assert main(command.split()) == 0
    report = json.loads(capsys.readouterr().out)
    plan = TrainingPlan(
        batch=2, sequence=512, precision="fp32", optimizer="sgd", optimizer_impl="fused", accumulation=3, checkpointing="full", attention="math", loss="chunked"
    )  # fmt: skip
    assert report["plan"] == plan.to_json()
    assert report["terms"] == predict(ModelShape.preset("gpt2"), plan).terms and sum(report["terms"].values()) == report["allocated"]


def test_estimate_knows_lora_and_the_optimizer_in_backward(capsys):
    assert main("estimate gpt2 --sequence 1024 --lora 8 --in-backward --json".split()) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["trainable"], plan["lora_rank"], plan["in_backward"]) == ("lora", 8, True)


def test_estimate_knows_every_field_of_a_strategy(capsys):
    sharded = {"strategy": "hsdp", "ranks": 16, "shard_group": 4, "wrap": "root", "prefetch": 2, "reduce_dtype": "fp32", "reshard_after_forward": False}
    command = "estimate gpt2 --sequence 512 --strategy hsdp --ranks 16 --shard-group 4 --wrap root --prefetch 2 --reduce-dtype fp32 --no-reshard-after-forward"
    assert main([*command.split(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"] == TrainingPlan(sequence=512, **sharded).to_json()
    assert main("estimate gpt2 --sequence 512 --strategy ddp --ranks 8 --bucket-mb 50 --gradient-as-bucket-view".split()) == 0
    assert "ddp on 8 ranks, bucket_mb=50, gradient_as_bucket_view=True" in " ".join(capsys.readouterr().out.split())


def test_estimate_reads_a_config_and_the_folder_that_holds_one(capsys, tmp_path):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    reports = []
    for shape in ("gpt2", str(tmp_path / "config.json"), str(tmp_path)):
        assert main(["estimate", shape, "--sequence", "1024", "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert len({report["allocated"] for report in reports}) == 1


def test_a_sequence_that_is_not_given_fits_the_model(capsys):
    assert main(["estimate", "gpt2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["sequence"] == 1024
    assert main(["estimate", "llama-2-7b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["sequence"] == TrainingPlan().sequence == 2048


def test_a_sequence_beyond_learned_positions_is_refused_with_those_that_are_possible(capsys):
    said = fails_in_one_line(["estimate", "gpt2", "--sequence", "1025"], capsys)
    assert "1 to 1,024 is possible" in said and "larger context" not in said


def test_a_sequence_beyond_other_positions_is_one_line_of_warning_beside_the_report(capsys):
    assert main(["estimate", "llama-2-7b", "--sequence", "8192", "--json"]) == 0
    out, warned = capsys.readouterr()
    assert json.loads(out)["plan"]["sequence"] == 8192 and len(warned.splitlines()) == 1 and "4,096 positions" in warned
    assert main(["estimate", "llama-2-7b", "--sequence", "4096"]) == 0 and capsys.readouterr().err == ""


def test_a_wrong_model_is_told_what_a_command_line_can_give(capsys):
    said = fails_in_one_line(["estimate", "13b"], capsys)
    assert "llama-2-13b" in said and "the path of a config.json" in said and "from_config" not in said


@pytest.mark.parametrize("command", ["doctor", "estimate llama-2-7b --json"])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(command):
    """As in ``mllandscape doctor | head -1``: the pipe is closed before the command writes."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "mllandscape", *command.split()], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def fails_in_one_line(arguments: list[str], capsys) -> str:
    """Run the command, which has to end with status 2 and one line on stderr, and return the line."""
    try:
        status = main(arguments)
    except SystemExit as ending:
        status = ending.code
    out, error = capsys.readouterr()
    assert (status, out, len(error.splitlines())) == (2, "", 1), (status, out, error)
    return error


@pytest.mark.parametrize(
    "arguments",
    [
        "", "nonsense", "estimate", "lab surplus", "doctor --verbose",
        "estimate llama-13b", "estimate missing.json",
        "estimate gpt2 --batch 0", "estimate gpt2 --batch two", "estimate gpt2 --batch 1.5", "estimate gpt2 --batch", "estimate gpt2 --unknown",
        "estimate gpt2 --precision fp8", "estimate gpt2 --optimizer lion", "estimate gpt2 --lora 0",
        "estimate gpt2 --optimizer adafactor --optimizer-impl fused", "estimate gpt2 --in-backward --accumulation 2",
        "build", "build nonsense somewhere", "build html", "build html somewhere --only 99", "reset", "reset 3 --folder no/such/folder", "preflight surplus",
        "progress", "progress import x", "progress export no/such/folder/x.json", "class", "class no/such/folder",
        "estimate gpt2 --gpu 80", "estimate gpt2 --gpu -1GB", "estimate gpt2 --gpu potato",
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line_and_status_2(arguments, capsys):
    assert fails_in_one_line(arguments.split(), capsys).startswith("mllandscape")


@given(name=st.sampled_from(["--batch", "--sequence", "--precision", "--optimizer", "--loss", "--gpu", "--lora"]), value=st.text(max_size=20))
def test_a_nonsense_value_never_ends_in_a_traceback(name, value):
    try:
        status = main(["estimate", "gpt2", f"{name}={value}"])
    except SystemExit as ending:
        status = ending.code
    assert status in (0, 2)


def test_a_config_that_is_not_one_is_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in fails_in_one_line(["estimate", str(tmp_path / "config.json")], capsys)


def test_tools_that_are_there_are_named_and_nothing_is_installed(capsys, monkeypatch):
    monkeypatch.setattr(tools, "find", lambda: tools.Tools(Path("place/bin/python"), Path("site"), {"pip": "26.3", "poetry": "2.5.1", "uv": "0.13.9"}))
    monkeypatch.setattr(tools, "install", lambda constraint: pytest.fail("installed again"))
    assert cli.main(["tools"]) == 0 and capsys.readouterr().out == "pip 26.3, poetry 2.5.1, uv 0.13.9: place\n"


def test_doctor_says_how_to_get_the_tools(monkeypatch):
    experiment = Experiment("01", "resolvers", needs=("tools",))
    monkeypatch.setattr(cli, "EXPERIMENTS", (experiment,))
    assert cli.status(experiment, LAPTOP) == ("live" if tools.find() else "not at all (tools missing)")
    monkeypatch.setattr(tools, "find", lambda: None)
    assert cli.diagnosis(LAPTOP)[-1] == f"tools needs {cli.INSTALL['tools']}" and "mllandscape tools" in cli.INSTALL["tools"]


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["--version"])
    assert ending.value.code == 0 and capsys.readouterr().out == f"mllandscape {__version__}\n"


# ---- lab ----


@pytest.fixture
def started(monkeypatch):
    """The options that JupyterLab would be started with."""
    from jupyterlab.labapp import LabApp

    from mllandscape.course import notebooks

    options = []
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: options.extend(argv))
    monkeypatch.setattr(notebooks, "learner_copies", lambda folder: folder.mkdir(parents=True) or [folder / "03_out_of_memory.ipynb"])
    return options


def test_lab_listens_on_this_machine_only_with_a_token_and_asks_no_server_for_news(started, tmp_path, capsys):
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--no-browser"]) == 0
    assert {"--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path / 'mine'}", "--ServerApp.open_browser=False", "--LabApp.news_url=None"} <= set(started)
    assert not any(word in option for option in started for word in ("token", "password", "allow_remote", "allow_origin", "disable_check"))
    assert str(tmp_path / "mine") in capsys.readouterr().out


def test_the_copies_alone_are_put_there_for_a_jupyterhub(started, tmp_path, capsys):
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--copies-only"]) == 0
    assert started == [] and str(tmp_path / "mine") in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file" / "mine") in fails_in_one_line(["lab", "--folder", str(tmp_path / "file" / "mine")], capsys)


# ---- importing ----

HEAVY = {"torch", "matplotlib", "ipywidgets", "numpy", "IPython"}


def modules_after(code: str) -> set[str]:
    listed = subprocess.run([sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("code", ["import mllandscape", "import mllandscape.cli", "from mllandscape.memory import ModelShape, TrainingPlan, predict"])
def test_importing_brings_in_nothing_heavy(code):
    assert modules_after(code).isdisjoint(HEAVY)


def test_the_workshops_verbs_are_light_until_they_are_run():
    kit = {name for name in modules_after("import mllandscape.cli") if name.startswith("mllandscape.kit")}
    assert kit == {"mllandscape.kit", "mllandscape.kit.verbs"}


def test_doctor_and_estimate_import_nothing_heavy():
    assert modules_after("from mllandscape.cli import main; main(['doctor']); main(['estimate', 'gpt2', '--sequence', '1024'])").isdisjoint(HEAVY)


def test_importing_the_package_takes_at_most_20_ms():
    code = "import time; before = time.perf_counter(); import mllandscape; print(time.perf_counter() - before)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(5)]
    assert min(float(seconds) for seconds in runs) <= 0.020


def test_the_module_runs_as_a_command():
    command = [sys.executable, "-m", "mllandscape", "estimate", "no-such-model"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and len(ended.stderr.splitlines()) == 1
