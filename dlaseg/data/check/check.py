"""Checks a whole data set."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from dlaseg.data.check.facts import ImageFacts, LabelFacts, PairFacts, read_pair
from dlaseg.data.check.findings import (
    Finding,
    binary_mask_findings,
    file_findings,
    label_findings,
    pairing_findings,
    same_name_findings,
    unread_findings,
)
from dlaseg.data.check.splits import split_findings
from dlaseg.data.datasets import DEFAULT_SPLITS, check_pool, dataset_entry, find_split
from dlaseg.data.label_check import SHOWN, has_own_classes, ignored_foreground, missing_classes, too_few_classes
from dlaseg.data.label_counts import LabelCounts
from dlaseg.data.pairs import Pair, SegmentationDataset, SplitFiles
from dlaseg.data.patterns import files_below
from dlaseg.data.statistics import SplitStatistics, median_frequency, statistics_table, summed
from dlaseg.errors import MissingSplitError, UserError
from dlaseg.labels import LabelMap
from dlaseg.text import escaped

AT_A_TIME = 8
"""Pairs that a process is given at a time."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        findings: errors first.
        label_map: the classes.
        splits: counts of each split that could be opened.
        mean: of each channel over all images, in units of 255; empty without a readable image.
        std: the standard deviation of the same values.
        seconds: that reading took.
    """

    findings: tuple[Finding, ...]
    label_map: LabelMap
    splits: tuple[SplitStatistics, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seconds: float

    @property
    def errors(self) -> int:
        """Number of findings that break training."""
        return sum(each.severity == "error" for each in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        names = self.label_map.names
        return {
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "findings": [each.to_dict() for each in self.findings],
            "splits": {
                split.split: {
                    "images": sum(split.groups.values()),
                    "sizes": [[*size, count] for size, count in split.sizes.items()],
                    "ignored": split.ignored,
                    "classes": {
                        name: {"pixels": pixels, "images": images}
                        for name, pixels, images in zip(names, split.pixels, split.images, strict=True)
                    },
                }
                for split in self.splits
            },
            "median_frequency_weights": dict(zip(names, self.weights, strict=False)),
            "mean": list(self.mean),
            "std": list(self.std),
            "seconds": self.seconds,
        }

    @property
    def weights(self) -> tuple[float | None, ...]:
        """The class weights that `median_frequency` makes of the first split; None for a class without a pixel."""
        if not self.splits:
            return ()
        pairs = zip(median_frequency(self.splits[0]), self.splits[0].pixels, strict=True)
        return tuple(round(weight, 4) if pixels else None for weight, pixels in pairs)

    def summary(self) -> str:
        """For people: the findings, then the numbers."""
        lines = []
        for each in self.findings:
            count = f" ({each.count})" if each.count > 1 else ""
            lines += [f"{each.severity}: {each.split}: {escaped(each.message)}{count}"]
            lines += [f"    {file}" for file in each.files[:3]]
            lines += [f"    ... and {each.count - 3} more"] if each.count > 3 else []
            lines += [f"    -> {escaped(each.remedy)}"]
        if self.splits:
            lines += ["", statistics_table(self.label_map.names, self.splits)]
            weights = ", ".join("-" if weight is None else f"{weight:g}" for weight in self.weights)
            lines += ["", f"class weights (median_frequency, {self.splits[0].split}): {weights}"]
        if self.mean:
            mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (self.mean, self.std))
            lines += [f"channels: mean {mean}; standard deviation {std}"]
        images = sum(sum(split.groups.values()) for split in self.splits)
        rate = f", {images / self.seconds:.0f} pairs/s" if self.seconds else ""
        found = (("error", self.errors), ("warning", len(self.findings) - self.errors))
        counts = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in found)
        lines += ["", f"{counts} in {images} images{rate}"]
        return "\n".join(lines).lstrip("\n")


def check_dataset(
    name: str,
    root: str | Path,
    splits: Sequence[str] | None = None,
    images: str | None = None,
    labels: str | None = None,
    classes: str | None = None,
    workers: int | None = None,
) -> CheckResult:
    """Reads every file of a data set and says what is wrong; changes nothing.

    Args:
        name: of the data set, a name in `DATASETS`.
        root: its folder.
        splits: to check; None for train, and val if there is one. A data set without splits is one pool, which is
            checked once.
        images: see `open_dataset`.
        labels: see `open_dataset`.
        classes: see `open_dataset`.
        workers: processes that read; 0 for this one alone, None for one per core.

    Raises:
        UserError: an unknown name, an option that the data set does not have, no such folder, or no split that can be
            opened.
    """
    entry, options = dataset_entry(name), {"images": images, "labels": labels, "classes": classes}
    entry.check_options(options)
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; use the folder of dataset {name}: {entry.description}")
    splits = (splits,) if isinstance(splits, str) else splits
    if not entry.has_splits(options):
        check_pool("--splits", splits or (), images, labels)
    start, findings, facts = perf_counter(), list[Finding](), dict[str, list[PairFacts]]()
    counted: list[tuple[SegmentationDataset, SplitStatistics]] = []
    shifted = set[str]()
    for split in splits or (DEFAULT_SPLITS if entry.has_splits(options) else ("all",)):
        try:
            files = find_split(entry, Path(root), split, options)
        except UserError as error:
            is_optional = isinstance(error, MissingSplitError) and splits is None and bool(counted)
            findings.append(_no_split(split, error, is_optional))
            continue
        findings += same_name_findings(split, files.twice)
        unlabelled = files.images.keys() - (files.labels or {}).keys()
        lossy = {
            name: path for name in sorted(unlabelled) if (path := files.part_of(name).label_pattern.lossy_file(name))
        }
        folders = dict.fromkeys(part.image_pattern.folder for part in files.parts or (files,))
        findings += unread_findings(split, chain.from_iterable(map(files_below, folders)), lossy.values())
        findings += pairing_findings(split, files.images, {**lossy, **(files.labels or {})}, partial(_remedy, files))
        dataset = SegmentationDataset(name, split, _matched(files), files.label_map, entry.benchmark)
        facts[split] = _read(dataset, workers)
        findings += file_findings(split, facts[split])
        of_labels = list(label_findings(split, files.label_map, facts[split]))
        labels_read = [each.label for each in facts[split] if isinstance(each.label, LabelFacts)]
        each_label = (LabelCounts(*label.size, label.pixels) for label in labels_read)
        counted.append((dataset, summed(dataset, each_label)))
        of_labels += binary_mask_findings(split, files.label_map, counted[-1][1], facts[split])
        if "shifted" in {each.kind for each in of_labels}:
            shifted.add(split)
        findings += of_labels
    for dataset, counts in counted:
        if dataset.split not in shifted:  # which is why a class has no pixel
            findings += _class_findings(dataset, counts, [other for other in counted if other[0] is not dataset])
    findings += [each for each in [_one_color(dataset) for dataset, _ in counted[:1]] if each is not None]
    if not counted:
        raise UserError(f"{findings[0].message}: {findings[0].remedy}")
    findings += split_findings(facts)
    findings.sort(key=lambda each: each.severity)  # errors come before warnings
    mean, std = _channels(each.image for pairs in facts.values() for each in pairs)
    statistics = tuple(each for _, each in counted)
    return CheckResult(tuple(findings), counted[0][0].label_map, statistics, mean, std, perf_counter() - start)


def _no_split(split: str, error: UserError, is_optional: bool) -> Finding:
    """A split that cannot be opened; an optional one may be missing."""
    message = str(error)
    what, _, remedy = message.partition("; ") if "; expected " in message else message.rpartition(": ")
    if is_optional:
        remedy = f"{remedy}, or draw a validation set: --data.val_share 0.1 of dlaseg train"
    return Finding("layout", "warning" if is_optional else "error", split, what or message, remedy, 1, ())


def _remedy(files: SplitFiles, name: str, file: Path) -> str:
    """What to do about an image or a label map that has no partner."""
    is_image = name in files.images
    what, others = ("label map", files.labels or {}) if is_image else ("image", files.images)
    part, suffix = files.part_of(name), next((file.suffix for file in others.values()), ".png")
    pattern = part.label_pattern if is_image else part.image_pattern
    add = f"add the {what}, such as {pattern.path_of(name, suffix)}, or remove the file"
    return pattern.any_suffix_advice(name, file) or add


def _matched(files: SplitFiles) -> tuple[Pair, ...]:
    """The images, with their label maps where there are any."""
    labels = files.labels or {}
    return tuple(Pair(name, image, labels.get(name)) for name, image in sorted(files.images.items()))


def _read(dataset: SegmentationDataset, workers: int | None) -> list[PairFacts]:
    """Reads all pairs, with a progress bar."""
    count = min(os.cpu_count() or 1 if workers is None else workers, -(-len(dataset) // AT_A_TIME))
    read = partial(read_pair, dataset)
    bar = partial(tqdm, desc=dataset.split, total=len(dataset), unit="pair", disable=None)
    if count <= 1:
        return list(bar(map(read, dataset.pairs)))
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        try:
            return list(bar(pool.map(read, dataset.pairs, chunksize=AT_A_TIME)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _class_findings(
    dataset: SegmentationDataset, counts: SplitStatistics, others: Sequence[tuple[SegmentationDataset, SplitStatistics]]
) -> Iterator[Finding]:
    """Foreground that is ignored by default, too few classes, and classes without a pixel.

    Args:
        dataset: the split.
        counts: of the split.
        others: the other splits: it is enough if one has the two classes that training needs.
    """
    if not any(counts.pixels) and not counts.ignored:
        return  # no label map could be read
    trainable = not has_own_classes(dataset) or any(too_few_classes(*other) is None for other in others)
    for kind, severity, problem in (
        ("ignored_by_default", "error", ignored_foreground(dataset, counts)),
        ("too_few_classes", "error", None if trainable else too_few_classes(dataset, counts)),
        ("missing_class", "warning", missing_classes(dataset, counts)),
    ):
        if problem is not None:
            what, remedy = problem
            own = (
                ", or leave them out of the classes and list the ids of the others" if has_own_classes(dataset) else ""
            )
            remedy = remedy or f"add images that show them{own}"
            yield Finding(kind, severity, dataset.split, what, remedy, 1, ())  # type: ignore[arg-type]
            return


def _one_color(dataset: SegmentationDataset) -> Finding | None:
    """Classes that pictures do not tell apart."""
    label_map = dataset.label_map
    same = [name for name, color in zip(label_map.names, label_map.palette, strict=True)
            if label_map.palette.count(color) > 1]  # fmt: skip
    if not same or not has_own_classes(dataset):
        return None
    message = f"classes of one color: {', '.join(same[:SHOWN])}: pictures do not tell them apart"
    return Finding("same_color", "warning", dataset.split, message, "list another color for each", 1, ())


def _channels(images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of 255, over all pixels."""
    known = [image for image in images if isinstance(image, ImageFacts)]
    count = sum(image.size[0] * image.size[1] for image in known)
    if not count:
        return (), ()
    means = [math.fsum(image.sums[channel] for image in known) / count for channel in range(3)]
    squares = [math.fsum(image.squares[channel] for image in known) / count for channel in range(3)]
    deviations = [math.sqrt(max(0.0, square - mean**2)) for square, mean in zip(squares, means, strict=True)]
    return tuple(mean / 255 for mean in means), tuple(deviation / 255 for deviation in deviations)
