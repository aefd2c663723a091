"""The titles of items, from one column of a dataset's ``.item`` file, for people who read recommendations.

They are read beside the dataset and not into it, as the categories are (item_categories): nothing of a run depends on
them. A title is the text of the value, whether the column is of type ``token`` or ``token_seq``; an item without a row,
or with an empty value, has none. Of an item's several rows the first counts, as in RecBole.

Shapes: V items (0 is padding).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_diffusion.data.atomic_fields import AtomicFile, RequiredColumn, refuse
from recbole_diffusion.data.atomic_files import check_layout, read_columns

USUAL_COLUMNS = (
    "title",
    "movie_title",
    "item_title",
    "product_title",
    "book_title",
    "name",
    "item_name",
    "product_name",
    "track_name",
    "artist_name",
)
"""The columns that are looked for where none is named, first come first taken; RecBole's datasets use some of these."""


def read_item_titles(
    path: Path,
    column: str | None,
    item_column: RequiredColumn,
    tokens: Sequence[str],
    *,
    separator: str = "\t",
    encoding: str = "utf-8",
) -> np.ndarray | None:
    """Read the titles of the items that have an internal id.

    Args:
        path: the ``.item`` file.
        column: the column of the titles (`title_field`); None takes the first of `USUAL_COLUMNS` that is there.
        item_column: the column of the items.
        tokens: (V,) token of each internal id, padding first.
        separator: RecBole's ``field_separator``.
        encoding: RecBole's ``encoding``.

    Returns:
        (V,) text, None for an item without a title; None where there is no such file, or no usual column in it.

    Raises:
        UserError: no such column as `title_field` names, or a file that is not atomic.
    """
    if not path.is_file():
        return None
    file = check_layout(path, separator=separator, encoding=encoding, required=[item_column])
    found = _column(file, column, item_column.name)
    if found is None:
        return None
    frame = read_columns(file, [item_column.name, found], identifiers=[item_column.name])
    ids = {token: number for number, token in enumerate(tokens) if number}
    titles = np.full(len(tokens), None, dtype=object)
    items = frame[item_column.name].astype(object).to_numpy()
    texts = frame[found].astype(object).to_numpy()
    for token, text in zip(items[::-1], texts[::-1]):  # the first row of an item is written last
        number = ids.get(token)
        if number is not None:
            titles[number] = text if isinstance(text, str) and text else None
    return titles


def titles_of_items(config: Any, folder: Path, tokens: Sequence[str]) -> np.ndarray | None:
    """`read_item_titles` of the dataset that a configuration names, in its folder.

    Raises:
        UserError: as `read_item_titles`.
    """
    field = config["ITEM_ID_FIELD"]
    return read_item_titles(
        folder / f"{config['dataset']}.item",
        config["title_field"],
        RequiredColumn(field, "ITEM_ID_FIELD", "token", "titles of items"),
        tokens,
        separator=config["field_separator"],
        encoding=config["encoding"] or "utf-8",
    )


def _column(file: AtomicFile, asked: str | None, item_column: str) -> str | None:
    """The column of the titles; None where none is asked for and no usual one is there.

    Raises:
        UserError: the one that is asked for is not there, or holds numbers.
    """
    usable = [field.name for field in file.fields if field.name != item_column and field.type in ("token", "token_seq")]
    if asked is None:
        return next((name for name in USUAL_COLUMNS if name in usable), None)
    if asked not in usable:
        near = difflib.get_close_matches(asked, usable, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        what = f"no column {asked!r} of text, which title_field names; there are {', '.join(usable) or 'none'}{hint}"
        refuse(file.path, 1, what, "name one of them with title_field, or leave it ~")
    return asked
