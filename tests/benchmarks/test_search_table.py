"""The table of a search: order by validation, seeds together, tests of the chosen settings alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_table import collected, render_search, settings_of


def entry(model: str, settings: dict[str, object], seed: int, valid: float, test: float) -> dict[str, object]:
    return {
        "run": f"{model}-{seed}", "model": model, "settings": settings, "seed": seed, "valid_metric": "Recall@50",
        "valid": valid, "test_result": {"recall@50": test}, "best_epoch": 3, "epochs": 5,
    }  # fmt: skip


def test_settings_are_the_keys_that_change_the_model() -> None:
    command = "run.py --model=DMI --dataset=x --preset=paper --num_threads=1 --seed=2 --variance_max=0.9 --hardness=0"
    assert settings_of(command) == {"variance_max": 0.9, "hardness": 0}


def test_the_table() -> None:
    raw = {
        "title": "t", "about": "a", "tested": {"DMI": ["hardness: 0"]},
        "runs": [
            entry("REMI", {}, 1, 0.2, 0.5),
            entry("DMI", {"hardness": 0}, 1, 0.3, 0.1),
            entry("DMI", {"hardness": 0}, 2, 0.5, 0.3),
        ],
    }  # fmt: skip
    text = render_search(raw, "name")
    lines = text.splitlines()
    first, second = (
        next(i for i, line in enumerate(lines) if line.startswith(f"| {model} |")) for model in ("DMI", "REMI")
    )
    assert first < second
    assert lines[first] == "| DMI | hardness: 0 | 40.00 ± 14.14 | 2 | 3 of 5/3 of 5 |"
    assert lines[second] == "| REMI | nothing | 20.00 | 1 | 3 of 5 |"
    assert "| DMI | hardness: 0 | 20.00 ± 14.14 | 2 |" in lines
    assert "50.00" not in text  # REMI's test figure, which nobody chose to see


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"has no result\.json"):
        collected([tmp_path])


def test_what_is_kept_of_a_run(tmp_path: Path) -> None:
    facts = {
        "model": "REMI", "dataset": "x", "command": "run.py --model=REMI --hardness=0 --output=S", "seed": 1,
        "valid_metric": "Recall@50", "best_valid_score": 0.1, "valid_result": {}, "test_result": {}, "best_epoch": 1,
        "epochs": 2, "wall_seconds": 3.0, "code": {"commit": "abc"},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    (found,) = collected([tmp_path])
    assert found["settings"] == {"hardness": 0}
    assert found["command"] == "run.py --model=REMI --hardness=0"
