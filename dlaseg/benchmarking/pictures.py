"""The images that the speed benchmark segments."""

from pathlib import Path

from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.inference.sources import find_images
from dlaseg.synthetic.dataset import draw_scene

MOST = 1000
"""Most images; each is segmented in every round by every candidate."""


def choose_images(path: Path, count: int) -> list[Path]:
    """The first images of a folder, or one file.

    Args:
        path: see `find_images`.
        count: at most so many.

    Raises:
        UserError: a number out of range, and as `find_images`.
    """
    _check_count(count)
    return [source.path for source in find_images(path)[:count]]


def draw_images(folder: Path, height: int, width: int, count: int) -> list[Path]:
    """Draws street scenes, which compress about as well as photographs do; noise would not compress at all.

    Args:
        folder: the PNG files are written there.
        height: of the images, pixels.
        width: of the images, pixels.
        count: number of images.

    Raises:
        UserError: a size or number out of range.
    """
    _check_count(count)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        try:
            scene = draw_scene(number, height, width)
        except UserError as error:
            raise UserError(f"{error}, or give images of your own by --images") from error
        write_png(paths[-1], scene.image)
    return paths


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST:
        raise UserError(f"--count {count}: use 1 to {MOST} images")
