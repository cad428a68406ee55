"""`dlaseg demo` end to end, in a real browser, from a server on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from video_files import write_video

from dlaseg.cli import main
from dlaseg.data.datasets import label_map_of
from dlaseg.demo import segmenting
from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_label_image
from dlaseg.synthetic.dataset import draw_scene

# Gradio and its server leave files and sockets to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),  # which Gradio sets
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photo") / "street.png"
    write_png(file, draw_scene(0, 96, 128).image)
    return file


@pytest.fixture(scope="module")
def shared_page(browser, address):
    """A page for many tests: a new one loads and compiles all scripts of Gradio again."""
    context = browser.new_context()
    context.set_default_timeout(300_000)  # ms; however slow the machine is
    yield context.new_page()
    context.close()


@pytest.fixture
def open_page(shared_page, address):
    """Opens the page; in the end nothing may have been asked of other machines."""
    foreign = []

    def note(request):
        foreign.append(request.url)

    def open_(width=1280):
        shared_page.set_viewport_size({"width": width, "height": 900})
        shared_page.mouse.move(0, 0)
        shared_page.goto(address)
        shared_page.wait_for_selector("input[type=file]", state="attached")
        return shared_page

    shared_page.on("request", note)
    yield open_
    shared_page.remove_listener("request", note)
    assert [url for url in foreign if not url.startswith((address, "data:", "blob:"))] == []


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


def upload_another(page, file):
    """Uploads in place of the image that is there."""
    page.get_by_role("button", name="Remove Image").click()
    page.get_by_role("button", name="Drop an image file here to upload").wait_for()
    upload(page, file)


def segment(page, file):
    """Uploads and waits for the result."""
    upload(page, file)
    page.wait_for_selector("#shown label")


def test_an_upload_is_segmented_toggled_pointed_at_and_downloaded(open_page, photo, tmp_path):
    page = open_page()
    segment(page, photo)
    expected = Predictor("camvid-int8", "auto")(photo)
    assert "96 x 128 pixels" in page.inner_text("#times")
    shares = dict(re.findall(r"(\w[\w ]*?)  ([\d.]+)%", page.inner_text("#shown")))
    assert float(shares["road"]) == pytest.approx(100 * (expected == 3).mean(), abs=0.06)
    road = page.locator("#shown label", has_text="road")
    color = road.evaluate("label => getComputedStyle(label, '::before').backgroundColor")
    assert color == f"rgb{label_map_of('camvid').palette[3]}"
    road.evaluate("label => label.querySelector('span').prepend('_long'.repeat(20))")
    assert road.evaluate("label => label.scrollWidth <= label.clientWidth")
    page.wait_for_selector("#first img >> nth=1")
    before = page.locator("#first img").nth(1).get_attribute("src")
    page.locator("#shown label", has_text="road").locator("input").uncheck()
    page.wait_for_function("before => document.querySelectorAll('#first img')[1].src != before", arg=before)
    page.locator(".image-frame img").first.click()
    page.wait_for_function("document.querySelector('#pixel').innerText.includes('probability')")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Label map").click()
    waiting.value.save_as(tmp_path / "ids.png")
    assert waiting.value.suggested_filename == "street_ids.png"
    assert np.array_equal(read_label_image(tmp_path / "ids.png"), expected)


def test_the_class_under_the_pointer_is_named(open_page, photo):
    page = open_page(700)
    segment(page, photo)
    page.wait_for_selector("#first img >> nth=1")
    page.wait_for_function("document.querySelector('#pixels img')?.complete")
    predictor = Predictor("camvid-int8", "auto")
    probabilities = predictor.probabilities(photo)
    names = predictor.label_map.names
    for image in (page.locator("#first img").nth(1), page.locator("#image img")):
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        scale = min(box["width"] / 128, box["height"] / 96)
        for row, column in ((5, 3), (90, 64), (50, 120)):
            x = box["x"] + box["width"] / 2 + (column + 0.5 - 64) * scale
            page.mouse.move(x, box["y"] + box["height"] / 2 + (row + 0.5 - 48) * scale)
            name, sure = page.inner_text("#tip").split(", ")
            found = probabilities[:, row, column]
            assert name == names[found.argmax()]
            assert int(sure.removesuffix(" %")) == pytest.approx(100 * found.max(), abs=1)
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_a_bad_file_gives_a_message_and_the_server_lives_on(open_page, photo, tmp_path, capfd):
    page = open_page()
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:400])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "example.png").write_text("no image")
    capfd.readouterr()
    upload(page, tmp_path / "cut.png")
    page.wait_for_selector("text=/^cut.png: the end of the file is missing: replace or remove it/")
    upload_another(page, tmp_path / "text.png")
    page.wait_for_selector("text=/^text.png: broken or not an image: replace or remove the file/")
    page.locator(".gallery-item").first.click()  # which makes the part of the page anew
    page.wait_for_function("document.querySelector('#times').innerText.includes('90 x 160 pixels')")
    upload_another(page, tmp_path / "example.png")
    page.wait_for_selector("text=/^example.png: broken or not an image: replace or remove the file/")
    assert "Traceback" not in capfd.readouterr().err
    assert not (Path(segmenting.__file__).parent / "page.pyi").exists()
    page.reload()
    page.wait_for_selector("input[type=file]", state="attached")
    segment(page, photo)


def test_a_file_beyond_the_limit_is_not_taken(open_page, tmp_path):
    page = open_page()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (700, 700, 3), np.uint8)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    page.wait_for_selector("text=/exceeds|maximum|size/i")


@pytest.mark.slow
def test_two_networks_stand_side_by_side(open_page, photo, second_weights):
    page = open_page()
    segment(page, photo)
    page.get_by_label("Compare with").click()
    page.get_by_role("option", name=second_weights).click()
    page.wait_for_function("name => document.querySelector('#times').innerText.includes(name)", arg=second_weights)
    assert page.locator("text=Compared with").count() >= 1
    assert "camvid-int8" in page.inner_text("#times")


@pytest.mark.slow
def test_weights_that_are_named_are_converted_for_the_fastest_engine(served_page, photo):
    page, address = served_page
    index = next(number for number, event in page.fns.items() if event.fn.__name__ == "segment")
    client = Client(address, download_files=False, verbose=False)
    answer = client.predict(handle_file(photo), "camvid", "", "auto", [1.0], False, 0.6, fn_index=index)
    assert any(isinstance(part, str) and "(openvino, float32)" in part for part in answer)


@pytest.mark.slow
def test_ten_people_at_once_are_not_mixed_up(served_page, tmp_path):
    page, address = served_page
    index = next(number for number, event in page.fns.items() if event.fn.__name__ == "segment")
    for number in range(10):
        write_png(tmp_path / f"{number}.png", draw_scene(number, 64, 70 + number).image)

    def ask(number):
        client = Client(address, download_files=False, verbose=False)
        file = handle_file(tmp_path / f"{number}.png")
        return client.predict(file, "camvid", "", "torch", [1.0], False, 0.6, fn_index=index)

    with ThreadPoolExecutor(10) as pool:
        for number, answer in enumerate(pool.map(ask, range(10))):
            assert any(isinstance(part, str) and f"64 x {70 + number} pixels" in part for part in answer)


def test_a_video_is_segmented_and_its_frames_are_counted(open_page, tmp_path, monkeypatch):
    page, seen, numbers, segment = open_page(), Event(), count(), Predictor.segment

    def wait_in_the_middle(*arguments):
        if next(numbers) == 5:
            assert seen.wait(60)
        return segment(*arguments)

    monkeypatch.setattr(Predictor, "segment", wait_in_the_middle)
    write_video(tmp_path / "clip.mp4", frames=10)
    page.get_by_role("tab", name="Video").click()
    page.locator("input[type=file]").nth(1).set_input_files(tmp_path / "clip.mp4")
    page.wait_for_selector("video", state="attached")
    page.get_by_role("button", name="Segment").click()
    page.wait_for_function("document.body.innerText.includes('5/10 frame')")
    seen.set()
    page.wait_for_function("document.querySelectorAll('video').length > 1")


@pytest.fixture
def segment_video(served_page):
    """Sends a video as a browser does; gives the answer."""
    page, address = served_page
    index = next(number for number, event in page.fns.items() if event.fn.__name__ == "segment_video")
    client = Client(address, download_files=False, verbose=False)

    def ask(file):
        video = None if file is None else handle_file(file)
        return client.predict(video, "camvid-int8", "auto", fn_index=index)

    return ask


def test_a_video_that_cannot_be_read_gives_a_message_without_folders_and_no_traceback(segment_video, tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("no video")
    capfd.readouterr()
    with pytest.raises(AppError) as caught:
        segment_video(tmp_path / "text.mp4")
    assert str(caught.value).startswith("text.mp4: ")
    with pytest.raises(AppError, match="choose a video first"):
        segment_video(None)
    write_png(tmp_path / "picture.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(AppError, match=r"^picture.png: not a video: use one of .*, or the tab Image"):
        segment_video(tmp_path / "picture.png")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_truncated_video_shows_the_frames_that_can_be_read(open_page, tmp_path):
    path = write_video(tmp_path / "cut.avi", frames=20, fourcc="MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    page = open_page()
    page.get_by_role("tab", name="Video").click()
    page.locator("input[type=file]").nth(1).set_input_files(path)
    page.wait_for_selector("video", state="attached")
    page.get_by_role("button", name="Segment").click()
    page.wait_for_selector("text=/^cut.avi: .* of 20 frames can be read; their results were written/")
    page.wait_for_function("document.querySelectorAll('video').length > 1")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/tmp/dlaseg-1/0a/bad.png: broken: remove it", "bad.png: broken: remove it"),
        ("'/srv/bad.png' and /srv/a/b.png: broken", "'bad.png' and b.png: broken"),
        ("../x: use a file such as runs/NAME/best.safetensors", "../x: use a file such as runs/NAME/best.safetensors"),
        ("a/b: download https://host/a/b/c.pt elsewhere", "a/b: download https://host/a/b/c.pt elsewhere"),
    ],
)
def test_messages_lose_the_folders_of_the_server_and_nothing_else(message, shown):
    from dlaseg.demo.page import _without_folders  # imports Gradio, which takes seconds

    assert _without_folders(message) == shown


def fake_result(labels):
    image = np.full((*labels.shape, 3), 100, np.uint8)
    return segmenting.Segmented("a", image, labels, None, label_map_of("camvid"), (0, 0), "torch, float32")


@pytest.fixture
def handlers(tmp_path):
    from dlaseg.demo.page import Handlers

    return Handlers(tmp_path)


def test_classes_of_the_second_network_alone_stay_shown(handlers):
    first, second = (fake_result(np.full((2, 3), label, np.uint8)) for label in (0, 8))
    shown = [name for _, name in segmenting.legend(first)]
    _, drawn = (update["value"][1] for update in handlers.draw(first, second, shown, 0.6))
    assert np.array_equal(drawn, segmenting.picture(second, [], 0.6))
    drawn, _ = (update["value"][1] for update in handlers.draw(first, second, [], 0.6))
    assert np.array_equal(drawn, first.image)


def test_what_is_pointed_at_is_cleared_before_another_image_is_segmented(served_page):
    page, _ = served_page
    (segment,) = (event for event in page.fns.values() if event.name == "segment")
    clear = page.fns[segment.trigger_after]
    assert (clear.name, clear.queue, segment.trigger_mode) == ("clear", False, "always_last")
    assert len(clear.targets) == 6
    assert {"pixels", "pixel"} <= {block.elem_id for block in clear.outputs}


@pytest.mark.parametrize("shape", [(1, 20_000), (17_000, 2)])
def test_a_picture_beyond_the_limit_of_webp_is_shown_with_fewer_pixels(shape):
    import gradio

    from dlaseg.demo.page import _slider

    value = _slider(fake_result(np.zeros(shape, np.uint8)), [], 0.6)["value"]
    assert gradio.ImageSlider().postprocess(value) is not None
    assert max(value[0].shape) >= 8_500


def test_weights_may_have_the_name_of_the_choice_of_no_second_ones(handlers, monkeypatch):
    seen = []
    result = fake_result(np.zeros((2, 3), np.uint8))
    monkeypatch.setattr(handlers._networks, "segment", lambda file, name, *more: seen.append(name) or result)
    for second, names in (("none", ["none", "none"]), ("", ["none"])):
        answer = handlers.segment("a.png", "none", second, "torch", [1.0], False, 0.6)
        assert seen == names
        assert answer[6].count("**none**") == len(names)
        seen.clear()


def test_the_downloads_and_the_legend_are_those_of_the_first_network(handlers, monkeypatch):
    labels = {"one": 3, "two": 8}
    given = []

    def segment(file, name, *options):
        given.append(options)
        return fake_result(np.full((2, 3), labels[name], np.uint8))

    monkeypatch.setattr(handlers._networks, "segment", segment)
    first, second, *sliders, _, colors, _, shown, ids, _, _ = handlers.segment(
        "a.png", "one", "two", "torch", [0.5], True, 0.2
    )
    assert given == [("torch", [0.5], True)] * 2
    assert [np.unique(each.labels).tolist() for each in (first, second)] == [[3], [8]]
    for slider, each in zip(sliders, (first, second), strict=True):
        assert np.array_equal(slider["value"][1], segmenting.picture(each, [], 0.2))
    assert segmenting.swatches(first, "#shown") in colors
    assert (shown["choices"], shown["value"]) == ([("road  100.0%", "road")], ["road"])
    assert np.unique(read_label_image(Path(ids))).tolist() == [3]


def test_the_pixel_that_is_clicked_is_described(handlers):
    import gradio

    result = fake_result(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert handlers.point(result, SimpleNamespace(index=[2, 1])).startswith("row 1, column 2: ")
    with pytest.raises(gradio.Error, match="outside the image of 2 x 3"):
        handlers.point(result, SimpleNamespace(index=[1, 2]))


def test_a_video_is_segmented_as_it_was_asked_for(handlers, monkeypatch):
    given = []

    def infer(weights, file, output, save, backend):
        given.append((weights, file, save, backend))
        (output / "overlay").mkdir()
        (output / "overlay/clip.mp4").touch()
        return SimpleNamespace(failed=[])

    monkeypatch.setattr("dlaseg.demo.page.infer", infer)
    assert handlers.segment_video("/tmp/clip.MP4", "mine", "torch", lambda *_: None).endswith("/overlay/clip.mp4")
    assert given == [("mine", "/tmp/clip.MP4", ["overlay"], "torch")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/tmp/dlaseg-1/a.png"), "a.png: No space left on device: make room"),
        (MemoryError(), "too little memory on the server: use a smaller file"),
    ],
)
def test_a_server_without_room_says_so(handlers, monkeypatch, error, message):
    import gradio

    def fail(*arguments):
        raise error

    monkeypatch.setattr("dlaseg.demo.page.save", fail)
    monkeypatch.setattr(handlers._networks, "segment", lambda *arguments: fake_result(np.zeros((2, 3), np.uint8)))
    with pytest.raises(gradio.Error, match=message):
        handlers.segment("a.png", "camvid", "", "torch", [1.0], False, 0.6)


def test_a_name_that_leads_to_this_machine_is_no_way_in(address):
    port = address.rstrip("/").rpartition(":")[2]
    for host, status in (("evil.example", 400), (f"evil.example:{port}", 400), (f"localhost:{port}", 200)):
        assert httpx.get(f"{address}config", headers={"Host": host}).status_code == status


def test_other_machines_are_offered_the_listed_weights_alone(photo, tmp_path, monkeypatch):
    import gradio

    from dlaseg.demo import page

    assert [page.is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "0.0.0.0", "a.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    monkeypatch.setattr(page, "draw_examples", lambda folder: [photo])
    blocks = page.build(["camvid"], tmp_path, any_weights=False).blocks.values()
    first, second, _ = (block for block in blocks if isinstance(block, gradio.Dropdown))
    assert (first.preprocess("camvid"), second.preprocess("")) == ("camvid", "")
    for dropdown in (first, second):
        with pytest.raises(gradio.Error, match="not in the list of choices"):
            dropdown.preprocess("/etc/passwd")


@pytest.mark.parametrize(("host", "any_weights"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_this_machine_alone_may_name_other_weights(monkeypatch, host, any_weights):
    from dlaseg.demo import page

    monkeypatch.setattr(page, "check_address", lambda *address: None)
    monkeypatch.setattr(page, "build", Mock(side_effect=UserError("built")))
    before = dict(os.environ)
    with pytest.raises(UserError, match="built"), page.served(["camvid"], host, 7860, 1):
        pass
    assert page.build.call_args.kwargs == {"any_weights": any_weights}
    assert dict(os.environ) == before


def test_other_files_of_this_machine_are_not_served(address):
    for file in ("/etc/hostname", sys.executable):
        assert httpx.get(f"{address}gradio_api/file={file}").status_code == 403


def test_a_port_of_the_system_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(socket, "create_server", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert main(["demo", "--port", "80"]) == 2
    assert "--port 80: reserved for the system: use 1024 or more" in capsys.readouterr().err


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_uploads_go_when_the_command_is_ended(photo, tmp_path, monkeypatch):
    """In this process: Gradio takes seconds to import in another."""
    import gradio

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("dlaseg.demo.page.draw_examples", lambda folder: [photo])
    port, uploads, before = free_port(), [], signal.getsignal(signal.SIGTERM)

    def block(page):
        files = {"files": (photo.name, photo.read_bytes())}
        httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files=files).raise_for_status()
        uploads.extend(tmp_path.rglob("street.png"))
        assert signal.getsignal(signal.SIGTERM) is not before  # or this process would end
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        block_thread(page)

    block_thread = gradio.Blocks.block_thread
    monkeypatch.setattr(gradio.Blocks, "block_thread", block)
    assert main(["demo", "--port", str(port)]) in (0, 130)  # 130: before Gradio waits
    assert uploads
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_uploads_go_when_the_server_ends(photo, tmp_path, stop):
    port = free_port()
    # As in a terminal; a shell's background jobs, of which these tests may be one, ignore SIGINT
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{terminal}; from dlaseg.cli import main; raise SystemExit(main(['demo', '--port', '{port}']))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[0]
            files = {"files": (photo.name, photo.read_bytes())}
            httpx.post(f"{address}gradio_api/upload", files=files).raise_for_status()
            uploads = list(tmp_path.rglob("street.png"))
            server.send_signal(stop)
            assert server.wait(300) == 0
        finally:
            server.kill()
    assert uploads
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_wrong_use_is_one_line(port, address, capsys):
    assert main(["demo", "camvidd"]) == 2
    assert main(["demo", "--port", str(port)]) == 2
    assert main(["demo", "--host", "203.0.113.1"]) == 2
    assert main(["demo", "--port", "99999"]) == 2
    assert main(["demo", "--max-upload", "much"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert "camvidd" in errors[0]
    assert f"--port {port} is taken: use another port" in errors[1]
    assert "--host 203.0.113.1: not an address of this machine: use 127.0.0.1 or 0.0.0.0" in errors[2]
