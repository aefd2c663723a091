"""What a sweep says while it runs, and what it remembers beside Ray's own state, as a callback of Ray Tune."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

from ray import tune

from recbole_diffusion.tuning.reasons import reason_of
from recbole_diffusion.tuning.trial import BEST_SCORE, FINISHED, NO_BETTER, REASON, REFUSED, STATE, TIME_ATTRIBUTE

ENDED = ("TERMINATED", "ERROR")
INTERVAL = 10.0  # seconds between two lines where nothing ended

# Trials as the last experiment of this process left them. Ray hands its callbacks to a restored sweep by pickling them,
# so that the sweep itself cannot hold on to one.
ended: list[Any] = []

# Trials that had not ended at the experiment's last step. What ends it then, Ctrl-C or the time budget, is over: Ray
# calls them terminated afterwards, as those that the scheduler stopped.
running: set[str] = set()

# The reserve of the sweep that runs in this process: given back when its last trial has ended.
reserve: Path | None = None


class SweepProgress(tune.Callback):
    """Lines with trials done, epochs a second, the best score so far and the remaining time.

    Args:
        trials: how many there will be.
        epochs: of a trial, at most.
        bigger: whether a higher score is better.
        scheduler: Ray restores the searcher of a resumed sweep, not its scheduler, which is saved and restored here.
        show: whether to print.
    """

    def __init__(self, trials: int, epochs: int, bigger: bool, scheduler: Any = None, show: bool = True) -> None:
        self.trials, self.epochs, self.bigger, self.show = trials, epochs, bigger, show
        self.scheduler = scheduler
        self._begin()

    def _begin(self) -> None:
        self.started = self.printed = time.monotonic()
        self.epochs_before: int | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def setup(
        self, stop: Any = None, num_samples: int | None = None, total_num_samples: int | None = None, **info: Any
    ) -> None:
        """Called when the experiment starts or goes on."""
        self._begin()
        ended.clear()
        running.clear()

    def get_state(self) -> dict[str, Any] | None:
        """The scheduler's state, which Ray keeps with that of the experiment."""
        if not hasattr(self.scheduler, "save"):
            return None
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "scheduler"
            try:
                self.scheduler.save(str(file))
            except NotImplementedError:  # one of Ray's that knows nothing, as none
                return None
            return {"scheduler": file.read_bytes()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Give the scheduler of a resumed sweep back what it knew."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "scheduler"
            file.write_bytes(state["scheduler"])
            self.scheduler.restore(str(file))

    # ---- events ----

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Now and then a line."""
        running.clear()
        running.update(str(one.trial_id) for one in trials if one.status not in ENDED)
        if reserve is not None and len(trials) >= self.trials and all(one.status in ENDED for one in trials):
            reserve.unlink(missing_ok=True)  # Ray writes its state once more after this
        if self.epochs_before is None:
            self.epochs_before = _epochs(trials)
        if time.monotonic() - self.printed >= INTERVAL:
            self._line(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line for a trial that ended."""
        result = trial.last_result or {}
        if result.get(STATE) == REFUSED:
            words = f"refused: {result[REASON]}"
        else:
            ending = result.get(STATE) if result.get(STATE) in (FINISHED, NO_BETTER) else "stopped"
            words = f"{ending} after epoch {result.get(TIME_ATTRIBUTE)}, best {_decimal(result.get(BEST_SCORE))}"
        self._line(trials, trial, words)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line for a trial that is started again."""
        self._line(trials, trial, f"failed, starts again from its last checkpoint: {reason_of(trial)}", over=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line for a trial that is given up."""
        self._line(trials, trial, f"failed: {reason_of(trial)}")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Remember how the trials were left."""
        ended[:] = trials

    # ---- lines ----

    def _line(self, trials: list[Any], trial: Any = None, words: str = "", *, over: bool = True) -> None:
        self.printed = time.monotonic()
        if not self.show:
            return
        out: TextIO = sys.stderr
        if trial is not None:
            print(f"trial {trial.trial_id} {words}", file=out)
        done = sum(one.status in ENDED or (one is trial and over) for one in trials)
        failed = sum(one.status == "ERROR" or (one.last_result or {}).get(STATE) == REFUSED for one in trials)
        running = sum(one.status == "RUNNING" and not (one is trial and over) for one in trials)
        scores = [
            result[BEST_SCORE]
            for one in trials
            if (result := one.last_result or {}).get(BEST_SCORE) is not None and result.get(STATE) != REFUSED
        ]
        best = f", best {_decimal((max if self.bigger else min)(scores))}" if scores else ""
        rate = (_epochs(trials) - (self.epochs_before or 0)) / max(self.printed - self.started, 1e-9)
        print(
            f"{done}/{self.trials} trials done ({failed} failed), {running} running{best}, {rate:.2f} epochs/s"
            + self._left(trials, done, rate),
            file=out,
            flush=True,
        )

    def _left(self, trials: list[Any], done: int, rate: float) -> str:
        """Remaining time: trials that are not done take what those that are took on the mean."""
        if rate <= 0 or done >= self.trials:
            return ""
        ended_epochs = [(one.last_result or {}).get(TIME_ATTRIBUTE, 0) for one in trials if one.status in ENDED]
        mean = sum(ended_epochs) / len(ended_epochs) if ended_epochs else self.epochs
        running = [(one.last_result or {}).get(TIME_ATTRIBUTE, 0) for one in trials if one.status not in ENDED]
        left = (self.trials - done) * mean - sum(min(epochs, mean) for epochs in running)
        return f", about {_duration(max(left, 0) / rate)} left"


def _epochs(trials: list[Any]) -> int:
    return sum((one.last_result or {}).get(TIME_ATTRIBUTE, 0) for one in trials)


def _decimal(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else "-"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
