"""The claim ledger: its rows, and checks that raise when evidence and verdict disagree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, claims
from mllandscape.claims import Claim, claim, table

ROW = """
[[claim]]
id = "03.01"
source_row = "3.1"
quote = "Model weights: 13B × 2 bytes = 26 GB"
verdict = "true"
correction = "26 GB is 24.2 GiB."
source = "measured"
"""


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(claims, "_findings", {})


def row(verdict: str, cited: str = "") -> Claim:
    return Claim("03.01", "3.1", verdict, "So it is.", "a source", quote="" if verdict == "omission" else "a sentence", cited=cited)


@pytest.mark.parametrize(("lesson", "rows"), [("01", 14), ("02", 13), ("04", 12), ("05", 8), ("06", 16), ("07", 10), ("08", 9), ("09", 9), ("10", 5)])
def test_a_lesson_has_its_rows_in_order(lesson, rows):
    assert [c.id for c in claims.lesson(lesson)] == [f"{lesson}.{number:02}" for number in range(1, rows + 1)]
    if lesson != "05":  # whose four downsides share one row of the source's ledger
        assert [c.source_row for c in claims.lesson(lesson)] == [f"{int(lesson) - (int(lesson) > 5)}.{number}" for number in range(1, rows + 1)]


def test_lesson_3_has_the_twenty_rows_of_the_ledger_in_order():
    rows = claims.lesson("03")
    assert [c.id for c in rows] == [f"03.{number:02}" for number in range(1, 21)]
    assert [c.source_row for c in rows] == [f"3.{number}" for number in range(1, 21)]


def test_the_corrections_arithmetic_holds_for_13_015_864_320_parameters():
    gigabytes = {bytes_each: f"{13_015_864_320 * bytes_each / 1e9:.1f} GB" for bytes_each in (2, 6.031, 8, 16)}
    assert gigabytes == {2: "26.0 GB", 6.031: "78.5 GB", 8: "104.1 GB", 16: "208.3 GB"}
    assert gigabytes[2] in claim("03.01").correction and gigabytes[6.031] in claim("03.04").correction
    assert "208 GB" in claim("03.02").correction and "104 GB" in claim("03.02").correction


@pytest.mark.parametrize(
    ("verdict", "holds", "agrees"),
    [
        ("true", True, True),
        ("true", False, False),
        ("true", {"a": True, "b": True}, True),
        ("true", {"a": True, "b": False}, False),
        ("wrong", False, True),
        ("wrong", True, False),
        ("wrong", {"a": False, "b": True}, False),
        ("outdated", False, True),
        ("outdated", True, False),
        ("misleading", {"a": True, "b": False}, True),
        ("misleading", {"a": False, "b": False}, False),
        ("misleading", True, False),
        ("misleading", False, False),
        ("omission", True, True),
        ("omission", False, False),
    ],
)
def test_evidence_decides_whether_a_verdict_stands(verdict, holds, agrees):
    if agrees:
        assert "found 2 GB" in row(verdict).check(holds, "found 2 GB.").text
    else:
        with pytest.raises(BadInput, match="found 2 GB") as caught:
            row(verdict).check(holds, "found 2 GB.")
        assert "\n" not in str(caught.value) and verdict in str(caught.value)
        assert claims._findings == {}


@given(st.sampled_from(sorted(claims.VERDICTS)), st.dictionaries(st.text(min_size=1, max_size=3), st.booleans(), min_size=1, max_size=4))
def test_a_finding_names_its_cases_and_no_evidence_supports_two_opposite_verdicts(verdict, cases):
    agreeing = set()
    for name in claims.VERDICTS:
        try:
            row(name).check(cases, "e.")
            agreeing.add(name)
        except BadInput:
            pass
    assert agreeing in ({"true", "omission"}, {"wrong", "outdated"}, {"misleading"})


@pytest.mark.parametrize("holds", [{}, None, 1, "yes", {"a": "yes"}, {"a": None}, []])
def test_what_decides_nothing_is_refused(holds):
    with pytest.raises(BadInput, match="decides nothing"):
        row("true").check(holds, "e.")


def test_a_check_that_comes_to_disagree_takes_its_earlier_finding_back():
    row("true").check(True, "e.")
    with pytest.raises(BadInput, match="one two"):
        row("true").check(False, "one\ntwo")
    assert claims._findings == {}


def test_empty_evidence_is_refused():
    with pytest.raises(BadInput, match="evidence is empty"):
        row("true").check(True, " ")


def test_the_table_shows_what_was_checked_cited_and_forgotten():
    claim("03.10").check({"equal micro-batches": True, "padding": False}, "Relative error 0.18.")
    claim("03.16").cite()
    shown = table("03")
    assert repr(shown).startswith("20 claims: 1 checked here, 1 cited, 18 not checked.\n")
    assert "misleading. Here it holds for equal micro-batches; fails for padding. Relative error 0.18." in repr(shown)
    assert "Not re-run here: " in repr(shown) and "03.10" not in shown.unchecked and len(shown.unchecked) == 18
    assert shown._repr_html_().count("<tr>") == 21 and shown._repr_html_().count("not checked in this kernel") == 18
    assert all(len(line) <= 120 for line in repr(shown).splitlines())


def test_a_claim_without_a_dated_citation_cannot_be_cited():
    with pytest.raises(BadInput, match="no citation"):
        claim("03.01").cite()
    assert "Not re-run here: a page, read 2026-11." in row("true", cited="a page, read 2026-11").cite().text


def test_at_most_one_claim_in_five_can_be_cited():
    for number in {name.split(".")[0] for name in claims.ledger()}:
        rows = claims.lesson(number)
        assert sum(bool(c.cited) for c in rows) <= len(rows) / 5


@pytest.mark.parametrize("name", ["3.1", "03.99", "", "three"])
def test_an_unknown_claim_or_lesson_is_answered_in_one_line(name):
    with pytest.raises(BadInput, match=rf"from {min(claims.ledger())} to {max(claims.ledger())}"):
        claim(name)
    with pytest.raises(BadInput, match=r"lessons with claims are .*03"):
        table(name)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('verdict = "true"', 'verdict = "right"', "which is none of"),
        ('verdict = "true"', 'verdict = "omission"', "quote, or an omission"),
        ('verdict = "true"', 'verdict = "true"\nomission = "x"', "quote, or an omission"),
        ('quote = "Model weights: 13B × 2 bytes = 26 GB"', "", "quote, or an omission"),
        ("Model weights:", "one two three four five Model weights:", "more than twelve words"),
        ('id = "03.01"', 'id = "3.1"', "lesson.row"),
        ('source_row = "3.1"', "", "lacks"),
        ('source_row = "3.1"', "source_row = 3.1", "no text"),
        ('source = "measured"', 'source = "measured"\nnote = "x"', "unknown fields"),
        ('source = "measured"', 'source = "measured"\ncited = "a page"', "without its date"),
        ("[[claim]]", "[[claims]]", "cannot be read"),
        ('id = "03.01"', "id = 03.01", "cannot be read"),
    ],
)
def test_a_broken_row_is_named(old, new, why):
    assert list(claims.parse(ROW)) == ["03.01"]
    with pytest.raises(BadInput, match=why):
        claims.parse(ROW.replace(old, new))


def test_a_row_that_is_there_twice_is_refused():
    with pytest.raises(BadInput, match="twice"):
        claims.parse(ROW + ROW)
