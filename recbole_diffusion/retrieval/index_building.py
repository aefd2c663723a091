"""An index is built, and turned up until it finds what exact retrieval finds.

    recall@k = mean over queries of  |items found that score at least as high as the k-th best|  /  k

(of k, or of all items where there are fewer; items of equal score count for each other). It is measured with real
queries, through the search that later answers. As long as it is below what is asked, and a margin, a parameter of the
search rises; at their bounds a better index is built; below even with the best one, building fails. For pq and ivfpq
the parameters are weighed first: of all that reach the recall, those that read the fewest bytes.

Shapes: V items (0 is padding), D embedding, Q queries, K user vectors a query.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import RankedRows
from recbole_diffusion.models.base import Score, checked_seed
from recbole_diffusion.retrieval.code_space import code_maps
from recbole_diffusion.retrieval.exact import ExactSearch
from recbole_diffusion.retrieval.faiss_search import FaissSearch
from recbole_diffusion.retrieval.index_kinds import (
    BUILDS,
    CANDIDATE_BYTES,
    CODED,
    TRAINING_VECTORS,
    IndexSettings,
    Space,
    import_faiss,
    kind_for,
    settings_for,
)

logger = logging.getLogger(__name__)

ADDED_AT_ONCE = 8192
QUERIES_AT_ONCE = 64
MOST_THREADS = 1024  # more than a machine has cores, fewer than a process may start
MARGIN = 0.25  # of what may be missed, that is aimed at on top, since those who ask are others than those measured with
STEPS = {"efSearch": 1.25, "nprobe": 1.25, "candidates": 1.1}  # by which a parameter rises


@dataclass(frozen=True)
class IndexRequest:
    """What is asked of an index.

    Attributes:
        kind: auto, flat, hnsw, pq or ivfpq.
        recall: what share of exact retrieval's items it must find, 0 to 1.
        at: k, among how many.
        queries: Q at most.
        seed: of what is drawn.
        threads: that build it; None is torch's number. A graph that several threads build differs from run to run.
        show_progress: progress bars.
    """

    kind: str = "auto"
    recall: float = 0.98
    at: int = 20
    queries: int = 1000
    seed: int = 2023
    threads: int | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        kind_for(self.kind, 1)
        if not 0 < self.recall <= 1:
            raise UserError(f"recall is {self.recall}; it must be above 0 and at most 1, such as 0.98")
        for name in ("at", "queries", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{'recall_at' if name == 'at' else name} is {value}; it must be 1 or more")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise UserError(f"threads is {self.threads}; it must be at most {MOST_THREADS}")
        checked_seed(self.seed)


@dataclass(frozen=True)
class BuiltIndex:
    """An index, and what it came to.

    Attributes:
        search: it searches.
        recall: that was measured.
        queries: Q.
        seconds: to build it, without measuring.
        measuring_seconds: to measure recall, exact retrieval's part included.
        threads: that built it.
        attempts: how often it was built.
    """

    search: FaissSearch
    recall: float
    queries: int
    seconds: float
    measuring_seconds: float
    threads: int
    attempts: int


def build_index(items: Tensor, score: Score, queries: Tensor, request: IndexRequest) -> BuiltIndex:
    """An index of items that reaches the recall that is asked for.

    Args:
        items: (V, D), row 0 padding.
        score: how vectors are compared.
        queries: (Q, K, D) user vectors that recall is measured with; for pq and ivfpq every other one of them, since
            codes are made for the rest.
        request: what is asked for.

    Raises:
        UserError: the recall is not reached; faiss is not installed.
    """
    import_faiss()
    exact_items = items.detach().cpu().float()
    n_items = len(exact_items) - 1
    kind = kind_for(request.kind, n_items)
    threads = request.threads or torch.get_num_threads()
    at = min(request.at, n_items)
    aim = request.recall + MARGIN * (1 - request.recall)
    learned = queries
    if kind in CODED and len(queries) > 1:  # codes are made for queries; recall is measured with others
        learned, queries = queries[0::2], queries[1::2]
    began = time.perf_counter()
    truth = ExactSearch(exact_items, score).search(queries.cpu().float(), at)
    measuring = time.perf_counter() - began
    space = Space(score)
    vectors = space.of(exact_items[1:].numpy())
    seconds = 0.0
    search, reached = None, 0.0
    for attempt in range(BUILDS[kind]):
        settings = settings_for(kind, n_items, vectors.shape[1], attempt)
        began = time.perf_counter()
        expected = space.of(learned.flatten(0, 1).cpu().numpy())
        index = _made(vectors, expected, settings, space, request.seed, threads, request.show_progress)
        seconds += time.perf_counter() - began
        search = FaissSearch(index, exact_items, score, settings, space, at)
        began = time.perf_counter()
        if kind in CODED:
            weigh(search, space.of(queries.flatten(0, 1).cpu().numpy()), truth, aim)
        reached = turn_up(settings, functools.partial(_measured, search, queries, truth), aim)
        measuring += time.perf_counter() - began
        if reached >= request.recall:
            return BuiltIndex(search, reached, len(queries), seconds, measuring, threads, attempt + 1)
        logger.info("%s with %s finds %.4f of %s@%d", kind, settings.build, reached, "exact", at)
    raise UserError(
        f"the {kind} index finds {reached:.4f} of the {at} best items with {settings.search}, which is as far as it "
        f"goes, and recall is {request.recall}; lower --recall, or take another --kind"
    )


def turn_up(settings: IndexSettings, measure: Callable[[], float], wanted: float) -> float:
    """Raise the parameters of the search until a recall is reached, or they are at their bounds; the recall then."""
    reached = measure()
    while reached < wanted:
        risen = {}
        for name, value in settings.search.items():
            more = min(settings.most[name], max(value + 1, round(value * STEPS[name])))
            if more > value:
                settings.search[name] = more
                risen[name] = (measure(), more)
                settings.search[name] = value
        if not risen:
            break
        best = max(risen, key=lambda name: risen[name][0])
        reached, settings.search[best] = risen[best]
    return reached


def _measured(search: FaissSearch, queries: Tensor, truth: RankedRows) -> float:
    return recall_of(search.search(queries, truth.items.shape[1]), truth)


def recall_of(found: RankedRows, truth: RankedRows) -> float:
    """Share of the best items (Q, k) that were found, mean over queries; equal scores count for each other."""
    real = truth.items > 0
    worst = np.where(real, truth.scores, np.finfo(np.float32).max).min(1, keepdims=True)
    least = worst - 1e-5 * np.maximum(1e-12, np.abs(worst))  # scores of other products differ in their last bits
    hits = ((found.items > 0) & (found.scores >= least)).sum(1)
    counts = real.sum(1)
    return float(np.mean(np.minimum(hits, counts)[counts > 0] / counts[counts > 0]))


def weigh(search: FaissSearch, asked: np.ndarray, truth: RankedRows, wanted: float) -> None:
    """Set how many candidates an index of codes scores, and how many lists it looks into, cheaply for the recall.

    Every number of lists gives a place in the order of candidates to each item that is to be found, so one search tells
    how many candidates a recall takes. The cheapest pair is kept; the bounds are where they do not reach the recall.

    Args:
        search: through the index.
        asked: (Q K, W) queries as the index compares them.
        truth: (Q, k) what is to be found.
        wanted: the recall.
    """
    settings, items = search.settings, search.indexed
    most, lists = dict(settings.most), settings.build.get("nlist", 1)
    best: tuple[float, dict[str, int]] | None = None
    probes = lists
    while probes:
        settings.search.update({**most, "nprobe": probes} if lists > 1 else most)
        places = np.sort(_places(search, asked, truth), axis=None)
        needed = int(places[math.ceil(wanted * len(places)) - 1]) + 1
        if needed > most["candidates"]:
            break
        read = items * settings.build["m"] / 2 * probes / lists + needed * CANDIDATE_BYTES
        if best is not None and read > best[0]:
            break
        best = read, {**settings.search, "candidates": needed}
        probes = probes * 3 // 4
    settings.search.update(most if best is None else best[1])


def _places(search: FaissSearch, asked: np.ndarray, truth: RankedRows) -> np.ndarray:
    """Where the items to be found stand among the candidates of a query, the best of its K vectors: as many numbers as
    there are such items, the number of items where one is not found."""
    each = len(asked) // len(truth.items)
    found = []
    for begin in range(0, len(truth.items), QUERIES_AT_ONCE):
        rows = truth.items[begin : begin + QUERIES_AT_ONCE]
        part = asked[begin * each : (begin + len(rows)) * each]
        lists = search.find(part, rows.shape[1], rows.shape[1]).reshape(len(rows), each, -1) + 1
        for line, row in zip(lists, rows):
            wanted = np.sort(row[row > 0])
            place = np.full(len(wanted), search.indexed)
            for of_vector in line:
                inside = np.flatnonzero(np.isin(of_vector, wanted))
                number = np.searchsorted(wanted, of_vector[inside])
                place[number] = np.minimum(place[number], inside)
            found.append(place)
    return np.concatenate(found)


def _made(
    vectors: np.ndarray,
    expected: np.ndarray,
    settings: IndexSettings,
    space: Space,
    seed: int,
    threads: int,
    show_progress: bool,
) -> Any:
    """An index of vectors (n, W), for queries such as those expected (Q, W)."""
    faiss = import_faiss()
    width = vectors.shape[1]
    metric = faiss.METRIC_INNER_PRODUCT if space.by_product else faiss.METRIC_L2
    training_seed = seed % 2**31  # of k-means, whose seeds are 32 bits
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        if settings.kind == "flat":
            index = faiss.IndexFlat(width, metric)
        elif settings.kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, settings.build["M"], metric)
            index.hnsw.efConstruction = settings.build["efConstruction"]
            index.hnsw.rng = faiss.RandomGenerator(seed)
        else:
            sample = np.random.default_rng(seed).permutation(len(vectors))[:TRAINING_VECTORS]
            learned = vectors[np.sort(sample)]
            codes = settings.build["m"]
            of_items, of_queries = code_maps(learned, expected if space.by_product else None, codes)
            if settings.kind == "pq":
                index = faiss.IndexPQFastScan(width, codes, 4, metric)
            else:
                coarse = faiss.IndexFlat(width, metric)
                index = faiss.IndexIVFPQFastScan(coarse, width, settings.build["nlist"], codes, 4, metric)
                index.cp.seed, index.cp.min_points_per_centroid = training_seed, 1
            index.pq.cp.seed, index.pq.cp.min_points_per_centroid = training_seed, 1
            index.train(learned @ of_items)
        with _bar(f"build {settings.kind} index", len(vectors), show_progress) as bar:
            for begin in range(0, len(vectors), ADDED_AT_ONCE):
                part = vectors[begin : begin + ADDED_AT_ONCE]
                index.add(part @ of_items if settings.kind in CODED else part)
                bar.update(len(part))
        if settings.kind in CODED:  # what is searched for goes through its own map
            turn = faiss.LinearTransform(width, width, False)
            faiss.copy_array_to_vector(np.ascontiguousarray(of_queries.T).ravel(), turn.A)
            turn.is_trained = True
            index = faiss.IndexPreTransform(turn, index)
            index.ntotal = len(vectors)
    finally:
        faiss.omp_set_num_threads(before)
    return index


def _bar(description: str, total: int, show: bool) -> Any:
    """A progress bar with rate and remaining time; a line every half minute where there is no terminal."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        desc=description,
        unit=" items",
        unit_scale=True,
        mininterval=interval,
        leave=False,
        disable=not show,
        file=sys.stderr,
    )
