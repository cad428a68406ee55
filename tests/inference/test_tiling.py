"""In tiles, a network gives what it gives for the whole image, as far as it sees no further than the tiles overlap."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dlaseg.inference import grid as tiles
from dlaseg.inference.grid import Axis, Grid
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.tiling import blend_tiles
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import SegmentationModel
from dlaseg.models.resizing import pad, round_up

MARGIN = 32


class SmallField(SegmentationModel):
    """Three convolutions: a logit depends on `reach` pixels to either side, the upsampled one on a stride more."""

    def __init__(self, num_classes=5, stride=4, padded=True):
        super().__init__()
        architecture = {"name": "small_field", "num_classes": num_classes, "in_channels": 3}
        self.metadata = dataclasses.replace(ModelMetadata.for_segmentation(num_classes, 3), architecture=architecture)
        self.stride, self.num_classes, self._padded = stride, num_classes, padded
        strides = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stride]
        self.first = nn.Conv2d(3, 8, 3, strides[0], 1)
        self.second = nn.Conv2d(8, 8, 3, strides[1], 1)
        self.head = nn.Conv2d(8, num_classes, 3, padding=1)
        self.reach = 1 + strides[0] + stride

    def coarse_logits(self, x):
        if self._padded:  # as DLASeg does
            x = pad(x, round_up(x.shape[-2], 32), round_up(x.shape[-1], 32))
        return self.head(self.second(self.first(x).relu()).relu())


def make_predictor(seed=0, **options):
    torch.manual_seed(seed)
    names = ("scales", "flip")
    model = SmallField(**{name: value for name, value in options.items() if name not in names})
    return Predictor(model, device="cpu", **{name: value for name, value in options.items() if name in names})


def in_tiles(predictor, side=160, margin=MARGIN, flip=False):
    """Makes a predictor compute every image in tiles."""

    def grid(height, width, whole_bytes=0, tiled_bytes=0, score_bytes=0):
        return Grid(Axis.split(height, side, 32, margin), Axis.split(width, side, 32, margin, mirrored=flip))

    predictor.memory.grid = grid
    return predictor


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=25)
@given(
    *(st.integers(1, 420), st.integers(1, 420), st.sampled_from([1, 2, 4])),
    *(st.booleans(), st.sampled_from([160, 224]), st.booleans()),
)
def test_a_network_that_sees_less_than_the_overlap_gives_the_identical_label_map(
    height, width, stride, padded, side, arrays
):
    predictor = make_predictor(stride=stride, padded=padded)
    predictor.backend.arrays = arrays  # or tensors
    image = noise(height, width)
    whole = predictor(image)
    assert len(np.unique(whole)) > 1 or min(height, width) < 64
    np.testing.assert_array_equal(in_tiles(predictor, side)(image), whole)


QUICK_AVERAGES = [(0, 0), (0, 2), (1, 0), (1, 2), (2, 1)]  # places in the lists below


@pytest.mark.parametrize(
    ("options", "height", "width"),
    [
        pytest.param(options, *size, marks=() if (i, j) in QUICK_AVERAGES else pytest.mark.slow)
        for i, options in enumerate([{"flip": True}, {"scales": (0.5, 1.0)}, {"scales": (1.0, 2.0), "flip": True}])
        for j, size in enumerate([(161, 160), (320, 97), (351, 353)])
    ],
)
def test_averages_over_scales_and_mirror_images_are_those_of_the_whole_image(options, height, width):
    if "scales" in options:  # elsewhere, a scaled tile does not begin at a pixel of the scaled image
        height, width = round_up(height, 32), round_up(width, 32)
    predictor = make_predictor(stride=2, **options)
    image = noise(height, width)
    whole, probabilities = predictor(image), predictor.probabilities(image)
    tiled = in_tiles(predictor, margin=64, side=256, flip=options.get("flip", False))
    np.testing.assert_allclose(tiled.probabilities(image), probabilities, atol=1e-6)
    assert (tiled(image) != whole).mean() < 1e-4  # rounding where two classes are as probable


def test_several_images_at_a_time_are_those_of_one_after_the_other():
    predictor = make_predictor()
    images = [noise(200, 333, seed) for seed in range(3)]
    whole = predictor(images)
    in_tiles(predictor)
    predictor.batch_size = 2
    for arrays in (True, False):
        predictor.backend.arrays = arrays
        np.testing.assert_array_equal(predictor(images), whole)


def test_probabilities_and_confidence_are_those_of_the_whole_image():
    predictor = make_predictor()
    images = torch.from_numpy(np.stack([noise(200, 333), noise(200, 333, 1)])).permute(0, 3, 1, 2)
    labels, confidence = predictor.predict_with_confidence(images)
    probabilities = predictor.probabilities(noise(200, 333))
    in_tiles(predictor)
    tiled_labels, tiled_confidence = predictor.predict_with_confidence(images)
    assert torch.equal(tiled_labels, labels)
    torch.testing.assert_close(tiled_confidence, confidence)
    assert tiled_confidence.shape == (2, 200, 333)
    np.testing.assert_allclose(predictor.probabilities(noise(200, 333)), probabilities, atol=1e-6)


@pytest.mark.parametrize("arrays", [True, False])
def test_strips_are_the_rows_of_the_label_map_and_read_each_row_about_once(arrays):
    predictor = make_predictor()
    predictor.backend.arrays = arrays
    image = noise(500, 210)
    whole, reads = predictor(image), []
    grid = in_tiles(predictor).memory.grid(500, 210)

    def read(top, bottom):
        reads.append((top, bottom))
        return image[top:bottom]

    strips = list(predictor.predict_strips(read, grid))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in strips]), whole)
    assert [top for top, _ in strips] == list(np.cumsum([0, *(len(labels) for _, labels in strips)]))[:-1]
    assert len(strips) > 3
    assert reads == list(grid.rows.spans)


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_that_is_reduced_is_the_same_in_tiles(monkeypatch, flip):
    image, side = noise(3 * 700 - 1, 3 * 30 + 3), 32
    whole, tiled = make_predictor(flip=flip), make_predictor(flip=flip)
    whole.max_short_side = tiled.max_short_side = side
    memory = tiled.memory_for(*image.shape[:2])
    grid = memory._split(3 * 512, *image.shape[:2])
    assert len(grid.rows.spans) > 1
    assert all(start % (3 * 32) == 0 for start, _ in grid.rows.spans)
    assert (grid.rows.spans[-1][1], grid.rows.margin) == (len(image), 3 * tiles.MARGIN)
    monkeypatch.setattr(memory, "grid", lambda *_, **__: grid)
    expected = whole(image)
    np.testing.assert_array_equal(tiled(image), expected)
    strips = [labels for _, labels in tiled.predict_strips(lambda top, bottom: image[top:bottom], grid)]
    assert len(strips) > 1
    np.testing.assert_array_equal(np.concatenate(strips), expected)


class DeepField(SmallField):
    """Adds features of stride 16, which depend on where the squares of 16 pixels begin, and on 32 pixels more."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Conv2d(8, self.num_classes, 3, padding=1)

    def coarse_logits(self, x):
        x = pad(x, round_up(x.shape[-2], 32), round_up(x.shape[-1], 32))
        deep = self.deep(nn.functional.max_pool2d(self.first(x), 8))
        return super().coarse_logits(x) + nn.functional.interpolate(deep, scale_factor=4.0)


@pytest.mark.parametrize("fault", [None, "margin", "start"])
def test_faults_change_the_label_map(fault):
    torch.manual_seed(0)
    predictor = Predictor(DeepField(), device="cpu")
    image = noise(400, 400)
    whole = predictor(image)
    axis = Axis.split(400, 256, 32, 64)
    if fault == "margin":  # what the tile's border spoils is blended in
        axis = dataclasses.replace(axis, margin=8)
    elif fault == "start":  # a multiple of the output stride, not of the deepest
        axis = dataclasses.replace(axis, spans=tuple((start and start + 8, stop) for start, stop in axis.spans))
    predictor.memory.grid = lambda *_, **__: Grid(axis, axis)
    assert (predictor(image) != whole).any() == (fault is not None)


@settings(max_examples=200)
@given(st.integers(1, 5000), st.sampled_from([512, 768, 1024]), st.sampled_from([32, 64]), st.booleans())
def test_tiles_cover_an_axis_and_meet_in_seams(length, side, multiple, mirrored):
    axis = Axis.split(length, side, multiple, mirrored=mirrored)
    assert axis.spans[0][0] == 0
    assert axis.spans[-1][1] == length
    assert all(start % multiple == 0 for start, _ in axis.spans)
    assert all(stop - start <= side + mirrored * multiple for start, stop in axis.spans)
    if mirrored:
        assert all((length - stop) % multiple == 0 for _, stop in axis.spans)
    else:
        assert all(stop % multiple == 0 for _, stop in axis.spans[:-1])
    seams = axis.seams()
    assert all(last - first >= tiles.FADE for first, last in seams)
    assert all(before[1] <= after[0] for before, after in pairwise(seams))
    if seams:
        assert seams[-1][1] <= length - tiles.MARGIN


def test_scores_fade_from_one_tile_into_the_next():
    axis = Axis.split(256, 192, 32, MARGIN)
    ((first, last),) = axis.seams()
    tiles = iter([torch.zeros(1, 1, 64, 192), torch.ones(1, 1, 64, 192)])
    grid = Grid(Axis.split(64, 192, 32), axis)
    ((_, (result,)),) = blend_tiles(
        grid, 1, lambda *_: torch.zeros(1, 3, 64, 256), lambda image: next(tiles)[..., : image.shape[-1]],
        lambda scores, *_: (scores,),
    )  # fmt: skip
    row = result[0, 0, 0]
    assert (row[:first] == 0).all()
    assert (row[last:] == 1).all()
    steps = row[first - 1 : last + 1].diff()
    assert (steps > 0).all()
    assert steps.max() < 0.06
    torch.testing.assert_close(row[first:last] + row[first:last].flip(0), torch.ones(last - first))


@pytest.mark.parametrize("arrays", [True, False])
def test_equal_scores_of_two_tiles_stay_what_they_are(arrays):
    scores = np.random.default_rng(0).standard_normal((1, 3, 300, 300), np.float32)
    scores = scores if arrays else torch.from_numpy(scores)
    axis = Axis.split(300, 192, 32, MARGIN)
    strips = blend_tiles(
        Grid(axis, axis), 1, lambda top, bottom: scores[..., top:bottom, :], lambda tile: tile, lambda part, *_: (part,)
    )
    np.testing.assert_array_equal(np.concatenate([np.asarray(strip) for _, (strip,) in strips], 2), scores)
