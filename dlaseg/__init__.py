"""Deep Layer Aggregation for semantic segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlaseg.config.pretraining import PretrainConfig
    from dlaseg.config.reading import read_config
    from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
    from dlaseg.data.datasets import open_dataset
    from dlaseg.errors import UserError
    from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
    from dlaseg.evaluation.scoring import evaluate
    from dlaseg.factory import create_backbone, create_model, list_models, load_model
    from dlaseg.inference.predictor import Predictor
    from dlaseg.inference.run import infer
    from dlaseg.labels import LabelMap
    from dlaseg.models.segmenter import DLASeg
    from dlaseg.training import losses
    from dlaseg.training.pixel_loss import PixelLoss
    from dlaseg.training.train import train
    from dlaseg.version import __version__
    from dlaseg.weights.builtin import list_weights
    from dlaseg.weights.files import save_model
    from dlaseg.weights.publishing import push_to_hub, save_pretrained

# Where each name lives. Imported when first asked for: scoring finished label maps needs no torch.
_HOMES = {
    "AugmentConfig": "dlaseg.config.segmentation:AugmentConfig",
    "Config": "dlaseg.config.segmentation:Config",
    "ConfusionMatrix": "dlaseg.evaluation.metrics.confusion:ConfusionMatrix",
    "DLASeg": "dlaseg.models.segmenter:DLASeg",
    "DataConfig": "dlaseg.config.segmentation:DataConfig",
    "LabelMap": "dlaseg.labels:LabelMap",
    "LossConfig": "dlaseg.config.segmentation:LossConfig",
    "ModelConfig": "dlaseg.config.segmentation:ModelConfig",
    "PixelLoss": "dlaseg.training.pixel_loss:PixelLoss",
    "Predictor": "dlaseg.inference.predictor:Predictor",
    "PretrainConfig": "dlaseg.config.pretraining:PretrainConfig",
    "TrainConfig": "dlaseg.config.segmentation:TrainConfig",
    "UserError": "dlaseg.errors:UserError",
    "__version__": "dlaseg.version:__version__",
    "create_backbone": "dlaseg.factory:create_backbone",
    "create_model": "dlaseg.factory:create_model",
    "evaluate": "dlaseg.evaluation.scoring:evaluate",
    "infer": "dlaseg.inference.run:infer",
    "list_models": "dlaseg.factory:list_models",
    "list_weights": "dlaseg.weights.builtin:list_weights",
    "load_model": "dlaseg.factory:load_model",
    "losses": "dlaseg.training.losses",
    "open_dataset": "dlaseg.data.datasets:open_dataset",
    "push_to_hub": "dlaseg.weights.publishing:push_to_hub",
    "read_config": "dlaseg.config.reading:read_config",
    "save_model": "dlaseg.weights.files:save_model",
    "save_pretrained": "dlaseg.weights.publishing:save_pretrained",
    "train": "dlaseg.training.train:train",
}

__all__ = [
    "AugmentConfig",
    "Config",
    "ConfusionMatrix",
    "DLASeg",
    "DataConfig",
    "LabelMap",
    "LossConfig",
    "ModelConfig",
    "PixelLoss",
    "Predictor",
    "PretrainConfig",
    "TrainConfig",
    "UserError",
    "__version__",
    "create_backbone",
    "create_model",
    "evaluate",
    "infer",
    "list_models",
    "list_weights",
    "load_model",
    "losses",
    "open_dataset",
    "push_to_hub",
    "read_config",
    "save_model",
    "save_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlaseg' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
