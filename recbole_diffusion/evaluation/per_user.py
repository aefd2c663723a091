"""Results of an evaluation row by row in a parquet file, for significance tests and error analysis.

One line for each row of the evaluation set, in its order. In all protocols of this package but those with several rows
a user, a row is a user.

    row              int32                    number of the row in the evaluation set
    user             string                   user token; null where the data have no user column
    targets          list of strings          item tokens, those of a row in order of time
    target_ranks     list of int32            rank of each target among all items, from 1; null where it was not ranked
                                              (an item of the history under filter_seen)
    <metric>@<k>     double                   every metric that has a value a row; its mean is the reported one
    top_items        list of strings          the first max(topk) items, best first; fewer where fewer were ranked

The schema's metadata says what the evaluation was (`recbole_diffusion`, JSON).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.collector import EvaluatedRows

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

LINES = 65_536  # of a row group


def write_per_user(
    path: Path,
    rows: EvaluatedRows,
    item_tokens: np.ndarray,
    user_tokens: np.ndarray | None,
    facts: Mapping[str, Any],
) -> Path:
    """Write the file, whole or not at all.

    Args:
        path: where; its folder is made.
        rows: the evaluation.
        item_tokens: (V,) token of each internal item id.
        user_tokens: the same of users.
        facts: what the evaluation was, in plain values.

    Raises:
        UserError: it cannot be written.
    """
    import pyarrow.parquet

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        items = _tokens(item_tokens)
        users = None if user_tokens is None or rows.users is None else _tokens(user_tokens)
        schema = _schema(list(rows.metrics), facts)
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for begin in range(0, len(rows.ranking), LINES):
                writer.write_table(_table(schema, rows, slice(begin, begin + LINES), items, users))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); make room, or run without save_per_user"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    logger.info("results of %d rows in %s", len(rows.ranking), path)
    return path


def _tokens(values: np.ndarray) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array([str(value) for value in values.tolist()], pyarrow.string())


def _schema(metrics: list[str], facts: Mapping[str, Any]) -> pyarrow.Schema:
    import pyarrow

    word = pyarrow.string()
    columns = [("row", pyarrow.int32()), ("user", word), ("targets", pyarrow.list_(word))]
    columns.append(("target_ranks", pyarrow.list_(pyarrow.int32())))
    columns += [(name, pyarrow.float64()) for name in metrics]
    columns.append(("top_items", pyarrow.list_(word)))
    metadata = {"recbole_diffusion": json.dumps(facts, ensure_ascii=False, default=str)}
    return pyarrow.schema(columns, metadata=metadata)


def _table(
    schema: pyarrow.Schema, rows: EvaluatedRows, part: slice, items: pyarrow.Array, users: pyarrow.Array | None
) -> pyarrow.Table:
    """The lines of a part of the rows."""
    import pyarrow

    ranking = rows.ranking
    top = ranking.items[part]
    offsets = ranking.offsets[part.start : part.stop + 1]
    targets = slice(offsets[0], offsets[-1])
    offsets = (offsets - offsets[0]).astype(np.int32)
    ranked = top > 0
    top_offsets = np.concatenate(([0], np.cumsum(ranked.sum(1)))).astype(np.int32)
    if rows.target_ranks is None:
        ranks = pyarrow.nulls(targets.stop - targets.start, pyarrow.int32())
    else:
        values = rows.target_ranks[targets].astype(np.int32)
        ranks = pyarrow.array(values, mask=values == 0)
    user = pyarrow.nulls(len(top), pyarrow.string())
    if users is not None and rows.users is not None:
        user = users.take(pyarrow.array(rows.users[part]))
    columns = [
        pyarrow.array(np.arange(part.start, part.start + len(top), dtype=np.int32)),
        user,
        pyarrow.ListArray.from_arrays(offsets, items.take(pyarrow.array(ranking.targets[targets]))),
        pyarrow.ListArray.from_arrays(offsets, ranks),
        *(pyarrow.array(values[part]) for values in rows.metrics.values()),
        pyarrow.ListArray.from_arrays(top_offsets, items.take(pyarrow.array(top[ranked]))),
    ]
    return pyarrow.Table.from_arrays(columns, schema=schema)
