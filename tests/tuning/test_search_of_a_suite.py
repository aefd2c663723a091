"""A suite that chooses a model's configuration first: one search, gone on with where it was cut, for all seeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbole_diffusion.suites.benchmark import SuiteResult, benchmark
from tests.suites.test_running import wait_for
from tests.tuning.conftest import ROOT, TINY, driver_environment


def suite_file(folder: Path, rates: list[float], delay: float) -> Path:
    space = {"learning_rate": {"grid": rates}, "fault": "none", "marker": str(folder), "delay": delay}
    (folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    model = {"model": "tests.tuning.faults:Faulty", "search": {"space": "space.yaml", "num_trials": 1}}
    facts = {"datasets": ["small"], "seeds": [1, 2], "settings": TINY, "models": {"searched": model}}
    file = folder / "suite.yaml"
    file.write_text(yaml.safe_dump(facts), encoding="utf-8")
    return file


def made(result: SuiteResult) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in result.folder.rglob("result.json")}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a run ends with its parent on Linux")
def test_a_search_is_gone_on_with_and_serves_every_seed(
    ray_cluster: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in driver_environment().items():
        monkeypatch.setenv(name, value)
    rates = [1e-5, 1e-2]
    file = suite_file(tmp_path, rates, delay=0.3)
    words = [f"--data_path={small_data}", f"--output={tmp_path / 'out'}", "--threads=1", f"--ray_address={ray_cluster}"]
    command = [sys.executable, "-m", "recbole_diffusion", "benchmark", str(file), *words]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, start_new_session=True)
    checkpoint = wait_for("trial_*/checkpoint_000000", tmp_path / "out")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and "the same command goes on" in said
    sweep = checkpoint.parents[1]
    assert not (sweep / "tune_result.json").exists()

    place = {"data_path": small_data, "output": tmp_path / "out", "threads": 1, "show_progress": False}
    place["ray_address"] = ray_cluster
    result = benchmark(file, **place)  # type: ignore[arg-type]
    result.check()
    assert [path.parent for path in result.folder.rglob("sweep.json")] == [sweep]  # the same one, gone on with
    facts = json.loads((sweep / "tune_result.json").read_text(encoding="utf-8"))
    scores = {row["values"]["learning_rate"]: row["score"] for row in facts["trials"]}
    assert set(scores) == set(rates)
    best = max(scores, key=lambda rate: scores[rate])
    assert [run.seed for run in result.runs] == [1, 2]
    for run in result.runs:
        assert run.run_folder is not None
        config = yaml.safe_load((run.run_folder / "config.yaml").read_text(encoding="utf-8"))
        # what was drawn, and what the space fixes
        assert (config["learning_rate"], config["fault"], config["seed"]) == (best, "none", run.seed)
    before = made(result)
    again = benchmark(file, **place)  # type: ignore[arg-type]
    assert not again.outcomes and made(again) == before
