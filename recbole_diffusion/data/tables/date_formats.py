"""Dates in text of a given form, described as for ``strptime``, as exact seconds in decimal text.

pandas reads them, to the nanosecond. What it alone understands is kept out of its reach: ``now`` and ``today``, which
it takes from the clock, and names of zones. Dates that its int64 nanoseconds do not reach are read by Python.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_diffusion.errors import UserError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_REMEDY = "write it as for strptime, e.g. %d.%m.%Y %H:%M"

# Directives that say the year; and sets of directives, one of each of which says the day within it.
_YEAR = frozenset("yYGcx")
_DAY = (("jcx",), ("mbB", "d"), ("VUW", "aAwu"))


class DateFormat:
    """How dates are written.

    Args:
        format: text with the directives of ``strptime``.

    Raises:
        UserError: an unknown directive, a name of a zone (``%Z``), no whole date, or half of a clock of 12 hours.
    """

    def __init__(self, format: str) -> None:
        self.format = format
        directives = set(re.findall(r"%(.)", format))
        self.zoned = "z" in directives
        try:
            self._moments(["1"])
        except (ValueError, re.error) as error:
            raise UserError(f"time_format is {format!r}: {error}; {_REMEDY}") from None
        if "Z" in directives:
            what = "%Z would be a name of a zone, and names such as CST or IST mean several"
            remedy = "write offsets such as +0100 and %z; where all times are UTC, write UTC itself in time_format"
            raise UserError(f"time_format is {format!r}: {what}; {remedy}")
        missing = [] if directives & _YEAR else ["year"]
        if not any(all(directives & set(some) for some in needed) for needed in _DAY):
            missing.append("day of the year")
        if missing:
            raise UserError(f"time_format is {format!r}, which has no {' and no '.join(missing)}; {_REMEDY}")
        if ("I" in directives) != ("p" in directives):
            what = "%I and %p are a clock of 12 hours together, and neither means anything alone"
            raise UserError(f"time_format is {format!r}: {what}; %H is the hour of 24")

    def read(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Seconds since 1970 as decimal text (rows,), and which of the texts are no such date (rows,)."""
        dated = pc.match_substring_regex(texts, pattern=r"\p{Nd}")  # "now" and "today" are not
        moments = self._moments(pc.if_else(dated, texts, "").to_pylist())
        wrong = np.isnat(moments)
        seconds = seconds_text(np.where(wrong, 0, moments.view(np.int64)), 10**9)
        if wrong.any():
            read = {row: self._far(texts[row].as_py()) for row in np.flatnonzero(wrong).tolist()}
            far = {row: ticks for row, ticks in read.items() if ticks is not None}
            if far:
                rows = np.zeros(len(texts), dtype=bool)
                rows[list(far)] = True
                seconds = pc.replace_with_mask(seconds, pa.array(rows), seconds_text(np.array([*far.values()]), 10**6))
                wrong &= ~rows
        return seconds, wrong

    def _moments(self, texts: list[str]) -> np.ndarray:
        """What pandas reads, (rows,) datetime64[ns]; NaT where it reads nothing."""
        read = pd.to_datetime(pd.Series(texts, dtype=object), format=self.format, errors="coerce", utc=self.zoned)
        return read.to_numpy(dtype="datetime64[ns]")

    def _far(self, text: str) -> int | None:
        """Microseconds since 1970 of a date that int64 nanoseconds do not reach; None for anything else."""
        try:
            read = datetime.strptime(text, self.format)
        except ValueError:
            return None
        moment = read if read.tzinfo is not None else read.replace(tzinfo=timezone.utc)
        return (moment - _EPOCH) // timedelta(microseconds=1)


def seconds_text(ticks: np.ndarray, per_second: int) -> pa.Array:
    """Whole ticks as decimal text in seconds, every digit kept and no zeros at the end: 1500 ms are ``1.5``.

    Args:
        ticks: (rows,) int64.
        per_second: ticks of a second, a power of ten.
    """
    if per_second == 1:
        return pa.array(ticks).cast(pa.string())
    whole, part = np.divmod(np.abs(ticks), per_second)
    texts = pa.array(whole).cast(pa.string())
    if part.any():
        places = len(str(per_second)) - 1
        decimals = pc.utf8_rtrim(pc.utf8_lpad(pa.array(part).cast(pa.string()), places, "0"), "0")
        texts = pc.utf8_rtrim(pc.binary_join_element_wise(texts, decimals, "."), ".")
    negative = ticks < 0
    if negative.any():
        texts = pc.if_else(pa.array(negative), pc.binary_join_element_wise("-", texts, ""), texts)
    return texts
