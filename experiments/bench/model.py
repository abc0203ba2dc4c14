"""`model`: a whole model and a training step, each beside the same with its scan left out; on the CPU."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import default_collate

import vmp
from experiments.bench.cases import Case
from experiments.bench.gate import deviation
from experiments.bench.peers import scan_left_out
from experiments.bench.results import Check
from experiments.bench.timing import Call
from experiments.data.clip import ClipDataset
from experiments.runs import RunFolder
from experiments.training.config import TrainConfig
from experiments.training.start import make_model
from experiments.training.state import TrainingState
from vmp.config import ModelConfig, named_config
from vmp.mixer import MambaMixer

WHOLE, WITHOUT = "whole", "scan left out"
ALLOWED = 1000.0
"""Units of eps: what a layer adds is added 24 times over and fed to the next."""
SAYS = {
    WHOLE: "the model as it is: its forward pass without gradients, or one update of vmp_micro on photo-pan by "
    "`experiments.train`, with forward, backward, clipping, AdamW and metrics",
    WITHOUT: "the same with every call of `selective_scan` answered by its input u: linear, convolution and norm "
    "layers, and what is between them; the scan's gate goes with it",
}
NAME, TRAINED = "videomambapro_tiny", "vmp_micro"


@dataclass(frozen=True)
class ModelSizes:
    """What is timed: the fields of `NAME`, and the fields and the batch of `TRAINED`."""

    fields: dict[str, Any] = field(default_factory=dict)
    micro: dict[str, Any] = field(default_factory=dict)
    batch: int = 32
    budget: float = 30.0


_SMALL = {"num_frames": 2, "image_size": 32, "depth": 2, "d_model": 16, "d_state": 4}
SIZES = ModelSizes()
QUICK = ModelSizes(_SMALL, {**_SMALL, "image_size": 16, "tubelet_size": 1}, batch=2, budget=0.05)


def whole_model(sizes: ModelSizes, seed: int) -> tuple[vmp.VideoModel, Tensor]:
    """Return the whole model, and a clip for it."""
    torch.manual_seed(seed)
    model = vmp.create_model(NAME, **sizes.fields).eval()
    return model, torch.randn(_shape(model.config, 1))


def _shape(config: ModelConfig, batch: int) -> tuple[int, ...]:
    return batch, config.channels, config.num_frames, config.image_size, config.image_size


def forward_call(sizes: ModelSizes, seed: int) -> Call:
    """Return a forward pass of the whole model."""
    model, clip = whole_model(sizes, seed)
    return torch.no_grad()(lambda: model(clip))


def training_call(sizes: ModelSizes, seed: int) -> Call:
    """Return an update of the model that is trained, on one batch of its clips."""
    config = TrainConfig(
        model=TRAINED, fields=sizes.micro, steps=100_000, batch_size=sizes.batch, seed=seed, workers=0
    )
    torch.manual_seed(seed)
    model, dataset = make_model(config)
    assert isinstance(dataset, ClipDataset)  # it makes its clips
    videos, labels = default_collate([dataset[index] for index in range(config.batch_size)])
    folder = Path(tempfile.mkdtemp())
    run = RunFolder(folder, config.model_dump(mode="json"))
    state = TrainingState(config, Accelerator(cpu=True), model, run)
    weakref.finalize(state, shutil.rmtree, folder)
    return partial(state.update, videos, labels)


def model_call(subject: str, make: Callable[[ModelSizes, int], Call], sizes: ModelSizes, seed: int) -> Call:
    """Return the call of a subject."""
    call = make(sizes, seed)
    return call if subject == WHOLE else scan_left_out()(call)


def _says(name: str, fields: dict[str, Any], batch: int) -> str:
    config = named_config(name, **fields)
    return f"{name}, {_shape(config, batch)}, {config.token_layout().length} tokens, float32"


@torch.no_grad()
def check(sizes: ModelSizes, seed: int) -> tuple[Check, ...]:
    """Check the logits against the same model in float64 with the specification's scan."""
    model, clip = whole_model(sizes, seed)
    got = model(clip)
    exact = model.double()
    for module in exact.modules():
        if isinstance(module, MambaMixer):
            module.backend = "spec"
    says, gap = _says(NAME, sizes.fields, 1), deviation(got, exact(clip.double()))
    return (Check("gate", WHOLE, "logits", says, gap, ALLOWED),)


def cases(sizes: ModelSizes, seed: int) -> Iterator[Case]:
    """Yield every case."""
    checks = cache(partial(check, sizes, seed))
    whole, micro = _says(NAME, sizes.fields, 1), _says(TRAINED, sizes.micro, sizes.batch)
    for group, quantity, says, make, budget in (
        ("whole model", "forward", whole, forward_call, sizes.budget),
        ("training step", "time", micro, training_call, sizes.budget / 3),
    ):
        for subject in (WHOLE, WITHOUT):
            call = partial(model_call, subject, make, sizes, seed)
            yield Case(group, subject, SAYS[subject], quantity, says, call, checks, budget=budget)
