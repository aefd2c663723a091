"""A RecBole sequential dataset that keeps each interaction once, and its parts as positions.

What RecBole does after reading (augmentation, order, split) is replaced; reading, filters and ids stay where they are.
The examples are RecBole's, row for row and in its order (docs/decisions/060-histories-kept-once.md). RecBole's way of
writing every prefix out remains for pre-split files (`benchmark_filename`), datasets that augment in a way of their own
(DIEN, those with a knowledge graph) and interactions with sequence columns; the log says so.

What was read, filtered and sorted is kept in the cache (:mod:`.prepared`), so that the next run maps it into memory.
"""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING, Any

import numpy as np
from recbole.data.dataset import KnowledgeBasedDataset, SequentialDataset
from recbole.utils import FeatureType

from recbole_diffusion.data.histories import Histories, Rows, Split, all_rows, group_by_user, smallest_integer_type
from recbole_diffusion.data.history_length import needs_fixed_width, reads_examples
from recbole_diffusion.data.prepared import PreparedData
from recbole_diffusion.data.protocols import split_rows
from recbole_diffusion.data.sequences import ExampleFields, ExampleRows
from recbole_diffusion.data.target_counts import target_counts
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset as _Base
else:
    _Base = object


_REPLACED = (
    "data_augmentation",
    "_change_feat_format",
    "build",
    "leave_one_out",
    "split_by_ratio",
    "time_based_split",
    "_split_index_by_leave_one_out",
    "_grouped_index",
    "_calcu_split_ids",
)  # methods of RecBole's that are not called here; a class with one of its own keeps RecBole's way


def keeps_histories(base: Any) -> bool:
    """Whether a RecBole dataset class builds its examples as `SequentialDataset` does, which is what is replaced."""
    return (
        issubclass(base, SequentialDataset)
        and not issubclass(base, KnowledgeBasedDataset)
        and all(getattr(base, name) is getattr(SequentialDataset, name) for name in _REPLACED)
    )


def narrow_numbers(values: np.ndarray) -> np.ndarray:
    """Numbers in four bytes where that loses nothing (whole numbers in int32, others in float32), else float64."""
    values = np.asarray(values, dtype=np.float64)
    limits = np.iinfo(np.int32)
    if len(values) and np.isfinite(values).all() and limits.min <= values.min() and values.max() <= limits.max:
        whole = values.astype(np.int32)
        if (whole == values).all():
            return whole
    single = values.astype(np.float32)
    return single if (single == values).all() else values


class HistoryDataset(_Base):
    """What goes in front of a checked sequential dataset class; see :func:`keeps_histories`."""

    histories: Histories | None = None
    inter_feat: Any
    _recbole_class: type
    time_precision: str

    @property
    def keeps_histories(self) -> bool:
        """Whether the examples are positions in histories; False where they are written out as RecBole does."""
        return self.histories is not None or self.written_out_because() is None

    def written_out_because(self) -> str | None:
        """Why the examples are made RecBole's way; None where they are not."""
        if self.benchmark_filename_list is not None:
            return "benchmark_filename names files that are split already"
        kinds = {name: self.field2type[name] for name in self.inter_feat}
        sequences = [name for name, kind in kinds.items() if kind not in (FeatureType.TOKEN, FeatureType.FLOAT)]
        if sequences:
            return f"column {sequences[0]} of the interactions is a sequence"
        return None

    def _from_scratch(self) -> None:
        self._prepared = PreparedData(self.config, cached=self._recbole_class is SequentialDataset)
        found = self._prepared.load()
        if found is None:
            with self._prepared.recording():
                super()._from_scratch()
            return
        self._get_preset()
        self._get_field_from_config()
        self.user_feat = self.item_feat = None
        found.restore(self)
        self._init_alias()
        self.feat_name_list = ["inter_feat"]
        self.inter_feat = dict.fromkeys(found.field_order)  # the fields' names, which is all that the next line reads
        self._aug_presets()
        self._refuse_normalized_times()
        self.histories = found.histories
        self.inter_feat = self._view(self.histories, all_rows(self.histories))

    def _keep_histories(self) -> None:
        """Put the interactions into `histories`; `inter_feat` becomes a view of all examples."""
        self._check_field("uid_field", "time_field")
        self._refuse_normalized_times()
        field_order = list(self.inter_feat)
        known = PreparedData.fields_of(self)
        self._aug_presets()
        frame = self.inter_feat
        if self.time_precision == "float32":  # RecBole's order: by time, equal times by user, then as in the file
            times = frame[self.time_field].to_numpy().astype(np.float32)
            frame = frame.iloc[np.lexsort((frame[self.uid_field].to_numpy(), times))]
        columns = {
            name: self._narrow(frame[name].to_numpy(), self.field2type[name])
            for name in frame
            if name != self.uid_field
        }
        users = frame[self.uid_field].to_numpy()
        self.inter_feat = frame = None
        self.histories = group_by_user(users, columns, self.user_num)
        self.inter_feat = self._view(self.histories, all_rows(self.histories))
        if self.feat_name_list == ["inter_feat"]:
            self._prepared.store(self.histories, field_order, known)

    def _refuse_normalized_times(self) -> None:
        config = self.config
        normalized = bool(config["normalize_all"]) or self.time_field in (config["normalize_field"] or ())
        numerical = self.time_field in (config["numerical_features"] or ())
        by_time = config["protocol"] == "global_time" or "TS" in (config["eval_args"]["split"] or {})
        if (config["protocol"] == "global_time" and normalized) or (by_time and numerical):
            raise UserError(
                f"the split goes by times as they are, but {self.time_field} is "
                f"{'in numerical_features' if numerical else 'normalized'}; take "
                f"{'it out of numerical_features' if numerical else 'normalize_all or normalize_field back'}"
            )

    def _narrow(self, values: np.ndarray, kind: FeatureType) -> np.ndarray:
        if kind == FeatureType.TOKEN:
            return values.astype(smallest_integer_type(int(values.max(initial=0))))
        if values.dtype == object:  # a field of numerical_features: a pair of numbers a row
            return np.asarray(values.tolist(), dtype=np.float32)
        return narrow_numbers(values)

    def _view(self, histories: Histories, rows: Rows) -> ExampleRows:
        numbers = frozenset(name for name in histories.columns if self.field2type[name] == FeatureType.FLOAT)
        fields = ExampleFields(
            user=self.uid_field,
            length=self.item_list_length_field,
            suffix=self.config["LIST_SUFFIX"],
            numbers=numbers,
            limit=self.max_item_list_len,
            fixed_width=needs_fixed_width(self.config.model_class),
        )
        return ExampleRows(histories, fields, rows, keep=False)

    # what RecBole asks a dataset for --------------------------------------------------------------------------------

    def _change_feat_format(self) -> None:
        """Where RecBole writes every prefix out, keep the histories instead."""
        if self.histories is None:
            if not self.keeps_histories:
                super()._change_feat_format()
                return
            self._keep_histories()
        for name in self.feat_name_list:
            if name != "inter_feat":
                setattr(self, name, self._dataframe_to_interaction(getattr(self, name)))

    def build(self) -> list[Any]:
        """Training, validation and test datasets, by `protocol` and `eval_args`.

        Raises:
            UserError: the protocol cannot be had with these settings or data.
        """
        if self.config["eval_args"]["order"] != "TO":
            raise UserError(
                f"eval_args.order is {self.config['eval_args']['order']}; sequential models need TO, the order of time"
            )
        if not self.keeps_histories:
            return super().build()
        self._change_feat_format()
        split = self.split()
        self._drop_unused_col()
        self.histories = self.inter_feat.histories = self.inter_feat.histories.without_place()
        views = [self.inter_feat.part(rows) for rows in (split.train, split.valid, split.test)]
        if reads_examples(self.config.model_class):
            views[0] = self.inter_feat.part(split.train, keep=True)
        return [self.copy(view) for view in views]

    def training_target_counts(self) -> np.ndarray:
        """How often an epoch asks for each item, on average, where this is the training part; (items,)."""
        if not isinstance(self.inter_feat, ExampleRows):  # RecBole's loader yields every row
            return np.bincount(np.asarray(self.inter_feat[self.iid_field]), minlength=self.item_num)
        return target_counts(
            self.inter_feat,
            self.iid_field,
            self.item_num,
            one_cut_per_user=bool(self.config["one_cut_per_user"]),
            every_place=self.config["train_positions"] == "all",
        )

    def split(self) -> Split:
        """The rows of training, validation and test."""
        if self.histories is None or len(self.histories.place) != len(self.histories):
            raise TypeError("split() is for build(), which can be called once")
        times = self.histories.columns[self.time_field]
        if self.time_precision == "float32":
            times = times.astype(np.float32)
        return split_rows(self.histories, self.config, times)
