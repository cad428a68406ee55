from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlaseg import LabelMap, UserError
from dlaseg.inference.sinks import KINDS, Sink, is_frame
from dlaseg.inference.sources import Source
from dlaseg.label_images import read_label_image
from dlaseg.visualize import overlay

LABELS = LabelMap(("road", "car"), ((128, 64, 128), (0, 0, 142)), ids=((7,), (26, 27)), ignored=(3,))

IMAGE = np.full((2, 3, 3), 100, np.uint8)
TRAIN_IDS = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)


def source(relative, root="in"):
    return Source(Path(root) / relative, Path(relative))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_writes_stored_ids_colours_and_overlays_into_a_mirrored_tree(tmp_path):
    sink = Sink(tmp_path, LABELS)
    sink.write(source("city/street/a.b.JPG"), IMAGE, TRAIN_IDS, KINDS)
    assert files(tmp_path) == [f"{kind}/city/street/a.b.png" for kind in ("color", "ids", "overlay")]
    ids = read_label_image(tmp_path / "ids/city/street/a.b.png")
    assert ids.tolist() == [[7, 26, 3], [26, 26, 7]]
    color = pixels(tmp_path / "color/city/street/a.b.png")
    assert color.tolist() == [
        [[128, 64, 128], [0, 0, 142], [0, 0, 0]],
        [[0, 0, 142], [0, 0, 142], [128, 64, 128]],
    ]
    np.testing.assert_array_equal(pixels(tmp_path / "overlay/city/street/a.b.png"), overlay(IMAGE, color))


def test_ids_above_255_are_written_with_16_bits(tmp_path):
    labels = LabelMap(LABELS.names, LABELS.palette, ids=((300,), (65535,)), ignored=(1,))
    Sink(tmp_path, labels, ["ids"]).write(source("a.png"), IMAGE, TRAIN_IDS, ["ids"])
    assert read_label_image(tmp_path / "ids/a.png").tolist() == [[300, 65535, 1], [65535, 65535, 300]]


def test_missing_lists_the_kinds_that_do_not_exist(tmp_path):
    a = source("a.jpg")
    assert Sink(tmp_path, LABELS).missing(a) == list(KINDS)
    Sink(tmp_path, LABELS, ["color"]).write(a, IMAGE, TRAIN_IDS, ["color"])
    assert Sink(tmp_path, LABELS).missing(a) == ["ids", "overlay"]
    assert Sink(tmp_path, LABELS, ["color"]).missing(a) == []
    assert Sink(tmp_path, LABELS, ["color"]).missing(source("sub/a.jpg")) == ["color"]


def test_writes_only_the_given_kinds(tmp_path):
    Sink(tmp_path, LABELS).write(source("a.jpg"), IMAGE, TRAIN_IDS, ["overlay"])
    assert files(tmp_path) == ["overlay/a.png"]


@pytest.mark.parametrize(("save", "what"), [([], "nothing"), (["ids", "colour"], "'colour'")])
def test_unknown_kinds_are_refused(save, what, tmp_path):
    with pytest.raises(UserError, match=f"save {what}.*ids, color, overlay"):
        Sink(tmp_path, LABELS, save)
    assert files(tmp_path) == []


def test_sources_with_the_same_result_are_in_conflict_and_the_remedy_is_named(tmp_path):
    sink = Sink(tmp_path / "out", LABELS, ["ids"])
    assert sink.unnameable([source("s/a.jpg"), source("s/b.jpg"), source("s/a.png")]) == {
        Path(
            "in/s/a.jpg"
        ): "in/s/a.jpg: its result and that of in/s/a.png would both be s/a.png: use --keep-suffix, or rename one",
        Path(
            "in/s/a.png"
        ): "in/s/a.png: its result and that of in/s/a.jpg would both be s/a.png: use --keep-suffix, or rename one",
    }
    assert sink.unnameable([source("s/a.jpg"), source("a.png"), source("t/a.jpg"), source("s/a.b.jpg")]) == {}
    conflicts = sink.unnameable([source("a.jpg", "one"), source("a.jpg", "two")])
    assert conflicts.keys() == {Path("one/a.jpg"), Path("two/a.jpg")}
    assert conflicts[Path("one/a.jpg")].endswith("would both be a.png: use two output folders, or rename one")


def test_a_kept_suffix_distinguishes_results(tmp_path):
    sink = Sink(tmp_path, LABELS, ["ids"], keep_suffix=True)
    assert sink.unnameable([source("s/a.jpg"), source("s/a.png")]) == {}
    assert sink.file(source("s/a.b.JPG"), "ids") == "ids/s/a.b.JPG.png"


def test_frames_are_in_a_folder_of_the_files_name(tmp_path):
    frame = replace(source("s/a.b.gif"), frame=12)
    assert Sink(tmp_path, LABELS).file(frame, "ids") == "ids/s/a.b/0012.png"
    assert Sink(tmp_path, LABELS, keep_suffix=True).file(frame, "ids") == "ids/s/a.b.gif/0012.png"
    others = [replace(frame, frame=0), frame, source("s/a.b/0012.jpg")]
    assert Sink(tmp_path, LABELS).unnameable(others).keys() == {frame.path, others[2].path}


def test_a_folder_with_the_name_of_a_result_is_in_conflict_with_it(tmp_path):
    one, other, third = source("s/a.jpg"), source("s/a.png/deep/b.jpg"), source("s/c.png/a.jpg")
    found = Sink(tmp_path, LABELS, ["ids"]).unnameable([one, other, third])
    assert found.keys() == {one.path, other.path}
    assert found[other.path].endswith(
        "its result and that of in/s/a.jpg would be a file and a folder of one name: use --keep-suffix, or rename one"
    )
    assert Sink(tmp_path, LABELS, ["contours"]).unnameable([one, other]) == {}
    assert Sink(tmp_path, LABELS, ["ids"], keep_suffix=True).unnameable([one, other]) == {}
    video = Source(Path("in/s/a.png.avi"), Path("s/a.png.avi"), is_video=True)
    assert Sink(tmp_path, LABELS, ["ids"]).unnameable([video, one]) == {}


def test_a_result_that_would_overwrite_an_input_is_refused(tmp_path):
    root = tmp_path / "color"
    sources = [source("s/a.jpg", root), source("s/b.png", root)]
    with pytest.raises(UserError, match=r"color/s/b\.png: a result would replace"):
        Sink(tmp_path, LABELS).check(sources)
    Sink(tmp_path, LABELS, ["ids"]).check(sources)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"a result would replace"):
        Sink(tmp_path / "link", LABELS).check(sources)


def test_an_output_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"a\.png: cannot be written \(.*another output folder"):
        Sink(tmp_path / "file", LABELS).write(source("a.jpg"), IMAGE, TRAIN_IDS, KINDS)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    sources = [source(f"{'街' * 83}.jpg"), source(f"{'x' * 251}.jpg")]
    sink = Sink(tmp_path, LABELS, ["ids"])
    assert sink.unnameable(sources) == {}
    for one in sources:
        sink.write(one, IMAGE, TRAIN_IDS, ["ids"])
    kept = Sink(tmp_path, LABELS, ["ids"], keep_suffix=True).unnameable(sources)
    assert kept.keys() == {sources[0].path, sources[1].path}
    assert "its result's name would have 259 bytes, 255 are allowed: rename it" in kept[sources[1].path]
    longer = Sink(tmp_path, LABELS, ["ids", "contours"]).unnameable(sources)
    assert list(longer) == [sources[1].path]
    assert "its result's name would have 256 bytes" in longer[sources[1].path]


def test_the_file_that_says_that_a_video_is_incomplete_has_a_name_too(tmp_path):
    sink = Sink(tmp_path, LABELS, ["ids"])
    videos = [Source(Path("in", name), Path(name), is_video=True) for name in (f"{'x' * 244}.avi", f"{'y' * 245}.avi")]
    assert list(sink.unnameable(videos)) == [videos[1].path]  # y...y.incomplete


def test_a_kind_that_is_named_twice_is_written_once(tmp_path):
    assert Sink(tmp_path, LABELS, ["ids", "color", "ids"]).kinds == ("ids", "color")


def test_frames_of_long_videos_have_more_digits(tmp_path):
    frame = Source(Path("in/a.mp4"), Path("a.mp4"), frame=1_000_000, is_video=True)
    assert is_frame(Sink(tmp_path, LABELS, ["ids"]).name(frame).name, "ids")
