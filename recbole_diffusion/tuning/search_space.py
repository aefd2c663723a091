"""A search space: which keys of a configuration are drawn, from what, and which are fixed for all trials.

    learning_rate: {loguniform: [1e-4, 1e-2]}
    num_steps: {choice: [16, 32]}
    hidden_size: 64                             # a plain value is the same in every trial

`read` takes such a YAML file, RecBole's `.test` range file, or a mapping; `check` holds every key against the model's
own configuration before anything starts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_diffusion.config_files import Layer, Overrides, read_yaml
from recbole_diffusion.config_training_keys import TRAINING_CHECKS
from recbole_diffusion.config_values import CHECKS
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import nearest
from recbole_diffusion.tuning.domains import KINDS, Domain, DomainError
from recbole_diffusion.tuning.range_files import read_range_file
from recbole_diffusion.tuning.unsearched_keys import MAPPINGS, NOT_DRAWN, NOT_SEARCHED

RANGE_FILE_SUFFIXES = (".test", ".hyper")
SPACE_ARGUMENT = "search space"
TRIES = 32  # other keys' values that a value is tried with before it is refused


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep searches.

    Attributes:
        domains: the keys that are drawn.
        fixed: the keys with one value for every trial.
        origins: where each key was given (``file:line``).
        source: the file's name, or "search space".
    """

    domains: dict[str, Domain]
    fixed: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    source: str = SPACE_ARGUMENT

    def plain(self) -> dict[str, Any]:
        """As in a file; `read` takes it back."""
        return {**{key: domain.plain() for key, domain in self.domains.items()}, **self.fixed}

    def digest(self) -> str:
        """SHA-256 of what is searched, whatever the order of keys."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True, default=str).encode()).hexdigest()

    def size(self) -> int | None:
        """How many different configurations there are; None when a key has endlessly many."""
        if not all(domain.finite for domain in self.domains.values()):
            return None
        return math.prod(len(domain.values) for domain in self.domains.values())

    def grid_size(self) -> int:
        """How many combinations the keys listed as `grid` have, each of which every draw is tried with."""
        return math.prod(len(domain.values) for domain in self.domains.values() if domain.kind == "grid")

    def overrides(self, values: Mapping[str, Any]) -> Overrides:
        """`values` of some keys as overrides that know their line."""
        made = Overrides(values, origin=self.source)
        made.origins = {key: self.origins[key] for key in values if key in self.origins}
        return made

    def to_ray(self, *, as_grid: bool = False) -> dict[str, Any]:
        """Ray Tune's `param_space` of the drawn keys."""
        return {key: domain.to_ray(as_grid=as_grid) for key, domain in self.domains.items()}

    def check(self, refused: Callable[[Mapping[str, Any]], UserError | None], *, seed: int = 0) -> None:
        """Try every value at the ends of its range.

        A value that the configuration refuses is tried again beside other values of the other keys (a schedule's own
        keys are read with that schedule alone); it is a mistake when none of them lets it through.

        Args:
            refused: what the configuration with these overrides is refused with; None where it is taken.
            seed: of the draws of the other keys.

        Raises:
            UserError: with the key's file and line.
        """
        for key, value in self.fixed.items():
            if (error := refused(self.overrides({key: value}))) is not None and (
                self._never(refused, {key: value}, seed) is not None
            ):
                raise error
        for key, domain in self.domains.items():
            for value in domain.ends():
                error = refused(self.overrides({**self.fixed, key: value}))
                if error is not None and self._never(refused, {key: value}, seed) is not None:
                    raise error

    def _never(
        self, refused: Callable[[Mapping[str, Any]], UserError | None], values: dict[str, Any], seed: int
    ) -> UserError | None:
        """The last refusal of `values` beside draws of all other keys, or None when one is taken."""
        draw = random.Random(seed)
        others = {key: domain.ends() for key, domain in self.domains.items() if key not in values}
        if math.prod(map(len, others.values())) <= TRIES:
            combinations = [dict(zip(others, chosen, strict=True)) for chosen in itertools.product(*others.values())]
        else:
            combinations = [{key: draw.choice(ends) for key, ends in others.items()} for _ in range(TRIES)]
        error: UserError | None = None
        for chosen in combinations:
            error = refused(self.overrides({**self.fixed, **chosen, **values}))
            if error is None:
                return None
        return error


def read(space: str | Path | Mapping[str, Any]) -> SearchSpace:
    """A search space from a YAML file, a range file of RecBole's, or a mapping of the YAML's form.

    Raises:
        UserError: with file and line; the file cannot be read, a domain cannot be, a key is not to be searched, or
            nothing is.
    """
    if isinstance(space, Mapping):
        values = {str(key): value for key, value in space.items()}
        layer, source = Layer(values, dict.fromkeys(values, SPACE_ARGUMENT)), SPACE_ARGUMENT
    else:
        path = Path(space)
        if not path.is_file():
            raise UserError(f"no search space file {path}")
        layer = read_range_file(path) if path.suffix in RANGE_FILE_SUFFIXES else read_yaml(path)
        source = path.name
    domains: dict[str, Domain] = {}
    fixed: dict[str, Any] = {}
    for key, value in layer.values.items():
        if key in NOT_SEARCHED:
            raise UserError(f"{layer.origins[key]}: {key} cannot stand in a search space: {NOT_SEARCHED[key]}")
        domain = value if isinstance(value, Domain) else _domain(key, value, layer.origins[key])
        if domain is None:
            fixed[key] = value
        elif key in NOT_DRAWN:
            raise UserError(
                f"{layer.origins[key]}: {key} cannot be drawn: {NOT_DRAWN[key]}; give it one value for all trials"
            )
        else:
            domains[key] = domain
    if not domains:
        for key, value in fixed.items():
            if key not in MAPPINGS and (name := _single_list(value)) is not None:
                raise _no_distribution(key, name, layer.origins[key])
        raise UserError(
            f"{source} searches nothing; give a key a range such as learning_rate: {{loguniform: [1e-4, 1e-2]}}"
        )
    return SearchSpace(domains, fixed, layer.origins, source)


def _domain(key: str, value: Any, where: str) -> Domain | None:
    """The domain that a value of the file describes; None for a plain value."""
    if not isinstance(value, Mapping):
        return None
    if not any(name in KINDS for name in value):
        name = _single_list(value)
        if name is None or key in MAPPINGS:
            return None
        # What every run has is known to be no mapping; a model's own key may be one, and is checked with the model.
        if key in CHECKS or key in TRAINING_CHECKS or nearest(name, KINDS) is not None:
            raise _no_distribution(key, name, where)
        return None
    if len(value) > 1:
        raise UserError(f"{where}: {key} has {', '.join(map(str, value))}; a key has one of {', '.join(KINDS)}")
    kind, arguments = next(iter(value.items()))
    if not isinstance(arguments, (list, tuple)):
        raise UserError(f"{where}: {key} must be {kind}: [...] with a list, got {arguments!r}")
    try:
        return Domain(kind, tuple(arguments))
    except DomainError as error:
        raise UserError(f"{where}: {key} must be {error}, got {list(arguments)!r}") from None


def _single_list(value: Any) -> str | None:
    """The name in a mapping of one name to a list, the form of a distribution; None for anything else."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((name, arguments),) = value.items()
    return str(name) if isinstance(arguments, (list, tuple)) else None


def _no_distribution(key: str, name: str, where: str) -> UserError:
    hint = nearest(name, KINDS)
    instead = f"did you mean '{hint}'?" if hint is not None else f"there are {', '.join(KINDS)}"
    return UserError(f"{where}: {key} has no distribution '{name}'; {instead}")
