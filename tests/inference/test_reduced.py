"""Images larger than those of the training are computed at a smaller size; results have the size of the image."""

import json
import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from dlaseg import UserError, create_model, load_model, save_model
from dlaseg.cli import main
from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.export import int8
from dlaseg.export.export import export
from dlaseg.inference.backends.exported import read_graph
from dlaseg.inference.backends.reduced import ReducedBackend
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.ray_worker import PredictorSpec, try_out
from dlaseg.inference.run import infer
from dlaseg.label_images import read_label_image
from dlaseg.metadata import ModelMetadata, reduction

LIMIT = 40


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_model():
    torch.manual_seed(0)
    model = create_model(TINY, 6, stride=4).eval()
    with torch.no_grad():
        model.head.bias -= model.coarse_logits(torch.randn(1, 3, 64, 64)).mean((0, 2, 3))
    model.metadata = replace(model.metadata, max_short_side=LIMIT, training_short_side=30)
    return model


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def enlarged(image, factor):
    return image.repeat(factor, 0).repeat(factor, 1)


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(32, 3000))
def test_the_factor_is_the_smallest_that_leaves_a_short_side_within_the_limit(height, width, limit):
    factor = reduction(height, width, limit)
    assert min(height, width) <= factor * limit
    assert factor == 1 or min(height, width) > (factor - 1) * limit
    assert reduction(height, width, None) == 1


@settings(max_examples=15)
@given(st.integers(LIMIT + 1, 200), st.integers(LIMIT + 1, 200), st.booleans())
def test_labels_are_those_of_the_means_of_blocks_with_logits_of_the_whole_size(height, width, arrays):
    model = make_model()
    predictor = Predictor(model, device="cpu")
    predictor.backend.arrays = arrays
    image, k = noise(height, width), -(-min(height, width) // LIMIT)
    padded = np.pad(image, ((0, -height % k), (0, -width % k), (0, 0)), "edge").astype(float)
    means = padded.reshape(padded.shape[0] // k, k, -1, k, 3).mean((1, 3))
    seen = []
    run = predictor.backend.run
    predictor.backend.run = lambda images: run(seen.append(np.asarray(images)) or images)
    labels = predictor(image)
    assert labels.shape == (height, width)
    np.testing.assert_allclose(seen[0][0].transpose(1, 2, 0), means, atol=0.5 + 1e-6)
    reduced = torch.from_numpy(seen[0].copy())
    with torch.inference_mode():
        coarse = model.coarse_logits(normalize(reduced, model.metadata.mean, model.metadata.std))
    logits = F.interpolate(coarse, scale_factor=4.0 * k, mode="bilinear")[0, :, :height, :width].numpy()
    rival = np.sort(logits, 0)
    certain = rival[-1] - rival[-2] > 1e-4
    assert certain.mean() > 0.95
    np.testing.assert_array_equal(labels[certain], logits.argmax(0)[certain])


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"scales": [0.5, 1.0]}], ids=str)
def test_every_way_to_predict_gives_at_the_centres_what_the_small_image_has(model, options):
    small, k = noise(36, 52), 3
    image = enlarged(small, k)
    own, large = Predictor(model, device="cpu", **options), Predictor(model, device="cpu", **options)
    expected = own.probabilities(small)
    centres = (..., slice(k // 2, None, k), slice(k // 2, None, k))
    # An average of scales is interpolated once more
    atol = 1e-5 if "scales" not in options else 0.05
    np.testing.assert_allclose(large.probabilities(image)[centres], expected, atol=atol)
    assert large.probabilities(image).shape == (6, *image.shape[:2])
    sure = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 2 * atol
    wanted = expected.argmax(0)[sure]
    pixels = to_tensor(image)[None]
    with_probabilities, probabilities = large.segment(image, probabilities=True)
    labels, confidence = large.predict_with_confidence(pixels)
    for found in (large(image), large.predict(pixels)[0].numpy(), with_probabilities, labels[0].numpy()):
        assert found.shape == image.shape[:2]
        np.testing.assert_array_equal(found[centres][sure], wanted)
    np.testing.assert_allclose(confidence[0].numpy()[centres], expected.max(0), atol=atol)
    np.testing.assert_allclose(probabilities[centres], expected, atol=atol + 0.001)


def test_a_reduced_image_needs_the_memory_of_a_small_one(model):
    budget = MemoryBudget(Predictor(model, device="cpu").backend, None, (1.0,), False)
    plain, reduced = budget.needed(2048, 2048), budget.reduced(4).needed(2048, 2048)
    assert reduced == budget.needed(512, 512) < plain / 10
    assert budget.reduced(4).pixels(2048, 2047) == budget.pixels(512, 512)
    # Probabilities are of the whole image
    assert budget.reduced(4).needed(2048, 2048, 100) == reduced + 100 * 2048**2


@pytest.mark.parametrize(
    "output",
    [*(pytest.param(output, marks=pytest.mark.slow) for output in ("coarse_logits", "logits")), "labels"],
)
def test_exported_files_carry_the_limit(model, tmp_path, output):
    pytest.importorskip("openvino")
    save_model(model, tmp_path / "a.safetensors")
    export(tmp_path / "a.safetensors", tmp_path / "a.xml", input="pixels", output=output)
    assert read_graph(tmp_path / "a.xml").metadata.max_short_side == LIMIT
    assert read_graph(tmp_path / "a.xml").metadata.training_short_side == 30
    assert json.loads((tmp_path / "a.xml.json").read_text())["max_short_side"] == LIMIT
    predictor = Predictor(tmp_path / "a.xml")
    small = noise(36, 52)
    image = enlarged(small, 3)[:-1]
    found = predictor(image)
    assert found.shape == image.shape[:2]
    assert (found[1::3, 1::3] == predictor(small)).mean() > 0.999
    if output == "labels":
        np.testing.assert_array_equal(found, enlarged(found[::3, ::3], 3)[:-1])


def test_the_limit_is_saved_loaded_and_set_aside(model, tmp_path):
    save_model(model, tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").metadata.max_short_side == LIMIT
    assert create_model(TINY, 6, stride=4, weights=tmp_path / "a.safetensors").metadata.max_short_side == LIMIT
    assert main(["weights", "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]) == 0
    image = noise(90, 90)
    b = Predictor(tmp_path / "b.safetensors", device="cpu")
    assert b.max_short_side == LIMIT
    unlimited = Predictor(tmp_path / "b.safetensors", device="cpu", max_short_side=0)
    assert unlimited.max_short_side is None
    plain = replace(model.metadata, max_short_side=None)
    other = load_model(tmp_path / "a.safetensors")
    other.metadata = plain
    np.testing.assert_array_equal(unlimited(image), Predictor(other, device="cpu")(image))
    assert (b(image) != unlimited(image)).any()
    np.testing.assert_array_equal(Predictor(other, device="cpu", max_short_side=LIMIT)(image), b(image))


@pytest.mark.parametrize("side", [-1, 31, 100_001, 540.0, "540", True, 10**30])
def test_a_limit_that_is_none_is_refused(model, side):
    with pytest.raises(UserError, match=r"^max_short_side .{1,90}: use an integer from 32 to 100000"):
        Predictor(model, device="cpu", max_short_side=side)
    with pytest.raises(UserError, match=r"^max_short_side .{1,90}: use an integer from 32 to 100000"):
        ModelMetadata(max_short_side=side)


def test_a_file_with_a_limit_of_nonsense_is_refused(model, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_model(model, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        entries = file.metadata()
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", {**entries, "max_short_side": "[540]"})
    with pytest.raises(UserError, match=r"b\.safetensors: max_short_side \[540\]: use an integer"):
        load_model(tmp_path / "b.safetensors")


def test_it_is_said_once(model, caplog):
    caplog.set_level(logging.INFO)
    predictor = Predictor(model, device="cpu")
    predictor(noise(40, 70))
    assert not caplog.messages
    for size in (41, 70, 200):
        predictor(noise(size, 210))
    (message,) = caplog.messages
    assert message.startswith("41 x 210 pixels: computed at 1/2 of this size")


def test_results_of_another_limit_are_not_mixed(model, tmp_path, capsys):
    save_model(model, tmp_path / "a.safetensors")
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(90, 120)).save(tmp_path / "in/a.png")
    weights, images, out = (str(tmp_path / name) for name in ("a.safetensors", "in", "out"))
    infer(weights, images, out, ["ids"], backend="torch", device="cpu")
    labels = read_label_image(tmp_path / "out/ids/a.png")
    np.testing.assert_array_equal(labels, Predictor(model, device="cpu")(noise(90, 120)))
    command = ["infer", weights, images, out, "--save", "ids", "--backend", "torch", "--device", "cpu"]
    assert main([*command, "--max-short-side", "0"]) == 2
    assert "max_short_side 40, now None" in capsys.readouterr().err
    assert main([*command, "--max-short-side", "0", "--overwrite"]) == 0
    assert (read_label_image(tmp_path / "out/ids/a.png") != labels).any()
    assert main([*command, "--max-short-side", "7"]) == 2
    assert "max_short_side 7: use" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "found"), [(None, LIMIT), (0, None), (64, 64)])
def test_the_processes_of_a_cluster_have_the_limit(model, tmp_path, given, found):
    save_model(model, tmp_path / "a.safetensors")
    files = {"a.safetensors": (tmp_path / "a.safetensors").read_bytes()}
    spec = PredictorSpec("a.safetensors", "torch", "float32", torch.get_num_threads(), 0, max_short_side=given)
    assert spec.make(files).max_short_side == found
    again = try_out(spec, files, pickle.dumps(None))
    assert again.make(files).max_short_side == found
    assert (again.max_short_side or None) == found


def test_int8_is_calibrated_on_what_the_network_gets(model):
    image = enlarged(noise(36, 52), 3)
    np.testing.assert_array_equal(int8._input(image, model, "pixels")[0], noise(36, 52))
    assert int8._input(image, model, "normalized").shape == (1, 3, 36, 52)
    np.testing.assert_array_equal(int8._input(noise(36, 52), model, "pixels")[0], noise(36, 52))


def test_the_adapter_hands_on_what_it_does_not_change(model):
    backend = Predictor(model, device="cpu").backend
    reduced = ReducedBackend(backend, 4)
    assert (reduced.stride, reduced.multiple) == (16, backend.multiple * 4)
    same = ("name", "precision", "device", "arrays", "metadata", "scales", "input", "output", "max_streams")
    assert all(getattr(reduced, name) == getattr(backend, name) for name in same)
    reduced.streams = 3
    assert backend.streams == reduced.streams == 3
    per_pixel, fixed = backend.memory_needed()
    assert reduced.memory_needed() == (per_pixel / 16, fixed)


# Images of other sizes than those of the training, of weights without a limit


def trained_at(side, limit=None):
    model = make_model()
    model.metadata = replace(model.metadata, max_short_side=limit, training_short_side=side)
    return model


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ((72, 90), "--max-short-side 54 "),
        ((90, 72), "--max-short-side 54 "),
        ((300, 400), "--max-short-side 54 "),
        ((71, 500), None),
        ((19, 30), None),
        ((18, 300), "--scales 2 "),
        ((11, 11), "--scales 3 "),
        ((1, 500), "--scales 10 "),
    ],
)
def test_images_of_twice_or_half_the_size_of_those_of_the_training_are_told_once(size, advice, caplog):
    predictor = Predictor(trained_at(36), device="cpu")
    for _ in range(2):
        predictor(noise(*size))
    messages = [record.getMessage() for record in caplog.records if "of the training" in record.getMessage()]
    assert len(messages) == (advice is not None)
    if advice:
        assert messages[0].startswith(
            f"{size[0]} x {size[1]} pixels, and the images of the training have a shorter side of"
        )
        assert advice in messages[0]


@pytest.mark.parametrize(
    ("side", "options", "size"),
    [
        (None, {}, (300, 300)),
        (36, {"max_short_side": 0}, (300, 300)),
        (36, {"max_short_side": 54}, (300, 300)),
        (36, {"max_short_side": 0}, (9, 9)),
        (36, {"scales": [1.0]}, (300, 300)),
        (36, {"scales": [2.0]}, (18, 18)),
    ],
)
def test_who_has_decided_on_a_size_is_told_nothing(side, options, size, caplog):
    Predictor(trained_at(side), device="cpu", **options)(noise(*size))
    assert "of the training" not in caplog.text


def test_the_limit_of_the_weights_decides_on_large_images_alone(caplog):
    predictor = Predictor(trained_at(36, limit=200), device="cpu")
    predictor(noise(300, 300))
    assert "of the training" not in caplog.text
    predictor(noise(18, 18))
    assert "--scales 2 " in caplog.text


def test_a_file_keeps_the_size_of_the_training_without_a_limit(tmp_path):
    save_model(trained_at(36), tmp_path / "a.safetensors")
    started = create_model(TINY, 6, stride=4, weights=tmp_path / "a.safetensors")
    for metadata in (load_model(tmp_path / "a.safetensors").metadata, started.metadata):
        assert (metadata.max_short_side, metadata.training_short_side) == (None, 36)


@pytest.mark.parametrize("side", [0, -1, 100_001, 36.0, "36", True])
def test_a_size_of_the_training_that_cannot_be_is_refused(side):
    with pytest.raises(UserError, match=r"^training_short_side .{1,20}: use an integer from 1 to 100000"):
        ModelMetadata(training_short_side=side)
