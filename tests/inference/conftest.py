from dataclasses import replace

import pytest
import torch

from dlaseg import LabelMap, create_model, save_model

LABELS = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": [10 * i + 7, 100 + i]} for i in range(6)]})


def make_weights(path, seed):
    """Random weights of six classes."""
    torch.manual_seed(seed)
    model = create_model("dla46_c", LABELS.num_classes, stride=8)
    model.metadata = replace(model.metadata, label_map=LABELS)
    save_model(model, path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", 0)


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "other.safetensors", 1)
