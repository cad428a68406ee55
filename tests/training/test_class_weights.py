import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dlaseg.data.datasets import open_dataset
from dlaseg.data.statistics import SplitStatistics, median_frequency, statistics

ROAD, SIDEWALK, SKY, VOID = 7, 8, 23, 0  # label ids of Cityscapes


def counted(images, classes):
    """Statistics of images that are given as pixels of each class."""
    image_pixels = [sum(map(sum, (image for image in images if image[c]))) for c in range(classes)]
    return SplitStatistics(
        split="train",
        groups={".": len(images)},
        sizes={},
        pixels=tuple(sum(image[c] for image in images) for c in range(classes)),
        images=tuple(sum(image[c] > 0 for image in images) for c in range(classes)),
        image_pixels=tuple(image_pixels),
        ignored=0,
    )


def test_weights_of_label_maps_are_those_worked_out_by_hand(tmp_path):
    first, second = np.full((4, 10), ROAD, np.uint8), np.full((4, 10), VOID, np.uint8)
    first[:2, :5] = SIDEWALK  # 30 of road, 10 of sidewalk
    second[:, :4] = SKY  # 16 of sky, 4 of road, 20 that are ignored
    second[:, 4] = ROAD
    for folder in ("leftImg8bit/train/a", "gtFine/train/a"):
        (tmp_path / folder).mkdir(parents=True)
    for index, labels in enumerate((first, second)):
        Image.new("RGB", (10, 4)).save(tmp_path / f"leftImg8bit/train/a/a_{index}_0_leftImg8bit.png")
        Image.fromarray(labels).save(tmp_path / f"gtFine/train/a/a_{index}_0_gtFine_labelIds.png")
    weights = median_frequency(statistics(open_dataset("cityscapes", tmp_path, "train")))
    # road 34 of the 60 scored pixels of both, sidewalk 10 of the first one's 40, sky 16 of the second one's 20
    assert len(weights) == 19
    assert weights[0] == pytest.approx(1)
    assert weights[1] == pytest.approx((34 / 60) / (10 / 40))
    assert weights[10] == pytest.approx((34 / 60) / (16 / 20))
    assert [weight for i, weight in enumerate(weights) if i not in (0, 1, 10)] == [1.0] * 16


def test_the_median_of_an_even_number_of_classes_is_halfway():
    weights = median_frequency(counted([[60, 20, 20, 0], [0, 0, 0, 100]], 4))  # 0.6, 0.2, 0.2, 1
    assert weights == pytest.approx([0.4 / 0.6, 2, 2, 0.4])


def test_a_split_without_a_scored_pixel_has_equal_weights():
    assert median_frequency(counted([[0, 0, 0]], 3)) == [1.0, 1.0, 1.0]


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=5, max_size=5), min_size=1, max_size=6))
def test_weights_are_positive_numbers_that_take_every_class_to_the_median(images):
    weights = median_frequency(counted(images, 5))
    assert all(math.isfinite(weight) and weight > 0 for weight in weights)
    frequencies = {}
    for c in range(5):
        showing = [image for image in images if image[c]]
        if showing:
            frequencies[c] = sum(image[c] for image in showing) / sum(map(sum, showing))
    for c, frequency in frequencies.items():
        assert weights[c] * frequency == pytest.approx(median(frequencies.values()))
    assert all(weights[c] == 1 for c in range(5) if c not in frequencies)
