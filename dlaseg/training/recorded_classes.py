"""The classes of a run: recorded in its checkpoints, and compared with the present ones when it resumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.errors import UserError
from dlaseg.training.run_folder import new_run
from dlaseg.training.state import unfit
from dlaseg.training.task import RunConfig


def check_classes(config: RunConfig, recorded: Any, present: Mapping[str, Any], output: Path) -> None:
    """Checks that a resumed run has the classes that it started with; they are the outputs of its network.

    Names and their order must be the same. An id or a color that is listed before and now must mean the same. What is
    listed on one side alone may change: the run has read no such value, or `Task.check_data` refuses it now.

    Args:
        config: of the run.
        recorded: `Task.classes` when the checkpoint was written.
        present: `Task.classes` now.
        output: the run folder, for the message.

    Raises:
        UserError: names the first difference.
    """
    try:
        difference = _difference(recorded, present)
    except (LookupError, TypeError, AttributeError) as error:
        raise unfit(output, "classes is wrong") from error
    if difference is not None:
        file = "the class folders" if isinstance(config, PretrainConfig) else "the classes file"
        raise UserError(
            f"{difference}: the run in {output} keeps its classes: restore {file}, or {new_run(config, output)}"
        )


def _difference(recorded: Any, present: Mapping[str, Any]) -> str | None:
    before, now = ([str(entry["name"]) for entry in content["classes"]] for content in (recorded, present))
    if len(before) != len(now):
        return f"{len(now)} classes (the run has {len(before)})"
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        if old != new:
            return f"class {index} {new!r:.80} (the run has {old!r:.80})"
    former = _meanings(recorded)
    for value, meaning in _meanings(present).items():
        if former.get(value, meaning) != meaning:
            return f"{value} is {meaning:.80} (in the run, {former[value]:.80})"
    return None


def _meanings(content: Mapping[str, Any]) -> dict[str, str]:
    """What each listed id and color means. Colors that are not distinct mean nothing: the label maps hold ids."""
    ids, colors = list[tuple[str, str]](), list[tuple[str, str]]()
    for entry in content["classes"]:
        meaning = f"class {entry['name']!r}"
        ids += [(f"id {i}", meaning) for i in entry.get("id", ())]
        colors += [(f"color {entry['color']}", meaning)] if "color" in entry else []
    for value in content.get("ignore", ()):
        if isinstance(value, list):
            colors.append((f"color {value}", "ignored"))
        else:
            ids.append((f"id {value}", "ignored"))
    return dict(ids) | (dict(colors) if len(dict(colors)) == len(colors) else {})
