"""A suite's report made of small run folders: what a page can have, and labels that try to be markup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.comparison import Comparison
from recbole_diffusion.benchmarking.published import read_published
from recbole_diffusion.benchmarking.results import RunRecord, read_run
from recbole_diffusion.benchmarking.table_files import write_tables
from recbole_diffusion.benchmarking.tables import build_tables
from recbole_diffusion.reporting.suite_report import (
    FAILED,
    FINISHED,
    NOT_BEGUN,
    Contestant,
    Evaluation,
    RunState,
    SearchReport,
    SuiteReport,
    Trial,
)

from ..benchmarking.folders import PROTOCOL, make_run

EVIL = "<script>window.broken = 1</script> & <b>sons</b>"
USERS = 40
PAPER = {
    "short": "DMI paper, Table 2",
    "source": "Le et al.: DMI",
    "values": {"toy": {"DMI": {"HR@10": 31.5, "NDCG@10": 12.25}}},
}
TRIALS = (
    Trial({"learning_rate": 0.00123456789, "n_layers": 2}, 0.125, "finished", 4, 6, 12.5),
    Trial({"learning_rate": 0.004, "n_layers": 1}, None, "failed: the loss is NaN", None, 1, 2.0),
)


def metrics_csv(hit: float, epochs: int) -> str:
    """Validations in every second epoch, the last of them the best."""
    lines = ["epoch,train_loss,valid_hit@10,valid_ndcg@10"]
    for epoch in range(1, epochs + 1):
        share = hit * epoch / epochs
        lines.append(f"{epoch},{5 - epoch / 10}," + (f"{share:.6f},{share / 2:.6f}" if epoch % 2 == 0 else ","))
    return "\n".join(lines) + "\n"


def found(run: int, count: int) -> list[float]:
    """1 for `count` of the users, beginning with a different one for each run."""
    return [float((user + run) % USERS < count) for user in range(USERS)]


def make(place: Path, model: str, seed: int, count: int | None, **facts: Any) -> Path:
    """A planned run's folder with a run folder in it."""
    epochs = facts.pop("epochs", 6)
    folder = place / f"{model}-toy-20260101-00000{seed}"
    if count is None:
        make_run(folder, model, seed, None)
    else:
        hit = found(seed, count)
        ndcg = [value / 2 for value in hit]
        test = {"hit@10": count / USERS, "ndcg@10": count / USERS / 2}
        facts = {
            "best_epoch": epochs,
            "valid_metric": "NDCG@10",
            "parameters": 12_345,
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "finished": f"2026-01-0{seed}T10:00:00+0000",
            **facts,
        }
        make_run(folder, model, seed, test, {"hit@10": hit, "ndcg@10": ndcg}, epochs=epochs, **facts)
    (folder / "metrics.csv").write_text(metrics_csv((count or 8) / USERS, epochs), encoding="utf-8")
    (place / "asked.yaml").write_text(f"model: {model}\nseed: {seed}\n", encoding="utf-8")
    (place / "log.txt").write_text("a log\n", encoding="utf-8")
    return folder


def example(folder: Path, *, evil: str = EVIL) -> SuiteReport:
    """The report of a suite in `folder`: DMI twice and once failed, popularity under filter_seen, a label `evil`."""
    (folder / "paper.json").write_text(json.dumps(PAPER), encoding="utf-8")
    planned: list[tuple[str, str, int, int | None, dict[str, Any]]] = [
        ("SASRec", "SASRec", 1, 4, {}),
        ("SASRec", "SASRec", 2, 6, {}),
        ("DMI", "DMI", 1, 12, {}),
        ("DMI", "DMI", 2, 14, {"code": {"version": "0.1.0", "commit": "f" * 40, "modified": True}}),
        ("DMI", "DMI", 3, None, {}),
        (evil, "Popularity", 1, 2, {"protocol": {**PROTOCOL, "filter_seen": True}, "epochs": 1}),
    ]
    runs = []
    for label, model, seed, count, facts in planned:
        place = folder / "runs" / "toy" / model / f"seed-{seed}"
        record = read_run(make(place, model, seed, count, **facts), label)
        state, reason = (FINISHED, "") if record.finished else (FAILED, "the loss of epoch 3 is NaN <i>")
        runs.append(RunState(label, "toy", seed, state, reason, place, record))
    runs.append(RunState("DMI", "other", 1, NOT_BEGUN, "", folder / "runs" / "other" / "DMI" / "seed-1", None))
    records = [run.record for run in runs if run.record]
    seen = [
        read_run(make(folder / "seen" / name, name, 1, count, protocol={**PROTOCOL, "filter_seen": True}), name)
        for name, count in (("SASRec", 8), ("DMI", 7))
    ]
    return SuiteReport(
        name="tiny",
        about=f"About {evil}",
        text=f"about: {evil}\ndatasets: [toy, other]\n",
        command="recbole-diff benchmark tiny.yaml --data_path=data",
        settings={"epochs": 6},
        datasets=["toy", "other"],
        contestants=[
            Contestant("SASRec", "SASRec", "", {}, (1, 2), ("toy",)),
            Contestant("DMI", "DMI", "paper", {"hidden_size": 8}, (1, 2, 3), ("toy", "other")),
            Contestant(evil, "Popularity", "", {"note": evil}, (1,), ("toy",)),
        ],
        runs=runs,
        evaluations=[
            evaluation("", {}, records, folder, folder / "tables"),
            evaluation("without <seen> items", {"filter_seen": True}, seen, folder, folder / "tables" / "seen"),
        ],
        searches=[
            SearchReport(
                "DMI",
                "toy",
                2,
                "NDCG@10",
                {"learning_rate": {"loguniform": [0.0002, 0.005]}, "n_layers": {"choice": [1, 2]}},
                TRIALS,
                TRIALS[0].values,
                folder / "searches" / "toy" / "DMI",
            ),
            SearchReport("DMI", "other", 2, "", {}, (), None),
        ],
    )


def evaluation(
    name: str, settings: dict[str, Any], records: Sequence[RunRecord], folder: Path, place: Path
) -> Evaluation:
    """The tables of some runs against SASRec, and their files."""
    tables = build_tables(
        records, comparison=Comparison(reference="SASRec"), published=read_published(folder / "paper.json")
    )
    write_tables(tables, place)
    return Evaluation(name, settings, tables, place)
