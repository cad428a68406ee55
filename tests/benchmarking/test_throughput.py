import dataclasses
import json
import logging

import dlaseg_testing
import pytest
import torch
from PIL import Image

from dlaseg.benchmarking import throughput, trial
from dlaseg.benchmarking.throughput import Speeds, Throughput, advice, limit, measure, measure_round, table, to_dict
from dlaseg.benchmarking.trial import discard, load_batches, prefetched, take_step
from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.errors import UserError
from dlaseg.training.classification import Classification
from dlaseg.training.run import build
from dlaseg.training.segmentation import Segmentation


def built(config):
    task = Segmentation(config)
    return build(task, dlaseg_testing.SINGLE_PROCESS, *task.open_splits())


def with_data(config, **data):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_so_many_batches_are_drawn_and_not_a_sample_more_is_read(config, monkeypatch, count):
    run, keys = built(config), []
    reads = type(run.loader.dataset).__getitem__
    monkeypatch.setattr(type(run.loader.dataset), "__getitem__", lambda self, key: keys.append(key) or reads(self, key))
    micro_batches = list(load_batches(run, count))
    assert [len(batch) for batch in micro_batches] == [1] * count
    assert [tuple(batch[0][0].shape) for batch in micro_batches] == [(2, 3, 32, 64)] * count
    assert len(keys) == len(set(keys)) == 2 * count  # no sample of an epoch twice
    assert {key.epoch for key in keys} == set(range(1, 1 + -(-count // run.sampler.batches)))


def test_a_second_draw_goes_on_to_other_epochs(config):
    run = built(config)
    discard(load_batches(run, 3))
    assert run.sampler.epoch == 2
    discard(load_batches(run, 1))
    assert run.sampler.epoch == 3


def test_all_micro_batches_of_a_batch_are_loaded(config):
    run = built(dlaseg_testing.with_train(config, grad_accum_steps=2))
    assert [[len(images) for images, _ in micro_batches] for micro_batches in load_batches(run, 3)] == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("workers", "grad_accum_steps", "ahead"), [(0, 1, 0), (1, 1, 2), (2, 1, 4), (2, 2, 2), (1, 4, 1)]
)
def test_what_is_loaded_ahead_is_counted_in_batches(config, workers, grad_accum_steps, ahead):
    assert (
        prefetched(
            built(
                with_data(
                    dlaseg_testing.with_train(config, batch_size=4, grad_accum_steps=grad_accum_steps), workers=workers
                )
            )
        )
        == ahead
    )


def test_a_step_changes_the_weights_and_never_ends_the_schedule(config):
    run = built(dlaseg_testing.with_train(config, warmup_steps=0))
    before = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    micro_batches = next(load_batches(run, 1))
    for _ in range(8):  # of 6 that the run has
        assert take_step(run, micro_batches).lr == config.train.lr
    assert not torch.equal(before["head.weight"], run.state.model.state_dict()["head.weight"])


def test_a_round_measures_data_training_and_network_each_by_itself(config, clock, monkeypatch):
    run = built(config)
    loaded, taken = [], []

    def slow_draw(run, count):
        for number in range(count):
            # Loaded ahead: the first three are there at once
            clock.now += 0.0 if number < 3 else 2.0
            loaded.append(number)
            yield [number]

    def slow_step(run, micro_batches):
        clock.now += 3.0
        taken.append(micro_batches)

    monkeypatch.setattr(throughput, "prefetched", lambda run: 3)
    monkeypatch.setattr(throughput, "load_batches", slow_draw)
    monkeypatch.setattr(throughput, "take_step", slow_step)
    found = measure_round(run, 4)
    assert found == Speeds(training=2 / 5, network=2 / 3, data=2 / 2, data_wait=2 / 5)
    # Three that were loaded before, four of data alone, one and four of training, three for the loader to be busy with
    assert loaded == list(range(3 + 4 + 1 + 4 + 3))
    assert taken == [[7], [8], [9], [10], [11], *[[11]] * 4]


@pytest.mark.parametrize(
    ("workers", "asked", "batches"),
    [(1, 1, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 3, 3), (2, 5, 6)))],
)
def test_a_record_is_measured_and_nothing_is_written(config, folder, monkeypatch, workers, asked, batches):
    steps = []
    monkeypatch.setattr(
        throughput,
        "take_step",
        lambda run, micro_batches: steps.append(micro_batches) or trial.take_step(run, micro_batches),
    )
    found = measure(Segmentation(with_data(config, workers=workers)), asked, rounds=2)
    assert list(folder.iterdir()) == []
    assert len(steps) == throughput.WARM_UP + 2 * (batches + 1 + batches)
    assert len(found.rounds) == 2
    assert all(min(each.training, each.network, each.data) > 0 for each in found.rounds)
    assert all(0 < each.data_wait < 1 for each in found.rounds)
    assert found.peak_memory > 2**20
    shown = (found.model, found.images, found.batch_size, found.workers, found.precision, found.batches)
    assert shown == (dlaseg_testing.TINY, "2 x 3 x 32 x 64", 2, workers, "float32", batches)


def test_a_classifier_is_measured_too_and_torchruns_processes_share_the_cores(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(throughput, "cores", lambda: 9)
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for name in ("blue", "red"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 36), name).save(root / split / name / "0.png")
    config = PretrainConfig(
        data=PretrainDataConfig(root=str(root), workers=0),
        model=PretrainModelConfig(name=dlaseg_testing.TINY),
        augment=PretrainAugmentConfig(crop_size=32, resize=32),
    )
    found = measure(Classification(dlaseg_testing.with_train(config, batch_size=2, device="cpu")), 1, rounds=1)
    assert (found.images, found.cores) == ("2 x 3 x 32 x 32", 2)
    assert list(folder.iterdir()) == []


def test_the_median_is_each_speeds_own():
    found = made(Speeds(1, 9, 4, 0.1), Speeds(2, 8, 6, 0.3), Speeds(3, 7, 5, 0.2))
    assert found.median == Speeds(2, 8, 5, 0.2)


@pytest.mark.parametrize(("config_change", "part"), [({"epochs": 0}, "train.epochs 0"), ({"device": "gpu"}, "'gpu'")])
def test_a_bad_record_is_refused(config, config_change, part):
    with pytest.raises(UserError, match=part):
        measure(Segmentation(dlaseg_testing.with_train(config, **config_change)), 1)


def test_no_batches_are_refused(config):
    with pytest.raises(UserError, match="--steps 0: use 1 to 100000"):
        measure(Segmentation(config), 0)


def test_too_little_memory_is_explained(config, monkeypatch):
    run = built(config)

    def step(micro_batches):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.step = step
    with pytest.raises(UserError, match="out of memory: a micro-batch of 2 crops of 32 x 64"):
        take_step(run, next(load_batches(run, 1)))


def test_an_image_that_is_left_out_is_named(config, caplog):
    run = built(with_data(config, on_error="skip"))
    broken = run.training.pairs[0].image
    broken.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        discard(load_batches(run, 4))
    assert f"skipped, the next image replaces it: {broken}" in caplog.text


# training, network, data, data_wait; workers, cores
VERDICTS = [
    (
        (20, 50, 20, 0.6, 2, 8),
        "data",
        "Data loading is the limit: the network could process 50.0 images per second and gets 20.0: use "
        "data.workers 5.",
    ),
    (
        (20, 50, 20, 0.6, 2, 4),
        "data",
        "Data loading is the limit: the network could process 50.0 images per second and gets 20.0: use "
        "data.workers 4, the number "
        "of cores; 5 would be needed.",
    ),
    (
        (20, 50, 20, 0.6, 4, 4),
        "data",
        "Data loading is the limit: the network could process 50.0 images per second and gets 20.0, and 4 processes "
        "load on 4 "
        "cores: use smaller image files, a cheaper augment or a machine with more cores.",
    ),
    (
        (8, 40, 10, 0.8, 0, 8),
        "data",
        "Data loading is the limit: the network could process 40.0 images per second and gets 8.0: use data.workers 4.",
    ),
    (
        (10, 10, 40, 0.001, 2, 8),
        "network",
        "The network is the limit: data can be loaded 4.0 times as fast: more data.workers do not help; a faster "
        "device, "
        "train.compile or a smaller augment.crop_size would.",
    ),
    (
        (8, 10, 40, 0.2, 0, 8),
        "network",
        "The network is the limit: data can be loaded 4.0 times as fast, but it waits for data 20% of the time: use "
        "data.workers 1.",
    ),
    (
        (8, 10, 12, 0.2, 2, 3),
        "network",
        "The network is the limit: data can be loaded 1.2 times as fast, but it waits for data 20% of the time: use "
        "data.workers 3.",
    ),
    (
        (8, 10, 12, 0.2, 3, 3),
        "network",
        "The network is the limit: data can be loaded 1.2 times as fast, and loading takes 20% of its speed: more "
        "data.workers do not help; a faster device, train.compile or a smaller augment.crop_size would.",
    ),
    (
        (8, 10, 40, 0.02, 4, 4),
        "network",
        "The network is the limit: data can be loaded 4.0 times as fast, and loading takes 20% of its speed: use "
        "data.workers 1.",
    ),
    (
        (10, 10, 10, 0.0, 2, 2),
        "network",
        "The network is the limit: data can be loaded 1.0 times as fast: more data.workers do not help; a faster "
        "device, "
        "train.compile or a smaller augment.crop_size would.",
    ),
]


@pytest.mark.parametrize(("figures", "which", "message"), VERDICTS)
def test_the_verdict_follows_from_the_figures(figures, which, message):
    *speeds, workers, cores = figures
    assert limit(Speeds(*speeds)) == which
    assert advice(Speeds(*speeds), workers, cores) == message


def made(*rounds: Speeds) -> Throughput:
    return Throughput(
        *("dla34", "cpu (2 threads)", "bfloat16", "4 x 3 x 352 x 480", 8, 2, 4, 10),
        *(rounds, "1.00 GiB of this process", 2**30),
    )


def test_the_table_reads_well():
    found = made(Speeds(20, 50, 20, 0.6), Speeds(21, 49, 22, 0.5), Speeds(19, 51, 18, 0.7))
    assert table(found).splitlines() == [
        "dla34: 4 x 3 x 352 x 480 per micro-batch, 8 images per update; cpu (2 threads), bfloat16; data.workers 2, "
        "4 cores",
        "Images per second, median of 3 rounds of 10 batches:",
        "",
        "| measured         |   median |   lowest |  highest |",
        "| ---------------- | -------: | -------: | -------: |",
        "| data and network |    20.00 |    19.00 |    21.00 |",
        "| network alone    |    50.00 |    49.00 |    51.00 |",
        "| data alone       |    20.00 |    18.00 |    22.00 |",
        "",
        "Waiting for data: 60.0% of the time. Peak memory: 1.00 GiB of this process.",
        "Data loading is the limit: the network could process 50.0 images per second and gets 20.0: use "
        "data.workers 4, the number "
        "of cores; 5 would be needed.",
    ]


def test_the_json_holds_every_figure():
    found = made(Speeds(20, 50, 20, 0.6), Speeds(21, 49, 22, 0.5), Speeds(19, 51, 18, 0.7))
    read = json.loads(json.dumps(to_dict(found)))
    assert read["rounds"][1] == {"training": 21, "network": 49, "data": 22, "data_wait": 0.5}
    assert read["median"] == {"training": 20, "network": 50, "data": 20, "data_wait": 0.6}
    assert (read["limit"], read["peak_memory"], read["batches"]) == ("data", 2**30, 10)
    assert read["advice"] == table(found).splitlines()[-1]
