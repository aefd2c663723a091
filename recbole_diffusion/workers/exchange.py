"""What the process that was started and its workers leave for each other: a folder inside the run's folder.

workers/<token>/terminal     what the first worker would write to standard error: log lines and progress bars
workers/<token>/ended-<n>    why worker n will not go on, JSON: a mistake of the user's, or a traceback
workers/<token>/started      workers were started; when they start again, one was lost
workers/<token>/stop         the run was interrupted: workers end

It goes when the run ends. A worker whose folder is gone ends too: another process has taken over the run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.training.checkpoint import write_text_atomically

FOLDER = "workers"
_POLL_SECONDS = 0.2
_LEFT_BY_ITS_STARTER = 75


@dataclass(frozen=True)
class Ended:
    """Why workers ended that must not be started again.

    Attributes:
        kind: `refused` and `diverged` are a person's to correct, `raised` is an exception.
        message: one line, or the traceback.
    """

    kind: str
    message: str


class Exchange:
    """The folder, on either side.

    Args:
        path: `workers/<token>` of the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, run_folder: Path) -> Exchange:
        """A new one; earlier ones are removed, and with them workers that a killed process left."""
        shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
        path = run_folder / FOLDER / uuid.uuid4().hex[:12]
        path.mkdir(parents=True)
        return cls(path)

    def remove(self) -> None:
        """Remove it and, where it is the last, the folder around it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    @property
    def terminal(self) -> Path:
        """What the first worker writes for a person."""
        return self.path / "terminal"

    def stop(self) -> None:
        """Tell all workers to end."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "stop").touch()

    @property
    def stopped(self) -> bool:
        """Whether workers have to end."""
        return (self.path / "stop").exists() or not self.path.is_dir()

    @property
    def started(self) -> bool:
        """Whether workers have started."""
        return (self.path / "started").exists()

    def start(self) -> bool:
        """Note that a worker starts; whether workers had started before."""
        try:
            (self.path / "started").touch(exist_ok=False)
        except FileExistsError:
            return True
        return False

    def end(self, rank: int, ended: Ended) -> None:
        """Note why worker `rank` does not go on."""
        write_text_atomically(self.path / f"ended-{rank}", json.dumps([ended.kind, ended.message]))

    def ended(self) -> Ended | None:
        """Why workers ended, if one said so; what a person can correct comes first."""
        found = [Ended(*json.loads(file.read_text(encoding="utf-8"))) for file in sorted(self.path.glob("ended-*"))]
        return min(found, key=lambda one: one.kind == "raised", default=None)

    def watch(self) -> None:
        """End this worker's process, from a thread, as soon as it has to."""

        def watching() -> None:
            while not self.stopped:
                pause.wait(_POLL_SECONDS)
            os._exit(_LEFT_BY_ITS_STARTER)

        pause = threading.Event()
        threading.Thread(target=watching, name="recbole-diff-watch", daemon=True).start()


class Terminal(io.TextIOWrapper):
    """A worker's standard error, which another process shows.

    Args:
        path: the file; it is appended to.
        is_terminal: whether it is shown on a terminal, where progress bars move.
    """

    def __init__(self, path: Path, *, is_terminal: bool) -> None:
        super().__init__(path.open("ab", buffering=0), encoding="utf-8", errors="replace", write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it ends on a terminal."""
        return self.is_terminal


class Echo:
    """Copies a growing file to standard error, from a thread, while it is entered.

    Args:
        path: the file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="recbole-diff-echo", daemon=True)

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._copy()

    def _follow(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            self._copy()

    def _copy(self) -> None:
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            stream.seek(self._place)
            text = stream.read()
            cut = len(text) - (0 if self._done.is_set() else _incomplete(text))
            self._place += cut
            sys.stderr.write(text[:cut].decode("utf-8", errors="replace"))
            sys.stderr.flush()


def _incomplete(text: bytes) -> int:
    """How many bytes at the end are the beginning of a UTF-8 character."""
    for back in range(1, min(4, len(text) + 1)):
        byte = text[-back]
        if byte >= 0xC0:
            return back if back < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2) else 0
        if byte < 0x80:
            return 0
    return 0
