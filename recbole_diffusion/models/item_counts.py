"""How often each item is a training target: what popularity, negatives by it and the log-q correction read.

Shapes: V items (row 0 is padding).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def training_item_counts(dataset: Any, n_items: int) -> Tensor:
    """Rows of the training set that ask for each item, (V,) int64.

    Args:
        dataset: what RecBole hands a model: the training part of a dataset.
        n_items: V.
    """
    targets = np.asarray(dataset.inter_feat[dataset.iid_field], dtype=np.int64)
    return torch.from_numpy(np.bincount(targets, minlength=n_items))


def sampler_item_counts(negative_sampler: str, dataset: Any, n_items: int) -> Tensor:
    """The counts that a negative sampler is made with, (V,).

    `in_batch` proposes what the loader yields, which is not every row once with `one_cut_per_user` or
    `train_positions: all`. The other samplers ask for popularity, the training rows.

    Args:
        negative_sampler: a name of `NEGATIVE_SAMPLERS`.
        dataset: the training part of a dataset; one that does not know its loader stands for a loader of all rows.
        n_items: V.
    """
    yielded = getattr(dataset, "training_target_counts", None) if negative_sampler == "in_batch" else None
    if yielded is None:
        return training_item_counts(dataset, n_items)
    return torch.from_numpy(yielded())
