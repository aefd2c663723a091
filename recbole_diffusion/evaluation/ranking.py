"""Full ranking: the best items of every row and the ranks of its targets, without ever holding users x items.

Scores come in blocks, and a block is gone before the next one comes: of some rows and all items where a model scores
items itself (RecBole's `full_sort_predict`), of some rows and some items, with a running top k, where it gives vectors.

The order of items is total, so that a result does not depend on how blocks are cut: higher score first, among equal
scores the lower id. (`torch.topk`, which RecBole ranks with, leaves the order of equal scores open.) An item scored
-inf is not ranked: the padding item 0, and items of the history that are left out. Where a row has fewer than k items
to rank, item 0 fills up. The rank of a target is its place in that order, from 1.

Top k of a block in one pass over the scores: the maxima of groups of neighbouring items are a small matrix; the k best
items of a row lie in its k groups with the best maxima (lower group first among equal ones), so k x group items remain.
Rows with equal scores among their best, which are few in most models, are chosen a second time, by score and id.

Shapes: B rows, V items (0 is padding), C items of a block, k cut-off, T targets of all rows, K vectors a row,
D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_diffusion.errors import UserError

GROUP = 64  # items a maximum is taken of
CPU_BLOCK_BYTES = 16 * 2**20  # below malloc's 32 MiB, from which on every block would be mapped anew
BLOCK_ITEMS = 16384  # items of a block, at least, where there are more rows than fit
MERGE_AFTER = 8  # blocks whose best items are kept before they are merged

Pairs = tuple[Tensor, Tensor]


def _ordered_integers(values: Tensor) -> Tensor:
    """float32 (...) -> int64 in the same order; 0.0 and -0.0 are one."""
    bits = (values + 0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)


def _first(values: Tensor, k: int) -> Tensor:
    """Columns of the k highest values of each row (B, C), the lower column first among equal ones: (B, k)."""
    width = values.shape[1]
    if values.dtype != torch.float32:
        return torch.sort(values, dim=1, descending=True, stable=True).indices[:, :k]
    keys = _ordered_integers(values) << 32
    keys |= torch.arange(width - 1, -1, -1, device=values.device)
    return width - 1 - (torch.topk(keys, k, dim=1).values & 0xFFFFFFFF)


def _any(values: Tensor, k: int) -> Tensor:
    """Columns of the k highest values of each row, any first among equal ones: (B, k)."""
    return torch.topk(values, k, dim=1).indices


def _through_groups(scores: Tensor, k: int, best: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Values and columns of the k highest scores of each row (B, C), chosen by `best` among groups, then in them."""
    width = scores.shape[1]
    group = GROUP
    while group > 8 and width < 4 * k * group:
        group //= 2
    if width < 4 * k * group:
        ids = best(scores, k)
        return scores.gather(1, ids), ids
    whole = width // group
    maxima = scores[:, : whole * group].unflatten(1, (whole, group)).amax(2)
    if whole * group < width:
        maxima = torch.cat((maxima, scores[:, whole * group :].amax(1, keepdim=True)), dim=1)
    starts = best(maxima, k).sort(dim=1).values * group
    ids = (starts[:, :, None] + torch.arange(group, device=scores.device)).flatten(1)
    if whole * group < width:
        candidates = scores.gather(1, ids.clamp_max(width - 1)).masked_fill_(ids >= width, -torch.inf)
    else:
        candidates = scores.gather(1, ids)
    chosen = best(candidates, k)
    return candidates.gather(1, chosen), ids.gather(1, chosen)


def top_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best items of each row, best first, the lower id first among equal scores.

    Args:
        scores: (B, C) float32 or float64.
        k: how many; all C where there are fewer.

    Returns:
        Their scores and ids, (B, min(k, C)) each.

    Raises:
        UserError: a score is NaN.
    """
    k = min(k, scores.shape[1])
    # One more than k. Where these differ, the first k are the only k with such scores; other rows are done again.
    values, ids = _through_groups(scores, min(k + 1, scores.shape[1]), _any)
    _refuse_nan(values)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    values, ids = values[:, :k], ids[:, :k]
    if bool(tied.any()):
        for rows in tied.nonzero()[:, 0].split(max(1, len(scores) // 8)):  # copies of an eighth of the block at most
            values[rows], ids[rows] = _through_groups(scores[rows], k, _first)
    return values, ids


def _refuse_nan(values: Tensor) -> None:
    """Refuse rows whose highest score is NaN, which torch takes for the highest of all."""
    broken = torch.isnan(values[:, 0])
    if bool(broken.any()):
        raise UserError(
            f"the model's scores are not numbers (NaN) in {int(broken.sum())} of {len(broken)} rows, which cannot be "
            "ranked; lower learning_rate or set clip_grad_norm: {max_norm: 1.0}"
        )


class TopItems:
    """The k best items of each row over blocks of items that come in order of their ids."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._blocks: list[tuple[Tensor, Tensor]] = []

    def update(self, scores: Tensor, first_item: int) -> None:
        """Take a block: scores (B, C) of the items `first_item` .. `first_item` + C - 1."""
        values, ids = top_items(scores, self.k)
        self._blocks.append((values, ids + first_item))
        if len(self._blocks) > MERGE_AFTER:
            self._blocks = [self.best()]

    def best(self) -> tuple[Tensor, Tensor]:
        """Scores and ids so far, (B, k) each (fewer columns while fewer items came)."""
        if len(self._blocks) == 1:
            return self._blocks[0]
        # blocks are in order of ids, and so is each block among equal scores: the lower column is the lower id
        values, ids = (torch.cat(parts, dim=1) for parts in zip(*self._blocks))
        values, columns = top_items(values, self.k)
        return values, ids.gather(1, columns)


def _ranked_rows(values: Tensor, ids: Tensor, k: int, counts: TargetCounts | None = None) -> RankedRows:
    """Rows with k columns on the CPU, item 0 where the score is -inf or there is no item."""
    items = torch.where(values > -torch.inf, ids, 0).to(torch.int32).cpu().numpy()
    if items.shape[1] == k:
        return RankedRows(items, counts, values.detach().cpu().numpy())
    more = ((0, 0), (0, k - items.shape[1]))
    return RankedRows(np.pad(items, more), counts, np.pad(values.detach().cpu().numpy(), more, constant_values=-np.inf))


@dataclass(frozen=True)
class TargetCounts:
    """Where targets stand among all items of their row.

    Attributes:
        above: (T,) items with a higher score than the target.
        level: (T,) items with the target's score, the target included.
        before: (T,) those of `level` with a lower id.
        ranked: (T,) whether the target is ranked at all; its score is not -inf.
        candidates: (B,) ranked items of each row.
    """

    above: np.ndarray
    level: np.ndarray
    before: np.ndarray
    ranked: np.ndarray
    candidates: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """(T,) int64 place of each target in its row's order, from 1; 0 where it is not ranked."""
        return np.where(self.ranked, 1 + self.above + self.before, 0)

    @staticmethod
    def join(parts: list[TargetCounts]) -> TargetCounts:
        """Counts of several batches, end to end."""
        names = ("above", "level", "before", "ranked", "candidates")
        return TargetCounts(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def count_targets(scores: Tensor, row: Tensor, item: Tensor) -> TargetCounts:
    """Count the items above, level with and before each target.

    Args:
        scores: (B, V), -inf where an item is not ranked.
        row: (T,) row of each target.
        item: (T,) its item.
    """
    row, item = row.to(scores.device), item.to(scores.device)
    target = scores[row, item]
    count = _count_row_by_row if scores.device.type == "cpu" else _count_in_blocks
    above, level, before, candidates = count(scores, row, item, target)
    return TargetCounts(above, level, before, (target > -torch.inf).cpu().numpy(), candidates)


def _count_row_by_row(scores: Tensor, row: Tensor, item: Tensor, target: Tensor) -> tuple[np.ndarray, ...]:
    """On a CPU, one row at a time: numpy counts a boolean row 20 times faster than torch sums a matrix of them."""
    values = scores.numpy()
    counts = np.zeros((3, len(row)), dtype=np.int64)
    for index, (r, i, score) in enumerate(zip(row.tolist(), item.tolist(), target.numpy())):
        counts[0, index] = np.count_nonzero(values[r] > score)
        counts[1, index] = np.count_nonzero(values[r] == score)
        if counts[1, index] > 1:
            counts[2, index] = np.count_nonzero(values[r, :i] == score)
    candidates = np.array([np.count_nonzero(line > -np.inf) for line in values], dtype=np.int64)
    return counts[0], counts[1], counts[2], candidates


def _count_in_blocks(scores: Tensor, row: Tensor, item: Tensor, target: Tensor) -> tuple[np.ndarray, ...]:
    """On an accelerator: as many targets at a time as there are rows."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    counts = torch.zeros((3, len(row)), dtype=torch.int64, device=scores.device)
    step = max(scores.shape[0], 1)
    for begin in range(0, len(row), step):
        part = slice(begin, begin + step)
        lines, score = scores[row[part]], target[part, None]
        level = lines == score
        counts[0, part] = (lines > score).sum(1)
        counts[1, part] = level.sum(1)
        counts[2, part] = (level & (ids < item[part, None])).sum(1)
    candidates = (scores > -torch.inf).sum(1)
    above, level_counts, before = counts.cpu().numpy()
    return above, level_counts, before, candidates.cpu().numpy()


@dataclass(frozen=True)
class RankedRows:
    """What is kept of a batch.

    Attributes:
        items: (B, k) int32 best items, best first; 0 where there are fewer.
        counts: where its targets stand; None where that was not asked for.
        scores: (B, k) the scores of `items`; -inf where there is none.
    """

    items: np.ndarray
    counts: TargetCounts | None
    scores: np.ndarray


def by_row(pairs: Pairs) -> Pairs:
    """(row, item) pairs on the CPU in order of rows, those of a row in the order given."""
    row, item = (part.cpu() for part in pairs)
    if bool((row[1:] < row[:-1]).any()):
        order = torch.argsort(row, stable=True)
        row, item = row[order], item[order]
    return row, item


class _RowPairs:
    """(row, item) pairs of a batch, to be had by range of rows."""

    def __init__(self, pairs: Pairs | None) -> None:
        nothing = torch.zeros(0, dtype=torch.int64)
        self.row, self.item = (nothing, nothing) if pairs is None else by_row(pairs)

    def of(self, begin: int, stop: int) -> Pairs:
        """Pairs of the rows begin .. stop - 1, rows counted from `begin`."""
        low, high = torch.searchsorted(self.row, torch.tensor([begin, stop])).tolist()
        return self.row[low:high] - begin, self.item[low:high]


def rank_scores(scores: Tensor, k: int, targets: Pairs | None = None, seen: Pairs | None = None) -> RankedRows:
    """Rank the rows of one block with all items.

    Args:
        scores: (B, V), item 0 at -inf; changed in place where `seen` says so.
        k: how many of the best items to keep.
        targets: row and item of each target, to count their ranks; None counts none.
        seen: row and item of what is not to be ranked.
    """
    if not scores.is_floating_point() or scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if seen is not None and len(seen[0]):
        scores[seen[0].to(scores.device), seen[1].to(scores.device)] = -torch.inf
    values, ids = top_items(scores, k)
    counts = None if targets is None else count_targets(scores, *targets)
    return _ranked_rows(values, ids, k, counts)


def _join(parts: list[RankedRows]) -> RankedRows:
    if len(parts) == 1:
        return parts[0]
    counts = [part.counts for part in parts if part.counts is not None]
    return RankedRows(
        np.concatenate([part.items for part in parts]),
        TargetCounts.join(counts) if counts else None,
        np.concatenate([part.scores for part in parts]),
    )


def _cuts(size: int, step: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, size, step):
        yield begin, min(begin + step, size)


def rank_by_rows(
    score_rows: Callable[[int, int], Tensor],
    n_rows: int,
    n_items: int,
    k: int,
    *,
    memory: int,
    bytes_per_score: int = 4,
    targets: Pairs | None = None,
    seen: Pairs | None = None,
) -> RankedRows:
    """Rank a batch in blocks of rows, each with all items.

    Args:
        score_rows: (begin, stop) -> scores (stop - begin, V) of those rows, item 0 at -inf.
        n_rows: B.
        n_items: V.
        k: how many of the best items to keep.
        memory: bytes that a block may take; a block has one row at least.
        bytes_per_score: bytes that one score takes while it is computed.
        targets: row and item of each target, in order of the rows, to count their ranks; None counts none.
        seen: row and item of what is not to be ranked.
    """
    step = max(1, memory // (n_items * bytes_per_score))
    left_out, wanted = _RowPairs(seen), None if targets is None else _RowPairs(targets)
    parts = [
        rank_scores(
            score_rows(begin, stop),
            k,
            None if wanted is None else wanted.of(begin, stop),
            left_out.of(begin, stop),
        )
        for begin, stop in _cuts(n_rows, step)
    ]
    return _join(parts)


def rank_by_vectors(
    users: Tensor,
    items: Tensor,
    relevance: Callable[[Tensor, Tensor], Tensor],
    k: int,
    *,
    memory: int,
    targets: Pairs | None = None,
    seen: Pairs | None = None,
) -> RankedRows:
    """Rank a batch in blocks of rows and items, with a running top k.

    Where targets are counted, a block has all items: a target's score is compared with the others of the same product.

    Args:
        users: (B, K, D); the score of an item is the best over the K.
        items: (V, D), row 0 padding.
        relevance: vectors (b, K, D) and (C, D) -> scores (b, K, C).
        k: how many of the best items to keep.
        memory: bytes that a block may take.
        targets: row and item of each target, in order of the rows, to count their ranks; None counts none.
        seen: row and item of what is not to be ranked.
    """
    n_rows, n_vectors = users.shape[:2]
    n_items = items.shape[0]

    def score(rows: slice, columns: slice) -> Tensor:
        scores = relevance(users[rows], items[columns])
        scores = (scores[:, 0] if n_vectors == 1 else scores.amax(1)).float()
        if columns.start == 0:
            scores[:, 0] = -torch.inf
        return scores

    if targets is not None:
        return rank_by_rows(
            lambda begin, stop: score(slice(begin, stop), slice(0, n_items)),
            n_rows,
            n_items,
            k,
            memory=memory,
            bytes_per_score=4 * n_vectors,
            targets=targets,
            seen=seen,
        )
    if users.device.type == "cpu":
        memory = min(memory, CPU_BLOCK_BYTES)
    cells = max(1, memory // 4 // n_vectors)
    rows_step = min(n_rows, max(1, cells // min(n_items, BLOCK_ITEMS)))
    items_step = max(1, cells // rows_step)
    left_out = _RowPairs(seen)
    parts = []
    for begin, stop in _cuts(n_rows, rows_step):
        row, item = left_out.of(begin, stop)
        if len(row):
            order = torch.argsort(item)
            row, item = row[order].to(users.device), item[order]
        top = TopItems(k)
        for low, high in _cuts(n_items, items_step):
            scores = score(slice(begin, stop), slice(low, high))
            if len(row):
                first, last = torch.searchsorted(item, torch.tensor([low, high])).tolist()
                scores[row[first:last], item[first:last].to(users.device) - low] = -torch.inf
            top.update(scores, low)
        parts.append(_ranked_rows(*top.best(), k))
    return _join(parts)
