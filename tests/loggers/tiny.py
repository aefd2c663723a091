"""A run as small as it gets."""

from __future__ import annotations

from typing import Any

from tests.smallest_run import SMALLEST

TINY: dict[str, Any] = {**SMALLEST, "use_gpu": False, "show_progress": False}
