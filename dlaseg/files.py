"""Atomic writing: a file is written under a temporary name and then renamed. And the hash of a file."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlaseg.errors import UserError
from dlaseg.text import ESCAPE, to_json


def check_folder(path: Path) -> None:
    """Checks, before long work, that its results can go to a folder, which need not exist and is not made.

    Raises:
        UserError: the folder, or the nearest one above it that exists, is no folder or not writable.
    """
    existing = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not existing.is_dir():
        raise UserError(f"{path}: cannot be a folder ({existing} is not a folder): name another output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written to (no permission for {existing}): name another output")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file in the same folder; renames it to `path` on success, removes it on failure.

    Missing parent folders are created. A reader of `path` sees the old file or the new one, never a part of one.

    Args:
        path: the file to create or replace. The temporary name has the same suffix, which some encoders depend on.

    Raises:
        UserError: something is there that is no file, such as /dev/stdout, which the new file would replace.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file: name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name has 255 bytes at most, and a character up to 4
    temporary = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(6)}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, sync: bool = False) -> None:
    """Writes a binary file atomically.

    Args:
        path: the file to create or replace.
        content: of the file.
        sync: waits until the content is on the disk before the old file is replaced, so that a power cut leaves one of
            the two.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if sync:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())


def write_text(path: Path, content: str) -> None:
    """Writes a UTF-8 text file atomically; names of files that are not UTF-8 are escaped, see `dlaseg.text`."""
    write_bytes(path, content.encode("utf-8", ESCAPE))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically, indented; raises a ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, to_json(content, indent=2) + "\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
