"""Puts weights into the package: the file, its model card and its facts as JSON, in dlaseg/weights/pretrained/.

    python benchmarks/builtin_weights.py add camvid RUN [RUN ...] --root DIR --held-out PART=scores.json ...
    python benchmarks/builtin_weights.py add-int8 camvid --root DIR
    python benchmarks/builtin_weights.py scenes camvid

`add` rounds the best weights of the last run folder to float16; the run folders before it are those that it started
from. The file keeps its metadata, and is scored as it is in the package. `add-int8` exports NAME-int8 (OpenVINO) from
NAME. Both write everything that belongs to a name, so that the same command with other runs replaces it. `scenes` only
writes again what the tests compare with: the label maps of drawn street scenes, by PyTorch in float32.

DIR is the data set's of the last run, such as CamVid's (train/, trainannot/, val/, valannot/).
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dlaseg.data.datasets import open_dataset
from dlaseg.errors import UserError
from dlaseg.evaluation.scoring import evaluate
from dlaseg.export.export import report_path
from dlaseg.export.int8 import export_int8
from dlaseg.factory import load_model
from dlaseg.files import sha256, write_json, write_text
from dlaseg.images import write_png
from dlaseg.inference.predictor import Predictor
from dlaseg.run_folder import BEST_WEIGHTS, RunFolder
from dlaseg.scores_file import read_scores
from dlaseg.strict_json import read_json
from dlaseg.synthetic.dataset import draw_scene
from dlaseg.weights.builtin import FOLDER, parts
from dlaseg.weights.card import command_of, mean_miou, model_card, without_folders
from dlaseg.weights.files import save_model

LICENSE = "For research use: trained on CamVid. The code of dlaseg has the MIT licence."

SCENES: dict[str, Any] = {"seeds": [0, 1], "height": 192, "width": 256}
"""Arguments of `draw_scene`."""


def add(args: argparse.Namespace) -> None:
    """Writes NAME.safetensors, NAME.json, NAME.md and NAME-scenes.png."""
    run = RunFolder.read(args.runs[-1])
    weights = args.weights or args.runs[-1] / BEST_WEIGHTS
    held_out = dict(part_and_score(text) for text in args.held_out)
    note = args.note or ("The network was trained on images of this split." if args.split in splits_of(run) else "")
    data = args.data or f"{run.config['data']['dataset']} {run.config['data']['train_split']}"
    file = FOLDER / f"{args.name}.safetensors"
    model = load_model(weights)
    save_model(model, file, "float16")
    scored, own_scores = [], None
    with TemporaryDirectory() as folder:
        if args.root is not None:
            dataset = open_dataset(run.config["data"]["dataset"], args.root, args.split)
            own_scores = Path(folder) / "scores.json"
            before = evaluate(weights, dataset, folder)["miou"]
            evaluate(file, dataset, folder)
            scored.append(summary(read_scores(own_scores)) | {"miou_before_rounding": before})
        card = model_card(
            model, args.runs, own_scores, "other", held_out, args.license, note if args.root else "", args.name
        )
    parts_held_out = {
        part: {"miou": each} if isinstance(each, float) else summary(read_scores(each))
        for part, each in held_out.items()
    }
    miou, scored_on = None, "-"
    if held_out:
        miou, scored_on = mean_miou(list(parts_held_out.values())), f"held out: {', '.join(held_out)}"
    elif scored and args.split not in splits_of(run):  # a score on images of the training is none
        miou, scored_on = scored[0]["miou"], f"{scored[0]['dataset']} {args.split}"
    facts = {
        "name": args.name,
        "architecture": dict(model.metadata.architecture),
        "classes": list(model.metadata.labels.names),
        "data": data,
        "license": args.license,
        "precision": "float16",
        "miou": miou,
        "scored_on": scored_on,
        "files": files(file),
        "weights_sha256_before_rounding": sha256(weights),
        "scores": scored,
        "note": note,
        "train_splits": splits_of(run),
        "held_out": parts_held_out,
        "training": [training(RunFolder.read(each)) for each in args.runs],
        "scenes": write_scenes(file),
    }
    write_facts(file, facts, f"{card}\n")


def part_and_score(text: str) -> tuple[str, Path | float]:
    """`0001TP=scores.json` or `0001TP=56.7` -> the part, and the file or the mIoU as a share."""
    part, _, value = text.partition("=")
    try:
        return part, float(value) / 100
    except ValueError:
        return part, Path(value)


def splits_of(run: RunFolder) -> list[str]:
    """The splits that a run trained on."""
    return str(run.config["data"]["train_split"]).split("+")


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a `scores.json` says, without the counts of each image."""
    protocol = results["protocol"]
    keys = ("dataset", "split", "images", "scales", "flip", "backend", "precision", "weights_sha256")
    return {
        **{key: protocol.get(key) for key in keys},
        "miou": results["miou"],
        "pixel_accuracy": results["pixel_accuracy"],
        "classes": {name: row["iou"] for name, row in results["classes"].items()},
    }


def training(run: RunFolder) -> dict[str, Any]:
    """How a run was started, and its log: loss and score of each epoch."""
    environment = {
        key: run.environment[key] for key in ("python", "platform", "packages", "git_commit", "cpus", "gpus")
    }
    return {
        "command": command_of(run),
        "seed": run.config["train"]["seed"],
        "config": without_folders(run.config_text),
        **environment,
        "log": [
            {
                "epoch": row["epoch"],
                **{k: float(f"{row[k]:.4g}") for k in ("loss", "lr", "miou") if row.get(k) is not None},
            }
            for row in run.log
        ],
    }


def add_int8(args: argparse.Namespace) -> None:
    """Writes NAME-int8.xml, NAME-int8.bin, NAME-int8.json and NAME-int8.md."""
    source = FOLDER / f"{args.name}.safetensors"
    facts = read_json(source.with_suffix(".json"), "a file that `add` wrote")
    file = FOLDER / f"{args.name}-int8.xml"
    calibration = [pair.image for pair in open_dataset(args.dataset, args.root, "train").pairs]
    dataset = open_dataset(args.dataset, args.root, args.split)
    exported = export_int8(source, file, calibration, dataset, args.max_drop, output="coarse_logits")
    report = read_json(report_path(file), "the report of an export")
    report_path(file).unlink()
    before, after = (share / 100 for share in exported.miou)
    scored_on = f"{dataset.name} {dataset.split}; {args.name} has {100 * before:.1f}"
    trained_on = dataset.split in facts["train_splits"]
    copied = {key: facts[key] for key in ("architecture", "classes", "data", "license")}
    content = {
        "name": file.stem,
        **copied,
        "precision": "int8",
        "miou": None if trained_on else after,
        "scored_on": "-" if trained_on else scored_on,
        "files": files(file),
        "export": report,
    }
    height, width = exported.size
    card = (
        f"# {file.stem}\n\n[{args.name}]({args.name}.md) with its convolutions in int8, for OpenVINO on CPUs "
        f"(`pip install 'dlaseg[openvino]'`): mIoU {100 * after:.2f} % on {dataset.name} {dataset.split}, "
        f"{100 * before:.2f} % in float32. Data, recipe and licence are those of {args.name}.\n\n"
        f"```python\nimport dlaseg\n\npredictor = dlaseg.Predictor(\"{file.stem}\")\n```\n\n"
        f"A forward pass of {height} x {width} took {1000 * exported.seconds[1]:.0f} ms in int8 and "
        f"{1000 * exported.seconds[0]:.0f} ms in float32 on the machine that exported it.\n\n{facts['license']}\n"
    )  # fmt: skip
    write_facts(file, content, card)


def files(file: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each part of a weights file."""
    return {part.name: {"bytes": part.stat().st_size, "sha256": sha256(part)} for part in parts(file)}


def write_scenes(file: Path) -> dict[str, Any]:
    """Writes NAME-scenes.png: the label maps of `SCENES`, one below the other; returns how they were made."""
    predictor = Predictor(file, backend="torch", device="cpu", precision="float32")
    scenes = [draw_scene(seed, SCENES["height"], SCENES["width"]).image for seed in SCENES["seeds"]]
    labels = np.concatenate([predictor(scene) for scene in scenes])  # (number of scenes * H, W) uint8
    path = file.with_name(f"{file.stem}-scenes.png")
    write_png(path, labels)
    return {**SCENES, "file": path.name, "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest()}


def scenes(args: argparse.Namespace) -> None:
    """Writes NAME-scenes.png and its entry in NAME.json."""
    file = FOLDER / f"{args.name}.safetensors"
    facts = read_json(file.with_suffix(".json"), "a file that `add` wrote")
    write_json(file.with_suffix(".json"), facts | {"scenes": write_scenes(file)})


def write_facts(file: Path, facts: Mapping[str, Any], card: str) -> None:
    """Writes JSON and model card; prints what there is."""
    write_json(file.with_suffix(".json"), facts)
    write_text(file.with_suffix(".md"), card)
    print(file, *(f"{name} {entry['bytes']} bytes" for name, entry in facts["files"].items()), sep="\n")
    print(f"mIoU {facts['miou']} ({facts['scored_on']})", *facts.get("scores", []), sep="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("add", help=add.__doc__)
    command.add_argument("name")
    command.add_argument("runs", type=Path, nargs="+", help="run folders of dlaseg train, the last one's weights count")
    command.add_argument("--weights", type=Path, help="instead of best.safetensors of the last run")
    command.add_argument("--root", type=Path, help="of the data set, to score the file on")
    command.add_argument("--split", default="val", help="that is scored")
    command.add_argument("--held-out", nargs="+", default=[], metavar="PART=SCORES", help="of networks that were "
                         "trained without a part of the data: scores.json, or mIoU in percent")  # fmt: skip
    command.add_argument("--data", help="what the weights were trained on, for people")
    command.add_argument("--note", default="", help="on the scores, such as that val was trained on")
    command.add_argument("--license", default=LICENSE)
    command.set_defaults(run=add)
    command = commands.add_parser("add-int8", help=add_int8.__doc__)
    command.add_argument("name")
    command.add_argument("--dataset", default="camvid")
    command.add_argument("--root", type=Path, required=True, help="of the data set")
    command.add_argument("--split", default="val", help="that is scored; train is calibrated on")
    command.add_argument("--max-drop", type=float, default=0.3, help="points of mIoU that may be lost")
    command.set_defaults(run=add_int8)
    command = commands.add_parser("scenes", help=scenes.__doc__)
    command.add_argument("name")
    command.set_defaults(run=scenes)
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error


if __name__ == "__main__":
    main()
