"""An interaction file as it is once read, filtered, given ids and sorted: kept in the cache for later runs.

The key (:func:`.cache.cache_key`) is made of the contents of the ``.inter`` file and of every setting that reading
depends on, so an entry is never stale: another file or another setting is another entry. Datasets with user or item
features are read anew each time. What the log said while the file was read, the log says again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import FeatureSource, FeatureType
from recbole.utils.argument_list import dataset_arguments

from recbole_diffusion.data import cache
from recbole_diffusion.data.histories import Histories
from recbole_diffusion.data.token_ids import TokenIds

logger = logging.getLogger(__name__)

PREPARED_VERSION = 2  # another number for every change in what reading, filters, ids or order make of a file

# Keys of RecBole's datasets that only name or cut the columns of a batch.
_OF_BATCHES = {"ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "MAX_ITEM_LIST_LENGTH", "NEG_PREFIX", "POSITION_FIELD"}
_OTHER_KEYS = ("encoding", "time_precision", "eval_args", "protocol", "numerical_features", "discretization")
_DATASET_KEYS = tuple(dataset_arguments)  # as imported: RecBole's own Config extends the list in place
_OTHER_FILES = ("benchmark_filename", "additional_feat_suffix", "preload_weight")  # keys that read further files
_FOLDER = "{folder}"  # stands for the dataset's folder in kept messages
_MAPS = ("field2type", "field2source", "field2seqlen", "field2bucketnum")


def reading_keys(config: Any) -> dict[str, Any]:
    """The keys that reading a dataset depends on, besides its files, with their values."""
    keys = [key for key in (*_DATASET_KEYS, *_OTHER_KEYS) if key not in _OF_BATCHES]
    return {key: config[key] for key in sorted(set(keys))}


@dataclass(frozen=True)
class Found:
    """An entry of the cache as a dataset takes it."""

    histories: Histories
    field_order: list[str]
    fields: dict[str, dict[str, Any]]
    tokens: dict[str, np.ndarray]

    def restore(self, dataset: Any) -> None:
        """Give a RecBole dataset the fields and ids that it had when it was stored."""
        kinds, sources = FeatureType, FeatureSource
        dataset.field2type = {name: kinds(value) for name, value in self.fields["field2type"].items()}
        dataset.field2source = {name: sources(value) for name, value in self.fields["field2source"].items()}
        dataset.field2seqlen = dict(self.fields["field2seqlen"])
        dataset.field2bucketnum = dict(self.fields["field2bucketnum"])
        dataset.field2id_token = dict(self.tokens)
        dataset.field2token_id = {name: TokenIds(tokens) for name, tokens in self.tokens.items()}


class PreparedData:
    """The cache entry of one dataset under one configuration.

    Args:
        config: the configuration; without the key ``cache`` (RecBole's own Config) nothing is cached.
        cached: whether anything is looked up or kept; False for a dataset class whose own code no key knows.
    """

    def __init__(self, config: Any, *, cached: bool = True) -> None:
        self.config = config
        self.cached = cached and bool(config["cache"]) and not any(config[key] for key in _OTHER_FILES)
        self.key: str | None = None
        self.folder = Path(config["cache_dir"]) if config["cache_dir"] else cache.default_folder()
        self.messages: list[tuple[int, str, str]] = []
        self.source = Path(config["data_path"]) / f"{config['dataset']}.inter"
        self.state: tuple[int, int] | None = None

    def load(self) -> Found | None:
        """The entry, mapped into memory; None where there is none, or none can be."""
        if not self.cached or not self.source.is_file():
            return None
        show = bool(self.config["show_progress"])
        try:
            self.state = self._state()
            self.key = cache.cache_key([self.source], self._settings(), show_progress=show)
        except OSError:  # reading it says what is wrong
            return None
        entry = cache.load(self.folder, self.key, show_progress=show)
        if entry is None:
            return None
        logger.info("prepared data from the cache, %s", self.folder / self.key)
        for level, name, message in entry.facts["messages"]:
            logging.getLogger(name).log(level, "%s", message.replace(_FOLDER, str(self.source.parent)))
        columns = {name: entry.arrays[f"column/{name}"] for name in entry.facts["columns"]}
        histories = Histories(entry.arrays["offsets"], columns, entry.arrays["place"])
        tokens = {name: entry.arrays[f"tokens/{name}"] for name in entry.facts["tokens"]}
        return Found(histories, entry.facts["field_order"], entry.facts["fields"], tokens)

    def _state(self) -> tuple[int, int]:
        """Size and time of change of the file."""
        status = self.source.stat()
        return status.st_size, status.st_mtime_ns

    def _settings(self) -> dict[str, Any]:
        """Everything besides the file's contents that reading depends on."""
        beside = sorted(path.suffix for path in self.source.parent.glob(f"{self.source.stem}.*"))
        return {
            "version": PREPARED_VERSION,
            "files": beside,
            "keys": reading_keys(self.config),
        }

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Remember what this package logs, and what RecBole warns of, while the file is read."""
        handler, recbole_s = _Recorder(self.messages), _Recorder(self.messages, logging.WARNING)
        recbole_s.addFilter(lambda record: record.name == "root")  # RecBole logs there; ours passes by
        root = logging.getLogger()
        package = logging.getLogger("recbole_diffusion")
        shown, level = package.getEffectiveLevel(), package.level
        others = [one for one in root.handlers if one.level < shown]
        levels = [one.level for one in others]
        package.addHandler(handler)
        root.addHandler(recbole_s)
        package.setLevel(min(shown, logging.INFO))  # a later run may want to hear more than this one does
        for one in others:
            one.setLevel(shown)
        try:
            yield
        finally:
            package.removeHandler(handler)
            root.removeHandler(recbole_s)
            package.setLevel(level)
            for one, before in zip(others, levels, strict=True):
                one.setLevel(before)

    @staticmethod
    def fields_of(dataset: Any) -> dict[str, Any]:
        """Types, sources and ids of a dataset's fields, before those of its examples are added."""
        found: dict[str, Any] = {name: dict(getattr(dataset, name)) for name in _MAPS}
        found["tokens"] = {name: dataset.field2id_token[name] for name in dataset.field2id_token}
        return found

    def store(self, histories: Histories, field_order: list[str], known: Mapping[str, Any]) -> None:
        """Keep what was prepared, unless the file changed after its key was made."""
        if self.key is None or self._state() != self.state:
            return
        arrays: dict[str, np.ndarray] = {"offsets": histories.offsets, "place": histories.place}
        arrays.update({f"column/{name}": values for name, values in histories.columns.items()})
        arrays.update({f"tokens/{name}": np.asarray(tokens) for name, tokens in known["tokens"].items()})
        fields = {name: {field: _plain(value) for field, value in known[name].items()} for name in _MAPS}
        facts = {
            "dataset": self.config["dataset"],
            "columns": list(histories.columns),
            "tokens": list(known["tokens"]),
            "field_order": field_order,
            "fields": fields,
            "messages": [
                (level, name, message.replace(str(self.source.parent), _FOLDER))
                for level, name, message in self.messages
            ],
        }
        cache.store(self.folder, self.key, arrays, facts, show_progress=bool(self.config["show_progress"]))


def _plain(value: Any) -> Any:
    """An enumeration's value; any other value as it is."""
    return value.value if isinstance(value, (FeatureType, FeatureSource)) else value


class _Recorder(logging.Handler):
    """Collects level, logger and text of every message."""

    def __init__(self, messages: list[tuple[int, str, str]], level: int = logging.INFO) -> None:
        super().__init__(level)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Remember one message."""
        self.messages.append((record.levelno, record.name, record.getMessage()))
