"""The README's figures are those of the committed raw results."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def block() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("<!-- results -->")[1].split("<!-- end of results -->")[0]


def test_quality_figures() -> None:
    pages = ("amazon-beauty", "amazon-beauty_user_split_multi", "amazon-beauty_user_split_next")
    rendered = "".join((RESULTS / f"quality_{page}.md").read_text(encoding="utf-8") for page in pages)
    figures = re.findall(r"\b\d+\.\d{4}\b", block())
    assert len(figures) >= 6
    assert [figure for figure in figures if f" {figure} " not in rendered] == []


def test_figures_of_the_honest_suite() -> None:
    """Means with deviations are those of the kept tables, intervals those of the findings."""
    tables = (RESULTS / "suites" / "honest" / "tables").rglob("amazon-beauty.md")
    kept = "".join(table.read_text(encoding="utf-8") for table in tables)
    figures = re.findall(r"\d+\.\d\d ± \d+\.\d\d", block())
    assert len(figures) == 16
    assert [figure for figure in figures if f"[{figure}]" not in kept] == []
    with (ROOT / "docs" / "findings" / "differences" / "differences.csv").open(encoding="utf-8") as stream:
        rows = {(row["first"], row["second"], row["metric"]): row for row in csv.DictReader(stream)}
    row = rows["DiffuRec", "DiffuRec without diffusion", "ndcg@10"]
    ends = [f"{float(row[name]):+.2f}".replace("-", "\N{MINUS SIGN}") for name in ("seeds_low", "seeds_high")]
    text = " ".join(block().split())
    assert f"{float(row['difference']):+.2f} NDCG@10 (95 % over seeds {ends[0]} to {ends[1]})" in text


def test_speed_figures() -> None:
    raw = json.loads((RESULTS / "speed_diffurec.json").read_text(encoding="utf-8"))
    text = " ".join(block().split())
    assert raw["training"]["counts"]
    assert raw["inference"]["counts"]
    assert f"training {raw['training']['ratio']['median']:.1f} times" in text
    assert f"inference {raw['inference']['ratio']['median']:.1f} times" in text
    assert f"training memory {100 * raw['memory']['share']:.0f} % of" in text


def test_inference_and_retrieval_figures() -> None:
    raw = json.loads((RESULTS / "inference_speed.json").read_text(encoding="utf-8"))
    text = " ".join(block().split())
    quality, ratios = raw["quality"]["all"], raw["throughput"]["ratios"]["one"]
    one, full = (f"{100 * quality[chain]['ndcg@10']:.2f}" for chain in ("one", "full"))
    assert one == full
    assert f"(NDCG@10 {one} both times)" in text
    assert f"{ratios['plain']['median']:.0f} times the users per second" in text
    assert f"and {ratios['sasrec']['median']:.1f} times those of RecBole's SASRec" in text
    wall = raw["latency"]["sides"]["one"]["wall"]
    assert f"one user takes {wall['p50']:.1f} ms (p99 {wall['p99']:.1f})" in text
    case = json.loads((RESULTS / "retrieval_speed.json").read_text(encoding="utf-8"))["cases"]["trained"]
    assert f"{case['times_faster']['median']:.0f} times as soon as a matrix product" in text
    assert f"recall@20 {case['recall']:.3f}" in text
    memory = json.loads((RESULTS / "large_catalogue.json").read_text(encoding="utf-8"))["memory"]
    assert f"[{memory['DiffuRec']['chunked']['times_needed']:.2f} times]" in (ROOT / "README.md").read_text("utf-8")
