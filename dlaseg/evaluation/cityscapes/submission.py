"""A folder of predictions as the Cityscapes benchmark's server wants it, checked and zipped.

https://www.cityscapes-dataset.com/submit: label id PNGs of the images' size, named CITY_SEQUENCE_FRAME*.png, one for
every image of the test split.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dlaseg.data.datasets import open_images
from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.errors import UserError
from dlaseg.files import check_folder, replacing
from dlaseg.images import check_max_pixels, read_image, write_png
from dlaseg.inference.network import open_network, stretch
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_ids
from dlaseg.memory import MAX_PIXELS

IMAGES = {"train": 2975, "val": 500, "test": 1525}
"""Images of the benchmark's splits; a submission to the server has as many."""


def submit(
    weights: str | Path,
    root: Path,
    split: str,
    folder: Path,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    device: str = "auto",
    precision: str = "float32",
    max_pixels: int = MAX_PIXELS,
    backend: str | None = None,
    padding: str = "mirror",
    max_memory: int | None = None,
    max_short_side: int | None = None,
) -> tuple[Path, int]:
    """Predicts every image of a split, checks what was written, and zips it.

    Args:
        weights: a file, a folder or a hub name of a network with the 19 classes.
        root: holds `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`; no annotations are read.
        split: such as test.
        folder: gets CITY/CITY_SEQUENCE_FRAME_labelIds.png; the zip file is written beside it.
        scales: see `Predictor`.
        flip: see `Predictor`.
        device: see `Predictor`.
        precision: see `Predictor`.
        max_pixels: larger images are refused, see `read_image`.
        backend: see `Predictor`.
        padding: to sizes that the network's strides need: `mirror`, or `stretch` to multiples of 128, see `stretch`.
        max_memory: see `Predictor`.
        max_short_side: see `Predictor`.

    Returns:
        The zip file and the number of images in it.

    Raises:
        UserError: other classes, a folder that holds other files or cannot be written to, or a broken image.
    """
    check_max_pixels(max_pixels)
    folder = folder.resolve() if folder.name in ("", "..") else folder  # the zip file has the folder's name
    check_folder(folder)
    check_folder(folder.parent)
    images = {pair.name: pair.image for pair in open_images("cityscapes", root, split).pairs}
    network = stretch(open_network(weights)) if padding == "stretch" else weights
    predictor = Predictor(
        network, backend, device, precision, scales, flip, max_memory=max_memory, max_short_side=max_short_side
    )
    labels = cityscapes_labels()
    if predictor.label_map.names != labels.names:
        raise UserError(f"{weights}: its classes are not the benchmark's 19: train on cityscapes")
    _refuse_other_files(folder, images)
    for name, path in tqdm(images.items(), desc="predict", unit="img", leave=False, disable=None):
        write_png(_file(folder, name), labels.decode(predictor(read_image(path, max_pixels))))
    return check_and_zip(folder, images, max_pixels), len(images)


def check_and_zip(folder: Path, images: Mapping[str, Path], max_pixels: int = MAX_PIXELS) -> Path:
    """Reads back every prediction, then writes `FOLDER.zip` whole.

    Args:
        folder: of the predictions.
        images: `CITY/CITY_SEQUENCE_FRAME` -> image.
        max_pixels: larger images are refused, see `read_image`.

    Raises:
        UserError: a file too many or too few, of another size than its image, or with an id that is no class.
    """
    _refuse_other_files(folder, images)
    classes = [ids[0] for ids in cityscapes_labels().ids]
    for name, image in tqdm(images.items(), desc="check", unit="img", leave=False, disable=None):
        path = _file(folder, name)
        if not path.is_file():
            raise UserError(f"{path}: missing prediction of {image}: a submission has one for every image")
        ids = read_ids(path, max_pixels)
        height, width = read_image(image, max_pixels).shape[:2]
        if ids.shape != (height, width):
            raise UserError(
                f"{path}: {ids.shape[0]} x {ids.shape[1]}, its image has {height} x {width}: write it again"
            )
        if not np.isin(ids, classes).all():
            wrong = ids[~np.isin(ids, classes)][0]
            raise UserError(f"{path}: id {wrong} is not the label id of an evaluated class: write it again")
    archive = folder.with_name(f"{folder.name}.zip")
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as zipped:  # stored: PNGs are compressed
        for name in images:
            zipped.write(_file(folder, name), _file(Path(), name))
    return archive


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}_labelIds.png"


def _refuse_other_files(folder: Path, images: Mapping[str, Path]) -> None:
    expected = {_file(folder, name) for name in images}
    others = sorted(path for path in folder.rglob("*") if path.is_file() and path not in expected)
    if others:
        raise UserError(f"{others[0]}: not part of this submission ({len(others)} such files): give an empty folder")
