"""How far an analysis is: a line for each part that is done, with the time that the others will take."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


class Progress:
    """Logs a line a part.

    Args:
        total: how many parts there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()

    def step(self, message: str, parts: int = 1) -> None:
        """So many parts are done; `message` says which and what came out."""
        self.done += parts
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        logger.info("%d/%d  %s%s", self.done, self.total, message, f"  about {left:.0f} s left" * (left >= 1))
