"""`dlaseg data ...`."""

from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import parser_of


def synthesize(arguments: Sequence[str]) -> int:
    """Draws street scenes and writes them in the Cityscapes layout."""
    parser = parser_of("data synthesize", synthesize)
    parser.add_argument("output", type=Path, help="a folder without leftImg8bit and gtFine")
    parser.add_argument("--train", type=int, default=48, help="scenes of the training split")
    parser.add_argument("--val", type=int, default=12, help="scenes of the validation split")
    parser.add_argument("--test", type=int, default=0, help="scenes of the test split")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 1024], help="height and width, up to 1024 2048")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other streets")
    given = parser.parse_args(arguments)

    from dlaseg.synthetic.dataset import synthesize as draw

    counts = {split: getattr(given, split) for split in ("train", "val", "test")}
    draw(given.output, {split: n for split, n in counts.items() if n}, given.size[0], given.size[1], given.seed)
    print(given.output)
    return 0


def stats(arguments: Sequence[str]) -> int:
    """Counts what is in a data set: images, folders or cities, sizes, pixels and images of each class."""
    from dlaseg.data.datasets import DATASETS, open_dataset
    from dlaseg.data.statistics import statistics, statistics_table

    parser = parser_of("data stats", stats)
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--dataset", type=str, required=True, help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--splits", type=str, nargs="+", default=["train", "val"], help="such as train val test; of "
                        "cityscapes also train_extra, the coarse set")  # fmt: skip
    parser.add_argument("--list", type=Path | None, help="a text file that lists the images to count")
    parser.add_argument("--images", type=str | None, help="for folder: images, below root")
    parser.add_argument("--labels", type=str | None, help="for folder: label maps, below root")
    parser.add_argument("--classes", type=str | None, help="for folder: classes file, below root")
    given = parser.parse_args(arguments)

    splits = [
        open_dataset(given.dataset, given.root, split, given.images, given.labels, given.classes, given.list)
        for split in given.splits
    ]
    print(statistics_table(splits[0].label_map.names, [statistics(split) for split in splits]))
    return 0
