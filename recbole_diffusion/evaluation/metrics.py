"""Ranking metrics of every row, vectorised over rows.

With hits h_1 .. h_K (h_r = 1 where the item at rank r is one of the row's targets), n targets, and cut-off k:

    Hit        1 if a hit is among the first k                       Precision  hits among the first k / k
    Recall     hits among the first k / n                            MRR        1 / rank of the first hit, if <= k
    MAP        sum_{r<=k} h_r Precision@r / min(n, k)
    DCG        sum_{r<=k} h_r / log2(r + 1)
    NDCG       DCG / (DCG of min(n, k) hits at the top)
    NDCGHits   DCG / (DCG of the hits found, at the top); 0 without a hit

Hit to NDCG are RecBole's, number for number (Precision and MAP too divide by k where fewer items were ranked).
`NDCGHits` is what ComiRec's code reports as NDCG. Two more exist to compare with printed tables, and measure no
ranking (docs/evaluation.md has their sources):

    NDCGLabelOrder   the discount of a hit is its place among the row's targets in order of time, not its rank
    NDCGSetOrder     the discount is the place at which Python iterates over the set of the first k ids

n counts different targets, as RecBole does. With `label_repeats` Recall counts a target as often as it occurs, as
ComiRec's code does; hits always are different items.

Shapes: R rows, T targets of all rows, K items kept, C cut-offs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PIECE = 65_536  # rows whose metrics are computed at a time


@dataclass(frozen=True)
class Ranking:
    """The best items of each row, and its targets.

    Attributes:
        items: (R, K) ids, best first; 0 where fewer items were ranked.
        targets: (T,) ids of all rows' targets, end to end, those of a row in order of time.
        offsets: (R + 1,) row r has the targets offsets[r] .. offsets[r + 1] - 1.
        label_repeats: whether a target that occurs twice counts twice in the number of targets.
        set_ids: (V,) the number of each item in the set of `NDCGSetOrder`; None takes the id.

    Raises:
        ValueError: a row has no target.
    """

    items: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    label_repeats: bool = False
    set_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        empty = np.flatnonzero(np.diff(self.offsets) < 1)
        if len(empty):
            raise ValueError(f"row {empty[0]} has no target ({len(empty)} such rows); a row to rank needs one at least")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.items)

    def pieces(self, rows: int) -> Iterator[tuple[int, Ranking]]:
        """The same ranking, so many rows at a time, each piece with the number of its first row."""
        for begin in range(0, len(self), rows):
            offsets = self.offsets[begin : begin + rows + 1]
            yield (
                begin,
                Ranking(
                    self.items[begin : begin + rows],
                    self.targets[offsets[0] : offsets[-1]],
                    offsets - offsets[0],
                    self.label_repeats,
                    self.set_ids,
                ),
            )

    @cached_property
    def counts(self) -> np.ndarray:
        """(R,) targets of each row, repeats counted."""
        return np.diff(self.offsets)

    @cached_property
    def target_rows(self) -> np.ndarray:
        """(T,) row of each target."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """(R, K) and (T,): one number for each (row, item); negative where no item was ranked."""
        width = 1 + max(int(self.items.max(initial=0)), int(self.targets.max(initial=0)))
        rows = np.arange(len(self), dtype=np.int64)
        found = np.where(self.items > 0, rows[:, None] * width + self.items, -1)
        return found, self.target_rows * width + self.targets

    @cached_property
    def labels(self) -> np.ndarray:
        """(R,) different targets of each row."""
        if len(self.targets) == len(self):
            return np.ones(len(self), dtype=np.int64)
        keys = np.sort(self._keys[1])
        new = np.ones(len(keys), dtype=bool)
        new[1:] = keys[1:] != keys[:-1]
        return np.add.reduceat(new, self.offsets[:-1], dtype=np.int64)

    @cached_property
    def hits(self) -> np.ndarray:
        """(R, K) whether the item at each rank is a target."""
        if len(self.targets) == len(self):
            return (self.items == self.targets[:, None]) & (self.items > 0)
        found, wanted = self._keys
        wanted = np.sort(wanted)
        place = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
        return wanted[place] == found

    def ranks(self) -> np.ndarray:
        """(T,) rank of each target among the K items kept, from 1; 0 where it is not among them."""
        found, wanted = self._keys
        order = np.argsort(found, axis=None, kind="stable")
        ranked = found.ravel()[order]
        place = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
        return np.where(ranked[place] == wanted, order[place] % found.shape[1] + 1, 0)


RowMetric = Callable[[Ranking, np.ndarray], np.ndarray]


def _discounts(count: int) -> np.ndarray:
    """1 / log2(r + 1) for r = 1 .. count."""
    return 1.0 / np.log2(np.arange(2, count + 2))


def _ideal(count: int) -> np.ndarray:
    """(count + 1,) DCG of 0, 1, .. count hits at the top."""
    return np.concatenate(([0.0], np.cumsum(_discounts(count))))


def _found(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """(R, C) hits among the first k."""
    return np.cumsum(ranking.hits, axis=1, dtype=np.int32)[:, cutoffs - 1]


def _dcg(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """(R, C) discounted hits."""
    return np.cumsum(ranking.hits * _discounts(ranking.hits.shape[1]), axis=1)[:, cutoffs - 1]


def hit(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """1 where a target is among the first k, (R, C)."""
    return (_found(ranking, cutoffs) > 0).astype(np.float64)


def recall(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """Share of the targets that are among the first k, (R, C)."""
    n = ranking.counts if ranking.label_repeats else ranking.labels
    return _found(ranking, cutoffs) / n[:, None]


def precision(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """Share of the first k that are targets, (R, C)."""
    return _found(ranking, cutoffs) / cutoffs


def mrr(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """1 / rank of the first hit where it is among the first k, else 0; (R, C)."""
    rank = np.where(ranking.hits.any(1), ranking.hits.argmax(1) + 1, 0)[:, None]
    return np.where((rank > 0) & (rank <= cutoffs), 1.0 / np.maximum(rank, 1), 0.0)


def average_precision(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """Mean over min(n, k) of the precision at each hit, (R, C)."""
    at_hits = ranking.hits * np.cumsum(ranking.hits, axis=1) / np.arange(1, ranking.hits.shape[1] + 1)
    return np.cumsum(at_hits, axis=1)[:, cutoffs - 1] / np.minimum(ranking.labels[:, None], cutoffs)


def ndcg(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """DCG over that of min(n, k) hits at the top, (R, C)."""
    ideal = _ideal(int(cutoffs.max()))
    return _dcg(ranking, cutoffs) / ideal[np.minimum(ranking.labels[:, None], cutoffs)]


def _over_hits(dcg: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """`dcg` over the DCG of as many hits at the top; 0 without a hit."""
    return np.where(hits > 0, dcg / _ideal(max(int(hits.max(initial=0)), 1))[np.maximum(hits, 1)], 0.0)


def ndcg_hits(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """DCG over that of the hits found at the top, (R, C)."""
    return _over_hits(_dcg(ranking, cutoffs), _found(ranking, cutoffs))


def ndcg_label_order(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """Like `ndcg_hits`, the rank of a hit replaced by its place among the row's targets, (R, C).

    A target that occurs twice is found twice, as in the code this stands for.
    """
    ranks = ranking.ranks()
    place = np.arange(len(ranking.targets)) - np.repeat(ranking.offsets[:-1], ranking.counts)
    discount = _discounts(int(ranking.counts.max()))[place]
    found = (ranks[:, None] > 0) & (ranks[:, None] <= cutoffs)
    starts = ranking.offsets[:-1]
    dcg = np.add.reduceat(found * discount[:, None], starts, axis=0)
    return _over_hits(dcg, np.add.reduceat(found, starts, axis=0, dtype=np.int64))


def set_order(ids: Iterable[int]) -> list[int]:
    """The order in which Python iterates over a set that `ids` were put into one after the other.

    It follows the ids' hash values, which for small integers are the ids, and not the order of `ids`.
    """
    members: set[int] = set()
    for number in ids:
        members.add(number)
    return list(members)


def ndcg_set_order(ranking: Ranking, cutoffs: np.ndarray) -> np.ndarray:
    """Like `ndcg_hits`, the rank of a hit replaced by its place in the set of the first k items, (R, C)."""
    numbers = ranking.items if ranking.set_ids is None else ranking.set_ids[ranking.items]
    dcg = np.zeros((len(ranking), len(cutoffs)))
    discount = _discounts(ranking.items.shape[1]).tolist()
    for row in np.flatnonzero(ranking.hits.any(1)):
        listed = int(np.count_nonzero(ranking.items[row]))
        line = numbers[row, :listed].tolist()
        targets = {number for number, is_hit in zip(line, ranking.hits[row].tolist()) if is_hit}
        for column, cutoff in enumerate(cutoffs.tolist()):
            order = set_order(line[:cutoff])
            dcg[row, column] = sum(discount[place] for place, number in enumerate(order) if number in targets)
    return _over_hits(dcg, _found(ranking, cutoffs))


# Name in a configuration -> function. The first six are RecBole's metrics, the others this package's.
ROW_METRICS: dict[str, RowMetric] = {
    "Hit": hit,
    "Recall": recall,
    "Precision": precision,
    "MRR": mrr,
    "MAP": average_precision,
    "NDCG": ndcg,
    "NDCGHits": ndcg_hits,
    "NDCGLabelOrder": ndcg_label_order,
    "NDCGSetOrder": ndcg_set_order,
}
_BY_LOWER_NAME = {name.lower(): function for name, function in ROW_METRICS.items()}


def row_metrics(ranking: Ranking, names: Sequence[str], topk: Sequence[int]) -> dict[str, np.ndarray]:
    """Metrics of every row.

    Args:
        ranking: best items and targets; K must reach the largest cut-off.
        names: of `ROW_METRICS`, in any case.
        topk: cut-offs, from 1.

    Returns:
        "<name in lower case>@<k>" -> (R,) float64, names in the order given, cut-offs in theirs.

    Raises:
        ValueError: the ranking has fewer items than a cut-off asks for.
    """
    cutoffs = np.asarray(topk, dtype=np.int64)
    if cutoffs.max() > ranking.items.shape[1]:
        raise ValueError(f"a cut-off of {cutoffs.max()} needs as many items a row, there are {ranking.items.shape[1]}")
    result = {f"{name.lower()}@{k}": np.empty(len(ranking)) for name in names for k in topk}
    for begin, piece in ranking.pieces(PIECE):
        for name in names:
            values = _BY_LOWER_NAME[name.lower()](piece, cutoffs)
            for column, k in enumerate(topk):
                result[f"{name.lower()}@{k}"][begin : begin + len(piece)] = values[:, column]
    return result


def popularity_numbers(counts: np.ndarray) -> np.ndarray:
    """Numbers 1 .. V-1 of items by descending count, equal counts in order of id; item 0 keeps 0.

    Args:
        counts: (V,) interactions of each item, item 0 the padding.
    """
    order = 1 + np.argsort(-np.asarray(counts)[1:], kind="stable")
    numbers = np.zeros(len(counts), dtype=np.int64)
    numbers[order] = np.arange(1, len(counts))
    return numbers
