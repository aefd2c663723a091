"""Names of models: a name -> its class, the dataset and trainer it runs with.

A name is looked up in this order: the models of this package, RecBole's models (by exact name), a user's own class
written ``package.module:Class``. Nothing is found by lower-casing a name, and no model is imported to list names.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion import compat
from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS

logger = logging.getLogger(__name__)

OUR_MODEL_NAMES: tuple[str, ...] = tuple(OUR_MODELS)

# Keys of a model's defaults that this package's trainer reads and RecBole's does not.
_KEYS_OF_OUR_TRAINER = ("scheduler", "valid_reverse_steps")
# Names whose module is not named after their properties file, or that have no properties file at all.
_RECBOLE_MODELS_WITHOUT_OWN_FILE: dict[str, str] = {"Random": "random", "XGBoost": "xgboost", "LightGBM": "lightgbm"}
# Keys whose values may be written module:Name, for a part of one's own.
KEYS_OF_PARTS = ("model", "noise_schedule", "step_sampler", "noise", "reverse_sampler")
_RECBOLE_FAMILIES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
    "exlib_recommender",
)


@dataclass(frozen=True)
class ModelEntry:
    """What a model runs with. ``dataset_class`` and ``trainer_class`` are RecBole's, before this package wraps them."""

    name: str
    model_class: Any
    options_class: type | None
    dataset_class: type
    trainer_class: type
    ours: bool


def our_models() -> dict[str, type]:
    """Name -> class of all models of this package (imports every one, and torch)."""
    return {name: row.load() for name, row in OUR_MODELS.items()}


def recbole_directory() -> Path:
    """Folder of the installed RecBole package, found without importing it.

    Raises:
        UserError: RecBole is not installed.
    """
    specification = importlib.util.find_spec("recbole")
    if specification is None or not specification.submodule_search_locations:
        raise UserError(f"RecBole is not installed; install it with: {compat.INSTALL_RECBOLE}")
    return Path(next(iter(specification.submodule_search_locations)))


def properties_directory() -> Path:
    """Folder with ``overall.yaml``, ``model/``, ``dataset/``: inside the installed package or beside it (a checkout).

    Raises:
        UserError: neither place has it (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError(f"no properties/overall.yaml in {package} or beside it; install recbole-diffusion again")


def default_file_of(name: str) -> Path | None:
    """The file of defaults of one of our models or RecBole's, found by its name alone; None when there is none."""
    for folder in (properties_directory() / "model", recbole_directory() / "properties" / "model"):
        for stem in (name, name.lower()):
            if (folder / f"{stem}.yaml").is_file():
                return folder / f"{stem}.yaml"
    return None


def default_file(model_class: type) -> Path | None:
    """The file of defaults of the nearest base that is our model or RecBole's: a user's own class inherits them."""
    for base in model_class.__mro__:
        if base.__module__.split(".")[0] in ("recbole_diffusion", "recbole"):
            path = default_file_of(base.__name__)
            if path is not None:
                return path
    return None


def models_with_default(key: str) -> list[str]:
    """Models of ours and RecBole's whose files of defaults have ``key``."""
    line = re.compile(rf"^{re.escape(key)}\s*:", re.M)
    paths = [path for name in _all_names() if (path := default_file_of(name)) is not None]
    return [path.stem for path in paths if line.search(path.read_text(encoding="utf-8"))]


def _all_names() -> list[str]:
    return [name for names in model_names().values() for name in names]


def _recbole_modules() -> dict[str, str]:
    """RecBole's model names -> the module that defines the class, from its files alone."""
    folder = recbole_directory()
    stems = {path.stem: path.stem.lower() for path in (folder / "properties" / "model").glob("*.yaml")}
    for name, stem in _RECBOLE_MODELS_WITHOUT_OWN_FILE.items():
        stems.pop(stem, None)
        stems[name] = stem
    modules = {}
    for name, stem in stems.items():
        for family in _RECBOLE_FAMILIES:
            if (folder / "model" / family / f"{stem}.py").is_file():
                modules[name] = f"recbole.model.{family}.{stem}"
                break
    return modules


def model_names() -> dict[str, list[str]]:
    """Names that ``--model`` accepts besides ``package.module:Class``, by where the model comes from."""
    return {"recbole_diffusion": sorted(OUR_MODEL_NAMES), "RecBole": sorted(_recbole_modules())}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most likely meant: the same letters in another case, else the closest spelling, else None."""
    names = list(candidates)
    for candidate in names:
        if candidate.lower() == name.lower():
            return candidate
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def load_object(reference: str) -> Any:
    """The object that ``package.module:Name`` names: a user's own model, schedule, step sampler or noise.

    The module may also be a file in the working directory. A mistake inside that module keeps its own traceback.

    Raises:
        UserError: the reference has no colon, or the module or the name in it does not exist.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"'{reference}' does not name an object; write it as package.module:Name")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        module = compat.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(
                f"no module '{error.name}' for '{reference}', looked in the Python path and in {Path.cwd()}"
            ) from error
        raise
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = nearest(part, [name for name in vars(found) if not name.startswith("_")])
            raise UserError(
                f"'{reference}': {module_name} has no '{attribute}'" + (f"; did you mean '{hint}'?" if hint else "")
            )
        found = getattr(found, part)
    return found


def _dataset_class(name: str, model_class: Any) -> type:
    """RecBole's dataset class for a model: one that the model names, one named after it, else its family's."""
    import recbole.data.dataset as datasets
    from recbole.utils import ModelType

    declared = getattr(model_class, "dataset_class", None)
    if declared is not None:
        return declared
    if name + "Dataset" in vars(datasets):
        return vars(datasets)[name + "Dataset"]
    by_family: dict[Any, type] = {
        ModelType.SEQUENTIAL: datasets.SequentialDataset,
        ModelType.KNOWLEDGE: datasets.KnowledgeBasedDataset,
    }
    return by_family.get(model_class.type, datasets.Dataset)


def _trainer_class(name: str, model_class: Any) -> type:
    """RecBole's trainer class for a model: one that the model names, one named after it, else its family's."""
    import recbole.trainer.trainer as trainers
    from recbole.utils import ModelType

    declared = getattr(model_class, "trainer_class", None)
    if declared is not None:
        return declared
    if name + "Trainer" in vars(trainers):
        return vars(trainers)[name + "Trainer"]
    by_family: dict[Any, type] = {
        ModelType.KNOWLEDGE: trainers.KGTrainer,
        ModelType.TRADITIONAL: trainers.TraditionalTrainer,
    }
    return by_family.get(model_class.type, trainers.Trainer)


def _is_ours(model_class: type) -> bool:
    """Whether a class is the one that the table of models names, said without importing any."""
    row = OUR_MODELS.get(model_class.__name__)
    return row is not None and model_class.__module__ == f"recbole_diffusion.models.{row.module}"


def _entry(name: str, model_class: type, *, ours: bool) -> ModelEntry:
    if getattr(model_class, "type", None) is None:
        raise UserError(
            f"model '{name}' has no attribute 'type'; derive it from a RecBole recommender such as "
            "recbole.model.abstract_recommender.SequentialRecommender"
        )
    return ModelEntry(
        name=name,
        model_class=model_class,
        options_class=getattr(model_class, "Options", None),
        dataset_class=_dataset_class(name, model_class),
        trainer_class=_trainer_class(name, model_class),
        ours=ours,
    )


def resolve_model(name: str | type) -> ModelEntry:
    """The model that ``name`` names: one of ours, RecBole's by exact name, ``package.module:Class``, or a class itself.

    Raises:
        UserError: no such model (with the nearest name), or the model needs a package that is not installed.
    """
    compat.apply_patches()
    if isinstance(name, type):
        return _entry(name.__name__, name, ours=_is_ours(name))
    if name in OUR_MODELS:
        return _entry(name, OUR_MODELS[name].load(), ours=True)
    modules = _recbole_modules()
    if name in modules:
        try:
            module = compat.import_module(modules[name])
        except ModuleNotFoundError as error:
            raise UserError(f"model '{name}' needs the package '{error.name}', which is not installed") from error
        compat.read_recbole_checkpoints()
        return _entry(name, vars(module)[name], ours=False)
    if ":" in name:
        model_class = load_object(name)
        if not isinstance(model_class, type):
            raise UserError(f"'{name}' is not a class, but {type(model_class).__name__}")
        return _entry(model_class.__name__, model_class, ours=False)
    hint = nearest(name, [*OUR_MODEL_NAMES, *modules])
    raise UserError(
        f"unknown model '{name}'"
        + (f"; did you mean '{hint}'?" if hint else "")
        + " (--list_models lists the names; a class of your own is written package.module:Class)"
    )


def _inject_module(name: str) -> None:
    """Put a model where RecBole's ``get_model`` looks: ``recbole.model.sequential_recommender.<lower-case name>``.

    The model itself is imported when it is asked for.
    """
    full_name = f"recbole.model.sequential_recommender.{name.lower()}"
    row = OUR_MODELS[name]
    specification = importlib.machinery.ModuleSpec(full_name, loader=None, origin=f"recbole_diffusion.{row.module}")
    module = importlib.util.module_from_spec(specification)

    def attribute(wanted: str) -> Any:
        if wanted == name:
            return row.load()
        raise AttributeError(f"module '{full_name}' has no attribute '{wanted}'")

    vars(module)["__getattr__"] = attribute
    sys.modules[full_name] = module


def register() -> None:
    """Make RecBole's own ``run_recbole(model="DiffuRec")``, ``get_model("DiffuRec")`` and ``Config`` know our models.

    No file of RecBole is touched. Its ``get_model`` finds a module of ours where it looks for its own, and its
    ``Config`` reads the model's defaults from our properties folder (RecBole only looks into its own). The run itself
    is then RecBole's: its reader, its trainer, its log and checkpoint files. Safe to call again.

    Raises:
        UserError: RecBole is absent or another version.
    """
    compat.apply_patches()
    from recbole.config import Config

    from recbole_diffusion.evaluation.recbole_metrics import register_metrics

    register_metrics()
    compat.import_module("recbole.model.sequential_recommender")  # as RecBole's get_model does next
    for name in OUR_MODELS:
        _inject_module(name)

    if getattr(Config, "_reads_recbole_diffusion", False):
        return
    from recbole_diffusion.config_files import read_yaml

    load_recbole_defaults = Config._load_internal_config_dict

    def load_defaults(self: Any, model: str, model_class: type, dataset: str) -> None:
        load_recbole_defaults(self, model, model_class, dataset)
        if _is_ours(model_class):
            defaults = read_yaml(properties_directory() / "model" / f"{model}.yaml").values
            self.internal_config_dict.update(defaults)
            unread = [key for key in _KEYS_OF_OUR_TRAINER if defaults.get(key) is not None]
            if unread:
                logger.warning(
                    "%s in RecBole's own trainer: %s of its defaults %s no effect there; "
                    "recbole_diffusion.run() reads %s",
                    model,
                    " and ".join(unread),
                    *(("has", "it") if len(unread) == 1 else ("have", "them")),
                )

    Config._load_internal_config_dict = load_defaults
    Config._reads_recbole_diffusion = True
