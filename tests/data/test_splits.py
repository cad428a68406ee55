import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dlaseg_testing import tiny_config, write_camvid
from PIL import Image

from dlaseg.config.segmentation import DataConfig
from dlaseg.data.check.splits import frames_on_both_sides
from dlaseg.data.datasets import open_dataset
from dlaseg.data.pairs import Pair, SegmentationDataset
from dlaseg.data.sets.camvid import camvid_labels
from dlaseg.data.splits import check_no_common_image, check_no_copies, divide
from dlaseg.errors import UserError
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.segmentation import Segmentation

pytestmark = pytest.mark.usefixtures("tiny_variant")


def pool(count: int, prefix: str = "") -> SegmentationDataset:
    pairs = tuple(Pair(f"{prefix}{i:03}", Path(f"{i:03}.png")) for i in range(count))
    return SegmentationDataset("folder", "all", pairs, camvid_labels())


def names(dataset: SegmentationDataset) -> list[str]:
    return [pair.name for pair in dataset.pairs]


@pytest.mark.parametrize(
    ("count", "share", "validated"),
    [(100, 0.1, 10), (100, 0.999, 99), (100, 0.001, 1), (2, 0.1, 1), (2, 0.9, 1), (7, 0.5, 4), (10, 0.26, 3)],
)
def test_the_share_is_rounded_to_images_and_leaves_one_at_least_on_each_side(count, share, validated):
    training, validation = divide(pool(count), share, 0)
    assert (len(training), len(validation)) == (count - validated, validated)
    assert sorted(names(training) + names(validation)) == names(pool(count))
    assert (names(training), names(validation)) == (sorted(names(training)), sorted(names(validation)))
    assert (training.split, validation.split) == ("all-train", "all-val")


def test_a_division_is_the_same_at_any_time_and_on_any_machine():
    assert names(divide(pool(10), 0.3, 0)[1]) == ["001", "003", "009"]  # sha256sum says so
    assert names(divide(pool(10), 0.3, 1)[1]) == ["003", "008", "009"]


def test_every_image_is_drawn_by_some_seed():
    drawn = [name for seed in range(60) for name in names(divide(pool(10), 0.3, seed)[1])]
    counts = [drawn.count(name) for name in names(pool(10))]
    assert min(counts) > 6
    assert max(counts) < 32


def test_images_that_come_later_leave_most_of_the_division_as_it_was():
    before, after = (set(names(divide(pool(count), 0.2, 0)[1])) for count in (100, 105))
    assert len(before & after) >= 17


def test_a_division_that_was_drawn_is_kept_and_new_images_are_trained_on():
    validated = names(divide(pool(20), 0.25, 3)[1])
    smaller = pool(30)
    smaller = SegmentationDataset("folder", "all", smaller.pairs[5:], camvid_labels())
    training, validation = divide(smaller, 0.25, 3, validated)
    assert set(names(validation)) == set(validated) & set(names(smaller))
    assert {f"{i:03}" for i in range(20, 30)} <= set(names(training))


@pytest.mark.parametrize(
    ("count", "kept", "message"),
    [
        (1, None, r"data\.val_share 0\.5: there is only 1 image to divide"),
        (4, ["x", "y"], r"^none of the 2 validation images \(x, y\) exists any more: restore them, or start a new"),
        (
            2,
            ["000", "001", "z"],
            r"^no training image exists any more: all 2 images \(000, 001\) are validation images: ",
        ),
    ],
)
def test_a_side_without_images_is_refused(count, kept, message):
    with pytest.raises(UserError, match=message):
        divide(pool(count), 0.5, 0, kept)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match=rf"^data\.val_share {share}: use a number above 0 and below 1, such as 0\.1"):
        DataConfig(val_share=share)


def test_a_share_and_a_list_of_validation_images_exclude_each_other():
    with pytest.raises(UserError, match=r"^data\.val_share 0\.1 and data\.val_list few\.txt: .* set only one"):
        DataConfig(val_share=0.1, val_list="few.txt")
    DataConfig(val_share=0.1, train_list="few.txt")


# Of a task


@pytest.fixture
def config(tmp_path):
    """Ten images in a pool."""
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(10):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}]")
    config = tiny_config(tmp_path)
    config.data.dataset, config.data.images, config.data.labels = "folder", "photos/{name}.png", "masks"
    return config


def test_a_task_divides_a_pool_whatever_order_its_files_have(config, tmp_path, monkeypatch):
    config.data.val_share = 0.3
    one = Segmentation(config).open_splits()
    assert [len(split) for split in one] == [7, 3]
    monkeypatch.setattr("dlaseg.data.patterns.sorted", lambda entries, key: list(entries)[::-1], raising=False)
    assert Segmentation(config).open_splits() == one


def test_a_share_of_a_list_is_drawn_from_the_list(config, tmp_path):
    (tmp_path / "few.txt").write_text("1\n2\n3\n4\n")
    config.data.val_share, config.data.train_list = 0.5, str(tmp_path / "few.txt")
    training, validation = Segmentation(config).open_splits()
    assert sorted(names(training) + names(validation)) == ["1", "2", "3", "4"]
    assert [len(training), len(validation)] == [2, 2]


def test_a_share_of_a_split_leaves_the_split_val_alone(tmp_path):
    config = tiny_config(write_camvid(tmp_path, train=4, val=0))
    assert refused(config).endswith("; --data.val_share 0.1 draws validation images from the others")
    config.data.val_share = 0.25
    training, validation = Segmentation(config).open_splits()
    assert [len(training), len(validation), validation.split] == [3, 1, "train-val"]
    assert validation.pairs[0].image.parent == tmp_path / "train"


def refused(config) -> str:
    with pytest.raises(UserError) as caught:
        Segmentation(config).open_splits()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pool_without_a_division_is_refused(config, tmp_path):
    message = refused(config)
    assert message.startswith(
        f"{tmp_path / 'photos/0.png'}: in the training and in the validation split (10 in all: 0, "
    )
    assert message.endswith("divide the images by data.val_share 0.1 or by lists, data.train_list and data.val_list")


def test_an_image_in_both_lists_is_refused_by_its_name(config, tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\n3\n4\n")
    (tmp_path / "b.txt").write_text("5\n4\n3\n")
    config.data.train_list, config.data.val_list = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    assert "photos/3.png: in the training and in the validation split (2 in all: 3, 4): " in refused(config)
    (tmp_path / "b.txt").write_text("5\n")
    assert [names(split) for split in Segmentation(config).open_splits()] == [["1", "2", "3", "4"], ["5"]]


def test_an_image_that_both_splits_link_to_is_refused(tmp_path):
    root = write_camvid(tmp_path, train=3, val=2)
    (root / "val/1.png").unlink()
    (root / "val/1.png").symlink_to(root / "train/2.png")
    training, validation = (open_dataset("camvid", root, split) for split in ("train", "val"))
    with pytest.raises(UserError, match=r"val/1\.png: in the training and in the validation split \(1 in all: 1\)"):
        check_no_common_image(training, validation)


def test_images_of_the_same_name_in_two_splits_are_two_images(tmp_path, caplog):
    root = write_camvid(tmp_path, train=3, val=2)
    for check in (check_no_common_image, check_no_copies):
        check(*(open_dataset("camvid", root, split) for split in ("train", "val")))
    assert caplog.messages == []


def with_copies(tmp_path, images: int):
    """Splits of 20 and 20 images, the first of which are copies of the first training image."""
    root = write_camvid(tmp_path, train=20, val=20)
    splits = [open_dataset("camvid", root, split) for split in ("train", "val")]
    content = splits[0].pairs[0].image.read_bytes()
    other = splits[0].pairs[1].image  # of that size, and begins alike
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for pair in splits[1].pairs[:images]:
        pair.image.write_bytes(content)
    return splits


def test_copies_of_training_images_are_told(tmp_path, caplog):
    training, validation = with_copies(tmp_path, images=2)
    check_no_copies(training, validation)
    (message,) = caplog.messages
    first, same = validation.pairs[0].image, training.pairs[0].image
    assert message.startswith(f"{first}: a copy of the training image {same} (2 of 20 validation images are copies: ")


def test_an_image_that_cannot_be_read_is_for_others_to_report(tmp_path, caplog):
    training, validation = with_copies(tmp_path, images=2)
    for pair in (training.pairs[5], validation.pairs[5]):
        pair.image.unlink()
        pair.image.symlink_to("nowhere")
    check_no_copies(training, validation)
    assert "(2 of 20 validation images are copies: " in caplog.text


def test_a_validation_split_of_copies_is_refused_before_training(config, tmp_path):
    with pytest.raises(UserError, match=r"\(3 of 20 validation images are copies: .*: remove them from one split"):
        check_no_copies(*with_copies(tmp_path, images=3))
    config.data.val_share = 0.3  # the images of this pool are all black
    task = Segmentation(config)
    with pytest.raises(UserError, match="3 of 3 validation images are copies"):
        task.check_data(*task.open_splits(), tmp_path, DistributedContext(0, 1, None))


def test_files_of_one_size_and_time_that_begin_alike_are_no_copies(tmp_path, caplog):
    splits = with_copies(tmp_path, images=0)
    for split, end in zip(splits, b"ab", strict=True):
        file = split.pairs[0].image
        file.write_bytes(bytes(5000) + bytes([end]))
        os.utime(file, ns=(1, 1))
    check_no_copies(*splits)
    assert caplog.messages == []


def picture(seed: float) -> Image.Image:
    """Blurred noise; that of numbers that are close looks alike."""
    below, above = (np.random.default_rng(int(seed) + i).uniform(0, 255, (9, 9, 3)) for i in (0, 1))
    share = seed - int(seed)
    return Image.fromarray(((1 - share) * below + share * above).astype(np.uint8)).resize((96, 96), Image.BICUBIC)


def frames(folder: Path, count: int, step: float, name: str = "clip_{}.png") -> SegmentationDataset:
    folder.mkdir()
    pairs = []
    for i in range(count):
        picture(7 + step * i).save(folder / name.format(i))
        pairs.append(Pair(name.format(i).partition(".")[0], folder / name.format(i)))
    return SegmentationDataset("folder", "all", tuple(pairs), camvid_labels())


@pytest.mark.parametrize(
    ("step", "name", "alike"),
    [(0.05, "clip_{}.png", True), (0.05, "{}.png", True), (1.0, "clip_{}.png", False), (0.05, "{}_clip.png", False)],
)
def test_a_drawn_split_of_frames_that_look_like_those_of_the_training_is_known(tmp_path, step, name, alike):
    if name == "{}_clip.png":  # no sequence: each image has a name of its own before its last number
        name = "{}_clip_0.png"
    training, validation = divide(frames(tmp_path / "a", 120, step, name), 0.2, 0)
    found = frames_on_both_sides(training, validation)
    assert (found is not None) is alike
    if found is not None:
        assert found[0] in [pair.image for pair in validation.pairs]
        assert found[1] in [pair.image for pair in training.pairs]
        numbers = [int(path.stem.rpartition("_")[2]) for path in found]
        ours = [int(pair.name.rpartition("_")[2]) for pair in training.pairs]
        assert numbers[1] == min(ours, key=lambda number: abs(number - numbers[0]))


def test_images_that_cannot_be_read_and_very_few_say_nothing_of_sequences(tmp_path):
    training, validation = divide(frames(tmp_path / "a", 60, 0.05), 0.2, 0)
    assert frames_on_both_sides(training, validation) is not None
    for pair in validation.pairs[::4]:  # of those that are read, every other one
        pair.image.write_bytes(b"x")
    assert frames_on_both_sides(training, validation) is not None
    assert frames_on_both_sides(training, replace(validation, pairs=validation.pairs[1:5:2])) is None
    for pair in validation.pairs:
        pair.image.write_bytes(b"x")
    assert frames_on_both_sides(training, validation) is None


def test_training_on_a_drawn_split_of_frames_tells(tmp_path, caplog):
    config = tiny_config(write_camvid(tmp_path / "data", train=60))
    images = sorted((tmp_path / "data" / "train").glob("*.png"))
    for number, image in enumerate(images):
        with Image.open(image) as old:
            size = old.size
        picture(7 + 0.05 * number).resize(size).save(image)
    for share, told in ((None, False), (0.2, True)):
        caplog.clear()
        task = Segmentation(replace(config, data=replace(config.data, val_share=share)))
        task.check_data(*task.open_splits(), tmp_path, DistributedContext(0, 1, None))
        assert ("data.val_share 0.2 draws neighbours of a sequence for both splits" in caplog.text) is told
