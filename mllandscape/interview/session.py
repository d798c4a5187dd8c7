"""Sitting the interview: a clock, room to type, and the rubric to tick after the answer. A plain call does the same without a widget."""

import html
import time
from collections.abc import Callable

from mllandscape import BadInput
from mllandscape.course import progress
from mllandscape.course.exported import Spoken
from mllandscape.course.questions import status_line
from mllandscape.course.shown import Shown
from mllandscape.interview import bank, numbers
from mllandscape.interview.bank import Interview, Question, Score

KIND = "interview"
"""The kind of a progress entry: ticks, and seconds. What was typed is never stored."""

Clock = Callable[[], float]


class Timer:
    """Starts when it is made; ``stop`` reports the seconds. For those who want no widget: ``timer = Timer()``, then ``timer.stop()``."""

    def __init__(self, clock: Clock = time.monotonic):
        self._clock, self._began = clock, clock()

    def stop(self) -> float:
        return self._clock() - self._began


def store(score: Score, said: list[int], flags: list[int]) -> str:
    """Keep the ticks in the learner's progress, on this machine. Returns "" or, where the folder cannot be written, one line."""
    try:
        progress.add(KIND, score.question.id, {"said": said, "flags": flags, "seconds": score.seconds})
    except BadInput as error:
        return str(error)
    return ""


def kept() -> list[Score]:
    """The scores on this machine, oldest first. An entry that fits no question of today's bank is left out."""
    found = []
    for entry in progress.entries()[0]:
        if entry.kind == KIND and isinstance(entry.value, dict):
            try:
                seconds = entry.value.get("seconds")
                usable = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None
                found.append(bank.score(entry.key, entry.value["said"], entry.value["flags"], usable))
            except (BadInput, KeyError, TypeError):
                continue
    return found


def counts() -> list[Spoken]:
    """The scores on this machine as an export holds them: counts alone."""
    return [Spoken(one.question.id, *(one.said[kind] for kind in bank.KINDS), len(one.flags)) for one in kept()]


def sit(interview: Interview, clock: Clock = time.monotonic) -> Shown:
    """The interview as a live form, one question at a time: start the clock, speak or type, stop, tick the rubric, next.

    The plain text is the questions alone. The clock that counts while you speak is drawn by the browser; what is reported is measured here.
    """
    import ipywidgets as widgets

    choice = widgets.Dropdown(
        options=[(f"{number}. {one.ask}", number - 1) for number, one in enumerate(interview.questions, 1)],
        description="Question", tooltip="which question to answer", layout=widgets.Layout(width="auto"),
    )  # fmt: skip
    start = widgets.Button(description="Start", tooltip="Start the clock")
    stop = widgets.Button(description="Stop", tooltip="Stop the clock and show the rubric", disabled=True)
    done = widgets.Button(description="Count", tooltip="Count the ticks and keep them on this machine", disabled=True)
    running = widgets.Play(min=0, max=3600, interval=1000, show_repeat=False, layout=widgets.Layout(display="none"))
    bar = widgets.IntProgress(min=0, max=1, description="Seconds", tooltip="seconds since the start; full when the minutes are up")
    widgets.jslink((running, "value"), (bar, "value"))
    typed = widgets.Textarea(placeholder="type here, or say it aloud; this is not stored", description="Answer", tooltip="your notes; they are not stored",
                             layout=widgets.Layout(width="auto", height="7em"))  # fmt: skip
    rubric, status, asked = widgets.VBox(), widgets.HTML(), widgets.HTML()
    state: dict[str, Timer | float | None] = {"timer": None, "seconds": None}

    def current() -> Question:
        return interview.questions[choice.value]

    def ask(_: object = None) -> None:
        one = current()
        follow_ups = "".join(f"<li>{html.escape(line)}</li>" for line in one.follow_ups)
        asked.value = f"<p><b>{html.escape(one.ask)}</b> ({one.minutes} min)</p><p>Then:</p><ul>{follow_ups}</ul>"
        running.playing, running.value, bar.max, typed.value, rubric.children = False, 0, 60 * one.minutes, "", ()
        start.disabled, stop.disabled, done.disabled = False, True, True
        status.value = status_line("")
        state.update(timer=None, seconds=None)

    def begin(_: object) -> None:
        state["timer"] = Timer(clock)
        running.value, running.playing = 0, True
        start.disabled, stop.disabled = True, False
        status.value = status_line("The clock runs.")

    def end(_: object) -> None:
        state["seconds"] = state["timer"].stop()
        running.playing = False
        one, limit = current(), 60 * current().minutes
        rubric.children = (
            widgets.HTML("<b>Tick what you said</b>"),
            *(
                widgets.Checkbox(description=f"{words} ({kind})", tooltip=words, indent=False, layout=widgets.Layout(width="auto"))
                for kind, words in one.points
            ),
            widgets.HTML("<b>Tick what you also said, and should not have</b>"),
            *(widgets.Checkbox(description=flag, tooltip=flag, indent=False, layout=widgets.Layout(width="auto")) for flag in one.flags),
            widgets.HTML(f"<p>The number to quote: {html.escape(numbers.quote(one.quote))}</p>"),
        )
        start.disabled, stop.disabled, done.disabled = False, True, False
        over = f", {state['seconds'] - limit:.0f} s over" if state["seconds"] > limit else ""
        status.value = status_line(f"{state['seconds']:.0f} s of {limit}{over}.")

    def count(_: object) -> None:
        one = current()
        ticks = [child.value for child in rubric.children if isinstance(child, widgets.Checkbox)]
        said = [place for place, ticked in enumerate(ticks[: len(one.points)]) if ticked]
        flags = [place for place, ticked in enumerate(ticks[len(one.points) :]) if ticked]
        counted = bank.score(one, said, flags, state["seconds"])
        done.disabled = True
        status.value = status_line(f"{counted} {store(counted, said, flags)}")

    for control, act in ((start, begin), (stop, end), (done, count)):
        control.on_click(act)
    choice.observe(ask, names="value")
    ask()
    text = f"{interview!r}\nStart the clock, speak or type, stop, then tick what you said. Ticks stay on this machine; what you type is not stored."
    box = widgets.VBox([choice, asked, widgets.HBox([start, stop, bar, running]), typed, rubric, done, status])
    parts = {"choice": choice, "start": start, "stop": stop, "count": done, "typed": typed, "rubric": rubric, "status": status, "asked": asked}
    return Shown(text, "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines()), box, parts)
