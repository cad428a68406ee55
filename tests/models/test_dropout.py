"""Dropout by a seed for each image."""

import torch

from dlaseg.models.dropout import ImageDropout, image_dropouts


def test_the_channels_of_an_image_depend_on_its_seed_alone():
    dropout, x = ImageDropout(64, 0.25).train(), torch.ones(4, 64, 2, 3)
    dropout.draw([7, 8, 9, 8])
    whole = dropout(x)
    assert torch.equal(whole[1], whole[3])
    assert not torch.equal(whole[0], whole[1])
    parts = []
    for seeds in ([7, 8], [9, 8]):
        dropout.draw(seeds)
        parts.append(dropout(x[:2]))
    assert torch.equal(torch.cat(parts), whole)


def test_it_drops_whole_channels_and_keeps_the_mean():
    dropout = ImageDropout(4000, 0.05).train()
    (found,) = image_dropouts(torch.nn.Sequential(torch.nn.ReLU(), dropout))
    found.draw([1])
    y = dropout(torch.ones(1, 4000, 2, 2))
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.95)}
    assert torch.equal(y[..., 0, 0], y[..., 1, 1])
    assert abs(float(y.mean()) - 1) < 0.02
    assert 0.03 < float((y == 0).float().mean()) < 0.07
    assert torch.equal(dropout.eval()(y), y)


def test_without_seeds_it_is_torchs():
    torch.manual_seed(0)
    dropout = ImageDropout(64, 0.5).train()
    dropout.draw([1, 2, 3])
    dropout.draw([])
    y = dropout(torch.ones(2, 64, 1, 1))
    torch.manual_seed(0)
    assert torch.equal(y, torch.nn.functional.dropout2d(torch.ones(2, 64, 1, 1), 0.5))
