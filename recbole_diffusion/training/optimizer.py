"""Optimisers and learning rates: Adam in one fused kernel, step decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.row_wise_adam import RowWiseAdam, RowWiseAdamW


def refuse_dense_parameters(learner: str, model: torch.nn.Module) -> None:
    """torch's SparseAdam takes the gradients of sparse embeddings alone; with any other the first step fails.

    Raises:
        UserError: the learner is `sparse_adam` and the model trains another parameter; names one.
    """
    if learner.lower() != "sparse_adam":
        return
    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    sparse = {id(part.weight) for part in model.modules() if isinstance(part, tables) and part.sparse}
    dense = [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in sparse]
    if dense:
        raise UserError(
            f"learner is {learner}, which trains embeddings with sparse=True alone; {type(model).__name__} has "
            f"{len(dense)} other parameters, such as {dense[0]}; set learner: adam"
        )


def fused_adam(
    learner: str, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float, *, row_wise: bool = False
) -> torch.optim.Optimizer | None:
    """Adam or AdamW, fused where the parameters allow it; None for another learner, for sparse parameters and devices
    without the kernel, which RecBole's trainer builds. `row_wise` takes sparse gradients, row by row."""
    name, devices = learner.lower(), {parameter.device.type for parameter in parameters}
    sparse = any(parameter.is_sparse for parameter in parameters)
    if name not in ("adam", "adamw") or not devices <= {"cpu", "cuda"} or sparse:
        return None
    adam, adamw = (RowWiseAdam, RowWiseAdamW) if row_wise else (torch.optim.Adam, torch.optim.AdamW)
    return (adam if name == "adam" else adamw)(
        parameters,
        lr=learning_rate,
        weight_decay=weight_decay,
        fused=bool(parameters) and all(parameter.is_floating_point() for parameter in parameters),
    )


def step_decay(optimizer: torch.optim.Optimizer, config: Any) -> StepLR | None:
    """`scheduler: step`: times `scheduler_gamma` every `scheduler_step_size` epochs; None for a constant rate."""
    if config["scheduler"] is None:
        return None
    return StepLR(optimizer, step_size=config["scheduler_step_size"], gamma=config["scheduler_gamma"])
