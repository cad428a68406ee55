"""Reads PNGs of ids, as fast as they can be unpacked: decoding is most of what scoring costs."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.images import decode_png


def read_ids(path: Path) -> NDArray[np.integer]:
    """Reads a PNG of ids, 8 or 16 bits, as stored: of a palette the indices.

    Returns:
        (H, W) integers.

    Raises:
        UserError: broken, or more than one channel.
    """
    try:
        content = path.read_bytes()
        ids = decode_png(content)
        if ids is not None and ids.ndim == 2:
            return ids
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()  # checksums, which decoding alone passes over
        with Image.open(io.BytesIO(content)) as picture:
            ids = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: broken or no image ({' '.join(str(error).split())}): write it again") from error
    if ids.ndim != 2 or ids.dtype == np.bool_:
        raise UserError(f"{path}: {picture.mode} pixels: predictions are label ids, one channel of 8 or 16 bits")
    return ids
