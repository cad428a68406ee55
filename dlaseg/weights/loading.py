"""Anyone's DLA weights into a network: exactly, with the few adaptations named here, or not at all."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.metadata import MAX_ORIGINS, ModelMetadata, Origin
from dlaseg.models.build import OPTIONS
from dlaseg.models.dla import DLA
from dlaseg.models.segmenter import DLASeg
from dlaseg.weights.checkpoints import AVERAGED, Checkpoint, read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.entries import decode_metadata
from dlaseg.weights.files import check_network, is_ours
from dlaseg.weights.recognition import HEADS, Recognized, recognize

logger = logging.getLogger(__name__)


def load_weights(model: DLASeg, source: str | Path, norm: str | None = None) -> Origin:
    """Loads a whole segmentation network, ours or the original's.

    Three adaptations are made, and logged: a head of another number of classes stays randomly initialised; a first
    layer of other than 3 input channels is derived from the one for 3; 1x1 nodes become the centre of 3x3 nodes.
    Anything else that does not fit is refused.

    Args:
        model: its architecture decides what is expected; changed only if everything fits.
        source: a file, the folder of a run or one with model.safetensors, a name of `list_weights`, or a repository on
            the Hugging Face hub, such as `USER/NAME`.
        norm: of decoder and head of an attentive network in the original's layout, which its file may not tell:
            `batch`, or `inplace` for in-place activated batch norm.

    Raises:
        UserError: no such weights, or of another network: names what does not fit.
    """
    _check_kind(model, DLASeg)
    checkpoint = read_checkpoint(resolve(source, "weights (--model.weights)"))
    recognized = recognize(checkpoint, norm)
    if recognized.stride is None:
        raise UserError(f"{source}: {recognized}: it has no decoder: give it as backbone_weights")
    if recognized.stride != model.decoder_stride:
        raise UserError(
            f"{source}: {recognized}: this model has stride {model.decoder_stride}: make it with stride "
            f"{recognized.stride}"
        )
    if recognized.norm_unknown:
        raise UserError(
            f"{source}: {recognized}: the file does not say whether decoder and head have batch norm or in-place norm, "
            "and would load with either: set norm (--norm) to batch or inplace, as its author trained it"
        )
    for option, default in OPTIONS.items():
        own, found = (given.get(option, default) for given in (model.metadata.architecture, recognized.options))
        if own != found and not (option == "scales" and own and found):  # any scales do for the same tensors
            raise UserError(
                f"{source}: {recognized}: this model has {option} {own or 'none'}: make it with {option} "
                f"{found or 'none'}, or take the backbone alone, as backbone_weights"
            )
    state, notes = _backbone_state(recognized, model.backbone, source)
    state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    same_classes = recognized.num_classes == model.num_classes
    own = model.state_dict()
    for name, tensor in recognized.decoder.items():
        state[name] = tensor if same_classes or not name.startswith(HEADS) else own[name]
    if not same_classes:
        notes.append(
            f"the head is randomly initialised: {model.num_classes} classes rather than {recognized.num_classes}"
        )
    metadata, earlier = model.metadata, tuple[Origin, ...]()
    if is_ours(checkpoint):
        saved = _saved_metadata(checkpoint, recognized)
        earlier = saved.origin
        if recognized.in_channels == model.backbone.in_channels:
            metadata = replace(
                metadata,
                mean=saved.mean,
                std=saved.std,
                max_short_side=saved.max_short_side,
                training_short_side=saved.training_short_side,
            )
        if same_classes and saved.label_map is not None:
            metadata = replace(metadata, label_map=saved.label_map)
    else:
        notes.append(
            "the file has no mean and std, ImageNet's are assumed unless others are set (dlaseg weights convert --mean "
            "--std; in Python, model.metadata)"
        )
    _load(model, state, f"{source}: {recognized}")
    origin = _log(checkpoint, recognized, "weights", source, notes)
    model.metadata = replace(metadata, origin=(origin, *earlier)[:MAX_ORIGINS])
    return origin


def load_backbone_weights(model: DLASeg | DLA, source: str | Path, argument: str = "backbone_weights") -> Origin:
    """Loads a backbone from a classifier or a segmentation network: timm's, the original's or ours.

    Adaptations are those of `load_weights`; a classifier's head is treated as a segmentation network's.

    Args:
        model: a segmentation network, of which the backbone alone is changed, or a backbone.
        source: as for `load_weights`, such as `timm/dla34.in1k`.
        argument: the name of the argument that `source` comes from, for messages and the metadata.

    Raises:
        UserError: no such weights, or of another network: names what does not fit.
    """
    backbone = model.backbone if isinstance(model, DLASeg) else model
    _check_kind(backbone, DLA)
    checkpoint = read_checkpoint(resolve(source, f"{argument} (--model.{argument})"))
    recognized = recognize(checkpoint)
    state, notes = _backbone_state(recognized, backbone, source)
    if backbone.fc is not None:
        classes = backbone.fc.out_channels
        if recognized.classifier and recognized.num_classes == classes:
            state |= recognized.classifier
        else:
            state |= {f"fc.{name}": tensor for name, tensor in backbone.fc.state_dict().items()}
            reason = f"{classes} classes rather than {recognized.num_classes}"
            reason = reason if recognized.classifier else "the file has none"
            notes.append(f"the classifier is randomly initialised: {reason}")
    metadata, earlier = model.metadata, tuple[Origin, ...]()
    if is_ours(checkpoint):
        saved = _saved_metadata(checkpoint, recognized)
        earlier = saved.origin
        if recognized.in_channels == backbone.in_channels:
            metadata = replace(metadata, mean=saved.mean, std=saved.std)
        if saved.class_names and len(saved.class_names) == len(metadata.class_names):
            metadata = replace(metadata, class_names=saved.class_names)
    _load(backbone, state, f"{source}: {recognized}")
    origin = _log(checkpoint, recognized, argument, source, notes)
    model.metadata = replace(metadata, origin=(origin, *earlier)[:MAX_ORIGINS])
    return origin


def _check_kind(model: nn.Module, kind: type[DLASeg | DLA]) -> None:
    """Checks that weights of our layouts can go into a network.

    Raises:
        UserError: it is another one.
    """
    check_network(model)
    if not isinstance(model, kind):
        raise UserError(
            f"{type(model).__name__}: not a {kind.__name__}, which these weights are for: use load_backbone_weights "
            "for a backbone, and load_state_dict for a network of your own"
        )


def _load(network: DLASeg | DLA, state: dict[str, Tensor], source: str) -> None:
    """Loads tensors, if they are exactly those of a network, which may have been assembled by hand.

    Raises:
        UserError: names the first tensor that is not; nothing was loaded.
    """
    own = network.state_dict()
    wrong = [key for key in own | state if key not in own or key not in state or own[key].shape != state[key].shape]
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} tensors do not fit this model, first {wrong[0]}: make the model by create_model"
        )
    network.load_state_dict(state)


def _saved_metadata(checkpoint: Checkpoint, recognized: Recognized) -> ModelMetadata:
    """The metadata of a file of ours.

    Raises:
        UserError: broken, or not those of its tensors.
    """
    saved = decode_metadata(checkpoint.path, checkpoint.metadata)
    for name, value in (OPTIONS | dict(saved.architecture)).items():
        found = recognized.options.get(name, OPTIONS[name]) if name in OPTIONS else getattr(recognized, name)
        if value != found:
            raise UserError(
                f"{checkpoint.path}: its metadata have {name} {value}, its tensors {name} {found}: use another file"
            )
    return saved


def _backbone_state(recognized: Recognized, backbone: DLA, source: object) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's state dict from the weights, and notes on what was adapted."""
    name = backbone.metadata.architecture.get("name", recognized.name)
    if recognized.name != name:
        raise UserError(
            f"{source}: {recognized}: this model is a {name}: make it a {recognized.name}, or give {name}'s weights"
        )
    notes = []
    state = dict(recognized.backbone)
    if recognized.root_kernel_size != backbone.root_kernel_size:
        if recognized.root_kernel_size == 3:
            raise UserError(f"{source}: {recognized}: this model has 1x1 nodes: make it with root_kernel_size 3")
        for key, tensor in state.items():
            if key.endswith("root.conv.weight"):
                state[key] = torch.nn.functional.pad(tensor, (1, 1, 1, 1))  # (K, C, 1, 1) -> (K, C, 3, 3)
        notes.append("1x1 nodes became the centre of 3x3 nodes, zero around it: the same outputs")
    channels = backbone.in_channels
    if recognized.in_channels != channels:
        if recognized.in_channels != 3:
            raise UserError(
                f"{source}: {recognized}: this model has {channels}: use in_channels {recognized.in_channels}"
            )
        kernel, adaptation = _for_channels(state["base_layer.0.weight"], channels)
        state["base_layer.0.weight"] = kernel
        notes.append(f"the first layer is derived from the one for 3 channels: {adaptation}")
    return state, notes


def _for_channels(kernel: Tensor, channels: int) -> tuple[Tensor, str]:
    """(K, 3, h, w) -> (K, channels, h, w), and how."""
    kernel = kernel.to(torch.promote_types(kernel.dtype, torch.float32))  # a sum in float16 would be rounded
    if channels == 1:
        return kernel.sum(1, keepdim=True), "summed for 1"
    repeated = kernel[:, torch.arange(channels) % 3]
    return repeated * (3 / channels), f"repeated for {channels}, times 3/{channels}"


def _log(
    checkpoint: Checkpoint, recognized: Recognized, argument: str, source: str | Path, notes: Sequence[str]
) -> Origin:
    """Logs what was loaded, and returns it as the network's origin."""
    name = Path(source).name if Path(source).exists() else str(source)  # no folders of this machine
    logger.info("%s %s: %s, sha256 %s", argument, source, recognized, checkpoint.sha256)
    if checkpoint.averaged is not None:
        averaged = checkpoint.averaged
        used = f"{averaged.removesuffix(AVERAGED)} is used, not its moving average {averaged}"
        notes = [*notes, f"{used}: to use that, save torch.load(FILE)[{averaged!r}] by torch.save and load the result"]
    for note in notes:
        logger.warning("%s %s: %s", argument, source, note)
    return Origin(argument, name, str(recognized), checkpoint.sha256)
