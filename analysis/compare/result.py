"""The saved results of faithfulness, and of models side by side."""

from pydantic.dataclasses import dataclass

from analysis.contradiction.result import ContradictionResult
from analysis.decay.result import DecayResult
from analysis.results import RECORD, Array, Measurement


@dataclass(frozen=True, config=RECORD)
class ClipCurves:
    """Deletion curves of one measure and kind of part, clip by clip.

    Attributes:
        part: "frame" or "tube".
        measure: what ranked the parts; "random" is the mean over orders drawn by several seeds.
        curves: probability of the class of the whole clip after 0, 1, ..., n parts are removed, (clips, n + 1).
        areas: under each clip's curve over the fraction removed, (clips,).
    """

    part: str
    measure: str
    curves: Array
    areas: Array


@dataclass(frozen=True, config=RECORD)
class Relevance:
    """What one measure gives to each temporal position, clip by clip, (clips, frames).

    Sums over the position's tokens, absolute and divided by their total; NaN where that is 0.
    """

    measure: str
    frames: Array


@dataclass(frozen=True, config=RECORD)
class Faithfulness:
    """How far each measure names the parts of clips that a model's prediction rests on.

    Attributes:
        seeds: how many random orders each clip and kind of part has.
        predictions: class of the whole clip by the model, (clips,); probabilities: of those.
        curves: by part and measure; relevance: by measure.
        measurements: areas, and their paired differences to random orders, with intervals over clips. `direction`
            is the part, `scope` the measure; `layer` is -1, as they are of the whole model.
        note: what is missing and why, or "".
    """

    seeds: int
    predictions: Array
    probabilities: Array
    curves: tuple[ClipCurves, ...]
    relevance: tuple[Relevance, ...]
    measurements: tuple[Measurement, ...]
    note: str = ""

    def measurement(self, part: str, measure: str, quantity: str) -> Measurement:
        """The number of that name. Raises KeyError where there is none."""
        for m in self.measurements:
            if (m.direction, m.scope, m.quantity) == (part, measure, quantity):
                return m
        raise KeyError(f"no {quantity} for {measure}, {part}")


@dataclass(frozen=True, config=RECORD)
class ModelResult:
    """One model of a comparison, under the name that tables and figures give it."""

    name: str
    decay: DecayResult
    contradiction: ContradictionResult
    faithfulness: Faithfulness


@dataclass(frozen=True, config=RECORD)
class CompareResult:
    """Models that saw the same clips, in the scope `contribution`.

    Attributes:
        command: the command line.
        clips: names of the clips, the same for all.
        resamples: bootstrap resamples behind each interval; the level is 95 %.
        notes: what holds for the comparison, such as clips of different shape.
    """

    command: str
    clips: tuple[str, ...]
    resamples: int
    notes: tuple[str, ...]
    models: tuple[ModelResult, ...]
