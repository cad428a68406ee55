"""Deep Layer Aggregation for semantic segmentation."""

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics import ConfusionMatrix
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.models.factory import create_backbone, create_model, list_models, load_model
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.weights import save_model
from dlaseg.version import __version__

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
