"""`dlaseg export`."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import add_dataset_arguments, command_parser, open_splits
from dlaseg.config.checks import check_workers
from dlaseg.errors import UserError


def export(arguments: Sequence[str]) -> int:
    """Export weights as ONNX, OpenVINO or torch.export, compared with PyTorch before the file gets its name."""
    parser = command_parser("export", export)
    parser.add_argument("weights", help="a file, a folder, a name of `dlaseg weights list`, or a repository on "
                        "the Hugging Face hub (USER/NAME)")  # fmt: skip
    parser.add_argument("file", type=Path, help="ends in .onnx, .xml (OpenVINO) or .pt2 (torch.export); with --layout "
                        "triton, the folder of the model, whose name is the model's")  # fmt: skip
    parser.add_argument("--input", choices=("pixels", "normalized"), default="pixels", help="what the file takes: "
                        "pixels (N, H, W, 3) uint8 RGB, or normalized (N, 3, H, W) float32")  # fmt: skip
    parser.add_argument("--output", choices=("labels", "logits", "coarse_logits"), default="labels", help="what it "
                        "gives: labels (N, H, W) uint8, logits (N, C, H, W) float32, or coarse_logits before "
                        "upsampling")  # fmt: skip
    parser.add_argument("--layout", choices=("file", "triton"), default="file", help="triton: a folder that a "
                        "Triton or KServe server takes: the network, config.pbtxt and labels.txt")  # fmt: skip
    parser.add_argument("--engine", choices=("onnxruntime", "openvino"), help="with --layout triton: what runs the "
                        "network in the server (default: onnxruntime; with --int8 openvino)")  # fmt: skip
    parser.add_argument("--compare-images", type=Path, help="an image or a folder to compare the file with PyTorch on "
                        "(default: drawn street scenes; with --int8, the first image of the split)")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="compute convolutions in int8 (.xml only); needs a "
                        "labelled split, --dataset and --root, to score it on")  # fmt: skip
    parser.add_argument("--max-drop", type=float, help="with --int8: points of mIoU that may be lost; layers that lose "
                        "most stay in float32 (default: 0.3)")  # fmt: skip
    parser.add_argument("--calibrate", type=Path, nargs="+", default=[], help="with --int8: images and folders that "
                        "ranges are taken from (default: the split train)")  # fmt: skip
    add_dataset_arguments(parser, "--root", required=False)
    parser.add_argument("--split", help="with --int8: split to score on (default: val)")
    parser.add_argument("--workers", type=int, help="with --int8: processes that read images (default: 1)")
    args = parser.parse_args(arguments)
    if args.engine is not None and args.layout == "file":
        raise UserError(f"--engine {args.engine}: only --layout triton needs it: the suffix of FILE says the format")
    if args.layout == "triton":
        return _export_triton(args)
    if args.int8:
        return _export_int8(args)
    return _export_file(args)


def _export_triton(args: Namespace) -> int:
    """`dlaseg export --layout triton`."""
    from dlaseg.export.triton import model_file, write_config

    folder, engine = args.file, args.engine or ("openvino" if args.int8 else "onnxruntime")
    if folder.suffix in (".onnx", ".xml", ".pt2") or folder.is_file():
        raise UserError(
            f"{folder}: with --layout triton, name the folder of the model, such as {folder.with_suffix('')}"
        )
    suffix = ".xml" if engine == "openvino" else ".onnx"
    args.file = model_file(folder, suffix)
    code = _export_int8(args) if args.int8 else _export_file(args)
    for path in write_config(folder, suffix):
        print(path)
    return code


def _export_file(args: Namespace) -> int:
    """`dlaseg export` without --int8."""
    for name in ("max_drop", "calibrate", "dataset", "root", "split", "list", "images", "labels", "classes", "workers"):
        if getattr(args, name) not in (None, []):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: only --int8 needs it: add --int8, or leave {option} out")

    from dlaseg.export.export import export as run

    exported = run(args.weights, args.file, args.input, args.output, args.compare_images)
    for comparison in exported.comparisons:
        print(comparison)
    print(f"{exported.path}\n{exported.report}")
    return 0


def _export_int8(args: Namespace) -> int:
    """`dlaseg export --int8`."""
    from dlaseg.export.int8 import export_int8
    from dlaseg.inference.sources import find_all

    args.max_drop = 0.3 if args.max_drop is None else args.max_drop
    args.workers = 1 if args.workers is None else args.workers
    if args.dataset is None or args.root is None:
        raise UserError("--int8: needs a labelled split to score the file on: give --dataset and --root")
    check_workers("--workers", args.workers)
    (dataset,) = open_splits(args, "--split", None if args.split is None else [args.split], ["val"])
    if args.calibrate:
        calibration = [source.path for source in find_all(args.calibrate)]
    else:
        args.list = None  # of the split that is scored
        (training,) = open_splits(args, "--split", None, ["train"])
        calibration = [pair.image for pair in training.pairs]
    exported = export_int8(
        args.weights, args.file, calibration, dataset, args.max_drop, args.input, args.output, args.compare_images,
        args.workers,
    )  # fmt: skip
    for comparison in exported.comparisons:
        print(f"{comparison}, of float32 PyTorch")
    before, after = exported.miou
    change = f"{after - before:+.2f} points"
    print(f"mIoU on {dataset.name} {dataset.split}: {before:.2f} float32, {after:.2f} int8, {change}")
    before, after = exported.seconds
    height, width = exported.size
    print(f"{height} x {width}: {before:.3f} s float32, {after:.3f} s int8, {before / after:.2f} times as fast")
    if exported.in_float:
        print(f"in float32: {', '.join(exported.in_float)}")
    print(f"{exported.path}\n{exported.report}")
    return 0
