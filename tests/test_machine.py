"""What a machine is found to have, with everything else hidden."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from mllandscape import machine, units
from mllandscape.machine import Gpu, look

POSIX = pytest.mark.skipif(os.name == "nt", reason="the driver's tool is imitated by a shell script")


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """An imitated nvidia-smi that prints the given line and notes its arguments."""

    def install(line: str, status: int = 0) -> Path:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/arguments\necho '{line}'\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return tmp_path / "arguments"

    return install


def test_this_machine_agrees_with_psutil_and_with_torch():
    here = look()
    assert here.torch == torch.__version__
    assert here.packages["numpy"] == importlib.metadata.version("numpy")
    assert 0 < here.memory <= psutil.virtual_memory().total
    assert 1 <= here.cores <= os.cpu_count()
    assert here.rlimit_data == (sys.platform == "linux")
    assert here.python == sys.version.split()[0]


def test_looking_imports_nothing_heavy():
    code = "import json, sys; from mllandscape.machine import look; look(); print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert {"torch", "numpy", "matplotlib"}.isdisjoint(modules)


def test_a_machine_with_nothing_is_described_without_an_error(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    def unknown(name):
        raise ValueError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    bare = look(torch=True)
    assert (bare.torch, bare.gpu, bare.cxx, bare.chromium) == (None, None, None, None)
    assert set(bare.packages.values()) == {None}
    assert "torch missing" in str(bare) and "no GPU" in str(bare)
    assert not any(bare.has(need) for need in ("torch", "cuda", "cxx", "bitsandbytes"))


@POSIX
def test_a_gpu_is_read_from_the_driver(driver, monkeypatch):
    driver("NVIDIA H200, 143771, 9.0, 580.65.06")
    monkeypatch.setattr(machine, "_torch_cuda", lambda: "13.0")
    here = look()
    assert here.gpu == Gpu("NVIDIA H200", 143771 * units.MIB, "9.0", "580.65.06", "13.0")
    assert here.has("cuda")


@POSIX
def test_a_gpu_is_no_use_to_a_cpu_build_of_torch(driver, monkeypatch):
    driver("NVIDIA H200, 143771, 9.0, 580.65.06")
    monkeypatch.setattr(machine, "_torch_cuda", lambda: None)
    assert look().gpu and not look().has("cuda")


@POSIX
def test_what_the_driver_does_not_know_is_none(driver):
    driver("NVIDIA GB10, [N/A], 12.1, 580.95")
    assert look().gpu.capacity is None


@POSIX
@pytest.mark.parametrize(("line", "status"), [("", 0), ("No devices were found", 6), ("nonsense", 0), ("a, b", 0)])
def test_a_driver_that_answers_nonsense_is_no_gpu(driver, line, status):
    driver(line, status)
    assert look().gpu is None


@POSIX
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_not_seen(driver, monkeypatch, hidden):
    driver("NVIDIA H200, 143771, 9.0, 580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert look().gpu is None


@POSIX
def test_the_driver_is_asked_for_the_gpu_that_is_visible(driver, monkeypatch):
    arguments = driver("NVIDIA H200, 143771, 9.0, 580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    look()
    assert "--id=3" in arguments.read_text()


def test_the_cuda_version_of_the_installed_torch_is_read_without_importing_it():
    assert machine._torch_cuda() == torch.version.cuda


def test_a_container_has_the_memory_that_it_may_use(monkeypatch):
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: "1073741824\n" if self.name == "memory.max" else whole(self, *a, **k))
    assert look().memory == units.GIB
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: "max\n" if self.name == "memory.max" else whole(self, *a, **k))
    assert look().memory > units.GIB


def test_what_is_missing_is_installed_by_this_interpreters_own_pip(tmp_path, monkeypatch):
    assert machine.pip_install("wandb", "dvc") == f"{sys.executable} -m pip install wandb dvc"
    checkout = Path(machine.__file__).parents[1]
    assert machine.install_extra("cuda") == f'{sys.executable} -m pip install "{checkout}[cuda]"'
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages" / "mllandscape" / "machine.py"))
    lines = ["numpy", 'nvidia-cuda-cuobjdump; sys_platform == "linux" and extra == "cuda"', 'uv; extra == "tools"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert machine.install_extra("cuda") == f'{sys.executable} -m pip install "nvidia-cuda-cuobjdump"'


def test_torchs_version_has_its_build(tmp_path, monkeypatch):
    """The wheel of the default index says 2.13.0 in its metadata and 2.13.0+cu130 in its module."""
    (tmp_path / "version.py").write_text("from typing import Optional\n\n__version__ = '9.8.7+cu130'\ndebug = False\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert machine.torch_version() == "9.8.7+cu130"
    (tmp_path / "version.py").unlink()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.8.7")
    assert machine.torch_version() == "9.8.7"
