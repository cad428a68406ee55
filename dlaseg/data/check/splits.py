"""Images that are there twice, or nearly so, in a split or in two: scores on them say little about other images."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.check.facts import ImageFacts, PairFacts, perceptual_hash
from dlaseg.data.check.findings import Finding, finding
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.images import read_image

Each = TypeVar("Each")

NEAR = 6
"""Bits of 64 in which the perceptual hashes of two images differ at most that look the same. Hashes of unrelated
photographs differ in 32 on average, in 16 or fewer once in 30,000."""

LEAST = 5
"""Fewest images of a sequence."""

ALIKE = 0.75
"""Factor on the typical distance of hashes below which neighbours of a sequence are alike."""


def split_findings(facts: Mapping[str, Sequence[PairFacts]]) -> Iterator[Finding]:
    """Findings about each split, and about two at a time.

    Args:
        facts: of each split, by its name.
    """
    readable = {split: [each for each in pairs if isinstance(each.image, ImageFacts)] for split, pairs in facts.items()}
    for split, pairs in readable.items():
        yield from _copies(split, pairs)
    for one, other in combinations(readable, 2):
        yield from _common_images(one, readable[one], other, readable[other])
        yield from _common_sequences(one, readable[one], other, readable[other])


def frames_on_both_sides(
    training: SegmentationDataset, validation: SegmentationDataset, most: int = 10
) -> tuple[Path, Path] | None:
    """Whether a drawn validation split has frames of sequences of which others are trained on.

    Of a sequence, the images of the nearest numbers must look more alike than other images do: numbers alone prove
    nothing.

    Args:
        training: all other images of the pool.
        validation: the images that were drawn.
        most: pairs of images that are read, evenly spaced; those that cannot be are left out.

    Returns:
        A validation image and the training image that is nearest to it; None if they do not look alike, or if there are
        fewer than 3 pairs.
    """
    ours, theirs = (numbered((pair.name, pair) for pair in split.pairs) for split in (training, validation))
    drawn = [(sequence, *each) for sequence in sorted(ours.keys() & theirs.keys()) for each in theirs[sequence]]
    found, files = [], []
    for sequence, number, pair in drawn[:: -(-len(drawn) // most) or 1]:
        _, nearest = min(ours[sequence], key=lambda each: abs(each[0] - number))
        with suppress(UserError):  # what reads all of them tells of it
            found.append([perceptual_hash(read_image(each.image, training.max_pixels)) for each in (pair, nearest)])
            files.append((pair.image, nearest.image))
    if len(found) < 3:
        return None
    first, second = np.array(found, np.uint64).T
    distances = np.bitwise_count(first[:, None] ^ second).astype(float)
    neighbours = np.diag(distances)
    others = distances[~np.eye(len(found), dtype=bool)]
    return files[int(neighbours.argmin())] if np.median(neighbours) <= ALIKE * others.mean() else None


def _copies(split: str, pairs: Sequence[PairFacts]) -> Iterator[Finding]:
    """The same file twice in a split, which `data.val_share` may divide."""
    by_digest = {_image(each).digest: each for each in reversed(pairs)}  # the first of each
    if copies := [each for each in pairs if by_digest[_image(each).digest] is not each]:
        first = by_digest[_image(copies[0]).digest].pair.image.name
        yield finding(
            "copies", "warning", split, (each.pair.image for each in copies),
            f"copies of images of {split}, such as {first}: data.val_share may train on one and validate on the other",
            "keep one of each",
        )  # fmt: skip


def _common_images(one: str, first: Sequence[PairFacts], other: str, second: Sequence[PairFacts]) -> Iterator[Finding]:
    """The same file in both splits, and files that look the same."""
    both = f"{one}, {other}"
    by_digest = {_image(each).digest: each for each in first}
    same = [(by_digest[_image(each).digest], each) for each in second if _image(each).digest in by_digest]
    if same:
        yield finding(
            "same_image", "error", both, _files(same),
            f"the same image in {one} and {other}: a score on images that were trained on is too high",
            "keep each image in one split",
        )  # fmt: skip
    if not first or not second:
        return
    known = {each.pair.image for _, each in same}
    looks = _looks(first)
    near = []
    for each in second:
        distances = np.bitwise_count(looks ^ np.uint64(_image(each).looks))
        closest = int(distances.argmin())
        if distances[closest] <= NEAR and each.pair.image not in known:
            near.append((first[closest], each))
    if near:
        yield finding(
            "near_image", "warning", both, _files(near),
            f"images of {other} that look like one of {one}: the same photograph at another size or quality, or the "
            "next one of a series",
            "keep all images of one scene in one split",
        )  # fmt: skip


def _common_sequences(
    one: str, first: Sequence[PairFacts], other: str, second: Sequence[PairFacts]
) -> Iterator[Finding]:
    """Numbered sequences, such as the frames of a drive, of which both splits have images.

    Names that begin alike prove nothing where all do: `IMG_1.jpg` and `IMG_2.jpg` may show anything. So there must be
    several sequences, or the nearest numbers of the other split must look more alike than images do on the whole. Names
    that are bare numbers always need the latter.
    """
    ours, theirs = (numbered((each.pair.name, each) for each in split) for split in (first, second))
    sizes = Counter({sequence: len(images) for sequence, images in ours.items()})
    sizes.update({sequence: len(images) for sequence, images in theirs.items()})
    several = sum(size >= LEAST for size in sizes.values()) > 1
    shared, found = sorted(ours.keys() & theirs.keys(), key=lambda name: (not name, name)), list[str]()
    if not shared:
        return
    most = ALIKE * _typical_distance(first, second)
    files = list[tuple[PairFacts, PairFacts]]()
    for sequence in shared:
        numbers = np.array([number for number, _ in ours[sequence]])
        nearest = [(ours[sequence][int(abs(numbers - number).argmin())][1], each) for number, each in theirs[sequence]]
        alike = median((_image(a).looks ^ _image(b).looks).bit_count() for a, b in nearest) <= most
        if alike or (sequence and several and sizes[sequence] >= LEAST):
            found.append(sequence)
            files += nearest
    if found:
        names = f"sequence {found[0]!r} is" if found[0] else "images that are named by numbers are"
        if len(found) > 1:
            names = f"sequences {found[0]!r} and {len(found) - 1} more are"
        images = sum(len(ours[sequence]) for sequence in found)
        yield finding(
            "same_sequence", "warning", f"{one}, {other}", _files(files),
            f"the {names} in both: {images} images in {one}, {len(files)} in {other}, taken at the same place if their "
            "numbers count frames",
            f"keep a sequence in one split: scores on {other} are too high for other places",
        )  # fmt: skip


def numbered(named: Iterable[tuple[str, Each]]) -> dict[str, list[tuple[int, Each]]]:
    """What is numbered in each sequence, which is the name up to its last number."""
    found = defaultdict(list)
    for name, each in named:
        match = re.fullmatch(r"(.*?)(\d+)\D*", name, re.DOTALL)
        if match:
            found[match[1]].append((int(match[2][:18]), each))
    return dict(found)


def _typical_distance(first: Sequence[PairFacts], second: Sequence[PairFacts], most: int = 500) -> float:
    """Mean distance of the hashes of images of two splits, of at most 500 of each."""
    few = [pairs[:: -(-len(pairs) // most)] for pairs in (first, second)]
    return float(np.bitwise_count(_looks(few[0])[:, None] ^ _looks(few[1])).mean())


def _looks(pairs: Sequence[PairFacts]) -> NDArray[np.uint64]:
    return np.array([_image(each).looks for each in pairs], np.uint64)


def _image(facts: PairFacts) -> ImageFacts:
    assert isinstance(facts.image, ImageFacts)
    return facts.image


def _files(pairs: Sequence[tuple[PairFacts, PairFacts]]) -> list[Path]:
    """The images of the second split."""
    return [each.pair.image for _, each in pairs]
