"""Names of data sets that tell each from the others of a leader board."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlaseg.data.names import escape_name
from dlaseg.data.pairs import SegmentationDataset

_SOURCES = ("root", "list", "images", "labels", "classes")
"""Options that tell data sets of one name apart; as few as needed, in this order."""


@dataclass(frozen=True)
class SourcedDataset(SegmentationDataset):
    """A split that knows where it is from.

    Attributes:
        source: options of `open_dataset` by their names in a list file, such as root and list.
    """

    source: Mapping[str, str] = field(default_factory=dict, compare=False)


def distinct_names(datasets: Sequence[SegmentationDataset]) -> list[str]:
    """Name and split of each data set; where several have the same, also what tells them apart.

    That is the end of the path of the root, of the list or of another option; a number if nothing is known.

    Args:
        datasets: splits, each different; those of a list file are `SourcedDataset`.

    Examples:
        `camvid val`, `folder val (site_a)` and `folder val (site_b)`.
    """
    names = [f"{dataset.name} {dataset.split}" for dataset in datasets]
    for name, count in Counter(names).items():
        if count > 1:
            indices = [index for index, other in enumerate(names) if other == name]
            sources = [getattr(datasets[index], "source", {}) for index in indices]
            for index, ending in zip(indices, _endings(sources), strict=True):
                names[index] += f" ({escape_name(ending)})" if ending else ""
    return names


def _endings(sources: Sequence[Mapping[str, str]]) -> list[str]:
    """A text for each source, all different."""
    texts: list[list[str]] = [[] for _ in sources]
    for option in _SOURCES:
        paths = [_parts(option, source.get(option)) for source in sources]
        if len(set(paths)) > 1:
            # The shortest ends that are as many as the paths
            length = next(n for n in range(1, max(map(len, paths)) + 1) if _count(paths, n) == len(set(paths)))
            for text, path in zip(texts, paths, strict=True):
                text += ["/".join(path[-length:]).replace("//", "/")] if path else []
        if len(set(map(tuple, texts))) == len(texts):
            return list(map(", ".join, texts))
    return [", ".join([*text, str(number)]) for number, text in enumerate(texts, 1)]


def _parts(option: str, value: str | None) -> tuple[str, ...]:
    """A path's parts, of files in full; none for an option that is not given."""
    if value is None:
        return ()
    return (Path(value).absolute() if option in ("root", "list") else Path(value)).parts


def _count(paths: Sequence[tuple[str, ...]], length: int) -> int:
    return len({path[-length:] for path in paths})
