"""A suite's runs as tasks of Ray: the results of one process, and what is lost goes on.

They stand here for the Ray that the tests of this folder share.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import quick_start
from recbole_diffusion.command_line import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.benchmark import SuiteResult, benchmark
from recbole_diffusion.suites.performing import ASKED
from recbole_diffusion.suites.runner import locked

from .conftest import driver_environment

TEXT = """\
datasets: [small]
seeds: 1
settings: {epochs: 2, eval_step: 1, topk: [5, 10], valid_metric: NDCG@10}
models:
  SASRecCE: {settings: {hidden_size: 8, n_layers: 1, n_heads: 1}}
"""


def run(folder: Path, data: Path, text: str = TEXT, **options: Any) -> SuiteResult:
    file = folder / "tiny.yaml"
    file.write_text(text, encoding="utf-8")
    return benchmark(file, data_path=data, output=folder / "out", show_progress=False, **options)


def test_runs_are_those_without_ray(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    made = run(tmp_path, small_data, ray_address=ray_cluster)
    assert [(outcome.name, outcome.reason) for outcome in made.outcomes] == [("SASRecCE on small, seed 1", None)]
    (done,) = made.runs
    folder = done.run_folder
    assert folder is not None and folder.is_relative_to(tmp_path / "out" / "tiny" / "runs" / "small" / "SASRecCE")
    facts = json.loads((folder / "result.json").read_text())
    alone = quick_start.run(config_files=[done.place / ASKED], output=tmp_path / "alone", show_progress=False)
    assert facts["test_result"] == alone.test_result
    again = run(tmp_path, small_data)  # without Ray: the folder is the same, and so is what is finished
    assert [planned.place for planned in again.runs] == [done.place] and not again.outcomes


def worker_of(place: Path) -> int:
    """The process of Ray that a run's process was started by."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "recbole_diffusion.suites.child" in words and any(str(place) in word for word in words):
            return int(words[words.index("recbole_diffusion.suites.child") + 1])
    raise AssertionError(f"nothing runs in {place}")


def wait_for(pattern: str, folder: Path, seconds: float = 120.0) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = sorted(folder.rglob(pattern))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder} after {seconds} s")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a run ends with its parent on Linux")
def test_a_lost_worker_s_run_goes_on_when_it_is_tried_again(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    text = TEXT.replace("epochs: 2", "epochs: 60, stopping_step: 100")
    ended: list[SuiteResult] = []
    thread = threading.Thread(target=lambda: ended.append(run(tmp_path, small_data, text, ray_address=ray_cluster)))
    thread.start()
    folder = wait_for("checkpoint.state", tmp_path / "out").parents[1]
    os.kill(worker_of(folder.parent), signal.SIGKILL)
    thread.join(120)
    (outcome,) = ended[0].outcomes
    assert outcome.reason is not None and outcome.reason.startswith("its worker was lost (")
    assert not (folder / "result.json").exists()
    again = run(tmp_path, small_data, text, ray_address=ray_cluster)
    assert [outcome.reason for outcome in again.outcomes] == [None] and again.runs[0].run_folder == folder
    assert "resumed from" in (folder / "run.log").read_text()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 61


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a run ends with its parent on Linux")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_ends_its_runs(small_data: Path, tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT.replace("epochs: 2", "epochs: 300, stopping_step: 1000"), encoding="utf-8")
    words = ["benchmark", str(file), f"--data_path={small_data}", f"--output={tmp_path / 'out'}", "--ray_address=local"]
    environment = {key: value for key, value in driver_environment().items() if key != "RAY_AUTH_MODE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_diffusion", *words], stderr=subprocess.PIPE, env=environment
    )
    folder = wait_for("checkpoint.state", tmp_path / "out").parents[1]
    process.send_signal(how)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    assert how == signal.SIGKILL or "the same command goes on" in said
    with locked(folder.parent):  # the run's own process has ended
        pass
    assert not (folder / "result.json").exists()
    assert len((folder / "metrics.csv").read_text().splitlines()) > 1


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({"cpus_per_run": 2}, TEXT, "cpus_per_run goes with --ray_address"),
        ({"gpus_per_run": 1}, TEXT, "gpus_per_run goes with --ray_address"),
        ({"ray_address": "local", "cpus_per_run": 0}, TEXT, "cpus_per_run must be a whole number from 1, got 0"),
        ({"ray_address": "local", "gpus_per_run": 1.5}, TEXT, "gpus_per_run must be 0, a share of a GPU"),
        (
            {"ray_address": "local"},
            TEXT.replace("epochs: 2", "epochs: 2, num_workers: 2"),
            "SASRecCE on small, seed 1 has num_workers 2, but with --ray_address each run is one task",
        ),
    ],
)
def test_what_does_not_go_together(
    options: dict[str, Any], text: str, message: str, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, small_data, text, **options)
    assert not (tmp_path / "out" / "tiny" / "runs").exists()


def test_a_run_that_no_machine_has_room_for(
    ray_cluster: str, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT, encoding="utf-8")
    words = ["benchmark", str(file), f"--data_path={small_data}", f"--output={tmp_path / 'out'}"]
    assert main([*words, f"--ray_address={ray_cluster}", "--cpus_per_run=99"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: a run asks for 99 CPU cores, but ") and error.endswith("lower cpus_per_run")
