"""A pool of actors over numbered parts, and sorting: what is Ray Data's of recommending.

Parts travel as numbers, and what comes back are counts: an actor reads its part and writes it, so Ray's object store
stays empty and memory is that of one part an actor, however many parts there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import first_line, machines, ray_running

BLOCKS = 256  # pieces of work that parts are dealt out in, at most
ENVIRONMENT = {"RAY_BACKEND_LOG_LEVEL": "fatal"}  # Ray's processes otherwise write to the terminal, too


@contextlib.contextmanager
def ray_data_running(address: str | None, search_path: Sequence[str] = ()) -> Iterator[Any]:
    """Ray as `ray_session` has it, and a Ray Data that says nothing.

    Args:
        address: a cluster's; None for this machine.
        search_path: folders that workers look for modules in.

    Raises:
        UserError: Ray does not start, or no cluster is at the address.
    """
    with ray_running(address, environment=ENVIRONMENT, search_path=search_path) as ray:
        context = ray.data.DataContext.get_current()
        shown = (context.enable_progress_bars, getattr(context, "print_on_execution_start", True))
        context.enable_progress_bars, context.print_on_execution_start = False, False
        try:
            yield ray
        finally:
            context.enable_progress_bars, context.print_on_execution_start = shown


def actors_that_fit(ray: Any, wanted: int | None, cpus: float, gpus: float) -> int:
    """How many actors to run: `wanted`, or as many as there is room for.

    Raises:
        UserError: there is not room for so many, or not for one.
    """
    nodes = machines(ray)
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
            f"Ray cannot go on ({first_line(error)}); started again, the command goes on with the parts that are there"
        ) from error


def sorted_rows(ray: Any, folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    """The rows of a folder of Parquet files in order of some columns, sorted by Ray Data, as tables."""
    rows = ray.data.read_parquet(str(folder)).sort(columns)
    yield from rows.iter_batches(batch_size=65_536, batch_format="pyarrow")
