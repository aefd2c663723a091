"""Internal ids of tokens: 1, 2, 3 ... in order of first appearance, 0 for what is missing; RecBole's, without loops.

RecBole hashes every token of every row. Rows hold codes here (pandas categories), so that ids are an array looked up by
code, and only different tokens are hashed, where several columns share their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence

import numpy as np
import pandas as pd

from recbole_diffusion.data.atomic_fields import PADDING_TOKEN


class TokenIds(MutableMapping[str, int]):
    """Token -> internal id, RecBole's ``field2token_id[field]``; the table is made when it is first asked for.

    Args:
        tokens: (V,) the different tokens, in order of their ids (``field2id_token[field]``).
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = tokens
        self._table: dict[str, int] | None = None

    @property
    def _ids(self) -> dict[str, int]:
        if self._table is None:
            self._table = {token: number for number, token in enumerate(self._tokens.tolist())}
        return self._table

    def __getitem__(self, token: str) -> int:
        return self._ids[token]

    def __setitem__(self, token: str, number: int) -> None:
        self._ids[token] = number

    def __delitem__(self, token: str) -> None:
        del self._ids[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._tokens) if self._table is None else len(self._table)

    def __repr__(self) -> str:
        return f"TokenIds({len(self)} tokens)"


def categories_of(values: pd.Series) -> pd.Categorical:
    """A column of tokens as codes; NaN has the code -1."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.array
    codes, tokens = pd.factorize(values)
    return pd.Categorical.from_codes(codes, categories=pd.Index(tokens, dtype=object))


def present(column: pd.Categorical) -> pd.Index:
    """The tokens that stand in a column, in order of first appearance (categories may be without a row)."""
    codes = pd.unique(column.codes)
    return column.categories.take(codes[codes >= 0])


def give_ids(columns: Sequence[pd.Categorical]) -> tuple[list[np.ndarray], np.ndarray]:
    """Ids that several columns share, in order of first appearance: first column first.

    Args:
        columns: the columns as codes.

    Returns:
        For every column (rows,) int64; and (V,) the tokens in order of their ids, the padding token first.
    """
    ids = []
    known = pd.Index([], dtype=object)
    for column in columns:
        codes = pd.unique(column.codes)
        codes = codes[codes >= 0]
        tokens = column.categories.take(codes)
        found = known.get_indexer(tokens) if len(known) else np.full(len(tokens), -1)
        new = found < 0
        found[new] = len(known) + np.arange(new.sum())
        known = known.append(tokens[new]) if len(known) else tokens
        lookup = np.zeros(len(column.categories) + 1, dtype=np.int64)  # the last one is for code -1
        lookup[codes] = found + 1
        ids.append(lookup[column.codes])
    return ids, np.array([PADDING_TOKEN, *known])
