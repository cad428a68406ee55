"""Training from a config: what `dlaseg.train` and the commands `train` and `pretrain` do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.reading import checked, read_config
from dlaseg.config.segmentation import Config
from dlaseg.errors import UserError
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.training import trainer
from dlaseg.training.classification import Classification
from dlaseg.training.distributed import is_main_process
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.task import Task


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        folder: the run folder.
        weights: the weights with the best score; None without a score.
        metric: what was validated, as the log calls it: `miou`, or `top1` of a classifier.
        title: the same for people: `mIoU` or `top-1`.
        score: the best value of it, 0 to 1; None if no validation gave one.
        log: rows of log.jsonl, one per epoch: `epoch`, `loss`, `lr`, the scores, and more.
    """

    folder: Path
    weights: Path | None
    metric: str
    title: str
    score: float | None
    log: list[dict[str, Any]]


def train(
    config: Config | PretrainConfig | str | Path,
    output: str | Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
    allow_trackers: bool = False,
) -> TrainResult:
    """Trains as a config says and writes a run folder; see `dlaseg.training.trainer.fit`.

    Args:
        config: the config of a segmentation network or of a classifier, or the path of a YAML file with one.
        output: the run folder; None for runs/NAME.
        resume: resume from the last checkpoint in the run folder, if there is one.
        report: called with one line for each epoch.
        allow_trackers: whether trackers of your own, which the config names as MODULE:NAME, are imported.

    Raises:
        UserError: a field of the wrong type, the best weights are gone, and as `fit`.
        Stopped: as `fit`.
    """
    task = make_task(read_config(Path(config)) if isinstance(config, str | Path) else checked(config))
    folder = Path("runs") / task.config.name if output is None else Path(output)
    state = trainer.fit(task, folder, resume, report, allow_trackers)
    metric, title = next(iter(task.metrics.items()))
    score, weights = state.best(metric), folder / BEST_WEIGHTS
    if score < 0:
        return TrainResult(folder, None, metric, title, None, state.log)
    if is_main_process() and not weights.exists():
        raise UserError(
            f"{weights}: no such file, although the run has a best val {title} of {score:.4f}: restore it, or start a "
            "new run in another --output"
        )
    return TrainResult(folder, weights, metric, title, score, state.log)


def make_task(config: Config | PretrainConfig) -> Task[Any, Any]:
    """The kind of training that a config describes."""
    return Classification(config) if isinstance(config, PretrainConfig) else Segmentation(config)
