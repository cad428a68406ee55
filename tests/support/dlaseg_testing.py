"""Small training runs for tests, in this process and in child processes."""

import dataclasses
import gc
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from dlaseg.data.datasets import SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import AuxiliaryOutput, SegmentationModel, TrainingOutputs
from dlaseg.models.dla import VARIANTS
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import TrainState, initial_state
from dlaseg.training.step import step_function
from dlaseg.training.trainer import fit

TINY = "tiny"
"""A variant that only tests know, with the fixture `tiny_variant`: as few layers as there can be, and narrow ones."""

CPU = torch.device("cpu")
SINGLE_PROCESS = DistributedContext(0, 1, CPU)


def load_benchmark(name: str) -> Any:
    """A script of benchmarks/ as a module."""
    return load_script(f"benchmarks/{name}.py")


def load_script(path: str) -> Any:
    """A file outside the package, by its path below the project, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parents[2] / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_camvid(root: Path, train: int = 5, val: int = 2) -> Path:
    """Writes images of two classes in CamVid's layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            labels = np.zeros((48, 64), np.uint8)
            labels[:, rng.integers(16, 48) :] = 3
            labels[:4] = 11
            image = np.where(labels[..., None] == 3, 200, 40) + rng.integers(0, 30, (48, 64, 3))
            for name, pixels in ((split, image.astype(np.uint8)), (f"{split}annot", labels)):
                (root / name).mkdir(exist_ok=True, parents=True)
                Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


class TinyBlock(nn.Module):
    """A residual block of one convolution; a small run's time is that of its many layers, however narrow they are."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).add_(shortcut).relu_()


@contextmanager
def tiny_variant() -> Iterator[None]:
    """`TINY` is among the variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, TINY, ((1, 1, 1, 1), (8, 16, 16, 16, 32, 64), TinyBlock, False))
        yield


@contextmanager
def foreign_defaults() -> Iterator[None]:
    """Torch as no caller should, but some do set it: another default device and type, no gradients, autocast."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.no_grad(), torch.autocast("cpu"):
            yield
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def tiny_config(root: Path) -> Config:
    """Three epochs of two steps on the images of `write_camvid`; wants `tiny_variant`."""
    return Config(
        name="tiny",
        data=DataConfig(dataset="camvid", root=str(root), workers=0),
        model=ModelConfig(name=TINY, stride=4),
        augment=AugmentConfig(scale=(0.8, 1.25), crop_size=(32, 64), rotation=5, jitter=0.2),
        train=TrainConfig(
            epochs=3, batch_size=2, lr=0.05, warmup_steps=2, eval_every=1, precision="float32", device="cpu"
        ),
    )


def with_train(config: Config, **train: Any) -> Config:
    """The config with other values in `train`."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def no_report(line: str) -> None:
    """A report that prints nothing."""


def run(config: Config, output: Path, resume: bool = False) -> TrainState:
    return fit(Segmentation(config), output, resume, report=no_report)


def refused_resume(config: Config, output: Path) -> str:
    """The one-line message by which a run is not resumed; its folder stays as it is."""
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UserError) as caught:
        run(config, output, resume=True)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    return str(caught.value)


def log_rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def assert_same_tensors(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def new_state(config: Config) -> TrainState:
    """The state before the first step."""
    task = Segmentation(config)
    torch.manual_seed(config.train.seed)
    return initial_state(task.make_model(task.open_splits()[0]), config.train, CPU)


def make_step(config: Config, state: TrainState | None = None, batches_per_epoch: int = 10) -> Callable[..., Any]:
    """The training step of a config; takes micro-batches (images, targets) as arguments."""
    task = Segmentation(config)
    state = new_state(config) if state is None else state
    criterion = task.criterion(task.open_splits()[0], state.model)
    step = step_function(task, state, criterion, batches_per_epoch, SINGLE_PROCESS)
    return lambda *micro_batches: step(micro_batches)


def make_batch(label: int = 3, size: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 32, 64), dtype=torch.uint8, generator=generator)
    return images, torch.full((size, 32, 64), label, dtype=torch.uint8)


class TwoHeads(SegmentationModel):
    """A small family with an auxiliary head: main logits of stride 2, auxiliary logits of stride 4."""

    auxiliary_weight = 0.4

    def __init__(self, num_classes: int):
        super().__init__()
        architecture = {"name": "two_heads", "num_classes": num_classes, "in_channels": 3}
        self.metadata = dataclasses.replace(ModelMetadata.for_segmentation(num_classes, 3), architecture=architecture)
        self.stride, self.num_classes = 2, num_classes
        self.backbone = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.deeper = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.auxiliary_head = nn.Conv2d(8, num_classes, 1)

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).relu())

    def training_outputs(self, x: torch.Tensor) -> TrainingOutputs:
        features = self.backbone(x).relu()
        auxiliary = self.auxiliary_head(self.deeper(features).relu())
        return TrainingOutputs(self.head(features), (AuxiliaryOutput(auxiliary, 4, self.auxiliary_weight),))


class TwoHeadsTask(Segmentation):
    """Trains `TwoHeads`, whatever network the config names."""

    def make_model(self, training: SegmentationDataset) -> Any:
        model = TwoHeads(training.label_map.num_classes)
        model.metadata = dataclasses.replace(model.metadata, label_map=training.label_map)
        return model

    def on_fit_end(self, output: Path, validation: SegmentationDataset) -> None:
        """No report: `load_model` knows the families of the package only."""


# Child processes start fast: they are forked from a server that has imported everything and computed nothing

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["dlaseg_testing", "torch._dynamo", "torch.utils.tensorboard", "dlaseg.cli"])


def start_process(target: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of an importable module in a child process, which knows `TINY`."""
    process = _SERVER.Process(target=_call, args=(target, *arguments))
    with pytest.MonkeyPatch.context() as patch:
        # Some versions of Python leave out what the server does not find by the path of a new Python
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        process.start()
    return process


def _call(target: Callable[..., Any], *arguments: Any) -> None:
    gc.freeze()  # what the server imported is no garbage
    os.fsync = lambda descriptor: None  # as in the tests' own process
    with tiny_variant():
        target(*arguments)


def run_command(words: list[str], errors: Path, environment: dict[str, str] | None = None) -> None:
    """Runs `dlaseg WORDS` in a child process: one thread, output to a file; exits with the command's exit code."""
    from dlaseg import cli

    multiprocessing.set_start_method("fork", force=True)  # the loader's workers are children of this process
    os.environ.update(environment or {})
    torch.set_num_threads(1)
    with errors.open("a", encoding="utf-8") as file:
        sys.stderr = file
        sys.stdout = file
        code = cli.main(words)
    sys.exit(code)


def train_arguments(config: Config, output: Path, *more: str) -> list[str]:
    """Arguments of `dlaseg train` for a config, which is written beside the run folder."""
    from dlaseg.config.files import to_yaml

    config_file = output.with_suffix(".yaml")
    config_file.write_text(to_yaml(config))
    return ["train", "--config", str(config_file), "--output", str(output), *more]
