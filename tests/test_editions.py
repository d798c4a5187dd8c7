"""What happens to a built edition once it is handed out, and what its slides and pages show."""

import signal

import pytest

from mllandscape import BadInput
from mllandscape.cli import main
from mllandscape.course import notebooks
from mllandscape.kit.build import EDITIONS, MARKER, edition_of
from mllandscape.kit.verbs import EDITIONS as NAMES

# ---- a built folder ----


@pytest.fixture
def student(tmp_path, capsys):
    assert main(["build", "student", str(tmp_path / "student"), "--only", "3", "--only", "8"]) == 0
    capsys.readouterr()
    return tmp_path / "student"


def held(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_lab_adds_nothing_to_a_built_edition(student, monkeypatch, capsys):
    from jupyterlab.labapp import LabApp

    before, options = held(student), []
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: options.extend(argv))
    assert main(["lab", "--folder", str(student), "--no-browser"]) == 0 and f"--ServerApp.root_dir={student}" in options
    assert main(["lab", "--folder", str(student), "--copies-only"]) == 0
    assert held(student) == before and capsys.readouterr().out.count("The student edition is in") == 2


def test_reset_in_a_built_edition_keeps_its_form(student, tmp_path, capsys):
    path, other = student / "08_cuda_mismatch.ipynb", student / "04_ddp_vs_fsdp.ipynb"
    built = path.read_text(encoding="utf-8")
    assert "# solution 08" not in built and "# solution 08" in notebooks.fresh_copy(notebooks.sources("08")[0])
    path.write_text("work", encoding="utf-8")
    assert main(["reset", "8", "--folder", str(student)]) == 0 and "Your work is in" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == built and "work" in held(student).values()
    assert main(["reset", "04", "--folder", str(student)]) == 0
    assert not [name for name, text in held(student).items() if "# solution" in text] and other.exists()

    assert main(["build", "instructor", str(tmp_path / "instructor"), "--only", "3"]) == 0
    path = tmp_path / "instructor" / "03_out_of_memory.ipynb"
    built = path.read_text(encoding="utf-8")
    path.unlink()
    assert main(["reset", "3", "--folder", str(path.parent)]) == 0 and path.read_text(encoding="utf-8") == built


def test_a_folder_of_ones_own_is_no_edition_and_gets_every_lesson(tmp_path):
    assert edition_of(tmp_path) == edition_of(tmp_path / "nowhere") == ""
    assert main(["lab", "--folder", str(tmp_path / "mine"), "--copies-only"]) == 0
    assert set(held(tmp_path / "mine")) == {path.name for path in notebooks.sources()}


def test_an_edition_without_notebooks_is_said_in_one_line_and_left_alone(tmp_path, capsys):
    assert tuple(EDITIONS) == NAMES
    for name in ("slides", "html", "nonsense"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text(name)
        for verb in (["lab", "--copies-only"], ["reset", "3"]):
            assert main([*verb, "--folder", str(tmp_path / name)]) == 2
            said = capsys.readouterr().err
            assert f"holds the edition '{name}'" in said and len(said.splitlines()) == 1
        assert list(held(tmp_path / name)) == [MARKER]
    (tmp_path / MARKER).mkdir()
    with pytest.raises(BadInput, match="cannot be read"):
        edition_of(tmp_path)
