import contextlib
import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from dlaseg.config.segmentation import AugmentConfig
from dlaseg.data.datasets import open_dataset
from dlaseg.data.loading import BatchShard, EpochBatches, batches, train_loader, whole_image_loader
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import UserError

SIZES = [(40, 52), (33, 47), (64, 32), (50, 50), (37, 61), (48, 40), (32, 70)]


@pytest.fixture
def dataset(tmp_path):
    """Seven pairs of different sizes; the image of pair i is i + 1 in its first pixel, its label i everywhere."""
    rng = np.random.default_rng(0)
    classes = ", ".join(f"{{name: c{i}}}" for i in range(len(SIZES)))
    (tmp_path / "classes.yaml").write_text(f"classes: [{classes}]")
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for i, size in enumerate(SIZES):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        image[0, 0] = i + 1
        Image.fromarray(image).save(tmp_path / f"images/train/{i}.png")
        Image.fromarray(np.full(size, i, np.uint8)).save(tmp_path / f"labels/train/{i}.png")
    return open_dataset("folder", tmp_path, "train")


def augmentation():
    return Augmentation(AugmentConfig(crop_size=(32, 32)), (124, 116, 104))


def order(length=10, batch_size=3, seed=0, epoch=0):
    sampler = EpochBatches(length, batch_size, seed)
    sampler.epoch = epoch
    return list(sampler)


def two_epochs(dataset, workers):
    loader, sampler = train_loader(dataset, augmentation(), 2, seed=3, workers=workers)
    result = []
    for epoch in range(2):
        sampler.epoch = epoch
        result += list(batches(loader))
    return result


def test_the_order_of_an_epoch_does_not_depend_on_earlier_epochs():
    sampler = EpochBatches(10, 3, 0)
    for _ in itertools.product(range(3), sampler):
        pass
    sampler.epoch = 5
    assert list(sampler) == order(epoch=5)


def test_iterating_twice_gives_the_same_order():
    sampler = EpochBatches(10, 3, 0)
    assert list(sampler) == list(sampler)


def test_the_order_differs_between_epochs_and_seeds():
    def indices(**how):
        return [key.image for batch in order(**how) for key in batch]

    assert indices() != indices(epoch=1)
    assert indices() != indices(seed=1)
    assert indices(seed=1) != indices(epoch=1)


def test_every_index_occurs_at_most_once_in_an_epoch():
    indices = [key.image for batch in order(100, 7) for key in batch]
    assert len(set(indices)) == len(indices) == 98
    assert set(indices) <= set(range(100))


def test_an_incomplete_last_batch_is_left_out():
    assert [len(batch) for batch in order(10, 4)] == [4, 4]
    assert len(EpochBatches(10, 4, 0)) == 2


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_micro_batch_holds_the_same_samples_whatever_the_number_of_processes(world_size):
    alone = list(EpochBatches(25, 12, 0, BatchShard(micro_batches=2)))
    shards = [EpochBatches(25, 12, 0, BatchShard(rank, world_size, 2)) for rank in range(world_size)]
    together = [list(itertools.chain(*parts)) for parts in zip(*shards, strict=True)]
    assert together == alone


def test_keys_carry_the_epoch():
    assert {key.epoch for batch in order(epoch=4) for key in batch} == {4}


def test_a_batch_of_the_whole_split_is_accepted():
    assert sorted(key.image for key in order(4, 4)[0]) == [0, 1, 2, 3]


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"train.batch_size 5: .* only 4 images"):
        EpochBatches(4, 5, 0)


def test_the_number_of_workers_changes_nothing(dataset):
    expected = two_epochs(dataset, 0)
    assert len(expected) == 6
    for workers in (1, 2):
        result = two_epochs(dataset, workers)
        assert len(result) == len(expected)
        for ours, theirs in zip(result, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_sample_differs_from_epoch_to_epoch(dataset):
    loader, sampler = train_loader(dataset, augmentation(), len(SIZES), seed=0, workers=0)
    images = []
    for epoch in range(2):
        sampler.epoch = epoch
        ((batch, targets),) = batches(loader)
        images.append({int(target[target != 255][0]): image for image, target in zip(batch, targets, strict=True)})
    assert images[0].keys() == images[1].keys() == set(range(len(SIZES)))
    assert not any(torch.equal(images[0][i], images[1][i]) for i in images[0])


def test_a_training_batch_is_eight_bit_crops_with_their_targets(dataset):
    images, targets = two_epochs(dataset, 0)[0]
    assert images.shape == (2, 3, 32, 32)
    assert targets.shape == (2, 32, 32)
    assert images.dtype == targets.dtype == torch.uint8


@pytest.mark.parametrize(("whole", "workers"), [(True, 0), (False, 0), (False, 1)])
def test_a_broken_file_is_one_line_that_names_it(dataset, whole, workers):
    path = dataset.pairs[3].image
    path.write_bytes(b"no picture")
    if whole:
        loader = whole_image_loader(dataset, workers)
    else:
        loader, _ = train_loader(dataset, augmentation(), len(SIZES), seed=0, workers=workers)
    with pytest.raises(UserError) as caught:
        list(batches(loader))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    del caught  # its traceback holds the loader, and this frame it: torch waits 5 s for processes that are garbage


def test_after_an_error_the_loader_goes_without_the_garbage_collector():
    class Broken:
        def __iter__(self):
            return self

        def __next__(self):
            return UserError("a.png: no image: remove it")

    loader = Broken()
    alive = weakref.ref(loader)
    gc.disable()
    try:
        with contextlib.suppress(UserError):
            next(batches(loader))
        del loader
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_images_come_at_native_size_in_the_data_sets_order(dataset, workers):
    state = torch.get_rng_state()
    pairs = list(batches(whole_image_loader(dataset, workers)))
    assert torch.equal(torch.get_rng_state(), state)  # of whoever scores between steps of a training
    assert [tuple(image.shape) for image, _ in pairs] == [(1, 3, *size) for size in SIZES]
    assert [tuple(target.shape) for _, target in pairs] == [(1, *size) for size in SIZES]
    assert [int(image[0, 0, 0, 0]) for image, _ in pairs] == list(range(1, len(SIZES) + 1))
    assert [int(target[0, 0, 0]) for _, target in pairs] == list(range(len(SIZES)))


def test_whole_images_are_the_files_pixels(dataset):
    for index, (image, target) in enumerate(batches(whole_image_loader(dataset, 0))):
        expected, labels = dataset.read(index)
        assert np.array_equal(image[0].permute(1, 2, 0).numpy(), expected)
        assert np.array_equal(target[0].numpy(), labels)


def test_another_runtime_error_is_not_blamed_on_memory():
    def loader():
        yield torch.zeros(1), torch.zeros(1)
        raise RuntimeError("stack expects each tensor to be equal size")

    with pytest.raises(RuntimeError, match=r"^stack expects each tensor"):
        list(batches(loader()))


def test_a_batch_holds_its_own_samples_alone():
    sampler = EpochBatches(7, 2, 0)
    assert [len(sampler.batch(0, number)) for number in range(3)] == [2, 2, 2]
    assert [*sampler.batch(0, 0), *sampler.batch(0, 1), *sampler.batch(0, 2)] == list(itertools.chain(*sampler))
