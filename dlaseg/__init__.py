"""Deep Layer Aggregation for semantic segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlaseg.errors import UserError
    from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
    from dlaseg.factory import create_backbone, create_model, list_models, load_model
    from dlaseg.inference.predictor import Predictor
    from dlaseg.labels import LabelMap
    from dlaseg.models.segmenter import DLASeg
    from dlaseg.version import __version__
    from dlaseg.weights.files import save_model
    from dlaseg.weights.publishing import push_to_hub, save_pretrained

# Where each name lives. Imported when first asked for: scoring finished label maps needs no torch.
_HOMES = {
    "ConfusionMatrix": "dlaseg.evaluation.metrics.confusion",
    "DLASeg": "dlaseg.models.segmenter",
    "LabelMap": "dlaseg.labels",
    "Predictor": "dlaseg.inference.predictor",
    "UserError": "dlaseg.errors",
    "__version__": "dlaseg.version",
    "create_backbone": "dlaseg.factory",
    "create_model": "dlaseg.factory",
    "list_models": "dlaseg.factory",
    "load_model": "dlaseg.factory",
    "push_to_hub": "dlaseg.weights.publishing",
    "save_model": "dlaseg.weights.files",
    "save_pretrained": "dlaseg.weights.publishing",
}

__all__ = [
    "ConfusionMatrix",
    "DLASeg",
    "LabelMap",
    "Predictor",
    "UserError",
    "__version__",
    "create_backbone",
    "create_model",
    "list_models",
    "load_model",
    "push_to_hub",
    "save_model",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlaseg' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
