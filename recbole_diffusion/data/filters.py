"""RecBole's filters of interactions, on codes of tokens instead of Python objects; the same rows are kept.

The core of an interaction table: users and items whose number of interactions is refused are taken away with their
interactions, all at once, until no more are. With a lower bound k on both sides that is the k-core of the bipartite
graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType

from recbole_diffusion.data.token_ids import TokenIds, categories_of, give_ids, present
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset as _Base
else:
    _Base = object

_FILTERS = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "rm_dup_inter")

Acceptable = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Side:
    """The users, or the items, of the interactions.

    Attributes:
        codes: (N,) who each interaction belongs to, 0 .. n - 1.
        n: how many there may be.
        acceptable: numbers of interactions (n,) -> bool (n,); None accepts all.
    """

    codes: np.ndarray
    n: int
    acceptable: Acceptable | None


@dataclass(frozen=True)
class Core:
    """What the filter leaves.

    Attributes:
        rows: positions of the interactions kept, rising.
        counts: per side, (n,) interactions left; zeros for a side that accepts all.
        refused: per side, (n,) bool, taken away in some round.
        rounds: how often something was taken away.
    """

    rows: np.ndarray
    counts: tuple[np.ndarray, np.ndarray]
    refused: tuple[np.ndarray, np.ndarray]
    rounds: int


def core(users: Side, items: Side) -> Core:
    """Take away users and items with a number of interactions that is not accepted, until all that are left are."""
    sides = (users, items)
    rows: np.ndarray | None = None
    codes = [side.codes for side in sides]
    counts = [
        np.zeros(side.n, dtype=np.int64) if side.acceptable is None else np.bincount(side.codes, minlength=side.n)
        for side in sides
    ]
    refused = [np.zeros(side.n, dtype=bool) for side in sides]
    rounds = 0
    while True:
        bad = [
            np.zeros(side.n, dtype=bool) if side.acceptable is None else (count > 0) & ~side.acceptable(count)
            for side, count in zip(sides, counts, strict=True)
        ]
        if not any(of_side.any() for of_side in bad):
            break
        rounds += 1
        dropped = bad[0][codes[0]] | bad[1][codes[1]]
        kept = np.flatnonzero(~dropped)
        for number, side in enumerate(sides):
            refused[number] |= bad[number]
            if side.acceptable is not None:
                counts[number] -= np.bincount(codes[number][dropped], minlength=side.n)
            codes[number] = codes[number][kept]
        rows = kept if rows is None else rows[kept]
    if rows is None:
        rows = np.arange(len(users.codes))
    return Core(rows, (counts[0], counts[1]), (refused[0], refused[1]), rounds)


class FilteredInteractions(_Base):
    """RecBole's filters, numbering of tokens and scaling of numbers; goes in front of a RecBole dataset class.

    A class that has one of these of its own keeps it.
    """

    inter_feat: Any
    user_feat: Any
    item_feat: Any

    def _is_recbole_s(self, *names: str) -> bool:
        """Whether the class behind this one has RecBole's own methods of these names."""
        behind = super()
        return all(getattr(behind, name).__func__ is getattr(Dataset, name) for name in names)

    def _data_filtering(self) -> None:
        before = len(self.inter_feat)
        super()._data_filtering()
        after = len(self.inter_feat)
        if after == 0:
            raise UserError(self._nothing_left("interaction"))
        if after != before:
            logger.info(
                "%s: filters keep %d of %d interactions: %d users, %d items (%s)",
                self.dataset_name,
                after,
                before,
                self.inter_feat[self.uid_field].nunique() if self.uid_field else 0,
                self.inter_feat[self.iid_field].nunique() if self.iid_field else 0,
                self._filters_set(),
            )

    def _reset_index(self) -> None:
        for name in self.feat_name_list:
            if getattr(self, name).empty:
                raise UserError(self._nothing_left("interaction" if name == "inter_feat" else f"row of {name}"))
        super()._reset_index()

    def _filters_set(self) -> str:
        found = [f"{key}: {self.config[key]}" for key in _FILTERS if self.config[key] not in (None, "[0,inf)")]
        features = [name for name in ("user_feat", "item_feat") if getattr(self, name) is not None]
        if self.config["filter_inter_by_user_or_item"] is True and features:
            found.append(f"filter_inter_by_user_or_item with {' and '.join(features)}")
        return ", ".join(found) or "no filter is set"

    def _nothing_left(self, what: str) -> str:
        return f"dataset {self.dataset_name!r}: no {what} is left after the filters ({self._filters_set()}); relax them"

    def _filter_by_inter_num(self) -> None:
        """The core of the interactions (`user_inter_num_interval`, `item_inter_num_interval`)."""
        if not self._is_recbole_s("_filter_by_inter_num", "_get_illegal_ids_by_inter_num"):
            super()._filter_by_inter_num()
            return
        if self.uid_field is None or self.iid_field is None:
            return
        fields = (self.uid_field, self.iid_field)
        keys = ("user_inter_num_interval", "item_inter_num_interval")
        intervals = [self._parse_intervals_str(self.config[key]) for key in keys]
        if not any(intervals):
            return
        for key, found in zip(keys, intervals, strict=True):
            if found and len(found) > 1:
                logger.warning("%s: %s has %d intervals", self.dataset_name, key, len(found))
        columns = [categories_of(self.inter_feat[field]) for field in fields]
        sides = [
            Side(column.codes, len(column.categories), self._acceptable(found))
            for column, found in zip(columns, intervals, strict=True)
        ]
        left = core(*sides)
        if left.rounds:
            message = "%s: %s drop %d interactions in %d rounds"
            logger.info(message, self.dataset_name, " and ".join(keys), len(columns[0]) - len(left.rows), left.rounds)
            self.inter_feat = self.inter_feat.take(left.rows)
        for number, (name, column) in enumerate(zip(("user_feat", "item_feat"), columns, strict=True)):
            features, found = getattr(self, name), intervals[number]
            if features is None or not found:
                continue
            own = categories_of(features[fields[number]])
            place = column.categories.get_indexer(own.categories)  # -1 where a feature has no interaction
            counts = np.append(left.counts[number], 0)[place]
            bad = np.append(left.refused[number], False)[place] | (counts < found[0][1])
            self._keep_features(name, ~bad[own.codes])

    def _acceptable(self, intervals: list[tuple[str, float, float, str]] | None) -> Acceptable | None:
        if not intervals:
            return None
        return lambda counts: self._within_intervals(counts, intervals)

    def _keep_features(self, name: str, keep: np.ndarray, why: str = "too few interactions") -> None:
        if keep.all():
            return
        features = getattr(self, name)
        logger.info("%s: %d of %d rows of %s dropped: %s", self.dataset_name, (~keep).sum(), len(keep), name, why)
        setattr(self, name, features.take(np.flatnonzero(keep)))

    def _filter_inter_by_user_or_item(self) -> None:
        """Keep interactions whose user and item have features (`filter_inter_by_user_or_item`)."""
        if not self._is_recbole_s("_filter_inter_by_user_or_item"):
            super()._filter_inter_by_user_or_item()
            return
        if self.config["filter_inter_by_user_or_item"] is not True:
            return
        for features, field in ((self.user_feat, self.uid_field), (self.item_feat, self.iid_field)):
            if features is None:
                continue
            column = categories_of(self.inter_feat[field])
            known = present(categories_of(features[field])).get_indexer(column.categories) >= 0
            keep = known[column.codes]
            if not keep.all():
                message = "%s: %d interactions dropped, their %s has no features (filter_inter_by_user_or_item)"
                logger.info(message, self.dataset_name, int((~keep).sum()), field)
                self.inter_feat = self.inter_feat.take(np.flatnonzero(keep))

    def _filter_by_field_value(self) -> None:
        """Keep rows whose values lie in intervals, or among tokens (`val_interval`)."""
        wanted = self.config["val_interval"] or {}
        plain = all(self.field2type.get(field) in (FeatureType.TOKEN, FeatureType.FLOAT) for field in wanted)
        if not plain or not self._is_recbole_s("_filter_by_field_value"):
            super()._filter_by_field_value()
            return
        for field, interval in wanted.items():
            for name in self.feat_name_list:
                feature = getattr(self, name)
                if not any(feature is found for found in self.field2feats(field)):
                    continue
                if self.field2type[field] == FeatureType.TOKEN:
                    keep = feature[field].isin(interval).to_numpy()
                else:
                    accepted = self._within_intervals(feature[field].to_numpy(), self._parse_intervals_str(interval))
                    keep = np.broadcast_to(accepted, len(feature))
                self._keep_features(name, keep, f"val_interval of {field}")

    def _normalize(self) -> None:
        """Numbers between 0 and 1 (`normalize_field`, `normalize_all`)."""
        named, every = self.config["normalize_field"], self.config["normalize_all"]
        fields = named or (self.float_like_fields if every else [])
        plain = all(self.field2type.get(field) == FeatureType.FLOAT for field in fields)
        if not plain or (named is not None and every) or not self._is_recbole_s("_normalize"):
            super()._normalize()  # sequences, and what RecBole refuses or warns of
            return
        for field in fields:
            for feature in self.field2feats(field):
                values = feature[field].to_numpy()
                low, high = values.min(), values.max()
                if low == high:
                    logger.warning("%s: all values of %s are the same; normalized they are 1", self.dataset_name, field)
                feature[field] = 1.0 if low == high else (values - low) / (high - low)

    def _remap(self, remap_list: list[tuple[pd.DataFrame, str, FeatureType]]) -> None:
        """Give the tokens of some columns the ids 1, 2, 3 ... in order of first appearance."""
        plain = all(kind == FeatureType.TOKEN for _, _, kind in remap_list)
        if not remap_list or not plain or not self._is_recbole_s("_remap", "_concat_remaped_tokens"):
            super()._remap(remap_list)
            return
        ids, tokens = give_ids([categories_of(feature[field]) for feature, field, _ in remap_list])
        numbers = TokenIds(tokens)
        for (feature, field, _), own in zip(remap_list, ids, strict=True):
            if field not in self.field2id_token:
                self.field2id_token[field] = tokens
                self.field2token_id[field] = numbers
            feature[field] = own
