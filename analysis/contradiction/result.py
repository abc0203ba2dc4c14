"""The saved result of a contradiction probe."""

from pydantic.dataclasses import dataclass

from analysis.matrix.scopes import Scope
from analysis.results import RECORD, Array, CheckpointInfo, Curve, Layout, Measurement, Provenance


@dataclass(frozen=True, config=RECORD)
class ClipValues:
    """What one layer, direction and scope gave, clip by clip: every number of the report follows from it.

    Attributes:
        values: by name, an array whose first axis is the clips; NaN where a clip gave nothing. The names are those of
            `analysis.contradiction.measure`.
    """

    layer: int
    direction: str
    scope: str
    values: dict[str, Array]


@dataclass(frozen=True, config=RECORD)
class Side:
    """One model of the comparison.

    Attributes:
        label: what it is called in figures, such as "self-attention, untrained, seed 0".
        checkpoint: its weights; None for fresh ones.
        measurements: the numbers; curves: distributions, and sensitivity by lag.
        values: the per-clip data that both follow from.
    """

    label: str
    checkpoint: CheckpointInfo | None
    measurements: tuple[Measurement, ...]
    curves: tuple[Curve, ...]
    values: tuple[ClipValues, ...]

    def measurement(self, layer: int, direction: str, scope: str, quantity: str) -> Measurement:
        """The number of that name. Raises KeyError where there is none."""
        for m in self.measurements:
            if (m.layer, m.direction, m.scope, m.quantity) == (layer, direction, scope, quantity):
                return m
        raise KeyError(f"no {quantity} for layer {layer}, {direction}, scope {scope}")

    def curve(self, layer: int, direction: str, scope: str, quantity: str) -> Curve:
        """The curve of that name. Raises KeyError where there is none."""
        for c in self.curves:
            if (c.layer, c.direction, c.scope, c.quantity) == (layer, direction, scope, quantity):
                return c
        raise KeyError(f"no {quantity} for layer {layer}, {direction}, scope {scope}")

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.direction for v in self.values))


@dataclass(frozen=True, config=RECORD)
class ContradictionResult:
    """Element contradiction of one checkpoint on one set of clips, beside a self-attention control on the same.

    Attributes:
        layers, scopes: what was asked for.
        mediators: tokens replaced in each layer and clip.
        resamples: bootstrap resamples behind each interval; the level is 95 %.
        notes: what holds for the whole result, such as gaps common to all layers.
        probed: the checkpoint; control: None where the checkpoint is self-attention itself, or none was wanted.
    """

    provenance: Provenance
    layout: Layout
    layers: tuple[int, ...]
    scopes: tuple[Scope, ...]
    mediators: int
    resamples: int
    notes: tuple[str, ...]
    probed: Side
    control: Side | None

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.probed,) if self.control is None else (self.probed, self.control)
