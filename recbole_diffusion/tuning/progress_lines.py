"""Messages of a sweep on standard error, one line each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Lines(logging.StreamHandler):
    """The handler of `messages`."""


@contextmanager
def messages(show: bool) -> Iterator[None]:
    """While a sweep lasts, what this package logs goes to standard error; warnings also where `show` is False.

    Inside another one it changes nothing, so that no line is said twice.
    """
    source = logging.getLogger("recbole_diffusion")
    if any(isinstance(handler, _Lines) for handler in source.handlers):
        yield
        return
    handler = _Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if show else logging.WARNING)
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.removeHandler(handler)
        source.setLevel(level)
