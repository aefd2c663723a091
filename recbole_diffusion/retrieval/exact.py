"""Exact retrieval: every item is scored, in blocks, with a running top k. Evaluation ranks by the same code.

    score(b, i) = max_k relevance(x_bk, e_i)

Order and ties are `recbole_diffusion.evaluation.ranking`'s: higher score first, among equal scores the lower id.
Shapes: B rows, K user vectors a row, V items (0 is padding), D embedding, k cut-off, C candidates of a row.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

from recbole_diffusion.evaluation.ranking import Pairs, RankedRows, rank_by_vectors
from recbole_diffusion.models.base import Score, relevance

MEMORY = 256 * 2**20  # bytes of a block of scores


class ItemSearch(Protocol):
    """What finds the best items of user vectors.

    Attributes:
        items: (V, D), row 0 padding.
        score: how vectors are compared.
        approximate: whether it may miss some of the best items.
    """

    items: Tensor
    score: Score
    approximate: bool

    def search(self, users: Tensor, k: int, *, exclude: Pairs | None = None) -> RankedRows:
        """The k best items of each row.

        Args:
            users: (B, K, D), or (B, D) for one vector a row; an item's score is the best over the K.
            k: how many.
            exclude: row and item, (n,) each, of what is not to be found.

        Returns:
            Ids (B, k) and scores (B, k), best first; id 0 and -inf where there are fewer.
        """
        ...

    def add(self, vectors: Tensor) -> None:
        """Search among more items, too: vectors (A, D), whose ids are those that follow."""
        ...


class ExactSearch:
    """Search through all items.

    Args:
        items: (V, D), row 0 padding.
        score: how vectors are compared: dot, neg_sq_dist or cosine.
        memory: bytes that a block of scores may take.
    """

    def __init__(self, items: Tensor, score: Score, memory: int = MEMORY) -> None:
        self.items = items.detach()
        self.score = score
        self.memory = memory
        self.approximate = False

    @torch.no_grad()
    def search(self, users: Tensor, k: int, *, exclude: Pairs | None = None) -> RankedRows:
        """See :meth:`ItemSearch.search`."""
        by = functools.partial(relevance, score=self.score)
        return rank_by_vectors(as_rows(users), self.items, by, k, memory=self.memory, seen=exclude)

    def add(self, vectors: Tensor) -> None:
        """See :meth:`ItemSearch.add`."""
        self.items = torch.cat((self.items, vectors.to(self.items)))


def as_rows(users: Tensor) -> Tensor:
    """User vectors (B, K, D) of (B, K, D) or (B, D)."""
    return users[:, None] if users.dim() == 2 else users


@torch.no_grad()
def candidate_scores(users: Tensor, items: Tensor, candidates: Tensor, score: Score) -> Tensor:
    """Scores of a row's own candidates, the best over its user vectors.

    Args:
        users: (K, D) of one row.
        items: (V, D).
        candidates: (C,) ids.
        score: how vectors are compared.

    Returns:
        (C,) float32.
    """
    return relevance(users, items.index_select(0, candidates), score).amax(0).float()
