"""Metrics that are the mean of a value over the first k items of a row: popularity, and whether an item is of the tail.

    AveragePopularity@k   mean number of training interactions of the first k items
    TailPercentage@k      share of the first k items that are rare in training

RecBole's, number for number, without its Python loops over rows, items and the list of the tail (which for 20,000 rows
of 200,000 items takes hours). Unlike coverage, entropy and Gini they have a value for every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def item_counts(counter: Mapping[int, int], n_items: int) -> np.ndarray:
    """Training interactions of each item id, (V,) int64; from RecBole's counter, which lacks items without any."""
    counts = np.zeros(n_items, dtype=np.int64)
    counts[np.fromiter(counter.keys(), np.int64, len(counter))] = np.fromiter(counter.values(), np.int64, len(counter))
    return counts


def tail_items(counts: np.ndarray, tail: float) -> np.ndarray:
    """(V,) whether an item belongs to the tail, as RecBole's key `tail_ratio` says.

    Args:
        counts: (V,) training interactions of each item; items without any belong to no tail.
        tail: above 1 the largest count of the tail, otherwise the share of items in it (one at least), rarest first,
            equal counts in order of id.
    """
    if tail > 1:
        return (counts > 0) & (counts <= tail)
    seen = np.flatnonzero(counts)
    rarest = seen[np.argsort(counts[seen], kind="stable")]
    inside = np.zeros(len(counts), dtype=bool)
    inside[rarest[: max(int(len(seen) * tail), 1)]] = True
    return inside


def list_means(items: np.ndarray, values: np.ndarray, topk: Sequence[int]) -> np.ndarray:
    """Mean value of the first k items, (R, C); items (R, K), values (V,), C cut-offs."""
    cutoffs = np.asarray(topk, dtype=np.int64)
    sums: np.ndarray = np.cumsum(values[items], axis=1, dtype=np.float64)
    return sums[:, cutoffs - 1] / cutoffs
