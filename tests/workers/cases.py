"""What is trained by one and by two workers: every model of ours, and what makes sharing a batch hard."""

from __future__ import annotations

from typing import Any

from tests.contracts.cases import Case, our_cases

STEPS = 50
COMMON: dict[str, Any] = {
    "train_noise": "keyed",
    "train_batch_size": 37,  # the last batch of an epoch is short
    "eval_batch_size": 13,
    "learning_rate": 3e-3,
    "metrics": ["Hit", "NDCG", "MRR", "GAUC"],
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
}

HARD = [
    Case("DiffuRec", {"step_sampler": "lossaware", "num_steps": 3}, label="steps by loss"),
    Case("DreamRec", {"condition_dropout": 0.5}, label="half the conditions"),
    Case("DiffuRecSys", {"offset_noise": "scalar", "offset_scale": 0.5, "lambda_std": 0.5}, label="offset noise"),
    Case("REMI", {"routing_reduction": "sum", "routing_weight": 100.0}, label="sum over rows"),
    Case("DMI", {"routing_reduction": "sum", "routing_weight": 100.0, "keep_ratio": 0.5}, label="sum over rows"),
    Case("ComiRecSA", {"negative_sampler": "in_batch", "log_q_correction": True}, label="in-batch"),
    Case("ComiRecSA", {"negative_sampler": "log_uniform"}, label="log-uniform"),
    Case("DimeRec", {"negatives": "per_row", "n_negatives": 5}, label="negatives of each row"),
    Case(
        "gSASRec",
        {"negatives_per_row": True, "negative_sampler": "log_uniform", "calibration": 0.0},
        label="negatives of each place",
    ),
    Case("SASRecSampled", {"negatives_per_row": True, "n_negatives": 5}, label="negatives of each place"),
    Case("SASRecSampled", {"negative_sampler": "in_batch", "log_q_correction": True}, label="in-batch places"),
    Case("SASRecCE", {"length_bucketing": 2}, label="sorted by length"),
    Case("MIND", {"routing_init": "random", "adaptive_interests": True}, label="adaptive interests"),
    Case("DiffuRec", {"train_batch_size": 36, "clip_grad_norm": {"max_norm": 0.1}, "learner": "sgd"}, label="clipped"),
    Case("DiffuRec", {"loss": "chunked"}, label="large catalogue, chunked"),
    Case("SASRecSampled", {"item_optimizer": "row_wise", "n_negatives": 5}, label="large catalogue, row-wise"),
    Case(
        "REMI",
        {"item_optimizer": "row_wise", "clip_grad_norm": {"max_norm": 0.1}, "negative_sampler": "in_batch"},
        label="large catalogue, row-wise, clipped",
    ),
    # nothing to drop here, and a batch of one row at the end: one worker has none
    Case("DiffuRec", {"train_batch_size": -1}, label="a worker without rows"),
]
SASREC: dict[str, Any] = {
    "hidden_size": 16,
    "inner_size": 16,
    "n_layers": 1,
    "attn_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}
RECBOLE = [
    Case("SASRec", {**SASREC, "loss_type": "CE"}),
    Case("SASRec", {**SASREC, "loss_type": "BPR"}, label="sampled negatives"),
    Case("GRU4Rec", {"embedding_size": 16, "hidden_size": 16, "dropout_prob": 0.0, "loss_type": "CE"}),
]


def cases() -> list[Case]:
    """All of them; the names differ."""
    return [*our_cases(), *HARD, *RECBOLE]
