"""A run that ends with the process that started it: ``python -m recbole_diffusion.suites.child PARENT WORD ...``.

Where the system can (Linux), the run gets SIGTERM when its parent dies, however it dies; its last epoch is kept then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Let this process get SIGTERM when `parent`, which started it, ends."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before this was asked for
        sys.exit(1)


def heed_interrupts() -> None:
    """Let SIGINT, by which the parent ends a run, interrupt this process.

    Ray's workers block it, and what a shell starts in the background ignores it; a child inherits both.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run() -> int:
    """The command line of the words behind the parent's number; its exit code."""
    from recbole_diffusion.command_line import main

    heed_interrupts()
    end_with(int(sys.argv[1]))
    del sys.argv[1]
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
