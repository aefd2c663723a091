"""From histories in internal ids to their best items: the model's scores, or its vectors and a search among items.

A model of this package gives user vectors, and items are found by theirs (`recbole_diffusion.retrieval`); any other
scores all items itself. Noise of a diffusion model is keyed by the row's key, or by the history where none is given.

Shapes: B rows, K user vectors a row, V items (0 is padding), D embedding, S chains, k cut-off.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.history_length import needs_fixed_width
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import Pairs, RankedRows, rank_by_rows
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender, evaluation_seed
from recbole_diffusion.models.several_chains import draw_chains, why_without_chain
from recbole_diffusion.recommendation.chains import Sampling, merge_chains
from recbole_diffusion.recommendation.histories import EncodedHistories
from recbole_diffusion.retrieval.exact import ExactSearch, ItemSearch, candidate_scores

ONE_CHAIN = Sampling()


class HistoryRanking:
    """A model that ranks for histories.

    Args:
        model: with its weights, in evaluation mode.
        config: the run's configuration.
        n_items: V.

    Attributes:
        search: what finds items by vectors; None for a model that scores items itself.
        limit: L, items of a history that the model reads.

    Raises:
        UserError: the model ranks for users that it knows.
    """

    def __init__(self, model: Any, config: RunConfig, n_items: int) -> None:
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(
                f"{config.entry.name} ranks for users that it knows, not for histories; take a sequential model"
            )
        self.model = model
        self.config = config
        self.n_items = n_items
        self.device = torch.device(config["device"])
        self.memory = int((config["rank_memory"] or 256) * 2**20)
        self.search: ItemSearch | None = None
        if getattr(model.full_sort_predict, "__func__", None) is VectorRecommender.full_sort_predict:
            with torch.no_grad():  # the same for every row
                self.search = ExactSearch(model.item_vectors(), model.options.score, self.memory)
        self._history_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self._length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self._item_field = config["ITEM_ID_FIELD"]
        self.limit = int(config["MAX_ITEM_LIST_LENGTH"])
        self._full_width = needs_fixed_width(config.model_class)
        self._keyed = isinstance(model, VectorRecommender)
        self._pairwise = type(model).full_sort_predict is AbstractRecommender.full_sort_predict

    def rank(
        self,
        encoded: EncodedHistories,
        rows: np.ndarray,
        k: int,
        *,
        exclude: tuple[np.ndarray, np.ndarray] | None = None,
        keys: np.ndarray | None = None,
        sampling: Sampling = ONE_CHAIN,
    ) -> RankedRows:
        """The k best items of some rows.

        Args:
            encoded: histories.
            rows: (B,) numbers of those to rank, none of them empty.
            k: how many items.
            exclude: place in `rows`, and item, of what is not to be recommended.
            keys: (B,) what each row's noise is keyed by.
            sampling: chains, and how they are merged.
        """
        interaction = self._interaction(encoded, rows, keys)
        pairs = None if exclude is None else (torch.from_numpy(exclude[0]), torch.from_numpy(exclude[1]))
        seeded = contextlib.nullcontext() if sampling.seed is None else evaluation_seed(self.model, sampling.seed)
        with torch.inference_mode(), seeded:  # without what gradients need, an operation costs less to call
            if self.search is None:
                return self._rank_scores(interaction, k, pairs)
            if sampling.samples == 1:
                return self.search.search(self.model.user_vectors(interaction), k, exclude=pairs)
            return self._rank_chains(self.search, interaction, k, pairs, sampling)

    def user_vectors(self, encoded: EncodedHistories, rows: np.ndarray) -> Tensor:
        """User vectors (B, K, D) of some rows, none of them empty; for a model that has them."""
        with torch.no_grad():
            vectors: Tensor = self.model.user_vectors(self._interaction(encoded, rows, None))
        return vectors.detach()  # some model gives a parameter itself

    def _interaction(self, encoded: EncodedHistories, rows: np.ndarray, keys: np.ndarray | None) -> Interaction:
        history, length = encoded.latest(rows, self.limit, full_width=self._full_width)
        columns = {self._history_field: torch.from_numpy(history), self._length_field: torch.from_numpy(length)}
        if keys is not None and self._keyed:
            columns[EVALUATION_ROW] = torch.from_numpy(keys)
        interaction = Interaction(columns)
        return interaction if self.device.type == "cpu" else interaction.to(self.device)

    def _rank_chains(
        self, search: ItemSearch, interaction: Interaction, k: int, exclude: Pairs | None, sampling: Sampling
    ) -> RankedRows:
        draws = draw_chains(self.model, interaction, sampling.samples)
        mean = draws.mean(0)
        best = search.search(mean, k, exclude=exclude)
        if sampling.diversity == 0:
            return best
        chains, rows = draws.shape[:2]
        for_all = None
        if exclude is not None:
            places = [exclude[0] + chain * rows for chain in range(chains)]
            for_all = torch.cat(places), exclude[1].repeat(chains)
        lists = search.search(draws.flatten(0, 1), k, exclude=for_all)
        items = search.items
        mean = mean.to(items.device)

        def score(row: int, ids: np.ndarray) -> np.ndarray:
            candidates = torch.from_numpy(ids).to(items.device)
            return candidate_scores(mean[row], items, candidates, search.score).cpu().numpy()

        return merge_chains(best, lists, score, sampling.diversity)

    def _rank_scores(self, interaction: Interaction, k: int, exclude: Pairs | None) -> RankedRows:
        """By a model that scores all items of a row, or one pair at a time."""
        rows, width = interaction[self._history_field].shape
        options: dict[str, Any] = {"memory": self.memory, "seen": exclude}
        if self._pairwise:  # a line for every pair of row and item
            options["bytes_per_score"] = 8 * (width + 3)

        def score_rows(begin: int, stop: int) -> Tensor:
            part = interaction if stop - begin == rows else interaction[begin:stop]
            scores = self._pair_scores(part) if self._pairwise else self.model.full_sort_predict(part)
            scores = scores.view(stop - begin, self.n_items)
            scores[:, 0] = -torch.inf
            return scores

        return rank_by_rows(score_rows, rows, self.n_items, k, **options)

    def _pair_scores(self, interaction: Interaction) -> Tensor:
        """Scores of all items by a model that scores one pair at a time, (b * V,)."""
        n_rows = len(interaction)
        lines = interaction.repeat_interleave(self.n_items)
        items = torch.arange(self.n_items, device=self.device).repeat(n_rows)
        lines.update(Interaction({self._item_field: items}))
        scores: Tensor = self.model.predict(lines)
        return scores

    # what is refused --------------------------------------------------------------------------------------------------

    def refuse_without_chain(self, samples: int) -> None:
        """Refuse several chains of a model that draws none.

        Raises:
            UserError: the model has no reverse chain.
        """
        why = why_without_chain(self.config.model_class, self.config) if samples > 1 else None
        if why is not None:
            raise UserError(f"n_samples is {samples}, but {self.config.entry.name} {why}, or leave n_samples out")

    def refuse_readers_of_more(self) -> None:
        """Rank one history now, so that a model that reads more of a row than its items is refused at once.

        Raises:
            UserError: it reads a column that histories do not have.
        """
        one = EncodedHistories(np.ones(1, dtype=np.int64), np.array([0, 1]), np.zeros(1, dtype=np.int64))
        try:
            self.rank(one, np.zeros(1, dtype=np.int64), 1, keys=np.zeros(1, dtype=np.int64))
        except KeyError as error:
            raise UserError(
                f"{self.config.entry.name} reads {error.args[0]!r} of every row, which a history of items does not "
                "have; take a model that reads items alone"
            ) from error
