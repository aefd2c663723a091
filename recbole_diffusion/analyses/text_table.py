"""A table for a terminal: the first column to the left, the others to the right."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of equal width; numbers with four significant digits, None as a dash."""
    cells = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if not column else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:#.4g}" if isinstance(cell, float) else str(cell)
