"""Keys of a SASRec run as small as it gets: two batches an epoch on `small_data`."""

from __future__ import annotations

from typing import Any

SMALLEST: dict[str, Any] = {
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 1,
    "MAX_ITEM_LIST_LENGTH": 5,
    "train_batch_size": 256,
    "eval_step": 1,
    "stopping_step": 10,
    "topk": [5, 10],
}
