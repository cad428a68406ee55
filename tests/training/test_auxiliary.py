"""A family with an auxiliary head trains through the same trainer, step and loss as every other network."""

import dataclasses

import pytest
import torch
from dlaseg_testing import (
    CPU,
    SINGLE_PROCESS,
    TwoHeadsTask,
    log_rows,
    make_batch,
    no_report,
    tiny_config,
    with_train,
    write_camvid,
)
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from dlaseg import UserError, create_backbone
from dlaseg.benchmarking.dry_run import dry_run
from dlaseg.config.segmentation import LossConfig
from dlaseg.data.tensors import normalize
from dlaseg.models.base import AuxiliaryOutput, TrainingOutputs, upsample_logits
from dlaseg.models.segmenter import DLASeg
from dlaseg.training.classification import ImageCrossEntropy
from dlaseg.training.optimizers import freeze, make_optimizer
from dlaseg.training.pixel_loss import PixelLoss
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import initial_state
from dlaseg.training.step import step_function
from dlaseg.training.trainer import fit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def config(root):
    return with_train(tiny_config(root), warmup_steps=0, momentum=0.0, weight_decay=0.0)


def new_step(config, double=True):
    """State and step of the family."""
    task = TwoHeadsTask(config)
    training, _ = task.open_splits()
    torch.manual_seed(0)
    model = task.make_model(training)
    state = initial_state(model.double() if double else model, config.train, CPU)
    return state, step_function(task, state, task.criterion(training, state.model), 10, SINGLE_PROCESS)


def test_a_run_trains_both_heads_and_saves_them(config, tmp_path):
    config = with_train(config, epochs=1, grad_accum_steps=2, ema_decay=0.5)
    before, _ = new_step(config, double=False)
    state = fit(TwoHeadsTask(config), tmp_path / "run", report=no_report)
    for name, parameter in state.model.named_parameters():
        assert not torch.equal(parameter, before.model.get_parameter(name)), name
    (row,) = log_rows(tmp_path / "run")
    assert row["skipped"] == 0
    assert row["miou"] is not None
    assert load_file(tmp_path / "run/best.safetensors").keys() == state.model.state_dict().keys()


def test_loss_and_gradients_are_those_of_the_weighted_sum_written_by_hand(config):
    state, step = new_step(with_train(config, lr=1e-9))
    model, (images, targets) = state.model, make_batch()
    targets[:, :5] = 255
    inputs = normalize(images, model.metadata.mean, model.metadata.std).double()
    features = model.backbone(inputs).relu()
    main = upsample_logits(model.head(features), 2, 32, 64)
    auxiliary = upsample_logits(model.auxiliary_head(model.deeper(features).relu()), 4, 32, 64)
    expected = F.cross_entropy(main, targets.long(), ignore_index=255)
    expected = expected + 0.4 * F.cross_entropy(auxiliary, targets.long(), ignore_index=255)
    gradients = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(expected, model.parameters()), strict=True)
    )
    result = step([(images, targets)])
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)  # the inputs are normalised in float32
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-6, atol=1e-9, msg=name)
    assert model.auxiliary_head.weight.grad.any()


def test_auxiliary_losses_are_those_of_the_auxiliary_head_alone(config):
    """As attentive DLA trains: binary cross-entropy and RMI of the main output, the former alone of the others."""
    main = [LossConfig("binary_cross_entropy", 0.5), LossConfig("rmi", 0.5)]
    others = [LossConfig("binary_cross_entropy")]
    state, step = new_step(with_train(config, losses=main, auxiliary_losses=others))
    model, (images, targets) = state.model, make_batch()
    outputs = model.training_outputs(normalize(images, model.metadata.mean, model.metadata.std).double())
    expected = 0.0
    for terms, logits, stride, weight in ((main, outputs.logits, 2, 1), (others, outputs.auxiliary[0].logits, 4, 0.4)):
        loss = PixelLoss(terms, stride)
        expected += weight * loss(TrainingOutputs(logits), targets, loss.normalizers(targets)).item()
    assert step([(images, targets)]).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "has_auxiliary"),
    [({}, False), ({"decoder": "afa"}, True), ({"head": "ocr"}, True), ({"scales": [0.5, 1.0]}, True)],
)
def test_auxiliary_losses_are_refused_before_a_run_begins_if_the_network_has_no_auxiliary_outputs(
    config, options, has_auxiliary
):
    config = with_train(config, auxiliary_losses=[LossConfig("dice")])
    task = Segmentation(dataclasses.replace(config, model=dataclasses.replace(config.model, **options)))
    training, _ = task.open_splits()
    if not has_auxiliary:
        with pytest.raises(UserError, match=r"^train\.auxiliary_losses: this network has no auxiliary outputs"):
            task.make_model(training)
        config = with_train(config, auxiliary_losses=None)
        task = Segmentation(config)
    model = task.make_model(training)
    outputs = model.eval().training_outputs(torch.zeros(1, 3, 32, 32))
    assert bool(outputs.auxiliary) == has_auxiliary
    assert task.criterion(training, model).stride == (1 if "scales" in options else 4)  # blended scores are full-size


def test_micro_batches_give_the_update_of_the_whole_batch(config):
    config = with_train(config, losses=[LossConfig("cross_entropy"), LossConfig("ohem", 0.5)], batch_size=4)
    whole, whole_step = new_step(config)
    split, split_step = new_step(with_train(config, grad_accum_steps=2))
    images, targets = make_batch(size=4)
    targets[0, 3:] = 255
    one = whole_step([(images, targets)])
    other = split_step([(images[:1], targets[:1]), (images[1:], targets[1:])])
    assert other.loss == pytest.approx(one.loss, rel=1e-12)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], tensor, msg=name)


def test_an_auxiliary_output_of_weight_zero_changes_no_bit():
    loss = PixelLoss([LossConfig()], stride=2)
    logits, targets = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 16, 16))
    normalizers = loss.normalizers(targets)
    plain = loss(TrainingOutputs(logits), targets, normalizers)
    auxiliary = AuxiliaryOutput(torch.randn(2, 4, 4, 4), 4, 0.0)
    assert torch.equal(loss(TrainingOutputs(logits, (auxiliary,)), targets, normalizers), plain)


def test_a_classifiers_auxiliary_logits_are_summed_too():
    loss, targets = ImageCrossEntropy(), torch.tensor([0, 2, 1])
    main, auxiliary = torch.randn(3, 4), torch.randn(3, 4)
    outputs = TrainingOutputs(main, (AuxiliaryOutput(auxiliary, 32, 0.3),))
    expected = F.cross_entropy(main, targets) + 0.3 * F.cross_entropy(auxiliary, targets)
    torch.testing.assert_close(loss(outputs, targets, loss.normalizers(targets)), expected)


def test_autocast_covers_both_heads(config):
    state, step = new_step(with_train(config, precision="bfloat16"), double=False)
    dtypes = []
    for head in (state.model.head, state.model.auxiliary_head):
        head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    assert step([make_batch()]).updated
    assert dtypes == [torch.bfloat16, torch.bfloat16]


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_loss_and_trains_the_auxiliary_head(config):
    _, plain = new_step(config, double=False)
    state, compiled = new_step(with_train(config, compile=True), double=False)
    before = state.model.auxiliary_head.weight.detach().clone()
    assert compiled([make_batch()]).loss == pytest.approx(plain([make_batch()]).loss, rel=1e-5)
    assert not torch.equal(state.model.auxiliary_head.weight, before)


def test_a_frozen_backbone_stays_and_both_heads_train(config):
    state, step = new_step(with_train(config, freeze="backbone"))
    before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    step([make_batch()])
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone."), name


def test_a_dry_run_reports_the_main_logits(config, tmp_path):
    facts = dry_run(TwoHeadsTask(config), tmp_path / "run", report=no_report)
    assert facts["logits"].startswith("2 x 11 x 16 x 32")
    assert not (tmp_path / "run").exists()


class Gate(nn.Module):
    """A decoder's node without concatenation."""

    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Conv2d(channels, 1, 1)

    def forward(self, x, deeper):
        share = self.gate(x).sigmoid()
        return share * x + (1 - share) * deeper


class GateTask(Segmentation):
    """Trains a DLA whose decoder has nodes of its own."""

    def make_model(self, training):
        model = DLASeg(create_backbone("dla46_c"), training.label_map.num_classes, stride=4, node=Gate)
        architecture = {"name": "gated", "num_classes": model.num_classes, "in_channels": 3}
        model.metadata = dataclasses.replace(model.metadata, label_map=training.label_map, architecture=architecture)
        return model

    def on_fit_end(self, output, validation):
        pass


def test_a_decoder_with_nodes_of_its_own_trains(config, tmp_path):
    state = fit(GateTask(with_train(config, epochs=1)), str(tmp_path / "run"), report=no_report)
    gates = [tensor for name, tensor in state.model.state_dict().items() if name.endswith("gate.bias")]
    assert len(gates) == 6
    assert all(gate.abs().sum() > 0 for gate in gates)  # biases are 0 before training
    assert log_rows(tmp_path / "run")[0]["miou"] is not None


def test_a_network_that_cannot_be_saved_is_refused_before_it_is_trained(config, tmp_path):
    class Unnamed(GateTask):
        def make_model(self, training):
            model = super().make_model(training)
            model.metadata = dataclasses.replace(model.metadata, architecture={})
            return model

    with pytest.raises(UserError, match=r"best\.safetensors: this model was assembled by hand: "):
        fit(Unnamed(config), tmp_path / "run", report=no_report)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("choice", ["backbone", "backbone_and_norm"])
def test_a_backbone_that_the_network_does_not_name_cannot_be_frozen(config, choice):
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match=f"train.freeze {choice}: this network has no module `backbone`"):
        freeze(network, choice)
    train = with_train(config, backbone_lr_factor=0.1).train
    with pytest.raises(UserError, match=r"train\.backbone_lr_factor 0\.1: this network has no module `backbone`"):
        make_optimizer(network, train, torch.device("cpu"))
