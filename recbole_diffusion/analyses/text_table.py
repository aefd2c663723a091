"""A table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: cells whose column is all numbers to the right, others to the left.

    Args:
        head: names of the columns.
        rows: as many cells each.
    """
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(cell for cell in column[1:]) and all(map(_numeric, column[1:])) for column in columns]
    lines = []
    for row in [head, *rows]:
        cells = [
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _numeric(cell: str) -> bool:
    return not cell or cell[0] in "+-0123456789"
