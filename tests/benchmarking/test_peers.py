"""benchmarks/peers.py: other packages' networks by the same trainer, on a drive that was held out."""

import json
from dataclasses import replace

import pytest
from dlaseg_testing import load_benchmark, log_rows, tiny_config, write_camvid

from dlaseg.config.files import to_yaml


@pytest.fixture(scope="module")
def script():
    return load_benchmark("peers")


@pytest.fixture
def arguments(tmp_path):
    root = write_camvid(tmp_path / "camvid", train=6)
    for folder in (root / "train", root / "trainannot"):
        for index, file in enumerate(sorted(folder.iterdir())):
            file.rename(folder / f"{('0001TP', '0006R0')[index % 2]}_{index}.png")
    config = tiny_config(root)
    (tmp_path / "config.yaml").write_text(to_yaml(replace(config, train=replace(config.train, warmup_steps=0))))
    return ["--config", str(tmp_path / "config.yaml"), "--root", str(root), "--output", str(tmp_path / "out")]


@pytest.mark.slow
def test_each_network_is_trained_for_the_cpu_time_and_scored_on_the_drive(
    script, arguments, tmp_path, capsys, monkeypatch
):
    clock = iter([0, 3, 0, 8, 0, 0, 0, 4, 0, 12, 0, 0])  # an epoch takes 5 and 8 seconds
    monkeypatch.setattr(script, "cpu_seconds", lambda: next(clock))
    script.main([*arguments, "--seconds", "12", "--networks", "dlaseg", "Linknet:mobilenet_v2", "--lr", "0.01"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["network"], row["epochs"]) for row in rows] == [("dlaseg", 3), ("Linknet:mobilenet_v2", 2)]
    for row in rows:
        run = tmp_path / "out" / f"{row['network'].replace(':', '-')}-0.01" / "all"
        assert len(log_rows(run)) == row["epochs"]
        assert 100 * log_rows(run)[-1]["miou"] == pytest.approx(row["miou"], abs=0.01)
        assert {name[:6] for name in (run / "train.txt").read_text().split()} == {"0001TP"}
        assert {name[:6] for name in (run / "val.txt").read_text().split()} == {"0006R0"}


def test_cpu_seconds_count_work_and_not_waiting(script):
    before = script.cpu_seconds()
    sum(i * i for i in range(300_000))
    assert 0 < script.cpu_seconds() - before < 10


@pytest.mark.parametrize("drive", ["0016E5", "00"])
def test_a_drive_that_is_none_or_all_is_refused(script, arguments, drive):
    with pytest.raises(SystemExit, match=f"--held-out {drive}: no drive, or all of train"):
        script.main([*arguments, "--held-out", drive])
