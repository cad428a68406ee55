"""`infer --engine ray` on this machine: the results of the local engine, whatever happens to workers."""

import csv
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import deadly_files
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from dlaseg import create_model, save_model
from dlaseg.cli import main
from dlaseg.inference.ray_cluster import ray_cluster
from dlaseg.inference.run import infer

# Ray warns of its own settings
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images of several sizes and formats, and of files that fail."""
    root = tmp_path_factory.mktemp("images")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)
        path = root / ("sub/deeper" if number % 3 else "") / f"{number}{'.jpg' if number % 2 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name in ("kills_reader", "kills_writer"):
        shutil.copy(root / "0.png", root / f"{name}.png")
    (root / "broken, or not.png").write_text("not an image", encoding="utf-8")
    (root / "sub/empty.jpg").touch()
    shutil.copy(root / "0.png", root / "3.png")  # beside 3.jpg
    Image.new("L", (40, 30)).save(root / "large.png")
    (root / ".hidden.png").touch()
    (root / "notes.txt").touch()
    return root


SUPPORT = Path(deadly_files.__file__).parent
FAILED = ["3.jpg", "3.png", "broken, or not.png", "large.png", "sub/empty.jpg"]
OPTIONS = ["--max-pixels", "1000", "--backend", "torch"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a network that the processes of the cluster know, too."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_model(create_model("dla46_c", 6, stride=8), path)
    return path


@pytest.fixture(scope="module")
def local_results(weights, images, tmp_path_factory):
    """What the local engine writes, by relative path."""
    return infer_locally(weights, images, tmp_path_factory.mktemp("local") / "out", "torch")


def infer_locally(weights, images, output, backend):
    summary = infer(weights, images, output, backend=backend, device="cpu", max_pixels=1000)
    assert [path.relative_to(images).as_posix() for path, _ in summary.failed] == FAILED
    assert summary.written == 6
    return tree(output)


def tree(folder):
    """Relative path and content of all files but hidden ones."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def ray_settings(tmp_path_factory):
    """What a cluster on this machine reads from the environment when it is started."""
    folder = tempfile.mkdtemp(prefix="ray")  # names of sockets are short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # of the file that names the cluster, too: its folder has to be there
        Path(folder, "ray").mkdir()
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # its servers listen to this machine alone
        patch.setenv("DEADLY_LOG", str(tmp_path_factory.mktemp("deadly") / "kills.log"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
        import ray  # noqa: F401

        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)  # the same, if ray was imported before
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(ray_settings):
    """Two nodes of one core, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1", "127.0.0.1"]
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def infer_with_ray(capfd, *words, code):
    """Standard output and the lines of standard error of `dlaseg infer --engine ray`, whose exit code is checked."""
    capfd.readouterr()
    assert main(["infer", "--engine", "ray", *OPTIONS, *map(str, words)]) == code
    output, errors = capfd.readouterr()
    return output, errors.splitlines()


def failed_images(table):
    """The images that a `failed.csv` lists, and their messages."""
    return [(row["image"], row["error"]) for row in csv.DictReader(table.decode().splitlines())]


@pytest.fixture(scope="module")
def bucket(images, exported):
    """An S3 server on this machine with a bucket `data`: images and weights."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {"key": "user", "secret": "secret", "endpoint_url": f"http://127.0.0.1:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", options)
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        fs.mkdir("data")
        fs.put(f"{images}/", "data/in/", recursive=True)
        fs.put(str(exported(".onnx")), "data/weights.onnx")
        yield fs
    server.stop()


def test_urls_from_weights_to_results(ray_settings, bucket, exported, images, tmp_path, capfd):
    """On a cluster that is started for it; an exported file, with which its processes need no torch."""
    expected = infer_locally(exported(".onnx"), images, tmp_path / "out", "onnxruntime")
    urls = ["s3://data/weights.onnx", "s3://data/in", "s3://data/in/out/"]
    output, _ = infer_with_ray(capfd, *urls, "--backend", "onnxruntime", code=2)
    assert output.splitlines()[0] == "6 written, 0 skipped (already exist), 5 failed  s3://data/in/out/"
    results = {name.removeprefix("data/in/out/"): bucket.cat_file(name) for name in bucket.find("data/in/out")}
    failed = failed_images(results.pop("failed.csv"))
    assert results == expected
    assert [image for image, _ in failed] == [f"s3://data/in/{name}" for name in FAILED]


@pytest.mark.slow  # Ray Data was seen to wait for minutes after a death on a busy machine
def test_killed_workers_change_no_result(cluster, weights, images, local_results, tmp_path, capfd):
    log = Path(os.environ["DEADLY_LOG"])
    log.touch()
    output, errors = infer_with_ray(capfd, weights, f"deadly://{images}", f"deadly://{tmp_path}/out", code=2)
    kills = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    assert sorted(name for name, _ in kills) == ["kills_reader", "kills_writer"]
    assert str(os.getpid()) not in [pid for _, pid in kills]
    results = tree(tmp_path / "out")
    failed = failed_images(results.pop("failed.csv"))
    assert results == local_results
    assert [image for image, _ in failed] == [f"deadly://{images}/{name}" for name in FAILED]
    assert failed[2][1] == "broken or not an image: replace or remove the file"
    summary, _ = output.splitlines()
    assert summary == f"6 written, 0 skipped (already exist), 5 failed  deadly://{tmp_path}/out"
    assert [f"dlaseg infer: {image}: {error}" for image, error in failed] == errors[-5:]


@pytest.mark.slow
def test_a_second_run_does_what_is_missing_alone(cluster, bucket, weights, images, local_results, capfd):
    bucket.put(str(weights), "data/weights.safetensors")
    if bucket.exists("data/in/out"):
        bucket.rm("data/in/out", recursive=True)
    urls = ["s3://data/weights.safetensors", "s3://data/in", "s3://data/in/out/"]
    infer_with_ray(capfd, *urls, code=2)
    bucket.rm_file("data/in/out/ids/sub/deeper/4.png")
    bucket.rm([f"data/in/{name}" for name in FAILED])
    output, _ = infer_with_ray(capfd, *urls, code=0)
    assert output.splitlines()[0] == "1 written, 5 skipped (already exist), 0 failed  s3://data/in/out/"
    assert bucket.cat_file("data/in/out/ids/sub/deeper/4.png") == local_results["ids/sub/deeper/4.png"]
    assert not bucket.exists("data/in/out/failed.csv")
    (refused,) = infer_with_ray(capfd, *urls, "--keep-suffix", code=2)[1]
    assert "s3://data/in/out: holds results of other options (keep_suffix False, now True)" in refused


def test_a_cluster_that_is_started_is_private(monkeypatch):
    """Ray's own defaults report its use, and show pages and its workers' output."""
    import ray

    for name in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with ray_cluster(None, workers=50, cpus=2, weights_size=10**6):
        assert (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]) == ("0", "0")
        assert sys.stdout is sys.stderr
    options, end = calls
    assert end == "shutdown"
    assert options["address"] == "local"
    assert (options["include_dashboard"], options["log_to_driver"]) == (False, False)
    assert options["num_cpus"] == 100
    assert options["object_store_memory"] < 2e8
