"""Items that were added after training: tokens with vectors of their own, and their file.

A Parquet file has one row an item: the column `item_id` (the run's ITEM_ID_FIELD; text or whole numbers), `vector` (a
list of D numbers, in the space of the model's item vectors) and, if there is one, `title` (text).

Shapes: A items, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import ItemIds, is_list, is_list_type, is_token, is_token_type


def checked_vectors(
    tokens: Sequence[Any], vectors: Any, titles: Sequence[str | None] | None, width: int, ids: ItemIds
) -> tuple[list[str], np.ndarray, list[str | None]]:
    """Tokens (A,), vectors (A, D) float32 and titles (A,) of items, if they can be added.

    Args:
        tokens, vectors, titles: as they are given; no titles are None each.
        width: D.
        ids: the items that are there.

    Raises:
        UserError: they do not go together, a token is there already or twice, a vector is no D finite numbers.
    """
    if not is_list(tokens) or not all(map(is_token, tokens)):
        raise UserError("added items: tokens must be a list of text or whole numbers, one an item")
    names = [str(token) for token in tokens]
    if "" in names:
        raise UserError(f"added items: the token of item {names.index('') + 1} is empty; give it one, or leave it out")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"added items: {twice!r} is there twice; give each item once")
    known = next((name for name in names if name in ids), None)
    if known is not None:
        raise UserError(f"added items: {known!r} is an item of the run already; leave it out")
    try:
        values = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"added items: vectors are no numbers of {width} columns ({error})") from None
    if values.shape != (len(names), width):
        raise UserError(
            f"added items: vectors have the shape {list(values.shape)}; it must be {[len(names), width]}, one row an "
            "item and one column a dimension of the model's item vectors"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise UserError(f"added items: the vector of {names[row]!r} has an entry that is no finite number")
    if titles is not None and (not is_list(titles) or len(titles) != len(names)):
        raise UserError(f"added items: titles must be a list of {len(names)}, one an item")
    named: list[str | None] = (
        [None] * len(names) if titles is None else [None if title is None else str(title) for title in titles]
    )
    return names, values, named


def checked_items(path: Path, item_field: str) -> tuple[list[str], np.ndarray, list[str | None] | None]:
    """Tokens, vectors and titles of a file of items.

    Raises:
        UserError: the file is absent or no Parquet, or its columns are not as they must be.
    """
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}; give one with added_items") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from error
    if not len(table):
        raise UserError(f"{path} has no rows; give one an item, or leave added_items out")
    for name in (item_field, "vector"):
        if name not in table.column_names:
            raise UserError(f"{path} has no column {name}; it has {', '.join(table.column_names)}")
        if table[name].null_count:
            raise UserError(f"{path}: {name} is null in {table[name].null_count} rows; fill it in or leave them out")
    kind = table["vector"].type
    if not is_token_type(table[item_field].type):
        raise UserError(f"{path}: column {item_field} is {table[item_field].type}; it must be text or whole numbers")
    types = pyarrow.types
    if not is_list_type(kind) or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise UserError(f"{path}: column vector is {kind}; it must be lists of numbers")
    rows = table["vector"].to_pylist()
    if len(set(map(len, rows))) > 1 or any(value is None for row in rows for value in row):
        raise UserError(
            f"{path}: vectors differ in length, or have a null; each must have as many numbers as the model's"
        )
    titles = None
    if "title" in table.column_names:
        try:
            titles = table["title"].cast(pyarrow.string()).to_pylist()
        except pyarrow.ArrowException:
            raise UserError(f"{path}: column title is {table['title'].type}; it must be text") from None
    vectors = np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    return table[item_field].cast(pyarrow.string()).to_pylist(), vectors, titles
