import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dlaseg_testing import write_camvid
from PIL import Image

from dlaseg import open_dataset
from dlaseg.benchmarking import accuracy, leaderboard
from dlaseg.benchmarking.accuracy import Protocol, Score, dataset_identity, parse_protocol, score_all
from dlaseg.benchmarking.dataset_names import distinct_names
from dlaseg.benchmarking.leaderboard import (
    Entries,
    board_markdown,
    board_rows,
    dataset_entry_of,
    read_board,
    read_entries,
    single_pass_scores,
)
from dlaseg.cli import main
from dlaseg.data.sets.camvid import camvid_labels
from dlaseg.errors import UserError
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.weights.download import resolve


@pytest.fixture
def camvid(tmp_path):
    return write_camvid(tmp_path / "camvid", train=1)


@pytest.fixture
def dataset(camvid):
    return open_dataset("camvid", camvid, "val")


@pytest.fixture
def computed(monkeypatch):
    """What is scored, and not read from the cache."""
    calls, evaluate = [], accuracy.evaluate

    def count(path, dataset, *arguments, **options):
        calls.append((Path(path).name, dataset.name, arguments[3:]))
        return evaluate(path, dataset, *arguments, **options)

    monkeypatch.setattr(accuracy, "evaluate", count)
    return calls


FLIPPED = Protocol(flip=True)


def test_a_rerun_computes_only_what_is_new(tmp_path, dataset, weights_file, other_weights_file, computed):
    def run(*arguments):
        computed.clear()
        scores = score_all(*arguments, tmp_path / "board", workers=0, device="cpu")
        assert len(computed) == sum(not score.cached for score in scores)
        return scores

    first = run([str(weights_file)], [dataset], [Protocol()])
    assert computed == [(weights_file.name, "camvid", (0, "cpu", (), "float32", "stop", "torch"))]
    again = run([str(weights_file)], [dataset], [Protocol()])
    assert computed == []
    assert again[0].results == first[0].results
    run([str(weights_file), str(other_weights_file)], [dataset], [Protocol(), FLIPPED])
    assert len(computed) == 3
    run([str(other_weights_file)], [dataset], [FLIPPED])
    assert computed == []


def test_a_weights_file_is_scored_once_with_and_without_its_default_backend(tmp_path, dataset, weights_file, computed):
    def run(*protocols):
        board = tmp_path / "board"
        return score_all([str(weights_file)], [dataset], list(map(parse_protocol, protocols)), board, 0, "cpu")

    (row,) = run("float32", "torch+float32")
    assert (row.protocol.name, row.cached, len(computed)) == ("float32", False, 1)
    (again,) = run("torch+float32")
    assert (again.protocol.name, again.cached, again.report) == ("torch+float32", True, row.report)
    assert len(computed) == 1


def test_the_same_weights_under_another_name_are_known(tmp_path, dataset, weights_file, computed):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights_file.read_bytes())
    for path in (weights_file, copy):
        score_all([str(path)], [dataset], [Protocol()], tmp_path / "board", workers=0, device="cpu")
    assert len(computed) == 1


def test_weights_that_cannot_be_had_are_looked_for_once(tmp_path, dataset, monkeypatch):
    looked_for = []

    def resolve(name):
        looked_for.append(name)
        raise UserError(f"{name}: no answer from the hub")

    monkeypatch.setattr(accuracy, "resolve", resolve)
    rows = score_all(["me/x"], [dataset], [Protocol(), FLIPPED], tmp_path / "board", device="cpu")
    assert [row.message for row in rows] == ["me/x: no answer from the hub"] * 2
    assert looked_for == ["me/x"]


def test_the_key_of_a_score_is_all_that_it_depends_on():
    key = ("weights", "images", Protocol(), "cpu", False, None)
    others = [(*key[:i], other, *key[i + 1 :]) for i, other in enumerate(("w", "i", FLIPPED, "cuda", True, "warn"))]
    assert len({accuracy._key(*each) for each in (key, *others)}) == 7


@pytest.fixture
def ignored_class(camvid):
    """CamVid's images as a data set of the user's own, with pixels of 255, which nobody listed."""
    (camvid / "classes.yaml").write_text(json.dumps({"classes": list(camvid_labels().names)}))
    for file in (camvid / "valannot").iterdir():
        labels = np.array(Image.open(file))
        Image.fromarray(np.where(labels == 11, 255, labels).astype(np.uint8)).save(file)
    return {"dataset": "folder", "root": str(camvid), "images": "{split}", "labels": "{split}annot"}


def test_a_score_despite_a_missing_class_is_no_score_without_that_option(ignored_class, tmp_path, weights_file, capsys):
    entries = {"weights": [str(weights_file)], "datasets": [ignored_class]}
    (tmp_path / "list.yaml").write_text(json.dumps(entries))
    words = ["benchmark", "accuracy", str(tmp_path / "list.yaml"), "--workers", "0", "--device", "cpu"]
    words += ["--output", str(tmp_path / "board")]
    for option, code, counts in (
        (["--on-missing-class", "warn"], 0, "1 scored, 0 known from before, 0 failed"),
        ([], 2, "0 scored, 0 known from before, 1 failed"),
        (["--on-missing-class", "warn"], 0, "0 scored, 1 known from before, 0 failed"),
    ):
        assert main([*words, *option]) == code
        assert counts in capsys.readouterr().out


def test_wrong_values_are_refused_before_anything_is_scored(tmp_path, dataset, computed):
    for options, message in (
        ({"on_missing_class": "typo"}, "on_missing_class 'typo': use stop or warn"),
        ({"workers": -1}, "workers -1: use 0 to "),
    ):
        with pytest.raises(UserError, match=message):
            score_all(["camvid"], [dataset], [Protocol()], tmp_path / "board", **options)
    assert computed == []
    assert not (tmp_path / "board").exists()


def test_an_exported_file_is_scored_by_what_reads_it(tmp_path, dataset):
    protocols = [Protocol(), Protocol("onnxruntime"), Protocol("torch")]
    row, failed, torch = score_all(["camvid-int8"], [dataset], protocols, tmp_path / "board", workers=0, device="cpu")
    assert (row.message, row.results["protocol"]["backend"]) == (None, "openvino")
    assert failed.message.startswith("backend onnxruntime: ")
    assert torch.message.startswith("backend torch: ")
    assert row.weights_sha256 == failed.weights_sha256 == exported_sha256(resolve("camvid-int8"))


@pytest.mark.slow
def test_another_version_or_damaged_scores_are_computed_again(tmp_path, dataset, weights_file, computed, monkeypatch):
    def run():
        return score_all([str(weights_file)], [dataset], [Protocol()], tmp_path / "board", workers=0, device="cpu")

    (first,) = run()
    (first.report.parent / "scores.json").write_text("{")
    assert run()[0].results == first.results
    assert len(computed) == 2
    first.report.unlink()
    assert run()[0].report.is_file()
    assert len(computed) == 3
    monkeypatch.setattr(accuracy, "package_version", lambda name: f"new {name}")
    assert not run()[0].cached
    assert len(computed) == 4


def change_label(camvid):
    path = camvid / "valannot/0.png"
    status, labels = path.stat(), np.array(Image.open(path))
    labels[20, 20] = 5 - labels[20, 20]
    Image.fromarray(labels).save(path)
    return path, status


def test_the_identity_of_a_data_set_is_its_content(tmp_path, camvid, dataset):
    identity = dataset_identity(dataset)
    moved = camvid.rename(tmp_path / "moved")
    assert dataset_identity(open_dataset("camvid", moved, "val")) == identity
    others = [
        replace(dataset, pairs=open_dataset("camvid", moved, "val").pairs[:1]),
        open_dataset("camvid", moved, "train"),
        replace(open_dataset("camvid", moved, "val"), name="other"),
        replace(
            open_dataset("camvid", moved, "val"), label_map=replace(dataset.label_map, ids=dataset.label_map.ids[::-1])
        ),
    ]
    identities = {dataset_identity(other) for other in others}
    change_label(moved)
    identities.add(dataset_identity(open_dataset("camvid", moved, "val")))
    image = moved / "val/1.png"
    image.write_bytes(image.read_bytes() + b"\0")
    identities.add(dataset_identity(open_dataset("camvid", moved, "val")))
    assert len(identities - {identity}) == 6


@pytest.mark.parametrize("benchmark", ["cityscapes", None])
def test_the_identity_of_the_benchmark_has_the_instance_maps(camvid, dataset, benchmark):
    labels = [pair.label.rename(pair.label.with_name(f"{pair.label.stem}_labelIds.png")) for pair in dataset.pairs]
    pairs = [replace(pair, label=label) for pair, label in zip(dataset.pairs, labels, strict=True)]
    dataset = replace(dataset, pairs=tuple(pairs), benchmark=benchmark)
    instances = labels[0].with_name(labels[0].name.replace("labelIds", "instanceIds"))
    identities = [dataset_identity(dataset)]
    for content in (b"one", b"two"):
        instances.write_bytes(content)
        identities.append(dataset_identity(dataset))
    instances.unlink()
    assert dataset_identity(dataset) == identities[0]
    assert len(set(identities)) == (1 if benchmark is None else 3)


def test_data_sets_of_one_name_are_ranked_apart(tmp_path, weights_file, other_weights_file, computed, capsys):
    sites = [write_camvid(tmp_path / site, train=1, val=count) for site, count in (("site_a", 1), ("site_b", 2))]
    words = ["--weights", str(weights_file), str(other_weights_file), "--workers", "0", "--device", "cpu"]
    words += ["--output", str(tmp_path / "board"), "--datasets", *(f"camvid:{site}" for site in sites)]
    assert main(["benchmark", "accuracy", *words]) == 0
    assert [arguments[4] for _, _, arguments in computed] == ["stop"] * 4
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "board/leaderboard.md").read_text()):
        headings = [line for line in text.splitlines() if line.startswith("camvid")]
        assert headings == ["camvid val (site_a), images: 1", "camvid val (site_b), images: 2"]
    rows = read_board(tmp_path / "board/leaderboard.json")
    assert [row["dataset"] for row in rows] == 2 * ["camvid val (site_a)"] + 2 * ["camvid val (site_b)"]
    table = csv.DictReader((tmp_path / "board/leaderboard.csv").read_text().splitlines())
    assert [row["dataset"] for row in table] == [row["dataset"] for row in rows]
    found = single_pass_scores(rows)
    assert {name: len(scores) for name, scores in found.items()} == {"camvid val (site_a)": 2, "camvid val (site_b)": 2}


def test_an_option_for_classes_of_the_users_own_is_refused_where_there_are_none(camvid, ignored_class, capsys, folder):
    words = ["benchmark", "accuracy", "--weights", "none.safetensors", "--on-missing-class", "warn"]
    assert main([*words, "--datasets", f"camvid:{camvid}"]) == 2
    assert "--on-missing-class warn: the ids of the classes of camvid are fixed: leave" in capsys.readouterr().err
    (folder / "list.yaml").write_text(json.dumps({"weights": ["none.safetensors"], "datasets": [ignored_class]}))
    assert main([*words[:2], "list.yaml", *words[2:], "--datasets", f"camvid:{camvid}"]) == 2
    assert "0 scored, 0 known from before, 2 failed" in capsys.readouterr().out


def test_a_data_set_that_is_given_twice_is_scored_once(tmp_path, camvid, dataset, weights_file, computed):
    copy = shutil.copytree(camvid, tmp_path / "copy")
    datasets = [dataset, dataset, open_dataset("camvid", copy, "val")]
    rows = score_all([str(weights_file)], datasets, [Protocol()], tmp_path / "board", workers=0, device="cpu")
    assert [row.dataset for row in rows] == ["camvid val"]
    assert len(computed) == 1


def test_names_of_data_sets_have_the_shortest_end_that_differs(tmp_path, folder):
    entries = [
        *({"root": root} for root in ("site_a", "x/site_b", "y/site_b")),
        *({"root": "site_a", "split": "train", "list": name} for name in ("l/some.txt", "m/some.txt")),
        *({"root": root, "split": "train", "list": name} for root in ("c", "site_a") for name in ("1.txt", "l/1.txt")),
    ]
    for root in {entry["root"] for entry in entries}:
        write_camvid(tmp_path / root, train=1, val=1)
    for name in {entry["list"] for entry in entries if "list" in entry}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("0\n")
    opened = Entries(datasets=[{"dataset": "camvid", **entry} for entry in entries]).open_datasets()
    here = tmp_path.name
    assert distinct_names(opened) == [
        *(f"camvid val ({root})" for root in (f"{here}/site_a", "x/site_b", "y/site_b")),
        *(f"camvid train-some ({name})" for name in ("l/some.txt", "m/some.txt")),
        *(f"camvid train-1 ({root}, {at}/1.txt)" for root in ("c", "site_a") for at in (here, "l")),
    ]
    assert distinct_names(opened[:1]) == ["camvid val"]
    plain = open_dataset("camvid", "c", "val")
    assert distinct_names([plain, plain]) == ["camvid val (1)", "camvid val (2)"]


def test_an_output_that_is_a_file_is_refused_before_scoring(tmp_path, dataset, weights_file, computed):
    (tmp_path / "afile").touch()
    for output in (tmp_path / "afile", tmp_path / "afile/board"):
        with pytest.raises(UserError, match=f"{output}: cannot be a folder .*: name another output"):
            score_all([str(weights_file)], [dataset], [Protocol()], output, workers=0, device="cpu")
    assert computed == []


def test_a_file_that_is_gone_is_named(camvid, dataset):
    (camvid / "val/1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png: No such file or directory"):
        dataset_identity(dataset)


def test_the_scores_are_those_of_eval(tmp_path, camvid, dataset, weights_file):
    protocols = [Protocol("torch", "bfloat16", (0.75, 1.0), flip=True)]
    (row,) = score_all([str(weights_file)], [dataset], protocols, tmp_path / "board", workers=0, device="cpu")
    words = [str(weights_file), "--dataset", "camvid", "--root", str(camvid), "--flip", "--workers", "0"]
    words += ["--scales", "0.75", "1", "--precision", "bfloat16"]
    assert main(["eval", *words, "--device", "cpu", "--output", str(tmp_path / "eval")]) == 0
    files = [row.report.parent / "scores.json", tmp_path / "eval/scores.json"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert row.report.is_file()


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("float32", Protocol()),
        ("torch", Protocol(backend="torch")),
        ("flip+bfloat16", Protocol(precision="bfloat16", flip=True)),
        ("scales=0.5,2", Protocol(scales=(0.5, 2.0))),
    ],
)
def test_protocols_are_words_in_any_order(text, protocol):
    assert parse_protocol(text) == protocol
    assert parse_protocol(protocol.name) == protocol


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float33", "'float33' is unknown: join by \\+ at most one each of torch"),
        ("", "'' is unknown"),
        ("float32+bfloat16", "'bfloat16' is a second precision"),
        ("flip+flip", "'flip' is a second flip"),
        ("scales=1;2", "'scales=1;2': write numbers above 0, such as scales=0.75,1,1.25"),
        ("scales=nan", "'scales=nan': write numbers above 0"),
        ("scales=1,inf", "'scales=1,inf': write numbers above 0"),
        ("scales=0", "'scales=0': write numbers above 0"),
        ("scales", "'scales': write numbers"),
    ],
)
def test_other_protocols_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_protocol(text)


def table_cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_report_that_is_gone_is_not_linked(tmp_path, dataset, weights_file):
    (row,) = score_all([str(weights_file)], [dataset], [Protocol()], tmp_path / "board", workers=0, device="cpu")
    assert "report.html)" in board_markdown([row], tmp_path / "board")
    row.report.unlink()
    assert board_markdown([row], tmp_path / "board") == board_markdown([row])


def test_the_command_ranks_and_goes_on_after_a_broken_file(tmp_path, camvid, weights_file, other_weights_file, capsys):
    broken, output = tmp_path / "broken.safetensors", tmp_path / "board"
    broken.write_bytes(b"broken")
    words = ["--weights", str(broken), str(weights_file), str(other_weights_file), "--datasets", f"camvid:{camvid}"]
    words += ["--workers", "0", "--device", "cpu", "--output", str(output)]
    assert main(["benchmark", "accuracy", *words]) == 2
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "camvid val, images: 2"
    assert "2 scored, 0 known from before, 1 failed" in shown
    rows = read_board(output / "leaderboard.json")
    assert rows[0]["miou"] > rows[1]["miou"]
    assert rows[0]["miou_low"] is rows[0]["miou_high"] is None  # of two images
    assert (rows[2]["weights"], rows[2]["miou"]) == (str(broken), None)
    assert rows[2]["message"].startswith(f"{broken}: neither a safetensors file")
    assert f"\n\n{rows[2]['message']}\n\n" in shown
    best = [f"{100 * rows[0]['miou']:.2f}", "-", f"{100 * rows[0]['pixel_accuracy']:.2f}"]
    assert table_cells(shown.splitlines()[4])[-3:] == best
    written = (output / "leaderboard.md").read_text().splitlines()
    linked, *others = table_cells(written[4])[-3:]
    assert others == best[1:]
    text, link = re.fullmatch(r"\[(.*)\]\((.*)\)", linked).groups()
    assert text == best[0]
    assert (output / link).samefile(rows[0]["report"])
    assert table_cells(written[6]) == table_cells(shown.splitlines()[6])  # failed, so without a report
    table = list(csv.DictReader((output / "leaderboard.csv").read_text().splitlines()))
    assert [row["weights"] for row in table] == [row["weights"] for row in rows]
    assert (table[0]["miou"], table[0]["scales"]) == (str(rows[0]["miou"]), "1.0")
    found = single_pass_scores(rows)
    assert found == {"camvid val": {(row["weights_sha256"], "torch", "float32"): row for row in rows[:2]}}
    assert main(["benchmark", "accuracy", *words]) == 2
    assert "0 scored, 2 known from before, 1 failed" in capsys.readouterr().out


def test_a_row_has_interval_network_and_scales():
    protocol = {"images": 3, "scales": [0.5, 1.0], "backend": "openvino", "precision": "int8+bfloat16"}
    protocol |= {"model": {"name": "dla34", "stride": 4}}
    results = {"miou": 0.75, "miou_interval": [0.5, 0.875], "pixel_accuracy": 0.9, "protocol": protocol}
    best = Score("a", "camvid val", Protocol(precision="bfloat16"), results=results)
    none = replace(best, weights="b", results={**results, "miou": None})  # of a split without labelled pixels
    failed = replace(best, weights="c", protocol=Protocol(scales=(2.0,)), results=None, message="broken")
    table = board_markdown([failed, none, best]).splitlines()
    assert [line.split("|")[1].strip() for line in table[4:7]] == ["a", "b", "c"]
    assert table_cells(table[4]) == ["a", "dla34 stride 4", "bfloat16", "75.00", "50.00 to 87.50", "90.00"]
    row, _, last = board_rows([failed, none, best])
    shown = [row[key] for key in ("miou_low", "miou_high", "precision", "scales")]
    assert shown == [0.5, 0.875, "int8+bfloat16", [0.5, 1.0]]
    assert (last["precision"], last["scales"]) == ("float32", [2.0])


SCORED = {"dataset": "a", "weights_sha256": "b", "backend": "torch", "precision": "float32", "miou": 0.5}
SCORED |= {"scales": [1.0], "flip": False}


def test_scores_with_flip_or_scales_are_not_those_of_one_pass():
    assert single_pass_scores([{**SCORED, "flip": True}, {**SCORED, "scales": [0.5]}]) == {}


def test_every_option_of_a_data_set_is_used_and_a_protocol_counts_once(dataset, monkeypatch):
    entry = {"root": "r", "dataset": "d", "list": "t", "split": "s", "classes": "c", "labels": "l", "images": "i"}
    given = []
    monkeypatch.setattr(leaderboard, "open_dataset", lambda *options: given.append(options) or dataset)
    Entries(datasets=[entry, dataset_entry_of("camvid:C:/data", "test"), {"dataset": "d", "root": "r"}]).open_datasets()
    assert given == [
        ("d", "r", "s", "i", "l", "c", "t"),
        ("camvid", "C:/data", "test", None, None, None, None),
        ("d", "r", "val", None, None, None, None),
    ]
    assert Entries(protocols=["flip", "float32+flip"]).parse_protocols() == [FLIPPED]


@pytest.mark.slow
def test_a_list_says_the_same_as_the_options(tmp_path, camvid, weights_file, capsys):
    path = tmp_path / "list.yaml"
    path.write_text(
        f"weights: ['{weights_file}']\ndatasets:\n- {{dataset: camvid, root: '{camvid}', split: train}}\n"
        f"protocols: [flip]\n"
    )
    words = [str(path), "--datasets", f"camvid:{camvid}", "--workers", "0", "--device", "cpu"]
    assert main(["benchmark", "accuracy", *words, "--output", str(tmp_path / "board")]) == 0
    rows = read_board(tmp_path / "board/leaderboard.json")
    assert [(row["dataset"], row["flip"]) for row in rows] == [("camvid train", True), ("camvid val", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a mapping: use the keys weights, datasets, protocols"),
        ("weight: [a]", "unknown key 'weight': did you mean weights\\?"),
        ("weights: [a]", "no key 'datasets': add it"),
        ("{weights: a, datasets: [{dataset: a, root: b}]}", "weights 'a': use a list of texts"),
        ("{weights: [1], datasets: [{dataset: a, root: b}]}", "weights \\[1\\]: use a list of texts"),
        ("{weights: [a], datasets: [b]}", "datasets \\['b'\\]: use a list of mappings with dataset and root"),
        ("{weights: [a], datasets: [{dataset: a}]}", "datasets: no key 'root': add it"),
        (
            "{weights: [a], datasets: [{dataset: a, root: b, splits: c}]}",
            "datasets: unknown key 'splits': did you mean",
        ),
        ("{weights: [a], datasets: [{dataset: a, root: 1}]}", "datasets: root 1: use text"),
    ],
)
def test_other_lists_are_refused(tmp_path, text, message):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        read_entries(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no weights: a leader board needs weights, data sets and protocols"),
        (["--weights", "a"], "no data sets: a leader board needs"),
        (["--weights", "a", "--datasets", "camvid"], "--datasets camvid: write NAME:ROOT, such as camvid:/data/camvid"),
        (["--weights", "a", "--datasets", "camvid:none"], "none: no such folder"),
        (["--weights", "a", "--workers", "-1"], "--workers -1: "),
        (["--weights", "a", "--on-missing-class", "stop"], "no data sets: a leader board needs"),
    ],
)
def test_wrong_options_are_one_line(words, message, capsys, folder):
    assert main(["benchmark", "accuracy", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"dlaseg benchmark accuracy: {message}")
    assert shown.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [[], {}, *({"rows": [row]} for row in ({}, {"miou": "a"}, {"miou": 0.5}, {**SCORED, "miou": 2}))],
)
def test_a_file_that_is_no_leader_board_is_refused(tmp_path, content):
    path = tmp_path / "leaderboard.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{path}: not a leaderboard.json of dlaseg benchmark accuracy"):
        read_board(path)
