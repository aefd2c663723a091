"""The cost of a step in each of several workers is printed for a small run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "workers_step_cost.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of threads from /proc")
def test_the_script_prints_its_four_figures(small_data: Path) -> None:
    words = [f"--data_path={small_data}", "--dataset=small", "--train_batch_size=40", "--steps=4", "--hidden_size=8"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("REMI, 40 rows")
    one, share, several, bound = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in lines]
    assert one[0] > 0 and share[0] > 0 and several[1] > 0
    assert bound[0] == pytest.approx(one[0] / sum(several), rel=0.1)
