"""benchmarks/gpu_training.py, on the CPU: its parts compute what dlaseg's own do."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dlaseg_testing import (
    CPU,
    assert_same_tensors,
    load_benchmark,
    log_rows,
    make_step,
    new_state,
    tiny_config,
    with_train,
    write_camvid,
)
from torch.nn import functional as F

from dlaseg.config.files import to_yaml
from dlaseg.config.segmentation import AugmentConfig, LossConfig
from dlaseg.data.datasets import open_dataset
from dlaseg.data.tensors import normalize_
from dlaseg.evaluation.scoring import evaluate
from dlaseg.factory import load_model
from dlaseg.models.base import upsample_logits
from dlaseg.models.ida import BilinearUpsample
from dlaseg.run_folder import RunFolder
from dlaseg.training.segmentation import Segmentation

pytestmark = pytest.mark.slow  # a script that nothing else depends on

UNCHANGED = AugmentConfig(scale=(1.0, 1.0), crop_size=(64, 96), rotation=0, jitter=0, flip=0)


@pytest.fixture(scope="module")
def script():
    return load_benchmark("gpu_training")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of three drives."""
    root = write_camvid(tmp_path_factory.mktemp("camvid"), train=6)
    for folder in (root / "train", root / "trainannot"):
        for index, file in enumerate(sorted(folder.iterdir())):
            file.rename(folder / f"{('0001TP', '0006R0', '0016E5')[index % 3]}_{index}.png")
    return root


@pytest.fixture
def config(root):
    tiny = tiny_config(root)
    train = replace(tiny.train, optimizer="muon", lr=0.01, ema_decay=0.9, epochs=2, eval_every=2)
    return replace(tiny, augment=replace(tiny.augment, rotation=0), train=train)


@pytest.mark.parametrize(("factor", "shape"), [(2, (3, 5)), (2, (1, 1)), (4, (2, 3)), (8, (4, 1))])
def test_upsampling_is_the_decoders_and_that_of_the_logits(script, factor, shape):
    x = torch.randn(2, 3, *shape)
    untrained = BilinearUpsample(3, factor)
    torch.testing.assert_close(script.SlicedUpsample(untrained)(x), untrained(x).detach())
    with torch.no_grad():
        untrained.weight.mul_(3)
    torch.testing.assert_close(script.SlicedUpsample(untrained)(x), untrained(x).detach())
    expected = upsample_logits(x, factor, factor * shape[0], factor * shape[1])
    torch.testing.assert_close(script.enlarge(x, factor, repeat=True), expected)


def test_without_strengths_an_image_stays_as_it_is(script):
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (2, 3, 64, 96), np.uint8))
    images = F.avg_pool2d(F.avg_pool2d(images.float(), 15, 1, 7), 15, 1, 7).to(torch.uint8)  # smooth
    targets = torch.randint(0, 11, (2, 64, 96), dtype=torch.uint8)
    targets[0, 3] = 255
    pixels, labels = script.augment(images, targets, UNCHANGED)
    assert float((pixels - images).abs()[..., 16:-16, 16:-16].max()) < 3
    assert torch.equal(labels, targets)
    flipped, flipped_labels = script.augment(images, targets, replace(UNCHANGED, flip=1.0))
    assert torch.equal(flipped_labels, targets.flip(2))
    assert float((flipped - images.flip(3)).abs()[..., 16:-16, 16:-16].max()) < 3


def test_outside_the_image_is_ignored_and_image_and_labels_stay_together(script):
    torch.manual_seed(0)
    targets = torch.randint(0, 11, (64, 8, 12), dtype=torch.uint8).repeat_interleave(16, 1).repeat_interleave(16, 2)
    images = (20 * targets + 20)[:, None].expand(-1, 3, -1, -1)
    config = replace(UNCHANGED, scale=(0.5, 2.0), crop_size=(96, 128), flip=0.5)
    pixels, labels = script.augment(images, targets, config)
    assert pixels.shape == (64, 3, 96, 128)
    inside = F.max_pool2d((labels == 255).float(), 5, 1, 2) == 0
    level = (pixels[:, 0] - 20) / 20
    assert float((level.round() == labels)[inside].float().mean()) > 0.8  # but for blended borders of the squares
    ignored = (labels == 255).flatten(1).float().mean(1)
    assert 0 < float(ignored.mean()) < 0.7
    assert float(ignored.max()) > 0.4  # 0.5 at scale 0.5


def test_colours_change_each_image_in_its_own_way(script):
    torch.manual_seed(0)
    images, targets = torch.full((16, 3, 64, 96), 128, dtype=torch.uint8), torch.zeros(16, 64, 96, dtype=torch.uint8)
    for field, strength in (("jitter", 0.5), ("gamma", 0.5), ("color_cast", 0.3)):
        pixels, _ = script.augment(images, targets, replace(UNCHANGED, **{field: strength}))
        means = pixels.mean((2, 3))
        assert float(means.std(0).min()) > 3, field
        assert (float(means.std(1).max()) > 3) == (field == "color_cast")
    coloured = images * torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1)
    for field, strength in (("saturation", 0.5), ("hue", 0.2)):
        means = script.augment(coloured.to(torch.uint8), targets, replace(UNCHANGED, **{field: strength}))[0].mean(
            (2, 3)
        )
        assert float(means.std(0).max()) > 3, field
        luma = means @ torch.tensor([0.299, 0.587, 0.114])
        assert float(luma.std()) < 1.5, field


def floats(network) -> list[torch.Tensor]:
    """What is trained here: not the upsampling."""
    return [t for name, t in network.state_dict().items() if t.is_floating_point() and ".up." not in name]


@pytest.mark.parametrize(
    ("optimizer", "decoder"),
    [
        ("sgd", "plain"),
        ("muon", "afa"),
        *(pytest.param(name, "plain") for name in ("muon", "adamw")),  # AdamW is part of Muon
    ],
)
def test_a_step_is_that_of_dlaseg_train(script, config, optimizer, decoder, monkeypatch):
    monkeypatch.setattr(
        script, "normalize_", lambda pixels, *statistics: normalize_(pixels.float(), *statistics).double()
    )
    config = with_train(config, optimizer=optimizer, class_weights=[0.5 + 0.1 * i for i in range(11)])
    if decoder == "afa":
        config = with_train(replace(config, model=replace(config.model, decoder=decoder)), attention_lr_factor=0.3)
    training, _ = Segmentation(config).open_splits()
    trainee = script.Trainee(config, training, config.train.seed, torch.arange(6), 20, CPU)
    trainee.network.double()  # differences grow a thousandfold per step: batch norm sees four pixels
    trainee.current, trainee.weights = floats(trainee.network), trainee.weights.double()
    trainee.average = [tensor.clone() for tensor in trainee.current]
    state = new_state(config)
    state.model.double()
    state.average = None
    for module in state.model.modules():
        if isinstance(module, BilinearUpsample):  # dlaseg train learns these
            module.requires_grad_(False)
    step = make_step(with_train(config, epochs=2), state)  # of ten batches each
    generator = torch.Generator().manual_seed(1)
    initial = [tensor.clone() for tensor in trainee.current]
    for number in range(2):
        images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8, generator=generator)
        targets = torch.randint(0, 12, (2, 32, 64), dtype=torch.uint8, generator=generator)
        targets[targets == 11] = 255
        before = float(trainee.loss)
        trainee.step(images.double(), targets)
        result = step((images, targets))
        assert float(trainee.loss) - before == pytest.approx(result.loss, rel=1e-5)
        if number == 0:
            pairs = zip(trainee.current, floats(state.model), initial, trainee.average, strict=True)
            for found, expected, start, average in pairs:
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
                torch.testing.assert_close(average, 0.1 * start + 0.9 * found)


def test_train_writes_a_run_folder_and_the_same_one_again(script, config, root, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for name in ("one", "other"):
        script.main(["train", "--config", str(tmp_path / "config.yaml"), "--root", str(root), "--output",
                     str(tmp_path / name)])  # fmt: skip
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["epoch"] == 2
    run = RunFolder.read(tmp_path / "one")
    assert [row["step"] for row in log_rows(tmp_path / "one")] == [3, 6]
    assert run.log[-1]["miou"] >= 0
    assert run.environment["command"][:2] == ["python", "benchmarks/gpu_training.py"]
    one, other = (load_model(tmp_path / name / "best.safetensors") for name in ("one", "other"))
    assert_same_tensors(one.state_dict(), other.state_dict())
    assert one.metadata.labels.names[0] == "sky"
    assert (tmp_path / "one/train.txt").read_text().split() == sorted(file.stem for file in (root / "train").iterdir())
    fresh = new_state(config).model.state_dict()
    changed = {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert {name for name in fresh if ".up." not in name and name.endswith("weight")} <= changed
    assert not any(".up." in name for name in changed)


def test_the_score_is_that_of_dlaseg_eval(script, config, tmp_path):
    dataset = open_dataset("camvid", config.data.root, "val")
    trainee = script.Trainee(config, dataset, 3, torch.arange(2), 5, CPU)
    images = script.Images.read(dataset, CPU)
    found = trainee.miou(images, torch.arange(2))
    trainee.save(tmp_path / "a.safetensors")
    rows = evaluate(tmp_path / "a.safetensors", dataset, tmp_path)["classes"]
    expected = np.mean([rows[name]["iou"] for name in ("sky", "road")])  # the two that occur
    assert found == pytest.approx(expected, abs=1e-4)


def test_compare_holds_each_drive_out(script, config, root, tmp_path, capsys, monkeypatch):
    seen = []
    init = script.Trainee.__init__

    def spy(self, config, dataset, seed, train, *rest):
        seen.append((sorted({dataset.pairs[i].name[:6] for i in train.tolist()}), config.train.optimizer))
        init(self, config, dataset, seed, train, *rest)

    monkeypatch.setattr(script.Trainee, "__init__", spy)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    script.main(["compare", "--config", str(tmp_path / "config.yaml"), "--root", str(root), "--steps", "2", "--seeds",
                 "0", "--recipes", "config", "base"])  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["recipe"] for row in rows] == ["config", "base"]
    assert all(row["mean"] == pytest.approx(np.mean([row[drive] for drive in script.DRIVES]), abs=0.01) for row in rows)
    others = [["0006R0", "0016E5"], ["0001TP", "0016E5"], ["0001TP", "0006R0"]]
    assert seen == [(each, optimizer) for optimizer in ("muon", "adamw") for each in others]


def test_a_network_of_another_package_is_trained_in_the_same_way(script, config, root, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    script.main(["compare", "--config", str(tmp_path / "config.yaml"), "--root", str(root), "--steps", "2", "--seeds",
                 "0", "--recipes", "config", "--network", "Linknet:mobilenet_v2"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["recipe"] == "config"
    dataset = Segmentation(config).open_splits()[0]
    trainee = script.Trainee(config, dataset, 0, torch.arange(2), 2, CPU, "Linknet:mobilenet_v2")
    before = trainee.network.network.segmentation_head[0].weight.clone()
    trainee.step(torch.zeros(2, 3, 32, 64), torch.zeros(2, 32, 64, dtype=torch.uint8))
    assert not torch.equal(trainee.network.network.segmentation_head[0].weight, before)


def test_recipes_name_fields_of_a_config(script, config):
    for sections in script.RECIPES.values():
        for section, fields in sections.items():
            replace(getattr(config, section), **fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"losses": [LossConfig("ohem")]}}, "cross-entropy with numbers as class weights"),
        ({"train": {"auxiliary_losses": [LossConfig("focal")]}}, "cross-entropy with numbers as class weights"),
        ({"train": {"class_weights": "median_frequency"}}, "cross-entropy with numbers as class weights"),
        ({"augment": {"rotation": 5.0}}, "augment.rotation and data.class_uniform are not supported: use 0"),
        ({"data": {"class_uniform": 0.5}}, "augment.rotation and data.class_uniform are not supported: use 0"),
        ({"train": {"freeze": "backbone"}}, "train.freeze is not supported: leave it out"),
        ({"train": {"clip_grad_norm": 1.0}}, "train.clip_grad_norm is not supported: leave it out"),
        ({"train": {"patience": 2}}, "train.patience is not supported: leave it out"),
        ({"train": {"schedule": "step"}}, "train.schedule step is not supported: use poly or cosine"),
    ],
)
def test_what_it_cannot_follow_is_refused(script, config, root, tmp_path, changes, message):
    sections = {section: replace(getattr(config, section), **fields) for section, fields in changes.items()}
    (tmp_path / "config.yaml").write_text(to_yaml(replace(config, **sections)))
    with pytest.raises(SystemExit, match=message):
        script.main(["train", "--config", str(tmp_path / "config.yaml"), "--root", str(root), "--output",
                     str(tmp_path / "run")])  # fmt: skip
    assert not (tmp_path / "run").exists()
