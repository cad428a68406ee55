"""Runs with class-uniform sampling: drawn as the config says, resumed exactly, refused where it could do nothing."""

import dataclasses
import math

import pytest
from dlaseg_testing import (
    SINGLE_PROCESS,
    TwoHeadsTask,
    assert_same_tensors,
    log_rows,
    no_report,
    tiny_config,
    with_train,
    write_camvid,
)

from dlaseg.data.class_uniform import split_centroids
from dlaseg.errors import UserError
from dlaseg.training import trainer
from dlaseg.training.pixel_loss import PixelLoss
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.trainer import fit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=23, val=1)


def config_with(root, share, **train):
    """Half or all of the 23 samples by class: one or two of each of 11 classes, of which the images show two."""
    config = with_train(tiny_config(root), batch_size=5, epochs=2, eval_every=2, trackers=[], **train)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, class_uniform=share))


def sampler_of(config):
    task = Segmentation(config)
    training, _ = task.open_splits()
    return task.train_loader(training, task.make_model(training), SINGLE_PROCESS)[1], training


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (1.0, 2)])
def test_the_sampler_draws_the_share_of_the_config_around_centroids(root, share, count):
    sampler, training = sampler_of(config_with(root, share))
    centroids = {(image, (row, column)): c for c, image, row, column in split_centroids(training, 1024).tolist()}
    drawn = [centroids[key.image, key.point] for key in sampler.draw(3) if key.point is not None]
    assert sorted(drawn) == [0] * count + [3] * count
    assert len(sampler.draw(3)) == 23


def test_the_tiles_are_those_of_the_config(root):
    config = config_with(root, 1.0)
    config.data.class_uniform_tile = 32
    sampler, training = sampler_of(config)
    assert sampler.draw.centroids.tolist() == split_centroids(training, 32).tolist()


def test_by_default_nothing_is_drawn_by_class(root):
    sampler, _ = sampler_of(config_with(root, 0.0))
    assert sorted(sampler.draw(3)) == [(3, index, index, None) for index in range(23)]


def test_a_share_below_one_sample_of_each_class_is_refused(root):
    with pytest.raises(UserError) as caught:
        sampler_of(config_with(root, 0.4))
    assert str(caught.value) == (
        "data.class_uniform 0.4: less than one of 23 training images for each of 11 classes: use 0.479 or more, or 0"
    )


def test_a_run_that_was_killed_within_an_epoch_ends_with_the_same_weights(root, tmp_path, monkeypatch):
    class Interrupted(BaseException):
        """Raised in the middle of the second epoch, of four steps."""

    config, save = config_with(root, 1.0, checkpoint_minutes=0), trainer.save

    def saves(run):
        save(run)
        if run.state.step == 6:
            raise Interrupted

    straight = fit(TwoHeadsTask(config), tmp_path / "straight", report=no_report)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", saves)
        with pytest.raises(Interrupted):
            fit(TwoHeadsTask(config), tmp_path / "run", report=no_report)
    state = fit(TwoHeadsTask(config), tmp_path / "run", True, no_report)
    assert_same_tensors(straight.model.state_dict(), state.model.state_dict())
    assert [row["loss"] for row in log_rows(tmp_path / "run")] == [
        row["loss"] for row in log_rows(tmp_path / "straight")
    ]


def test_a_batch_that_is_not_finite_names_the_images_that_were_drawn(root, tmp_path, monkeypatch):
    loss = PixelLoss.__call__
    monkeypatch.setattr(PixelLoss, "__call__", lambda *arguments: loss(*arguments) * math.nan)
    config = config_with(root, 1.0, max_nonfinite_steps=0)
    with pytest.raises(UserError, match=r"check the batch in .*not_finite_step_1 ") as caught:
        fit(TwoHeadsTask(config), tmp_path / "run", report=no_report)
    sampler, training = sampler_of(config)
    files = [str(training.pairs[key.image].image) for key in sampler.batch(0, 0)]
    listed = (tmp_path / "run/not_finite_step_1/files.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in listed] == files
    assert ", ".join(files) in str(caught.value)
