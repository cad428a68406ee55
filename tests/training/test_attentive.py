"""Training of all parts of an attentive network: dropout, blended scales and losses of several outputs included."""

from dataclasses import replace

import pytest
from dlaseg_testing import assert_same_tensors, run, tiny_config, with_train, write_camvid

from dlaseg.config.segmentation import LossConfig
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.trainer import fit


@pytest.fixture
def config(tmp_path):
    tiny = tiny_config(write_camvid(tmp_path / "data"))
    losses = [LossConfig("binary_cross_entropy", weight=0.5), LossConfig("rmi", weight=0.5)]
    model = replace(tiny.model, decoder="afa", head="ocr", scales=[0.5, 1.0])
    return replace(with_train(tiny, epochs=2, losses=losses), model=model)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, tmp_path):
    run(config, tmp_path / "whole")

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Segmentation(config), tmp_path / "run", report=interrupt)
    run(config, tmp_path / "run", resume=True)
    one, other = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "run"))
    assert_same_tensors(one["model"], other["model"])
