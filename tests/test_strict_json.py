import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.errors import UserError
from dlaseg.strict_json import MAX_DEPTH, InvalidJSONError, parse_json, read_json, read_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_json_writes_is_read(value):
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value: line 1 column 1"),
        ("{", "not JSON: "),
        ("[1,]", "not JSON: "),
        ("1 2", "not JSON: Extra data"),
        ("[" * 1_000_000, "nested more than 20 levels deep"),
        ('{"a":' * 100_000, "nested more than 20 levels deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 20 levels deep"),
        ('{"a": 1, "a": 2}', "key 'a' occurs twice"),
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "key 'b' occurs twice"),
        ("NaN", "NaN: not a number of JSON"),
        ("[-Infinity]", "-Infinity: not a number of JSON"),
        ("1e400", "number 1e400: not finite"),
        ("-1e999999999999", "number -1e999999999999: not finite"),
        ("9223372036854775808", "number 9223372036854775808: more than 64 bits"),
        ("9" * 100_000, "number 99999999999999999999...: more than 64 bits"),
        ('"\\ud800"', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ("[" * 5_000_001, "more than 5000000 lists and objects"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(InvalidJSONError) as caught:
        parse_json(text)
    assert message in str(caught.value)


def test_the_deepest_nesting_whole_pairs_of_surrogates_and_64_bits_are_read():
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(deepest)) == deepest
    assert parse_json('"\\ud83d\\ude97"') == "🚗"
    assert parse_json(f"[{-(2**63)}, {2**63 - 1}]") == [-(2**63), 2**63 - 1]


def test_nan_is_read_where_it_is_allowed():
    nan, infinity = parse_json("[NaN, -Infinity]", allow_nan=True)
    assert math.isnan(nan)
    assert infinity == -math.inf


def test_a_file_is_refused_by_its_name(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: not a test \(No such file or directory\): use a test$"):
        read_json(path, "a test")
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"a\.json: not a test \('utf-8' codec can't decode"):
        read_json(path, "a test")
    path.write_text("[1]")
    assert read_json(path, "a test") == [1]
    with pytest.raises(ValueError, match="more than 2 bytes"):
        read_text(path, most=2)
    assert read_text(path, most=3) == "[1]"
