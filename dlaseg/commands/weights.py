"""`dlaseg models` and `dlaseg weights ...`."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlaseg.commands.parsing import command_parser


def models(arguments: Sequence[str]) -> int:
    """List the networks with parameters, multiply-adds, activations and published accuracy."""
    parser = command_parser("models", models)
    parser.add_argument("name", nargs="?", help="a single variant, such as dla34 (default: all)")
    parser.add_argument("--decoder", default="plain", help="of the segmentation networks: plain or afa (default: "
                        "plain)")  # fmt: skip
    parser.add_argument("--head", default="linear", help="likewise: linear or ocr (default: linear)")
    parser.add_argument("--json", action="store_true", help="print exact numbers, as JSON")
    args = parser.parse_args(arguments)

    from dlaseg.factory import list_models
    from dlaseg.models.cost import PUBLISHED_TOP1, classifier_cost, cost_table, segmentation_costs

    names = list_models() if args.name is None else [args.name]
    imagenet: dict[str, int] = {"num_classes": 1000, "height": 224, "width": 224}
    options: dict[str, str] = {"decoder": args.decoder, "head": args.head}
    cityscapes = {"num_classes": 19, "height": 1024, "width": 2048}
    classifiers = [
        {"name": name, **vars(classifier_cost(name, **imagenet)), "published_top1": PUBLISHED_TOP1[name]}
        for name in names
    ]
    networks = [
        {"name": name, "stride": stride, "root_kernel_size": size, **vars(cost)}
        for name in names
        for (stride, size), cost in segmentation_costs(name, **cityscapes, decoder=args.decoder, head=args.head).items()
    ]
    if args.json:
        tables = {
            "classifiers": {**imagenet, "models": classifiers},
            "segmentation": {**cityscapes, **options, "models": networks},
        }
        print(json.dumps(tables, indent=2))
        return 0
    print("Classifiers of 1000 classes at 224 x 224.")
    print("Top-1 on ImageNet: accuracy of timm's weights as published by timm, not measured here.\n")
    print(cost_table(classifiers))
    print(f"\nSegmentation networks of 19 classes at 1024 x 2048, decoder {args.decoder}, head {args.head}.")
    print("stride: output stride; root_kernel_size: kernel size of the aggregation nodes.\n")
    print(cost_table(networks))
    return 0


def list_builtin(arguments: Sequence[str]) -> int:
    """List the weights that come with the package, which every command takes by name."""
    parser = command_parser("weights list", list_builtin)
    parser.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    args = parser.parse_args(arguments)

    from dlaseg.weights.builtin import list_weights, weights_table

    weights = list_weights()
    if args.json:
        print(json.dumps([{**vars(each), "file": str(each.file)} for each in weights], indent=2))
    else:
        print(weights_table(weights))
    return 0


def inspect(arguments: Sequence[str]) -> int:
    """Describe a weights file: its layout, and which tensors would be loaded and which not; or an exported file."""
    parser = command_parser("weights inspect", inspect)
    parser.add_argument("file", help="a file, a folder, a name of `dlaseg weights list`, or a repository on "
                        "the Hugging Face hub (USER/NAME)")  # fmt: skip
    _add_norm(parser)
    args = parser.parse_args(arguments)

    from dlaseg.inference.backends.exported import graph_facts, is_exported, read_graph
    from dlaseg.weights.download import resolve
    from dlaseg.weights.inspection import fact_table, inspect_weights

    path = resolve(args.file, "FILE")
    if is_exported(path):
        print(fact_table(graph_facts(read_graph(path))))
        return 0
    description, mismatch = inspect_weights(path, args.norm)
    print(description)
    if mismatch is not None:
        raise mismatch
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Convert weights of a segmentation network from any known layout to a file for eval and infer."""
    parser = command_parser("weights convert", convert)
    parser.add_argument("file", help="a file, a folder, a name of `dlaseg weights list`, or a repository on "
                        "the Hugging Face hub (USER/NAME)")  # fmt: skip
    parser.add_argument("output", type=Path, help="a .safetensors file")
    parser.add_argument("--classes", help="a data set whose classes are fixed, such as cityscapes, or a classes "
                        "file (YAML); numbered classes by default")  # fmt: skip
    parser.add_argument("--mean", type=float, nargs="+", help="mean that the network was trained with, per channel, 0 "
                        "to 1; ImageNet's by default")  # fmt: skip
    parser.add_argument("--std", type=float, nargs="+", help="standard deviation, likewise")
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the kernels in the "
                        "file; float16 halves it, and is computed in float32, too (default: float32)")  # fmt: skip
    _add_norm(parser)
    args = parser.parse_args(arguments)

    from dlaseg.data.datasets import label_map_of
    from dlaseg.factory import model_from_checkpoint
    from dlaseg.metadata import ModelMetadata
    from dlaseg.weights.files import save_model

    statistics: dict[str, Any] = {
        name: tuple(vars(args)[name]) for name in ("mean", "std") if vars(args)[name] is not None
    }
    ModelMetadata(**statistics)  # refuses impossible ones before the weights are read
    model = model_from_checkpoint(args.file, args.norm)
    if args.classes is not None:
        model.metadata = replace(model.metadata, label_map=label_map_of(args.classes))
    model.metadata = replace(model.metadata, **statistics)
    save_model(model, args.output, args.precision)
    print(args.output)
    return 0


def _add_norm(parser: ArgumentParser) -> None:
    parser.add_argument("--norm", choices=("batch", "inplace"), help="norm of decoder and head of an attentive network "
                        "in the original's layout, which its file may not tell: batch norm and ReLU, or in-place "
                        "activated batch norm, |weight| + eps and leaky ReLU")  # fmt: skip
