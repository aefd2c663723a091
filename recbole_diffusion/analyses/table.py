"""The analyses: name, module, one line, and the keys that each takes. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

# Keys of the analyses; which of them takes which is in ANALYSES.
OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "runs": "RUN_FOLDERS, separated by blanks, each with a name of yours where it is given as NAME=RUN_FOLDER",
    "split": "test (default) | valid: which rows are ranked",
    "cutoff": "NUMBER of topk whose metrics are drawn (default: that of valid_metric); all are in the CSV",
    "steps": "NUMBERS of reverse steps (default: the powers of two below num_steps, and num_steps)",
    "samples": "NUMBERS of samplings averaged, 1 always among them (default: 1,2,4,8)",
    "eval_seeds": "NUMBER of seeds of the noise, from eval_seed on, that each is ranked with (default: 3)",
    "timed_users": "NUMBER of users of the batch that is timed (default: 256)",
    "rounds": "NUMBER of times that it is timed, after one that does not count (default: 5)",
    "user": "USER_TOKENS whose histories are sampled, separated by blanks",
    "row": "NUMBERS of their rows instead, from 0 (default: a row that is drawn)",
    "samplings": "NUMBER of noises of each of them (default: 100)",
    "others": "NUMBER of other histories, sampled once each (default: 500)",
    "k": "NUMBER of items of a list whose different items are counted (default: 20)",
    "seed": "NUMBER: seed of what the analysis itself draws (default: 0)",
    "head_share": "SHARE of items that are head, those that train most often (default: 0.2)",
    "length_groups": "NUMBER of groups of histories by length (default: 5)",
    "labels": "first (default): an item's first category | all of them",
    "folds": "NUMBER of folds of the cross-validation (default: 5)",
    "least_items": "NUMBER of items without which a category is left out (default: 10, or folds)",
    "inverse_penalty": "NUMBERS above 0, of which each fold chooses: C of scikit-learn's (default: 0.001,0.01,0.1,1)",
    "embedding": "NAME of the weight with a vector an item (default: item_embedding.weight)",
    "suite": "FOLDER that `benchmark`, or an analysis which trains, made for a suite (it has a suite.json)",
    "pairs": "'FIRST:SECOND' ...: labels of the suite to compare (default: every label with the suite's reference)",
    "evaluation": "NAME of a further evaluation of the suite (default: the runs' own tests)",
    "model": "NAME of --list_models, or a class of yours as package.module:Class",
    "dataset": "NAME of the folder in data_path with NAME.inter",
    "preset": "paper: the settings of the model's paper for this dataset; your own keys win over them",
    "vary": "KEY that is varied; several with commas between them get the same value",
    "values": "[VALUES] of what is varied; {key: value, ...} among them is a value that takes several keys",
    "seeds": "[NUMBERS], each value is trained with every one of them (default: [1,2,3])",
    "metric": "METRICS to draw, with commas between them, such as NDCG@10 (default: valid_metric)",
    "max_concurrent": "NUMBER of runs at a time (default: 1)",
    "threads": "NUMBER of CPU threads of a run (default: its share of the cores)",
}


@dataclass(frozen=True)
class Analysis:
    """One analysis.

    Attributes:
        module: holds ``analyse(request) -> Findings``.
        about: one line.
        needs: keys of OPTIONS without which it does nothing.
        takes: further keys of OPTIONS.
        config: whether other keys are keys of a run or an evaluation.
    """

    module: str
    about: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    config: bool = True


_GRID = ("preset", "seeds", "metric", "max_concurrent", "threads")  # of those that train
_RANKED = ("split", "cutoff", "timed_users", "rounds")

ANALYSES: dict[str, Analysis] = {
    "reverse_steps": Analysis(
        "reverse_steps",
        "accuracy and time against the number of reverse steps of one trained model",
        ("checkpoint",),
        ("steps", *_RANKED),
    ),
    "seed_averaging": Analysis(
        "seed_averaging",
        "what averaging several samplings gains, and what it costs",
        ("checkpoint",),
        ("samples", "eval_seeds", *_RANKED),
    ),
    "uncertainty": Analysis(
        "uncertainty",
        "where x_0 of a history lands under many noises (t-SNE), and how many items it is offered",
        ("checkpoint",),
        ("user", "row", "samplings", "others", "k", "seed", "split"),
    ),
    "groups": Analysis(
        "groups",
        "metrics for head and long-tail items, short and long histories, of one run or several",
        ("runs",),
        ("cutoff", "head_share", "length_groups"),
        config=False,
    ),
    "probing": Analysis(
        "probing",
        "how well a linear classifier reads items' categories off their embeddings, of one run or several",
        ("runs",),
        ("labels", "folds", "least_items", "inverse_penalty", "embedding", "seed"),
    ),
    # of several runs
    "convergence": Analysis(
        "convergence", "validation metric against epochs and training time", (), ("runs", "suite", "metric"), False
    ),
    "loss_terms": Analysis(
        "loss_terms", "terms of the training loss over epochs (DimeRec, Figure 4)", (), ("runs", "suite"), False
    ),
    "differences": Analysis(
        "differences",
        "by how much one model of a suite is better than another, with intervals over users and seeds, and its cost",
        ("suite",),
        ("pairs", "metric", "evaluation"),
        False,
    ),
    # which train
    "sensitivity": Analysis(
        "sensitivity", "any key of any model, varied", ("model", "dataset", "vary", "values"), _GRID
    ),
    "schedules": Analysis(
        "schedules", "noise schedules (DiffuRec, Table 3)", ("dataset",), ("model", "values", *_GRID)
    ),
    "lambda": Analysis(
        "lambda_sensitivity",
        "lambda, 0 included (DiffuRec, Figure 3; DimeRec, Table 7; DMI, Figure 3)",
        ("dataset",),
        ("model", "values", *_GRID),
    ),
    "interests": Analysis(
        "interests", "number of interests K (DMI, Table 5)", ("dataset",), ("model", "values", *_GRID)
    ),
}
