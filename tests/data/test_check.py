"""`dlaseg data check`: every planted fault is found, and nothing on a clean data set."""

import hashlib
import json
import re
import shutil
import unicodedata
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.check.check import check_dataset
from dlaseg.data.check.new_classes import new_classes
from dlaseg.data.datasets import open_dataset
from dlaseg.data.statistics import SAMPLED_SIZES, median_frequency, median_short_side, statistics
from dlaseg.errors import UserError
from dlaseg.evaluation.report.check_page import write_check_page

CLASSES = """classes:
  - {name: sky, id: 0, color: [0, 0, 200]}
  - {name: road, id: 10, color: [90, 90, 90]}
  - {name: car, id: 20, color: [200, 0, 0]}
ignore: [255]
"""


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A blurred random image, (48, 64, 3), and ids in three bands with a few ignored pixels."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((48, 64), np.uint8)
    labels[16 + seed % 7 :] = 10
    labels[32 + seed % 5 :, 8 : 40 + seed % 9] = 20
    labels[0, :2] = 255
    return image, labels


def save(root: Path, split: str, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for folder, pixels in (("images", image), ("labels", labels)):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / split / name)


@pytest.fixture
def root(tmp_path):
    """A clean data set: names that are no sequence, other images in each split."""
    root = tmp_path / "set"
    for split, first, names in (("train", 0, "abcdefgh"), ("val", 100, "uvwx")):
        for number, name in enumerate(names):
            save(root, split, f"{name}.png", *draw(first + number))
    (root / "classes.yaml").write_text(CLASSES)
    return root


def check(root: Path, **options):
    return check_dataset("folder", root, workers=0, **options)


def kinds(root: Path) -> dict[str, str]:
    return {each.kind: each.severity for each in check(root).findings}


def rewrite(path: Path, change) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def test_the_typical_short_side_is_the_median_of_images_that_can_be_read(root):
    folder = root / "images" / "train"
    dataset = open_dataset("folder", root, "train")
    for name, size in (("a", (20, 30)), ("b", (300, 70)), ("c", (90, 90))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / f"{name}.png")
    for name in "defg":
        (folder / f"{name}.png").write_bytes(b"x")
    assert median_short_side(dataset) == 48  # of 20, 48, 70 and 90
    (folder / "h.png").unlink()
    assert median_short_side(dataset) == 70
    many = replace(dataset, pairs=(*dataset.pairs[2:3] * SAMPLED_SIZES, *dataset.pairs[:1] * SAMPLED_SIZES * 3))
    assert median_short_side(many) == 20
    assert median_short_side(replace(dataset, pairs=dataset.pairs[3:7])) is None
    assert median_short_side(replace(dataset, pairs=())) is None


def test_a_clean_data_set_has_no_finding(root):
    result = check(root)
    assert result.findings == ()
    assert result.errors == 0
    assert "0 errors, 0 warnings in 12 images" in result.summary()


# Each fault: what plants it, and the finding with its severity


def no_label(root):
    (root / "labels/train/c.png").unlink()


def no_image(root):
    (root / "images/val/w.png").unlink()


def other_case(root):
    (root / "labels/train/c.png").rename(root / "labels/train/C.png")


def same_but_for_case(root):
    save(root, "train", "A.png", *draw(50))


def truncated_image(root):
    file = root / "images/train/b.png"
    file.write_bytes(file.read_bytes()[:-200])


def empty_label(root):
    (root / "labels/train/b.png").write_bytes(b"")


def jpeg_label(root):
    Image.open(root / "labels/train/b.png").save(root / "labels/train/b.png", "JPEG")


def wrong_suffix(root):
    (root / "images/train/b.png").rename(root / "images/train/b.bmp")


def dark_image(root):
    path = root / "images/train/b.png"
    grey = np.array(Image.open(path).convert("L")).astype(np.uint16)
    Image.fromarray(grey << 4).save(path)  # 12 bits of 16


def turned_image(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(root / "images/train/b.png") as picture:
        picture.save(root / "images/train/b.png", exif=exif)


def unknown_value(root):
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 20, 7, labels).astype(np.uint8))


def unknown_color(root):
    colors = {0: (0, 0, 200), 10: (90, 90, 90), 20: (1, 2, 3), 255: (90, 90, 90)}
    rewrite(
        root / "labels/train/b.png", lambda labels: np.array([[colors[i] for i in row] for row in labels], np.uint8)
    )


def interpolated(root):
    rewrite(root / "labels/train/b.png", lambda labels: cv2.blur(labels, (3, 3)))


def shifted(root):
    (root / "classes.yaml").write_text("classes: [sky, road, car]\n")
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: (np.where(labels == 255, 0, labels) // 10 + 1).astype(np.uint8))


def other_size(root):
    rewrite(root / "images/train/b.png", lambda image: image[:-1])


def palette(root):
    file = root / "labels/train/b.png"
    indices = np.array(Image.open(file))
    indices[indices == 255] = 0
    picture = Image.fromarray(indices).convert("P")
    colors = np.zeros((256, 3), np.uint8)
    colors[[0, 10, 20]] = (90, 90, 90), (0, 0, 200), (200, 0, 0)  # sky's and road's exchanged
    picture.putpalette(colors.tobytes())
    picture.save(file)


def all_ignored(root):
    rewrite(root / "labels/train/b.png", lambda labels: np.full_like(labels, 255))


def binary(root):
    (root / "classes.yaml").write_text("classes: [background, leaf]\n")
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.where(labels == 20, 255, 0).astype(np.uint8))


def binary_among_ids(root):
    for file in (root / "labels/train").iterdir():
        rewrite(file, lambda labels: np.where(labels == 255, 0, labels).astype(np.uint8))
    empty_but_for_void(root)


def empty_but_for_void(root):
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 20, 255, 0).astype(np.uint8))


def missing_class(root):
    for file in (root / "labels/val").iterdir():
        rewrite(file, lambda labels: np.where(labels == 20, 10, labels).astype(np.uint8))


def same_image(root):
    shutil.copy(root / "images/train/b.png", root / "images/val/w.png")


def copy_in_a_split(root):
    for folder in ("images", "labels"):
        shutil.copy(root / folder / "train/b.png", root / folder / "train/z.png")


def near_image(root):
    picture = Image.open(root / "images/train/b.png")
    picture.save(root / "images/val/w.jpg", quality=60)
    (root / "images/val/w.png").unlink()


def sequences(root):
    for split, numbers in (("train", (1, 2, 3, 7, 8)), ("val", (5, 6))):
        for number in numbers:
            save(root, split, f"berlin_{number:03}.png", *draw(200 + number))
            save(root, split, f"{'paris' if split == 'train' else 'rome'}_{number:03}.png", *draw(300 + number))


def two_of_a_name(root):
    Image.open(root / "images/train/b.png").save(root / "images/train/b.bmp")


FAULTS = {
    no_label: {"image_without_label": "error"},
    no_image: {"label_without_image": "error"},
    other_case: {"image_without_label": "error", "label_without_image": "error"},
    same_but_for_case: {"same_but_for_case": "warning"},
    truncated_image: {"unreadable_image": "error"},
    empty_label: {"unreadable_label": "error"},
    jpeg_label: {"unreadable_label": "error"},
    wrong_suffix: {"wrong_suffix": "warning"},
    dark_image: {"dark_image": "warning"},
    turned_image: {"turned_image": "warning"},
    unknown_value: {"unknown_values": "error"},
    unknown_color: {"unknown_values": "error"},
    interpolated: {"interpolated": "error"},
    shifted: {"shifted": "error"},
    other_size: {"sizes": "error"},
    palette: {"misread": "error"},
    all_ignored: {"all_ignored": "warning"},
    binary: {"ignored_by_default": "error"},
    binary_among_ids: {"binary_masks": "warning"},
    empty_but_for_void: {},  # the other label maps have void pixels, too
    missing_class: {"missing_class": "warning"},
    same_image: {"same_image": "error"},
    copy_in_a_split: {"copies": "warning"},
    near_image: {"near_image": "warning"},
    sequences: {"same_sequence": "warning"},
    two_of_a_name: {"same_name": "error"},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_found_and_nothing_else(root, fault):
    fault(root)
    assert kinds(root) == FAULTS[fault]


def test_all_faults_at_once_are_found(root):
    together = [
        no_label,
        no_image,
        truncated_image,
        empty_label,
        unknown_value,
        missing_class,
        same_but_for_case,
        two_of_a_name,
    ]
    for number, fault in enumerate((other_size, all_ignored, wrong_suffix)):
        save(root, "train", "b.png", *draw(400 + number))
        fault(root)
        for folder in ("images", "labels"):
            file = next((root / folder / "train").glob("b.*"))
            file.rename(file.with_stem(f"other{chr(97 + number)}"))
    save(root, "train", "b.png", *draw(1))
    for fault in together:
        fault(root)
        if fault in (truncated_image, empty_label):
            for folder in ("images", "labels"):
                (root / folder / "train/b.png").rename(root / folder / f"train/{fault.__name__}.png")
            save(root, "train", "b.png", *draw(1))
    expected = {}
    for fault in (*together, other_size, all_ignored, wrong_suffix):
        expected |= FAULTS[fault]
    assert kinds(root) == expected


def finding(root: Path, fault):
    """The first finding, that of the training split."""
    fault(root)
    return check(root).findings[0]


def test_a_colon_in_the_name_of_a_class_or_folder_divides_no_message(root):
    (root / "classes.yaml").write_text(CLASSES.replace("name: car", 'name: "car: parked"'))
    missing_class(root)
    (found,) = check(root.rename(root.with_name("a: set"))).findings
    assert found.message == "class 'car: parked' (id 20) has no pixel"
    assert found.remedy == "add images that show them, or leave them out of the classes and list the ids of the others"


def test_control_characters_in_names_of_files_are_escaped(root):
    root = root.rename(root.with_name("a\x1bset"))
    no_label(root)
    for name in "ab":
        (root / f"images/train/{name}.png").write_bytes(b"no image")
    result = check(root)
    assert [(each.message, each.count) for each in result.findings] == [
        ("image without a label map", 1),
        ("broken or not an image", 2),
    ]
    assert "\x1b" not in result.summary()
    write_check_page(root / "page.html", result, "set")
    page = (root / "page.html").read_text(encoding="utf-8")
    assert (page.count("<img "), page.count("cannot be shown")) == (1, 2)


def test_a_missing_class_is_found_beside_a_missing_label_map(root):
    missing_class(root)
    (root / "labels/val/w.png").unlink()
    assert kinds(root) == FAULTS[missing_class] | FAULTS[no_label]


def test_messages_name_values_files_and_what_to_write(root, tmp_path):
    found = finding(root, unknown_value)
    assert found.message.startswith("values that belong to no class and are not ignored: 7 (")
    assert found.remedy == "in the classes file, {name: NAME, id: 7} if it is a class, or ignore: [7] if it is void"
    assert found.files == (str(root / "labels/train/b.png"),)
    summary = check(root).summary()
    assert f"error: train: {found.message}\n    {found.files[0]}\n    -> {found.remedy}\n" in summary


def test_the_line_for_binary_masks_mends_them(root):
    found = finding(root, binary)
    assert '{name: "leaf", id: 255}' in found.remedy
    (root / "classes.yaml").write_text('classes: [background, {name: "leaf", id: 255}]\n')
    assert check(root).findings == ()


def test_sign_and_remedy_of_masks_among_ids_are_told_apart(root):
    (root / "classes.yaml").write_text(CLASSES.replace("name: sky", 'name: "sky: all"'))
    found = finding(root, binary_among_ids)
    assert found.message.startswith("some label maps hold 'sky: all' and 255 alone, while ")
    assert found.remedy == "if 255 is a class in these, store its id instead: 255 is ignored"


def test_the_line_for_shifted_ids_mends_them(root):
    found = finding(root, shifted)
    assert found.remedy.startswith("in the classes file: classes: [")
    (root / "classes.yaml").write_text(found.remedy.removeprefix("in the classes file: ") + "\n")
    assert check(root).findings == ()


def test_a_name_in_other_case_is_to_be_renamed(root):
    other_case(root)
    assert {each.remedy for each in check(root).findings} == {
        "rename it: C.png differs in upper and lower case alone",
        "rename it: c.png differs in upper and lower case alone",
    }


def test_a_name_whose_accents_are_stored_otherwise_is_to_be_renamed(root):
    save(root, "train", unicodedata.normalize("NFC", "Blätter.png"), *draw(50))
    label = root / "labels/train" / unicodedata.normalize("NFC", "Blätter.png")
    label.rename(label.with_name(unicodedata.normalize("NFD", label.name)))
    found = check(root).findings
    assert {each.kind for each in found} == {"image_without_label", "label_without_image"}
    assert all(
        each.remedy.endswith("differs in how its accents are stored (Unicode NFC or NFD) alone") for each in found
    )


def test_the_line_for_shifted_ids_keeps_all_ids_and_colours(root):
    (root / "classes.yaml").write_text(CLASSES.replace("id: 10", "id: [1, 2]").replace("id: 20", "id: 3"))
    values = np.zeros(256, np.uint8)
    values[[0, 10, 20, 255]] = 1, 2, 4, 255
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: values[labels])
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 2, 3, labels).astype(np.uint8))
    (found,) = [each for each in check(root).findings if each.split == "train"]
    assert found.kind == "shifted"
    text = found.remedy.removeprefix("in the classes file: ")
    (root / "classes.yaml").write_text(text + "\n")
    assert '"id": [2, 3], "color": [90, 90, 90]' in text
    assert check(root).findings == ()


def test_a_palette_whose_colours_are_all_listed_is_to_be_saved_as_rgb(root):
    colors = {0: (0, 0, 200), 10: (90, 90, 90), 20: (200, 0, 0), 255: (1, 1, 1)}
    (root / "classes.yaml").write_text(CLASSES.replace("[255]", "[255, [1, 1, 1]]"))
    for file in (root / "labels").rglob("*.png"):
        pixels = np.array([[colors[i] for i in row] for row in np.array(Image.open(file))], np.uint8)
        Image.fromarray(pixels).quantize(4).save(file)
    found = check(root).findings
    assert {each.remedy for each in found if each.kind == "unknown_values"} == {"save the label maps as RGB"}
    for file in (root / "labels").rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    assert check(root).findings == ()


def test_a_fault_of_the_classes_is_said_as_training_says_it(root):
    (root / "classes.yaml").write_text(CLASSES.replace("[200, 0, 0]", "[90, 90, 90]"))
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.where((labels % 255)[..., None], (90, 90, 90), (0, 0, 200)).astype(np.uint8))
    found = next(each for each in check(root).findings if each.kind == "misread")
    assert found.message == "color (90, 90, 90) is class 'road' and also class 'car' in the classes"
    assert found.remedy == "the label maps are stored as colors, so list each color once"


def test_palettes_that_differ_at_other_pixels_are_one_finding(root):
    palette(root)
    with Image.open(root / "labels/train/b.png") as picture:
        picture.rotate(180).save(root / "labels/train/c.png")
    (found,) = check(root).findings
    assert (found.kind, found.count) == ("misread", 2)
    assert found.message.startswith("row 0, column 0: palette index 0 is class 'sky' as an id")


def test_soft_edges_are_found_whatever_the_ids(root):
    (root / "classes.yaml").write_text("classes: [sky, road, car]")
    values = np.zeros(256, np.uint8)
    values[[0, 10, 20, 255]] = 0, 1, 2, 255
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: values[labels])
    for name in "abc":
        rewrite(
            root / f"labels/train/{name}.png",
            lambda labels: cv2.blur(cv2.circle(np.ascontiguousarray(labels), (30, 20), 12, 255, -1), (3, 3)),
        )
    assert kinds(root)["interpolated"] == "error"
    assert "unknown_values" not in kinds(root)


def test_classes_of_one_color_are_found(root):
    (root / "classes.yaml").write_text(CLASSES.replace("[200, 0, 0]", "[90, 90, 90]"))
    assert kinds(root) == {"same_color": "warning"}


def test_files_that_are_left_out_and_lossy_label_maps_are_named(root):
    shutil.copy(root / "images/train/b.png", root / "images/train/z.heic")
    Image.open(root / "labels/train/b.png").save(root / "labels/train/b.jpg")
    (root / "labels/train/b.png").unlink()
    assert kinds(root) == {"unread_format": "warning", "lossy_label": "error"}


def test_of_joined_splits_the_files_of_the_second_are_named_as_of_the_first(root):
    shutil.copy(root / "images/val/u.png", root / "images/val/z.heic")
    Image.open(root / "labels/val/u.png").save(root / "labels/val/u.jpg")
    (root / "labels/val/u.png").unlink()
    (root / "labels/val/v.png").unlink()
    (root / "images/val/w.png").unlink()
    found = {each.kind: each for each in check(root, splits=["train+val"]).findings}
    assert found["unread_format"].files == (f"{root}/images/val/z.heic",)
    assert found["lossy_label"].files == (f"{root}/labels/val/u.jpg",)
    assert f"such as {root}/labels/val/v.png, or" in found["image_without_label"].remedy
    assert f"such as {root}/images/val/w.png, or" in found["label_without_image"].remedy
    assert len(found) == 4


def test_webp_that_is_called_jpeg_is_found(root):
    shutil.copy(root / "images/train/b.png", root / "b.png")
    Image.open(root / "b.png").save(root / "images/train/b.jpg", "WEBP", lossless=True)
    (root / "images/train/b.png").unlink()
    (found,) = check(root).findings
    assert found.kind == "wrong_suffix"
    assert found.message.startswith("the content is WebP")


def only_sky(root, split):
    for file in (root / "labels" / split).iterdir():
        rewrite(file, np.zeros_like)


def test_one_class_is_enough_in_a_split_that_is_not_trained_on(root):
    only_sky(root, "val")
    (found,) = check(root).findings
    assert (found.kind, found.severity, found.split) == ("missing_class", "warning", "val")
    only_sky(root, "train")
    assert [each.kind for each in check(root).findings] == ["too_few_classes"] * 2
    assert check(root).errors == 2
    (root / "labels/val/u.png").unlink()
    assert [each.kind for each in check(root).findings] == ["image_without_label", *["too_few_classes"] * 2]


def test_a_benchmarks_split_without_annotations_is_no_error(tmp_path):
    assert (
        main(["data", "synthesize", str(tmp_path), "--train", "1", "--val", "0", "--test", "2", "--size", "64", "64"])
        == 0
    )
    for file in (tmp_path / "gtFine/test").rglob("*_labelIds.png"):
        rewrite(file, np.zeros_like)
    found = check_dataset("cityscapes", tmp_path, ["test"], workers=0)
    assert found.errors == 0
    assert {each.kind for each in found.findings} == {"all_ignored", "missing_class"}


def test_val_may_be_missing_and_may_not_if_it_is_asked_for(root, capsys):
    for folder in ("images", "labels"):
        shutil.rmtree(root / folder / "val")
    (found,) = check(root).findings
    assert (found.kind, found.severity, found.split) == ("layout", "warning", "val")
    assert found.message == f"{root}/images/val: no such folder"
    assert "--data.val_share 0.1" in found.remedy
    words = ["data", "stats", str(root), "--dataset", "folder"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "train" in captured.out
    assert f"split val left out: {root}/images/val: no such folder" in captured.err
    assert main([*words, "--splits", "train", "val"]) == 2
    assert check(root, splits=["train", "val"]).errors == 1
    (root / "classes.yaml").unlink()
    assert "class 20" in write_classes(root, root / "classes.yaml")


def test_splits_are_joined_and_a_pool_has_none(root):
    assert [sum(each.groups.values()) for each in check(root, splits=["train+val"]).splits] == [12]
    for splits in (["train"], "train"):
        with pytest.raises(UserError, match=r"--splits train: there is no {split} in --images"):
            check(root, splits=splits, images="images", labels="labels")
    with pytest.raises(UserError, match=r"--splits train: there is no {split} in --images"):
        new_classes(root, ["train"], "images", "labels")


def test_all_sequences_of_two_splits_are_one_finding(root):
    for split, numbers in (("train", (1, 2, 3, 7)), ("val", (5, 6))):
        for number in numbers:
            save(root, split, f"berlin_{number}.png", *draw(200 + number))
            save(root, split, f"rome_{number}.png", *draw(300 + number))
    (found,) = check(root).findings
    assert found.count == 4
    assert found.message.startswith("the sequences 'berlin_' and 1 more are in both: 8 images in train, 4 in val, ")


def test_names_that_all_begin_alike_are_no_sequence(root):
    for split, numbers in (("train", range(6)), ("val", range(6, 9))):
        shutil.rmtree(root / "images" / split)
        shutil.rmtree(root / "labels" / split)
        for number in numbers:
            save(root, split, f"IMG_{number}.png", *draw(500 + number))
    assert check(root).findings == ()
    rng = np.random.default_rng(0)
    panorama = cv2.resize(rng.integers(0, 256, (6, 40, 3), np.uint8), (320, 48), interpolation=cv2.INTER_CUBIC)
    for number in range(40):  # a camera that turns: neighbours look alike, others do not
        image = panorama[:, 3 * number : 3 * number + 64]
        save(root, "val" if number % 2 else "train", f"IMG_{number}.png", image, draw(number)[1])
    assert "same_sequence" in {each.kind for each in check(root).findings}


def test_images_named_by_bare_numbers_are_a_sequence_only_if_they_look_like_one(root):
    for split, numbers in (("train", range(1, 8)), ("val", range(8, 12))):
        for number in numbers:
            save(root, split, f"{number:04}.png", *draw(700 + number))
            save(root, split, f"{split}_{number}.png", *draw(800 + number))
    assert check(root).findings == ()
    rng = np.random.default_rng(0)
    panorama = cv2.resize(rng.integers(0, 256, (6, 40, 3), np.uint8), (320, 48), interpolation=cv2.INTER_CUBIC)
    for number in range(40):
        image = panorama[:, 3 * number : 3 * number + 64]
        save(root, "val" if number % 2 else "train", f"1{number:03}.png", image, draw(number)[1])
    (found,) = (each for each in check(root).findings if each.kind == "same_sequence")
    assert found.message.startswith("the images that are named by numbers are in both: 27 images in train, 24 in val, ")
    for number in range(40):
        image = panorama[:, 3 * number : 3 * number + 64]
        save(root, "val" if number % 2 else "train", f"a_{number}.png", image, draw(number)[1])
    (found,) = (each for each in check(root).findings if each.kind == "same_sequence")
    assert found.message.startswith("the sequences 'a_' and 1 more are in both: ")


def test_the_numbers_are_those_of_independent_counts(root):
    result = check(root)
    splits = [open_dataset("folder", root, split) for split in ("train", "val")]
    assert list(result.splits) == [statistics(split) for split in splits]
    pixels = np.concatenate([split.read(i)[0].reshape(-1, 3) for split in splits for i in range(len(split))]) / 255
    np.testing.assert_allclose(result.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(result.std, pixels.std(0), rtol=1e-6)
    np.testing.assert_allclose(result.weights, median_frequency(result.splits[0]), rtol=1e-3)


def test_two_processes_find_what_one_finds_and_nothing_changes(root):
    for fault in (unknown_value, no_label, missing_class):
        fault(root)
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in root.rglob("*") if file.is_file()}
    one, two = check(root), check_dataset("folder", root, workers=2)
    assert (one.findings, one.splits, one.mean) == (two.findings, two.splits, two.mean)
    after = {file: hashlib.sha256(file.read_bytes()).digest() for file in root.rglob("*") if file.is_file()}
    assert after == before


def test_the_command_prints_writes_json_and_ends_with_1_for_an_error(root, tmp_path, capsys):
    words = ["data", "check", "--dataset", "folder", str(root), "--workers", "0", "--json", str(tmp_path / "c.json")]
    assert main(words) == 0
    assert json.loads((tmp_path / "c.json").read_text())["findings"] == []
    no_label(root)
    missing_class(root)
    assert main(words) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[-1].startswith("1 error, 1 warning in 12 images")
    content = json.loads((tmp_path / "c.json").read_text())
    assert [each["severity"] for each in content["findings"]] == ["error", "warning"]
    assert content["splits"]["train"]["classes"]["car"]["images"] == 7
    assert (content["splits"]["train"]["sizes"], content["splits"]["train"]["ignored"]) == ([[48, 64, 7]], 14)
    assert (content["errors"], content["warnings"]) == (1, 1)
    mean, std = (", ".join(f"{value:.4f}" for value in content[key]) for key in ("mean", "std"))
    assert f"channels: mean {mean}; standard deviation {std}\n" in output
    assert content["median_frequency_weights"].keys() == {"sky", "road", "car"}


def test_a_split_that_cannot_be_opened_hides_no_other(root):
    shutil.rmtree(root / "labels/val")
    found = check(root).findings
    assert [(each.kind, each.split) for each in found] == [("layout", "val")]
    shutil.rmtree(root / "labels/train")
    with pytest.raises(UserError, match="no such folder"):
        check(root)


def test_wrong_use_is_one_line(tmp_path, capsys):
    assert main(["data", "check", "--dataset", "folder", str(tmp_path / "none")]) == 2
    assert main(["data", "check", "--dataset", "camvid", str(tmp_path), "--classes", "x.yaml"]) == 2
    assert main(["data", "check", "--dataset", "camvid", str(tmp_path), "--html", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "a folder has this name" in errors[2]


def test_camvid_with_val_inside_a_drive_of_train(tmp_path):
    for split, names in (("train", [f"0016E5_{i:05}" for i in range(0, 40, 5)] + [f"0001TP_{i:05}" for i in range(6)]),
                         ("val", [f"0016E5_{i:05}" for i in range(12, 30, 5)])):  # fmt: skip
        for number, name in enumerate(names):
            image, labels = draw(700 + 50 * (split == "val") + number)
            for folder, pixels in ((split, image), (f"{split}annot", np.where(labels == 255, 11, labels // 10))):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    found = [each for each in check_dataset("camvid", tmp_path, workers=0).findings if each.kind != "missing_class"]
    assert [(each.kind, each.count) for each in found] == [("same_sequence", 4)]
    assert "the sequence '0016E5_' is in both: 8 images in train, 4 in val" in found[0].message


# The first classes file


def write_classes(root: Path, file: Path) -> str:
    assert main(["data", "check", "--dataset", "folder", str(root), "--write-classes", str(file)]) == 0
    return file.read_text(encoding="utf-8")


def test_a_classes_file_is_made_of_the_ids_and_checks_without_a_finding(root, tmp_path):
    (root / "classes.yaml").unlink()
    text = write_classes(root, root / "classes.yaml")
    lines = [line.split("#")[0].rstrip() for line in text.splitlines()[1:]]
    assert lines == [
        "classes:",
        '  - {name: "class 0", id: 0}',
        '  - {name: "class 10", id: 10}',
        '  - {name: "class 20", id: 20}',
        "ignore: [255]",
    ]
    labels = [np.array(Image.open(file)) for file in (root / "labels").rglob("*.png")]
    share = np.mean([(each == 20).mean() for each in labels])
    assert f"# {share:.2%} of the pixels" in text
    assert check(root).findings == ()


def test_255_is_a_class_in_masks_of_two_values(root):
    binary(root)
    (root / "classes.yaml").unlink()
    text = write_classes(root, root / "classes.yaml")
    assert '{name: "class 255", id: 255}' in text
    assert "ignore: []" in text
    assert check(root).findings == ()


def test_a_classes_file_is_made_of_colors(root):
    colors = {0: (0, 0, 200), 10: (90, 90, 90), 20: (200, 0, 0), 255: (0, 0, 0)}
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.array([[colors[i] for i in row] for row in labels], np.uint8))
    (root / "classes.yaml").unlink()
    assert '{name: "color 200, 0, 0", id: 3, color: [200, 0, 0]}' in write_classes(root, root / "classes.yaml")
    assert check(root).findings == ()


def save_palettes(root, *palettes):
    """Label maps with palettes in turns, and no classes file."""
    files = sorted((root / "labels").rglob("*.png"))
    for file, colors in zip(files, cycle(palettes), strict=False):
        picture = Image.fromarray(np.array(Image.open(file)))
        if colors is not None:
            picture.putpalette([value for i in range(256) for value in colors.get(i, (0, 0, 0))])
        picture.save(file)
    (root / "classes.yaml").unlink()


LEAF = {0: (10, 0, 200), 10: (90, 90, 9), 20: (200, 0, 0), 255: (224, 224, 192)}


def test_the_colors_of_a_palette_are_those_of_the_classes(root):
    save_palettes(root, LEAF, LEAF | {7: (1, 2, 3)})  # no label map has a 7
    lines = [line.split("  #")[0].strip() for line in write_classes(root, root / "classes.yaml").splitlines()[2:]]
    assert lines == [
        '- {name: "class 0", id: 0, color: [10, 0, 200]}',
        '- {name: "class 10", id: 10, color: [90, 90, 9]}',
        '- {name: "class 20", id: 20, color: [200, 0, 0]}',
        "ignore: [255]",
    ]
    assert check(root).findings == ()


@pytest.mark.parametrize(
    "palettes",
    [
        pytest.param([LEAF, LEAF | {20: (1, 2, 3)}], id="two palettes"),
        pytest.param([LEAF, None], id="one without"),
        pytest.param([LEAF | {20: LEAF[0]}], id="one color twice"),
        pytest.param([{i: (i, i, i) for i in range(256)}], id="grey as stored"),
    ],
)
def test_palettes_that_differ_or_tell_no_classes_apart_are_left_out(root, palettes):
    save_palettes(root, *palettes)
    assert "color: [" not in write_classes(root, root / "classes.yaml")


def test_a_grey_label_map_among_colours_is_colours_for_the_classes_file(root):
    colors = {0: (0, 0, 0), 10: (0, 200, 0), 20: (200, 0, 0), 255: (9, 9, 9)}
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.array([[colors[i] for i in row] for row in labels], np.uint8))
    rewrite(root / "labels/train/a.png", np.zeros_like)
    (root / "classes.yaml").unlink()
    text = write_classes(root, root / "classes.yaml")
    assert '{name: "color 0, 0, 0", id: 0, color: [0, 0, 0]}' in text
    assert check(root).findings == ()


def test_no_classes_file_is_made_of_photographs_of_both_kinds_or_over_another(root, tmp_path, capsys):
    words = ["data", "check", "--dataset", "folder", str(root), "--write-classes"]
    assert main([*words, str(root / "classes.yaml")]) == 2
    assert (root / "classes.yaml").read_text() == CLASSES
    rewrite(root / "labels/train/b.png", lambda labels: np.stack([labels, labels, 255 - labels], 2))
    assert main([*words, str(tmp_path / "new.yaml")]) == 2
    save(root, "train", "b.png", draw(1)[0], draw(1)[0])
    shutil.rmtree(root / "labels/val")
    shutil.copytree(root / "images/val", root / "labels/val")
    for file in (root / "labels/train").iterdir():
        shutil.copy(root / "images/train" / file.name, file)
    assert main([*words, str(tmp_path / "new.yaml")]) == 2
    assert main(["data", "check", "--dataset", "camvid", str(root), "--write-classes", str(tmp_path / "new.yaml")]) == 2
    errors = capsys.readouterr().err.splitlines()
    for error, part in zip(errors, ("exists already", "holds ids", "more than 256", "are fixed"), strict=True):
        assert part in error
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("option", ["--json", "--html", "--classes", "--workers"])
def test_what_only_the_check_takes_is_refused_where_a_classes_file_is_written(root, tmp_path, capsys, option):
    words = ["data", "check", "--dataset", "folder", str(root), "--write-classes", str(tmp_path / "new.yaml")]
    assert main([*words, option, "1"]) == 2
    assert f"{option}: --write-classes checks nothing" in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("option", ["--json", "--html", "--write-classes"])
def test_a_file_that_cannot_be_written_is_refused_before_the_data_set_is_read(tmp_path, capsys, option):
    (tmp_path / "file").touch()
    assert main(["data", "check", "--dataset", "folder", str(tmp_path / "none"), option, str(tmp_path / "file/x")]) == 2
    assert f"{tmp_path / 'file'}: cannot be a folder" in capsys.readouterr().err


def test_train_may_not_be_missing(root):
    for folder in ("images", "labels"):
        shutil.rmtree(root / folder / "train")
    (found,) = [each for each in check(root).findings if each.kind == "layout"]
    assert (found.severity, found.split) == ("error", "train")


def test_a_class_without_a_pixel_has_no_weight(root):
    for file in (root / "labels/train").iterdir():
        rewrite(file, lambda labels: np.where(labels == 20, 10, labels).astype(np.uint8))
    result = check(root)
    assert result.weights[2] is None
    assert result.to_dict()["median_frequency_weights"]["car"] is None
    assert any(line.endswith(", -") for line in result.summary().splitlines())


def test_all_files_of_a_finding_are_counted(root):
    for number in range(26):
        (root / f"images/train/no label {number}.png").touch()
    found = next(each for each in check(root).findings if each.kind == "image_without_label")
    assert (found.count, len(found.files)) == (26, 25)


def test_the_size_of_the_label_map_is_told_from_that_of_the_image(root):
    assert finding(root, other_size).message == "label map of 48 x 64, its image has 47 x 64"


def test_of_two_files_of_a_name_the_one_that_is_not_read_is_named(root):
    found = finding(root, two_of_a_name)
    assert found.message.endswith("such as b.bmp and b.png; here, the first is read")
    assert found.files == (str(root / "images/train/b.png"),)


@pytest.mark.parametrize("fault", [None, unknown_value])
def test_a_label_map_whose_suffix_is_another_formats_is_found(root, fault):
    if fault is not None:
        fault(root)
    (root / "labels/train/b.png").rename(root / "labels/train/b.tif")
    assert kinds(root) == FAULTS.get(fault, {}) | {"wrong_suffix": "warning"}


def test_of_many_unknown_values_those_of_the_most_pixels_are_named(root):
    values = np.arange(1000, 1000 + 48 * 64, dtype=np.uint16).reshape(48, 64)
    values[:, :10] = 300
    Image.fromarray(values).save(root / "labels/train/b.png")
    assert "not ignored: 300 (480 pixels); " in check(root).findings[0].message


def test_pixels_of_all_ids_of_a_class_are_counted_beside_unknown_values(root):
    (root / "classes.yaml").write_text(CLASSES.replace("id: 10", "id: [10, 11]"))
    before = check(root).splits

    def change(labels):
        labels[:, ::2][labels[:, ::2] == 10] = 11
        labels[-1] = 7
        return labels

    rewrite(root / "labels/train/b.png", change)
    assert sum(before[0].pixels) - sum(check(root).splits[0].pixels) == 64


def test_every_two_of_three_splits_are_compared(root):
    for folder in ("images", "labels"):
        (root / folder / "test").mkdir()
        shutil.copy(root / folder / "val/u.png", root / folder / "test/t.png")
    (found,) = check(root, splits=["train", "val", "test"]).findings
    assert (found.kind, found.split) == ("same_image", "val, test")


@pytest.mark.parametrize(("count", "more"), [(3, None), (4, "    ... and 1 more")])
def test_three_files_are_named_and_the_others_counted(root, count, more):
    for name in "abcd"[:count]:
        (root / f"labels/train/{name}.png").unlink()
    lines = check(root).summary().splitlines()
    assert [line for line in lines if line.startswith("    ...")] == ([] if more is None else [more])
    assert sum(line.startswith(f"    {root}") for line in lines) == 3


def test_a_missing_file_is_expected_with_the_suffix_of_the_others(root):
    for file in (root / "images").rglob("*.png"):
        Image.open(file).save(file.with_suffix(".jpg"), quality=95)
        file.unlink()
    no_label(root)
    (root / "images/val/w.jpg").unlink()
    assert {each.remedy for each in check(root).findings} == {
        f"add the label map, such as {root}/labels/train/c.png, or remove the file",
        f"add the image, such as {root}/images/val/w.jpg, or remove the file",
    }


def test_a_missing_file_that_is_there_with_another_suffix_is_named(root):
    (root / "images/train/b.png").rename(root / "images/train/b.bmp")
    (found,) = (each for each in check(root, images="images/{split}/{name}.png").findings if each.severity == "error")
    assert found.kind == "label_without_image"
    assert found.remedy == f"there is {root}/images/train/b.bmp: end the pattern in .* instead of .png"


@pytest.mark.parametrize(("width", "orientation", "kind"), [(48, 6, "turned_image"), (64, 6, "sizes")])
def test_an_orientation_that_shows_in_the_size_is_no_warning_of_its_own(root, width, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, labels = draw(60)
    save(root, "train", "b.png", image[:, :width], np.ascontiguousarray(labels[:, :width]))
    with Image.open(root / "images/train/b.png") as picture:
        picture.save(root / "images/train/b.png", exif=exif)
    (found,) = check(root).findings
    assert found.kind == kind
    assert ("instead of resizing it" in found.remedy) == (kind == "sizes")


def test_an_index_beyond_the_palette_is_an_unknown_value(root):
    indices = np.where(np.array(Image.open(root / "labels/train/b.png")) == 20, 3, 0).astype(np.uint8)
    picture = Image.new("P", indices.shape[::-1])
    picture.putpalette([0, 0, 200, 90, 90, 90, 200, 0, 0])
    picture.putdata(indices.ravel().tolist())
    picture.save(root / "labels/train/b.png")
    (found,) = check(root).findings
    assert found.message.startswith("values that belong to no class and are not ignored: 3 (")


def as_rgb(root):
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.repeat(labels[..., None], 3, 2))


def test_ids_saved_as_rgb_are_ids(root, tmp_path):
    unknown_value(root)
    as_rgb(root)
    (found,) = check(root).findings
    assert found.message.startswith("values that belong to no class and are not ignored: 7 (")
    assert ";" not in found.message
    (root / "classes.yaml").unlink()
    text = write_classes(root, tmp_path / "new.yaml")
    assert re.findall('"class (.*)", id: (.*)}', text) == [("0", "0"), ("7", "7"), ("10", "10"), ("20", "20")]


def test_ignored_colors_are_known(root):
    (root / "classes.yaml").write_text(CLASSES.replace("[255]", "[255, [1, 1, 1]]"))
    colors = {0: (0, 0, 200), 10: (90, 90, 90), 20: (1, 2, 3), 255: (1, 1, 1)}
    rewrite(
        root / "labels/train/b.png", lambda labels: np.array([[colors[i] for i in row] for row in labels], np.uint8)
    )
    (found,) = check(root).findings
    assert found.message.startswith("colors that belong to no class and are not ignored: 1, 2, 3 (")
    assert ";" not in found.message


def test_webp_that_is_called_webp_is_no_finding(root):
    file = root / "images/train/b.png"
    Image.open(file).save(file.with_suffix(".webp"), lossless=True)
    file.unlink()
    assert check(root).findings == ()


def test_an_unknown_value_beside_ignored_pixels_is_not_all_ignored(root):
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 20, 7, 255).astype(np.uint8))
    assert kinds(root) == {"unknown_values": "error"}


def test_label_maps_of_void_alone_are_no_binary_masks(root):
    binary_among_ids(root)
    rewrite(root / "labels/train/c.png", lambda labels: np.full_like(labels, 255))
    (found,) = [each for each in check(root).findings if each.kind == "binary_masks"]
    assert found.files == (str(root / "labels/train/b.png"),)


def test_ids_are_not_shifted_where_the_first_one_occurs(root):
    (root / "classes.yaml").write_text("classes: [sky, road, car]\n")
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.where(labels == 255, 255, labels // 10).astype(np.uint8))
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 2, 3, labels).astype(np.uint8))
    (found,) = check(root).findings
    assert found.remedy == "in the classes file, {name: NAME, id: 3} if it is a class, or ignore: [3] if it is void"


def test_ids_with_gaps_are_not_shifted(root):
    for file in (root / "labels/train").iterdir():
        rewrite(file, lambda labels: np.where(labels == 0, 10, labels).astype(np.uint8))
    rewrite(root / "labels/train/b.png", lambda labels: np.where(labels == 20, 21, labels).astype(np.uint8))
    assert kinds(root) == {"unknown_values": "error", "missing_class": "warning"}


def test_a_palette_of_listed_colours_hides_no_other_unknown_value(root):
    indices = np.where(np.array(Image.open(root / "labels/train/c.png")) == 20, 2, 1).astype(np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([200, 0, 0, 0, 0, 200, 90, 90, 90])
    picture.putdata(indices.ravel().tolist())
    picture.save(root / "labels/train/c.png")
    assert check(root).findings[0].remedy == "save the label maps as RGB"
    unknown_value(root)
    assert check(root).findings[0].remedy.startswith("in the classes file, {name: NAME, id: ")


@pytest.mark.parametrize(("count", "end"), [(5, "pixels)"), (6, "pixels) and 1 more")])
def test_five_unknown_values_are_named_and_the_others_counted(root, count, end):
    def change(labels):
        labels[:12, : 8 * count] = np.arange(1, count + 1, dtype=np.uint8).repeat(8)
        return labels

    rewrite(root / "labels/train/b.png", change)
    (found,) = check(root).findings
    assert found.kind == "unknown_values"
    assert found.message.endswith(end)


def test_small_objects_of_unlisted_classes_are_no_rims(root):
    def change(labels):
        for number in range(9):
            labels[5 * number : 5 * number + 4, 50:54] = 1 + number % 3
        return labels

    rewrite(root / "labels/train/b.png", change)
    assert kinds(root) == {"unknown_values": "error"}


def test_stripes_of_unlisted_classes_are_no_rims(root):
    def change(labels):
        for number in range(24):
            labels[2 * number] = 1 + number % 3
        return labels

    rewrite(root / "labels/train/b.png", change)
    assert kinds(root) == {"unknown_values": "error"}


def test_an_image_of_another_label_map_is_not_to_be_renamed(root):
    same_but_for_case(root)
    (root / "labels/train/a.png").unlink()
    found = next(each for each in check(root).findings if each.kind == "image_without_label")
    assert found.remedy == f"add the label map, such as {root}/labels/train/a.png, or remove the file"


def test_a_turned_image_without_a_label_map_has_nothing_to_turn(root):
    turned_image(root)
    (root / "labels/train/b.png").unlink()
    assert kinds(root) == FAULTS[no_label]


def test_all_256_values_are_255_classes_and_void(root, tmp_path):
    rewrite(root / "labels/train/b.png", lambda labels: np.arange(labels.size, dtype=np.uint8).reshape(labels.shape))
    text = write_classes(root, tmp_path / "new.yaml")
    assert text.count("id: ") == 255
    (root / "classes.yaml").write_text(text)
    assert open_dataset("folder", root, "train").label_map.num_classes == 255


def test_a_grey_colour_of_one_label_map_is_listed(root):
    colors = {0: (0, 0, 0), 10: (0, 200, 0), 20: (200, 0, 0), 255: (9, 9, 9)}
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.array([[colors[i] for i in row] for row in labels], np.uint8))
    rewrite(root / "labels/train/a.png", lambda labels: np.full_like(labels, 77))
    (root / "classes.yaml").unlink()
    assert "color: [77, 77, 77]}" in write_classes(root, root / "classes.yaml")
    assert check(root).errors == 0


def test_a_split_that_is_asked_for_must_be_there(root, tmp_path, capsys):
    words = ["data", "check", "--dataset", "folder", str(root), "--write-classes", str(tmp_path / "new.yaml")]
    assert main([*words, "--splits", "train", "validation"]) == 2
    assert f"{root}/images/validation: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("grey", [128, 255])
def test_among_grey_colors_an_unknown_one_is_a_color(root, grey):
    classes = f"classes: [{{name: background, color: [0, 0, 0]}}, {{name: leaf, color: {[grey] * 3}}}]\n"
    (root / "classes.yaml").write_text(classes)
    for file in (root / "labels").rglob("*.png"):
        rewrite(file, lambda labels: np.repeat(np.where(labels == 10, grey, 0).astype(np.uint8)[..., None], 3, 2))
    with Image.open(root / "labels/train/b.png") as stored:
        pixels = np.array(stored)
    pixels[:5, :5] = 50
    Image.fromarray(pixels).save(root / "labels/train/b.png")
    (found,) = check(root).findings
    assert found.message == "colors that belong to no class and are not ignored: 50, 50, 50 (25 pixels)"
    assert "{name: NAME, color: [50, 50, 50]}" in found.remedy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (256, "the label maps have 256 different values, a network at most 255 classes: "),
        (1, "all label maps hold 7, 0, 0 alone, so that there is one class: use label maps in which others occur"),
    ],
)
def test_no_classes_file_is_written_that_no_network_can_have(root, tmp_path, capsys, values, message):
    (root / "classes.yaml").unlink()
    for file in (root / "labels").rglob("*.png"):
        colors = np.zeros((48, 64, 3), np.uint8)
        colors[:, :, 0], colors[:, :, 1] = 7, np.arange(48 * 64).reshape(48, 64) % values
        Image.fromarray(colors).save(file)
    words = ["data", "check", "--dataset", "folder", str(root), "--write-classes", str(tmp_path / "new.yaml")]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()
