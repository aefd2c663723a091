"""Tables and curves are what the raw files beside them render, and the committed ones are up to date."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import render

METRICS = ("hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20")


def make_run(folder: Path, model: str, test: float | None, epochs: int = 3) -> Path:
    """A run folder whose metrics are easy to follow by hand."""
    folder.mkdir(parents=True)
    lines = ["epoch,train_loss,train_seconds,valid_seconds," + ",".join(f"valid_{name}" for name in METRICS)]
    for epoch in range(1, epochs + 1):
        values = ["0.01"] * 5 + [str(0.01 * epoch)] if epoch % 2 else [""] * 6
        lines.append(",".join([str(epoch), "1.5", str(10.0 * epoch), "2" if epoch % 2 else "", *values]))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = f"dataset: amazon-beauty\nmodel: {model}\nseed: 7\ndata_path: /private/place/data\n"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    if test is not None:
        facts = {
            "model": model,
            "dataset": "amazon-beauty",
            "test_result": dict.fromkeys(METRICS, test),
            "seed": 7,
            "device": "cpu",
            "wall_seconds": 3600,
            "command": f"run_recbole_diff.py --model={model} --data_path=/private/place/data --learning_rate=0.001",
            "code": {"version": "0.1.0", "commit": "0123456789abcdef", "modified": False},
        }
        (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def cells(text: str, start: str) -> list[str]:
    """Cells of the table line whose first cell is `start`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    first = make_run(tmp_path / "first", "DiffuRec", 0.08)
    second = make_run(tmp_path / "second", "SASRec", None)
    render.add_run(first, "first", {"label": "ours"}, folder)
    render.add_run(second, "second", {"label": "baseline"}, folder)
    return folder


def test_metrics_stand_beside_the_printed_ones_with_their_difference(results: Path) -> None:
    render.write(results)
    text = (results / "quality_amazon-beauty.md").read_text(encoding="utf-8")
    first_table = text.split("## Best validation")[0]
    assert cells(first_table, "ours") == ["8.0000"] * 6
    printed = cells(first_table, "DiffuRec in the DiffuRec paper, Table 2")
    assert printed == ["5.5758", "7.9068", "11.1098", "4.0047", "4.7494", "5.5566"]
    assert cells(first_table, "ours: difference")[1] == "+0.0932"
    assert cells(first_table, "baseline") == ["–"] * 6
    assert "baseline: unfinished, 3 epochs so far" in text


def test_effort_shows_the_best_validated_epoch(results: Path) -> None:
    render.write(results)
    text = (results / "quality_amazon-beauty.md").read_text(encoding="utf-8")
    second_table = text.split("## Best validation")[1]
    assert cells(second_table, "ours") == ["1.0000", "1", "3", "20.0", "cpu", "7", "1.00"]
    assert cells(second_table, "baseline")[-2:] == ["7", "–"]


def test_curves_hold_validated_epochs_alone(results: Path) -> None:
    render.write(results)
    lines = (results / "learning_curves_amazon-beauty.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "run,epoch,HR@5,HR@10,HR@20,NDCG@5,NDCG@10,NDCG@20"
    assert lines[1:3] == [
        "first,1,1.0000,1.0000,1.0000,1.0000,1.0000,1.0000",
        "first,3,1.0000,1.0000,1.0000,1.0000,1.0000,3.0000",
    ]


def test_no_folder_of_the_machine_is_kept(results: Path) -> None:
    kept = [path.read_text(encoding="utf-8") for path in (results / "runs" / "first").iterdir()]
    assert not any("private" in text for text in kept)
    facts = json.loads((results / "runs" / "first" / "result.json").read_text(encoding="utf-8"))
    assert facts["command"] == "run_recbole_diff.py --model=DiffuRec --data_path=data --learning_rate=0.001"


def test_check_passes_after_rendering_and_names_what_changed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert render.main([f"--results={results}"]) == 0
    assert render.main(["--check", f"--results={results}"]) == 0
    table = results / "quality_amazon-beauty.md"
    table.write_text(table.read_text(encoding="utf-8").replace("8.0000", "9.0000"), encoding="utf-8")
    (results / "invented.md").write_text("# Invented\n", encoding="utf-8")
    assert render.main(["--check", f"--results={results}"]) == 1
    error = capsys.readouterr().err
    assert "quality_amazon-beauty.md is not what its raw files render" in error
    assert "invented.md has no raw file" in error


def test_check_sees_a_figure_of_other_curves(results: Path) -> None:
    pytest.importorskip("matplotlib")
    render.write(results)
    assert render.differences(results) == []
    metrics = results / "runs" / "first" / "metrics.csv"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace("0.03", "0.04"), encoding="utf-8")
    stale = "\n".join(render.differences(results))
    assert "learning_curves_amazon-beauty.svg does not show the present learning curves" in stale
    assert "learning_curves_amazon-beauty.png does not show the present learning curves" in stale
    shutil.rmtree(results / "runs")
    assert "learning_curves_amazon-beauty.csv has no raw file" in "\n".join(render.differences(results))


def test_an_unknown_benchmark_becomes_a_table_of_its_values(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text('{"median": {"ms": 1.5}, "device": "cpu"}', encoding="utf-8")
    render.write(tmp_path)
    text = (tmp_path / "latency.md").read_text(encoding="utf-8")
    assert cells(text, "median.ms") == ["1.5"]
    assert cells(text, "device") == ["`cpu`"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,\n}', r"broken.json:2: not valid JSON"),
        ('{"benchmark": "speed_diffurec"}', r"broken.json has no 'machine'"),
    ],
)
def test_a_raw_file_that_cannot_be_rendered_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken.json").write_text(content, encoding="utf-8")
    with pytest.raises(render.RawFileError, match=message):
        render.write(tmp_path)


def test_add_wants_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main([f"--add={tmp_path}", "--name=x", f"--results={tmp_path}"]) == 1
    assert "has no metrics.csv" in capsys.readouterr().err


def test_printed_figures_match_the_paper_tables(shared: Path) -> None:
    import csv

    names = {"Beauty": "amazon-beauty", "Toys": "amazon-toys", "Movielens-1M": "ml-1m", "Steam": "steam"}
    (table,) = [source for source in render.published_values() if source["short"] == "DiffuRec paper, Table 2"]
    with (shared / "spec" / "paper_tables" / "diffurec_table2_main.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["unit"] == "percent"]
    assert len(rows) == 240
    for row in rows:
        assert table["values"][names[row["dataset"]]][row["model"]][row["metric"]] == float(row["value"])


def test_committed_results_are_what_their_raw_files_render() -> None:
    assert render.differences(render.RESULTS) == []


def test_runs_by_another_protocol_have_a_table_of_their_own(results: Path, tmp_path: Path) -> None:
    names = ("recall@20", "recall@50", "hit@20", "hit@50")
    folder = make_run(tmp_path / "third", "REMI", 0.08)
    lines = ["epoch,train_loss,train_seconds,valid_seconds," + ",".join(f"valid_{name}" for name in names)]
    lines += ["1,1.5,10.0,2,0.01,0.02,0.03,0.04", "2,1.5,10.0,2,0.01,0.05,0.03,0.04"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    facts.update(test_result=dict.fromkeys(names, 0.1), protocol={"protocol": "user_split_multi"})
    (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    render.add_run(folder, "third", {"label": "apart"}, results)
    render.write(results)
    text = (results / "quality_amazon-beauty_user_split_multi.md").read_text(encoding="utf-8")
    assert cells(text.split("## Best")[0], "apart") == ["10.0000"] * 4
    printed = [8.76, 15.37, 14.48, 23.69]
    difference = cells(text, "apart: difference")
    assert [float(cell) for cell in difference] == pytest.approx([10 - value for value in printed])
    assert cells(text.split("## Best")[1], "apart")[:2] == ["5.0000", "2"]
    other = (results / "quality_amazon-beauty.md").read_text(encoding="utf-8")
    assert "apart" not in other


def test_a_protocol_without_a_table_is_named(tmp_path: Path) -> None:
    run = render.Run("odd", "odd", "odd", {"protocol": {"protocol": "global_time"}, "dataset": "x"}, [])
    with pytest.raises(render.RawFileError, match="run odd has protocol global_time, which has no table"):
        run.columns  # noqa: B018
