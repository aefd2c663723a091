"""The runs kept under results/runs, and the published figures that they stand beside."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).resolve().parent / "published"


class RawFileError(ValueError):
    """A raw file that cannot be rendered; the message names it."""


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        RawFileError: it is no JSON (file:line).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RawFileError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


@dataclass(frozen=True)
class Columns:
    """What the tables and curves of a protocol show.

    Attributes:
        protocol: in words.
        metrics: columns of the table, in percent.
        curves: validation metrics that are drawn.
        chosen_by: validation metric of the table of efforts.
        judged_by: test metric of the table of all models.
    """

    protocol: str
    metrics: tuple[str, ...]
    curves: tuple[str, str]
    chosen_by: str
    judged_by: str


PROTOCOLS = {
    "leave_one_out": Columns(
        "leave-one-out",
        ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20"),
        ("HR@10", "NDCG@10"),
        "NDCG@10",
        "HR@10",
    ),
    "user_split_multi": Columns(
        "users apart, the last fifth of a user's items asked for at once",
        ("RECALL@20", "HR@20", "RECALL@50", "HR@50"),
        ("RECALL@50", "HR@50"),
        "RECALL@50",
        "RECALL@50",
    ),
    "user_split_next": Columns(
        "users apart, one next item asked for",
        ("HR@10", "HR@20", "HR@50", "NDCG@10", "NDCG@20", "NDCG@50"),
        ("HR@50", "NDCG@50"),
        "HR@50",
        "HR@50",
    ),
}


@dataclass(frozen=True)
class Run:
    """What is kept of one run."""

    name: str
    label: str
    compare_with: str
    """Name of the published model its metrics stand beside."""
    facts: Mapping[str, Any]
    epochs: Sequence[Mapping[str, str]]
    main: bool = False
    """Whether it stands for its model in the table of all models."""

    @property
    def dataset(self) -> str:
        """The dataset it ran on."""
        return str(self.facts["dataset"])

    @property
    def protocol(self) -> str:
        """The word for which rows train and test."""
        facts = self.facts.get("protocol")
        word = facts.get("protocol", "leave_one_out") if isinstance(facts, Mapping) else facts or "leave_one_out"
        return str(word)

    @property
    def columns(self) -> Columns:
        """What is shown of it.

        Raises:
            RawFileError: its protocol has no table.
        """
        if self.protocol not in PROTOCOLS:
            raise RawFileError(
                f"run {self.name} has protocol {self.protocol}, which has no table; allowed: {', '.join(PROTOCOLS)}"
            )
        return PROTOCOLS[self.protocol]

    @property
    def table(self) -> str:
        """Runs of one table share dataset and protocol."""
        return self.dataset if self.protocol == "leave_one_out" else f"{self.dataset}_{self.protocol}"

    def test_metrics(self) -> dict[str, float]:
        """Test metrics in percent by their printed names; empty while a run is unfinished."""
        return in_percent(self.facts.get("test_result") or {})

    def validation_curve(self) -> list[tuple[int, dict[str, float]]]:
        """(epoch, validation metrics in percent) of the epochs that were validated."""
        curve = []
        for row in self.epochs:
            metrics = {key[len("valid_") :]: value for key, value in row.items() if key.startswith("valid_") and value}
            metrics.pop("seconds", None)
            if metrics:
                curve.append((int(row["epoch"]), in_percent({key: float(value) for key, value in metrics.items()})))
        return curve

    def seconds_per_epoch(self) -> float | None:
        """Median seconds of training an epoch."""
        seconds = sorted(float(row["train_seconds"]) for row in self.epochs if row.get("train_seconds"))
        return seconds[len(seconds) // 2] if seconds else None


def in_percent(metrics: Mapping[str, float]) -> dict[str, float]:
    """RecBole's `hit@10` as `HR@10` in percent, and so on."""
    names = {}
    for key, value in metrics.items():
        kind, _, cut = key.partition("@")
        kind = {"hit": "HR", "hr": "HR"}.get(kind.lower(), kind.upper())
        names[f"{kind}@{cut}"] = 100 * float(value)
    return names


def read_run(folder: Path) -> Run:
    """A run kept under results/runs.

    Raises:
        RawFileError: a file is absent or lacks what a table needs.
    """
    if not (folder / "metrics.csv").is_file():
        raise RawFileError(f"{folder} has no metrics.csv; add a run with --add=RUN_FOLDER --name={folder.name}")
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    result = folder / "result.json"
    facts = read_json(result) if result.is_file() else plain_keys(folder / "config.yaml")
    about = read_json(folder / "about.json") if (folder / "about.json").is_file() else {}
    for key in ("model", "dataset"):
        if key not in facts:
            raise RawFileError(f"{result if result.is_file() else folder / 'config.yaml'} has no '{key}'")
    label = about.get("label") or folder.name
    if about.get("command"):
        facts = {**facts, "command": about["command"]}
    return Run(
        folder.name, label, about.get("compare_with") or str(facts["model"]), facts, epochs, bool(about.get("main"))
    )


def plain_keys(path: Path) -> dict[str, str]:
    """Top-level `key: value` lines of a YAML file as text; enough for the facts of an unfinished run."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z_]\w*): +([^{\[].*)$", line) for line in lines)
    return {match[1]: match[2].strip() for match in found if match}


def published_values() -> list[dict[str, Any]]:
    """Every file of published figures."""
    return [read_json(path) for path in sorted(PUBLISHED.glob("*.json"))]
