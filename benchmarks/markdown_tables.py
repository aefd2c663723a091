"""Markdown tables and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---:") -> str:
    """A Markdown table, first column to the left, the others as `align` says (to the right)."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + [align] * (len(header) - 1)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: float | None, decimals: int = 2) -> str:
    """A number with thousands separated, or a dash."""
    return "–" if value is None else f"{value:,.{decimals}f}"


def signed(value: float | None, decimals: int = 4) -> str:
    """A difference with its sign, or a dash."""
    return "–" if value is None else f"{value:+.{decimals}f}"
