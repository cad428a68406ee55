"""The recipes for Cityscapes: the paper's numbers, and a step of each."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from dlaseg_testing import CPU, SINGLE_PROCESS

from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from dlaseg.data.loading import batches
from dlaseg.synthetic.dataset import synthesize
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import initial_state
from dlaseg.training.step import step_function

ALL = sorted((Path(__file__).resolve().parents[2] / "configs").glob("cityscapes_*.yaml"))
RECIPES = [path for path in ALL if "_afa_" not in path.stem]
ATTENTIVE = [path for path in ALL if "_afa_" in path.stem]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    synthesize(root, {"train": 2, "val": 1}, 96, 128, seed=0)
    return root


def recipe(path):
    content = yaml.safe_load(path.read_text())
    sections = {"data": DataConfig, "model": ModelConfig, "augment": AugmentConfig, "train": TrainConfig}
    for losses in ("losses", "auxiliary_losses"):
        if losses in content["train"]:
            content["train"][losses] = [LossConfig(**loss) for loss in content["train"][losses]]
    return Config(content["name"], **{name: kind(**content[name]) for name, kind in sections.items()})


def test_the_papers_networks_are_there():
    networks = {(recipe(path).model.name, recipe(path).model.stride) for path in RECIPES}
    assert networks == {("dla34", 8), ("dla34", 2), ("dla60", 2), ("dla102", 2), ("dla169", 2)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_papers(path):
    config = recipe(path)
    augment = {"scale": (0.5, 2.0), "crop_size": (832, 832), "rotation": 10, "jitter": 0.4, "flip": 0.5}
    augment |= dict.fromkeys(("saturation", "hue", "gamma", "color_cast"), 0)
    assert dataclasses.asdict(config.augment) == augment
    train = config.train
    assert (train.epochs, train.batch_size, train.optimizer, train.lr) == (500, 16, "sgd", 0.01)
    assert (train.momentum, train.weight_decay, train.schedule, train.poly_power) == (0.9, 1e-4, "poly", 0.9)
    assert config.model.backbone_weights == f"timm/{config.model.name}.in1k"
    assert "not run by us" in path.read_text().split("name:")[0]


@pytest.mark.parametrize("path", ATTENTIVE, ids=lambda path: path.stem)
def test_an_attentive_recipe_is_that_of_its_paper(path):
    config = recipe(path)
    model, train, augment, data = config.model, config.train, config.augment, config.data
    assert (model.decoder, model.scales, model.root_kernel_size, model.stride) == ("afa", [0.5, 1.0], 1, 2)
    assert (augment.scale, augment.rotation, augment.jitter, augment.flip) == ((0.5, 2.0), 10, 0.25, 0.5)
    assert (train.epochs, train.batch_size, train.optimizer, train.lr, train.min_lr) == (375, 8, "sgd", 0.01, 1e-4)
    assert (train.momentum, train.weight_decay, train.decay_norm_and_bias) == (0.9, 1e-4, True)
    assert (train.schedule, train.poly_power, train.warmup_steps, train.warmup_start) == ("poly", 0.9, 1000, 0.01)
    assert [(term.name, term.weight) for term in train.losses] == [("binary_cross_entropy", 0.5), ("rmi", 0.5)]
    assert [(term.name, term.weight) for term in train.auxiliary_losses] == [("binary_cross_entropy", 1.0)]
    assert (data.class_uniform, data.class_uniform_tile) == (0.5, 1024)
    assert model.backbone_weights == f"timm/{model.name}.in1k"
    is_published = model.name == "dla102x"
    assert (model.head == "ocr") == (augment.crop_size == (1024, 2048)) == is_published
    assert "run by us" in path.read_text().split("name:")[0]


def quick_first(path):
    """The largest take most of the time and show nothing that the others do not."""
    large = path.stem.endswith(("_dla60", "_dla102", "_dla169", "_dla102x", "cityscapes_dla34", "_stride8"))
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if large else [])


@pytest.mark.parametrize("path", [quick_first(path) for path in ALL])
def test_a_recipe_builds_and_takes_a_step(path, root):
    config = recipe(path)
    config.data = dataclasses.replace(config.data, root=str(root), workers=0, class_uniform=0)  # of two images
    config.augment = dataclasses.replace(config.augment, crop_size=(64, 64))
    config.train = dataclasses.replace(config.train, batch_size=2, device="cpu")
    config.model = dataclasses.replace(config.model, backbone_weights=None)  # from the hub
    config = dataclasses.replace(config)  # checks the values again
    task = Segmentation(config)
    training, _ = task.open_splits()
    torch.manual_seed(0)
    state = initial_state(task.make_model(training), config.train, CPU)
    loader, sampler = task.train_loader(training, state.model, SINGLE_PROCESS)
    head = next(state.model.head.parameters())
    before = head.clone()
    step = step_function(task, state, task.criterion(training, state.model), sampler.batches, SINGLE_PROCESS)
    result = step([next(iter(batches(loader)))])
    assert 0 < abs(result.loss) < 60  # region mutual information may be negative
    assert result.lr == pytest.approx(0.01 if not config.train.warmup_steps else 1.099e-4)
    assert result.updated
    assert not torch.equal(head, before)
    assert all(parameter.grad is not None for parameter in state.model.parameters())
