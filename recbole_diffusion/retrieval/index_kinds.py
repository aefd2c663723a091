"""The kinds of index, which one a catalogue gets, and how far each may be turned up for recall.

    kind    faiss                 items                finds
    flat    IndexFlat             below 50,000         everything: a graph or codes would save little there
    hnsw    IndexHNSWFlat         50,000 to 200,000    by a graph of neighbours; keeps the vectors and 8 M bytes an item
    pq      IndexPQFastScan       200,000 to 4 million by codes of D / 8 to D / 2 bytes an item, all looked through
    ivfpq   IndexIVFPQFastScan    above                by such codes, in the lists nearest to the query

hnsw: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs", TPAMI 2020; its graph is one of inner products for `dot` (Morozov, Babenko, "Non-metric similarity graphs
for maximum inner product search", NeurIPS 2018). pq, ivfpq: Jegou, Douze, Schmid, "Product quantization for nearest
neighbor search", TPAMI 2011, with codes of four bits that are looked up in registers (Andre, Kermarrec, Le Scouarnec,
"Cache locality is not enough", VLDB 2015). Whatever a kind finds is scored anew with the exact vectors. Why these, and
where the thresholds come from: docs/decisions/117-which-index.md.

Shapes: V items, D embedding, W numbers of a vector as it is indexed (D, and zeros to a multiple of four), n vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from recbole_diffusion.errors import UserError
from recbole_diffusion.models.base import Score

Kind = Literal["flat", "hnsw", "pq", "ivfpq"]
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "pq", "ivfpq")
CODED: tuple[Kind, ...] = ("pq", "ivfpq")
FLAT_BELOW = 50_000
HNSW_UP_TO = 200_000
PQ_UP_TO = 4_000_000
TRAINING_VECTORS = 65_536  # that lists and codes are learned from, at most
BUILDS = {"flat": 1, "hnsw": 2, "pq": 3, "ivfpq": 3}  # each better than the one before, until the recall is reached
CANDIDATE_BYTES = 8192  # of codes that are looked through in the time that one item is scored exactly, about


@dataclass
class IndexSettings:
    """How an index is built and searched.

    Attributes:
        kind: one of `KINDS`.
        build: its parameters when it is built.
        search: its parameters when it is searched, which rise until the recall is reached.
        most: how far each of these may rise.
    """

    kind: Kind
    build: dict[str, int]
    search: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)


def kind_for(kind: str, n_items: int) -> Kind:
    """The kind of index, by the number of items for `auto`.

    Raises:
        UserError: there is no such kind.
    """
    if kind == "auto":
        if n_items < FLAT_BELOW:
            return "flat"
        return "hnsw" if n_items <= HNSW_UP_TO else "pq" if n_items <= PQ_UP_TO else "ivfpq"
    for known in KINDS:
        if kind == known:
            return known
    raise UserError(f"kind is {kind!r}; it must be auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def settings_for(kind: Kind, n_items: int, width: int, attempt: int = 0) -> IndexSettings:
    """Parameters of an index.

    Args:
        kind: one of `KINDS`.
        n_items: vectors that it will hold.
        width: W.
        attempt: how often the index was built already and did not reach the recall: a better one is made.

    Returns:
        hnsw: `M` neighbours an item, `efConstruction` candidates when one is put in, `efSearch` when one is looked for.
        pq: `m` codes of four bits an item; `candidates` items that are scored exactly: as many, at most, as cost less
        than codes twice as long. ivfpq: `nlist` lists besides; `nprobe` of them are looked into.
    """
    if kind == "flat":
        return IndexSettings(kind, {})
    if kind == "hnsw":
        build = {"M": 32 << attempt, "efConstruction": 100 << attempt}
        return IndexSettings(kind, build, {"efSearch": 64}, {"efSearch": max(64, min(4096, n_items))})
    codes = min(width, width // 4 << attempt)
    most = n_items * codes // 2 // CANDIDATE_BYTES if codes < width else n_items // 20
    most = min(n_items, max(200, most))
    if kind == "pq":
        return IndexSettings(kind, {"m": codes}, {"candidates": most}, {"candidates": most})
    lists = 2 ** max(0, round(math.log2(math.sqrt(n_items) / 4)))
    bounds = {"nprobe": lists, "candidates": most}
    return IndexSettings(kind, {"nlist": lists, "m": codes}, dict(bounds), bounds)


@dataclass(frozen=True)
class Space:
    """Item and user vectors as an index compares them: unit vectors for cosine, and zeros up to a multiple of four.

    Attributes:
        score: how the model compares them.
    """

    score: Score

    @property
    def by_product(self) -> bool:
        """Whether the highest inner product is the best, instead of the smallest distance."""
        return self.score != "neg_sq_dist"

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (n, D) of items or users as they are compared: (n, W) float32."""
        if self.score == "cosine":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        more = -vectors.shape[1] % 4
        return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, more))) if more else vectors, dtype=np.float32)


def import_faiss() -> Any:
    """The module faiss.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"retrieval through faiss needs the package faiss-cpu, which cannot be imported ({error}); "
            "pip install 'recbole-diffusion[retrieval]', or take retrieval: exact"
        ) from error
    return faiss
