"""The part of a model that is exported: a history's items in, its user vectors out, the reverse chain unrolled.

    item_seq (B, L) int64, 0 after the last item  ->  user_vectors (B, K, D) float32

B is free, L is the run's MAX_ITEM_LIST_LENGTH. The noise of a reverse chain is computed in the program from a key of
the row, by the same arithmetic as evaluation's (counter_streams.py): the key is the history's own, as for a
`Recommender` without keys, or a second input `row_key (B,) int64`, as for one with keys and for evaluation (there the
row's number). A row without an item has no vectors: they are NaN.

What a traced program needs of the models, and which numbers ONNX keeps: docs/decisions/125-traced-programs.md.
Shapes: B rows, L history, K user vectors a row, D embedding, V items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender, history_powers
from recbole_diffusion.registry import resolve_model

ITEM_SEQ, ROW_KEY, USER_VECTORS = "item_seq", "row_key", "user_vectors"


class TracedRows:
    """Stands for an `Interaction` while a program is traced: that class takes the number of its rows for a constant."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.interaction = dict(columns)

    def __getitem__(self, name: str) -> Tensor:
        return self.interaction[name]


class UserEncoder(nn.Module):
    """A model's user vectors as a module of tensors alone.

    Args:
        model: in evaluation mode.
        row_keys: whether rows are keyed by a second input; else by their histories.
    """

    powers: Tensor

    def __init__(self, model: VectorRecommender, *, row_keys: bool = False) -> None:
        super().__init__()
        self.model = model
        self.row_keys = row_keys
        self.register_buffer("powers", history_powers(model.max_seq_length))

    def forward(self, item_seq: Tensor, row_key: Tensor | None = None) -> Tensor:
        """item_seq (B, L) and, where rows are keyed by it, row_key (B,) -> (B, K, D)."""
        model = self.model
        length = (item_seq > 0).sum(1)
        key = row_key if self.row_keys and row_key is not None else wrapped_sum(item_seq * self.powers)
        columns = {model.ITEM_SEQ: item_seq, model.ITEM_SEQ_LEN: length.clamp_min(1), EVALUATION_ROW: key}
        vectors = model.user_vectors(TracedRows(columns))
        return vectors.float().masked_fill((length == 0)[:, None, None], math.nan)


def wrapped_sum(numbers: Tensor) -> Tensor:
    """Sums (B,) modulo 2^64 of int64 (B, N), N at least 1, by additions alone: ONNX Runtime's ReduceSum goes through
    floating-point numbers, which lose the lower bits."""
    while (width := numbers.shape[1]) > 1:
        half = width // 2
        folded = numbers[:, :half] + numbers[:, half : 2 * half]
        numbers = folded if width % 2 == 0 else torch.cat((folded, numbers[:, 2 * half :]), dim=1)
    return numbers[:, 0]


@dataclass(frozen=True)
class Inference:
    """What a model does to rank one history.

    Attributes:
        draws_noise: whether its vectors depend on the row's key.
        reverse_steps: calls of its denoiser in one reverse chain; 0 without one.
        chains: how many chains are averaged; 0 without one.
    """

    draws_noise: bool
    reverse_steps: int
    chains: int


@torch.no_grad()
def watched_inference(model: VectorRecommender, item_seq: Tensor) -> Inference:
    """Rank some histories, with two keys each, and watch.

    Args:
        model: in evaluation mode.
        item_seq: (B, L), every row with one item at least; short ones may need no noise, so give several.
    """

    def vectors(some: Tensor, first_key: int) -> Tensor:
        keys = torch.arange(first_key, first_key + len(some))
        columns = {model.ITEM_SEQ: some, model.ITEM_SEQ_LEN: (some > 0).sum(1), EVALUATION_ROW: keys}
        return model.user_vectors(TracedRows(columns))

    calls: list[None] = []
    denoisers = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "denoiser"]
    hooks = [module.register_forward_hook(lambda *_: calls.append(None)) for module in denoisers]
    try:
        vectors(item_seq[:1], 0)
    finally:
        for hook in hooks:
            hook.remove()
    chains = int(getattr(model.options, "n_eval_samples", 1)) if calls else 0
    return Inference(
        draws_noise=not torch.equal(vectors(item_seq, 0), vectors(item_seq, len(item_seq))),
        reverse_steps=len(calls) // max(chains, 1),
        chains=chains,
    )


def check_exportable(name: str) -> None:
    """Refuse models that do not rank by user and item vectors, before anything is built.

    Args:
        name: the model's name or `package.module:Class`.

    Raises:
        UserError: names it, and what can be exported.
    """
    model_class = resolve_model(name).model_class
    if not issubclass(model_class, VectorRecommender):
        why = "does not rank by user and item vectors"
    elif model_class.full_sort_predict is not VectorRecommender.full_sort_predict:
        why = "has a full_sort_predict of its own, so user and item vectors are not all of its scores"
    else:
        return
    raise UserError(
        f"{name} cannot be exported: it {why}; these can: {', '.join(OUR_MODELS)}, and a VectorRecommender of your own"
    )
