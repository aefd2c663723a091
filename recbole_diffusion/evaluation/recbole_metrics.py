"""This package's metrics as classes of RecBole, under names that `metrics:` takes in any case.

`register_metrics` enters them into the tables that RecBole resolves names with (`recbole.evaluator.register`); RecBole
scans one module of its own for metrics and has no other way in. `NDCGHits` works in a run of RecBole's own too, and
`Novelty` in its evaluator; the others need targets in order of time, or the categories of items, which only this
package's collector keeps.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.register import metric_information, metric_types, metrics_dict, smaller_metrics

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.item_categories import ItemCategories, category_metrics, hit_category_union
from recbole_diffusion.evaluation.item_values import item_counts, novelty, self_information
from recbole_diffusion.evaluation.metrics import Ranking, ndcg_hits, row_metrics

# Where the collector leaves the `Ranking` and the `ItemCategories`, beside what RecBole's collector leaves.
RANKING = "rec.ranking"
CATEGORIES = "data.item_categories"


def _kept(metric: TopkMetric, dataobject: Any, resource: str, words: str) -> Any:
    """A resource of this package's collector.

    Raises:
        UserError: it is not there, because RecBole's own collector made the resources.
    """
    if resource not in dataobject:
        raise UserError(f"metric {type(metric).__name__} needs {words}, which RecBole's own collector does not keep")
    return dataobject.get(resource)


def _ranking(metric: TopkMetric, dataobject: Any) -> Ranking:
    found: Ranking = _kept(metric, dataobject, RANKING, "the targets themselves")
    return found


def _categories(metric: TopkMetric, dataobject: Any) -> ItemCategories:
    found: ItemCategories = _kept(metric, dataobject, CATEGORIES, "the categories of items")
    return found


class RowMetric(TopkMetric):
    """A metric of this package that has a value for every row, named as its class."""

    metric_need: ClassVar[list[str]] = ["rec.topk"]

    def per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        """The values of the R rows: "<name in lower case>@<k>" -> (R,) float64.

        Args:
            dataobject: RecBole's `DataStruct` of resources.

        Raises:
            UserError: a resource is not there, because RecBole's own collector made them.
        """
        return row_metrics(_ranking(self, dataobject), [type(self).__name__], self.topk)

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """The means over rows."""
        rows = self.per_row(dataobject)
        return {key: round(float(values.mean()), self.decimal_place) for key, values in rows.items()}


class NDCGHits(RowMetric):
    """DCG over the ideal DCG of the hits found (ComiRec's code); 0 without a hit."""

    def per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        """As `RowMetric.per_row`."""
        if RANKING in dataobject:
            return super().per_row(dataobject)
        hits, _ = self.used_info(dataobject)  # RecBole's collector keeps hits alone, which is enough
        rows = np.arange(len(hits) + 1)
        ranking = Ranking(hits.astype(np.int32), np.ones(len(hits), dtype=np.int32), rows)
        values = ndcg_hits(ranking, np.asarray(self.topk))
        return {f"ndcghits@{k}": values[:, column] for column, k in enumerate(self.topk)}


class NDCGLabelOrder(RowMetric):
    """NDCG over hits, discounted by a hit's place among the targets (ComiRec's branch `paper`, Re4); no ranking."""


class NDCGSetOrder(RowMetric):
    """NDCG over hits, discounted by a hit's place in a Python set (REMI's code); depends on how items are numbered."""


class _CategoryMetric(RowMetric):
    """A metric of `recbole_diffusion.evaluation.item_categories`."""

    metric_need: ClassVar[list[str]] = [CATEGORIES]

    def per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        """As `RowMetric.per_row`."""
        categories = _categories(self, dataobject)
        return category_metrics(_ranking(self, dataobject), categories, type(self).__name__, self.topk)


class CategoryCount(_CategoryMetric):
    """Different categories of the first k items (DimeRec, Table 2)."""


class CategoryConcentration(_CategoryMetric):
    """Mean Hamming distance between the categories of two of the first k items (DMI, Eq. 22); the lower, the closer."""

    smaller = True


class CategoryDiversity(_CategoryMetric):
    """Share of pairs of the first k items whose categories differ (DMI, Eq. 23; ComiRec)."""


class HitCategoryCount(_CategoryMetric):
    """Different categories of the hits among the first k items (DMI, Div(hit))."""


class HitCategoryUnion(TopkMetric):
    """Different categories of the hits of all rows together; no value for a row."""

    metric_need: ClassVar[list[str]] = [CATEGORIES]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """How many categories there are."""
        categories = _categories(self, dataobject)
        return hit_category_union(_ranking(self, dataobject), categories, self.topk)


class Novelty(RowMetric):
    """Mean self-information of the first k items by training popularity, in bits (Vargas, Castells 2011)."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.count_items"]

    def per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        """As `RowMetric.per_row`."""
        items, counter = dataobject.get("rec.items").numpy(), dataobject.get("data.count_items")
        information = self_information(item_counts(counter, 1 + max(int(items.max()), *counter)))
        means = novelty(items, information, self.topk)
        return {f"novelty@{k}": means[:, column] for column, k in enumerate(self.topk)}


OWN_METRICS: tuple[type[TopkMetric], ...] = (
    NDCGHits,
    NDCGLabelOrder,
    NDCGSetOrder,
    CategoryCount,
    CategoryConcentration,
    CategoryDiversity,
    HitCategoryCount,
    HitCategoryUnion,
    Novelty,
)


def register_metrics() -> None:
    """Make RecBole know the metrics of this package. Safe to call again; leaves names that are taken."""
    for metric in OWN_METRICS:
        name = metric.__name__.lower()
        metrics_dict.setdefault(name, metric)
        metric_information.setdefault(name, metric.metric_need)
        metric_types.setdefault(name, metric.metric_type)
        if metrics_dict[name] is metric and metric.smaller and name not in smaller_metrics:
            smaller_metrics.append(name)
