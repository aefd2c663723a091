"""The index of a run: built with user vectors of real histories, kept beside the checkpoint, known when it is stale.

Recall is measured with the histories of the run's validation rows, as the model sees them. Where the data are not at
hand, histories are made: items drawn by how often training asks for them, as many as the model reads, or a few less.
These are no real users, and index.json says so.

Shapes: Q queries, K user vectors a query, D embedding, L items of a history.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import EncodedHistories, encode_lists, token_lists
from recbole_diffusion.retrieval.exact import ItemSearch
from recbole_diffusion.retrieval.index_building import IndexRequest, build_index
from recbole_diffusion.retrieval.index_files import IndexFolder
from recbole_diffusion.retrieval.index_kinds import import_faiss
from recbole_diffusion.training.item_catalogue import ITEMS_FILE, ItemCatalogue

logger = logging.getLogger(__name__)

Items = tuple[list[str], np.ndarray, "list[str | None] | None"]
STALE = ("rebuild", "refuse")
ROWS = 256  # histories whose user vectors are made at a time


def searched_by_vectors(recommender: Any) -> ItemSearch:
    """How a recommender finds items.

    Raises:
        UserError: its model scores items itself.
    """
    search: ItemSearch | None = recommender.ranking.search
    if search is None:
        raise UserError(
            f"{recommender.config.entry.name} scores all items itself and has no vectors to index; "
            "take retrieval: exact"
        )
    return search


def use_index(
    recommender: Any, *, stale: str = "rebuild", request: IndexRequest | None = None, added: Items | None = None
) -> dict[str, Any]:
    """Let a recommender find items through the index of its run; what the index is.

    Args:
        recommender: it searches exactly so far.
        stale: what to do where the index is absent, damaged or of other vectors: `rebuild` or `refuse`.
        request: what is asked for where it is built.
        added: tokens, vectors and titles of items that are added: those of an index that holds them, too, or searched
            beside one that does not.

    Raises:
        UserError: that is refused, or building fails.
    """
    if stale not in STALE:
        raise UserError(f"stale_index is {stale!r}; it must be {' or '.join(STALE)}")
    import_faiss()
    search = searched_by_vectors(recommender)
    folder = IndexFolder.beside(recommender.checkpoint)
    try:
        facts = folder.facts()
        if added is not None and facts is not None and facts.get("items") == len(search.items) - 1 + len(added[0]):
            recommender.add_items(*added)
            added = None
        recommender.ranking.search, facts = folder.read(search.items, search.score)
    except UserError as error:
        if stale == "refuse":
            raise
        logger.info("%s; it is built now", str(error).partition("; recbole-diff")[0])
        facts = build_run_index(recommender, request or IndexRequest())
    if added is not None:
        recommender.add_items(*added)
    return facts


def build_run_index(
    recommender: Any, request: IndexRequest, *, histories: list[list[str]] | None = None
) -> dict[str, Any]:
    """Build the index of a recommender's run, keep it beside the checkpoint and search through it; what it is.

    Args:
        recommender: its items are indexed, those that were added among them.
        request: what is asked for.
        histories: whose user vectors recall is measured with; None takes validation rows.

    Raises:
        UserError: the recall is not reached, or the index cannot be written.
    """
    search = searched_by_vectors(recommender)
    queries, source = query_vectors(recommender, request, histories)
    logger.info("recall is measured with %s", source)
    built = build_index(search.items, search.score, queries, request)
    recommender.ranking.search = built.search
    facts = IndexFolder.beside(recommender.checkpoint).write(built, request, source)
    logger.info(
        "%s index of %d items, %s: recall@%d %.4f, built in %.1f s, %.1f MiB",
        facts["kind"],
        facts["items"],
        facts["search"] or "everything is looked at",
        facts["recall_at"],
        facts["recall"],
        facts["built_seconds"],
        facts["index_bytes"] / 2**20,
    )
    return facts


def query_vectors(
    recommender: Any, request: IndexRequest, histories: list[list[str]] | None = None
) -> tuple[Tensor, str]:
    """User vectors (Q, K, D) to measure recall with, and where they come from in words.

    Raises:
        UserError: histories are given, and the model knows no item of any.
    """
    if histories is not None:
        encoded = encode_lists(token_lists(histories), recommender.ids)
        rows = np.flatnonzero(encoded.lengths)
        if not len(rows):
            raise UserError("recall is measured with histories, and those given have no item that the model knows")
        source = f"{min(len(rows), request.queries)} histories that were given"
    else:
        try:
            encoded = validation_histories(recommender, request.queries, request.seed)
            source = "validation rows of the run's data"
        except UserError as error:
            logger.info("the data of the run are not at hand (%s); histories are made", error)
            encoded = made_histories(recommender, request.queries, request.seed)
            source = "made histories, items drawn as often as training asks for them: no real users"
        rows = np.flatnonzero(encoded.lengths)
    if len(rows) > request.queries:
        rows = np.sort(np.random.default_rng(request.seed).permutation(rows)[: request.queries])
    ranking = recommender.ranking
    parts = [ranking.user_vectors(encoded, rows[begin : begin + ROWS]).cpu() for begin in range(0, len(rows), ROWS)]
    return torch.cat(parts), source


def validation_histories(recommender: Any, count: int, seed: int) -> EncodedHistories:
    """Histories of validation rows, as the model sees them: `count` that are drawn, or all.

    Raises:
        UserError: the data cannot be read, or are not those of the run.
    """
    config = recommender.config
    if not (Path(config["data_path"]) / f"{config['dataset']}.inter").is_file():
        raise UserError(f"there is no {config['dataset']}.inter in {config['data_path']}")
    dataset = checked_dataset(config.entry.dataset_class)(config)
    rows = prepare_loaders(config, dataset)[1]._dataset
    tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=object)
    if not np.array_equal(tokens, recommender.tokens[: recommender.ids.known]):
        raise UserError("its items are others than the run's")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    examples = rows.inter_feat[torch.from_numpy(chosen)]
    items = np.asarray(examples[config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]])
    lengths = np.asarray(examples[config["ITEM_LIST_LENGTH_FIELD"]], dtype=np.int64)
    inside = np.arange(items.shape[1]) < lengths[:, None]
    return EncodedHistories(items[inside].astype(np.int64), np.append(0, np.cumsum(lengths)), np.zeros_like(lengths))


def made_histories(recommender: Any, count: int, seed: int) -> EncodedHistories:
    """Histories of items that are drawn by how often training asks for them, 1 to L items each."""
    draw = np.random.default_rng(seed)
    known = recommender.ids.known
    file = recommender.checkpoint.with_name(ITEMS_FILE)
    weights = np.ones(known)
    if file.is_file():
        weights = ItemCatalogue.read(file).training_rows + 1.0
    weights[0] = 0
    lengths = draw.integers(1, recommender.ranking.limit, count, endpoint=True)
    items = draw.choice(known, size=int(lengths.sum()), p=weights / weights.sum())
    return EncodedHistories(items, np.append(0, np.cumsum(lengths)), np.zeros(count, dtype=np.int64))
