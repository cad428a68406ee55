"""From weights to an int8 file that loses no more mIoU than allowed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.errors import UserError
from dlaseg.evaluation.evaluator import evaluate_predictor
from dlaseg.export.check import Comparison, batches_of, compare
from dlaseg.export.export import check_arguments, comparison_images, describe, entries_of, require_exact, writing
from dlaseg.export.formats import write_network, write_openvino
from dlaseg.export.network import trace_network
from dlaseg.export.quantize import import_nncf, search, weight_names
from dlaseg.factory import load_model
from dlaseg.files import write_json
from dlaseg.images import read_image
from dlaseg.inference.backends.exported import OPENVINO, read_graph, report_path
from dlaseg.inference.backends.graph import openvino_core, require
from dlaseg.inference.backends.reduced import reduce
from dlaseg.inference.predictor import Predictor
from dlaseg.metadata import reduction
from dlaseg.models.base import SegmentationModel

CALIBRATION_IMAGES = 100
"""Images that the ranges of activations are taken from, evenly spaced over those that are given."""

REPETITIONS = 10
"""Forward passes that speed is measured by, of the float32 and the int8 file by turns."""


@dataclass(frozen=True)
class Int8Export:
    """An exported int8 file.

    Attributes:
        path: of the file.
        report: of the JSON file beside it.
        comparisons: with PyTorch in float32.
        miou: of the float32 and the int8 file, in percent.
        seconds: of a forward pass of the float32 and the int8 file, medians.
        size: (H, W) of the image that speed was measured on.
        in_float: names of the weights of convolutions that are not int8.
    """

    path: Path
    report: Path
    comparisons: tuple[Comparison, ...]
    miou: tuple[float, float]
    seconds: tuple[float, float]
    size: tuple[int, int]
    in_float: tuple[str, ...]


def export_int8(
    weights: str | Path | SegmentationModel,
    path: str | Path,
    calibration: Sequence[Path],
    dataset: SegmentationDataset,
    max_drop: float = 0.3,
    input: str = "pixels",
    output: str = "labels",
    images: str | Path | None = None,
    workers: int = 0,
) -> Int8Export:
    """Exports a network whose convolutions are computed in int8, as OpenVINO IR.

    The file is scored on a labelled split as `eval` does it. Where it loses more than `max_drop`, the layers that
    change the logits most stay in float32.

    Args:
        weights: see `export`.
        path: ends in `.xml`.
        calibration: images like those that the network will see, such as those of training; labels are not needed.
        dataset: the split that is scored, with the network's classes.
        max_drop: largest loss of mIoU, in points (percent).
        input: see `export`.
        output: see `export`.
        images: see `export`; by default the first one of the split.
        workers: processes that read the split.

    Raises:
        UserError: wrong arguments, a package that is not installed, no images, classes that differ, or a loss that
            cannot be held; nothing is left.
    """
    path = Path(path)
    check_arguments(path, input, output)
    if path.suffix != OPENVINO:
        raise UserError(f"{path}: int8 files are OpenVINO IR: name it {path.stem}.xml")
    if not 0 <= max_drop <= 100:
        raise UserError(f"max_drop {max_drop}: points of mIoU, from 0 to 100")
    if not calibration:
        raise UserError("calibration []: give images to calibrate with")
    import_nncf()  # refused now if it is missing
    require("openvino", "dlaseg[export]")
    model = load_model(weights) if isinstance(weights, str | Path) else weights
    if (channels := model.metadata.in_channels) != 3:
        raise UserError(
            f"a network of {channels} input channels: int8 is calibrated and scored on RGB images: export it without "
            "--int8"
        )
    dataset.require_labels()
    pictures = comparison_images(dataset.pairs[0].image if images is None else images, model.metadata.in_channels)
    entries = entries_of(weights, model, input, output)
    spaced = np.linspace(0, len(calibration) - 1, min(CALIBRATION_IMAGES, len(calibration))).round().astype(int)
    inputs = [_input(read_image(calibration[index]), model, input) for index in spaced]
    with writing(path) as temporary:
        reference = temporary.parent / "float32" / path.name
        reference.parent.mkdir()
        write_network(trace_network(model, input, output), reference, entries, input, output)
        require_exact(path, compare(reference, model, input, output, batches_of(pictures)))
        before = _miou(reference, dataset, workers)
        scores: list[float] = []

        def accept(network: Any) -> bool:
            write_openvino(network, temporary, entries)
            scores.append(_miou(temporary, dataset, workers))
            return before - scores[-1] <= max_drop

        network = openvino_core().read_model(reference)
        found = search(network, inputs, accept)
        if found is None:
            raise UserError(
                f"{path}: not written: int8 loses {before - max(scores):.2f} points of mIoU or more, also with half of "
                f"the layers in float32: allow it by --max-drop, or export without --int8"
            )
        in_float = weight_names(network, found[1])
        seconds, size = _speed(reference, temporary, pictures[0])
        comparisons = compare(temporary, model, input, output, batches_of(pictures))
        report = {
            **describe(temporary, model, input, output, comparisons),
            "int8": {
                "dataset": dataset.name,
                "split": dataset.split,
                "images": len(dataset),
                "calibration_images": len(inputs),
                "miou_float32": before,
                "miou_int8": scores[-1],
                "max_drop": max_drop,
                "seconds_float32": seconds[0],
                "seconds_int8": seconds[1],
                "size": list(size),
                "in_float32": in_float,
            },
        }
        write_json(report_path(temporary), report)
    return Int8Export(path, report_path(path), tuple(comparisons), (before, scores[-1]), seconds, size, tuple(in_float))


def _input(image: NDArray[np.uint8], model: SegmentationModel, input: str) -> NDArray[Any]:
    """An image (H, W, 3) as the input of a file, N = 1; reduced as `Predictor` does."""
    image = reduce(image, reduction(image.shape[0], image.shape[1], model.metadata.max_short_side))
    if input == "pixels":
        return image[None]
    return normalize(to_tensor(image)[None], model.metadata.mean, model.metadata.std).contiguous().numpy()


def _miou(path: Path, dataset: SegmentationDataset, workers: int) -> float:
    """The mIoU of an exported file, in percent."""
    miou = evaluate_predictor(Predictor(read_graph(path), device="cpu"), dataset, workers).scores().miou
    if miou is None:
        raise UserError(
            f"{dataset.name} {dataset.split}: no pixel is scored, so that int8 cannot be guarded: use another"
        )
    return 100 * miou


def _speed(one: Path, other: Path, image: NDArray[np.uint8]) -> tuple[tuple[float, float], tuple[int, int]]:
    """Median seconds of a forward pass of two files by turns, and the size of the image."""
    predictors = [Predictor(read_graph(path), device="cpu") for path in (one, other)]
    pixels = to_tensor(image)[None]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPETITIONS + 1):
        for predictor, times in zip(predictors, seconds, strict=True):
            start = time.perf_counter()
            predictor.backend.run(pixels)
            times.append(time.perf_counter() - start)
    return (median(seconds[0][1:]), median(seconds[1][1:])), (image.shape[0], image.shape[1])
