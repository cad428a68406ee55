import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dlaseg import LabelMap, UserError, create_model, save_model
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.inference.predictor import Predictor

MEAN, STD = (0.3, 0.5, 0.45), (0.2, 0.3, 0.25)


def make_model(name="dla46_c", stride=2, **arguments):
    """A network that sees all classes, with batch norm that does something and a mean and std that are its own."""
    torch.manual_seed(0)
    model = create_model(name, 5, stride, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.metadata = replace(model.metadata, mean=MEAN, std=STD)
    with torch.no_grad():
        model.head.bias -= model.eval().coarse_logits(torch.randn(1, 3, 64, 64)).mean((0, 2, 3))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, device="cpu")


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain_logits(model, image):
    """(C, H, W), written out: numpy's normalisation, the model's own forward pass at full size."""
    x = (image.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        return model(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))[0].numpy()


def assert_winners(labels, logits):
    """The predicted class has the largest logit of its pixel, up to rounding."""
    assert labels.shape == logits.shape[1:]
    assert labels.dtype == np.uint8
    chosen = np.take_along_axis(logits, labels[None].astype(np.int64), 0)[0]
    np.testing.assert_allclose(chosen, logits.max(0), atol=1e-5 * np.abs(logits).max())


@given(st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=12, deadline=None)
def test_predicts_what_a_plain_loop_predicts_at_any_size(model, predictor, height, width):
    image = random_image(height, width)
    assert_winners(predictor(image), plain_logits(model, image))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 50), (130, 20)])
def test_predicts_what_a_plain_loop_predicts(model, predictor, size):
    image = random_image(*size)
    labels = predictor(image)
    assert_winners(labels, plain_logits(model, image))
    if min(size) > 1:
        assert len(np.unique(labels)) > 2


@pytest.mark.parametrize("stride", [4, 8])
def test_every_output_stride(stride):
    model = make_model(stride=stride)
    image = random_image(33, 70)
    assert_winners(Predictor(model, device="cpu")(image), plain_logits(model, image))


def test_a_weights_file_predicts_what_its_model_does(model, predictor, tmp_path):
    labelled = copy.deepcopy(model)
    labelled.label_map = LabelMap.from_dict({"classes": [{"name": n, "id": 3 * i} for i, n in enumerate("abcde")]})
    save_model(labelled, tmp_path / "weights.safetensors")
    loaded = Predictor(tmp_path / "weights.safetensors", device="cpu")
    image = random_image(40, 61)
    np.testing.assert_array_equal(loaded(image), predictor(image))
    assert loaded.metadata.label_map == labelled.label_map
    assert loaded.metadata.architecture == model.metadata.architecture


def test_takes_arrays_that_torch_does_not(predictor):
    image = random_image(20, 30)
    expected = predictor(image)
    np.testing.assert_array_equal(predictor(np.ascontiguousarray(image[:, ::-1])[:, ::-1]), expected)
    image.flags.writeable = False
    before = image.copy()
    np.testing.assert_array_equal(predictor(image), expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_rgb_image(predictor, image):
    with pytest.raises(UserError, match=r"takes \(H, W, 3\) uint8"):
        predictor(image)


def test_refuses_a_network_of_other_channels():
    with pytest.raises(UserError, match="1 input channels"):
        Predictor(create_model("dla46_c", 2, in_channels=1), device="cpu")


def test_refuses_an_unknown_backend_and_says_which_there_are(model):
    with pytest.raises(UserError, match=r"backend 'tensorflow'.*torch"):
        Predictor(model, backend="tensorflow")


def test_refuses_missing_weights(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Predictor(tmp_path / "none.safetensors")


def test_the_callers_model_stays_as_it_was():
    model = make_model().train()
    model.backbone.base_layer[1].eval()  # a frozen batch norm in a model that learns
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    predictor = Predictor(model, device="cpu")
    predictor(random_image(33, 50))
    assert [module.training for module in model.modules()] == modes
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_a_model_that_learns_on_does_not_change_the_predictor():
    model = make_model()
    predictor = Predictor(model, device="cpu")
    image = random_image(33, 50)
    before = predictor(image)
    with torch.no_grad():
        model.head.bias[3] += 1e6  # wins everywhere now
    np.testing.assert_array_equal(predictor(image), before)
    assert (Predictor(model, device="cpu")(image) == 3).all()


@pytest.mark.parametrize("name", ["dla34", "dla46_c", "dla46x_c"])
def test_backend_gives_the_models_logits(name):
    model = make_model(name)
    images = torch.randn(2, 3, 33, 50)
    with torch.no_grad():
        expected = model.coarse_logits(images)
    logits = TorchBackend(model, "cpu")(images)
    assert logits.shape == (2, 5, 32, 32)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert logits.is_inference()


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:9", "meta", ""])
def test_refuses_a_device_that_is_not_there(model, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device '{device}'.*auto.*cpu"):
        Predictor(model, device=device)
