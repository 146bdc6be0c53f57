"""Frozen configuration dataclasses and their strict JSON form; configurations may nest.

Knows nothing about models or files formats: a component subclasses `Config`, adds its fields with
defaults, and checks them in `__post_init__`.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import json
import operator
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from .errors import ConfigError
from .files import as_path, write_text
from .foreign import check_file, show

CONFIG_NAME = "config.json"

MOST_LAYERS, LARGEST_SIZE = 256, 1 << 24
"""Layers that a model may have, and its largest width, length or vocabulary: what is more is an
error or an attack, and would only be noticed after minutes of building or an overflow."""

# The parsed form takes 25 times as much memory, and YAML a second for each 100 kB.
_LARGEST_JSON, _LARGEST_YAML = 8 << 20, 128 << 10
_MOST_YAML_NODES = 100_000
_MOST_NUMBERS = 1_000_000  # of a range or an array that becomes a list


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: a frozen, keyword-only dataclass that is strict about JSON.

    Example:
        >>> from dallemini.config import Config
        >>> Config.from_dict({}).to_dict()
        {}
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from JSON values, refusing unknown keys and wrong types.

        Args:
            values: field name to value, as `to_dict` gives them; absent fields take their default.

        Raises:
            ConfigError: a key is unknown (the nearest known name is suggested), a required one is
                missing, or a value has the wrong type.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is made from a JSON object, not {show(values)}.")
        hints = _hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ConfigError(f"{cls.__name__} has no field {show(key)}.{suggest(key, fields)}")
        for name, field in fields.items():
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required and name not in values:
                raise ConfigError(f"{cls.__name__} needs the field {name!r}, which is missing.")
        checked = {key: coerce(cls, key, value, hints[key]) for key, value in values.items()}
        return cls(**checked)

    def check_types(self) -> None:
        """Check every field against its type hint, for use in `__post_init__`.

        Raises:
            ConfigError: a value has the wrong type.
        """
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(
                self, field.name, coerce(type(self), field.name, value, hints[field.name])
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values (tuples become lists)."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a configuration from a JSON file, or from YAML (`.yaml`, `.yml`).

        Raises:
            MissingFileError: the file does not exist.
            ConfigError: it is not valid JSON or YAML, or `from_dict` refuses it.
        """
        read = read_yaml if Path(path).suffix in (".yaml", ".yml") else read_json
        try:
            return cls.from_dict(read(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the configuration to a JSON file, one field a line.

        Raises:
            StorageError: the file cannot be written; an older one stays as it was.
        """
        write_text(as_path(path), json.dumps(self.to_dict(), indent=2) + "\n")


_known_hints: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a configuration's fields, which are long to work out."""
    if cls not in _known_hints:
        _known_hints[cls] = typing.get_type_hints(cls)
    return _known_hints[cls]


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file of at most 8 MiB.

    Raises:
        MissingFileError: the file does not exist.
        ConfigError: the file does not hold one valid JSON object.
    """
    check_file(path, error=ConfigError, largest=_LARGEST_JSON)
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid JSON ({_reason(error)}); download or write it again."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(values).__name__}.")
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a YAML file of at most 128 KiB; an empty file is an empty mapping.

    Raises:
        MissingFileError: the file does not exist.
        ConfigError: the file does not hold one valid YAML mapping.
    """
    check_file(path, error=ConfigError, largest=_LARGEST_YAML, may_be_empty=True)
    try:
        values = _parse_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except Exception as error:  # PyYAML's constructors fail in many ways
        raise ConfigError(f"{path} is not valid YAML ({_reason(error)}); correct it.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold names with values, not {type(values).__name__}.")
    return values


def _parse_yaml(text: str) -> Any:
    """Parse YAML 1.1 as PyYAML does, but take `1e-3` for the number that everybody means."""
    import yaml  # here, because few programs read YAML and all would wait for it

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _count_nodes(node, {})
    return loader.construct_document(node)


def _count_nodes(node: Any, known: dict[int, int]) -> int:
    """Return how many nodes a YAML node stands for when its aliases are written out.

    Raises:
        ValueError: they are too many, or it is an alias of itself.
    """
    if id(node) not in known:
        known[id(node)] = _MOST_YAML_NODES  # what an alias of itself is refused for
        children = node.value if isinstance(node.value, list) else ()
        total = 1
        for child in children:
            for part in child if isinstance(child, tuple) else (child,):
                total += _count_nodes(part, known)
        known[id(node)] = total
    if known[id(node)] > _MOST_YAML_NODES:
        raise ValueError("its aliases stand for too many values")
    return known[id(node)]


def _reason(error: Exception) -> str:
    """Say in a few words why a text could not be parsed."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "integer string conversion" in str(error):
        return "a number has too many digits"
    return " ".join(str(error).split())[:200] or type(error).__name__


def both_sides(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Return height and width, which one number stands for where they are equal.

    Example:
        >>> from dallemini.config import both_sides
        >>> both_sides(16), both_sides((16, 24))
        ((16, 16), (16, 24))
    """
    return (size[0], size[1]) if isinstance(size, tuple) else (size, size)


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """Return ' Did you mean ...?' with the nearest known name, or the list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:80] if isinstance(name, str) else "", names[:1000], n=1)
    if near:
        return f" Did you mean {show(near[0])}?"
    listed = ", ".join(names[:40])
    end = ", ..." if len(listed) > 500 or names[40:] else "."
    return f" Known: {listed[:500]}{end}" if names else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def coerce(cls: type, key: str, value: Any, hint: Any) -> Any:
    """Check one JSON value against its type hint and give it its own type.

    Lists become tuples, whole numbers floats, numbers of other libraries (numpy's) those of Python,
    and objects the configurations that they describe.

    Raises:
        ConfigError: the value has the wrong type.
    """
    if isinstance(value, range) or getattr(value, "ndim", 0) == 1:
        value = _listed(value)
    value = [*map(plain_number, value)] if isinstance(value, list | tuple) else plain_number(value)
    nested = _nested_config(hint)
    if nested is not None and isinstance(value, Mapping):
        try:
            return nested.from_dict(value)
        except ConfigError as error:
            raise ConfigError(f"{cls.__name__}.{key}: {error}") from error
    if not _fits(value, hint):
        raise ConfigError(f"{cls.__name__}.{key} must be {_describe(hint)}, not {show(value)}.")
    try:
        return _converted(value, hint)
    except OverflowError as error:
        raise ConfigError(f"{cls.__name__}.{key} is too large for a number.") from error


def _listed(value: Any) -> Any:
    """Return a range or a row of numbers of another library as a list, unless it is very long."""
    if len(value) > _MOST_NUMBERS:
        return value
    return list(value) if isinstance(value, range) else value.tolist()


def _converted(value: Any, hint: Any) -> Any:
    """Give a value that fits its hint the type of the hint, and so its entries."""
    if isinstance(value, list | tuple):
        options = (hint, *typing.get_args(hint))
        item = next((typing.get_args(form)[0] for form in options if _is_tuple(form)), object)
        return tuple(_converted(entry, item) for entry in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and _wants_float(hint) else value


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def plain_number(value: Any) -> Any:
    """Return a number of any kind, but no truth value, as one of Python; others as they are."""
    if type(value) in (bool, int, float) or getattr(value, "shape", ()) != ():
        return value
    if "bool" in str(getattr(value, "dtype", "")):
        return value
    if hasattr(value, "__index__") or hasattr(value, "__float__"):
        for turn in (operator.index, float):
            with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
                return turn(value)
    return value


def _describe(hint: Any) -> str:
    """Name what a type hint allows, for messages."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, options)) if options[1:] else repr(options[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_describe, options))
    if origin is collections.abc.Callable:
        return "a function"
    if origin is None and hint is not types.NoneType:
        return getattr(hint, "__name__", str(hint))
    return "None" if origin is None else str(hint)


def _nested_config(hint: Any) -> type[Config] | None:
    for option in typing.get_args(hint) or (hint,):
        if isinstance(option, type) and issubclass(option, Config):
            return option
    return None


def _wants_float(hint: Any) -> bool:
    options = typing.get_args(hint) or (hint,)
    return float in options and int not in options


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is collections.abc.Callable:
        return callable(value) and not isinstance(value, type)
    if _is_tuple(hint):
        item = typing.get_args(hint)[0]
        return isinstance(value, list | tuple) and all(_fits(entry, item) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
