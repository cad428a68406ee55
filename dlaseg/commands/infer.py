"""`dlaseg infer`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import parser_of


def infer(arguments: Sequence[str]) -> int:
    """Segments an image or a folder of images; what is there from an earlier run is not done again."""
    parser = parser_of("infer", infer)
    parser.add_argument("weights", type=Path, help="a .safetensors file")
    parser.add_argument("input", type=Path, help="an image, or a folder that is walked recursively")
    parser.add_argument(
        "output", type=Path, help="a folder; gets ids/, color/ and overlay/, each a mirror of the input"
    )
    parser.add_argument("--save", type=str, nargs="+", default=["ids", "color", "overlay"],
                        help="what to write: ids (label ids as stored), color, overlay")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--backend", type=str, default="torch", help="what computes: torch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    given = parser.parse_args(arguments)

    from dlaseg.inference.run import infer as run

    summary = run(given.weights, given.input, given.output, given.save, given.overwrite, given.backend, given.device)
    for _, message in summary.failed:
        print(f"dlaseg infer: {message}", file=sys.stderr)
    counts = f"{summary.written} written, {summary.skipped} skipped (already exist), {len(summary.failed)} failed"
    print(f"{counts}  {given.output}")
    return 2 if summary.failed else 0
