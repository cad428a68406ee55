"""Images and results by URL, without a cluster; and what `dlaseg infer` refuses before it starts one."""

import pickle
import sys
from pathlib import Path

import deadly_files
import numpy as np
import pytest
from PIL import Image

from dlaseg import UserError, infer
from dlaseg.cli import main
from dlaseg.inference.remote import RemoteFolder, URLPath, find_remote_images, is_url, local_path, open_folder, open_url
from dlaseg.inference.sinks import Sink
from dlaseg.labels import LabelMap

PROTOCOL = deadly_files.DeadlyFileSystem.protocol
LABELS = LabelMap(("road", "car"), ((128, 64, 128), (0, 0, 142)), ids=((7,), (26,)))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of images, and its URL by a file system that fsspec is not told to be local."""
    monkeypatch.setenv("DEADLY_LOG", str(tmp_path / "log"))
    for name in ("b.png", "a/c.JPG", "a/.hidden.png", ".git/d.png", "out/ids/e.png", "outside/f.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), "red").save(path)
    (tmp_path / "in/notes.txt").touch()
    return f"{PROTOCOL}://{tmp_path}/in"


def test_the_path_of_a_url_shows_the_url():
    path = URLPath.of("s3://data//in/a.png")
    assert f"{path}" == "s3://data//in/a.png"
    copy = pickle.loads(pickle.dumps(path))
    assert str(copy) == str(path)
    assert {path: 1}[copy] == 1
    assert path.suffix == ".png"


def test_what_is_a_url_and_what_a_local_path():
    assert is_url("s3://data")
    assert not is_url("C:/data")
    assert not is_url("data/s3:/x")
    assert local_path("file:///data/in") == Path("/data/in")
    assert local_path("data/in") == Path("data/in")
    assert local_path("gs://data") is None


def test_an_output_that_looks_like_an_image_is_refused(tmp_path):
    for output in (f"{tmp_path}/result.png", f"file://{tmp_path}/result.MP4"):
        with pytest.raises(UserError, match=r"result\.\w+: the last path is a folder, .* such as .*result$"):
            open_folder(output)


def test_images_are_found_as_in_a_local_folder(root):
    output = RemoteFolder(f"{root}/out/")
    found = find_remote_images(f"{root}/", output)
    assert [source.relative.as_posix() for source in found] == ["a/c.JPG", "b.png", "outside/f.png"]
    assert [str(source.path) for source in found] == [f"{root}/{source.relative}" for source in found]
    copies = pickle.loads(pickle.dumps(found))
    assert copies == found
    assert copies[1].open(20).read().tolist() == np.full((4, 5, 3), (255, 0, 0)).tolist()
    with pytest.raises(UserError, match=f"{root}/b.png: 4 x 5 = 20 pixels, the limit is 19"):
        copies[1].open(19)
    (single,) = find_remote_images(f"{root}/a/c.JPG", output)
    assert (single.relative, str(single.path)) == (Path("c.JPG"), f"{root}/a/c.JPG")


def test_files_that_are_left_out_are_told(root, tmp_path, caplog):
    (tmp_path / "in/a/clip.mp4").touch()
    (tmp_path / "in/photo.heic").touch()
    assert len(find_remote_images(root, RemoteFolder(f"{root}/out"))) == 3
    assert caplog.messages == [
        f"{root}: .heic is not read, files left out: 1: convert them to JPEG or PNG",
        f"{root}: .mp4 is not read, files left out: 1: `dlaseg infer` reads videos, without --engine ray",
    ]


def test_results_of_earlier_runs_are_not_read(root, tmp_path, caplog):
    (tmp_path / "in/out/infer.json").touch()
    found = find_remote_images(root, RemoteFolder(f"{root}/out2"))
    assert [source.relative.as_posix() for source in found] == ["a/c.JPG", "b.png", "outside/f.png"]
    reason = "results of earlier runs, beside their infer.json, are not read, folders left out: 1"
    assert caplog.messages == [f"{root}: {reason}: give such a folder itself as input to read it"]


def test_a_file_that_is_gone_is_reported_by_its_url(root, tmp_path):
    sources = find_remote_images(root, RemoteFolder(f"{root}/out"))
    (tmp_path / "in/b.png").unlink()
    with pytest.raises(UserError, match=f"{root}/b.png: No such file or directory: use a file that can be read"):
        sources[1].open(100)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{root}/nowhere", "in/nowhere: no such file or folder"),
        ("{root}/notes.txt", "in/notes.txt: contains no image"),
        ("{root}/out/", "in/out/: input and output are one folder"),
    ],
)
def test_inputs_without_images_are_refused(root, url, message):
    with pytest.raises(UserError, match=message):
        find_remote_images(url.format(root=root), RemoteFolder(f"{root}/out"))


def test_results_are_written_whole_listed_and_removed(root, tmp_path, monkeypatch):
    folder = RemoteFolder(f"{root}/new")
    assert not folder.exists("ids/a.png")
    folder.write("ids/deep/a.png", b"first")
    assert not folder.exists("ids/deep/a.png")  # listed once
    folder = RemoteFolder(f"{root}/new/")
    assert folder.exists("ids/deep/a.png")
    assert folder.show("ids/deep/a.png") == f"{root}/new/ids/deep/a.png"
    assert list(folder.files("ids")) == ["ids/deep/a.png"]
    assert list(folder.files("color")) == []

    def full(self, path, value, **kwargs):
        Path(path).write_bytes(value[:1])
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(deadly_files.DeadlyFileSystem, "pipe_file", full)
        with pytest.raises(OSError, match="the disk is full") as caught:
            folder.write("ids/deep/a.png", b"second")
    assert caught.value.filename == f"{root}/new/ids/deep/a.png"
    assert [path.name for path in (tmp_path / "in/new/ids/deep").iterdir()] == ["a.png"]
    assert folder.read("ids/deep/a.png") == b"first"
    folder.write("ids/deep/a.png", b"second")
    assert folder.read("ids/deep/a.png") == b"second"
    folder.remove("ids/deep/a.png")
    assert not folder.exists("ids/deep/a.png")
    with pytest.raises(FileNotFoundError, match=f"{root}/new/ids/deep/a.png"):
        folder.read("ids/deep/a.png")


def test_a_result_that_would_replace_an_input_is_refused(root):
    sources = find_remote_images(f"{root}/out/ids", RemoteFolder(f"{root}/other"))
    with pytest.raises(UserError, match=r"out/ids/e\.png: a result would replace this input"):
        Sink(RemoteFolder(f"{root}/out"), LABELS, ["ids"]).check(sources)
    Sink(RemoteFolder(f"{root}/out"), LABELS, ["color"]).check(sources)


def test_a_key_that_leads_out_of_the_output_has_no_result():
    (source,) = _sources("../a.png")
    assert Sink(Path("out"), LABELS, ["ids"]).unnameable([source]) == {
        source.path: "s3://data/in/../a.png: a name with ..: rename it"
    }


def _sources(*names):
    from dlaseg.inference.remote import RemoteSource

    return [
        RemoteSource(URLPath.of(f"s3://data/in/{name}"), Path(name), fs=None, key=f"data/in/{name}", size=1)
        for name in names
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://x", "memory://x: every worker has a memory of its own"),
        ("gs://x", r"gs://x: gs:// needs another package, on all nodes of the cluster: pip install gcsfs"),
        ("sorcery://x", "sorcery://x: Protocol not known: sorcery: use a folder, or a URL such as s3://BUCKET/FOLDER"),
    ],
)
def test_protocols_that_do_not_work_are_refused(monkeypatch, url, message):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=message):
        open_url(url)


@pytest.fixture
def refused(capsys, weights, tmp_path):
    """Calls `dlaseg infer`, which has to refuse with one line and to write nothing; returns the line."""
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")

    def run(*words, name="a.png"):
        before = sorted(tmp_path.rglob("*"))
        path = name if is_url(name) else str(tmp_path / name)
        assert main(["infer", str(weights), path, str(tmp_path / "out"), *words]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        output, errors = capsys.readouterr()
        assert output == ""
        (line,) = errors.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers: not an option of --engine local: leave it out, or use --engine ray"),
        (["--engine", "ray", "--all-frames"], "--all-frames: not an option of --engine ray"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: use 1 to 10000"),
        (["--engine", "ray", "--device", "cuda:1"], "device cuda:1: Ray gives each worker its device"),
        (["--engine", "ray", "--save", "colour"], "save 'colour': results are saved as one or more of"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "the Ray client does not do"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1 (["),
    ],
)
def test_wrong_options_are_refused(refused, words, message):
    assert message in refused(*words)


def test_urls_and_missing_packages_are_refused(refused, monkeypatch):
    assert "s3://data/in: a URL: `dlaseg infer --engine ray` reads and writes URLs" in refused(name="s3://data/in")
    with pytest.raises(UserError, match="s3://data/out: a URL"):
        infer("camvid", "in", "s3://data/out")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "--engine ray needs ray: pip install 'dlaseg[ray]'" in refused("--engine", "ray")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "URLs need fsspec: pip install 'dlaseg[ray]'" in refused("--engine", "ray", name="s3://data/in")


def test_a_hidden_image_that_is_named_itself_is_taken(root):
    (single,) = find_remote_images(f"{root}/a/.hidden.png", RemoteFolder(f"{root}/out"))
    assert single.relative == Path(".hidden.png")


def test_a_file_that_is_too_large_is_not_fetched(root, monkeypatch):
    (source,) = find_remote_images(f"{root}/b.png", RemoteFolder(f"{root}/out"))
    object.__setattr__(source, "size", 10**9)
    monkeypatch.setattr(deadly_files.DeadlyFileSystem, "cat_file", lambda *_: pytest.fail("fetched"))
    with pytest.raises(UserError, match=r"b\.png: a file of 1\.0 GB: larger than an image of 100 pixels"):
        source.open(100)


def test_too_little_memory_for_a_file_is_no_matter_of_the_store(root, monkeypatch):
    def full(*_):
        raise MemoryError

    (source,) = find_remote_images(f"{root}/b.png", RemoteFolder(f"{root}/out"))
    monkeypatch.setattr(deadly_files.DeadlyFileSystem, "cat_file", full)
    with pytest.raises(MemoryError):
        source.open(100)


def test_a_key_with_dots_is_listed_for_the_sink_to_refuse(root, tmp_path, monkeypatch):
    key = f"{tmp_path}/in/../a.png"
    monkeypatch.setattr(deadly_files.DeadlyFileSystem, "find", lambda *_, **__: {key: {"size": 9}})
    (source,) = find_remote_images(root, RemoteFolder(f"{root}/out"))
    assert source.relative == Path("../a.png")


def test_what_others_have_written_since_is_seen(root, monkeypatch):
    calls = []
    monkeypatch.setattr(deadly_files.DeadlyFileSystem, "invalidate_cache", lambda self, path=None: calls.append(path))
    folder = RemoteFolder(f"{root}/out")
    find_remote_images(root, folder)
    assert len(calls) == 1
    assert folder.exists("ids/e.png")
    assert len(calls) == 2


def test_results_are_not_written_to_archives(root):
    with pytest.raises(UserError, match="results are not written to archives: use a folder or an object store"):
        RemoteFolder(f"simplecache::{root}/new")
