"""`serve`: a real process on a real socket until a signal comes, and what is refused before."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from recbole_diffusion import serve_command
from recbole_diffusion.command_line import main
from recbole_diffusion.service import server as server_module
from recbole_diffusion.service.server import is_loopback, open_socket, url_of
from recbole_diffusion.training.checkpoint import HEADER_KEY
from tests.recommendation.conftest import Train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_folder(trained: Train) -> Path:
    return trained("DiffuRec").folder


class Process:
    """`recbole-diff serve` in a process of its own."""

    def __init__(self, run: Path, *words: str) -> None:
        command = [sys.executable, "-m", "recbole_diffusion", "serve", f"--checkpoint={run}", "--port=0", *words]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.url = ""

    def ready(self) -> None:
        """Wait for the line that says where."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving DiffuRec on small, 40 items, at http://127.0.0.1:"), self.process.stderr
        self.url = line.split()[-1]

    def ask(self, history: list[str]) -> httpx.Response:
        return httpx.post(f"{self.url}/recommend", json={"history": history, "k": 3}, timeout=600)

    def taken(self) -> int:
        """Requests for recommendations that are in the service or were answered."""
        counted = ("recbole_diff_requests_in_service ", "recbole_diff_request_seconds_count ")
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(counted))

    def end(self) -> tuple[int, str, str]:
        """Exit code, what it printed after the first line, what it logged."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_signal_in_the_middle_of_a_request(run_folder: Path) -> None:
    """What was taken is answered, and the exit is a success; what takes longer than `stop_timeout` is refused."""
    long = "--request_timeout=600"  # a busy machine must not end what is to be waited for
    patient = Process(run_folder, "--n_eval_samples=30", "--stop_timeout=600", long)  # about half a second a batch
    hasty = Process(run_folder, "--n_eval_samples=100", "--stop_timeout=0.01", long)
    try:
        with ThreadPoolExecutor(4) as clients:
            asked = {}
            for process, sign in ((patient, signal.SIGTERM), (hasty, signal.SIGINT)):
                process.ready()
                assert httpx.get(f"{process.url}/health", timeout=60).json()["status"] == "ready"
                asked[process] = [clients.submit(process.ask, ["i1"])]
                wait_for(lambda: process.taken() == 1)  # noqa: B023 - called here
                asked[process].append(clients.submit(process.ask, ["i2", "i3"]))
                wait_for(lambda: process.taken() == 2)  # noqa: B023
                process.process.send_signal(sign)
            answers = [client.result() for client in asked[patient]]
            assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
            assert all(len(answer.json()["items"]) == 3 for answer in answers)
            code, out, err = patient.end()
            assert (code, out) == (0, "stopped\n") and "Traceback" not in err, err
            assert "/health says when it is ready" in err
            with pytest.raises(httpx.ConnectError):
                patient.ask(["i1"])
            late = asked[hasty][1].result()
            assert (late.status_code, late.json()) == (503, {"error": "the service is stopping"})
            code, out, err = hasty.end()
            assert (code, out) == (0, "stopped\n") and "Traceback" not in err, err
            assert "not answered within 0.01 s (stop_timeout), and refused" in err
    finally:
        for process in (patient, hasty):
            process.process.kill()
            process.process.communicate()


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(server_module.os, "_exit", end)
    calls: list[Any] = []

    class Loop:
        def call_soon_threadsafe(self, call: Any) -> None:
            calls.append(call)

    server = server_module._Server(server_module.uvicorn.Config("nothing", log_config=None), None)  # type: ignore[arg-type]
    server.loop = Loop()  # type: ignore[assignment]
    server.handle_exit(signal.SIGTERM, None)
    assert len(calls) == 1 and not server.should_exit
    with pytest.raises(Ended) as caught:
        server.handle_exit(signal.SIGINT, None)
    assert caught.value.args == (130,) and capsys.readouterr().err == "ended at once\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_the_command_in_this_process(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its handlers of signals and of the log are gone afterwards."""
    before = [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: list[Any] = []

    def ask() -> None:
        def answers() -> bool:
            try:
                found.append(httpx.get(f"http://127.0.0.1:{port}/health", timeout=60))
            except httpx.TransportError:
                return False
            return found[-1].status_code == 200

        wait_for(answers)
        found.append(httpx.post(f"http://127.0.0.1:{port}/recommend", json={"history": ["i1"]}, timeout=60))
        os.kill(os.getpid(), signal.SIGINT)

    hand = threading.Thread(target=ask)
    hand.start()
    assert main(["serve", f"--checkpoint={run_folder}", f"--port={port}", "--use_gpu=False", "--access_log"]) == 0
    hand.join()
    assert found[-1].status_code == 200 and "server" not in found[-1].headers
    captured = capsys.readouterr()
    assert captured.out == f"serving DiffuRec on small, 40 items, at http://127.0.0.1:{port}\nstopped\n"
    assert '"POST /recommend HTTP/1.1" 200' in captured.err
    assert [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)] == before


# mistakes -------------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    assert main(["serve", "--port=0", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    *said, line = captured.err.splitlines()
    assert line.startswith("error: ") and all(before.startswith("loading ") for before in said), captured.err
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint=nowhere"], "no checkpoint at nowhere"),
        (["--checkpoint=.", "--max_batch=many"], "--max_batch is 'many'; it must be a whole number"),
        (["--checkpoint=.", "--max_queue=0"], "max_queue is 0; it must be a whole number, 1 or more"),
        (["--checkpoint=.", "--stop_timeout=nan"], "stop_timeout is nan; it must be a number of seconds"),
        (["--checkpoint=.", "--num_threads=0"], "--num_threads is '0'; it must be a whole number, 1 or more"),
        (["--checkpoint=.", "--host=999.1.1.1"], "host is '999.1.1.1', which is no address"),
        (["--checkpoint=.", "--host=192.0.2.1"], "the host is no address of this machine; give one with --host"),
    ],
)
def test_a_key_that_is_wrong_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *words)


def test_a_port_that_is_taken_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--checkpoint=.", f"--port={port}"]) == 2
        line = capsys.readouterr().err
        assert line == (
            f"error: cannot listen on port {port} of 127.0.0.1: another program has it; give another with --port, or 0 "
            "for a free one\n"
        )
    assert main(["serve", "--checkpoint=.", "--port=65536"]) == 2
    assert "port is 65536; it must be from 0, for a free one, to 65535" in capsys.readouterr().err


def test_addresses() -> None:
    with open_socket("localhost", 0) as bound:
        assert is_loopback(bound) and url_of(bound).startswith("http://")
    with open_socket("0.0.0.0", 0) as bound:
        assert not is_loopback(bound)


@pytest.mark.parametrize("package", serve_command.EXTRA)
def test_without_the_extra_one_line_names_it(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def absent(name: str, *given: Any) -> Any:
        if name == package:
            raise ImportError(f"No module named '{name}'")
        return real(name, *given)

    monkeypatch.setattr(importlib, "import_module", absent)
    line = refused(capsys, "--checkpoint=.")
    assert f"serve needs {package}" in line and "pip install 'recbole-diffusion[serve]'" in line


def test_an_index_is_one_line_where_there_is_none(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    line = refused(capsys, f"--checkpoint={copied}", "--retrieval=faiss", "--stale_index=refuse")
    assert "index" in line
    assert "retrieval is 'guess'" in refused(capsys, f"--checkpoint={copied}", "--retrieval=guess")


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def with_facts(copied: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite what a checkpoint says of itself."""
    from safetensors import safe_open

    file = copied / "best" / "model.safetensors"
    with safe_open(file, framework="pt") as stream:
        facts = json.loads(stream.metadata()[HEADER_KEY])
    save_file(load_file(file), file, metadata={HEADER_KEY: change(facts)})


def cut(copied: Path) -> None:
    file = copied / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_items(copied: Path) -> None:
    file = copied / "best" / "items.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_config(copied: Path) -> None:
    with_facts(copied, lambda facts: json.dumps({"epoch": 1}))


def no_json(copied: Path) -> None:
    with_facts(copied, lambda facts: "{")


def no_mapping(copied: Path) -> None:
    with_facts(copied, lambda facts: "[1]")


def unknown_key(copied: Path) -> None:
    with_facts(copied, lambda facts: json.dumps({**facts, "config": {**facts["config"], "key_of_tomorrow": 1}}))


def other_items(copied: Path) -> None:
    with_facts(copied, lambda facts: json.dumps({**facts, "data": {**facts["data"], "ids": "0" * 64}}))


def other_sizes(copied: Path) -> None:
    with_facts(copied, lambda facts: json.dumps({**facts, "config": {**facts["config"], "hidden_size": 16}}))


def without_header(copied: Path) -> None:
    file = copied / "best" / "model.safetensors"
    save_file(load_file(file), file)


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> Any:
        return open, ("sprung", "w")


def pickled(copied: Path) -> None:
    (copied / "best" / "model.safetensors").write_bytes(pickle.dumps(Trap()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors is not a readable checkpoint"),
        (without_header, "holds weights of another program"),
        (without_config, "has no 'config' in its header"),
        (no_json, "has a damaged header"),
        (no_mapping, "has a damaged header"),
        (unknown_key, "key_of_tomorrow"),
        (other_sizes, "model.safetensors does not fit this model and dataset"),
        (other_items, "items.parquet holds the items of another run than"),
        (cut_items, "items.parquet is no readable list of a run's items"),
        (pickled, "model.safetensors is not a readable checkpoint"),
    ],
)
def test_a_checkpoint_that_is_wrong_is_one_line_and_nothing_in_it_is_run(
    copied: Path,
    damage: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(copied)
    damage(copied)
    assert message in refused(capsys, f"--checkpoint={copied}")
    assert not Path("sprung").exists()
