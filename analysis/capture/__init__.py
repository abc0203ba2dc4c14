"""Recording what a model's scans and self-attentions used: one adapter a model family behind one protocol.

with record(model, layers=[0, -1]) as captures:
    model(clip)
captures[0].operator().row(5)
"""

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError
from analysis.capture.rebuild import rebuild
from analysis.capture.recorder import Family, family_of, record

__all__ = ["AttentionCapture", "Capture", "CaptureError", "Family", "family_of", "rebuild", "record"]
