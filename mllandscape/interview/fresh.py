"""Numeric questions with fresh parameters: asked, answered, solved and judged by the engines of the lessons. The same seed asks the same question."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mllandscape import BadInput, drift
from mllandscape.cuda import compatibility
from mllandscape.environments.locks import PLATFORMS, read_lock
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.cards import capacity, label
from mllandscape.memory.sharding import counts
from mllandscape.memory.timeline import CLUSTERS, hiding_tokens
from mllandscape.units import GB, gb, gib

NONE = "none of these"


@dataclass(frozen=True)
class Fresh:
    """A question. ``answer`` is a number in ``unit``, right within ``tolerance`` (a share of it; 0 is exact), or one of ``options``.

    ``solution`` is the way to it in lines, ``given`` what was drawn, where a rule of thumb is tried on it. ``repr`` asks and gives nothing away.
    """

    kind: str
    topic: str
    seed: int
    ask: str
    answer: float | str
    solution: tuple[str, ...]
    unit: str = ""
    options: tuple[str, ...] = ()
    tolerance: float = 0.0
    given: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        form = f"one of: {', '.join(self.options)}" if self.options else f"a number in {self.unit}"
        return f"{self.ask} ({form})"

    def check(self, answer: Any) -> str | None:
        """None for a right answer, else one sentence that does not give it away."""
        if self.options:
            named = next((one for one in self.options if isinstance(answer, str) and one.casefold() == answer.strip().casefold()), None)
            if named is None:
                return f"{answer!r} is none of {', '.join(self.options)}."
            return None if named == self.answer else f"Not {answer!r}: follow the rule through once more."
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
            return f"{answer!r} is no number in {self.unit}."
        if abs(answer - self.answer) <= self.tolerance * abs(self.answer):
            return None
        near = f", within {self.tolerance:.0%}" if self.tolerance else ""
        return f"{answer:g} {self.unit} is too {'low' if answer < self.answer else 'high'}{near}."

    def show_solution(self) -> str:
        return "\n".join(self.solution)


def _strategy(draw: random.Random) -> dict[str, Any]:
    size, cards, card = draw.choice((1.5, 3, 7, 13, 20, 34, 70)), draw.choice((4, 8, 16, 32)), draw.choice(("A100-40GB", "A100-80GB", "H200"))
    shape = ModelShape.of_size(size * 1e9)
    plan = TrainingPlan(precision="amp-bf16", optimizer_impl="fused", checkpointing="full")
    names = ("ddp", "zero1", "fsdp")
    peaks = {name: predict(shape, plan.but(strategy=name, ranks=cards)) for name in names}
    fitting = [name for name in names if peaks[name].fits(card)]
    return {
        "ask": f"{size:g}B parameters, {cards} × {card}, bf16 autocast, fused AdamW, full checkpointing, one sequence of 2,048 tokens a rank: "
        "the first of these strategies that fits (tight does not count)?",
        "answer": fitting[0] if fitting else NONE,
        "options": (*names, NONE),
        "given": {"billions": size, "cards": cards, "card": card},
        "solution": (
            f"The card: {label(card)}.",
            *(f"{name}: {gib(found.allocated)} on a rank at the peak; {found.fits(card)}." for name, found in peaks.items()),
        ),
    }


def _states(draw: random.Random) -> dict[str, Any]:
    from mllandscape.lessons.out_of_memory import MODEL_STATES, model_states

    size, precision = draw.choice((1.5, 3, 7, 13, 34, 70)), draw.choice(("amp-bf16", "bf16", "bf16-master"))
    optimizer = draw.choice(("adamw", "adamw8bit", "sgd"))
    shape = ModelShape.of_size(size * 1e9)
    held = model_states(profile := predict(shape, TrainingPlan(precision=precision, optimizer=optimizer)))
    terms = {name: profile.phases["optimizer step"].get(name, 0) for name in MODEL_STATES}
    parts = " + ".join(f"{name} {count / shape.parameters:.2f}" for name, count in terms.items() if count)
    return {
        "ask": f"{shape.parameters / 1e9:.2f}B parameters, precision {precision}, {optimizer}: parameters, master weights, gradients and optimizer states?",
        "answer": held / GB,
        "unit": "GB",
        "tolerance": 0.05,
        "solution": (f"Bytes a parameter: {parts} = {held / shape.parameters:.2f}.", f"Times {shape.parameters:,}: {gb(held)}."),
    }


def _logits(draw: random.Random) -> dict[str, Any]:
    name, batch, sequence = draw.choice(("llama-2-7b", "llama-3-8b")), draw.choice((1, 2, 4, 8)), draw.choice((2048, 4096, 8192))
    shape = ModelShape.preset(name)
    held = predict(shape, TrainingPlan(batch=batch, sequence=sequence, precision="fp32")).phases["forward"]["logits and loss"]
    each = held / (batch * sequence * shape.vocab)
    return {
        "ask": f"{name} in fp32, vocabulary {shape.vocab:,}, {batch} × {sequence:,} tokens: bytes of logits and loss at the end of the forward pass?",
        "answer": held / GB,
        "unit": "GB",
        "tolerance": 0.05,
        "solution": (
            f"{each:.0f} bytes a logit: the logits and their log-softmax, both fp32.",
            f"{each:.0f} × {batch} × {sequence:,} × {shape.vocab:,} = {gb(held)}.",
        ),
    }


def _gathers(draw: random.Random) -> dict[str, Any]:
    layers, ranks, reshard, accumulation = draw.randint(4, 80), draw.choice((2, 8, 64, 512)), draw.choice((None, False)), draw.choice((1, 2, 4))
    shape = ModelShape(style="llama", layers=layers, hidden=1024, heads=8, vocab=32_000)
    plan = TrainingPlan(strategy="fsdp", ranks=ranks, reshard_after_forward=reshard, accumulation=accumulation)
    found = counts(shape, plan)["all-gather"]
    blocks = layers if reshard is False else 2 * layers
    return {
        "ask": f"FSDP2 over {ranks} ranks, {layers} blocks and the root wrapped, reshard_after_forward {reshard}, {accumulation} micro-batches: all-gathers?",
        "answer": float(found),
        "unit": "all-gathers",
        "solution": (
            f"A micro-batch: {blocks} for the blocks and 1 for the root, which stays gathered by default.",
            f"Times {accumulation}: {found}. The ranks are not in it.",
        ),
    }


def _hiding(draw: random.Random) -> dict[str, Any]:
    name = draw.choice(("8xH100-400G", "8xA100-200G", "8xA100-25GbE", "1xA100-10GbE"))
    cluster = CLUSTERS[name].but(inter=draw.choice((0.5, 1.0, 2.0)) * CLUSTERS[name].inter)
    found = hiding_tokens(cluster.flops, cluster.inter)
    return {
        "ask": f"FSDP in bf16, {cluster.inter / GB:g} GB/s between nodes, {cluster.flops / 1e12:g} TFLOP/s achieved: tokens a GPU from which it can hide?",
        "answer": found,
        "unit": "tokens",
        "tolerance": 0.05,
        "solution": (
            "p parameters and T tokens compute 6pT FLOPs and send 3p elements of 2 bytes; p cancels.",
            f"T = FLOP/s over bytes/s = {cluster.flops:.4g} / {cluster.inter:.4g} = {found:,.0f} tokens.",
        ),
    }


def _mcnemar(draw: random.Random) -> dict[str, Any]:
    n, lost = draw.choice((500, 1000, 2000)), draw.randint(12, 60)
    gained = draw.randint(2, lost)
    test = drift.mcnemar(lost, gained, n)
    real = test.p < drift.LEVEL
    return {
        "ask": f"The same {n:,} items before and after: {lost} answers lost, {gained} gained. Is it a drop, by McNemar's exact test at {drift.LEVEL}?",
        "answer": "a drop" if real else "not distinguishable from no drop",
        "options": ("a drop", "not distinguishable from no drop"),
        "given": {"lost": lost, "gained": gained},
        "solution": (
            f"Only the {lost + gained} changed answers say anything: {lost} of {lost + gained} heads of a fair coin.",
            f"{drift.p_words(test.p)}; roughly (lost - gained)² / (lost + gained) = {test.chi2:.2f} against 3.84.",
        ),
    }


def _items(draw: random.Random) -> dict[str, Any]:
    before = draw.choice((0.75, 0.8, 0.85, 0.9, 0.95))
    after = round(before - draw.choice((0.01, 0.02, 0.03, 0.05)), 2)
    found = drift.items_needed(before, after)
    rough = 16 * before * (1 - before) / (before - after) ** 2
    return {
        "ask": f"{before:.0%} on one set, {after:.0%} on another: items in each set, to see it four times in five at {drift.LEVEL}?",
        "answer": float(found),
        "unit": "items",
        "tolerance": 0.25,
        "solution": (f"By heart: 16 p(1 - p) / d² = {rough:,.0f}.", f"With both variances (Fleiss): {found:,}."),
    }


def _sets(draw: random.Random) -> dict[str, Any]:
    rules = {
        "winlib": 'sys_platform == "win32"',
        "gpulib": 'sys_platform == "linux"',
        "tomli": 'python_version < "3.11"',
        "newpy": 'python_version >= "3.13"',
        "maclib": 'sys_platform == "darwin"',
    }
    some = dict(draw.sample(sorted(rules.items()), k=draw.randint(1, 4)))
    text = "\n".join(["core==1.0", *(f"{name}==1.0 ; {marker}" for name, marker in some.items())])
    lock = read_lock(text, "requirements.txt")
    sets = {platform: tuple(lock.on(*platform).items()) for platform in PLATFORMS}
    found = len(set(sets.values()))
    pythons, systems = (sorted({platform[place] for platform in PLATFORMS}) for place in (0, 1))
    return {
        "ask": f"A lock with core and {'; '.join(f'{name} if {marker}' for name, marker in some.items())}, installed on {', '.join(systems)} with Python "
        f"{', '.join(pythons)}: how many different sets of packages?",
        "answer": float(found),
        "unit": "sets",
        "solution": ("Evaluate every marker on all nine and count different outcomes.", *sorted({", ".join(name for name, _ in one) for one in sets.values()})),
    }


def _kept(draw: random.Random) -> dict[str, Any]:
    offered = sorted({f"{draw.randint(1, 3)}.{draw.randint(0, 9)}.{draw.randint(0, 3)}" for _ in range(7)}, key=Version)
    held, bound = draw.choice(offered), draw.choice(offered)
    spec = SpecifierSet(f"{draw.choice(('>=', '<=', '~='))}{bound}")
    allowed = list(spec.filter(offered))
    after = held if held in spec else max(allowed, key=Version)
    kept = f"{held} {'meets' if held in spec else 'does not meet'} {spec}"
    return {
        "ask": f"The environment has lib {held}. You run pip install -r with lib{spec}; the index has {', '.join(offered)}. Which version is there afterwards?",
        "answer": after,
        "options": tuple(offered),
        "solution": (f"{kept}: {'it stays, newer or not' if held in spec else f'the newest that does, {after}, replaces it'}.",),
    }


def _driver(draw: random.Random) -> dict[str, Any]:
    build = draw.choice([name for name in compatibility.builds() if name.startswith("torch")])
    gpu = draw.choice(("Tesla V100", "T4", "A100", "RTX 3090", "RTX 4090", "H100", "B200", "RTX 5090"))
    found = compatibility.will_it_run(build, gpu, driver := draw.choice(compatibility.drivers()))
    fails = ("no CUDA in the build", "driver too old", "no device", "no kernel image", "PTX too new")
    return {
        "ask": f"{build}, with {', '.join(found.build.code) or 'no GPU code'}, on {gpu} (sm_{found.gpu.capability}), driver {driver}, no image: what happens?",
        "answer": found.error.name if found.error else found.verdict,
        "options": (compatibility.RUNS, compatibility.JITS, *fails),
        "given": {"build": found.build, "capability": found.gpu.capability, "driver": driver},
        "solution": tuple(str(found).splitlines()),
    }


def _graphs(draw: random.Random) -> dict[str, Any]:
    from mllandscape.lessons.torch_compile import graphs_of, stream

    lengths, batches = draw.randint(2, 6), draw.choice(("always 8", "2, 4 or 8"))
    tail, padding, mode = draw.choice(("none", "1 of 50")), draw.choice(("none", "length")), draw.choice(("default", "dynamic=True", "dynamic=False"))
    told = graphs_of(lengths, batches, tail, padding, mode)
    shapes = stream(lengths, batches, tail, padding).shapes
    found = int(told.split()[-1].rstrip("e"))
    way = {"default": "none", "dynamic=True": "dynamic=True", "dynamic=False": "dynamic=False"}[mode]
    return {
        "ask": f"A softmax by hand under torch.compile (options: {way}) sees, in this order, {', '.join(map(str, shapes))}: how many graphs in the end?",
        "answer": float(found),
        "unit": "graphs",
        "solution": (
            f"Graphs after each new shape: {told.replace('e', ' (eager from here on)')}.",
            "A size of 1 is special; a size that changed becomes a symbol.",
        ),
    }


def _seeds(draw: random.Random) -> dict[str, Any]:
    from mllandscape.lessons.model_versioning import difference

    spread, shift = draw.choice((0.005, 0.01, 0.02)), draw.choice((0.0, 0.01, 0.03))
    one = [round(draw.gauss(0.90, spread), 3) for _ in range(5)]
    other = [round(draw.gauss(0.90 - shift, spread), 3) for _ in range(5)]
    points, errors = difference(one, other)
    return {
        "ask": f"Accuracies at five seeds before: {one}; after: {other}. By how many standard errors is the mean higher after (negative: lower)?",
        "answer": errors,
        "unit": "standard errors",
        "tolerance": 0.1,
        "solution": (
            f"The means differ by {points:+.2f} points.",
            "The standard error is √(s²/5 + s²/5), each with its own variance.",
            f"{errors:+.2f} standard errors.",
        ),
    }


KINDS: dict[str, tuple[str, Callable[[random.Random], dict[str, Any]]]] = {
    "platforms": ("01", _sets),
    "graphs": ("02", _graphs),
    "model states": ("03", _states),
    "logits": ("03", _logits),
    "strategy": ("04", _strategy),
    "all-gathers": ("04", _gathers),
    "hiding": ("05", _hiding),
    "McNemar": ("06", _mcnemar),
    "items": ("06", _items),
    "kept version": ("07", _kept),
    "driver": ("08", _driver),
    "seeds": ("09", _seeds),
}
"""Every kind of question: its topic, and what draws one."""


def question(kind: str, seed: int) -> Fresh:
    """The question of this kind and seed. Raises BadInput for an unknown kind."""
    if kind not in KINDS:
        raise BadInput(f"no kind of question {kind!r}: {', '.join(KINDS)} are possible.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadInput(f"seed={seed!r}: a whole number is needed.")
    topic, make = KINDS[kind]
    return Fresh(kind=kind, topic=topic, seed=seed, **make(random.Random(f"{kind} {seed}")))


def commonest(kind: str, seeds: range) -> tuple[str, float]:
    """Of a kind with options: the answer that is right most often over these seeds, and how often. What learning one answer by heart is worth."""
    answers = [question(kind, seed).answer for seed in seeds]
    best = max(sorted(set(answers)), key=answers.count)
    return str(best), answers.count(best) / len(answers)


# -- rules of thumb: the why in a line or two, written from the rule and not from the engine -----------------------------------


def _sizes_up(billions: float, cards: int, card: str) -> str:
    """Bytes a parameter under autocast with AdamW: 16, in DDP also the buckets' 4; what is sharded over the cards; a fifth on top for the rest."""
    each = {"ddp": 20, "zero1": 12 + 8 / cards, "fsdp": 16 / cards}
    fitting = [name for name, count in each.items() if 1.2 * count * billions * GB <= capacity(card)]
    return fitting[0] if fitting else NONE


def _tells_a_drop(lost: int, gained: int) -> str:
    """The difference against the square root of the sum: two of it are a drop."""
    return "a drop" if lost - gained > 2 * math.sqrt(lost + gained) else "not distinguishable from no drop"


def _runs(build: compatibility.Build, capability: int, driver: str) -> str:
    """Driver by major version, then a cubin of the same major and no later minor, then older PTX."""
    if not build.cuda:
        return "no CUDA in the build"
    oldest = {row["major"]: row["driver"] for row in compatibility.tables()["runtime"]}[int(build.cuda.partition(".")[0])]
    if int(driver.partition(".")[0]) < int(oldest.partition(".")[0]):
        return "driver too old"
    codes = [(kind, int(re.sub(r"\D", "", number))) for kind, number in (code.split("_") for code in build.code)]
    if any(kind == "sm" and number // 10 == capability // 10 and number <= capability for kind, number in codes):
        return compatibility.RUNS
    return compatibility.JITS if any(kind == "compute" and number <= capability for kind, number in codes) else "no kernel image"


RULES: dict[str, Callable[..., str]] = {"strategy": _sizes_up, "McNemar": _tells_a_drop, "driver": _runs}
"""A rule of thumb for kinds of question with the same options each time."""


def by_rule(kind: str, seeds: range) -> float:
    """How often the rule of thumb is right over these seeds."""
    asked = [question(kind, seed) for seed in seeds]
    return sum(RULES[kind](**one.given) == one.answer for one in asked) / len(asked)
