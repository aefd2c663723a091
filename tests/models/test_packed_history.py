"""Rows in chunks: every row once, none empty, whatever the lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import recbole_diffusion.models.packed_history as packed_history
from recbole_diffusion.models.packed_history import INFERENCE_TOKENS, row_chunks

from .test_diffurecsys_padded import small_model
from .tiny import interaction, tiny_model


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 9000], [[0], [1]]),  # the long row's tokens end in chunk 2: there is none of number 1
        ([9000, 3], [[1], [0]]),
        ([9000], [[0]]),
        ([20000, 9000, 1], [[2], [1], [0]]),
        ([INFERENCE_TOKENS - 1, INFERENCE_TOKENS - 1], [[0], [1]]),
        ([INFERENCE_TOKENS], [[0]]),
        ([2, 1, 2], [[1, 0, 2]]),
    ],
)
def test_chunks_hold_every_row_once_in_order_of_length(lengths: list[int], expected: list[list[int]]) -> None:
    assert [chunk.tolist() for chunk in row_chunks(torch.tensor(lengths))] == expected


@pytest.mark.parametrize("mask_mode", ["query", "key"])
@pytest.mark.parametrize("build", [tiny_model, small_model])
def test_histories_longer_than_a_chunk_are_ranked(monkeypatch: pytest.MonkeyPatch, build: Any, mask_mode: str) -> None:
    torch.manual_seed(0)
    model = build(MAX_ITEM_LIST_LENGTH=40, mask_mode=mask_mode, reverse_steps=2)
    batch = interaction([[3, 9, 4], list(range(1, 41)), [7]], [5, 6, 8], length=40)

    def scores() -> Tensor:
        with torch.no_grad():
            found: Tensor = model.full_sort_predict(batch)
        return found

    together = scores()
    monkeypatch.setattr(packed_history, "INFERENCE_TOKENS", 16)
    torch.testing.assert_close(scores(), together, rtol=1e-4, atol=1e-5)
