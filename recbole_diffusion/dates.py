"""A moment that a person writes, a number or an ISO date, as an exact number.

Dates become seconds since 1970-01-01 UTC. Fractions keep what floats cannot: a boundary between integers of 19 digits.
"""

from __future__ import annotations

import datetime
import math
from fractions import Fraction

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def moment(value: float | str) -> Fraction:
    """`value` exactly: a number as it is, a date or date and time in seconds.

    Args:
        value: a finite number, or text such as 2014-09-01, 2014-09-01T12:30, 2014-09-01 12:30:00+02:00; UTC unless it
            names another offset.

    Raises:
        ValueError: neither; the message says what it got.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            when = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
        except ValueError:
            raise ValueError(
                f"{value!r} is neither a number nor a date such as 2014-09-01 or 2014-09-01T12:30"
            ) from None
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.timezone.utc)
        return Fraction((when - _EPOCH) // datetime.timedelta(microseconds=1), 1_000_000)
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is neither a finite number nor a date such as 2014-09-01")
    return Fraction(value)
