"""Cross-entropy over all items without their logits in memory.

    L_b = -log( exp(u_b . e_a) / sum_v exp(u_b . e_v) ),   lse_b = log sum_v exp(u_b . e_v)

Forward goes through blocks of items with a running maximum and sum (Milakov and Gimelshein 2018), so that a block of
scores is gone before the next one comes. Backward makes each block again, p = exp(s - lse), and with it

    dL/du_b = g_b (sum_v p_bv e_v - e_a),   dL/de_v = sum_b g_b (p_bv - [v = a_b]) u_b,

g_b the gradient that row b's loss gets from above. It costs four products of the batch with the table instead of three,
in blocks that stay in a CPU's caches.

Where the scores of LEAST_ROWS rows fit in a block of rows (up to 262,144 items on a CPU), forward goes through the rows
instead, and takes sum_v p_bv e_v - e_a and sum_b (p_bv - [v = a_b]) u_b from each block of scores while it is there:
three products. Losses that are averaged or summed have one g for all rows, and backward multiplies by it; for weighted
ones it makes blocks again, as above.

The gradient of the table is one dense (V, D), each block of which is written once. autograd would add to it what
looking items up gives, and holds both meanwhile. With `joined` the loss writes into the table's `grad` itself, and the
sparse gradients of look-ups, which autograd brings later, are added to it in place (docs/decisions/121).

torch's `linear_cross_entropy` cuts the rows and keeps whole rows of scores (docs/decisions/120 says why that is not
used).

Shapes: B rows, D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_diffusion.linear import product

CPU_BLOCK_BYTES = 4 * 2**20  # of scores: a core's caches hold a block and what is made of it
BLOCK_BYTES = 128 * 2**20  # on an accelerator
BLOCK_ROWS = 1024
CPU_ROW_BYTES = 64 * 2**20  # of scores of whole rows
ROW_BYTES = 256 * 2**20
LEAST_ROWS = 64  # fewer read and write the table's gradient too often


def _blocks(size: int, step: int) -> Iterator[slice]:
    for begin in range(0, size, step):
        yield slice(begin, min(begin + step, size))


class _Cut:
    """How scores (B, V) are cut into blocks, and the type that they are computed in."""

    def __init__(self, users: Tensor, items: Tensor, first_item: int) -> None:
        self.type = users.dtype
        if torch.is_autocast_enabled(users.device.type):
            self.type = torch.get_autocast_dtype(users.device.type)
        self.first_item, self.n_items = first_item, items.shape[0]
        rows = min(max(users.shape[0], 1), BLOCK_ROWS)
        memory = CPU_BLOCK_BYTES if users.device.type == "cpu" else BLOCK_BYTES
        self.rows = list(_blocks(users.shape[0], rows))
        self.step = max(64, memory // (4 * rows))

    def items(self) -> Iterator[slice]:
        """Ids of each block of items."""
        for begin in range(self.first_item, self.n_items, self.step):
            yield slice(begin, min(begin + self.step, self.n_items))


def _scores(users: Tensor, items: Tensor) -> Tensor:
    """A block of scores, in float32 at least."""
    scores = product(users, items)
    return scores if scores.dtype == torch.float64 else scores.float()


def _own(targets: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Rows whose target lies in a block of items, and its column there."""
    rows = ((targets >= items.start) & (targets < items.stop)).nonzero()[:, 0]
    return rows, targets[rows] - items.start


def _rows_at_once(users: Tensor, items: Tensor, cut: _Cut) -> int:
    """Rows whose scores over all items fit in a block, 0 where these are too few or types differ."""
    if cut.type not in (torch.float32, torch.float64) or not cut.type == users.dtype == items.dtype:
        return 0
    memory = CPU_ROW_BYTES if users.device.type == "cpu" else ROW_BYTES
    rows = memory // (4 * max(1, items.shape[0]))
    return rows if rows >= min(LEAST_ROWS, users.shape[0]) else 0


def _forward_by_rows(
    users: Tensor, items: Tensor, targets: Tensor, cut: _Cut, at_once: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Normaliser and target's score of each row, and gradients of the sum of the losses where they are wanted."""
    first = cut.first_item
    table, column = items[first:], targets - first
    normaliser = torch.empty_like(users[:, 0])
    target_score = torch.empty_like(normaliser)
    for_users = torch.empty_like(users) if wanted[0] else None
    for_items = torch.zeros_like(items) if wanted[1] else None
    for rows in _blocks(users.shape[0], at_once):
        own = column[rows, None]
        scores = _scores(users[rows], table)
        target_score[rows] = scores.gather(1, own)[:, 0]
        largest, place = scores.max(1)
        scores = torch.softmax(scores, 1)
        normaliser[rows] = largest - scores.gather(1, place[:, None])[:, 0].log()
        scores.scatter_add_(1, own, torch.full_like(own, -1, dtype=scores.dtype))
        if for_users is not None:
            for_users[rows] = product(scores, table.t())
        if for_items is not None:
            for_items[first:].addmm_(scores.t(), users[rows])
    return normaliser, target_score, for_users, for_items


def _forward_by_items(users: Tensor, items: Tensor, targets: Tensor, cut: _Cut) -> tuple[Tensor, Tensor]:
    """Normaliser and target's score of each row."""
    exact = torch.float64 if users.dtype == torch.float64 else torch.float32
    low = users.to(cut.type)
    largest = users.new_full((users.shape[0],), -torch.inf, dtype=exact)
    total, target_score = torch.zeros_like(largest), torch.zeros_like(largest)
    for block in cut.items():
        vectors = items[block].to(cut.type)
        for rows in cut.rows:
            scores = _scores(low[rows], vectors)
            own, column = _own(targets[rows], block)
            target_score[rows][own] = scores[own, column]
            before = largest[rows].clone()
            now = torch.maximum(before, scores.amax(1))
            largest[rows] = now
            total[rows] *= (before - now).exp_()
            total[rows] += scores.sub_(now[:, None]).exp_().sum(1)
    return total.log_().add_(largest), target_score


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor, first_item: int, joined: bool) -> Tensor:
        cut = _Cut(users, items, first_item)
        at_once = _rows_at_once(users, items, cut)
        ctx.of_the_sum = None
        with torch.autocast(users.device.type, enabled=False):
            if at_once:
                wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
                found = _forward_by_rows(users, items, targets, cut, at_once, wanted)
                normaliser, target_score, ctx.of_the_sum = found[0], found[1], found[2:]
            else:
                normaliser, target_score = _forward_by_items(users, items, targets, cut)
        ctx.cut, ctx.table = cut, items if joined else None
        ctx.save_for_backward(users, items, targets, normaliser)
        return normaliser - target_score

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        users, items, targets, normaliser = ctx.saved_tensors
        cut: _Cut = ctx.cut
        table = ctx.table if ctx.needs_input_grad[1] else None
        made, ctx.of_the_sum = ctx.of_the_sum, None
        if made is not None and gradient.numel() and bool((gradient == gradient[0]).all()):
            for_users, for_items = (None if part is None else part.mul_(gradient[0]) for part in made)
            if table is not None and table.grad is not None:
                table.grad += for_items
            elif table is not None:
                table.grad = for_items
            return for_users, None if table is not None else for_items, None, None, None
        made = None
        low, gradient = users.to(cut.type), gradient.to(normaliser.dtype)
        for_users = torch.zeros_like(users, dtype=normaliser.dtype) if ctx.needs_input_grad[0] else None
        for_items, adds = None, False
        if ctx.needs_input_grad[1]:
            adds = table is not None and table.grad is not None
            for_items = table.grad if table is not None and adds else torch.empty_like(items)
            if not adds:  # every other row is written by the first block of rows
                for_items[: cut.first_item if cut.rows else None].zero_()
        for block in cut.items():
            vectors = items[block].to(cut.type)
            for rows in cut.rows:
                scores = _scores(low[rows], vectors)
                scores.sub_(normaliser[rows, None]).exp_().mul_(gradient[rows, None])
                own, column = _own(targets[rows], block)
                scores[own, column] -= gradient[rows][own]
                scores = scores.to(cut.type)
                if for_users is not None:
                    for_users[rows] += product(scores, vectors.t())
                if for_items is not None:
                    # the faster of the two orders
                    found = product(low[rows].t(), scores.t()).t()
                    if rows.start == 0 and not adds:
                        for_items[block] = found
                    else:
                        for_items[block] += found
        if table is not None:
            table.grad, for_items = for_items, None
        return None if for_users is None else for_users.to(users.dtype), for_items, None, None, None


def chunked_softmax(
    user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, *, include_padding: bool = True, joined: bool = False
) -> Tensor:
    """Cross-entropy of each row over the whole catalogue, block by block; `full_softmax` without its logits.

    Args:
        user_vectors: (B, D).
        item_vectors: (V, D), row 0 the padding item.
        targets: (B,) item ids, 1 .. V-1.
        include_padding: whether row 0 competes as a class.
        joined: add the gradient of `item_vectors`, a parameter, to its `grad` in place instead of handing it to
            autograd, whose `grad` and hooks do not see it then.

    Returns:
        (B,) losses in float32 (float64 for such vectors), not averaged.

    Raises:
        IndexError: a target that is no class.
        ValueError: `joined` with vectors that are no parameter.
    """
    if joined and not item_vectors.is_leaf:
        raise ValueError("only a parameter has a gradient of its own to join; leave joined out")
    first_item = 0 if include_padding else 1
    if targets.numel() and not (first_item <= int(targets.min()) and int(targets.max()) < item_vectors.shape[0]):
        raise IndexError(f"a target is not one of the items {first_item} .. {item_vectors.shape[0] - 1}")
    losses: Tensor = _LinearCrossEntropy.apply(user_vectors, item_vectors, targets, first_item, joined)
    return losses
