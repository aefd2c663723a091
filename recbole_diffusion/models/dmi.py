"""DMI: a diffusion model that refines the interests of a multi-interest recommender (Le et al., arXiv 2502.05561).

A base model (REMI, ComiRec-SA or ComiRec-DR) extracts K interests V and their weights A over the history (Eq. 4, 5).
In training the one that suits the target, v = V[argmax_k V_k . e_a] (Eq. 14), is noised and restored from the items
that matter most to it (Eq. 7, 11, 12); the mixture of both ranks:

    C = H[top ceil(gamma n) of a];  v_t = sqrt(ab_t) sg(v) + sqrt(1 - ab_t) eps;  v_0_hat = f(v_t, t, C)
    z = eta v_0_hat + (1 - eta) v                                                                      (Eq. 13)
    L = L_S(z) + lambda |v_0_hat - sg(v)| + L_base                                             (Eq. 16, 18, 19)

sg stops gradients: the reconstruction loss trains the denoiser alone, the ranking loss L_S the denoiser and, through
(1 - eta) v, the extractor. Inference (Algorithm 2) noises every interest to t = T and reverses T steps (Eq. 9, 10);
an item scores by the best of the K mixtures (Eq. 20). The K chains are one: K queries over one history.

There is no published code. What the paper leaves open is a key, docs/decisions/078 (schedule), 079 (denoiser) and 080
(gradients, and whether the denoiser does more than copy). The ablations of Table 3: `diffusion: False` (-diff),
`denoiser: mlp` (-T), `keep_ratio: 1` (-IP), `detach_interest: False, detach_condition: never, fusion_weight: 1` (-GD).

Shapes: B rows, K interests, L history, D embedding, V items, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.denoisers.cross_attention import CrossAttentionDenoiser
from recbole_diffusion.denoisers.pooled_mlp import PooledMLPDenoiser
from recbole_diffusion.diffusion.noise import NoiseSource, build_noise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.steps import build_step_sampler
from recbole_diffusion.interests.multi_interest import Interests, SelfAttentiveInterests, select_interest
from recbole_diffusion.interests.routing import DynamicRouting
from recbole_diffusion.models.base import DiffusionRecommender, mean_over, named_part
from recbole_diffusion.models.dmi_options import DMIOptions
from recbole_diffusion.models.interest_refinement import InterestRefinement, Reconstruction


def _refinement(o: DMIOptions) -> InterestRefinement:
    """The diffusion of these options."""
    common: dict[str, Any] = {
        "probability": o.dropout_prob,
        "activation": o.hidden_act,
        "rescale_steps": o.rescale_steps,
    }
    denoiser: CrossAttentionDenoiser | PooledMLPDenoiser
    if o.denoiser == "mlp":
        denoiser = PooledMLPDenoiser(o.hidden_size, o.num_steps, **common)
    else:
        denoiser = CrossAttentionDenoiser(
            o.hidden_size,
            o.num_steps,
            layers=o.n_layers,
            heads=o.n_heads,
            norm=o.norm,
            query_residual=o.query_residual,
            final_norm=o.final_norm,
            step_input=o.step_input,
            **common,
        )
    process = GaussianProcess(o.schedule(), reverse_noise=o.reverse_noise)
    return InterestRefinement(
        denoiser,
        process,
        o.chain(process, o.inference_steps),
        build_noise(named_part(o.noise)),
        keep_ratio=o.keep_ratio,
        fusion_weight=o.fusion_weight,
        detach_interest=o.detach_interest,
        detach_condition=o.detach_condition,
        distance=o.reconstruction_loss,
        start_noise=o.start_noise,
    )


class DMI(DiffusionRecommender):
    """DMI as a RecBole `SequentialRecommender`."""

    Options = DMIOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: DMIOptions = self.options
        sizes = (o.hidden_size, o.n_interests, self.max_seq_length)
        self.item_embedding = self.new_item_table(o.item_init_std)
        self.extractor: SelfAttentiveInterests | DynamicRouting
        if o.base == "comirec_dr":
            self.extractor = DynamicRouting(*sizes, softmax=o.routing_softmax, iterations=o.routing_iterations)
        else:
            self.extractor = SelfAttentiveInterests(*sizes, positions=o.use_positions, bias=o.bias)
        self.extractor.reset_parameters(o.initialisation)
        hardness = o.hardness if o.base == "remi" else 0.0
        self.objective = self.new_objective(dataset, hardness=hardness, detach_weights=o.detach_weights)
        self.refinement = _refinement(o) if o.diffusion else None
        self.step_sampler = build_step_sampler(named_part(o.step_sampler), o.num_steps)

    def use_reverse_steps(self, steps: int | None) -> None:
        """See :meth:`DiffusionRecommender.use_reverse_steps`."""
        if self.refinement is not None:
            self.refinement.sampler = self.options.chain(self.refinement.process, steps)

    def interests(self, interaction: Interaction) -> tuple[Tensor, Interests]:
        """Embedded histories (B, L, D) and the base's interests of them."""
        items = self.item_embedding(interaction[self.ITEM_SEQ])
        return items, self.extractor(items, interaction[self.ITEM_SEQ_LEN])

    def selected(self, interaction: Interaction, interests: Interests) -> tuple[Tensor, Tensor]:
        """The interest that each row's target picks (Eq. 14), (B, D), and its weights over the items, (B, L)."""
        index, vector = select_interest(interests.vectors, self.item_embedding(interaction[self.POS_ITEM_ID]))
        return vector, interests.weights[torch.arange(len(index), device=index.device), index]

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Ranking by the refined interest, its reconstruction, the base's routing regulariser (Eq. 16, 18, 19)."""
        o: DMIOptions = self.options
        targets, lengths = interaction[self.POS_ITEM_ID], interaction[self.ITEM_SEQ_LEN]
        items, interests = self.interests(interaction)
        user, weights = self.selected(interaction, interests)
        refined: dict[str, Tensor] = {}
        share: Tensor | float = 1.0
        if self.refinement is not None:
            t, share = self.step_sampler.sample(len(targets), device=targets.device)  # z depends on t, so both terms do
            user, found = self.refinement.restore(user, weights, items, lengths, t)
            self.step_sampler.update(t, found.restored.detach())
            refined["reconstruction"] = o.reconstruction_weight * (found.restored * share).mean()
        terms = {"ranking": (self.objective(user, self.item_embedding.weight, targets) * share).mean()}
        if o.base == "remi":
            terms |= o.routing_loss(interests, lengths, self.max_seq_length)
        return terms | refined

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """REMI's regulariser is a sum over rows, as published."""
        return self.options.summed_terms()

    def mean_user_vectors(self, interaction: Interaction, noises: Sequence[NoiseSource]) -> Tensor:
        """All interests, refined by chains of K queries a row (Algorithm 2): their mean (B, K, D), extracted once."""
        items, interests = self.interests(interaction)
        refinement = self.refinement
        if refinement is None:
            return interests.vectors
        condition = refinement.condition(interests, items, interaction[self.ITEM_SEQ_LEN])
        return mean_over(noises, lambda noise: refinement.chain(interests.vectors, condition, noise=noise))

    def reconstruction(self, interaction: Interaction, t: Tensor) -> Reconstruction:
        """How well the interests that a batch's targets select are restored from slots t (B,), beside copying.

        Raises:
            ValueError: `diffusion: False`, nothing is restored.
        """
        if self.refinement is None:
            raise ValueError("diffusion is False: there is no reconstruction to measure")
        items, interests = self.interests(interaction)
        lengths = interaction[self.ITEM_SEQ_LEN]
        return self.refinement.restore(*self.selected(interaction, interests), items, lengths, t)[1]
