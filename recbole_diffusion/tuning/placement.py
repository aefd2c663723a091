"""What a sweep needs of Ray beside its session: room for a trial, and the user's own modules."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import machines

# Variables of Ray Tune's, unless the user set them.
ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # the experiment's state on disk is at most so many seconds old
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial refused before its first epoch has no metrics
}


def check_resources(
    ray: Any,
    cpus: float,
    gpus: float,
    address: str | None,
    *,
    asker: str = "a trial",
    keys: tuple[str, str] = ("cpus_per_trial", "gpus_per_trial"),
) -> None:
    """Refuse trials that no machine has room for; a trial would wait for ever.

    Args:
        ray: the module.
        cpus, gpus: what each takes.
        address: of a cluster; None for this machine.
        asker: what asks for them.
        keys: that say how many.

    Raises:
        UserError: says what the largest machine has.
    """
    nodes = machines(ray)
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    where = "this machine" if address is None else f"the cluster at {address}"
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    asked, key = (f"{cpus:g} CPU cores", keys[0]) if most["CPU"] < cpus else (f"{gpus:g} GPUs", keys[1])
    raise UserError(
        f"{asker} asks for {asked}, but {where} has at most {most['CPU']:g} CPU cores and {most['GPU']:g} GPUs in one "
        f"place; lower {key}"
    )


def module_places(references: Sequence[str]) -> list[str]:
    """Files and folders of the modules, not installed ones, that references like ``package.module:Class`` name."""
    places = []
    for reference in references:
        top = reference.partition(":")[0].partition(".")[0]
        specification = importlib.util.find_spec(top) if top else None
        if specification is None:
            continue
        if specification.submodule_search_locations:
            place = Path(next(iter(specification.submodule_search_locations)))
        elif specification.origin:
            place = Path(specification.origin)
        else:
            continue
        if not str(place).startswith(os.path.abspath(sys.prefix)) and "site-packages" not in place.parts:
            places.append(str(place))
    return sorted(set(places))
