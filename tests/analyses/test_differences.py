"""Differences of a suite's labels: hand-computed means and intervals, costs, and what cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from scipy import stats

from recbole_diffusion.analyses.differences import Difference, _drawn, _text
from recbole_diffusion.benchmarking.printed import exact_p_value
from recbole_diffusion.benchmarking.statistics import Interval, welch_interval
from recbole_diffusion.command_line import main
from tests.analyses.run_folders import epoch, write_run

pytest.importorskip("matplotlib")
USERS = 40


def test_welch_is_scipys() -> None:
    first, second = [4.1, 4.3, 4.0], [3.9, 3.2, 3.6, 3.7]
    found = welch_interval(first, second)
    known = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found is not None and (found.low, found.high) == pytest.approx((known.low, known.high))
    assert welch_interval([1.0], [1.0, 2.0]) is None and welch_interval([1.0, 1.0], [2.0, 2.0]) is None


def add_run(folder: Path, label: str, seed: int, hits: np.ndarray, *, epochs: int = 3, **keys: Any) -> dict[str, Any]:
    """A finished run of the suite in `folder` whose users have these NDCG@10."""
    place = f"runs/small/{label.replace(' ', '-')}/seed-{seed}"
    lines = [epoch(number, 1.0, 0.5 if number == 1 else 0.1) for number in range(1, epochs + 1)]
    run = write_run(
        folder / place / "DimeRec-small", lines, seed=seed, test=float(hits.mean()), stopping_step=1, **keys
    )
    with (run / "config.yaml").open("a", encoding="utf-8") as stream:
        stream.write("epochs: 1000\n")
    facts = json.loads((run / "result.json").read_text(encoding="utf-8"))
    facts.update(best_epoch=1, valid_metric="NDCG@10", processor_seconds=10.0 * seed, parameters=7)
    facts.update(wall_seconds=12.0 * seed, device="cpu (1 threads)")
    (run / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    (run / "per_user").mkdir()
    users = [f"u{number}" for number in range(len(hits))]
    pyarrow.parquet.write_table(pyarrow.table({"user": users, "ndcg@10": hits}), run / "per_user" / "test.parquet")
    entry: dict[str, Any] = {"label": label, "dataset": "small", "seed": seed, "model": "DimeRec", "preset": None}
    return {**entry, "keys": {}, "place": place, "evaluations": {}}


def suite_of(folder: Path) -> Path:
    """A reference with two seeds, a model that is better by 0.1 with two seeds, and one with a single seed."""
    base = np.linspace(0.1, 0.5, USERS)
    runs = [
        add_run(folder, "base: plain", 1, base, time_limit=5, epochs=2),
        add_run(folder, "base: plain", 2, base + 0.02, time_limit=5, epochs=2),
        add_run(folder, "better", 1, base + 0.1),
        add_run(folder, "better", 2, base[::-1] + 0.12),
        add_run(folder, "lonely", 1, 0.9 * base),
    ]
    facts = {"reference": ["base: plain"], "runs": runs}
    (folder / "suite.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_differences_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = suite_of(tmp_path / "suite"), tmp_path / "out"
    assert main(["analyse", "differences", f"--suite={suite}", f"--output={out}"]) == 0
    better, lonely = rows_of(out / "differences.csv")
    assert (better["first"], better["second"], better["users"]) == ("better", "base: plain", str(USERS))
    assert float(better["difference"]) == pytest.approx(10.0)  # percent: 0.41 and 0.31
    assert float(better["relative"]) == pytest.approx(0.1 / 0.31)
    own = 100 * np.array([0.4, 0.42]), 100 * np.array([0.3, 0.32])
    known = stats.ttest_ind(*own, equal_var=False).confidence_interval(0.95)
    assert float(better["seeds_low"]) == pytest.approx(known.low) and float(better["seeds_high"]) == pytest.approx(
        known.high
    )
    # over users: half of the reversed ramp plus half of the ramp, less the ramp
    base = np.linspace(0.1, 0.5, USERS)
    users = 100 * ((base + base[::-1]) / 2 - base + 0.1)
    low, high = float(better["users_low"]), float(better["users_high"])
    assert low < users.mean() < high and users.mean() - 2.2 * users.std() / USERS**0.5 < low
    p_values = [stats.ttest_1samp(users, 0.0).pvalue, float(lonely["t_p_value"])]
    assert float(better["t_p_value"]) == pytest.approx(p_values[0])
    assert float(better["t_p_corrected"]) == pytest.approx(max(2 * min(p_values), p_values[0]))
    assert lonely["seeds_low"] == "" and float(lonely["difference"]) == pytest.approx(-4.0)
    costs = {row["label"]: row for row in rows_of(out / "costs.csv")}
    assert costs["base: plain"]["processor_seconds"] == "15.0" and costs["base: plain"]["ended_by_time_limit"] == "2"
    assert costs["better"]["ended_by_patience"] == "2" and costs["better"]["best_epoch"] == "1.0"
    assert {file.name for file in out.iterdir()} == {
        "differences.csv", "differences.png", "differences.svg", "costs.csv",
    }  # fmt: skip
    assert "better - base: plain  NDCG@10, percent   2, 2  41.0000  31.0000     10.0000" in capsys.readouterr().out


def difference(metric: str, low: float, high: float) -> Difference:
    """Between two models of one seed each."""
    ends = Interval(low, high)
    return Difference("small", ("a", "b"), metric, (1, 1), 9, (2.0, 1.0), ends, None, (0.5, 0.5))


def test_a_line_is_as_long_as_its_interval() -> None:
    figure = _drawn([difference("ndcg@10", -2.0, -0.001)], ["ndcg@10"])
    lines = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [-2.0, -0.001]]
    assert [line.get_solid_capstyle() for line in lines] == ["butt"]


def test_every_metric_has_its_own_unit() -> None:
    said = _text("small", [difference("ndcg@10", 0.0, 1.0), difference("novelty@10", 0.0, 1.0)], [0.5, 0.5])
    title, _, first, second, _ = said.splitlines()
    assert title == "small"
    assert first.split()[:5] == ["a", "-", "b", "NDCG@10,", "percent"] and second.split()[3:5] == ["NOVELTY@10", "1,"]


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_no_suite(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "differences", f"--suite={tmp_path / place}", f"--output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {tmp_path / place} is no suite's folder: it has no suite.json; --suite must be a folder that "
        "recbole-diff benchmark made for a suite, such as benchmark_runs/quick"
    )


def test_named_pairs(tmp_path: Path) -> None:
    suite, out = suite_of(tmp_path / "suite"), tmp_path / "out"
    pairs = "'lonely:better' 'better:base: plain'"
    assert main(["analyse", "differences", f"--suite={suite}", f"--output={out}", f"--pairs={pairs}"]) == 0
    found = [(row["first"], row["second"]) for row in rows_of(out / "differences.csv")]
    assert found == [("lonely", "better"), ("better", "base: plain")]


def test_of_several_references_the_best_one_is_taken(tmp_path: Path) -> None:
    suite, out = suite_of(tmp_path / "suite"), tmp_path / "out"
    facts = json.loads((suite / "suite.json").read_text(encoding="utf-8"))
    (suite / "suite.json").write_text(json.dumps({**facts, "reference": ["lonely", "base: plain"]}), encoding="utf-8")
    assert main(["analyse", "differences", f"--suite={suite}", f"--output={out}"]) == 0
    found = [(row["first"], row["second"]) for row in rows_of(out / "differences.csv")]
    assert found == [("better", "base: plain")]


def test_a_p_value_is_never_nothing() -> None:
    assert [exact_p_value(value) for value in (None, 0.0, 1e-310, 2.34e-299, 0.2)] == [
        *("–", "<1e-300", "<1e-300", "2.3e-299", "0.2"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--pairs=better"],
            "'better' is not FIRST:SECOND of two finished labels; these are 'base: plain', 'better', ",
        ),
        (["--pairs=better:better"], "'better:better' is not FIRST:SECOND"),
        (["--metric=HR@10"], "the tests have no HR@10; --metric may be NDCG@10"),
        (["--evaluation=seen"], "--evaluation: the suite has none of the name 'seen'; it has none"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    suite = suite_of(tmp_path / "suite")
    assert main(["analyse", "differences", f"--suite={suite}", f"--output={tmp_path / 'out'}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_that_were_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = suite_of(tmp_path / "suite")
    (suite / "runs/small/better/seed-1/DimeRec-small/per_user/test.parquet").unlink()
    assert main(["analyse", "differences", f"--suite={suite}", f"--output={tmp_path / 'out'}"]) == 2
    assert "its test was not kept row by row; repeat it with save_per_user: parquet" in capsys.readouterr().err
