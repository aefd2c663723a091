"""Which models draw user vectors by a reverse chain when they rank, and several chains of a batch at once.

Shapes: B rows, S chains, K user vectors a row, D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.diffusion.noise import RowNoise
from recbole_diffusion.models.base import DiffusionRecommender


def why_without_chain(model_class: type, config: Any) -> str | None:
    """Why a model ranks without a reverse chain, as the end of a sentence that begins with its name; None if with one.

    Args:
        model_class: the model's class.
        config: the run's keys.
    """
    if not issubclass(model_class, DiffusionRecommender):
        return "has no reverse chain; give a run of a diffusion model such as DiffuRec, DimeRec or DMI"
    if config["diffusion"] is False:
        return "was trained with diffusion: False and has no reverse chain; give a run with diffusion"
    if config["rank_by"] == "guidance":
        return "ranks by its guidance without a reverse chain (rank_by: guidance); add --rank_by=chain"
    return None


@torch.no_grad()
def draw_chains(model: DiffusionRecommender, interaction: Interaction, samples: int) -> Tensor:
    """User vectors of several independent draws, (S, B, K, D).

    Draw s is the mean of the model's `n_eval_samples` chains, those with the numbers s n .. s n + n - 1, so the mean of
    S draws is what the model ranks by with S times as many `n_eval_samples`, and one draw is what it ranks by anyhow.
    The rows of all chains go through the model side by side.

    Args:
        model: it has a reverse chain.
        interaction: B rows.
        samples: S.
    """
    each = model.options.n_eval_samples
    chains = [model.evaluation_noise(interaction, number) for number in range(samples * each)]
    rows = len(interaction)
    keyed = [chain for chain in chains if isinstance(chain, RowNoise)]
    if len(keyed) < len(chains):  # eval_seed: ~
        vectors = torch.stack([model.sample_user_vectors(interaction, chain) for chain in chains])
    else:
        columns = interaction.interaction.items()
        repeated = Interaction({name: x.repeat(len(chains), *[1] * (x.dim() - 1)) for name, x in columns})
        vectors = model.sample_user_vectors(repeated, RowNoise.joined(keyed))
        vectors = vectors.reshape(len(chains), rows, *vectors.shape[1:])
    return vectors.reshape(samples, each, *vectors.shape[1:]).mean(1)
