"""Which loggers a configuration asks for, and whether what they need is there: asked before anything starts."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from recbole_diffusion.errors import UserError

TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
# what a package has that a folder of the same name in the working directory (`wandb/`, which its runs leave) has not
_PROOF = {TENSORBOARD: "__version__", WANDB: "init", MLFLOW: "MlflowClient"}
_WITHOUT_SERVER = ("offline", "disabled", "dryrun")


def chosen_loggers(config: Mapping[str, Any] | Any) -> tuple[str, ...]:
    """The loggers of a configuration: `loggers`, and wandb for RecBole's `log_wandb: True`."""
    names = list(config["loggers"] or ())
    if config["log_wandb"] and WANDB not in names:
        names.append(WANDB)
    return tuple(names)


def check_loggers(config: Any) -> None:
    """Refuse loggers that could not log.

    Args:
        config: the run's `RunConfig`.

    Raises:
        UserError: a package is not installed, or wandb has no key for its server.
    """
    for name in chosen_loggers(config):
        given = "loggers" if name in (config["loggers"] or ()) else "log_wandb"
        package = import_logger(name, f"{given} ({config.origin(given)})")
        if name == WANDB:
            _check_wandb(package)


def import_logger(name: str, asked_by: str) -> Any:
    """The package of a logger.

    Args:
        name: of `loggers`.
        asked_by: how an error begins.

    Raises:
        UserError: it cannot be imported; says what to install.
    """
    try:
        package = importlib.import_module(name)
        getattr(package, _PROOF[name])
    except (ImportError, AttributeError) as error:
        install = "pip install tensorboard" if name == TENSORBOARD else f"pip install 'recbole-diffusion[{name}]'"
        raise UserError(
            f"{asked_by} asks for {name}, which is not installed whole ({error}); {install}, or leave {name} out"
        ) from error
    return package


def _check_wandb(wandb: Any) -> None:
    """Refuse a wandb that would ask for a key in the middle of the run, or end it.

    Raises:
        UserError: says how to give one, or how to log without a server.
    """
    without_server = wandb.setup().settings.mode in _WITHOUT_SERVER
    if without_server or wandb.run is not None or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return
    if _has_key(wandb):
        return
    raise UserError(
        "wandb has no API key: run `wandb login`, set WANDB_API_KEY, or log without a server with WANDB_MODE=offline "
        "(`wandb sync` sends it later)"
    )


def _has_key(wandb: Any) -> bool:
    """Whether wandb knows a key for its server; asks neither a person nor the server."""
    if "prompt" not in inspect.signature(wandb.login).parameters:  # before wandb 0.31
        return bool(wandb.api.api_key)
    settings = wandb.setup().settings
    silent, settings.silent = settings.silent, True
    try:
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        settings.silent = silent
