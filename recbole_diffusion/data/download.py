"""Datasets that are not on this machine: RecBole's download table, fetched so that a failure leaves nothing behind.

RecBole 1.2.1 downloads into the dataset's folder itself, so that an interrupted download leaves a folder that the next
run takes for the dataset; it calls ``torch.distributed.barrier()`` in a single process, where that fails; it asks a
question on the terminal; and it needs a ``Content-Length``. Here an archive is fetched, checked and unpacked in a
temporary folder beside the target, which is renamed into place once it is whole (docs/decisions/022-downloads.md).
"""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from logging import getLogger
from pathlib import Path

import yaml
from tqdm import tqdm

from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

# Names used here and in the papers for datasets that RecBole's table has under another name.
OTHER_NAMES: Mapping[str, str] = {
    "amazon-book": "amazon-books",
    "amazon-toys": "amazon-toys-games",
    "steam": "steam-not-merged",
    "yoochoose": "yoochoose-buys-not-merged",
}

ATOMIC_SUFFIXES = (".inter", ".user", ".item", ".kg", ".link", ".net")
TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 20


def url_table(kind: str = "url") -> dict[str, str]:
    """RecBole's table of downloads, dataset name to address; ``kind`` is ``url`` or ``kg_url``."""
    import recbole.data.dataset.dataset as recbole_dataset

    folder = Path(recbole_dataset.__file__).resolve().parents[2] / "properties" / "dataset"
    table: dict[str, str] = yaml.safe_load((folder / f"{kind}.yaml").read_text(encoding="utf-8"))
    return table


def nearest_names(name: str, folder: Path) -> list[str]:
    """Datasets with a name like ``name``: folders beside it that hold an ``.inter`` file, and RecBole's table."""
    here: list[str] = []
    if folder.is_dir():
        here = sorted(path.name for path in folder.iterdir() if (path / f"{path.name}.inter").is_file())
    names = list(dict.fromkeys([*here, *OTHER_NAMES, *url_table()]))
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    return near or [other for other in here if name.lower() in other.lower()][:3]


def fetch_dataset(name: str, url: str, folder: Path, *, show_progress: bool = True) -> None:
    """Download the zip archive at ``url`` and put its atomic files into ``folder`` as ``name.inter``, ``name.item`` ...

    Args:
        name: name the dataset gets; the archive may use another one for its files.
        url: address of a zip archive.
        folder: folder to create. It appears only when it is complete.
        show_progress: show a progress bar.

    Raises:
        UserError: no network, the address does not answer, the transfer stops early, the archive is damaged or holds
            no ``.inter`` file, the disk is full. Nothing is left behind, also when the download is interrupted.
    """
    wanted = folder / f"{name}.inter"
    try:
        with _created_parents(folder), _temporary_folder(folder) as temporary:
            archive = temporary / "archive.zip"
            _transfer(url, archive, show_progress)
            unpacked = temporary / "files"
            _unpack(archive, unpacked)
            _rename_files(unpacked, Path(url).stem, name)
            try:
                unpacked.replace(folder)
            except OSError:
                if not wanted.is_file():  # another run may have put the same dataset there meanwhile
                    raise
    except UserError as error:
        raise UserError(f"{absent(name, folder)}; download of {url}: {error}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{absent(name, folder)}; download of {url} failed: {reason}") from error
    logger.info("dataset %s: downloaded from %s to %s", name, url, folder)


def absent(name: str, folder: Path) -> str:
    """The message for a dataset that is not there: what is wanted, where, and which key says where."""
    return (
        f"dataset {name!r} is not on this machine: wanted {folder / name}.inter "
        f"(put it there, or set data_path to the folder that holds {name}/)"
    )


@contextmanager
def _created_parents(folder: Path) -> Iterator[None]:
    """Create the folders above ``folder``; on failure remove those that were created here."""
    parents = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in parents:
            try:
                parent.rmdir()
            except OSError:  # another run has put something there
                break
        raise


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder on the same disk as ``folder``, removed afterwards whatever happens."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-download-", dir=folder.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _transfer(url: str, target: Path, show_progress: bool) -> None:
    """Write what ``url`` gives to ``target``, all of it."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as file:
        length = response.headers.get("Content-Length")
        size = int(length) if length is not None and length.isdigit() else None
        shown = "of unknown size" if size is None else f"{size / 1e6:.1f} MB"
        logger.info("downloading %s (%s)", url, shown)
        free = shutil.disk_usage(target.parent).free
        if size is not None and 2 * size > free:
            raise UserError(f"needs more than {2 * size / 1e9:.1f} GB on disk, {free / 1e9:.1f} GB are free")
        received = 0
        with tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=not show_progress) as bar:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if size is not None and received != size:
        raise UserError(f"the transfer stopped after {received} of {size} bytes; try again")


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the files of a zip archive; damaged members and names that lead out of ``target`` are refused."""
    target.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                path = (target / member.filename).resolve()
                if not path.is_relative_to(target.resolve()):
                    raise UserError(f"the archive holds the unsafe file name {member.filename!r}")
            opened.extractall(target)  # checks every member's CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"what it gave is no intact zip archive ({error}); try again") from error
    archive.unlink()


def _rename_files(folder: Path, old_name: str, new_name: str) -> None:
    """Give the atomic files of an archive the dataset's name: ``Amazon_Beauty.inter`` to ``amazon-beauty.inter``."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in ATOMIC_SUFFIXES and path.parent != folder and "__MACOSX" not in path.parts:
            path.replace(folder / path.name)
    inters = sorted(path.name for path in folder.glob("*.inter"))
    stems = {name.split(".")[0] for name in inters}
    if f"{new_name}.inter" not in inters and not any(name.startswith(f"{old_name}.") for name in inters):
        if len(stems) != 1:
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise UserError(f"the archive holds no single dataset (.inter file): {found}")
        old_name = stems.pop()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.startswith(f"{old_name}."):
            path.rename(folder / (new_name + path.name[len(old_name) :]))


def wait_for_others() -> None:
    """Barrier between the processes of a distributed run; does nothing in a single process."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def listing(folder: Path, longest: int = 5) -> str:
    """The names in ``folder`` for a message."""
    names = sorted(os.listdir(folder))
    more = f" and {len(names) - longest} more" if len(names) > longest else ""
    return (", ".join(names[:longest]) + more) or "nothing"
