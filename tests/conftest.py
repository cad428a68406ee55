import contextlib
import copy
import gc
import os
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

# The process that hands the tests out imports this file before it starts the others: what takes seconds to import, such
# as torch, is imported where it is used.

settings.register_profile("dlaseg", deadline=None)  # no test depends on a duration
settings.load_profile("dlaseg")

collect_ignore = ["support"]  # or it would be imported a second time, by another name, to look for doctests

TOGETHER = {
    "conversion": [
        *("benchmarking/test_speed", "export/test_export", "export/test_int8", "export/test_strange_exported_files"),
        *("export/test_triton", "inference/test_backends", "inference/test_graph_cache", "inference/test_ray_engine"),
    ],
    "child processes": [
        *("data/test_orphans", "training/cpu/test_batch_norm", "training/test_distributed", "training/test_survival"),
    ],
    "torchmetrics": [
        *(
            "evaluation/metrics/test_accuracy",
            "evaluation/metrics/test_calibration",
            "evaluation/metrics/test_confusion",
        ),
        "training/test_losses",
    ],
}
"""Files that go to one process of pytest-xdist, by what takes it seconds to import or to start."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Converted networks go to a folder of this run, which the processes of pytest-xdist share."""
    os.fsync = lambda descriptor: None  # waiting for the disk is a tenth of each short run
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import ONNX Runtime without dlaseg
    gc.disable()  # until everything is imported, nothing is garbage
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="dlaseg-tests-")
        os.environ["DLASEG_CACHE"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, files that stand together in `TOGETHER` count as one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    groups = {f"tests/{file}.py": group for group, files in TOGETHER.items() for file in files}

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return groups.get(file, file)

    return Scheduling(config, log)


def pytest_collection_finish():
    """What was imported is not garbage in the tests either: to look through it took a second each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def tiny_variant():
    """Tests of training have a network that takes a step in a fraction of the time."""
    import dlaseg_testing

    with dlaseg_testing.tiny_variant():
        yield


@pytest.fixture(scope="session")
def exported_network():
    """A network of six classes that takes no time; another family than the package's."""
    import dlaseg_testing
    import torch

    from dlaseg import LabelMap

    torch.manual_seed(0)
    labels = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": [10 * i + 7, 100 + i]} for i in range(6)]})
    model = dlaseg_testing.TwoHeads(labels.num_classes)
    model.metadata = replace(model.metadata, label_map=labels, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model.multiple = 64
    return model.eval()


@pytest.fixture(scope="session")
def exported(exported_network):
    """Exports `exported_network` once for each suffix, input and output, whichever process asks, and gives the path.

    It is traced and converted to ONNX once for all suffixes of an input and output.
    """
    from dlaseg.export import export as exports
    from dlaseg.export import formats

    shared = Path(os.environ["DLASEG_CACHE"])
    trace_network, to_onnx = cache(exports.trace_network), cache(formats.to_onnx)
    comparison_images = cache(exports.comparison_images)

    def path_of(suffix, input="pixels", output="labels"):
        folder = shared / f"exported-{input}-{output}{suffix}"
        if not folder.exists():
            own = Path(tempfile.mkdtemp(dir=shared))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exports, "trace_network", trace_network)
                patch.setattr(exports, "comparison_images", comparison_images)
                patch.setattr(formats, "to_onnx", lambda *arguments: copy.deepcopy(to_onnx(*arguments)))
                exports.export(exported_network, own / f"m{suffix}", input, output)
            with contextlib.suppress(OSError):  # another process was first
                own.rename(folder)
        return folder / f"m{suffix}"

    return path_of
