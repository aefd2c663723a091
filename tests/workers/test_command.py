"""Two workers from the command line, each with a Ray of its own: interrupted, killed, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.leftovers import processes_of, wait_until_gone

from .conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
KEYS = {**TINY, "num_workers": 2, "show_progress": True, "hidden_size": 64, "num_steps": 32, "epochs": 4}


# a process that a shell started in the background ignores Ctrl-C, and hands that on
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from recbole_diffusion.command_line import main
sys.exit(main())
"""


def command(*words: str, code: str | None = None) -> list[str]:
    return [sys.executable, *(("-m", "recbole_diffusion") if code is None else ("-c", code)), *words]


def start(*words: str) -> subprocess.Popen[str]:
    """The command line in a session of its own, so that a signal reaches it alone."""
    return subprocess.Popen(
        command(*words, code=INTERRUPTIBLE),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def words_of_a_run(small_data: Path, output: Path) -> list[str]:
    keys = [f"--{key}={value}" for key, value in KEYS.items()]
    return ["--model=DiffuRec", "--dataset=small", f"--data_path={small_data}", f"--output={output}", *keys]


def wait_for(output: Path, text: str, process: subprocess.Popen[str], seconds: float = 900.0) -> Path:
    """The run's folder, once its log has the text."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for log in output.glob("*/run.log"):
            if text in log.read_text():
                return log.parent
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no '{text}' in the log: {process.communicate()}")


@pytest.fixture(scope="module")
def undisturbed(own_cache: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    done = start(*words_of_a_run(small_data, output))
    shown, log = done.communicate(timeout=900)
    assert done.returncode == 0, log
    assert "epoch 4/4  loss" in log and "best epoch" in shown and log.count("epoch 2/4  loss") == 1
    assert "Traceback" not in log and "ray" not in log.lower().replace(str(output).lower(), "").replace("array", "")
    (folder,) = output.iterdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_cut_and_resumed_it_ends_as_an_undisturbed_run(
    undisturbed: Path, small_data: Path, tmp_path: Path, how: signal.Signals
) -> None:
    process = start(*words_of_a_run(small_data, tmp_path))
    folder = wait_for(tmp_path, "epoch 1/4", process)
    process.send_signal(how)
    _, log = process.communicate(timeout=300)
    if how == signal.SIGKILL:
        assert processes_of(process.pid), "its Ray ended before anybody looked"
    if how == signal.SIGINT:
        assert process.returncode == 130, log
        assert f"--resume={folder}" in log.splitlines()[-1] and "Traceback" not in log
        assert not (folder / "workers").exists()
    assert not (folder / "result.json").exists()
    resumed = start(f"--resume={folder}")  # at once: workers that a killed process left behind must give way
    _, log = resumed.communicate(timeout=900)
    assert resumed.returncode == 0, log
    for started in (process, resumed):
        wait_until_gone(started.pid)
    for name in ("last/checkpoint.state", "best/model.safetensors"):
        one, two = load_file(undisturbed / name), load_file(folder / name)
        assert set(one) == set(two)
        assert all((one[key] == two[key]).all() for key in one if "generator" not in key), name
    assert not (folder / "workers").exists()


def test_without_ray_one_line_says_what_to_install(small_data: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from recbole_diffusion.command_line import main; sys.exit(main())"
    words = words_of_a_run(small_data, tmp_path / "runs")
    done = subprocess.run(
        command(*words, code=code), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "pip install 'recbole-diffusion[ray]'" in line and "num_workers" in line
    assert not (tmp_path / "runs").exists()


def test_a_class_of_the_program_itself_is_refused_before_ray_starts(small_data: Path, tmp_path: Path) -> None:
    code = f"""
import recbole_diffusion
from recbole_diffusion.models.diffurec import DiffuRec
class Mine(DiffuRec):
    pass
try:
    recbole_diffusion.run(Mine, "small", {{"num_workers": 2}}, data_path={str(small_data)!r}, output={str(tmp_path)!r})
except recbole_diffusion.UserError as error:
    print(error)
"""
    done = subprocess.run(command(code=code), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "put the class into a module of its own" in done.stdout, done.stderr
