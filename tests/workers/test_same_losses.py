"""Two workers train as one: the same losses step by step, the same rows, the same metrics of the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.building import write_data

from .cases import cases

ROOT = Path(__file__).resolve().parents[2]
Arm = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arm, list[Arm]]:
    """What one worker did, and what each of two did: three processes, all cases in each."""
    folder = tmp_path_factory.mktemp("arms")
    write_data(folder)
    processes = []
    for name, rank, size in (("one", 0, 1), ("first", 0, 2), ("second", 1, 2)):
        output = folder / f"{name}.json"
        words = [str(folder), str(output), str(rank), str(size), str(folder / "meeting")]
        command = [sys.executable, "-m", "tests.workers.training_arm", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / f"{name}.log").open("w") as log:
            processes.append((output, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)))
    try:
        for output, process in processes:
            assert process.wait(timeout=1500) == 0, output.with_suffix(".log").read_text()[-3000:]
    finally:
        for _, process in processes:
            process.kill()
    one, first, second = (json.loads(output.read_text()) for output, _ in processes)
    return one, [first, second]


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_losses_of_two_workers_equal_those_of_one(arms: tuple[Arm, list[Arm]], name: str) -> None:
    one, both = arms
    assert len(one[name]["losses"]) == 50
    for worker in both:
        assert worker[name]["losses"] == pytest.approx(one[name]["losses"], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_workers_have_the_same_weights_and_buffers(arms: tuple[Arm, list[Arm]], name: str) -> None:
    # bit for bit; one worker's differ where Adam makes steps of the rounding of gradients that ought to be zero
    _, (first, second) = arms
    assert first[name]["weights"] == second[name]["weights"]


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_metrics_of_two_workers_equal_those_of_one(arms: tuple[Arm, list[Arm]], name: str) -> None:
    one, both = arms
    for worker in both:
        assert worker[name]["metrics"] == pytest.approx(one[name]["metrics"], abs=1e-6)


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_each_row_is_seen_once_an_epoch(arms: tuple[Arm, list[Arm]], name: str) -> None:
    one, both = arms
    alone = [sorted(batch) for batch in one[name]["seen"]]
    shared = [sorted(a + b) for a, b in zip(*(worker[name]["seen"] for worker in both), strict=True)]
    assert shared == alone and alone
    rows = [row for batch in shared for row in batch]
    assert len(rows) == len(set(rows))
