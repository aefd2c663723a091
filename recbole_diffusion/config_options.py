"""A model's own keys as the frozen dataclass that it declares them in: each value fitted to the type of its field."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from recbole_diffusion.config_files import Layer
from recbole_diffusion.config_values import Check, NotAllowedError, boolean, integer, mapping, number, sequence, text
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import nearest

OptionsType = TypeVar("OptionsType")


def fit(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint`` of a dataclass field.

    Raises:
        NotAllowedError: it is not one.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        for allowed_value in arguments:
            if type(allowed_value) is type(value) and allowed_value == value:
                return allowed_value
        names = [str(allowed_value) for allowed_value in arguments]
        near = nearest(value, names) if isinstance(value, str) else None
        raise NotAllowedError("one of " + ", ".join(names) + (f" (did you mean '{near}'?)" if near else ""))
    if origin in (Union, types.UnionType):
        allowed = []
        for member in arguments:
            try:
                return fit(value, member)
            except NotAllowedError as error:
                allowed.append(str(error))
        raise NotAllowedError(" or ".join(allowed))
    if hint is type(None):
        if value is None:
            return None
        raise NotAllowedError("~")
    if hint is float:
        return float(number()(value))
    if hint in (list, tuple) or origin in (list, tuple):
        return _fit_sequence(value, origin or hint, arguments)
    simple: dict[Any, Check] = {bool: boolean(), int: integer(), str: text()}
    if hint in simple:
        return simple[hint](value)
    if hint is dict or origin in (dict, Mapping):
        return mapping()(value)
    if origin is not None or not isinstance(hint, type) or isinstance(value, hint):
        return value
    raise NotAllowedError(f"a {hint.__name__}")


def _fit_sequence(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    entries = sequence()(value)
    fixed = kind is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    if fixed and len(entries) != len(arguments):
        raise NotAllowedError(f"a list of {len(arguments)} values")
    hints = arguments if fixed else [arguments[0] if arguments else Any] * len(entries)
    try:
        return kind(fit(entry, hint) for entry, hint in zip(entries, hints, strict=True))
    except NotAllowedError as error:
        raise NotAllowedError(f"a list whose entries are {error}") from None


def model_options(options_class: type[OptionsType], config: Any) -> OptionsType:
    """A model's own keys from the configuration, as the frozen dataclass that the model declares them in.

    Field types may be ``int``, ``float`` (an integer will do), ``bool``, ``str``, ``Literal``, ``Optional`` and unions
    of these, lists and tuples of them, ``dict``. A field without default must be in the configuration. A ``ValueError``
    from the dataclass's own ``__post_init__`` is passed on as the person's mistake.

    Args:
        options_class: the dataclass.
        config: a :class:`~recbole_diffusion.config.RunConfig`, RecBole's ``Config``, or a dict.

    Raises:
        UserError: a key is missing or its value does not fit; names the key, what it got, what is allowed.
    """
    hints = typing.get_type_hints(options_class)
    where = getattr(config, "origin", None)
    arguments: dict[str, Any] = {}
    for option in dataclasses.fields(typing.cast(Any, options_class)):
        if not option.init:
            continue
        if option.name not in config:
            if option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING:
                raise UserError(f"key '{option.name}' is not set and {options_class.__qualname__} needs it")
            continue
        value = config[option.name]
        try:
            arguments[option.name] = fit(value, hints[option.name])
        except NotAllowedError as error:
            origin = f" ({where(option.name)})" if callable(where) else ""
            raise UserError(f"{option.name} must be {error}, got {value!r}{origin}") from None
    try:
        return options_class(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(with_origins(str(error), options_class, config)) from error


def with_origins(message: str, options_class: type, config: Any) -> str:
    """A message about a model's keys, with where a person gave those that it names.

    Args:
        message: names keys, or the `package.module:Name` that one of them has.
        options_class: the model's dataclass of options.
        config: a :class:`~recbole_diffusion.config.RunConfig`; of any other the message is left as it is.
    """
    if not callable(getattr(config, "is_given", None)):
        return message
    names = [option.name for option in dataclasses.fields(typing.cast(Any, options_class))]
    named = {}
    for key in (*names, "MAX_ITEM_LIST_LENGTH"):
        if config.is_given(key):
            value = str(config[key])
            if re.search(rf"\b{re.escape(key)}\b", message) or (":" in value and value in message):
                named[key] = config.origin(key)
    if not named:
        return message
    places = set(named.values())
    where = places.pop() if len(places) == 1 else ", ".join(f"{key}: {place}" for key, place in named.items())
    return f"{message} ({where})"


def options_layer(options_class: type) -> Layer:
    """The defaults that a model's dataclass of options declares."""
    if not dataclasses.is_dataclass(options_class):
        raise UserError(f"{options_class.__qualname__} must be a frozen dataclass, it is a model's Options")
    values: dict[str, Any] = {}
    for option in dataclasses.fields(options_class):
        if option.default is not dataclasses.MISSING:
            values[option.name] = option.default
        elif option.default_factory is not dataclasses.MISSING:
            values[option.name] = option.default_factory()
    return Layer(values, dict.fromkeys(values, f"{options_class.__module__}:{options_class.__qualname__}"))


def at_least(options: Any, minimum: int, keys: Sequence[str]) -> None:
    """Refuse numbers that are too small; `None` is for keys that may be absent.

    Raises:
        ValueError: one of `keys` is below `minimum`.
    """
    for key in keys:
        value = getattr(options, key)
        if value is not None and value < minimum:
            raise ValueError(f"{key} is {value}; it must be {minimum} or more")
