import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.data.names import abbreviated, escape_name, read_names, unescape_name, write_names
from dlaseg.errors import UserError

UNUSUAL = [
    *("#1", "##", " lead", "trail ", "back\\slash", "\\x41", "new\nline", "carriage\r", "tab\t"),
    *("\ufeffmark", "no\xa0break\xa0", "Straße 7/été", os.fsdecode(b"latin\xe9"), os.fsdecode(b"\xc3"), " ", "\\"),
]


@pytest.mark.parametrize("name", ["a", "ulm/ulm_000_7", "a b.c", "x#1", "Straße 7/été", "ファイル"])
def test_a_plain_name_is_written_as_it_is(name):
    assert escape_name(name) == name


def test_a_list_of_unusual_names_is_utf_8_and_reads_back(tmp_path):
    write_names(tmp_path / "list.txt", UNUSUAL)
    assert list(read_names(tmp_path / "list.txt").items()) == list(
        zip(UNUSUAL, range(1, 1 + len(UNUSUAL)), strict=True)
    )
    assert len((tmp_path / "list.txt").read_text(encoding="utf-8").splitlines()) == len(UNUSUAL)


@given(st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape")))
def test_any_file_name_becomes_one_printable_line_and_back(name):
    text = escape_name(name)
    assert text.isprintable()
    assert text == text.strip() != ""
    assert not text.startswith("#")
    assert unescape_name(text) == name


@pytest.mark.parametrize("name", ["a\\b", "\\x", "\\xg0", "\\x4", "\\n"])
def test_a_backslash_in_a_list_that_people_write_is_a_backslash(name):
    assert unescape_name(name) == name


def test_two_spellings_of_a_name_are_the_same_name(tmp_path):
    (tmp_path / "list.txt").write_text("A\n\\x41\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: '\\\\x41' is also in line 1"):
        read_names(tmp_path / "list.txt")


def test_many_names_are_abbreviated_to_the_first_ones():
    assert abbreviated({"c", "a", "b"}) == "a, b, c"
    assert abbreviated(list("edcba")) == "a, b, c and 2 more"
    assert abbreviated(["x\n"]) == "x\\x0a"
