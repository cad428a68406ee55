"""Where frames come from: video files and cameras."""

import math
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.containers import is_whole
from dlaseg.inference.sources import Source
from dlaseg.text import printable

# FFmpeg's log would repeat our messages without the file's name; it reads this with the first video
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

AHEAD = 4
"""Frames of a file that are read ahead."""

SLOWEST, FASTEST, USUAL = 0.1, 240, 30
"""Frames per second that a video may have, and those of one that has no rate, or the ticks of its clock as a rate."""

UNFINISHED = 0.5
"""Seconds that may be missing at the end of a whole video, because the number of frames may be an estimate."""

Frame = tuple[NDArray[np.uint8], float]
"""(H, W, 3) uint8 RGB, turned upright, and its time in seconds."""


class Video:
    """A video file, read in order.

    Args:
        path: of the file.
        max_pixels: larger frames are refused.

    Attributes:
        height: of the frames.
        width: of the frames.
        rate: frames per second.
        frames: number of frames as the file says, or an estimate; 0 if unknown.

    Raises:
        UserError: a file that OpenCV does not read as a video, or too many pixels.
    """

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        self._capture = _open(path)
        try:
            self.height, self.width, self.rate = _properties(self._capture)
            if self.height * self.width > max_pixels:
                raise UserError(
                    f"{path}: frames of {self.height} x {self.width} = {self.height * self.width:,} pixels, the limit "
                    f"is {max_pixels:,}: raise it (--max-pixels), or make the video smaller"
                )
        except UserError:
            self._capture.release()
            raise
        count, rate = self._capture.get(cv2.CAP_PROP_FRAME_COUNT), self._capture.get(cv2.CAP_PROP_FPS)
        self.frames = int(count) if math.isfinite(count) and count > 0 else 0
        self._duration = self.frames / rate if rate > 0 else 0.0

    def __iter__(self) -> Generator[Frame, None, None]:
        """Yields the frames while a thread reads ahead."""
        with ThreadPoolExecutor(1) as pool:
            reads = deque(pool.submit(self._read) for _ in range(AHEAD))
            while (frame := reads.popleft().result()) is not None:
                reads.append(pool.submit(self._read))
                yield frame

    def _read(self) -> Frame | None:
        found, image = self._capture.read()
        if not found or image.shape != (self.height, self.width, 3):
            return None
        return _rgb(image), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def close(self) -> None:
        """Closes the file; call it when no iterator is in use."""
        self._capture.release()

    def problem(self, frames: int, end: float) -> str | None:
        """What is wrong with a video of which that many frames were read; the last one ended after `end` seconds."""
        if not frames:
            return f"{self.path}: no frame can be read: replace the file, or convert it to another codec"
        if frames >= self.frames or (self._duration - end <= UNFINISHED and is_whole(self.path)):
            return None
        return (
            f"{self.path}: broken or truncated: only {frames} of {self.frames} frames can be read; their results were "
            "written: replace or repair the file"
        )


class Camera:
    """A camera. Frames that come while the network runs are dropped, so that a slow network falls behind no further.

    Args:
        source: of the camera.

    Raises:
        UserError: no such camera.
    """

    frames = 0

    def __init__(self, source: Source):
        assert source.camera is not None
        self.path = source.path
        self._capture = cv2.VideoCapture(source.camera)
        if not self._capture.isOpened():
            raise UserError(
                f"{self.path}: camera {source.camera} cannot be opened, or does not exist: connect it, and close other "
                "programs that use it"
            )
        self.height, self.width, self.rate = _properties(self._capture)
        self._newest: Frame | None = None
        self._changed = threading.Condition()
        self._closed = False

    def __iter__(self) -> Generator[Frame, None, None]:
        """Yields the newest frame each time, until the camera gives no more."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while True:
                with self._changed:
                    # With a timeout, since only then Ctrl-C is seen on all systems
                    while self._newest is None and not self._closed:
                        self._changed.wait(0.2)
                    if self._newest is None:
                        return
                    frame, self._newest = self._newest, None
                yield frame
        finally:
            self._closed = True
            thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._closed:
            found, image = self._capture.read()
            with self._changed:
                if found:
                    self._newest = _rgb(image), time.monotonic() - begin
                else:
                    self._closed = True
                self._changed.notify()

    def close(self) -> None:
        """Closes the camera."""
        self._capture.release()

    def problem(self, frames: int, end: float) -> str | None:
        """What is wrong with a camera that was not interrupted."""
        results = "; the results of those before were written" if frames else ""
        return f"{self.path}: gave no more frames after {end:.1f} seconds{results}: connect it again"


@contextmanager
def opencv_path(path: Path) -> Iterator[str]:
    """Yields a name of a video, to be read or created, that OpenCV can open.

    OpenCV crashes with names that are not UTF-8, so it gets a symbolic link instead of one. The path is absolute, since
    `http:a.mp4` would be a URL.
    """
    name = str(path.absolute())
    if name == printable(name):
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"video{path.suffix}")
        link.symlink_to(name)
        yield str(link)


def _open(path: Path) -> cv2.VideoCapture:
    with opencv_path(path) as name:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)  # other readers would take `a%03d.mp4` as a pattern
    if not capture.isOpened():
        capture.release()
        raise UserError(f"{path}: not a video that OpenCV reads, or its end is missing: replace or convert the file")
    return capture


def _properties(capture: cv2.VideoCapture) -> tuple[int, int, float]:
    """Height, width and frames per second."""
    height, width = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    rate = capture.get(cv2.CAP_PROP_FPS)
    return height, width, rate if SLOWEST <= rate <= FASTEST else USUAL


def _rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
