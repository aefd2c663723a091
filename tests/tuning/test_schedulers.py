"""Schedulers know after `restore` what they knew at `save`, and decide alike."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.tune")

from recbole_diffusion.tuning.schedulers import MedianStopping, PopulationTraining

STOP, CONTINUE = "STOP", "CONTINUE"


class FakeTrial:
    """What schedulers ask of a trial."""

    def __init__(self, trial_id: str, checkpoint: Any = None, epoch: int = 0) -> None:
        self.trial_id, self.experiment_tag, self.config, self.status = trial_id, trial_id, {"rate": 0.1}, "RUNNING"
        keeps = SimpleNamespace(num_to_keep=3)
        self.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(checkpoint_config=keeps))
        metrics = {"epoch": epoch}
        self.latest_checkpoint_result = checkpoint and SimpleNamespace(checkpoint=checkpoint, metrics=metrics)

    def is_finished(self) -> bool:
        return self.status == "TERMINATED"


CONTROLLER = SimpleNamespace(
    search_alg=None, get_live_trials=list, get_trials=list, _schedule_trial_save=lambda trial, result: "being written"
)


def median() -> MedianStopping:
    scheduler = MedianStopping(time_attr="epoch", grace_period=1, min_samples_required=3)
    scheduler.set_search_properties("score", "max")
    return scheduler


def told(scheduler: Any, trial: FakeTrial, scores: list[float], first: int = 1) -> list[str]:
    return [
        scheduler.on_trial_result(CONTROLLER, trial, {"epoch": epoch, "score": score})
        for epoch, score in enumerate(scores, first)
    ]


def test_median_stopping_compares_with_trials_of_before(tmp_path: Path) -> None:
    before = median()
    for name in "abc":
        trial = FakeTrial(name)
        before.on_trial_add(CONTROLLER, trial)
        told(before, trial, [0.5, 0.6])
    before.save(str(tmp_path / "state"))

    after = median()
    after.restore(str(tmp_path / "state"))
    trials = {name: FakeTrial(name) for name in "abcd"}
    for trial in trials.values():
        after.on_trial_add(CONTROLLER, trial)
    assert {one.trial_id: len(results) for one, results in after._results.items()} == {"a": 2, "b": 2, "c": 2}
    assert told(after, trials["d"], [0.1]) == [STOP]
    anew = median()
    anew.on_trial_add(CONTROLLER, trials["d"])
    assert told(anew, trials["d"], [0.1]) == [CONTINUE], "the test shows nothing"


def test_an_epoch_that_is_trained_again_counts_once(tmp_path: Path) -> None:
    before, trial = median(), FakeTrial("a")
    before.on_trial_add(CONTROLLER, trial)
    told(before, trial, [0.1, 0.9, 0.9])
    before.save(str(tmp_path / "state"))
    after, again = median(), FakeTrial("a")
    after.restore(str(tmp_path / "state"))
    after.on_trial_add(CONTROLLER, again)
    told(after, again, [0.9], first=2)  # its last checkpoint was of epoch 1
    assert [result["epoch"] for result in after._results[again]] == [1, 2]
    assert after._running_mean(again, 2) == pytest.approx(0.5)


def test_a_sweep_cut_twice_keeps_trials_that_were_not_added_again(tmp_path: Path) -> None:
    before, trial = median(), FakeTrial("a")
    before.on_trial_add(CONTROLLER, trial)
    told(before, trial, [0.5])
    before.save(str(tmp_path / "one"))
    between = median()
    between.restore(str(tmp_path / "one"))
    between.save(str(tmp_path / "two"))  # before Ray has added its trials
    after, again = median(), FakeTrial("a")
    after.restore(str(tmp_path / "two"))
    after.on_trial_add(CONTROLLER, again)
    assert after._results[again] == [{"epoch": 1, "score": 0.5}]


def population() -> PopulationTraining:
    scheduler = PopulationTraining(
        time_attr="epoch", perturbation_interval=2, hyperparam_mutations={"rate": [0.1, 0.2]}, quantile_fraction=0.5
    )
    scheduler.set_search_properties("score", "max")
    return scheduler


def test_population_based_training_goes_on_with_its_population(tmp_path: Path, monkeypatch: Any) -> None:
    cloned: list[tuple[str, str]] = []
    monkeypatch.setattr(
        PopulationTraining, "_exploit", lambda self, _, worse, better: cloned.append((worse.trial_id, better.trial_id))
    )
    before, good, bad = population(), FakeTrial("good"), FakeTrial("bad")
    for trial in (good, bad):
        before.on_trial_add(CONTROLLER, trial)
    told(before, bad, [0.1, 0.1])
    told(before, good, [0.8, 0.9])
    random.seed(3)
    before.save(str(tmp_path / "state"))
    expected = random.random()

    random.seed(4)
    after, good, bad = population(), FakeTrial("good", checkpoint="weights", epoch=2), FakeTrial("bad")
    after.restore(str(tmp_path / "state"))
    assert random.random() == expected
    for trial in (good, bad):
        after.on_trial_add(CONTROLLER, trial)
    assert {one.trial_id: state.last_score for one, state in after._trial_state.items()} == {"good": 0.9, "bad": 0.1}
    assert [after._trial_state[one].last_perturbation_time for one in (good, bad)] == [2, 2]
    assert after._trial_state[good].last_checkpoint == "weights" and after._trial_state[bad].last_checkpoint is None
    assert after._trial_state[good].last_result == {"epoch": 2} and after._num_checkpoints == 1
    told(after, bad, [0.2], first=3)  # its interval is not over
    assert not cloned
    told(after, bad, [0.2], first=4)
    assert cloned == [("bad", "good")]
