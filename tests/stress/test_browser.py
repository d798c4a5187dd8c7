"""Every notebook run from the first cell to the last in JupyterLab, in real Chromium, and its panel moved there."""

import pytest

from tests.browser import Lab, missing
from tests.test_browser import NOTEBOOKS, PANELS, chromium, screenshots  # noqa: F401  (fixtures)
from tests.test_browser import test_the_panel_answers_to_mouse_and_keyboard_in_jupyterlab as drive


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    with Lab(NOTEBOOKS, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.mark.parametrize("name", PANELS)
def test_the_whole_notebook_runs_in_the_browser(lab, chromium, screenshots, name):  # noqa: F811
    drive(lab, chromium, screenshots, name)
