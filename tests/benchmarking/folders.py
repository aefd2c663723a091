"""Run folders made by hand: a result.json, a config.yaml, and the test row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

FILES = {"toy.inter": "a" * 64, "toy.item": "b" * 64}
DATA = {"files": FILES, "ids": "c" * 64, "users": 4, "items": 9}
PROTOCOL = {
    "protocol": "leave_one_out",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": {"test": "full"}},
    "filter_seen": False,
    "repeatable": True,
    "topk": [10],
    "label_repeats": False,
    "eval_seed": 2023,
    "MAX_ITEM_LIST_LENGTH": 50,
}


def make_run(
    folder: Path,
    model: str,
    seed: int,
    test: Mapping[str, float] | None,
    users: Mapping[str, Sequence[float]] | None = None,
    *,
    config: str = "",
    **facts: Any,
) -> Path:
    """A run folder.

    Args:
        folder: where.
        model, seed: of the run.
        test: its test metrics; None for an unfinished run.
        users: metric -> values of the users u0, u1, ...; None without per-user results.
        config: more lines of config.yaml.
        facts: what result.json says beside; `label` goes to about.json.
    """
    folder.mkdir(parents=True)
    label = facts.pop("label", None)
    if label is not None:
        (folder / "about.json").write_text(json.dumps({"label": label}), encoding="utf-8")
    (folder / "config.yaml").write_text(
        "# Every key as this run used it.\n"
        f"data_path: /somewhere/{folder.name}\ndataset: toy\neval_args:\n  mode: {{test: full}}\n"
        f"  split: {{LS: valid_and_test}}\nmodel: {model}\nprotocol: leave_one_out\nseed: {seed}\n{config}",
        encoding="utf-8",
    )
    if test is not None:
        result = {
            "model": model,
            "dataset": "toy",
            "epochs": 3,
            "valid_result": {"hit@10": 0.5},
            "test_result": test,
            "seed": seed,
            "device": "cpu",
            "wall_seconds": 12.4,
            "code": {"version": "0.1.0", "commit": "0123456789abcdef", "modified": False},
            "data": DATA,
            "protocol": PROTOCOL,
        }
        (folder / "result.json").write_text(json.dumps({**result, **facts}, indent=1), encoding="utf-8")
    if users is not None:
        write_users(folder, users, test)
    return folder


def write_users(
    folder: Path,
    users: Mapping[str, Sequence[float]],
    result: Mapping[str, float] | None,
    names: Sequence[str | None] | None = None,
) -> None:
    """per_user/test.parquet with the metrics of the users u0, u1, ... (or of these names)."""
    number = len(next(iter(users.values())))
    names = [f"u{place}" for place in range(number)] if names is None else names
    columns = {
        "row": pyarrow.array(range(number), pyarrow.int32()),
        "user": pyarrow.array(names, pyarrow.string()),
        **{name: pyarrow.array(values, pyarrow.float64()) for name, values in users.items()},
    }
    facts = json.dumps({"split": "test", "result": result}).encode()
    (folder / "per_user").mkdir(exist_ok=True)
    table = pyarrow.table(columns).replace_schema_metadata({"recbole_diffusion": facts})
    pyarrow.parquet.write_table(table, folder / "per_user" / "test.parquet")
