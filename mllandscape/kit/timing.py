"""How long what takes: the minutes of a lesson's sections, and agendas for the time that a room has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mllandscape.kit.lesson import Lesson, Section

SHARES = {"Commit": 10, "Experiment": 25, "Panel": 8, "Claim check": 3, "Exercises": 10, "Say it": 4}
"""Minutes of an hour; "Experiment" is all of them together. Scaled to the lesson's own minutes, but for the exercise: one takes ten in any lesson."""

OWN = {"10": {"Commit": 7, "Experiment 1": 7, "Experiment 2": 24, "Experiment 3": 8, "Panel": 7, "Claim check": 3, "Exercises": 15, "Say it": 4}}
"""Minutes of the lessons that are built otherwise. Lesson 10: twenty for the interview and four for the fresh questions; its first exercise takes fifteen."""

REMARKS = {"Exercises": "one exercise in the room, the others afterwards"}
"""What is said beside a section's minutes."""

SHORT = ("Commit", "Experiment", "Say it")
"""The sections of a lesson in its short form: guess, find out, say it."""

OPENING, CLOSING, BREAK, LUNCH = 10, 15, 10, 60
SITTING = 75  # after at most so many minutes, the opening counted, there is a break, at a lesson's end; with the closing it is 90
LONG = 360  # a day of so many minutes has lunch,
NOON = 195  # at the lesson's end that is nearest to so many minutes after its beginning
MOST_OPEN = 60  # an agenda that the lessons leave open for longer is not theirs


@dataclass(frozen=True)
class Slot:
    """``minutes`` of an agenda; ``lesson`` is the number of the lesson in it, "" for a break, an opening or a closing."""

    minutes: int
    what: str
    lesson: str = ""


@dataclass(frozen=True)
class Agenda:
    """Days of slots, and the names of the lessons for which there is no time."""

    name: str
    days: tuple[tuple[Slot, ...], ...]
    left_out: tuple[str, ...]


def kind(section: Section) -> str:
    return "Experiment" if section.name.startswith("Experiment") else section.name


def sections(lesson: Lesson) -> dict[str, int]:
    """Whole minutes of each section, by its name; together they are the lesson's minutes. References take none.

    Each experiment gets its part of all of them by what there is to read and to run: a code cell counts as thirty words.
    """
    if own := OWN.get(lesson.number):
        return whole({section.name: own.get(section.name, 0) for section in lesson.sections}, lesson.opening.minutes)
    weights: dict[str, float] = {}
    experiments = {section.name: _size(section) for section in lesson.sections if kind(section) == "Experiment"}
    for section in lesson.sections:
        share = SHARES.get(kind(section), 0)
        weights[section.name] = share * experiments[section.name] / sum(experiments.values()) if section.name in experiments else share
    exercise = SHARES["Exercises"] if weights.pop("Exercises", 0) else 0
    minutes = whole(weights, lesson.opening.minutes - exercise)
    return {section.name: minutes.get(section.name, exercise) for section in lesson.sections}


def _size(section: Section) -> int:
    return sum(30 if cell.cell_type == "code" else len(re.findall(r"\w+", cell.source)) for cell in section.cells)


def whole(weights: dict[str, float], total: int) -> dict[str, int]:
    """``total`` divided by weight into whole numbers that add up to it: the largest remainders are rounded up."""
    everything = sum(weights.values()) or 1
    exact = {name: total * weight / everything for name, weight in weights.items()}
    rounded = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: rounded[name] - exact[name])[: total - sum(rounded.values())]:
        rounded[name] += 1
    return rounded


def short(lesson: Lesson) -> int:
    """Minutes of the lesson's short form."""
    return sum(minutes for name, minutes in sections(lesson).items() if name.startswith(SHORT))


def agenda(name: str, lessons: Sequence[Lesson], minutes: Sequence[int], all_short: bool = False) -> Agenda:
    """Fill days of so many minutes with the lessons in their order: whole while they fit, then one in its short form where that fits, or all in it.

    Each day opens and closes, and has a break after each sitting. On several days the lessons are spread evenly.
    """
    waiting, days = list(lessons), []
    for day, length in enumerate(minutes):
        slots = [Slot(OPENING, "Opening: preflight, names, how guesses work" if day == 0 else "Opening: what was believed yesterday")]
        share = sum(lesson.opening.minutes for lesson in waiting) / (len(minutes) - day)
        now = sitting = OPENING
        given, eaten = 0, length < LONG
        while waiting and given < share:
            lesson, pause = waiting[0], []
            whole_form = 0 if all_short else lesson.opening.minutes
            if given and not eaten and abs(now - NOON) <= abs(now + BREAK + lesson.opening.minutes - NOON):
                pause, eaten = [Slot(LUNCH, "Lunch")], True
            elif given and sitting + (whole_form or short(lesson)) > SITTING:
                pause = [Slot(BREAK, "Break")]
            left = length - CLOSING - now - sum(slot.minutes for slot in pause)
            taken = whole_form if 0 < whole_form <= left else short(lesson)
            if taken > left:
                break
            form = "" if taken == lesson.opening.minutes else ", short form: commit, experiments, say it"
            slots += [*pause, Slot(taken, f"Lesson {int(lesson.number)}: {lesson.opening.title}{form}", lesson.number)]
            now = sum(slot.minutes for slot in slots)
            given, sitting = given + taken, taken if pause else sitting + taken
            waiting.pop(0)
        free = length - CLOSING - now
        if sitting + free > SITTING and free >= BREAK:
            slots, free = [*slots, Slot(BREAK, "Break")], free - BREAK
        if free >= 10:
            slots.append(Slot(free, OPEN))
        closing = length - sum(slot.minutes for slot in slots)
        days.append((*slots, Slot(closing, "Closing: who was furthest off, and why; collect the progress files")))
    return Agenda(name, tuple(days), tuple(lesson.name for lesson in waiting))


OPEN = "Open: the other exercises, a panel in pairs, questions"


def agendas(lessons: Sequence[Lesson]) -> list[Agenda]:
    """For two hours, half a day and two days: those that the lessons fill. In two hours all are in their short form where more go in so."""
    two_hours = min((agenda("Two hours", lessons, [120], all_short) for all_short in (False, True)), key=lambda one: len(one.left_out))
    every = [two_hours, agenda("Half a day", lessons, [240]), agenda("Two days", lessons, [405, 405])]
    return [one for one in every if all(slot.minutes <= MOST_OPEN for day in one.days for slot in day if slot.what == OPEN)]
