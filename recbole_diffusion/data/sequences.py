"""Examples as RecBole sees them: an `Interaction` whose columns are gathered from the histories when they are read.

RecBole's models, samplers and loaders read ``interaction["item_id_list"]``, iterate over fields, move a batch to a
device, repeat it for negatives. :class:`ExampleRows` answers all of that for any set of rows, a batch or a whole part
of the data, and holds nothing but the rows' positions until a column is asked for. A column that nobody reads (the
history of times, say) is never built. Histories are as wide as the longest of the batch, or always
`MAX_ITEM_LIST_LENGTH` for models that need it (:mod:`recbole_diffusion.data.history_length`).

Shapes: B rows, W width (their longest history), L `MAX_ITEM_LIST_LENGTH`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.data.histories import Histories, Rows, gather, history_spans


@dataclass(frozen=True)
class ExampleFields:
    """The fields of an example.

    Attributes:
        user: name of the user id.
        length: name of the history's length.
        suffix: what the name of a history ends in, ``_list``.
        numbers: fields that are numbers, float32 in a batch; the others are tokens, int64.
        limit: L.
        fixed_width: whether every batch is L wide.
    """

    user: str
    length: str
    suffix: str
    numbers: frozenset[str]
    limit: int
    fixed_width: bool


class _Columns(dict[str, Any]):
    """Columns by name; one that nobody has read yet is None inside and never outside."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Tensor], keep: bool) -> None:
        super().__init__(dict.fromkeys(names))
        self.compute = compute
        self.keep = keep

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor | None = super().__getitem__(name)
        if value is None:
            value = self.compute(name)
            if self.keep:
                self[name] = value
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The column, or `default` where there is none of that name."""
        return self[name] if name in self else default  # noqa: SIM401 - dict.get would not compute it

    def values(self) -> Any:
        """All columns, computed."""
        return [self[name] for name in self]

    def copy(self) -> dict[str, Any]:
        """All columns, computed, in a plain dict."""
        return dict(self.items())

    def pop(self, name: str, *default: Any) -> Any:
        """Take a column away and return it, computed."""
        value = self.get(name)
        taken = super().pop(name, *default)
        return taken if value is None else value

    def items(self) -> Any:
        """All names and columns, computed."""
        return [(name, self[name]) for name in self]

    def computed(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the columns that are there already."""
        return ((name, value) for name, value in super().items() if value is not None)


class ExampleRows(Interaction):
    """Rows of histories as a RecBole `Interaction`.

    Args:
        histories: where the columns come from.
        fields: what they are called.
        rows: the examples.
        names: the columns; None takes all: user, targets, length and histories.
        keep: whether a column stays once it is computed (a batch) or is computed anew (a whole part of the data).
        device: where columns are put.
        width: W; None takes the longest history of the rows, or L where the width is fixed.
    """

    def __init__(
        self,
        histories: Histories,
        fields: ExampleFields,
        rows: Rows,
        *,
        names: Iterable[str] | None = None,
        keep: bool = True,
        device: Any = None,
        width: int | None = None,
    ) -> None:
        self.histories = histories
        self.fields = fields
        self.rows = rows
        self.length = len(rows)
        self.device = device
        self.width = fields.limit if fields.fixed_width else width
        self._spans: tuple[np.ndarray, np.ndarray] | None = None
        if names is None:
            targets = list(histories.columns)
            names = [fields.user, *targets, fields.length, *(name + fields.suffix for name in targets)]
        self.interaction = _Columns(names, self._compute, keep)

    # what is in a row -----------------------------------------------------------------------------------------------

    @property
    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Begin and length of each row's history, (B,) each."""
        if self._spans is None:
            self._spans = history_spans(self.histories, self.rows.target, self.fields.limit)
        return self._spans

    def _compute(self, name: str) -> Tensor:
        """One column: (B,) or, for a history, (B, W); more dimensions where the field has them."""
        columns = self.histories.columns
        if name == self.fields.user:
            values = self.histories.users(self.rows.target)
        elif name == self.fields.length:
            values = self.spans[1]
        elif name in columns:
            values = columns[name][self.rows.target]
        else:
            begin, length = self.spans
            width = self.width
            if width is None:
                width = int(length.max()) if len(length) else self.fields.limit
                if self.interaction.keep:  # rows taken from this batch later keep the width of what is there
                    self.width = width
            values = gather(columns[name.removesuffix(self.fields.suffix)], begin, length, width)
        kind = np.float32 if name.removesuffix(self.fields.suffix) in self.fields.numbers else np.int64
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=kind))
        return tensor if self.device is None else tensor.to(self.device)

    def part(self, rows: Rows, *, fixed_width: bool | None = None, keep: bool = False) -> ExampleRows:
        """Other rows of the same histories, with the same columns; without `keep` computed anew when they are read."""
        fields = self.fields
        if fixed_width is not None:
            fields = dataclasses.replace(fields, fixed_width=fixed_width)
        return ExampleRows(self.histories, fields, rows, names=self.interaction, keep=keep)

    def _changed(self, rows: Rows, change: Callable[[Tensor], Tensor], device: Any = None) -> ExampleRows:
        """A batch of `rows` with the same columns: those that are there changed, the others still to compute."""
        batch = ExampleRows(
            self.histories,
            self.fields,
            rows,
            names=self.interaction,
            device=self.device if device is None else device,
            width=self.width,
        )
        for name, value in self.interaction.computed():
            batch.interaction[name] = change(value)
        return batch

    # RecBole's interface --------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """A column by name, or the rows of an index (list, array, tensor, mask, slice) as a batch."""
        if isinstance(index, str):
            return self.interaction[index]
        positions = _positions(index, self.length)
        chosen = torch.from_numpy(positions)
        return self._changed(self.rows.take(positions), lambda value: value[chosen.to(value.device)])

    def to(self, device: Any, selected_field: str | Iterable[str] | None = None) -> Interaction:
        """The same rows with their columns on a device; columns that nobody has read yet are computed there."""
        if selected_field is not None:
            return Interaction(dict(self.interaction.items())).to(device, selected_field)
        batch = self._changed(self.rows, lambda value: value.to(device), device)
        batch._spans = self._spans
        return batch

    def cpu(self) -> Interaction:
        """The same rows with their columns on the CPU."""
        return self.to("cpu")

    def numpy(self) -> dict[str, np.ndarray]:
        """All columns as arrays."""
        return {name: value.numpy() for name, value in self.interaction.items()}

    def repeat(self, sizes: int) -> ExampleRows:
        """The rows `sizes` times over, one whole after the other."""
        index = np.tile(np.arange(self.length), sizes)
        return self._changed(self.rows.take(index), lambda value: value.repeat([sizes] + [1] * (value.dim() - 1)))

    def repeat_interleave(self, repeats: int, dim: int = 0) -> ExampleRows:
        """Each row `repeats` times, one beside the other; `dim` is 0, the rows."""
        if dim != 0:
            raise ValueError(f"rows repeat along dimension 0, got dim={dim}")
        index = np.repeat(np.arange(self.length), repeats)
        return self._changed(self.rows.take(index), lambda value: value.repeat_interleave(repeats, dim=0))

    def drop(self, column: str) -> None:
        """Take a column away."""
        if column not in self.interaction:
            raise ValueError(f"Column [{column}] is not in [{self}].")
        del self.interaction[column]

    def _reindex(self, index: Any) -> None:
        """Put the rows in another order, in place; RecBole's sort and shuffle call it."""
        positions = _positions(index, self.length)
        self.rows = self.rows.take(positions)
        self._spans = None
        chosen = torch.from_numpy(positions)
        for name, value in list(self.interaction.computed()):
            self.interaction[name] = value[chosen.to(value.device)]

    def add_prefix(self, prefix: str) -> None:
        """Rename every column, in place."""
        columns = {prefix + name: value for name, value in self.interaction.items()}
        self.interaction = _Columns((), self._compute, True)
        for name, value in columns.items():
            self.interaction[name] = value

    def __deepcopy__(self, memo: Any) -> ExampleRows:
        return self._changed(self.rows, torch.clone)

    def __reduce__(self) -> Any:
        """Between processes goes a batch as a plain `Interaction`, every column computed; a whole part as it is."""
        if self.interaction.keep:
            return Interaction, (dict(self.interaction.items()),)
        return _whole_part, (self.histories, self.fields, self.rows, list(self.interaction))


def _whole_part(histories: Histories, fields: ExampleFields, rows: Rows, names: list[str]) -> ExampleRows:
    return ExampleRows(histories, fields, rows, names=names, keep=False)


def _positions(index: Any, length: int) -> np.ndarray:
    """Row numbers (B,) int64 of a list, array, tensor, mask, slice or range."""
    if isinstance(index, (slice, range)):
        return np.arange(length, dtype=np.int64)[index] if isinstance(index, slice) else np.asarray(index)
    array = np.atleast_1d(index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index))
    if array.dtype == bool:
        return np.flatnonzero(array)
    return array.astype(np.int64, copy=False)
