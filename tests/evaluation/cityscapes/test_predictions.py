"""Folders of label maps of any program, scored without torch."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY
from PIL import Image

from dlaseg import create_model, memory, save_model
from dlaseg.cli import main
from dlaseg.data.datasets import open_dataset
from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.predictions import match, score_predictions
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_ids
from dlaseg.synthetic.dataset import synthesize


@pytest.fixture(scope="module", autouse=True)
def _plain_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "keep_freed_memory", lambda: True)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    synthesize(root, {"val": 4}, 64, 128, seed=1)
    return root


@pytest.fixture(scope="module")
def weights(tiny_variant, tmp_path_factory):
    torch.manual_seed(0)
    model = create_model(TINY, 19, 8, 1)
    model.metadata = replace(model.metadata, label_map=cityscapes_labels())
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_model(model, path)
    return path


def pictured(page):
    """The images that a report.html shows."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])["images"]


def truths(root):
    return sorted(root.glob("gtFine/val/*/*_gtFine_labelIds.png"))


@pytest.fixture
def predictions(root, tmp_path):
    """Noisy copies of the ground truth, in a tree of their own."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "predictions"
    for path in truths(root):
        ids = read_ids(path)
        ids = np.where(rng.random(ids.shape) < 0.3, rng.integers(0, 34, ids.shape), ids).astype(np.uint8)
        place = folder / path.parent.name / path.name.replace("gtFine_labelIds", "anyone")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(place)
    return folder


def score(predictions, root, output, *more):
    words = ["eval", "--predictions", str(predictions), "--dataset", "cityscapes", "--root", str(root)]
    assert main([*words, "--output", str(output), *more]) == 0
    return json.loads((output / "scores.json").read_text())


def test_in_memory_and_from_files_the_scores_are_the_same(root, weights, tmp_path, capsys):
    predict = Predictor(weights, device="cpu")
    labels = cityscapes_labels()
    for pair in open_dataset("cityscapes", root, "val").pairs:
        ids = labels.decode(predict(np.asarray(Image.open(pair.image))))
        path = tmp_path / "ids" / f"{Path(pair.name).name}_prediction.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ids).save(path)
    files = score(tmp_path / "ids", root, tmp_path / "files", "--measures", "boundary")
    table = capsys.readouterr().out
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(root), "--workers", "0", "--device", "cpu"]
    words += ["--measures", "boundary"]
    assert main([*words, "--output", str(tmp_path / "memory")]) == 0
    memory = json.loads((tmp_path / "memory/scores.json").read_text())
    assert files.keys() == memory.keys()
    for key in files.keys() - {"protocol"}:
        assert files[key] == memory[key], key
    assert capsys.readouterr().out.split("\n\n/")[0] == table.split("\n\n/")[0]
    assert files["protocol"]["images"] == 4
    assert files["boundary_iou"]["mean"] is not None
    shown = [pictured(tmp_path / name / "report.html") for name in ("files", "memory")]
    assert shown[0] == shown[1]
    assert [image["image"] is not None for image in shown[0]] == [True] * 4
    assert files["miou"] == files["cityscapes"]["averages"]["classes"]


def test_any_number_of_threads_gives_the_same_to_the_last_bit(root, predictions, tmp_path):
    records = [score(predictions, root, tmp_path / str(n), "--workers", str(n)) for n in (1, 3)]
    assert records[0] == records[1]


def test_train_extra_is_scored_by_its_coarse_annotations(root, predictions, tmp_path):
    coarse = tmp_path / "coarse"
    shutil.copytree(root / "gtFine/val", coarse / "gtCoarse/train_extra")
    shutil.copytree(root / "leftImg8bit/val", coarse / "leftImg8bit/train_extra")
    for path in (coarse / "gtCoarse").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    fine = score(predictions, root, tmp_path / "fine")
    found = score(predictions, coarse, tmp_path / "scores", "--split", "train_extra")
    assert (found["cityscapes"], found["images"]) == (fine["cityscapes"], fine["images"])
    assert all(image["image"] is not None for image in pictured(tmp_path / "scores/report.html"))


def test_joined_splits_are_scored_as_one(root, predictions, tmp_path, capsys):
    joined = tmp_path / "joined"
    for kind in ("gtFine", "leftImg8bit"):
        first, second = sorted((root / kind / "val").iterdir())
        shutil.copytree(first, joined / kind / "val" / first.name)
        shutil.copytree(second, joined / kind / "train" / second.name)
    expected = score(predictions, root, tmp_path / "val")
    found = score(predictions, joined, tmp_path / "scores", "--split", "train+val")
    assert found["protocol"]["split"] == "train+val"
    assert (found["cityscapes"], found["images"]) == (expected["cityscapes"], expected["images"])
    assert pictured(tmp_path / "scores/report.html") == pictured(tmp_path / "val/report.html")
    message = refusal(capsys, predictions, joined, tmp_path / "o", "--split", "train+test")
    assert f"{joined}/gtFine/test: no CITY/" in message
    message = refusal(capsys, predictions, joined, tmp_path / "o", "--split", "val+val")
    assert "a second file of this name in val+val: use each image once" in message


def test_an_ignored_id_is_no_class_and_no_outline(root, predictions, tmp_path):
    for path in predictions.rglob("*.png"):
        Image.fromarray(np.full_like(read_ids(path), 4)).save(path)
    record = score(predictions, root, tmp_path / "scores", "--measures", "boundary")
    assert record["boundary_iou"]["mean"] == 0


@pytest.mark.parametrize("picture", ["missing", "broken", "of another size"])
def test_scores_do_not_need_the_pictures(root, predictions, tmp_path, picture, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    first = sorted(copy.glob("leftImg8bit/val/*/*.png"))[0]
    if picture == "missing":
        first.unlink()
    elif picture == "broken":
        first.write_bytes(b"no picture")
    else:
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(first)
    assert score(predictions, copy, tmp_path / "scores") == score(predictions, root, tmp_path / "other")
    shown = {image["name"]: image["image"] for image in pictured(tmp_path / "scores/report.html")}
    assert [name for name, content in shown.items() if content is None] == [
        f"{first.parent.name}/{first.name.removesuffix('_leftImg8bit.png')}"
    ]
    assert (first.name in caplog.text) is (picture != "missing")


@pytest.mark.parametrize(
    "option",
    [
        "--scales 0.5 1",
        "--flip",
        "--padding stretch",
        "--device cpu",
        "--backend torch",
        "--precision auto",
        "--max-memory 9GB",
    ],
)
def test_what_only_a_network_has_is_refused(root, predictions, tmp_path, capsys, option):
    words = ["eval", "--predictions", str(predictions), "--dataset", "cityscapes", "--root", str(root)]
    assert main([*words, "--output", str(tmp_path / "out"), *option.split()]) == 2
    assert f"{option.split()[0]}: of a network; --predictions are scored as they are: leave" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_torch_is_imported(root, predictions, tmp_path):
    code = (
        "import sys; from dlaseg.cli import main; code = main(sys.argv[1:]); "
        "assert code == 0; assert 'torch' not in sys.modules"
    )
    words = ["eval", "--predictions", str(predictions), "--dataset", "cityscapes", "--root", str(root)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--output", str(tmp_path / "o")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_palette_is_read_as_its_indices_and_16_bits_as_they_are(root, predictions, tmp_path):
    plain = score(predictions, root, tmp_path / "plain")
    first, second, *_ = sorted(predictions.rglob("*.png"))
    picture = Image.fromarray(read_ids(first)).convert("P")
    picture.putpalette([(7 * i) % 256 for i in range(768)])
    picture.save(first)
    Image.fromarray(read_ids(second).astype(np.uint16)).save(second)
    assert score(predictions, root, tmp_path / "other")["confusion_matrix"] == plain["confusion_matrix"]


@pytest.mark.parametrize(
    ("ids", "shown"),
    [((0, 7, 13, 18), "ids 0 to 18 alone"), ((6,), "ids 6 to 6 alone"), ((0, 7, 26), None), ((7, 18), None)],
)
def test_predictions_that_look_like_train_ids_are_told(root, predictions, tmp_path, capsys, ids, shown):
    for path, number in zip(sorted(predictions.rglob("*.png")), [*ids, *ids, *ids, *ids], strict=False):
        Image.fromarray(np.full((64, 128), number, np.uint8)).save(path)
    score(predictions, root, tmp_path / "o")
    lines = capsys.readouterr().err.splitlines()
    expected = (
        f"{predictions}: {shown}, which look like train ids: label ids of classes are 7 to 33: map the predictions "
    )
    assert lines == ([] if shown is None else [f"{expected}to label ids if so"])


def refusal(capsys, predictions, root, output, *more):
    words = ["eval", "--predictions", str(predictions), "--dataset", "cityscapes", "--root", str(root)]
    assert main([*words, "--output", str(output), *more]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert not output.exists()
    return message


def test_a_missing_prediction_is_refused(root, predictions, tmp_path, capsys):
    gone = sorted(predictions.rglob("*.png"))[2]
    gone.unlink()
    frame = gone.name.removesuffix("_anyone.png")
    assert f"no {frame}*.png for {frame}_gtFine_labelIds.png" in refusal(capsys, predictions, root, tmp_path / "o")


def test_a_duplicate_prediction_is_refused(root, predictions, tmp_path, capsys):
    first = sorted(predictions.rglob("*.png"))[0]
    (predictions / first.name.replace("anyone", "else")).write_bytes(first.read_bytes())
    message = refusal(capsys, predictions, root, tmp_path / "o")
    assert first.name in message
    assert "2 files match" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((64, 127), np.uint8), "prediction 64 x 127, ground truth 64 x 128"),
        (np.zeros((64, 128, 3), np.uint8), "pixels of mode RGB: label ids have one channel"),
        (np.full((64, 128), 255, np.uint8), "prediction has id 255: label ids are 0 to 33 (labelIds, not trainIds"),
        (b"\x89PNG\r\n\x1a\nnonsense", "broken or not an image"),
        (b"", "the file is empty"),
    ],
)
def test_a_bad_prediction_is_refused_and_named(root, predictions, tmp_path, capsys, content, message):
    bad = sorted(predictions.rglob("*.png"))[1]
    if isinstance(content, bytes):
        bad.write_bytes(content)
    else:
        Image.fromarray(content).save(bad)
    refused = refusal(capsys, predictions, root, tmp_path / "o")
    assert message in refused
    assert str(bad) in refused


def test_a_truncated_prediction_is_refused(root, predictions, tmp_path, capsys):
    bad = sorted(predictions.rglob("*.png"))[1]
    bad.write_bytes(bad.read_bytes()[:-200])
    assert str(bad) in refusal(capsys, predictions, root, tmp_path / "o")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "test"), "no CITY/*_gtFine_labelIds.png in it"),
        (("--workers", "-1"), "--workers -1: use 0 to "),
        (("--measures", "calibration"), "measure 'calibration': label maps contain no probabilities"),
        (("--dataset", "camvid"), "--dataset camvid: --predictions follows the Cityscapes benchmark: use cityscapes"),
    ],
)
def test_a_wrong_use_is_refused(root, predictions, tmp_path, capsys, more, message):
    assert message in refusal(capsys, predictions, root, tmp_path / "o", *more)


def test_an_output_that_cannot_be_written_is_refused_before_predictions_are_looked_for(root, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "file/o: cannot be a folder" in refusal(capsys, tmp_path / "none", root, tmp_path / "file/o")


def test_a_missing_folder_of_predictions_is_refused(root, tmp_path, capsys):
    assert "no such folder" in refusal(capsys, tmp_path / "none", root, tmp_path / "o")


def test_weights_and_predictions_exclude_each_other(root, predictions, weights, capsys):
    words = ["--dataset", "cityscapes", "--root", str(root)]
    for given in ([], [str(weights), "--predictions", str(predictions)]):
        assert main(["eval", *given, *words]) == 2
        assert "WEIGHTS and --predictions: pass exactly one of them" in capsys.readouterr().err


def test_scores_of_other_ground_truth_are_kept_unless_the_folder_is_named(root, predictions, tmp_path, capsys):
    output, other = tmp_path / "predictions-val", tmp_path / "other"
    words = ["eval", "--predictions", str(predictions), "--dataset", "cityscapes", "--root"]
    assert main([*words, str(root)]) == main([*words, str(root)]) == 0  # the same are replaced
    before = (output / "scores.json").read_bytes()
    shutil.copytree(root / "gtFine", other / "gtFine")
    first, *_, last = truths(other)
    Image.fromarray(np.full_like(read_ids(first), 7)).save(first)
    for difference in (f"another label map of {first.parent.name}/", "other images (4, now 3)"):
        capsys.readouterr()
        assert main([*words, str(other)]) == 2
        assert f"{output / 'scores.json'}: has scores of something else ({difference}" in capsys.readouterr().err
        for path in last.parent.glob(f"{last.name.removesuffix('labelIds.png')}*"):
            path.unlink()
    assert (output / "scores.json").read_bytes() == before
    score(predictions, other, output)


def test_weights_replace_no_scores_of_label_maps(root, predictions, weights, tmp_path, capsys):
    best = tmp_path / "best.safetensors"
    shutil.copy(weights, best)
    predictions = predictions.rename(tmp_path / "cityscapes")
    words = ["--dataset", "cityscapes", "--root", str(root)]
    assert main(["eval", "--predictions", str(predictions), *words]) == 0
    assert main(["eval", str(best), *words, "--workers", "0", "--device", "cpu"]) == 2
    assert "cityscapes-val/scores.json: has scores of something else (other weights)" in capsys.readouterr().err


def test_matching_is_by_the_beginning_of_the_name(tmp_path):
    names = ["a_000000_000019_x.png", "a_000000_0000200.png", "b/a_000001_000019.png", "a_000000_000019_x.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    frames = ("a_000001_000019", "a_000000_000019", "a_000000_000020")
    wanted = [Path(f"{frame}_gtFine_labelIds.png") for frame in frames]
    assert match(wanted, tmp_path) == [tmp_path / names[2], tmp_path / names[0], tmp_path / names[1]]


@pytest.fixture
def without_instances(root, tmp_path):
    """The data set without instance maps."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*_instanceIds.png"))
    return copy


def test_without_instance_maps_there_is_no_iiou_and_that_is_said(
    root, without_instances, predictions, tmp_path, capsys
):
    expected = score(predictions, root, tmp_path / "with")
    assert "iIoU" in capsys.readouterr().out
    results = score(predictions, without_instances, tmp_path / "without")
    printed = capsys.readouterr().out
    assert printed.count("iIoU") == 1
    assert "\niIoU not computed: the ground truth has no *_instanceIds.png\n" in printed
    cityscapes = results["cityscapes"]
    assert cityscapes["iiou_missing"] == "not computed: the ground truth has no *_instanceIds.png"
    for table in ("classes", "categories"):
        assert {row["iiou"] for row in cityscapes[table].values()} == {None}
        ious = [{name: row["iou"] for name, row in s["cityscapes"][table].items()} for s in (results, expected)]
        assert ious[0] == ious[1]
    averages = expected["cityscapes"]["averages"] | {"instance_classes": None, "instance_categories": None}
    assert cityscapes["averages"] == averages
    assert results["classes"] == expected["classes"]
    page = (tmp_path / "without/report.html").read_text()
    assert page.count("iIoU") == 1
    assert "iIoU not computed: the ground truth has no *_instanceIds.png" in page
    assert "iiou_missing" not in expected["cityscapes"]


def test_weights_are_scored_without_instance_maps(without_instances, weights, tmp_path, capsys):
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(without_instances), "--workers", "0"]
    assert main([*words, "--device", "cpu", "--output", str(tmp_path / "o")]) == 0
    assert "iIoU not computed: the ground truth has no *_instanceIds.png" in capsys.readouterr().out
    assert json.loads((tmp_path / "o/scores.json").read_text())["cityscapes"]["averages"]["instance_classes"] is None


def test_instance_maps_of_some_images_are_refused_before_anything_is_read(
    root, without_instances, predictions, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Predictor, "__init__", lambda *_: pytest.fail("nothing may be loaded"))
    first, second, *_ = sorted(root.glob("gtFine/val/*/*_instanceIds.png"))
    shutil.copy(first, without_instances / first.relative_to(root))
    missing = without_instances / second.relative_to(root)
    expected = f"{missing}: missing, like 3 of 4 instance maps: add them, or remove all *_instanceIds.png to score"
    assert expected in refusal(capsys, predictions, without_instances, tmp_path / "o")
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(without_instances)]
    assert main([*words, "--output", str(tmp_path / "o")]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labelIds", "instanceIds"])
def test_a_broken_ground_truth_is_not_blamed_on_the_prediction(root, predictions, tmp_path, kind):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    broken = sorted(copy.glob(f"gtFine/val/*/*_{kind}.png"))[0]
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"^{broken}: broken or not an image"):
        score_predictions(predictions, copy, "val", tmp_path / "o")


def test_the_limit_of_pixels_reaches_every_file(root, predictions, weights, tmp_path, capsys):
    limit = ("--max-pixels", str(64 * 128 - 1))
    message = refusal(capsys, predictions, root, tmp_path / "o", *limit)
    assert f"64 x 128 = {64 * 128:,} pixels, the limit is {64 * 128 - 1:,}" in message
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(root), *limit]
    for more in (["--output", str(tmp_path / "o"), "--workers", "0"], ["--submission", str(tmp_path / "s")]):
        assert main([*words, *more]) == 2
        assert "_leftImg8bit.png: 64 x 128 = 8,192 pixels, the limit" in capsys.readouterr().err
    assert "--max-pixels 0: use 1 to" in refusal(capsys, predictions, root, tmp_path / "o", "--max-pixels", "0")


def test_the_limit_of_memory_reaches_a_submission(root, weights, tmp_path, capsys):
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(root), "--device", "cpu"]
    assert main([*words, "--max-memory", "1", "--submission", str(tmp_path / "s")]) == 2
    assert "dlaseg eval: max_memory 0.0 MB: " in capsys.readouterr().err


def test_the_limit_of_pixels_reaches_instance_maps(root, predictions, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root / "gtFine", copy / "gtFine")
    instances = next((copy / "gtFine").rglob("*_instanceIds.png"))
    Image.fromarray(np.zeros((65, 128), np.uint16)).save(instances)
    with pytest.raises(UserError, match=f"^{instances}: .* the limit is 8,192"):
        score_predictions(predictions, copy, "val", tmp_path / "o", max_pixels=64 * 128)
