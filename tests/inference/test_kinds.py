"""What `infer` writes beside pictures, and what its options change."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from torch.nn import functional as F

from dlaseg import UserError, load_model
from dlaseg.cli import main
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, infer
from dlaseg.label_images import read_label_image

KINDS = ["ids", "probabilities", "contours"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in/street/a.png"
    path.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(noise).resize((50, 33), Image.Resampling.BILINEAR).save(path)
    return path


def plain_probabilities(model, image, scales=(1.0,), flip=False):
    """(C, H, W): the mean of the softmax of the model's own forward passes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.metadata.mean, model.metadata.std))
    x = ((torch.tensor(np.asarray(Image.open(image))).permute(2, 0, 1) / 255 - mean) / std)[None]
    passes = []
    for scale in scales:
        size = [round(33 * scale), round(50 * scale)]
        scaled = F.interpolate(x, size, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True)[: 1 + flip]:
            with torch.no_grad():
                logits = model.eval()(scaled.flip(3) if mirrored else scaled)
            logits = F.interpolate(logits.flip(3) if mirrored else logits, (33, 50), mode="bilinear")
            passes.append(logits.softmax(1)[0])
    return torch.stack(passes).mean(0).numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools' decode
@pytest.mark.parametrize("options", [{}, {"scales": (0.75, 1.0, 1.25), "flip": True}, {"scales": (2.0,)}])
def test_ids_probabilities_and_contours_are_of_one_prediction(weights, image, tmp_path, options):
    out, model = tmp_path / "out", load_model(weights)
    assert infer(weights, image.parents[1], out, KINDS, device="cpu", **options).written == 1
    expected = plain_probabilities(model, image, **options)

    with np.load(out / "probabilities/street/a.npz") as content:
        probabilities, classes = content["probabilities"], content["classes"]
    assert probabilities.dtype == np.float16
    assert classes.tolist() == [f"c{i}" for i in range(6)]
    np.testing.assert_allclose(probabilities.astype(float), expected, atol=0.0003)
    np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=6 * 0.00025)

    ids = read_label_image(out / "ids/street/a.png")
    chosen = np.take_along_axis(expected, ids[None].astype(int) // 10, 0)[0]
    np.testing.assert_allclose(chosen, expected.max(0), atol=1e-5)
    np.testing.assert_array_equal(
        ids, model.metadata.label_map.decode(Predictor(weights, device="cpu", **options)(image))
    )

    collection = json.loads((out / "contours/street/a.json").read_text())
    drawn = np.zeros_like(ids)
    for feature in collection["features"]:
        segmentation = feature["properties"]["segmentation"]
        assert coco.area(segmentation) == feature["properties"]["area"]
        drawn[coco.decode(segmentation) == 1] = feature["properties"]["id"]
    np.testing.assert_array_equal(drawn, ids)
    assert len(collection["features"]) > 1


def test_probabilities_take_one_pass_of_the_network(network, image, tmp_path, monkeypatch):
    passes = []
    run = Predictor.predict_with_probabilities
    monkeypatch.setattr(Predictor, "predict", None)
    monkeypatch.setattr(Predictor, "predict_with_probabilities", lambda *args: passes.append(1) or run(*args))
    assert infer(network, image, tmp_path / "out", KINDS, device="cpu").written == 1
    assert passes == [1]


def test_a_missing_kind_is_written_alone(network, image, tmp_path):
    out = tmp_path / "out"
    infer(network, image, out, ["ids", "contours"], device="cpu")
    assert infer(network, image, out, ["ids", "contours"], device="cpu") == InferSummary(skipped=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert infer(network, image, out, ["contours", "probabilities"], device="cpu").written == 1
    assert (out / "probabilities/a.npz").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_results_of_every_kind_are_replaced_with_other_settings(network, other_network, image, tmp_path):
    out = tmp_path / "out"
    infer(network, image, out, KINDS, device="cpu")
    (out / "ids/a.png").unlink()
    with pytest.raises(UserError, match="other weights"):
        infer(other_network, image, out, KINDS, device="cpu")
    with pytest.raises(UserError, match=r"a\.(json|npz): one of 2 results of other weights"):
        infer(other_network, image, out, ["ids"], overwrite=True, device="cpu")
    infer(other_network, image, out, KINDS, overwrite=True, device="cpu")
    infer(other_network, image, tmp_path / "fresh", KINDS, device="cpu")
    for name in ("ids/a.png", "probabilities/a.npz", "contours/a.json"):
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_label_maps_hold_stored_ids_or_train_ids(weights, image, tmp_path):
    for ids in ("raw", "train"):
        assert main(["infer", str(weights), str(image), str(tmp_path / ids), "--save", "ids", "--ids", ids]) == 0
    raw, train = (read_label_image(tmp_path / ids / "ids/a.png") for ids in ("raw", "train"))
    np.testing.assert_array_equal(train, Predictor(weights, device="cpu")(image))
    np.testing.assert_array_equal(raw, 10 * train + 7)
    assert len(np.unique(train)) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ids", "labels"], "--ids: invalid choice: 'labels' (choose from"),
        (["--save", "ids", "polygons"], "save 'polygons': results are saved as one or more of ids, color, overlay, "),
        (["--scales", "0.05"], "scale 0.05: use 0.1 to 10"),
        (["--scales", "x"], "--scales: x: expected a number"),
    ],
)
def test_wrong_options_are_refused_in_one_line(weights, image, tmp_path, capsys, words, message):
    assert main(["infer", str(weights), str(image), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="ids 'labels': unknown; use raw"):
        infer(weights, image, tmp_path / "out", ids="labels", device="cpu")
