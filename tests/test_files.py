import json
import os
from pathlib import Path

import pytest

from dlaseg.errors import UserError
from dlaseg.files import check_folder, replacing, write_bytes, write_json, write_text


@pytest.fixture
def umask():
    """Sets the process's umask, and puts the old one back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_a_written_file_stands_at_its_place_and_nothing_else(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_an_old_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def fail_half_way(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        fail_half_way(path, error)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_failure_where_no_file_was_leaves_none(tmp_path):
    with pytest.raises(OSError, match="full"):
        fail_half_way(tmp_path / "a.txt", OSError("full"))
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_removes_its_file_is_no_success(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


def test_the_temporary_is_beside_its_place_with_the_same_suffix(tmp_path):
    with replacing(tmp_path / "a.tar.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".gz"
        assert temporary.name.startswith(".")


def test_missing_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "new")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mask, mode):
    umask(mask)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert umask(mask) == mask


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: not a regular file: name another file$"):
        write_text(tmp_path / "pipe", "new")
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


def test_a_folder_that_can_be_written_to_is_not_made_by_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "a/b", Path("a"), Path()):
        check_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_link_to_nowhere_is_no_folder_for_results(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        for folder in (tmp_path / name, tmp_path / name / "a/b"):
            with pytest.raises(UserError) as error:
                check_folder(folder)
            reason = f"cannot be a folder ({tmp_path / name} is not a folder): name another output"
            assert str(error.value) == f"{folder}: {reason}"


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK | os.X_OK))  # root may all
    for folder in (tmp_path, tmp_path / "a/b"):
        with pytest.raises(UserError) as error:
            check_folder(folder)
        assert str(error.value) == f"{folder}: cannot be written to (no permission for {tmp_path}): name another output"


def test_bytes_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\r\n\0\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\r\n\0\xff"


def test_text_is_written_as_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "Straße\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße\n".encode()


def test_json_is_read_back(tmp_path):
    content = {"miou": 0.5, "classes": {"road": None}, "names": ["a", "ß"]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": [value]})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
