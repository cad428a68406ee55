"""What is wrong, from the facts of all pairs."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlaseg.bit_depth import DARK
from dlaseg.data.check.facts import ImageFacts, LabelFacts, PairFacts
from dlaseg.data.label_check import binary_masks
from dlaseg.data.names import escape_name, near_name
from dlaseg.data.pairs import size_remedy
from dlaseg.data.statistics import SplitStatistics
from dlaseg.image_suffixes import OTHER_IMAGE_SUFFIXES
from dlaseg.label_images import LOSSLESS
from dlaseg.labels import IGNORE_INDEX, LabelMap
from dlaseg.text import one_line

EXAMPLES = 25
"""Most files that a finding names."""

OF_LABELS = {
    *("label_without_image", "unreadable_label", "sizes", "unknown_values"),
    *("interpolated", "shifted", "misread", "all_ignored", "binary_masks"),
}
"""Kinds whose files are label maps; those of the others are images."""

Severity = Literal["error", "warning"]
"""An error breaks training or makes it learn something else than what the labels mean."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a data set.

    Attributes:
        kind: a word for programs, such as `unknown_values`.
        severity: error or warning.
        split: in which split, or `train, val` for what concerns several.
        message: what is wrong, with values.
        remedy: what to do about it; where a line in a file or an option does it, that line.
        count: of files, or of pairs of files.
        files: the first of them.
    """

    kind: str
    severity: Severity
    split: str
    message: str
    remedy: str
    count: int
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"files": list(self.files)}


def finding(kind: str, severity: Severity, split: str, files: Iterable[Path], message: str, remedy: str) -> Finding:
    """A finding about files."""
    paths = [escape_name(str(file)) for file in files]
    return Finding(kind, severity, split, message, remedy, len(paths), tuple(paths[:EXAMPLES]))


def same_name_findings(split: str, twice: Sequence[tuple[Path, Path]]) -> Iterator[Finding]:
    """Files of a name that another file has, so that no one can tell which of them is meant."""
    if twice:
        first, second = twice[0]
        message = f"two files of the same name, such as {first.name} and {second.name}; here, the first is read"
        others = [other for _, other in twice]
        yield finding("same_name", "error", split, others, message, "remove or rename one of them")


def unread_findings(split: str, in_images: Iterable[Path], lossy_labels: Iterable[Path]) -> Iterator[Finding]:
    """Files that are left out: images of formats that are not read, and label maps in formats that change values.

    Args:
        split: its name.
        in_images: all files in the folder of the images.
        lossy_labels: label maps.
    """
    if unread := [path for path in in_images if path.suffix.lower() in OTHER_IMAGE_SUFFIXES]:
        formats = ", ".join(sorted({path.suffix.lower() for path in unread}))
        yield finding(
            "unread_format", "warning", split, unread, f"images that are left out: {formats} is not read",
            "convert them to JPEG or PNG",
        )  # fmt: skip
    if lossy := list(lossy_labels):
        yield finding(
            "lossy_label", "error", split, lossy, "label maps in a lossy format, which changes values",
            LOSSLESS,
        )  # fmt: skip


def pairing_findings(
    split: str, images: Mapping[str, Path], labels: Mapping[str, Path], remedy_of: Callable[[str, Path], str]
) -> Iterator[Finding]:
    """Files without their partner, and names that only some file systems tell apart.

    Args:
        split: its name.
        images: image files by name.
        labels: label map files by name.
        remedy_of: says what to do about an unmatched name and its file.
    """
    for kind, files, others, what in (
        ("image_without_label", images, labels, "image without a label map"),
        ("label_without_image", labels, images, "label map without an image"),
    ):
        unmatched = sorted(files.keys() - others.keys())
        if not unmatched:
            continue
        remedy = remedy_of(unmatched[0], files[unmatched[0]])
        if (near := near_name(unmatched, sorted(others.keys() - files.keys()))) is not None:
            remedy = f"rename it: {others[near[1]].name} differs in {near[2]} alone"
        yield finding(kind, "error", split, (files[name] for name in unmatched), what, remedy)
    by_case = defaultdict(list)
    for name in images:
        by_case[name.casefold()].append(images[name])
    same = [file for files in by_case.values() if len(files) > 1 for file in files]
    if same:
        yield finding(
            "same_but_for_case", "warning", split, same, "names that differ in upper and lower case alone",
            "rename them: Windows and macOS keep only one of them",
        )  # fmt: skip


def file_findings(split: str, facts: Sequence[PairFacts]) -> Iterator[Finding]:
    """Files that cannot be read, or whose suffix is another format's."""
    images = [(each.pair.image, each.image) for each in facts]
    labels = [(each.pair.label, each.label) for each in facts if each.pair.label is not None]
    for kind, files in (("unreadable_image", images), ("unreadable_label", labels)):
        broken = [(path, message) for path, message in files if isinstance(message, str)]
        for reason, paths in _by_reason(broken).items():
            what, _, remedy = reason.rpartition(": ")
            yield finding(kind, "error", split, paths, what or reason, remedy)
    wrong = [
        (path, each.format)
        for path, each in (*images, *labels)
        if isinstance(each, ImageFacts | LabelFacts) and each.format is not None
    ]
    if wrong:
        formats = ", ".join(sorted({str(format) for _, format in wrong}))
        yield finding(
            "wrong_suffix", "warning", split, (path for path, _ in wrong if path is not None),
            f"the content is {formats}, the suffix says another format", "rename the files",
        )  # fmt: skip
    dark = [(path, each.largest) for path, each in images if isinstance(each, ImageFacts) and 0 < each.largest < DARK]
    if dark:
        yield finding(
            "dark_image", "warning", split, (path for path, _ in dark),
            f"nearly black: no value above {max(value for _, value in dark)} of 255, as of 12 bits in a 16-bit file",
            "scale the values to the whole range of the file, in training as in use",
        )  # fmt: skip
    pairs = [(each.pair.image, each.image) for each in facts if each.pair.label is not None]
    if turned := [path for path, each in pairs if isinstance(each, ImageFacts) and each.turned]:
        yield finding(
            "turned_image", "warning", split, turned,
            "an EXIF orientation turns or mirrors these images and leaves their size, which therefore does not tell "
            "whether their label maps are turned as well",
            "make sure that the label maps are of the image as it is displayed",
        )  # fmt: skip


def _by_reason(messages: Iterable[tuple[Path | None, str]]) -> dict[str, list[Path]]:
    """Files by what is wrong with them: the message without the file's own path and numbers."""
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path, message in messages:
        reasons[message.removeprefix(f"{one_line(str(path))}: ")].append(Path(str(path)))
    return reasons


def label_findings(split: str, label_map: LabelMap, facts: Sequence[PairFacts]) -> Iterator[Finding]:
    """Values that nobody listed, sizes that differ, maps without a class, and signs of misreading."""
    labels = [(each, each.label) for each in facts if isinstance(each.label, LabelFacts)]
    sizes = [each for each, label in labels if isinstance(each.image, ImageFacts) and each.image.size != label.size]
    if sizes:
        first = sizes[0]
        assert isinstance(first.image, ImageFacts)
        assert isinstance(first.label, LabelFacts)
        yield finding(
            "sizes", "error", split, _label_files(sizes),
            f"label map of {_size(first.label)}, its image has {_size(first.image)}",
            size_remedy(first.label.size, first.image.size),
        )  # fmt: skip
    yield from _unknown_values(split, label_map, labels)
    misread = defaultdict(list)  # by the remedy: each message names another pixel
    for each, label in labels:
        if label.misread:
            what, _, remedy = label.misread.removeprefix(f"{one_line(str(each.pair.label))}: ").rpartition(": ")
            misread[remedy].append((each, what))
    for remedy, found in misread.items():
        yield finding("misread", "error", split, _label_files(each for each, _ in found), found[0][1], remedy)
    void = [each for each, label in labels if set(label.pixels) == {IGNORE_INDEX} and not label.unknown]
    if void:
        yield finding(
            "all_ignored", "warning", split, _label_files(void), "label maps all of whose pixels are ignored",
            "leave these images out: nothing is learnt or scored there",
        )  # fmt: skip


def binary_mask_findings(
    split: str, label_map: LabelMap, statistics: SplitStatistics, facts: Sequence[PairFacts]
) -> Iterator[Finding]:
    """Masks of 0 and 255 among label maps of ids."""
    signs = binary_masks(label_map, statistics)
    if signs is not None:
        masks = [each for each in facts if isinstance(each.label, LabelFacts)
                 and len(each.label.pixels) > 1 and IGNORE_INDEX in each.label.pixels]  # fmt: skip
        yield finding("binary_masks", "warning", split, _label_files(masks), *signs)


def _unknown_values(
    split: str, label_map: LabelMap, labels: Sequence[tuple[PairFacts, LabelFacts]]
) -> Iterator[Finding]:
    rims = [(each, label) for each, label in labels if _is_interpolated(label)]
    if rims:
        names, count = _most_common(label for _, label in rims)
        yield finding(
            "interpolated", "error", split, _label_files(each for each, _ in rims),
            f"{count} values in thin rims belong to no class, such as {names}: label maps that were scaled with "
            "interpolation, drawn with soft edges or saved as JPEG",
            f"scale with nearest neighbour, and {LOSSLESS}",
        )  # fmt: skip
    unknown = [(each, label) for each, label in labels if label.unknown and not _is_interpolated(label)]
    if not unknown:
        return
    files = _label_files(each for each, _ in unknown)
    values = sum((Counter(label.unknown) for _, label in unknown), Counter[str]())
    names, count = _most_common(label for _, label in unknown)
    first = values.most_common(1)[0][0]
    is_color = "," in first
    ids = sorted(i for each in label_map.ids for i in each)
    zero = label_map.ids[0][0]
    present = {train_id for _, label in labels for train_id in label.pixels}
    if (
        not is_color
        and set(values) == {str(ids[-1] + 1)}
        and ids == list(range(zero, zero + len(ids)))
        and 0 not in present
    ):
        entries = zip(label_map.names, label_map.ids, label_map.palette, strict=True)
        listed = ", ".join(
            json.dumps({"name": name, "id": [i + 1 for i in each], "color": list(color)}, ensure_ascii=False)
            for name, each, color in entries
        )
        yield finding(
            "shifted", "error", split, files,
            f"the id {zero} never occurs and {ids[-1] + 1} does, which belongs to no class: ids look shifted by one",
            f"in the classes file: classes: [{listed}]",
        )  # fmt: skip
        return
    if all(label.colors_listed for _, label in unknown):
        yield finding(
            "unknown_values", "error", split, files, f"palette indices that belong to no class: {names}; all their "
            "colors are listed", "save the label maps as RGB",
        )  # fmt: skip
        return
    what, entry, ignored = "values", f"id: {first}", first
    if is_color:
        what, entry, ignored = "colors", f"color: [{first}]", f"[{first}]"
    more = f" and {count - 5} more" if count > 5 else ""
    yield finding(
        "unknown_values", "error", split, files, f"{what} that belong to no class and are not ignored: {names}{more}",
        f"in the classes file, {{name: NAME, {entry}}} if it is a class, or ignore: [{ignored}] if it is void",
    )  # fmt: skip


def _is_interpolated(label: LabelFacts) -> bool:
    """Whether the unknown values look like those between two classes: several of them, along edges alone."""
    pixels, values = label.size[0] * label.size[1], len(label.unknown)
    # Scaling makes rims of a pixel, soft edges wider ones of many values; classes that nobody listed fill areas
    thin = label.thin > (0.3 if values >= 10 else 0.9)
    return values >= 3 and thin and sum(label.unknown.values()) < 0.2 * pixels


def _most_common(labels: Iterable[LabelFacts]) -> tuple[str, int]:
    """The unknown values of the most pixels, with their counts, and how many different ones there are."""
    values = sum((Counter(label.unknown) for label in labels), Counter[str]())
    return "; ".join(f"{value} ({count:,} pixels)" for value, count in values.most_common(5)), len(values)


def _label_files(facts: Iterable[PairFacts]) -> list[Path]:
    return [each.pair.label for each in facts if each.pair.label is not None]


def _size(facts: ImageFacts | LabelFacts) -> str:
    return f"{facts.size[0]} x {facts.size[1]}"
