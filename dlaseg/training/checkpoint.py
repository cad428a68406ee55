"""`last.ckpt`: everything that a resumed run needs, tensors and plain values only."""

import warnings
from pathlib import Path
from typing import Any

import torch

from dlaseg.errors import UserError
from dlaseg.files import replacing

FORMAT = "dlaseg-checkpoint-2"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint whole.

    Args:
        path: where to.
        state: tensors, numbers, strings, lists and dicts.
    """
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU; runs no code that the file might hold.

    Raises:
        UserError: broken, or of another format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's view of foreign pickles; ours follows
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what an unpickler raises on arbitrary bytes is not a closed list
        raise UserError(f"{path}: broken, or no checkpoint of tensors: start again with another --output") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this release ({FORMAT}): start again with another --output")
    return state
