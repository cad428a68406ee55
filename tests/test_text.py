import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.cli import COMMANDS, main
from dlaseg.errors import UserError
from dlaseg.text import LONGEST, escaped, one_line


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
