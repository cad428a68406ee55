"""Small videos for tests, and what OpenCV cannot write: rotation and a variable frame rate."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def frame_image(number: int, height: int = 48, width: int = 64) -> Any:
    """A frame, RGB: red on top, and a grey that says the number, which survives a lossy codec."""
    image = np.full((height, width, 3), 30 + number % 13 * 16, np.uint8)
    image[: height // 4] = (230, 20, 20)
    return image


def number_of(image: Any) -> int:
    """The number of a frame of `frame_image`, 0 to 12."""
    return round((float(image[image.shape[0] * 3 // 4].mean()) - 30) / 16)


def write_video(
    path: Path, frames: int = 12, rate: float = 10.0, fourcc: str = "mp4v", height: int = 48, width: int = 64
) -> Path:
    """Writes a video of `frame_image`s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), rate, (width, height))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(cv2.cvtColor(frame_image(number, height, width), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def read_video(path: Path) -> tuple[list[Any], float]:
    """The frames, RGB, and the rate."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames, capture.get(cv2.CAP_PROP_FPS)


def turn(path: Path) -> None:
    """Says in an MP4 that it is to be shown turned clockwise by 90 degrees (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 16] = struct.pack(">4i", 0, 0x10000, 0, -0x10000)
    path.write_bytes(content)


def retime(path: Path, durations: Sequence[int]) -> None:
    """Gives each frame of an MP4 a duration, in frames of the constant rate (ISO 14496-12, 8.6.1.2)."""
    content = path.read_bytes()
    place = content.index(b"stts") - 4
    size, _, _, _, _, delta = struct.unpack_from(">I4sIIII", content, place)
    entries = b"".join(struct.pack(">II", 1, delta * duration) for duration in durations)
    table = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(durations)) + entries
    grown = bytearray(content[:place] + table + content[place + size :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = content.index(box) - 4
        struct.pack_into(">I", grown, start, struct.unpack_from(">I", content, start)[0] + len(table) - size)
    path.write_bytes(grown.replace(b"edts", b"free"))  # the edit list has the old duration
