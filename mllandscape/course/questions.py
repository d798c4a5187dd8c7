"""Guess before you look, see the answer beside your guess, and multiple-choice questions."""

import html
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mllandscape import BadInput
from mllandscape.course import progress
from mllandscape.course.shown import Shown
from mllandscape.course.withheld import filled


def guess(key: str, question: str, *, unit: str = "", options: Sequence[str] | None = None, low: float | None = None, high: float | None = None) -> Shown:
    """Ask for a number in ``unit`` (from ``low`` to ``high``), or for one of ``options``, before anything is shown.

    A commit is stored at once. The first one stands; a later one is kept beside it as a revision. An impossible entry is answered in one
    line under the entry. The plain text depends on the arguments alone.
    """
    if options is not None and (len(options) < 2 or unit or low is not None or high is not None):
        raise BadInput(f"Guess {key}: give two options or more, or a unit with low and high for a number, not both.")
    if low is not None and high is not None and not low < high:
        raise BadInput(f"Guess {key}: low={low} is not below high={high}; give the range in which a guess makes sense.")
    form = "one of: " + ", ".join(options) if options else "a number" + (f" in {unit}" if unit else "")
    text = f"Guess {key}: {question} ({form}; commit before you run on)"

    import ipywidgets as widgets

    if options:
        entry = widgets.RadioButtons(options=list(options), value=None, tooltip=question, layout=widgets.Layout(width="auto"))
    else:
        entry = widgets.Text(placeholder=unit, description="Guess", tooltip=f"{question} ({form})", layout=widgets.Layout(width="16em"))
    commit = widgets.Button(description="Commit", tooltip="Store this guess; the first one counts, a later one is kept beside it")
    status = widgets.HTML()

    def say_stored() -> None:
        guesses, late, note = _guesses(key)
        status.value = status_line(f"{committed(guesses, unit, late)} {note}")

    def store(_: Any) -> None:
        try:
            value = entry.value if options else parse_number(entry.value, unit, low, high)
            if value is None:
                raise BadInput("Nothing is chosen yet; pick one option, then commit.")
            if [one.value for one in _guesses(key)[0]][-1:] != [value]:  # pressed again, nothing is revised
                progress.add("guess", key, value)
            say_stored()
        except BadInput as error:
            status.value = status_line(str(error))

    commit.on_click(store)
    say_stored()
    box = widgets.VBox([widgets.HTML(f"<b>{html.escape(question)}</b>"), entry, commit, status])
    return Shown(text, f"<p>{html.escape(text)}</p>", box, {"entry": entry, "commit": commit, "status": status})


def _guesses(key: str) -> tuple[list[progress.Entry], bool, str]:
    """The guesses of one key, whether the answer had been shown before the first of them, and a line about files that could not be read."""
    entries, note = progress.entries()
    return [one for one in entries if (one.kind, one.key) == ("guess", key)], key in progress.seen_first(entries), note


def status_line(text: str) -> str:
    """One line of a panel's answer, as HTML that a screen reader announces."""
    return f'<span role="status">{html.escape(text.strip())}</span>'


THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
"""A number with commas where they separate thousands. Elsewhere a comma may be meant as a decimal point, so it is refused and never dropped."""


def parse_number(text: str, unit: str = "", low: float | None = None, high: float | None = None) -> float:
    """The finite number that the learner typed: ``"1,300.5 GB"`` for the unit GB is 1300.5. Raises BadInput in one line."""
    limits = [f"{word} {amount(bound)}" for word, bound in (("from", low), ("up to", high)) if bound is not None]
    typed = text.strip().removesuffix(unit).strip()
    wanted = " ".join(["a number", *limits, *([f"in {unit}"] if unit else [])])
    if re.fullmatch(r"[+-]?[\d.]*,[\d.,]*", typed) and not THOUSANDS.fullmatch(typed):
        pointed = typed.replace(",", ".")
        as_typed = f"such as {pointed}" if re.fullmatch(r"[+-]?\d+\.\d+", pointed) else "such as 0.4"
        raise BadInput(f"{text!r} is no guess yet: a comma separates thousands, as in 1,300; write {wanted}, with a point for decimals, {as_typed}.")
    try:
        value = float(typed.replace(",", "") if THOUSANDS.fullmatch(typed) else typed)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high):
        return value
    raise BadInput(f"{text!r} is no guess yet; write {wanted}, then commit.")


def committed(entries: Sequence[progress.Entry], unit: str = "", late: bool = False) -> str:
    """The learner's guess and its revisions in one line; ``late`` where the answer had been shown before."""
    if not entries:
        return "No guess is committed yet."
    first, *later = entries
    revised = f", revised to {', then '.join(amount(e.value, unit) for e in later)}" if later else ""
    return f"Committed on {first.day}{', after the answer was shown' if late else ''}: {amount(first.value, unit)}{revised}."


def amount(value: float | str, unit: str = "") -> str:
    """A number with four significant digits and its unit, or an option as it is."""
    number = value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{number} {unit}".strip()


def log_error(guessed: float, answer: float, unit: str = "") -> str:
    """How far off, as a ratio with its base-2 logarithm: ``"2.0 times too low (log2 error -1.00)"``. A difference, with its unit, where one is not positive."""
    if guessed == answer:
        return "exactly right"
    if guessed <= 0 or answer <= 0:
        return f"off by {amount(abs(guessed - answer), 'percentage points' if unit == '%' else unit)}"
    error = math.log2(guessed / answer)
    ratio = 2 ** abs(error)
    far = "within 5 %" if ratio < 1.05 else f"{ratio:,.{1 if ratio < 10 else 0}f} times too {'high' if error > 0 else 'low'}"
    return f"{far} (log2 error {error:+.2f})"


def reveal(key: str, answer: float | str, unit: str = "", *, explain: str | tuple[Any, ...] = "", judged: bool = True) -> Shown:
    """Show the answer that the cells above have computed, and in the HTML the learner's guess beside it, with its error.

    The plain text is ``Answer <key>: <answer>`` with four significant digits and the explanation. Without a guess it says so and goes on.
    Beside a guess the answer is stored too, so that both can be compared later without running the lesson again. Without one it is stored that
    the answer was shown, since a guess that follows is not blind: see ``progress.seen_first``. A tuple as explanation is
    that of a student's copy: ``...`` for the words, then the values that stand between them. An answer that is not the learner's own yet is not
    ``judged``: no guess is held to it, and nothing is stored.
    """
    answer, explain = filled(reveal, key, answer=answer, explain=explain)
    if isinstance(answer, float) and not math.isfinite(answer):
        raise BadInput(f"Answer {key}: {answer} is no answer; pass a finite number in {unit or 'its unit'}, or the option's text.")
    text = f"Answer {key}: {amount(answer, unit)}.{f' {explain}' if explain else ''}"
    entries, late, note = _guesses(key)
    found = {"answer": answer if isinstance(answer, str) else float(answer), "unit": unit}
    with suppress(BadInput):  # a folder that cannot be written is said when a guess is committed
        if judged and not entries and not late:
            progress.add("seen", key, True)
        elif judged and entries and [entry.value for entry in progress.read("answer", key)[0]][-1:] != [found]:
            progress.add("answer", key, found)
    if not judged:
        beside = "Nothing of yours to compare with it yet."
    elif not entries:
        beside = "You committed no guess; the next one teaches more if you do."
    else:
        first = entries[0].value
        words = isinstance(answer, str) or isinstance(first, str)
        verdict = ("right" if first == answer else "not the answer") if words else log_error(first, answer, unit)
        beside = f"{committed(entries, unit, late)} Your first guess is {verdict}."
    shown = f"<p><b>{html.escape(amount(answer, unit))}</b> {html.escape(explain)}</p><p>{html.escape(f'{beside} {note}'.strip())}</p>"
    return Shown(text, shown)


def quiz(key: str, question: str, options: Sequence[str], answer: str, why: str) -> Shown:
    """One choice among ``options``; the panel says whether it is right and why, and every try is stored. The plain text gives nothing away."""
    answer, why = filled(quiz, key, answer=answer, why=why)
    if answer not in options or len(set(options)) != len(options) or len(options) < 2:
        raise BadInput(f"Quiz {key}: the answer {answer!r} must be one of two or more different options, which are {', '.join(options)}.")
    text = f"Quiz {key}: {question} (" + "; ".join(f"{letter}. {option}" for letter, option in zip("abcdefgh", options, strict=False)) + ")"

    import ipywidgets as widgets

    entry = widgets.RadioButtons(options=list(options), value=None, tooltip=question, layout=widgets.Layout(width="auto"))
    button = widgets.Button(description="Answer", tooltip="Check the chosen option")
    status = widgets.HTML(status_line(""))

    def judge(_: Any) -> None:
        if entry.value is None:
            line = "Nothing is chosen yet; pick one option, then answer."
        else:
            line = f"Right. {why}" if entry.value == answer else "Not this one; think again, then choose another."
            try:
                progress.add("quiz", key, {"choice": entry.value, "right": entry.value == answer})
            except BadInput as error:
                line = f"{line} {error}"
        status.value = status_line(line)

    button.on_click(judge)
    box = widgets.VBox([widgets.HTML(f"<b>{html.escape(question)}</b>"), entry, button, status])
    return Shown(text, f"<p>{html.escape(text)}</p>", box, {"entry": entry, "answer": button, "status": status})
