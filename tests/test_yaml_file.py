"""What a YAML file may hold."""

from itertools import pairwise

import pytest
import yaml

from dlaseg import yaml_file
from dlaseg.errors import UserError
from dlaseg.yaml_file import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml

LETTERS = "abcdefghijk"


@pytest.fixture
def refused(tmp_path):
    """The message that refuses a file of this content."""

    def message(content):
        path = tmp_path / "a.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError) as caught:
            read_yaml(path)
        line = str(caught.value)
        assert line.startswith(str(path))
        assert line.isprintable()
        assert len(line) < len(str(path)) + 300
        return line.removeprefix(str(path))

    return message


def test_plain_values_are_read_as_pyyaml_reads_them(tmp_path):
    text = "a: [1, 1.5, x, null, no, {b: c}]\n'1': {}\n1: ü\nb: ['010', '1:30', 0, 0x10, 1_000, 0.5, 00.5, 12:ab]"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8-sig")  # some editors write a byte order mark
    assert read_yaml(tmp_path / "a.yaml") == yaml.safe_load(text)
    assert parse_yaml("") is None


def test_anchors_and_merge_keys_are_read(tmp_path):
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2, y: 3}\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 2, "y": 3},
        "c": [{"x": 1}, {"x": 1}],
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", ", line 3, column 1: key 'a' occurs twice, first in line 1: "),
        ("a:\n  b: 1\n  'b': 1\n", ", line 3, column 3: key 'b' occurs twice, first in line 2: "),
        ("[{16: a,\n 0x10: b}]", ", line 2, column 2: key '0x10' occurs twice, first in line 1: "),
        ("a: &a {x: 1}\nb: {<<: *a,\n <<: *a}", ", line 3, column 2: key '<<' occurs twice"),
        ("a" * 500 + ": 1\n" + "a" * 500 + ": 1\n", ", line 2, column 1: key 'aaa"),
    ],
)
def test_a_key_that_occurs_twice_is_refused_by_its_place(refused, text, place):
    assert refused(text).startswith(place)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "[" * 50_000 + "]" * 50_000,
        "{a: " * 50_000,
        "- " * 50_000,
        "? " * 50_000,
        "".join(f"{' ' * i}a:\n" for i in range(500)),
        "&a [*a]",
        "&a {x: *a}",
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 500)),
    ],
)
def test_nesting_without_end_is_refused(refused, text):
    assert "nested more than 20 levels deep" in refused(text)


def test_the_deepest_nesting_and_the_most_values_are_read(refused, monkeypatch):
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert str(parse_yaml(deepest)) == deepest
    assert "nested more than 20 levels deep" in refused(f"[{deepest}]")
    monkeypatch.setattr(yaml_file, "MAX_VALUES", 4)
    assert parse_yaml("[1, 2, 3]") == [1, 2, 3]
    assert "more than 4 values" in refused("[1, 2, 3, 4]")


def test_aliases_that_repeat_each_other_are_refused(refused):
    lines = (f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise(LETTERS))
    assert "more than 100000 values, repetitions by aliases included" in refused("a: &a [x]\n" + "\n".join(lines))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: 1\nb: \xe9", ", line 2: not UTF-8 text: save the file as UTF-8"),
        ("a: b".encode("utf-16"), ", line 1: not UTF-8 text: "),
        (b"a: \x00", ": not YAML (unacceptable character"),
        (b"a: [", ": not YAML (line 1, column 5: while parsing a flow node"),
        (b"a: 1\n---\nb: 2", ": not YAML (line 2, column 1: expected a single document"),
        (b"? [a]\n: b", ": not YAML (line 1, column 3: while constructing a mapping, found unhashable key)"),
        (b"!!python/object:os.system []", ": not YAML (line 1, column 1: could not determine a constructor"),
        # Python's own errors from PyYAML's constructors
        (b"a: 2024-99-99", ": not YAML (a value cannot be read: "),
        (b"a: !!bool 3", ": not YAML (a value cannot be read: "),
        (b"a: " + b"9" * 5000, ", line 1, column 4: an integer of more than 300 digits: put text in quotes"),
        (b"a: 010", ", line 1, column 4: 010 means 8 in YAML: write the number that is meant, or put text in quotes"),
        (b"a: 0_10", ", line 1, column 4: 0_10 means 8 in YAML: "),
        (b"a: [-010]", ", line 1, column 5: -010 means -8 in YAML: "),
        (b"a: 1:30", ", line 1, column 4: 1:30 means 90 in YAML: "),
        (b"a: 1:30.5", ", line 1, column 4: 1:30.5 means 90.5 in YAML: "),
        (b"010: a", ", line 1, column 1: 010 means 8 in YAML: "),
        (b"#" * MAX_BYTES + b"\n", ": more than 1 MiB, which is not a YAML file of dlaseg"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(refused, content, reason):
    assert refused(content).startswith(reason)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path, tmp_path / "null\0"):
        with pytest.raises(UserError, match=r": use a config that can be read$"):
            read_yaml(path, "a config")
