import numpy as np
import pytest
import torch

from dlaseg.evaluation.metrics.calibration import BINS, Calibration


@pytest.mark.parametrize("seed", range(3))
def test_the_error_equals_torchmetrics(seed):
    from torchmetrics.classification import MulticlassCalibrationError

    generator = torch.Generator().manual_seed(seed)
    measure, theirs = Calibration(), MulticlassCalibrationError(4, n_bins=BINS, ignore_index=255)
    for _ in range(3):
        logits = 3 * torch.randn(1, 4, 20, 30, generator=generator)
        target = torch.where(
            torch.rand(1, 20, 30, generator=generator) < 0.6,
            logits.argmax(1),
            torch.randint(0, 4, (1, 20, 30), generator=generator),
        )
        target[:, :3] = 255
        confidence, prediction = logits.softmax(1).max(1)
        measure.update(
            target[0].numpy().astype(np.uint8), prediction[0].numpy().astype(np.uint8), confidence[0].numpy()
        )
        theirs.update(logits, target)
    assert measure.error() == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_a_case_worked_by_hand():
    measure = Calibration()
    target = np.array([[0, 0, 0, 1, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 1, 1]], np.uint8)
    measure.update(target, prediction, np.array([[0.9, 0.9, 0.9, 1.0, 0.5]], np.float32))
    # bin 13 (0.867 to 0.933): three pixels, two right, 0.9 sure; the last bin: one, right, wholly sure
    assert measure.error() == pytest.approx((abs(2 - 2.7) + 0) / 4)
    rows = measure.to_dict()["bins"]
    assert rows[13] == {"pixels": 3, "accuracy": 2 / 3, "confidence": pytest.approx(0.9)}
    assert rows[14] == {"pixels": 1, "accuracy": 1.0, "confidence": 1.0}
    assert rows[0] == {"pixels": 0, "accuracy": None, "confidence": None}


def test_nothing_counted_has_no_error():
    measure = Calibration()
    measure.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), np.ones((2, 2), np.float32))
    assert measure.error() is None
