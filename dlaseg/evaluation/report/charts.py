"""Charts as SVG: lines as elements of the page, in its colours, so that they suit light and dark; points as files."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

_LEFT, _RIGHT, _BOTTOM = 56, 378, 206  # of the plotting area
_STYLES = ('stroke="var(--accent)"', 'stroke="currentColor" stroke-dasharray="6 5"')  # differ without colour too
_MOST_MARKERS = 40
_MOST_INTERVALS = 6  # between the ticks of an axis


def line_chart(
    title: str, x_label: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], percent: str = ""
) -> Markup:
    """Draws one or two lines.

    Args:
        title: above the chart.
        x_label: below the x axis; the ticks of epochs are whole numbers.
        series: name to x and y, at least one point each; two series get a legend, the second is dashed.
        percent: the axes that show shares in per cent: `y`, or `xy`.

    Returns:
        An `svg` element, the same for the same arguments. It is hidden from screen readers: the page has to describe
        it in words.
    """
    top = 32 if len(series) == 1 else 56
    x_ticks = ticks([x for xs, _ in series.values() for x in xs], x_label == "epoch")
    y_ticks = ticks([y for _, ys in series.values() for y in ys], largest=1 if "y" in percent else math.inf)

    parts = [
        '<svg viewBox="0 0 400 250" fill="currentColor" font-size="12" aria-hidden="true">',
        *_frame(title, x_label, x_ticks, y_ticks, top, percent),
    ]
    for i, ((name, (xs, ys)), style) in enumerate(zip(series.items(), _STYLES, strict=False)):
        points = [
            (_pixel(x, x_ticks, _LEFT, _RIGHT), _pixel(y, y_ticks, _BOTTOM, top)) for x, y in zip(xs, ys, strict=True)
        ]
        line = '<polyline points="{}"/>'.format(" ".join(f"{x},{y}" for x, y in points))
        if i == 0 and len(points) <= _MOST_MARKERS:
            line += "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in points)
        if len(series) > 1:
            line += f'<path d="M{_LEFT + 140 * i} 36h28"/>'
            parts.append(_text(_LEFT + 140 * i + 36, 40, name, "start"))
        parts.append(f'<g {style} stroke-width="2" fill="none">{line}</g>')
    return Markup("".join([*parts, "</svg>"]))


def point_chart(title: str, x_label: str, points: Mapping[str, tuple[float, float]], percent: str = "") -> str:
    """Draws numbered points, and a list of their names below.

    Args:
        title: above the chart; says what y is.
        x_label: below the x axis.
        points: name to x and y, at least one.
        percent: as for `line_chart`.

    Returns:
        The content of an SVG file, the same for the same arguments.
    """
    top, height = 32, 262 + 15 * len(points)
    x_ticks, y_ticks = (ticks([0.0, *values]) for values in zip(*points.values(), strict=True))
    if "y" in percent:
        y_ticks = ticks([y for _, y in points.values()], largest=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 {height}" width="800" role="img" fill="#111" '
        'color="#111" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="400" height="{height}" fill="#fff"/>',
        *_frame(title, x_label, x_ticks, y_ticks, top, percent),
    ]
    for number, (name, (x, y)) in enumerate(points.items(), 1):
        left, bottom = _pixel(x, x_ticks, _LEFT, _RIGHT), _pixel(y, y_ticks, _BOTTOM, top)
        parts += [
            f'<circle cx="{left}" cy="{bottom}" r="3.5" fill="#1d4ed8"/>',
            _text(left + 6, bottom - 5, str(number), "start"),
            _text(_LEFT, 252 + 15 * number, f"{number}  {name}", "start"),
        ]
    return "".join([*parts, "</svg>\n"])


def ticks(values: Sequence[float], integer: bool = False, largest: float = math.inf) -> list[float]:
    """Ticks that enclose the values, two or more: multiples of 1, 2 or 5 times a power of ten.

    Args:
        values: finite, at least one.
        integer: whether all ticks are whole numbers.
        largest: value that there can be.

    Examples:
        >>> ticks([1, 7, 30], integer=True)
        [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """
    low, high = min(values), max(values)
    if math.isclose(low, high, abs_tol=1e-30):
        margin = abs(low) / 2
        low, high = low - margin, min(high + (margin or 1), largest)
    shortest = (high - low) / _MOST_INTERVALS
    power = 10.0 ** math.floor(math.log10(shortest))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= shortest)
    step = max(1.0, step) if integer else step
    first, last = math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))
    return [i * step for i in range(first, last + 1)]


def _frame(
    title: str, x_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float], top: int, percent: str
) -> list[str]:
    """Title, axes, grid and labels."""
    rows = [(_pixel(y, y_ticks, _BOTTOM, top), _number(y, "y" in percent)) for y in y_ticks]
    columns = [(_pixel(x, x_ticks, _LEFT, _RIGHT), _number(x, "x" in percent)) for x in x_ticks]
    grid = "".join([f"M{_LEFT} {y}H{_RIGHT}" for y, _ in rows] + [f"M{x} {top}V{_BOTTOM}" for x, _ in columns])
    return [
        f'<text y="15" font-size="15">{escape(title)}</text>',
        f'<path d="{grid}" stroke="currentColor" stroke-opacity=".15"/>',
        f'<path d="M{_LEFT} {top}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="currentColor"/>',
        *(_text(_LEFT - 8, y + 4, label, "end") for y, label in rows),
        *(_text(x, _BOTTOM + 18, label) for x, label in columns),
        _text((_LEFT + _RIGHT) / 2, 244, x_label),
    ]


def _pixel(value: float, ticks: Sequence[float], start: int, end: int) -> float:
    return round(start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start), 1)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
