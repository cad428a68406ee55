"""`dlaseg models` and `dlaseg weights ...`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlaseg.commands.parsing import parser_of


def models(arguments: Sequence[str]) -> int:
    """Lists the networks: parameters, multiply-adds, activations, published accuracy."""
    parser = parser_of("models", models)
    parser.add_argument("name", type=str | None, nargs="?", help="a single variant, such as dla34; all if left out")
    parser.add_argument("--json", action="store_true", help="exact numbers, as JSON")
    given = parser.parse_args(arguments)

    from dlaseg.factory import list_models
    from dlaseg.models.cost import PUBLISHED_TOP1, classifier_cost, cost_table, segmentation_costs

    names = list_models() if given.name is None else [given.name]
    imagenet = {"num_classes": 1000, "height": 224, "width": 224}
    cityscapes = {"num_classes": 19, "height": 1024, "width": 2048}
    classifiers = [
        {"name": name, **vars(classifier_cost(name, **imagenet)), "published_top1": PUBLISHED_TOP1[name]}
        for name in names
    ]
    networks = [
        {"name": name, "stride": stride, "root_kernel_size": size, **vars(cost)}
        for name in names
        for (stride, size), cost in segmentation_costs(name, **cityscapes).items()
    ]
    if given.json:
        record = {
            "classifiers": {**imagenet, "models": classifiers},
            "segmentation": {**cityscapes, "models": networks},
        }
        print(json.dumps(record, indent=2))
        return 0
    print("Classifiers of 1000 classes at 224 x 224.")
    print("Top-1 on ImageNet: of timm's weights, as published by timm, not measured here.\n")
    print(cost_table(classifiers))
    print("\nSegmentation networks of 19 classes at 1024 x 2048.")
    print("stride: of the output; root_kernel_size: of the aggregation nodes.\n")
    print(cost_table(networks))
    return 0


def inspect(arguments: Sequence[str]) -> int:
    """Says what a weights file is, what of it would be loaded, and what not."""
    parser = parser_of("weights inspect", inspect)
    parser.add_argument("file", type=str, help="a file, or a repository on the Hugging Face hub (USER/NAME)")
    given = parser.parse_args(arguments)

    from dlaseg.weights.inspection import inspect_weights

    description, mismatch = inspect_weights(given.file)
    print(description)
    if mismatch is not None:
        raise mismatch
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Makes a weights file of ours, which eval and infer take, from a segmentation network of anyone's."""
    parser = parser_of("weights convert", convert)
    parser.add_argument("file", type=str, help="a file, or a repository on the Hugging Face hub (USER/NAME)")
    parser.add_argument("output", type=Path, help="a .safetensors file")
    parser.add_argument("--classes", type=str | None, help="a data set whose classes are fixed, or a classes file "
                        "(YAML); numbered if left out")  # fmt: skip
    parser.add_argument("--mean", type=float, nargs="+", help="what the network was trained with, per channel, 0 to 1")
    parser.add_argument("--std", type=float, nargs="+", help="the same; ImageNet's if left out")
    given = parser.parse_args(arguments)

    from dlaseg.data.datasets import label_map_of
    from dlaseg.factory import model_from_checkpoint
    from dlaseg.weights.files import save_model

    model = model_from_checkpoint(given.file)
    if given.classes is not None:
        model.metadata = replace(model.metadata, label_map=label_map_of(given.classes))
    mean, std = tuple(given.mean or model.metadata.mean), tuple(given.std or model.metadata.std)
    model.metadata = replace(model.metadata, mean=mean, std=std)
    save_model(model, given.output)
    print(given.output)
    return 0
