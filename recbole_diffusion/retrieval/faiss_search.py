"""Retrieval through an index of faiss: it proposes items, and their exact vectors score them.

    the index finds some items for each user vector  ->  what is to be left out is left out  ->  exact scores  ->  top k

So scores and their order are those of exact retrieval; only which items are looked at is approximate. The K vectors of
a row are searched one by one, and an item scores by the best of them: an item among the row's k best is among the k
best of the vector that it scores highest with, so nothing is lost by that.

At least as many items are asked for as the recall was measured at, and on top what a row leaves out, as the next of
16, 64, 256, ...; a row for which too few remain is asked again for twice as many, and one for which that is half of the
catalogue is ranked exactly. Items that were added after the index was built are scored exactly for every row.

A row's list depends on no other row: how far the index looks goes by the row alone, and of what it found with equal
code scores it keeps all or none. A flat index has every item, but hands on some: a row whose last item scores as what
may have been cut off is ranked exactly, so ties are broken by id.

Shapes: B rows, K user vectors a row, V items (0 is padding), D embedding, k cut-off, F items asked for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_diffusion.evaluation.ranking import Pairs, RankedRows, by_row, top_items
from recbole_diffusion.models.base import Score, pair_relevance
from recbole_diffusion.retrieval.exact import ExactSearch, as_rows, candidate_scores
from recbole_diffusion.retrieval.index_kinds import CODED, IndexSettings, Space, import_faiss

ONE_BY_ONE = 11  # faiss's way through the lists for one query at a time; 0 lets it choose, for many
FEWEST_OUT, OUT_RISES = 16, 4  # rows are asked together where what they leave out rounds up to the same number
TIE = 1e-6  # scores of equal vectors differ by less, of what is summed up in them
MARGIN = 8  # items asked for beyond k, since items of almost equal scores may change places when scored anew


class FaissSearch:
    """Search through an index.

    Args:
        index: faiss's, of the items 1 .. n in this order.
        items: (V, D) exact vectors, row 0 padding; those after the n-th are searched exactly.
        score: how vectors are compared: dot, neg_sq_dist or cosine.
        settings: how the index is searched.
        space: how it compares vectors.
        depth: the k at which the settings reach their recall; a larger one searches more widely.
    """

    def __init__(
        self, index: Any, items: Tensor, score: Score, settings: IndexSettings, space: Space, depth: int
    ) -> None:
        self.index = index
        self.items = items.detach().cpu().float()
        self.score = score
        self.settings = settings
        self.space = space
        self.depth = depth
        self.approximate = settings.kind != "flat"
        self._exact = ExactSearch(self.items, score)
        self._faiss = import_faiss()
        self._lists: Any = self._faiss.downcast_index(index.index) if settings.kind == "ivfpq" else None

    @property
    def indexed(self) -> int:
        """n, items in the index."""
        return int(self.index.ntotal)

    @torch.no_grad()
    def search(self, users: Tensor, k: int, *, exclude: Pairs | None = None) -> RankedRows:
        """See :meth:`~recbole_diffusion.retrieval.exact.ItemSearch.search`."""
        users = as_rows(users).detach().cpu().float()
        rows = len(users)
        left_out = _ItemsOfRows(exclude, rows)
        items = np.zeros((rows, k), dtype=np.int32)
        scores = np.full((rows, k), -np.inf, dtype=np.float32)
        wanted = np.minimum(k, len(self.items) - 1 - left_out.counts)
        ask = max(k, self.depth) + _rounded_up(left_out.counts) + MARGIN
        cut_off = np.full(rows, -np.inf, dtype=np.float32)  # no item that a flat index kept back scores higher
        waiting = np.arange(rows)
        while len(waiting):
            exactly = ask[waiting] * 2 > self.indexed if self.approximate else ask[waiting] < 0
            self._rank_exactly(users, waiting[exactly], k, left_out, items, scores)
            waiting = waiting[~exactly]
            short = []
            for group in np.unique(ask[waiting]):
                of_group = waiting[ask[waiting] == group]
                found, cut_off[of_group] = self._candidates(users[of_group], k, int(group))
                for row, candidates in zip(of_group.tolist(), found):
                    if not self._rank(
                        users[row], left_out.without(row, candidates), k, items[row], scores[row], wanted[row]
                    ):
                        short.append(row)
            waiting = np.array(short, dtype=np.int64)
            ask[waiting] *= 2
            if self.settings.kind == "flat":
                ask[waiting] = np.where(ask[waiting] > 2 * self.indexed, -1, ask[waiting])
        last = scores[np.arange(rows), np.maximum(wanted, 1) - 1]
        tied = (cut_off > -np.inf) & (wanted > 0) & (last <= cut_off)
        self._rank_exactly(users, np.flatnonzero(tied), k, left_out, items, scores)
        return RankedRows(items, None, scores)

    def _candidates(self, users: Tensor, k: int, ask: int) -> tuple[list[np.ndarray], np.ndarray]:
        """What the index finds for some rows (b, K, D).

        Args:
            users: their vectors.
            k: how many items are to be right.
            ask: how many to find for each vector.

        Returns:
            Of each row the ids, items added later among them; and (b,) what no item scores above that a flat index
            did not hand on, -inf where it handed on all of them or is of another kind.
        """
        rows = len(users)
        queries = self.space.of(users.flatten(0, 1).numpy())
        places = self.find(queries, k, ask)
        cut_off = np.full(rows, -np.inf, dtype=np.float32)
        if self.settings.kind == "flat" and places.shape[1] < self.indexed:
            worst = self.items[torch.from_numpy(places[:, -1] + 1)]  # of each vector
            cut_off = _at_most(users.flatten(0, 1), worst, self.score).view(users.shape[:2]).amax(1).numpy()
        found = places.reshape(rows, -1) + 1
        added = np.arange(self.indexed + 1, len(self.items))
        alone = users.shape[1] == 1  # one vector finds no item twice
        lines = [np.sort(line[line > 0]) if alone else _different(line) for line in found]
        return [np.concatenate((line, added)) for line in lines] if len(added) else lines, cut_off

    def add(self, vectors: Tensor) -> None:
        """See :meth:`~recbole_diffusion.retrieval.exact.ItemSearch.add`; they are searched exactly."""
        self.items = torch.cat((self.items, vectors.to(self.items)))
        self._exact = ExactSearch(self.items, self.score)

    def find(self, queries: np.ndarray, k: int, ask: int) -> np.ndarray:
        """Places (n, F) of what the index finds for vectors (n, W), -1 for none.

        Args:
            queries: as the index compares them.
            k: how many are to be right.
            ask: how many to find at least.
        """
        # faiss shares queries among threads, and one query has nothing to share: no thread is woken for it
        self._faiss.omp_set_num_threads(1 if len(queries) == 1 else torch.get_num_threads())
        wider = max(1.0, k / self.depth)
        more = max(0, ask - max(k, self.depth) - MARGIN)
        search, parameters = self.settings.search, None
        if self.settings.kind == "hnsw":
            ask = max(ask, round(search["efSearch"] * wider) + more)  # it has looked at them anyhow
            parameters = self._faiss.SearchParametersHNSW(efSearch=ask)
        elif self.settings.kind in CODED:
            ask = max(ask, round(search["candidates"] * wider) + more)
        if self.settings.kind == "ivfpq":
            further = wider * (1 + more / search["candidates"])  # what is left out lies in the nearest lists, too
            probes = min(self.settings.build["nlist"], math.ceil(search["nprobe"] * further))
            lists = self._faiss.SearchParametersIVF(nprobe=probes)
            parameters = self._faiss.SearchParametersPreTransform(index_params=lists)
            self._lists.implem = ONE_BY_ONE if len(queries) == 1 else 0
        distances, places = self.index.search(queries, min(ask, self.indexed), params=parameters)
        if self.settings.kind == "ivfpq" and ask < self.indexed:  # which of equal ones are the last is the way's choice
            places[(distances == distances[:, -1:]) & (places[:, -1:] >= 0)] = -1
        return np.asarray(places, dtype=np.int64)

    def _rank(
        self, users: Tensor, candidates: np.ndarray, k: int, items: np.ndarray, scores: np.ndarray, wanted: int
    ) -> bool:
        """Score the candidates of one row (K, D) and write the best; False where there are fewer than wanted."""
        if len(candidates) < wanted:
            return False
        if wanted:
            chosen = torch.from_numpy(candidates)  # in order of ids: among equal scores the lower one is first
            values, places = top_items(candidate_scores(users, self.items, chosen, self.score)[None], k)
            size = values.shape[1]
            items[:size], scores[:size] = chosen[places[0]].numpy(), values[0].numpy()
        return True

    def _rank_exactly(
        self, users: Tensor, rows: np.ndarray, k: int, left_out: _ItemsOfRows, items: np.ndarray, scores: np.ndarray
    ) -> None:
        if len(rows):
            ranked = self._exact.search(users[rows], k, exclude=left_out.pairs(rows))
            items[rows], scores[rows] = ranked.items, ranked.scores


def _at_most(users: Tensor, items: Tensor, score: Score) -> Tensor:
    """Scores (n,) of user vectors (n, D) and an item (n, D) each, and what rounding may add to them."""
    x, e = users.norm(dim=1), items.norm(dim=1)
    summed = torch.ones_like(x) if score == "cosine" else x * e if score == "dot" else x.square() + e.square()
    return pair_relevance(users[:, None], items, score)[:, 0] + TIE * summed


def _rounded_up(counts: np.ndarray) -> np.ndarray:
    """Numbers of items (B,) rounded up to 0, 16, 64, 256, ..."""
    steps = np.ceil(np.log2(np.maximum(counts, 1) / FEWEST_OUT) / math.log2(OUT_RISES)).clip(0)
    return np.where(counts > 0, FEWEST_OUT * OUT_RISES ** steps.astype(np.int64), 0)


class _ItemsOfRows:
    """What each row leaves out."""

    def __init__(self, pairs: Pairs | None, rows: int) -> None:
        self._of_row: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * rows
        if pairs is not None and len(pairs[0]):
            row, item = (part.numpy() for part in by_row(pairs))
            begins = np.searchsorted(row, np.arange(rows + 1))
            self._of_row = [_different(item[begins[number] : begins[number + 1]]) for number in range(rows)]
        self.counts = np.array([len(items) for items in self._of_row], dtype=np.int64)

    def without(self, row: int, candidates: np.ndarray) -> np.ndarray:
        """Candidates of a row, less what it leaves out."""
        items = self._of_row[row]
        return candidates[~np.isin(candidates, items)] if len(items) else candidates

    def pairs(self, rows: np.ndarray) -> Pairs:
        """Row, counted among `rows`, and item of what these leave out."""
        parts = [self._of_row[row] for row in rows]
        place = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
        items = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return torch.from_numpy(place), torch.from_numpy(items)


def _different(ids: np.ndarray) -> np.ndarray:
    """Different ids in ascending order, without padding."""
    found = np.unique(ids)
    return found[found > 0]
