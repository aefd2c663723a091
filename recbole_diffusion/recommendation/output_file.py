"""The file that recommendations are written to, checked before anything is read or ranked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recbole_diffusion.errors import UserError

SUFFIXES = ("", ".parquet", ".pq")


def check_output(output: Path, inputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that could not be written at the end, or would replace what is read.

    Args:
        output: the Parquet file.
        inputs: what is read, a file or a folder, by the name of its key; None for what is not given.

    Raises:
        UserError: it is a folder, has the suffix of another kind of file, or is an input or lies in one.
    """
    if output.is_dir():
        raise UserError(f"--output is the folder {output}; give a file in it, as {output / 'lists.parquet'}")
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output is {output.name}, but Parquet is what is written; name it {output.stem}.parquet")
    place = output.resolve()
    for name, path in inputs.items():
        if path is None:
            continue
        read = path.resolve()
        if place == read or (read.is_dir() and read in place.parents):
            where = "the same file" if place == read else "a file in it"
            raise UserError(f"--output is {where} as --{name} {path}, which would be lost; give another --output")
