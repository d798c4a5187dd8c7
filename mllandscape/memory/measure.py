"""The same training step on a real CUDA GPU, under a byte budget."""

import torch

from mllandscape.memory import reference
from mllandscape.memory.plan import TrainingPlan
from mllandscape.memory.shape import ModelShape


def run_on_gpu(shape: ModelShape, plan: TrainingPlan, budget: int, steps: int = 2) -> tuple[int, list[float]]:
    """(peak allocated bytes of the last step, every step's loss) with this process capped to ``budget`` bytes on GPU 0.

    The allocator's own peak, so workspaces are in it. Over the budget torch.OutOfMemoryError is raised. The cap stays with
    the process: call this in a child.
    """
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / torch.cuda.get_device_properties(0).total_memory))
    model = reference.make_model(shape, plan, "cuda")
    reference.initialise(model)
    inputs = reference.make_inputs(shape, plan, "cuda", seed=1)
    optimizers = reference.make_optimizers(model, plan)
    losses = []
    for _ in range(steps):
        torch.cuda.reset_peak_memory_stats()
        losses.append(reference.train_step(model, optimizers, inputs, plan))
    return torch.cuda.max_memory_allocated(), losses
