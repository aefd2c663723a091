"""Ray for the time of a sweep: the one that runs already, a cluster's, or one of this process's own."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError

logger = logging.getLogger(__name__)

# Set before Ray is imported, unless the user set them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's working directory stays that of its worker
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # the experiment's state on disk is at most so many seconds old
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial refused before its first epoch has no metrics
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine its agents take longer than Ray's 15 s
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
STARTS = 3  # attempts to start Ray on this machine
_LOGGERS = ("ray", "ray.tune", "ray.train", "ray._private.worker")


def set_environment() -> None:
    """Quiet, without usage statistics; to be called before Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_running(
    address: str | None, *, modules: Sequence[str] = (), logs: bool = False, **arguments: Any
) -> Iterator[Any]:
    """Ray, started or connected to where it is not already; what was started here is shut down again.

    Args:
        address: of a cluster (``auto``, ``host:port``, ``ray://host:port``); None for this machine alone.
        modules: files or folders of the user's own modules, sent to a cluster.
        logs: let Ray's own logs through.
        arguments: for `ray.init`.

    Raises:
        UserError: Ray does not start, or there is no cluster at `address`.
    """
    set_environment()
    import ray

    level = logging.INFO if logs else logging.ERROR
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    own = not ray.is_initialized()
    if own:
        if address is not None and modules:
            arguments["runtime_env"] = {"py_modules": list(modules)}
        _start(ray, address, arguments, level, logs)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(level)
    try:
        yield ray
    finally:
        for name, old in before.items():
            logging.getLogger(name).setLevel(old)
        if own:
            ray.shutdown()


def _start(ray: Any, address: str | None, arguments: dict[str, Any], level: int, logs: bool) -> None:
    """`ray.init`; its errors in one line. Ray gives itself half a minute to start: on a busy machine it gets another.

    Raises:
        UserError: Ray did not start, or there is no cluster at `address`.
    """
    for tries_left in range(STARTS - 1, -1, -1):
        try:
            ray.init(
                address=address or "local",
                include_dashboard=False if address is None else None,
                log_to_driver=logs,
                logging_level=level,
                **arguments,
            )
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            if address is None:
                raise
            why = _first_line(error)
            if "AuthToken" in str(error.__cause__):
                why = "it asks for a token; set RAY_AUTH_MODE=token, see Ray's documentation of token authentication"
            raise UserError(f"no Ray cluster at ray_address {address}: {why}") from error
        except Exception as error:  # what Ray raises here is a plain Exception
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if not tries_left:
                raise UserError(
                    f"Ray did not start in {STARTS} times the half minute that it gives itself; try again when the "
                    "machine is less busy"
                ) from error
            logger.warning("Ray did not start in the half minute that it gives itself; once more")


def check_resources(ray: Any, cpus: float, gpus: float, address: str | None) -> None:
    """Refuse trials that no machine has room for; a trial would wait for ever.

    Raises:
        UserError: says what the largest machine has.
    """
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    where = "this machine" if address is None else f"the cluster at {address}"
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    asked, key = (
        (f"{cpus:g} CPU cores", "cpus_per_trial") if most["CPU"] < cpus else (f"{gpus:g} GPUs", "gpus_per_trial")
    )
    raise UserError(
        f"a trial asks for {asked}, but {where} has at most {most['CPU']:g} CPU cores and {most['GPU']:g} GPUs in one "
        f"place; lower {key}"
    )


def search_path() -> tuple[str, ...]:
    """Folders of this process's Python path in which a user's own modules may lie."""
    folders = [os.path.abspath(path or os.getcwd()) for path in sys.path]
    own = [path for path in folders if os.path.isdir(path) and not path.startswith(os.path.abspath(sys.prefix))]
    installed = os.path.abspath(os.path.dirname(os.__file__))
    return tuple(dict.fromkeys([*(path for path in own if not path.startswith(installed)), os.getcwd()]))


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
