import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlaseg import UserError
from dlaseg.inference.sources import Source, find_all, find_images

FOLDERS = st.sampled_from(["a", "B", "c.d", ".hidden"])
FILES = st.sampled_from(["x.jpg", "x.PNG", "y.tiff", "Z.bmp", "notes.txt", "png", ".x.png", "v.mp4", "w.png.part"])
PATHS = st.sets(st.tuples(st.lists(FOLDERS, max_size=3), FILES).map(lambda t: Path(*t[0], t[1])), max_size=12)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def relatives(sources):
    return [source.relative.as_posix() for source in sources]


@given(PATHS)
@settings(max_examples=40)
def test_finds_all_images_that_are_not_hidden(paths):
    wanted = {p for p in paths if p.name in ("x.jpg", "x.PNG", "y.tiff", "Z.bmp") and ".hidden" not in p.parts}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for path in paths:
            touch(root / path)
        if not wanted:
            with pytest.raises(UserError, match="contains no image"):
                find_images(root)
        else:
            sources = find_images(root)
            assert {source.relative for source in sources} == wanted
            assert len(sources) == len(wanted)
            assert all(source.path == root / source.relative for source in sources)


def test_order_is_sorted_whatever_order_files_came_in(tmp_path):
    for name in ("b/2.png", "c.png", "b/10.png", "a/z.png", "a.png"):
        touch(tmp_path / name)
    assert relatives(find_images(tmp_path)) == ["a/z.png", "a.png", "b/10.png", "b/2.png", "c.png"]


def test_a_single_file(tmp_path):
    path = touch(tmp_path / "deep" / "a.JPeG")
    assert find_images(path) == [Source(path, Path("a.JPeG"))]


def test_a_hidden_file_or_folder_that_is_named_itself_is_taken(tmp_path):
    path = touch(tmp_path / ".deep" / ".a.png")
    touch(tmp_path / ".deep" / "b.png")
    assert find_images(path) == [Source(path, Path(".a.png"))]
    assert relatives(find_images(path.parent)) == ["b.png"]


def test_no_such_path_no_image_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"contains no image.*\.jpeg, \.jpg.*\.png"):
        find_images(tmp_path)
    with pytest.raises(UserError, match=r"clip\.mp4: not the suffix of an image.*\.png"):
        find_images(touch(tmp_path / "clip.mp4"))


def test_photos_in_formats_that_are_not_read_are_told(tmp_path, caplog):
    for name in ("a.jpg", "b/c.HEIC", "d.dng", "notes.txt", ".hidden.heic"):
        touch(tmp_path / name)
    assert relatives(find_images(tmp_path)) == ["a.jpg"]
    (message,) = caplog.messages
    assert message.endswith(": .dng, .heic is not read, files left out: 2: convert them to JPEG or PNG")


def test_videos_that_are_not_read_are_told(tmp_path, caplog):
    for name in ("a.jpg", "b.MP4", "c/d.mov", ".e.mp4"):
        touch(tmp_path / name)
    assert relatives(find_images(tmp_path, videos=True)) == ["a.jpg", "b.MP4", "c/d.mov"]
    assert caplog.messages == []
    assert relatives(find_images(tmp_path)) == ["a.jpg"]
    reason = ": .mov, .mp4 is not read, files left out: 2: `dlaseg infer` reads videos, without --engine ray"
    assert caplog.messages == [f"{tmp_path}{reason}"]


def test_a_loop_of_links_ends(tmp_path):
    touch(tmp_path / "sub" / "a.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert relatives(find_images(tmp_path)) == ["sub/a.png"]


def test_every_link_to_a_folder_is_followed(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root / "sub" / "a.png")
    touch(elsewhere / "b.png")
    (root / "one").symlink_to(elsewhere)
    (root / "two").symlink_to(elsewhere)
    assert relatives(find_images(root)) == ["one/b.png", "sub/a.png", "two/b.png"]


def test_a_dangling_link_is_listed_for_the_reader_to_report(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    assert relatives(find_all([tmp_path])) == ["gone.png", "itself.png"]
    assert relatives(find_images(tmp_path, exclude=tmp_path / "itself.png")) == ["gone.png", "itself.png"]


def test_results_of_earlier_runs_are_not_read_and_told_once(tmp_path, caplog):
    for name in ("a.png", "ids/b.png", "out/ids/a.png", "out/overlay/a.png", "out/photo.png", "out/infer.json"):
        touch(tmp_path / name)
    assert relatives(find_images(tmp_path)) == ["a.png", "ids/b.png", "out/photo.png"]
    reason = "results of earlier runs, beside their infer.json, are not read, folders left out: 2"
    assert caplog.messages == [f"{tmp_path}: {reason}: give such a folder itself as input to read it"]
    assert relatives(find_images(tmp_path / "out/ids")) == ["a.png"]


def test_the_excluded_folder_is_not_walked(tmp_path):
    for name in ("a.png", "out/ids/a.png", "output/b.png"):
        touch(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert relatives(find_images(tmp_path, exclude=tmp_path / "output" / ".." / "out")) == ["a.png", "output/b.png"]
    assert relatives(find_images(tmp_path / "output", exclude=tmp_path)) == ["b.png"]


def test_the_input_folder_cannot_be_excluded(tmp_path):
    touch(tmp_path / "a.png")
    with pytest.raises(UserError, match="input and output are one folder"):
        find_images(tmp_path, exclude=tmp_path / ".." / tmp_path.name)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "a.png")
    (tmp_path / "locked").mkdir()
    iterdir = Path.iterdir

    def guarded(self):  # tests may run as root, whom no permission stops
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
    with pytest.raises(UserError, match=r"locked: Permission denied"):
        find_images(tmp_path)


def test_videos_and_cameras_are_found_if_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").mkdir()
    for name in ("7/a.MP4", "7/b.png", "c.webm", "note.txt"):
        (tmp_path / name).touch()
    found = find_all([Path("7"), Path("c.webm")], videos=True)
    assert [(source.relative.name, source.is_video, source.camera) for source in found] == [
        ("a.MP4", True, None), ("b.png", False, None), ("c.webm", True, None),
    ]  # fmt: skip
    assert [source.relative.name for source in find_all([Path("7")])] == ["b.png"]
    for word, index in (("camera:0", 0), ("camera:12", 12), ("3", 3), ("camera:7", 7)):
        (source,) = find_all([Path(word)], videos=True)
        assert (source.is_video, source.camera, source.relative) == (True, index, Path(f"camera{index}"))
        with pytest.raises(UserError, match="no such file or folder"):
            find_all([Path(word)])
    for word in ("camera:", "camera:x", "-1", "123456"):
        with pytest.raises(UserError, match=f"{word}: no such file or folder"):
            find_all([Path(word)], videos=True)
    with pytest.raises(UserError, match=r"not the suffix of an image or video.*\.mp4"):
        find_all([Path("note.txt")], videos=True)


def test_an_image_that_is_found_twice_is_listed_once_for_each_of_its_results(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    found = [source.relative.as_posix() for source in find_all([tmp_path, tmp_path / "a.png"])]
    assert found == ["a.png", "link.png"]
