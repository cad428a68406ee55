import hashlib
import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dlaseg_testing import TINY, tiny_variant
from PIL import Image

import dlaseg
from dlaseg.cli import COMMANDS, main
from dlaseg.commands import train
from dlaseg.commands.parsing import CommandParser
from dlaseg.config.fields import fields_of
from dlaseg.config.segmentation import Config
from dlaseg.data.datasets import DATASETS
from dlaseg.errors import Stopped, UserError
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import FEW
from dlaseg.models import cost
from dlaseg.models.dla import VARIANTS
from dlaseg.training import trainer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def _plain_process():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, tiny_variant():
        patch.setattr("dlaseg.training.run.keep_freed_memory", lambda: True)
        yield
    torch.set_num_threads(threads)


def training(data: Path, output: Path, *more: str) -> list[str]:
    words = f"""train --output {output} --data.root {data} --data.workers 0 --model.name {TINY} --model.stride 4
        --augment.crop_size [64,64] --train.epochs 2 --train.batch_size 2 --train.eval_every 1 --train.device cpu
        --train.precision float32 --train.lr 0.02""".split()
    return [*words, *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    assert main(["data", "synthesize", str(folder), "--train", "4", "--val", "2", "--size", "64", "128"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """The folder of a run on synthetic scenes; read only."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(training(data, folder)) == 0
    return folder


def refused(capsys, *words: str) -> str:
    """The one line that a command with wrong input prints."""
    assert main(list(words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err


def printed_before_exit(capsys, *words: str) -> str:
    """What --help and --version print."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_without_a_command_the_overview_is_printed(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: dlaseg ")


def test_the_overview_names_every_command(capsys):
    printed = printed_before_exit(capsys, "--help")
    assert printed.startswith("usage: dlaseg ")
    words = " ".join(printed.split())
    assert all(name in words for name in COMMANDS)
    assert all(f"\n    {name.split()[0]}" in printed for name in COMMANDS)


def test_version_prints_the_version(capsys):
    assert printed_before_exit(capsys, "--version") == f"dlaseg {dlaseg.__version__}\n"


def test_python_runs_the_package_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["anything", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("dlaseg", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"dlaseg {dlaseg.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    printed = printed_before_exit(capsys, *name.split(), "--help")
    assert printed.startswith(f"usage: dlaseg {name} ")
    assert " ".join((COMMANDS[name].__doc__ or "").split()) in " ".join(printed.split())


JARGON = re.compile(r"<class|type: |Literal|Union|NoneType|Optional|typing|tuple\b|\bint\b|\bstr\b|==SUPPRESS==|%\(")


@pytest.mark.parametrize("name", ["", "benchmark", "data", "weights", *COMMANDS])
def test_help_is_in_plain_words_and_fits_80_columns(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    printed = printed_before_exit(capsys, *name.split(), "--help")
    assert JARGON.findall(printed) == []
    assert max(map(len, printed.splitlines())) <= 80


def test_help_says_every_default_once_and_uses_plain_placeholders(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = CommandParser(prog="dlaseg")
    parser.add_argument("--count", type=int, default=3, help="how many")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0], help="at 50%% and 100%%")
    parser.add_argument("--folder", type=Path, help="where; the input by default")
    parser.add_argument("--measures", nargs="+", default=[], help="which")
    parser.add_argument("--share", default="5%", help="part")
    assert parser.format_help().split("options:\n")[1].splitlines()[1:] == [
        "  --count N             how many (default: 3)",
        "  --scales X [X ...]    at 50% and 100% (default: 0.5 1.0)",
        "  --folder PATH         where; the input by default",
        "  --measures MEASURE [MEASURE ...]",
        "                        which",
        "  --share SHARE         part (default: 5%)",
    ]


def test_help_of_a_config_names_types_as_people_do(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = " ".join(printed_before_exit(capsys, "train", "--help").split())
    for entry in (
        "--train.lr X learning rate after warm-up (number; default: 0.01)",
        "--train.epochs N passes over the training split (whole number; default: 500)",
        "in pixels, multiples of 32; smaller images are padded (two whole numbers; default: [832,832])",
        "(list of numbers, median_frequency or null; default: null)",
        "- gamma: for focal: how much less well-classified pixels count; 0 is cross-entropy (number; default: 2.0)",
    ):
        assert entry in words
    for field in fields_of(Config()):
        assert f"--{field.name} " in words


def test_every_data_set_is_in_the_help(capsys):
    for command in ("eval", "data stats"):
        printed = printed_before_exit(capsys, *command.split(), "--help")
        assert f"--dataset {{{','.join(DATASETS)}}}" in printed


def test_the_help_of_infer_says_when_auto_is_torch(capsys):
    assert f"torch for fewer than {FEW} images" in " ".join(printed_before_exit(capsys, "infer", "--help").split())


def modules_imported_by(*words: str) -> set[str]:
    """The top-level modules that `dlaseg WORDS` leaves imported, in a process of its own."""
    code = "import sys; from dlaseg.cli import main\ntry: main(sys.argv[1:])\nfinally: print('', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data", "--help"], ["infer", "--help"]])
def test_start_up_imports_nothing_heavy(words):
    modules = modules_imported_by(*words)
    assert "dlaseg" in modules
    assert not modules & {"torch", "numpy", "jsonargparse", "yaml"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--train.lr", "x"],
        ["eval", "--help"],
        *(pytest.param(words, marks=pytest.mark.slow) for words in (["train", "--help"], ["eval"])),
    ],
)
def test_parsing_imports_no_torch(words):
    modules = modules_imported_by(*words)
    assert "dlaseg" in modules
    assert "torch" not in modules


@pytest.mark.parametrize("words", [["data"], ["--train"], ["data", "--train"]])
def test_a_missing_command_is_refused_with_the_names_of_all(capsys, words):
    line = refused(capsys, *words)
    assert f"{' '.join(words)}: not a command" in line
    assert all(name in line for name in COMMANDS)


@pytest.mark.parametrize(("words", "names"), [(["nope"], {name.split()[0] for name in COMMANDS}),
                                              (["data", "nope"], {"synthesize", "stats"})])  # fmt: skip
def test_an_unknown_command_is_refused_with_the_names_that_exist(capsys, words, names):
    line = refused(capsys, *words)
    assert "'nope'" in line
    assert all(name in line for name in names)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train --train.lrr 1", "--train.lr"),
        ("train --outptu x", "--output"),
        ("train --crop_size [64,64]", "--augment.crop_size"),
        ("pretrain --train.step_epoch 3", "--train.step_epochs"),
        ("infer a b c --overwrit", "--overwrite"),
        ("eval w --dataset camvid --root . --splt val", "--split"),
        ("models --jsn", "--json"),
        ("train --dry-rn", "--dry-run"),
        ("benchmark train --stps 1", "--steps"),
        ("data synthesize x --sed 1", "--seed"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(capsys, words, meant):
    assert f"did you mean {meant}" in refused(capsys, *words.split())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["train", "--output", ""], "--output"),
        (["eval", "w", "--dataset", "camvid", "--root="], "--root"),
        (["data", "convert", "--from", "coco", "a.json", "", "out"], "input"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(capsys, monkeypatch, tmp_path, words, name):
    monkeypatch.chdir(tmp_path)
    assert f"{name}: an empty path: the working folder is ." in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_argument_too_many_is_named(capsys):
    line = refused(capsys, *["eval", "w", "extra", "--dataset", "camvid", "--root", "."])
    assert "extra: one argument too many: see --help" in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("train --train.lr abc", "--train.lr abc: expected a number, such as --train.lr 0.01"),
        ("train --train.epochs 1.5", "--train.epochs 1.5: expected a whole number, such as --train.epochs 500"),
        ("train --train.patience x", "--train.patience x: expected a whole number or null"),
        ("train --augment.crop_size [64]", "--augment.crop_size [64]: expected two whole numbers, such as "),
        ("train --augment.crop_size [500,500]", "augment.crop_size 500 x 500"),
        ("train --data.dataset ade", "data.dataset ade: unknown: use one of cityscapes, camvid, folder"),
        ("train --data.root nowhere", "nowhere: no such folder"),
        ("train --config nowhere.yaml", "nowhere.yaml: No such file"),
        ("pretrain --train.lr abc", "--train.lr abc: expected a number, such as --train.lr 0.1"),
        ("pretrain --augment.crop_size [64,64]", "--augment.crop_size [64,64]: expected a whole number, such as "),
        ("pretrain --augment.resize 100", "augment.resize 100: "),
        ("pretrain --train.schedule linear", "--train.schedule linear: expected poly, cosine or step"),
        ("pretrain --data.root nowhere", "nowhere: no such folder"),
        ("train --config", "expected one argument"),
        ("eval", "--dataset, --root"),
        ("eval w.safetensors --dataset ade --root .", "--dataset: invalid choice: 'ade'"),
        ("eval --dataset camvid --root .", "WEIGHTS and --predictions: pass exactly one of them"),
        ("eval w --predictions p --dataset camvid --root .", "WEIGHTS and --predictions: pass exactly one of them"),
        ("eval --predictions p --submission s --dataset camvid --root .", "--predictions and --submission: pass at"),
        ("eval w --submission s --workers 2 --dataset cityscapes --root .", "--workers: --submission reads the images"),
        ("eval w --submission s --output o --dataset cityscapes --root .", "--output: of scores; --submission writes"),
        ("eval w --submission s --measures boundary --dataset cityscapes --root .", "--measures: of scores; --submis"),
        ("eval w --max-pixels 0 --dataset camvid --root .", "--max-pixels 0: use 1 to "),
        ("data check . --dataset camvid --workers -1", "--workers -1: use 0 to "),
        ("data check . --dataset camvid --json a --html a", "--json and --html a: name two files"),
        ("data draft camvid . d.zip --shown -1", "--shown -1: use 0 or more"),
        ("eval w --workers few --dataset camvid --root .", "--workers: few: expected a whole number"),
        ("eval w.safetensors --dataset camvid --root nowhere", "nowhere: no such folder"),
        ("eval w --precision half --dataset camvid --root .", "--precision: invalid choice: 'half'"),
        ("infer w in out --precision half", "--precision: invalid choice: 'half'"),
        ("infer nowhere.safetensors", "required"),
        ("infer nowhere.safetensors nothing out", "no such file"),
        ("infer w a s3://out", "s3://out: a URL: `dlaseg infer --engine ray` reads and writes URLs"),
        ("models dla35", "model 'dla35': unknown; the variants are dla34, "),
        ("models dla34 dla60", "dla60: one argument too many"),
        ("data synthesize x --size 64", "--size"),
        ("benchmark train --steps 0", "--steps 0: use 1 to 100000"),
        ("benchmark train --steps few", "--steps: few: expected a whole number"),
        ("benchmark train --data.root nowhere", "nowhere: no such folder"),
        ("benchmark pretrain --data.root nowhere", "nowhere: no such folder"),
        ("train --dry-run --data.root nowhere", "nowhere: no such folder"),
        ("pretrain --dry-run --data.root nowhere", "nowhere: no such folder"),
        ("data synthesize x --train 0 --val 0 --test 0", "0 scenes in all: there is nothing to draw: use 1 or more"),
        ("data synthesize x --train -1", "train -1: the number of scenes: use 0 to 1000000"),
        ("data synthesize x --seed -1", "seed -1: "),
        ("data synthesize x --train many", "--train: many: expected a whole number"),
        ("data synthesize x --size 10 10", "size 10 x 10"),
    ],
)
def test_wrong_use_is_refused_in_one_line(capsys, monkeypatch, tmp_path, words, part):
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["", "benchmark "])
@pytest.mark.parametrize(("command", "other"), [("train", "pretrain"), ("pretrain", "train")])
def test_for_a_config_of_another_command_the_error_names_that(capsys, family, command, other):
    config = ROOT / "configs" / {"train": "imagenet_dla34.yaml", "pretrain": "camvid_dla34.yaml"}[command]
    message = f"{config}: a config of another command: use dlaseg {family}{other}\n"
    assert refused(capsys, *family.split(), command, "--config", str(config)).endswith(message)


@pytest.mark.parametrize(("words", "prog"), [("train --resume x", "dlaseg train"),
                                             ("benchmark train --steps x", "dlaseg benchmark train"),
                                             ("data synthesize", "dlaseg data synthesize")])  # fmt: skip
def test_an_error_begins_with_the_command(capsys, words, prog):
    assert refused(capsys, *words.split()).startswith(f"{prog}: ")


def test_an_unknown_field_in_a_file_is_refused_in_one_line(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("train: {epoch: 3}\n")
    line = refused(capsys, "train", "--config", str(tmp_path / "a.yaml"))
    assert "a.yaml: unknown field 'train.epoch': did you mean 'train.epochs'?" in line


def test_a_file_that_is_no_yaml_is_refused_in_one_line(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1\nb: }")
    assert "a.yaml: not YAML" in refused(capsys, "train", "--config", str(tmp_path / "a.yaml"))


def test_debug_raises_the_error_itself():
    with pytest.raises(UserError, match="invalid choice: 'nope'"):
        main(["nope", "--debug"])
    with pytest.raises(UserError, match="nowhere"):
        main(["data", "stats", "--debug", "nowhere", "--dataset", "folder"])  # wherever it stands


def test_a_defect_of_ours_is_not_hidden(monkeypatch):
    def broken(arguments):
        raise error

    monkeypatch.setitem(COMMANDS, "train", broken)
    for error in (RuntimeError("ours"), UnicodeEncodeError("ascii", "ö", 0, 1, "ours")):
        with pytest.raises(type(error), match="ours"):
            main(["train"])


@pytest.mark.parametrize(("command", "continues"), [("infer", True), ("data convert", False)])
def test_an_interrupted_command_exits_with_130_and_says_whether_it_can_be_continued(
    capsys, monkeypatch, command, continues
):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, interrupted)
    assert main(command.split()) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dlaseg {command}: interrupted; finished files are complete")
    assert line.endswith(": the same command continues") == continues


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "x"), TimeoutError(), torch.OutOfMemoryError("a\nb\n")]
)
def test_what_the_system_refuses_is_reported_in_one_line(capsys, monkeypatch, error):
    def refuses(arguments):
        raise error

    monkeypatch.setitem(COMMANDS, "train", refuses)
    assert not refused(capsys, "train").strip().endswith(":")


def test_training_leaves_every_file_of_the_run_folder(run):
    for pattern in ("config.yaml", "log.jsonl", "events*", "last.ckpt", "best.safetensors", "environment.json"):
        assert len(list(run.glob(pattern))) == 1, pattern
    assert len((run / "log.jsonl").read_text().splitlines()) == 2


def test_the_scores_of_the_best_weights_are_the_best_of_the_log(capsys, run, data, tmp_path):
    words = f"eval {run / 'best.safetensors'} --dataset cityscapes --root {data} --output {tmp_path} --device cpu"
    assert main([*words.split(), "--workers", "0"]) == 0
    best = max(json.loads(line)["miou"] for line in (run / "log.jsonl").read_text().splitlines())
    assert json.loads((tmp_path / "scores.json").read_text())["miou"] == pytest.approx(best, abs=1e-12)
    printed = capsys.readouterr().out.splitlines()[-2:]
    assert printed == [str(tmp_path / name) for name in ("scores.json", "report.html")]


def test_inference_segments_the_good_images_and_names_the_broken_one(capsys, run, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a", "c"):
        Image.new("RGB", (64, 48), (90, 90, 90)).save(images / f"{name}.png")
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:40])
    words = f"infer {run / 'best.safetensors'} {images} {tmp_path / 'out'} --device cpu"
    assert main(words.split()) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "b.png" in printed.err
    counts, speed = printed.out.splitlines()
    assert counts == f"2 written, 0 skipped (already exist), 1 failed  {tmp_path / 'out'}"
    assert re.fullmatch(r"[\d.]+ images/s, \d+% of the time in the network", speed)
    for kind in ("ids", "color", "overlay"):
        assert sorted(path.stem for path in (tmp_path / "out" / kind).iterdir()) == ["a", "c"]


def test_inference_of_good_images_exits_with_0_and_skips_existing_results(capsys, run, tmp_path):
    Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "a.png")
    words = f"infer {run / 'best.safetensors'} {tmp_path / 'a.png'} {tmp_path / 'out'} --save ids --device cpu".split()
    assert main(words) == 0
    assert main(words) == 0
    assert main([*words, "--overwrite"]) == 0
    counts = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "written" in line]
    written, skipped = (f"{n} written, {1 - n} skipped (already exist), 0 failed" for n in (1, 0))
    assert counts == [written, skipped, written]


@pytest.mark.parametrize("precision", [None, pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_eval_and_infer_compute_in_the_precision_of_the_option(run, data, tmp_path, monkeypatch, precision):
    predictors = []
    original = Predictor.__init__

    def recording(self, *arguments, **options):
        original(self, *arguments, **options)
        predictors.append(self)

    monkeypatch.setattr(Predictor, "__init__", recording)
    options = ["--device", "cpu", *([] if precision is None else ["--precision", precision])]
    weights, expected = str(run / "best.safetensors"), precision or "float32"
    words = ["eval", weights, "--dataset", "cityscapes", "--root", str(data)]
    assert main([*words, "--output", str(tmp_path), "--workers", "0", *options]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["protocol"]["precision"] == expected
    assert main([*words, "--submission", str(tmp_path / "submission"), *options]) == 0
    assert main(["infer", weights, str(data / "leftImg8bit/val"), str(tmp_path / "out"), *options]) == 0
    assert [predictor.backend.precision for predictor in predictors] == [expected] * 3


def test_a_precision_that_is_not_available_is_refused(capsys, run, data, tmp_path):
    weights = str(run / "best.safetensors")
    infer = ["infer", weights, str(data / "leftImg8bit/val"), str(tmp_path / "out"), "--device", "cpu"]
    assert "precision float16: GPUs only" in refused(capsys, *infer, "--precision", "float16")
    assert "--precision: invalid choice: 'half'" in refused(capsys, *infer, "--precision", "half")
    assert not (tmp_path / "out").exists()


def test_scores_of_weights_on_the_hub_go_to_the_working_folder(monkeypatch, run, data, here):
    seen = []

    def score(weights, dataset, output, **_):
        seen.append((weights, output))
        return {}

    monkeypatch.setattr("dlaseg.evaluation.scoring.evaluate", score)
    monkeypatch.setattr("dlaseg.evaluation.report.tables.scores_table", lambda results: "")
    for weights in ("user/name", str(run), str(run / "best.safetensors")):
        assert main(["eval", weights, "--dataset", "cityscapes", "--root", str(data)]) == 0
    folders = [Path("name-cityscapes-val"), run / "cityscapes-val", run / "cityscapes-val"]
    assert seen == list(zip(["user/name", str(run), str(run / "best.safetensors")], folders, strict=True))


def test_a_second_training_into_the_folder_is_refused_and_changes_nothing(capsys, run, data):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "--resume" in refused(capsys, *training(data, run))
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_resume_with_another_learning_rate_is_refused_by_the_field(capsys, run, data):
    message = refused(capsys, *training(data, run, "--resume", "--train.lr", "0.5"))
    assert "train.lr 0.5 (the run has 0.02): " in message
    assert f"use the same values, as --config {run / 'config.yaml'} does, " in message


def test_without_output_the_run_folder_is_named_after_the_run(monkeypatch):
    seen = []

    def fit(task, output, resume, report, allow_trackers):
        seen.append((output, resume))
        return trainer.TrainState(None, None, 0, 0, [])

    monkeypatch.setattr(trainer, "fit", fit)
    assert train.train(["--name", "mine", "--resume"]) == 0
    assert seen == [(Path("runs/mine"), True)]


@pytest.mark.parametrize(("script", "command"), [("train_seg", "train"), ("train_cls", "pretrain")])
def test_the_tool_script_is_the_command(script, command):
    done = subprocess.run(
        [sys.executable, str(ROOT / f"tools/{script}.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: dlaseg {command} ")


def test_the_benchmark_script_is_the_family_of_commands():
    words = [sys.executable, str(ROOT / "tools/benchmark.py"), "train", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: dlaseg benchmark train ")
    assert not re.search("--name|--data.on_changed_files", done.stdout)  # of a run, which this is not


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """The working folder, empty; for tests that it stays so."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_run_folder(words: list[str]) -> list[str]:
    return [words[0], *words[3:]]


def test_a_dry_run_describes_the_run_and_leaves_nothing(capsys, data, here):
    assert main([*without_run_folder(training(data, here / "run")), "--dry-run"]) == 0
    printed = capsys.readouterr()
    missing, few = printed.err.splitlines()
    assert few.startswith("4 steps (2 epochs) are few")
    assert "gtFine/train (split train): classes 'wall' (id 12)" in missing
    lines = printed.out.splitlines()
    assert lines[:3] == [
        "images       2 x 3 x 64 x 64 uint8 (batches of 2)",
        "targets      2 x 64 x 64 uint8",
        "logits       2 x 19 x 16 x 16 float32",
    ]
    assert "batches      2 per epoch, 4 in all" in lines
    assert "validation   2 images, 2 times" in lines
    assert lines[-1] == "dry run: one step to warm up, one timed; nothing is written"
    assert list(here.iterdir()) == []


def test_a_dry_run_is_refused_where_the_run_is(capsys, run, data):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    line = refused(capsys, *training(data, run))
    assert refused(capsys, *training(data, run, "--dry-run")) == line
    line = refused(capsys, *training(data, run, "--resume", "--train.lr", "0.5"))
    assert refused(capsys, *training(data, run, "--resume", "--train.lr", "0.5", "--dry-run")) == line
    assert main(training(data, run, "--resume", "--dry-run")) == 0
    assert capsys.readouterr().out.startswith(f"{run}: resuming after epoch 2 of 2\n")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_dry_run_out_of_memory_gives_advice(capsys, data, here, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("dlaseg.training.run.step_function", lambda *_: full)
    assert main(training(data, here / "run", "--dry-run")) == 2
    missing, _, line = capsys.readouterr().err.splitlines()
    assert "'train' (id 31)" in missing
    assert "out of memory: a micro-batch of 2 crops of 64 x 64" in line
    assert "use train.grad_accum_steps 2" in line
    assert list(here.iterdir()) == []


@pytest.fixture
def timed(monkeypatch):
    """A machine on which as many epochs fit as minutes."""
    roots: list[str] = []

    def epochs_within(task, minutes):
        roots.append(task.config.data.root)
        return int(minutes), "an epoch takes a minute"

    monkeypatch.setattr("dlaseg.benchmarking.time_limit.epochs_within", epochs_within)
    return roots


def without_epochs(words: list[str]) -> list[str]:
    at = words.index("--train.epochs")
    return words[:at] + words[at + 2 :]


def test_minutes_set_the_epochs_and_a_resumed_run_keeps_them(capsys, data, tmp_path, timed):
    output = tmp_path / "run"
    words = without_epochs(training(data, output, "--train.trackers", "[]"))
    assert main([*words, "--minutes", "1.5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "an epoch takes a minute"
    assert printed[1].startswith("epoch 1/1 ")
    assert "\n  epochs: 1\n" in (output / "config.yaml").read_text()
    assert main([*words, "--minutes", "7", "--resume"]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: resuming after epoch 1 of 1\n")
    assert timed == [str(data)]
    assert "already holds a run: continue it with --resume" in refused(capsys, *words, "--minutes", "7")
    assert timed == [str(data)]


def test_minutes_without_a_run_to_resume_are_timed(capsys, data, here, timed):
    words = without_epochs(training(data, here / "run", "--minutes", "3", "--resume", "--dry-run"))
    assert main(words) == 0
    assert "batches      2 per epoch, 6 in all" in capsys.readouterr().out.splitlines()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        (["0"], "--minutes 0: use a number above 0 and below 1,000,000"),
        (["-3"], "--minutes -3: use a number above 0"),
        (["nan"], "--minutes nan: use a number above 0"),
        (["an_hour"], "--minutes: an_hour: expected a number"),
        (["5", "--train.epochs=4"], "--minutes and --train.epochs: pass only one of them"),
    ],
)
def test_minutes_that_make_no_sense_are_refused(capsys, data, here, minutes, message):
    assert message in refused(capsys, *without_epochs(training(data, here / "run", "--minutes", *minutes)))
    assert list(here.iterdir()) == []


def test_a_dry_run_of_pretraining_leaves_nothing(capsys, here, tmp_path_factory):
    images = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for name in ("blue", "red"):
            (images / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 36), name).save(images / split / name / "0.png")
    words = f"""pretrain --data.root {images} --data.workers 0 --model.name {TINY} --augment.crop_size 32
        --augment.resize 32 --train.batch_size 2 --train.device cpu --train.precision float32 --dry-run""".split()
    assert main(words) == 0
    assert "logits       2 x 2 float32" in capsys.readouterr().out.splitlines()
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_benchmark_of_training_is_a_table_or_json_and_leaves_nothing(capsys, data, here):
    words = ["benchmark", *without_run_folder(training(data, here / "run")), "--steps", "1"]
    assert main(words) == 0
    printed = capsys.readouterr()
    (missing,) = printed.err.splitlines()
    assert "gtFine/train (split train): classes 'wall' (id 12)" in missing
    assert re.search(r"^\| data and network \| +\d+\.\d\d \|", printed.out, re.MULTILINE)
    assert re.match(r"(The network|Data loading) is the limit: ", printed.out.splitlines()[-1])
    assert main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["rounds"]) == 5
    assert results["median"].keys() == {"training", "network", "data", "data_wait"}
    assert results["limit"] in ("data", "network")
    assert list(here.iterdir()) == []


def test_pretraining_ends_with_its_best_top1_and_can_be_resumed(capsys, tmp_path):
    for split in ("train", "val"):
        for name in ("blue", "red"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (40, 36), name).save(tmp_path / "data" / split / name / f"{index}.png")
    words = f"""pretrain --name tiny --output {tmp_path / "run"} --data.root {tmp_path / "data"} --data.workers 0
        --model.name {TINY} --augment.crop_size 32 --augment.resize 32 --train.trackers [] --train.epochs 2
        --train.batch_size 2 --train.device cpu --train.lr 0.01""".split()
    assert main(words) == 0
    best = max(json.loads(line)["top1"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"best val top-1 {best:.4f}  {tmp_path / 'run/best.safetensors'}"
    assert "--resume" in refused(capsys, *words)
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert "train.epochs 1 (the run has 2): " in refused(capsys, *words, "--resume", "--train.epochs", "1")
    assert main([*words, "--resume", "--train.epochs", "3"]) == 0  # its schedule, step, allows more epochs
    assert "epoch 3/3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_segmentation_network_starts_from_a_pretrained_backbone(capsys, data, tmp_path):
    for split in ("train", "val"):
        for name in ("blue", "red"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), name).save(tmp_path / "images" / split / name / "0.png")
    words = f"""pretrain --output {tmp_path / "classifier"} --data.root {tmp_path / "images"} --data.workers 0
        --model.name dla46_c --augment.crop_size 32 --augment.resize 32 --train.epochs 1 --train.batch_size 2
        --train.device cpu --train.precision float32""".split()
    assert main(words) == 0
    best = tmp_path / "classifier/best.safetensors"
    words = training(
        data, tmp_path / "run", "--model.name", "dla46_c", "--model.backbone_weights", str(best), "--train.lr", "0"
    )
    assert main([*words, "--train.epochs", "1"]) == 0
    assert "the centre of 3x3 nodes" in capsys.readouterr().err
    classifier = dlaseg.create_backbone("dla46_c", weights=best)
    model = dlaseg.load_model(tmp_path / "run/best.safetensors")
    for name in ("base_layer.0.weight", "level5.tree2.conv2.weight"):
        assert torch.equal(model.backbone.state_dict()[name], classifier.state_dict()[name])


def test_models_are_listed_in_aligned_columns(capsys):
    assert main(["models", "dla46_c"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    first, classifiers, second, networks = printed.out.rstrip("\n").split("\n\n")
    assert "1000 classes at 224 x 224" in first
    assert "published by timm, not measured here" in first
    assert "19 classes at 1024 x 2048" in second
    for table in (classifiers, networks):
        header, *rows = table.splitlines()
        assert re.search(r"parameters, M +GMACs +activations, M", header)
        assert {len(row) for row in rows} == {len(header)}
    assert [row.split() for row in classifiers.splitlines()[1:]] == [["dla46_c", "1.30", "0.57", "4.50", "64.88"]]
    assert networks.splitlines()[2].split() == ["dla46_c", "2", "3", "4.14", "124.49", "411.04"]


def test_models_as_json_are_the_exact_numbers_of_all_variants(capsys, monkeypatch):
    monkeypatch.delitem(VARIANTS, TINY)
    monkeypatch.setattr(cost, "segmentation_costs", lambda name, **_: {(2, 3): cost.Cost(1, 2, len(name))})
    assert main(["models", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    classifiers, networks = tables["classifiers"].pop("models"), tables["segmentation"].pop("models")
    assert tables["classifiers"] == {"num_classes": 1000, "height": 224, "width": 224}
    assert tables["segmentation"] == {
        "num_classes": 19, "height": 1024, "width": 2048, "decoder": "plain", "head": "linear",
    }  # fmt: skip
    assert [row["name"] for row in classifiers] == [row["name"] for row in networks] == dlaseg.list_models()
    assert classifiers[1] == {
        "name": "dla46_c",
        "parameters": 1301400,
        "macs": 574269440,
        "activations": 4498024,
        "published_top1": 64.88,
    }
    assert networks[0] == {
        "name": "dla34",
        "stride": 2,
        "root_kernel_size": 3,
        "parameters": 1,
        "macs": 2,
        "activations": 5,
    }


def test_decoder_and_head_reach_the_costs_of_the_networks(monkeypatch):
    seen = []
    monkeypatch.setattr(cost, "classifier_cost", lambda name, **_: cost.Cost(1, 2, 3))
    monkeypatch.setattr(cost, "segmentation_costs", lambda name, **options: seen.append(options) or {})
    assert main(["models", "dla46_c", "--json", "--decoder", "afa", "--head", "ocr"]) == 0
    assert [(options["decoder"], options["head"]) for options in seen] == [("afa", "ocr")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of dlaseg in a wrapped pickle, as other programs write them."""
    torch.manual_seed(0)
    model = dlaseg.create_model("dla46_c", 11, stride=8, root_kernel_size=1)
    path = tmp_path_factory.mktemp("weights") / "model_best.pth.tar"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": state}, path)
    return path


def test_weights_are_described(capsys, weights):
    assert main(["weights", "inspect", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = {}
    for line in lines:
        name, value = re.split(r"  +", line, maxsplit=1)
        facts[name] = value
    assert facts["file"] == str(weights)
    assert facts["container"].startswith("pickle, ")
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["unwrapped"] == "state_dict, module."
    assert facts["other entries"] == "epoch: 7"
    assert facts["recognised as"] == "dlaseg's segmentation layout, dla46_c, 11 classes, stride 8"
    assert facts["fits weights"] == "of dla46_c, stride 8, root_kernel_size 1 or 3"
    assert facts["fits backbone_weights"] == "of dla46_c, any stride, root_kernel_size 1 or 3"
    state = dlaseg.create_model("dla46_c", 11, 8, 1).state_dict()
    backbone = sum(name.startswith("backbone.") for name in state)
    assert facts["loads backbone"].startswith(f"{backbone}, ")
    assert facts["loads decoder"].startswith(f"{len(state) - backbone}, ")
    assert facts["ignores"] == "nothing"


def test_weights_that_do_not_fit_are_described_to_the_last_tensor(capsys, weights, tmp_path):
    content = torch.load(weights, weights_only=True)
    wrong = [f"module.level9.{i}" for i in range(20)]
    torch.save({"state_dict": content["state_dict"] | {f"module.backbone.{n[7:]}": torch.ones(1) for n in wrong}},
               tmp_path / "w")  # fmt: skip
    assert main(["weights", "inspect", str(tmp_path / "w")]) == 2
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if line.startswith("does not fit")] == [
        f"does not fit  backbone.level9.{i} unexpected" for i in range(20)
    ]
    assert len(printed.err.splitlines()) == 1
    assert "and 8 more (`dlaseg weights inspect` lists them all)" in printed.err


def test_weights_are_converted(capsys, weights, tmp_path):
    output = tmp_path / "ours.safetensors"
    words = ["weights", "convert", str(weights), str(output), "--classes", "camvid"]
    assert main([*words, "--mean", "0.4", "0.5", "0.6", "--std", "0.2", "0.2", "0.2"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    model = dlaseg.load_model(output)
    theirs = torch.load(weights, weights_only=True)["state_dict"]
    assert all(torch.equal(theirs[f"module.{name}"], tensor) for name, tensor in model.state_dict().items())
    assert model.metadata.label_map.names[:2] == ("sky", "building")
    assert (model.metadata.mean, model.metadata.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    assert model.metadata.origin[0].sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--classes", "cityscapes"], "a label map of 19 classes for a network of 11"),
        (["--classes", "nowhere.yaml"], "nowhere.yaml"),
        (["--mean", "0.5"], "mean [0.5], std [0.229, 0.224, 0.225]: give one number of both for each channel"),
    ],
)
def test_a_wrong_conversion_is_refused_and_writes_nothing(capsys, weights, tmp_path, words, part):
    assert main(["weights", "convert", str(weights), str(tmp_path / "o.safetensors"), *words]) == 2
    printed = capsys.readouterr()
    assert part in printed.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_loaded_weights_are_logged_on_standard_error(capsys, data, weights, tmp_path):
    words = training(data, tmp_path / "run", "--model.name", "dla46_c", "--model.stride", "8", "--train.trackers", "[]",
                     "--model.root_kernel_size", "1", "--model.backbone_weights", str(weights),
                     "--train.epochs", "1")  # fmt: skip
    assert main(words) == 0
    log = capsys.readouterr().err
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (
        f"backbone_weights {weights}: dlaseg's segmentation layout, dla46_c, 11 classes, stride 8, sha256 {digest}"
        in log
    )
    assert main(["eval", str(tmp_path / "run/best.safetensors"), "--dataset", "cityscapes", "--root", str(data),
                 "--workers", "0", "--output", str(tmp_path / "scores")]) == 0  # fmt: skip
    protocol = json.loads((tmp_path / "scores/scores.json").read_text())["protocol"]
    assert [origin["sha256"] for origin in protocol["weights_origin"]] == [digest]


@pytest.mark.parametrize("family", ["benchmark", "data", "weights"])
def test_the_help_of_a_family_names_its_commands(capsys, family):
    printed = printed_before_exit(capsys, family, "--help")
    assert printed.startswith(f"usage: dlaseg {family} ")
    leaves = [name.split()[1] for name in COMMANDS if name.startswith(f"{family} ")]
    assert leaves
    assert all(f"\n    {leaf}" in printed for leaf in leaves)


def test_after_a_stop_another_signal_ends_what_is_left_of_the_process_at_once(monkeypatch, capsys):
    def stopped(arguments):
        raise Stopped("stopped by SIGINT")

    monkeypatch.setitem(COMMANDS, "train", stopped)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["train"]) == 75
        assert [signal.getsignal(number) for number in before] == [signal.SIG_DFL] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == "dlaseg train: stopped by SIGINT; continue with --resume\n"
