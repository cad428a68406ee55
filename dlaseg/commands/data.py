"""`dlaseg data ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import add_dataset_arguments, command_parser, open_splits
from dlaseg.config.checks import check_workers
from dlaseg.data.names import escape_name
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
    parser.add_argument("--splits", nargs="+", help="such as train val test (default: train, and val if there is "
                        "one); cityscapes also has train_extra, the coarse annotations")  # fmt: skip
    args = parser.parse_args(arguments)

    from dlaseg.data.datasets import DEFAULT_SPLITS
    from dlaseg.data.label_check import has_own_classes, ignored_foreground, problem_message, too_few_classes
    from dlaseg.data.statistics import statistics, statistics_table

    splits = open_splits(args, "--splits", args.splits, DEFAULT_SPLITS)
    counted = [statistics(split) for split in splits]
    print(statistics_table(splits[0].label_map.names, counted))
    if has_own_classes(splits[0]):
        found = list(zip(splits, counted, strict=True))
        problems = [(pair[0], problem) for pair in found if (problem := ignored_foreground(*pair))]
        few = [(pair[0], problem) for pair in found if (problem := too_few_classes(*pair))]
        if len(few) == len(splits):  # one split of several may hold one class alone
            problems += few
        if problems:
            raise UserError(problem_message(*problems[0]))
    return 0


def check(arguments: Sequence[str]) -> int:
    """Read every file of a data set and say what is wrong with it; nothing is changed. Exit code 1 for an error."""
    parser = command_parser("data check", check)
    add_dataset_arguments(parser, "root", lists=False)
    parser.add_argument("--splits", nargs="+", help="such as train val (default: train, and val if there is one)")
    parser.add_argument("--json", type=Path, help="write the findings and all numbers to this file")
    parser.add_argument("--html", type=Path, help="write them as a page to this file, with the files that show them")
    parser.add_argument("--write-classes", type=Path, metavar="FILE", help="for dataset folder: write a first classes "
                        "file from the values in the label maps, and check nothing")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes that read (default: one per core)")
    args = parser.parse_args(arguments)
    if args.workers is not None:
        check_workers("--workers", args.workers)
    if args.json is not None and args.json == args.html:
        raise UserError(f"--json and --html {args.html}: name two files")

    from dlaseg.data.check.check import check_dataset
    from dlaseg.data.check.new_classes import new_classes
    from dlaseg.evaluation.report.check_page import write_check_page
    from dlaseg.files import check_folder, write_json, write_text

    for option, path in (("--json", args.json), ("--html", args.html)):
        if path is not None and path.is_dir():
            raise UserError(f"{option} {path}: a folder has this name: name a file, such as {path / 'check'}")
    for path in (args.json, args.html, args.write_classes):
        if path is not None:
            check_folder(path.parent)
    if args.write_classes is not None:
        for option in ("json", "html", "classes", "workers"):
            if getattr(args, option) is not None:
                raise UserError(f"--{option}: --write-classes checks nothing: leave one of the two out")
        if args.dataset != "folder":
            raise UserError(f"--write-classes: the classes of {args.dataset} are fixed: leave it out")
        if args.write_classes.exists():
            raise UserError(f"{args.write_classes}: exists already: name another file, or remove it")
        write_text(args.write_classes, new_classes(args.root, args.splits, args.images, args.labels))
        print(args.write_classes)
        return 0
    result = check_dataset(args.dataset, args.root, args.splits, args.images, args.labels, args.classes, args.workers)
    if args.json is not None:
        write_json(args.json, result.to_dict())
    if args.html is not None:
        write_check_page(args.html, result, f"{args.dataset}: {args.root}")
    print(result.summary())
    return 1 if result.errors else 0


def convert(arguments: Sequence[str]) -> int:
    """Convert annotations of COCO, PASCAL VOC, LabelMe, YOLO, CVAT or Label Studio to a data set `folder`."""
    from dlaseg.data.convert.formats import FORMATS, require_packages

    parser = command_parser("data convert", convert)
    parser.add_argument("--from", dest="format", choices=tuple(FORMATS), required=True,
                        help="; ".join(f"{name}: {what}" for name, what in FORMATS.items()))  # fmt: skip
    parser.add_argument("input", type=Path, nargs="+", help="annotation files or folders, see --from")
    parser.add_argument("output", type=Path, help="a folder that does not exist or is empty")
    parser.add_argument("--images", type=Path, help="folder of the images, also in subfolders (default: near INPUT)")
    parser.add_argument("--split", nargs="+", help="name of the split of each INPUT, such as train val (default: what "
                        "the annotations or the name of their file say, else train)")  # fmt: skip
    parser.add_argument("--unlabelled", choices=("background", "ignore"), help="what pixels without an object become "
                        "(default: background; COCO panoptic: ignore)")  # fmt: skip
    parser.add_argument("--order", choices=("file", "area"), default="file", help="which objects cover others: later "
                        "ones (CVAT: those of higher z_order), or smaller ones (default: file)")  # fmt: skip
    parser.add_argument("--crowd", choices=("class", "ignore"), default="class", help="what COCO's crowd regions "
                        "become (default: class)")  # fmt: skip
    parser.add_argument("--link", action="store_true", help="link to the images instead of copying them")
    args = vars(parser.parse_args(arguments))
    require_packages()

    from dlaseg.data.convert.conversion import convert as convert_annotations

    inputs, splits = args.pop("input"), args.pop("split")
    print(convert_annotations(inputs=inputs, splits=splits, **args))
    print(args["output"])
    return 0


def draft(arguments: Sequence[str]) -> int:
    """Draft annotations: predict images and write a file that CVAT imports; prints the images that are least sure."""
    parser = command_parser("data draft", draft)
    parser.add_argument("weights", help="a file, a folder, a name of `dlaseg weights list`, or USER/NAME")
    parser.add_argument("inputs", nargs="+", metavar="input", help="images and folders of images")
    parser.add_argument("output", type=Path, help="a new .zip file, for CVAT as Segmentation mask 1.1")
    parser.add_argument("--backend", default="auto", help="as of `dlaseg infer`")
    parser.add_argument("--shown", type=int, default=10, help="how many of the least sure images are printed (default: "
                        "10)")  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    if args.shown < 0:
        raise UserError(f"--shown {args.shown}: use 0 or more")

    from dlaseg.inference.drafts import write_drafts
    from dlaseg.inference.predictor import Predictor

    drafts, failed = write_drafts(Predictor(args.weights, args.backend), args.inputs, args.output)
    for message in failed:
        print(f"dlaseg data draft: {message}", file=sys.stderr)
    counts = f"{len(drafts)} drafts, {len(failed)} failed" if failed else f"{len(drafts)} drafts"
    print(f"{args.output}: {counts}; the least sure first:")
    for each in drafts[: args.shown]:
        print(f"{each.confidence:.1%}  {escape_name(each.name)}")
    return 2 if failed else 0
