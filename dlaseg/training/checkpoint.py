"""`last.ckpt` and the one before it: everything that a resumed run needs, tensors and plain values only."""

import logging
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from dlaseg.errors import UserError
from dlaseg.files import replacing

FORMAT = "dlaseg-checkpoint-3"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `last.ckpt` whole and keeps the one before it as `previous.ckpt`.

    Whatever happens on the way, to the process or the machine, one of the two is whole: the new one is on the disk, not
    only on its way there, before an older one goes.

    Args:
        folder: of the run.
        state: tensors, numbers, strings, lists and dicts.

    Raises:
        UserError: it cannot be written; those that are there stay.
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
        cause = error if isinstance(error, OSError) else error.__context__  # torch's writer buries the system's error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or " ".join(str(error).split())
        kept = "the checkpoint before it is whole" if has_checkpoint(folder) else "there is none before it"
        raise UserError(
            f"{last}: cannot be written ({reason}); {kept}: make room or the folder writable, then go on with --resume"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether a run was saved there, be it whole or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def load_latest(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run, or the one before it where the last one is broken or gone, which is said.

    Raises:
        UserError: neither is whole.
    """
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            problems.append(f"{name} is not there")
            continue
        try:
            state = load_checkpoint(folder / name)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning("%s: %s; going on from %s, step %s", folder, problems[0], name, state.get("step"))
        return state
    raise UserError(f"{folder}: no whole checkpoint: {'; '.join(problems)}: start again with another --output")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; runs no code that the file might hold.

    Raises:
        UserError: broken, or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # checksums, which torch passes over
                raise zipfile.BadZipFile(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's view of foreign pickles; ours follows
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what an unpickler raises on arbitrary bytes is not a closed list
        raise UserError(f"{path}: broken, or no checkpoint of tensors: start again with another --output") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this release ({FORMAT}): start again with another --output")
    return state
