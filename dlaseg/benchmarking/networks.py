"""From a candidate to something that turns image files into label maps, phase by phase."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn import functional as F

from dlaseg.benchmarking.candidates import PLAIN, Candidate, is_exported, is_named
from dlaseg.benchmarking.others import OnnxFile, smp_network, torchvision_network
from dlaseg.benchmarking.timing import Stopwatch
from dlaseg.device import pick_device
from dlaseg.errors import UserError
from dlaseg.factory import create_model, load_model
from dlaseg.images import read_image, write_png
from dlaseg.inference.backends.exported import report_path
from dlaseg.inference.inputs import as_rgb
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.models.base import SegmentationModel, upsample_logits
from dlaseg.strict_json import read_json
from dlaseg.weights.download import find_builtin, resolve
from dlaseg.weights.files import read_model_file, save_model

IN_MEMORY = ("prepare", "network", "upsample")
"""Phases from an image in memory to its label map, whose sum is the latency."""

PHASES = ("decode", *IN_MEMORY, "encode")
"""Phases from an image file to a label PNG."""


class Network(Protocol):
    """A network that is measured.

    Attributes:
        device: that it computes on.
    """

    device: torch.device

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """Reads an image file: (H, W, 3) uint8 RGB."""
        ...

    def predict(self, image: NDArray[np.uint8], watch: Stopwatch) -> NDArray[np.uint8]:
        """The label map of an image, (H, W) uint8 train ids; measures the phases `IN_MEMORY`."""
        ...

    def encode(self, labels: NDArray[np.uint8], path: Path) -> None:
        """Writes a label map as PNG."""
        ...


class _OurFiles:
    """Reads and writes as `dlaseg infer` does."""

    label_map: LabelMap | None = None

    def decode(self, path: Path) -> NDArray[np.uint8]:
        return read_image(path)

    def encode(self, labels: NDArray[np.uint8], path: Path) -> None:
        write_png(path, labels if self.label_map is None else self.label_map.decode(labels))


class Predicting(_OurFiles):
    """A network behind a `Predictor`, as `dlaseg infer` has it.

    `prepare` checks the image. The backend normalises it, so that is part of `network`.

    Args:
        predictor: ready for use.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.label_map = predictor, predictor.label_map
        self.device = torch.device(predictor.backend.device)
        self._backend = _MeasuredBackend(predictor.backend)
        self._measured = copy.copy(predictor)
        self._measured.backend = self._backend

    def predict(self, image: NDArray[np.uint8], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `Network.predict`."""
        self._backend.watch = watch
        with watch.phase("prepare"):
            image = as_rgb(image)
        with watch.phase("upsample"):
            return self._measured(image)


class _MeasuredBackend:
    """A backend whose runs are the phase `network`."""

    def __init__(self, backend: Any):
        self.backend = backend
        self.watch = Stopwatch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def run(self, images: Any) -> Any:
        """See `Backend.run`."""
        with self.watch.phase("network"):
            return self.backend.run(images)


class Plain:
    """A DLA network as a plain PyTorch script runs it.

    float32, contiguous tensors, batch norm as trained, logits upsampled to full size, LogSoftmax, argmax. Pillow reads
    and writes the files.

    Args:
        model: in eval mode.
        device: to compute on.
    """

    def __init__(self, model: SegmentationModel, device: torch.device):
        self.model, self.device = model.to(device), device

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """See `Network.decode`."""
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))

    @torch.no_grad()
    def predict(self, image: NDArray[np.uint8], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `Network.predict`."""
        metadata = self.model.metadata
        with watch.phase("prepare"):
            pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (metadata.mean, metadata.std))
            pixels = ((pixels - mean) / std).to(self.device)
        with watch.phase("network"):
            coarse = self.model.coarse_logits(pixels)
        with watch.phase("upsample"):
            logits = upsample_logits(coarse, self.model.stride, *image.shape[:2])
            return F.log_softmax(logits, 1).argmax(1)[0].to(torch.uint8).cpu().numpy()

    def encode(self, labels: NDArray[np.uint8], path: Path) -> None:
        """See `Network.encode`."""
        label_map = self.model.metadata.labels
        Image.fromarray(label_map.decode(labels)).save(path)


class Onnx(_OurFiles):
    """An ONNX file."""

    device = torch.device("cpu")

    def __init__(self, file: OnnxFile):
        self.file = file

    def predict(self, image: NDArray[np.uint8], watch: Stopwatch) -> NDArray[np.uint8]:
        """See `Network.predict`."""
        with watch.phase("prepare"):
            pixels = self.file.prepare(image)
        with watch.phase("network"):
            output = self.file.run(pixels)
        with watch.phase("upsample"):
            return self.file.labels(output, *image.shape[:2])


def build(candidate: Candidate) -> Network:
    """Makes what a candidate names.

    Raises:
        UserError: an unknown name, a missing package or file, or as `Predictor`.
    """
    if candidate.family == "onnx":
        return Onnx(OnnxFile(candidate.source))
    if candidate.family == PLAIN:
        return Plain(model_of(candidate).eval(), pick_device(candidate.device))
    network = candidate.source if candidate.is_exported else model_of(candidate)
    predictor = Predictor(network, candidate.backend, candidate.device, candidate.precision, max_short_side=0)
    return Predicting(predictor)  # at the size that is measured


def model_of(candidate: Candidate) -> SegmentationModel:
    """The network in PyTorch; randomly initialised, then always with the same weights, unless it is from a file.

    Raises:
        UserError: an unknown name, a missing package, or a file without a segmentation network.
    """
    architecture = candidate.architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if candidate.family == "smp":
            return smp_network(candidate.source, architecture.num_classes)
        if candidate.family == "torchvision":
            return torchvision_network(candidate.source, architecture.num_classes)
        if candidate.is_named:
            name, _, decoder = candidate.source.partition(":")
            return create_model(
                name,
                architecture.num_classes,
                architecture.stride,
                architecture.root_kernel_size,
                decoder=decoder or "plain",
            )
    return load_model(candidate.source)


def weights_of(candidate: Candidate, folder: Path) -> Path:
    """The weights file of a DLA network; that of a randomly initialised one is written to the folder."""
    if not candidate.is_named:
        return resolve(candidate.source)
    path = folder / f"{candidate.source.replace(':', '_')}.safetensors"
    save_model(model_of(candidate), path)
    return path


def exported_from(source: str) -> str | None:
    """The `model_sha256` of the network that a file was exported from; None if no report beside the file says it."""
    builtin = find_builtin(source)
    try:
        if builtin is not None:
            content = read_json(builtin.with_suffix(".json"), "facts")["export"]
        else:
            content = read_json(report_path(resolve(source)), "the report of an export")
        return str(content["weights_sha256"])
    except (UserError, TypeError, KeyError):
        return None


def num_classes_of(models: Sequence[str]) -> int:
    """The classes of the first weights file among names and files; 19, as Cityscapes has, without a file.

    Raises:
        UserError: the file cannot be read.
    """
    for model in models:
        if not is_named(model) and not is_exported(model):
            metadata, _ = read_model_file(resolve(model))
            return metadata.labels.num_classes
    return 19
