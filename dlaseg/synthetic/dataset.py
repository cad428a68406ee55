"""Street scenes drawn by code, in the Cityscapes layout: a data set that needs no download.

A scene is one street in one-point perspective: a camera above a ground plane, objects placed in metres and painted from
far to near, so that what stands in front hides what stands behind, in the picture and in the labels alike.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.synthetic.appearance import random_light
from dlaseg.synthetic.backdrop import paint_end_of_street, paint_sky
from dlaseg.synthetic.canvas import SUPERSAMPLING, Canvas, Pixels
from dlaseg.synthetic.ground import cast_shadows, paint_ground, shade_ground
from dlaseg.synthetic.lens import paint_bonnet, paint_edges, take_photo
from dlaseg.synthetic.planning import plan_houses, plan_roadside, plan_street, plan_traffic

SMALLEST, LARGEST = (64, 64), (1024, 2048)
MOST_SCENES = 1_000_000
"""Of a split; they take terabytes."""

LARGEST_SEED = (1 << 64) - 1

CITIES = {
    "train": ("synthburg", "renderstadt", "polygonia"),
    "val": ("mockhausen", "pixelfurt"),
    "test": ("fauxheim",),
}
"""Places that do not exist, by split. The order of the splits is part of every scene's seed."""


@dataclass(frozen=True)
class Scene:
    """One picture with its labels."""

    image: Pixels  # (H, W, 3) RGB
    label_ids: Pixels  # (H, W) Cityscapes label ids
    instance_ids: NDArray[np.uint16]  # (H, W) label id, or id * 1000 + k for the k-th object of a counted class


def _check_size(height: int, width: int) -> None:
    if not (SMALLEST[0] <= height <= LARGEST[0] and SMALLEST[1] <= width <= LARGEST[1]):
        raise UserError(
            f"size {height} x {width}: a scene is {SMALLEST[0]} to {LARGEST[0]} pixels high and {SMALLEST[1]} to "
            f"{LARGEST[1]} wide: choose a size within"
        )


def _check_folder(path: Path) -> None:
    exists = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not exists.is_dir():
        raise UserError(f"{exists}: not a folder: choose another one for the data set")


def draw_scene(seed: int | Sequence[int], height: int = 512, width: int = 1024) -> Scene:
    """Draws one street.

    Args:
        seed: any number or numbers from 0 upwards; the same ones give the same labels, and pixels that may differ by a
            level or two on another processor.
        height: pixels, 64 to 1024.
        width: pixels, 64 to 2048.

    Returns:
        The picture and its labels.

    Raises:
        UserError: a size or a seed is out of range.

    Examples:
        >>> scene = draw_scene(seed=0, height=64, width=128)
        >>> scene.image.shape, scene.label_ids.shape, scene.instance_ids.dtype
        ((64, 128, 3), (64, 128), dtype('uint16'))
    """
    _check_size(height, width)
    if (np.atleast_1d(seed) < 0).any():
        raise UserError(f"seed {seed}: seeds are whole numbers from 0 upwards: use one of these")
    rng = np.random.default_rng(seed)
    # the view of a 2 : 1 picture is that of Cityscapes, a little wider; other shapes keep its area
    focal = SUPERSAMPLING * 0.9 * math.sqrt(2 * height * width)
    shape = (SUPERSAMPLING * height, SUPERSAMPLING * width)
    canvas = Canvas(
        image=np.zeros((*shape, 3), np.uint8),
        codes=np.zeros(shape, np.uint16),
        focal=focal,
        vanishing_point=(shape[1] * rng.uniform(0.42, 0.58), shape[0] * rng.uniform(0.42, 0.5)),
        camera_height=rng.uniform(1.25, 1.6),
        curvature=rng.uniform(-1, 1) ** 3 * 1.2e-3,
        light=random_light(rng),
        # 3 of 1024 columns, and 3.5 pixels where a small network shall still see it
        min_pole_width=max(3 / 512 * focal / 0.9, SUPERSAMPLING * min(3.5, height / 64)),
    )
    street = plan_street(rng)
    objects = plan_traffic(canvas, rng, street)
    for road in street.sides:
        objects += plan_houses(canvas, rng, road, street.storeys) + plan_roadside(canvas, rng, road, street)
    shadows, sunlit = cast_shadows(objects, canvas.light)
    paint_sky(canvas, rng)
    paint_ground(canvas, rng, street)
    shade_ground(canvas, rng, shadows)
    paint_end_of_street(canvas, rng)
    for i in sorted(range(len(objects)), key=lambda i: -objects[i].depth):
        left, right, _, far = objects[i].footprint
        # the margin leaves room for crowns and arms
        if canvas.in_view(left - 3.5, right + 3.5, far):
            canvas.sunlit = sunlit[i]
            objects[i].draw()
    paint_bonnet(canvas, rng)
    paint_edges(canvas, rng)
    codes = np.ascontiguousarray(canvas.codes[1::SUPERSAMPLING, 1::SUPERSAMPLING])
    label_ids = np.where(codes >= 1000, codes // 1000, codes).astype(np.uint8)
    return Scene(take_photo(canvas, rng), label_ids, codes)


def synthesize(
    root: Path,
    counts: Mapping[str, int] | None = None,
    height: int = 512,
    width: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Writes a data set in the Cityscapes layout.

    Args:
        root: the folder that gets `leftImg8bit` and `gtFine`; parents are made.
        counts: scenes per split (train, val, test). By default 48 to train and 12 to validate.
        height: pixels, 64 to 1024.
        width: pixels, 64 to 2048.
        seed: a number from 0 upwards. A scene depends on (seed, split, index) alone, not on the counts.
        progress: shows a bar on standard error, if that is a terminal.

    Raises:
        UserError: a size, a count, a split or the seed is wrong, or the folder holds a data set already.
    """
    counts = {"train": 48, "val": 12} if counts is None else dict(counts)
    _check_size(height, width)
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed}: seeds are whole numbers from 0 to {LARGEST_SEED}: use one of these")
    for split, count in counts.items():
        if split not in CITIES:
            raise UserError(f"split {split!r}: Cityscapes has {', '.join(CITIES)}: use one of these")
        if not 0 <= count <= MOST_SCENES:
            raise UserError(f"{split} {count}: the number of scenes: use 0 to {MOST_SCENES}")
    if not any(counts.values()):
        raise UserError("0 scenes in all: there is nothing to draw: use 1 or more in one of train, val and test")
    for name in ("leftImg8bit", "gtFine"):
        _check_folder(root / name)
        if any(files for _, _, files in os.walk(root / name, followlinks=True)):
            raise UserError(
                f"{root / name}: holds files already, and none is overwritten: choose another folder or remove it"
            )

    palette = np.zeros((256, 3), np.uint8)
    for label, entry in id2label.items():
        if label >= 0:
            palette[label] = entry.color
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    for split, index in tqdm(jobs, desc="synthesize", unit="scene", disable=None if progress else True):
        scene = draw_scene((seed, list(CITIES).index(split), index), height, width)
        city = CITIES[split][index % len(CITIES[split])]
        stem = f"{city}_{index // len(CITIES[split]):06d}_000019"
        labels = root / "gtFine" / split / city
        write_png(labels / f"{stem}_gtFine_labelIds.png", scene.label_ids)
        write_png(labels / f"{stem}_gtFine_instanceIds.png", scene.instance_ids)
        write_png(labels / f"{stem}_gtFine_color.png", palette[scene.label_ids])
        write_png(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", scene.image)
