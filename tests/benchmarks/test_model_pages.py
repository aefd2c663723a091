"""Our figures in docs/models are those of the committed runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MULTI = ("recall@20", "hit@20", "recall@50", "hit@50")
LEAVE_ONE_OUT = ("hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20")
NEXT = ("hit@10", "ndcg@10", "hit@20", "ndcg@20", "hit@50", "ndcg@50")


@pytest.mark.parametrize(
    ("page", "row", "run", "metrics"),
    [
        ("DMI", "REMI, ours", "remi-all-rows", MULTI),
        ("DMI", "DMI, ours", "dmi-all-rows", MULTI),
        ("DMI", "DMI, ours", "dmi-gowalla", MULTI),
        ("DMI", "REMI, ours", "remi-gowalla", MULTI),
        ("REMI", "ours", "remi-gowalla", MULTI),
        ("REMI", "ours", "remi-all-rows", MULTI),
        ("ComiRecSA", "ours", "comirecsa", MULTI),
        ("ComiRecDR", "ours", "comirecdr", MULTI),
        ("MIND", "ours", "mind", MULTI),
        ("MIND", "ours", "mind-gowalla", MULTI),
        ("DiffuRecSys", "V2, ours, tuned start", "diffurecsys-toys", LEAVE_ONE_OUT),
        ("DiffuRecSys", "V2, ours, tuned start, 19 epochs", "diffurecsys-ml-1m-full", LEAVE_ONE_OUT),
        ("YouTubeDNN", "ours", "youtubednn", MULTI),
        ("DimeRec", "ours", "dimerec", NEXT),
        ("DreamRec", "ours", "dreamrec-detached", NEXT),
        ("DreamRec", "ours, targets trained as in the code", "dreamrec", NEXT),
        ("SASRecCE", "ours", "sasrecce", ("hit@10", "ndcg@10")),
    ],
)
def test_figures_are_those_of_the_run(page: str, row: str, run: str, metrics: tuple[str, ...]) -> None:
    result = json.loads((ROOT / "benchmarks/results/runs" / run / "result.json").read_text(encoding="utf-8"))
    figures = " | ".join(f"{result['test_result'][name]:.4f}".lstrip("0") for name in metrics)
    text = (ROOT / "docs/models" / f"{page}.md").read_text(encoding="utf-8")
    assert f"| {row} | {figures} |" in text, figures


def test_figures_of_the_search_are_those_rendered() -> None:
    """The three-seed figures of the DMI page stand in the table of the search."""
    table = (ROOT / "benchmarks/results/search_dmi_amazon-beauty.md").read_text(encoding="utf-8")
    text = (ROOT / "docs/models/DMI.md").read_text(encoding="utf-8")
    for row in ("16.77 ± 0.10", "16.77 ± 0.26", "16.03 ± 0.21", "15.52 ± 0.20"):
        assert f"| {row} | 3 |" in table
        assert row.replace("± 0.", "± .") in text


@pytest.mark.parametrize(
    ("page", "run"),
    [
        ("DiffuRecSys", "diffurecsys"),
        ("DiffuRecSys", "diffurecsys-small-init"),
        ("DiffuRecSys", "diffurecsys-decay-1e-5"),
        ("DiffuRecSys", "diffurecsys-no-decay"),
        ("DiffuRecSys", "diffurecsys-standard"),
        ("DiffuRecSys", "diffurecsys-sequential"),
        ("DiffuRecSys", "diffurecsys-code-sizes"),
    ],
)
def test_causes_are_told_with_the_figures_of_their_runs(page: str, run: str) -> None:
    result = json.loads((ROOT / "benchmarks/results/runs" / run / "result.json").read_text(encoding="utf-8"))
    valid, test = result["valid_result"], result["test_result"]
    share = f"{100 * test['hit@10'] / 0.098:.0f} %"
    figures = [f"{valid['hit@10']:.4f}", f"{test['hit@10']:.4f}", share, f"{test['ndcg@10']:.4f}"]
    row = " | ".join(figure.lstrip("0") for figure in figures)
    assert f"| {row} |" in (ROOT / "docs/models" / f"{page}.md").read_text(encoding="utf-8"), row


@pytest.mark.parametrize(
    ("label", "run"),
    [
        ("with diffusion, the published λ of .001", "diffurec-small-init-key-mask"),
        ("without", "diffurec-no-diffusion"),
    ],
)
def test_what_diffusion_does_for_diffurec(label: str, run: str) -> None:
    result = json.loads((ROOT / "benchmarks/results/runs" / run / "result.json").read_text(encoding="utf-8"))
    test = result["test_result"]
    figures = (result["best_valid_score"], test["hit@10"], test["ndcg@10"])
    row = " | ".join(f"{figure:.4f}".lstrip("0") for figure in figures)
    assert f"| {label} | {row} |" in (ROOT / "docs/models/DiffuRec.md").read_text(encoding="utf-8"), row


@pytest.mark.parametrize(
    ("run", "epoch", "told"),
    [
        ("diffurecsys-ml-1m-full", 2, "from .0825 after two epochs"),
        ("diffurecsys-ml-1m-full", 16, "to .1049 after sixteen"),
        ("diffurecsys-ml-1m-decay", 1, "one epoch ends at .0709"),
        ("diffurecsys-ml-1m-positions", 1, "one epoch ends at .0822"),
    ],
)
def test_causes_on_ml_1m_are_told_with_the_figures_of_their_runs(run: str, epoch: int, told: str) -> None:
    with (ROOT / "benchmarks/results/runs" / run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        (figure,) = [row["valid_ndcg@10"] for row in csv.DictReader(file) if row["epoch"] == str(epoch)]
    assert f"{float(figure):.4f}".lstrip("0") in told
    assert told in (ROOT / "docs/models/DiffuRecSys.md").read_text(encoding="utf-8")
