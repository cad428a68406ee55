"""Small runs, in this process and in others that can be killed; made for the tests of training."""

import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dlaseg.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from dlaseg.training.distributed import Processes
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import TrainState, initial_state
from dlaseg.training.step import step_function
from dlaseg.training.trainer import fit

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


def draw(root: Path, train: int = 5, val: int = 2) -> Path:
    """Images of two classes in CamVid's layout."""
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


def tiny(root: Path) -> Config:
    """Three epochs of two steps over what `draw` made."""
    return Config(
        name="tiny",
        data=DataConfig(dataset="camvid", root=str(root), workers=0),
        model=ModelConfig(name="dla46_c", stride=4),
        augment=AugmentConfig(scale=(0.8, 1.25), crop_size=(32, 64), rotation=5, jitter=0.2),
        train=TrainConfig(
            epochs=3, batch_size=2, lr=0.05, warmup_steps=2, eval_every=1, precision="float32", device="cpu"
        ),
    )


def small(config: Config, **train: Any) -> Config:
    """The record with other values below `train`."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def silent(line: str) -> None:
    """A report that nobody reads."""


def run(config: Config, output: Path, resume: bool = False) -> TrainState:
    return fit(Segmentation(config), output, resume, report=silent)


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def assert_same_tensors(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def fresh(config: Config) -> TrainState:
    """The state before the first step."""
    task = Segmentation(config)
    torch.manual_seed(config.train.seed)
    return initial_state(task.make_model(task.open_splits()[0]), config.train, CPU)


def steps(config: Config, state: TrainState | None = None, batches_per_epoch: int = 10) -> Callable[..., Any]:
    """The step of a record, from (images, targets), or from a list of such parts, to its outcome."""
    task = Segmentation(config)
    criterion = task.criterion(task.open_splits()[0])
    step = step_function(task, fresh(config) if state is None else state, criterion, batches_per_epoch, ALONE)
    return lambda *parts: step(parts)


def made_batch(label: int = 3, size: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 32, 64), dtype=torch.uint8, generator=generator)
    return images, torch.full((size, 32, 64), label, dtype=torch.uint8)


# Processes of their own: forked from one that has imported everything but computed nothing, so they start at once

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["dlaseg_testing", "torch._dynamo", "torch.utils.tensorboard", "dlaseg.cli"])


def start(target: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of an importable module in a process of its own."""
    process = _SERVER.Process(target=target, args=arguments)
    process.start()
    return process


def command(words: list[str], errors: Path, environment: dict[str, str] | None = None) -> None:
    """`dlaseg WORDS`, as a process: one thread, standard error into a file, ends with the command's exit code."""
    from dlaseg import cli

    multiprocessing.set_start_method("fork", force=True)  # loading processes are this one's, not the server's
    os.environ.update(environment or {})
    torch.set_num_threads(1)
    with errors.open("a") as file:
        sys.stderr = file
        sys.stdout = file
        code = cli.main(words)
    sys.exit(code)


def train_words(config: Config, output: Path, *more: str) -> list[str]:
    """The words of `dlaseg train` for a record, which is written beside the folder."""
    from dlaseg.config_files import to_yaml

    record = output.with_suffix(".yaml")
    record.write_text(to_yaml(config))
    return ["train", "--config", str(record), "--output", str(output), *more]
