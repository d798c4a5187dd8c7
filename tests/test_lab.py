"""Labs: what is run live is noted and can be played back, step by step, and nothing else is played."""

import pytest

from mllandscape import BadInput, record
from mllandscape.environments import Wheel, lab, tools

needs_tools = pytest.mark.skipif(tools.find() is None, reason=f"pip, Poetry and uv are not installed: {tools.INSTALL}")
WHEELS = [Wheel("alpha", "1.0"), Wheel("beta", "1.0", ("alpha>=1.0",))]


def script(name: str) -> list:
    """A lab with two machines, a file that is carried from one to the other, and a count of requests."""
    with lab.Lab(name, WHEELS, "kept") as here:
        first = here.machine("beta")
        runs = list(first.run_all("uv lock", "uv sync"))
        second = here.machine("beta", files={"uv.lock": first.read("uv.lock")})
        runs.append(second.run("uv sync --locked"))
        return [*runs, second.files(), here.requests() > 0]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Recordings in a folder of their own, and nothing noted so far."""
    monkeypatch.setattr(lab, "noted", {"labs": {}, "values": {}})
    load, save = record.load, record.save
    monkeypatch.setattr(record, "load", lambda name: load(name, tmp_path))
    monkeypatch.setattr(record, "save", lambda name, data, provenance: save(name, data, provenance, tmp_path))
    return monkeypatch


@needs_tools
def test_what_was_run_is_played_back_without_the_tools(kept):
    live = script("carried")
    assert [run.exit_code for run in live[:3]] == [0, 0, 0] and live[2].installed == {"alpha": "1.0", "beta": "1.0"}
    assert lab.once("kept", "sum", lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    assert lab.line("kept").startswith("Run here, with ") and "uv " in lab.line("kept")
    lab.keep("kept", "the command")
    kept.setenv("MLLANDSCAPE_TOOLS", "/nonexistent")
    assert tools.find() is None
    assert script("carried") == live
    assert lab.once("kept", "sum", lambda: pytest.fail("nothing is run")) == {"a": [1, 2]}
    said = lab.line("kept")
    assert "\n" not in said and tools.INSTALL in said and "recorded on CPU" in said and f"uv {live[0].versions['uv']}" in said


@needs_tools
def test_a_step_that_was_not_recorded_is_one_line(kept):
    script("carried")
    lab.keep("kept", "the command")
    kept.setenv("MLLANDSCAPE_TOOLS", "/nonexistent")
    with lab.Lab("carried", WHEELS, "kept") as here, pytest.raises(BadInput, match="'uv add beta' is not what was recorded") as told:
        here.machine("beta").run("uv add beta")
    assert "\n" not in str(told.value) and tools.INSTALL in str(told.value)
    with pytest.raises(BadInput, match="'other' is not in the recording"):
        script("other")
    with pytest.raises(BadInput, match="'other' is not in the recording"):
        lab.once("kept", "other", list)


def test_no_tools_and_no_recording_is_one_line(kept):
    kept.setenv("MLLANDSCAPE_TOOLS", "/nonexistent")
    with pytest.raises(BadInput, match="no recording kept") as told:
        script("carried")
    assert "\n" not in str(told.value)
