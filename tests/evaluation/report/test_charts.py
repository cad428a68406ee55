import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dlaseg.evaluation.report.charts import line_chart, point_chart, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


def parsed(*arguments, **options):
    return ElementTree.fromstring(line_chart(*arguments, **options))


def texts(svg):
    return [element.text for element in svg.iter("text")]


def points(svg):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in svg.iter("polyline")
    ]


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_ticks_are_round_numbers_that_enclose_the_values(values):
    low, high = min(values), max(values)
    assume(low == high or high - low > max(1e-30, 1e-5 * max(abs(low), abs(high))))
    positions = ticks(values)
    assert 2 <= len(positions) <= 8
    step = positions[1] - positions[0]
    assert [b - a for a, b in pairwise(positions)] == pytest.approx([step] * (len(positions) - 1))
    assert re.fullmatch(r"[125](\.0+)?e.*", f"{step:.3e}")
    assert positions[0] <= low + 1e-6 * step
    assert positions[-1] >= high - 1e-6 * step
    if low < high:
        assert positions[1] > low
        assert positions[-2] < high


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=9))
def test_ticks_of_epochs_are_whole_numbers(epochs):
    positions = ticks(epochs, integer=True)
    assert 2 <= len(positions) <= 8
    assert all(tick == int(tick) for tick in positions)
    assert len(set(positions)) == len(positions)
    assert positions[0] <= min(epochs) <= max(epochs) <= positions[-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.72], [0, 0.2, 0.4, 0.6, 0.8]),
        ([0.3, 0.4], [0.3, 0.32, 0.34, 0.36, 0.38, 0.4]),
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.4], [0.2, 0.3, 0.4, 0.5, 0.6]),
        ([1e-5, 7e-5], [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5, 7e-5]),
    ],
)
def test_ticks_by_hand(values, expected):
    assert ticks(values) == pytest.approx(expected)


def test_points_lie_where_the_ticks_say():
    svg = parsed("loss", "epoch", {"loss": ([1, 2, 4], [0.5, 0.25, 0.0])})
    places = {element.text: (float(element.get("x", 0)), float(element.get("y")) - 4) for element in svg.iter("text")}
    (line,) = points(svg)
    x_of = {text: places[text][0] for text in ("1", "2", "4")}
    assert [x for x, _ in line] == [x_of["1"], x_of["2"], x_of["4"]]
    assert [y for _, y in line] == pytest.approx(
        [places["0.5"][1], (places["0.5"][1] + places["0"][1]) / 2, places["0"][1]], abs=0.1
    )
    assert len(list(svg.iter("circle"))) == 3


def test_shares_are_shown_in_per_cent_and_epochs_as_whole_numbers():
    svg = parsed("mIoU", "epoch", {"mIoU": ([1, 2], [0.5, 0.7])}, "y")
    assert texts(svg) == ["mIoU", "50 %", "55 %", "60 %", "65 %", "70 %", "1", "2", "epoch"]
    assert texts(parsed("mIoU", "epoch", {"mIoU": ([1], [0.9])}, "y"))[-5] == "100 %"
    shares = parsed("a", "b", {"c": ([0, 1], [0, 1])}, "xy")
    assert texts(shares).count("20 %") == 2


def test_two_lines_have_a_legend_and_differ_without_colour():
    svg = parsed("t", "x", {"model": ([0, 1], [0, 1]), "perfect": ([0, 1], [1, 0])})
    assert {"model", "perfect"} <= set(texts(svg))
    assert [group.get("stroke-dasharray") for group in svg.iter("g")] == [None, "6 5"]
    assert "model" not in texts(parsed("t", "x", {"model": ([0, 1], [0, 1])}))


def test_a_single_point_is_a_dot_within_the_axes():
    svg = parsed("t", "epoch", {"t": ([1], [0.3])}, "y")
    (((x, y),),) = points(svg)
    (dot,) = svg.iter("circle")
    assert (float(dot.get("cx")), float(dot.get("cy"))) == (x, y)
    assert 56 < x < 378
    assert 32 < y < 206
    assert [text for text in texts(svg) if text.isdecimal()] == ["0", "1", "2"]


def test_many_points_have_no_markers():
    epochs = list(range(1, 201))
    svg = parsed("t", "epoch", {"t": (epochs, [1 / i for i in epochs])})
    assert list(svg.iter("circle")) == []
    assert len(points(svg)[0]) == 200


def test_a_chart_has_only_the_pages_colours_no_ids_and_is_hidden_from_screen_readers():
    text = line_chart("<a> & b", "x", {"one": ([0, 1], [0, 1]), "<two>": ([0, 1], [1, 0])})
    assert set(re.findall(r'(?:stroke|fill)="([^"]+)"', text)) == {"currentColor", "var(--accent)", "none"}
    assert not re.search(r"\bid=|#[0-9a-f]{3}", text)
    svg = ElementTree.fromstring(text)
    assert svg.get("aria-hidden") == "true"
    assert {"<a> & b", "<two>"} <= set(texts(svg))


def test_points_are_numbered_and_named():
    points = {"slow <net>": (1.0, 0.8), "fast": (4.0, 0.6)}
    content = point_chart("mIoU", "images per second", points, percent="y")
    assert content == point_chart("mIoU", "images per second", points, percent="y")
    svg = ElementTree.fromstring(content)
    namespace = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in svg.iter(f"{namespace}text")]
    assert {"mIoU", "images per second", "1", "2", "1  slow <net>", "2  fast", "60 %", "80 %"} <= set(words)
    slow, fast = ((float(c.get("cx")), float(c.get("cy"))) for c in svg.iter(f"{namespace}circle"))
    assert slow == (pytest.approx(56 + 322 / 4), 32)
    assert fast == (378, 206)
    assert "120 %" not in point_chart("mIoU", "images per second", {"a": (1.0, 0.9)}, percent="y")
