"""Compares a backbone pretrained on patches of the training images with a randomly initialised one.

Patches of CamVid's training split, labelled by the class that most of their pixels have, teach a classifier
(`dlaseg pretrain`). Segmentation networks then train on the whole images for the same number of steps: from that
classifier's backbone, and from random weights; three seeds each.

    python benchmarks/pretraining.py --root DIR --output DIR [--seeds 3] [--epochs 8] [--pretrain-epochs 30]

DIR of --root is CamVid's (train/, trainannot/, val/, valannot/). About 40 minutes on two cores. Results there (in
bfloat16, while the config had AdamW), val mIoU as mean and standard deviation over three seeds; the classifier had
0.857 top-1 of seven classes:

    epoch        2                4                6                8
    random       0.226 +- 0.041   0.294 +- 0.041   0.339 +- 0.047   0.441 +- 0.006
    pretrained   0.332 +- 0.013   0.395 +- 0.010   0.428 +- 0.016   0.468 +- 0.017
"""

import argparse
import json
import statistics
from pathlib import Path

import cv2
import numpy as np

from dlaseg.cli import main as dlaseg
from dlaseg.data.datasets import open_dataset

SIDE, STEP, SHARE, MOST = 96, 48, 0.5, 500


def cut_patches(root: Path, folder: Path) -> dict[str, dict[str, int]]:
    """Writes folder/SPLIT/CLASS/*.png, at most `MOST` of a class; returns how many of each.

    A patch has `SIDE` x `SIDE` pixels on a grid of `STEP`, and at least `SHARE` of its pixels in its class.
    """
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "val"):
        dataset = open_dataset("camvid", root, split)
        found: dict[int, list[tuple[int, int, int]]] = {}
        for index in range(len(dataset)):
            target = dataset.read(index)[1]
            for top in range(0, target.shape[0] - SIDE + 1, STEP):
                for left in range(0, target.shape[1] - SIDE + 1, STEP):
                    pixels = np.bincount(target[top : top + SIDE, left : left + SIDE].ravel(), minlength=256)[:255]
                    if pixels.max() >= SHARE * SIDE * SIDE:
                        found.setdefault(int(pixels.argmax()), []).append((index, top, left))
        rng = np.random.default_rng(0)
        chosen = {label: [places[i] for i in rng.permutation(len(places))[:MOST]] for label, places in found.items()}
        names = dataset.label_map.names
        counts[split] = {names[label]: len(places) for label, places in sorted(chosen.items())}
        for label, places in chosen.items():
            where = folder / split / names[label]
            where.mkdir(parents=True)
            for index, top, left in places:
                image = dataset.read(index)[0][top : top + SIDE, left : left + SIDE]
                cv2.imwrite(str(where / f"{index:04}_{top}_{left}.png"), image[..., ::-1])
    absent = set(counts["train"]) ^ set(counts["val"])
    for split in counts:
        for name in absent & set(counts[split]):  # a class of one split alone teaches or tests nothing
            for file in (folder / split / name).iterdir():
                file.unlink()
            (folder / split / name).rmdir()
            del counts[split][name]
    return counts


def run(*words: object) -> None:
    """Runs a command of dlaseg; stops if it fails."""
    if code := dlaseg([str(word) for word in words]):
        raise SystemExit(code)


def curve(folder: Path) -> dict[int, float]:
    """Validation mIoU of a run, by epoch."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["epoch"]: row["miou"] for row in rows if row["miou"] is not None}


def main() -> None:
    """Cuts, pretrains, trains, and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pretrain-epochs", type=int, default=30)
    options = parser.parse_args()
    configs = Path(__file__).resolve().parents[1] / "configs"
    print(json.dumps(cut_patches(options.root, options.output / "patches")), flush=True)

    classifier = options.output / "classifier"
    run(
        *("pretrain", "--config", configs / "imagenet_dla34.yaml", "--data.root", options.output / "patches"),
        *("--output", classifier, "--data.workers", 1, "--model.name", "dla46_c"),
        *("--augment.crop_size", 64, "--augment.resize", 72, "--augment.area", "[0.3,1.0]", "--augment.jitter", 0.3),
        *("--train.epochs", options.pretrain_epochs, "--train.batch_size", 32, "--train.lr", 0.05),
        *("--train.schedule", "poly", "--train.eval_every", 5),
    )
    curves: dict[str, list[dict[int, float]]] = {"random": [], "pretrained": []}
    for seed in range(options.seeds):
        for kind, taken in curves.items():
            folder = options.output / f"{kind.replace(' ', '_')}_{seed}"
            start = ("--model.backbone_weights", classifier / "best.safetensors") if kind == "pretrained" else ()
            run(
                *("train", "--config", configs / "camvid_dla46_c.yaml", "--data.root", options.root),
                *("--output", folder, "--train.epochs", options.epochs, "--train.eval_every", 2),
                *("--train.seed", seed, *start),
            )
            taken.append(curve(folder))
    print("\nval mIoU    epoch  mean    spread  seeds (spread: standard deviation over them)")
    for kind, taken in curves.items():
        for epoch in taken[0]:
            scores = [scored[epoch] for scored in taken]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            seeds = ", ".join(f"{score:.4f}" for score in scores)
            print(f"{kind:<10}  {epoch:>5}  {statistics.mean(scores):.4f}  {spread:.4f}  {seeds}")


if __name__ == "__main__":
    main()
