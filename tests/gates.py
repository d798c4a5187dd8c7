"""The notebooks' own rules. Each gate is a function from a notebook to its complaints, and is seen to fail on a notebook made bad on purpose."""

import ast
import copy
import io
import math
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mllandscape import BadInput, claims
from mllandscape.course import check, progress
from mllandscape.lessons import EXPERIMENTS

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))

SPINE = ["Commit", *(f"Experiment {number}" for number in (1, 2, 3, 4)), "Panel", "Claim check", "Exercises", "Say it", "References"]
OPTIONAL = {"Experiment 3", "Experiment 4"}
BANNED_CALLS = {"interact", "interactive", "interactive_output", "Output", "clear_output", "input"}
BANNED_MIMES = {"application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"}
IGNORED, RAISES = "nbval-ignore-output", "raises-exception"
MOST_IGNORED = 6
LONGEST_HELPER = 8
ADDRESS = re.compile(r"\b(?:https?|ftp|wss?)://|\bwww\.\w")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|Users|var|opt|usr|work|mnt|private|content|builds)/|\b[A-Za-z]:\\\\?\w")
SOLUTION = re.compile(r"```python\n# solution (\S+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Notebook:
    """A notebook by its name, such as 03_out_of_memory, with the ids of its lesson's claims."""

    name: str
    node: Any
    claims: tuple[str, ...]

    @property
    def number(self) -> str:
        """Of its lesson: "03"."""
        return self.name[:2]

    @property
    def renewed_by(self) -> str:
        return f"python3 run.py references --only {self.number} stores it anew"

    @property
    def code(self) -> list[Any]:
        return [cell for cell in self.node.cells if cell.cell_type == "code"]

    @property
    def sections(self) -> dict[str, list[Any]]:
        """The cells under each heading of the second level; those above the first are under ""."""
        parts: dict[str, list[Any]] = {"": []}
        for cell in self.node.cells:
            if name := heading(cell):
                parts[name] = []
            parts[list(parts)[-1]].append(cell)
        return parts

    def section(self, name: str) -> list[Any]:
        return self.sections.get(name, [])


def heading(cell: Any) -> str:
    """The name of the section that a cell opens, without what follows a colon, or ""."""
    first = cell.source.split("\n")[0]
    return first[3:].split(":")[0].strip() if cell.cell_type == "markdown" and first.startswith("## ") else ""


def place(cell: Any) -> str:
    return f"cell {cell.get('id', '?')} ({cell.source.strip().splitlines()[0][:60] if cell.source.strip() else 'empty'})"


def tree(cell: Any) -> ast.AST:
    """The syntax tree of a code cell; an empty one where the cell is no plain Python, which plain_python reports."""
    try:
        return ast.parse(cell.source) if cell.cell_type == "code" else ast.Module([], [])
    except SyntaxError:
        return ast.Module([], [])


def calls(cell: Any, name: str) -> list[ast.Call]:
    """The calls in a cell of a function or method with this name, in the order of the lines."""
    found = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Call) and called(node) == name]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def key_of(node: ast.Call) -> str:
    """The first argument of a call where it is a text written in the cell, else ""."""
    return node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str) else ""


def proves(cell: Any) -> bool:
    """Whether a cell asserts something or checks a claim."""
    return bool(calls(cell, "check")) or any(isinstance(node, ast.Assert) for node in ast.walk(tree(cell)))


def texts(cell: Any) -> Iterator[str]:
    """Every text that a cell's stored outputs show, without the pictures inside."""
    for output in cell.get("outputs", []):
        shown = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
        shown += [value for mime, value in output.get("data", {}).items() if mime.startswith("text/") or mime == "image/svg+xml"]
        yield from (re.sub(r"data:image/[^\"']*", "", text) for text in shown)


class Pictures(HTMLParser):
    """Collects what an HTML text shows without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.bare: list[str] = []
        self.figures = 0
        self._svg_untitled = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.figures += 1
            if not (values.get("alt") or "").strip():
                self.bare.append("an <img> without alt")
        elif tag == "svg":
            self.figures += 1
            self._svg_untitled = values.get("role") != "img" or not (values.get("aria-label") or "").strip()
        elif tag == "title":
            self._svg_untitled = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg" and self._svg_untitled:
            self.bare.append("an <svg> without title")


def described(text: str) -> Pictures:
    parser = Pictures()
    parser.feed(text)
    parser.close()
    return parser


# The gates.


def spine_is_present_and_in_order(book: Notebook) -> Iterator[str]:
    headings = [heading(cell) for cell in book.node.cells if heading(cell)]
    wanted = [name for name in SPINE if name not in OPTIONAL or name in headings]
    if headings != wanted or "Experiment 4" in headings and "Experiment 3" not in headings:
        yield f"its sections are {headings}, not {wanted}"
    for cell in book.node.cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source[1:], re.MULTILINE):
            yield f"{place(cell)} has a section heading below its first line"


def first_cell_says_what_it_is(book: Notebook) -> Iterator[str]:
    first = book.node.cells[0]
    lines = first.source.splitlines()
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is no markdown cell with a # Title"
    if (said := re.match(r"# Lesson (\d+)", first.source)) and int(said[1]) != int(book.number):
        yield f"the first cell is titled Lesson {said[1]}, the notebook's name begins with {book.number}"
    if not any(line.startswith("> ") for line in lines):
        yield "the first cell does not quote the interviewer's question (> ...)"
    if len([line for line in lines if line.startswith("- ")]) not in (3, 4):
        yield "the first cell does not list 3 or 4 objectives (- ...)"
    if not re.search(r"\*\*Minutes:\*\* \d+", first.source) or not re.search(r"\*\*Needs:\*\* \S", first.source):
        yield "the first cell does not say **Minutes:** and **Needs:**"


def first_code_cell_only_imports(book: Notebook) -> Iterator[str]:
    """The solutions of the exercises run after it alone."""
    if not book.code or not all(isinstance(node, ast.Import | ast.ImportFrom) for node in tree(book.code[0]).body):
        yield "the first code cell holds more than imports"


def execution_counts_are_1_to_n(book: Notebook) -> Iterator[str]:
    counts = [cell.execution_count for cell in book.code]
    if not counts or counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, not 1 to {len(counts)}; {book.renewed_by}"


def no_widget_state(book: Notebook) -> Iterator[str]:
    if "widgets" in book.node.metadata:
        yield "widget state is stored in the notebook's metadata"
    for cell in book.code:
        if any(BANNED_MIMES & set(output.get("data", {})) for output in cell.outputs):
            yield f"{place(cell)} stores a widget view"


def plain_python_without_banned_calls(book: Notebook) -> Iterator[str]:
    for cell in book.code:
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
            tokens = [token for token in tokenize.generate_tokens(io.StringIO(cell.source).readline) if token.string.strip() and token.type != tokenize.COMMENT]
        except (SyntaxError, tokenize.TokenError):
            yield f"{place(cell)} is no plain Python (a ! or % command?)"
            continue
        used = {called(node) for node in nodes if isinstance(node, ast.Call)}
        imported = {alias.name.split(".")[-1] for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
        if banned := (used & BANNED_CALLS) | (imported & (BANNED_CALLS | {"pyplot"})):
            yield f"{place(cell)} uses {', '.join(sorted(banned))}"
        if tokens and tokens[-1].string == ";":
            yield f"{place(cell)} ends with ;"


def no_long_helper_in_a_cell(book: Notebook) -> Iterator[str]:
    for cell in book.code:
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.end_lineno - node.lineno + 1 > LONGEST_HELPER:
                yield f"{place(cell)} defines {node.name} in {node.end_lineno - node.lineno + 1} lines; the library is its place"


def ignored_outputs_are_few_and_asserted(book: Notebook) -> Iterator[str]:
    ignored = [index for index, cell in enumerate(book.code) if IGNORED in cell.metadata.get("tags", [])]
    if len(ignored) > MOST_IGNORED:
        yield f"{len(ignored)} cells are tagged {IGNORED}; {MOST_IGNORED} are allowed"
    for index in ignored:
        if index + 1 == len(book.code) or not proves(book.code[index + 1]):
            yield f"{place(book.code[index])} is tagged {IGNORED}, and the next code cell asserts nothing"


def tags_are_known(book: Notebook) -> Iterator[str]:
    """A misspelt tag would do nothing, without a word."""
    for cell in book.node.cells:
        if strange := set(cell.metadata.get("tags", [])) - {IGNORED, RAISES}:
            yield f"{place(cell)} is tagged {', '.join(sorted(strange))}; known are {IGNORED} and {RAISES}"


def keys_are_of_this_lesson(book: Notebook) -> Iterator[str]:
    """Progress is stored under these keys, so another lesson's would be mixed up with this one's."""
    for cell in book.code:
        for verb in ("guess", "reveal", "quiz", "spoken"):
            for key in filter(None, map(key_of, calls(cell, verb))):
                if key != book.number if verb == "spoken" else not key.startswith(f"{book.number}."):
                    yield f"{place(cell)} has the key {key}; that of a {verb} here is {book.number}{'' if verb == 'spoken' else '.name'}"
    for cell in book.section("Exercises"):
        for key in filter(None, map(key_of, calls(cell, "check"))):
            if not key.startswith(f"{book.number}."):
                yield f"{place(cell)} has the key {key}; that of an exercise here is {book.number}.ex1, {book.number}.ex2, ..."


def nothing_is_skipped_or_fails_unasserted(book: Notebook) -> Iterator[str]:
    for index, cell in enumerate(book.code):
        tags = set(cell.metadata.get("tags", []))
        if tags & {"nbval-skip", "skip-execution"}:
            yield f"{place(cell)} is skipped"
        if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE_)", cell.source):
            yield f"{place(cell)} steers nbval by a comment; tags alone are counted"
        if RAISES in tags and (index + 1 == len(book.code) or not proves(book.code[index + 1])):
            yield f"{place(cell)} may raise, and the next code cell asserts nothing"


def every_claim_is_checked(book: Notebook) -> Iterator[str]:
    seen: dict[str, str] = {}
    imported = {alias.asname or alias.name.split(".")[0] for cell in book.code for node in imports(cell) for alias in node.names}
    for cell in book.code:
        for verb in ("check", "cite"):
            for call in calls(cell, verb):
                subject = call.func.value if isinstance(call.func, ast.Attribute) else None
                if not isinstance(subject, ast.Call) or called(subject) != "claim":
                    continue
                seen[key_of(subject)] = verb
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                parts = [part for value in given for part in (value.values if isinstance(value, ast.Dict) else [value])]
                if verb == "check" and not all(depends_on_a_result(part, imported) for part in parts):
                    yield f"{place(cell)} types in what the evidence for claim {key_of(subject)} is; compute each case, and put its numbers in the sentence"
    if missing := [name for name in book.claims if name not in seen]:
        yield f"claims {', '.join(missing)} are checked by no cell"
    if strange := [name or "(not written out)" for name in seen if name not in book.claims]:
        yield f"claims {', '.join(strange)} are not of this lesson"
    cited = [name for name, verb in seen.items() if verb == "cite"]
    if len(cited) > math.floor(len(book.claims) / 5):
        yield f"{len(cited)} of {len(book.claims)} claims are only cited; one in five may be"
    last = [cell for cell in book.section("Claim check") if cell.cell_type == "code"][-1:]
    if not last or [key_of(call) for call in calls(last[0], "table")] != [book.name[:2]]:
        yield f'the last cell of Claim check is not table("{book.name[:2]}")'
    elif not any(text.startswith(f"{len(book.claims)} claims: ") and "0 not checked." in text.split("\n")[0] for text in texts(last[0])):
        yield f"the stored claim table does not show every claim checked; {book.renewed_by}"


def imports(cell: Any) -> list[Any]:
    return [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Import | ast.ImportFrom)]


def depends_on_a_result(part: ast.AST, imported: set[str]) -> bool:
    """Whether an expression uses a variable of the notebook, so that it is not written out as constants."""
    names = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
    functions = {node.func.id for node in ast.walk(part) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return bool(names - functions - imported)


def every_guess_comes_before_its_reveal(book: Notebook) -> Iterator[str]:
    events = [(verb, key_of(call), cell) for cell in book.code for verb in ("guess", "reveal") for call in calls(cell, verb)]
    guessed: set[str] = set()
    revealed: set[str] = set()
    for verb, key, cell in events:
        if verb == "reveal" and key not in guessed:
            yield f"{place(cell)} reveals {key or 'an unnamed guess'} before it is guessed"
        (guessed if verb == "guess" else revealed).add(key)
    if unanswered := guessed - revealed:
        yield f"guesses {', '.join(sorted(unanswered))} are never revealed"
    if not any(calls(cell, "guess") for cell in book.section("Commit")):
        yield "nothing is guessed under ## Commit"


def the_first_cell_gives_no_answer_away(book: Notebook) -> Iterator[str]:
    """Of a guess among options, by the answers that are stored: "Answer 05.decides: tokens per GPU. More computation for each byte."

    An answer of one word, such as "runs", stands in a sentence about anything.
    """
    offered = {key_of(call) for cell in book.code for call in calls(cell, "guess") if any(keyword.arg == "options" for keyword in call.keywords)}
    read = "\n".join(line for line in book.node.cells[0].source.splitlines() if line.startswith(("# ", "> ", "- ")))
    for cell in book.code:
        for key, said in (found for text in texts(cell) for found in re.findall(r"^Answer (\S+): (.+)", text)):
            answer = said.split(". ")[0].rstrip(".")
            if key in offered and " " in answer and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", read, re.IGNORECASE):
                yield f"the first cell says {answer!r}, which is the answer to guess {key}"


def panel_is_driven_once(book: Notebook) -> Iterator[str]:
    if not any(proves(cell) for cell in book.section("Panel")):
        yield "no cell under ## Panel drives the panel and asserts what follows"


def exercises_have_hints_and_solutions(book: Notebook) -> Iterator[str]:
    cells = book.section("Exercises")
    asked = {key_of(call): cell for cell in cells for call in calls(cell, "check")}
    if len(asked) not in (2, 3):
        yield f"{len(asked)} exercises; 2 or 3 are wanted"
    folded = "\n".join(part for cell in cells if cell.cell_type == "markdown" for part in re.findall(r"<details>.*?</details>", cell.source, re.DOTALL))
    for key, cell in asked.items():
        if key not in dict(SOLUTION.findall(folded)):
            yield f"exercise {key or '(not written out)'} has no folded solution that begins with # solution {key}"
        if not any("not attempted" in text for text in texts(cell)):
            yield f"{place(cell)} gives its solution away: its stored output is not 'not attempted'"
    if folded.count("<summary>Hint") < len(asked):
        yield "an exercise has no folded hint (<details><summary>Hint...)"


def it_is_said_aloud_and_sourced(book: Notebook) -> Iterator[str]:
    if not any(calls(cell, "spoken") for cell in book.section("Say it")):
        yield "no spoken answer under ## Say it"
    if not any(re.search(r"^[-*\d]", cell.source, re.MULTILINE) for cell in book.section("References")):
        yield "## References lists nothing"


def a_figure_is_shown(book: Notebook) -> Iterator[str]:
    if not any(described(output.get("data", {}).get("text/html", "")).figures for cell in book.code for output in cell.outputs):
        yield f"{book.name} stores no figure; a lesson shows one at least, and {book.renewed_by}"


def every_picture_is_described(book: Notebook) -> Iterator[str]:
    for cell in book.node.cells:
        if cell.cell_type == "markdown":
            if re.search(r"!\[\s*\]", cell.source):
                yield f"{place(cell)} shows a picture without a description"
            yield from (f"{place(cell)} shows {bare}" for bare in described(cell.source).bare)
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            html = described(data.get("text/html", ""))
            yield from (f"{place(cell)} shows {bare}" for bare in html.bare)
            if any(mime.startswith("image/") for mime in data) and not html.figures:
                yield f"{place(cell)} stores a picture without a described <figure> in HTML"


def no_network_address_outside_the_references(book: Notebook) -> Iterator[str]:
    for name, cells in book.sections.items():
        for cell in cells:
            shown = [cell.source] if cell.cell_type == "code" or name != "References" else []
            if any(ADDRESS.search(text) for text in [*shown, *texts(cell)]):
                yield f"{place(cell)} holds a network address"


def stored_outputs_are_clean(book: Notebook) -> Iterator[str]:
    for cell in book.code:
        if any(output.output_type == "error" for output in cell.outputs) or any("Traceback (most recent call last)" in text for text in texts(cell)):
            yield f"{place(cell)} stores an error"
        if any(ABSOLUTE_PATH.search(text) for text in texts(cell)):
            yield f"{place(cell)} stores an absolute path"
        if any("Warning: " in output.text for output in cell.outputs if output.get("name") == "stderr"):
            yield f"{place(cell)} stores a warning"


GATES: list[Callable[[Notebook], Iterator[str]]] = [
    spine_is_present_and_in_order,
    first_cell_says_what_it_is,
    first_code_cell_only_imports,
    execution_counts_are_1_to_n,
    no_widget_state,
    plain_python_without_banned_calls,
    no_long_helper_in_a_cell,
    ignored_outputs_are_few_and_asserted,
    tags_are_known,
    keys_are_of_this_lesson,
    nothing_is_skipped_or_fails_unasserted,
    every_claim_is_checked,
    every_guess_comes_before_its_reveal,
    the_first_cell_gives_no_answer_away,
    panel_is_driven_once,
    exercises_have_hints_and_solutions,
    it_is_said_aloud_and_sourced,
    a_figure_is_shown,
    every_picture_is_described,
    no_network_address_outside_the_references,
    stored_outputs_are_clean,
]


# The committed notebooks.


def opened(path: Path) -> Notebook:
    return Notebook(path.stem, nbformat.read(path, as_version=4), tuple(claim.id for claim in claims.lesson(path.stem[:2])))


def test_each_notebook_has_a_lesson_module_and_a_test_file_of_its_name():
    lessons = {path.stem for path in (ROOT / "mllandscape" / "lessons").glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    found = [path.stem[3:] for path in PATHS]
    assert PATHS, "0 notebooks found; the gates have nothing to look at"
    assert sorted(found) == sorted(lessons), f"{len(PATHS)} notebooks found: {found}, but the lessons are {sorted(lessons)}"
    assert lessons <= tests, f"lessons without a test file: {sorted(lessons - tests)}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_gate(path, gate):
    faults = list(gate(opened(path)))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_notebook_has_rows_in_experiments(path):
    """By which ``mllandscape doctor`` says what runs live on a machine."""
    number = path.stem[:2]
    rows = [one.name for one in EXPERIMENTS if one.lesson == number]
    assert rows, f'{path.stem} has no row Experiment("{number}", ...) in EXPERIMENTS of mllandscape/lessons/__init__.py'


def solutions(path: Path) -> list[tuple[str, str]]:
    return [pair for cell in opened(path).section("Exercises") if cell.cell_type == "markdown" for pair in SOLUTION.findall(cell.source)]


@pytest.mark.parametrize(("path", "key", "source"), [pytest.param(path, *pair, id=pair[0]) for path in PATHS for pair in solutions(path)])
def test_the_folded_solution_is_right_and_nonsense_is_refused(path, key, source, tmp_path, monkeypatch):
    monkeypatch.setenv("MLLANDSCAPE_DATA", str(tmp_path))
    monkeypatch.chdir(path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # a learner sees a library's warning; it does not make the solution wrong
        run_solution(opened(path).code[0].source, source)
    assert len(progress.read("exercise", key)[0]) == 1
    with pytest.raises(BadInput):
        check(key, object())


def run_solution(imports: str, source: str) -> None:
    """A solution runs as the learner would run it: after the first code cell, which only imports."""
    exec(compile(f"{imports}\n{source}", "solution", "exec"), {"__name__": "__main__"})


# Each gate, seen to fail.

FIRST = """# Lesson 3: Out of memory
> You train a 13B model. What do you do?

- one
- two
- three

**Minutes:** 50 **Needs:** nothing"""
FOLDED = """<details><summary>Hint</summary>

Think.
</details>
<details><summary>Solution</summary>

```python
# solution {0}
answer = 1
check("{0}", answer)
```
</details>"""
TABLE = "5 claims: 4 checked here, 1 cited, 0 not checked.\n03.01 ..."
NAMES = tuple(f"03.0{row}" for row in range(1, 6))


def code(source: str, text: str = "", tags: list[str] | None = None, **data: str) -> Any:
    cell = new_code_cell(source, metadata={"tags": tags} if tags else {})
    if text or data:
        cell.outputs = [new_output("execute_result", data={"text/plain": text, **{name.replace("_", "/"): value for name, value in data.items()}})]
    return cell


def good() -> Notebook:
    """A notebook without fault, as small as the gates allow."""
    cells = [
        new_markdown_cell(FIRST),
        code("from mllandscape.claims import claim, table"),
        new_markdown_cell("## Commit"),
        code('guess("03.a", "How many GB?", unit="GB")', "Guess 03.a"),
        code('guess("03.b", "What decides?", options=["batch", "optimizer states"])', "Guess 03.b"),
        new_markdown_cell("## Experiment 1: bytes"),
        code('found = 2\nreveal("03.a", found, "GB")', "Answer 03.a: 2 GB.", text_html='<figure><img alt="two bars" src="data:"></figure>'),
        code('reveal("03.b", largest)', "Answer 03.b: optimizer states. They take 12 of 16 bytes."),
        new_markdown_cell("## Experiment 2: time"),
        code("duration = measured()", "0.1 s", [IGNORED]),
        code("assert duration < found"),
        new_markdown_cell("## Panel"),
        code('panel.controls["batch"].value = 2\nassert panel.text'),
        new_markdown_cell("## Claim check"),
        *(code(f'claim("{name}").check(found > 1, f"Found {{found}} GB.")') for name in NAMES[:4]),
        code('claim("03.05").cite()'),
        code('table("03")', TABLE),
        new_markdown_cell("## Exercises"),
    ]
    for key in ("03.ex1", "03.ex2"):
        cells += [code(f'answer = ...\ncheck("{key}", answer)', f"Exercise {key}: not attempted yet."), new_markdown_cell(FOLDED.format(key))]
    cells += [new_markdown_cell("## Say it"), code('spoken("03", "...", {})'), new_markdown_cell("## References\n- https://example.org")]
    book = Notebook("03_out_of_memory", new_notebook(cells=cells), NAMES)
    for number, cell in enumerate(book.code, 1):
        cell.execution_count = number
    return book


def without(start: str) -> Callable[[Notebook], None]:
    """Take the first cell away that starts so."""

    def change(book: Notebook) -> None:
        book.node.cells.remove(next(cell for cell in book.node.cells if cell.source.startswith(start)))

    return change


def replaced(old: str, new: str) -> Callable[[Notebook], None]:
    """Replace a text in the source of the first cell that holds it."""

    def change(book: Notebook) -> None:
        cell = next(cell for cell in book.node.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)

    return change


def appended(*cells: Any) -> Callable[[Notebook], None]:
    return lambda book: book.node.cells.extend(copy.deepcopy(cells))


def swapped(one: str, other: str) -> Callable[[Notebook], None]:
    """Exchange the places of two cells, each named by its start."""

    def change(book: Notebook) -> None:
        cells = book.node.cells
        first, second = (next(index for index, cell in enumerate(cells) if cell.source.startswith(start)) for start in (one, other))
        cells[first], cells[second] = cells[second], cells[first]

    return change


def set_count(book: Notebook) -> None:
    book.code[3].execution_count = 9


def set_state(book: Notebook) -> None:
    book.node.metadata["widgets"] = {}


def set_table(book: Notebook) -> None:
    next(cell for cell in book.code if cell.source.startswith("table")).outputs[0].data["text/plain"] = TABLE.replace("0 not", "1 not")


def give_away(book: Notebook) -> None:
    next(cell for cell in book.code if "03.ex1" in cell.source).outputs[0].data["text/plain"] = "Exercise 03.ex1: right."


PICTURE = new_output("display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"})
ERROR = new_output("error", ename="ValueError", evalue="x", traceback=["Traceback (most recent call last)"])
WARNING = new_output("stream", name="stderr", text="UserWarning: x\n")
BAD = [
    (spine_is_present_and_in_order, "a section is missing", without("## Panel")),
    (spine_is_present_and_in_order, "one experiment only", without("## Experiment 2")),
    (spine_is_present_and_in_order, "the wrong order", swapped("## Panel", "## Claim check")),
    (spine_is_present_and_in_order, "a section of its own", appended(new_markdown_cell("## Extra"))),
    (spine_is_present_and_in_order, "two sections in a cell", replaced("## Say it", "## Say it\n\n## Extra")),
    (first_cell_says_what_it_is, "no title", replaced("# Lesson 3: Out", "Out")),
    (first_cell_says_what_it_is, "another lesson's title", replaced("# Lesson 3", "# Lesson 12")),
    (first_cell_says_what_it_is, "no question", replaced("> You", "You")),
    (first_cell_says_what_it_is, "two objectives", replaced("- one\n", "")),
    (first_cell_says_what_it_is, "no minutes", replaced("**Minutes:** 50", "")),
    (first_cell_says_what_it_is, "no needs", replaced("**Needs:** nothing", "**Needs:**")),
    (first_code_cell_only_imports, "more than imports", replaced("import claim, table", "import claim, table\nx = 1")),
    (execution_counts_are_1_to_n, "a gap", set_count),
    (execution_counts_are_1_to_n, "not run", appended(new_code_cell("1"))),
    (no_widget_state, "state in the metadata", set_state),
    (no_widget_state, "a view in an output", appended(code("1", **{"application/vnd.jupyter.widget-view+json": "{}"}))),
    (plain_python_without_banned_calls, "a shell command", appended(code("!pip install torch"))),
    (plain_python_without_banned_calls, "a magic command", appended(code("%pip install torch"))),
    (plain_python_without_banned_calls, "interact", appended(code("interact(f, x=3)"))),
    (plain_python_without_banned_calls, "interact as a decorator", appended(code("@widgets.interact(x=3)\ndef f(x): ..."))),
    (plain_python_without_banned_calls, "Output", appended(code("with widgets.Output() as out:\n    pass"))),
    (plain_python_without_banned_calls, "clear_output", appended(code("display.clear_output(wait=True)"))),
    (plain_python_without_banned_calls, "an imported interact", appended(code("from ipywidgets import interact as i"))),
    (plain_python_without_banned_calls, "pyplot", appended(code("import matplotlib.pyplot as plt"))),
    (plain_python_without_banned_calls, "a trailing semicolon", appended(code("x = 1;  # quiet"))),
    (no_long_helper_in_a_cell, "nine lines", appended(code("def f():\n" + "    x = 1\n" * 8))),
    (no_long_helper_in_a_cell, "a class", appended(code("class A:\n" + "    x = 1\n" * 8))),
    (ignored_outputs_are_few_and_asserted, "no assertion", replaced("assert duration < found", "duration")),
    (ignored_outputs_are_few_and_asserted, "nothing follows", appended(code("1", "1", [IGNORED]))),
    (ignored_outputs_are_few_and_asserted, "seven", appended(*[code("assert 1", "1", [IGNORED])] * 6, code("assert 1"))),
    (tags_are_known, "misspelt", appended(code("1", "1", ["nbval-ignore-ouput"]))),
    (keys_are_of_this_lesson, "another lesson's guess", replaced('guess("03.a"', 'guess("04.a"')),
    (keys_are_of_this_lesson, "another lesson's reveal", replaced('reveal("03.a"', 'reveal("04.a"')),
    (keys_are_of_this_lesson, "another lesson's quiz", appended(code('quiz("04.q", "?", ["a", "b"], "a", "So.")'))),
    (keys_are_of_this_lesson, "another lesson's spoken answer", replaced('spoken("03"', 'spoken("04"')),
    (keys_are_of_this_lesson, "another lesson's exercise", replaced('check("03.ex1"', 'check("04.ex1"')),
    (nothing_is_skipped_or_fails_unasserted, "skipped", appended(code("1", "1", ["nbval-skip"]))),
    (nothing_is_skipped_or_fails_unasserted, "skipped by nbclient", appended(code("1", "1", ["skip-execution"]))),
    (nothing_is_skipped_or_fails_unasserted, "a comment to nbval", appended(code("# NBVAL_IGNORE_OUTPUT\n1"))),
    (nothing_is_skipped_or_fails_unasserted, "may raise", appended(code("f()", "", [RAISES]), code("1"))),
    (every_claim_is_checked, "one unchecked", without('claim("03.02")')),
    (every_claim_is_checked, "two cited", replaced('claim("03.02").check(found > 1, f"Found {found} GB.")', 'claim("03.02").cite()')),
    (every_claim_is_checked, "another lesson's", appended(code('claim("04.01").cite()'))),
    (every_claim_is_checked, "in a loop", appended(code("for name in names:\n    claim(name).cite()"))),
    (every_claim_is_checked, "typed in", replaced('claim("03.02").check(found > 1', 'claim("03.02").check(True')),
    (every_claim_is_checked, "typed in for a case", replaced('claim("03.02").check(found > 1', 'claim("03.02").check({"a": found > 1, "b": 1 > 2}')),
    (every_claim_is_checked, "typed in through a function", replaced('claim("03.02").check(found > 1', 'claim("03.02").check(bool(2 > 1)')),
    (every_claim_is_checked, "typed-in evidence", replaced('f"Found {found} GB."', '"Found 2 GB."')),
    (every_claim_is_checked, "no table", without("table")),
    (every_claim_is_checked, "a table with a hole", set_table),
    (every_guess_comes_before_its_reveal, "revealed first", swapped("guess(", "found = 2")),
    (every_guess_comes_before_its_reveal, "never revealed", without("found = 2")),
    (every_guess_comes_before_its_reveal, "never guessed", without("guess(")),
    (the_first_cell_gives_no_answer_away, "an objective says it", replaced("- two", "- see how optimizer states decide")),
    (the_first_cell_gives_no_answer_away, "the question says it", replaced("What do you do?", "Optimizer states?")),
    (panel_is_driven_once, "not driven", replaced("assert panel.text", "panel")),
    (exercises_have_hints_and_solutions, "one exercise", without('answer = ...\ncheck("03.ex1"')),
    (exercises_have_hints_and_solutions, "no solution", replaced("# solution 03.ex1", "# solved")),
    (exercises_have_hints_and_solutions, "an open solution", replaced("<details><summary>Solution", "<div>")),
    (exercises_have_hints_and_solutions, "no hint", replaced("Hint", "More")),
    (exercises_have_hints_and_solutions, "given away", give_away),
    (it_is_said_aloud_and_sourced, "not said", without("spoken")),
    (it_is_said_aloud_and_sourced, "no references", replaced("- https://example.org", "None.")),
    (a_figure_is_shown, "none", without("found = 2")),
    (every_picture_is_described, "a picture alone", appended(new_code_cell("1", outputs=[PICTURE]))),
    (every_picture_is_described, "an SVG alone", appended(code("1", image_svg="<svg></svg>"))),
    (every_picture_is_described, "an empty alt", appended(code("1", text_html='<figure><img alt=" " src="data:"></figure>'))),
    (every_picture_is_described, "an untitled inline SVG", appended(code("1", text_html="<svg><path/></svg>"))),
    (every_picture_is_described, "a markdown picture", appended(new_markdown_cell("![](x.png)"))),
    (every_picture_is_described, "a markdown <img>", appended(new_markdown_cell('<img src="x.png">'))),
    (no_network_address_outside_the_references, "in code", appended(code('get("https://example.org")'))),
    (no_network_address_outside_the_references, "in an output", appended(code("1", "see https://example.org"))),
    (no_network_address_outside_the_references, "in prose", replaced("Out of memory", "Out of [memory](https://example.org)")),
    (stored_outputs_are_clean, "an error", appended(new_code_cell("1", outputs=[ERROR]))),
    (stored_outputs_are_clean, "a traceback in a text", appended(code("1", "Traceback (most recent call last):"))),
    (stored_outputs_are_clean, "a path", appended(code("1", "saved in /home/me/x.json"))),
    (stored_outputs_are_clean, "a Windows path", appended(code("1", "saved in C:\\Users\\me"))),
    (stored_outputs_are_clean, "a warning", appended(new_code_cell("1", outputs=[WARNING]))),
]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_a_good_notebook_passes(gate):
    faults = list(gate(good()))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("gate", "fault", "change"), BAD, ids=[f"{gate.__name__}: {fault}" for gate, fault, _ in BAD])
def test_a_bad_notebook_is_caught(gate, fault, change):
    book = good()
    change(book)
    assert list(gate(book)), fault


def test_every_gate_is_seen_to_fail():
    assert {gate for gate, _, _ in BAD} == set(GATES)


def test_a_wrong_solution_is_caught():
    with pytest.raises(BadInput, match="not yet. Add one"):
        run_solution(
            "from mllandscape.course import check, exercise",
            'exercise("99.ex1", lambda answer: None if answer == 2 else "Add one.")\nanswer = 1\ncheck("99.ex1", answer)',
        )
