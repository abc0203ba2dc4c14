"""Run a model over its input and keep, clip by clip, what each measure of contradiction gives.

A layer's mixer is run again from its own input (`hidden`), once as it was and once for each mediator with that
token replaced. Its scans, or its self-attention, are read entry by entry; nothing of size D x L x L is ever held.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.capture import family_of, record
from analysis.contradiction.layer import Captured, Key, measure_layer, reach
from analysis.contradiction.result import ClipValues
from analysis.inputs import Sample
from analysis.matrix.scopes import Scope
from analysis.precision import full_precision
from analysis.unfinished import Unfinished
from vmp.layout import TokenLayout


@dataclass(frozen=True, eq=False)
class Probed:
    """What `probe` gives: values in the order in which layers ran, and what was shown.

    ``margin``: how far a mediator was kept from the other two tokens of its triple.
    """

    values: tuple[ClipValues, ...]
    layout: TokenLayout
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    dtype: str
    backend: str
    margin: int


@full_precision()
def probe(
    model: nn.Module,
    samples: Iterable[Sample],
    *,
    layers: Sequence[int],
    scopes: Sequence[Scope],
    mediators: int,
    seed: int,
    progress: Callable[[str], None] | None = None,
    unfinished: Unfinished | None = None,
    first: int = 0,
) -> Probed:
    """Contradiction of a model on samples, one sample at a time.

    Args:
        model: of a family that `analysis.capture` knows, in eval mode; samples go to the device and dtype of its
            parameters.
        samples: all of one shape.
        layers: indices from 0.
        mediators: how many tokens are replaced, one at a time, in each layer and clip.
        seed: of mediators, their replacements and triples; with the clip's and the layer's index it fixes them.
        progress: called with a few words after each layer, direction and scope of each sample.
        unfinished: where each sample's values are kept as they come, and taken from instead of run again; ``first``
            is the number there of the first sample.

    Raises:
        TypeError: from `analysis.capture`, where the model is of no known family or a layer has nothing to capture.
        ValueError: no samples, or no layers.
    """
    family = family_of(model)
    found: defaultdict[Key, list[Any]] = defaultdict(list)
    names, labels = [], []
    about: dict[str, Any] = {}

    def say(key: Key) -> None:
        if progress is not None:
            progress(f"layer {key[0]} {key[1]}, {key[2]}")

    for index, sample in enumerate(samples):
        names.append(sample.name)
        labels.append(sample.label)
        kept = None if unfinished is None else unfinished.get(first + index)
        if kept is None:
            clip: dict[Key, dict[str, np.ndarray]] = {}
            with torch.inference_mode():
                for layer, inputs in layer_inputs(model, sample, layers).items():
                    rng = np.random.default_rng([seed, index, layer])
                    for hidden, directions in inputs:
                        for key, values in measure_layer(
                            family, model, layer, hidden, directions, scopes, mediators, rng
                        ):
                            clip[key] = values
                            say(key)
                        about = about or _about(family.captures(model, layer, hidden)[0])
            if unfinished is not None:
                unfinished.put(first + index, clip, about)
        else:
            record_, about = kept
            clip = {
                key: {name: np.asarray(x) for name, x in values.items()} for key, values in record_.items()
            }
            for key in clip:
                say(key)
        for key, values in clip.items():
            found[key].append(values)
    if not found:
        raise ValueError(f"nothing was captured: {len(names)} samples, layers {list(layers)}")
    layout = about["layout"]
    return Probed(
        values=tuple(
            ClipValues(*key, values={name: np.stack([clip[name] for clip in clips]) for name in clips[0]})
            for key, clips in found.items()
        ),
        layout=TokenLayout(
            tuple(layout["class_positions"]), layout["frames"], tuple(layout["grid"]), layout["plain"]
        ),
        names=tuple(names),
        labels=tuple(labels),
        dtype=about["dtype"],
        backend=about["backend"],
        margin=about["margin"],
    )


def layer_inputs(
    model: nn.Module, sample: Sample, layers: Sequence[int]
) -> dict[int, list[tuple[Float[Tensor, "1 L M"], list[str]]]]:
    """The inputs of each layer's mixer, after the norm, as the model runs over a sample, and their directions.

    A layer has one input for all its directions, but for attention that is divided in two, one after the other.
    """
    parameter = next(model.parameters())
    inputs: dict[int, list[tuple[Tensor, list[str]]]] = {}

    def keep(capture: Captured) -> None:
        met = inputs.setdefault(capture.layer, [])
        if met and torch.equal(met[-1][0], capture.hidden):
            met[-1][1].append(capture.direction)
        else:
            met.append((capture.hidden, [capture.direction]))

    with record(model, layers=layers, sink=keep):
        tokens = sample.tokens[None].to(parameter.device)
        family_of(model).run(model, tokens.to(parameter.dtype) if tokens.is_floating_point() else tokens)
    return inputs


def _about(capture: Captured) -> dict[str, Any]:
    return {
        "layout": vars(capture.layout),
        "dtype": str(capture.dtype).removeprefix("torch."),
        "margin": reach(capture),
        "backend": capture.backend(),
    }
