"""The word ``index`` of the command line: its keys, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.command_options import OWN_CODE, converted, messages, own_code, truth, whole_number
from recbole_diffusion.errors import UserError

OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "kind": "auto: by the number of items (default); flat, hnsw, pq or ivfpq",
    "recall": "SHARE of exact retrieval's items that it must find (default: 0.98); not reached, it fails",
    "recall_at": "NUMBER of items that recall is measured at (default: 20)",
    "queries": "NUMBER of histories that recall is measured with, at most (default: 1000)",
    "histories": "FILE of histories to measure it with (default: validation rows of the run's data)",
    "item_separator": "CHARACTER between the items of a history that is text: comma (default), blank, tab, ...",
    "added_items": "FILE.parquet of items added after training, indexed, too: item_id, vector, title",
    "seed": "NUMBER, of what is drawn (default: 2023)",
    "threads": "NUMBER that build it (default: torch's); a graph of several threads differs from run to run",
    "own_code": OWN_CODE,
    "data_path": "FOLDER that holds the datasets' folders",
    "show_progress": "False: no progress bar",
}
FLAGS: dict[str, str] = {}
USAGE = "--checkpoint=RUN_FOLDER"
WRITES = "writes best/index/ in the run's folder, which recommend --retrieval=faiss asks"
EXAMPLES = """\
examples:
  recbole-diff index --checkpoint=runs/DiffuRec-ml-100k-20250101-120000
  recbole-diff index --checkpoint=runs/mine --kind=hnsw --recall=0.99 --recall_at=100
Every other --key=value overrides a key of the run, as for evaluate.
"""


def run(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Build the index, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: none.
        config: keys that override those of the run.

    Raises:
        UserError: a key is missing or wrong, or the recall is not reached.
    """
    if "checkpoint" not in options:
        raise UserError("index needs --checkpoint=RUN_FOLDER")
    whole = "a whole number, 1 or more"
    given: dict[str, Any] = {
        "kind": options.get("kind"),
        "recall": converted(options, "recall", float, "a number above 0, at most 1"),
        "at": converted(options, "recall_at", whole_number, whole),
        "queries": converted(options, "queries", whole_number, whole),
        "threads": converted(options, "threads", whole_number, whole),
        "seed": converted(options, "seed", int, "a whole number"),
        "show_progress": converted(options, "show_progress", truth, "True or False"),
    }
    with messages():
        from recbole_diffusion.recommendation.history_files import read_histories
        from recbole_diffusion.recommendation.recommender import Recommender
        from recbole_diffusion.recommendation.run_index import build_run_index
        from recbole_diffusion.retrieval.index_building import IndexRequest
        from recbole_diffusion.retrieval.index_kinds import import_faiss

        import_faiss()
        request = IndexRequest(**{key: value for key, value in given.items() if value is not None})
        loading: dict[str, Any] = {key: options[key] for key in ("added_items", "data_path") if key in options}
        loading.update(own_code(options))
        recommender = Recommender.load(options["checkpoint"], device="cpu", config=config, **loading)
        histories = None
        if "histories" in options:
            separator = options.get("item_separator", ",")
            histories = read_histories(Path(options["histories"]), recommender.config, separator, request.queries)
        facts = build_run_index(recommender, request, histories=histories)
    return _report(facts, recommender.checkpoint.parent / "index")


def _report(facts: Mapping[str, Any], folder: Path) -> str:
    parameters = {**facts["build"], **facts["search"]}
    return "\n".join(
        [
            f"{facts['kind']} index of {facts['items']:,} items in {folder}",
            f"recall@{facts['recall_at']} {facts['recall']:.4f}, measured with {facts['queries']:,} histories: "
            f"{facts['queries_from']}",
            "parameters: " + (", ".join(f"{name} {value}" for name, value in parameters.items()) or "none"),
            f"built in {facts['built_seconds']:.1f} s by {facts['threads']} threads, "
            f"{facts['index_bytes'] / 2**20:,.1f} MiB beside {facts['vectors_bytes'] / 2**20:,.1f} MiB of vectors",
        ]
    )
