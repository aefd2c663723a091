"""Histories of unequal length, packed side by side so that padding is hardly computed.

A batch of histories (B, L) padded to L = 50 is mostly padding (mean length of a training prefix on Amazon Beauty: 8.4).
Position-wise layers need no padding at all, and attention only needs to know which tokens belong together. So rows are
laid end to end into segments of a few fixed widths (best-fit decreasing bin packing); attention runs inside a segment
under a block-diagonal bias: 0 between tokens of one row, -inf between rows. The result equals the padded computation.

One padding token can stand for many. Where a model attends to padding (`padding_tokens=True`), the p = L - n equal
padding tokens of a row are one token whose key carries a bias of +log p, since p equal keys contribute p exp(s) = exp(s
+ log p) to the softmax; a row with n = L has none. It lies at the row's first place.

Shapes: B rows, M packed tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource

SEGMENT_WIDTHS = (32,)  # wide enough for one attention call to do many rows, narrow enough for its waste to be small


@dataclass(frozen=True)
class SegmentGroup:
    """Segments of one width: tokens start .. start + segments * width of the packed batch."""

    start: int
    segments: int
    width: int
    bias: Tensor
    """(segments, 1, width, width), added to attention scores: query by key."""

    @property
    def tokens(self) -> int:
        """Number of tokens, unused places included."""
        return self.segments * self.width

    @property
    def stop(self) -> int:
        """One past the group's last token."""
        return self.start + self.tokens


@dataclass(frozen=True)
class PackedHistory:
    """Where every token of a batch of histories lies."""

    item_ids: Tensor
    """(M,) item ids; 0 for padding tokens and for unused places."""
    row: Tensor
    """(M,) which of the B rows a token belongs to (0 for unused places)."""
    position: Tensor
    """(M,) place of a token among its row's tokens, padding token included."""
    last: Tensor
    """(B,) packed index of each row's last item."""
    lengths: Tensor
    """(B,) tokens per row, padding token included; on the CPU."""
    query_keep: Tensor | None
    """(M, 1) 0 for padding tokens, 1 elsewhere; None without padding tokens."""
    groups: tuple[SegmentGroup, ...]
    tail: int
    """Unused places after the last group, which make M a round number (see `round_up`)."""

    @property
    def rows(self) -> int:
        """B."""
        return int(self.last.shape[0])

    def normal(self, noise: NoiseSource, dim: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws for every token, (M, dim); a row's draws do not depend on how the batch is packed
        when `noise` is per row."""
        device = self.item_ids.device
        if not noise.per_row:
            return noise.normal((int(self.item_ids.shape[0]), dim), device=device, dtype=dtype)
        widest = int(self.lengths.max())
        drawn = noise.normal((self.rows, widest, dim), device=device, dtype=dtype, lengths=self.lengths)
        return drawn[self.row, self.position]


def round_up(tokens: int) -> int:
    """The next of 16 to 32 sizes per power of two, at most 1/16 (for few tokens, 7 tokens) more.

    Without rounding nearly every batch has a shape of its own, and memory was seen to grow by ten megabytes a step;
    with it, not. Presumably kernels are prepared for each shape and kept.
    """
    quantum = max(8, 1 << (tokens.bit_length() - 5)) if tokens > 16 else 8
    return -(-tokens // quantum) * quantum


def best_fit(lengths: Sequence[int], widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Best-fit decreasing bin packing of pieces into bins of a few widths.

    A piece goes where the least room that holds it is left; where none is, it opens a bin of the smallest width that
    holds it. So the gaps that long pieces leave are filled by short ones.

    Args:
        lengths: piece lengths in decreasing order, none longer than the largest width.
        widths: bin widths in increasing order.

    Returns:
        bin of each piece, offset of each piece inside its bin, width of each bin.
    """
    largest = widths[-1]
    smallest_width = np.searchsorted(np.asarray(widths), np.arange(largest + 1)).tolist()
    open_bins: list[list[int]] = [[] for _ in range(largest + 1)]  # by room left
    bins: list[int] = []
    offsets: list[int] = []
    bin_widths: list[int] = []
    for length in lengths:
        for room in range(length, largest + 1):
            if open_bins[room]:
                chosen = open_bins[room].pop()
                break
        else:
            chosen, room = len(bin_widths), widths[smallest_width[length]]
            bin_widths.append(room)
        bins.append(chosen)
        offsets.append(bin_widths[chosen] - room)
        open_bins[room - length].append(chosen)
    return np.asarray(bins), np.asarray(offsets), bin_widths


def pack(
    item_seq: Tensor,
    item_seq_len: Tensor,
    *,
    padding_tokens: bool,
    padded_length: int,
    widths: Sequence[int] = SEGMENT_WIDTHS,
) -> PackedHistory:
    """Pack right-padded histories.

    Args:
        item_seq: (B, L') item ids, real items first, then 0.
        item_seq_len: (B,) number of real items, at least 1.
        padding_tokens: whether a row shorter than `padded_length` keeps one token for its padding.
        padded_length: L, the length the histories count as padded to.
        widths: segment widths, increasing; rows longer than all of them get segments as long as the longest row.

    Raises:
        ValueError: a row without items.
    """
    device = item_seq.device
    real = item_seq_len.cpu().numpy().astype(np.int64)
    if real.size == 0 or real.min() < 1:
        raise ValueError("got an empty history; every row needs at least one item")
    pads = np.maximum(padded_length - real, 0) if padding_tokens else np.zeros_like(real)
    has_pad = (pads > 0).astype(np.int64)
    lengths = real + has_pad
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max())
    widest = max(longest, min(widths[-1] if widths else 0, int(lengths.sum())))
    all_widths = [*(width for width in widths if width < widest), widest]

    bins, offsets, bin_widths = best_fit(lengths[order].tolist(), all_widths)
    start_of_bin = np.empty(len(bin_widths), dtype=np.int64)
    layout: list[tuple[int, int, int]] = []
    total = 0
    for width in all_widths:
        own = np.flatnonzero(np.asarray(bin_widths) == width)
        if own.size:
            start_of_bin[own] = total + np.arange(own.size) * width
            layout.append((total, int(own.size), width))
            total += int(own.size) * width
    start_of_row = np.empty_like(lengths)
    start_of_row[order] = start_of_bin[bins] + offsets

    covered = total
    total = round_up(total)
    token_row = np.repeat(np.arange(len(lengths)), lengths)
    first_token = np.cumsum(lengths) - lengths
    position = np.arange(token_row.size) - first_token[token_row]
    place = start_of_row[token_row] + position

    row = np.zeros(total, dtype=np.int64)
    row[place] = token_row
    packed_position = np.zeros(total, dtype=np.int64)
    packed_position[place] = position
    owner = -1 - np.arange(total, dtype=np.int64)  # unused places inside a segment attend to themselves alone
    owner[place] = token_row
    key_bias = np.zeros(total, dtype=np.float32)
    is_pad_token = (position == 0) & (has_pad[token_row] == 1)
    pad_place = place[is_pad_token]
    key_bias[pad_place] = np.log(pads[token_row[is_pad_token]])
    column = np.maximum(position - has_pad[token_row], 0)

    groups = []
    for start, count, width in layout:
        stop = start + count * width
        owners = torch.from_numpy(owner[start:stop].reshape(count, width)).to(device)
        bias = torch.from_numpy(key_bias[start:stop].reshape(count, 1, 1, width)).to(device)
        apart = (owners[:, None, :, None] != owners[:, None, None, :]).to(torch.float32)
        groups.append(SegmentGroup(start, count, width, bias - apart.mul_(1e9)))
    place_on_device = torch.from_numpy(place).to(device)
    item_ids = torch.zeros(total, dtype=item_seq.dtype, device=device)
    ids = item_seq[torch.from_numpy(token_row).to(device), torch.from_numpy(column).to(device)]
    if padding_tokens:
        ids = ids.masked_fill(torch.from_numpy(is_pad_token).to(device), 0)
    item_ids[place_on_device] = ids
    query_keep = None
    if padding_tokens:
        query_keep = torch.ones(total, 1, device=device)
        query_keep[torch.from_numpy(pad_place).to(device)] = 0.0
    return PackedHistory(
        item_ids=item_ids,
        row=torch.from_numpy(row).to(device),
        position=torch.from_numpy(packed_position).to(device),
        last=torch.from_numpy(start_of_row + lengths - 1).to(device),
        lengths=torch.from_numpy(lengths),
        query_keep=query_keep,
        groups=tuple(groups),
        tail=total - covered,
    )
