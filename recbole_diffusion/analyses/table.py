"""The analyses: name, module, one line, and the keys that each takes. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

# Keys of the analyses; which of them takes which is in ANALYSES.
OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "runs": "RUN_FOLDERS, separated by blanks, each with a name of yours where it is given as NAME=RUN_FOLDER",
    "suite": "FOLDER that `benchmark`, or an analysis which trains, made for a suite (it has a suite.json)",
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

ANALYSES: dict[str, Analysis] = {
    # of several runs
    "convergence": Analysis(
        "convergence", "validation metric against epochs and training time", (), ("runs", "suite", "metric"), False
    ),
    "loss_terms": Analysis(
        "loss_terms", "terms of the training loss over epochs (DimeRec, Figure 4)", (), ("runs", "suite"), False
    ),
    # which train
    "sensitivity": Analysis(
        "sensitivity", "any key of any model, varied", ("model", "dataset", "vary", "values"), _GRID
    ),
    "schedules": Analysis(
        "schedules", "noise schedules (DiffuRec, Table 3)", ("dataset",), ("model", "values", *_GRID)
    ),
    "lambda": Analysis(
        "lambda_sensitivity", "lambda, 0 included (DiffuRec, Figure 3; DimeRec, Table 7; DMI, Figure 3)",
        ("dataset",), ("model", "values", *_GRID),
    ),
    "interests": Analysis(
        "interests", "number of interests K (DMI, Table 5)", ("dataset",), ("model", "values", *_GRID)
    ),
}  # fmt: skip
