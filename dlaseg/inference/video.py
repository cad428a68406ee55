"""Segments videos and cameras: videos of colours and overlays, and a file per frame of every other kind.

Label maps must be exact, which the fast codecs are not, so a video has a folder of PNGs.
"""

import contextlib
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.files import write_text
from dlaseg.inference.captures import Camera, Video
from dlaseg.inference.memory import memory_message
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sinks import VIDEO_KINDS, Sink, is_frame
from dlaseg.inference.sources import Source
from dlaseg.inference.video_writer import Ticks, VideoWriter, writable_rate
from dlaseg.text import escaped

IN_FLIGHT = 4
"""Frames that wait to be written, and threads that write."""


@dataclass
class VideoResult:
    """The outcome of a video.

    Attributes:
        source: of the video.
        problem: what went wrong; None if nothing did.
        frames: number of frames whose results were written.
        network_seconds: time that the network took for them.
    """

    source: Source
    problem: str | None = None
    frames: int = 0
    network_seconds: float = 0.0


def check_cameras(sources: Sequence[Source]) -> None:
    """Checks that cameras can be opened: before a network is loaded, and before anything is written.

    Raises:
        UserError: names the camera.
    """
    for source in sources:
        if source.camera is not None:
            Camera(source).close()


def check_recordings(sink: Sink, sources: Sequence[Source]) -> None:
    """Checks that the output holds no earlier recording of a camera: it is no result that need not be done again.

    Raises:
        UserError: names the camera.
    """
    for source in sources:
        if source.camera is not None and len(sink.missing(source)) < len(sink.kinds):
            raise UserError(
                f"{source.path}: the output holds an earlier recording: use another output folder, or --overwrite"
            )


def segment_videos(
    predictor: Predictor, sink: Sink, sources: Sequence[Source], overwrite: bool, max_pixels: int
) -> Iterator[VideoResult]:
    """Segments every video, frame by frame.

    Results are written to a hidden folder and moved to their places when the video is done. A broken or truncated video
    has the results of the frames that can be read, and is done again by the next run. Videos that are written have a
    constant rate: where the input's rate varies, frames are repeated or left out, so that times stay as they are. Files
    of frames are neither.

    Args:
        predictor: the network.
        sink: knows places and kinds.
        sources: videos, and images, which are passed over.
        overwrite: whether existing results are replaced.
        max_pixels: videos of larger frames fail.

    Yields:
        Each video when it is done.

    Raises:
        UserError: the output cannot be written to.
    """
    for source in sources:
        if source.is_video:
            kinds = sink.kinds if overwrite else sink.missing(source)
            result = VideoResult(source)
            result.problem = None if overwrite else _other_files(sink, source, kinds)
            result.problem = result.problem or _segment_video(predictor, sink, result, kinds, max_pixels)
            yield result


def _other_files(sink: Sink, source: Source, kinds: Sequence[str]) -> str | None:
    """One line if a folder of frames holds files that are not of this video: another run had `clip/a.png`, too."""
    for kind in kinds:
        folder = sink.path(source, kind)
        if kind in VIDEO_KINDS or sink.folder.exists(sink.incomplete(source, kind)) or not folder.is_dir():
            continue
        if any(not file.name.startswith(".") for file in folder.iterdir()):
            remedy = "use another output folder, or --overwrite"
            return f"{source.path}: its frames would be written to {folder}, which holds other files: {remedy}"
    return None


def _segment_video(
    predictor: Predictor, sink: Sink, result: VideoResult, kinds: Sequence[str], max_pixels: int
) -> str | None:
    """Segments one video; returns what went wrong with it."""
    source = result.source
    try:
        video = Video(source.path, max_pixels) if source.camera is None else Camera(source)
    except UserError as error:
        return str(error)
    if min(video.height, video.width) < 2 and set(kinds) & set(VIDEO_KINDS):
        video.close()
        size = f"{video.height} x {video.width}"
        return f"{source.path}: frames of {size} pixels: no video can be written of them: use --save ids"
    with contextlib.closing(video), _working_folder(sink) as folder:
        working = sink.at(folder)
        try:
            end, interrupted = _write_frames(predictor, working, result, video, kinds)
        except (MemoryError, RuntimeError, cv2.error) as error:
            return memory_message(error, source.path, video.height, video.width)
        problem = None if interrupted else video.problem(result.frames, end)
        if result.frames:
            for kind in kinds:
                _move(working, sink, source, kind, result.frames, problem if source.camera is None else None)
        return problem


def _write_frames(
    predictor: Predictor, sink: Sink, result: VideoResult, video: Video | Camera, kinds: Sequence[str]
) -> tuple[float, bool]:
    """Segments the frames, and writes their results, while threads read and write; counts them in `result`.

    Returns:
        The time when the last frame ended, and whether Ctrl-C ended a camera's recording.
    """
    source = result.source
    frame_kinds = [kind for kind in kinds if kind not in VIDEO_KINDS]
    rate = writable_rate(video.rate)
    writers = {
        kind: VideoWriter(sink.path(source, kind), video.height, video.width, rate)
        for kind in set(kinds).intersection(VIDEO_KINDS)
    }
    ticks = Ticks(rate)
    waiting: deque[Future[None]] = deque()

    def encode(image: NDArray[np.uint8], labels: NDArray[np.uint8], tick: int) -> None:
        for kind, writer in writers.items():
            writer.write(sink.picture(kind, image, labels), tick)

    def finish(most: int) -> None:
        while waiting and (waiting[0].done() or len(waiting) > most):
            waiting[0].result()
            waiting.popleft()

    interrupted = False
    with (
        ThreadPoolExecutor(IN_FLIGHT) as pool,
        ThreadPoolExecutor(1) as encoder,  # one thread keeps the order
        contextlib.closing(iter(video)) as frames,
        tqdm(total=video.frames or None, unit="frame", desc=escaped(source.path.name), disable=None) as progress,
    ):
        try:
            for image, seconds in frames:
                start = perf_counter()
                labels, probabilities = predictor.segment(image, "probabilities" in kinds)
                result.network_seconds += perf_counter() - start
                frame = replace(source, frame=result.frames)
                waiting.append(pool.submit(sink.write, frame, image, labels, frame_kinds, probabilities))
                waiting.append(encoder.submit(encode, image, labels, ticks.at(seconds)))
                result.frames += 1
                progress.update()
                finish(2 * IN_FLIGHT)
        except KeyboardInterrupt:
            if source.camera is None:
                raise
            interrupted = True
        finish(0)
    for writer in writers.values():
        writer.close()
    return ticks.end, interrupted


def _move(working: Sink, sink: Sink, source: Source, kind: str, frames: int, problem: str | None) -> None:
    """Moves the results of one kind to their place; unless there is a problem, they count as complete from then on."""
    made, place = working.path(source, kind), sink.path(source, kind)
    incomplete = Path(sink.folder.show(sink.incomplete(source, kind)))
    sink.before_write()
    write_text(incomplete, f"{problem or 'interrupted'}\n")
    if kind in VIDEO_KINDS:
        made.replace(place)
    else:
        place.mkdir(exist_ok=True)
        names = [sink.path(replace(source, frame=frame), kind).name for frame in range(frames)]
        for old in {file.name for file in place.iterdir() if is_frame(file.name, kind)}.difference(names):
            (place / old).unlink()  # of a longer recording
        for name in names:
            (made / name).replace(place / name)
    if problem is None:
        incomplete.unlink()


@contextmanager
def _working_folder(sink: Sink) -> Iterator[Path]:
    """A hidden folder in the output, which is removed at the end; errors of writing become one line."""
    folder, output = None, sink.folder.show()
    try:
        folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output))
        yield folder
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{error.filename or output}: cannot be written ({reason}): make room or give another output folder"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
