"""The pipeline and its faults, the search for the layer and the commit, checkpoints and arithmetic, against torch, SciPy, git and brute force."""

import shutil
import tempfile
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import uniform_filter

from mllandscape import BadInput, fingerprint, sandbox
from mllandscape.serving import arithmetic, checkpoint, history, pipeline, triage
from mllandscape.serving.pipeline import KINDS, SUSPECTS, Fault, Incident, Numerics, serve


@pytest.fixture(scope="module")
def release():
    return pipeline.release()


# -- the pipeline ---------------------------------------------------------------------------------------------------------


def test_smoothing_is_scipys_uniform_filter():
    images = np.random.default_rng(0).normal(size=(5, 64))
    near = np.stack([uniform_filter(image, 3, mode="nearest") for image in images.reshape(-1, 8, 8)]).reshape(-1, 64)
    assert pipeline.prepare(images, 1.0) == pytest.approx(near) and pipeline.prepare(images, 0.25) == pytest.approx(0.75 * images + 0.25 * near)
    assert pipeline.prepare(images) is images


@given(arrays.arrays(np.float32, 20, elements=st.floats(2**-13, 60000, width=32) | st.floats(-60000, -(2**-13), width=32)))
def test_rounding_to_a_mantissa_is_torchs_own_rounding(values):
    tensor = torch.from_numpy(values)
    assert np.array_equal(pipeline.round_mantissa(values, 10), tensor.half().float().numpy())  # within fp16's range
    assert np.array_equal(pipeline.round_mantissa(values, 7), tensor.bfloat16().float().numpy())
    assert np.array_equal(pipeline.round_mantissa(values, 23), values)


def test_the_logits_are_torchs(release):
    state, served = release.state, serve(release.state)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).double()
    weights = dict(zip(model.state_dict(), checkpoint.tensors(state.weights).values(), strict=True))
    model.load_state_dict({name: values.double() for name, values in weights.items()})
    expected = model(torch.from_numpy(served.inputs)).detach()
    assert served.logits == pytest.approx(expected.numpy(), abs=1e-9)
    assert served.probabilities == pytest.approx(torch.softmax(expected, 1).numpy(), abs=1e-9)
    assert np.array_equal(serve(state, 50).answers, served.answers[:50])


def test_the_release_answers_85_per_cent_by_training_not_by_chance(release):
    assert len(release.labels) == 997 and release.accuracy(release.state) == pytest.approx(0.85, abs=0.003)
    assert release.accuracy(replace(release.state, weights=release.checkpoints[0])) < 0.6
    assert (serve(replace(release.state, data=release.window)).answers == release.window_labels).mean() > 0.82


def release_fingerprints() -> dict[str, str]:
    """In a child, whose environment sets another instruction set and thread count."""
    return pipeline.release().state.fingerprints()


def test_the_weights_are_the_same_on_another_instruction_set_and_thread_count(release):
    env = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "1"}
    outcome = sandbox.call("tests.test_serving:release_fingerprints", env=env, seconds=120)
    assert outcome.value == release.state.fingerprints(), outcome


def test_the_smallest_margin_is_far_above_what_machines_differ_by(release):
    first, second = np.sort(serve(release.state).logits, axis=1)[:, :-3:-1].T
    assert (first - second).min() > 1e-6


def test_golden_items_come_back_as_they_were(release, tmp_path):
    pipeline.save_golden(tmp_path / "golden.npz")
    state, labels = pipeline.load_golden(str(tmp_path / "golden.npz"))
    assert state.fingerprints() == release.state.fingerprints() and np.array_equal(labels, release.labels)


# -- faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_its_layer_and_no_other(release, kind):
    assert Fault(kind, 0.0)(release.state) is release.state
    state = Fault(kind, 0.7, seed=1)(release.state)
    assert triage.changed(release.state, state) == (KINDS[kind].suspect,)
    assert state.fingerprints() == Fault(kind, 0.7, seed=1)(release.state).fingerprints()
    assert str(Fault(kind, 0.7)).startswith(f"{kind}: ")


@pytest.mark.parametrize("severity", [0.1, 0.5, 1.0])
def test_a_join_leaves_every_column_its_values_and_a_shift_every_image_its_pixels(release, severity):
    data = release.state.data
    joined, shifted = (Fault(kind, severity)(release.state).data for kind in ("join bug", "one-pixel shift"))
    assert np.array_equal(np.sort(joined, axis=0), np.sort(data, axis=0))
    assert (joined != data).any(0).sum() == round(severity * 0.25 * 64)
    assert np.array_equal(np.sort(shifted, axis=1), np.sort(data, axis=1))
    assert (shifted != data).any(1).sum() == round(severity * 0.25 * 997)


def test_flipped_bits_are_counted_in_bits(release):
    before, after = release.state.weights, Fault("flipped bits", 0.5, seed=4)(release.state).weights
    different = sum(int(np.bitwise_count(before[name].view(np.uint32) ^ after[name].view(np.uint32)).sum()) for name in before)
    assert different in (30, 28)  # 28 where one was flipped twice
    assert np.array_equal(checkpoint.flip(checkpoint.flip(before, "out.bias", 3, 30), "out.bias", 3, 30)["out.bias"], before["out.bias"])


def test_quantised_weights_have_as_many_values_as_their_bits_allow(release):
    for bits in (2, 3, 4, 8):
        assert len(np.unique(pipeline.quantise(release.state.weights, bits)["hidden.weight"])) <= 2**bits - 1


def test_a_defective_core_serves_the_share_of_items_that_it_has(release):
    frozen, broken = serve(release.state).logits, serve(replace(release.state, hardware=Numerics(defective=0.3))).logits
    assert (frozen != broken).any(1).mean() == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("numerics", [Numerics(), Numerics(partial_sums=4), Numerics(mantissa=7)])
def test_broken_weights_are_served_without_a_warning(release, numerics):
    weights = {name: values.copy() for name, values in release.state.weights.items()}
    weights["hidden.weight"][0, :3] = 3e38, np.inf, np.nan
    weights["out.weight"][:, 1] = -3e38
    served = serve(replace(release.state, weights=weights, hardware=numerics))
    assert np.isfinite(served.probabilities).all() and served.probabilities.sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: Fault("gremlins", 0.5), "one-pixel shift"),
        (lambda: Fault("join bug", 1.5), "0 \\(none\\) to 1"),
        (lambda: Incident((Fault("join bug", 1), Fault("more contrast", 1))), "one a suspect"),
        (lambda: pipeline.round_mantissa(np.ones(1), 24), "0 to 23"),
    ],
)
def test_impossible_faults_are_refused_in_one_line(call, line):
    with pytest.raises(BadInput, match=line) as caught:
        call()
    assert "\n" not in str(caught.value)


# -- which layer? ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 4).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.floats(-50, 50), min_size=2**n, max_size=2**n))))
def test_shapley_shares_are_the_mean_over_all_orders_and_add_up(game):
    n, values = game
    players = SUSPECTS[:n]
    groups = [frozenset(player for bit, player in enumerate(players) if number >> bit & 1) for number in range(2**n)]
    losses = dict(zip(groups, values, strict=True))
    orders = list(permutations(players))
    expected = {
        player: sum(losses[frozenset(order[: order.index(player) + 1])] - losses[frozenset(order[: order.index(player)])] for order in orders) / len(orders)
        for player in players
    }
    shares = triage.shapley(losses, players)
    assert shares == pytest.approx(expected, abs=1e-9)
    assert sum(shares.values()) == pytest.approx(losses[frozenset(players)] - losses[frozenset()], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_isolation_finds_the_changed_layer_and_acquits_the_others(release, kind):
    layers = {layer.suspect: layer for layer in triage.isolate(release.state, Fault(kind, 0.8, seed=3)(release.state))}
    assert [suspect for suspect, layer in layers.items() if not layer.same] == [KINDS[kind].suspect]
    assert all(layer.answers == 0 for layer in layers.values() if layer.same) and all(str(layer).startswith(layer.suspect) for layer in layers.values())


def test_the_culprit_of_200_sealed_incidents_is_right_in_95_per_cent_and_wrong_in_none(release):
    found = triage.tally(release, range(200))
    assert found["right"] >= 190 and found["wrong"] == 0, found


def test_where_it_cannot_be_told_nobody_is_named(release):
    small = triage.tally(release, range(60), least=1.0)
    assert small["wrong"] <= 1 and small["not distinguishable"] >= 3, small
    assert triage.tally(release, range(60), causes=0)["wrong"] <= 3


def test_without_any_change_there_is_nothing_to_explain(release):
    found = triage.find_culprit(release, release.state)
    assert found.culprits == () and found.shares == {} and found.verdict.startswith("not distinguishable from no drop")


def test_a_drop_without_a_distinguishable_layer_names_the_candidates(release):
    found = triage.find_culprit(release, triage.sealed(69, release, least=1.5).production)
    undecided = triage.Finding(replace(found.drop, p=0.01), found.breaks, found.heals, found.shares, (), {})
    assert undecided.verdict == f"not distinguishable between {', '.join(found.breaks)}"


def test_two_causes_are_both_named_or_one_of_them_and_their_shares_are_the_drop(release):
    for seed in range(10):
        case = triage.sealed(seed, release, causes=2)
        found = triage.find_culprit(release, case.production)
        assert set(found.culprits) <= {fault.suspect for fault in case.unseal().faults[:2]} and found.culprits
        assert sum(found.shares.values()) == pytest.approx(found.drop.drop)


def test_two_changes_that_are_harmless_alone_are_found_together(release):
    pair = Incident((Fault("changed default", 0.7), Fault("other mean", 0.4)))
    found = triage.find_culprit(release, pair.happen(release.state))
    assert found.culprits == ("library", "processing") and found.drop.drop > 1.5 * sum(test.drop for test in found.breaks.values())


def test_an_incident_that_no_fault_can_cause_is_refused(release):
    with pytest.raises(BadInput, match="costs less"):
        triage.sealed(0, release, least=84)


def test_a_sealed_incident_does_not_tell(release):
    case = triage.sealed(5, release)
    assert repr(case) == "Sealed(seed=5)"
    assert str(case.unseal()) == str(triage.sealed(5, release).unseal())


# -- which commit? --------------------------------------------------------------------------------------------------------

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_git_names_the_planted_commit(monkeypatch, tmp_path):
    (tmp_path / ".gitconfig").write_text("[core]\n\thooksPath = /nowhere\n[commit]\n\tgpgSign = true\n[init]\n\tdefaultBranch = trunk\n")
    monkeypatch.setenv("HOME", str(tmp_path))  # the user's settings take no part
    commits, culprit = history.settings(7)
    found = history.bisect(7)
    assert found.named == culprit and "std" in found.subject and len(found.tried) == 6
    assert all((accuracy < 0.8) == (number >= culprit) for number, accuracy in found.tried.items())
    assert [now["std"] for now in commits] == sorted(now["std"] for now in commits) and len(commits) == history.COMMITS


@needs_git
def test_ends_that_do_not_differ_are_refused_and_unchecked_they_convict_an_innocent():
    with pytest.raises(BadInput, match="commit 5 does not fail the check") as caught:
        history.bisect(0, bad=5)
    assert "\n" not in str(caught.value)
    unchecked = history.bisect(0, bad=5, check_ends=False)
    assert unchecked.named == 5 and all(accuracy > 0.84 for accuracy in unchecked.tried.values())


def test_without_git_the_recorded_search_is_shown_and_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    found = history.bisect(0)
    assert found.named == history.settings(0)[1] and "recorded on" in found.where
    assert history.bisect(0, bad=5, check_ends=False).named == 5
    for call in (lambda: history.bisect(0, bad=5), lambda: history.bisect(1), lambda: history.bisect(0, bad=65)):
        with pytest.raises(BadInput) as caught:
            call()
        assert "\n" not in str(caught.value)


# -- checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(release, tmp_path):
    expected = checkpoint.save(tmp_path / "model.pt", release.state.weights)
    assert expected == release.state.fingerprints()["weights"]
    assert fingerprint.weights(checkpoint.load(tmp_path / "model.pt", expected)) == expected


def test_a_files_hash_follows_how_it_was_saved_and_the_fingerprint_does_not():
    ways = checkpoint.saved_files()
    assert {way for way, row in ways.items() if row["file hash"]} == {"saved again", "loaded and saved again"}
    assert all(row["fingerprint"] and row["torch.equal"] for row in ways.values())


def test_every_damaged_checkpoint_is_refused_by_name():
    found = checkpoint.damaged_files()
    assert {damage for damage, answer in found.items() if answer.silent} == {"one bit flipped", "another epoch's weights"}
    assert all(answer.refusal.startswith("model.pt ") and "\n" not in answer.refusal for answer in found.values())
    assert "data/0 was damaged" in found["one bit flipped"].refusal and "another checkpoint" in found["another epoch's weights"].refusal
    assert "holds code, which was not run" in found["a pickle with code"].refusal


@pytest.mark.parametrize("size", [0, 1, 10, 100, 1000, -1])
def test_a_file_cut_anywhere_is_refused(release, tmp_path, size):
    path = tmp_path / "model.pt"
    expected = checkpoint.save(path, release.state.weights)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match="model.pt is (truncated or )?no checkpoint of torch"):
        checkpoint.load(path, expected)


def test_a_file_without_weights_or_no_file_is_refused(tmp_path):
    torch.save({"note": "hello"}, tmp_path / "note.pt")
    with pytest.raises(BadInput, match="note.pt holds no weights"):
        checkpoint.load(tmp_path / "note.pt", "0" * 64)
    with pytest.raises(BadInput, match="none.pt is not there"):
        checkpoint.load(tmp_path / "none.pt", "0" * 64)


def test_the_sources_hash_ends_in_a_type_error():
    assert checkpoint.source_hash() == "TypeError"


# -- arithmetic -----------------------------------------------------------------------------------------------------------


def test_threads_and_instruction_sets_change_bits_and_no_answer(release):
    found = arithmetic.start().result(timeout=300)
    assert found.settings["1 thread"] == found.settings["1 thread, once more"]
    assert found.settings["1 thread"]["20 sums"] != found.settings["2 threads"]["20 sums"]
    assert {bits["accuracy"] for bits in found.settings.values()} == {f"{release.accuracy(release.state):.4f}"}
    certain = ("index_put_, 1 thread", "seeded training, 1 thread", "index_put_, 2 threads, switch on", "seeded training, 2 threads, switch on")
    assert {found.repeats[name] for name in certain} == {1} and found.repeats["index_put_, 2 threads"] >= 1
    assert found.switch["one result of index_put_ on 2 threads"] and found.switch["operations without a deterministic form refused"]
    assert not found.switch["random numbers repeated without a seed"] and not found.switch["the same sums on 1 and 2 threads"]
    assert found.alone < 1e-4 and found.defaults == {"matrix products": False, "cuDNN convolutions": True}
    assert list(found.snippet.values())[:2] == ["prints", "prints"] and found.snippet["torch.cuda.get_device_name()"].endswith("Error")


def test_a_child_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: sandbox.Outcome("killed", error_type="SIGKILL", message="killed by SIGKILL"))
    with pytest.raises(BadInput, match="ended with killed") as caught:
        arithmetic.start().result(timeout=30)
    assert "\n" not in str(caught.value)
    if shutil.which("git"):
        with pytest.raises(BadInput, match="ended with killed"):
            history.bisect(0)


def test_nothing_is_left_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    checkpoint.saved_files()
    checkpoint.damaged_files()
    assert list(tmp_path.iterdir()) == []


def test_searches_are_kept_only_where_git_ran(monkeypatch):
    monkeypatch.setattr(history.record, "save", lambda *_: pytest.fail("the recording was overwritten"))
    monkeypatch.setattr(history.shutil, "which", lambda _: None)
    with pytest.raises(BadInput, match="nothing to record: git"):
        history.record_searches()
