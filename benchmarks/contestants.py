"""The two sides that speed is compared between, behind one interface, and the check that they compute the same.

`Yardstick` is a plain implementation (reference_*.py), `Ours` is this project's model inside its trainer, in
`mask_mode: query` (the released code's) and at the published sizes. `copy_weights` loads the yardstick's weights into
ours; `largest_differences` runs both on the same rows with every random number fixed.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch
from leave_one_out import Rows
from reference_diffurec import ReferenceDiffuRec, ReferenceSizes
from torch import Tensor

TOLERANCE = 1e-5
VISIBLE_LAMBDA = 0.5  # at the published 0.001 the noised target hardly shows in the result


class Contestant(Protocol):
    """Something that trains on rows and recommends to users."""

    name: str

    def batch(self, rows: Rows) -> Any:
        """Rows in the form that `train_on` and `recommend_to` take, on the device."""
        ...

    def train_on(self, batches: list[Any]) -> int:
        """One optimiser step a batch, forward to update; the number of rows."""
        ...

    def recommend_to(self, batch: Any) -> Tensor:
        """Scores (B, V) of every item after the whole reverse chain."""
        ...


class Yardstick:
    """A plain implementation with torch's Adam as it comes."""

    name = "yardstick"

    def __init__(
        self,
        sizes: ReferenceSizes,
        device: torch.device,
        model_class: Callable[[Any], ReferenceDiffuRec] = ReferenceDiffuRec,
        weight_decay: float = 0.0,
    ) -> None:
        self.sizes = sizes
        self.device = device
        self.model = model_class(sizes).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=weight_decay)

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        return rows.left_padded(self.sizes.max_length).to(self.device), rows.targets.to(self.device)

    def train_on(self, batches: list[tuple[Tensor, Tensor]]) -> int:
        self.model.train()
        total = 0.0
        for history, target in batches:
            self.optimizer.zero_grad()
            loss = self.model.loss(history, target)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return sum(len(target) for _, target in batches)

    def recommend_to(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.model.eval()
        return self.model.recommend(batch[0])


class Catalogue:
    """All that a model asks of a dataset when it is built: how many ids a field has."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def num(self, field: str) -> int:
        return self.n_items


class Ours:
    """This project's model; training steps are those of its trainer's epoch.

    `padding_token` says whether the model packs a token for each row's padding, which then has a draw of lambda.
    """

    name = "ours"

    def __init__(
        self,
        sizes: ReferenceSizes,
        device: torch.device,
        *,
        data_path: str,
        dataset: str,
        overrides: dict[str, Any],
        model: str = "DiffuRec",
        padding_token: bool = True,
    ) -> None:
        from recbole_diffusion.config import RunConfig
        from recbole_diffusion.training.run_folder import RunFolder
        from recbole_diffusion.training.trainer import trainer_class

        settings = {
            "hidden_size": sizes.hidden_size,
            "n_layers": sizes.n_layers,
            "n_heads": sizes.n_heads,
            "MAX_ITEM_LIST_LENGTH": sizes.max_length,
            "num_steps": sizes.num_steps,
            "dropout_prob": sizes.dropout,
            "embedding_dropout_prob": sizes.embedding_dropout,
            "lambda_mean": sizes.lambda_mean,
            "lambda_std": sizes.lambda_std,
            "mask_mode": "query",
            "data_path": data_path,
            "use_gpu": device.type == "cuda",
            **overrides,
        }
        self.device = device
        self.padding_token = padding_token
        self.max_length = sizes.max_length
        self.config = RunConfig(model, dataset, overrides=settings)
        self.model: Any = self.config.entry.model_class(self.config, Catalogue(sizes.n_items)).to(device)
        self._scratch = tempfile.TemporaryDirectory()
        folder = RunFolder(Path(self._scratch.name))
        self.config["checkpoint_dir"] = self._scratch.name
        self.trainer: Any = trainer_class(self.config.entry.trainer_class)(self.config, self.model, folder)

    def batch(self, rows: Rows) -> Any:
        from recbole.data.interaction import Interaction

        from recbole_diffusion.models.base import EVALUATION_ROW

        return Interaction(
            {
                self.model.ITEM_SEQ: rows.right_padded(self.max_length),
                self.model.ITEM_SEQ_LEN: rows.lengths(),
                self.model.POS_ITEM_ID: rows.targets,
                EVALUATION_ROW: torch.arange(len(rows)),
            }
        ).to(self.device)

    def train_on(self, batches: list[Any]) -> int:
        self.trainer._train_epoch(batches, 0)
        return sum(len(batch) for batch in batches)

    @torch.no_grad()
    def recommend_to(self, batch: Any) -> Tensor:
        self.model.eval()
        scores: Tensor = self.model.full_sort_predict(batch)
        return scores


BLOCK_PARTS = {
    "attention_norm": "attention_norm",
    "attention.output": "attention.output",
    "feed_forward_norm": "feed_forward_norm",
    "feed_forward.first": "feed_forward.expand",
    "feed_forward.second": "feed_forward.contract",
}
BLOCK_JOINED = {"attention.projection": ("attention.query", "attention.key", "attention.value")}


def copy_weights(
    yardstick: ReferenceDiffuRec,
    model: Any,
    parts: Mapping[str, str] = BLOCK_PARTS,
    joined: Mapping[str, tuple[str, ...]] = BLOCK_JOINED,
) -> None:
    """Load the yardstick's weights into our model; every parameter of ours is set, or this raises.

    Args:
        yardstick: the plain model.
        model: ours.
        parts: what a layer of a block is called there -> in ours.
        joined: what one layer of our block is called -> the yardstick's layers that it holds one below the other.
    """
    theirs = yardstick.state_dict()
    renamed: dict[str, Tensor] = {"item_embedding.weight": theirs.pop("item_embedding.weight")}
    modules = {
        "embedding_norm": "history_norm",
        "step_first": "denoiser.mixing.step_embedding.first",
        "step_second": "denoiser.mixing.step_embedding.second",
        "output_norm": "denoiser.norm",
    }
    for number in range(yardstick.sizes.n_layers):
        block = f"blocks.{number}."
        for ours, sources in joined.items():
            for leaf in ("weight", "bias"):
                stacked = [theirs.pop(f"{block}{source}.{leaf}") for source in sources]
                renamed[f"denoiser.{block}{ours}.{leaf}"] = torch.cat(stacked)
        modules.update({block + source: f"denoiser.{block}{ours}" for source, ours in parts.items()})
    for source, ours in modules.items():
        for leaf in ("weight", "bias"):
            renamed[f"{ours}.{leaf}"] = theirs.pop(f"{source}.{leaf}")
    if theirs:
        raise ValueError(f"no place in our model for the yardstick's {', '.join(theirs)}")
    model.load_state_dict(renamed)


def load_into_yardstick(
    model: Any,
    yardstick: ReferenceDiffuRec,
    parts: Mapping[str, str] = BLOCK_PARTS,
    joined: Mapping[str, tuple[str, ...]] = BLOCK_JOINED,
) -> None:
    """The other way round: our model's weights into the yardstick; arguments as for `copy_weights`.

    Every weight of the yardstick gets a number of its own first, `copy_weights` carries these to where they belong in
    ours, and each is then replaced by the weight that lies there.
    """
    theirs, ours = yardstick.state_dict(), model.state_dict()
    numbered, begin = {}, 0
    for name, weight in theirs.items():  # numbers below 2^53 are exact in float64
        numbered[name] = torch.arange(begin, begin + weight.numel(), dtype=torch.float64).view(weight.shape)
        begin += weight.numel()
    source, target = copy.deepcopy(yardstick).double(), copy.deepcopy(model).double()
    source.load_state_dict(numbered)
    copy_weights(source, target, parts, joined)
    place = torch.cat([target.state_dict()[name].flatten() for name in ours]).long()
    values = torch.empty(begin, dtype=next(iter(theirs.values())).dtype)
    values[place.cpu()] = torch.cat([weight.flatten().cpu() for weight in ours.values()])
    pieces = values.split([weight.numel() for weight in theirs.values()])
    yardstick.load_state_dict(
        {name: piece.view(weight.shape) for (name, weight), piece in zip(theirs.items(), pieces, strict=True)}
    )


class FixedNoise:
    """Normal numbers fixed beforehand, as a noise source of our model.

    Args:
        vectors: what calls for (B, D) get, one after the other.
        tokens: (B, N, D) what each call for a row's tokens gets; token 0 is the row's padding token where it has one.
    """

    per_row = True

    def __init__(self, vectors: Sequence[Tensor], tokens: Tensor) -> None:
        self._vectors = list(vectors)
        self._tokens = tokens
        self._calls = 0

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if len(shape) == 3:
            drawn = self._tokens[:, : shape[1]]
        else:
            drawn = self._vectors[self._calls]
            self._calls += 1
        if drawn.shape != tuple(shape):
            raise ValueError(f"the model draws {tuple(shape)}, but {tuple(drawn.shape)} was fixed for this call")
        return drawn.to(device=device, dtype=dtype)

    def select(self, index: Tensor) -> FixedNoise:
        return FixedNoise([vector[index] for vector in self._vectors], self._tokens[index])


class FixedSteps:
    """A step sampler that gives the slots it was made with."""

    def __init__(self, t: Tensor) -> None:
        self._t = t

    def sample(self, n: int, *, device: Any, generator: Any = None) -> tuple[Tensor, Tensor]:
        return self._t.to(device), torch.ones(n, device=device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        return


def lambda_per_position(tokens: Tensor, rows: Rows, length: int, padding_token: bool = True) -> Tensor:
    """Draws per token (B, N, D) laid out over left-padded positions (B, length, D); all pads of a row share one.

    With `padding_token` a padded row's first draw is its padding token's; otherwise the draws are its items' alone.
    """
    laid_out = torch.empty(len(rows), length, tokens.shape[-1])
    for row, history in enumerate(rows.histories):
        padded = length - len(history)
        laid_out[row, :padded] = tokens[row, 0]
        laid_out[row, padded:] = tokens[row, 1 if padded and padding_token else 0 :][: len(history)]
    return laid_out


@contextmanager
def other_steps(model: Any, step_sampler: FixedSteps) -> Iterator[None]:
    """Our model with another step sampler for a while."""
    before = model.step_sampler
    del model.step_sampler  # it may be a module, and a module's place takes modules only
    model.step_sampler = step_sampler
    try:
        yield
    finally:
        del model.step_sampler
        model.step_sampler = before


@contextmanager
def other_lambda(model: Any, mean: float, std: float) -> Iterator[None]:
    """Our model with another lambda for a while."""
    mixing = model.denoiser.mixing
    before = mixing.lambda_mean, mixing.lambda_std
    mixing.lambda_mean, mixing.lambda_std = mean, std
    try:
        yield
    finally:
        mixing.lambda_mean, mixing.lambda_std = before


def largest_differences(yardstick: Yardstick, ours: Ours, rows: Rows, seed: int) -> dict[str, dict[str, float]]:
    """Largest differences between the two with dropout off, the same weights and every random number fixed.

    Three cases: lambda at its published mean, lambda drawn from its published distribution, and lambda drawn
    around 0.5 so that the noised target and the reverse chain's noise show. Each gives the largest difference of the
    user vectors, and of the loss, the scores and the gradient of the item embeddings relative to the largest
    magnitude in the yardstick's. That gradient is compared with the yardstick's in float64: in float32 the yardstick
    adds up the gradients of all padded places one by one, and is itself off by 2e-5.
    """
    sizes = yardstick.sizes
    generator = torch.Generator().manual_seed(seed)
    n_rows, hidden = len(rows), sizes.hidden_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    t = torch.randint(0, sizes.num_steps, (n_rows,), generator=generator)
    target_noise, x_start, step_noise = (
        normal(n_rows, hidden),
        normal(n_rows, hidden),
        normal(sizes.num_steps, n_rows, hidden),
    )
    tokens = normal(n_rows, sizes.max_length, hidden)
    cases = {
        "lambda_at_its_mean": (sizes.lambda_mean, sizes.lambda_std, torch.zeros_like(tokens)),
        "lambda_drawn": (sizes.lambda_mean, sizes.lambda_std, tokens),
        "lambda_visible": (VISIBLE_LAMBDA, VISIBLE_LAMBDA / 10, tokens),
    }
    return {
        name: _differences(yardstick, ours, rows, t, target_noise, x_start, step_noise, *case)
        for name, case in cases.items()
    }


def _differences(
    yardstick: Yardstick,
    ours: Ours,
    rows: Rows,
    t: Tensor,
    target_noise: Tensor,
    x_start: Tensor,
    step_noise: Tensor,
    mean: float,
    std: float,
    tokens: Tensor,
) -> dict[str, float]:
    from recbole_diffusion.models.history_diffusion import HistoryDiffusion

    device = yardstick.device
    history, targets = yardstick.batch(rows)
    batch = ours.batch(rows)
    mixing = (mean + std * lambda_per_position(tokens, rows, yardstick.sizes.max_length, ours.padding_token)).to(device)
    yardstick.model.eval()
    ours.model.eval()

    exact = copy.deepcopy(yardstick.model).double()
    exact_loss = exact.loss(
        history, targets, t=t.to(device), noise=target_noise.to(device).double(), mixing=mixing.double()
    )
    (expected_gradient,) = torch.autograd.grad(exact_loss, [exact.item_embedding.weight])
    with torch.no_grad():
        expected_loss = yardstick.model.loss(
            history, targets, t=t.to(device), noise=target_noise.to(device), mixing=mixing
        )
        expected_vectors = yardstick.model.reverse_trajectory(
            history, x_start=x_start.to(device), step_noise=step_noise.to(device), mixing=mixing
        )[-1]
        expected_scores = yardstick.model.scores(expected_vectors)

    module = HistoryDiffusion.__module__
    chain = [x_start, *step_noise]
    with other_lambda(ours.model, mean, std), other_steps(ours.model, FixedSteps(t)):
        fixed = FixedNoise([target_noise], tokens)
        with mock.patch.object(ours.model, "noise", fixed), mock.patch(f"{module}.GlobalNoise", lambda: fixed):
            loss = ours.model.calculate_loss(batch)
        (gradient,) = torch.autograd.grad(loss, [ours.model.item_embedding.weight])
        with (
            torch.no_grad(),
            mock.patch.object(
                ours.model, "evaluation_noise", lambda interaction, chain_number=0: FixedNoise(chain, tokens)
            ),
        ):
            vectors = ours.model.user_vectors(batch)[:, 0]
            scores = ours.model.full_sort_predict(batch)

    def largest(got: Tensor, expected: Tensor) -> float:
        return float((got - expected).abs().max())

    def relative(got: Tensor, expected: Tensor) -> float:
        return largest(got, expected) / float(expected.abs().max())

    return {
        "user_vectors": largest(vectors, expected_vectors),
        "loss": relative(loss.detach(), expected_loss),
        "scores": relative(scores, expected_scores),
        "item_gradient": relative(gradient, expected_gradient),
    }


def worst(differences: dict[str, dict[str, float]]) -> float:
    """The largest of all differences; NaN counts as the worst."""
    values = [value for case in differences.values() for value in case.values()]
    return float(np.max(values))
