from dataclasses import replace

import pytest
import torch
from dlaseg_testing import TINY, TwoHeads

from dlaseg import LabelMap, create_model, save_model

LABELS = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": [10 * i + 7, 100 + i]} for i in range(6)]})


@pytest.fixture(scope="module", autouse=True)
def _tiny(tiny_variant):
    pass


@pytest.fixture(scope="module")
def weights(_tiny, tmp_path_factory):
    """A weights file of six classes, of a network that takes a fraction of the time."""
    torch.manual_seed(0)
    model = create_model(TINY, LABELS.num_classes, stride=8)
    model.metadata = replace(model.metadata, label_map=LABELS)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_model(model, path)
    return path


def make_network(seed):
    torch.manual_seed(seed)
    model = TwoHeads(LABELS.num_classes)
    model.metadata = replace(model.metadata, label_map=LABELS)
    return model


@pytest.fixture(scope="session")
def network():
    """A network of six classes that takes no time."""
    return make_network(0)


@pytest.fixture(scope="session")
def other_network():
    return make_network(1)
