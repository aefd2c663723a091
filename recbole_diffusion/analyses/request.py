"""What an analysis is asked for, and what it ends with."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from recbole_diffusion.config_files import Overrides, parse_value
from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import write_text_atomically

Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class Request:
    """What an analysis is asked for.

    Attributes:
        options: keys of `analyses.table.OPTIONS` as text.
        config: keys of a run or an evaluation.
        output: the folder that it writes to; it exists.
        data_path: folder of the datasets; None for that of the run.
    """

    options: Mapping[str, str]
    config: Overrides
    output: Path
    data_path: str | None = None

    def whole(self, key: str, default: int, *, least: int = 1) -> int:
        """A whole number.

        Raises:
            UserError: it is none, or below `least`.
        """
        return self.wholes(key, [default], least=least, single=True)[0]

    def wholes(
        self, key: str, default: Sequence[int], *, least: int = 1, most: int | None = None, single: bool = False
    ) -> list[int]:
        """Whole numbers, given as ``[1, 2]``, ``1,2`` or ``1``.

        Raises:
            UserError: one is none, or outside `least` .. `most`.
        """
        allowed = f"{'a whole number' if single else 'whole numbers'} from {least}" + f" to {most}" * (most is not None)

        def fits(number: int) -> bool:
            return least <= number and (most is None or number <= most)

        return self._numbers(key, default, int, fits, allowed, single)

    def numbers(
        self, key: str, default: Sequence[float], *, least: float = -math.inf, most: float = math.inf
    ) -> list[float]:
        """Finite numbers, given as ``[0.1, 0.2]``, ``0.1,0.2`` or ``0.1``.

        Raises:
            UserError: one is none, or outside [least, most].
        """
        bounds = f" from {least:g}" * (least > -math.inf) + f" to {most:g}" * (most < math.inf)
        return self._numbers(key, default, float, lambda number: least <= number <= most, "numbers" + bounds, False)

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of some words; the first where none is given.

        Raises:
            UserError: another word.
        """
        text = self.options.get(key, allowed[0])
        if text not in allowed:
            raise UserError(f"--{key} must be {' or '.join(allowed)}, got '{text}'")
        return text

    def words(self, key: str) -> list[str]:
        """Words separated by blanks, those that hold a blank in quotes; empty where the key is not given.

        Raises:
            UserError: a quote is not closed.
        """
        return split_words(key, self.options.get(key, ""))

    def _numbers(
        self,
        key: str,
        default: Sequence[Value],
        kind: type[Value],
        allowed: Callable[[Value], bool],
        words: str,
        single: bool,
    ) -> list[Value]:
        text = self.options.get(key)
        if text is None:
            return list(default)
        wrong = UserError(f"--{key} must be {words}, got '{text}'")
        given = parse_value(text if text.lstrip().startswith("[") else f"[{text}]")
        if not isinstance(given, list):
            raise wrong
        found: list[Value] = []
        for value in given:
            try:
                number = kind(value)
            except (TypeError, ValueError, OverflowError):
                raise wrong from None
            if isinstance(value, bool) or number != float(value) or not math.isfinite(number) or not allowed(number):
                raise wrong
            found.append(number)
        if not found or (single and len(found) > 1):
            raise wrong
        return found

    def write_csv(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
        """Write a table of plain values into the output folder; the file. Floats keep every digit, None is empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if cell is None else repr(cell) if isinstance(cell, float) else cell for cell in row])
        file = self.output / name
        write_text_atomically(file, stream.getvalue())
        return file


@dataclass(frozen=True)
class Findings:
    """What an analysis ends with.

    Attributes:
        text: a table or a few lines for a terminal.
        files: what was written: pictures (PNG and SVG) and numbers (CSV).
    """

    text: str
    files: list[Path] = field(default_factory=list)


def split_words(key: str, text: str) -> list[str]:
    """The words of a key's value.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"cannot read --{key}='{text}': {error}") from error


def named_runs(text: str) -> list[tuple[str, Path]]:
    """Run folders of the key `runs`, each with its name: the given one, or that of the folder.

    Raises:
        UserError: there is none, one is no folder, a name is given twice.
    """
    found: list[tuple[str, Path]] = []
    for word in split_words("runs", text):
        name, equals, folder = word.partition("=")
        path = Path(folder if equals else word)
        if not path.is_dir():
            raise UserError(f"--runs: no folder {path}")
        found.append((name if equals else path.name, path))
    names = [name for name, _ in found]
    if not found:
        raise UserError("--runs is empty; it takes folders of runs")
    if len(set(names)) < len(names):
        raise UserError(f"--runs: two runs are named {max(names, key=names.count)}; give names as NAME=RUN_FOLDER")
    return found
