"""What a predictor takes for an image."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.image_header import OTHER_METADATA, upright
from dlaseg.images import EIGHT_BIT_MODES, read_image

ImageInput = str | Path | Image.Image | NDArray[np.uint8]
"""A file's path, a PIL image, or (H, W, 3) uint8 RGB."""


def as_rgb(image: ImageInput) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8 RGB.

    Args:
        image: a path, read as `read_image` does; a PIL image, whose EXIF orientation is applied and whose alpha is
            dropped; or an array, which is (H, W, 3) uint8 RGB already.

    Raises:
        UserError: an unreadable file, a broken PIL image or one of more than 8 bits, or an array of another shape or
            type.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT_MODES:
            raise UserError(f"PIL image of mode {image.mode}: use 8 bits per channel, or pass the file's path")
        picture, metadata = image, {name: image.info[name] for name in OTHER_METADATA if name in image.info}
        try:
            image = np.asarray(upright(picture).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # PIL reads the pixels only now
            raise UserError(f"PIL image: {' '.join(str(error).split())}: replace the file") from error
        finally:
            picture.info.update(metadata)
    if not isinstance(image, np.ndarray):
        raise UserError(f"image of type {type(image).__name__}: use a path, a PIL image or an array (H, W, 3) uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"image of shape {image.shape}, {image.dtype}: a predictor takes (H, W, 3) uint8, RGB")
    return image
