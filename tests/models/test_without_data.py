"""What the parts of a model refuse is refused with the configuration, before any data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_diffusion import quick_start
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.models import without_data
from recbole_diffusion.models.sasrec_ce import SASRecCE


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (
            "DiffuRec",
            "hidden_size: 8\nn_heads: 3\n",
            r"^hidden_size 8 is not a multiple of n_heads 3; .* key \(hidden_size: .*mine\.yaml:1, n_heads: .*:2\)$",
        ),
        ("DiffuRecSys", "n_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:1\)$"),
        ("SASRecCE", "\nn_heads: 3\n", r"hidden_size 64 is not a multiple of n_heads 3.* \(.*mine\.yaml:2\)$"),
        ("SASRecSampled", "n_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:1\)$"),
        ("gSASRec", "n_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:1\)$"),
        ("DreamRec", "n_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:1\)$"),
        ("DimeRec", "history_encoder: sasrec\nn_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:2\)$"),
        ("DMI", "n_heads: 3\n", r"n_heads 3; change either key \(.*mine\.yaml:1\)$"),
        ("DiffuRec", "noise_schedule: linear\n", r"needs 'beta_start', which is not given .* \(.*mine\.yaml:1\)$"),
        ("DiffuRec", "noise_schedule: linear_scaled\nnum_steps: 10\n", r"21 and more .*\(num_steps: .*:2, noise_sch"),
        ("DreamRec", "reverse_steps: 10001\n", r"reverse_steps is 10001; it must lie in 1\.\..* \(.*mine\.yaml:1\)$"),
        ("DMI", "step_sampler: 'os:nothing'\n", r"'os:nothing': os has no 'nothing'.* \(.*mine\.yaml:1\)$"),
    ],
)
def test_what_a_part_refuses_is_said_with_its_line(tmp_path: Path, model: str, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        RunConfig(model, "absent", [tmp_path / "mine.yaml"])


def test_a_run_is_refused_before_it_has_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a multiple of n_heads 3; change either key \(configuration dict\)"):
        quick_start.run("gSASRec", "absent", {"n_heads": 3}, output=tmp_path, data_path=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", OUR_MODELS)
def test_no_random_number_is_drawn_and_the_defaults_are_taken(model: str) -> None:
    without_data._accepted.clear()
    before = torch.get_rng_state()
    RunConfig(model, "absent")
    assert torch.equal(torch.get_rng_state(), before) and without_data._accepted


def test_the_same_options_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(self: Any, config: Any, dataset: Any) -> None:
        built.append(config["n_heads"])

    built: list[int] = []
    monkeypatch.setattr(SASRecCE, "__init__", note)
    note.__module__ = SASRecCE.__module__
    without_data._accepted.clear()
    for heads, seed in ((1, 1), (1, 2), (2, 1)):
        RunConfig("SASRecCE", "absent", (), {"n_heads": heads, "seed": seed})
    assert built == [1, 2]


class OwnConstructor(SASRecCE):
    """A user's model: what its constructor does is its own affair."""

    def __init__(self, config: Any, dataset: Any) -> None:
        raise AssertionError("built without data")


def test_a_constructor_outside_the_package_is_left_alone() -> None:
    RunConfig(OwnConstructor, "absent", (), {"n_heads": 3})
