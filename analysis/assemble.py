"""From what measures gave, place by place, to the variables of a result's dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import xarray

from analysis.intervals import MOST_UNDEFINED, percentile_interval
from analysis.measure import Measure, Place, Quantity, weight_unit
from analysis.unfinished import Key


def own_axes(measure: Measure) -> dict[str, tuple[str, ...]]:
    """Own axes of all that a measure's `per_clip` may give."""
    return {**{name: q.dims for name, q in measure.quantities.items()}, **dict(measure.kept)}


def check_shapes(
    measure: Measure, given: Mapping[str, np.ndarray], first: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ValueError where what one clip gave does not fit the measure's axes, or the shapes of the first."""
    dims, said = own_axes(measure), f"measure {measure.name}: per_clip gives"
    if first.keys() != given.keys():
        raise ValueError(f"{said} other names for one clip than for another")
    for name, value in given.items():
        if name not in dims or value.ndim != len(dims[name]):
            wanted = f"axes {dims[name]}" if name in dims else "no such quantity, nor is it among `kept`"
            raise ValueError(f"{said} {name!r} of shape {value.shape}; it states {wanted}")
        if value.shape != first[name]:
            raise ValueError(f"{said} {name!r} of shape {value.shape}, and {first[name]} for the first clip")


def clips_of(
    measure: Measure,
    clips: Sequence[Mapping[str, np.ndarray]],
    sums: Mapping[str, np.ndarray],
    place: Place,
) -> xarray.Dataset:
    """What one place gave, clip by clip, along the axes that the measure states; the mean of what is summed."""
    dims = own_axes(measure)
    stacked = {name: (("clip", *dims[name]), np.stack([clip[name] for clip in clips])) for name in clips[0]}
    means = {name: (dims[name], total / len(clips)) for name, total in sums.items()}
    return xarray.Dataset({**stacked, **means}, attrs={"place": place})


Ends = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]
"""Value, low and high end, and notes where the quantity's entries are numbers."""


def estimates(measure: Measure, clips: xarray.Dataset, weights: np.ndarray | None) -> dict[str, Ends]:
    values = measure.summarise(clips, None)
    draws = None if weights is None else measure.summarise(clips, weights)
    found: dict[str, Ends] = {}
    for name, quantity in measure.quantities.items():
        if name not in values:
            if not quantity.is_number:
                continue
            nothing = np.full((), np.nan)
            found[name] = (nothing, None, None, np.array(measure.gap(name, clips), dtype=object))
            continue
        value = np.asarray(values[name][0], dtype=np.float64)
        low = high = notes = None
        share = np.zeros(value.shape)
        if draws is not None and quantity.interval and name not in measure.summed:
            low, high, share = percentile_interval(draws[name])
        if quantity.is_number:
            low, high, notes = _explained(measure, name, value, low, high, share, clips)
        found[name] = (value, low, high, notes)
    return found


def _explained(
    measure: Measure, name: str, value: np.ndarray, low: np.ndarray | None, high: np.ndarray | None,
    undefined: np.ndarray, clips: xarray.Dataset,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:  # fmt: skip
    """Numbers' intervals, left out where too many resamples are undefined, and notes with every gap said."""
    notes = np.full(value.shape, "", dtype=object)
    low, high = (None if end is None else np.array(end, dtype=np.float64) for end in (low, high))
    for at in np.ndindex(value.shape):
        said = []
        if np.isnan(value[at]):
            dims = measure.quantities[name].dims
            own = {d: measure.coordinates.get(d, range(i + 1))[i] for d, i in zip(dims, at, strict=True)}
            said.append(measure.entry_gap(name, clips, **own) if own else measure.gap(name, clips))
            if low is not None and high is not None:
                low[at] = high[at] = np.nan
        else:
            said.append(measure.remark(name, float(value[at]), clips))
            if low is None or high is None:
                said.append("one clip: no interval" if measure.quantities[name].interval else "")
            elif undefined[at] > 0:
                given = undefined[at] <= MOST_UNDEFINED
                if not given:
                    low[at] = high[at] = np.nan
                begin = "undefined in" if given else "no interval: undefined in"
                said.append(f"{begin} {100 * float(undefined[at]):.1f} % of resamples")
        notes[at] = "; ".join(filter(None, said))
    return low, high, notes


@final
class Variables:
    """Gathers values place by place and lays them out along the axes of the dataset."""

    def __init__(self, models: list[str], keys: Sequence[Key], scopes: Sequence[str], clips: list[str]):
        self._models, self._scopes, self._clips = models, list(scopes), clips
        placed = [key for key in keys if key[0] >= 0]
        self._layers = sorted({key[0] for key in placed})
        self._directions = list(dict.fromkeys(key[1] for key in placed))
        self._put: list[tuple[Measure, Place, xarray.Dataset, dict[str, Ends]]] = []
        self._some: dict[str, list[int]] = {}
        self.sizes: dict[str, dict[str, int]] = {model: {} for model in models}
        """Lengths of a measure's own axes, by model."""

    def put(self, measure: Measure, place: Place, clips: xarray.Dataset, found: dict[str, Ends]) -> None:
        """Take what one place gave."""
        self._put.append((measure, place, clips, found))
        for name, quantity in measure.quantities.items():
            if quantity.layer_dim != "layer" and name in found:
                layers = self._some.setdefault(quantity.layer_dim, [])
                self._some[quantity.layer_dim] = sorted({*layers, place.layer})
        for name, dims in own_axes(measure).items():
            shapes = [found[name][0].shape] if name in found else []
            shapes += [clips[name].shape[-len(dims) :]] if name in clips and dims else []
            for dim, size in zip(dims, next((s for s in shapes if len(s) == len(dims)), ()), strict=False):
                self.sizes[place.model][dim] = size

    @property
    def _sizes(self) -> dict[str, int]:
        """Lengths of the axes in the dataset: the longest over models."""
        found: dict[str, int] = {}
        for of_model in self.sizes.values():
            for dim, size in of_model.items():
                found[dim] = max(found.get(dim, 0), size)
        return found

    def coords(self, measures: Sequence[Measure]) -> dict[str, Any]:
        coords: dict[str, Any] = {"model": np.array(self._models, dtype=object), "clip": self._clip_names()}
        if self._layers:
            coords |= {
                "layer": self._layers,
                "direction": np.array(self._directions, dtype=object),
                "scope": np.array(self._scopes, dtype=object),
                **self._some,
            }
        named = {dim: values for measure in measures for dim, values in measure.coordinates.items()}
        for dim, size in self._sizes.items():
            values = list(named.get(dim, range(size)))
            coords[dim] = np.array(values, dtype=object if values and isinstance(values[0], str) else None)
        return coords

    def _clip_names(self) -> np.ndarray:
        """Names of clips, numbered where they repeat, as labels of an axis have to differ."""
        repeated = len(set(self._clips)) < len(self._clips)
        names = [f"{name} ({i})" if repeated else name for i, name in enumerate(self._clips)]
        return np.array(names, dtype=object)

    def variables(self, measures: Sequence[Measure]) -> dict[str, Any]:
        out: dict[str, Any] = self._weight_units()
        for measure in measures:
            mine = [(place, clips, found) for m, place, clips, found in self._put if m is measure]
            placed = measure.level == "matrix"
            if placed:
                there = np.zeros(
                    (len(self._models), len(self._layers), len(self._directions), len(self._scopes)), bool
                )
                for place, _, _ in mine:
                    there[self._at(place, self._layers)] = True
                out[f"{measure.name}.measured"] = (("model", "layer", "direction", "scope"), there)
            for name, quantity in measure.quantities.items():
                out |= self._quantity(measure, name, quantity, mine, placed)
            for name, dims in own_axes(measure).items():
                parts = [(place, clips[name].values) for place, clips, _ in mine if name in clips]
                if parts and name not in measure.summed:
                    axes = (*self._axes(placed, "layer"), "clip", *dims)
                    out[f"{measure.name}.{name}"] = (
                        axes, self._laid(axes, placed, "layer", parts), {"role": "clips", "measure": measure.name},
                    )  # fmt: skip
        return out

    def _weight_units(self) -> dict[str, Any]:
        """The unit of W layer by layer, as a model may have scans in some and self-attention in others."""
        placed = [place for _, place, _, _ in self._put if place.layer >= 0]
        units = np.full((len(self._models), len(self._layers), len(self._scopes)), "", dtype=object)
        for place in placed:
            model, layer, _, scope = self._at(place, self._layers)
            units[model, layer, scope] = weight_unit(place.scope, place.is_scan)
        return {"weight_unit": (("model", "layer", "scope"), units)} if placed else {}

    def _quantity(
        self, measure: Measure, name: str, quantity: Quantity,
        mine: Sequence[tuple[Place, xarray.Dataset, dict[str, Ends]]], placed: bool,
    ) -> dict[str, Any]:  # fmt: skip
        there = [(place, found[name]) for place, _, found in mine if name in found]
        if not there:
            return {}
        there = [(p, e) for p, e in there if e[0].ndim == len(quantity.dims)] or there
        own = quantity.dims if there[0][1][0].ndim == len(quantity.dims) else ()
        axes = self._axes(placed, quantity.layer_dim) + own
        said: dict[str, list[list[str]]] = {}
        for place, (_, _, _, notes) in there:
            for at in np.ndindex(notes.shape) if notes is not None else ():
                if notes is not None and notes[at]:
                    spot = [place.model, *([place.layer, place.direction, place.scope] if placed else [])]
                    where = [self._label(measure, dim, i) for dim, i in zip(own, at, strict=True)]
                    said.setdefault(str(notes[at]), []).append([str(part) for part in (*spot, *where)])
        lacking = [model for model in self._models if all(place.model != model for place, _ in there)]
        attributes = {
            "units": quantity.unit,
            "long_name": quantity.label,
            "measure": measure.name,
            "role": "value",
            "number": int(quantity.is_number),
            "large": int(name in measure.summed),
            "notes": json.dumps(said, ensure_ascii=False),
            "lacking": json.dumps(lacking, ensure_ascii=False),
        }
        out = {
            name: (
                axes,
                self._laid(axes, placed, quantity.layer_dim, [(p, e[0]) for p, e in there]),
                attributes,
            )
        }
        for k, end in ((1, "low"), (2, "high")):
            parts = [(place, e[k]) for place, e in there if e[k] is not None]
            if parts:
                about = {
                    "units": quantity.unit,
                    "long_name": f"{quantity.label}, {end} end of the 95 % interval",
                }
                values = self._laid(axes, placed, quantity.layer_dim, parts)
                out[f"{name}_{end}"] = (axes, values, {**about, "measure": measure.name, "role": end})
        return out

    def _label(self, measure: Measure, dim: str, index: int) -> Any:
        return measure.coordinates[dim][index] if dim in measure.coordinates else index

    def _axes(self, placed: bool, layer_dim: str) -> tuple[str, ...]:
        return ("model", layer_dim, "direction", "scope") if placed else ("model",)

    def _laid(
        self, axes: tuple[str, ...], placed: bool, layer_dim: str, parts: Sequence[tuple[Place, Any]]
    ) -> np.ndarray:
        layers = self._some.get(layer_dim, self._layers)
        lengths = {
            "model": len(self._models), layer_dim: len(layers), "direction": len(self._directions),
            "scope": len(self._scopes), "clip": len(self._clips), **self._sizes,
        }  # fmt: skip
        out = np.full([lengths[axis] for axis in axes], np.nan)
        for place, values in parts:
            at = self._at(place, layers) if placed else (self._models.index(place.model),)
            values = np.asarray(values)
            out[(*at, *(slice(0, size) for size in values.shape))] = values
        return out

    def _at(self, place: Place, layers: Sequence[int]) -> tuple[int, int, int, int]:
        return (
            self._models.index(place.model),
            list(layers).index(place.layer),
            self._directions.index(place.direction),
            self._scopes.index(place.scope),
        )
