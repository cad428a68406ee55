"""Networks of segmentation_models_pytorch by the trainer, the data and the CPU time of a config's network, on CamVid.

    python benchmarks/peers.py --config configs/camvid_dla46_c.yaml --root DIR [--seconds 2400] [--held-out 0006R0]
        [--networks dlaseg Unet:resnet34 DeepLabV3Plus:resnet34 FPN:tu-dla34] [--lr 0.005 0.002] [--output FOLDER]
        [--measure-only]

Every network is trained from random weights on the drives of `train` that are not held out, and scored on the drive
that is. One and two epochs are measured first, on a quiet machine, and the number of epochs follows from them: CPU
seconds are user and system time of this process and its loaders, divided by the number of cores. `--measure-only` ends
there. A line of JSON per network and learning rate. With `--output`, the same command goes on where it was stopped.
"""

import argparse
import json
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dlaseg.benchmarking.others import smp_network
from dlaseg.config.reading import read_config
from dlaseg.config.segmentation import Config
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.files import write_text
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.trainer import fit

OURS = "dlaseg"


class OtherTask(Segmentation):
    """Trains a network of segmentation_models_pytorch, whatever network the config names.

    Args:
        config: all but `model` counts.
        network: ARCH:ENCODER.
    """

    def __init__(self, config: Config, network: str):
        super().__init__(config)
        self.network = network

    def make_model(self, training: SegmentationDataset) -> Any:
        """The network, randomly initialised, with the data set's label map."""
        model = smp_network(self.network, training.label_map.num_classes)
        architecture = {"name": self.network, "num_classes": model.num_classes, "in_channels": 3}
        model.metadata = replace(model.metadata, architecture=architecture, label_map=training.label_map)
        return model

    def on_fit_end(self, output: Path, validation: SegmentationDataset) -> None:
        """No report: `load_model` knows the package's own networks only."""


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended, per core."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) / len(os.sched_getaffinity(0))


def split_lists(root: str, held_out: str, folder: Path) -> tuple[Path, Path]:
    """Writes the names of `train` as two lists: all drives but one, and that one."""
    names = [pair.name for pair in open_dataset("camvid", root, "train").pairs]
    parts = {
        "others": [name for name in names if not name.startswith(held_out)],
        "held_out": [name for name in names if name.startswith(held_out)],
    }
    if not all(parts.values()):
        raise SystemExit(f"--held-out {held_out}: no drive, or all of train: use 0001TP, 0006R0 or 0016E5")
    for part, chosen in parts.items():
        write_text(folder / f"{part}.txt", "".join(f"{name}\n" for name in chosen))
    return folder / "others.txt", folder / "held_out.txt"


def train(config: Config, network: str, output: Path, resume: bool = False) -> tuple[float, float]:
    """Trains a network; returns CPU seconds and mIoU in percent of the last epoch."""
    start = cpu_seconds()
    task = Segmentation(config) if network == OURS else OtherTask(config, network)
    fit(task, output, resume, report=lambda _: None)
    last = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return cpu_seconds() - start, 100 * json.loads(last)["miou"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", required=True, help="CamVid, as for `dlaseg train`")
    parser.add_argument("--seconds", type=float, default=2400)
    parser.add_argument("--held-out", default="0006R0")
    networks = [OURS, "Unet:resnet34", "DeepLabV3Plus:resnet34", "FPN:tu-dla34"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.005, 0.002])
    parser.add_argument("--measure-only", action="store_true", help="print the number of epochs, train no further")
    parser.add_argument("--output", type=Path, help="keeps the run folders")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    if not isinstance(config, Config):
        raise SystemExit(f"{options.config}: the config of a classifier")
    with TemporaryDirectory() as temporary:
        others, held_out = split_lists(options.root, options.held_out, Path(temporary))
        data = replace(
            config.data, root=options.root, train_list=str(others), val_split="train", val_list=str(held_out)
        )
        output = options.output or Path(temporary)
        for lr in options.lr:
            for network in options.networks:
                runs = output / f"{network.replace(':', '-')}-{lr}"

                def changed(epochs: int, lr: float = lr) -> Config:
                    return replace(
                        config, data=data, train=replace(config.train, lr=lr, epochs=epochs, eval_every=epochs)
                    )

                plan = runs / "plan.json"
                if not plan.is_file():
                    once, _ = train(changed(1), network, runs / "1")  # with scoring and the start of the program
                    twice, _ = train(changed(2), network, runs / "2")
                    epochs = max(1, round(1 + (options.seconds - once) / (twice - once)))
                    seconds = once + (epochs - 1) * (twice - once)
                    write_text(plan, json.dumps({"epochs": epochs, "seconds": round(seconds)}))
                planned = json.loads(plan.read_text(encoding="utf-8"))
                row = {"network": network, "lr": lr, **planned}
                if not options.measure_only:
                    _, miou = train(changed(planned["epochs"]), network, runs / "all", resume=True)
                    row["miou"] = round(miou, 2)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
