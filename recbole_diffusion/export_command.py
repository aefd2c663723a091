"""The word ``export`` of the command line: its keys, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_diffusion.command_options import OWN_CODE, converted, messages, own_code
from recbole_diffusion.errors import UserError

if TYPE_CHECKING:
    from recbole_diffusion.export.exporting import Export

OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "format": "safetensors: weights, for this package; torchexport: a program for torch; onnx: one for any runtime",
    "output": "FOLDER to make; it must not be there, or be empty",
    "histories": "FILE.parquet, or a FOLDER of them, to verify on, as for recommend (default: the run's test rows)",
    "data_path": "FOLDER that holds the datasets' folders, where it is no longer the run's",
    "own_code": OWN_CODE,
    "row_keys": "history: a program keys its noise by the history (default); input: by a second input, row_key",
    "verify_rows": "NUMBER of histories to verify on, at most (default: 256)",
    "tolerance": "NUMBER, the part of its largest entry by which a row's vectors may differ (default: 0.0001)",
    "list_length": "NUMBER of items of the lists that are compared (default: 20)",
    "licence": "TEXT, the licence of the data, for the model card (default: it says unknown)",
}
FLAGS: dict[str, str] = {}
USAGE = "--checkpoint=RUN_FOLDER --format=safetensors|torchexport|onnx --output=FOLDER"
WRITES = (
    "writes FOLDER: user encoder with its reverse chain, item vectors, items, README.md; verified against the model"
)
EXAMPLES = """\
examples:
  recbole-diff export --checkpoint=runs/DiffuRec-ml-100k-20250101-120000 --format=onnx --output=exports/diffurec
  recbole-diff export --checkpoint=runs/mine --format=torchexport --output=exports/mine --reverse_steps=8
  recbole-diff export --checkpoint=runs/mine --format=safetensors --output=exports/weights --licence="CC BY 4.0"
Every other --key=value overrides a key of the run, as for evaluate, and stays in the export.
"""


def run(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Export, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: none.
        config: keys that override those of the run.

    Raises:
        UserError: a key is missing or wrong, or what `export_model` refuses.
    """
    for key in ("checkpoint", "format", "output"):
        if key not in options:
            raise UserError(f"export needs --{key}={OPTIONS[key].split(',')[0].split(':')[0]}")
    numbers: dict[str, Any] = {
        "verify_rows": converted(options, "verify_rows", int, "a whole number"),
        "list_length": converted(options, "list_length", int, "a whole number"),
        "tolerance": converted(options, "tolerance", float, "a number"),
    }
    texts: dict[str, Any] = {key: options.get(key) for key in ("histories", "data_path", "row_keys", "licence")}
    given = {key: value for key, value in {**numbers, **texts}.items() if value is not None}
    given.update(own_code(options))
    with messages():
        from recbole_diffusion.export.exporting import export_model

        made = export_model(options["checkpoint"], options["output"], options["format"], config=config, **given)
    return _report(made)


def _report(made: Export) -> str:
    found, program = made.manifest["verification"], made.manifest["program"]
    lines = [
        f"{made.manifest['model']} on {made.manifest['dataset']} in {made.folder}: {program['file']}, "
        f"{made.manifest['items']['count']:,} item vectors",
        f"verified on {found['histories']}: largest relative difference {found['largest_relative_difference']:.2g} "
        f"(allowed {found['tolerance']:g}), {found['equal_lists']:.2%} of lists of {found['list_length']} equal",
    ]
    if not found["real"]:
        lines.append("no real histories were there; --histories=FILE or --data_path=FOLDER gives some")
    if made.manifest["data_licence"] is None:
        lines.append("the licence of the data is unknown; --licence=TEXT puts it into README.md")
    return "\n".join(lines)
