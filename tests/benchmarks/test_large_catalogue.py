"""The benchmark of large catalogues: what counts as needed, what ends it, and the table."""

from __future__ import annotations

import argparse
from typing import Any

import large_catalogue
import pytest
from large_catalogue import SIDES, make_batches, measure_memory, measure_time, meets_aims
from large_catalogue_table import render_large_catalogue


def small(*words: str) -> argparse.Namespace:
    given = ["--items=3000", "--time_items=500", "--batch_size=8", "--dimension=16", "--steps=1", "--repeats=2", *words]
    return large_catalogue.arguments(given)


def test_histories_are_padded_on_the_right() -> None:
    (batch,) = make_batches(small("--history=7"), 300, 1)
    lengths, histories = batch["item_length"], batch["item_id_list"]
    assert int(lengths.min()) >= 1 and int(lengths.max()) <= 7
    assert ((histories > 0).sum(1) == lengths).all() and (histories[:, 0] > 0).all()
    (full,) = make_batches(small("--history=7", "--full_histories"), 300, 1)
    assert (full["item_id_list"] > 0).all() and full["item_id_list"].shape == (8, 7)


def test_a_side_counts_parameters_gradients_and_state() -> None:
    found = {side: measure_memory(small(), "YouTubeDNN", side) for side in SIDES}
    table = 3001 * 16 * 4 / 2**20
    for result in found.values():
        assert result["needed_mib"]["parameters"] == pytest.approx(table, abs=0.1)
        assert result["needed_mib"]["optimiser"] == pytest.approx(2 * table, abs=0.15)
        assert result["peak_mib"] >= 0 and len(result["seconds"]) == 1  # 0 where this process held more before
    assert found["chunked"]["needed_mib"]["gradients"] == pytest.approx(table, abs=0.1)


def test_a_pair_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_time(small(), "SASRecCE")
    assert 0 <= found["largest_difference"] <= large_catalogue.TOLERANCE
    assert found["seconds"]["times_as_long"]["min"] > 0
    monkeypatch.setattr(large_catalogue, "TOLERANCE", -1.0)
    with pytest.raises(ArithmeticError, match="SASRecCE: losses of the two differ"):
        measure_time(small(), "SASRecCE")


def measured(times_needed: float, times_as_long: float) -> tuple[dict[str, Any], dict[str, Any]]:
    needed = {"parameters": 489.0, "gradients": 489.0, "optimiser": 978.0}
    side = {"peak_mib": 2100.0, "needed_mib": needed, "times_needed": times_needed, "seconds": [2.0, 3.0, 4.0]}
    side["processor_seconds"] = [1.0, 1.5, 9.0]
    spreads = {key: {"median": 1.5, "min": 1.0, "max": 2.0} for key in ("full", "chunked")}
    ratio = {"median": times_as_long, "min": 0.5, "max": 2.0}
    unit = {**spreads, "times_as_long": ratio}
    return {"SASRecCE": {"chunked": side}}, {
        "SASRecCE": {"seconds": unit, "processor_seconds": unit, "largest_difference": 1e-6}
    }


@pytest.mark.parametrize(("memory", "longer", "met"), [(1.34, 1.2, True), (1.35, 1.21, False)])
def test_aims_and_table(memory: float, longer: float, met: bool) -> None:
    sides, timing = measured(memory, longer)
    found = meets_aims(sides, timing)
    assert found == {"SASRecCE": {"times_needed": met, "times_as_long": met}}
    options = vars(small())
    raw = {
        "settings": {**options, "try_out": False}, "memory": sides, "time": timing, "met": found,
        "aims": large_catalogue.AIMS, "tolerance": 1e-4, "command": "python x", "code_version": "abc",
        "measured": "now",
        "machine": {
            "processor": "P", "cores": 2, "threads": 2, "python": "3", "torch": "2", "device": "cpu",
            "load": {"average_before": [0.1, 0.2, 0.3], "cores_busy_with_others": 0.0},
        },
    }  # fmt: skip
    text = render_large_catalogue(raw, "large_catalogue")
    assert f"| 2,100 | 489 | 489 | 978 | {memory:.3f} | 3.00 | 1.50 |" in text
    assert f"| {longer:.2f} | 0.50 to 2.00 |" in text
    assert f"| SASRecCE | {'yes | yes' if met else 'no | no'} |" in text


def test_unknown_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        small("--models=SASRec")
    assert "SASRec is not one of DiffuRec" in capsys.readouterr().err


def test_a_part_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_catalogue, "__file__", "/nonexistent/benchmark.py")
    with pytest.raises(RuntimeError, match=r"^YouTubeDNN:chunked: .*benchmark\.py"):
        large_catalogue.run_part("YouTubeDNN:chunked", [])
