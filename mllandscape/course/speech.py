"""The 90-second spoken answer, with the numbers of this run filled in."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from string import Formatter

from mllandscape import BadInput
from mllandscape.course.shown import Shown
from mllandscape.course.withheld import filled

WORDS = range(180, 261)  # 90 seconds at 120 to 173 words a minute


def spoken(
    key: str, template: str, numbers: Mapping[str, str], *, listens_for: Sequence[str], red_flags: Sequence[str], follow_ups: Sequence[str]
) -> Shown:
    """The answer to say aloud: ``template`` with each ``{name}`` replaced from ``numbers``, which are texts with units, such as "208.3 GB".

    Below it stand what the interviewer listens for, what speaks against a candidate, and two follow-up questions. Raises BadInput for a
    missing number, for a template that names none, and for a length outside 180 to 260 words.
    """
    template, listens_for, red_flags, follow_ups = filled(
        spoken, key, template=template, listens_for=listens_for, red_flags=red_flags, follow_ups=follow_ups
    )
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise BadInput(f"Spoken answer {key}: the template cannot be read ({error}); write each number as {{name}}.") from None
    names = [name for _, name, spec, conversion in fields if not spec and not conversion]
    if not fields or len(names) < len(fields) or not set(names) <= numbers.keys():
        missing = [name for name in names if name not in numbers]
        wrong = f"the numbers {', '.join(missing)} are missing" if missing else "a number has a format of its own" if fields else "the template names no number"
        raise BadInput(f"Spoken answer {key}: {wrong}; write each as {{name}} and pass its text in numbers ({', '.join(numbers) or 'none given'}).")
    answer = " ".join(template.format_map(numbers).split())
    if len(answer.split()) not in WORDS:
        raise BadInput(f"Spoken answer {key}: {len(answer.split())} words; 90 seconds are {WORDS[0]} to {WORDS[-1]} words.")
    if not listens_for or not red_flags or len(follow_ups) != 2:
        raise BadInput(f"Spoken answer {key}: give what the interviewer listens for, red flags and exactly two follow-up questions.")
    lists = {"The interviewer listens for": listens_for, "Red flags": red_flags, "Follow-up questions": follow_ups}
    heading = f"Say it in 90 seconds ({len(answer.split())} words)"
    lines = [f"{heading}:", *textwrap.wrap(answer, 120)]
    page = f"<p><b>{heading}</b></p><blockquote>{html.escape(answer)}</blockquote>"
    for title, items in lists.items():
        lines += [f"{title}:", *(line for item in items for line in textwrap.wrap(f"- {item}", 120, subsequent_indent="  "))]
        page += f"<p><b>{title}</b></p><ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"
    return Shown("\n".join(lines), page)
