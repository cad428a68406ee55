"""Reads YAML: plain values only, each key once, and no file that grows or nests without end."""

import re
from pathlib import Path
from typing import Any

import yaml

from dlaseg.errors import UserError

MAX_BYTES = 1 << 20
"""Largest file. Configs and classes files have a few kilobytes."""

MAX_DEPTH = 20
"""Deepest nesting of lists and mappings, aliases followed."""

MAX_VALUES = 100_000
"""Most values, those behind an alias counted as often as they are repeated."""


MAX_DIGITS = 300
"""Longest integer; no float is larger, and Python does not write those of thousands of digits as text."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_MISLEADING = re.compile(r"[-+]?0[0-9_]+$|.*:")
"""Numbers of YAML 1.1 in base 8, 010, and in base 60, 1:30."""


class RefusedYAML(yaml.MarkedYAMLError):
    """Correct YAML that is refused: a key that occurs twice, a misleading number, or too many or too deep values."""


def read_yaml(path: Path, what: str = "a YAML file") -> Any:
    """Reads a YAML file.

    Args:
        path: the file.
        what: what the file should be, for the message.

    Raises:
        UserError: the file cannot be read, is too large, is not UTF-8 text, or as `parse_yaml`; names the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}: use {what} that can be read") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: more than {MAX_BYTES >> 20} MiB, which is not {what} of dlaseg: use another file")
    try:
        return parse_yaml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text: save the file as UTF-8") from error
    except RefusedYAML as error:
        raise UserError(f"{path}, {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({_one_line(error)})") from error


def parse_yaml(text: str) -> Any:
    """Parses YAML of plain values: dicts, lists, strings, numbers, booleans, dates and None.

    Raises:
        RefusedYAML: a key that occurs twice in a mapping, more than `MAX_VALUES` values, nesting beyond `MAX_DEPTH`, or
            a number in base 8 or 60.
        yaml.YAMLError: anything else that cannot be parsed.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError:
        raise
    except Exception as error:  # of Python, from a value that does not fit its tag, such as `!!bool 3` or 2024-99-99
        raise yaml.YAMLError(f"a value cannot be read: {type(error).__name__} {error}") from error


class _Loader(yaml.SafeLoader):
    """Checks the nodes of a document before any value is made of them."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.nodes = self.values = 0

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        self.check(node, 1)
        return self.construct_document(node)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        _check_limits(self.depth, self.nodes, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def check(self, node: yaml.Node, depth: int) -> None:
        """Visits values as often as aliases repeat them; the limits also end an alias that contains itself."""
        self.values += 1
        _check_limits(depth, self.values, node.start_mark)
        if len(node.value) > MAX_DIGITS and node.tag == "tag:yaml.org,2002:int":
            problem = f"an integer of more than {MAX_DIGITS} digits: put text in quotes"
            raise RefusedYAML(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _MISLEADING.match(node.value):
            meaning = f"{node.value:.20} means {self.construct_object(node)!s:.20} in YAML"
            problem = f"{meaning}: write the number that is meant, or put text in quotes"
            raise RefusedYAML(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            self.check_keys(node)
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        for child in children:
            self.check(child, depth + 1)

    def check_keys(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # cannot be a key of a dict: the constructor refuses it
            merge = key.tag == "tag:yaml.org,2002:merge"  # <<, which has no value of its own
            value = key.value if merge else self.construct_object(key)
            if value in lines:
                problem = f"key {key.value!r:.80} occurs twice, first in line {lines[value]}: keep one of the two"
                raise RefusedYAML(problem=problem, problem_mark=key.start_mark)
            lines[value] = key.start_mark.line + 1


def _check_limits(depth: int, values: int, mark: yaml.Mark) -> None:
    if depth > MAX_DEPTH:
        raise RefusedYAML(problem=f"nested more than {MAX_DEPTH} levels deep: write it flatter", problem_mark=mark)
    if values > MAX_VALUES:
        problem = f"more than {MAX_VALUES} values, repetitions by aliases included: write a shorter file"
        raise RefusedYAML(problem=problem, problem_mark=mark)


def _one_line(error: yaml.YAMLError) -> str:
    """Place and problem; PyYAML's own text spans several lines and quotes the document."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = ", ".join(filter(None, (error.context, error.problem)))
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return " ".join(str(error).split())
