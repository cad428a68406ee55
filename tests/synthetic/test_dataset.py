"""The synthetic streets: the Cityscapes layout, sound labels, one scene per seed, pictures that fit their labels."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from cityscapesscripts.helpers.labels import id2label, name2label
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.synthetic.appearance import random_light
from dlaseg.synthetic.canvas import Canvas
from dlaseg.synthetic.dataset import CITIES, Scene, draw_scene, synthesize
from dlaseg.synthetic.roadside import draw_clutter, draw_fence, draw_lamp, draw_sign, draw_traffic_light, draw_tree

TRAINED = (
    "road",
    "sidewalk",
    "building",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "car",
    "bus",
    "bicycle",
)
SHIFTS = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene((7, 0, index), 128, 256) for index in range(20)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    synthesize(root, {"train": 3, "val": 2, "test": 1}, 64, 128, seed=3, progress=False)
    return root


def mask_of(scene: Scene, name: str) -> np.ndarray:
    return scene.label_ids == name2label[name].id


def edge_contrast(scene: Scene, dy: int, dx: int) -> float:
    """Mean step of the picture across the label borders, the labels moved by (dy, dx) pixels."""
    labels = np.roll(scene.label_ids.astype(np.int32), (dy, dx), (0, 1))[4:-4, 4:-4]
    image = cv2.cvtColor(scene.image, cv2.COLOR_RGB2LAB).astype(np.float64)[4:-4, 4:-4]
    across = np.abs(np.diff(image, axis=1)).sum(-1)[np.diff(labels, axis=1) != 0]
    down = np.abs(np.diff(image, axis=0)).sum(-1)[np.diff(labels, axis=0) != 0]
    return float(np.concatenate([across, down]).mean())


def best_shift(scenes: list[Scene]) -> tuple[int, int]:
    return max(SHIFTS, key=lambda shift: sum(edge_contrast(scene, *shift) for scene in scenes))


def test_files_lie_where_the_cityscapes_scripts_look(dataset):
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        truths = sorted((dataset / "gtFine" / split).glob("*/*_gtFine_instanceIds.png"))
        assert len(truths) == count
        for truth in truths:
            info = getCsFileInfo(str(truth))
            assert info.city == truth.parent.name
            assert info.city in CITIES[split]
            assert (len(info.sequenceNb), info.frameNb) == (6, "000019")
            stem = f"{info.city}_{info.sequenceNb}_{info.frameNb}"
            assert (dataset / "leftImg8bit" / split / info.city / f"{stem}_leftImg8bit.png").is_file()
            assert sorted(p.name for p in truth.parent.glob(f"{stem}_*")) == [
                f"{stem}_gtFine_{kind}.png" for kind in ("color", "instanceIds", "labelIds")
            ]
    assert len(list(dataset.rglob("*.png"))) == 4 * 6
    assert not list(dataset.rglob(".*"))


@pytest.mark.parametrize("file", ["root", "root/gtFine", "root/leftImg8bit"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=f"{tmp_path / file}: not a folder: choose another one"):
        synthesize(tmp_path / "root", {"train": 1}, 64, 128)
    assert len(list(tmp_path.rglob("*"))) <= 2


def test_files_hold_what_the_scene_holds(dataset):
    scene = draw_scene((3, 1, 1), 64, 128)
    stem = dataset / "gtFine" / "val" / CITIES["val"][1] / f"{CITIES['val'][1]}_000000_000019"
    picture = str(stem).replace("gtFine", "leftImg8bit") + "_leftImg8bit.png"
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), scene.image)
    np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}_gtFine_labelIds.png")), scene.label_ids)
    instances = Image.open(f"{stem}_gtFine_instanceIds.png")
    assert instances.mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(instances), scene.instance_ids)
    colours = np.asarray(Image.open(f"{stem}_gtFine_color.png"))
    for label in np.unique(scene.label_ids):
        assert (colours[scene.label_ids == label] == id2label[int(label)].color).all()


def test_cityscapes_scripts_read_the_instances(dataset, capsys):
    path = next((dataset / "gtFine" / "train").glob("*/*_instanceIds.png"))
    found = instances2dict([str(path)], verbose=False)[str(path.resolve())]
    codes = np.asarray(Image.open(path))
    for name in ("car", "bus", "person", "bicycle"):
        expected = [int(code) for code in np.unique(codes) if code // 1000 == name2label[name].id]
        assert sorted(instance["instID"] for instance in found[name]) == expected
    assert found["car"]


def test_ids_are_in_the_table_and_instances_fit_their_labels(scenes):
    for scene in scenes:
        assert (scene.image.dtype, scene.label_ids.dtype, scene.instance_ids.dtype) == (np.uint8, np.uint8, np.uint16)
        for code in np.unique(scene.instance_ids).tolist():
            label = code // 1000 if code >= 1000 else code
            assert id2label[label].hasInstances == (code >= 1000), code
            assert (scene.label_ids[scene.instance_ids == code] == label).all()
        assert set(np.unique(scene.label_ids).tolist()) <= set(id2label)


def test_every_promised_class_is_in_most_scenes(scenes):
    for name in TRAINED:
        seen = sum(int(mask_of(scene, name).sum() >= 8) for scene in scenes)
        assert seen >= 14, f"{name}: in {seen} of 20"


def test_each_of_the_trained_classes_has_a_share_worth_learning(scenes):
    labels = np.stack([scene.label_ids for scene in scenes])
    for name in TRAINED:
        assert (labels == name2label[name].id).mean() > 0.005, name
    ignored = np.isin(labels, [label.id for label in id2label.values() if label.ignoreInEval]).mean()
    assert 0.02 < ignored < 0.15


def test_void_regions_are_where_cityscapes_has_them(scenes):
    for scene in scenes:
        border = mask_of(scene, "rectification border")
        assert border[:-1, [0, -1]].all()
        assert border[0].all()
        assert scene.image[border].mean() < 60
        assert (scene.label_ids[-1, 2:-2] == name2label["out of roi"].id).all()
        rows, columns = np.nonzero(mask_of(scene, "ego vehicle"))
        assert rows.min() > 128 * 0.8
        assert 0.4 < columns.mean() / 256 < 0.6
    unlabeled = [int(mask_of(scene, "unlabeled").sum()) for scene in scenes]
    assert sum(count > 0 for count in unlabeled) >= 5
    assert max(unlabeled) < 0.02 * 128 * 256


def test_poles_can_be_seen_at_256_by_512():
    widths = []
    for index in range(3):
        pole = mask_of(draw_scene((7, 0, index), 256, 512), "pole").astype(np.int8)
        starts = np.argwhere(np.diff(pole, axis=1) == 1)
        ends = np.argwhere(np.diff(pole, axis=1) == -1)
        widths += (ends - starts)[:, 1].tolist() if len(starts) == len(ends) else []
    assert np.median(widths) >= 3


def test_same_seed_same_bytes_and_other_seeds_other_streets():
    first, again, other = draw_scene(5, 64, 128), draw_scene(5, 64, 128), draw_scene(6, 64, 128)
    for field in ("image", "label_ids", "instance_ids"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
        assert (getattr(first, field) != getattr(other, field)).mean() > 0.1


def test_the_seed_alone_decides():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    cv2.setRNGSeed(1)
    first = draw_scene(5, 64, 128).image
    np.random.random(3)
    cv2.setRNGSeed(2)
    np.testing.assert_array_equal(draw_scene(5, 64, 128).image, first)
    np.random.seed(1)
    draw_scene(5, 64, 128)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_scene_depends_on_seed_split_and_index_not_on_the_counts(dataset, tmp_path):
    synthesize(tmp_path, {"val": 1}, 64, 128, seed=3, progress=False)
    (name,) = (path.relative_to(tmp_path) for path in tmp_path.rglob("*_leftImg8bit.png"))
    assert (tmp_path / name).read_bytes() == (dataset / name).read_bytes()
    pictures = {path.read_bytes() for path in dataset.rglob("*_leftImg8bit.png")}
    assert len(pictures) == 6


def test_borders_of_the_labels_are_borders_of_the_picture(scenes):
    assert best_shift(scenes[:4]) == (0, 0)


def test_the_border_test_finds_labels_that_are_one_pixel_off(scenes):
    moved = [Scene(s.image, np.roll(s.label_ids, 1, 1), s.instance_ids) for s in scenes[:4]]
    assert best_shift(moved) == (0, -1)


def blank_canvas() -> Canvas:
    """A camera 1.5 m above the ground, and 99 for a label."""
    return Canvas(
        image=np.zeros((200, 400, 3), np.uint8),
        codes=np.full((200, 400), 99, np.uint16),
        focal=200,
        vanishing_point=(200, 100),
        camera_height=1.5,
        curvature=0,
        light=random_light(np.random.default_rng(0)),
        min_pole_width=3,
    )


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (lambda canvas, rng: draw_clutter(canvas, rng, 1, 8, is_bin=True), {"static"}),
        (lambda canvas, rng: draw_clutter(canvas, rng, 1, 8, is_bin=False), {"unlabeled"}),
        (lambda canvas, rng: draw_tree(canvas, rng, 1, 8, 3, (70, 104, 50)), {"vegetation"}),
        (lambda canvas, rng: draw_lamp(canvas, 1, 20), {"pole"}),
        (lambda canvas, rng: draw_sign(canvas, rng, 1, 8), {"pole", "traffic sign"}),
        (lambda canvas, rng: draw_traffic_light(canvas, 1, 12, 0, gantry=True), {"pole", "traffic light"}),
        (lambda canvas, rng: draw_fence(canvas, 1, 2, 8, 11, (222, 220, 212)), {"fence"}),
    ],
)
def test_objects_are_labelled_as_in_cityscapes_and_nothing_beside_them_is_painted(draw, names):
    canvas = blank_canvas()
    draw(canvas, np.random.default_rng(0))
    painted = canvas.codes != 99
    assert set(np.unique(canvas.codes[painted]).tolist()) == {name2label[name].id for name in names}
    np.testing.assert_array_equal(canvas.image.any(-1), painted)


@pytest.mark.parametrize(
    ("top", "left"), [(2, 3), (-2, -3), (-2, 397), (198, -3), (198, 397), (-9, 0), (0, -9), (200, 0), (0, 400)]
)
def test_what_the_edge_of_the_picture_cuts_off_keeps_its_labels(top, left):
    rng, canvas = np.random.default_rng(0), blank_canvas()
    pixels, mask = rng.integers(1, 256, (6, 7, 3), np.uint8), rng.integers(0, 2, (6, 7), np.uint8)
    canvas.paste(pixels, mask, top, left, 26000)
    image, codes = np.zeros((220, 420, 3), np.uint8), np.full((220, 420), 99, np.uint16)  # 10 more on each side
    place = np.s_[top + 10 : top + 16, left + 10 : left + 17]
    image[place], codes[place] = pixels * mask[..., None], np.where(mask, 26000, 99)
    np.testing.assert_array_equal(canvas.image, image[10:-10, 10:-10])
    np.testing.assert_array_equal(canvas.codes, codes[10:-10, 10:-10])


def test_regions_look_like_what_they_are_called(scenes):
    def mean(scene: Scene, name: str) -> np.ndarray:
        return scene.image[mask_of(scene, name)].mean(0)

    for scene in scenes:
        assert mean(scene, "sky").mean() > mean(scene, "road").mean() + 10
        assert np.ptp(mean(scene, "road")) < 30  # asphalt is grey
    greenish = [mean(s, "terrain") for s in scenes if mask_of(s, "terrain").sum() >= 50]
    assert sum(colour[1] > colour[2] for colour in greenish) >= 0.9 * len(greenish)
    assert max(int(s.image[mask_of(s, "traffic light")].max()) for s in scenes) > 200


def test_sky_is_above_road_and_near_cars_are_larger(scenes):
    heights, bottoms = [], []
    for scene in scenes:
        assert np.nonzero(mask_of(scene, "sky"))[0].max() <= np.nonzero(mask_of(scene, "road"))[0].min() + 1
        for code in np.unique(scene.instance_ids[mask_of(scene, "car")]):
            rows, columns = np.nonzero(scene.instance_ids == code)
            if columns.min() > 2 and columns.max() < 253 and len(rows) > 20:
                heights.append(np.ptp(rows) + 1)
                bottoms.append(rows.max())
    assert len(heights) > 30
    near = np.array(bottoms) > np.quantile(bottoms, 0.7)
    assert np.mean(np.array(heights)[near]) > 1.7 * np.mean(np.array(heights)[~near])
    assert np.corrcoef(heights, bottoms)[0, 1] > 0.7


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 131), (300, 300), (64, 512), (512, 64)])
def test_any_shape_is_drawn(height, width):
    scene = draw_scene(1, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.label_ids.shape == scene.instance_ids.shape == (height, width)
    assert {name2label[name].id for name in ("road", "building", "ego vehicle")} <= set(scene.label_ids.flat)
    assert scene.image.std() > 15


@pytest.mark.parametrize(("height", "width"), [(63, 128), (128, 63), (1025, 128), (128, 2049), (0, 0), (-64, 64)])
def test_sizes_out_of_range_are_refused(height, width, tmp_path):
    with pytest.raises(UserError, match=f"size {height} x {width}: .*: choose"):
        draw_scene(0, height, width)
    with pytest.raises(UserError, match=f"size {height} x {width}: .*: choose"):
        synthesize(tmp_path / "out", height=height, width=width)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": {"training": 1}}, "split 'training': .*train, val, test"),
        ({"counts": {"train": 1, "val": -1}}, "val -1: the number of scenes: use 0 to 1000000"),
        ({"counts": {"train": 0, "val": 0}}, "0 scenes in all: .* use 1 or more"),
        ({"counts": {}}, "0 scenes in all: .* use 1 or more"),
        ({"counts": {"train": 1_000_001}}, "train 1000001: the number of scenes: use 0 to 1000000"),
        ({"seed": -1}, "seed -1: .* from 0 to 18446744073709551615"),
        ({"seed": 1 << 64}, "seed 18446744073709551616: .* from 0 to 18446744073709551615"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        synthesize(tmp_path / "out", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_by_default_48_scenes_of_512_x_1024_are_drawn_to_train_and_12_to_validate(tmp_path, monkeypatch):
    scene, sizes = draw_scene(0, 64, 64), set()
    drawn = lambda seed, height, width: sizes.add((height, width)) or scene  # noqa: E731
    monkeypatch.setattr("dlaseg.synthetic.dataset.draw_scene", drawn)
    synthesize(tmp_path, progress=False)
    folders = (tmp_path / "leftImg8bit").iterdir()
    assert {folder.name: len(list(folder.rglob("*.png"))) for folder in folders} == {"train": 48, "val": 12}
    assert sizes == {(512, 1024)}


def test_negative_seeds_are_refused():
    for seed, size in ((-1, (64, 64)), ((0, -1), (1024, 2048))):
        with pytest.raises(UserError, match="from 0 upwards"):
            draw_scene(seed, *size)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_a_data_set_that_is_there_is_left_alone(folder, linked, tmp_path):
    treasure = tmp_path / ("elsewhere" if linked else folder) / "train" / "aachen" / "mine.png"
    treasure.parent.mkdir(parents=True)
    if linked:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train").symlink_to(treasure.parents[1])
    treasure.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{folder}: holds files already.*choose another folder or remove it"):
        synthesize(tmp_path, {"train": 1}, 64, 64)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [treasure]
    assert treasure.read_bytes() == b"mine"


def test_empty_folders_and_other_files_are_no_obstacle(tmp_path, capsys):
    (tmp_path / "leftImg8bit" / "train").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("hello")
    counts = {"train": 1, "val": 0}
    synthesize(tmp_path, counts, 64, 64, seed=(1 << 64) - 1)
    assert len(list(tmp_path.rglob("*.png"))) == 4
    assert not (tmp_path / "gtFine" / "val").exists()
    assert counts == {"train": 1, "val": 0}
    assert capsys.readouterr() == ("", "")  # no terminal, no bar
