"""`dlaseg infer`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import add_precision_argument, command_parser


def infer(arguments: Sequence[str]) -> int:
    """Segment an image or a folder of images. Existing results are skipped; --overwrite replaces them."""
    parser = command_parser("infer", infer)
    parser.add_argument("weights", help="a file, a folder, or a repository on the Hugging Face hub (USER/NAME)")
    parser.add_argument("input", type=Path, help="an image, or a folder that is searched recursively")
    parser.add_argument("output", type=Path, help="a folder; its subfolders ids, color and overlay mirror the input")
    parser.add_argument("--save", nargs="+", default=["ids", "color", "overlay"], help="what to write: ids (label ids "
                        "as in the data set), color, overlay (default: all)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--backend", default="torch", help="what runs the network: torch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    add_precision_argument(parser)
    args = parser.parse_args(arguments)

    from dlaseg.inference.run import infer as run

    summary = run(
        args.weights, args.input, args.output, args.save, args.overwrite, args.backend, args.device, args.precision
    )
    for _, message in summary.failed:
        print(f"dlaseg infer: {message}", file=sys.stderr)
    counts = f"{summary.written} written, {summary.skipped} skipped (already exist), {len(summary.failed)} failed"
    print(f"{counts}  {args.output}")
    return 2 if summary.failed else 0
