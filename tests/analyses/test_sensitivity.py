"""A grid's figures by hand, and from the command line: trained once, found again, drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from recbole_diffusion.analyses import sensitivity
from recbole_diffusion.analyses.grid import Grid, variants_of
from recbole_diffusion.analyses.request import Request
from recbole_diffusion.benchmarking.results import read_run
from recbole_diffusion.command_line import main
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.suites.benchmark import SuiteResult
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.suites.suite import read_suite
from tests.analyses.run_folders import epoch, write_run

pytest.importorskip("matplotlib")
# of values 2 and 4: test and validation of seeds 1 and 2
FIGURES = {"2": [(0.10, 0.30), (0.20, 0.40)], "4": [(0.30, 0.10), (0.30, 0.20)]}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def printed(folder: Path, label: str) -> Path:
    """A folder of printed figures of our own."""
    place = folder / "published"
    place.mkdir()
    facts = {"short": "A paper, Table 1", "source": "A paper", "values": {"small": {label: {"NDCG@10": 12.5}}}}
    (place / "DiffuRec.table1.json").write_text(json.dumps(facts), encoding="utf-8")
    return place


def test_figures_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_diffusion.analyses.grid.PUBLISHED", printed(tmp_path, "n_layers=4"))
    grid = Grid("sensitivity", "about", "DiffuRec", "small", None, variants_of(["n_layers"], [2, 4]), {"9": "too many"})
    runs = []
    for value, figures in FIGURES.items():
        for seed, (test, valid) in enumerate(figures, start=1):
            place = tmp_path / "sensitivity" / value / str(seed)
            write_run(place / "run", [epoch(1, 1.0, valid)], model="DiffuRec", seed=seed, test=test, valid=valid)
            runs.append(PlannedRun(f"n_layers={value}", "small", seed, "DiffuRec", None, {}, place))
    (tmp_path / "any.yaml").write_text("datasets: [small]\nmodels: {DiffuRec: }\n", encoding="utf-8")
    result = SuiteResult(
        read_suite(tmp_path / "any.yaml"), tmp_path, tuple(runs), (), (), tmp_path / "report.html", len(runs)
    )
    request = Request({}, Overrides(), tmp_path)
    found = sensitivity._findings(grid, request, ["n_layers"], ["ndcg@10"], result)

    rows = {(row["value"], row["split"]): row for row in rows_of(tmp_path / "sensitivity.csv")}
    assert list(rows) == [("2", "test"), ("2", "valid"), ("4", "test"), ("4", "valid")]
    two = rows["2", "test"]  # percent; 10 and 20: 15 +- 7.0711, t(1, 0.975) / sqrt(2) = 8.98455
    assert two["unit"] == "percent" and two["seeds"] == "2" and two["metric"] == "ndcg@10"
    figures = [float(two[key]) for key in ("mean", "std", "low_95", "high_95")]
    assert figures == pytest.approx([15, 7.071068, 15 - 63.53102, 15 + 63.53102], abs=1e-4)
    assert float(rows["4", "test"]["std"]) == 0 and float(rows["2", "valid"]["mean"]) == pytest.approx(35)
    assert [row["printed"] for row in rows.values()] == ["", "", "12.5", ""]  # what papers print is a test
    lines = [line.split() for line in found.text.splitlines()]
    assert found.text.startswith("DiffuRec on small, NDCG@10, percent, mean and standard deviation of 2 seeds\n")
    assert ["2", "15.0000", "±", "7.0711", "35.0000", "±", "7.0711"] in lines
    assert ["4", "30.0000", "±", "0.0000", "15.0000", "±", "7.0711", "12.5"] in lines
    assert "best on validation: 2\n" in found.text  # although 4 has the better test
    assert "not trained: 9: too many" in found.text
    own = rows_of(tmp_path / "sensitivity_runs.csv")
    assert [(row["value"], row["seed"], float(row["test_ndcg@10"])) for row in own] == [
        ("2", "1", 0.1), ("2", "2", 0.2), ("4", "1", 0.3), ("4", "2", 0.3),
    ]  # fmt: skip
    assert own[3]["folder"] == "sensitivity/4/2/run"


@pytest.mark.parametrize(("seeds", "bars"), [([1, 1], []), ([2, 1], [7.071068]), ([2, 2], [7.071068, 0.0])])
def test_a_bar_stands_where_a_deviation_was_measured(tmp_path: Path, seeds: list[int], bars: list[float]) -> None:
    grid = Grid("sensitivity", "about", "DiffuRec", "small", None, variants_of(["n_layers"], [2, 4]), {}, (1,))
    runs = {
        variant: [
            read_run(write_run(tmp_path / variant.value / str(seed), [epoch(1, 1.0, 0.5)], test=test, valid=0.5))
            for seed, (test, _) in enumerate(FIGURES[variant.value][:number])
        ]
        for variant, number in zip(grid.variants, seeds, strict=True)
    }
    figure = sensitivity._drawn(grid, ["n_layers"], ["ndcg@10"], runs, {variant: [] for variant in runs})
    test = figure.axes[0].containers[0]
    assert test.get_label() == "test" and test.has_yerr == bool(bars)  # the legend has a bar where one may stand
    lines = test[2][0].get_segments() if bars else []
    lengths = [(line[1, 1] - line[0, 1]) / 2 for line in lines if len(line)]
    assert lengths == pytest.approx(bars, abs=1e-5)


def test_lambda_from_nothing_to_its_figures(
    tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_diffusion.analyses.grid.PUBLISHED", printed(tmp_path, "lambda_mean=lambda_std=0"))
    out = tmp_path / "out"
    keys = {"epochs": 1, "eval_step": 1, "hidden_size": 8, "n_layers": 1, "n_heads": 1, "num_steps": 4}
    words = ["analyse", "lambda", "--dataset=small", f"--data_path={small_data}", f"--output={out}", "--seeds=1"]
    words += ["--threads=1", *(f"--{key}={value}" for key, value in keys.items())]
    assert main([*words, "--values=0"]) == 0
    (first,) = out.rglob("result.json")
    made = first.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*words, "--values=[0,0.001]"]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert any(line.startswith("[2/2] lambda_mean=lambda_std=0.001 on small, seed 1: ") for line in lines)
    assert len(set(lines)) == len(lines)  # no line is said twice
    assert first.stat().st_mtime_ns == made  # found again, not made again

    runs = rows_of(out / "lambda_runs.csv")
    assert [run["value"] for run in runs] == ["0", "0.001"] and (out / runs[0]["folder"]) == first.parent
    for run in runs:  # each row is of the value that it says, and of its result
        config = (out / run["folder"] / "config.yaml").read_text(encoding="utf-8").splitlines()
        assert f"lambda_mean: {run['value']}" in config and f"lambda_std: {run['value']}" in config
        result = json.loads((out / run["folder"] / "result.json").read_text(encoding="utf-8"))
        assert float(run["test_ndcg@10"]) == result["test_result"]["ndcg@10"]
    assert "12.5" in said.out and (out / "lambda.png").is_file() and (out / "lambda.svg").is_file()
    page = (out / "lambda" / "tables" / "small.md").read_text(encoding="utf-8")
    assert "lambda_mean=lambda_std=0.001" in page and "A paper" in page

    # it is a suite's folder like any other, and by hand it is finished
    assert main(["analyse", "convergence", f"--suite={out / 'lambda'}", f"--output={tmp_path / 'curves'}"]) == 0
    assert len(rows_of(tmp_path / "curves" / "convergence.csv")) == 2
    assert main(["benchmark", str(out / "lambda.yaml"), f"--output={out}", f"--data_path={small_data}"]) == 0
    assert len(list(out.rglob("result.json"))) == 2 and first.stat().st_mtime_ns == made
