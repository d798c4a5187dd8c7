"""Which GPU code a binary carries, which GPUs and drivers run it, and what really happens when it is loaded.

``fatbin`` reads binaries, ``compatibility`` decides over published tables, ``kernels`` holds one kernel compiled in many ways, ``native`` asks
NVIDIA's own libraries and tools where they are installed. None of them needs torch.
"""
