"""Queries answered by a Recommender: those with equal options in one call, each with what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from recbole_diffusion.errors import UserError
from recbole_diffusion.service.queries import Query, QueryOptions, shown

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.recommendations import Recommendations
    from recbole_diffusion.recommendation.recommender import Recommender


class RecommendedItems(BaseModel):
    """What is recommended for a history."""

    items: list[str] = Field(description="tokens, best first; fewer than k where fewer may be recommended")
    scores: list[float] = Field(description="of the items, as the model gives them")
    titles: list[str | None] | None = Field(None, description="of the items, where the run's data have titles")
    unknown_items: int = Field(description="items of the history that the run does not know, left out")
    unread_items: int = Field(description="older items that the model did not read: it reads the latest only")
    error: str | None = Field(None, description="why there are no items; only in an answer to histories")


class RecommendedLists(BaseModel):
    """The answer to `histories`."""

    results: list[RecommendedItems] = Field(description="one for each history, in their order")


Answer = dict[str, Any]  # a RecommendedItems or RecommendedLists as plain values
Outcome = Answer | Exception


def answer_queries(recommender: Recommender, queries: Sequence[Query]) -> list[Outcome]:
    """Answer queries.

    A row's items do not depend on the queries beside it, because its noise is keyed by its history; its scores do in
    their last bits, as the sums of a matrix product do. A call that fails is done again query by query, so that each
    error meets its own query.

    Returns:
        for each query its answer, or what stands against it: a UserError of one line where the query is wrong.
    """
    groups: dict[tuple[QueryOptions, int | None], list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault((query.options, query.k if recommender.approximate else None), []).append(place)
    outcomes: dict[int, Outcome] = {}
    for (options, _), places in groups.items():
        found = _answer_together(recommender, [queries[place] for place in places], options)
        outcomes.update(zip(places, found, strict=True))
    return [outcomes[place] for place in range(len(queries))]


def _answer_together(recommender: Recommender, queries: list[Query], options: QueryOptions) -> list[Outcome]:
    """Answers to queries with equal options; one call ranks for all of them.

    It asks for the largest k, of which each query takes its own: an item's rank depends on no k. With several
    chains and in an approximate index it does, and all have the same k.
    """
    try:
        excluded = [query.exclude for query in queries for _ in query.histories]
        found = recommender.recommend(
            [history for query in queries for history in query.histories],
            max(query.k for query in queries),
            filter_seen=options.filter_seen,
            exclude=excluded if any(excluded) else None,
            n_samples=options.n_samples,
            diversity=options.diversity,
            seed=options.seed,
        )
        outcomes: list[Outcome] = []
        row = 0
        for query in queries:
            outcomes.append(_answer(recommender, query, found, row))
            row += len(query.histories)
        return outcomes
    except Exception as error:
        if len(queries) == 1:
            return [error]
        return [_answer_together(recommender, [query], options)[0] for query in queries]


def _answer(recommender: Recommender, query: Query, found: Recommendations, first: int) -> Outcome:
    """The answer of a query whose rows begin at `first`; an error where none of them has an item to go by."""
    reads = int(recommender.config["MAX_ITEM_LIST_LENGTH"])
    rows: list[dict[str, Any]] = []
    for place, history in enumerate(query.histories):
        row = first + place
        unknown = found.unknown.get(row, [])
        if unknown and query.refuse_unknown:
            return UserError(
                f"{query.name_of(place)} has the item {shown(unknown[0])}, which the run does not know; leave it out, "
                "or skip such items with unknown: skip"
            )
        items, scores = found.items[row], found.scores[row]
        rows.append({"items": (items or [])[: query.k], "scores": (scores or [])[: query.k]})
        if found.titles is not None:
            rows[-1]["titles"] = (found.titles[row] or [])[: query.k]
        rows[-1]["unknown_items"] = len(unknown)
        rows[-1]["unread_items"] = max(len(history) - len(unknown) - reads, 0)
        if items is None:
            rows[-1]["error"] = f"{query.name_of(place)} has no item that the run knows"
    if all("error" in row for row in rows):
        return UserError(rows[0]["error"] if query.single else "none of the histories has an item that the run knows")
    return rows[0] if query.single else {"results": rows}


def facts_of(recommender: Recommender) -> dict[str, Any]:
    """What is served: model, dataset, items, and how many items of a history the model reads."""
    config = recommender.config
    return {
        "model": config.entry.name,
        "dataset": str(config["dataset"]),
        "items": len(recommender.tokens) - 1,
        "history_length": int(config["MAX_ITEM_LIST_LENGTH"]),
    }
