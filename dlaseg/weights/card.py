"""The model card of weights that are published, written from a run folder and a `scores.json`."""

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dlaseg.errors import UserError
from dlaseg.models.build import OPTIONS
from dlaseg.run_folder import RunFolder
from dlaseg.scores_file import read_scores
from dlaseg.text import escaped, markdown, percent
from dlaseg.weights.files import model_sha256

if TYPE_CHECKING:
    from dlaseg.models.base import SegmentationModel


logger = logging.getLogger(__name__)


def model_card(
    model: "SegmentationModel",
    run: str | Path | Sequence[str | Path] | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
    held_out: Mapping[str, str | Path | float] | None = None,
    license_note: str = "",
    score_note: str = "",
    source: str = "USER/NAME",
) -> ModelCard:
    """Writes a model card: what the model is, its training data and command, its scores, and its licence.

    Args:
        model: the network; the card holds its label map, arguments, mean, std and origin.
        run: a run folder of `dlaseg train`, for data, config and command, or several: the last run started from the
            weights of those before it; None if it is not available.
        scores: a `scores.json` of `dlaseg eval`, for scores and protocol; the same.
        license: of the weights, an identifier of the hub such as `mit`, `cc-by-nc-4.0` or `other`.
        held_out: `scores.json` of networks that were trained by the same recipe without a part of the data, and scored
            on that part, by its name; or their mIoU alone, 0 to 1.
        license_note: the licence in words, such as one that is called `other`.
        score_note: what is to be known about the scores; leader boards are not given such scores. That their images
            were trained on is noted if they say so.
        source: what `Predictor` gets to load these weights.

    Raises:
        UserError: a run folder or a `scores.json` that cannot be read, scores of other classes, or of label maps.
    """
    runs = [] if run is None else [run] if isinstance(run, str | Path) else run
    *earlier, training = [None, *(_training(Path(each)) for each in runs)]
    names = model.metadata.labels.names
    parts = {
        markdown(part): {"miou": value} if isinstance(value, int | float) else _results(Path(value), names)
        for part, value in (held_out or {}).items()
    }
    results = None if scores is None else _results(Path(scores), names)
    is_own = results is not None and results["protocol"].get("weights_sha256") == model_sha256(model)
    if results and not is_own:
        logger.warning(
            "%s: scores of weights with SHA-256 %s, which are not this model's, unless it was rounded since",
            scores, results["protocol"].get("weights_sha256"),
        )  # fmt: skip
    if results and results["protocol"].get("trained_on") and not score_note:
        score_note = "The network was trained on images of this split: its scores are too high."
    dataset = results["protocol"]["dataset"] if results else training["dataset"] if training else None
    name = " on ".join(filter(None, (str(model.metadata.architecture.get("name", "DLA")), dataset)))
    eval_results = None
    if results and results["miou"] is not None and is_own and not score_note:
        eval_results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=results["protocol"]["dataset"],
                dataset_name=results["protocol"]["dataset"],
                dataset_split=results["protocol"]["split"],
                metric_type="mean_iou",
                metric_value=results["miou"],
            )
        ]
    data = ModelCardData(
        license=license,
        library_name="dlaseg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "deep-layer-aggregation"],
        model_name=name,
        eval_results=eval_results,
    )
    classes = [
        (markdown(class_name), color, results["classes"][class_name].get("iou") if results else None)
        for class_name, color in zip(model.metadata.labels.names, model.metadata.labels.palette, strict=True)
    ]
    origins = [f"{o.source} as {o.argument} ({o.layout}; SHA-256 {o.sha256})" for o in model.metadata.origin]
    values: dict[str, Any] = {"name": name, "model": model, "classes": classes, "training": training}
    architecture = model.metadata.architecture
    given = {option: architecture.get(option, default) for option, default in OPTIONS.items()}
    options = [f"{option} {escaped(str(given[option]))}" for option in OPTIONS if given[option] != OPTIONS[option]]
    values |= {"origins": list(map(escaped, origins)), "options": options}
    values |= {"output_stride": architecture.get("stride", model.stride)}
    values |= {"results": results, "license_name": license, "percent": percent, "source": source}
    values |= {"earlier": list(filter(None, earlier)), "license_note": license_note, "score_note": score_note}
    values |= {"held_out": parts, "held_out_miou": mean_miou(list(parts.values()))}
    return ModelCard.from_template(data, template_str=_TEMPLATE, **values)


def _training(path: Path) -> dict[str, Any]:
    """What the card says about the training run."""
    run = RunFolder.read(path)
    data = run.config["data"]
    if not run.log or not all(isinstance(data.get(key), str) for key in ("dataset", "train_split", "val_split")):
        raise UserError(f"{path}: not a run folder of dlaseg train with a finished epoch: give the folder of a run")
    val_share = data.get("val_share")
    is_share = isinstance(val_share, float)
    val_images = f"{val_share:.3g} of its images, left out of training" if is_share else data["val_split"]
    return {
        "dataset": escaped(data["dataset"]),
        "splits": escaped(f"{data['train_split']}; validated on {val_images}"),
        "config": without_folders(run.config_text),
        "command": shlex.join(command_of(run)),
        "versions": run.environment["packages"],
        "epochs": run.log[-1]["epoch"],
        "best_miou": max(run.curve("miou")[1], default=None),
    }


def command_of(run: RunFolder) -> list[str]:
    """The command of a run, as it would be typed elsewhere."""
    program, *arguments = run.environment["command"] or ["dlaseg"]
    return [Path(program).name, *map(without_folders, arguments)]


_ABSOLUTE_PATH = re.compile(r"""(?<![^\s='"])/(?:[^\s/'"]+/)*?((?:configs/)?[^\s/'"]+)/?(?=[\s'"]|$)""")


def without_folders(text: str) -> str:
    """The text with each absolute path cut to its last name, and `configs/` before it: folders are a machine's own.

    Examples:
        >>> without_folders("--config /home/me/dlaseg/configs/a.yaml --data.root=/data/camvid --output runs/a")
        '--config configs/a.yaml --data.root=camvid --output runs/a'
    """
    return _ABSOLUTE_PATH.sub(r"\1", text)


def mean_miou(results: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean of the mIoU of several `scores.json`; None without any."""
    scores = [result["miou"] for result in results if result["miou"] is not None]
    return fmean(scores) if scores else None


def _results(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What the card says about the scores."""
    results = read_scores(path, "miou", "pixel_accuracy")
    if tuple(results["classes"]) != names:
        raise UserError(f"{path}: its classes are not those of the model: score the model's own weights")
    if "predictions" in results["protocol"]:
        raise UserError(f"{path}: scores of label maps, not of a network: score the model's own weights")
    protocol = {key: escaped(value) if isinstance(value, str) else value for key, value in results["protocol"].items()}
    return results | {"protocol": protocol}


_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

Semantic segmentation by Deep Layer Aggregation ([Yu et al., CVPR 2018](https://arxiv.org/abs/1707.06484)), trained with
dlaseg: {{ model.metadata.architecture.name }}, {{ model.num_classes }} classes, output stride {{ output_stride }}, \
{{ model.metadata.architecture.root_kernel_size }}x{{ model.metadata.architecture.root_kernel_size }} aggregation \
nodes{% for option in options %}, {{ option }}{% endfor %}.

```python
import dlaseg
from dlaseg.images import read_image

predictor = dlaseg.Predictor("{{ source }}"){{ "  # this repository" if source == "USER/NAME" }}
labels = predictor(read_image("street.jpg"))  # (H, W) uint8 train ids
```

Input: RGB, any height and width; mean {{ model.metadata.mean | map("round", 4) | join(", ") }}, std \
{{ model.metadata.std | map("round", 4) | join(", ") }} for pixel
values from 0 to 1. The weights file holds both, and `Predictor` applies them.
{%- if model.metadata.max_short_side %}
Images whose shorter side has more than {{ model.metadata.max_short_side }} pixels are computed at 1/2, 1/3, ... of \
their size (`max_short_side`), so that things are as large as in the training; labels have the size of the image.
{%- endif %}
{%- if model.metadata.training_short_side %}
The images of the training have a shorter side of about {{ model.metadata.training_short_side }} pixels.
{%- endif %}

## Classes

| train id | class | colour |{{ " IoU, % |" if results }}
| --- | --- | --- |{{ " --- |" if results }}
{% for class, color, iou in classes -%}
| {{ loop.index0 }} | {{ class }} | {{ color | join(", ") }} |
{%- if results %} {{ percent(iou) }} |{% endif %}
{% endfor %}
## Data

{% if training -%}
{{ training.dataset }}, {{ training.splits }}.
{%- else -%}
Not available.
{%- endif %}
{% for origin in origins %}
Initial weights: {{ origin }}.
{% endfor %}
## Scores

{% if results -%}
mIoU {{ percent(results.miou) }} %, pixel accuracy {{ percent(results.pixel_accuracy) }} %.

Protocol: {{ results.protocol.dataset }} {{ results.protocol.split }}, one confusion matrix over \
{{ results.protocol.images }} whole images at native size, scales {{ results.protocol.scales | join(", ") }}, \
{{ "with" if results.protocol.flip else "without" }} horizontal flip\
{{ ", stretched to multiples of 128" if results.protocol.padding }}\
{% if results.protocol.max_short_side -%}
, reduced to shorter sides of at most {{ results.protocol.max_short_side }} pixels
{%- endif %}\
{{ ", large images in tiles" if results.protocol.tiled }}. mIoU is the mean over the classes that occur.
SHA-256 of the weights: {{ results.protocol.weights_sha256 }}.
{%- elif training and training.best_miou is not none -%}
Best validation mIoU during training: {{ percent(training.best_miou) }} %. Results of `dlaseg eval` are not available.
{%- else -%}
Not available.
{%- endif %}
{% if score_note %}
{{ score_note }}
{% endif %}
{%- if held_out %}
The same recipe, trained without a part of the data and scored on that part:

| held out | mIoU, % |
| --- | --- |
{% for part, result in held_out.items() -%}
| {{ part }} | {{ percent(result.miou) }} |
{% endfor -%}
| mean | {{ percent(held_out_miou) }} |
{% endif %}
## Training

{% for stage in earlier -%}
First, {{ stage.epochs }} epochs on {{ stage.dataset }}, {{ stage.splits }}:

```
{{ stage.command }}
```

with this config:

```yaml
{{ stage.config }}```

Then{{ " " }}
{%- endfor %}
{%- if training -%}
{{ training.epochs }} epochs:

```
{{ training.command }}
```

with {% for package, version in training.versions.items() %}{{ package }} {{ version }}{{ ", " if not loop.last }}\
{% endfor %}, and this config:

```yaml
{{ training.config }}```
{%- else -%}
Not available.
{%- endif %}

## Licence

{% if license_name == "unknown" -%}
Not stated. The licence of the training data may restrict the use of the weights.
{%- else -%}
{{ license_note or license_name }}
{%- endif %}
"""
