"""Names of files that are not UTF-8, from data set to results."""

import json
import os
import sys

import numpy as np
import pytest
from dlaseg_testing import TINY, train_arguments
from PIL import Image

from dlaseg.cli import main
from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig

NAMES = [b"caf\xe9", b"s\xe9q/\xff\xfe", "straße".encode(), b"plain"]
WRITTEN = [r"caf\xe9", "plain", r"s\xe9q/\xff\xfe", "straße"]


@pytest.fixture
def root(tmp_path):
    """A data set in a folder whose own name is not UTF-8."""
    root = tmp_path / os.fsdecode(b"d\xe9ta")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in map(os.fsdecode, NAMES):
            image = rng.integers(0, 256, (32, 48, 3), np.uint8)
            for kind, pixels in (("images", image), ("labels", (image[..., 0] > 128).astype(np.uint8))):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "classes.yaml").write_text("classes: [{name: a}, {name: b}]")
    return root


@pytest.mark.usefixtures("tiny_variant")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, all names are Unicode")
def test_such_names_go_through_every_command(root, tmp_path, capsys):
    config = Config(
        data=DataConfig(dataset="folder", root=str(root), workers=0),
        model=ModelConfig(name=TINY, stride=8),
        augment=AugmentConfig(crop_size=(32, 32)),
        train=TrainConfig(epochs=1, batch_size=4, lr=0.001, precision="float32", device="cpu"),
    )
    run = tmp_path / os.fsdecode(b"r\xfcn")
    words = train_arguments(config, run)
    assert main(words) == 0
    for name in ("report.html", "scores.json"):
        (run / name).unlink()
    assert main([*words, "--resume"]) == 0

    data, weights = ["--dataset", "folder", "--root", str(root)], str(run / "best.safetensors")
    assert main(["eval", weights, *data, "--workers", "0", "--device", "cpu", "--output", str(tmp_path / "o")]) == 0
    for folder in (run, tmp_path / "o"):
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        assert sorted(scores["images"]["names"]) == WRITTEN
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert all(name in page for name in WRITTEN)
        shown = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["images"]
        assert sorted(image["name"] for image in shown) == WRITTEN
    capsys.readouterr()
    assert main(["compare", str(run / "scores.json"), str(tmp_path / "o/scores.json")]) == 0
    assert "no test of statistical significance: it takes 6 images" in capsys.readouterr().out
    assert main(["data", "stats", "--dataset", "folder", str(root)]) == 0
    assert r"s\xe9q 1" in capsys.readouterr().out

    (root / "images/val" / os.fsdecode(b"br\xf6ken.png")).write_bytes(b"no picture")
    output = tmp_path / os.fsdecode(b"\xf6ut")
    assert main(["infer", weights, str(root / "images/val"), str(output), "--save", "ids", "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert r"d\xe9ta/images/val/br\xf6ken.png: broken or not an image" in printed.err
    assert printed.out.splitlines()[0] == f"4 written, 0 skipped (already exist), 1 failed  {tmp_path}/\\xf6ut"
    results = [os.fsencode(path.relative_to(output / "ids")) for path in (output / "ids").rglob("*.png")]
    assert sorted(results) == sorted(name + b".png" for name in NAMES)
