"""Deep Layer Aggregation for semantic segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlaseg.errors import UserError
    from dlaseg.evaluation.metrics import ConfusionMatrix
    from dlaseg.inference.predictor import Predictor
    from dlaseg.labels import LabelMap
    from dlaseg.models.factory import create_backbone, create_model, list_models, load_model
    from dlaseg.models.segmenter import DLASeg
    from dlaseg.models.weights import save_model
    from dlaseg.version import __version__

# Where each name lives. Imported when first asked for: scoring finished label maps needs no torch.
_HOMES = {
    "ConfusionMatrix": "dlaseg.evaluation.metrics",
    "DLASeg": "dlaseg.models.segmenter",
    "LabelMap": "dlaseg.labels",
    "Predictor": "dlaseg.inference.predictor",
    "UserError": "dlaseg.errors",
    "__version__": "dlaseg.version",
    "create_backbone": "dlaseg.models.factory",
    "create_model": "dlaseg.models.factory",
    "list_models": "dlaseg.models.factory",
    "load_model": "dlaseg.models.factory",
    "save_model": "dlaseg.models.weights",
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
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlaseg' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
