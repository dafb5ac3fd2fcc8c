"""Numbers as people read them: a sensible unit, three significant digits, "unknown" for what nobody knows.

The one place where milliseconds and megabytes are made out of the records' SI values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Ladder = Sequence[tuple[float, str]]

UNKNOWN = "unknown"
TIME: Ladder = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"))
SIZE: Ladder = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
BINARY: Ladder = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
CLOCK: Ladder = ((1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1.0, "Hz"))
MACS: Ladder = ((1e9, "GMAC"), (1e6, "MMAC"), (1e3, "kMAC"), (1.0, "MAC"))
COUNT: Ladder = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
RATE: Ladder = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s"))
ENERGY: Ladder = ((1.0, "J"), (1e-3, "mJ"))

#: One unit each, for columns and for quantities that are always read in it.
US, MS, GHZ, GIB = 1e-6, 1e-3, 1e9, 2.0**30
KB, MB, MMAC, MJ = 1e3, 1e6, 1e6, 1e-3


def unit(value: float, ladder: Ladder) -> tuple[float, str]:
    """The largest step of ``ladder`` that ``value``, rounded to three digits, reaches: the smallest for less, 1 for zero."""
    rounded = max(abs(value), abs(float(f"{value:.2e}"))) or 1.0
    return next((step for step in ladder if rounded >= step[0]), ladder[-1])


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits and no exponent.

    >>> significant(0.03329), significant(4.5), significant(31415.9)
    ('0.0333', '4.50', '31,400')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:,.{_decimals(rounded, digits)}f}"


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def scaled(value: float | None, ladder: Ladder) -> str:
    """``value`` in the fitting unit of ``ladder``, with three digits; whole numbers of the base unit as they are."""
    if value is None:
        return UNKNOWN
    scale, name = unit(value, ladder)
    number = f"{value:.0f}" if scale == 1 and float(value).is_integer() else significant(value / scale)
    return f"{number} {name}".rstrip()


def brief(value: float, ladder: Ladder, digits: int = 4) -> str:
    """``value`` in the fitting unit of ``ladder``, at most ``digits`` digits and no zeros at the end, as a limit is written.

    >>> brief(0.005, TIME), brief(30_720_000, SIZE)
    ('5 ms', '30.72 MB')
    """
    size = abs(value)
    for scale, name in ladder:  # a plain loop: a thousand refused rows write a thousand values
        if size >= scale:
            return f"{value / scale:.{digits}g} {name}"
    return f"{value / ladder[-1][0]:.{digits}g} {ladder[-1][1]}"


def in_unit(value: float | None, scale: float, digits: int = 4) -> str:
    """The number alone, where the unit stands elsewhere, such as in a column's head.

    >>> in_unit(0.00452, MS), in_unit(None, MB)
    ('4.52', 'unknown')
    """
    return UNKNOWN if value is None else f"{value / scale:.{digits}g}"


def interval(low: float, high: float, ladder: Ladder | None = None, digits: int = 3) -> str:
    """Both ends in one unit and with the same decimals, ``digits`` of the larger: ``4.51 to 4.58 ms``."""
    largest = max(abs(low), abs(high))
    scale, name = unit(largest, ladder) if ladder else (1.0, "")
    decimals = _decimals(float(f"{largest / scale:.{digits - 1}e}"), digits)
    return f"{low / scale:.{decimals}f} to {high / scale:.{decimals}f} {name}".rstrip()


def seconds(value: float | None) -> str:
    """
    >>> seconds(0.00452), seconds(3.1e-5), seconds(None)
    ('4.52 ms', '31.0 µs', 'unknown')
    """
    return scaled(value, TIME)


def size(value: float | None) -> str:
    """Bytes in decimal units, as files and links count: ``44.7 MB``."""
    return scaled(value, SIZE)


def binary_size(value: float | None) -> str:
    """Bytes in binary units, as memory and caches are sold: ``32.0 KiB``."""
    return scaled(value, BINARY)


def hertz(value: float | None) -> str:
    """A frequency in GHz, MHz or kHz."""
    return scaled(value, CLOCK)


def macs(value: float | None) -> str:
    """Multiply-accumulates in millions or thousands."""
    return scaled(value, MACS)


def count(value: float | None) -> str:
    """A whole number with commas."""
    return scaled(value, COUNT)


def rate(value: float | None) -> str:
    """Bits per second."""
    return scaled(value, RATE)


def percent(share: float | None, digits: int = 1) -> str:
    """
    >>> percent(0.9833), percent(None)
    ('98.3 %', 'unknown')
    """
    return UNKNOWN if share is None else f"{100 * share:.{digits}f} %"


def signed_percent(share: float) -> str:
    """A share as per cent with its sign."""
    return f"{100 * share:+.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits."""
    return UNKNOWN if value is None else significant(value, digits)


def short_hash(digest: str) -> str:
    """The first twelve hex digits, without the algorithm's name."""
    return digest.removeprefix("sha256:")[:12]


def moment(utc: str) -> str:
    """An ISO 8601 instant in UTC, to the minute; any other text as it is."""
    return f"{utc[:10]} {utc[11:16]} UTC" if len(utc) > 16 and utc[10] == "T" else utc


def known(text: object | None) -> str:
    """The value as text, or "unknown"."""
    return UNKNOWN if text is None or text == "" else str(text)


def listed(parts: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def counted(quantity: int, noun: str) -> str:
    """
    >>> counted(1, "process"), counted(3, "record")
    ('1 process', '3 records')
    """
    if quantity == 1:
        return f"1 {noun}"
    return f"{quantity} {noun}es" if noun.endswith("s") else f"{quantity} {noun}s"
