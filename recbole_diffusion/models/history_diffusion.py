"""What DiffuRec and DiffuRecSys share: a Transformer over the history restores the noised target at its last place.

    x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps,   x_0_hat = f(x_t, t, LN(Drop(E[history])))
    L   = -log softmax(E x_0_hat)_a                                       over all items, x_0 = e_a (key ``loss``)

Inference reverses T steps from N(0, I). The models differ in f, in how padding reaches it, and in what the forward
process draws.

Shapes: B rows, L history, D embedding, V items, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.config_options import at_least
from recbole_diffusion.denoisers.transformer import NORM_EPSILON, HistoryMixing
from recbole_diffusion.diffusion.noise import GlobalNoise, NoiseSource, build_noise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.sampler import Sampler
from recbole_diffusion.diffusion.schedules import NoiseSchedule, build_schedule
from recbole_diffusion.diffusion.steps import build_step_sampler
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.models.base import DiffusionRecommender, Score, mean_over, named_part
from recbole_diffusion.models.item_table import item_table
from recbole_diffusion.models.loss_options import PlaceLossOptions
from recbole_diffusion.models.packed_history import embed_history, row_chunks
from recbole_diffusion.models.reverse_chain import ReverseChainOptions


@dataclass(frozen=True)
class HistoryDiffusionOptions(PlaceLossOptions, ReverseChainOptions):
    """The keys that both have."""

    hidden_size: int
    n_layers: int
    n_heads: int
    dropout_prob: float
    embedding_dropout_prob: float
    hidden_act: Literal["gelu_tanh", "relu"]
    item_init_std: float
    use_positions: bool
    mask_mode: Literal["query", "key"]
    num_steps: int
    noise_schedule: str
    beta_start: float | None
    beta_end: float | None
    eq14_a: float | None
    eq14_b: float | None
    variance_scale: float | None
    variance_min: float | None
    variance_max: float | None
    noise: str
    step_sampler: str
    rescale_steps: bool
    lambda_mean: float
    lambda_std: float
    valid_reverse_steps: int | None
    score: Score
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network, loss or chain can have."""
        super().__post_init__()
        for key in ("dropout_prob", "embedding_dropout_prob"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least 0 and less than 1")
        at_least(self, 1, ("hidden_size", "n_layers", "n_heads", "num_steps", "n_eval_samples", "valid_reverse_steps"))
        at_least(self, 0, ("item_init_std", "lambda_std"))
        self.check_chain()

    def schedule(self) -> NoiseSchedule:
        """The noise schedule that these keys name."""
        return build_schedule(
            named_part(self.noise_schedule),
            self.num_steps,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            eq14_a=self.eq14_a,
            eq14_b=self.eq14_b,
            variance_scale=self.variance_scale,
            variance_min=self.variance_min,
            variance_max=self.variance_max,
        )

    def process(self) -> GaussianProcess:
        """The forward and reverse process that these keys name."""
        return GaussianProcess(self.schedule(), reverse_noise=self.reverse_noise)

    def mixing(self) -> HistoryMixing:
        """How the noised target and its step meet the history."""
        return HistoryMixing(self.hidden_size, self.num_steps, self.lambda_mean, self.lambda_std, self.rescale_steps)


class HistoryDiffusion(DiffusionRecommender):
    """Base of both; a subclass sets `denoiser`, and `noise` where the forward process draws something else."""

    denoiser: Any
    noise: NoiseSource

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: HistoryDiffusionOptions = self.options
        self.item_embedding = self.new_item_table(o.item_init_std)
        self.position_embedding = None
        if o.use_positions:
            self.position_embedding = item_table(self.max_seq_length, o.hidden_size, o.item_init_std)
        self.history_norm = nn.LayerNorm(o.hidden_size, eps=NORM_EPSILON)
        self.objective = self.new_objective(dataset)
        self.process = o.process()
        self.step_sampler = build_step_sampler(named_part(o.step_sampler), o.num_steps)
        self.noise = build_noise(named_part(o.noise))
        self.use_reverse_steps(o.inference_steps)
        valid_steps = o.training_steps if o.valid_reverse_steps is None else o.valid_reverse_steps
        self.valid_sampler = o.chain(self.process, valid_steps, steps_key="valid_reverse_steps")
        self.validating = False  # the trainer sets it while it validates

    def use_reverse_steps(self, steps: int | None) -> None:
        """See :meth:`DiffusionRecommender.use_reverse_steps`."""
        self.sampler = self.options.chain(self.process, steps)

    def embedded(self, item_seq: Tensor, item_seq_len: Tensor, *, padding_tokens: bool) -> Condition:
        """Histories (B, L) embedded, ``LN(Drop(E[history]))``, and packed; a row's padding is one token, or none."""
        return embed_history(
            item_seq,
            item_seq_len,
            self.item_embedding,
            self.history_norm,
            position_embedding=self.position_embedding,
            dropout_prob=self.options.embedding_dropout_prob,
            padding_tokens=padding_tokens,
            padded_length=self.max_seq_length,
        )

    def condition(self, item_seq: Tensor, item_seq_len: Tensor) -> Condition:
        """What the denoiser sees of histories (B, L), with their padding where `mask_mode` says so."""
        return self.embedded(item_seq, item_seq_len, padding_tokens=self.options.mask_mode == "query")

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """The ranking loss of the reconstructed target, by default cross-entropy over all items."""
        targets = interaction[self.POS_ITEM_ID]
        condition = self.condition(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        t, weight = self.step_sampler.sample(targets.shape[0], device=targets.device)
        noised = self.process.sample(self.item_embedding(targets), t, noise=self.noise)
        x_0_hat = self.denoiser(noised.x_t, t, condition, noise=GlobalNoise())
        row_losses = self.objective(x_0_hat, self.item_embedding.weight, targets)
        self.step_sampler.update(t, row_losses.detach())
        return {self.loss_choice.term: (row_losses * weight).mean()}

    def mean_user_vectors(self, interaction: Interaction, noises: Sequence[NoiseSource]) -> Tensor:
        """Reverse chains from noise: the mean of their x_0 (B, 1, D); histories are encoded once for all of them.

        On a CPU rows are handled in order of length, a few thousand tokens at a time: memory does not grow with B.
        """
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        result = self.item_embedding.weight.new_empty(item_seq.shape[0], self.options.hidden_size)
        for rows in row_chunks(lengths):
            condition = self.prepared(self.condition(item_seq[rows], lengths[rows]))
            own = [noise.select(rows.cpu()) for noise in noises]
            result[rows] = mean_over(own, lambda noise: self.reverse(condition, noise)).to(result.dtype)  # noqa: B023
        return result[:, None]

    def prepared(self, condition: Condition) -> Condition:
        """A condition with what is computed once for all steps of a chain: step vectors, and what a subclass adds."""
        if condition.steps is not None or len(getattr(self._sampler, "grid", ())) == 1:
            return condition
        return replace(condition, steps=self.denoiser.mixing.step_vectors())

    @property
    def _sampler(self) -> Sampler:
        return self.valid_sampler if self.validating else self.sampler

    def reverse(self, condition: Condition, noise: NoiseSource) -> Tensor:
        """x_0 (B, D) of a reverse chain given an embedded history."""
        shape = (condition.layout.rows, self.options.hidden_size)
        x_T = self.process.prior(shape, device=condition.tokens.device, noise=noise)
        return self._sampler(self.denoiser, x_T, self.prepared(condition), noise=noise)
