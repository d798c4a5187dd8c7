"""One committed notebook as a lesson: what its first cell says, its sections, and what its stored outputs show."""

import ast
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mllandscape.course import guess, notebooks, withheld

SOLUTION = re.compile(r"```python\n(# solution \S+\n.*?)```\n?", re.DOTALL)
PICTURE = re.compile(r"<img\b[^>]*>|<svg\b.*?</svg>", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """The cells from one heading of the second level to the next; ``name`` is "Experiment 2", ``title`` what follows its colon."""

    name: str
    title: str
    cells: tuple[Any, ...]


@dataclass(frozen=True)
class Guess:
    """A question of the section Commit, as the notebook asks it; ``form`` is "a number in GB" or "one of: 8, 4, 2", ``options`` the same, apart."""

    key: str
    question: str
    form: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Lesson:
    """``name`` is 03_out_of_memory; ``book`` is the notebook as nbformat reads it."""

    name: str
    book: Any

    @property
    def number(self) -> str:
        return self.name[:2]

    @cached_property
    def opening(self) -> notebooks.Opening:
        return notebooks.opening(self.book.cells[0].source)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """In order, without the cells above the first heading."""
        parts: list[tuple[str, list[Any]]] = []
        for cell in self.book.cells:
            if cell.cell_type == "markdown" and cell.source.startswith("## "):
                parts.append((cell.source.split("\n")[0][3:].strip(), []))
            if parts:
                parts[-1][1].append(cell)
        heads = [(head.partition(":"), cells) for head, cells in parts]
        return tuple(Section(name.strip(), title.strip(), tuple(cells)) for (name, _, title), cells in heads)

    def guesses(self) -> list[Guess]:
        """Its guesses, in order, as their stored outputs say them."""
        found = []
        for cell in self.book.cells:
            for text in texts(cell):
                if match := re.fullmatch(r"Guess (\S+): (.*) \((.*); commit before you run on\)", text):
                    found.append(Guess(*match.groups(), _options(cell.source, match[1])))
        return found


def _options(source: str, key: str) -> tuple[str, ...]:
    """The options of a guess where its cell writes them out, in the call or in a list that the call names."""
    assigned = {node.targets[0].id: node.value for node in ast.parse(source).body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    for call in withheld.calls(source, ("guess",)):
        arguments = withheld.named(call, guess)
        options = arguments.get("options")
        options = assigned.get(options.id) if isinstance(options, ast.Name) else options
        if options is not None and withheld.written(arguments["key"]) == key:
            return tuple(withheld.written(options) or ())
    return ()


def lessons(only: Sequence[str] = ()) -> list[Lesson]:
    """The committed notebooks, or those with these numbers, "03" or "3". Raises BadInput for a number that none has."""
    import nbformat

    chosen = dict.fromkeys(path for number in only for path in notebooks.sources(f"{number:0>2}_")) if only else notebooks.sources()
    return [Lesson(Path(path).stem, nbformat.read(path, as_version=4)) for path in chosen]


def bundles(cell: Any) -> Iterator[dict[str, str]]:
    """The stored outputs of a cell, each by its media types; a stream is a text."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield {"text/plain": output.text}
        else:
            yield dict(output.get("data", {}))


def texts(cell: Any) -> Iterator[str]:
    yield from (bundle["text/plain"] for bundle in bundles(cell) if "text/plain" in bundle)


def aligned(text: str) -> bool:
    """Whether a printed text is in columns: two of its lines or more have three of them. A name and a sentence can be read wrapped, too."""
    return sum(len(re.split(r" {2,}", line.strip())) > 2 for line in text.split("\n")) > 1


def answer(bundle: dict[str, str]) -> tuple[str, str, str] | None:
    """Key, answer and explanation of an output of ``reveal``, or None for another output."""
    key = re.match(r"Answer (\S+): ", bundle.get("text/plain", ""))
    shown = re.match(r"<p><b>(.*?)</b> (.*?)</p>", bundle.get("text/html", ""), re.DOTALL)
    return (key[1], html.unescape(shown[1]), html.unescape(shown[2])) if key and shown else None
