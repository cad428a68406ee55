"""The run folder: whose it is, whether a run may go on in it, and what it gets to look at when numbers go wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlaseg.config import RENAMED
from dlaseg.config_files import flatten, read_yaml, refuse_old_names, to_dict
from dlaseg.errors import UserError
from dlaseg.files import write_text
from dlaseg.images import write_png
from dlaseg.run_folder import CONFIG
from dlaseg.training.checkpoint import has_checkpoint
from dlaseg.training.task import Record

# A run may move to another machine and folder without becoming another run; and it may be watched otherwise.
_FREE_TO_CHANGE = (
    *("name", "data.root", "data.workers", "data.on_error"),
    *("train.device", "train.checkpoint_minutes", "train.max_nonfinite_steps", "train.trackers"),
)


def check_output(config: Record, output: Path, resume: bool) -> None:
    """Refuses to write over another run, and to resume with another record.

    Raises:
        UserError: names the folder, or the fields that differ.
    """
    recorded = output / CONFIG
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the run folder shall be: name another --output")
    if not resume:
        if recorded.exists() or has_checkpoint(output):
            raise UserError(f"{output}: holds a run already: go on with it by --resume, or name another --output")
    elif recorded.exists():
        fields = flatten(read_yaml(recorded))
        refuse_old_names(fields, recorded)
        check_record(config, fields, output)


def check_record(config: Record, recorded: Mapping[str, Any], output: Path) -> None:
    """Refuses to go on with a run that was made by another record.

    Args:
        config: the record now.
        recorded: the run's, see `plain_record`.
        output: the run folder, for the message.

    Raises:
        UserError: names the fields that differ.
    """
    # A checkpoint keeps the names that fields had then. A field that is newer than the run defaults to what was done
    renamed = {RENAMED.get(name, name): value for name, value in recorded.items()}
    now, before = plain_record(config), plain_record(type(config)()) | renamed
    if foreign := sorted(before.keys() - now.keys()):
        raise UserError(
            f"{output}: its run has the field {foreign[0]}, which is none of this command's: go on with it by the "
            "command that started it, or name another --output"
        )
    changed = [name for name in sorted(now) if name not in _FREE_TO_CHANGE and before[name] != now[name]]
    if changed:
        differences = ", ".join(f"{name} {now[name]} (the run has {before[name]})" for name in changed)
        raise UserError(
            f"{differences}: the run in {output} keeps its record: give the same values, or start a new run in another "
            "--output"
        )


def plain_record(config: Record) -> dict[str, Any]:
    """A record as one level of plain values."""
    return flatten(to_dict(config))


def dump_batch(folder: Path, samples: Any, keys: Sequence[tuple[int, int]], files: Sequence[Path]) -> None:
    """Writes the samples of a batch as the network saw them, to be looked at.

    Args:
        folder: gets NUMBER_image.png, NUMBER_target.png (train ids) and files.txt, which names the images.
        samples: the loader's data set, from key to (image (3, H, W) uint8, target, ...).
        keys: the batch.
        files: the image of each.
    """
    lines = []
    for number, (key, file) in enumerate(zip(keys, files, strict=True)):
        image, target, *_ = samples[key]
        write_png(folder / f"{number:03}_image.png", np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        if target.ndim:
            write_png(folder / f"{number:03}_target.png", target.numpy())
        lines.append(f"{number:03} {file}" + ("" if target.ndim else f" class {int(target)}"))
    write_text(folder / "files.txt", "\n".join(lines) + "\n")
