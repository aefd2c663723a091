"""The items of a run beside its best checkpoint: what recommending needs of the data, without any user of them.

best/items.parquet has one line for each item, line i being the item with the internal id i + 1 (0 is padding):

    item_id          string     the item's token in the data
    training_rows    int64      training rows that ask for it, which popularity and negatives by popularity are made of
    title            string     its title, null for an item without one; only where the data have titles

Its metadata (`recbole_diffusion`, JSON) say which ids they are, so that no other checkpoint takes the file, and whether
titles were looked for (files of older runs do not say so).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.errors import UserError

logger = logging.getLogger(__name__)

ITEMS_FILE = "items.parquet"
METADATA_KEY = b"recbole_diffusion"
PADDING_TOKEN = "[PAD]"


class NeedsTrainingData(AttributeError):
    """A model asks its dataset for something that a catalogue of items does not hold."""


class _TrainingTargets(Mapping[str, Any]):
    """The one column of the training rows that can be had: their targets, in order of ids."""

    def __init__(self, item_field: str, training_rows: np.ndarray) -> None:
        self.item_field = item_field
        self.training_rows = training_rows

    def __getitem__(self, name: str) -> Any:
        if name != self.item_field:
            raise NeedsTrainingData(f"column {name} of the training rows")
        return torch.from_numpy(np.repeat(np.arange(len(self.training_rows)), self.training_rows))

    def __iter__(self) -> Any:
        raise NeedsTrainingData("the training rows")

    def __len__(self) -> int:
        return int(self.training_rows.sum())


class ItemCatalogue:
    """The items that a model ranks; stands in for a dataset where a model is built only to recommend.

    Args:
        tokens: (V,) token of each internal item id, `[PAD]` first.
        training_rows: (V,) int64 training rows that ask for each.
        ids: digest of the users' and items' ids, as in the fingerprint of the data.
        titles: (V,) title of each, None for an item without one; None where the data have no titles.
        titled: whether titles were looked for.

    Attributes:
        iid_field, uid_field: names of the item and user columns, given by `for_model`.
        user_num, item_num: ids there are, padding included; users are those of the checkpoint.
    """

    iid_field: str
    uid_field: str
    user_num: int

    def __init__(
        self,
        tokens: np.ndarray,
        training_rows: np.ndarray,
        ids: str,
        titles: np.ndarray | None = None,
        titled: bool = True,
    ) -> None:
        self.tokens = tokens
        self.training_rows = training_rows
        self.ids = ids
        self.titles = titles
        self.titled = titled
        self.item_num = len(tokens)

    @classmethod
    def of(cls, dataset: Any, ids: str) -> ItemCatalogue:
        """The catalogue of a RecBole dataset, the training part."""
        targets = np.asarray(dataset.inter_feat[dataset.iid_field], dtype=np.int64)
        counts = np.bincount(targets, minlength=dataset.item_num)
        return cls(np.asarray(dataset.field2id_token[dataset.iid_field]), counts, ids, _titles_of(dataset))

    def for_model(self, config: Any, n_users: int) -> ItemCatalogue:
        """Itself with the field names of a configuration and the number of user ids, padding included."""
        self.iid_field, self.uid_field = config["ITEM_ID_FIELD"], config["USER_ID_FIELD"]
        self.user_num = n_users
        return self

    # what RecBole's models ask a dataset for --------------------------------------------------------------------------

    def num(self, field: str) -> int:
        """How many ids a field has, padding included."""
        if field not in (self.iid_field, self.uid_field):
            raise NeedsTrainingData(f"the values of {field}")
        return self.item_num if field == self.iid_field else self.user_num

    @property
    def inter_feat(self) -> Mapping[str, Any]:
        """The targets of the training rows; nothing else of them is known."""
        return _TrainingTargets(self.iid_field, self.training_rows)

    def __getattr__(self, name: str) -> Any:
        raise NeedsTrainingData(f"the dataset's {name}")

    # file -------------------------------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        fields = [
            pyarrow.field("item_id", pyarrow.string(), nullable=False),
            pyarrow.field("training_rows", pyarrow.int64(), nullable=False),
        ]
        tokens = pyarrow.array([str(token) for token in self.tokens[1:]], pyarrow.string())
        columns = [tokens, pyarrow.array(self.training_rows[1:])]
        if self.titles is not None:
            fields.append(pyarrow.field("title", pyarrow.string()))
            columns.append(pyarrow.array(self.titles[1:], pyarrow.string()))
        facts = {METADATA_KEY: json.dumps({"ids": self.ids, "titled": self.titled})}
        table = pyarrow.table(columns, schema=pyarrow.schema(fields, metadata=facts))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                pyarrow.parquet.write_table(table, stream, compression="zstd")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @classmethod
    def read(cls, path: Path) -> ItemCatalogue:
        """Read the file.

        Raises:
            UserError: it is damaged or no catalogue.
        """
        try:
            table = pyarrow.parquet.read_table(path)
            facts = json.loads((table.schema.metadata or {})[METADATA_KEY])
            tokens = table.column("item_id").to_pylist()
            counts = table.column("training_rows").to_numpy().astype(np.int64)
            titles = None
            if "title" in table.column_names:
                titles = np.array([None, *table.column("title").cast(pyarrow.string()).to_pylist()], dtype=object)
            return cls(
                np.array([PADDING_TOKEN, *tokens], dtype=object),
                np.concatenate(([0], counts)),
                str(facts["ids"]),
                titles,
                bool(facts.get("titled", False)),
            )
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{path} is no readable list of a run's items ({error}); remove it, and the items are read from the "
                "dataset (data_path)"
            ) from error


def _titles_of(dataset: Any) -> np.ndarray | None:
    """The titles of a dataset's items. A file that cannot be read for them costs the titles, not the run."""
    if not hasattr(dataset, "item_titles"):
        return None
    try:
        titles: np.ndarray | None = dataset.item_titles()
    except UserError as error:
        logger.warning("the run keeps no titles of its items: %s", error)
        return None
    return titles


def keep_items(checkpoint: Path, train_data: Any, fingerprint: Mapping[str, Any] | None) -> None:
    """Write the items beside a checkpoint, once, where its model is one of sequences.

    Args:
        checkpoint: the file that they are written beside.
        train_data: the loader of the training rows.
        fingerprint: what tells the data from others; without it nothing is written.
    """
    dataset = getattr(train_data, "_dataset", None)
    path = checkpoint.with_name(ITEMS_FILE)
    if fingerprint and isinstance(dataset, SequentialDataset) and not path.is_file():
        ItemCatalogue.of(dataset, fingerprint["ids"]).write(path)
