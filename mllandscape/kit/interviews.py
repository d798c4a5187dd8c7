"""What the interviewer holds in lesson 10: the rubric of each seed's interview, on paper, since on the screen it appears to the candidate after the answer."""

import html
from collections.abc import Iterable

from mllandscape.interview import bank, numbers
from mllandscape.interview.calibration import TOPICS
from mllandscape.kit.html import document

SEEDS = range(1, 22)
"""One for each of twenty seats, and 10, which the notebook draws, so that everyone has seen its questions."""


def page(seeds: Iterable[int] = SEEDS, minutes: int = 20) -> str:
    """The interviews of these seeds, each beginning a sheet: questions, points and red flags to tick, and the number to quote as it is here and now."""
    body = ["<h1>Interviews, for the interviewer</h1>"]
    body += [
        "<p>One sheet for each seat. The candidate writes the number of the seat into the cell of experiment 2, "
        "<code>interview = bank.draw(seed=7, minutes=20)</code>, and runs it; the interviewer asks from the sheet of that number, holds the clock and ticks. "
        "What, why and number are separate ticks, and so is a red flag. Afterwards the candidate puts the ticks into the form, so that they are kept.</p>"
    ]
    body += [_interview(bank.draw(seed, minutes)) for seed in seeds]
    return document("mllandscape: interviews", f'<div class="page"><main>{"".join(body)}</main></div>')


SHEET = "break-before: page; font-size: .8rem; line-height: 1.35"  # six questions on the two sides of one sheet of paper
CLOSE = 'style="margin: .2rem 0"'


def _interview(interview: bank.Interview) -> str:
    head = f"<h2>Interview {interview.seed}: {len(interview.questions)} questions, {interview.minutes} minutes</h2>"
    return f'<section style="{SHEET}">{head}{"".join(_question(number, one) for number, one in enumerate(interview.questions, 1))}</section>'


def _question(number: int, one: bank.Question) -> str:
    ticks = [f"{kind}: {words}" for kind, words in one.points] + [f"red flag: {flag}" for flag in one.flags]
    listed = "".join(f"<li>☐ {html.escape(tick)}</li>" for tick in ticks)
    topic, then = html.escape(TOPICS[one.topic]), html.escape(" ".join(one.follow_ups))
    return (
        f'<div style="break-inside: avoid; margin: .8rem 0"><h3 {CLOSE}>{number}. {html.escape(one.ask)}</h3>'
        f"<p {CLOSE}>{topic}, {one.minutes} minutes. Then: {then}</p>"
        f'<ul style="list-style: none; margin: .2rem 0; padding-left: 1rem">{listed}</ul>'
        f"<p {CLOSE}>The number: {html.escape(numbers.quote(one.quote))}</p></div>"
    )
