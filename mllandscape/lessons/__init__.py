"""The ten lessons, one module each, and what every experiment of theirs needs to run live."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Experiment:
    """An experiment of a lesson. It runs live where ``mllandscape.cli.status`` finds every one of ``needs``.

    ``instead`` names one need that can be missing and what the experiment then does, still live. ``recording`` is the
    name under ``mllandscape/recordings`` of the run that is shown where it cannot run live.
    """

    lesson: str
    name: str
    needs: tuple[str, ...] = ()
    instead: tuple[str, str] | None = None
    recording: str | None = None


EXPERIMENTS = (
    Experiment("01", "conflicts, separate commands, locks, resolver effort", needs=("tools",), recording="pip_vs_poetry"),
    Experiment("01", "what no lock fixes", needs=("torch",)),
    Experiment("02", "graphs counted, breaks, guards", needs=("torch",)),
    Experiment("02", "eager against compiled, roofline, kernels, cache", needs=("torch", "cxx"), recording="torch_compile_timings"),
    Experiment("02", "the same on a GPU", needs=("torch", "cuda"), recording="torch_compile_gpu"),
    Experiment("03", "bytes by arithmetic"),
    Experiment("03", "trace of a 13B step", needs=("torch",)),
    Experiment("03", "real out-of-memory under a byte budget", needs=("torch", "rlimit_data"), instead=("rlimit_data", "under the tracker's own budget")),
    Experiment("03", "out of memory on a GPU", needs=("torch", "cuda"), recording="out_of_memory_gpu"),
    Experiment("03", "8-bit AdamW", needs=("torch", "bitsandbytes")),
    Experiment("03", "find_executable_batch_size and accumulate", needs=("torch", "accelerate")),
    Experiment("03", "predictions against a GPU's allocator", needs=("torch", "cuda"), recording="memory_grid_125m"),
    Experiment("04", "bytes and calls of a rank by arithmetic"),
    Experiment("04", "two and four real ranks over gloo", needs=("torch",)),
    Experiment("04", "trace of one rank of 8", needs=("torch",)),
    Experiment("04", "one rank on one GPU", needs=("torch", "cuda"), recording="ddp_vs_fsdp_gpu"),
    Experiment("05", "a step in time, by arithmetic"),
    Experiment("05", "ranks that crash, hang or disagree", needs=("torch",)),
    Experiment("05", "checkpoints on another number of ranks", needs=("torch",)),
    Experiment("05", "8-bit AdamW on shards", needs=("torch", "bitsandbytes")),
    Experiment("06", "drop, detectors, culprit and panel", needs=("torch",)),
    Experiment("06", "two environments in two processes", needs=("torch",)),
    Experiment("06", "git bisect on 64 commits", needs=("torch", "git"), recording="accuracy_drop_bisect"),
    Experiment("06", "threads, instruction sets, determinism", needs=("torch",)),
    Experiment("07", "names of transformers by version, and the panel, by arithmetic"),
    Experiment("07", "story, bisection, remedies and ways out with real pip, Poetry and uv", needs=("tools",), recording="dependency_hell"),
    Experiment("08", "headers and rules, by arithmetic"),
    Experiment("08", "failures provoked, torch's own check, int8 on the CPU", needs=("torch",)),
    Experiment("08", "error 35 from real CUDA runtimes", needs=("torch", "runtimes"), recording="cuda_mismatch_failures"),
    Experiment("08", "ptxas refusing a newer PTX", needs=("torch", "ptxas"), recording="cuda_mismatch_failures"),
    Experiment("08", "NVRTC refusing an older GPU", needs=("torch", "nvrtc"), recording="cuda_mismatch_failures"),
    Experiment("08", "errors 209 and 222 and the JIT on a GPU", needs=("torch", "cuda"), recording="cuda_mismatch_gpu"),
    Experiment("09", "the usual snippet, and MLflow today", needs=("torch", "git")),
    Experiment("09", "20 runs recorded, lost and brought back", needs=("torch", "git")),
    Experiment("09", "what Weights & Biases and DVC keep", needs=("wandb", "dvc"), recording="model_versioning_tools"),
    Experiment("10", "guesses against answers, fresh questions, costs of each choice, by arithmetic"),
    Experiment("10", "an incident solved from evidence", needs=("torch",)),
)
