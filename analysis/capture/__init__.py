"""Recording what a model's scans used: one adapter a model family behind one protocol.

with record(model, layers=[0, -1]) as captures:
    model(clip)
captures[0].operator().row(5)
"""

from analysis.capture.capture import Capture, rebuild
from analysis.capture.recorder import Family, record

__all__ = ["Capture", "Family", "rebuild", "record"]
