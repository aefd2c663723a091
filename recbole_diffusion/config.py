"""One run's configuration: layers of YAML and overrides, resolved into a RecBole ``Config`` that refuses unread keys.

Later layers win::

    RecBole's YAMLs < properties/overall.yaml < RecBole's YAMLs of the model's family < the model's YAML
        < properties/dataset/<dataset>.yaml < properties/paper/<Model>.<dataset>.yaml where `preset: paper` asks for it
        < configuration files < overrides (command line or a dict)

Differs from RecBole's ``Config``: the command line is an argument and not ``sys.argv``, text is parsed as safe YAML and
not by ``eval``, ``os.environ`` is not written, and an unknown key or a value of the wrong type is an error that says
where it was given. Reading a key that is in no layer still gives None, as RecBole's code expects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config

from recbole_diffusion import compat
from recbole_diffusion.config_data_keys import DATA_CHECKS, contradiction_of_columns
from recbole_diffusion.config_files import (
    COMMAND_LINE,
    CONFIG_ARGUMENT,
    Layer,
    Loader,
    Overrides,
    chosen,
    given_layers,
    read_yaml,
    taken,
)
from recbole_diffusion.config_keys import (
    COMPUTED_KEYS,
    DECISION_TREE_KEYS,
    KEYS_WITHOUT_DEFAULT,
    KEYS_WITHOUT_EFFECT,
    TRANSFORM_KEYS,
    keys_read_by_model,
    recbole_argument_names,
)
from recbole_diffusion.config_options import model_options, options_layer
from recbole_diffusion.config_presets import preset_layers
from recbole_diffusion.config_protocols import over_eval_args, settle_protocol
from recbole_diffusion.config_training_keys import TRAINING_CHECKS, refused_transform
from recbole_diffusion.config_values import CHECKS, NotAllowedError, check_like
from recbole_diffusion.errors import UnknownKeyError, UserError
from recbole_diffusion.registry import (
    ModelEntry,
    default_file,
    models_with_default,
    nearest,
    properties_directory,
    recbole_directory,
    resolve_model,
)

__all__ = [
    "COMMAND_LINE",
    "CONFIG_ARGUMENT",
    "Overrides",
    "RunConfig",
    "model_options",
    "properties_directory",
    "read_yaml",
]

_CHECKS = {**CHECKS, **TRAINING_CHECKS, **DATA_CHECKS}
METRICS_WITHOUT_CUTOFF = ("auc", "gauc", "logloss", "mae", "rmse")
# Keys of RecBole's caches, and the only value that a run takes: datasets are read anew, nothing is unpickled.
NO_CACHE: dict[str, Any] = {
    "save_dataset": False,
    "dataset_save_path": None,
    "save_dataloaders": False,
    "dataloaders_save_path": None,
}
_ADDRESS_FILES = ("url", "kg_url")  # in RecBole's properties/dataset, but download addresses and no settings


class RunConfig(Config):
    """Configuration of one run, read as ``config["key"]`` everywhere RecBole expects its own ``Config``.

    Args:
        model: a name of the model table, ``package.module:Class``, or a class; None takes the key ``model`` of a layer.
        dataset: the dataset's name; None takes the key ``dataset`` of a layer. ``preset`` is a key of a layer too.
        config_files: YAML files, later ones win.
        overrides: keys that win over all files; an :class:`Overrides` says where they come from.

    Attributes:
        entry: the resolved :class:`~recbole_diffusion.registry.ModelEntry`.
        model_reference: what to pass as ``model`` to get the same model again.

    Raises:
        UserError: an unknown key, a value of the wrong type or not allowed, a file that cannot be read, no such model.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_files: Sequence[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        compat.apply_patches()
        given = given_layers(config_files, overrides or {})
        chosen_model, chosen_dataset = chosen("model", model, given), chosen("dataset", dataset, given)
        self.preset = taken("preset", None, given)
        if not isinstance(chosen_model, (str, type)):
            raise UserError(f"model must be a name, package.module:Class or a class, got {chosen_model!r}")
        if not isinstance(chosen_dataset, str) or not chosen_dataset or Path(chosen_dataset).name != chosen_dataset:
            raise UserError(f"dataset must be the name of a folder inside data_path, got {chosen_dataset!r}")

        self.entry: ModelEntry = resolve_model(chosen_model)
        self.model_reference = _reference(chosen_model, self.entry)
        self.model = self.entry.name
        self.model_class = self.entry.model_class
        self.dataset = chosen_dataset
        self.yaml_loader = Loader
        self.parameters = recbole_argument_names()

        defaults = self._default_layers()
        self._origins: dict[str, str] = {}
        self.internal_config_dict = self._merge(defaults)
        self._defaults = dict(self.internal_config_dict)
        presets = preset_layers(self.preset, self.model_class, self.dataset)
        self.internal_config_dict.update(self._merge(presets))
        self.external_config_dict = self._merge(given)
        self._refuse_unknown([*defaults, *presets, *given])
        self._defaults.update(self.internal_config_dict)
        self.final_config_dict = {**self.internal_config_dict, **self.external_config_dict}
        self._check_values()
        self._fill_in()
        self._folders = {key: self.final_config_dict[key] for key in ("data_path", "checkpoint_dir")}
        self._let_recbole_finish()
        if self.entry.options_class is not None:
            options: Any = model_options(self.entry.options_class, self)  # now, and not after minutes of reading data
            if (check := getattr(self.model_class, "check_configuration", None)) is not None:
                check(options, self)

    # ---- layers ----

    def _default_layers(self) -> list[Layer]:
        """The layers below what the user gives, lowest first."""
        recbole, ours = recbole_directory() / "properties", properties_directory()
        files = [recbole / "overall.yaml", recbole / "dataset" / "sample.yaml"]
        if self.dataset not in _ADDRESS_FILES:
            files.append(recbole / "dataset" / f"{self.dataset}.yaml")
        files.append(ours / "overall.yaml")
        files += [recbole / "quick_start_config" / name for name in self._family_files()]
        layers = [read_yaml(path) for path in files if path.is_file()]

        model_layers = [options_layer(self.entry.options_class)] if self.entry.options_class is not None else []
        model_file = default_file(self.model_class)
        if model_file is not None:
            model_layers.append(read_yaml(model_file))
        self._model_keys = frozenset(key for layer in model_layers for key in layer.values)

        dataset_file = ours / "dataset" / f"{self.dataset}.yaml"
        dataset_layers = [read_yaml(dataset_file)] if dataset_file.is_file() else []
        for layer in dataset_layers:
            self.parameters["Dataset"] += [key for key in layer.values if key not in self.parameters["Dataset"]]
        return [*layers, *model_layers, *dataset_layers]

    def _family_files(self) -> list[str]:
        """RecBole's settings for the model's family, by the same rules as RecBole."""
        from recbole.utils import ModelType

        family, on_ml_100k = self.model_class.type, self.dataset == "ml-100k"
        if family in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            return ["context-aware.yaml"] + ["context-aware_ml-100k.yaml"] * on_ml_100k
        if family == ModelType.KNOWLEDGE:
            return ["knowledge_base.yaml"]
        if family != ModelType.SEQUENTIAL:
            return []
        if self.model in ("DIN", "DIEN"):
            return ["sequential_DIN.yaml"] + ["sequential_DIN_on_ml-100k.yaml"] * on_ml_100k
        if self.model in ("GRU4RecKG", "KSR"):
            return ["sequential_embedding_model.yaml"]
        with_features = on_ml_100k and self.model in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")
        return ["sequential.yaml"] + ["special_sequential_on_ml-100k.yaml"] * with_features

    def _merge(self, layers: Iterable[Layer]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update(layer.values)
            self._origins.update(layer.origins)
        return merged

    def known_keys(self) -> frozenset[str]:
        """Every key that may be set for this model."""
        from recbole.utils import ModelType

        known = {"model", "dataset", "preset", *KEYS_WITHOUT_DEFAULT, *self._defaults}
        known.update(keys_read_by_model(self.model_class))
        known.update(self._option_names())
        known.update(key for names in self.parameters.values() for key in names)
        transform = self.external_config_dict.get("transform", self._defaults.get("transform"))
        known.update(TRANSFORM_KEYS.get(str(transform), ()))
        if self.model_class.type == ModelType.DECISIONTREE:
            known.update(DECISION_TREE_KEYS)
        return frozenset(known - set(COMPUTED_KEYS))

    def _refuse_unknown(self, layers: Iterable[Layer]) -> None:
        known, recbole = self.known_keys(), str(recbole_directory())
        for layer in layers:
            for key in layer.values:
                origin = layer.origins[key]
                if key in known or origin.startswith(recbole):
                    continue
                if key in COMPUTED_KEYS:
                    raise UserError(f"key '{key}' ({origin}) cannot be set: {COMPUTED_KEYS[key]}")
                hint, owners = nearest(key, known), models_with_default(key)
                if owners:
                    some = ", ".join(owners[:3]) + (" and others" if len(owners) > 3 else "")
                    raise UserError(
                        f"key '{key}' ({origin}) is read by {some}, not by {self.model}"
                        + (f"; its nearest key is '{hint}'" if hint else "")
                    )
                raise UnknownKeyError(key, origin, hint, f"neither RecBole nor the model {self.model} reads it")

    # ---- values ----

    def origin(self, key: str) -> str:
        """Where the key's value was given: ``command line``, ``configuration dict``, ``file:line``, or ``default``."""
        return self._origins.get(key, "default")

    def default(self, key: str) -> Any:
        """The key's value in the layers below what the user gives."""
        return self._defaults.get(key)

    def is_given(self, key: str) -> bool:
        """Whether the user gave the key, in a file or an override (and not a default file)."""
        return key in self.external_config_dict

    def computed_metrics(self, changed: Mapping[str, Any] | None = None) -> list[str]:
        """The metrics that its validations and tests compute, named as in RecBole's results (`hit@10`).

        Args:
            changed: other values of `metrics` and `topk`, as an evaluation may have them.
        """
        values = {**self.final_config_dict, **(changed or {})}
        kinds = [str(kind).lower() for kind in values["metrics"]]
        without = [kind for kind in kinds if kind in METRICS_WITHOUT_CUTOFF]
        return without + [f"{kind}@{cut}" for kind in kinds if kind not in without for cut in values["topk"]]

    def _not_allowed(self, key: str, allowed: str) -> UserError:
        return UserError(f"{key} must be {allowed}, got {self.final_config_dict[key]!r} ({self.origin(key)})")

    def _check_values(self) -> None:
        values = self.final_config_dict
        for key in list(values):
            check = _CHECKS.get(key)
            if check is None:
                if not self.is_given(key) or key not in self._defaults or key in self._option_names():
                    continue  # nobody touched it, no default to compare with, or model_options checks it
                check = check_like(self._defaults[key])
            try:
                values[key] = check(values[key])
            except NotAllowedError as error:
                raise self._not_allowed(key, str(error)) from None
        metrics, topk = values["metrics"], values["topk"]
        name, _, cutoff = values["valid_metric"].partition("@")
        cutoffs = [""] if name.lower() in METRICS_WITHOUT_CUTOFF else list(map(str, topk))
        if name.lower() not in [metric.lower() for metric in metrics] or cutoff not in cutoffs:
            raise self._not_allowed("valid_metric", f"one of metrics {metrics} @ one of topk {topk}")
        for key, only in NO_CACHE.items():
            if values[key] != only:
                raise self._not_allowed(key, f"{'~' if only is None else only}, a run reads its data anew")
        sequential = self.model_class.type.name == "SEQUENTIAL"
        for refused in (
            contradiction_of_columns(values),
            refused_transform(values, self.is_given, sequential=sequential),
        ):
            if refused is not None:
                raise self._not_allowed(*refused)
        for key, instead in KEYS_WITHOUT_EFFECT.items():
            if self.is_given(key) and values[key] != self._defaults[key]:
                raise self._not_allowed(key, f"left at {self._defaults[key]!r}, it would change nothing: {instead}")
        losses = ("CE", "BPR")
        if self._defaults.get("loss_type") in losses and values["loss_type"] not in losses:
            raise self._not_allowed("loss_type", " or ".join(losses))

    def _option_names(self) -> set[str]:
        options = self.entry.options_class
        return set() if options is None else {option.name for option in dataclasses.fields(options)}

    def _fill_in(self) -> None:
        """Defaults that depend on other keys, for keys that the user did not give."""
        from recbole.utils import ModelType

        values = self.final_config_dict
        # RecBole would fill a partial eval_args with a random split by ratio, whatever the files below say.
        values["eval_args"] = over_eval_args(self._defaults["eval_args"], values["eval_args"])
        sequential = self.model_class.type == ModelType.SEQUENTIAL
        settle_protocol(
            values, self._defaults, self.external_config_dict, self.origin, sequential=sequential, model=self.model
        )
        of_this_package = any(base.__module__.split(".")[0] == "recbole_diffusion" for base in self.model_class.__mro__)
        cross_entropy = values.get("loss_type") == "CE" and not hasattr(self.model_class, "input_type")
        if sequential and (cross_entropy or of_this_package):
            if not self.is_given("train_neg_sample_args") and "train_neg_sample_args" not in self._model_keys:
                values["train_neg_sample_args"] = None
            elif cross_entropy and values["train_neg_sample_args"] is not None:
                raise self._not_allowed(
                    "train_neg_sample_args", "~ when loss_type is CE, which compares with every item and samples none"
                )
        if self.origin("load_col").startswith(str(properties_directory() / "overall.yaml")):
            names = [values["USER_ID_FIELD"], values["ITEM_ID_FIELD"]]
            if sequential or values["eval_args"].get("order") == "TO":
                names.append(values["TIME_FIELD"])
            values["load_col"] = None if values.get("benchmark_filename") else {"inter": names}

    def _let_recbole_finish(self) -> None:
        """RecBole's own checks and derived keys; its exceptions are a person's mistakes at this point."""
        values = self.final_config_dict
        values["MODEL_TYPE"] = self.model_class.type
        bigger = values["valid_metric_bigger"]
        try:
            self._set_default_parameters()
            self._init_device()
            self._set_train_neg_sample_args()
            self._set_eval_neg_sample_args("valid")
            self._set_eval_neg_sample_args("test")
        except UserError:
            raise
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"RecBole refuses this configuration: {error}") from error
        if self.is_given("valid_metric_bigger") and bigger is not values["valid_metric_bigger"]:
            raise UserError(
                f"valid_metric_bigger must be {values['valid_metric_bigger']} for {values['valid_metric']}, "
                f"got {bigger!r} ({self.origin('valid_metric_bigger')}); leave it out"
            )
        if self.dataset == "ml-100k" and self.is_given("data_path"):
            # RecBole takes this dataset from its own package whatever data_path says.
            values["data_path"] = str(Path(self._folders["data_path"]) / self.dataset)

    def _init_device(self) -> None:
        """Choose the device: a GPU where there is one and ``use_gpu``, else the CPU. Leaves the environment alone."""
        values = self.final_config_dict
        values["single_spec"], values["local_rank"] = True, 0
        numbers = [int(part) for part in str(values["gpu_id"]).split(",") if part]
        if not values["use_gpu"] or not numbers or not torch.cuda.is_available():
            values["device"] = torch.device("cpu")
            return
        count = torch.cuda.device_count()
        if numbers[0] >= count:
            raise self._not_allowed("gpu_id", f"below {count}, the number of GPUs that torch sees")
        values["device"] = torch.device("cuda", numbers[0])

    def compatibility_settings(self) -> None:
        """Nothing: :func:`recbole_diffusion.compat.apply_patches` sets the numpy names that RecBole's code needs."""

    # ---- views ----

    def to_plain(self) -> dict[str, Any]:
        """Everything final as plain values for ``config.yaml``; ``RunConfig`` takes it back as a file or as overrides.

        Left out: what is worked out from other keys, and the device. Folders are as the user gave them.
        """
        values = {key: value for key, value in self.final_config_dict.items() if key not in COMPUTED_KEYS}
        if (values.get("train_neg_sample_args") or {}).get("distribution") == "none":
            values["train_neg_sample_args"] = None
        values.pop("valid_metric_bigger")  # it follows from valid_metric
        if self.model_class.type.name != "SEQUENTIAL":
            del values["filter_seen"]  # it follows from repeatable
        values.update(self._folders, model=self.model_reference, dataset=self.dataset, preset=self.preset)
        if self.dataset == "ml-100k" and not self.is_given("data_path"):
            del values["data_path"]  # given, it would mean a folder and not RecBole's embedded copy
        order = [
            "model",
            "dataset",
            "preset",
            *sorted(self._model_keys),
            *(key for names in self.parameters.values() for key in names),
        ]
        return {key: _plain(values[key]) for key in dict.fromkeys([*order, *values]) if key in values}

    def hyper_parameters(self) -> dict[str, Any]:
        """What runs are compared by, as plain values: the model's own keys and those of its training."""
        training = ("learner", "learning_rate", "train_batch_size", "weight_decay", "epochs", "stopping_step", "seed")
        names = ["model", "dataset", *sorted(self._model_keys), *training]
        plain = self.to_plain()
        return {name: plain[name] for name in dict.fromkeys(names) if name in plain}

    def __str__(self) -> str:
        lines = [f"{key} = {value}" for key, value in self.to_plain().items()]
        return "\n".join(["", *lines, f"device = {self['device']}"])

    __repr__ = __str__


def _reference(model: str | type, entry: ModelEntry) -> str:
    if isinstance(model, str):
        return model
    return entry.name if entry.ours or model.__module__.startswith("recbole.") else _plain(model)


def _plain(value: Any) -> Any:
    """``value`` in types that JSON and YAML know; a class or a function becomes ``package.module:Name``."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return f"{value.__module__}:{value.__qualname__}"
    return str(value)
