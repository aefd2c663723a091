"""One run's configuration: layers of YAML and overrides, resolved into a RecBole ``Config`` that refuses what nothing reads.

Later layers win::

    RecBole's YAMLs < properties/overall.yaml < the model's YAML < properties/dataset/<dataset>.yaml
        < configuration files < overrides (command line or a dict)

Differs from RecBole's ``Config``: the command line is an argument and not ``sys.argv``, text is parsed as safe YAML and
not by ``eval``, ``os.environ`` is not written, an unknown key or a value of the wrong type is an error that says where
it was given. Reading a key that is in no layer still gives None, as RecBole's code expects.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import torch
import yaml
from recbole.config import Config

from recbole_diffusion import compat
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import ModelEntry, nearest, recbole_directory, resolve_model

OptionsType = TypeVar("OptionsType")

COMMAND_LINE = "command line"
CONFIG_ARGUMENT = "configuration dict"


# --------------------------------------------------------------------------------------------------------------------
# Reading YAML
# --------------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a float (RecBole's files are written so) and dates as text, and refuses repeats."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in lines:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key '{key_node.value}' is given twice, also in line {lines[key_node.value]}",
                    key_node.start_mark,
                )
            lines[key_node.value] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
              |[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?
              |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
              |[-+]?\.(?:inf|Inf|INF)
              |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))


@dataclass(frozen=True)
class Layer:
    """Keys of one source: their values, and where each was given (``file:line``, ``command line``, ``configuration dict``)."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


class Overrides(dict[str, Any]):
    """Overrides that know where they come from, so that an error about one can say so (``origin``)."""

    def __init__(self, values: Mapping[str, Any] | None = None, *, origin: str = CONFIG_ARGUMENT) -> None:
        super().__init__(values or {})
        self.origin = origin


def parse_scalar(text: str) -> Any:
    """The value that ``text`` has as YAML: ``1e-3`` a float, ``[5, 10]`` a list, ``None`` and ``~`` None, else the text.

    Text that is no YAML, like the interval ``[5,inf)``, stays text.
    """
    if text.strip() == "None":
        return None
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def read_yaml(path: str | Path) -> Layer:
    """Read one configuration file.

    Raises:
        UserError: the file is absent, is no valid UTF-8 or YAML (with its line), repeats a key, or is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"no configuration file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the configuration file {path}: {error}") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Layer()
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            raise UserError(f"{path}:{line}: a configuration file holds 'key: value' lines, this is {_kind(node)}")
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    origins = {}
    for key_node, _ in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            raise UserError(f"{where}: a key is a name, not {key_node.value!r}")
        origins[key_node.value] = where
    return Layer(values, origins)


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "text"


# --------------------------------------------------------------------------------------------------------------------
# Where files lie
# --------------------------------------------------------------------------------------------------------------------


def properties_directory() -> Path:
    """Folder with ``overall.yaml``, ``model/`` and ``dataset/``: inside the installed package, or beside it in a checkout.

    Raises:
        UserError: neither place has it (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError(f"no properties/overall.yaml in {package} or beside it; reinstall recbole-diffusion")


# --------------------------------------------------------------------------------------------------------------------
# Which keys exist
# --------------------------------------------------------------------------------------------------------------------

# Keys that RecBole's code outside its models reads although none of its YAMLs has them (a test scans its sources).
RECBOLE_KEYS_WITHOUT_DEFAULT: dict[str, str] = {
    "encoding": "text encoding of the atomic files",
    "eta": "share kept by the transform crop_itemseq",
    "tail_ratio": "share of items that the metric TailPercentage counts as tail",
    "token_num_threshold": "one-hot conversion limit of decision trees",
    "xgb_early_stopping_rounds": "early stopping of XGBoost",
    "verbose": "messages of the trainer",
    "MASK_ITEM_SEQ": "field name of the transform mask_itemseq",
    "POS_ITEMS": "field name of the transform mask_itemseq",
    "NEG_ITEMS": "field name of the transform mask_itemseq",
    "MASK_INDEX": "field name of the transform mask_itemseq",
    "INVERSE_ITEM_SEQ": "field name of the transform inverse_itemseq",
    "CROP_ITEM_SEQ": "field name of the transform crop_itemseq",
    "CROP_ITEM_SEQ_LEN": "field name of the transform crop_itemseq",
    "REORDER_ITEM_SEQ": "field name of the transform reorder_itemseq",
}
# Keys that are worked out while the configuration is built, or that only RecBole's own launcher sets.
COMPUTED_KEYS: dict[str, str] = {
    "MODEL_TYPE": "it follows from the model",
    "MODEL_INPUT_TYPE": "it follows from the model",
    "eval_type": "it follows from metrics",
    "valid_metric_bigger": "it follows from valid_metric",
    "valid_neg_sample_args": "set eval_args: {mode: ...}",
    "test_neg_sample_args": "set eval_args: {mode: ...}",
    "device": "set use_gpu and gpu_id",
    "single_spec": "runs are one process",
    "local_rank": "runs are one process",
    "world_size": "runs are one process",
    "nproc": "runs are one process",
    "offset": "runs are one process",
    "ip": "runs are one process",
    "port": "runs are one process",
    "neg_sampling": "set train_neg_sample_args",
    "training_neg_sample_num": "set train_neg_sample_args: {sample_num: ...}",
    "config_file": "set --config_files",
}


def _string_constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_config(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name == "cfg" or name.endswith("config")


def keys_read_by(source: str) -> set[str]:
    """Keys that Python source reads from a configuration: ``config["k"]``, ``config.get("k")``, ``"k" in config``, ``config.k``."""
    keys: set[str | None] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and _is_config(node.value):
            keys.add(_string_constant(node.slice))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_config(node.func.value):
            if node.func.attr == "get" and node.args:
                keys.add(_string_constant(node.args[0]))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            if _is_config(node.comparators[0]):
                keys.add(_string_constant(node.left))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config":
            if not hasattr(Config, node.attr) and node.attr != "final_config_dict":
                keys.add(node.attr)
    return {key for key in keys if key is not None}


def _model_modules(model_class: type) -> list[types.ModuleType]:
    """Modules that define a model and the recommenders it derives from (not torch's or Python's)."""
    modules = []
    for base in model_class.__mro__:
        module = inspect.getmodule(base)
        if module is not None and module.__name__.split(".")[0] not in ("torch", "builtins", "abc", "typing", "object"):
            modules.append(module)
    return modules


@functools.lru_cache(maxsize=None)
def _keys_read_by_model(model_class: type) -> frozenset[str]:
    keys: set[str] = set()
    for module in _model_modules(model_class):
        try:
            keys |= keys_read_by(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):  # no source at hand: the class must then declare its keys as Options
            continue
    return frozenset(keys)


def _recbole_argument_names() -> dict[str, list[str]]:
    """RecBole's lists of keys by category, as copies (its own Config extends the originals in place)."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    return {
        "General": list(general_arguments),
        "Training": list(training_arguments),
        "Evaluation": list(evaluation_arguments),
        "Dataset": list(dataset_arguments),
    }


# --------------------------------------------------------------------------------------------------------------------
# Checking values
# --------------------------------------------------------------------------------------------------------------------


class _NotAllowed(Exception):
    """What would have been allowed."""


Check = Callable[[Any], Any]


def _integer(minimum: int | None = None, *, none: bool = False) -> Check:
    allowed = "an integer" + ("" if minimum is None else f" of at least {minimum}") + (" or ~" if none else "")

    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or (minimum is not None and value < minimum):
            raise _NotAllowed(allowed)
        return value

    return check


def _number(
    minimum: float | None = None, *, above: float | None = None, maximum: float | None = None, none: bool = False
) -> Check:
    allowed = "a number"
    allowed += f" above {above:g}" if above is not None else f" of at least {minimum:g}" if minimum is not None else ""
    allowed += f" and at most {maximum:g}" if maximum is not None else ""
    allowed += " or ~" if none else ""

    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or math.isnan(value)
            or (minimum is not None and value < minimum)
            or (above is not None and value <= above)
            or (maximum is not None and value > maximum)
        ):
            raise _NotAllowed(allowed)
        return value

    return check


def _boolean(*, none: bool = False) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or (none and value is None):
            return value
        raise _NotAllowed("True or False" + (" or ~" if none else ""))

    return check


def _choice(*choices: str, none: bool = False, any_case: bool = False) -> Check:
    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if isinstance(value, str) and (value in choices or (any_case and value.lower() in map(str.lower, choices))):
            return value
        hint = nearest(value, choices) if isinstance(value, str) else None
        raise _NotAllowed(
            "one of " + ", ".join([*choices, *(["~"] if none else [])]) + (f"; did you mean '{hint}'?" if hint else "")
        )

    return check


def _text(*, none: bool = False) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, str) or (none and value is None):
            return value
        raise _NotAllowed("text" + (" or ~" if none else ""))

    return check


def _list(*, none: bool = False) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return list(value)
        if none and value is None:
            return None
        raise _NotAllowed("a list such as [a, b]" + (" or ~" if none else ""))

    return check


def _mapping(*, none: bool = False) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if none and value is None:
            return None
        raise _NotAllowed("a mapping such as {a: b}" + (" or ~" if none else ""))

    return check


def _cutoffs(value: Any) -> Any:
    cutoffs = list(value) if isinstance(value, (list, tuple)) else [value]
    if not cutoffs or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in cutoffs):
        raise _NotAllowed("a positive integer or a list of them such as [5, 10, 20]")
    return cutoffs


def _metric_names(value: Any) -> Any:
    from recbole.evaluator.register import metric_types, metrics_dict

    names = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    known = sorted(metric_class.__name__ for metric_class in metrics_dict.values())
    if not names:
        raise _NotAllowed("a list of " + ", ".join(known))
    for name in names:
        if not isinstance(name, str) or name.lower() not in metric_types:
            hint = nearest(str(name), known)
            raise _NotAllowed("a list of " + ", ".join(known) + (f"; did you mean '{hint}'?" if hint else ""))
    return names


_INTERVAL = re.compile(r"^\s*[\[(]\s*([-+.\w]+)\s*,\s*([-+.\w]+)\s*[\])]\s*$")


def _interval(value: Any) -> Any:
    allowed = "an interval such as \"[5,inf)\" in quotes, or ~"
    if value is None:
        return None
    match = _INTERVAL.match(value) if isinstance(value, str) else None
    if match is None:
        raise _NotAllowed(allowed)
    try:
        low, high = float(match.group(1)), float(match.group(2))
    except ValueError:
        raise _NotAllowed(allowed) from None
    if not low <= high:
        raise _NotAllowed(allowed + " with its lower end first")
    return value.strip()


def _gpu_id(value: Any) -> Any:
    parts = list(value) if isinstance(value, (list, tuple)) else str(value).split(",") if value is not None else [""]
    if isinstance(value, bool) or any(not re.fullmatch(r"\s*\d*\s*", str(part)) for part in parts):
        raise _NotAllowed("the number of a GPU such as 0, or '' for none")
    return ",".join(str(part).strip() for part in parts)


_INTERVAL_KEYS = (
    "user_inter_num_interval",
    "item_inter_num_interval",
    "entity_kg_num_interval",
    "relation_kg_num_interval",
)
CHECKS: dict[str, Check] = {
    "gpu_id": _gpu_id,
    "worker": _integer(0),
    "seed": _integer(0),
    "eval_seed": _integer(0, none=True),
    "state": _choice("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL", none=True, any_case=True),
    "epochs": _integer(1),
    "train_batch_size": _integer(1),
    "eval_batch_size": _integer(1),
    "learner": _choice("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam", any_case=True),
    "learning_rate": _number(above=0.0),
    "weight_decay": _number(0.0),
    "eval_step": _integer(0),
    "stopping_step": _integer(0),
    "loss_decimal_place": _integer(0),
    "metric_decimal_place": _integer(0),
    "scheduler": _choice("none", "step", none=True),
    "scheduler_step_size": _integer(1),
    "scheduler_gamma": _number(above=0.0, maximum=1.0),
    "precision": _choice("fp32", "bf16", "fp16"),
    "time_precision": _choice("exact", "recbole"),
    "num_threads": _integer(1, none=True),
    "metrics": _metric_names,
    "topk": _cutoffs,
    "valid_metric": _text(),
    "MAX_ITEM_LIST_LENGTH": _integer(1),
    "eval_args": _mapping(),
    "train_neg_sample_args": _mapping(none=True),
    "clip_grad_norm": _mapping(none=True),
    "load_col": _mapping(none=True),
    "unload_col": _mapping(none=True),
    "unused_col": _mapping(none=True),
    "val_interval": _mapping(none=True),
    "threshold": _mapping(none=True),
    "seq_len": _mapping(none=True),
    "preload_weight": _mapping(none=True),
    "rm_dup_inter": _choice("first", "last", none=True),
    "alias_of_user_id": _list(none=True),
    "alias_of_item_id": _list(none=True),
    "alias_of_entity_id": _list(none=True),
    "alias_of_relation_id": _list(none=True),
    "benchmark_filename": _list(none=True),
    "normalize_field": _list(none=True),
    "normalize_all": _boolean(none=True),
    "encoding": _text(none=True),
    "transform": _choice(
        "mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined", none=True
    ),
    **{key: _interval for key in _INTERVAL_KEYS},
}


def _check_like(default: Any) -> Check:
    """Check for a key that has no rule of its own: the kind of value that its default is."""
    if isinstance(default, bool):
        return _boolean()
    if isinstance(default, (int, float)):
        return _number()
    if isinstance(default, str):
        return _text(none=True)
    if isinstance(default, list):
        return _list()
    if isinstance(default, dict):
        return _mapping(none=True)
    return lambda value: value


_EVAL_ARGS_KEYS = ("split", "order", "group_by", "mode")
_NEGATIVE_SAMPLING_KEYS = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
_CLIP_KEYS = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")


# --------------------------------------------------------------------------------------------------------------------
# The configuration
# --------------------------------------------------------------------------------------------------------------------


class RunConfig(Config):
    """Configuration of one run, read as ``config["key"]`` everywhere RecBole expects its own ``Config``.

    Args:
        model: a name of the model table, ``package.module:Class``, or a class; None takes the key ``model`` of a layer.
        dataset: the dataset's name; None takes the key ``dataset`` of a layer.
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
        if isinstance(config_files, (str, Path)):
            raise UserError(f"config_files is a list of files, got {str(config_files)!r}")
        overrides = overrides or {}
        origin = getattr(overrides, "origin", CONFIG_ARGUMENT)
        given = [read_yaml(path) for path in config_files]
        given.append(Layer(dict(overrides), dict.fromkeys(overrides, origin)))
        for layer in given:
            for key in layer.values:
                if not isinstance(key, str):
                    raise UserError(f"a key is a name, not {key!r} ({origin})")
        model, dataset = self._required("model", model, given), self._required("dataset", dataset, given)
        if not isinstance(dataset, str) or not dataset or Path(dataset).name != dataset:
            raise UserError(f"dataset is a folder's name inside data_path, got {dataset!r}")
        if not isinstance(model, (str, type)):
            raise UserError(f"model is a name or a class, got {model!r}")

        self.entry: ModelEntry = resolve_model(model)
        self.model_reference = _reference(model, self.entry)
        self.model = self.entry.name
        self.model_class = self.entry.model_class
        self.dataset = dataset
        self.yaml_loader = _Loader
        self.parameters = _recbole_argument_names()

        defaults, self._model_keys = self._default_layers()
        self._known = self._known_keys(defaults)
        self._origins: dict[str, str] = {}
        self.internal_config_dict = self._merge(defaults)
        self._defaults = dict(self.internal_config_dict)
        self._refuse_unknown([*defaults, *given])
        self.external_config_dict = {
            key: value for key, value in self._merge(given).items() if key not in ("model", "dataset")
        }
        self._given = frozenset(self.external_config_dict)
        self.final_config_dict = {**self.internal_config_dict, **self.external_config_dict}
        self.final_config_dict["MODEL_TYPE"] = self.model_class.type
        self._check_values()
        self._fill_in()
        self._data_path = self.final_config_dict["data_path"]
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
        if self.dataset == "ml-100k" and "data_path" in self._given:
            # RecBole reads this one from its own package whatever data_path says.
            self.final_config_dict["data_path"] = str(Path(self._data_path) / self.dataset)

    # ---- layers ----

    @staticmethod
    def _required(key: str, value: Any, given: Sequence[Layer]) -> Any:
        for layer in reversed(given):
            if value is None:
                value = layer.values.get(key)
        if value is None:
            raise UserError(f"no {key} is given; set --{key}=... or the key '{key}' in a configuration file")
        return value

    def _default_layers(self) -> tuple[list[Layer], frozenset[str]]:
        """Layers below what the user gives, lowest first, and the keys that belong to the model."""
        recbole = recbole_directory() / "properties"
        ours = properties_directory()
        files = [recbole / "overall.yaml", recbole / "dataset" / "sample.yaml"]
        if self.dataset not in ("url", "kg_url"):  # RecBole's download addresses, not settings
            files.append(recbole / "dataset" / f"{self.dataset}.yaml")
        files.append(ours / "overall.yaml")
        files += [recbole / "quick_start_config" / name for name in self._family_files()]
        layers = [read_yaml(path) for path in files if path.is_file()]

        model_layers = []
        if self.entry.options_class is not None:
            model_layers.append(_options_layer(self.entry.options_class))
        model_layers += [read_yaml(path) for path in self._model_files(recbole / "model", ours / "model")]
        keys = frozenset(key for layer in model_layers for key in layer.values)

        dataset_file = ours / "dataset" / f"{self.dataset}.yaml"
        dataset_layers = [read_yaml(dataset_file)] if dataset_file.is_file() else []
        for layer in dataset_layers:
            self.parameters["Dataset"] += [key for key in layer.values if key not in self.parameters["Dataset"]]
        return [*layers, *model_layers, *dataset_layers], keys

    def _model_files(self, recbole: Path, ours: Path) -> list[Path]:
        """Default files of the nearest class in the inheritance order that has one: a user's own class inherits them."""
        for base in self.model_class.__mro__:
            folder = {"recbole_diffusion": ours, "recbole": recbole}.get(base.__module__.split(".")[0])
            if folder is not None:
                for name in (base.__name__, base.__name__.lower()):
                    if (folder / f"{name}.yaml").is_file():
                        return [folder / f"{name}.yaml"]
        return []

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

    def _known_keys(self, defaults: Sequence[Layer]) -> frozenset[str]:
        known = {"model", "dataset", *RECBOLE_KEYS_WITHOUT_DEFAULT, *_keys_read_by_model(self.model_class)}
        known.update(key for names in self.parameters.values() for key in names)
        known.update(key for layer in defaults for key in layer.values)
        return frozenset(known - set(COMPUTED_KEYS))

    def _merge(self, layers: Iterable[Layer]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update(layer.values)
            self._origins.update(layer.origins)
        return merged

    def _refuse_unknown(self, layers: Iterable[Layer]) -> None:
        allowed_computed = {key for layer in self._recbole_layers() for key in layer.values}
        for layer in layers:
            for key in layer.values:
                origin = layer.origins[key]
                if key in COMPUTED_KEYS and not (key in allowed_computed and origin.startswith(str(recbole_directory()))):
                    raise UserError(f"key '{key}' ({origin}) cannot be set: {COMPUTED_KEYS[key]}")
                if key not in self._known and key not in COMPUTED_KEYS:
                    hint = nearest(key, self._known)
                    raise UserError(
                        f"unknown key '{key}' ({origin})"
                        + (f"; did you mean '{hint}'?" if hint else f"; neither RecBole nor the model {self.model} reads it")
                    )

    @staticmethod
    def _recbole_layers() -> list[Layer]:
        return [read_yaml(recbole_directory() / "properties" / "overall.yaml")]

    # ---- values ----

    def origin(self, key: str) -> str:
        """Where the key's value was given: ``command line``, ``configuration dict``, or ``file:line``."""
        return self._origins.get(key, "default")

    def _refuse(self, key: str, got: Any, allowed: str) -> UserError:
        return UserError(f"{key} is {allowed}, got {got!r} ({self.origin(key)})")

    def _check_values(self) -> None:
        values = self.final_config_dict
        for key in list(values):
            check = CHECKS.get(key)
            if key in self._model_keys and key not in self.parameters["Training"]:
                options = self.entry.options_class
                if options is not None and key in {field.name for field in dataclasses.fields(options)}:
                    continue  # model_options checks these
                check = check or None
            if check is None:
                if key not in self._given or key not in self._defaults:
                    continue
                check = _check_like(self._defaults[key])
            try:
                values[key] = check(values[key])
            except _NotAllowed as error:
                raise self._refuse(key, values[key], str(error)) from None
        self._check_nested()

    def _check_nested(self) -> None:
        values = self.final_config_dict
        for key, names in (
            ("eval_args", _EVAL_ARGS_KEYS),
            ("train_neg_sample_args", _NEGATIVE_SAMPLING_KEYS),
            ("clip_grad_norm", _CLIP_KEYS),
        ):
            for name in values[key] or ():
                if name not in names:
                    hint = nearest(str(name), names)
                    raise UserError(
                        f"{key} has no '{name}' ({self.origin(key)}), it has {', '.join(names)}"
                        + (f"; did you mean '{hint}'?" if hint else "")
                    )
        for name, check in (
            ("order", _choice("TO", "RO")),
            ("group_by", _choice("user", "none", none=True)),
            ("split", _mapping()),
        ):
            if name in values["eval_args"]:
                try:
                    check(values["eval_args"][name])
                except _NotAllowed as error:
                    raise self._refuse(f"eval_args' {name}", values["eval_args"][name], str(error)) from None
        metrics, topk, valid_metric = values["metrics"], values["topk"], values["valid_metric"]
        name, at, cutoff = valid_metric.partition("@")
        if name.lower() not in [metric.lower() for metric in metrics] or (at and cutoff not in map(str, topk)):
            raise self._refuse("valid_metric", valid_metric, f"one of metrics {metrics} @ one of topk {topk}")
        if values.get("loss_type") is not None and self._defaults.get("loss_type") in ("CE", "BPR"):
            if values["loss_type"] not in ("CE", "BPR"):
                raise self._refuse("loss_type", values["loss_type"], "CE or BPR")

    def _fill_in(self) -> None:
        """Defaults that depend on other keys, for keys the user did not give."""
        from recbole.utils import ModelType

        values = self.final_config_dict
        sequential = self.model_class.type == ModelType.SEQUENTIAL
        of_this_package = any(base.__module__.split(".")[0] == "recbole_diffusion" for base in self.model_class.__mro__)
        if values.get("train_neg_sample_args") == "None":
            values["train_neg_sample_args"] = None
        cross_entropy = values.get("loss_type") == "CE" and not hasattr(self.model_class, "input_type")
        if sequential and (cross_entropy or of_this_package):
            if "train_neg_sample_args" not in self._given and "train_neg_sample_args" not in self._model_keys:
                values["train_neg_sample_args"] = None
            elif cross_entropy and values["train_neg_sample_args"] is not None:
                raise self._refuse(
                    "train_neg_sample_args",
                    values["train_neg_sample_args"],
                    "~ when loss_type is CE, which needs no sampled negatives",
                )
        if self.origin("load_col").startswith(str(properties_directory())):
            names = [values["USER_ID_FIELD"], values["ITEM_ID_FIELD"]]
            if sequential or values["eval_args"].get("order") == "TO":
                names.append(values["TIME_FIELD"])
            values["load_col"] = None if values.get("benchmark_filename") else {"inter": names}

    def _init_device(self) -> None:
        """Choose the device: a GPU where there is one and ``use_gpu``, else the CPU. Leaves the environment alone."""
        values = self.final_config_dict
        values["single_spec"], values["local_rank"] = True, 0
        numbers = [int(number) for number in str(values["gpu_id"]).split(",") if number != ""]
        if not values["use_gpu"] or not numbers or not torch.cuda.is_available():
            values["device"] = torch.device("cpu")
            return
        if numbers[0] >= torch.cuda.device_count():
            raise self._refuse("gpu_id", values["gpu_id"], f"below {torch.cuda.device_count()}, the GPUs that torch sees")
        values["device"] = torch.device("cuda", numbers[0])

    # ---- views ----

    def to_plain(self) -> dict[str, Any]:
        """Everything final as a dict of plain values for ``config.yaml``; ``RunConfig(overrides=...)`` reads it back.

        Left out: what is worked out from other keys, and the device. ``data_path`` is as the user gave it.
        """
        values = {key: value for key, value in self.final_config_dict.items() if key not in COMPUTED_KEYS}
        if (values.get("train_neg_sample_args") or {}).get("distribution") == "none":
            values["train_neg_sample_args"] = None
        values["data_path"] = self._data_path
        values["model"], values["dataset"] = self.model_reference, self.dataset
        order = ["model", "dataset", *sorted(self._model_keys)]
        order += [key for names in self.parameters.values() for key in names]
        ordered = [key for key in dict.fromkeys(order) if key in values]
        return {key: _plain(values[key]) for key in [*ordered, *(key for key in values if key not in ordered)]}

    def __str__(self) -> str:
        plain = self.to_plain()
        return "\n".join(["", *(f"{key} = {value}" for key, value in plain.items()), f"device = {self['device']}"])

    __repr__ = __str__

    def compatibility_settings(self) -> None:
        """Unused: :func:`recbole_diffusion.compat.apply_patches` sets the numpy names that RecBole's code needs."""


def _reference(model: str | type, entry: ModelEntry) -> str:
    return model if isinstance(model, str) else entry.name if entry.ours else f"{model.__module__}:{model.__qualname__}"


def _plain(value: Any) -> Any:
    """``value`` in types that JSON and YAML know; a class or function becomes ``package.module:Name``."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return f"{value.__module__}:{value.__qualname__}"
    return str(value)


# --------------------------------------------------------------------------------------------------------------------
# A model's own keys, typed
# --------------------------------------------------------------------------------------------------------------------


def _options_layer(options_class: type) -> Layer:
    """Defaults that a dataclass of options declares."""
    if not dataclasses.is_dataclass(options_class):
        raise UserError(f"{options_class.__qualname__} is not a dataclass; a model's Options are a frozen dataclass")
    values: dict[str, Any] = {}
    for option in dataclasses.fields(options_class):
        if option.default is not dataclasses.MISSING:
            values[option.name] = option.default
        elif option.default_factory is not dataclasses.MISSING:
            values[option.name] = option.default_factory()
    return Layer(values, dict.fromkeys(values, f"{options_class.__module__}:{options_class.__qualname__}"))


def _fit(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``, or :class:`_NotAllowed` with what is allowed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        for choice in arguments:
            if type(choice) is type(value) and choice == value:
                return choice
        texts = [str(choice) for choice in arguments]
        near = nearest(value, texts) if isinstance(value, str) else None
        raise _NotAllowed("one of " + ", ".join(texts) + (f"; did you mean '{near}'?" if near else ""))
    if origin in (Union, types.UnionType):
        allowed = []
        for choice in arguments:
            try:
                return _fit(value, choice)
            except _NotAllowed as error:
                allowed.append(str(error))
        raise _NotAllowed(" or ".join(allowed))
    if hint is type(None):
        if value is None:
            return None
        raise _NotAllowed("~")
    if hint is bool:
        return _boolean()(value)
    if hint is int:
        return _integer()(value)
    if hint is float:
        return float(_number()(value))
    if hint is str:
        return _text()(value)
    if hint in (list, tuple) or origin in (list, tuple):
        entries = _list()(value)
        inner = arguments[0] if arguments else Any
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(entries) != len(arguments):
                raise _NotAllowed(f"a list of {len(arguments)} values")
            return tuple(_fit(entry, kind) for entry, kind in zip(entries, arguments, strict=True))
        try:
            fitted = [_fit(entry, inner) for entry in entries]
        except _NotAllowed as error:
            raise _NotAllowed(f"a list, each entry {error}") from None
        return tuple(fitted) if tuple in (hint, origin) else fitted
    if hint is dict or origin in (dict, Mapping):
        return _mapping()(value)
    if callable(value) or isinstance(value, hint if isinstance(hint, type) else object):
        return value
    raise _NotAllowed(str(hint))


def model_options(options_class: type[OptionsType], config: Any) -> OptionsType:
    """A model's own keys from the configuration as the frozen dataclass it declares them in.

    Field types may be ``int``, ``float`` (an integer will do), ``bool``, ``str``, ``Literal``, ``Optional`` and unions
    of these, lists and tuples of them, ``dict``. A field without default must be in the configuration.

    Raises:
        UserError: a key is missing or its value does not fit; names the key, what it got, what is allowed.
    """
    hints = typing.get_type_hints(options_class)
    where = getattr(config, "origin", None)
    arguments: dict[str, Any] = {}
    for option in dataclasses.fields(typing.cast(Any, options_class)):
        if not option.init:
            continue
        if option.name not in config:
            if option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING:
                raise UserError(f"key '{option.name}' is needed by {options_class.__qualname__} and not set")
            continue
        value = config[option.name]
        try:
            arguments[option.name] = _fit(value, hints[option.name])
        except _NotAllowed as error:
            origin = f" ({where(option.name)})" if callable(where) else ""
            raise UserError(f"{option.name} is {error}, got {value!r}{origin}") from None
    try:
        return options_class(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
