"""The categories of items, from one column of a dataset's ``.item`` file.

They are read beside the dataset and not into it: items that stand in the file and in no interaction would get ids in
RecBole's dataset, and with them a model would have other items because of a metric.

A category is a token of the column: one of an item in a ``token`` column, any number in a ``token_seq`` column, none
where the value is empty or the item has no row. Of an item's several rows the first counts, as in RecBole.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.data.atomic_fields import AtomicFile, RequiredColumn, refuse
from recbole_diffusion.data.atomic_files import check_layout, read_columns, split_sequences
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

USUAL_COLUMNS = ("category", "categories", "genre", "genres", "class")
"""The columns that are looked for where none is named, first come first taken; RecBole's datasets use these."""

_KINDS = ("token", "token_seq")


@dataclass(frozen=True)
class CategoriesOfItems:
    """Which item is of which category.

    Attributes:
        column: name of the column they come from.
        items: (P,) int64 internal id of an item, ascending.
        categories: (P,) int64 one of its categories, in the order in which its line has them; none twice for an item.
        names: the categories by number, in order of first appearance in the file.
    """

    column: str
    items: np.ndarray
    categories: np.ndarray
    names: list[str]


def read_item_categories(
    path: Path,
    column: str | None,
    item_column: RequiredColumn,
    item_ids: Mapping[str, int],
    *,
    separator: str = "\t",
    encoding: str = "utf-8",
    seq_separator: str = " ",
) -> CategoriesOfItems:
    """Read the categories of the items that have an internal id.

    Args:
        path: the ``.item`` file.
        column: the column of the categories (`category_field`); None takes the first of `USUAL_COLUMNS` that is there.
        item_column: the column of the items.
        item_ids: token of an item -> internal id; padding included, other items of the file are passed over.
        separator: RecBole's ``field_separator``.
        encoding: RecBole's ``encoding``.
        seq_separator: RecBole's, between the categories of one item.

    Raises:
        UserError: no such file or column, a column of numbers, no item with a category, a file that is not atomic.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, and metrics of categories read it; put it there, or take them out of metrics"
        )
    file = check_layout(path, separator=separator, encoding=encoding, required=[item_column])
    column = _column(file, column, item_column.name)
    frame = read_columns(file, [item_column.name, column], identifiers=[item_column.name])
    tokens: pd.Categorical = frame[item_column.name].array
    id_of_token = np.array([item_ids.get(token, 0) for token in tokens.categories], dtype=np.int64)
    ids = id_of_token[tokens.codes]
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(tokens.codes, return_index=True)[1]] = True
    rows = np.flatnonzero(first & (ids > 0))
    if file.type_of(column) == "token":
        words: list[list[str]] = [[] if pd.isna(word) else [word] for word in frame[column].array.take(rows)]
    else:
        words = [own.tolist() for own in split_sequences(file, column, frame[column].iloc[rows], seq_separator)]
    numbers: dict[str, int] = {}
    items: list[int] = []
    categories: list[int] = []
    for item, own in zip(ids[rows].tolist(), words, strict=True):
        for word in dict.fromkeys(own):
            items.append(item)
            categories.append(numbers.setdefault(word, len(numbers)))
    if not items:
        what = f"column {column} has a category for none of the {len(item_ids) - 1} items of the interactions"
        refuse(path, None, what, "name another column with category_field, or take the metrics of categories out")
    order = np.argsort(items, kind="stable")
    with_category = len(set(items))
    logger.info(
        "%s: column %s is the category of items, %d different; %d of %d items have one",
        path.name,
        column,
        len(numbers),
        with_category,
        len(item_ids) - 1,
    )
    return CategoriesOfItems(
        column, np.array(items, np.int64)[order], np.array(categories, np.int64)[order], list(numbers)
    )


def _column(file: AtomicFile, asked: str | None, item_column: str) -> str:
    """The column of the categories.

    Raises:
        UserError: it is not there, or holds numbers.
    """
    kinds = {field.name: field.type for field in file.fields if field.name != item_column}
    usable = [name for name, kind in kinds.items() if kind in _KINDS]
    listed = ", ".join(usable) or "none"
    remedy = "name one of them with category_field" if usable else "add one, or take the metrics of categories out"
    if asked is None:
        for name in USUAL_COLUMNS:
            if name in usable:
                return name
        what = f"no column of categories named {', '.join(USUAL_COLUMNS)}; columns of tokens are {listed}"
        refuse(file.path, 1, what, remedy)
    if asked not in kinds:
        near = difflib.get_close_matches(asked, usable, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        what = f"no column {asked!r}, which category_field names; columns of tokens are {listed}{hint}"
        refuse(file.path, 1, what, remedy)
    if asked not in usable:
        what = f"column {asked!r} (category_field) has type {kinds[asked]}"
        refuse(file.path, 1, what, f"it must be {' or '.join(_KINDS)}, and columns of tokens are {listed}; {remedy}")
    return asked
