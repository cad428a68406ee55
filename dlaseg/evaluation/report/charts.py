"""Line charts as SVG elements of the page, in the page's own colours, so that they suit light and dark."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

Points = tuple[Sequence[float], Sequence[float]]
"""x and y."""

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 378, 32, 206  # of the plotting area
_LEGEND_HEIGHT = 24
_STYLES = ('stroke="var(--accent)"', 'stroke="currentColor" stroke-dasharray="6 5"')  # differ without colour too
_MOST_MARKERS = 40
_MOST_INTERVALS = 6  # between the ticks of an axis


def line_chart(
    title: str,
    x_label: str,
    series: Mapping[str, Points],
    x_integer: bool = False,
    x_percent: bool = False,
    y_percent: bool = False,
) -> Markup:
    """Draws one or two lines.

    Args:
        title: above the chart.
        x_label: below the x axis.
        series: name to points, at least one point each; two series get a legend, the second is dashed.
        x_integer: whether x takes whole numbers only.
        x_percent: whether x is a share, which the axis shows in per cent.
        y_percent: the same of y.

    Returns:
        An `svg` element, the same for the same arguments. It is hidden from screen readers: the page has to describe
        it in words.
    """
    top = _TOP + (_LEGEND_HEIGHT if len(series) > 1 else 0)
    x_ticks = ticks([x for xs, _ in series.values() for x in xs], x_integer)
    y_ticks = ticks([y for _, ys in series.values() for y in ys])

    def x_pixel(x: float) -> float:
        return round(_LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_RIGHT - _LEFT), 1)

    def y_pixel(y: float) -> float:
        return round(_BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_BOTTOM - top), 1)

    grid = "".join(f"M{_LEFT} {y_pixel(y)}H{_RIGHT}" for y in y_ticks)
    grid += "".join(f"M{x_pixel(x)} {top}V{_BOTTOM}" for x in x_ticks)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="currentColor" font-size="12" aria-hidden="true">',
        f'<text y="15" font-size="15">{escape(title)}</text>',
        f'<path d="{grid}" stroke="currentColor" stroke-opacity=".15"/>',
        f'<path d="M{_LEFT} {top}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="currentColor"/>',
        *(_text(_LEFT - 8, y_pixel(y) + 4, _number(y, y_percent), "end") for y in y_ticks),
        *(_text(x_pixel(x), _BOTTOM + 18, _number(x, x_percent)) for x in x_ticks),
        _text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, x_label),
    ]
    for i, ((name, (xs, ys)), style) in enumerate(zip(series.items(), _STYLES, strict=False)):
        points = [(x_pixel(x), y_pixel(y)) for x, y in zip(xs, ys, strict=True)]
        line = '<polyline points="{}"/>'.format(" ".join(f"{x},{y}" for x, y in points))
        if len(points) <= _MOST_MARKERS and i == 0:
            line += "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in points)
        if len(series) > 1:
            start = _LEFT + 140 * i
            line += f'<path d="M{start} {_TOP + 4}h28"/>'
            parts.append(_text(start + 36, _TOP + 8, name, "start"))
        parts.append(f'<g {style} stroke-width="2" fill="none">{line}</g>')
    return Markup("".join([*parts, "</svg>"]))


def ticks(values: Sequence[float], integer: bool = False) -> list[float]:
    """Ticks of an axis that shows some values: multiples of 1, 2 or 5 times a power of ten.

    Args:
        values: finite, at least one.
        integer: whether all ticks are whole numbers.

    Returns:
        Two or more, in ascending order, which enclose the values.

    Example:
        >>> ticks([1, 7, 30], integer=True)
        [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """
    low, high = min(values), max(values)
    if math.isclose(low, high):
        margin = abs(low) / 2
        low, high = low - margin, high + (margin or 1)
    shortest = (high - low) / _MOST_INTERVALS
    power = 10.0 ** math.floor(math.log10(shortest))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= shortest)
    if integer:
        step = max(1.0, step)
    first, last = math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))
    return [i * step for i in range(first, last + 1)]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
