"""Losses for large catalogues through the command line: what the log says, equal training, refusals in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from recbole_diffusion.command_line import main

WORDS = [
    "--dataset=small", "--use_gpu=False", "--hidden_size=16", "--n_layers=1", "--n_heads=2", "--train_batch_size=64",
    "--MAX_ITEM_LIST_LENGTH=10", "--epochs=2", "--show_progress=False", "--num_threads=1",
]  # fmt: skip


def trained(model: str, small_data: Path, output: Path, *words: str) -> tuple[list[float], str]:
    """Training losses of the epochs, and the log."""
    given = [f"--model={model}", *WORDS, f"--data_path={small_data}", f"--output={output}", *words]
    assert main(given) == 0
    (folder,) = output.iterdir()
    with (folder / "metrics.csv").open() as stream:
        losses = [float(row["train_loss"]) for row in csv.DictReader(stream)]
    return losses, (folder / "run.log").read_text()


def test_chunked_trains_as_full(small_data: Path, tmp_path: Path) -> None:
    full, log = trained("SASRecCE", small_data, tmp_path / "full", "--dropout_prob=0.0")
    assert "loss: full (auto, 40 items; full up to 100,000, chunked above)\n" in log
    chunked, log = trained("SASRecCE", small_data, tmp_path / "chunked", "--dropout_prob=0.0", "--loss=chunked")
    assert "loss: chunked\n" in log
    assert chunked == pytest.approx(full, abs=1e-4)


def test_gbce_of_a_model_that_has_it_not_by_itself(small_data: Path, tmp_path: Path) -> None:
    words = ["--num_steps=4", "--loss=gbce", "--n_negatives=8", "--item_optimizer=row_wise", "--precision=bf16"]
    losses, log = trained("DiffuRec", small_data, tmp_path, *words, "--item_init_std=0.1")
    assert "loss: gbce, item_optimizer: row_wise\n" in log
    assert len(losses) == 2 and losses[1] < losses[0]


def test_a_table_that_has_no_rows_of_its_own_is_refused(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model=SASRecCE", *WORDS, f"--data_path={small_data}", f"--output={tmp_path}"]
    assert main([*words, "--item_optimizer=row_wise"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "row_wise" in line]
    assert "loss: full changes every item in every step; set loss: sampled or gbce" in line
