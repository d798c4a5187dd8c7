"""A lesson as slides that a projector can read: the question, the guesses, then each figure with what to take from it.

Everything shown was computed: figures and answers are the notebook's stored outputs, the takeaway is the first of what its prose says
below the figure. One HTML file a lesson; it scrolls without its script, which only adds the keys.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator

from mllandscape import BadInput, claims
from mllandscape.kit.html import document, markdown, plain
from mllandscape.kit.lesson import PICTURE, Guess, Lesson, Section, answer, bundles

FEWEST_WORDS, MOST_WORDS = 8, 45
"""Of a takeaway: more than a lead-in, and no more than is read while somebody speaks."""

MOST_LETTERS, MOST_ROWS = 420, 8
"""Of a table on a slide; a larger one is for the page."""


def deck(lesson: Lesson) -> str:
    """The lesson's slides as one HTML file."""
    title = f"Lesson {int(lesson.number)}: {lesson.opening.title}"
    guesses = {guess.key: guess for guess in lesson.guesses()}
    slides = [f"<h1>{html.escape(title)}</h1><blockquote>{html.escape(lesson.opening.question)}</blockquote>"]
    for section in lesson.sections:
        if section.name == "Commit":
            prose = below_heading(section)
            slides += [f'<h2>Commit</h2><div class="prose">{markdown(prose)}</div>'] if len(prose.split()) > 15 else []
            slides += [f'<h2>Commit</h2><p class="ask">{html.escape(guess.question)}</p>{form(guess)}' for guess in guesses.values()]
        elif section.name.startswith("Experiment") or section.name == "Panel":
            slides += list(found(section, guesses))
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


def form(guess: Guess) -> str:
    """How to answer: a number with its unit, or the options."""
    if guess.options:
        return f'<ul class="form">{"".join(f"<li>{html.escape(option)}</li>" for option in guess.options)}</ul>'
    return f'<p class="form">{html.escape(guess.form[:1].upper() + guess.form[1:])}</p>'


def found(section: Section, guesses: dict[str, Guess]) -> Iterator[str]:
    """A slide for each figure, small table and revealed answer of a section, in its order."""
    head = f"<h2>{html.escape(section.title or section.name)}</h2>"
    for place, cell in enumerate(section.cells):
        shown = [bundle for bundle in bundles(cell) if "text/html" in bundle]
        for bundle in shown:
            page = bundle["text/html"]
            below = take(section, place) if bundle is shown[-1] else ""
            if revealed := answer(bundle):
                key, amount, explain = revealed
                asked = guesses[key].question if key in guesses else section.title
                yield f'<h2>{html.escape(asked)}</h2><p class="number">{html.escape(amount)}</p><p class="why">{html.escape(explain)}</p>'
            elif image := PICTURE.search(page):
                yield f'{head}<div class="{shape(image[0]) if below else "below"}"><div class="figure">{image[0]}</div>{below}</div>'
            elif (
                (table := re.search(r"<table\b.*?</table>", page, re.DOTALL))
                and len(re.sub(r"<[^>]+>", "", table[0])) <= MOST_LETTERS
                and table[0].count("<tr") <= MOST_ROWS
            ):
                yield f"{head}{table[0]}{below}"


def shape(image: str) -> str:
    """A wide picture has its takeaway below, a tall one beside it."""
    sizes = dict(re.findall(r'\b(width|height)="(\d+)"', image))
    return "beside" if int(sizes.get("height", 1)) > 0.55 * int(sizes.get("width", 2)) else "below"


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
            f'<h2>The usual answer says</h2><blockquote>{html.escape(row.words)}</blockquote><p class="bad"><strong>{row.verdict}</strong></p>'
            f'<p class="why">{html.escape(first_sentences(" ".join(row.correction.split())))}</p>'
        )
    return slides


def rubric(section: Section) -> list[str]:
    """What the interviewer listens for, red flags and follow-up questions: the lists below the spoken answer."""
    page = next((bundle["text/html"] for cell in section.cells for bundle in bundles(cell) if "<ul>" in bundle.get("text/html", "")), "")
    lists = re.findall(r"<p><b>([^<]*)</b></p>(<ul>.*?</ul>)", page, re.DOTALL)
    return ['<h2>Say it</h2><p class="ask">Ninety seconds, in pairs, without reading. Then compare.</p>'] * bool(lists) + [
        f'<h2>{name}</h2><div class="ask">{items}</div>' for name, items in lists
    ]
