"""The histories that an export is verified on: real ones where there are any, and which is said.

    a file of histories that is given;  the test rows of the run's dataset, where it is there;  else random items

Shapes: N rows, L history, V items (0 is padding).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import check_same_data, data_fingerprint
from recbole_diffusion.recommendation.checkpoints import OpenedModel
from recbole_diffusion.recommendation.histories import ItemIds, encode
from recbole_diffusion.recommendation.history_files import HistoryFields, HistoryFile

logger = logging.getLogger(__name__)

SEED = 2023  # of random histories


@dataclass(frozen=True)
class VerificationHistories:
    """Histories in internal ids.

    Attributes:
        item_seq: (N, L) int64, 0 after the last item; every row has one item at least.
        row_key: (N,) int64 keys for a program that takes them: the rows' numbers where they come from.
        real: whether they are people's.
        source: what they are, in words.
    """

    item_seq: np.ndarray
    row_key: np.ndarray
    real: bool
    source: str

    def __len__(self) -> int:
        return len(self.item_seq)


def verification_histories(
    opened: OpenedModel, fingerprint: Any, histories: Path | None, rows: int
) -> VerificationHistories:
    """Histories to verify an export on.

    Args:
        opened: the model, with its configuration and the items' tokens.
        fingerprint: of the run's data, None where the checkpoint has none.
        histories: a Parquet file or a folder of them, as for `recommend`; None for the run's test rows.
        rows: N, at most.

    Raises:
        UserError: the file of histories cannot be read, or has no item that the run knows.
    """
    length = int(opened.config["MAX_ITEM_LIST_LENGTH"])
    if histories is not None:
        return _of_file(opened, histories, length, rows)
    name, folder = opened.config["dataset"], Path(opened.config["data_path"])
    if not (folder / f"{name}.inter").is_file():  # what is said in the export names no folder of this machine
        logger.info("no %s.inter in %s (data_path says where datasets are)", name, folder)
        why = f"the run's dataset {name} was not at hand"
    else:
        try:
            return _of_dataset(opened.config, fingerprint, opened.path, length, rows)
        except UserError as error:
            logger.info("the dataset in %s does not do: %s", folder, error)
            why = f"another dataset {name} than the run's was at hand"
    return _random(len(opened.tokens), length, rows, why)


def _of_file(opened: OpenedModel, path: Path, length: int, rows: int) -> VerificationHistories:
    fields = HistoryFields(*(opened.config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")))
    source = HistoryFile(path, fields)
    with tempfile.TemporaryDirectory() as work:
        table = next(source.users(rows, Path(work), _sorted_rows), None)
    if table is None:
        raise UserError(f"{path} has no rows; give other --histories")
    items = table.column("items")
    encoded = encode(pyarrow.concat_arrays(items.chunks), ItemIds(opened.tokens))
    known = np.flatnonzero(encoded.lengths > 0)
    if not len(known):
        raise UserError(f"{path} has no history with an item that the run knows; give other --histories")
    item_seq, _ = encoded.latest(known, length, full_width=True)
    words = f"the first {len(known)} histories of {path.name}"
    return VerificationHistories(item_seq, known.astype(np.int64), True, words)


def _sorted_rows(folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    """Interactions of a folder in order, in memory."""
    yield pyarrow.parquet.read_table(folder).sort_by([(name, "ascending") for name in columns])


def _of_dataset(config: RunConfig, fingerprint: Any, path: Path, length: int, rows: int) -> VerificationHistories:
    """Test rows, evenly from all of them."""
    dataset = checked_dataset(config.entry.dataset_class)(config)
    loaders = prepare_loaders(config, dataset)
    check_same_data(fingerprint, data_fingerprint(Path(config["data_path"]), dataset), path, same_files=False)
    table = loaders[2]._dataset.inter_feat
    if not len(table):
        raise UserError("the run's protocol leaves no test rows")
    chosen = np.unique(np.linspace(0, len(table) - 1, rows).round().astype(np.int64))
    batch = table[chosen.tolist()]
    given = batch[config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]].numpy()
    item_seq = np.zeros((len(chosen), length), dtype=np.int64)
    item_seq[:, : given.shape[1]] = given
    some = item_seq[:, 0] > 0
    source = f"{int(some.sum())} of the {len(table):,} test rows of {config['dataset']}"
    return VerificationHistories(item_seq[some], chosen[some], True, source)


def _random(items: int, length: int, rows: int, why: str) -> VerificationHistories:
    draw = np.random.default_rng(SEED)
    lengths = draw.integers(1, length, size=rows, endpoint=True)
    item_seq = draw.integers(1, items, size=(rows, length))
    item_seq[np.arange(length) >= lengths[:, None]] = 0
    source = f"{rows} histories of random items ({why})"
    return VerificationHistories(item_seq.astype(np.int64), np.arange(rows), False, source)
