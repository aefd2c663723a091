"""Which keys there are beside those that have a default in a YAML, and which keys a piece of source reads."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping
from typing import Any

# Keys that RecBole's code outside its models reads although none of its YAMLs for all models has them. A test scans
# RecBole's sources and fails when one is missing here.
KEYS_WITHOUT_DEFAULT: dict[str, str] = {
    "encoding": "text encoding of the atomic files",
    "tail_ratio": "share of items that the metric TailPercentage counts as tail",
}
# Keys that say where else a run is logged; none of its results depends on them.
LOGGER_KEYS = ("loggers", "run_name", "log_wandb", "wandb_project", "mlflow_experiment", "mlflow_tracking_uri")
# What of a reverse chain `reverse_steps: auto` chooses a number of steps for.
CHAIN_KEYS = (
    "reverse_steps",
    "reverse_steps_tolerance",
    "reverse_sampler",
    "reverse_grid",
    "reverse_noise",
    "reverse_noise_space",
    "reverse_eta",
)
CHOSEN_STEPS = "reverse_steps_chosen"
TRANSFORM_KEYS: dict[str, tuple[str, ...]] = {
    "mask_itemseq": ("mask_ratio", "ft_ratio"),
    "crop_itemseq": ("eta",),
    "reorder_itemseq": ("beta",),
}
DECISION_TREE_KEYS = ("convert_token_to_onehot", "token_num_threshold", "xgb_early_stopping_rounds")
# Keys that are worked out while a configuration is built or a transform runs, or that only RecBole's own launcher sets.
COMPUTED_KEYS: dict[str, str] = {
    "MODEL_TYPE": "it follows from the model",
    "MODEL_INPUT_TYPE": "it follows from the model",
    "eval_type": "it follows from metrics",
    "valid_neg_sample_args": "set eval_args: {mode: ...}",
    "test_neg_sample_args": "set eval_args: {mode: ...}",
    "device": "set use_gpu and gpu_id",
    "single_spec": "set num_workers to train with several processes",
    "local_rank": "set num_workers to train with several processes",
    "world_size": "set num_workers to train with several processes",
    "nproc": "set num_workers to train with several processes",
    "offset": "set num_workers to train with several processes",
    "ip": "set num_workers to train with several processes",
    "port": "set num_workers to train with several processes",
    "neg_sampling": "RecBole replaced it with train_neg_sample_args",
    "training_neg_sample_num": "RecBole replaced it with train_neg_sample_args: {sample_num: ...}",
    "config_file": "set --config_files",
    "MASK_ITEM_SEQ": "the transform sets it",
    "POS_ITEMS": "the transform sets it",
    "NEG_ITEMS": "the transform sets it",
    "MASK_INDEX": "the transform sets it",
    "INVERSE_ITEM_SEQ": "the transform sets it",
    "CROP_ITEM_SEQ": "the transform sets it",
    "CROP_ITEM_SEQ_LEN": "the transform sets it",
    "REORDER_ITEM_SEQ": "the transform sets it",
}

# Keys of RecBole that nothing here reads, and what does what they seem to do. RecBole's own files set them.
KEYS_WITHOUT_EFFECT: dict[str, str] = {
    "checkpoint_dir": "a run keeps everything in its folder, which --output places",
    "loss_decimal_place": "the log has four decimals and metrics.csv has them all",
    "enable_scaler": "precision: fp16 scales the loss, the others need no scaler",
}


def drop_stale_choice(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Drop the number of reverse steps that a run chose from its stored keys where the chain is to be another one.

    It is for the run's own chain: `reverse_steps: auto` given anew chooses anew, and so does another sampler or grid.

    Args:
        values: the keys stored with a checkpoint; changed.
        overrides: what is given over them.
    """
    if "reverse_steps" in overrides or any(
        key in overrides and overrides[key] != values.get(key) for key in CHAIN_KEYS
    ):
        values.pop(CHOSEN_STEPS, None)


def recbole_argument_names() -> dict[str, list[str]]:
    """RecBole's lists of keys by category, as copies (its own Config extends the originals in place)."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    return {
        "General": list(general_arguments),
        "Training": list(training_arguments),
        "Evaluation": list(evaluation_arguments),
        "Dataset": list(dataset_arguments),
    }


def _string_constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_config(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name == "cfg" or name.endswith("config")


def keys_read_by(source: str) -> set[str]:
    """Keys that Python source reads from a configuration: ``config["k"]``, ``config.get("k")``, ``"k" in config``."""
    keys: set[str | None] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and _is_config(node.value):
            keys.add(_string_constant(node.slice))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            keys.add(_string_constant(node.left) if _is_config(node.comparators[0]) else None)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_config(node.func.value):
            keys.add(_string_constant(node.args[0]) if node.func.attr == "get" and node.args else None)
    return {key for key in keys if key is not None}


@functools.cache
def keys_read_by_model(model_class: type) -> frozenset[str]:
    """Keys that the modules defining a model and the recommenders it derives from read.

    Without source at hand (an interactive session) there is nothing to scan: the class declares its keys as Options.
    """
    keys: set[str] = set()
    for base in model_class.__mro__:
        module = inspect.getmodule(base)
        if module is None or module.__name__.split(".")[0] in ("torch", "builtins", "abc", "typing"):
            continue
        # RecBole's abstract classes share one module, and a sequential model does not read what a context model reads.
        abstract = module.__name__ == "recbole.model.abstract_recommender"
        try:
            source = inspect.getsource(base) if abstract else inspect.getsource(module)
            keys |= keys_read_by(source)
        except (OSError, TypeError, SyntaxError):
            continue
    return frozenset(keys)
