"""Curves of runs: what is averaged, what is written, and which runs stand in no picture together."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.analyses.convergence import _drawn
from recbole_diffusion.analyses.request import Request
from recbole_diffusion.analyses.training_curves import by_label, curves_of, mean_curve, read_curves
from recbole_diffusion.benchmarking.results import read_run
from recbole_diffusion.command_line import main
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from tests.analyses.run_folders import epoch, write_run

pytest.importorskip("matplotlib")


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def two_seeds(folder: Path) -> Path:
    """A suite's folder: two seeds of one model, the second one stopped earlier; a third run has not begun."""
    first = [epoch(1, 10.0, 0.10), epoch(2, 10.0, None), epoch(3, 10.0, 0.30), epoch(4, 10.0, 0.20)]
    second = [epoch(1, 20.0, 0.30), epoch(2, 20.0, 0.90), epoch(3, 20.0, 0.40)]
    runs = []
    for seed, lines in enumerate([first, second, None], start=1):
        place = f"runs/small/DimeRec/seed-{seed}"
        if lines is not None:
            write_run(folder / place / "DimeRec-small", lines, seed=seed)
        entry: dict[str, Any] = {"label": "a model", "dataset": "small", "seed": seed, "model": "DimeRec"}
        runs.append({**entry, "preset": None, "keys": {}, "place": place, "evaluations": {}})
    (folder / "suite.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")
    return folder


def test_a_mean_is_taken_where_every_seed_has_a_value(tmp_path: Path) -> None:
    request = Request({"suite": str(two_seeds(tmp_path))}, Overrides(), tmp_path)
    (curves,) = read_curves(request).values()
    mean = mean_curve(curves, "valid_ndcg@10")
    assert list(mean.index) == [1, 3]  # epoch 2 was not validated by the first seed, 4 not trained by the second
    assert list(mean["seconds"]) == [15.0, 45.0]  # (10 + 20) / 2, (30 + 60) / 2: validation is not in it
    assert list(mean["mean"]) == pytest.approx([0.2, 0.35])
    assert list(mean["std"]) == pytest.approx([0.2 / math.sqrt(2), 0.1 / math.sqrt(2)])
    assert not len(mean_curve(curves, "valid_recall@10")) and math.isnan(mean_curve(curves[:1], "train_loss")["std"][1])


def test_convergence_of_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyse", "convergence", f"--suite={two_seeds(tmp_path / 'suite')}", f"--output={tmp_path / 'out'}"]
    assert main([*words, "--metric=NDCG@10,HR@10"]) == 0
    said = capsys.readouterr().out
    # best epochs, seed by seed: 30 % at 3 after 30 s, 90 % at 2 after 40 s
    assert "a model      2       60.0000       2.5     35.0     3.5      50.0" in said
    rows = rows_of(tmp_path / "out" / "convergence.csv")
    assert len(rows) == 6 and rows[1] == {
        "run": "a model", "seed": "1", "epoch": "3", "train_seconds": "30.0",
        "valid_ndcg@10": "0.3", "valid_hit@10": "0.6",
    }  # fmt: skip
    means = rows_of(tmp_path / "out" / "convergence_means.csv")
    assert [(row["metric"], row["epoch"]) for row in means] == [
        ("ndcg@10", "1"), ("ndcg@10", "3"), ("hit@10", "1"), ("hit@10", "3"),
    ]  # fmt: skip
    assert float(means[1]["mean"]) == pytest.approx(0.35) and means[1]["seeds"] == "2"
    files = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(files) == {"convergence.png", "convergence.svg", "convergence.csv", "convergence_means.csv"}
    assert files["convergence.png"].startswith(b"\x89PNG")
    assert main([*words, "--metric=NDCG@10,HR@10"]) == 0  # drawn again it is the same, byte for byte
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}


def test_convergence_of_runs_says_where_times_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", [epoch(1, 1.0, 0.1)])
    two = write_run(tmp_path / "two", [epoch(1, 1.0, 0.2)], finished=False, num_threads=2)
    words = ["analyse", "convergence", f"--runs=A={one} '{two}'", f"--output={tmp_path / 'out'}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Times are no comparison: A on cpu; two on a device not recorded yet with num_threads 2" in said


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_says_where_times_differ(tmp_path: Path, threads: int) -> None:
    names = ["one", "two"]
    runs = [
        write_run(tmp_path / name, [epoch(1, 1.0, 0.1)], finished=False, num_threads=number)
        for name, number in zip(names, [1, threads], strict=True)
    ]
    curves = curves_of([read_run(run, name) for name, run in zip(names, runs, strict=True)])
    figure = _drawn("small", by_label(curves), ["ndcg@10"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    by_epoch, by_time = (panel.get_xlabel() for panel in figure.axes)
    if threads == 1:
        assert (labels, by_time) == (names, "training time, seconds")
    else:
        place = "a device not recorded yet with num_threads"
        assert labels == [f"one, {place} 1", f"two, {place} 2"]
        assert by_time == "training time, seconds, not comparable: devices differ"
    assert by_epoch == "epoch"


@pytest.mark.parametrize(
    ("second", "more", "message"),
    [
        ({"digest": "b"}, "", "have other data: small.inter a and b"),
        ({}, "--metric=Recall@20", r"validated RECALL@20; --metric may be NDCG@10, HR@10"),
        ({"epochs": []}, "", "has no metrics.csv: the run has not ended an epoch"),
    ],
)
def test_what_convergence_refuses(
    tmp_path: Path, second: dict[str, Any], more: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", [epoch(1, 1.0, 0.1)])
    two = write_run(tmp_path / "two", **{"epochs": [epoch(1, 1.0, 0.2)], **second})
    words = ["analyse", "convergence", f"--runs={one} {two}", f"--output={tmp_path / 'out'}", *filter(None, [more])]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convergence"], "give runs with --runs=RUN_FOLDERS, or those of a suite with --suite=FOLDER"),
        (["loss_terms", "--suite=nowhere"], "nowhere is no suite's folder: it has no suite.json"),
        (["loss_terms", "--epochs=3"], "unknown key 'epochs' of loss_terms"),
    ],
)
def test_wrong_words(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyse", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_validation_has_no_convergence(tmp_path: Path) -> None:
    from recbole_diffusion.analyses.convergence import analyse

    run = write_run(tmp_path / "one", [epoch(1, 1.0, None)])
    with pytest.raises(UserError, match="no run on small was validated"):
        analyse(Request({"runs": str(run)}, Overrides(), tmp_path))


def test_loss_terms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DimeRec's Figure 4: a reconstruction that falls, and one that rises again."""
    walk = [epoch(1, 1.0, 0.1, ranking=8.0, reconstruction=0.4), epoch(2, 1.0, 0.1, ranking=6.0, reconstruction=0.2)]
    plane = [
        epoch(1, 1.0, 0.1, ranking=8.0, reconstruction=0.04),
        epoch(2, 1.0, 0.1, ranking=7.0, reconstruction=0.02),
        epoch(3, 1.0, 0.1, ranking=6.0, reconstruction=0.03),
    ]
    runs = [f"walk={write_run(tmp_path / 'walk', walk)}", f"'no walk={write_run(tmp_path / 'plane', plane)}'"]
    assert main(["analyse", "loss_terms", f"--runs={' '.join(runs)}", f"--output={tmp_path / 'out'}"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["reconstruction", "walk", "0.4", "0.2", "2", "0.2", "+0.0", "%"] in said
    assert ["reconstruction", "no", "walk", "0.04", "0.02", "2", "0.03", "+50.0", "%"] in said
    assert ["whole", "loss", "walk", "8.4", "6.2", "2", "6.2", "+0.0", "%"] in said
    rows = rows_of(tmp_path / "out" / "loss_terms.csv")
    assert len(rows) == 3 * (2 + 3)
    assert {"run": "no walk", "seed": "1", "epoch": "3", "term": "reconstruction", "value": "0.03"} in rows
    assert (tmp_path / "out" / "loss_terms.svg").is_file()


def test_a_model_with_one_term_has_one_panel(tmp_path: Path) -> None:
    from recbole_diffusion.analyses.loss_terms import analyse

    run = write_run(tmp_path / "one", [epoch(1, 1.0, None, ranking=8.0)])
    said = analyse(Request({"runs": str(run)}, Overrides(), tmp_path)).text
    assert "ranking" in said and "whole loss" not in said
