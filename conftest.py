"""Every test, and every kernel that a test starts, runs without a GPU, with an empty progress folder, and without the user's Jupyter settings.

It lies above both tests/ and notebooks/, so that pytest reads it for a notebook that is named by its path, too.
"""

import os
import signal
import tempfile
from pathlib import Path

from hypothesis import settings

from tests.failed_cell import pytest_runtest_makereport  # noqa: F401 - a hook that is here sees the notebooks' cells

_folder = tempfile.TemporaryDirectory(prefix="mllandscape-test-", ignore_cleanup_errors=True)
_PRIVATE = ("MLLANDSCAPE_DATA", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")

os.environ |= {name: str(Path(_folder.name) / name.lower()) for name in _PRIVATE}
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_PLATFORM_DIRS": "1"}
os.environ.pop("JUPYTER_PATH", None)

# A script's shell starts what runs in its background with SIGINT ignored, and every child would inherit that: no test could interrupt one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure.
settings.register_profile("mllandscape", deadline=None)
settings.load_profile("mllandscape")


def pytest_unconfigure():
    _folder.cleanup()
