"""Ray, for the time of a sweep, of training on several workers, or of a file of recommendations.

What runs in this process already is used and left running; else a cluster is joined, or Ray is started on this machine
and ends with what it was started for. A process that is killed takes the Ray that it started with it: Ray's own
daemons are bound to the life of their starter (on Linux by the kernel), its workers end when they lose them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError

logger = logging.getLogger(__name__)

OLDEST = "2.43"  # setup.cfg says the same; ray.tune.report and ray.train's second version are from here on
ANSWER_SECONDS = 5.0  # that a cluster's machine has to take a connection; Ray itself asks for minutes
STARTS = 3  # attempts to start Ray on this machine
# Set before Ray is imported, unless the user set them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine its agents take longer than Ray's 15 s
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a worker's working directory stays what it was
}
_LOGGERS = ("ray", "ray.tune", "ray.train", "ray.data", "ray._private.worker")


def install(extra: str = "ray") -> str:
    """The command that installs what an extra of this package names."""
    return f"pip install 'recbole-diffusion[{extra}]'"


def import_ray(needed_by: str, *libraries: str, extra: str = "ray") -> Any:
    """The module `ray`, with some of its libraries imported.

    Args:
        needed_by: how an error begins, such as ``a sweep``.
        libraries: such as ``ray.tune``.
        extra: of this package, which installs them.

    Raises:
        UserError: they cannot be imported, or are too old.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray

        for library in libraries:
            importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"{needed_by} needs Ray, which is not installed whole ({error}); {install(extra)}") from error
    if _numbers(ray.__version__) < _numbers(OLDEST):
        raise UserError(f"{needed_by} needs ray {OLDEST} or later, and {ray.__version__} is here; {install(extra)}")
    return ray


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


@contextlib.contextmanager
def ray_running(
    address: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    modules: Sequence[str] = (),
    search_path: Sequence[str] = (),
    logs: bool = False,
    num_cpus: int | None = None,
    temp_dir: str | None = None,
    object_store_memory: int | None = None,
) -> Iterator[Any]:
    """Ray: the one that runs in this process, a cluster's, or one of this machine that ends with the context.

    Args:
        address: of a cluster (``auto``, ``host:port``, ``ray://host:port``); None for this machine alone.
        environment: variables of Ray's processes, unless the user set them.
        modules: files or folders of the user's own modules, sent to a cluster.
        search_path: folders in which Ray's workers look for modules.
        logs: let Ray's own logs through.
        num_cpus: cores that a Ray of this machine has; None for all.
        temp_dir: where a Ray of this machine keeps logs and sockets; a short path; None for Ray's own place.
        object_store_memory: bytes of a Ray of this machine for objects; None for Ray's own choice.

    Raises:
        UserError: Ray does not start, there is no cluster at `address`, or another Ray runs in this process.
    """
    ray = import_ray("this")
    own = not ray.is_initialized()
    if not own:
        _check_address(ray, address)
    level = logging.INFO if logs else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": logs, "logging_level": level}
    python_path = os.pathsep.join([*search_path, *filter(None, [os.environ.get("PYTHONPATH")])])
    with _variables(environment or {}), _levels(level):
        if own and address is None:
            mine = {"num_cpus": num_cpus, "_temp_dir": temp_dir, "object_store_memory": object_store_memory}
            options.update({name: value for name, value in mine.items() if value is not None})
            with _variables({"PYTHONPATH": python_path}, instead=True):  # its workers inherit it
                _start(ray, options, logs=logs)
        elif own:
            runtime: dict[str, Any] = {"py_modules": list(modules)} if modules else {}
            if search_path:
                runtime["env_vars"] = {"PYTHONPATH": python_path}
            _join(ray, address, {**options, **({"runtime_env": runtime} if runtime else {})}, logs=logs)
        try:
            yield ray
        finally:
            if own:
                ray.shutdown()


def _start(ray: Any, options: Mapping[str, Any], *, logs: bool) -> None:
    """Start Ray on this machine. It gives itself half a minute: on a busy machine it gets another.

    Raises:
        UserError: it did not start.
    """
    for tries_left in range(STARTS - 1, -1, -1):
        try:
            with _quiet_terminal(quiet=not logs):
                ray.init(address="local", include_dashboard=False, **options)
            return
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


def _join(ray: Any, address: str | None, options: Mapping[str, Any], *, logs: bool) -> None:
    """Join the cluster at an address.

    Raises:
        UserError: there is none.
    """
    _check_answers(address)
    try:
        with _quiet_terminal(quiet=not logs):
            ray.init(address=address, **options)
    except Exception as error:
        why = first_line(error)
        if "AuthToken" in str(error.__cause__):
            why = "it asks for a token; set RAY_AUTH_MODE=token, see Ray's documentation of token authentication"
        raise UserError(f"no Ray cluster at ray_address {address}: {why}") from error


def _check_answers(address: str | None) -> None:
    """Refuse an address at which nothing takes a connection. Ray says so after minutes, past its own log.

    Raises:
        UserError: what was asked, and why there is no answer.
    """
    named = f"ray_address {address}"
    if address == "auto" and os.environ.get("RAY_ADDRESS"):  # which Ray takes instead
        address = os.environ["RAY_ADDRESS"]
        named += f" (RAY_ADDRESS is {address})"
    scheme, separator, place = (address or "").rpartition("://")
    if address in (None, "auto", "local") or (separator and scheme != "ray"):
        return  # Ray looks for it, starts it, or leaves it to a provider's package
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UserError(f"{named} is no address; give auto, HOST:PORT or ray://HOST:PORT with a port from 1 to 65535")
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"no Ray cluster at {named}: nothing answers there ({why}); give the address of a head that runs, or leave "
            "ray_address out"
        ) from error


def _check_address(ray: Any, address: str | None) -> None:
    """Refuse an address where this process belongs to another Ray.

    Raises:
        UserError: says which.
    """
    if address is None or address == "auto" or "://" in address:
        return
    here = ray.get_runtime_context().gcs_address
    if address != here:
        raise UserError(
            f"ray_address is {address}, but this process belongs to the Ray at {here}; leave ray_address out, or call "
            "ray.shutdown() first"
        )


@contextlib.contextmanager
def _variables(values: Mapping[str, str], *, instead: bool = False) -> Iterator[None]:
    """Environment variables for a while, unless they are set, or `instead` of what they are."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if instead or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _levels(level: int) -> Iterator[None]:
    """Ray's loggers at a level; starting Ray sets them anew, so this is also entered before."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, old in before.items():
            logging.getLogger(name).setLevel(old)


@contextlib.contextmanager
def _quiet_terminal(*, quiet: bool) -> Iterator[None]:
    """Keep what Ray's libraries write to standard error past Python's logging, and log it if an error comes of it."""
    if not quiet:
        yield
        return
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


def machines(ray: Any) -> list[dict[str, float]]:
    """What each machine has that Ray runs on, by Ray's names: CPU, GPU, memory ..."""
    return [dict(node.get("Resources", {})) for node in ray.nodes() if node.get("Alive")]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def search_path() -> tuple[str, ...]:
    """Folders in which a user's own modules, or this package in a checkout, may lie: those of this process's path that
    no installation made, and the working directory."""
    folders = [os.path.abspath(path or os.getcwd()) for path in sys.path]
    library = os.path.abspath(os.path.dirname(os.__file__))
    installed = {"site-packages", "dist-packages", "lib-dynload"}
    own = [path for path in folders if os.path.isdir(path) and path != library]
    return tuple(dict.fromkeys([*(path for path in own if not installed & set(Path(path).parts)), os.getcwd()]))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
