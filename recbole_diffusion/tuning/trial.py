"""One trial: a usual run in a worker, which reports its validation metrics and a checkpoint after every validation.

A trial never ranks the test rows. What it reports as its checkpoint is its whole run folder (config.yaml, run.log,
metrics.csv, best/, last/), so that any of them can be evaluated or resumed like the folder of a usual run. A person's
mistake and a loss that is not finite end the trial with their reason: trying again would end the same way. Everything
else (a lost worker, no memory, a full disk, an exception) is raised, and Ray starts the trial again from its last
checkpoint, as often as `max_failures` says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.choice import chosen_loggers

if TYPE_CHECKING:
    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

TIME_ATTRIBUTE = "epoch"
SCORE, BEST_SCORE, BEST_EPOCH = "score", "best_score", "best_epoch"
STATE, REASON, REASON_KIND = "state", "reason", "reason_kind"
RUNNING, FINISHED, NO_BETTER, REFUSED = "running", "finished", "no better epoch", "refused"
_SCRATCH = "recbole-diff-trial-"


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep share; plain values that travel to any machine.

    Attributes:
        model: what `RunConfig` takes as model.
        dataset: the dataset's name.
        given: keys of configuration files, command line and search space that are the same in every trial.
        origins: where each of them was given.
        bigger: whether a higher score is better.
        search_path: folders in which a user's own modules may lie.
    """

    model: str
    dataset: str
    given: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    bigger: bool = True
    search_path: tuple[str, ...] = ()

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial with these drawn values.

        Raises:
            UserError: the configuration refuses it.
        """
        from recbole_diffusion.config import RunConfig

        overrides = Overrides({**self.given, **values}, origin="configuration of the sweep")
        overrides.origins = dict(self.origins)
        return RunConfig(self.model, self.dataset, (), overrides)

    def find_modules(self) -> None:
        """Let Python find a user's own modules."""
        sys.path.extend(path for path in self.search_path if os.path.isdir(path) and path not in sys.path)

    @property
    def worst(self) -> float:
        """A score below (or above) every one that a trial can have: what a refused trial tells schedulers."""
        return 0.0 if self.bigger else 1e30


def train_trial(values: Mapping[str, Any], plan: TrialPlan) -> None:
    """Train one trial inside a worker of Ray Tune; from its last checkpoint where it has one.

    Args:
        values: the drawn keys.
        plan: what the trials share.
    """
    from ray import tune

    from recbole_diffusion.training.run_folder import RunFolder

    plan.find_modules()
    with scratch_folder() as path:
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(str(path))
        folder = RunFolder(path)
        report = Reporter(folder, lambda facts, made: tune.report(facts, checkpoint=made), plan.worst)
        try:
            _train(plan, values, folder, report, resume=checkpoint is not None)
        except UserError as error:
            report.refused(error)


def _train(plan: TrialPlan, values: Mapping[str, Any], folder: RunFolder, report: Reporter, *, resume: bool) -> None:
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunLog
    from recbole_diffusion.tuning.schedule import Schedule, apply_values

    config = plan.config(values)
    config["run_name"] = _log_name(config)
    with opened(config), RunLog(folder.log, config["state"] or "INFO", terminal=False):
        schedule = Schedule.read(folder.path)
        folder.write_config(config.to_plain())
        session = TrainingSession(config, folder)
        if resume and not session.trainer.resume():
            raise UserError(f"the checkpoint in {folder.path} has no {folder.last.name}; start the sweep anew")
        if schedule.begin(session.trainer.start_epoch, values):
            apply_values(session.trainer, config)
        schedule.write(folder.path)
        report.session = session
        session.train(callback_fn=report.validated)
        if not report.reported:  # resumed after its last epoch: nothing was left to train
            report.validated(session.trainer.start_epoch - 1, 0.0)
        session.loggers.end()


def _log_name(config: RunConfig) -> str | None:
    """What loggers call a trial; None where none are asked for."""
    from ray import tune

    if not chosen_loggers(config):
        return None
    name = str(tune.get_context().get_trial_name())
    return f"{config['run_name']} {name}" if config["run_name"] else name


@contextlib.contextmanager
def opened(config: RunConfig) -> Iterator[None]:
    """The threads and warnings of a run, as `quick_start` has them; a worker goes on to another trial afterwards."""
    import torch

    threads = torch.get_num_threads()
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on the worker's own disk that goes when the trial ends; those that killed workers left go, too."""
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{_SCRATCH}*"):
        number = old.name.removeprefix(_SCRATCH).partition("-")[0]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=place))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Reporter:
    """What a trial tells Ray Tune.

    Args:
        folder: the run folder, which becomes the checkpoint.
        send: takes the facts and the checkpoint (None for none).
        worst: the score of a refused trial.
    """

    def __init__(self, folder: RunFolder, send: Callable[[dict[str, Any], Any], None], worst: float) -> None:
        self.folder = folder
        self.send = send
        self.worst = worst
        self.session: TrainingSession | None = None
        self.reported = False

    def validated(self, epoch: int, score: float) -> None:
        """Called after a validation, once the epoch's checkpoint is written.

        Args:
            epoch: from 0.
            score: of the validation; read again from the trainer's history, with all metrics.
        """
        from ray.tune import Checkpoint

        session = self.session
        if session is None:
            raise RuntimeError("a validation before the session was built")
        trainer = session.trainer
        for handler in logging.getLogger().handlers:
            handler.flush()
        self.reported = True
        self.send(facts_of(trainer), Checkpoint.from_directory(str(self.folder.path)))

    def refused(self, error: UserError) -> None:
        """The trial ends here, with a reason that trying again would not change."""
        facts: dict[str, Any] = {TIME_ATTRIBUTE: 0, BEST_EPOCH: None, BEST_SCORE: None}
        if self.session is not None and self.session.trainer.history:
            facts = facts_of(self.session.trainer)
        facts.update({SCORE: self.worst, STATE: REFUSED, REASON: str(error), REASON_KIND: type(error).__name__})
        self.send(facts, None)


def facts_of(trainer: Any) -> dict[str, Any]:
    """A trainer's state after a validation, as plain numbers."""
    row = trainer.history[-1]
    key = f"valid_{trainer.valid_metric.lower()}"
    last = row if key in row else next((old for old in reversed(trainer.history) if key in old), row)
    state = FINISHED if row["epoch"] >= trainer.epochs else NO_BETTER if trainer.stopped else RUNNING
    return {
        **{name: float(value) for name, value in last.items() if name.startswith("valid_")},
        TIME_ATTRIBUTE: row["epoch"],
        SCORE: float(last[key]) if key in last else None,
        BEST_SCORE: float(trainer.best_valid_score) if trainer.best_valid_result else None,
        BEST_EPOCH: trainer.best_epoch,
        "train_loss": float(row["train_loss"]),
        "learning_rate": float(row["learning_rate"]),
        "train_seconds": round(float(trainer.seconds), 3),
        STATE: state,
    }
