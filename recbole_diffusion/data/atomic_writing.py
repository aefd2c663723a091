"""Writing atomic files: row by row into a folder of its own, put in place when all is whole.

Whatever ends the work before that - a mistake in the data, a full disk, Ctrl-C - leaves nothing behind. What a killed
process leaves is a hidden folder beside the dataset, which the next preparation of that dataset removes.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_diffusion.errors import UserError

logger = getLogger(__name__)


class AtomicWriter:
    """Writes one atomic file.

    Args:
        path: the file to create.
        header: its fields, ``name:type``.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        self.rows = 0
        self._file = path.open("wb")
        self._file.write(("\t".join(header) + "\n").encode())

    def write(self, columns: Sequence[pa.Array]) -> None:
        """Append rows: one array of text for each field, without nulls, tabs and line ends."""
        parts: list[pa.Array | str] = []
        for column in columns:
            parts += [column, "\t"]
        parts[-1] = "\n"
        lines = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")
        _, offsets, data = lines.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int32)[lines.offset : lines.offset + len(lines) + 1]
        if len(lines):
            self._file.write(memoryview(data)[bounds[0] : bounds[-1]])
        self.rows += len(lines)

    def close(self) -> None:
        """Put everything on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> AtomicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


class StagingFolder:
    """A hidden folder beside a dataset's folder, whose files :meth:`publish` puts into the latter.

    Args:
        folder: the dataset's folder, there or not.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve() if folder.is_symlink() else folder  # renaming works on one disk only
        self._folder = folder
        self._prefix = f".{folder.name}-prepare-{socket.gethostname()}-"
        self.path = folder.parent / f"{self._prefix}{os.getpid()}"
        self._created: list[Path] = []

    def __enter__(self) -> StagingFolder:
        parent = self._folder.parent
        self._created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._remove_dead()
            self.path.mkdir()
        except OSError as error:
            self._clear()
            raise UserError(f"cannot write to {parent}: {error.strerror or error}; change data_path") from error
        except BaseException:  # Ctrl-C in between
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self._clear()

    def _clear(self) -> None:
        """Remove everything that was made here."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:  # absent, or something else has come into it
                continue

    def publish(self) -> None:
        """Put the files in place: the whole folder at once where there is none yet, else file by file."""
        names = sorted(path.name for path in self.path.iterdir())
        if not self._folder.exists():
            try:
                self.path.rename(self._folder)
                return
            except OSError:  # it has come into being meanwhile
                if not self._folder.exists():
                    raise
        for name in sorted(names, key=lambda name: name.endswith(".inter")):  # what everything begins with comes last
            (self.path / name).replace(self._folder / name)

    def _remove_dead(self) -> None:
        """Remove what processes that run no more on this host have left."""
        for left in self._folder.parent.glob(f"{self._prefix}*"):
            number = left.name.removeprefix(self._prefix)
            if number.isdigit() and (int(number) == os.getpid() or not _runs(int(number))):
                logger.info("removing %s, left by a preparation that was killed", left)
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process runs on this host; where that cannot be asked, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class DistinctTokens:
    """Counts different tokens in batches of them by their 64-bit hashes: 8 bytes a token, whatever its length.

    Of ten million tokens two share a hash with a probability of about 3 in a million.
    """

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []

    def add(self, tokens: pa.Array) -> None:
        """Take note of some tokens."""
        distinct = pc.unique(tokens).to_numpy(zero_copy_only=False)
        self._sorted.append(np.sort(pd.util.hash_array(distinct, categorize=False)))
        # As in a merge sort: sets of like size are merged, so that the work stays close to proportional.
        while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
            self._sorted.append(_merged(self._sorted.pop(), self._sorted.pop()))

    def hashes(self) -> np.ndarray:
        """(tokens,) the hash of every token, sorted."""
        while len(self._sorted) > 1:
            self._sorted.append(_merged(self._sorted.pop(), self._sorted.pop()))
        return self._sorted[0] if self._sorted else np.zeros(0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.hashes())


def _merged(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The different numbers of two sorted arrays, sorted."""
    both = np.concatenate([one, other])
    both.sort(kind="stable")  # merges what is sorted in parts already, in time proportional to its length
    return both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both
