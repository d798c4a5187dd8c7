"""Lesson 9: the store, checkpoints, git and MLflow against their own tools and against damage; what records explain; runs that come back; the panel."""

import hashlib
import io
import itertools
import os
import pickle
import sqlite3
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mllandscape import BadInput, charts, fingerprint, record, sandbox
from mllandscape.lessons import model_versioning as lesson
from mllandscape.repository import Repository
from mllandscape.versioning import checkpoint, keeps, snippet, tracking
from mllandscape.versioning.desk import Desk, Trainer, digits, pack, unpack
from mllandscape.versioning.run import CAUSES, Run, explain, packages
from mllandscape.versioning.store import Store

WORDS = st.binary(max_size=200)


# -- the store ----------------------------------------------------------------------------------------------------------


@given(WORDS)
def test_an_object_lies_under_the_sha256_that_hashlib_gives(tmp_path_factory, content):
    store = Store(tmp_path_factory.getbasetemp() / "objects-of-hypothesis")
    digest = store.put(content)
    assert digest == hashlib.sha256(content).hexdigest() and store.get(digest) == content and store.put(content) == digest


@given(st.binary(min_size=1, max_size=200), st.data())
@settings(max_examples=60)
def test_a_damaged_object_is_refused_by_name_and_never_put_right_in_silence(tmp_path_factory, content, data):
    store = Store(tmp_path_factory.mktemp("store"))
    digest = store.put(content)
    path = store.folder / "objects" / digest[:2] / digest[2:]
    cut = data.draw(st.integers(0, len(content) - 1) | st.none())
    damaged = lesson.flipped(content, data.draw(st.integers(0, 8 * len(content) - 1))) if cut is None else content[:cut]
    path.chmod(0o644)
    path.write_bytes(damaged)
    for reading in (lambda: store.get(digest), lambda: store.put(content), lambda: store.name("v1", digest)):
        with pytest.raises(BadInput, match=f"object {digest[:12]} is damaged"):
            reading()
    assert len(store.damaged()) == 1


def test_nothing_in_the_store_is_overwritten(tmp_path):
    store = Store(tmp_path)
    first, second = store.put(b"first"), store.put(b"second")
    store.name("digits-v1", first)
    store.name("digits-v1", first)
    with pytest.raises(BadInput, match=f"taken by object {first[:12]} and does not move"):
        store.name("digits-v1", second)
    assert store.named("digits-v1") == first and store.objects() == sorted([first, second]) and store.damaged() == []
    if os.name == "posix" and os.geteuid():
        with pytest.raises(PermissionError):
            (tmp_path / "objects" / first[:2] / first[2:]).write_bytes(b"other")


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "G" * 64, None, "0" * 63 + "/"])
def test_what_is_no_digest_is_refused(tmp_path, digest):
    with pytest.raises(BadInput, match="is no digest"):
        Store(tmp_path).get(digest)


def test_names_and_objects_that_are_not_there_are_named(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(BadInput, match="object 000000000000 is not in this store"):
        store.get("0" * 64)
    with pytest.raises(BadInput, match="no name 'v2' in this store; it has none"):
        store.named("v2")
    with pytest.raises(BadInput, match="is no name"):
        store.name("../v2", store.put(b"x"))
    digest = store.put(b"y")
    store.name("v3", digest)
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()
    assert store.damaged() == [f"object {digest[:12]} is not in this store: whoever recorded it must have kept it, too."]


# -- checkpoints ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4)).state_dict()


@pytest.fixture(scope="module")
def content(state):
    return checkpoint.dump(state)


def test_a_checkpoint_comes_back_as_torch_reads_it(state, content):
    found = checkpoint.load(content, "model.pt", fingerprint.weights(state))
    expected = torch.load(io.BytesIO(content), weights_only=True)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@given(st.data())
@settings(max_examples=150)
def test_a_flipped_bit_is_refused_or_changed_no_weight(state, content, data):
    damaged = lesson.flipped(content, data.draw(st.integers(0, 8 * len(content) - 1)))
    for expected in (None, fingerprint.weights(state)):
        try:
            found = checkpoint.load(damaged, "model.pt", expected)
        except BadInput as error:
            assert str(error).startswith("model.pt ") and "\n" not in str(error)
        else:
            assert fingerprint.weights(found) == fingerprint.weights(state)


@given(st.data())
@settings(max_examples=50)
def test_a_checkpoint_cut_short_is_refused(content, data):
    with pytest.raises(BadInput, match="^model.pt is no whole checkpoint"):
        checkpoint.load(content[: data.draw(st.integers(0, len(content) - 1))], "model.pt")


def test_another_models_weights_are_refused(state, content):
    with pytest.raises(BadInput, match="^model.pt holds other weights"):
        checkpoint.load(content, "model.pt", "0" * 64)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, zipped):
    ran, buffer = tmp_path / "ran", io.BytesIO()
    torch.save({"weight": torch.zeros(2), "more": snippet.Payload(str(ran))}, buffer, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match="asks for posix.mkdir" if zipped and os.name == "posix" else "^evil.pt "):
        checkpoint.load(buffer.getvalue(), "evil.pt")
    with pytest.raises(BadInput, match="^raw.pt is no whole checkpoint"):
        checkpoint.load(pickle.dumps(snippet.Payload(str(ran))), "raw.pt")
    assert not ran.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert ran.exists(), "the payload was harmless all along, so its refusal proved nothing"


def test_what_is_no_state_dict_is_refused():
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    with pytest.raises(BadInput, match="not a state dict of named tensors, but list"):
        checkpoint.load(buffer.getvalue(), "model.pt")


# -- git --------------------------------------------------------------------------------------------------------------------


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_edits_hold_what_no_commit_does_and_a_restored_tree_is_the_same_to_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # the user's own git must not matter
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home" / ".config" / "git").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "git" / "ignore").write_text("helper.py\n")
    repository = Repository(tmp_path / "project")
    first = repository.commit({"train.py": "one\n", ".gitignore": "data\n"}, "first")
    assert repository.edits() == b"" and repository.head == first
    repository.write("train.py", "one\ntwo\n")
    repository.write("helper.py", "never added\n")
    (repository.folder / "data").write_bytes(b"\0ignored")
    edits = repository.edits()
    assert b"+two" in edits and b"+never added" in edits and b"data" not in edits
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "home" / ".config" / "git" / "ignore").unlink()
    assert "two" in git(repository.folder, "diff", "HEAD") and "never added" not in git(repository.folder, "diff", "HEAD")
    assert git(repository.folder, "status", "--porcelain").split() == ["M", "train.py", "??", "helper.py"]  # the user's index was left alone
    restored = Repository.restore(tmp_path / "again", repository.bundle(), first, edits)
    assert restored.edits() == edits and restored.head == first
    assert {path.name: path.read_text() for path in restored.folder.glob("*.py")} == {"train.py": "one\ntwo\n", "helper.py": "never added\n"}
    assert Repository(tmp_path / "other").commit({"train.py": "one\n", ".gitignore": "data\n"}, "first") == first


def test_what_git_refuses_is_one_line(tmp_path):
    repository = Repository(tmp_path / "project")
    repository.commit({"a.py": "a\n"}, "first")
    with pytest.raises(BadInput, match="git checkout in again failed: fatal") as caught:
        Repository.restore(tmp_path / "again", repository.bundle(), "f" * 40)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="git [a-z]+ in damaged failed"):
        Repository.restore(tmp_path / "damaged", repository.bundle()[:60], repository.head)


# -- what two records say -----------------------------------------------------------------------------------------------------

FULL = Run("then", {"rate": 0.1}, 1, 1, "data", "commit", "edits", "history", "packages", "AVX2", "model", "weights", 0.92)
OTHER = {"data": "other", "commit": "other", "edits": "other", "params": {"rate": 0.2}, "seed": 2, "threads": 2, "environment": "other", "cpu": "other"}


@given(changed=st.sets(st.sampled_from(list(CAUSES))), lost=st.sets(st.sampled_from(list(CAUSES))), proof=st.booleans())
def test_a_culprit_is_named_only_when_nothing_else_can_be_it(changed, lost, proof):
    now = replace(FULL, weights="others" if changed else "weights", **{cause: OTHER[cause] for cause in changed})
    told = explain(FULL.without(*lost, *([] if proof else ["weights"])), now)
    if not changed and proof:
        assert told.same and told.culprit is None
    elif len(changed) == 1 and not lost:
        assert {told.culprit} == changed
    else:
        assert told.culprit is None
    assert set(told.differ) == changed - lost and set(told.unknown) == lost


def test_each_single_cause_is_named_and_two_are_not():
    for cause in CAUSES:
        assert explain(FULL, replace(FULL, weights="others", **{cause: OTHER[cause]})).culprit == cause
    for pair in itertools.combinations(CAUSES, 2):
        told = explain(FULL, replace(FULL, weights="others", **{cause: OTHER[cause] for cause in pair}))
        assert told.culprit is None and all(CAUSES[cause] in told.text for cause in pair) and told.text.startswith("not distinguishable")


def test_a_file_that_was_not_trained_today_is_judged_by_its_weights():
    assert explain(FULL, replace(FULL, weights="others"), loaded=True).culprit == "checkpoint"
    assert explain(FULL, FULL, loaded=True).same
    told = explain(FULL.without("weights"), replace(FULL, weights="others"), loaded=True)
    assert told.culprit is None and told.same is None and "not distinguishable" in told.text


def test_equal_records_of_different_weights_blame_the_program():
    assert "not deterministic" in explain(FULL, replace(FULL, weights="others")).text


def test_a_record_is_kept_whole_or_refused(tmp_path):
    store = Store(tmp_path)
    assert Run.load(store, FULL.save(store)) == FULL and Run.load(store, FULL.without("seed", "data").save(store)).seed is None
    for other in (b"\xff\xfe", b"[1, 2]", b'{"name": "run"}', b"no JSON"):
        with pytest.raises(BadInput):
            Run.load(store, store.put(other))


def test_packages_are_what_importlib_finds():
    import importlib.metadata

    lines = packages().split()
    assert f"torch=={importlib.metadata.version('torch')}" in lines


# -- data ---------------------------------------------------------------------------------------------------------------------


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    known, sets = load_digits(), digits(noise=0)
    then, today = sets["then"], sets["today"]
    rows = {(*row.astype(int), label) for row, label in zip(known.data, known.target, strict=True)}
    drawn = [(*row.astype(int), label) for part in ("", "test_") for row, label in zip(then[f"{part}x"], then[f"{part}y"], strict=True)]
    assert set(drawn) <= rows and (len(then["x"]), len(then["test_x"]), len(today["x"])) == (800, 797, 1000)
    assert np.array_equal(today["x"][:800], then["x"]) and np.array_equal(today["test_y"], then["test_y"])
    more = [(*row.astype(int), label) for row, label in zip(today["x"][800:], today["y"][800:], strict=True)]
    assert 20 < len(set(more) - rows) < 60 and not {7, 9} & {label for *_, label in more}, "9 is read as 4, 7 as 1, and the rest is right"


def test_a_data_set_comes_back_and_a_pickle_in_it_is_not_read():
    arrays = digits()["then"]
    back = unpack(pack(arrays))
    assert pack(arrays) == pack(back) and all(np.array_equal(arrays[name], back[name]) for name in arrays)
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        unpack(buffer.getvalue())


# -- MLflow's database ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (name text primary key, accuracy real)")
        connection.executemany("insert into runs values (?, ?)", [(f"run-{place:04}", place / 1000) for place in range(800)])
    connection.close()
    tracking.check(path)
    return path


@given(st.data())
@settings(max_examples=40)
def test_a_database_cut_short_is_refused_by_name(database, data):
    cut = database.with_name("cut.db")
    cut.write_bytes(database.read_bytes()[: data.draw(st.integers(0, database.stat().st_size - 1))])
    with pytest.raises(BadInput, match="^cut.db is not a whole SQLite database"):
        tracking.check(cut)


def test_what_is_no_database_and_what_sqlite_finds_damaged_is_refused(database, tmp_path):
    (tmp_path / "text.db").write_text("hello" * 1000)
    with pytest.raises(BadInput, match="^text.db is not a whole SQLite database: it has 5,000 bytes, and no SQLite header"):
        tracking.check(tmp_path / "text.db")
    with pytest.raises(BadInput, match="^none.db cannot be read"):
        tracking.check(tmp_path / "none.db")
    content = bytearray(database.read_bytes())
    content[4096 : 4096 + 12] = b"\xff" * 12  # the head of the second page
    (tmp_path / "page.db").write_bytes(bytes(content))
    with pytest.raises(BadInput, match="^page.db is damaged: SQLite says"):
        tracking.check(tmp_path / "page.db")


def test_a_flipped_bit_never_gives_other_runs(tmp_path):
    told = sandbox.call(
        "tests.versioning_targets:read_with_flipped_bits", env={"HOME": str(tmp_path)} | tracking.QUIET, seconds=120, folder=str(tmp_path), flips=16, seed=1
    )
    assert told.ok, told.message
    assert told.value[0] == "the same" and "OTHER RUNS" not in told.value
    refusals = {found for found in told.value if found != "the same"}
    assert len(refusals) >= 3 and all(found.startswith("mlflow.db ") for found in refusals), refusals


# -- a run comes back -----------------------------------------------------------------------------------------------------------

PARAMS = {"learning_rate": 0.01, "hidden": 16, "epochs": 2}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk")).furnish()


@pytest.fixture(scope="module")
def day(desk):
    """A small Day of real runs: two epochs, every mix."""
    threads = torch.get_num_threads()
    trainer, sets = Trainer(desk), digits()
    data = {name: desk.store.put(pack(arrays)) for name, arrays in sets.items()}
    codes = {name: trainer.code(name) for name in ("committed", "today", "then")}
    grid = {}
    for code, which, seed, count in itertools.product(*lesson.GRID.values()):
        name = lesson.mix(code, which, seed, count)
        grid[name] = trainer.run(name, codes[code], sets[which], data[which], 7 if seed == "then" else seed, PARAMS, count)
    then = replace(grid[lesson.mix()], name="run-02", accuracy=0.95)
    last = replace(grid[lesson.mix(seed=lesson.DRAWN)], name="run-01", accuracy=0.9)
    torch.set_num_threads(threads)
    file = replace(then, name="model.pt", weights=last.weights, model=last.model, accuracy=last.accuracy)
    kept = {name: dict.fromkeys(record.load(keeps.RECORDING).data["kept"]["DVC"], "kept") for name in ("MLflow", "a record in a store")}
    seeds = {f"{code} {which}": [0.9, 0.91, 0.92] for code in ("then", "today") for which in ("then", "today")}
    return lesson.Day({}, [], {}, kept, [last, then], [last.save(desk.store), then.save(desk.store)], grid, file, seeds, {}, [])


def test_a_run_comes_back_bit_for_bit_in_a_fresh_process_from_store_and_digest_alone(day, desk, tmp_path):
    store = Store(tmp_path / "elsewhere")
    for name in ("data", "edits", "history", "environment"):
        store.put(desk.store.get(getattr(day.then, name)))
    digest = store.put(desk.store.get(day.records[day.best]))
    again = lesson.reproduce(store, digest)
    assert again.weights == day.then.weights and not again.refusal and again.differences == ()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_desk_goes_with_a_process_that_is_killed():
    died = subprocess.run([sys.executable, "-m", "tests.versioning_targets"], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    folder = Path(died.stdout.strip())
    assert died.returncode == -9 and folder.name.startswith("mllandscape-desk-")
    end = time.monotonic() + 20
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()


def test_what_a_record_or_a_store_lacks_is_said(day, desk, tmp_path):
    poor = day.then.without("seed", "edits").save(desk.store)
    assert lesson.reproduce(desk.store, poor).refusal == "the record of run-02 cannot bring it back: seed, edits not recorded."
    lost = lesson.without(desk.store, day.then.data, tmp_path / "lost")
    assert "run-02 cannot come back, its data are gone" in lesson.reproduce(lost, day.records[day.best]).refusal
    path = lost.folder / "objects" / day.then.edits[:2] / day.then.edits[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    lost.put(desk.store.get(day.then.data))
    assert f"object {day.then.edits[:12]} is damaged" in lesson.reproduce(lost, day.records[day.best]).refusal


def test_the_seed_that_nobody_set_is_recorded(desk):
    trainer, arrays = Trainer(desk), digits()["then"]
    torch.seed()
    run = trainer.run("unset", trainer.code("then"), arrays, desk.store.put(pack(arrays)), None, PARAMS | {"epochs": 1})
    again = trainer.run("set", trainer.code("then"), arrays, run.data, run.seed, run.params)
    assert run.seed is not None and again.weights == run.weights
    assert run.commit == desk.repository.head and desk.store.get(run.edits) == desk.repository.edits()


# -- the panel --------------------------------------------------------------------------------------------------------------------


def causes(run):
    return run.data, run.edits, run.seed, run.threads


@given(kept=st.sets(st.sampled_from(list(lesson.RECORDABLE))), way=st.sampled_from(list(lesson.WAYS)))
@settings(max_examples=100)
def test_the_panel_says_what_the_real_runs_say(day, kept, way):
    shown = lesson.outlook(day, way, **{name: name in kept for name in lesson.RECORDABLE})
    row = shown.losses[shown.chosen]
    again = lesson.comes_back(day, way, kept)
    assert shown.verdict.startswith(f"{way}: ") and row.way == way and row.today == pytest.approx(100 * day.now(way).accuracy)
    if row.back is not None and not row.told.endswith("its copy"):
        assert row.same == (again.weights == day.then.weights)
        assert row.same == (causes(again) == causes(day.then)), "equal inputs give equal bits, and only they"
    named = day.explain(way, lesson.poorer(day.then, kept)).culprit
    assert (row.named == "not distinguishable") or named or row.named.startswith("nobody")
    if named and named != "checkpoint":
        assert len(lesson.WAYS[way]) == 1 and {"commit", "edits", "seed", "threads"} <= kept and kept & {"data_digest", "data_copy"}


def test_a_full_record_brings_everything_back_and_the_usual_one_nothing(day):
    full = lesson.outlook(day, "nothing changed", **dict.fromkeys(lesson.RECORDABLE, True))
    usual = lesson.outlook(day, "nothing changed", **{name: name in lesson.SOURCE for name in lesson.RECORDABLE})
    assert all(loss.same for loss in full.losses) and "names the culprit of 5 and brings back 6" in full.lines[0]
    assert not any(loss.same for loss in usual.losses) and "names the culprit of 0 and brings back 0" in usual.lines[0]


def test_every_control_is_drawn_at_its_limits(day):
    panel = lesson.panel(day)
    assert panel.sweep() >= 2 * len(lesson.RECORDABLE) + len(lesson.WAYS)
    text = panel.set(way="new data", data_copy=True, edits=True, seed=True, threads=True, weights=True)
    assert "new data: the data: recorded, different" in text and "comes back: bit for bit" in text


def test_the_ways_table_and_the_figures_say_their_numbers(day):
    assert "run-02, 95.0 % then" in repr(lesson.ways_table(day)) and "the thread count: recorded" in repr(lesson.ways_table(day))
    assert "2 runs: learning rate 0.01 to 0.01" in lesson.runs_figure(day).sentence
    shown = lesson.outlook(day, "two threads", **dict.fromkeys(lesson.RECORDABLE, True))
    assert charts.comebacks(shown, "What comes back").sentence.startswith("What comes back.\ntwo threads: the thread count")


def test_a_parallel_coordinates_figure_refuses_what_it_cannot_draw():
    axes = [charts.Axis("rate", log=True), charts.Axis("accuracy")]
    told = charts.parallel_coordinates([(0.1, 90), (0.2, 91), (0.1, 92)], axes, {"best": 2}, "Runs").sentence
    assert told == "Runs.\n3 runs: rate 0.1 to 0.2, accuracy 90 to 92.\nbest: rate 0.1, accuracy 92."
    for runs, named in (([(0.1, 90)], {}), ([(0.1, 90), (0.2,)], {}), ([(0.0, 90), (0.1, 91)], {}), ([(0.1, float("nan")), (0.2, 1)], {})):
        with pytest.raises(BadInput):
            charts.parallel_coordinates(runs, axes, named)


# -- small things -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 100), min_size=3, max_size=12), st.lists(st.integers(0, 100), min_size=3, max_size=12))
@settings(max_examples=50)
def test_a_difference_of_means_is_scipys(before, after):
    from scipy.stats import ttest_ind

    points, errors = lesson.difference([value / 100 for value in before], [value / 100 for value in after])
    assert points == pytest.approx(np.mean(after) - np.mean(before), abs=1e-9)
    if len(set(before)) > 1 and len(set(after)) > 1:
        assert errors == pytest.approx(ttest_ind(after, before, equal_var=False).statistic, abs=1e-9)


def test_words_of_a_failure_lose_folders_and_ids(desk):
    def fail():
        raise RuntimeError(f"Run {'ab' * 16} in {desk.folder}/mlflow.db is gone. Try again.\nA second line")

    assert lesson.attempt(fail, desk) == "RuntimeError: Run <id> in …/mlflow.db is gone."
    assert lesson.attempt(lambda: None) == ""


def test_a_search_finds_what_is_packed(tmp_path):
    (tmp_path / "a").mkdir()
    with zipfile.ZipFile(tmp_path / "a" / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", b"w" * 100 + b"the weights")
    (tmp_path / "a" / "git-object").write_bytes(zlib.compress(b"an edit" * 50))
    (tmp_path / "lock").write_text("one==1\ntwo==2\n")
    wanted = {"weights": [b"the weights"], "edits": [b"an edit"], "seed": [b"918273"], "packages": [b"one==1", b"three==3", b"four==4"]}
    found = keeps.search([tmp_path / "a", tmp_path / "lock"], wanted)
    assert found == {"weights": "kept", "edits": "kept", "seed": "not kept", "packages": "a few"}


def test_tools_that_are_not_installed_are_shown_from_their_recording(monkeypatch):
    monkeypatch.setattr(keeps.importlib.util, "find_spec", lambda name: None)
    found = keeps.optional()
    assert list(found) == list(keeps.OPTIONAL) and all(", recorded on CPU" in kept.where for kept in found.values())
    assert found["DVC"].facts["uncommitted edits"] == "kept" and found["Weights & Biases, offline"].facts["uncommitted edits"] == "not kept"
    monkeypatch.setattr(record, "load", lambda name: None)
    assert keeps.optional() == {}


# -- exercises ------------------------------------------------------------------------------------------------------------------------


def careful(content, expected):
    found = torch.load(io.BytesIO(content), weights_only=True)
    if fingerprint.weights(found) != expected:
        raise ValueError("other weights")
    return found


@pytest.mark.parametrize(
    ("verify", "right", "wrong", "hint"),
    [
        (lesson._is_a_careful_loader, careful, lambda content, expected: torch.load(io.BytesIO(content), weights_only=True), "one flipped bit"),
        (lesson._is_a_careful_loader, careful, lambda content, expected: checkpoint.load(content, "x"), "another model"),
        (lesson._is_a_careful_loader, careful, lambda content, expected: torch.load(io.BytesIO(content), weights_only=False), "one flipped bit"),
        (lesson._restores_types, None, lambda params: params, "'2e-05' of learning_rate became '2e-05'"),
        (
            lesson._restores_types,
            None,
            lambda params: {name: float(text) if text[0] in "0123456789" and text != "7b" else text for name, text in params.items()},
            "'16'",
        ),
        (lesson._is_the_run, None, 7, "name of a run"),
    ],
)
def test_exercises_accept_the_right_and_refuse_the_wrong(verify, right, wrong, hint):
    assert right is None or verify(right) is None
    assert hint in verify(wrong)


def test_a_loader_that_runs_the_code_first_is_caught():
    def late(content, expected):
        torch.load(io.BytesIO(content), weights_only=False)
        return careful(content, expected)

    assert "had run by then" in lesson._is_a_careful_loader(late)


def test_the_stray_checkpoint_is_found_by_its_weights_alone(monkeypatch):
    monkeypatch.setattr(lesson, "_strays", {"the last": "run-05"})
    assert lesson._is_the_run("run-05") is None and "made other weights" in lesson._is_the_run("run-06")


def test_what_optional_tools_keep_is_recorded_only_where_both_are(monkeypatch):
    monkeypatch.setattr(record, "save", lambda *_: pytest.fail("the recording was overwritten"))
    monkeypatch.setattr(keeps, "OPTIONAL", {"a tool": "no_such_package"})
    with pytest.raises(BadInput, match="nothing to record: no_such_package missing; .*pip install"):
        keeps.record_optional()
