"""RecBole's SASRec trained on RecBole's own loaders and on ours ends in the same place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.utils import data_preparation
from recbole.utils import init_seed

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import trainer_class

SMALL = {"hidden_size": 32, "inner_size": 64, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 20}


def trained(
    folder: Path, output: Path, *, own_loaders: bool, **keys: Any
) -> tuple[dict[str, torch.Tensor], float, float]:
    """Weights, training loss of the last epoch and test NDCG@10 of SASRec on beauty-mini."""
    values = {"data_path": str(folder), "use_gpu": False, "show_progress": False, "cache": False, **SMALL, **keys}
    # RecBole orders by float32 times; those of beauty-mini are exact in float32, so both orders are one
    config = RunConfig("SASRec", "beauty-mini", (), values)
    if own_loaders:
        loaders = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))
    else:
        loaders = data_preparation(config, config.entry.dataset_class(config))
    init_seed(config["seed"], True)
    model = config.entry.model_class(config, loaders[0]._dataset)
    trainer = trainer_class(config.entry.trainer_class)(config, model, RunFolder.create(output, "run"), loaders[0])
    trainer.fit(loaders[0], None, verbose=False, saved=False)
    result = trainer.evaluate(loaders[2], load_best_model=False)
    return model.state_dict(), trainer.history[-1]["train_loss"], result["ndcg@10"]


def test_one_epoch_without_dropout_is_the_same(shared: Path, tmp_path: Path) -> None:
    keys = {"epochs": 1, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "train_batch_size": 512, "seed": 3}
    ours, theirs = (trained(shared / "data", tmp_path, own_loaders=own, **keys) for own in (True, False))
    assert ours[1] == pytest.approx(theirs[1], abs=1e-4)
    assert ours[2] == pytest.approx(theirs[2], abs=1e-4)
    for name, weight in theirs[0].items():
        torch.testing.assert_close(ours[0][name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_with_dropout_the_means_of_three_seeds_agree(shared: Path, tmp_path: Path) -> None:
    """Dropout draws other masks for other widths, so single runs differ; their means differ by less than one spread."""
    keys = {"epochs": 8, "train_batch_size": 256}
    found = np.array(
        [
            [trained(shared / "data", tmp_path, own_loaders=own, seed=seed, **keys)[1:] for seed in (1, 2, 3)]
            for own in (True, False)
        ]
    )
    means, spreads = found.mean(axis=1), found.std(axis=1, ddof=1)
    assert (np.abs(means[0] - means[1]) <= spreads.max(axis=0)).all(), (means, spreads)
