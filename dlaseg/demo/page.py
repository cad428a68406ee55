"""The page, made with Gradio."""

import os
import re
import tempfile
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta

from dlaseg.demo.segmenting import Networks, Segmented, legend, picture, pixel, pixels, save, swatches, times
from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.inference.backends.choice import BACKENDS
from dlaseg.inference.run import infer
from dlaseg.synthetic.dataset import draw_scene

SCALES = [0.5, 0.75, 1.0, 1.25, 1.5]

NONE = "none"
"""The choice of no second weights."""

WAITING = 100
"""Most requests that wait; more are turned away with a message."""

CSS = """
#shown .wrap { flex-direction: column; flex-wrap: nowrap; gap: .25rem; }
#shown label::before { content: ""; flex: none; width: .9em; height: .9em; border-radius: .2em; border: 1px solid #888;
  background: var(--swatch); order: -1; margin-right: .45em; }
#shown label span { white-space: pre; }
#tip { position: fixed; z-index: 100; pointer-events: none; padding: .15rem .5rem; border-radius: .3rem;
  background: #222; color: #fff; font: 14px system-ui, sans-serif; white-space: nowrap; }
#tip[hidden] { display: none; }
"""

FOLDERS = re.compile(r"(?<![\w:./])/(?:[^\s/]+/)+")
"""The folders of an absolute path; not those of a relative one or of an address."""

POINTER = Path(__file__).with_name("pointer.js")


class _ComponentMeta(ComponentMeta):
    """Gradio's, but for writing a `page.pyi` beside this file."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


class Image(gr.Image, metaclass=_ComponentMeta):
    """Gives the file as it was uploaded: Gradio's opens it with Pillow, and shows what that says of a broken one.

    The browser finds its part by the name of the class.
    """

    def preprocess(self, payload: Any) -> Any:
        """The path of an upload."""
        is_file = payload is not None and payload.path is not None and not (payload.url or "").startswith("data:")
        return payload.path if is_file else super().preprocess(payload)


def build(weights: Sequence[str], folder: Path) -> gr.Blocks:
    """Builds the page.

    Args:
        weights: to choose from, the first one to begin with.
        folder: for examples and downloads.
    """
    networks, progress_bar = Networks(), gr.Progress(track_tqdm=True)

    def segment(
        file: str | None, first: str, second: str, backend: str, scales: list[float], flip: bool, opacity: float
    ) -> list[Any]:
        if file is None:
            return [None, None, *[gr.skip()] * 2, "", "", "", gr.update(choices=[], value=[]), *[None] * 3]
        results = [
            _guarded(networks.segment, file, name, backend, scales, flip) for name in (first, second) if name != NONE
        ]
        files = save(results[0], Path(tempfile.mkdtemp(dir=folder)))
        classes = legend(results[0])
        sliders = [_slider(result, [], opacity) for result in results] + [gr.update(visible=False)]
        return [
            results[0], results[1] if len(results) > 1 else None, *sliders[:2], pixels(results[0]),
            f"<style>{swatches(results[0], '#shown')}</style>",
            "\n\n".join(f"**{name}**: {times(result)}" for name, result in zip((first, second), results, strict=False)),
            gr.update(choices=classes, value=[name for _, name in classes]), *map(str, files),
        ]  # fmt: skip

    def draw(first: Segmented | None, second: Segmented | None, shown: list[str], opacity: float) -> list[Any]:
        return [
            gr.skip() if each is None else _slider(each, set(each.label_map.names) - set(shown), opacity)
            for each in (first, second)
        ]

    def point(segmented: Segmented | None, event: gr.SelectData) -> str:
        if segmented is None:
            return ""
        column, row = event.index
        return _guarded(pixel, segmented, int(row), int(column))

    def segment_video(file: str | None, name: str, backend: str, progress: gr.Progress = progress_bar) -> str | None:
        if file is None:
            raise gr.Error("choose a video first", print_exception=False)
        progress(0, "segmenting the frames")
        output = Path(tempfile.mkdtemp(dir=folder))
        summary = _guarded(infer, name, file, output, save=["overlay"], backend=backend)
        overlays = list(output.glob("overlay/*.mp4"))
        if summary.failed and not overlays:
            raise gr.Error(_without_folders(summary.failed[0][1]), print_exception=False)
        if summary.failed:  # behind the frames that could be read
            gr.Warning(_without_folders(summary.failed[0][1]))
        return str(overlays[0])

    with gr.Blocks(title="dlaseg", analytics_enabled=False, fill_width=True) as page:
        first_result, second_result = gr.State(), gr.State()
        gr.Markdown("# dlaseg\nSemantic segmentation with Deep Layer Aggregation.")
        with gr.Row():
            chosen = gr.Dropdown(list(weights), value=weights[0], label="Weights", allow_custom_value=True, scale=2,
                                 info="a name, a file, or USER/NAME of the Hugging Face hub")  # fmt: skip
            other = gr.Dropdown([NONE, *weights], value=NONE, label="Compare with", allow_custom_value=True, scale=2,
                                info="a second network on the same image")  # fmt: skip
            backend = gr.Dropdown(["auto", *BACKENDS], value="auto", label="Backend", info="what computes")
        with gr.Tab("Image"):
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    file = Image(type="filepath", image_mode=None, sources=["upload", "clipboard", "webcam"],
                                 label="Image", height=260, elem_id="image")  # fmt: skip
                    gr.Examples([str(example) for example in draw_examples(folder)], file, label="Drawn examples")
                    with gr.Accordion("More", open=False):
                        scales = gr.CheckboxGroup(SCALES, value=[1.0], label="Scales", info="averaged: slower, better")
                        flip = gr.Checkbox(label="Average over the mirrored image, too")
                with gr.Column(scale=3, min_width=320):
                    first_slider = gr.ImageSlider(label="Image and classes", interactive=False, elem_id="first")
                    second_slider = gr.ImageSlider(label="Compared with", interactive=False, visible=False)
                    opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
                    about_pixel = gr.Markdown("Point at a pixel to see its class; click on your image to keep it.",
                                              elem_id="pixel")  # fmt: skip
                with gr.Column(scale=1, min_width=220):
                    shown = gr.CheckboxGroup([], label="Classes and their shares", elem_id="shown")
                    colors = gr.HTML()
                    about_pixels = gr.HTML(elem_id="pixels", visible="hidden")
                    with gr.Row():
                        downloads = [gr.DownloadButton(label, size="sm")
                                     for label in ("Label map", "Colours", "Overlay")]  # fmt: skip
            about_time = gr.Markdown(elem_id="times")
            outputs = [first_result, second_result, first_slider, second_slider, about_pixels, colors, about_time,
                       shown, *downloads]  # fmt: skip
            inputs = [file, chosen, other, backend, scales, flip, opacity]
            for part in (file, chosen, other, backend, scales, flip):
                part.change(segment, inputs, outputs, concurrency_id="network")
            for change in (opacity.release, shown.input):
                change(
                    draw,
                    [first_result, second_result, shown, opacity],
                    [first_slider, second_slider],
                    show_progress="hidden",
                )
            file.select(point, first_result, about_pixel, show_progress="hidden")
        with gr.Tab("Video"):
            video = gr.Video(sources=["upload", "webcam"], label="Video")
            run = gr.Button("Segment", variant="primary")
            result = gr.Video(label="Classes over the video", interactive=False)
            run.click(segment_video, [video, chosen, backend], result, concurrency_id="network")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def _guarded(function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls a function; a `UserError` becomes a message on the page, without the folders of this machine."""
    try:
        return function(*arguments, **options)
    except UserError as error:
        raise gr.Error(_without_folders(str(error)), print_exception=False) from error


def _without_folders(message: str) -> str:
    return FOLDERS.sub("", message)


def _slider(segmented: Segmented, hidden: Sequence[str] | set[str], opacity: float) -> Any:
    return gr.update(value=(segmented.image, picture(segmented, hidden, opacity)), visible=True)


def draw_examples(folder: Path) -> list[Path]:
    """Draws street scenes; returns their files."""
    files = []
    for seed in range(4):
        files.append(folder / f"street_{seed}.png")
        write_png(files[-1], draw_scene(seed, 360, 640).image)
    return files


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Gradio reports nothing, and keeps what is uploaded in the folder."""
    values = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def served(weights: Sequence[str], host: str, port: int, most_bytes: int) -> Iterator[tuple[gr.Blocks, str]]:
    """Serves the page inside the `with` block.

    Args:
        weights: see `build`.
        host: address to listen on.
        port: to listen on.
        most_bytes: of a file that is taken.

    Yields:
        The page, and its address.

    Raises:
        UserError: the port is taken.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with tempfile.TemporaryDirectory(prefix="dlaseg-") as folder, _environment(folder):
        page = build(weights, Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, max_file_size=most_bytes, allowed_paths=[folder], quiet=True,
                theme=theme, css=CSS, head=f"<script>{POINTER.read_text(encoding='utf-8')}</script>",
                prevent_thread_lock=True, show_error=True, share=False, footer_links=[], enable_monitoring=False,
                ssr_mode=False,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"--port {port}: {' '.join(str(error).split())}: use another port") from error
        try:
            yield page, address
        finally:
            page.close(verbose=False)
