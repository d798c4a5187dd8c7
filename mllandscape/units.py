"""Bytes and seconds as text and back. GB is 10^9 bytes, GiB is 2^30 bytes, and every number says which."""

import math
import re
from fractions import Fraction

from mllandscape import BadInput

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_UNITS = {"b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": TB, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}


def gb(count: float) -> str:
    """Bytes as decimal gigabytes: ``gb(208_253_829_120) == "208.3 GB"``."""
    return f"{count / GB:.1f} GB"


def gib(count: float) -> str:
    """Bytes as binary gigabytes: ``gib(2**30) == "1.0 GiB"``."""
    return f"{count / GIB:.1f} GiB"


def mib(count: float) -> str:
    """Bytes as binary megabytes: ``mib(2**20) == "1.0 MiB"``."""
    return f"{count / MIB:.1f} MiB"


def _readable(number: float, steps: tuple[tuple[float, float, str, str], ...]) -> str:
    """The number in the first step whose limit the *rounded* number stays below, so that 1023.99 KiB is ``1.0 MiB``, not ``1024.0 KiB``."""
    for limit, unit, suffix, style in steps:
        text = format(number / unit, style)
        if abs(float(text)) * unit < limit:
            return text + suffix
    return str(number)  # infinite, or not a number


def size(count: float) -> str:
    """Bytes in the binary unit that keeps the number readable, from B to TiB."""
    steps = (KIB, 1, " B", ".0f"), (MIB, KIB, " KiB", ".1f"), (GIB, MIB, " MiB", ".1f"), (TIB, GIB, " GiB", ".1f"), (math.inf, TIB, " TiB", ".1f")
    return _readable(count, steps)


def seconds(duration: float) -> str:
    """Seconds in the unit that keeps the number readable: µs, ms, s (up to two minutes) or min."""
    return _readable(duration, ((1e-3, 1e-6, " µs", ".3g"), (1.0, 1e-3, " ms", ".3g"), (120.0, 1, " s", ".3g"), (math.inf, 60, " min", ".1f")))


def count(number: float) -> str:
    """A count of things with its power of ten in a letter: ``count(13_015_864_320) == "13.0B"``. Without a space: ``13.0 B`` are bytes."""
    return _readable(number, ((1e3, 1, "", ".0f"), (1e6, 1e3, "k", ".1f"), (1e9, 1e6, "M", ".1f"), (1e12, 1e9, "B", ".1f"), (math.inf, 1e12, "T", ".1f")))


def parse_bytes(text: str | int) -> int:
    """A positive whole number of bytes from ``80GB`` (80·10^9), ``79.15GiB`` (79.15·2^30), ``480 MiB`` or an int; large or small letters.

    Exact for any number of digits, then rounded to whole bytes. Raises BadInput for anything else.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    if match and match[2].lower() in _UNITS and (count := round(Fraction(match[1]) * _UNITS[match[2].lower()])) > 0:
        return count
    given = " ".join(repr(text).split())
    given = given if len(given) <= 60 else given[:57] + "..."
    raise BadInput(f"{given} is not a size; write a positive number with B, kB, MB, GB, TB (powers of 10) or KiB, MiB, GiB, TiB (powers of 2).")
