"""The benchmark of the data path runs on small files and its table shows what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data_path import sizes, verdicts, write_synthetic
from data_path_table import render_data_path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "data_path.py"


def test_synthetic_file_has_the_sizes_it_says(tmp_path: Path) -> None:
    write_synthetic(tmp_path, "toy", interactions=3000, users=100, items=40)
    header, *lines = (tmp_path / "toy" / "toy.inter").read_text(encoding="utf-8").splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    users, items, times = zip(*(line.split("\t") for line in lines), strict=True)
    assert (len(lines), len(set(users))) == (3000, 100)
    assert {int(item[1:]) for item in items} <= set(range(40))
    assert [int(time) for time in times] == list(range(3000))
    counts = sorted(users.count(user) for user in set(users))
    assert counts[0] >= 5
    assert counts[-1] > 3 * counts[50]  # very different activity


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_small_run_compares_equal_examples(tmp_path: Path) -> None:
    output = tmp_path / "data_path.json"
    command = [sys.executable, str(SCRIPT), "--try_out", "--repeats=1", "--sections=loader,large", f"--work={tmp_path}"]
    subprocess.run([*command, f"--output={output}"], check=True, capture_output=True, timeout=300)
    raw = json.loads(output.read_text(encoding="utf-8"))
    assert raw["try_out"] is True
    assert list(tmp_path.iterdir()) == [output]
    pair = raw["loader"]["lengths"]["200"]["pairs"][0]
    interactions, users = sizes(True)["loader"]["interactions"], sizes(True)["loader"]["users"]
    assert pair["ours"]["rows"] == pair["recbole"]["rows"] == interactions - users
    assert pair["ours"]["bytes_per_interaction"] <= 16
    # RecBole holds at least 8 bytes x 200 for the items alone of every example
    assert pair["recbole"]["bytes_per_interaction"] > 1600 * (interactions - users) / interactions
    assert raw["large"]["from_cache"]["bytes_per_interaction"] == raw["large"]["from_file"]["bytes_per_interaction"]
    table = render_data_path(raw, "data_path")
    assert "mean nothing" in table
    assert "length 200: examples, MiB" in table


def test_verdicts_by_hand() -> None:
    def found(ratio: float, size: float) -> dict[str, object]:
        spread = {"median": ratio, "min": ratio, "max": ratio}
        pair = {"ours": {"bytes_per_interaction": size}}
        return {"seconds": spread, "examples_mib": spread, "peak_mib": spread, "pairs": [pair]}

    met = verdicts(
        {"loader": {"lengths": {"50": found(20.0, 16.0), "200": found(9.9, 16.1)}}, "batches": {"share": 0.03}}
    )
    assert [name for name, good in met.items() if good] == [
        "loader 50: examples 20 times smaller",
        "loader 50: peak 20 times smaller",
        "loader 50: 10 times faster",
        "loader 50: 16 bytes an interaction",
    ]
    assert verdicts({"large": {"from_file": {"peak_mib": 8193.0}}}) == {"large: within 8 GiB": False}
