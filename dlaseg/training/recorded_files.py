"""The images of a run: their names are recorded in its folder, and compared with the present ones when it resumes."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from dlaseg.data.names import abbreviated, read_names, write_names
from dlaseg.errors import UserError
from dlaseg.run_folder import TRAIN_NAMES, VAL_NAMES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Change:
    missing: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.missing or self.new)

    def __str__(self) -> str:
        parts = (("missing", self.missing), ("new", self.new))
        return ", ".join(f"{len(names)} {what} ({abbreviated(names)})" for what, names in parts if names)


def record_files(output: Path, training: Collection[str], validation: Collection[str]) -> None:
    """Writes the names of the training and of the validation images to the run folder."""
    write_names(output / TRAIN_NAMES, training)
    write_names(output / VAL_NAMES, validation)


def recorded_names(path: Path) -> list[str] | None:
    """The names that a run recorded in a file; None without such a file.

    Raises:
        UserError: the file is broken.
    """
    return list(read_names(path)) if path.exists() else None


def check_files(
    output: Path, training: Collection[str], validation: Collection[str], same_batches: bool, proceed: bool
) -> bool:
    """Compares the present images of a resumed run with the recorded ones.

    Args:
        output: the run folder.
        training: names of the training images.
        validation: names of the validation images.
        same_batches: whether an epoch has as many batches as before, which tells something of a run without a record.
        proceed: whether the run continues if they differ.

    Returns:
        Whether the training images differ.

    Raises:
        UserError: they differ, and the run does not proceed; or images that it was trained on are now validated on.
    """
    train = _change(output / TRAIN_NAMES, training)
    val = _change(output / VAL_NAMES, validation)
    changes = [f"{split}: {change}" for split, change in (("train", train), ("val", val)) if change]
    if not (train or same_batches):
        changes.append("train: another number of images")
    if not changes:
        return False
    message = f"{output}: the images are not those that its run began with: {'; '.join(changes)}"
    if moved := train.missing & val.new:
        raise UserError(
            f"{message}: {abbreviated(moved)} were trained on and would be validated on, with too high a score: move "
            "them back, or start a new run in another --output"
        )
    if not proceed:
        raise UserError(f"{message}: restore them, or continue with the present ones by --data.on_changed_files go")
    logger.warning("%s: continuing with the present ones", message)
    return bool(train) or not same_batches


def _change(record: Path, present: Collection[str]) -> _Change:
    before = recorded_names(record)
    return _Change() if before is None else _Change(set(before) - set(present), set(present) - set(before))
