"""What measures a training step on a GPU, driven on a CPU: the same code with a pretended allocator under it. And the messages of real ones."""

import contextlib
import gc
import json
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, units
from mllandscape.memory import ModelShape, TrainingPlan, accuracy, cuda_step, measure, predict
from mllandscape.memory.measure import INSTANTS, Instant, Measured, Wanted, measure_each, take_apart, thinned
from mllandscape.memory.tracker import Tracker

measure_module = sys.modules["mllandscape.memory.measure"]  # the package's attribute of that name is the function
SHAPE = ModelShape(style="gpt", layers=2, hidden=128, heads=2, vocab=1024, context=32, name="0.6M GPT")
SMALL = ModelShape(style="gpt", layers=1, hidden=64, heads=1, vocab=256, context=32)
PLAN = TrainingPlan(batch=4, sequence=32, precision="fp32")
CONTEXT, WORKSPACE, CAPACITY = 300 * units.MIB, 8 * units.MIB, units.GIB


class PretendedGpu(Tracker):
    """CPU tensors, counted as an allocator would: what ``cuda_step.Gpu`` asks of torch.cuda, answered from the live bytes. ``with`` switches it on."""

    device = "cpu"

    def __init__(self):
        self.allowed, self.highest, self.ooms, self.reserved, self.actions, self.leak = None, 0, 0, 0, [], None
        super().__init__()

    def _change(self, category, size):
        super()._change(category, size)
        self.actions.append(("alloc" if size > 0 else "free_completed", abs(size), time.time_ns() // 1000))
        self.highest, self.reserved = max(self.highest, self.total), max(self.reserved, self.total)

    def add(self, tensor, category):
        size = tensor.untyped_storage().nbytes()
        if self.allowed is not None and not self.category_of(tensor) and self.total + size > self.allowed:
            self.ooms += 1
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size} bytes. GPU 0 has a total capacity of 1.00 GiB of which 0 bytes is free. Including "
                f"non-PyTorch memory, this process has {self.used() / units.MIB:.2f} MiB memory in use. Of the allocated memory "
                f"{self.total / units.MIB:.2f} MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated."
            )
        super().add(tensor, category)

    def cap(self, budget):
        self.allowed = budget

    def statistics(self):
        now = {"allocated": self.total, "requested": self.total, "reserved": self.reserved}
        return now | {"allocated peak": self.highest, "requested peak": self.highest, "reserved peak": self.reserved, "retries": 0, "ooms": self.ooms}

    def begin(self):
        self.highest = self.total

    def used(self):
        return CONTEXT + self.reserved

    def let_go(self):
        gc.collect()
        self.reserved = self.total
        return WORKSPACE

    def seconds(self, work):
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    @contextlib.contextmanager
    def history(self):
        self.actions.clear()
        yield lambda: list(self.actions)


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What is imported by now is no garbage: every search for some is as short as in the child."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def gpu():
    with PretendedGpu() as gpu:
        yield gpu


# -- one step, and what is read of it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(imported):
    with PretendedGpu() as gpu:
        return cuda_step.run(gpu, Wanted(SHAPE, PLAN, None, history=True))


def test_a_step_is_measured_as_it_is_predicted_phase_by_phase(measured):
    predicted = predict(SHAPE, PLAN)
    assert measured.ok and measured.restored and measured.left == 0
    assert measured.allocated == pytest.approx(predicted.allocated, rel=0.002)
    assert measured.phases.keys() == predicted.phases.keys()
    for phase, terms in predicted.phases.items():
        assert measured.phases[phase] == pytest.approx(sum(terms.values()), rel=0.01), phase
    assert sum(measured.tracked.values()) == pytest.approx(predicted.allocated, rel=0.002)
    assert measured.tracked["optimizer states"] == predicted.terms["optimizer states"]
    assert measured.outside == CONTEXT and measured.device == CONTEXT + measured.reserved and measured.workspaces == WORKSPACE
    assert len(measured.seconds) == cuda_step.STEPS and len(measured.losses) == cuda_step.WARM_UP + cuda_step.STEPS + 2
    assert measured.losses[-1] < measured.losses[0], "it learns: the same weights and tokens, step after step"


def test_a_history_is_thinned_and_keeps_its_peak_and_its_phases(measured):
    assert 50 < len(measured.history) <= INSTANTS
    phases = [instant.phase for instant in measured.history]
    assert [phase for place, phase in enumerate(phases) if not place or phase != phases[place - 1]] == ["forward", "backward", "optimizer step"]
    assert max(instant.requested for instant in measured.history) == pytest.approx(measured.requested, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"in_backward": True}, {"accumulation": 2}, {"checkpointing": "full"}, {"loss": "chunked"}, {"trainable": "lora"}, {"precision": "bf16-master"}]
    + [{"optimizer": "sgd"}, {"optimizer": "adafactor"}, {"optimizer": "adamw8bit"}, {"precision": "amp-bf16", "optimizer_impl": "fused"}],
    ids=lambda changes: ", ".join(f"{name} {value}" for name, value in changes.items()),
)
def test_every_kind_of_plan_runs_and_leaves_nothing(gpu, changes):
    plan = PLAN.but(**changes)
    measured = cuda_step.run(gpu, Wanted(SMALL, plan))
    assert measured.ok and measured.restored, measured
    assert measured.allocated == pytest.approx(predict(SMALL, plan).allocated, rel=0.05)
    assert ("optimizer step" in measured.phases) is not plan.in_backward


def test_out_of_memory_is_a_value_that_says_where_and_the_next_step_runs(gpu):
    need = predict(SMALL, PLAN)
    for budget, where in ((64 * units.KIB, "building the model"), (sum(need.phases["forward"].values()) // 2, "forward"), (need.allocated - 4096, "step")):
        measured = cuda_step.run(gpu, Wanted(SMALL, PLAN, budget))
        assert measured.ending == "out of memory" and where in measured.failed and measured.restored, measured
        assert 0 < measured.parts["asked for"] < need.allocated and measured.parts["capacity"] == CAPACITY
        assert measured.allocated <= budget and measured.ooms == 1 and not measured.seconds and measured.budget == budget
    assert cuda_step.run(gpu, Wanted(SMALL, PLAN)).ok


def test_a_budget_that_the_tracker_alone_breaks_keeps_the_measurement(gpu, monkeypatch):
    def breaks(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(cuda_step, "track", breaks)
    measured = cuda_step.run(gpu, Wanted(SMALL, PLAN))
    assert measured.ok and measured.allocated and measured.tracked == {}


@pytest.mark.parametrize(
    ("kind", "said", "ending"),
    [
        (RuntimeError, "No available kernel. Aborting execution.", "not here"),
        (BadInput, "adamw8bit needs bitsandbytes", "not here"),
        (ModuleNotFoundError, "No module named 'numpy'", "not here"),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out of memory"),
        (RuntimeError, "CUDA error: an illegal memory access was encountered", "error"),
    ],
)
def test_what_goes_wrong_otherwise_is_told(gpu, monkeypatch, kind, said, ending):
    def breaks(*_):
        raise kind(f"{said}\nand more")

    monkeypatch.setattr(cuda_step.reference, "train_step", breaks)
    measured = cuda_step.run(gpu, Wanted(SMALL, PLAN))
    assert measured.ending == ending and said in measured.message and measured.restored
    assert measured.failed == "step 0, forward" and ("\n" in measured.message) is (ending == "out of memory")


def test_after_an_error_cuda_is_asked_for_nothing_more(gpu, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def breaks(*_):
        monkeypatch.setattr(gpu, "let_go", broken)
        monkeypatch.setattr(gpu, "cap", broken)
        monkeypatch.setattr(gpu, "statistics", broken)
        broken()

    monkeypatch.setattr(cuda_step.reference, "train_step", breaks)
    assert cuda_step.run(gpu, Wanted(SMALL, PLAN)).message == "RuntimeError: CUDA error: an illegal memory access was encountered"


def test_a_loss_that_is_no_number_is_left_out(gpu, monkeypatch):
    step = cuda_step.reference.train_step
    monkeypatch.setattr(cuda_step.reference, "train_step", lambda *given: step(*given) * float("nan"))
    measured = cuda_step.run(gpu, Wanted(SMALL, PLAN))
    assert set(measured.losses) == {None} and Measured.from_json(measured.to_json()) == measured


# -- the caller's side -----------------------------------------------------------------------------------------------------


def pretend_child(monkeypatch, spoil=lambda number, measured: measured):
    """Run the child's function here, on a pretended GPU, as often as the caller starts one; returns the list of how many each was given."""
    calls, seen = [], []

    def call(target, /, *, seconds, progress=None, **kwargs):
        function = getattr(cuda_step, target.partition(":")[2])
        calls.append(len(kwargs.get("wanted", ())))
        real = cuda_step.run

        def run(gpu, step):
            seen.append(step)
            return spoil(len(seen), real(gpu, step))

        with PretendedGpu() as gpu, monkeypatch.context() as patch:
            patch.setattr(cuda_step, "Gpu", lambda: gpu)
            patch.setattr(cuda_step, "run", run)
            value = function(**json.loads(json.dumps(kwargs)))
        return measure_module.sandbox.Outcome("ok", json.loads(json.dumps(value)))

    monkeypatch.setattr(measure_module.sandbox, "call", call)
    return calls


def test_several_are_measured_in_one_child(monkeypatch):
    calls = pretend_child(monkeypatch)
    plans = [PLAN, PLAN.but(checkpointing="full"), PLAN.but(optimizer="sgd")]
    measured = measure_each([Wanted(SMALL, plan) for plan in plans])
    assert [one.plan for one in measured] == plans and all(one.ok for one in measured) and calls == [3]


@pytest.mark.parametrize("spoilt", [{"ending": "error", "message": "CUDA error"}, {"left": 2 * units.MIB}])
def test_after_one_that_spoilt_its_process_the_rest_gets_another(monkeypatch, spoilt):
    calls = pretend_child(monkeypatch, lambda number, measured: replace(measured, **spoilt) if number == 2 else measured)
    measured = measure_each([Wanted(SMALL, PLAN)] * 4)
    assert len(measured) == 4 and calls == [4, 2]
    assert [one.ok and one.restored for one in measured] == [True, False, True, True]


def test_without_a_gpu_one_line_says_so():
    with pytest.raises(BadInput, match="no CUDA GPU that torch can use here") as told:
        measure(SHAPE, PLAN)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("plan", "budget", "words"),
    [(PLAN.but(strategy="zero1", ranks=2), None, "zero1"), (PLAN.but(sequence=64), None, "learned positions"), (PLAN, "much", "not a size")],
)
def test_a_wrong_request_is_one_line_before_a_process_starts(monkeypatch, plan, budget, words):
    monkeypatch.setattr(measure_module.sandbox, "call", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(BadInput, match=words):
        measure(SHAPE, plan, budget)


def test_a_child_that_is_stopped_is_one_line(monkeypatch):
    monkeypatch.setattr(measure_module.sandbox, "call", lambda *_, **__: measure_module.sandbox.Outcome("timeout", message="stopped at its time limit of 1 s"))
    with pytest.raises(BadInput, match="ended with timeout: stopped"):
        measure(SHAPE, PLAN)


def test_measure_is_the_function_whichever_way_it_is_reached():
    import mllandscape.memory

    assert mllandscape.memory.measure is measure and callable(measure)


# -- to JSON and back --------------------------------------------------------------------------------------------------------

COUNTS = st.integers(0, 2**50)


@given(
    st.builds(
        Measured,
        shape=st.sampled_from([SHAPE, ModelShape.preset("llama-2-13b"), ModelShape.of_size(3e8)]),
        plan=st.sampled_from([PLAN, TrainingPlan(), TrainingPlan(strategy="hsdp", ranks=16), TrainingPlan(optimizer="adafactor", precision="bf16")]),
        budget=st.none() | COUNTS,
        ending=st.sampled_from(measure_module.ENDINGS),
        message=st.text(),
        parts=st.dictionaries(st.text(), COUNTS, max_size=3),
        allocated=COUNTS,
        phases=st.dictionaries(st.text(), COUNTS, max_size=3),
        losses=st.lists(st.none() | st.floats(0, 100), max_size=3).map(tuple),
        seconds=st.lists(st.floats(0, 100), max_size=3).map(tuple),
        history=st.lists(st.builds(Instant, st.sampled_from(["forward", "backward"]), COUNTS, COUNTS), max_size=4).map(tuple),
    )
)
def test_it_comes_back_from_json_as_it_was(measured):
    assert Measured.from_json(json.loads(json.dumps(measured.to_json()))) == measured


@pytest.mark.parametrize(
    "change", [{"shape": "gpt9"}, {"plan": {"batch": 0}}, {"plan": {"more": 1}}, {"allocated": "1"}, {"more": 1}, {"history": {"phase": []}}]
)
def test_json_that_does_not_fit_is_one_line(change):
    told = Measured(shape=SHAPE, plan=PLAN).to_json()
    for wrong in (told | change, {}, None, []):
        with pytest.raises(BadInput) as line:
            Measured.from_json(wrong)
        assert "\n" not in str(line.value)


@given(st.lists(COUNTS, max_size=1000), st.integers(1, 50))
def test_thinning_loses_no_peak(points, most):
    left = thinned(points, most, lambda point: point)
    assert len(left) <= most and (not points or max(left) == max(points))


# -- messages: published ones, of torch 1.0 to 2.11, with and without a budget, another process, private pools -----------------

PUBLISHED = {
    "PR pytorch#99699": (
        "CUDA out of memory. Tried to allocate 138.00 MiB. GPU 0 has a total capacty of 15.90 GiB of which 8.44 MiB is free. "
        "Process 1246069 has 577.00 MiB memory in use. Including non-PyTorch memory, this process has 15.32 GiB memory in use. "
        "Of the allocated memory 14.12 GiB is allocated by PyTorch, and 410.41 MiB is reserved by PyTorch but unallocated.",
        {"asked for": "138MiB", "capacity": "15.9GiB", "free": "8.44MiB", "in use by this process": "15.32GiB", "allocated": "14.12GiB"},
    ),
    "a budget, with another process": (
        "CUDA out of memory. Tried to allocate 996.00 MiB. GPU 0 has a total capacity of 44.43 GiB of which 9.06 GiB is free. "
        "Process 2102129 has 17.54 GiB memory in use. Including non-PyTorch memory, this process has 17.81 GiB memory in use. 17.69 GiB allowed; "
        "Of the allocated memory 17.44 GiB is allocated by PyTorch, and 59.88 MiB is reserved by PyTorch but unallocated.",
        {"in use by this process": "17.81GiB", "allowed": "17.69GiB", "allocated": "17.44GiB", "reserved, unallocated": "59.88MiB"},
    ),
    "private pools, a budget": (
        "HIP out of memory. Tried to allocate 76.00 MiB. GPU 0 has a total capacity of 255.69 GiB of which 252.82 GiB is free. 1.20 GiB allowed; "
        "Of the allocated memory 1.14 GiB is allocated by PyTorch, with 17.00 MiB allocated in private pools (e.g., HIP Graphs), "
        "and 18.63 MiB is reserved by PyTorch but unallocated.",
        {"asked for": "76MiB", "allowed": "1.2GiB", "allocated": "1.14GiB", "reserved, unallocated": "18.63MiB"},
    ),
    "nothing free, sd-webui-replacer#74": (
        "CUDA out of memory. Tried to allocate 27.12 GiB. GPU 0 has a total capacty of 11.99 GiB of which 0 bytes is free. "
        "Of the allocated memory 16.16 GiB is allocated by PyTorch, and 144.59 MiB is reserved by PyTorch but unallocated.",
        {"free": 0, "allocated": "16.16GiB"},
    ),
    "torch 1, StructureFlow#35": (
        "CUDA out of memory. Tried to allocate 8.13 GiB (GPU 0; 10.76 GiB total capacity; 643.57 MiB already allocated; 8.20 GiB free; 32.43 MiB cached)",
        {"asked for": "8.13GiB", "capacity": "10.76GiB", "allocated": "643.57MiB", "free": "8.2GiB"},
    ),
    "torch 1, GenerativeGraph#5": (
        "CUDA out of memory. Tried to allocate 1024.00 KiB (GPU 0; 11.17 GiB total capacity; 10.90 GiB already allocated; 576.00 KiB free; 30.96 MiB cached)",
        {"asked for": "1MiB", "free": "576KiB"},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_message_is_taken_apart(name):
    message, expected = PUBLISHED[name]
    parts = take_apart(message)
    for part, amount in expected.items():
        assert parts[part] == (amount and units.parse_bytes(amount)), part
    if "context and others" in parts:
        assert parts["context and others"] == parts["in use by this process"] - parts["allocated"] - parts["reserved, unallocated"] >= 0


def test_a_driver_that_does_not_know_what_a_process_uses_says_nothing_of_it():
    """Published from Windows: NVML's "not available" is 2^64 - 1 bytes."""
    parts = take_apart(
        "CUDA out of memory. Tried to allocate 3.98 GiB. GPU 0 has a total capacity of 31.84 GiB of which 16.30 GiB is free. "
        "Including non-PyTorch memory, this process has 17179869184.00 GiB memory in use. 17.51 GiB allowed; "
        "Of the allocated memory 6.74 GiB is allocated by PyTorch, and 7.02 GiB is reserved by PyTorch but unallocated."
    )
    assert "in use by this process" not in parts and "context and others" not in parts and parts["allowed"] == units.parse_bytes("17.51GiB")


@given(st.text())
def test_any_other_text_is_refused_in_one_line(text):
    with contextlib.suppress(BadInput):
        take_apart(text)


# -- the grid and its judgement -------------------------------------------------------------------------------------------------


def test_the_grid_has_every_value_of_every_choice_and_sixty_cells_up_to_13b():
    cells = {name: one for size in accuracy.SHAPES for name, one in accuracy.cells(size, 139 * units.GIB, ["bitsandbytes"]).items()}
    assert len(cells) >= 60
    from mllandscape.memory.plan import CHOICES

    for choice, values in CHOICES.items():
        assert {getattr(one.plan, choice) for one in cells.values()} >= set(values), choice
    sizes = [one.shape.parameters for one in cells.values()]
    assert min(sizes) < 1.3e8 and max(sizes) > 13e9


def test_a_smaller_card_gets_what_it_can_hold_and_no_more():
    for free in (7 * units.GIB, 22 * units.GIB):
        for size in accuracy.SHAPES:
            for one in accuracy.cells(size, free).values():
                assert predict(one.shape, one.plan).reserved.high <= free and one.plan.optimizer != "adamw8bit"
    assert accuracy.cells("125m", 7 * units.GIB) and not accuracy.cells("13b", 7 * units.GIB)


def synthetic(shape, plan, workspaces=64 * units.MIB, kernels=0, rounding=0, reserve=1.1):
    """A made-up measurement: what is predicted, and so many bytes more."""
    live = predict(shape, plan).terms
    requested = sum(live.values()) + workspaces + kernels
    return Measured(
        shape=shape, plan=plan, tracked=live, workspaces=workspaces, requested=requested, allocated=requested + rounding, reserved=round(reserve * requested)
    )  # fmt: skip


def test_a_peak_is_taken_apart_so_that_its_parts_add_up():
    measured = synthetic(SHAPE, PLAN, workspaces=5, kernels=70, rounding=900)
    apart = accuracy.apart("a", measured)
    assert (apart.tensors, apart.workspaces, apart.kernels, apart.rounding) == (0, 5, 70, 900)
    assert apart.predicted + apart.tensors + apart.workspaces + apart.kernels + apart.rounding == apart.allocated
    assert apart.error == pytest.approx(accuracy.expected(measured) / measured.allocated - 1)


def test_without_a_tracker_the_parts_still_add_up():
    measured = replace(synthetic(SHAPE, PLAN, workspaces=5, kernels=70), tracked={})
    apart = accuracy.apart("a", measured)
    assert (apart.tensors, apart.kernels) == (70, 0) and apart.predicted + apart.tensors + apart.workspaces + apart.rounding == apart.allocated


def test_a_grid_within_the_bar_has_no_problems_and_a_missing_term_is_named():
    cells = accuracy.cells("1b", 139 * units.GIB)
    good = accuracy.judge({name: synthetic(one.shape, one.plan) for name, one in cells.items()})
    assert good.problems() == [] and good.mean < 0.01 and good.inside == 1
    assert str(good).startswith(f"{len(cells)} plans: ")
    missing = {name: synthetic(one.shape, one.plan, kernels=predict(one.shape, one.plan).allocated // 10) for name, one in cells.items()}
    bad = accuracy.judge(missing)
    assert len(bad.problems()) > len(cells) and any("mean error" in line for line in bad.problems())
    share, where = bad.term("kernels")
    assert share == pytest.approx(0.1 / 1.1, rel=0.1) and bad.term("tensors")[0] == 0 and where.kernels > 0
    wide = accuracy.judge({name: synthetic(one.shape, one.plan, reserve=1.5) for name, one in cells.items()})
    assert [line for line in wide.problems() if "inside the band" in line]


def test_what_did_not_run_has_no_peak_to_compare():
    assert accuracy.judge({"a": synthetic(SHAPE, PLAN), "b": Measured(shape=SHAPE, plan=PLAN, ending="out of memory")}).cells == (
        accuracy.apart("a", synthetic(SHAPE, PLAN)),
    )


def test_a_prediction_that_moves_away_is_told_and_one_that_comes_closer_is_not():
    measured = synthetic(ModelShape.preset("llama-3.2-1b"), TrainingPlan(sequence=1024))
    now = accuracy.expected(measured)
    assert accuracy.drifted("a", measured, now) == ""
    assert accuracy.drifted("a", measured, round(1.3 * now)) == ""
    far = replace(measured, allocated=round(measured.allocated * 1.05))
    assert "predicted" in accuracy.drifted("a", far, far.allocated) and accuracy.drifted("a", far, now) == ""
