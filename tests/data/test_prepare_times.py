"""Times of every kind become seconds in decimal text, exactly."""

from __future__ import annotations

import datetime
import random
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recbole_diffusion.data.tables.date_formats import seconds_text
from recbole_diffusion.data.tables.times import TimeColumn
from recbole_diffusion.errors import UserError

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def read(values: Any, type: pa.DataType | None = None, **settings: Any) -> list[str]:
    """Seconds of values that are all right."""
    converted = TimeColumn("t", **settings).convert(pa.array(values, type))
    assert converted.faults == []
    return converted.texts.to_pylist()


def refused(values: Any, type: pa.DataType | None = None, **settings: Any) -> dict[int, str]:
    """Row -> what is wrong, for the first row of every fault; the others are listed with an empty message."""
    found: dict[int, str] = {}
    for one in TimeColumn("t", **settings).convert(pa.array(values, type)).faults:
        for row in one.rows.tolist():
            found[row] = ""
        found[int(one.rows[0])] = f"{one.what}; {one.remedy}"
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # numbers stay as they are, but for a plus sign and white space
        (["978300760", "5", "0", "-3"], ["978300760", "5", "0", "-3"]),
        (["+5", " 6 ", "7.0", ".5", "5.", "1e3", "1.5E+9"], ["5", "6", "7.0", ".5", "5.", "1e3", "1.5E+9"]),
        (["1593878903.4380001"], ["1593878903.4380001"]),
        # 2014-04-06T18:44:58 UTC is 1396809898
        (["2014-04-06T18:44:58Z", "2014-04-06 18:44:58+00:00"], ["1396809898", "1396809898"]),
        (["2014-04-06T18:44:58", "2014-04-06 18:44", "2014-04-06"], ["1396809898", "1396809840", "1396742400"]),
        (["2014-04-06T18:44:58.325Z", "2014-04-06T18:44:58.3250Z"], ["1396809898.325", "1396809898.325"]),
        (["2014-04-06T18:44:58.000Z", "2014-04-06T18:44:58,5Z"], ["1396809898", "1396809898.5"]),
        # nanoseconds, and finer than Arrow knows
        (["2014-04-06T18:44:58.123456789Z"], ["1396809898.123456789"]),
        (["2014-04-06T18:44:58.1234567891234Z"], ["1396809898.1234567891234"]),
        # zones: two hours ahead is two hours earlier
        (["2014-04-06T20:44:58+02:00", "2014-04-06T20:44:58+0200"], ["1396809898", "1396809898"]),
        (["2014-04-06T20:44:58+02", "2014-04-06T15:14:58.5-03:30"], ["1396809898", "1396809898.5"]),
        (["2014-04-06 18:44:58 UTC", "2014-04-06 18:44:58z", "2014-04-06 18:44:58 GMT"], ["1396809898"] * 3),
        (["2014/04/06 18:44:58", "2014-04-06t18:44:58"], ["1396809898"] * 2),
        # before 1970 and far away
        (["1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.25+00:00"], ["-0.75", "-0.75"]),
        (["1969-12-31 23:59:59.2500000000001"], ["-0.7499999999999"]),
        (["9999-12-31", "0001-01-01"], ["253402214400", "-62135596800"]),
        (["2262-04-11T23:47:17", "1677-09-21"], ["9223372037", "-9223372800"]),  # just beyond int64 nanoseconds
        (["2014-04-06T18", "1600-01-01 01"], ["1396807200", "-11676092400"]),
    ],
)
def test_times_in_text(values: list[str], expected: list[str]) -> None:
    assert read(values) == expected


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        ([978300760, -3], pa.int32(), ["978300760", "-3"]),
        ([18446744073709551615], pa.uint64(), ["18446744073709551615"]),
        ([978300760.0, 0.1, 1593878903.438], pa.float64(), ["978300760", "0.1", "1593878903.438"]),
        ([Decimal("1593878903.123456789")], pa.decimal128(20, 9), ["1593878903.123456789"]),
        ([datetime.date(2014, 4, 6), datetime.date(1969, 12, 31)], pa.date32(), ["1396742400", "-86400"]),
        ([datetime.date(2014, 4, 6)], pa.date64(), ["1396742400"]),
        ([1396809898], pa.timestamp("s"), ["1396809898"]),
        ([1396809898325, -1], pa.timestamp("ms", "UTC"), ["1396809898.325", "-0.001"]),
        ([1396809898325000, -1500000], pa.timestamp("us", "Europe/Berlin"), ["1396809898.325", "-1.5"]),
        (
            [1396809898123456789, 1396809898123456790],
            pa.timestamp("ns"),
            ["1396809898.123456789", "1396809898.12345679"],
        ),
    ],
)
def test_typed_times(values: list[Any], type: pa.DataType, expected: list[str]) -> None:
    assert read(values, type) == expected


def test_dictionaries_are_looked_up() -> None:
    assert TimeColumn("t").convert(pa.array(["5", "6", "5"]).dictionary_encode()).texts.to_pylist() == ["5", "6", "5"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_scale_exactly(unit: str) -> None:
    places = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    texts = ["1593878903438", "1", "-1500", "12.25", "1e3", "99999999999999999999999", "7.0"]
    found = read(texts, unit=unit)
    assert [Decimal(text) for text in found] == [Decimal(text).scaleb(-places) for text in texts]
    assert read([1593878903438, -1], pa.int64(), unit=unit) == read(["1593878903438", "-1"], unit=unit)
    assert Decimal(read([1593878903438.5], pa.float64(), unit=unit)[0]) == Decimal("1593878903438.5").scaleb(-places)


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
def test_ticks_become_text_without_losing_any(per_second: int) -> None:
    generator = np.random.default_rng(0)
    ticks = generator.integers(-(2**62), 2**62, 2000) // generator.choice([1, 10, 10**3, 10**9, 10**15], 2000)
    ticks = np.concatenate([ticks, [0, 1, -1, per_second, -per_second, 10 * per_second]])
    texts = seconds_text(ticks, per_second).to_pylist()
    assert [int(Decimal(text) * per_second) for text in texts] == ticks.tolist()
    assert not any(text.endswith(".") or ("." in text and text.endswith("0")) for text in texts)


def test_random_iso_dates_equal_pythons() -> None:
    draw = random.Random(0)
    texts, expected = [], []
    for _ in range(500):
        moment = datetime.datetime(
            draw.randint(1, 9999), draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23), draw.randint(0, 59),
            draw.randint(0, 59), draw.choice([0, 500000, draw.randint(0, 999999)]),
            datetime.timezone(datetime.timedelta(minutes=draw.choice([0, 60, 330, -90, 845]))),
        )  # fmt: skip
        texts.append(moment.isoformat(sep=draw.choice("T ")))
        since = moment - EPOCH
        whole = Decimal(since.days) * 86400 + since.seconds
        expected.append(whole + Decimal(since.microseconds) / 1000000)
    assert [Decimal(text) for text in read(texts)] == expected


def test_nanoseconds_keep_their_order() -> None:
    ticks = np.arange(1396809898123456000, 1396809898123456500)
    texts = read(ticks, pa.timestamp("ns"))
    assert sorted(texts, key=Decimal) == texts
    assert len(set(texts)) == len(ticks)
    assert len({float(text) for text in texts}) < 10  # float64 could not have told them apart


def test_a_format_reads_other_dates() -> None:
    assert read(["06.04.2014 18:44"], format="%d.%m.%Y %H:%M") == ["1396809840"]
    assert read(["Apr 06, 2014 06:44:58.25 PM"], format="%b %d, %Y %I:%M:%S.%f %p") == ["1396809898.25"]
    assert read(["06.04.2014 20:44 +0200", "06.04.2014 18:44 +0000"], format="%d.%m.%Y %H:%M %z") == ["1396809840"] * 2
    assert read([20140406], pa.int64(), format="%Y%m%d") == ["1396742400"]
    assert refused(["06.04.2014", "31.02.2014", "4/6/2014"], format="%d.%m.%Y") == {
        1: "column 't' is '31.02.2014', not a date of the form %d.%m.%Y; correct it, or time_format",
        2: "",
    }


@pytest.mark.parametrize("word", ["now", "today", "Today", "NOW"])
def test_a_format_reads_no_clock(word: str) -> None:
    found = refused(["06.04.2014", word], format="%d.%m.%Y")
    assert found == {1: f"column 't' is '{word}', not a date of the form %d.%m.%Y; correct it, or time_format"}
    assert list(refused(["2014-04-06", word], format="%Y-%m-%d")) == [1]


def test_a_format_reads_dates_of_any_year() -> None:
    far = ["31.12.9999", "06.04.1600", "06.04.2014", "01.01.0001", "11.04.2262", "12.04.2262", "21.09.1677"]
    expected = [(datetime.datetime.strptime(text, "%d.%m.%Y") - datetime.datetime(1970, 1, 1)).days for text in far]
    assert read(far, format="%d.%m.%Y") == [str(days * 86400) for days in expected]
    clock = "%Y-%m-%d %H:%M:%S.%f %z"
    assert read(["9999-12-31 23:59:59.25 -0100", "1600-01-01 00:00:00.5 +0000"], format=clock) == [
        "253402304399.25",
        "-11676095999.5",
    ]
    assert list(refused(["31.12.9999", "31.11.9999", "31.02.1600"], format="%d.%m.%Y")) == [1, 2]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("2014 096", "%Y %j"),
        ("2014 14 0", "%G %V %w"),
        ("Sun 13 2014", "%a %W %Y"),
        ("04/06/14", "%x"),
        ("Sun Apr  6 00:00:00 2014", "%c"),
        ("6 April 2014 100%", "%d %B %Y 100%%"),
        ("2014-04-06 00:00 UTC", "%Y-%m-%d %H:%M UTC"),
        ("2014-04-06 12:00 AM", "%Y-%m-%d %I:%M %p"),
    ],
)
def test_forms_of_a_whole_date(text: str, format: str) -> None:
    assert read([text], format=format) == ["1396742400"]


def test_a_unit_says_that_times_are_numbers() -> None:
    assert refused(["1000", "2014-04-06"], unit="ms") == {
        1: "column 't' is the date '2014-04-06', where time_unit=ms means numbers; leave time_unit out"
    }
    assert sorted(refused(["2014-04-06", "2014-04-07", "5"], unit="s")) == [0, 1]


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        (["5", "", "6"], [1], "column 't' has no time; every interaction needs a time"),
        (["5", None, "NaN", "NULL", "\\N", "nan", "None", "NaT"], [1, 2, 3, 4, 5, 6, 7], "has no time"),
        (["5", "yesterday"], [1], "is 'yesterday', neither a number nor an ISO date; write numbers or ISO dates"),
        (["5", "1,5"], [1], "is '1,5', neither .*; write the decimal mark as a point"),
        (["5", "1_000"], [1], "is '1_000', neither"),
        (["5", "0x1F", "inf", "1e999"], [1, 2, 3], "is '0x1F', neither"),
        (["5", "2014-04-06"], [1], "is the date '2014-04-06', where earlier times are numbers"),
        (["2014-04-06", "5"], [1], "is the number '5', where earlier times are dates"),
        (["2014-04-06", "2014-02-30", "2014-04-06T24:00:00", "2014-04-06T18:44:60"], [1, 2, 3], "a date that does not"),
        (["2014-04-06", "06.04.2014", "4/6/2014"], [1, 2], "is '06.04.2014', neither .* time_format"),
        (["2014-04-06T00:00Z", "2014-04-06T00:00"], [1], "with no time zone, where earlier times have one"),
        (["2014-04-06T00:00", "2014-04-06T00:00+01:00"], [1], "with a time zone, where earlier times have none"),
        (
            ["2014-04-06T00:00Z", "2014-04-06T00:00+25:00", "2014-04-06T00:00+00:75"],
            [1, 2],
            "a date that does not exist",
        ),
        (["soon", "5", "6"], [0], "is 'soon'"),  # the first that can be read says whether times are numbers
        (["soon", "2014-04-06", "5"], [0, 2], "is 'soon'"),
    ],
)
def test_times_that_are_none(values: list[str], rows: list[int], message: str) -> None:
    found = refused(values)
    assert sorted(found) == rows
    assert re.search(message, found[rows[0]])


def test_infinite_and_missing_numbers() -> None:
    found = refused([1.0, None, float("nan"), float("inf"), -float("inf")], pa.float64())
    assert sorted(found) == [1, 2, 3, 4]
    assert found[3].startswith("column 't' is 'inf', not a finite number")
    assert sorted(refused([None, 5], pa.timestamp("ms"))) == [0]
    assert sorted(refused([None, None])) == [0, 1]


@pytest.mark.parametrize("type", [pa.bool_(), pa.time32("s"), pa.duration("s"), pa.list_(pa.int64())])
def test_types_that_are_no_times(type: pa.DataType) -> None:
    with pytest.raises(UserError, match=r"column 't' has the type .* in the file"):
        TimeColumn("t").convert(pa.nulls(3, type))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "h"}, "time_unit is 'h'; allowed: s, ms, us, ns"),
        ({"unit": "s", "format": "%Y%m%d"}, "set one of them"),
        ({"format": "%Q"}, r"time_format is '%Q': .*bad directive.*; write it as for strptime"),
        ({"format": "%d.%m.%Y %d"}, r"time_format is '%d.%m.%Y %d': redefinition of group name"),
        ({"format": "%H:%M"}, "time_format is '%H:%M', which has no year and no day of the year; write it as"),
        ({"format": "%d.%m. %H:%M"}, "which has no year;"),
        ({"format": "%Y-%m"}, "which has no day of the year;"),
        ({"format": "%%Y-%m-%d"}, "which has no year;"),  # a per cent sign and Y
        ({"format": "mixed"}, "which has no year and no day of the year;"),  # a word that pandas knows
        ({"format": "%Y-%m-%d %H:%M:%S %Z"}, "names such as CST or IST mean several; write offsets such as"),
        ({"format": "%Y-%m-%d %H:%M %p"}, "%I and %p are a clock of 12 hours together"),
        ({"format": "%Y-%m-%d %I:%M"}, "%I and %p are a clock of 12 hours together"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimeColumn("t", **settings)


def test_settings_that_do_not_go_with_the_type() -> None:
    with pytest.raises(UserError, match="time_format is for dates in text"):
        TimeColumn("t", format="%Y%m%d").convert(pa.array([5], pa.timestamp("s")))
    for type in (pa.timestamp("s"), pa.date32()):
        with pytest.raises(UserError, match=r"column 't' has the type .*; time_unit is for numbers: leave it out"):
            TimeColumn("t", unit="s").convert(pa.array([5], type))


@pytest.mark.parametrize(
    ("values", "type", "note"),
    [
        ([1593878903438, 1593878903439], pa.int64(), "t: looks like ms, kept as it is; time_unit=ms"),
        ([1593878903438000000, 1593878903438000001], pa.int64(), "t: looks like ns, kept as it is"),
        (["20140406", "20150101"], pa.string(), r"t: looks like dates \(YYYYMMDD\); time_format=%Y%m%d"),
        (["2014-04-06", "2014-04-07"], pa.string(), "t: dates without a time zone are taken as UTC"),
        ([5, 6], pa.timestamp("s"), "t: dates without a time zone are taken as UTC"),
        (["5", "5"], pa.string(), "t: all times are the same"),
        ([1.0, 2.0], pa.float32(), "t: 32-bit floats in the file"),
    ],
)
def test_what_is_odd_is_said(values: list[Any], type: pa.DataType, note: str) -> None:
    column = TimeColumn("t")
    column.observe(column.convert(pa.array(values, type)).texts)
    assert [found for found in column.notes() if re.match(note, found)] == column.notes() != []


@pytest.mark.parametrize(
    "values", [["978300760", "978302109"], ["2014-04-06T00:00Z", "2014-04-06T00:00:00.000000001Z"]]
)
def test_what_is_usual_is_not(values: list[str]) -> None:
    column = TimeColumn("t")
    column.observe(column.convert(pa.array(values)).texts)
    assert column.notes() == []


def test_the_first_batch_decides_for_all() -> None:
    column = TimeColumn("t")
    assert column.convert(pa.array(["2014-04-06T00:00Z"])).faults == []
    (zone,) = column.convert(pa.array(["2014-04-06T00:00"])).faults
    assert "no time zone" in zone.what
    (number,) = column.convert(pa.array(["5"])).faults
    assert "the number '5', where earlier times are dates" in number.what


@pytest.mark.parametrize("other", [pa.array([5]), pa.array([5.0]), pa.array(["5"])])
def test_parts_of_other_types_mean_the_same_or_are_refused(other: pa.Array) -> None:
    dates, numbers = TimeColumn("t"), TimeColumn("t")
    dates.convert(pa.array([5000], pa.timestamp("ms")))
    assert dates.convert(pa.array(["1970-01-01T00:00:05"])).texts.to_pylist() == ["5"]
    if other.type == pa.string():
        assert len(dates.convert(other).faults) == 1
    else:
        with pytest.raises(UserError, match="column 't' holds dates in one part of the table and numbers in another"):
            dates.convert(other)
    numbers.convert(pa.array([5.5]))
    assert numbers.convert(other).texts.to_pylist() == ["5"]


def test_the_span_is_for_people() -> None:
    column = TimeColumn("t")
    assert column.span == "none"
    column.observe(column.convert(pa.array(["978300760", "978302109.5"])).texts)
    assert column.span == "2000-12-31 22:12:40 to 2000-12-31 22:35:09"
    ranks = TimeColumn("t")
    ranks.observe(ranks.convert(pa.array([1, 100])).texts)
    assert ranks.span == "1 to 100"
    far = TimeColumn("t")
    far.observe(far.convert(pa.array([1e300])).texts)
    assert far.span == "1e+300 to 1e+300"
