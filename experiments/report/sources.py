"""Figures quoted from others, with where they stand."""

from dataclasses import dataclass

ARXIV = "2406.19006"


@dataclass(frozen=True)
class Gain:
    """Top-1 points over VideoMamba that an abstract states, on one dataset; low is high where it states one number."""

    version: str
    dataset: str
    low: float
    high: float


GAINS = (
    Gain("v3", "Kinetics-400", 7.9, 7.9),
    Gain("v3", "Something-Something V2", 8.1, 8.1),
    Gain("v4", "Kinetics-400", 1.6, 2.8),
    Gain("v4", "Something-Something V2", 1.1, 1.9),
)
"""Abstracts of VideoMambaPro (Lu, Salah and Poppe, arXiv 2406.19006): v3 and v4."""


@dataclass(frozen=True)
class Best:
    """The best model of v3's abstract on Kinetics-400: top-1 (%), points below a larger model, and the share (%) of
    that model's parameters that it has. v4's abstract no longer says so."""

    model: str
    top1: float
    larger: str
    below: float
    share: float


BEST = Best("VideoMambaPro-M", 91.9, "InternVideo2-6B", 0.2, 1.2)


def disagreement() -> tuple[float, float]:
    """The least and the largest factor between v3's gain and v4's on the same dataset."""
    older, newer = ({g.dataset: g for g in GAINS if g.version == version} for version in ("v3", "v4"))
    factors = [older[name].low / gain for name in older for gain in (newer[name].low, newer[name].high)]
    return min(factors), max(factors)


def gains() -> str:
    """Every gain that the abstracts state, in words."""
    versions = dict.fromkeys(gain.version for gain in GAINS)
    return "; ".join(
        f"{version} " + " and ".join(_said(gain) for gain in GAINS if gain.version == version)
        for version in versions
    )


def _said(gain: Gain) -> str:
    by = f"{gain.low}" if gain.low == gain.high else f"{gain.low} to {gain.high}"
    return f"by {by} points on {gain.dataset}"
