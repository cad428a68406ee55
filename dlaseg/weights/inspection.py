"""What a weights file is, what of it would be loaded, and what not; for people."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.layouts import MismatchError, Recognized, recognize


def inspect_weights(source: str | Path) -> tuple[str, MismatchError | None]:
    """Describes a file, one fact a line.

    Args:
        source: a file or a hub name.

    Returns:
        The description, and what keeps the file from being loaded, if anything does.

    Raises:
        UserError: no file that tensors can be read from, or no DLA at all.
    """
    checkpoint = read_checkpoint(resolve(source, "FILE"))
    facts = _of_the_file(checkpoint)
    try:
        found = recognize(checkpoint)
    except MismatchError as error:
        facts += [("does not fit", problem) for problem in error.problems]
        return _table(facts), error
    return _table(facts + _of_the_network(found)), None


def _of_the_file(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    size = checkpoint.path.stat().st_size / 1e6
    facts = [
        ("file", str(checkpoint.path)),
        ("container", f"{checkpoint.container}, {size:.1f} MB"),
        ("sha256", checkpoint.sha256),
        ("tensors", _summed(list(checkpoint.tensors.values()))),
    ]
    if checkpoint.wrapping:
        facts.append(("unwrapped", ", ".join(checkpoint.wrapping)))
    facts += [("beside them", f"{name}: {value}") for name, value in checkpoint.beside.items()]
    facts += [(f"says {name}", value) for name, value in checkpoint.metadata.items()]
    return facts


def _of_the_network(found: Recognized) -> list[tuple[str, str]]:
    nodes = "1 or 3" if found.root_kernel_size == 1 else "3"
    facts = [("is", str(found))]
    if found.stride is not None:
        facts.append(("as weights", f"of {found.name}, stride {found.stride}, root_kernel_size {nodes}"))
    facts.append(("as backbone_weights", f"of {found.name}, any stride, root_kernel_size {nodes}"))
    for part, tensors in (("backbone", found.backbone), ("decoder", found.decoder), ("classifier", found.classifier)):
        if tensors:
            facts.append((f"loads {part}", _summed(list(tensors.values()))))
    reasons = "no forward pass uses them" if found.unused else "nothing"
    facts.append(("leaves out", f"{reasons}{': ' if found.unused else ''}{', '.join(found.unused)}"))
    return facts


def _summed(tensors: Sequence[Tensor]) -> str:
    kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}))
    return f"{len(tensors)}, {sum(t.numel() for t in tensors) / 1e6:.2f} M numbers, {kinds}"


def _table(facts: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)
