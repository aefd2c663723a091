"""Times as files have them, turned into seconds since 1970 without losing a digit.

Numbers stay as they are (the unit is known to the person alone, ``unit`` scales it exactly); dates become seconds:
Arrow's dates and timestamps of any resolution and zone, ISO 8601 text, or text of a given ``strptime`` format. The
result is decimal text, so nanoseconds keep their order although float64 could not tell them apart
(``recbole_diffusion.data.atomic_files.exact_order`` compares such text). A date without a zone counts as UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_diffusion.data.atomic_fields import shown
from recbole_diffusion.data.tables.date_formats import DateFormat, seconds_text
from recbole_diffusion.data.tables.values import (
    NUMBER,
    Converted,
    Fault,
    fault,
    is_missing,
    plain,
    text_of,
    type_error,
    without_nulls,
)
from recbole_diffusion.errors import UserError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

_DATE = (
    r"^(?P<date>\d{4}[-/]\d{2}[-/]\d{2})"
    r"(?:[Tt ](?P<clock>\d{2}(?::\d{2}(?::\d{2})?)?)(?:[.,](?P<fraction>\d+))?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
_ZONED = r"([Zz]|UTC|GMT|:\d{2}(?:[.,]\d+)? ?[+-]\d{2}(?::?\d{2})?)$"
_DAY_SECONDS = 86400
_FIRST_YEAR, _YEAR_AFTER = "1678", "2262"  # what int64 nanoseconds reach
_EXACT = Context(prec=1000)


class TimeColumn:
    """One column of times.

    Args:
        name: the column in the file.
        format: how dates are written, as for ``strptime`` (``%d.%m.%Y %H:%M``); None reads numbers and ISO dates.
        unit: what numbers count: ``s``, ``ms``, ``us``, ``ns``; None leaves them as they are.

    Raises:
        UserError: an unknown unit, a format that says no date, or both.
    """

    def __init__(self, name: str, *, format: str | None = None, unit: str | None = None) -> None:
        if unit is not None and unit not in UNITS:
            raise UserError(f"time_unit is {unit!r}; allowed: {', '.join(UNITS)}")
        if unit is not None and format is not None:
            raise UserError("time_unit is for numbers and time_format for dates; set one of them")
        self.name = name
        self.lowest = np.inf
        self.highest = -np.inf
        self._format = None if format is None else DateFormat(format)
        self._unit = unit
        self._kind: str | None = None if unit is None else "number"  # or date, whichever the first value is
        self._zoned: bool | None = None  # whether dates in text say their zone; the first one decides
        self._zone_free = False
        self._single = False
        self._numeric = False
        self._whole = True
        self._rows = 0
        self._only: str | None = None  # the one text that all times have so far

    def convert(self, values: pa.Array) -> Converted:
        """Seconds of a batch, as text; (rows,)."""
        values = plain(values)
        kind = values.type
        if self._format is not None and pa.types.is_integer(kind):
            converted = self._texts(values.cast(pa.string()))
        elif self._format is not None and (pa.types.is_temporal(kind) or pa.types.is_floating(kind)):
            raise type_error(self.name, kind, "time_format is for dates in text: leave it out")
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            if self._unit is not None:
                raise type_error(self.name, kind, "time_unit is for numbers: leave it out")
            converted = self._moments(values)
        elif pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            self._decide("number")
            texts = without_nulls(values.cast(pa.string()), "0")
            converted = Converted(self._scaled(texts), self._missing(values.is_null()))
        elif pa.types.is_floating(kind):
            converted = self._floats(values)
        elif pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
            raise type_error(self.name, kind, "a time is a number or a date; time=row takes the order of the rows")
        else:
            converted = self._texts(values)
        return self._finite(converted)

    def _missing(self, rows: np.ndarray | pa.Array) -> list[Fault]:
        remedy = "every interaction needs a time, it is what orders them"
        return fault(rows, f"no {self.name}", lambda row: f"column {self.name!r} has no time", remedy)

    def _finite(self, converted: Converted) -> Converted:
        """The same, with a fault for numbers beyond all bounds."""
        good = np.ones(len(converted.texts), dtype=bool)
        for found in converted.faults:
            good[found.rows] = False
        texts = pc.if_else(pa.array(good), converted.texts, "0")
        infinite = ~np.isfinite(texts.cast(pa.float64()).to_numpy())
        faults = fault(
            infinite,
            f"{self.name}: no time",
            lambda row: f"column {self.name!r} is {shown(texts[row].as_py())}, not a finite number",
            "write a number such as 978386400 (seconds)",
        )
        return Converted(texts, converted.faults + faults)

    def observe(self, texts: pa.Array) -> None:
        """Take note of the times that are taken, for :attr:`span` and :meth:`notes`."""
        if len(texts) == 0:
            return
        seconds = texts.cast(pa.float64()).to_numpy()
        if self._rows == 0:
            self._only = texts[0].as_py()
        if self._only is not None and not pc.all(pc.equal(texts, self._only)).as_py():
            self._only = None
        self._rows += len(texts)
        self.lowest = min(self.lowest, float(seconds.min()))
        self.highest = max(self.highest, float(seconds.max()))
        self._whole = self._whole and not np.mod(seconds, 1).any()

    # ------------------------------------------------------------------------------------------- typed columns

    def _decide(self, kind: str) -> None:
        """Take note of what a typed column holds; parts of one table may differ in type, but not in meaning."""
        if self._kind not in (None, kind):
            raise UserError(f"column {self.name!r} holds dates in one part of the table and numbers in another")
        self._kind = kind

    def _moments(self, values: pa.Array) -> Converted:
        kind = values.type
        self._decide("date")
        absent = values.is_null()
        if pa.types.is_date(kind):
            ticks = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
            return Converted(seconds_text(_filled(ticks) * _DAY_SECONDS, 1), self._missing(absent))
        self._zone_free = self._zone_free or kind.tz is None
        return Converted(seconds_text(_filled(values.cast(pa.int64())), UNITS[kind.unit]), self._missing(absent))

    def _floats(self, values: pa.Array) -> Converted:
        self._decide("number")
        self._single = self._single or values.type != pa.float64()
        numbers = values.cast(pa.float64())
        absent = pc.fill_null(pc.is_nan(numbers), True)
        return Converted(self._scaled(pc.if_else(absent, "0", numbers.cast(pa.string()))), self._missing(absent))

    def _scaled(self, texts: pa.Array) -> pa.Array:
        """Numbers in the unit of the column, as text in seconds; every digit stays."""
        self._numeric = True
        texts = pc.utf8_ltrim(texts, "+")
        if self._unit is None or UNITS[self._unit] == 1:
            return texts
        per_second = UNITS[self._unit]
        if pc.all(pc.match_substring_regex(texts, pattern=r"^-?\d{1,18}$")).as_py():
            return seconds_text(texts.cast(pa.int64()).to_numpy(), per_second)
        places = len(str(per_second)) - 1
        scaled = [
            str(_EXACT.scaleb(Decimal(text), -places)) if re.match(NUMBER, text) else text for text in texts.to_pylist()
        ]
        return pa.array(scaled, pa.string())

    # ---------------------------------------------------------------------------------------------------- text

    def _texts(self, values: pa.Array) -> Converted:
        texts, faults = text_of(values, self.name)
        if faults:
            return Converted(texts, faults)
        texts = pc.utf8_trim_whitespace(without_nulls(texts))
        missing = is_missing(texts)
        absent = missing.to_numpy(zero_copy_only=False)
        faults = self._missing(absent)
        present = np.flatnonzero(~absent)
        if len(present) == 0:
            return Converted(texts, faults)
        given = texts.filter(pc.invert(missing)) if faults else texts
        read = self._by_kind(given) if self._format is None else self._by_format(given, self._format)
        seconds = read.seconds
        if faults:
            places = np.zeros(len(texts), dtype=np.int64)
            places[present] = np.arange(len(present))
            seconds = seconds.take(pa.array(places))
        if read.wrong.any():
            rows = np.zeros(len(texts), dtype=bool)
            rows[present[read.wrong]] = True
            what, remedy = read.why(texts[int(np.argmax(rows))].as_py())
            kind = f"{self.name}: no time"
            faults += fault(rows, kind, lambda row: f"column {self.name!r} is {what}", remedy)
        return Converted(seconds, faults)

    def _by_format(self, texts: pa.Array, format: DateFormat) -> _Read:
        seconds, wrong = format.read(texts)
        self._zone_free = self._zone_free or not format.zoned

        def why(text: str) -> tuple[str, str]:
            return f"{shown(text)}, not a date of the form {format.format}", "correct it, or time_format"

        return _Read(seconds, wrong, why)

    def _by_kind(self, texts: pa.Array) -> _Read:
        numbers = pc.match_substring_regex(texts, pattern=NUMBER).to_numpy(zero_copy_only=False)
        if self._kind is None:
            kinds = np.where(numbers, "number", "")
            if not numbers[0]:
                dates = pc.match_substring_regex(texts, pattern=_DATE).to_numpy(zero_copy_only=False)
                kinds = np.where(dates, "date", kinds)
            known = np.flatnonzero(kinds != "")
            self._kind = str(kinds[known[0]]) if len(known) else None
        if self._kind == "date":
            return self._dates(texts)
        return _Read(self._scaled(pc.if_else(pa.array(numbers), texts, "0")), ~numbers, self._why)

    def _why(self, text: str) -> tuple[str, str]:
        """What is wrong with a time that is neither of what is allowed."""
        said = shown(text)
        if self._kind == "date" and re.match(NUMBER, text):
            return f"the number {said}, where earlier times are dates", "write all times in one form"
        if re.match(_DATE, text):
            if self._unit is not None:
                return f"the date {said}, where time_unit={self._unit} means numbers", "leave time_unit out"
            if self._kind == "number":
                return f"the date {said}, where earlier times are numbers", "write all times in one form"
            if self._zoned is not None and bool(re.search(_ZONED, text)) != self._zoned:
                has, had = ("no", "one") if self._zoned else ("a", "none")
                return f"{said} with {has} time zone, where earlier times have {had}", "write all times in one form"
            return f"{said}, a date that does not exist", "correct it"
        remedy = "write numbers or ISO dates (2014-04-06T18:44:58Z), or say how dates are written with time_format"
        if re.match(NUMBER, text.replace(",", "")):
            remedy = "write the decimal mark as a point, without thousands separators"
        return f"{said}, neither a number nor an ISO date", remedy

    def _dates(self, texts: pa.Array) -> _Read:
        """ISO 8601 dates; Arrow's own parser where all are of one kind and within its range, else piece by piece."""
        zoned = bool(re.search(_ZONED, texts[0].as_py())) if self._zoned is None else self._zoned
        near = pc.and_(pc.greater_equal(texts, _FIRST_YEAR), pc.less(texts, _YEAR_AFTER))
        if not pc.all(near).as_py():  # beyond int64 nanoseconds, where older versions of Arrow go round
            return self._dates_in_pieces(texts)
        try:
            moments = texts.cast(pa.timestamp("ns", "UTC" if zoned else None))
        except pa.ArrowInvalid:
            return self._dates_in_pieces(texts)
        self._zoned = zoned
        self._zone_free = self._zone_free or not zoned
        ticks = moments.cast(pa.int64()).to_numpy()
        return _Read(seconds_text(ticks, UNITS["ns"]), np.zeros(len(texts), dtype=bool), self._why)

    def _dates_in_pieces(self, texts: pa.Array) -> _Read:
        pieces = pc.extract_regex(texts, pattern=_DATE)
        wrong = pieces.is_null().to_numpy(zero_copy_only=False)
        names = ("date", "clock", "fraction", "zone")
        date, clock, fraction, zone = (pc.if_else(pa.array(wrong), "", pc.struct_field(pieces, name)) for name in names)
        date = pc.replace_substring(date, "/", "-")
        clock = pc.if_else(pc.equal(clock, ""), "00:00", clock)
        whole, none = _civil_seconds(pc.binary_join_element_wise(date, clock, " "))
        wrong |= none
        zones = zone.dictionary_encode()
        offsets = np.array([_offset_seconds(text) for text in zones.dictionary.to_pylist()])[zones.indices.to_numpy()]
        wrong |= np.isinf(offsets)
        zoned = ~np.isnan(offsets)
        if self._zoned is None and not wrong.all():
            self._zoned = bool(zoned[int(np.argmin(wrong))])
        if self._zoned is not None:
            wrong |= zoned != self._zoned
            self._zone_free = self._zone_free or not self._zoned
        whole = np.where(wrong, 0, whole - np.where(zoned & ~wrong, offsets, 0).astype(np.int64))
        fraction = pc.if_else(pa.array(wrong), "", pc.utf8_rtrim(fraction, "0"))
        seconds = pa.array(whole).cast(pa.string())
        if pc.any(pc.not_equal(fraction, "")).as_py():
            seconds = pc.utf8_rtrim(pc.binary_join_element_wise(seconds, fraction, "."), ".")
            early = np.flatnonzero((whole < 0) & pc.not_equal(fraction, "").to_numpy(zero_copy_only=False))
            if len(early):  # -1 second and .25 make -0.75
                pairs = ((Decimal(int(whole[row])), Decimal(f"0.{fraction[row]}")) for row in early.tolist())
                exact = [str(_EXACT.add(*pair)) for pair in pairs]
                mask = np.zeros(len(whole), dtype=bool)
                mask[early] = True
                seconds = pc.replace_with_mask(seconds, pa.array(mask), pa.array(exact, pa.string()))
        return _Read(seconds, wrong, self._why)

    # --------------------------------------------------------------------------------------------------- notes

    @property
    def span(self) -> str:
        """The first and the last time, as dates where they can be seconds since 1970."""
        if self._rows == 0:
            return "none"
        if self._numeric and self._unit is None and self.highest < 10**8:
            return f"{self.lowest:g} to {self.highest:g}"
        try:
            first, last = (datetime(1970, 1, 1) + timedelta(seconds=value) for value in (self.lowest, self.highest))
        except OverflowError:
            return f"{self.lowest:g} to {self.highest:g}"
        return f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S}"

    def notes(self) -> list[str]:
        """What was assumed about the times, and what about them is odd."""
        found = []
        if self._zone_free:
            found.append(f"{self.name}: dates without a time zone are taken as UTC")
        if self._single:
            found.append(f"{self.name}: 32-bit floats in the file, which know the times of today to 128 seconds only")
        if self._rows > 1 and self._only is not None:
            found.append(f"{self.name}: all times are the same, so the order within a user is that of the rows")
        if self._numeric and self._unit is None and self._rows:
            if self.lowest > 10**11:
                unit = "ms" if self.lowest < 10**14 else "us" if self.lowest < 10**17 else "ns"
                found.append(f"{self.name}: looks like {unit}, kept as it is; time_unit={unit} makes seconds of it")
            elif self._whole and self.lowest >= 1900_01_01 and self.highest <= 2100_12_31:
                found.append(f"{self.name}: looks like dates (YYYYMMDD); time_format=%Y%m%d makes seconds of them")
        return found


class _Read(NamedTuple):
    """Seconds as text (rows,), which rows have none (rows,), and what and remedy for a text that is wrong."""

    seconds: pa.Array
    wrong: np.ndarray
    why: Callable[[str], tuple[str, str]]


def _filled(values: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(values, 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _civil_seconds(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since 1970 of ``YYYY-MM-DD hh:mm[:ss]`` as (rows,) int64, and for which rows there is no such time."""
    try:
        return texts.cast(pa.timestamp("s")).cast(pa.int64()).to_numpy(), np.zeros(len(texts), dtype=bool)
    except pa.ArrowInvalid:
        pass
    seconds = np.zeros(len(texts), dtype=np.int64)
    none = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts):
        try:
            seconds[row] = text.cast(pa.timestamp("s")).value
        except pa.ArrowInvalid:
            none[row] = True
    return seconds, none


def _offset_seconds(zone: str) -> float:
    """What a zone such as ``+02:00`` is ahead of UTC; NaN for no zone, infinite for one that cannot be."""
    if zone == "":
        return np.nan
    if zone[0] not in "+-":
        return 0.0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        return np.inf
    return (-1.0 if zone[0] == "-" else 1.0) * (hours * 3600 + minutes * 60)
