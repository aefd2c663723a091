"""The word ``serve`` of the command line: its keys, and what it says."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recbole_diffusion.command_options import OWN_CODE, converted, own_code, whole_number
from recbole_diffusion.errors import UserError

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.recommender import Recommender

OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "host": "ADDRESS to listen on (default: 127.0.0.1, this machine alone; there is no authentication)",
    "port": "NUMBER of the port; 0 takes a free one and says which (default: 8000)",
    "max_batch": "NUMBER of histories computed at a time (default: 64)",
    "batch_wait_ms": "MILLISECONDS, at most, that the model waits for those it has just answered; 0: none (default: 2)",
    "max_queue": "NUMBER of requests in the service at a time; more are refused with 503 (default: 256)",
    "max_histories": "NUMBER of histories of a request (default: 64)",
    "max_k": "NUMBER of items of an answer (default: 1000)",
    "max_samples": "NUMBER of chains that a request may have merged (default: 32)",
    "max_body_bytes": "BYTES of a request's body (default: 1048576)",
    "request_timeout": "SECONDS until a request is read, and until it is answered (default: 30)",
    "stop_timeout": "SECONDS in which requests are finished when the service stops (default: 10)",
    "num_threads": "NUMBER of CPU threads of the model (default: torch's, the cores)",
    "retrieval": "exact: every item is scored (default); faiss: through the run's index (recbole-diff index)",
    "stale_index": "rebuild: an index that is absent or of other vectors (default); refuse: end with an error",
    "added_items": "FILE.parquet of items added after training: item_id, vector, title",
    "own_code": OWN_CODE,
    "data_path": "FOLDER that holds the datasets' folders, for runs without a list of their items",
}
FLAGS: dict[str, str] = {"access_log": "a line in the log for each request"}
BARE = ()
USAGE = "--checkpoint=RUN_FOLDER"
WRITES = "POST /recommend, GET /health and GET /metrics, until SIGINT or SIGTERM"
EXAMPLES = """\
examples:
  recbole-diff serve --checkpoint=runs/DiffuRec-ml-100k-20250101-120000
  recbole-diff serve --checkpoint=runs/mine --port=0 --max_batch=128 --reverse_steps=8
  curl -H 'Content-Type: application/json' -d '{"history": ["50", "172"], "k": 5}' http://127.0.0.1:8000/recommend
Every other --key=value overrides a key of the run, as for evaluate.
"""
EXTRA = ("fastapi", "uvicorn", "pydantic", "prometheus_client")

_OF_THE_RECOMMENDER = ("data_path", "retrieval", "stale_index", "added_items")
_OF_EACH_CALL = "recbole_diffusion.recommendation.recommender"  # logs for each call what every answer says itself

logger = logging.getLogger(__name__)

Number = TypeVar("Number", int, float)


def run(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Serve until a signal comes, and return the text to print then.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        config: keys that override those of the run.

    Raises:
        UserError: a key is missing or wrong, a package is not installed, the address is taken, the checkpoint cannot
            be loaded.
    """
    if "checkpoint" not in options:
        raise UserError("serve needs --checkpoint=RUN_FOLDER (or a checkpoint file)")
    _check_packages()
    from recbole_diffusion.service.limits import Limits

    given: dict[str, Any] = {
        field.name: _number(options, field.name, float if field.type == "float" else int)
        for field in dataclasses.fields(Limits)
        if field.name in options
    }
    limits = Limits(**given)
    port = 8000 if "port" not in options else _number(options, "port", int)
    threads = converted(options, "num_threads", whole_number, "a whole number, 1 or more")
    loading: dict[str, Any] = {key: options[key] for key in _OF_THE_RECOMMENDER if key in options}
    loading.update(own_code(options))
    checkpoint = Path(options["checkpoint"])
    if not checkpoint.exists():  # said at once, before seconds of imports
        raise UserError(f"no checkpoint at {checkpoint}")
    from recbole_diffusion.service.server import open_socket, serve, url_of

    def load() -> Recommender:
        import torch

        from recbole_diffusion.recommendation.recommender import Recommender

        if threads is not None:
            torch.set_num_threads(threads)
        return Recommender.load(checkpoint, config=config, **loading)

    with _messages():
        bound = open_socket(options.get("host", "127.0.0.1"), port)
        logger.info("loading %s; %s/health says when it is ready", checkpoint, url_of(bound))
        service = serve(load, bound, limits, _announce, access_log="access_log" in flags)
    if service.working:  # the thread is at a batch that nobody waits for any more, and cannot be stopped
        _announce("stopped")
        sys.stderr.flush()
        os._exit(0)
    return "stopped"


def _check_packages() -> None:
    """Refuse to begin without what the extra brings.

    Raises:
        UserError: names the package and the extra.
    """
    for package in EXTRA:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"serve needs {package}, which cannot be imported ({error}); pip install 'recbole-diffusion[serve]'"
            ) from error


def _number(options: Mapping[str, str], key: str, kind: Callable[[str], Number]) -> Any:
    return converted(options, key, kind, "a whole number" if kind is int else "a number")


def _announce(line: str) -> None:
    """A line on standard output, which a program may read."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _messages() -> Iterator[None]:
    """What is said on the way, uvicorn's warnings among it, goes to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    sources = [logging.getLogger(name) for name in ("recbole_diffusion", "uvicorn", _OF_EACH_CALL)]
    levels = [source.level for source in sources]
    for source in sources[:2]:
        source.addHandler(handler)
    sources[0].setLevel(logging.INFO)
    sources[2].setLevel(logging.WARNING)
    try:
        yield
    finally:
        for source, level in zip(sources, levels, strict=True):
            source.removeHandler(handler)
            source.setLevel(level)
