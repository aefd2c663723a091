"""Presets: a paper's settings for one model on one dataset, chosen by `preset: paper`.

`properties/<preset>/<Model>.<dataset>.yaml` is layered over the model's and the dataset's defaults and below what a
person gives. These files alone set `protocol`: without a preset every model has the same one.
"""

from __future__ import annotations

from pathlib import Path

from recbole_diffusion.config_files import Layer, read_yaml
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import properties_directory

PRESETS = ("paper",)


def datasets_with_preset(preset: str) -> dict[str, list[str]]:
    """Model -> the datasets for which it has this preset, both in order of name; from the files' names alone."""
    found: dict[str, list[str]] = {}
    stems = [path.stem.partition(".") for path in (properties_directory() / preset).glob("*.yaml")]
    for model, _, dataset in sorted(stems):
        found.setdefault(model, []).append(dataset)
    return found


def preset_file(preset: str, model: str, dataset: str) -> Path:
    """Where the preset of a model on a dataset lies, whether or not it is there."""
    return properties_directory() / preset / f"{model}.{dataset}.yaml"


def preset_layers(preset: object, model_class: type, dataset: str) -> list[Layer]:
    """The layer of a preset, none without one. A user's own class has the presets of the model it derives from.

    Args:
        preset: a name in `PRESETS`, or None.
        model_class: the model.
        dataset: the dataset's name.

    Raises:
        UserError: no such preset, or none for this model and dataset (with those that there are).
    """
    if preset is None:
        return []
    if preset not in PRESETS:
        raise UserError(f"preset must be {' or '.join(PRESETS)}, or ~ for none, got {preset!r}")
    names = [base.__name__ for base in model_class.__mro__]
    for name in names:
        path = preset_file(str(preset), name, dataset)
        if path.is_file():
            return [read_yaml(path)]
    available = datasets_with_preset(str(preset))
    own = next((available[name] for name in names if name in available), None)
    if own is not None:
        raise UserError(f"no preset '{preset}' of {names[0]} on {dataset}; it has one on {', '.join(own)}")
    raise UserError(f"no preset '{preset}' of {names[0]}; these models have one: {', '.join(available) or 'none'}")
