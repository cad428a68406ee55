import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY, foreign_defaults
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from dlaseg import LabelMap, UserError, create_backbone, create_model, device, save_model, save_pretrained
from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.inference.backends.torch import TorchBackend, fold_batch_norm
from dlaseg.inference.inputs import as_rgb
from dlaseg.inference.predictor import Predictor
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import SegmentationModel

MEAN, STD = (0.3, 0.5, 0.45), (0.2, 0.3, 0.25)


def make_model(name=TINY, stride=2, **arguments):
    """A network that predicts every class, with batch norm that changes its input, and its own mean and std."""
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
        model.head.weight /= 8  # so that most probabilities are neither 0 nor 1
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
@settings(max_examples=12)
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
    label_map = LabelMap.from_dict({"classes": [{"name": n, "id": 3 * i} for i, n in enumerate("abcde")]})
    labelled.metadata = replace(labelled.metadata, label_map=label_map)
    save_model(labelled, tmp_path / "weights.safetensors")
    loaded = Predictor(tmp_path / "weights.safetensors", device="cpu")
    image = random_image(40, 61)
    np.testing.assert_array_equal(loaded(image), predictor(image))
    assert loaded.label_map == label_map
    assert loaded.metadata == labelled.metadata


def test_reversed_and_read_only_arrays_are_accepted(predictor):
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
def test_an_array_that_is_not_an_rgb_image_is_refused(predictor, image):
    with pytest.raises(UserError, match=r"takes \(H, W, 3\) uint8"):
        predictor(image)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 4, 5),
        torch.zeros(1, 3, 4, 5, dtype=torch.int64),
        torch.zeros(3, 4, 5, dtype=torch.uint8),
        torch.zeros(1, 4, 5, 3, dtype=torch.uint8),
        torch.zeros(0, 3, 4, 5, dtype=torch.uint8),
    ],
)
def test_a_batch_that_is_not_of_rgb_images_is_refused(predictor, images):
    for predict in (predictor.predict, predictor.predict_with_confidence, predictor.predict_with_probabilities):
        with pytest.raises(UserError, match=r"use \(N, 3, H, W\) uint8, RGB, 0 to 255$"):
            predict(images)


def test_an_array_in_place_of_a_batch_is_refused(predictor):
    with pytest.raises(
        UserError, match=r"^images of type ndarray: predict takes a tensor \(N, 3, H, W\) uint8; call the"
    ):
        predictor.predict(np.zeros((1, 3, 4, 5), np.uint8))


def test_refuses_a_network_of_other_channels():
    with pytest.raises(UserError, match="1 input channels"):
        Predictor(create_model(TINY, 2, in_channels=1), device="cpu")


def test_an_unknown_backend_is_refused_and_the_known_ones_are_listed(model):
    with pytest.raises(UserError, match=r"backend 'tensorflow'.*torch"):
        Predictor(model, backend="tensorflow")


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, "DataParallel: wraps the network, which is needed itself: give model.module"),
        (nn.Module.state_dict, "OrderedDict: not a network of dlaseg: give one that create_model"),
        (lambda model: None, "NoneType: not a network of dlaseg"),
        (lambda model: create_backbone(TINY, 5), "a classifier's or backbone's weights: segmentation takes a"),
    ],
)
def test_what_is_no_network_is_refused(model, wrap, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Predictor(wrap(model))


@pytest.mark.parametrize("backend", ["torch", "auto", "openvino"])
def test_a_label_map_of_another_number_of_classes_is_refused(network, backend):
    model = copy.copy(network)
    model.metadata = replace(model.metadata, label_map=LabelMap.numbered(4))
    with pytest.raises(UserError, match=r"^a label map of 4 classes for a network of 6: the numbers must match$"):
        Predictor(model, backend, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_float_type_are_computed_in_float32(network, dtype):
    model = copy.deepcopy(network).to(dtype)
    image = random_image(33, 50)
    np.testing.assert_array_equal(
        Predictor(model, device="cpu").probabilities(image), Predictor(model.float(), device="cpu").probabilities(image)
    )


def test_refuses_missing_weights(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Predictor(tmp_path / "none.safetensors")


def test_the_model_of_the_caller_is_not_changed():
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


def test_training_the_model_further_does_not_change_the_predictor():
    model = make_model()
    predictor = Predictor(model, device="cpu")
    image = random_image(33, 50)
    before = predictor(image)
    with torch.no_grad():
        model.head.bias[3] += 1e6  # wins everywhere now
    np.testing.assert_array_equal(predictor(image), before)
    assert (Predictor(model, device="cpu")(image) == 3).all()


@pytest.mark.parametrize(
    "name", [TINY, "dla46x_c", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dla34", "dla46_c"))]
)
def test_a_backend_gives_the_models_logits_of_pixels_and_of_normalised_images(name):
    model = make_model(name)
    pixels = torch.randint(0, 256, (2, 3, 33, 50), dtype=torch.uint8)
    images = normalize(pixels, MEAN, STD)
    with torch.no_grad():
        expected = model.coarse_logits(images)
    backend = TorchBackend(model, "cpu")
    assert (backend.name, backend.precision, backend.stride) == ("torch", "float32", 2)
    assert backend.metadata == model.metadata
    untouched = images.clone()
    for batch in (pixels, images):
        logits = backend.run(batch)
        assert logits.shape == (2, 5, 32, 32)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
        assert logits.is_inference()
    assert torch.equal(images, untouched)


# Inputs


def test_paths_pil_images_and_arrays_are_the_same_image(predictor, tmp_path):
    image = random_image(33, 50)
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = predictor(image)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), Image.fromarray(image)):
        np.testing.assert_array_equal(predictor(same), expected)


def test_a_pil_image_is_turned_as_its_exif_says_and_loses_its_alpha(predictor):
    image = random_image(20, 30)
    turned = Image.fromarray(np.rot90(image).copy())
    turned.getexif()[0x0112] = 6  # 90 degrees clockwise to be shown upright
    np.testing.assert_array_equal(as_rgb(turned), image)
    of_xmp = Image.fromarray(image)
    of_xmp.info["xmp"] = b'<rdf:Description tiff:Orientation="6"/>'  # ignored, as in files
    np.testing.assert_array_equal(as_rgb(of_xmp), image)
    assert "xmp" in of_xmp.info
    transparent = Image.fromarray(np.dstack([image, image[..., 0]]))
    np.testing.assert_array_equal(as_rgb(transparent), image)
    grey = Image.fromarray(image[..., 0])
    np.testing.assert_array_equal(as_rgb(grey), np.repeat(image[..., :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_pil_image_of_more_than_8_bits_is_refused(predictor, mode):
    with pytest.raises(UserError, match=f"PIL image of mode {mode}: use 8 bits"):
        predictor(Image.new(mode, (8, 8)))


def test_a_cmyk_image_is_converted(predictor):
    image = random_image(20, 30)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(image).convert("CMYK")), image)


def test_a_broken_pil_image_is_refused_in_one_line(predictor, tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(random_image(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as broken, pytest.raises(UserError, match=r"^PIL image: [^\n]*truncated[^\n]*$"):
        predictor(broken)
    with pytest.raises(UserError, match=r"image of shape \(0, 5, 3\)"):
        predictor(Image.new("RGB", (5, 0)))


def test_other_inputs_are_refused_by_their_type(predictor, tmp_path):
    with pytest.raises(UserError, match="image of type int: use a path, a PIL image or an array"):
        predictor(7)
    with pytest.raises(UserError, match=r"missing\.png"):
        predictor(tmp_path / "missing.png")


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 2, 5])
def test_a_list_gives_what_its_images_give_in_its_order(model, predictor, tmp_path, batch_size):
    images = [random_image(*size, seed) for seed, size in enumerate([(33, 50), (40, 20), (33, 50), (33, 50), (40, 20)])]
    Image.fromarray(images[1]).save(tmp_path / "b.png")
    batched = Predictor(model, device="cpu", batch_size=batch_size)
    shapes = []
    run = batched.backend.run
    batched.backend.run = lambda batch: shapes.append(len(batch)) or run(batch)
    results = batched([images[0], tmp_path / "b.png", Image.fromarray(images[2]), *images[3:]])
    assert sum(shapes) == 5
    assert max(shapes) == min(batch_size, 3)
    for image, labels in zip(images, results, strict=True):
        assert_winners(labels, plain_logits(model, image))
    assert predictor([]) == []


# Probabilities, scales, precision


def test_probabilities_are_the_softmax_of_the_logits(model, predictor):
    image = random_image(33, 50)
    probabilities = predictor.probabilities(image)
    assert probabilities.shape == (5, 33, 50)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    expected = torch.tensor(plain_logits(model, image)).softmax(0).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert_winners(predictor(image), probabilities)
    many = predictor.probabilities([image, random_image(20, 20)])
    assert [each.shape for each in many] == [(5, 33, 50), (5, 20, 20)]
    np.testing.assert_array_equal(many[0], probabilities)


def test_the_class_of_averaged_probabilities_is_predicted(model):
    image = random_image(33, 50)
    averaging = Predictor(model, device="cpu", scales=(0.5, 1.0), flip=True)
    assert_winners(averaging(image), averaging.probabilities(image))


@pytest.mark.parametrize(("name", "flip", "told"), [("l_eye", 1, True), ("l_eye", 0, False), ("eye", 1, False)])
def test_averages_over_mirrored_images_of_classes_with_a_side_are_told(model, name, flip, told, caplog):
    labels = replace(model.metadata.labels, names=(name, "nose", "r_eye", "skin", "hair"))
    sided = copy.copy(model)
    sided.metadata = replace(model.metadata, label_map=labels)
    Predictor(sided, device="cpu", flip=bool(flip))
    assert ("the mirrored image, in which 'l_eye' looks like 'r_eye'" in caplog.text) is told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1.0, 11.0)}, r"scale 11\.0: use 0\.1 to 10"),
        ({"scales": ()}, "use a list of one at least"),
        ({"batch_size": 0}, "batch_size 0: use an integer from 1"),
        ({"batch_size": 2.5}, r"batch_size 2\.5: use an integer from 1"),
        ({"precision": "half"}, "precision 'half': use one of auto, float32"),
        ({"precision": "float16"}, "precision float16: GPUs only"),
    ],
)
def test_options_out_of_range_are_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        Predictor(model, device="cpu", **options)


def test_bfloat16_is_close_to_float32_and_auto_depends_on_the_device(model, predictor, monkeypatch):
    image = random_image(64, 96)
    lower = Predictor(model, device="cpu", precision="bfloat16")
    assert lower.backend.precision == "bfloat16"
    difference = np.abs(lower.probabilities(image) - predictor.probabilities(image))
    assert difference.max() > 0
    assert difference.mean() < 0.02
    for gains, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(device, "gains_from_bfloat16", lambda place, gains=gains: gains)
        assert Predictor(model, device="cpu", precision="auto").backend.precision == precision


def test_several_threads_can_share_a_predictor(predictor):
    images = [random_image(33, 50, seed) for seed in range(8)]
    expected = [predictor(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for labels, alone in zip(pool.map(predictor, images), expected, strict=True):
            np.testing.assert_array_equal(labels, alone)


# Weights


def test_a_folder_and_a_hub_name_give_what_their_model_gives(model, predictor, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "folder")
    image = random_image(33, 50)
    np.testing.assert_array_equal(Predictor(tmp_path / "folder", device="cpu")(image), predictor(image))
    downloads = []

    def download(name, file, revision=None, **options):
        downloads.append((name, revision))
        return str(tmp_path / "folder" / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    np.testing.assert_array_equal(Predictor("someone/streets@v1", device="cpu")(image), predictor(image))
    assert downloads == [("someone/streets", "v1")]


# Folding of batch norm


def batch_norms(network):
    return sum(isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) for module in network.modules())


@pytest.mark.parametrize("converted", [False, True])
def test_no_batch_norm_is_left_in_our_networks(model, converted):
    network = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)) if converted else model
    assert batch_norms(network) > 0
    folded = fold_batch_norm(network)
    assert batch_norms(folded) == 0
    x = torch.randn(1, 3, 33, 50)
    with torch.no_grad():
        logits, expected = folded.coarse_logits(x), model.coarse_logits(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_a_network_that_was_loaded_for_it_is_not_copied(model, predictor, tmp_path, monkeypatch):
    save_model(model, tmp_path / "m.safetensors")
    monkeypatch.setattr("dlaseg.inference.backends.torch.copy", None)
    image = random_image(33, 50)
    np.testing.assert_array_equal(Predictor(tmp_path / "m.safetensors", device="cpu")(image), predictor(image))


def test_the_defaults_of_the_caller_do_not_matter(model, predictor):
    image = np.random.default_rng(0).integers(0, 256, (33, 50, 3), np.uint8)
    expected = predictor(image)
    with foreign_defaults():
        labels = Predictor(model, device="cpu")(image)
    np.testing.assert_array_equal(labels, expected)


def test_folding_draws_no_random_numbers(model):
    state = torch.get_rng_state()
    TorchBackend(model, "cpu")
    assert torch.equal(torch.get_rng_state(), state)


class TinyNetwork(SegmentationModel):
    """A family that dlaseg does not know: stride 3, one convolution between two batch norms.

    Args:
        order: of the modules' registration; they run as `before`, `conv`, `after`, whatever it is.
        track: whether `after` has running statistics.
    """

    def __init__(self, order=("before", "conv", "after"), track=True):
        super().__init__()
        torch.manual_seed(0)
        self.metadata = ModelMetadata.for_segmentation(3, 3)
        self.stride, self.num_classes = 3, 3
        modules = {
            "before": nn.BatchNorm2d(3),
            "conv": nn.Conv2d(3, 3, 5, 3, padding=2, bias=False),
            "after": nn.BatchNorm2d(3, track_running_stats=track),
        }
        for name in order:
            self.add_module(name, modules[name])
        for norm in (self.before, self.after):
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.weight, 0.5, 2)
            if norm.track_running_stats:
                nn.init.normal_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 2)

    def coarse_logits(self, x):
        return self.after(self.conv(self.before(x)))


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (TinyNetwork(), 1),
        (TinyNetwork(("conv", "before", "after")), 2),
        (TinyNetwork(("conv", "after", "before")), 1),
        (TinyNetwork(track=False), 2),
    ],
)
def test_batch_norm_is_folded_only_where_it_follows_the_convolution(network, left):
    network.eval()
    folded = fold_batch_norm(network)
    assert batch_norms(folded) == left
    x = torch.randn(1, 3, 31, 43)
    with torch.no_grad():
        torch.testing.assert_close(folded.coarse_logits(x), network.coarse_logits(x))


@pytest.mark.parametrize("order", [("before", "conv", "after"), ("conv", "before", "after")])
def test_any_network_that_keeps_the_contract_predicts(order):
    network = TinyNetwork(order)
    predictor = Predictor(network, device="cpu")
    for size in ((30, 41), (64, 32)):
        image = random_image(*size)
        with torch.no_grad():
            logits = network.eval()(normalize(to_tensor(image)[None], network.metadata.mean, network.metadata.std))[0]
        assert_winners(predictor(image), logits.numpy())
        np.testing.assert_allclose(predictor.probabilities(image), logits.softmax(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:9", "meta", ""])
def test_a_device_that_this_machine_lacks_is_refused(model, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device '{device}'.*auto.*cpu"):
        Predictor(model, device=device)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_diverged_still_predicts(model, value):
    diverged = copy.deepcopy(model)
    with torch.no_grad():
        diverged.head.weight.fill_(value)
    labels = Predictor(diverged, device="cpu")(np.zeros((20, 30, 3), np.uint8))
    assert labels.shape == (20, 30)
