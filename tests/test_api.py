"""What `import dlaseg` offers."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import no_report, tiny_config, with_train, write_camvid
from PIL import Image
from torch.utils.data import DataLoader, Subset

import dlaseg
from dlaseg.config.files import to_yaml
from dlaseg.training.state import TrainState
from dlaseg.training.train import TrainResult

pytestmark = pytest.mark.usefixtures("tiny_variant")

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> TrainResult:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(to_yaml(with_train(tiny_config(root), epochs=1)), encoding="utf-8")
    return dlaseg.train(folder / "run.yaml", folder / "run", report=no_report)


def test_every_public_name_can_be_imported():
    assert sorted(dlaseg.__all__) == dlaseg.__all__ == list(dlaseg._HOMES)
    assert all(getattr(dlaseg, name) is not None for name in dlaseg.__all__)
    assert set(dlaseg.__all__) <= set(dir(dlaseg))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dlaseg.nothing


def test_importing_dlaseg_imports_nothing_else():
    code = "import sys, dlaseg; print(*sys.modules); dlaseg.open_dataset, dlaseg.Config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    first, second = ({name.split(".")[0] for name in line.split()} for line in done.stdout.splitlines())
    assert not first & {"torch", "numpy", "yaml", "cv2"}
    assert "torch" not in second


def test_a_run_from_a_file_returns_its_folder_and_its_best_score(trained):
    assert trained.weights == trained.folder / "best.safetensors"
    assert (trained.metric, trained.title) == ("miou", "mIoU")
    assert trained.score == trained.log[0]["miou"]
    assert dlaseg.load_model(trained.weights).num_classes == 11


def test_a_run_from_a_config_is_the_run_from_its_file(trained, root, tmp_path):
    config = with_train(tiny_config(root), epochs=1)
    config.data.root = root  # a Path is text
    result = dlaseg.train(config, str(tmp_path / "run"), report=no_report)
    assert result.weights.read_bytes() == trained.weights.read_bytes()
    resumed = dlaseg.train(config, tmp_path / "run", resume=True, report=no_report)
    assert (resumed.score, resumed.log) == (result.score, result.log)


def test_a_classifier_is_trained_by_its_config(tmp_path, monkeypatch):
    seen = []

    def fit(task, output, resume, report, allow_trackers):
        seen.append((task.config, output))
        return TrainState(None, None)

    monkeypatch.setattr("dlaseg.training.trainer.fit", fit)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("name: a\naugment: {resize: 300}\n", encoding="utf-8")
    assert dlaseg.train("a.yaml").metric == "top1"
    dlaseg.train(dlaseg.PretrainConfig())
    assert [type(config) for config, _ in seen] == [dlaseg.PretrainConfig] * 2
    assert [output for _, output in seen] == [Path("runs/a"), Path("runs/pretrain")]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", "fast", "config: train.lr fast: expected a number, such as lr: 0.01"),
        ("epochs", 1.5, "config: train.epochs 1.5: expected a whole number, such as epochs: 500"),
        ("lr", -1.0, "train.lr -1.0: use a number from 0 to 1000"),
        ("losses", [dlaseg.LossConfig("dicee")], "config: train.losses[0].name dicee: expected cross_entropy, "),
    ],
)
def test_a_config_that_was_changed_is_checked(root, tmp_path, field, value, message):
    config = tiny_config(root)
    setattr(config.train, field, value)
    with pytest.raises(dlaseg.UserError) as caught:
        dlaseg.train(config, tmp_path / "run", report=no_report)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_weights_are_scored_and_used(trained, root, tmp_path):
    results = dlaseg.evaluate(trained.weights, dlaseg.open_dataset("camvid", root, "val"), str(tmp_path), workers=0)
    assert results["miou"] == pytest.approx(trained.score, abs=1e-6)
    assert dlaseg.infer(trained.weights, root / "val", tmp_path / "out", ["ids"]).written == 2


def test_losses_are_at_hand():
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    assert dlaseg.losses.dice_loss(logits, target, 255) > 0
    assert dlaseg.PixelLoss([dlaseg.LossConfig("dice")], stride=2).stride == 2


def test_a_data_set_is_a_sequence(root):
    dataset = dlaseg.open_dataset("camvid", root, "train")
    image, target = dataset[0]
    assert (image.shape, image.dtype, target.shape, target.dtype) == ((48, 64, 3), np.uint8, (48, 64), np.uint8)
    assert len(dataset) == len(list(dataset)) == 5
    assert hasattr(dataset, "__iter__")  # without it, type checkers refuse loops
    for mine, other in ((dataset[-1], dataset[4]), (dataset[0], dataset.read(0))):
        assert all(map(np.array_equal, mine, other))
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
    for index in (slice(0, 2), [0, 1], "0", 1.0, None):
        with pytest.raises(TypeError, match="use an integer, or "):
            dataset[index]
    assert len(Subset(dataset, range(2))[1]) == 2


def to_half(image, target):
    """A transform: (3, H / 2, W / 2) float and (H / 2, W / 2) int64."""
    return torch.from_numpy(image[::2, ::2]).permute(2, 0, 1) / 255, torch.from_numpy(target[::2, ::2]).long()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_works_in_a_loader_of_torch(root, workers):
    dataset = dlaseg.open_dataset("camvid", root, "train")
    images, targets = next(iter(DataLoader(dataset, batch_size=2, num_workers=workers)))
    assert (images.shape, images.dtype, targets.shape) == ((2, 48, 64, 3), torch.uint8, (2, 48, 64))
    transformed = replace(dataset, transform=to_half)
    images, targets = next(iter(DataLoader(transformed, batch_size=2, num_workers=workers, shuffle=True)))
    assert (images.shape, images.dtype, targets.shape) == ((2, 3, 24, 32), torch.float32, (2, 24, 32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dlaseg.infer("camvid", IMAGE, "out"), "image of type ndarray: infer reads files: give their paths"),
        (lambda: dlaseg.infer("camvid", [Image.fromarray(IMAGE)], "out"), "image of type Image: infer reads files"),
        (lambda: dlaseg.infer("camvid", Image.fromarray(IMAGE), "out"), "image of type Image: infer reads files"),
        (lambda: dlaseg.infer("camvid", "images", None), "output of type NoneType: use the path of a folder"),
        (lambda: dlaseg.Predictor("camvid", scales=1.5), r"scales 1\.5: use a list of one at least, such as \[1\.0\]"),
        (lambda: dlaseg.Predictor("camvid", scales=["1"]), "scale 1: use 0.1 to 10"),
        (lambda: dlaseg.Predictor("camvid", max_memory="4GB"), "max_memory '4GB': use a number of bytes, such as 4"),
        (lambda: dlaseg.evaluate("camvid", "data", "out"), "dataset of type str: use what dlaseg.open_dataset returns"),
        (lambda: dlaseg.open_dataset("camvid", None, "val"), "root of type NoneType: use the path of a folder"),
        (lambda: dlaseg.open_dataset("camvid", ".", None), "split of type NoneType: use a name, such as train"),
        (lambda: dlaseg.train({"name": "run"}), "config of type dict: use a dlaseg.Config, or the path of a YAML file"),
        (lambda: dlaseg.PixelLoss(["dice"], 4), r"losses \['dice'\]: use a list of LossConfig, such as \[LossConfig\("),
        (lambda: dlaseg.PixelLoss(dlaseg.LossConfig("dice"), 4), r"losses LossConfig\(.*: use a list of LossConfig"),
        (lambda: dlaseg.PixelLoss([], 4, class_weights=1.0), r"class_weights 1\.0: use a list with a number for each"),
    ],
)
def test_an_argument_of_another_type_is_refused_with_what_to_give(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(dlaseg.UserError, match=f"^{message}"):
        call()
    assert not (tmp_path / "out").exists()


def test_paths_come_from_any_iterable_and_numbers_from_numpy(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    scales = [np.float32(0.5), np.int64(1)]
    dlaseg.infer("camvid", (path for path in [tmp_path / "a.png"]), tmp_path / "out", scales=scales, device="cpu")
    assert list((tmp_path / "out").rglob("a.png"))
    assert dlaseg.Predictor("camvid", max_memory=np.int64(2**35)).memory.max_memory == 2**35
