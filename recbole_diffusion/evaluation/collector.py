"""What an evaluation keeps of each batch: ids and counts, never scores; and the metrics made of it at the end.

RecBole's collector takes the top k of a batch twice and builds a (B, V) integer matrix of positives. This one keeps the
k best items and the targets of every row. Metrics that have a value for every row are computed from these, vectorised
(`metrics`, `item_values`, `item_categories`); every other one (coverage, Gini, entropy, GAUC, a user's own) is
RecBole's, from the resources that RecBole's collector would have left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information
from torch import Tensor

from recbole_diffusion.evaluation.item_categories import ItemCategories
from recbole_diffusion.evaluation.item_values import item_counts, list_means, tail_items
from recbole_diffusion.evaluation.metrics import ROW_METRICS, Ranking, popularity_numbers, row_metrics
from recbole_diffusion.evaluation.ranking import Pairs, RankedRows, TargetCounts, by_row, rank_scores
from recbole_diffusion.evaluation.recbole_metrics import CATEGORIES, RANKING, RowMetric, register_metrics

logger = logging.getLogger(__name__)

Held = tuple[list[Any], ...]
"""Items, targets, numbers of targets, counts and users of every batch."""

_ROW_METRICS = {name.lower() for name in ROW_METRICS}
_LIST_METRICS = {"averagepopularity", "tailpercentage"}
_RECBOLES, _OURS = "recbole.evaluator.metrics", "recbole_diffusion.evaluation.recbole_metrics"
# RecBole's metrics of all lists together: the method that takes the items of the lists, and what else it takes.
_METRICS_OF_ALL_LISTS = {
    "itemcoverage": ("get_coverage", ("data.num_items",)),
    "giniindex": ("get_gini", ("data.num_items",)),
    "shannonentropy": ("get_entropy", ()),
}


@dataclass(frozen=True)
class EvaluatedRows:
    """One evaluation row by row.

    Attributes:
        ranking: best items and targets of the R rows.
        metrics: "<name>@<k>" -> (R,) float64; their means are what is reported.
        target_ranks: (T,) rank of each target among all items, 0 where it was not ranked; None where not counted.
        users: (R,) internal user ids; None where the data have none.
    """

    ranking: Ranking
    metrics: dict[str, np.ndarray]
    target_ranks: np.ndarray | None
    users: np.ndarray | None


class RankCollector(Collector):
    """RecBole's collector, fed with ranked rows.

    Attributes:
        k: how many of the best items of a row to keep.
        counts_targets: whether the items above each target must be counted (GAUC, ranks for `save_per_user`).
    """

    def __init__(self, config: Any) -> None:
        register_metrics()
        super().__init__(config)
        self.k = max(self.topk)
        self.counts_targets = bool(self.register.need("rec.meanrank") or config["save_per_user"])
        self.set_ids: np.ndarray | None = None
        self._forget()

    def _forget(self) -> None:
        self._items: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []
        self._n_targets: list[np.ndarray] = []
        self._counts: list[TargetCounts] = []
        self._users: list[np.ndarray] = []

    def data_collect(self, train_data: Any) -> None:
        """What metrics need of the data: RecBole's counters, categories of items, their numbers for `NDCGSetOrder`.

        Raises:
            UserError: a metric needs categories, and the dataset has none.
        """
        super().data_collect(train_data)
        if self.register.need(CATEGORIES):
            found = train_data.dataset.item_categories()
            self.config["category_field"] = found.column  # results say which column it was
            categories = ItemCategories.of(found.items, found.categories, train_data.dataset.item_num)
            self.data_struct.set(CATEGORIES, categories)
        if self.register.has_metric("NDCGSetOrder"):
            histories = getattr(train_data.dataset, "histories", None)
            if histories is None:
                logger.info("NDCGSetOrder: items are numbered as they first appear, not by popularity")
                return
            items = histories.columns[self.config["ITEM_ID_FIELD"]]
            self.set_ids = popularity_numbers(np.bincount(items, minlength=train_data.dataset.item_num))

    # a batch ---------------------------------------------------------------------------------------------------------

    def collect(self, ranked: RankedRows, targets: Pairs, users: Tensor | None = None) -> None:
        """Keep a batch.

        Args:
            ranked: its rows, ranked; with counts of the targets where `counts_targets`.
            targets: row and item of each target, in order of rows (`ranking.by_row`) as `ranked` counted them.
            users: (B,) user ids of the rows.

        Raises:
            ValueError: the targets are not in order of rows.
        """
        row, item = (part.cpu().numpy() for part in targets)
        if (row[1:] < row[:-1]).any():
            raise ValueError("targets are not in order of rows")
        self._items.append(ranked.items)
        self._targets.append(item.astype(np.int32))
        self._n_targets.append(np.bincount(row, minlength=len(ranked.items)))
        if ranked.counts is not None:
            self._counts.append(ranked.counts)
        if users is not None:
            self._users.append(users.cpu().numpy())

    def held(self) -> Held:
        """What is kept so far, batch by batch, to be sent to another process."""
        return self._items, self._targets, self._n_targets, self._counts, self._users

    def hold(self, parts: Sequence[Held]) -> None:
        """Keep what other collectors `held`, in this order, and nothing else."""
        self._forget()
        for part in parts:
            for kept, more in zip(self.held(), part, strict=True):
                kept.extend(more)

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """RecBole's way in: scores (B, V) of a batch, -inf where an item is not ranked, and (row, item) of targets.

        Scores of labelled lines, one each, are kept as RecBole keeps them.
        """
        if any(self.register.need(need) for need in ("rec.score", "data.label")):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        targets = by_row((positive_u, positive_i))
        self.collect(rank_scores(scores_tensor, self.k, targets if self.counts_targets else None), targets)

    # all of them -----------------------------------------------------------------------------------------------------

    def get_data_struct(self) -> DataStruct:
        """The resources of all batches, as RecBole's evaluator takes them; the next evaluation starts empty."""
        return self._resources({"rec.items", "rec.topk", "rec.meanrank"}, self.ranking())

    def ranking(self) -> Ranking | None:
        """All batches in one; None where none was collected."""
        if not self._items:
            return None
        n_targets = np.concatenate(self._n_targets)
        offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(n_targets)))
        return Ranking(
            np.concatenate(self._items),
            np.concatenate(self._targets),
            offsets,
            bool(self.config["label_repeats"]),
            self.set_ids,
        )

    def _resources(self, needs: Iterable[str], ranking: Ranking | None) -> DataStruct:
        """RecBole's resources among `needs`, and the ranking."""
        struct = DataStruct()
        kept: dict[str, Any] = self.data_struct._data_dict
        for name, value in kept.items():
            struct.set(name, value.cpu() if isinstance(value, Tensor) else value)
        for name in ("rec.score", "data.label"):
            kept.pop(name, None)
        if ranking is not None:
            struct.set(RANKING, ranking)
            if "rec.items" in needs:
                struct.set("rec.items", torch.from_numpy(ranking.items).long())
            if "rec.topk" in needs:
                hits = np.concatenate((ranking.hits, ranking.labels[:, None]), axis=1).astype(np.int32)
                struct.set("rec.topk", torch.from_numpy(hits))
            if "rec.meanrank" in needs and self._counts:
                struct.set("rec.meanrank", torch.from_numpy(self._mean_ranks(ranking, TargetCounts.join(self._counts))))
        self._forget()
        return struct

    @staticmethod
    def _mean_ranks(ranking: Ranking, counts: TargetCounts) -> np.ndarray:
        """(R, 3) for GAUC: sum of the mean ranks of different targets, items ranked, different targets."""
        keys = np.stack((ranking.target_rows, ranking.targets), axis=1)
        first = np.unique(keys, axis=0, return_index=True)[1]
        mean_rank = counts.above[first] + (counts.level[first] + 1) / 2
        total = np.bincount(ranking.target_rows[first], weights=mean_rank, minlength=len(ranking))
        return np.stack((total, counts.candidates, ranking.labels), axis=1).astype(np.float64)

    def evaluated(self, evaluator: Evaluator) -> tuple[dict[str, float], EvaluatedRows | None]:
        """The metrics of all batches, rounded as RecBole rounds them, and the rows behind them.

        Args:
            evaluator: RecBole's, with the metrics of the configuration.

        Returns:
            name -> mean; the rows (None without a ranking). The next evaluation starts empty.
        """
        ranking = self.ranking()
        users = np.concatenate(self._users) if self._users else None
        ranks = TargetCounts.join(self._counts).ranks if self._counts else None
        known = [name for name in evaluator.metrics if ranking is not None and _has_rows(name, evaluator)]
        modules = {name: type(metric).__module__ for name, metric in evaluator.metric_class.items()}
        per_row = [name for name in known if name in _ROW_METRICS and modules[name] in (_RECBOLES, _OURS)]
        needs = {need for name in evaluator.metrics if name not in per_row for need in metric_information[name]}
        struct = self._resources(needs, ranking)
        if ranking is None:
            return {key: float(value) for key, value in evaluator.evaluate(struct).items()}, None
        metrics = row_metrics(ranking, per_row, self.topk)
        result: dict[str, float] = {}
        for name in evaluator.metrics:
            metric = evaluator.metric_class[name]
            if name not in known:
                result.update(self._of_all_rows(name, metric, struct, ranking.items))
                continue
            if name not in per_row:
                own = isinstance(metric, RowMetric)
                metrics.update(
                    metric.per_row(struct) if own else self._means_of_lists(name, metric, struct, ranking.items)
                )
            for k in self.topk:
                key = f"{name}@{k}"
                result[key] = round(float(metrics[key].mean()), self.config["metric_decimal_place"])
        return {key: float(value) for key, value in result.items()}, EvaluatedRows(ranking, metrics, ranks, users)

    def _of_all_rows(self, name: str, metric: Any, struct: DataStruct, items: np.ndarray) -> dict[str, float]:
        """A metric that has no value for a row; the item 0 that fills short lists is none of the items it counts."""
        method, more = _METRICS_OF_ALL_LISTS.get(name, (None, ()))
        if method is None or type(metric).__module__ != _RECBOLES or (items > 0).all():
            result: dict[str, float] = metric.calculate_metric(struct)
            return result
        lists = {k: items[:, :k] for k in self.topk}
        values = {k: getattr(metric, method)(part[part > 0][None], *map(struct.get, more)) for k, part in lists.items()}
        return {f"{name}@{k}": round(float(value), metric.decimal_place) for k, value in values.items()}

    def _means_of_lists(self, name: str, metric: Any, struct: DataStruct, items: np.ndarray) -> dict[str, np.ndarray]:
        """A metric of RecBole's in `item_values` for every row."""
        counter = struct.get("data.count_items")
        values = item_counts(counter, 1 + max(int(items.max()), *counter))
        if name == "tailpercentage":
            values = tail_items(values, metric.tail)
        means = list_means(items, values, self.topk)
        return {f"{name}@{k}": means[:, column] for column, k in enumerate(self.topk)}


def _has_rows(name: str, evaluator: Evaluator) -> bool:
    """Whether a metric has a value for every row; a user may have put another under the name of one that has."""
    metric = evaluator.metric_class[name]
    recboles = name in _ROW_METRICS | _LIST_METRICS and type(metric).__module__ == _RECBOLES
    return recboles or isinstance(metric, RowMetric)
