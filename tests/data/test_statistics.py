import re

import numpy as np
import pytest
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.datasets import open_dataset
from dlaseg.data.statistics import SplitStatistics, statistics, statistics_table
from dlaseg.synthetic.dataset import synthesize
from dlaseg.text import width


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    synthesize(root, {"train": 4, "val": 2}, 64, 96, seed=0)
    coarse = root / "gtCoarse/train_extra/ulm"
    images = root / "leftImg8bit/train_extra/ulm"
    for folder in (coarse, images):
        folder.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(np.full((32, 48), 7, np.uint8)).save(coarse / f"ulm_00000{index}_000019_gtCoarse_labelIds.png")
        Image.new("RGB", (48, 32)).save(images / f"ulm_00000{index}_000019_leftImg8bit.png")
    return root


def test_what_is_counted_is_what_a_plain_loop_counts(root):
    dataset = open_dataset("cityscapes", root, "train")
    found = statistics(dataset)
    pixels, images, image_pixels, ignored = np.zeros(19, int), np.zeros(19, int), np.zeros(19, int), 0
    for index in range(len(dataset)):
        target = dataset.read(index)[1]
        for label in range(19):
            pixels[label] += (target == label).sum()
            images[label] += (target == label).any()
            image_pixels[label] += (target != 255).sum() if (target == label).any() else 0
        ignored += (target == 255).sum()
    assert (found.pixels, found.images, found.ignored) == (tuple(pixels), tuple(images), ignored)
    assert found.image_pixels == tuple(image_pixels)
    assert found.sizes == {(64, 96): 4}
    cities = [path.name for path in (root / "leftImg8bit/train").iterdir()]
    assert sorted(found.groups) == sorted(cities)
    assert sum(found.groups.values()) == 4


def test_the_coarse_set_has_its_labels_in_a_folder_of_its_own(root):
    dataset = open_dataset("cityscapes", root, "train_extra")
    assert len(dataset) == 3
    assert (dataset.read(0)[1] == 0).all()


def test_the_command_lists_splits_cities_and_classes(root, capsys):
    words = ["data", "stats", str(root), "--dataset", "cityscapes", "--splits", "train", "val", "train_extra"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["train", "val", "train_extra"]
    assert lines[1].split() == ["images", "4", "2", "3"]
    assert next(line for line in lines if line.startswith("road ")).split()[-2:] == ["100.000%", "3"]
    assert "train_extra: folders (1): ulm 3" in lines
    assert "train_extra: height x width 32 x 48 (3)" in lines
    total = sum(float(x) for line in lines[4:24] for x in re.findall(r"([\d.]+)%", line)[:1])
    assert total == pytest.approx(100, abs=0.02)


def test_a_label_outside_the_label_map_is_refused_by_file(root, capsys, tmp_path):
    (tmp_path / "leftImg8bit/val/a").mkdir(parents=True)
    (tmp_path / "gtFine/val/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "leftImg8bit/val/a/a_0_0_leftImg8bit.png")
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "gtFine/val/a/a_0_0_gtFine_labelIds.png")
    assert main(["data", "stats", str(tmp_path), "--dataset", "cityscapes", "--splits", "val"]) == 2
    message = capsys.readouterr().err
    assert "a_0_0_gtFine_labelIds.png: " in message
    assert "77" in message


def test_the_shares_of_the_classes_and_of_ignored_pixels_are_of_all(root, capsys):
    assert main(["data", "stats", str(root), "--dataset", "cityscapes", "--splits", "train"]) == 0
    found = statistics(open_dataset("cityscapes", root, "train"))
    line = capsys.readouterr().out.splitlines()
    assert f"ignored {found.ignored / (4 * 64 * 96):.3%}" in [" ".join(each.split()) for each in line]
    table = statistics_table(["道路" * 9, *map(str, range(18))], [found]).splitlines()
    assert len({width(each) for each in table[3:23]}) == 1


@pytest.mark.parametrize(("count", "listed", "end"), [(25, 25, ""), (27, 25, " and 2 more")])
def test_sizes_and_folders_are_listed_up_to_25(count, listed, end):
    sizes, groups = {(8, 10 + i): 1 for i in range(count)}, {f"f{i:02}": 1 for i in range(count)}
    table = statistics_table(["a"], [SplitStatistics("val", groups, sizes, (1,), (1,), (1,), 0)]).splitlines()
    assert f"val: height x width {', '.join(f'8 x {10 + i} (1)' for i in range(listed))}{end}" in table
    assert f"val: folders ({count}): {', '.join(f'f{i:02} 1' for i in range(listed))}{end}" in table
