"""The numbers to quote: each computed by the engine of its lesson when it is asked for, under the key of the guess that asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mllandscape import BadInput, drift
from mllandscape.course.questions import amount
from mllandscape.cuda.compatibility import OUTCOMES, Build, will_it_run
from mllandscape.environments import toys
from mllandscape.environments.locks import PLATFORMS, read_lock
from mllandscape.environments.published import published
from mllandscape.environments.steps import chain, resolve_steps
from mllandscape.memory import ModelShape, TrainingPlan, predict
from mllandscape.memory.sharding import counts
from mllandscape.memory.timeline import CLUSTERS
from mllandscape.units import GB

Value = float | str

SINGLE_CODE = Build("a kernel for sm_80 alone", "12.1", ("sm_80",))


@dataclass(frozen=True)
class Known:
    """What a number is in a few words, its unit, and how it is computed; a name instead of a number has no unit."""

    words: str
    unit: str
    compute: Callable[[], Value]


def _states(precision: str, optimizer: str) -> float:
    from mllandscape.lessons.out_of_memory import model_states

    return model_states(predict(ModelShape.preset("llama-2-13b"), TrainingPlan(precision=precision, optimizer=optimizer))) / GB


def _fits_at() -> str:
    plan = TrainingPlan(checkpointing="full")
    fitting = [batch for batch in (8, 4, 2, 1) if predict(ModelShape.preset("llama-2-13b"), plan.but(batch=batch)).fits("A100-80GB")]
    return str(fitting[0]) if fitting else "none"


def _rank_of(ranks: int) -> float:
    from mllandscape.lessons.ddp_vs_fsdp import RECIPE

    return predict(ModelShape.preset("llama-2-7b"), RECIPE.but(ranks=ranks)).allocated / GB


def _gathers() -> str:
    from mllandscape.lessons.ddp_vs_fsdp import RECIPE

    return str(counts(ModelShape.preset("llama-2-7b"), RECIPE)["all-gather"])


def _slowdown() -> float:
    from mllandscape.lessons.fsdp_downsides import slowdown

    return slowdown(ModelShape.preset("llama-2-7b"), TrainingPlan(precision="bf16", strategy="fsdp", ranks=16), CLUSTERS["8xA100-25GbE"])


def _decides() -> str:
    from mllandscape.lessons.fsdp_downsides import what_decides

    found = what_decides()
    return max(found, key=lambda name: found[name][0] - found[name][1])


def _graphs() -> float:
    from mllandscape.lessons.torch_compile import graphs_of

    return float(graphs_of(3, "2, 4 or 8", "none", "none", "default").split()[-1])


def _platforms() -> float:
    markers = ('; sys_platform == "linux"', '; sys_platform == "win32"', '; python_version < "3.11"')
    lock = read_lock("\n".join(["core==1.0", *(f"more{place}==1.0 {marker}" for place, marker in enumerate(markers))]), "requirements.txt")
    return float(len({tuple(lock.on(*platform)) for platform in PLATFORMS}))


def _chain() -> float:
    from mllandscape.lessons.torch_compile import recorded

    return recorded("the number is the recorded one").calls("pointwise chain").speed_up()


def _timeout() -> float:
    from mllandscape.lessons.fsdp_downsides import time_outs

    return time_outs()["NCCL"]


def _floats() -> float:
    pin = "toytransformers==4.35.2"
    released = next(one.date for one in toys.releases() if one.version == "4.35.2")
    days = [released, *(day for day in toys.TOYNUMPY.values() if day > released)]
    return float(len({tuple(toys.resolve(pin, toys.offered(day)).items()) for day in days}))


def _steps() -> float:
    problem = chain(7, 6)
    return float(len(resolve_steps(problem.packages, problem.requirements, "resolvelib").steps))


def _interval() -> float:
    low, high = drift.wilson(920, 1000)
    return 100 * (high - low)


KNOWN = {
    "01.steps": Known("steps of pip's resolver over seven packages of six versions in a chain", "steps", _steps),
    "01.platforms": Known("sets of packages that one lock with three markers installs on nine machines", "sets", _platforms),
    "02.chain": Known("a chain of pointwise operations, compiled against eager, as recorded on one CPU thread", "times", _chain),
    "02.graphs": Known("graphs that torch compiles for three shapes", "graphs", _graphs),
    "03.adamw_13b": Known("weights, gradients and AdamW states of 13B under autocast", "GB", lambda: _states("amp-bf16", "adamw")),
    "03.eightbit_13b": Known("weights, gradients and states of 13B in pure bf16 with 8-bit AdamW", "GB", lambda: _states("bf16", "adamw8bit")),
    "03.batch": Known("largest batch of 13B that fits on an 80 GB card under autocast with AdamW and checkpointing", "", _fits_at),
    "04.rank_of_8": Known("peak of one of 8 FSDP ranks that train a 7B", "GB", lambda: _rank_of(8)),
    "04.rank_of_1024": Known("peak of one of 1,024 FSDP ranks that train a 7B", "GB", lambda: _rank_of(1024)),
    "04.gathers": Known("all-gathers of a step, 32 blocks and the root wrapped", "", _gathers),
    "05.slowdown": Known("a 7B step over a 25 Gb/s port a node, against free communication", "×", _slowdown),
    "05.decides": Known("what decides whether communication hides", "", _decides),
    "05.timeout": Known("how long a rank waits in a collective of NCCL by default", "minutes", _timeout),
    "06.items": Known("items in each of two sets, to see 85 % fall to 82 % four times in five", "items", lambda: float(drift.items_needed(0.85, 0.82))),
    "07.added": Known("the first transformers with AutoModelForCausalLM", "", lambda: published().name("AutoModelForCausalLM").since),
    "07.floats": Known("sets of versions that one pinned line gave a new machine, from the day of its release on", "sets", _floats),
    "08.driver": Known("torch 2.1.0+cu121 on an A100 under driver 520", "", lambda: will_it_run("torch 2.1.0+cu121", "A100", "520.61.05").error.name),
    "08.major": Known("a kernel for sm_80 alone on an H100", "", lambda: OUTCOMES[will_it_run(SINGLE_CODE, "H100", "580.65.06").short]),
    "09.interval": Known("width of the 95 % interval of an accuracy of 92 % on 1,000 items", "points", _interval),
}
"""By key; the keys of guesses are those of the notebooks, whose answers are the same."""


@cache
def value(key: str) -> Value:
    """The number, or the name, behind a key. Raises BadInput for an unknown one."""
    if key not in KNOWN:
        raise BadInput(f"no number {key!r}: {', '.join(KNOWN)} are possible.")
    return KNOWN[key].compute()


def quote(key: str) -> str:
    """The number with its unit and what it is: ``208.3 GB: weights, gradients and AdamW states of 13B under autocast``."""
    found = value(key)
    return f"{amount(found, KNOWN[key].unit)}: {KNOWN[key].words}"
