"""Recording what a model's scans and self-attentions used: one adapter a model family behind one protocol.

with record(model, layers=[0, -1]) as captures:
    model(clip)
captures[0, "forward"].operator().row(5)
"""

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError
from analysis.capture.rebuild import rebuild
from analysis.capture.recorder import Captured, Captures, captures_of, layer_inputs, record
from analysis.capture.registry import Family, families, family_of, register_family

__all__ = [
    "AttentionCapture",
    "Capture",
    "CaptureError",
    "Captured",
    "Captures",
    "Family",
    "captures_of",
    "families",
    "family_of",
    "layer_inputs",
    "rebuild",
    "record",
    "register_family",
]
