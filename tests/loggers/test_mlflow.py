"""MLflow's own package with a store in a folder: what it holds, and a server that is away."""

from __future__ import annotations

import csv
import socket
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import run
from recbole_diffusion.config import RunConfig
from recbole_diffusion.loggers.run_loggers import RunLoggers
from recbole_diffusion.training.run_folder import RunFolder

from .tiny import TINY

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'recbole-diffusion[mlflow]'")
if not hasattr(mlflow, "MlflowClient"):
    pytest.skip("mlflow is not installed whole", allow_module_level=True)


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want sqlite, which mlflow-skinny has not


def the_run(uri: str, experiment: str = "recbole") -> tuple[Any, Any]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return client, found[0]


def test_a_run_and_its_resumed_part_are_one_run(small_data: Path, tmp_path: Path) -> None:
    uri = (tmp_path / "store").as_uri()
    keys = {**TINY, "loggers": ["mlflow"], "mlflow_tracking_uri": uri, "mlflow_experiment": "mine"}
    first = run("SASRec", "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path)
    result = run(resume=first.folder, config={"epochs": 3}, data_path=small_data)
    client, logged = the_run(uri, "mine")
    assert logged.info.status == "FINISHED" and logged.info.run_name == result.folder.name
    losses = {metric.step: metric.value for metric in client.get_metric_history(logged.info.run_id, "train/loss")}
    with (result.folder / "metrics.csv").open() as stream:
        assert losses == {int(row["epoch"]): float(row["train_loss"]) for row in csv.DictReader(stream)}
    assert list(losses) == [1, 2, 3]
    assert logged.data.metrics["test/ndcg_at_10"] == result.test_result["ndcg@10"]
    assert logged.data.metrics["best_epoch"] == result.best_epoch
    assert logged.data.params["hidden_size"] == "8" and logged.data.params["topk"] == "[5, 10]"
    assert logged.data.tags["model"] == "SASRec" and logged.data.tags["seed"] == str(result.seed)


def test_a_run_whose_first_write_fails_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {**TINY, "loggers": ["mlflow"], "mlflow_tracking_uri": (tmp_path / "store").as_uri()}
    config = RunConfig("SASRec", "small", (), keys)
    (tmp_path / "run").mkdir()
    loggers = RunLoggers(config, RunFolder(tmp_path / "run"))
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        loggers.epochs([{"epoch": 1, "train_loss": 0.5}])
    loggers.finish([{"epoch": 1, "train_loss": 0.5}], 1, {}, {"ndcg@10": 0.25})
    _, logged = the_run(keys["mlflow_tracking_uri"])
    assert logged.data.params["hidden_size"] == "8" and logged.data.metrics["train/loss"] == 0.5
    assert logged.info.status == "FINISHED"


def test_a_server_that_is_away_loses_no_training(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:  # a port at which nobody listens
        free.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
    keys = {**TINY, "loggers": ["mlflow"], "mlflow_tracking_uri": away, "epochs": 2}
    result = run("SASRec", "small", keys, data_path=small_data, output=tmp_path)
    assert result.epochs == 2 and result.test_result
    warnings = [record for record in caplog.records if "does not log" in record.getMessage()]
    assert len(warnings) == 1 and warnings[0].getMessage().startswith("mlflow does not log (")
    here = (tmp_path / "store").as_uri()
    run(resume=result.folder, config={"mlflow_tracking_uri": here}, data_path=small_data)
    client, logged = the_run(here)
    history = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2] and logged.info.status == "FINISHED"
