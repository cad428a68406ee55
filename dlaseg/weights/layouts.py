"""How people name the tensors of a DLA, and those names in ours.

Known layouts: timm's classifiers (https://github.com/huggingface/pytorch-image-models, `dla.py`), the original's
classifiers and segmentation networks (https://github.com/ucbdrive/dla), attentive networks (`attentive_layout`), and
ours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from dlaseg.weights.attentive_layout import from_attentive, has_attention, to_attentive
from dlaseg.weights.checkpoints import Checkpoint
from dlaseg.weights.files import is_ours

_NUMBER = "0|[1-9][0-9]?"
"""How the parts of a decoder are numbered; no two spellings mean the same part."""


@dataclass(frozen=True)
class Layout:
    """How someone names a DLA's tensors.

    Attributes:
        title: for people.
        detect: whether a checkpoint, by its names, has this layout.
        rename: a tensor's name in the file -> ours; None for a tensor that no forward pass uses.
        restore: the reverse, for messages.
        segmentation: whether there is a decoder.
        upsampling: name of the kernel that upsamples the logits, which dlaseg does by bilinear interpolation.
        norms: whether there are files with two kinds of norm, whose tensors have the same names and shapes.
    """

    title: str
    detect: Callable[[Checkpoint], bool]
    rename: Callable[[str], str | None] = str
    restore: Callable[[str], str] = str
    segmentation: bool = False
    upsampling: str | None = None
    norms: bool = False


def _from_original(name: str) -> str | None:
    """Our name for a tensor of the original's segmentation network.

    The original counts the inputs of an IDA, the first of which is neither projected, upsampled nor joined.
    """
    if name.startswith("base.fc.") or name == "up.weight":
        return None
    if match := re.fullmatch(rf"dla_up\.ida_({_NUMBER})\.(proj|up|node)_({_NUMBER})\.(.+)", name):
        ida, part, index, rest = match.groups()
        return f"decoder.ida.{ida}.{part}.{int(index) - 1}.{rest}"
    return re.sub(r"^fc\.0\.", "head.", re.sub(r"^base\.", "backbone.", name))


def _to_original(name: str) -> str:
    """The reverse of `_from_original`."""
    if match := re.fullmatch(rf"decoder\.ida\.({_NUMBER})\.(\w+)\.({_NUMBER})\.(.+)", name):
        ida, part, index, rest = match.groups()
        return f"dla_up.ida_{ida}.{part}_{int(index) + 1}.{rest}"
    return re.sub(r"^head\.", "fc.0.", re.sub(r"^backbone\.", "base.", name))


def _has_projections_beside_subtrees(checkpoint: Checkpoint) -> bool:
    suffix = ".project.0.weight"
    trees = (name.removesuffix(suffix) for name in checkpoint.tensors if name.endswith(suffix))
    return any(name.startswith(f"{tree}.tree1.tree1.") for tree in trees for name in checkpoint.tensors)


def _has_stem(checkpoint: Checkpoint) -> bool:
    return "base_layer.0.weight" in checkpoint.tensors


# The first one that fits is taken
LAYOUTS = (
    Layout(
        "the original's attentive layout",
        detect=lambda checkpoint: has_attention(checkpoint.tensors),
        rename=from_attentive,
        restore=to_attentive,
        segmentation=True,
        upsampling="up.weight",
        norms=True,
    ),
    Layout(
        "the original's segmentation layout",
        detect=lambda checkpoint: any(name.startswith("dla_up.") for name in checkpoint.tensors),
        rename=_from_original,
        restore=_to_original,
        segmentation=True,
        upsampling="up.weight",
    ),
    Layout(
        "dlaseg's segmentation layout",
        detect=lambda checkpoint: all(
            any(name.startswith(part) for name in checkpoint.tensors) for part in ("head.", "decoder.")
        ),
        segmentation=True,
    ),
    Layout("dlaseg's classification layout", lambda checkpoint: _has_stem(checkpoint) and is_ours(checkpoint)),
    Layout(
        "the original's classification layout",
        lambda checkpoint: _has_stem(checkpoint) and _has_projections_beside_subtrees(checkpoint),
    ),
    Layout("timm's classification layout", _has_stem),
)
