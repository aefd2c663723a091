"""What a killed process leaves behind: the processes of its session, which Ray's daemons and workers belong to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # Ray's, of a machine; they do nothing but wait for their daemon


def processes_of(session: int) -> dict[int, str]:
    """Process -> name of every living process of a session (a process started with `start_new_session`)."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (place / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it has ended meanwhile
        state, _, _, its_session = rest.split()[:4]
        if int(its_session) == session and state != "Z":
            found[int(place.name)] = name.partition("(")[2]
    return found


def wait_until_gone(session: int, seconds: float = 30, *, agents: bool = False) -> None:
    """Wait until no process of a session is left; at the end there is none in any case.

    Args:
        session: whose starter was killed.
        seconds: how long.
        agents: wait for Ray's agents, too, which notice only within a minute that their daemon is gone; else end them.

    Raises:
        AssertionError: some are left.
    """
    until = time.monotonic() + seconds
    try:
        while left := {pid: name for pid, name in processes_of(session).items() if agents or name not in AGENTS}:
            assert time.monotonic() < until, f"still there: {left}"
            time.sleep(0.1)
    finally:
        for pid in processes_of(session):
            os.kill(pid, signal.SIGKILL)
