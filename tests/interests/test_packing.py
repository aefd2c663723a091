"""Packed histories against the padded computation they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise
from recbole_diffusion.interests.packing import best_fit, pack, round_up


def histories(lengths: list[int], width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    seq = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        seq[row, :length] = torch.randint(1, 50, (length,), generator=generator)
    return seq, torch.tensor(lengths)


def test_best_fit_by_hand() -> None:
    bins, offsets, widths = best_fit([4, 3, 2, 1], [5])
    assert widths == [5, 5]
    assert bins.tolist() == [0, 1, 1, 0]  # 3 then 2 fill bin 1, 1 fills the gap of bin 0
    assert offsets.tolist() == [0, 0, 3, 4]


def test_short_pieces_fill_the_gaps_of_wide_bins() -> None:
    bins, offsets, widths = best_fit([7, 2, 2, 2], [4, 10])
    assert widths == [10, 4]
    assert bins.tolist() == [0, 0, 1, 1]
    assert offsets.tolist() == [0, 7, 0, 2]


def test_best_fit_never_overlaps_or_overflows() -> None:
    lengths = np.sort(np.random.default_rng(1).integers(1, 41, 300))[::-1].tolist()
    bins, offsets, widths = best_fit(lengths, [16, 40])
    used = [np.zeros(width, dtype=int) for width in widths]
    for piece, length in enumerate(lengths):
        assert offsets[piece] + length <= widths[bins[piece]]
        used[bins[piece]][offsets[piece] : offsets[piece] + length] += 1
    assert max(bin.max() for bin in used) == 1
    assert sum(bin.sum() for bin in used) == sum(lengths)
    assert sum(widths) <= 1.05 * sum(lengths)


@pytest.mark.parametrize("padding_tokens", [False, True])
@pytest.mark.parametrize("widths", [(), (4,), (3, 6), (16, 32)])
def test_every_token_has_its_place(padding_tokens: bool, widths: tuple[int, ...]) -> None:
    lengths = [1, 8, 3, 3, 7, 2, 5, 1, 6]
    seq, seq_len = histories(lengths, 8)
    layout = pack(seq, seq_len, padding_tokens=padding_tokens, padded_length=8, widths=widths)
    for row, length in enumerate(lengths):
        own = (layout.row == row).nonzero()[:, 0]
        own = own[layout.item_ids[own] > 0]
        placed = own[torch.argsort(layout.position[own])]
        assert layout.item_ids[placed].tolist() == seq[row, :length].tolist()
        assert int(layout.last[row]) == int(placed[-1])
        extra = 1 if padding_tokens and length < 8 else 0
        assert int(layout.lengths[row]) == length + extra


def test_bias_joins_rows_and_counts_padding() -> None:
    seq, seq_len = histories([2, 1], 4)
    layout = pack(seq, seq_len, padding_tokens=True, padded_length=4, widths=(5,))
    (group,) = layout.groups
    assert (group.segments, group.width) == (1, 5)  # padding token and two items, padding token and one item
    bias = group.bias[0, 0]
    assert bias[2, :3].tolist() == pytest.approx([math.log(2), 0.0, 0.0])
    assert bias[4, 3:].tolist() == pytest.approx([math.log(3), 0.0])
    assert bias[:3, 3:].max() < -1e8
    assert bias[3:, :3].max() < -1e8
    assert layout.query_keep is not None
    assert layout.query_keep[:5, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]
    assert layout.tail == 3  # 5 tokens make 8


def test_sizes_are_few_and_close() -> None:
    sizes = {round_up(tokens) for tokens in range(1, 8193)}
    assert len(sizes) < 150
    for tokens in range(1, 8193):
        assert 0 <= round_up(tokens) - tokens <= max(7, tokens / 16)


def test_a_full_row_has_no_padding_token() -> None:
    seq, seq_len = histories([4], 4)
    layout = pack(seq, seq_len, padding_tokens=True, padded_length=4)
    assert layout.lengths.tolist() == [4]
    assert layout.groups[0].bias.abs().max() == 0


def test_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="empty history"):
        pack(torch.zeros(1, 4, dtype=torch.long), torch.tensor([0]), padding_tokens=False, padded_length=4)


def test_row_noise_does_not_depend_on_packing() -> None:
    seq, seq_len = histories([3, 1, 6], 8)
    alone, alone_len = seq[2:], seq_len[2:]
    together = pack(seq, seq_len, padding_tokens=True, padded_length=8, widths=(4,))
    single = pack(alone, alone_len, padding_tokens=True, padded_length=8, widths=())
    drawn = together.normal(RowNoise(torch.tensor([10, 11, 12]), 7), 5)
    drawn_alone = single.normal(RowNoise(torch.tensor([12]), 7), 5)
    own = (together.row == 2) & (together.item_ids > 0)
    order = torch.argsort(together.position[own])
    torch.testing.assert_close(drawn[own][order], drawn_alone[single.item_ids > 0], rtol=0, atol=0)
    assert together.normal(GlobalNoise(), 5).shape == drawn.shape
