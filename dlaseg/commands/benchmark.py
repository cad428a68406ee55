"""`dlaseg benchmark ...`."""

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dlaseg.commands.parsing import add_on_missing_class_argument, command_parser, on_missing_class
from dlaseg.config.checks import check_workers
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.errors import UserError

logger = logging.getLogger(__name__)


def train(arguments: Sequence[str]) -> int:
    """Measure how fast `train` runs on this machine, and whether the data or the network limits it."""
    return _measure("train", train, Config, arguments)


def pretrain(arguments: Sequence[str]) -> int:
    """Measure how fast `pretrain` runs on this machine, and whether the data or the network limits it."""
    return _measure("pretrain", pretrain, PretrainConfig, arguments)


def _measure(
    name: str, command: Callable[..., int], kind: type[Config | PretrainConfig], arguments: Sequence[str]
) -> int:
    from dlaseg.commands.config_parser import ConfigParser

    without_effect = ("name", "data.on_changed_files")
    parser = ConfigParser(kind, without_effect, prog=f"dlaseg benchmark {name}", description=command.__doc__)
    parser.add_argument("--steps", type=int, default=10, help="batches per measurement, in each of 5 rounds")
    parser.add_argument("--json", action="store_true", help="print all results, round by round, as JSON")
    config, args = parser.parse(arguments)

    from dlaseg.benchmarking.throughput import measure, table, to_dict
    from dlaseg.training.train import make_task

    throughput = measure(make_task(config), args.steps)
    if throughput is not None:
        print(json.dumps(to_dict(throughput), indent=2) if args.json else table(throughput))
    return 0


def speed(arguments: Sequence[str]) -> int:
    """Measure how fast networks segment on this machine, side by side with others, in relation to a baseline."""
    parser = command_parser("benchmark speed", speed)
    parser.add_argument("models", nargs="+", metavar="model", help="a weights file, a file from dlaseg export, a "
                        "name of `dlaseg weights list`, or the name of a randomly initialised network such as "
                        "dla34, or dla34:afa with another decoder; several of them")  # fmt: skip
    parser.add_argument("--images", type=Path, help="an image or a folder; dlaseg infer is measured from file to file, "
                        "too")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="without --images, street scenes of this "
                        "height, 64 to 1024, and width, 64 to 2048, are drawn (default: 512 1024)")  # fmt: skip
    parser.add_argument("--count", type=int, default=4, help="images: the first of the folder, or so many are drawn")
    parser.add_argument("--files", action="store_true", help="measure from file to file with drawn images, too")
    parser.add_argument("--backends", nargs="+", default=["torch"], help="what runs the networks")
    parser.add_argument("--precisions", nargs="+", default=["float32"], help="float32, bfloat16, or float16 on a GPU")
    parser.add_argument("--against", nargs="+", default=[], metavar="OTHER", help="what to compare with:\n"
                        "- plain: the first model in plain PyTorch, which is the baseline then\n"
                        "- smp:ARCH:ENCODER of segmentation_models_pytorch, such as smp:Unet:resnet18\n"
                        "- torchvision:NAME, such as torchvision:lraspp_mobilenet_v3_large\n"
                        "- onnx:FILE")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="in each round, everything is measured once")
    parser.add_argument("--threads", type=int, help="cores that may be used (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    parser.add_argument("--num-classes", type=int, help="of networks without a file (default: as the first weights "
                        "file, or 19)")  # fmt: skip
    parser.add_argument("--stride", type=int, default=2, help="of randomly initialised DLA networks")
    parser.add_argument("--root-kernel-size", type=int, default=1, help="of the same")
    parser.add_argument("--no-memory", action="store_true", help="do not start processes that measure peak memory")
    parser.add_argument("--leaderboard", type=Path, help="leaderboard.json of dlaseg benchmark accuracy, for a plot of "
                        "accuracy over speed of the weights that it has with the same backend and precision; needs "
                        "--output")  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for speed.md, speed.csv, speed.json and plots (SVG)")
    args = parser.parse_args(arguments)

    from dlaseg.benchmarking.candidates import PLAIN, Architecture, check_backends, check_models, make_candidates
    from dlaseg.benchmarking.leaderboard import read_board
    from dlaseg.benchmarking.machine import limited_cores
    from dlaseg.benchmarking.networks import num_classes_of
    from dlaseg.benchmarking.pictures import choose_images, draw_images
    from dlaseg.benchmarking.speed import measure_speed
    from dlaseg.benchmarking.speed_report import speed_markdown, write_speed
    from dlaseg.files import check_folder

    if args.images is not None and args.size is not None:
        raise UserError("--images and --size: use one of the two")
    if args.leaderboard is not None and args.output is None:
        raise UserError("--leaderboard: needs --output, the folder for the plot")
    if args.output is not None:
        check_folder(args.output)
    check_models(args.models)
    board = [] if args.leaderboard is None else read_board(args.leaderboard)
    with_files = args.files or args.images is not None
    against = [*args.against, *([PLAIN] if with_files else [])]
    num_classes = num_classes_of(args.models) if args.num_classes is None else args.num_classes
    architecture = Architecture(num_classes, args.stride, args.root_kernel_size)
    candidates = make_candidates(args.models, against, args.backends, args.precisions, args.device, architecture)
    with tempfile.TemporaryDirectory() as folder, limited_cores(args.threads):
        check_backends(candidates)
        if args.images is None:
            height, width = args.size or (512, 1024)
            images = draw_images(Path(folder), height, width, args.count)
        else:
            images = choose_images(args.images, args.count)
        measured = measure_speed(candidates, images, args.rounds, with_files, not args.no_memory)
    load = measured.machine["load_average"]
    if load is not None and load > measured.machine["cores"] / 2:
        print(f"dlaseg benchmark speed: load average {load} at the start: other programs compute, too: times are too "
              "long, and ratios vary", file=sys.stderr)  # fmt: skip
    print(speed_markdown(measured))
    if args.output is not None:
        written = write_speed(measured, args.output, board)
        print("", *written, sep="\n")
        if args.leaderboard is not None and not any(path.suffix == ".svg" for path in written):
            logger.warning(
                "%s: no row of it has these weights with the backend and precision that were timed, at one scale: "
                "nothing is plotted: score them by dlaseg benchmark accuracy --protocols BACKEND+PRECISION",
                args.leaderboard,
            )
    return 2 if any(row.message is not None for row in measured.rows) else 0


def accuracy(arguments: Sequence[str]) -> int:
    """Score weights files on data sets by protocols: one leader board. What was scored before is not scored again."""
    parser = command_parser("benchmark accuracy", accuracy)
    parser.add_argument("list", type=Path, nargs="?", help="YAML file with the lists weights, datasets and protocols; "
                        "options add to them")  # fmt: skip
    parser.add_argument("--weights", nargs="+", default=[], help="files, folders, names of `dlaseg weights list`, or "
                        "repositories on the Hugging Face hub")  # fmt: skip
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME:ROOT", help="such as camvid:/data/camvid")
    parser.add_argument("--split", default="val", help="of --datasets")
    parser.add_argument("--protocols", nargs="+", default=[], help="how images are predicted: words joined by +: a "
                        "backend, a precision, scales=0.75,1,1.25, flip (default: float32, by torch)")  # fmt: skip
    add_on_missing_class_argument(parser)
    parser.add_argument("--output", type=Path, default=Path("leaderboard"), help="folder for leaderboard.md, .csv and "
                        ".json, and for the scores and report of each row")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="processes that read images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    args = parser.parse_args(arguments)
    check_workers("--workers", args.workers)

    from dlaseg.benchmarking.accuracy import score_all
    from dlaseg.benchmarking.leaderboard import Entries, board_markdown, dataset_entry_of, read_entries, write_board

    listed = Entries() if args.list is None else read_entries(args.list)
    entries = Entries(
        [*listed.weights, *args.weights],
        [*listed.datasets, *(dataset_entry_of(text, args.split) for text in args.datasets)],
        [*listed.protocols, *args.protocols],
    )
    datasets = entries.open_datasets()
    scores = score_all(
        entries.weights, datasets, entries.parse_protocols(), args.output, args.workers, args.device,
        on_missing_class(args.on_missing_class, [dataset.name for dataset in datasets]),
    )  # fmt: skip
    cached, failed = sum(score.cached for score in scores), sum(score.message is not None for score in scores)
    counts = f"{len(scores) - cached - failed} scored, {cached} known from before, {failed} failed"
    print(board_markdown(scores), "", counts, *write_board(scores, args.output), sep="\n")
    return 2 if failed else 0
