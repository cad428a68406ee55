"""The two kinds of norm in attentive networks, whose tensors have the same names and shapes."""

from collections.abc import Mapping

from torch import Tensor

from dlaseg.errors import UserError
from dlaseg.weights.checkpoints import HYPER_PARAMETERS, Checkpoint

NORMS = {"batch": "relu", "inplace": "leaky_relu"}
"""Batch norm; in-place activated batch norm (Rota Bulo et al., CVPR 2018, https://arxiv.org/abs/1712.02616), of which
the scale is |weight| + eps. And the activation that each comes with."""

INPLACE_EPS = 1e-5
"""Added to the scale by in-place activated batch norm."""


def norm_of(checkpoint: Checkpoint, several: bool, given: str | None) -> str | None:
    """The norm of decoder and head.

    Args:
        checkpoint: a file.
        several: whether files of its layout have one of `NORMS`.
        given: by who loads it.

    Returns:
        What its hyper-parameters say, or else what is given; None if neither says it, or there is one kind alone.

    Raises:
        UserError: an unknown norm, another one than the file says, or one for a layout of one kind.
    """
    if given is not None and given not in NORMS:
        raise UserError(f"norm {given!r:.80}: use one of {', '.join(NORMS)}")
    if not several:
        if given is not None:
            raise UserError(f"{checkpoint.path}: norm {given}: files of this layout have batch norm: leave it out")
        return None
    inplace = checkpoint.beside.get(f"{HYPER_PARAMETERS}.inplace_abn")
    if not isinstance(inplace, bool):
        return given
    said = "inplace" if inplace else "batch"
    if given not in (None, said):
        raise UserError(f"{checkpoint.path}: norm {given}: its hyper-parameters say {said}: leave it out")
    return said


def plain_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network with in-place norms as batch norms have them."""
    return {
        name: tensor.abs() + INPLACE_EPS if f"{name.removesuffix('weight')}running_mean" in tensors else tensor
        for name, tensor in tensors.items()
    }
