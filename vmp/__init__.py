"""Selective scans and video state space models."""

# Before the imports, as checkpoints record it.
__version__ = "0.1.0"

from vmp.checkpoint import load_checkpoint, save_checkpoint
from vmp.config import ModelConfig
from vmp.layout import TokenLayout
from vmp.model import LanguageModel, VideoModel, create_model
from vmp.scan import available_backends, selective_scan

__all__ = [
    "LanguageModel",
    "ModelConfig",
    "TokenLayout",
    "VideoModel",
    "__version__",
    "available_backends",
    "create_model",
    "load_checkpoint",
    "save_checkpoint",
    "selective_scan",
]
