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

from dataclasses import dataclass
from typing import Any, Literal

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.denoisers.cross_attention import CrossAttentionDenoiser, Norm, StepInput
from recbole_diffusion.denoisers.pooled_mlp import PooledMLPDenoiser
from recbole_diffusion.denoisers.transformer import Activation
from recbole_diffusion.diffusion.noise import NoiseSource, build_noise
from recbole_diffusion.diffusion.process import GaussianProcess, ReverseNoise
from recbole_diffusion.diffusion.sampler import build_sampler
from recbole_diffusion.diffusion.schedules import NoiseSchedule, build_schedule
from recbole_diffusion.diffusion.steps import build_step_sampler
from recbole_diffusion.interests.multi_interest import Interests, SelfAttentiveInterests, real_items, select_interest
from recbole_diffusion.interests.routing import DynamicRouting, RoutingSoftmax
from recbole_diffusion.losses.objective import Loss, build_objective
from recbole_diffusion.losses.reconstruction import ReconstructionLoss
from recbole_diffusion.losses.regularisers import routing_regulariser
from recbole_diffusion.models.base import DiffusionRecommender, Score, named_part
from recbole_diffusion.models.interest_refinement import DetachCondition, InterestRefinement, Reconstruction
from recbole_diffusion.models.item_counts import sampler_item_counts
from recbole_diffusion.models.item_table import item_table


@dataclass(frozen=True)
class DMIOptions:
    """DMI's own keys; properties/model/DMI.yaml holds the defaults and says what each means."""

    hidden_size: int
    n_interests: int
    base: Literal["remi", "comirec_sa", "comirec_dr"]
    use_positions: bool
    bias: bool
    routing_softmax: RoutingSoftmax
    routing_iterations: int
    initialisation: Literal["kaiming", "glorot", "kaiming_per_item", "normal"]
    item_init_std: float | None
    loss: Loss
    negative_sampler: str
    n_negatives: int
    log_q_correction: bool
    remove_hits: bool
    hardness: float
    detach_weights: bool
    routing_weight: float
    routing_reduction: Literal["sum", "mean"]
    routing_centre: Literal["padded", "items"]
    diffusion: bool
    denoiser: Literal["transformer", "mlp"]
    n_layers: int
    n_heads: int
    dropout_prob: float
    hidden_act: Activation
    norm: Norm
    query_residual: bool
    final_norm: bool
    step_input: StepInput
    rescale_steps: bool
    keep_ratio: float
    fusion_weight: float
    detach_interest: bool
    detach_condition: DetachCondition
    reconstruction_loss: ReconstructionLoss
    reconstruction_weight: float
    num_steps: int
    noise_schedule: str
    variance_min: float
    variance_max: float
    variance_scale: float
    first_beta: float | None
    noise: str
    step_sampler: str
    start_noise: bool
    reverse_steps: int | None
    reverse_sampler: str
    reverse_noise: ReverseNoise
    reverse_eta: float
    score: Score
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network, loss or chain can have."""
        if not 0.0 <= self.dropout_prob < 1.0:
            raise ValueError(f"dropout_prob is {self.dropout_prob}; it must be at least 0 and less than 1")
        for key in ("hidden_size", "n_interests", "n_layers", "n_heads", "num_steps", "n_negatives", "n_eval_samples"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        for key in ("hardness", "routing_weight", "reconstruction_weight", "variance_scale"):
            if getattr(self, key) < 0.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 0 or more")


def _schedule(o: DMIOptions) -> NoiseSchedule:
    """Eq. 8 of 1 - alpha_bar_t as printed (`linear_var`), of beta_t (`linear`), or another schedule (decision 078)."""
    low, high = o.variance_scale * o.variance_min, o.variance_scale * o.variance_max
    first = low if o.num_steps > 1 else high
    parameters: dict[str, float] = {}
    if o.noise_schedule in ("linear_var", "linear") and not 0.0 < first <= high < 1.0:
        raise ValueError(
            f"Eq. 8 goes from variance_scale * variance_min = {first:g} to variance_scale * variance_max = {high:g}; "
            "both must lie between 0 and 1, the second not below the first: change one of the three"
        )
    if o.noise_schedule == "linear_var":
        parameters = {"variance_min": low, "variance_max": high}
    elif o.noise_schedule == "linear":
        parameters = {"beta_start": first, "beta_end": high}
    keys = () if ":" in o.noise_schedule else ("beta_start", "beta_end", "variance_min", "variance_max")
    schedule = build_schedule(named_part(o.noise_schedule), o.num_steps, keys=keys, **parameters)
    if o.first_beta is None:
        return schedule
    return NoiseSchedule([o.first_beta, *schedule.tables["betas"][1:]])


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
    process = GaussianProcess(_schedule(o), reverse_noise=o.reverse_noise)
    return InterestRefinement(
        denoiser,
        process,
        build_sampler(named_part(o.reverse_sampler), process, o.reverse_steps, o.reverse_eta),
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
        self.item_embedding = item_table(self.n_items, o.hidden_size, o.item_init_std)
        self.extractor: SelfAttentiveInterests | DynamicRouting
        if o.base == "comirec_dr":
            self.extractor = DynamicRouting(*sizes, softmax=o.routing_softmax, iterations=o.routing_iterations)
        else:
            self.extractor = SelfAttentiveInterests(*sizes, positions=o.use_positions, bias=o.bias)
        self.extractor.reset_parameters(o.initialisation)
        self.objective = build_objective(
            o.loss,
            o.negative_sampler,
            o.n_negatives,
            item_counts=lambda: sampler_item_counts(o.negative_sampler, dataset, self.n_items),
            log_q_correction=o.log_q_correction,
            remove_hits=o.remove_hits,
            hardness=o.hardness if o.base == "remi" else 0.0,
            detach_weights=o.detach_weights,
        )
        self.refinement = _refinement(o) if o.diffusion else None
        self.step_sampler = build_step_sampler(named_part(o.step_sampler), o.num_steps)

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
        if o.base == "remi" and o.routing_weight:
            over_items = o.routing_centre == "items"
            terms["routing"] = o.routing_weight * routing_regulariser(
                interests.weights,
                real_items(lengths, items.shape[1]) if over_items else None,
                dim=o.hidden_size,
                padded_length=None if over_items else self.max_seq_length,
                reduction=o.routing_reduction,
            )
        return terms | refined

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """REMI's regulariser is a sum over rows, as published."""
        return {"routing": None} if self.options.routing_reduction == "sum" else {}

    def sample_user_vectors(self, interaction: Interaction, noise: NoiseSource) -> Tensor:
        """All interests, refined by one chain of K queries a row (Algorithm 2): (B, K, D)."""
        items, interests = self.interests(interaction)
        if self.refinement is None:
            return interests.vectors
        return self.refinement.chain(interests, items, interaction[self.ITEM_SEQ_LEN], noise=noise)

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight

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
