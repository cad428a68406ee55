"""`dlaseg eval`."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from dlaseg.commands.parsing import parser_of
from dlaseg.errors import UserError


def evaluate(arguments: Sequence[str]) -> int:
    """Scores weights, or label maps that any program wrote: whole images at native size, one confusion matrix."""
    from dlaseg.data.datasets import DATASETS, open_dataset

    parser = parser_of("eval", evaluate)
    parser.add_argument("weights", type=Path | None, nargs="?", help="a .safetensors file")
    parser.add_argument("--predictions", type=Path | None, help="in place of weights, for cityscapes: a folder of "
                        "label id maps named CITY_SEQUENCE_FRAME*.png")  # fmt: skip
    parser.add_argument("--dataset", type=str, required=True, help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--split", type=str, default="val", help="such as val or test")
    parser.add_argument("--list", type=Path | None, help="a text file that lists the images to score")
    parser.add_argument("--images", type=str | None, help="for folder: images, below root")
    parser.add_argument("--labels", type=str | None, help="for folder: label maps, below root")
    parser.add_argument("--classes", type=str | None, help="for folder: classes file, below root")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="average over these scales")
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image too")
    parser.add_argument("--submission", type=Path | None, help="in place of scores, for cityscapes: a folder that gets "
                        "label id maps as the benchmark's server wants them, and a zip file beside it")  # fmt: skip
    parser.add_argument("--measures", type=str, nargs="+", default=[], help="further ones: boundary (Boundary IoU) "
                        "and, of weights, calibration (expected calibration error)")  # fmt: skip
    parser.add_argument("--output", type=Path | None, help="folder of scores.json and report.html; "
                        "DATASET-SPLIT beside the weights if left out")  # fmt: skip
    parser.add_argument("--workers", type=int | None, help="processes that read images, 1 if left out; for predictions "
                        "threads, one a core if left out")  # fmt: skip
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    given = parser.parse_args(arguments)
    if (given.weights is None) == (given.predictions is None):
        raise UserError("weights or --predictions: name the one that shall be scored")
    if given.workers is not None and given.workers < 0:
        raise UserError(f"--workers {given.workers}: use 0 or more")
    if given.predictions is not None:
        return _evaluate_predictions(given)
    if given.submission is not None:
        return _submit(given)

    from dlaseg.evaluation.report.tables import scores_table
    from dlaseg.evaluation.scoring import score

    dataset = open_dataset(
        given.dataset, given.root, given.split, given.images, given.labels, given.classes, given.list
    )
    output = given.output or given.weights.parent / f"{dataset.name}-{dataset.split}"
    workers = 1 if given.workers is None else given.workers
    record = score(given.weights, dataset, output, given.scales, given.flip, workers, given.device, given.measures)
    print(f"{scores_table(record)}\n\n{output / 'scores.json'}\n{output / 'report.html'}")
    return 0


def _evaluate_predictions(given: Namespace) -> int:
    """`dlaseg eval --predictions`; imports no torch."""
    from dlaseg.evaluation.cityscapes.predictions import score_predictions
    from dlaseg.evaluation.report.tables import scores_table
    from dlaseg.memory import keep_freed_memory

    _check_benchmark(given, "--predictions")
    keep_freed_memory()  # the same few megabytes for every image
    output = given.output or given.predictions.parent / f"{given.predictions.name}-{given.split}"
    record = score_predictions(given.predictions, given.root, given.split, output, given.workers, given.measures)
    print(f"{scores_table(record)}\n\n{output / 'scores.json'}\n{output / 'report.html'}")
    return 0


def _submit(given: Namespace) -> int:
    """`dlaseg eval --submission`."""
    from dlaseg.evaluation.cityscapes.submission import IMAGES, submit

    _check_benchmark(given, "--submission")
    archive, count = submit(
        given.weights, given.root, given.split, given.submission, given.scales, given.flip, given.device
    )
    whole = IMAGES.get(given.split)
    missing = f", of {whole}: the server takes whole splits alone" if whole not in (None, count) else ""
    print(f"{count} label maps{missing}\n{archive}")
    return 0


def _check_benchmark(given: Namespace, option: str) -> None:
    """Checks that the data set is the benchmark's, and that no option is set which would have no effect."""
    from dlaseg.data.datasets import DATASETS, dataset_entry
    from dlaseg.evaluation.cityscapes.scores import BENCHMARK

    entry = dataset_entry(given.dataset)
    if entry.benchmark != BENCHMARK:
        suitable = " or ".join(name for name, other in DATASETS.items() if other.benchmark == BENCHMARK)
        raise UserError(f"--dataset {given.dataset}: {option} follows the Cityscapes benchmark: use {suitable}")
    entry.check_options({"images": given.images, "labels": given.labels, "classes": given.classes})
    if given.list is not None:
        raise UserError(f"--list {given.list}: {option} always takes the whole split: leave --list out")
