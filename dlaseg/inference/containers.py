"""Whether a video file is whole, which OpenCV does not tell: it passes over holes."""

from collections.abc import Callable
from pathlib import Path

SEGMENT, CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
"""Ids of the elements of Matroska that hold a video, and some seconds of it."""


def is_whole(path: Path) -> bool:
    """Whether the parts that a video consists of follow each other up to the end of the file, without a hole.

    Those of Matroska, WebM and AVI are single frames. An MP4 has all of them in one part, so holes are not seen there.

    Args:
        path: of the file; other formats count as whole.
    """
    size, place = path.stat().st_size, 0
    with path.open("rb", buffering=0) as file:
        length = _format(file.read(8))
        while length and place < size:
            file.seek(place)
            step = length(file.read(16).ljust(16, b"\0"))
            if step is None:
                return False
            place += step
    return place <= size + 1  # the last part of an AVI may lack its padding


def _format(head: bytes) -> Callable[[bytes], int | None] | None:
    """What tells the lengths of the parts of a file that begins like that."""
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska
    if head.startswith(b"RIFF"):
        return _avi
    return _mp4 if head[4:] == b"ftyp" else None


def _matroska(head: bytes) -> int | None:
    """Bytes to the next element: into those of other elements, over the rest; None if it is no element (RFC 8794)."""
    to_size = 9 - head[0].bit_length()  # the leading zeros of an id or a size are the number of its further bytes
    if to_size > 4:
        return None
    to_data = to_size + 9 - head[to_size].bit_length()
    if head[:to_size] in (SEGMENT, CLUSTER):
        return to_data
    size = int.from_bytes(head[to_size:to_data], "big")
    return to_data + size % (1 << 7 * (to_data - to_size))


def _avi(head: bytes) -> int | None:
    """Bytes to the next chunk: into lists of frames, over the rest; None if it is no chunk."""
    if head.startswith(b"RIFF") or (head.startswith(b"LIST") and head[8:12] in (b"movi", b"rec ")):
        return 12
    size = int.from_bytes(head[4:8], "little")
    return 8 + size + size % 2 if any(head[:4]) else None


def _mp4(head: bytes) -> int | None:
    """Bytes to the next box; None if it is no box."""
    size = int.from_bytes(head[:4], "big")
    return (int.from_bytes(head[8:16], "big") if size == 1 else size) or None
