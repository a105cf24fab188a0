"""Messages on the wire: JSON in the first frame, raw bytes (encoded video) in an optional second one."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from liveavatar.core import events, launch

PROTOCOL_VERSION = 1

_MESSAGE_TYPES: dict[str, type[Any]] = {
    message_type.__name__: message_type
    for union in (events.Command, events.WorkerEvent, launch.MachineMessage)
    for message_type in typing.get_args(union)
}

Dataclass = TypeVar("Dataclass")


class WireError(ValueError):
    """A message that this version does not understand."""


def encode(message: events.Command | events.WorkerEvent | launch.MachineMessage) -> list[bytes]:
    """Return the frames of one message. Field `data`, where there is one, travels as raw bytes."""
    fields = dataclasses.asdict(message)
    payload = fields.pop("data", None)
    head = json.dumps({"v": PROTOCOL_VERSION, "type": type(message).__name__, **fields}).encode()
    return [head] if payload is None else [head, payload]


def decode(frames: Sequence[bytes]) -> Any:
    """Return the message in `frames`. Raise WireError when it is not one of ours."""
    try:
        fields = json.loads(frames[0])
        version, name = fields.pop("v"), fields.pop("type")
        message_type = _MESSAGE_TYPES[name]
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise WireError(f"not a message: {error!r}") from error
    if version != PROTOCOL_VERSION:
        raise WireError(f"protocol version {version}, this side speaks {PROTOCOL_VERSION}")
    if len(frames) > 1:
        fields["data"] = bytes(frames[1])
    return from_json(message_type, fields)


def to_json(value: Any) -> str:
    """Return a dataclass as JSON text, for the job store."""
    return json.dumps(dataclasses.asdict(value))


def from_json(cls: type[Dataclass], fields: Mapping[str, Any]) -> Dataclass:
    """Build a (nested) frozen dataclass from parsed JSON. Raise WireError on unknown or missing fields."""
    hints = typing.get_type_hints(cls)
    unknown = set(fields) - set(hints)
    if unknown:
        raise WireError(f"{cls.__name__} has no field {sorted(unknown)}")
    try:
        return cls(**{name: _restore(hints[name], value) for name, value in fields.items()})
    except TypeError as error:
        raise WireError(f"{cls.__name__}: {error}") from error


def _restore(hint: Any, value: Any) -> Any:
    """Turn parsed JSON back into the annotated type: nested dataclasses, optionals and tuples."""
    if dataclasses.is_dataclass(hint):
        return from_json(cast("type[Any]", hint), value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _restore(next(arg for arg in args if arg is not type(None)), value)
    if origin is tuple:
        item_hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_restore(item_hint, item) for item_hint, item in zip(item_hints, value, strict=True))
    return value
