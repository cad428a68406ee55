"""Tables as Markdown with aligned columns, which a terminal shows as well, and as CSV."""

import csv
import io
from collections.abc import Sequence

from dlaseg.text import escaped, padded, width


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns.

    Args:
        header: names of the columns.
        rows: text of each cell.
        left: number of columns that are aligned to the left; the others hold numbers.

    Examples:
        >>> print(markdown_table(["network", "ms"], [["dla34", "7"], ["dla46_c", "12"]]))
        | network |   ms |
        | ------- | ---: |
        | dla34   |    7 |
        | dla46_c |   12 |
    """
    cells = [[escaped(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(4, *map(width, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        aligned = [
            padded(text, columns) if index < left else text.rjust(columns)
            for index, (text, columns) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * columns if index < left else "-" * (columns - 1) + ":" for index, columns in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def csv_table(rows: Sequence[dict[str, object]]) -> str:
    """One line per row; the keys are the columns, None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
