"""Which measure of relevance is faithful to a model: deletion curves in the order of each, against random orders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.bootstrap import resample_weights
from analysis.capture import family_of, record
from analysis.compare.deletion import PARTS, area, deletion_curve, order_of, part_index, part_scores
from analysis.compare.gradient import by_token, one_hot_directions, pixel_gradient, receptive_field
from analysis.compare.result import ClipCurves, Faithfulness, Relevance
from analysis.compare.rollout import Rollout, read_out
from analysis.inputs import Sample
from analysis.matrix.scopes import SCOPES
from analysis.precision import full_precision
from analysis.quantities import summarise
from analysis.results import Measurement
from analysis.unfinished import ClipRecord, Unfinished
from vmp.layout import TokenLayout

RANDOM = "random"
MEASURES: Mapping[str, str] = {
    **{f"rollout {scope}": f"rollout over layers, scope {scope}" for scope in SCOPES},
    **{f"last row {scope}": f"read-out row of the last layer, scope {scope}" for scope in SCOPES},
    "gradient": "norm of the logit's gradient in the token's pixels",
    "gradient x change": "gradient times what removal changes: the first-order drop of the logit",
    RANDOM: "orders drawn at random",
}
"""Each measure of a token's relevance to the prediction, in words."""

SEEDS = 10
"""Random orders a clip."""


def relevance(
    model: nn.Module, clip: Float[Tensor, "3 T H W"]
) -> tuple[dict[str, Float[Tensor, " patches"]], TokenLayout, int, float]:
    """Relevance of each patch token to the class that the model gives a clip, by measure; all but random.

    Returns:
        Measures by name, the layout, the class, and its probability.

    Raises ValueError where the model has no head or its sequence no frames.
    """
    rollouts = {scope: Rollout(scope) for scope in SCOPES}
    layouts: list[TokenLayout] = []

    def take(capture: object) -> None:
        layouts.append(capture.layout)  # type: ignore[attr-defined]
        for rollout in rollouts.values():
            rollout.take(capture)  # type: ignore[arg-type]

    with torch.no_grad(), record(model, sink=take):
        logits = family_of(model).run(model, clip[None])
    layout = layouts[-1]
    target = int(logits[0].argmax())
    gradient = pixel_gradient(model, clip[None], one_hot_directions(logits.argmax(1), logits.shape[1]))
    change = clip - clip.mean((1, 2, 3), keepdim=True)
    patches = layout.patch_positions()
    # Rows before columns: `last` is gone once the product is taken.
    rows = {f"last row {scope}": read_out(r.last(), layout) for scope, r in rollouts.items()}
    rows |= {f"rollout {scope}": read_out(r.matrix(), layout) for scope, r in rollouts.items()}
    tokens = {name: row[0, patches.to(row.device)].cpu() for name, row in rows.items()}
    tokens["gradient"] = receptive_field(gradient, layout).tokens[0].cpu()
    tokens["gradient x change"] = by_token((gradient[:, 0] * change).double().sum(1), layout)[0].cpu()
    return tokens, layout, target, float(logits.double().softmax(-1)[0, target])


@full_precision()
def faithfulness(
    model: nn.Module,
    samples: Iterable[Sample],
    *,
    seeds: int = SEEDS,
    seed: int = 0,
    resamples: int = 1000,
    progress: Callable[[str], None] | None = None,
    unfinished: Unfinished | None = None,
) -> Faithfulness:
    """Deletion curves of every measure on some clips, one clip at a time.

    Args:
        model: with a head, in evaluation mode.
        seeds: random orders a clip; seed: of those, of ties, and of the bootstrap.
        unfinished: where each clip's curves are kept as they come, and taken from instead of run again.
    """
    parameter, records = next(model.parameters()), []
    for index, sample in enumerate(samples):
        kept = None if unfinished is None else unfinished.get(index)
        if kept is not None:
            records.append(kept[0])
        else:
            clip = sample.tokens.to(parameter.device, parameter.dtype)
            records.append(_one_clip(model, clip, seeds, np.random.default_rng([seed, index])))
            if unfinished is not None:
                unfinished.put(index, records[-1], {})
        if progress is not None:
            progress("deletion curves")
    return _summary(records, seeds, resamples, seed)


def _one_clip(
    model: nn.Module, clip: Float[Tensor, "3 T H W"], seeds: int, rng: np.random.Generator
) -> ClipRecord:
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    tokens, layout, target, probability = relevance(model, clip)
    found: dict[tuple[int, str, str], dict[str, np.ndarray | None]] = {
        (0, "", "prediction"): {"value": np.array([float(target), probability])}
    }
    for name, values in tokens.items():
        frames = part_scores(values, "frame", layout).abs()
        found[0, "", name] = {"frames": (frames / frames.sum()).numpy()}
    for part in PARTS:
        if int(part_index(part, layout).max()) == 0:  # The whole clip is one part: there is no order.
            continue
        ordered = [order_of(part_scores(values, part, layout), generator) for values in tokens.values()]
        drawn = [torch.randperm(len(ordered[0]), generator=generator) for _ in range(seeds)]
        curves = deletion_curve(model, clip, torch.stack(ordered + drawn), part, layout, target)
        named = dict(zip(tokens, curves, strict=False)) | {RANDOM: curves[len(tokens) :].mean(0)}
        for name, curve in named.items():
            found[0, part, name] = {"curve": curve.numpy()}
    return found


def _summary(records: list[ClipRecord], seeds: int, resamples: int, seed: int) -> Faithfulness:
    n = len(records)

    def stacked(part: str, name: str, field: str) -> np.ndarray:
        return np.stack([np.asarray(record[0, part, name][field]) for record in records])

    curves = []
    parts = tuple(dict.fromkeys(part for _, part, name in records[0] if name == RANDOM))
    single = [part for part in PARTS if part not in parts]
    for part in parts:
        for name in MEASURES:
            values = stacked(part, name, "curve")
            curves.append(ClipCurves(part, name, values, area(torch.from_numpy(values)).numpy()))
    prediction = stacked("", "prediction", "value")
    weights = resample_weights(n, resamples, seed) if n > 1 else None
    return Faithfulness(
        seeds=seeds,
        predictions=prediction[:, 0],
        probabilities=prediction[:, 1],
        curves=tuple(curves),
        relevance=tuple(Relevance(name, stacked("", name, "frames")) for name in MEASURES if name != RANDOM),
        measurements=tuple(_measurements(curves, weights, n)),
        note=f"deletion of {'s and '.join(single)}s: one of them is the whole clip" if single else "",
    )


def _measurements(
    curves: list[ClipCurves], weights: Float[np.ndarray, "R n"] | None, n: int
) -> list[Measurement]:
    """Areas, and paired differences to random orders of the same clip: resamples draw clips, not orders."""
    found = []
    for one in curves:
        random = next(c for c in curves if (c.part, c.measure) == (one.part, RANDOM))
        wanted = {"deletion_area": one.areas}
        if one is not random:
            wanted["deletion_area_less_random"] = one.areas - random.areas
        for quantity, values in wanted.items():
            found.append(
                summarise(
                    quantity,
                    "probability",
                    float(values.mean()),
                    None if weights is None else weights @ values,
                    missing="the model's output is not finite",
                    beyond="",
                    layer=-1,
                    direction=one.part,
                    scope=one.measure,
                    n_clips=n,
                )
            )
    return found
