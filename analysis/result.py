"""The result of every probe: a labelled dataset and where it comes from.

A quantity of the dataset has the axes model, layer, direction and scope, and its own after them. Beside `x` stand
`x_low` and `x_high`, the ends of its 95 % interval over clips. What each clip gave is kept too, as
`<measure>.<name>` with the axis clip. NaN is a gap, and infinity lies beyond the sequence; `Result.note` says why.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import JsonValue, TypeAdapter, ValidationError

from analysis.files import ResultError, replacing
from analysis.intervals import Curve, Number
from analysis.measure import Measure, find_measure
from analysis.provenance import Provenance
from vmp.layout import TokenLayout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 3
"""Version of the folder that `Result.save` writes. Version 1 was one result.json a probe; in 2, a model had one unit of
W for all its layers."""

DATA, PROVENANCE = "data.nc", "provenance.json"
TIDY = {"summary": False, "curves": True}
"""The tidy tables, and whether each holds quantities with axes of their own."""

WRITTEN = (DATA, PROVENANCE, *(f"{name}.{ending}" for name in TIDY for ending in ("csv", "parquet")))
"""What `Result.save` puts into its folder."""

COLUMNS = ("model", "measure", "layer", "direction", "scope", "quantity", "at", "unit", "value", "low", "high",
           "n_clips", "note")  # fmt: skip
"""The columns of a tidy table."""

WHOLE = "whole model"
"""The scope of a quantity of the whole model in tidy tables."""


@final
class Result:
    """What a probe found.

    Attributes:
        data: the dataset. provenance: where it comes from.
        measures: those behind it, for its plots and tables; one that is not installed, or whose settings are of another
            version, is left out.

    `summary()` gives a tidy table and `plot("decay_index_tokens")` a figure; `save(folder)` keeps all of it.
    """

    def __init__(self, data: xr.Dataset, provenance: Provenance, measures: Sequence[Measure] | None = None):
        self.data, self.provenance = data, provenance
        self.measures = {m.name: m for m in (_installed(provenance) if measures is None else measures)}

    # What there is.

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.provenance.models)

    @property
    def model(self) -> str:
        """The name of the first model, which is the only one but in comparisons."""
        return self.models[0]

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(int(layer) for layer in self.data["layer"].values) if "layer" in self.data else ()

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(map(str, self.data["scope"].values)) if "scope" in self.data else ()

    def layers_of(self, model: str) -> tuple[int, ...]:
        """The layers of one model that were probed."""
        if not self._measured:
            return ()
        at = self._axes["model"].index(model)
        measured = np.any([there[at].any(axis=(1, 2)) for there in self._measured.values()], axis=0)
        return tuple(layer for layer, there in zip(self.layers, measured, strict=True) if there)

    def layout(self, model: str | None = None) -> TokenLayout:
        """Where the tokens of a model lie."""
        return self.provenance.models[model or self.model].layout

    def directions(self, measure: str, model: str | None = None, layer: int | None = None) -> tuple[str, ...]:
        """The directions in which a model, or one layer of it, has a measure's quantities.

        Sides of self-attention are among them.
        """
        if measure not in self._measured:
            return ()
        there = self._measured[measure][self._axes["model"].index(model or self.model)]
        chosen = there if layer is None else there[[self._axes["layer"].index(layer)]]
        return tuple(
            name for name, has in zip(self._axes["direction"], chosen.any(axis=(0, 2)), strict=True) if has
        )

    def weight_unit(self, scope: str, layer: int | None = None, model: str | None = None) -> str:
        """The unit of the weights W in a scope of a layer, of the first that was probed where None is given."""
        model = model or self.model
        at = {"model": model, "layer": self.layers_of(model)[0] if layer is None else layer, "scope": scope}
        return str(self._values("weight_unit", at))

    @property
    def n_clips(self) -> int:
        return len(self.provenance.clips.names)

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Names of all quantities."""
        return tuple(str(n) for n, v in self.data.data_vars.items() if v.attrs.get("role") == "value")

    # Tables ask for thousands of numbers, for which labelled indexing takes a millisecond each; these do not.

    @cached_property
    def _axes(self) -> Mapping[str, list[Any]]:
        """The labels along each axis."""
        return {str(axis): self.data.variables[axis].values.tolist() for axis in self.data.dims}

    @cached_property
    def _measured(self) -> Mapping[str, np.ndarray]:
        """Where each measure of matrices was taken, by model, layer, direction and scope."""
        named = {m: f"{m}.measured" for m in self.provenance.measures}
        return {m: self.data.variables[n].values for m, n in named.items() if n in self.data.variables}

    def _values(self, name: str, at: Mapping[str, Any]) -> np.ndarray | None:
        """A variable at the labels of some of its axes, or None where there is no such variable."""
        if name not in self.data.variables:
            return None
        variable = self.data.variables[name]
        where = (self._axes[str(d)].index(at[str(d)]) if d in at else slice(None) for d in variable.dims)
        return np.asarray(variable.values[tuple(where)])

    def _attributes(self, quantity: str) -> Mapping[Any, Any]:
        return self.data.variables[quantity].attrs

    # Single numbers and arrays.

    def number(self, quantity: str, layer: int = -1, direction: str = "", scope: str = "", model: str | None = None,
               **own: Any) -> Number:  # fmt: skip
        """One number; a gap where it is another model that has such a place.

        Raises:
            KeyError: with what there is, where no model has such a place, and where a quantity with axes of its own is
                not given a place on each.
        """
        at = self._at(quantity, layer, direction, scope, model, own)
        whole = [str(d) for d in self.data.variables[quantity].dims if d not in at]
        if whole:
            raise KeyError(
                f"{quantity}: name a place along {', '.join(whole)}, or take the array that curve() gives"
            )
        found = (self._values(name, at) for name in (quantity, f"{quantity}_low", f"{quantity}_high"))
        value, low, high = (np.nan if end is None else float(end) for end in found)
        note = self._notes(quantity).get(_key(at.values()), "")
        if not self.has(quantity, at["model"], layer, direction, scope):
            spot = f" in layer {layer} {direction}, scope {scope}" if "direction" in at else ""
            note = f"{at['model']} has no such number{spot}"
        return Number(value, low, high, self._attributes(quantity)["units"], note)

    def curve(self, quantity: str, layer: int = -1, direction: str = "", scope: str = "", model: str | None = None,
              **own: Any) -> Curve | None:  # fmt: skip
        """One array with its interval, or None where that place has none, as for frames of a token sequence."""
        if quantity not in self.data:
            return None
        at = self._at(quantity, layer, direction, scope, model, own)
        sizes = self.provenance.models[at["model"]].sizes
        kept = tuple(slice(sizes.get(str(d))) for d in self.data.variables[quantity].dims if d not in at)
        found = [self._values(name, at) for name in (quantity, f"{quantity}_low", f"{quantity}_high")]
        value, low, high = (None if array is None else array[kept] for array in found)
        there = self.has(quantity, at["model"], layer, direction, scope)
        if value is None or not (there or np.isfinite(value).any()):
            return None
        unit = self._attributes(quantity)["units"]
        return Curve(value, low, high, self.weight_unit(scope, layer, at["model"]) if unit == "W" else unit)

    def has(
        self, quantity: str, model: str, layer: int = -1, direction: str = "", scope: str = "", **_: Any
    ) -> bool:
        """Whether a quantity was measured there, be it a gap."""
        if model in self._lacking(quantity):
            return False
        measured = self._measured.get(self._attributes(quantity)["measure"])
        if measured is None:
            return True
        place = {"model": model, "layer": layer, "direction": direction, "scope": scope}
        if any(value not in self._axes[axis] for axis, value in place.items()):
            return False
        return bool(measured[tuple(self._axes[axis].index(value) for axis, value in place.items())])

    def _lacking(self, quantity: str) -> Sequence[str]:
        """Models whose sequences have no such array."""
        return json.loads(self._attributes(quantity).get("lacking", "[]"))

    def _at(self, quantity: str, layer: int, direction: str, scope: str, model: str | None, own: Mapping[str, Any]
            ) -> dict[str, Any]:  # fmt: skip
        if quantity not in self.quantities:
            raise KeyError(f"no quantity {quantity!r}; there are {', '.join(self.quantities)}")
        dims = [str(d) for d in self.data.variables[quantity].dims]
        given = {"model": model or self.model, "direction": direction, "scope": scope, **own}
        given |= {d: layer for d in dims if d.endswith("layer")}
        at = {d: given[d] for d in dims if d in given}
        if foreign := [name for name in own if name not in dims]:
            raise KeyError(f"{quantity}: has no axis {foreign[0]!r}; it has {', '.join(dims)}")
        for axis, value in at.items():
            if value not in self._axes[axis]:
                known = ", ".join(map(str, self._axes[axis]))
                raise KeyError(f"{quantity}: no {axis} {value!r}; there are {known}")
        return at

    def note(self, *place: Any, **own: Any) -> str:
        """Why a number is missing, or what has to be known to read it; "" for nothing. Arguments as of `number`."""
        return self.number(*place, **own).note

    def _notes(self, quantity: str) -> Mapping[tuple[str, ...], str]:
        if quantity not in self._parsed_notes:
            said = json.loads(self._attributes(quantity).get("notes", "{}"))
            self._parsed_notes[quantity] = {tuple(at): why for why, places in said.items() for at in places}
        return self._parsed_notes[quantity]

    @cached_property
    def _parsed_notes(self) -> dict[str, Mapping[tuple[str, ...], str]]:
        return {}

    # Tables.

    def summary(
        self,
        quantities: str | Sequence[str] | None = None,
        *,
        measure: str | None = None,
        scope: str | None = None,
        curves: bool = False,
        **where: Any,
    ) -> pd.DataFrame:
        """A tidy table: one number a row, with its interval, unit and note.

        Args:
            quantities: which ones; all where None. measure, scope: those alone.
            curves: entries of quantities with axes of their own instead, with their indices in the column `at`; those
                that are too large to be kept clip by clip are left out, unless they are named.
            where: values of further columns, such as `layer=3` or `direction="backward"`.

        Returns:
            Columns model, measure, layer, direction, scope, quantity, at, unit, value, low, high, n_clips, note. A
            gap is NaN with the reason in `note`; a quantity of the whole model has no layer.

        Raises:
            KeyError: for an unknown quantity or column.
        """
        every = self.quantities if quantities is None else quantities
        names = [every] if isinstance(every, str) else list(every)
        unknown = [name for name in names if name not in self.quantities]
        if unknown:
            raise KeyError(f"no quantity {unknown[0]!r}; there are {', '.join(self.quantities)}")
        if quantities is None:
            names = [name for name in names if self._is_listed(name, curves)]
        if measure is not None and measure not in self.provenance.measures:
            raise KeyError(f"no measure {measure!r}; there are {', '.join(self.provenance.measures)}")
        chosen = [name for name in names if measure in (None, self._attributes(name)["measure"])]
        table = pd.DataFrame([row for name in chosen for row in self._rows(name)], columns=[*COLUMNS])
        table["layer"] = table["layer"].astype("Int64")
        for column, wanted in {"scope": scope, **where}.items():
            if column not in COLUMNS:
                raise KeyError(f"no column {column!r}; there are {', '.join(COLUMNS)}")
            if wanted is not None:
                several: list[Any] = [wanted] if isinstance(wanted, str | int) else list(wanted)
                known = self._axes.get(column, [])
                unknown = [one for one in several if known and one not in (*known, WHOLE)]
                if unknown:
                    raise KeyError(f"no {column} {unknown[0]!r}; there are {', '.join(map(str, known))}")
                table = table[table[column].isin(several)]
        return table.reset_index(drop=True)

    def _is_listed(self, quantity: str, curves: bool) -> bool:
        about = self._attributes(quantity)
        return bool(about["number"]) != curves and not (curves and about["large"])

    def _rows(self, quantity: str) -> Iterator[tuple[Any, ...]]:
        variable, about = self.data.variables[quantity], self._attributes(quantity)
        dims, values, n = [str(d) for d in variable.dims], variable.values, self.n_clips
        low, high = (self._values(f"{quantity}_{end}", {}) for end in ("low", "high"))
        notes = self._notes(quantity)
        placed = "direction" in dims
        outer, own = (dims[:4], dims[4:]) if placed else (dims[:1], dims[1:])
        labels = [self._axes[d] for d in own]
        for index in product(*(range(len(self._axes[d])) for d in outer)):
            place = [self._axes[d][i] for d, i in zip(outer, index, strict=True)]
            if not self.has(quantity, *place):
                continue
            sizes = self.provenance.models[place[0]].sizes
            shape = [sizes.get(d, len(names)) for d, names in zip(own, labels, strict=True)]
            spot = (*place[1:],) if placed else (None, "", WHOLE)
            unit = self.weight_unit(place[3], place[1], place[0]) if about["units"] == "W" else about["units"]
            for inner in np.ndindex(*shape):
                at = (*index, *inner)
                named = [names[i] for names, i in zip(labels, inner, strict=True)]
                ends = (np.nan if end is None else float(end[at]) for end in (low, high))
                note = notes.get(_key([*place, *named]), "") if notes else ""
                where = ", ".join(map(str, named))
                value = float(values[at])
                yield place[0], about["measure"], *spot, quantity, where, unit, value, *ends, n, note

    # Showing.

    def plot(self, what: str, ax: Axes | None = None, **where: Any) -> Axes:
        """Draw a quantity, or a plot of one of the measures, on axes; new ones where None is given.

        Args:
            what: a quantity with a number in each layer, drawn by layer; or the name of a plot.
            where: what the plot takes, such as `layer=3`, `scope="mixer"`, `direction="backward"` or `model="a"`. The
                first layer that was probed is drawn where none is named, and the first model by a plot of one model.

        Raises:
            KeyError: with what there is, for another plot or another argument.
        """
        from analysis.draw import plot_by_layer

        made = {name: plot for measure in self.measures.values() for name, plot in measure.plots.items()}
        if what in made:
            taken = inspect.signature(made[what]).parameters
            foreign = [name for name in where if name not in taken]
            if foreign:
                raise KeyError(f"plot {what!r} takes no {foreign[0]!r}; it takes {', '.join([*taken][1:])}")
            layers = self.layers_of(where.get("model") or self.model)
            if "layer" in taken and layers:
                layer = where.get("layer", layers[0])
                where["layer"] = layers[layer] if -len(layers) <= layer < 0 else layer
            return made[what](self, ax=ax, **where)
        numbers = [
            name
            for name in self.quantities
            if self._attributes(name)["number"] and "layer" in self.data.variables[name].dims
        ]
        if what in numbers:
            return plot_by_layer(self, what, ax=ax, **where)
        raise KeyError(f"no plot {what!r}; there are {', '.join([*made, *numbers])}")

    def __repr__(self) -> str:
        shown = ", ".join(self.provenance.measures)
        layers = f"{len(self.layers)} layers, " if self.layers else ""
        scopes = f", scopes {', '.join(self.scopes)}" if self.scopes else ""
        return f"Result({shown} of {', '.join(self.models)}: {layers}{self.n_clips} clips{scopes})"

    def _repr_html_(self) -> str:
        from analysis.tables import html

        return html(self)

    # Keeping.

    def to_json(self) -> str:
        """All of it but the clips' own arrays as JSON: null is a gap, "Infinity" lies beyond the sequence."""
        tables = {name: self.summary(curves=curves) for name, curves in TIDY.items()}
        parts = [f'"format": {FORMAT}', f'"provenance": {_dump(self.provenance)}']
        for name, table in tables.items():
            lines = (
                json.dumps(_plain(row), allow_nan=False, ensure_ascii=False)
                for row in table.to_dict("records")
            )
            parts.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
        return "{\n" + ",\n".join(parts) + "\n}\n"

    def save(self, folder: Path | str) -> Path:
        """Write a folder, which appears whole or not at all, and return its path.

        Raises:
            ResultError: where the folder cannot be written or holds files of others.
        """
        with replacing(Path(folder), WRITTEN, PROVENANCE) as new:
            self.write_into(new)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write the files of `WRITTEN` into a folder that is there."""
        # By the C library, as h5netcdf takes ten times as long for a hundred small variables.
        numbers = {n: {"zlib": True} for n, v in self.data.data_vars.items() if v.dtype.kind == "f"}
        self.data.to_netcdf(folder / DATA, engine="netcdf4", encoding=numbers)
        text = "{" + f'"format": {FORMAT}, "provenance": {_dump(self.provenance)}' + "}\n"
        (folder / PROVENANCE).write_text(text, encoding="utf-8")
        for name, curves in TIDY.items():
            table = self.summary(curves=curves)
            table.to_csv(folder / f"{name}.csv", index=False)
            table.to_parquet(folder / f"{name}.parquet", index=False)

    @classmethod
    def load(cls, folder: Path | str, measures: Sequence[Measure] | None = None) -> Result:
        """Read what `save` wrote.

        Args:
            measures: those behind the result, where they are not installed.

        Raises:
            ResultError: naming the file and the version that wrote it, for anything else.
        """
        folder = Path(folder)
        old = folder / "result.json" if folder.is_dir() else folder
        if old.suffix == ".json" and old.name != PROVENANCE and old.is_file():
            raise ResultError(_why_not_read(old))
        if not (folder / PROVENANCE).is_file():
            raise ResultError(f"{folder}: holds no result (no {PROVENANCE})")
        try:
            about = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                version = about.get("format") if isinstance(about, dict) else None
                raise ResultError(
                    f"{folder / PROVENANCE}: of format {version}; this toolkit reads {FORMAT}; probe again"
                )
            provenance = TypeAdapter(Provenance).validate_python(about["provenance"], strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ResultError(f"{folder / PROVENANCE}: {where}: {first['msg']}") from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
            raise ResultError(f"{folder / PROVENANCE}: cannot be read: {error}") from error
        try:
            data = xr.load_dataset(folder / DATA, engine="netcdf4")
        except (OSError, ValueError, RuntimeError) as error:
            raise ResultError(f"{folder / DATA}: cannot be read: {error}") from error
        return cls(data, provenance, measures)


def with_notes(result: Result, notes: Iterable[str]) -> Result:
    """The result with further notes."""
    all_notes = tuple(dict.fromkeys((*result.provenance.notes, *notes)))
    return Result(result.data, replace(result.provenance, notes=all_notes), tuple(result.measures.values()))


def _why_not_read(path: Path) -> str:
    """What a `result.json` is, which is no folder of `Result.save`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "findings" in found:
            return f"{path}: is a result of `vmp theory`, which `analysis.theory.run.TheoryResult.load` reads"
        version = found["provenance"]["toolkit"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        return f"{path}: is no folder that `Result.save` wrote"
    return (
        f"{path}: was written by toolkit {version}, when each probe had a file of its own; probe again with the "
        "command that it names"
    )


def _installed(provenance: Provenance) -> list[Measure]:
    found = []
    for name, settings in provenance.measures.items():
        try:
            kind = find_measure(name)
        except ValueError:
            continue
        if not set(settings) <= {f.name for f in fields(kind) if f.init}:  # type: ignore[arg-type]
            continue
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        found.append(kind(**given))
    return found


def _key(place: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in place)


def _dump(provenance: Provenance) -> str:
    return TypeAdapter(Provenance).dump_json(provenance).decode()


def _plain(row: Mapping[Any, Any]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for name, value in row.items():
        if value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            found[str(name)] = None
        elif isinstance(value, float) and np.isinf(value):
            found[str(name)] = "Infinity" if value > 0 else "-Infinity"
        else:
            found[str(name)] = value
    return found
