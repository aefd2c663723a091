"""Loaders of training and evaluation rows.

They are RecBole's loaders with another way to batches: positions come as arrays and not as lists of Python integers, so
that ten million rows need no gigabyte of them, and a batch is gathered from the histories. Without `length_bucketing`
the batches are RecBole's own for the same seed: torch's random sampler draws the same permutation from the same
generator, whose state the trainer keeps, so a resumed run goes on with the same batches.

`length_bucketing: n` takes the rows of n batches at a time from the epoch's permutation, sorts them by length, cuts
them into batches and shuffles these: each row comes once an epoch, in an order that the seed fixes, among rows of its
length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.data.utils import create_samplers, data_preparation
from recbole.utils import ModelType

from recbole_diffusion.data.evaluation_candidates import keep_candidates
from recbole_diffusion.data.histories import history_spans
from recbole_diffusion.data.history_dataset import HistoryDataset
from recbole_diffusion.data.named_columns import place_of
from recbole_diffusion.data.protocols import last_row_per_user, one_row_per_user
from recbole_diffusion.data.recbole_refusals import recbole_refusals
from recbole_diffusion.data.sequences import ExampleRows
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)


class BatchPositions(torch.utils.data.Sampler[np.ndarray]):
    """Row numbers of one batch after the other.

    Args:
        size: number of rows.
        batch_size: rows a batch.
        generator: what draws.
        shuffle: whether rows come in an order of chance; False keeps their order.
        lengths: (R,) length of each row's history, for batches of similar length.
        bucket_batches: how many batches' rows are sorted by length together; None sorts none.
        chosen: rows of an epoch, drawn from the generator; None takes all.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        shuffle: bool = True,
        lengths: np.ndarray | None = None,
        bucket_batches: int | None = None,
        chosen: Callable[[torch.Generator], np.ndarray] | None = None,
        chosen_size: int | None = None,
    ) -> None:
        self.size = size if chosen_size is None else chosen_size
        self.batch_size = batch_size
        self.generator = generator
        self.shuffle = shuffle and generator is not None
        self.lengths = lengths
        self.bucket_batches = bucket_batches
        self.chosen = chosen

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The row numbers of each batch, (B,) int64."""
        generator = self.generator
        rows = None if self.chosen is None or generator is None else self.chosen(generator)
        if generator is None or not self.shuffle:
            yield from self._cut(np.arange(self.size) if rows is None else rows)
            return
        order = torch.randperm(self.size, generator=generator).numpy()
        if rows is not None:
            order = rows[order]
        if self.bucket_batches is None:
            yield from self._cut(order)
        else:
            batches = list(self._buckets(order))
            for number in torch.randperm(len(batches), generator=generator).tolist():
                yield batches[number]
        torch.randperm(self.size, generator=generator)  # torch's RandomSampler draws it at the end of an epoch

    def _cut(self, order: np.ndarray) -> Iterator[np.ndarray]:
        for begin in range(0, len(order), self.batch_size):
            yield order[begin : begin + self.batch_size]

    def _buckets(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Batches of rows of similar length."""
        if self.lengths is None or self.bucket_batches is None:
            raise ValueError("batches of similar length need the lengths of the rows")
        step = self.batch_size * self.bucket_batches
        for begin in range(0, len(order), step):
            rows = order[begin : begin + step]
            yield from self._cut(rows[np.argsort(self.lengths[rows], kind="stable")])


class _Positions(torch.utils.data.Dataset[np.ndarray]):
    """A dataset whose element at an index is the index: loaders look rows up themselves."""

    def __getitem__(self, index: Any) -> Any:
        return index


class HistoryLoader(AbstractDataLoader):
    """RecBole's abstract loader with batches from `BatchPositions`; RecBole's loader classes follow it."""

    step: int

    def __init__(self, config: Any, dataset: Any, sampler: Any, shuffle: bool = False) -> None:
        self.shuffle = shuffle
        self.config = config
        self._dataset = dataset
        self._sampler = sampler
        self._batch_size = self.model = None
        self._init_batch_size_and_step()
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self.transform = construct_transform(config)
        self.is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        torch.utils.data.DataLoader.__init__(
            self,
            dataset=_Positions(),
            sampler=self._batches(),
            batch_size=None,
            collate_fn=self.collate_fn,
            num_workers=config["worker"],
            generator=self.generator,
        )

    def _batches(self) -> BatchPositions:
        return BatchPositions(self.sample_size, self.step, self.generator, shuffle=self.shuffle)

    def update_config(self, config: Any) -> None:
        """Refused: the batches are laid out when the loader is made.

        Raises:
            UserError: always.
        """
        raise UserError("a loader of histories cannot change its configuration; build a new one")


class HistoryTrainLoader(TrainDataLoader, HistoryLoader):
    """Training rows."""

    def _batches(self) -> BatchPositions:
        examples: ExampleRows = self._dataset.inter_feat
        bucket_batches = self.config["length_bucketing"]
        lengths = None
        if bucket_batches is not None and not self.shuffle:
            raise UserError("length_bucketing sorts shuffled rows, but shuffle is False; leave one of them out")
        if bucket_batches is not None:
            limit = examples.fields.limit
            lengths = history_spans(examples.histories, examples.rows.target, limit)[1].astype(np.int32)
        rows, histories = examples.rows, examples.histories
        chosen = size = None
        if self.config["train_positions"] == "all":  # a model that is asked at every place of a history
            if self.config["one_cut_per_user"]:
                raise UserError(
                    "one_cut_per_user draws one target of a user, train_positions: all trains every one; set "
                    "train_positions: last or leave one_cut_per_user out"
                )
            last = last_row_per_user(rows, histories)
            size = len(last)

            def chosen(generator: torch.Generator) -> np.ndarray:
                return last
        elif self.config["one_cut_per_user"]:
            size = len(np.unique(histories.users(rows.target)))

            def chosen(generator: torch.Generator) -> np.ndarray:
                return one_row_per_user(rows, histories, generator)

        return BatchPositions(
            self.sample_size,
            self.step,
            self.generator,
            shuffle=self.shuffle,
            lengths=lengths,
            bucket_batches=bucket_batches,
            chosen=chosen,
            chosen_size=size,
        )


class HistoryEvalLoader(FullSortEvalDataLoader, HistoryLoader):
    """Rows to rank among all items, with their targets and, for `filter_seen`, the items of their histories."""

    reads_any_rows = True
    """`collate_fn` makes a batch of any rows, whichever came before."""

    def collate_fn(self, index: np.ndarray) -> tuple[Interaction, Any, torch.Tensor, torch.Tensor]:
        """A batch as RecBole's evaluation takes it.

        Args:
            index: (B,) row numbers.

        Returns:
            The rows; (row, item) of what may not be ranked, or None; row of each target; item of each target.
        """
        examples: ExampleRows = self._dataset.inter_feat
        interaction = self.transform(self._dataset, self._dataset[index])
        rows = examples.rows.take(np.asarray(index))
        items = examples.histories.columns[self.iid_field]
        seen = None
        if self.config["filter_seen"]:
            begin = examples.histories.offsets[examples.histories.users(rows.target)]
            seen = _spans_of(items, begin, rows.target.astype(np.int64))
        if rows.stop is None:
            return interaction, seen, torch.arange(len(rows)), interaction[self.iid_field]
        positive_u, positive_i = _spans_of(items, rows.target.astype(np.int64), rows.stop.astype(np.int64))
        return interaction, seen, positive_u, positive_i


def _spans_of(items: np.ndarray, begin: np.ndarray, stop: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, item) of all positions begin[r] .. stop[r] - 1 of every row r; (pairs,) each."""
    length = stop - begin
    row = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    values = items[begin[row] + place].astype(np.int64)
    return torch.from_numpy(row), torch.from_numpy(values)


def prepare_loaders(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """Loaders of training, validation and test rows.

    Args:
        config: the run's configuration.
        dataset: a dataset made by `checked_dataset`; one that keeps histories gets the loaders above, any other
            RecBole's.

    Raises:
        UserError: the protocol cannot be had with these settings or data.
    """
    _refuse_absent_labels(config, dataset)
    with recbole_refusals(config):
        return _loaders(config, dataset)


def _refuse_absent_labels(config: Any, dataset: Any) -> None:
    """`mode: labeled` evaluates the labels of the interactions, which a column has or a threshold makes."""
    label = config["LABEL_FIELD"]
    if "labeled" in config["eval_args"]["mode"].values() and label not in dataset.inter_feat:
        raise UserError(
            f"eval_args has the mode labeled{place_of(config, 'eval_args')}, but the interactions have no column "
            f"{label!r} (LABEL_FIELD); load one with load_col, make one with threshold: {{rating: 4}}, or set another "
            "mode"
        )


def _loaders(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    if not (isinstance(dataset, HistoryDataset) and dataset.keeps_histories):
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            _refuse_keys_of_histories(config, dataset)
        return _with_kept_candidates(config, *data_preparation(config, dataset))
    train, valid, test = built = dataset.build()
    modes = [config["eval_args"]["mode"][phase] for phase in ("valid", "test")]
    samplers: tuple[Any, ...] = (None, None, None)
    if config["train_neg_sample_args"]["distribution"] != "none" or modes != ["full", "full"]:
        samplers = create_samplers(config, dataset, built)  # holds a Python set for every user
    loaders = [HistoryTrainLoader(config, train, samplers[0], shuffle=config["shuffle"])]
    for mode, part, sampler in zip(modes, (valid, test), samplers[1:], strict=True):
        if mode == "full":
            loaders.append(HistoryEvalLoader(config, part, sampler, shuffle=False))
        else:  # RecBole joins batches of single users, so they must be equally wide
            part.inter_feat = part.inter_feat.part(part.inter_feat.rows, fixed_width=True)
            loaders.append(NegSampleEvalDataLoader(config, part, sampler, shuffle=False))
    return _with_kept_candidates(config, loaders[0], loaders[1], loaders[2])


def _with_kept_candidates(config: Any, train: Any, valid: Any, test: Any) -> tuple[Any, Any, Any]:
    """The loaders; where evaluation is sampled, their candidates are the same every time."""
    for split, loader in (("valid", valid), ("test", test)):
        if isinstance(loader, NegSampleEvalDataLoader):
            keep_candidates(loader, config["eval_seed"], split)
    return train, valid, test


def _refuse_keys_of_histories(config: Any, dataset: Any) -> None:
    """Refuse what RecBole's own way of making examples does not know; say in the log why it is taken.

    Raises:
        UserError: names the key.
    """
    reason = "its dataset class makes examples in a way of its own"
    if isinstance(dataset, HistoryDataset):
        reason = dataset.written_out_because() or reason
    asked = {"filter_seen": False, "length_bucketing": None, "one_cut_per_user": False}
    for key, off in asked.items():
        if config[key] not in (None, off):
            raise UserError(f"{key} is {config[key]}, which {config['model']} cannot have here: {reason}; leave it out")
    if config["protocol"] not in (None, "leave_one_out", "eval_args"):
        raise UserError(
            f"protocol is {config['protocol']}, which {config['model']} cannot have here: {reason}; "
            "set protocol: leave_one_out or eval_args"
        )
    logger.info("%s: every prefix of every history is written out: %s", config["dataset"], reason)
