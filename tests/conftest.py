import gc
import os
import tempfile

import dlaseg_testing
import pytest
from hypothesis import settings

settings.register_profile("dlaseg", deadline=None)  # no test depends on a duration
settings.load_profile("dlaseg")

collect_ignore = ["support"]  # or it would be imported a second time, by another name, to look for doctests


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


def pytest_collection_finish():
    """What was imported is not garbage in the tests either: to look through it took a second each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def tiny_variant():
    """Tests of training have a network that takes a step in a fraction of the time."""
    with dlaseg_testing.tiny_variant():
        yield
