"""The claim ledger: each checkable sentence of the source text, its verdict, and the evidence found in this run.

``claims.toml`` holds the sentences and the verdicts; a notebook's cells compute the evidence. ``claim("03.02").check(holds, evidence)``
compares the two and raises where they disagree, so a verdict cannot outlive the experiment that supports it.
"""

import html
import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mllandscape import BadInput

# For each verdict: what the cases shown must have come out as, together, and what that means.
VERDICTS: dict[str, tuple[set[bool], str]] = {
    "true": ({True}, "holds in every case shown"),
    "outdated": ({False}, "held at an earlier version and holds in no case shown now"),
    "misleading": ({True, False}, "holds in one case and fails in another: right only under a condition that it leaves out"),
    "wrong": ({False}, "holds in no case shown"),
    "omission": ({True}, "is not said by the source, and holds in every case shown"),
}
UNCHECKED = "not checked in this kernel"
_FIELDS = {"id", "source_row", "quote", "omission", "verdict", "correction", "source", "cited"}


@dataclass(frozen=True)
class Claim:
    """One sentence of the source (``quote``, at most twelve words), or one that it leaves out (``omission``)."""

    id: str
    source_row: str
    verdict: str
    correction: str
    source: str
    quote: str = ""
    omission: str = ""
    cited: str = ""

    @property
    def words(self) -> str:
        return f'"{self.quote}"' if self.quote else f"(left out) {self.omission}"

    def check(self, holds: bool | Mapping[str, bool], evidence: str) -> "Finding":
        """Compare the verdict with evidence that the cells above have computed, record it for ``table`` and return it.

        ``holds`` says whether the sentence (the quote, or the omitted one) is so here: one bool, or one bool for each named case.
        A misleading sentence needs two cases at least, one where it holds and one where it does not. ``evidence`` is one sentence with
        its numbers and units. Raises BadInput, in one line, when verdict and evidence disagree.
        """
        cases = dict(holds) if isinstance(holds, Mapping) else {"": holds}
        if not cases or not all(isinstance(value, bool) for value in cases.values()):
            raise BadInput(f"Claim {self.id}: holds={holds!r} decides nothing; give a bool, or a bool for each named case.")
        evidence = " ".join(evidence.split())
        if not evidence:
            raise BadInput(f"Claim {self.id}: the evidence is empty; say in one sentence, with its numbers, what the cells above found.")
        expected, meaning = VERDICTS[self.verdict]
        named = {verb: [name for name, value in cases.items() if name and value == want] for verb, want in (("holds for", True), ("fails for", False))}
        found = "; ".join(f"{verb} {', '.join(names)}" for verb, names in named.items() if names) or ("holds" if holds else "fails")
        if set(cases.values()) != expected:
            _findings.pop(self.id, None)
            raise BadInput(
                f"Claim {self.id} {self.words} has the verdict {self.verdict} (it {meaning}), but here it {found}: {evidence} "
                f"Look at the experiment first, then at the verdict in claims.toml."
            )
        return _record(Finding(self, f"Here it {found}. {evidence}"))

    def cite(self) -> "Finding":
        """Record a dated citation, for a claim that cannot be run here. Raises BadInput where claims.toml holds none."""
        if not self.cited:
            raise BadInput(f"Claim {self.id} has no citation in claims.toml; run its experiment and use check, or add a dated one in `cited`.")
        return _record(Finding(self, f"Not re-run here: {self.cited}.", cited=True))


@dataclass(frozen=True)
class Finding:
    """What this run found about one claim, in one sentence."""

    claim: Claim
    text: str
    cited: bool = False

    def __repr__(self) -> str:
        return f"Claim {self.claim.id} {self.claim.words}: {self.claim.verdict}. {self.text}"


_findings: dict[str, Finding] = {}  # of this kernel: the table at a lesson's end shows what its cells found


def _record(finding: Finding) -> Finding:
    _findings[finding.claim.id] = finding
    return finding


def parse(text: str) -> dict[str, Claim]:
    """The ledger of a TOML text, by id. Raises BadInput that names the first row which breaks a rule of the ledger."""
    ledger: dict[str, Claim] = {}
    try:
        rows: list[dict[str, Any]] = tomllib.loads(text)["claim"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise BadInput(f"The claim ledger cannot be read ({error!r}); it is TOML with one [[claim]] table for each sentence.") from None
    for row in rows:
        name = row.get("id", "without id")
        if (unknown := row.keys() - _FIELDS) or (missing := {"id", "source_row", "verdict", "correction", "source"} - row.keys()):
            wrong = f"has unknown fields {sorted(unknown)}" if unknown else f"lacks {sorted(missing)}"
        elif not all(isinstance(value, str) for value in row.values()):
            wrong = "has a field that is no text"
        elif not re.fullmatch(r"\d\d\.\d\d", name) or name in ledger:
            wrong = "has an id that is not lesson.row, such as 03.02, or that is there twice"
        elif row["verdict"] not in VERDICTS:
            wrong = f"has the verdict {row['verdict']!r}, which is none of {', '.join(VERDICTS)}"
        elif bool(row.get("quote")) == bool(row.get("omission")) or (row["verdict"] == "omission") != bool(row.get("omission")):
            wrong = "needs a quote, or an omission with the verdict omission, not both"
        elif len(row.get("quote", "").split()) > 12:
            wrong = "quotes more than twelve words"
        elif row.get("cited") and not re.search(r"read \d{4}-\d\d$", row["cited"]):
            wrong = "has a citation without its date; end it with 'read 2026-11'"
        else:
            ledger[name] = Claim(**row)
            continue
        raise BadInput(f"Claim {name} {wrong}; mend its row in claims.toml.")
    return ledger


@cache
def ledger() -> dict[str, Claim]:
    """Every claim of claims.toml by its id."""
    return parse(resources.files("mllandscape").joinpath("claims.toml").read_text(encoding="utf-8"))


def claim(name: str) -> Claim:
    """The claim with this id, such as ``"03.02"``."""
    if name not in ledger():
        raise BadInput(f"There is no claim {name!r}; an id is lesson.row, from {min(ledger())} to {max(ledger())}.")
    return ledger()[name]


def lesson(number: str) -> list[Claim]:
    """Every claim of a lesson, in order. ``number`` has two digits: ``"03"``."""
    if not (rows := [c for c in ledger().values() if c.id.split(".")[0] == number]):
        raise BadInput(f"Lesson {number!r} has no claims; lessons with claims are {', '.join(sorted({i.split('.')[0] for i in ledger()}))}.")
    return sorted(rows, key=lambda c: c.id)


@dataclass(frozen=True)
class Table:
    """A lesson's claims with verdict, what this run found, and the correction. Its text and its HTML hold the same words."""

    rows: tuple[tuple[Claim, Finding | None], ...]

    @property
    def unchecked(self) -> list[str]:
        return [c.id for c, finding in self.rows if finding is None]

    def __repr__(self) -> str:
        cited = sum(finding is not None and finding.cited for _, finding in self.rows)
        lines = [f"{len(self.rows)} claims: {len(self.rows) - cited - len(self.unchecked)} checked here, {cited} cited, {len(self.unchecked)} not checked."]
        for c, finding in self.rows:
            found = f"{c.verdict}. {finding.text}" if finding else UNCHECKED
            for first, text in ((f"{c.id}  ", c.words), ("       ", found), ("       ", f"Correct: {c.correction} [{c.source}]")):
                lines += textwrap.wrap(text, 120, initial_indent=first, subsequent_indent="       ", break_long_words=False)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        names = ("Claim", "The source says", "Verdict", "Found in this run", "Correct")
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in names)
        body = ""
        for c, finding in self.rows:
            cells = (c.words, c.verdict if finding else "", finding.text if finding else UNCHECKED, f"{c.correction} [{c.source}]")
            body += f'<tr><th scope="row">{c.id}</th>' + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells) + "</tr>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(number: str) -> Table:
    """The claims of lesson ``number`` (such as ``"03"``) with what was found since this kernel started."""
    return Table(tuple((c, _findings.get(c.id)) for c in lesson(number)))
