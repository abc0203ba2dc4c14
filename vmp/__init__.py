"""Selective scans and video state space models."""

from vmp.config import ModelConfig, TokenLayout
from vmp.model import LanguageModel, VideoModel, create_model
from vmp.scan import available_backends, selective_scan

__version__ = "0.1.0"

__all__ = [
    "LanguageModel",
    "ModelConfig",
    "TokenLayout",
    "VideoModel",
    "__version__",
    "available_backends",
    "create_model",
    "selective_scan",
]
