"""A stable sort of many whole numbers: key and position packed into one integer, sorted as one.

``np.argsort(kind="stable")`` moves positions about and compares what they point at; ``np.sort`` of int64 runs in the
processor's vector units. With the position in the low bits no two packed numbers are equal, so that any sort of
them is a stable sort of the keys.
"""

from __future__ import annotations

import numpy as np

_BITS = 63


def stable_order(keys: np.ndarray) -> np.ndarray:
    """Positions in rising order of their keys, equal keys in the order they stand in.

    Args:
        keys: (N,) integers or floats.

    Returns:
        (N,) int64, the same as ``np.argsort(keys, kind="stable")``; for whole numbers in a fraction of its time.
    """
    if len(keys) < 2 or keys.dtype.kind not in "iuf":
        return np.argsort(keys, kind="stable")
    smallest, largest = keys.min(), keys.max()
    if not (np.isfinite(smallest) and np.isfinite(largest)) or max(abs(int(smallest)), abs(int(largest))) >= 1 << 62:
        return np.argsort(keys, kind="stable")
    low = int(smallest)
    shift = len(keys).bit_length()
    if (int(largest) - low).bit_length() + shift > _BITS:
        return np.argsort(keys, kind="stable")
    packed = keys.astype(np.int64)
    if keys.dtype.kind == "f" and (packed != keys).any():
        return np.argsort(keys, kind="stable")
    packed -= low
    packed <<= shift
    packed |= np.arange(len(keys))
    packed.sort()
    packed &= (1 << shift) - 1
    return packed


def repeats(keys: np.ndarray) -> np.ndarray:
    """Which keys stand earlier in the array, too.

    Args:
        keys: (N,) integers.

    Returns:
        (N,) bool, the same as ``pandas.Series(keys).duplicated()``.
    """
    ascending = np.sort(keys)
    found = np.zeros(len(keys), dtype=bool)
    several = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if len(several) == 0:
        return found
    place = np.minimum(np.searchsorted(several, keys), len(several) - 1)
    members = np.flatnonzero(several[place] == keys)
    order = members[stable_order(keys[members])]  # by key, then by position
    found[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return found
