"""Trackers record the curves of a run: TensorBoard, or any class with the methods of `Tracker`."""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError


class Tracker(Protocol):
    """Receives the numbers and pictures of a run. Only rank 0 calls it, in the order of the steps."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Records numbers by name, such as `loss`, `miou` or `iou/road`, finite or NaN, at a step."""
        ...

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Records a picture, (H, W, 3) uint8 RGB, at a step."""
        ...

    def close(self) -> None:
        """Called when the run ends or stops."""
        ...


class TensorBoard:
    """Writes `events.*`, for `tensorboard --logdir FOLDER`.

    Args:
        folder: the run folder.
        step: at which the run starts or resumes; events that an interrupted run recorded after it are discarded.
    """

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # imported here: it takes a second

        self._at_close = ExitStack()
        self._writer = SummaryWriter(str(self._at_close.enter_context(_utf8_path(folder))), purge_step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Adds an image under the name."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()
        self._at_close.close()


@contextmanager
def _utf8_path(folder: Path) -> Iterator[Path]:
    """A path of the folder that is the same in UTF-8, which TensorBoard takes every path for."""
    if os.fsencode(folder) == str(folder).encode("utf-8", "replace"):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="dlaseg-") as place:
        folder.mkdir(parents=True, exist_ok=True)
        link = Path(place) / "run"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, step: int) -> Iterator[list[Tracker]]:
    """Creates the trackers of a run, and closes them at the end.

    Args:
        names: see `train.trackers`.
        folder: the run folder.
        step: at which the run starts or resumes.

    Raises:
        UserError: unknown tracker.
    """
    factories = [_factory(name, step) for name in names]  # all names are checked before a tracker writes
    with ExitStack() as stack:
        trackers = []
        for factory in factories:
            tracker = factory(folder)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def _factory(name: str, step: int) -> Callable[[Path], Tracker]:
    if name == "tensorboard":
        return lambda folder: TensorBoard(folder, step)
    module, _, attribute = name.partition(":")
    try:
        if not attribute:
            raise ImportError("unknown tracker")
        return cast(Callable[[Path], Tracker], getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"train.trackers {name}: {error}: use tensorboard, or MODULE:NAME of your own tracker"
        ) from error
