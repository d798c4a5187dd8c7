"""What a failed notebook cell says: which cell it is, its source, and what is stored beside what came out, line by line."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
FEW = 60  # lines of a difference or a traceback that are shown


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Instead of nbval's own comparison."""
    report = yield
    if report.failed and call.when == "call" and hasattr(item, "cell_num"):
        report.longrepr = explain(item, call.excinfo.value)
    return report


def explain(item: Any, error: Exception) -> str:
    """The report of an nbval item whose run raised ``error``. Of an output that is text and HTML the text is compared, and HTML only where the text agrees."""
    cells = [cell for cell in item.parent.nb.cells if cell.cell_type == "code"]
    number, place = item.cell_num + 1, item.parent.nb.cells.index(item.cell) + 1
    earlier = item.parent.__dict__.setdefault("failed_cells", [])
    lines = [f"{Path(item.path).name}, code cell {number} of {len(cells)} (cell {place} of the notebook, id {item.cell.get('id', '?')}): {error}"]
    lines += [f"Code cell {earlier[0]} failed before it; read that one first."] if earlier else []
    earlier.append(number)
    lines += ["", *(f"    {line}" for line in item.cell.source.splitlines()), ""]
    raised = [output for output in item.test_outputs or [] if output.output_type == "error"]
    if raised and "raises-exception" not in item.cell.metadata.get("tags", []):
        return "\n".join([*lines, *ESCAPES.sub("", "\n".join(raised[0]["traceback"])).splitlines()[-FEW:]])
    found = list(differences(forms(item, item.cell.outputs), forms(item, item.test_outputs or [])))
    return "\n".join([*lines, *(found or [ESCAPES.sub("", str(getattr(error, "inner_traceback", "") or ""))])])


def forms(item: Any, outputs: Iterable[Any]) -> dict[str, str]:
    """The outputs' texts by their kind (stdout, text/plain, ...), sanitized as nbval compares them, pictures left out."""
    found: dict[str, list[str]] = {}
    for output in outputs:
        shown = (
            {output.name: output.text}
            if output.output_type == "stream"
            else dict(output.get("data", {})) or {"error": f"{output.get('ename')}: {output.get('evalue')}"}
        )
        for kind, text in shown.items():
            if kind not in item.parent.skip_compare:
                found.setdefault(kind, []).append(item.sanitize(text))
    return {kind: "\n".join(text.rstrip("\n") for text in texts) for kind, texts in found.items()}


def differences(stored: dict[str, str], got: dict[str, str]) -> Iterable[str]:
    """A unified diff for each kind that differs."""
    kinds = sorted(kind for kind in stored.keys() | got.keys() if stored.get(kind) != got.get(kind))
    for kind in [kind for kind in kinds if kind != "text/html"] or kinds:
        before, after = (re.sub(r">\s*<", ">\n<", side[kind]).splitlines() if kind in side else [] for side in (stored, got))
        absent = "" if kind in stored and kind in got else f" (only {'stored' if kind in stored else 'got'})"
        changed = list(difflib.unified_diff(before, after, f"stored {kind}{absent}", f"got {kind}", lineterm="", n=2))
        yield from changed[:FEW]
        if len(changed) > FEW:
            yield f"... and {len(changed) - FEW} lines more"
