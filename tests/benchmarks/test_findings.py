"""The tables of the findings page are those of the kept runs; the committed page too."""

from __future__ import annotations

import json
from pathlib import Path

import findings
import numpy as np
import pytest
from scipy import stats

from tests.analyses.test_differences import USERS, add_run

pytest.importorskip("matplotlib")
TEXT = (
    "# A page\n\n<!-- table: differences -->\n<!-- end of table -->\n\n<!-- table: costs -->\n<!-- end of table -->\n"
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "honest"
    base = np.linspace(0.1, 0.5, USERS)
    runs = [
        add_run(folder, "SASRecCE", 1, base, time_limit=5, epochs=2),
        add_run(folder, "DiffuRec", 1, 0.9 * base),
    ]
    for run in runs:  # the further evaluation has the same rows
        place = folder / run["place"]
        run["evaluations"] = {"without seen items": {"filter_seen": True}}
        own = next(place.glob("*/config.yaml")).parent
        twin = place / "evaluations" / "without-seen-items-x" / own.name
        twin.mkdir(parents=True)
        (twin / "config.yaml").write_text((own / "config.yaml").read_text() + "filter_seen: true\n")
        (twin / "result.json").write_bytes((own / "result.json").read_bytes())
        (twin / "per_user").mkdir()
        (twin / "per_user" / "test.parquet").write_bytes((own / "per_user" / "test.parquet").read_bytes())
    (folder / "suite.json").write_text(json.dumps({"reference": ["SASRecCE"], "runs": runs}))
    return folder


def test_the_page(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_diffusion.suites.plan.slug", lambda name: f"{name.replace(' ', '-')}-x")
    monkeypatch.setattr(findings, "METRICS", "NDCG@10")
    page = tmp_path / "page.md"
    page.write_text(TEXT)
    words = [f"--kept={kept}", f"--page={page}"]
    assert findings.main([*words, "--check"]) == 1
    assert findings.main(words) == 0
    text = page.read_text()
    assert "| DiffuRec – SASRecCE | NDCG@10 | 1, 1 | 27.0000 | 30.0000 | -3.0000 | " in text and "| -10.0 % |" in text
    assert "| SASRecCE | 1 | 7 | 2.0 | 1.0 | 0.2 | time limit 1 of 1 | cpu (1 threads) |" in text
    assert (tmp_path / "page" / "differences" / "differences.png").is_file()
    assert (tmp_path / "page" / "differences_without_seen_items" / "differences.csv").is_file()
    assert findings.main([*words, "--check"]) == 0
    page.write_text(text.replace("27.0000", "28.0000"))
    assert findings.main([*words, "--check"]) == 1


def test_tables_of_analyses(tmp_path: Path) -> None:
    assert findings.analyses(tmp_path) == {}
    runs = {"DiffuRec": (0.05, 0.07), "DiffuRec without diffusion": (0.04, 0.05), "SASRecCE": (0.02, 0.02)}
    lines = [
        f'"{label}, seed {seed}",item frequency,head,{metric},{value}'
        for label, values in runs.items()
        for seed, value in enumerate(values)
        for metric in ("ndcg@10", "hit@10")
    ]
    (tmp_path / "groups_seeds").mkdir()
    text = "run,grouping,group,metric,value\n" + "\n".join(lines) + "\n"
    (tmp_path / "groups_seeds" / "groups.csv").write_text(text)
    # by hand: 6 less 4.5 with standard errors 1 and .5; degrees 1.5625 / (1 + .0625) = 1.4706
    width = stats.t.ppf(0.975, 1.25**2 / (1 + 0.25**2)) * 1.25**0.5
    assert (
        f"| head | +1.50 ({1.5 - width:+.2f} to {1.5 + width:+.2f}) | +4.00 " in findings.analyses(tmp_path)["groups"]
    )
    (tmp_path / "lambda").mkdir()
    (tmp_path / "lambda" / "differences.csv").write_text(
        "first,second,metric,first_mean,second_mean,difference,users_low,users_high\n"
        "l=0,l=0.1,ndcg@10,4,5,-1,-1.5,-0.5\nl=1,l=0.1,ndcg@10,6,5,1,0.5,1.5\nl=0,l=0.1,hit@10,7,8,-1,-2,0\n"
        "l=1,l=0.1,hit@10,9,8,1,0,2\n"
    )
    shown = findings.analyses(tmp_path)["lambda"]
    assert "| 0.1 | 5.00 | – | 8.00 | – |" in shown and "|  | NDCG@10 | less that of 0.1 | HR@10 |" in shown
    assert "| 0 | 4.00 | -1.00 (-1.50 to -0.50) | 7.00 | -1.00 (-2.00 to +0.00) |" in shown


@pytest.mark.skipif(not findings.PAGE.is_file(), reason="no findings are committed")
def test_the_committed_page() -> None:
    assert findings.main(["--check"]) == 0
