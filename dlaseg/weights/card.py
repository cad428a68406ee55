"""The model card of weights that are published, written from a run folder and a `scores.json`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dlaseg.errors import UserError
from dlaseg.run_folder import RunFolder
from dlaseg.scores_file import read_scores
from dlaseg.text import escaped

if TYPE_CHECKING:
    from dlaseg.models.base import SegmentationModel


def model_card(
    model: "SegmentationModel",
    run: str | Path | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
) -> ModelCard:
    """Writes a model card: what the model is, its training data and command, its scores, and its licence.

    Args:
        model: the network; the card holds its label map, arguments, mean, std and origin.
        run: a run folder of `dlaseg train`, for data, config and command; None if it is not available.
        scores: a `scores.json` of `dlaseg eval`, for scores and protocol; the same.
        license: of the weights, an identifier of the hub such as `mit`, `cc-by-nc-4.0` or `other`.

    Raises:
        UserError: a run folder or a `scores.json` that cannot be read, or scores of other classes.
    """
    training = None if run is None else _training(Path(run))
    results = None if scores is None else _results(Path(scores), model.metadata.labels.names)
    dataset = results["protocol"]["dataset"] if results else training["dataset"] if training else None
    name = " on ".join(filter(None, (str(model.metadata.architecture.get("name", "DLA")), dataset)))
    eval_results = None
    if results and results["miou"] is not None:
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
        (escaped(class_name).replace("|", r"\|"), color, results["classes"][class_name].get("iou") if results else None)
        for class_name, color in zip(model.metadata.labels.names, model.metadata.labels.palette, strict=True)
    ]
    origins = [f"{o.source} as {o.argument} ({o.layout}; SHA-256 {o.sha256})" for o in model.metadata.origin]
    values: dict[str, Any] = {"name": name, "model": model, "classes": classes, "training": training}
    values |= {"origins": list(map(escaped, origins))}
    values |= {"results": results, "license_name": license, "percent": _percent}
    return ModelCard.from_template(data, template_str=_TEMPLATE, **values)


def _training(path: Path) -> dict[str, Any]:
    """What the card says about the training run."""
    run = RunFolder.read(path)
    data = run.config["data"]
    if not run.log or not all(isinstance(data.get(key), str) for key in ("dataset", "train_split", "val_split")):
        raise UserError(f"{path}: not a run folder of dlaseg train with a finished epoch: give the folder of a run")
    val_share = data.get("val_share")  # missing in configs of earlier releases
    is_share = isinstance(val_share, float)
    val_images = f"{val_share:.3g} of its images, left out of training" if is_share else data["val_split"]
    return {
        "dataset": escaped(data["dataset"]),
        "splits": escaped(f"{data['train_split']}; best weights selected on {val_images}"),
        "config": run.config_text,
        "command": shlex.join(run.environment["command"]),
        "versions": run.environment["packages"],
        "epochs": run.log[-1]["epoch"],
        "best_miou": max(run.curve("miou")[1], default=None),
    }


def _results(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What the card says about the scores."""
    results = read_scores(path, "miou", "pixel_accuracy")
    if tuple(results["classes"]) != names:
        raise UserError(f"{path}: its classes are not those of the model: score the model's own weights")
    protocol = {key: escaped(value) if isinstance(value, str) else value for key, value in results["protocol"].items()}
    return results | {"protocol": protocol}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

Semantic segmentation by Deep Layer Aggregation ([Yu et al., CVPR 2018](https://arxiv.org/abs/1707.06484)), trained with
dlaseg: {{ model.metadata.architecture.name }}, {{ model.num_classes }} classes, output stride {{ model.stride }}, \
{{ model.metadata.architecture.root_kernel_size }}x{{ model.metadata.architecture.root_kernel_size }} aggregation nodes.

```python
import dlaseg
from dlaseg.images import read_image

predictor = dlaseg.Predictor("USER/NAME")  # this repository
labels = predictor(read_image("street.jpg"))  # (H, W) uint8 train ids
```

Input: RGB, any height and width; mean {{ model.metadata.mean | map("round", 4) | join(", ") }}, std \
{{ model.metadata.std | map("round", 4) | join(", ") }} for pixel
values from 0 to 1. The weights file holds both, and `Predictor` applies them.

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
{{ "with" if results.protocol.flip else "without" }} horizontal flip. mIoU is the mean over the classes that occur.
SHA-256 of the weights: {{ results.protocol.weights_sha256 }}.
{%- elif training and training.best_miou is not none -%}
Best validation mIoU during training: {{ percent(training.best_miou) }} %. Results of `dlaseg eval` are not available.
{%- else -%}
Not available.
{%- endif %}

## Training

{% if training -%}
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
{{ license_name }}
{%- endif %}
"""
