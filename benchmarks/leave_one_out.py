"""Training prefixes and test users of a leave-one-out split, read straight from an atomic file.

The last item of a user's sequence is the test target, the one before it the validation target; every prefix with at
least one history item of what is left is a training row. Items are numbered from 1 in order of first appearance, 0 is
padding. No RecBole here: both sides of a comparison get the same rows, whatever one of them does to read data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Histories of unequal length, oldest item first and cut to the last `max_length`, with their targets."""

    histories: list[list[int]]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.histories)

    def left_padded(self, length: int) -> Tensor:
        """(rows, length) item numbers with zeros on the left."""
        return self._padded(length, lambda history: slice(length - len(history), length))

    def right_padded(self, length: int) -> Tensor:
        """(rows, length) item numbers with zeros on the right."""
        return self._padded(length, lambda history: slice(0, len(history)))

    def lengths(self) -> Tensor:
        """(rows,) number of items of each history."""
        return torch.tensor([len(history) for history in self.histories])

    def _padded(self, length: int, place) -> Tensor:  # type: ignore[no-untyped-def]
        numbers = torch.zeros(len(self.histories), length, dtype=torch.long)
        for row, history in enumerate(self.histories):
            numbers[row, place(history)] = torch.tensor(history, dtype=torch.long)
        return numbers


class LeaveOneOut:
    """Sequences of a dataset under leave-one-out.

    Args:
        sequences: item numbers (1-based) of every user in order of time.
        n_items: number of items, row 0 not counted.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], n_items: int) -> None:
        self.sequences = [list(sequence) for sequence in sequences]
        self.n_items = n_items
        pairs = [(user, cut) for user, items in enumerate(self.sequences) for cut in range(1, len(items) - 2)]
        self.prefixes = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self.test_users = np.array([user for user, items in enumerate(self.sequences) if len(items) >= 3])

    def random_prefixes(self, n_rows: int, generator: np.random.Generator, max_length: int) -> Rows:
        """`n_rows` training rows drawn at random, none twice."""
        chosen = generator.choice(len(self.prefixes), size=n_rows, replace=False)
        return self._rows([(int(user), int(cut)) for user, cut in self.prefixes[chosen]], max_length)

    def random_test_users(self, n_rows: int, generator: np.random.Generator, max_length: int) -> Rows:
        """`n_rows` test users drawn at random, none twice; the first users by number are not typical of the rest."""
        chosen = self.test_users[generator.choice(len(self.test_users), size=n_rows, replace=False)]
        return self._rows([(int(user), len(self.sequences[user]) - 1) for user in chosen], max_length)

    def _rows(self, cuts: list[tuple[int, int]], max_length: int) -> Rows:
        histories = [self.sequences[user][max(0, cut - max_length) : cut] for user, cut in cuts]
        return Rows(histories, torch.tensor([self.sequences[user][cut] for user, cut in cuts]))


def read_leave_one_out(data_path: str | Path, dataset: str) -> LeaveOneOut:
    """Read `<data_path>/<dataset>/<dataset>.inter`.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a needed column is missing (file:line).
    """
    path = Path(data_path) / dataset / f"{dataset}.inter"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the folder that holds {dataset}/ with --data_path")
    with path.open(encoding="utf-8") as file:
        header = [column.split(":")[0] for column in file.readline().rstrip("\r\n").split("\t")]
        missing = [name for name in ("user_id", "item_id", "timestamp") if name not in header]
        if missing:
            raise ValueError(f"{path}:1: has columns {', '.join(header)}, but {', '.join(missing)} is needed")
        user_column, item_column, time_column = (header.index(name) for name in ("user_id", "item_id", "timestamp"))
        numbers: dict[str, int] = {}
        events: dict[str, list[tuple[float, int]]] = {}
        for line in file:
            fields = line.rstrip("\r\n").split("\t")
            item = numbers.setdefault(fields[item_column], len(numbers) + 1)
            events.setdefault(fields[user_column], []).append((float(fields[time_column]), item))
    in_order = (sorted(rows, key=lambda event: event[0]) for rows in events.values())
    return LeaveOneOut([[item for _, item in rows] for rows in in_order], len(numbers))
