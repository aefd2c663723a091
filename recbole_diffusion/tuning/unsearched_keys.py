"""Keys that a search space may not hold, or not draw, and those whose values look like a distribution.

Trials are ranked by their validation figures, so what those figures are of is the same in every trial: which
interactions there are, which rows validate, against which candidates, by which metrics. A key of a protocol that
decides on training rows alone (`min_history`, `one_cut_per_user`) may be drawn, as may what a model sees of the data.
"""

from __future__ import annotations

from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL, ORDERING_KEYS

# Keys that say where and how a trial runs, or what a sweep is of: no search space has them.
NOT_SEARCHED: dict[str, str] = {
    "model": "a sweep is of one model; start one for each",
    "dataset": "a sweep is of one dataset; start one for each",
    "preset": "give it as --preset, it is the same for all trials",
    "data_path": "give it as --data_path",
    "metrics": "trials are compared by them",
    "topk": "trials are compared by them",
    "valid_metric": "trials are compared by it",
    "num_threads": "it is cpus_per_trial",
    "num_workers": "a trial trains on one worker",
    "use_gpu": "it follows from gpus_per_trial",
    "gpu_id": "Ray gives each trial its GPU",
}

TRAINING_ROWS = ("min_history", "one_cut_per_user")
"""What protocols read for training rows alone."""

_ROWS = "trials would be validated on other rows, or against other items"
_DATA = "trials would be of other interactions, users or items"
_COUNT = "trials would count the metric that they are compared by in another way"
_READ_BY_PROTOCOLS = {key for keys in KEYS_OF_PROTOCOL.values() for key in keys if key not in TRAINING_ROWS}

# A search space may hold them with one value for all trials.
NOT_DRAWN: dict[str, str] = {
    **dict.fromkeys(("protocol", "eval_args", *sorted(_READ_BY_PROTOCOLS)), _ROWS),
    **dict.fromkeys(("filter_seen", "repeatable", "eval_seed"), _ROWS),
    **dict.fromkeys(ORDERING_KEYS, _DATA),
    **dict.fromkeys(("load_col", "unload_col", "filter_inter_by_user_or_item", "benchmark_filename"), _DATA),
    **dict.fromkeys(("USER_ID_FIELD", "ITEM_ID_FIELD", "alias_of_user_id", "alias_of_item_id"), _DATA),
    **dict.fromkeys(("field_separator", "seq_separator", "encoding"), _DATA),
    **dict.fromkeys(("LABEL_FIELD", "RATING_FIELD", "threshold"), _COUNT),
    **dict.fromkeys(("label_repeats", "category_field", "tail_ratio"), _COUNT),
    **dict.fromkeys(("valid_metric_bigger", "metric_decimal_place"), _COUNT),
}

# Keys of every run whose own values are mappings, which may have one name and a list: load_col: {inter: [...]}.
MAPPINGS = frozenset(
    (
        *("eval_args", "train_neg_sample_args", "clip_grad_norm", "preload_weight"),
        *("load_col", "unload_col", "unused_col", "seq_len", "val_interval", "threshold"),
    )
)
