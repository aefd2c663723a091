"""Bars for what takes longer than a few seconds."""

from __future__ import annotations

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar appears


def progress(what: str, total: int, unit: str, *, shown: bool) -> tqdm:
    """A bar on standard error that appears once the work has taken two seconds.

    Args:
        what: what is done, for people.
        total: how much there is of it.
        unit: ``B`` for bytes, or a word with a space before it.
        shown: False for none at all.
    """
    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, delay=DELAY, disable=not shown)
