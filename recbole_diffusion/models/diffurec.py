"""DiffuRec: a diffusion model for sequential recommendation (Li, Sun, Li; ACM TOIS 2023, arXiv 2304.00686).

The target item's embedding x_0 = e_a is noised, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (Eq. 2, 15), mixed into the
embedded history (Eq. 13), and a Transformer predicts x_0 from the last item's state (Eq. 12). Training minimises the
cross-entropy of x_0_hat over all items (Eq. 18, 19); inference reverses T steps from pure noise (Algorithm 1) and ranks
by inner product (Eq. 20).

Where paper and published code (WHUIR/DiffuRec) differ, the default is the code's behaviour and a key selects the other;
docs/decisions/ has a page for each:
  noise_schedule (Eq. 14 has unnamed constants), reverse_noise (Eq. 17), lambda_std (variance or deviation), mask_mode
  (the code masks padded queries, not padded keys), hidden_act (ReLU in the paper), score (Eq. 21), use_positions,
  ce_include_padding, step_sampler, rescale_steps, item_init_std.

Shapes: B rows, L history, M packed tokens, D embedding, V items, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.denoisers.gru import GRUDenoiser
from recbole_diffusion.denoisers.transformer import NORM_EPSILON, HistoryMixing, TransformerDenoiser
from recbole_diffusion.diffusion.noise import GlobalNoise, NoiseSource, build_noise
from recbole_diffusion.diffusion.process import GaussianProcess, ReverseNoise
from recbole_diffusion.diffusion.sampler import build_sampler
from recbole_diffusion.diffusion.schedules import build_schedule
from recbole_diffusion.diffusion.steps import build_step_sampler
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.losses.ranking import full_softmax
from recbole_diffusion.models.base import DiffusionRecommender, Score, named_part
from recbole_diffusion.models.packed_history import embed_history, row_chunks


@dataclass(frozen=True)
class DiffuRecOptions:
    """DiffuRec's own keys; properties/model/DiffuRec.yaml holds the defaults and says what each means."""

    hidden_size: int
    n_layers: int
    n_heads: int
    dropout_prob: float
    embedding_dropout_prob: float
    hidden_act: Literal["gelu_tanh", "relu"]
    approximator: Literal["transformer", "gru"]
    item_init_std: float
    use_positions: bool
    mask_mode: Literal["query", "key"]
    ce_include_padding: bool
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
    reverse_steps: int | None
    valid_reverse_steps: int | None
    reverse_sampler: str
    reverse_noise: ReverseNoise
    reverse_eta: float
    score: Score
    n_eval_samples: int
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network or chain can have."""
        for key in ("dropout_prob", "embedding_dropout_prob"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least 0 and less than 1")
        for key in ("hidden_size", "n_layers", "n_heads", "num_steps", "n_eval_samples", "valid_reverse_steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}; it must be 1 or more")
        for key in ("item_init_std", "lambda_std"):
            if getattr(self, key) < 0.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 0 or more")


class DiffuRec(DiffusionRecommender):
    """DiffuRec as a RecBole `SequentialRecommender`."""

    Options = DiffuRecOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: DiffuRecOptions = self.options
        self.item_embedding = nn.Embedding(self.n_items, o.hidden_size)
        nn.init.normal_(self.item_embedding.weight, std=o.item_init_std)
        self.position_embedding = nn.Embedding(self.max_seq_length, o.hidden_size) if o.use_positions else None
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=o.item_init_std)
        self.history_norm = nn.LayerNorm(o.hidden_size, eps=NORM_EPSILON)
        schedule = build_schedule(
            named_part(o.noise_schedule),
            o.num_steps,
            beta_start=o.beta_start,
            beta_end=o.beta_end,
            eq14_a=o.eq14_a,
            eq14_b=o.eq14_b,
            variance_scale=o.variance_scale,
            variance_min=o.variance_min,
            variance_max=o.variance_max,
        )
        self.process = GaussianProcess(schedule, reverse_noise=o.reverse_noise)
        self.step_sampler = build_step_sampler(named_part(o.step_sampler), o.num_steps)
        self.noise = build_noise(named_part(o.noise))
        sampler = named_part(o.reverse_sampler)
        self.sampler = build_sampler(sampler, self.process, o.reverse_steps, o.reverse_eta)
        valid_steps = o.reverse_steps if o.valid_reverse_steps is None else o.valid_reverse_steps
        self.valid_sampler = build_sampler(
            sampler, self.process, valid_steps, o.reverse_eta, steps_key="valid_reverse_steps"
        )
        self.validating = False  # the trainer sets it while it validates
        mixing = HistoryMixing(o.hidden_size, o.num_steps, o.lambda_mean, o.lambda_std, o.rescale_steps)
        self.denoiser: TransformerDenoiser | GRUDenoiser
        if o.approximator == "gru":
            self.denoiser = GRUDenoiser(mixing, o.hidden_size, o.n_layers, o.dropout_prob)
        else:
            self.denoiser = TransformerDenoiser(
                mixing, o.hidden_size, o.n_layers, o.n_heads, o.dropout_prob, o.hidden_act
            )

    def condition(self, item_seq: Tensor, item_seq_len: Tensor) -> Condition:
        """Embed histories (B, L): ``LN(Drop(E[history]))``, packed."""
        return embed_history(
            item_seq,
            item_seq_len,
            self.item_embedding,
            self.history_norm,
            position_embedding=self.position_embedding,
            dropout_prob=self.options.embedding_dropout_prob,
            padding_tokens=self.options.mask_mode == "query",
            padded_length=self.max_seq_length,
        )

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Cross-entropy of the reconstructed target over all items (Eq. 18, 19)."""
        targets = interaction[self.POS_ITEM_ID]
        condition = self.condition(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        noise = GlobalNoise()
        t, weight = self.step_sampler.sample(targets.shape[0], device=targets.device)
        noised = self.process.sample(self.item_embedding(targets), t, noise=self.noise)
        x_0_hat = self.denoiser(noised.x_t, t, condition, noise=noise)
        row_losses = full_softmax(
            x_0_hat, self.item_embedding.weight, targets, include_padding=self.options.ce_include_padding
        )
        self.step_sampler.update(t, row_losses.detach())
        return {"cross_entropy": (row_losses * weight).mean()}

    def sample_user_vectors(self, interaction: Interaction, noise: NoiseSource) -> Tensor:
        """Reverse the chain from noise (Algorithm 1): x_0 (B, 1, D).

        On a CPU rows are handled in order of length, a few thousand tokens at a time: memory does not grow with B.
        """
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        result = self.item_embedding.weight.new_empty(item_seq.shape[0], self.options.hidden_size)
        for rows in row_chunks(lengths):
            condition = self.condition(item_seq[rows], lengths[rows])
            result[rows] = self.reverse(condition, noise.select(rows.cpu())).to(result.dtype)
        return result[:, None]

    def reverse(self, condition: Condition, noise: NoiseSource) -> Tensor:
        """x_0 (B, D) of a reverse chain given an embedded history."""
        shape = (condition.layout.rows, self.options.hidden_size)
        x_T = self.process.prior(shape, device=condition.tokens.device, noise=noise)
        sampler = self.valid_sampler if self.validating else self.sampler
        return sampler(self.denoiser, x_T, condition, noise=noise)

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight
