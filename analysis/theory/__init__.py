"""The claims of `docs/math.md`, section 5, as data that every scan can be held against."""

from analysis.theory.case import Case
from analysis.theory.claims import BROKEN, CLAIMS, Claim, Verdict, check

__all__ = ["BROKEN", "CLAIMS", "Case", "Claim", "Verdict", "check"]
