"""How often each item is a training target: what popularity-based negatives and the log-q correction read.

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
