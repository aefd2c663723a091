"""A grid from the command line to its figures: trained once, found again, gone on with."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest

from recbole_diffusion.command_line import main

pytest.importorskip("matplotlib")
KEYS = ["--epochs=1", "--eval_step=1", "--hidden_size=8", "--n_layers=1", "--n_heads=1", "--num_steps=4", "--topk=[5,10]"]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_lambda_from_nothing_to_its_figures(
    tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_diffusion.analyses.grid.PUBLISHED", printed(tmp_path))
    out = tmp_path / "out"
    words = ["analyse", "lambda", "--dataset=small", f"--data_path={small_data}", f"--output={out}", *KEYS]
    words += ["--values=[0,0.001]", "--threads=1", "--max_concurrent=2", "--metric=NDCG@10"]
    assert main([*words, "--seeds=1"]) == 0
    made = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    capsys.readouterr()
    shutil.rmtree(next(iter(made)).parent)
    assert main([*words, "--seeds=[1,2]"]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert sum(line.startswith("[4/4] ") for line in lines) == 1 and len(set(lines)) == len(lines)
    kept = [path for path in made if path.exists()]
    assert len(kept) == 1 and kept[0].stat().st_mtime_ns == made[kept[0]]  # found again, not made again

    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "lambda").rglob("runs/**/result.json"))]
    assert len(results) == 4
    configs = {(r["seed"], r["test_result"]["ndcg@10"], r["valid_result"]["ndcg@10"]) for r in results}
    runs = rows_of(out / "lambda_runs.csv")
    assert {(int(r["seed"]), float(r["test_ndcg@10"]), float(r["valid_ndcg@10"])) for r in runs} == configs
    for run in runs:  # each row is of the value that it says
        config = (out / run["folder"] / "config.yaml").read_text(encoding="utf-8").splitlines()
        value = f"{float(run['value'])}"
        assert f"lambda_mean: {value}" in config and f"lambda_std: {value}" in config
    for row in rows_of(out / "lambda.csv"):
        values = [100 * float(run[f"{row['split']}_{row['metric']}"]) for run in runs if run["value"] == row["value"]]
        assert float(row["mean"]) == pytest.approx(mean(values)) and float(row["std"]) == pytest.approx(stdev(values))
        assert float(row["low_95"]) < float(row["mean"]) < float(row["high_95"]) or stdev(values) == 0
        assert row["printed"] == ("12.5" if (row["value"], row["split"], row["metric"]) == ("0", "test", "ndcg@10") else "")
    assert "DiffuRec on small, NDCG@10, percent, mean and standard deviation of 2 seeds" in captured.out
    assert "12.5" in captured.out and "best on validation: " in captured.out
    assert (out / "lambda.png").is_file() and (out / "lambda.svg").is_file()
    page = (out / "lambda" / "tables" / "small.md").read_text(encoding="utf-8")
    assert "lambda_mean=lambda_std=0.001" in page and "A paper" in page

    # its suite is a suite's folder like any other, and by hand it is finished
    assert main(["analyse", "convergence", f"--suite={out / 'lambda'}", f"--output={tmp_path / 'curves'}"]) == 0
    assert len(rows_of(tmp_path / "curves" / "convergence.csv")) == 4
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert main(["benchmark", str(out / "lambda.yaml"), f"--output={out}", f"--data_path={small_data}"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}


def printed(folder: Path) -> Path:
    """A folder of printed figures of our own."""
    place = folder / "published"
    place.mkdir()
    facts = {
        "short": "A paper, Table 1",
        "source": "A paper",
        "values": {"small": {"lambda_mean=lambda_std=0": {"NDCG@10": 12.5}}},
    }
    (place / "DiffuRec.table1.json").write_text(json.dumps(facts), encoding="utf-8")
    return place
