"""Names, units and directions of metrics in a table.

A result calls a metric `hit@10`, papers print `HR@10`, and a person may write either in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_IN_OTHER_UNITS = (
    *("averagepopularity", "shannonentropy", "mae", "rmse", "logloss", "novelty"),
    *("categorycount", "categoryconcentration", "hitcategorycount", "hitcategoryunion"),
)
_SMALLER_IS_BETTER = ("averagepopularity", "giniindex", "mae", "rmse", "logloss", "categoryconcentration")


@lru_cache(maxsize=1024)
def metric_key(name: str) -> str:
    """A metric's name as results have it: `HR@10`, `Hit@10` and `hit@10` are `hit@10`."""
    kind, at, cut = name.strip().lower().partition("@")
    return ("hit" if kind == "hr" else kind) + at + cut


def printed_name(key: str) -> str:
    """A metric's name as tables print it: `HR@10` for `hit@10`."""
    kind, at, cut = metric_key(key).partition("@")
    return ("HR" if kind == "hit" else kind.upper()) + at + cut


def factor(key: str) -> float:
    """What a metric is multiplied by in a table: 100 (percent), but 1 for those that are no share of anything."""
    return 1.0 if _kind(key) in _IN_OTHER_UNITS else 100.0


def unit(key: str) -> str:
    """The unit that a table has a metric in: percent, or nothing for those that are no share of anything."""
    return "" if factor(key) == 1 else "percent"


def bigger_is_better(key: str) -> bool:
    """Whether a higher value is the better one, as RecBole has it for its own metrics."""
    return _kind(key) not in _SMALLER_IS_BETTER


def in_order(keys: Iterable[str]) -> list[str]:
    """Metrics without repeats: those of one kind beside each other, by cut-off."""
    kinds: dict[str, set[str]] = {}
    for key in keys:
        kinds.setdefault(_kind(key), set()).add(key)
    return [key for members in kinds.values() for key in sorted(members, key=_cut)]


def _cut(key: str) -> int:
    cut = key.partition("@")[2]
    return int(cut) if cut.isdigit() else 0


def _kind(key: str) -> str:
    return metric_key(key).partition("@")[0]
