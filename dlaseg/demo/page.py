"""The page, made with Gradio."""

import errno
import os
import re
import socket
import tempfile
from abc import ABCMeta
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dlaseg.demo.segmenting import Networks, Segmented, legend, picture, pixel, pixels, save, swatches, times
from dlaseg.errors import UserError
from dlaseg.image_suffixes import VIDEO_SUFFIXES
from dlaseg.images import write_png
from dlaseg.inference.backends.choice import BACKENDS
from dlaseg.inference.run import infer
from dlaseg.memory import is_out_of_memory
from dlaseg.synthetic.dataset import draw_scene

SCALES = [0.5, 0.75, 1.0, 1.25, 1.5]

NONE = ""
"""The choice of no second weights; no file has this name."""

HINT = "Point at a pixel to see its class; click on your image to keep it."

MOST_WEBP = 16383
"""Pixels of the larger side of a picture in WebP, which Gradio sends; a larger one is shown with fewer pixels."""

PROGRESS_BAR = gr.Progress(track_tqdm=True)

WAITING = 100
"""Most requests that wait; more are turned away with a message."""

CSS = """
#shown .wrap { flex-direction: column; flex-wrap: nowrap; gap: .25rem; }
#shown label::before { content: ""; flex: none; width: .9em; height: .9em; border-radius: .2em; border: 1px solid #888;
  background: var(--swatch); order: -1; margin-right: .45em; }
#shown label span { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0; }
#tip { position: fixed; z-index: 100; pointer-events: none; padding: .15rem .5rem; border-radius: .3rem;
  background: #222; color: #fff; font: 14px system-ui, sans-serif;
  box-sizing: border-box; width: max-content; max-width: calc(100vw - 8px); overflow-wrap: anywhere; }
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


@contextmanager
def _messages() -> Iterator[None]:
    """What the user can change becomes a message on the page, without the folders of this machine."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            text = str(error)
        elif is_out_of_memory(error):
            text = "too little memory on the server: use a smaller file"
        elif isinstance(error, OSError):
            text = f"{error.filename or 'the server'}: {error.strerror or error}: make room on the server, or try again"
        else:
            raise
        raise gr.Error(_without_folders(text), print_exception=False) from error


def _without_folders(message: str) -> str:
    return FOLDERS.sub("", message)


class Handlers:
    """What the page does when something on it is changed.

    Args:
        folder: for downloads.
    """

    def __init__(self, folder: Path):
        self._folder, self._networks = folder, Networks()

    def clear(self) -> list[Any]:
        """The result, what the pointer shows of it, and the text about a pixel, while another is computed."""
        return [None, "", HINT]

    @_messages()
    def segment(
        self, file: str | None, first: str, second: str, backend: str, scales: list[float], flip: bool, opacity: float
    ) -> list[Any]:
        """Segments an image with one network or two."""
        if file is None:
            return [None, None, *[gr.skip()] * 2, "", "", "", gr.update(choices=[], value=[]), *[None] * 3]
        names = [first, second] if second else [first]
        results = [self._networks.segment(file, name, backend, scales, flip) for name in names]
        files = save(results[0], Path(tempfile.mkdtemp(dir=self._folder)))
        classes = legend(results[0])
        sliders = [_slider(result, [], opacity) for result in results] + [gr.update(visible=False)]
        return [
            results[0], results[1] if len(results) > 1 else None, *sliders[:2], pixels(results[0]),
            f"<style>{swatches(results[0], '#shown')}</style>",
            "\n\n".join(f"**{name}**: {times(result)}" for name, result in zip(names, results, strict=True)),
            gr.update(choices=classes, value=[name for _, name in classes]), *map(str, files),
        ]  # fmt: skip

    def draw(self, first: Segmented | None, second: Segmented | None, shown: list[str], opacity: float) -> list[Any]:
        """Draws the results again. Of the second, classes that the legend of the first lacks are always shown."""
        if first is None:
            return [gr.skip()] * 2
        hidden = {name for _, name in legend(first)} - set(shown)
        return [gr.skip() if each is None else _slider(each, hidden, opacity) for each in (first, second)]

    @_messages()
    def point(self, segmented: Segmented | None, event: gr.SelectData) -> str:
        """Describes the pixel that was clicked."""
        if segmented is None:
            return HINT
        column, row = event.index
        return pixel(segmented, int(row), int(column))

    @_messages()
    def segment_video(
        self, file: str | None, name: str, backend: str, progress: gr.Progress = PROGRESS_BAR
    ) -> str | None:
        """Makes a video of the overlays."""
        if file is None:
            raise UserError("no video: choose a video first")
        if Path(file).suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{file}: not a video: use one of {', '.join(sorted(VIDEO_SUFFIXES))}, or the tab Image")
        progress(0, "segmenting the frames")
        output = Path(tempfile.mkdtemp(dir=self._folder))
        summary = infer(name, file, output, save=["overlay"], backend=backend)
        overlays = list(output.glob("overlay/*.mp4"))
        if summary.failed and not overlays:
            raise UserError(summary.failed[0][1])
        if summary.failed:  # behind the frames that could be read
            gr.Warning(_without_folders(summary.failed[0][1]))
        return str(overlays[0])


def _slider(segmented: Segmented, hidden: Collection[str], opacity: float) -> Any:
    step = -(-max(segmented.labels.shape) // MOST_WEBP)
    pair = segmented.image, picture(segmented, hidden, opacity)
    return gr.update(value=tuple(each[::step, ::step] for each in pair), visible=True)


def build(weights: Sequence[str], folder: Path, any_weights: bool = True) -> gr.Blocks:
    """Builds the page.

    Args:
        weights: to choose from, the first one to begin with.
        folder: for examples and downloads.
        any_weights: whether visitors may name others.
    """
    handlers = Handlers(folder)
    info = "a name, a file, or USER/NAME of the Hugging Face hub" if any_weights else None
    with gr.Blocks(title="dlaseg", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# dlaseg\nSemantic segmentation with Deep Layer Aggregation.")
        with gr.Row():
            chosen = gr.Dropdown(list(weights), value=weights[0], label="Weights", allow_custom_value=any_weights,
                                 scale=2, info=info)  # fmt: skip
            other = gr.Dropdown([("none", NONE), *((name, name) for name in weights)], value=NONE, scale=2,
                                label="Compare with", allow_custom_value=any_weights,
                                info="a second network on the same image")  # fmt: skip
            backend = gr.Dropdown(["auto", *BACKENDS], value="auto", label="Backend", info="what computes")
        with gr.Tab("Image"):
            _image_tab(handlers, draw_examples(folder), chosen, other, backend)
        with gr.Tab("Video"):
            video = gr.Video(sources=["upload", "webcam"], label="Video")
            run = gr.Button("Segment", variant="primary")
            result = gr.Video(label="Classes over the video", interactive=False)
            run.click(handlers.segment_video, [video, chosen, backend], result, concurrency_id="network")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def _image_tab(
    handlers: Handlers, examples: Sequence[Path], chosen: gr.Dropdown, other: gr.Dropdown, backend: gr.Dropdown
) -> None:
    first_result, second_result = gr.State(), gr.State()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = Image(type="filepath", image_mode=None, sources=["upload", "clipboard", "webcam"], label="Image",
                         height=260, elem_id="image")  # fmt: skip
            gr.Examples(list(map(str, examples)), file, label="Drawn examples")
            with gr.Accordion("More", open=False):
                scales = gr.CheckboxGroup(SCALES, value=[1.0], label="Scales", info="averaged: slower, better")
                flip = gr.Checkbox(label="Average over the mirrored image, too")
        with gr.Column(scale=3, min_width=320):
            first_slider = gr.ImageSlider(label="Image and classes", interactive=False, elem_id="first")
            second_slider = gr.ImageSlider(label="Compared with", interactive=False, visible=False)
            opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
            about_pixel = gr.Markdown(HINT, elem_id="pixel")
        with gr.Column(scale=1, min_width=220):
            shown = gr.CheckboxGroup([], label="Classes and their shares", elem_id="shown")
            colors = gr.HTML()
            about_pixels = gr.HTML(elem_id="pixels", visible="hidden")
            with gr.Row():
                downloads = [gr.DownloadButton(label, size="sm") for label in ("Label map", "Colours", "Overlay")]
    about_time = gr.Markdown(elem_id="times")
    outputs = [first_result, second_result, first_slider, second_slider, about_pixels, colors, about_time, shown,
               *downloads]  # fmt: skip
    inputs = [file, chosen, other, backend, scales, flip, opacity]
    # What is pointed at meanwhile must not be named by the image before. What is changed meanwhile comes last
    gr.on(
        [part.change for part in (file, chosen, other, backend, scales, flip)], handlers.clear, None,
        [first_result, about_pixels, about_pixel], queue=False, show_progress="hidden", trigger_mode="always_last",
    ).then(handlers.segment, inputs, outputs, concurrency_id="network", trigger_mode="always_last")  # fmt: skip
    for change in (opacity.release, shown.input):
        change(
            handlers.draw,
            [first_result, second_result, shown, opacity],
            [first_slider, second_slider],
            show_progress="hidden",
        )
    file.select(handlers.point, first_result, about_pixel, show_progress="hidden")


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


def check_address(host: str, port: int) -> None:
    """Raises a UserError for an address that is not of this machine, and for a port that is taken."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port} is taken: use another port") from error
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port}: reserved for the system: use 1024 or more") from error
        raise UserError(f"--host {host}: not an address of this machine: use 127.0.0.1 or 0.0.0.0") from error


def is_loopback(host: str) -> bool:
    """Whether this machine alone can reach a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def served(weights: Sequence[str], host: str, port: int, most_bytes: int) -> Iterator[tuple[gr.Blocks, str]]:
    """Serves the page inside the `with` block.

    To other machines, it offers these weights alone.

    Args:
        weights: see `build`.
        host: address to listen on.
        port: to listen on.
        most_bytes: of a file that is taken.

    Yields:
        The page, and its address.

    Raises:
        UserError: no address of this machine, or the port is taken.
    """
    check_address(host, port)
    is_local, middleware = is_loopback(host), []
    if is_local:
        names = [host, f"[{host}]", "127.0.0.1", "localhost"]
        # A page of another site, whose name leads to this machine, would reach the server, too (DNS rebinding)
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False))
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with tempfile.TemporaryDirectory(prefix="dlaseg-") as folder, _environment(folder):
        page = build(weights, Path(folder), any_weights=is_local)
        _, address, _ = page.launch(
            server_name=host, server_port=port, max_file_size=most_bytes, allowed_paths=[folder], quiet=True,
            theme=theme, css=CSS, head=f"<script>{POINTER.read_text(encoding='utf-8')}</script>",
            prevent_thread_lock=True, show_error=True, share=False, footer_links=[], enable_monitoring=False,
            ssr_mode=False, app_kwargs={"middleware": middleware},
        )  # fmt: skip
        try:
            yield page, address
        finally:
            page.close(verbose=False)
