"""MLflow: a run of an experiment, at `mlflow_tracking_uri` or where MLFLOW_TRACKING_URI says.

Through MLflow's client and not its global run, so a run that a program has begun itself is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recbole_diffusion.loggers.choice import MLFLOW, import_logger
from recbole_diffusion.loggers.records import FAILED, FINISHED, INTERRUPTED, LoggedRun

logger = logging.getLogger(__name__)

# where neither the key nor MLFLOW_EXPERIMENT_NAME says another; wandb's project is called so too
EXPERIMENT = "recbole"
# Unless the user set them: a server that does not answer stops a run for half a minute, not for a quarter of an hour.
_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}
_PARAMETERS_AT_A_TIME = 100  # MLflow's limit of one request
_DESCRIBED = "described"  # whether the configuration is logged
_LONGEST_PARAMETER = 500  # characters; older servers take no more


class MlflowLogger:
    """A run of MLflow's; a resumed run goes on with the same one."""

    def open(self, run: LoggedRun, known: dict[str, Any]) -> None:
        """Begin a run with the configuration as its parameters, or go on with the one that is `known`."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        mlflow = import_logger(MLFLOW, "loggers")
        self.client = mlflow.MlflowClient(tracking_uri=run.tracking_uri or None)
        self.run_id = known.get("run_id")
        if self.run_id:
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._begun(run)
            known.update({"run_id": self.run_id, _DESCRIBED: False})
        if not known.get(_DESCRIBED, True):  # the runs of older versions are described
            self._describe(mlflow, run)
            known[_DESCRIBED] = True
        logger.info("mlflow run %s", self.run_id)

    def _begun(self, run: LoggedRun) -> Any:
        """A new run's id."""
        name = run.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        number = None if run.experiment else os.environ.get("MLFLOW_EXPERIMENT_ID")
        if number is None:
            there = self.client.get_experiment_by_name(name)
            number = self.client.create_experiment(name) if there is None else there.experiment_id
        tags = {key: str(run.config[key]) for key in ("model", "dataset", "seed")}
        made = self.client.create_run(number, run_name=run.name, tags={**tags, "folder": str(run.folder.absolute())})
        return made.info.run_id

    def _describe(self, mlflow: Any, run: LoggedRun) -> None:
        """Log the configuration; what is logged already may be logged again."""
        parameters = [mlflow.entities.Param(_name(key), text) for key, text in _texts(run.config)]
        for begin in range(0, len(parameters), _PARAMETERS_AT_A_TIME):
            self.client.log_batch(self.run_id, params=parameters[begin : begin + _PARAMETERS_AT_A_TIME])

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """One request with all values, at step `number`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics: Sequence[Any] = [Metric(_name(key), value, now, number) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def flush(self) -> None:
        """Nothing: every request is answered."""

    def summary(self, values: Mapping[str, float], epoch: int) -> None:
        """The values at the best epoch's step."""
        self.epoch(epoch, values)

    def close(self, status: str) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, _STATUS[status])


def _name(key: str) -> str:
    """A name that MLflow takes, as it names such metrics itself: ndcg_at_10."""
    return key.replace("@", "_at_")


def _texts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters as texts."""
    for key, value in config.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        yield key, text if len(text) <= _LONGEST_PARAMETER else text[: _LONGEST_PARAMETER - 3] + "..."
