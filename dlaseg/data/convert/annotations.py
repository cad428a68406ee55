"""What every reader of annotations returns: classes, and images with their objects in drawing order."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.labels import Color


@dataclass(frozen=True)
class Patch:
    """The pixels of an object, in a part of the image: images are large and objects small.

    Attributes:
        mask: (h, w) bool, inside the image.
        top: row of the image where the mask begins.
        left: column of the image where the mask begins.
    """

    mask: NDArray[np.bool_]
    top: int = 0
    left: int = 0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    def paint(self, labels: NDArray[np.uint8], value: int) -> None:
        """Sets the object's pixels of a label map, (H, W), in place."""
        height, width = self.mask.shape
        labels[self.top : self.top + height, self.left : self.left + width][self.mask] = value


Draw = Callable[[int, int], Patch]
"""Draws an object; takes height and width of the image. A `UserError` says what is wrong with the annotation."""


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of an image.

    Attributes:
        label: name of its class; None for pixels that are ignored.
        draw: draws it.
        source: file and id of the annotation, for messages.
        lowest: whether it lies below all objects that are not, also where large ones are drawn before small ones.
    """

    label: str | None
    draw: Draw
    source: str
    lowest: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        name: path below the folder of images that is written, with suffix; never leads out of it.
        image: file, or a function that returns the content of an embedded image.
        objects: later ones are drawn over earlier ones.
        source: file and id of the image's entry, for messages.
        size: height and width as the annotations say, to be compared with the image; None if they do not say.
        split: name of the split.
    """

    name: Path
    image: Path | Callable[[], bytes]
    objects: Iterable[AnnotatedObject]
    source: str
    size: tuple[int, int] | None = None
    split: str = "train"


@dataclass
class Skipped:
    """Annotations that are not converted, by reason.

    Attributes:
        counts: number of annotations for each reason.
        examples: the first annotation of each reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, source: str) -> None:
        """Counts an annotation."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, source)

    def lines(self) -> list[str]:
        """One line for each reason."""
        return [f"skipped {n}: {reason}; first: {self.examples[reason]}" for reason, n in self.counts.most_common()]


@dataclass(frozen=True)
class Annotations:
    """The annotations of one file or folder.

    Attributes:
        classes: names in the order of their ids, with their colours where the format has them.
        images: may be read lazily.
        unlabelled: what pixels without an object are, unless the user says so.
    """

    classes: dict[str, Color | None]
    images: Iterable[AnnotatedImage]
    unlabelled: Literal["background", "ignore"] = "background"


@dataclass(frozen=True)
class Source:
    """What a reader reads.

    Attributes:
        path: file or folder that the user names.
        images: folder in which the images are looked for; None for the usual place of the format.
        split: name of the split; None for the one that the format or the file's name says.
        other_splits: those that the user names for the other inputs.
        ignore_crowds: whether regions of many objects (COCO's `iscrowd`) are ignored rather than of their class.
        unlabelled: what the user wants pixels without an object to become, for formats that store them as a class.
        skipped: collects what is not converted.
    """

    path: Path
    images: Path | None = None
    split: str | None = None
    other_splits: tuple[str, ...] = ()
    ignore_crowds: bool = False
    unlabelled: Literal["background", "ignore"] | None = None
    skipped: Skipped = field(default_factory=Skipped)


def draw_stored(mask: NDArray[np.bool_], height: int, width: int) -> Patch:
    """Draws an object whose mask is stored for the whole image.

    Raises:
        UserError: the image has another size.
    """
    check_size(mask.shape[0], mask.shape[1], height, width)
    return Patch(mask)


def check_size(annotated_height: int, annotated_width: int, height: int, width: int) -> None:
    """Raises a UserError if an annotation is made for another size than the image's."""
    if (annotated_height, annotated_width) != (height, width):
        turned = (annotated_width, annotated_height) == (height, width)
        raise UserError(
            f"{annotated_height} x {annotated_width} pixels, but the image has {height} x {width}: use the image that "
            f"was annotated{', without the orientation in its EXIF data' if turned else ''}"
        )


@contextmanager
def located(source: str) -> Iterator[None]:
    """Puts file and id of an annotation before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
