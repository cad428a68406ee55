"""Text for files and terminals: names that are not UTF-8, and what controls a terminal."""

import io
import json
import logging
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.cli import COMMANDS, main
from dlaseg.errors import UserError
from dlaseg.files import write_json, write_text
from dlaseg.text import ESCAPE, LONGEST, escaped, one_line, percent, printable, to_json

NAME = os.fsdecode(b"caf\xe9 \xff.png")


def test_bytes_that_are_not_utf8_are_written_as_shells_write_them():
    assert printable(NAME) == r"caf\xe9 \xff.png"
    assert printable("Straße 街 \N{GRINNING FACE}") == "Straße 街 \N{GRINNING FACE}"
    assert printable("a\ud800b") == r"a\ud800b"


def test_json_is_valid_and_keeps_everything_else(tmp_path):
    content = {NAME: [NAME, {"names": (NAME, "街")}], "n": 1.5, "nothing": None, "flag": True}
    expected = {r"caf\xe9 \xff.png": [r"caf\xe9 \xff.png", {"names": [r"caf\xe9 \xff.png", "街"]}]}
    expected |= {"n": 1.5, "nothing": None, "flag": True}
    assert json.loads(to_json(content)) == expected
    assert "\\ud" not in to_json(content)  # half of a pair: strict readers refuse it
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
    plain = {"b": [1, "ä"], "a": {}}
    assert to_json(plain, indent=2) == json.dumps(plain, indent=2)
    with pytest.raises(ValueError, match="JSON"):
        to_json([float("nan")])


def test_text_files_are_utf8(tmp_path):
    write_text(tmp_path / "a.txt", f"{NAME} 街\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\xe9 \\xff.png 街\n"


def test_a_terminal_of_any_encoding_takes_it():
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, "ascii", errors=ESCAPE) as stream:
        stream.write(f"{NAME} é 街 \N{GRINNING FACE}")
        stream.flush()
        assert buffer.getvalue() == rb"caf\xe9 \xff.png \u00e9 \u8857 \U0001f600"


def test_a_wrong_byte_is_still_an_error_when_decoding():
    with pytest.raises(UnicodeDecodeError):
        b"\xe9".decode("utf-8", ESCAPE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("road", "road"),
        ("Straße 街道 🚗 خط‌کشی", "Straße 街道 🚗 خط‌کشی"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\tb\nc\r\0", r"a\tb\nc\r\x00"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202eevil", r"\u202eevil"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("a\\x1b", r"a\x1b"),
    ],
)
def test_what_controls_a_terminal_is_escaped(text, shown):
    assert escaped(text) == shown


@given(st.text())
def test_escaped_text_is_left_as_it_is(text):
    assert escaped(escaped(text)) == escaped(text)
    escaped(text).encode()
    assert len(one_line(text).splitlines()) <= 1


def test_one_line_joins_lines_and_leaves_out_the_middle_of_a_long_one():
    assert one_line("  a:\n    b\r\n\n c  d\n") == "a: b c  d"
    shortened = one_line("a" * 10_000 + "the remedy")
    assert len(shortened) == LONGEST + len(" ... ")
    assert shortened.startswith("aaa")
    assert shortened.endswith("the remedy")


def test_shares_are_shown_with_two_digits():
    assert [percent(share) for share in (0.70616, 1, 0, None)] == ["70.62", "100.00", "0.00", "-"]


def test_a_users_error_is_one_line_wherever_it_is_shown():
    error = UserError("class '\x1b[2J':\n  use another")
    assert str(error) == r"class '\x1b[2J': use another"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # as it comes from a loading process


def test_errors_and_the_log_reach_the_terminal_escaped(monkeypatch, capsys):
    def command(arguments):
        logging.getLogger("dlaseg").warning("classes %s", "\x1b[31mroad\nsky")
        raise OSError(2, "No such file", "a\x1b[2J\n.png")

    monkeypatch.setitem(COMMANDS, "train", command)
    assert main(["train"]) == 2
    log, error = capsys.readouterr().err.splitlines()
    assert log == r"classes \x1b[31mroad sky"
    assert error.startswith("dlaseg train: [Errno 2] No such file: 'a\\x1b[2J")
