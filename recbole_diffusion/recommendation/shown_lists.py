"""Recommendations as people and programs read them: a table in plain text, or JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

from recbole_diffusion.recommendation.recommendations import Recommendations

TITLE_WIDTH = 60


def as_table(found: Recommendations) -> str:
    """Rank, item, title and score, one line an item; histories one after the other, with their number if several."""
    blocks = []
    for row, items in enumerate(found.items):
        titles = None if found.titles is None else found.titles[row]
        lines: list[tuple[str, ...]] = [("rank", "item", "title", "score") if titles else ("rank", "item", "score")]
        for rank, (item, score) in enumerate(zip(items or [], found.scores[row] or []), 1):
            title = (_shortened(titles[rank - 1] or ""),) if titles else ()
            lines.append((str(rank), item, *title, f"{score:.6g}"))
        block = _columns(lines)
        blocks.append(f"history {row + 1}\n{block}" if len(found) > 1 else block)
    return "\n\n".join(blocks)


def as_json(found: Recommendations) -> str:
    """A list with an object a history: its items with rank, item, title (null without one) and score; unknown items."""
    rows = []
    for row, items in enumerate(found.items):
        titles = (found.titles or [None] * len(found))[row] or [None] * len(items or [])
        listed = [
            {"rank": rank, "item": item, "title": title, "score": score}
            for rank, (item, title, score) in enumerate(zip(items or [], titles, found.scores[row] or []), 1)
        ]
        rows.append({"history": row + 1, "items": listed, "unknown": found.unknown.get(row, [])})
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _columns(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines of cells side by side; the first and last column to the right."""
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    shown = []
    for line in lines:
        cells = []
        for place, (cell, width) in enumerate(zip(line, widths, strict=True)):
            room = " " * (width - _width(cell))
            cells.append(room + cell if place in (0, last) else cell + room)
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _width(text: str) -> int:
    """Places that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _shortened(title: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in title)
    while _width(text) > TITLE_WIDTH:
        text = text[: -1 if not text.endswith("…") else -2] + "…"
    return text
