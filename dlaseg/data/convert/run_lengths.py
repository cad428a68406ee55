"""Masks that are stored as run lengths: COCO's and CVAT's lists of counts, COCO's strings, Label Studio's bits."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.convert.annotations import Patch
from dlaseg.errors import UserError


def counts_of_string(string: str) -> list[int]:
    """Decodes the `counts` of a compressed COCO mask.

    Not by pycocotools, which reads beyond the end of a broken string and leaves missing pixels uninitialised.

    Args:
        string: numbers of 5 bits a character, lowest first; from the third on, a number is the difference to the one
            two before it. See rleToString in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.

    Raises:
        UserError: another character, or an end within a number.
    """
    # A count has up to 32 bits, so seven characters are enough
    if not re.fullmatch(r"(?:[P-o]{0,6}[0-O])*", string):
        raise UserError("counts: not a run-length string of COCO: export the file again")
    counts: list[int] = []
    number = shift = 0
    for character in string:
        bits = ord(character) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    return counts


def string_of_counts(counts: Sequence[int]) -> str:
    """Encodes the `counts` of a compressed COCO mask, as pycocotools does: the inverse of `counts_of_string`.

    Args:
        counts: lengths of the runs, each below 2 ** 31.
    """
    numbers = np.array(counts, np.int64)
    numbers[3:] -= numbers[1:-2].copy()
    characters = np.zeros((len(numbers), 7), np.uint8)
    lengths = np.zeros(len(numbers), np.int64)
    more = np.ones(len(numbers), bool)
    for place in range(7):
        bits = numbers & 0x1F
        numbers = numbers >> 5
        # The highest bit of the last character is the sign
        is_last = numbers == np.where(bits & 0x10, -1, 0)
        characters[:, place] = bits + 48 + np.where(is_last, 0, 0x20)
        lengths += more
        more &= ~is_last
    return characters[np.arange(7) < lengths[:, None]].tobytes().decode()


def patch_of_counts(counts: Sequence[int], height: int, width: int) -> Patch:
    """The object of COCO's run lengths, which go down the columns of the image and begin with a run of zeros.

    Args:
        counts: lengths of the runs.
        height: of the image.
        width: of the image.

    Raises:
        UserError: a negative length, or lengths that do not add up to the number of pixels.
    """
    _check_counts(counts, height, width)
    end = height * width - (counts[-1] if len(counts) % 2 else 0)
    if len(counts) < 2 or counts[0] == end:
        return Patch(np.zeros((0, 0), bool))
    # Only the columns that the object reaches
    left, right = counts[0] // height, -(-end // height)
    inner = [counts[0] - left * height, *counts[1 : len(counts) // 2 * 2], right * height - end]
    return Patch(np.ascontiguousarray(_repeat(inner).reshape(right - left, height).T), 0, left)


def mask_of_counts(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask of CVAT's run lengths, which go along the rows and begin with a run of zeros.

    Args:
        counts: lengths of the runs.
        height: of the mask.
        width: of the mask.

    Returns:
        (height, width) bool.

    Raises:
        UserError: a negative length, or lengths that do not add up to the number of pixels.
    """
    _check_counts(counts, height, width)
    return _repeat(counts).reshape(height, width)


def _repeat(counts: Sequence[int]) -> NDArray[np.bool_]:
    """Zeros and ones in turn, each as often as its count says."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, np.asarray(counts, np.int64))


def _check_counts(counts: Sequence[int], height: int, width: int) -> None:
    total = 0
    for count in counts:
        if count < 0:
            raise UserError(f"counts: a run of {count} pixels: runs are 0 or longer: export the file again")
        total += count
    if total != height * width:
        raise UserError(
            f"counts: the runs cover {total} pixels, but the mask has {height} x {width} = {height * width}: export "
            "the file again"
        )


def place(mask: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> Patch:
    """The object whose mask is stored for a box in the image.

    Args:
        mask: (h, w) bool.
        top: row of the image where the mask begins.
        left: column of the image where the mask begins.
        height: of the image.
        width: of the image.

    Raises:
        UserError: the box is not inside the image.
    """
    bottom, right = top + mask.shape[0], left + mask.shape[1]
    if min(top, left) < 0 or bottom > height or right > width:
        raise UserError(
            f"a mask of rows {top} to {bottom} and columns {left} to {right}, but the image has {height} x {width} "
            "pixels: use the image that was annotated"
        )
    return Patch(mask, top, left)


def mask_of_brush(data: Iterable[int], height: int, width: int) -> NDArray[np.bool_]:
    """Decodes a brush mask of Label Studio: the pixels with at least half of the region's opacity.

    Written here, since label-studio-sdk needs an older OpenCV, and no other package with a licence reads it.

    Args:
        data: bytes: run lengths of an RGBA image, see https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack.
        height: of the image.
        width: of the image.

    Returns:
        (height, width) bool.

    Raises:
        UserError: a value that is no byte, an end within a run, or another number of pixels than the image's.
    """
    try:
        content = bytes(data)
    except (ValueError, TypeError) as error:
        raise UserError("rle: use a list of bytes, 0 to 255: export the file again") from error
    alpha = _unpack(content, 4 * height * width).reshape(height, width, 4)[:, :, 3]
    return (alpha > 0) & (alpha >= (int(alpha.max(initial=0)) + 1) // 2)


def _unpack(content: bytes, length: int) -> NDArray[np.uint8]:
    """Decodes rle-pack: `length` words of 8 bits."""
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    text = (bits + ord("0")).tobytes().decode()  # int(..., 2) of a slice is faster than arithmetic on arrays
    position = 0

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > len(text):
            raise UserError("rle: ends within a run: export the file again")
        return int(text[position - size : position], 2)

    found, word_size = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if found != length or word_size != 8:
        raise UserError(
            f"rle: {found} values of {word_size} bits, but the image has {length // 4} pixels of 4 x 8 bits: use the "
            "image that was annotated"
        )
    values = np.zeros(length, np.uint8)
    start = 0
    while start < length:
        is_run = read(1)
        count = read(sizes[read(2)]) + 1
        if start + count > length:
            raise UserError("rle: more values than pixels: export the file again")
        if is_run:
            values[start : start + count] = read(8)
        else:
            literal = bits[position : position + 8 * count]
            if literal.size < 8 * count:
                raise UserError("rle: ends within a run: export the file again")
            values[start : start + count] = np.packbits(literal)
            position += 8 * count
        start += count
    return values
