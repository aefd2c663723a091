"""Histories of unequal length, packed side by side so that padding is hardly computed.

A batch of histories (B, L) padded to L = 50 is mostly padding (mean length of a training prefix on Amazon Beauty: 8.4).
Position-wise layers need no padding at all, and attention only needs to know which tokens belong together. So rows are
laid end to end into segments of a few fixed widths (best-fit decreasing bin packing); attention runs inside a segment
under a block-diagonal bias: 0 between tokens of one row, -inf between rows. The result equals the padded computation.

One padding token can stand for many. Where a model attends to padding (`padding_tokens=True`), the p = L - n equal
padding tokens of a row are one token whose key carries a bias of +log p, since p equal keys contribute p exp(s) = exp(s
+ log p) to the softmax; a row with n = L has none. It lies at the row's first place.

A traced program (torch.export) has no sizes that depend on values. There every row has a segment of its own, as wide as
the longest row can be: `rows_apart`, the same tokens with unused places after them.

Shapes: B rows, M packed tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    key_bias: Tensor
    """(M,) what a key's attention score is raised by in its row: 0 for an item, log p for p padding tokens, minus
    infinity for an unused place."""
    query_keep: Tensor | None
    """(M, 1) 0 for padding tokens, 1 elsewhere; None without padding tokens."""
    groups: tuple[SegmentGroup, ...]
    tail: int
    """Unused places after the last group, which make M a round number (see `round_up`)."""
    row_width: int | None = None
    """Width of the segments where every row has one of its own; None where rows share them."""

    @property
    def rows(self) -> int:
        """B."""
        return self.last.shape[0]

    def normal(self, noise: NoiseSource, dim: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws for every token, (M, dim); a row's draws do not depend on how the batch is packed
        when `noise` is per row."""
        device = self.item_ids.device
        if not noise.per_row:
            return noise.normal((int(self.item_ids.shape[0]), dim), device=device, dtype=dtype)
        widest = int(self.lengths.max()) if self.row_width is None else self.row_width
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
    if torch.compiler.is_compiling():
        return rows_apart(item_seq, item_seq_len, padding_tokens=padding_tokens, padded_length=padded_length)
    device = item_seq.device
    real = item_seq_len.cpu().numpy().astype(np.int64)
    if real.size == 0 or real.min() < 1:
        raise ValueError("got an empty history; every row needs at least one item")
    pads = np.maximum(padded_length - real, 0) if padding_tokens else np.zeros_like(real)
    if real.size == 1 and device.type == "cpu":
        return _pack_one(item_seq[0], int(real[0]), int(pads[0]), padding_tokens=padding_tokens)
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
    # What there is per row goes to the device once; what there is per token is made there.
    per_row = np.stack([lengths, start_of_row, pads, np.cumsum(lengths) - lengths])
    lengths_there, start, pads_there, first_token = torch.from_numpy(per_row).to(device)
    tokens = int(lengths.sum())
    everyone = torch.arange(len(lengths), device=device)
    token_row = torch.repeat_interleave(everyone, lengths_there, output_size=tokens)
    position = torch.arange(tokens, device=device) - first_token[token_row]
    place = start[token_row] + position
    padded = (pads_there > 0).long()
    is_pad_token = (position == 0) & (padded[token_row] == 1)

    row = torch.zeros(total, dtype=torch.long, device=device)
    row[place] = token_row
    packed_position = torch.zeros(total, dtype=torch.long, device=device)
    packed_position[place] = position
    owner = -1 - torch.arange(total, device=device)  # unused places inside a segment attend to themselves alone
    owner[place] = token_row
    key_bias = torch.zeros(total, device=device)
    query_keep = None
    ids = item_seq[token_row, (position - padded[token_row]).clamp_min(0)]
    if padding_tokens:
        ids = ids.masked_fill(is_pad_token, 0)
        own_pads = pads_there[token_row]
        key_bias[place] = torch.where(is_pad_token, own_pads, 1).to(torch.float32).log()
        query_keep = torch.ones(total, 1, device=device)
        query_keep[place, 0] = (~is_pad_token).to(torch.float32)
    item_ids = torch.zeros(total, dtype=item_seq.dtype, device=device)
    item_ids[place] = ids

    groups = []
    for first, count, width in layout:
        stop = first + count * width
        owners = owner[first:stop].view(count, width)
        bias = key_bias[first:stop].view(count, 1, 1, width)
        apart = (owners[:, None, :, None] != owners[:, None, None, :]).to(torch.float32)
        groups.append(SegmentGroup(first, count, width, bias - apart.mul_(1e9)))
    return PackedHistory(
        item_ids=item_ids,
        row=row,
        position=packed_position,
        last=start + lengths_there - 1,
        lengths=torch.from_numpy(lengths),
        key_bias=key_bias.masked_fill(owner < 0, -torch.inf),
        query_keep=query_keep,
        groups=tuple(groups),
        tail=total - covered,
    )


def _pack_one(item_seq: Tensor, length: int, pads: int, *, padding_tokens: bool) -> PackedHistory:
    """`pack` of a single row on the CPU: no bins to fill, one segment as long as the row, the same result.

    Args:
        item_seq: (L',) item ids.
        length: real items.
        pads: padded positions that one token stands for, 0 for no such token.
        padding_tokens: as in `pack`.
    """
    own_pad = int(pads > 0)
    covered = length + own_pad
    tail = round_up(covered) - covered
    item_ids = functional.pad(item_seq[:length], (own_pad, tail))
    key_bias = torch.zeros(covered)
    query_keep = torch.ones(covered + tail, 1) if padding_tokens else None
    if own_pad and query_keep is not None:
        key_bias[0] = torch.tensor(float(pads)).log()
        query_keep[0] = 0.0
    return PackedHistory(
        item_ids=item_ids,
        row=torch.zeros(covered + tail, dtype=torch.long),
        position=functional.pad(torch.arange(covered), (0, tail)),
        last=torch.tensor([covered - 1]),
        lengths=torch.tensor([covered]),
        key_bias=functional.pad(key_bias, (0, tail), value=-torch.inf),
        query_keep=query_keep,
        groups=(SegmentGroup(0, 1, covered, key_bias.expand(1, 1, covered, covered)),),
        tail=tail,
    )


def rows_apart(item_seq: Tensor, item_seq_len: Tensor, *, padding_tokens: bool, padded_length: int) -> PackedHistory:
    """The layout where every row has a segment of its own, made of tensor operations whose sizes no value decides.

    Args:
        item_seq, item_seq_len, padding_tokens, padded_length: see `pack`. Empty rows are not refused.
    """
    device, (rows, given) = item_seq.device, item_seq.shape
    real = item_seq_len.to(device=device, dtype=torch.int64)
    pads = (padded_length - real).clamp_min(0) if padding_tokens else torch.zeros_like(real)
    has_pad = (pads > 0).long()
    width = given + 1 if padding_tokens and given < padded_length else given
    lengths = real + has_pad
    place = torch.arange(width, device=device).expand(rows, width)
    used = place < lengths[:, None]
    is_pad_token = (place == 0) & (has_pad == 1)[:, None]
    ids = item_seq.gather(1, (place - has_pad[:, None]).clamp(0, given - 1)).masked_fill(~used | is_pad_token, 0)
    alone = torch.eye(width, dtype=torch.bool, device=device)  # unused places attend to themselves
    together = (used[:, :, None] & used[:, None, :]) | alone
    bias = torch.where(is_pad_token, pads[:, None], 1).to(torch.float32).log()[:, None, :]
    bias = bias - (~together).to(torch.float32) * 1e9
    everyone = torch.arange(rows, device=device)
    return PackedHistory(
        item_ids=ids.reshape(-1),
        row=everyone[:, None].expand(rows, width).reshape(-1),
        position=place.masked_fill(~used, 0).reshape(-1),
        last=everyone * width + lengths - 1,
        lengths=lengths,
        key_bias=bias[:, 0].masked_fill(~used, -torch.inf).reshape(-1),
        query_keep=(~is_pad_token).to(torch.float32).reshape(-1, 1) if padding_tokens else None,
        groups=(SegmentGroup(0, rows, width, bias[:, None]),),
        tail=0,
        row_width=width,
    )
