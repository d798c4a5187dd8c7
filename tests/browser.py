"""A JupyterLab of its own on a copy of some notebooks, and a page of it in real Chromium."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
TOKEN = "a-token-for-this-test"

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Every cell in the page, also those that are scrolled out of sight.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def missing() -> str:
    """What the browser tests lack on this machine, in one line, or ""."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no browser test: playwright is not installed (pip install playwright)"
    return "" if chromium() else "no browser test: no Chromium found (Debian: apt-get install chromium)"


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Lab:
    """JupyterLab on a free port of 127.0.0.1, with configuration, data and notebooks in a folder of its own."""

    def __init__(self, notebooks: Path, folder: Path):
        self.notebooks = folder / "notebooks"
        shutil.copytree(notebooks, self.notebooks)
        for name, values in SETTINGS.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        places = {
            "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
            "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "MLLANDSCAPE_DATA": "progress",
        }  # fmt: skip
        environment = os.environ | {name: str(folder / place) for name, place in places.items()}
        environment |= {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "", "JUPYTER_NO_CONFIG": "1"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "lab.log"
        options = ["--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--allow-root")
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={self.notebooks}"]
            self._server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> "Lab":
        try:
            wait_for(self._answers, 90, "JupyterLab to answer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        """Kernels first, then the server; nothing of its process group is left."""
        try:
            if self._server.poll() is None and self._answers():
                self.shut_down_kernels()
                self._server.send_signal(signal.SIGTERM)
                self._server.wait(15)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            if self._server.poll() is None:
                self._server.kill()
            self._server.wait()

    def shut_down_kernels(self) -> None:
        for session in self.get("/api/sessions"):
            self._request(f"/api/sessions/{session['id']}", "DELETE")

    def _answers(self) -> bool:
        if self._server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {self._server.returncode}:\n{self._log.read_text(errors='replace')[-2000:]}")
        try:
            return bool(self.get("/api/status"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def _request(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self._request(path))

    def kernel(self, name: str) -> dict[str, Any]:
        """The kernel of this notebook as the server sees it, {} while it has none."""
        return next((session["kernel"] for session in self.get("/api/sessions") if session["path"] == name), {})

    def open(self, page: Any, name: str) -> None:
        """Open the notebook and wait until its kernel is idle and listens: Run All before that is silently dropped."""
        page.goto(f"{self.url}/lab/tree/{name}?token={TOKEN}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)

        def listens() -> bool:
            kernel = self.kernel(name)
            return kernel.get("execution_state") == "idle" and kernel.get("connections", 0) >= 1

        wait_for(listens, 60, f"the kernel of {name}")

    def run_all(self, page: Any, name: str, seconds: float = 240) -> None:
        """Run every cell to its end; the outputs are then in the file too. Raises with the traceback of a cell that failed."""
        # Stored counts and outputs must not be taken for those of this run.
        menu(page, "Edit", "Clear Outputs of All Cells")
        wait_for(lambda: not any(cell["execution_count"] for cell in self._saved(page, name)), 30, "the stored outputs to be cleared")
        menu(page, "Run", "Run All Cells")

        def ended() -> bool:
            """Every code cell with a source has a count, or one has failed and stopped the others."""
            cells = self._saved(page, name)
            return self.kernel(name).get("execution_state") == "idle" and (bool(_errors(cells)) or all(cell["execution_count"] for cell in cells))

        wait_for(ended, seconds, f"all cells of {name}")
        if errors := _errors(self._saved(page, name)):
            raise AssertionError(f"{name}: {errors[0]['ename']}: {errors[0]['evalue']}\n" + "\n".join(errors[0]["traceback"]))

    def _saved(self, page: Any, name: str) -> list[dict[str, Any]]:
        """The code cells with a source as the page has them now, by way of the file."""
        page.keyboard.press("Control+s")
        page.wait_for_timeout(300)
        cells: list[dict[str, Any]] = []
        while not cells:
            with suppress(ValueError):  # read in the middle of a save
                cells = json.loads((self.notebooks / name).read_text(encoding="utf-8"))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]


def _errors(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def menu(page: Any, *path: str) -> None:
    """Click through JupyterLab's menus by their words."""
    page.click(f".lm-MenuBar-itemLabel:text-is('{path[0]}')")
    for index, item in enumerate(path[1:], 1):
        label = page.locator(f".lm-Menu-itemLabel:text-is('{item}')").last
        label.hover()
        if index == len(path) - 1:
            label.click()


@contextmanager
def browser() -> Iterator[Any]:
    """Real Chromium, headless; ``new_page()`` gives a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium(), args=FLAGS.split())
        try:
            yield instance
        finally:
            instance.close()
