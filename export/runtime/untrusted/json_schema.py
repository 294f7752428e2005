"""Whether a JSON value has the shape that is asked for, and where it has not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Within:
    """A number between two others, both included."""

    kind: type
    least: float
    most: float


# A type, a tuple of types, a number's bounds, a text's pattern, or an object of schemas, in which "*" stands for every
# name; a list holds the schema of its members.
Schema = Any
Kind = type | tuple[type, ...] | Within | re.Pattern[str]


def broken(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """Yield a line for each place where a JSON value has not the shape of a schema."""
    if isinstance(schema, dict):
        yield from _broken_object(value, schema, where)
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{where or 'it'} is no list"
            return
        for number, child in enumerate(value):
            yield from broken(child, schema[0], f"{where}[{number}]")
    elif not _is(value, schema):
        yield f"{where or 'it'} is {value!r:.40}, not {_told(schema)}"


def _broken_object(value: Any, schema: Mapping[str, Schema], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where or 'it'} is no object"
        return
    for name, inner in schema.items():
        if name == "*":
            for key, child in value.items():
                yield from broken(child, inner, f"{where}.{key:.80}".lstrip("."))
        elif name not in value:
            yield f"{f'{where}.{name}'.lstrip('.')} is missing"
        else:
            yield from broken(value[name], inner, f"{where}.{name}".lstrip("."))


def _is(value: Any, kind: Kind) -> bool:
    if kind is object:
        return True
    if isinstance(kind, Within):
        return _is(value, kind.kind) and kind.least <= value <= kind.most
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, kinds)


def _told(kind: Kind) -> str:
    """Return what was expected, in words."""
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if isinstance(kind, Within):
        return f"{words[kind.kind]} from {kind.least} to {kind.most}"
    if isinstance(kind, re.Pattern):
        return f"a text like {kind.pattern}"
    return " or ".join(words[each] for each in (kind if isinstance(kind, tuple) else (kind,)))
