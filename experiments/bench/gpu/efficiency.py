"""`efficiency`: clips a second of VideoMambaPro and of self-attention of as many parameters, by frames."""

import functools
import gc
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.bench.gpu.models import autocast, configs, flops, in_a_line, parameters, random_clips
from experiments.bench.gpu.timing import clock_of
from experiments.bench.results import Emit, Row
from experiments.bench.timing import Call, interleave
from vmp.config import ModelConfig
from vmp.model import VideoModel

MAMBA, ATTENTION = "VideoMambaPro", "self-attention"
SAYS = {
    MAMBA: "the model, variant `paper`, of the size that the group names: no gradient, launched from Python",
}
NOTE = "no gradient, bfloat16 autocast over float32 weights, both mixers in turns on the same clips"


@dataclass(frozen=True)
class EfficiencySizes:
    """What runs: models by name, frames a clip, and tokens that fill the device; seconds for each figure."""

    names: tuple[str, ...] = ("videomambapro_tiny", "videomambapro_small", "videomambapro_middle")
    frames: tuple[int, ...] = (8, 16, 32, 64)
    tokens: int = 2**17
    budget: float = 0.8
    fields: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def batch(self, config: ModelConfig) -> int:
        """The largest power of two of clips whose tokens are at most `tokens`, but at least one clip."""
        return 2 ** max(0, (self.tokens // config.token_layout().length).bit_length() - 1)


TOY = EfficiencySizes(
    ("videomambapro_tiny",),
    (2, 4),
    tokens=64,
    budget=0.02,
    fields=(("image_size", 32), ("depth", 2), ("d_model", 16), ("d_state", 4)),
)


def group(name: str, frames: int) -> str:
    """What one size at one length is called."""
    return f"efficiency {name.removeprefix('videomambapro_')}, {frames} frames"


def efficiency(sizes: EfficiencySizes, device: str, emit: Emit) -> None:
    """Time inference of both mixers at every size and length, the smallest first.

    Args:
        sizes: which models and lengths.
        device: "cuda", or "cpu" for a rehearsal.
        emit: takes each row as soon as it is known: parameters and operations a clip, clips a second and bytes at a
            batch that fills the device, seconds of a single clip.
    """
    for name in sizes.names:
        for frames in sizes.frames:
            torch.manual_seed(sizes.seed)
            pair = configs(name, num_frames=frames, **dict(sizes.fields))
            _point(group(name, frames), dict(zip((MAMBA, ATTENTION), pair, strict=True)), sizes, device, emit)


@torch.no_grad()
def _point(
    group: str,
    both: dict[str, ModelConfig],
    sizes: EfficiencySizes,
    device: str,
    emit: Emit,
) -> None:
    gc.collect()
    for subject, config in both.items():
        _counted(group, subject, config, emit)
    with torch.device(device):  # weights drawn there: on a CPU that takes longer than what is timed
        models = {subject: VideoModel(config).eval() for subject, config in both.items()}
    config = both[MAMBA]
    for batch, quantity in ((sizes.batch(config), "throughput"), (1, "latency")):
        _timed(group, models, random_clips(config, batch, device), quantity, sizes, device, emit)


def _counted(group: str, subject: str, config: ModelConfig, emit: Emit) -> None:
    case = _case(config)
    emit(Row(group, subject, "parameters", "", case, (float(parameters(config)),)))
    products, scans = flops(config)
    note = f"{products:,} in products and convolutions, {scans:,} in scans of L D (8 N + 8), 7 N without residual"
    emit(Row(group, subject, "operations a clip", "FLOP", case, (float(products + scans),), note=note))


def _timed(
    group: str,
    models: dict[str, VideoModel],
    videos: Tensor,
    quantity: str,
    sizes: EfficiencySizes,
    device: str,
    emit: Emit,
) -> None:
    """Rows of `quantity`, "throughput" or "latency", and of memory with the former, of each model."""
    batch, unit = len(videos), "clips/s" if quantity == "throughput" else "s"
    calls: dict[str, Call] = {}
    for subject, model in models.items():
        case = _case(model.config) | {"batch": batch}
        call = functools.partial(_call, model, videos, device)
        try:
            call()  # Triton compiles; a model too large for the device is found here
            peak = _peak(call, device)
        except Exception as error:  # of any kind: the other mixer and the other points go on
            emit(Row(group, subject, quantity, unit, case, problem=in_a_line(error)))
            continue
        calls[subject] = call
        if quantity == "throughput":
            emit(_memory(group, subject, case, peak))
    taken = interleave(calls, budget=sizes.budget, most=10, clock=clock_of(device))
    for subject, seconds in taken.items():
        samples = tuple(batch / s for s in seconds) if quantity == "throughput" else seconds
        case = _case(models[subject].config) | {"batch": batch}
        emit(Row(group, subject, quantity, unit, case, samples, note=NOTE))


def _call(model: VideoModel, videos: Tensor, device: str) -> Tensor:
    with torch.no_grad(), autocast(device):
        return model(videos)


def _peak(call: Call, device: str) -> int | None:
    """Bytes that a call takes at its peak above what was there before: weights and clips are not among them."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _memory(group: str, subject: str, case: dict[str, Any], peak: int | None) -> Row:
    if peak is None:
        return Row(group, subject, "peak memory", "bytes", case, problem="not measured: not on a GPU")
    return Row(
        group, subject, "peak memory", "bytes", case, (float(peak),), note="weights and clips not among it"
    )


def _case(config: ModelConfig) -> dict[str, Any]:
    return {
        "frames": config.num_frames,
        "size": config.image_size,
        "tokens": config.token_layout().length,
        "width": config.d_model,
        "depth": config.depth,
    }
