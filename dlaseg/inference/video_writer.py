"""Writes videos of colours and overlays.

They are MPEG-4 Part 2 (`mp4v`) in MP4: OpenCV's wheel has no encoder for H.264 or AV1, and VP9 takes 30 times as long,
0.13 s for a frame of 720 x 1280 pixels on one core.
"""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.captures import opencv_path

LONGEST_GAP = 60
"""Seconds from one frame to the next; more is a fault of the timestamps."""


class Ticks:
    """The place of each frame in a video of constant rate.

    Args:
        rate: frames per second.

    Attributes:
        end: the time when the last frame ends, seconds.

    Examples:
        >>> ticks = Ticks(10)
        >>> [ticks.at(seconds) for seconds in (0.5, 0.6, 0.61, 0.95)]  # the third has no place of its own
        [0, 1, 1, 4]
    """

    def __init__(self, rate: float):
        self._rate = rate
        self._origin = self._time = -math.inf
        self._tick = -1
        self.end = 0.0

    def at(self, seconds: float) -> int:
        """The place of the next frame, from 0; that of the frame before if there is none between the two.

        Args:
            seconds: time of the frame.
        """
        if 0 < seconds - self._time <= LONGEST_GAP:
            self._tick = max(self._tick, round((seconds - self._origin) * self._rate))
        else:  # the first frame, or timestamps that cannot be right
            self._tick += 1
            self._origin = seconds - self._tick / self._rate
        self._time = seconds
        self.end = (self._tick + 1) / self._rate
        return self._tick


def writable_rate(rate: float) -> float:
    """The nearest number of frames per second that OpenCV can write.

    It writes MPEG-4, whose rates are fractions of numbers up to 65535, and makes these of decimals.
    """
    return next((round(rate, digits) for digits in (3, 2, 1, 0) if rate * 10**digits <= 65535), 65535.0)


class VideoWriter:
    """Writes a video of constant rate.

    Args:
        path: of the file.
        height: of the frames.
        width: of the frames. OpenCV leaves the last row or column out where a size is odd.
        rate: frames per second.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, height: int, width: int, rate: float):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with opencv_path(path) as name:
            self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, fourcc, rate, (width, height))
        self._frames = 0
        self._last: NDArray[np.uint8] | None = None
        if not self._writer.isOpened():
            raise self._error()

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Adds a frame, after the one before was repeated until then; leaves it out if its place is taken.

        Args:
            picture: (H, W, 3) uint8, RGB.
            tick: place of the frame in the video, from 0.
        """
        while self._last is not None and self._frames < tick:
            self._add(self._last)
        self._last = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
        if self._frames == tick:
            self._add(self._last)

    def _add(self, picture: NDArray[np.uint8]) -> None:
        self._writer.write(picture)
        self._frames += 1

    def close(self) -> None:
        """Completes the file. OpenCV does not report that a disk is full, so the frames in the file are counted."""
        self._writer.release()
        if not self._frames:
            return
        with opencv_path(self.path) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if frames != self._frames:
            raise self._error()

    def _error(self) -> UserError:
        return UserError(f"{self.path}: the video cannot be written: make room or give another output folder")
