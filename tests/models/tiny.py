"""A tiny DiffuRec for unit tests, and the published code's tiny weights loaded into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.config import RunConfig
from recbole_diffusion.models.diffurec import DiffuRec

TINY = {"hidden_size": 16, "n_layers": 2, "n_heads": 4, "num_steps": 8, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False}


class Items:
    """Stands for a dataset where a model only asks how many ids a field has."""

    def __init__(self, count: int) -> None:
        self.count = count

    def num(self, field: str) -> int:
        """Number of ids, the padding id included."""
        return self.count


def tiny_model(items: int = 51, **keys: Any) -> DiffuRec:
    """A DiffuRec over `items` ids (padding included) in evaluation mode."""
    config = RunConfig("DiffuRec", "tiny", (), {**TINY, **keys})
    return DiffuRec(config, Items(items)).eval()


def interaction(rows: list[list[int]], targets: list[int], length: int = 8) -> Interaction:
    """A batch of right-padded histories."""
    seq = torch.zeros(len(rows), length, dtype=torch.long)
    for row, items in enumerate(rows):
        seq[row, : len(items)] = torch.tensor(items)
    return Interaction(
        {
            "item_id_list": seq,
            "item_length": torch.tensor([len(items) for items in rows]),
            "item_id": torch.tensor(targets),
        }
    )


def load_published(model: DiffuRec, weights: dict[str, np.ndarray]) -> None:
    """Load the published code's state dict (names as in the reference numbers' README) into our model."""
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}
    ours = {"item_embedding.weight": tensors["item_embeddings.weight"]}
    for end in ("weight", "bias"):
        ours[f"history_norm.{end}"] = tensors[f"LayerNorm.{end}"]
        ours[f"denoiser.norm.{end}"] = tensors[f"diffu.xstart_model.norm_diffu_rep.{end}"]
        for ours_name, theirs in (("first", "0"), ("second", "2")):
            ours[f"denoiser.mixing.step_embedding.{ours_name}.{end}"] = tensors[
                f"diffu.xstart_model.time_embed.{theirs}.{end}"
            ]
        for block in range(2):
            there = f"diffu.xstart_model.att.transformer_blocks.{block}"
            here = f"denoiser.blocks.{block}"
            ours[f"{here}.attention.projection.{end}"] = torch.cat(
                [tensors[f"{there}.attention.linear_layers.{part}.{end}"] for part in range(3)]
            )
            ours[f"{here}.attention.output.{end}"] = tensors[f"{there}.attention.w_layer.{end}"]
            ours[f"{here}.feed_forward.expand.{end}"] = tensors[f"{there}.feed_forward.w_1.{end}"]
            ours[f"{here}.feed_forward.contract.{end}"] = tensors[f"{there}.feed_forward.w_2.{end}"]
            ours[f"{here}.attention_norm.{end}"] = tensors[f"{there}.input_sublayer.norm.{end}"]
            ours[f"{here}.feed_forward_norm.{end}"] = tensors[f"{there}.output_sublayer.norm.{end}"]
    model.load_state_dict(ours)
