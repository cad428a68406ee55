"""Checkpoints: `last.ckpt` and `previous.ckpt` hold all that a resumed run needs, as tensors and plain values."""

import logging
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from dlaseg.errors import UserError
from dlaseg.files import replacing
from dlaseg.weights.checkpoints import TRAINING_FORMAT, check_archive

FORMAT = f"{TRAINING_FORMAT}3"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `last.ckpt` and keeps the checkpoint before it as `previous.ckpt`.

    If the process or the machine crashes at any moment, one of the two files is intact: the new checkpoint is synced to
    the disk before an older one is replaced.

    Args:
        folder: the run folder.
        state: tensors, numbers, strings, lists and dicts.

    Raises:
        UserError: the checkpoint cannot be written; existing checkpoints are unchanged.
    """
    last = folder / LAST
    try:
        with replacing(last) as temporary:
            with temporary.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            if last.exists():
                last.replace(folder / PREVIOUS)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch's writer hides the system's error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or " ".join(str(error).split())
        existing = "the previous checkpoint is intact" if has_checkpoint(folder) else "there is no earlier checkpoint"
        raise UserError(
            f"{last}: cannot be written ({reason}); {existing}: free some space or make the folder writable, then "
            "continue with --resume"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint file, intact or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def load_latest(folder: Path) -> dict[str, Any]:
    """Loads the last checkpoint of a run; if it is broken or missing, the previous one, with a warning.

    Raises:
        UserError: neither is intact.
    """
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            problems.append(f"{name} is missing")
            continue
        try:
            state = load_checkpoint(folder / name)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning("%s: %s; resuming from %s, step %s", folder, problems[0], name, state.get("step"))
        return state
    raise UserError(f"{folder}: no intact checkpoint: {'; '.join(problems)}: start again with another --output")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; never runs code from the file.

    Raises:
        UserError: the file is broken or has another format.
    """
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # checks the checksums, which torch ignores
                raise zipfile.BadZipFile(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about foreign pickles; our error follows
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything on arbitrary bytes
        raise UserError(f"{path}: broken, or not a checkpoint: start again with another --output") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this release ({FORMAT}): start again with another --output")
    return state
