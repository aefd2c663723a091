"""Freed memory is used again: pages are asked of the kernel once. Each side in a process of its own, since it lasts."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """\
import ctypes, resource, sys
from recbole_diffusion.memory_reuse import reuse_freed_memory
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
size = 48 << 20  # more than what glibc keeps by itself
def step():
    blocks = [library.malloc(size) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        library.free(block)
if sys.argv[1] == "reuse":
    assert reuse_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc",
    reason="only glibc is told to keep memory",
)
def test_pages_are_asked_for_once() -> None:
    pages = 5 * 3 * (48 << 20) // 4096
    assert faults("not") > 0.9 * pages / 512  # 512: where the system has huge pages
    assert faults("reuse") < 0.01 * pages / 512 + 50


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_diffusion.memory_reuse import reuse_freed_memory

    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    assert reuse_freed_memory() is False
