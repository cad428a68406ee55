import math

import pytest
from annotation_files import message, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from dlaseg.data.convert.shapes import draw_ellipse, draw_polygons, draw_rectangle

HEIGHT, WIDTH = 13, 17


def polygons(parts, height, width):
    return whole(draw_polygons(parts, height, width), height, width)


def rectangle(x, y, box, height, width, **options):
    return whole(draw_rectangle(x, y, box, height, width, **options), height, width)


def ellipse(center, radii, height, width, degrees=0):
    return whole(draw_ellipse(center, radii, height, width, degrees), height, width)


def drawn(mask):
    return ["".join("x" if pixel else "." for pixel in row) for row in mask.tolist()]


def inside(corners, x, y):
    """Even-odd rule, by a plain loop."""
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def distance(corners, x, y):
    """From a point to the outline."""
    nearest = math.inf
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = (x2 - x1) ** 2 + (y2 - y1) ** 2
        t = 0 if length == 0 else min(1, max(0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length))
        nearest = min(nearest, math.hypot(x1 + t * (x2 - x1) - x, y1 + t * (y2 - y1) - y))
    return nearest


def test_a_pixel_belongs_to_a_polygon_if_its_centre_does():
    mask = polygons([[(1, 1), (4, 1), (4, 3), (1, 3)]], 4, 6)
    assert drawn(mask) == ["......", ".xxx..", ".xxx..", "......"]
    # less than half of a pixel is none of it, more is all of it
    assert drawn(polygons([[(1.6, 0), (3.6, 0), (3.6, 1), (1.6, 1)]], 1, 6)) == ["..xx.."]
    assert drawn(polygons([[(1.4, 0), (3.4, 0), (3.4, 1), (1.4, 1)]], 1, 6)) == [".xx..."]


def test_what_lies_outside_of_the_image_is_cut_off():
    assert drawn(polygons([[(-3, -5), (2, -5), (2, 2), (-3, 2)]], 3, 4)) == ["xx..", "xx..", "...."]
    assert not polygons([[(9, 9), (12, 9), (12, 12)]], 3, 4).any()


def test_parts_are_united_and_a_part_that_crosses_itself_is_even_odd():
    square, inner = [(0, 0), (5, 0), (5, 5), (0, 5)], [(1, 1), (4, 1), (4, 4), (1, 4)]
    assert polygons([square, inner], 5, 5).all()
    # one outline that runs around both: a hole
    both = [*square, (0, 0), (1, 1), (1, 4), (4, 4), (4, 1), (1, 1)]
    assert drawn(polygons([both], 5, 5)) == ["xxxxx", "x...x", "x...x", "x...x", "xxxxx"]


@pytest.mark.parametrize("part", [[], [(1, 1)], [(1, 1), (4, 4)], [(1, 1), (4, 4), (1, 1)], [(2, 2)] * 5])
def test_a_polygon_without_area_covers_nothing(part):
    assert not polygons([part], 5, 5).any()


corner = st.tuples(st.floats(-4, WIDTH + 4), st.floats(-4, HEIGHT + 4))


@settings(max_examples=150)
@given(st.lists(corner, min_size=3, max_size=8))
def test_polygons_agree_with_a_plain_loop_away_from_their_outline(corners):
    mask = polygons([corners], HEIGHT, WIDTH)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y = column + 0.5, row + 0.5
            # vertices are rounded to a fifth of a pixel
            if distance(corners, x, y) > 0.3:
                assert mask[row, column] == inside(corners, x, y), (row, column)


def test_rectangles_turn_clockwise_about_their_corner_or_their_centre():
    assert drawn(rectangle(1, 0, (2, 3), 4, 5)) == [".xxx.", ".xxx.", ".....", "....."]
    # a quarter turn about the upper left corner (3, 0): what went right goes down, what went down goes left
    assert drawn(rectangle(3, 0, (2, 3), 4, 5, degrees=90)) == [".xx..", ".xx..", ".xx..", "....."]
    turned = rectangle(1, 1, (1, 3), 4, 5, degrees=90, about_corner=False)
    assert drawn(turned) == ["..x..", "..x..", "..x..", "....."]


@settings(max_examples=60)
@given(corner, st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), st.floats(-400, 400))
def test_ellipses_agree_with_a_plain_loop(center, radii, degrees):
    mask = ellipse(center, radii, HEIGHT, WIDTH, degrees)
    angle = math.radians(-degrees)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y = column + 0.5 - center[0], row + 0.5 - center[1]
            along = math.cos(angle) * x - math.sin(angle) * y
            across = math.sin(angle) * x + math.cos(angle) * y
            value = (along / radii[0]) ** 2 + (across / radii[1]) ** 2
            if abs(value - 1) > 1e-9:
                assert mask[row, column] == (value < 1)


def test_a_wide_ellipse_that_is_turned_clockwise_goes_down_to_the_right():
    mask = ellipse((5, 5), (5, 1), 10, 10, degrees=45)
    assert mask[2, 2]
    assert mask[7, 7]
    assert not mask[2, 7]
    assert not ellipse((5, 5), (5, 0), 10, 10).any()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, 2e6])
def test_absurd_numbers_are_refused_by_value(number):
    assert f"{number:g}" in message(draw_polygons, [[(0, 0), (number, 1), (1, 1)]], 4, 4)
    assert "finite" in message(draw_rectangle, 0, number, (1, 1), 4, 4)
    assert "finite" in message(draw_rectangle, 0, 0, (number, 1), 4, 4)
    assert "finite" in message(draw_ellipse, (number, 0), (1, 1), 4, 4)
    assert "finite" in message(draw_ellipse, (0, 0), (1, number), 4, 4)


def test_negative_sizes_are_refused():
    assert "height -1" in message(draw_rectangle, 0, 0, (-1, 1), 4, 4)
    assert "-2" in message(draw_ellipse, (0, 0), (1, -2), 4, 4)


def test_an_endless_outline_is_refused_before_it_fills_the_memory():
    zigzag = [(0, 0), (9e5, 1)] * 1000
    assert "outline of" in message(draw_polygons, [zigzag], 4, 4)
