"""`recbole-diff serve` under load: requests a second, latencies, errors, and its memory over many requests.

    python benchmarks/service_load.py [--checkpoint=RUN_FOLDER] [--serve=KEY=VALUE ...]     a few minutes
    python benchmarks/service_load.py --try_out                                             the numbers mean nothing

The service is a process of its own on a loopback port; this process sends the requests, over as many kept connections
as there are clients, each of which asks again when it is answered: at most `--clients` requests are under way. Then
`--soak` requests more, while the service's resident memory is read from its own /metrics. Histories are drawn from the
run's items with a seed. Both share the machine's cores, so the load generator's own share of a core is measured, too:
near 1 it is the generator that is slow, and not the service. It is aiohttp where that is installed, else httpx, which
takes several times the work for a request.

Without `--checkpoint` a small DiffuRec is trained on made data first.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import pyarrow.parquet  # noqa: E402
import torch  # noqa: E402
from measuring import Load, Progress, code_version, command_line, machine, now, say  # noqa: E402

BODIES = 2048  # different requests, sent in turns
SAMPLES = 100  # of memory in a soak
WARM = 0.1  # share of a soak's samples that are left out of what is compared
JSON = {"Content-Type": "application/json"}


class Sender(Protocol):
    """A client of HTTP."""

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Ask for recommendations; status and body of the answer."""

    async def get(self, path: str) -> str:
        """Another path of the service."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The service under load.")
    parser.add_argument("--checkpoint", help="a run's folder (default: a small run, trained now)")
    parser.add_argument("--serve", action="append", default=[], metavar="KEY=VALUE", help="a key of the service")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients, one load each (%(default)s)")
    parser.add_argument("--requests", type=int, default=5000, help="of a load (%(default)s)")
    parser.add_argument("--soak", type=int, default=100_000, help="requests of the soak, 0 for none (%(default)s)")
    parser.add_argument("--soak_clients", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--history", type=int, default=50, help="items of the longest history (%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="items asked for (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="few requests, to see that it runs")
    parser.add_argument("--output", default=str(HERE / "results" / "service_load.json"), help="(%(default)s)")
    options = parser.parse_args(given)
    if options.try_out:
        options.requests, options.soak = 60, 300
    options.clients = [int(number) for number in options.clients.split(",")]
    if min([*options.clients, options.soak_clients, options.requests, options.history, options.k]) < 1:
        parser.error("numbers must be 1 or more")
    return options


# the service ----------------------------------------------------------------------------------------------------------


def small_run(folder: Path) -> Path:
    """A DiffuRec of 2,000 items, trained for one epoch on made data."""
    draw = random.Random(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(1000):
        item = draw.randrange(2000)
        for step in range(draw.randrange(5, 30)):
            lines.append(f"u{user}\ti{item}\t{step}")
            item = (item + 1) % 2000 if draw.random() < 0.8 else draw.randrange(2000)
    (folder / "data" / "made").mkdir(parents=True)
    (folder / "data" / "made" / "made.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = {
        "model": "DiffuRec", "dataset": "made", "data_path": folder / "data", "output": folder / "runs", "epochs": 1,
        "hidden_size": 64, "n_layers": 2, "num_steps": 16, "item_init_std": 0.02, "MAX_ITEM_LIST_LENGTH": 50,
        "use_gpu": False, "show_progress": False,
    }  # fmt: skip
    words = [f"--{key}={value}" for key, value in keys.items()]
    subprocess.run([sys.executable, "-m", "recbole_diffusion", "run", *words], cwd=HERE.parent, check=True)
    (run,) = (folder / "runs").iterdir()
    return run


@contextmanager
def serving(checkpoint: Path, keys: Sequence[str]) -> Iterator[str]:
    """A service in a process of its own; its address.

    Raises:
        RuntimeError: it does not start, or does not end as it should.
    """
    words = ["serve", f"--checkpoint={checkpoint}", "--port=0", *(f"--{key}" for key in keys)]
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_diffusion", *words], cwd=HERE.parent, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("serving "):
            raise RuntimeError("the service did not start")
        yield line.split()[-1]
        process.terminate()
        if process.wait(60) != 0:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# the load generator ---------------------------------------------------------------------------------------------------


def library() -> str:
    """What requests are sent with."""
    return "aiohttp" if importlib.util.find_spec("aiohttp") else "httpx"


@asynccontextmanager
async def sender(url: str, clients: int) -> AsyncIterator[Sender]:
    """A client with kept connections."""
    if library() == "aiohttp":
        import aiohttp

        session = aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=clients + 1))

        class Aiohttp:
            async def post(self, body: bytes) -> tuple[int, bytes]:
                async with session.post("/recommend", data=body, headers=JSON) as answer:
                    return answer.status, await answer.read()

            async def get(self, path: str) -> str:
                async with session.get(path) as answer:
                    return await answer.text()

        async with session:
            yield Aiohttp()
        return
    import httpx

    client = httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=clients + 1))

    class Httpx:
        async def post(self, body: bytes) -> tuple[int, bytes]:
            answer = await client.post("/recommend", content=body, headers=JSON)
            return answer.status_code, answer.content

        async def get(self, path: str) -> str:
            return (await client.get(path)).text

    async with client:
        yield Httpx()


def bodies(tokens: Sequence[str], longest: int, k: int) -> list[bytes]:
    """Different requests, drawn with a seed."""
    draw = random.Random(0)
    histories = [[draw.choice(tokens) for _ in range(draw.randint(1, longest))] for _ in range(BODIES)]
    return [json.dumps({"history": history, "k": k}).encode() for history in histories]


async def ask(
    send: Sender, sent: Sequence[bytes], requests: int, clients: int, sample: int = 0
) -> tuple[list[float], Counter[str], list[tuple[int, float]]]:
    """Send requests, as many at a time as there are clients.

    Args:
        send: the client.
        sent: bodies, sent in turns.
        requests: how many.
        clients: how many at a time.
        sample: after how many requests the service's memory is read; 0 for never.

    Returns:
        seconds of each request that was answered with items, errors by kind, and (requests, MiB) of memory.
    """
    seconds: list[float] = []
    errors: Counter[str] = Counter()
    memory: list[tuple[int, float]] = []
    left = iter(range(requests))
    each = itertools.cycle(sent)
    done = 0

    async def client() -> None:
        nonlocal done
        for _ in left:  # shared: who is answered takes the next
            began = time.perf_counter()
            try:
                status, body = await send.post(next(each))
            except Exception as error:  # of the transport: whatever a client library calls it
                errors[type(error).__name__] += 1
            else:
                if status == 200 and body.startswith(b'{"items":["'):
                    seconds.append(time.perf_counter() - began)
                else:
                    errors[f"status {status}" if status != 200 else "no items"] += 1
            done += 1
            if sample and done % sample == 0:
                memory.append((done, (await metrics(send))["process_resident_memory_bytes"] / 2**20))

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds, errors, memory


async def metrics(send: Sender) -> dict[str, float]:
    """What the service counts, samples without labels."""
    lines = (await send.get("/metrics")).splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines if line and not line.startswith("#"))
        if "{" not in name
    }


async def load(url: str, sent: Sequence[bytes], requests: int, clients: int, sample: int = 0) -> dict[str, Any]:
    """One load: a tenth of the requests to warm up, then all of them, timed."""
    async with sender(url, clients) as send:
        await ask(send, sent, max(requests // 10, clients) if not sample else clients, clients)
        before, began, own = await metrics(send), time.perf_counter(), time.process_time()
        seconds, errors, memory = await ask(send, sent, requests, clients, sample)
        wall, own = time.perf_counter() - began, time.process_time() - own
        after = await metrics(send)
    counted = {name: after[name] - before[name] for name in before}
    return {
        "clients": clients,
        "requests": requests,
        **latencies(seconds),
        "per_second": round(len(seconds) / wall, 1),
        "errors": dict(errors),
        "batch": round(counted["recbole_diff_batch_histories_sum"] / counted["recbole_diff_batch_histories_count"], 2),
        "batch_ms": round(
            1000 * counted["recbole_diff_batch_seconds_sum"] / counted["recbole_diff_batch_seconds_count"], 2
        ),
        "service_cores": round(counted["process_cpu_seconds_total"] / wall, 2),
        "generator_cores": round(own / wall, 2),
        **({"memory": [[count, round(mib, 2)] for count, mib in memory]} if sample else {}),
    }


def latencies(seconds: Sequence[float]) -> dict[str, float | None]:
    """Milliseconds: the middle one, that of 99 in 100, the slowest."""
    if not seconds:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    p50, p99 = np.quantile(seconds, [0.5, 0.99], method="higher")
    return {
        name: round(1000 * float(value), 2)
        for name, value in (("p50_ms", p50), ("p99_ms", p99), ("max_ms", max(seconds)))
    }


def growth(memory: Sequence[Sequence[float]]) -> dict[str, float]:
    """What memory came to: the mean of the first tenth of the samples after warming up, that of the last tenth."""
    values = [mib for _, mib in memory]
    values = values[int(len(values) * WARM) :]
    tenth = max(len(values) // 10, 1)
    first, last = float(np.mean(values[:tenth])), float(np.mean(values[-tenth:]))
    return {
        "first_mib": round(first, 2),
        "last_mib": round(last, 2),
        "max_mib": round(max(values), 2),
        "growth_mib": round(last - first, 2),
    }


def main() -> None:
    """Measure and write the JSON."""
    options = arguments()
    busy = Load()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(options.checkpoint) if options.checkpoint else small_run(Path(scratch))
        items = (run / "best" if run.is_dir() else run.parent) / "items.parquet"
        tokens = pyarrow.parquet.read_table(items).column("item_id").to_pylist()
        sent = bodies(tokens, options.history, options.k)
        progress = Progress("loads", len(options.clients) + (options.soak > 0))
        with serving(run, options.serve) as url:
            loads = []
            for clients in options.clients:
                loads.append(asyncio.run(load(url, sent, options.requests, clients)))
                progress.step(f"{clients} clients, {loads[-1]['per_second']} requests a second")
            soak = None
            if options.soak:
                every = max(options.soak // SAMPLES, 1)
                soak = asyncio.run(load(url, sent, options.soak, options.soak_clients, every))
                soak.update(growth(soak["memory"]))
                progress.step(f"soak, memory grew by {soak['growth_mib']} MiB")
            served = asyncio.run(health(url))
    result = {
        "benchmark": "service_load",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE),
        "served": served,
        "generator": f"{library()} {importlib.metadata.version(library())}",
        "versions": {name: importlib.metadata.version(name) for name in ("fastapi", "starlette", "uvicorn")},
        "settings": {
            "serve": options.serve,
            "longest_history": options.history,
            "k": options.k,
            "trained_now": options.checkpoint is None,
            "try_out": options.try_out,
        },
        "loads": loads,
        "soak": soak,
        "machine": {**machine(torch.device("cpu")), "load": busy.report()},
    }
    path = Path(options.output)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"written: {path}; render it with: python benchmarks/render.py")


async def health(url: str) -> dict[str, Any]:
    """What is served."""
    async with sender(url, 1) as send:
        served: dict[str, Any] = json.loads(await send.get("/health"))
    return served


if __name__ == "__main__":
    main()
