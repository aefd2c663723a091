"""How long ranking takes for a user: a batch ranked again and again, after one round that is not counted.

The batch is rows from all over the evaluation set, so that its histories are as long as those of all. Making the batch
and the metrics are not timed. The median of the rounds is reported with the least and the most beside it, which say how
quiet the machine was. What is timed is one process on `device` with `threads` CPU threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recbole_diffusion.analyses.finished_run import FinishedRun
from recbole_diffusion.provenance import device_name


@dataclass(frozen=True)
class Timing:
    """Milliseconds a user over some rounds: median, least and most."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class RankingTime:
    """What ranking a batch took.

    Attributes:
        ranking: user vectors, scores of all items, the best of them.
        vectors: user vectors alone, which is the reverse chain and what comes before it.
        users: rows of the batch.
        rounds: how often it was timed.
        device: in words; of a CPU with the number of threads.
    """

    ranking: Timing
    vectors: Timing
    users: int
    rounds: int
    device: str

    COLUMNS = (
        *("ms_per_user", "ms_per_user_least", "ms_per_user_most"),
        *("vectors_ms_per_user", "vectors_ms_per_user_least", "vectors_ms_per_user_most"),
        *("timed_users", "rounds", "device", "threads"),
    )

    def cells(self) -> list[object]:
        """The values of COLUMNS."""
        times = [(part.median, part.least, part.most) for part in (self.ranking, self.vectors)]
        return [*times[0], *times[1], self.users, self.rounds, self.device, torch.get_num_threads()]


def time_ranking(run: FinishedRun, users: int, rounds: int) -> RankingTime:
    """Time the ranking of a batch with the model that the run's trainer has.

    Args:
        run: opened.
        users: rows of the batch, at most; spread evenly over the evaluation set.
        rounds: how often, after one that is not counted.
    """
    users = min(users, len(run))
    batch = run.batch_of(np.linspace(0, len(run) - 1, users).round().astype(np.int64))
    trainer, model, k = run.trainer, run.model, max(run.config["topk"])
    interaction = batch[0].to(run.device)
    with torch.no_grad():
        items = trainer.ready(run.rows)
        ranking = _timed(lambda: trainer.ranked(batch, items, k, None), users, rounds, run.device)
        vectors = _timed(lambda: model.user_vectors(interaction), users, rounds, run.device)
    return RankingTime(ranking, vectors, users, rounds, device_name(run.device))


def _timed(work: Callable[[], object], users: int, rounds: int, device: torch.device) -> Timing:
    work()
    times = []
    for _ in range(rounds):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(1000 * (time.perf_counter() - began) / users)
    return Timing(statistics.median(times), min(times), max(times))


def _wait(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
