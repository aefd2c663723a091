"""The data of a sweep, read and prepared once before its trials start."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import data_fingerprint

logger = logging.getLogger(__name__)


def prepare_data(config: RunConfig) -> dict[str, Any]:
    """Read the data once, into the cache that trials map into memory; their fingerprint.

    Raises:
        UserError: the data cannot be read, or there are no validation rows to compare trials by.
    """
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        data = checked_dataset(config.entry.dataset_class)(config)
        _, valid, _ = prepare_loaders(config, data)
    if not valid:
        raise UserError(
            "there are no validation rows, by which a sweep compares its trials; change the split or the data"
        )
    fingerprint = data_fingerprint(Path(config["data_path"]), data)
    if not config["cache"]:
        logger.warning("cache is False: every trial reads and prepares the data anew")
    elif not getattr(data, "keeps_histories", False):
        logger.warning("these data cannot be kept in the cache (%s); every trial reads them anew", type(data).__name__)
    logger.info(
        "data ready in %.1f s: %d users, %d items", time.perf_counter() - began, data.user_num - 1, data.item_num - 1
    )
    return fingerprint
