"""Tables as files: Markdown to read, LaTeX to print, CSV for a spreadsheet, parquet to compute with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from recbole_diffusion.benchmarking.latex_table import latex
from recbole_diffusion.benchmarking.markdown_page import markdown
from recbole_diffusion.benchmarking.printed import file_name
from recbole_diffusion.benchmarking.table_data import long_table, wide_csv
from recbole_diffusion.benchmarking.tables import ResultTable
from recbole_diffusion.errors import UserError

FORMATS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "parquet": ".parquet"}


def write_tables(
    tables: Sequence[ResultTable], folder: Path | str, formats: Iterable[str] = tuple(FORMATS)
) -> list[Path]:
    """Write each table in each format, `<dataset>_<protocol>` with the format's suffix; whole or not at all.

    Args:
        tables: of `build_tables`.
        folder: where; it is made.
        formats: markdown, latex, csv, parquet.

    Raises:
        UserError: an unknown format, or the folder cannot be written to.
    """
    folder, formats = Path(folder), list(formats)
    for word in formats:
        if word not in FORMATS:
            raise UserError(f"formats: {word!r} is unknown; allowed: {', '.join(FORMATS)}")
    written = []
    for table in tables:
        for word in formats:
            path = folder / f"{file_name(table)}{FORMATS[word]}"
            write_whole(path, _content(table, word, folder))
            written.append(path)
    return written


def _content(table: ResultTable, form: str, folder: Path) -> bytes:
    if form == "parquet":
        import pyarrow.parquet

        stream = io.BytesIO()
        pyarrow.parquet.write_table(long_table([table], folder), stream)
        return stream.getvalue()
    text = {"markdown": markdown, "latex": latex, "csv": wide_csv}[form](table, folder)
    return text.encode("utf-8")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its folder is made.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); give another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
