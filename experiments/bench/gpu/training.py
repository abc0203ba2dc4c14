"""`training`: one optimiser step of VideoMambaPro, of the same without its scan, and of self-attention."""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from experiments.bench.gpu.models import (
    CLASSES,
    autocast,
    configs,
    in_a_line,
    parameters,
    random_clips,
    synchronised,
)
from experiments.bench.peers import scan_left_out
from experiments.bench.results import Check, Emit, Row
from vmp.config import ModelConfig
from vmp.model import VideoModel

GROUP = "training"
SAYS = {
    "self-attention": "softmax attention by torch's fused kernel in the mixers' place, as wide as makes the model's "
    "parameters equal within 2 %",
    "compiled": "the same subject, each block by torch.compile; otherwise every operation is launched from Python",
}
ALLOWED = 2.0
"""Units of bfloat16's eps of the loss, compiled against eager. Fused code rounds to bfloat16 at other places: some eps
of a logit in each of 24 blocks, adding up as their root, 5 eps. Fresh logits are about 0.3 and at most 1, the loss
changes by at most twice what they do, and is ln 400 = 6: 10 / 6 eps of it."""


@dataclass(frozen=True)
class TrainingSizes:
    """What is trained: a model's name and fields, and clips a step; and how many steps are timed.

    `warm_up` is how many steps after the first are not counted, while allocator and caches settle.
    """

    fields: tuple[tuple[str, Any], ...] = ()
    batch: int = 16
    steps: int = 8
    warm_up: int = 2
    seed: int = 0

    name = "videomambapro_tiny"


SMALL = (("num_frames", 2), ("image_size", 16), ("depth", 1), ("d_model", 16), ("d_state", 2))
TOY = TrainingSizes(SMALL, batch=1, steps=1, warm_up=0)


class Trained(NamedTuple):
    """A model, whether its scan is left out, and whether its blocks are compiled."""

    name: str
    config: ModelConfig
    left_out: bool = False
    compiled: bool = False


def trained(sizes: TrainingSizes) -> list[Trained]:
    """In the order in which they are timed: all eagerly first, as compiling may take the time that is left."""
    mamba, attention = configs(sizes.name, **dict(sizes.fields))
    eager = [
        Trained(sizes.name, mamba),
        Trained(f"{sizes.name}, scan left out", mamba, left_out=True),
        Trained("self-attention", attention),
    ]
    return eager + [Trained(f"{each.name}, compiled", *each[1:3], compiled=True) for each in eager]


def training(sizes: TrainingSizes, device: str, emit: Emit) -> None:
    """Time a step of every subject: forward in bfloat16 autocast, cross entropy, backward, clipping, fused AdamW.

    Args:
        sizes: the model and how often.
        device: "cuda", or "cpu" for a rehearsal, in which blocks are traced but no code is made.
        emit: takes each row as soon as it is known: seconds a step, clips a second, bytes at the peak, seconds that
            the first step took; and a check of each compiled model's first loss against the eager one's.
    """
    losses: dict[str, float] = {}
    for subject in trained(sizes):
        try:
            losses[subject.name] = _train(subject, sizes, device, emit)
        except Exception as error:  # of any kind, out of memory and torch.compile's own: the others go on
            emit(Row(GROUP, subject.name, "step", "s", _case(subject, sizes), problem=in_a_line(error)))
            continue
        eager = losses.get(subject.name.removesuffix(", compiled"))
        if subject.compiled and eager is not None:
            gap = abs(losses[subject.name] - eager) / abs(eager) / torch.finfo(torch.bfloat16).eps
            says = f"first loss of {sizes.batch} random clips, beside eager, in eps of bfloat16"
            emit(Check(GROUP, subject.name, "loss", says, gap, ALLOWED))


def _train(subject: Trained, sizes: TrainingSizes, device: str, emit: Emit) -> float:
    """Emit the subject's rows; its first loss."""
    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(sizes.seed)
    with scan_left_out() if subject.left_out else contextlib.nullcontext():
        step = _step(subject, sizes, device)
        first, loss = _timed(step, device)
        case, note = _case(subject, sizes), _note(subject)
        made = "tracing and compiling among it" if subject.compiled else "kernels of Triton compiled among it"
        emit(Row(GROUP, subject.name, "first step", "s", case, (first,), note=made))
        for _ in range(sizes.warm_up):
            step()
        taken = tuple(_timed(step, device)[0] for _ in range(sizes.steps))
    emit(Row(GROUP, subject.name, "step", "s", case, taken, note=note))
    rates = tuple(sizes.batch / seconds for seconds in taken)
    emit(Row(GROUP, subject.name, "throughput", "clips/s", case, rates, note=note))
    if device == "cuda":
        peak = (float(torch.cuda.max_memory_allocated()),)
        emit(
            Row(GROUP, subject.name, "peak memory", "bytes", case, peak, note="weights, states and clips too")
        )
    else:
        emit(Row(GROUP, subject.name, "peak memory", "bytes", case, problem="not measured: not on a GPU"))
    return loss


def _step(subject: Trained, sizes: TrainingSizes, device: str) -> Callable[[], float]:
    """One update of a fresh model on the same clips; it gives the loss."""
    with torch.device(device):
        model = VideoModel(subject.config).train()
    videos = random_clips(subject.config, sizes.batch, device)
    labels = torch.randint(CLASSES, (sizes.batch,), device=device)
    if subject.compiled:
        for layer in model.layers:
            # One artefact serves every block, as they have the same shapes.
            layer.compile(backend="inductor" if device == "cuda" else "aot_eager", dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device):
            loss = F.cross_entropy(model(videos), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def _timed(step: Callable[[], float], device: str) -> tuple[float, float]:
    """Seconds of wall clock of a step, and its loss."""
    synchronised(device)
    start = time.perf_counter()
    loss = step()
    synchronised(device)
    return time.perf_counter() - start, loss


def _case(subject: Trained, sizes: TrainingSizes) -> dict[str, Any]:
    config = subject.config
    return {
        "parameters": parameters(config),
        "batch": sizes.batch,
        "frames": config.num_frames,
        "size": config.image_size,
        "tokens": config.token_layout().length,
        "dtype": "bfloat16 autocast, float32 weights",
    }


def _note(subject: Trained) -> str:
    if not subject.left_out:
        return ""
    said = "every scan answered by its input u; its gate goes too, and no gradient of delta, B and C is taken"
    return said + ("; what only made those is dropped by the compiler" if subject.compiled else "")
