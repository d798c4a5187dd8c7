"""Training memory, predicted, traced and measured: what goes in is a ModelShape and a TrainingPlan, what comes out a MemoryProfile or a Measured.

Nothing here imports torch until ``trace`` or ``trace_step`` is asked for; ``measure`` leaves it to a child process.
"""

import sys
from importlib import import_module
from types import ModuleType

_HOME = {
    "ModelShape": "shape",
    "TrainingPlan": "plan",
    "MemoryProfile": "profile",
    "predict": "predict",
    "trace": "trace",
    "trace_step": "trace",
    "measure": "measure",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


class _Package(ModuleType):
    """Importing a submodule binds its name here; ``predict``, ``trace`` and ``measure`` stay the functions, whichever import came first."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("predict", "trace", "measure") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
