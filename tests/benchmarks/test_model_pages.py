"""Our figures in docs/models are those of the committed runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MULTI = ("recall@20", "hit@20", "recall@50", "hit@50")
NEXT = ("hit@10", "ndcg@10", "hit@20", "ndcg@20", "hit@50", "ndcg@50")


@pytest.mark.parametrize(
    ("page", "row", "run", "metrics"),
    [
        ("DMI", "REMI, ours", "remi-all-rows", MULTI),
        ("DMI", "DMI, ours", "dmi-all-rows", MULTI),
        ("DMI", "DMI, ours", "dmi-gowalla", MULTI),
        ("REMI", "ours", "remi-all-rows", MULTI),
        ("ComiRecSA", "ours", "comirecsa", MULTI),
        ("ComiRecDR", "ours", "comirecdr", MULTI),
        ("MIND", "ours", "mind", MULTI),
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
