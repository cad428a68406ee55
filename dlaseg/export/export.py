"""From weights to an exported file that was compared with PyTorch."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.export.check import Comparison, batches_of, compare
from dlaseg.export.formats import AXES, write_network
from dlaseg.export.network import trace_network
from dlaseg.factory import load_model
from dlaseg.files import check_folder, sha256, write_json
from dlaseg.images import read_image
from dlaseg.inference.backends.exported import (
    OPENVINO,
    SUFFIXES,
    encode_entries,
    exported_sha256,
    report_path,
    stride_of,
)
from dlaseg.inference.backends.graph import INPUT, INPUTS, OUTPUTS
from dlaseg.inference.sources import find_images
from dlaseg.metadata import Origin
from dlaseg.models.base import SegmentationModel
from dlaseg.synthetic.dataset import draw_scene
from dlaseg.version import __version__
from dlaseg.weights.builtin import builtin_files
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.entries import encode_metadata
from dlaseg.weights.files import model_sha256
from dlaseg.weights.recognition import recognize

MOST_IMAGES, MOST_PIXELS = 4, 1 << 20
"""Images that a file is compared on; of larger ones the middle."""


@dataclass(frozen=True)
class Export:
    """An exported file.

    Attributes:
        path: of the file.
        report: of the JSON file beside it, which holds `to_dict`.
        comparisons: with PyTorch, one for each engine.
    """

    path: Path
    report: Path
    comparisons: tuple[Comparison, ...]


def export(
    weights: str | Path | SegmentationModel,
    path: str | Path,
    input: str = "pixels",
    output: str = "labels",
    images: str | Path | None = None,
) -> Export:
    """Exports a network, and compares the file with PyTorch before it gets its name.

    The file takes any batch, height and width, and carries the metadata of the network, so that `Predictor`, `infer`
    and `eval` take it as weights (but for `.pt2`). A JSON file beside it says what goes in, what comes out, and how
    close the file is to PyTorch.

    Args:
        weights: a file, folder or hub name, see `load_model`; or a model.
        path: ends in `.onnx`, `.xml` (OpenVINO IR; a `.bin` is written beside it) or `.pt2` (torch.export). Existing
            files are replaced.
        input: `pixels` (N, H, W, 3) uint8 RGB, which the file normalises; or `normalized` (N, C, H, W) float32.
        output: `labels` (N, H, W) uint8 train ids; `logits` (N, num_classes, H, W) float32; or `coarse_logits`, the
            same before upsampling.
        images: an image or a folder, on which the file is compared; drawn street scenes by default.

    Raises:
        UserError: wrong arguments, a package that is not installed, a folder that cannot be written to, or a file that
            computes something else than PyTorch; nothing is left of it.
    """
    path = Path(path)
    check_arguments(path, input, output)
    model = load_model(weights) if isinstance(weights, str | Path) else weights
    pictures = comparison_images(images, model.metadata.in_channels)
    program = trace_network(model, input, output)
    entries = entries_of(weights, model, input, output)
    with writing(path) as temporary:
        write_network(program, temporary, entries, input, output)
        comparisons = compare(temporary, model, input, output, batches_of(pictures))
        require_exact(path, comparisons)
        write_json(report_path(temporary), describe(temporary, model, input, output, comparisons))
    return Export(path, report_path(path), tuple(comparisons))


def entries_of(
    weights: str | Path | SegmentationModel, model: SegmentationModel, input: str, output: str
) -> dict[str, str]:
    """The metadata of the file. If the weights come with the package, the origin names them, so that scores say so.

    Args:
        weights: see `export`.
        model: the network of these weights.
        input: see `export`.
        output: see `export`.
    """
    entries = encode_entries(model, input, output)
    if not isinstance(weights, str | Path):
        return entries
    digest = sha256(resolve(weights))
    origin = [
        Origin("weights", name, str(recognize(read_checkpoint(file))), digest)
        for name, file in builtin_files().items()
        if sha256(file) == digest
    ]
    return entries | encode_metadata(replace(model.metadata, origin=(*model.metadata.origin, *origin)))


def check_arguments(path: Path, input: str, output: str) -> None:
    """Refuses other suffixes, a file that cannot be written, weights of others, and unknown inputs and outputs."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: exported files end in .onnx, .xml (OpenVINO) or .pt2 (torch.export): name one of them"
        )
    if path.is_dir():
        raise UserError(f"{path}: a folder has this name: name a file, such as {path / f'model{path.suffix}'}")
    check_folder(path.parent)
    weights = path.with_suffix(".bin")
    for file in [report_path(path), weights] if path.suffix == OPENVINO else [report_path(path)]:
        if file.is_dir():
            raise UserError(f"{path}: {file.name} is written beside it, and a folder has this name: use another name")
    if path.suffix == OPENVINO and os.path.lexists(weights) and not path.exists():
        raise UserError(
            f"{path}: would replace {weights.name}, which may be another program's, since {path.name} does not exist: "
            "move it, or use another name"
        )
    for name, value, known in (("input", input, INPUTS), ("output", output, OUTPUTS)):
        if value not in known:
            raise UserError(f"{name} {value!r}: use one of {', '.join(known)}")


def require_exact(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Refuses a file that differs from PyTorch by more than rounding."""
    for comparison in comparisons:
        if not comparison.is_exact:
            raise UserError(f"{path}: not written, since it differs from PyTorch ({comparison}): use another format")


def comparison_images(images: str | Path | None, channels: int = 3) -> list[NDArray[np.uint8]]:
    """The images that a file is compared on, (H, W, channels) uint8 each.

    Args:
        images: a file or a folder, of which the first ones are taken; None for drawn scenes.
        channels: of the network; where it takes no RGB, those of the images are repeated.

    Raises:
        UserError: no image, or one that cannot be read.
    """
    if images is None:
        sizes = [(256, 512), (203, 300)]
        found = [draw_scene(seed, height, width).image for seed, (height, width) in enumerate(sizes)]
    else:
        found = [_middle(read_image(source.path)) for source in find_images(Path(images))[:MOST_IMAGES]]
    return [image[..., np.arange(channels) % 3] for image in found]


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    factor = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    rows, columns = max(1, int(height * factor)), max(1, int(width * factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder beside; on success, its files replace those of `path`."""
    created = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem[:50]}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            # The .bin first: an .xml is never without
            files = [file for file in Path(folder).iterdir() if file.is_file()]
            for file in sorted(files, key=lambda file: file.suffix == OPENVINO):
                file.chmod(0o666 & ~_umask())
                file.replace(path.parent / file.name)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written ({error.strerror or error}): make room or name another file"
        ) from error
    finally:
        for parent in created:
            with suppress(OSError):  # the file is in it
                parent.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def describe(
    file: Path, model: SegmentationModel, input: str, output: str, comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """The content of the JSON file: what goes in, what comes out, and how it compares."""
    labels = model.metadata.labels
    channels, classes = model.metadata.in_channels, labels.num_classes
    return {
        "dlaseg": __version__,
        "weights_sha256": model_sha256(model),
        "sha256": exported_sha256(file),
        "input": {"name": INPUT, "is": input, **_tensor(input, channels)},
        "output": {"name": output, "is": output, **_tensor(output, classes)},
        "stride": stride_of(model, output),
        "classes": list(labels.names),
        "mean": list(model.metadata.mean),
        "std": list(model.metadata.std),
        **({} if model.metadata.max_short_side is None else {"max_short_side": model.metadata.max_short_side}),
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }


def _tensor(kind: str, channels: int) -> dict[str, Any]:
    dtype = "uint8" if kind in ("pixels", "labels") else "float32"
    return {"dtype": dtype, "shape": [channels if name is None else name for name in AXES[kind]]}
