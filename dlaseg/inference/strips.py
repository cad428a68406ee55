"""Predicts a large image and writes its pictures some rows at a time: none of them is in memory as a whole."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dlaseg.files import replacing
from dlaseg.inference.grid import Grid
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sinks import Sink, write_errors
from dlaseg.inference.sources import Source
from dlaseg.png import PngEncoder

STRIP_KINDS = ("ids", "color", "overlay")
"""Kinds of results whose rows depend on the same rows of image and labels alone."""

_ROWS = 128  # whose pictures are drawn and encoded at a time

ReadRows = Callable[[int, int], NDArray[np.uint8]]
"""Reads rows from a first one up to another one: (h, W, 3) uint8 RGB."""


def infer_strips(
    predictor: Predictor, sink: Sink, source: Source, read: ReadRows, grid: Grid, kinds: Sequence[str]
) -> float:
    """Predicts an image in tiles and writes its results.

    While the network computes a row of tiles, the next rows are read and the last ones are written.

    Args:
        predictor: computes the tiles.
        sink: names and draws the results.
        source: the image.
        read: reads its rows in order, each once.
        grid: the tiles.
        kinds: some of `STRIP_KINDS`.

    Returns:
        Seconds that the network took; the rest was waiting for rows to be read or written.

    Raises:
        UserError: an unreadable file, or results that cannot be written. None is left half written.
    """
    with ExitStack() as stack:
        pictures = [stack.enter_context(_open_picture(sink, source, kind, grid)) for kind in kinds]
        pool = stack.enter_context(ThreadPoolExecutor(1 + len(kinds)))
        window = _Window(read, grid, pool)
        writes: list[Future[None]] = []
        start, seconds = perf_counter(), 0.0
        for top, labels in predictor.predict_strips(window.read, grid):
            seconds += perf_counter() - start
            _wait(writes)
            image = window.rows(top, top + len(labels))
            writes = [pool.submit(picture.write, image, labels) for picture in pictures]
            start = perf_counter()
        _wait(writes)
    return seconds - window.waited


def _wait(writes: Sequence[Future[None]]) -> None:
    for write in writes:
        write.result()


class _Window:
    """The rows of the image that the present tiles cover; reads those of the next tiles ahead.

    Attributes:
        waited: seconds for rows that were not read yet.
    """

    def __init__(self, read: ReadRows, grid: Grid, pool: ThreadPoolExecutor):
        self._read, self._pool = read, pool
        self._stops = iter([stop for _, stop in grid.rows.spans])
        self._top, self._bottom, self.waited = 0, 0, 0.0
        self._image = np.empty((0, grid.columns.length, 3), np.uint8)
        self._next = self._read_ahead()

    def read(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """The rows from `top` up to `bottom`, the stop of the next tiles."""
        assert self._next is not None
        start = perf_counter()
        more = self._next.result()
        self.waited += perf_counter() - start
        self._image = np.concatenate((self._image[top - self._top :], more)) if len(self._image) else more
        self._top, self._bottom = top, bottom
        self._next = self._read_ahead()
        return self._image

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Rows that the present tiles cover."""
        return self._image[top - self._top : bottom - self._top]

    def _read_ahead(self) -> Future[NDArray[np.uint8]] | None:
        stop = next(self._stops, None)
        return None if stop is None else self._pool.submit(self._read, self._bottom, stop)


class _Picture:
    """A result that is written some rows at a time.

    Args:
        sink: draws it.
        kind: see `STRIP_KINDS`.
        path: what errors name.
        file: open for writing.
        grid: has the size of the image.
    """

    def __init__(self, sink: Sink, kind: str, path: Path, file: BinaryIO, grid: Grid):
        self._sink, self._kind, self._path, self._file, self._grid = sink, kind, path, file, grid
        self._encoder: PngEncoder | None = None

    def write(self, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Writes the next rows.

        Args:
            image: (h, W, 3) uint8, RGB.
            labels: (h, W) uint8 train ids.
        """
        for top in range(0, len(labels), _ROWS):
            rows = self._sink.picture(self._kind, image[top : top + _ROWS], labels[top : top + _ROWS])
            if self._encoder is None:
                channels = 1 if rows.ndim == 2 else 3
                self._encoder = PngEncoder(self._grid.rows.length, self._grid.columns.length, rows.dtype, channels)
            with write_errors(self._path):
                self._file.write(self._encoder.encode(rows))


@contextmanager
def _open_picture(sink: Sink, source: Source, kind: str, grid: Grid) -> Iterator[_Picture]:
    path = sink.path(source, kind)
    with write_errors(path), replacing(path) as temporary, temporary.open("wb") as file:
        yield _Picture(sink, kind, path, file, grid)
        sink.before_write()
