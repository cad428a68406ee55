"""From image files to label PNGs: the pipeline of `dlaseg infer`, and a plain script that takes one after the other."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dlaseg.benchmarking.candidates import Candidate
from dlaseg.benchmarking.networks import Network, Predicting, build
from dlaseg.benchmarking.timing import Stopwatch
from dlaseg.errors import UserError
from dlaseg.inference.pipeline import infer_sources
from dlaseg.inference.sinks import Sink
from dlaseg.inference.sources import Source
from dlaseg.memory import peak_memory


def write_labels(network: Network, images: Sequence[Path], output: Path) -> list[Path]:
    """Writes the label map of every image; existing ones are replaced.

    Args:
        network: predicts them, behind a `Predictor` by the pipeline of `dlaseg infer`.
        images: the files.
        output: the folder.

    Returns:
        The label PNGs, in the order of the images.

    Raises:
        UserError: an image cannot be read or predicted.
    """
    sources = [Source(path, Path(f"{number}.png")) for number, path in enumerate(images)]
    if isinstance(network, Predicting):
        sink = Sink(output, network.predictor.label_map, ["ids"])
        failed = infer_sources(network.predictor, sink, sources).failed
        if failed:
            raise UserError(failed[0][1])
        return [Path(sink.folder.show(sink.file(source, "ids"))) for source in sources]
    output.mkdir(parents=True, exist_ok=True)
    unused = Stopwatch()
    for source in sources:
        network.encode(network.predict(network.decode(source.path), unused), output / source.relative)
    return [output / source.relative for source in sources]


def memory_of_files(candidate: Candidate, images: Sequence[Path], threads: int) -> int:
    """Peak memory in bytes of this process after it has written the label maps of all images; for a new process."""
    torch.set_num_threads(threads)
    network = build(candidate)
    with tempfile.TemporaryDirectory() as folder:
        write_labels(network, images, Path(folder))
    return peak_memory(network.device)


def memory_of_image(candidate: Candidate, image: Path, threads: int) -> int:
    """Peak memory in bytes of this process after it has predicted one image; for a new process."""
    torch.set_num_threads(threads)
    network = build(candidate)
    network.predict(network.decode(image), Stopwatch())
    return peak_memory(network.device)
