"""Describes a weights file: its layout, what would be loaded, what not."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor

from dlaseg.text import one_line
from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.recognition import MismatchError, Recognized, recognize

MOST_ENTRIES = 50
"""Entries beside the tensors, and entries of the metadata, that are shown."""


def inspect_weights(source: str | Path, norm: str | None = None) -> tuple[str, MismatchError | None]:
    """Describes a file, one fact a line.

    Args:
        source: a file or a hub name.
        norm: as for `load_weights`.

    Returns:
        The description, and what keeps the file from being loaded, if anything does.

    Raises:
        UserError: the file holds no readable tensors, or no DLA.
    """
    checkpoint = read_checkpoint(resolve(source, "FILE"))
    facts = _of_the_file(checkpoint)
    try:
        recognized = recognize(checkpoint, norm)
    except MismatchError as error:
        facts += [("does not fit", problem) for problem in error.problems]
        return fact_table(facts), error
    return fact_table(facts + _of_the_network(recognized)), None


def _of_the_file(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    size = checkpoint.path.stat().st_size / 1e6
    facts = [
        ("file", str(checkpoint.path)),
        ("container", f"{checkpoint.container}, {size:.1f} MB"),
        ("sha256", checkpoint.sha256),
        ("tensors", _summary(list(checkpoint.tensors.values()))),
    ]
    if checkpoint.wrapping:
        facts.append(("unwrapped", ", ".join(checkpoint.wrapping)))
    facts += [("other entries", f"{name}: {value}") for name, value in islice(checkpoint.beside.items(), MOST_ENTRIES)]
    facts += [(f"metadata {name:.80}", value) for name, value in islice(checkpoint.metadata.items(), MOST_ENTRIES)]
    more = sum(max(0, len(entries) - MOST_ENTRIES) for entries in (checkpoint.beside, checkpoint.metadata))
    return facts + ([("not shown", f"{more} more entries")] if more else [])


def _of_the_network(recognized: Recognized) -> list[tuple[str, str]]:
    nodes = "1 or 3" if recognized.root_kernel_size == 1 else "3"
    facts = [("recognised as", str(recognized))]
    if recognized.stride is not None:
        stride = f"stride {recognized.stride}"
        facts.append(("fits weights", f"of {recognized.name}, {stride}, root_kernel_size {nodes}"))
    facts.append(("fits backbone_weights", f"of {recognized.name}, any stride, root_kernel_size {nodes}"))
    for part in ("backbone", "decoder", "classifier"):
        if tensors := getattr(recognized, part):
            facts.append((f"loads {part}", _summary(list(tensors.values()))))
    unused = ", ".join(recognized.unused)
    facts.append(("ignores", f"no forward pass uses them: {unused}" if unused else "nothing"))
    return facts


def _summary(tensors: Sequence[Tensor]) -> str:
    kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}))
    return f"{len(tensors)}, {sum(t.numel() for t in tensors) / 1e6:.2f} M numbers, {kinds}"


def fact_table(facts: Sequence[tuple[str, str]]) -> str:
    """Facts as lines, a name and a value each."""
    facts = [(one_line(name), one_line(value)) for name, value in facts]  # names and metadata are the file's own
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)
