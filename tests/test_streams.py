"""Commands in shells of other encodings, and in pipes whose reader is gone."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlaseg import cli
from dlaseg.commands.streams import reader_is_gone, standard_streams
from dlaseg.training.trackers import TensorBoard

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


def start(words: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "LC_ALL")}
    return subprocess.Popen(
        words, cwd=folder, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def street(tmp_path) -> None:
    """Images, masks and a config whose names and classes ASCII does not have."""
    root, rng = tmp_path / "Straße", np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split / "Köln").mkdir(parents=True)
        for index in range(2):
            name = f"{split}/Köln/ä{index}.png"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(root / "images" / name)
            Image.fromarray(rng.integers(0, 2, (32, 32), np.uint8)).save(root / "labels" / name)
    classes = "classes:\n  - {name: Straße, id: 0, color: [0, 0, 0]}\n  - {name: 木, id: 1, color: [60, 180, 75]}\n"
    (root / "classes.yaml").write_text(classes, encoding="utf-8")
    config = """name: size  # ü
data: {dataset: folder, root: größe, workers: 0}
model: {name: dla46_c, stride: 8}
augment: {crop_size: [32, 32]}
train: {epochs: 1, batch_size: 2, eval_every: 1, device: cpu, precision: float32}
"""
    (tmp_path / "größe.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "größer.yaml").write_text("größe: 1\n", encoding="utf-8")


WRONG = {
    "train --train.lr schön": 2,
    "train --config größe.yaml": 2,  # the root is größe
}
COMMANDS = {
    "train --config größe.yaml --data.root Straße --output läuft": 0,
    "train --config läuft/config.yaml --output läuft --resume": 0,
    "data stats Straße --dataset folder": 0,
    "eval läuft/best.safetensors --dataset folder --root Straße --workers 0 --device cpu": 0,
    "infer läuft/best.safetensors Straße/images/val Bilder_ü --device cpu": 0,
    "compare läuft/folder-val/scores.json läuft/folder-val/scores.json": 0,
    "weights inspect läuft/best.safetensors": 0,
    **WRONG,
}
REFUSALS = [
    r"dlaseg train: --train.lr sch\xc3\xb6n: expected a number, such as --train.lr 0.01",
    r"dlaseg train: gr\u00f6\u00dfe: no such folder; use the folder of dataset folder: images/SPLIT/* with "
    "labels/SPLIT/*, or paths of your own; classes.yaml defines the classes",
]
RUN_ALL = """
import sys
from dlaseg.cli import main
for line in sys.argv[1:]:
    print(f"exit code {main(line.split())}", flush=True)
"""


def run_in_ascii(commands, folder):
    """What commands print where only ASCII can be printed and named, after their exit codes were checked."""
    process = start([sys.executable, "-c", RUN_ALL, *commands], folder, **C_LOCALE)
    output, errors = (stream.decode("ascii") for stream in process.communicate(timeout=600))
    assert [int(code) for code in re.findall(r"^exit code (\d)$", output, re.MULTILINE)] == [*commands.values()], errors
    assert process.returncode == 0
    return output, errors


@pytest.mark.usefixtures("street")
def test_what_is_counted_and_refused_can_be_printed_where_only_ascii_can(tmp_path):
    refused = ["train --train.lr schön", "train --config größer.yaml", "data stats größe --dataset folder"]
    commands = {"data stats Straße --dataset folder": 0, **dict.fromkeys(refused, 2)}
    output, errors = run_in_ascii(commands, tmp_path)
    assert r"Stra\u00dfe" in output  # the class, as no byte of the terminal's alphabet can show it
    number, field, folder = errors.splitlines()
    assert number == REFUSALS[0]
    assert field == (
        r"dlaseg train: gr\xc3\xb6\xc3\x9fer.yaml: unknown field 'gr\u00f6\u00dfe': did you mean 'data.images'?"
    )
    assert folder == r"dlaseg data stats: gr\xc3\xb6\xc3\x9fe: no such folder; " + REFUSALS[1].partition("; ")[2]


@pytest.mark.slow
@pytest.mark.usefixtures("street")
def test_commands_work_where_only_ascii_can_be_printed_and_named(tmp_path):
    output, errors = run_in_ascii(COMMANDS, tmp_path)
    assert r"Stra\u00dfe" in output
    assert errors.splitlines()[-2:] == REFUSALS
    assert "Straße" in (tmp_path / "läuft/report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "läuft").glob("events.*"))) == 2
    assert sorted(path.name for path in (tmp_path / "Bilder_ü/ids/Köln").iterdir()) == ["ä0.png", "ä1.png"]


def test_a_name_that_the_locale_does_not_have_is_refused_with_the_remedy(monkeypatch, capsys):
    def command(arguments):
        "größe".encode("ascii")

    monkeypatch.setitem(cli.COMMANDS, "train", command)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == (
        "dlaseg train: größe: the locale of this shell has no file names with ö: set LC_ALL=C.UTF-8 or PYTHONUTF8=1\n"
    )


def test_tensorboard_writes_into_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    tracker = TensorBoard(folder)
    tracker.scalars({"loss": 1.0}, 1)
    tracker.close()
    (events,) = folder.iterdir()
    assert events.stat().st_size > 100


# Buffered output fails when the process ends, unbuffered output at once
DRAW = "data synthesize drawn --train 1 --val 0 --size 64 64"


@pytest.mark.parametrize(
    ("line", "unbuffered"),
    [
        pytest.param(*case, marks=() if case in [("--help", ""), ("nope", "1"), (DRAW, "1")] else pytest.mark.slow)
        for case in product(("--help", "nope", DRAW), ("", "1"))
    ],
)
def test_a_reader_that_is_gone_ends_a_command_quietly(tmp_path, line, unbuffered):
    code = "import sys; from dlaseg.cli import main; sys.exit(main())"
    process = start([sys.executable, "-c", code, *line.split()], tmp_path, PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()
    if line == "nope":
        process.stderr.close()
    else:
        with process.stderr as errors:
            assert errors.read() == b""
    # Where it prints help, argparse of some releases of Python passes over the error itself
    assert process.wait(timeout=600) in ({0, 1} if line == "--help" and unbuffered else {1})


def test_a_reader_that_is_gone_does_not_hide_an_error(tmp_path):
    code = "import sys; from dlaseg.cli import main; sys.exit(main())"
    process = start([sys.executable, "-c", code, "nope"], tmp_path)
    process.stdout.close()
    with process.stderr as errors:
        assert b"invalid choice: 'nope'" in errors.read()
    assert process.wait(timeout=600) == 2


def test_a_pipe_that_broke_elsewhere_is_an_error():
    """Such as that of a loader's process."""
    with pytest.raises(BrokenPipeError), standard_streams():
        raise BrokenPipeError


def test_streams_that_are_closed_or_missing_have_no_reader_that_could_be_gone(monkeypatch):
    closed = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    closed.close()
    for output in (closed, None):
        monkeypatch.setattr(sys, "stdout", output)
        assert not reader_is_gone()
    with standard_streams():
        pass


def test_output_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    code = "import sys; from dlaseg.cli import main; sys.stdout = open('/dev/full', 'w'); sys.exit(main())"
    process = start([sys.executable, "-c", code, "--version"], tmp_path)
    assert process.communicate(timeout=600)[1] == b"dlaseg: standard output: No space left on device\n"
    assert process.returncode == 2
