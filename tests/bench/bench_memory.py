"""How near ``predict`` comes to ``trace`` over random plans at full model sizes, and what both cost.

``python -m tests.bench.bench_memory [--plans N] [--sharded N]`` from the repository; two to six seconds a plan. Fails when the mean error
is over 0.5 %, the worst over 2 %, or a warm prediction takes more than a millisecond. The traced step's CPU time is reported, never asserted.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

from mllandscape import BadInput, units
from mllandscape.memory.plan import CHOICES, PARALLEL_CHOICES, SHARDED, TrainingPlan
from mllandscape.memory.predict import predict, program
from mllandscape.memory.shape import ModelShape

SHAPES = ("gpt2", "gpt2-xl", "llama-3.2-1b", "llama-2-7b", "llama-2-13b", "llama-2-70b")
SEED = 3
CALLS = 200


def random_plan(generator: random.Random, shape: ModelShape) -> TrainingPlan:
    """Every choice equally often, batch 1 to 8, 256 to 4,096 tokens or as many as the model takes; drawn again if it makes no sense."""
    while True:
        choices = {name: generator.choice(options) for name, options in CHOICES.items()}
        if choices["optimizer"] in ("adamw8bit", "adafactor"):
            del choices["optimizer_impl"]
        choices["in_backward"] = generator.random() < 0.3
        choices["accumulation"] = generator.choice((1, 1, 2))
        sizes = {"batch": generator.randint(1, 8), "sequence": generator.randint(256, min(4096, shape.context)), "lora_rank": generator.choice((8, 16, 64))}
        try:
            return TrainingPlan(**choices, **sizes)
        except BadInput:
            continue


def random_sharded_plan(generator: random.Random, shape: ModelShape) -> TrainingPlan:
    """The same with a strategy that torch's fully_shard runs, on 2 to 64 ranks; drawn again if it makes no sense."""
    while True:
        plan = random_plan(generator, shape)
        choices = {
            "strategy": generator.choice(SHARDED),
            "ranks": generator.choice((2, 4, 8, 12, 16, 64)),
            "reduce_dtype": generator.choice((None, "fp32", "bf16")),
        }
        choices |= {"wrap": generator.choice(("block", "block", *PARALLEL_CHOICES["wrap"])), "prefetch": generator.choice((None, None, 0, 1, 2))}
        choices["reshard_after_forward"] = generator.choice((None, True, False))
        if choices["strategy"] == "hsdp":
            choices["shard_group"] = generator.choice((2, 4, 8))
        try:
            return plan.but(**choices)
        except BadInput:
            continue


def milliseconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return 1e3 * (time.perf_counter() - start)


def cost_of_predicting(draw: Callable) -> float:
    """Prints the median milliseconds of a first and of a warm call for each shape; returns the slowest warm median."""
    slowest = 0.0
    for name in SHAPES:
        shape, generator = ModelShape.preset(name), random.Random(SEED)
        plans = [draw(generator, shape) for _ in range(CALLS)]
        program.cache_clear()
        first = statistics.median(milliseconds(predict, shape, plan) for plan in plans)
        warm = statistics.median(milliseconds(predict, shape, plan) for plan in plans)
        slowest = max(slowest, warm)
        print(f"predict {name}: first call of a kind {first:.2f} ms, warm {warm:.2f} ms (medians of {CALLS} random plans; warm at most 1 ms)", flush=True)
    return slowest


def cost_of_tracing() -> None:
    from mllandscape.memory.trace import trace

    plan = TrainingPlan(precision="bf16")
    trace(ModelShape.preset("gpt2"), plan.but(sequence=256))  # torch imports much of itself at the first fake tensor
    start = time.process_time()
    profile = trace(ModelShape.preset("llama-2-13b"), plan)
    print(f"trace llama-2-13b: {time.process_time() - start:.1f} CPU-seconds after imports (aim 5), peak {units.gb(profile.allocated)}", flush=True)


def errors_of(count: int, draw: Callable) -> list[float]:
    """|predict - trace| / trace of ``count`` random plans, the shapes in turn."""
    from mllandscape.memory.trace import trace

    generator, errors, exact, start = random.Random(SEED), [], 0, time.monotonic()
    for number in range(count):
        name = SHAPES[number % len(SHAPES)]
        shape = ModelShape.preset(name)
        plan = draw(generator, shape)
        predicted, traced = predict(shape, plan), trace(shape, plan)
        errors.append(abs(predicted.allocated - traced.allocated) / traced.allocated)
        exact += predicted.phases == traced.phases
        if errors[-1] > 0.001:
            print(f"\n{name} {plan}: {units.size(predicted.allocated)} against {units.size(traced.allocated)}, {errors[-1]:.2%}")
        print(f"\r{number + 1} of {count} plans, {time.monotonic() - start:.0f} s, worst {max(errors):.4%}", end="", flush=True)
    print(f"\n{exact} of {count} plans agree to the byte in every category of every phase")
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description="predict against trace, and their cost")
    parser.add_argument("--plans", type=int, default=204, metavar="N", help="random plans of one GPU to trace (204, a multiple of the six shapes)")
    parser.add_argument("--sharded", type=int, default=102, metavar="N", help="random sharded plans to trace (102)")
    chosen = parser.parse_args()
    passed = True
    for count, draw, words in ((chosen.plans, random_plan, "plans of one GPU"), (chosen.sharded, random_sharded_plan, "sharded plans")):
        if count < 1:
            continue
        print(words)
        warm = cost_of_predicting(draw)
        if draw is random_plan:
            cost_of_tracing()
        errors = errors_of(count, draw)
        mean, worst = statistics.fmean(errors), max(errors)
        print(f"predict against trace over {count} {words} of {len(SHAPES)} shapes: mean error {mean:.4%} (at most 0.5 %), worst {worst:.4%} (at most 2 %)")
        passed = passed and mean <= 0.005 and worst <= 0.02 and warm <= 1
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
