"""The recipes for Cityscapes: the paper's numbers, and a step of each."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from dlaseg_testing import CPU, SINGLE_PROCESS

from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from dlaseg.data.loading import batches
from dlaseg.synthetic.dataset import synthesize
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import initial_state
from dlaseg.training.step import step_function

RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("cityscapes_*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    synthesize(root, {"train": 2, "val": 1}, 96, 128, seed=0)
    return root


def recipe(path):
    content = yaml.safe_load(path.read_text())
    sections = {"data": DataConfig, "model": ModelConfig, "augment": AugmentConfig, "train": TrainConfig}
    return Config(content["name"], **{name: kind(**content[name]) for name, kind in sections.items()})


def test_the_papers_networks_are_there():
    networks = {(recipe(path).model.name, recipe(path).model.stride) for path in RECIPES}
    assert networks == {("dla34", 8), ("dla34", 2), ("dla60", 2), ("dla102", 2), ("dla169", 2)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_papers(path):
    config = recipe(path)
    augment = {"scale": [0.5, 2.0], "crop_size": [832, 832], "rotation": 10, "jitter": 0.4, "flip": 0.5}
    augment |= dict.fromkeys(("saturation", "hue", "gamma", "color_cast"), 0)
    assert dataclasses.asdict(config.augment) == augment
    train = config.train
    assert (train.epochs, train.batch_size, train.optimizer, train.lr) == (500, 16, "sgd", 0.01)
    assert (train.momentum, train.weight_decay, train.schedule, train.poly_power) == (0.9, 1e-4, "poly", 0.9)
    assert config.model.backbone_weights == f"timm/{config.model.name}.in1k"
    assert "not run by us" in path.read_text().split("name:")[0]


def quick_first(path):
    """The two largest take most of the time and show nothing that the others do not."""
    large = path.stem in ("cityscapes_dla102", "cityscapes_dla169")
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if large else [])


@pytest.mark.parametrize("path", [quick_first(path) for path in RECIPES])
def test_a_recipe_builds_and_takes_a_step(path, root):
    config = recipe(path)
    config.data = dataclasses.replace(config.data, root=str(root), workers=0)
    config.augment = dataclasses.replace(config.augment, crop_size=(64, 64))
    config.train = dataclasses.replace(config.train, batch_size=2, device="cpu")
    config.model = dataclasses.replace(config.model, backbone_weights=None)  # from the hub
    config = dataclasses.replace(config)  # checks the values again
    task = Segmentation(config)
    training, _ = task.open_splits()
    torch.manual_seed(0)
    state = initial_state(task.make_model(training), config.train, CPU)
    loader, sampler = task.train_loader(training, state.model, SINGLE_PROCESS)
    before = state.model.head.weight.clone()
    step = step_function(task, state, task.criterion(training, state.model), sampler.batches, SINGLE_PROCESS)
    result = step([next(iter(batches(loader)))])
    assert 0 < result.loss < 20
    assert result.lr == 0.01
    assert result.updated
    assert not torch.equal(state.model.head.weight, before)
    assert all(parameter.grad is not None for parameter in state.model.parameters())
