"""`dlaseg infer`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import (
    add_backend_argument,
    add_max_pixels_argument,
    add_precision_argument,
    command_parser,
)
from dlaseg.text import one_line


def infer(arguments: Sequence[str]) -> int:
    """Segment images and folders of images. Existing results are skipped; --overwrite replaces them."""
    parser = command_parser("infer", infer)
    parser.add_argument("weights", help="a file, a folder, or a repository on the Hugging Face hub (USER/NAME)")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="input", help="an image, or a folder that is searched "
                        "recursively; several of them")  # fmt: skip
    parser.add_argument("output", type=Path, help="a folder; its subfolders ids, color and overlay mirror the inputs")
    parser.add_argument("--save", nargs="+", default=["ids", "color", "overlay"], help="what to write: ids (label ids "
                        "as in the data set), color, overlay (default: all)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--keep-suffix", action="store_true", help="call the results of a.jpg a.jpg.png, not a.png: "
                        "for folders that also have an a.png or a.tif")  # fmt: skip
    parser.add_argument("--all-frames", action="store_true", help="segment all frames of animations (GIF, APNG, WebP, "
                        "AVIF) and all pages of TIFFs, not the first ones: a/0000.png, a/0001.png, ...")  # fmt: skip
    add_max_pixels_argument(parser)
    add_backend_argument(parser, "auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    add_precision_argument(parser)
    args = parser.parse_intermixed_args(arguments)

    from dlaseg.inference.run import infer as run

    summary = run(
        args.weights, args.inputs, args.output, args.save, args.overwrite, args.backend, args.device, args.precision,
        args.keep_suffix, args.all_frames, args.max_pixels,
    )  # fmt: skip
    for path, frames in summary.first_frame_only:
        message = f"{path}: only the first of {frames} frames or pages: --all-frames takes all"
        print(f"dlaseg infer: {one_line(message)}", file=sys.stderr)
    for _, message in summary.failed:
        print(f"dlaseg infer: {one_line(message)}", file=sys.stderr)
    counts = f"{summary.written} written, {summary.skipped} skipped (already exist), {len(summary.failed)} failed"
    if summary.first_frame_only:
        counts += f", {len(summary.first_frame_only)} with their first frame only"
    print(f"{counts}  {args.output}")
    if summary.written:
        speed, share = summary.written / summary.seconds, summary.network_seconds / summary.seconds
        print(f"{speed:.3g} images/s, {share:.0%} of the time in the network")
    return 2 if summary.failed else 0
