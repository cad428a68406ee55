"""Trackers record the curves of a run: TensorBoard, or a subclass of `Tracker`."""

import importlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError

TENSORBOARD = "tensorboard"
"""The tracker that needs no permission."""


class Tracker(ABC):
    """Receives the numbers and pictures of a run. Only rank 0 calls it, in the order of the steps.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Records numbers by name, such as `loss`, `miou` or `iou/road`, finite or NaN, at a step."""

    @abstractmethod
    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Records a picture, (H, W, 3) uint8 RGB, at a step."""

    @abstractmethod
    def close(self) -> None:
        """Called when the run ends or stops."""


class TensorBoard(Tracker):
    """Writes `events.*`, for `tensorboard --logdir FOLDER`.

    Args:
        folder: the run folder.
        step: at which the run starts or resumes; events that an interrupted run recorded after it are discarded.
    """

    def __init__(self, folder: Path, step: int = 0):
        super().__init__(folder)
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


def tracker_classes(names: Sequence[str], allow: bool) -> list[type[Tracker]]:
    """The classes of the trackers that a config names.

    A config is data and comes from anyone, but importing a module runs its code. So nothing but TensorBoard is imported
    unless the user allows it.

    Args:
        names: see `train.trackers`.
        allow: whether classes of the user's own are imported.

    Raises:
        UserError: an unknown tracker, one that is not allowed, or one that is not a subclass of `Tracker`.
    """
    return [TensorBoard if name == TENSORBOARD else _own_tracker(name, allow) for name in names]


def _own_tracker(name: str, allow: bool) -> type[Tracker]:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"train.trackers {name}: unknown tracker: use {TENSORBOARD}, or MODULE:NAME of your own class")
    if not allow:
        raise UserError(
            f"train.trackers {name}: importing it runs its code, and a config may be anyone's: if you trust it, add "
            f"--allow-trackers (in Python allow_trackers=True), else use {TENSORBOARD}"
        )
    try:
        tracker = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module raises when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"train.trackers {name}: cannot be imported ({reason}): use {TENSORBOARD}, or MODULE:NAME of your own class"
        ) from error
    if not isinstance(tracker, type) or not issubclass(tracker, Tracker):
        raise UserError(
            f"train.trackers {name}: not a subclass of dlaseg.training.trackers.Tracker: derive it from that"
        )
    if missing := sorted(tracker.__abstractmethods__):
        raise UserError(f"train.trackers {name}: without the method {missing[0]}: define {', '.join(missing)}")
    return tracker


@contextmanager
def open_trackers(classes: Sequence[type[Tracker]], folder: Path, step: int) -> Iterator[list[Tracker]]:
    """Creates the trackers of a run, and closes them at the end.

    Args:
        classes: from `tracker_classes`.
        folder: the run folder.
        step: at which the run starts or resumes.
    """
    with ExitStack() as stack:
        trackers = []
        for kind in classes:
            tracker = TensorBoard(folder, step) if kind is TensorBoard else kind(folder)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers
