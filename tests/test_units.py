"""Sizes and durations as text and back, against arithmetic done by hand and by the decimal module."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput, units

EXPONENTS = {"B": (10, 0), "kB": (10, 3), "MB": (10, 6), "GB": (10, 9), "TB": (10, 12), "KiB": (2, 10), "MiB": (2, 20), "GiB": (2, 30), "TiB": (2, 40)}
SECONDS = {"µs": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "min": Decimal(60)}
LETTERS = {"": 0, "k": 3, "M": 6, "B": 9, "T": 12}


@pytest.mark.parametrize(
    "given_text, bytes_",
    [("80GB", 80_000_000_000), ("80 GiB", 85_899_345_920), ("79.15GiB", 84_986_665_370), ("480 MiB", 503_316_480), ("0.5 kB", 500), (" 1 b ", 1), (7, 7)],
)
def test_a_size_means_its_unit(given_text, bytes_):
    assert units.parse_bytes(given_text) == bytes_


def test_formatting_says_which_unit():
    assert units.gb(208_253_829_120) == "208.3 GB" and units.gib(208_253_829_120) == "194.0 GiB" and units.mib(503_316_480) == "480.0 MiB"
    assert units.size(0) == "0 B" and units.size(1023) == "1023 B" and units.size(1024) == "1.0 KiB" and units.size(-3 * 2**29) == "-1.5 GiB"
    assert units.count(13_015_864_320) == "13.0B" and units.count(999) == "999" and units.count(124_439_808) == "124.4M"
    assert units.seconds(0.0153) == "15.3 ms" and units.seconds(90) == "90 s" and units.seconds(120) == "2.0 min" and units.seconds(4e-7) == "0.4 µs"


@pytest.mark.parametrize(
    "text, expected",
    [
        (units.size(2**20 - 1), "1.0 MiB"),
        (units.size(2**40 - 1), "1.0 TiB"),
        (units.seconds(0.9999), "1 s"),
        (units.seconds(0.0009999), "1 ms"),
        (units.seconds(119.9), "2.0 min"),
        (units.count(999_999), "1.0M"),
        (units.count(999_999_999), "1.0B"),
    ],
)
def test_a_number_that_rounds_up_to_the_next_unit_is_written_in_it(text, expected):
    assert text == expected


@given(st.integers(1, 10**15), st.sampled_from(list(EXPONENTS)))
def test_a_whole_number_of_any_unit_is_read_exactly(number, unit):
    base, power = EXPONENTS[unit]
    assert units.parse_bytes(f"{number}{unit}") == units.parse_bytes(f" {number}  {unit.upper()} ") == number * base**power


@given(st.decimals(min_value=Decimal("0.001"), max_value=10**6, places=3), st.sampled_from(list(EXPONENTS)[1:]))
def test_a_fraction_of_any_unit_is_read_to_the_nearest_byte(number, unit):
    base, power = EXPONENTS[unit]
    assert abs(units.parse_bytes(f"{number}{unit}") - number * base**power) <= Decimal("0.5")


@given(st.integers(1, 2**60))
def test_a_size_read_back_is_within_its_last_digit(bytes_):
    text = units.size(bytes_)
    assert abs(units.parse_bytes(text) - bytes_) <= 0.05001 * 2 ** EXPONENTS[text.split()[1]][1] or text.endswith(" B")
    assert float(text.split()[0]) < 1024 or text.endswith("TiB")


@given(st.integers(1, 2**60), st.integers(1, 2**60))
def test_a_larger_size_never_reads_as_a_smaller_one(one, other):
    small, large = sorted((one, other))
    assert units.parse_bytes(units.size(small)) <= units.parse_bytes(units.size(large))


@given(st.floats(1e-6, 1e7))
def test_a_duration_keeps_its_value_and_a_plain_number(duration):
    number, unit = units.seconds(duration).split()
    assert re.fullmatch(r"\d+(\.\d+)?", number), "no exponent"
    assert float(Decimal(number) * SECONDS[unit]) == pytest.approx(duration, rel=0.026)


@given(st.integers(1, 10**14))
def test_a_count_keeps_its_value(number):
    digits, letter = re.fullmatch(r"([\d.]+)([kMBT]?)", units.count(number)).groups()
    assert float(digits) * 10 ** LETTERS[letter] == pytest.approx(number, rel=0.051)
    assert float(digits) < 1000


@given(
    st.one_of(
        st.integers(max_value=0),
        st.floats(),
        st.none(),
        st.booleans(),
        st.binary(),
        st.lists(st.integers()),
        st.text().filter(lambda text: not text.strip()[:1].isdigit()),
        st.sampled_from(["80", "80 G", "GB", "-1 GB", "1e9 B", "1,5 GB", "1.GB", ".5 GB", "0 GB", "0.1 B", "8 0 GB", "٣ GB", "inf GB", "nan B"]),
        st.sampled_from(["9" * 5000 + "GB", "1 GB\n2"]),
    )
)
def test_anything_else_is_refused_in_one_line_with_what_is_possible(value):
    with pytest.raises(BadInput) as caught:
        units.parse_bytes(value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250 and "GiB" in str(caught.value)
