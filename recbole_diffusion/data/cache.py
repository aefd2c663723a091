"""A cache on disk: named arrays and some facts under a key that says what they were made from.

An entry is a folder named by its key::

    <folder>/<key>/entry.json      facts; of every array its name, type, shape and SHA-256; a SHA-256 of all that
    <folder>/<key>/0.bin 1.bin ..  the arrays, as they lie in memory

What is found is complete and unaltered, or is not found: an entry is written beside its place, put on disk and renamed,
and on loading sizes and checksums of all files are compared. Arrays come back memory-mapped, read-only: what is not
looked at takes no memory. Nothing is pickled. A cache is never needed: where it cannot be read or written there is a
warning and the run goes on. Why it is as it is: docs/decisions/052-cache.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import IO, Any

import numpy as np

from recbole_diffusion.data.progress import progress

logger = getLogger(__name__)

FORMAT_VERSION = 1

_MANIFEST = "entry.json"
_KINDS = "?biufcmMSU"  # types of arrays whose bytes are all there is to them
_BLOCK_BYTES = 1 << 22
_LEFTOVER = re.compile(r"\.writing-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{16}")
_LONGEST_WRITE = 24 * 3600  # seconds; what is older was left behind, whoever wrote it


@dataclass(frozen=True)
class Entry:
    """What was stored.

    Attributes:
        arrays: name -> array, read-only; memory-mapped (``np.memmap``) where it has any element.
        facts: what was stored with them, as JSON keeps it (tuples have become lists).
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class _DamagedError(Exception):
    """An entry is not what was stored."""


# ------------------------------------------------------------------------------------------------------ where, which


def default_folder() -> Path:
    """The user's cache folder: ``$XDG_CACHE_HOME/recbole_diffusion``, else ``~/.cache/recbole_diffusion``.

    For a user without a home it lies in the folder for temporary files. The folder need not exist.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the XDG specification: a relative path is to be ignored
        return Path(given) / "recbole_diffusion"
    try:
        return Path.home() / ".cache" / "recbole_diffusion"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "recbole_diffusion"


def cache_key(files: Sequence[Path], settings: Mapping[str, Any], *, show_progress: bool = False) -> str:
    """The key of what is made from these files with these settings.

    Args:
        files: the sources, in an order of meaning; their names and contents count, their folders and times do not.
        settings: whatever else the result depends on, the version of the code that makes it included; JSON values.
        show_progress: a bar on standard error when reading takes more than two seconds.

    Returns:
        64 hexadecimal digits: SHA-256 over the contents, the settings as canonical JSON, and the format of the cache.

    Raises:
        OSError: a file cannot be read.
        TypeError: the settings hold something that JSON cannot.
    """
    sizes = [path.stat().st_size for path in files]
    sources = []
    with progress("Comparing files with the cache", sum(sizes), "B", shown=show_progress) as bar:
        for path in files:
            sources.append([path.name, _digest(_file_blocks(path), bar.update)])
    content = {"format": FORMAT_VERSION, "files": sources, "settings": _as_json(dict(settings))}
    return _checksum(content)


def _entry_folder(folder: Path, key: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError(f"a key of the cache is 64 hexadecimal digits as cache_key returns them, got {key!r}")
    return folder / key


# -------------------------------------------------------------------------------------------------------------- load


def load(folder: Path, key: str, *, show_progress: bool = False) -> Entry | None:
    """The entry of a key, if there is one and it is what was stored.

    An entry with a file that is missing, truncated, altered or unreadable is named in a warning and removed.

    Args:
        folder: the cache.
        key: from :func:`cache_key`.
        show_progress: a bar on standard error when comparing checksums takes more than two seconds.

    Returns:
        The entry; None where there is none or it was damaged.
    """
    place = _entry_folder(folder, key)
    _remove_leftovers(folder)
    try:
        identity = _identity(place)
        while identity is not None:
            try:
                return _read_entry(place, show_progress)
            except (OSError, _DamagedError) as error:
                damage = _reason(error) if isinstance(error, OSError) else str(error)
            seen, identity = identity, _identity(place)
            if seen == identity:  # else somebody else has just removed or replaced it
                warning = "%s: the cached data is damaged (%s); it is removed and prepared again"
                logger.warning(warning, place, damage)
                _remove(place)
                return None
    except OSError as error:
        logger.warning("%s: the cache cannot be used (%s); the data is prepared again", folder, _reason(error))
    return None


def _identity(place: Path) -> tuple[int, int, int] | None:
    """What tells an entry from another one that takes its place; None where there is none."""
    try:
        found = os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _read_entry(place: Path, show_progress: bool) -> Entry:
    manifest = _read_manifest(place / _MANIFEST)
    paths = [place / f"{number}.bin" for number in range(len(manifest["arrays"]))]
    total = 0
    for path, array in zip(paths, manifest["arrays"], strict=True):
        size = path.stat().st_size
        if size != array["bytes"]:
            raise _DamagedError(f"{path.name} has {size} bytes instead of {array['bytes']}")
        total += size
    arrays = {}
    with progress("Checking the cache", total, "B", shown=show_progress) as bar:
        for path, array in zip(paths, manifest["arrays"], strict=True):
            if _digest(_file_blocks(path), bar.update) != array["sha256"]:
                raise _DamagedError(f"{path.name} is not what was written")
            arrays[array["name"]] = _map_array(path, np.dtype(array["dtype"]), tuple(array["shape"]))
    return Entry(arrays, manifest["facts"])


def _read_manifest(path: Path) -> dict[str, Any]:
    """The content of an entry's manifest, checked against its own checksum: what it says can be relied on."""
    try:
        manifest = json.loads(path.read_bytes())
        content = manifest["content"]
        if manifest["sha256"] != _checksum(content):
            raise _DamagedError(f"{path.name} is not what was written")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _DamagedError(f"{path.name} cannot be read") from None
    if content["format"] != FORMAT_VERSION:
        raise _DamagedError(f"{path.name} has format {content['format']}, this version reads {FORMAT_VERSION}")
    return dict(content)


def _map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape or dtype.itemsize == 0:  # an empty file cannot be mapped
        array = np.zeros(shape, dtype)
        array.setflags(write=False)
        return array
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


# ------------------------------------------------------------------------------------------------------------- store


def store(
    folder: Path,
    key: str,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    *,
    show_progress: bool = False,
) -> Path | None:
    """Write an entry: afterwards it is there as a whole, or not at all.

    An intact entry of that key, perhaps of another process, is left as it is: it has the same content.

    Args:
        folder: the cache; made if absent.
        key: from :func:`cache_key`.
        arrays: name -> array of numbers, booleans, times or text of a fixed width.
        facts: JSON values.
        show_progress: a bar on standard error when writing takes more than two seconds.

    Returns:
        The entry's folder; None, after a warning, where it cannot be written (folder not writable, disk full).

    Raises:
        TypeError: an array of objects or records, or facts that JSON cannot hold.
    """
    place = _entry_folder(folder, key)
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"the cache holds numbers, booleans, times and fixed-width text; {name!r} is {array.dtype}")
    kept_facts = _as_json(dict(facts))
    temporary = folder / _leftover_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary.mkdir()
        written = _write_entry(temporary, arrays, kept_facts, show_progress)
        if _put_in_place(temporary, place):
            logger.info("%s: prepared data kept for the next run, %.1f MB", place, written / 1e6)
        return place
    except OSError as error:
        logger.warning("%s: the cache cannot be written (%s); the run goes on without it", folder, _reason(error))
        return None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_entry(place: Path, arrays: Mapping[str, np.ndarray], facts: Any, show_progress: bool) -> int:
    """Write all files of an entry through to the disk; returns the bytes of its arrays."""
    described: list[dict[str, Any]] = []
    total = sum(array.nbytes for array in arrays.values())
    with progress("Writing the cache", total, "B", shown=show_progress) as bar:
        for number, (name, array) in enumerate(arrays.items()):
            with (place / f"{number}.bin").open("xb") as handle:
                checksum = _digest(_written(_array_blocks(array), handle), bar.update)
                _sync(handle)
            shape = list(array.shape)
            described.append(
                {"name": name, "dtype": array.dtype.str, "shape": shape, "bytes": array.nbytes, "sha256": checksum}
            )
    content = {"format": FORMAT_VERSION, "facts": facts, "arrays": described}
    with (place / _MANIFEST).open("xb") as handle:
        handle.write(_canonical_json({"sha256": _checksum(content), "content": content}))
        _sync(handle)
    _sync_folder(place)
    return total


def _put_in_place(temporary: Path, place: Path) -> bool:
    """Give a finished entry its name; False if an intact entry has that name already."""
    for _ in range(3):
        try:
            os.rename(temporary, place)
        except OSError as error:
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or os.path.lexists(place)
            if not taken:
                raise
            if load(place.parent, place.name) is not None:
                return False
        else:
            _sync_folder(place.parent)
            return True
    raise FileExistsError(errno.EEXIST, "a damaged entry is in the way and cannot be removed", str(place))


# -------------------------------------------------------------------------------------------------------- leftovers


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _leftover_name() -> str:
    return f".writing-{_host()}-{os.getpid()}-{secrets.token_hex(8)}"


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind: of this host and no longer alive, or a day old."""
    found = []
    with suppress(OSError):
        found = [(path, _LEFTOVER.fullmatch(path.name)) for path in folder.iterdir()]
    for path, name in found:
        if name is None:
            continue
        with suppress(OSError):
            gone = name["host"] == _host() and not _is_alive(int(name["process"]))
            if gone or time.time() - path.stat().st_mtime > _LONGEST_WRITE:
                logger.info("%s: removing what an interrupted run left behind", path)
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill(process, 0) would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _remove(place: Path) -> None:
    """Take an entry away in one step, so that nobody sees half of it."""
    aside = place.with_name(_leftover_name())
    os.rename(place, aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


# ------------------------------------------------------------------------------------------------------------- bytes


def _as_json(value: Any) -> Any:
    """What is left of a value after it has been written and read: lists for tuples, text for keys."""
    return json.loads(json.dumps(value))


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _checksum(content: Any) -> str:
    return hashlib.sha256(_canonical_json(content)).hexdigest()


def _digest(blocks: Iterable[bytes], report: Callable[[int], Any]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        report(len(block))
    return digest.hexdigest()


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            yield block


def _array_blocks(array: np.ndarray) -> Iterator[bytes]:
    flat = np.ascontiguousarray(array).reshape(-1)
    data = flat.view(np.uint8) if flat.nbytes else np.zeros(0, np.uint8)
    for begin in range(0, len(data), _BLOCK_BYTES):
        yield data[begin : begin + _BLOCK_BYTES].tobytes()


def _written(blocks: Iterable[bytes], handle: IO[bytes]) -> Iterator[bytes]:
    for block in blocks:
        handle.write(block)
        yield block


def _sync(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # a folder cannot be opened elsewhere
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    name = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    return f"{name}{error.strerror or error}"
