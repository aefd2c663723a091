"""Several reverse chains of one history merged into one list: accuracy against diversity.

DiffuRec, section 5.8: reversing x_0 from 100 noises gives one history's top-20 lists 643 different items, "consequently
leading to the diversified retrieval results". One list has k places. A share of them, `diversity`, goes to what single
chains rank first, the others to what the chains rank first on the mean:

    q = floor(diversity k + 1/2)
    the first k - q   best by f(i), the score of the mean of the chains' user vectors
    the other q       best by r(i) = min_s (rank of i in chain s), among equal r by f(i), then by id; none twice

So 0 is the model with S times as many `n_eval_samples`, the accurate end. 1 is the union of the chains' lists by best
rank: the list's items with r(i) <= n are exactly those in the chains' top n, so with k large enough it begins with
DiffuRec's 643 items. Every item's score is f(i). Why places, and not a mixture of scores:
docs/decisions/115-merging-chains.md.

Shapes: B rows, S chains, k cut-off, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import RankedRows
from recbole_diffusion.models.base import checked_seed

DIVERSITY = 0.5


@dataclass(frozen=True)
class Sampling:
    """How many chains are drawn, and how they are merged.

    Attributes:
        samples: S; 1 ranks as evaluation does.
        diversity: share of the places that go to single chains' own items, 0 to 1.
        seed: of the noise; None is the run's `eval_seed`.
    """

    samples: int = 1
    diversity: float = 0.0
    seed: int | None = None

    @classmethod
    def of(cls, samples: int, diversity: float | None, seed: int | None) -> Sampling:
        """Checked; a diversity of None is `DIVERSITY` where there are chains to merge.

        Raises:
            UserError: a number is out of range, or a diversity is given for one chain.
        """
        if not isinstance(samples, (int, np.integer)) or isinstance(samples, bool) or samples < 1:
            raise UserError(f"n_samples is {samples!r}; it must be a whole number, 1 or more")
        seed = None if seed is None else checked_seed(seed)
        if diversity is None:
            return cls(int(samples), DIVERSITY if samples > 1 else 0.0, seed)
        if isinstance(diversity, bool) or not isinstance(diversity, (int, float)) or not 0 <= diversity <= 1:
            raise UserError(f"diversity is {diversity!r}; it must be from 0 (accurate) to 1 (diverse)")
        if samples == 1:
            raise UserError("diversity merges several chains, and n_samples is 1; set n_samples, such as 10")
        return cls(int(samples), float(diversity), seed)


def merge_chains(
    mean: RankedRows, chains: RankedRows, score: Callable[[int, np.ndarray], np.ndarray], diversity: float
) -> RankedRows:
    """One list a row.

    Args:
        mean: (B, k) best items by the mean of the chains, and their scores.
        chains: (S B, k) best items of each chain, all rows of chain 0 first.
        score: number of a row, ids (C,) -> f of these items, (C,).
        diversity: share of the places for single chains' own items.
    """
    rows, k = mean.items.shape
    own = int(diversity * k + 0.5)
    items, scores = mean.items.copy(), mean.scores.copy()
    items[:, k - own :], scores[:, k - own :] = 0, -np.inf
    if own == 0:
        return RankedRows(items, None, scores)
    lists = chains.items.reshape(-1, rows, k)
    for row in range(rows):
        candidates, ranks = best_ranks(lists[:, row])
        free = ~np.isin(candidates, items[row, : k - own])
        candidates, ranks = candidates[free], ranks[free]
        values = score(row, candidates)
        order = np.lexsort((candidates, -values, ranks))[:own]
        taken = int((items[row] > 0).sum())
        items[row, taken : taken + len(order)] = candidates[order]
        scores[row, taken : taken + len(order)] = values[order]
    return RankedRows(items, None, scores)


def best_ranks(lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different items of one row's lists (S, k), 0 for none, in order of ids, and the best rank of each, from 0."""
    found, first = np.unique(lists.T.ravel(), return_index=True)  # rank after rank
    real = found > 0
    return found[real].astype(np.int64), first[real] // len(lists)
