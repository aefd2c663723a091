"""Where x_0 lands when a history is reversed from many noises (DiffuRec, Figure 7 and section 5.8).

x_0 of chosen histories is sampled under S noises each, and once of N other histories; t-SNE draws all of them in a
plane. How many different items the S top-k lists of a history hold is counted as DiffuRec counts it (643 in the top-20
of 100 samplings). Distances in a t-SNE plane mean little (it keeps neighbours), so two cosines are reported beside it:

    cosine_within    mean cosine of two samplings of the history
    cosine_between   mean cosine of one of its samplings and the x_0 of another history, its own or a further one

Sampling s is evaluation with `eval_seed` + s, so that the first one is what metrics are made of.

Shapes: H chosen histories, S samplings, N others, K vectors of a history, D embedding.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import torch

from recbole_diffusion.analyses.finished_run import FinishedRun, open_run
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import rank_by_vectors
from recbole_diffusion.evaluation.repeated_sampling import SampledItems, items_over_samplings
from recbole_diffusion.models.base import evaluation_seed, relevance
from recbole_diffusion.pictures import COLOURS, GREY, MARKERS, new_figure, save
from recbole_diffusion.training.evaluation import progress

logger = logging.getLogger(__name__)

POINTS = ("history", "row", "user", "sampling", "vector", "x", "y")
COUNTS = (
    *("row", "user", "history_length", "samplings", "k", "distinct_items", "listed_items"),
    *("cosine_within", "cosine_between"),
)


def analyse(request: Request) -> Findings:
    """Sample x_0 of some histories many times, count their items, and draw them.

    Raises:
        UserError: a model that draws nothing, a history that is not there.
    """
    samplings = request.whole("samplings", 100, least=2)
    n_others = request.whole("others", 500, least=0)
    seed = request.whole("seed", 0, least=0)
    run = open_run(request, samples_for="uncertainty")
    k = request.whole("k", min(20, run.rows._dataset.item_num - 1))
    if k >= run.rows._dataset.item_num:
        raise UserError(f"--k is {k}; the data have {run.rows._dataset.item_num - 1} items")
    generator = np.random.default_rng(seed)
    chosen = chosen_rows(run, request, generator)
    left = np.setdiff1d(np.arange(len(run)), chosen)
    others = np.sort(generator.choice(left, size=min(n_others, len(left)), replace=False))
    vectors, found = sample(run, chosen, samplings, k)
    other_vectors = vectors_of(run, others) if len(others) else np.zeros((0, *vectors.shape[2:]), dtype=np.float32)
    everything = np.concatenate((_flat(vectors), _flat(other_vectors)))
    if len(everything) < 4:
        raise UserError("t-SNE needs 4 points at least; raise --samplings or --others")
    counts = _counts(run, chosen, found, k, vectors, other_vectors)
    points = _points(run, chosen, others, vectors.shape, in_the_plane(everything, seed))
    files = [
        *_draw(request, run, counts, points),
        request.write_csv("points.csv", POINTS, points),
        request.write_csv("counts.csv", COUNTS, counts),
    ]
    header = ["row", "user", "history", "samplings", f"items in top-{k}", "of one list", "cosine within", "between"]
    lines = [[*line[:4], *line[5:]] for line in counts]
    title = f"{run.config['model']} on {run.config['dataset']}, {run.split} rows"
    return Findings("\n".join([title, text_table(header, lines)]), files)


def _flat(vectors: np.ndarray) -> np.ndarray:
    """(..., D) as (points, D)."""
    return vectors.reshape(-1, vectors.shape[-1])


def chosen_rows(run: FinishedRun, request: Request, generator: np.random.Generator) -> np.ndarray:
    """The rows (H,) of the keys `user` and `row`; without them one that is drawn.

    Raises:
        UserError: a user without such a row, a number that is no row's, one history twice.
    """
    if "row" in request.options and "user" in request.options:
        raise UserError("give --user or --row, not both")
    if "row" in request.options:
        found = request.wholes("row", [], least=0, most=len(run) - 1)
    elif "user" in request.options:
        found = [_row_of(run, token) for token in request.words("user")]
    else:
        found = [int(generator.integers(len(run)))]
        logger.info("row %d is drawn; --user or --row chooses another", found[0])
    if not found or len(set(found)) < len(found):
        raise UserError("--user and --row take one or more different histories")
    return np.array(found)


def _row_of(run: FinishedRun, token: str) -> int:
    dataset = run.rows._dataset
    number = dataset.field2token_id[dataset.uid_field].get(token, -1)
    rows: np.ndarray = np.flatnonzero(np.asarray(dataset.inter_feat[dataset.uid_field]) == number)
    if not len(rows):
        raise UserError(f"--user: no {run.split} row of a user {token!r}")
    if len(rows) > 1:
        logger.info("user %s has %d %s rows; the last is taken, row %d", token, len(rows), run.split, rows[-1])
    return int(rows[-1])


@torch.no_grad()
def sample(run: FinishedRun, rows: np.ndarray, samplings: int, k: int) -> tuple[np.ndarray, SampledItems]:
    """User vectors (H, S, K, D) of rows (H,) under S noises, and the different items of their top-k lists.

    Raises:
        UserError: the model scores by other things than vectors.
    """
    batch = run.batch_of(rows)
    items = run.trainer.ready(run.rows)
    if items is None:
        raise UserError(f"uncertainty: {run.config['model']} scores items in a way of its own and not by vectors")
    interaction = batch[0].to(run.device)
    score = functools.partial(relevance, score=run.model.options.score)
    memory = int((run.config["rank_memory"] or 256) * 2**20)
    bar = iter(progress(range(samplings), "sample", bool(run.config["show_progress"])))
    kept: list[np.ndarray] = []

    def rank(_: Any, seed: int) -> np.ndarray:
        next(bar)
        with evaluation_seed(run.model, seed):
            users = run.model.user_vectors(interaction)
        kept.append(users.float().cpu().numpy())
        return rank_by_vectors(users, items, score, k, memory=memory, seen=batch[1]).items

    first = int(run.config["eval_seed"] or 0)
    found = items_over_samplings([batch], rank, range(first, first + samplings))
    next(bar, None)  # the bar goes
    return np.stack(kept, axis=1), found


@torch.no_grad()
def vectors_of(run: FinishedRun, rows: np.ndarray) -> np.ndarray:
    """User vectors (N, K, D) of one row or more, as evaluation samples them."""
    step = int(run.config["eval_batch_size"])
    parts = []
    with evaluation_seed(run.model, int(run.config["eval_seed"] or 0)):
        for begin in range(0, len(rows), step):
            interaction = run.batch_of(rows[begin : begin + step])[0].to(run.device)
            parts.append(run.model.user_vectors(interaction).float().cpu().numpy())
    return np.concatenate(parts)


def in_the_plane(points: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten, Hinton, JMLR 9, 2008) of points (P, D), four at least: (P, 2).

    scikit-learn's, from a PCA start; perplexity 30, less where there are fewer than 91 points.

    Raises:
        UserError: all points are one.
    """
    from sklearn.manifold import TSNE

    if np.ptp(points, axis=0).max() == 0:
        raise UserError("uncertainty: every x_0 is the same vector; the model's noise changes nothing, nor its history")
    perplexity = min(30.0, (len(points) - 1) / 3)
    place: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return place


def cosines(samples: np.ndarray, others: np.ndarray) -> tuple[float, float | None]:
    """Mean cosine of two samplings of a history, and of a sampling and another history's x_0; None without others.

    A vector is compared with the one of the same number among the K.

    Args:
        samples: (S, K, D), two samplings at least.
        others: (N, K, D).
    """
    unit = samples / np.linalg.norm(samples, axis=-1, keepdims=True)
    number = len(unit)
    total = np.square(unit.sum(0)).sum(-1)  # (K,): of S cosines with themselves, which are 1, and S (S - 1) others
    within = float(((total - number) / (number * (number - 1))).mean())
    if not len(others):
        return within, None
    other_unit = others / np.linalg.norm(others, axis=-1, keepdims=True)
    return within, float((unit.mean(0) * other_unit.mean(0)).sum(-1).mean())


def _counts(
    run: FinishedRun, rows: np.ndarray, found: SampledItems, k: int, vectors: np.ndarray, others: np.ndarray
) -> list[list[Any]]:
    """A line of COUNTS for each chosen history."""
    interaction, users = run.batch_of(rows)[0], run.users_of(rows)
    lines = []
    for place, row in enumerate(rows.tolist()):
        rest = np.concatenate((np.delete(vectors, place, axis=0)[:, 0], others))
        line = [row, users[place], int(interaction[run.model.ITEM_SEQ_LEN][place]), found.samplings, k]
        line += [int(found.distinct[place]), int(found.listed[place]), *cosines(vectors[place], rest)]
        lines.append(line)
    return lines


def _points(run: FinishedRun, rows: np.ndarray, others: np.ndarray, shape: Any, plane: np.ndarray) -> list[list[Any]]:
    """A line of POINTS for each point, in the order of the plane."""
    _, samplings, n_vectors, _ = shape
    keys = [(True, row, s, v) for row in rows.tolist() for s in range(samplings) for v in range(n_vectors)]
    keys += [(False, row, 0, v) for row in others.tolist() for v in range(n_vectors)]
    users = dict(zip([*rows.tolist(), *others.tolist()], run.users_of(np.concatenate((rows, others))), strict=True))
    return [
        ["chosen" if chosen else "other", row, users[row], sampling, vector, float(x), float(y)]
        for (chosen, row, sampling, vector), (x, y) in zip(keys, plane, strict=True)
    ]


def _draw(request: Request, run: FinishedRun, counts: list[list[Any]], points: list[list[Any]]) -> list[Any]:
    figure, (panel,) = new_figure(width=5.2, height=4.6)
    panel.grid(False)
    panel.set_xticks([])
    panel.set_yticks([])
    others = [point[5:] for point in points if point[0] == "other"]
    if others:
        panel.scatter(*zip(*others, strict=True), s=8, color=GREY, linewidths=0, label="other histories")
    for number, (row, user, _, samplings, k, distinct, *_) in enumerate(counts):
        own = [point[5:] for point in points if point[:2] == ["chosen", row]]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        name = f"row {row}" if user is None else f"user {user}"
        label = f"{name}, {samplings} noises: {distinct} items in top-{k}"
        panel.scatter(*zip(*own, strict=True), s=16, alpha=0.7, linewidths=0, label=label, **style)
    panel.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    panel.set_title(f"user vectors of {run.config['model']} on {run.config['dataset']}, t-SNE", fontsize=11)
    return save(figure, request.output / "uncertainty", about="reconstructed x_0 in the plane of t-SNE")
