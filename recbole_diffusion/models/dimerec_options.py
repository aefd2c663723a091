"""DimeRec's keys and their types; properties/model/DimeRec.yaml holds the defaults and says what each means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_diffusion.denoisers.mlp import Fusion, MLPActivation
from recbole_diffusion.diffusion.geodesic import ReverseNoiseSpace, WalkScale
from recbole_diffusion.diffusion.process import ReverseNoise
from recbole_diffusion.diffusion.sampler import EarlyResult
from recbole_diffusion.interests.guidance_extractors import Guidance, Initialisation
from recbole_diffusion.interests.routing import RoutingSoftmax
from recbole_diffusion.losses.objective import Loss
from recbole_diffusion.models.base import Score


@dataclass(frozen=True)
class DimeRecOptions:
    """DimeRec's own keys; properties/model/DimeRec.yaml holds the defaults and says what each means."""

    hidden_size: int
    item_init_std: float | Literal["xavier"] | None
    guidance: Guidance
    n_interests: int
    use_positions: bool
    bias: bool
    routing_softmax: RoutingSoftmax
    routing_iterations: int
    initialisation: Initialisation
    history_encoder: Literal["none", "sasrec"]
    n_layers: int
    n_heads: int
    dropout_prob: float
    guidance_weight: float
    reconstruction_weight: float
    ranking_weight: float
    loss: Loss
    negatives: Literal["per_row", "shared"]
    negative_sampler: str
    n_negatives: int
    avoid_history: bool
    remove_hits: bool
    log_q_correction: bool
    temperature: float
    normalise_items: bool
    normalise_prediction: bool
    detach_target: bool
    detach_guidance: bool
    guidance_fusion: Fusion
    denoiser_hidden_sizes: list[int]
    hidden_act: MLPActivation
    noise_space: Literal["sphere", "euclidean"]
    num_steps: int
    noise_schedule: str
    beta_start: float | None
    beta_end: float | None
    noise: str
    step_sampler: str
    train_clean_step: bool
    walk_scale: WalkScale
    walk_angle: float
    walk_project: bool
    walk_renormalise: bool
    normalise_prior: bool
    reverse_steps: int | None
    intermediate_steps: int | None
    intermediate_result: EarlyResult
    reverse_noise: ReverseNoise
    reverse_noise_space: ReverseNoiseSpace
    reverse_eta: float
    rank_by: Literal["chain", "guidance"]
    score: Score
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network, loss or chain can have."""
        if not 0.0 <= self.dropout_prob < 1.0:
            raise ValueError(f"dropout_prob is {self.dropout_prob}; it must be at least 0 and less than 1")
        sizes = ("hidden_size", "n_interests", "n_layers", "n_heads", "num_steps", "n_negatives", "n_eval_samples")
        for key in sizes:
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        weights = ("guidance_weight", "reconstruction_weight", "ranking_weight")
        for key in weights:
            if getattr(self, key) < 0.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 0 or more")
        if not any(getattr(self, key) for key in weights):
            raise ValueError(f"{', '.join(weights)} are all 0; there is nothing to train, set one of them")
        if self.temperature <= 0.0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
