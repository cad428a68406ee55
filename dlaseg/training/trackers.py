"""Who draws the curves of a run: TensorBoard, or anything that has the three methods of a `Tracker`."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError


class Tracker(Protocol):
    """Gets the numbers and pictures of a run as they come; one process calls it, in the order of the steps."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, such as `loss`, `miou` or `iou/road`, all finite or NaN, after so many steps."""
        ...

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """A picture, (H, W, 3) uint8 RGB, after so many steps."""
        ...

    def close(self) -> None:
        """The run ends, or is stopped."""
        ...


class TensorBoard:
    """Writes `events.*`, for `tensorboard --logdir FOLDER`.

    Args:
        folder: of the run.
        step: that the run goes on from; what an interrupted run drew after it is taken back.
    """

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._board = SummaryWriter(str(folder), purge_step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One curve a name."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """One image a name, with a slider over the steps."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still in memory."""
        self._board.close()


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, step: int) -> Iterator[list[Tracker]]:
    """Makes the trackers of a run, and closes them in the end.

    Args:
        names: see `train.trackers`.
        folder: of the run.
        step: that the run goes on from.

    Raises:
        UserError: a name that stands for nothing.
    """
    makers = [_maker(name, step) for name in names]  # all of them before the first one writes
    with ExitStack() as stack:
        trackers = []
        for make in makers:
            tracker = make(folder)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def _maker(name: str, step: int) -> Callable[[Path], Tracker]:
    if name == "tensorboard":
        return lambda folder: TensorBoard(folder, step)
    module, _, attribute = name.partition(":")
    try:
        if not attribute:
            raise ImportError("no such tracker")
        return cast(Callable[[Path], Tracker], getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise UserError(f"train.trackers {name}: {error}: use tensorboard, or MODULE:NAME of your own") from error
