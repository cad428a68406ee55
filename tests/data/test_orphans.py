"""Loading processes end when the process that they load for is gone, even if they wait for a file that never comes."""

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from dlaseg_testing import run_command, start_process, tiny_config, train_arguments, write_camvid

from dlaseg.data.loading import whole_image_loader
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.data.sets.camvid import camvid_labels
from dlaseg.factory import create_model
from dlaseg.weights.files import save_model

pytestmark = pytest.mark.usefixtures("tiny_variant")

PATIENCE = 60  # seconds, of a loaded machine


def wait_for_ever(folder: Path) -> None:
    """A read from a file system that hangs; leaves a file named after the process."""
    (folder / str(os.getpid())).touch()
    while True:
        time.sleep(0.01)


def run_hanging(words: list[str], errors: Path, readers: Path) -> None:
    """Runs a command whose images cannot be read to the end."""
    SegmentationDataset.read = lambda self, index: wait_for_ever(readers)
    run_command(words, errors)


@dataclasses.dataclass
class HangingSamples:
    readers: Path

    def __len__(self):
        return 8

    def read(self, index):
        wait_for_ever(self.readers)


def load_hanging(method: str, readers: Path) -> None:
    """Loads with processes that are started by a method of `multiprocessing`."""
    multiprocessing.set_start_method(method, force=True)
    next(iter(whole_image_loader(HangingSamples(readers), workers=2)))


def is_running(pid: int) -> bool:
    """Whether a process exists; one that ended and that nobody waits for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait(condition) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def readers(tmp_path):
    """Gets a file for each process that reads."""
    folder = tmp_path / "readers"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        if is_running(int(path.name)):
            os.kill(int(path.name), signal.SIGKILL)


def assert_no_orphans(child, readers: Path, workers: int) -> None:
    """Kills a process as soon as its workers read, and checks that they end."""
    assert wait(lambda: len(list(readers.iterdir())) == workers or not child.is_alive())
    pids = [int(path.name) for path in readers.iterdir()]
    assert child.pid not in pids
    assert len(pids) == workers
    assert all(map(is_running, pids))
    child.kill()
    child.join(PATIENCE)
    assert wait(lambda: not any(map(is_running, pids)))


def test_training(tmp_path, readers):
    config = tiny_config(write_camvid(tmp_path / "data"))
    config.data.workers = 2
    words = train_arguments(config, tmp_path / "run")
    assert_no_orphans(start_process(run_hanging, words, tmp_path / "errors", readers), readers, workers=2)


def test_scoring(tmp_path, readers):
    root = write_camvid(tmp_path / "data", val=4)
    model = create_model("dla46_c", 11, stride=8)
    model.metadata = dataclasses.replace(model.metadata, label_map=camvid_labels())
    save_model(model, tmp_path / "model.safetensors")
    words = ["eval", str(tmp_path / "model.safetensors"), "--dataset", "camvid", "--root", str(root), "--workers", "3"]
    assert_no_orphans(start_process(run_hanging, words, tmp_path / "errors", readers), readers, workers=3)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("fork", marks=pytest.mark.slow),  # as in the test of training
        pytest.param("spawn", marks=pytest.mark.slow),
        pytest.param("forkserver", marks=pytest.mark.slow),
    ],
)
def test_every_way_to_start_processes(tmp_path, readers, method):
    assert_no_orphans(start_process(load_hanging, method, readers), readers, workers=2)


def test_a_worker_still_ignores_signals_from_others(tmp_path, readers):
    """A scheduler's SIGTERM reaches the whole process group; the training process decides when to stop."""
    child = start_process(load_hanging, "fork", readers)
    assert wait(lambda: len(list(readers.iterdir())) == 2)
    pids = [int(path.name) for path in readers.iterdir()]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert all(map(is_running, pids))
    child.kill()
    child.join(PATIENCE)
    assert wait(lambda: not any(map(is_running, pids)))
