"""RecBole's range files (`.test`, of its `run_hyper.py`): `key type range`, one key a line.

    learning_rate loguniform -8,0          exp(u) for u from -8 to 0, as in hyperopt
    embedding_size choice [64,96,128]
    mlp_hidden_size choice ['[64,64]','[128,128]']

Same meaning as in RecBole, with two differences: nothing is evaluated (a list is read as a literal), and a line that
cannot be read is an error, where RecBole leaves it out in silence.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

from recbole_diffusion.config_files import Layer, parse_value
from recbole_diffusion.errors import UserError
from recbole_diffusion.tuning.domains import Domain, DomainError

KINDS = ("choice", "uniform", "quniform", "loguniform")


def read_range_file(path: Path) -> Layer:
    """Keys with their domains, each with its line.

    Raises:
        UserError: the file or a line of it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no search space file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the search space file {path}: {error}") from error
    layer = Layer()
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        where = f"{path}:{number}"
        parts = content.split(None, 2)
        if len(parts) < 3:
            raise UserError(
                f"{where}: a line is 'key type range' such as 'learning_rate loguniform -8,0', got {content!r}"
            )
        key, kind, rest = parts
        if kind not in KINDS:
            raise UserError(f"{where}: the type of {key} must be one of {', '.join(KINDS)}, got {kind!r}")
        if key in layer.values:
            raise UserError(f"{where}: key '{key}' is given twice, also at {layer.origins[key]}")
        try:
            layer.values[key] = _choice(rest) if kind == "choice" else _numbers(kind, rest)
        except DomainError as error:
            raise UserError(f"{where}: the range of {key} must be {error}, got {rest!r}") from None
        layer.origins[key] = where
    return layer


def _choice(text: str) -> Domain:
    """A list of literals; text among them is read as a value of the command line, as RecBole does."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise DomainError("a list such as [64, 128] or ['CE', 'BPR']") from None
    if not isinstance(values, (list, tuple)):
        raise DomainError("a list such as [64, 128] or ['CE', 'BPR']")
    return Domain("choice", tuple(parse_value(value) if isinstance(value, str) else value for value in values))


def _numbers(kind: str, text: str) -> Domain:
    numbers: list[Any] = [parse_value(part.strip()) for part in text.split(",")]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in numbers):
        raise DomainError("numbers separated by commas")
    if kind == "loguniform":
        if len(numbers) != 2:
            raise DomainError("two numbers, the natural logarithms of the ends, separated by a comma")
        try:
            low, high = map(math.exp, numbers)
        except OverflowError:
            low, high = 0.0, math.inf
        if not 0 < low <= high < math.inf:
            raise DomainError(
                "two natural logarithms, the lower first, of numbers that a float can hold: from -700 to 700, "
                "usually below 0 as -8,0 for 0.0003 to 1"
            )
        return Domain(kind, (low, high))
    if kind == "quniform" and all(isinstance(value, int) for value in numbers):
        kind = "qrandint"  # hyperopt gives 64.0, which a key that counts something cannot take
    return Domain(kind, tuple(numbers))
