"""Tiny models with real batches: through the configuration, the reader and the loaders of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.models.base import EVALUATION_ROW

from .cases import COMMON, TINY, Case

USERS, ITEMS, INTERESTS = 32, 30, 3


def write_data(folder: Path) -> None:
    """`tiny`: 32 users, 30 items, histories whose last items differ; `narrow`: one item more than interests."""
    for name, users, items in (("tiny", USERS, ITEMS), ("narrow", 12, INTERESTS + 1)):
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user in range(users):
            for step in range(4 + user % 5):
                item = (user * 7 + step * (1 + user % 3) + user // items) % items
                lines.append(f"{user}\t{item}\t{step}")
        (folder / name).mkdir()
        (folder / name / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Built:
    """A model and the rows of its dataset."""

    config: RunConfig
    dataset: Any
    model: Any
    train: Any
    test: Any

    def again(self, seed: int) -> Any:
        """Another model of the same settings, started from another seed."""
        torch.manual_seed(seed)
        return self.config.model_class(self.config, self.train._dataset).to(self.config["device"])

    def batch(self) -> Interaction:
        """The first training batch as the loader gives it."""
        return plain(next(iter(self.train)), self.config["device"])

    def last_rows(self) -> Interaction:
        """The last training row of each user, at full width."""
        rows = self.train._dataset.inter_feat
        every = plain(rows[list(range(len(rows)))], "cpu")
        latest = {int(user): row for row, user in enumerate(every["user_id"])}
        return every[list(latest.values())].to(self.config["device"])

    def shortest_row(self) -> Interaction:
        """One training row whose history has one item, one column wide unless the model has a fixed width."""
        rows = self.train._dataset.inter_feat
        (first, *_) = (row for row, length in enumerate(rows["item_length"].tolist()) if length == 1)
        return plain(rows[[first]], self.config["device"])

    def evaluation(self) -> Interaction:
        """All test rows with their numbers, at full width."""
        rows = self.test._dataset.inter_feat
        batch = plain(rows[list(range(len(rows)))], "cpu", self.config["MAX_ITEM_LIST_LENGTH"])
        batch.update(Interaction({EVALUATION_ROW: torch.arange(len(batch))}))
        return batch.to(self.config["device"])


def plain(batch: Any, device: Any, width: int | None = None) -> Interaction:
    """A batch with all its columns as tensors, histories padded to `width` where that is given."""
    columns = dict(batch.interaction.items())
    if width is not None:
        for name, value in columns.items():
            if value.dim() == 2:
                columns[name] = torch.nn.functional.pad(value, (0, width - value.shape[1]))
    return Interaction(columns).to(device)


def build(case: Case, data_path: Path, dataset: str = "tiny", **keys: Any) -> Built:
    """The case's model and data."""
    from recbole_diffusion.registry import resolve_model

    entry = resolve_model(case.model)
    tiny: dict[str, Any] = {}
    if entry.options_class is not None:
        names = {option.name for option in fields(entry.options_class)}
        tiny = {key: value for key, value in TINY.items() if key in names}
    config = RunConfig(case.model, dataset, (), {**COMMON, "data_path": str(data_path), **tiny, **case.keys, **keys})
    data = checked_dataset(entry.dataset_class)(config)
    train, _, test = prepare_loaders(config, data)
    torch.manual_seed(7)
    model = config.model_class(config, train._dataset).to(config["device"])
    return Built(config, data, model, train, test)


def loss_of(model: Any, batch: Interaction) -> Tensor:
    """The training loss, a number; RecBole's models may give a tuple of parts."""
    loss = model.calculate_loss(batch)
    return sum(loss) if isinstance(loss, tuple) else loss  # type: ignore[return-value]


@torch.no_grad()
def scores_of(model: Any, batch: Interaction) -> Tensor:
    """Scores of all items, (B, V), in evaluation mode."""
    model.eval()
    scores: Tensor = model.full_sort_predict(batch)
    return scores.view(len(batch), -1).cpu()
