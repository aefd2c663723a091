"""Metrics of the categories of recommended items.

CATE(i) is the set of categories of item i, which may be empty. The first k items of a row are i_1 .. i_N: N is k, or
fewer where fewer items were ranked. n_c of them are of category c, m_S of them have exactly the set of categories S.

    CategoryCount          |CATE(i_1) u .. u CATE(i_N)|, the average number of categories of DimeRec's Table 2
    CategoryConcentration  mean over the N (N - 1) / 2 pairs of |CATE(i_j) symmetric difference CATE(i_l)|, the Hamming
                           distance of the two sets as vectors of 0 and 1: DMI's Eq. 21-22. The lower, the more alike
    CategoryDiversity      share of the pairs with CATE(i_j) != CATE(i_l): DMI's Eq. 23, ComiRec's diversity
    HitCategoryCount       |union of CATE over the hits among the first k|; DMI's Div(hit) as its text has it is the sum
                           over rows, which is this mean times the number of rows
    HitCategoryUnion       different categories among the hits of all rows together; it has no value for a row

A pair differs in category c if one of the two has it, which n_c (N - n_c) pairs do; so no pair is looked at:

    CategoryConcentration = sum_c n_c (N - n_c) / (N (N - 1) / 2)
    CategoryDiversity     = sum_S m_S (N - m_S) / 2 / (N (N - 1) / 2)

With one category an item the first is twice the second. A list of one item has no pair; both are 0. Sources, and what
the papers leave open: docs/decisions/098-categories-and-novelty.md.

Shapes: R rows, K items kept, C cut-offs, V items (0 is padding), P pairs of item and category.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recbole_diffusion.evaluation.metrics import Ranking

ITEMS_AT_ONCE = 1 << 18  # items of lists whose categories are looked up at a time


@dataclass(frozen=True)
class ItemCategories:
    """The categories of every item, made by `of`.

    Attributes:
        offsets: (V + 1,) item i has the categories numbers[offsets[i]] .. numbers[offsets[i + 1] - 1].
        numbers: (P,) categories, different ones for an item.
        sets: (V,) a number for the item's set of categories: equal where the sets are equal.
    """

    offsets: np.ndarray
    numbers: np.ndarray
    sets: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, categories: np.ndarray, n_items: int) -> ItemCategories:
        """The categories of items that are given as pairs.

        Args:
            items: (P,) ids, each below V; items that are not among them have no category.
            categories: (P,) numbers from 0; no pair of item and category twice.
            n_items: V.
        """
        order = np.lexsort((categories, items))
        numbers = np.asarray(categories, dtype=np.int64)[order]
        offsets = np.concatenate(([0], np.cumsum(np.bincount(items, minlength=n_items)))).astype(np.int64)
        known: dict[bytes, int] = {}
        bounds = offsets.tolist()
        sets = [known.setdefault(numbers[begin:stop].tobytes(), len(known)) for begin, stop in pairwise(bounds)]
        return cls(offsets, numbers, np.array(sets, dtype=np.int64))

    def __len__(self) -> int:
        """V."""
        return len(self.sets)

    def in_lists(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The categories of each list.

        Args:
            items: (R, k) ids, 0 for none.

        Returns:
            For every different category of a list, list after list: the list's row, and n_c, how many of its items are
            of it.
        """
        rows, columns = np.nonzero(items)
        listed = items[rows, columns]
        lengths = self.offsets[listed + 1] - self.offsets[listed]
        places = np.arange(lengths.sum()) + np.repeat(self.offsets[listed] - np.cumsum(lengths) + lengths, lengths)
        return _counted(np.repeat(rows, lengths), self.numbers[places])

    def sets_in_lists(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The different sets of categories of each list (R, k): their rows, and m_S, how many items have it."""
        rows, columns = np.nonzero(items)
        return _counted(rows, self.sets[items[rows, columns]])


def _counted(rows: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different pairs of row and number, in order of rows: their row, and how often they occur."""
    width = 1 + int(numbers.max(initial=0))
    keys, counts = np.unique(rows.astype(np.int64) * width + numbers, return_counts=True)
    return keys // width, counts


def _share_of_pairs(rows: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """sum n (N - n) of each row over its pairs N (N - 1) / 2, (R,); `sizes` (R,) is N."""
    differing = np.bincount(rows, counts * (sizes[rows] - counts), minlength=len(sizes))
    pairs = sizes * (sizes - 1) / 2
    return np.divide(differing, pairs, out=np.zeros(len(sizes)), where=pairs > 0)


def category_count(items: np.ndarray, categories: ItemCategories) -> np.ndarray:
    """Different categories of each list (R, k) of items, 0 for none: (R,)."""
    return np.bincount(categories.in_lists(items)[0], minlength=len(items)).astype(np.float64)


def category_concentration(items: np.ndarray, categories: ItemCategories) -> np.ndarray:
    """Mean size of the symmetric difference of two items' categories, of each list (R, k) of items: (R,)."""
    return _share_of_pairs(*categories.in_lists(items), (items > 0).sum(1))


def category_diversity(items: np.ndarray, categories: ItemCategories) -> np.ndarray:
    """Share of pairs of items with different sets of categories, of each list (R, k) of items: (R,)."""
    return _share_of_pairs(*categories.sets_in_lists(items), (items > 0).sum(1)) / 2


# Name in a configuration -> function of lists, and whether the lists are the hits alone.
CATEGORY_METRICS = {
    "CategoryCount": (category_count, False),
    "CategoryConcentration": (category_concentration, False),
    "CategoryDiversity": (category_diversity, False),
    "HitCategoryCount": (category_count, True),
}
_BY_LOWER_NAME = {name.lower(): metric for name, metric in CATEGORY_METRICS.items()}


def _pieces(ranking: Ranking) -> Iterator[tuple[int, Ranking]]:
    """A ranking some rows at a time, with the number of the first."""
    return ranking.pieces(max(1, ITEMS_AT_ONCE // ranking.items.shape[1]))


def _hits(ranking: Ranking) -> np.ndarray:
    """(R, K) the items that are hits, 0 at the other ranks."""
    return np.where(ranking.hits, ranking.items, 0)


def category_metrics(
    ranking: Ranking, categories: ItemCategories, name: str, topk: Sequence[int]
) -> dict[str, np.ndarray]:
    """A metric of every row.

    Args:
        ranking: best items and targets; K must reach the largest cut-off.
        categories: of every item.
        name: of `CATEGORY_METRICS`, in any case.
        topk: cut-offs, from 1.

    Returns:
        "<name in lower case>@<k>" -> (R,) float64, cut-offs in the order given.
    """
    function, of_hits = _BY_LOWER_NAME[name.lower()]
    result = {f"{name.lower()}@{k}": np.empty(len(ranking)) for k in topk}
    for begin, piece in _pieces(ranking):
        items = _hits(piece) if of_hits else piece.items
        for k in topk:
            result[f"{name.lower()}@{k}"][begin : begin + len(piece)] = function(items[:, :k], categories)
    return result


def hit_category_union(ranking: Ranking, categories: ItemCategories, topk: Sequence[int]) -> dict[str, float]:
    """Different categories among the hits of all rows: "hitcategoryunion@<k>" -> their number."""
    found = {k: np.zeros(len(categories), dtype=bool) for k in topk}
    for _, piece in _pieces(ranking):
        items = _hits(piece)
        for k in topk:
            found[k][items[:, :k].ravel()] = True
    result = {}
    for k, hit in found.items():
        hit[0] = False
        rows, _ = categories.in_lists(np.flatnonzero(hit)[None])
        result[f"hitcategoryunion@{k}"] = float(len(rows))
    return result
