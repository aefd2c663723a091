"""What a trained model recommends for histories: the best items of each, by the order that evaluation ranks by.

A history is a list of item tokens, oldest first; its user need not be known. The model sees the latest
`MAX_ITEM_LIST_LENGTH` items of it, and the ranking, its ties included, is `recbole_diffusion.evaluation.ranking`'s.
Noise of a diffusion model belongs to the row: it is keyed by the row's key, or by the history itself where no key is
given, so a row gets the same items whatever stands beside it.

The items come from best/items.parquet, so no data are read; an older run without that file, or a model that asks for
more of the data than items, reads its dataset.

Shapes: B rows, V items (0 is padding), D embedding, k cut-off.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import torch

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.added_items import checked_items, checked_vectors
from recbole_diffusion.recommendation.chains import Sampling
from recbole_diffusion.recommendation.checkpoints import open_model
from recbole_diffusion.recommendation.excluded_items import ExcludedItems
from recbole_diffusion.recommendation.histories import (
    EncodedHistories,
    ItemIds,
    Unknown,
    encode,
    encode_lists,
    settled_unknown,
    token_lists,
)
from recbole_diffusion.recommendation.history_ranking import HistoryRanking
from recbole_diffusion.recommendation.recommendations import RankedHistories, Recommendations

logger = logging.getLogger(__name__)

RETRIEVAL = ("exact", "faiss")


class Recommender:
    """A trained model that recommends items for histories. Made by `load`.

    Attributes:
        config: the run's configuration.
        tokens: (V,) token of each internal item id, padding first; items that were added follow.
        checkpoint: the file that the weights come from.
        ranking: the model, and how items are found.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: RunConfig,
        tokens: np.ndarray,
        checkpoint: Path,
        titles: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        self.model: Any = model.eval()
        self.config = config
        self.tokens = np.asarray(tokens, dtype=object)
        self.checkpoint = checkpoint
        self.ids = ItemIds(self.tokens)
        self.device = torch.device(config["device"])
        self.ranking = HistoryRanking(self.model, config, len(self.tokens))
        self.ranking.refuse_readers_of_more()
        self._titles_of_run = titles
        self._titles_added: list[str | None] = []

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        data_path: str | Path | None = None,
        device: str | None = None,
        config: Mapping[str, Any] | None = None,
        retrieval: Literal["exact", "faiss"] = "exact",
        stale_index: Literal["rebuild", "refuse"] = "rebuild",
        added_items: str | Path | None = None,
        own_code: str | Sequence[str] = (),
    ) -> Recommender:
        """A run's best epoch.

        Args:
            checkpoint: a run's folder or a checkpoint file.
            data_path: folder of the datasets, where the items have to be read from the data and these are no longer
                where they were.
            device: `cpu`, `cuda` or `cuda:N`; None takes a GPU where there is one.
            config: keys that override those of the run, such as `reverse_steps`, `n_eval_samples` or `eval_seed`.
            retrieval: `exact` scores every item; `faiss` asks the run's index, which is built if it is not there.
            stale_index: what to do about an index that is absent, damaged or of other vectors: `rebuild` or `refuse`.
            added_items: a Parquet file of items that were added after training; `added_items` says how it looks.
            own_code: a module or several that the checkpoint may have imported, for a model or parts of your own,
                written module:Name in its configuration. What `config` names so is allowed, too.

        Raises:
            UserError: no such checkpoint, it is damaged, its model reads more of a row than its items, or there is no
                index for it where that is refused.
        """
        if retrieval not in RETRIEVAL:
            raise UserError(f"retrieval is {retrieval!r}; it must be {' or '.join(RETRIEVAL)}")
        opened = open_model(checkpoint, data_path=data_path, device=device, config=config, own_code=own_code)
        made = cls(opened.model, opened.config, opened.tokens, opened.path, opened.titles)
        items = None if added_items is None else checked_items(Path(added_items), made.config["ITEM_ID_FIELD"])
        if retrieval == "faiss":
            from recbole_diffusion.recommendation.run_index import use_index

            use_index(made, stale=stale_index, added=items)
        elif items is not None:
            made.add_items(*items)
        return made

    # items ------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def titles(self) -> np.ndarray | None:
        """(V,) title of each item, None for an item without one; None where the data have no titles.

        They were kept when the run was trained; an older run's are read from its data, where these still are.
        """
        known = self._titles_of_run()
        if known is None and not any(title is not None for title in self._titles_added):
            return None
        if known is None:
            known = np.full(self.ids.known, None, dtype=object)
        return np.concatenate((known, np.array([*self._titles_added, None], dtype=object)[:-1]))

    def add_items(self, tokens: Sequence[str], vectors: Any, titles: Sequence[str | None] | None = None) -> None:
        """Recommend items that were added after training, by vectors of their own.

        They are ranked beside the others by the model's score. The model has no embedding of them: in a history they
        are left out of what it reads, and counted, as unknown items are; `filter_seen` does not recommend them again.

        Args:
            tokens: (A,) a token each, none that is there.
            vectors: (A, D) what user vectors are scored against, in the space of `model.item_vectors()`.
            titles: (A,) a title each, or None.

        Raises:
            UserError: the model scores items itself, or tokens, vectors or titles are not as they must be.
        """
        search = self.ranking.search
        if search is None:
            raise UserError(
                f"{self.config.entry.name} scores its own items alone and has no vectors to compare others with; add "
                "items to a model of this package"
            )
        names, values, names_of = checked_vectors(tokens, vectors, titles, int(search.items.shape[1]), self.ids)
        self.ids.add(names)
        self.tokens = np.concatenate((self.tokens, np.array([*names, None], dtype=object)[:-1]))
        search.add(torch.from_numpy(values))
        self._titles_added += names_of
        self.__dict__.pop("titles", None)

    @property
    def approximate(self) -> bool:
        """Whether items are found through an index that may miss some of the best."""
        return self.ranking.search is not None and self.ranking.search.approximate

    # recommending -----------------------------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Iterable[Sequence[Any]],
        k: int = 20,
        *,
        filter_seen: bool | None = None,
        exclude: Sequence[Any] | None = None,
        n_samples: int = 1,
        diversity: float | None = None,
        seed: int | None = None,
        unknown: Unknown = "skip",
        row_keys: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> Recommendations:
        """The best items for each history.

        Args:
            histories: lists of item tokens, oldest first.
            k: how many items.
            filter_seen: whether items of the history are left out, all of them, also those that the model does not
                read any more; None does as the run's evaluation.
            exclude: items that are not to be recommended: tokens, for all histories, or a list of tokens for each.
            n_samples: chains of a diffusion model that are drawn and merged.
            diversity: what merging goes by: from 0, the mean of the chains, to 1, what single chains rank first;
                `chains` says how. None is 0.5 where there are several chains.
            seed: of a diffusion model's noise; None takes the run's `eval_seed`.
            unknown: `skip` leaves out, and counts, items that the model does not know; `refuse` refuses them.
            row_keys: a whole number for each history, what its noise is keyed by; evaluation's keys are the rows'
                numbers. None keys by the history itself. Models without noise read none.
            batch_size: histories at a time; None takes `eval_batch_size`.

        Raises:
            UserError: more items are asked for than there are, an unknown item, keys that do not fit the histories.
        """
        rows = token_lists(histories)
        sampling = Sampling.of(n_samples, diversity, seed)
        policy = self.check(k, unknown, sampling.samples)
        found = self._recommend(
            encode_lists(rows, self.ids, policy),
            k,
            filter_seen,
            ExcludedItems.of(exclude, len(rows), self.ids, policy),
            sampling,
            row_keys,
            batch_size,
        )
        sizes = found.sizes.tolist()
        answered = found.answered.tolist()
        chosen = [ids[:size] if yes else None for ids, size, yes in zip(found.items, sizes, answered)]
        titles = self.titles
        missing = {
            row: [token for token in rows[row] if not 0 < self.ids.id_of(token) < self.ids.known]
            for row in np.flatnonzero(found.unknown).tolist()
        }
        return Recommendations(
            [None if ids is None else self.tokens[ids].tolist() for ids in chosen],
            [row[:size].tolist() if yes else None for row, size, yes in zip(found.scores, sizes, answered)],
            int(found.unknown.sum()),
            answered.count(False),
            None if titles is None else [None if ids is None else titles[ids].tolist() for ids in chosen],
            missing,
            found.cut,
        )

    def recommend_lists(
        self,
        histories: pyarrow.Array,
        k: int = 20,
        *,
        filter_seen: bool | None = None,
        exclude: Sequence[Any] | None = None,
        sampling: Sampling | None = None,
        unknown: Unknown = "skip",
        row_keys: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        first_row: int = 0,
    ) -> RankedHistories:
        """`recommend` for an Arrow column of lists, answered in internal ids.

        Args:
            histories: (B,) lists of tokens.
            sampling: chains, and how they are merged.
            first_row: number of the first row, for messages; the others are those of `recommend`.

        Raises:
            UserError: as `recommend`.
        """
        sampling = sampling or Sampling()
        policy = self.check(k, unknown, sampling.samples)
        excluded = ExcludedItems.of(exclude, len(histories), self.ids, policy)
        encoded = encode(histories, self.ids, policy, first_row)
        return self._recommend(encoded, k, filter_seen, excluded, sampling, row_keys, batch_size)

    def _recommend(
        self,
        encoded: EncodedHistories,
        k: int,
        filter_seen: bool | None,
        excluded: ExcludedItems,
        sampling: Sampling,
        row_keys: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
    ) -> RankedHistories:
        """`recommend` in ids."""
        if batch_size is not None and (not _is_whole(batch_size) or batch_size < 1):
            raise UserError(f"batch_size is {batch_size!r}; it must be a whole number, 1 or more")
        if not (filter_seen is None or isinstance(filter_seen, (bool, np.bool_))):
            raise UserError(f"filter_seen is {filter_seen!r}; it must be True, False or None")
        keys = None if row_keys is None else _checked_keys(row_keys, len(encoded))
        leave_out = bool(self.config["filter_seen"]) if filter_seen is None else filter_seen
        items = np.zeros((len(encoded), k), dtype=np.int32)
        scores = np.full((len(encoded), k), -np.inf, dtype=np.float32)
        lengths = encoded.lengths
        answered = lengths > 0
        rows = np.flatnonzero(answered)
        step = max(1, int(batch_size or self.config["eval_batch_size"]) // sampling.samples)
        for begin in range(0, len(rows), step):
            batch = rows[begin : begin + step]
            ranked = self.ranking.rank(
                encoded,
                batch,
                k,
                exclude=excluded.pairs(batch, encoded.pairs(batch) if leave_out else None),
                keys=None if keys is None else keys[batch],
                sampling=sampling,
            )
            items[batch], scores[batch] = ranked.items, ranked.scores
        cut = int((lengths > self.ranking.limit).sum())
        if cut:
            logger.info(
                "%d of %d histories are longer than the %d items that the model reads (MAX_ITEM_LIST_LENGTH); it reads "
                "the latest",
                cut,
                len(encoded),
                self.ranking.limit,
            )
        return RankedHistories(items, scores, answered, encoded.unknown, cut)

    def check(self, k: int, unknown: str, n_samples: int = 1, *, names: Mapping[str, str] | None = None) -> Unknown:
        """Refuse what `recommend` cannot do.

        Args:
            k, unknown, n_samples: as in `recommend`.
            names: other names of these, for messages.

        Returns:
            What is done about unknown items, `skip` or `refuse`.

        Raises:
            UserError: names the argument.
        """
        named = {"k": "k", "unknown": "unknown", **(names or {})}
        most = len(self.tokens) - 1
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 1 <= k <= most:
            raise UserError(f"{named['k']} is {k!r}; it must be from 1 to {most}, the items of the run")
        self.ranking.refuse_without_chain(n_samples)
        return settled_unknown(unknown, named["unknown"])


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _checked_keys(keys: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
    """(B,) int64 of the keys of B histories.

    Raises:
        UserError: they are not as many whole numbers, or need more than 64 bits.
    """
    if len(keys) != rows:
        raise UserError(f"row_keys has {len(keys)} keys for {rows} histories; give one for each")
    try:
        found = np.asarray(keys)
    except ValueError:  # lists of several lengths
        found = np.zeros((0, 0))
    if rows and not (found.ndim == 1 and np.issubdtype(found.dtype, np.integer) and np.can_cast(found.dtype, np.int64)):
        raise UserError("row_keys must be whole numbers of up to 63 bits, such as the rows' numbers")
    return found.astype(np.int64)
