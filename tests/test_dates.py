"""Dates and numbers as exact numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from recbole_diffusion.dates import moment


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01", 0),
        ("2014-09-01", 1409529600),
        ("2014-09-01T00:00:00Z", 1409529600),
        ("2014-09-01 02:00+02:00", 1409529600),
        (" 2014-09-01T00:30 ", 1409531400),
        ("1969-12-31T23:59:59", -1),
        ("2014-09-01T00:00:00.000001", Fraction(1409529600000001, 1000000)),
        (5, 5),
        (0.1, Fraction(0.1)),
        (9007199254740993, 9007199254740993),
        (-2, -2),
    ],
)
def test_moments(value: Any, seconds: Any) -> None:
    assert moment(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "01.09.2014", "2014-13-01", "Z", float("nan"), float("inf"), True])
def test_what_is_no_moment(value: Any) -> None:
    with pytest.raises(ValueError, match=r"is neither a"):
        moment(value)
