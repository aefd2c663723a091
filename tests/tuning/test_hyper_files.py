"""The search spaces in hyper/: one for every model, each of whose values the model's configuration takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.tuning.options import SweepOptions
from recbole_diffusion.tuning.search_space import read

FOLDER = Path(__file__).resolve().parents[2] / "hyper"
NAMES = sorted({*OUR_MODELS, "SASRec", "GRU4Rec", "BERT4Rec"} - {"Popularity"})


def test_every_model_has_one() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_taken(name: str) -> None:
    space = read(FOLDER / f"{name}.yaml")

    def refused(values: Mapping[str, Any]) -> UserError | None:
        try:
            RunConfig(name, "ml-100k", (), values)
        except UserError as error:
            return error
        return None

    for key, domain in space.domains.items():
        for value in domain.ends():
            assert refused({**space.fixed, key: value}) is None, (key, value, refused({key: value}))
    assert "learning_rate" in space.domains
    for options in ({}, {"search": "optuna"}, {"scheduler": "asha"}):
        SweepOptions(**options).check_space(space)
