"""A run's model built again to recommend: from checkpoint and items, or from its dataset where these do not do.

An export (docs/export.md) of the format safetensors is such a checkpoint with its items.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed

import recbole_diffusion
from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.config_keys import drop_stale_choice
from recbole_diffusion.data.item_titles import titles_of_items
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import check_same_data, data_fingerprint
from recbole_diffusion.registry import KEYS_OF_PARTS
from recbole_diffusion.training.checkpoint import (
    BEST_FILE,
    Checkpoint,
    load_model,
    pack_random_state,
    read_checkpoint,
    unpack_random_state,
)
from recbole_diffusion.training.item_catalogue import ITEMS_FILE, ItemCatalogue, NeedsTrainingData
from recbole_diffusion.training.reverse_steps_choice import refuse_open_choice
from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

EXPORT_MANIFEST = "export.json"  # marks a folder as an export


@dataclass(frozen=True)
class OpenedModel:
    """A model with its weights, on its device.

    Attributes:
        model: the model.
        config: its configuration.
        tokens: (V,) the items' tokens, padding first.
        path: the checkpoint file.
        titles: gives (V,) the items' titles, None for an item without one; None where the data have no titles.
    """

    model: torch.nn.Module
    config: RunConfig
    tokens: np.ndarray
    path: Path
    titles: Callable[[], np.ndarray | None]


def checkpoint_file(checkpoint: str | Path) -> Path:
    """The file of weights: a run folder's best epoch, that of an export of the format safetensors, or the file itself.

    Raises:
        UserError: there is none.
    """
    path = Path(checkpoint)
    if (path / EXPORT_MANIFEST).is_file():
        if not (path / BEST_FILE).is_file():
            raise UserError(
                f"{path} is an export without {BEST_FILE}, whose program this package does not open (its README.md "
                "says how to use it); give the run, or an export made with --format=safetensors"
            )
        path = path / BEST_FILE
    elif path.is_dir():
        path = RunFolder.open(path).best
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    return path


def open_model(
    checkpoint: str | Path,
    *,
    data_path: str | Path | None = None,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    own_code: str | Sequence[str] = (),
) -> OpenedModel:
    """The model of a checkpoint; see :meth:`recbole_diffusion.recommendation.recommender.Recommender.load`.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    path = checkpoint_file(checkpoint)
    stored = read_checkpoint(path)
    _refuse_other_versions(stored, path)
    refuse_own_code(stored, path, config, own_code)
    settings = _settings(stored, path, data_path, device, config)
    built = _build_of_items(settings, stored, path)
    if built is None:
        built = _build_of_data(settings, stored, path)
    model, tokens, titles = built
    load_model(model, stored, path)
    return OpenedModel(model.to(settings["device"]).eval(), settings, tokens, path, titles)


def refuse_own_code(
    stored: Checkpoint, path: Path, config: Mapping[str, Any] | None, own_code: str | Sequence[str]
) -> None:
    """Refuse a checkpoint that has modules imported which nobody allowed: importing one runs what stands in it.

    Args:
        stored: the checkpoint.
        path: where it is.
        config: keys that override its own; modules that they name are allowed.
        own_code: names of modules that may be imported; a text is one name.

    Raises:
        UserError: names the first such key and its module; or the checkpoint does not say its model.
    """
    run_of(stored, path)
    names = [own_code] if isinstance(own_code, str) else own_code
    run, allowed = stored.facts["config"], {*names, *modules_of_parts(config or {}).values()}
    for key, module in modules_of_parts(run).items():
        if module not in allowed:
            raise UserError(
                f"{path} has {key} {run[key]!r}, and loading it would run the module {module}; if you trust "
                f"that module, allow it with own_code={module}"
            )


def modules_of_parts(values: Mapping[str, Any]) -> dict[str, str]:
    """The module that each part of one's own, written module:Name in a configuration, is in, by its key."""
    named = {key: values.get(key) for key in KEYS_OF_PARTS}
    return {key: name.partition(":")[0] for key, name in named.items() if isinstance(name, str) and ":" in name}


def _refuse_other_versions(stored: Checkpoint, path: Path) -> None:
    """Refuse a header without what is read of it, as another version of this package may have written it.

    Raises:
        UserError: names what is missing, and the versions.
    """
    config, data = stored.facts.get("config"), stored.facts.get("data")
    missing = None
    if not isinstance(config, dict) or not {"model", "dataset"} <= set(config):
        missing = "config"
    elif data is not None and not (isinstance(data, dict) and {"ids", "users"} <= set(data)):
        missing = "data"
    if missing:
        versions = stored.facts.get("versions")
        written = versions.get("recbole_diffusion") if isinstance(versions, dict) else None
        here = recbole_diffusion.__version__
        remedy = f"it was written by version {written}; load it with that one, or train the run again"
        if written in (None, here):
            remedy = "it is damaged; give another checkpoint, or train the run again"
        raise UserError(f"{path} has no '{missing}' in its header that version {here} can read: {remedy}")


def run_of(stored: Checkpoint, path: Path) -> tuple[str, str]:
    """Model and dataset of a checkpoint.

    Raises:
        UserError: it does not say them.
    """
    _refuse_other_versions(stored, path)
    run = stored.facts["config"]
    return run["model"], run["dataset"]


def _settings(
    stored: Checkpoint, path: Path, data_path: str | Path | None, device: str | None, config: Mapping[str, Any] | None
) -> RunConfig:
    """The run's configuration with what is given put over it."""
    overrides = config.over({}, "") if isinstance(config, Overrides) else Overrides(dict(config or {}))
    values = {
        key: value
        for key, value in stored.facts["config"].items()
        if key not in ("model", "dataset", "use_gpu", "gpu_id")
    }
    for name in ("model", "dataset", "preset"):
        if name in overrides:
            raise UserError(f"{path} has its own {name}, {stored.facts['config'].get(name)}; leave {name} out")
    if data_path is not None:
        overrides["data_path"] = str(data_path)
    if device is not None:
        overrides.update(_device_keys(device))
    drop_stale_choice(values, overrides)
    run = stored.facts["config"]
    settings = RunConfig(run["model"], run["dataset"], (), overrides.over(values, str(path)))
    refuse_open_choice(settings, path)
    return settings


def _device_keys(device: str) -> dict[str, Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return {"use_gpu": False}
    if kind != "cuda" or (number and not number.isdigit()):
        raise UserError(f"device is {device!r}; it must be cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"device is {device}, but torch sees no GPU here; take cpu")
    return {"use_gpu": True, "gpu_id": number or "0"}


Built = tuple[torch.nn.Module, np.ndarray, Callable[[], "np.ndarray | None"]]


def _build_of_items(config: RunConfig, stored: Checkpoint, path: Path) -> Built | None:
    """The model built from the items beside the checkpoint; None where there are none or it asks for more."""
    file = path.with_name(ITEMS_FILE)
    data = stored.facts.get("data")
    if not file.is_file() or not data:
        logger.info("no %s beside %s: the dataset is read", ITEMS_FILE, path)
        return None
    catalogue = ItemCatalogue.read(file)
    if catalogue.ids != data["ids"]:
        raise UserError(f"{file} holds the items of another run than {path}; remove it, or put the run's own there")
    try:
        model = _build(config, catalogue.for_model(config, data["users"] + 1))
    except NeedsTrainingData as error:
        logger.info("%s asks for %s, which is not in %s: the dataset is read", config.entry.name, error, ITEMS_FILE)
        return None
    if catalogue.titled and config["title_field"] == stored.facts["config"].get("title_field"):
        return model, catalogue.tokens, lambda: catalogue.titles
    return model, catalogue.tokens, lambda: _titles_of_data(config, catalogue.tokens)


def _titles_of_data(config: RunConfig, tokens: np.ndarray) -> np.ndarray | None:
    """Titles from the dataset's file, for a run that kept none; a file that cannot be read is said in the log."""
    try:
        return titles_of_items(config, Path(config["data_path"]), tokens.tolist())
    except UserError as error:
        logger.warning("items have no titles: %s", error)
        return None


def _build_of_data(config: RunConfig, stored: Checkpoint, path: Path) -> Built:
    """The model built from its dataset."""
    dataset = checked_dataset(config.entry.dataset_class)(config)
    train_data = prepare_loaders(config, dataset)[0]
    fingerprint = data_fingerprint(Path(config["data_path"]), dataset)
    check_same_data(stored.facts.get("data"), fingerprint, path, same_files=False)
    tokens = np.asarray(dataset.field2id_token[dataset.iid_field])
    return _build(config, train_data._dataset), tokens, lambda: _titles_of_data(config, tokens)


def _build(config: RunConfig, dataset: Any) -> torch.nn.Module:
    """The model as the run built it, from the run's seed; the caller's generators are left as they were."""
    device = torch.device(config["device"])
    tensors, facts = pack_random_state((), device)
    try:
        init_seed(config["seed"], config["reproducibility"])
        model: torch.nn.Module = config.entry.model_class(config, dataset)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    finally:
        unpack_random_state((), device, Checkpoint(tensors).part("generator"), facts)
    return model
