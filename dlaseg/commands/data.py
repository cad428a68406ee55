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

    from dlaseg.data.synthetic import synthesize as draw

    counts = {split: getattr(given, split) for split in ("train", "val", "test")}
    draw(given.output, {split: n for split, n in counts.items() if n}, given.size[0], given.size[1], given.seed)
    print(given.output)
    return 0
