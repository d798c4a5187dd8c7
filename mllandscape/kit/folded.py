"""What a markdown cell folds away: hints and solutions in <details>, which may lie inside each other."""

import re
from dataclasses import dataclass

from mllandscape import BadInput

_TAG = re.compile(r"<(/?)details\b[^>]*>", re.IGNORECASE)
_SUMMARY = re.compile(r"\s*<summary\b[^>]*>(.*?)</summary\s*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A piece of a cell's source: in the open, or folded under its ``summary``."""

    text: str
    folded: bool = False
    summary: str = ""


def parts(source: str, place: str) -> list[Part]:
    """The source in pieces, in order; a fold inside a fold belongs to the outer one. Raises BadInput, naming ``place``, for a tag without its partner."""
    found, depth, start = [], 0, 0
    for tag in _TAG.finditer(source):
        if not tag[1]:
            if depth == 0:
                found.append(Part(source[start : tag.start()]))
                start = tag.end()
            depth += 1
            continue
        depth -= 1
        if depth == 0:
            body = source[start : tag.start()]
            summary = _SUMMARY.match(body)
            found.append(Part(body[summary.end() :] if summary else body, True, summary[1].strip() if summary else ""))
            start = tag.end()
        if depth < 0:
            break
    if depth:
        raise BadInput(f"{place} has a <details> without its partner; close each one that is opened.")
    return [part for part in [*found, Part(source[start:])] if part.folded or part.text.strip()]
