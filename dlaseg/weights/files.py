"""Weights files: ours, a `.safetensors` that stands alone, and everyone else's DLA, loaded exactly or not at all."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.labels import LabelMap
from dlaseg.models.dla import DLA
from dlaseg.models.segmenter import DLASeg
from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint
from dlaseg.weights.download import fetch
from dlaseg.weights.layouts import Recognized, recognize

logger = logging.getLogger(__name__)

FORMAT = "dlaseg-1"
"""Format version; a file of another one is refused."""


def save_model(model: DLASeg | DLA, path: str | Path) -> None:
    """Writes weights together with all that is needed to use them.

    The metadata hold the format version, the model's arguments, the label map (of a classifier: the class names), mean
    and std, and where the weights started from, each as JSON.

    Args:
        model: made by `create_model`, `create_backbone` or `load_model`.
        path: a `.safetensors` file; replaced as a whole.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights files end in .safetensors: name it {path.stem}.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder stands there: name a file, such as {path / 'best.safetensors'}")
    if not model.arguments:
        raise UserError(f"{path}: only a model made by create_model can be saved; this one was put together by hand")
    meaning = Meaning(
        model.arguments,
        model.label_map if isinstance(model, DLASeg) else tuple(model.class_names),
        tuple(model.mean),
        tuple(model.std),
        tuple(model.origin),
    )
    meaning.check(model)
    # Contiguous: channels_last is how a machine likes to compute, not what the file says
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, _in_order(save(tensors, meaning.to_metadata())))  # save_file's files only their owner can read


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted, which safetensors writes in any order: same weights, same hash.

    The header's length, 8 bytes little-endian, comes first; blanks fill it up to a multiple of 8, so that tensors stay
    aligned (https://huggingface.co/docs/safetensors).
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@dataclass(frozen=True)
class Meaning:
    """What a file of ours says beside its tensors.

    Attributes:
        arguments: of `create_model`, or for a classifier of `create_backbone`.
        labels: a segmentation network's label map, or a classifier's class names.
        mean, std: what the input is normalised with.
        origin: what the weights started from, see `Origin`.
    """

    arguments: dict[str, Any]
    labels: LabelMap | tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: tuple[dict[str, str], ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """As a safetensors file keeps it."""
        segments = isinstance(self.labels, LabelMap)
        labels = self.labels.to_dict() if isinstance(self.labels, LabelMap) else list(self.labels)
        return {
            "format": FORMAT,
            "model": json.dumps(self.arguments),
            "labels" if segments else "classes": json.dumps(labels),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "origin": json.dumps(self.origin),
        }

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Meaning":
        """Reads the metadata.

        Raises:
            UserError: another format, or damaged.
        """
        path, metadata = checkpoint.path, checkpoint.metadata
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{path}: weights format {metadata.get('format')!r}; this release reads {FORMAT!r} "
                "files, written by dlaseg.save_model and by training"
            )
        try:
            arguments = dict(json.loads(metadata["model"]))
            if "classes" in metadata:
                labels: LabelMap | tuple[str, ...] = tuple(map(str, json.loads(metadata["classes"])))
            else:
                labels = LabelMap.from_dict(json.loads(metadata["labels"]))
            mean, std = tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))
            origin = tuple(dict(entry) for entry in json.loads(metadata.get("origin", "[]")))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: broken or no weights file ({error}): copy it again") from error
        return cls(arguments, labels, mean, std, origin)

    def check(self, model: DLASeg | DLA) -> None:
        """Refuses labels, mean or std that do not go with the network."""
        outputs = model.num_classes if isinstance(model, DLASeg) else model.fc.out_channels if model.fc else 0
        count = self.labels.num_classes if isinstance(self.labels, LabelMap) else len(self.labels)
        if count != outputs:
            what = "a label map" if isinstance(self.labels, LabelMap) else "names"
            raise UserError(f"{what} of {count} classes on a network of {outputs}: one each")
        channels = model.in_channels if isinstance(model, DLA) else model.backbone.in_channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(isinstance(v, float | int) for v in values):
                raise UserError(f"{name} {list(values)}: one number for each of {channels} channels")


@dataclass(frozen=True)
class Saved:
    """A segmentation network's file of ours, as read."""

    path: Path
    meaning: Meaning
    tensors: dict[str, Tensor]

    def fill(self, model: DLASeg) -> None:
        """Puts everything into the model that `meaning.arguments` make.

        Raises:
            UserError: not exactly that model's tensors, or a meaning that does not go with it.
        """
        try:
            self.meaning.check(model)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        expected = model.state_dict()
        wrong = sorted(set(expected) ^ set(self.tensors)) or [
            name for name, tensor in self.tensors.items() if tensor.shape != expected[name].shape
        ]
        if wrong:
            raise UserError(
                f"{self.path}: {len(wrong)} tensors do not fit {self.meaning.arguments['name']}, first {wrong[0]!r}"
            )
        model.load_state_dict(self.tensors)
        _mean_what_it_meant(model, self.meaning)


def read_saved(path: Path) -> Saved:
    """Reads a segmentation network's file of ours.

    Raises:
        UserError: no such file, damaged, or not a segmentation network of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; weights are a .safetensors file, such as runs/NAME/best.safetensors")
    checkpoint = read_checkpoint(path)
    meaning = Meaning.of(checkpoint)
    if not isinstance(meaning.labels, LabelMap):
        raise UserError(f"{path}: a classifier's weights: start a segmentation network from them by backbone_weights")
    return Saved(path, meaning, checkpoint.tensors)


@dataclass(frozen=True)
class Origin:
    """What weights started from; kept in every file that is saved later.

    Attributes:
        argument: `weights` or `backbone_weights`.
        source: the hub name, or the file's name.
        layout: what the file was.
        sha256: of the file.
    """

    argument: str
    source: str
    layout: str
    sha256: str


def load_weights(model: DLASeg, source: str | Path) -> Origin:
    """Loads a whole segmentation network, ours or the original's.

    A head of another number of classes starts fresh; a first layer of other than 3 input channels is made from the one
    for 3; 1x1 nodes become the centre of 3x3 nodes. All of that is logged; nothing else is ever partial.

    Args:
        model: its arguments decide what is asked for; changed only if everything fits.
        source: a file, or a repository on the Hugging Face hub, such as `USER/NAME`.

    Raises:
        UserError: no such weights, or not this network's: names what does not fit.
    """
    checkpoint = read_checkpoint(fetch(source, "weights (--model.weights)"))
    found = recognize(checkpoint)
    if found.stride is None:
        raise UserError(f"{source}: {found}: it has no decoder: give it as backbone_weights")
    if found.stride != model.stride:
        raise UserError(f"{source}: {found}: this model has stride {model.stride}: make it with stride {found.stride}")
    state, notes = _fit_backbone(found, model.backbone, source)
    state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    own = model.state_dict()
    for name, tensor in found.decoder.items():
        fresh = name.startswith("head.") and found.num_classes != model.num_classes
        state[name] = own[name] if fresh else tensor
    if found.num_classes != model.num_classes:
        notes.append(f"the head starts fresh: {model.num_classes} classes rather than {found.num_classes}")
    meaning = _meaning(checkpoint)
    model.load_state_dict(state)
    if meaning is not None:
        if found.in_channels == model.backbone.in_channels:
            model.mean, model.std = meaning.mean, meaning.std
        if found.num_classes == model.num_classes and isinstance(meaning.labels, LabelMap):
            model.label_map = meaning.labels
    else:
        notes.append("its mean and std are not in the file, ImageNet's are assumed: set model.mean and model.std")
    return _record(model, "weights", source, checkpoint, found, notes)


def load_backbone_weights(model: DLASeg | DLA, source: str | Path, argument: str = "backbone_weights") -> Origin:
    """Loads a backbone from a classifier or a segmentation network: timm's, the original's or ours.

    What is adapted is as for `load_weights`; of a classifier's head, the same.

    Args:
        model: a segmentation network, whose backbone alone is changed, or a backbone.
        source: a file, or a repository on the Hugging Face hub, such as `timm/dla34.in1k`.
        argument: what `source` was given as, for messages and the record.

    Raises:
        UserError: no such weights, or not this network's: names what does not fit.
    """
    backbone = model.backbone if isinstance(model, DLASeg) else model
    checkpoint = read_checkpoint(fetch(source, f"{argument} (--model.{argument})"))
    found = recognize(checkpoint)
    state, notes = _fit_backbone(found, backbone, source)
    if backbone.fc is not None:
        classes = backbone.fc.out_channels
        if found.classifier and found.num_classes == classes:
            state |= found.classifier
        else:
            state |= {f"fc.{name}": tensor for name, tensor in backbone.fc.state_dict().items()}
            notes.append(f"the classifier starts fresh: {classes} classes rather than {found.num_classes}"
                         if found.classifier else "the classifier starts fresh: the file has none")  # fmt: skip
    meaning = _meaning(checkpoint)
    backbone.load_state_dict(state)
    if meaning is not None:
        if found.in_channels == backbone.in_channels:
            model.mean, model.std = meaning.mean, meaning.std
        names = meaning.labels
        if isinstance(model, DLA) and isinstance(names, tuple) and len(names) == len(model.class_names):
            model.class_names = list(names)
    return _record(model, argument, source, checkpoint, found, notes)


def _fit_backbone(found: Recognized, backbone: DLA, source: object) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's state from the weights found, and what had to be adapted for it."""
    name = backbone.arguments.get("name", found.name)
    if found.name != name:
        raise UserError(f"{source}: {found}: this model is a {name}: make it a {found.name}, or give {name}'s weights")
    notes = []
    state = dict(found.backbone)
    if found.root_kernel_size != backbone.root_kernel_size:
        if found.root_kernel_size == 3:
            raise UserError(f"{source}: {found}: this model has 1x1 nodes: make it with root_kernel_size 3")
        for key, tensor in state.items():
            if key.endswith("root.conv.weight"):
                state[key] = _in_the_centre(tensor)
        notes.append("1x1 nodes became the centre of 3x3 nodes, zero around it: the same outputs")
    channels = backbone.in_channels
    if found.in_channels != channels:
        if found.in_channels != 3:
            raise UserError(f"{source}: {found}: this model has {channels}: use in_channels {found.in_channels}")
        state["base_layer.0.weight"] = _for_channels(state["base_layer.0.weight"], channels)
        notes.append(f"the first layer is made from the one for 3 channels: {_how(channels)}")
    return state, notes


def _in_the_centre(kernel: Tensor) -> Tensor:
    """(K, C, 1, 1) -> (K, C, 3, 3), zero but for the centre."""
    return torch.nn.functional.pad(kernel, (1, 1, 1, 1))


def _for_channels(kernel: Tensor, channels: int) -> Tensor:
    """(K, 3, h, w) -> (K, channels, h, w): summed for one, else repeated and rescaled to the same sum."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel[:, torch.arange(channels) % 3]
    return repeated * (3 / channels)


def _how(channels: int) -> str:
    return "summed for 1" if channels == 1 else f"repeated for {channels}, times 3/{channels}"


def _meaning(checkpoint: Checkpoint) -> Meaning | None:
    """What a file of ours says; None for one that is not ours, whose metadata, if any, are others'."""
    return Meaning.of(checkpoint) if checkpoint.metadata.get("format", "").startswith("dlaseg") else None


def _mean_what_it_meant(model: DLASeg, meaning: Meaning) -> None:
    assert isinstance(meaning.labels, LabelMap)
    model.label_map, model.mean, model.std = meaning.labels, meaning.mean, meaning.std
    model.origin = list(meaning.origin)


def _record(
    model: DLASeg | DLA,
    argument: str,
    source: str | Path,
    checkpoint: Checkpoint,
    found: Recognized,
    notes: Sequence[str],
) -> Origin:
    """Logs what was loaded and keeps it with the model."""
    name = Path(source).name if Path(source).exists() else str(source)  # no folders of this machine
    origin = Origin(argument, name, str(found), checkpoint.sha256)
    model.origin = [vars(origin)]
    logger.info("%s %s: %s, sha256 %s", argument, source, found, checkpoint.sha256)
    for note in notes:
        logger.warning("%s %s: %s", argument, source, note)
    return origin
