"""Which runs of a suite may stand in one table is said before any is trained; data are read once for each way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites import run_data
from recbole_diffusion.suites.benchmark import benchmark
from recbole_diffusion.suites.runner import RunQueue
from recbole_diffusion.tuning.preparation import ReadData, read_data

HEAD = "datasets: [small]\nseeds: 1\nsettings: {epochs: 1, topk: [5, 10], valid_metric: NDCG@10}\nmodels:\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that would start; none does."""
    names: list[str] = []

    def note(queue: RunQueue, *_: object, **__: object) -> list[Any]:
        names.extend(run.name for run in queue.waiting)
        return []

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", note)
    return names


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models with whose configuration data are read."""
    models: list[str] = []

    def note(config: RunConfig, *, reader: str) -> ReadData:
        models.append(config.model)
        return read_data(config, reader=reader)

    monkeypatch.setattr(run_data, "read_data", note)
    return models


def run(folder: Path, data: Path, models: str) -> None:
    file = folder / "tiny.yaml"
    file.write_text(HEAD + models, encoding="utf-8")
    keys = {"cache_dir": str(folder / "cache")}
    benchmark(file, keys, data_path=data, output=folder / "out", show_progress=False)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            "  SASRecCE: {settings: {protocol: user_split_next}}\n"
            "  gSASRec: {settings: {protocol: user_split_next, split_ratio: [0.6, 0.2, 0.2]}}\n",
            r"^SASRecCE and gSASRec cannot stand in one table of small: split_ratio \[0\.8, 0\.1, 0\.1\] "
            r"\(overall\.yaml:\d+\) and \[0\.6, 0\.2, 0\.2\] \(.*tiny\.yaml:6\); give both the same",
        ),
        (
            "  SASRecCE: {candidates: {label_repeats: [False, True]}}\n",
            r"^SASRecCE \(candidate label_repeats False\) and SASRecCE \(candidate label_repeats True\) cannot stand",
        ),
    ],
)
def test_other_protocols_are_refused_before_data_are_read(
    tmp_path: Path, small_data: Path, started: list[str], reads: list[str], models: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, small_data, models)
    assert not started and not reads


def test_other_data_are_refused_before_a_run_starts(
    tmp_path: Path, small_data: Path, started: list[str], reads: list[str]
) -> None:
    models = '  SASRecCE:\n  gSASRec: {settings: {user_inter_num_interval: "[8,inf)"}}\n'
    message = r"SASRecCE and gSASRec cannot stand .*: users 60 and \d+ after filtering with user_inter_num_interval "
    with pytest.raises(UserError, match=message + r".* \(.*\) and \[8,inf\) \(.*tiny\.yaml:6\); give both the same"):
        run(tmp_path, small_data, models)
    assert not started and reads == ["SASRecCE", "gSASRec"]


def test_data_are_read_once_for_each_way_in_which_runs_read_them(
    tmp_path: Path, small_data: Path, started: list[str], reads: list[str]
) -> None:
    models = (
        "  SASRecCE:\n"
        "  short: {model: SASRecCE, settings: {MAX_ITEM_LIST_LENGTH: 7}}\n"  # cuts histories, not the data
        "  SASRecSampled: {settings: {item_inter_num_interval: '[1,inf)'}}\n"  # read otherwise, to the same data
        "  gSASRec: {settings: {protocol: global_time}}\n"  # stands in another table
    )
    run(tmp_path, small_data, models)
    assert reads == ["SASRecCE", "SASRecSampled", "gSASRec"] and len(started) == 4
    entries = [path for path in (tmp_path / "cache").iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)]
    assert len(entries) == 3


def test_a_suite_is_not_spoken_to_of_trials(
    tmp_path: Path, small_data: Path, started: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        run(tmp_path, small_data, "  SASRecCE: {settings: {cache: False}}\n  gSASRec: {settings: {cache: False}}\n")
    said = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert said == ["cache is False: every run reads and prepares the data anew"]


def test_validation_rows_are_needed_where_something_is_chosen(
    tmp_path: Path, small_data: Path, started: list[str]
) -> None:
    keys = "settings: {eval_args: {split: {LS: test_only}}}"
    run(tmp_path, small_data, f"  SASRecCE: {{{keys}}}\n")
    assert started == ["SASRecCE on small, seed 1"]
    message = r"SASRecCE on small: its configuration is chosen on validation, but there are no .*\(.*tiny\.yaml:5\)"
    with pytest.raises(UserError, match=message):
        run(tmp_path, small_data, f"  SASRecCE: {{{keys}, candidates: {{dropout_prob: [0.1, 0.2]}}}}\n")
