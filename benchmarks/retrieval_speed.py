"""One query at a time among a million items: the index of faiss beside a matrix product and top-k.

    python benchmarks/retrieval_speed.py --checkpoint=RUN_FOLDER --data_path=FOLDER
    python benchmarks/retrieval_speed.py --try_out         seconds; the numbers mean nothing

Item vectors are drawn from a Gaussian with the mean and covariance of the run's item vectors and get norms drawn from
theirs (`trained`); queries are the run's user vectors for histories of its validation rows. Beside them stands the hard
case, items and queries from N(0, I) of the same dimension (`gaussian`). Half of the queries build the index, and the
recall that the build goes by is measured with them; the other half is timed, and gives the recall that is reported.

Three sides answer the same queries, one at a time, with the same number of threads, in turns: a matrix product and
`torch.topk`, our exact search, and our search through the index, whose scores are exact. Each case runs in a process of
its own, whose peak memory is taken before and after the index is built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Load, Progress, code_version, command_line, machine, now, resident_peak_mib, say, spread
from torch import Tensor

HERE = Path(__file__).resolve().parent
CASES = ("trained", "gaussian")
SIDES = ("product", "exact", "faiss")
AIMS = {"times_faster": 10.0, "recall": 0.98}
TRY_OUT_DIMENSION = 16


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Queries one at a time: an index of faiss beside exact search.")
    parser.add_argument("--checkpoint", help="run folder whose item and user vectors set the scene")
    parser.add_argument("--data_path", help="folder of its dataset's folder (where it was trained)")
    parser.add_argument("--items", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--queries", type=int, default=2000, help="for building and timing together (%(default)s)")
    parser.add_argument("--k", type=int, default=20, help="items a query, and where recall is measured (%(default)s)")
    parser.add_argument("--kind", default="auto", help="of index: auto, flat, hnsw, pq, ivfpq (%(default)s)")
    parser.add_argument("--recall", type=float, default=AIMS["recall"], help="asked of the build (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of every side (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side (%(default)s)")
    parser.add_argument("--timed", type=int, default=200, help="queries of a measurement (%(default)s)")
    parser.add_argument("--seed", type=int, default=2023, help="(%(default)s)")
    parser.add_argument("--cases", default=",".join(CASES), help="which of them (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "retrieval_speed.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="few items, no run, to see that the command works")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.cases = [name for name in options.cases.split(",") if name]
    if not options.cases or any(name not in CASES for name in options.cases):
        parser.error(f"--cases: some of {', '.join(CASES)}")
    for name in ("items", "k", "threads", "repeats", "timed"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, needs 1 or more")
    if options.queries < 4:
        parser.error(f"--queries: got {options.queries}, needs 4 or more")
    if options.try_out:
        options.items, options.queries, options.repeats, options.timed, options.kind = 3000, 60, 2, 10, "pq"
    elif options.checkpoint is None:
        parser.error("--checkpoint: give a run folder, or --try_out")
    return options


# what is searched -----------------------------------------------------------------------------------------------------


def run_vectors(options: argparse.Namespace) -> tuple[np.ndarray, Tensor, str, dict[str, Any]]:
    """Item vectors (V, D) of the run, user vectors (Q, K, D), how they are compared, and what to say of the run."""
    if options.try_out:
        draw = np.random.default_rng(options.seed)
        table = draw.standard_normal((500, TRY_OUT_DIMENSION)) * np.linspace(0.2, 1.0, TRY_OUT_DIMENSION) + 0.1
        users = draw.standard_normal((options.queries, 1, TRY_OUT_DIMENSION))
        return table.astype(np.float32), torch.from_numpy(users.astype(np.float32)), "dot", {"model": "none"}
    from recbole_diffusion.recommendation.recommender import Recommender
    from recbole_diffusion.recommendation.run_index import query_vectors, searched_by_vectors
    from recbole_diffusion.retrieval.index_building import IndexRequest

    recommender = Recommender.load(options.checkpoint, device="cpu", data_path=options.data_path)
    search = searched_by_vectors(recommender)
    users, source = query_vectors(recommender, IndexRequest(queries=options.queries, seed=options.seed))
    about = {"model": recommender.config["model"], "dataset": recommender.config["dataset"], "queries": source}
    return search.items[1:].numpy(), users, search.score, about


def drawn_items(table: np.ndarray, count: int, seed: int) -> Tensor:
    """Item vectors (count + 1, D), row 0 padding: Gaussian with the mean and covariance of a table (V, D), each then
    given a norm of one of the table's vectors."""
    draw = np.random.default_rng(seed)
    values, axes = np.linalg.eigh(np.cov(table.T.astype(np.float64)))
    root = (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    items = draw.standard_normal((count + 1, table.shape[1]), dtype=np.float32) @ root + table.mean(0)
    norms = draw.choice(np.linalg.norm(table, axis=1), count + 1).astype(np.float32)
    items *= (norms / np.linalg.norm(items, axis=1))[:, None]
    return torch.from_numpy(items)


def scene(options: argparse.Namespace) -> tuple[Tensor, Tensor, str, dict[str, Any]]:
    """Items (V, D), queries (Q, K, D), how they are compared, and what is to be said of them."""
    table, users, score, about = run_vectors(options)
    if options.case == "trained":
        return drawn_items(table, options.items, options.seed), users, score, about
    draw = torch.Generator().manual_seed(options.seed)
    shape = (options.items + 1, table.shape[1])
    return torch.randn(shape, generator=draw), torch.randn(len(users), 1, shape[1], generator=draw), "dot", {}


# measuring ------------------------------------------------------------------------------------------------------------


def measure_case(options: argparse.Namespace) -> dict[str, Any]:
    """Build, time and compare one case."""
    from recbole_diffusion.retrieval.exact import ExactSearch
    from recbole_diffusion.retrieval.index_building import IndexRequest, build_index, recall_of

    torch.set_num_threads(options.threads)
    items, queries, score, about = scene(options)
    before = resident_peak_mib()
    request = IndexRequest(
        options.kind, options.recall, options.k, len(queries), options.seed, options.threads, show_progress=False
    )
    say(f"{options.case}: building")
    building, asking = queries[0::2], queries[1::2]
    built = build_index(items, score, building, request)
    peak = resident_peak_mib()
    exact = ExactSearch(items, score)
    truth = exact.search(asking, options.k)
    recall = recall_of(built.search.search(asking, options.k), truth)
    wholes = items[1:]

    def product(x: Tensor) -> Any:
        scores = wholes @ x.T if len(x) > 1 else wholes @ x[0]
        return torch.topk(scores.amax(1) if len(x) > 1 else scores, options.k)

    sides: dict[str, Callable[[Tensor], Any]] = {
        "product": product,
        "exact": lambda x: exact.search(x[None], options.k),
        "faiss": lambda x: built.search.search(x[None], options.k),
    }
    times: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    progress = Progress(f"{options.case}, measurement", options.repeats)
    for repeat in range(options.repeats):
        chosen = asking[torch.arange(options.timed) * (repeat + 1) % len(asking)]
        for side, answer in sides.items():
            answer(chosen[0])
            times[side].append(timed(answer, chosen))
        progress.step(", ".join(f"{side} {np.median(times[side][-1]):.3f} ms" for side in SIDES))
    facts = built.search.settings
    return {
        **about,
        "dimension": int(items.shape[1]),
        "score": score,
        "kind": facts.kind,
        "build": facts.build,
        "search": facts.search,
        "attempts": built.attempts,
        "recall_when_built": round(built.recall, 5),
        "recall": round(recall, 5),
        "build_seconds": round(built.seconds, 2),
        "measuring_seconds": round(built.measuring_seconds, 2),
        "index_mib": round(index_bytes(built.search.index) / 2**20, 1),
        "vectors_mib": round(items.numel() * 4 / 2**20, 1),
        "peak_mib_before": round(before, 1),
        "peak_mib": round(peak, 1),
        "sides": {side: latencies(times[side]) for side in SIDES},
        "times_faster": spread(ratios(times["product"], times["faiss"])),
        "times_faster_than_exact": spread(ratios(times["exact"], times["faiss"])),
    }


def timed(answer: Callable[[Tensor], Any], queries: Tensor) -> list[float]:
    """Milliseconds of each query (Q, K, D), one after the other."""
    found = []
    for query in queries:
        began = time.perf_counter()
        answer(query)
        found.append((time.perf_counter() - began) * 1000)
    return found


def latencies(measurements: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and 99th percentile of a query in milliseconds, each over the measurements."""
    return {
        "median_ms": spread([float(np.median(times)) for times in measurements]),
        "p99_ms": spread([float(np.percentile(times, 99)) for times in measurements]),
    }


def ratios(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> list[float]:
    """How many times as long a median query takes, measurement by measurement."""
    return [float(np.median(one) / np.median(other)) for one, other in zip(slow, fast, strict=True)]


def index_bytes(index: Any) -> int:
    """Size of an index as it would be written."""
    import faiss

    return int(faiss.serialize_index(index).nbytes)


def met(case: dict[str, Any]) -> dict[str, bool]:
    """Which aims a case meets, by its median."""
    return {
        "times_faster": case["times_faster"]["median"] >= AIMS["times_faster"],
        "recall": case["recall"] >= AIMS["recall"],
    }


def run_case(case: str, words: Sequence[str]) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, *words, f"--case={case}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: {' '.join(command)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Measure and write the JSON."""
    words = list(sys.argv[1:] if given is None else given)
    options = arguments(words)
    if options.case:
        print(json.dumps(measure_case(options)))
        return 0
    torch.set_num_threads(options.threads)
    load = Load()
    cases = {case: run_case(case, words) for case in options.cases}
    import faiss

    raw = {
        "benchmark": "retrieval_speed",
        "command": command_line(),
        "code_version": code_version(HERE),
        "measured": now(),
        "machine": {**machine(torch.device("cpu")), "faiss": faiss.__version__, "load": load.report()},
        "settings": {
            name: getattr(options, name)
            for name in ("items", "queries", "k", "recall", "threads", "repeats", "timed", "seed", "try_out")
        },
        "aims": AIMS,
        "cases": cases,
        "met": {name: met(case) for name, case in cases.items()},
    }
    Path(options.output).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    say(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
