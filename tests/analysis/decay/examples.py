"""Decay results made by hand, with values that the tests can compute."""

import numpy as np

from analysis.decay.measure import measure
from analysis.decay.metrics import QUANTILES
from analysis.decay.result import ClipSums, DecayResult
from analysis.results import CheckpointInfo, InputInfo, Layout, Provenance

FRAMES, PATCHES = 4, 9
VIDEO = Layout(length=1 + FRAMES * PATCHES, class_positions=(0,), frames=FRAMES, patches=PATCHES)
TEXT = Layout(length=40, class_positions=(), frames=0, patches=0)


def exponential_sums(
    layout: Layout,
    rates: list[float],
    *,
    layer: int = 0,
    direction: str = "forward",
    scope: str = "ssm",
) -> ClipSums:
    """Sums of clips whose lag profiles are exactly exponential, one rate a clip."""
    rate, clips = np.array(rates), len(rates)
    lags, taus = np.arange(layout.length), np.arange(layout.frames)
    frames = layout.frames > 0
    with_class = frames and bool(layout.class_positions)
    causal = np.tril(np.ones((layout.frames, layout.frames)))
    matrix = np.tile(causal / np.maximum(causal.sum(1, keepdims=True), 1), (clips, 1, 1))
    return ClipSums(
        layer=layer,
        direction=direction,
        scope=scope,
        weight_unit="scan output per unit of scan input",
        lag_profile=np.exp(-rate[:, None] * lags),
        lag_pairs=layout.length - lags,
        frame_profile=np.exp(-10 * rate[:, None] * taus) if frames else None,
        frame_pairs=(layout.frames - taus) * layout.patches**2 if frames else None,
        distance=np.stack([1 / rate, 0.1 / rate, 0.2 / rate], axis=1),
        uniform=np.tile([20.0, 2.0, 4.0], (clips, 1)),
        effective_context=3 / rate,
        empty_rows=np.ones(clips),
        predicted=np.log(2) / rate[:, None] * (0.5 + np.array(QUANTILES)),
        frame_matrix=matrix if frames else None,
        class_row=np.full((clips, layout.frames), 0.2) if with_class else None,
        class_self=np.full(clips, 1 - 0.2 * layout.frames) if with_class else None,
    )


def result(layout: Layout = VIDEO, clips: int = 3, layers: int = 2, resamples: int = 200) -> DecayResult:
    """A result in which forward and backward decay at different rates, and clips differ a little."""
    sums = [
        exponential_sums(
            layout,
            [(0.1 + 0.05 * layer) * (1 + 0.1 * clip) * factor for clip in range(clips)],
            layer=layer,
            direction=direction,
        )
        for layer in range(layers)
        for direction, factor in (("forward", 1.0), ("backward", 2.0))
    ]
    measurements, curves = measure(sums, layout, resamples, seed=0)
    return DecayResult(
        provenance=provenance(layout, clips),
        layout=layout,
        layers=tuple(range(layers)),
        scopes=("ssm",),
        resamples=resamples,
        notes=("made by hand",),
        measurements=measurements,
        curves=curves,
        sums=tuple(sums),
    )


def provenance(layout: Layout, clips: int) -> Provenance:
    return Provenance(
        toolkit="0.1.0",
        torch="2.13.0",
        python="3.11",
        command="python -m analysis.decay --ckpt a.safetensors",
        date="2026-01-01T00:00:00+00:00",
        checkpoint=CheckpointInfo(
            path="a.safetensors",
            file_sha256="0" * 64,
            weights_sha256="1" * 64,
            recognised="a VMP file",
            config={"d_model": 64, "name": "vmp_micro", "dt_rank": None, "mask_backward": True},
        ),
        input=InputInfo(
            source="photo-pan",
            names=tuple(f"clip-{i}" for i in range(clips)),
            labels=(None,) * clips,
            seed=0,
            count=clips,
            frames=layout.frames or None,
            size=64,
            length=layout.length,
        ),
        backend="numba_cpu",
        dtype="float32",
        device="cpu",
    )
