"""The leader board: what to score, by options or a YAML file, and the tables of the scores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlaseg.benchmarking.accuracy import Protocol, Score, parse_protocol
from dlaseg.benchmarking.dataset_names import SourcedDataset
from dlaseg.benchmarking.tables import csv_table, markdown_table
from dlaseg.data.datasets import open_dataset
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UserError, nearest
from dlaseg.files import write_json, write_text
from dlaseg.strict_json import read_json
from dlaseg.text import percent
from dlaseg.version import __version__
from dlaseg.yaml_file import read_yaml

LISTS = ("weights", "datasets", "protocols")
"""Keys of a list file."""

_DATASET_KEYS = ("dataset", "root", "split", "images", "labels", "classes", "list")


@dataclass(frozen=True)
class Entries:
    """What a leader board compares.

    Attributes:
        weights: files, folders or hub names.
        datasets: mappings with `dataset`, `root` and, if needed, the other options of `open_dataset`.
        protocols: see `parse_protocol`.
    """

    weights: Sequence[str] = ()
    datasets: Sequence[Mapping[str, str]] = ()
    protocols: Sequence[str] = ()

    def open_datasets(self) -> list[SegmentationDataset]:
        """Opens the splits; each knows where it is from.

        Raises:
            UserError: as `open_dataset`.
        """
        opened: list[SegmentationDataset] = []
        for entry in self.datasets:
            dataset = open_dataset(
                entry["dataset"],
                entry["root"],
                entry.get("split", "val"),
                entry.get("images"),
                entry.get("labels"),
                entry.get("classes"),
                entry.get("list"),
            )
            opened.append(SourcedDataset(**vars(dataset), source=entry))
        return opened

    def parse_protocols(self) -> list[Protocol]:
        """The protocols, each once; that of `dlaseg eval` if none is named."""
        return list(dict.fromkeys(map(parse_protocol, self.protocols))) or [Protocol()]


def dataset_entry_of(text: str, split: str) -> dict[str, str]:
    """Reads `NAME:ROOT`.

    Raises:
        UserError: no colon.

    Examples:
        >>> dataset_entry_of("camvid:/data/camvid", "val")
        {'dataset': 'camvid', 'root': '/data/camvid', 'split': 'val'}
    """
    name, colon, root = text.partition(":")
    if not (name and colon and root):
        raise UserError(f"--datasets {text}: write NAME:ROOT, such as camvid:/data/camvid")
    return {"dataset": name, "root": root, "split": split}


def read_entries(path: Path) -> Entries:
    """Reads a list file.

    Raises:
        UserError: not YAML, an unknown or missing key, or a value of another type.
    """
    content = read_yaml(path, "a list of weights, datasets and protocols (YAML)")
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a mapping: use the keys {', '.join(LISTS)}")
    _check_keys(str(path), content, LISTS, ("weights", "datasets"))
    for key, entries in content.items():
        kind = dict if key == "datasets" else str
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, kind) for entry in entries):
            what = "mappings with dataset and root" if kind is dict else "texts"
            raise UserError(f"{path}: {key} {entries!r:.80}: use a list of {what}")
    for entry in content["datasets"]:
        _check_keys(f"{path}: datasets", entry, _DATASET_KEYS, ("dataset", "root"))
        for key, value in entry.items():
            if not isinstance(value, str):
                raise UserError(f"{path}: datasets: {key} {value!r:.80}: use text, in quotes if it looks like a number")
    return Entries(**content)


def _check_keys(where: str, content: Mapping[Any, Any], known: Sequence[str], required: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r:.80}: did you mean {nearest(str(key), known)}?")
    for key in required:
        if key not in content:
            raise UserError(f"{where}: no key {key!r}: add it")


def board_markdown(scores: Sequence[Score], folder: Path | None = None) -> str:
    """A table for each data set, the best mIoU first, what failed last.

    Args:
        scores: the rows.
        folder: of the file that the text is for: each mIoU is a link from there to its report; None for no links.
    """
    blocks = []
    for dataset in dict.fromkeys(score.dataset for score in scores):
        rows = ranked([score for score in scores if score.dataset == dataset])
        images = next((row.results["protocol"]["images"] for row in rows if row.results is not None), None)
        header = ["weights", "network", "protocol", "mIoU, %", "95 % interval", "pixel acc., %"]
        table = markdown_table(header, [_cells(row, folder) for row in rows], left=3)
        blocks += [dataset if images is None else f"{dataset}, images: {images}", table]
        if any(_is_trained_on(row) for row in rows):
            blocks.append("\\* trained on images of this split: not to be compared with the others")
    messages = [(score.weights, score.message) for score in scores if score.message is not None]
    failed = [text if text.startswith(weights) else f"{weights}: {text}" for weights, text in messages]
    return "\n\n".join([*blocks, *dict.fromkeys(failed)])


def ranked(scores: Sequence[Score]) -> list[Score]:
    """The best mIoU first, then those without, in their order."""
    return sorted(scores, key=lambda row: -1.0 if row.results is None else row.results["miou"] or 0.0, reverse=True)


def _cells(row: Score, folder: Path | None) -> list[str]:
    if row.results is None:
        return [row.weights, "-", row.protocol.name, "failed", "-", "-"]
    model = row.results["protocol"].get("model", {})
    network = str(model.get("name", "-")) + (f" stride {model['stride']}" if "stride" in model else "")
    interval = row.results["miou_interval"]
    ends = "-" if interval is None else " to ".join(map(percent, interval))
    percents = [percent(row.results["miou"]), ends, percent(row.results["pixel_accuracy"])]
    if folder is not None and row.report is not None and row.report.is_file():
        percents[0] = f"[{percents[0]}]({Path(os.path.relpath(row.report, folder)).as_posix()})"
    return [f"{row.weights} \\*" if _is_trained_on(row) else row.weights, network, row.protocol.name, *percents]


def _is_trained_on(row: Score) -> bool:
    """Whether it is known that the network was trained on images of the split; if not, it may have been."""
    return row.results is not None and "trained_on" in row.results["protocol"]


def board_rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """A row for each score as plain values, in the order of the tables."""
    rows = []
    for dataset in dict.fromkeys(score.dataset for score in scores):
        for row in ranked([score for score in scores if score.dataset == dataset]):
            results = row.results or {}
            computed: Mapping[str, Any] = results.get("protocol", {})  # of an int8 file not as asked
            low, high = results.get("miou_interval") or (None, None)
            rows.append(
                {"dataset": dataset, "weights": row.weights, "weights_sha256": row.weights_sha256}
                | {"protocol": row.protocol.name, "backend": computed.get("backend")}
                | {"precision": computed.get("precision", row.protocol.precision)}
                | {"scales": _scales(row), "flip": row.protocol.flip}
                | {"miou": results.get("miou"), "miou_low": low, "miou_high": high}
                | {"pixel_accuracy": results.get("pixel_accuracy"), "trained_on": True if _is_trained_on(row) else None}
                | {"report": None if row.report is None else str(row.report), "message": row.message}
            )
    return rows


def _scales(row: Score) -> list[float]:
    """Those that were averaged or blended."""
    return (row.results or {}).get("protocol", {}).get("scales") or list(row.protocol.scales or (1.0,))


def write_board(scores: Sequence[Score], output: Path) -> list[Path]:
    """Writes `leaderboard.md`, `leaderboard.csv` and `leaderboard.json`.

    Returns:
        The files.
    """
    rows = board_rows(scores)
    write_text(output / "leaderboard.md", board_markdown(scores, output) + "\n")
    spaced = [{**row, "scales": " ".join(map(str, row["scales"]))} for row in rows]
    write_text(output / "leaderboard.csv", csv_table(spaced))
    write_json(output / "leaderboard.json", {"dlaseg": __version__, "rows": rows})
    return [output / f"leaderboard.{suffix}" for suffix in ("md", "csv", "json")]


def read_board(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `leaderboard.json`.

    Raises:
        UserError: the file cannot be read, or `dlaseg benchmark accuracy` did not write it.
    """
    what = "a leaderboard.json of dlaseg benchmark accuracy"
    content = read_json(path, what)
    try:
        rows = content["rows"]
        for row in rows:
            if row["miou"] is not None and not 0 <= row["miou"] <= 1:
                raise ValueError(row["miou"])
            for key in ("dataset", "weights_sha256", "backend", "precision", "scales", "flip"):
                row[key]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not {what} ({error!r:.80}): score again") from error
    return list(rows)


def single_pass_scores(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[tuple[str, str, str], Mapping[str, Any]]]:
    """The rows of what was scored at one scale and not mirrored, as the speed benchmark measures it.

    Args:
        rows: see `read_board`.

    Returns:
        By data set; then by SHA-256 of the weights, backend and precision.
    """
    found: dict[str, dict[tuple[str, str, str], Mapping[str, Any]]] = {}
    for row in rows:
        if row["miou"] is not None and row["scales"] == [1.0] and not row["flip"]:
            scores = found.setdefault(str(row["dataset"]), {})
            scores[row["weights_sha256"], row["backend"], row["precision"]] = row
    return found
