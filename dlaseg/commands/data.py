"""`dlaseg data ...`."""

from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import add_dataset_arguments, command_parser, open_splits
from dlaseg.errors import UserError


def synthesize(arguments: Sequence[str]) -> int:
    """Draw synthetic street scenes in the Cityscapes layout."""
    parser = command_parser("data synthesize", synthesize)
    parser.add_argument("output", type=Path, help="a folder without leftImg8bit and gtFine")
    parser.add_argument("--train", type=int, default=48, help="scenes of the training split (default: 48)")
    parser.add_argument("--val", type=int, default=12, help="scenes of the validation split (default: 12)")
    parser.add_argument("--test", type=int, default=0, help="scenes of the test split (default: 0)")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 1024], metavar=("HEIGHT", "WIDTH"),
                        help="in pixels, up to 1024 2048 (default: 512 1024)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes (default: 0)")
    args = parser.parse_args(arguments)

    from dlaseg.synthetic.dataset import synthesize as draw

    counts = {split: getattr(args, split) for split in ("train", "val", "test")}
    draw(args.output, {split: n for split, n in counts.items() if n}, args.size[0], args.size[1], args.seed)
    print(args.output)
    return 0


def stats(arguments: Sequence[str]) -> int:
    """Count what a data set contains: images, folders or cities, sizes, and pixels and images of each class."""
    parser = command_parser("data stats", stats)
    add_dataset_arguments(parser, "root")
    parser.add_argument("--splits", nargs="+", help="such as train val test (default: train val); cityscapes "
                        "also has train_extra, the coarse annotations")  # fmt: skip
    args = parser.parse_args(arguments)

    from dlaseg.data.label_check import has_own_classes, ignored_foreground, too_few_classes
    from dlaseg.data.statistics import statistics, statistics_table

    splits = open_splits(args, "--splits", args.splits, ("train", "val"))
    counted = [statistics(split) for split in splits]
    print(statistics_table(splits[0].label_map.names, counted))
    if has_own_classes(splits[0]):
        found = list(zip(splits, counted, strict=True))
        problems = [problem for pair in found if (problem := ignored_foreground(*pair))]
        few = [problem for pair in found if (problem := too_few_classes(*pair))]
        if len(few) == len(splits):  # one split of several may hold one class alone
            problems += few
        if problems:
            raise UserError(problems[0])
    return 0
