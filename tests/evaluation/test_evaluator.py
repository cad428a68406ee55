import hashlib
import json
import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY, foreign_defaults
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import dlaseg
from dlaseg import create_model, load_model, save_model, save_pretrained
from dlaseg.data.datasets import open_dataset
from dlaseg.errors import UserError
from dlaseg.evaluation.evaluator import count_pixels, evaluate_predictor
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.evaluation.report.tables import scores_table
from dlaseg.evaluation.scoring import evaluate
from dlaseg.files import sha256
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.predictor import Predictor
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import SegmentationModel
from dlaseg.models.stretching import StretchedDLASeg
from dlaseg.text import width
from dlaseg.weights.card import model_card

NAMES = ("road", "car", "sky", "moon")
SIZES = [(33, 47), (64, 32), (21, 65)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_pair(root, name, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        (root / kind / "val").mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / kind / "val" / f"{name}.png")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images of odd sizes; the truth holds the first three classes and ignored pixels, never the moon."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    classes = ", ".join(f"{{name: {name}}}" for name in NAMES)
    (root / "classes.yaml").write_text(f"classes: [{classes}]")
    for i, size in enumerate(SIZES):
        blocks = rng.integers(0, 256, (9, 9, 3), np.uint8).repeat(9, 0).repeat(9, 1)
        labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        write_pair(root, i, np.ascontiguousarray(blocks[: size[0], : size[1]]), labels)
    return open_dataset("folder", root, "val")


@pytest.fixture(scope="module")
def model(tiny_variant, dataset):
    """Weights at random that say road, car and sky, never moon."""
    torch.manual_seed(0)
    model = create_model(TINY, len(NAMES), stride=4)
    model.metadata = replace(model.metadata, label_map=dataset.label_map)
    model.eval()
    with torch.no_grad():
        coarse = torch.cat([model.coarse_logits(pixels(model, dataset, i)).flatten(2) for i in range(len(SIZES))], 2)
        # equally likely classes
        spread, middle = coarse.std((0, 2)), coarse.mean((0, 2))
        model.head.weight.div_(spread[:, None, None, None])
        model.head.bias.sub_(middle).div_(spread)
        model.head.bias[3] = -1e4
    return model


def predictor(model, scales=(1.0,), flip=False):
    return Predictor(model, device="cpu", scales=scales, flip=flip)


def pixels(model, dataset, index):
    image = torch.from_numpy(dataset.read(index)[0]).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.metadata.mean, model.metadata.std))
    return (image - mean) / std


def counted(dataset, predict):
    """The confusion matrix of `predict(index)` by a plain loop."""
    matrix = np.zeros((len(NAMES), len(NAMES)), int)
    for index in range(len(dataset)):
        truth, guess = dataset.read(index)[1].astype(int), predict(index)[0].numpy()
        seen = truth != 255
        matrix += np.bincount(4 * truth[seen] + guess[seen], minlength=16).reshape(4, 4)
    return matrix


def averaged(model, x, scales, flip):
    """Mean class probabilities, written out."""
    maps = []
    with torch.no_grad():
        for scale in scales:
            size = [round(side * scale) for side in x.shape[-2:]]
            small = x if scale == 1 else F.interpolate(x, size, mode="bilinear", antialias=scale < 1)
            variants = [model(small)] + ([model(small.flip(3)).flip(3)] if flip else [])
            maps += [F.interpolate(logits, x.shape[-2:], mode="bilinear").softmax(1) for logits in variants]
    return torch.stack(maps).mean(0)


def agree(matrix, expected):
    """Rounding may turn a pixel or two where two classes tie."""
    return matrix.sum() == expected.sum() and np.abs(matrix - expected).sum() <= 4


def test_evaluate_equals_a_plain_loop_over_full_logits(model, dataset):
    with torch.no_grad():
        expected = counted(dataset, lambda index: model(pixels(model, dataset, index)).argmax(1))
    assert np.count_nonzero(expected) == 9  # the case says something about every pair of classes
    assert agree(evaluate_predictor(predictor(model), dataset).matrix, expected)


@pytest.mark.parametrize(
    ("scales", "flip"),
    [
        ((0.5, 1.5), True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((1.0,), True), ((1.0, 0.5), False))),
    ],
)
def test_scales_and_flip_average_the_class_probabilities(model, dataset, scales, flip):
    expected = counted(dataset, lambda index: averaged(model, pixels(model, dataset, index), scales, flip).argmax(1))
    result = evaluate_predictor(predictor(model, scales, flip), dataset).matrix
    assert agree(result, expected)
    assert not agree(result, evaluate_predictor(predictor(model), dataset).matrix)


def test_images_may_be_stretched_instead_of_mirrored(model, dataset, tmp_path):
    save_model(model, tmp_path / "w.safetensors")
    with torch.no_grad():
        expected = counted(dataset, lambda index: StretchedDLASeg(model)(pixels(model, dataset, index)).argmax(1))
    with foreign_defaults():
        results = evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "out", device="cpu", padding="stretch")
    assert results["protocol"]["padding"] == "stretch"
    assert np.abs(np.array(results["confusion_matrix"]) - expected).sum() <= 4  # ties
    assert "stretched to multiples of 128, float32 by torch." in (tmp_path / "out/report.html").read_text()


def test_images_above_a_limit_are_scored_as_they_are_segmented(model, dataset, tmp_path):
    save_model(model, tmp_path / "w.safetensors")
    limit = 32
    reducing = Predictor(model, device="cpu", max_short_side=limit)
    images = [dataset.read(index)[0] for index in range(len(dataset))]
    assert max(min(image.shape[:2]) for image in images) > limit
    expected = counted(dataset, lambda index: torch.from_numpy(reducing(images[index])[None]))
    results = evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "out", device="cpu", max_short_side=limit)
    assert results["protocol"]["max_short_side"] == limit
    np.testing.assert_array_equal(results["confusion_matrix"], expected)
    plain = evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "plain", device="cpu")
    assert "max_short_side" not in plain["protocol"]
    assert plain["confusion_matrix"] != results["confusion_matrix"]
    assert "reduced to shorter sides of at most 32 pixels" in (tmp_path / "out/report.html").read_text()
    assert "reduced to" not in (tmp_path / "plain/report.html").read_text()
    card = str(model_card(load_model(tmp_path / "w.safetensors"), None, tmp_path / "out/scores.json"))
    assert "without horizontal flip, reduced to shorter sides of at most 32 pixels. mIoU" in card


def test_flip_gives_a_symmetric_prediction_of_a_symmetric_image(model, dataset, tmp_path):
    half = np.random.default_rng(1).integers(0, 256, (7, 7, 3), np.uint8).repeat(9, 0).repeat(9, 1)
    write_pair(tmp_path, "a", np.concatenate([half, half[:, ::-1]], 1), np.zeros((63, 126), np.uint8))
    (tmp_path / "classes.yaml").write_text((dataset.pairs[0].image.parents[2] / "classes.yaml").read_text())
    seen = []
    symmetric = open_dataset("folder", tmp_path, "val")
    evaluate_predictor(predictor(model, flip=True), symmetric, on_image=lambda scored: seen.append(scored.prediction))
    assert np.mean(seen[0] != seen[0][:, ::-1]) < 0.01
    assert len(np.unique(seen[0])) > 1


def test_the_workers_change_nothing(model, dataset, monkeypatch):
    expected = evaluate_predictor(predictor(model), dataset).matrix
    assert (evaluate_predictor(predictor(model), dataset, workers=1).matrix == expected).all()
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # as in a multiprocessing.Pool
    assert (evaluate_predictor(predictor(model), dataset, workers=1).matrix == expected).all()


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_its_buffers_untouched(model, dataset, training):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(training)
    evaluate_predictor(predictor(model), dataset)
    after = model.training
    model.eval()
    assert after is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_on_image_gets_every_image_with_truth_and_prediction(model, dataset):
    rows = []
    matrix = evaluate_predictor(predictor(model), dataset, on_image=rows.append).matrix
    assert [row.index for row in rows] == [0, 1, 2]
    for row in rows:
        image, target = dataset.read(row.index)
        assert np.array_equal(row.image, image)
        assert np.array_equal(row.target, target)
        assert row.prediction.shape == target.shape
        assert row.confusion.sum() == (target != 255).sum()
        assert row.confusion.trace() == (target == row.prediction).sum()
        assert row.confidence is None
    assert matrix.trace() == sum(int((row.target == row.prediction).sum()) for row in rows)


def test_too_little_memory_is_one_line_that_names_the_image(model, dataset, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    scorer = predictor(model)
    monkeypatch.setattr(scorer, "predict", no_memory)
    with pytest.raises(UserError, match=rf"^{dataset.pairs[0].image}: \d+ x \d+ pixels: not enough memory on cpu: "):
        evaluate_predictor(scorer, dataset)
    monkeypatch.setattr(scorer, "predict", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_predictor(scorer, dataset)


def test_too_little_memory_for_tiles_is_one_line_that_names_the_image(model, dataset, monkeypatch):
    def refuse(*_, **__):
        raise UserError("48 x 64 pixels: not enough memory")

    predictor = Predictor(model, device="cpu")
    monkeypatch.setattr(predictor.memory, "grid", refuse)
    with pytest.raises(UserError, match=rf"^{dataset.pairs[0].image}: 48 x 64 pixels: not enough memory"):
        evaluate_predictor(predictor, dataset)


def test_scores_of_images_in_tiles_are_told_once_and_recorded(model, dataset, monkeypatch, tmp_path, caplog):
    save_model(model, tmp_path / "w.safetensors")
    assert "tiled" not in evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "whole", workers=0)["protocol"]
    assert "tiles" not in caplog.text

    def grid(self, height, width, *_, **__):
        self.tiled = True

    monkeypatch.setattr(MemoryBudget, "grid", grid)
    assert evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "tiled", workers=0)["protocol"]["tiled"] is True
    assert caplog.text.count("computed in tiles, for lack of memory") == 1


def test_classes_that_differ_are_refused(model, dataset):
    other = create_model(TINY, len(NAMES))
    with pytest.raises(
        UserError,
        match=r"weights have 4 classes \(class 0, .*has 4 classes \(road, car, sky, \.\.\.\): .*, or name them by",
    ):
        evaluate_predictor(predictor(other), dataset)
    with pytest.raises(UserError, match=r"weights have 5 classes .*: score on a data set with the weights' classes$"):
        evaluate_predictor(predictor(create_model(TINY, 5)), dataset)


def test_a_split_without_images_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"^folder val: no images: use a split that has some$"):
        evaluate("streets", replace(dataset, pairs=()), tmp_path / "out")


def test_the_public_function_has_its_name():
    assert dlaseg.evaluate.__name__ == "evaluate"


@pytest.mark.parametrize("scale", [0.0, -1.0, 11.0, float("nan")])
def test_a_scale_out_of_range_is_refused(model, scale):
    with pytest.raises(UserError, match=f"scale {scale}"):
        predictor(model, scales=(1.0, scale))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 255))
@settings(max_examples=30)
def test_counting_tensors_equals_counting_arrays(seed, classes):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (2, 7, 9)).astype(np.uint8)
    target[rng.random(target.shape) < 0.3] = 255
    prediction = rng.integers(0, classes, target.shape).astype(np.uint8)
    prediction[(target == 255) & (rng.random(target.shape) < 0.5)] = 255
    expected = ConfusionMatrix(classes).update(target, prediction)
    counts = count_pixels(torch.from_numpy(target), torch.from_numpy(prediction), classes)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, expected)


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([0, 4, 255], [0, 0, 0], "target id 4: ids are 0 to 3, or 255"),
        ([0, 254, 255], [0, 0, 0], "target id 254"),
        ([0, 1, 255], [0, 4, 0], "prediction id 4: ids are 0 to 3"),
        ([0, 1, 255], [255, 1, 0], "prediction id 255"),
    ],
)
def test_ids_out_of_range_are_refused(target, prediction, message):
    maps = [torch.tensor(ids, dtype=torch.uint8).view(1, 1, -1) for ids in (target, prediction)]
    with pytest.raises(UserError, match=message):
        count_pixels(*maps, 4)


class Brightness(SegmentationModel):
    """A family that dlaseg does not know: class 1 where a block of 4 x 4 pixels is bright."""

    def __init__(self, label_map):
        super().__init__()
        self.metadata = replace(ModelMetadata.for_segmentation(4, 3), label_map=label_map)
        self.stride, self.num_classes = 4, 4

    def coarse_logits(self, x):
        mean = F.avg_pool2d(x, 4, ceil_mode=True).mean(1, keepdim=True)
        return torch.cat([-mean, mean, mean - 9, mean - 9], dim=1)


def test_any_network_that_keeps_the_contract_is_scored(dataset):
    network = Brightness(dataset.label_map)
    with torch.no_grad():
        expected = counted(dataset, lambda index: network(pixels(network, dataset, index)).argmax(1))
    assert np.count_nonzero(expected.sum(0)) == 2
    assert agree(evaluate_predictor(predictor(network), dataset).matrix, expected)


@pytest.fixture(scope="module")
def scored(model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    save_model(model, folder / "weights.safetensors")
    record = evaluate(folder / "weights.safetensors", dataset, folder / "new/out", workers=0, device="cpu")
    return folder, scores_table(record), json.loads((folder / "new/out/scores.json").read_text())


def test_scores_json_has_the_documented_keys(scored):
    _, _, record = scored
    means = {"miou", "miou_interval", "pixel_accuracy", "mean_accuracy"}
    assert set(record) == means | {"classes", "absent_classes", "confusion_matrix", "images", "protocol"}
    assert record["images"]["names"] == ["0", "1", "2"]
    assert record["miou_interval"] is None  # of three images
    assert list(record["classes"]) == list(NAMES)
    assert all(set(entry) == {"iou", "accuracy", "pixels"} for entry in record["classes"].values())


def test_scores_json_holds_what_evaluate_counts(scored, model, dataset):
    _, _, record = scored
    confusion = evaluate_predictor(predictor(model), dataset)
    scores = confusion.scores()
    assert record["confusion_matrix"] == confusion.matrix.tolist()
    assert (record["miou"], record["pixel_accuracy"]) == (scores.miou, scores.pixel_accuracy)
    assert [entry["iou"] for entry in record["classes"].values()] == list(scores.iou)


def test_an_absent_class_is_null_and_named(scored):
    _, _, record = scored
    assert record["classes"]["moon"] == {"iou": None, "accuracy": None, "pixels": 0}
    assert record["absent_classes"] == ["moon"]
    assert record["miou"] == pytest.approx(sum(record["classes"][name]["iou"] for name in NAMES[:3]) / 3)


def test_the_protocol_says_what_was_scored_and_how(scored, model):
    folder, _, record = scored
    protocol = record["protocol"]
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert protocol["weights_sha256"] == digest
    assert protocol.pop("versions").keys() == {"dlaseg", "torch", "numpy"}
    expected = {"dataset": "folder", "split": "val", "images": 3, "scales": [1.0], "flip": False}
    expected |= {"backend": "torch", "precision": "float32"}
    assert protocol == {
        **expected,
        "model": model.metadata.architecture,
        "weights_sha256": digest,
        "weights_origin": [],
    }


def test_a_folder_of_weights_is_scored_in_another_precision(scored, model, dataset, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    results = evaluate(tmp_path / "folder", dataset, tmp_path, workers=0, device="cpu", precision="bfloat16")
    assert results["protocol"]["precision"] == "bfloat16"
    assert results["protocol"]["weights_sha256"] == sha256(tmp_path / "folder/model.safetensors")
    float32 = np.array(scored[2]["confusion_matrix"])
    matrix = np.array(results["confusion_matrix"])
    assert matrix.sum() == float32.sum()
    assert 0 < np.abs(matrix - float32).sum() < 0.1 * matrix.sum()


def test_the_table_has_a_line_per_class_and_a_dash_for_the_absent(scored):
    lines = {line.split()[0]: line.split() for line in scored[1].split("\n\n")[0].splitlines()}
    assert set(NAMES) <= set(lines)
    assert lines["moon"][1:3] == ["-", "-"]
    assert lines["mean"][1] == f"{scored[2]['miou'] * 100:.2f}"


def test_boundary_iou_is_measured_on_demand(scored, dataset, model, tmp_path):
    folder, _, record = scored
    record_of = evaluate(
        folder / "weights.safetensors", dataset, tmp_path, device="cpu", workers=0, measures=["boundary"]
    )
    found = json.loads((tmp_path / "scores.json").read_text())
    boundary = found.pop("boundary_iou")
    assert found.keys() == record.keys()
    assert all(found[key] == record[key] for key in found if key != "protocol")
    expected = BoundaryIoU(len(NAMES))
    evaluate_predictor(predictor(model), dataset, on_image=lambda row: expected.update(row.target, row.prediction))
    assert boundary == {
        "dilation_ratio": 0.02,
        "mean": expected.scores()[1],
        "classes": dict(zip(NAMES, expected.scores()[0], strict=True)),
    }
    table = scores_table(record_of)
    assert table.splitlines()[0].split() == ["class", "IoU", "bound.", "acc.", "pixels"]
    numbers = [f"{100 * share:.2f}" for share in (record["classes"]["road"]["iou"], expected.scores()[0][0])]
    assert table.splitlines()[1].split()[:3] == ["road", *numbers]
    assert "Boundary IoU, contour width 2% of the image diagonal" in table


def test_an_unknown_measure_is_refused(scored, dataset, tmp_path):
    with pytest.raises(UserError, match="measure 'sharpness': unknown; use one of boundary"):
        evaluate(scored[0] / "weights.safetensors", dataset, tmp_path / "o", device="cpu", measures=["sharpness"])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((1.0, 0.5), True)])
def test_the_confidence_is_the_predicted_classs_probability(model, dataset, scales, flip):
    sure, plain = [], []
    first = evaluate_predictor(predictor(model, scales, flip), dataset, on_image=sure.append, confidence=True)
    second = evaluate_predictor(predictor(model, scales, flip), dataset, on_image=plain.append)
    assert np.array_equal(first.matrix, second.matrix)
    for row, other in zip(sure, plain, strict=True):
        assert np.array_equal(row.prediction, other.prediction)
        expected = averaged(model, pixels(model, dataset, row.index), scales, flip)[0].max(0).values
        np.testing.assert_allclose(row.confidence, expected.numpy(), atol=1e-5)


def test_calibration_is_measured_on_demand(scored, dataset, model, tmp_path):
    folder, _, record = scored
    table = scores_table(
        evaluate(folder / "weights.safetensors", dataset, tmp_path, device="cpu", workers=0, measures=["calibration"])
    )
    found = json.loads((tmp_path / "scores.json").read_text())
    calibration = found.pop("calibration")
    assert found.keys() == record.keys()
    assert found["confusion_matrix"] == record["confusion_matrix"]
    assert sum(row["pixels"] for row in calibration["bins"]) == np.sum(found["confusion_matrix"])
    assert f"expected calibration error {100 * calibration['expected_calibration_error']:.2f}" in table


def test_a_split_without_a_scored_pixel_has_its_page_too(scored, dataset, tmp_path):
    shutil.copy(dataset.pairs[0].image.parents[2] / "classes.yaml", tmp_path / "classes.yaml")
    write_pair(tmp_path, "void", np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8))
    void = open_dataset("folder", tmp_path, "val")
    record = evaluate(scored[0] / "weights.safetensors", void, tmp_path / "out", workers=0, device="cpu")
    assert record["miou"] is None
    assert "No image has a pixel that counts" in (tmp_path / "out/report.html").read_text()
    wide = {f"道路 {name}": row for name, row in record["classes"].items()}
    header, row, *_ = scores_table(record | {"classes": wide}).splitlines()
    assert header.startswith("class")
    assert width(header) == width(row)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        ("mat1 and mat2 shapes cannot be multiplied", RuntimeError, "^mat1 and mat2 shapes cannot be multiplied$"),
        ("DefaultCPUAllocator: can't allocate memory", UserError, ": 33 x 47 pixels: not enough memory on cpu: "),
    ],
)
def test_only_a_lack_of_memory_is_called_so_with_height_and_width(model, dataset, monkeypatch, error, raised, message):
    def fail(*_):
        raise RuntimeError(error)

    scorer = predictor(model)
    monkeypatch.setattr(scorer, "predict", fail)
    with pytest.raises(raised, match=message):
        evaluate_predictor(scorer, dataset)


def test_a_missing_label_map_is_found_before_anything_is_predicted(model, dataset, monkeypatch):
    scorer = predictor(model)
    monkeypatch.setattr(scorer, "predict", lambda _: pytest.fail("predicted"))
    last = replace(dataset.pairs[-1], label=None)
    with pytest.raises(UserError, match=rf"^{last.image}: image without a label map: "):
        evaluate_predictor(scorer, replace(dataset, pairs=(*dataset.pairs[:-1], last)))


def test_the_memory_limit_reaches_the_predictor(model, dataset, tmp_path):
    save_model(model, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"^max_memory 0\.0 MB: "):
        evaluate(tmp_path / "w.safetensors", dataset, tmp_path / "out", workers=0, device="cpu", max_memory=1)
