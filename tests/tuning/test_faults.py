"""What a sweep must survive; every process that dies here is really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.tuning.schedulers import MedianStopping, PopulationTraining
from recbole_diffusion.tuning.sweep import tune
from recbole_diffusion.tuning.testing import weights_digest
from tests.leftovers import processes_of, wait_until_gone
from tests.tuning.conftest import ROOT, TINY, driver_environment

MODEL = "tests.tuning.faults:Faulty"


def digest_of(result: Any, row: Any) -> str:
    return weights_digest(result.folder / row.checkpoint / "best" / "model.safetensors")


def test_trials_that_fail(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    """A lost worker and one without memory go on from their last checkpoint and end as if nothing had been; an
    exception is tried again and given up; a loss that is not finite ends its trial. The sweep goes on through all."""
    faults = ["none", "kill", "memory", "raise", "nan"]
    result = tune(
        MODEL, "small", {"fault": {"grid": faults}, "marker": str(tmp_path), "delay": 0}, TINY,
        data_path=small_data, storage_path=tmp_path / "sweeps", num_trials=1, max_failures=1,
    )  # fmt: skip
    rows = {row.values["fault"]: row for row in result.trials}
    assert {fault: row.state for fault, row in rows.items()} == {
        "none": "finished",
        "kill": "finished",
        "memory": "finished",
        "raise": "failed",
        "nan": "refused",
    }
    for fault in ("kill", "memory"):
        assert (tmp_path / fault).exists() and rows[fault].failures == 1
        assert digest_of(result, rows[fault]) == digest_of(result, rows["none"])
        assert "resumed from" in (result.folder / rows[fault].checkpoint / "run.log").read_text()
    assert rows["raise"].failures == 2 and rows["raise"].reason == "ArithmeticError: made to fail"
    assert rows["raise"].epochs == 2 and rows["raise"].rank is None
    assert rows["nan"].failures == 0 and "training loss is nan in epoch 3" in rows["nan"].reason
    assert rows["nan"].rank is None
    assert "made to fail" in result.table()
    table = (result.folder / "trials.csv").read_text()
    assert "made to fail" in table and "training loss is nan" in table


def test_when_every_trial_fails(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    space = {"learning_rate": {"choice": [0.1]}, "fault": "nan", "marker": str(tmp_path), "delay": 0}
    with pytest.raises(UserError, match=r"none of the 1 trials of .* can be chosen; .*training loss is nan"):
        tune(MODEL, "small", space, TINY, data_path=small_data, storage_path=tmp_path / "sweeps", num_trials=1)
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert (folder / "trials.csv").is_file() and not (folder / "tune_result.json").exists()


SEARCH = ("--num_trials=4", "--max_concurrent=1", "--scheduler=asha", "--grace_period=4")


def start_driver(
    address: str | None,
    data: Path,
    place: Path,
    delay: float,
    *,
    rates: str = "{loguniform: [1e-3, 1e-1]}",
    search: Sequence[str] = SEARCH,
) -> subprocess.Popen[str]:
    """A sweep in a process of its own: four trials, one at a time, unless `search` says otherwise. Without an address
    it starts a Ray of its own."""
    place.mkdir(exist_ok=True)
    space = place / "space.yaml"
    space.write_text(f"learning_rate: {rates}\nfault: none\nmarker: {place}\ndelay: {delay}\n")
    keys = [f"--{key}={value}".replace(" ", "") for key, value in TINY.items()]
    command = [
        sys.executable, "-m", "recbole_diffusion", f"--model={MODEL}", "--dataset=small", f"--data_path={data}",
        f"--tune={space}", f"--storage_path={place / 'sweeps'}", *search, *keys,
        *([] if address is None else [f"--ray_address={address}"]),
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=driver_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def reports(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Trial -> what it has reported, from Ray's state of the experiment."""
    found = {}
    for file in folder.glob("trial_*/result.json"):
        lines = file.read_text().splitlines()
        found[file.parent.name.removeprefix("trial_")] = [json.loads(line) for line in lines if line.endswith("}")]
    return found


def wait_for_the_middle(driver: subprocess.Popen[str], place: Path, finished: int = 1) -> Path:
    """Wait until so many trials are finished and the next has a checkpoint; the sweep's folder."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        for folder in (place / "sweeps").glob("*"):
            epochs = sorted(max((row["epoch"] for row in rows), default=0) for rows in reports(folder).values())
            if len(epochs) == finished + 1 and epochs[1:] == [4] * finished and 1 <= epochs[0] < 4:
                return folder
        time.sleep(0.05)
    raise TimeoutError("the sweep did not come to its middle")


def test_the_driver_is_killed_and_the_sweep_resumed(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of the second of four trials; what ends is what would have ended without."""
    driver = start_driver(ray_cluster, small_data, tmp_path / "cut", delay=0.3)
    folder = wait_for_the_middle(driver, tmp_path / "cut")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = reports(folder)
    finished = next(trial for trial, rows in before.items() if rows[-1]["epoch"] == 4)

    result = tune(resume=folder)
    assert {row.state for row in result.trials} == {"finished"} and len(result.trials) == 4
    after = reports(folder)
    assert after[finished] == before[finished]  # not trained again
    (cut,) = set(before) - {finished}
    row = next(row for row in result.trials if row.trial == cut)
    assert "resumed from" in (folder / row.checkpoint / "run.log").read_text()
    assert [report["epoch"] for report in after[cut]] == sorted(report["epoch"] for report in after[cut])

    other = start_driver(ray_cluster, small_data, tmp_path / "whole", delay=0)
    assert other.wait(timeout=300) == 0, other.communicate()
    (whole,) = (tmp_path / "whole" / "sweeps").iterdir()
    expected = json.loads((whole / "tune_result.json").read_text())
    assert [(row.values["learning_rate"], row.score) for row in result.trials] == [
        (row["values"]["learning_rate"], row["score"]) for row in expected["trials"]
    ]
    assert result.test_result == expected["best"]["test_result"]
    got = json.loads((folder / "tune_result.json").read_text())
    assert got["best"]["weights_sha256"] == expected["best"]["weights_sha256"]


def test_a_driver_takes_its_ray_with_it_and_median_stopping_knows_the_trials_of_before(
    ray_cluster: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a driver that started Ray itself, in the third of five trials: nothing of its Ray is left, and the
    fourth trial, which learns nothing, is stopped by comparison with two trials that only the killed driver saw."""
    search = ("--search=grid", "--max_concurrent=1", "--scheduler=median", "--grace_period=1")
    rates = "{choice: [0.03, 0.05, 0.04, 1e-9, 0.02]}"
    driver = start_driver(None, small_data, tmp_path, delay=0.3, rates=rates, search=search)
    folder = wait_for_the_middle(driver, tmp_path, finished=2)
    assert len(processes_of(driver.pid)) > 3  # the driver, Ray's daemons and workers
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until_gone(driver.pid)

    added = MedianStopping.on_trial_add
    known: dict[str, list[tuple[int, float]]] = {}

    def noted(self: MedianStopping, controller: Any, trial: Any) -> None:
        added(self, controller, trial)
        if trial in self._results:
            known[trial.trial_id] = [(one["epoch"], one["score"]) for one in self._results[trial]]

    monkeypatch.setattr(MedianStopping, "on_trial_add", noted)
    before = reports(folder)
    result = tune(resume=folder)
    finished = [trial for trial, rows in before.items() if rows[-1]["epoch"] == 4]
    assert len(finished) == 2 and set(finished) <= set(known)
    for trial in finished:
        assert {*known[trial]} == {(row["epoch"], row["score"]) for row in before[trial]}
    states = {row.values["learning_rate"]: (row.state, row.epochs) for row in result.trials}
    assert states.pop(1e-9) == ("stopped", 1)
    assert {state for state, _ in states.values()} <= {"finished", "stopped"} and states[0.03] == ("finished", 4)


@pytest.mark.slow
def test_population_based_training_goes_on_with_what_a_killed_driver_knew(
    ray_cluster: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ("--num_trials=4", "--max_concurrent=2", "--scheduler=pbt", "--perturbation_interval=1")
    driver = start_driver(None, small_data, tmp_path, delay=0.3, search=search)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        found = [reports(folder) for folder in (tmp_path / "sweeps").glob("*")]
        if found and sum(rows[-1]["epoch"] >= 2 for rows in found[0].values() if rows) >= 2:
            break
        time.sleep(0.05)
    time.sleep(1.5)  # Ray writes its state down every second
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until_gone(driver.pid, 150, agents=True)
    (folder,) = (tmp_path / "sweeps").iterdir()

    added = PopulationTraining.on_trial_add
    known: dict[str, Any] = {}

    def noted(self: PopulationTraining, controller: Any, trial: Any) -> None:
        added(self, controller, trial)
        known[trial.trial_id] = self._trial_state[trial]

    monkeypatch.setattr(PopulationTraining, "on_trial_add", noted)
    at_restore: dict[str, tuple[float | None, int]] = {}
    restored = PopulationTraining.restore
    counted: list[int] = []

    def read(self: PopulationTraining, path: str) -> None:
        restored(self, path)
        counted.append(self._num_checkpoints + self._num_perturbations)
        at_restore.update(
            {trial: (one["last_score"], one["last_perturbation_time"]) for trial, one in self._kept.items()}
        )

    monkeypatch.setattr(PopulationTraining, "restore", read)
    before = reports(folder)
    result = tune(resume=folder)
    assert counted and counted[0] > 0
    assert sum(time_ >= 1 for _, time_ in at_restore.values()) >= 2
    for trial, (score, _) in at_restore.items():
        assert score is None or score in [row["score"] for rows in before.values() for row in rows], trial
    assert set(at_restore) <= set(known)
    assert {row.state for row in result.trials} == {"finished"} and len(result.trials) == 4


@pytest.mark.slow
def test_the_head_is_killed_and_the_sweep_resumed(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    """Ray's own processes are killed under a driver: it ends, since Ray ends it, and the sweep goes on with another."""
    driver = start_driver(None, small_data, tmp_path, delay=0.3)
    folder = wait_for_the_middle(driver, tmp_path)
    for pid, name in processes_of(driver.pid).items():
        if name in ("gcs_server", "raylet"):
            os.kill(pid, signal.SIGKILL)
    driver.communicate(timeout=180)
    assert driver.returncode not in (0, None) and not (folder / "tune_result.json").exists()
    wait_until_gone(driver.pid)
    before = reports(folder)
    finished = [trial for trial, rows in before.items() if rows and rows[-1]["epoch"] == 4]
    assert finished
    result = tune(resume=folder)
    assert {row.state for row in result.trials} == {"finished"} and len(result.trials) == 4
    after = reports(folder)
    assert all({row["score"] for row in after[trial]} == {row["score"] for row in before[trial]} for trial in finished)


def test_ctrl_c_says_how_to_go_on(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    # in the last trial, when none waits: Ray calls it terminated then, as if a scheduler had stopped it
    search = ("--num_trials=2", "--max_concurrent=1")
    driver = start_driver(ray_cluster, small_data, tmp_path, delay=0.3, search=search)
    folder = wait_for_the_middle(driver, tmp_path)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert errors.splitlines()[-1].endswith(f"tune --resume={folder}")
    assert "Traceback" not in errors and not (folder / "tune_result.json").exists()
    result = tune(storage_path=tmp_path / "sweeps", resume=True)
    assert result.folder == folder and [(row.state, row.epochs) for row in result.trials] == [("finished", 4)] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a disk")
def test_a_full_disk(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    """Checkpoints that no longer fit fail their trials; with room again the sweep goes on where it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        ballast = disk / "ballast"
        space = {"learning_rate": {"choice": [0.01, 0.02]}, "fault": "none", "marker": str(tmp_path), "delay": 0.0}
        ballast.write_bytes(b"0" * (3 * 2**20))  # too little left for what one trial keeps
        with pytest.raises(UserError) as caught:
            tune(
                MODEL, "small", space, TINY, data_path=small_data, storage_path=disk / "sweeps", num_trials=2,
                search_seed=3, max_failures=0, show_progress=False,
            )  # fmt: skip
        assert "\n" not in str(caught.value)
        assert "No space left" in str(caught.value)
        ballast.unlink()
        (folder,) = (disk / "sweeps").iterdir()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        result = tune(resume=folder)
        assert [row.state for row in result.trials] == ["finished", "finished"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
