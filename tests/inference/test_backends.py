"""Every backend computes what torch computes, for any batch and size."""

import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dlaseg_testing import TINY, TwoHeads
from image_files import save
from PIL import Image
from video_files import write_video

from dlaseg import create_model, load_model, save_model
from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.inference import run
from dlaseg.inference.backends import choice, conversion, graph, graph_cache, openvino
from dlaseg.inference.backends.base import UNKNOWN_PER_PIXEL
from dlaseg.inference.backends.choice import LARGEST_ERROR, graph_of, is_exact, kept_graph, make_backend
from dlaseg.inference.backends.graph import require
from dlaseg.inference.backends.graph_cache import noise
from dlaseg.inference.backends.openvino import OpenVINOBackend
from dlaseg.inference.folders import LocalFolder
from dlaseg.inference.network import WeightsFile
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import infer
from dlaseg.inference.settings import read_settings

pytestmark = pytest.mark.usefixtures("tiny_variant")

OTHERS = ["openvino", "onnxruntime"]
SIZES = [(1, 1, 1), (1, 1, 70), (2, 17, 5), (1, 33, 64), (3, 64, 32), (1, 63, 97)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model(TINY, 5, stride=8).eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="module", params=OTHERS)
def backend(request, model):
    return make_backend(request.param, model, "cpu", "float32")


def pixels(batch, height, width):
    generator = torch.Generator().manual_seed(batch * height * width)
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_any_batch_and_size_give_the_logits_of_torch(model, backend, size):
    images = pixels(*size)
    with torch.inference_mode():
        expected = model.coarse_logits(normalize(images, model.metadata.mean, model.metadata.std))
    logits = backend.run(images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_normalised_images_and_images_as_they_are_read_do_as_well(model, backend):
    images = pixels(2, 40, 50)
    normalized = normalize(images, model.metadata.mean, model.metadata.std)
    expected = backend.run(images)
    torch.testing.assert_close(backend.run(normalized), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    as_read = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(backend.run(as_read), expected, rtol=0, atol=0)


def test_results_stay_when_the_next_image_is_computed(backend):
    first = backend.run(pixels(1, 40, 40))
    kept = first.clone()
    backend.run(pixels(1, 40, 41))
    assert torch.equal(first, kept)


def test_tiles_begin_where_the_network_needs_it(model, backend):
    assert backend.multiple == model.multiple == 32


def test_a_backend_says_what_it_is(model, backend):
    assert backend.name in OTHERS
    assert backend.precision == "float32"
    assert backend.device == "cpu"
    assert backend.metadata == model.metadata
    assert backend.stride == 8
    assert backend.arrays
    assert backend.memory_needed() == (UNKNOWN_PER_PIXEL, 0)


def test_an_array_gives_an_array_and_a_tensor_a_tensor(model, backend):
    images = pixels(2, 40, 50)
    for each in (backend, make_backend("torch", model, "cpu", "float32")):
        for batch in (images, normalize(images, model.metadata.mean, model.metadata.std)):
            array = each.run(batch.numpy())
            assert isinstance(array, np.ndarray)
            assert torch.equal(each.run(batch), torch.from_numpy(array))


@pytest.mark.parametrize("name", OTHERS)
def test_label_maps_are_those_of_torch(model, name):
    images = [np.random.default_rng(i).integers(0, 256, (50, 60 + i, 3), np.uint8) for i in range(3)]
    expected = Predictor(model, "torch", "cpu", scales=[1, 1.5], flip=True)(images)
    for labels, other in zip(expected, Predictor(model, name, "cpu", scales=[1, 1.5], flip=True)(images), strict=True):
        assert (labels == other).mean() > 0.999


@pytest.fixture
def quick_conversion(tmp_path, monkeypatch):
    """An empty cache, and graphs that compute nothing."""
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "trace", lambda *_: None)
    monkeypatch.setattr(conversion, "to_onnx", lambda *_: onnx.ModelProto(producer_name="test"))


def test_a_model_is_converted_once(model, tmp_path, monkeypatch, quick_conversion):
    first = graph_of(model)
    monkeypatch.setattr(conversion, "to_onnx", None)
    assert graph_of(model) == first == kept_graph(model)
    assert first.path.is_relative_to(tmp_path / "cache")


def test_a_graph_is_valid_onnx(model):
    onnx.checker.check_model(graph_of(model).path)


def test_a_weights_file_is_converted_once_and_opened_no_more(weights, monkeypatch, quick_conversion):
    first = graph_of(WeightsFile(weights))
    monkeypatch.setattr(WeightsFile, "load", None)
    assert graph_of(WeightsFile(weights)) == first
    assert first.metadata == load_model(weights).metadata
    monkeypatch.setattr(graph_cache, "_code", lambda: "another network of these weights")
    assert kept_graph(WeightsFile(weights)) is None


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        *((suffix, "zeros") for suffix in (".json", ".npy", ".onnx")),
        (".json", None),
        *(pytest.param(suffix, None, marks=pytest.mark.slow) for suffix in (".npy", ".onnx")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in product((".json", ".npy", ".onnx"), (b"{}", b""))),
    ],
)
def test_a_graph_of_which_a_part_is_lost_is_made_again(weights, quick_conversion, suffix, content):
    first = graph_of(WeightsFile(weights))
    part = first.path.with_suffix(suffix)
    complete = part.read_bytes()
    part.unlink()
    if content is not None:
        part.write_bytes(bytes(len(complete)) if content == "zeros" else content)
    assert kept_graph(WeightsFile(weights)) is None
    assert graph_of(WeightsFile(weights)) == first
    assert part.read_bytes() == complete


def test_the_logits_that_a_backend_is_compared_with_are_those_of_torch(model):
    graph = graph_of(model)
    images = normalize(torch.from_numpy(noise(3)), model.metadata.mean, model.metadata.std)
    with torch.inference_mode():
        expected = model.coarse_logits(images)
    logits = torch.from_numpy(np.load(graph.reference))
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_other_weights_are_converted_again_and_the_oldest_graphs_go(tmp_path, quick_conversion):
    paths = []
    for seed in range(graph_cache.KEPT_GRAPHS + 2):
        torch.manual_seed(seed)
        paths.append(graph_of(TwoHeads(2)).path)
    assert len(set(paths)) == len(paths)
    kept = {path.stem for path in (tmp_path / "cache/graphs").iterdir()}
    assert kept == {path.stem for path in paths[2:]}


def test_a_cache_that_cannot_be_written_is_named(model, tmp_path, quick_conversion):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"cache.*: cannot be written .*: set DLASEG_CACHE to another folder"):
        graph_of(model)


def test_auto_takes_openvino_where_it_is_exact(model):
    assert make_backend("auto", model, "auto", "float32").name == ("torch" if torch.cuda.is_available() else "openvino")


def test_auto_takes_torch_where_openvino_is_not_exact(model, monkeypatch, caplog):
    run = OpenVINOBackend.run
    monkeypatch.setattr(OpenVINOBackend, "run", lambda *args: 1.01 * run(*args))
    with caplog.at_level(logging.WARNING):
        assert make_backend("auto", model, "cpu", "float32").name == "torch"
    assert "openvino does not compute this network exactly" in caplog.text


@pytest.mark.parametrize(("factor", "is_refused"), [(1.01, False), (1.2, True), (np.nan, True)])
def test_an_engine_that_computes_wrongly_is_refused(model, monkeypatch, factor, is_refused):
    run = OpenVINOBackend.run
    monkeypatch.setattr(OpenVINOBackend, "run", lambda *args: factor * run(*args))
    if not is_refused:
        assert make_backend("openvino", model, "cpu", "float32").name == "openvino"
        return
    with pytest.raises(
        UserError, match=r"backend openvino: its logits differ from torch's by .*: use the backend torch"
    ):
        make_backend("openvino", model, "cpu", "float32")


def test_a_gpu_is_looked_for_by_torch_unless_no_driver_has_made_its_file(tmp_path, monkeypatch):
    assert choice._has_no_gpu(tmp_path) == (sys.platform == "linux")
    (tmp_path / "nvidiactl").touch()
    assert not choice._has_no_gpu(tmp_path)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not choice._has_no_gpu(tmp_path / "none")


def test_auto_says_of_a_broken_file_no_more_than_what_is_wrong(tmp_path, caplog):
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="neither a safetensors file"):
        make_backend("auto", WeightsFile(tmp_path / "a.safetensors"), "cpu", "float32")
    assert not caplog.records


@pytest.mark.parametrize("missing", ["openvino", "onnxscript"])
def test_auto_takes_torch_without_openvino(model, tmp_path, monkeypatch, missing):
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path))
    find_spec = choice.importlib.util.find_spec
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: name != missing and find_spec(name))
    assert make_backend("auto", model, "cpu", "float32").name == "torch"


def test_not_finite_logits_are_not_exact(model):
    class NotFinite:
        metadata, precision = model.metadata, "float32"

        def run(self, images):
            return np.full((1, 5, 9, 13), np.nan, np.float32)

    expected = np.load(graph_of(model).reference)
    assert not is_exact(NotFinite(), expected)
    assert not is_exact(NotFinite(), NotFinite().run(None))
    assert not is_exact(NotFinite(), expected[..., :-1])


@pytest.mark.parametrize("gains", [True, False])
def test_bfloat16_is_computed_where_the_cpu_gains_from_it(model, monkeypatch, gains):
    monkeypatch.setattr(openvino, "computes_bfloat16", lambda: gains)
    assert make_backend("openvino", model, "cpu", "auto").precision == ("bfloat16" if gains else "float32")
    if not gains:
        with pytest.raises(UserError, match="precision bfloat16: not on this CPU"):
            make_backend("openvino", model, "cpu", "bfloat16")


@pytest.mark.parametrize("gains", [False, True])
def test_bfloat16_that_is_slower_than_float32_is_told(model, monkeypatch, caplog, gains):
    monkeypatch.setattr("dlaseg.inference.backends.torch.gains_from_bfloat16", lambda device: gains)
    make_backend("torch", model, "cpu", "float32")
    assert caplog.messages == []
    make_backend("torch", model, "cpu", "bfloat16")
    slower = "precision bfloat16: this CPU computes it more slowly than float32: use float32"
    assert caplog.messages == ([] if gains else [slower])


def test_float32_is_float32_also_on_a_cpu_that_has_bfloat16(model):
    """OpenVINO's own choice there would be bfloat16."""
    torch_backend = make_backend("torch", model, "cpu", "float32")
    backend = make_backend("openvino", model, "cpu", "float32")
    images = pixels(1, 65, 97)
    expected = torch_backend.run(images)
    assert float((backend.run(images) - expected).abs().max()) < LARGEST_ERROR["float32"] / 50 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "device", "precision", "message"),
    [
        ("tensorrt", "cpu", "float32", "backend 'tensorrt': unknown; use one of auto, torch, torch-compile, openvino"),
        ("openvino", "cuda", "float32", "device 'cuda': the backend openvino runs on the CPU"),
        ("openvino", "cpu", "float16", "precision 'float16': the backend openvino computes in"),
        ("onnxruntime", "cuda", "float32", "device cuda: this ONNX Runtime is the one for CPUs: use cpu"),
        ("onnxruntime", "cpu", "bfloat16", "precision 'bfloat16': the backend onnxruntime computes in float32"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(model, name, device, precision, message):
    with pytest.raises(UserError, match=message):
        make_backend(name, model, device, precision)


@pytest.mark.parametrize("name", OTHERS)
def test_a_missing_package_is_named_with_its_extra(model, monkeypatch, name):
    graph_of(model)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed: pip install 'dlaseg\[{name}\]'"):
        make_backend(name, model, "cpu", "float32")


def test_a_broken_package_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, content in (("broken", "raise ImportError('libx.so: no such file')"), ("lacking", "import no_such_one")):
        (tmp_path / f"{name}.py").write_text(content)
    with pytest.raises(UserError, match=r"^broken: cannot be imported \(libx.*\): pip install --force-reinstall"):
        require("broken", "dlaseg[broken]")
    with pytest.raises(UserError, match=r"^lacking: cannot be imported \(No module named 'no_such_one'\): pip install"):
        require("lacking", "dlaseg[lacking]")


def test_engines_report_nothing(monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    require("onnxruntime", "dlaseg[onnxruntime]")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.fixture
def convert_again(network, tmp_path, monkeypatch):
    """An empty cache, for which the network is not traced again."""
    converted = onnx.load(graph_of(network).path)
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "trace", lambda *_: None)
    monkeypatch.setattr(conversion, "to_onnx", lambda *_: converted)


def test_infer_converts_no_network_for_a_few_images(network, tmp_path, monkeypatch, convert_again):
    monkeypatch.setattr(run, "FEW", 3)
    for count, expected in ((2, "torch"), (3, "openvino"), (2, "openvino")):  # at last, it is converted already
        for index in range(count):
            Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f"{index}.png")
        images = [tmp_path / f"{index}.png" for index in range(count)]
        infer(network, images, tmp_path / "out", backend="auto", device="cpu", overwrite=True)
        assert read_settings(LocalFolder(tmp_path / "out")).backend == expected


def test_infer_continues_with_the_backend_that_it_began_with(weights, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / f"{name}.png")
    infer(weights, folder / "a.png", tmp_path / "out", backend="torch", device="cpu")
    summary = infer(weights, folder, tmp_path / "out", backend="auto", device="cpu")
    assert (summary.written, summary.skipped) == (1, 1)
    assert '"backend": "torch"' in (tmp_path / "out/infer.json").read_text()


def test_upsampling_stays_in_float32_where_the_rest_is_bfloat16(model):
    read = openvino.require("openvino", "").Core().read_model(graph_of(model).path)
    marked = openvino.mark_float32(read, openvino.TRANSPOSED)
    names = {"precise_0", "DisablePrecisionConversion_0"}  # in older and newer releases of OpenVINO
    kinds = {op.get_type_name() for op in marked.get_ops() if names & dict(op.get_rt_info()).keys()}
    assert kinds == {openvino.TRANSPOSED}
    assert sum(op.get_type_name() == openvino.TRANSPOSED for op in marked.get_ops()) == 3


def test_a_full_folder_of_temporary_files_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("basic_ios::clear:\niostream error")

    monkeypatch.setattr(openvino.require("openvino", ""), "save_model", fail)
    with pytest.raises(
        UserError, match=r"^/.*: cannot be written \(basic_ios::clear: iostream error\): make room, or set"
    ):
        openvino.mark_float32(None, openvino.TRANSPOSED)


def test_the_compiled_network_upsamples_in_float32(model, monkeypatch):
    monkeypatch.setattr(openvino, "computes_bfloat16", lambda: True)
    backend = make_backend("openvino", model, "cpu", "bfloat16")
    backend.run(pixels(1, 64, 64))
    (compiled,) = backend._compiled.values()
    operations = compiled.model.get_runtime_model().get_ordered_ops()
    precisions = {
        op.get_rt_info()["primitiveType"].astype(str).rpartition("_")[2]
        for op in operations
        if op.get_rt_info()["layerType"].astype(str) == "Deconvolution"
    }
    assert precisions == {"f32"}


def test_a_network_compiled_for_one_size_computes_the_same(model, monkeypatch):
    backend = make_backend("torch", model, "cpu", "float32")
    monkeypatch.setattr(openvino, "LARGE", 1)
    monkeypatch.setattr(openvino, "MOST_COMPILED", 99)
    fixed = OpenVINOBackend(graph_of(model))
    for size in (SIZES[0], SIZES[2], SIZES[-1]):
        expected = backend.run(pixels(*size))
        logits = fixed.run(pixels(*size))
        (compiled,) = fixed._compiled.values()
        assert compiled.shape == logits.permute(0, 2, 3, 1).shape
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        kept = logits.clone()
        assert not torch.equal(fixed.run(255 - pixels(*size)), kept)
        assert torch.equal(logits, kept)


def test_many_sizes_share_one_compiled_network(model, monkeypatch):
    monkeypatch.setattr(openvino, "LARGE", 40 * 40)
    monkeypatch.setattr(openvino, "MOST_COMPILED", 3)
    backend = OpenVINOBackend(graph_of(model))
    compile, shapes = backend._compile, []
    monkeypatch.setattr(backend, "_compile", lambda key: shapes.append(key.shape) or compile(key))
    for size in [(8, 8), (8, 9), (40, 41), (40, 41), (41, 40), (40, 41), (50, 50), (8, 8)]:
        backend.run(pixels(1, *size))
    assert shapes == [None, (1, 40, 41, 3), (1, 41, 40, 3), None]
    assert [key.shape for key in backend._compiled] == [None]


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_images_side_by_side_give_the_same(model, monkeypatch, large):
    monkeypatch.setattr(openvino, "LARGE", large)
    backend = make_backend("openvino", model, "cpu", "float32")
    images = [pixels(1, 40, 50 + number % 2) for number in range(6)]
    expected = [backend.run(image) for image in images]
    backend.streams = 3
    together = threading.Barrier(3, timeout=60)

    class Requests(openvino.SimpleQueue):
        def get(self):
            request = super().get()
            together.wait()  # until three threads have one
            return request

    monkeypatch.setattr(openvino, "SimpleQueue", Requests)
    with ThreadPoolExecutor(6) as pool:
        for logits, single in zip(pool.map(backend.run, images), expected, strict=True):
            torch.testing.assert_close(logits, single, rtol=0, atol=2e-5 * float(single.abs().max()))


def test_a_large_image_is_computed_alone(model, monkeypatch):
    monkeypatch.setattr(openvino, "SMALL", 40 * 50)
    backend = OpenVINOBackend(graph_of(model))
    backend.streams = 2
    for width in (50, 51):
        backend.run(pixels(1, 40, width))
    assert [key.streams for key in backend._compiled] == [2, 1]


@pytest.mark.slow
def test_torch_compile_computes_the_same():
    model = TwoHeads(3).eval()
    plain, compiled = (make_backend(name, model, "cpu", "float32") for name in ("torch", "torch-compile"))
    assert compiled.name == "torch-compile"
    for size in ((1, 1, 1), (1, 33, 70)):
        torch.testing.assert_close(compiled.run(pixels(*size)), plain.run(pixels(*size)))


def test_a_missing_compiler_is_named(monkeypatch):
    def fail(*_):
        raise torch._dynamo.exc.BackendCompilerFailed(None, RuntimeError("no such compiler\nin no folder"), None)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(UserError, match=r"^backend torch-compile: no such compiler: install a C\+\+ compiler, such"):
        make_backend("torch-compile", TwoHeads(7), "cpu", "float32")


@pytest.mark.slow
def test_torch_without_a_compiler_fails_as_it_is_expected_to(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or what was compiled before would be found
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=r"backend torch-compile: .*: install a C\+\+ compiler"):
        make_backend("torch-compile", TwoHeads(7), "cpu", "float32")


def test_openvino_is_loaded_once_and_never_unloaded():
    """Its libraries register what runs at a fork; unloading them makes the next fork crash."""
    assert graph.openvino_core() is graph.openvino_core()
    package = Path(graph.__file__).parents[2]
    makers = [path.name for path in package.rglob("*.py") if ".Core()" in path.read_text(encoding="utf-8")]
    assert makers == ["graph.py"]


def test_infer_converts_a_network_for_a_video(network, tmp_path, convert_again):
    path = write_video(tmp_path / "clip.avi", frames=2, fourcc="MJPG")
    infer(network, path, tmp_path / "out", ["ids"], backend="auto", device="cpu")
    assert read_settings(LocalFolder(tmp_path / "out")).backend == "openvino"


@pytest.mark.slow
def test_settings_of_other_weights_decide_no_backend(network, other_network, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "FEW", 1)
    path, out = save(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8)), tmp_path / "out"
    infer(network, path, out, ["ids"], backend="torch", device="cpu")
    (out / "ids/a.png").unlink()
    infer(other_network, path, out, ["ids"], backend="auto", device="cpu")
    assert read_settings(LocalFolder(out)).backend == "openvino"
