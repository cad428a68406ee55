import json

import pytest
import yaml

from dlaseg.errors import UserError
from dlaseg.run_folder import CONFIG, ENVIRONMENT, LOG, RunFolder

CONTENT = {
    CONFIG: yaml.safe_dump({"name": "a", "data": {"train_split": "train", "val_split": "val"}}),
    LOG: "".join(
        json.dumps({"epoch": i, "loss": 1 / i, "lr": 0.1, "miou": i / 10 if i % 2 else None}) + "\n" for i in (1, 2, 3)
    ),
    ENVIRONMENT: json.dumps(
        {"command": ["dlaseg"], "packages": {}, "gpus": []}
        | dict.fromkeys(("python", "platform", "git_commit", "cpus"))
    ),
}


def environment(**fields):
    return json.dumps(json.loads(CONTENT[ENVIRONMENT]) | fields)


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_config_log_and_environment_are_read(folder):
    run = RunFolder.read(folder)
    assert (run.config["name"], run.config_text) == ("a", CONTENT[CONFIG])
    assert [row["epoch"] for row in run.log] == [1, 2, 3]
    assert run.environment["cpus"] is None


def test_a_curve_leaves_out_epochs_without_a_finite_number(folder):
    assert RunFolder.read(folder).curve("miou") == ([1, 3], [0.1, 0.3])
    for other in ("NaN", "1e31", "true"):
        (folder / LOG).write_text(CONTENT[LOG].replace(": 0.3}", f": {other}}}"))
        assert RunFolder.read(folder).curve("miou") == ([1], [0.1])
    assert RunFolder.read(folder).curve("top1") == ([], [])


def test_a_run_without_a_finished_epoch_has_an_empty_log(folder):
    (folder / LOG).unlink()
    assert RunFolder.read(folder).log == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, None),
        (CONFIG, "{"),
        (CONFIG, "name: a\n"),
        (CONFIG, "data: {train_split: train}\n"),
        (CONFIG, "data: cityscapes\n"),
        (LOG, "{"),
        (LOG, '{"epoch": 1, "loss": 2}\n'),
        (LOG, "[]\n"),
        (LOG, '{"epoch": 1.5, "loss": 2, "lr": 1}\n'),
        (ENVIRONMENT, None),
        (ENVIRONMENT, "{}"),
        (ENVIRONMENT, "[]"),
        (ENVIRONMENT, b"\xff"),
        (ENVIRONMENT, environment(gpus="H200")),
        (ENVIRONMENT, environment(command=[1])),
        (ENVIRONMENT, environment(packages=["torch"])),
    ],
)
def test_a_missing_or_broken_file_is_refused_in_one_line(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"not a run folder of dlaseg train \(.+\): give the folder of a run") as error:
        RunFolder.read(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert "\n" not in str(error.value)
