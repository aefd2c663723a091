"""Columns that RecBole's keys of data name, compared with those that the files have and that are loaded.

RecBole finds out at different moments, with a traceback or not at all, that a filter, a threshold, an alias or a weight
names a column that is not there; here all of them are compared as soon as the files are read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole.utils import FeatureSource, FeatureType

from recbole_diffusion.errors import UserError

NUMBERS = (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
TOKENS = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
SEQUENCES = (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)
_ALIASES = ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id")


def place_of(config: Any, key: str) -> str:
    """`` (file:line)`` where a key was given; nothing for RecBole's own ``Config``, which does not know."""
    origin = getattr(config, "origin", None)
    return f" ({origin(key)})" if callable(origin) else ""


def check_named_columns(dataset: Any) -> None:
    """Refuse a key that names a column which is not loaded, or one of a type that the key does not take.

    Args:
        dataset: a RecBole dataset whose files are read (`files_read`) and not yet filtered.

    Raises:
        UserError: names the key, the column, and what there is.
    """
    kinds: dict[str, FeatureType] = dataset.field2type
    for key, column, allowed in _named(dataset.config):
        if column not in kinds:
            raise UserError(_absent(dataset, key, column))
        if allowed and kinds[column] not in allowed:
            raise UserError(_wrong_type(dataset, key, column, allowed))
    for column, accepted in (dataset.config["val_interval"] or {}).items():
        if kinds[column] == FeatureType.TOKEN and not isinstance(accepted, (list, tuple)):
            raise UserError(_wrong_filter(dataset, column, "token", "a list of tokens such as [a, b]", accepted))
        if kinds[column] == FeatureType.FLOAT and isinstance(accepted, (list, tuple)):
            interval = 'an interval in quotes such as "[3,inf)"'
            raise UserError(_wrong_filter(dataset, column, "float", interval, accepted))
    loaded = [file.path.suffix[1:] for file in dataset.files_read]
    for suffix in dataset.config["unused_col"] or {}:
        if suffix not in loaded:
            raise UserError(
                f"unused_col names columns of {suffix!r}{place_of(dataset.config, 'unused_col')}, and read are "
                f"{', '.join(dict.fromkeys(loaded))}; change unused_col"
            )
    for column in dataset.config["threshold"] or {}:
        if dataset.field2source[column] != FeatureSource.INTERACTION:
            raise UserError(
                f"threshold names {column!r}{place_of(dataset.config, 'threshold')}, which is no column of the "
                "interactions; labels are made of a column of the .inter file"
            )
    for column, weights in (dataset.config["preload_weight"] or {}).items():
        if dataset.field2source[column] != dataset.field2source[weights]:
            raise UserError(
                f"preload_weight takes {weights!r} for the ids {column!r}{place_of(dataset.config, 'preload_weight')}, "
                "which are columns of different files; both must stand in one"
            )


def check_further_files(config: Any, folder: Path, dataset_name: str) -> None:
    """Refuse an `additional_feat_suffix` whose file is absent, or is one that is read anyway.

    Raises:
        UserError: names the file and the key.
    """
    for suffix in config["additional_feat_suffix"] or ():
        where = place_of(config, "additional_feat_suffix")
        if suffix in ("inter", "user", "item"):
            raise UserError(f"additional_feat_suffix names {suffix!r}{where}, which is read anyway; leave it out")
        path = folder / f"{dataset_name}.{suffix}"
        if not path.is_file():
            raise UserError(
                f"{path}: no such file, which additional_feat_suffix names{where}; put it there or leave it out"
            )


def _named(config: Any) -> Iterator[tuple[str, str, tuple[FeatureType, ...]]]:
    """Each key and column that it names, with the types that it takes; none takes all."""
    for column in config["val_interval"] or {}:
        yield "val_interval", column, (FeatureType.FLOAT, FeatureType.TOKEN)
    for column in config["threshold"] or {}:
        yield "threshold", column, (FeatureType.FLOAT,)
    for column in config["normalize_field"] or ():
        yield "normalize_field", column, ()  # RecBole warns of one that is no number
    for column in config["numerical_features"] or ():
        yield "numerical_features", column, NUMBERS
    for column in config["discretization"] or {}:
        yield "discretization", column, NUMBERS
    for column in config["seq_len"] or {}:
        yield "seq_len", column, SEQUENCES
    for columns in (config["unused_col"] or {}).values():
        for column in columns:
            yield "unused_col", column, ()
    for key in _ALIASES:
        for column in config[key] or ():
            yield key, column, TOKENS
    for column, weights in (config["preload_weight"] or {}).items():
        yield "preload_weight", column, (FeatureType.TOKEN,)
        yield "preload_weight", weights, ()  # RecBole warns of one that is no number


def _absent(dataset: Any, key: str, column: str) -> str:
    named = f"{key} names the column {column!r}{place_of(dataset.config, key)}"
    for file in dataset.files_read:
        if column in [field.name for field in file.fields]:
            loaded = [field.name for field in file.fields if field.name in dataset.field2type]
            suffix = file.path.suffix[1:]
            return (
                f"{named}, which {file.path} has but which is not loaded; set load_col: "
                f"{{{suffix}: [{', '.join([*loaded, column])}]}}"
            )
    near = difflib.get_close_matches(str(column), list(dataset.field2type), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"{named}, which is not among the loaded ones: {', '.join(dataset.field2type)}{hint}; change {key} or load_col"
    )


def _wrong_type(dataset: Any, key: str, column: str, allowed: tuple[FeatureType, ...]) -> str:
    return (
        f"{key} names the column {column!r}{place_of(dataset.config, key)} of type "
        f"{dataset.field2type[column].value}; it takes columns of type {' or '.join(kind.value for kind in allowed)}"
    )


def _wrong_filter(dataset: Any, column: str, kind: str, allowed: str, accepted: Any) -> str:
    place = place_of(dataset.config, "val_interval")
    return f"val_interval of {column!r}, a column of type {kind}, must be {allowed}, got {accepted!r}{place}"
