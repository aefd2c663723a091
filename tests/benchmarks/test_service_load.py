"""The load generator against a server whose answers are known; latencies, memory, the table."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import render
import service_load
from service_load_table import render_service_load

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "service_load.py"


class Server:
    """Answers the nth request as it is told, over kept connections; sees how many are under way."""

    def __init__(self, answer: Callable[[int], tuple[int, bytes]]) -> None:
        self.answer = answer
        self.asked, self.under_way, self.most, self.connections = 0, 0, 0, 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await self.head(reader):
            length = next((int(line[15:]) for line in head if line.lower().startswith(b"content-length:")), 0)
            await reader.readexactly(length)
            if head[0].startswith(b"GET"):
                status, body = 200, b'process_resident_memory_bytes 2097152.0\nlabelled{a="b"} 1.0\n'
            else:
                self.asked += 1
                number = self.asked
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await asyncio.sleep(0.001)
                self.under_way -= 1
                status, body = self.answer(number)
            if status == 0:  # breaks off
                break
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        writer.close()
        self.connections -= 1

    @staticmethod
    async def head(reader: asyncio.StreamReader) -> list[bytes]:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).splitlines()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return []


def test_every_error_is_counted_and_no_more_ask_at_a_time_than_there_are_clients() -> None:
    good = b'{"items":["a"],"scores":[1.0]}'
    answers = {3: (503, b'{"error":"full"}'), 5: (200, b'{"items":[],"scores":[]}'), 9: (0, b"")}
    server = Server(lambda number: answers.get(number, (200, good)))

    async def main() -> Any:
        listening = await asyncio.start_server(server.connection, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with service_load.sender(f"http://127.0.0.1:{port}", 4) as send:
            found = await service_load.ask(send, [b"{}"], 40, 4, sample=10)
        listening.close()
        while server.connections:
            await asyncio.sleep(0.001)
        return found

    seconds, errors, memory = asyncio.run(main())
    assert len(seconds) == 37 and all(0.001 <= value < 30 for value in seconds)
    assert errors["status 503"] == 1 and errors["no items"] == 1 and errors.total() == 3
    assert server.asked == 40 and server.most == 4
    assert memory == [(10, 2.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_latencies_and_memory_by_hand() -> None:
    seconds = [number / 1000 for number in range(1, 101)]
    assert service_load.latencies(seconds) == {"p50_ms": 51.0, "p99_ms": 100.0, "max_ms": 100.0}
    assert service_load.latencies([]) == {"p50_ms": None, "p99_ms": None, "max_ms": None}
    memory = [
        [0, 50.0],
        [1, 60.0],
        *([place, 100.0] for place in range(2, 10)),
        *([place, 102.0] for place in range(10, 20)),
    ]
    found = service_load.growth(memory)
    assert found == {"first_mib": 100.0, "last_mib": 102.0, "max_mib": 102.0, "growth_mib": 2.0}


def test_bodies_are_drawn_from_the_items_and_the_same_each_time() -> None:
    bodies = service_load.bodies(["a", "b"], 5, 7)
    assert bodies == service_load.bodies(["a", "b"], 5, 7) and len(set(bodies)) > 30
    histories = [json.loads(body) for body in bodies]
    assert {len(one["history"]) for one in histories} == {1, 2, 3, 4, 5} and {one["k"] for one in histories} == {7}
    assert {item for one in histories for item in one["history"]} == {"a", "b"}


def test_the_table() -> None:
    one = {
        "clients": 8, "requests": 5000, "per_second": 812.3, "p50_ms": 9.26, "p99_ms": 20.0, "max_ms": 31.0,
        "errors": {}, "batch": 4.0, "batch_ms": 5.0, "service_cores": 1.1, "generator_cores": 0.5,
    }  # fmt: skip
    memory = {"first_mib": 400.0, "last_mib": 402.0, "max_mib": 403.0, "growth_mib": 2.0, "memory": []}
    raw = {
        "served": {"model": "DiffuRec", "dataset": "made", "items": 2000},
        "settings": {"serve": ["max_batch=8"], "longest_history": 50, "k": 10, "trained_now": True, "try_out": False},
        "machine": {
            "processor": "a processor", "cores": 2, "python": "3.11", "torch": "2.13",
            "load": {"average_before": [0.1, 0.2, 0.3]},
        },
        "loads": [one],
        "soak": {**one, "clients": 32, "requests": 100_000, "errors": {"status 503": 2}, **memory},
        "versions": {"uvicorn": "0.54"}, "generator": "httpx 0.28", "command": "c", "code_version": "abc",
        "measured": "now",
    }  # fmt: skip
    text = render_service_load(raw, "service_load")
    assert "| 8 | 5,000 | 812 | 9.3 | 20.0 | 31.0 | 0 | 4.0 | 1.10 | 0.50 |" in text
    assert "| 32, the soak | 100,000 |" in text and "| 2 status 503 |" in text
    assert "400.0 MiB after the first tenth, 402.0 MiB at the end (+2.0 MiB, +0.50 %), 403.0 MiB at most" in text
    assert "mean nothing" not in text and render.RENDERERS["service_load"] is render_service_load
    assert "Memory of the service" not in render_service_load({**raw, "soak": None}, "service_load")


@pytest.mark.parametrize("word", ["--clients=1,0", "--requests=0"])
def test_numbers_from_one(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        service_load.arguments([word])
    assert "numbers must be 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_measurement(tmp_path: Path) -> None:
    path = tmp_path / "service_load.json"
    command = [sys.executable, str(SCRIPT), f"--output={path}", "--try_out", "--serve=max_batch=16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert [one["clients"] for one in raw["loads"]] == [1, 8, 32] and raw["soak"]["requests"] == 300
    assert all(one["errors"] == {} and one["per_second"] > 0 for one in [*raw["loads"], raw["soak"]])
    assert raw["loads"][0]["batch"] == 1 < raw["loads"][2]["batch"] <= 16
    render.write(tmp_path)
    assert "mean nothing" in (tmp_path / "service_load.md").read_text(encoding="utf-8")
