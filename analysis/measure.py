"""The contract of a measure: what it reads of a model, what numbers it makes of that, and how they are shown.

A measure is a frozen dataclass that derives from `Measure` and fills in `name`, `title`, `quantities` and `per_clip`.
The engine (`analysis.probe`) calls `per_clip` for each clip, layer, direction and scope, keeps what it gives, and calls
`summarise` once for the value and once for all bootstrap resamples. The rest has defaults:

    @dataclass(frozen=True)
    class Diagonal(Measure):
        name = "diagonal"
        title = "What a token keeps to itself"
        quantities = {"diagonal_share": Quantity("fraction", "share of the diagonal")}

        def per_clip(self, view, rng):
            share = normalise(view.matrix.weigh(*view.whole)[0][0])[0]
            return {"diagonal_share": share.diagonal().mean().numpy()}

A package offers a measure to the command line through the entry-point group "analysis.measures".
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.capture import Captured, Family, captures_of
from analysis.capture.recorder import Layout
from analysis.inputs import Sample
from analysis.intervals import mean_over_clips
from analysis.matrix.base import AttentionMatrix
from analysis.matrix.scopes import Scope, scoped
from analysis.matrix.softmax import OneSide, Side
from vmp.layout import TokenLayout

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure
    from rich.table import Table

    from analysis.result import Result

Level = Literal["matrix", "model"]

GROUP = "analysis.measures"
OWN: Mapping[str, str] = {
    "decay": "analysis.decay:Decay",
    "contradiction": "analysis.contradiction:Contradiction",
    "relevance": "analysis.relevance:Relevance",
}
"""This package's measures, which are found without an installation too."""

SIDES: tuple[Side, ...] = ("j<=i", "j>=i")


@final
@dataclass(frozen=True)
class Quantity:
    """One quantity of a measure.

    Attributes:
        unit: such as "tokens"; "none" for a ratio; "W" for the unit of the scope's weights.
        label: its name in words.
        needs: what a sequence must have for it: "frames" for two frames or more, "patches" for one frame or more,
            "class" for a class token, "" for nothing.
        dims: axes of its own, beside model, layer, direction and scope; () for a number.
        listed: whether its entries are numbers that tables list one by one, as all numbers without axes are.
        interval: whether it has an interval over clips.
        layer_dim: the axis of layers; another name than "layer" where only some layers have the quantity.
    """

    unit: str
    label: str
    needs: str = ""
    dims: tuple[str, ...] = ()
    listed: bool = False
    interval: bool = True
    layer_dim: str = "layer"

    @property
    def is_number(self) -> bool:
        return self.listed or not self.dims

    @property
    def axis_label(self) -> str:
        """The name with the unit, for an axis or a heading."""
        return f"{self.label} ({'no unit' if self.unit == 'none' else self.unit})"


@final
@dataclass(frozen=True)
class Column:
    """One column of a measure's table: a quantity under a heading.

    Attributes:
        interval: whether the interval stands on a line below.
        beyond: what an infinite value lies beyond: "length" or "frames" of the layout, or "" for infinity itself.
        scale: factor of the numbers shown, such as 1000 for thousandths.
        shows: words for the value in its place, such as the sign's meaning.
    """

    quantity: str
    heading: str
    interval: bool = False
    beyond: str = ""
    scale: float = 1.0
    shows: Callable[[float], str] | None = None


@final
@dataclass(frozen=True)
class Place:
    """Where a number stands, with what explains a gap there.

    Attributes:
        layer: index from 0, or -1 for the whole model. direction, scope: "" for the whole model.
        layout: of the model's sequence.
        is_scan: whether the layer is a scan, and not self-attention.
        reach: distance from which no token feels another through the layer's convolution; 1 without one.
    """

    model: str
    layer: int
    direction: str
    scope: str
    layout: TokenLayout
    is_scan: bool
    reach: int


@final
@dataclass(eq=False)
class SiteRun:
    """One input of one layer for one clip, and what every direction of the layer makes of it.

    Attributes:
        hidden: the mixer's input, (1, L, M), in the order of the layout.
        direction: the one direction that has this input, or None where all of the layer's share it.
        captures: of those directions. scopes: those that are measured; layers: all that are probed.
    """

    model: nn.Module
    sample: Sample
    layer: int
    hidden: Float[Tensor, "1 L M"]
    direction: str | None
    scopes: tuple[Scope, ...]
    layers: tuple[int, ...]
    family: Family | None
    layout: Layout | None
    captures: list[Captured] = field(init=False)
    _kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.captures = self.run(self.hidden)

    def run(self, hidden: Float[Tensor, "1 L M"]) -> list[Captured]:
        """What the same directions make of another input."""
        return captures_of(
            self.model, self.layer, hidden, self.direction, family=self.family, layout=self.layout
        )


@final
@dataclass(frozen=True, eq=False)
class View:
    """One matrix of one clip: a layer's direction, or one side of self-attention, in one scope."""

    site: SiteRun
    capture: Captured
    scope: Scope
    side: Side | None = None

    @property
    def layer(self) -> int:
        return self.site.layer

    @property
    def direction(self) -> str:
        return self.capture.direction if self.side is None else f"{self.capture.direction} {self.side}"

    @property
    def layout(self) -> TokenLayout:
        return self.capture.layout

    def place(self, model: str) -> Place:
        """Where its numbers stand in a result."""
        capture = self.capture
        return Place(
            model, self.layer, self.direction, self.scope, self.layout, capture.is_scan, capture.reach
        )

    @cached_property
    def matrix(self) -> AttentionMatrix:
        """The matrix M of this direction and scope, for a batch of one clip."""
        matrix = scoped(self.capture, self.scope)
        return matrix if self.side is None else OneSide(matrix, self.side)

    @property
    def whole(self) -> tuple[slice, slice]:
        """All rows and all columns, for `matrix.tile` and `matrix.weigh`."""
        every = slice(0, self.layout.length)
        return every, every

    def once(self, measure: Measure, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed for the first direction and scope of the layer's input and kept for others."""
        kept = self.site._kept
        if measure.name not in kept:
            kept[measure.name] = compute()
        return kept[measure.name]


@final
@dataclass(frozen=True, eq=False)
class ModelView:
    """A whole model and one clip, for a measure whose level is "model"."""

    model: nn.Module
    sample: Sample
    family: Family | None
    layout: Layout | None

    @property
    def clip(self) -> Tensor:
        """The sample on the device and in the dtype of the model's parameters, without a batch axis."""
        parameter = next(self.model.parameters())
        tokens = self.sample.tokens.to(parameter.device)
        return tokens.to(parameter.dtype) if tokens.is_floating_point() else tokens


class Measure(ABC):
    """Something measured of every matrix of a model, or of the model as a whole.

    Class attributes:
        name: unique among measures; the command's name.
        title: the heading of its table.
        quantities: by name, unique among all measures of a probe.
        level: "matrix" where `per_clip` gets a `View`, "model" where it gets a `ModelView`.
        sides: whether self-attention that looks both ways is also measured on each side alone.
        kept: arrays of `per_clip` that are no quantities, with their axes; the result keeps them clip by clip.
        summed: quantities whose clips are added up and not kept one by one, as they are large.
        coordinates: values along an axis of its own, where they are not 0, 1, 2, ...
        table: the columns of its table. caption: what stands below.
        plots: functions that draw on axes, by name: `plot(result, ax=None, **where)`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    quantities: ClassVar[Mapping[str, Quantity]]
    level: ClassVar[Level] = "matrix"
    sides: ClassVar[bool] = False
    kept: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    summed: ClassVar[frozenset[str]] = frozenset()
    coordinates: ClassVar[Mapping[str, Sequence[Any]]] = {}
    table: ClassVar[Sequence[Column]] = ()
    caption: ClassVar[str] = ""

    @property
    def plots(self) -> Mapping[str, Callable[..., Any]]:
        return {}

    @abstractmethod
    def per_clip(self, view: Any, rng: np.random.Generator) -> Mapping[str, Any]:
        """What one clip gives: arrays of quantities, and of `kept`, by name.

        Args:
            view: a `View`, or a `ModelView` where the level is "model".
            rng: of this measure, clip and layer; views of one layer share it, in their order.
        """

    def summarise(
        self, clips: xarray.Dataset, weights: Float[np.ndarray, "R n"] | None
    ) -> Mapping[str, np.ndarray]:
        """Quantities from clips, with an axis of R draws first; NaN where one is undefined.

        Args:
            clips: what `per_clip` gave in one place, with the axis "clip" first; `attrs["place"]` is the `Place`.
            weights: a row of clip weights for each draw, or None for one draw that is the value itself.
        """
        return {
            name: clips[name].values[None]
            if name in self.summed
            else mean_over_clips(clips[name].values, weights)
            for name in self.quantities
            if name in clips
        }

    def gap(self, quantity: str, clips: xarray.Dataset) -> str:
        """Why a number is not there; `clips` as in `summarise`."""
        return layout_gap(self.quantities[quantity], clips.attrs["place"].layout) or "undefined"

    def entry_gap(self, quantity: str, clips: xarray.Dataset, **own: Any) -> str:
        """Why an entry of a listed quantity is not there; `own` is its place on the quantity's own axes."""
        return self.gap(quantity, clips)

    def remark(self, quantity: str, value: float, clips: xarray.Dataset) -> str:
        """What has to be known to read a number that is there, or why it is infinite; "" for nothing."""
        return "infinite" if np.isinf(value) else ""

    def notes(self, result: Result) -> Iterator[str]:
        """What holds for all of this measure's numbers in a result."""
        yield from ()

    def tables(self, result: Result) -> Iterator[Table] | None:
        """The numbers as tables for a terminal; None for one table a scope and model with the columns of `table`."""
        return None

    def figures(self, result: Result, model: str) -> Mapping[str, Callable[[], Figure]] | None:
        """What there is to draw of one model, by file name; None for a figure by layer of each number."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the dataclass, which together with the name fix what the measure does."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]


_SCAN_UNITS: Mapping[str, str] = {
    "ssm": "scan output per unit of scan input",
    "mixer": "mixer output per unit of x",
    "contribution": "mixer output",
}
_ATTENTION_UNITS: Mapping[str, str] = {
    "ssm": "fraction of the row",
    "mixer": "layer output",
    "contribution": "mixer output",
}


def weight_unit(scope: str, is_scan: bool) -> str:
    """The unit of the weights W in a scope.

    A scan's mixer output is taken before its last projection. Self-attention's is taken after it in `mixer`, and before
    it in `contribution`, as for a scan.
    """
    return (_SCAN_UNITS if is_scan else _ATTENTION_UNITS)[scope]


def layout_gap(quantity: Quantity, layout: TokenLayout) -> str:
    """Why a sequence of this layout has no such quantity, or "" where it may have."""
    if quantity.needs == "class" and not layout.class_positions:
        return "no class token"
    if quantity.needs in ("frames", "patches") and layout.frames == 0:
        return "a plain sequence has no frames"
    if quantity.needs == "frames" and layout.frames == 1:
        return "one frame"
    return ""


def views(site: SiteRun, measure: Measure) -> Iterator[View]:
    """The matrices of one input of one layer that a measure is asked about, scope by scope."""
    for scope in site.scopes:
        for capture in site.captures:
            yield View(site, capture, scope)
            if measure.sides and not capture.is_scan and capture.direction != "forward":
                for side in SIDES:
                    yield View(site, capture, scope, side)


def measure_names() -> tuple[str, ...]:
    """Names of the measures that are installed, this package's own first."""
    return tuple(dict.fromkeys([*OWN, *sorted(entry_points(group=GROUP).names)]))


def find_measure(name: str) -> type[Measure]:
    """The class of a measure by its name.

    Raises:
        ValueError: no measure has that name; the message lists those there are.
    """
    if name in OWN:
        module, _, attribute = OWN[name].partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise ValueError(f"no measure named {name!r}; there are {', '.join(measure_names())}")


def as_measures(measures: Measure | str | Sequence[Measure | str] | None) -> tuple[Measure, ...]:
    """Measures from themselves or their names; decay and contradiction where None is given.

    Raises:
        ValueError: for none at all, for an unknown name, and where two measures share a name or a quantity.
    """
    given = ("decay", "contradiction") if measures is None else measures
    found = tuple(
        find_measure(m)() if isinstance(m, str) else m
        for m in ((given,) if isinstance(given, str | Measure) else given)
    )
    if not found:
        raise ValueError("no measures: name at least one, such as Decay()")
    for one in found:
        if not isinstance(one, Measure) or not dataclasses.is_dataclass(one):
            raise ValueError(
                f"measures: {one!r} is none; give instances of dataclasses that derive from Measure, such as Decay()"
            )
    for kind, names in (
        ("measures", [m.name for m in found]),
        ("quantities", [quantity for m in found for quantity in m.quantities]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{kind}: {', '.join(twice)} is there twice; names must differ")
    return found


def numpy_of(value: Any) -> np.ndarray:
    """A number, array or tensor as a float64 array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value, dtype=np.float64)
