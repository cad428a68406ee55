"""`dlaseg infer`."""

import argparse
import signal
import sys
from collections.abc import Sequence

from dlaseg.commands.parsing import (
    add_backend_argument,
    add_max_memory_argument,
    add_max_pixels_argument,
    add_max_short_side_argument,
    add_precision_argument,
    command_parser,
)
from dlaseg.errors import UserError
from dlaseg.text import one_line


def infer(arguments: Sequence[str]) -> int:
    """Segment images, videos, folders of them, and cameras. Existing results are skipped; --overwrite replaces them."""
    parser = command_parser("infer", infer)
    parser.add_argument("weights", help="a file, a folder, a name of `dlaseg weights list`, or a repository on "
                        "the Hugging Face hub (USER/NAME)")  # fmt: skip
    parser.add_argument("inputs", nargs="+", metavar="input", help="an image, a video, or a folder that is "
                        "searched recursively; several of them; or a camera: camera:0, until Ctrl-C")  # fmt: skip
    parser.add_argument("output", help="a folder; its subfolders ids, color, ... mirror the inputs")
    parser.add_argument("--save", nargs="+", default=["ids", "color", "overlay"], help="what to write: ids (label "
                        "maps), color, overlay, probabilities (of all classes, .npz), contours (polygons as GeoJSON "
                        "and COCO run lengths, .json) (default: ids color overlay)")  # fmt: skip
    parser.add_argument("--ids", choices=("raw", "train"), default="raw", help="what label maps hold: ids as the data "
                        "set stores them, such as labelIds of Cityscapes (raw), or 0 to C - 1 in the order of the "
                        "classes (train) (default: raw)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--keep-suffix", action="store_true", help="call the results of a.jpg a.jpg.png, not a.png: "
                        "for folders that also have an a.png or a.tif")  # fmt: skip
    parser.add_argument("--all-frames", action="store_true", help="segment all frames of animations (GIF, APNG, WebP, "
                        "AVIF) and all pages of TIFFs, not the first ones: a/0000.png, a/0001.png, ...")  # fmt: skip
    add_max_pixels_argument(parser, in_strips=True)
    add_max_memory_argument(parser)
    add_max_short_side_argument(parser)
    add_backend_argument(parser, "auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (ray: auto, cpu or cuda)")
    add_precision_argument(parser)
    parser.add_argument("--scales", type=float, nargs="+", help="average over these scales (default: 1); "
                        "a network with scale-space rendering blends them (default: those in its file)")  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image, too")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="local: this process; ray: the "
                        "processes of a Ray cluster, which also take URLs such as s3://BUCKET/DIR")  # fmt: skip
    parser.add_argument("--ray-address", help="of a running cluster, as for ray.init (default: RAY_ADDRESS; without "
                        "it, one is started on this machine)")  # fmt: skip
    parser.add_argument("--workers", type=int, help="for engine ray: processes that segment (default: as many as the "
                        "cluster has room for)")  # fmt: skip
    parser.add_argument("--cpus-per-worker", type=int, help="for engine ray: cores of each (default: up to 4)")
    args = parser.parse_intermixed_args(arguments)
    _check_engine(parser, args)
    options = {name: getattr(args, name) for name in _SHARED} | {"input": args.inputs}

    if args.engine == "ray":
        from dlaseg.inference.ray_engine import infer as infer_with_ray
        from dlaseg.memory import MAX_PIXELS

        max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
        summary = infer_with_ray(
            **options, max_pixels=max_pixels, address=args.ray_address, workers=args.workers, cpus=args.cpus_per_worker
        )
    else:
        from dlaseg.inference.run import infer as run
        from dlaseg.memory import share_freed_memory

        share_freed_memory()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is unfinished is removed
        try:
            summary = run(**options, max_pixels=args.max_pixels, all_frames=args.all_frames)
        finally:
            signal.signal(signal.SIGTERM, before)
    for path, frames in summary.first_frame_only:
        message = f"{path}: only the first of {frames} frames or pages: --all-frames takes all"
        print(f"dlaseg infer: {one_line(message)}", file=sys.stderr)
    for _, message in summary.failed:
        print(f"dlaseg infer: {one_line(message)}", file=sys.stderr)
    counts = f"{summary.written} written, {summary.skipped} skipped (already exist), {len(summary.failed)} failed"
    if summary.first_frame_only:
        counts += f", {len(summary.first_frame_only)} with their first frame only"
    print(f"{counts}  {args.output}")
    if summary.predicted:
        speed, share = summary.predicted / summary.seconds, summary.network_seconds / summary.seconds
        print(f"{speed:.3g} images/s, {share:.0%} of the time in the network")
    return 2 if summary.failed else 0


_SHARED = (
    "weights", "output", "save", "overwrite", "backend", "device", "precision", "keep_suffix", "ids", "scales", "flip",
    "max_memory", "max_short_side",
)  # fmt: skip
"""Options that both engines take by the same names."""

_RAY_ONLY = {"ray_address", "workers", "cpus_per_worker"}
_LOCAL_ONLY = {"all_frames"}


def _check_engine(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises a UserError for an option that the other engine has."""
    for option, value in vars(args).items():
        is_others = option in (_LOCAL_ONLY if args.engine == "ray" else _RAY_ONLY)
        if is_others and value != parser.get_default(option):
            other = "local" if args.engine == "ray" else "ray"
            name = f"--{option.replace('_', '-')}"
            raise UserError(f"{name}: not an option of --engine {args.engine}: leave it out, or use --engine {other}")
