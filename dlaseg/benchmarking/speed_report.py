"""The speed benchmark for people and for programs: Markdown, CSV, JSON, and a plot."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlaseg.benchmarking.leaderboard import single_pass_scores
from dlaseg.benchmarking.networks import PHASES
from dlaseg.benchmarking.speed import FilesRow, Speed, SpeedRow
from dlaseg.benchmarking.tables import csv_table, markdown_table
from dlaseg.benchmarking.timing import percentile
from dlaseg.evaluation.report.charts import point_chart
from dlaseg.files import write_json, write_text


def speed_markdown(speed: Speed) -> str:
    """Tables of latency, of phases and, if measured, from file to file; then the machine."""
    done = [row for row in speed.rows if row.message is None]
    baseline = done[0].candidate.name
    rounds, images = len(done[0].rounds), len(speed.sizes)
    sizes = ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(speed.sizes))
    blocks = [
        f"From an image in memory to its label map, {sizes}, images: {images}, rounds: {rounds}. Times as fast as "
        f"{baseline}: median of the rounds (lowest to highest).",
        markdown_table(
            ["network", "times as fast", "p50, ms", "p95, ms", "images/s", "memory, MB", "of peak", "equal labels"],
            [_latency_cells(speed, row) for row in speed.rows],
        ),
        "Median milliseconds of each phase; the first and the last are not part of the latency.",
        markdown_table(
            ["network", *PHASES, "parameters, M", "GMACs"],
            [_phase_cells(row) for row in done],
        ),
    ]
    if speed.files:
        first = speed.files[0]
        blocks += [
            f"From image files to label PNGs, start-up left out, files: {first.images}, rounds: {len(first.seconds)}. "
            f"Times as fast as {first.candidate.name}, one file after the other.",
            markdown_table(
                ["network", "times as fast", "images/s", "memory, MB", "equal labels"],
                [_files_cells(speed, row) for row in speed.files],
            ),
        ]
    blocks.append(machine_text(speed.machine))
    failed = [f"{row.candidate.name}: {row.message}" for row in speed.rows if row.message is not None]
    return "\n\n".join([*blocks, *failed])


def _latency_cells(speed: Speed, row: SpeedRow) -> list[str]:
    if row.message is not None:
        return [row.candidate.name, "failed", *["-"] * 6]
    return [
        row.candidate.name,
        str(speed.ratio(row)),
        f"{1000 * percentile(row.latencies, 50):.1f}",
        f"{1000 * percentile(row.latencies, 95):.1f}",
        f"{row.images_per_second:.2f}",
        _megabytes(row.peak_memory),
        _percent(row.share_of_peak, 0),
        _percent(row.equal_labels, 3),
    ]


def _phase_cells(row: SpeedRow) -> list[str]:
    return [
        row.candidate.name,
        *(f"{1000 * row.phase(phase):.1f}" for phase in PHASES),
        "-" if row.parameters is None else f"{row.parameters / 1e6:.2f}",
        "-" if row.macs is None else f"{row.macs / 1e9:.2f}",
    ]


def _files_cells(speed: Speed, row: FilesRow) -> list[str]:
    return [
        row.candidate.name,
        str(speed.ratio(row)),
        f"{row.images_per_second:.2f}",
        _megabytes(row.peak_memory),
        _percent(row.equal_labels, 3),
    ]


def machine_text(machine: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = f"; {machine['gpu']}" if machine["gpu"] else ""
    load = machine["load_average"]
    busy = "" if load is None else f" Load average at the start: {load}."
    return (
        f"Machine: {machine['processor']} ({' '.join(machine['instructions'])}), cores: {machine['cores']}, threads: "
        f"{machine['threads']}{gpu}; {machine['system']}, Python {machine['python']}, {versions}.{busy}"
    )


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _percent(share: float | None, digits: int) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def speed_dict(speed: Speed) -> dict[str, Any]:
    """All figures as plain values, in seconds, bytes and shares from 0 to 1."""
    return {
        "machine": speed.machine,
        "sizes": [list(size) for size in speed.sizes],
        "latency": [_row_dict(speed, row) for row in speed.rows],
        "files": [_row_dict(speed, row) for row in speed.files],
    }


def _row_dict(speed: Speed, row: SpeedRow | FilesRow) -> dict[str, Any]:
    plain = {"name": row.candidate.name, **asdict(row)}
    if isinstance(row, FilesRow):
        return plain | {"images_per_second": row.images_per_second, "times_as_fast": asdict(speed.ratio(row))}
    if row.message is not None:
        return plain
    return plain | {
        "p50": percentile(row.latencies, 50),
        "p95": percentile(row.latencies, 95),
        "images_per_second": row.images_per_second,
        "times_as_fast": asdict(speed.ratio(row)),
        "phases": {phase: row.phase(phase) for phase in PHASES},
        "share_of_peak": row.share_of_peak,
    }


def speed_csv(speed: Speed) -> str:
    """A line for each row of both tables."""
    lines = []
    for path, rows in (("image in memory", speed.rows), ("file to file", speed.files)):
        for row in rows:
            values = _row_dict(speed, row)
            ratio, candidate = values.get("times_as_fast", {}), values["candidate"]
            lines.append(
                {"name": values["name"], "path": path}
                | {key: candidate[key] for key in ("family", "source", "backend", "precision", "device")}
                | {"times_as_fast": ratio.get("median"), "lowest": ratio.get("low"), "highest": ratio.get("high")}
                | {key: values.get(key) for key in ("p50", "p95", "images_per_second", "peak_memory", "share_of_peak")}
                | {key: values.get(key) for key in ("equal_labels", "parameters", "macs", "weights_sha256", "message")}
                | {phase: values.get("phases", {}).get(phase) for phase in PHASES}
            )
    return csv_table(lines)


def plots(speed: Speed, board: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Charts of mIoU over images per second, one for each data set of a leader board.

    A candidate is a point if the leader board has its weights with its backend and precision; plain PyTorch counts as
    the backend torch.

    Args:
        speed: what was measured.
        board: rows of a leader board, see `read_board`.

    Returns:
        Name to content of SVG files. There is none for a data set without points.
    """
    rows = [row for row in speed.rows if row.message is None]
    charts: dict[str, dict[str, tuple[float, float]]] = {}
    for dataset, scores in single_pass_scores(board).items():
        for row in rows:
            backend = row.candidate.runs_backend or row.candidate.backend
            scored = scores.get((row.weights_sha256 or "", backend, row.candidate.computes_in))
            if scored is not None:
                name = f"{row.candidate.name} *" if scored.get("trained_on") else row.candidate.name
                charts.setdefault(dataset, {})[name] = (row.images_per_second, scored["miou"])
    files: dict[str, str] = {}
    for dataset, points in charts.items():
        slug = name = re.sub("[ /]", "-", re.sub("[()]", "", dataset))
        number = 1
        while f"speed-accuracy-{name}.svg" in files:
            number += 1
            name = f"{slug}-{number}"
        note = " (*: trained on images of this split)" if any(point.endswith(" *") for point in points) else ""
        chart = point_chart(f"mIoU on {dataset}", f"images per second{note}", points, percent="y")
        files[f"speed-accuracy-{name}.svg"] = chart
    return files


def write_speed(speed: Speed, output: Path, board: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Writes `speed.md`, `speed.csv`, `speed.json` and the `plots`.

    Returns:
        The files.
    """
    texts = {"speed.md": speed_markdown(speed) + "\n", "speed.csv": speed_csv(speed)} | plots(speed, board)
    for name, text in texts.items():
        write_text(output / name, text)
    write_json(output / "speed.json", speed_dict(speed))
    return [output / name for name in ("speed.json", *texts)]
