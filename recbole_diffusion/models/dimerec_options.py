"""DimeRec's keys and their types, and what some of them build; properties/model/DimeRec.yaml holds the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole_diffusion.config_options import at_least
from recbole_diffusion.denoisers.mlp import Fusion, MLPActivation
from recbole_diffusion.diffusion.geodesic import GeodesicWalk, ReverseNoiseSpace, WalkScale
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.sampler import EarlyResult
from recbole_diffusion.diffusion.schedules import NoiseSchedule
from recbole_diffusion.interests.guidance_extractors import Guidance, Initialisation
from recbole_diffusion.interests.routing import RoutingSoftmax
from recbole_diffusion.models.base import Score
from recbole_diffusion.models.beta_schedule import beta_schedule
from recbole_diffusion.models.loss_options import LossOptions
from recbole_diffusion.models.reverse_chain import ReverseChainOptions


@dataclass(frozen=True)
class DimeRecOptions(LossOptions, ReverseChainOptions):
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
    negatives: Literal["per_row", "shared"]
    avoid_history: bool
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
    intermediate_steps: int | None
    intermediate_result: EarlyResult
    reverse_noise_space: ReverseNoiseSpace
    rank_by: Literal["chain", "guidance"]
    score: Score
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network, loss or chain can have."""
        super().__post_init__()
        if not 0.0 <= self.dropout_prob < 1.0:
            raise ValueError(f"dropout_prob is {self.dropout_prob}; it must be at least 0 and less than 1")
        at_least(self, 1, ("hidden_size", "n_interests", "n_layers", "n_heads", "num_steps"))
        at_least(self, 1, ("n_eval_samples",))
        weights = ("guidance_weight", "reconstruction_weight", "ranking_weight")
        at_least(self, 0, weights)
        if not any(getattr(self, key) for key in weights):
            raise ValueError(f"{', '.join(weights)} are all 0; there is nothing to train, set one of them")
        if self.temperature <= 0.0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        without_chain = None
        if self.rank_by == "guidance":
            without_chain = "rank_by is guidance, which has no chain"
        elif self.intermediate_steps is not None:
            without_chain = f"intermediate_steps is {self.intermediate_steps}, which cuts every chain there"
        self.check_chain(without_chain=without_chain)

    def schedule(self) -> NoiseSchedule:
        """The noise schedule that these keys name."""
        return beta_schedule(self.noise_schedule, self.num_steps, self.beta_start, self.beta_end)

    def process(self) -> GeodesicWalk | GaussianProcess:
        """The walk on the sphere that these keys name, or the diffusion of ordinary vectors."""
        schedule = self.schedule()
        if self.noise_space == "euclidean":
            return GaussianProcess(schedule, self.reverse_noise)
        return GeodesicWalk(
            schedule,
            self.reverse_noise,
            walk_scale=self.walk_scale,
            walk_angle=self.walk_angle,
            walk_project=self.walk_project,
            walk_renormalise=self.walk_renormalise,
            normalise_prior=self.normalise_prior,
            reverse_noise_space=self.reverse_noise_space,
        )

    def cut(self) -> dict[str, Any]:
        """Where the chain ends early (Figure 5)."""
        return {"stop_after": self.intermediate_steps, "early_result": self.intermediate_result}

    @property
    def reads_rows_alone(self) -> bool:
        """Unit item vectors are made of the whole table."""
        return not self.normalise_items

    @property
    def ranks(self) -> bool:
        """With both weights 0 the reconstruction is all that trains."""
        return bool(self.guidance_weight or self.ranking_weight)
