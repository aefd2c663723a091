"""Ray for the time of a command, a pool of actors over numbered parts, and sorting: what is Ray's of recommending.

Parts travel as numbers, and what comes back are counts: an actor reads its part and writes it, so Ray's object store
stays empty and memory is that of one part an actor, however many parts there are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from recbole_diffusion.errors import UserError

logger = logging.getLogger(__name__)

INSTALL = "pip install 'recbole-diffusion[tune]'"
BLOCKS = 256  # pieces of work that parts are dealt out in, at most
_LOGGERS = ("ray", "ray.data")


def import_ray() -> Any:
    """The module `ray` with `ray.data`, without usage statistics unless the user asked for them.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its processes otherwise write to the terminal, too
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"recommend needs Ray Data, which is not installed ({error}); {INSTALL}") from error
    return ray


@contextlib.contextmanager
def ray_running(address: str | None, search_path: Sequence[str] = ()) -> Iterator[Any]:
    """Ray: the one that runs in this process already, a cluster's, or one of this process's own, which ends with it.

    Args:
        address: a cluster's; None for this machine.
        search_path: folders that workers look for modules in.

    Raises:
        UserError: Ray is not installed, or no cluster is at the address.
    """
    ray = import_ray()
    own = not ray.is_initialized()
    context = ray.data.DataContext.get_current()
    shown = (context.enable_progress_bars, getattr(context, "print_on_execution_start", True))
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    path = os.environ.get("PYTHONPATH")
    try:
        if own:
            joined = os.pathsep.join([*search_path, *([path] if path else [])])
            _start(ray, address, joined)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        context.enable_progress_bars, context.print_on_execution_start = False, False
        yield ray
    finally:
        context.enable_progress_bars, context.print_on_execution_start = shown
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if own:
            ray.shutdown()
        if path is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = path


def _start(ray: Any, address: str | None, python_path: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ["PYTHONPATH"] = python_path  # workers of this machine inherit it
        try:
            with _quiet_terminal():
                ray.init(address="local", include_dashboard=False, **options)
        except Exception as error:  # Ray's own is a plain Exception
            if "timed out during startup" not in str(error):
                raise
            raise UserError(
                "Ray did not start in the half minute that it gives itself; try again when the machine is less busy"
            ) from error
        return
    try:
        with _quiet_terminal():
            ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": python_path}}, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at ray_address {address}: {_first_line(error)}") from error


@contextlib.contextmanager
def _quiet_terminal() -> Iterator[None]:
    """Keep what Ray's libraries write to standard error past Python's logging, and show it if an error comes of it."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            if failed:
                kept.seek(0)
                logger.info("%s", kept.read().decode(errors="replace").rstrip())


def actors_that_fit(ray: Any, wanted: int | None, cpus: float, gpus: float) -> int:
    """How many actors to run: `wanted`, or as many as there is room for.

    Raises:
        UserError: there is not room for so many, or not for one.
    """
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
    room = [min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else 1e9) for node in nodes]
    most = int(sum(room))
    if most >= (wanted or 1):
        return wanted or most
    have = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in ("CPU", "GPU"))
    key = "num_gpus_per_actor" if gpus and most == 0 else "num_actors"
    raise UserError(
        f"{wanted or 1} actors with {cpus:g} CPU and {gpus:g} GPU each do not fit: Ray has {have}; lower {key} "
        "(or cpus_per_actor)"
    )


def map_parts(
    ray: Any, actor: type, arguments: Mapping[str, Any], parts: Sequence[int], actors: int, cpus: float, gpus: float
) -> Iterator[dict[str, Any]]:
    """Let a pool of actors make parts; what each part came to, in the order in which they end.

    Ray starts an actor that dies again, without end, and gives it its piece again; the actor counts how often.

    Args:
        ray: the module.
        actor: a class whose instances take {"part": numbers} and return columns of one row a part.
        arguments: for its constructor.
        parts: numbers of the parts.
        actors: how many actors.
        cpus, gpus: what each takes.

    Raises:
        UserError: actors died again and again.
    """
    blocks = min(len(parts), max(BLOCKS, 8 * actors))
    numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=blocks)
    made = numbers.map_batches(
        actor,
        fn_constructor_kwargs=dict(arguments),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts)), max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    try:
        yield from made.iter_rows()
    except ray.exceptions.RayTaskError:
        raise  # a mistake of this program
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray cannot go on ({_first_line(error)}); started again, the command goes on with the parts that are there"
        ) from error


def sorted_rows(ray: Any, folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    """The rows of a folder of Parquet files in order of some columns, sorted by Ray Data, as tables."""
    rows = ray.data.read_parquet(str(folder)).sort(columns)
    yield from rows.iter_batches(batch_size=65_536, batch_format="pyarrow")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
