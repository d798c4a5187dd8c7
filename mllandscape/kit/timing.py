"""How long what takes: the minutes of a lesson's sections, and agendas for the time that a room has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mllandscape.kit.lesson import Lesson, Section

SHARES = {"Commit": 10, "Experiment": 25, "Panel": 8, "Claim check": 3, "Exercises": 10, "Say it": 4}
"""Minutes of an hour: one exercise in the room, the others afterwards; "Experiment" is all of them together. Scaled to the lesson's own minutes."""

SHORT = ("Commit", "Experiment", "Say it")
"""The sections of a lesson in its short form: guess, find out, say it."""

OPENING, CLOSING, BREAK, LUNCH = 10, 5, 15, 60
SITTING = 120  # after at most so many minutes of lessons there is a break, at a lesson's end
LONG = 360  # a day of so many minutes has its second break for lunch


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
    weights: dict[str, float] = {}
    experiments = {section.name: _size(section) for section in lesson.sections if kind(section) == "Experiment"}
    for section in lesson.sections:
        share = SHARES.get(kind(section), 0)
        weights[section.name] = share * experiments[section.name] / sum(experiments.values()) if section.name in experiments else share
    return whole(weights, lesson.opening.minutes)


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


def agenda(name: str, lessons: Sequence[Lesson], minutes: Sequence[int]) -> Agenda:
    """Fill days of so many minutes with the lessons in their order: whole while they fit, then one in its short form where that fits.

    Each day opens and closes, and has a break after each sitting. On several days the lessons are spread evenly.
    """
    waiting, days = list(lessons), []
    for day, length in enumerate(minutes):
        slots = [Slot(OPENING, "Opening: preflight, names, how guesses work" if day == 0 else "Opening: what was believed yesterday")]
        share = sum(lesson.opening.minutes for lesson in waiting) / (len(minutes) - day)
        given = sitting = breaks = 0
        while waiting and given < share:
            lesson, pause = waiting[0], []
            if sitting and sitting + lesson.opening.minutes > SITTING:
                pause = [Slot(LUNCH, "Lunch") if length >= LONG and breaks == 1 else Slot(BREAK, "Break")]
            left = length - CLOSING - sum(slot.minutes for slot in slots + pause)
            taken = lesson.opening.minutes if lesson.opening.minutes <= left else short(lesson)
            if taken > left:
                break
            form = "" if taken == lesson.opening.minutes else ", short form: commit, experiments, say it"
            slots += [*pause, Slot(taken, f"Lesson {int(lesson.number)}: {lesson.opening.title}{form}", lesson.number)]
            given, sitting, breaks = given + taken, taken if pause else sitting + taken, breaks + len(pause)
            waiting.pop(0)
        free = length - CLOSING - sum(slot.minutes for slot in slots)
        if length >= LONG and breaks < 2 and free >= LUNCH:
            slots, free = [*slots, Slot(LUNCH, "Lunch")], free - LUNCH
        if free >= 10:
            slots.append(Slot(free, "Open: the other exercises, a panel in pairs, questions"))
        closing = length - sum(slot.minutes for slot in slots)
        days.append((*slots, Slot(closing, "Closing: who was furthest off, and why; collect the progress files")))
    return Agenda(name, tuple(days), tuple(lesson.name for lesson in waiting))


def agendas(lessons: Sequence[Lesson]) -> list[Agenda]:
    """For two hours, half a day and two days."""
    return [agenda("Two hours", lessons, [120]), agenda("Half a day", lessons, [240]), agenda("Two days", lessons, [390, 390])]
