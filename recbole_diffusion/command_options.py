"""What the words of the command line share: texts of options to values, and messages on the way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from recbole_diffusion.config_files import parse_value
from recbole_diffusion.errors import UserError

Value = TypeVar("Value")

OWN_CODE = "MODULE,MODULE that the checkpoint may have imported for parts of your own (default: none is)"


def converted(options: Mapping[str, str], key: str, convert: Callable[[str], Value], allowed: str) -> Value | None:
    """The value of an option, None without it.

    Raises:
        UserError: `convert` does not take its text; `allowed` says what it takes.
    """
    try:
        return convert(options[key]) if key in options else None
    except ValueError:
        raise UserError(f"--{key} is {options[key]!r}; it must be {allowed}") from None


def whole_number(text: str) -> int:
    """A number from 1, or a ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def truth(text: str) -> bool:
    """True or False, or a ValueError."""
    value = parse_value(text)
    if not isinstance(value, bool):
        raise ValueError(text)
    return value


def module_names(text: str) -> tuple[str, ...]:
    """Names of modules with commas between them, or a ValueError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError(text)
    return names


def own_code(options: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The argument `own_code` of what loads a checkpoint, where it is given.

    Raises:
        UserError: it does not hold names of modules.
    """
    names = converted(options, "own_code", module_names, "names of modules with commas between them, such as mine")
    return {} if names is None else {"own_code": names}


class _Lines(logging.StreamHandler):
    """The handler of `messages`."""


@contextmanager
def messages(show: bool = True) -> Iterator[None]:
    """For a while, what this package logs goes to standard error, one line each; warnings also where `show` is False.

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
