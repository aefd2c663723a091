"""The word ``prepare`` of the command line: its keys, and what it prints."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_diffusion.command_options import converted, messages, truth
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import properties_directory

if TYPE_CHECKING:
    from recbole_diffusion.data.prepare import Prepared

OPTIONS: dict[str, str] = {
    "input": "FILE with interactions: CSV, TSV ... (also compressed) or Parquet; or a FOLDER of parts",
    "dataset": "NAME that the dataset gets",
    "data_path": "FOLDER that holds the datasets' folders (default: dataset)",
    "user": "COLUMN of users (default: the one whose name alone says so; likewise item and time)",
    "item": "COLUMN of items",
    "time": "COLUMN of times: numbers or dates; row: the order of the rows",
    "rating": "COLUMN that becomes rating:float",
    "keep": "COLUMN,COLUMN:TYPE,... that are kept too; TYPE is token, float, token_seq or float_seq",
    "separator": "what stands between its fields: ',' or tab, semicolon, pipe, space, '::' (default: found out)",
    "quote": "'\"' where values may stand in quotes, none where quotes are ordinary characters",
    "encoding": "its text's encoding, e.g. cp1252 (default: utf-8)",
    "columns": "NAME,NAME,... of its columns where it has no header",
    "skip_lines": "NUMBER of lines before its header",
    "time_format": "how dates are written, e.g. %d.%m.%Y %H:%M; numbers and ISO dates need none",
    "time_unit": "s, ms, us or ns: what numbers in the time column count (default: kept as they are)",
    "sequence_separator": "what separates elements in the text of a sequence, e.g. '|' (default: a blank)",
    "bad_rows": "refuse: end at the first row that cannot be taken (default); drop: leave such rows out",
    "replace": "TEXT put for tabs and line ends in tokens, e.g. _ (default: refused)",
    "items": "FILE with features of items, which becomes the .item file",
    "items_key": "COLUMN of items in it",
    "items_keep": "COLUMN,COLUMN:TYPE,... to take from it (default: all)",
    "items_columns": "NAME,NAME,... of its columns where it has no header",
    "items_separator": "what stands between its fields (likewise quote, encoding, skip_lines; default: as above)",
    "items_quote": "'\"' or none",
    "items_encoding": "its text's encoding",
    "items_skip_lines": "NUMBER of lines before its header",
    "users": "FILE with features of users, which becomes the .user file",
    "users_key": "COLUMN of users in it",
    "users_keep": "COLUMN,COLUMN:TYPE,... to take from it (default: all)",
    "users_columns": "NAME,NAME,... of its columns where it has no header",
    "users_separator": "what stands between its fields (likewise quote, encoding, skip_lines; default: as above)",
    "users_quote": "'\"' or none",
    "users_encoding": "its text's encoding",
    "users_skip_lines": "NUMBER of lines before its header",
    "show_progress": "False: no progress bar",
}
FLAGS: dict[str, str] = {
    "trim": "take white space off the ends of tokens",
    "overwrite": "replace files that are there",
}
USAGE = "--input=FILE --dataset=NAME"
WRITES = "writes DATA_PATH/NAME/NAME.inter"
EXAMPLES = """\
examples:
  recbole-diff prepare --input=ratings.csv.gz --dataset=mine --user=customer --item=sku --time=bought_at
  recbole-diff prepare --input=ratings.dat --dataset=ml-10m --columns=user_id,item_id,rating,timestamp --rating=rating
  recbole-diff prepare --input=yoochoose-buys.dat --dataset=yoochoose --columns=session_id,time,item_id,price,quantity
  recbole-diff prepare --input=clicks.parquet --dataset=clicks --items=products.csv --items_keep=title,price:float
"""

_LISTS = ("keep", "columns")
_TABLE_TEXTS = ("key", "separator", "quote", "encoding")
_TABLE_KEYS = (*_TABLE_TEXTS, *_LISTS, "skip_lines")


def run(options: Mapping[str, str], flags: set[str], program: str) -> str:
    """Prepare a dataset and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        program: what the command line is called, for the next command.

    Raises:
        UserError: a key is missing or of no use, or what :func:`recbole_diffusion.data.prepare.prepare` refuses.
    """
    from recbole_diffusion.data.prepare import FeatureTable, prepare

    for key in ("input", "dataset"):
        if key not in options:
            raise UserError(f"prepare needs --{key}={OPTIONS[key].split()[0]}")
    tables: dict[str, FeatureTable] = {}
    for role in ("items", "users"):
        of_table = {key: options[f"{role}_{key}"] for key in _TABLE_KEYS if f"{role}_{key}" in options}
        if of_table and role not in options:
            raise UserError(f"--{role}_{next(iter(of_table))} goes with --{role}=FILE, which is not given")
        if role in options:
            texts = {key: of_table[key] for key in _TABLE_TEXTS if key in of_table}
            lists = {key: _names(f"{role}_{key}", of_table[key]) for key in _LISTS if key in of_table}
            skip = converted(options, f"{role}_skip_lines", int, "a number of lines") or 0
            given: dict[str, Any] = {**texts, **lists, "skip_lines": skip}
            tables[role] = FeatureTable(options[role], **given)
    texts = {
        key: options[key]
        for key in OPTIONS
        if key in options
        and key not in ("input", "dataset", *_LISTS, "skip_lines", "show_progress")
        and not key.startswith(("items", "users"))
    }
    with messages():
        made = prepare(
            options["input"],
            options["dataset"],
            keep=_names("keep", options.get("keep", "")),
            columns=_names("columns", options["columns"]) if "columns" in options else None,
            skip_lines=converted(options, "skip_lines", int, "a number of lines") or 0,
            show_progress=converted(options, "show_progress", truth, "True or False") is not False,
            trim="trim" in flags,
            overwrite="overwrite" in flags,
            items=tables.get("items"),
            users=tables.get("users"),
            **texts,
        )
    return _report(made, program)


def _names(key: str, text: str) -> list[str]:
    """Names separated by commas; one with a comma in it stands in quotes."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if text and not all(names):
        raise UserError(f"--{key}={text}: a name is empty; write NAME,NAME,...")
    return names


def _report(made: Prepared, program: str) -> str:
    origins = ", ".join(f"{field} from {column}" for field, column in made.fields.items())
    lines = [
        f"{made.interactions:,} interactions of {made.users:,} users with {made.items:,} items",
        f"fields: {origins}",
        f"times: {made.times}",
    ]
    if made.dropped:
        lines.append("left out: " + ", ".join(f"{count:,} ({kind})" for kind, count in made.dropped.items()))
    lines += [f"written: {path}" for path in made.files]
    preset = properties_directory() / "dataset" / f"{made.folder.name}.yaml"
    if preset.is_file():
        lines.append(f"filters: those of {preset}")
    else:
        core = "--user_inter_num_interval='[5,inf)' --item_inter_num_interval='[5,inf)'"
        lines.append(f"filters: none; the papers keep users and items with 5 interactions or more: {core}")
    command = shlex.split(made.command)
    return "\n".join([*lines, f"next: {program} {shlex.join(command[1:])}"])
