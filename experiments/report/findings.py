"""Sentences made from numbers: each says what its intervals allow, whichever way they point."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.decay.result import DecayResult
from analysis.results import Measurement

SLOWER: Mapping[str, int] = {
    "half_life_tokens": 1,
    "half_life_frames": 1,
    "mean_distance_tokens": 1,
    "decay_index_tokens": -1,
    "effective_context_tokens": 1,
}
"""Quantities that tell slow decay from fast: +1 where more of it means slower decay, -1 where less does."""

LEVEL = 0.95


@dataclass(frozen=True)
class Tally:
    """How the paired differences of one quantity in one scope fall, over layers and directions.

    Attributes:
        slower, faster: intervals that exclude 0, by what they say of the first model's decay.
        unclear: intervals that hold 0, or differences without an interval.
        gaps: no difference, as where a half-life lies beyond the sequence.
    """

    quantity: str
    scope: str
    slower: int
    faster: int
    unclear: int
    gaps: int

    @property
    def compared(self) -> int:
        return self.slower + self.faster + self.unclear

    @property
    def sign(self) -> int:
        """+1 where all intervals that exclude 0 say slower, -1 where all say faster, else 0."""
        return int(self.slower > 0 and not self.faster) - int(self.faster > 0 and not self.slower)

    @property
    def verdict(self) -> str:
        """One word for what the intervals say of the claim that the first model decays more slowly."""
        if not self.compared:
            return "not comparable"
        if not self.sign:
            return "mixed" if self.slower else "null"
        direction = "for" if self.sign > 0 else "against"
        return direction if 2 * (self.slower + self.faster) > self.compared else f"weakly {direction}"


VERDICTS: Mapping[str, str] = {
    "for": "This agrees with the claim that the paper's changes slow decay",
    "against": "This runs against the claim that the paper's changes slow decay",
    "weakly for": "Where there is a difference, it agrees with the claim that the paper's changes slow decay",
    "weakly against": "Where there is a difference, it runs against the claim that the paper's changes slow decay",
    "mixed": "The evidence points both ways",
    "null": "This is a null result",
    "not comparable": "Nothing can be compared",
}


def tally(differences: Iterable[Measurement], quantity: str, scope: str) -> Tally:
    """Count one quantity's differences, first model less second, by what their intervals say."""
    counts = {"slower": 0, "faster": 0, "unclear": 0, "gaps": 0}
    for d in differences:
        if (d.quantity, d.scope) == (quantity, scope):
            counts[_kind(d)] += 1
    return Tally(quantity, scope, **counts)


def _kind(difference: Measurement) -> str:
    if difference.value is None:
        return "gaps"
    sign = excludes_zero(difference)
    if sign == 0:
        return "unclear"
    return "slower" if sign == SLOWER[difference.quantity] else "faster"


def excludes_zero(difference: Measurement) -> int:
    """+1 or -1 where the interval lies on one side of 0, else 0."""
    if difference.low is None or difference.high is None:
        return 0
    return int(difference.low > 0) - int(difference.high < 0)


def sentence(found: Tally, names: Sequence[str], label: str) -> str:
    """What a tally says, in words."""
    one, other = names
    parts = [
        f"By {label} in scope {found.scope}, {one} decays more slowly than {other} in {found.slower} of "
        f"{found.compared} layers and directions, faster in {found.faster}, and the interval holds 0 in "
        f"{found.unclear}."
    ]
    if found.gaps:
        parts.append(f"In {found.gaps} more there is no difference to take.")
    parts.append(f"{VERDICTS[found.verdict]}.")
    return " ".join(parts)


def control_sentence(trained: Tally, untrained: Tally) -> str:
    """Whether a difference was there before training, from what the intervals of untrained models say."""
    counts = f"{untrained.slower} slower, {untrained.faster} faster, {untrained.unclear} undecided"
    sign, before = trained.sign, untrained.sign
    if not sign:
        return f"Before training: {counts}."
    if before == sign:
        return (
            f"Untrained models of the same two configurations differ in the same way ({counts}): the difference "
            "need not be learned."
        )
    if before == -sign:
        return f"Untrained models of the same two configurations differ the other way round ({counts})."
    return f"Untrained models of the same two configurations do not differ so ({counts})."


def chance_note(tallies: Sequence[Tally]) -> str:
    """How many intervals would exclude 0 by chance alone."""
    total = sum(t.compared for t in tallies)
    met = sum(t.slower + t.faster for t in tallies)
    return (
        f"Of {total} intervals, {met} exclude 0; were there no difference anywhere, about "
        f"{(1 - LEVEL) * total:.0f} would. Intervals are not corrected for their number, and those of one layer are "
        "of the same clips, so they are not independent."
    )


def prediction_sentence(result: DecayResult, name: str, scope: str) -> str:
    """Whether measured half-lives lie within the spread of those that A and delta predict."""
    within = beyond = total = 0
    for layer in result.layers:
        for direction in result.directions:
            measured, near, far = (
                result.measurement(layer, direction, scope, quantity).value
                for quantity in (
                    "half_life_tokens",
                    "predicted_half_life_p10_tokens",
                    "predicted_half_life_p90_tokens",
                )
            )
            if measured is None or near is None or far is None:
                continue
            total += 1
            # The reference of a measured half-life is lag 1.
            within += near <= measured - 1 <= far
            beyond += measured == float("inf")
    return (
        f"{name}, scope {scope}: {within} of {total} measured half-lives, counted from lag 1, lie between the 10th "
        f"and the 90th percentile of what A and the mean step predict; {beyond} lie beyond the sequence."
    )


def law_sentence(result: DecayResult, name: str, scope: str) -> str:
    """How many lag profiles a power law fits better than an exponential."""
    differences = [
        result.measurement(layer, direction, scope, "decay_fit_aic_difference_tokens").value
        for layer in result.layers
        for direction in result.directions
    ]
    known = [d for d in differences if d is not None]
    return (
        f"{name}, scope {scope}: a power law fits {sum(d > 0 for d in known)} of {len(known)} lag profiles better "
        "than an exponential, by AIC."
    )


def class_sentence(result: DecayResult, name: str, scope: str) -> str:
    """What the class token of the last layer keeps to itself, by direction."""
    last = result.layers[-1]
    parts = []
    for direction in result.directions:
        kept = result.measurement(last, direction, scope, "class_self")
        said = "has no weight" if kept.value is None else f"keeps {kept.value:.2f} of its row to itself"
        parts.append(f"{direction} it {said}")
    return f"{name}, scope {scope}, class token of layer {last}: {', '.join(parts)}."
