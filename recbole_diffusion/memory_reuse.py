"""Let the C library keep freed memory for the next step instead of giving it back to the system.

glibc maps every block above a threshold (128 KiB at first, at most 32 MiB) and unmaps it when it is freed. A training
step allocates and frees the same large tensors again and again (logits of 512 rows over 12,101 items: 25 MB), and each
time every page of 4 KiB is asked of the kernel and zeroed. docs/decisions/135-memory-that-is-kept.md has the figures.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import sys

logger = logging.getLogger(__name__)

LARGEST_KEPT = 128 << 20  # bytes; larger blocks go back at once, a table of items may be one
MOST_KEPT = 1 << 30  # bytes that stay at the end of the heap
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* of malloc.h


def reuse_freed_memory() -> bool:
    """Keep freed blocks up to LARGEST_KEPT for this process's next ones; whether the C library does.

    Numbers do not change. It lasts for the whole process; with another C library than glibc nothing happens.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    kept = bool(library.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)) or bool(library.mallopt(_MMAP_THRESHOLD, 32 << 20))
    return kept and bool(library.mallopt(_TRIM_THRESHOLD, MOST_KEPT))
