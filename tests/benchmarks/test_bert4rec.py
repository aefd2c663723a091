"""BERT4Rec with cheaper loss is RecBole's BERT4Rec."""

from __future__ import annotations

from pathlib import Path

import bert4rec
import pytest
import torch
from recbole.utils import init_seed

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.registry import resolve_model

KEYS = {
    "use_gpu": False,
    "cache": False,
    "show_progress": False,
    "hidden_size": 16,
    "inner_size": 24,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "train_batch_size": 64,
    "mask_ratio": 0.5,
}


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
@pytest.mark.parametrize("longest", [6, 20])  # shorter than the histories, and longer than all of them
def test_loss_and_gradients_are_recboles(small_data: Path, loss_type: str, longest: int) -> None:
    keys = {**KEYS, "data_path": str(small_data), "loss_type": loss_type, "MAX_ITEM_LIST_LENGTH": longest}
    config = RunConfig("BERT4Rec", "small", (), keys)
    train = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))[0]
    init_seed(1, True)
    theirs = resolve_model("BERT4Rec").model_class(config, train.dataset)
    ours = bert4rec.BERT4Rec(config, train.dataset)
    ours.load_state_dict(theirs.state_dict())
    for batch in list(train)[:3]:
        losses = []
        for model in (theirs, ours):
            model.zero_grad()
            loss = model.calculate_loss(batch)
            loss.backward()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
        for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if expected.grad is None:
                assert found.grad is None, name
            else:
                torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=0, msg=name)
