"""`dlaseg export`."""

from collections.abc import Sequence
from pathlib import Path

from dlaseg.commands.parsing import command_parser


def export(arguments: Sequence[str]) -> int:
    """Export weights as ONNX, OpenVINO or torch.export, compared with PyTorch before the file gets its name."""
    parser = command_parser("export", export)
    parser.add_argument("weights", help="a file, a folder, or a repository on the Hugging Face hub (USER/NAME)")
    parser.add_argument("file", type=Path, help="ends in .onnx, .xml (OpenVINO) or .pt2 (torch.export)")
    parser.add_argument("--input", choices=("pixels", "normalized"), default="pixels", help="what the file takes: "
                        "pixels (N, H, W, 3) uint8 RGB, or normalized (N, 3, H, W) float32")  # fmt: skip
    parser.add_argument("--output", choices=("labels", "logits", "coarse_logits"), default="labels", help="what it "
                        "gives: labels (N, H, W) uint8, logits (N, C, H, W) float32, or coarse_logits before "
                        "upsampling")  # fmt: skip
    parser.add_argument("--images", type=Path, help="an image or a folder to compare the file with PyTorch on "
                        "(default: drawn street scenes)")  # fmt: skip
    args = parser.parse_args(arguments)

    from dlaseg.export.export import export as run

    exported = run(args.weights, args.file, args.input, args.output, args.images)
    for comparison in exported.comparisons:
        print(comparison)
    print(f"{exported.path}\n{exported.report}")
    return 0
