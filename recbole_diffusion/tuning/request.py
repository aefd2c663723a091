"""What a person asks of a sweep, as `tune` passes it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.config_files import Overrides
from recbole_diffusion.tuning.search_space import SearchSpace


@dataclass(frozen=True)
class Request:
    """The arguments of `tune` that a sweep that begins and one that is resumed both read.

    Attributes:
        model, dataset, space: None where they are not given.
        overrides: keys of every trial's configuration.
        config_files: YAML files, later ones win.
        address: of a Ray cluster.
        show: lines on standard error.
        logs: Ray's own logs.
    """

    model: str | type | None
    dataset: str | None
    space: SearchSpace | None
    overrides: Overrides
    config_files: Sequence[str | Path]
    address: str | None
    show: bool
    logs: bool
