"""Why a trial failed, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def reason_of(trial: Any) -> str:
    """Why a trial failed, in one line."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return "unknown"
    return short_reason(text)


def short_reason(text: str) -> str:
    """The last line of an error's text that says something, in one line."""
    lost = ("The actor died", "actor is dead", "The actor is dead", "Worker unexpectedly exits")
    if any(mark in text for mark in lost):
        memory = "OutOfMemory" in text or "low on memory" in text.lower() or "OOM" in text
        died = "its worker was killed for want of memory" if memory else "its worker process died"
        return f"{died}{_exit_detail(text)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "unknown"


def _exit_detail(text: str) -> str:
    for mark in ("exit_detail:", "Worker exit detail:"):
        if mark in text:
            return f" ({' '.join(text.rsplit(mark, 1)[1].split(chr(10), 1)[0].split())[:160]})"
    return ""
