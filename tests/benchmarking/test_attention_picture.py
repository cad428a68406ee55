"""benchmarks/attention_picture.py draws the weights of the levels and which decoder is right, as plain loops do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dlaseg_testing import load_benchmark
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dlaseg import create_model, save_model
from dlaseg.data.datasets import open_dataset
from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.synthetic.dataset import synthesize


@pytest.fixture(scope="module")
def script():
    return load_benchmark("attention_picture")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two drawn scenes, and weights `plain.safetensors` and `afa.safetensors`."""
    folder = tmp_path_factory.mktemp("scenes")
    synthesize(folder, {"val": 2}, 70, 96, progress=False)
    for decoder in ("plain", "afa"):
        torch.manual_seed(0)
        model = create_model("dla46_c", 19, stride=2, decoder=decoder)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.bias, -0.5, 0.5)
        model.metadata = replace(model.metadata, label_map=cityscapes_labels())
        save_model(model, folder / f"{decoder}.safetensors")
    return folder


@pytest.mark.slow
def test_it_draws_the_three_rows(script, root, tmp_path, capsys):
    output = tmp_path / "picture.jpg"
    script.main([str(root / "plain.safetensors"), str(root / "afa.safetensors"), "--root", str(root), "--image",
                 "mockhausen/mockhausen_000000_000019", "--output", str(output)])  # fmt: skip
    with Image.open(output) as picture:
        assert picture.format == "JPEG"
        assert picture.width == script.WIDTH
        panel = round(script.PANEL * 70 / 96)
        assert 3 * panel < picture.height < 4 * panel + 300
    assert str(output) in capsys.readouterr().out


def test_the_weights_are_those_of_the_formula(script, root):
    model = script.load_model(root / "afa.safetensors")
    x = torch.randn(1, 3, 70, 96)
    found = script.level_weights(model, x)
    with torch.inference_mode():
        levels = list(model.decoder.steps(model.features(x))[1:])
        for number, proj in enumerate(model.fusion.proj):
            levels[number] = F.interpolate(proj(levels[number]), size=levels[-1].shape[2:], mode="bilinear")
        spatial = [model.fusion.spatial(level)[0, 0] for level in levels]
        channel = [model.fusion.channel(level)[0, :, 0, 0] for level in levels]
        joined = torch.zeros_like(levels[-1][0])
        assert found.shape == (3, 48, 48)  # strides 8, 4, 2 of 96 x 96, what the network pads the image to
        for i in range(3):
            mean = torch.zeros_like(spatial[0])
            for c in range(joined.shape[0]):
                weight = spatial[i] * channel[i][c]
                for k in range(i + 1, 3):
                    weight = weight * (1 - spatial[k]) * (1 - channel[k][c])
                mean += weight / joined.shape[0]
                joined[c] += weight * levels[i][0, c]
            torch.testing.assert_close(found[i], mean)
        torch.testing.assert_close(joined, model.fusion(model.decoder.steps(model.features(x))[1:])[0])
    assert found.std() > 0


def test_weights_have_one_scale_of_colours(script):
    weights = torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1).expand(3, 4, 4)
    maps, largest = script.weight_maps(weights, 2, 7, 8)
    assert largest == pytest.approx(0.4)
    for level, value in zip(maps, (64, 128, 255), strict=True):
        assert level.shape == (7, 8, 3)
        assert (level == script.colormap(np.full((1, 1), value, np.uint8))).all()


def test_the_shares_are_those_of_a_plain_count(script):
    rng = np.random.default_rng(0)
    target, plain, attentive = rng.integers(0, 3, (3, 30, 40), np.uint8)
    target[:2] = 255
    plain[0], plain[1] = 255, 0
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    found = script.outcomes(target, plain, attentive)
    drawn = script.outcome_map(image, found)
    counts = [0, 0, 0, 0]
    for y in range(30):
        for x in range(40):
            if target[y, x] == 255:
                assert drawn[y, x].tolist() == [0, 0, 0]
                continue
            right = plain[y, x] == target[y, x], attentive[y, x] == target[y, x]
            outcome = {(True, True): 0, (False, True): 1, (True, False): 2, (False, False): 3}[right]
            counts[outcome] += 1
            light = [int(image[y, x].mean() * 0.25 + 185)] * 3
            assert drawn[y, x].tolist() == list(script.COLORS.get(outcome, light))
    assert script.shares(found) == pytest.approx([100 * count / (28 * 40) for count in counts])


@pytest.mark.parametrize(
    ("attentive", "image", "message"),
    [
        ("plain", "0", r"plain\.safetensors: no attentive decoder of one scale: use weights of model\.decoder afa"),
        ("afa", "2", "--image 2: use 0 to 1, or a name such as mockhausen/mockhausen_000000_000019"),
    ],
)
def test_what_it_cannot_draw_is_refused(script, root, tmp_path, attentive, image, message):
    with pytest.raises(SystemExit, match=message):
        script.main([str(root / "plain.safetensors"), str(root / f"{attentive}.safetensors"), "--root", str(root),
                     "--image", image, "--output", str(tmp_path / "a.jpg")])  # fmt: skip
    assert not (tmp_path / "a.jpg").exists()


def test_weights_of_other_classes_are_refused(script, root, tmp_path):
    save_model(create_model("dla46_c", 2, stride=8), tmp_path / "two.safetensors")
    dataset = open_dataset("cityscapes", root, "val")
    with pytest.raises(script.UserError, match=r"two\.safetensors: other classes than those of the data set"):
        script.picture_of(str(tmp_path / "two.safetensors"), str(root / "afa.safetensors"), dataset, 0)
