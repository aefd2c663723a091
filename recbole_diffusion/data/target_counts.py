"""How often an epoch of training asks for each item, on average: the q of in-batch negatives.

    every row                  n_i = training rows whose target is i
    one cut of each user       n_i = sum over those rows of 1 / (rows of the row's user)
    every place of a history   n_i = places of i after the first of what a user's last row shows, its target included

One row of each user makes the last two, see `HistoryTrainLoader`; the history that it shows has at most L items and may
begin before the user's first row.

Shapes: R rows, V items.
"""

from __future__ import annotations

import numpy as np

from recbole_diffusion.data.histories import history_spans
from recbole_diffusion.data.protocols import last_row_per_user
from recbole_diffusion.data.recbole_splits import runs
from recbole_diffusion.data.sequences import ExampleRows


def target_counts(
    examples: ExampleRows, item_field: str, n_items: int, *, one_cut_per_user: bool, every_place: bool
) -> np.ndarray:
    """Expected number of times that an epoch asks for each item.

    Args:
        examples: the training rows.
        item_field: name of the item column.
        n_items: V.
        one_cut_per_user: an epoch has one row of each user, drawn uniformly among the user's.
        every_place: an epoch has the last row of each user, and asks at every place of its history.

    Returns:
        (V,), whole numbers but for `one_cut_per_user`.
    """
    rows, histories = examples.rows, examples.histories
    items = histories.columns[item_field]
    if every_place:
        last = rows.target[last_row_per_user(rows, histories)].astype(np.int64)
        begin, length = history_spans(histories, last, examples.fields.limit)
        return np.bincount(items[runs(begin + 1, length, histories)], minlength=n_items)
    weights = None
    if one_cut_per_user:
        users = histories.users(rows.target)
        weights = 1.0 / np.bincount(users)[users]
    return np.bincount(items[rows.target], weights, minlength=n_items)
