"""Names of files that are not UTF-8."""

import io
import json
import os

import pytest

from dlaseg.files import write_json, write_text
from dlaseg.text import ESCAPE, printable, to_json

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
