"""A recording comes back as it was saved, says where it was made, and a changed or broken file is refused in one line."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllandscape import BadInput, machine, record

RUN = record.Provenance(
    kind="recorded",
    device="NVIDIA H200",
    driver="575.57.08",
    cuda="12.8",
    torch="2.11.0+cu128",
    python="3.12.3",
    date="2026-11-01",
    command="mllandscape record 03",
)
DATA = {"rungs": [{"name": "batch 1", "peak": 405_798_912, "loss": 10.375}, {"name": "µ-batch", "peak": 2**70, "loss": None}], "ok": True, "empty": {}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@dataclass(frozen=True)
class Rung:
    name: str
    peak: int
    loss: float | None = None
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ladder:
    rungs: tuple[Rung, ...]
    best: Rung | None
    notes: dict[str, list[float]] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")


def refused(function, *args, **kwargs):
    with pytest.raises(BadInput) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def edit(path, change):
    """Change the content of a file as an editor would, then give it a digest that fits, made by this test's own arithmetic."""
    content = json.loads(path.read_text())
    change(content)
    content.pop("digest", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(content | {"digest": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}))


class TestProvenance:
    def test_each_kind_says_itself_in_one_line(self):
        assert str(RUN) == "recorded on NVIDIA H200, torch 2.11.0, 2026-11-01"
        assert str(replace(RUN, kind="computed", device="CPU")) == "computed here: CPU, torch 2.11.0"
        assert str(record.Provenance(kind="published", source="arXiv 2411.06465", date="2024-11-10")) == "published: arXiv 2411.06465, 2024-11-10"
        assert str(record.Provenance(kind="recorded", device="CPU", date="2026-11-01")) == "recorded on CPU, 2026-11-01"

    def test_here_is_this_python_today_and_imports_no_torch(self):
        script = "import sys; from mllandscape.record import here; p = here('x'); print('torch' in sys.modules, p.torch, p.python, p.device, p.kind, p.command)"
        seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stdout.split()
        version_file = Path(importlib.util.find_spec("torch").origin).with_name("version.py").read_text()
        installed = re.search(r"__version__ = '(.+)'", version_file)[1]
        assert seen == ["False", installed, sys.version.split()[0], "CPU", "computed", "x"]

    def test_a_gpu_is_named_only_when_the_run_was_on_it(self, monkeypatch):
        gpu = machine.Gpu("NVIDIA A100", 85_000_000_000, "8.0", "575.57.08", "12.8")
        monkeypatch.setattr(machine, "look", lambda torch=False: type("Machine", (), {"gpu": gpu}))
        assert record.here().device == "CPU" and record.here().driver == ""
        seen = record.here(device="cuda")
        assert (seen.device, seen.driver, seen.cuda) == ("NVIDIA A100", "575.57.08", "12.8")
        monkeypatch.setattr(machine, "look", lambda torch=False: type("Machine", (), {"gpu": None}))
        refused(record.here, device="cuda")
        refused(record.here, device="mps")

    @pytest.mark.parametrize(
        "wrong",
        [{"kind": "live"}, {"kind": None}, {"device": ""}, {"date": ""}, {"date": "1 November"}, {"date": "20261101"}, {"date": "2026-02-30"}, {"torch": None}]
        + [{"kind": "published"}, {"kind": "computed", "date": "today"}, {"source": 5}],
    )
    def test_a_provenance_that_cannot_be(self, wrong):
        refused(replace, RUN, **wrong)


class TestSaveAndLoad:
    def test_a_recording_comes_back_as_it_was_saved(self, tmp_path):
        record.save("03.ladder", DATA, RUN, tmp_path)
        loaded = record.load("03.ladder", tmp_path)
        assert loaded == record.Recording("03.ladder", DATA, RUN) and str(loaded) == str(RUN)

    @same_folder
    @given(JSON)
    def test_any_json_comes_back_with_its_types(self, tmp_path, data):
        record.save("any", data, RUN, tmp_path)
        loaded = record.load("any", tmp_path).data
        assert loaded == data and json.dumps(loaded, sort_keys=True) == json.dumps(data, sort_keys=True), "1 is not 1.0, and True is not 1"

    def test_the_file_is_readable_sorted_and_the_same_for_the_same_data(self, tmp_path):
        path = record.save("03.ladder", DATA, RUN, tmp_path)
        first = path.read_bytes()
        reordered = dict(reversed(DATA.items()))
        assert record.save("03.ladder", reordered, RUN, tmp_path).read_bytes() == first
        assert first.endswith(b"}\n") and b"\r" not in first and b'\n "data": {\n' in first
        content = json.loads(first)
        assert list(content) == sorted(content) and content["schema"] == record.SCHEMA
        assert [entry.name for entry in tmp_path.iterdir()] == ["03.ladder.json"]

    def test_the_digest_is_sha256_over_the_canonical_form(self, tmp_path):
        content = json.loads(record.save("03.ladder", DATA, RUN, tmp_path).read_text())
        digest = content.pop("digest")
        assert digest == "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def test_what_was_computed_here_is_recorded_once_it_is_saved(self, tmp_path):
        record.save("now", 1, record.here(), tmp_path)
        assert record.load("now", tmp_path).provenance.kind == "recorded"

    def test_published_data_stays_published(self, tmp_path):
        source = record.Provenance(kind="published", source="a paper", date="2024-11-10")
        record.save("paper", [1], source, tmp_path)
        assert record.load("paper", tmp_path).provenance == source

    def test_a_missing_recording_is_none(self, tmp_path):
        assert record.load("03.none", tmp_path) is None and record.load("03.none", tmp_path / "nowhere") is None

    def test_every_recording_of_the_package_loads(self):
        for path in record.FOLDER.glob("*.json"):
            assert record.load(path.stem) is not None

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "A", "a b", "a..b", ".a", "a.", "a\n", "x" * 200, None, 3, Path("a")])
    def test_a_name_that_cannot_be(self, tmp_path, name):
        refused(record.save, name, DATA, RUN, tmp_path)
        refused(record.load, name, tmp_path)

    @pytest.mark.parametrize("data", [float("nan"), [float("-inf")], {1: 2}, {"a": {None: 1}}, {1, 2}, b"x", object(), Rung, 1j, Path("x")])
    def test_data_that_json_cannot_give_back(self, tmp_path, data):
        refused(record.save, "x", data, RUN, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_data_without_an_end_is_refused(self, tmp_path):
        endless = []
        endless.append(endless)
        refused(record.save, "x", endless, RUN, tmp_path)
        refused(record.save, "x", 10**5000, RUN, tmp_path)

    def test_a_provenance_of_another_kind_is_refused(self, tmp_path):
        refused(record.save, "x", DATA, "yesterday", tmp_path)


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        return record.save("03.ladder", DATA, RUN, tmp_path)

    def refused(self, path):
        line = refused(record.load, "03.ladder", path.parent)
        assert path.name in line
        return line

    @same_folder
    @given(st.data())
    def test_a_file_cut_short_anywhere_is_refused(self, path, data):
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])
        self.refused(path)
        path.write_bytes(whole)

    @same_folder
    @given(st.data())
    def test_a_changed_digit_or_letter_anywhere_is_refused(self, path, data):
        whole = path.read_text()
        at = data.draw(st.sampled_from([i for i, sign in enumerate(whole) if sign.isalnum()]))
        other = data.draw(st.sampled_from([sign for sign in "0123456789abcdefnrtu" if sign != whole[at]]))
        path.write_text(whole[:at] + other + whole[at + 1 :])
        self.refused(path)
        path.write_text(whole)

    def test_layout_does_not_count(self, path):
        path.write_bytes(json.dumps(json.loads(path.read_text())).replace(", ", " ,\r\n").encode())
        assert record.load("03.ladder", path.parent).data == DATA

    @pytest.mark.parametrize(
        "text",
        [b"", b"null", b"[]", b"5", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"digest": 1}', b'{"digest": "", "schema": 1, "x": NaN}'],
    )
    def test_a_file_of_something_else_is_refused(self, path, text):
        path.write_bytes(text)
        self.refused(path)

    def test_a_folder_in_its_place_is_refused(self, path):
        path.unlink()
        path.mkdir()
        self.refused(path)

    def test_a_newer_layout_says_update_and_others_do_not(self, path):
        edit(path, lambda content: content.update(schema=record.SCHEMA + 1))
        assert "update mllandscape" in self.refused(path)
        for other in (0, -1, "1", True, None, 1.5, []):
            edit(path, lambda content, other=other: content.update(schema=other))
            assert "update" not in self.refused(path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content.update(name="04.other"),
            lambda content: content.pop("name"),
            lambda content: content.pop("data"),
            lambda content: content.pop("provenance"),
            lambda content: content.update(provenance="H200"),
            lambda content: content["provenance"].pop("date"),
            lambda content: content["provenance"].update(kind="computed"),
            lambda content: content["provenance"].update(kind="live"),
            lambda content: content["provenance"].update(date="yesterday"),
            lambda content: content["provenance"].update(torch=2.11),
            lambda content: content["provenance"].update(mood="good"),
        ],
    )
    def test_a_file_whose_digest_fits_is_still_checked(self, path, change):
        edit(path, change)
        self.refused(path)


class TestDataclasses:
    LADDER = Ladder(rungs=(Rung("a", 1, 2.5, (1, 2)), Rung("b", 3)), best=None, notes={"x": [1.0, 0.1]}, pair=(4, "z"))

    def test_a_record_goes_to_json_and_comes_back_equal(self, tmp_path):
        for ladder in (self.LADDER, replace(self.LADDER, best=Rung("a", 1))):
            record.save("ladder", ladder, RUN, tmp_path)
            assert record.restore(Ladder, record.load("ladder", tmp_path).data) == ladder

    @pytest.mark.parametrize(
        "change",
        [{"rungs": None}, {"rungs": [1]}, {"best": 5}, {"notes": {"x": ["1"]}}, {"pair": [1]}, {"pair": [True, "z"]}, {"more": 1}, {"rungs": [{"name": "a"}]}],
    )
    def test_json_that_does_not_fit_is_refused(self, change):
        refused(record.restore, Ladder, record.plain(self.LADDER) | change)

    def test_a_training_plan_survives_the_way_there_and_back(self):
        from mllandscape.memory.plan import TrainingPlan

        plan = TrainingPlan(batch=3, optimizer="sgd", optimizer_impl="fused")
        assert record.restore(TrainingPlan, json.loads(json.dumps(record.plain(plan)))) == plan


VERSION_1 = """{
 "data": {
  "fits": true,
  "peak": 405798912
 },
 "digest": "sha256:4bb97f69b77aaf043a316efbf5122826c91a885e91b9ec5d851181add871079b",
 "name": "03.ladder",
 "provenance": {
  "command": "mllandscape record 03",
  "cuda": "",
  "date": "2026-11-01",
  "device": "CPU",
  "driver": "",
  "kind": "recorded",
  "python": "3.11.7",
  "source": "",
  "torch": "2.13.0"
 },
 "schema": 1
}
"""
"""A whole file as version 1 wrote it. A later version still opens this very text."""


@pytest.mark.parametrize("later", [0, 1])
def test_a_recording_of_version_1_still_opens(later, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "SCHEMA", record.SCHEMA + later)
    (tmp_path / "03.ladder.json").write_text(VERSION_1, encoding="ascii")
    opened = record.load("03.ladder", tmp_path)
    assert opened.data == {"peak": 405_798_912, "fits": True} and str(opened) == "recorded on CPU, torch 2.13.0, 2026-11-01"


# -- the commands that record -----------------------------------------------------------------------------------------------

COMMANDS = {
    "mllandscape.lessons.torch_compile": "timings, counts, gpu", "mllandscape.lessons.cuda_mismatch": "listings, failures, gpu",
    "mllandscape.lessons.pip_vs_poetry": "runs, torch", "mllandscape.lessons.dependency_hell": "record", "mllandscape.lessons.ddp_vs_fsdp": "no argument",
    "mllandscape.lessons.out_of_memory": "no argument", "mllandscape.serving.history": "record", "mllandscape.versioning.keeps": "no argument",
}  # fmt: skip


@pytest.mark.parametrize(("module", "possible"), COMMANDS.items())
def test_a_command_that_records_refuses_what_it_does_not_know_in_one_line(module, possible):
    done = subprocess.run([sys.executable, "-m", module, "nonsense"], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert f"possible: {possible};" in done.stderr and "'nonsense'" in done.stderr


def test_every_recording_names_a_command_that_is_there_and_that_the_maintainers_table_names():
    table = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in record.FOLDER.glob("*.json"):
        command = record.load(path.stem).provenance.command
        if command.startswith("mllandscape record"):
            continue  # its parts are listed by --list
        module, *words = command.removeprefix("python -m ").split()
        assert (" ".join(words) or "no argument") in COMMANDS[module].split(", "), command
        assert f"| `{path.stem}` | `.venv/bin/{command}` |" in table, path.stem


def test_a_wrong_input_while_recording_is_one_line_and_status_2(monkeypatch, capsys):
    def refuse():
        raise BadInput("nothing to record.")

    monkeypatch.setattr(sys, "argv", ["somewhere/lesson.py"])
    assert record.main({"": refuse}) == 2 and capsys.readouterr().err == "lesson: nothing to record.\n"
    assert record.main({"": dict}) == 0
