"""Frozen values as JSON, and back by their types.

In:  dataclasses of plain values, tuples, dicts, bytes and other such dataclasses.
Out: bytes of JSON. Reading raises ValueError where the text does not hold such a value; a field that is unknown is
     skipped and one that is missing takes its default, so that versions can read each other.
"""

from __future__ import annotations

import base64
import json
import types
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Value = TypeVar("Value")
_Read = Callable[[Any], Any]


def to_json(value: Any) -> bytes:
    """A dataclass as JSON."""
    return json.dumps(asdict(value), default=_plain, separators=(",", ":")).encode("ascii")


def from_json(kind: type[Value], text: bytes) -> Value:
    """The value of type `kind` in a text. Raises ValueError."""
    try:
        result: Value = _reader(cast(Any, kind))(json.loads(text))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a stored {kind.__name__}: {error}") from error
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    item = getattr(value, "item", None)  # a number of numpy's
    return item() if callable(item) else str(value)


@cache
def _reader(kind: Any) -> _Read:
    """How to read a value of a type."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Union or origin is types.UnionType:
        inner = [_reader(part) for part in of if part is not type(None)]
        return lambda value: None if value is None else inner[0](value)
    if origin is tuple:
        return _tuple(of)
    if origin is list:
        item_of = _reader(of[0])
        return lambda value: [item_of(item) for item in value]
    if origin is dict:
        key_of: _Read = int if of[0] is int else str
        value_of = _reader(of[1])
        return lambda value: {key_of(key): value_of(item) for key, item in value.items()}
    if is_dataclass(kind):
        return _dataclass(kind)
    if kind is bytes:
        return base64.b64decode
    if kind in (float, int, str, bool):
        return _number(kind)
    return lambda value: value


def _number(kind: Any) -> _Read:
    def read(value: Any) -> Any:
        if not isinstance(value, (kind, int) if kind is float else kind):
            raise TypeError(f"{value!r:.40} is no {kind.__name__}")
        return kind(value)

    return read


def _tuple(of: tuple[Any, ...]) -> _Read:
    if len(of) == 2 and of[1] is Ellipsis:
        item = _reader(of[0])
        return lambda value: tuple(item(each) for each in value)
    items = [_reader(part) for part in of]
    return lambda value: tuple(read(each) for read, each in zip(items, value, strict=True))


def _dataclass(kind: Any) -> _Read:
    hints = get_type_hints(kind)
    known = [
        (field.name, _reader(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    ]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r:.40} is no {kind.__name__}")
        given = {name: read_item(value[name]) for name, read_item, needed in known if needed or name in value}
        return kind(**given)

    return read
