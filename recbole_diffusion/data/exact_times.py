"""Times compared as they stand in the file, where float64 is too coarse to tell them apart.

Whole numbers below 2^53 are exact in float64. Larger ones that fit int64 (nanoseconds) are compared as such. Anything
else (long fractions) is compared by the decimal numbers that are written, and only where float64 values are equal.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from recbole_diffusion.data.atomic_columns import encoded, joined, text_columns, whole_numbers
from recbole_diffusion.data.atomic_fields import AtomicFile

_EXACT = 1 << 53


def exact_order(file: AtomicFile, name: str, values: np.ndarray) -> np.ndarray | None:
    """What orders a time column where float64 is too coarse to tell all its values apart.

    Args:
        file: the file.
        name: its time column.
        values: (rows,) the column as read: int64, or float64 where not every value is a whole number or they were not
            read as times.

    Returns:
        (rows,) int64, equal for equal times and rising with time; None when ``values`` as float64 do as well.
    """
    if values.dtype == np.int64:
        return None if values.min() > -_EXACT and values.max() < _EXACT else values
    ascending = np.sort(values)
    if not (ascending[1:] == ascending[:-1]).any():
        return None
    del ascending
    chunks = [chunk[name] for chunk in text_columns(file, [name])]
    whole = [whole_numbers(chunk) for chunk in chunks]
    if all(part is not None for part in whole):
        return exact_order(file, name, np.concatenate([part for part in whole if part is not None]))
    codes, spellings = joined([encoded(chunk) for chunk in chunks])
    numbers = np.empty(len(spellings))
    numbers[codes] = values
    rank = _decimal_rank(numbers, spellings)
    return None if rank is None else rank[codes]


def _decimal_rank(numbers: np.ndarray, spellings: list[str]) -> np.ndarray | None:
    """Ranks of different spellings of times, equal for equal decimal numbers.

    Args:
        numbers: (K,) float64 value of each spelling.
        spellings: the K texts.

    Returns:
        (K,) int64; None where no two decimal numbers share a float64 value.
    """
    order = np.argsort(numbers, kind="stable")
    tied = np.flatnonzero(numbers[order][1:] == numbers[order][:-1])
    groups = np.split(tied, np.flatnonzero(np.diff(tied) > 1) + 1) if len(tied) else []
    within = np.zeros(len(numbers), dtype=np.int64)  # rank among the spellings of one float64 value
    for group in groups:
        members = order[group[0] : group[-1] + 2]
        decimals = [Decimal(spellings[member].strip()) for member in members]
        distinct = {decimal: rank for rank, decimal in enumerate(sorted(set(decimals)))}
        within[members] = [distinct[decimal] for decimal in decimals]
    if not within.any():
        return None
    order = np.lexsort((within, numbers))
    later = (np.diff(numbers[order]) != 0) | (np.diff(within[order]) != 0)
    rank = np.zeros(len(numbers), dtype=np.int64)
    rank[order[1:]] = np.cumsum(later)
    return rank
