import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from dlaseg.config.pretraining import PretrainAugmentConfig
from dlaseg.data.classification import CenterCroppedDataset, open_class_folders, open_split
from dlaseg.data.loading import batches, ordered_loader, train_loader
from dlaseg.data.transforms import CenterCrop, CropAugmentation
from dlaseg.errors import UserError

CONFIG = PretrainAugmentConfig(crop_size=32, resize=36, jitter=0.3)
FILES = {"cat": ["b.png", "a.png", "deep/c.png"], "Ant": ["x.JPEG"], "dog": ["1.png", "2.webp", "ü.png"]}


@pytest.fixture
def root(tmp_path):
    """Two splits of seven images of three classes, and what is no image of theirs."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, files in FILES.items():
            for file in files:
                path = tmp_path / split / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                size = rng.integers(34, 50, 2)
                Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        (tmp_path / split / "README.txt").write_text("no class")
        (tmp_path / split / "cat/notes.txt").write_text("no image")
        (tmp_path / split / "cat/._a.png").write_text("what another system leaves")
        (tmp_path / split / ".cache/thumb").mkdir(parents=True)
        (tmp_path / split / "cat/.cache").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "cat/.cache/a.png")
    return tmp_path


def refused(*arguments, opened=open_class_folders) -> str:
    with pytest.raises(UserError) as caught:
        opened(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_classes_are_the_sorted_folders_and_images_sorted_within_them(root):
    training, validation = open_class_folders(root, "train", "val")
    assert training.class_names == validation.class_names == ("Ant", "cat", "dog")
    files = [os.fsdecode(name) for name in training.files]
    assert files == ["Ant/x.JPEG", "cat/a.png", "cat/b.png", "cat/deep/c.png", "dog/1.png", "dog/2.webp", "dog/ü.png"]
    assert training.targets.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert len(training) == 7


def test_the_list_is_torchvisions(root):
    for split in ("train", "val"):
        for hidden in (".cache", "cat/.cache", "cat/._a.png"):
            path = root / split / hidden
            path.unlink() if path.is_file() else path.rename(root / f"{split}-{path.parent.name}")
    theirs = ImageFolder(root / "train")
    ours = open_split(root, "train")
    assert list(ours.class_names) == theirs.classes
    assert [
        (str(ours.folder / os.fsdecode(f)), t) for f, t in zip(ours.files, ours.targets, strict=True)
    ] == theirs.imgs


def test_an_image_is_read_as_it_is_with_its_class(root):
    training = open_split(root, "train")
    image, target = training.read(2)
    assert np.array_equal(image, np.asarray(Image.open(root / "train/cat/b.png")))
    assert target == 1


def test_folders_behind_links_are_found(root):
    (root / "linked").mkdir()
    for name in FILES:
        (root / "linked" / name).symlink_to(root / "train" / name)
    assert open_split(root, "linked").files.tolist() == open_split(root, "train").files.tolist()


def test_a_link_to_its_own_folder_adds_no_image(root):
    (root / "train/cat/loop").symlink_to(root / "train/cat")
    assert len(open_split(root, "train")) == sum(map(len, FILES.values()))


def test_a_missing_root_is_refused(tmp_path):
    line = refused(tmp_path / "nowhere", "train", "val")
    assert line.startswith(f"{tmp_path / 'nowhere'}: no such folder")
    assert "train/CLASS/IMAGE.jpg" in line


def test_a_missing_split_is_refused(root):
    assert refused(root, "train", "test").startswith(f"{root / 'test'}: no such folder; expected ")


def test_one_folder_for_both_splits_is_refused_also_by_a_link(root):
    (root / "other").symlink_to(root / "train")
    for val in ("train", "other"):
        message = refused(root, "train", val)
        assert message.startswith(f"{root / val}: the training and the validation split: a score on images that were")


def test_images_that_are_not_sorted_into_classes_are_refused(root):
    (root / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(root / "flat/a.png")
    line = refused(root, "flat", opened=open_split)
    assert line.startswith(f"{root / 'flat'}: 0 class folders; ")
    assert "sort the images into" in line


def test_a_single_class_is_refused(root):
    (root / "one/cat").mkdir(parents=True)
    assert refused(root, "one", opened=open_split).startswith(f"{root / 'one'}: 1 class folders; ")


def test_empty_class_folders_are_refused_by_the_first_and_their_number(root):
    for name in ("bee", "cow"):
        (root / "val" / name).mkdir()
    line = refused(root, "train", "val")
    assert line.startswith(f"{root / 'val/bee'}: class without images (2 in all): ")


@pytest.mark.parametrize(("more", "less"), [("train", "val"), ("val", "train")])
def test_classes_that_one_split_lacks_are_named(root, more, less):
    for index in range(7):
        (root / more / f"new{index}").mkdir()
        Image.new("RGB", (8, 8)).save(root / more / f"new{index}/a.png")
    line = refused(root, "train", "val")
    assert line.startswith(
        f"{root / less}: lacks the classes new0, new1, new2, new3, new4 and 2 more of {root / more}: "
    )


def two_epochs(training, workers):
    loader, sampler = train_loader(training, CropAugmentation(CONFIG), 3, seed=3, workers=workers)
    result = []
    for epoch in range(2):
        sampler.epoch = epoch
        result += list(batches(loader))
    return result


def test_the_number_of_workers_changes_nothing(root):
    training, validation = open_class_folders(root, "train", "val")
    crops = CenterCroppedDataset(validation, CenterCrop(CONFIG))
    expected = [two_epochs(training, 0), list(batches(ordered_loader(crops, 3, 0)))]
    found = [two_epochs(training, 2), list(batches(ordered_loader(crops, 3, 2)))]
    for ours, theirs in zip(found, expected, strict=True):
        for batch, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_a_batch_is_eight_bit_crops_with_class_ids(root):
    images, targets = two_epochs(open_split(root, "train"), 0)[0]
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert (targets.shape, targets.dtype) == ((3,), torch.int64)


def test_validation_takes_every_image_once_and_in_order(root):
    validation = open_split(root, "val")
    found = list(batches(ordered_loader(CenterCroppedDataset(validation, CenterCrop(CONFIG)), 4, 0)))
    assert [len(images) for images, _ in found] == [4, 3]
    assert torch.cat([targets for _, targets in found]).tolist() == validation.targets.tolist()
    crop = CenterCrop(CONFIG)(validation.read(5)[0])
    assert np.array_equal(found[1][0][1].permute(1, 2, 0).numpy(), crop)


@pytest.mark.parametrize(("training", "workers"), [(True, 0), (False, 0), (False, 1)])
def test_a_broken_image_is_one_line_that_names_it(root, training, workers):
    path = root / "train/dog/1.png"
    path.write_bytes(b"no picture")
    dataset = open_split(root, "train")
    if training:
        loader, _ = train_loader(dataset, CropAugmentation(CONFIG), len(dataset), seed=0, workers=workers)
    else:
        loader = ordered_loader(CenterCroppedDataset(dataset, CenterCrop(CONFIG)), 2, workers)
    with pytest.raises(UserError) as caught:
        list(batches(loader))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    del caught  # as in `test_loading.py`
