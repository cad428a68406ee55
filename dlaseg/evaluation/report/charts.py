"""Line charts as SVG that goes into a page: drawn in the page's own text colour, so that it suits light and dark."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_INK = "#010203"  # a colour that nothing else has; the page's text colour takes its place
_LINES = ("#3b82f6", "#d97706")  # told apart by dash and marker too
_STYLES = ("-", "--")

Points = tuple[Sequence[float], Sequence[float]]
"""x and y."""


def line_chart(title: str, across: str, series: Mapping[str, Points], percent: bool = False) -> Markup:
    """Draws one or two lines.

    Args:
        title: above the chart.
        across: what x is.
        series: name to points; names are written where there are two.
        percent: whether y is a share, to be written in per cent.

    Returns:
        An `svg` element; the same for the same arguments.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: the page's font, and found by its search
        "svg.hashsalt": title,
        "savefig.bbox": None,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(across)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, color=_INK)
        axes.set_axisbelow(True)
        for (name, (x, y)), color, dash in zip(series.items(), _LINES, _STYLES, strict=False):
            axes.plot(x, y, dash, color=color, label=name, marker="o" if len(x) < 40 else None, markersize=3)
        if all(len(x) == 1 for x, _ in series.values()):
            axes.margins(1)  # a single point has no range of its own
        if across == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        if len(series) > 1:
            axes.legend(frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every chart; nothing refers to them
    svg = re.sub(r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)
    return Markup(svg.replace(_INK, "currentColor"))
