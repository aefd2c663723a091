"""Metrics that are the mean of a value over the first k items of a row: popularity, tail, novelty.

    AveragePopularity@k   mean number of training interactions of the first k items
    TailPercentage@k      share of the first k items that are rare in training
    Novelty@k             mean self-information -log2 p(i) of the first k items, in bits

RecBole's the first two, number for number, without its Python loops over rows, items and the list of the tail (which
for 20,000 rows of 200,000 items takes hours). Unlike coverage, entropy and Gini they have a value for every row.

p(i) is the item's share of all training interactions, the p(i | seen) of Vargas and Castells, "Rank and relevance in
novelty and diversity metrics for recommender systems", RecSys 2011. Zhou et al., "Solving the apparent
diversity-accuracy dilemma of recommender systems", PNAS 107 (2010), take the share of users who have the item; that
subtracts log2(interactions a user) from every value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ROWS_AT_ONCE = 65_536  # rows whose novelty is computed at a time


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


def self_information(counts: np.ndarray) -> np.ndarray:
    """-log2 of each item's share of all training interactions, in bits; (V,) float64.

    Args:
        counts: (V,) training interactions of each item, one at least. An item without any is taken to be as rare as the
            rarest of the others, as in RankSys, the code of Vargas and Castells; its own value would be infinite.
    """
    rarest = counts[counts > 0].min()
    return -np.log2(np.maximum(counts, rarest) / counts.sum())


def novelty(items: np.ndarray, information: np.ndarray, topk: Sequence[int]) -> np.ndarray:
    """Mean self-information of the first k items, (R, C), or of those there are, where fewer than k were ranked.

    Args:
        items: (R, K) ids, 0 where no item was ranked; a row has one at least.
        information: (V,) self-information of each item.
        topk: C cut-offs.
    """
    cutoffs = np.asarray(topk, dtype=np.int64)
    means = np.empty((len(items), len(cutoffs)))
    for begin in range(0, len(items), ROWS_AT_ONCE):
        part = items[begin : begin + ROWS_AT_ONCE]
        sums: np.ndarray = np.cumsum(np.where(part > 0, information[part], 0.0), axis=1)
        sizes: np.ndarray = np.cumsum(part > 0, axis=1)
        means[begin : begin + ROWS_AT_ONCE] = sums[:, cutoffs - 1] / np.maximum(sizes[:, cutoffs - 1], 1)
    return means
