"""The commands and the Python code of README.md and docs/ are run on small data that is made here.

The table COMMANDS says for each command what stands in for its placeholders. The tests of the table are fast and belong
to the default suite; those that run the commands are marked `readme` and take two minutes (`make readme`).
"""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dlaseg_testing import write_camvid
from PIL import Image
from video_files import write_video

import dlaseg
from dlaseg.benchmarking.leaderboard import read_entries
from dlaseg.cli import main
from dlaseg.commands.config_parser import ConfigParser
from dlaseg.config.files import to_yaml
from dlaseg.config.reading import values_of
from dlaseg.config.segmentation import Config
from dlaseg.synthetic.dataset import synthesize

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SMALL = """--data.workers 0 --model.name dla46_c --train.epochs 1 --train.batch_size 2 --train.grad_accum_steps 1
    --train.warmup_steps 0 --train.eval_every 1 --train.device cpu --train.precision float32"""
SEGMENTATION = f"{SMALL} --model.stride 8 --augment.crop_size '[32,64]'"
EXAMPLE = "--config configs/folder_example.yaml --data.root masks"
EVAL = "--device cpu --workers 0"
BENCHMARK = "--device cpu --count 1 --rounds 1 --no-memory"


@dataclass(frozen=True)
class Run:
    """A command is run with options added at its end, and with other words in place of its placeholders."""

    more: str = ""
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Skip:
    """A command is not run."""

    reason: str


def infer_run(output: str) -> Run:
    """`dlaseg infer WEIGHTS IMAGES OUTPUT ...`."""
    names = {"WEIGHTS": "runs/folder_example/best.safetensors", "IMAGES": "masks/images/val", "OUTPUT": output}
    return Run("--backend torch --device cpu", names)


# In the order in which they are run; `masks`, `scenes`, `camvid`, ... are folders of `workspace`
COMMANDS: dict[str, Run | Skip] = {
    "pip install .": Skip("`make` installs the package for all tests"),
    "dlaseg data synthesize scenes --train 0 --val 4": Run("--size 64 96", {"scenes": "street"}),
    "dlaseg infer camvid scenes/leftImg8bit/val segmented": Run(
        "--device cpu", {"scenes": "street", "segmented": "segmented_by_name"}
    ),
    "dlaseg train --config configs/folder_example.yaml --data.root DIR": Run(SEGMENTATION, {"DIR": "masks"}),
    "dlaseg eval runs/NAME/best.safetensors --dataset folder --root DIR": Run(
        EVAL, {"NAME": "folder_example", "DIR": "masks"}
    ),
    "dlaseg infer runs/NAME/best.safetensors IMAGES OUTPUT": Run(
        "--device cpu", {"NAME": "folder_example", "IMAGES": "masks/images/val", "OUTPUT": "segmented"}
    ),
    "dlaseg infer WEIGHTS IMAGES photo.jpg OUTPUT": Run(
        "--device cpu",
        {"WEIGHTS": "runs/folder_example/best.safetensors", "IMAGES": "masks/images/val", "photo.jpg": "street.jpg",
         "OUTPUT": "several"},
    ),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --keep-suffix --all-frames": infer_run("frames"),
    "dlaseg infer WEIGHTS clip.mp4 OUTPUT": Run(
        "--backend torch --device cpu", {"WEIGHTS": "runs/folder_example/best.safetensors", "OUTPUT": "video"}
    ),
    "dlaseg infer WEIGHTS camera:0 OUTPUT": Skip("needs a camera; tests/inference/test_video.py has one of its own"),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --save ids contours probabilities": infer_run("kinds"),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --ids train": infer_run("train_ids"),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --scales 0.75 1 1.25 --flip": infer_run("averaged"),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --max-memory 4GB": infer_run("limited"),
    "dlaseg infer WEIGHTS IMAGES OUTPUT --max-short-side 720": infer_run("reduced"),
    "dlaseg infer --engine ray WEIGHTS IMAGES OUTPUT --workers 2": infer_run("ray"),
    "dlaseg infer --engine ray WEIGHTS s3://BUCKET/IMAGES s3://BUCKET/OUTPUT --ray-address auto": Skip(
        "tests/inference/test_ray_engine.py reads and writes an object store"
    ),
    "dlaseg train ... --data.images 'photos/{name}.jpg' --data.labels 'masks/{name}_mask.png' "
    "--data.val_share 0.1": Run(
        f"{SEGMENTATION} --data.val_share 0.5 --output runs/photos", {"...": EXAMPLE}
    ),
    "dlaseg eval ... --images 'photos/{name}.jpg' --labels 'masks/{name}_mask.png' --list runs/NAME/val.txt": Run(
        EVAL, {"...": "runs/photos --dataset folder --root masks", "NAME": "photos"}
    ),
    "dlaseg train --config configs/folder_example.yaml --data.root DIR --model.backbone_weights camvid": Run(
        f"{SEGMENTATION} --output runs/from_camvid", {"DIR": "masks"}
    ),
    "dlaseg train --config configs/cityscapes_dla34.yaml --data.root DIR": Run(
        f"{SEGMENTATION} --model.backbone_weights null", {"DIR": "scenes"}
    ),
    "dlaseg train --config configs/camvid_dla46_c.yaml --data.root DIR": Run(SEGMENTATION, {"DIR": "camvid"}),
    "dlaseg train --config configs/camvid_dla46_c.yaml --data.root DIR --data.train_list others.txt "
    "--data.val_split train --data.val_list held_out.txt": Run(
        f"{SEGMENTATION} --output runs/held_out", {"DIR": "camvid"}
    ),
    "dlaseg train --config configs/camvid_dla46_c.yaml --data.root DIR --augment.scale '[0.375,0.625]' "
    "--augment.crop_size '[128,192]' --train.epochs 21 --output runs/half": Run(SEGMENTATION, {"DIR": "camvid"}),
    "dlaseg train --config configs/camvid_dla46_c.yaml --data.root DIR --model.weights runs/half "
    "--train.epochs 18": Run(
        f"{SEGMENTATION} --output runs/whole", {"DIR": "camvid"}
    ),
    "dlaseg train --config ... --train.lr 0.02 --output DIR2": Run(SEGMENTATION, {"--config ...": EXAMPLE}),
    "dlaseg train --config ... --resume": Run(SEGMENTATION, {"--config ...": EXAMPLE}),
    "dlaseg train --config ... --dry-run": Run(f"{SEGMENTATION} --output dry", {"--config ...": EXAMPLE}),
    "dlaseg train --config ... --minutes 60": Run(
        f"{SEGMENTATION.replace('--train.epochs 1', '')} --output timed --dry-run", {"--config ...": EXAMPLE}
    ),
    "dlaseg eval WEIGHTS --dataset cityscapes --root DIR --split val": Run(
        EVAL, {"WEIGHTS": "runs/cityscapes_dla34/best.safetensors", "DIR": "scenes"}
    ),
    "dlaseg eval WEIGHTS ... --scales 0.75 1 1.25 --flip --output DIR2": Run(
        EVAL,
        {
            "WEIGHTS": "runs/camvid_dla46_c/best.safetensors",
            "...": "--dataset camvid --root camvid",
            "DIR2": "averaged_scores",
        },
    ),
    "dlaseg compare A/scores.json B/scores.json": Run(
        "", {"A": "runs/camvid_dla46_c", "B": "averaged_scores"}
    ),
    "dlaseg eval --predictions FOLDER --dataset cityscapes --root DIR": Run(
        "--workers 1", {"FOLDER": "predictions", "DIR": "scenes"}
    ),
    "dlaseg train --config ... --data.val_share 0.1 --data.split_seed 0": Run(
        f"{SEGMENTATION} --data.val_share 0.5 --output runs/share", {"--config ...": EXAMPLE}
    ),
    "dlaseg data convert --from coco A.json B.json OUT --split train val --images PHOTOS": Run(
        "", {"A.json": "coco0.json", "B.json": "coco1.json", "OUT": "converted", "PHOTOS": "masks/photos"}
    ),
    "pip install 'dlaseg[demo]'": Skip("the tests' extra has it"),
    "dlaseg demo": Skip("serves until it is interrupted; tests/demo/ opens the page"),
    "dlaseg demo runs/NAME/best.safetensors camvid": Skip("serves until it is interrupted; tests/demo/ opens the page"),
    "dlaseg doctor": Skip("tests/benchmarking/test_doctor.py runs it"),
    "dlaseg data draft WEIGHTS PHOTOS drafts.zip": Run(
        "--backend torch", {"WEIGHTS": "camvid", "PHOTOS": "masks/images/val"}
    ),
    "dlaseg data convert --from voc EXPORT OUT --images PHOTOS": Skip("of CVAT: tests/inference/test_drafts.py"),
    "dlaseg data check OUT --dataset folder --splits train": Run("--workers 0", {"OUT": "masks"}),
    "dlaseg train --config configs/folder_example.yaml --data.root OUT --data.val_share 0.1": Skip(
        "the same as with DIR and a pattern"
    ),
    "dlaseg data check DIR --dataset folder": Run("--workers 0", {"DIR": "masks"}),
    "dlaseg --debug COMMAND": Skip("any command"),
    "dlaseg data check DIR --dataset folder --html check.html": Run("--workers 0", {"DIR": "masks"}),
    "dlaseg data check DIR --dataset folder --write-classes new.yaml": Run("", {"DIR": "masks"}),
    "dlaseg data stats DIR --dataset folder": Run("", {"DIR": "masks"}),
    "python benchmarks/gpu_training.py train --config configs/camvid_builtin.yaml --root DIR --output RUN": Skip(
        "hours without a GPU; its own tests run it on a few small images"
    ),
    "dlaseg data synthesize DIR": Run("--train 1 --val 0 --size 64 64", {"DIR": "drawn"}),
    "torchrun --nproc-per-node 4 --max-restarts 3 tools/train_seg.py --config ...": Skip(
        "tests/training/test_distributed.py trains in several processes"
    ),
    "dlaseg train --config ... --model.backbone_weights timm/dla34.in1k": Skip("downloads weights"),
    "dlaseg train --config ... --model.weights WEIGHTS": Run(
        f"{SEGMENTATION} --output runs/weights",
        {"--config ...": EXAMPLE, "WEIGHTS": "runs/folder_example/best.safetensors"},
    ),
    "dlaseg weights list": Run(),
    "dlaseg weights inspect WEIGHTS": Run("", {"WEIGHTS": "runs/cityscapes_dla34/best.safetensors"}),
    "dlaseg weights convert hf-hub:USER/NAME/FILE.ckpt afa.safetensors --classes cityscapes": Skip(
        "downloads weights; tests/weights/test_attentive_layout.py converts such a file"
    ),
    "dlaseg eval afa.safetensors --dataset cityscapes --root DIR --scales 0.5 1 1.5 1.75 2 --flip": Skip(
        "needs such weights; tests/models/test_rendering.py predicts with other scales and mirrored"
    ),
    "dlaseg weights convert WEIGHTS OUT.safetensors --classes cityscapes": Run(
        "", {"WEIGHTS": "runs/cityscapes_dla34/best.safetensors"}
    ),
    "dlaseg benchmark speed dla34 --against plain": Run(f"{BENCHMARK} --size 64 64", {"dla34": "dla46_c"}),
    "dlaseg benchmark speed WEIGHTS --images IMAGES --backends torch openvino onnxruntime --precisions float32 "
    "bfloat16": Run(
        f"{BENCHMARK} --backends torch --precisions float32",
        {"WEIGHTS": "runs/folder_example/best.safetensors", "IMAGES": "masks/images/val"},
    ),
    "dlaseg benchmark speed dla46_c --stride 4 --size 720 1280 --against smp:Unet:resnet18 "
    "torchvision:lraspp_mobilenet_v3_large": Run(f"{BENCHMARK} --size 64 64"),
    "dlaseg benchmark speed WEIGHTS --size 1024 2048 --files --threads 2 --backends torch openvino onnxruntime "
    "--precisions float32 bfloat16 --output OUT": Run(
        f"{BENCHMARK} --size 64 64 --threads 1 --precisions float32",
        {"WEIGHTS": "runs/folder_example/best.safetensors", "OUT": "speed"},
    ),
    "dlaseg benchmark accuracy --weights A.safetensors B.safetensors --datasets camvid:DIR": Run(
        EVAL, {"A": "runs/camvid_dla46_c/best", "B": "runs/camvid_dla46_c/best", "DIR": "camvid"}
    ),
    "dlaseg benchmark accuracy --weights A.safetensors --datasets camvid:DIR --protocols float32 openvino+bfloat16 "
    "scales=0.75,1,1.25+flip": Run(
        EVAL,
        {"A": "runs/camvid_dla46_c/best", "DIR": "camvid", "openvino+bfloat16": "bfloat16"},
    ),
    "dlaseg benchmark accuracy list.yaml --output leaderboard": Run(EVAL),
    "dlaseg benchmark speed A.safetensors --leaderboard leaderboard/leaderboard.json --output OUT": Run(
        f"{BENCHMARK} --size 64 64", {"A": "runs/folder_example/best", "OUT": "speed"}
    ),
    "dlaseg pretrain --config configs/imagenet_dla34.yaml --data.root DIR": Run(
        f"{SMALL} --augment.crop_size 32 --augment.resize 32", {"DIR": "imagenet"}
    ),
    "dlaseg train --config ... --data.root DIR --model.backbone_weights runs/imagenet_dla34/best.safetensors": Run(
        f"{SEGMENTATION} --output runs/pretrained", {"--config ...": EXAMPLE, "DIR": "masks"}
    ),
    "dlaseg export WEIGHTS model.onnx": Run("", {"WEIGHTS": "runs/folder_example/best.safetensors"}),
    "dlaseg export WEIGHTS model.xml --output logits --compare-images IMAGES": Run(
        "", {"WEIGHTS": "runs/folder_example/best.safetensors", "IMAGES": "masks/images/val"}
    ),
    "dlaseg export WEIGHTS model.pt2 --input normalized": Run("", {"WEIGHTS": "runs/folder_example/best.safetensors"}),
    "dlaseg export WEIGHTS int8.xml --int8 --dataset camvid --root DIR": Run(
        "--max-drop 100 --workers 0", {"WEIGHTS": "runs/camvid_dla46_c/best.safetensors", "DIR": "camvid"}
    ),
    "dlaseg export WEIGHTS models/street --layout triton": Run("", {"WEIGHTS": "runs/folder_example/best.safetensors"}),
    "dlaseg infer model.onnx IMAGES OUTPUT": Run("", {"IMAGES": "masks/images/val", "OUTPUT": "by_onnx"}),
    "dlaseg eval model.onnx --dataset folder --root DIR": Run(EVAL, {"DIR": "masks"}),
    "pip install '.[export]'": Skip("`make` installs the package for all tests"),
}  # fmt: skip

# Statements that are not run, and why
PYTHON_SKIPPED = {
    'model = dlaseg.create_model("dla34", num_classes=19, backbone_weights="timm/dla34.in1k")': "downloads weights",
    'dlaseg.push_to_hub(model, "USER/NAME", run="runs/NAME", license="mit")': "uploads",
    'dlaseg.push_to_hub(model, "USER/NAME", run="runs/NAME", scores="scores.json", license="mit")': "uploads",
    'model = dlaseg.load_model("USER/NAME")': "downloads weights",
}
PYTHON_WORDS = {
    "runs/NAME/best": "runs/folder_example/best",
    '"DIR"': '"masks"',
    "OUTPUT/contours": "kinds/contours",
    '"configs/folder_example.yaml"': '"small.yaml"',
}


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each code block of a document; the language is empty for commands."""
    text = document.read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands of all documents, in their order, without comments."""
    lines = []
    for document in DOCUMENTS:
        for language, text in blocks(document):
            if language in ("", "sh", "bash", "console"):
                lines += [re.sub(r"\s+# .*", "", line) for line in text.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def statements() -> dict[Path, list[str]]:
    """The Python statements of each document."""
    found = {}
    for document in DOCUMENTS:
        code = "".join(text for language, text in blocks(document) if language == "python")
        found[document] = [ast.get_source_segment(code, node) or "" for node in ast.parse(code).body]
    return found


def test_the_table_has_every_command():
    unknown = [command for command in commands() if command not in COMMANDS]
    assert not unknown, (
        f"README.md or docs/ has commands that tests/test_readme.py does not know: {unknown}: add each to COMMANDS, "
        "with Run(options that make it small, {placeholder: what stands for it}) or with Skip(why it cannot be run)"
    )


def test_the_table_has_no_command_that_is_gone():
    code = [statement for document in statements().values() for statement in document]
    gone = [*(COMMANDS.keys() - set(commands())), *(PYTHON_SKIPPED.keys() - set(code))]
    assert not gone, f"tests/test_readme.py has what README.md and docs/ no longer show: {gone}: remove it there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_yaml_is_a_config_a_classes_file_or_a_list(document, tmp_path):
    for language, text in blocks(document):
        if language == "yaml" and "classes" in yaml.safe_load(text):
            (tmp_path / "classes.yaml").write_text(text, encoding="utf-8")
            assert dlaseg.LabelMap.from_file(tmp_path / "classes.yaml").num_classes > 1
        elif language == "yaml" and "datasets" in yaml.safe_load(text):
            (tmp_path / "list.yaml").write_text(text, encoding="utf-8")
            assert read_entries(tmp_path / "list.yaml").parse_protocols()
        elif language == "yaml":
            assert values_of(yaml.safe_load(text), document, Config)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Iterator[Path]:
    """The working folder: the configs, and a data set of each kind."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_masks(folder / "masks")
    write_camvid(folder / "camvid", train=4)
    names = sorted(path.stem for path in (folder / "camvid/train").iterdir())
    for file, listed in (("held_out.txt", names[:1]), ("others.txt", names[1:])):
        (folder / file).write_text("\n".join(listed), encoding="utf-8")
    synthesize(folder / "scenes", {"train": 4, "val": 2}, 64, 128)
    for path in (folder / "scenes/gtFine/val").rglob("*_labelIds.png"):
        (folder / "predictions").mkdir(exist_ok=True)
        shutil.copy(path, folder / "predictions" / path.name.replace("_gtFine_labelIds", ""))
    for split in ("train", "val"):
        for color in ("blue", "red"):
            (folder / "imagenet" / split / color).mkdir(parents=True)
            Image.new("RGB", (40, 36), color).save(folder / "imagenet" / split / color / "0.png")
    Image.new("RGB", (64, 48), "gray").save(folder / "street.jpg")
    (entries,) = (text for language, text in blocks(ROOT / "docs/benchmark.md") if language == "yaml")
    for name, place in (("A", "runs/folder_example/best"), ("B", "runs/weights/best"), ("DIR", "masks")):
        entries = re.sub(rf"\b{name}\b", place, entries)
    (folder / "list.yaml").write_text(entries, encoding="utf-8")
    write_video(folder / "clip.mp4", frames=3)
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    for image in range(2):
        coco = {
            "images": [{"id": 1, "file_name": f"{image}.jpg"}],
            "annotations": [shape],
            "categories": [{"id": 1, "name": "a"}],
        }
        (folder / f"coco{image}.json").write_text(json.dumps(coco), encoding="utf-8")
    config, _ = ConfigParser(Config, prog="dlaseg train").parse(shlex.split(SEGMENTATION))
    config.data.dataset, config.name = "folder", "small"
    (folder / "small.yaml").write_text(to_yaml(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("dlaseg.training.run.keep_freed_memory", lambda: True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


def write_masks(root: Path) -> None:
    """Writes the classes file of README.md, and images with label maps in both layouts that it shows."""
    root.mkdir()
    (classes,) = (text for language, text in blocks(ROOT / "README.md") if language == "yaml")
    (root / "classes.yaml").write_text(classes, encoding="utf-8")
    rng = np.random.default_rng(0)
    for index in range(6):
        image = Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
        label = Image.fromarray(rng.integers(0, 3, (48, 64), np.uint8))
        split = "train" if index < 4 else "val"
        for path, picture in (
            (f"images/{split}/{index}.png", image),
            (f"labels/{split}/{index}.png", label),
            (f"photos/{index}.jpg", image),
            (f"masks/{index}_mask.png", label),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(root / path)


@pytest.mark.readme
@pytest.mark.parametrize("command", [name for name, how in COMMANDS.items() if isinstance(how, Run)])
def test_the_command_runs(workspace, command):
    how = COMMANDS[command]
    for placeholder, word in how.words.items():
        assert placeholder in command
        command = re.sub(rf"(?<![\w.-]){re.escape(placeholder)}(?![\w])", word, command)
    assert "..." not in command
    program, *words = shlex.split(f"{command} {how.more}")
    assert program == "dlaseg", "only commands of dlaseg are run: use Skip(why) for others"
    assert main(words) == 0, f"README.md or docs/ shows a command that fails: {program} {shlex.join(words)}"


@pytest.mark.readme
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_code_runs(workspace, document):
    """After the commands, whose results the code uses."""
    namespace = {"model": dlaseg.load_model("runs/folder_example/best.safetensors")}
    for statement in statements()[document]:
        if statement in PYTHON_SKIPPED:
            continue
        for placeholder, word in PYTHON_WORDS.items():
            statement = statement.replace(placeholder, word)
        exec(statement, namespace)
