"""A run that resumes has the classes that it began with."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from dlaseg_testing import refused_resume, run, tiny_config, with_train, write_camvid

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.errors import UserError
from dlaseg.labels import LabelMap
from dlaseg.training.recorded_classes import check_classes

CLASSES = {
    "classes": [
        {"name": "sky", "id": [0], "color": [0, 0, 0]},
        {"name": "road", "id": [3, 4], "color": [90, 90, 90]},
        {"name": "car", "id": [5], "color": [200, 0, 0]},
    ],
    "ignore": [11],
}


def changed(**changes: object) -> dict:
    """`CLASSES` after changes: sky=value of a class's entry, ignore=list, order=list."""
    entries = {entry["name"]: entry | changes.get(entry["name"], {}) for entry in CLASSES["classes"]}
    order = changes.get("order", list(entries))
    return {"classes": [entries[name] for name in order], "ignore": changes.get("ignore", CLASSES["ignore"])}


def write_classes(root: Path, content: dict) -> None:
    (root / "classes.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    root = write_camvid(tmp_path_factory.mktemp("data"))
    config = with_train(tiny_config(root), epochs=1, schedule="step", warmup_steps=0, trackers=[])
    data = {"dataset": "folder", "images": "{split}", "labels": "{split}annot", "on_changed_files": "go"}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


@pytest.fixture(scope="module")
def begun(config, tmp_path_factory) -> Path:
    """The folder of a run of one epoch; read only."""
    write_classes(Path(config.data.root), CLASSES)
    output = tmp_path_factory.mktemp("begun") / "run"
    run(config, output)
    return output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(order=["sky", "car", "road"]), "class 1 'car' (the run has 'road')"),
        (changed(order=["sky", "road"]), "2 classes (the run has 3)"),
        (changed(road={"name": "street"}), "class 1 'street' (the run has 'road')"),
        (changed(road={"id": [5]}, car={"id": [3]}), "id 5 is class 'road' (in the run, class 'car')"),
        (changed(road={"id": [3]}, ignore=[11, 4]), "id 4 is ignored (in the run, class 'road')"),
        (changed(car={"id": [5, 11]}, ignore=[]), "id 11 is class 'car' (in the run, ignored)"),
        (
            changed(road={"color": [200, 0, 0]}, car={"color": [90, 90, 90]}),
            "color [200, 0, 0] is class 'road' (in the run, class 'car')",
        ),
    ],
)
def test_other_classes_are_refused_by_the_first_difference(config, begun, content, message):
    write_classes(Path(config.data.root), content)
    assert refused_resume(with_train(config, epochs=2), begun) == (
        f"{message}: the run in {begun} keeps its classes: restore the classes file, or start a new run from its "
        f"weights: --model.weights {begun / 'best.safetensors'} and another --output"
    )


@pytest.mark.parametrize(
    "content",
    [
        CLASSES,
        changed(ignore=[255, 11, 12]),
        changed(ignore=[11, [1, 2, 3]]),
        changed(road={"id": [4, 3, 7]}),
        changed(road={"id": [3]}),
        changed(sky={"color": [1, 1, 1]}),
        changed(sky={"color": [200, 0, 0]}),  # of two classes: the label maps hold ids
    ],
)
def test_what_the_run_has_not_read_may_be_listed_or_not(config, content):
    recorded, present = (LabelMap.from_dict(each).to_dict() for each in (CLASSES, content))
    check_classes(config, recorded, present, Path("run"))
    check_classes(config, present, recorded, Path("run"))


def test_the_run_goes_on_after_an_id_to_ignore_was_added(config, begun, tmp_path, no_scores):
    shutil.copytree(begun, tmp_path / "run")
    write_classes(Path(config.data.root), changed(ignore=[11, 12]))
    assert run(with_train(config, epochs=2), tmp_path / "run", resume=True).epoch == 2


def test_a_new_run_is_in_another_folder_if_there_are_no_weights(config, tmp_path):
    with pytest.raises(UserError, match=r": restore the classes file, or start a new run in another --output$"):
        check_classes(config, CLASSES, changed(order=["sky", "car"]), tmp_path)


@pytest.mark.parametrize(
    "recorded", [None, [], {}, {"classes": 3}, {"classes": ["sky"]}, {"classes": [{"name": "sky", "id": 3}]}]
)
def test_classes_of_another_kind_are_refused(config, recorded):
    present = {"classes": [{"name": "sky"}]}
    with pytest.raises(UserError, match=r"^run: its checkpoint is not one of this run \(classes is wrong\): "):
        check_classes(config, recorded, present, Path("run"))


def test_a_renamed_class_folder_is_refused(tmp_path):
    recorded, present = ({"classes": [{"name": name} for name in names]} for names in (("blue", "red"), ("a", "red")))
    with pytest.raises(UserError, match=r"^class 0 'a' \(the run has 'blue'\): .*: restore the class folders, or "):
        check_classes(PretrainConfig(), recorded, present, tmp_path)


def test_colors_that_are_not_distinct_mean_nothing():
    before = changed(car={"color": [90, 90, 90]})
    check_classes(Config(), before, changed(), Path("run"))


def test_a_color_that_was_ignored_stays_so():
    before = changed(ignore=[[1, 2, 3]])
    with pytest.raises(UserError, match=r"color \[1, 2, 3\] is class 'car' \(in the run, ignored\)"):
        check_classes(Config(), before, changed(car={"color": [1, 2, 3]}, ignore=[]), Path("run"))
