"""Ray Tune's median stopping and population based training, which know what they knew when a sweep is resumed.

Ray keeps the searcher of a sweep and gives a scheduler `save` and `restore`, which only ASHA has. What these two know
hangs on Ray's trial objects, which are others in the process that resumes: it is kept by the trials' ids here, and each
trial takes its own when it is added again.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ray.tune.schedulers import MedianStoppingRule, PopulationBasedTraining


class MedianStopping(MedianStoppingRule):
    """Median stopping whose results of all trials can be saved.

    An epoch that is trained again, because its trial was lost after it had been reported, counts once.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._kept: dict[str, Any] = {}

    def save(self, checkpoint_path: str) -> None:
        """Write what is known of each trial: its scores by epoch, and when it last gave way."""
        known = {
            trial.trial_id: {
                "scores": [[one[self._time_attr], one[self._metric]] for one in results if self._metric in one],
                "paused": self._last_pause.get(trial),
            }
            for trial, results in self._results.items()
        }
        _write(checkpoint_path, {**self._kept, **known})

    def restore(self, checkpoint_path: str) -> None:
        """Read it; each trial gets its own when it is added."""
        self._kept = _read(checkpoint_path)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial, or one of before."""
        super().on_trial_add(tune_controller, trial)
        known = self._kept.pop(trial.trial_id, None)
        if known is None or not known["scores"]:
            return
        self._results[trial] = [{self._time_attr: time, self._metric: score} for time, score in known["scores"]]
        if known["paused"] is not None:
            self._last_pause[trial] = known["paused"]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's decision, with each epoch of the trial counted once."""
        if trial in self._results and {self._time_attr, self._metric} <= set(result):
            now = result[self._time_attr]
            self._results[trial] = [old for old in self._results[trial] if old[self._time_attr] < now]
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision


class PopulationTraining(PopulationBasedTraining):
    """Population based training whose state of all trials can be saved, that of its random numbers included."""

    _FACTS = ("last_score", "last_perturbation_time", "last_train_time")
    _COUNTS = ("_num_checkpoints", "_num_perturbations")

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._kept: dict[str, Any] = {}

    def save(self, checkpoint_path: str) -> None:
        """Write what is known of each trial, and the state of Python's generator, from which Ray draws."""
        known = {
            trial.trial_id: {
                **{name: getattr(state, name) for name in self._FACTS},
                "leads": state.last_checkpoint is not None,
            }
            for trial, state in self._trial_state.items()
        }
        counts = {name: getattr(self, name) for name in self._COUNTS}
        _write(checkpoint_path, {"trials": {**self._kept, **known}, "counts": counts, "random": random.getstate()})

    def restore(self, checkpoint_path: str) -> None:
        """Read it; each trial gets its own when it is added."""
        found = _read(checkpoint_path)
        self._kept = found["trials"]
        vars(self).update(found["counts"])
        version, numbers, gauss = found["random"]
        random.setstate((version, tuple(numbers), gauss))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial, or one of before. A leader's weights, which others may take, are those of its last checkpoint,
        from which it goes on itself."""
        super().on_trial_add(tune_controller, trial)
        known = self._kept.pop(trial.trial_id, None)
        if known is None:
            return
        state = self._trial_state[trial]
        for name in self._FACTS:
            setattr(state, name, known[name])
        newest = trial.latest_checkpoint_result
        if newest is not None:
            state.last_result = newest.metrics
            state.last_checkpoint = newest.checkpoint if known["leads"] else None


def _write(path: str, content: Any) -> None:
    Path(path).write_text(json.dumps(content, default=float), encoding="utf-8")  # scores may be NumPy's


def _read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
