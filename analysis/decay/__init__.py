"""Historical decay: how fast what each layer carries from token to token falls with distance."""

from analysis.decay.measure import Decay

__all__ = ["Decay"]
