"""`dlaseg eval`."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlaseg.commands.parsing import (
    add_backend_argument,
    add_dataset_arguments,
    add_max_memory_argument,
    add_max_pixels_argument,
    add_max_short_side_argument,
    add_on_missing_class_argument,
    add_precision_argument,
    command_parser,
    on_missing_class,
    open_splits,
)
from dlaseg.config.checks import check_workers
from dlaseg.errors import UserError


def evaluate(arguments: Sequence[str]) -> int:
    """Score weights, or label maps from any program: whole images at native size, one confusion matrix."""
    parser = command_parser("eval", evaluate)
    parser.add_argument("weights", nargs="?", help="a file, a folder, a name of `dlaseg weights list`, or a "
                        "repository on the Hugging Face hub (USER/NAME)")  # fmt: skip
    parser.add_argument("--predictions", type=Path, help="score a folder of label id maps named "
                        "CITY_SEQUENCE_FRAME*.png instead of weights; cityscapes only")  # fmt: skip
    add_dataset_arguments(parser, "--root")
    parser.add_argument("--split", help="such as val or test (default: val)")
    add_on_missing_class_argument(parser)
    parser.add_argument("--scales", type=float, nargs="+", help="average over these scales (default: 1); "
                        "a network with scale-space rendering blends them (default: those in its file)")  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image, too")
    parser.add_argument("--padding", choices=("mirror", "stretch"), default="mirror", help="to sizes that the network "
                        "needs: mirror the border (default), or stretch the image to multiples of 128, as published "
                        "attentive networks were scored")  # fmt: skip
    parser.add_argument("--submission", type=Path, help="instead of scores, write label id maps for the benchmark's "
                        "server to this folder, and a zip file beside it; cityscapes only")  # fmt: skip
    parser.add_argument("--measures", nargs="+", default=[], help="additional measures: boundary (Boundary IoU) and, "
                        "for weights only, calibration (expected calibration error)")  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for scores.json and report.html, which are replaced "
                        "(default: DATASET-SPLIT beside best.safetensors or model.safetensors, NAME-DATASET-SPLIT "
                        "beside another weights file, for a name NAME-DATASET-SPLIT here, PREDICTIONS-SPLIT beside the "
                        "folder of --predictions; scores of other weights, images or options are not replaced there, "
                        "but those of best.safetensors and model.safetensors are, which may have been trained "
                        "further)")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes that read images (default: 1); for predictions, threads "
                        "(default: one per core)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    add_backend_argument(parser, None)
    add_precision_argument(parser)
    add_max_pixels_argument(parser)
    add_max_memory_argument(parser)
    add_max_short_side_argument(parser)
    args = parser.parse_args(arguments)
    if (args.weights is None) == (args.predictions is None):
        raise UserError("WEIGHTS and --predictions: pass exactly one of them")
    if args.predictions is not None and args.submission is not None:
        raise UserError("--predictions and --submission: pass at most one of them: label maps are not predicted again")
    if args.workers is not None:
        check_workers("--workers", args.workers)
    if args.predictions is not None or args.submission is not None:
        args.split = args.split or "val"
    if args.predictions is not None:
        return _evaluate_predictions(args)
    if args.submission is not None:
        return _submit(args)

    from dlaseg.evaluation import scoring
    from dlaseg.evaluation.report.tables import scores_table
    from dlaseg.images import check_max_pixels

    check_max_pixels(args.max_pixels)
    on_missing = on_missing_class(args.on_missing_class, [args.dataset])
    (dataset,) = open_splits(args, "--split", None if args.split is None else [args.split], ["val"])
    dataset = replace(dataset, max_pixels=args.max_pixels)
    output = args.output or _output_folder(args.weights, f"{dataset.name}-{dataset.split}")
    workers = 1 if args.workers is None else args.workers
    results = scoring.evaluate(
        args.weights, dataset, output, scales=args.scales, flip=args.flip, workers=workers, device=args.device,
        measures=args.measures, precision=args.precision, on_missing_class=on_missing, backend=args.backend,
        padding=args.padding, max_memory=args.max_memory, max_short_side=args.max_short_side,
        keep_others=args.output is None,
    )  # fmt: skip
    print(f"{scores_table(results)}\n\n{output / 'scores.json'}\n{output / 'report.html'}")
    return 0


def _output_folder(weights: str, name: str) -> Path:
    """The folder `name` beside the weights file of a run or of a saved model.

    The folder beside another file, of which there may be several, begins with its name, as that in the working folder
    for a name of weights.
    """
    from dlaseg.run_folder import BEST_WEIGHTS
    from dlaseg.weights.download import FILE, find_builtin

    path = Path(weights)
    if find_builtin(weights) is not None:
        return Path(f"{weights}-{name}")
    if path.is_dir():
        return path / name
    if not path.exists():
        return Path(f"{path.name}-{name}")
    return path.parent / (name if path.name in (FILE, BEST_WEIGHTS) else f"{path.stem}-{name}")


def _evaluate_predictions(args: Namespace) -> int:
    """`dlaseg eval --predictions`; imports no torch."""
    from dlaseg.evaluation.cityscapes.predictions import score_predictions
    from dlaseg.evaluation.report.tables import scores_table
    from dlaseg.memory import keep_freed_memory

    _check_benchmark(args, "--predictions")
    for option, given in (
        *(("--scales", args.scales), ("--flip", args.flip), ("--padding", args.padding != "mirror")),
        *(("--device", args.device != "auto"), ("--backend", args.backend)),
        *(("--precision", args.precision != "float32"), ("--max-memory", args.max_memory is not None)),
        ("--max-short-side", args.max_short_side is not None),
    ):
        if given:
            raise UserError(f"{option}: of a network; --predictions are scored as they are: leave it out")
    keep_freed_memory()  # the same few megabytes for every image
    folder = args.predictions if args.predictions.name not in ("", "..") else args.predictions.resolve()
    output = args.output or folder.parent / f"{folder.name}-{args.split}"
    results = score_predictions(
        args.predictions, args.root, args.split, output, args.workers, args.measures, args.max_pixels,
        args.output is None,
    )  # fmt: skip
    print(f"{scores_table(results)}\n\n{output / 'scores.json'}\n{output / 'report.html'}")
    return 0


def _submit(args: Namespace) -> int:
    """`dlaseg eval --submission`."""
    from dlaseg.evaluation.cityscapes.submission import IMAGES, submit

    _check_benchmark(args, "--submission")
    for option, given in (("--measures", args.measures), ("--output", args.output)):
        if given is not None and given != []:
            raise UserError(f"{option}: of scores; --submission writes label maps alone: leave it out")
    if args.workers is not None:
        raise UserError("--workers: --submission reads the images in this process: leave it out")
    archive, count = submit(
        args.weights, args.root, args.split, args.submission, scales=args.scales, flip=args.flip, device=args.device,
        precision=args.precision, max_pixels=args.max_pixels, backend=args.backend, padding=args.padding,
        max_memory=args.max_memory, max_short_side=args.max_short_side,
    )  # fmt: skip
    total = IMAGES.get(args.split)
    incomplete = f" of {total}: the server accepts only complete splits" if total not in (None, count) else ""
    print(f"{count} label maps{incomplete}\n{archive}")
    return 0


def _check_benchmark(args: Namespace, option: str) -> None:
    """Checks that the data set is the benchmark's, and that no option is set which would have no effect."""
    from dlaseg.data.datasets import DATASETS, dataset_entry
    from dlaseg.evaluation.cityscapes.scores import BENCHMARK

    entry = dataset_entry(args.dataset)
    if entry.benchmark != BENCHMARK:
        suitable = " or ".join(name for name, other in DATASETS.items() if other.benchmark == BENCHMARK)
        raise UserError(f"--dataset {args.dataset}: {option} follows the Cityscapes benchmark: use {suitable}")
    on_missing_class(args.on_missing_class, [args.dataset])
    entry.check_options({"images": args.images, "labels": args.labels, "classes": args.classes})
    if args.list is not None:
        raise UserError(f"--list {args.list}: {option} always takes the whole split: leave --list out")
