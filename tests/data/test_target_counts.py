"""What an epoch asks for, and that the q of in-batch negatives is that: the loader's own frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.histories import Rows, group_by_user
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.data.sequences import ExampleFields, ExampleRows
from recbole_diffusion.data.target_counts import target_counts

KEYS = {"use_gpu": False, "cache": False, "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 64}
IN_BATCH = {"negative_sampler": "in_batch", "log_q_correction": True}
CUT = {"protocol": "user_split_multi", "min_history": 2, "one_cut_per_user": True}
ALL = {"protocol": "user_split_multi", "min_history": 4, "train_positions": "all"}


def training(small_data: Path, name: str, **keys: Any) -> tuple[RunConfig, Any]:
    config = RunConfig(name, "small", (), {**KEYS, **IN_BATCH, "data_path": str(small_data), **keys})
    return config, prepare_loaders(config, checked_dataset(SequentialDataset)(config))[0]


def proposal(config: RunConfig, train: Any) -> torch.Tensor:
    """q of each item in the model's sampler, (V,); padding's means nothing."""
    torch.manual_seed(0)
    model = config.model_class(config, train._dataset)
    return model.objective.sampler.log_probability.exp()


def test_by_hand() -> None:
    users = np.array([1, 1, 1, 1, 1, 2, 2, 2])
    histories = group_by_user(users, {"item_id": np.array([9, 4, 7, 4, 6, 3, 8, 5], dtype=np.uint8)}, n_users=3)
    fields = ExampleFields("user_id", "item_length", "_list", frozenset(), 3, False)
    rows = ExampleRows(histories, fields, Rows(np.array([7, 2, 3, 4])), keep=False)  # user 1: 7, 4, 6; user 2: 5

    def counts(*, cut: bool = False, every: bool = False) -> dict[int, float]:
        found = target_counts(rows, "item_id", 10, one_cut_per_user=cut, every_place=every)
        assert len(found) == 10
        return {item: float(count) for item, count in enumerate(found) if count}

    assert counts() == {4: 1, 5: 1, 6: 1, 7: 1}
    assert counts(cut=True) == pytest.approx({4: 1 / 3, 5: 1, 6: 1 / 3, 7: 1 / 3})
    # of user 1 the model sees 4, 7, 4 and is asked for 7, 4, 6; of user 2 it sees 3, 8 and is asked for 8, 5
    assert counts(every=True) == {4: 1, 5: 1, 6: 1, 7: 1, 8: 1}


def test_in_batch_proposal_is_the_loaders_with_one_cut_of_each_user(small_data: Path) -> None:
    config, train = training(small_data, "ComiRecSA", **CUT)
    found = np.zeros(train._dataset.item_num)
    targets = train._dataset.inter_feat["item_id"].numpy()
    epochs = 4000
    for _ in range(epochs):
        for index in train.sampler:
            found += np.bincount(targets[index], minlength=len(found))
    assert found.sum() == epochs * len({*train._dataset.inter_feat["user_id"].tolist()})
    q = proposal(config, train).numpy()[1:]
    error = 5 * np.sqrt(found[1:].max()) / found.sum()  # 5 deviations of the most frequent item's share
    every = np.bincount(targets, minlength=len(found))
    assert np.abs(every[1:] / every.sum() - q).max() > 3 * error  # the test tells the two apart
    assert np.abs(found[1:] / found.sum() - q).max() < error


@pytest.mark.parametrize("positions", ["all", "last"])
def test_in_batch_proposal_is_what_the_sasrec_family_asks_for(small_data: Path, positions: str) -> None:
    """Items before the first training row (min_history) are asked for with `all`, and none outside the window."""
    config, train = training(small_data, "SASRecSampled", **{**ALL, "train_positions": positions})
    found = np.zeros(train._dataset.item_num)
    for batch in train:
        if positions == "all":
            found += np.bincount(batch["item_id_list"][:, 1:].flatten().numpy(), minlength=len(found))
            found[0] = 0
        found += np.bincount(batch["item_id"].numpy(), minlength=len(found))
    asked = found[1:] > 0
    q = proposal(config, train).numpy()[1:]
    np.testing.assert_allclose(q[asked], found[1:][asked] / found.sum(), rtol=1e-5)


def test_popularity_stays_that_of_the_training_rows(small_data: Path) -> None:
    config, train = training(small_data, "ComiRecSA", **{**CUT, "negative_sampler": "log_uniform"})
    torch.manual_seed(0)
    order = config.model_class(config, train._dataset).objective.sampler.by_popularity.tolist()
    rows = np.bincount(train._dataset.inter_feat["item_id"].numpy(), minlength=len(order) + 1)
    assert rows[order].tolist() == sorted(rows[1:].tolist(), reverse=True)
