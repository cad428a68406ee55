"""The model card that goes with weights that are passed on, written from the run."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dlaseg.errors import UserError

if TYPE_CHECKING:
    from dlaseg.models.base import SegmentationModel


def model_card(
    model: "SegmentationModel",
    run: str | Path | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
) -> ModelCard:
    """Says what a model is, what it learnt from, how well, by which command, and on what terms it may be used.

    Args:
        model: the network; its label map, arguments, mean, std and origin go into the card.
        run: a run folder of `dlaseg train`, for data, record and command; without it the card says that it lacks them.
        scores: a `scores.json` of `dlaseg eval`, for scores and protocol; the same.
        license: of the weights, an identifier of the hub such as `mit`, `cc-by-nc-4.0` or `other`.

    Raises:
        UserError: a run folder or a `scores.json` that cannot be read, or scores of other classes.
    """
    learnt = None if run is None else _learnt(Path(run))
    scored = None if scores is None else _scored(Path(scores), model.metadata.labels.names)
    dataset = scored["protocol"]["dataset"] if scored else learnt["dataset"] if learnt else None
    name = " on ".join(filter(None, (str(model.metadata.architecture.get("name", "DLA")), dataset)))
    results = None
    if scored and scored["miou"] is not None:
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=scored["protocol"]["dataset"],
                dataset_name=scored["protocol"]["dataset"],
                dataset_split=scored["protocol"]["split"],
                metric_type="mean_iou",
                metric_value=scored["miou"],
            )
        ]
    data = ModelCardData(
        license=license,
        library_name="dlaseg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "deep-layer-aggregation"],
        model_name=name,
        eval_results=results,
    )
    values: dict[str, Any] = {"name": name, "learnt": learnt, "scored": scored, "terms": license, "percent": _percent}
    classes = [
        (class_name.replace("|", r"\|"), color, scored["classes"][class_name]["iou"] if scored else None)
        for class_name, color in zip(model.metadata.labels.names, model.metadata.labels.palette, strict=True)
    ]
    return ModelCard.from_template(data, template_str=_TEMPLATE, model=model, classes=classes, **values)


def _learnt(run: Path) -> dict[str, Any]:
    """What a run folder says of data, record and command."""
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        record = (run / "config.yaml").read_text(encoding="utf-8")
        log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        data = yaml.safe_load(record)["data"]
        return {
            "dataset": data["dataset"],
            "splits": f"{data['train_split']}, best weights chosen on {data['val_split']}",
            "record": record,
            "command": shlex.join(environment["command"]),
            "versions": environment["packages"],
            "epochs": log[-1]["epoch"],
            "best": max((row["miou"] for row in log if row["miou"] is not None), default=None),
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, yaml.YAMLError) as error:
        raise UserError(f"{run}: no run folder of dlaseg train ({type(error).__name__}: {error})") from error


def _scored(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What a scores.json says."""
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: scores[key] for key in ("miou", "pixel_accuracy", "classes", "protocol")}
        kept["protocol"]["dataset"], kept["protocol"]["split"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no scores.json of dlaseg eval ({type(error).__name__}: {error})") from error
    if tuple(kept["classes"]) != names:
        raise UserError(f"{path}: scores of other classes than the model's: score this model's own weights")
    return kept


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

Semantic segmentation by Deep Layer Aggregation ([Yu et al., CVPR 2018](https://arxiv.org/abs/1707.06484)), made with
dlaseg: {{ model.metadata.architecture.name }}, {{ model.num_classes }} classes, output stride {{ model.stride }}, \
{{ model.metadata.architecture.root_kernel_size }}x{{ model.metadata.architecture.root_kernel_size }} aggregation nodes.

```python
import dlaseg
from dlaseg.images import read_image

predictor = dlaseg.Predictor("USER/NAME")  # this repository
labels = predictor(read_image("street.jpg"))  # (H, W) uint8 train ids
```

Input: RGB, any height and width; mean {{ model.metadata.mean | map("round", 4) | join(", ") }}, std \
{{ model.metadata.std | map("round", 4) | join(", ") }} in units of 255, which the file records and `Predictor` applies.

## Classes

| train id | class | colour |{{ " IoU, % |" if scored }}
| --- | --- | --- |{{ " --- |" if scored }}
{% for class, color, iou in classes -%}
| {{ loop.index0 }} | {{ class }} | {{ color | join(", ") }} |
{%- if scored %} {{ percent(iou) }} |{% endif %}
{% endfor %}
## Data

{% if learnt -%}
{{ learnt.dataset }}, {{ learnt.splits }}.
{%- else -%}
Not recorded here.
{%- endif %}
{% for origin in model.metadata.origin %}
Started from {{ origin.source }} as {{ origin.argument }} ({{ origin.layout }}; SHA-256 {{ origin.sha256 }}).
{% endfor %}
## Scores

{% if scored -%}
mIoU {{ percent(scored.miou) }} %, pixel accuracy {{ percent(scored.pixel_accuracy) }} %.

Protocol: {{ scored.protocol.dataset }} {{ scored.protocol.split }}, one confusion matrix over \
{{ scored.protocol.images }} whole images at native size, scales {{ scored.protocol.scales | join(", ") }}, \
{{ "with" if scored.protocol.flip else "without" }} mirror images. A class that occurs nowhere is left out of the mean.
SHA-256 of the weights: {{ scored.protocol.weights_sha256 }}.
{%- elif learnt and learnt.best is not none -%}
Best validation mIoU during training {{ percent(learnt.best) }} %; no scores of `dlaseg eval` were given.
{%- else -%}
Not recorded here.
{%- endif %}

## Training

{% if learnt -%}
{{ learnt.epochs }} epochs:

```
{{ learnt.command }}
```

with {% for package, version in learnt.versions.items() %}{{ package }} {{ version }}{{ ", " if not loop.last }}\
{% endfor %}, and this record:

```yaml
{{ learnt.record }}```
{%- else -%}
Not recorded here.
{%- endif %}

## Licence

{% if terms == "unknown" -%}
Not stated. The data that a model learnt from may bind its use.
{%- else -%}
{{ terms }}
{%- endif %}
"""
