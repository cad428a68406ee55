"""Absurd options and config files are refused by their command in one line; nothing is written."""

import pytest
from dlaseg_testing import tiny_config, train_arguments, with_train, write_camvid

from dlaseg.cli import main

pytestmark = pytest.mark.usefixtures("tiny_variant")

BOMB = "&a [x, x, x, x, x, x, x, x, x, x]" + "".join(f", &a{i} [{', '.join(['*a'] * 10)}]" for i in range(3))
DOUBLING = "[&a0 [x, x]" + "".join(f", &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)) + "]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["eval", "w", "--dataset", "camvid", "--root", ".", "--workers", "10000000000000"],
            "--workers 10000000000000",
        ),
        (["eval", "w", "--dataset", "camvid", "--root", ".", "--workers", "-1"], "--workers -1: use 0 to "),
        (["train", "--data.workers", "1000000"], "data.workers 1000000: use 0 to "),
        (["pretrain", "--data.workers", "1000000"], "data.workers 1000000: use 0 to "),
        (["benchmark", "train", "--data.workers", "1000000"], "data.workers 1000000: use 0 to "),
        (["train", "--train.epochs", "9" * 20], f"train.epochs {'9' * 20}: use a number from 1 to 1000000000"),
        (["train", "--train.seed", "9" * 23], f"train.seed {'9' * 23}: use a number from 0 to 18446744073709551615"),
        (["train", "--train.seed", "9" * 9000], "--train.seed 99999"),
        (["train", "--train.seed", "0x" + "f" * 9000], "--train.seed 0xfff"),
        (["train", "--train.lr", "9" * 9000], "train.lr"),
        (["train", "--augment.crop_size", "[100000,100000]"], "augment.crop_size 100000 x 100000: "),
        (["train", "--train.losses", "[" * 50_000], "--train.losses [[["),
        (["train", "--train.losses", "[" * 50_000 + "]" * 50_000], "--train.losses [[["),
        (["train", "--train.losses", "[" * 200 + "]" * 200], "--train.losses [[["),
        (["train", "--train.losses", "{a: " * 50_000 + "1" + "}" * 50_000], "--train.losses {a: {a: "),
        (["train", "--train.losses", DOUBLING], "--train.losses [&a0 "),
        (["train", "--train.class_weights", DOUBLING], "--train.class_weights [&a0 "),
        (["train", "--train.trackers", f"[{BOMB}]"], "--train.trackers [&a "),
        (
            ["train", "--train.class_weights", "[0, 0]"],
            "train.class_weights [0.0, 0.0]: use numbers from 0 to 1e+06, at",
        ),
        (["train", "--train.batch_size", "1000000000"], "train.batch_size 1000000000: use a number from 1 to 1000000"),
        (["train", "--train.lr", "1e300"], "train.lr 1e+300: use a number from 0 to 1000"),
        (["train", "--train.lr", "1e400"], "train.lr inf: use a number from 0 to 1000"),
        (["train", "--train.checkpoint_minutes", "1e300"], "train.checkpoint_minutes 1e+300: use a number from 0 to"),
        (["train", "--train.ema_decay", "1e300"], "train.ema_decay 1e+300: use 0 (no average) or a decay below 1"),
        (["train", "--name", "../../x"], "name '../../x': use 1 to 100 of the characters"),
        (["pretrain", "--name", ".."], "name '..': use 1 to 100 of the characters"),
        (["benchmark", "train", "--steps", "1000000000000"], "--steps 1000000000000: use 1 to 100000"),
        (["benchmark", "train", "--steps", "9" * 9000], "--steps"),
        (["data", "synthesize", "x", "--size", "100000", "100000"], "size 100000 x 100000: "),
        (
            ["data", "synthesize", "x", "--train", "1000000000000"],
            "train 1000000000000: the number of scenes: use 0 to",
        ),
        (["data", "synthesize", "x", "--seed", "9" * 30], f"seed {'9' * 30}: seeds are whole numbers from 0 to "),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_absurd_options_are_refused_in_one_line(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line
    assert len(line) < 5000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, "nested more than 20 levels deep"),
        ("train: " + "[" * 50_000 + "]" * 50_000, "nested more than 20 levels deep"),
        (f"train: {{losses: {DOUBLING}}}", "more than 100000 values, repetitions by aliases included"),
        ("name: ../../x", "name '../../x': use "),
        ('name: "\\e[2J"', r"name '\x1b[2J': use "),
        ('data: {root: "a\\0b"}', r"data.root 'a\x00b': use at most 4096 characters, no control characters"),
        ("train: {seed: 0x" + "f" * 9000 + "}", "an integer of more than 300 digits: put text in quotes"),
        ("train: {lr: 1" + "0" * 299 + "}", "train.lr 1e+299: use a number from 0 to 1000"),
        ("!!python/object/apply:os.system [touch PWNED]", "not YAML"),
    ],
    ids=lambda value: value[:40],
)
def test_absurd_configs_are_refused_in_one_line(text, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    for command in ("train", "pretrain"):
        assert main([command, "--config", "c.yaml"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert line.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_warm_up_that_is_longer_than_the_run_is_refused_before_anything_is_written(tmp_path, capsys):
    config = with_train(tiny_config(write_camvid(tmp_path / "data")), warmup_steps=7)  # of six steps
    for more in ((), ("--dry-run",)):
        assert main(train_arguments(config, tmp_path / "run", *more)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "train.warmup_steps 7: the whole run has 6 steps (3 epochs of 2)" in line
    assert not (tmp_path / "run").exists()
