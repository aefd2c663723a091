"""Every analysis of a finished run through the command line, on runs of one epoch; figures beside evaluation's own."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from recbole_diffusion import quick_start
from recbole_diffusion.analyses import seed_averaging
from recbole_diffusion.analyses.finished_run import FinishedRun, open_run
from recbole_diffusion.analyses.groups import _drawn, differences
from recbole_diffusion.analyses.ranking_time import RankingTime, Timing, _timed
from recbole_diffusion.analyses.request import Request
from recbole_diffusion.analyses.reverse_steps import chain_keys, default_grid
from recbole_diffusion.analyses.seed_averaging import Point
from recbole_diffusion.analyses.uncertainty import cosines, in_the_plane
from recbole_diffusion.command_line import main
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from tests.conftest import write_interactions

KEYS: dict[str, Any] = {
    "use_gpu": False, "show_progress": False, "MAX_ITEM_LIST_LENGTH": 8, "epochs": 1, "topk": [5, 10],
    "valid_metric": "NDCG@5", "metrics": ["Hit", "NDCG", "ItemCoverage"], "save_per_user": "parquet", "hidden_size": 8,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "DiffuRec": {"n_layers": 1, "n_heads": 2, "num_steps": 4, "lambda_std": 1.0},
    "SASRecCE": {"n_layers": 1, "n_heads": 2},
    "DimeRec": {"num_steps": 4, "metrics": ["Recall"], "valid_metric": "Recall@5", "reverse_noise": "sqrt_posterior"},
}
TIMED = ["--timed_users=8", "--rounds=2"]


class Runs:
    """Finished runs, each made when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.data = write_interactions(folder / "data", "small")
        lines = ["item_id:token\tgenre:token_seq", *(f"i{item}\tg{item // 14} all" for item in range(40))]
        (self.data / "small" / "small.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.folder = folder
        self.made: dict[str, quick_start.RunResult] = {}

    def __getitem__(self, model: str) -> quick_start.RunResult:
        if model not in self.made:
            keys = {**KEYS, **MODELS[model]}
            self.made[model] = quick_start.run(model, "small", keys, data_path=self.data, output=self.folder / "runs")
        return self.made[model]

    def evaluated(self, model: str, **keys: Any) -> dict[str, float]:
        result = quick_start.evaluate(self[model].folder, keys, output=self.folder / "evaluations")
        return result.test_result


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("analyses"))


def analyse(name: str, folder: Path, *words: str) -> str:
    """Run the command and return where it wrote; pictures and numbers are there, and nothing else."""
    assert main(["analyse", name, f"--output={folder}", *words]) == 0
    return str(folder)


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    assert main(["analyse", *words, f"--output={folder}"]) == 2
    assert not folder.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_reverse_steps(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    analyse("reverse_steps", out, f"--checkpoint={runs['DiffuRec'].folder}", *TIMED)
    assert written(out) == ["reverse_steps.csv", "reverse_steps.png", "reverse_steps.svg"]
    table = pd.read_csv(out / "reverse_steps.csv")
    assert table["chain"].tolist() == ["strided"] * 3 and table["steps"].tolist() == [1, 2, 4]
    assert (table[["rounds", "timed_users", "threads"]] == [2, 8, 1]).all(axis=None)
    assert (table["ms_per_user_least"] <= table["ms_per_user"]).all()
    assert (table[["ms_per_user", "vectors_ms_per_user"]] > 0).all(axis=None)
    for line in table.to_dict("records"):
        expected = runs["DiffuRec"].test_result
        if line["steps"] < 4:
            expected = runs.evaluated("DiffuRec", reverse_steps=line["steps"])
        assert {name: line[name] for name in expected} == expected
        assert line["ndcg@10_low"] <= line["ndcg@10"] <= line["ndcg@10_high"]
        assert np.isnan(line["itemcoverage@5_low"])
    assert table["ndcg@10"].nunique() > 1
    assert re.search(r"^strided +4 .*", capsys.readouterr().out, re.M)


def test_a_chain_that_is_cut(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    analyse("reverse_steps", out, f"--checkpoint={runs['DimeRec'].folder}", "--steps=2,4", "--split=test", *TIMED)
    table = pd.read_csv(out / "reverse_steps.csv").set_index(["chain", "steps"])
    for chain, keys in {
        "strided": {"reverse_steps": 2},
        "cut, state": {"intermediate_steps": 2, "intermediate_result": "state"},
        "cut, prediction": {"intermediate_steps": 2, "intermediate_result": "prediction"},
    }.items():
        assert table.loc[(chain, 2), "recall@10"] == runs.evaluated("DimeRec", **keys)["recall@10"]
        assert table.loc[(chain, 4), "recall@10"] == runs["DimeRec"].test_result["recall@10"]
    assert table.loc[(slice(None), 2), "recall@10"].nunique() > 1


def test_grids_and_keys_of_chains() -> None:
    assert default_grid(32) == [1, 2, 4, 8, 16, 32]
    assert default_grid(20) == [1, 2, 4, 8, 16, 20]
    assert default_grid(1) == [1]
    assert chain_keys("strided", 3, {"intermediate_steps": 2}) == {"reverse_steps": 3, "intermediate_steps": None}  # type: ignore[arg-type]
    assert chain_keys("strided", 3, {}) == {"reverse_steps": 3}  # type: ignore[arg-type]


def test_only_rounds_after_the_first_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    now = [0.0]
    lengths = iter([100.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    timing = _timed(lambda: now.__setitem__(0, now[0] + next(lengths)), 4, 3, torch.device("cpu"))
    assert dataclasses.astuple(timing) == (500.0, 250.0, 750.0)


def test_seed_averaging(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    analyse("seed_averaging", out, f"--checkpoint={runs['DiffuRec'].folder}", "--samples=2", "--eval_seeds=2", *TIMED)
    assert written(out) == ["seed_averaging.csv", "seed_averaging.png", "seed_averaging.svg"]
    table = pd.read_csv(out / "seed_averaging.csv").set_index("samples")
    assert table.index.tolist() == [1, 2]
    for samples in (1, 2):
        values = [
            runs.evaluated("DiffuRec", n_eval_samples=samples, eval_seed=seed)["ndcg@10"] for seed in (2023, 2024)
        ]
        assert table.loc[samples, "ndcg@10"] == pytest.approx(np.mean(values), abs=1e-12)
        assert table.loc[samples, "ndcg@10_deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    gain = table.loc[2, "ndcg@10"] - table.loc[1, "ndcg@10"]
    assert table.loc[2, "ndcg@10_gain"] == pytest.approx(gain) != 0
    assert table.loc[2, "ndcg@10_gain_low"] < gain < table.loc[2, "ndcg@10_gain_high"]
    assert table.loc[1, ["ndcg@10_gain", "ndcg@10_gain_low"]].isna().all()


def test_one_seed_of_the_noise_has_no_bar(runs: Runs, tmp_path: Path) -> None:
    run, timing = opened(runs, tmp_path), Timing(1.0, 1.0, 1.0)
    time = RankingTime(timing, timing, 8, 1, "cpu")
    for values, bars in (([0.5], False), ([0.5, 0.5], True)):
        point = Point(1, [{"ndcg@5": value} for value in values], pd.DataFrame(), None, time)
        panel = seed_averaging._drawn(run, [point], ["ndcg@5"]).axes[0]
        assert panel.containers[0].has_yerr == bars


def opened(runs: Runs, folder: Path, **options: str) -> FinishedRun:
    request = Request({"checkpoint": str(runs["DiffuRec"].folder), **options}, Overrides(), folder)
    return open_run(request)


def test_uncertainty(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    checkpoint = f"--checkpoint={runs['DiffuRec'].folder}"
    analyse("uncertainty", out, checkpoint, "--user=u7 u3", "--samplings=4", "--others=20", "--k=5")
    assert written(out) == ["counts.csv", "points.csv", "uncertainty.png", "uncertainty.svg"]
    counts, points = (pd.read_csv(out / f"{name}.csv") for name in ("counts", "points"))
    assert counts["user"].tolist() == ["u7", "u3"]
    run = opened(runs, tmp_path)
    found = run.trainer.sampled_items(run.rows, k=5, samplings=4)
    assert counts["distinct_items"].tolist() == found.distinct[counts["row"]].tolist()
    assert counts["distinct_items"].max() > 5 and (counts["listed_items"] == 5).all()
    assert (counts["cosine_within"] > counts["cosine_between"]).all()
    assert points.groupby("history").size().to_dict() == {"chosen": 8, "other": 20}
    assert points["row"].nunique() == 22 and len(points[["x", "y"]].drop_duplicates()) == 28
    again = tmp_path / "again"
    analyse("uncertainty", again, checkpoint, f"--row={counts['row'][0]}", "--samplings=4", "--others=0", "--k=5")
    assert pd.read_csv(again / "counts.csv")["distinct_items"][0] == counts["distinct_items"][0]


def test_which_history(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = tmp_path / "out", ("uncertainty", f"--checkpoint={runs['DiffuRec'].folder}", "--k=5")
    assert refused(capsys, folder, *words, "--user=u999") == "error: --user: no test row of a user 'u999'"
    assert "--row must be whole numbers from 0 to 59, got '60'" in refused(capsys, folder, *words, "--row=60")
    assert "give --user or --row, not both" in refused(capsys, folder, *words, "--row=6", "--user=u6")
    assert "one or more different histories" in refused(capsys, folder, *words, "--row=6,6")
    assert "--k is 41; the data have 40 items" in refused(capsys, folder, *words[:2], "--k=41")


def test_cosines_by_hand() -> None:
    """Unit vectors at 0 and 60 degrees; another history at 90 degrees."""
    samples = np.array([[[2.0, 0.0]], [[0.5, 3**0.5 / 2]]])
    assert np.allclose(cosines(samples, np.array([[[0.0, 3.0]]])), (0.5, (0 + 3**0.5 / 2) / 2))
    assert cosines(samples, np.zeros((0, 1, 2)))[1] is None


def test_the_plane_repeats() -> None:
    points = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    assert np.array_equal(in_the_plane(points, 1), in_the_plane(points, 1))
    with pytest.raises(UserError, match="every x_0 is the same vector"):
        in_the_plane(np.ones((5, 3)), 1)


def test_groups(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    folders = f"{shlex.quote(str(runs['DiffuRec'].folder))} plain={runs['SASRecCE'].folder}"
    analyse("groups", out, f"--runs={folders}", "--cutoff=10", "--length_groups=3")
    assert written(out) == ["differences.csv", "groups.csv", "groups.png", "groups.svg"]
    table = pd.read_csv(out / "groups.csv")
    assert set(table["run"]) == {runs["DiffuRec"].folder.name, "plain"}
    plain = table[(table["run"] == "plain") & (table["metric"] == "hit@10")]
    everything = plain[plain["grouping"] == "all"].iloc[0]
    assert everything["value"] == pytest.approx(runs["SASRecCE"].test_result["hit@10"], abs=1e-6)
    for grouping in ("item frequency", "history length"):  # one target a row, so that the groups are parts
        own = plain[plain["grouping"] == grouping]
        assert own["rows"].sum() == 60 and len(own) == (2 if grouping == "item frequency" else 3)
        assert (own["value"] * own["rows"]).sum() / 60 == pytest.approx(everything["value"])
        assert (own["low"] <= own["value"]).all() and (own["value"] <= own["high"]).all()
    items = plain[plain["grouping"] == "item frequency"].set_index("group")
    assert items["items"].to_dict() == {"head": 8, "long tail": 32}
    assert items.loc["head", "least"] >= items.loc["long tail", "most"]
    check_lengths(runs, plain)
    pairs = pd.read_csv(out / "differences.csv")
    assert len(pairs) == 6 * 2 and set(pairs["second"]) == {"plain"}
    value = table.set_index(["run", "grouping", "group", "metric"])["value"]
    for line in pairs.to_dict("records"):
        own, other = (value[run, line["grouping"], line["group"], line["metric"]] for run in (line["first"], "plain"))
        assert line["difference"] == pytest.approx(own - other)
        assert line["low"] <= line["difference"] <= line["high"]
    printed = capsys.readouterr().out
    assert "item frequency: head" in printed and "HR@10 plain" in printed


def test_differences_of_groups_are_of_users() -> None:
    # by hand: user a has two rows; means over users are (0.5 + 1) / 2 and (0 + 0.5) / 2, in another order of rows
    first = pd.Series([0.0, 1.0, 1.0], index=pd.Index(["a", "a", "b"], name="user"))
    second = pd.Series([0.5, 0.0, 0.0], index=pd.Index(["b", "a", "a"], name="user"))
    rows = {("all", "all", "hit@1", "one"): first, ("all", "all", "hit@1", "two"): second}
    (line,) = differences([("one", "two"), ("one", "three")], rows)
    assert line[:7] == ["one", "two", "all", "all", 2, "hit@1", 0.5]


def test_the_picture_of_groups_hides_no_bar() -> None:
    """The legend stands below the panels; a group of one user has no interval, which is none of length 0."""
    lines: list[list[Any]] = [
        [run, "DiffuRec", 1, grouping, group, 1, 2, 3, 4, 5, "hit@5", 0.5, *ends]
        for run in ("one", "two")
        for grouping, groups in {"item frequency": ["head", "long tail"], "history length": ["3"]}.items()
        for group, ends in zip(groups, [(0.25, 1.0), (None, None)], strict=False)
    ]
    figure = _drawn(lines, ["hit@5"])
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    for panel in figure.axes[:2]:
        assert panel.get_legend() is None and not panel.get_window_extent().overlaps(legend.get_window_extent())
    segments = figure.axes[0].collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments if len(segment)] == [[0.25, 1.0]]
    assert not _drawn([line for line in lines if line[0] == "one"], ["hit@5"]).legends


def check_lengths(runs: Runs, lines: pd.DataFrame) -> None:
    """The rows of each length are those of users who have as many items before their last one."""
    data = pd.read_csv(runs.data / "small" / "small.inter", sep="\t")
    before = data.groupby("user_id:token").size() - 1
    for line in lines[lines["grouping"] == "history length"].to_dict("records"):
        assert line["rows"] == before.between(line["least"], line["most"]).sum()
    frequent = lines[lines["group"] == "head"].iloc[0]
    data["place"] = data.groupby("user_id:token").cumcount()
    left = data[data["place"] < data.groupby("user_id:token")["place"].transform("max") - 1]  # last two are asked for
    counts = left[left["place"] > 0]["item_id:token"].value_counts()
    assert (frequent["most"], frequent["least"]) == (counts.iloc[0], counts.iloc[7])


def test_probing(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (f"--runs=plain={runs['SASRecCE'].folder}", "--folds=3", "--least_items=3", "--category_field=genre")
    analyse("probing", out, *words)
    assert written(out) == ["folds.csv", "probing.csv", "probing.png", "probing.svg"]
    table, folds = pd.read_csv(out / "probing.csv").set_index("run"), pd.read_csv(out / "folds.csv")
    assert table.index.tolist() == ["plain", "random, D = 8", "majority"]
    assert (table["items"] == 40).all() and (table["categories"] == 3).all()  # g0 and g1 of 14 items, g2 of 12
    means = folds.groupby("run")["accuracy"].mean()
    assert np.allclose(table["accuracy"], means[table.index])
    assert 0.3 < table.loc["majority", "accuracy"] <= 14 / 40 + 0.02
    every = tmp_path / "every"
    analyse("probing", every, *words, "--labels=all")
    assert (pd.read_csv(every / "probing.csv")["categories"] == 4).all()
    assert pd.read_csv(every / "probing.csv")["accuracy"].iloc[2] == 1.0  # all of them are of the category "all"


def test_runs_that_do_not_go_with_an_analysis(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, plain = tmp_path / "out", runs["SASRecCE"].folder
    for name in ("reverse_steps", "seed_averaging", "uncertainty"):
        line = refused(capsys, folder, name, f"--checkpoint={plain}")
        assert line.startswith(f"error: {name}: {plain}/best/model.safetensors is of SASRecCE, which has no reverse ")
    dimerec = f"--checkpoint={runs['DimeRec'].folder}"
    line = refused(capsys, folder, "reverse_steps", dimerec, "--rank_by=guidance")
    assert line.endswith("ranks by its guidance without a reverse chain (rank_by: guidance); add --rank_by=chain")
    line = refused(capsys, folder, "reverse_steps", dimerec, "--steps=5")
    assert line == "error: --steps must be whole numbers from 1 to 4, got '5'"
    line = refused(capsys, folder, "reverse_steps", dimerec, "--cutoff=7")
    assert line == "error: --cutoff is 7; the run's topk has 5, 10, add --topk=[7]"
    line = refused(capsys, folder, "probing", f"--runs={plain}", "--category_field=class")
    assert "small.item:1: no column 'class', which category_field names" in line


def test_no_categories(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_interactions(tmp_path / "bare", "small")
    line = refused(capsys, tmp_path / "out", "probing", f"--runs={runs['SASRecCE'].folder}", f"--data_path={data}")
    file = data / "small" / "small.item"
    assert (
        line
        == f"error: probing needs the items' categories, a column of {file} that category_field names; put it there"
    )


def test_groups_need_rows_of_one_test(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, plain = tmp_path / "out", runs["SASRecCE"].folder
    bare = quick_start.evaluate(plain, {"save_per_user": None}, output=tmp_path / "bare").folder
    line = refused(capsys, folder, "groups", f"--runs={bare}")
    assert f"no {bare}/per_user/test.parquet; repeat the test: recbole-diff evaluate" in line
    line = refused(capsys, folder, "groups", f"--runs={plain} {runs['DimeRec'].folder}")
    assert "no metric of ranks in common" in line
    assert "--cutoff is 7; the tests have 5, 10" in refused(capsys, folder, "groups", f"--runs={plain}", "--cutoff=7")
    assert "one number between 0 and 1" in refused(capsys, folder, "groups", f"--runs={plain}", "--head_share=1")
    line = refused(capsys, folder, "groups", f"--runs={plain}", f"--data_path={tmp_path}")
    assert "small" in line


def test_groups_need_rows_with_names(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shutil.copytree(runs["SASRecCE"].folder, tmp_path / "kept")
    file = kept / "per_user" / "test.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["user", "targets"]), file)
    assert refused(capsys, tmp_path / "out", "groups", f"--runs={kept}") == (
        f"error: {file}: its rows name no users and items, as those kept in benchmarks/results do not; give the "
        "folder that the run itself made, or repeat the run with save_per_user: parquet"
    )


def test_a_model_that_is_not_sequential(runs: Runs, tmp_path: Path) -> None:
    """Its rows are in another order; the groups of length are those of histories, whichever data they are read from."""
    keys = {key: KEYS[key] for key in ("use_gpu", "show_progress", "epochs", "topk", "valid_metric", "save_per_user")}
    bpr = quick_start.run("BPR", "small", {**keys, "metrics": ["Hit", "NDCG"]}, data_path=runs.data, output=tmp_path)
    tables = []
    for number, folders in enumerate((f"{runs['SASRecCE'].folder} BPR={bpr.folder}", f"BPR={bpr.folder}")):
        analyse("groups", tmp_path / str(number), f"--runs={folders}")
        table = pd.read_csv(tmp_path / str(number) / "groups.csv")
        tables.append(table[(table["run"] == "BPR") & (table["metric"] == "hit@5")].set_index(["grouping", "group"]))
    beside, alone = tables
    assert beside.loc[("all", "all"), "value"] == pytest.approx(bpr.test_result["hit@5"], abs=1e-6)
    check_lengths(runs, beside.reset_index())
    for column in ("rows", "least", "most"):
        assert (alone.loc["history length"][column] == beside.loc["history length"][column]).all()


def test_several_targets_a_row(runs: Runs, tmp_path: Path) -> None:
    """Rows of user_split_multi ask for many items; recall of all is that of the result."""
    keys = {**KEYS, "metrics": ["Recall", "NDCG"], "protocol": "user_split_multi", "split_ratio": [0.5, 0.2, 0.3]}
    result = quick_start.run("Popularity", "small", _without_size(keys), data_path=runs.data, output=tmp_path / "runs")
    out = tmp_path / "out"
    analyse("groups", out, f"--runs={result.folder}")
    table = pd.read_csv(out / "groups.csv")
    own = table[table["metric"] == "recall@5"].set_index("group")
    assert own.loc["all", "value"] == pytest.approx(result.test_result["recall@5"], abs=1e-6)
    assert own.loc["long tail", "value"] < own.loc["head", "value"]
    assert own.loc["head", "rows"] + own.loc["long tail", "rows"] > own.loc["all", "rows"]


def _without_size(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key != "hidden_size"}
