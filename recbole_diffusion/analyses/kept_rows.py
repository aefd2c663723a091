"""The tests of run folders row by row (`save_per_user: parquet`), and the data that they are of. No model is built.

Shapes: R rows, T targets of all rows, V items (0 is padding).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import init_seed

from recbole_diffusion.analyses.row_groups import RankedTargets
from recbole_diffusion.benchmarking.comparability import comparable
from recbole_diffusion.benchmarking.results import RunRecord, read_run
from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.data.sequences import ExampleRows
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.metrics import ROW_METRICS
from recbole_diffusion.models.item_counts import training_item_counts
from recbole_diffusion.provenance import check_same_data, data_fingerprint

METRICS = {name.lower() for name in ROW_METRICS} - {"ndcgsetorder"}
"""Metrics that are made of the targets' ranks alone."""


@dataclass(frozen=True)
class KeptRows:
    """A run's test.

    Attributes:
        name: of the run.
        record: what its folder says.
        users: (R,) user tokens; None where the data have none.
        tokens: (T,) target items.
        ranks: (T,) their ranks, 0 where not ranked.
        rows: (T,) the row of each target.
        metrics: names of METRICS as "<name>@<k>" -> mean over rows, as the file has them.
        label_repeats: the key of that name.
    """

    name: str
    record: RunRecord
    users: np.ndarray | None
    tokens: np.ndarray
    ranks: np.ndarray
    rows: np.ndarray
    metrics: Mapping[str, float]
    label_repeats: bool

    def __len__(self) -> int:
        """R."""
        return int(self.rows[-1]) + 1


def read_kept_rows(name: str, folder: Path) -> KeptRows:
    """The test of a run folder.

    Raises:
        UserError: it has none, or the file is none of `save_per_user`.
    """
    import pyarrow.parquet

    record = read_run(folder, name)
    if not record.finished:
        raise UserError(f"{folder}: the run is not finished; go on with --resume={folder}")
    path = record.per_user
    if not path.is_file():
        raise UserError(
            f"no {path}; repeat the test: recbole-diff evaluate --checkpoint={folder} --save_per_user=parquet, and "
            "give the folder that it makes"
        )
    try:
        schema = pyarrow.parquet.read_schema(path)
        facts = json.loads((schema.metadata or {})[b"recbole_diffusion"])
        if not {"user", "targets"} <= {*schema.names}:
            raise UserError(
                f"{path}: its rows name no users and items, as those kept in benchmarks/results do not; give the "
                "folder that the run itself made, or repeat the run with save_per_user: parquet"
            )
        names = [column for column in schema.names if column.partition("@")[0] in METRICS]
        table = pyarrow.parquet.read_table(path, columns=["user", "targets", "target_ranks", *names])
        targets, ranks = (table.column(column).combine_chunks() for column in ("targets", "target_ranks"))
        counts = np.diff(targets.offsets.to_numpy())
        users = table.column("user").to_pandas()
        kept = KeptRows(
            name,
            record,
            None if users.isna().any() else users.to_numpy(dtype=object),
            targets.flatten().to_numpy(zero_copy_only=False),
            ranks.flatten().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64),
            np.repeat(np.arange(len(counts)), counts),
            {column: float(table.column(column).to_numpy().mean()) for column in names},
            bool(facts.get("label_repeats")),
        )
    except (OSError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a file of save_per_user ({str(error).splitlines()[0]})") from error
    if not kept.metrics:
        raise UserError(f"{path}: has no metric of ranks, such as hit@10; repeat the test with metrics: [Hit, NDCG]")
    return kept


def check_same_rows(runs: Sequence[KeptRows]) -> None:
    """Refuse runs that are not of one protocol on one dataset, since their groups would be of other rows.

    Raises:
        UserError: names two of them.
    """
    for other in runs[1:]:
        if other.record.dataset != runs[0].record.dataset or not comparable(runs[0].record, other.record):
            raise UserError(
                f"--runs: {runs[0].record.folder} and {other.record.folder} are of other data or another protocol; "
                "give runs of one protocol on the same data"
            )


@dataclass(frozen=True)
class TestData:
    """What groups are made by.

    Attributes:
        ids: token of an item -> internal id.
        counts: (V,) training rows that ask for each item.
        lengths: items before the first target of each row, by user where a user has one row, else by row.
    """

    __test__ = False  # no test of pytest's
    ids: Mapping[str, int]
    counts: np.ndarray
    lengths: pd.Series

    def targets_of(self, run: KeptRows) -> RankedTargets:
        """The targets of a run's test with the ids of these data.

        Raises:
            UserError: one is not among them.
        """
        ids = pd.Index(list(self.ids)).get_indexer(pd.Index(run.tokens))
        if (ids < 0).any():
            raise UserError(f"{run.record.per_user}: item {run.tokens[ids.argmin()]!r} is not in the data")
        return RankedTargets(np.fromiter(self.ids.values(), dtype=np.int64)[ids], run.ranks, run.rows)

    def lengths_of(self, run: KeptRows) -> np.ndarray:
        """The length of each row's history, (R,).

        Raises:
            UserError: the rows are of other users.
        """
        keys = np.arange(len(run)) if self.lengths.index.name == "row" or run.users is None else run.users
        places = self.lengths.index.get_indexer(pd.Index(keys))
        if (places < 0).any() or len(run) != len(self.lengths):
            raise UserError(f"{run.record.per_user}: is of other rows than the data's {len(self.lengths)} test rows")
        return self.lengths.to_numpy()[places]


def read_test_data(run: KeptRows, data_path: str | None) -> TestData:
    """Read the data of a run and split them as it did.

    Raises:
        UserError: they are not there, or are others.
    """
    folder = run.record.folder
    overrides = Overrides({} if data_path is None else {"data_path": data_path})
    config = RunConfig(config_files=[folder / "config.yaml"], overrides=overrides)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        init_seed(config["seed"], config["reproducibility"])
        dataset = checked_dataset(config.entry.dataset_class)(config)
        loaders = prepare_loaders(config, dataset)
    train, valid, test = (loader._dataset if loader else None for loader in loaders)
    fingerprint = data_fingerprint(Path(config["data_path"]), dataset)
    check_same_data(run.record.data, fingerprint, folder, same_files=True)
    counts = training_item_counts(train, dataset.item_num).numpy()
    return TestData(dataset.field2token_id[dataset.iid_field], counts, _lengths([train, valid], test))


def _lengths(before: Sequence[Any], test: Any) -> pd.Series:
    """Items before the first target of each test row; of data without histories the user's items that are not tested.

    Args:
        before: the parts that train and validate; None for one that is empty.
        test: the part that tests.
    """
    examples, tokens = test.inter_feat, test.field2id_token[test.uid_field]
    users = np.asarray(examples[test.uid_field], dtype=np.int64)
    if isinstance(examples, ExampleRows):
        begin = examples.histories.offsets[examples.histories.users(examples.rows.target)]
        lengths = examples.rows.target.astype(np.int64) - begin
        if len(np.unique(users)) < len(users):
            return pd.Series(lengths, pd.RangeIndex(len(users), name="row"))
    else:
        users = np.unique(users)
        parts = [np.asarray(part.inter_feat[test.uid_field]) for part in before if part is not None]
        lengths = np.bincount(np.concatenate(parts), minlength=test.user_num)[users]
    return pd.Series(lengths, pd.Index(tokens[users].astype(str), name="user"))
