"""What a worker of `infer --engine ray` does, without a cluster."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import deadly_files
import numpy as np
import pytest
import ray
from PIL import Image

from dlaseg import UserError
from dlaseg.inference import ray_engine, ray_worker
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.inference.folders import LocalFolder
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.ray_cluster import place_workers
from dlaseg.inference.ray_deaths import Deaths
from dlaseg.inference.ray_engine import _read_weights
from dlaseg.inference.ray_worker import (
    ATTEMPTS,
    PredictorSpec,
    Task,
    Worker,
    WorkerContext,
    try_out,
)
from dlaseg.inference.run import infer
from dlaseg.inference.sources import Source


class Killed(BaseException):
    """Stands for the end of the worker's process."""


class Handle:
    """Calls of an actor, without an actor."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> SimpleNamespace:
        method: Callable[..., Any] = getattr(self._actor, name)
        return SimpleNamespace(remote=method)


@pytest.fixture
def tasks(tmp_path):
    """A task for each of three images."""
    for name in "abc":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{name}.png")
    paths = sorted(tmp_path.glob("*.png"))
    return [Task(7 + i, (Source(path, path.relative_to(tmp_path)),), ("ids",)) for i, path in enumerate(paths)]


@pytest.fixture
def context(tmp_path):
    folder = LocalFolder(tmp_path / "out")
    folder.write("infer.json", b"settings")
    return WorkerContext(PredictorSpec("w.safetensors", "torch", "float32", 1, 0), folder, b"settings", False, 1000)


@pytest.fixture
def call(weights, monkeypatch):
    """Calls a new worker with tasks; returns the outcome."""
    monkeypatch.setattr(ray, "get", lambda result: result)

    def call_worker(context, tasks, deaths=None):
        files = {"w.safetensors": weights.read_bytes()}
        worker = Worker(pickle.dumps(context), files, Handle(deaths or Deaths()))
        batch = worker({"task": np.array([pickle.dumps(task) for task in tasks], dtype=object)})
        (outcome,) = batch["outcome"]
        return pickle.loads(outcome)

    return call_worker


def test_a_file_at_which_workers_die_fails_and_the_others_of_its_batch_are_done(
    call, context, tasks, tmp_path, monkeypatch
):
    deaths, predict, seen = Deaths(), Predictor.__call__, []
    deadly = Image.new("RGB", (31, 20))
    deadly.save(tmp_path / "b.png")

    def predict_or_die(self, image):
        seen.append(image.shape[1])
        if image.shape[1] == 31:
            raise Killed
        return predict(self, image)

    monkeypatch.setattr(Predictor, "__call__", predict_or_die)
    for _ in range(1 + ATTEMPTS):  # first all files of the batch at a time
        with pytest.raises(Killed):
            call(context, tasks, deaths)
    outcome = call(context, tasks, deaths)
    assert seen.count(31) == 1 + ATTEMPTS
    assert outcome.error is None
    assert outcome.summary.written == 2
    ((path, message),) = outcome.summary.failed
    assert message == f"{path}: its worker died 3 times, usually for lack of memory: use fewer --workers"
    assert sorted(path.name for path in (tmp_path / "out/ids").glob("[!.]*")) == ["a.png", "c.png"]


def test_deaths_of_other_batches_do_not_count():
    deaths = Deaths()
    assert deaths.start(0) is None
    assert deaths.start(5) is None
    assert deaths.start(0) == {}
    deaths.at(0, 1)
    assert deaths.start(5) == {}
    assert deaths.start(0) == {1: 1}
    assert deaths.start(0) == {1: 1}


def test_another_folder_of_the_same_name_is_refused(call, context, tasks, tmp_path):
    (tmp_path / "out/infer.json").write_text("other", encoding="utf-8")
    outcome = call(context, tasks)
    assert f"{tmp_path}/out: not the same folder on node" in outcome.error
    (tmp_path / "out/infer.json").unlink()
    assert f"{tmp_path}/out: not the same folder on node" in call(context, tasks).error
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_a_folder_that_cannot_be_written_to_ends_the_run(call, context, tasks, tmp_path):
    (tmp_path / "out/ids").write_text("a file", encoding="utf-8")
    assert "out/ids/a.png: cannot be written" in call(context, tasks).error


def test_a_missing_package_is_named_and_a_defect_is_raised(call, context, tasks, monkeypatch):
    class Elsewhere:
        def __reduce__(self):
            return __import__, ("a_package_of_another_node",)

    outcome = call(Elsewhere(), tasks)
    assert outcome.error == (
        "a node of the cluster lacks a package (No module named 'a_package_of_another_node'): install the same "
        "packages on all nodes"
    )

    def defect(self, image):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Predictor, "__call__", defect)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        call(context, tasks)


def test_a_predictor_is_made_with_what_auto_is_on_the_node(weights):
    spec = PredictorSpec("weights.safetensors", "torch", "auto", 1, 0)
    files = {"weights.safetensors": weights.read_bytes()}
    resolved = try_out(spec, files, pickle.dumps(()))
    assert resolved.precision == Predictor(weights, device="cpu", precision="auto").backend.precision != "auto"
    other = PredictorSpec("weights.safetensors", "torch", "float32", 1, 0, version="0.0.1")
    with pytest.raises(UserError, match=r"dlaseg .* on node .*, 0\.0\.1 where the run was started: install the same"):
        try_out(other, files, pickle.dumps(()))


@pytest.mark.parametrize(
    ("found", "asked"),
    [("int8", "float32"), ("int8+bfloat16", "bfloat16"), ("float32", "float32"), ("auto", "auto")],
)
def test_int8_is_no_precision_that_workers_ask_for(monkeypatch, found, asked):
    monkeypatch.setattr(ray_worker, "Predictor", lambda *arguments, **_: arguments[3])
    assert PredictorSpec("model.xml", "openvino", found, 1, 0).make({}) == asked


def test_workers_have_the_options_of_the_local_engine(call, context, tasks, weights, tmp_path):
    spec = replace(context.predictor, scales=(0.5, 1.0), flip=True)
    assert not call(replace(context, predictor=spec, ids="train"), tasks).summary.failed
    infer(weights, tmp_path / "a.png", tmp_path / "local", ["ids"], scales=(0.5, 1.0), flip=True, ids="train")
    assert (tmp_path / "out/ids/a.png").read_bytes() == (tmp_path / "local/ids/a.png").read_bytes()
    infer(weights, tmp_path / "a.png", tmp_path / "plain", ["ids"], ids="train")
    assert (tmp_path / "out/ids/a.png").read_bytes() != (tmp_path / "plain/ids/a.png").read_bytes()


@pytest.mark.parametrize("at", ["{folder}/", f"{deadly_files.DeadlyFileSystem.protocol}://{{folder}}/"])
def test_an_openvino_file_goes_to_the_workers_with_its_numbers(exported, exported_network, tmp_path, monkeypatch, at):
    monkeypatch.setenv("DEADLY_LOG", str(tmp_path / "kills.log"))
    path = exported(".xml")
    name, files, sha256, graph = _read_weights(f"{at.format(folder=path.parent)}{path.name}")
    assert (name, sorted(files)) == (path.name, [path.with_suffix(".bin").name, path.name])
    assert sha256 == exported_sha256(path)
    assert graph.metadata == exported_network.metadata
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    worker = PredictorSpec(name, "openvino", "float32", 1, 0).make(files)
    np.testing.assert_array_equal(worker(image), Predictor(path)(image))


def test_probabilities_of_a_file_of_labels_are_refused_before_a_cluster_is_started(exported, tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    path = exported(".onnx")
    with pytest.raises(UserError, match=r"^probabilities are computed from logits, and this file gives labels alone: "):
        ray_engine.infer(path, tmp_path / "a.png", tmp_path / "out", ["probabilities"])


def node(**resources):
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "arguments", "expected"),
    [
        ([node(CPU=16), node(CPU=6)], (None, None, "auto"), (5, 4, 0)),
        ([node(CPU=2)], (None, None, "auto"), (1, 2, 0)),
        ([node(CPU=2)], (2, None, "cpu"), (2, 1, 0)),
        ([node(CPU=8)], (20, None, "cpu"), (20, 1, 0)),  # more wait for nodes that may come
        ([node(CPU=16, GPU=2), node(CPU=16)], (None, None, "auto"), (2, 4, 1)),
        ([node(CPU=16, GPU=2), node(CPU=16)], (None, None, "cpu"), (8, 4, 0)),
        ([node(CPU=16), {"Alive": False, "Resources": {"CPU": 64.0}}], (None, 8, "auto"), (2, 8, 0)),
    ],
)
def test_workers_fill_the_cluster(nodes, arguments, expected):
    assert place_workers(nodes, *arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 17, "auto"), "no node of the cluster has 17 cores for a worker"),
        ((None, None, "cuda"), "no node of the cluster has 1 cores and a GPU for a worker"),
    ],
)
def test_a_cluster_without_room_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        place_workers([node(CPU=16)], *arguments)
