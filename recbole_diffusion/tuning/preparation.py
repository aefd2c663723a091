"""Data that several runs share, the trials of a sweep or the runs of a suite, read once before they start."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.prepared import reading_keys
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import data_fingerprint

__all__ = ["ReadData", "prepare_data", "read_data", "reading_keys"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadData:
    """What reading the data showed.

    Attributes:
        fingerprint: what tells them from others.
        validates: whether there are validation rows.
    """

    fingerprint: dict[str, Any]
    validates: bool


def read_data(config: RunConfig, *, reader: str) -> ReadData:
    """Read the data once, into the cache that runs map into memory.

    Args:
        config: of any of the runs.
        reader: what they are called, for the log.

    Raises:
        UserError: the data cannot be read, or split as the protocol says.
    """
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        data = checked_dataset(config.entry.dataset_class)(config)
        _, valid, _ = prepare_loaders(config, data)
    fingerprint = data_fingerprint(Path(config["data_path"]), data)
    if not config["cache"]:
        logger.warning("cache is False: every %s reads and prepares the data anew", reader)
    elif not getattr(data, "keeps_histories", False):
        logger.warning(
            "these data cannot be kept in the cache (%s); every %s reads them anew", type(data).__name__, reader
        )
    logger.info(
        "data ready in %.1f s: %d users, %d items", time.perf_counter() - began, data.user_num - 1, data.item_num - 1
    )
    return ReadData(fingerprint, bool(valid))


def prepare_data(config: RunConfig) -> dict[str, Any]:
    """Read the data of a sweep once; their fingerprint.

    Raises:
        UserError: the data cannot be read, or there are no validation rows to compare trials by.
    """
    data = read_data(config, reader="trial")
    if not data.validates:
        raise UserError(
            "there are no validation rows, by which a sweep compares its trials; change the split or the data"
        )
    return data.fingerprint
