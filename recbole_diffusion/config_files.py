"""What a person gives: configuration files and overrides, layers in which every key knows where it was given.

Files are safe YAML 1.1 as RecBole's files use it, with these differences to ``yaml.safe_load``: ``1e-3`` is a number
(RecBole's files are written so); ``010``, ``0x1f``, ``12:30`` and dates are text and not numbers; a key given twice is
an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.errors import UserError

COMMAND_LINE = "command line"
CONFIG_ARGUMENT = "configuration dict"


@dataclass(frozen=True)
class Layer:
    """Keys of one source: ``values``, and in ``origins`` where each was given (``file:line``, ``command line`` ...)."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


class Overrides(dict[str, Any]):
    """Overriding keys that know where they come from, so that an error about one can say so (``origin``)."""

    def __init__(self, values: Mapping[str, Any] | None = None, *, origin: str = CONFIG_ARGUMENT) -> None:
        super().__init__(values or {})
        self.origin = origin
        self.origins: dict[str, str] = {}  # of keys that came from elsewhere

    def origin_of(self, key: str) -> str:
        """Where one key comes from."""
        return self.origins.get(key, self.origin)

    def over(self, stored: Mapping[str, Any], origin: str) -> Overrides:
        """These keys over ``stored`` ones, which came from ``origin`` (an earlier run's file)."""
        merged = Overrides({**stored, **self}, origin=self.origin)
        merged.origins = {**dict.fromkeys(set(stored) - set(self), origin), **self.origins}
        return merged


class Loader(yaml.SafeLoader):
    """The YAML reader described at the top of this module."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """One mapping of the document.

        Raises:
            yaml.constructor.ConstructorError: a key is given twice.
        """
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in lines:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key '{key_node.value}' is given twice, also in line {lines[key_node.value]}",
                    key_node.start_mark,
                )
            lines[key_node.value] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
              |[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?
              |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
              |[-+]?\.(?:inf|Inf|INF)
              |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))


def parse_value(text: str) -> Any:
    """The value that ``text`` has as YAML: ``1e-3`` a number, ``[5, 10]`` a list, ``~`` and RecBole's ``None`` None.

    Text that is no YAML, like the interval ``[5,inf)``, stays text, and so do blanks (a separator).
    """
    if text.strip() == "None":
        return None
    if text and not text.strip():
        return text
    loader = Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError):
        return text
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> Layer:
    """Read one configuration file.

    Raises:
        UserError: the file is absent, is no valid UTF-8 or YAML (with its line), repeats a key, or is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a configuration file is text in UTF-8; byte {error.start} is not") from error
    except OSError as error:
        raise UserError(f"cannot read the configuration file {path}: {error.strerror}") from error
    try:
        loader = Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: a character that YAML does not allow ({error.reason})") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return Layer()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(
                f"{path}:{node.start_mark.line + 1}: a configuration file holds lines 'key: value', this is "
                + ("a list" if isinstance(node, yaml.SequenceNode) else "text")
            )
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    origins: dict[str, str] = {}
    for key_node, _ in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            raise UserError(f"{where}: a key is a name, not {key_node.value!r}")
        origins[key_node.value] = where
    return Layer(values, origins)


def key_lines(path: str | Path) -> dict[tuple[str, ...], str]:
    """Where every key of a configuration file stands, those inside others too: their path -> ``file:line``.

    Entries of a list are numbered from 0. Call it after `read_yaml`, which refuses what cannot be read.
    """
    loader = Loader(Path(path).read_text(encoding="utf-8-sig"))
    try:
        root = loader.get_single_node()
    finally:
        loader.dispose()
    found: dict[tuple[str, ...], str] = {}

    def walk(node: yaml.Node | None, above: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*above, str(key.value))
                found[here] = f"{path}:{key.start_mark.line + 1}"
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                here = (*above, str(number))
                found[here] = f"{path}:{value.start_mark.line + 1}"
                walk(value, here)

    walk(root, ())
    return found


def given_layers(config_files: Sequence[str | Path], overrides: Mapping[str, Any]) -> list[Layer]:
    """What the user gives, lowest layer first."""
    if isinstance(config_files, (str, Path)):
        raise UserError(f"config_files must be a list of files, got {str(config_files)!r}")
    if not isinstance(overrides, Mapping):
        raise UserError(f"the configuration must be a dict of keys, got {overrides!r}")
    named = overrides if isinstance(overrides, Overrides) else Overrides(overrides)
    for key in named:
        if not isinstance(key, str):
            raise UserError(f"a key must be a name, got {key!r} ({named.origin})")
    values = {key: _native(value) for key, value in named.items()}
    return [*map(read_yaml, config_files), Layer(values, {key: named.origin_of(key) for key in values})]


def _native(value: Any) -> Any:
    """A copy of ``value`` in Python's own types: programs also pass numpy's numbers and paths."""
    if isinstance(value, Mapping):
        return {key: _native(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_native(entry) for entry in value]
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:  # without importing numpy here
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def taken(key: str, argument: Any, given: Sequence[Layer]) -> Any:
    """``argument``, else the highest layer's value of ``key``, or None; the key is taken out of the layers."""
    for layer in reversed(given):
        value = layer.values.pop(key, None)
        argument = value if argument is None else argument
    return argument


def chosen(key: str, argument: Any, given: Sequence[Layer]) -> Any:
    """As `taken`, for a key that a run cannot do without."""
    argument = taken(key, argument, given)
    if argument is None:
        raise UserError(f"no {key} is given; set --{key}=... or the key '{key}' in a configuration file")
    return argument
