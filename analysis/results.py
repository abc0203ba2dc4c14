"""Results: frozen, with units and provenance, saved as JSON that loads back exactly.

Two shapes hold every number of a probe: a `Measurement` is one number with its interval, a `Curve` an array
with pointwise ones. Both name layer, direction, scope, quantity and unit, so that no number is met without them.

In JSON, null is a gap whose reason stands in the note beside it, "Infinity" a quantity that lies beyond the
sequence, and "NaN" in an array an entry that has no data (a lag without pairs). Numbers are written with all
their digits.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict, JsonValue, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.files import ResultError, check_replaceable, replacing  # noqa: F401  # for those that import them here

T = TypeVar("T")

RECORD = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="strings")
"""How every record of a result is validated and written."""


def _frozen(values: Any) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


Array = Annotated[np.ndarray, BeforeValidator(_frozen), PlainSerializer(lambda array: array.tolist())]
"""A read-only float64 array, in JSON a nested list."""


@dataclass(frozen=True, config=RECORD)
class CheckpointInfo:
    """The weights that were probed.

    Attributes:
        path: as given on the command line.
        file_sha256: of the file's bytes.
        weights_sha256: of the tensors, whatever file holds them.
        recognised: what the file was recognised as, in one line.
        config: every field of the model's configuration.
    """

    path: str
    file_sha256: str
    weights_sha256: str
    recognised: str
    config: dict[str, JsonValue]


@dataclass(frozen=True, config=RECORD)
class InputInfo:
    """What the model was shown.

    Attributes:
        source: name of the clip source, or "random tokens".
        names, labels: one for each clip.
        seed: of the clips, and of the bootstrap.
        count: how many clips.
        frames, size: of each clip; None for token sequences.
        length: tokens in the model's sequence.
    """

    source: str
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    seed: int
    count: int
    frames: int | None
    size: int | None
    length: int


@dataclass(frozen=True, config=RECORD)
class Provenance:
    """Where a result comes from: enough to run it again.

    Attributes:
        toolkit, torch, python: versions.
        command: the command line.
        date: UTC, ISO 8601.
        backend: the scan backend that ran.
        dtype, device: of the scan.
    """

    toolkit: str
    torch: str
    python: str
    command: str
    date: str
    checkpoint: CheckpointInfo
    input: InputInfo
    backend: str
    dtype: str
    device: str


@dataclass(frozen=True, config=RECORD)
class Layout:
    """Where the tokens lie: length L, positions of class tokens (0-based), frames T, patches a frame P."""

    length: int
    class_positions: tuple[int, ...]
    frames: int
    patches: int


@dataclass(frozen=True, config=RECORD)
class Measurement:
    """One number.

    Attributes:
        value: None where there is a gap; infinity where it lies beyond the sequence. The note says why.
        low, high: ends of the interval over clips, or None where there is none.
    """

    layer: int
    direction: str
    scope: str
    quantity: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    n_clips: int
    note: str = ""


@dataclass(frozen=True, config=RECORD)
class Curve:
    """One array with pointwise intervals over clips.

    Attributes:
        axes: what each axis of ``value`` counts, 0-based, such as ("lag in tokens",).
        low, high: pointwise ends of the interval, of the shape of ``value``, or None where there is none.
        pairs: how many pairs of tokens each entry averages, where that varies.
    """

    layer: int
    direction: str
    scope: str
    quantity: str
    unit: str
    axes: tuple[str, ...]
    value: Array
    low: Array | None
    high: Array | None
    n_clips: int
    pairs: Array | None = None
    note: str = ""


def to_json(result: Any) -> str:
    """JSON of a result: a line for each field of it, and for each item of a field that is a list."""
    fields = json.loads(TypeAdapter(type(result)).dump_json(result))
    return (
        "{\n" + ",\n".join(f"{json.dumps(name)}: {_lines(value)}" for name, value in fields.items()) + "\n}\n"
    )


def _lines(value: JsonValue) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(_line(item) for item in value) + "\n]"
    return _line(value)


def _line(value: JsonValue) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def from_json(kind: type[T], text: str) -> T:
    """The result that `to_json` wrote. Raises ResultError for text that is not such a result."""
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the text"
        raise ResultError(f"not a {kind.__name__}: {where}: {first['msg']}") from error


def save(result: Any, path: Path) -> None:
    """Write a result's JSON."""
    path.write_text(to_json(result), encoding="utf-8")


def load(kind: type[T], path: Path) -> T:
    """Read a result's JSON. Raises ResultError, naming the file, where it is missing or something else."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read: {error}") from error
    try:
        return from_json(kind, text)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


COLUMNS = ("layer", "direction", "scope", "quantity", "unit", "value", "low", "high", "n_clips", "note")


def write_csv(path: Path, measurements: Iterable[Measurement], curves: Iterable[Curve] = ()) -> None:
    """A tidy table: one number a row; gaps are empty, infinity is "inf".

    Entries of curves are named by their indices, as in ``frame_matrix[2,5]``.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(measurement_rows(measurements, curves))


def measurement_rows(
    measurements: Iterable[Measurement], curves: Iterable[Curve] = ()
) -> Iterator[tuple[object, ...]]:
    """Rows of the tidy table, in the order of `COLUMNS`."""
    for m in measurements:
        yield tuple(getattr(m, column) for column in COLUMNS)
    for c in curves:
        for index in np.ndindex(c.value.shape):
            name = f"{c.quantity}[{','.join(map(str, index))}]"
            numbers = [None if part is None else float(part[index]) for part in (c.value, c.low, c.high)]
            shown = [None if number is None or np.isnan(number) else number for number in numbers]
            yield (c.layer, c.direction, c.scope, name, c.unit, *shown, c.n_clips, c.note)
