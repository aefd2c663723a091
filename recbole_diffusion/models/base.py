"""What every model shares: training loss and scoring; and, for those that diffuse, noise that belongs to the row.

A model supplies `losses`, `user_vectors` and a table of items, or other `item_vectors`; `calculate_loss`, `predict` and
`full_sort_predict` are written here once, so `predict` always equals the matching entry of `full_sort_predict`.

Evaluation noise. A reverse chain draws noise. The noise of a row is drawn from a stream keyed by (`eval_seed`, row
number in the evaluation set), so scores do not depend on the batch size, the order or the device. The trainer puts the
row number into the batch as `EVALUATION_ROW`; without it (a foreign training loop, a single history) the key is a hash
of the history itself. `eval_seed: ~` draws from torch's global generator instead.

Shapes: B rows, K user vectors a row, D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.config import model_options
from recbole_diffusion.diffusion.noise import GlobalNoise, NoiseSource, RowNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.linear import linear
from recbole_diffusion.losses.objective import RankingObjective
from recbole_diffusion.models.item_table import ItemTable, item_table
from recbole_diffusion.models.loss_options import LossChoice, LossOptions
from recbole_diffusion.models.without_data import refuse_what_parts_refuse
from recbole_diffusion.registry import load_object

EVALUATION_ROW = "evaluation_row"
Score = Literal["dot", "neg_sq_dist", "cosine"]
_HASH_MULTIPLIER = 6364136223846793005  # Knuth's MMIX linear congruential multiplier
_CHAIN_STRIDE = 1_000_003
LARGEST_SEED = 2**63 - 1


def relevance(user_vectors: Tensor, item_vectors: Tensor, score: Score) -> Tensor:
    """Scores of every user vector against every item.

    Args:
        user_vectors: (..., D).
        item_vectors: (V, D).
        score: `dot` x . e; `neg_sq_dist` -max(0, |x|^2 + |e|^2 - 2 x . e) (the published DiffuRec code's "routing"
        score);
            `cosine` x . e / (|x| |e|), the same ranking as DiffuRec's Eq. 21.

    Returns:
        (..., V).
    """
    if score == "cosine":
        user_vectors = functional.normalize(user_vectors, dim=-1)
        item_vectors = functional.normalize(item_vectors, dim=-1)
    products = linear(user_vectors.reshape(-1, user_vectors.shape[-1]), item_vectors)
    products = products.reshape(*user_vectors.shape[:-1], len(item_vectors))
    if score == "neg_sq_dist":
        squares = user_vectors.square().sum(-1, keepdim=True) + item_vectors.square().sum(-1)
        return -(squares - 2 * products).clamp_min(0.0)
    return products


def pair_relevance(user_vectors: Tensor, item_vectors: Tensor, score: Score) -> Tensor:
    """Scores of each row's user vectors (B, K, D) against its own item (B, D): (B, K); as `relevance`."""
    items = item_vectors[:, None]
    if score == "cosine":
        user_vectors, items = functional.normalize(user_vectors, dim=-1), functional.normalize(items, dim=-1)
    products = (user_vectors * items).sum(-1)
    if score == "neg_sq_dist":
        return -(user_vectors.square().sum(-1) + items.square().sum(-1) - 2 * products).clamp_min(0.0)
    return products


def named_part(name: str) -> Any:
    """A part given by name in a configuration: ``package.module:Name`` is loaded, any other name is left as it is."""
    return load_object(name) if ":" in name else name


def checked_seed(seed: Any) -> int:
    """A seed of torch's, NumPy's and faiss's generators.

    Raises:
        UserError: it is no whole number from 0 to 2^63 - 1, which all of them take.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise UserError(f"seed is {seed!r}; it must be a whole number from 0 to {LARGEST_SEED}")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed}; it must be from 0 to {LARGEST_SEED}")
    return int(seed)


@contextlib.contextmanager
def evaluation_seed(model: Any, seed: int) -> Iterator[None]:
    """Let a model draw its evaluation noise from another seed, for a while.

    A model of this package takes it for its `eval_seed`. Any other, if it draws at all, draws from torch's global
    generator: that is seeded for the while too, and is afterwards as it was.

    Args:
        model: a recommender, of this package or not.
        seed: of its noise.
    """
    options: Any = getattr(model, "options", None)
    keyed = isinstance(model, VectorRecommender) and hasattr(options, "eval_seed")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if keyed:
            model.options = dataclasses.replace(options, eval_seed=seed)
        try:
            yield
        finally:
            if keyed:
                model.options = options


def history_keys(item_seq: Tensor) -> Tensor:
    """A 64-bit key of each history (B, L), independent of how far it is padded with zeros; (B,) on the CPU."""
    ids = item_seq.cpu().to(torch.int64)
    return (ids * history_powers(ids.shape[1])).sum(1)


def history_powers(length: int) -> Tensor:
    """What the items at each place of a history are multiplied by in its key, (L,) int64."""
    return torch.full((length,), _HASH_MULTIPLIER, dtype=torch.int64).cumprod(0)


def mean_over(noises: Sequence[NoiseSource], draw: Callable[[NoiseSource], Tensor]) -> Tensor:
    """The mean of what is drawn with each noise source (any shape), summed in their order."""
    total = draw(noises[0])
    for noise in noises[1:]:
        total = total + draw(noise)
    return total / len(noises) if len(noises) > 1 else total


class VectorRecommender(SequentialRecommender):
    """Base of models that rank by user and item vectors; a RecBole `SequentialRecommender`.

    Subclasses set `Options` (a frozen dataclass of the model's own keys; `score` is among them), build their parts in
    `__init__`, `item_embedding` among them, and write `losses` and `user_vectors`; `item_vectors` where items score
    by anything else than embeddings. The score of an item is the best over the K user vectors of a row.

    Attributes:
        loss_choice: which ranking loss the keys come to, and which gradient of the table, where `Options` derives from
            `LossOptions`.
    """

    item_embedding: nn.Embedding
    input_type = InputType.POINTWISE
    fixed_width: ClassVar[bool] = False  # histories in a batch are as wide as its longest one
    Options: ClassVar[Any]

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.options = model_options(type(self).Options, config)
        ranks = isinstance(self.options, LossOptions)
        self.loss_choice = self.options.choose(config, self.n_items) if ranks else LossChoice()

    def new_item_table(self, item_init_std: float | None) -> ItemTable:
        """A table of items (V, D) with the gradient that the loss asks for."""
        return item_table(self.n_items, self.options.hidden_size, item_init_std, self.loss_choice.gradient)

    def new_objective(self, dataset: Any, **more: Any) -> RankingObjective:
        """The ranking loss of the keys; `more` are arguments of `build_objective` that they do not hold."""
        objective: RankingObjective = self.options.objective(dataset, self.n_items, self.loss_choice, **more)
        return objective

    @classmethod
    def check_configuration(cls, options: Any, config: Any) -> None:
        """Refuse, before any data are read, what no data could make right.

        A class with a constructor of its own outside this package is not built for it: that may do anything.

        Args:
            options: those of `config`.
            config: the run's `RunConfig`.

        Raises:
            UserError: in one line, with where the key was given.
        """
        if cls.__init__.__module__.partition(".")[0] == __name__.partition(".")[0]:
            refuse_what_parts_refuse(cls, options, config)

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Named, weighted loss terms of a training batch; their sum is minimised."""
        raise TypeError(f"{type(self).__name__} does not define losses(interaction)")

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """What terms of `losses` are means of, where it is not the rows: how many there are, None for a sum over rows.

        Several workers who share a batch add up their terms by it.
        """
        return {}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """User vectors (B, K, D)."""
        raise TypeError(f"{type(self).__name__} does not define user_vectors(interaction)")

    def item_vectors(self) -> Tensor:
        """The vectors that user vectors are scored against, (V, D): the table of items by default."""
        return self.item_embedding.weight

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The training loss, a scalar."""
        return torch.stack(list(self.losses(interaction).values())).sum()

    def forward(self, interaction: Interaction) -> Tensor:
        """User vectors (B, K, D)."""
        return self.user_vectors(interaction)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, (B, V): the best over the K user vectors."""
        scores = relevance(self.user_vectors(interaction), self.item_vectors(), self.options.score)
        return scores[:, 0] if scores.shape[1] == 1 else scores.amax(1)

    def _row_keys(self, interaction: Interaction) -> Tensor:
        """What identifies each row of a batch, (B,) on the CPU: its number in the evaluation set, or its history."""
        if EVALUATION_ROW in interaction.interaction:
            return interaction[EVALUATION_ROW].cpu()
        return history_keys(interaction[self.ITEM_SEQ])

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores (B,) of the batch's items, equal to the entries of `full_sort_predict`.

        Candidates of one row (one row number or, without numbers, one history) share its vectors.
        """
        _, row = torch.unique(self._row_keys(interaction), return_inverse=True)
        first = torch.full((int(row.max()) + 1,), len(row)).scatter_reduce(0, row, torch.arange(len(row)), "amin")
        device = interaction[self.ITEM_SEQ].device
        users = self.user_vectors(interaction[first.to(device)])[row.to(device)]
        items = self.item_vectors()[interaction[self.ITEM_ID]]
        return pair_relevance(users, items, self.options.score).amax(1)


class DiffusionRecommender(VectorRecommender):
    """Base of the diffusion recommenders: a reverse chain draws user vectors, with noise that belongs to the row.

    Subclasses write `sample_user_vectors` instead of `user_vectors`, or `mean_user_vectors`, which can encode a batch
    once for several chains; `Options` also needs `eval_seed` and `n_eval_samples`.
    """

    def sample_user_vectors(self, interaction: Interaction, noise: NoiseSource) -> Tensor:
        """One draw of the user vectors (B, K, D)."""
        if type(self).mean_user_vectors is DiffusionRecommender.mean_user_vectors:
            raise TypeError(f"{type(self).__name__} does not define sample_user_vectors(interaction, noise)")
        return self.mean_user_vectors(interaction, [noise])

    def mean_user_vectors(self, interaction: Interaction, noises: Sequence[NoiseSource]) -> Tensor:
        """User vectors (B, K, D), the mean of a chain with each of some noise sources."""
        return mean_over(noises, lambda noise: self.sample_user_vectors(interaction, noise))

    def use_reverse_steps(self, steps: int | None) -> None:
        """Sample with a chain of so many reverse steps from now on, None for all T; weights and options stay."""
        raise TypeError(f"{type(self).__name__} does not define use_reverse_steps(steps)")

    def evaluation_noise(self, interaction: Interaction, chain: int = 0) -> NoiseSource:
        """The noise of evaluation chain number `chain` (0-based) for this batch."""
        seed = self.options.eval_seed
        if seed is None:
            return GlobalNoise()
        keys = self._row_keys(interaction)
        return RowNoise(keys, seed + chain * _CHAIN_STRIDE)

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """User vectors (B, K, D), averaged over `n_eval_samples` chains."""
        chains = range(self.options.n_eval_samples)
        return self.mean_user_vectors(interaction, [self.evaluation_noise(interaction, chain) for chain in chains])
