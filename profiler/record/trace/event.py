"""One event of a trace, as it stands in the file: only the fields that are used."""

from __future__ import annotations

from typing import Any

import msgspec

Scalar = int | float | str | bool | None

_NAMES = {
    "external": "External id",
    "external_2021": "external id",
    "index": "Ev Idx",
    "index_2022": "Profiler Event Index",
    "collective": "Collective name",
    "elements": "In msg nelems",
    "members": "Group size",
    "allocated": "Total Allocated",
    "reserved": "Total Reserved",
    "device_type": "Device Type",
    "device_id": "Device Id",
    "stack": "Call stack",
    "python": "Python id",
    "python_parent": "Python parent id",
    "dims": "Input Dims",
    "dims_2021": "Input dims",
    "types": "Input type",
    "values": "Concrete Inputs",
}

_UNSAID = msgspec.Raw(b"")


class Args(msgspec.Struct, gc=False, rename=_NAMES):
    """What an event says beside its time. Any of it may be missing, and any number may be a string.

    Each field costs reading time in every event, said or not: none is here that nobody asks for.
    """

    correlation: Scalar = None
    external: Scalar = None
    external_2021: Scalar = None
    device: Scalar = None
    stream: Scalar = None
    bytes: Scalar = None
    size: Scalar = None  # of a copy, as ROCm's runtime calls say it
    index: Scalar = None
    index_2022: Scalar = None
    collective: Scalar = None
    dtype: Scalar = None
    elements: Scalar = None
    members: Scalar = None  # of a collective's group
    allocated: Scalar = None
    reserved: Scalar = None
    device_type: Scalar = None
    device_id: Scalar = None
    stack: Scalar = None  # of Python, the innermost frame first
    python: Scalar = None  # number of a function's call
    python_parent: Scalar = None
    dims: msgspec.Raw = _UNSAID  # of an operator's arguments; as they stand, since they are looked at for few
    dims_2021: msgspec.Raw = _UNSAID
    types: msgspec.Raw = _UNSAID
    values: msgspec.Raw = _UNSAID


class Event(msgspec.Struct, gc=False):
    """An event. Times are microseconds."""

    ph: str = ""
    cat: str | None = None
    name: Scalar = None
    pid: Scalar = None
    tid: Scalar = None
    ts: float | None = None
    dur: float | None = None
    args: Args | None = None


_FIELDS = ("ph", "cat", "name", "pid", "tid", "ts", "dur", "args")
_events = msgspec.json.Decoder(list[Event], strict=False)
_event = msgspec.json.Decoder(Event, strict=False)
_texts = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder()
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_all(text: bytes) -> list[Event]:
    """The events of a JSON array. Raises one of `UNREADABLE`."""
    return _events.decode(text)


def texts_of(text: bytes) -> list[bytes]:
    """What a JSON array holds, as it stands. Raises one of `UNREADABLE`."""
    return list(map(bytes, _texts.decode(text)))


def decode_one(text: bytes) -> Event | None:
    """The event of a JSON object; what is of a wrong type in it is left out. Raises one of `UNREADABLE`."""
    try:
        return _event.decode(text)
    except msgspec.ValidationError:
        return _tolerant(_anything.decode(text))


def decode_object(text: bytes) -> dict[str, Any]:
    """A JSON object as it stands. Raises one of `UNREADABLE`."""
    value = _anything.decode(text)
    return value if isinstance(value, dict) else {}


def _tolerant(value: object) -> Event | None:
    """An event of what is of the right type; None where it is no object, or has no time that can be read."""
    if not isinstance(value, dict):
        return None
    args = value.get("args")
    plain: dict[str, Any] = {name: value.get(name) for name in _FIELDS[:-1]}
    if isinstance(args, dict):
        plain["args"] = {name: given for name, given in args.items() if _is_scalar(given)}
    for name, given in plain.items():
        if name != "args" and not _is_scalar(given):
            plain[name] = None
    plain["ph"] = str(plain["ph"] or "")
    plain["cat"] = str(plain["cat"] or "")
    try:
        return msgspec.convert(plain, Event, strict=False)
    except msgspec.ValidationError:
        return None


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, int | float | str | bool)
