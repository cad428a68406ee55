"""The checks that need more than one process run in real ones, which are started once.

Every process makes the whole batch, takes its own shard through the layer, and compares with `nn.BatchNorm2d` on the
whole.
"""

import os
import runpy
import sys
import traceback
from datetime import timedelta
from multiprocessing import Pipe

import pytest
import torch
from dlaseg_testing import TINY, start_process
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from dlaseg.factory import create_model
from dlaseg.training.cpu import batch_norm
from dlaseg.training.cpu.batch_norm import SynchronizedBatchNorm2d, synchronize

SHARDS = (1, 4, 2)  # images in the processes' batches
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
PATIENCE = 60  # seconds, of a loaded machine


def shard_of(whole, rank):
    return whole.split(SHARDS[: distributed.get_world_size()])[rank]


def total(tensor):
    """The sum over all processes."""
    result = tensor.detach().clone()
    distributed.all_reduce(result)
    return result


def assert_near(actual, expected, tolerance=None):
    """Of one type, and near in relation to the largest value."""
    assert actual.dtype == expected.dtype
    scale = expected.detach().abs().max().item()
    within = (TOLERANCE[expected.dtype] if tolerance is None else tolerance) * max(scale, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=within)


def assert_same_everywhere(tensor):
    copies = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(copies, tensor)
    assert all(torch.equal(copy, tensor) for copy in copies)


def layers(channels=5, dtype=torch.float64, **options):
    """A plain layer with weights of its own, and a synchronised one with the same."""
    plain = nn.BatchNorm2d(channels, **options).to(dtype)
    if plain.affine:
        nn.init.uniform_(plain.weight, 0.5, 2)
        nn.init.normal_(plain.bias)
    layer = SynchronizedBatchNorm2d(channels, **options).to(dtype)
    layer.load_state_dict(plain.state_dict())
    return plain, layer


def compare(rank, plain, layer, whole, tolerance=None):
    """Both layers, forward and backward, twice, so that the running statistics have a past."""
    for _ in range(2):
        factor = torch.randn_like(whole)
        plain.zero_grad()
        layer.zero_grad()
        x = whole.clone().requires_grad_()
        y = plain(x)
        (y * factor).sum().backward()
        local_x = shard_of(whole, rank).clone().requires_grad_()
        local_y = layer(local_x)
        (local_y * shard_of(factor, rank)).sum().backward()
        pairs = list(zip(layer.buffers(), plain.buffers(), strict=True))
        pairs += [(total(local.grad), p.grad) for local, p in zip(layer.parameters(), plain.parameters(), strict=True)]
        assert_near(local_y, shard_of(y, rank), tolerance)
        assert_near(local_x.grad, shard_of(x.grad, rank), tolerance)
        for local, theirs in pairs:
            assert_near(local, theirs, 0 if local.dtype == torch.long else tolerance)
        for buffer in layer.buffers():
            assert_same_everywhere(buffer)
        whole = whole.detach() * 2 + 1


def batch(world_size, channels=5, height=7, width=6, dtype=torch.float64, offset=0.0, layout=torch.contiguous_format):
    """Every channel with a mean and a deviation of its own, every image with a mean of its own."""
    n = sum(SHARDS[:world_size])
    x = torch.randn(n, channels, height, width, dtype=torch.float64) * torch.linspace(0.5, 2, channels)[:, None, None]
    x += torch.randn(channels, 1, 1, dtype=torch.float64) + torch.randn(n, 1, 1, 1, dtype=torch.float64) + offset
    return x.to(dtype).contiguous(memory_format=layout)


def check_layer(rank, world_size, dtype, layout):
    plain, layer = layers(dtype=dtype)
    compare(rank, plain, layer, batch(world_size, dtype=dtype, layout=layout))
    y = layer(x := shard_of(batch(world_size, dtype=dtype, layout=layout), rank).clone().requires_grad_())
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=layout)
    assert x.grad.is_contiguous(memory_format=layout)


def check_options(rank, world_size):
    x = batch(world_size)
    for options in ({"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"momentum": 1, "eps": 0.1}):
        compare(rank, *layers(**options), x)
    plain, layer = layers()
    plain.track_running_stats = layer.track_running_stats = False  # torch then leaves the buffers alone
    compare(rank, plain, layer, x)


def check_what_needs_no_gradient(rank, world_size):
    for frozen in ({"weight"}, {"bias"}, {"weight", "bias"}):
        plain, layer = layers()
        for name in frozen:
            getattr(layer, name).requires_grad_(False)
        x, factor = batch(world_size).requires_grad_(), batch(world_size)
        local = shard_of(x.detach(), rank).requires_grad_()
        (plain(x) * factor).sum().backward()
        (layer(local) * shard_of(factor, rank)).sum().backward()
        assert_near(local.grad, shard_of(x.grad, rank))
        for name in ("weight", "bias"):
            if name in frozen:
                assert getattr(layer, name).grad is None
            else:
                assert_near(total(getattr(layer, name).grad), getattr(plain, name).grad)
    plain, layer = layers()  # and an input that needs none
    x = batch(world_size)
    plain(x).square().sum().backward()
    layer(shard_of(x, rank)).square().sum().backward()
    assert_near(total(layer.weight.grad), plain.weight.grad)
    with torch.no_grad():
        assert_near(layer(shard_of(x, rank)), shard_of(plain(x), rank))


def check_odd_layouts(rank, world_size):
    """Inputs and gradients with gaps, and gradients in another layout than the input's."""
    plain, layer = layers()
    for layout in (torch.contiguous_format, torch.channels_last):
        wide = batch(world_size, height=12, width=12, layout=layout)
        for x in (wide, wide[..., ::2, ::2], wide.transpose(2, 3)):
            for loss in (torch.sum, lambda y: (y[..., ::2, 1:] ** 3).sum(), lambda y: (y * y.transpose(2, 3)).sum()):
                whole, local = x.detach().requires_grad_(), shard_of(x.detach(), rank).requires_grad_()
                loss(plain(whole)).backward()
                loss(layer(local)).backward()
                assert_near(local.grad, shard_of(whole.grad, rank))
                assert_near(total(layer.weight.grad), plain.weight.grad)


def check_pictures_of_many_sizes(rank, world_size):
    sizes = ((2, 5, 3, 4), (1, 5, 8, 1), (3, 5, 1, 1))[:world_size]
    pictures = [torch.randn(*size, dtype=torch.float64) * (i + 1) + i for i, size in enumerate(sizes)]
    plain, layer = layers()
    x = torch.cat([picture.transpose(0, 1).flatten(1) for picture in pictures], 1)[None, :, None].requires_grad_()
    (plain(x) ** 3).sum().backward()
    local = pictures[rank].clone().requires_grad_()
    (layer(local) ** 3).sum().backward()
    theirs = x.grad[0, :, 0].split([picture.numel() // 5 for picture in pictures], 1)[rank]
    assert_near(local.grad.transpose(0, 1).flatten(1), theirs)
    assert_near(layer.running_var, plain.running_var)


def check_large_offset(rank, world_size, layout):
    """Deviations of 0.5 to 2 around 1e4: squares of float32 would leave nothing of them, of float64 eight digits."""
    compare(rank, *layers(), batch(world_size, offset=1e4, layout=layout), tolerance=1e-11)
    x = batch(world_size, 8, 88, 120, torch.float32, 1e4, layout)
    exact, layer = layers(8, momentum=1)
    y = exact(x.double())
    local = layer.float()(shard_of(x, rank))
    # Neighbours are 0.001 apart here, and so are means; nn.BatchNorm2d itself, in channels_last, finds 10 times the
    # variance and more
    torch.testing.assert_close(layer.running_mean.double(), exact.running_mean, rtol=0, atol=0.003)
    torch.testing.assert_close(layer.running_var.double(), exact.running_var, rtol=0.02, atol=0)
    torch.testing.assert_close(local.double(), shard_of(y, rank), rtol=0, atol=0.1)


def check_half_precision(rank, world_size, dtype):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = batch(world_size, dtype=dtype, layout=layout)
        plain, layer = layers(dtype=torch.float32)  # as under autocast
        compare(rank, plain, layer, x)
        assert_near(layer.running_mean, plain.running_mean, 1e-4)
        plain, layer = layers(dtype=dtype)
        compare(rank, plain, layer, x)


def check_autocast(rank, world_size):
    plain, layer = layers(dtype=torch.float32)
    layer, plain = (nn.Sequential(nn.Conv2d(5, 5, 1, bias=False), norm) for norm in (layer, plain))
    layer[0].load_state_dict(plain[0].state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        compare(rank, plain, layer, batch(world_size, dtype=torch.float32), tolerance=2e-2)


def check_one_value(rank, world_size):
    """One in each process is enough, if there are others."""
    plain, layer = layers(3, torch.float32)
    x = torch.randn(world_size, 3, 1, 1)
    if world_size > 1:
        assert_near(layer(x[rank : rank + 1]), plain(x)[rank : rank + 1])
        return
    messages = []
    for norm in (layer, plain):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as error:
            norm(x)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def check_gradient(rank, world_size):
    """Against differences of the output, the running statistics left aside."""
    for options in ({}, {"affine": False}):
        _, layer = layers(3, track_running_stats=False, **options)
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 3, 2, 3, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
            torch.autograd.gradcheck(lambda x, *_, layer=layer: layer(x), (x, *layer.parameters()))


def keep_size_and_reduce(sent, bucket):
    sent.append(bucket.buffer().numel())
    return allreduce_hook(None, bucket)


def check_network(rank, world_size):
    """A whole network under DistributedDataParallel, which divides the sum of the gradients by `world_size`."""
    plain = create_model(TINY, 3).double()
    model = create_model(TINY, 3).double()
    model.load_state_dict(plain.state_dict())
    images = torch.randn(sum(SHARDS[:world_size]), 3, 32, 64, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    factor = torch.randn(len(images), 3, 32, 64, dtype=torch.float64)
    logits = plain(images)
    (logits * factor).sum().backward()
    parallel = DistributedDataParallel(synchronize(model, torch.device("cpu")))
    sent = []
    parallel.register_comm_hook(sent, keep_size_and_reduce)
    local = parallel(shard_of(images, rank))
    (local * shard_of(factor, rank)).sum().backward()
    assert_near(local, shard_of(logits, rank), 1e-11)
    assert sum(sent) == sum(parameter.numel() for parameter in plain.parameters())  # as docs/scaling.md counts
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert_near(ours.grad * world_size, theirs.grad, 1e-11)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert_near(ours, theirs, 0 if ours.dtype == torch.long else 1e-11)


def member(rank, pipe):
    """What a process does: the checks it is told to, until it is told None."""
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    while (order := pipe.recv()) is not None:
        check, world_size, store, arguments = order
        options = {"rank": rank, "world_size": world_size, "timeout": timedelta(seconds=PATIENCE / 2)}
        distributed.init_process_group("gloo", init_method=f"file://{store}", **options)
        distributed.barrier()  # whoever fails at once would leave before the other one has connected
        torch.manual_seed(0)
        try:
            globals()[check](rank, world_size, *arguments)
            answer = None
        except Exception:
            answer = traceback.format_exc()
        pipe.send(answer)
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs a check in as many processes as it is told; fails with what any of them raised."""
    pipes, processes = [], []
    for rank in range(len(SHARDS)):
        here, there = Pipe()
        # By the file's path: under pytest's importlib mode a process could not import this module by its name
        processes.append(start_process(runpy.run_path, __file__, {"rank": rank, "pipe": there}, "member"))
        there.close()
        pipes.append(here)

    def run(check, world_size, *arguments):
        store = tmp_path_factory.mktemp("group") / "store"
        for pipe in pipes[:world_size]:
            pipe.send((check.__name__, world_size, str(store), arguments))
        failures = []
        for rank, pipe in enumerate(pipes[:world_size]):
            failure = pipe.recv() if pipe.poll(PATIENCE) else "no answer"
            failures += [f"process {rank}: {failure}"] if failure else []
        assert not failures, "\n".join(failures)

    yield run
    for pipe, process in zip(pipes, processes, strict=True):
        if process.is_alive():
            pipe.send(None)
        process.join(5)
        process.kill()
        process.join()


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_shards_are_normalized_as_the_whole_batch_is(together, world_size, dtype, layout):
    together(check_layer, world_size, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_costs_no_precision(together, layout):
    together(check_large_offset, 3, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalized_by_statistics_of_float32(together, dtype):
    together(check_half_precision, 2, dtype)


@pytest.mark.parametrize(
    "check",
    [
        check_options,
        check_what_needs_no_gradient,
        check_odd_layouts,
        check_pictures_of_many_sizes,
        check_autocast,
        check_one_value,
    ],
)
def test_two_and_three_processes_do_what_one_does(together, check):
    for world_size in (2, 3):
        together(check, world_size)


def test_a_network_in_two_processes_learns_what_it_does_in_one(together):
    together(check_network, 2)


def test_the_gradient_is_that_of_the_differences(together):
    together(check_gradient, 1)


def test_a_single_value_is_refused_in_torchs_words(together):
    together(check_one_value, 1)


def test_a_failing_process_is_heard_of(together):
    # the other one may hear that its peer is gone before it comes that far itself
    with pytest.raises(AssertionError, match=r"(?s)process [01]: .*TypeError"):
        together(check_layer, 2, "no type")


@pytest.fixture
def alone(monkeypatch):
    """Collective calls in this process, which is the only one; they are noted down as (name, numbers sent)."""
    calls = []

    def all_gather(results, tensor):
        calls.append(("all_gather", tensor.numel()))
        results[0].copy_(tensor)

    monkeypatch.setattr(batch_norm.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(batch_norm.distributed, "all_gather", all_gather)
    monkeypatch.setattr(batch_norm.distributed, "all_reduce", lambda x: calls.append(("all_reduce", x.numel())))
    return calls


def test_one_collective_call_each_way(alone):
    plain, layer = layers()
    x = batch(1).requires_grad_()
    y = layer(x)
    assert alone == [("all_gather", 11)]
    y.square().sum().backward()
    assert alone == [("all_gather", 11), ("all_reduce", 10)]
    assert_near(y, plain(x))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_eval_mode_it_is_the_plain_layer(options, layout):
    plain, layer = layers(dtype=torch.float32, **options)
    for norm in (plain, layer):
        if norm.running_var is not None:
            norm.running_var.copy_(torch.linspace(0.5, 2, 5))
        norm.eval()
    x = batch(3, dtype=torch.float32, layout=layout)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer(x.bfloat16()), plain(x.bfloat16()))


def test_training_without_other_processes_is_an_error():
    with pytest.raises(ValueError, match="process group has not been initialized"):
        SynchronizedBatchNorm2d(5)(batch(1, dtype=torch.float32))


def test_it_takes_what_the_plain_layer_takes():
    with pytest.raises(ValueError, match="expected 4D input"):
        SynchronizedBatchNorm2d(5)(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", SynchronizedBatchNorm2d), ("mps", SynchronizedBatchNorm2d), ("cuda", nn.SyncBatchNorm)]
)
def test_a_network_is_converted_and_stays_what_it_is(device, kind):
    model = create_model(TINY, 3)
    model.backbone.level5.eval()
    model.backbone.base_layer.requires_grad_(False)
    model.backbone.level0[1].momentum = 0.3
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert synchronize(model, torch.device(device)) is model
    assert {name for name, module in model.named_modules() if type(module) is kind} == norms
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(after) == list(tensors)
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert model.backbone.level0[1].momentum == 0.3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_state_dicts_go_both_ways(device):
    plain, other = create_model(TINY, 3), create_model(TINY, 3)
    model = synchronize(create_model(TINY, 3), torch.device(device))
    plain.backbone.level0[1].num_batches_tracked.fill_(7)
    model.load_state_dict(plain.state_dict())
    other.load_state_dict(model.state_dict())
    assert list(other.state_dict()) == list(model.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32)
        assert torch.equal(model.eval()(x), plain.eval()(x))


def test_a_converted_network_is_converted_once():
    model = synchronize(nn.Sequential(nn.BatchNorm2d(3)), torch.device("cpu"))
    assert type(synchronize(model, torch.device("cpu"))[0]) is SynchronizedBatchNorm2d
    assert type(synchronize(nn.BatchNorm2d(3), torch.device("cpu"))) is SynchronizedBatchNorm2d


if __name__ == "member":
    member(rank, pipe)  # noqa: F821 - the names that run_path was given
