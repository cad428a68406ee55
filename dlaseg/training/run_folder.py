"""Checks before a run starts or resumes in a run folder, and the dump of a batch for debugging."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlaseg.config.files import flatten, to_dict
from dlaseg.data.loading import Key
from dlaseg.errors import UserError
from dlaseg.files import check_folder, write_text
from dlaseg.images import write_png
from dlaseg.run_folder import BEST_WEIGHTS, CONFIG, ENVIRONMENT, LABEL_COUNTS, LOG, TRAIN_NAMES, VAL_NAMES
from dlaseg.strict_json import parse_json, read_text
from dlaseg.training.checkpoint import has_checkpoint
from dlaseg.training.schedules import depends_on_epochs, learning_rate
from dlaseg.training.task import RunConfig
from dlaseg.yaml_file import read_yaml

# A resumed run may change these fields: they depend on the machine or on how the run is monitored. `check_epochs` is
# about train.epochs.
_FREE_TO_CHANGE = (
    *("name", "data.root", "data.workers", "data.on_error", "data.on_changed_files", "data.on_missing_class"),
    *("train.device", "train.checkpoint_minutes", "train.max_nonfinite_steps", "train.trackers"),
)
_EPOCHS = "train.epochs"

# Besides config.yaml, which comes first, and checkpoints
_WRITTEN = (TRAIN_NAMES, VAL_NAMES, ENVIRONMENT, LABEL_COUNTS, LOG, BEST_WEIGHTS, "scores.json", "report.html")


def check_output(config: RunConfig, output: Path, resume: bool) -> None:
    """Checks that a run overwrites neither another run nor other files, and that a resumed run has the same config.

    Raises:
        UserError: names the folder, its files, or the fields that differ.
    """
    saved_config = output / CONFIG
    check_folder(output)
    others = [name for name in _WRITTEN if (output / name).exists()]
    if others and not (saved_config.exists() or has_checkpoint(output)):
        raise UserError(
            f"{output}: has {', '.join(others)} but no {CONFIG}: it is no run, so nothing in it is overwritten: use "
            "another --output"
        )
    if not resume:
        if saved_config.exists() or has_checkpoint(output):
            raise UserError(f"{output}: already holds a run: continue it with --resume, or use another --output")
    elif saved_config.exists():
        content = read_yaml(saved_config, "a config (YAML)")
        if not isinstance(content, Mapping):
            raise UserError(
                f"{saved_config}: not the config of a run: restore it, or start again with another --output"
            )
        check_same_config(config, flatten(content), output)


def this_process() -> str:
    """Tells this process from those that train elsewhere or at other times."""
    return f"{platform.node()} {os.getpid()}"


def check_process(output: Path) -> None:
    """Checks that no other process has begun to train in the run folder since this one did.

    Of two that begin at once, both find it empty, and their files would mix.

    Raises:
        UserError: environment.json names another process.
    """
    try:
        process = parse_json(read_text(output / ENVIRONMENT))["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nobody has taken it over
    if process != this_process():
        raise UserError(
            f"{output}: another run has begun in it ({process!s:.80}), so this one ends: use another --output for each"
        )


def check_same_config(config: RunConfig, saved: Mapping[str, Any], output: Path) -> None:
    """Checks that a resumed run has the config that it started with; train.epochs alone may differ, see `check_epochs`.

    Args:
        config: now.
        saved: the run's config, see `flat_config`.
        output: the run folder, for the message.

    Raises:
        UserError: names the fields that differ.
    """
    current, original = flat_config(config), _original(config, saved)
    if unknown := sorted(original.keys() - current.keys()):
        raise UserError(
            f"{output}: its run has the field {unknown[0]}, which this command does not have: continue it with the "
            "command that started it, or use another --output"
        )
    free = _FREE_TO_CHANGE if depends_on_epochs(config.train) else (*_FREE_TO_CHANGE, _EPOCHS)
    changed = [name for name in sorted(current) if name not in free and original[name] != current[name]]
    if changed and changed != [_EPOCHS]:
        differences = ", ".join(f"{name} {current[name]} (the run has {original[name]})" for name in changed)
        raise UserError(
            f"{differences}: the run in {output} keeps its config: use the same values, as --config {output / CONFIG} "
            "does, or start a new run in another --output"
        )


def check_epochs(config: RunConfig, checkpoint: Mapping[str, Any], batches: int, output: Path) -> None:
    """Checks that a resumed run can go on to train.epochs.

    Args:
        config: now.
        checkpoint: that the run resumes from.
        batches: number of batches per epoch.
        output: the run folder, for the message.

    Raises:
        UserError: fewer epochs than are finished, or as many without a validation of the last one, or another number of
            epochs than before with a schedule that depends on it.
    """
    train, before = config.train, _original(config, checkpoint["config"])[_EPOCHS]
    finished, begun = checkpoint["epoch"], checkpoint["progress"]["batches"]
    if train.epochs == before:
        return
    difference, depends = f"{_EPOCHS} {train.epochs} (the run has {before})", depends_on_epochs(train)
    if train.epochs < finished + bool(begun):
        part = " and a part of the next" if begun else ""
        raise UserError(
            f"{difference}: the run in {output} has already trained for {finished} epochs{part}: use "
            + (f"{before}" if depends else f"{finished + bool(begun)} or more")
        )
    validated = any(row.get("miou", row.get("top1")) is not None for row in checkpoint["log"][-1:])
    if train.epochs == finished and not validated:
        raise UserError(
            f"{difference}: the run in {output} has trained for {finished} epochs, and the last of them was not "
            f"validated: use {before if depends else f'{finished + 1} or more'}"
        )
    if not depends:
        return
    step = finished * batches + min(begun, batches)
    rates = (learning_rate(replace(train, epochs=epochs), step, batches) for epochs in (before, train.epochs))
    old, new = (f"{rate:.3g}" for rate in rates)
    raise UserError(
        f"{difference}: schedule {train.schedule} depends on the number of epochs: the next learning rate would be "
        f"{new} instead of {old}, and the epochs so far were trained with other rates than in a run of "
        f"{train.epochs}: use {before}, or {new_run(config, output)}"
    )


def new_run(config: RunConfig, output: Path) -> str:
    """The remedy for a run that cannot be resumed as wanted: a new one from its weights, if it has some."""
    keep = " --model.backbone_weights null" if getattr(config.model, "backbone_weights", None) else ""
    weights = output / BEST_WEIGHTS
    start = f" from its weights: --model.weights {weights}{keep} and" if weights.exists() else " in"
    return f"start a new run{start} another --output"


def _original(config: RunConfig, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a run started with. What it lacks was added later, with a default that changes nothing."""
    return flat_config(type(config)()) | dict(saved)


def flat_config(config: RunConfig) -> dict[str, Any]:
    """A config as plain values by dotted name, such as `train.lr`."""
    return flatten(to_dict(config))


def dump_batch(folder: Path, samples: Any, keys: Sequence[Key], files: Sequence[Path]) -> None:
    """Writes the samples of a batch after augmentation, as images.

    Args:
        folder: receives NUMBER_image.png, NUMBER_target.png (train ids) and files.txt, which lists the image files.
        samples: the loader's data set; maps a key to (image (3, H, W) uint8, target, ...).
        keys: of the samples in the batch.
        files: the image file of each sample.
    """
    lines = []
    for number, (key, file) in enumerate(zip(keys, files, strict=True)):
        image, target, *_ = samples[key]
        write_png(folder / f"{number:03}_image.png", np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        if target.ndim:
            write_png(folder / f"{number:03}_target.png", target.numpy())
        lines.append(f"{number:03} {file}" + ("" if target.ndim else f" class {int(target)}"))
    write_text(folder / "files.txt", "\n".join(lines) + "\n")
