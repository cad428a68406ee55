"""Several processes train and score as one does, and rank 0 writes."""

import copy
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import (
    CPU,
    SINGLE_PROCESS,
    TwoHeadsTask,
    log_rows,
    new_state,
    run,
    start_process,
    tiny_config,
    train_arguments,
    with_train,
    write_camvid,
)
from PIL import Image
from torch import distributed

from dlaseg.config.segmentation import LossConfig
from dlaseg.data.loading import batches
from dlaseg.errors import UserError
from dlaseg.models.dropout import ImageDropout
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.cpu.batch_norm import synchronize
from dlaseg.training.distributed import DistributedContext, distributed_context, restarted_by_torchrun
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import initial_state
from dlaseg.training.step import step_function

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds, of a loaded machine


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=12, val=5)


@pytest.fixture
def config(root):
    return with_train(tiny_config(root), batch_size=4, lr=0.005)


def joined(function, rank, world_size, folder, arguments):
    """A process of a group: saves the result of the function, or its traceback."""
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
        result = function(DistributedContext(rank, world_size, CPU), *arguments)
        torch.save(result, folder / f"{rank}.pt")
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
        raise


def together(function, world_size, folder, *arguments) -> list:
    """The results of a function in each of `world_size` processes."""
    folder.mkdir()
    children = [start_process(joined, function, rank, world_size, folder, arguments) for rank in range(world_size)]
    for child in children:
        child.join(PATIENCE)
    problems = "".join(path.read_text() for path in folder.glob("*.txt"))
    for child in children:
        child.kill()
    assert not problems, problems
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def curve(dist: DistributedContext, config, kind=Segmentation) -> tuple[list[float], dict]:
    """Losses and weights of an epoch in double precision, on this process's share of the batches."""
    task = kind(config)
    training, _ = task.open_splits()
    torch.manual_seed(0)
    model = task.make_model(training).double()
    if dist.world_size > 1:
        model = synchronize(model, CPU)
    state = initial_state(model, config.train, CPU)
    loader, sampler = task.train_loader(training, model, dist)
    step = step_function(task, state, task.criterion(training, state.model), sampler.batches, dist)
    losses = []
    drawn = batches(loader)
    while micro_batches := list(islice(drawn, config.train.grad_accum_steps)):
        losses.append(step(micro_batches).loss)
    return losses, model.state_dict()


def assert_same_curve(one, other):
    """To rounding, which batch norm over so few values makes some hundred times larger a step."""
    np.testing.assert_allclose(one[0], other[0], rtol=1e-7)
    np.testing.assert_allclose(one[0][:2], other[0][:2], rtol=1e-10)
    for name, tensor in one[1].items():
        torch.testing.assert_close(other[1][name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def gathered(dist: DistributedContext) -> list:
    return dist.all_gather({dist.rank: "message"})


def test_every_process_gets_the_values_of_all(tmp_path):
    assert together(gathered, 2, tmp_path / "gathered") == [[{0: "message"}, {1: "message"}]] * 2
    assert SINGLE_PROCESS.all_gather("value") == ["value"]


@pytest.mark.parametrize(("world_size", "micro_batches"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_several_processes_give_the_losses_and_weights_of_one(config, tmp_path, world_size, micro_batches):
    config = with_train(config, grad_accum_steps=micro_batches)
    config.augment.crop_size = (64, 64)  # batch norm sees 8 values at least
    expected = curve(SINGLE_PROCESS, config)
    for result in together(curve, world_size, tmp_path / "group", config):
        assert_same_curve(expected, result)


def test_so_they_do_with_every_loss_class_uniform_uneven_targets_micro_batches_clipping_and_frozen_norm(
    config, root, tmp_path
):
    losses = [
        LossConfig(name, weight=0.5)
        for name in ("cross_entropy", "ohem", "focal", "dice", "lovasz", "binary_cross_entropy", "rmi")
    ]
    weights = [0.5, *[1.0] * 9, 2.0]
    config = with_train(
        config, losses=losses, class_weights=weights, grad_accum_steps=2, clip_grad_norm=0.5, freeze="norm"
    )
    uneven(root, tmp_path / "uneven")
    config.data.root, config.data.class_uniform = str(tmp_path / "uneven"), 1.0
    expected = curve(SINGLE_PROCESS, with_train(config, grad_accum_steps=1))
    for result in together(curve, 2, tmp_path / "group", config):
        assert_same_curve(expected, result)


class DropoutTask(TwoHeadsTask):
    """Trains `TwoHeads` with dropout before the main head."""

    def make_model(self, training):
        model = super().make_model(training)
        model.head = torch.nn.Sequential(ImageDropout(8, 0.5), model.head)
        return model


def test_two_processes_train_an_auxiliary_head_and_dropout_as_one_does(config, tmp_path):
    config.model.stride = 2
    config = with_train(config, auxiliary_losses=[LossConfig("focal"), LossConfig("dice", weight=0.5)])
    expected = curve(SINGLE_PROCESS, config, DropoutTask)
    config = with_train(config, grad_accum_steps=2)
    for result in together(curve, 2, tmp_path / "group", config, DropoutTask):
        assert_same_curve(expected, result)


@pytest.mark.slow
def test_two_processes_train_an_attentive_network_as_one_does(config, tmp_path):
    config.model = replace(config.model, decoder="afa", head="ocr", scales=[0.5, 1.0])
    config = with_train(config, epochs=1)  # one image in each process
    expected, _ = curve(SINGLE_PROCESS, config)
    for losses, _ in together(curve, 2, tmp_path / "group", config):
        # The second loss depends on all gradients. At half scale, batch norm sees so few values that rounding grows
        # ten thousandfold in a step; other channels dropped would change the first loss by a hundredth.
        np.testing.assert_allclose(losses[0], expected[0], rtol=1e-10)
        np.testing.assert_allclose(losses[1], expected[1], rtol=1e-6)


def uneven(root: Path, target: Path) -> None:
    """The same images, of which some have next to no label, so that processes' means differ from the whole's."""
    shutil.copytree(root, target)
    for number in (0, 3, 5):
        path = target / "trainannot" / f"{number}.png"
        labels = np.asarray(Image.open(path)).copy()
        labels[5:] = 11
        Image.fromarray(labels).save(path)


@pytest.fixture
def weights(config, tmp_path):
    """Weights in a file, which child processes can read; by this seed, some pixels are right from the start."""
    torch.save(new_state(with_train(config, seed=4)).model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def scores(dist: DistributedContext, config, weights) -> tuple[dict, dict, bool]:
    """What a validation over this process's images, joined with the others', finds."""
    task = Segmentation(config)
    training, validation = task.open_splits()
    model = task.make_model(training)
    model.load_state_dict(torch.load(weights))
    result = task.validator(validation, dist)(model)
    return result.metrics, result.details, result.picture is not None


def scores_and_matrix(dist: DistributedContext, config, weights) -> tuple[tuple, list]:
    """The scores of one split, and the confusion matrix of all processes of another that has fewer images."""
    found, seen = scores(dist, config, weights), []

    class Watched(DistributedContext):
        def all_reduce_sum_(self, values):
            seen.append(super().all_reduce_sum_(values).clone())
            return values

    config.data.val_split = "few"
    scores(Watched(dist.rank, dist.world_size, dist.device), config, weights)
    return found, [counts.tolist() for counts in seen]


@pytest.mark.parametrize("world_size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_find_the_scores_of_one_of_more_and_fewer_images(config, weights, tmp_path, world_size):
    few(Path(config.data.root))
    alone = scores_and_matrix(SINGLE_PROCESS, copy.deepcopy(config), weights)
    found, (counts,) = alone
    assert found[0]["miou"] > 0
    assert np.sum(counts) == 2 * 44 * 64  # each scored pixel once
    for result in together(scores_and_matrix, world_size, tmp_path / str(world_size), config, weights):
        assert result == alone


def few(root: Path) -> None:
    for kind in ("", "annot"):
        (root / f"few{kind}").mkdir(exist_ok=True)
        for number in (0, 1):
            shutil.copy(root / f"val{kind}" / f"{number}.png", root / f"few{kind}")


# As users start it: torchrun


@pytest.fixture
def public(config):
    """The config with a variant that every process knows."""
    return replace(config, model=replace(config.model, name="dla46_c"))


def torchrun(words, *options, environment=None, **how):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    words = [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "tools/train_seg.py"), *words[1:]]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def finished(process) -> str:
    with process:
        try:
            return process.communicate(timeout=PATIENCE)[0]
        finally:
            process.kill()


@pytest.mark.slow
def test_torchrun_trains_and_one_process_writes(public, tmp_path):
    # One step: in float32, batch norm of so few values spreads the curves from the second one on
    config = with_train(public, epochs=1, batch_size=12, warmup_steps=0)
    output = tmp_path / "run"
    process = torchrun(train_arguments(config, output), "--standalone", "--nproc-per-node", "2")
    log = finished(process)
    assert process.returncode == 0, log
    assert log.count("epoch 1/1") == log.count("best val mIoU") == 1
    assert len(list(output.glob("events.*"))) == 1
    run(config, tmp_path / "alone")
    (row,), (expected,) = log_rows(output), log_rows(tmp_path / "alone")
    assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert row["step"] == expected["step"] == 1


DIE_ONCE = """
import os, signal
from dlaseg.training import trainer
save = trainer.save

def dies(run):
    save(run)
    if run.state.step == 4 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and run.dist.rank == RANK:
        os.kill(os.getpid(), signal.SIGKILL)

trainer.save = dies
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_comes_back_from_the_last_checkpoint_by_itself(public, tmp_path, rank):
    config = with_train(public, checkpoint_minutes=0)
    output = tmp_path / "run"
    (tmp_path / "sitecustomize.py").write_text(DIE_ONCE.replace("== RANK", f"== {rank}"))
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    process = torchrun(train_arguments(config, output), *options, environment=environment)
    log = finished(process)
    assert process.returncode == 0, log
    assert "resuming after epoch 1 of 3 and 1 of 3 batches of the next" in log
    assert log.count("epoch 3/3") == log.count("best val mIoU") == 1
    assert [row["epoch"] for row in log_rows(output)] == [1, 2, 3]


@pytest.mark.slow
def test_a_restart_does_not_go_on_with_a_run_that_was_there_before(public, tmp_path):
    config, output = with_train(public, epochs=1), tmp_path / "run"
    run(config, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    process = torchrun(train_arguments(config, output), *options)
    log = finished(process)
    assert process.returncode != 0
    assert "already holds a run" in log
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.slow
def test_two_nodes_train_as_one(public, tmp_path):
    config, output = with_train(public, epochs=1), tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "7"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    nodes = [torchrun(train_arguments(config, output), *options) for _ in range(2)]
    log = [finished(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], log
    assert sum(text.count("epoch 1/1") for text in log) == 1


@pytest.mark.slow
def test_a_signal_to_torchrun_leaves_a_checkpoint_to_go_on_from(public, tmp_path):
    config, output = with_train(public, epochs=500, eval_every=500, checkpoint_minutes=1000), tmp_path / "run"
    process = torchrun(train_arguments(config, output), "--standalone", "--nproc-per-node", "2")
    deadline = time.monotonic() + PATIENCE
    while not (output / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    log = finished(process)
    assert "stopped by SIGTERM after step" in log
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", log)[1])
    assert load_checkpoint(output / "last.ckpt")["step"] == step


@pytest.mark.parametrize("processes", ["2", "two"])
def test_an_environment_that_torchrun_did_not_set_is_refused(monkeypatch, processes):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", processes)
    message = f"^WORLD_SIZE {processes}: .*: start the processes by torchrun, or unset WORLD_SIZE$"
    with pytest.raises(UserError, match=message), distributed_context("cpu"):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_what_rank_0_refuses_ends_the_others_without_a_word(rank):
    class Told(DistributedContext):
        def broadcast(self, value):
            return value if self.is_main else (None, "refused")

    def refuse():
        assert rank == 0
        raise UserError("refused")

    with pytest.raises((UserError, SystemExit)) as raised:
        Told(rank, 2, CPU).run_on_rank0(refuse)
    assert raised.value.args == (("refused",) if rank == 0 else (2,))


@pytest.mark.usefixtures("no_scores")
def test_only_a_restart_by_the_same_call_of_torchrun_goes_on_with_a_run(config, tmp_path, monkeypatch):
    def restarts(count, run_id, output=tmp_path / "run"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        return restarted_by_torchrun(output)

    for run_id, other in (("job-1", "job-2"), ("none", "job-1")):  # none: torchrun was given no --rdzv-id
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        restarts(0, run_id)
        run(with_train(config, epochs=1), tmp_path / "run")
        assert restarts(1, run_id)
        assert not restarts(0, run_id)
        assert not restarts(1, other)
        assert not restarts(1, run_id, tmp_path / "nothing")
    restarts(1, "none")
    monkeypatch.setattr(os, "getppid", lambda: -1)  # another torchrun
    assert not restarted_by_torchrun(tmp_path / "run")
