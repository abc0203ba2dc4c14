"""Checkpoints: every released format of the families read, one own format written."""

from vmp.checkpoint.files import CheckpointError
from vmp.checkpoint.load import Loaded, load_checkpoint, read_checkpoint, weights_sha256
from vmp.checkpoint.save import save_checkpoint

__all__ = [
    "CheckpointError",
    "Loaded",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "weights_sha256",
]
