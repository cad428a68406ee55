"""The page in a real browser, from the file system and offline."""

import json

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from dlaseg.evaluation.metrics.bootstrap import ImageCounts, class_intervals, miou_interval
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.calibration import Calibration
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix, class_counts
from dlaseg.evaluation.report.gallery import pack_image
from dlaseg.evaluation.report.report import confusions, write_report
from dlaseg.evaluation.report.tables import scores_table
from dlaseg.evaluation.results import build_results

NAMES = ("road", "car", "moon", "</script><b>x")
PALETTE = ((128, 64, 128), (0, 0, 142), (250, 170, 30), (70, 130, 180))
HEIGHT, WIDTH = 40, 60


def scene(shift):
    """Road left, car right, the last class below; a strip that is not scored; the prediction moved to the right."""
    target = np.zeros((HEIGHT, WIDTH), np.uint8)
    target[:, 30:] = 1
    target[20:30, 45:] = 0
    target[30:] = 3
    prediction = np.roll(target, shift, 1)
    prediction[0, 0] = 255
    target[:4] = 255
    return target, prediction


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Fourteen images: twelve are shown."""
    folder = tmp_path_factory.mktemp("page")
    total, boundary, calibration, images, parts = ConfusionMatrix(4), BoundaryIoU(4), Calibration(), [], []
    names = [f"city/{i:02d}" for i in range(14)]
    for i, name in enumerate(names):
        target, prediction = scene(i + 1)
        scored = target != 255
        images.append(class_counts(total.update(target[scored], prediction[scored])))
        boundary.update(target, prediction)
        calibration.update(target, prediction, np.linspace(0.3, 1, target.size, dtype=np.float32).reshape(target.shape))
        image = np.full((HEIGHT, WIDTH, 3), (10, 200, 10 * i), np.uint8) if i else None
        parts.append(pack_image(name, image, target, prediction))
    protocol = {"dataset": "folder", "split": "val", "images": 14, "scales": [0.5, 1.0], "flip": False,
                "precision": "float32", "backend": "torch", "weights_sha256": "ab" * 32,
                "weights_origin": [{"source": "camvid", "argument": "model.weights", "sha256": "cd" * 32}],
                "model": {"name": "dla34", "stride": 4}}  # fmt: skip
    counts = ImageCounts.of(names, images)
    results = build_results(NAMES, total.scores(), total.matrix, counts, protocol, None, boundary, calibration)
    parts.reverse()  # the farther moved, the worse
    gallery = {"worst": parts[:4], "median": parts[5:9], "best": parts[-4:]}
    (folder / "log.jsonl").write_text(
        "".join(json.dumps({"epoch": i, "loss": 1 / i, "lr": 0.1, "miou": i / 9}) + "\n" for i in range(1, 6))
    )
    environment = {"command": ["dlaseg", "train"], "python": "3.12", "platform": "Linux", "cpus": 2,
                   "packages": {"torch": "2.9"}, "git_commit": None, "gpus": ["a GPU"]}  # fmt: skip
    (folder / "config.yaml").write_text("data: {train_split: train, val_split: val}\n")
    (folder / "environment.json").write_text(json.dumps(environment))
    write_report(folder / "report.html", results, PALETTE, gallery, folder)
    (folder / "scores.json").write_text(json.dumps(results))
    return folder / "report.html"


@pytest.fixture(scope="module")
def results(page_file):
    return json.loads((page_file.parent / "scores.json").read_text())


@pytest.fixture
def open_page(open_file, page_file):
    """Opens the page, or another file, and waits for the first image."""

    def open_(*size, file=page_file, **options):
        page = open_file(file, *size, **options)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("#stage[data-shown]")
        return page

    return open_


def column(page, table, index):
    return [row.inner_text().strip() for row in page.query_selector_all(f"{table} tbody tr > :nth-child({index})")]


def color(page, row, column):
    """Red, green, blue and alpha of the layer."""
    copy = """([y, x]) => {
        const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        context.drawImage(document.getElementById("layer"), -x, -y);
        return [...context.getImageData(0, 0, 1, 1).data];
    }"""
    return page.evaluate(copy, [row, column])


def choose(page, name, value):
    page.check(f'input[name="{name}"][value="{value}"]', force=True)


def test_the_page_opens_and_shows_the_scores(open_page, results):
    page = open_page()
    assert page.title() == f"dla34 on folder val: mIoU {100 * results['miou']:.2f} %"
    head = page.inner_text("header")
    assert f"{100 * results['miou']:.2f}" in head
    low, high = results["miou_interval"]
    assert f"95 % interval {100 * low:.2f} to {100 * high:.2f}" in head
    assert f"{100 * results['calibration']['expected_calibration_error']:.2f}" in head
    assert "not part of the mean: moon" in head
    figures = dict(text.split("\n")[:2] for text in page.locator(".figure").all_inner_texts())
    shown = {"Pixel accuracy": "pixel_accuracy", "Mean accuracy": "mean_accuracy"}
    assert {name: figures[name] for name in shown} == {n: f"{100 * results[key]:.2f} %" for n, key in shown.items()}
    assert figures["Boundary IoU"] == f"{100 * results['boundary_iou']['mean']:.2f} %"
    worst = confusions(results)[0]
    assert " ".join(page.locator("#confusions li").first.inner_text().split()) == (
        f"{worst.truth} predicted as {worst.prediction} {100 * worst.cost:.2f} points "
        f"{100 * worst.share:.1f} % of {worst.truth}, {worst.pixels:,} pixels"
    )
    provenance = page.inner_text("#provenance")
    assert "14 whole images at native size, scales 0.5, 1.0, without horizontal flip, float32 by torch." in provenance
    assert f"camvid as model.weights SHA-256 {'cd' * 32}" in provenance
    assert "a GPU" in provenance
    assert page.locator("#training svg").count() == 3
    assert NAMES[3] in page.inner_text("#classes")


def test_each_class_has_its_scores_interval_and_colour(open_page, results):
    page, rows = open_page(), results["classes"].values()
    total = sum(row["pixels"] for row in rows)
    for number, values in (
        (2, [row["iou"] for row in rows]),
        (4, results["boundary_iou"]["classes"].values()),
        (5, [row["accuracy"] for row in rows]),
        (6, [row["pixels"] / total for row in rows]),
    ):
        expected = ["–" if value is None else f"{100 * value:.2f}" for value in values]
        assert column(page, "#classes table", number) == expected
    intervals = filter(None, class_intervals(ImageCounts.from_dict(results["images"])))
    bars = page.locator("#classes .bar u").evaluate_all("all => all.map(({ style }) => [style.left, style.width])")
    assert [[float(text.rstrip("%")) for text in bar] for bar in bars] == [
        pytest.approx([100 * low, 100 * (high - low)], abs=0.006) for low, high in intervals
    ]
    for place in ("#classes", ".class-switches"):
        swatches = page.locator(f"{place} .swatch")
        colors = swatches.evaluate_all("all => all.map(it => getComputedStyle(it).backgroundColor)")
        assert colors == ["rgb({}, {}, {})".format(*color) for color in PALETTE]


def test_the_table_sorts_by_every_column_with_missing_values_last(open_page, results):
    page, table = open_page(), "#classes table"
    assert column(page, table, 1) == list(NAMES)
    iou = {name: row["iou"] for name, row in results["classes"].items() if row["iou"] is not None}
    best_first = sorted(iou, key=lambda name: -iou[name])
    heads = page.locator(f"{table} thead th")
    heads.nth(1).get_by_role("button").click()
    assert column(page, table, 1) == [*best_first, "moon"]
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")  # the button keeps the focus
    assert column(page, table, 1) == [*best_first[::-1], "moon"]
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    heads.nth(0).get_by_role("button").click()
    assert column(page, table, 1) == [NAMES[3], "car", "moon", "road"]
    assert heads.nth(1).get_attribute("aria-sort") == "none"
    heads.nth(4).get_by_role("button").click()
    shares = [float(value) for value in column(page, table, 6)]
    assert shares == sorted(shares, reverse=True)


def test_all_images_are_listed_worst_first(open_page, results):
    page, table = open_page(), "#images table"
    page.click("summary")
    listed = column(page, table, 2)
    assert listed == [f"{100 * value:.2f}" for value in sorted(results["images"]["miou"])]
    page.click(f"{table} thead th:nth-child(2) button")
    assert column(page, table, 2) == listed[::-1]
    page.click(f"{table} thead th:nth-child(1) button")
    assert column(page, table, 1) == results["images"]["names"]


def test_the_confusion_matrix_shows_shares_and_counts_and_names_its_cells(open_page, results):
    page = open_page(color_scheme="light")  # a page of its own, which is printed in the end
    matrix = np.array(results["confusion_matrix"])

    def cell(row, column):
        return page.locator(f'#heatmap td[data-row="{row}"][data-column="{column}"]')

    assert page.locator("#heatmap td[data-row]").count() == 16
    assert cell(0, 1).inner_text() == ("0" if not matrix[0, 1] else f"{100 * matrix[0, 1] / matrix[0].sum():.0f}")
    assert cell(0, 2).inner_text() == ""
    cell(1, 0).hover()
    share = 100 * matrix[1, 0] / matrix[1].sum()
    assert page.inner_text("#cell") == f"car predicted as road: {matrix[1, 0]:,} pixels, {share:.2f} % of car"
    shades = [cell(1, i).evaluate("it => getComputedStyle(it).backgroundColor") for i in range(2)]
    assert "180, 60, 10" in shades[0]
    assert "29, 78, 216" in shades[1]
    choose(page, "values", "counts")
    assert cell(1, 1).inner_text() == f"{round(matrix[1, 1] / 1000, 1):g}K"
    page.focus('input[name="values"]:checked')
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.column") == "0"
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.inner_text("#cell").startswith(f"road predicted correctly: {matrix[0, 0]:,} pixels")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#cell").startswith("road predicted as car")
    assert page.locator('#heatmap td[tabindex="0"]').count() == 1
    page.set_viewport_size({"width": 1280, "height": 150})
    cell(3, 3).hover()
    assert page.locator("#cell").bounding_box()["y"] >= 0
    page.emulate_media(media="print", color_scheme="dark")
    assert cell(0, 0).evaluate("it => getComputedStyle(it).printColorAdjust") == "exact"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_row_of_the_confusion_matrix_counts_pixels_that_are_predicted_as_no_class(open_page, results, tmp_path):
    row = results["classes"]["car"]
    classes = results["classes"] | {"car": row | {"pixels": 300 * row["pixels"]}}
    gallery = {"all": [pack_image("city/00", None, *scene(1))]}
    write_report(tmp_path / "page.html", results | {"classes": classes}, PALETTE, gallery)
    page, correct = open_page(file=tmp_path / "page.html"), results["confusion_matrix"][1][1]
    cell = page.locator('#heatmap td[data-row="1"][data-column="1"]')
    cell.hover()
    assert page.inner_text("#cell").endswith(f"{100 * correct / (300 * row['pixels']):.2f} % of car")
    assert cell.inner_text() == "<1"


def test_layers_are_painted_from_the_labels(open_page):
    page = open_page()
    shift = 14  # of the worst image
    right, wrong, ignored, below = (10, 20), (10, 30 + shift - 1), (2, 20), (35, 20)
    assert color(page, *ignored) == [0, 0, 0, 230]
    assert color(page, *right) == color(page, *below) == [255, 255, 255, 150]
    stripes = {tuple(color(page, 10 + i, 30 + shift - 1)) for i in range(8)}
    assert stripes == {(214, 39, 40, 255), (92, 10, 10, 255)}
    key = '<i class="wrong"></i>wrong<i class="correct"></i>correct<i class="ignored"></i>ignored'
    assert page.inner_html("#key") == key
    assert page.locator("#layer").evaluate("it => getComputedStyle(it).imageRendering") == "pixelated"
    choose(page, "layer", "target")
    assert page.inner_text("#key") == "Class colours. ignored"
    assert color(page, *wrong) == [*PALETTE[1], 255]
    assert color(page, *below) == [*PALETTE[3], 255]
    assert color(page, *ignored) == [0, 0, 0, 255]
    choose(page, "layer", "prediction")
    assert page.inner_text("#key") == "Class colours. no class"
    assert color(page, *wrong) == [*PALETTE[0], 255]
    assert color(page, 0, 0) == [0, 0, 0, 255]
    choose(page, "layer", "none")
    assert color(page, *wrong)[3] == 0


@pytest.mark.parametrize(("black", "white", "ignored"), [(1, None, 255), (None, 1, 0), (1, 3, 128)])
def test_what_is_ignored_has_the_colour_of_no_class(open_page, page_file, tmp_path, black, white, ignored):
    text = page_file.read_text(encoding="utf-8")
    for number, color_of_class in ((black, "#000000"), (white, "#ffffff")):
        if number is not None:
            text = text.replace("#{:02x}{:02x}{:02x}".format(*PALETTE[number]), color_of_class)
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = open_page(file=tmp_path / "page.html")
    choose(page, "layer", "target")
    assert color(page, 10, 50) == [0 if black else 255] * 3 + [255]
    assert color(page, 2, 20) == [ignored] * 3 + [255]
    background = "getComputedStyle(document.querySelector('#key i')).backgroundColor"
    assert page.evaluate(background) == f"rgb({ignored}, {ignored}, {ignored})"


def test_classes_can_be_switched_off_and_on(open_page):
    page = open_page()
    road, car, below = (10, 20), (10, 50), (35, 20)
    choose(page, "layer", "target")
    page.uncheck('input[name="class"][value="1"]')
    assert [color(page, *place)[3] for place in (road, car, below)] == [255, 0, 255]
    page.click("#none")
    assert [color(page, *place)[3] for place in (road, car, below)] == [0, 0, 0]
    page.check('input[name="class"][value="3"]')
    assert [color(page, *place)[3] for place in (road, car, below)] == [0, 0, 255]
    choose(page, "layer", "errors")  # of a class: what it is and what is taken for it
    assert [color(page, *place)[3] for place in (road, car)] == [0, 0]
    wrong = (10, 43)  # a car that is predicted as road
    for shown in (0, 1):
        page.click("#none")
        page.check(f'input[name="class"][value="{shown}"]')
        assert color(page, *wrong)[3] == 255
    page.click("#all")
    assert all(color(page, *place)[3] for place in (road, car, below))


def test_the_slider_sets_the_opacity_of_the_layer(open_page):
    page = open_page()

    def opacity():
        return float(page.locator("#layer").evaluate("it => getComputedStyle(it).opacity"))

    assert opacity() == 0.75
    page.focus("#opacity")
    page.keyboard.press("ArrowLeft")
    assert opacity() == 0.74
    assert page.inner_text("#opacity-value") == "74 %"
    page.keyboard.press("Home")
    assert opacity() == 0
    box = page.locator("#opacity").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    assert opacity() == 1


def point(page, row, column):
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / WIDTH, box["y"] + (row + 0.5) * box["height"] / HEIGHT)


def test_the_pixel_under_the_cursor_is_named(open_page):
    page = open_page()
    point(page, 10, 43)
    assert page.inner_text("#pixel") == "Row 10, column 43: ground truth car, prediction road (wrong)"
    point(page, 10, 25)
    assert page.inner_text("#pixel") == "Row 10, column 25: ground truth road, prediction road (correct)"
    point(page, 35, 50)
    assert page.inner_text("#pixel") == f"Row 35, column 50: ground truth {NAMES[3]}, prediction {NAMES[3]} (correct)"
    point(page, 0, 0)
    assert page.inner_text("#pixel") == "Row 0, column 0: ground truth ignored, prediction no class"


def test_the_keyboard_moves_from_pixel_to_pixel_and_stops_at_the_border(open_page):
    page = open_page()
    page.focus("#stage")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#pixel").startswith("Row 22, column 39: ground truth car")
    assert page.locator("#cursor").is_visible()
    for _ in range(9):
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Shift+ArrowLeft")
    assert page.inner_text("#pixel").startswith("Row 0, column 0")


def test_every_image_can_be_chosen_by_mouse_and_keyboard(open_page, results):
    page = open_page()
    miou = dict(zip(results["images"]["names"], results["images"]["miou"], strict=True))
    names = [it.inner_text() for it in page.query_selector_all(".thumb .name")]
    shown = [float(it.inner_text()) for it in page.query_selector_all(".thumb .number")]
    assert shown == [round(100 * miou[name], 2) for name in names]
    assert len(names) == 12
    assert page.locator(".groups legend").all_inner_texts() == ["Worst", "Median", "Best"]
    frames = page.locator(".thumb .frame").evaluate_all("all => all.map(it => it.style.backgroundImage)")
    assert frames == page.evaluate('data.images.map(({ image }) => image && `url("${image}")`)')[:-1] + [""]
    assert page.locator("#stage").get_attribute("aria-label") == "city/13, errors"
    point(page, 10, 43)
    choose(page, "image", 8)
    page.wait_for_selector('#stage[data-shown="8"]')
    assert page.locator("#stage").get_attribute("aria-label") == "city/03, errors"
    assert page.inner_text("#pixel") == "Point at a pixel to see its classes."
    point(page, 10, 43)
    assert page.inner_text("#pixel").endswith("prediction car (correct)")
    ious = [it.inner_text() for it in page.query_selector_all(".class-switches .list .number")]
    counts = ImageCounts.from_dict(results["images"])
    expected = counts.iou()[3]
    assert ious == ["–" if np.isnan(value) else f"{100 * value:.1f}" for value in expected]
    page.focus('input[name="image"]:checked')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('#stage[data-shown="9"]')
    choose(page, "image", 11)
    page.wait_for_selector('#stage[data-shown="11"]')
    assert "The image file was not found" in page.inner_text("#key")
    assert page.locator("#photo").is_hidden()


def test_places_of_a_reduced_label_map_are_those_of_the_image(open_page, page_file, tmp_path):
    text = page_file.read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace('"size": [40, 60]', '"size": [80, 180]'), "utf-8")
    page = open_page(file=tmp_path / "page.html")
    point(page, 10, 43)
    assert page.inner_text("#pixel").startswith("Row 21, column 130: ground truth car")
    page.check("#full-size")
    assert page.locator("#stage").bounding_box()["width"] == 180


def test_full_size_shows_one_css_pixel_per_pixel(open_page):
    page = open_page()
    before = page.locator("#stage").bounding_box()["width"]
    assert before > WIDTH
    page.check("#full-size")
    box = page.locator("#stage").bounding_box()
    assert (box["width"], box["height"]) == (WIDTH, HEIGHT)
    page.uncheck("#full-size")
    assert page.locator("#stage").bounding_box()["width"] == before


@pytest.mark.parametrize("count", [5, 6])
def test_page_and_table_say_why_there_is_no_interval(open_page, results, tmp_path, count):
    images = {key: values[:8] for key, values in results["images"].items()}
    for key in ("hits", "truth", "predicted"):  # the others have no scored pixel
        images[key] = [row if i < count else [0] * len(row) for i, row in enumerate(images[key])]
    interval = miou_interval(ImageCounts.from_dict(images))
    few = results | {"images": images, "miou_interval": interval}
    write_report(tmp_path / "page.html", few, PALETTE, {"all": [pack_image("city/00", None, *scene(1))]})
    reason = "interval: it takes 6 images with scored pixels"
    assert (reason in open_page(file=tmp_path / "page.html").inner_text(".figure.main")) == (count == 5)
    assert (reason.replace(":", " of the mIoU:") in scores_table(few)) == (count == 5)


def test_a_high_image_fits_one_and_a_half_windows_and_is_wider_at_full_size(open_page, results, tmp_path):
    target, prediction = (np.repeat(labels, 50, 0) for labels in scene(1))
    write_report(tmp_path / "page.html", results, PALETTE, {"all": [pack_image("city/00", None, target, prediction)]})
    page = open_page(1280, 600, file=tmp_path / "page.html")
    box = page.locator("#stage").bounding_box()
    assert (box["width"], box["height"]) == pytest.approx((900 * WIDTH / (50 * HEIGHT), 900), abs=1)
    page.check("#full-size")
    assert page.locator("#stage").bounding_box()["height"] == pytest.approx(50 * HEIGHT, abs=1)
    page.emulate_media(media="print")
    printed = page.locator("#stage").bounding_box()["height"]
    page.emulate_media(media="screen")
    assert printed < 297 / 25.4 * 96  # a page of A4


def test_paper_has_the_name_of_the_image_and_what_is_folded_on_the_screen(open_page, results):
    page = open_page()
    last, caption = page.locator("#images table tbody tr").last, page.locator("#caption")
    assert not last.is_visible()
    assert not caption.is_visible()
    choose(page, "image", 8)
    page.wait_for_selector('#stage[data-shown="8"]')
    choose(page, "layer", "prediction")
    page.emulate_media(media="print")
    assert caption.is_visible()
    assert caption.inner_text() == "city/03, prediction"
    assert last.is_visible()
    table, region = page.locator("#images table"), page.locator("#images .tall")
    assert region.bounding_box()["height"] == table.bounding_box()["height"]  # not a part of it
    assert not page.get_by_text("Point at").first.is_visible()
    page.emulate_media(media="screen")


def with_classes(results, count):
    """The results with classes that do not occur."""
    images, more = results["images"], range(len(NAMES), count)
    counts = {key: [[*row, *(0 for _ in more)] for row in images[key]] for key in ("hits", "truth", "predicted")}
    classes = results["classes"] | {f"class {i}": {"iou": None, "accuracy": None, "pixels": 0} for i in more}
    boundary = results["boundary_iou"] | {"classes": dict.fromkeys(classes)}
    matrix = np.zeros((count, count), int)
    matrix[: len(NAMES), : len(NAMES)] = results["confusion_matrix"]
    return results | {
        "classes": classes, "images": images | counts, "confusion_matrix": matrix.tolist(), "boundary_iou": boundary
    }  # fmt: skip


@pytest.mark.parametrize("count", [40, 41])
def test_paper_has_a_sentence_instead_of_a_matrix_of_more_than_40_classes(open_page, results, tmp_path, count):
    gallery = {"all": [pack_image("city/00", None, *scene(1))]}
    palette = [PALETTE[i % len(PALETTE)] for i in range(count)]
    write_report(tmp_path / "page.html", with_classes(results, count), palette, gallery)
    page = open_page(file=tmp_path / "page.html")
    matrix, sentence = page.locator("#heatmap"), page.get_by_text("too large for paper")
    assert matrix.is_visible()
    assert not sentence.is_visible()
    page.emulate_media(media="print")
    printed = [matrix.is_visible(), sentence.is_visible()]
    page.emulate_media(media="screen")
    assert printed == [count == 40, count == 41]


def test_a_long_list_of_visible_classes_scrolls_inside(open_page, results, tmp_path):
    gallery = {"all": [pack_image("city/00", None, *scene(1))]}
    write_report(tmp_path / "page.html", with_classes(results, 60), PALETTE * 15, gallery)
    page = open_page(file=tmp_path / "page.html")
    last, shown = page.locator('input[name="class"]').last, page.locator(".class-switches .list")
    assert shown.bounding_box()["height"] == 40 * 16
    last.scroll_into_view_if_needed()
    box, inside = shown.bounding_box(), last.bounding_box()
    assert box["y"] < inside["y"] < box["y"] + box["height"]


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("dark", 320),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("light", 320), ("light", 390), ("light", 1280), ("dark", 390), ("dark", 1280))
        ),
    ],
)
def test_nothing_overflows_and_axe_finds_no_violation(open_page, width, scheme):
    page = open_page(width, 800, color_scheme=scheme, bypass_csp=True)  # for the checker's own script
    long = "all => all.forEach(it => (it.firstElementChild ?? it).append('_long'.repeat(20)))"
    page.locator("#confusions span:first-child b, #heatmap tbody th").evaluate_all(long)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#heatmap tbody th").first.bounding_box()["width"] < width / 2
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (red + green + blue < 150) is (scheme == "dark")
    choose(page, "layer", "target")
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()


def test_a_tap_names_a_pixel(open_page):
    page = open_page(390, 800, has_touch=True, is_mobile=True)
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 43.5 / WIDTH, box["y"] + box["height"] * 10.5 / HEIGHT)
    assert page.inner_text("#pixel") == "Row 10, column 43: ground truth car, prediction road (wrong)"


def test_without_javascript_the_numbers_are_shown_with_a_notice(open_page, results):
    page = open_page(java_script_enabled=False)
    assert "JavaScript is off" in page.inner_text("header")
    assert column(page, "#classes table", 1) == list(NAMES)
    assert f"{100 * results['classes']['car']['iou']:.2f}" in page.inner_text("#classes")
