"""The fields of a config: meaning, type in plain words, and conversion of what people write to that type."""

import dataclasses
import datetime
import inspect
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

import yaml

from dlaseg.errors import UserError, nearest
from dlaseg.yaml_file import RefusedYAML, parse_yaml

LONGEST = 80
"""Most characters of a value that a message shows."""


@dataclass(frozen=True)
class Field:
    """A field of a config.

    Attributes:
        name: dotted, such as `train.lr`.
        type: annotation of the dataclass.
        default: its value unless it is set.
        meaning: from the docstring of the dataclass.
    """

    name: str
    type: Any
    default: Any
    meaning: str


def is_section(kind: Any) -> TypeGuard[type]:
    """Whether a type has fields of its own, as sections of a config and entries of some lists have."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def fields_of(config: Any, prefix: str = "") -> Iterator[Field]:
    """All fields of a config, those of its sections by dotted name.

    Args:
        config: an instance of a dataclass, whose values are the defaults.
        prefix: what the names begin with.
    """
    meanings = meanings_of(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_section(field.type):
            yield from fields_of(value, f"{name}.")
        else:
            yield Field(name, field.type, value, meanings.get(field.name, ""))


def meanings_of(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass, and of those that it extends, says about each field."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, arguments = (inspect.cleandoc(base.__doc__ or "")).partition("Args:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE):
            meanings[name] = " ".join(text.split())
    return meanings


class WrongTypeError(Exception):
    """A value that is not of the type of its field.

    Attributes:
        name: of the field, dotted; with the position in a list, such as `train.losses[1].weight`.
        value: as it was written.
        expected: the type in plain words.
        example: a value of that type, close to what was written where possible; None if `expected` shows all values.
        reason: another reason why the value cannot be read, if there is one.
    """

    def __init__(self, name: str, value: Any, expected: str, example: Any = None, reason: str = ""):
        super().__init__(name, value, expected)
        self.name, self.value, self.expected, self.example, self.reason = name, value, expected, example, reason


def convert(field: Field, value: Any) -> Any:
    """A value as the type of its field.

    Args:
        field: the field.
        value: from YAML or Python, or text of the command line.

    Raises:
        WrongTypeError: the value is of another type.
        UserError: an entry of a list has a value out of its range.
    """
    try:
        return _convert(value, field.type, field.name)
    except UserError:
        raise
    except RefusedYAML as error:
        raise WrongTypeError(field.name, value, in_words(field.type), reason=f"{error.problem}") from error
    except ValueError as error:
        raise WrongTypeError(field.name, value, in_words(field.type), _example(field, value)) from error


def _convert(value: Any, kind: Any, name: str) -> Any:
    origin, members = get_origin(kind), get_args(kind)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if origin in (Union, UnionType):
        return _convert_to_any_of(value, members, name)
    if kind is NoneType and value in (None, "null"):
        return None
    if origin is Literal and value in members:
        return value
    if kind is str:
        if type(value) is datetime.date:  # which YAML makes of 2024-05-01
            return value.isoformat()
        if isinstance(value, str):
            return value
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        if isinstance(value, (str, *numbers)) and not isinstance(value, bool):
            if kind is float and isinstance(value, int) and abs(value) > sys.float_info.max:
                return math.inf if value > 0 else -math.inf
            return kind(value)  # of text too: in YAML, 1e-3 is text
    if isinstance(value, str) and (kind is bool or origin in (list, tuple)):
        value = _parsed(value)
    if kind is bool and isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and origin is list:
        return [_convert_item(entry, members[0], f"{name}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, list | tuple) and origin is tuple and len(value) == len(members):
        return tuple(_convert(entry, member, name) for entry, member in zip(value, members, strict=True))
    raise ValueError(f"{value!r} is not {in_words(kind)}")


def _convert_to_any_of(value: Any, kinds: Sequence[Any], name: str) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind is str):  # text last: null is not the text "null"
        try:
            return _convert(value, kind, name)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is none of the types")


def _convert_item(entry: Any, kind: Any, name: str) -> Any:
    """An entry of a list, which may be a mapping for a dataclass, or one already."""
    if not is_section(kind):
        return _convert(entry, kind, name)
    if isinstance(entry, kind):
        entry = vars(entry)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{entry!r} is not a mapping")
    fields = {field.name: field for field in fields_of(kind(), f"{name}.")}
    values = {}
    for key, value in entry.items():
        full_name = f"{name}.{key}"
        if full_name not in fields:
            reason = f"unknown field: did you mean {nearest(full_name, list(fields))!r}?"
            raise WrongTypeError(full_name, value, in_words(kind), reason=reason)
        values[key] = convert(fields[full_name], value)
    return kind(**values)


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text)
    except RefusedYAML:
        raise
    except yaml.YAMLError:
        return text


def wrong_type_message(error: WrongTypeError) -> str:
    """A message for a file: the field, its value, what is expected, and how to write it."""
    key = error.name.rpartition(".")[2]
    example = "" if error.example is None else f", such as {key}: {inline(error.example)}"
    if error.value is None and not error.reason:
        return f"{error.name} has no value: {expectation(error)}{example}; or leave it out to get the default"
    return f"{error.name} {shown(error.value)}: {expectation(error)}{example}"


def expectation(error: WrongTypeError) -> str:
    """What is expected, or why the value cannot be read at all."""
    return error.reason or f"expected {error.expected}"


def shown(value: Any) -> str:
    """A value for a message."""
    text = value if isinstance(value, str) else inline(value)
    text = text or "''"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def in_words(kind: Any) -> str:
    """A type as people say it, such as `two whole numbers`."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return either([in_words(member) for member in members])
    if origin is Literal:
        return either(members)
    if origin is tuple:
        return f"{('', 'one', 'two', 'three', 'four')[len(members)]} {_plural(members[0])}"
    if origin is list:
        return f"a list of {_plural(members[0])}"
    if is_section(kind):
        return "a mapping"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}[kind]


def either(choices: Sequence[str]) -> str:
    """The choices as a phrase: `a, b or c`."""
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)


def _plural(kind: Any) -> str:
    return "mappings" if is_section(kind) else {int: "whole numbers", float: "numbers", str: "texts"}[kind]


def _example(field: Field, value: Any) -> Any:
    """What was probably meant; otherwise the default. None if there is nothing to show."""
    for candidate in _candidates(field.type, value):
        try:
            _convert(candidate, field.type, field.name)
            return candidate
        except (ValueError, WrongTypeError):
            continue
    all_said = field.type is bool or get_origin(field.type) is Literal
    return None if all_said else field.default


def _candidates(kind: Any, value: Any) -> Iterator[Any]:
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        yield int(value)
    lists = [member for member in (kind, *get_args(kind)) if get_origin(member) in (list, tuple)]
    if not lists or (isinstance(value, str) and not value.strip()):
        return
    if isinstance(value, str):
        words = re.split(r"[\s,;()]+|(?<=\d)x(?=\d)", value)  # 64 96, 64,96, 64x96, (64, 96)
        with suppress(RefusedYAML):
            yield [_parsed(word) for word in words if word]
            value = _parsed(value)
    entries = list(value) if isinstance(value, list | tuple) else [value]
    yield entries
    item = get_args(lists[0])[0]
    if is_section(item):
        first = dataclasses.fields(item)[0].name
        yield [entry if isinstance(entry, Mapping) else {first: entry} for entry in entries]


def inline(value: Any) -> str:
    """A value as YAML in one line, such as `[64,96]` or `[{name: dice}]`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        first, *others = dataclasses.asdict(value).items()
        defaults = dataclasses.asdict(type(value)())
        value = dict([first, *((name, entry) for name, entry in others if entry != defaults[name])])
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{inline(key)}: {inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(inline, value)) + "]"
    if type(value) not in (str, int, float, bool, NoneType):
        return str(value)
    flow = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=2**30)
    return flow.strip()[1:-1]
