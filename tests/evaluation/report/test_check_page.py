"""The page of `dlaseg data check` in a real browser, offline."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.check.check import CheckResult
from dlaseg.data.check.findings import finding
from dlaseg.evaluation.report.check_page import write_check_page

CLASSES = (
    "classes: [{name: '<b>sky', id: 0, color: [0, 0, 200]}, {name: road, id: 1}, {name: car, id: 2}]\nignore: [255]\n"
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Twelve images with an unknown value, a broken image, and one label map of another size."""
    root = tmp_path_factory.mktemp("set") / "a <i>set"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(6):
            labels = np.zeros((40, 60), np.uint8)
            labels[20:] = 1
            labels[30:, 10:40] = 7 if split == "train" else 2
            labels[:3] = 255
            image = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((60, 40))
            for folder, pixels in (("images", image), ("labels", Image.fromarray(labels))):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                pixels.save(root / folder / split / f"{'abcdef'[number]}{split}.png")
    (root / "classes.yaml").write_text(CLASSES)
    (root / "images/val/bval.png").write_bytes(b"no image")
    Image.new("L", (60, 39)).save(root / "labels/val/cval.png")
    file = root.parent / "check.html"
    words = ["data", "check", "--dataset", "folder", str(root), "--workers", "0", "--html", str(file)]
    words += ["--json", str(file.with_suffix(".json"))]
    assert main(words) == 1
    return file


@pytest.fixture
def open_page(open_file, page_file):
    return partial(open_file, page_file)


@pytest.fixture
def found(page_file):
    return json.loads(page_file.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_page_shows_the_numbers_of_classes_and_images(open_page, found):
    page, splits = open_page(), found["splits"].values()
    totals = [split["ignored"] + sum(row["pixels"] for row in split["classes"].values()) for split in splits]
    *rows, ignored = [row.inner_text().split("\t") for row in page.query_selector_all("#classes tbody tr")]
    for row, (name, weight) in zip(rows, found["median_frequency_weights"].items(), strict=True):
        counts = [split["classes"][name] for split in splits]
        of_splits = [
            text
            for each, total in zip(counts, totals, strict=True)
            for text in (f"{100 * each['pixels'] / total:.3f} %", str(each["images"]))
        ]
        assert row == [name, *of_splits, "–" if weight is None else f"{weight:.3g}"]
    shares = [f"{100 * split['ignored'] / total:.3f} %" for split, total in zip(splits, totals, strict=True)]
    assert ignored == ["ignored", shares[0], "–", shares[1], "–", "–"]
    for column in (1, 3):
        assert sum(float(row[column].rstrip(" %")) for row in (*rows, ignored)) == pytest.approx(100, abs=0.01)
    numbers = page.inner_text("#numbers")
    assert "6 images; height x width 40 x 60 (6)" in numbers
    mean, std = (", ".join(f"{value:.4f}" for value in found[key]) for key in ("mean", "std"))
    assert f"mean {mean}; standard deviation {std}" in numbers
    swatches = page.locator("#classes .swatch")
    assert swatches.first.evaluate("it => getComputedStyle(it).backgroundColor") == "rgb(0, 0, 200)"


def test_the_page_shows_findings_errors_first_with_remedies_and_files(open_page, found):
    page = open_page()
    figures = [text.split() for text in page.locator(".figure").all_inner_texts()]
    assert figures == [["Errors", "3"], ["Warnings", str(found["warnings"])], ["Images", "12"], ["Classes", "3"]]
    badges = page.locator(".finding .badge").all_inner_texts()
    assert badges == sorted(badges)
    unknown = page.locator(".finding", has_text="belong to no class and are not ignored: 7")
    assert "ignore: [7]" in unknown.inner_text()
    assert unknown.locator("figure").count() == 4
    assert unknown.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)") == [60] * 4
    unknown.locator("summary").click()
    assert unknown.locator("li").count() == 6
    assert page.locator(".finding", has_text="not an image").locator(".no-picture").count() == 1
    assert "<b>sky" in page.inner_text("#classes")
    assert "a <i>set" in page.inner_text("h1")


def test_label_maps_are_shown_in_the_colours_of_the_classes_and_what_is_of_none_is_magenta(open_page):
    page = open_page()
    read = """(image, [x, y]) => {
        const canvas = new OffscreenCanvas(60, 40), context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
    }"""
    swatch = page.locator("#classes .swatch").nth(1)
    road = swatch.evaluate("it => getComputedStyle(it).backgroundColor.match(/[0-9]+/g).map(Number)")
    picture = page.locator(".finding", has_text="belong to no class").locator("img").first
    for place, color in (([25, 37], (255, 0, 255)), ([5, 35], road), ([25, 5], (0, 0, 200))):
        assert picture.evaluate(read, place) == pytest.approx(color, abs=20)
    picture = page.locator(".finding", has_text="label map of 39 x 60").locator("img")
    assert picture.evaluate(read, [25, 5]) == pytest.approx((0, 0, 200), abs=20)


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 360),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("light", 1280), ("dark", 360), ("dark", 1280))),
    ],
)
def test_the_page_is_accessible_and_not_wider_than_the_window(open_page, scheme, width):
    page = open_page(width=width, color_scheme=scheme)
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("count", "last"), [(25, "24.png"), (27, "and 2 more")])
def test_a_long_list_of_files_ends_with_how_many_more_there_are(open_file, tmp_path, count, last):
    found = finding("copies", "warning", "train", [Path(f"{i}.png") for i in range(count)], "copies", "keep one")
    write_check_page(tmp_path / "page.html", CheckResult((found,), None, (), (), (), 0.0), "many")
    page = open_file(tmp_path / "page.html")
    page.click("summary")
    assert page.inner_text("summary") == f"{count} files"
    items = page.locator(".finding li").all_inner_texts()
    assert items[:25] == [f"{i}.png" for i in range(25)]
    assert items[-1] == last
    page.click("summary")
    page.emulate_media(media="print")
    printed = page.locator(".finding li").last.is_visible()
    page.emulate_media(media="screen")
    assert printed


def test_a_clean_set_says_so(open_file, tmp_path):
    write_check_page(tmp_path / "page.html", CheckResult((), None, (), (), (), 0.0), "clean")
    page = open_file(tmp_path / "page.html")
    assert "Nothing is wrong." in page.inner_text("#findings")
