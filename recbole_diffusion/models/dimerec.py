"""DimeRec: guidance from a multi-interest model, diffusion on the unit sphere (Li et al., WSDM 2025, arXiv 2408.12153).

An extractor turns a history into K guidance vectors g, computed once a user (Eq. 13; Eq. 15 by rule, Eq. 16 and 17 by
self-attention, the others of Table 3). The target x_0 = e_a / |e_a| is noised by a walk along a great circle, and a
perceptron restores it (Algorithm 1, Eq. 20):

    x_t = exp_{x_0}(s_t eps_x),   x_0_hat = MLP(x_t, t, g), divided by its length
    L   = L_gem + lambda |x_0 - x_0_hat|^2 + mu L_ssm                                             (Eq. 19, 21, 22, 23)

L_gem is the sampled softmax of the guidance vector that suits the target (Eq. 18), L_ssm that of x_0_hat, both with the
same negatives. Inference reverses T steps from a random direction (Algorithm 2) and ranks by e_u . e_i (section 4.4).

There is no published code. What the paper leaves open or contradicts is a key; docs/decisions has 074 (walk and reverse
chain), 075 (extractor and denoiser) and 076 (losses, negatives, gradients). The ablations of Table 4:
  w/o L_gem `guidance_weight: 0`, w/o L_recon `reconstruction_weight: 0`, w/o L_ssm `ranking_weight: 0`,
  w/o GRW `noise_space: euclidean`; Variants 1 to 4 are combinations of these.

Shapes: B rows, K guidance vectors, L history, D embedding, V items, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.denoisers.mlp import MLPDenoiser
from recbole_diffusion.diffusion.noise import NoiseSource, build_noise
from recbole_diffusion.diffusion.process import CLEAN
from recbole_diffusion.diffusion.sphere import normalise
from recbole_diffusion.diffusion.steps import build_step_sampler
from recbole_diffusion.interests.guidance_extractors import build_guidance_extractor, guidance_count
from recbole_diffusion.interests.history_encoder import HistoryEncoder
from recbole_diffusion.interests.multi_interest import Interests, select_interest
from recbole_diffusion.losses.same_negatives import losses_of_each, without_history
from recbole_diffusion.models.base import DiffusionRecommender, mean_over, named_part
from recbole_diffusion.models.dimerec_options import DimeRecOptions


class DimeRec(DiffusionRecommender):
    """DimeRec as a RecBole `SequentialRecommender`."""

    Options = DimeRecOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: DimeRecOptions = self.options
        std = math.sqrt(2 / (self.n_items + o.hidden_size)) if o.item_init_std == "xavier" else o.item_init_std
        self.item_embedding = self.new_item_table(std)
        self.history_encoder = None
        if o.history_encoder == "sasrec":
            self.history_encoder = HistoryEncoder(
                o.hidden_size, self.max_seq_length, o.n_layers, o.n_heads, o.dropout_prob, None
            )
        self.extractor = build_guidance_extractor(
            o.guidance,
            o.hidden_size,
            o.n_interests,
            self.max_seq_length,
            positions=o.use_positions,
            bias=o.bias,
            routing_softmax=o.routing_softmax,
            routing_iterations=o.routing_iterations,
            initialisation=o.initialisation,
            n_layers=o.n_layers,
            n_heads=o.n_heads,
            dropout=o.dropout_prob,
        )
        self.denoiser = MLPDenoiser(
            o.hidden_size,
            o.num_steps,
            n_guidance=guidance_count(o.guidance, o.n_interests),
            hidden_sizes=o.denoiser_hidden_sizes,
            activation=o.hidden_act,
            fusion=o.guidance_fusion,
            unit_output=o.noise_space == "sphere" and o.normalise_prediction,
        )
        self.process = o.process()
        self.noise = build_noise(named_part(o.noise))
        self.step_sampler = build_step_sampler(named_part(o.step_sampler), o.num_steps + o.train_clean_step)
        self.use_reverse_steps(o.inference_steps)
        self.objective = self.new_objective(dataset, negatives_per_row=o.negatives == "per_row")
        self.objective.remove_hits = o.remove_hits or o.avoid_history

    def use_reverse_steps(self, steps: int | None) -> None:
        """See :meth:`DiffusionRecommender.use_reverse_steps`."""
        self.sampler = self.options.chain(self.process, steps)

    def guidance(self, interaction: Interaction) -> Interests:
        """The guidance of a batch of histories (Eq. 13), with its weights over the items."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = self.item_embedding(item_seq)
        if self.history_encoder is not None:
            items = self.history_encoder(items, lengths)
        return self.extractor(items, lengths)

    def guidance_vectors(self, interaction: Interaction) -> Tensor:
        """The guidance alone (B, K, D): what `rank_by: guidance` ranks by, an item's score the best over K."""
        return self.guidance(interaction).vectors

    def denoiser_input(self, guidance: Interests) -> Tensor:
        """Guidance vectors (B, K, D) as the denoiser gets them: 0 for one that a short history does not have."""
        if guidance.valid is None:
            return guidance.vectors
        return guidance.vectors.masked_fill(~guidance.valid[:, :, None], 0.0)

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """L_gem, lambda L_recon and mu L_ssm (Eq. 23); a term of weight 0 is not computed."""
        o: DimeRecOptions = self.options
        targets = interaction[self.POS_ITEM_ID]
        guidance, items = self.guidance(interaction), self.item_embedding(targets)
        weights = {
            "guidance": o.guidance_weight,
            "reconstruction": o.reconstruction_weight,
            "ranking": o.ranking_weight,
        }
        rows: dict[str, Tensor] = {}
        users: dict[str, Tensor] = {}
        if o.guidance_weight:
            users["guidance"] = select_interest(guidance.vectors, items)[1]
        diffuses = bool(o.reconstruction_weight or o.ranking_weight)
        if diffuses:
            x_0, x_0_hat, t, step_weight = self.restore(items, self.denoiser_input(guidance))
            if o.reconstruction_weight:
                rows["reconstruction"] = (x_0.float() - x_0_hat.float()).square().sum(-1)
            if o.ranking_weight:
                users["ranking"] = x_0_hat.float() / o.temperature
        rows.update(self.ranking_losses(users, targets, interaction[self.ITEM_SEQ]))
        rows = {name: weight * rows[name] for name, weight in weights.items() if weight}
        if diffuses:
            restored = [loss for name, loss in rows.items() if name != "guidance"]
            self.step_sampler.update(t, torch.stack(restored).sum(0).detach())
            rows = {name: loss if name == "guidance" else step_weight * loss for name, loss in rows.items()}
        return {name: loss.mean() for name, loss in rows.items()}

    def restore(self, items: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noise the targets and predict them again (Algorithm 1, lines 4 to 8).

        Args:
            items: (B, D) the targets' embeddings.
            guidance: (B, K, D).

        Returns:
            x_0 (B, D), x_0_hat (B, D), the step sampler's draws t (B,) and their weights (B,).
        """
        o: DimeRecOptions = self.options
        x_0 = normalise(items) if o.noise_space == "sphere" else items
        x_0 = x_0.detach() if o.detach_target else x_0
        t, weight = self.step_sampler.sample(len(items), device=items.device)
        slots = t - int(o.train_clean_step)
        x_t = self.process.sample(x_0, slots.clamp_min(0), noise=self.noise).x_t
        if o.train_clean_step:
            x_t = torch.where((slots == CLEAN)[:, None], x_0, x_t)
        condition = self.denoiser.condition(guidance.detach() if o.detach_guidance else guidance)
        x_0_hat = self.denoiser(x_t, slots, condition, noise=self.noise)
        return x_0, x_0_hat, t, weight

    def ranking_losses(self, users: dict[str, Tensor], targets: Tensor, item_seq: Tensor) -> dict[str, Tensor]:
        """Ranking losses (B,) of several user vectors (B, D) of each row with the same negatives (Eq. 19, 22)."""
        o: DimeRecOptions = self.options
        if not users:
            return {}
        sampler = self.objective.sampler
        negatives = None if sampler is None else sampler(targets, self.n_items)
        if negatives is not None and o.avoid_history and not negatives.shared:
            negatives = without_history(negatives, targets, item_seq)
        return losses_of_each(users, self.item_vectors(), targets, negatives, self.objective)

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """(B, 1, D) of the reverse chain, or the guidance (B, K, D) with `rank_by: guidance`."""
        if self.options.rank_by == "guidance":
            return self.guidance_vectors(interaction)
        return super().user_vectors(interaction)

    def mean_user_vectors(self, interaction: Interaction, noises: Sequence[NoiseSource]) -> Tensor:
        """Reverse chains from random directions (Algorithm 2): the mean of e_u (B, 1, D), with one guidance for all."""
        guidance = self.denoiser_input(self.guidance(interaction))
        shape, condition = (guidance.shape[0], self.options.hidden_size), self.denoiser.condition(guidance)

        def draw(noise: NoiseSource) -> Tensor:
            x_T = self.process.prior(shape, device=guidance.device, noise=noise)
            return self.sampler(self.denoiser, x_T, condition, noise=noise)

        return mean_over(noises, draw)[:, None]

    def item_vectors(self) -> Tensor:
        """The item embedding table (V, D), of unit rows with `normalise_items`."""
        weight = self.item_embedding.weight
        return normalise(weight) if self.options.normalise_items else weight
