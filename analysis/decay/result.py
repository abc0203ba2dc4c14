"""The saved result of a decay probe."""

from pydantic.dataclasses import dataclass

from analysis.results import RECORD, Array, Curve, Layout, Measurement, Provenance


@dataclass(frozen=True, config=RECORD)
class ClipSums:
    """What one layer, direction and scope gave, clip by clip: every number of the report follows from it.

    n clips come first on every axis; weights W are in ``weight_unit``.

    Attributes:
        lag_profile: m(k), (n, L). NaN where no pair has that lag.
        lag_pairs: pairs of tokens that each lag averages, (L,).
        frame_profile, frame_pairs: the same over frames, (n, T) and (T,). None where there are no frames.
        distance: mean distance in tokens, frames and patches, (n, 3). NaN where there are no frames.
        uniform: the same of the uniform matrix with the same allowed pairs, (n, 3).
        effective_context: fewest keys that hold 90 % of a row, mean over rows, (n,).
        empty_rows: rows of sum 0, left out of the means, (n,).
        predicted: quantiles of ln 2 / (abs(A) mean delta) in tokens, (n, Q). The same in every scope. None for
            self-attention, which has no steps.
        frame_matrix: F[s, t], (n, T, T). None where there are no frames.
        class_row: the class token's row summed by frame, (n, T). None where there is no class token.
        class_self: what the class tokens keep to themselves, (n,). None likewise.
    """

    layer: int
    direction: str
    scope: str
    weight_unit: str
    lag_profile: Array
    lag_pairs: Array
    frame_profile: Array | None
    frame_pairs: Array | None
    distance: Array
    uniform: Array
    effective_context: Array
    empty_rows: Array
    predicted: Array | None
    frame_matrix: Array | None
    class_row: Array | None
    class_self: Array | None


@dataclass(frozen=True, config=RECORD)
class DecayResult:
    """Historical decay of one checkpoint on one set of clips.

    Attributes:
        layers, scopes: what was asked for.
        resamples: bootstrap resamples behind each interval; the level is 95 %.
        notes: what holds for the whole result, such as gaps common to all layers.
        measurements: the numbers; curves: profiles, frame matrices and class rows.
        sums: the per-clip data that both follow from.
    """

    provenance: Provenance
    layout: Layout
    layers: tuple[int, ...]
    scopes: tuple[str, ...]
    resamples: int
    notes: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    curves: tuple[Curve, ...]
    sums: tuple[ClipSums, ...]

    def measurement(self, layer: int, direction: str, scope: str, quantity: str) -> Measurement:
        """The number of that name. Raises KeyError where the result has none."""
        for m in self.measurements:
            if (m.layer, m.direction, m.scope, m.quantity) == (layer, direction, scope, quantity):
                return m
        raise KeyError(f"no {quantity} for layer {layer}, {direction}, scope {scope}")

    def curve(self, layer: int, direction: str, scope: str, quantity: str) -> Curve | None:
        """The curve of that name, or None where the result has none, as for frames of a token sequence."""
        for c in self.curves:
            if (c.layer, c.direction, c.scope, c.quantity) == (layer, direction, scope, quantity):
                return c
        return None

    def weight_unit(self, scope: str) -> str:
        """The unit of W in a scope. Raises KeyError where the result does not have that scope."""
        for s in self.sums:
            if s.scope == scope:
                return s.weight_unit
        raise KeyError(f"no scope {scope}; there are {', '.join(self.scopes)}")

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.direction for s in self.sums))

    @property
    def whole_directions(self) -> tuple[str, ...]:
        """Directions without those that are one side of another."""
        return tuple(direction for direction in self.directions if " " not in direction)
