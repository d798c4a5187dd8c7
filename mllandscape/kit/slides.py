"""A lesson as slides that can be read from the back of a room: the question, the guesses, then each figure with what to take from it.

Everything shown was computed: figures and answers are the notebook's stored outputs, the takeaway is the first of what its prose says
below the figure. One HTML file a lesson; it scrolls without its script, which only adds the keys.
"""

import html
import re
import textwrap
from collections import Counter

from mllandscape import BadInput, claims
from mllandscape.kit.html import coded, document, markdown, plain
from mllandscape.kit.lesson import PICTURE, Guess, Lesson, Section, aligned, answer, bundles

FEWEST_WORDS, MOST_WORDS = 8, 45
"""Of a takeaway: more than a lead-in, and no more than is read while somebody speaks."""

MOST_LETTERS, MOST_ROWS = 420, 8
"""Of a table on a slide; a larger one is for the page."""

MOST_LINES, MOST_COLUMNS, PROSE_COLUMNS = 14, 94, 60
"""Of a printed text on a slide, so that its letters are as large as those of a figure. What is not in columns is broken into shorter lines."""

FLAT, TALL = 0.35, 0.6
"""A picture's height over its width: up to the first it fills the width with its text below; beyond the second its width alone fills the slide,
and it is shown in two halves that overlap."""

QUESTION = re.compile(r">0?(\d+)\.[a-z_]\w*<")
"""A cell of a table that is a question of the interview by its key, 03.eightbit."""

MADE_UP = "made-up learner"
"""What a notebook calls the learner whose answers it shows where the reader has none. They are not the audience's."""


def deck(lesson: Lesson) -> str:
    """The lesson's slides as one HTML file."""
    title = f"Lesson {int(lesson.number)}: {lesson.opening.title}"
    guesses = {guess.key: guess for guess in lesson.guesses()}
    slides = [f"<h1>{html.escape(title)}</h1><blockquote>{coded(lesson.opening.question)}</blockquote>"]
    for section in lesson.sections:
        if section.name == "Commit":
            prose = below_heading(section)
            slides += [f'<h2>Commit</h2><div class="prose">{markdown(prose)}</div>'] if len(prose.split()) > 15 else []
            slides += [f"<h2>Commit</h2>{ask(guess)}" for guess in guesses.values()]
        elif section.name.startswith("Experiment") or section.name == "Panel":
            slides += found(section, guesses)
        elif section.name == "Claim check":
            slides += verdicts(lesson)
        elif section.name == "Say it":
            slides += rubric(section)
    shown = [
        f'<section id="s{place}" data-place="{lesson.number} · {place} / {len(slides)}" aria-label="Slide {place} of {len(slides)}">{slide}</section>'
        for place, slide in enumerate(slides, 1)
    ]
    return document(title, "\n".join(["<main>", *shown, "</main>"]), "slides.css", "slides.js")


def below_heading(section: Section) -> str:
    """The prose that opens a section."""
    return section.cells[0].source.partition("\n")[2].strip()


def ask(guess: Guess) -> str:
    """The question and how to answer: a number with its unit, or the options."""
    question = f'<p class="ask">{coded(guess.question)}</p>'
    if guess.options:
        return f'{question}<ul class="form">{"".join(f"<li>{coded(option)}</li>" for option in guess.options)}</ul>'
    return f'{question}<p class="form">{html.escape(guess.form[:1].upper() + guess.form[1:])}</p>'


def found(section: Section, guesses: dict[str, Guess]) -> list[str]:
    """The slides of a section, in its order: each figure, small table and revealed answer. Where there are answers alone, its first short print too.

    A question is asked again before the first of them that could show its answer.
    """
    head = f"<h2>{html.escape(section.title or section.name)}</h2>"
    slides: list[tuple[str, str]] = []  # the key of a revealed answer, or "", and the slide
    for place, cell in enumerate(section.cells):
        shown = [bundle for bundle in bundles(cell) if "text/html" in bundle]
        for bundle in shown:
            if revealed := answer(bundle):
                slides.append((revealed[0], answered(*revealed, guesses, head)))
            else:
                below = take(section, place) if bundle is shown[-1] else ""
                slides += [("", slide) for slide in exhibit(bundle["text/html"], head, below, first=section.name == "Panel")]
    if all(key for key, _ in slides):
        slides = [("", slide) for slide in printed(section, head)] + slides
    first = next((place for place, (key, _) in enumerate(slides) if not key), len(slides))
    again = [f"<h2>Your guess, again</h2>{ask(guesses[key])}" for key, _ in slides[first:] if key in guesses]
    return [*(slide for _, slide in slides[:first]), *again, *(slide for _, slide in slides[first:])]


def answered(key: str, amount: str, explain: str, guesses: dict[str, Guess], head: str) -> str:
    """The slide of a revealed answer. One about a made-up learner is about the room here, so it has no number."""
    if MADE_UP in explain:
        amount, explain = "Yours: run the cell", ""
    asked = f"<h2>{coded(guesses[key].question)}</h2>" if key in guesses else head
    return f'{asked}<p class="number">{coded(amount)}</p><p class="why">{coded(explain)}</p>'


def exhibit(page: str, head: str, below: str, first: bool) -> list[str]:
    """The slides of a stored figure or small table with the text that belongs to it, which stands before a picture of its own if ``first``."""
    if image := PICTURE.search(page):
        sizes = dict(re.findall(r'\b(width|height)="(\d+)"', image[0]))
        share = int(sizes.get("height", 1)) / int(sizes.get("width", 2))
        if share <= FLAT:
            return [f'{head}<div class="below"><div class="figure">{image[0]}</div>{below}</div>']
        halves = ("upper", "lower") if share > TALL else ("whole",)
        pictures = [f'<div class="figure alone {half}">{image[0]}</div>' for half in halves]
        text = [f"{head}{below}"] if below else []
        return [*text, *pictures] if first else [*pictures, *text]
    table = re.search(r"<table\b.*?</table>", page, re.DOTALL)
    if table and len(re.sub(r"<[^>]+>", "", table[0])) <= MOST_LETTERS and table[0].count("<tr") <= MOST_ROWS:
        shown = QUESTION.sub(r">lesson \1<", table[0])
        return [f"{head}{shown}{below}"]
    return []


def printed(section: Section, head: str) -> list[str]:
    """A slide with the first text of several lines that fits on one, of a section that has nothing else to show."""
    for place, cell in enumerate(section.cells):
        for bundle in bundles(cell):
            lines = bundle.get("text/plain", "").strip("\n").split("\n")
            columns = MOST_COLUMNS if aligned("\n".join(lines)) else PROSE_COLUMNS
            wrapped = [part for line in lines for part in textwrap.wrap(line, columns, drop_whitespace=False) or [""]]
            torn = columns == MOST_COLUMNS and len(wrapped) > len(lines)
            if len(lines) > 1 and len(wrapped) <= MOST_LINES and not torn and not answer(bundle) and "<figure" not in bundle.get("text/html", ""):
                size = min(1.2, 70 / max(map(len, wrapped)), 10 / len(wrapped))  # what fills the slide's 43 x 15 rem
                text = html.escape("\n".join(lines))
                return [f'{head}<pre class="print" style="font-size: {size:.2f}rem">{text}</pre>{take(section, place)}']
    return []


def take(section: Section, place: int) -> str:
    """What the prose below the figure of a cell says first. Nothing where another figure comes before it, or where it goes on to something else.

    A panel has no prose below; what to look for is said above it.
    """
    if section.name == "Panel":
        return _line(" ".join(re.findall(r"[^\n]+", below_heading(section))))
    for cell in section.cells[place + 1 :]:
        if cell.cell_type == "markdown":
            first, *others = cell.source.split("\n\n")
            if re.match(r"\*\*|[#|<`]|[^.]*\?", first):
                return ""
            listed = re.findall(r"^[-*] (.+(?:\n  .+)*)", "\n".join([first, *others[:1]]), re.MULTILINE)
            return _line(" ".join(listed) if listed and len(plain(first.split("\n- ")[0]).split()) < 12 else first)
        if any("<figure" in bundle.get("text/html", "") for bundle in bundles(cell)):
            return ""
    return ""


def _line(source: str) -> str:
    text = first_sentences(plain(source))
    return f'<p class="take">{html.escape(text)}</p>' if len(text.split()) >= FEWEST_WORDS else ""


def first_sentences(text: str, most: int = MOST_WORDS) -> str:
    """Whole sentences from the start, at most ``most`` words or one sentence. One that leads up to a list or opens a parenthesis is left out."""
    kept: list[str] = []
    for sentence in re.findall(r".+?[.!?](?=\s+[A-Z`\"(]|\s*$)|.+$", text):
        if sentence.rstrip().endswith(":") or sentence.count("(") > sentence.count(")") or kept and len(" ".join([*kept, sentence]).split()) > most:
            break
        kept.append(sentence.strip())
    return " ".join(kept)


def verdicts(lesson: Lesson) -> list[str]:
    """How many of the usual answer's sentences hold, and the first that are wrong, each with what is so."""
    try:
        rows = claims.lesson(lesson.number)
    except BadInput:
        return []
    counted = Counter(row.verdict for row in rows)
    listed = "".join(f"<dt>{counted[name]}</dt><dd>{name}: {claims.VERDICTS[name][1]}</dd>" for name in claims.VERDICTS if counted[name])
    slides = [f'<h2>The usual answer, {len(rows)} sentences checked</h2><dl class="verdicts">{listed}</dl>']
    for row in [row for row in rows if row.verdict == "wrong"][:3]:
        slides.append(
            f'<h2>The usual answer says</h2><blockquote>{coded(row.words)}</blockquote><p class="bad"><strong>{row.verdict}</strong></p>'
            f'<p class="why">{coded(first_sentences(" ".join(row.correction.split())))}</p>'
        )
    return slides


def rubric(section: Section) -> list[str]:
    """What the interviewer listens for, red flags and follow-up questions: the lists below the spoken answer."""
    page = next((bundle["text/html"] for cell in section.cells for bundle in bundles(cell) if "<ul>" in bundle.get("text/html", "")), "")
    lists = re.findall(r"<p><b>([^<]*)</b></p>(<ul>.*?</ul>)", page, re.DOTALL)
    return ['<h2>Say it</h2><p class="ask">Ninety seconds, in pairs, without reading. Then compare.</p>'] * bool(lists) + [
        f'<h2>{name}</h2><div class="ask">{items}</div>' for name, items in lists
    ]
