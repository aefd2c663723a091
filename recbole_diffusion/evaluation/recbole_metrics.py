"""This package's metrics as classes of RecBole, under names that `metrics:` takes in any case.

`register_metrics` enters them into the tables that RecBole resolves names with (`recbole.evaluator.register`); RecBole
scans one module of its own for metrics and has no other way in. `NDCGHits` works in RecBole's own evaluator too; the
other two need the targets in order of time, which only this package's collector keeps.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.register import metric_information, metric_types, metrics_dict

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.metrics import Ranking, ndcg_hits, row_metrics

RANKING = "rec.ranking"  # where the collector leaves the `Ranking`, beside what RecBole's collector leaves


class _RankingMetric(TopkMetric):
    """A metric of `recbole_diffusion.evaluation.metrics`, named as its class."""

    metric_need: ClassVar[list[str]] = ["rec.topk"]

    def _per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        name = type(self).__name__
        if RANKING not in dataobject:
            raise UserError(f"metric {name} needs the targets themselves, which RecBole's own collector does not keep")
        return row_metrics(dataobject.get(RANKING), [name], self.topk)

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """The means over rows."""
        rows = self._per_row(dataobject)
        return {key: round(float(values.mean()), self.decimal_place) for key, values in rows.items()}


class NDCGHits(_RankingMetric):
    """DCG over the ideal DCG of the hits found (ComiRec's code); 0 without a hit."""

    def _per_row(self, dataobject: Any) -> dict[str, np.ndarray]:
        if RANKING in dataobject:
            return super()._per_row(dataobject)
        hits, _ = self.used_info(dataobject)  # RecBole's collector keeps hits alone, which is enough
        rows = np.arange(len(hits) + 1)
        ranking = Ranking(hits.astype(np.int32), np.ones(len(hits), dtype=np.int32), rows)
        values = ndcg_hits(ranking, np.asarray(self.topk))
        return {f"ndcghits@{k}": values[:, column] for column, k in enumerate(self.topk)}


class NDCGLabelOrder(_RankingMetric):
    """NDCG over hits, discounted by a hit's place among the targets (ComiRec's branch `paper`, Re4); no ranking."""


class NDCGSetOrder(_RankingMetric):
    """NDCG over hits, discounted by a hit's place in a Python set (REMI's code); depends on how items are numbered."""


OWN_METRICS: tuple[type[_RankingMetric], ...] = (NDCGHits, NDCGLabelOrder, NDCGSetOrder)


def register_metrics() -> None:
    """Make RecBole know the metrics of this package. Safe to call again; leaves names that are taken."""
    for metric in OWN_METRICS:
        name = metric.__name__.lower()
        metrics_dict.setdefault(name, metric)
        metric_information.setdefault(name, metric.metric_need)
        metric_types.setdefault(name, metric.metric_type)
