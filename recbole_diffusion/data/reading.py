"""RecBole's datasets, read strictly and put in exact time order; everything else about them stays RecBole's.

:func:`checked_dataset` makes the subclass ``class CheckedX(CheckedReading, X)`` of any RecBole dataset class ``X``:

* files are read by :mod:`recbole_diffusion.data.atomic_files`, so that no row is lost or altered in silence;
* interactions are put in the order of the times as they stand in the file. RecBole keeps times as float32, whose
  step is 64 to 128 seconds for today's Unix times, and sorts by that. A stable sort by the exact time first makes
  RecBole's later stable sorts keep it: rounding to float32, and min-max normalisation, never turn two times round.
  Equal times keep file order. Ids are given before the sort, so they are those RecBole gives.
  ``time_precision: float32`` leaves RecBole's own order (docs/decisions/021-exact-time-order.md);
* filters and ids are RecBole's, on codes of tokens (:mod:`recbole_diffusion.data.filters`);
* rows that filters take away, and targets that already stand in their own history, are counted in the log;
* a dataset that is absent is downloaded, or named in one line (docs/decisions/022-downloads.md).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_diffusion.data import download
from recbole_diffusion.data.atomic_files import (
    AtomicFile,
    RequiredColumn,
    check_layout,
    exact_order,
    read_columns,
    split_sequences,
)
from recbole_diffusion.data.filters import FilteredInteractions
from recbole_diffusion.data.history_checks import check_histories
from recbole_diffusion.data.history_dataset import HistoryDataset, keeps_histories
from recbole_diffusion.data.item_categories import CategoriesOfItems, read_item_categories
from recbole_diffusion.data.item_titles import titles_of_items
from recbole_diffusion.data.named_columns import check_further_files, check_named_columns
from recbole_diffusion.data.recbole_refusals import recbole_refusals
from recbole_diffusion.data.stable_order import stable_order
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

TIME_PRECISIONS = ("exact", "float32")

# Column that carries what exact_order returns through RecBole's filters. No field has this name: names have no colon.
_RANK = "time:rank"

_RECBOLE_PROTOCOLS = (None, "leave_one_out", "eval_args")

# Tables whose tokens are read as codes; RecBole's code for the others takes tokens for text.
_CODED = (FeatureSource.INTERACTION, FeatureSource.USER, FeatureSource.ITEM)


@functools.cache
def checked_dataset(base: type) -> type:
    """The subclass of a RecBole dataset class that reads strictly and keeps exact time order.

    Args:
        base: ``Dataset``, ``SequentialDataset``, ``KnowledgeBasedDataset`` or a class derived from one of them.

    Returns:
        The same class for the same ``base``; ``base`` itself if it already is such a class. Instances can be pickled.
    """
    if issubclass(base, CheckedReading):
        return base
    if not issubclass(base, Dataset):
        raise TypeError(f"checked_dataset takes a RecBole dataset class, got {base!r}")
    members = {
        "__doc__": f"{base.__name__}, read strictly and in exact time order.",
        "__module__": __name__,
        "_recbole_class": base,
    }
    parts = (HistoryDataset, CheckedReading) if keeps_histories(base) else (CheckedReading,)
    return type(f"Checked{base.__name__}", (*parts, base), members)


def _blank(base: type) -> Any:
    """An instance without content, for unpickling: the made classes are in no module under their name."""
    made: Any = checked_dataset(base)
    return made.__new__(made)


class CheckedReading(FilteredInteractions):
    """What :func:`checked_dataset` puts in front of a RecBole dataset class. Overrides RecBole's reading only."""

    _recbole_class: type

    def __init__(self, config: Any) -> None:
        with recbole_refusals(config):
            super().__init__(config)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is checked_dataset(self._recbole_class):
            return _blank, (self._recbole_class,), self.__dict__
        return super().__reduce_ex__(protocol)

    # ------------------------------------------------------------------------------------------------- files

    def _get_preset(self) -> None:
        super()._get_preset()
        precision = self.config["time_precision"]
        self.time_precision: str = "exact" if precision is None else precision
        if self.time_precision not in TIME_PRECISIONS:
            raise UserError(f"time_precision is {precision!r}; allowed: {', '.join(TIME_PRECISIONS)}")
        self.files_read: list[AtomicFile] = []
        self.inter_feat: Any = None

    @property
    def _shows_progress(self) -> bool:
        return self.config["show_progress"] is not False and not self.config["local_rank"]

    @property
    def _time_orders(self) -> bool:
        """Whether the interactions are put in order of time (pre-split ``benchmark_filename`` files never are)."""
        if self.benchmark_filename_list is not None:
            return False
        return isinstance(self, SequentialDataset) or self.config["eval_args"]["order"] == "TO"

    def _load_data(self, token: str, dataset_path: str) -> None:
        folder = Path(dataset_path)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            self._download()
        if not folder.is_dir():
            raise UserError(download.absent(token, folder) if not folder.exists() else f"{folder}: not a folder")
        parts = self.benchmark_filename_list
        names = [f"{token}.inter"] if parts is None else [f"{token}.{part}.inter" for part in parts]
        if isinstance(self, KnowledgeBasedDataset):
            names += [f"{token}.kg", f"{token}.link"]
        for name in names:
            if not (folder / name).is_file():
                raise UserError(self._missing_file(folder, name))
        check_further_files(self.config, folder, token)
        super()._load_data(token, dataset_path)
        check_named_columns(self)

    def _missing_file(self, folder: Path, name: str) -> str:
        message = f"{folder / name}: no such file; {folder} holds {download.listing(folder)}"
        if name.endswith((".kg", ".link")):
            converted = "https://github.com/RUCAIBox/RecSysDatasets, conversion_tools"
            return f"{message}; knowledge-aware models need .kg and .link files (RecBole's own: {converted})"
        if self.benchmark_filename_list is not None:
            return f"{message}; put it there, or change benchmark_filename"
        return f"{message}; put or rename the file there, or change data_path or dataset"

    def _download(self) -> None:
        """Fetch the dataset with process 0; the others wait and then find it there."""
        folder = Path(self.dataset_path)
        if (self.config["local_rank"] or 0) != 0:
            download.wait_for_others()
            return
        try:
            url = self._get_download_url("url", allow_none=True)
            if url is None:
                url = download.url_table().get(download.OTHER_NAMES.get(self.dataset_name, ""))
            if url is None:
                near = download.nearest_names(self.dataset_name, folder.parent)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                absent = download.absent(self.dataset_name, folder)
                raise UserError(f"{absent}; RecBole knows no download of that name{hint}")
            shown = self.config["show_progress"] is not False
            download.fetch_dataset(self.dataset_name, url, folder, show_progress=shown)
        finally:
            download.wait_for_others()

    def _required_columns(self, source: FeatureSource | str) -> list[RequiredColumn]:
        """The columns that a file of this source must have."""

        def column(key: str, purpose: str, kind: str = "token") -> list[RequiredColumn]:
            return [RequiredColumn(self.config[key], key, kind, purpose)] if self.config[key] else []

        if source == FeatureSource.INTERACTION:
            columns = column("USER_ID_FIELD", "users") + column("ITEM_ID_FIELD", "items")
            if self._time_orders:
                if not self.time_field:
                    raise UserError("TIME_FIELD is not set; ordering interactions by time needs it, e.g. timestamp")
                columns += column("TIME_FIELD", "ordering interactions by time", "float")
            return columns
        if source == FeatureSource.USER:
            return column("USER_ID_FIELD", "user features")
        if source == FeatureSource.ITEM:
            return column("ITEM_ID_FIELD", "item features")
        if source == FeatureSource.KG:
            keys = ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD")
            return [found for key in keys for found in column(key, "knowledge graph triples")]
        if source == "link":
            return column("ITEM_ID_FIELD", "linking items") + column("ENTITY_ID_FIELD", "linking items")
        return []

    def _load_feat(self, filepath: str, source: FeatureSource | str) -> pd.DataFrame | None:
        """Load one atomic file; the bookkeeping of fields is RecBole's, the reading is strict.

        Args:
            filepath: path of the file.
            source: RecBole's name of what it holds.

        Returns:
            One row per line of the file; None when ``load_col`` or ``unload_col`` leave no column of it.

        Raises:
            UserError: the file, or ``load_col``, is not as it must be.
        """
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        required = self._required_columns(source)
        file = check_layout(
            filepath,
            separator=self.config["field_separator"],
            encoding=self.config["encoding"] or "utf-8",
            required=required,
            show_progress=self._shows_progress,
        )
        columns = self._columns_to_load(file, load_col, unload_col, required)
        if not columns:
            logger.warning("%s: no column is loaded (load_col, unload_col)", filepath)
            return None
        for field in file.fields:
            if field.name in columns and source != "link":
                kind = FeatureType(field.type)
                self.field2source[field.name] = source
                self.field2type[field.name] = kind
                if not field.type.endswith("seq"):
                    self.field2seqlen[field.name] = 1
                if "float" in field.type:
                    self.field2bucketnum[field.name] = 2
        time = self.time_field if source == FeatureSource.INTERACTION and self.time_field in columns else None
        if time is not None and file.type_of(time) != "float":
            time = None
        identifiers = [column.name for column in required if column.type == "token"]
        times = [] if time is None else [time]
        frame = read_columns(file, columns, identifiers=identifiers, times=times, show_progress=self._shows_progress)
        for name in columns:
            if file.type_of(name).endswith("seq"):
                frame[name] = pd.Series(self._sequences(file, name, frame[name]), dtype=object)
            elif file.type_of(name) == "token" and source not in _CODED:
                frame[name] = frame[name].astype(object)
        if time is not None:
            values = frame[time].to_numpy()
            frame[time] = values.astype(np.float64, copy=False)
            rank = None
            if self._time_orders and self.time_precision == "exact":
                rank = exact_order(file, time, values)
            if rank is not None:
                frame[_RANK] = rank
        if source in (FeatureSource.USER, FeatureSource.ITEM):
            self._log_repeated_rows(file, frame, identifiers[0])
        self.files_read.append(file)
        return frame

    def item_categories(self) -> CategoriesOfItems:
        """The categories of the items, from the column `category_field` of the ``.item`` file, which is read now.

        Raises:
            UserError: there is no such file or column, or no item has a category.
        """
        (item_column,) = self._required_columns(FeatureSource.ITEM)
        return read_item_categories(
            Path(self.dataset_path) / f"{self.dataset_name}.item",
            self.config["category_field"],
            item_column,
            self.field2token_id[self.iid_field],
            separator=self.config["field_separator"],
            encoding=self.config["encoding"] or "utf-8",
            seq_separator=self.config["seq_separator"],
        )

    def item_titles(self) -> np.ndarray | None:
        """(V,) titles of the items, from the column `title_field` of the ``.item`` file, which is read now.

        Raises:
            UserError: `title_field` names no column of text, or the file is not atomic.
        """
        return titles_of_items(self.config, Path(self.dataset_path), self.field2id_token[self.iid_field])

    def _columns_to_load(
        self,
        file: AtomicFile,
        load_col: set[str] | None,
        unload_col: set[str] | None,
        required: Sequence[RequiredColumn],
    ) -> list[str]:
        names = [field.name for field in file.fields]
        columns = [name for name in names if load_col is None or name in load_col]
        columns = [name for name in columns if unload_col is None or name not in unload_col]
        suffix = file.path.suffix[1:]
        for absent in sorted((load_col or set()) - set(names)):
            near = difflib.get_close_matches(absent, names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            logger.warning("%s:1: no column %r, which load_col.%s names%s", file.path, absent, suffix, hint)
        for column in required:
            if column.name not in columns:
                key = "load_col" if load_col is not None else "unload_col"
                wanted = [*columns, column.name]
                raise UserError(
                    f"{file.path}:1: column {column.name!r} ({column.key}) is there but not loaded, needed for "
                    f"{column.purpose}; {'set load_col to' if load_col is not None else 'do not name it in'} {key}: "
                    f"{{{suffix}: [{', '.join(wanted) if load_col is not None else column.name}]}}"
                )
        return columns

    def _sequences(self, file: AtomicFile, name: str, texts: pd.Series) -> list[np.ndarray]:
        """A sequence column as arrays, cut to ``seq_len``, with RecBole's record of the longest one."""
        sequences = split_sequences(file, name, texts, self.config["seq_separator"])
        longest = max(map(len, sequences))
        limits = self.config["seq_len"]
        if limits and name in limits:
            limit = limits[name]
            cut = sum(len(sequence) > limit for sequence in sequences)
            if cut:
                logger.info("%s: %d values of %s are cut to %d elements (seq_len)", file.path, cut, name, limit)
            sequences = [sequence[:limit] for sequence in sequences]
            longest = min(limit, longest)
        self.field2seqlen[name] = longest
        return sequences

    def _log_repeated_rows(self, file: AtomicFile, frame: pd.DataFrame, name: str) -> None:
        repeated = frame[name].duplicated().to_numpy()
        if repeated.any():
            logger.warning(
                "%s:%d: %d rows have the %s of an earlier row, first here; RecBole keeps the earlier row",
                file.path,
                file.line(int(np.argmax(repeated))),
                int(repeated.sum()),
                name,
            )

    # ---------------------------------------------------------------------------------------------- filters

    def _remove_duplication(self) -> None:
        """RecBole's, after a stable sort by exact time: which of two rows is the first never depends on chance."""
        if self.config["rm_dup_inter"] is not None and self._sorts_exactly:
            self.inter_feat = self._in_time_order(self.inter_feat)
            before = len(self.inter_feat)
            pair = [self.uid_field, self.iid_field]
            keep = self.config["rm_dup_inter"]
            self.inter_feat = self.inter_feat.drop_duplicates(subset=pair, keep=keep)
            logger.info("%s: rm_dup_inter drops %d interactions", self.dataset_name, before - len(self.inter_feat))
            return
        super()._remove_duplication()

    # ------------------------------------------------------------------------------------------------ order

    @property
    def _sorts_exactly(self) -> bool:
        return self._time_orders and self.time_precision == "exact" and self.time_field in self.inter_feat

    def _in_time_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """``frame`` sorted by exact time, equal times in the order they had."""
        key = frame[_RANK if _RANK in frame else self.time_field].to_numpy()
        order = stable_order(key)
        return pd.DataFrame({name: frame[name].array.take(order) for name in frame}, copy=False)

    def _remap_ID_all(self) -> None:
        """Give ids as RecBole does, in file order, then put the interactions in exact time order.

        This is the last moment at which times are those of the file: RecBole fills and normalises them next.
        """
        super()._remap_ID_all()
        if self._sorts_exactly:
            self.inter_feat = self._in_time_order(self.inter_feat)
        if _RANK in self.inter_feat:
            self.inter_feat = self.inter_feat.drop(columns=_RANK)
        if self._time_orders and self.uid_field and self.iid_field:
            self._check_histories()

    def _fill_nan(self) -> None:
        """RecBole's filling of missing features, in a form that pandas' copy-on-write does not turn into nothing.

        Tokens get the padding id 0, floats the column's mean, sequences become empty. Values missing in a file have
        been counted in the log; an item or user without a row in its feature file has all of its features missing.
        """
        for name in self.feat_name_list:
            feat = getattr(self, name)
            for field in feat:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    if feat[field].dtype != np.int64:
                        feat[field] = feat[field].fillna(0).astype(np.int64)
                elif kind == FeatureType.FLOAT:
                    if feat[field].isna().any():
                        feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64)
                    feat[field] = [empty if isinstance(value, float) else value for value in feat[field]]

    def _check_histories(self) -> None:
        """Log repeated interactions and short histories; refuse data in which nobody has a history to learn from."""
        users, items = self.inter_feat[self.uid_field].to_numpy(), self.inter_feat[self.iid_field].to_numpy()
        if not self._sorts_exactly:
            by_time = stable_order(self.inter_feat[self.time_field].to_numpy().astype(np.float32))
            users, items = users[by_time], items[by_time]
        leaves_out = isinstance(self, SequentialDataset) and self.config["protocol"] in _RECBOLE_PROTOCOLS
        split = self.config["eval_args"]["split"] or {}
        check_histories(
            self.dataset_name,
            users,
            items,
            leave_one_out=split.get("LS") if leaves_out else None,
            filters=self._filters_set(),
        )
