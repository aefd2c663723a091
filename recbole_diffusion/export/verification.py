"""Whether an export gives what the model gives: vectors row by row, and the lists made from them.

    difference of a row = max |a - b| / max |b|         a by the export, b by the model, over the row's K vectors

Shapes: N rows, L history, K user vectors a row, D embedding, V items.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import rank_by_vectors
from recbole_diffusion.export.verification_histories import VerificationHistories
from recbole_diffusion.models.base import EVALUATION_ROW, Score, VectorRecommender, relevance

_MEMORY = 256 * 2**20  # bytes of a block of scores


@dataclass(frozen=True)
class Verification:
    """What was compared, and how far the two were apart.

    Attributes:
        histories: what they were, in words.
        real: whether they were people's.
        rows: how many.
        batch_sizes: numbers of rows that the export was run on at a time.
        largest_difference: over all rows and batch sizes, max |a - b|.
        largest_relative_difference: the same of the module's quotient.
        tolerance: what the quotient may be.
        list_length: items of a list.
        equal_lists: share of rows whose lists are equal, item by item.
        runtime: what ran the export.
    """

    histories: str
    real: bool
    rows: int
    batch_sizes: list[int]
    largest_difference: float
    largest_relative_difference: float
    tolerance: float
    list_length: int
    equal_lists: float
    runtime: str

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@torch.no_grad()
def model_vectors(
    model: VectorRecommender, histories: VerificationHistories, *, row_keys: bool, rows: int | None = None
) -> np.ndarray:
    """User vectors (N, K, D) of the model itself, as it ranks with them.

    Args:
        model: in evaluation mode.
        histories: N rows.
        row_keys: whether noise is keyed by the rows' keys; else by the histories.
        rows: only so many of the first.
    """
    item_seq = torch.from_numpy(histories.item_seq[:rows])
    columns: dict[str, Tensor] = {model.ITEM_SEQ: item_seq, model.ITEM_SEQ_LEN: (item_seq > 0).sum(1)}
    if row_keys:
        columns[EVALUATION_ROW] = torch.from_numpy(histories.row_key[:rows])
    vectors: Tensor = model.user_vectors(Interaction(columns))
    return vectors.float().numpy()


def compare(
    expected: np.ndarray,
    found: Mapping[int, np.ndarray],
    item_vectors: np.ndarray,
    score: Score,
    histories: VerificationHistories,
    *,
    tolerance: float,
    list_length: int,
    runtime: str,
) -> Verification:
    """Compare an export's vectors with the model's.

    Args:
        expected: (N, K, D) by the model.
        found: number of rows at a time -> (n, K, D) by the export, of the first n rows; for one of them n is N.
        item_vectors: (V, D), row 0 padding.
        score: how vectors are scored.
        histories: what they belong to.
        tolerance: of the relative difference.
        list_length: items of a list, V - 1 at most.
        runtime: what ran the export, in words.

    Raises:
        UserError: they differ by more than the tolerance, or in shape.
    """
    largest = relative = 0.0
    for size, vectors in found.items():
        wanted = expected[: len(vectors)]
        if vectors.shape != wanted.shape:
            raise UserError(
                f"the export gives vectors of shape {vectors.shape} for {size} rows at a time, the model "
                f"{wanted.shape}; nothing was written"
            )
        apart = np.abs(vectors - wanted).reshape(len(wanted), -1).max(1)
        scale = np.abs(wanted).reshape(len(wanted), -1).max(1)
        quotient = np.divide(apart, scale, out=np.where(apart > 0, np.inf, 0.0), where=scale > 0)
        beyond = int((~(quotient <= tolerance)).sum())  # NaN is beyond, too
        if beyond:
            worst = float(quotient.max())
            raise UserError(
                f"the export differs from the model: {beyond} of {len(wanted)} rows by more than {tolerance:g} of "
                f"their largest entry ({size} rows at a time, the largest {worst:.3g}); nothing was written, "
                "--tolerance is what may differ"
            )
        largest, relative = max(largest, float(apart.max())), max(relative, float(quotient.max()))
    whole = max(found, key=lambda size: len(found[size]))
    lists = [_lists(vectors, item_vectors, score, list_length) for vectors in (found[whole], expected)]
    return Verification(
        histories=histories.source,
        real=histories.real,
        rows=len(histories),
        batch_sizes=sorted(found),
        largest_difference=largest,
        largest_relative_difference=relative,
        tolerance=tolerance,
        list_length=list_length,
        equal_lists=float((lists[0] == lists[1]).all(1).mean()),
        runtime=runtime,
    )


def _lists(users: np.ndarray, items: np.ndarray, score: Score, k: int) -> np.ndarray:
    """The k best items (N, k) of each row."""
    scores = functools.partial(relevance, score=score)
    return rank_by_vectors(torch.from_numpy(users), torch.from_numpy(items), scores, k, memory=_MEMORY).items
