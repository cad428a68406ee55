import math

import pytest
import torch
from torch import nn

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.accuracy import evaluate_classifier, rank
from dlaseg.metadata import ModelMetadata


class Table(nn.Module):
    """A classifier that looks its logits up by an image's first pixel."""

    metadata = ModelMetadata(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.modes = []

    def forward(self, images):
        self.modes.append(self.training)
        return self.logits[images[:, 0, 0, 0].round().long()]


def loader(targets: torch.Tensor, batch_size: int):
    images = torch.arange(len(targets), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return [(images[i : i + batch_size], targets[i : i + batch_size]) for i in range(0, len(targets), batch_size)]


def random_logits(samples: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(samples, classes, generator=generator)
    targets = torch.randint(0, classes, (samples,), generator=generator)
    logits[torch.arange(samples), targets] += 1
    return logits, targets


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 20])
@pytest.mark.parametrize("batch_size", [1, 7, 101, 200])
def test_accuracies_are_torchmetrics_and_a_plain_loops(classes, batch_size):
    from torchmetrics.classification import MulticlassAccuracy

    logits, targets = random_logits(101, classes)
    result = evaluate_classifier(Table(logits), loader(targets, batch_size))
    for k, ours in ((1, result.top1), (5, result.top5)):
        k = min(k, classes)
        theirs = MulticlassAccuracy(num_classes=classes, top_k=k, average="micro")(logits, targets)
        plain = sum(int(t) in sorted(range(classes), key=lambda c: -row[c])[:k] for row, t in zip(logits, targets))  # noqa: B905
        assert ours == plain / 101
        assert ours == pytest.approx(theirs.item(), abs=1e-6)
    assert result.samples == 101


def test_fewer_than_five_classes_are_all_among_the_best_five():
    logits, targets = random_logits(40, 4)
    assert evaluate_classifier(Table(logits), loader(targets, 8)).top5 == 1


def test_equal_logits_are_correct_for_one_class_alone():
    targets = torch.arange(20)
    result = evaluate_classifier(Table(torch.zeros(20, 20)), loader(targets, 6))
    assert (result.top1, result.top5) == (1 / 20, 5 / 20)


def test_the_lower_class_id_wins_a_tie_as_in_argmax():
    logits = torch.randint(0, 3, (200, 6), generator=torch.Generator().manual_seed(0)).float()
    targets = torch.arange(200) % 6
    order = logits.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(rank(logits, targets), (order == targets[:, None]).int().argmax(1))


@pytest.mark.parametrize("classes", [6, 10])
def test_nan_logits_are_never_correct(classes):
    targets = torch.arange(classes)
    result = evaluate_classifier(Table(torch.full((classes, classes), math.nan)), loader(targets, 4))
    assert (result.top1, result.top5) == (0, 0)


def test_the_model_is_scored_in_eval_mode_and_its_mode_restored():
    logits, targets = random_logits(10, 3)
    model = Table(logits).train()
    evaluate_classifier(model, loader(targets, 5))
    assert model.modes == [False, False]
    assert model.training


def test_an_unreadable_sample_ends_the_scoring_and_the_mode_is_restored():
    model = Table(torch.zeros(3, 3)).train()
    with pytest.raises(UserError, match="broken"):
        evaluate_classifier(model, [UserError("a.png: broken")])
    assert model.training
