"""Folders as runs leave them, written by hand, so that every figure of a picture is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path,
    epochs: Sequence[Mapping[str, Any]],
    *,
    model: str = "DimeRec",
    seed: int = 1,
    finished: bool = True,
    digest: str = "a",
    test: float = 0.1,
    valid: float = 0.1,
    **keys: Any,
) -> Path:
    """A run's folder with these lines of metrics.csv."""
    folder.mkdir(parents=True)
    config = {"model": model, "dataset": "small", "seed": seed, "protocol": "leave_one_out", "valid_metric": "NDCG@10"}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "num_threads": 1, **keys}), encoding="utf-8")
    if epochs:
        names = list(dict.fromkeys(name for row in epochs for name in row))
        lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in epochs)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if finished:
        result = {
            "model": model, "dataset": "small", "seed": seed, "epochs": len(epochs), "wall_seconds": 1.0,
            "device": "cpu", "protocol": {"protocol": "leave_one_out"}, "data": {"files": {"small.inter": digest}},
            "test_result": {"ndcg@10": test}, "valid_result": {"ndcg@10": valid},
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def epoch(number: int, seconds: float, ndcg: float | None, **terms: float) -> dict[str, Any]:
    """A line of metrics.csv."""
    row: dict[str, Any] = {"epoch": number, "train_loss": sum(terms.values())}
    row.update({f"train_{name}": value for name, value in terms.items()})
    row["train_seconds"] = seconds
    return row if ndcg is None else {**row, "valid_seconds": 9.0, "valid_ndcg@10": ndcg, "valid_hit@10": 2 * ndcg}
