"""The `dlaseg` command: one function per subcommand.

Results go to standard output, progress and errors to standard error. What the user got wrong is said in one line and
ends with exit code 2; `--debug` shows where it was noticed.
"""

import argparse
import dataclasses
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from jsonargparse import ArgumentParser, Namespace

from dlaseg.config import Config, PretrainConfig
from dlaseg.errors import UserError
from dlaseg.records import check_keys, flatten, nearest, read_yaml, unknown_keys
from dlaseg.version import __version__

if TYPE_CHECKING:
    from dlaseg.training.task import Task

Kind = TypeVar("Kind", Config, PretrainConfig)


def train(arguments: Sequence[str]) -> int:
    """Trains as a YAML file says; any field of it can be set by its dotted name, such as --train.lr 0.02."""
    config, output, resume = _run_arguments(_parser("train", train), Config, arguments)

    from dlaseg.training.segmentation import Segmentation

    return _fit(Segmentation(config), output, resume)


def pretrain(arguments: Sequence[str]) -> int:
    """Trains an image classifier, whose backbone `train` can start from (--model.backbone_weights)."""
    config, output, resume = _run_arguments(_parser("pretrain", pretrain), PretrainConfig, arguments)

    from dlaseg.training.classification import Classification

    return _fit(Classification(config), output, resume)


def evaluate(arguments: Sequence[str]) -> int:
    """Scores weights, or label maps that any program wrote: whole images at native size, one confusion matrix."""
    parser = _parser("eval", evaluate)
    parser.add_argument("weights", type=Path | None, nargs="?", help="a .safetensors file")
    parser.add_argument("--predictions", type=Path | None, help="in place of weights, for cityscapes: a folder of "
                        "label id maps named CITY_SEQUENCE_FRAME*.png")  # fmt: skip
    parser.add_argument("--dataset", type=str, required=True, help="cityscapes, camvid or folder")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--split", type=str, default="val", help="such as val or test")
    parser.add_argument("--images", type=str, default="images/{split}", help="for folder: images, below root")
    parser.add_argument("--labels", type=str, default="labels/{split}", help="for folder: label maps, below root")
    parser.add_argument("--classes", type=str, default="classes.yaml", help="for folder: classes file, below root")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="average over these scales")
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image too")
    parser.add_argument("--output", type=Path | None, help="folder of scores.json and sheet.png; DATASET-SPLIT beside "
                        "the weights if left out")  # fmt: skip
    parser.add_argument("--workers", type=int | None, help="processes that read images, 1 if left out; for predictions "
                        "threads, one a core if left out")  # fmt: skip
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    given = parser.parse_args(arguments)
    if (given.weights is None) == (given.predictions is None):
        raise UserError("weights or --predictions: name the one that shall be scored")
    if given.workers is not None and given.workers < 0:
        raise UserError(f"--workers {given.workers}: use 0 or more")
    if given.predictions is not None:
        return _evaluate_predictions(given)

    from dlaseg.data.datasets import open_dataset
    from dlaseg.evaluation.scoring import score

    dataset = open_dataset(given.dataset, given.root, given.split, given.images, given.labels, given.classes)
    output = given.output or given.weights.parent / f"{dataset.name}-{dataset.split}"
    workers = 1 if given.workers is None else given.workers
    table = score(given.weights, dataset, output, given.scales, given.flip, workers, given.device)
    print(f"{table}\n\n{output / 'scores.json'}\n{output / 'sheet.png'}")
    return 0


def infer(arguments: Sequence[str]) -> int:
    """Segments an image or a folder of images; what is there from an earlier run is not done again."""
    parser = _parser("infer", infer)
    parser.add_argument("weights", type=Path, help="a .safetensors file")
    parser.add_argument("input", type=Path, help="an image, or a folder that is walked recursively")
    parser.add_argument(
        "output", type=Path, help="a folder; gets ids/, color/ and overlay/, each a mirror of the input"
    )
    parser.add_argument("--save", type=str, nargs="+", default=["ids", "color", "overlay"],
                        help="what to write: ids (label ids as stored), color, overlay")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--backend", type=str, default="torch", help="what computes: torch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    given = parser.parse_args(arguments)

    from dlaseg.inference.run import infer as run

    summary = run(given.weights, given.input, given.output, given.save, given.overwrite, given.backend, given.device)
    for _, message in summary.failed:
        print(f"dlaseg infer: {message}", file=sys.stderr)
    print(f"{summary.done} done, {summary.skipped} were there, {len(summary.failed)} failed  {given.output}")
    return 2 if summary.failed else 0


def data_synthesize(arguments: Sequence[str]) -> int:
    """Draws street scenes and writes them in the Cityscapes layout."""
    parser = _parser("data synthesize", data_synthesize)
    parser.add_argument("output", type=Path, help="a folder without leftImg8bit and gtFine")
    parser.add_argument("--train", type=int, default=48, help="scenes of the training split")
    parser.add_argument("--val", type=int, default=12, help="scenes of the validation split")
    parser.add_argument("--test", type=int, default=0, help="scenes of the test split")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 1024], help="height and width, up to 1024 2048")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other streets")
    given = parser.parse_args(arguments)

    from dlaseg.data.synthetic import synthesize

    counts = {split: getattr(given, split) for split in ("train", "val", "test")}
    synthesize(given.output, {split: n for split, n in counts.items() if n}, given.size[0], given.size[1], given.seed)
    print(given.output)
    return 0


def models(arguments: Sequence[str]) -> int:
    """Lists the networks: parameters, multiply-adds, activations, published accuracy."""
    parser = _parser("models", models)
    parser.add_argument("name", type=str | None, nargs="?", help="a single variant, such as dla34; all if left out")
    parser.add_argument("--json", action="store_true", help="exact numbers, as JSON")
    given = parser.parse_args(arguments)

    from dlaseg.models.cost import PUBLISHED_TOP1, classifier_cost, cost_table, segmentation_costs
    from dlaseg.models.factory import list_models

    names = list_models() if given.name is None else [given.name]
    imagenet = {"num_classes": 1000, "height": 224, "width": 224}
    cityscapes = {"num_classes": 19, "height": 1024, "width": 2048}
    classifiers = [
        {"name": name, **vars(classifier_cost(name, **imagenet)), "published_top1": PUBLISHED_TOP1[name]}
        for name in names
    ]
    networks = [
        {"name": name, "stride": stride, "root_kernel_size": size, **vars(cost)}
        for name in names
        for (stride, size), cost in segmentation_costs(name, **cityscapes).items()
    ]
    if given.json:
        record = {
            "classifiers": {**imagenet, "models": classifiers},
            "segmentation": {**cityscapes, "models": networks},
        }
        print(json.dumps(record, indent=2))
        return 0
    print("Classifiers of 1000 classes at 224 x 224.")
    print("Top-1 on ImageNet: of timm's weights, as published by timm, not measured here.\n")
    print(cost_table(classifiers))
    print("\nSegmentation networks of 19 classes at 1024 x 2048.")
    print("stride: of the output; root_kernel_size: of the aggregation nodes.\n")
    print(cost_table(networks))
    return 0


def weights_inspect(arguments: Sequence[str]) -> int:
    """Says what a weights file is, what of it would be loaded, and what not."""
    parser = _parser("weights inspect", weights_inspect)
    parser.add_argument("file", type=str, help="a file, or a repository on the Hugging Face hub (USER/NAME)")
    given = parser.parse_args(arguments)

    from dlaseg.models.inspection import inspect_weights

    description, mismatch = inspect_weights(given.file)
    print(description)
    if mismatch is not None:
        raise mismatch
    return 0


def weights_convert(arguments: Sequence[str]) -> int:
    """Makes a weights file of ours, which eval and infer take, from a segmentation network of anyone's."""
    parser = _parser("weights convert", weights_convert)
    parser.add_argument("file", type=str, help="a file, or a repository on the Hugging Face hub (USER/NAME)")
    parser.add_argument("output", type=Path, help="a .safetensors file")
    parser.add_argument("--classes", type=str | None, help="cityscapes, camvid or a classes file (YAML); numbered if "
                        "left out")  # fmt: skip
    parser.add_argument("--mean", type=float, nargs="+", help="what the network was trained with, per channel, 0 to 1")
    parser.add_argument("--std", type=float, nargs="+", help="the same; ImageNet's if left out")
    given = parser.parse_args(arguments)

    from dlaseg.labels import LabelMap, camvid_labels, cityscapes_labels
    from dlaseg.models.factory import model_of
    from dlaseg.models.weights import save_model

    model = model_of(given.file)
    if given.classes is not None:
        known = {"cityscapes": cityscapes_labels, "camvid": camvid_labels}
        model.label_map = known[given.classes]() if given.classes in known else LabelMap.from_file(Path(given.classes))
    model.mean, model.std = tuple(given.mean or model.mean), tuple(given.std or model.std)
    save_model(model, given.output)
    print(given.output)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "pretrain": pretrain,
    "eval": evaluate,
    "infer": infer,
    "models": models,
    "data synthesize": data_synthesize,
    "weights inspect": weights_inspect,
    "weights convert": weights_convert,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: as typed after `dlaseg`; None for those of this process.

    Returns:
        The exit code: 0 done, 2 the user's input is wrong or part of it is broken, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["--version"]:
        print(f"dlaseg {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    families = {name.split()[0] for name in COMMANDS if " " in name}
    name = " ".join(words[:2]) if words[0] in families and words[1:2] != ["--help"] else words[0]
    if name in families and words[1:]:
        print(_overview())
        return 0
    _log_to_standard_error()
    try:
        if name not in COMMANDS:
            raise UserError(f"no command {name!r}; the commands are {', '.join(COMMANDS)}")
        return COMMANDS[name](words[len(name.split()) :])
    except _refusals() as error:
        if debug:
            raise
        print(f"dlaseg {name}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"dlaseg {name}: interrupted; finished files are whole, the same command goes on", file=sys.stderr)
        return 130


def _refusals() -> tuple[type[Exception], ...]:
    """What is said in one line: the user's mistakes, and what the system or the machine refuses."""
    torch = sys.modules.get("torch")  # not imported for this alone
    return (UserError, argparse.ArgumentError, OSError, *([torch.OutOfMemoryError] if torch else []))


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_standard_error() -> None:
    """Shows the package's log, such as what weights were loaded, one line a message."""
    logger = logging.getLogger("dlaseg")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())


def _run_arguments(parser: ArgumentParser, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Path, bool]:
    """A run's record, its folder, and whether to resume it."""
    parser.add_argument("--config", action="config", help="the record of the run (YAML), see configs/")
    parser.add_class_arguments(kind, as_group=False)
    parser.add_argument("--output", type=Path | None, help="the run folder; runs/NAME if left out")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last.ckpt, if it is there")
    for path in _config_files(arguments):
        content = read_yaml(path)
        for command, other in (("train", Config), ("pretrain", PretrainConfig)):
            if isinstance(content, Mapping) and unknown_keys(content, kind) and not unknown_keys(content, other):
                raise UserError(f"{path}: a record of another command: use dlaseg {command}")
        check_keys(content, str(path), kind)
    given = parser.instantiate(parser.parse_args(arguments))
    record = kind(**{entry.name: given[entry.name] for entry in dataclasses.fields(kind)})
    return record, given.output or Path("runs") / given.name, given.resume


def _evaluate_predictions(given: Namespace) -> int:
    """`dlaseg eval --predictions`; imports no torch."""
    from dlaseg.evaluation.predictions import score_predictions

    if given.dataset != "cityscapes":
        raise UserError(f"--dataset {given.dataset}: --predictions are Cityscapes label ids: use cityscapes")
    output = given.output or given.predictions.parent / f"{given.predictions.name}-{given.split}"
    table = score_predictions(given.predictions, given.root, given.split, output, given.workers)
    print(f"{table}\n\n{output / 'scores.json'}")
    return 0


def _fit(task: "Task[Any, Any]", output: Path, resume: bool) -> int:
    from dlaseg.training.trainer import fit

    state = fit(task, output, resume)
    metric, title = next(iter(task.metrics.items()))
    print(f"best val {title} {state.best(metric):.4f}  {output / 'best.safetensors'}")
    return 0


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The values of --config, whose keys are looked at before the parser reads them."""
    following = [value for option, value in pairwise(arguments) if option == "--config"]
    joined = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    return [Path(value) for value in following + joined]


class _Parser(ArgumentParser):
    """Says what an unknown option might have meant."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises instead of exiting, so that `main` prints every error alike."""
        unknown = re.search(r"unrecognized arguments: --([\w.\-]+)", message)
        if unknown:
            known = list(flatten(self.get_defaults().as_dict()))
            message = f"unknown option --{unknown[1]}: did you mean --{nearest(unknown[1], known)}?"
        elif surplus := re.search(r"unrecognized arguments: (.+)", message):
            message = f"{surplus[1]}: one argument too many: see --help, and put a path with spaces in quotes"
        raise UserError(message) from ex


def _parser(name: str, command: Callable[..., int]) -> ArgumentParser:
    return _Parser(prog=f"dlaseg {name}", description=command.__doc__, allow_abbrev=False)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: dlaseg COMMAND [--help] ...", "", *lines, "", "  --version, --debug (with any command)"])


def _one_line(error: Exception) -> str:
    """An error's text without line breaks and without the parser's own jargon."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r'(?:Validation failed: )?Parser key "([^"]+)": ', r"\1: ", text)
    text = re.sub(r"Expected an? (?:typing\.)?(?:<class '(\w+)'>|(.+?))\. Got value: (.*)", r"\3 is no \1\2", text)
    return re.sub(r"Literal\[(.*?)\]", r"one of \1", text)
