"""DMI's keys and their types, and the noise schedule that they name; properties/model/DMI.yaml holds the defaults.

Shapes: T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_diffusion.config_options import at_least
from recbole_diffusion.denoisers.cross_attention import Norm, StepInput
from recbole_diffusion.denoisers.transformer import Activation
from recbole_diffusion.diffusion.schedules import NoiseSchedule, build_schedule
from recbole_diffusion.interests.routing import RoutingSoftmax
from recbole_diffusion.losses.reconstruction import ReconstructionLoss
from recbole_diffusion.models.base import named_part
from recbole_diffusion.models.interest_refinement import DetachCondition
from recbole_diffusion.models.ranking_options import RoutedOptions
from recbole_diffusion.models.reverse_chain import ReverseChainOptions


@dataclass(frozen=True)
class DMIOptions(RoutedOptions, ReverseChainOptions):
    """DMI's own keys; properties/model/DMI.yaml holds the defaults and says what each means."""

    base: Literal["remi", "comirec_sa", "comirec_dr"]
    use_positions: bool
    bias: bool
    routing_softmax: RoutingSoftmax
    routing_iterations: int
    initialisation: Literal["kaiming", "glorot", "kaiming_per_item", "normal"]
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
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network, loss or chain can have."""
        super().__post_init__()
        if not 0.0 <= self.dropout_prob < 1.0:
            raise ValueError(f"dropout_prob is {self.dropout_prob}; it must be at least 0 and less than 1")
        at_least(self, 1, ("n_layers", "n_heads", "num_steps", "n_eval_samples"))
        at_least(self, 0, ("reconstruction_weight", "variance_scale"))
        self.check_chain(without_chain=None if self.diffusion else "diffusion is False, which leaves no chain")

    def schedule(self) -> NoiseSchedule:
        """Eq. 8 of 1 - alpha_bar_t as printed (`linear_var`), of beta_t (`linear`), or another (decision 078)."""
        low, high = self.variance_scale * self.variance_min, self.variance_scale * self.variance_max
        first = low if self.num_steps > 1 else high
        parameters: dict[str, float] = {}
        if self.noise_schedule in ("linear_var", "linear") and not 0.0 < first <= high < 1.0:
            raise ValueError(
                f"Eq. 8 goes from variance_scale * variance_min = {first:g} to variance_scale * variance_max = "
                f"{high:g}; "
                "both must lie between 0 and 1, the second not below the first: change one of the three"
            )
        if self.noise_schedule == "linear_var":
            parameters = {"variance_min": low, "variance_max": high}
        elif self.noise_schedule == "linear":
            parameters = {"beta_start": first, "beta_end": high}
        keys = () if ":" in self.noise_schedule else ("beta_start", "beta_end", "variance_min", "variance_max")
        schedule = build_schedule(named_part(self.noise_schedule), self.num_steps, keys=keys, **parameters)
        if self.first_beta is None:
            return schedule
        return NoiseSchedule([self.first_beta, *schedule.tables["betas"][1:]])
