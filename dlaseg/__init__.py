"""Deep Layer Aggregation for semantic segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlaseg.config.pretraining import PretrainConfig
    from dlaseg.config.reading import read_config
    from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
    from dlaseg.config.training import BaseTrainConfig
    from dlaseg.data.check.check import check_dataset
    from dlaseg.data.datasets import open_dataset
    from dlaseg.data.pairs import SegmentationDataset
    from dlaseg.errors import UserError
    from dlaseg.evaluation.metrics.confusion import ConfusionMatrix, Scores
    from dlaseg.evaluation.scoring import evaluate
    from dlaseg.factory import create_backbone, create_model, list_models, load_model
    from dlaseg.inference.pipeline import InferSummary
    from dlaseg.inference.predictor import Predictor
    from dlaseg.inference.run import infer
    from dlaseg.labels import LabelMap
    from dlaseg.metadata import ModelMetadata
    from dlaseg.models.base import SegmentationModel
    from dlaseg.models.ocr import ObjectContextHead
    from dlaseg.models.rendering import RenderedDLASeg
    from dlaseg.models.segmenter import AttentiveDLASeg, DLASeg
    from dlaseg.training import losses
    from dlaseg.training.pixel_loss import PixelLoss
    from dlaseg.training.train import TrainResult, train
    from dlaseg.version import __version__
    from dlaseg.weights.builtin import list_weights
    from dlaseg.weights.card import model_card
    from dlaseg.weights.files import save_model
    from dlaseg.weights.loading import load_backbone_weights, load_weights
    from dlaseg.weights.publishing import push_to_hub, save_pretrained

# Where each name lives. Imported when first asked for: scoring finished label maps needs no torch.
_HOMES = {
    "AttentiveDLASeg": "dlaseg.models.segmenter:AttentiveDLASeg",
    "AugmentConfig": "dlaseg.config.segmentation:AugmentConfig",
    "BaseTrainConfig": "dlaseg.config.training:BaseTrainConfig",
    "Config": "dlaseg.config.segmentation:Config",
    "ConfusionMatrix": "dlaseg.evaluation.metrics.confusion:ConfusionMatrix",
    "DLASeg": "dlaseg.models.segmenter:DLASeg",
    "DataConfig": "dlaseg.config.segmentation:DataConfig",
    "InferSummary": "dlaseg.inference.pipeline:InferSummary",
    "LabelMap": "dlaseg.labels:LabelMap",
    "LossConfig": "dlaseg.config.segmentation:LossConfig",
    "ModelConfig": "dlaseg.config.segmentation:ModelConfig",
    "ModelMetadata": "dlaseg.metadata:ModelMetadata",
    "ObjectContextHead": "dlaseg.models.ocr:ObjectContextHead",
    "PixelLoss": "dlaseg.training.pixel_loss:PixelLoss",
    "Predictor": "dlaseg.inference.predictor:Predictor",
    "PretrainConfig": "dlaseg.config.pretraining:PretrainConfig",
    "RenderedDLASeg": "dlaseg.models.rendering:RenderedDLASeg",
    "Scores": "dlaseg.evaluation.metrics.confusion:Scores",
    "SegmentationDataset": "dlaseg.data.pairs:SegmentationDataset",
    "SegmentationModel": "dlaseg.models.base:SegmentationModel",
    "TrainConfig": "dlaseg.config.segmentation:TrainConfig",
    "TrainResult": "dlaseg.training.train:TrainResult",
    "UserError": "dlaseg.errors:UserError",
    "__version__": "dlaseg.version:__version__",
    "check_dataset": "dlaseg.data.check.check:check_dataset",
    "create_backbone": "dlaseg.factory:create_backbone",
    "create_model": "dlaseg.factory:create_model",
    "evaluate": "dlaseg.evaluation.scoring:evaluate",
    "infer": "dlaseg.inference.run:infer",
    "list_models": "dlaseg.factory:list_models",
    "list_weights": "dlaseg.weights.builtin:list_weights",
    "load_backbone_weights": "dlaseg.weights.loading:load_backbone_weights",
    "load_model": "dlaseg.factory:load_model",
    "load_weights": "dlaseg.weights.loading:load_weights",
    "losses": "dlaseg.training.losses",
    "model_card": "dlaseg.weights.card:model_card",
    "open_dataset": "dlaseg.data.datasets:open_dataset",
    "push_to_hub": "dlaseg.weights.publishing:push_to_hub",
    "read_config": "dlaseg.config.reading:read_config",
    "save_model": "dlaseg.weights.files:save_model",
    "save_pretrained": "dlaseg.weights.publishing:save_pretrained",
    "train": "dlaseg.training.train:train",
}

__all__ = [
    "AttentiveDLASeg",
    "AugmentConfig",
    "BaseTrainConfig",
    "Config",
    "ConfusionMatrix",
    "DLASeg",
    "DataConfig",
    "InferSummary",
    "LabelMap",
    "LossConfig",
    "ModelConfig",
    "ModelMetadata",
    "ObjectContextHead",
    "PixelLoss",
    "Predictor",
    "PretrainConfig",
    "RenderedDLASeg",
    "Scores",
    "SegmentationDataset",
    "SegmentationModel",
    "TrainConfig",
    "TrainResult",
    "UserError",
    "__version__",
    "check_dataset",
    "create_backbone",
    "create_model",
    "evaluate",
    "infer",
    "list_models",
    "list_weights",
    "load_backbone_weights",
    "load_model",
    "load_weights",
    "losses",
    "model_card",
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
