"""What loggers are told, when, and that none of them is ever in the way."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_diffusion import evaluate, run
from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers import run_loggers
from recbole_diffusion.loggers.choice import check_loggers, chosen_loggers
from recbole_diffusion.loggers.records import values_of
from recbole_diffusion.loggers.run_loggers import RunLoggers
from recbole_diffusion.training.run_folder import RunFolder

from .tiny import TINY


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def steps(events: EventAccumulator, name: str) -> dict[int, float]:
    logged = [(event.step, event.value) for event in events.Scalars(name)]
    assert len({step for step, _ in logged}) == len(logged), f"{name} has an epoch twice"
    return dict(logged)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


# ---- names ----


def test_names_of_values() -> None:
    row = {
        "epoch": 3,
        "train_loss": 1.5,
        "train_cross_entropy": 1.25,
        "learning_rate": 0.1,
        "train_seconds": 2.0,
        "valid_ndcg@10": 0.5,
        "valid_seconds": 1.0,
    }
    assert values_of(row) == {
        "train/loss": 1.5,
        "train/cross_entropy": 1.25,
        "train/learning_rate": 0.1,
        "train/seconds": 2.0,
        "valid/ndcg@10": 0.5,
        "valid/seconds": 1.0,
    }


# ---- choice ----


def config_of(**keys: Any) -> RunConfig:
    return RunConfig("SASRec", "small", (), keys)


def test_nothing_is_logged_unless_asked_for() -> None:
    assert chosen_loggers(config_of()) == ()
    assert chosen_loggers(config_of(loggers="tensorboard, mlflow")) == ("tensorboard", "mlflow")
    assert chosen_loggers(config_of(log_wandb=True)) == ("wandb",)
    assert chosen_loggers(config_of(log_wandb=True, loggers=["wandb"])) == ("wandb",)


@pytest.mark.parametrize("value", [["tensorbord"], "tensorboard, tensorboard", 3, {"wandb": 1}])
def test_a_wrong_choice_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"^loggers must be .*\(configuration dict\)"):
        config_of(loggers=value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loggers": ["wandb"]}, r"^loggers \(.*\) asks for wandb, .*pip install 'recbole-diffusion\[wandb\]'"),
        ({"log_wandb": True}, r"^log_wandb \(.*\) asks for wandb, .*pip install 'recbole-diffusion\[wandb\]'"),
        ({"loggers": ["mlflow"]}, r"^loggers \(.*\) asks for mlflow, .*pip install 'recbole-diffusion\[mlflow\]'"),
    ],
)
def test_a_package_that_is_absent_is_said_before_anything_starts(
    keys: dict[str, Any], said: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=said):
        run("SASRec", "small", {**TINY, **keys}, data_path=small_data, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_called_wandb_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="wandb, which is not installed whole"):
        check_loggers(config_of(loggers=["wandb"]))
    sys.modules.pop("wandb", None)


# ---- TensorBoard ----


def test_a_run_without_loggers_writes_the_table_alone(small_data: Path, tmp_path: Path) -> None:
    folder = run("SASRec", "small", {**TINY, "epochs": 1}, data_path=small_data, output=tmp_path).folder
    assert table(folder)[0]["train_loss"]
    assert not (folder / "tensorboard").exists() and not (folder / "loggers.json").exists()


def test_tensorboard_has_every_epoch_once_and_the_result(small_data: Path, tmp_path: Path) -> None:
    keys = {**TINY, "loggers": "tensorboard", "eval_step": 2}
    first = run("SASRec", "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path)
    result = run(resume=first.folder, config={"epochs": 4}, data_path=small_data)
    events, rows = events_of(result.folder), table(result.folder)
    losses = steps(events, "train/loss")
    assert losses == pytest.approx({int(row["epoch"]): float(row["train_loss"]) for row in rows}, abs=1e-6)
    assert list(losses) == [1, 2, 3, 4]
    valid = steps(events, "valid/ndcg@10")
    assert valid == pytest.approx({e: float(rows[e - 1]["valid_ndcg@10"]) for e in (2, 4)}, abs=1e-6)
    last = events.Scalars("test/ndcg@10")[-1]
    assert last.value == pytest.approx(result.test_result["ndcg@10"], abs=1e-6) and last.step == result.best_epoch
    config = events.Tensors("config/text_summary")
    assert len(config) == 1 and b"hidden_size: 8" in config[0].tensor_proto.string_val[0]
    assert "_hparams_/experiment" in events.PluginTagToContent("hparams")
    kept = json.loads((result.folder / "loggers.json").read_text())
    assert kept["run_name"] == result.folder.name and kept["tensorboard"]["epoch"] == 4


def test_an_epoch_is_logged_once_its_checkpoint_is_there(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cut while an epoch is written logs it when it is resumed, and not before."""
    from recbole_diffusion.training import trainer

    def cut(self: Any, history: Any) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt
        write(self, history)

    write = RunFolder.write_metrics
    monkeypatch.setattr(trainer.RunFolder, "write_metrics", cut)
    with pytest.raises(KeyboardInterrupt) as cutting:
        run("SASRec", "small", {**TINY, "loggers": "tensorboard", "epochs": 3}, data_path=small_data, output=tmp_path)
    folder = cutting.value.run_folder  # type: ignore[attr-defined]
    assert list(steps(events_of(folder), "train/loss")) == [1]
    monkeypatch.undo()
    run(resume=folder, data_path=small_data)
    assert list(steps(events_of(folder), "train/loss")) == [1, 2, 3]


def test_an_evaluation_is_logged_where_it_is_asked_for(small_data: Path, tmp_path: Path) -> None:
    keys = {**TINY, "loggers": "tensorboard", "epochs": 1}
    trained = run("SASRec", "small", keys, data_path=small_data, output=tmp_path).folder
    output = tmp_path / "evaluated"
    silent = evaluate(trained, {"show_progress": False}, output=output)
    assert not (silent.folder / "tensorboard").exists()
    said = evaluate(trained, {"show_progress": False, "loggers": ["tensorboard"]}, output=output)
    value = events_of(said.folder).Scalars("test/ndcg@10")[0].value
    assert value == pytest.approx(said.test_result["ndcg@10"], abs=1e-6)


# ---- what fails ----


class Service:
    """A logger whose service is there or not."""

    down = False
    breaks = False  # while it is opened
    said: list[tuple[str, Any]] = []  # noqa: RUF012 (of all instances, as a service is)

    def __init__(self) -> None:
        if self.down:
            raise ConnectionError("no route to host\nand more")

    def open(self, run: Any, known: dict[str, Any]) -> None:
        self.said.append(("open", dict(known)))
        known["id"] = "a run"
        if self.breaks:
            raise ConnectionError("gone")

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        if self.down:
            raise ConnectionError("gone")
        self.said.append(("epoch", number))

    def flush(self) -> None:
        pass

    def summary(self, values: Mapping[str, float], epoch: int) -> None:
        self.said.append(("summary", dict(values)))

    def close(self, status: str) -> None:
        self.said.append(("close", status))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    monkeypatch.setattr(Service, "down", False)
    monkeypatch.setattr(Service, "said", [])
    monkeypatch.setattr(run_loggers, "logger_class", lambda name: Service)
    return Service


def loggers_in(folder: Path, **keys: Any) -> RunLoggers:
    folder.mkdir(exist_ok=True)
    return RunLoggers(config_of(loggers=["mlflow"], **keys), RunFolder(folder))


def history(epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "train_loss": 1.0 / epoch} for epoch in range(1, epochs + 1)]


def test_a_service_that_fails_is_one_warning_and_is_made_up_for(
    service: type[Service], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = loggers_in(tmp_path / "run")
    loggers.epochs(history(1))
    monkeypatch.setattr(service, "down", True)
    with caplog.at_level(logging.WARNING):
        loggers.epochs(history(2))
        loggers.epochs(history(3))
    (warning,) = caplog.records
    assert warning.getMessage() == (
        "mlflow does not log (ConnectionError: gone); the run goes on, and metrics.csv has everything"
    )
    monkeypatch.setattr(service, "down", False)
    loggers.finish(history(3), 2, {"ndcg@10": 0.5}, {"ndcg@10": 0.25})
    assert [what for name, what in service.said if name == "epoch"] == [1, 2, 3]
    assert service.said[-2:] == [
        ("summary", {"best_epoch": 2.0, "best_valid/ndcg@10": 0.5, "test/ndcg@10": 0.25}),
        ("close", "finished"),
    ]


def test_a_service_that_is_away_all_the_time_ends_nothing(
    service: type[Service], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "down", True)
    loggers = loggers_in(tmp_path / "run")
    loggers.epochs(history(1))
    loggers.finish(history(2), 1, {}, {})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no route to host)" in caplog.text and service.said == []
    monkeypatch.setattr(service, "down", False)
    loggers_in(tmp_path / "run").epochs(history(2))  # the run is resumed
    assert [what for name, what in service.said if name == "epoch"] == [1, 2]


def test_a_resumed_run_goes_on_in_its_log(service: type[Service], tmp_path: Path) -> None:
    loggers = loggers_in(tmp_path / "run")
    loggers.epochs(history(2))
    loggers.end(KeyboardInterrupt())
    loggers_in(tmp_path / "run").epochs(history(3))
    assert service.said == [
        ("open", {}),
        ("epoch", 1),
        ("epoch", 2),
        ("close", "interrupted"),
        ("open", {"id": "a run", "epoch": 2}),
        ("epoch", 3),
    ]


def test_what_was_begun_is_gone_on_with_although_opening_it_failed(
    service: type[Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "breaks", True)
    loggers = loggers_in(tmp_path / "run")
    loggers.epochs(history(1))
    monkeypatch.setattr(service, "breaks", False)
    loggers_in(tmp_path / "run").epochs(history(1))  # the process died, too
    assert service.said == [("open", {}), ("open", {"id": "a run"}), ("epoch", 1)]


def test_a_copy_of_a_run_under_another_name_has_a_log_of_its_own(service: type[Service], tmp_path: Path) -> None:
    loggers_in(tmp_path / "run", run_name="one").epochs(history(2))
    del service.said[:]
    loggers_in(tmp_path / "run", run_name="other").epochs(history(3))
    assert service.said == [("open", {}), ("epoch", 1), ("epoch", 2), ("epoch", 3)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (SystemExit(0), "finished"), (KeyboardInterrupt(), "interrupted"), (OSError(), "failed")],
)
def test_how_a_log_ends(service: type[Service], tmp_path: Path, error: BaseException | None, status: str) -> None:
    loggers = loggers_in(tmp_path / "run")
    loggers.end(error)  # nothing was begun
    loggers.epochs(history(1))
    loggers.end(error)
    loggers.end(error)  # it has ended
    assert [what for name, what in service.said if name == "close"] == [status]


def test_a_run_that_fails_ends_its_log(service: type[Service], small_data: Path, tmp_path: Path) -> None:
    keys = {**TINY, "loggers": ["tensorboard"], "learning_rate": 1e30, "epochs": 5}
    with pytest.raises(UserError, match="training loss is nan"):
        run("SASRec", "small", keys, data_path=small_data, output=tmp_path)
    assert service.said == [("open", {}), ("close", "failed")]


def test_of_several_workers_the_first_one_logs(service: type[Service], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = config_of(loggers=["mlflow"])
    along = RunLoggers(config, RunFolder(tmp_path / "run", writes=False))
    along.epochs(history(2))
    along.finish(history(2), 1, {}, {})
    assert service.said == []


# ---- suites ----


def test_runs_of_a_suite_are_logged_under_their_names() -> None:
    from recbole_diffusion.suites.performing import logger_keys
    from recbole_diffusion.suites.plan import PLACE_KEYS, PlannedRun

    planned = PlannedRun("REMI", "gowalla", 3, "REMI", None, {"epochs": 3}, Path("place"))
    assert logger_keys(planned, {"num_threads": 1}) == {}
    assert logger_keys(planned, {"loggers": ["wandb"]}) == {
        "loggers": ["wandb"],
        "run_name": "REMI on gowalla, seed 3",
    }
    named = logger_keys(planned, {"log_wandb": True, "run_name": "spring"})
    assert named["run_name"] == "spring REMI on gowalla, seed 3"
    assert set(LOGGER_KEYS) <= set(PLACE_KEYS), "a run that is logged would be another run"
