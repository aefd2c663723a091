"""What a trained model recommends for histories: the best items of each, by the order that evaluation ranks by.

A history is a list of item tokens, oldest first; its user need not be known. The model sees the latest
`MAX_ITEM_LIST_LENGTH` items of it, and the ranking, its ties included, is `recbole_diffusion.evaluation.ranking`'s.
Noise of a diffusion model belongs to the row: it is keyed by the row's key, or by the history itself where no key is
given, so a row gets the same items whatever stands beside it.

The items come from best/items.parquet, so no data are read; an older run without that file, or a model that asks for
more of the data than items, reads its dataset.

Shapes: B rows, K user vectors a row, V items (0 is padding), k cut-off.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.history_length import needs_fixed_width
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import RankedRows, rank_by_rows, rank_by_vectors
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender, relevance
from recbole_diffusion.recommendation.checkpoints import open_model
from recbole_diffusion.recommendation.histories import (
    UNKNOWN,
    EncodedHistories,
    ItemIds,
    Unknown,
    encode,
    token_lists,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendations:
    """What was recommended; unpacks into `items, scores`.

    Attributes:
        items: for each history its best items, best first; None where the history has no item that the run knows.
            Fewer than were asked for where fewer may be recommended.
        scores: their scores, as the model gives them.
        unknown_items: items of histories that the run does not know, left out.
        without_history: histories that are answered with None.
    """

    items: list[list[str] | None]
    scores: list[list[float] | None]
    unknown_items: int
    without_history: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.items, self.scores))

    def __len__(self) -> int:
        return len(self.items)


class Recommender:
    """A trained model that recommends items for histories. Made by `load`.

    Attributes:
        config: the run's configuration.
        tokens: (V,) token of each internal item id, padding first.
        checkpoint: the file that the weights come from.
    """

    def __init__(self, model: torch.nn.Module, config: RunConfig, tokens: np.ndarray, checkpoint: Path) -> None:
        self.model: Any = model.eval()
        self.config = config
        self.tokens = np.asarray(tokens, dtype=object)
        self.checkpoint = checkpoint
        self.ids = ItemIds(self.tokens)
        self.device = torch.device(config["device"])
        self._history_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self._full_width = needs_fixed_width(config.model_class)
        self._item_vectors: Tensor | None = None
        if getattr(self.model.full_sort_predict, "__func__", None) is VectorRecommender.full_sort_predict:
            self._item_vectors = self._vectors_of_items()
        self._refuse_readers_of_more()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        data_path: str | Path | None = None,
        device: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Recommender:
        """A run's best epoch.

        Args:
            checkpoint: a run's folder or a checkpoint file.
            data_path: folder of the datasets, where the items have to be read from the data and these are no longer
                where they were.
            device: `cpu`, `cuda` or `cuda:N`; None takes a GPU where there is one.
            config: keys that override those of the run, such as `reverse_steps`, `n_eval_samples` or `eval_seed`.

        Raises:
            UserError: no such checkpoint, it is damaged, its model reads more of a row than its items.
        """
        opened = open_model(checkpoint, data_path=data_path, device=device, config=config)
        return cls(opened.model, opened.config, opened.tokens, opened.path)

    def recommend(
        self,
        histories: Iterable[Sequence[Any]],
        top_k: int = 10,
        *,
        exclude_seen: bool | None = None,
        row_keys: Sequence[int] | np.ndarray | None = None,
        unknown_items: Unknown = "drop",
        batch_size: int | None = None,
    ) -> Recommendations:
        """The best items for each history.

        Args:
            histories: lists of item tokens, oldest first.
            top_k: how many items.
            exclude_seen: whether items of the history are left out; None does as the run's evaluation
                (`filter_seen`).
            row_keys: a whole number for each history, what its noise is keyed by; evaluation's keys are the rows'
                numbers. None keys by the history itself. Models without noise read none.
            unknown_items: `drop` leaves out, and counts, items of histories that the run does not know; `error`
                refuses them.
            batch_size: histories at a time; None takes `eval_batch_size`.

        Raises:
            UserError: more items are asked for than there are, an unknown item, keys that do not fit the histories.
        """
        found = self.recommend_lists(
            token_lists(histories),
            top_k,
            exclude_seen=exclude_seen,
            row_keys=row_keys,
            unknown_items=unknown_items,
            batch_size=batch_size,
        )
        items: list[list[str] | None] = [None] * len(found)
        scores: list[list[float] | None] = [None] * len(found)
        for row in np.flatnonzero(found.answered).tolist():
            size = int(found.sizes[row])
            items[row] = self.tokens[found.items[row, :size]].tolist()
            scores[row] = found.scores[row, :size].tolist()
        return Recommendations(items, scores, int(found.unknown.sum()), int((~found.answered).sum()))

    def recommend_lists(
        self,
        histories: pyarrow.Array,
        top_k: int = 10,
        *,
        exclude_seen: bool | None = None,
        row_keys: Sequence[int] | np.ndarray | None = None,
        unknown_items: Unknown = "drop",
        batch_size: int | None = None,
        first_row: int = 0,
    ) -> RankedHistories:
        """`recommend` for an Arrow column of lists, answered in internal ids.

        Args:
            histories: (B,) lists of tokens.
            first_row: number of the first row, for messages; the others are those of `recommend`.

        Raises:
            UserError: as `recommend`.
        """
        self.check(top_k, unknown_items)
        if row_keys is not None and len(row_keys) != len(histories):
            raise UserError(f"row_keys has {len(row_keys)} keys for {len(histories)} histories; give one for each")
        keys = None if row_keys is None else np.asarray(row_keys, dtype=np.int64)
        leave_out = bool(self.config["filter_seen"]) if exclude_seen is None else exclude_seen
        encoded = encode(histories, self.ids, unknown_items, first_row)
        items = np.zeros((len(encoded), top_k), dtype=np.int32)
        scores = np.full((len(encoded), top_k), -np.inf, dtype=np.float32)
        answered = encoded.lengths > 0
        rows = np.flatnonzero(answered)
        step = int(batch_size or self.config["eval_batch_size"])
        for begin in range(0, len(rows), step):
            batch = rows[begin : begin + step]
            ranked = self._rank(encoded, batch, top_k, leave_out, None if keys is None else keys[batch])
            items[batch], scores[batch] = ranked.items, ranked.scores
        return RankedHistories(items, scores, answered, encoded.unknown)

    def check(self, top_k: int, unknown_items: Unknown) -> None:
        """Refuse what `recommend` cannot do.

        Raises:
            UserError: names the argument.
        """
        most = len(self.tokens) - 1
        if not 1 <= top_k <= most:
            raise UserError(f"top_k is {top_k}; it must be from 1 to {most}, the items of the run")
        if unknown_items not in UNKNOWN:
            raise UserError(f"unknown_items is {unknown_items!r}; it must be {' or '.join(UNKNOWN)}")

    @torch.no_grad()
    def _vectors_of_items(self) -> Tensor:
        """The vectors (V, D) that a model of ours scores by; they are the same for every row."""
        vectors: Tensor = self.model.item_vectors()
        return vectors

    # ranking ----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()  # without what gradients need, an operation costs less to call
    def _rank(
        self, encoded: EncodedHistories, rows: np.ndarray, k: int, leave_out: bool, keys: np.ndarray | None
    ) -> RankedRows:
        """The k best items of some rows, none of them empty."""
        history, length = encoded.latest(rows, self.config["MAX_ITEM_LIST_LENGTH"], full_width=self._full_width)
        columns = {
            self._history_field: torch.from_numpy(history),
            self.config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(length),
        }
        if keys is not None and isinstance(self.model, VectorRecommender):
            columns[EVALUATION_ROW] = torch.from_numpy(keys)
        interaction = Interaction(columns).to(self.device)
        options: dict[str, Any] = {"memory": int((self.config["rank_memory"] or 256) * 2**20)}
        if leave_out:
            options["seen"] = tuple(torch.from_numpy(part) for part in encoded.pairs(rows))
        if self._item_vectors is not None:
            users = self.model.user_vectors(interaction)
            score = functools.partial(relevance, score=self.model.options.score)
            return rank_by_vectors(users, self._item_vectors, score, k, **options)
        pairwise = type(self.model).full_sort_predict is AbstractRecommender.full_sort_predict
        if pairwise:  # a line for every pair of row and item
            options["bytes_per_score"] = 8 * (history.shape[1] + 3)

        def score_rows(begin: int, stop: int) -> Tensor:
            part = interaction[begin:stop]
            scores = self._pair_scores(part) if pairwise else self.model.full_sort_predict(part)
            scores = scores.view(stop - begin, len(self.tokens))
            scores[:, 0] = -torch.inf
            return scores

        return rank_by_rows(score_rows, len(rows), len(self.tokens), k, **options)

    def _pair_scores(self, interaction: Interaction) -> Tensor:
        """Scores of all items by a model that scores one pair at a time, (b * V,)."""
        n_rows, n_items = len(interaction), len(self.tokens)
        lines = interaction.repeat_interleave(n_items)
        items = torch.arange(n_items, device=self.device).repeat(n_rows)
        lines.update(Interaction({self.config["ITEM_ID_FIELD"]: items}))
        scores: Tensor = self.model.predict(lines)
        return scores

    def _refuse_readers_of_more(self) -> None:
        """Rank one history now, so that a model that reads more of a row than its items is refused at once."""
        name = self.config.entry.name
        if self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(f"{name} ranks for users that it knows, not for histories; take a sequential model")
        one = EncodedHistories(np.ones(1, dtype=np.int64), np.array([0, 1]), np.zeros(1, dtype=np.int64))
        try:
            self._rank(one, np.zeros(1, dtype=np.int64), 1, False, np.zeros(1, dtype=np.int64))
        except KeyError as error:
            raise UserError(
                f"{name} reads {error.args[0]!r} of every row, which a history of items does not have; take a model "
                "that reads items alone"
            ) from error


@dataclass(frozen=True)
class RankedHistories:
    """The best items of histories in internal ids.

    Attributes:
        items: (B, k) int32, best first; 0 where there are fewer.
        scores: (B, k) float32; -inf where `items` is 0.
        answered: (B,) whether the history has an item that the run knows.
        unknown: (B,) items of each history that the run does not know.
    """

    items: np.ndarray
    scores: np.ndarray
    answered: np.ndarray
    unknown: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sizes(self) -> np.ndarray:
        """(B,) how many items each history is answered with."""
        sizes: np.ndarray = (self.items > 0).sum(1)
        return sizes
