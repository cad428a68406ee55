from dataclasses import replace

import pytest
import torch
from dlaseg_testing import TwoHeads

from dlaseg import LabelMap
from dlaseg.export.export import export

LABELS = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": [10 * i + 7, 100 + i]} for i in range(6)]})


@pytest.fixture(scope="session")
def network():
    """A network of six classes that takes no time; another family than the package's."""
    torch.manual_seed(0)
    model = TwoHeads(LABELS.num_classes)
    model.metadata = replace(model.metadata, label_map=LABELS, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model.multiple = 64
    return model.eval()


@pytest.fixture(scope="session")
def exported(network, tmp_path_factory):
    """Exports the network once for each suffix, input and output, and gives the path."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def path_of(suffix, input="pixels", output="labels"):
        key = f"{input}-{output}{suffix}"
        if key not in done:
            done[key] = export(network, folder / key, input, output).path
        return done[key]

    return path_of
