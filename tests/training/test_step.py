"""The training step: micro-batches, clipping, averaging, freezing, precision; and the end of a run."""

import contextlib
import copy
import dataclasses
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from dlaseg_testing import (
    CPU,
    SINGLE_PROCESS,
    TINY,
    assert_same_tensors,
    log_rows,
    make_batch,
    make_step,
    new_state,
    no_report,
    run,
    tiny_config,
    with_train,
    write_camvid,
)
from torch import nn

from dlaseg.config.segmentation import LossConfig, ModelConfig
from dlaseg.device import own_defaults, reduced_precision
from dlaseg.errors import UserError
from dlaseg.factory import load_model
from dlaseg.training import step as steps
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import TrainState, restore, snapshot
from dlaseg.training.step import image_seeds, step_function
from dlaseg.training.task import Validation
from dlaseg.training.trainer import fit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def config(root):
    return with_train(tiny_config(root), warmup_steps=0)


def double(config) -> TrainState:
    """The initial state in double precision, for exact comparisons."""
    state = new_state(config)
    state.model.double()
    return state


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}


def uneven_batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, targets = make_batch(size=4)
    targets[0, 2:] = 255
    targets[1] = 255
    targets[2, :, 9:] = 7
    return images, targets


def halves(batch):
    images, targets = batch
    return (images[:2], targets[:2]), (images[2:], targets[2:])


@pytest.mark.parametrize(
    "name",
    [
        "ohem",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("cross_entropy", "lovasz", "focal", "dice", "binary_cross_entropy", "rmi")
        ),
    ],
)
def test_micro_batches_make_the_update_of_the_whole_batch(config, name):
    """Batch norm is frozen here: its statistics are those of each micro-batch."""
    losses = [LossConfig(name), LossConfig("cross_entropy", 0.5)]
    config = with_train(
        config, losses=losses, freeze="norm", batch_size=4, lr=1e-5
    )  # randomly initialised with frozen norms, it would soon diverge
    whole, parts = double(config), double(config)
    take_whole, take_parts = make_step(config, whole), make_step(with_train(config, grad_accum_steps=2), parts)
    for _ in range(3):
        one, other = take_whole(uneven_batch()), take_parts(*halves(uneven_batch()))
        assert other.loss == pytest.approx(one.loss, rel=1e-10)
        assert other.gradient == pytest.approx(one.gradient, rel=1e-9)
    for key, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[key], tensor, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("no_scores")
def test_a_run_with_micro_batches_takes_as_many_updates(config, tmp_path):
    run(with_train(config, batch_size=4, grad_accum_steps=2, epochs=1), tmp_path / "run")
    (row,) = log_rows(tmp_path / "run")
    assert row["step"] == 1


def test_micro_batches_that_do_not_divide_the_batch_are_refused(config, tmp_path):
    with pytest.raises(
        UserError, match=r"train\.batch_size 4: not a multiple of 3 .*train\.grad_accum_steps 3\): use 6"
    ):
        run(with_train(config, batch_size=4, grad_accum_steps=3), tmp_path / "run")


def test_a_gradient_is_shortened_to_the_largest_norm_and_a_short_one_is_left(config):
    plain = with_train(config, momentum=0.0, weight_decay=0.0, lr=1.0, epochs=10**6)
    updates = {}
    for limit in (None, 0.01, 1e9):
        state = double(plain)
        before = weights(state)
        result = make_step(with_train(plain, clip_grad_norm=limit), state)(make_batch())
        moved = {key: tensor - before[key] for key, tensor in weights(state).items()}
        updates[limit] = math.sqrt(sum(float(move.square().sum()) for move in moved.values()))
        assert result.gradient == pytest.approx(updates[None], rel=1e-6)  # what it was
    assert updates[0.01] == pytest.approx(0.01, rel=1e-4)
    assert updates[1e9] == pytest.approx(updates[None])


# The moving average


def test_the_average_is_the_recurrence_and_forgets_its_first_weights_soon(config):
    state = new_state(with_train(config, ema_decay=0.95))
    step = make_step(with_train(config, ema_decay=0.95), state)
    expected: dict[str, torch.Tensor] = {}
    for updates in range(6):
        step(make_batch(seed=updates))
        decay = min(0.95, (1 + updates) / (10 + updates)) if updates else 0
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected.get(name, 0) + (1 - decay) * tensor
            else:  # a number of batches
                expected[name] = tensor.clone()
    averages = state.average.module.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averages[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_the_average_is_what_is_validated_and_saved(config, tmp_path, monkeypatch):
    seen = []

    def validator(task, validation, processes):
        def scored(model):
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return Validation({"miou": 0.5})

        return scored

    monkeypatch.setattr(Segmentation, "validator", validator)
    monkeypatch.setattr(Segmentation, "on_fit_end", lambda *arguments: None)
    state = run(with_train(config, ema_decay=0.9, epochs=1), tmp_path)
    assert_same_tensors(state.average.module.state_dict(), seen[0])
    assert any(not torch.equal(tensor, seen[0][name]) for name, tensor in state.model.state_dict().items())
    assert_same_tensors(load_model(tmp_path / "best.safetensors").state_dict(), seen[0])


# Frozen parameters, and learning rates of the backbone


def backbone_and_rest(names):
    return [[name for name in names if name.startswith("backbone.") == inside] for inside in (True, False)]


@pytest.mark.parametrize("freeze", ["nothing", "backbone", "norm", "backbone_and_norm"])
def test_frozen_parameters_stay_and_the_others_move_also_after_a_validation(config, freeze):
    config = with_train(config, freeze=freeze)
    state = new_state(config)
    norms = {name for name, module in state.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    step = make_step(config, state)
    task = Segmentation(config)
    step(make_batch())
    task.validator(task.open_splits()[1], SINGLE_PROCESS)(state.model)
    step(make_batch())
    for name, tensor in state.model.state_dict().items():
        frozen = ("backbone" in freeze and name.startswith("backbone.")) or (
            "norm" in freeze and name.rpartition(".")[0] in norms
        )
        assert torch.equal(tensor, before[name]) == frozen, name


def test_the_backbone_learns_at_its_own_rate(config):
    moved = {}
    for factor in (1.0, 0.1, 0.0):
        changed = with_train(config, backbone_lr_factor=factor, momentum=0.0, weight_decay=0.0)
        state = double(changed)
        before = weights(state)
        make_step(changed, state)(make_batch())
        after = weights(state)
        moved[factor] = {name: after[name] - before[name] for name in before}
    backbone, rest = backbone_and_rest(before)
    for name in backbone:
        torch.testing.assert_close(moved[0.1][name], 0.1 * moved[1.0][name], rtol=1e-6, atol=1e-12)
        assert not moved[0.0][name].any()
    for name in rest:
        assert torch.equal(moved[0.1][name], moved[1.0][name])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_norm_and_bias_need_not_decay(config, optimizer):
    decayed = {}
    for everything in (True, False):
        changed = with_train(
            config, optimizer=optimizer, weight_decay=0.1, decay_norm_and_bias=everything, momentum=0.0
        )
        state = new_state(changed)
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.fill_(1.0)
                parameter.grad = torch.zeros_like(parameter)
        state.optimizer.step()
        decayed[everything] = {
            name for name, p in state.model.named_parameters() if not torch.equal(p, torch.ones_like(p))
        }
    every = {name for name, _ in state.model.named_parameters()}
    assert decayed[True] == every
    assert decayed[False] == {name for name, parameter in state.model.named_parameters() if parameter.ndim > 1}
    assert "head.bias" not in decayed[False]


# Precision, compilation, determinism


def test_bfloat16_is_what_the_network_computes_in_and_float32_what_it_keeps(config):
    state = new_state(with_train(config, precision="bfloat16"))
    seen = []
    state.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    result = make_step(with_train(config, precision="bfloat16"), state)(make_batch())
    assert seen == [torch.bfloat16]
    assert result.updated
    assert not state.scaler.is_enabled()
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}


def test_in_bfloat16_every_step_computes_with_the_present_weights_as_it_does_within_another_autocast(config):
    config = with_train(config, precision="bfloat16")
    losses = []
    for outer in (contextlib.nullcontext, own_defaults, lambda: torch.autocast("cpu", enabled=False)):
        state = new_state(config)
        step = make_step(config, state)
        with outer():
            losses.append([step(make_batch()).loss for _ in range(3)])
    assert losses[1:] == [losses[0]] * 2


def test_float16_is_refused_on_a_cpu(config, tmp_path):
    with pytest.raises(UserError, match=r"train\.precision float16: GPUs only"):
        run(with_train(config, precision="float16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def float16(monkeypatch):
    """Allows float16 on the CPU, which is slow but works."""
    monkeypatch.setattr("dlaseg.training.step.reduced_precision", lambda precision, device: torch.float16)


def test_float16_scales_the_loss_and_halves_the_scale_when_it_was_too_much(config, float16):
    config = with_train(config, precision="float16", clip_grad_norm=1e9)
    state = new_state(config)
    assert state.scaler.is_enabled()
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 64.0})
    step = make_step(config, state)
    assert step(make_batch()).updated
    before, scale = weights(state), state.scaler.get_scale()
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**40})
    result = step(make_batch())
    assert (result.updated, state.scaler.get_scale()) == (False, 2.0**39)
    assert_same_tensors(before, weights(state))
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
    assert step(make_batch()).updated


def test_the_scale_of_the_loss_does_not_show_in_the_update(config, float16):
    config = with_train(config, precision="float16")
    gradients = []
    for scale in (2.0**4, 2.0**10):
        state = new_state(config)
        step = make_step(config, state)
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
        gradients.append(step(make_batch()).gradient)
    assert gradients[0] == pytest.approx(gradients[1], rel=0.05)


def test_the_scale_is_part_of_the_state(config, float16):
    config = with_train(config, precision="float16")
    state = new_state(config)
    step = make_step(config, state)
    step(make_batch())
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 128.0})
    other = new_state(config)
    restore(other, copy.deepcopy(snapshot(state)))
    assert other.scaler.get_scale() == 128.0


def test_automatic_precision_is_the_hardwares(monkeypatch):
    for gains, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr("dlaseg.device.gains_from_bfloat16", lambda device, gains=gains: gains)
        assert reduced_precision("auto", CPU) == expected
    assert reduced_precision("float32", CPU) is None


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(config):
    plain, compiled = new_state(config), new_state(config)
    one, other = make_step(config, plain), make_step(with_train(config, compile=True), compiled)
    assert other(make_batch()).loss == pytest.approx(one(make_batch()).loss, rel=1e-4)
    before, after = weights(new_state(config)), weights(compiled)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith("head."))
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


def test_a_missing_compiler_is_named(monkeypatch):
    class FailedError(RuntimeError):  # torch's takes seconds to import
        inner_exception = RuntimeError("No working C++ compiler found\n\nSet ...")

    def compiled(inputs):
        raise FailedError

    monkeypatch.setitem(vars(torch), "_dynamo", SimpleNamespace(exc=SimpleNamespace(BackendCompilerFailed=FailedError)))
    monkeypatch.setattr(torch, "compile", lambda module: compiled)
    with pytest.raises(UserError, match=r"^train\.compile true: No working C\+\+ compiler found: install a C\+\+ comp"):
        steps._compiled(nn.ReLU())(torch.zeros(1))
    monkeypatch.setattr(steps, "is_out_of_memory", lambda error: True)  # which has a remedy of its own
    with pytest.raises(FailedError):
        steps._compiled(nn.ReLU())(torch.zeros(1))


@pytest.mark.usefixtures("no_scores")
def test_a_deterministic_run_is_one_and_leaves_torch_as_it_was(config, tmp_path, monkeypatch):
    seen = []
    criterion = Segmentation.criterion
    monkeypatch.setattr(
        Segmentation, "criterion", lambda *a: seen.append(torch.are_deterministic_algorithms_enabled()) or criterion(*a)
    )
    config = with_train(config, deterministic=True, epochs=2, eval_every=2)
    losses = [[row["loss"] for row in run(config, tmp_path / name).log] for name in "ab"]
    assert seen == [True, True]
    assert losses[0] == losses[1]
    assert not torch.are_deterministic_algorithms_enabled()


# The end of a run


def scored(values, monkeypatch):
    """Makes the validations return these values, one after the other."""
    left = iter(values)

    def validator(task, validation, processes):
        return lambda model: Validation({"miou": next(left)})

    monkeypatch.setattr(Segmentation, "validator", validator)
    monkeypatch.setattr(Segmentation, "on_fit_end", lambda *arguments: None)


def test_a_run_ends_when_validation_has_not_improved_for_long_enough(config, tmp_path, monkeypatch):
    scored([0.1, 0.3, 0.2, None, 0.3, 0.9], monkeypatch)
    messages = []
    state = fit(Segmentation(with_train(config, epochs=6, batch_size=4, patience=2)), tmp_path, report=messages.append)
    assert state.epoch == 5
    assert messages[-1] == "early stop: no better val mIoU in 2 validations"


def test_a_run_that_ended_early_has_ended_when_it_is_resumed(config, tmp_path, monkeypatch):
    scored([0.3, 0.2, 0.9], monkeypatch)
    config = with_train(config, epochs=3, batch_size=4, patience=1)
    assert run(config, tmp_path).epoch == 2
    assert run(config, tmp_path, resume=True).epoch == 2


def test_without_patience_all_epochs_are_done(config, tmp_path, monkeypatch):
    scored([0.3, 0.2, 0.1], monkeypatch)
    assert run(with_train(config, epochs=3, batch_size=4), tmp_path).epoch == 3


# Other classes


@pytest.mark.usefixtures("no_scores")
def test_a_network_of_other_classes_can_be_gone_on_from(config, tmp_path, caplog):
    """Fine-tuning: everything but the head is the file's."""
    from dlaseg.factory import create_model
    from dlaseg.weights.files import save_model

    torch.manual_seed(5)
    other = create_model(TINY, 3, 4)
    save_model(other, tmp_path / "other.safetensors")
    config = dataclasses.replace(
        with_train(config, epochs=1, lr=0.0, weight_decay=0.0, momentum=0.0),
        model=ModelConfig(TINY, 4, weights=str(tmp_path / "other.safetensors")),
    )
    with caplog.at_level("INFO"):
        state = fit(Segmentation(config), tmp_path / "run", report=no_report)
    theirs = dict(other.named_parameters())
    for name, parameter in state.model.named_parameters():
        if name.startswith("head."):
            assert parameter.shape[0] == 11
        else:
            assert torch.equal(parameter, theirs[name]), name
    assert "head" in caplog.text


class Doubled(type(SINGLE_PROCESS)):
    """A process of two that have the same images."""

    def all_reduce_sum_(self, values):
        return values.mul_(2)


class Alone(nn.Module):
    """In place of DistributedDataParallel, without a process group."""

    made: ClassVar[list["Alone"]] = []

    def __init__(self, module, **options):
        super().__init__()
        self.module, self.options, self.synchronizes = module, options, True
        self.synchronized = []
        self.made.append(self)

    @contextlib.contextmanager
    def no_sync(self):
        self.synchronizes = False
        yield
        self.synchronizes = True

    def forward(self, inputs):
        self.synchronized.append(self.synchronizes)
        return self.module(inputs)


@pytest.fixture
def alone(monkeypatch) -> list[Alone]:
    """The modules that are wrapped for several processes."""
    monkeypatch.setattr(steps, "DistributedDataParallel", Alone)
    monkeypatch.setattr(Alone, "made", [])
    return Alone.made


def test_a_step_divides_by_the_normalizers_of_all_processes(config):
    seen = []
    task = Segmentation(config)
    state = new_state(config)
    criterion = task.criterion(None, state.model)
    images, targets = make_batch()
    local = criterion.normalizers(targets)

    class Spy:
        normalizers = staticmethod(criterion.normalizers)

        def __call__(self, outputs, targets, normalizers):
            seen.append(normalizers.clone())
            return criterion(outputs, targets, normalizers)

    step_function(task, state, Spy(), 10, Doubled(0, 1, CPU))([(images, targets)])
    assert torch.equal(seen[0], 2 * local)


def test_the_loss_and_the_gradient_of_several_processes_are_those_of_their_images(config, alone):
    batch, task = make_batch(), Segmentation(config)
    expected = make_step(config, double(config))(batch)
    state = double(config)
    step = step_function(task, state, task.criterion(None, state.model), 10, Doubled(0, 2, CPU))
    found = step([batch])
    assert found.loss == pytest.approx(expected.loss)
    assert found.gradient == pytest.approx(expected.gradient)
    assert list(alone[0].options.values()) == [False]  # the processes have the same buffers


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_are_exchanged_once_in_a_step(config, alone, micro_batches):
    task, state = Segmentation(config), new_state(config)
    step = step_function(task, state, task.criterion(None, state.model), 10, Doubled(0, 2, CPU))
    step([make_batch() for _ in range(micro_batches)])
    assert alone[0].synchronized == [False] * (micro_batches - 1) + [True]


def test_an_infinite_loss_makes_no_update_also_if_its_gradient_is_finite(config):
    task, state = Segmentation(config), new_state(config)
    criterion = task.criterion(None, state.model)

    class Infinite:
        normalizers = staticmethod(criterion.normalizers)

        def __call__(self, *arguments):
            return criterion(*arguments) + math.inf

    before = weights(state)
    result = step_function(task, state, Infinite(), 10, SINGLE_PROCESS)([make_batch()])
    assert math.isfinite(result.gradient)
    assert not result.updated
    assert_same_tensors(before, weights(state))


def test_the_average_of_a_resumed_run_is_saved_with_the_mean_of_its_weights(config):
    config = with_train(config, ema_decay=0.9)
    state, other = new_state(config), new_state(config)
    state.model.metadata = replace(state.model.metadata, mean=(0.1, 0.2, 0.3))
    restore(other, snapshot(state))
    assert other.eval_model.metadata.mean == (0.1, 0.2, 0.3)


def test_every_step_drops_other_channels_of_every_image(config, monkeypatch):
    calls = []
    monkeypatch.setattr(steps, "image_dropouts", lambda model: [SimpleNamespace(draw=calls.append)])
    config = with_train(config, seed=3)
    state = new_state(config)
    task = Segmentation(config)
    criterion = task.criterion(None, state.model)
    step = step_function(task, state, criterion, 10, SINGLE_PROCESS)
    for _ in range(2):
        step([make_batch(), make_batch()])
        assert calls[-1] == []  # the network that `fit` returns draws anew for every batch
    drawn = [seed for seeds in calls for seed in seeds]
    assert drawn == image_seeds(3, 0, 0, 4) + image_seeds(3, 1, 0, 4)
    assert len({*drawn, *image_seeds(4, 0, 0, 4)}) == 12


@pytest.mark.usefixtures("alone")
def test_images_of_all_processes_and_micro_batches_have_seeds_of_their_own(config, monkeypatch):
    drawn = []
    monkeypatch.setattr(steps, "image_dropouts", lambda model: [SimpleNamespace(draw=drawn.append)])
    task, state = Segmentation(config), new_state(config)
    step = step_function(task, state, task.criterion(None, state.model), 10, Doubled(1, 2, CPU))
    step([make_batch(), make_batch()])
    assert drawn[:-1] == [image_seeds(config.train.seed, 0, first, 2) for first in (2, 6)]
