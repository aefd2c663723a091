"""From a table of interactions of any make to RecBole's atomic files: ``recbole-diff prepare``.

    prepare("ratings.csv.gz", "mine", user="customer", time="bought_at")   ->   dataset/mine/mine.inter

CSV, TSV and other text, compressed or not, or Parquet, one file or a folder of parts, goes through in pieces: memory
does not grow with the file, apart from 8 bytes for each user and item. Nothing is guessed unless only one thing can
be meant, nothing is dropped or changed unless a key says so, and whatever happened is counted and said. A file
appears when it is whole and has been read back (docs/decisions/053-prepare.md).
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from recbole_diffusion.data.atomic_fields import TYPES
from recbole_diffusion.data.atomic_writing import DistinctTokens, StagingFolder
from recbole_diffusion.data.tables.conversion import Field, Treatment, open_tables, write_atomic_file
from recbole_diffusion.data.tables.dialects import TextFormat
from recbole_diffusion.data.tables.files import TableFile, counted, table_paths
from recbole_diffusion.data.tables.roles import ROW, find_column, guess_column, kept_column
from recbole_diffusion.data.tables.times import TimeColumn
from recbole_diffusion.data.tables.values import NumberColumn
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import properties_directory

# RecBole's names of the fields, by the key that changes them.
FIELDS = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp", "RATING_FIELD": "rating"}
BAD_ROWS = ("refuse", "drop")


@dataclass(frozen=True)
class FeatureTable:
    """A table with features of items or users.

    Attributes:
        path: the file or folder.
        key: the column with the item or user; None looks for it by name.
        keep: columns as ``NAME`` or ``NAME:TYPE``; None keeps all.
        columns: names of the columns of a text without a header.
        separator, quote, encoding, skip_lines: how its text is written, as in :func:`prepare`; what is said there
            about the interactions does not hold here.
    """

    path: str | Path
    key: str | None = None
    keep: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    separator: str | None = None
    quote: str | None = None
    encoding: str | None = None
    skip_lines: int = 0

    def text_format(self, key_prefix: str) -> TextFormat:
        """What is said about its text."""
        columns = None if self.columns is None else tuple(self.columns)
        return TextFormat(self.separator, self.quote, self.encoding, columns, self.skip_lines, key_prefix)


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` has made.

    Attributes:
        folder: the dataset's folder.
        files: the files written, the ``.inter`` file first.
        interactions, users, items: how many.
        fields: field of the ``.inter`` file -> column that it comes from.
        dropped: why rows were left out -> how many.
        times: the first and last time, for a person.
        notes: what was guessed, altered, or may surprise.
        command: what to run next.
    """

    folder: Path
    files: tuple[Path, ...]
    interactions: int
    users: int
    items: int
    fields: dict[str, str]
    dropped: dict[str, int]
    times: str
    notes: tuple[str, ...]
    command: str


def prepare(
    input: str | Path,
    dataset: str,
    *,
    data_path: str | Path = "dataset",
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    keep: Sequence[str] = (),
    items: FeatureTable | None = None,
    users: FeatureTable | None = None,
    separator: str | None = None,
    quote: str | None = None,
    encoding: str | None = None,
    columns: Sequence[str] | None = None,
    skip_lines: int = 0,
    time_format: str | None = None,
    time_unit: str | None = None,
    sequence_separator: str = " ",
    bad_rows: str = "refuse",
    replace: str | None = None,
    trim: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Prepared:
    """Write ``data_path/dataset/dataset.inter`` (and ``.item``, ``.user``) from tables of other kinds.

    Args:
        input: CSV, TSV or other text (plain, gzip, bzip2, xz, zstd, lz4), Parquet, or a folder of parts of one table.
        dataset: the name it gets.
        data_path: the folder that holds the datasets' folders.
        user: the column of users; None takes the one that alone is named so.
        item: the column of items, likewise.
        time: the column of times, likewise; ``row`` is the order of the rows.
        rating: a column that becomes ``rating:float``.
        keep: further columns, ``NAME`` or ``NAME:TYPE``, type one of RecBole's four.
        items: features of items, which become the ``.item`` file.
        users: features of users, which become the ``.user`` file.
        separator: what stands between fields of ``input`` where it is text.
        quote: ``"`` if values may stand in quotes there, ``none`` if quotes are ordinary characters.
        encoding: its encoding.
        columns: names of its columns where it has no header.
        skip_lines: lines before its header.
        time_format: how dates are written, as for ``strptime``; ISO dates and numbers need none.
        time_unit: what numbers in the time column count (s, ms, us, ns), which become seconds; None keeps them.
        sequence_separator: what separates the elements in text of a ``token_seq`` or ``float_seq`` column.
        bad_rows: ``refuse`` ends at the first row that cannot be taken, ``drop`` leaves such rows out and counts them.
        replace: what is put for tabs and line ends inside tokens (and blanks inside elements of sequences).
        trim: take white space off the ends of tokens.
        overwrite: replace files that are there.
        show_progress: show a progress bar on standard error.

    Raises:
        UserError: a file is damaged or not as it must be, a value cannot be taken, a column is missing or could be
            several, the files are there already, the disk is full. Nothing is left behind.
    """
    folder = _folder(Path(data_path), dataset)
    if bad_rows not in BAD_ROWS:
        raise UserError(f"bad_rows is {bad_rows!r}; allowed: {', '.join(BAD_ROWS)}")
    if replace is not None and set(replace) & set("\t\n\r\0 "):
        raise UserError(f"replace is {replace!r}; it must be text without blanks, tabs and line ends, e.g. _")
    if sequence_separator == "":
        raise UserError("sequence_separator is empty; it is what separates elements, e.g. |")
    if time == ROW and (time_format or time_unit):
        raise UserError("time=row is the order of the rows: leave out time_format and time_unit")
    times = TimeColumn(time or "", format=time_format, unit=time_unit)
    format = TextFormat(separator, quote, encoding, None if columns is None else tuple(columns), skip_lines)
    tables_of = {"item": items, "user": users}
    formats = {role: one.text_format(f"{role}s_") for role, one in tables_of.items() if one is not None}
    treatment = Treatment(bad_rows == "drop", replace, trim, sequence_separator, show_progress)
    suffixes = [".inter", *([".item"] if items is not None else []), *([".user"] if users is not None else [])]
    targets = [folder / f"{dataset}{suffix}" for suffix in suffixes]
    _check_targets(folder, targets, overwrite, treatment)
    names = field_names(dataset)
    user_field, item_field = names["USER_ID_FIELD"], names["ITEM_ID_FIELD"]
    distinct = {user_field: DistinctTokens(), item_field: DistinctTokens()}
    try:
        with StagingFolder(folder) as staging:
            tables = open_tables(table_paths(Path(input)), format, treatment)
            wanted = {"user": user, "item": item, "time": time, "rating": rating}
            fields = _interaction_fields(tables[0], names, wanted, keep, times, treatment)
            rows = write_atomic_file(tables, fields, staging.path / targets[0].name, treatment, distinct)
            used = {field.name for field in fields}
            for role, field, features in (("item", item_field, items), ("user", user_field, users)):
                if features is not None:
                    parts = open_tables(table_paths(Path(features.path)), formats[role], treatment)
                    target = staging.path / f"{dataset}.{role}"
                    key = Field(field, "token", None, role)
                    used |= _write_features(features, parts, key, target, treatment, distinct[field], used)
            staging.publish()
    except OSError as error:
        raise UserError(f"cannot write {targets[0]}: {error.strerror or error}; nothing is left behind") from error
    command = ["recbole-diff", "--model=DiffuRec", f"--dataset={dataset}", f"--data_path={data_path}"]
    return Prepared(
        folder=folder,
        files=tuple(targets),
        interactions=rows,
        users=len(distinct[user_field]),
        items=len(distinct[item_field]),
        fields={field.name: ROW if field.column is None else field.column.name for field in fields},
        dropped=treatment.dropped,
        times=f"the order of the rows, 1 to {rows}" if time == ROW else times.span,
        notes=tuple(treatment.notes),
        command=shlex.join(command),
    )


def field_names(dataset: str) -> dict[str, str]:
    """The names of the fields of a dataset: RecBole's, or those that ``properties/dataset/<dataset>.yaml`` sets."""
    path = properties_directory() / "dataset" / f"{dataset}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return {key: str((given or {}).get(key, name)) for key, name in FIELDS.items()}


def _folder(data_path: Path, dataset: str) -> Path:
    proper = dataset.strip() == dataset != "" and not dataset.startswith((".", "-"))
    if not proper or any(character in '/\\:*?"<>|' or not character.isprintable() for character in dataset):
        raise UserError(f"dataset is {dataset!r}; it must be a name that a folder can have, e.g. my-data")
    return data_path / dataset


def _check_targets(folder: Path, targets: Sequence[Path], overwrite: bool, treatment: Treatment) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is there and is no folder; change dataset or data_path")
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} is there already; choose another dataset, or replace it with overwrite")
    if folder.is_dir():
        others = [path.name for path in sorted(folder.glob(f"{folder.name}.*")) if path not in targets]
        if others:
            treatment.note(f"{folder} also holds {', '.join(others)}, which runs will read as well")


def _refuse_atomic(table: TableFile) -> None:
    if all(name.rpartition(":")[0] and name.rpartition(":")[2] in TYPES for name in table.names):
        place = f"data_path/NAME/NAME{table.path.suffix}"
        raise UserError(f"{table.path}: this is an atomic file already; put it at {place} and run it")


def _interaction_fields(
    table: TableFile,
    names: dict[str, str],
    wanted: dict[str, str | None],
    keep: Sequence[str],
    times: TimeColumn,
    treatment: Treatment,
) -> list[Field]:
    """The fields of the ``.inter`` file, each with the column that fills it."""
    _refuse_atomic(table)
    if wanted["time"] == ROW and ROW in table.names:
        raise UserError(f"{table.path}: time=row means the order of the rows, but a column has that name: rename it")
    found = {
        role: find_column(table, name, role)
        for role, name in wanted.items()
        if name is not None and not (role == "time" and name == ROW)
    }
    for role in ("user", "item", "time"):
        if wanted[role] is None:
            found[role] = guess_column(table, role, role, tuple(found.values()))
            treatment.note(f"{table.path}: column {found[role]!r} is taken as the {role}")
    times.name = found.get("time", ROW)
    fields = [
        Field(names["USER_ID_FIELD"], "token", treatment.identifier(found["user"]), "user"),
        Field(names["ITEM_ID_FIELD"], "token", treatment.identifier(found["item"]), "item"),
        Field(names["TIME_FIELD"], "float", times if "time" in found else None, "time"),
    ]
    if "rating" in found:
        fields.append(Field(names["RATING_FIELD"], "float", NumberColumn(found["rating"])))
    sources = list(found.values())
    for text in keep:
        kept = kept_column(table, text, "keep")
        if kept.name in sources:
            raise UserError(f"keep={text}: that column is in the file already")
        if kept.name in {field.name for field in fields}:
            raise UserError(f"keep={text}: there is a field of that name already; rename the column")
        fields.append(Field(kept.name, kept.type, treatment.column(kept)))
        sources.append(kept.name)
    for name in sources:
        if sources.count(name) > 1:
            roles = " and ".join(role for role, source in found.items() if source == name)
            raise UserError(f"{table.path}: column {name!r} cannot be the {roles} at once")
    left = [name for name in table.names if name not in sources]
    named = [name for name in left if name.strip()]
    if named:
        treatment.note(f"{table.path}: left out are the columns {', '.join(named)} (keep= takes them in)")
    if len(named) < len(left):
        treatment.note(f"{table.path}: left out: {counted(len(left) - len(named), 'column')} without a name")
    return fields


def _write_features(
    features: FeatureTable,
    tables: Sequence[TableFile],
    field: Field,
    target: Path,
    treatment: Treatment,
    seen: DistinctTokens,
    used: set[str],
) -> set[str]:
    """Write a ``.item`` or ``.user`` file for the ids ``seen`` in the interactions; return its features' names."""
    role = field.role
    first = tables[0]
    _refuse_atomic(first)
    if features.key is not None:
        key = find_column(first, features.key, f"{role}s_key")
    else:
        key = guess_column(first, role, f"{role}s_key")
        treatment.note(f"{first.path}: column {key!r} is taken as the {role}")
    keep = [name for name in first.names if name != key] if features.keep is None else features.keep
    kept = [kept_column(first, text, f"{role}s_keep") for text in keep]
    if not kept:
        raise UserError(f"{first.path}: no column beside {key!r}, so there are no features; leave {role}s out")
    names = [column.name for column in kept]
    for name in names:
        if name == key or name in used or names.count(name) > 1:
            remedy = f"rename it, or name other columns in {role}s_keep"
            raise UserError(f"{first.path}: {name!r} is a field already; {remedy}")
    if features.keep is None:
        said = ", ".join(f"{column.name}:{column.type}" for column in kept)
        treatment.note(f"{first.path}: all columns are kept, as {said} ({role}s_keep= chooses columns and types)")
    fields = [dataclasses.replace(field, column=treatment.identifier(key))]
    fields += [Field(column.name, column.type, treatment.column(column)) for column in kept]
    there = DistinctTokens()
    rows = write_atomic_file(tables, fields, target, treatment, {field.name: there})
    if rows > len(there):
        treatment.note(
            f"{first.path}: {counted(rows - len(there), 'row')} with the {role} of an earlier one, which runs take"
        )
    without = int((~np.isin(seen.hashes(), there.hashes())).sum())
    if without == len(seen):
        raise UserError(f"{first.path}: none of the {role}s of the interactions is in column {key!r}; set {role}s_key")
    if without:
        treatment.note(
            f"{first.path}: {without} of {len(seen)} {role}s have no row; runs leave out their interactions unless "
            "filter_inter_by_user_or_item is False"
        )
    return set(names)
