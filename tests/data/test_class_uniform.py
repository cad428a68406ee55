"""Class-uniform sampling: centroids, and the samples of an epoch."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dlaseg.config.segmentation import AugmentConfig
from dlaseg.data.class_uniform import ClassUniformDraw, samples_per_class, split_centroids, tile_centroids
from dlaseg.data.datasets import open_dataset
from dlaseg.data.loading import BatchShard, Key, batches, train_loader
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import UnreadableFileError, UserError

SIZES = [(40, 70), (33, 47), (64, 32), (20, 30), (37, 61), (48, 40)]


@pytest.fixture
def dataset(tmp_path):
    """Six pairs of noise in three of four classes, of which the last has one block; the first rows are ignored."""
    rng = np.random.default_rng(0)
    (tmp_path / "classes.yaml").write_text("classes: [a, b, c, rare]")
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for i, size in enumerate(SIZES):
        labels = rng.choice(np.array([0, 2], np.uint8), size)
        labels[:3] = 255
        labels[10:14, 8:12] = 3 if i == 4 else 0
        Image.fromarray(labels).save(tmp_path / f"labels/train/{i}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"images/train/{i}.png")
    return open_dataset("folder", tmp_path, "train")


def plain_centroids(train_ids, tile):
    """By definition: the mean row and column of each class's pixels in each tile that lies in the image whole."""
    height, width = train_ids.shape
    found = []
    for i, j in itertools.product(range(max(1, height // tile)), range(max(1, width // tile))):
        places = {}
        rows, columns = (range(k * tile, min((k + 1) * tile, side)) for k, side in ((i, height), (j, width)))
        for row, column in itertools.product(rows, columns):
            places.setdefault(int(train_ids[row, column]), []).append((row, column))
        for label in sorted(places.keys() - {255}):
            rows, columns = zip(*places[label], strict=True)
            found.append([label, sum(rows) // len(rows), sum(columns) // len(columns)])
    return found


@given(
    st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 5, 254, 255]))
    ),
    st.integers(3, 8),
)
@settings(max_examples=100)
def test_centroids_are_what_plain_loops_find(train_ids, tile):
    found = tile_centroids(train_ids, tile)
    assert found.tolist() == plain_centroids(train_ids, tile)
    assert found.dtype == np.int64


def test_a_class_beyond_the_last_whole_tile_has_no_centroid():
    train_ids = np.full((40, 100), 255, np.uint8)
    train_ids[:, 96:], train_ids[32:, :], train_ids[5, 40:43] = 1, 2, 3
    assert tile_centroids(train_ids, 32).tolist() == [[3, 5, 41]]
    assert tile_centroids(train_ids, 1000).tolist() == [[1, 15, 97], [2, 35, 49], [3, 5, 41]]
    assert tile_centroids(np.full((4, 4), 255, np.uint8), 32).shape == (0, 3)


def test_centroids_of_a_split_name_the_image(dataset):
    expected = [
        [label, index, row, column]
        for index in range(len(SIZES))
        for label, row, column in plain_centroids(dataset.read(index)[1], 32)
    ]
    assert split_centroids(dataset, 32).tolist() == expected
    assert {label for label, *_ in expected} == {0, 2, 3}


def test_the_limit_of_pixels_is_that_of_the_data_set(dataset):
    with pytest.raises(UserError, match=r"labels/train/\d\.png: .*the limit is 9\b"):
        split_centroids(dataclasses.replace(dataset, max_pixels=9), 32)


def test_a_broken_label_map_ends_it_or_has_no_centroid(dataset):
    whole = split_centroids(dataset, 32)
    dataset.pairs[2].label.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"labels/train/2\.png: broken"):
        split_centroids(dataset, 32)
    assert split_centroids(dataset, 32, skip_unreadable=True).tolist() == whole[whole[:, 1] != 2].tolist()
    Image.new("L", (20, 6), 9).save(dataset.pairs[2].label)
    with pytest.raises(UserError, match=r"labels/train/2\.png: label 9 at row 0, column 0 "):
        split_centroids(dataset, 32, skip_unreadable=True)


@given(st.integers(1, 3000), st.integers(2, 60), st.floats(1e-4, 1))
def test_each_class_has_the_share_of_the_samples_or_the_message_says_how(length, num_classes, share):
    if length * share >= num_classes:
        count = samples_per_class(length, share, num_classes)
        assert count == int(length * share / num_classes)
        assert num_classes <= count * num_classes <= length
        return
    with pytest.raises(UserError) as caught:
        samples_per_class(length, share, num_classes)
    reason, remedy = str(caught.value).rsplit(": ", 1)
    assert reason == (
        f"data.class_uniform {share}: less than one of {length} training images for each of {num_classes} classes"
    )
    if num_classes > length:
        assert remedy == "use 0"
    else:
        least = float(remedy.removeprefix("use ").removesuffix(" or more, or 0"))
        assert samples_per_class(length, least, num_classes) >= 1


def centroids_of(sizes, images):
    """`sizes[c]` centroids of class c; the row tells the class, the column the centroid."""
    rows = [[c, (7 * c + k) % images, c, k] for c, size in enumerate(sizes) for k in range(size)]
    return np.array(rows, np.int64).reshape(-1, 4)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=2, max_size=6),
    length=st.integers(12, 60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 500),
)
@settings(max_examples=100)
def test_an_epoch_has_as_many_samples_of_each_class_that_occurs(sizes, length, share, seed, epoch):
    count = int(length * share / len(sizes))
    keys = ClassUniformDraw(centroids_of(sizes, length), length, count, seed)(epoch)
    assert sorted(key.number for key in keys) == list(range(length))
    assert {key.epoch for key in keys} == {epoch}
    drawn = Counter(key.point for key in keys if key.point is not None)
    for c, size in enumerate(sizes):
        times = [drawn.pop((c, k), 0) for k in range(size)]
        assert sum(times) == (count if size else 0)
        assert not times or max(times) - min(times) <= 1  # all centroids, before one comes again
    assert not drawn
    assert all((7 * key.point[0] + key.point[1]) % length == key.image for key in keys if key.point)
    others = [key.image for key in keys if key.point is None]
    assert len(others) == length - count * sum(map(bool, sizes))
    assert len(set(others)) == len(others)
    assert set(others) <= set(range(length))


def test_an_epoch_depends_on_seed_and_epoch_alone():
    def draw(seed=0, epoch=0):
        return [key[1:] for key in ClassUniformDraw(centroids_of([9, 30], 40), 40, 10, seed)(epoch)]

    assert draw() == draw()
    assert len({tuple(draw(*how)) for how in ((0, 0), (1, 0), (0, 1), (1, 1))}) == 4


def epochs(dataset, workers=0, rank=0, world_size=1, first=0):
    """The batches of two epochs of six samples, one of which is of each of the three classes that occur."""
    augmentation = Augmentation(AugmentConfig(crop_size=(32, 32)), (124, 116, 104))
    shard = BatchShard(rank, world_size)
    loader, sampler = train_loader(dataset, augmentation, 2, seed=3, workers=workers, shard=shard)
    sampler.draw = ClassUniformDraw(split_centroids(dataset, 32), len(dataset), 1, seed=3)
    found = []
    for epoch in range(2):
        sampler.epoch, sampler.first = epoch, first
        found.append(list(batches(loader)))
    return found


def assert_same_batches(one, other):
    for ours, theirs in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_workers_processes_and_a_resume_change_no_class_uniform_batch(dataset):
    expected = epochs(dataset)
    assert [len(epoch) for epoch in expected] == [3, 3]
    shards = [epochs(dataset, rank=rank, world_size=2) for rank in range(2)]
    resumed = epochs(dataset, first=1)
    for epoch, loaded in enumerate(epochs(dataset, workers=2)):
        assert_same_batches(loaded, expected[epoch])
        assert_same_batches(resumed[epoch], expected[epoch][1:])
        together = [
            [torch.cat(parts) for parts in zip(*pair, strict=True)]
            for pair in zip(*(shard[epoch] for shard in shards), strict=True)
        ]
        assert_same_batches(together, expected[epoch])
    assert any((targets == 3).any() for _, targets in expected[0])  # the rare class, in one image of six


def test_samples_of_one_image_differ_within_an_epoch(dataset):
    augmentation = Augmentation(AugmentConfig(crop_size=(32, 32), rotation=0.0), (124, 116, 104))
    loader, sampler = train_loader(dataset, augmentation, len(dataset), seed=0, workers=0)
    centroids = split_centroids(dataset, 32)
    sampler.draw = ClassUniformDraw(centroids[centroids[:, 0] == 3], len(dataset), len(dataset), seed=0)
    ((images, targets),) = batches(loader)
    assert {(key.image, key.point) for key in sampler.draw(0)} == {(4, (11, 9))}
    assert len({image.numpy().tobytes() for image in images}) == len(dataset)
    assert (targets == 3).any((1, 2)).all()


def test_without_it_each_image_is_seen_once_and_its_randomness_is_its_index(dataset):
    """What all runs before there was class-uniform sampling have been trained with."""
    augmentation = Augmentation(AugmentConfig(crop_size=(32, 32)), (124, 116, 104))
    loader, sampler = train_loader(dataset, augmentation, 2, seed=3, workers=0)
    sampler.epoch = 5
    order = np.random.default_rng([3, 5]).permutation(len(dataset)).tolist()
    assert list(itertools.chain(*sampler)) == [Key(5, index, index) for index in order]
    expected = [augmentation(*dataset.read(index), (3, 5, index)) for index in order]
    found = [pair for images, targets in batches(loader) for pair in zip(images, targets, strict=True)]
    for (image, target), (crop, labels) in zip(found, expected, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), crop)
        assert np.array_equal(target.numpy(), labels)


def test_an_image_that_replaces_an_unreadable_one_is_cropped_anywhere():
    class Samples:
        def __len__(self):
            return 2

        def read(self, index):
            if index == 1:
                raise UnreadableFileError("1.png: broken")
            return np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)

    def augment(image, target, seed, **options):
        seen.append(options)
        return image, target

    seen = []
    loader, sampler = train_loader(Samples(), augment, 2, seed=0, workers=0, skip=True)
    sampler.draw = lambda epoch: [Key(epoch, 0, 0, (1, 1)), Key(epoch, 1, 1, (0, 1))]
    list(batches(loader))
    assert seen == [{"point": (1, 1)}, {}]
